/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes tests/golden/second-turns.txt: golden vectors of caches that were cut before, of
 * which the references say what is kept. Numbers have three decimals, so that who reads
 * the file has the very numbers that were decided on.
 *	second_turns >FILE
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/policies_reference.h"
#include "core/testkit/random.h"
#include "tests/refreekv_reference.h"

/* A choice nearer than this could fall otherwise in single precision: draw anew. */
#define NEAR 1e-3

#define MAX_N		80
#define MAX_HEADS	4
#define MAX_DIM		32
#define MAX_ROWS	24

static const struct plan {
	const char *name, *policy, *params;
	struct policy_params p;			/* of all but refreekv */
	struct reference_params refreekv;
	uint32_t n, logical, n_q_heads, n_kv_heads, head_dim, rows, layers;
	bool ragged;				/* heads cache differently many */
} plans[] = {
	{ .name = "streamingllm-share", .policy = "streamingllm", .params = "budget=0.2 sinks=4",
	  .p = { RULE_STREAMINGLLM, .permille = 200, .sinks = 4 },
	  .n = 50, .logical = 170, .n_q_heads = 2, .n_kv_heads = 2, .head_dim = 8, .layers = 2 },
	{ .name = "streamingllm-holds-less", .policy = "streamingllm", .params = "budget=40% sinks=4",
	  .p = { RULE_STREAMINGLLM, .permille = 400, .sinks = 4 },
	  .n = 50, .logical = 170, .n_q_heads = 2, .n_kv_heads = 1, .head_dim = 8, .layers = 1 },
	{ .name = "streamingllm-count", .policy = "streamingllm", .params = "budget=30 sinks=2",
	  .p = { RULE_STREAMINGLLM, .count = 30, .sinks = 2 },
	  .n = 50, .logical = 170, .n_q_heads = 2, .n_kv_heads = 1, .head_dim = 8, .layers = 1 },
	{ .name = "snapkv-share", .policy = "snapkv", .params = "budget=0.2 window=8 pool=5 pooling=average",
	  .p = { RULE_SNAPKV, .permille = 200, .window = 8, .pool = 5 },
	  .n = 60, .logical = 190, .n_q_heads = 4, .n_kv_heads = 2, .head_dim = 8, .rows = 8, .layers = 2 },
	{ .name = "snapkv-ragged", .policy = "snapkv", .params = "budget=25% window=8 pool=7 pooling=max",
	  .p = { RULE_SNAPKV, .permille = 250, .window = 8, .pool = 7, .pool_max = true },
	  .n = 70, .logical = 160, .n_q_heads = 6, .n_kv_heads = 3, .head_dim = 8, .rows = 8,
	  .layers = 2, .ragged = true },
	{ .name = "snapkv-few-rows", .policy = "snapkv", .params = "budget=0.15 window=16 pool=5 pooling=average",
	  .p = { RULE_SNAPKV, .permille = 150, .window = 16, .pool = 5 },
	  .n = 60, .logical = 210, .n_q_heads = 2, .n_kv_heads = 2, .head_dim = 16, .rows = 5, .layers = 1 },
	{ .name = "snapkv-raised", .policy = "snapkv", .params = "budget=0.02 window=8 pool=5 pooling=average",
	  .p = { RULE_SNAPKV, .permille = 20, .window = 8, .pool = 5 },
	  .n = 40, .logical = 190, .n_q_heads = 2, .n_kv_heads = 1, .head_dim = 8, .rows = 8, .layers = 1 },
	{ .name = "snapkv-count", .policy = "snapkv", .params = "budget=24 window=8 pool=5 pooling=average",
	  .p = { RULE_SNAPKV, .count = 24, .window = 8, .pool = 5 },
	  .n = 60, .logical = 190, .n_q_heads = 4, .n_kv_heads = 2, .head_dim = 8, .rows = 8, .layers = 1 },
	{ .name = "adakv-share", .policy = "adakv",
	  .params = "budget=0.2 window=8 pool=7 pooling=max alpha=0.2",
	  .p = { RULE_ADAKV, .permille = 200, .window = 8, .pool = 7, .pool_max = true, .alpha = 0.2 },
	  .n = 70, .logical = 190, .n_q_heads = 4, .n_kv_heads = 2, .head_dim = 8, .rows = 8, .layers = 2 },
	{ .name = "adakv-ragged", .policy = "adakv",
	  .params = "budget=0.2 window=8 pool=7 pooling=max alpha=0.2",
	  .p = { RULE_ADAKV, .permille = 200, .window = 8, .pool = 7, .pool_max = true, .alpha = 0.2 },
	  .n = 80, .logical = 200, .n_q_heads = 8, .n_kv_heads = 4, .head_dim = 8, .rows = 8,
	  .layers = 2, .ragged = true },
	{ .name = "adakv-excess", .policy = "adakv",
	  .params = "budget=0.2 window=8 pool=5 pooling=average alpha=0.9",
	  .p = { RULE_ADAKV, .permille = 200, .window = 8, .pool = 5, .alpha = 0.9 },
	  .n = 80, .logical = 200, .n_q_heads = 8, .n_kv_heads = 4, .head_dim = 8, .rows = 8,
	  .layers = 2, .ragged = true },
	{ .name = "adakv-alpha-1", .policy = "adakv",
	  .params = "budget=0.25 window=8 pool=5 pooling=average alpha=1",
	  .p = { RULE_ADAKV, .permille = 250, .window = 8, .pool = 5, .alpha = 1 },
	  .n = 80, .logical = 160, .n_q_heads = 3, .n_kv_heads = 3, .head_dim = 16, .rows = 8,
	  .layers = 1, .ragged = true },
	{ .name = "adakv-whole", .policy = "adakv",
	  .params = "budget=0.5 window=8 pool=5 pooling=average alpha=0.2",
	  .p = { RULE_ADAKV, .permille = 500, .window = 8, .pool = 5, .alpha = 0.2 },
	  .n = 80, .logical = 120, .n_q_heads = 3, .n_kv_heads = 3, .head_dim = 8, .rows = 8,
	  .layers = 1, .ragged = true },
	{ .name = "topp-ragged", .policy = "topp", .params = "p=0.8 whole_layers=0",
	  .p = { RULE_TOPP, .p = 0.8 },
	  .n = 60, .logical = 200, .n_q_heads = 6, .n_kv_heads = 3, .head_dim = 8, .rows = 1,
	  .layers = 2, .ragged = true },
	{ .name = "topp-wide", .policy = "topp", .params = "p=0.95 whole_layers=0",
	  .p = { RULE_TOPP, .p = 0.95 },
	  .n = 50, .logical = 90, .n_q_heads = 2, .n_kv_heads = 1, .head_dim = 32, .rows = 1, .layers = 1 },
	{ .name = "refreekv-row", .policy = "refreekv", .params = "threshold=0.05 sinks=4 recent=1",
	  .refreekv = { .threshold = 0.05, .sinks = 4, .recent = 1, .rows = 1 },
	  .n = 70, .logical = 300, .n_q_heads = 4, .n_kv_heads = 2, .head_dim = 8, .rows = 1, .layers = 1 },
	{ .name = "refreekv-rows", .policy = "refreekv", .params = "threshold=0.1 sinks=2 recent=3",
	  .refreekv = { .threshold = 0.1, .sinks = 2, .recent = 3, .rows = 6 },
	  .n = 70, .logical = 300, .n_q_heads = 2, .n_kv_heads = 2, .head_dim = 16, .rows = 6, .layers = 1 },
	{ .name = "h2o-rows", .policy = "h2o", .params = "heavy=0.1 recent=0.05 rows=12",
	  .p = { RULE_H2O, .permille = 100, .recent_permille = 50, .rows = 12 },
	  .n = 70, .logical = 240, .n_q_heads = 6, .n_kv_heads = 3, .head_dim = 8, .rows = 12,
	  .layers = 2, .ragged = true },
	{ .name = "tova-share", .policy = "tova", .params = "budget=0.15 window=1",
	  .p = { RULE_TOVA, .permille = 150, .window = 1 },
	  .n = 60, .logical = 200, .n_q_heads = 6, .n_kv_heads = 3, .head_dim = 8, .rows = 1, .layers = 2 },
	{ .name = "knorm-ragged", .policy = "knorm", .params = "budget=0.2 whole_layers=0",
	  .p = { RULE_KNORM, .permille = 200 },
	  .n = 70, .logical = 160, .n_q_heads = 3, .n_kv_heads = 3, .head_dim = 8, .rows = 1,
	  .layers = 2, .ragged = true },
	{ .name = "rkv-ragged", .policy = "rkv",
	  .params = "budget=0.2 window=8 pool=7 lambda=0.07 similarity=0.5",
	  .p = { RULE_RKV, .permille = 200, .window = 8, .pool = 7, .lambda = 0.07, .similarity = 0.5 },
	  .n = 70, .logical = 160, .n_q_heads = 6, .n_kv_heads = 3, .head_dim = 8, .rows = 8,
	  .layers = 2, .ragged = true },
	{ .name = "rkv-few-rows", .policy = "rkv",
	  .params = "budget=20 window=6 pool=3 lambda=0.5 similarity=0.3",
	  .p = { RULE_RKV, .count = 20, .window = 6, .pool = 3, .lambda = 0.5, .similarity = 0.3 },
	  .n = 50, .logical = 160, .n_q_heads = 4, .n_kv_heads = 2, .head_dim = 16, .rows = 4, .layers = 1 },
};

/* --- a cache ---------------------------------------------------------------------------- */

/* One layer. */
static struct cache {
	float q[MAX_ROWS * 2 * MAX_HEADS * MAX_DIM];
	float k[MAX_N * MAX_HEADS * MAX_DIM];		/* [position][head][dim] */
	int32_t positions[MAX_HEADS][MAX_N];
	struct kvmod_head heads[MAX_HEADS];
	const struct kvmod_head *head_list[MAX_HEADS];	/* of these */
	struct kvmod_segment segment;
} cache;

/* -2 .. 2, in thousandths */
static void draw(struct kv_random *r, float *out, size_t n, float scale)
{
	for (size_t i = 0; i < n; i++)
		out[i] = (float)(rint((kv_random_u32(r) * 0x1p-31 - 1) * 2000 * (double)scale) / 1000);
}

static int ascending(const void *a, const void *b)
{
	return *(const int32_t *)a - *(const int32_t *)b;
}

/* The newest tokens, all there, and others drawn from the older; a few at the front stay. */
static void draw_positions(struct kv_random *r, const struct plan *plan, uint32_t n, int32_t *out)
{
	uint32_t n_new = plan->rows > 8 ? plan->rows : 8, old = plan->logical - n_new, i = 0;
	unsigned char taken[512] = { 1, 1, 1, 1 };

	for (; i < 4; i++)
		out[i] = (int32_t)i;
	while (i < n - n_new) {
		uint32_t at = kv_random_range(r, 4, old - 1);

		if (!taken[at])
			out[i++] = (int32_t)at;
		taken[at] = 1;
	}
	qsort(out, i, sizeof(*out), ascending);
	for (; i < n; i++)
		out[i] = (int32_t)(plan->logical - n + i);
}

static struct kvmod_view view_of(const float *data, size_t stride, size_t head_stride)
{
	return (struct kvmod_view){
		.type = KVMOD_F32, .data = data,
		.stride = (int64_t)(stride * sizeof(float)),
		.head_stride = (int64_t)(head_stride * sizeof(float)),
	};
}

static void make_layer(const struct plan *plan, uint64_t seed)
{
	struct kv_random r = { seed };
	size_t dim = plan->head_dim, row = plan->n_kv_heads * dim;

	draw(&r, cache.k, plan->n * row, 1);
	draw(&r, cache.q, plan->rows * plan->n_q_heads * dim, 0.75f);
	for (uint32_t g = 0; g < plan->n_kv_heads; g++) {
		/* The first is the longest. */
		uint32_t n = plan->ragged && g ? kv_random_range(&r, 14, plan->n) : plan->n;

		if (plan->ragged || g == 0)
			draw_positions(&r, plan, n, cache.positions[g]);
		/* and refreekv: one set a layer */
		else if (plan->p.rule == RULE_STREAMINGLLM || plan->p.rule == RULE_TOVA)
			for (uint32_t i = 0; i < n; i++)
				cache.positions[g][i] = cache.positions[0][i];
		else
			draw_positions(&r, plan, n, cache.positions[g]);
		cache.heads[g] = (struct kvmod_head){
			.size = sizeof(cache.heads[g]), .n = n, .positions = cache.positions[g],
			.k = view_of(cache.k + g * dim, row, 0),
		};
	}
	kvmod_list_heads(cache.head_list, cache.heads, plan->n_kv_heads);
	cache.segment = (struct kvmod_segment){
		.size = sizeof(cache.segment), .logical = plan->logical,
		.n_q_heads = plan->n_q_heads, .n_kv_heads = plan->n_kv_heads,
		.head_dim = plan->head_dim, .total_heads = plan->n_kv_heads,
		.scale = (float)(1 / sqrt(plan->head_dim)),
		.heads = cache.head_list, .n_rows = plan->rows,
		.q = view_of(cache.q, plan->n_q_heads * dim, dim),
	};
}

/* --- a case --------------------------------------------------------------------------------- */

static void write_numbers(const char *key, const float *x, size_t n)
{
	printf("%s", key);
	for (size_t i = 0; i < n; i++)
		printf(" %.3f", (double)x[i]);
	putchar('\n');
}

/* kept NULL: all of them */
static void write_positions(const char *key, uint32_t layer, uint32_t g, const unsigned char *kept)
{
	const struct kvmod_head *head = &cache.heads[g];
	uint32_t count = 0, written = 0;

	for (uint32_t i = 0; i < head->n; i++)
		count += !kept || kept[i];
	printf("%s layer=%u head=%u count=%u positions=", key, layer, g, count);
	for (uint32_t i = 0; i < head->n; i++)
		if (!kept || kept[i])
			printf("%s%d", written++ ? "," : "", head->positions[i]);
	putchar('\n');
}

static bool is_refreekv(const struct plan *plan)
{
	return plan->refreekv.rows > 0;
}

/* Two rows in one: what is kept, and whether that is beyond doubt. */
static bool decide(const struct plan *plan, struct policy_answer *answer, double *loss)
{
	struct reference r;

	if (!is_refreekv(plan)) {
		if (policy_decide(&cache.segment, &plan->p, answer))
			exit(1);
		return answer->tie > NEAR;
	}
	if (reference_decide(&cache.segment, &plan->refreekv, &r))
		exit(1);
	*answer = (struct policy_answer){ .kept = r.kept, .stride = plan->n };
	*loss = r.loss;
	return r.margin > NEAR && r.count < plan->n;
}

/* The first seed from *seed on whose answer is beyond doubt. */
static void settle_layer(const struct plan *plan, uint64_t *seed, struct policy_answer *answer, double *loss)
{
	for (;; ++*seed, free(answer->kept)) {
		make_layer(plan, *seed);
		if (decide(plan, answer, loss))
			return;
	}
}

static void write_layers(const struct plan *plan, const uint64_t *seeds, const char *what)
{
	for (uint32_t l = 0; l < plan->layers; l++) {
		make_layer(plan, seeds[l]);
		if (*what == 'q' && plan->rows)
			write_numbers("q", cache.q, (size_t)plan->rows * plan->n_q_heads * plan->head_dim);
		if (*what == 'k' && plan->rows)
			write_numbers("k", cache.k, (size_t)plan->n * plan->n_kv_heads * plan->head_dim);
		for (uint32_t g = 0; g < plan->n_kv_heads && *what == 'c'; g++)
			write_positions("cached", l, g, NULL);
	}
}

/* ReFreeKV's own form names the first position of the suffix. */
static void write_suffix(const struct plan *plan, const struct policy_answer *answer, double loss)
{
	uint32_t count = 0, suffix = plan->n;

	for (uint32_t i = plan->n; i > plan->refreekv.sinks && answer->kept[i - 1]; i--)
		suffix = i - 1;
	for (uint32_t i = 0; i < plan->n; i++)
		count += answer->kept[i];
	printf("expect keep=%u suffix=%d loss=%.9g\n", count, cache.positions[0][suffix], loss);
}

static void write_case(const struct plan *plan, uint64_t seed)
{
	struct policy_answer answer;
	uint64_t seeds[4];
	double loss = 0;

	for (uint32_t l = 0; l < plan->layers; l++, seed++) {
		settle_layer(plan, &seed, &answer, &loss);
		free(answer.kept);
		seeds[l] = seed;
	}
	printf("case %s\n", plan->name);
	if (!is_refreekv(plan))
		printf("policy %s\n", plan->policy);
	printf("shape layers=%u n=%u q_heads=%u kv_heads=%u head_dim=%u rows=%u logical=%u\n",
	       plan->layers, plan->n, plan->n_q_heads, plan->n_kv_heads, plan->head_dim, plan->rows,
	       plan->logical);
	printf("params %s\n", plan->params);
	write_layers(plan, seeds, "q");
	write_layers(plan, seeds, "k");
	write_layers(plan, seeds, "cached");
	for (uint32_t l = 0; l < plan->layers; l++) {
		settle_layer(plan, &seeds[l], &answer, &loss);
		for (uint32_t g = 0; g < plan->n_kv_heads && !is_refreekv(plan); g++)
			write_positions("expect", l, g, answer.kept + (size_t)g * answer.stride);
		if (is_refreekv(plan))
			write_suffix(plan, &answer, loss);
		free(answer.kept);
	}
	puts("end\n");
}

int main(void)
{
	for (size_t i = 0; i < sizeof(plans) / sizeof(*plans); i++)
		write_case(&plans[i], 1000 * (i + 1));
	return 0;
}
