/* SPDX-License-Identifier: Apache-2.0 */
/* Measures a device by its own clock, and allocates and copies in its memory. */
#include "core/bench/device.h"

#include <string.h>

#define BUSY_BYTES (256u << 20)

int bench_device_called(const struct bench_device *d, const char *call, int32_t code)
{
	if (code == KVMOD_OK)
		return CLI_OK;
	if (*kvmod_error())
		return cli_error_kvmod();
	return cli_error("device %s: %s() failed: %s", d->ops->name, call, kvmod_strerror(code));
}

bool bench_device_reads(const struct bench_device *d)
{
	return d->timing->read;
}

/* NULL, unless all calls of the clock are there. */
static const struct kvmod_device_timing *timing_of(const struct kvmod_device_ops *ops, void *self)
{
	const struct kvmod_device_timing *t = NULL;

	if (KVMOD_HAS(ops, get_extension) && ops->get_extension)
		t = ops->get_extension(self, KVMOD_DEVICE_TIMING);
	return t && KVMOD_HAS(t, elapsed) && t->mark_new && t->mark_free && t->mark_set && t->elapsed ?
	       t : NULL;
}

int bench_device_open(struct bench_device *d, struct kvmod_ctx *ctx, const char *name)
{
	*d = (struct bench_device){ 0 };
	if (kvmod_device_open(ctx, name, &d->device))
		return cli_error_kvmod();
	d->ops = kvmod_device_ops(d->device);
	d->self = kvmod_device_instance(d->device);
	d->timing = timing_of(d->ops, d->self);
	if (!d->timing)
		return cli_error("the device %s has no clock to measure with", name);
	if (BENCH_CALL(d, timing, mark_new, &d->begin) || BENCH_CALL(d, timing, mark_new, &d->end))
		return CLI_FAILED;
	return bench_device_reads(d) ? bench_device_alloc(d, BUSY_BYTES, &d->busy) : CLI_OK;
}

void bench_device_close(struct bench_device *d)
{
	if (d->busy)
		d->ops->free(d->self, d->busy);
	if (d->begin)
		d->timing->mark_free(d->self, d->begin);
	if (d->end)
		d->timing->mark_free(d->self, d->end);
	kvmod_device_close(d->device);
	*d = (struct bench_device){ 0 };
}

/* --- memory -------------------------------------------------------------------------- */

uint64_t bench_host_free_bytes(void)
{
	FILE *f = fopen("/proc/meminfo", "re");
	unsigned long long kib = UINT64_MAX >> 10;
	char line[128];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return (uint64_t)kib << 10;
}

uint64_t bench_device_free_bytes(const struct bench_device *d)
{
	uint64_t available, total;

	if (strcmp(d->ops->name, CLI_BUILT_IN_DEVICE) == 0)
		return bench_host_free_bytes();
	if (!KVMOD_HAS(d->ops, memory) || !d->ops->memory ||
	    d->ops->memory(d->self, &available, &total))
		return UINT64_MAX;
	return available;
}

int bench_device_alloc(struct bench_device *d, uint64_t bytes, void **memory)
{
	if (BENCH_CALL(d, ops, alloc, bytes, memory))
		return CLI_FAILED;
	return *memory ? CLI_OK : cli_error("device %s: alloc() gave no memory for %llu bytes",
					    d->ops->name, (unsigned long long)bytes);
}

/* A gather of adjacent rows, and of the part of a row that is left over. */
int bench_device_copy(struct bench_device *d, void *to, const void *from, uint64_t bytes)
{
	uint64_t row = 4096, whole = bytes / row * row;
	const struct kvmod_span rows = { .end = (uint32_t)(whole / row) }, rest = { .end = 1 };
	struct kvmod_gather gathers[] = {
		{ .spans = &rows, .row_bytes = row, .src = from, .dst = to },
		{ .spans = &rest, .row_bytes = bytes - whole, .src = (const char *)from + whole,
		  .dst = (char *)to + whole },
	};
	uint32_t first = whole ? 0 : 1, n = (whole > 0) + (whole < bytes);

	for (size_t i = 0; i < CLI_COUNT(gathers); i++) {
		gathers[i].size = sizeof(gathers[i]);
		gathers[i].n_spans = 1;
		gathers[i].src_stride = gathers[i].dst_stride = (int64_t)gathers[i].row_bytes;
	}
	return BENCH_CALL(d, ops, gather, NULL, gathers + first, n, sizeof(gathers[0]));
}

/* --- time ------------------------------------------------------------------------------ */

int bench_device_begin(struct bench_device *d, uint32_t n_busy)
{
	for (uint32_t i = 0; d->busy && i < n_busy; i++)
		if (BENCH_CALL(d, timing, read, NULL, d->busy, BUSY_BYTES))
			return CLI_FAILED;
	return BENCH_CALL(d, timing, mark_set, NULL, d->begin);
}

int bench_device_end(struct bench_device *d, double *ms)
{
	if (BENCH_CALL(d, timing, mark_set, NULL, d->end) ||
	    BENCH_CALL(d, timing, elapsed, d->begin, d->end, ms))
		return CLI_FAILED;
	*ms *= 1e3;
	return CLI_OK;
}

int bench_device_time_read(struct bench_device *d, const void *memory, uint64_t bytes, double *ms)
{
	if (bench_device_begin(d, 1) || BENCH_CALL(d, timing, read, NULL, memory, bytes))
		return CLI_FAILED;
	return bench_device_end(d, ms);
}
