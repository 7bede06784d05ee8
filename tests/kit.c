/* SPDX-License-Identifier: Apache-2.0 */
/* The policy of tests/kit.h, and the run that ends in it. */
#define KVMOD_MODULE_SYMBOL kit_module
#include "tests/kit.h"

#include <stdio.h>

#define PARAMS(P, owner) \
	P(owner, struct tested, floats, INT, "1000", "", "floats of scratch; -1: none are asked for") \
	P(owner, struct tested, rows, INT, "5", "0..100", "of queries")

const struct kvmod_toolkit *kit;
static kvmod_task_fn *task_fn;
void (*kit_before)(struct tested *self, const struct kvmod_request *request);

static int32_t say_needs(void *self, struct kvmod_needs *needs)
{
	needs->what = KVMOD_NEED_K;
	needs->rows.is_count = 1;
	needs->rows.value = (double)((struct tested *)self)->rows;
	return KVMOD_OK;
}

static int32_t workspace(void *self_, const struct kvmod_request *request,
			 struct kvmod_workspace *need)
{
	const struct tested *self = self_;

	if (self->floats >= 0)
		need->host = kit->scratch_bytes(self_, request, (size_t)self->floats);
	return KVMOD_OK;
}

static int32_t compress(void *self_, const struct kvmod_request *request, struct kvmod_plan *plan)
{
	struct tested *self = self_;

	if (kit_before)
		kit_before(self, request);
	for (uint32_t i = 0; i < request->n_segments; i++)
		kvmod_keep_at(plan, i)->kind = KVMOD_KEEP_HEADS;
	kit->each_head(self_, request, plan, request->scratch,
		       self->floats > 0 ? (size_t)self->floats : 0, task_fn, self);
	return KVMOD_OK;
}

KVMOD_POLICY(tested, struct tested, PARAMS, "", 0, "cpu", .needs = say_needs,
	     .workspace = workspace, .compress = compress)

static int32_t kit_init(const struct kvmod_host *host)
{
	kit = host->get_extension(host->ctx, KVMOD_TOOLKIT);
	ck_assert_ptr_null(host->get_extension(host->ctx, "kvmod.toolkit/2"));
	ck_assert_ptr_null(host->get_extension(host->ctx, ""));
	return tested_init(host);
}

KVMOD_MODULE("kit", "1", "Apache-2.0", "", "", 0, kit_init, NULL);

void kit_get(void)
{
	struct kvmod_ctx *ctx = fixture_context();

	assert_ok(kvmod_add_builtin(ctx, &kit_module));
	ck_assert_ptr_nonnull(kit);
	ck_assert_uint_eq(kit->size, sizeof(*kit));
	kvmod_unref(ctx);
}

const struct kv_shape kit_shape = {
	.n_layers = 2, .n_segments = 2, .n_q_heads = 6, .n_kv_heads = 3, .head_dim = 20,
	.type = KVMOD_F32,
};

struct kvmod_plan *kit_run(const struct madeup *m, const char *params, kvmod_task_fn *fn)
{
	struct kvmod_ctx *ctx = fixture_context();
	struct kvmod_model model = madeup_model(&m->shape);
	struct kvmod_policy *policy;
	struct kvmod_plan *plan;
	char text[256];

	task_fn = fn;
	fixture_log[0] = '\0';
	snprintf(text, sizeof(text), "[kvmod]\nthreads = 8\n[policy tested]\n%s\n", params);
	assert_ok(kvmod_add_builtin(ctx, &kit_module));
	assert_ok(fixture_configure(ctx, text));
	assert_ok(kvmod_policy_open(ctx, "tested", "cpu", &model, &policy));
	assert_ok(kvmod_plan_new(&m->d.request, &plan));
	assert_ok(kvmod_decide(policy, &m->d.request, plan));
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
	return plan;
}

struct madeup kit_cache(const struct kv_shape *shape, uint32_t n)
{
	struct madeup m;

	ck_assert_int_eq(madeup_first(&m, shape, n, 5, 0), 0);
	return m;
}

void kit_run_and_free(struct madeup *m, const char *params, kvmod_task_fn *fn)
{
	struct kvmod_plan *plan = kit_run(m, params, fn);

	for (uint32_t i = 0; i < plan->n_keeps; i++)
		ck_assert_msg(kvmod_keep_at(plan, i)->status == 0, "%s", fixture_log);
	kvmod_plan_free(plan);
	madeup_free(m);
}
