/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvmod heads: measures how much a model's predictions lose when a KV head becomes a streaming
 * head, one head after the other, and prints the head table that the policy duo reads.
 */
#include "core/cli/heads.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TEXTS	64
#define MAX_ROWS	512		/* so many distributions over the vocabulary are in memory */
#define MAX_LENGTH	(1 << 24)
#define DEFAULT_LENGTH	2048
#define ROWS_OF_FILE	64

/* A text in the model's cache, and a plan for it. */
struct text {
	struct kvmod_sequence *sequence;
	struct kvmod_request request;
	struct kvmod_plan *plan;
	uint32_t n_rows;		/* of its last tokens, which are run again */
};

struct heads {
	const struct cli_command *self;
	struct cli_common common;
	struct cli_strings files;
	uint64_t n_texts, length, rows, seed;
	bool raw;

	struct cli_model model;		/* without a policy */
	struct text texts[MAX_TEXTS];
	size_t n_heads;			/* of all layers */
	uint8_t *streams;		/* [n_heads]: is it a streaming head in this trial? */
	struct cli_heads_measured measured;
	struct cli_progress progress;	/* over all trials */
	uint64_t n_trials;
};

/* --- a trial: some heads are streaming heads --------------------------------------------- */

static bool streams(const struct heads *h, const struct kvmod_segment *segment, uint32_t g)
{
	return h->streams[(size_t)segment->layer * h->model.about->n_kv_heads + g];
}

/* The newest positions are those before the tokens that are run again. */
static void plan_head(const struct heads *h, const struct text *text, uint32_t i, uint32_t g)
{
	const struct kvmod_segment *segment = kvmod_segment_at(&text->request, i);
	struct kvmod_keep *keep = kvmod_keep_at(text->plan, i);
	uint32_t *indices = keep->indices + g * keep->index_stride, n = kvmod_head_at(segment, g)->n;
	uint64_t sinks = h->measured.sinks, recent = h->measured.recent + text->n_rows;
	uint32_t n_kept = 0;

	for (uint32_t at = 0; at < n; at++)
		if (!streams(h, segment, g) || at < sinks || n - at <= recent)
			indices[n_kept++] = at;
	keep->counts[g] = n_kept;
}

static int make_plan(const struct heads *h, const struct text *text)
{
	for (uint32_t i = 0; i < text->request.n_segments; i++) {
		const struct kvmod_segment *segment = kvmod_segment_at(&text->request, i);

		kvmod_keep_at(text->plan, i)->kind = KVMOD_KEEP_ALL;
		for (uint32_t g = 0; g < segment->n_kv_heads; g++)
			if (streams(h, segment, g))
				kvmod_keep_at(text->plan, i)->kind = KVMOD_KEEP_HEADS;
		for (uint32_t g = 0; g < segment->n_kv_heads; g++)
			if (kvmod_keep_at(text->plan, i)->kind == KVMOD_KEEP_HEADS)
				plan_head(h, text, i, g);
		if (kvmod_plan_check(&text->request, text->plan, i, 0))
			return cli_error_kvmod();
	}
	return CLI_OK;
}

/* A call of the engine's own, whose message does not name the engine. */
static int engine_failed(const struct heads *h, int err)
{
	if (cli_interrupted())
		return cli_error("stopped on request: there is no table");
	return cli_error("engine %s: %s", h->model.ops->name,
			 *kvmod_error() ? kvmod_error() : kvmod_strerror(err));
}

static int replay(struct heads *h, const struct text *text, double *loss)
{
	int err = make_plan(h, text);

	*loss = NAN;
	if (err)
		return err;
	kvmod_error_forget();
	err = text->request.replay(&text->request, text->plan, text->n_rows, loss);
	if (err || cli_interrupted())
		return engine_failed(h, err);
	if (!isfinite(*loss))
		return cli_error("engine %s: replay() answered %g, expected a finite number",
				 h->model.ops->name, *loss);
	cli_progress_to(&h->progress, ++h->n_trials);
	return CLI_OK;
}

/* The mean of all texts. */
static int try_streams(struct heads *h, double *loss)
{
	double sum = 0, one;

	for (uint64_t i = 0; i < h->n_texts; i++) {
		if (replay(h, &h->texts[i], &one))
			return CLI_FAILED;
		sum += one;
	}
	*loss = sum / (double)h->n_texts;
	return CLI_OK;
}

/* --- all trials ---------------------------------------------------------------------------- */

/* A head's score is the loss if it alone is a streaming head. */
static int score_heads(struct heads *h)
{
	double *scores = h->measured.scores;

	for (size_t i = 0; i < h->n_heads; i++) {
		if (isnan(scores[i]))
			continue;
		h->streams[i] = 1;
		if (try_streams(h, &scores[i]))
			return CLI_FAILED;
		h->streams[i] = 0;
	}
	return CLI_OK;
}

/* How many heads come before head i, by their scores. */
static size_t rank_of(const struct heads *h, size_t i)
{
	const double *scores = h->measured.scores;
	size_t rank = 0;

	for (size_t j = 0; j < h->n_heads; j++)
		rank += scores[j] > scores[i] || (scores[j] == scores[i] && j < i);
	return rank;
}

/* As the policy would have it: the loss if only that share of the heads keeps everything. */
static int try_share(struct heads *h, struct cli_heads_loss *loss)
{
	const double *scores = h->measured.scores;
	size_t n = 0;

	for (size_t i = 0; i < h->n_heads; i++)
		n += !isnan(scores[i]);
	for (size_t i = 0; i < h->n_heads; i++)
		h->streams[i] = !isnan(scores[i]) &&
				rank_of(h, i) >= (size_t)(loss->retrieval * (double)n);
	return try_streams(h, &loss->nats);
}

static int measure(struct heads *h)
{
	static const double shares[CLI_HEADS_LOSSES] = { 0.5, 0.25, 0 };
	int err;

	cli_progress_begin(&h->progress, "heads", (h->n_heads + CLI_HEADS_LOSSES) * h->n_texts);
	err = score_heads(h);
	for (int i = 0; i < CLI_HEADS_LOSSES && !err; i++) {
		h->measured.losses[i].retrieval = shares[i];
		err = try_share(h, &h->measured.losses[i]);
	}
	cli_progress_end(&h->progress);
	return err;
}

/* --- texts ----------------------------------------------------------------------------------- */

static int read_file(const struct heads *h, const char *file, struct cli_tokens *tokens)
{
	struct cli_text text = { 0 };
	int err = cli_read_prompt(&text, file, true, 0, NULL);

	if (!err)
		err = cli_add_raw(&h->model, &text, true, tokens);
	cli_text_free(&text);
	return err;
}

/* The tokens of text i, and how many of the last ones are to be run again. */
static int make_tokens(const struct heads *h, uint64_t i, struct cli_tokens *tokens, size_t *n_rows)
{
	const struct cli_heads_text text = {
		.seed = h->seed + i, .length = h->length, .raw = h->raw,
	};
	uint64_t least;
	int err;

	*n_rows = ROWS_OF_FILE;
	err = h->files.n ? read_file(h, h->files.item[i], tokens) :
			   cli_heads_passkeys(&h->model, &text, tokens, n_rows);
	if (h->rows)
		*n_rows = h->rows;
	least = *n_rows + h->measured.sinks + h->measured.recent;
	if (!err && tokens->n <= least)
		return cli_error("text %llu has %zu tokens: expected more than %llu (%llu sinks, "
				 "%llu recent ones, and the last %zu, which are compared)",
				 (unsigned long long)i + 1, tokens->n, (unsigned long long)least,
				 (unsigned long long)h->measured.sinks,
				 (unsigned long long)h->measured.recent, *n_rows);
	return err;
}

static int run_tokens(struct heads *h, struct text *text, uint64_t i, const struct cli_tokens *tokens)
{
	struct kvmod_prompted prompted = { .size = sizeof(prompted) };
	char label[32];
	struct cli_progress progress;
	const struct kvmod_prompt prompt = {
		.size = sizeof(prompt),
		.tokens = tokens->ids,
		.n_tokens = tokens->n,
		.progress = cli_progress_or_stop,
		.progress_arg = &progress,
	};
	int err;

	snprintf(label, sizeof(label), "text %llu of %llu", (unsigned long long)i + 1,
		 (unsigned long long)h->n_texts);
	if (kvmod_sequence_open(h->model.session, &text->sequence))
		return cli_error_kvmod();
	cli_progress_begin(&progress, label, tokens->n);
	err = kvmod_sequence_prompt(text->sequence, &prompt, &prompted);
	cli_progress_end(&progress);
	if (err == KVMOD_ECANCELED)
		return cli_error("stopped on request: there is no table");
	return err ? cli_error_kvmod() : CLI_OK;
}

/* What the engine says of the text's cache; the text stays as it is from here on. */
static int ask_engine(struct heads *h, struct text *text)
{
	const struct kvmod_engine_ops *ops = h->model.ops;
	int err;

	text->request = (struct kvmod_request){ .size = sizeof(text->request) };
	kvmod_error_forget();
	err = ops->request(h->model.instance, kvmod_sequence_engine_seq(text->sequence),
			   &text->request);
	if (err)
		return engine_failed(h, err);
	if (!text->request.replay)
		return cli_error("engine %s cannot run tokens again over a part of the cache, which "
				 "is how heads are measured", ops->name);
	return kvmod_plan_new(&text->request, &text->plan) ? cli_error_kvmod() : CLI_OK;
}

static int prepare(struct heads *h, uint64_t i)
{
	struct text *text = &h->texts[i];
	struct cli_tokens tokens = { 0 };
	size_t n_rows;
	int err = make_tokens(h, i, &tokens, &n_rows);

	if (!err)
		err = run_tokens(h, text, i, &tokens);
	if (!err)
		err = ask_engine(h, text);
	text->n_rows = (uint32_t)n_rows;
	h->measured.n_tokens += tokens.n;
	h->measured.n_rows += n_rows;
	cli_tokens_free(&tokens);
	return err;
}

/* --- all of it ------------------------------------------------------------------------------ */

/* Layers that no request names cache only a window: there is nothing to measure. */
static int make_scores(struct heads *h)
{
	const struct kvmod_model *about = h->model.about;
	const struct kvmod_request *request = &h->texts[0].request;

	h->measured.scores = cli_alloc(h->n_heads * sizeof(*h->measured.scores));
	h->streams = cli_alloc(h->n_heads);
	memset(h->streams, 0, h->n_heads);
	for (size_t i = 0; i < h->n_heads; i++)
		h->measured.scores[i] = NAN;
	for (uint32_t i = 0; i < request->n_segments; i++) {
		const struct kvmod_segment *segment = kvmod_segment_at(request, i);

		if (segment->layer >= about->n_layers || segment->n_kv_heads != about->n_kv_heads)
			return cli_error("engine %s: the request has layer %u with %u KV heads, the model "
					 "%u layers with %u", h->model.ops->name, segment->layer,
					 segment->n_kv_heads, about->n_layers, about->n_kv_heads);
		for (uint32_t g = 0; g < about->n_kv_heads; g++)
			h->measured.scores[(size_t)segment->layer * about->n_kv_heads + g] = 0;
	}
	return CLI_OK;
}

static int open_model(struct heads *h, struct kvmod_ctx *ctx)
{
	struct cli_model *m = &h->model;

	if (cli_model_open_whole(m, ctx))
		return CLI_FAILED;
	h->measured.model = m->about;
	h->n_heads = (size_t)m->about->n_layers * m->about->n_kv_heads;
	if (!h->length)
		h->length = m->about->context < DEFAULT_LENGTH ? m->about->context : DEFAULT_LENGTH;
	return CLI_OK;
}

static void close_all(struct heads *h, struct kvmod_ctx *ctx)
{
	cli_release_interrupt();
	for (uint64_t i = 0; i < h->n_texts; i++) {
		kvmod_plan_free(h->texts[i].plan);
		kvmod_sequence_close(h->texts[i].sequence);
	}
	cli_model_close(&h->model);
	free(h->measured.scores);
	free(h->streams);
	kvmod_unref(ctx);
}

static void report(const struct heads *h)
{
	const struct cli_heads_measured *m = &h->measured;

	fprintf(stderr, "%zu heads, measured on %llu tokens of %llu text%s in %.0f s\n", h->n_heads,
		(unsigned long long)m->n_tokens, (unsigned long long)m->n_texts,
		m->n_texts == 1 ? "" : "s", m->seconds);
	for (int i = 0; i < CLI_HEADS_LOSSES; i++)
		fprintf(stderr, "with retrieval = %.2f a prediction loses %.4f nats\n",
			m->losses[i].retrieval, m->losses[i].nats);
}

static int measure_all(struct heads *h)
{
	double begin = cli_now();
	int err = CLI_OK;

	cli_catch_interrupt(&h->model);
	for (uint64_t i = 0; i < h->n_texts && !err; i++)
		err = prepare(h, i);
	if (!err)
		err = make_scores(h);
	if (!err)
		err = measure(h);
	h->measured.n_texts = h->n_texts;
	h->measured.seconds = cli_now() - begin;
	return err;
}

static int run_all(struct heads *h)
{
	struct kvmod_ctx *ctx = cli_context(&h->common);
	int err;

	if (!ctx)
		return CLI_FAILED;
	err = open_model(h, ctx);
	if (!err)
		err = measure_all(h);
	if (!err && h->common.json) {
		err = cli_heads_print_json(&h->measured);
	} else if (!err) {
		cli_heads_print(&h->measured);
		report(h);
	}
	close_all(h, ctx);
	return err;
}

static void check_most(const struct heads *h, const char *option, uint64_t value, uint64_t most)
{
	if (value > most)
		cli_usage_error(h->self, "--%s=%llu: expected at most %llu", option,
				(unsigned long long)value, (unsigned long long)most);
}

static void check_options(struct heads *h)
{
	if (h->files.n)
		h->n_texts = h->files.n;
	if (h->n_texts < 1 || h->n_texts > MAX_TEXTS)
		cli_usage_error(h->self, "--texts=%llu: expected 1 to %d",
				(unsigned long long)h->n_texts, MAX_TEXTS);
	check_most(h, "rows", h->rows, MAX_ROWS);
	check_most(h, "length", h->length, MAX_LENGTH);
	check_most(h, "sinks", h->measured.sinks, MAX_LENGTH);
	check_most(h, "recent", h->measured.recent, MAX_LENGTH);
}

static int run(const struct cli_command *self, int argc, char **argv)
{
	struct heads h = {
		.self = self,
		.n_texts = 3,
		.measured = { .sinks = 128, .recent = 256 },
	};
	const struct cli_option options[] = {
		{ "texts", 0, CLI_NUMBER, &h.n_texts, "N", "measure on N texts [3]" },
		{ "length", 0, CLI_NUMBER, &h.length, "N", "tokens of a text [2048, or the context if that is less]" },
		{ "seed", 0, CLI_NUMBER, &h.seed, "N", "seed of the texts: same seed, same texts [0]" },
		{ "raw", 0, CLI_FLAG, &h.raw, NULL, "run the texts without the chat template" },
		{ "file", 'f', CLI_STRINGS, &h.files, "FILE", "measure on the text in FILE instead; may be repeated" },
		{ "rows", 0, CLI_NUMBER, &h.rows, "N", "last tokens to compare [the passkeys; 64 with -f]" },
		{ "sinks", 0, CLI_NUMBER, &h.measured.sinks, "N", "oldest positions that a streaming head keeps [128]" },
		{ "recent", 0, CLI_NUMBER, &h.measured.recent, "N", "newest positions that a streaming head keeps [256]" },
		{ 0 }
	};
	int first = cli_parse(self, &h.common, options, argc, argv);

	if (first != argc)
		cli_usage_error(self, "`%s`: expected no operand; a text comes with -f", argv[first]);
	check_options(&h);
	return run_all(&h);
}

const struct cli_command cli_heads = {
	.name = "heads",
	.run = run,
	.summary = "measure a model's KV heads, and print the head table of the policy duo",
	.operands = "",
	.details =
"A head's score is what the predictions of a text's last tokens lose, in nats a token, if\n"
"that head alone keeps only sinks and recent positions before them. The texts are filler\n"
"sentences with passkeys between them, and end with the passkeys. Each head costs one run\n"
"of the last tokens of each text; all texts stay in the cache meanwhile.\n",
	.takes = CLI_TAKES_CONFIG | CLI_TAKES_MODEL | CLI_TAKES_JSON,
};
