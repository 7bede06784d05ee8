/* SPDX-License-Identifier: Apache-2.0 */
/* A made-up cache as large as a real one, and the pass that decisions are held against. */
#ifndef KVMOD_CLI_BENCH_CACHE_H
#define KVMOD_CLI_BENCH_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kvmod/kvmod.h>

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
	struct kvmod_request request;	/* all layers of all sequences */
	struct kvmod_segment *segments;
	struct kvmod_head *heads;
	void *k, *v;			/* [sequence][layer][KV head][n][head_dim] */
	float *q, *extra;		/* all segments read the same; extra NULL: not needed */
	size_t k_bytes;			/* of all segments */
};

struct kvmod_model bench_model(const struct bench_shape *shape, uint64_t context);

/* Bytes that bench_cache_make() will take: of K and V, and of what all segments share. */
size_t bench_cache_bytes(const struct bench_shape *shape, uint32_t n,
			 const struct kvmod_needs *needs);
/*
 * n positions of every layer and what `needs` asks for. A few keys are like the
 * queries, as they are in real caches, so that a policy has something to find.
 * False: out of memory.
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
 * Makes the request for a cache whose k, v, q and extra are set, wherever that
 * memory is. False: out of memory. Free segments and heads.
 */
bool bench_cache_describe(struct bench_cache *c, const struct bench_shape *shape, uint32_t n,
			  const struct kvmod_needs *needs);

/*
 * The rival, as a policy "plain-read" that keeps everything: the sum of all bytes
 * of K, shared out over the same threads in the same pieces.
 */
extern const struct kvmod_module bench_read_module;

#endif
