/* SPDX-License-Identifier: Apache-2.0 */
/* Buffers that are kept and grown: device memory, or host memory that a device can access. */
#include "core/modules/call.h"
#include "core/run/builtin.h"
#include "core/run/policy.h"

int kv_device_failed(const struct kvmod_device *device, int err)
{
	return kv_failed(err, "device", device->ops->name);
}

int kv_device_wait(struct kvmod_device *device, void *stream, int err)
{
	struct kv_error before;
	int waited;

	kv_error_save(&before);
	waited = KV_CALL(device->ops, synchronize, device->instance, stream);
	if (err == KVMOD_OK && waited != KVMOD_OK)
		return kv_device_failed(device, waited);
	kv_error_restore(&before);
	return err;
}

struct giver {
	int32_t (*alloc)(void *self, uint64_t bytes, void **memory);
	void (*free)(void *self, void *memory);
};

/* Who allocates a buffer. A device may offer host memory that it can access. */
static struct giver giver_of(const struct kvmod_device *device, const struct kv_buffer *buffer)
{
	const struct kvmod_device_ops *ops = device->ops;

	if (!buffer->on_host)
		return (struct giver){ ops->alloc, ops->free };
	if (KVMOD_HAS(ops, host_free) && ops->host_alloc && ops->host_free)
		return (struct giver){ ops->host_alloc, ops->host_free };
	return (struct giver){ kv_host_alloc, kv_host_free };
}

static int alloc_buffer(struct kvmod_device *device, struct kv_buffer *buffer, uint64_t bytes)
{
	struct giver giver = giver_of(device, buffer);
	int err = KV_CALL(&giver, alloc, device->instance, bytes, &buffer->memory);

	if (!err && !buffer->memory)
		err = kv_fail(KVMOD_ENOMEM, "alloc() of %llu bytes returned NULL",
			      (unsigned long long)bytes);
	if (!err)
		return KVMOD_OK;
	buffer->memory = NULL;
	if (buffer->on_host && giver.alloc == kv_host_alloc)
		return kv_fail(err, "no memory for %llu bytes of scratch", (unsigned long long)bytes);
	return kv_device_failed(device, err);
}

/* A buffer that grows will probably grow again, so it gets an eighth more if possible. */
int kv_buffer_reserve(struct kvmod_device *device, struct kv_buffer *buffer, uint64_t bytes)
{
	uint64_t room = buffer->size > 0 ? bytes + bytes / 8 : bytes;
	int err;

	if (bytes <= buffer->size)
		return KVMOD_OK;
	kv_buffer_free(device, buffer);
	err = alloc_buffer(device, buffer, room);
	if (err && room > bytes) {
		room = bytes;
		err = alloc_buffer(device, buffer, room);
	}
	if (err == KVMOD_OK)
		buffer->size = room;
	return err;
}

void kv_buffer_free(struct kvmod_device *device, struct kv_buffer *buffer)
{
	if (buffer->memory)
		KV_CALL_VOID(giver_of(device, buffer).free(device->instance, buffer->memory));
	*buffer = (struct kv_buffer){ .on_host = buffer->on_host };
}
