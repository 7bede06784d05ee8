/* SPDX-License-Identifier: Apache-2.0 */
/* A made-up cache as large as a real one, and the rivals that decisions are compared with. */
#ifndef KV_CORE_BENCH_CACHE_H
#define KV_CORE_BENCH_CACHE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kvmod/kvmod.h>

#include "core/run/describe.h"

struct bench_shape {
	uint32_t n_layers, n_q_heads, n_kv_heads, head_dim;
	uint32_t n_sequences;
	uint32_t type;			/* of K and V */
};

static inline uint32_t bench_segments(const struct bench_shape *s)
{
	return s->n_layers * s->n_sequences;
}

struct bench_cache {
	struct kv_described d;		/* all layers of all sequences */
	void *k, *v;			/* [sequence][layer][KV head][n][head_dim] */
	float *q, *extra;		/* shared by all segments; extra NULL: not needed */
	size_t k_bytes;			/* of all segments */
};

struct kvmod_model bench_model(const struct bench_shape *shape, uint64_t context);

/* Bytes that bench_cache_make() allocates: K and V, and what all segments share. */
size_t bench_cache_bytes(const struct bench_shape *shape, uint32_t n,
			 const struct kvmod_needs *needs);
/*
 * Builds n positions of every layer, and what `needs` asks for. A few keys are similar
 * to the queries, as in real caches, so that a policy has something to find. False:
 * out of memory.
 */
bool bench_cache_make(struct bench_cache *c, const struct bench_shape *shape, uint32_t n,
		      const struct kvmod_needs *needs);
void bench_cache_free(struct bench_cache *c);

/* Bytes of K alone, of q and of extra. */
size_t bench_k_bytes(const struct bench_shape *shape, uint32_t n);
size_t bench_q_bytes(const struct bench_shape *shape, uint32_t n, const struct kvmod_needs *needs);
size_t bench_extra_bytes(const struct bench_shape *shape, uint32_t n,
			 const struct kvmod_needs *needs);
/*
 * Builds the request for a cache whose k, v, q and extra are set, in any memory.
 * False: out of memory. kv_undescribe(&c->d) frees what it took.
 */
bool bench_cache_describe(struct bench_cache *c, const struct bench_shape *shape, uint32_t n,
			  const struct kvmod_needs *needs);

/* --- rivals on the host, policies that keep everything ------------------------------- */

/* "plain-read": the sum of all bytes of K. */
extern const struct kvmod_module bench_read_module;
/*
 * "plain-product": all queries of the request times K, by the kernels that our policies
 * use. "plain-peak": BENCH_PEAK_MACS multiply-adds in registers.
 */
extern const struct kvmod_module bench_product_module;
#define BENCH_MAX_DIM	1024		/* of a head */
#define BENCH_PEAK_MACS	((uint64_t)1 << 28)

/* Multiply-adds of the product, for all segments and `rows` rows of queries. */
static inline double bench_macs(const struct bench_shape *s, uint32_t n, uint32_t rows)
{
	return (double)bench_segments(s) * s->n_q_heads * rows * n * s->head_dim;
}

/* What a rival does with positions begin .. end-1 of KV head g; a number that depends on it. */
typedef uint64_t bench_piece_fn(const struct kvmod_segment *s, uint32_t g, uint32_t begin,
				uint32_t end);
/* All pieces of a request, over the host's threads; adds up what they return. */
void bench_each_piece(const struct kvmod_host *host, const struct kvmod_request *request,
		      bench_piece_fn *fn, atomic_ullong *sum);

#endif
