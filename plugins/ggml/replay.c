/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Measures what a plan costs: runs the last tokens again on a copy that has only the
 * positions which the plan keeps before them, with the code that decodes. The run over the
 * whole cache is made once and kept until the sequence changes.
 */
#include "graph.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Log-probabilities of the last `rows` tokens over the positions that `keeps` keep. */
static int32_t run_over(struct kvmod_seq *seq, const struct kvmod_keep *const *keeps, uint32_t flags,
			uint32_t rows, float *log_probs)
{
	struct gg_engine *engine = seq->engine;
	size_t n_vocab = (size_t)engine->net.dims[GG_VOCAB];
	const struct gg_asked *asked = &seq->asked;
	uint64_t before = asked->n ? seq->logical : seq->logical - rows;
	uint32_t n = asked->n ? asked->n : rows;
	struct kvmod_seq *copy;
	int32_t code = gg_seq_copy(seq, keeps, flags, before, n, &copy);

	if (code)
		return code;
	code = gg_run_tokens(engine, copy, asked->n ? asked->tokens : seq->tokens + before, n, log_probs,
			     rows);
	gg_seq_close(engine, copy);
	for (uint32_t r = 0; !code && r < rows; r++) {
		float *row = log_probs + r * n_vocab, max = row[0];
		double sum = 0;

		for (size_t i = 1; i < n_vocab; i++)
			max = row[i] > max ? row[i] : max;
		for (size_t i = 0; i < n_vocab; i++)
			sum += (double)expf(row[i] - max);
		for (size_t i = 0; i < n_vocab; i++)
			row[i] = (float)((double)(row[i] - max) - log(sum));
	}
	return code;
}

static int32_t run_whole(struct kvmod_seq *seq, uint32_t rows)
{
	struct gg_engine *engine = seq->engine;
	int32_t code;

	if (seq->whole.rows == rows)
		return KVMOD_OK;
	gg_whole_free(&seq->whole);
	seq->whole.log_probs = malloc((size_t)rows * (size_t)engine->net.dims[GG_VOCAB] * sizeof(float));
	if (!seq->whole.log_probs)
		return gg_fail(engine, KVMOD_ENOMEM, "no memory to replay %u tokens", rows);
	code = run_over(seq, NULL, 0, rows, seq->whole.log_probs);
	if (code)
		gg_whole_free(&seq->whole);
	else
		seq->whole.rows = rows;
	return code;
}

/* KL(whole || cut) of one row, in nats. */
static double divergence(const float *whole, const float *cut, size_t n)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += exp((double)whole[i]) * ((double)whole[i] - (double)cut[i]);
	return sum;
}

static int32_t run_cut(struct kvmod_seq *seq, const struct kvmod_keep *const *keeps, uint32_t flags,
		       uint32_t rows, double *loss)
{
	struct gg_engine *engine = seq->engine;
	size_t n_vocab = (size_t)engine->net.dims[GG_VOCAB];
	float *cut = malloc(rows * n_vocab * sizeof(*cut));
	double sum = 0;
	int32_t code;

	if (!cut)
		return gg_fail(engine, KVMOD_ENOMEM, "no memory to replay %u tokens", rows);
	code = run_over(seq, keeps, flags, rows, cut);
	for (uint32_t r = 0; !code && r < rows; r++)
		sum += divergence(seq->whole.log_probs + r * n_vocab, cut + r * n_vocab, n_vocab);
	free(cut);
	if (code)
		return code;
	if (!isfinite(sum))
		return gg_fail(engine, KVMOD_ENUMERIC, "the replayed distributions are not finite");
	*loss = sum / rows;
	return KVMOD_OK;
}

/* How many of the rows asked for can be run: no more than a question and its answer have. */
static int32_t rows_to_run(const struct kvmod_seq *seq, uint32_t *rows)
{
	struct gg_engine *engine = seq->engine;
	uint64_t room = seq->asked.n ? seq->asked.n : gg_replay_room(seq);

	if (!*rows || (!seq->asked.n && *rows >= seq->logical))
		return gg_fail(engine, KVMOD_ERANGE,
			       "cannot replay %u of %llu tokens: at least one token must precede them",
			       *rows, (unsigned long long)seq->logical);
	if (!room)
		return gg_fail(engine, KVMOD_ERANGE,
			       "cannot replay %u of %llu tokens: the cached tokens fill the context of %llu",
			       *rows, (unsigned long long)seq->logical, (unsigned long long)engine->limit);
	if (*rows > room)
		*rows = (uint32_t)room;
	return KVMOD_OK;
}

int32_t gg_replay(const struct kvmod_request *request, const struct kvmod_plan *plan, uint32_t rows,
		  double *loss)
{
	struct kvmod_seq *seq = request->replay_ctx;
	struct gg_engine *engine = seq->engine;
	const struct kvmod_keep **keeps;
	int32_t code;

	code = rows_to_run(seq, &rows);
	if (code)
		return code;
	keeps = calloc(engine->net.n_layers, sizeof(*keeps));
	if (!keeps)
		return gg_fail(engine, KVMOD_ENOMEM, "no memory to replay %u tokens", rows);
	/* A request may be for some layers only: the others stay whole. */
	for (uint32_t i = 0; i < request->n_segments && i < plan->n_keeps; i++)
		keeps[kvmod_segment_at(request, i)->layer] = kvmod_keep_at(plan, i);
	code = run_whole(seq, rows);
	if (!code)
		code = run_cut(seq, keeps, plan->flags, rows, loss);
	free(keeps);
	return code;
}
