/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checks requests, which come from an engine or a foreign host, and needs, which come
 * from a policy. An invalid one is refused here, with a message, before the core
 * calculates with its numbers.
 */
#include "core/run/request.h"

#include <math.h>
#include <stdlib.h>

#define MAX_SEGMENTS	(1u << 20)
#define MAX_LAYERS	(1u << 16)
#define MAX_HEADS	(1u << 16)
#define MAX_HEAD_DIM	(1u << 16)
#define MAX_BYTES	((uint64_t)1 << 47)	/* of an array: the size of an address space */

/* The size of a struct that ends with that field. */
#define LEAST(type, field) (offsetof(type, field) + sizeof(((type *)0)->field))

/* --- views ------------------------------------------------------------------------ */

static uint64_t magnitude(int64_t stride)
{
	return stride < 0 ? -(uint64_t)stride : (uint64_t)stride;
}

/* n elements of `bytes` bytes, each `stride` bytes after the one before it. */
static int check_stride(int64_t stride, uint64_t n, uint64_t bytes, const char *what,
			const char *of, uint32_t layer)
{
	uint64_t step = magnitude(stride), all;

	if (n <= 1)
		return KVMOD_OK;
	if (step < bytes)
		return kv_fail(KVMOD_EINVAL, "layer %u: %s has a %s of %lld bytes, expected at least %llu",
			       layer, what, of, (long long)stride, (unsigned long long)bytes);
	if (__builtin_mul_overflow(step, n, &all) || all > MAX_BYTES)
		return kv_fail(KVMOD_EINVAL, "layer %u: %s has a %s of %lld bytes, too large for %llu of them",
			       layer, what, of, (long long)stride, (unsigned long long)n);
	return KVMOD_OK;
}

/* [n_rows][n_heads][dim]; a view without data is valid. */
static int check_view(const struct kvmod_view *v, const char *what, uint32_t layer,
		      uint64_t n_rows, uint64_t n_heads, uint32_t dim)
{
	uint32_t block;
	uint64_t bytes;
	int err;

	if (!v->data)
		return KVMOD_OK;
	block = kvmod_block_size(v->type);
	if (block == 0)
		return kv_fail(KVMOD_EINVAL, "layer %u: %s has the unknown element type %u",
			       layer, what, v->type);
	if (block > 1 && dim % block != 0)	/* many heads: a division counts */
		return kv_fail(KVMOD_EINVAL, "layer %u: %s comes in blocks of %u elements, but head_dim is %u",
			       layer, what, block, dim);
	if (v->rotation & (v->rotation - 1) || (v->rotation && dim % v->rotation != 0))
		return kv_fail(KVMOD_EINVAL, "layer %u: %s has a rotation of %u, expected 0 or a power "
			       "of two that divides head_dim, %u", layer, what, v->rotation, dim);
	bytes = kvmod_row_bytes(v->type, dim);
	err = check_stride(v->stride, n_rows, bytes, what, "stride", layer);
	return err ? err : check_stride(v->head_stride, n_heads, bytes, what, "head_stride", layer);
}

/* [n_q_heads][n_rows][n] of f32: heads lie apart from each other, rows within a head too. */
static int check_extra(const struct kvmod_segment *s, const struct kvmod_view *v, const char *what,
		       uint64_t n_rows, uint64_t n)
{
	uint64_t row = n * sizeof(float);
	int err;

	if (!v->data)
		return KVMOD_OK;
	if (v->type != KVMOD_F32)
		return kv_fail(KVMOD_EINVAL, "layer %u: %s has the element type %u, expected %u (f32)",
			       s->layer, what, v->type, KVMOD_F32);
	if (v->rotation)
		return kv_fail(KVMOD_EINVAL, "layer %u: %s has a rotation of %u, expected 0", s->layer,
			       what, v->rotation);
	err = check_stride(v->stride, n_rows, row, what, "stride", s->layer);
	if (err)
		return err;
	return check_stride(v->head_stride, s->n_q_heads, (n_rows - 1) * magnitude(v->stride) + row,
			    what, "head_stride", s->layer);
}

/* --- positions -------------------------------------------------------------------- */

/* Checks first and last of n ascending positions below `end`. NULL stands for the default ones. */
static int check_positions(const int32_t *positions, uint32_t n, uint64_t end, const char *what,
			   uint32_t layer)
{
	int64_t first, last;

	if (!positions || n == 0)
		return KVMOD_OK;
	first = positions[0];
	last = positions[n - 1];
	if (first >= 0 && last - first >= (int64_t)n - 1 && (uint64_t)last < end)
		return KVMOD_OK;
	return kv_fail(KVMOD_EINVAL, "layer %u: %s has %u positions from %lld to %lld, expected "
		       "them ascending and below %llu", layer, what, n, (long long)first,
		       (long long)last, (unsigned long long)end);
}

/* --- segments --------------------------------------------------------------------- */

static int check_head(const struct kvmod_segment *s, uint32_t g)
{
	const struct kvmod_head *head = kvmod_head_at(s, g);

	if (!head)
		return kv_fail(KVMOD_EINVAL, "layer %u: KV head %u is NULL", s->layer, g);
	if (!KVMOD_HAS(head, turn))
		return kv_fail(KVMOD_EINVAL, "layer %u: KV head %u has size %u, expected at least %zu",
			       s->layer, g, head->size, LEAST(struct kvmod_head, turn));
	if (head->n > MAX_POSITIONS)
		return kv_fail(KVMOD_EINVAL, "layer %u: KV head %u caches %u positions, expected at most %u",
			       s->layer, g, head->n, MAX_POSITIONS);
	if (s->logical > 0 && head->n > s->logical)
		return kv_fail(KVMOD_EINVAL, "layer %u: KV head %u caches %u positions of a sequence of "
			       "%llu tokens", s->layer, g, head->n, (unsigned long long)s->logical);
	if (head->n_turned > head->n)
		return kv_fail(KVMOD_EINVAL, "layer %u: KV head %u has %u turned rows of %u", s->layer, g,
			       head->n_turned, head->n);
	return KVMOD_OK;
}

static bool alike(const struct kvmod_view *a, const struct kvmod_view *b)
{
	return a->type == b->type && a->rotation == b->rotation && a->stride == b->stride &&
	       a->data && b->data;
}

/* Heads are alike as a rule: then what holds for more rows holds for this head's. */
static bool follows(const struct kvmod_segment *s, uint32_t g)
{
	const struct kvmod_head *head = kvmod_head_at(s, g), *before;

	if (g == 0)
		return false;
	before = kvmod_head_at(s, g - 1);
	return head->n <= before->n && alike(&head->k, &before->k) && alike(&head->v, &before->v);
}

static int check_rows(const struct kvmod_segment *s, uint32_t g, uint64_t seen)
{
	const struct kvmod_head *head = kvmod_head_at(s, g);
	bool checked = follows(s, g);
	int err = checked ? KVMOD_OK : check_view(&head->k, "K", s->layer, head->n, 1, s->head_dim);

	if (err == KVMOD_OK && !checked)
		err = check_view(&head->v, "V", s->layer, head->n, 1, s->head_dim);
	if (err == KVMOD_OK)
		err = check_positions(head->positions, head->n, seen, "K", s->layer);
	return err;
}

static int check_queries(const struct kvmod_segment *s, uint64_t seen)
{
	int err;

	if (s->n_rows > seen)
		return kv_fail(KVMOD_EINVAL, "layer %u: %u rows of queries, but only %llu tokens were seen",
			       s->layer, s->n_rows, (unsigned long long)seen);
	err = check_view(&s->q, "Q", s->layer, s->n_rows, s->n_q_heads, s->head_dim);
	if (err == KVMOD_OK)
		err = check_positions(s->row_positions, s->n_rows, seen, "Q", s->layer);
	return err;
}

static int check_extras(const struct kvmod_segment *s)
{
	uint64_t dim = s->head_dim;
	int err = KVMOD_OK;

	if (s->colsum.data)
		err = check_extra(s, &s->colsum, "colsum", 1, kvmod_longest_head(s));
	if (err == KVMOD_OK && s->wo_norm.data)
		err = check_extra(s, &s->wo_norm, "wo_norm", 1, kvmod_longest_head(s));
	if (err == KVMOD_OK)
		err = check_extra(s, &s->q_mean, "q_mean", 1, dim);
	return err == KVMOD_OK ? check_extra(s, &s->q_cov, "q_cov", dim, dim) : err;
}

static int check_numbers(const struct kvmod_segment *s)
{
	if (!isfinite(s->scale))
		return kv_fail(KVMOD_EINVAL, "layer %u: scale is %g, expected a finite number",
			       s->layer, (double)s->scale);
	if (!isfinite(s->softcap) || s->softcap < 0)
		return kv_fail(KVMOD_EINVAL, "layer %u: softcap is %g, expected 0 or more",
			       s->layer, (double)s->softcap);
	for (uint32_t h = 0; s->sink_logits && h < s->n_q_heads; h++)
		if (!isfinite(s->sink_logits[h]))
			return kv_fail(KVMOD_EINVAL, "layer %u: the sink logit of query head %u is %g, "
				       "expected a finite number", s->layer, h, (double)s->sink_logits[h]);
	return KVMOD_OK;
}

static int check_shape(const struct kvmod_request *r, const struct kvmod_segment *s, uint32_t i)
{
	if (!s)
		return kv_fail(KVMOD_EINVAL, "segment %u is NULL", i);
	if (!KVMOD_HAS(s, sink_logits))
		return kv_fail(KVMOD_EINVAL, "segment %u has size %u, expected at least %zu", i, s->size,
			       LEAST(struct kvmod_segment, sink_logits));
	if (s->layer >= r->n_layers)
		return kv_fail(KVMOD_EINVAL, "segment %u is layer %u, but the model has %u layers",
			       i, s->layer, r->n_layers);
	if (s->n_kv_heads == 0 || s->n_q_heads % s->n_kv_heads != 0 || s->n_q_heads == 0)
		return kv_fail(KVMOD_EINVAL, "segment %u has %u query heads on %u KV heads, "
			       "expected a multiple", i, s->n_q_heads, s->n_kv_heads);
	if (s->n_q_heads > MAX_HEADS)
		return kv_fail(KVMOD_EINVAL, "segment %u has %u query heads, expected at most %u",
			       i, s->n_q_heads, MAX_HEADS);
	if (s->head_dim == 0 || s->head_dim > MAX_HEAD_DIM)
		return kv_fail(KVMOD_EINVAL, "segment %u has a head_dim of %u, expected 1 to %u",
			       i, s->head_dim, MAX_HEAD_DIM);
	if (s->logical > MAX_POSITIONS)
		return kv_fail(KVMOD_EINVAL, "segment %u is of a sequence of %llu tokens, expected at most %u",
			       i, (unsigned long long)s->logical, MAX_POSITIONS);
	if (!s->heads)
		return kv_fail(KVMOD_EINVAL, "segment %u has no heads", i);
	return KVMOD_OK;
}

static int check_segment(const struct kvmod_request *r, uint32_t i)
{
	const struct kvmod_segment *s = kvmod_segment_at(r, i);
	int err = check_shape(r, s, i);
	uint64_t seen;

	if (err == KVMOD_OK)
		err = check_numbers(s);
	/* Nothing of a segment without a shape is read: it may be NULL. */
	for (uint32_t g = 0; err == KVMOD_OK && g < s->n_kv_heads; g++)
		err = check_head(s, g);
	if (err)
		return err;
	seen = kvmod_tokens_seen(s);
	for (uint32_t g = 0; err == KVMOD_OK && g < s->n_kv_heads; g++)
		err = check_rows(s, g, seen);
	if (err == KVMOD_OK)
		err = check_queries(s, seen);
	if (err == KVMOD_OK && KVMOD_HAS(s, phase_base) && s->phase_base > seen)
		return kv_fail(KVMOD_EINVAL, "layer %u: phases are shifted by %llu, but only %llu tokens "
			       "were seen", s->layer, (unsigned long long)s->phase_base,
			       (unsigned long long)seen);
	return err == KVMOD_OK ? check_extras(s) : err;
}

/* --- sequences --------------------------------------------------------------------- */

/* A segment, for sorting: by sequence, then by layer. */
struct place {
	uint64_t sequence;
	uint32_t layer, i;
};

static bool is_before(const struct kvmod_segment *a, const struct kvmod_segment *b)
{
	return a->sequence < b->sequence || (a->sequence == b->sequence && a->layer < b->layer);
}

/* Sequence by sequence, each with its layers in order: no segment comes twice. */
static bool is_by_sequence(const struct kvmod_request *r)
{
	for (uint32_t i = 1; i < r->n_segments; i++)
		if (!is_before(kvmod_segment_at(r, i - 1), kvmod_segment_at(r, i)))
			return false;
	return true;
}

/* Layer by layer, each with the same sequences in order: the number of these; 0 otherwise. */
static uint32_t sequences_of_layers(const struct kvmod_request *r)
{
	const struct kvmod_segment *first = kvmod_segment_at(r, 0);
	uint32_t n = 1;

	for (; n < r->n_segments && kvmod_segment_at(r, n)->layer == first->layer; n++)
		if (!is_before(kvmod_segment_at(r, n - 1), kvmod_segment_at(r, n)))
			return 0;
	for (uint32_t i = n; i < r->n_segments; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(r, i);
		const struct kvmod_segment *above = kvmod_segment_at(r, i - n);

		if (s->sequence != above->sequence || s->layer <= above->layer ||
		    s->layer != kvmod_segment_at(r, i - i % n)->layer)
			return 0;
	}
	return r->n_segments % n == 0 ? n : 0;
}

/* Checks the number n of a sequence's segments, which are all of different layers. */
static int check_sequence(const struct kvmod_request *r, uint64_t sequence, uint32_t n,
			  uint32_t expected)
{
	uint32_t n_named = r->n_layers - r->n_window_layers;

	if (n > n_named)
		return kv_fail(KVMOD_EINVAL, "sequence %llu has %u segments, but only %u of the model's %u "
			       "layers cache more than a window", (unsigned long long)sequence, n, n_named,
			       r->n_layers);
	if (n < expected)
		return kv_fail(KVMOD_EINVAL, "sequence %llu has %u segments, but the policy decides over "
			       "all %u layers at once", (unsigned long long)sequence, n, n_named);
	return KVMOD_OK;
}

static uint64_t sequence_at(const struct kvmod_request *r, const struct place *places, uint32_t i)
{
	return places ? places[i].sequence : kvmod_segment_at(r, i)->sequence;
}

/* The segments of a sequence follow each other in `places`; NULL: in the request itself. */
static int check_runs(const struct kvmod_request *r, const struct place *places, uint32_t expected)
{
	uint32_t begin = 0;
	int err = KVMOD_OK;

	for (uint32_t i = 0; i < r->n_segments && err == KVMOD_OK; i++) {
		uint64_t sequence = sequence_at(r, places, i);

		if (i + 1 < r->n_segments && sequence_at(r, places, i + 1) == sequence)
			continue;
		err = check_sequence(r, sequence, i + 1 - begin, expected);
		begin = i + 1;
	}
	return err;
}

static int compare(const void *a_, const void *b_)
{
	const struct place *a = a_, *b = b_;

	if (a->sequence != b->sequence)
		return a->sequence < b->sequence ? -1 : 1;
	if (a->layer != b->layer)
		return a->layer < b->layer ? -1 : 1;
	return a->i < b->i ? -1 : 1;
}

static int check_unique(const struct place *places, uint32_t n)
{
	for (uint32_t k = 1; k < n; k++) {
		const struct place *a = &places[k - 1], *b = &places[k];

		if (a->sequence == b->sequence && a->layer == b->layer)
			return kv_fail(KVMOD_EINVAL, "segments %u and %u are both layer %u of sequence %llu",
				       a->i, b->i, a->layer, (unsigned long long)a->sequence);
	}
	return KVMOD_OK;
}

static int check_in_any_order(const struct kvmod_request *r, uint32_t expected)
{
	struct place *places = malloc(r->n_segments * sizeof(*places));
	int err;

	if (!places)
		return kv_fail(KVMOD_ENOMEM, "no memory to check %u segments", r->n_segments);
	for (uint32_t i = 0; i < r->n_segments; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(r, i);

		places[i] = (struct place){ .sequence = s->sequence, .layer = s->layer, .i = i };
	}
	qsort(places, r->n_segments, sizeof(*places), compare);
	err = check_unique(places, r->n_segments);
	if (err == KVMOD_OK)
		err = check_runs(r, places, expected);
	free(places);
	return err;
}

/*
 * No segment comes twice, and each sequence has at least as many as expected. Hosts list
 * sequence by sequence or layer by layer: then nothing has to be sorted.
 */
static int check_sequences(const struct kvmod_request *r, uint32_t expected)
{
	uint32_t n;

	if (is_by_sequence(r))
		return check_runs(r, NULL, expected);
	n = sequences_of_layers(r);
	if (n > 0)
		return check_sequence(r, kvmod_segment_at(r, 0)->sequence, r->n_segments / n, expected);
	return check_in_any_order(r, expected);
}

/* --- the request ------------------------------------------------------------------ */

static int check_counts(const struct kvmod_request *r)
{
	if (!KVMOD_HAS(r, segments))
		return kv_fail(KVMOD_EINVAL, "the request has size %u, expected at least %zu", r->size,
			       LEAST(struct kvmod_request, segments));
	if (r->n_layers == 0 || r->n_layers > MAX_LAYERS)
		return kv_fail(KVMOD_EINVAL, "the request's model has %u layers, expected 1 to %u",
			       r->n_layers, MAX_LAYERS);
	if (r->n_segments == 0 || r->n_segments > MAX_SEGMENTS)
		return kv_fail(KVMOD_EINVAL, "the request has %u segments, expected 1 to %u",
			       r->n_segments, MAX_SEGMENTS);
	if (r->n_window_layers >= r->n_layers)
		return kv_fail(KVMOD_EINVAL, "the request has %u window layers in a model of %u layers: "
			       "expected fewer", r->n_window_layers, r->n_layers);
	if (!r->segments)
		return kv_fail(KVMOD_EINVAL, "the request's segments are NULL");
	return KVMOD_OK;
}

int kv_request_check(const struct kvmod_request *r)
{
	int err = check_counts(r);

	if (err)
		return err;
	for (uint32_t i = 0; i < r->n_segments && err == KVMOD_OK; i++)
		err = check_segment(r, i);
	return err == KVMOD_OK ? check_sequences(r, 1) : err;
}

/* --- what a policy asks for ---------------------------------------------------------- */

static int serves_view(const struct kvmod_needs *needs, const struct kvmod_view *v,
		       const char *what, uint32_t layer)
{
	uint32_t type = v->rotation ? KVMOD_F32 : v->type;	/* as the policy gets it */

	if (!v->data)
		return kv_fail(KVMOD_EINVAL, "layer %u comes without %s, which the policy needs",
			       layer, what);
	if (needs->types && !(needs->types & KVMOD_TYPE_BIT(type)))
		return kv_fail(KVMOD_ENOTSUP, "layer %u: the policy does not read the element type of %s",
			       layer, what);
	return KVMOD_OK;
}

static int serves_head(const struct kvmod_needs *needs, const struct kvmod_segment *s, uint32_t g)
{
	const struct kvmod_head *head = kvmod_head_at(s, g);
	int err = KVMOD_OK;

	if (head->n == 0)
		return kv_fail(KVMOD_EINVAL, "layer %u: KV head %u is empty", s->layer, g);
	if (needs->what & KVMOD_NEED_K)
		err = serves_view(needs, &head->k, "K", s->layer);
	if (err == KVMOD_OK && needs->what & KVMOD_NEED_V)
		err = serves_view(needs, &head->v, "V", s->layer);
	return err;
}

static int serves_queries(const struct kvmod_needs *needs, const struct kvmod_segment *s)
{
	if (!kvmod_needs_rows(needs, 1))
		return KVMOD_OK;
	if (s->n_rows == 0 || !s->q.data)
		return kv_fail(KVMOD_EINVAL, "layer %u comes without queries", s->layer);
	if (s->scale <= 0)
		return kv_fail(KVMOD_EINVAL, "layer %u: scale is %g, expected more than 0",
			       s->layer, (double)s->scale);
	return KVMOD_OK;
}

static int serves_extras(const struct kvmod_needs *needs, const struct kvmod_segment *s)
{
	uint32_t what = needs->what;

	if (what & KVMOD_NEED_COLSUM && !s->colsum.data)
		return kv_fail(KVMOD_EINVAL, "layer %u comes without column sums", s->layer);
	if (what & KVMOD_NEED_Q_STATS && !(s->q_mean.data && s->q_cov.data))
		return kv_fail(KVMOD_EINVAL, "layer %u comes without query statistics", s->layer);
	if (what & KVMOD_NEED_WO_NORM && !s->wo_norm.data)
		return kv_fail(KVMOD_EINVAL, "layer %u comes without |Wo v|", s->layer);
	return KVMOD_OK;
}

int kv_request_serves(const struct kvmod_request *r, const struct kvmod_needs *needs)
{
	int err = KVMOD_OK;

	if (needs->what & KVMOD_NEED_ALL_LAYERS)
		err = check_sequences(r, r->n_layers - r->n_window_layers);
	for (uint32_t i = 0; i < r->n_segments && err == KVMOD_OK; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(r, i);

		for (uint32_t g = 0; g < s->n_kv_heads && err == KVMOD_OK; g++)
			err = serves_head(needs, s, g);
		if (err == KVMOD_OK)
			err = serves_queries(needs, s);
		if (err == KVMOD_OK)
			err = serves_extras(needs, s);
	}
	return err;
}

/* --- models ----------------------------------------------------------------------- */

static int check_rope(const struct kvmod_model *m)
{
	if (m->rope_freqs ? m->n_rope_freqs == 0 || m->n_rope_freqs > m->head_dim / 2 :
	    m->n_rope_freqs > 0)
		return kv_fail(KVMOD_EINVAL, "the model has %u RoPE frequencies%s, expected 1 to %u",
			       m->n_rope_freqs, m->rope_freqs ? "" : " in a list that is NULL",
			       m->head_dim / 2);
	for (uint32_t d = 0; d < m->n_rope_freqs; d++)
		if (!isfinite(m->rope_freqs[d]))
			return kv_fail(KVMOD_EINVAL, "RoPE frequency %u of the model is %g, expected a "
				       "finite number", d, (double)m->rope_freqs[d]);
	if (!isfinite(m->rope_magnitude) || m->rope_magnitude < 0)
		return kv_fail(KVMOD_EINVAL, "the model has a RoPE magnitude of %g, expected 0 or more",
			       (double)m->rope_magnitude);
	return KVMOD_OK;
}

int kv_model_check(const struct kvmod_model *m)
{
	if (!m)
		return kv_fail(KVMOD_EINVAL, "the engine returned no model");
	if (!KVMOD_HAS(m, n_end_tokens))
		return kv_fail(KVMOD_EINVAL, "the model has size %u, expected at least %zu", m->size,
			       LEAST(struct kvmod_model, n_end_tokens));
	if (!m->name)
		return kv_fail(KVMOD_EINVAL, "the model has no name");
	if (!m->end_tokens && m->n_end_tokens > 0)
		return kv_fail(KVMOD_EINVAL, "the model has %u end tokens, but a list of them that is NULL",
			       m->n_end_tokens);
	if (m->n_layers == 0 || m->n_layers > MAX_LAYERS)
		return kv_fail(KVMOD_EINVAL, "the model has %u layers, expected 1 to %u", m->n_layers,
			       MAX_LAYERS);
	if (KVMOD_HAS(m, n_window_layers) && m->n_window_layers >= m->n_layers)
		return kv_fail(KVMOD_EINVAL, "the model has %u window layers among its %u layers: "
			       "expected fewer", m->n_window_layers, m->n_layers);
	if (m->n_kv_heads == 0 || m->n_q_heads == 0 || m->n_q_heads % m->n_kv_heads != 0 ||
	    m->n_q_heads > MAX_HEADS)
		return kv_fail(KVMOD_EINVAL, "the model has %u query heads on %u KV heads, expected a "
			       "multiple, at most %u", m->n_q_heads, m->n_kv_heads, MAX_HEADS);
	if (m->head_dim == 0 || m->head_dim > MAX_HEAD_DIM)
		return kv_fail(KVMOD_EINVAL, "the model has a head_dim of %u, expected 1 to %u",
			       m->head_dim, MAX_HEAD_DIM);
	if (m->n_vocab == 0 || m->n_vocab > INT32_MAX)
		return kv_fail(KVMOD_EINVAL, "the model has a vocabulary of %u tokens, expected 1 to %d",
			       m->n_vocab, INT32_MAX);
	if (KVMOD_HAS(m, n_device_layers) && m->n_device_layers > m->n_layers)
		return kv_fail(KVMOD_EINVAL, "the model has %u layers on a device, but only %u in all",
			       m->n_device_layers, m->n_layers);
	return KVMOD_HAS(m, rope_magnitude) ? check_rope(m) : KVMOD_OK;
}
