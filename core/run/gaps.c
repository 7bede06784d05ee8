/* SPDX-License-Identifier: Apache-2.0 */
/* Gaps: decides whether an engine may close the gaps that a plan leaves. */
#include "core/run/decide.h"

/* Everything, or a suffix, with or without sinks. Checked spans apply to all KV heads. */
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

uint32_t kv_plan_flags(const struct kvmod_request *r, const struct kvmod_plan *plan, uint32_t flags)
{
	if (!(flags & KVMOD_POLICY_CLOSES_GAPS))
		return 0;
	for (uint32_t i = 0; i < plan->n_keeps; i++)
		if (!keeps_ends(kvmod_segment_at(r, i), kvmod_keep_at(plan, i)))
			return 0;
	return KVMOD_PLAN_CLOSES_GAPS;
}
