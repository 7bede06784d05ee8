/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ReFreeKV's decision on a GPU where positions are ranked by position: how long a
 * suffix each of many segments (layers x sequences, each of its own length) must keep.
 * One launch decides all segments and reads K from memory once (twice, where the norm
 * is of several rows). Three calls make a decision:
 *
 *	kv_cuda_refreekv_prepare()	checks the segments and computes memory sizes
 *	kv_cuda_refreekv_table()	writes a table on the host, for the caller
 *					to copy to the device on the same stream
 *	kv_cuda_refreekv()		the launch
 *
 * The launch allocates nothing and waits for nothing, so a graph can capture it; it
 * leaves the table as it was, so the graph can be replayed. The same input gives the
 * same bits.
 */
#ifndef KV_KERNELS_CUDA_REFREEKV_REFREEKV_H
#define KV_KERNELS_CUDA_REFREEKV_REFREEKV_H

#include <kvmod/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kv_refreekv_params {
	double threshold;
	uint32_t sinks, recent;
	uint32_t norm_all;		/* 1: the sinks take part in the norm */
	uint32_t rows;			/* the newest rows, at most, that the norm is of */
};

/* The norm of a segment is zero and says nothing, so the segment is kept whole. */
#define KV_REFREEKV_FLAT 1

/* Positions 0 ... sinks - 1 and first ... n - 1 are kept; first is 0 if all are. */
struct kv_refreekv_result {
	uint32_t first, kept;
	int32_t status;			/* 0, KV_REFREEKV_FLAT, KVMOD_ENUMERIC */
	uint32_t reserved;
	double loss;			/* at that cut; NaN with KVMOD_ENUMERIC */
};

struct kv_refreekv_job {
	struct kv_refreekv_params params;
	uint32_t n_segments, n_q_heads, n_kv_heads, head_dim;
	uint32_t k_type, q_type;
	uint32_t aligned;		/* every key begins at a multiple of 16 bytes, 4 if q8_0 */
	uint32_t interleaved;		/* the keys of a position's heads lie side by side */
	uint32_t rows;			/* the most that a segment uses */
	uint32_t n_tiles, n_cells, n_limits;
	float scale, softcap;
	uint64_t n_stats;
	size_t table_bytes, scratch_bytes;
};

/*
 * All segments must have the same heads, dimension, types, scale and softcap; all heads
 * of a segment must have the same number of positions; each segment must have queries.
 * KVMOD_EINVAL or KVMOD_ENOTSUP if not, or if a view is not aligned to its elements.
 */
int kv_cuda_refreekv_prepare(const struct kv_refreekv_params *params,
			     const struct kvmod_segment *const *segments, uint32_t n_segments,
			     struct kv_refreekv_job *job);

/* table: job->table_bytes on the host */
void kv_cuda_refreekv_table(const struct kv_refreekv_job *job,
			    const struct kvmod_segment *const *segments, void *table);

/*
 * table and scratch (job->scratch_bytes, 256-byte aligned) are on the device; results,
 * one for each segment, are in memory that the device can write to; stream is a
 * cudaStream_t. 0; or KVMOD_EDEVICE, and CUDA's last error is the reason.
 */
int kv_cuda_refreekv(const struct kv_refreekv_job *job, void *table, void *scratch,
		     struct kv_refreekv_result *results, void *stream);

#ifdef __cplusplus
}
#endif
#endif
