/* SPDX-License-Identifier: Apache-2.0 */
/* kvmod bench engine: our engine, whole cache and cut one, against another engine. */
#include "core/bench/engine.h"
#include "core/cli/run.h"

#include <stdlib.h>
#include <string.h>

/*
 * Tokens decoded in a round, and before it: a device takes a few steps until it has
 * all that it will use again, and its steps are short.
 */
#define HOST_DECODE	32
#define HOST_WARM	1
#define DEVICE_DECODE	128
#define DEVICE_WARM	8
#define NOT_SAID	UINT64_MAX

struct engine_bench {
	struct cli_common common;
	const char *rival_name, *file;
	struct cli_numbers lengths;
	uint64_t threads, rounds, prompts, n_decode;

	struct cli_model model;		/* ours, with the policy */
	struct kvmod_session *full;
	struct kvmod_engine *rival;
	struct kvmod_session *rival_session;
	struct cli_tokens tokens;
	struct bench bench;
	double *times;
};

/* --- the answer ------------------------------------------------------------------------------ */

static json_t *head_json(const struct engine_bench *e, json_t *results)
{
	char ours[BENCH_PLACE_ROOM], rival[BENCH_PLACE_ROOM];

	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:f, s:I, s:o}",
			 "model", e->model.about->name, "engine", e->model.ops->name,
			 "engine_on", bench_place_name(e->model.about, ours),
			 "rival", e->rival_name,
			 "rival_on", bench_place_name(kvmod_engine_model(e->rival), rival),
			 "policy", kvmod_policy_ops(e->model.policy)->name,
			 "policy_on", kvmod_policy_device(e->model.policy),
			 "threads", (json_int_t)e->threads, "rounds", (json_int_t)e->rounds,
			 "decode_tokens", (json_int_t)e->bench.n_decode,
			 "read_gb_per_s", 1e-9 * e->bench.read_rate,
			 "weights_bytes", (json_int_t)e->bench.weights, "lengths", results);
}

static void print_head(const struct engine_bench *e)
{
	char ours[BENCH_PLACE_ROOM], rival[BENCH_PLACE_ROOM], bytes[CLI_BYTES_ROOM];

	printf("%s, engine %s (%s) against %s (%s), policy %s (%s), %llu threads, %llu rounds of %llu tokens: medians (quartiles)\n",
	       e->model.about->name, e->model.ops->name, bench_place_name(e->model.about, ours),
	       e->rival_name, bench_place_name(kvmod_engine_model(e->rival), rival),
	       kvmod_policy_ops(e->model.policy)->name, kvmod_policy_device(e->model.policy),
	       (unsigned long long)e->threads, (unsigned long long)e->rounds,
	       (unsigned long long)e->bench.n_decode);
	if (e->bench.read_rate > 0)
		printf("one read of %s: %.0f GB/s; the model's file has %s\n",
		       e->bench.device.ops->name, 1e-9 * e->bench.read_rate,
		       cli_bytes(e->bench.weights, bytes));
}

/* --- measuring ------------------------------------------------------------------------------- */

static int measure_all(struct engine_bench *e)
{
	json_t *results = e->common.json ? json_array() : NULL;
	int err = CLI_OK;

	if (!results)
		print_head(e);
	for (size_t i = 0; i < e->lengths.n && !err; i++) {
		struct bench_result r;

		err = bench_measure(&e->bench, e->lengths.item[i]);
		if (err)
			break;
		r = bench_evaluate(&e->bench, e->lengths.item[i]);
		if (!results)
			bench_print_result(&r);
		else if (json_array_append_new(results, bench_result_json(&r)))
			err = cli_error("out of memory");
		fflush(stdout);
	}
	if (!results || err) {
		json_decref(results);
		return err;
	}
	return cli_print_json(head_json(e, results));
}

/* Tokens that may be decoded; where the engine runs is known later. */
static uint64_t decode_room(const struct engine_bench *e)
{
	return DEVICE_WARM + (e->n_decode == NOT_SAID ? DEVICE_DECODE : e->n_decode);
}

static uint64_t longest(const struct engine_bench *e)
{
	uint64_t n = decode_room(e) > BENCH_SHORT ? decode_room(e) : BENCH_SHORT;

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
	b->n_decode = e->n_decode != NOT_SAID ? e->n_decode :
		      b->device.ops ? DEVICE_DECODE : HOST_DECODE;
	b->n_warm = b->device.ops ? DEVICE_WARM : HOST_WARM;
	b->rounds = e->rounds;
	b->prompts = e->prompts ? e->prompts : e->rounds;
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
	if (!same_model(e->model.about, kvmod_engine_model(e->rival)))
		return cli_error("the engines %s and %s do not run the same model",
				 e->model.ops->name, e->rival_name);
	return bench_open_device(&e->bench, ctx, e->model.about, e->rival_name);
}

static int bench(struct engine_bench *e, struct kvmod_ctx *ctx)
{
	int err = open_engines(e, ctx);

	if (!err)
		err = prepare(e);
	if (!err)
		err = measure_all(e);
	bench_close_sequences(&e->bench);
	bench_close_device(&e->bench);
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
		.n_tokens = longest(e) + decode_room(e),
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
	if (e->prompts > e->rounds)
		cli_usage_error(self, "--prompts=%llu: at most --rounds (%llu) was expected",
				(unsigned long long)e->prompts, (unsigned long long)e->rounds);
	if (e->n_decode != NOT_SAID && (!e->n_decode || e->n_decode > 4096))
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
		.n_decode = NOT_SAID,
	};
	const struct cli_option options[] = {
		{ "rival", 0, CLI_STRING, &e.rival_name, "ENGINE", "the engine to measure against [llama]" },
		{ "lengths", 0, CLI_NUMBERS, &e.lengths, "N,N...", "tokens of the prompts [512,2048]" },
		{ "decode", 0, CLI_NUMBER, &e.n_decode, "N", "tokens decoded in a round [32; on a device 128]" },
		{ "threads", 0, CLI_NUMBER, &e.threads, "N", "of both engines [2]" },
		{ "rounds", 0, CLI_NUMBER, &e.rounds, "N", "at least 9 [9]" },
		{ "prompts", 0, CLI_NUMBER, &e.prompts, "N", "of the rounds so many run prompts; 0: all [0]" },
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
"the time a token takes at 64 positions. On a device, `bytes` holds decoding against one\n"
"plain read of the model's file and the cached K and V. Without -f the tokens mean\n"
"nothing, and so does what a policy keeps of them.\n",
	.takes = CLI_TAKES_CONFIG | CLI_TAKES_MODEL | CLI_TAKES_POLICY | CLI_TAKES_JSON,
};
