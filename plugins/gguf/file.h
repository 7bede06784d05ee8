/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A GGUF file as it lies on disk. ggml and libllama believe what a header says, and
 * end the process where it is wrong: nothing reaches them that was not read and
 * checked here first.
 */
#ifndef KVMOD_GGUF_FILE_H
#define KVMOD_GGUF_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include <ggml.h>
#include <gguf.h>

struct gg_engine;

/* Bytes of the header, not zero; no zero stands behind them. */
struct gg_text_at {
	const char *at;
	size_t n;
};

/* A key with its value, or values. */
struct gg_pair {
	struct gg_text_at key;
	enum gguf_type type;		/* of the value, or of each element */
	bool is_array;
	uint64_t n;			/* elements; 1 where it is no array */
	const char *values;		/* the first one; not aligned */
	const char *begin, *end;	/* the pair as the file has it, key and all */
};

struct gg_tensor_info {
	struct gg_text_at name;
	enum ggml_type type;
	int n_dims;
	int64_t ne[GGML_MAX_DIMS];
	size_t offset, size;		/* in the file */
	bool taken;			/* by the model */
};

struct gg_file {
	bool is_open;
	int fd;
	struct stat st;			/* as it was when the header was read */
	char *bytes;			/* of the header, a copy */
	size_t n_bytes;
	struct gg_pair *pairs;
	uint64_t n_pairs;
	struct gg_tensor_info *tensors;
	uint64_t n_tensors;
	size_t alignment;
};

/*
 * Opens the engine's model and reads its header. Everything is within the file, of a
 * known type and said once; texts have no zero bytes, numbers are finite.
 */
int32_t gg_file_open(struct gg_engine *engine);
/* The header was used; the file stays open. */
void gg_file_forget(struct gg_file *file);
void gg_file_close(struct gg_file *file);
/* NULL: it is not there. */
const struct gg_pair *gg_file_find(const struct gg_file *file, const char *key);
/* Of a tensor that is there, by the name that ggml has for it. */
struct gg_tensor_info *gg_file_tensor(struct gg_file *file, const char *name);
/* Reads bytes of the file that are not in its header. */
int32_t gg_file_read(struct gg_engine *engine, size_t offset, void *to, size_t n);
/* Is the file as it was when it was opened? It is mapped while the model runs. */
int32_t gg_file_check(struct gg_engine *engine);

/* "u32", "an array of f32": what a pair holds, for messages. */
#define GG_KIND		32
const char *gg_pair_kind(const struct gg_pair *pair, char kind[GG_KIND]);
/* Steps through a pair of texts, from *at = pair->values on. */
struct gg_text_at gg_pair_next_text(const char **at);

/* --- texts ------------------------------------------------------------------------ */

bool gg_text_is(struct gg_text_at text, const char *word);
/* The beginning of a text, as a message may show it. */
#define GG_SHOWN	64
const char *gg_show(struct gg_text_at text, char shown[GG_SHOWN]);
/* Pointers to all of them in an order to find them by, to free; NULL: no memory. */
const struct gg_text_at **gg_texts_sort(const struct gg_text_at *texts, size_t n);
const struct gg_text_at *gg_texts_find(const struct gg_text_at *const *sorted, size_t n,
				       struct gg_text_at text);
/* The second one of two that are equal; NULL: all differ. */
const struct gg_text_at *gg_texts_twice(const struct gg_text_at *const *sorted, size_t n);

/* --- the parser (header.c) ---------------------------------------------------------- */

/*
 * Parses the header out of file->bytes. *more: it goes on behind them, and
 * there_are_more; where there are not, that is an error.
 */
int32_t gg_header_parse(struct gg_engine *engine, bool there_are_more, bool *more);

#endif
