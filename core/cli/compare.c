/* SPDX-License-Identifier: Apache-2.0 */
/* Measures how far next-token distributions of the cut cache are from the full cache's. */
#include "core/cli/run.h"

#include <math.h>
#include <stdlib.h>

struct pair {
	const struct cli_model *model;
	const struct cli_rival *rival;
	struct kvmod_sequence *full, *cut;
	float *full_logits, *cut_logits;
};

/* The logarithm of the sum of exp(logit), with the largest logit taken out. */
static double log_sum(const float *logits, uint32_t n)
{
	double greatest = -INFINITY, sum = 0;

	for (uint32_t i = 0; i < n; i++)
		greatest = logits[i] > greatest ? logits[i] : greatest;
	for (uint32_t i = 0; i < n; i++)
		sum += exp(logits[i] - greatest);
	return greatest + log(sum);
}

double cli_kl(const float *p, const float *q, uint32_t n)
{
	double log_p = log_sum(p, n), log_q = log_sum(q, n), sum = 0;

	for (uint32_t i = 0; i < n; i++) {
		double log_pi = p[i] - log_p;

		if (exp(log_pi) > 0)
			sum += exp(log_pi) * (log_pi - (q[i] - log_q));
	}
	return sum > 0 ? sum : 0;
}

static int feed(struct pair *pair, int32_t token, struct cli_comparison *out)
{
	double begin = cli_now();

	if (cli_interrupted())
		return CLI_FAILED;
	if (kvmod_session_decode(pair->rival->session, &pair->full, &token, &pair->full_logits, 1))
		return cli_error_unless_stopped();
	out->full_seconds += cli_now() - begin;
	if (kvmod_session_decode(pair->model->session, &pair->cut, &token, &pair->cut_logits, 1))
		return cli_error_unless_stopped();
	out->n++;
	return CLI_OK;
}

static int follow(struct pair *pair, uint64_t limit, uint64_t room, struct cli_comparison *out)
{
	const struct cli_generate full = { .model = pair->model };
	struct cli_utf8_stream stream = { .n_held = 0 };
	uint32_t n_vocab = pair->model->about->n_vocab;
	int32_t token = cli_likeliest(pair->full_logits, n_vocab);
	uint64_t agreed = 0;
	double sum = 0;

	while (out->n < limit && token >= 0 && !cli_is_end(pair->model->about, token)) {
		double d;

		if (cli_say(&full, &stream, token, &out->text))
			return CLI_FAILED;
		if (out->n == room)
			break;
		if (feed(pair, token, out))
			return CLI_FAILED;
		d = cli_kl(pair->full_logits, pair->cut_logits, n_vocab);
		sum += d;
		out->kl_max = d > out->kl_max ? d : out->kl_max;
		token = cli_likeliest(pair->full_logits, n_vocab);
		agreed += token == cli_likeliest(pair->cut_logits, n_vocab);
	}
	if (token < 0)
		return cli_error("the engine's logits are not finite numbers");
	if (cli_utf8_end(&stream, &out->text))
		return cli_error("out of memory");
	out->kl_mean = out->n ? sum / (double)out->n : 0;
	out->agree = out->n ? (double)agreed / (double)out->n : 1;
	return CLI_OK;
}

/* --- the full cache ------------------------------------------------------------------ */

int cli_rival_open(const struct cli_model *m, struct cli_rival *rival)
{
	if (kvmod_session_open(m->engine, NULL, &rival->session) ||
	    kvmod_sequence_open(rival->session, &rival->sequence))
		return cli_error_kvmod();
	return CLI_OK;
}

void cli_rival_close(struct cli_rival *rival)
{
	if (rival->sequence)
		kvmod_sequence_close(rival->sequence);
	if (rival->session)
		kvmod_session_close(rival->session);
	*rival = (struct cli_rival){ 0 };
}

static int prefill(struct kvmod_sequence *full, const struct cli_tokens *tokens, float *logits,
		   struct kvmod_prompted *prompted)
{
	struct cli_progress progress;
	struct kvmod_prompt prompt = {
		.size = sizeof(prompt),
		.tokens = tokens->ids,
		.n_tokens = tokens->n,
		.logits = logits,
		.progress = cli_progress_or_stop,
		.progress_arg = &progress,
	};
	int err;

	*prompted = (struct kvmod_prompted){ .size = sizeof(*prompted) };
	cli_progress_begin(&progress, "full cache", tokens->n);
	err = kvmod_sequence_prompt(full, &prompt, prompted);
	cli_progress_end(&progress);
	return err ? cli_error_unless_stopped() : CLI_OK;
}

int cli_rival_context(struct cli_rival *rival, const struct cli_tokens *context)
{
	struct kvmod_prompted prompted;

	return prefill(rival->sequence, context, NULL, &prompted);
}

/* --- all of it ----------------------------------------------------------------------- */

static int prefill_fork(struct pair *pair, const struct cli_tokens *tokens,
			struct cli_comparison *out)
{
	struct kvmod_prompted prompted;
	int err;

	if (kvmod_sequence_fork(pair->rival->sequence, &pair->full))
		return cli_error_kvmod();
	err = prefill(pair->full, tokens, pair->full_logits, &prompted);
	out->full_prefill_seconds = prompted.prefill_seconds;
	out->full_bytes = prompted.after.used;
	return err;
}

int cli_compare(const struct cli_model *m, const struct cli_rival *rival,
		struct kvmod_sequence *cut, const struct cli_tokens *prompt, uint64_t limit,
		uint64_t room, struct cli_comparison *out)
{
	size_t bytes = m->about->n_vocab * sizeof(float);
	struct pair pair = {
		.model = m,
		.rival = rival,
		.cut = cut,
		.full_logits = malloc(bytes),
		.cut_logits = malloc(bytes),
	};
	int err = CLI_OK;

	*out = (struct cli_comparison){ 0 };
	if (!pair.full_logits || !pair.cut_logits)
		err = cli_error("out of memory");
	if (!err)
		err = prefill_fork(&pair, prompt, out);
	if (!err)
		err = follow(&pair, limit, room, out);
	if (pair.full)
		kvmod_sequence_close(pair.full);
	free(pair.full_logits);
	free(pair.cut_logits);
	return err;
}
