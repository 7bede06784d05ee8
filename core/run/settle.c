/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Settling: checks a plan after the policy has filled it in. Every mistake of a policy has
 * the same consequence: the segment stays whole, one line is logged, and a counter is
 * incremented.
 */
#include "core/modules/call.h"
#include "core/run/decide.h"

void kv_leave_whole(struct kvmod_keep *keep, int status)
{
	keep->kind = KVMOD_KEEP_ALL;
	keep->k_store = keep->v_store = KVMOD_STORE_SAME;
	keep->status = status;
}

/* --- counters ----------------------------------------------------------------------- */

static uint64_t row_bytes(const struct kvmod_segment *s, const struct kvmod_head *head)
{
	return kvmod_row_bytes(head->k.type, s->head_dim) + kvmod_row_bytes(head->v.type, s->head_dim);
}

static void count_segment(struct kvmod_policy *p, const struct kvmod_request *r,
			  const struct kvmod_plan *plan, uint32_t i)
{
	const struct kvmod_segment *s = kvmod_segment_at(r, i);
	bool by_spans = kvmod_keep_at(plan, i)->kind == KVMOD_KEEP_SPANS;
	uint64_t seen = kvmod_tokens_seen(s), kept = kvmod_plan_count(r, plan, i, 0);

	p->counters.segments++;
	p->counters.positions_seen += seen * s->n_kv_heads;
	for (uint32_t g = 0; g < s->n_kv_heads; g++) {
		const struct kvmod_head *head = kvmod_head_at(s, g);

		if (!by_spans)		/* spans are the same in every head */
			kept = kvmod_plan_count(r, plan, i, g);
		p->counters.positions_kept += kept;
		p->counters.bytes_freed += (head->n - kept) * row_bytes(s, head);
	}
}

/* --- the answer ---------------------------------------------------------------------- */

/* KVMOD_OK, or the reason why keep i cannot be applied. */
static int judge(struct kvmod_policy *p, const struct kvmod_request *r, struct kvmod_plan *plan,
		 uint32_t i)
{
	struct kvmod_keep *keep = kvmod_keep_at(plan, i);
	int err = kv_handed_take(&p->handed, i, keep);

	if (err == KVMOD_OK && keep->status != KVMOD_OK)
		return kv_is_code(keep->status) ? keep->status :
		       kv_fail(KVMOD_EINVAL, "the keep's status is %d, expected 0 or a KVMOD_E code",
			       (int)keep->status);
	if (err == KVMOD_OK)
		err = kvmod_plan_check(r, plan, i, p->ops->flags);
	p->counters.failed_plans += err != KVMOD_OK;
	return err;
}

static uint32_t count_given_up(const struct kv_handed *h)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < h->n; i++)
		n += h->keeps[i].status != KVMOD_OK;
	return n;
}

/*
 * What is wrong with keep i. A thread has one reason, the last: if the policy itself gave
 * several keeps up, it cannot be told which of them the reason is about.
 */
static void describe(const struct kvmod_policy *p, const struct kvmod_request *r, uint32_t i, int err,
		     char *text, size_t room)
{
	uint32_t layer = kvmod_segment_at(r, i)->layer;
	const char *words = kvmod_error(), *code = kvmod_strerror(err);

	if (p->handed.keeps[i].status != err || count_given_up(&p->handed) == 1 || !*words)
		snprintf(text, room, "layer %u: %s", layer, *words ? words : code);
	else
		snprintf(text, room, "layer %u: %s (the last reason given: %s)", layer, code, words);
}

void kv_settle(struct kvmod_policy *p, const struct kvmod_request *r, struct kvmod_plan *plan)
{
	char first[512] = "";
	uint32_t n_failed = 0;

	for (uint32_t i = 0; i < plan->n_keeps; i++) {
		int err = judge(p, r, plan, i);

		if (err != KVMOD_OK) {
			if (n_failed++ == 0)
				describe(p, r, i, err, first, sizeof(first));
			kv_leave_whole(kvmod_keep_at(plan, i), err);
		}
		count_segment(p, r, plan, i);
	}
	plan->flags = kv_plan_flags(r, plan, p->ops->flags);
	p->counters.failed_segments += n_failed;
	if (n_failed > 0)
		kv_log(p->ctx, KVMOD_ERROR, "policy %s: %s; %u of %u segments stay whole",
		       p->ops->name, first, n_failed, plan->n_keeps);
}

int kv_refuse(struct kvmod_policy *p, struct kvmod_plan *plan, int err)
{
	kv_failed(err, "policy", p->ops->name);
	kv_log(p->ctx, KVMOD_ERROR, "%s; the cache stays whole", kvmod_error());
	p->counters.failed_calls++;
	if (!KVMOD_HAS(plan, keeps))
		return err;
	p->counters.failed_segments += plan->n_keeps;
	plan->flags = 0;
	/* It may be the plan that is refused. */
	for (uint32_t i = 0; plan->keeps && i < plan->n_keeps; i++) {
		struct kvmod_keep *keep = kvmod_keep_at(plan, i);

		if (keep && KVMOD_HAS(keep, v_store))
			kv_leave_whole(keep, err);
	}
	return err;
}
