/* SPDX-License-Identifier: Apache-2.0 */
/* kvmod bench engine: our engine, whole cache and cut one, against another engine. */
#include "core/cli/bench_engine.h"
#include "core/cli/run.h"

#include <stdlib.h>
#include <string.h>

struct engine_bench {
	struct cli_common common;
	const char *rival_name, *file;
	struct cli_numbers lengths;
	uint64_t threads, rounds, n_decode;

	struct cli_model model;		/* ours, with the policy */
	struct kvmod_session *full;
	struct kvmod_engine *rival;
	struct kvmod_session *rival_session;
	struct cli_tokens tokens;
	struct bench bench;
	double *times;
};

/* --- comparisons ----------------------------------------------------------------------- */

struct comparison {
	struct cli_stats ours, rival;
	double ratio;
};

static struct comparison compare(double *ours, double *rival, size_t n)
{
	struct comparison c = { .ours = cli_stats(ours, n), .rival = cli_stats(rival, n) };

	c.ratio = c.ours.median / c.rival.median;
	return c;
}

/* What one length came to. */
struct result {
	uint64_t length;
	struct comparison prefill, first_token, decode, decode_cut;
	struct cli_stats decode_short;
	double budget;
	double model, model_ratio;	/* what the kept share lets one expect, seconds a token */
};

static struct result evaluate(struct bench *b, uint64_t length)
{
	struct bench_runner *full = &b->runners[BENCH_FULL], *cut = &b->runners[BENCH_CUT];
	struct bench_runner *rival = &b->runners[BENCH_RIVAL];
	struct result r = {
		.length = length,
		.prefill = compare(full->prompt, rival->prompt, b->rounds),
		.first_token = compare(cut->prompt, rival->prompt, b->rounds),
		.decode = compare(full->decode, rival->decode, b->rounds),
		.decode_cut = compare(cut->decode, rival->decode, b->rounds),
		.decode_short = cli_stats(b->runners[BENCH_SMALL].decode, b->rounds),
		.budget = cut->budget,
	};
	double t0 = r.decode_short.median;

	r.model = t0 + r.budget * (r.decode.ours.median - t0);
	r.model_ratio = r.decode_cut.ours.median / r.model;
	return r;
}

/* --- reporting ------------------------------------------------------------------------------ */

static void print_line(const char *what, const struct comparison *c, double scale, const char *unit)
{
	printf("  %-24s %9.2f %s (%.2f to %.2f)  rival %9.2f (%.2f to %.2f)  ratio %.3f\n", what,
	       scale * c->ours.median, unit, scale * c->ours.low, scale * c->ours.high,
	       scale * c->rival.median, scale * c->rival.low, scale * c->rival.high, c->ratio);
}

static void print_result(const struct result *r)
{
	double n = (double)r->length;

	printf("%llu tokens: prefill %.1f tok/s, rival %.1f; decode %.1f tok/s, cut %.1f, rival %.1f\n",
	       (unsigned long long)r->length, n / r->prefill.ours.median, n / r->prefill.rival.median,
	       1 / r->decode.ours.median, 1 / r->decode_cut.ours.median, 1 / r->decode.rival.median);
	print_line("prefill", &r->prefill, 1e3, "ms");
	print_line("first token, decided", &r->first_token, 1e3, "ms");
	print_line("decode, full cache", &r->decode, 1e3, "ms");
	print_line("decode, cut cache", &r->decode_cut, 1e3, "ms");
	printf("  budget %.4f; %.2f ms a token at %d positions; by these %.2f ms on the cut cache: ratio %.3f\n",
	       r->budget, 1e3 * r->decode_short.median, BENCH_SHORT, 1e3 * r->model, r->model_ratio);
}

static json_t *comparison_json(const struct comparison *c)
{
	return json_pack("{s:o, s:o, s:f}", "ours_s", cli_stats_json(&c->ours),
			 "rival_s", cli_stats_json(&c->rival), "ratio", c->ratio);
}

static json_t *result_json(const struct result *r)
{
	return json_pack("{s:I, s:o, s:o, s:o, s:o, s:f, s:{s:o, s:f, s:f}}",
			 "tokens", (json_int_t)r->length,
			 "prefill", comparison_json(&r->prefill),
			 "first_token", comparison_json(&r->first_token),
			 "decode_full", comparison_json(&r->decode),
			 "decode_cut", comparison_json(&r->decode_cut),
			 "budget", r->budget,
			 "decode_cut_model", "short_s", cli_stats_json(&r->decode_short),
			 "expected_s", r->model, "ratio", r->model_ratio);
}

static json_t *head_json(const struct engine_bench *e, json_t *results)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:o}",
			 "model", e->model.about->name, "engine", e->model.ops->name,
			 "rival", e->rival_name, "policy", kvmod_policy_ops(e->model.policy)->name,
			 "threads", (json_int_t)e->threads, "rounds", (json_int_t)e->rounds,
			 "decode_tokens", (json_int_t)e->n_decode, "lengths", results);
}

/* --- measuring ------------------------------------------------------------------------------- */

static int measure_all(struct engine_bench *e)
{
	json_t *results = e->common.json ? json_array() : NULL;
	int err = CLI_OK;

	if (!results)
		printf("%s, engine %s against %s, policy %s, %llu threads, %llu rounds: medians (quartiles)\n",
		       e->model.about->name, e->model.ops->name, e->rival_name,
		       kvmod_policy_ops(e->model.policy)->name,
		       (unsigned long long)e->threads, (unsigned long long)e->rounds);
	for (size_t i = 0; i < e->lengths.n && !err; i++) {
		struct result r;

		err = bench_measure(&e->bench, e->lengths.item[i]);
		if (err)
			break;
		r = evaluate(&e->bench, e->lengths.item[i]);
		if (results)
			json_array_append_new(results, result_json(&r));
		else
			print_result(&r);
		fflush(stdout);
	}
	if (!results || err) {
		json_decref(results);
		return err;
	}
	return cli_print_json(head_json(e, results));
}

static uint64_t longest(const struct engine_bench *e)
{
	uint64_t n = e->n_decode > BENCH_SHORT ? e->n_decode : BENCH_SHORT;

	for (size_t i = 0; i < e->lengths.n; i++)
		n = e->lengths.item[i] > n ? e->lengths.item[i] : n;
	return n;
}

/* A text over and over, or without one, tokens that are spread over the vocabulary. */
static int make_tokens(struct engine_bench *e)
{
	uint64_t wanted = longest(e);
	struct cli_text text = { 0 };
	int err = CLI_OK;
	int32_t *ids;

	if (e->file)
		err = cli_read_prompt(&text, e->file, true, 0, NULL) ||
		      cli_add_raw(&e->model, &text, true, &e->tokens);
	cli_text_free(&text);
	if (err)
		return CLI_FAILED;
	ids = realloc(e->tokens.ids, (wanted + e->tokens.n) * sizeof(*ids));
	if (!ids)
		return cli_error("out of memory");
	e->tokens.ids = ids;
	for (uint64_t i = e->tokens.n; i < wanted; i++)
		ids[i] = e->tokens.n ? ids[i - e->tokens.n] :
			 (int32_t)(i * 7919 % e->model.about->n_vocab);
	return CLI_OK;
}

static int prepare(struct engine_bench *e)
{
	struct bench *b = &e->bench;
	uint32_t ours = e->model.about->n_vocab, rival = kvmod_engine_model(e->rival)->n_vocab;
	struct kvmod_session *const sessions[BENCH_RUNNERS] = {
		[BENCH_FULL] = e->full, [BENCH_CUT] = e->model.session,
		[BENCH_RIVAL] = e->rival_session, [BENCH_SMALL] = e->full,
	};

	if (make_tokens(e))
		return CLI_FAILED;
	b->tokens = e->tokens.ids;
	b->n_decode = e->n_decode;
	b->rounds = e->rounds;
	b->logits = malloc((ours > rival ? ours : rival) * sizeof(*b->logits));
	e->times = calloc(2 * BENCH_RUNNERS * e->rounds, sizeof(*e->times));
	if (!b->logits || !e->times)
		return cli_error("out of memory");
	for (size_t i = 0; i < BENCH_RUNNERS; i++)
		b->runners[i] = (struct bench_runner){
			.session = sessions[i],
			.prompt = e->times + 2 * i * e->rounds,
			.decode = e->times + (2 * i + 1) * e->rounds,
		};
	return CLI_OK;
}

static bool same_model(const struct kvmod_model *a, const struct kvmod_model *b)
{
	return a->n_vocab == b->n_vocab && a->n_layers == b->n_layers &&
	       a->n_q_heads == b->n_q_heads && a->n_kv_heads == b->n_kv_heads &&
	       a->head_dim == b->head_dim;
}

static int open_engines(struct engine_bench *e, struct kvmod_ctx *ctx)
{
	if (cli_model_open(&e->model, ctx))
		return CLI_FAILED;
	if (kvmod_session_open(e->model.engine, NULL, &e->full) ||
	    kvmod_engine_open(ctx, e->rival_name, &e->rival) ||
	    kvmod_session_open(e->rival, NULL, &e->rival_session))
		return cli_error_kvmod();
	return same_model(e->model.about, kvmod_engine_model(e->rival)) ? CLI_OK :
	       cli_error("the engines %s and %s do not run the same model", e->model.ops->name,
			 e->rival_name);
}

static int bench(struct engine_bench *e, struct kvmod_ctx *ctx)
{
	int err = open_engines(e, ctx);

	if (!err)
		err = prepare(e);
	if (!err)
		err = measure_all(e);
	bench_close_sequences(&e->bench);
	if (e->rival_session)
		kvmod_session_close(e->rival_session);
	if (e->rival)
		kvmod_engine_close(e->rival);
	if (e->full)
		kvmod_session_close(e->full);
	cli_model_close(&e->model);
	cli_tokens_free(&e->tokens);
	free(e->bench.logits);
	free(e->times);
	return err;
}

/* --- the command ---------------------------------------------------------------------------- */

/* Which engine is ours is known once the configuration was read; then it is read again. */
static int configure_both(struct engine_bench *e, struct kvmod_ctx *ctx, struct bench_shared *shared)
{
	struct cli_strings *all = &e->common.overrides;
	const struct bench_alike alike = {
		.engine = cli_engine_name(ctx),
		.rival = e->rival_name,
		.model = e->common.model,
		.threads = e->threads,
		.n_tokens = longest(e) + e->n_decode + 1,
	};

	if (bench_share(ctx, &alike, shared))
		return CLI_FAILED;
	for (size_t i = 0; i < shared->n; i++) {
		if (all->n == CLI_MAX_STRINGS)
			return cli_error("more than %zu of -o", CLI_MAX_STRINGS - shared->n);
		all->item[all->n++] = shared->item[i];
	}
	return CLI_OK;
}

static int configure_and_bench(struct engine_bench *e)
{
	struct kvmod_ctx *ctx = cli_context(&e->common);
	struct bench_shared shared = { .n = 0 };
	int err = ctx ? configure_both(e, ctx, &shared) : CLI_FAILED;

	kvmod_unref(ctx);
	ctx = err ? NULL : cli_context(&e->common);
	if (ctx)
		err = bench(e, ctx);
	else
		err = CLI_FAILED;
	kvmod_unref(ctx);
	for (size_t i = 0; i < shared.n; i++)
		free(shared.item[i]);
	return err;
}

static void check_options(const struct cli_command *self, const struct engine_bench *e)
{
	if (e->rounds < 9 || e->rounds > 1000)
		cli_usage_error(self, "--rounds=%llu: 9 to 1000 was expected",
				(unsigned long long)e->rounds);
	if (!e->threads || e->threads > 512)
		cli_usage_error(self, "--threads=%llu: 1 to 512 was expected",
				(unsigned long long)e->threads);
	if (!e->n_decode || e->n_decode > 4096)
		cli_usage_error(self, "--decode=%llu: 1 to 4096 was expected",
				(unsigned long long)e->n_decode);
	for (size_t i = 0; i < e->lengths.n; i++)
		if (!e->lengths.item[i])
			cli_usage_error(self, "--lengths: a prompt has at least one token");
}

static int run(const struct cli_command *self, int argc, char **argv)
{
	struct engine_bench e = {
		.rival_name = "llama",
		.lengths = { .n = 2, .item = { 512, 2048 } },
		.threads = 2,
		.rounds = 9,
		.n_decode = 32,
	};
	const struct cli_option options[] = {
		{ "rival", 0, CLI_STRING, &e.rival_name, "ENGINE", "the engine to measure against [llama]" },
		{ "lengths", 0, CLI_NUMBERS, &e.lengths, "N,N...", "tokens of the prompts [512,2048]" },
		{ "decode", 0, CLI_NUMBER, &e.n_decode, "N", "tokens decoded in a round [32]" },
		{ "threads", 0, CLI_NUMBER, &e.threads, "N", "of both engines [2]" },
		{ "rounds", 0, CLI_NUMBER, &e.rounds, "N", "at least 9 [9]" },
		{ "file", 'f', CLI_STRING, &e.file, "FILE", "prompts from this text, over and over; - is stdin" },
		{ 0 }
	};
	int first = cli_parse(self, &e.common, options, argc, argv);

	if (first < argc)
		cli_usage_error(self, "`%s`: no operand was expected", argv[first]);
	check_options(self, &e);
	return configure_and_bench(&e);
}

const struct cli_command cli_bench_engine = {
	.name = "bench engine",
	.run = run,
	.summary = "prefill and decoding of the engine against another one",
	.operands = "",
	.details =
"Both engines run the same model and tokens with the same threads, batch and\n"
"cache_type: those of our engine. Rounds alternate; each decodes on a fresh copy of the\n"
"sequence, after a token that does not count. `first token`\n"
"has the policy's decision and the cut in it, `cut cache` decodes on what it kept. A\n"
"ratio is our time over the rival's. The last line of a length holds the cut cache\n"
"against what the kept share lets one expect: t0 + share * (full - t0), where t0 is\n"
"the time a token takes at 64 positions. Without -f the tokens mean nothing, and so\n"
"does what a policy keeps of them.\n",
	.takes = CLI_TAKES_CONFIG | CLI_TAKES_MODEL | CLI_TAKES_POLICY | CLI_TAKES_JSON,
};
