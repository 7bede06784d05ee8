/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small models with something changed in their headers at random: each is served or
 * refused in words by both engines, and none ends the process. The numbers are always
 * the same ones; KVMOD_FUZZ=SEED,ROUNDS in the environment makes others.
 */
#include <config.h>

#include "tests/engine_host.h"
#include "tests/gguf_edit.h"
#include "core/testkit/random.h"
#include "tests/tiny_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ROUNDS	150

struct fuzz {
	struct kv_random random;
	const char *path;
	unsigned served, refused;
};

static uint32_t draw(struct fuzz *f, size_t n)
{
	return kv_random_range(&f->random, 0, n ? (uint32_t)n - 1 : 0);
}

/* --- changes ------------------------------------------------------------------------------- */

/* Numbers at which something ends or begins. */
static uint64_t number(struct fuzz *f)
{
	static const uint64_t odd[] = {
		0, 1, 2, 3, 4, 5, 8, 9, 12, 13, 31, 32, 64, 255, 256, 299, 300, 301, 65535, 65536,
		0x7f800000, 0x7fc00000, 0x80000000, INT32_MAX, UINT32_MAX, 1ull << 32, 1ull << 40,
		INT64_MAX, 1ull << 63, UINT64_MAX, UINT64_MAX - 31,
	};

	return odd[draw(f, sizeof(odd) / sizeof(odd[0]))];
}

/* Somewhere among these bytes: a byte, a number, or a piece from elsewhere. */
static void change_bytes(struct fuzz *f, char *bytes, size_t n)
{
	static const size_t widths[] = { 1, 2, 4, 8 };
	size_t at = draw(f, n), width = widths[draw(f, 4)];
	uint64_t value = number(f);

	if (width > n - at)
		width = n - at;
	switch (draw(f, 3)) {
	case 0:
		bytes[at] = (char)(bytes[at] ^ 1 << draw(f, 8));
		break;
	case 1:
		memcpy(bytes + at, &value, width);
		break;
	default:
		memmove(bytes + at, bytes + draw(f, n - width + 1), width);
	}
}

static void swap_bytes(struct bytes *a, struct bytes *b)
{
	struct bytes c = *a;

	*a = *b;
	*b = c;
}

static void change_key(struct fuzz *f, struct edit *e)
{
	static const uint32_t types[] = { GGUF_TYPE_UINT8, GGUF_TYPE_INT32, GGUF_TYPE_UINT32,
					  GGUF_TYPE_FLOAT32, GGUF_TYPE_BOOL, GGUF_TYPE_UINT64 };
	struct edit_pair *pair = &e->pairs[draw(f, e->n_pairs)], *other = &e->pairs[draw(f, e->n_pairs)];
	char name[128];

	snprintf(name, sizeof(name), "%.*s", (int)pair->key.n, pair->key.bytes);
	switch (draw(f, 6)) {
	case 0:
		edit_remove(e, name);
		break;
	case 1:
		swap_bytes(&pair->value, &other->value);
		break;
	case 2:
		edit_scalar(e, name, types[draw(f, 6)], (double)number(f));
		break;
	case 3:
		edit_array(e, name, types[draw(f, 6)], (double)draw(f, 400), draw(f, 400));
		break;
	default:
		change_bytes(f, pair->value.bytes, pair->value.n);
	}
}

static void change_tensor(struct fuzz *f, struct edit *e)
{
	struct edit_tensor *t = &e->tensors[draw(f, e->n_tensors)], *other = &e->tensors[draw(f, e->n_tensors)];

	switch (draw(f, 6)) {
	case 0:
		swap_bytes(&t->name, &other->name);
		break;
	case 1:
		t->type = (int32_t)draw(f, GGML_TYPE_COUNT + 2);
		break;
	case 2:
		t->n_dims = draw(f, 7);
		break;
	case 3:
		t->ne[draw(f, 3)] = (int64_t)number(f);
		break;
	case 4:
		t->offset = number(f);
		break;
	default:
		for (uint32_t n = draw(f, e->n_tensors); n; n--)
			free(e->tensors[--e->n_tensors].name.bytes);
	}
}

static void change_file(struct fuzz *f, const char *path)
{
	static char header[16384];
	FILE *file = fopen(path, "r+b");
	size_t n;

	ck_assert_ptr_nonnull(file);
	n = fread(header, 1, sizeof(header), file);
	change_bytes(f, header, n);
	rewind(file);
	ck_assert_uint_eq(fwrite(header, 1, n, file), n);
	ck_assert_int_eq(fclose(file), 0);
}

/* --- one file ---------------------------------------------------------------------------------- */

static void write_file(struct fuzz *f, const char *good)
{
	struct edit e;
	uint32_t kind = draw(f, 3), vocabulary = draw(f, 5);

	edit_open(&e, good);
	if (vocabulary > 2)
		edit_spm(&e, TINY_VOCAB);
	else if (vocabulary)
		edit_bpe(&e, TINY_VOCAB);
	for (uint32_t i = draw(f, 3) + 1; kind && i && e.n_pairs; i--) {
		if (kind == 1)
			change_key(f, &e);
		else
			change_tensor(f, &e);
	}
	edit_write(&e, f->path);
	edit_close(&e);
	for (uint32_t i = draw(f, 3) + 1; !kind && i; i--)
		change_file(f, f->path);
}

static void run_ops(struct gg_engine *engine, const struct kvmod_engine_ops *ops)
{
	float *logits = calloc(ops->model(engine)->n_vocab, sizeof(*logits));
	int32_t token = 0;
	struct kvmod_seq *seq;
	struct kvmod_batch_item item = { .size = sizeof(item), .n_tokens = 1, .tokens = &token,
					 .n_logits = 1, .logits = logits };
	struct kvmod_batch batch = { .size = sizeof(batch), .n_items = 1, .item_stride = sizeof(item),
				     .items = &item };

	if (!ops->seq_open(engine, &seq)) {
		item.seq = seq;
		ops->step(engine, &batch);
		ops->seq_close(engine, seq);
	}
	free(logits);
}

/* What comes out does not matter: numbers of the file may have become others. */
static void use(struct gg_engine *engine)
{
	const struct kvmod_engine_ops *ops = engine->base.ops;
	static const char text[] = "<s> aAaB\xe2\x82\xac,  12\n\x01\x7f<|end|>";
	struct kvmod_message message = { "user", "hello" };
	int32_t tokens[256];
	size_t n = 256, room;
	char piece[64];

	if (!ops->tokenize(engine, text, sizeof(text) - 1,
			   KVMOD_TOKENIZE_BOS | KVMOD_TOKENIZE_SPECIAL, tokens, &n)) {
		for (size_t i = 0; i < n; i++) {
			room = sizeof(piece);
			ops->detokenize(engine, tokens[i], piece, &room);
		}
	}
	n = 256;
	ops->chat(engine, &message, 1, 1, tokens, &n);
	run_ops(engine, ops);
}

static void try_file(struct fuzz *f, bool llama)
{
	struct test_engine_params params = {
		.model = f->path, .llama = llama, .context = 64, .no_mmap = (int32_t)draw(f, 2),
	};
	struct gg_engine *engine = test_engine_open(&params);

	if (!engine) {
		ck_assert_str_ne(test_engine_error(), "");
		f->refused++;
		return;
	}
	f->served++;
	use(engine);
	test_engine_close(engine);
}

START_TEST(headers)
{
	char *good = tiny_model_write(&tiny_models[_i], TINY_GOOD), path[512];
	struct fuzz f = { .random = { (uint64_t)_i + 1 }, .path = path };
	const char *asked = getenv("KVMOD_FUZZ");
	unsigned long long seed = 0;
	unsigned rounds = ROUNDS;

	if (asked)
		ck_assert_int_eq(sscanf(asked, "%llu,%u", &seed, &rounds), 2);
	f.random.state += seed * 1000;
	snprintf(path, sizeof(path), "%s.changed", good);
	for (unsigned round = 0; round < rounds; round++) {
		write_file(&f, good);
		try_file(&f, round % 4 == 3);
	}
	if (asked)
		printf("%s: %u served, %u refused\n", tiny_models[_i].name, f.served, f.refused);
	ck_assert_uint_gt(f.served, rounds / 50);
	ck_assert_uint_gt(f.refused, rounds / 5);
	unlink(path);
	unlink(good);
	free(good);
}
END_TEST

static void add(TCase *tc)
{
	if (getenv("KVMOD_FUZZ"))
		tcase_set_timeout(tc, 0);
	tcase_add_loop_test(tc, headers, 0, 8);
}

int main(void)
{
	return test_main("engine fuzz", add);
}
