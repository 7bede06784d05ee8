/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decode-time compression bounds the cache: 20,000 tokens are decoded in the memory that
 * the first of them took, by a session with the engine "ggml" and a model of two layers.
 */
#include <config.h>

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <kvmod/kvmod.h>

#include "tests/tiny_model.h"

#define TOKENS	20000u
/* Resident memory may grow by so much: AddressSanitizer holds freed memory back, up to 256 MiB. */
#ifdef __SANITIZE_ADDRESS__
#define SLACK	((size_t)300 << 20)
#else
#define SLACK	((size_t)256 << 10)
#endif

#define WARM	2000u		/* from here on nothing may grow */
#define EVERY	100u		/* tokens from one look at the resident memory to the next */

static const struct tiny_model spec = {
	.name = "two layers", .architecture = "llama", .n_layers = 2, .width = 32, .ffn = 32,
	.n_q_heads = 2, .n_kv_heads = 1, .head_dim = 32, .n_vocab = TINY_VOCAB, .context = 1 << 15,
};

static const struct bounded {
	const char *policy, *params[3];
	uint32_t budget, decode_every;
	uint32_t context;		/* 0: the model's */
} all[] = {
	/* It closes gaps, and so outgrows any context. */
	{ "streamingllm", { "budget=96" }, 96, 64, 256 },
	{ "h2o", { "heavy=48", "recent=48" }, 96, 64, 0 },
	{ "h2o", { "heavy=48", "recent=48", "rows=8" }, 96, 64, 0 },
	{ "tova", { "budget=96" }, 96, 64, 0 },
	{ "rkv", { "budget=96" }, 96, 128, 0 },
};
#define N_ALL ((int)(sizeof(all) / sizeof(*all)))

static void quiet(void *arg, uint32_t level, const char *line)
{
	(void)arg;
	if (level <= KVMOD_WARN)
		fprintf(stderr, "%s\n", line);
}

static size_t resident(void)
{
	size_t pages = 0, ignored;
	FILE *file = fopen("/proc/self/statm", "r");

	if (!file || fscanf(file, "%zu %zu", &ignored, &pages) != 2)
		pages = 0;
	if (file)
		fclose(file);
	return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static struct kvmod_ctx *configured(const struct bounded *b, const char *model)
{
	char texts[7][256];
	const char *overrides[7];
	struct kvmod_ctx *ctx;
	size_t n = 0;

	snprintf(texts[n++], sizeof(*texts), "engine ggml.model=%s", model);
	snprintf(texts[n++], sizeof(*texts), "engine ggml.context=%u", b->context);
	snprintf(texts[n++], sizeof(*texts), "engine ggml.threads=1");
	snprintf(texts[n++], sizeof(*texts), "kvmod.threads=1");
	for (int i = 0; i < 3 && b->params[i]; i++)
		snprintf(texts[n++], sizeof(*texts), "policy %s.%s", b->policy, b->params[i]);
	for (size_t i = 0; i < n; i++)
		overrides[i] = texts[i];
	ck_assert_int_eq(kvmod_new(&ctx), 0);
	kvmod_set_log(ctx, quiet, NULL);
	ck_assert_msg(!kvmod_configure(ctx, "/dev/null", overrides, n), "%s", kvmod_error());
	return ctx;
}

/* The most of each so far. */
struct most {
	uint64_t used, held;
	size_t resident;
};

static void look(struct kvmod_sequence *sequence, uint32_t token, struct most *most)
{
	struct kvmod_bytes bytes = { .size = sizeof(bytes) };
	size_t here = token % EVERY ? 0 : resident();

	kvmod_sequence_bytes(sequence, &bytes);
	most->used = bytes.used > most->used ? bytes.used : most->used;
	most->held = bytes.held > most->held ? bytes.held : most->held;
	most->resident = here > most->resident ? here : most->resident;
}

/* Decodes tokens from..to-1, whatever the model answers. */
static struct most decode(struct kvmod_session *session, struct kvmod_sequence *sequence,
			  uint32_t from, uint32_t to)
{
	static float logits[TINY_VOCAB];
	float *list[] = { logits };
	struct most most = { 0 };

	for (uint32_t i = from; i < to; i++) {
		int32_t token = (int32_t)(i * 7919 % TINY_VOCAB);

		ck_assert_msg(!kvmod_session_decode(session, &sequence, &token, list, 1), "token %u: %s",
			      i, kvmod_error());
		look(sequence, i, &most);
	}
	return most;
}

START_TEST(memory_is_constant)
{
	const struct bounded *b = &all[_i];
	char *model = tiny_model_write(&spec, TINY_GOOD);
	struct kvmod_ctx *ctx = configured(b, model);
	struct kvmod_engine *engine;
	struct kvmod_policy *policy;
	struct kvmod_session *session;
	struct kvmod_sequence *sequence;
	struct most warm, later;
	struct kvmod_prompted out = { .size = sizeof(out) };
	int32_t tokens[50];
	struct kvmod_prompt prompt = { .size = sizeof(prompt), .tokens = tokens, .n_tokens = 50 };

	tiny_tokens(tokens, 50, 1);
	ck_assert_msg(!kvmod_engine_open(ctx, "ggml", &engine), "%s", kvmod_error());
	ck_assert_msg(!kvmod_policy_open(ctx, b->policy, NULL, kvmod_engine_model(engine), &policy), "%s",
		      kvmod_error());
	ck_assert_int_eq(kvmod_session_open(engine, policy, &session), 0);
	ck_assert_int_eq(kvmod_sequence_open(session, &sequence), 0);
	ck_assert_msg(!kvmod_sequence_prompt(sequence, &prompt, &out), "%s", kvmod_error());
	warm = decode(session, sequence, 0, WARM);
	later = decode(session, sequence, WARM, TOKENS);
	printf("%s: %zu KiB resident\n", b->policy, later.resident >> 10);
	fflush(stdout);
	ck_assert_uint_eq(kvmod_sequence_length(sequence), 50 + TOKENS);
	ck_assert_uint_le(later.used, warm.used);
	ck_assert_uint_le(later.held, warm.held);
	/* Two layers, K and V of one head of 32 in F16: what the budget and a distance hold. */
	ck_assert_uint_le(later.used, (uint64_t)(b->budget + b->decode_every) * 2 * 2 * 64);
	ck_assert_msg(later.resident <= warm.resident + SLACK, "%zu KiB, then %zu KiB",
		      warm.resident >> 10, later.resident >> 10);
	kvmod_sequence_close(sequence);
	kvmod_session_close(session);
	kvmod_policy_close(policy);
	kvmod_engine_close(engine);
	kvmod_unref(ctx);
	unlink(model);
	free(model);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("engine, bounded");
	TCase *t = tcase_create("all");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, memory_is_constant, 0, N_ALL);
	suite_add_tcase(suite, t);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
