/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Trials without a model's weights: a policy decides one request of a tiny made-up
 * model; an engine is checked, and the policy is opened for the engine's model.
 */
#include "core/check/check.h"
#include "core/run/describe.h"
#include "core/run/engine.h"
#include "core/run/policy.h"

#include <stdlib.h>
#include <string.h>

#define N_LAYERS	2
#define N_KV_HEADS	3		/* several, and no power of two */
#define N_Q_HEADS	6
#define HEAD_DIM	32		/* one block of a type that has blocks */
#define SEQUENCE	1
#define N_POSITIONS	256		/* a quarter of it is a budget that policies can keep */

struct probe {
	struct kv_arena arena;
	struct kv_described d;
	uint32_t seed;
};

static const struct kv_shape shape = {
	.n_layers = N_LAYERS, .n_segments = N_LAYERS,
	.n_q_heads = N_Q_HEADS, .n_kv_heads = N_KV_HEADS, .head_dim = HEAD_DIM,
};

static uint32_t next(struct probe *p)
{
	p->seed = p->seed * 1664525u + 1013904223u;
	return p->seed >> 8;
}

/* -1 .. 1 */
static float next_real(struct probe *p)
{
	return (float)next(p) / (float)(1 << 23) - 1;
}

/* Bit patterns of numbers between 1/4 and 1, of either sign. */
static uint16_t next_half(struct probe *p, uint32_t type)
{
	uint16_t bits = (uint16_t)next(p);

	if (type == KVMOD_F16)
		return (bits & 0x87ffu) | 0x3400u;
	return (bits & 0x80ffu) | 0x3e80u;
}

/* Scale 1/128, of Q4_0 1/8, and any bytes. */
static void fill_block(struct probe *p, uint32_t type, uint8_t *block)
{
	block[0] = 0x00;
	block[1] = type == KVMOD_Q8_0 ? 0x20 : 0x30;
	for (size_t i = 2; i < kvmod_row_bytes(type, HEAD_DIM); i++)
		block[i] = (uint8_t)next(p);
}

static void fill_row(struct probe *p, uint32_t type, void *row)
{
	if (kvmod_block_size(type) > 1) {
		fill_block(p, type, row);
		return;
	}
	for (int d = 0; d < HEAD_DIM; d++) {
		if (type == KVMOD_F32)
			((float *)row)[d] = next_real(p);
		else
			((uint16_t *)row)[d] = next_half(p, type);
	}
}

/* n rows of HEAD_DIM, end to end; NULL after kv_fail(). */
static void *make_rows(struct probe *p, uint32_t type, size_t n)
{
	size_t row = kvmod_row_bytes(type, HEAD_DIM);
	char *data = kv_arena_alloc(&p->arena, n * row);

	for (size_t i = 0; data && i < n; i++)
		fill_row(p, type, data + i * row);
	return data;
}

/* [N_Q_HEADS][n] numbers that are not negative. */
static int make_numbers(struct probe *p, uint32_t n, const float **numbers)
{
	float *data = kv_arena_alloc(&p->arena, sizeof(*data) * n * N_Q_HEADS);

	for (uint32_t i = 0; data && i < n * N_Q_HEADS; i++)
		data[i] = 1 + next_real(p);
	*numbers = data;
	return data ? KVMOD_OK : KVMOD_ENOMEM;
}

static int make_extras(struct probe *p, const struct kvmod_needs *needs, struct kvmod_segment *s)
{
	struct kv_extras extras = { 0 };
	int err = KVMOD_OK;

	if (needs->what & KVMOD_NEED_COLSUM)
		err = make_numbers(p, N_POSITIONS, &extras.colsum);
	if (err == KVMOD_OK && needs->what & KVMOD_NEED_WO_NORM)
		err = make_numbers(p, N_POSITIONS, &extras.wo_norm);
	if (err == KVMOD_OK && needs->what & KVMOD_NEED_Q_STATS)
		err = make_numbers(p, HEAD_DIM, &extras.q_mean);
	if (err == KVMOD_OK && needs->what & KVMOD_NEED_Q_STATS)
		err = make_numbers(p, HEAD_DIM * HEAD_DIM, &extras.q_cov);
	kv_describe_extras(s, N_POSITIONS, &extras);
	return err;
}

static int make_queries(struct probe *p, const struct kvmod_needs *needs, struct kvmod_segment *s)
{
	uint32_t n_rows = kvmod_needs_rows(needs, N_POSITIONS);
	const float *q = n_rows ? make_rows(p, KVMOD_F32, (size_t)n_rows * N_Q_HEADS) : NULL;

	kv_describe_queries(s, q, n_rows);
	return q || n_rows == 0 ? KVMOD_OK : KVMOD_ENOMEM;
}

static int make_view(struct probe *p, uint32_t type, struct kvmod_view *view)
{
	void *data = make_rows(p, type, N_POSITIONS);

	*view = kv_view(type, data, kvmod_row_bytes(type, HEAD_DIM), 0);
	return data ? KVMOD_OK : KVMOD_ENOMEM;
}

static int make_segment(struct probe *p, const struct kvmod_needs *needs, uint32_t type,
			uint32_t layer)
{
	struct kvmod_segment *s = &p->d.segments[layer];
	int err = KVMOD_OK;

	s->sequence = SEQUENCE;
	for (int g = 0; g < N_KV_HEADS && err == KVMOD_OK; g++) {
		struct kvmod_head *head = &p->d.heads[layer * N_KV_HEADS + g];

		err = make_view(p, type, &head->k);
		if (err == KVMOD_OK)
			err = make_view(p, type, &head->v);
	}
	if (err == KVMOD_OK)
		err = make_queries(p, needs, s);
	return err == KVMOD_OK ? make_extras(p, needs, s) : err;
}

static uint32_t type_for(const struct kvmod_needs *needs)
{
	for (uint32_t type = KVMOD_F32; type <= KVMOD_Q4_0; type++)
		if (needs->types == 0 || needs->types & KVMOD_TYPE_BIT(type))
			return type;
	return KVMOD_F32;
}

static int make_request(struct probe *p, const struct kvmod_needs *needs)
{
	uint32_t type = type_for(needs);
	int err = KVMOD_OK;

	if (kv_describe(&p->d, &shape, N_POSITIONS, N_POSITIONS))
		return kv_no_memory();
	p->d.request.device = "cpu";
	for (uint32_t layer = 0; layer < N_LAYERS && err == KVMOD_OK; layer++)
		err = make_segment(p, needs, type, layer);
	return err;
}

/* A plan that leaves a segment whole because of an error is a mistake of the policy. */
static int judge(const struct kvmod_request *request, const struct kvmod_plan *plan, uint32_t flags)
{
	for (uint32_t i = 0; i < plan->n_keeps; i++) {
		int err = kvmod_keep_at(plan, i)->status;

		if (err)
			return kv_fail(err, "the plan for layer %u was refused: %s", i,
				       kvmod_strerror(err));
		err = kvmod_plan_check(request, plan, i, flags);
		if (err)
			return err;
	}
	return KVMOD_OK;
}

static int decide(struct probe *p, struct kvmod_policy *policy, uint32_t phase)
{
	struct kvmod_plan *plan;
	int err = kvmod_plan_new(&p->d.request, &plan);

	if (err)
		return err;
	p->d.request.phase = phase;
	err = kvmod_decide(policy, &p->d.request, plan);
	if (err == KVMOD_OK)
		err = judge(&p->d.request, plan, kvmod_policy_ops(policy)->flags);
	kvmod_plan_free(plan);
	return err;
}

static int run(struct probe *p, struct kvmod_policy *policy)
{
	int err = kvmod_policy_begin(policy, SEQUENCE, &p->d.request.state);

	if (err)
		return err;
	err = decide(p, policy, KVMOD_PREFILL);
	if (err == KVMOD_OK && kvmod_policy_needs(policy)->decode_every)
		err = decide(p, policy, KVMOD_DECODE);
	kvmod_policy_end(policy, SEQUENCE, p->d.request.state);
	return err;
}

int kv_probe_policy(struct kvmod_ctx *ctx, const char *name, const char *device,
		    kv_step_fn *step, void *arg)
{
	struct kvmod_model model = kv_model_of_shape(&shape, 4096);
	struct kvmod_policy *policy;
	struct probe *p;
	int err;

	step(arg, "opening it");
	err = kvmod_policy_open(ctx, name, device, &model, &policy);
	if (err)
		return err;
	policy->staging.said = true;	/* nobody cares where a made-up cache is */
	p = calloc(1, sizeof(*p));
	err = p ? make_request(p, kvmod_policy_needs(policy)) : kv_no_memory();
	if (err == KVMOD_OK) {
		step(arg, "deciding");
		err = run(p, policy);
	}
	if (p) {
		kv_undescribe(&p->d);
		kv_arena_free(&p->arena);
	}
	free(p);
	step(arg, "closing it");
	kvmod_policy_close(policy);
	return err;
}

/* --- an engine --------------------------------------------------------------------------- */

static int open_for(struct kvmod_engine *engine, const char *name)
{
	struct kvmod_policy *policy;
	int err = kvmod_policy_open(kv_engine_ctx(engine), name, NULL, kvmod_engine_model(engine),
				    &policy);

	if (err == KVMOD_OK) {
		err = kv_engine_serves(engine, policy);
		kvmod_policy_close(policy);
	}
	/* Some messages name the policy themselves. */
	return err && strncmp(kvmod_error(), "policy ", 7) ? kv_fail_in(err, "with policy %s", name) :
							     err;
}

int kv_probe_engine(struct kvmod_ctx *ctx, const char *name, const char *policy,
		    kv_step_fn *step, void *arg)
{
	struct kvmod_engine *engine;
	int err;

	step(arg, "opening it");
	err = kv_engine_check(ctx, name, &engine);
	if (err)
		return err;
	if (policy) {
		step(arg, "opening the policy for its model");
		err = open_for(engine, policy);
	}
	step(arg, "closing it");
	kvmod_engine_close(engine);
	return err;
}
