/* SPDX-License-Identifier: Apache-2.0 */
/* Opens and reads the model's file, and finds keys and tensors in its header. */
#include "engine.h"

#include "core/base/regular.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_READ	(1u << 20)
#define MAX_HEADER	(1u << 28)

/* --- texts ----------------------------------------------------------------------------- */

bool gg_text_is(struct gg_text_at text, const char *word)
{
	return text.n == strlen(word) && !memcmp(text.at, word, text.n);
}

const char *gg_show(struct gg_text_at text, char shown[GG_SHOWN])
{
	static const char more[] = "...";
	size_t room = GG_SHOWN - sizeof(more), n = text.n < room ? text.n : room;

	memcpy(shown, text.at, n);
	shown[n] = '\0';
	gg_repair_text(shown);
	for (char *at = shown; *at; at++) {
		if ((unsigned char)*at < ' ' || *at == 0x7f)
			*at = '?';
	}
	if (n < text.n)
		memcpy(shown + n, more, sizeof(more));
	return shown;
}

/* Any order will do, and lengths are compared fastest. */
static int by_text(const void *a, const void *b)
{
	const struct gg_text_at *x = *(const struct gg_text_at *const *)a;
	const struct gg_text_at *y = *(const struct gg_text_at *const *)b;

	if (x->n != y->n)
		return x->n < y->n ? -1 : 1;
	return memcmp(x->at, y->at, x->n);
}

const struct gg_text_at **gg_texts_sort(const struct gg_text_at *texts, size_t n)
{
	const struct gg_text_at **sorted = calloc(n + 1, sizeof(*sorted));

	for (size_t i = 0; sorted && i < n; i++)
		sorted[i] = &texts[i];
	if (sorted)
		qsort(sorted, n, sizeof(*sorted), by_text);
	return sorted;
}

const struct gg_text_at *gg_texts_find(const struct gg_text_at *const *sorted, size_t n,
				       struct gg_text_at text)
{
	const struct gg_text_at *key = &text;
	const struct gg_text_at *const *found = bsearch(&key, sorted, n, sizeof(*sorted), by_text);

	return found ? *found : NULL;
}

const struct gg_text_at *gg_texts_twice(const struct gg_text_at *const *sorted, size_t n)
{
	for (size_t i = 1; i < n; i++) {
		if (!by_text(&sorted[i - 1], &sorted[i]))
			return sorted[i - 1] > sorted[i] ? sorted[i - 1] : sorted[i];
	}
	return NULL;
}

/* --- keys and tensors ---------------------------------------------------------------------- */

const struct gg_pair *gg_file_find(const struct gg_file *file, const char *key)
{
	for (uint64_t i = 0; i < file->n_pairs; i++) {
		if (gg_text_is(file->pairs[i].key, key))
			return &file->pairs[i];
	}
	return NULL;
}

struct gg_tensor_info *gg_file_tensor(struct gg_file *file, const char *name)
{
	for (uint64_t i = 0; i < file->n_tensors; i++) {
		if (gg_text_is(file->tensors[i].name, name))
			return &file->tensors[i];
	}
	return NULL;
}

const char *gg_pair_kind(const struct gg_pair *pair, char kind[GG_KIND])
{
	snprintf(kind, GG_KIND, "%s%s", pair->is_array ? "an array of " : "",
		 gguf_type_name(pair->type));
	return kind;
}

struct gg_text_at gg_pair_next_text(const char **at)
{
	struct gg_text_at text;
	uint64_t n;

	memcpy(&n, *at, sizeof(n));
	text.at = *at + sizeof(n);
	text.n = (size_t)n;
	*at = text.at + n;
	return text;
}

/* --- the file ---------------------------------------------------------------------------------- */

static int32_t open_file(struct gg_engine *engine)
{
	struct gg_file *file = &engine->net.file;
	int fd = kv_open_regular(engine->model, &file->st), why = errno;

	if (fd < 0)
		return gg_fail(engine, why == ENOENT ? KVMOD_ENOENT : why ? KVMOD_EIO : KVMOD_EFORMAT,
			       "%s: %s%s", engine->model, why ? "" : "not a GGUF file: ",
			       kv_open_regular_error(&file->st, why));
	file->fd = fd;
	file->is_open = true;
	if (!file->st.st_size)
		return gg_fail(engine, KVMOD_EFORMAT, "%s: not a GGUF file: the file is empty", engine->model);
	return KVMOD_OK;
}

int32_t gg_file_read(struct gg_engine *engine, size_t offset, void *to, size_t n)
{
	ssize_t done = 0;

	for (size_t at = 0; at < n; at += (size_t)done) {
		do
			done = pread(engine->net.file.fd, (char *)to + at, n - at, (off_t)(offset + at));
		while (done < 0 && errno == EINTR);
		if (done < 0)
			return gg_fail(engine, KVMOD_EIO, "%s: %s", engine->model, strerror(errno));
		if (!done)
			return gg_fail(engine, KVMOD_EIO, "%s: the file was truncated while kvmod read it",
				       engine->model);
	}
	return KVMOD_OK;
}

int32_t gg_file_check(struct gg_engine *engine)
{
	const struct stat *was = &engine->net.file.st;
	struct stat st;

	if (fstat(engine->net.file.fd, &st))
		return gg_fail(engine, KVMOD_EIO, "%s: %s", engine->model, strerror(errno));
	if (st.st_size == was->st_size && st.st_mtim.tv_sec == was->st_mtim.tv_sec &&
	    st.st_mtim.tv_nsec == was->st_mtim.tv_nsec)
		return KVMOD_OK;
	return gg_fail(engine, KVMOD_EIO,
		       "%s: the file was changed while in use; to replace a model, rename another file to its name",
		       engine->model);
}

void gg_file_forget(struct gg_file *file)
{
	free(file->bytes);
	free(file->pairs);
	free(file->tensors);
	file->bytes = NULL;
	file->pairs = NULL;
	file->tensors = NULL;
	file->n_bytes = 0;
	file->n_pairs = file->n_tensors = 0;
}

/* Reads the header in ever larger parts, because its length is known only at its end. */
static int32_t read_header(struct gg_engine *engine)
{
	struct gg_file *file = &engine->net.file;
	size_t size = (size_t)file->st.st_size, most = size < MAX_HEADER ? size : MAX_HEADER, n;
	bool more = true;
	int32_t code = KVMOD_OK;

	for (n = FIRST_READ; !code && more; n *= 2) {
		gg_file_forget(file);
		file->n_bytes = n < most ? n : most;
		file->bytes = malloc(file->n_bytes);
		if (!file->bytes)
			return gg_fail(engine, KVMOD_ENOMEM, "no memory for the header of %s",
				       engine->model);
		code = gg_file_read(engine, 0, file->bytes, file->n_bytes);
		if (!code)
			code = gg_header_parse(engine, file->n_bytes < most, &more);
	}
	return code;
}

int32_t gg_file_open(struct gg_engine *engine)
{
	int32_t code = open_file(engine);

	if (!code)
		code = read_header(engine);
	return code ? code : gg_file_check(engine);
}

void gg_file_close(struct gg_file *file)
{
	gg_file_forget(file);
	if (file->is_open)
		close(file->fd);
	file->is_open = false;
}
