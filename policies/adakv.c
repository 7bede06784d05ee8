/* SPDX-License-Identifier: Apache-2.0 */
/*
 * AdaKV (arXiv 2407.11550): SnapKV's scores, but the KV heads of a layer compete
 * for its budget. Each head is sure of a share alpha of its own; the rest goes by
 * how much of the layer's heaviest it holds. Counts differ from head to head.
 */
#include "policies/adakv.h"

#include <math.h>

KVMOD_PARAMS(policy, adakv, ADAKV_PARAMS);

/* One call: the scores of all heads, those of a layer end to end. */
struct decision {
	const struct adakv *self;
	const struct kvmod_request *request;
	float *scores;
	size_t layer_floats;
};

/* Whole cache lines: the workers' scratch follows the scores. */
static size_t layer_floats(const struct kv_extent *extent)
{
	return ((size_t)extent->n_kv_heads * extent->n + 15) / 16 * 16;
}

static int32_t adakv_workspace(void *self, const struct kvmod_request *request,
			       struct kvmod_workspace *need)
{
	struct kv_extent extent = kv_extent(request);

	need->host = request->n_segments * layer_floats(&extent) * sizeof(float) +
		     kv_scratch_bytes(self, request, kv_attention_floats(&extent));
	return 0;
}

/* Positions of a head that are not in the window. */
static uint32_t scored(const struct adakv *self, const struct kvmod_segment *segment, uint32_t g)
{
	uint32_t n = kvmod_head_at(segment, g)->n, window = (uint32_t)self->window;

	return n > window ? n - window : 0;
}

/* B: what its own budget leaves a head besides the window. A head may have less. */
static uint64_t own_budget(const struct decision *d, const struct kvmod_segment *segment)
{
	uint32_t window = (uint32_t)d->self->window;

	return kv_budget(d->request, segment, &d->self->budget, window) - window;
}

static float *scores_of(const struct decision *d, const struct kvmod_segment *segment,
			uint32_t i, uint32_t g)
{
	float *scores = d->scores + i * d->layer_floats;

	for (uint32_t h = 0; h < g; h++)
		scores += scored(d->self, segment, h);
	return scores;
}

static int32_t score_head(const void *d_, const struct kv_task *t)
{
	const struct decision *d = d_;
	const struct adakv *self = d->self;
	const float *scores;
	int32_t error = kv_window_scores(t, (uint32_t)self->window, (uint32_t)self->pool,
					 self->pooling, &scores);

	if (error == 0)
		memcpy(scores_of(d, t->segment, t->i, t->g), scores,
		       scored(self, t->segment, t->g) * sizeof(*scores));
	return error;
}

/*
 * How many of the layer's `budget` heaviest positions are each head's. Ties go
 * to the older position, and of equal positions to the first head.
 */
static void count_heaviest(const struct decision *d, const struct kvmod_segment *segment,
			   uint32_t layer, size_t n, size_t budget, uint32_t *counts)
{
	const float *scores = scores_of(d, segment, layer, 0);
	struct kv_cut cut = kv_heaviest(scores, n, budget);
	uint32_t longest = 0;

	for (uint32_t g = 0; g < segment->n_kv_heads; g++) {
		uint32_t m = scored(d->self, segment, g);

		longest = m > longest ? m : longest;
		counts[g] = 0;
		for (uint32_t i = 0; i < m; i++)
			counts[g] += kv_order(scores[i]) > cut.key;
		scores += m;
	}
	for (uint32_t i = 0; i < longest && cut.ties; i++) {
		for (uint32_t g = 0; g < segment->n_kv_heads && cut.ties; g++) {
			if (i >= scored(d->self, segment, g) ||
			    kv_order(scores_of(d, segment, layer, g)[i]) != cut.key)
				continue;
			counts[g]++;
			cut.ties--;
		}
	}
}

/*
 * Heads that an earlier cut left less than their share give the rest to those that
 * have more: to each as many, the last few to the first of them.
 */
static void hand_on(const struct decision *d, const struct kvmod_segment *segment,
		    uint64_t excess, uint32_t *counts)
{
	while (excess > 0) {
		uint32_t n_open = 0;
		uint64_t each;

		for (uint32_t g = 0; g < segment->n_kv_heads; g++)
			n_open += counts[g] < scored(d->self, segment, g);
		if (n_open == 0)
			return;
		each = excess > n_open ? excess / n_open : 1;
		for (uint32_t g = 0; g < segment->n_kv_heads && excess > 0; g++) {
			uint64_t room = scored(d->self, segment, g) - counts[g];
			uint64_t more = room < each ? room : each;

			counts[g] += (uint32_t)more;
			excess -= more;
		}
	}
}

/* How many scored positions each head may keep, in keep->counts. */
static void share_out(const struct decision *d, const struct kvmod_segment *segment,
		      uint32_t layer, struct kvmod_keep *keep)
{
	double alpha = d->self->alpha, sure = floor(alpha * (double)own_budget(d, segment));
	size_t n = 0, budget = segment->n_kv_heads * own_budget(d, segment);
	uint64_t excess = 0;

	for (uint32_t g = 0; g < segment->n_kv_heads; g++)
		n += scored(d->self, segment, g);
	if (budget < n)
		count_heaviest(d, segment, layer, n, budget, keep->counts);
	for (uint32_t g = 0; g < segment->n_kv_heads; g++) {
		uint32_t m = scored(d->self, segment, g);
		/* Halves to even, as its code rounds. */
		uint64_t share = budget < n ? (uint64_t)rint((1 - alpha) * keep->counts[g] + sure) : m;

		keep->counts[g] = share < m ? (uint32_t)share : m;
		excess += share - keep->counts[g];
	}
	hand_on(d, segment, excess, keep->counts);
}

static int32_t keep_head(const void *d_, const struct kv_task *t)
{
	const struct decision *d = d_;

	kv_keep_heaviest(t, scores_of(d, t->segment, t->i, t->g),
			 scored(d->self, t->segment, t->g), t->keep->counts[t->g]);
	return 0;
}

static int32_t adakv_compress(void *self_, const struct kvmod_request *request,
			      struct kvmod_plan *plan)
{
	struct adakv *self = self_;
	const struct kvmod_instance *instance = &self->instance;
	struct kv_extent extent = kv_extent(request);
	size_t floats = kv_attention_floats(&extent);
	struct decision d = {
		.self = self,
		.request = request,
		.scores = request->scratch,
		.layer_floats = layer_floats(&extent),
	};
	float *scratch = d.scores + request->n_segments * d.layer_floats;

	kv_mark_over_budget(instance, request, plan, &self->budget,
			    (uint32_t)self->window, &self->said_raised);
	kv_each_head(instance, request, plan, scratch, floats, score_head, &d);
	for (uint32_t i = 0; i < request->n_segments; i++) {
		struct kvmod_keep *keep = kvmod_keep_at(plan, i);

		if (keep->kind == KVMOD_KEEP_HEADS && keep->status == 0)
			share_out(&d, kvmod_segment_at(request, i), i, keep);
	}
	kv_each_head(instance, request, plan, scratch, floats, keep_head, &d);
	return 0;
}

static const struct kvmod_policy_ops adakv_ops = {
	.size = sizeof(adakv_ops),
	.name = "adakv",
	.description = "SnapKV's scores, heads of a layer share its budget (2407.11550)",
	.devices = KVMOD_ON_CPU,
	.instance_size = sizeof(struct adakv),
	.params = adakv_params,
	.n_params = sizeof(adakv_params) / sizeof(*adakv_params),
	.open = adakv_open,
	.needs = adakv_needs,
	.workspace = adakv_workspace,
	.compress = adakv_compress,
};

static int32_t adakv_init(const struct kvmod_host *host)
{
	return host->register_policy(host->ctx, &adakv_ops);
}

KVMOD_MODULE("adakv", "0.1.0", "Apache-2.0", "The kvmod authors",
	     "AdaKV: SnapKV's scores, a budget that the KV heads of a layer share", 0,
	     adakv_init, NULL);
