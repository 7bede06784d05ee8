/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded before a program, makes one of its allocations fail: that with the
 * number KVMOD_FAIL_AT, counted from 0, and all later ones too if KVMOD_FAIL_ON is
 * set. KVMOD_FAIL_MARK is a file that says so: it is made when the first one fails.
 * Those of the dynamic loader before main() are not counted.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

/* glibc's own names for its allocator. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t align, size_t size);

EXPORT void *malloc(size_t size);
EXPORT void *calloc(size_t n, size_t size);
EXPORT void *realloc(void *old, size_t size);
EXPORT void *reallocarray(void *old, size_t n, size_t size);
EXPORT void *aligned_alloc(size_t align, size_t size);

static atomic_long countdown = -1;	/* allocations that still succeed; negative: all do */
static bool all_later;
static const char *mark;

__attribute__((constructor)) static void begin(void)
{
	const char *at = getenv("KVMOD_FAIL_AT");

	all_later = getenv("KVMOD_FAIL_ON") != NULL;
	mark = getenv("KVMOD_FAIL_MARK");
	if (at)
		atomic_store(&countdown, atol(at));
}

static bool refused(void)
{
	int fd;

	if (atomic_load(&countdown) < 0 || atomic_fetch_sub(&countdown, 1) > 0)
		return false;
	if (all_later)
		atomic_store(&countdown, 0);
	fd = mark ? open(mark, O_WRONLY | O_CREAT | O_CLOEXEC, 0644) : -1;
	if (fd >= 0)
		close(fd);
	errno = ENOMEM;
	return true;
}

void *malloc(size_t size)
{
	return refused() ? NULL : __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
	return refused() ? NULL : __libc_calloc(n, size);
}

void *realloc(void *old, size_t size)
{
	return refused() ? NULL : __libc_realloc(old, size);
}

void *reallocarray(void *old, size_t n, size_t size)
{
	size_t bytes;

	if (__builtin_mul_overflow(n, size, &bytes))
		return NULL;
	return refused() ? NULL : __libc_realloc(old, bytes);
}

void *aligned_alloc(size_t align, size_t size)
{
	return refused() ? NULL : __libc_memalign(align, size);
}
