/* SPDX-License-Identifier: Apache-2.0 */
/* The host as a device, "cpu": every call does its work at once, without a queue. */
#include "core/run/builtin.h"
#include "core/base/names.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/memory.h"
#include "kernels/cpu/gather.h"

#define CPU_ALIGN 256u

int32_t kv_host_alloc(void *self, uint64_t bytes, void **memory)
{
	(void)self;
	if (bytes > SIZE_MAX - CPU_ALIGN)
		return kv_no_memory();
	*memory = aligned_alloc(CPU_ALIGN, (bytes + CPU_ALIGN - 1) / CPU_ALIGN * CPU_ALIGN);
	return *memory ? KVMOD_OK : kv_no_memory();
}

void kv_host_free(void *self, void *memory)
{
	(void)self;
	free(memory);
}

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

/* There is no queue, so a mark is simply the time at which it was set. */
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
	.name = KV_CPU,
	.description = "the host's own memory",
	.instance_size = sizeof(struct kvmod_instance),
	.open = cpu_open,
	.close = cpu_close,
	.alloc = kv_host_alloc,
	.free = kv_host_free,
	.to_host = cpu_to_host,
	.from_host = cpu_from_host,
	.synchronize = cpu_synchronize,
	.gather = cpu_gather,
	.get_extension = cpu_get_extension,
};
