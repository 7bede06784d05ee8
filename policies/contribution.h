/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The score of the policies contribution and replay. A position's share in a row's output of
 * attention is its attention times the length of its value, as a part of the sum over all
 * positions; its score is the largest share in any of the newest rows, and of any neighbour.
 */
#ifndef KV_POLICIES_CONTRIBUTION_H
#define KV_POLICIES_CONTRIBUTION_H

#include <string.h>

#include <kvmod/scorer.h>

struct contribution {
	struct kvmod_scorer scorer;
	int64_t rows, pool;
};

#define CONTRIBUTION_PARAMS(P, owner) \
	KVMOD_P_LEVEL(P, owner, "0.03") \
	KVMOD_P_SINKS(P, owner, "4") \
	KVMOD_P_WINDOW(P, owner, "32") \
	P(owner, struct contribution, rows, INT, "64", "1..4096", \
	  "newest queries that score the positions") \
	P(owner, struct contribution, pool, INT, "33", "1..255", \
	  "a score becomes the largest of so many neighbours, odd; 1: none")

static int32_t contribution_check(void *self, const struct kvmod_model *model)
{
	(void)model;
	return kvmod_check_pool(self, ((const struct contribution *)self)->pool);
}

static int32_t contribution_rows(const void *self, struct kvmod_needs *needs)
{
	needs->rows.value = (double)((const struct contribution *)self)->rows;
	return KVMOD_OK;
}

static size_t contribution_floats(const void *self, const struct kvmod_request *request)
{
	(void)self;
	return 2 * (size_t)kvmod_extent_of(request).n;
}

/* The window is scored too: a position before it may be the neighbour of one in it. */
static int32_t contribution_score(const void *self_, const struct kvmod_task *head, float *out)
{
	const struct contribution *self = self_;
	float *lengths = head->scratch, *shares = lengths + head->n, *pooled = lengths;
	int32_t error;

	head->kit->norms(&head->head->v, head->segment->head_dim, 0, head->n, lengths);
	error = head->kit->max_attention(head, (uint32_t)self->rows, lengths, head->n, shares);
	if (error)
		return error;
	head->kit->pool(shares, head->n, (uint32_t)self->pool, KVMOD_POOL_MAX, pooled);
	memcpy(out, pooled, head->m * sizeof(*out));
	return KVMOD_OK;
}

#define CONTRIBUTION_NEEDS \
	.what = KVMOD_NEED_K | KVMOD_NEED_V, \
	.floats = contribution_floats, .open = contribution_check, .needs = contribution_rows

#endif
