/* SPDX-License-Identifier: Apache-2.0 */
/* Measures how well a model predicts a long text that it streams. */
#include "tests/streaming.h"
#include "tests/shifted.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void stop(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, kvmod_error());
	exit(EXIT_FAILURE);
}

void streaming_open(const struct streaming *s, struct kvmod_ctx **ctx, struct kvmod_engine **engine,
		    struct kvmod_policy **policy)
{
	char texts[6][512];
	const char *overrides[6];

	snprintf(texts[0], sizeof(*texts), "engine ggml.model=%s", s->model);
	snprintf(texts[1], sizeof(*texts), "engine ggml.context=%u", s->context);
	snprintf(texts[2], sizeof(*texts), "engine ggml.threads=1");
	snprintf(texts[3], sizeof(*texts), "engine ggml.gpu_layers=%u", s->gpu_layers);
	snprintf(texts[4], sizeof(*texts), "policy streamingllm.budget=%u", s->budget);
	snprintf(texts[5], sizeof(*texts), "policy streamingllm.sinks=%u", s->sinks);
	for (int i = 0; i < 6; i++)
		overrides[i] = texts[i];
	if (kvmod_new(ctx) || kvmod_configure(*ctx, "/dev/null", overrides, 6))
		stop("configuration");
	if (kvmod_engine_open(*ctx, "ggml", engine))
		stop("engine");
	if (kvmod_policy_open(*ctx, "streamingllm", NULL, kvmod_engine_model(*engine), policy))
		stop("policy");
}

/* -log of what the softmax of logits gives the token. */
static double loss_of(const float *logits, uint32_t n_vocab, int32_t token)
{
	double most = -INFINITY, sum = 0;

	for (uint32_t i = 0; i < n_vocab; i++)
		most = fmax(most, (double)logits[i]);
	for (uint32_t i = 0; i < n_vocab; i++)
		sum += exp((double)logits[i] - most);
	return most + log(sum) - (double)logits[token];
}

/* Logits of n tokens from `at` on say what comes after each of them. */
static void note(const struct streaming *s, uint32_t at, uint32_t n, const float *logits,
		 uint32_t n_vocab, double *loss)
{
	for (uint32_t i = at; i < at + n && i + 1 < s->n; i++)
		loss[i + 1] = loss_of(logits + (size_t)(i - at) * n_vocab, n_vocab, s->tokens[i + 1]);
}

static uint32_t pass_at(const struct streaming *s, uint32_t at)
{
	return s->n - at < s->every ? s->n - at : s->every;
}

static int cut(const struct kvmod_engine_ops *ops, void *instance, struct kvmod_seq *seq,
	       struct kvmod_policy *policy, struct kvmod_plan **plan)
{
	struct kvmod_request request = { .size = sizeof(request) };
	int err = ops->request(instance, seq, &request);

	request.phase = KVMOD_DECODE;
	if (!err)
		err = kvmod_plan_renew(&request, plan);
	if (!err)
		err = kvmod_decide(policy, &request, *plan);
	return err ? err : ops->apply(instance, seq, *plan);
}

int streaming_ours(const struct streaming *s, struct kvmod_engine *engine, struct kvmod_policy *policy,
		   double *loss)
{
	const struct kvmod_engine_ops *ops = kvmod_engine_ops(engine);
	void *instance = kvmod_engine_instance(engine);
	uint32_t n_vocab = kvmod_engine_model(engine)->n_vocab;
	float *logits = malloc((size_t)s->every * n_vocab * sizeof(*logits));
	struct kvmod_plan *plan = NULL;
	struct kvmod_seq *seq = NULL;
	int err = logits ? ops->seq_open(instance, &seq) : KVMOD_ENOMEM;

	loss[0] = 0;
	for (uint32_t at = 0; !err && at < s->n; at += s->every) {
		struct kvmod_batch_item item = {
			.size = sizeof(item), .seq = seq, .tokens = s->tokens + at,
			.n_tokens = pass_at(s, at), .logits = logits, .n_logits = pass_at(s, at),
		};
		struct kvmod_batch batch = {
			.size = sizeof(batch), .n_items = 1, .item_stride = sizeof(item), .items = &item,
		};

		err = ops->step(instance, &batch);
		if (err)
			break;
		note(s, at, item.n_tokens, logits, n_vocab, loss);
		err = cut(ops, instance, seq, policy, &plan);
	}
	if (seq)
		ops->seq_close(instance, seq);
	kvmod_plan_free(plan);
	free(logits);
	return err;
}

int streaming_libllama(const struct streaming *s, double *loss)
{
	struct shifted *other = shifted_open(s->model, GGML_TYPE_F16, s->budget + s->every, 1);
	uint32_t n_vocab = other ? shifted_n_vocab(other) : 0;
	float *logits = malloc((size_t)s->every * n_vocab * sizeof(*logits));
	int err = other && logits ? 0 : KVMOD_ENOMEM;

	loss[0] = 0;
	for (uint32_t at = 0; !err && at < s->n; at += s->every) {
		err = shifted_run(other, s->tokens + at, pass_at(s, at), logits);
		if (!err)
			note(s, at, pass_at(s, at), logits, n_vocab, loss);
		shifted_cut(other, s->sinks, s->budget - s->sinks);
	}
	shifted_close(other);
	free(logits);
	return err;
}
