/* SPDX-License-Identifier: Apache-2.0 */
/* Scorers: the policies that kvmod/scorer.h makes of an author's score(). */
#include "core/toolkit/scorer.h"

#include <math.h>
#include <stddef.h>

/* --- open and needs ----------------------------------------------------------------- */

static bool lists(const struct kvmod_policy_ops *ops, size_t offset)
{
	for (uint32_t i = 0; i < ops->n_params; i++)
		if (ops->params[i].offset == offset)
			return true;
	return false;
}

/* The parameter that a scorer needs for its choices but does not list; NULL: none is missing. */
static const char *what_is_missing(const struct kvmod_policy_ops *policy,
				   const struct kvmod_scorer_ops *ops)
{
	if (ops->rows == KVMOD_ROWS_OF_WINDOW && !lists(policy, offsetof(struct kvmod_scorer, window)))
		return "the parameter `window`";
	if (ops->least && !ops->keep)
		return "keep(), which least() needs";
	if (ops->least && !lists(policy, offsetof(struct kvmod_scorer, budget)))
		return "the parameter `budget`";
	if (ops->keep)
		return NULL;
	if (!ops->score)
		return "score() or keep()";
	if (ops->select > KVMOD_ABOVE_LEVEL)
		return "a known way to select";
	if (ops->share && ops->select != KVMOD_PER_LAYER)
		return "KVMOD_PER_LAYER, which share() needs";
	if (ops->select == KVMOD_ABOVE_LEVEL && !lists(policy, offsetof(struct kvmod_scorer, level)))
		return "the parameter `level`";
	if (ops->select != KVMOD_ABOVE_LEVEL && !lists(policy, offsetof(struct kvmod_scorer, budget)))
		return "the parameter `budget`";
	return NULL;
}

int32_t kv_scorer_open(void *self_, const struct kvmod_scorer_ops *ops,
		       const struct kvmod_model *model)
{
	const struct kvmod_scorer *self = self_;
	const struct kvmod_policy_ops *policy = self->instance.ops;
	const struct kvmod_host *host = self->instance.host;
	const char *missing = what_is_missing(policy, ops);
	int32_t err = KVMOD_OK;

	if (missing)
		return host->fail(host->ctx, KVMOD_EINVAL, "the scorer %s lacks %s", policy->name,
				  missing);
	if (lists(policy, offsetof(struct kvmod_scorer, pool)))
		err = kvmod_check_pool(&self->instance, self->pool);
	return err == KVMOD_OK && ops->open ? ops->open(self_, model) : err;
}

int32_t kv_scorer_needs(void *self_, const struct kvmod_scorer_ops *ops, struct kvmod_needs *needs)
{
	const struct kvmod_scorer *self = self_;

	needs->what = ops->what;
	if (!ops->keep && ops->select == KVMOD_PER_REQUEST)
		needs->what |= KVMOD_NEED_ALL_LAYERS;
	needs->decode_every = (uint32_t)self->decode_every;
	needs->rows.is_count = 1;
	needs->rows.value = ops->rows == KVMOD_ROWS_OF_WINDOW ? (double)self->window : ops->rows;
	return ops->needs ? ops->needs(self_, needs) : KVMOD_OK;
}

/* --- memory ---------------------------------------------------------------------------- */

static bool shares(const struct kvmod_scorer_ops *ops)
{
	return !ops->keep && (ops->select == KVMOD_PER_LAYER || ops->select == KVMOD_PER_REQUEST);
}

/* Two arrays of scores, before and after pooling, then the author's scratch. */
static size_t thread_floats(const struct kv_scorer_job *job)
{
	size_t own = job->ops->floats ? job->ops->floats(job->self, job->request) : 0;

	return job->ops->keep ? own : 2 * kv_whole_lines(job->extent.n) + own;
}

/* Divides the request's scratch, or only counts its bytes; returns where the threads' begins. */
static size_t lay_out(struct kv_scorer_job *job, char *memory)
{
	size_t heads = (size_t)job->request->n_segments * job->extent.n_kv_heads;
	size_t scores = shares(job->ops) ? kv_whole_lines(heads * job->extent.n) * sizeof(float) : 0;
	size_t begins = shares(job->ops) ? ((heads + 1) * sizeof(size_t) + 63) / 64 * 64 : 0;

	if (memory) {
		job->scores = (void *)memory;
		job->begin = (void *)(memory + scores);
		job->scratch = memory + scores + begins;
	}
	return scores + begins;
}

static struct kv_scorer_job job_of(void *self_, const struct kvmod_scorer_ops *ops,
				   const struct kvmod_request *request, struct kvmod_plan *plan)
{
	struct kvmod_scorer *self = self_;

	return (struct kv_scorer_job){
		.self = self, .ops = ops, .request = request, .plan = plan,
		.extent = kvmod_extent_of(request),
		.sinks = (uint32_t)self->sinks, .window = (uint32_t)self->window,
	};
}

int32_t kv_scorer_workspace(void *self, const struct kvmod_scorer_ops *ops,
			    const struct kvmod_request *request, struct kvmod_workspace *need)
{
	struct kv_scorer_job job = job_of(self, ops, request, NULL);

	need->host = lay_out(&job, NULL) +
		     kv_scratch_bytes(&job.self->instance, request, thread_floats(&job));
	return KVMOD_OK;
}

/* --- scores ------------------------------------------------------------------------------- */

/* Sixteen at a time, for vectors; as integers, infinity and NaN are the largest. */
static bool all_finite(const float *x, uint32_t n)
{
	uint32_t i = 0;

	for (; i + 16 <= n; i += 16) {
		int32_t bits[16], bad = 0;

		memcpy(bits, x + i, sizeof(bits));
		for (int j = 0; j < 16; j++)
			bad |= (bits[j] & 0x7fffffff) > 0x7f7fffff;
		if (bad)
			return false;
	}
	while (i < n && isfinite(x[i]))
		i++;
	return i == n;
}

/* The toolkit makes NaN of rows that are not there: the likeliest mistake in `what`. */
static const char *hint(const struct kvmod_task *task)
{
	if (!task->head->k.data && !task->head->v.data)
		return " (K and V were not asked for)";
	if (!task->head->k.data)
		return " (K was not asked for)";
	return task->head->v.data ? "" : " (V was not asked for)";
}

static int32_t check_scores(const struct kvmod_task *task, const float *scores, uint32_t m)
{
	uint32_t i = 0;

	if (all_finite(scores, m))
		return KVMOD_OK;
	while (isfinite(scores[i]))
		i++;
	return kv_task_fail(task, KVMOD_ENUMERIC, "the score of position %u is not finite%s", i,
			    hint(task));
}

/* Pooled scores of a head's first m positions, all but the window. */
static int32_t score_head(const struct kv_scorer_job *job, const struct kvmod_task *task,
			  uint32_t m, const float **scores)
{
	struct kvmod_task head = *task;
	float *raw = task->scratch, *pooled = raw + kv_whole_lines(job->extent.n);
	int32_t err;

	head.m = m;
	head.scratch = pooled + kv_whole_lines(job->extent.n);
	memset(raw, 0xff, m * sizeof(*raw));	/* NaN: a score that is left out is found */
	err = job->ops->score(job->self, &head, raw);
	if (err == KVMOD_OK)
		err = check_scores(task, raw, m);
	*scores = raw;
	if (err || job->self->pool <= 1)
		return err;
	kv_pool(raw, m, (uint32_t)job->self->pool, job->self->pooling, pooled);
	*scores = pooled;
	return check_scores(task, pooled, m);
}

/* --- each head by itself ---------------------------------------------------------------------- */

static int32_t keep_own(const void *job_, const struct kvmod_task *task)
{
	const struct kv_scorer_job *job = job_;
	uint64_t c = kv_scorer_budget(job, task->segment);
	const float *scores;
	uint32_t m;
	int32_t err;

	if (task->n <= c) {
		kv_keep_whole(task);
		return KVMOD_OK;
	}
	m = task->n - job->window;
	err = score_head(job, task, m, &scores);
	if (err == KVMOD_OK)
		kv_keep_between(task, job->sinks, scores + job->sinks, m,
				(uint32_t)(c - job->window - job->sinks));
	return err;
}

static int32_t keep_above(const void *job_, const struct kvmod_task *task)
{
	const struct kv_scorer_job *job = job_;
	uint32_t n_ranked = kv_ranked(job, task->n), m = job->sinks + n_ranked, count = 0;
	const float *scores;
	int32_t err;

	if (n_ranked == 0) {
		kv_keep_whole(task);
		return KVMOD_OK;
	}
	err = score_head(job, task, m, &scores);
	if (err)
		return err;
	for (uint32_t i = job->sinks; i < m; i++)
		count += scores[i] >= job->self->level;
	/* A head keeps one position at least. */
	if (count == 0 && n_ranked == task->n)
		count = 1;
	kv_keep_between(task, job->sinks, scores + job->sinks, m, count);
	return KVMOD_OK;
}

static int32_t keep_by_hand(const void *job_, const struct kvmod_task *task)
{
	const struct kv_scorer_job *job = job_;

	return job->ops->keep(job->self, task);
}

/* --- heads that share -------------------------------------------------------------------------- */

static int32_t store_scores(const void *job_, const struct kvmod_task *task)
{
	const struct kv_scorer_job *job = job_;
	uint32_t n_ranked = kv_ranked(job, task->n);
	const float *scores;
	int32_t err;

	if (n_ranked == 0)
		return KVMOD_OK;
	err = score_head(job, task, job->sinks + n_ranked, &scores);
	if (err == KVMOD_OK)
		memcpy(job->scores + job->begin[kv_head_number(job, task->i, task->g)],
		       scores + job->sinks, n_ranked * sizeof(*scores));
	return err;
}

static int32_t keep_shared(const void *job_, const struct kvmod_task *task)
{
	const struct kv_scorer_job *job = job_;
	uint32_t n_ranked = kv_ranked(job, task->n), count = task->keep->counts[task->g];

	/* A head keeps one position at least. */
	if (count == 0 && n_ranked == task->n)
		count = 1;
	kv_keep_between(task, n_ranked ? job->sinks : task->n,
			job->scores + job->begin[kv_head_number(job, task->i, task->g)],
			n_ranked ? job->sinks + n_ranked : 0, count);
	return KVMOD_OK;
}

/* --- which segments ------------------------------------------------------------------------------ */

/* What is always kept of a segment's longest head. */
static uint32_t least(const struct kv_scorer_job *job, const struct kvmod_segment *segment)
{
	uint32_t kept = job->ops->least ?
			job->ops->least(job->self, kvmod_longest_head(segment)) :
			job->sinks + job->window;

	return kept > 0 ? kept : 1;
}

uint64_t kv_scorer_budget(const struct kv_scorer_job *job, const struct kvmod_segment *segment)
{
	return kvmod_budget_at_least(job->request, segment, &job->self->budget,
				     least(job, segment));
}

static bool has_no_budget(const struct kvmod_scorer_ops *ops)
{
	return ops->keep ? !ops->least : ops->select == KVMOD_ABOVE_LEVEL;
}

static bool is_over(const struct kv_scorer_job *job, const struct kvmod_segment *segment)
{
	return has_no_budget(job->ops) || job->ops->select == KVMOD_PER_REQUEST ||
	       kvmod_longest_head(segment) > kv_scorer_budget(job, segment);
}

static void mark(const struct kv_scorer_job *job)
{
	for (uint32_t i = 0; i < job->request->n_segments; i++) {
		const struct kvmod_segment *segment = kvmod_segment_at(job->request, i);

		if (kvmod_layer_listed(&job->self->whole_layers, segment->layer))
			continue;
		if (!has_no_budget(job->ops))
			kvmod_say_raised(&job->self->instance, job->request, segment,
					 &job->self->budget, least(job, segment),
					 &job->self->said_raised);
		if (is_over(job, segment))
			kvmod_keep_at(job->plan, i)->kind = KVMOD_KEEP_HEADS;
	}
}

/* Do all marked segments together cache more than their budgets buy? */
static bool request_is_over(const struct kv_scorer_job *job)
{
	uint64_t n = 0, budget = 0;

	for (uint32_t i = 0; i < job->request->n_segments; i++) {
		const struct kvmod_segment *segment = kvmod_segment_at(job->request, i);

		if (!kv_is_cut(kvmod_keep_at(job->plan, i)))
			continue;
		for (uint32_t g = 0; g < segment->n_kv_heads; g++)
			n += kvmod_head_at(segment, g)->n;
		budget += segment->n_kv_heads * kv_scorer_budget(job, segment);
	}
	return n > budget;
}

static void unmark(const struct kv_scorer_job *job)
{
	for (uint32_t i = 0; i < job->request->n_segments; i++)
		kvmod_keep_at(job->plan, i)->kind = KVMOD_KEEP_ALL;
}

int32_t kv_scorer_compress(void *self, const struct kvmod_scorer_ops *ops,
			   const struct kvmod_request *request, struct kvmod_plan *plan)
{
	struct kv_scorer_job job = job_of(self, ops, request, plan);
	size_t floats = thread_floats(&job);
	const struct kvmod_instance *instance = &job.self->instance;

	lay_out(&job, request->scratch);
	mark(&job);
	if (!shares(ops)) {
		kv_each_head(instance, request, plan, job.scratch, floats,
			     ops->keep ? keep_by_hand :
			     ops->select == KVMOD_ABOVE_LEVEL ? keep_above : keep_own, &job);
		return KVMOD_OK;
	}
	if (ops->select == KVMOD_PER_REQUEST && !request_is_over(&job))
		unmark(&job);
	kv_share_lay_out(&job);
	kv_each_head(instance, request, plan, job.scratch, floats, store_scores, &job);
	if (ops->select == KVMOD_PER_LAYER)
		kv_share_layers(&job);
	else
		kv_share_request(&job);
	kv_each_head(instance, request, plan, job.scratch, floats, keep_shared, &job);
	return KVMOD_OK;
}
