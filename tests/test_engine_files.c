/* SPDX-License-Identifier: Apache-2.0 */
/* Wrong model files and parameters: each gets its own error message. */
#include "tests/engine_host.h"
#include "core/testkit/random.h"
#include "tests/tiny_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void refuse(const char *model, int32_t code, const char *why)
{
	struct gg_engine *engine = test_engine_open(&(struct test_engine_params){ .model = model });

	ck_assert_ptr_null(engine);
	ck_assert_msg(test_engine_code() == code && strstr(test_engine_error(), why),
		      "%d \"%s\", expected %d \"%s\"", test_engine_code(), test_engine_error(),
		      code, why);
}

static const struct {
	enum tiny_fault fault;
	int32_t code;
	const char *why;
} faults[] = {
	{ TINY_NO_WEIGHT, KVMOD_EFORMAT, ": weight blk.1.ffn_up.weight is missing" },
	{ TINY_WRONG_SHAPE, KVMOD_EFORMAT, ": blk.1.attn_k.weight is 64 x 128 x 1 x 1, expected 64 x 64" },
	{ TINY_DEEP_WEIGHT, KVMOD_EFORMAT, ": blk.1.attn_q.weight is 64 x 128 x 2 x 1, expected 64 x 128" },
	{ TINY_EXTRA_WEIGHT, KVMOD_ENOTSUP,
	  ": weight blk.1.attn_sinks.weight is not supported in the llama family" },
	{ TINY_UNKNOWN_ARCH, KVMOD_ENOTSUP,
	  ": architecture \"mamba\" is not supported; supported are llama, qwen2, qwen3" },
	{ TINY_NO_SIZES, KVMOD_EFORMAT, ": no llama.block_count in the header" },
	{ TINY_NO_LAYERS, KVMOD_EFORMAT, ": llama.block_count is 0, expected 1 to 512" },
	{ TINY_ODD_HEADS, KVMOD_EFORMAT, ": 4 query heads cannot share 3 KV heads" },
	{ TINY_EXPERTS, KVMOD_ENOTSUP, ": the model is a mixture of 8 experts; only dense models are supported" },
	{ TINY_SOFTCAP, KVMOD_ENOTSUP, ": llama.final_logit_softcapping = 30 is not supported" },
	{ TINY_NOT_CAUSAL, KVMOD_ENOTSUP, ": llama.attention.causal = false is not supported" },
	{ TINY_F16_NORM, KVMOD_ENOTSUP, ": blk.1.ffn_norm.weight is f16, expected f32" },
};

START_TEST(wrong_models)
{
	char *model = tiny_model_write(&tiny_models[0], faults[_i].fault);

	refuse(model, faults[_i].code, faults[_i].why);
	unlink(model);
	free(model);
}
END_TEST

START_TEST(no_file)
{
	refuse("/nonexistent/model.gguf", KVMOD_ENOENT,
	       "/nonexistent/model.gguf: No such file or directory");
	refuse("/", KVMOD_EFORMAT, "/: not a GGUF file: a directory, expected a regular file");
}
END_TEST

static char *read_all(const char *path, size_t *size)
{
	FILE *file = fopen(path, "rb");
	char *bytes;

	ck_assert_ptr_nonnull(file);
	fseek(file, 0, SEEK_END);
	*size = (size_t)ftell(file);
	rewind(file);
	bytes = malloc(*size);
	ck_assert_uint_eq(fread(bytes, 1, *size, file), *size);
	fclose(file);
	return bytes;
}

static void write_all(const char *path, const char *bytes, size_t size)
{
	FILE *file = fopen(path, "wb");

	ck_assert_ptr_nonnull(file);
	ck_assert_uint_eq(fwrite(bytes, 1, size, file), size);
	ck_assert_int_eq(fclose(file), 0);
}

/* Cut off at every length from nothing to almost whole. */
START_TEST(truncated)
{
	char *model = tiny_model_write(&tiny_models[0], TINY_GOOD);
	size_t size, cut;
	char *bytes = read_all(model, &size);

	write_all(model, bytes, 0);
	refuse(model, KVMOD_EFORMAT, ": not a GGUF file: the file is empty");
	write_all(model, bytes, 3);
	refuse(model, KVMOD_EFORMAT, ": not a GGUF file: the file does not begin with \"GGUF\"");
	for (cut = 4; cut < 2400; cut += 37) {
		write_all(model, bytes, cut);
		refuse(model, KVMOD_EFORMAT, ": truncated or damaged GGUF file (");
	}
	write_all(model, bytes, size - 4096);
	refuse(model, KVMOD_EFORMAT, ": truncated: ");
	free(bytes);
	unlink(model);
	free(model);
}
END_TEST

START_TEST(junk)
{
	static char bytes[5000];
	struct kv_random random = { 12 };
	char *model = tiny_model_write(&tiny_models[0], TINY_GOOD);

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (char)kv_random_u32(&random);
	write_all(model, bytes, sizeof(bytes));
	refuse(model, KVMOD_EFORMAT, ": not a GGUF file");
	memcpy(bytes, "GGUF\3\0\0", 8);
	write_all(model, bytes, sizeof(bytes));
	refuse(model, KVMOD_EFORMAT, ": truncated or damaged GGUF file (");
	unlink(model);
	free(model);
}
END_TEST

/* What a number of layers on the GPU ends with, where the host has no devices. */
static const char *no_gpu(void)
{
	if (ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_GPU))
		return "gpu_layers = 2: the host of this engine provides no devices";
	if (ggml_backend_reg_by_name("CUDA"))
		return "gpu_layers = 2: ggml's CUDA backend finds no GPU; set gpu_layers = 0";
	return "gpu_layers = 2: this ggml was built without CUDA; set gpu_layers = 0";
}

/* A number of layers without a GPU is refused with the reason; -1 then means the CPU. */
START_TEST(no_gpu_here)
{
	char *model = tiny_model_write(&tiny_models[0], TINY_GOOD);
	struct test_engine_params params = { .model = model, .gpu_layers = 2 };
	struct gg_engine *engine;

	ck_assert_ptr_null(test_engine_open(&params));
	ck_assert_int_eq(test_engine_code(), KVMOD_ENOTSUP);
	ck_assert_str_eq(test_engine_error(), no_gpu());
	params.gpu_layers = -1;
	engine = test_engine_open(&params);
	ck_assert_msg(engine, "%s", test_engine_error());
	ck_assert_ptr_null(gg_engine_ops.model(engine)->device);
	ck_assert_uint_eq(gg_engine_ops.model(engine)->n_device_layers, 0);
	test_engine_close(engine);
	unlink(model);
	free(model);
}
END_TEST

START_TEST(wrong_parameters)
{
	char *model = tiny_model_write(&tiny_models[5], TINY_GOOD); /* a head dimension of 16 */
	struct test_engine_params params = { .model = model, .type = GGML_TYPE_Q8_0 };

	ck_assert_ptr_null(test_engine_open(&params));
	ck_assert_int_eq(test_engine_code(), KVMOD_ENOTSUP);
	ck_assert_str_eq(test_engine_error(),
			 "cache_type = q8_0 needs a head dimension that is a multiple of 32; this model's is 16");
	unlink(model);
	free(model);
}
END_TEST

/* A model without a vocabulary runs token ids, and refuses text. */
START_TEST(no_vocabulary)
{
	char *model = tiny_model_write(&tiny_models[0], TINY_GOOD);
	struct gg_engine *engine = test_engine(model, GGML_TYPE_F32);
	struct kvmod_message message = { "user", "hello" };
	const struct kvmod_model *info = gg_engine_ops.model(engine);
	int32_t tokens[10];
	size_t n = 10;

	ck_assert_str_eq(info->architecture, "llama");
	ck_assert_str_eq(info->name, "llama, grouped heads");
	ck_assert_uint_eq(info->n_layers, TINY_LAYERS);
	ck_assert_uint_eq(info->n_kv_heads, 2);
	ck_assert_uint_eq(info->n_vocab, TINY_VOCAB);
	ck_assert_uint_eq(info->rope_interleaved, 1);
	ck_assert_uint_eq(info->n_end_tokens, 0);
	ck_assert_int_eq(gg_tokenize(engine, "hello", 5, 0, tokens, &n), KVMOD_ENOTSUP);
	ck_assert_int_eq(gg_chat(engine, &message, 1, 1, tokens, &n), KVMOD_ENOTSUP);
	test_engine_close(engine);
	unlink(model);
	free(model);
}
END_TEST

/* Past the window, attention would be another; RoPE still goes by the trained context. */
START_TEST(sliding_window)
{
	char *model = tiny_model_write(&tiny_models[0], TINY_WINDOW);
	struct gg_engine *engine = test_engine(model, GGML_TYPE_F32);
	struct kvmod_seq *seq = test_seq(engine);

	ck_assert_uint_eq(gg_engine_ops.model(engine)->context, TINY_CONTEXT / 8);
	ck_assert_int_eq(engine->net.rope.n_context, TINY_CONTEXT);
	ck_assert_int_eq(gg_prompt_begin(engine, seq, TINY_CONTEXT / 8, NULL), 0);
	ck_assert_int_eq(gg_prompt_begin(engine, seq, TINY_CONTEXT / 8 + 1, NULL), KVMOD_ERANGE);
	gg_seq_close(engine, seq);
	test_engine_close(engine);
	unlink(model);
	free(model);
}
END_TEST

/* Past the window, the message names the window, not the trained context. */
START_TEST(past_the_window)
{
	char *model = tiny_model_write(&tiny_models[0], TINY_WINDOW);
	struct test_engine_params params = {
		.model = model, .type = GGML_TYPE_F32, .context = TINY_CONTEXT / 8 + 1,
	};
	int32_t tokens[TINY_CONTEXT / 8 + 1];
	char expected[256];
	struct gg_engine *engine;
	struct kvmod_seq *seq;
	unsigned n;

	ck_assert_ptr_null(test_engine_open(&params));
	ck_assert_int_eq(test_engine_code(), KVMOD_ERANGE);
	snprintf(expected, sizeof(expected), "context = %d exceeds the model's sliding window of %d "
		 "tokens: set context_override = yes to allow this",
		 TINY_CONTEXT / 8 + 1, TINY_CONTEXT / 8);
	ck_assert_str_eq(test_engine_error(), expected);
	params.context_override = 1;
	engine = test_engine_open(&params);
	ck_assert_msg(engine, "%s", test_engine_error());
	seq = test_seq(engine);
	tiny_tokens(tokens, TINY_CONTEXT / 8 + 1, 1);
	test_run(seq, tokens, TINY_CONTEXT / 8 + 1, NULL, 0);
	snprintf(expected, sizeof(expected), "the sequence exceeds the model's sliding window of %d "
		 "tokens: answers get worse,", TINY_CONTEXT / 8);
	ck_assert_int_eq(strncmp(test_engine_warning(&n), expected, strlen(expected)), 0);
	ck_assert_uint_eq(n, 1);
	gg_seq_close(engine, seq);
	test_engine_close(engine);
	unlink(model);
	free(model);
}
END_TEST

/* Names go into messages and JSON: bytes that are not UTF-8 are replaced, the rest stays. */
START_TEST(bad_name)
{
	char *model = tiny_model_write(&tiny_models[0], TINY_BAD_NAME);
	struct gg_engine *engine = test_engine(model, GGML_TYPE_F32);

	ck_assert_str_eq(gg_engine_ops.model(engine)->name, "caf? \xe2\x82\xac ??");
	test_engine_close(engine);
	unlink(model);
	free(model);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, wrong_models, 0, (int)(sizeof(faults) / sizeof(faults[0])));
	tcase_add_test(tc, no_file);
	tcase_add_test(tc, truncated);
	tcase_add_test(tc, junk);
	tcase_add_test(tc, no_gpu_here);
	tcase_add_test(tc, wrong_parameters);
	tcase_add_test(tc, no_vocabulary);
	tcase_add_test(tc, sliding_window);
	tcase_add_test(tc, past_the_window);
	tcase_add_test(tc, bad_name);
}

int main(void)
{
	return test_main("engine files", add);
}
