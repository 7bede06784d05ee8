/* SPDX-License-Identifier: Apache-2.0 */
/* A device that is measured by its own clock, and made-up caches in its memory. */
#ifndef KVMOD_CLI_BENCH_DEVICE_H
#define KVMOD_CLI_BENCH_DEVICE_H

#include "core/bench/cache.h"
#include "core/cli/cli.h"

/* Calls of this file return CLI_OK, or CLI_FAILED after the reason was printed. */

struct bench_device {
	struct kvmod_device *device;
	const struct kvmod_device_ops *ops;
	void *self;
	void *begin, *end;		/* marks */
	void *busy;			/* memory to read before something is timed; or NULL */
};

/* For what must be timed. All calls queue on its default stream. */
int bench_device_open(struct bench_device *d, struct kvmod_ctx *ctx, const char *name);
void bench_device_close(struct bench_device *d);

bool bench_device_reads(const struct bench_device *d);
/* What can be allocated; UINT64_MAX where nothing says so. */
uint64_t bench_device_free_bytes(const struct bench_device *d);
/* The same of the host. */
uint64_t bench_host_free_bytes(void);

int bench_device_alloc(struct bench_device *d, uint64_t bytes, void **memory);
int bench_device_copy(struct bench_device *d, void *to, const void *from, uint64_t bytes);

/*
 * What is queued between the two is timed. It is queued while the device still
 * reads other memory, so that it waits for the device and not for the host;
 * n_busy: how many such reads (of 256 MiB) it takes.
 */
int bench_device_begin(struct bench_device *d, uint32_t n_busy);
int bench_device_end(struct bench_device *d, double *ms);
/* One plain read, timed so. */
int bench_device_time_read(struct bench_device *d, const void *memory, uint64_t bytes, double *ms);

/* --- caches there (bench_place.c) ------------------------------------------------------ */

/*
 * Copies of one cache, taken in turn: each is read only when more than any
 * processor's own memory holds was read since.
 */
#define BENCH_MAX_COPIES 64
struct bench_place {
	struct bench_device *device;
	uint32_t n_copies, next;
	void *q, *extra;		/* one for all */
	struct bench_cache copies[BENCH_MAX_COPIES];
};

/*
 * Bytes of the least that bench_place_make() needs of the device, and of the host:
 * no more segments are made there than it takes to fill about a gibibyte, and
 * those are repeated.
 */
uint64_t bench_place_bytes(const struct bench_shape *s, uint32_t n,
			   const struct kvmod_needs *needs, uint64_t *host);
/* spare: what is to be left of the device's memory. Free it in any case. */
int bench_place_make(struct bench_place *p, struct bench_device *d, const struct bench_shape *s,
		     uint32_t n, const struct kvmod_needs *needs, uint64_t spare);
void bench_place_free(struct bench_place *p);
struct bench_cache *bench_place_next(struct bench_place *p);

#endif
