/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Measures what is read of a context when it is repeated, or when something is asked about it:
 * on a scratch copy, tokens that ask for a part of the context and repeat it, or a question and
 * the model's answer, are run after everything cached, and the largest attention that they pay
 * to each position is handed out.
 */
#include "runtime.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* For a later part, the tokens before it show where it begins. */
#define HINT 8u

/* --- the tokens ---------------------------------------------------------------------- */

struct run {
	struct gg_engine *engine;
	int32_t *tokens;
	size_t n;
};

/* Makes room for n more tokens; they are the caller's to fill in. NULL: not enough memory. */
static int32_t *add(struct run *run, size_t n)
{
	int32_t *tokens = realloc(run->tokens, (run->n + n + 1) * sizeof(*tokens));

	if (!tokens)
		return NULL;
	run->tokens = tokens;
	run->n += n;
	return tokens + run->n - n;
}

static int32_t no_memory(const struct run *run)
{
	return gg_fail(run->engine, KVMOD_ENOMEM, "no memory to repeat the context");
}

static int32_t add_tokens(struct run *run, const int32_t *tokens, size_t n)
{
	int32_t *to = add(run, n);

	if (!to)
		return no_memory(run);
	memcpy(to, tokens, n * sizeof(*to));
	return KVMOD_OK;
}

static int32_t add_text(struct run *run, const char *text)
{
	size_t n = 0, length = strlen(text);
	int32_t code = gg_tokenize(run->engine, text, length, 0, NULL, &n), *to;

	if (code != KVMOD_ERANGE)
		return code;
	to = add(run, n);
	return to ? gg_tokenize(run->engine, text, length, 0, to, &n) : no_memory(run);
}

/* What the template puts between a user's text and the answer; a model without one: nothing. */
static int32_t add_closing(struct run *run)
{
	const struct kvmod_message empty = { .role = "user", .text = "" };
	size_t n = 0;
	int32_t code = gg_chat_part(run->engine, &empty, 1, 0, KVMOD_CHAT_QUESTION, NULL, &n, NULL), *to;

	if (code != KVMOD_ERANGE)
		return code == KVMOD_ENOTSUP ? KVMOD_OK : code;
	to = add(run, n);
	return to ? gg_chat_part(run->engine, &empty, 1, 0, KVMOD_CHAT_QUESTION, to, &n, NULL) :
		    no_memory(run);
}

int32_t gg_reread_tokens(struct kvmod_seq *seq, const struct kvmod_reread *what, uint64_t opening,
			 int32_t **tokens, uint32_t *n)
{
	struct run run = { .engine = seq->engine };
	uint64_t hint = what->begin < HINT ? what->begin : HINT;
	int32_t code;

	if (what->begin <= opening)
		code = add_text(&run, "\n\nRepeat the previous context exactly.");
	else
		code = add_text(&run, "\n\nRepeat the part of the previous context exactly, "
				      "starting with");
	if (!code && what->begin > opening)
		code = add_tokens(&run, seq->tokens + what->begin - hint, hint);
	if (!code)
		code = add_closing(&run);
	if (!code)
		code = add_tokens(&run, seq->tokens + what->begin, what->end - what->begin);
	if (code) {
		free(run.tokens);
		return code;
	}
	*tokens = run.tokens;
	*n = (uint32_t)run.n;
	return KVMOD_OK;
}

/* --- the run -------------------------------------------------------------------------- */

/* A copy of seq with room for n tokens, and for what they pay in GG_COLUMN_SUMS. */
static int32_t copy_to_run(struct kvmod_seq *seq, const struct kvmod_reread *what, uint32_t n,
			   struct kvmod_seq **out)
{
	const struct gg_columns maxima = {
		.on = true, .reduce = KVMOD_COLUMNS_MAX, .sinks = what->sinks,
		.begin = what->begin, .end = what->end, .run = seq->logical,
	};
	struct gg_engine *engine = seq->engine;
	struct kvmod_seq *copy;
	int32_t code = gg_seq_copy(seq, NULL, 0, seq->logical, n, &copy);

	if (code)
		return code;
	if (!gg_columns_new(copy, &maxima) || !gg_queries_new(copy, n, 0, false)) {
		gg_seq_close(engine, copy);
		return gg_fail(engine, KVMOD_ENOMEM, "no memory for the queries of %u tokens", n);
	}
	*out = copy;
	return KVMOD_OK;
}

/* The last rows that were run are added to the maxima. */
static int32_t settle(struct kvmod_seq *copy)
{
	gg_columns_settle(copy);
	if (copy->columns.on)
		return KVMOD_OK;
	return gg_fail(copy->engine, copy->columns.lost, "%s the attention that the tokens pay",
		       copy->columns.lost == KVMOD_ENOMEM ? "no memory to compute" :
							    "the device could not compute");
}

/* The maxima of one layer, [n_kv_heads][room], from the GPU if they are there. */
static int32_t fetch(const struct kvmod_seq *copy, uint32_t layer, float *host, const float **maxima)
{
	struct gg_engine *engine = copy->engine;
	const struct kvmod_device_ops *ops = engine->gpu.ops;
	const struct gg_cache *cache = &copy->caches[layer];
	const void *address = cache->extras[GG_COLUMN_SUMS].address;
	size_t bytes = engine->net.n_kv_heads * sizeof(float) * gg_cache_room(engine, cache);
	int32_t code;

	*maxima = address;
	if (gg_side_of(engine, layer) == GG_HOST)
		return KVMOD_OK;
	*maxima = host;
	code = ops->to_host(engine->gpu.self, NULL, host, address, bytes);
	return code ? code : ops->synchronize(engine->gpu.self, NULL);
}

/* Positions that a head no longer caches stay 0. */
static void place(const struct kvmod_seq *copy, uint32_t layer, const struct kvmod_reread *what,
		  const float *maxima, float *out)
{
	const struct gg_engine *engine = copy->engine;
	const struct gg_cache *cache = &copy->caches[layer];
	uint64_t n = what->end - what->begin;

	for (uint32_t g = 0; g < engine->net.n_kv_heads; g++, out += n) {
		const int32_t *positions = cache->positions ? cache->positions + cache->first[g] : NULL;
		uint32_t end = gg_rows_before(cache, g, what->end);

		for (uint32_t i = gg_rows_before(cache, g, what->begin); i < end; i++)
			out[(positions ? (uint64_t)positions[i] : i) - what->begin] =
				maxima[(size_t)g * gg_cache_room(engine, cache) + i];
	}
}

static int32_t hand_out(const struct kvmod_seq *copy, const struct kvmod_request *request,
			const struct kvmod_reread *what, float *out)
{
	struct gg_engine *engine = copy->engine;
	size_t n = engine->net.n_kv_heads * (size_t)(what->end - what->begin), most = 0, room;
	int32_t code = KVMOD_OK;
	float *host;

	for (uint32_t i = 0; i < engine->net.n_layers; i++) {
		room = gg_cache_room(engine, &copy->caches[i]);
		most = room > most ? room : most;
	}
	host = malloc(engine->net.n_kv_heads * most * sizeof(*host));
	if (!host)
		return gg_fail(engine, KVMOD_ENOMEM, "no memory to repeat the context");
	memset(out, 0, request->n_segments * n * sizeof(*out));
	for (uint32_t i = 0; !code && i < request->n_segments; i++) {
		uint32_t layer = kvmod_segment_at(request, i)->layer;
		const float *maxima;

		code = fetch(copy, layer, host, &maxima);
		if (!code)
			place(copy, layer, what, maxima, out + i * n);
	}
	free(host);
	return code;
}

int32_t gg_reread_run(const struct kvmod_request *request, const struct kvmod_reread *what,
		      const int32_t *tokens, uint32_t n, float *out)
{
	struct kvmod_seq *seq = request->replay_ctx, *copy;
	struct gg_engine *engine = seq->engine;
	int32_t code;

	if (n > gg_seq_room(engine, seq))
		return gg_fail(engine, KVMOD_ERANGE,
			       "cannot repeat positions %llu to %llu: %u more and %llu cached tokens exceed "
			       "the context of %llu",
			       (unsigned long long)what->begin, (unsigned long long)what->end - 1, n,
			       (unsigned long long)gg_seq_extent(seq), (unsigned long long)engine->limit);
	code = copy_to_run(seq, what, n, &copy);
	if (code)
		return code;
	code = gg_run_tokens(engine, copy, tokens, n, NULL, 0);
	if (!code)
		code = settle(copy);
	if (!code)
		code = hand_out(copy, request, what, out);
	gg_seq_close(engine, copy);
	return code;
}

int32_t gg_reread(const struct kvmod_request *request, const struct kvmod_reread *what, float *out)
{
	struct kvmod_seq *seq = request->replay_ctx;
	uint64_t opening = KVMOD_HAS(request, opening) ? request->opening : 0;
	int32_t *tokens, code;
	uint32_t n;

	if (what->begin >= what->end || what->end > seq->logical)
		return gg_fail(seq->engine, KVMOD_EINVAL,
			       "cannot repeat positions %llu to %llu: the sequence has %llu",
			       (unsigned long long)what->begin, (unsigned long long)what->end,
			       (unsigned long long)seq->logical);
	code = gg_reread_tokens(seq, what, opening, &tokens, &n);
	if (code)
		return code;
	code = gg_reread_run(request, what, tokens, n, out);
	free(tokens);
	return code;
}

/* --- a question ------------------------------------------------------------------------ */

/* NaN is nobody's likeliest token: the policy is told, and nothing is cut. */
static int32_t likeliest(const struct gg_engine *engine, const float *logits, int32_t *token)
{
	uint32_t n = (uint32_t)engine->net.dims[GG_VOCAB], best = 0;

	for (uint32_t i = 0; i < n; i++) {
		if (isnan(logits[i]))
			return gg_fail(engine, KVMOD_ENUMERIC, "the logits are not finite");
		best = logits[i] > logits[best] ? i : best;
	}
	*token = (int32_t)best;
	return KVMOD_OK;
}

static bool ends(const struct gg_engine *engine, int32_t token)
{
	for (uint32_t i = 0; i < engine->text.n_end_tokens; i++)
		if (engine->text.end_tokens[i] == token)
			return true;
	return false;
}

/* Runs the question, and then the answer as the model gives it, whose tokens are added to run. */
static int32_t run_and_answer(struct run *run, struct kvmod_seq *copy, uint32_t n_answer)
{
	struct gg_engine *engine = run->engine;
	float *logits = malloc((size_t)engine->net.dims[GG_VOCAB] * sizeof(*logits));
	size_t done = 0;
	int32_t code = logits ? KVMOD_OK : no_memory(run);

	for (uint32_t i = 0; !code; i++) {
		uint32_t n = (uint32_t)(run->n - done);
		int32_t token = 0;

		code = gg_run_tokens(engine, copy, run->tokens + done, n, logits, 1);
		done = run->n;
		if (code || i == n_answer)
			break;
		code = likeliest(engine, logits, &token);
		if (code || ends(engine, token))
			break;
		code = add_tokens(run, &token, 1);
	}
	free(logits);
	return code;
}

static int32_t ask(struct run *run, const struct kvmod_request *request, const struct kvmod_ask *what, float *out)
{
	struct kvmod_seq *seq = request->replay_ctx, *copy;
	const struct kvmod_reread everything = { .size = sizeof(everything), .end = seq->logical };
	uint64_t room = gg_seq_room(run->engine, seq);
	int32_t code;

	if (run->n + what->n_answer > room)
		return gg_fail(run->engine, KVMOD_ERANGE,
			       "cannot ask: a question of %zu tokens, an answer of %u and %llu cached tokens "
			       "exceed the context of %llu", run->n, what->n_answer,
			       (unsigned long long)gg_seq_extent(seq), (unsigned long long)run->engine->limit);
	code = copy_to_run(seq, &everything, (uint32_t)run->n + what->n_answer, &copy);
	if (code)
		return code;
	code = run_and_answer(run, copy, what->n_answer);
	if (!code)
		code = settle(copy);
	if (!code)
		code = hand_out(copy, request, &everything, out);
	gg_seq_close(run->engine, copy);
	return code;
}

int32_t gg_ask(const struct kvmod_request *request, const struct kvmod_ask *what, float *out)
{
	struct kvmod_seq *seq = request->replay_ctx;
	struct run run = { .engine = seq->engine };
	int32_t code = add_text(&run, what->question);

	if (!code)
		code = add_closing(&run);
	if (!code && !run.n)
		code = gg_fail(run.engine, KVMOD_EINVAL, "cannot ask: the question has no tokens");
	if (!code)
		code = ask(&run, request, what, out);
	if (code) {
		free(run.tokens);
		return code;
	}
	gg_seq_touch(seq);
	seq->asked = (struct gg_asked){ .tokens = run.tokens, .n = (uint32_t)run.n };
	return KVMOD_OK;
}
