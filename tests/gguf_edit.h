/* SPDX-License-Identifier: Apache-2.0 */
/* Changes the header of a GGUF file, to make models that are wrong in one way. */
#ifndef KV_TESTS_GGUF_EDIT_H
#define KV_TESTS_GGUF_EDIT_H

#include <stddef.h>
#include <stdint.h>

/* Bytes that grow; free(bytes) when done. */
struct bytes {
	char *bytes;
	size_t n;
};

void bytes_add(struct bytes *b, const void *bytes, size_t n);

struct edit_pair {
	struct bytes key, value;	/* the value with its type in front */
};

struct edit_tensor {
	struct bytes name;
	uint32_t n_dims;
	int64_t ne[8];
	int32_t type;
	uint64_t offset;
};

struct edit {
	uint32_t version;
	struct edit_pair *pairs;
	size_t n_pairs;
	struct edit_tensor *tensors;
	size_t n_tensors;
	uint32_t alignment;		/* of the data, whatever the header says */
	struct bytes data;
};

/* Reads a good file. Failures end the test. */
void edit_open(struct edit *e, const char *path);
void edit_write(const struct edit *e, const char *path);
void edit_close(struct edit *e);

/* These replace a key or add it. Types are GGUF's. */
void edit_scalar(struct edit *e, const char *key, uint32_t type, double number);
void edit_text(struct edit *e, const char *key, const char *text, size_t n);
/* n times the same number. */
void edit_array(struct edit *e, const char *key, uint32_t type, double number, size_t n);
/* An empty one, to which edit_append() adds. */
void edit_texts(struct edit *e, const char *key);
void edit_append(struct edit *e, const char *key, const char *text, size_t n);
void edit_remove(struct edit *e, const char *key);
/* Element i of an array becomes another number, or another text. */
void edit_number_at(struct edit *e, const char *key, size_t i, double number);
void edit_text_at(struct edit *e, const char *key, size_t i, const char *text, size_t n);
/* A second one of a key that is there. */
void edit_twice(struct edit *e, const char *key);
struct edit_pair *edit_find(struct edit *e, const char *key);
struct edit_tensor *edit_tensor(struct edit *e, const char *name);

/*
 * A vocabulary of n tokens. SPM: <unk>, <s>, </s>, one for each byte, words. BPE: one
 * for each byte, <|end|>, then pairs of bytes, with their merges.
 */
void edit_spm(struct edit *e, size_t n);
void edit_bpe(struct edit *e, size_t n);

#endif
