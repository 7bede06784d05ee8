/* SPDX-License-Identifier: Apache-2.0 */
/* The number of ggml's threads: never more than there are processors. */
#include <config.h>

#include "tests/engine_host.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static char logged[256];
static uint32_t host_threads;

static void note_log(void *ctx, uint32_t level, const char *format, ...)
{
	va_list args;

	(void)ctx;
	if (level > KVMOD_NOTE)
		return;
	va_start(args, format);
	vsnprintf(logged, sizeof(logged), format, args);
	va_end(args);
}

static uint32_t n_threads(void *ctx)
{
	(void)ctx;
	return host_threads;
}

static const struct kvmod_host host = {
	.size = sizeof(host), .log = note_log, .n_threads = n_threads,
};

/* This process may use the first of its processors only. */
static void use_one_processor(void)
{
	cpu_set_t set, one;
	int first = 0;

	ck_assert_int_eq(sched_getaffinity(0, sizeof(set), &set), 0);
	while (!CPU_ISSET(first, &set))
		first++;
	CPU_ZERO(&one);
	CPU_SET(first, &one);
	ck_assert_int_eq(sched_setaffinity(0, sizeof(one), &one), 0);
}

static int threads_for(int64_t asked)
{
	struct gg_engine engine = { .base = { .host = &host }, .threads = asked };
	int n;

	logged[0] = '\0';
	ck_assert_int_eq(gg_backend_open(&engine), KVMOD_OK);
	n = engine.backend.n_threads;
	gg_backend_close(&engine);
	return n;
}

START_TEST(no_more_threads_than_processors)
{
	use_one_processor();
	host_threads = 1;
	ck_assert_int_eq(threads_for(0), 1);
	ck_assert_int_eq(threads_for(1), 1);
	ck_assert_str_eq(logged, "");
	ck_assert_int_eq(threads_for(512), 1);
	ck_assert_str_eq(logged, "threads = 512, but this process may use only 1 processors: using 1 threads");
	host_threads = 3;
	ck_assert_int_eq(threads_for(0), 1);
	ck_assert_str_eq(logged, "threads = 3, but this process may use only 1 processors: using 1 threads");
}
END_TEST

static void add_all(TCase *tc)
{
	tcase_add_test(tc, no_more_threads_than_processors);
}

int main(void)
{
	return test_main("engine threads", add_all);
}
