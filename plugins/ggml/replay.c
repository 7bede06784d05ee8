/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Measures what a plan costs: runs the last tokens again on a copy that has only the
 * positions which the plan keeps before them, with the code that decodes. The run over the
 * whole cache is made once and kept until the sequence changes.
 */
#include "graph.h"

#include <stdlib.h>

/* Logits of the last `rows` tokens over the positions that `keeps` keep. */
static int32_t run_over(struct kvmod_seq *seq, const struct kvmod_keep *const *keeps, uint32_t flags,
			uint32_t rows, const struct gg_memory *logits)
{
	struct gg_engine *engine = seq->engine;
	const struct gg_asked *asked = &seq->asked;
	uint64_t before = asked->n ? seq->logical : seq->logical - rows;
	const int32_t *tokens = asked->n ? asked->tokens : seq->tokens + before;
	uint32_t n = asked->n ? asked->n : rows;
	struct gg_whole *whole = &seq->whole;
	int32_t code = whole->copy ? gg_seq_copy_again(whole->copy, seq, keeps, flags, before, n) :
				     gg_seq_copy(seq, keeps, flags, before, n, &whole->copy);

	if (!code)
		code = gg_run_tokens_there(engine, whole->copy, tokens, n, rows, logits);
	if (code) {
		gg_seq_close(engine, whole->copy);
		whole->copy = NULL;
	}
	return code;
}

static int32_t run_whole(struct kvmod_seq *seq, uint32_t rows)
{
	struct gg_engine *engine = seq->engine;
	int32_t code;

	if (seq->whole.rows == rows)
		return KVMOD_OK;
	gg_whole_free(seq);
	if (!gg_divergence_new(&seq->whole.divergence, engine, rows))
		return gg_fail(engine, KVMOD_ENOMEM, "no memory to replay %u tokens", rows);
	code = run_over(seq, NULL, 0, rows, &seq->whole.divergence.whole);
	if (code)
		gg_whole_free(seq);
	else
		seq->whole.rows = rows;
	return code;
}

static int32_t run_cut(struct kvmod_seq *seq, const struct kvmod_keep *const *keeps, uint32_t flags,
		       uint32_t rows, double *loss)
{
	struct gg_divergence *divergence = &seq->whole.divergence;
	int32_t code = run_over(seq, keeps, flags, rows, &divergence->cut);

	return code ? code : gg_divergence_run(divergence, loss);
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
	int32_t code = rows_to_run(seq, &rows);

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
