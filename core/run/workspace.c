/* SPDX-License-Identifier: Apache-2.0 */
/* Workspace: allocates the scratch memory that a policy asks for before each decision. */
#include "core/modules/call.h"
#include "core/run/decide.h"

#define DEVICE_SCRATCH_ALIGN 256u
#define MAX_SCRATCH ((uint64_t)1 << 48)

static int give_host_scratch(struct kvmod_policy *p, struct kvmod_request *r, uint64_t need)
{
	int err = kv_buffer_reserve(p->device, &p->scratch, need);

	r->scratch = p->scratch.memory;
	r->scratch_size = p->scratch.size;
	return err;
}

/* The memory of a device may have a smaller alignment. */
static int give_device_scratch(struct kvmod_policy *p, struct kvmod_request *r, uint64_t need)
{
	struct kv_buffer *buffer = &p->device_scratch;
	uintptr_t gap;
	int err;

	if (need == 0)
		return KVMOD_OK;
	err = kv_buffer_reserve(p->device, buffer, need + DEVICE_SCRATCH_ALIGN - 1);
	if (err)
		return err;
	gap = -(uintptr_t)buffer->memory % DEVICE_SCRATCH_ALIGN;
	r->device_scratch = (char *)buffer->memory + gap;
	r->device_scratch_size = buffer->size - gap;
	return KVMOD_OK;
}

/* Asks the policy about the request that it was handed; *r is the core's own. */
int kv_give_workspace(struct kvmod_policy *p, struct kvmod_request *r)
{
	struct kvmod_workspace need = { .size = sizeof(need) };
	int err;

	r->scratch = r->device_scratch = NULL;
	r->scratch_size = r->device_scratch_size = 0;
	if (!p->ops->workspace)
		return KVMOD_OK;
	p->handed.request = *r;
	err = KV_CALL(p->ops, workspace, p->instance, &p->handed.request, &need);
	/* Absurd sizes would overflow when they are rounded up. */
	if (err == KVMOD_OK && (need.host > MAX_SCRATCH || need.device > MAX_SCRATCH))
		err = kv_fail(KVMOD_ENOMEM, "no memory for %llu bytes of scratch and %llu on the device",
			      (unsigned long long)need.host, (unsigned long long)need.device);
	if (err == KVMOD_OK)
		err = give_host_scratch(p, r, need.host);
	return err == KVMOD_OK ? give_device_scratch(p, r, need.device) : err;
}
