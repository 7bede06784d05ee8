/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mutated INI files and module files: whatever they hold, reading them ends with
 * a result or with one line that says why not. The seed is fixed; run it under
 * the sanitizers to have the memory watched, too. KVMOD_FUZZ_ROUNDS sets how long.
 */
#include "core/modules/catalog.h"
#include "tests/fixture.h"

#include <stdlib.h>
#include <string.h>

static uint64_t state = 42;

static uint32_t below(uint32_t n)
{
	state = state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)((state >> 33) % n);
}

static int n_rounds(int usual)
{
	const char *text = getenv("KVMOD_FUZZ_ROUNDS");

	return text ? atoi(text) : usual;
}

/* The call failed with words, or it did not fail. */
static void assert_sane(int err)
{
	if (err == KVMOD_OK)
		return;
	ck_assert_int_lt(err, 0);
	ck_assert_int_gt((int)strlen(kvmod_error()), 0);
	ck_assert_ptr_null(strpbrk(kvmod_error(), "\n\r\t\033"));
}

/* Flips, overwrites, removes or doubles some bytes. */
static size_t mutate(char *bytes, size_t n, size_t room)
{
	static const char *const words[] = {
		"[", "]", "=", "\n", ";", "policy", "-", "..", "99999999999999999999", "\xff", "%",
	};
	const char *word = words[below(sizeof(words) / sizeof(*words))];
	size_t at = n ? below((uint32_t)n) : 0, length;

	switch (below(5)) {
	case 0:
		if (n)
			bytes[at] ^= (char)(1u << below(8));
		return n;
	case 1:
		if (n)
			bytes[at] = (char)below(256);
		return n;
	case 2:
		length = n ? below((uint32_t)(n - at)) % 16 : 0;
		memmove(bytes + at, bytes + at + length, n - at - length);
		return n - length;
	case 3:
		length = strlen(word);
		if (n + length > room)
			return n;
		memmove(bytes + at + length, bytes + at, n - at);
		memcpy(bytes + at, word, length);
		return n + length;
	default:
		length = n - at < 64 ? n - at : 64;
		if (n + length > room)
			return n;
		memmove(bytes + at + length, bytes + at, n - at);
		return n + length;
	}
}

static const char ini[] =
	"[kvmod]\npolicy = good\nthreads = 2\nlog_level = error\n; comment\n[alias]\nx = good\n"
	"[policy good]\nsinks = 4\nthreshold = 0.25\nfile = ~/x\n[blacklist]\nother = why\n";

START_TEST(ini_files)
{
	struct kvmod_ctx *ctx = fixture_context();
	char text[2048];

	fixture_module("good", NULL);
	kvmod_set_log_level(ctx, KVMOD_ERROR);
	for (int i = 0; i < n_rounds(2000); i++) {
		size_t n = sizeof(ini) - 1;

		memcpy(text, ini, n);
		for (uint32_t k = 1 + below(8); k > 0; k--)
			n = mutate(text, n, sizeof(text) - 1);
		text[n] = '\0';
		/* A zero byte would end the text early, which is as good a file. */
		assert_sane(fixture_configure(ctx, text));
	}
	kvmod_unref(ctx);
}
END_TEST

START_TEST(override_texts)
{
	static const char good[] = "policy good.sinks=4";
	struct kvmod_ctx *ctx = fixture_context();
	char text[256];

	for (int i = 0; i < n_rounds(5000); i++) {
		size_t n = sizeof(good) - 1;
		const char *overrides[] = { text };

		memcpy(text, good, n);
		for (uint32_t k = 1 + below(6); k > 0; k--)
			n = mutate(text, n, sizeof(text) - 1);
		text[n] = '\0';
		assert_sane(kvmod_configure(ctx, "/dev/null", overrides, 1));
	}
	kvmod_unref(ctx);
}
END_TEST

/* A byte of the headers in front, of the tables at the end, or of anything. */
static size_t some_place(size_t size)
{
	switch (below(3)) {
	case 0:
		return below(1024);
	case 1:
		return size - 1 - below(4096);
	default:
		return below((uint32_t)size);
	}
}

static void read_module(struct kvmod_ctx *ctx, const char *bytes, size_t n)
{
	struct kvmod_modinfo *info;
	int err = kvmod_modinfo_read(ctx, fixture_write_bytes("f.so", bytes, n), &info);

	assert_sane(err);
	if (err == KVMOD_OK)
		kvmod_modinfo_free(info);
}

/* Only read, never run. */
START_TEST(module_files)
{
	struct kvmod_ctx *ctx = fixture_context();
	size_t size;
	char *good = fixture_read(fixture_module("good", NULL), &size);
	char *bytes = malloc(size);

	ck_assert(bytes && size > 4096);
	for (int i = 0; i < n_rounds(3000); i++) {
		memcpy(bytes, good, size);
		for (uint32_t k = 1 + below(6); k > 0; k--)
			bytes[some_place(size)] = (char)(below(2) ? below(256) : 0xff);
		read_module(ctx, bytes, below(4) ? size : below((uint32_t)size));
	}
	free(bytes);
	free(good);
	kvmod_unref(ctx);
}
END_TEST

FIXTURE_MAIN("fuzz", ini_files, override_texts, module_files)
