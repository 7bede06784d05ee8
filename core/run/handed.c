/* SPDX-License-Identifier: Apache-2.0 */
/* Copies request and plan for a policy, and takes the answer out of the copies. */
#include "core/run/handed.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- handing over ------------------------------------------------------------------ */

static void copy_segment(const struct kvmod_segment *of, struct kvmod_segment *to,
			 struct kvmod_head *heads, const struct kvmod_head **list)
{
	memset(to, 0, sizeof(*to));
	memcpy(to, of, of->size < sizeof(*to) ? of->size : sizeof(*to));
	for (uint32_t g = 0; g < to->n_kv_heads; g++) {
		const struct kvmod_head *head = kvmod_head_at(of, g);

		if (head->size >= sizeof(*heads)) {
			heads[g] = *head;
		} else {
			memset(&heads[g], 0, sizeof(*heads));
			memcpy(&heads[g], head, head->size);
		}
		heads[g].size = sizeof(*heads);
	}
	to->size = sizeof(*to);
	to->heads = list;
	to->device = NULL;
	if (to->logical == 0)	/* left out; who reads rows counts from it */
		to->logical = kvmod_tokens_seen(of);
	kvmod_list_heads(list, heads, to->n_kv_heads);
}

/* A policy sees only what it asked for, or said that it takes. */
static void hide(const struct kvmod_needs *needs, struct kvmod_segment *s, struct kvmod_head *heads)
{
	uint32_t extras = needs->what | needs->takes;

	for (uint32_t g = 0; g < s->n_kv_heads; g++) {
		if (!(needs->what & KVMOD_NEED_K))
			heads[g].k.data = NULL;
		if (!(needs->what & KVMOD_NEED_V))
			heads[g].v.data = NULL;
	}
	if (!kvmod_needs_rows(needs, 1)) {
		s->q.data = NULL;
		s->row_positions = NULL;
		s->n_rows = 0;
	}
	if (!(extras & KVMOD_NEED_COLSUM))
		s->colsum.data = NULL;
	if (!(extras & KVMOD_NEED_WO_NORM))
		s->wo_norm.data = NULL;
	if (!(extras & KVMOD_NEED_Q_STATS))
		s->q_mean.data = s->q_cov.data = NULL;
}

/* A copy of a keep: it points to the arrays of the core's plan and keeps everything. */
static void hand_keep(const struct kvmod_keep *of, struct kvmod_keep *to)
{
	*to = (struct kvmod_keep){
		.size = sizeof(*to),
		.loss = NAN,
		.max_spans = of->max_spans,
		.spans = of->spans,
		.counts = of->counts,
		.indices = of->indices,
		.index_stride = of->index_stride,
	};
}

static int reserve(struct kv_handed *h, size_t bytes)
{
	size_t room = bytes + (h->memory ? bytes / 8 : 0);

	if (bytes <= h->room)
		return KVMOD_OK;
	free(h->memory);
	h->memory = malloc(room);
	h->room = h->memory ? room : 0;
	return h->memory ? KVMOD_OK : kv_fail(KVMOD_ENOMEM, "no memory to describe the request");
}

/* Everything lies in one allocation; structs with pointers come first. */
static int lay_out(struct kv_handed *h, const struct kvmod_request *r)
{
	size_t n = r->n_segments, n_heads = 0;
	int err;

	for (uint32_t i = 0; i < n; i++)
		n_heads += kvmod_segment_at(r, i)->n_kv_heads;
	err = reserve(h, n * (sizeof(*h->segments) + sizeof(*h->segment_list) +
			      2 * sizeof(*h->keeps) + 2 * sizeof(*h->keep_list)) +
			 n_heads * (sizeof(*h->heads) + sizeof(*h->head_list)));
	if (err)
		return err;
	h->n = r->n_segments;
	h->segments = h->memory;
	h->heads = (struct kvmod_head *)(h->segments + n);
	h->keeps = (struct kvmod_keep *)(h->heads + n_heads);
	h->trial = h->keeps + n;
	h->keep_list = (struct kvmod_keep **)(h->trial + n);
	h->trial_list = h->keep_list + n;
	h->segment_list = (const struct kvmod_segment **)(h->trial_list + n);
	h->head_list = (const struct kvmod_head **)(h->segment_list + n);
	return KVMOD_OK;
}

int kv_hand(struct kv_handed *h, const struct kvmod_needs *needs, const struct kvmod_request *r,
	    const struct kvmod_plan *plan)
{
	int err = lay_out(h, r);
	struct kvmod_head *heads = h->heads;

	if (err)
		return err;
	for (uint32_t i = 0; i < h->n; i++) {
		copy_segment(kvmod_segment_at(r, i), &h->segments[i], heads,
			     h->head_list + (heads - h->heads));
		hide(needs, &h->segments[i], heads);
		h->segment_list[i] = &h->segments[i];
		heads += h->segments[i].n_kv_heads;
		hand_keep(kvmod_keep_at(plan, i), &h->keeps[i]);
		h->keep_list[i] = &h->keeps[i];
	}
	h->request = *r;
	h->request.segments = h->segment_list;
	h->plan = (struct kvmod_plan){
		.size = sizeof(h->plan), .n_keeps = h->n, .keeps = h->keep_list,
	};
	return KVMOD_OK;
}

struct kvmod_head *kv_hand_again(struct kv_handed *h, const struct kvmod_needs *needs,
				 const struct kvmod_request *r, uint32_t i)
{
	const struct kvmod_head **list = (const struct kvmod_head **)(uintptr_t)h->segments[i].heads;
	struct kvmod_head *heads = h->heads + (list - h->head_list);

	copy_segment(kvmod_segment_at(r, i), &h->segments[i], heads, list);
	hide(needs, &h->segments[i], heads);
	return heads;
}

void kv_handed_free(struct kv_handed *h)
{
	free(h->memory);
	*h = (struct kv_handed){ 0 };
}

/* --- taking the answer ---------------------------------------------------------------- */

int kv_handed_check_plan(const struct kv_handed *h)
{
	const struct kvmod_plan *plan = &h->plan;

	if (plan->n_keeps != h->n)
		return kv_fail(KVMOD_EPLAN, "the plan's n_keeps was changed to %u, expected %u", plan->n_keeps,
			       h->n);
	if (plan->keeps != h->keep_list)
		return kv_fail(KVMOD_EPLAN, "the plan's keeps were replaced, expected them to be filled in");
	return KVMOD_OK;
}

int kv_handed_take(const struct kv_handed *h, uint32_t i, struct kvmod_keep *keep)
{
	const struct kvmod_keep own = *keep, *answer = &h->keeps[i];

	*keep = *answer;
	keep->size = own.size;
	keep->max_spans = own.max_spans;
	keep->spans = own.spans;
	keep->counts = own.counts;
	keep->indices = own.indices;
	keep->index_stride = own.index_stride;
	if (h->keep_list[i] != answer)
		return kv_fail(KVMOD_EPLAN, "the keep was replaced, expected it to be filled in");
	if (answer->spans != own.spans || answer->counts != own.counts ||
	    answer->indices != own.indices)
		return kv_fail(KVMOD_EPLAN, "the keep's spans, counts or indices were replaced, "
			       "expected them to be filled in");
	if (answer->max_spans != own.max_spans || answer->index_stride != own.index_stride)
		return kv_fail(KVMOD_EPLAN, "the keep's max_spans or index_stride was changed: "
			       "the size of an array is the core's");
	return KVMOD_OK;
}
