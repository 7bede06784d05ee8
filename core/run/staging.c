/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Staging: copies rows that a policy asked for, but that lie on another device, to the
 * policy's device. Rows with gaps between them are first packed on their own device, so
 * that the gaps are not copied. From one accelerator to another they
 * go by way of the host.
 */
#include "core/modules/call.h"
#include "core/run/policy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COPY_ALIGN 16u			/* for the views that a policy gets */

/* Rows to copy; in the copies they start at byte `at`, without gaps. */
struct piece {
	const char *src;
	uint64_t at, n_rows, row_bytes;
	int64_t stride;
};

struct stager {
	struct kvmod_policy *p;
	const struct kvmod_request *r;	/* as the engine made it */
	void *from_stream, *to_stream;

	/* NULL in the first pass, which only finds the sizes. */
	char *copies, *packed;
	char *on_host;			/* the rows on the host, between two accelerators; NULL otherwise */
	uint64_t used, begin;		/* bytes of copies; where the current segment begins */
	uint64_t most_packed;
	uint32_t n_pieces, most_pieces;	/* of a segment */
	bool gaps;			/* does any piece of the segment have gaps? */
	struct piece *pieces;
	struct kvmod_gather *gathers;
	struct kvmod_span *spans;
};

/* --- devices --------------------------------------------------------------------- */

static const char *device_of(const struct kvmod_request *r, const struct kvmod_segment *s)
{
	if (KVMOD_HAS(s, device) && s->device)
		return s->device;
	return r->device ? r->device : KV_CPU;
}

static bool is_elsewhere(const struct kvmod_policy *p, const struct kvmod_request *r, uint32_t i)
{
	return !kv_name_eq(device_of(r, kvmod_segment_at(r, i)), kvmod_policy_device(p));
}

static void *stream_on(const struct kvmod_request *r, const char *device)
{
	return kv_name_eq(r->device ? r->device : KV_CPU, device) ? r->stream : NULL;
}

/* --- the list of pieces to copy --------------------------------------------------------- */

static bool has_gaps(const struct piece *piece)
{
	return piece->n_rows > 1 && piece->stride != (int64_t)piece->row_bytes;
}

static void add_piece(struct stager *st, const void *src, uint64_t at, uint64_t n_rows,
		      uint64_t row_bytes, int64_t stride)
{
	struct piece piece = {
		.src = src, .at = at, .n_rows = n_rows, .row_bytes = row_bytes, .stride = stride,
	};

	st->gaps |= has_gaps(&piece);
	if (st->pieces)
		st->pieces[st->n_pieces] = piece;
	st->n_pieces++;
}

/* Reserves room in the copies and points the view to it; returns the room's offset. */
static uint64_t place(struct stager *st, struct kvmod_view *view, uint64_t bytes, uint64_t stride,
		      uint64_t head_stride)
{
	uint64_t at = st->used;

	st->used += (bytes + COPY_ALIGN - 1) / COPY_ALIGN * COPY_ALIGN;
	view->data = st->copies ? st->copies + at : NULL;
	view->stride = (int64_t)stride;
	view->head_stride = (int64_t)head_stride;
	return at;
}

/* K or V of one KV head: [n][head_dim]. */
static void add_rows(struct stager *st, struct kvmod_view *view, uint32_t n, uint32_t head_dim)
{
	const struct kvmod_view from = *view;
	uint64_t row = kvmod_row_bytes(view->type, head_dim);

	add_piece(st, from.data, place(st, view, n * row, row, 0), n, row, from.stride);
}

/* [n_rows][n_q_heads][head_dim]; usually the heads of a row are contiguous. */
static void add_queries(struct stager *st, struct kvmod_segment *s)
{
	const struct kvmod_view from = s->q;
	uint64_t head = kvmod_row_bytes(from.type, s->head_dim), row = head * s->n_q_heads;
	uint64_t at = place(st, &s->q, s->n_rows * row, row, head);

	if (s->n_q_heads == 1 || from.head_stride == (int64_t)head) {
		add_piece(st, from.data, at, s->n_rows, row, from.stride);
		return;
	}
	for (uint32_t i = 0; i < s->n_rows; i++)
		add_piece(st, (const char *)from.data + i * from.stride, at + i * row, s->n_q_heads,
			  head, from.head_stride);
}

/* One number per query head and cached position; KV heads may differ in length. */
static void add_numbers(struct stager *st, struct kvmod_view *view, const struct kvmod_segment *s)
{
	const struct kvmod_view from = *view;
	uint32_t group = s->n_q_heads / s->n_kv_heads;
	uint64_t room = kvmod_longest_head(s) * sizeof(float), at;

	at = place(st, view, room * s->n_q_heads, sizeof(float), room);
	for (uint32_t h = 0; h < s->n_q_heads; h++)
		add_piece(st, (const char *)from.data + h * from.head_stride, at + h * room, 1,
			  kvmod_head_at(s, h / group)->n * sizeof(float), 0);
}

/* One matrix of n rows per query head. */
static void add_matrices(struct stager *st, struct kvmod_view *view, const struct kvmod_segment *s,
			 uint32_t n)
{
	const struct kvmod_view from = *view;
	uint64_t row = s->head_dim * sizeof(float);
	uint64_t at = place(st, view, n * row * s->n_q_heads, row, n * row);

	for (uint32_t h = 0; h < s->n_q_heads; h++)
		add_piece(st, (const char *)from.data + h * from.head_stride, at + h * n * row, n,
			  row, from.stride);
}

/* Points the views of the segment to the copies, and lists the pieces to copy. */
static void add_segment(struct stager *st, struct kvmod_segment *s, struct kvmod_head *heads)
{
	for (uint32_t g = 0; g < s->n_kv_heads; g++) {
		if (heads[g].k.data)
			add_rows(st, &heads[g].k, heads[g].n, s->head_dim);
		if (heads[g].v.data)
			add_rows(st, &heads[g].v, heads[g].n, s->head_dim);
	}
	if (s->q.data)
		add_queries(st, s);
	if (s->colsum.data)
		add_numbers(st, &s->colsum, s);
	if (s->wo_norm.data)
		add_numbers(st, &s->wo_norm, s);
	if (s->q_mean.data)
		add_matrices(st, &s->q_mean, s, 1);
	if (s->q_cov.data)
		add_matrices(st, &s->q_cov, s, s->head_dim);
}

/* --- copying -------------------------------------------------------------------------- */

static int pack(struct stager *st)
{
	struct kvmod_device *from = st->p->staging.from;
	uint32_t n = 0;
	int err;

	for (uint32_t i = 0; i < st->n_pieces; i++) {
		const struct piece *piece = &st->pieces[i];

		if (!has_gaps(piece))
			continue;
		st->spans[n] = (struct kvmod_span){ .end = (uint32_t)piece->n_rows };
		st->gathers[n] = (struct kvmod_gather){
			.size = sizeof(st->gathers[n]), .n_spans = 1, .spans = &st->spans[n],
			.row_bytes = piece->row_bytes, .src = piece->src,
			.dst = st->packed + (piece->at - st->begin),
			.src_stride = piece->stride, .dst_stride = (int64_t)piece->row_bytes,
		};
		n++;
	}
	if (n == 0)
		return KVMOD_OK;
	err = KV_CALL(from->ops, gather, from->instance, st->from_stream, st->gathers, n,
		      sizeof(*st->gathers));
	return err ? kv_device_failed(from, err) : err;
}

static int fill_copies(const struct stager *st, uint64_t at, const char *src, uint64_t bytes)
{
	struct kvmod_device *to = st->p->device;
	int err = KV_CALL(to->ops, from_host, to->instance, st->to_stream, st->copies + at, src, bytes);

	return err ? kv_device_failed(to, err) : err;
}

static int copy(const struct stager *st, uint64_t at, const char *src, uint64_t bytes)
{
	struct kvmod_device *from = st->p->staging.from;
	int err;

	if (!st->on_host)
		return fill_copies(st, at, src, bytes);
	err = KV_CALL(from->ops, to_host, from->instance, st->from_stream, st->on_host + at, src, bytes);
	return err ? kv_device_failed(from, err) : err;
}

/* Pieces that are adjacent both in the source and in the copies are copied as one. */
static int copy_pieces(const struct stager *st)
{
	const char *src = NULL;
	uint64_t at = 0, bytes = 0;
	int err = KVMOD_OK;

	for (uint32_t i = 0; i < st->n_pieces && err == KVMOD_OK; i++) {
		const struct piece *piece = &st->pieces[i];
		const char *next = has_gaps(piece) ? st->packed + (piece->at - st->begin) : piece->src;

		if (bytes > 0 && (next != src + bytes || piece->at != at + bytes)) {
			err = copy(st, at, src, bytes);
			bytes = 0;
		}
		if (bytes == 0) {
			src = next;
			at = piece->at;
		}
		bytes += piece->n_rows * piece->row_bytes;
	}
	return err == KVMOD_OK && bytes > 0 ? copy(st, at, src, bytes) : err;
}

/* --- all segments ----------------------------------------------------------------------- */

/* One pass over all segments: the first finds the sizes, the second copies. */
static int go_over(struct stager *st)
{
	struct kvmod_segment *segments = st->p->handed.segments;
	int err = KVMOD_OK;

	st->used = 0;
	for (uint32_t i = 0; i < st->r->n_segments && err == KVMOD_OK; i++) {
		struct kvmod_head *heads;

		if (!is_elsewhere(st->p, st->r, i))
			continue;
		heads = kv_hand_again(&st->p->handed, &st->p->needs, st->r, i);
		st->begin = st->used;
		st->n_pieces = 0;
		st->gaps = false;
		add_segment(st, &segments[i], heads);
		if (st->gaps && st->used - st->begin > st->most_packed)
			st->most_packed = st->used - st->begin;
		if (st->n_pieces > st->most_pieces)
			st->most_pieces = st->n_pieces;
		if (st->copies)
			err = pack(st);
		if (st->copies && err == KVMOD_OK)
			err = copy_pieces(st);
	}
	return err;
}

/* Where what leaves `from` arrives: the copies themselves, or memory on its way to them. */
static int make_room_on_host(struct stager *st)
{
	struct kvmod_policy *p = st->p;
	int err;

	if (kv_device_is_host(p->staging.from))
		return KVMOD_OK;
	if (kv_device_is_host(p->device)) {
		st->on_host = st->copies;
		return KVMOD_OK;
	}
	err = kv_buffer_reserve(p->device, &p->staging.on_the_way, st->used);
	st->on_host = p->staging.on_the_way.memory;
	return err;
}

static int make_room(struct stager *st)
{
	struct kv_staging *staging = &st->p->staging;
	size_t n = st->most_pieces;
	int err;

	err = kv_buffer_reserve(st->p->device, &staging->copies, st->used);
	if (err == KVMOD_OK)
		err = kv_buffer_reserve(staging->from, &staging->packed, st->most_packed);
	if (err)
		return err;
	st->copies = staging->copies.memory;
	st->packed = staging->packed.memory;
	err = make_room_on_host(st);
	if (err)
		return err;
	st->pieces = calloc(n, sizeof(*st->pieces) + sizeof(*st->gathers) + sizeof(*st->spans));
	if (!st->pieces)
		return kv_fail(KVMOD_ENOMEM, "no memory for a list of %zu copies", n);
	st->gathers = (struct kvmod_gather *)(st->pieces + n);
	st->spans = (struct kvmod_span *)(st->gathers + n);
	return KVMOD_OK;
}

/* The name comes from the caller and may be wrong. */
static int open_named(struct kvmod_policy *p, const char *name, uint32_t layer,
		      struct kvmod_device **device)
{
	struct kv_provider *provider;
	int err = kv_provider_get(p->ctx, KV_DEVICE, name, NULL, &provider);

	if (err == KVMOD_ENOENT)
		return kv_fail(KVMOD_EINVAL, "layer %u is on `%s`, but no such device is installed", layer,
			       name);
	if (err)
		return err;
	err = kvmod_device_open(p->ctx, name, device);
	kv_provider_put(p->ctx, provider);
	return err;
}

static void close_from(struct kv_staging *s)
{
	if (!s->from)
		return;
	kv_buffer_free(s->from, &s->packed);
	kvmod_device_close(s->from);
	s->from = NULL;
}

/* The first segment to copy. All others to copy must be on its device. */
static int find_first(const struct stager *st, const struct kvmod_segment **first)
{
	const struct kvmod_segment *s;
	uint32_t i = 0;

	while (!is_elsewhere(st->p, st->r, i))	/* one is: else there was nothing to copy */
		i++;
	*first = kvmod_segment_at(st->r, i);
	for (i++; i < st->r->n_segments; i++) {
		s = kvmod_segment_at(st->r, i);
		if (!is_elsewhere(st->p, st->r, i) ||
		    kv_name_eq(device_of(st->r, s), device_of(st->r, *first)))
			continue;
		return kv_fail(KVMOD_ENOTSUP, "layer %u is on %s, but layer %u on %s: expected one "
			       "device besides %s, where the policy runs", s->layer, device_of(st->r, s),
			       (*first)->layer, device_of(st->r, *first), kvmod_policy_device(st->p));
	}
	return KVMOD_OK;
}

/* The device stays open with the policy, until a request comes from another one. */
static int open_from(struct stager *st)
{
	struct kv_staging *s = &st->p->staging;
	const struct kvmod_segment *first;
	struct kvmod_device *from;
	const char *name;
	int err = find_first(st, &first);

	if (err)
		return err;
	name = device_of(st->r, first);
	if (!s->from || !kv_name_eq(kvmod_device_ops(s->from)->name, name)) {
		err = open_named(st->p, name, first->layer, &from);
		if (err)
			return err;
		close_from(s);
		s->from = from;
	}
	st->from_stream = stream_on(st->r, name);
	return KVMOD_OK;
}

static int copy_all(struct stager *st)
{
	int err = make_room(st);

	if (err == KVMOD_OK)
		err = go_over(st);
	free(st->pieces);
	/* Queued work must end before its memory is reused. */
	err = kv_device_wait(st->p->staging.from, st->from_stream, err);
	if (err == KVMOD_OK && st->on_host && st->on_host != st->copies)
		err = fill_copies(st, 0, st->on_host, st->used);
	return err;
}

/* --- the log line, once --------------------------------------------------------------- */

static bool is_copied(const struct stager *st, uint32_t layer)
{
	for (uint32_t i = 0; i < st->r->n_segments; i++)
		if (kvmod_segment_at(st->r, i)->layer == layer && is_elsewhere(st->p, st->r, i))
			return true;
	return false;
}

/* "0-15, 20" */
static void list_copied(const struct stager *st, char *text, size_t room)
{
	size_t n = 0;

	for (uint32_t layer = 0, end; layer < st->r->n_layers && n < room; layer = end + 1) {
		for (end = layer; end < st->r->n_layers && is_copied(st, end); end++)
			;
		if (end > layer)
			n += (size_t)snprintf(text + n, room - n, "%s%u", n ? ", " : "", layer);
		if (end > layer + 1 && n < room)
			n += (size_t)snprintf(text + n, room - n, "-%u", end - 1);
	}
}

static void say_once(const struct stager *st)
{
	struct kvmod_policy *p = st->p;
	char layers[256] = "";

	if (p->staging.said)
		return;
	p->staging.said = true;
	list_copied(st, layers, sizeof(layers));
	kv_log(p->ctx, KVMOD_NOTE, "policy %s runs on %s; copied there from %s: layer %s", p->ops->name,
	       kvmod_policy_device(p), kvmod_device_ops(p->staging.from)->name, layers);
}

/* ------------------------------------------------------------------------------------------------ */

static int stage(struct stager *st)
{
	int err = go_over(st);

	if (err || st->used == 0)	/* the policy may need only lengths */
		return err;
	err = open_from(st);
	if (err == KVMOD_OK)
		err = copy_all(st);
	if (err == KVMOD_OK)
		say_once(st);
	return err;
}

int kv_stage(struct kvmod_policy *p, const struct kvmod_request *of_engine, struct kvmod_request *r)
{
	struct stager st = { .p = p, .r = of_engine };
	uint32_t i = 0;

	r->device = kvmod_policy_device(p);
	r->stream = st.to_stream = stream_on(of_engine, r->device);
	while (i < of_engine->n_segments && !is_elsewhere(p, of_engine, i))
		i++;
	return i == of_engine->n_segments ? KVMOD_OK : stage(&st);
}

void kv_staging_free(struct kvmod_policy *p)
{
	struct kv_staging *s = &p->staging;

	kv_buffer_free(p->device, &s->copies);
	kv_buffer_free(p->device, &s->plain);
	kv_buffer_free(p->device, &s->on_the_way);
	close_from(s);
}
