/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checks the vocabulary in the header, and copies it for libllama. libllama ends the
 * process where two tokens are equal, where a text needs a byte that no token has, and
 * more; where a key names a wrong token, it guesses one. So it gets a copy of the keys that
 * were checked here, and nothing else of the file.
 */
#include <config.h>

#include "engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PREFIX	"tokenizer.ggml."

#ifndef MFD_NOEXEC_SEAL			/* the C library may be older than the kernel */
#define MFD_NOEXEC_SEAL	0x0008u
#endif

/* In bytes, ten times what the largest published template has. */
#define MAX_TEMPLATE (1u << 20)

enum form {
	TEXT, TEXTS, FLAG, COUNT, TYPES, SCORES, IDS,
	ID,				/* of a token that kvmod uses */
	OTHER_ID			/* of another token: ignored if it is wrong */
};

static const struct {
	const char *key;
	enum form form;
} keys[] = {
	{ PREFIX "model", TEXT },		{ PREFIX "pre", TEXT },
	{ PREFIX "tokens", TEXTS },		{ PREFIX "merges", TEXTS },
	{ PREFIX "token_type", TYPES },		{ PREFIX "scores", SCORES },
	{ PREFIX "token_type_count", COUNT },	{ PREFIX "suppress_tokens", IDS },
	{ PREFIX "bos_token_id", ID },		{ PREFIX "eos_token_id", ID },
	{ PREFIX "eot_token_id", ID },		{ PREFIX "eom_token_id", ID },
	{ PREFIX "unknown_token_id", OTHER_ID }, { PREFIX "padding_token_id", OTHER_ID },
	{ PREFIX "seperator_token_id", OTHER_ID }, { PREFIX "cls_token_id", OTHER_ID },
	{ PREFIX "mask_token_id", OTHER_ID },
	{ PREFIX "fim_pre_token_id", OTHER_ID }, { PREFIX "fim_suf_token_id", OTHER_ID },
	{ PREFIX "fim_mid_token_id", OTHER_ID }, { PREFIX "fim_pad_token_id", OTHER_ID },
	{ PREFIX "fim_rep_token_id", OTHER_ID }, { PREFIX "fim_sep_token_id", OTHER_ID },
	{ PREFIX "prefix_token_id", OTHER_ID },	{ PREFIX "suffix_token_id", OTHER_ID },
	{ PREFIX "middle_token_id", OTHER_ID },
	{ PREFIX "add_bos_token", FLAG },	{ PREFIX "add_eos_token", FLAG },
	{ PREFIX "add_sep_token", FLAG },	{ PREFIX "add_space_prefix", FLAG },
	{ PREFIX "remove_extra_whitespaces", FLAG },
	{ PREFIX "normalizer.lowercase", FLAG }, { PREFIX "normalizer.strip_accents", FLAG },
	{ "tokenizer.chat_template", TEXT },	{ "tokenizer.chat_templates", TEXTS },
};
#define N_KEYS (sizeof(keys) / sizeof(keys[0]))

static const struct {
	enum gguf_type type;
	bool is_array;
} kinds[] = {
	[TEXT] = { GGUF_TYPE_STRING, false },	[TEXTS] = { GGUF_TYPE_STRING, true },
	[FLAG] = { GGUF_TYPE_BOOL, false },	[COUNT] = { GGUF_TYPE_UINT32, false },
	[TYPES] = { GGUF_TYPE_INT32, true },	[SCORES] = { GGUF_TYPE_FLOAT32, true },
	[IDS] = { GGUF_TYPE_INT32, true },	[ID] = { GGUF_TYPE_UINT32, false },
	[OTHER_ID] = { GGUF_TYPE_UINT32, false },
};

/* The vocabulary that is being checked. */
struct vocab {
	struct gg_engine *engine;
	const struct gg_pair *pair;
	struct gg_text_at *tokens;
	const struct gg_text_at **sorted;
	size_t n;
	bool is_spm;			/* SentencePiece, with scores; else BPE, with merges */
};

/* --- keys ------------------------------------------------------------------------------- */

static const struct gg_pair *find(const struct gg_engine *engine, const char *key)
{
	return gg_file_find(&engine->net.file, key);
}

static uint32_t u32_of(const struct gg_pair *pair)
{
	uint32_t value;

	memcpy(&value, pair->values, sizeof(value));
	return value;
}

static struct gg_text_at text_of(const struct gg_pair *pair)
{
	const char *at = pair->values;

	return gg_pair_next_text(&at);
}

static int32_t check_kind(struct gg_engine *engine, const struct gg_pair *pair, enum form form)
{
	struct gg_pair right = { .type = kinds[form].type, .is_array = kinds[form].is_array };
	char expected[GG_KIND];

	if (pair->type == right.type && pair->is_array == right.is_array)
		return KVMOD_OK;
	return gg_refuse_kind(engine, pair, gg_pair_kind(&right, expected));
}

static int32_t check_kinds(struct gg_engine *engine)
{
	int32_t code = KVMOD_OK;

	for (size_t i = 0; !code && i < N_KEYS; i++) {
		const struct gg_pair *pair = find(engine, keys[i].key);

		if (pair)
			code = check_kind(engine, pair, keys[i].form);
	}
	return code;
}

/* A model without a vocabulary may state its number of tokens. */
static const struct gg_pair *size_key(const struct gg_engine *engine)
{
	char key[128];

	snprintf(key, sizeof(key), "%s.vocab_size", engine->net.family->architecture);
	return find(engine, key);
}

static int32_t check_size(struct gg_engine *engine)
{
	const struct gg_pair *pair = size_key(engine);
	int32_t code = pair ? check_kind(engine, pair, COUNT) : KVMOD_OK;

	if (code || !pair || u32_of(pair) <= engine->net.dims[GG_VOCAB])
		return code;
	return gg_fail(engine, KVMOD_EFORMAT, "%s: %s.vocab_size is %u, but the model has embeddings for %lld tokens",
		       engine->model, engine->net.family->architecture, u32_of(pair),
		       (long long)engine->net.dims[GG_VOCAB]);
}

/* --- tokens ------------------------------------------------------------------------------- */

static int32_t refuse_token(const struct vocab *v, size_t i, const char *why)
{
	char shown[GG_SHOWN];

	return gg_fail(v->engine, KVMOD_EFORMAT, "%s: " PREFIX "tokens[%zu], \"%s\", %s", v->engine->model, i,
		       gg_show(v->tokens[i], shown), why);
}

static int32_t read_tokens(struct vocab *v)
{
	const char *at = v->pair->values;

	v->n = (size_t)v->pair->n;
	v->tokens = calloc(v->n, sizeof(*v->tokens));
	for (size_t i = 0; v->tokens && i < v->n; i++)
		v->tokens[i] = gg_pair_next_text(&at);
	if (v->tokens)
		v->sorted = gg_texts_sort(v->tokens, v->n);
	if (!v->sorted)
		return gg_fail(v->engine, KVMOD_ENOMEM, "no memory for the vocabulary");
	return KVMOD_OK;
}

/* libllama calls an empty token [EMPTY_i]. */
static int32_t check_empty(const struct vocab *v)
{
	for (size_t i = 0; i < v->n && !v->sorted[i]->n; i++) {
		size_t index = (size_t)(v->sorted[i] - v->tokens);
		char name[40];
		int n = snprintf(name, sizeof(name), "[EMPTY_%zu]", index);

		if (gg_texts_find(v->sorted, v->n, (struct gg_text_at){ name, (size_t)n }))
			return refuse_token(v, index, "is empty, and another token has the name that libllama gives it");
	}
	return KVMOD_OK;
}

static int32_t refuse_twice(const struct vocab *v)
{
	const struct gg_text_at *twice = NULL;
	size_t n_empty = 0;
	char why[64] = "";

	while (n_empty < v->n && !v->sorted[n_empty]->n)
		n_empty++;
	twice = gg_texts_twice(v->sorted + n_empty, v->n - n_empty);
	if (!twice)
		return check_empty(v);
	for (size_t i = 0; i < v->n; i++) {
		if (v->tokens[i].n == twice->n && !memcmp(v->tokens[i].at, twice->at, twice->n)) {
			snprintf(why, sizeof(why), "is the same as token %zu", i);
			break;
		}
	}
	return refuse_token(v, (size_t)(twice - v->tokens), why);
}

/* --- types, bytes, merges, ids ------------------------------------------------------------ */

static bool is_byte_token(struct gg_text_at text)
{
	static const char hex[] = "0123456789ABCDEFabcdef";

	return text.n == 6 && !memcmp(text.at, "<0x", 3) && text.at[5] == '>' &&
	       strchr(hex, text.at[3]) && strchr(hex, text.at[4]);
}

static int32_t check_length(const struct vocab *v, const struct gg_pair *pair)
{
	char shown[GG_SHOWN];

	if (pair->n >= v->n)
		return KVMOD_OK;
	return gg_fail(v->engine, KVMOD_EFORMAT, "%s: %s has %llu elements for %zu tokens",
		       v->engine->model, gg_show(pair->key, shown), (unsigned long long)pair->n, v->n);
}

static int32_t check_types(const struct vocab *v)
{
	const struct gg_pair *pair = find(v->engine, PREFIX "token_type");
	int32_t code = pair ? check_length(v, pair) : KVMOD_OK, type;
	char why[64];

	for (size_t i = 0; pair && !code && i < v->n; i++) {
		memcpy(&type, pair->values + i * sizeof(type), sizeof(type));
		snprintf(why, sizeof(why), "has type %d, expected %d to %d", type,
			 LLAMA_TOKEN_TYPE_UNDEFINED, LLAMA_TOKEN_TYPE_BYTE);
		if (type < LLAMA_TOKEN_TYPE_UNDEFINED || type > LLAMA_TOKEN_TYPE_BYTE)
			return refuse_token(v, i, why);
		if (type == LLAMA_TOKEN_TYPE_BYTE && !is_byte_token(v->tokens[i]))
			return refuse_token(v, i, "is of the type byte, expected <0x00> to <0xFF>");
	}
	return code;
}

/* Text that no token covers becomes bytes: libllama throws where a byte has no token. */
static int32_t check_bytes(const struct vocab *v)
{
	for (unsigned byte = 0; byte < 256; byte++) {
		char name[8], bare = (char)byte;

		snprintf(name, sizeof(name), "<0x%02X>", byte);
		if (!gg_texts_find(v->sorted, v->n, (struct gg_text_at){ name, 6 }) &&
		    !gg_texts_find(v->sorted, v->n, (struct gg_text_at){ &bare, 1 }))
			return gg_fail(v->engine, KVMOD_EFORMAT,
				       "%s: " PREFIX "tokens has no token %s, expected one for each byte",
				       v->engine->model, name);
	}
	return KVMOD_OK;
}

/* Each merge is "left right". */
static int32_t check_merges(const struct vocab *v)
{
	const struct gg_pair *pair = find(v->engine, PREFIX "merges");
	const char *at, *space;
	char shown[GG_SHOWN];

	if (!pair)
		return gg_fail(v->engine, KVMOD_EFORMAT, "%s: no " PREFIX "merges in the header",
			       v->engine->model);
	at = pair->values;
	for (uint64_t i = 0; i < pair->n; i++) {
		struct gg_text_at text = gg_pair_next_text(&at);

		space = text.n > 2 ? memchr(text.at + 1, ' ', text.n - 1) : NULL;
		if (!space || space + 1 == text.at + text.n)
			return gg_fail(v->engine, KVMOD_EFORMAT,
				       "%s: " PREFIX "merges[%llu] is \"%s\", expected two tokens with a blank between them",
				       v->engine->model, (unsigned long long)i, gg_show(text, shown));
	}
	return KVMOD_OK;
}

static bool is_known(const struct vocab *v, const struct gg_pair *pair)
{
	return u32_of(pair) < v->n;
}

static int32_t check_ids(const struct vocab *v)
{
	for (size_t i = 0; i < N_KEYS; i++) {
		const struct gg_pair *pair = find(v->engine, keys[i].key);

		if (!pair || keys[i].form < ID || is_known(v, pair))
			continue;
		if (keys[i].form == ID)
			return gg_fail(v->engine, KVMOD_EFORMAT, "%s: %s is %u, but the vocabulary has %zu tokens",
				       v->engine->model, keys[i].key, u32_of(pair), v->n);
		gg_log(v->engine, KVMOD_NOTE, "%s: %s is ignored: it is %u, but the vocabulary has %zu tokens",
		       v->engine->model, keys[i].key, u32_of(pair), v->n);
	}
	return KVMOD_OK;
}

/* --- all of it -------------------------------------------------------------------------------- */

static int32_t check_tokens(struct vocab *v)
{
	int32_t code;

	v->pair = find(v->engine, PREFIX "tokens");
	if (!v->pair || !v->pair->n)
		return gg_fail(v->engine, KVMOD_EFORMAT, "%s: no " PREFIX "tokens in the header",
			       v->engine->model);
	if (v->pair->n > (uint64_t)v->engine->net.dims[GG_VOCAB])
		return gg_fail(v->engine, KVMOD_EFORMAT,
			       "%s: the vocabulary has %llu tokens, but the model has embeddings for %lld", v->engine->model,
			       (unsigned long long)v->pair->n, (long long)v->engine->net.dims[GG_VOCAB]);
	if ((code = read_tokens(v)) || (code = refuse_twice(v)) || (code = check_types(v)) ||
	    (code = check_ids(v)))
		return code;
	return v->is_spm ? check_bytes(v) : check_merges(v);
}

static int32_t check_model(struct vocab *v, struct gg_text_at name)
{
	const struct gg_pair *pre = find(v->engine, PREFIX "pre"), *scores = find(v->engine, PREFIX "scores");
	char shown[GG_SHOWN];
	int32_t code;

	v->is_spm = gg_text_is(name, "llama");
	if (!v->is_spm && !gg_text_is(name, "gpt2"))
		return gg_fail(v->engine, KVMOD_ENOTSUP,
			       "%s: tokenizer \"%s\" is not supported; supported are llama, gpt2, no_vocab",
			       v->engine->model, gg_show(name, shown));
	/* With it, libllama ends the process at two blanks in a row. */
	if (!v->is_spm && pre && gg_text_is(text_of(pre), "whitespace"))
		return gg_fail(v->engine, KVMOD_ENOTSUP, "%s: pre-tokenizer \"whitespace\" is not supported",
			       v->engine->model);
	code = check_tokens(v);
	return !code && scores ? check_length(v, scores) : code;
}

/* The template is searched many times, so its length is limited. */
static int32_t check_template(struct gg_engine *engine)
{
	const struct gg_pair *pair = find(engine, "tokenizer.chat_template");

	if (!pair || text_of(pair).n <= MAX_TEMPLATE)
		return KVMOD_OK;
	return gg_fail(engine, KVMOD_EFORMAT, "%s: tokenizer.chat_template has %zu bytes, expected at most %u",
		       engine->model, text_of(pair).n, MAX_TEMPLATE);
}

int32_t gg_vocab_check(struct gg_engine *engine)
{
	const struct gg_pair *model = find(engine, PREFIX "model");
	struct vocab v = { .engine = engine };
	int32_t code;

	if ((code = check_kinds(engine)) || (code = check_size(engine)) || (code = check_template(engine)))
		return code;
	if (!model)
		return gg_fail(engine, KVMOD_EFORMAT, "%s: no " PREFIX "model in the header", engine->model);
	if (gg_text_is(text_of(model), "no_vocab") || gg_text_is(text_of(model), "none"))
		return KVMOD_OK;
	code = check_model(&v, text_of(model));
	free(v.tokens);
	free(v.sorted);
	return code;
}

/* --- the copy ------------------------------------------------------------------------------------ */

static bool begins(const struct gg_pair *pair, const char *prefix)
{
	size_t n = strlen(prefix);

	return pair->key.n > n && !memcmp(pair->key.at, prefix, n);
}

/* May libllama see this key of a vocabulary of n tokens? */
static bool is_for_libllama(const struct gg_pair *pair, uint64_t n)
{
	size_t i = 0;

	if (begins(pair, "general.") || begins(pair, "tokenizer.chat_template."))
		return pair->type == GGUF_TYPE_STRING && !pair->is_array;
	while (i < N_KEYS && !gg_text_is(pair->key, keys[i].key))
		i++;
	return i < N_KEYS && (keys[i].form != OTHER_ID || u32_of(pair) < n);
}

static bool write_all(int fd, const void *bytes, size_t n)
{
	for (ssize_t done; n; bytes = (const char *)bytes + done, n -= (size_t)done) {
		done = write(fd, bytes, n);
		if (done < 0 && errno == EINTR)
			done = 0;
		else if (done <= 0)
			return false;
	}
	return true;
}

static bool write_pairs(const struct gg_engine *engine, int fd)
{
	const struct gg_file *file = &engine->net.file;
	const struct gg_pair *tokens = find(engine, PREFIX "tokens"), *size = size_key(engine);
	uint64_t n = tokens ? tokens->n : 0;
	struct {
		char magic[4];
		uint32_t version;
		uint64_t n_tensors, n_pairs;
	} head = { { 'G', 'G', 'U', 'F' }, 3, 0, 0 };

	for (uint64_t i = 0; i < file->n_pairs; i++)
		head.n_pairs += &file->pairs[i] == size || is_for_libllama(&file->pairs[i], n);
	if (!write_all(fd, &head, sizeof(head)))
		return false;
	for (uint64_t i = 0; i < file->n_pairs; i++) {
		const struct gg_pair *pair = &file->pairs[i];

		if ((pair == size || is_for_libllama(pair, n)) &&
		    !write_all(fd, pair->begin, (size_t)(pair->end - pair->begin)))
			return false;
	}
	return true;
}

/* Where vm.memfd_noexec is 2, a file in memory must be marked as not executable. */
static int make_memory_file(const char *name)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_NOEXEC_SEAL);

	if (fd < 0 && errno == EINVAL) /* Linux before 6.3 */
		fd = memfd_create(name, MFD_CLOEXEC);
	return fd;
}

int32_t gg_vocab_write(struct gg_engine *engine, int *fd)
{
	int err;

	*fd = make_memory_file("kvmod-vocabulary");
	if (*fd >= 0 && write_pairs(engine, *fd))
		return KVMOD_OK;
	err = errno;
	if (*fd >= 0)
		close(*fd);
	return gg_fail(engine, KVMOD_EIO, "cannot copy the vocabulary: %s", strerror(err));
}
