/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Devices: a context opens each once, and closes it with the last holder. The
 * host's own, "cpu", is one like any other.
 */
#include "core/parts.h"
#include "core/policy.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cpu/gather.h"

struct kvmod_device {
	struct kvmod_device *next;
	struct kvmod_ctx *ctx;
	struct kv_provider *provider;
	const struct kvmod_device_ops *ops;
	void *instance;
	unsigned refs;
};

/* --- their names ------------------------------------------------------------------- */

static const struct {
	const char *name;
	uint32_t on;
} names[] = {
	{ "cpu", KVMOD_ON_CPU },
	{ "cuda", KVMOD_ON_CUDA },
};

uint32_t kv_device_bit(const char *name)
{
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (strcmp(name, names[i].name) == 0)
			return names[i].on;
	return 0;
}

uint32_t kv_devices_known(void)
{
	uint32_t on = 0;

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		on |= names[i].on;
	return on;
}

const char *kv_device_name(uint32_t on)
{
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (on & names[i].on)
			return names[i].name;
	return NULL;
}

/* --- opening ------------------------------------------------------------------------ */

static struct kvmod_device *find_open(struct kvmod_ctx *ctx, const struct kv_provider *provider)
{
	struct kvmod_device *d = ctx->devices;

	while (d && d->provider != provider)
		d = d->next;
	return d;
}

static int start(struct kvmod_device *d)
{
	int err = kv_instance_new(d->ctx, d->provider, &d->instance);

	if (err)
		return err;
	kv_fail(KVMOD_OK, "%s", "");
	err = d->ops->open(d->instance);
	if (err) {
		kv_failed(err, "device", d->ops->name);
		kv_instance_free(d->instance);
	}
	return err;
}

/* Its reference to the provider stays as long as it is open. NULL: *err says why. */
static struct kvmod_device *open_new(struct kvmod_ctx *ctx, struct kv_provider *provider, int *err)
{
	struct kvmod_device *d = calloc(1, sizeof(*d));

	if (!d) {
		*err = kv_no_memory();
		return NULL;
	}
	d->ctx = ctx;
	d->provider = provider;
	d->ops = provider->ops;
	*err = start(d);
	if (*err) {
		free(d);
		return NULL;
	}
	provider->refs++;
	d->next = ctx->devices;
	ctx->devices = d;
	return d;
}

int kv_device_take(struct kvmod_ctx *ctx, const char *name, struct kvmod_device **out)
{
	struct kv_provider *provider;
	struct kvmod_device *d;
	int err = kv_provider_take(ctx, KV_DEVICE, name, 0, &provider);

	if (err)
		return err;
	d = find_open(ctx, provider);
	if (!d)
		d = open_new(ctx, provider, &err);
	provider->refs--;
	if (!d)
		return err;
	d->refs++;
	*out = d;
	return KVMOD_OK;
}

void kv_device_drop(struct kvmod_device *d)
{
	struct kvmod_device **link = &d->ctx->devices;

	if (--d->refs > 0)
		return;
	while (*link != d)
		link = &(*link)->next;
	*link = d->next;
	d->ops->close(d->instance);
	kv_instance_free(d->instance);
	d->provider->refs--;
	free(d);
}

int kvmod_device_open(struct kvmod_ctx *ctx, const char *name, struct kvmod_device **out)
{
	int err;

	pthread_mutex_lock(&ctx->lock);
	err = kv_device_take(ctx, name, out);
	if (err == KVMOD_OK)
		kvmod_ref(ctx);
	pthread_mutex_unlock(&ctx->lock);
	return err;
}

void kvmod_device_close(struct kvmod_device *d)
{
	struct kvmod_ctx *ctx;

	if (!d)
		return;
	ctx = d->ctx;
	pthread_mutex_lock(&ctx->lock);
	kv_device_drop(d);
	pthread_mutex_unlock(&ctx->lock);
	kvmod_unref(ctx);
}

const struct kvmod_device_ops *kvmod_device_ops(const struct kvmod_device *d)
{
	return d->ops;
}

void *kvmod_device_instance(const struct kvmod_device *d)
{
	return d->instance;
}

/* --- held by modules ----------------------------------------------------------------- */

struct kv_held {
	struct kv_held *next;
	struct kvmod_device *device;
};

static struct kvmod_device *find_held(const struct kv_module *module, const char *name)
{
	for (const struct kv_held *h = module->held; h; h = h->next)
		if (kv_name_eq(h->device->ops->name, name))
			return h->device;
	return NULL;
}

int kv_module_device(struct kv_module *module, const char *name, struct kvmod_device **out)
{
	struct kv_held *held;
	int err;

	name = kv_config_alias(module->ctx->config, name);
	*out = find_held(module, name);
	if (*out)
		return KVMOD_OK;
	held = kv_pile_alloc(&module->pile, sizeof(*held));
	if (!held)
		return KVMOD_ENOMEM;
	err = kv_device_take(module->ctx, name, out);
	if (err)
		return err;
	held->device = *out;
	held->next = module->held;
	module->held = held;
	return KVMOD_OK;
}

void kv_module_drop_devices(struct kv_module *module)
{
	for (struct kv_held *h = module->held; h; h = h->next)
		kv_device_drop(h->device);
	module->held = NULL;
}

bool kv_accelerator_is_open(const struct kvmod_ctx *ctx)
{
	for (const struct kvmod_device *d = ctx->devices; d; d = d->next)
		if (!(d->ops->on & KVMOD_ON_CPU))
			return true;
	return false;
}

bool kv_device_is_own(const struct kv_module *module, const struct kv_provider *provider)
{
	const struct kvmod_device *d = find_open(module->ctx, provider);

	return d && d->refs == 1 && find_held(module, d->ops->name) == d;
}

/* --- used by policies ------------------------------------------------------------------ */

int kv_device_failed(const struct kvmod_device *device, int err)
{
	return kv_failed(err, "device", device->ops->name);
}

int kv_device_wait(struct kvmod_device *device, void *stream)
{
	int err = device->ops->synchronize(device->instance, stream);

	return err ? kv_device_failed(device, err) : err;
}

/* --- buffers ----------------------------------------------------------------------------- */

#define CPU_ALIGN 256u

static int32_t cpu_alloc(void *self, uint64_t bytes, void **memory)
{
	(void)self;
	if (bytes > SIZE_MAX - CPU_ALIGN)
		return kv_no_memory();
	*memory = aligned_alloc(CPU_ALIGN, (bytes + CPU_ALIGN - 1) / CPU_ALIGN * CPU_ALIGN);
	return *memory ? KVMOD_OK : kv_no_memory();
}

static void cpu_free(void *self, void *memory)
{
	(void)self;
	free(memory);
}

struct giver {
	int32_t (*alloc)(void *self, uint64_t bytes, void **memory);
	void (*free)(void *self, void *memory);
};

/* Who gives a buffer its memory; of the host's a device may have some within its reach. */
static struct giver giver_of(const struct kvmod_device *device, const struct kv_buffer *buffer)
{
	const struct kvmod_device_ops *ops = device->ops;

	if (!buffer->on_host)
		return (struct giver){ ops->alloc, ops->free };
	if (KVMOD_HAS(ops, host_free) && ops->host_alloc && ops->host_free)
		return (struct giver){ ops->host_alloc, ops->host_free };
	return (struct giver){ cpu_alloc, cpu_free };
}

static int alloc_buffer(struct kvmod_device *device, struct kv_buffer *buffer, uint64_t bytes)
{
	struct giver giver = giver_of(device, buffer);
	int err = giver.alloc(device->instance, bytes, &buffer->memory);

	if (!err)
		return KVMOD_OK;
	buffer->memory = NULL;
	if (buffer->on_host && giver.alloc == cpu_alloc)
		return kv_fail(err, "no memory for %llu bytes of scratch", (unsigned long long)bytes);
	return kv_device_failed(device, err);
}

/* What has to grow will grow again, and gets more than it asks for if there is more. */
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
		giver_of(device, buffer).free(device->instance, buffer->memory);
	*buffer = (struct kv_buffer){ .on_host = buffer->on_host };
}

/* --- the host's own -------------------------------------------------------------------- */

static int32_t cpu_open(void *self)
{
	(void)self;
	return KVMOD_OK;
}

static void cpu_close(void *self)
{
	(void)self;
}

static int32_t cpu_to_host(void *self, void *stream, void *host, const void *device, uint64_t bytes)
{
	(void)self;
	(void)stream;
	memmove(host, device, bytes);
	return KVMOD_OK;
}

static int32_t cpu_from_host(void *self, void *stream, void *device, const void *host,
			     uint64_t bytes)
{
	return cpu_to_host(self, stream, device, host, bytes);
}

static int32_t cpu_synchronize(void *self, void *stream)
{
	(void)self;
	(void)stream;
	return KVMOD_OK;
}

static int32_t cpu_gather(void *self, void *stream, const struct kvmod_gather *gathers,
			  uint32_t n_gathers, uint32_t gather_stride)
{
	(void)self;
	(void)stream;
	for (uint32_t i = 0; i < n_gathers; i++)
		kv_cpu_gather(KVMOD_AT(const struct kvmod_gather, gathers, gather_stride, i));
	return KVMOD_OK;
}

/* Nothing is queued here, so a mark is the time at which it is set. */
static int32_t cpu_mark_new(void *self, void **mark)
{
	(void)self;
	*mark = calloc(1, sizeof(struct timespec));
	return *mark ? KVMOD_OK : kv_no_memory();
}

static void cpu_mark_free(void *self, void *mark)
{
	(void)self;
	free(mark);
}

static int32_t cpu_mark_set(void *self, void *stream, void *mark)
{
	(void)self;
	(void)stream;
	clock_gettime(CLOCK_MONOTONIC, mark);
	return KVMOD_OK;
}

static int32_t cpu_elapsed(void *self, void *begin, void *end, double *seconds)
{
	const struct timespec *from = begin, *to = end;

	(void)self;
	*seconds = (double)(to->tv_sec - from->tv_sec) + 1e-9 * (double)(to->tv_nsec - from->tv_nsec);
	return KVMOD_OK;
}

static const void *cpu_get_extension(void *self, const char *name)
{
	static const struct kvmod_device_timing timing = {
		.size = sizeof(timing),
		.mark_new = cpu_mark_new,
		.mark_free = cpu_mark_free,
		.mark_set = cpu_mark_set,
		.elapsed = cpu_elapsed,
	};

	(void)self;
	return strcmp(name, KVMOD_DEVICE_TIMING) == 0 ? &timing : NULL;
}

const struct kvmod_device_ops kv_cpu_device_ops = {
	.size = sizeof(kv_cpu_device_ops),
	.on = KVMOD_ON_CPU,
	.name = "cpu",
	.description = "the host's own memory",
	.instance_size = sizeof(struct kvmod_instance),
	.open = cpu_open,
	.close = cpu_close,
	.alloc = cpu_alloc,
	.free = cpu_free,
	.to_host = cpu_to_host,
	.from_host = cpu_from_host,
	.synchronize = cpu_synchronize,
	.gather = cpu_gather,
	.get_extension = cpu_get_extension,
};
