/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls into an engine: one that fails without a word is not blamed with an earlier
 * failure, and an answer that cannot be is a failure too.
 */
#include <check.h>
#undef fail			/* the old name of ck_abort_msg() */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define KVMOD_MODULE_SYMBOL calls_module
#include <kvmod/kvmod.h>

extern const struct kvmod_module kvmod_module_window;

/* --- the fake engine, but for the calls that a test replaces -------------------------------- */

static struct kvmod_engine_ops whole, odd;
static struct kvmod_engine_ops partless[2];	/* without chat_part(), or built before it */
static int32_t code;
static size_t count, opening;
static double loss;

static int32_t odd_tokenize(void *self, const char *text, size_t length, uint32_t flags,
			    int32_t *tokens, size_t *n_tokens)
{
	(void)self;
	(void)text;
	(void)length;
	(void)flags;
	(void)tokens;
	*n_tokens = count;
	return code;
}

static int32_t odd_detokenize(void *self, int32_t token, char *text, size_t *length)
{
	(void)self;
	(void)token;
	(void)text;
	*length = count;
	return code;
}

static int32_t odd_chat(void *self, const struct kvmod_message *messages, size_t n_messages,
			uint32_t first, int32_t *tokens, size_t *n_tokens)
{
	(void)self;
	(void)messages;
	(void)n_messages;
	(void)first;
	(void)tokens;
	*n_tokens = count;
	return code;
}

static int32_t odd_chat_part(void *self, const struct kvmod_message *messages, size_t n_messages,
			     uint32_t first, uint32_t part, int32_t *tokens, size_t *n_tokens,
			     size_t *n_opening)
{
	(void)part;
	*n_opening = opening;
	return odd_chat(self, messages, n_messages, first, tokens, n_tokens);
}

static int32_t odd_replay(const struct kvmod_request *r, const struct kvmod_plan *plan, uint32_t rows,
			  double *out)
{
	(void)r;
	(void)plan;
	(void)rows;
	*out = loss;
	return code;
}

static int32_t odd_request(void *self, struct kvmod_seq *seq, struct kvmod_request *out)
{
	int32_t err = whole.request(self, seq, out);

	out->replay = odd_replay;
	return err;
}

/* --- a policy that keeps the newest half ----------------------------------------------------- */

static int32_t half_compress(void *self, const struct kvmod_request *r, struct kvmod_plan *plan)
{
	(void)self;
	for (uint32_t i = 0; i < r->n_segments; i++) {
		uint32_t n = r->segments[i]->heads[0]->n;

		plan->keeps[i]->kind = KVMOD_KEEP_SPANS;
		plan->keeps[i]->n_spans = 1;
		plan->keeps[i]->spans[0] = (struct kvmod_span){ n / 2, n };
	}
	return KVMOD_OK;
}

static const struct kvmod_policy_ops half_ops = {
	.size = sizeof(half_ops), .name = "half", .description = "keeps the newest half",
	.instance_size = sizeof(struct kvmod_instance), .compress = half_compress,
};

static int32_t calls_init(const struct kvmod_host *host)
{
	int32_t err = host->register_engine(host->ctx, &odd);

	for (int i = 0; i < 2 && !err; i++)
		err = host->register_engine(host->ctx, &partless[i]);
	return err ? err : host->register_policy(host->ctx, &half_ops);
}

KVMOD_MODULE("calls-test", "1", "Apache-2.0", "kvmod", "for this test", 0, calls_init, NULL);

/* --- fixture ----------------------------------------------------------------------------------- */

static struct kvmod_ctx *ctx;
static struct kvmod_engine *engine;
static char logged[1024];

static void note(void *arg, uint32_t level, const char *line)
{
	size_t n = strlen(logged);

	(void)arg;
	(void)level;
	snprintf(logged + n, sizeof(logged) - n, "%s\n", line);
}

static void set_up(void)
{
	static const char *const overrides[] = { "kvmod.leave_below=0" };

	code = KVMOD_OK;
	opening = 0;
	logged[0] = '\0';
	ck_assert_int_eq(kvmod_new(&ctx), 0);
	kvmod_set_log(ctx, note, NULL);
	kvmod_set_log_level(ctx, KVMOD_WARN);
	ck_assert_int_eq(kvmod_add_builtin(ctx, &kvmod_module_window), 0);
	ck_assert_msg(!kvmod_configure(ctx, "/dev/null", overrides, 1), "%s", kvmod_error());
	ck_assert_msg(!kvmod_engine_open(ctx, "fake", &engine), "%s", kvmod_error());
	whole = odd = *kvmod_engine_ops(engine);
	kvmod_engine_close(engine);
	odd.name = "odd";
	odd.tokenize = odd_tokenize;
	odd.detokenize = odd_detokenize;
	odd.chat = odd_chat;
	odd.chat_part = odd_chat_part;
	odd.request = odd_request;
	partless[0] = partless[1] = odd;
	partless[0].name = "partless-0";
	partless[0].chat_part = NULL;
	partless[1].name = "partless-1";
	partless[1].size = offsetof(struct kvmod_engine_ops, chat_part);
	ck_assert_msg(!kvmod_add_builtin(ctx, &calls_module), "%s", kvmod_error());
	ck_assert_msg(!kvmod_engine_open(ctx, "odd", &engine), "%s", kvmod_error());
	/* An older reason, which must not be shown for a later failure. */
	ck_assert_int_eq(kvmod_load(ctx, "/nowhere.so"), KVMOD_ENOENT);
}

static void tear_down(void)
{
	kvmod_engine_close(engine);
	kvmod_unref(ctx);
}

/* --- text ------------------------------------------------------------------------------------------ */

static const struct kvmod_message hello = { "user", "hello" };
static const char *const calls[] = { "tokenize", "detokenize", "chat", "chat_part" };

/* *n: the room, then what the engine says. */
static int make(int call, size_t *n)
{
	int32_t tokens[8];
	char text[8];

	if (call == 0)
		return kvmod_engine_tokenize(engine, "hello", 5, 0, tokens, n);
	if (call == 1)
		return kvmod_engine_detokenize(engine, 'h', text, n);
	if (call == 2)
		return kvmod_engine_chat(engine, &hello, 1, 1, tokens, n);
	return kvmod_engine_chat_part(engine, &hello, 1, 1, KVMOD_CHAT_CONTEXT, tokens, n, NULL);
}

static void answers(int call, size_t is, int says, int expected, const char *why)
{
	char words[160];
	size_t n = 8;

	count = is;
	code = says;
	snprintf(words, sizeof(words), "engine odd: %s() %s", calls[call], why);
	ck_assert_int_eq(make(call, &n), expected);
	ck_assert_str_eq(kvmod_error(), expected ? words : "");
	ck_assert_uint_eq(n, is);
}

START_TEST(text)
{
	answers(_i, 0, KVMOD_EIO, KVMOD_EIO, "failed: KVMOD_EIO");
	answers(_i, 0, 7, KVMOD_EINVAL, "returned 7, expected 0 or a KVMOD_E code");
	answers(_i, 9, KVMOD_OK, KVMOD_EINVAL, "answered 9, expected at most 8, the room");
	answers(_i, 9, KVMOD_ERANGE, KVMOD_ERANGE, "failed: KVMOD_ERANGE");
	answers(_i, 8, KVMOD_OK, KVMOD_OK, "");
}
END_TEST

/* What chat_part() says of the opening; after a failure there is none. */
static void opens(size_t is, int says, int expected, const char *why)
{
	int32_t tokens[8];
	size_t n = 8, n_opening = 99;

	count = 5;
	opening = is;
	code = says;
	ck_assert_int_eq(kvmod_engine_chat_part(engine, &hello, 1, 1, KVMOD_CHAT_WHOLE, tokens, &n,
						&n_opening), expected);
	ck_assert_str_eq(kvmod_error(), why);
	ck_assert_uint_eq(n_opening, expected ? 0 : is);
}

START_TEST(openings)
{
	opens(0, KVMOD_OK, KVMOD_OK, "");
	opens(5, KVMOD_OK, KVMOD_OK, "");
	opens(6, KVMOD_OK, KVMOD_EINVAL,
	      "engine odd: chat_part() answered an opening of 6 of 5 tokens");
	opens(4, KVMOD_EIO, KVMOD_EIO, "engine odd: chat_part() failed: KVMOD_EIO");
	opens(6, KVMOD_ERANGE, KVMOD_ERANGE, "engine odd: chat_part() failed: KVMOD_ERANGE");
}
END_TEST

/* An engine without chat_part() renders whole messages, and tells no opening. */
START_TEST(engine_without_parts)
{
	const char *name = partless[_i].name;
	struct kvmod_engine *less;
	int32_t tokens[8];
	size_t n, n_opening = 99;
	char words[160];

	count = 5;
	opening = 3;
	ck_assert_msg(!kvmod_engine_open(ctx, name, &less), "%s", kvmod_error());
	for (uint32_t part = KVMOD_CHAT_CONTEXT; part <= KVMOD_CHAT_QUESTION; part++) {
		n = 8;
		ck_assert_int_eq(kvmod_engine_chat_part(less, &hello, 1, 1, part, tokens, &n,
							&n_opening), KVMOD_ENOTSUP);
		snprintf(words, sizeof(words), "engine %s cannot render a message in two parts, a "
			 "context and a question", name);
		ck_assert_str_eq(kvmod_error(), words);
		ck_assert_uint_eq(n_opening, 0);
	}
	n_opening = 99;
	ck_assert_int_eq(kvmod_engine_chat_part(less, &hello, 1, 1, KVMOD_CHAT_WHOLE, tokens, &n,
						&n_opening), 0);
	ck_assert_uint_eq(n, 5);
	ck_assert_uint_eq(n_opening, 0);
	count = 9;
	ck_assert_int_eq(kvmod_engine_chat_part(less, &hello, 1, 1, KVMOD_CHAT_WHOLE, tokens, &n,
						NULL), KVMOD_EINVAL);
	snprintf(words, sizeof(words), "engine %s: chat() answered 9, expected at most 5, the room", name);
	ck_assert_str_eq(kvmod_error(), words);
	kvmod_engine_close(less);
}
END_TEST

/* The engine's own words stay as they are. */
START_TEST(text_of_an_engine_that_can)
{
	struct kvmod_engine *can;
	int32_t tokens[8];
	size_t n = 4;

	ck_assert_int_eq(kvmod_engine_open(ctx, "fake", &can), 0);
	ck_assert_int_eq(kvmod_engine_tokenize(can, "hello", 5, 0, tokens, &n), KVMOD_ERANGE);
	ck_assert_uint_eq(n, 5);
	ck_assert_int_eq(kvmod_engine_tokenize(can, "hello", 5, 0, tokens, &n), 0);
	ck_assert_int_eq(tokens[4], 'o');
	kvmod_engine_close(can);
}
END_TEST

/* A program that calls an ops table itself begins like that. */
START_TEST(reasons_are_forgotten)
{
	ck_assert_str_ne(kvmod_error(), "");
	kvmod_error_forget();
	ck_assert_str_eq(kvmod_error(), "");
}
END_TEST

/* --- replay ---------------------------------------------------------------------------------------- */

static const struct { int32_t code; double loss; const char *line; } replays[] = {
	{ KVMOD_OK, 0.25, "" },
	{ KVMOD_OK, NAN,
	  "cannot measure the plan's loss: engine odd: replay() answered nan, expected a finite "
	  "number\n" },
	{ KVMOD_OK, INFINITY,
	  "cannot measure the plan's loss: engine odd: replay() answered inf, expected a finite "
	  "number\n" },
	{ KVMOD_EIO, 0.25, "cannot measure the plan's loss: engine odd: replay() failed: KVMOD_EIO\n" },
};
#define N_REPLAYS 4

START_TEST(losses)
{
	int32_t tokens[32];
	struct kvmod_prompt prompt = {
		.size = sizeof(prompt), .tokens = tokens, .n_tokens = 32, .replay_rows = 4,
	};
	struct kvmod_prompted out = { .size = sizeof(out) };
	struct kvmod_sequence *sequence;
	struct kvmod_session *session;
	struct kvmod_policy *policy;

	for (int i = 0; i < 32; i++)
		tokens[i] = 'a' + i % 26;
	ck_assert_int_eq(kvmod_policy_open(ctx, "half", "cpu", kvmod_engine_model(engine), &policy), 0);
	ck_assert_int_eq(kvmod_session_open(engine, policy, &session), 0);
	ck_assert_int_eq(kvmod_sequence_open(session, &sequence), 0);
	code = replays[_i].code;
	loss = replays[_i].loss;
	ck_assert_msg(!kvmod_sequence_prompt(sequence, &prompt, &out), "%s", kvmod_error());
	/* It costs the figure alone. */
	ck_assert_int_eq(out.status, 0);
	ck_assert_double_eq(out.budget, 0.5);
	if (*replays[_i].line)
		ck_assert_msg(isnan(out.replay_loss), "%g", out.replay_loss);
	else
		ck_assert_double_eq(out.replay_loss, 0.25);
	ck_assert_str_eq(logged, replays[_i].line);
	kvmod_sequence_close(sequence);
	kvmod_session_close(session);
	kvmod_policy_close(policy);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("engine calls");
	TCase *tc = tcase_create("engine calls");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_add_loop_test(tc, text, 0, 4);
	tcase_add_test(tc, openings);
	tcase_add_loop_test(tc, engine_without_parts, 0, 2);
	tcase_add_test(tc, text_of_an_engine_that_can);
	tcase_add_test(tc, reasons_are_forgotten);
	tcase_add_loop_test(tc, losses, 0, N_REPLAYS);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
