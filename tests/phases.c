/* SPDX-License-Identifier: Apache-2.0 */
/* Runs and cuts the two streams of tests/phases.h side by side. */
#include "tests/phases.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool phases_is_yarn(unsigned model)
{
	const char *scaling = tiny_models[model].rope_scaling;

	return scaling && !strcmp(scaling, "yarn");
}

void phases_set_up_alone(struct setup *s, const struct tiny_model *spec)
{
	memset(s, 0, sizeof(*s));
	s->model = tiny_model_write(spec, TINY_GOOD);
	s->engine = test_engine_open(&(struct test_engine_params){
		.model = s->model, .type = GGML_TYPE_F32, .context = CONTEXT, .batch = 16 });
	ck_assert_msg(s->engine, "%s", test_engine_error());
	s->seq = test_seq(s->engine);
	tiny_tokens(s->tokens, N, 3);
}

void phases_set_up(struct setup *s, unsigned model)
{
	phases_set_up_alone(s, &tiny_models[model]);
	s->other = shifted_open(s->model, GGML_TYPE_F32, 2 * CONTEXT, 0);
	ck_assert_ptr_nonnull(s->other);
}

void phases_tear_down(struct setup *s)
{
	gg_seq_close(s->engine, s->seq);
	test_engine_close(s->engine);
	shifted_close(s->other);
	unlink(s->model);
	free(s->model);
}

void phases_cut_one(struct kvmod_seq *seq)
{
	test_apply(seq, test_plan_ends(seq, SINKS, NEWEST));
}

void phases_cut(struct setup *s)
{
	phases_cut_one(s->seq);
	shifted_cut(s->other, SINKS, NEWEST);
}

void phases_run_one(struct setup *s, struct kvmod_seq *seq, uint32_t from, uint32_t to, bool single)
{
	uint32_t n = single ? 1 : to - from;

	for (uint32_t i = from; i < to; i += n)
		test_run(seq, s->tokens + i, n, s->logits + i * TINY_VOCAB, n);
}

void phases_run(struct setup *s, uint32_t from, uint32_t to, bool single)
{
	phases_run_one(s, s->seq, from, to, single);
	ck_assert_int_eq(shifted_run(s->other, s->tokens + from, to - from,
				     s->expected + from * TINY_VOCAB), 0);
}

void phases_check(const struct setup *s, uint32_t from, uint32_t to)
{
	test_near(s->logits + from * TINY_VOCAB, s->expected + from * TINY_VOCAB,
		  (to - from) * TINY_VOCAB, NEAR);
}
