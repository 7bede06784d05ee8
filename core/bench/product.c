/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two policies that keep everything: "plain-product", the product of all queries of a
 * request with K, which a decision of a window of queries cannot avoid; and
 * "plain-peak", multiply-adds in registers, as many as the threads can do.
 */
#define KVMOD_MODULE_SYMBOL bench_product_module
#include "core/bench/cache.h"

#include "kernels/cpu/limits.h"
#include "kernels/cpu/logits.h"

#define TILE	384		/* keys whose products are in a near cache together */
#define QUERIES	16
#define PIECES	128		/* of the peak: so many threads can be kept busy */

struct plain {
	struct kvmod_instance instance;
	atomic_ullong sum;		/* so that no product is in vain */
};

KVMOD_NO_PARAMS(policy, plain_product);
KVMOD_NO_PARAMS(policy, plain_peak);

/* --- queries x K ---------------------------------------------------------------------- */

/* Queries first .. first + n - 1 of a KV head, [row][group]. */
static void load(const struct kvmod_segment *s, uint32_t g, uint32_t first, uint32_t n, float *q)
{
	uint32_t group = s->n_q_heads / s->n_kv_heads;

	for (uint32_t i = first; i < first + n; i++, q += s->head_dim)
		kv_cpu_to_f32(s->q.type, (const char *)s->q.data + i / group * s->q.stride +
			      (g * group + i % group) * s->q.head_stride, s->head_dim, q);
}

static uint64_t multiply_piece(const struct kvmod_segment *s, uint32_t g, uint32_t begin,
			       uint32_t end)
{
	uint32_t n_queries = s->n_rows * (s->n_q_heads / s->n_kv_heads), n;
	float q[QUERIES * BENCH_MAX_DIM], out[QUERIES * TILE];
	uint64_t sum = 0;

	for (uint32_t first = 0; first < n_queries; first += n) {
		n = n_queries - first < QUERIES ? n_queries - first : QUERIES;
		load(s, g, first, n, q);
		for (uint32_t i = begin; i < end; i += TILE) {
			kv_cpu_logits(&kvmod_head_at(s, g)->k, s->head_dim, i,
				      end - i < TILE ? end : i + TILE, q, n, 1, 0, out, TILE);
			sum += out[0] > 0;
		}
	}
	return sum;
}

static int32_t product_needs(void *self, struct kvmod_needs *needs)
{
	(void)self;
	needs->what = KVMOD_NEED_K;
	/* A policy that asks for no rows gets none; more than it asks for are not taken away. */
	needs->rows = (struct kvmod_amount){ .value = 1, .is_count = 1 };
	return 0;
}

static int32_t product_compress(void *self_, const struct kvmod_request *request,
				struct kvmod_plan *plan)
{
	struct plain *self = self_;

	(void)plan;
	bench_each_piece(self->instance.host, request, multiply_piece, &self->sum);
	return 0;
}

static const struct kvmod_policy_ops product_ops = {
	.size = sizeof(product_ops),
	.name = "plain-product",
	.description = "multiplies all queries with all keys and keeps everything",
	.devices = "cpu",
	.instance_size = sizeof(struct plain),
	.needs = product_needs,
	.compress = product_compress,
};

/* --- the peak ------------------------------------------------------------------------------ */

static void multiply_add(void *arg, uint32_t i)
{
	struct plain *self = arg;
	float sum;

	(void)i;
	kv_cpu_multiply_add(BENCH_PEAK_MACS / PIECES, &sum);
	atomic_fetch_add(&self->sum, sum > 0);
}

static int32_t peak_compress(void *self_, const struct kvmod_request *request,
			     struct kvmod_plan *plan)
{
	struct plain *self = self_;
	const struct kvmod_host *host = self->instance.host;

	(void)request;
	(void)plan;
	host->parallel(host->ctx, PIECES, multiply_add, self);
	return 0;
}

static const struct kvmod_policy_ops peak_ops = {
	.size = sizeof(peak_ops),
	.name = "plain-peak",
	.description = "multiplies and adds in registers and keeps everything",
	.devices = "cpu",
	.instance_size = sizeof(struct plain),
	.compress = peak_compress,
};

static int32_t plain_product_init(const struct kvmod_host *host)
{
	int32_t error = host->register_policy(host->ctx, &product_ops);

	return error ? error : host->register_policy(host->ctx, &peak_ops);
}

KVMOD_MODULE("plain-product", "0.2.0", "Apache-2.0", "The kvmod authors",
	     "products of queries with keys, and the most that a processor multiplies", 0,
	     plain_product_init, NULL);
