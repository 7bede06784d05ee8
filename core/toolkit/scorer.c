/* SPDX-License-Identifier: Apache-2.0 */
/* Scorers: the policies that kvmod/scorer.h makes of an author's score(). */
#include "core/toolkit/scorer.h"

#include <math.h>
#include <stddef.h>

#include "kernels/cpu/arena.h"

/* --- open and needs ----------------------------------------------------------------- */

static bool lists(const struct kvmod_policy_ops *ops, size_t offset)
{
	for (uint32_t i = 0; i < ops->n_params; i++)
		if (ops->params[i].offset == offset)
			return true;
	return false;
}

/* Are the scores of several heads needed before one of them is cut? */
static bool shares(const struct kvmod_scorer_ops *ops)
{
	return !ops->keep && ops->select != KVMOD_PER_HEAD && ops->select != KVMOD_ABOVE_LEVEL;
}

/* Are those heads of several layers? */
static bool layers_share(const struct kvmod_scorer_ops *ops)
{
	return shares(ops) && ops->select != KVMOD_PER_LAYER && ops->select != KVMOD_ONE_SET;
}

static bool has_no_budget(const struct kvmod_scorer_ops *ops)
{
	return ops->keep ? !ops->least :
			   ops->select == KVMOD_ABOVE_LEVEL || ops->select == KVMOD_BY_LOSS;
}

/* The parameter that a scorer needs for its choices but does not list; NULL: none is missing. */
static const char *what_is_missing(const struct kvmod_policy_ops *policy,
				   const struct kvmod_scorer_ops *ops)
{
	if (ops->rows == KVMOD_ROWS_OF_WINDOW && !lists(policy, offsetof(struct kvmod_scorer, window)))
		return "the parameter `window`";
	if (ops->prepare && !ops->prepared_floats)
		return "prepared_floats(), which prepare() needs";
	if (ops->least && !ops->keep)
		return "keep(), which least() needs";
	if (ops->least && !lists(policy, offsetof(struct kvmod_scorer, budget)))
		return "the parameter `budget`";
	if (ops->keep)
		return NULL;
	if (!ops->score)
		return "score() or keep()";
	if (ops->select > KVMOD_BY_LOSS)
		return "a known way to select";
	if (ops->select == KVMOD_BY_LOSS && (!ops->level_at || !ops->n_levels))
		return "level_at() and n_levels, which KVMOD_BY_LOSS needs";
	if (ops->select == KVMOD_BY_LOSS && (!lists(policy, offsetof(struct kvmod_scorer, loss)) ||
					     !lists(policy, offsetof(struct kvmod_scorer, replay_rows))))
		return "the parameters `loss` and `replay_rows`";
	if (ops->share && ops->select != KVMOD_PER_LAYER)
		return "KVMOD_PER_LAYER, which share() needs";
	if (ops->spread && ops->select != KVMOD_PER_SEQUENCE)
		return "KVMOD_PER_SEQUENCE, which spread() needs";
	if (ops->first && ops->select == KVMOD_ONE_SET)
		return "a selection for each head, which first() needs";
	if (ops->n_sums && !shares(ops))
		return "heads that share, which sums over them need";
	if (has_no_budget(ops) && !lists(policy, offsetof(struct kvmod_scorer, level)))
		return "the parameter `level`";
	if (!has_no_budget(ops) && !lists(policy, offsetof(struct kvmod_scorer, budget)))
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
	if (layers_share(ops))
		needs->what |= KVMOD_NEED_ALL_LAYERS;
	needs->decode_every = (uint32_t)self->decode_every;
	needs->rows.is_count = 1;
	needs->rows.value = ops->rows == KVMOD_ROWS_OF_WINDOW ? (double)self->window : ops->rows;
	return ops->needs ? ops->needs(self_, needs) : KVMOD_OK;
}

/* --- memory ---------------------------------------------------------------------------- */

/*
 * Two arrays of scores, before and after pooling; notes, if they are needed no longer than
 * the thread is busy with the head; then the author's scratch.
 */
static size_t thread_floats(const struct kv_scorer_job *job)
{
	const struct kvmod_scorer_ops *ops = job->ops;
	size_t own = ops->floats ? ops->floats(job->self, job->request) : 0;

	if (ops->keep)
		return own;
	return (ops->first && !shares(ops) ? 3 : 2) * kv_whole_lines(job->extent.n) + own;
}

/* Divides the request's scratch, or only counts its bytes; the threads' comes last. */
static size_t lay_out(struct kv_scorer_job *job, void *memory)
{
	const struct kvmod_scorer_ops *ops = job->ops;
	size_t n = job->request->n_segments, heads = n * job->extent.n_kv_heads;
	size_t scores = heads * job->extent.n, layers = ops->spread ? n : 0;
	struct kv_arena arena = { memory, 0 };

	if (shares(ops)) {
		job->order = kv_take(&arena, n, sizeof(*job->order));
		job->scores = kv_take(&arena, scores, sizeof(*job->scores));
		job->notes = kv_take(&arena, ops->first ? scores : 0, sizeof(*job->notes));
		job->begin = kv_take(&arena, heads, sizeof(*job->begin));
		job->sums = kv_take(&arena, heads * ops->n_sums, sizeof(*job->sums));
		job->spread.segments = kv_take(&arena, layers, sizeof(*job->spread.segments));
		job->spread.n_scored = kv_take(&arena, layers, sizeof(*job->spread.n_scored));
		job->spread.counts = kv_take(&arena, layers, sizeof(*job->spread.counts));
		job->spread.sums = kv_take(&arena, layers * ops->n_sums, sizeof(*job->spread.sums));
	}
	if (ops->prepare)
		job->prepared = kv_take(&arena, ops->prepared_floats(job->self, job->request),
					sizeof(*job->prepared));
	job->scratch = kv_take(&arena, 0, 1);
	return arena.used;
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

/* Scores of n positions, from position `first` on. */
static int32_t check_scores(const struct kvmod_task *task, const float *scores, uint32_t first,
			    uint32_t n)
{
	uint32_t i = 0;

	if (all_finite(scores, n))
		return KVMOD_OK;
	while (isfinite(scores[i]))
		i++;
	return kv_task_fail(task, KVMOD_ENUMERIC, "the score of position %u is not finite%s", first + i,
			    hint(task));
}

/* The task as the author's calls see it. */
static struct kvmod_task authors_task(const struct kv_scorer_job *job,
				      const struct kvmod_task *task, uint32_t m)
{
	size_t line = kv_whole_lines(job->extent.n), number = kv_head_number(job, task->i, task->g);
	struct kvmod_task head = *task;

	head.m = m;
	head.prepared = job->prepared;
	head.budget = has_no_budget(job->ops) ? 0 : kv_scorer_budget(job, task->segment);
	head.scratch = task->scratch + 2 * line;
	if (shares(job->ops)) {
		head.notes = job->ops->first ? job->notes + job->begin[number] : NULL;
		head.sums = job->ops->n_sums ? kv_sums_of(job, task->i, task->g) : NULL;
	} else if (job->ops->first) {
		head.notes = head.scratch;
		head.scratch += line;
	}
	return head;
}

/* Makes those of the first m positions that come before all others the heaviest. */
static int32_t put_first(const struct kv_scorer_job *job, const struct kvmod_task *task, uint32_t m,
			 float *scores)
{
	size_t other = scores == task->scratch ? kv_whole_lines(job->extent.n) : 0;
	uint8_t *marks = (uint8_t *)(task->scratch + other);
	struct kvmod_task head = authors_task(job, task, m);
	int32_t err;

	if (!job->ops->first)
		return KVMOD_OK;
	memset(marks, 0, m);
	err = job->ops->first(job->self, &head, marks);
	for (uint32_t i = job->sinks; i < m && err == KVMOD_OK; i++)
		if (marks[i])
			scores[i] = INFINITY;
	return err;
}

/* Pooled scores of a head's first m positions, all but the window. */
static int32_t score_head(const struct kv_scorer_job *job, const struct kvmod_task *task,
			  uint32_t m, float **scores)
{
	struct kvmod_task head = authors_task(job, task, m);
	float *raw = task->scratch, *pooled = raw + kv_whole_lines(job->extent.n);
	int32_t err;

	memset(raw, 0xff, m * sizeof(*raw));	/* NaN: a score that is left out is found */
	err = job->ops->score(job->self, &head, raw);
	if (err == KVMOD_OK)
		err = check_scores(task, raw, 0, m);
	*scores = raw;
	if (err || job->self->pool <= 1 || job->ops->flags & KVMOD_SCORER_POOLS)
		return err;
	kv_pool(raw, m, (uint32_t)job->self->pool, job->self->pooling, pooled);
	*scores = pooled;
	return check_scores(task, pooled, 0, m);
}

/* --- each head by itself ---------------------------------------------------------------------- */

static int32_t keep_own(const void *job_, const struct kvmod_task *task)
{
	const struct kv_scorer_job *job = job_;
	uint64_t c = kv_scorer_budget(job, task->segment);
	float *scores;
	uint32_t m;
	int32_t err;

	if (task->n <= c) {
		kv_keep_whole(task);
		return KVMOD_OK;
	}
	m = task->n - job->window;
	err = score_head(job, task, m, &scores);
	if (err == KVMOD_OK)
		err = put_first(job, task, m, scores);
	if (err == KVMOD_OK)
		kv_keep_between(task, job->sinks, scores + job->sinks, m,
				(uint32_t)(c - job->window - job->sinks));
	return err;
}

static int32_t keep_above(const void *job_, const struct kvmod_task *task)
{
	const struct kv_scorer_job *job = job_;
	uint32_t n_ranked = kv_ranked(job, task->n), m = job->sinks + n_ranked, count;
	float *scores;
	int32_t err;

	if (n_ranked == 0) {
		kv_keep_whole(task);
		return KVMOD_OK;
	}
	err = score_head(job, task, m, &scores);
	if (err == KVMOD_OK)
		err = put_first(job, task, m, scores);
	if (err)
		return err;
	count = kv_count_at_least(scores + job->sinks, n_ranked, job->self->level);
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

static float *scores_of(const struct kv_scorer_job *job, const struct kvmod_task *task)
{
	return job->scores + job->begin[kv_head_number(job, task->i, task->g)];
}

static int32_t store_scores(const void *job_, const struct kvmod_task *task)
{
	const struct kv_scorer_job *job = job_;
	uint32_t n_ranked = kv_ranked(job, task->n), m = job->sinks + n_ranked;
	float *scores, *stored = scores_of(job, task);
	int32_t err;

	if (n_ranked == 0)
		return KVMOD_OK;
	err = score_head(job, task, m, &scores);
	for (uint32_t i = 0; i < m && err == KVMOD_OK; i++)
		stored[i] = i < job->sinks ? -INFINITY : scores[i];
	return err;
}

/* Each head of a layer gets the sums of all. */
static void add_up_sums(const struct kv_scorer_job *job)
{
	for (uint32_t i = 0; i < job->request->n_segments; i++) {
		uint32_t n_heads = kvmod_segment_at(job->request, i)->n_kv_heads;

		for (uint32_t s = 0; s < job->ops->n_sums; s++) {
			double sum = 0;

			for (uint32_t g = 0; g < n_heads; g++)
				sum += kv_sums_of(job, i, g)[s];
			for (uint32_t g = 0; g < n_heads; g++)
				kv_sums_of(job, i, g)[s] = sum;
		}
	}
}

static int32_t put_first_of_shared(const void *job_, const struct kvmod_task *task)
{
	const struct kv_scorer_job *job = job_;
	uint32_t n_ranked = kv_ranked(job, task->n);

	if (n_ranked == 0)
		return KVMOD_OK;
	return put_first(job, task, job->sinks + n_ranked, scores_of(job, task));
}

int32_t kv_keep_shared(const void *job_, const struct kvmod_task *task)
{
	const struct kv_scorer_job *job = job_;
	uint32_t n_ranked = kv_ranked(job, task->n), count = task->keep->counts[task->g];

	if (n_ranked == 0) {
		kv_keep_whole(task);
		return KVMOD_OK;
	}
	/* A head keeps one position at least. */
	if (count == 0 && n_ranked == task->n)
		count = 1;
	kv_keep_between(task, job->sinks, scores_of(job, task) + job->sinks,
			job->sinks + n_ranked, count);
	return KVMOD_OK;
}

/* --- one set for a layer ---------------------------------------------------------------------------- */

/* The layer's scores, of its m first positions, end up in those of its first head. */
static float *sum_of_heads(const struct kv_scorer_job *job, const struct kvmod_task *first, uint32_t m)
{
	float *sum = scores_of(job, first);

	for (uint32_t g = 1; g < first->segment->n_kv_heads; g++) {
		const float *x = job->scores + job->begin[kv_head_number(job, first->i, g)];

		for (uint32_t i = job->sinks; i < m; i++)
			sum[i] += x[i];
	}
	return sum + job->sinks;
}

/* The first head selects for the layer, and the others get its list. */
static int32_t keep_alike(const void *job_, const struct kvmod_task *task)
{
	const struct kv_scorer_job *job = job_;
	struct kvmod_keep *keep = task->keep;
	uint32_t m = job->sinks + kv_ranked(job, task->n);
	const float *scores;
	int32_t err;

	if (task->g > 0)
		return KVMOD_OK;
	scores = sum_of_heads(job, task, m);
	err = check_scores(task, scores, job->sinks, m - job->sinks);
	if (err)
		return err;
	kv_keep_between(task, job->sinks, scores, m, (uint32_t)kv_own_budget(job, task->segment));
	for (uint32_t g = 1; g < task->segment->n_kv_heads; g++) {
		keep->counts[g] = keep->counts[0];
		memcpy(keep->indices + g * keep->index_stride, keep->indices,
		       keep->counts[0] * sizeof(*keep->indices));
	}
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
	uint64_t c, own;

	c = kvmod_budget_at_least(job->request, segment, &job->self->budget, least(job, segment));
	if (!job->ops->budget || c >= kvmod_tokens_seen(segment))
		return c;
	own = job->ops->budget(job->self, job->request, segment, c);
	return own > least(job, segment) ? own : least(job, segment);
}

static bool is_over(const struct kv_scorer_job *job, const struct kvmod_segment *segment)
{
	return has_no_budget(job->ops) || layers_share(job->ops) ||
	       kvmod_longest_head(segment) > kv_scorer_budget(job, segment);
}

/* One set for heads of different lengths cannot be: their indices name other positions. */
static void refuse_ragged(const struct kv_scorer_job *job, struct kvmod_keep *keep)
{
	const struct kvmod_instance *self = &job->self->instance;
	const struct kvmod_policy_ops *policy = self->ops;

	keep->status = self->host->fail(self->host->ctx, KVMOD_ENOTSUP, "its KV heads hold different "
					"numbers of positions, and %s keeps one set a layer",
					policy->name);
}

static void mark(const struct kv_scorer_job *job)
{
	for (uint32_t i = 0; i < job->request->n_segments; i++) {
		const struct kvmod_segment *segment = kvmod_segment_at(job->request, i);

		if (kvmod_layer_listed(&job->self->whole_layers, segment->layer))
			continue;
		if (!has_no_budget(job->ops))
			kvmod_say_raised(&job->self->instance, job->request, segment,
					 &job->self->budget, least(job, segment), &job->self->said_raised);
		if (job->ops->select == KVMOD_ONE_SET && !job->ops->keep && !kvmod_same_lengths(segment))
			refuse_ragged(job, kvmod_keep_at(job->plan, i));
		else if (is_over(job, segment))
			kvmod_keep_at(job->plan, i)->kind = KVMOD_KEEP_HEADS;
	}
}

static bool anything_is_cut(const struct kv_scorer_job *job)
{
	for (uint32_t i = 0; i < job->request->n_segments; i++)
		if (kv_is_cut(kvmod_keep_at(job->plan, i)))
			return true;
	return false;
}

static int32_t prepare(const struct kv_scorer_job *job)
{
	if (!job->ops->prepare || !anything_is_cut(job))
		return KVMOD_OK;
	return job->ops->prepare(job->self, job->request, job->prepared);
}

static int32_t decide_shared(const struct kv_scorer_job *job, size_t floats)
{
	const struct kvmod_instance *instance = &job->self->instance;

	kv_each_head(instance, job->request, job->plan, job->scratch, floats, store_scores, job);
	add_up_sums(job);
	if (job->ops->first)
		kv_each_head(instance, job->request, job->plan, job->scratch, floats,
			     put_first_of_shared, job);
	if (job->ops->select == KVMOD_BY_LOSS)
		return kv_keep_by_loss(job, floats);
	if (job->ops->select != KVMOD_ONE_SET)
		kv_share(job);
	kv_each_head(instance, job->request, job->plan, job->scratch, floats,
		     job->ops->select == KVMOD_ONE_SET ? keep_alike : kv_keep_shared, job);
	return KVMOD_OK;
}

/* All segments are stored alike, those that stay whole too; `same` is what the host wants. */
static void choose_stores(const struct kv_scorer_job *job)
{
	uint32_t k, v;

	kvmod_stores_of(job->self->store, &k, &v);
	if (k == KVMOD_STORE_SAME)
		return;
	for (uint32_t i = 0; i < job->request->n_segments; i++) {
		struct kvmod_keep *keep = kvmod_keep_at(job->plan, i);

		if (kvmod_segment_at(job->request, i)->head_dim % kvmod_block_size(k))
			continue;
		keep->k_store = k;
		keep->v_store = v;
	}
}

int32_t kv_scorer_compress(void *self, const struct kvmod_scorer_ops *ops,
			   const struct kvmod_request *request, struct kvmod_plan *plan)
{
	struct kv_scorer_job job = job_of(self, ops, request, plan);
	size_t floats = thread_floats(&job);
	int32_t err;

	if (ops->cuts && !ops->cuts(self, request))
		return KVMOD_OK;
	lay_out(&job, request->scratch);
	mark(&job);
	choose_stores(&job);
	if (shares(ops))
		kv_share_lay_out(&job);
	err = prepare(&job);
	if (err)
		return err;
	if (shares(ops))
		return decide_shared(&job, floats);
	kv_each_head(&job.self->instance, request, plan, job.scratch, floats,
		     ops->keep ? keep_by_hand :
		     ops->select == KVMOD_ABOVE_LEVEL ? keep_above : keep_own, &job);
	return KVMOD_OK;
}
