/* SPDX-License-Identifier: Apache-2.0 */
/*
 * @NAME@: a policy for kvmod. A scorer gives each position a score; the toolkit keeps
 * the positions with the highest scores. This one is Knorm (arXiv 2406.11430): keys of
 * small norm draw attention. kvmod-module(7) lists everything that a scorer may read.
 */
#include <kvmod/scorer.h>

/* Parameters with their defaults; `kvmod info` shows them, kvmod.conf sets them. */
#define PARAMS(P, owner) \
	KVMOD_P_BUDGET(P, owner, "0.5") \
	KVMOD_P_WHOLE_LAYERS(P, owner, "2") \
	KVMOD_P_DECODE_EVERY(P, owner, "64")

/* out[i] is the score of position i of this KV head; the highest are kept. */
static int32_t score(const void *self, const struct kvmod_task *head, float *out)
{
	(void)self;
	head->kit->norms(&head->head->k, head->segment->head_dim, 0, head->m, out);
	for (uint32_t i = 0; i < head->m; i++)
		out[i] = -out[i];
	return KVMOD_OK;
}

KVMOD_SCORER(@NAME@, struct kvmod_scorer, PARAMS, "0.1.0", "Apache-2.0", "@AUTHOR@",
	     "keeps the keys of smallest norm", .score = score, .what = KVMOD_NEED_K);
