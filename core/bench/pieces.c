/* SPDX-License-Identifier: Apache-2.0 */
/* A pass over K for the rivals of decisions, shared out over the host's threads. */
#include "core/bench/cache.h"

#define PIECE 1920	/* positions that a thread takes at a time, as many as refreekv */

struct pass {
	const struct kvmod_request *request;
	bench_piece_fn *fn;
	atomic_ullong *sum;
	uint32_t n_pieces, n_kv_heads;	/* the most that a segment has */
};

static void run_piece(void *arg, uint32_t i)
{
	const struct pass *pass = arg;
	const struct kvmod_segment *s =
		kvmod_segment_at(pass->request, i / pass->n_kv_heads / pass->n_pieces);
	uint32_t begin = i / pass->n_kv_heads % pass->n_pieces * PIECE, g = i % pass->n_kv_heads, n;

	if (g >= s->n_kv_heads || begin >= kvmod_head_at(s, g)->n)
		return;
	n = kvmod_head_at(s, g)->n;
	atomic_fetch_add(pass->sum, pass->fn(s, g, begin, n - begin < PIECE ? n : begin + PIECE));
}

void bench_each_piece(const struct kvmod_host *host, const struct kvmod_request *request,
		      bench_piece_fn *fn, atomic_ullong *sum)
{
	struct pass pass = { .request = request, .fn = fn, .sum = sum, .n_pieces = 1, .n_kv_heads = 1 };

	for (uint32_t i = 0; i < request->n_segments; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(request, i);
		uint32_t n_pieces = (kvmod_longest_head(s) + PIECE - 1) / PIECE;

		if (n_pieces > pass.n_pieces)
			pass.n_pieces = n_pieces;
		if (s->n_kv_heads > pass.n_kv_heads)
			pass.n_kv_heads = s->n_kv_heads;
	}
	host->parallel(host->ctx, request->n_segments * pass.n_pieces * pass.n_kv_heads, run_piece,
		       &pass);
}
