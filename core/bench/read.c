/* SPDX-License-Identifier: Apache-2.0 */
/* The plain pass over K that decisions are measured against, as a policy. */
#define KVMOD_MODULE_SYMBOL bench_read_module
#include "core/bench/cache.h"

#include <stdatomic.h>

#include "kernels/cpu/rows.h"
#include "kernels/cpu/sum.h"

#define PIECE (KV_TILE * KV_CHUNK)	/* positions: what refreekv takes at a time */

struct plain_read {
	struct kvmod_instance instance;
	atomic_ullong sum;		/* so that no sum is in vain */
};

KVMOD_NO_PARAMS(policy, plain_read);

struct pass {
	struct plain_read *self;
	const struct kvmod_request *request;
	uint32_t n_pieces, n_kv_heads;	/* the most that a segment has */
};

static void read_piece(void *arg, uint32_t i)
{
	const struct pass *pass = arg;
	const struct kvmod_segment *s =
		kvmod_segment_at(pass->request, i / pass->n_kv_heads / pass->n_pieces);
	uint32_t begin = i / pass->n_kv_heads % pass->n_pieces * PIECE, g = i % pass->n_kv_heads;
	const struct kvmod_head *head;
	size_t row = kvmod_row_bytes(kvmod_head_at(s, 0)->k.type, s->head_dim);
	uint64_t sum = 0;
	uint32_t n;

	if (g >= s->n_kv_heads || begin >= kvmod_head_at(s, g)->n)
		return;
	head = kvmod_head_at(s, g);
	n = head->n - begin < PIECE ? head->n - begin : PIECE;
	if (head->k.stride == (int64_t)row)
		sum = kv_cpu_sum_bytes((const char *)head->k.data + begin * row, n * row);
	else
		for (uint32_t p = begin; p < begin + n; p++)
			sum += kv_cpu_sum_bytes((const char *)head->k.data + p * head->k.stride, row);
	atomic_fetch_add(&pass->self->sum, sum);
}

static int32_t plain_read_needs(void *self, struct kvmod_needs *needs)
{
	(void)self;
	needs->what = KVMOD_NEED_K;
	return 0;
}

static int32_t plain_read_compress(void *self_, const struct kvmod_request *request,
				   struct kvmod_plan *plan)
{
	struct plain_read *self = self_;
	struct pass pass = { .self = self, .request = request, .n_pieces = 1, .n_kv_heads = 1 };

	(void)plan;
	for (uint32_t i = 0; i < request->n_segments; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(request, i);
		uint32_t n_pieces = (kvmod_head_at(s, 0)->n + PIECE - 1) / PIECE;

		if (n_pieces > pass.n_pieces)
			pass.n_pieces = n_pieces;
		if (s->n_kv_heads > pass.n_kv_heads)
			pass.n_kv_heads = s->n_kv_heads;
	}
	self->instance.host->parallel(self->instance.host->ctx,
				      request->n_segments * pass.n_pieces * pass.n_kv_heads,
				      read_piece, &pass);
	return 0;
}

static const struct kvmod_policy_ops plain_read_ops = {
	.size = sizeof(plain_read_ops),
	.name = "plain-read",
	.description = "adds up all bytes of K and keeps everything",
	.devices = KVMOD_ON_CPU,
	.instance_size = sizeof(struct plain_read),
	.needs = plain_read_needs,
	.compress = plain_read_compress,
};

static int32_t plain_read_init(const struct kvmod_host *host)
{
	return host->register_policy(host->ctx, &plain_read_ops);
}

KVMOD_MODULE("plain-read", "0.1.0", "Apache-2.0", "The kvmod authors",
	     "one plain pass over the keys", 0, plain_read_init, NULL);
