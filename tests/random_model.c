/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes a model of a given shape with random weights, for benchmarks: as fast as
 * the disk takes it, for one block of numbers is written over and over. Its length
 * is no multiple of a row's, so that rows differ.
 */
#include <config.h>

#include <getopt.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ggml.h>
#include <gguf.h>

#include "core/testkit/random.h"

#define BLOCK	(32 * 65537)	/* numbers; whole blocks of any quantisation to 32 */

static const struct shape {
	const char *name;
	uint32_t n_layers, width, ffn, n_q_heads, n_kv_heads, head_dim, n_vocab, context;
} shapes[] = {
	{ "8b", 32, 4096, 14336, 32, 8, 128, 128256, 131072 },
	{ "1b", 16, 2048, 8192, 32, 8, 64, 128256, 131072 },
	{ "tiny", 4, 256, 512, 4, 2, 64, 512, 4096 },
};
#define N_SHAPES (sizeof(shapes) / sizeof(shapes[0]))

static const struct shape *shape_find(const char *name)
{
	for (size_t i = 0; i < N_SHAPES; i++) {
		if (!strcmp(name, shapes[i].name))
			return &shapes[i];
	}
	return NULL;
}

/* --- the header ------------------------------------------------------------------- */

static void set_u32(struct gguf_context *gguf, const char *key, uint32_t value)
{
	char name[96];

	snprintf(name, sizeof(name), "llama.%s", key);
	gguf_set_val_u32(gguf, name, value);
}

static void set_sizes(struct gguf_context *gguf, const struct shape *s)
{
	gguf_set_val_str(gguf, "general.architecture", "llama");
	gguf_set_val_str(gguf, "general.name", s->name);
	set_u32(gguf, "vocab_size", s->n_vocab);
	set_u32(gguf, "context_length", s->context);
	set_u32(gguf, "block_count", s->n_layers);
	set_u32(gguf, "embedding_length", s->width);
	set_u32(gguf, "feed_forward_length", s->ffn);
	set_u32(gguf, "attention.head_count", s->n_q_heads);
	set_u32(gguf, "attention.head_count_kv", s->n_kv_heads);
	set_u32(gguf, "rope.dimension_count", s->head_dim);
	gguf_set_val_f32(gguf, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
	gguf_set_val_f32(gguf, "llama.rope.freq_base", 500000);
}

/* The kinds that libllama knows of a token. */
enum kind { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, BYTE = 6 };

/* Three special tokens, one for each byte, and words that nobody says. */
static int32_t name_token(uint32_t i, char text[20])
{
	static const char *const special[] = { "<unk>", "<s>", "</s>" };

	if (i < 3)
		snprintf(text, 20, "%s", special[i]);
	else if (i < 259)
		snprintf(text, 20, "<0x%02X>", i - 3);
	else
		snprintf(text, 20, "<word%u>", i);
	return !i ? UNKNOWN : i < 3 ? CONTROL : i < 259 ? BYTE : NORMAL;
}

static bool set_tokenizer(struct gguf_context *gguf, uint32_t n)
{
	char (*texts)[20] = malloc(n * sizeof(*texts));
	const char **names = malloc(n * sizeof(*names));
	float *scores = malloc(n * sizeof(*scores));
	int32_t *kinds = malloc(n * sizeof(*kinds));
	bool there = texts && names && scores && kinds;

	for (uint32_t i = 0; there && i < n; i++) {
		kinds[i] = name_token(i, texts[i]);
		names[i] = texts[i];
		scores[i] = -(float)i;
	}
	if (there) {
		gguf_set_val_str(gguf, "tokenizer.ggml.model", "llama");
		gguf_set_arr_str(gguf, "tokenizer.ggml.tokens", names, n);
		gguf_set_arr_data(gguf, "tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, scores, n);
		gguf_set_arr_data(gguf, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, kinds, n);
		gguf_set_val_u32(gguf, "tokenizer.ggml.unknown_token_id", 0);
		gguf_set_val_u32(gguf, "tokenizer.ggml.bos_token_id", 1);
		gguf_set_val_u32(gguf, "tokenizer.ggml.eos_token_id", 2);
	}
	free(texts);
	free(names);
	free(scores);
	free(kinds);
	return there;
}

/* --- tensors ------------------------------------------------------------------------- */

static void add(struct gguf_context *gguf, struct ggml_context *context, enum ggml_type type,
		const char *name, int64_t columns, int64_t rows)
{
	struct ggml_tensor *tensor = rows ? ggml_new_tensor_2d(context, type, columns, rows) :
					    ggml_new_tensor_1d(context, GGML_TYPE_F32, columns);

	ggml_set_name(tensor, name);
	gguf_add_tensor(gguf, tensor);
}

static void add_layer(struct gguf_context *gguf, struct ggml_context *context, enum ggml_type type,
		      const struct shape *s, uint32_t layer)
{
	const int64_t q = (int64_t)s->n_q_heads * s->head_dim, kv = (int64_t)s->n_kv_heads * s->head_dim;
	const struct {
		const char *name;
		int64_t columns, rows;
	} weights[] = {
		{ "attn_norm", s->width, 0 }, { "attn_q", s->width, q }, { "attn_k", s->width, kv },
		{ "attn_v", s->width, kv }, { "attn_output", q, s->width }, { "ffn_norm", s->width, 0 },
		{ "ffn_gate", s->width, s->ffn }, { "ffn_up", s->width, s->ffn },
		{ "ffn_down", s->ffn, s->width },
	};

	for (size_t i = 0; i < sizeof(weights) / sizeof(weights[0]); i++) {
		char name[GGML_MAX_NAME];

		snprintf(name, sizeof(name), "blk.%u.%s.weight", layer, weights[i].name);
		add(gguf, context, type, name, weights[i].columns, weights[i].rows);
	}
}

static void add_all(struct gguf_context *gguf, struct ggml_context *context, enum ggml_type type,
		    const struct shape *s)
{
	add(gguf, context, type, "token_embd.weight", s->width, s->n_vocab);
	add(gguf, context, type, "output_norm.weight", s->width, 0);
	add(gguf, context, type, "output.weight", s->width, s->n_vocab);
	for (uint32_t i = 0; i < s->n_layers; i++)
		add_layer(gguf, context, type, s, i);
}

/* --- their numbers ----------------------------------------------------------------------- */

/* A block of numbers as bytes, and where in the block the next one goes. */
struct block {
	char *data;
	size_t bytes, at;
};

/* Products with as many columns keep the size of what they multiply. */
static bool block_new(struct block *block, enum ggml_type type, int64_t columns)
{
	struct kv_random random = { (uint64_t)columns };
	float *numbers = malloc(BLOCK * sizeof(*numbers));

	block->bytes = ggml_row_size(type, BLOCK);
	block->data = malloc(block->bytes);
	if (numbers && block->data) {
		for (size_t i = 0; i < BLOCK; i++)
			numbers[i] = kv_random_normal(&random) / sqrtf((float)columns);
		ggml_quantize_chunk(type, numbers, block->data, 0, 1, BLOCK, NULL);
	}
	free(numbers);
	return numbers && block->data;
}

static bool write_block(FILE *file, struct block *block, size_t bytes)
{
	while (bytes) {
		size_t n = block->bytes - block->at < bytes ? block->bytes - block->at : bytes;

		if (fwrite(block->data + block->at, 1, n, file) != n)
			return false;
		bytes -= n;
		block->at = (block->at + n) % block->bytes;
	}
	return true;
}

static bool write_ones(FILE *file, int64_t n)
{
	const float one = 1;

	while (n-- > 0) {
		if (fwrite(&one, sizeof(one), 1, file) != 1)
			return false;
	}
	return true;
}

/* In the order of the header, each at a multiple of the alignment. */
static bool write_tensors(FILE *file, const struct gguf_context *gguf, struct ggml_context *context,
			  const struct shape *s, struct block blocks[2])
{
	static const char zeros[64];
	struct ggml_tensor *t = ggml_get_first_tensor(context);

	for (; t; t = ggml_get_next_tensor(context, t)) {
		size_t bytes = ggml_nbytes(t), alignment = gguf_get_alignment(gguf), rest = bytes % alignment;
		bool done = ggml_n_dims(t) == 1 ?
				    write_ones(file, t->ne[0]) :
				    write_block(file, &blocks[t->ne[0] == s->ffn], bytes);

		if (!done || (rest && fwrite(zeros, 1, alignment - rest, file) != alignment - rest))
			return false;
	}
	return true;
}

static bool write_model(const char *path, const struct shape *s, enum ggml_type type)
{
	size_t n = 3 + 9 * (size_t)s->n_layers;
	struct ggml_context *context = ggml_init((struct ggml_init_params){
		.mem_size = n * ggml_tensor_overhead(), .no_alloc = true });
	struct gguf_context *gguf = gguf_init_empty();
	struct block blocks[2] = { { 0 } };
	FILE *file = NULL;
	bool done = false;

	set_sizes(gguf, s);
	add_all(gguf, context, type, s);
	if (set_tokenizer(gguf, s->n_vocab) && block_new(&blocks[0], type, s->width) &&
	    block_new(&blocks[1], type, s->ffn) && gguf_write_to_file(gguf, path, true))
		file = fopen(path, "ab");
	if (file)
		done = write_tensors(file, gguf, context, s, blocks);
	if (file && fclose(file))
		done = false;
	if (!done)
		perror(path);
	free(blocks[0].data);
	free(blocks[1].data);
	gguf_free(gguf);
	ggml_free(context);
	return done;
}

static int usage(void)
{
	fprintf(stderr, "usage: random_model [--shape 8b|1b|tiny] [--type f16|q8_0|q4_0|f32] FILE\n");
	return 2;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "shape", required_argument, NULL, 's' },
		{ "type", required_argument, NULL, 't' },
		{ NULL, 0, NULL, 0 },
	};
	static const enum ggml_type types[] = { GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0, GGML_TYPE_F32 };
	const struct shape *shape = &shapes[0];
	enum ggml_type type = GGML_TYPE_F16;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		size_t t = 0;

		while (option == 't' && t < 4 && strcmp(optarg, ggml_type_name(types[t])))
			t++;
		if (option == 's')
			shape = shape_find(optarg);
		if (!shape || option == '?' || t == 4)
			return usage();
		if (option == 't')
			type = types[t];
	}
	if (optind + 1 != argc)
		return usage();
	return !write_model(argv[optind], shape, type);
}
