/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Headers with one fault that ggml or libllama would misread or end the process for: both
 * engines refuse each with a message.
 */
#include <config.h>

#include "tests/engine_host.h"
#include "tests/gguf_edit.h"
#include "tests/tiny_model.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define TOKENS "tokenizer.ggml.tokens"

enum vocabulary { NONE, SPM, BPE };

/* --- the edits ------------------------------------------------------------------------------ */

enum op {
	NOTHING,
	SCALAR,				/* key, type, number */
	ARRAY,				/* the same, n times */
	TEXT,				/* key, text */
	TEXTS,				/* an empty array of texts */
	APPEND,				/* to them */
	REMOVE, TWICE,
	NUMBER_AT,			/* key, n: the index, number */
	TEXT_AT,
	RENAME,				/* a key to text */
	TYPE,				/* of the key's value, as the file has it */
	LENGTH,				/* of the key's array */
	/* A tensor: key. */
	T_NAME, T_TYPE, T_DIMS, T_NE0, T_NE1, T_OFFSET,
	OF_FILE, CUT			/* number: its version, its length */
};

struct step {
	enum op op;
	const char *key;
	uint32_t type;
	double number;
	size_t n;
	const char *text;
	size_t length;			/* of text; 0: to its end */
};

static void edit_key(struct edit *e, const struct step *s, size_t length)
{
	struct edit_pair *pair;
	uint64_t n = (uint64_t)s->number;

	switch (s->op) {
	case RENAME:
		pair = edit_find(e, s->key);
		pair->key.n = 0;
		bytes_add(&pair->key, s->text, length);
		break;
	case TYPE:
		memcpy(edit_find(e, s->key)->value.bytes, &s->type, sizeof(s->type));
		break;
	case LENGTH:
		memcpy(edit_find(e, s->key)->value.bytes + 8, &n, sizeof(n));
		break;
	case NUMBER_AT:
		edit_number_at(e, s->key, s->n, s->number);
		break;
	case TEXT_AT:
		edit_text_at(e, s->key, s->n, s->text, length);
		break;
	case APPEND:
		edit_append(e, s->key, s->text, length);
		break;
	default:
		break;
	}
}

static void edit_tensors(struct edit *e, const struct step *s, size_t length)
{
	struct edit_tensor *t = edit_tensor(e, s->key);

	switch (s->op) {
	case T_NAME:
		t->name.n = 0;
		bytes_add(&t->name, s->text, length);
		break;
	case T_TYPE:
		t->type = (int32_t)s->number;
		break;
	case T_DIMS:
		t->n_dims = (uint32_t)s->number;
		break;
	case T_NE0:
		t->ne[0] = (int64_t)s->number;
		break;
	case T_NE1:
		t->ne[1] = (int64_t)s->number;
		break;
	default:
		t->offset = (uint64_t)s->number;
	}
}

static void apply(struct edit *e, const struct step *s)
{
	size_t length = s->length ? s->length : s->text ? strlen(s->text) : 0;

	switch (s->op) {
	case NOTHING:
		break;
	case SCALAR:
		edit_scalar(e, s->key, s->type, s->number);
		break;
	case ARRAY:
		edit_array(e, s->key, s->type, s->number, s->n);
		break;
	case TEXT:
		edit_text(e, s->key, s->text ? s->text : "", length);
		break;
	case TEXTS:
		edit_texts(e, s->key);
		break;
	case REMOVE:
		edit_remove(e, s->key);
		break;
	case TWICE:
		edit_twice(e, s->key);
		break;
	case OF_FILE:
		e->version = (uint32_t)s->number;
		break;
	case CUT:
		e->data.n = (size_t)s->number;
		break;
	default:
		if (s->op >= T_NAME)
			edit_tensors(e, s, length);
		else
			edit_key(e, s, length);
	}
}

/* --- what they end with ------------------------------------------------------------------------ */

#define U8	GGUF_TYPE_UINT8
#define U16	GGUF_TYPE_UINT16
#define U32	GGUF_TYPE_UINT32
#define I32	GGUF_TYPE_INT32
#define U64	GGUF_TYPE_UINT64
#define F32	GGUF_TYPE_FLOAT32
#define F64	GGUF_TYPE_FLOAT64
#define FLAG	GGUF_TYPE_BOOL
#define EPS	"llama.attention.layer_norm_rms_epsilon"

#define PUT(k, t, v)		{ .op = SCALAR, .key = k, .type = t, .number = v }
#define PUT_ALL(k, t, v, count)	{ .op = ARRAY, .key = k, .type = t, .number = v, .n = count }

static const struct fault {
	enum vocabulary vocabulary;
	struct step steps[2];
	int32_t code;
	const char *why;
} faults[] = {
	/* The file. */
	{ NONE, { { .op = OF_FILE, .number = 1 } }, KVMOD_ENOTSUP, ": GGUF version 1 is not supported; supported are 2 and 3" },
	{ NONE, { { .op = OF_FILE, .number = 4 } }, KVMOD_ENOTSUP, ": GGUF version 4 is not supported; supported are 2 and 3" },
	{ NONE, { { .op = OF_FILE, .number = 0x03000000 } }, KVMOD_ENOTSUP, ": the GGUF file is for big-endian machines" },
	{ NONE, { { .op = TWICE, .key = EPS } }, KVMOD_EFORMAT, ", " EPS ", is a duplicate" },
	{ NONE, { { .op = RENAME, .key = EPS, .text = "a\0b", .length = 3 } }, KVMOD_EFORMAT, ", \"a\", has a zero byte" },
	{ NONE, { { .op = RENAME, .key = EPS } }, KVMOD_EFORMAT, " has 0 bytes, expected 1 to 65535" },
	{ NONE, { { .op = TYPE, .key = EPS, .type = 13 } }, KVMOD_EFORMAT, ": " EPS " is of the unknown type 13" },
	{ NONE, { { .op = TYPE, .key = EPS, .type = UINT32_MAX } }, KVMOD_EFORMAT, " is of the unknown type 4294967295" },
	{ NONE, { PUT_ALL("x.y", GGUF_TYPE_ARRAY, 0, 1) }, KVMOD_EFORMAT,
	  ": x.y is an array of arrays" },
	{ NONE, { PUT_ALL("x.y", U32, 0, 1), { .op = LENGTH, .key = "x.y", .number = 4611686018427387904.0 } },
	  KVMOD_EFORMAT, ": truncated or damaged GGUF file (the header ends in key " },
	{ NONE, { { .op = TEXT, .key = "general.license", .text = "MIT\0", .length = 4 } }, KVMOD_EFORMAT,
	  ": general.license, \"MIT\", has a zero byte" },
	{ NONE, { PUT("general.alignment", U32, 0) }, KVMOD_EFORMAT,
	  ": general.alignment is 0, expected a power of 2 from 8 to 1048576" },
	{ NONE, { PUT("general.alignment", U32, 48) }, KVMOD_EFORMAT, ": general.alignment is 48," },
	{ NONE, { PUT("general.alignment", U64, 32) }, KVMOD_EFORMAT,
	  ": general.alignment is u64, expected u32" },
	{ NONE, { PUT("split.count", U16, 2) }, KVMOD_ENOTSUP, ": the model is split into several files; join them" },
	{ NONE, { PUT("split.count", F32, 1) }, KVMOD_EFORMAT, ": split.count is f32, expected u16" },

	/* Tensors. */
	{ NONE, { { .op = T_TYPE, .key = "blk.1.ffn_up.weight", .number = 31 } }, KVMOD_EFORMAT,
	  ": tensor blk.1.ffn_up.weight: type 31 is not supported: TYPE_Q4_0_4_4 REMOVED, use Q4_0" },
	{ NONE, { { .op = T_TYPE, .key = "blk.1.ffn_up.weight", .number = 4000 } }, KVMOD_EFORMAT,
	  ": tensor blk.1.ffn_up.weight: type 4000 is unknown to this ggml" },
	{ NONE, { { .op = T_TYPE, .key = "blk.1.ffn_up.weight", .number = -1 } }, KVMOD_EFORMAT, ": type -1 is unknown" },
	{ NONE, { { .op = T_TYPE, .key = "blk.1.ffn_up.weight", .number = GGML_TYPE_I32 } }, KVMOD_ENOTSUP,
	  ": ggml cannot compute with blk.1.ffn_up.weight, which is i32" },
	{ NONE, { { .op = T_TYPE, .key = "blk.1.ffn_up.weight", .number = GGML_TYPE_Q4_K } }, KVMOD_EFORMAT,
	  ": rows of 64 elements, expected whole blocks of 256 for q4_K" },
	{ NONE, { { .op = T_NAME, .key = "blk.1.ffn_up.weight", .text = "blk.1.ffn_gate.weight" } }, KVMOD_EFORMAT,
	  ", blk.1.ffn_gate.weight, is a duplicate" },
	{ NONE, { { .op = T_NAME, .key = "blk.1.ffn_up.weight", .text = "blk.1\0", .length = 6 } }, KVMOD_EFORMAT,
	  ", \"blk.1\", has a zero byte" },
	{ NONE, { { .op = T_NAME, .key = "blk.1.ffn_up.weight",
		    .text = "a name that is one byte longer than what fits a tensor of ggml, ..." } },
	  KVMOD_EFORMAT, " has 67 bytes, expected 1 to 63" },
	{ NONE, { { .op = T_DIMS, .key = "blk.1.ffn_up.weight", .number = 0 } }, KVMOD_EFORMAT,
	  ": 0 dimensions, expected 1 to 4" },
	{ NONE, { { .op = T_DIMS, .key = "blk.1.ffn_up.weight", .number = 5 } }, KVMOD_EFORMAT,
	  ": 5 dimensions, expected 1 to 4" },
	{ NONE, { { .op = T_NE1, .key = "blk.1.ffn_up.weight", .number = 0 } }, KVMOD_EFORMAT,
	  ": tensor blk.1.ffn_up.weight: dimension 1 is 0: out of range" },
	{ NONE, { { .op = T_NE0, .key = "blk.1.ffn_up.weight", .number = -64 } }, KVMOD_EFORMAT, ": dimension 0 is -64" },
	{ NONE, { { .op = T_NE1, .key = "blk.1.ffn_up.weight", .number = 4611686018427387904.0 } }, KVMOD_EFORMAT,
	  ": dimension 1 is 4611686018427387904: out of range" },
	{ NONE, { { .op = T_NE1, .key = "blk.1.ffn_up.weight", .number = 72057594037927936.0 } }, KVMOD_EFORMAT,
	  ": tensor blk.1.ffn_up.weight: the size is out of range" },
	{ NONE, { { .op = T_NE1, .key = "blk.1.ffn_up.weight", .number = 1048576.0 } }, KVMOD_EFORMAT,
	  ": truncated: needs 268435456 bytes at " },
	{ NONE, { { .op = T_OFFSET, .key = "blk.1.ffn_up.weight", .number = 0 } }, KVMOD_EFORMAT,
	  ": begins at byte 0 of the data, expected " },
	{ NONE, { { .op = T_OFFSET, .key = "token_embd.weight", .number = 18446744073709486080.0 } }, KVMOD_EFORMAT,
	  ": begins at byte 18446744073709486080 of the data, expected 0" },
	{ NONE, { { .op = CUT, .number = 1000 } }, KVMOD_EFORMAT,
	  ": tensor token_embd.weight: truncated: needs 76800 bytes at " },

	/* Invalid numbers, and keys of another type. */
	{ NONE, { PUT(EPS, F32, NAN) }, KVMOD_EFORMAT, ": " EPS " is nan, expected a finite number" },
	{ NONE, { PUT("llama.rope.freq_base", F32, INFINITY) }, KVMOD_EFORMAT,
	  ": llama.rope.freq_base is inf, expected" },
	{ NONE, { PUT("general.anything", F64, -NAN) }, KVMOD_EFORMAT, "nan, expected a finite number" },
	{ NONE, { PUT_ALL("some.list", F32, 1, 3), { .op = NUMBER_AT, .key = "some.list", .n = 2, .number = NAN } },
	  KVMOD_EFORMAT, ": some.list[2] is nan, expected a finite number" },
	{ NONE, { PUT(EPS, F64, 1e300) }, KVMOD_EFORMAT, " is 1e+300, expected a number in the range of f32" },
	{ NONE, { PUT(EPS, F32, -1) }, KVMOD_EFORMAT, "epsilon -1: out of range" },
	{ NONE, { PUT(EPS, U32, 1) }, KVMOD_EFORMAT, ": " EPS " is u32, expected f32" },
	{ NONE, { PUT("llama.rope.freq_base", U32, 100000) }, KVMOD_EFORMAT,
	  ": llama.rope.freq_base is u32, expected f32" },
	{ NONE, { PUT("llama.rope.scaling.factor", FLAG, 1) }, KVMOD_EFORMAT, " is bool, expected f32" },
	{ NONE, { PUT("llama.rope.scaling.factor", F32, 1e-40) }, KVMOD_ENOTSUP, ": RoPE scaling by 9.99995e-41" },
	{ NONE, { PUT("llama.rope.scaling.type", U32, 1) }, KVMOD_EFORMAT, " is u32, expected str" },
	{ NONE, { { .op = TEXT, .key = "llama.rope.scaling.type", .text = "longrope" } }, KVMOD_ENOTSUP,
	  ": RoPE scaling \"longrope\" is not supported; supported are none, linear, yarn" },
	{ NONE, { PUT("llama.rope.scaling.original_context_length", U32, 0) }, KVMOD_EFORMAT,
	  "original_context_length is 0, expected 1 to 2147483647" },
	{ NONE, { PUT("llama.rope.scaling.attn_factor", U32, 2) }, KVMOD_EFORMAT, " is u32, expected f32" },
	{ NONE, { PUT("llama.attention.scale", U32, 1) }, KVMOD_EFORMAT, " is u32, expected f32" },
	{ NONE, { PUT("llama.logit_scale", U32, 2) }, KVMOD_EFORMAT, " is u32, expected f32" },
	{ NONE, { PUT("llama.attention.causal", U8, 0) }, KVMOD_EFORMAT, " is u8, expected bool" },
	{ NONE, { PUT("llama.block_count", F32, 3) }, KVMOD_EFORMAT,
	  ": llama.block_count is f32, expected a number from 0 to 4294967295" },
	{ NONE, { { .op = TEXT, .key = "llama.context_length", .text = "1024" } }, KVMOD_EFORMAT, " is str, expected a number" },
	{ NONE, { PUT("llama.attention.sliding_window", F32, 64) }, KVMOD_EFORMAT, " is f32, expected a n" },
	{ NONE, { PUT("llama.expert_count", F32, 8) }, KVMOD_EFORMAT, " is f32, expected a number" },
	{ NONE, { PUT("llama.attention.key_length", U64, 4294967328.0) }, KVMOD_EFORMAT,
	  " is u64, expected a number from 0 to 4294967295" },
	{ NONE, { PUT("general.architecture", U32, 1) }, KVMOD_EFORMAT,
	  ": general.architecture is u32, expected str" },
	{ NONE, { PUT("general.name", U32, 1) }, KVMOD_EFORMAT, ": general.name is u32, expected str" },

	/* Sizes. */
	{ NONE, { PUT("llama.block_count", U32, 513) }, KVMOD_EFORMAT,
	  ": llama.block_count is 513, expected 1 to 512" },
	{ NONE, { PUT("llama.attention.head_count", U32, 0) }, KVMOD_EFORMAT,
	  ": llama.attention.head_count is 0, expected 1 to 1024" },
	{ NONE, { PUT("llama.attention.head_count_kv", U32, 0) }, KVMOD_EFORMAT,
	  ": 4 query heads cannot share 0 KV heads" },
	{ NONE, { PUT_ALL("llama.attention.head_count_kv", U32, 2, 2) }, KVMOD_EFORMAT,
	  ": llama.attention.head_count_kv has 2 elements for 3 layers" },
	{ NONE, { PUT_ALL("llama.attention.head_count_kv", U32, 2, 3),
		  { .op = NUMBER_AT, .key = "llama.attention.head_count_kv", .n = 2, .number = 4 } }, KVMOD_ENOTSUP,
	  ": llama.attention.head_count_kv is 2 in layer 0 and 4 in layer 2: only models whose layers are equal" },
	{ NONE, { PUT_ALL("llama.feed_forward_length", I32, 96, 3),
		  { .op = NUMBER_AT, .key = "llama.feed_forward_length", .n = 1, .number = 64 } }, KVMOD_ENOTSUP,
	  ": llama.feed_forward_length is 96 in layer 0 and 64 in layer 1" },
	{ NONE, { PUT_ALL("llama.attention.head_count", F32, 4, 3) }, KVMOD_EFORMAT,
	  " is an array of f32, expected numbers from 0 to 4294967295" },
	{ NONE, { PUT("llama.attention.key_length", U32, 31) }, KVMOD_EFORMAT, ": the head dimension is 31" },
	{ NONE, { PUT("llama.rope.dimension_count", U32, 33) }, KVMOD_EFORMAT, ": RoPE over 33 of 32" },
	{ NONE, { PUT("llama.expert_used_count", U32, 2) }, KVMOD_ENOTSUP,
	  ": llama.expert_used_count = 2 is not supported" },
	{ NONE, { PUT("llama.nextn_predict_layers", U32, 9) }, KVMOD_ENOTSUP, "nextn_predict_layers = 9" },

	/* Vocabularies. */
	{ NONE, { PUT("llama.vocab_size", U32, 4294967295.0) }, KVMOD_EFORMAT,
	  ": llama.vocab_size is 4294967295, but the model has embeddings for 300 tokens" },
	{ NONE, { PUT("llama.vocab_size", U64, 300) }, KVMOD_EFORMAT,
	  ": llama.vocab_size is u64, expected u32" },
	{ NONE, { { .op = REMOVE, .key = "tokenizer.ggml.model" } }, KVMOD_EFORMAT, ": no tokenizer.ggml.model in the header" },
	{ NONE, { { .op = TEXT, .key = "tokenizer.ggml.model", .text = "t5" } }, KVMOD_ENOTSUP,
	  ": tokenizer \"t5\" is not supported; supported are llama, gpt2, no_vocab" },
	{ NONE, { { .op = TEXT, .key = "tokenizer.ggml.model", .text = "llama" } }, KVMOD_EFORMAT,
	  ": no tokenizer.ggml.tokens in the header" },
	{ SPM, { { .op = TEXTS, .key = TOKENS } }, KVMOD_EFORMAT, ": no tokenizer.ggml.tokens in the header" },
	{ SPM, { PUT_ALL(TOKENS, U32, 0, 300) }, KVMOD_EFORMAT,
	  ": tokenizer.ggml.tokens is an array of u32, expected an array of str" },
	{ SPM, { { .op = TEXT_AT, .key = TOKENS, .n = 280, .text = "word281" } }, KVMOD_EFORMAT,
	  ": tokenizer.ggml.tokens[281], \"word281\", is the same as token 280" },
	{ BPE, { { .op = TEXT_AT, .key = TOKENS, .n = 280, .text = "<|end|>" } }, KVMOD_EFORMAT,
	  ": tokenizer.ggml.tokens[280], \"<|end|>\", is the same as token 256" },
	{ BPE, { { .op = TEXT_AT, .key = TOKENS, .n = 280, .text = "a\0b", .length = 3 } }, KVMOD_EFORMAT,
	  ": tokenizer.ggml.tokens[280], \"a\", has a zero byte" },
	{ SPM, { { .op = TEXT_AT, .key = TOKENS, .n = 299 }, { .op = TEXT_AT, .key = TOKENS, .n = 298, .text = "[EMPTY_299]" } },
	  KVMOD_EFORMAT, ": tokenizer.ggml.tokens[299], \"\", is empty, and another token has the name that libllama gives it" },
	{ SPM, { { .op = TEXT_AT, .key = TOKENS, .n = 68, .text = "A?" },
		  { .op = NUMBER_AT, .key = "tokenizer.ggml.token_type", .n = 68, .number = 1 } }, KVMOD_EFORMAT,
	  ": tokenizer.ggml.tokens has no token <0x41>, expected one for each byte" },
	{ SPM, { { .op = TEXT_AT, .key = TOKENS, .n = 68, .text = "A" } }, KVMOD_EFORMAT,
	  ": tokenizer.ggml.tokens[68], \"A\", is of the type byte, expected <0x00> to <0xFF>" },
	{ SPM, { { .op = NUMBER_AT, .key = "tokenizer.ggml.token_type", .n = 5, .number = 7 } }, KVMOD_EFORMAT,
	  ": tokenizer.ggml.tokens[5], \"<0x02>\", has type 7, expected 0 to 6" },
	{ SPM, { { .op = APPEND, .key = TOKENS, .text = "one more" } }, KVMOD_EFORMAT,
	  ": the vocabulary has 301 tokens, but the model has embeddings for 300" },
	{ SPM, { PUT_ALL("tokenizer.ggml.token_type", I32, 1, 299) }, KVMOD_EFORMAT,
	  ": tokenizer.ggml.token_type has 299 elements for 300 tokens" },
	{ SPM, { PUT_ALL("tokenizer.ggml.token_type", U8, 1, 300) }, KVMOD_EFORMAT,
	  ": tokenizer.ggml.token_type is an array of u8, expected an array of i32" },
	{ SPM, { PUT_ALL("tokenizer.ggml.scores", F32, 0, 10) }, KVMOD_EFORMAT,
	  ": tokenizer.ggml.scores has 10 elements for 300 tokens" },
	{ SPM, { { .op = NUMBER_AT, .key = "tokenizer.ggml.scores", .n = 9, .number = NAN } }, KVMOD_EFORMAT,
	  ": tokenizer.ggml.scores[9] is nan, expected a finite number" },
	{ SPM, { PUT("tokenizer.ggml.bos_token_id", U32, 300) }, KVMOD_EFORMAT,
	  ": tokenizer.ggml.bos_token_id is 300, but the vocabulary has 300 tokens" },
	{ SPM, { PUT("tokenizer.ggml.eos_token_id", I32, 2) }, KVMOD_EFORMAT,
	  ": tokenizer.ggml.eos_token_id is i32, expected u32" },
	{ SPM, { PUT("tokenizer.ggml.add_bos_token", U8, 1) }, KVMOD_EFORMAT, " is u8, expected bool" },
	{ SPM, { PUT("tokenizer.chat_template", U8, 1) }, KVMOD_EFORMAT, " is u8, expected str" },
	{ BPE, { { .op = REMOVE, .key = "tokenizer.ggml.merges" } }, KVMOD_EFORMAT, ": no tokenizer.ggml.merges in the header" },
	{ BPE, { { .op = TEXT_AT, .key = "tokenizer.ggml.merges", .n = 7, .text = "aH" } }, KVMOD_EFORMAT,
	  ": tokenizer.ggml.merges[7] is \"aH\", expected two tokens with a blank between them" },
	{ BPE, { { .op = TEXT_AT, .key = "tokenizer.ggml.merges", .n = 7 } }, KVMOD_EFORMAT, ".merges[7] is \"\", expected" },
	{ BPE, { PUT("tokenizer.ggml.pre", U32, 0) }, KVMOD_EFORMAT, " is u32, expected str" },
	{ BPE, { { .op = TEXT, .key = "tokenizer.ggml.pre", .text = "whitespace" } }, KVMOD_ENOTSUP,
	  ": pre-tokenizer \"whitespace\" is not supported" },
	/* What libllama says first, and not what came of it. */
	{ BPE, { { .op = TEXT, .key = "tokenizer.ggml.pre", .text = "nonesuch" } }, KVMOD_EFORMAT,
	  "unknown pre-tokenizer type: 'nonesuch'" },
};

/* What is odd and served all the same. */
static const struct fault harmless[] = {
	{ .vocabulary = NONE, .steps = { { .op = OF_FILE, .number = 2 } } },
	{ .vocabulary = NONE, .steps = { PUT(EPS, F64, 1e-5) } },
	{ .vocabulary = NONE, .steps = { PUT("llama.block_count", U64, 3) } },
	{ .vocabulary = NONE, .steps = { PUT_ALL("llama.attention.head_count_kv", U32, 2, 3) } },
	{ .vocabulary = NONE, .steps = { PUT_ALL("llama.feed_forward_length", I32, 96, 3) } },
	{ .vocabulary = NONE, .steps = { PUT("llama.expert_count", U32, 0) } },
	{ .vocabulary = NONE, .steps = { PUT("some.key", U64, 1e18) } },
	{ .vocabulary = NONE, .steps = { PUT("split.count", U16, 1) } },
	{ .vocabulary = SPM, .steps = { { .op = NOTHING } } },
	{ .vocabulary = BPE, .steps = { { .op = NOTHING } } },
	{ .vocabulary = SPM, .steps = { { .op = TEXT_AT, .key = TOKENS, .n = 299 }, { .op = TEXT_AT, .key = TOKENS, .n = 298 } } },
	/* A byte may be a token of its own, without brackets. */
	{ .vocabulary = SPM, .steps = { { .op = TEXT_AT, .key = TOKENS, .n = 68, .text = "A" },
		  { .op = NUMBER_AT, .key = "tokenizer.ggml.token_type", .n = 68, .number = 1 } } },
	{ .vocabulary = SPM, .steps = { PUT("tokenizer.ggml.padding_token_id", U32, 4294967295.0) } },
	{ .vocabulary = BPE, .steps = { PUT("tokenizer.ggml.fim_pad_token_id", U32, 300) } },
	{ .vocabulary = BPE, .steps = { { .op = TEXT, .key = "tokenizer.chat_template.tool_use", .text = "{{ x }}" } } },
};

static char *write_model(const struct fault *fault)
{
	char *path = tiny_model_write(&tiny_models[0], TINY_GOOD);
	struct edit e;

	edit_open(&e, path);
	if (fault->vocabulary == SPM)
		edit_spm(&e, TINY_VOCAB);
	else if (fault->vocabulary == BPE)
		edit_bpe(&e, TINY_VOCAB);
	for (size_t i = 0; i < 2; i++)
		apply(&e, &fault->steps[i]);
	edit_write(&e, path);
	edit_close(&e);
	return path;
}

static void remove_model(char *path)
{
	unlink(path);
	free(path);
}

START_TEST(refused)
{
	char *path = write_model(&faults[_i]);

	for (int llama = 0; llama < 2; llama++) {
		struct gg_engine *engine = test_engine_open(
			&(struct test_engine_params){ .model = path, .llama = llama });

		ck_assert_msg(!engine, "served: %s", faults[_i].why);
		ck_assert_msg(test_engine_code() == faults[_i].code &&
				      strstr(test_engine_error(), faults[_i].why) &&
				      !strncmp(test_engine_error(), path, strlen(path)),
			      "%d \"%s\", expected %d \"%s\"", test_engine_code(), test_engine_error(),
			      faults[_i].code, faults[_i].why);
	}
	remove_model(path);
}
END_TEST

/* Bytes that no token has come back as they were; SPM shows its blank. */
static void check_text(struct gg_engine *engine, enum vocabulary vocabulary)
{
	const char *text = "aAaB\xe2\x82\xac,12\x01\x7f";
	size_t before = vocabulary == SPM ? strlen("\xe2\x96\x81") : 0;
	int32_t tokens[64];
	size_t n = 64, room, used = 0;
	char again[256];

	ck_assert_msg(!gg_tokenize(engine, text, strlen(text), 0, tokens, &n), "%s", test_engine_error());
	for (size_t i = 0; i < n; i++, used += room) {
		room = sizeof(again) - used;
		ck_assert(!gg_detokenize(engine, tokens[i], again + used, &room));
	}
	again[used] = '\0';
	ck_assert_str_eq(again + before, text);
}

/* Logits and texts are those of the file as it was. */
START_TEST(served)
{
	static float logits[TINY_VOCAB], expected[TINY_VOCAB];
	char *path = write_model(&harmless[_i]), *good = tiny_model_write(&tiny_models[0], TINY_GOOD);
	const char *paths[2] = { good, path };
	int32_t token = 7;

	for (int i = 0; i < 2; i++) {
		struct gg_engine *engine = test_engine(paths[i], GGML_TYPE_F32);
		struct kvmod_seq *seq = test_seq(engine);

		test_run(seq, &token, 1, i ? logits : expected, 1);
		if (i && harmless[_i].vocabulary != NONE)
			check_text(engine, harmless[_i].vocabulary);
		gg_seq_close(engine, seq);
		test_engine_close(engine);
	}
	ck_assert_mem_eq(logits, expected, sizeof(logits));
	remove_model(path);
	remove_model(good);
}
END_TEST

/* libllama rotates whole heads only; the engine ggml rotates as many dimensions as the file says. */
START_TEST(part_of_a_head)
{
	struct fault fault = { .steps = { PUT("llama.rope.dimension_count", U32, 16) } };
	char *path = write_model(&fault);

	test_engine_close(test_engine(path, GGML_TYPE_F32));
	ck_assert_ptr_null(test_engine_open(&(struct test_engine_params){ .model = path, .llama = true }));
	ck_assert_ptr_nonnull(strstr(test_engine_error(), ": RoPE over 16 of 32 dimensions: libllama rotates"));
	remove_model(path);
}
END_TEST

/* --- a file that changes while it is in use ---------------------------------------------------------- */

static int32_t run(struct gg_engine *engine, struct kvmod_seq *seq, float *logits)
{
	int32_t token = 7;

	return gg_run_tokens(engine, seq, &token, 1, logits, 1);
}

/* Cut off under the map, it would end the process; read into memory, it may do as it likes. */
START_TEST(cut_off_in_use)
{
	static float before[TINY_VOCAB], after[TINY_VOCAB];
	char *path = tiny_model_write(&tiny_models[0], TINY_GOOD);
	struct gg_engine *engine = test_engine_open(
		&(struct test_engine_params){ .model = path, .no_mmap = _i });
	struct kvmod_seq *seq, *other;

	ck_assert_msg(engine, "%s", test_engine_error());
	ck_assert_int_eq(!engine->net.map, _i);
	seq = test_seq(engine);
	other = test_seq(engine);
	ck_assert_int_eq(run(engine, seq, before), KVMOD_OK);
	ck_assert_int_eq(truncate(path, 100), 0);
	if (_i) {
		ck_assert_int_eq(run(engine, other, after), KVMOD_OK);
		ck_assert_mem_eq(after, before, sizeof(after));
	} else {
		ck_assert_int_eq(run(engine, other, after), KVMOD_EIO);
		ck_assert_ptr_nonnull(strstr(test_engine_error(),
					     ": the file was changed while in use; to replace a model, rename"));
		ck_assert_uint_eq(gg_seq_length(engine, other), 0);
	}
	gg_seq_close(engine, seq);
	gg_seq_close(engine, other);
	test_engine_close(engine);
	remove_model(path);
}
END_TEST

/* A file that takes its name does not matter: the one that was opened lives on. */
START_TEST(renamed_over)
{
	static float before[TINY_VOCAB], after[TINY_VOCAB];
	char *path = tiny_model_write(&tiny_models[0], TINY_GOOD);
	char *other = tiny_model_write(&tiny_models[1], TINY_GOOD);
	struct gg_engine *engine = test_engine(path, GGML_TYPE_F32);
	struct kvmod_seq *seq = test_seq(engine), *again = test_seq(engine);

	ck_assert_int_eq(run(engine, seq, before), KVMOD_OK);
	ck_assert_int_eq(rename(other, path), 0);
	ck_assert_int_eq(run(engine, again, after), KVMOD_OK);
	ck_assert_mem_eq(after, before, sizeof(after));
	gg_seq_close(engine, seq);
	gg_seq_close(engine, again);
	test_engine_close(engine);
	remove_model(path);
	free(other);
}
END_TEST

/* --- the copy of the vocabulary that libllama reads -------------------------------------------------- */

/*
 * A kernel may allow memory files only if they are no programs. An open engine has
 * forgotten the header: what it copies is the 24 bytes that stand before all keys.
 */
START_TEST(copy_is_no_program)
{
	char *path = tiny_model_write(&tiny_models[0], TINY_GOOD);
	struct gg_engine *engine = test_engine(path, GGML_TYPE_F32);
	int probe = memfd_create("probe", 0x0008u /* MFD_NOEXEC_SEAL */), fd;
	struct stat st;

	ck_assert_msg(!gg_vocab_write(engine, &fd), "%s", test_engine_error());
	ck_assert_int_eq(fstat(fd, &st), 0);
	ck_assert_int_eq(st.st_size, 24);
	if (probe >= 0) {
		ck_assert_uint_eq(st.st_mode & 0111, 0);
		close(probe);
	}
	close(fd);
	test_engine_close(engine);
	remove_model(path);
}
END_TEST

static const struct {
	int resource;
	rlim_t most;
	const char *why;
} copy_limits[] = {
	{ RLIMIT_NOFILE, 0, "cannot copy the vocabulary: Too many open files" },
	{ RLIMIT_FSIZE, 8, "cannot copy the vocabulary: File too large" },
};

START_TEST(no_copy)
{
	char *path = tiny_model_write(&tiny_models[0], TINY_GOOD);
	struct gg_engine *engine = test_engine(path, GGML_TYPE_F32);
	struct rlimit before, low;
	int32_t code;
	int fd;

	signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(getrlimit(copy_limits[_i].resource, &before), 0);
	low = (struct rlimit){ copy_limits[_i].most, before.rlim_max };
	ck_assert_int_eq(setrlimit(copy_limits[_i].resource, &low), 0);
	code = gg_vocab_write(engine, &fd);
	ck_assert_int_eq(setrlimit(copy_limits[_i].resource, &before), 0);
	signal(SIGXFSZ, SIG_DFL);
	ck_assert_int_eq(code, KVMOD_EIO);
	ck_assert_str_eq(test_engine_error(), copy_limits[_i].why);
	test_engine_close(engine);
	remove_model(path);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, refused, 0, (int)(sizeof(faults) / sizeof(faults[0])));
	tcase_add_loop_test(tc, served, 0, (int)(sizeof(harmless) / sizeof(harmless[0])));
	tcase_add_test(tc, part_of_a_head);
	tcase_add_loop_test(tc, cut_off_in_use, 0, 2);
	tcase_add_test(tc, renamed_over);
	tcase_add_test(tc, copy_is_no_program);
	tcase_add_loop_test(tc, no_copy, 0, 2);
}

int main(void)
{
	return test_main("engine gguf", add);
}
