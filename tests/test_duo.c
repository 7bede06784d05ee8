/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The policy duo: what it keeps of made-up caches, over turns and while decoding, compared with
 * a plain reference; and head tables with every mistake.
 */
#include "tests/policies.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[] = "/tmp/kvmod-duo.XXXXXX";

static void write_table(const char *text, size_t n)
{
	FILE *f = fopen(path, "w");

	ck_assert_ptr_nonnull(f);
	ck_assert_uint_eq(fwrite(text, 1, n, f), n);
	ck_assert_int_eq(fclose(f), 0);
}

static struct kvmod_model model_of(const struct kv_shape *shape)
{
	struct kvmod_model model = madeup_model(shape);

	model.flags = 0;
	model.name = " Small model ";
	return model;
}

/* params: "key=value key=value"; the table at `path` is the first. */
static int open_duo(struct kvmod_ctx *ctx, const char *params, const struct kvmod_model *model,
		    struct kvmod_policy **policy)
{
	char copy[256], text[8][160];
	const char *overrides[8];
	size_t n = 0;

	snprintf(text[n], sizeof(text[n]), "policy duo.heads=%s", path);
	overrides[0] = text[n++];
	snprintf(copy, sizeof(copy), "%s", params);
	for (char *param = strtok(copy, " "); param; param = strtok(NULL, " ")) {
		snprintf(text[n], sizeof(text[n]), "policy duo.%s", param);
		overrides[n] = text[n];
		n++;
	}
	ck_assert_msg(kvmod_configure(ctx, "/dev/null", overrides, n) == 0, "%s", kvmod_error());
	return kvmod_policy_open(ctx, "duo", "cpu", model, policy);
}

/* --- what is kept ------------------------------------------------------------------- */

#define MAX_HEADS 16
#define NOT_MEASURED -1

struct table {
	double scores[MAX_HEADS];	/* NOT_MEASURED: a dash */
	uint32_t n;
};

static void draw_table(struct kv_random *r, const struct kv_shape *shape, struct table *table)
{
	table->n = shape->n_layers * shape->n_kv_heads;
	ck_assert_uint_le(table->n, MAX_HEADS);
	for (uint32_t i = 0; i < table->n; i++)		/* few values, so that some are equal */
		table->scores[i] = kv_random_range(r, 0, 9) ? kv_random_range(r, 0, 5) / 8.0 :
							      NOT_MEASURED;
}

static void write_scores(const struct kv_shape *shape, const struct table *table)
{
	char text[1024];
	size_t n = (size_t)snprintf(text, sizeof(text), "kvmod-heads 1\nmodel = Small model\n"
				    "architecture = llama\nlayers = %u\nkv_heads = %u\n",
				    shape->n_layers, shape->n_kv_heads);

	for (uint32_t i = 0; i < table->n; i++) {
		if (i % shape->n_kv_heads == 0)
			n += (size_t)snprintf(text + n, sizeof(text) - n, "\n%u:",
					      i / shape->n_kv_heads);
		if (table->scores[i] < 0)
			n += (size_t)snprintf(text + n, sizeof(text) - n, " -");
		else
			n += (size_t)snprintf(text + n, sizeof(text) - n, " %g", table->scores[i]);
	}
	write_table(text, n);
}

/* Is head i among the `count` best of those that were measured? */
static bool is_retrieval(const struct table *table, uint32_t i, uint32_t count, double threshold)
{
	uint32_t better = 0;

	if (table->scores[i] < 0)
		return true;
	if (threshold > 0)
		return table->scores[i] >= threshold;
	for (uint32_t j = 0; j < table->n; j++)
		better += table->scores[j] > table->scores[i] ||
			  (table->scores[j] == table->scores[i] && j < i);
	return better < count;
}

struct rule {
	uint32_t count;
	double threshold;
	int32_t sinks, recent;
};

static void check_head(const struct madeup *m, const struct kvmod_plan *plan, uint32_t head,
		       bool whole, const struct rule *rule)
{
	const struct kvmod_segment *s = kvmod_segment_at(&m->d.request, head / m->shape.n_kv_heads);
	const struct kvmod_head *h = kvmod_head_at(s, head % m->shape.n_kv_heads);
	uint32_t kept[MAX_N], n = kept_of(m, plan, head, kept), at = 0;

	for (uint32_t i = 0; i < h->n; i++) {
		int32_t position = h->positions ? h->positions[i] : (int32_t)i;

		if (whole || position < rule->sinks || position >= (int32_t)s->logical - rule->recent)
			ck_assert_msg(at < n && kept[at++] == i, "head %u does not keep %d of %u",
				      head, position, (uint32_t)s->logical);
	}
	ck_assert_uint_eq(at, n);
}

static uint32_t check_plan(const struct madeup *m, const struct kvmod_plan *plan,
			   const struct table *table, const struct rule *rule)
{
	uint32_t n_whole = 0;

	for (uint32_t head = 0; head < total_heads(m); head++) {
		bool whole = is_retrieval(table, head, rule->count, rule->threshold);

		ck_assert_int_eq(kvmod_keep_at(plan, head / m->shape.n_kv_heads)->status, 0);
		check_head(m, plan, head, whole, rule);
		n_whole += whole;
	}
	return n_whole;
}

/* A prompt, a second one, and decoding, for tables with equal scores and heads without one. */
START_TEST(turns_and_decoding)
{
	struct kvmod_ctx *ctx = policies_context(true);
	struct kv_random r = { 100 + (uint64_t)_i };
	uint32_t n_cut = 0;

	for (int round = 0; round < 8; round++) {
		struct kv_shape shape = draw_shape(&r, KVMOD_F32);
		struct kvmod_model model = model_of(&shape);
		struct rule rule = { .sinks = (int32_t)kv_random_range(&r, 0, 20),
				     .recent = (int32_t)kv_random_range(&r, 1, 40) };
		struct kvmod_policy *policy;
		struct table table;
		struct madeup m, next;
		char params[256];

		draw_table(&r, &shape, &table);
		write_scores(&shape, &table);
		rule.count = kv_random_range(&r, 0, table.n + 1);
		rule.threshold = _i == 1 ? kv_random_range(&r, 1, 5) / 8.0 : 0;
		snprintf(params, sizeof(params), "retrieval=%u threshold=%g sinks=%d recent=%d "
			 "decode_every=5", rule.count, rule.threshold, rule.sinks, rule.recent);
		ck_assert_msg(open_duo(ctx, params, &model, &policy) == 0, "%s", kvmod_error());
		ck_assert_uint_eq(kvmod_policy_needs(policy)->decode_every, 5);
		ck_assert_uint_eq(kvmod_policy_needs(policy)->what, 0);
		ck_assert_int_eq(madeup_first(&m, &shape, 90, 0, 0), 0);
		for (int turn = 0; turn < 6; turn++) {
			struct kvmod_plan *plan = decide(policy, &m.d.request);
			uint32_t n_whole = check_plan(&m, plan, &table, &rule);

			n_cut += n_whole < table.n && turn == 5;
			ck_assert_int_eq(madeup_next(&next, &m, plan, turn < 2 ? 60 : 5, 0, 0), 0);
			next.d.request.phase = turn < 1 ? KVMOD_PREFILL : KVMOD_DECODE;
			kvmod_plan_free(plan);
			madeup_free(&m);
			m = next;
		}
		madeup_free(&m);
		kvmod_policy_close(policy);
	}
	ck_assert_uint_ge(n_cut, 3);
	kvmod_unref(ctx);
}
END_TEST

/* A streaming head of a long answer never caches more than it keeps and what is decoded. */
START_TEST(decoding_stays_bounded)
{
	static const char table[] = "kvmod-heads 1\nmodel = Small model\narchitecture = llama\n"
		"layers = 3\nkv_heads = 3\n0: 0 0 1\n1: 1 0 0\n2: 0 1 0\n";
	struct kvmod_ctx *ctx = policies_context(true);
	struct kvmod_model model = model_of(&usual);
	struct kvmod_policy *policy;
	struct madeup m, next;

	write_table(table, sizeof(table) - 1);
	ck_assert_int_eq(open_duo(ctx, "retrieval=34% sinks=4 recent=20 decode_every=8", &model,
				  &policy), 0);
	ck_assert_int_eq(madeup_first(&m, &usual, 100, 0, 0), 0);
	for (int step = 0; step < 40; step++) {
		struct kvmod_plan *plan = decide(policy, &m.d.request);

		for (uint32_t i = 0; i < 9; i++)
			ck_assert_uint_eq(kvmod_plan_count(&m.d.request, plan, i / 3, i % 3),
					  i == 2 || i == 3 || i == 7 ? 100 + 8 * (uint64_t)step : 24);
		ck_assert_int_eq(madeup_next(&next, &m, plan, 8, 0, 0), 0);
		next.d.request.phase = KVMOD_DECODE;
		kvmod_plan_free(plan);
		madeup_free(&m);
		m = next;
	}
	madeup_free(&m);
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
}
END_TEST

/* --- how many heads ------------------------------------------------------------------------ */

START_TEST(share_of_the_heads)
{
	static const char table[] = "kvmod-heads 1\nmodel = Small model\narchitecture = llama\n"
		"layers = 3\nkv_heads = 3\n0: 0.1 0.2 0.3\n1: 0.4 0.5 0.6\n2: 0.7 0.8 -\n";
	static const struct {
		const char *params;
		uint32_t n_whole;
	} cases[] = {
		{ "", 5 }, { "retrieval=0", 1 }, { "retrieval=0.0", 1 }, { "retrieval=1", 2 },
		{ "retrieval=1.0", 9 }, { "retrieval=100", 9 }, { "retrieval=37%", 3 },
		{ "retrieval=37.5%", 4 }, { "threshold=0.5", 5 }, { "threshold=0.51", 4 },
		{ "threshold=9", 1 }, { "threshold=0.7 retrieval=1.0", 3 },
	};
	struct kvmod_ctx *ctx = policies_context(true);
	struct kvmod_model model = model_of(&usual);
	struct madeup m = make(&usual, 600);

	write_table(table, sizeof(table) - 1);
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct kvmod_policy *policy;
		struct kvmod_plan *plan;
		uint32_t n_whole = 0;

		ck_assert_int_eq(open_duo(ctx, cases[i].params, &model, &policy), 0);
		plan = decide(policy, &m.d.request);
		for (uint32_t head = 0; head < 9; head++) {
			uint64_t n = kvmod_plan_count(&m.d.request, plan, head / 3, head % 3);

			ck_assert(n == 600 || n == 128 + 256);
			n_whole += n == 600;
		}
		ck_assert_msg(n_whole == cases[i].n_whole, "%s: %u heads are whole",
			      cases[i].params, n_whole);
		kvmod_plan_free(plan);
		kvmod_policy_close(policy);
	}
	madeup_free(&m);
	kvmod_unref(ctx);
}
END_TEST

/* One rank of several has some of the KV heads of each layer. */
START_TEST(heads_of_a_rank)
{
	static const char table[] = "kvmod-heads 1\nmodel = Small model\narchitecture = llama\n"
		"layers = 3\nkv_heads = 6\n0: 0 0 0 0 1 0\n1: 0 0 0 0 0 1\n2: 0 0 1 1 0 0\n";
	struct kvmod_ctx *ctx = policies_context(true);
	struct kvmod_model model = model_of(&usual);
	struct madeup m = make(&usual, 600);
	struct kvmod_policy *policy;
	struct kvmod_plan *plan;

	model.n_kv_heads = 6;
	model.n_q_heads = 18;
	write_table(table, sizeof(table) - 1);
	ck_assert_int_eq(open_duo(ctx, "threshold=1", &model, &policy), 0);
	for (uint32_t i = 0; i < 3; i++) {
		m.d.segments[i].first_head = 3;
		m.d.segments[i].total_heads = 6;
	}
	plan = decide(policy, &m.d.request);
	for (uint32_t i = 0; i < 9; i++)
		ck_assert_uint_eq(kvmod_plan_count(&m.d.request, plan, i / 3, i % 3),
				  i == 1 || i == 5 || i == 6 ? 600 : 384);
	kvmod_plan_free(plan);
	kvmod_policy_close(policy);
	madeup_free(&m);
	kvmod_unref(ctx);
}
END_TEST

/* --- tables with mistakes -------------------------------------------------------------------- */

#define HEAD "kvmod-heads 1\nmodel = Small model\narchitecture = llama\n"
#define SIZES HEAD "layers = 3\nkv_heads = 3\n"
#define ROWS_01 "0: 1 2 3\n1: 1 2 3\n"

/* Parts of messages. */
#define FIRST "expected kvmod-heads 1, the first line of a head table"
#define IN_USE ", as in the model in use (`kvmod heads` makes its table)"
#define REGULAR "expected a head table, a regular file of at most 1048576 bytes"
#define SCORES "expected 3 scores, one for each KV head, each a number or -"

static const struct bad {
	const char *text;
	const char *message;		/* behind "policy duo: PATH"; NULL: any */
} bad[] = {
	{ "", ":1: the file ends here: " FIRST },
	{ "# nothing\n\n", ":3: the file ends here: " FIRST },
	{ "kvmod-heads 2\n", ":1: `kvmod-heads 2`: " FIRST },
	{ "GGUF and what follows it, which is quite long and has no newline in it at all",
	  ":1: `GGUF and what follows it, which is quite long and has no new...`: " FIRST },
	{ "kvmod-heads 1\nmodel Small model\n",
	  ":2: `model Small model`: expected model = Small model" IN_USE },
	{ "kvmod-heads 1\nmodel = Large model\n",
	  ":2: `model = Large model`: expected model = Small model" IN_USE },
	{ "kvmod-heads 1\nmodel = Small\n",
	  ":2: `model = Small`: expected model = Small model" IN_USE },
	{ "kvmod-heads 1\nmodel = Small model\narchitecture = qwen2\n",
	  ":3: `architecture = qwen2`: expected architecture = llama" IN_USE },
	{ "kvmod-heads 1\nlayers = 3\n", ":2: `layers = 3`: expected model = Small model" IN_USE },
	{ HEAD "layers = 4\n",
	  ":4: `layers = 4`: expected layers = 3" IN_USE },
	{ HEAD "layers = three\n",
	  ":4: `layers = three`: expected layers = 3" IN_USE },
	{ HEAD "layers = 3\nkv_heads = 1\n",
	  ":5: `kv_heads = 1`: expected kv_heads = 3" IN_USE },
	{ HEAD "layers = 33\n", ":4: `layers = 33`: expected layers = 3" IN_USE },
	{ HEAD "layers 3\n", ":4: `layers 3`: expected layers = 3" IN_USE },
	{ HEAD "layers = 3\nlayers = 3\n",
	  ":5: `layers = 3`: expected kv_heads = 3" IN_USE },
	{ SIZES ROWS_01,
	  ":8: the file ends here: expected the scores of layer 2: `2: ...`" },
	{ SIZES ROWS_01 "1: 1 2 3\n2: 1 2 3\n",
	  ":8: `1: 1 2 3`: expected the scores of layer 2: `2: ...`" },
	{ SIZES "0: 1 2 3\n2: 1 2 3\n",
	  ":7: `2: 1 2 3`: expected the scores of layer 1: `1: ...`" },
	{ SIZES ROWS_01 "2: 1 2 3\n3: 1 2 3\n",
	  ":9: `3: 1 2 3`: expected nothing after the scores of 3 layers" },
	{ SIZES ROWS_01 "2: 1 2\n", ":8: `2: 1 2`: " SCORES },
	{ SIZES ROWS_01 "2:\n", ":8: `2:`: " SCORES },
	{ SIZES ROWS_01 "2: 1 2 3 4\n", ":8: `2: 1 2 3 4`: " SCORES },
	{ SIZES "0: 1 2 3\n1: 1 x 3\n", ":7: `1: 1 x 3`: " SCORES },
	{ SIZES "0: 1 2 nan\n", ":6: `0: 1 2 nan`: " SCORES },
	{ SIZES "0: inf 2 3\n", ":6: `0: inf 2 3`: " SCORES },
	{ SIZES "0: 1 1e999 3\n", ":6: `0: 1 1e999 3`: " SCORES },
	{ SIZES "0: 1,5 2 3\n", ":6: `0: 1,5 2 3`: " SCORES },
	{ SIZES "0: 1 2 3.\x01\n", NULL },
	{ SIZES "0: 1 --2 3\n", ":6: `0: 1 --2 3`: " SCORES },
};

static void refuses(struct kvmod_ctx *ctx, const char *params, const struct kvmod_model *model,
		    int code, const char *message)
{
	struct kvmod_policy *policy = NULL;
	char whole[512];

	ck_assert_int_eq(open_duo(ctx, params, model, &policy), code);
	ck_assert_ptr_null(policy);
	if (!message)
		return;
	snprintf(whole, sizeof(whole), "policy duo: %s", message);
	ck_assert_str_eq(kvmod_error(), whole);
}

START_TEST(bad_tables)
{
	struct kvmod_ctx *ctx = policies_context(true);
	struct kvmod_model model = model_of(&usual);
	char message[512];

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		write_table(bad[i].text, strlen(bad[i].text));
		snprintf(message, sizeof(message), "%s%s", path,
			 bad[i].message ? bad[i].message : "");
		refuses(ctx, "", &model, KVMOD_EFORMAT, bad[i].message ? message : NULL);
	}
	kvmod_unref(ctx);
}
END_TEST

START_TEST(no_table)
{
	struct kvmod_ctx *ctx = policies_context(true);
	struct kvmod_model model = model_of(&usual);
	char zeros[] = SIZES "0: 1 2 0\n", big[100];
	char message[512];

	refuses(ctx, "heads=", &model, KVMOD_ENOENT, "`heads` names no head table: "
		"`kvmod heads` makes one for the model");
	refuses(ctx, "heads=/no/table", &model, KVMOD_ENOENT, "/no/table: No such file or "
		"directory: expected a head table (`kvmod heads` makes one)");
	refuses(ctx, "heads=/tmp", &model, KVMOD_EFORMAT,
		"/tmp: " REGULAR);
	refuses(ctx, "heads=/dev/zero", &model, KVMOD_EFORMAT,
		"/dev/zero: " REGULAR);
	zeros[sizeof(zeros) - 3] = '\0';
	write_table(zeros, sizeof(zeros) - 1);
	snprintf(message, sizeof(message), "%s:6: `0: 1 2 ?`: " SCORES, path);
	refuses(ctx, "", &model, KVMOD_EFORMAT, message);
	memset(big, '#', sizeof(big));
	write_table(big, sizeof(big));
	ck_assert_int_eq(truncate(path, (1 << 20) + 1), 0);
	snprintf(message, sizeof(message), "%s: " REGULAR, path);
	refuses(ctx, "", &model, KVMOD_EFORMAT, message);
	kvmod_unref(ctx);
}
END_TEST

/* Without a table, and with one that cannot be its own. */
START_TEST(made_up_models)
{
	static const char *const params[] = { "heads=", "" };
	static const char table[] = "kvmod-heads 1\nmodel = Another\narchitecture = other\n"
		"layers = 1\nkv_heads = 2\n0: 1 2\n";
	struct kvmod_ctx *ctx = policies_context(true);
	struct kvmod_model model = madeup_model(&usual);
	struct madeup m = make(&usual, 600);

	write_table(table, sizeof(table) - 1);
	for (int i = 0; i < 2; i++) {
		struct kvmod_policy *policy;
		struct kvmod_plan *plan;

		ck_assert_msg(open_duo(ctx, params[i], &model, &policy) == 0, "%s", kvmod_error());
		plan = decide(policy, &m.d.request);
		/* All count the same: the first half of 9. */
		for (uint32_t head = 0; head < 9; head++)
			ck_assert_uint_eq(kvmod_plan_count(&m.d.request, plan, head / 3, head % 3),
					  head < 4 ? 600 : 384);
		kvmod_plan_free(plan);
		kvmod_policy_close(policy);
	}
	madeup_free(&m);
	kvmod_unref(ctx);
}
END_TEST

/* As `kvmod heads` writes the table of a model without an architecture; blanks do not count. */
START_TEST(no_architecture)
{
	static const char table[] = "kvmod-heads 1\n\n model  =Small model \narchitecture = \n"
		"layers = 3\nkv_heads = 3\n# scores\n0: 1 2 3\n1: 1 2 3\n2: 1 2 3";
	struct kvmod_ctx *ctx = policies_context(true);
	struct kvmod_model model = model_of(&usual);
	struct kvmod_policy *policy;

	model.architecture = NULL;
	write_table(table, sizeof(table) - 1);
	ck_assert_msg(open_duo(ctx, "", &model, &policy) == 0, "%s", kvmod_error());
	kvmod_policy_close(policy);
	kvmod_unref(ctx);
}
END_TEST

/* Any bytes: a table or a message. */
START_TEST(damaged_tables)
{
	static const char whole[] = "kvmod-heads 1\n# one\nmodel = Small model\n"
		"architecture = llama\nlayers = 3\nkv_heads = 3\r\n\n  0: 1 2e-3 -3\n1:\t0.5 - 3\n2: 1 2 3\n";
	struct kvmod_ctx *ctx = policies_context(true);
	struct kvmod_model model = model_of(&usual);
	struct kv_random r = { 5 };
	struct kvmod_policy *policy;
	int n_good = 0;

	write_table(whole, sizeof(whole) - 1);
	ck_assert_msg(open_duo(ctx, "", &model, &policy) == 0, "%s", kvmod_error());
	kvmod_policy_close(policy);
	for (int round = 0; round < 400; round++) {
		char text[sizeof(whole)];
		size_t n = sizeof(whole) - 1;

		memcpy(text, whole, n);
		for (uint32_t i = kv_random_range(&r, 1, 3); i > 0; i--)
			text[kv_random_range(&r, 0, (uint32_t)n - 1)] =
				(char)kv_random_range(&r, 0, 255);
		write_table(text, round % 4 ? n : kv_random_range(&r, 0, (uint32_t)n));
		if (open_duo(ctx, "", &model, &policy) == 0) {
			kvmod_policy_close(policy);
			n_good++;
		} else {
			ck_assert_ptr_nonnull(strstr(kvmod_error(), path));
		}
	}
	ck_assert_int_lt(n_good, 200);
	kvmod_unref(ctx);
}
END_TEST

static void add(TCase *tcase)
{
	tcase_add_loop_test(tcase, turns_and_decoding, 0, 2);
	tcase_add_test(tcase, decoding_stays_bounded);
	tcase_add_test(tcase, share_of_the_heads);
	tcase_add_test(tcase, heads_of_a_rank);
	tcase_add_test(tcase, bad_tables);
	tcase_add_test(tcase, no_table);
	tcase_add_test(tcase, made_up_models);
	tcase_add_test(tcase, no_architecture);
	tcase_add_test(tcase, damaged_tables);
}

int main(void)
{
	int fd = mkstemp(path), failed;

	if (fd < 0)
		return EXIT_FAILURE;
	close(fd);
	failed = policies_run("duo", add);
	unlink(path);
	return failed;
}
