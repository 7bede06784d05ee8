/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check() answers as open() does, and copies no weight; serves() knows what the
 * engine collects.
 */
#include <config.h>

#include "tests/gguf_edit.h"
#include "tests/sides.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The code, and the words in `why`. */
static int32_t try(const char *model, bool check, char why[512])
{
	struct gg_engine *engine = test_engine_open(
		&(struct test_engine_params){ .model = model, .check = check });

	if (engine) {
		test_engine_close(engine);
		return KVMOD_OK;
	}
	snprintf(why, 512, "%s", test_engine_error());
	return test_engine_code();
}

static void assert_alike(const char *model)
{
	char opened[512] = "", checked[512] = "";
	int32_t code = try(model, false, opened);

	ck_assert_int_eq(try(model, true, checked), code);
	ck_assert_str_eq(checked, opened);
}

START_TEST(answers_as_open_does)
{
	char *model = tiny_model_write(&tiny_models[0], (enum tiny_fault)_i);

	assert_alike(model);
	/* What is behind the header counts too. */
	ck_assert_int_eq(truncate(model, 60000), 0);
	ck_assert_int_ne(try(model, true, (char[512]){ 0 }), KVMOD_OK);
	assert_alike(model);
	unlink(model);
	free(model);
}
END_TEST

/* The header and the weights are fine, and so are our own checks of the vocabulary. */
START_TEST(refused_by_libllama)
{
	static const char pre[] = "nonesuch";
	char *model = tiny_model_write(&tiny_models[0], TINY_GOOD), why[512];
	struct edit e;

	edit_open(&e, model);
	edit_bpe(&e, TINY_VOCAB);
	edit_text(&e, "tokenizer.ggml.pre", pre, strlen(pre));
	edit_write(&e, model);
	edit_close(&e);
	ck_assert_int_eq(try(model, true, why), KVMOD_EFORMAT);
	ck_assert_ptr_nonnull(strstr(why, "unknown pre-tokenizer type: 'nonesuch'"));
	assert_alike(model);
	unlink(model);
	free(model);
}
END_TEST

START_TEST(no_model)
{
	char why[512];

	assert_alike("/nonexistent/model.gguf");
	ck_assert_int_eq(try("/nonexistent/model.gguf", true, why), KVMOD_ENOENT);
	ck_assert_str_eq(why, "/nonexistent/model.gguf: No such file or directory");
	assert_alike("/dev/null");
}
END_TEST

/* As it describes itself when it is open. */
static void assert_same_model(const struct kvmod_model *a, const struct kvmod_model *b)
{
	ck_assert_uint_eq(a->n_layers, b->n_layers);
	ck_assert_uint_eq(a->n_q_heads, b->n_q_heads);
	ck_assert_uint_eq(a->n_kv_heads, b->n_kv_heads);
	ck_assert_uint_eq(a->head_dim, b->head_dim);
	ck_assert_uint_eq(a->n_vocab, b->n_vocab);
	ck_assert_uint_eq(a->context, b->context);
	ck_assert_uint_eq(a->n_end_tokens, b->n_end_tokens);
	ck_assert_uint_eq(a->n_device_layers, b->n_device_layers);
	ck_assert_str_eq(a->name, b->name);
	ck_assert_str_eq(a->architecture, b->architecture);
}

/* Of every family; on the GPU's side as well. */
START_TEST(copies_nothing)
{
	struct test_engine_params params = { .gpu_layers = _i % 2 ? TINY_LAYERS : 0 };
	char *model = tiny_model_write(&tiny_models[sides_models[_i / 2]], TINY_GOOD);
	struct gg_engine *opened, *checked;

	params.model = model;
	params.gpu = params.gpu_layers ? sides_find_gpu() : NULL;
	opened = test_engine_open(&params);
	params.check = true;
	checked = test_engine_open(&params);
	ck_assert_msg(opened && checked, "%s", test_engine_error());
	assert_same_model(gg_engine_ops.model(checked), gg_engine_ops.model(opened));
	ck_assert_uint_eq(checked->net.n_buffers, 0);
	ck_assert_uint_eq(opened->net.n_buffers > 0, params.gpu_layers > 0);
	ck_assert_ptr_null(checked->backend.threads);
	test_engine_close(checked);
	test_engine_close(opened);
	unlink(model);
	free(model);
}
END_TEST

START_TEST(serves)
{
	char *model = tiny_model_write(&tiny_models[0], TINY_GOOD);
	struct gg_engine *engine = test_engine_open(
		&(struct test_engine_params){ .model = model, .type = GGML_TYPE_F16, .check = true });
	struct kvmod_needs needs = {
		.size = sizeof(needs), .what = KVMOD_NEED_K | KVMOD_NEED_V | KVMOD_NEED_ALL_LAYERS,
		.rows = { .value = 32, .is_count = 1 }, .decode_every = 1,
		.types = KVMOD_TYPE_BIT(KVMOD_F16) | KVMOD_TYPE_BIT(KVMOD_F32),
	};

	ck_assert_int_eq(gg_engine_ops.serves(engine, &needs), KVMOD_OK);
	needs.types = KVMOD_TYPE_BIT(KVMOD_F32);
	ck_assert_int_eq(gg_engine_ops.serves(engine, &needs), KVMOD_ENOTSUP);
	ck_assert_str_eq(test_engine_error(), "the policy does not read K and V of cache_type = f16");
	needs.types = 0;
	needs.what = KVMOD_NEED_COLSUM | KVMOD_NEED_Q_STATS | KVMOD_NEED_WO_NORM;
	ck_assert_int_eq(gg_engine_ops.serves(engine, &needs), KVMOD_OK);
	test_engine_close(engine);
	unlink(model);
	free(model);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, answers_as_open_does, TINY_GOOD, TINY_F16_VALUES + 1);
	tcase_add_test(tc, refused_by_libllama);
	tcase_add_test(tc, no_model);
	tcase_add_loop_test(tc, copies_nothing, 0, 2 * N_MODELS);
	tcase_add_test(tc, serves);
}

int main(void)
{
	return test_main("engine_check", add);
}
