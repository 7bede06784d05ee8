/* SPDX-License-Identifier: Apache-2.0 */
/* Edits the header of a GGUF file, key by key, to make wrong models. */
#include <config.h>

#include "tests/gguf_edit.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <gguf.h>

/* --- bytes ------------------------------------------------------------------------------ */

void bytes_add(struct bytes *b, const void *bytes, size_t n)
{
	b->bytes = realloc(b->bytes, b->n + n + 1);
	ck_assert_ptr_nonnull(b->bytes);
	if (n)
		memcpy(b->bytes + b->n, bytes, n);
	b->n += n;
}

static void add_text(struct bytes *b, const char *text, size_t n)
{
	uint64_t length = n;

	bytes_add(b, &length, sizeof(length));
	bytes_add(b, text, n);
}

static void add_number(struct bytes *b, uint32_t type, double number)
{
	union {
		uint8_t u8; uint16_t u16; uint32_t u32; int32_t i32; float f32; uint64_t u64;
	} raw;

	switch (type) {
	case GGUF_TYPE_UINT8:
	case GGUF_TYPE_INT8:
	case GGUF_TYPE_BOOL:
		raw.u8 = (uint8_t)number;
		bytes_add(b, &raw.u8, sizeof(raw.u8));
		break;
	case GGUF_TYPE_UINT16:
	case GGUF_TYPE_INT16:
		raw.u16 = (uint16_t)number;
		bytes_add(b, &raw.u16, sizeof(raw.u16));
		break;
	case GGUF_TYPE_UINT32:
		raw.u32 = (uint32_t)number;
		bytes_add(b, &raw.u32, sizeof(raw.u32));
		break;
	case GGUF_TYPE_INT32:
		raw.i32 = (int32_t)number;
		bytes_add(b, &raw.i32, sizeof(raw.i32));
		break;
	case GGUF_TYPE_FLOAT32:
		raw.f32 = (float)number;
		bytes_add(b, &raw.f32, sizeof(raw.f32));
		break;
	case GGUF_TYPE_FLOAT64:
		bytes_add(b, &number, sizeof(number));
		break;
	default:
		raw.u64 = (uint64_t)number;
		bytes_add(b, &raw.u64, sizeof(raw.u64));
	}
}

/* --- reading and writing ------------------------------------------------------------------- */

static void read_all(const char *path, struct bytes *b)
{
	FILE *file = fopen(path, "rb");
	char chunk[65536];
	size_t n;

	ck_assert_ptr_nonnull(file);
	while ((n = fread(chunk, 1, sizeof(chunk), file)) > 0)
		bytes_add(b, chunk, n);
	fclose(file);
}

static size_t size_of(uint32_t type)
{
	struct bytes b = { 0 };
	size_t n;

	add_number(&b, type, 0);
	n = b.n;
	free(b.bytes);
	return n;
}

static void take(const char **at, void *to, size_t n)
{
	memcpy(to, *at, n);
	*at += n;
}

static void take_text(const char **at, struct bytes *to)
{
	uint64_t n;

	take(at, &n, sizeof(n));
	bytes_add(to, *at, n);
	*at += n;
}

static void skip_values(const char **at, uint32_t type, uint64_t n)
{
	uint64_t length;

	for (uint64_t i = 0; i < n; i++) {
		length = size_of(type);
		if (type == GGUF_TYPE_STRING)
			take(at, &length, sizeof(length));
		*at += length;
	}
}

static void take_pair(const char **at, struct edit_pair *pair)
{
	const char *begin;
	uint32_t type;
	uint64_t n = 1;

	take_text(at, &pair->key);
	begin = *at;
	take(at, &type, sizeof(type));
	if (type == GGUF_TYPE_ARRAY) {
		take(at, &type, sizeof(type));
		take(at, &n, sizeof(n));
	}
	skip_values(at, type, n);
	bytes_add(&pair->value, begin, (size_t)(*at - begin));
}

void edit_open(struct edit *e, const char *path)
{
	struct bytes all = { 0 };
	const char *at;
	uint64_t n_tensors, n_pairs;

	*e = (struct edit){ .alignment = GGUF_DEFAULT_ALIGNMENT };
	read_all(path, &all);
	at = all.bytes + 4;
	take(&at, &e->version, sizeof(e->version));
	take(&at, &n_tensors, sizeof(n_tensors));
	take(&at, &n_pairs, sizeof(n_pairs));
	e->n_pairs = n_pairs;
	e->n_tensors = n_tensors;
	e->pairs = calloc(n_pairs + 1, sizeof(*e->pairs));
	e->tensors = calloc(n_tensors + 1, sizeof(*e->tensors));
	ck_assert(e->pairs && e->tensors);
	for (size_t i = 0; i < n_pairs; i++)
		take_pair(&at, &e->pairs[i]);
	for (size_t i = 0; i < n_tensors; i++) {
		struct edit_tensor *t = &e->tensors[i];

		take_text(&at, &t->name);
		take(&at, &t->n_dims, sizeof(t->n_dims));
		take(&at, t->ne, t->n_dims * sizeof(*t->ne));
		take(&at, &t->type, sizeof(t->type));
		take(&at, &t->offset, sizeof(t->offset));
	}
	at += (e->alignment - (size_t)(at - all.bytes) % e->alignment) % e->alignment;
	bytes_add(&e->data, at, all.n - (size_t)(at - all.bytes));
	free(all.bytes);
}

void edit_write(const struct edit *e, const char *path)
{
	uint64_t n_tensors = e->n_tensors, n_pairs = e->n_pairs;
	struct bytes b = { 0 };
	FILE *file = fopen(path, "wb");

	bytes_add(&b, "GGUF", 4);
	bytes_add(&b, &e->version, sizeof(e->version));
	bytes_add(&b, &n_tensors, sizeof(n_tensors));
	bytes_add(&b, &n_pairs, sizeof(n_pairs));
	for (size_t i = 0; i < e->n_pairs; i++) {
		add_text(&b, e->pairs[i].key.bytes, e->pairs[i].key.n);
		bytes_add(&b, e->pairs[i].value.bytes, e->pairs[i].value.n);
	}
	for (size_t i = 0; i < e->n_tensors; i++) {
		const struct edit_tensor *t = &e->tensors[i];

		add_text(&b, t->name.bytes, t->name.n);
		bytes_add(&b, &t->n_dims, sizeof(t->n_dims));
		bytes_add(&b, t->ne, (t->n_dims < 8 ? t->n_dims : 8) * sizeof(*t->ne));
		bytes_add(&b, &t->type, sizeof(t->type));
		bytes_add(&b, &t->offset, sizeof(t->offset));
	}
	while (b.n % e->alignment)
		bytes_add(&b, "", 1);
	bytes_add(&b, e->data.bytes, e->data.n);
	ck_assert_ptr_nonnull(file);
	ck_assert_uint_eq(fwrite(b.bytes, 1, b.n, file), b.n);
	ck_assert_int_eq(fclose(file), 0);
	free(b.bytes);
}

void edit_close(struct edit *e)
{
	for (size_t i = 0; i < e->n_pairs; i++) {
		free(e->pairs[i].key.bytes);
		free(e->pairs[i].value.bytes);
	}
	for (size_t i = 0; i < e->n_tensors; i++)
		free(e->tensors[i].name.bytes);
	free(e->pairs);
	free(e->tensors);
	free(e->data.bytes);
}

/* --- keys -------------------------------------------------------------------------------------- */

static struct edit_pair *find(struct edit *e, const char *key)
{
	for (size_t i = 0; i < e->n_pairs; i++) {
		if (e->pairs[i].key.n == strlen(key) && !memcmp(e->pairs[i].key.bytes, key, strlen(key)))
			return &e->pairs[i];
	}
	return NULL;
}

struct edit_pair *edit_find(struct edit *e, const char *key)
{
	ck_assert_msg(find(e, key), "%s is not there", key);
	return find(e, key);
}

/* A key with no value yet, but for its type. */
static struct bytes *fresh(struct edit *e, const char *key, uint32_t type)
{
	struct edit_pair *pair = find(e, key);

	if (!pair) {
		e->pairs = realloc(e->pairs, (e->n_pairs + 1) * sizeof(*e->pairs));
		ck_assert_ptr_nonnull(e->pairs);
		pair = &e->pairs[e->n_pairs++];
		*pair = (struct edit_pair){ 0 };
		bytes_add(&pair->key, key, strlen(key));
	}
	pair->value.n = 0;
	bytes_add(&pair->value, &type, sizeof(type));
	return &pair->value;
}

void edit_scalar(struct edit *e, const char *key, uint32_t type, double number)
{
	add_number(fresh(e, key, type), type, number);
}

void edit_text(struct edit *e, const char *key, const char *text, size_t n)
{
	add_text(fresh(e, key, GGUF_TYPE_STRING), text, n);
}

void edit_array(struct edit *e, const char *key, uint32_t type, double number, size_t n)
{
	struct bytes *value = fresh(e, key, GGUF_TYPE_ARRAY);
	uint64_t length = n;

	bytes_add(value, &type, sizeof(type));
	bytes_add(value, &length, sizeof(length));
	for (size_t i = 0; i < n; i++)
		add_number(value, type, number);
}

void edit_texts(struct edit *e, const char *key)
{
	edit_array(e, key, GGUF_TYPE_STRING, 0, 0);
}

void edit_append(struct edit *e, const char *key, const char *text, size_t n)
{
	struct bytes *value = &edit_find(e, key)->value;
	uint64_t length;

	add_text(value, text, n);
	memcpy(&length, value->bytes + 8, sizeof(length));
	length++;
	memcpy(value->bytes + 8, &length, sizeof(length));
}

void edit_remove(struct edit *e, const char *key)
{
	struct edit_pair *pair = edit_find(e, key);

	free(pair->key.bytes);
	free(pair->value.bytes);
	memmove(pair, pair + 1, (size_t)(e->pairs + --e->n_pairs - pair) * sizeof(*pair));
}

void edit_number_at(struct edit *e, const char *key, size_t i, double number)
{
	struct bytes *value = &edit_find(e, key)->value, one = { 0 };
	uint32_t type;

	memcpy(&type, value->bytes + 4, sizeof(type));
	add_number(&one, type, number);
	memcpy(value->bytes + 16 + i * one.n, one.bytes, one.n);
	free(one.bytes);
}

void edit_text_at(struct edit *e, const char *key, size_t i, const char *text, size_t n)
{
	struct bytes *value = &edit_find(e, key)->value, changed = { 0 };
	const char *from = value->bytes + 16, *to;

	skip_values(&from, GGUF_TYPE_STRING, i);
	to = from;
	skip_values(&to, GGUF_TYPE_STRING, 1);
	bytes_add(&changed, value->bytes, (size_t)(from - value->bytes));
	add_text(&changed, text, n);
	bytes_add(&changed, to, value->n - (size_t)(to - value->bytes));
	free(value->bytes);
	*value = changed;
}

void edit_twice(struct edit *e, const char *key)
{
	struct edit_pair *from, *to;

	fresh(e, "another", GGUF_TYPE_UINT8);
	from = edit_find(e, key);
	to = edit_find(e, "another");
	to->key.n = to->value.n = 0;
	bytes_add(&to->key, from->key.bytes, from->key.n);
	bytes_add(&to->value, from->value.bytes, from->value.n);
}

struct edit_tensor *edit_tensor(struct edit *e, const char *name)
{
	for (size_t i = 0; i < e->n_tensors; i++) {
		if (e->tensors[i].name.n == strlen(name) &&
		    !memcmp(e->tensors[i].name.bytes, name, strlen(name)))
			return &e->tensors[i];
	}
	ck_abort_msg("no tensor %s", name);
	return NULL;
}

/* --- vocabularies --------------------------------------------------------------------------------- */

enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, BYTE = 6 };

static void add_token(struct edit *e, const char *text, int type)
{
	uint64_t n;

	edit_append(e, "tokenizer.ggml.tokens", text, strlen(text));
	memcpy(&n, edit_find(e, "tokenizer.ggml.tokens")->value.bytes + 8, sizeof(n));
	edit_number_at(e, "tokenizer.ggml.token_type", (size_t)n - 1, type);
}

static void begin_vocabulary(struct edit *e, const char *model, size_t n)
{
	edit_text(e, "tokenizer.ggml.model", model, strlen(model));
	edit_texts(e, "tokenizer.ggml.tokens");
	edit_array(e, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, NORMAL, n);
}

void edit_spm(struct edit *e, size_t n)
{
	char text[32];

	begin_vocabulary(e, "llama", n);
	edit_array(e, "tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, -1, n);
	add_token(e, "<unk>", UNKNOWN);
	add_token(e, "<s>", CONTROL);
	add_token(e, "</s>", CONTROL);
	for (size_t i = 3; i < n; i++) {
		snprintf(text, sizeof(text), i < 259 ? "<0x%02zX>" : "word%zu", i < 259 ? i - 3 : i);
		add_token(e, text, i < 259 ? BYTE : NORMAL);
	}
}

/* As GPT-2 writes bytes: those that can be seen as they are, the others from U+0100 on. */
static size_t write_byte(unsigned byte, char *text)
{
	unsigned c = byte;

	if (byte <= ' ' || (byte >= 0x7f && byte <= 0xa0) || byte == 0xad) {
		c = 0x100;
		for (unsigned b = 0; b < byte; b++)
			c += b <= ' ' || (b >= 0x7f && b <= 0xa0) || b == 0xad;
	}
	if (c < 0x80) {
		text[0] = (char)c;
		return 1;
	}
	text[0] = (char)(0xc0 | c >> 6);
	text[1] = (char)(0x80 | (c & 0x3f));
	return 2;
}

void edit_bpe(struct edit *e, size_t n)
{
	char text[32];
	size_t length;

	begin_vocabulary(e, "gpt2", n);
	edit_text(e, "tokenizer.ggml.pre", "default", 7);
	edit_texts(e, "tokenizer.ggml.merges");
	edit_scalar(e, "tokenizer.ggml.bos_token_id", GGUF_TYPE_UINT32, 256);
	edit_scalar(e, "tokenizer.ggml.eos_token_id", GGUF_TYPE_UINT32, 256);
	for (unsigned byte = 0; byte < 256; byte++) {
		text[write_byte(byte, text)] = '\0';
		add_token(e, text, NORMAL);
	}
	add_token(e, "<|end|>", CONTROL);
	for (size_t i = 257; i < n; i++) {
		length = (size_t)snprintf(text, sizeof(text), "a %c", (char)('A' + i - 257));
		edit_append(e, "tokenizer.ggml.merges", text, length);
		text[1] = text[2];
		text[2] = '\0';
		add_token(e, text, NORMAL);
	}
}
