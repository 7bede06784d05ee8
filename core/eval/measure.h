/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a case costs on one prompt, against the full cache. The prompt is run once for all
 * cases; each gets a copy, decides, and then has the full cache's own answer fed to it, so that
 * their predictions can be compared token by token.
 */
#ifndef KV_CORE_EVAL_MEASURE_H
#define KV_CORE_EVAL_MEASURE_H

#include "core/cli/run.h"
#include "core/eval/cases.h"

/* A model with what all prompts need. */
struct eval_bench {
	struct cli_model model;		/* its session cuts nothing */
	uint64_t n_forced;		/* tokens of the full cache's answer that are fed to each case */
	uint64_t n_answer;		/* the longest answer, in tokens */
	/* Sessions that collect; more than one if some needs cannot be collected together. */
	struct kvmod_session **bases;
	size_t n_bases;
	size_t *base_of;		/* [cases] */
};

/* The cases must be open. CLI_FAILED after the reason was printed. */
int eval_bench_open(struct eval_bench *bench, const struct eval_cases *cases);
void eval_bench_close(struct eval_bench *bench);

/* A prompt, as tokens: all of it, or a context, and the question that comes later. */
struct eval_tokens {
	struct cli_tokens prompt, question;	/* question.n 0: there is none */
};

/* The full cache's answer. */
struct eval_full {
	struct kvmod_sequence **bases;	/* [n_bases]: the prompt has been run; NULL: not yet */
	float **base_logits;		/* [n_bases]: of its last token */
	int32_t *tokens;		/* [n] */
	float *logits;			/* [n_forced][n_vocab]: after each of the first n_forced tokens */
	uint64_t n, n_forced;
	struct cli_text text;
	double prefill_seconds;		/* with everything collected */
	double seconds;			/* for n_decoded tokens */
	uint64_t n_decoded, bytes;
};

/* CLI_FAILED after the reason was printed; after Ctrl-C without one. */
int eval_full_run(struct eval_bench *bench, const struct eval_tokens *tokens, struct eval_full *full);
void eval_full_free(struct eval_bench *bench, struct eval_full *full);

/*
 * How much longer the prompt, its first 2048 tokens at most, takes while what each case needs is collected: ratios[cases], 1 for
 * a case that needs nothing. CLI_FAILED after the reason was printed; after Ctrl-C without one.
 */
int eval_collect_ratios(struct eval_bench *bench, const struct eval_cases *cases,
			const struct eval_tokens *tokens, double *ratios);

struct eval_measured {
	int status;			/* of the decision; not 0: the cache stayed whole */
	double budget;			/* kept positions / tokens seen, as the cut left it */
	uint64_t bytes, bytes_full;	/* of what was cut */
	double kl_mean, kl_max;		/* KL(full || cut) in nats, over the forced tokens */
	double agree;			/* share of them with the same likeliest next token */
	uint64_t n_forced;
	double decision_seconds, apply_seconds;
	double decode_seconds;
	uint64_t n_decoded;
	struct cli_text text;		/* its own greedy answer */
};

/* CLI_FAILED after the reason was printed; after Ctrl-C without one. */
int eval_case_run(struct eval_bench *bench, const struct eval_cases *cases, size_t which,
		  const struct eval_tokens *tokens, struct eval_full *full, struct eval_measured *out);

#endif
