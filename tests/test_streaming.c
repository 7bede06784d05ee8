/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small stream on the default model: it foretells a text as well as libllama does with
 * a cache that is cut and shifted likewise. tests/stream_loss does so at length.
 */
#include <config.h>

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/streaming.h"

#define N 384

static void read_text(struct kvmod_engine *engine, int32_t *tokens)
{
	const struct kvmod_engine_ops *ops = kvmod_engine_ops(engine);
	FILE *file = fopen(KVMOD_SRCDIR "/conf/examples/saltmere.txt", "r");
	static char text[16384];
	static int32_t ids[8192];
	size_t length, n = sizeof(ids) / sizeof(*ids);

	ck_assert_ptr_nonnull(file);
	length = fread(text, 1, sizeof(text), file);
	fclose(file);
	ck_assert_int_eq(ops->tokenize(kvmod_engine_instance(engine), text, length, 0, ids, &n), 0);
	ck_assert_uint_ge(n, N);
	for (uint32_t i = 0; i < N; i++)
		tokens[i] = ids[i];
}

/* Three times as many tokens as the context has: all keys are turned back on the way. */
START_TEST(foretells)
{
	static double ours[N], theirs[N];
	static int32_t tokens[N];
	const struct streaming s = {
		.model = TEST_MODEL, .budget = 80, .sinks = 4, .every = 32, .context = 128,
		.tokens = tokens, .n = N,
	};
	struct kvmod_policy *policy;
	struct kvmod_engine *engine;
	struct kvmod_ctx *ctx;
	double sum = 0, apart = 0, difference = 0;

	streaming_open(&s, &ctx, &engine, &policy);
	read_text(engine, tokens);
	ck_assert_msg(!streaming_ours(&s, engine, policy, ours), "%s", kvmod_error());
	ck_assert_int_eq(streaming_libllama(&s, theirs), 0);
	for (uint32_t i = 1; i < N; i++) {
		sum += theirs[i] / (N - 1);
		difference += (ours[i] - theirs[i]) / (N - 1);
		apart += fabs(ours[i] - theirs[i]) / (N - 1);
	}
	printf("loss %.3f, libllama's way %.3f; token by token %.3f apart\n", sum + difference, sum, apart);
	ck_assert_double_lt(sum, 4.5);
	ck_assert_double_lt(fabs(difference), 0.05);
	ck_assert_double_lt(apart, 0.15);
	kvmod_policy_close(policy);
	kvmod_engine_close(engine);
	kvmod_unref(ctx);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("streaming");
	TCase *t = tcase_create("all");
	SRunner *runner = srunner_create(suite);
	int failed;

	if (!*TEST_MODEL) {
		printf("SKIP: built without --with-model\n");
		return 77;
	}
	tcase_set_timeout(t, 120);
	tcase_add_test(t, foretells);
	suite_add_tcase(suite, t);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
