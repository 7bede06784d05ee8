/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvmod/device.h - memory other than the host's. The host's own device, "cpu",
 * is built into the core. The core knows a device by its name alone, so a module can
 * add a new device, and policies for it, without a change to the core.
 */
#ifndef KVMOD_DEVICE_H
#define KVMOD_DEVICE_H

#include <kvmod/module.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * One compaction: gathers rows of `row_bytes` bytes, src_stride apart, into rows
 * dst_stride apart. `spans` selects the rows (begin..end-1, one span after the
 * other); if spans is NULL, `indices` does. All arrays are on the host; src and dst
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
	 * The number of rows of src. 0: unknown; the device then searches a list of
	 * indices for its last row. If dst is after src, it must not begin before the end
	 * of these rows.
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
	/* "cuda": the name in `[kvmod] device`. Policies whose `devices` list it run here. */
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
	 * Both queue a copy on the stream (NULL: the default stream). Host memory may be
	 * reused after from_host(); the result of to_host() is there after synchronize().
	 */
	int32_t (*to_host)(void *self, void *stream, void *host, const void *device, uint64_t bytes);
	int32_t (*from_host)(void *self, void *stream, void *device, const void *host, uint64_t bytes);
	int32_t (*synchronize)(void *self, void *stream);
	/*
	 * Queues all gathers on the stream; the arrays may be reused after the call.
	 * KVMOD_EINVAL: no row was moved. After any other error some rows may have been
	 * moved.
	 */
	int32_t (*gather)(void *self, void *stream, const struct kvmod_gather *gathers,
			  uint32_t n_gathers, uint32_t gather_stride);

	/* --- optional ------------------------------------------------------------ */

	/* The device's memory in bytes: free, and in total. */
	int32_t (*memory)(void *self, uint64_t *free_bytes, uint64_t *total_bytes);

	/* --- optional: host memory that the device can access ----------------------- */

	/*
	 * The device uses the same address; 64-byte aligned. The host sees what the device
	 * wrote there after synchronize(). Queued copies read the memory when they run, not
	 * when they are queued. A policy's request->scratch is such memory if the device
	 * offers it, else plain memory.
	 */
	int32_t (*host_alloc)(void *self, uint64_t bytes, void **memory);
	void (*host_free)(void *self, void *memory);

	/* --- optional: extensions ---------------------------------------------------- */

	/*
	 * Returns a table of further calls by its name (KVMOD_DEVICE_TIMING), or NULL if
	 * the device has no such table. The table is valid as long as the device is open;
	 * its calls take the device's self.
	 */
	const void *(*get_extension)(void *self, const char *name);
};

/*
 * Timing by the device's own clock: the extension KVMOD_DEVICE_TIMING. read() is
 * optional (NULL: no read to compare with); the other calls are required. Threads: as
 * above, but only one thread at a time may use a mark.
 */
#define KVMOD_DEVICE_TIMING "kvmod.device.timing/1"

struct kvmod_device_timing {
	uint32_t size;
	uint32_t reserved;
	/* Queues one read of `bytes` bytes (a multiple of 16), at the device's full speed. */
	int32_t (*read)(void *self, void *stream, const void *memory, uint64_t bytes);
	/*
	 * A mark is a point on a stream. mark_set() queues the mark; elapsed() waits for
	 * `end` and returns the seconds from begin to end.
	 */
	int32_t (*mark_new)(void *self, void **mark);
	void (*mark_free)(void *self, void *mark);
	int32_t (*mark_set)(void *self, void *stream, void *mark);
	int32_t (*elapsed)(void *self, void *begin, void *end, double *seconds);
};

/*
 * What engines compute for policies while a prompt runs: the extension
 * KVMOD_DEVICE_ATTENTION. Threads: as above. Both calls queue their work on the stream
 * (NULL: the default stream); the arrays of structs may be reused after the call.
 */
#define KVMOD_DEVICE_ATTENTION "kvmod.device.attention/1"

#define KVMOD_COLUMNS_SUM	0u	/* out[h][i] += what all rows pay; h: query head of the group */
#define KVMOD_COLUMNS_MAX	1u	/* out[i] = the largest of out[i] and what any row and head pays */

/*
 * The attention that rows of queries pay to the positions of one KV head, reduced over
 * the rows. Addresses are on the device. Row r sees the oldest n_seen + r positions, at
 * most n. Its softmax is over those of them that the spans name; only for these
 * positions `out` changes. A row that sees none of them pays nothing.
 */
struct kvmod_columns {
	uint32_t size;
	uint32_t reduce;		/* KVMOD_COLUMNS_... */
	uint32_t n, n_rows;
	uint32_t group, head_dim;	/* query heads that share the KV head */
	uint32_t n_seen;		/* by row 0; 1 or more */
	uint32_t n_spans;		/* 0: all positions */
	struct kvmod_span spans[4];	/* ascending, disjoint */
	struct kvmod_view k;		/* [n][head_dim]; not rotated */
	struct kvmod_view q;		/* f32 [n_rows][group][head_dim]: stride, head_stride */
	float scale, softcap;		/* as in kvmod_segment */
	float *out;			/* KVMOD_COLUMNS_SUM: [group][n]; _MAX: [n] */
	int64_t out_stride;		/* floats from one query head to the next */
};

/*
 * |Wo v|_1 of rows of values of one KV head: for query head h of its group
 * out[h * out_stride + i] = the sum over e of |sum over d of wo[e][h][d] * v[i][d]|.
 */
struct kvmod_norms {
	uint32_t size;
	uint32_t n;			/* rows of v */
	uint32_t group, head_dim;
	uint32_t n_out;			/* rows e of wo */
	uint32_t reserved;
	struct kvmod_view v;		/* [n][head_dim]; not rotated */
	/* f16 [n_out][group][head_dim], of one KV head; stride in bytes from row to row */
	struct kvmod_view wo;
	float *out;
	int64_t out_stride;		/* floats from one query head to the next */
};

struct kvmod_device_attention {
	uint32_t size;
	uint32_t reserved;
	/*
	 * Bytes of scratch memory, on the device and 16-byte aligned, that a call with these
	 * jobs needs; 0 also for jobs that columns() refuses.
	 */
	uint64_t (*columns_scratch)(void *self, const struct kvmod_columns *jobs, uint32_t n_jobs,
				    uint32_t stride);
	/*
	 * All of one call have the same head_dim, group, type of K, scale and softcap, and no
	 * two have the same `out`. KVMOD_EINVAL or KVMOD_ENOTSUP: nothing was queued.
	 */
	int32_t (*columns)(void *self, void *stream, const struct kvmod_columns *jobs,
			   uint32_t n_jobs, uint32_t stride, void *scratch);
	int32_t (*norms)(void *self, void *stream, const struct kvmod_norms *jobs,
			 uint32_t n_jobs, uint32_t stride);
};

#ifdef __cplusplus
}
#endif
#endif
