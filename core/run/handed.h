/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a policy is handed: copies of request and plan, made for one call. A policy
 * could write to all of them, const or not. The core reads its own originals, which the
 * policy never sees, and takes only the values of the answer from the copies.
 */
#ifndef KV_CORE_RUN_HANDED_H
#define KV_CORE_RUN_HANDED_H

#include "core/base/log.h"

struct kv_handed {
	struct kvmod_request request;
	struct kvmod_plan plan;
	/* The core's own record of the copies. */
	uint32_t n;			/* segments */
	struct kvmod_segment *segments;	/* [n] */
	struct kvmod_head *heads;	/* of all segments, end to end */
	struct kvmod_keep *keeps;	/* [n] */
	/* Pointers to them, for request and plan. */
	const struct kvmod_segment **segment_list;
	const struct kvmod_head **head_list;
	struct kvmod_keep **keep_list;
	/* [n], for the relay: a policy never sees these. */
	struct kvmod_keep *trial, **trial_list;
	void *memory;			/* for all of the above; kept and grown */
	size_t room;
};

/*
 * Copies a checked request and its plan, without the rows and extras that the policy did
 * not ask for. Spans, counts and indices are not copied.
 */
int kv_hand(struct kv_handed *handed, const struct kvmod_needs *needs,
	    const struct kvmod_request *request, const struct kvmod_plan *plan);
/* Copies segment i again, before the policy is asked; returns the copies of its heads. */
struct kvmod_head *kv_hand_again(struct kv_handed *handed, const struct kvmod_needs *needs,
				 const struct kvmod_request *request, uint32_t i);
void kv_handed_free(struct kv_handed *handed);

/* KVMOD_EPLAN if the policy changed the list of keeps instead of filling them in. */
int kv_handed_check_plan(const struct kv_handed *handed);
/*
 * Copies the answer for segment i to *keep, the core's own. KVMOD_EPLAN if the policy
 * replaced an array, or changed its size, instead of filling it in.
 */
int kv_handed_take(const struct kv_handed *handed, uint32_t i, struct kvmod_keep *keep);

#endif
