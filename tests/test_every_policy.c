/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every policy of the build tree on the default model, with caches of each type, on the GPU if
 * there is one: after a prompt, in a conversation, after a second prompt, with context first,
 * and on a copy of a prompt that was run for several policies.
 */
#include <config.h>

#include "tests/policies.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const types[] = { "f32", "f16", "q8_0" };
#ifdef __SANITIZE_ADDRESS__		/* several times as slow */
#define N_TYPES	1
#else
#define N_TYPES	3
#endif

#define CONTEXT_TOKENS	80u
#define TURN_TOKENS	8u
#define DECODED		2u
#define COPY_DECODED	3u
#define MAX_POLICIES	64

static const char text[] =
	"The lighthouse at Cape Morrow was built in 1871 of grey stone. Its keeper, a quiet woman "
	"named Ada Finch, wrote down every ship that passed. In the winter of 1904 the lamp failed "
	"for one night, and she lit a fire of driftwood on the rocks. Nobody was lost. The harbour "
	"master sent her a silver watch, which she never wore, and which her niece sold in 1950 to "
	"a collector from Leeds. He kept it in a drawer with seventeen other watches, all of them "
	"stopped. When the drawer was opened again, only one of the watches was found to be running.";

static char said[1024];

static void listen(void *arg, uint32_t level, const char *line)
{
	(void)arg;
	if (level <= KVMOD_WARN)
		snprintf(said, sizeof(said), "%s", line);
}

#define MUST(call) ck_assert_msg((call) == KVMOD_OK, "%s: %s", name, kvmod_error())

/* --- an engine, for the loop's type ---------------------------------------------------------------- */

static struct kvmod_ctx *ctx;
static struct kvmod_engine *engine;
static const struct kvmod_model *model;
static int32_t tokens[512];
static float *logits;

/* The parameters with which each policy cuts, all at once; more: one that comes last, or NULL. */
static void configure_with(const char *type, const char *more)
{
	static char values[128][512], folder[400];
	const char *overrides[128], *name = "configuration";
	unsigned n = 0;

	ck_assert_ptr_nonnull(getcwd(folder, sizeof(folder)));
	snprintf(values[n++], sizeof(*values), "kvmod.module_path=%s/.libs", folder);
	snprintf(values[n++], sizeof(*values), "kvmod.leave_below=0");
	snprintf(values[n++], sizeof(*values), "engine ggml.model=%s", TEST_MODEL);
	snprintf(values[n++], sizeof(*values), "engine ggml.cache_type=%s", type);
	snprintf(values[n++], sizeof(*values), "engine ggml.context=1024");
	for (int i = 0; i < n_policies; i++) {
		char params[128];

		snprintf(params, sizeof(params), "%s", policies[i].cuts);
		for (char *param = strtok(params, " "); param; param = strtok(NULL, " ")) {
			ck_assert_uint_lt(n, 128);
			snprintf(values[n++], sizeof(*values), "policy %s.%s", policies[i].module->name, param);
		}
	}
	for (unsigned i = 0; i < n; i++)
		overrides[i] = values[i];
	if (more)
		overrides[n++] = more;
	MUST(kvmod_configure(ctx, "/dev/null", overrides, n));
}

static void configure(const char *type)
{
	const char *name = type;

	MUST(kvmod_new(&ctx));
	kvmod_set_log(ctx, listen, NULL);
	configure_with(type, NULL);
}

static void tokenize(void)
{
	const char *name = "tokens";
	size_t n = 512;

	MUST(kvmod_engine_tokenize(engine, text, strlen(text), 0, tokens, &n));
	ck_assert_uint_ge(n, CONTEXT_TOKENS + TURN_TOKENS);
}

/* --- one policy ----------------------------------------------------------------------------------------- */

static void prompt(struct kvmod_sequence *sequence, const char *name, const int32_t *from, uint32_t n,
		   uint32_t flags, struct kvmod_prompted *out)
{
	struct kvmod_prompt p = {
		.size = sizeof(p), .tokens = from, .n_tokens = n, .logits = logits, .flags = flags,
	};

	*out = (struct kvmod_prompted){ .size = sizeof(*out) };
	MUST(kvmod_sequence_prompt(sequence, &p, out));
	ck_assert_msg(!out->status, "%s: the cut failed: %s", name, said);
}

static int32_t likeliest(const char *name)
{
	uint32_t best = 0;

	for (uint32_t i = 0; i < model->n_vocab; i++) {
		ck_assert_msg(isfinite(logits[i]), "%s: a logit is not finite", name);
		best = logits[i] > logits[best] ? i : best;
	}
	return (int32_t)best;
}

static void decode(struct kvmod_session *session, struct kvmod_sequence *sequence, const char *name)
{
	for (uint32_t i = 0; i < DECODED; i++) {
		int32_t token = likeliest(name);

		MUST(kvmod_session_decode(session, &sequence, &token, &logits, 1));
	}
	likeliest(name);
}

static double share(struct kvmod_sequence *sequence)
{
	struct kvmod_bytes bytes = { .size = sizeof(bytes) };

	kvmod_sequence_bytes(sequence, &bytes);
	return (double)bytes.used / (double)bytes.full;
}

/* A prompt, of which the policy keeps no more than that. */
static void prompt_and_cut(struct kvmod_sequence *sequence, const char *name, uint32_t flags, double most,
			   const char *type)
{
	struct kvmod_prompted out;

	prompt(sequence, name, tokens, CONTEXT_TOKENS, flags, &out);
	ck_assert_msg(share(sequence) <= most, "%s keeps %.3f of a %s cache, expected %.3f at most", name,
		      share(sequence), type, most);
	ck_assert_msg(!strcmp(name, "fullkv") || share(sequence) < 1, "%s cuts nothing", name);
}

/* Context first: questions on copies of what was kept, which is not cut again. */
static void run_context_first(struct kvmod_session *session, const char *name, double most, const char *type)
{
	struct kvmod_sequence *context, *question;
	struct kvmod_prompted out;

	MUST(kvmod_sequence_open(session, &context));
	prompt_and_cut(context, name, KVMOD_PROMPT_CONTEXT, most, type);
	for (int i = 0; i < 2; i++) {
		MUST(kvmod_sequence_fork(context, &question));
		prompt(question, name, tokens + CONTEXT_TOKENS, TURN_TOKENS, KVMOD_PROMPT_KEEP, &out);
		decode(session, question, name);
		kvmod_sequence_close(question);
	}
	kvmod_sequence_close(context);
}

static void run(struct kvmod_policy *policy, const char *name, double most, const char *type)
{
	struct kvmod_session *session;
	struct kvmod_sequence *sequence;
	struct kvmod_prompted out;

	MUST(kvmod_session_open(engine, policy, &session));
	run_context_first(session, name, most, type);
	MUST(kvmod_sequence_open(session, &sequence));
	prompt_and_cut(sequence, name, 0, most, type);
	/* A conversation: an answer, and a second turn. */
	prompt(sequence, name, tokens + CONTEXT_TOKENS, TURN_TOKENS, 0, &out);
	decode(session, sequence, name);
	prompt(sequence, name, tokens + CONTEXT_TOKENS, TURN_TOKENS, 0, &out);
	ck_assert_uint_eq(kvmod_sequence_length(sequence), CONTEXT_TOKENS + 2 * TURN_TOKENS + DECODED);
	decode(session, sequence, name);
	kvmod_sequence_close(sequence);
	kvmod_session_close(session);
	ck_assert_msg(!said[0], "%s with a %s cache says: %s", name, type, said);
}

/* --- copies of a prompt that was run once ------------------------------------------------------------ */

/* A turn that is not cut, and the prompt; cut decides about that one. */
static void two_prompts(struct kvmod_session *session, struct kvmod_sequence **sequence, const char *name,
			uint32_t flags, bool cut)
{
	struct kvmod_prompted out;

	MUST(kvmod_sequence_open(session, sequence));
	prompt(*sequence, name, tokens + CONTEXT_TOKENS, TURN_TOKENS, KVMOD_PROMPT_KEEP, &out);
	prompt(*sequence, name, tokens, CONTEXT_TOKENS, flags | (cut ? 0 : KVMOD_PROMPT_KEEP), &out);
}

static void same_counts(struct kvmod_sequence *a, struct kvmod_sequence *b, const char *name, const char *when)
{
	struct kvmod_bytes x = { .size = sizeof(x) }, y = { .size = sizeof(y) };

	for (uint32_t l = 0; l < model->n_layers; l++)
		for (uint32_t g = 0; g < model->n_kv_heads; g++)
			ck_assert_msg(kvmod_sequence_kept(a, l, g, NULL) == kvmod_sequence_kept(b, l, g, NULL),
				      "%s %s: layer %u, head %u keeps %llu on a copy, expected %llu", name, when, l, g,
				      (unsigned long long)kvmod_sequence_kept(b, l, g, NULL),
				      (unsigned long long)kvmod_sequence_kept(a, l, g, NULL));
	kvmod_sequence_bytes(a, &x);
	kvmod_sequence_bytes(b, &y);
	ck_assert_msg(x.used == y.used && x.full == y.full && x.held == y.held,
		      "%s %s: %llu bytes used and %llu held on a copy, expected %llu and %llu", name, when,
		      (unsigned long long)y.used, (unsigned long long)y.held, (unsigned long long)x.used,
		      (unsigned long long)x.held);
}

/* Bit for bit the same predictions, past a cut while decoding. */
static void same_answers(struct kvmod_session *session, struct kvmod_sequence *own,
			 struct kvmod_session *other, struct kvmod_sequence *copy, const char *name)
{
	float *theirs = malloc(model->n_vocab * sizeof(*theirs));

	ck_assert_ptr_nonnull(theirs);
	for (uint32_t i = 0; i < COPY_DECODED; i++) {
		int32_t token = tokens[i];

		MUST(kvmod_session_decode(session, &own, &token, &logits, 1));
		MUST(kvmod_session_decode(other, &copy, &token, &theirs, 1));
		ck_assert_msg(!memcmp(logits, theirs, model->n_vocab * sizeof(*theirs)),
			      "%s: a copy predicts something else after token %u", name, i);
	}
	free(theirs);
	same_counts(own, copy, name, "after decoding");
}

static void run_copy(struct kvmod_sequence *all, struct kvmod_policy *policy, const char *name, uint32_t flags)
{
	struct kvmod_session *session, *other;
	struct kvmod_sequence *own, *copy;
	struct kvmod_prompted out = { .size = sizeof(out) };

	MUST(kvmod_session_open(engine, policy, &session));
	MUST(kvmod_session_open(engine, policy, &other));
	two_prompts(session, &own, name, flags, true);
	MUST(kvmod_sequence_fork_to(all, other, 0, &copy, &out));
	ck_assert_msg(!out.status, "%s: the cut of a copy failed: %s", name, said);
	same_counts(own, copy, name, "after the cut");
	if (strcmp(name, "random") != 0)	/* draws anew for each sequence */
		same_answers(session, own, other, copy, name);
	kvmod_sequence_close(copy);
	kvmod_sequence_close(own);
	kvmod_session_close(other);
	kvmod_session_close(session);
	ck_assert_msg(!said[0], "%s says on a copy: %s", name, said);
}

/* --- all of them -------------------------------------------------------------------------------------- */

static void open_engine(const char *type)
{
	const char *name = type;

	configure(type);
	MUST(kvmod_engine_open(ctx, "ggml", &engine));
	model = kvmod_engine_model(engine);
	logits = calloc(model->n_vocab, sizeof(*logits));
	ck_assert_ptr_nonnull(logits);
	tokenize();
}

static struct kvmod_policy *open_policy_of(int i, const char **name)
{
	struct kvmod_policy *policy;
	int err;

	*name = i < n_policies ? policies[i].module->name : "fullkv";
	said[0] = '\0';
	err = kvmod_policy_open(ctx, *name, NULL, model, &policy);
	ck_assert_msg(err == KVMOD_OK, "%s: %s", *name, kvmod_error());
	return policy;
}

/*
 * The prompt is run once for all, and for a policy that needs more rows than any of them: column
 * sums, statistics of queries, norms of Wo v and rows are there, and each sees only its own.
 */
START_TEST(every_policy_on_a_copy)
{
	const char *type = types[_i], *name = type;
	struct kvmod_policy *opened[MAX_POLICIES], *rows;
	struct kvmod_sequence *all[2];
	struct kvmod_session *base;

	open_engine(type);
	ck_assert_int_lt(n_policies, MAX_POLICIES);
	MUST(kvmod_session_open(engine, NULL, &base));
	configure_with(type, "policy snapkv.window=64");
	MUST(kvmod_policy_open(ctx, "snapkv", NULL, model, &rows));
	MUST(kvmod_session_collect(base, rows));
	configure_with(type, NULL);
	for (int i = 0; i <= n_policies; i++) {
		opened[i] = open_policy_of(i, &name);
		MUST(kvmod_session_collect(base, opened[i]));
	}
	two_prompts(base, &all[0], "all", 0, false);
	two_prompts(base, &all[1], "all", KVMOD_PROMPT_CONTEXT, false);
	for (int i = 0; i <= n_policies; i++) {
		name = i < n_policies ? policies[i].module->name : "fullkv";
		run_copy(all[i % 2], opened[i], name, i % 2 ? KVMOD_PROMPT_CONTEXT : 0);
		kvmod_policy_close(opened[i]);
	}
	kvmod_sequence_close(all[1]);
	kvmod_sequence_close(all[0]);
	kvmod_session_close(base);
	kvmod_policy_close(rows);
	free(logits);
	kvmod_engine_close(engine);
	kvmod_unref(ctx);
}
END_TEST

START_TEST(every_policy)
{
	const char *type = types[_i], *name = type;

	open_engine(type);
	for (int i = 0; i <= n_policies; i++) {
		struct kvmod_policy *policy = open_policy_of(i, &name);

		run(policy, name, i < n_policies ? policies[i].most : 1, type);
		kvmod_policy_close(policy);
	}
	free(logits);
	kvmod_engine_close(engine);
	kvmod_unref(ctx);
}
END_TEST

static void add(TCase *tcase)
{
	tcase_set_timeout(tcase, 0);
	tcase_add_loop_test(tcase, every_policy_on_a_copy, 0, 1);
	tcase_add_loop_test(tcase, every_policy, 0, N_TYPES);
}

int main(void)
{
	if (!TEST_MODEL[0]) {
		puts("skipped: built without --with-model");
		return 77;
	}
	/* Threads that spin would be slow on a busy machine; OpenMP comes with the engine, later. */
	setenv("OMP_WAIT_POLICY", "passive", 0);
	return policies_run("every policy", add);
}
