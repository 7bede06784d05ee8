/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every policy on the GPU is compared with its version on the CPU, by what they keep of the
 * same made-up caches: whole and cut before, of one sequence and of several.
 *	test_policies [MODULES]
 * Without a GPU, the test says so and exits with 77.
 */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <kvmod/kvmod.h>

#include "core/testkit/madeup.h"
#include "core/testkit/vectors.h"
#include "tests/cuda/checks.h"
#include "core/testkit/random.h"

static unsigned sets, different;

/* A policy with its parameters, on both devices. */
struct pair {
	const char *name, *overrides[3];
	struct kvmod_ctx *ctx;
	struct kvmod_policy *cpu, *gpu;
};

static const struct pair pairs[] = {
	{ .name = "refreekv" },
	{ .name = "refreekv", .overrides = { "policy refreekv.rows=4", "policy refreekv.threshold=0.1" } },
	{ .name = "refreekv", .overrides = { "policy refreekv.norm_scope=all", "policy refreekv.sinks=9",
					     "policy refreekv.whole_layers=0" } },
	{ .name = "refreekv", .overrides = { "policy refreekv.rank=attention", "policy refreekv.threshold=0.2" } },
	{ .name = "refreekv", .overrides = { "policy refreekv.rank=attention", "policy refreekv.rows=3" } },
	{ .name = "snapkv", .overrides = { "policy snapkv.window=8" } },
	{ .name = "snapkv", .overrides = { "policy snapkv.pooling=max", "policy snapkv.pool=7" } },
	{ .name = "adakv", .overrides = { "policy adakv.window=16" } },
	{ .name = "adakv", .overrides = { "policy adakv.alpha=0.5", "policy adakv.budget=64" } },
	{ .name = "adakv", .overrides = { "policy adakv.alpha=0.9", "policy adakv.budget=40%" } },
	{ .name = "topp" },
	{ .name = "topp", .overrides = { "policy topp.p=0.5", "policy topp.whole_layers=0" } },
	{ .name = "streamingllm", .overrides = { "policy streamingllm.budget=40" } },
	{ .name = "random" },
};

static const struct kv_shape shapes[] = {
	{ .n_layers = 4, .n_segments = 4, .n_q_heads = 4, .n_kv_heads = 4, .head_dim = 64 },
	{ .n_layers = 5, .n_segments = 5, .n_q_heads = 9, .n_kv_heads = 3, .head_dim = 64 },
	{ .n_layers = 3, .n_segments = 3, .n_q_heads = 32, .n_kv_heads = 8, .head_dim = 128 },
	{ .n_layers = 3, .n_segments = 3, .n_q_heads = 8, .n_kv_heads = 1, .head_dim = 256 },
	{ .n_layers = 2, .n_segments = 2, .n_q_heads = 6, .n_kv_heads = 2, .head_dim = 32 },
};

/* --- comparing ------------------------------------------------------------------------ */

/* Writes the kept indices of a head, ascending, to `out`; returns how many. */
static uint32_t kept_of(const struct kvmod_request *r, const struct kvmod_plan *plan, uint32_t i,
			uint32_t g, uint32_t *out)
{
	const struct kvmod_keep *keep = kvmod_keep_at(plan, i);
	uint32_t n = 0, all = kvmod_head_at(kvmod_segment_at(r, i), g)->n;

	if (keep->kind == KVMOD_KEEP_HEADS) {
		memcpy(out, keep->indices + g * keep->index_stride, keep->counts[g] * sizeof(*out));
		return keep->counts[g];
	}
	if (keep->kind == KVMOD_KEEP_ALL)
		for (; n < all; n++)
			out[n] = n;
	else
		for (uint32_t s = 0; s < keep->n_spans; s++)
			for (uint32_t p = keep->spans[s].begin; p < keep->spans[s].end; p++)
				out[n++] = p;
	return n;
}

/* How many indices are in one set and not in the other. */
static uint32_t differing(const uint32_t *a, uint32_t n_a, const uint32_t *b, uint32_t n_b)
{
	uint32_t i = 0, j = 0, common = 0;

	while (i < n_a && j < n_b) {
		common += a[i] == b[j];
		if (a[i] == b[j])
			i++, j++;
		else if (a[i] < b[j])
			i++;
		else
			j++;
	}
	return n_a + n_b - 2 * common;
}

/*
 * CPU and GPU add in different orders, so a choice that depends on the last bit may differ:
 * by one position for another, in one set of a hundred.
 */
static void compare(const struct pair *pair, const char *what, const struct kvmod_request *r,
		    const struct kvmod_plan *cpu, const struct kvmod_plan *gpu)
{
	for (uint32_t i = 0; i < r->n_segments; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(r, i);
		const struct kvmod_keep *a = kvmod_keep_at(cpu, i), *b = kvmod_keep_at(gpu, i);

		CHECK(a->status == b->status, "%s %s, segment %u: status %d, on the CPU %d",
		      pair->name, what, i, b->status, a->status);
		for (uint32_t g = 0; g < s->n_kv_heads; g++) {
			uint32_t n = kvmod_head_at(s, g)->n, apart;
			uint32_t *x = calloc(2 * (size_t)n, sizeof(*x)), *y = x + n;
			uint32_t n_x = kept_of(r, cpu, i, g, x), n_y = kept_of(r, gpu, i, g, y);

			apart = differing(x, n_x, y, n_y);
			sets++;
			different += apart > 0;
			CHECK(apart <= 2, "%s %s, segment %u, KV head %u of %u: %u kept, on the CPU %u, %u differ",
			      pair->name, what, i, g, n, n_y, n_x, apart);
			free(x);
		}
		CHECK(isnan(a->loss) == isnan(b->loss) &&
		      (isnan(a->loss) || fabs(a->loss - b->loss) <= 1e-5 + 1e-3 * fabs(a->loss)),
		      "%s %s, segment %u: loss %g, on the CPU %g", pair->name, what, i, b->loss, a->loss);
	}
}

static struct kvmod_plan *decide(struct kvmod_policy *policy, const struct kvmod_request *r)
{
	struct kvmod_plan *plan;

	if (kvmod_plan_new(r, &plan)) {
		printf("FAIL no plan: %s\n", kvmod_error());
		exit(1);
	}
	CHECK(kvmod_decide(policy, r, plan) == 0, "%s: %s", kvmod_policy_ops(policy)->name, kvmod_error());
	return plan;
}

/* --- caches ------------------------------------------------------------------------------- */

static uint32_t rows_for(const struct pair *pair, uint32_t n)
{
	uint32_t rows = kvmod_needs_rows(kvmod_policy_needs(pair->cpu), n);

	return rows ? rows : 1;
}

/* A prompt, then what is left of it with a second one, where heads have different lengths. */
static void run_turns(const struct pair *pair, const struct kv_shape *shape, uint32_t n)
{
	uint32_t what = kvmod_policy_needs(pair->cpu)->what | KVMOD_NEED_K | KVMOD_NEED_V;
	struct kvmod_plan *cpu, *gpu;
	struct madeup first, second;
	char text[192];

	snprintf(text, sizeof(text), "(%s) %ux%u of %u, type %u, n=%u",
		 pair->overrides[0] ? pair->overrides[0] : "", shape->n_q_heads, shape->n_kv_heads,
		 shape->head_dim, shape->type, n);
	if (madeup_first(&first, shape, n, rows_for(pair, n), what))
		exit(1);
	cpu = decide(pair->cpu, &first.d.request);
	gpu = decide(pair->gpu, &first.d.request);
	compare(pair, text, &first.d.request, cpu, gpu);
	if (madeup_next(&second, &first, cpu, n / 3 + 1, rows_for(pair, n / 3 + 1), what))
		exit(1);
	kvmod_plan_free(gpu);
	kvmod_plan_free(cpu);
	cpu = decide(pair->cpu, &second.d.request);
	gpu = decide(pair->gpu, &second.d.request);
	strcat(text, ", second turn");
	compare(pair, text, &second.d.request, cpu, gpu);
	kvmod_plan_free(gpu);
	kvmod_plan_free(cpu);
	madeup_free(&second);
	madeup_free(&first);
}

/* Several sequences of unequal length in one request. */
static void run_batch(const struct pair *pair, const struct kv_shape *shape)
{
	uint32_t what = kvmod_policy_needs(pair->cpu)->what | KVMOD_NEED_K | KVMOD_NEED_V;
	enum { N = 5 };
	struct madeup caches[N];
	struct kvmod_segment *all = calloc((size_t)N * shape->n_segments, sizeof(*all));
	const struct kvmod_segment **list = calloc((size_t)N * shape->n_segments, sizeof(*list));
	struct kvmod_request r;
	struct kvmod_plan *cpu, *gpu;

	for (uint32_t i = 0; i < N; i++) {
		uint32_t n = 1 + i * i * 37;

		if (madeup_first(&caches[i], shape, n, rows_for(pair, n), what))
			exit(1);
		for (uint32_t s = 0; s < shape->n_segments; s++) {
			all[i * shape->n_segments + s] = *kvmod_segment_at(&caches[i].d.request, s);
			all[i * shape->n_segments + s].sequence = i;
		}
	}
	r = caches[0].d.request;
	r.n_segments = N * shape->n_segments;
	r.segments = list;
	kvmod_list_segments(list, all, r.n_segments);
	cpu = decide(pair->cpu, &r);
	gpu = decide(pair->gpu, &r);
	compare(pair, "batch", &r, cpu, gpu);
	kvmod_plan_free(gpu);
	kvmod_plan_free(cpu);
	for (uint32_t i = 0; i < N; i++)
		madeup_free(&caches[i]);
	free(list);
	free(all);
}

static void run_pair(const struct pair *pair, const struct kv_shape *shape)
{
	static const uint32_t lengths[] = { 1, 7, 100, 700, 3000 };
	static const uint32_t types[] = { KVMOD_F32, KVMOD_F16, KVMOD_BF16, KVMOD_Q8_0 };

	for (unsigned t = 0; t < 4; t++)
		for (unsigned i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
			struct kv_shape typed = *shape;

			typed.type = types[t];
			run_turns(pair, &typed, lengths[i]);
			if (i == 0)
				run_batch(pair, &typed);
		}
}

/* --- golden vectors of caches that were cut before -------------------------------------------- */

static void run_second_turns(struct kvmod_ctx *ctx, const char *modules)
{
	char path[512], why[512];
	const char *override = path;
	struct vectors v;
	struct vectors_case *c;
	unsigned n = 0;
	int got;

	snprintf(path, sizeof(path), "kvmod.module_path=%s", modules);
	if (vectors_open(&v, GOLDEN "second-turns.txt")) {
		CHECK(false, "%s", v.error);
		return;
	}
	for (; (got = vectors_next(&v, &c)) == 1; n++) {
		CHECK(vectors_run(ctx, "/dev/null", &override, 1, c, KVMOD_F32, "cuda", why, sizeof(why)) == 0,
		      "%s: %s", c->name, why);
		vectors_case_free(c);
	}
	CHECK(got == 0, "%s", v.error);
	CHECK(n > 0, "no second turns");
	vectors_close(&v);
}

/* --- the program ------------------------------------------------------------------------------ */

static struct kvmod_ctx *context(const char *modules, const char *const *overrides)
{
	const char *all[4];
	char path[512];
	struct kvmod_ctx *ctx;
	size_t n = 0;

	snprintf(path, sizeof(path), "kvmod.module_path=%s", modules);
	all[n++] = path;
	for (; n < 4 && overrides[n - 1]; n++)
		all[n] = overrides[n - 1];
	if (kvmod_new(&ctx) || kvmod_configure(ctx, "/dev/null", all, n)) {
		printf("FAIL %s\n", kvmod_error());
		exit(1);
	}
	return ctx;
}

static void run_policy(const struct pair *of, const struct kv_shape *shape, const char *modules)
{
	struct pair pair = *of;
	struct kvmod_model model = madeup_model(shape);

	pair.ctx = context(modules, of->overrides);
	if (kvmod_policy_open(pair.ctx, pair.name, "cpu", &model, &pair.cpu) ||
	    kvmod_policy_open(pair.ctx, pair.name, "cuda", &model, &pair.gpu)) {
		CHECK(false, "%s: %s", pair.name, kvmod_error());
	} else {
		run_pair(&pair, shape);
		kvmod_policy_close(pair.gpu);
		kvmod_policy_close(pair.cpu);
	}
	kvmod_unref(pair.ctx);
}

int main(int argc, char **argv)
{
	static const char *const none[] = { NULL };
	const char *modules = argc > 1 ? argv[1] : MODULES;
	struct kvmod_ctx *ctx = context(modules, none);
	struct kvmod_device *device;

	if (kvmod_device_open(ctx, "cuda", &device)) {
		printf("SKIP: %s\n", kvmod_error());
		kvmod_unref(ctx);
		return 77;
	}
	for (unsigned i = 0; i < sizeof(pairs) / sizeof(*pairs); i++)
		for (unsigned s = 0; s < sizeof(shapes) / sizeof(*shapes); s++)
			run_policy(&pairs[i], &shapes[s], modules);
	run_second_turns(ctx, modules);
	kvmod_device_close(device);
	kvmod_unref(ctx);
	CHECK(different * 100 <= sets, "%u of %u sets differ by a position", different, sets);
	printf("%u checks, %u failures; %u of %u sets differ by a position\n", checks, failures,
	       different, sets);
	return failures != 0;
}
