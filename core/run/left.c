/* SPDX-License-Identifier: Apache-2.0 */
/* What sequences hold, as their last cuts left them. */
#include "core/run/session.h"

#include <string.h>

#include "core/modules/call.h"
#include "core/run/request.h"
#include "core/run/shares.h"

void kv_copy_out(void *to, uint32_t room, void *from, uint32_t size)
{
	*(uint32_t *)from = room < size ? room : size;
	memcpy(to, from, room < size ? room : size);
}

uint64_t kvmod_sequence_kept(const struct kvmod_sequence *q, uint32_t layer,
			     uint32_t head, uint64_t *seen)
{
	const struct kvmod_model *m = q->session->model;
	size_t i = (size_t)layer * m->n_kv_heads + head;

	if (layer >= m->n_layers || head >= m->n_kv_heads)
		return 0;
	if (seen)
		*seen = q->kept[i] == NOT_NAMED ? 0 : q->left.seen;
	return q->kept[i] == NOT_NAMED ? 0 : q->kept[i];
}

void kvmod_sequence_left(const struct kvmod_sequence *q, struct kvmod_left *out)
{
	struct kvmod_left left = q->left;

	kv_copy_out(out, out->size, &left, sizeof(left));
}

/* --- asking the engine ------------------------------------------------------------- */

/* Records what each KV head caches. kv_ask_engine() has checked that layers are in range. */
static void note_cached(struct kvmod_sequence *q, const struct kvmod_request *r)
{
	const struct kvmod_model *m = q->session->model;
	uint32_t n_heads = m->n_kv_heads;

	memset(q->kept, 0xff, (size_t)m->n_layers * n_heads * sizeof(*q->kept));
	for (uint32_t i = 0; i < r->n_segments; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(r, i);

		for (uint32_t g = 0; g < s->n_kv_heads && g < n_heads; g++)
			q->kept[(size_t)s->layer * n_heads + g] = kvmod_head_at(s, g)->n;
	}
}

/* Records that every head caches every token. */
static void note_whole(struct kvmod_sequence *q)
{
	const struct kvmod_model *m = q->session->model;

	for (size_t i = 0; i < (size_t)m->n_layers * m->n_kv_heads; i++)
		q->kept[i] = (uint32_t)q->left.seen;
}

int kv_ask_engine(struct kvmod_sequence *q, struct kvmod_request *r)
{
	struct kvmod_session *s = q->session;
	int err;

	*r = (struct kvmod_request){ .size = sizeof(*r) };
	err = KV_CALL_ENGINE(s->ops, request, s->instance, q->seq, r);
	if (err != KVMOD_OK)
		return err;
	r->size = sizeof(*r);
	err = kv_request_check(r);
	if (err == KVMOD_OK && r->n_layers != s->model->n_layers)
		err = kv_fail(KVMOD_EINVAL, "the request's model has %u layers, but the engine's has %u",
			      r->n_layers, s->model->n_layers);
	return err == KVMOD_OK ? err : kv_fail_in(err, "engine %s", s->ops->name);
}

static double budget_of(const struct kvmod_sequence *q)
{
	const struct kvmod_model *m = q->session->model;
	size_t n_heads = 0;
	double kept = 0;

	for (size_t i = 0; i < (size_t)m->n_layers * m->n_kv_heads; i++) {
		if (q->kept[i] == NOT_NAMED)
			continue;
		kept += q->kept[i];
		n_heads++;
	}
	return q->left.seen && n_heads ? kept / ((double)q->left.seen * (double)n_heads) : 1;
}

/*
 * Without a policy nothing was cut, but which layers cache a window alone only the
 * engine's request tells.
 */
static bool is_shown(const struct kvmod_session *s)
{
	return s->policy || (KVMOD_HAS(s->model, n_window_layers) && s->model->n_window_layers > 0);
}

/* An engine that cannot show its cache is assumed to hold all of it. */
void kv_note_left(struct kvmod_sequence *q)
{
	bool shown = is_shown(q->session);
	int err = KVMOD_OK;
	struct kvmod_request r;

	q->left.seen = kvmod_sequence_length(q);
	if (shown)
		err = kv_ask_engine(q, &r);
	if (shown && err == KVMOD_OK)
		note_cached(q, &r);
	else
		note_whole(q);
	if (err != KVMOD_OK)
		kv_log(kv_engine_ctx(q->session->engine), KVMOD_ERROR, "cannot count the kept positions: %s",
		       kvmod_error());
	q->left.budget = budget_of(q);
	q->left.bytes.size = sizeof(q->left.bytes);
	kvmod_sequence_bytes(q, &q->left.bytes);
}

int kvmod_sequence_positions(struct kvmod_sequence *q, double *shares, uint64_t n)
{
	uint64_t length = kvmod_sequence_length(q);
	struct kvmod_request r;
	int err;

	if (!is_shown(q->session) || length == 0) {
		kv_shares_whole(length, shares, n);
		return KVMOD_OK;
	}
	err = kv_ask_engine(q, &r);
	if (err == KVMOD_OK)
		kv_shares_cached(&r, shares, n);
	return err;
}
