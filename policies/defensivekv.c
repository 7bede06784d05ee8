/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DefensiveKV (arXiv 2510.13334): a position is worth the most that any row and query head
 * ever paid it, not the mean, times its share of the layer's |Wo v|_1. All layers and heads
 * compete for one budget; what holds most of a head's attention comes first.
 */
#include <string.h>

#include <kvmod/scorer.h>

struct defensivekv {
	struct kvmod_scorer scorer;
	double first;
};

#define PARAMS(P, owner) \
	KVMOD_P_BUDGET(P, owner, "0.25") \
	KVMOD_P_PROBES(P, owner, "32") \
	KVMOD_P_POOL(P, owner, "5") \
	P(owner, struct defensivekv, first, REAL, "0.9", "0..1", \
	  "mass of a head's mean attention that comes first")

/* A row, pooled; or |Wo v| of one head, and of all heads of the layer. */
static size_t floats(const void *self, const struct kvmod_request *request)
{
	(void)self;
	return 2 * (size_t)kvmod_extent_of(request).n;
}

struct rows {
	const struct kvmod_task *head;
	uint32_t window, pool;
	float *most;			/* [m]: of any row */
	double recent;			/* attention just before the window, of all rows */
};

static void add_row(void *rows, uint32_t row, uint32_t h, float *a)
{
	struct rows *t = rows;
	uint32_t m = t->head->m, recent = t->window < m ? t->window : m;
	const struct kvmod_toolkit *kit = t->head->kit;
	float *pooled = t->head->scratch, scale;
	double all;

	(void)row;
	(void)h;
	kit->pool(a, m, t->pool, KVMOD_POOL_AVERAGE, pooled);
	all = kit->total(pooled, m);
	scale = all > 0 ? (float)(kit->total(a, m) / all) : 0;
	for (uint32_t i = 0; i < m; i++) {
		float p = pooled[i] * scale;

		t->most[i] = p > t->most[i] ? p : t->most[i];
		t->head->notes[i] += a[i];
	}
	t->recent += kit->total(a + m - recent, recent);
}

/* Times the head's share of |Wo v| of all heads of the layer that cache the position. */
static int32_t weigh(const struct kvmod_task *head, float *out)
{
	float *norms = head->scratch, *all = norms + head->n;
	int32_t err = KVMOD_OK;

	memset(all, 0, head->m * sizeof(*all));
	for (uint32_t g = 0; g < head->segment->n_kv_heads && err == KVMOD_OK; g++) {
		err = head->kit->wo_norms(head, g, norms);
		for (uint32_t i = 0; i < head->m && err == KVMOD_OK; i++)
			all[i] += norms[i];
	}
	if (err == KVMOD_OK)
		err = head->kit->wo_norms(head, head->g, norms);
	for (uint32_t i = 0; i < head->m && err == KVMOD_OK; i++)
		out[i] *= all[i] > 0 ? norms[i] / all[i] : 0;
	return err;
}

static int32_t score(const void *self_, const struct kvmod_task *head, float *out)
{
	const struct defensivekv *self = self_;
	uint32_t window = (uint32_t)self->scorer.window, given = head->segment->n_rows;
	struct rows t = {
		.head = head, .window = window, .pool = (uint32_t)self->scorer.pool, .most = out,
	};
	float mean;
	int32_t err;

	memset(out, 0, head->m * sizeof(*out));
	memset(head->notes, 0, head->m * sizeof(*head->notes));
	err = head->kit->each_row(head, window, add_row, &t);
	if (err)
		return err;
	head->sums[0] += t.recent / (given < window ? given : window);
	mean = (float)(head->kit->total(out, head->m) / head->m);
	for (uint32_t i = 0; i < head->m; i++)
		out[i] = out[i] > mean ? out[i] : mean;
	return weigh(head, out);
}

/* As many of the heaviest, by mean attention, as hold less than `first`, and fit the budget. */
static int32_t first(const void *self_, const struct kvmod_task *head, uint8_t *marks)
{
	const struct defensivekv *self = self_;
	uint64_t n = 0, most = head->budget - (uint64_t)self->scorer.window;
	double share = self->first - head->sums[0] / head->segment->n_q_heads;
	double mass = share * head->kit->total(head->notes, head->m);

	if (mass <= 0)
		return KVMOD_OK;
	/* As few as hold that much, but the last of them. */
	head->kit->mark_mass(head->notes, head->m, mass, marks);
	for (uint32_t i = 0; i < head->m; i++)
		n += marks[i];
	memset(marks, 0, head->m);
	head->kit->mark_heaviest(head->notes, head->m, n - 1 < most ? n - 1 : most, marks);
	return KVMOD_OK;
}

KVMOD_SCORER(defensivekv, struct defensivekv, PARAMS, "0.2.0", "Apache-2.0", "The kvmod authors",
	     "by the worst case of attention and |Wo v|, all layers share (2510.13334)",
	     .score = score, .select = KVMOD_PER_SEQUENCE,
	     .what = KVMOD_NEED_K | KVMOD_NEED_WO_NORM, .rows = KVMOD_ROWS_OF_WINDOW,
	     .flags = KVMOD_SCORER_POOLS, .floats = floats, .first = first, .n_sums = 1);
