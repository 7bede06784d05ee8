/* SPDX-License-Identifier: Apache-2.0 */
/* Writes small models with an edited vocabulary. */
#include <config.h>

#include "tests/edited_model.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ggml.h>

static int64_t find(const struct gguf_context *gguf, const char *key)
{
	int64_t id = gguf_find_key(gguf, key);

	ck_assert_msg(id >= 0, "no key %s", key);
	return id;
}

void edited_model_type(struct gguf_context *gguf, uint32_t first, uint32_t n_tokens, int32_t type)
{
	static const char key[] = "tokenizer.ggml.token_type";
	int64_t id = find(gguf, key);
	size_t n = gguf_get_arr_n(gguf, id);
	int32_t *types = malloc(n * sizeof(*types));

	ck_assert_ptr_nonnull(types);
	memcpy(types, gguf_get_arr_data(gguf, id), n * sizeof(*types));
	for (uint32_t i = first; i < first + n_tokens; i++)
		types[i] = type;
	gguf_set_arr_data(gguf, key, GGUF_TYPE_INT32, types, n);
	free(types);
}

void edited_model_tokens(struct gguf_context *gguf, uint32_t first, uint32_t n_tokens,
			 const char *const *other)
{
	static const char key[] = "tokenizer.ggml.tokens";
	int64_t id = find(gguf, key);
	size_t n = gguf_get_arr_n(gguf, id);
	const char **texts = malloc(n * sizeof(*texts));
	char **copies = malloc(n * sizeof(*copies));

	ck_assert(texts && copies);
	for (size_t i = 0; i < n; i++)
		texts[i] = copies[i] = strdup(i >= first && i - first < n_tokens ?
						      other[i - first] :
						      gguf_get_arr_str(gguf, id, i));
	gguf_set_arr_str(gguf, key, texts, n); /* which forgets the old ones first */
	for (size_t i = 0; i < n; i++)
		free(copies[i]);
	free(copies);
	free(texts);
}

void edited_model_token(struct gguf_context *gguf, uint32_t token, const char *text)
{
	edited_model_tokens(gguf, token, 1, &text);
}

/* --- a small model around it ----------------------------------------------------------------- */

#define WIDTH 64

static const struct {
	const char *name;
	int64_t columns, rows; /* rows 0: a vector, 1: as many as there are tokens */
} weights[] = {
	{ "token_embd.weight", WIDTH, 1 },
	{ "output_norm.weight", WIDTH, 0 },
	{ "blk.0.attn_norm.weight", WIDTH, 0 },
	{ "blk.0.attn_q.weight", WIDTH, WIDTH },
	{ "blk.0.attn_k.weight", WIDTH, WIDTH / 2 },
	{ "blk.0.attn_v.weight", WIDTH, WIDTH / 2 },
	{ "blk.0.attn_output.weight", WIDTH, WIDTH },
	{ "blk.0.ffn_norm.weight", WIDTH, 0 },
	{ "blk.0.ffn_gate.weight", WIDTH, WIDTH },
	{ "blk.0.ffn_up.weight", WIDTH, WIDTH },
	{ "blk.0.ffn_down.weight", WIDTH, WIDTH },
};
#define N_WEIGHTS (sizeof(weights) / sizeof(weights[0]))

static void set_sizes(struct gguf_context *gguf)
{
	gguf_set_val_u32(gguf, "llama.block_count", 1);
	gguf_set_val_u32(gguf, "llama.embedding_length", WIDTH);
	gguf_set_val_u32(gguf, "llama.feed_forward_length", WIDTH);
	gguf_set_val_u32(gguf, "llama.attention.head_count", 2);
	gguf_set_val_u32(gguf, "llama.attention.head_count_kv", 1);
	gguf_set_val_u32(gguf, "llama.rope.dimension_count", WIDTH / 2);
}

/* The bytes of their data. */
static off_t add_weights(struct gguf_context *gguf, struct ggml_context *context)
{
	int64_t n_vocab = (int64_t)gguf_get_arr_n(gguf, find(gguf, "tokenizer.ggml.tokens"));
	size_t bytes = 0;

	for (size_t i = 0; i < N_WEIGHTS; i++) {
		int64_t rows = weights[i].rows == 1 ? n_vocab : weights[i].rows;
		struct ggml_tensor *tensor =
			rows ? ggml_new_tensor_2d(context, GGML_TYPE_F32, weights[i].columns, rows) :
			       ggml_new_tensor_1d(context, GGML_TYPE_F32, weights[i].columns);

		ggml_set_name(tensor, weights[i].name);
		gguf_add_tensor(gguf, tensor);
		bytes += GGML_PAD(ggml_nbytes(tensor), GGUF_DEFAULT_ALIGNMENT);
	}
	return (off_t)bytes;
}

char *edited_model_write(const char *model, void (*edit)(struct gguf_context *gguf, const void *arg),
			 const void *arg)
{
	const char *folder = getenv("TMPDIR");
	struct gguf_context *whole = gguf_init_from_file(model, (struct gguf_init_params){ .no_alloc = true });
	struct gguf_context *gguf = gguf_init_empty();
	struct ggml_context *context = ggml_init((struct ggml_init_params){
		.mem_size = N_WEIGHTS * ggml_tensor_overhead(), .no_alloc = true });
	struct stat st;
	off_t bytes;
	char *path;
	int fd;

	ck_assert_msg(whole && gguf && context, "%s cannot be read", model);
	gguf_set_kv(gguf, whole);
	set_sizes(gguf);
	bytes = add_weights(gguf, context);
	edit(gguf, arg);
	ck_assert_int_gt(asprintf(&path, "%s/kvmod-edited-XXXXXX", folder ? folder : "/tmp"), 0);
	fd = mkstemp(path);
	ck_assert_int_ge(fd, 0);
	ck_assert(gguf_write_to_file(gguf, path, true));
	ck_assert(!fstat(fd, &st) && !ftruncate(fd, st.st_size + bytes));
	close(fd);
	ggml_free(context);
	gguf_free(gguf);
	gguf_free(whole);
	return path;
}
