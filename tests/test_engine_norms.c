/* SPDX-License-Identifier: Apache-2.0 */
/* Norms of Wo v that the engine supplies, against the file's own numbers in double precision. */
#include "tests/norm_reference.h"
#include "tests/sides.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct kvmod_needs needs = { .size = sizeof(needs),
					  .what = KVMOD_NEED_WO_NORM | KVMOD_NEED_V };

struct one {
	char *model;
	struct gg_engine *engine;
	struct kvmod_seq *seq;
	int32_t tokens[400];
	float *wo[TINY_LAYERS];		/* [width][n_q_heads * head_dim] */
};

/* --- Wo as the file has it ------------------------------------------------------------------ */

static float *read_wo(struct ggml_context *tensors, uint32_t layer)
{
	const struct ggml_tensor *wo;
	char name[GGML_MAX_NAME];
	float *to;

	snprintf(name, sizeof(name), "blk.%u.attn_output.weight", layer);
	wo = ggml_get_tensor(tensors, name);
	ck_assert_ptr_nonnull(wo);
	to = malloc((size_t)ggml_nelements(wo) * sizeof(*to));
	ck_assert_ptr_nonnull(to);
	if (wo->type == GGML_TYPE_F32)
		memcpy(to, wo->data, ggml_nbytes(wo));
	else
		ggml_get_type_traits(wo->type)->to_float(wo->data, to, ggml_nelements(wo));
	return to;
}

static void read_all(struct one *s)
{
	struct ggml_context *tensors;
	struct gguf_context *gguf =
		gguf_init_from_file(s->model, (struct gguf_init_params){ .ctx = &tensors });

	ck_assert_ptr_nonnull(gguf);
	for (uint32_t i = 0; i < s->engine->net.n_layers; i++)
		s->wo[i] = read_wo(tensors, i);
	gguf_free(gguf);
	ggml_free(tensors);
}

static void open_spec(struct one *s, const struct tiny_model *spec, enum ggml_type type,
		      enum tiny_fault variant, bool mmap)
{
	memset(s, 0, sizeof(*s));
	s->model = tiny_model_write(spec, variant);
	s->engine = test_engine_open(&(struct test_engine_params){
		.model = s->model, .type = type, .batch = 32, .no_mmap = !mmap });
	ck_assert_msg(s->engine, "%s", test_engine_error());
	s->seq = test_seq(s->engine);
	tiny_tokens(s->tokens, 400, 3);
	read_all(s);
}

static void open_one(struct one *s, unsigned model, enum ggml_type type, enum tiny_fault variant)
{
	open_spec(s, &tiny_models[model], type, variant, model % 2 == 0);
}

static void close_one(struct one *s)
{
	gg_seq_close(s->engine, s->seq);
	test_engine_close(s->engine);
	for (uint32_t i = 0; i < TINY_LAYERS; i++)
		free(s->wo[i]);
	unlink(s->model);
	free(s->model);
}

/* --- what is asked ----------------------------------------------------------------------------- */

static const struct kvmod_segment *request(struct kvmod_seq *seq, uint32_t layer)
{
	struct kvmod_request r = { .size = sizeof(r) };

	ck_assert_msg(!gg_request(seq->engine, seq, &r), "%s", test_engine_error());
	return kvmod_segment_at(&r, layer);
}

static void check(struct one *s, struct kvmod_seq *seq)
{
	for (uint32_t i = 0; i < s->engine->net.n_layers; i++)
		norm_reference_check(request(seq, i), s->wo[i], s->engine->net.dims[GG_WIDTH]);
}

/* The same, computed on n threads, of which ggml knows nothing. */
static void check_on(struct one *s, uint32_t n)
{
	int before = s->engine->backend.n_threads;

	test_host_threads(n);
	s->engine->backend.n_threads = (int)n;
	check(s, s->seq);
	s->engine->backend.n_threads = before;
	test_host_threads(1);
}

static void prompt(struct one *s, struct kvmod_seq *seq, uint32_t n)
{
	ck_assert_int_eq(gg_prompt_begin(s->engine, seq, n, &needs), 0);
	test_run(seq, s->tokens + seq->logical, n, NULL, 0);
}

static void cut(struct kvmod_seq *seq, uint32_t kind)
{
	struct kvmod_request r;

	test_apply(seq, sides_plan(seq, kind, &r));
}

/* --- tests ---------------------------------------------------------------------------------------- */

/* One and several query heads a KV head, dimensions within a block of 256 and as large as one. */
START_TEST(types)
{
	static const unsigned models[] = { 2, 3, 8, 10 };
	static const enum ggml_type cached[] = { GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_Q8_0 };
	static const enum tiny_fault variants[] = { TINY_GOOD, TINY_F16_OUT, TINY_Q8_0_OUT,
						    TINY_Q4_K_OUT };
	static struct one s;
	unsigned model = models[_i / 12];

	if (variants[_i % 4] == TINY_Q4_K_OUT && model == 2)
		return;	/* its rows have 64 numbers */
	open_one(&s, model, cached[_i / 4 % 3], variants[_i % 4]);
	prompt(&s, s.seq, 70);
	check(&s, s.seq);
	close_one(&s);
}
END_TEST

/* Wo of two megabytes: it is read piece by piece. */
START_TEST(large)
{
	static const struct tiny_model spec = {
		.name = "large",
		.architecture = "llama",
		.n_layers = 1,
		.width = 512,
		.n_q_heads = 8,
		.n_kv_heads = 2,
		.head_dim = 128,
		.ffn = 32,
		.n_vocab = TINY_VOCAB,
		.context = TINY_CONTEXT,
	};
	static struct one s;

	open_spec(&s, &spec, GGML_TYPE_F16, TINY_GOOD, true);
	prompt(&s, s.seq, 5);
	check_on(&s, _i ? 3 : 1);
	close_one(&s);
}
END_TEST

/* On several threads, each norm is the same. */
START_TEST(threads)
{
	static struct one s;
	static float alone[70];

	open_one(&s, 8, GGML_TYPE_F16, TINY_Q4_K_OUT);
	prompt(&s, s.seq, 70);
	memcpy(alone, norm_reference_number(request(s.seq, 1), 5, 0), sizeof(alone));
	ck_assert_int_eq(gg_seq_truncate(s.engine, s.seq, 0), 0);
	prompt(&s, s.seq, 70);
	check_on(&s, 3);
	ck_assert_mem_eq(norm_reference_number(request(s.seq, 1), 5, 0), alone, sizeof(alone));
	close_one(&s);
}
END_TEST

/* Through cuts, a second turn, growth, decoding, truncates and forks. */
START_TEST(follow)
{
	static struct one s;
	struct kvmod_seq *fork;

	open_one(&s, 8, GGML_TYPE_F16, TINY_Q8_0_OUT);
	prompt(&s, s.seq, 60);
	check(&s, s.seq);
	cut(s.seq, _i ? KVMOD_KEEP_HEADS : KVMOD_KEEP_SPANS);
	check(&s, s.seq);
	prompt(&s, s.seq, 30);
	check(&s, s.seq);
	cut(s.seq, KVMOD_KEEP_HEADS);
	fork = test_fork(s.seq);
	prompt(&s, s.seq, 300);
	check(&s, s.seq);
	ck_assert_uint_gt(gg_cache_room(s.engine, &s.seq->caches[0]), 256);
	check(&s, fork);
	test_run(fork, s.tokens + 1, 3, NULL, 0);
	check(&s, fork);
	ck_assert_int_eq(gg_seq_truncate(s.engine, fork, 70), 0);
	check(&s, fork);
	/* Other tokens at the positions that were dropped. */
	test_run(fork, s.tokens, 25, NULL, 0);
	check(&s, fork);
	gg_seq_close(s.engine, fork);
	close_one(&s);
}
END_TEST

/* What is known is not computed again. */
START_TEST(new_ones_only)
{
	static struct one s;

	open_one(&s, 0, GGML_TYPE_F16, TINY_GOOD);
	prompt(&s, s.seq, 60);
	*norm_reference_number(request(s.seq, 1), 3, 59) = 77;
	prompt(&s, s.seq, 30);
	ck_assert_float_eq(*norm_reference_number(request(s.seq, 1), 3, 59), 77);
	ck_assert_int_eq(gg_seq_truncate(s.engine, s.seq, 59), 0);
	test_run(s.seq, s.tokens, 1, NULL, 0);
	check(&s, s.seq);
	/* Lost for want of memory somewhere, computed again. */
	*norm_reference_number(request(s.seq, 1), 3, 20) = 77;
	gg_extras_free(&s.seq->caches[1]);
	check(&s, s.seq);
	close_one(&s);
}
END_TEST

/* Nobody who did not ask pays for them. */
START_TEST(not_asked)
{
	static struct one s;
	struct kvmod_needs other = { .size = sizeof(other), .what = KVMOD_NEED_K };

	open_one(&s, 0, GGML_TYPE_F16, TINY_GOOD);
	prompt(&s, s.seq, 60);
	ck_assert(!gg_extra_kept(&s.seq->caches[0], GG_WO_NORMS));
	check(&s, s.seq);
	ck_assert_int_eq(gg_prompt_begin(s.engine, s.seq, 5, &other), 0);
	test_run(s.seq, s.tokens, 5, NULL, 0);
	ck_assert_ptr_null(request(s.seq, 0)->wo_norm.data);
	ck_assert(!gg_extra_kept(&s.seq->caches[0], GG_WO_NORMS));
	/* And who asks later gets all. */
	prompt(&s, s.seq, 5);
	check(&s, s.seq);
	close_one(&s);
}
END_TEST

/* Wo is read from the file: this has to be the file that was opened. */
START_TEST(changed_file)
{
	static struct one s;
	struct kvmod_request r = { .size = sizeof(r) };
	struct timespec times[2] = { { .tv_sec = 1 }, { .tv_sec = 1 } };

	open_one(&s, 9, GGML_TYPE_F16, TINY_GOOD);
	prompt(&s, s.seq, 60);
	ck_assert_int_eq(utimensat(AT_FDCWD, s.model, times, 0), 0);
	ck_assert_int_eq(gg_request(s.engine, s.seq, &r), KVMOD_EIO);
	ck_assert_ptr_nonnull(strstr(test_engine_error(), ": the file was changed while in use"));
	/* Without that need, this engine has all that it needs in memory. */
	ck_assert_int_eq(gg_prompt_begin(s.engine, s.seq, 5, NULL), 0);
	test_run(s.seq, s.tokens, 5, NULL, 0);
	ck_assert_int_eq(gg_request(s.engine, s.seq, &r), 0);
	close_one(&s);
}
END_TEST

/* A GPU whose device does not compute them. */
START_TEST(no_extension)
{
	static struct setup s;
	struct kvmod_request r = { .size = sizeof(r) };
	const char *expected = "the policy needs norms of Wo v: the device of the GPU layers "
			       "does not compute them; set gpu_layers = 0";
	unsigned before, after;

	sides_no_attention = true;
	sides_set_up(&s, 1, 1);
	ck_assert_int_eq(gg_engine_ops.serves(s.cpu.engine, &needs), 0);
	ck_assert_int_eq(gg_engine_ops.serves(s.gpu.engine, &needs), KVMOD_ENOTSUP);
	ck_assert_str_eq(test_engine_error(), expected);
	test_engine_warning(&before);
	ck_assert_int_eq(gg_prompt_begin(s.gpu.engine, s.gpu.seq, 20, &needs), 0);
	ck_assert_str_eq(test_engine_warning(&after), expected);
	ck_assert_uint_eq(after, before + 1);
	sides_run(&s, 0, 20, false);
	ck_assert_int_eq(gg_request(s.gpu.engine, s.gpu.seq, &r), 0);
	for (uint32_t i = 0; i < TINY_LAYERS; i++)
		ck_assert_ptr_null(kvmod_segment_at(&r, i)->wo_norm.data);
	sides_tear_down(&s);
}
END_TEST

/* A device that fails costs the request alone. */
START_TEST(device_fails)
{
	static struct setup s;
	struct kvmod_request r = { .size = sizeof(r) };

	sides_set_up(&s, 1, 1);
	ck_assert_int_eq(gg_prompt_begin(s.gpu.engine, s.gpu.seq, 20, &needs), 0);
	sides_run(&s, 0, 20, false);
	sides_attention_fails = KVMOD_EDEVICE;
	ck_assert_int_eq(gg_request(s.gpu.engine, s.gpu.seq, &r), KVMOD_EDEVICE);
	sides_attention_fails = 0;
	sides_run(&s, 20, 30, false);
	sides_check(&s, 0, 30);
	ck_assert_int_eq(gg_request(s.gpu.engine, s.gpu.seq, &r), 0);
	ck_assert_ptr_nonnull(kvmod_segment_at(&r, TINY_LAYERS - 1)->wo_norm.data);
	sides_tear_down(&s);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, types, 0, 48);
	tcase_add_loop_test(tc, large, 0, 2);
	tcase_add_test(tc, threads);
	tcase_add_loop_test(tc, follow, 0, 2);
	tcase_add_test(tc, new_ones_only);
	tcase_add_test(tc, not_asked);
	tcase_add_test(tc, changed_file);
	tcase_add_test(tc, no_extension);
	tcase_add_test(tc, device_fails);
}

int main(void)
{
	return test_main("norms of Wo v in the engine", add);
}
