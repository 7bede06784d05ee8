/* SPDX-License-Identifier: Apache-2.0 */
/* Made-up caches on a GPU for tests, and ReFreeKV's decision on them in double arithmetic. */
#ifndef KV_TESTS_CUDA_GPU_H
#define KV_TESTS_CUDA_GPU_H

#include <stdbool.h>

#include "core/testkit/random.h"
#include "kernels/cuda/refreekv/refreekv.h"

/* Is there a GPU? If not, prints the reason for which a test is skipped (exit status 77). */
bool gpu_there(void);

/* The shape of a cache's segments, which differ in n alone. */
struct shape {
	uint32_t n_q_heads, n_kv_heads, dim;
	uint32_t k_type, q_type;
	uint32_t rows;			/* of queries */
	uint32_t offset, gap;		/* bytes before the first key; after each key */
	bool interleaved;		/* heads of a position lie side by side */
	float scale, softcap, spread;	/* spread: standard deviation of a query's elements */
};

/* One segment: its memory on the device, and its elements as floats after rounding to their type. */
struct cache {
	struct kvmod_segment segment;
	struct kvmod_head *heads;
	const struct kvmod_head **head_list;	/* of these */
	void *device_k, *device_q;
	char *host_k;
	size_t k_bytes;
	float *k, *q;			/* [n_kv_heads][n][dim], [rows][n_q_heads][dim] */
};

/* Ends the program with the reason if a CUDA call failed. */
#define CUDA(call) cuda_check((call), #call, __FILE__, __LINE__)
void cuda_check(int error, const char *what, const char *file, int line);

/* k and q: values to use, laid out as in struct cache; NULL: normally distributed ones. */
void cache_make(struct cache *c, struct kv_random *r, const struct shape *s, uint32_t n,
		const float *k, const float *q);
void cache_free(struct cache *c);

struct answer {
	uint32_t first, kept;
	int32_t status;
	double *loss;			/* [n + 1]: by first; of the positions in the norm, only those from first on are kept */
	double at_stop;			/* the loss at the cut */
};

void answer_of(const struct cache *c, const struct kv_refreekv_params *p, struct answer *a);

/* A launch with all its memory. */
struct launch {
	struct kv_refreekv_job job;
	void *table, *scratch;
	struct kv_refreekv_result *results, *host;
	struct cache *caches;
};

void launch_make(struct launch *l, const struct kv_refreekv_params *p, struct cache *caches, uint32_t n);
void launch_queue(struct launch *l, void *stream);
void launch_fetch(struct launch *l);
void launch_free(struct launch *l);

#endif
