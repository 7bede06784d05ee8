/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys that are rotated again and again, without running a model: after any number of plans
 * a key is what RoPE makes of it at its phase, and as exact as after the first plan.
 */
#include "tests/engine_host.h"
#include "core/testkit/random.h"
#include "tests/tiny_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONTEXT	128
#define SINKS	4
#define NEWEST	24
#define STEP	8
#define MOST	(SINKS + NEWEST + STEP)

struct setup {
	char *model;
	struct gg_engine *engine;
	struct kvmod_seq *seq;
	struct kv_random random;
	size_t width;			/* of a token: all heads */
	float *raw;			/* [MOST][width]: keys of the rows there are, before RoPE */
};

static void set_up(struct setup *s, const struct tiny_model *spec, enum ggml_type type)
{
	struct tiny_model one = *spec;

	one.n_layers = 1;
	*s = (struct setup){ .model = tiny_model_write(&one, TINY_GOOD), .random = { 11 } };
	s->engine = test_engine_open(&(struct test_engine_params){
		.model = s->model, .type = type, .context = CONTEXT });
	ck_assert_msg(s->engine, "%s", test_engine_error());
	s->seq = test_seq(s->engine);
	s->width = (size_t)one.n_kv_heads * one.head_dim;
	s->raw = calloc(MOST * s->width, sizeof(*s->raw));
}

static void tear_down(struct setup *s)
{
	gg_seq_close(s->engine, s->seq);
	test_engine_close(s->engine);
	unlink(s->model);
	free(s->model);
	free(s->raw);
}

/* n keys, [n][width], as the model's own graph turns them: to phases from `first` on. */
static void turn(const struct setup *s, const float *raw, uint32_t n, int32_t first, float *turned)
{
	const struct gg_model *m = &s->engine->net;
	const struct gg_rope *r = &m->rope;
	struct ggml_init_params params = {
		.mem_size = 8 * ggml_tensor_overhead() + ggml_graph_overhead(), .no_alloc = true };
	struct ggml_context *context = ggml_init(params);
	struct ggml_tensor *x = ggml_new_tensor_3d(context, GGML_TYPE_F32, m->head_dim, m->n_kv_heads, n);
	struct ggml_tensor *at = ggml_new_tensor_1d(context, GGML_TYPE_I32, n), *y;
	struct ggml_cgraph *nodes = ggml_new_graph(context);
	ggml_backend_buffer_t buffer;

	y = ggml_rope_ext(context, x, at, m->rope_factors[GG_HOST], r->n_dims, r->type, r->n_context,
			  r->base, r->scale, r->ext_factor, r->attn_factor, r->beta_fast, r->beta_slow);
	ggml_build_forward_expand(nodes, y);
	buffer = ggml_backend_alloc_ctx_tensors(context, s->engine->backend.handle);
	ck_assert_ptr_nonnull(buffer);
	memcpy(x->data, raw, n * s->width * sizeof(*raw));
	for (uint32_t i = 0; i < n; i++)
		((int32_t *)at->data)[i] = first + (int32_t)i;
	ck_assert_int_eq(ggml_backend_graph_compute(s->engine->backend.handle, nodes), GGML_STATUS_SUCCESS);
	memcpy(turned, y->data, n * s->width * sizeof(*raw));
	ggml_backend_buffer_free(buffer);
	ggml_free(context);
}

static char *key_at(const struct setup *s, uint32_t head, uint32_t row)
{
	const struct gg_cache *cache = &s->seq->caches[0];

	return (char *)cache->k.address + (cache->first[head] + row) * gg_row_bytes(s->engine);
}

/* n tokens come: as a step of the engine, but for running the model. */
static void append(struct setup *s, uint32_t n)
{
	struct gg_cache *cache = &s->seq->caches[0];
	const struct gg_model *m = &s->engine->net;
	const struct ggml_type_traits *traits = ggml_get_type_traits(s->engine->type);
	float turned[STEP * 256], *raw = s->raw + cache->n[0] * s->width;

	ck_assert(!gg_seq_reserve(s->seq, n) && !gg_seq_settle(s->seq, n));
	for (size_t i = 0; i < n * s->width; i++)
		raw[i] = kv_random_normal(&s->random);
	turn(s, raw, n, (int32_t)s->seq->logical - s->seq->base, turned);
	for (uint32_t g = 0; g < m->n_kv_heads; g++) {
		for (uint32_t i = 0; i < n; i++) {
			const float *key = turned + i * s->width + g * m->head_dim;

			if (traits->from_float_ref)
				traits->from_float_ref(key, key_at(s, g, cache->n[g] + i), m->head_dim);
			else
				memcpy(key_at(s, g, cache->n[g] + i), key, m->head_dim * sizeof(*key));
			if (cache->positions)
				cache->positions[cache->first[g] + cache->n[g] + i] =
					(int32_t)(s->seq->logical + i);
		}
		cache->n[g] += n;
	}
	s->seq->logical += n;
}

static void cut(struct setup *s)
{
	uint32_t n = s->seq->caches[0].n[0];

	test_apply(s->seq, test_plan_ends(s->seq, SINKS, NEWEST));
	memmove(s->raw + SINKS * s->width, s->raw + (n - NEWEST) * s->width,
		NEWEST * s->width * sizeof(*s->raw));
}

/* Of rows from..to: root of the mean square of what is wrong with them, as a share. */
static double error_of(const struct setup *s, uint32_t from, uint32_t to)
{
	const struct gg_cache *cache = &s->seq->caches[0];
	const struct gg_model *m = &s->engine->net;
	uint32_t n = cache->n[0];
	float right[MOST * 256], row[256];
	double sum = 0, whole = 0;

	ck_assert(!gg_seq_settle(s->seq, 0));
	/* Side by side, up to the next token. */
	turn(s, s->raw, n, (int32_t)s->seq->logical - s->seq->base - (int32_t)n, right);
	for (uint32_t g = 0; g < m->n_kv_heads; g++) {
		for (uint32_t i = from; i < to; i++) {
			const float *key = right + i * s->width + g * m->head_dim;

			if (s->engine->type == GGML_TYPE_F32)
				memcpy(row, key_at(s, g, i), sizeof(*row) * m->head_dim);
			else
				ggml_get_type_traits(s->engine->type)->to_float(key_at(s, g, i), row,
										m->head_dim);
			for (uint32_t d = 0; d < m->head_dim; d++) {
				sum += pow((double)row[d] - (double)key[d], 2);
				whole += pow((double)key[d], 2);
			}
		}
	}
	return sqrt(sum / whole);
}

/* --- what a policy is told ----------------------------------------------------------------- */

/* A key at a phase, by the model's description. */
static void turn_as_told(const struct kvmod_model *m, const float *raw, double phase, double *key)
{
	for (uint32_t d = 0; d < m->head_dim; d++)
		key[d] = (double)raw[d];
	for (uint32_t pair = 0; pair < m->n_rope_freqs; pair++) {
		uint32_t a = m->rope_interleaved ? 2 * pair : pair;
		uint32_t b = m->rope_interleaved ? a + 1 : pair + m->n_rope_freqs;
		double angle = phase * (double)m->rope_freqs[pair], by = (double)m->rope_magnitude;

		key[a] = by * (cos(angle) * (double)raw[a] - sin(angle) * (double)raw[b]);
		key[b] = by * (sin(angle) * (double)raw[a] + cos(angle) * (double)raw[b]);
	}
}

/* The largest difference of a key that a request shows to what the request says of the key. */
static double error_of_told(const struct setup *s)
{
	const struct kvmod_model *m = gg_engine_ops.model(s->engine);
	struct kvmod_request request = { .size = sizeof(request) };
	const struct kvmod_segment *segment;
	double key[256], most = 0;

	ck_assert_int_eq(gg_request(s->engine, s->seq, &request), 0);
	segment = kvmod_segment_at(&request, 0);
	for (uint32_t g = 0; g < segment->n_kv_heads; g++) {
		const struct kvmod_head *head = kvmod_head_at(segment, g);

		for (uint32_t i = 0; i < head->n; i++) {
			const float *shown = (const void *)((const char *)head->k.data + i * head->k.stride);
			double phase = (head->positions ? head->positions[i] : (int32_t)i) +
				       (i < head->n_turned ? head->turn : 0) - (double)segment->phase_base;

			turn_as_told(m, s->raw + i * s->width + g * m->head_dim, phase, key);
			for (uint32_t d = 0; d < m->head_dim; d++)
				most = fmax(most, fabs(key[d] - (double)shown[d]));
		}
	}
	return most;
}

static void stream(struct setup *s, uint32_t n_cuts)
{
	for (uint32_t i = 0; i < n_cuts; i++) {
		append(s, STEP);
		cut(s);
		ck_assert_int_le((int32_t)s->seq->logical - s->seq->base, CONTEXT);
	}
}

/* The type's rounding: of a key, of the copy that is turned, and of what that becomes. */
static const struct {
	enum ggml_type type;
	double rounding;
} types[] = {
	{ GGML_TYPE_F32, 2e-6 },
	{ GGML_TYPE_F16, 2.2e-4 },
	{ GGML_TYPE_Q8_0, 6e-3 },
};
#define N_TYPES	((int)(sizeof(types) / sizeof(*types)))

START_TEST(ten_thousand)
{
	const double rounding = types[_i].rounding;
	struct setup s;
	double first, last, newest;

	set_up(&s, &tiny_models[0], types[_i].type);
	append(&s, STEP);
	append(&s, STEP);
	append(&s, STEP);
	stream(&s, 10);
	first = error_of(&s, 0, SINKS);
	newest = error_of(&s, SINKS + NEWEST - 4, SINKS + NEWEST);
	ck_assert_double_lt(newest, rounding);
	ck_assert_double_lt(first, 1.6 * rounding);
	stream(&s, 9990);
	ck_assert_uint_eq(s.seq->logical, 10003 * STEP);
	last = error_of(&s, 0, SINKS);
	printf("%s: keys of the sinks are off by %.1e after 10 cuts, %.1e after 10,000; new ones %.1e\n",
	       ggml_type_name(types[_i].type), first, last, newest);
	ck_assert_double_lt(last, 1.1 * first + 1e-7);
	/* The others were turned back once at most while they were there. */
	ck_assert_double_lt(error_of(&s, SINKS, SINKS + NEWEST), 1.6 * rounding);
	tear_down(&s);
}
END_TEST

/* Every way that RoPE is done; all of a head, and half of it. */
START_TEST(every_rope)
{
	struct tiny_model spec = tiny_models[(unsigned)_i % n_tiny_models];
	struct setup s;

	if ((unsigned)_i >= n_tiny_models)
		spec.rope_dims = spec.head_dim / 2;
	for (int type = 0; type < N_TYPES; type++) {
		if (spec.head_dim % ggml_blck_size(types[type].type))
			continue;
		set_up(&s, &spec, types[type].type);
		for (uint32_t i = 0; i < MOST / STEP; i++)
			append(&s, STEP);
		cut(&s);
		ck_assert_double_lt(error_of(&s, 0, SINKS), 1.6 * types[type].rounding);
		stream(&s, 60);
		ck_assert_int_gt(s.seq->base, 2 * CONTEXT);
		ck_assert_double_lt(error_of(&s, 0, SINKS), 1.6 * types[type].rounding);
		ck_assert_double_lt(error_of(&s, SINKS, SINKS + NEWEST), 1.6 * types[type].rounding);
		if (types[type].type == GGML_TYPE_F32)
			ck_assert_double_lt(error_of_told(&s), 1e-4);
		tear_down(&s);
	}
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, ten_thousand, 0, N_TYPES);
	tcase_add_loop_test(tc, every_rope, 0, 2 * (int)n_tiny_models);
}

int main(void)
{
	return test_main("engine rotations", add);
}
