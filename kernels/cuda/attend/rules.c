/* SPDX-License-Identifier: Apache-2.0 */
/* The host's side of the rules that select by attention. */
#include "kernels/cuda/attend/attend.h"
#include "kernels/cuda/attention/tasks.h"

static int check_budget(const struct kv_attention_params *p, const uint32_t *amounts)
{
	return amounts && p->window ? 0 : KVMOD_EINVAL;
}

static int check_mass(const struct kv_attention_params *p, const uint32_t *amounts)
{
	(void)amounts;
	return p->window || p->sinks || p->tail || p->pool != 1 ? KVMOD_EINVAL : 0;
}

static uint32_t last_row(uint32_t amount)
{
	(void)amount;
	return 1;
}

static bool is_over_budget(const struct kv_attention_params *p, const struct kv_attention_task *t)
{
	(void)p;
	return t->m > t->budget;
}

static bool has_positions(const struct kv_attention_params *p, const struct kv_attention_task *t)
{
	(void)p;
	return t->n > 0;
}

const struct kv_attention_rule kv_attend_top = {
	.number = KV_ATTEND_TOP,
	.averages = 1,
	.check = check_budget,
	.reads = is_over_budget,
	.launch = kv_cuda_attend,
};

/* A head below its own budget is read too: other heads may use the rest of its budget. */
const struct kv_attention_rule kv_attend_shared = {
	.number = KV_ATTEND_SHARED,
	.averages = 1,
	.check = check_budget,
	.reads = has_positions,
	.launch = kv_cuda_attend,
};

const struct kv_attention_rule kv_attend_mass = {
	.number = KV_ATTEND_MASS,
	.check = check_mass,
	.head_rows = last_row,
	.reads = has_positions,
	.launch = kv_cuda_attend,
};
