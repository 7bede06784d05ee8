/* SPDX-License-Identifier: Apache-2.0 */
/* Column sums of attention from keys and queries, one row after the other. */
#include "tests/column_sums.h"

#include <math.h>

#include "kernels/cpu/logits.h"

const struct kvmod_needs sums_needs = {
	.size = sizeof(sums_needs), .what = KVMOD_NEED_K | KVMOD_NEED_COLSUM, .rows = { .value = 1.0 },
	.decode_every = 1,
};

static struct kvmod_request request_of(struct kvmod_seq *seq)
{
	struct kvmod_request request = { .size = sizeof(request) };

	ck_assert_msg(!gg_request(seq->engine, seq, &request), "%s", test_engine_error());
	return request;
}

/* One row of one query head over the oldest n rows of its KV head g. */
static void add_row(const struct kvmod_seq *seq, const struct kvmod_segment *s, uint32_t g, const float *q,
		    uint32_t n, double *sums)
{
	/* A request hides keys after some cuts, but the cache has them. */
	const struct gg_cache *cache = &seq->caches[s->layer];
	size_t bytes = gg_row_bytes(seq->engine);
	const char *keys = (const char *)cache->k.address + cache->first[g] * bytes;
	static double a[SUMS_ROWS];
	static float k[512];
	double most = -INFINITY, sum = 0;

	for (uint32_t i = 0; i < n; i++) {
		kv_cpu_to_f32(gg_view_type(seq->engine->type), keys + i * bytes, s->head_dim, k);
		a[i] = 0;
		for (uint32_t d = 0; d < s->head_dim; d++)
			a[i] += (double)q[d] * (double)k[d];
		a[i] *= (double)s->scale;
		most = fmax(most, a[i]);
	}
	for (uint32_t i = 0; i < n; i++)
		sum += a[i] = exp(a[i] - most);
	for (uint32_t i = 0; i < n; i++)
		sums[i] += a[i] / sum;
}

static void look_at(const struct kvmod_seq *seq, const struct kvmod_segment *s, uint32_t n_new,
		    double sums[][SUMS_ROWS])
{
	uint32_t group = s->n_q_heads / s->n_kv_heads;

	ck_assert_uint_ge(s->n_rows, n_new);
	for (uint32_t h = 0; h < s->n_q_heads; h++) {
		const struct kvmod_head *head = kvmod_head_at(s, h / group);

		ck_assert_uint_le(head->n, SUMS_ROWS);
		for (uint32_t i = head->n - n_new; i < head->n; i++)
			sums[h][i] = 0;
		for (uint32_t r = 0; r < n_new; r++) {
			const char *q = (const char *)s->q.data + h * s->q.head_stride +
					(s->n_rows - n_new + r) * s->q.stride;

			add_row(seq, s, h / group, (const float *)(const void *)q, head->n - n_new + r + 1,
				sums[h]);
		}
	}
}

void sums_look(struct column_sums *sums, struct kvmod_seq *seq)
{
	struct kvmod_request request = request_of(seq);

	for (uint32_t i = 0; i < request.n_segments && seq->logical > sums->seen; i++)
		look_at(seq, kvmod_segment_at(&request, i), (uint32_t)(seq->logical - sums->seen), sums->of[i]);
	sums->seen = seq->logical;
}

void sums_cut(struct column_sums *sums, struct kvmod_seq *seq, const struct kvmod_plan *plan)
{
	uint32_t group = seq->engine->net.n_q_heads / seq->engine->net.n_kv_heads;

	for (uint32_t l = 0; l < plan->n_keeps; l++) {
		const struct kvmod_keep *keep = kvmod_keep_at(plan, l);

		for (uint32_t h = 0; h < seq->engine->net.n_q_heads; h++) {
			double *of = sums->of[l][h];
			uint32_t n = 0;

			for (uint32_t i = 0; keep->kind == KVMOD_KEEP_HEADS && i < keep->counts[h / group]; i++)
				of[i] = of[keep->indices[h / group * keep->index_stride + i]];
			for (uint32_t s = 0; keep->kind == KVMOD_KEEP_SPANS && s < keep->n_spans; s++)
				for (uint32_t i = keep->spans[s].begin; i < keep->spans[s].end; i++)
					of[n++] = of[i];
		}
	}
}

void sums_check(const struct column_sums *sums, struct kvmod_seq *seq)
{
	struct kvmod_request request = request_of(seq);

	for (uint32_t l = 0; l < request.n_segments; l++) {
		const struct kvmod_segment *s = kvmod_segment_at(&request, l);

		ck_assert_ptr_nonnull(s->colsum.data);
		ck_assert_uint_eq(s->colsum.type, KVMOD_F32);
		ck_assert_int_eq(s->colsum.stride, sizeof(float));
		for (uint32_t h = 0; h < s->n_q_heads; h++) {
			const struct kvmod_head *head = kvmod_head_at(s, h / (s->n_q_heads / s->n_kv_heads));
			const char *row = (const char *)s->colsum.data + h * s->colsum.head_stride;

			ck_assert_int_ge(s->colsum.head_stride, (int64_t)(head->n * sizeof(float)));
			for (uint32_t i = 0; i < head->n; i++)
				ck_assert_double_eq_tol(((const float *)(const void *)row)[i], sums->of[l][h][i],
							3e-5 * fmax(1, sums->of[l][h][i]));
		}
	}
}

bool sums_shown(struct kvmod_seq *seq)
{
	struct kvmod_request request = request_of(seq);
	uint32_t n = 0;

	for (uint32_t i = 0; i < request.n_segments; i++)
		n += kvmod_segment_at(&request, i)->colsum.data != NULL;
	ck_assert(n == 0 || n == request.n_segments);
	return n > 0;
}
