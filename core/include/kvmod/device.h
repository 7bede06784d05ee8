/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvmod/device.h - memory other than the host's. The host's own device, "cpu",
 * is built into the core. To the core a device is its name: a module adds a new one,
 * and policies for it, without a change of the core.
 */
#ifndef KVMOD_DEVICE_H
#define KVMOD_DEVICE_H

#include <kvmod/module.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * One compaction: rows of `row_bytes` that lie src_stride apart are gathered
 * into rows dst_stride apart. Either spans (rows begin..end-1, one after the
 * other) or, if spans is NULL, indices. All arrays are on the host; src and dst
 * are on the device. dst may be src: rows only ever move towards the front.
 */
struct kvmod_gather {
	uint32_t size;
	uint32_t n_spans;
	const struct kvmod_span *spans;
	const uint32_t *indices;
	uint64_t n_indices;
	uint64_t row_bytes;
	const void *src;
	void *dst;
	int64_t src_stride, dst_stride;
	/*
	 * That src has; 0: unknown, and a list is looked through for its last row. Where
	 * dst is behind src, it may not begin before the end of these rows.
	 */
	uint64_t n_rows;
};

/*
 * Calls down to gather() are required. Threads: any call may come from any
 * thread, several at once.
 */
struct kvmod_device_ops {
	uint32_t size;
	uint32_t reserved0;
	/* "cuda": what `device` of the INI says. Policies whose `devices` name it run here. */
	const char *name;
	const char *description;
	uint32_t instance_size;
	uint32_t n_params;
	const struct kvmod_param *params;	/* [n_params] */

	int32_t (*open)(void *self);
	void (*close)(void *self);

	int32_t (*alloc)(void *self, uint64_t bytes, void **memory);
	void (*free)(void *self, void *memory);
	/*
	 * Both queue on the stream (NULL: the default one). Host memory may be used
	 * again after from_host(); what to_host() copied is there after synchronize().
	 */
	int32_t (*to_host)(void *self, void *stream, void *host, const void *device, uint64_t bytes);
	int32_t (*from_host)(void *self, void *stream, void *device, const void *host, uint64_t bytes);
	int32_t (*synchronize)(void *self, void *stream);
	/*
	 * All of them in one call, on the stream; the arrays may be used again after it.
	 * KVMOD_EINVAL moves no row; after any other error some rows may have been moved.
	 */
	int32_t (*gather)(void *self, void *stream, const struct kvmod_gather *gathers,
			  uint32_t n_gathers, uint32_t gather_stride);

	/* --- optional ------------------------------------------------------------ */

	/* Bytes of the device's memory that are free, and of all of it. */
	int32_t (*memory)(void *self, uint64_t *free_bytes, uint64_t *total_bytes);

	/* --- optional: memory of the host that work on the device reaches ---------- */

	/*
	 * At the same address; 64-byte aligned. What is written there is seen after
	 * synchronize(), and copies that are queued read it when they run. A policy's
	 * request->scratch is made of it where a device has it, else of plain memory.
	 */
	int32_t (*host_alloc)(void *self, uint64_t bytes, void **memory);
	void (*host_free)(void *self, void *memory);

	/* --- optional: more of what a device can do -------------------------------- */

	/*
	 * A table of further calls by its name (KVMOD_DEVICE_TIMING), or NULL where the
	 * device has no such table. The table is valid as long as the device is open;
	 * its calls take the device's self.
	 */
	const void *(*get_extension)(void *self, const char *name);
};

/*
 * Measuring on the device itself: the extension KVMOD_DEVICE_TIMING. read() is
 * optional (NULL: no read to compare with); the other calls are required. Threads: as
 * above, but one thread at a time uses a mark.
 */
#define KVMOD_DEVICE_TIMING "kvmod.device.timing/1"

struct kvmod_device_timing {
	uint32_t size;
	uint32_t reserved;
	/* Queues one read of `bytes` bytes (a multiple of 16), as fast as the device reads. */
	int32_t (*read)(void *self, void *stream, const void *memory, uint64_t bytes);
	/*
	 * A mark is a point on a stream. mark_set() queues the mark; elapsed() waits for
	 * `end` and gives the seconds from begin to end by the device's own clock.
	 */
	int32_t (*mark_new)(void *self, void **mark);
	void (*mark_free)(void *self, void *mark);
	int32_t (*mark_set)(void *self, void *stream, void *mark);
	int32_t (*elapsed)(void *self, void *begin, void *end, double *seconds);
};

#ifdef __cplusplus
}
#endif
#endif
