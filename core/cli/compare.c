/* SPDX-License-Identifier: Apache-2.0 */
/* Measures how far next-token distributions of the cut cache are from the full cache's. */
#include "core/cli/run.h"

#include <math.h>
#include <stdlib.h>

struct pair {
	const struct cli_model *model;
	struct kvmod_session *session;	/* the full cache's: without a policy */
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

static double kl(const float *p, const float *q, uint32_t n)
{
	double log_p = log_sum(p, n), log_q = log_sum(q, n), sum = 0;

	for (uint32_t i = 0; i < n; i++) {
		double log_pi = p[i] - log_p;

		if (exp(log_pi) > 0)
			sum += exp(log_pi) * (log_pi - (q[i] - log_q));
	}
	return sum > 0 ? sum : 0;
}

/* After Ctrl-C it prints nothing: the caller reports the interrupted answer. */
static int failed(void)
{
	return cli_interrupted() ? CLI_FAILED : cli_error_kvmod();
}

static int feed(struct pair *pair, int32_t token, struct cli_comparison *out)
{
	double begin = cli_now();

	if (cli_interrupted())
		return CLI_FAILED;
	if (kvmod_session_decode(pair->session, &pair->full, &token, &pair->full_logits, 1))
		return failed();
	out->full_seconds += cli_now() - begin;
	if (kvmod_session_decode(pair->model->session, &pair->cut, &token, &pair->cut_logits, 1))
		return failed();
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
		d = kl(pair->full_logits, pair->cut_logits, n_vocab);
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

static int prefill_full(struct pair *pair, const struct cli_tokens *tokens,
			struct cli_comparison *out)
{
	struct cli_progress progress;
	struct kvmod_prompted prompted = { .size = sizeof(prompted) };
	struct kvmod_prompt prompt = {
		.size = sizeof(prompt),
		.tokens = tokens->ids,
		.n_tokens = tokens->n,
		.logits = pair->full_logits,
		.progress = cli_progress_or_stop,
		.progress_arg = &progress,
	};
	int err;

	if (kvmod_sequence_open(pair->session, &pair->full))
		return cli_error_kvmod();
	cli_progress_begin(&progress, "full cache", tokens->n);
	err = kvmod_sequence_prompt(pair->full, &prompt, &prompted);
	cli_progress_end(&progress);
	if (err)
		return failed();
	out->full_prefill_seconds = prompted.prefill_seconds;
	out->full_bytes = prompted.after.used;
	return CLI_OK;
}

int cli_compare(const struct cli_model *m, struct kvmod_sequence *cut,
		const struct cli_tokens *prompt, uint64_t limit, uint64_t room,
		struct cli_comparison *out)
{
	size_t bytes = m->about->n_vocab * sizeof(float);
	struct pair pair = {
		.model = m,
		.cut = cut,
		.full_logits = malloc(bytes),
		.cut_logits = malloc(bytes),
	};
	int err = CLI_OK;

	*out = (struct cli_comparison){ 0 };
	if (!pair.full_logits || !pair.cut_logits)
		err = cli_error("out of memory");
	else if (kvmod_session_open(m->engine, NULL, &pair.session))
		err = cli_error_kvmod();
	if (!err)
		err = prefill_full(&pair, prompt, out);
	if (!err)
		err = follow(&pair, limit, room, out);
	if (pair.full)
		kvmod_sequence_close(pair.full);
	if (pair.session)
		kvmod_session_close(pair.session);
	free(pair.full_logits);
	free(pair.cut_logits);
	return err;
}
