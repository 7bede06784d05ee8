/* SPDX-License-Identifier: Apache-2.0 */
/* The host's side of ReFreeKV's decision where positions are ranked by attention. */
#include "kernels/cuda/attention/tasks.h"
#include "kernels/cuda/refreekv/by_attention.h"

static int check(const struct kv_attention_params *p, const uint32_t *amounts)
{
	return amounts && p->window && p->pool == 1 ? 0 : KVMOD_EINVAL;
}

static uint32_t norm_rows(uint32_t amount)
{
	return amount;
}

static bool reads(const struct kv_attention_params *p, const struct kv_attention_task *t)
{
	return t->m > 0 && p->share > 0;
}

const struct kv_attention_rule kv_refreekv_by_attention = {
	.sorts = 1,
	.equal_heads = 1,
	.has_loss = 1,
	.check = check,
	.head_rows = norm_rows,
	.reads = reads,
	.launch = kv_cuda_refreekv_by_attention,
};
