/* SPDX-License-Identifier: Apache-2.0 */
/*
 * R-KV (arXiv 2505.24133): for long chains of thought, which repeat themselves. Keeps what
 * the newest queries attend to and what is not there already: a score is attention less
 * redundancy. A set for each KV head, cut while decoding.
 */
#include <string.h>

#include <kvmod/scorer.h>

struct rkv {
	struct kvmod_scorer scorer;
	double lambda, similarity;
	int32_t after_prompts;
};

#define PARAMS(P, owner) \
	KVMOD_P_BUDGET(P, owner, "128") \
	KVMOD_P_PROBES(P, owner, "8") \
	KVMOD_P_POOL(P, owner, "7") \
	P(owner, struct rkv, lambda, REAL, "0.07", "0..1", \
	  "weight of attention; the rest is that of redundancy (the paper: 0.1)") \
	P(owner, struct rkv, similarity, REAL, "0.5", "0..1", \
	  "cosine above which two keys are near-duplicates") \
	P(owner, struct rkv, after_prompts, BOOL, "no", "", \
	  "cut after prompts too (the authors' code: yes)") \
	KVMOD_P_DECODE_EVERY(P, owner, "128")

#define BLOCK	16			/* keys that are compared with all keys in one pass */
#define TILE	64			/* of these keys, from the newest on: most rows are done soon */
#define EPSILON	1e-8f			/* so that a key of zeros has a direction: none */

static int32_t open_rkv(void *self_, const struct kvmod_model *model)
{
	const struct rkv *self = self_;
	const struct kvmod_host *host = self->scorer.instance.host;

	(void)model;
	if (self->scorer.decode_every == 0 && !self->after_prompts)
		return host->fail(host->ctx, KVMOD_EINVAL, "decode_every = 0 and after_prompts = no: "
				  "nothing would ever be cut");
	return KVMOD_OK;
}

static int32_t cuts(const void *self, const struct kvmod_request *request)
{
	return request->phase == KVMOD_DECODE || ((const struct rkv *)self)->after_prompts;
}

/* The keys of a head, and memory to compare them with each other. */
struct keys {
	const struct kvmod_task *head;
	uint32_t dim;
	float *length, *limit;		/* [n]; a product with a unit key above limit is a similarity */
	float *unit;			/* [BLOCK][dim] */
	float *dots;			/* [BLOCK][TILE] */
};

/* --- attention ----------------------------------------------------------------------- */

/* As the authors' code has it: the largest of each group's logits; NaN stays. */
static void largest(float *logits, uint32_t group, size_t stride, uint32_t n)
{
	for (uint32_t h = 1; h < group; h++)
		for (uint32_t i = 0; i < n; i++) {
			float x = logits[h * stride + i];

			logits[i] = x > logits[i] || x != x ? x : logits[i];
		}
}

/* out[m]: the mean over rows of a softmax over the first m positions alone; logits: [group][n]. */
static int32_t attention(const struct rkv *self, const struct kvmod_task *head, float *logits,
			 float *out)
{
	const struct kvmod_segment *s = head->segment;
	uint32_t window = (uint32_t)self->scorer.window, rows = window < s->n_rows ? window : s->n_rows;

	memset(out, 0, head->m * sizeof(*out));
	for (uint32_t row = s->n_rows - rows; row < s->n_rows; row++) {
		uint32_t sees = kvmod_row_sees(s, head->head, row), n = sees < head->m ? sees : head->m;

		head->kit->logits(head, row, 1, logits, head->n);
		largest(logits, head->group, head->n, n);
		if (head->kit->softmax(logits, n))
			return head->kit->fail(head, KVMOD_ENUMERIC, "attention is not finite: NaN or "
					       "infinity in its keys or queries");
		for (uint32_t i = 0; i < n; i++)
			out[i] += logits[i] / (float)rows;
	}
	return KVMOD_OK;
}

/* --- redundancy ------------------------------------------------------------------------ */

/* The newest of n products that is above its limit, counted from 1; 0: none is. */
static uint32_t newest_above(const float *dots, const float *limit, uint32_t n)
{
	while (n > 0 && !(dots[n - 1] > limit[n - 1]))
		n--;
	return n;
}

/*
 * Cosines of keys begin .. begin + n - 1 with all keys, from the newest on: in each row the
 * newest near-duplicate does not count, or, where there is none, position 0 (so the
 * authors' code). A row that has found its own is done.
 */
static void discount(const struct keys *k, uint32_t begin, uint32_t n, float *sums)
{
	const struct kvmod_toolkit *kit = k->head->kit;
	const struct kvmod_view *view = &k->head->head->k;
	uint32_t row[BLOCK], first, left;

	kit->rows(view, k->dim, begin, begin + n, k->unit, k->dim);
	for (uint32_t r = 0; r < n; r++) {
		row[r] = begin + r;
		for (uint32_t d = 0; d < k->dim; d++)
			k->unit[r * k->dim + d] /= k->length[row[r]];
	}
	for (uint32_t end = k->head->n; end > 0 && n > 0; end = first, n = left) {
		first = end > TILE ? end - TILE : 0;
		left = 0;
		kit->dots(view, k->dim, first, end, k->unit, n, k->dots, TILE);
		for (uint32_t r = 0; r < n; r++) {
			float *dots = k->dots + r * TILE;
			uint32_t j;

			if (row[r] >= first && row[r] < end)
				dots[row[r] - first] = 0;
			j = newest_above(dots, k->limit + first, end - first);
			if (j > 0 || first == 0) {
				j -= j > 0;
				sums[first + j] -= dots[j] / k->length[first + j];
				continue;
			}
			memmove(k->unit + left * k->dim, k->unit + r * k->dim, k->dim * sizeof(float));
			row[left++] = row[r];
		}
	}
}

/*
 * out[n]: softmax of each key's mean cosine to the others. The sum of all cosines needs no
 * pairs: it is the product with the sum of unit keys. Only near-duplicates are looked for.
 */
static int32_t redundancy(const struct rkv *self, const struct keys *k, float *out)
{
	const struct kvmod_toolkit *kit = k->head->kit;
	const struct kvmod_view *view = &k->head->head->k;
	uint32_t n = k->head->n;

	kit->norms(view, k->dim, 0, n, k->length);
	for (uint32_t i = 0; i < n; i++) {
		k->length[i] += EPSILON;
		k->limit[i] = (float)self->similarity * k->length[i];
		out[i] = 1 / k->length[i];
	}
	kit->sum(view, k->dim, 0, n, out, k->unit);
	kit->dots(view, k->dim, 0, n, k->unit, 1, out, n);
	for (uint32_t i = 0; i < n; i++) {
		float own = (k->length[i] - EPSILON) / k->length[i];

		out[i] = out[i] / k->length[i] - own * own;
	}
	for (uint32_t i = 0; i < n; i += BLOCK)
		discount(k, i, n - i < BLOCK ? n - i : BLOCK, out);
	for (uint32_t i = 0; i < n; i++)
		out[i] /= (float)n;
	if (kit->softmax(out, n))
		return kit->fail(k->head, KVMOD_ENUMERIC, "redundancy is not finite: NaN or infinity "
				 "in its keys");
	return KVMOD_OK;
}

/* --- both -------------------------------------------------------------------------------- */

/* Logits of a group, or lengths and limits; attention, or redundancy; a block. */
static size_t floats(const void *self, const struct kvmod_request *request)
{
	struct kvmod_extent most = kvmod_extent_of(request);

	(void)self;
	return ((size_t)(most.group > 2 ? most.group : 2) + 1) * most.n +
	       (size_t)BLOCK * (most.head_dim + TILE);
}

static int32_t score(const void *self_, const struct kvmod_task *head, float *out)
{
	const struct rkv *self = self_;
	uint32_t n = head->n, group = head->group > 2 ? head->group : 2;
	float *first = head->scratch, *second = first + (size_t)group * n;
	const struct keys k = {
		.head = head, .dim = head->segment->head_dim, .length = first, .limit = first + n,
		.unit = second + n, .dots = second + n + (size_t)BLOCK * head->segment->head_dim,
	};
	int32_t error = attention(self, head, first, second);

	if (error)
		return error;
	head->kit->pool(second, head->m, (uint32_t)self->scorer.pool, KVMOD_POOL_MAX, out);
	error = redundancy(self, &k, second);
	for (uint32_t i = 0; i < head->m && error == KVMOD_OK; i++)
		out[i] = (float)(self->lambda * (double)out[i] - (1 - self->lambda) * (double)second[i]);
	return error;
}

KVMOD_SCORER(rkv, struct rkv, PARAMS, "0.2.0", "Apache-2.0", "The kvmod authors",
	     "attention less redundancy, while decoding (2505.24133)",
	     .score = score, .what = KVMOD_NEED_K, .rows = KVMOD_ROWS_OF_WINDOW,
	     .flags = KVMOD_SCORER_POOLS, .floats = floats, .open = open_rkv, .cuts = cuts);
