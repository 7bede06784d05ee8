/* SPDX-License-Identifier: Apache-2.0 */
#include "core/bench/device.h"

#define BUSY_BYTES (256u << 20)

bool bench_device_reads(const struct bench_device *d)
{
	return KVMOD_HAS(d->ops, read) && d->ops->read;
}

static bool has_clock(const struct kvmod_device_ops *ops)
{
	return KVMOD_HAS(ops, elapsed) && ops->mark_new && ops->mark_free && ops->mark_set &&
	       ops->elapsed;
}

int bench_device_open(struct bench_device *d, struct kvmod_ctx *ctx, const char *name)
{
	*d = (struct bench_device){ 0 };
	if (kvmod_device_open(ctx, name, &d->device))
		return cli_error_kvmod();
	d->ops = kvmod_device_ops(d->device);
	d->self = kvmod_device_instance(d->device);
	if (!has_clock(d->ops))
		return cli_error("the device %s has no clock to measure with", name);
	if (d->ops->mark_new(d->self, &d->begin) || d->ops->mark_new(d->self, &d->end))
		return cli_error_kvmod();
	return bench_device_reads(d) ? bench_device_alloc(d, BUSY_BYTES, &d->busy) : CLI_OK;
}

void bench_device_close(struct bench_device *d)
{
	if (d->busy)
		d->ops->free(d->self, d->busy);
	if (d->begin)
		d->ops->mark_free(d->self, d->begin);
	if (d->end)
		d->ops->mark_free(d->self, d->end);
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

	if (d->ops->on == KVMOD_ON_CPU)
		return bench_host_free_bytes();
	if (!KVMOD_HAS(d->ops, memory) || !d->ops->memory ||
	    d->ops->memory(d->self, &available, &total))
		return UINT64_MAX;
	return available;
}

int bench_device_alloc(struct bench_device *d, uint64_t bytes, void **memory)
{
	return d->ops->alloc(d->self, bytes, memory) ? cli_error_kvmod() : CLI_OK;
}

/* As a gather of rows that follow one another, and of what is left of a row. */
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
	return d->ops->gather(d->self, NULL, gathers + first, n, sizeof(gathers[0])) ?
	       cli_error_kvmod() : CLI_OK;
}

/* --- time ------------------------------------------------------------------------------ */

int bench_device_begin(struct bench_device *d, uint32_t n_busy)
{
	for (uint32_t i = 0; d->busy && i < n_busy; i++)
		if (d->ops->read(d->self, NULL, d->busy, BUSY_BYTES))
			return cli_error_kvmod();
	return d->ops->mark_set(d->self, NULL, d->begin) ? cli_error_kvmod() : CLI_OK;
}

int bench_device_end(struct bench_device *d, double *ms)
{
	if (d->ops->mark_set(d->self, NULL, d->end) ||
	    d->ops->elapsed(d->self, d->begin, d->end, ms))
		return cli_error_kvmod();
	*ms *= 1e3;
	return CLI_OK;
}

int bench_device_time_read(struct bench_device *d, const void *memory, uint64_t bytes, double *ms)
{
	if (bench_device_begin(d, 1))
		return CLI_FAILED;
	if (d->ops->read(d->self, NULL, memory, bytes))
		return cli_error_kvmod();
	return bench_device_end(d, ms);
}
