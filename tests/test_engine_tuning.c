/* SPDX-License-Identifier: Apache-2.0 */
/* The choice of the number of decoding threads, on simulated machines. */
#include "tests/engine_host.h"

/* A pass on n threads: how long, and how much of that the calling thread ran. */
struct pass {
	double seconds, share;
};
typedef struct pass machine(int n);

static struct gg_tuning tuning;
static double passed;		/* seconds */
static int n_other;		/* passes on another number than expected */

static void run(machine *m, int n_passes, int expected)
{
	passed = 0;
	n_other = 0;
	for (int i = 0; i < n_passes; i++) {
		struct pass pass = m(tuning.now);

		n_other += tuning.now != expected;
		passed += pass.seconds;
		gg_tuning_pass(&tuning, pass.seconds, pass.seconds * pass.share);
	}
}

static struct pass idle(int n)
{
	return (struct pass){ 0.020 / n, 0.99 };
}

START_TEST(leaves_an_idle_machine_alone)
{
	gg_tuning_start(&tuning, 8);
	run(idle, 2000, 8);
	ck_assert_int_eq(n_other, 0);
}
END_TEST

/* Two processors, two others that want them: two threads wait for each other. */
static struct pass contended(int n)
{
	return n == 2 ? (struct pass){ 0.120, 0.4 } : (struct pass){ 0.030, 0.66 };
}

START_TEST(gives_way)
{
	gg_tuning_start(&tuning, 2);
	run(contended, 400, 1);
	ck_assert_int_eq(tuning.now, 1);
	ck_assert_double_le(passed, 1.1 * 400 * 0.030);
	/* And takes the processors back when they are free. */
	run(idle, 200, 2);
	ck_assert_int_eq(tuning.now, 2);
	ck_assert_int_le(n_other, 64);
}
END_TEST

/* One other: one thread has a processor to itself, so more are tried in vain, ever more seldom. */
static struct pass half(int n)
{
	return n == 2 ? (struct pass){ 0.060, 0.5 } : (struct pass){ 0.020, 1 };
}

START_TEST(tries_more_seldom_in_vain)
{
	gg_tuning_start(&tuning, 2);
	run(half, 1000, 1);
	ck_assert_int_eq(tuning.now, 1);
	ck_assert_double_le(passed, 1.1 * 1000 * 0.020);
}
END_TEST

/* Processors of two kinds: the fast ones wait for the slow ones, and that is best. */
static struct pass uneven(int n)
{
	return (struct pass){ 0.040 / n, n > 4 ? 0.6 : 0.98 };
}

START_TEST(goes_by_time)
{
	gg_tuning_start(&tuning, 8);
	run(uneven, 2000, 8);
	ck_assert_int_eq(tuning.now, 8);
	ck_assert_double_le(passed, 1.02 * 2000 * 0.005);
}
END_TEST

/* Sixteen processors, one of them another program's. */
static struct pass one_taken(int n)
{
	return n == 16 ? (struct pass){ 0.010, 0.5 } : (struct pass){ 0.064 / n, 0.97 };
}

START_TEST(finds_one_fewer)
{
	gg_tuning_start(&tuning, 16);
	run(one_taken, 2000, 15);
	ck_assert_double_le(passed, 1.05 * 2000 * 0.064 / 15);
}
END_TEST

/* A prompt tells already; where it was wrong, as when weights came from a disk, that is found out. */
START_TEST(prompts_tell)
{
	gg_tuning_start(&tuning, 2);
	gg_tuning_prefill(&tuning, 1, 0.5);
	gg_tuning_prefill(&tuning, 1, 0.5);
	run(contended, 100, 1);
	ck_assert_int_eq(n_other, 0);
	gg_tuning_start(&tuning, 16);
	gg_tuning_prefill(&tuning, 1, 0.5);
	ck_assert_int_eq(tuning.now, 12);
	gg_tuning_prefill(&tuning, 1, 0.5);
	ck_assert_int_eq(tuning.now, 12);
	run(idle, 100, 16);
	ck_assert_int_eq(tuning.now, 16);
	gg_tuning_start(&tuning, 16);
	gg_tuning_prefill(&tuning, 1, 0.99);
	ck_assert_int_eq(tuning.now, 16);
}
END_TEST

/* Batches of one and of eight: the small one is not faster for the threads that it came upon. */
START_TEST(compares_like_with_like)
{
	gg_tuning_start(&tuning, 8);
	for (int i = 0; i < 400; i++) {
		uint32_t n_tokens = i / 6 % 2 ? 1 : 8;
		struct pass pass = uneven(tuning.now);

		gg_tuning_batch(&tuning, n_tokens);
		pass.seconds *= n_tokens;
		gg_tuning_pass(&tuning, pass.seconds, pass.seconds * pass.share);
		ck_assert(tuning.before || tuning.now == 8);
	}
}
END_TEST

START_TEST(one_thread_stays_one)
{
	gg_tuning_start(&tuning, 1);
	run(contended, 100, 1);
	ck_assert_int_eq(n_other, 0);
}
END_TEST

static void add_tests(TCase *tc)
{
	tcase_add_test(tc, leaves_an_idle_machine_alone);
	tcase_add_test(tc, gives_way);
	tcase_add_test(tc, tries_more_seldom_in_vain);
	tcase_add_test(tc, goes_by_time);
	tcase_add_test(tc, finds_one_fewer);
	tcase_add_test(tc, prompts_tell);
	tcase_add_test(tc, compares_like_with_like);
	tcase_add_test(tc, one_thread_stays_one);
}

int main(void)
{
	return test_main("engine threads, tuned", add_tests);
}
