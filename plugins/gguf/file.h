/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A GGUF file as it is on disk. ggml and libllama trust a header, and end the process where
 * it is wrong: they get only what was read and checked here.
 */
#ifndef KV_PLUGINS_GGUF_FILE_H
#define KV_PLUGINS_GGUF_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include <ggml.h>
#include <gguf.h>

struct gg_engine;

/* Bytes of the header without a zero among them or after them. */
struct gg_text_at {
	const char *at;
	size_t n;
};

/* A key with its value, or values. */
struct gg_pair {
	struct gg_text_at key;
	enum gguf_type type;		/* of the value, or of each element */
	bool is_array;
	uint64_t n;			/* elements; 1 if the value is not an array */
	const char *values;		/* the first one; not aligned */
	const char *begin, *end;	/* of the whole pair in the file */
};

struct gg_tensor_info {
	struct gg_text_at name;
	enum ggml_type type;
	int n_dims;
	int64_t ne[GGML_MAX_DIMS];
	size_t offset, size;		/* in the file */
	bool taken;			/* the model uses it */
};

struct gg_file {
	bool is_open;
	int fd;
	struct stat st;			/* when the header was read */
	char *bytes;			/* of the header, a copy */
	size_t n_bytes;
	struct gg_pair *pairs;
	uint64_t n_pairs;
	struct gg_tensor_info *tensors;
	uint64_t n_tensors;
	size_t alignment;
};

/*
 * Opens the engine's model and reads its header. Afterwards every value and tensor is
 * known to lie within the file, to have a known type and to have a unique name; texts
 * have no zero bytes, numbers are finite.
 */
int32_t gg_file_open(struct gg_engine *engine);
/* Frees the header; the file stays open. */
void gg_file_forget(struct gg_file *file);
void gg_file_close(struct gg_file *file);
/* NULL: the header has no such key. */
const struct gg_pair *gg_file_find(const struct gg_file *file, const char *key);
/* NULL: the file has no such tensor. */
struct gg_tensor_info *gg_file_tensor(struct gg_file *file, const char *name);
/* Reads n bytes of the file. */
int32_t gg_file_read(struct gg_engine *engine, size_t offset, void *to, size_t n);
/* Fails if the file has changed since it was opened: it is mapped while the model runs. */
int32_t gg_file_check(struct gg_engine *engine);

/* "u32", "an array of f32": the type of a pair's value, for messages. */
#define GG_KIND		32
const char *gg_pair_kind(const struct gg_pair *pair, char kind[GG_KIND]);
/* Steps through a pair of texts, from *at = pair->values on. */
struct gg_text_at gg_pair_next_text(const char **at);

/* --- texts ------------------------------------------------------------------------ */

bool gg_text_is(struct gg_text_at text, const char *word);
/* The beginning of a text, as a message may show it. */
#define GG_SHOWN	64
const char *gg_show(struct gg_text_at text, char shown[GG_SHOWN]);
/* Pointers to the texts in sorted order, for the caller to free; NULL: no memory. */
const struct gg_text_at **gg_texts_sort(const struct gg_text_at *texts, size_t n);
const struct gg_text_at *gg_texts_find(const struct gg_text_at *const *sorted, size_t n,
				       struct gg_text_at text);
/* The second of two equal texts; NULL: all differ. */
const struct gg_text_at *gg_texts_twice(const struct gg_text_at *const *sorted, size_t n);

/* --- the parser (header.c) ---------------------------------------------------------- */

/*
 * Parses the header in file->bytes. *more: the header goes on behind these bytes, and so
 * does the file (there_are_more). A header that goes on behind the file's end is an error.
 */
int32_t gg_header_parse(struct gg_engine *engine, bool there_are_more, bool *more);

#endif
