/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Deciding. Whatever a policy does wrong ends in the same place: the segment
 * stays whole, one line is logged, a counter counts.
 */
#include "core/run/policy.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define DEVICE_SCRATCH_ALIGN 256u
#define MAX_SCRATCH ((uint64_t)1 << 48)

static uint64_t nanoseconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* --- what is asked, before the policy sees it ----------------------------------- */

static int check_view(const struct kvmod_policy *p, const struct kvmod_view *v,
		      const char *what, uint32_t layer)
{
	if (!v->data)
		return kv_fail(KVMOD_EINVAL, "layer %u comes without %s, which the policy needs",
			       layer, what);
	if (v->type < KVMOD_F32 || v->type > KVMOD_Q8_0)
		return kv_fail(KVMOD_EINVAL, "layer %u: %s of unknown element type %u",
			       layer, what, v->type);
	if (p->needs.types && !(p->needs.types & KVMOD_TYPE_BIT(v->type)))
		return kv_fail(KVMOD_ENOTSUP, "layer %u: %s is of a type that the policy does not read",
			       layer, what);
	return KVMOD_OK;
}

static int check_head(const struct kvmod_policy *p, const struct kvmod_segment *s, uint32_t g)
{
	const struct kvmod_head *head = kvmod_head_at(s, g);
	int err = KVMOD_OK;

	if (head->n == 0)
		return kv_fail(KVMOD_EINVAL, "layer %u: KV head %u is empty", s->layer, g);
	if (p->needs.what & KVMOD_NEED_K)
		err = check_view(p, &head->k, "K", s->layer);
	if (err == KVMOD_OK && p->needs.what & KVMOD_NEED_V)
		err = check_view(p, &head->v, "V", s->layer);
	return err;
}

/* Queries are asked for, and the segment is to have some. */
static int check_extras(const struct kvmod_policy *p, const struct kvmod_segment *s)
{
	uint32_t what = p->needs.what;

	if (kvmod_needs_rows(&p->needs, 1) && (s->n_rows == 0 || !s->q.data))
		return kv_fail(KVMOD_EINVAL, "layer %u comes without queries", s->layer);
	if (what & KVMOD_NEED_COLSUM && !s->colsum.data)
		return kv_fail(KVMOD_EINVAL, "layer %u comes without column sums", s->layer);
	if (what & KVMOD_NEED_Q_STATS && !(s->q_mean.data && s->q_cov.data))
		return kv_fail(KVMOD_EINVAL, "layer %u comes without query statistics", s->layer);
	if (what & KVMOD_NEED_WO_NORM && !s->wo_norm.data)
		return kv_fail(KVMOD_EINVAL, "layer %u comes without |Wo v|", s->layer);
	return KVMOD_OK;
}

static int check_segment(const struct kvmod_policy *p, const struct kvmod_request *r, uint32_t i)
{
	const struct kvmod_segment *s = kvmod_segment_at(r, i);
	int err = KVMOD_OK;

	if (s->n_kv_heads == 0 || s->n_q_heads % s->n_kv_heads != 0 || s->n_q_heads == 0)
		return kv_fail(KVMOD_EINVAL, "segment %u has %u query heads on %u KV heads",
			       i, s->n_q_heads, s->n_kv_heads);
	if (!s->heads || s->head_dim == 0 || s->layer >= r->n_layers)
		return kv_fail(KVMOD_EINVAL, "segment %u is not filled in", i);
	for (uint32_t g = 0; g < s->n_kv_heads && err == KVMOD_OK; g++)
		err = check_head(p, s, g);
	return err == KVMOD_OK ? check_extras(p, s) : err;
}

static int check_request(const struct kvmod_policy *p, const struct kvmod_request *r,
			 const struct kvmod_plan *plan)
{
	int err = KVMOD_OK;

	if (r->n_layers == 0 || r->n_segments == 0)
		return kv_fail(KVMOD_EINVAL, "a request of %u segments of a model of %u layers: "
			       "expected at least one of each", r->n_segments, r->n_layers);
	if (plan->n_keeps != r->n_segments)
		return kv_fail(KVMOD_EINVAL, "a plan of %u segments for a request of %u",
			       plan->n_keeps, r->n_segments);
	if (p->needs.what & KVMOD_NEED_ALL_LAYERS && r->n_segments % r->n_layers != 0)
		return kv_fail(KVMOD_EINVAL, "%u segments, but the policy decides over all %u layers at once",
			       r->n_segments, r->n_layers);
	for (uint32_t i = 0; i < r->n_segments && err == KVMOD_OK; i++)
		err = check_segment(p, r, i);
	return err;
}

static int give_host_scratch(struct kvmod_policy *p, struct kvmod_request *r, uint64_t need)
{
	int err = kv_buffer_reserve(p->device, &p->scratch, need);

	r->scratch = p->scratch.memory;
	r->scratch_size = p->scratch.size;
	return err;
}

/* What a device gives may be aligned to less. */
static int give_device_scratch(struct kvmod_policy *p, struct kvmod_request *r, uint64_t need)
{
	struct kv_buffer *buffer = &p->device_scratch;
	uintptr_t gap;
	int err;

	if (need == 0)
		return KVMOD_OK;
	err = kv_buffer_reserve(p->device, buffer, need + DEVICE_SCRATCH_ALIGN - 1);
	if (err)
		return err;
	gap = -(uintptr_t)buffer->memory % DEVICE_SCRATCH_ALIGN;
	r->device_scratch = (char *)buffer->memory + gap;
	r->device_scratch_size = buffer->size - gap;
	return KVMOD_OK;
}

static int give_scratch(struct kvmod_policy *p, struct kvmod_request *r)
{
	struct kvmod_workspace need = { .size = sizeof(need) };
	int err;

	r->scratch = r->device_scratch = NULL;
	r->scratch_size = r->device_scratch_size = 0;
	if (!p->ops->workspace)
		return KVMOD_OK;
	kv_fail(KVMOD_OK, "%s", "");
	err = p->ops->workspace(p->instance, r, &need);
	/* Sizes that no memory has would wrap when they are rounded up. */
	if (err == KVMOD_OK && (need.host > MAX_SCRATCH || need.device > MAX_SCRATCH))
		err = kv_fail(KVMOD_ENOMEM, "no memory for %llu bytes of scratch, and %llu on the device",
			      (unsigned long long)need.host, (unsigned long long)need.device);
	if (err == KVMOD_OK)
		err = give_host_scratch(p, r, need.host);
	return err == KVMOD_OK ? give_device_scratch(p, r, need.device) : err;
}

/* --- gaps ------------------------------------------------------------------------- */

/* Everything, or a suffix, with or without sinks. Spans that passed fit all KV heads. */
static bool keeps_ends(const struct kvmod_segment *s, const struct kvmod_keep *keep)
{
	const struct kvmod_span *first = keep->spans;

	if (keep->status != KVMOD_OK || keep->kind == KVMOD_KEEP_ALL)
		return true;
	if (keep->kind != KVMOD_KEEP_SPANS || keep->n_spans > 2 ||
	    first[keep->n_spans - 1].end != kvmod_head_at(s, 0)->n)
		return false;
	return keep->n_spans == 1 || (first->begin == 0 && first->end <= KVMOD_MAX_SINKS);
}

/* The flags of a plan that was checked, by a policy with these flags. */
static uint32_t plan_flags(const struct kvmod_request *r, const struct kvmod_plan *plan, uint32_t flags)
{
	if (!(flags & KVMOD_POLICY_CLOSES_GAPS))
		return 0;
	for (uint32_t i = 0; i < plan->n_keeps; i++)
		if (!keeps_ends(kvmod_segment_at(r, i), kvmod_keep_at(plan, i)))
			return 0;
	return KVMOD_PLAN_CLOSES_GAPS;
}

/* --- replays ---------------------------------------------------------------------- */

/* Stands between a policy that asks for a replay and the engine. */
struct relay {
	const struct kvmod_request *request;	/* as the engine made it */
	uint32_t flags;				/* of the policy */
};

/* The engine trusts the plans that it gets, so none goes to it unchecked. */
static int32_t checked_replay(const struct kvmod_request *request, const struct kvmod_plan *plan,
			      uint32_t rows, double *loss)
{
	const struct relay *relay = request->replay_ctx;
	const struct kvmod_request *r = relay->request;
	struct kvmod_plan checked = *plan;
	int err = KVMOD_OK;

	if (plan->n_keeps != r->n_segments)
		return kv_fail(KVMOD_EPLAN, "replay of a plan of %u segments: expected %u",
			       plan->n_keeps, r->n_segments);
	for (uint32_t i = 0; i < plan->n_keeps && err == KVMOD_OK; i++) {
		if (kvmod_keep_at(plan, i)->status != KVMOD_OK)
			continue;	/* such a segment is whole */
		err = kvmod_plan_check(r, plan, i, relay->flags);
		if (err != KVMOD_OK)
			kv_fail_in(err, "replay: layer %u", kvmod_segment_at(r, i)->layer);
	}
	if (err != KVMOD_OK)
		return err;
	checked.flags = plan_flags(r, plan, relay->flags);
	return r->replay(r, &checked, rows, loss);
}

/* --- deciding -------------------------------------------------------------------- */

static void keep_whole(struct kvmod_keep *keep, int status)
{
	keep->kind = KVMOD_KEEP_ALL;
	keep->status = status;
}

static uint64_t row_bytes(const struct kvmod_segment *s, const struct kvmod_head *head)
{
	return kvmod_row_bytes(head->k.type, s->head_dim) + kvmod_row_bytes(head->v.type, s->head_dim);
}

static void count_segment(struct kvmod_policy *p, const struct kvmod_request *r,
			  const struct kvmod_plan *plan, uint32_t i)
{
	const struct kvmod_segment *s = kvmod_segment_at(r, i);

	p->counters.segments++;
	for (uint32_t g = 0; g < s->n_kv_heads; g++) {
		const struct kvmod_head *head = kvmod_head_at(s, g);
		uint64_t kept = kvmod_plan_count(r, plan, i, g);

		p->counters.positions_seen += kvmod_tokens_seen(s);
		p->counters.positions_kept += kept;
		p->counters.bytes_freed += (head->n - kept) * row_bytes(s, head);
	}
}

/* Checks every keep; what does not pass becomes whole. One line for all of them. */
static void settle(struct kvmod_policy *p, const struct kvmod_request *r, struct kvmod_plan *plan)
{
	char first[512] = "";
	uint32_t n_failed = 0;

	for (uint32_t i = 0; i < plan->n_keeps; i++) {
		struct kvmod_keep *keep = kvmod_keep_at(plan, i);
		int err = keep->status;

		if (err == KVMOD_OK) {
			err = kvmod_plan_check(r, plan, i, p->ops->flags);
			p->counters.failed_plans += err != KVMOD_OK;
		}
		if (err != KVMOD_OK) {
			if (n_failed++ == 0)
				snprintf(first, sizeof(first), "layer %u: %s",
					 kvmod_segment_at(r, i)->layer,
					 *kvmod_error() ? kvmod_error() : kvmod_strerror(err));
			keep_whole(keep, err);
		}
		count_segment(p, r, plan, i);
	}
	plan->flags = plan_flags(r, plan, p->ops->flags);
	p->counters.failed_segments += n_failed;
	if (n_failed > 0)
		kv_log(p->ctx, KVMOD_ERROR, "policy %s: %s; %u of %u segments stay whole",
		       p->ops->name, first, n_failed, plan->n_keeps);
}

/* Nothing of the plan counts: the policy said no, or could not be asked. */
static int refuse(struct kvmod_policy *p, struct kvmod_plan *plan, int err)
{
	kv_failed(err, "policy", p->ops->name);
	kv_log(p->ctx, KVMOD_ERROR, "%s; the cache stays whole", kvmod_error());
	p->counters.failed_calls++;
	p->counters.failed_segments += plan->n_keeps;
	plan->flags = 0;
	for (uint32_t i = 0; i < plan->n_keeps; i++)
		keep_whole(kvmod_keep_at(plan, i), err);
	return err;
}

/* For what is queued, whether it is of use or not: err and its words stay. */
static int wait_after(struct kvmod_policy *p, void *stream, int err)
{
	char why[512];
	int waited;

	snprintf(why, sizeof(why), "%s", kvmod_error());
	waited = kv_device_wait(p->device, stream);
	return err ? kv_fail(err, "%s", why) : waited;
}

/*
 * What the policy queued is part of its answer and of its time, and if it failed
 * it may still write to the plan until it is done.
 */
static int ask(struct kvmod_policy *p, const struct kvmod_request *r, struct kvmod_plan *plan)
{
	uint64_t begin = nanoseconds();
	int err;

	kv_fail(KVMOD_OK, "%s", "");
	err = wait_after(p, r->stream, p->ops->compress(p->instance, r, plan));
	p->counters.nanoseconds += nanoseconds() - begin;
	return err;
}

/* The policy gets a request of its own, with all segments where it runs. */
static int stage_and_ask(struct kvmod_policy *p, const struct kvmod_request *of_engine,
			 struct kvmod_plan *plan)
{
	struct relay relay = { .request = of_engine, .flags = p->ops->flags };
	struct kvmod_request r = *of_engine;
	int err = kv_stage(p, &r);

	if (err == KVMOD_OK)
		err = give_scratch(p, &r);
	if (err)	/* copies on their way are of no use, but their memory will be */
		return wait_after(p, r.stream, err);
	if (r.replay) {
		r.replay = checked_replay;
		r.replay_ctx = &relay;
	}
	return ask(p, &r, plan);
}

int kvmod_decide(struct kvmod_policy *p, const struct kvmod_request *request,
		 struct kvmod_plan *plan)
{
	struct kvmod_request r = { 0 };
	int err;

	/* The caller may have been built with a shorter request. */
	memcpy(&r, request, request->size < sizeof(r) ? request->size : sizeof(r));
	r.size = sizeof(r);
	p->counters.requests++;
	kv_fail(KVMOD_OK, "%s", "");
	if (KVMOD_HAS(request, segments))
		err = check_request(p, &r, plan);
	else
		err = kv_fail(KVMOD_EINVAL, "a request of %u bytes ends before its segments",
			      request->size);
	if (err == KVMOD_OK)
		err = stage_and_ask(p, &r, plan);
	if (err != KVMOD_OK)
		return refuse(p, plan, err);
	settle(p, &r, plan);
	return KVMOD_OK;
}
