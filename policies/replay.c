/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps what contribution ranks highest, down to the level at which running the newest tokens
 * again costs no more than a loss that the user names: the input decides how much it needs.
 * What is kept is stored in few bits, and the measured loss has that in it.
 *
 * Where the question comes later, the newest tokens say little of what it will need. The model
 * is then asked something about the context, and its own answer takes their place: it is run
 * again to measure the loss, and ranks the positions together with what repeating the context
 * needs.
 */
#include "contribution.h"
#include "repeat.h"

#include <math.h>

struct replay {
	struct contribution contribution;
	int64_t shortest, chunk;
	double later_loss, answer_weight;
};

#define PARAMS(P, owner) \
	KVMOD_P_LOSS(P, owner, "0.05") \
	KVMOD_P_REPLAY_ROWS(P, owner, "32") \
	KVMOD_P_STORE(P, owner, "q8_0/q4_0") \
	CONTRIBUTION_PARAMS(P, owner) \
	P(owner, struct replay, shortest, INT, "256", "0..", \
	  "a sequence of so few tokens stays whole") \
	P(owner, struct replay, chunk, INT, "2048", "16..1048576", \
	  "positions that the engine repeats at a time, if the question comes later") \
	P(owner, struct replay, later_loss, REAL, "0.025", "0..", \
	  "loss, if the question comes later: an answer says less than the question does") \
	P(owner, struct replay, answer_weight, REAL, "3", "0..1000", \
	  "what attention of an answer counts for beside the repetition's, likewise")

/* Of several questions tried, the one whose loss was nearest to that of real ones. */
static const char question[] =
	"\nWhat are the most important facts, names and numbers in the text above?";

static int32_t cuts(const void *self, const struct kvmod_request *request)
{
	const struct kvmod_segment *segment = kvmod_segment_at(request, 0);

	return kvmod_tokens_seen(segment) > (uint64_t)((const struct replay *)self)->shortest;
}

/* 1, 0.71, 0.5 ... 0.001: shares in an output. */
static double level_at(const void *self, uint32_t k)
{
	(void)self;
	return exp2(-0.5 * k);
}

/* --- the question comes later ----------------------------------------------------------- */

static int asks(const struct kvmod_request *request)
{
	return request->question_later && request->reread && request->ask && request->replay;
}

static double loss(const void *self_, const struct kvmod_request *request)
{
	const struct replay *self = self_;

	return asks(request) ? self->later_loss : self->contribution.scorer.loss;
}

/* What repeating needs, and behind it what the answer does: [n_heads][tokens seen]. */
static size_t floats(const void *self, const struct kvmod_request *request)
{
	struct repeat context = repeat_of(request, ((const struct replay *)self)->chunk);

	if (!asks(request))
		return 0;
	return repeat_floats(&context, request) +
	       (size_t)(context.end * count_heads(request, request->n_segments));
}

static int32_t prepare(const void *self_, const struct kvmod_request *request, float *out)
{
	const struct replay *self = self_;
	const struct kvmod_scorer *scorer = &self->contribution.scorer;
	struct repeat context = repeat_of(request, self->chunk);
	struct kvmod_ask what = {
		.size = sizeof(what), .n_answer = (uint32_t)scorer->replay_rows, .question = question,
	};
	int32_t err;

	if (!asks(request))
		return 0;
	err = repeat_run(&context, request, scorer->sinks, out);
	return err ? err : request->ask(request, &what, out + repeat_floats(&context, request));
}

static int32_t score(const void *self_, const struct kvmod_task *head, float *out)
{
	const struct replay *self = self_;
	struct repeat context = repeat_of(head->request, self->chunk);
	const float *answer = head->prepared;

	if (!asks(head->request))
		return contribution_score(self_, head, out);
	answer += repeat_floats(&context, head->request) +
		  (count_heads(head->request, head->i) + head->g) * context.end;
	repeat_scores(&context, head, head->prepared, out);
	for (uint32_t i = 0; i < head->m; i++) {
		float answered = (float)self->answer_weight * answer[kvmod_position(head->head, i)];

		out[i] = answered > out[i] ? answered : out[i];
	}
	return 0;
}

KVMOD_SCORER(replay, struct replay, PARAMS, "0.2.0", "Apache-2.0", "The kvmod authors",
	     "what the newest tokens need, measured by running them again",
	     CONTRIBUTION_NEEDS, .score = score, .select = KVMOD_BY_LOSS, .cuts = cuts,
	     .prepare = prepare, .prepared_floats = floats, .level_at = level_at, .n_levels = 21,
	     .loss = loss);
