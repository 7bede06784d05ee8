/* SPDX-License-Identifier: Apache-2.0 */
/* Plans: their memory, how much they keep, and whether they are valid. */
#include "core/run/request.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/gather.h"

#define MAX_SPANS 1024u
#define MAX_INDICES ((uint64_t)1 << 45)	/* of all segments: more than an address space holds */

/*
 * A plan and its arrays, all in one allocation. The indices are the largest part and come
 * last: they are not cleared, so the system gives them memory only when a policy writes
 * lists.
 */
struct block {
	size_t room;			/* bytes of all of it */
	struct kvmod_plan plan;
	struct kvmod_keep *keeps[];	/* what they point to, then spans, counts, indices */
};

struct plan_sizes {
	size_t spans, counts, indices;		/* elements */
	size_t bytes;				/* of all of it */
};

static uint32_t spans_of(const struct kvmod_segment *s)
{
	uint32_t n = kvmod_longest_head(s) / 2 + 1;	/* more could not have gaps between them */

	return n < 2 ? 2 : n < MAX_SPANS ? n : MAX_SPANS;
}

/* Sums of checked lengths do not overflow where none is larger than MAX_INDICES. */
static int find_sizes(const struct kvmod_request *request, struct plan_sizes *sizes)
{
	*sizes = (struct plan_sizes){ .bytes = sizeof(struct block) };
	for (uint32_t i = 0; i < request->n_segments; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(request, i);

		sizes->spans += spans_of(s);
		sizes->counts += s->n_kv_heads;
		sizes->indices += (size_t)s->n_kv_heads * kvmod_longest_head(s);
		if (sizes->indices > MAX_INDICES)
			return kv_fail(KVMOD_ENOMEM, "no memory for a plan of more than %llu positions",
				       (unsigned long long)MAX_INDICES);
	}
	sizes->bytes += request->n_segments * (sizeof(struct kvmod_keep *) + sizeof(struct kvmod_keep)) +
		       sizes->spans * sizeof(struct kvmod_span) +
		       (sizes->counts + sizes->indices) * sizeof(uint32_t);
	return KVMOD_OK;
}

static struct block *block_of(struct kvmod_plan *plan)
{
	return (struct block *)((char *)plan - offsetof(struct block, plan));
}

/* Everything is kept whole. */
static void lay_out(struct block *b, const struct kvmod_request *request, const struct plan_sizes *sizes)
{
	struct kvmod_keep *keeps = (struct kvmod_keep *)(b->keeps + request->n_segments);
	struct kvmod_span *spans = (struct kvmod_span *)(keeps + request->n_segments);
	uint32_t *counts = (uint32_t *)(spans + sizes->spans), *indices = counts + sizes->counts;

	memset(spans, 0, (char *)indices - (char *)spans);
	b->plan = (struct kvmod_plan){
		.size = sizeof(b->plan),
		.n_keeps = request->n_segments,
		.keeps = b->keeps,
	};
	for (uint32_t i = 0; i < request->n_segments; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(request, i);

		b->keeps[i] = &keeps[i];
		keeps[i] = (struct kvmod_keep){
			.size = sizeof(keeps[i]),
			.loss = NAN,
			.max_spans = spans_of(s),
			.spans = spans,
			.counts = counts,
			.indices = indices,
			.index_stride = kvmod_longest_head(s),
		};
		spans += keeps[i].max_spans;
		counts += s->n_kv_heads;
		indices += s->n_kv_heads * keeps[i].index_stride;
	}
}

/* A cache grows token by token, so a plan that grows gets room for later tokens too. */
int kvmod_plan_renew(const struct kvmod_request *request, struct kvmod_plan **plan)
{
	struct block *b = *plan ? block_of(*plan) : NULL;
	int err = kv_request_check(request);
	struct plan_sizes sizes;
	size_t room;

	if (err == KVMOD_OK)
		err = find_sizes(request, &sizes);
	if (err)
		return err;
	room = sizes.bytes + (b ? sizes.bytes / 8 : 0);
	if (!b || b->room < sizes.bytes) {
		b = malloc(room);
		if (!b)
			return kv_fail(KVMOD_ENOMEM, "no memory for a plan of %zu bytes", room);
		b->room = room;
		kvmod_plan_free(*plan);
		*plan = &b->plan;
	}
	lay_out(b, request, &sizes);
	return KVMOD_OK;
}

int kvmod_plan_new(const struct kvmod_request *request, struct kvmod_plan **out)
{
	struct kvmod_plan *plan = NULL;
	int err = kvmod_plan_renew(request, &plan);

	if (err == KVMOD_OK)
		*out = plan;
	return err;
}

void kvmod_plan_free(struct kvmod_plan *plan)
{
	if (plan)
		free(block_of(plan));
}

uint64_t kvmod_plan_count(const struct kvmod_request *request, const struct kvmod_plan *plan,
			  uint32_t i, uint32_t head)
{
	const struct kvmod_keep *keep = kvmod_keep_at(plan, i);
	uint64_t n = 0;

	switch (keep->kind) {
	case KVMOD_KEEP_SPANS:
		for (uint32_t s = 0; s < keep->n_spans; s++)
			n += keep->spans[s].end - keep->spans[s].begin;
		return n;
	case KVMOD_KEEP_HEADS:
		return keep->counts[head];
	default:
		return kvmod_head_at(kvmod_segment_at(request, i), head)->n;
	}
}

double kvmod_plan_budget(const struct kvmod_request *request, const struct kvmod_plan *plan)
{
	uint64_t seen = 0, kept = 0;

	for (uint32_t i = 0; i < request->n_segments; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(request, i);

		for (uint32_t g = 0; g < s->n_kv_heads; g++) {
			seen += kvmod_tokens_seen(s);
			kept += kvmod_plan_count(request, plan, i, g);
		}
	}
	return seen ? (double)kept / (double)seen : 1.0;
}

static int check_spans(const struct kvmod_segment *s, const struct kvmod_keep *keep,
		       bool newest)
{
	uint32_t n = kvmod_head_at(s, 0)->n, end = 0;

	if (!keep->spans)
		return kv_fail(KVMOD_EPLAN, "spans are NULL");
	for (uint32_t g = 1; g < s->n_kv_heads; g++)
		if (kvmod_head_at(s, g)->n != n)
			return kv_fail(KVMOD_EPLAN, "spans need KV heads of one length, but heads 0 and %u cache %u and %u positions",
				       g, n, kvmod_head_at(s, g)->n);
	if (keep->n_spans == 0 || keep->n_spans > keep->max_spans)
		return kv_fail(KVMOD_EPLAN, "%u spans, expected 1 to %u", keep->n_spans, keep->max_spans);
	for (uint32_t i = 0; i < keep->n_spans; i++) {
		const struct kvmod_span *span = &keep->spans[i];

		if (span->begin >= span->end || span->end > n)
			return kv_fail(KVMOD_EPLAN, "span %u is %u..%u, expected a part of 0..%u",
				       i, span->begin, span->end, n);
		if (i > 0 && span->begin < end)
			return kv_fail(KVMOD_EPLAN, "span %u begins at %u, before %u, the end of the span before",
				       i, span->begin, end);
		end = span->end;
	}
	if (newest && end != n)
		return kv_fail(KVMOD_EPLAN, "the newest position, %u, is missing", n - 1);
	return KVMOD_OK;
}

static int check_lists(const struct kvmod_segment *s, const struct kvmod_keep *keep)
{
	if (!keep->counts || !keep->indices)
		return kv_fail(KVMOD_EPLAN, "counts or indices are NULL");
	if (keep->index_stride < kvmod_longest_head(s) || keep->index_stride > UINT32_MAX)
		return kv_fail(KVMOD_EPLAN, "index_stride is %llu, expected at least %u",
			       (unsigned long long)keep->index_stride, kvmod_longest_head(s));
	return KVMOD_OK;
}

static int check_head(const struct kvmod_keep *keep, uint32_t g, uint32_t n, bool newest)
{
	const uint32_t *index = keep->indices + g * keep->index_stride;
	uint32_t count = keep->counts[g];

	if (count == 0 || count > n)
		return kv_fail(KVMOD_EPLAN, "KV head %u keeps %u positions, expected 1 to %u", g, count, n);
	for (uint32_t i = 0; i < count; i++) {
		if (index[i] >= n)
			return kv_fail(KVMOD_EPLAN, "KV head %u keeps index %u, expected 0 to %u",
				       g, index[i], n - 1);
		if (i > 0 && index[i] <= index[i - 1])
			return kv_fail(KVMOD_EPLAN, "KV head %u keeps index %u after %u, expected ascending indices",
				       g, index[i], index[i - 1]);
	}
	if (newest && index[count - 1] != n - 1)
		return kv_fail(KVMOD_EPLAN, "KV head %u does not keep the newest position, %u", g, n - 1);
	return KVMOD_OK;
}

static int check_store(const struct kvmod_segment *s, const char *what, uint32_t type)
{
	uint32_t block = kvmod_block_size(type);

	if (type == KVMOD_STORE_SAME)
		return KVMOD_OK;
	if (block == 0)
		return kv_fail(KVMOD_EPLAN, "%s: unknown element type %u to store rows as, expected %u "
			       "(unchanged) to %u", what, type, KVMOD_STORE_SAME, KVMOD_Q4_0);
	if (s->head_dim % block != 0)
		return kv_fail(KVMOD_EPLAN, "%s: cannot store rows as element type %u: its blocks of %u "
			       "do not divide the head dimension, %u", what, type, block, s->head_dim);
	return KVMOD_OK;
}

int kvmod_plan_check(const struct kvmod_request *request, const struct kvmod_plan *plan,
		     uint32_t i, uint32_t flags)
{
	const struct kvmod_segment *s = kvmod_segment_at(request, i);
	const struct kvmod_keep *keep = kvmod_keep_at(plan, i);
	bool newest = !(flags & KVMOD_POLICY_MAY_DROP_NEWEST);
	int err = check_store(s, "K", keep->k_store);

	if (err == KVMOD_OK)
		err = check_store(s, "V", keep->v_store);
	if (err != KVMOD_OK)
		return err;
	switch (keep->kind) {
	case KVMOD_KEEP_ALL:
		return KVMOD_OK;
	case KVMOD_KEEP_SPANS:
		return check_spans(s, keep, newest);
	case KVMOD_KEEP_HEADS:
		err = check_lists(s, keep);
		for (uint32_t g = 0; g < s->n_kv_heads && err == KVMOD_OK; g++)
			err = check_head(keep, g, kvmod_head_at(s, g)->n, newest);
		return err;
	default:
		return kv_fail(KVMOD_EPLAN, "kind %u, expected %u (all), %u (spans) or %u (heads)",
			       keep->kind, KVMOD_KEEP_ALL, KVMOD_KEEP_SPANS, KVMOD_KEEP_HEADS);
	}
}

void kvmod_gather_host(const struct kvmod_gather *g)
{
	kv_cpu_gather(g);
}
