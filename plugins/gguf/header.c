/* SPDX-License-Identifier: Apache-2.0 */
/* Parses the header of a GGUF file, and refuses a wrong one. */
#include "engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PAIRS	65536u
#define MAX_TENSORS	16384u
#define MAX_ALIGNMENT	(1u << 20)

struct cursor {
	struct gg_engine *engine;
	struct gg_file *file;
	const char *at, *end;
	bool is_short;			/* the header goes on behind `end` */
	const char *what;		/* that is being read: "key", "tensor"; NULL: neither yet */
	uint64_t index;
};

/* --- steps ------------------------------------------------------------------------------ */

/* This becomes an error only if the file has no more bytes. */
static int32_t cut_off(struct cursor *c)
{
	c->is_short = true;
	return KVMOD_EFORMAT;
}

static bool has(const struct cursor *c, uint64_t n)
{
	return (uint64_t)(c->end - c->at) >= n;
}

static int32_t take(struct cursor *c, void *to, size_t n)
{
	if (!has(c, n))
		return cut_off(c);
	memcpy(to, c->at, n);
	c->at += n;
	return KVMOD_OK;
}

static int32_t take_text(struct cursor *c, struct gg_text_at *text)
{
	uint64_t n;
	int32_t code = take(c, &n, sizeof(n));

	if (code)
		return code;
	if (!has(c, n))
		return cut_off(c);
	*text = (struct gg_text_at){ c->at, (size_t)n };
	c->at += n;
	return KVMOD_OK;
}

/* A key, or a tensor's name. */
static int32_t take_name(struct cursor *c, size_t max, struct gg_text_at *name)
{
	int32_t code = take_text(c, name);
	char shown[GG_SHOWN];

	if (code)
		return code;
	if (!name->n || name->n > max)
		return gg_fail(c->engine, KVMOD_EFORMAT,
			       "%s: the name of %s %llu has %zu bytes, expected 1 to %zu", c->engine->model,
			       c->what, (unsigned long long)c->index, name->n, max);
	if (memchr(name->at, '\0', name->n))
		return gg_fail(c->engine, KVMOD_EFORMAT, "%s: the name of %s %llu, \"%s\", has a zero byte",
			       c->engine->model, c->what, (unsigned long long)c->index,
			       gg_show(*name, shown));
	return KVMOD_OK;
}

/* --- keys ----------------------------------------------------------------------------------- */

static const uint8_t sizes[GGUF_TYPE_COUNT] = {
	[GGUF_TYPE_UINT8] = 1,	[GGUF_TYPE_INT8] = 1,  [GGUF_TYPE_UINT16] = 2,	[GGUF_TYPE_INT16] = 2,
	[GGUF_TYPE_UINT32] = 4, [GGUF_TYPE_INT32] = 4, [GGUF_TYPE_FLOAT32] = 4, [GGUF_TYPE_BOOL] = 1,
	[GGUF_TYPE_UINT64] = 8, [GGUF_TYPE_INT64] = 8, [GGUF_TYPE_FLOAT64] = 8,
};

/* "key", or "key[5]". */
static const char *show_element(const struct gg_pair *pair, uint64_t i, char text[GG_SHOWN + 24])
{
	char shown[GG_SHOWN];

	if (pair->is_array)
		snprintf(text, GG_SHOWN + 24, "%s[%llu]", gg_show(pair->key, shown),
			 (unsigned long long)i);
	else
		gg_show(pair->key, text);
	return text;
}

static int32_t take_texts(struct cursor *c, const struct gg_pair *pair)
{
	char name[GG_SHOWN + 24], shown[GG_SHOWN];
	struct gg_text_at text;
	int32_t code;

	for (uint64_t i = 0; i < pair->n; i++) {
		if ((code = take_text(c, &text)))
			return code;
		if (memchr(text.at, '\0', text.n))
			return gg_fail(c->engine, KVMOD_EFORMAT, "%s: %s, \"%s\", has a zero byte",
				       c->engine->model, show_element(pair, i, name), gg_show(text, shown));
	}
	return KVMOD_OK;
}

static double number_at(const struct gg_pair *pair, uint64_t i)
{
	double wide;
	float narrow;

	if (pair->type == GGUF_TYPE_FLOAT64) {
		memcpy(&wide, pair->values + i * sizeof(wide), sizeof(wide));
		return wide;
	}
	memcpy(&narrow, pair->values + i * sizeof(narrow), sizeof(narrow));
	return (double)narrow;
}

static int32_t take_numbers(struct cursor *c, const struct gg_pair *pair)
{
	char name[GG_SHOWN + 24];

	if (pair->n > (uint64_t)(c->end - c->at) / sizes[pair->type])
		return cut_off(c);
	c->at += pair->n * sizes[pair->type];
	if (pair->type != GGUF_TYPE_FLOAT32 && pair->type != GGUF_TYPE_FLOAT64)
		return KVMOD_OK;
	for (uint64_t i = 0; i < pair->n; i++) {
		if (!isfinite(number_at(pair, i)))
			return gg_fail(c->engine, KVMOD_EFORMAT, "%s: %s is %g, expected a finite number",
				       c->engine->model, show_element(pair, i, name), number_at(pair, i));
	}
	return KVMOD_OK;
}

static int32_t take_type(struct cursor *c, struct gg_pair *pair)
{
	char shown[GG_SHOWN];
	uint32_t type;
	int32_t code = take(c, &type, sizeof(type));

	pair->n = 1;
	if (!code && type == GGUF_TYPE_ARRAY) {
		pair->is_array = true;
		if (!(code = take(c, &type, sizeof(type))))
			code = take(c, &pair->n, sizeof(pair->n));
	}
	if (code)
		return code;
	if (type == GGUF_TYPE_ARRAY)
		return gg_fail(c->engine, KVMOD_EFORMAT, "%s: %s is an array of arrays", c->engine->model,
			       gg_show(pair->key, shown));
	if (type >= GGUF_TYPE_COUNT || (type != GGUF_TYPE_STRING && !sizes[type]))
		return gg_fail(c->engine, KVMOD_EFORMAT, "%s: %s is of the unknown type %u", c->engine->model,
			       gg_show(pair->key, shown), type);
	pair->type = (enum gguf_type)type;
	return KVMOD_OK;
}

static int32_t take_pair(struct cursor *c, struct gg_pair *pair)
{
	int32_t code;

	pair->begin = c->at;
	if ((code = take_name(c, UINT16_MAX, &pair->key)) || (code = take_type(c, pair)))
		return code;
	pair->values = c->at;
	code = pair->type == GGUF_TYPE_STRING ? take_texts(c, pair) : take_numbers(c, pair);
	pair->end = c->at;
	return code;
}

/* --- tensors ----------------------------------------------------------------------------------- */

static int32_t refuse_tensor(const struct cursor *c, const struct gg_tensor_info *info, const char *why)
{
	char shown[GG_SHOWN];

	return gg_fail(c->engine, KVMOD_EFORMAT, "%s: tensor %s: %s", c->engine->model,
		       gg_show(info->name, shown), why);
}

static int32_t take_shape(struct cursor *c, struct gg_tensor_info *info)
{
	uint32_t n_dims;
	int32_t code = take(c, &n_dims, sizeof(n_dims));
	int64_t n = 1;
	char why[64];

	if (code)
		return code;
	if (!n_dims || n_dims > GGML_MAX_DIMS) {
		snprintf(why, sizeof(why), "%u dimensions, expected 1 to %d", n_dims, GGML_MAX_DIMS);
		return refuse_tensor(c, info, why);
	}
	info->n_dims = (int)n_dims;
	for (uint32_t d = 0; d < GGML_MAX_DIMS; d++) {
		info->ne[d] = 1;
		if (d < n_dims && (code = take(c, &info->ne[d], sizeof(info->ne[d]))))
			return code;
		if (info->ne[d] < 1 || __builtin_mul_overflow(n, info->ne[d], &n)) {
			snprintf(why, sizeof(why), "dimension %u is %lld: out of range", d,
				 (long long)info->ne[d]);
			return refuse_tensor(c, info, why);
		}
	}
	return KVMOD_OK;
}

/* Rows must be whole blocks of the type, and the tensor's size must not overflow. */
static int32_t take_element_type(struct cursor *c, struct gg_tensor_info *info)
{
	int64_t rows = info->ne[1] * info->ne[2] * info->ne[3];
	int32_t type, code = take(c, &type, sizeof(type));
	char why[160];

	if (code)
		return code;
	if (type < 0 || type >= GGML_TYPE_COUNT) {
		snprintf(why, sizeof(why), "type %d is unknown to this ggml", type);
		return refuse_tensor(c, info, why);
	}
	if (!ggml_blck_size((enum ggml_type)type)) {
		snprintf(why, sizeof(why), "type %d is not supported: %s", type,
			 ggml_type_name((enum ggml_type)type));
		return refuse_tensor(c, info, why);
	}
	info->type = (enum ggml_type)type;
	if (info->ne[0] % ggml_blck_size(info->type)) {
		snprintf(why, sizeof(why), "rows of %lld elements, expected whole blocks of %lld for %s",
			 (long long)info->ne[0], (long long)ggml_blck_size(info->type),
			 ggml_type_name(info->type));
		return refuse_tensor(c, info, why);
	}
	if (__builtin_mul_overflow((size_t)(info->ne[0] / ggml_blck_size(info->type)),
				   ggml_type_size(info->type), &info->size) ||
	    __builtin_mul_overflow(info->size, (size_t)rows, &info->size))
		return refuse_tensor(c, info, "the size is out of range");
	return KVMOD_OK;
}

static int32_t take_tensor(struct cursor *c, struct gg_tensor_info *info)
{
	uint64_t offset;
	int32_t code;

	if ((code = take_name(c, GGML_MAX_NAME - 1, &info->name)) || (code = take_shape(c, info)) ||
	    (code = take_element_type(c, info)) || (code = take(c, &offset, sizeof(offset))))
		return code;
	info->offset = (size_t)offset;
	return KVMOD_OK;
}

static size_t aligned(size_t n, size_t alignment)
{
	return (n + alignment - 1) / alignment * alignment;
}

/* Tensors must follow each other without gaps, and end within the file. */
static int32_t place_tensors(struct cursor *c)
{
	struct gg_file *file = c->file;
	size_t begin = aligned((size_t)(c->at - file->bytes), file->alignment), next = begin;
	size_t size = (size_t)file->st.st_size;
	char why[160];

	for (uint64_t i = 0; i < file->n_tensors; i++) {
		struct gg_tensor_info *info = &file->tensors[i];

		if (info->offset != next - begin) {
			snprintf(why, sizeof(why), "begins at byte %zu of the data, expected %zu",
				 info->offset, next - begin);
			return refuse_tensor(c, info, why);
		}
		info->offset = next;
		if (next > size || info->size > size - next) {
			snprintf(why, sizeof(why), "truncated: needs %zu bytes at %zu, but the file has %zu",
				 info->size, next, size);
			return refuse_tensor(c, info, why);
		}
		next += aligned(info->size, file->alignment);
	}
	return KVMOD_OK;
}

/* --- all of it ------------------------------------------------------------------------------------ */

static int32_t take_version(struct cursor *c)
{
	uint32_t version;
	int32_t code;

	c->at += 4;
	if ((code = take(c, &version, sizeof(version))))
		return code;
	if (version == 2 || version == 3)
		return KVMOD_OK;
	version = __builtin_bswap32(version);
	if (version >= 1 && version <= 3)
		return gg_fail(c->engine, KVMOD_ENOTSUP, "%s: the GGUF file is for %s-endian machines",
			       c->engine->model,
			       __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? "big" : "little");
	return gg_fail(c->engine, KVMOD_ENOTSUP, "%s: GGUF version %u is not supported; supported are 2 and 3",
		       c->engine->model, __builtin_bswap32(version));
}

static int32_t take_count(struct cursor *c, const char *of, uint64_t max, uint64_t *n)
{
	int32_t code = take(c, n, sizeof(*n));

	if (!code && *n > max)
		return gg_fail(c->engine, KVMOD_EFORMAT,
			       "%s: truncated or damaged GGUF file (%llu %s, expected at most %llu)",
			       c->engine->model, (unsigned long long)*n, of, (unsigned long long)max);
	return code;
}

static int32_t take_alignment(struct cursor *c)
{
	const struct gg_pair *pair = gg_file_find(c->file, "general.alignment");
	uint32_t n = GGUF_DEFAULT_ALIGNMENT;

	if (pair && (pair->is_array || pair->type != GGUF_TYPE_UINT32))
		return gg_refuse_kind(c->engine, pair, "u32");
	if (pair)
		memcpy(&n, pair->values, sizeof(n));
	if (n < 8 || n > MAX_ALIGNMENT || n & (n - 1))
		return gg_fail(c->engine, KVMOD_EFORMAT,
			       "%s: general.alignment is %u, expected a power of 2 from 8 to %u",
			       c->engine->model, n, MAX_ALIGNMENT);
	c->file->alignment = n;
	return KVMOD_OK;
}

/* A name is looked up once: a second key or tensor of that name would be ignored. */
static int32_t refuse_twice(struct cursor *c, const struct gg_text_at *names, uint64_t n)
{
	const struct gg_text_at **sorted = gg_texts_sort(names, n), *twice;
	char shown[GG_SHOWN];

	if (!sorted)
		return gg_fail(c->engine, KVMOD_ENOMEM, "no memory for the header of %s", c->engine->model);
	twice = gg_texts_twice(sorted, n);
	free(sorted);
	if (!twice)
		return KVMOD_OK;
	return gg_fail(c->engine, KVMOD_EFORMAT, "%s: %s %llu, %s, is a duplicate", c->engine->model,
		       c->what, (unsigned long long)(twice - names), gg_show(*twice, shown));
}

static int32_t take_pairs(struct cursor *c)
{
	struct gg_file *file = c->file;
	uint64_t n = file->n_pairs;
	struct gg_text_at *names = calloc(n + 1, sizeof(*names));
	int32_t code = KVMOD_OK;

	file->pairs = calloc(n + 1, sizeof(*file->pairs));
	if (!file->pairs || !names)
		code = gg_fail(c->engine, KVMOD_ENOMEM, "no memory for the header of %s", c->engine->model);
	c->what = "key";
	for (c->index = 0; !code && c->index < n; c->index++) {
		code = take_pair(c, &file->pairs[c->index]);
		names[c->index] = file->pairs[c->index].key;
	}
	if (!code)
		code = refuse_twice(c, names, n);
	free(names);
	return code;
}

static int32_t take_tensors(struct cursor *c)
{
	struct gg_file *file = c->file;
	uint64_t n = file->n_tensors;
	struct gg_text_at *names = calloc(n + 1, sizeof(*names));
	int32_t code = KVMOD_OK;

	file->tensors = calloc(n + 1, sizeof(*file->tensors));
	if (!file->tensors || !names)
		code = gg_fail(c->engine, KVMOD_ENOMEM, "no memory for the header of %s", c->engine->model);
	c->what = "tensor";
	for (c->index = 0; !code && c->index < n; c->index++) {
		code = take_tensor(c, &file->tensors[c->index]);
		names[c->index] = file->tensors[c->index].name;
	}
	if (!code)
		code = refuse_twice(c, names, n);
	free(names);
	return code;
}

static int32_t parse(struct cursor *c)
{
	struct gg_file *file = c->file;
	uint64_t n_tensors, n_pairs;
	int32_t code;

	if (file->n_bytes < 4 || memcmp(file->bytes, GGUF_MAGIC, 4))
		return gg_fail(c->engine, KVMOD_EFORMAT,
			       "%s: not a GGUF file: the file does not begin with \"GGUF\"", c->engine->model);
	if ((code = take_version(c)) || (code = take_count(c, "tensors", MAX_TENSORS, &n_tensors)) ||
	    (code = take_count(c, "keys", MAX_PAIRS, &n_pairs)))
		return code;
	file->n_pairs = n_pairs;
	if ((code = take_pairs(c)) || (code = take_alignment(c)))
		return code;
	file->n_tensors = n_tensors;
	code = take_tensors(c);
	return code ? code : place_tensors(c);
}

static int32_t say_cut_off(const struct cursor *c)
{
	char where[64] = "before its first key";

	if (c->what)
		snprintf(where, sizeof(where), "in %s %llu", c->what, (unsigned long long)c->index);
	if (c->file->n_bytes < (size_t)c->file->st.st_size)
		return gg_fail(c->engine, KVMOD_EFORMAT, "%s: the header has more than %zu bytes",
			       c->engine->model, c->file->n_bytes);
	return gg_fail(c->engine, KVMOD_EFORMAT,
		       "%s: truncated or damaged GGUF file (the header ends %s)", c->engine->model,
		       where);
}

int32_t gg_header_parse(struct gg_engine *engine, bool there_are_more, bool *more)
{
	struct gg_file *file = &engine->net.file;
	struct cursor c = { .engine = engine, .file = file, .at = file->bytes,
			    .end = file->bytes + file->n_bytes };
	int32_t code = parse(&c);

	*more = c.is_short && there_are_more;
	if (!c.is_short)
		return code;
	return *more ? KVMOD_OK : say_cut_off(&c);
}
