/* SPDX-License-Identifier: Apache-2.0 */
/* Measures a device by its own clock, and places made-up caches in its memory. */
#ifndef KV_CORE_BENCH_DEVICE_H
#define KV_CORE_BENCH_DEVICE_H

#include "core/bench/cache.h"
#include "core/cli/cli.h"

/* Calls of this file return CLI_OK, or CLI_FAILED after the reason was printed. */

struct bench_device {
	struct kvmod_device *device;
	const struct kvmod_device_ops *ops;
	const struct kvmod_device_timing *timing;
	void *self;
	void *begin, *end;		/* marks */
	void *busy;			/* memory that is read before a timed part; or NULL */
};

/* Opens a device that has a clock. All calls queue on its default stream. */
int bench_device_open(struct bench_device *d, struct kvmod_ctx *ctx, const char *name);
void bench_device_close(struct bench_device *d);

/*
 * d->ops->call(self, ...), or of d->timing. A device that fails without a word is not
 * blamed with an earlier failure's: the call and the code are named.
 */
#define BENCH_CALL(d, table, call, ...) \
	(kvmod_error_forget(), \
	 bench_device_called(d, #call, (d)->table->call((d)->self, __VA_ARGS__)))
int bench_device_called(const struct bench_device *d, const char *call, int32_t code);

bool bench_device_reads(const struct bench_device *d);
/* Bytes that can be allocated; UINT64_MAX if the device cannot tell. */
uint64_t bench_device_free_bytes(const struct bench_device *d);
/* The same of the host. */
uint64_t bench_host_free_bytes(void);

int bench_device_alloc(struct bench_device *d, uint64_t bytes, void **memory);
int bench_device_copy(struct bench_device *d, void *to, const void *from, uint64_t bytes);

/*
 * Times the work that is queued between the two calls. The device reads other memory
 * while the host queues the work, so that the work never waits for the host. n_busy:
 * how many such reads (of 256 MiB) come first.
 */
int bench_device_begin(struct bench_device *d, uint32_t n_busy);
int bench_device_end(struct bench_device *d, double *ms);
/* Times one plain read in this way. */
int bench_device_time_read(struct bench_device *d, const void *memory, uint64_t bytes, double *ms);

/* --- caches on the device (bench_place.c) ------------------------------------------------ */

/*
 * Copies of one cache, taken in turn: between two reads of a copy the device reads
 * more than its own cache holds.
 */
#define BENCH_MAX_COPIES 64
struct bench_place {
	struct bench_device *device;
	uint32_t n_copies, next;
	void *q, *extra;		/* shared by all copies */
	struct bench_cache copies[BENCH_MAX_COPIES];
};

/*
 * The least number of bytes that bench_place_make() needs on the device and, in *host,
 * on the host. The host makes segments of about one gibibyte at most, and the device
 * repeats them.
 */
uint64_t bench_place_bytes(const struct bench_shape *s, uint32_t n,
			   const struct kvmod_needs *needs, uint64_t *host);
/* spare: bytes of the device's memory to leave free. Free *p even after a failure. */
int bench_place_make(struct bench_place *p, struct bench_device *d, const struct bench_shape *s,
		     uint32_t n, const struct kvmod_needs *needs, uint64_t spare);
void bench_place_free(struct bench_place *p);
struct bench_cache *bench_place_next(struct bench_place *p);

#endif
