/* SPDX-License-Identifier: Apache-2.0 */
/* selftest: checks a policy's decisions on made-up caches. */
#include "core/selftest/selftest.h"
#include "core/testkit/vectors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/testkit/random.h"

#define HEAD_DIM 64
#define SEQUENCE 1

static const struct {
	const char *name;
	uint32_t n_q_heads, n_kv_heads;
} heads[] = {
	{ "4 heads", 4, 4 }, { "8 on 2 heads", 8, 2 }, { "9 on 3 heads", 9, 3 },
};

struct trial {
	struct selftest *t;
	struct kvmod_policy *policy;
	const struct kvmod_needs *needs;
	struct kv_shape shape;
	unsigned n_decided;		/* plans that passed in every segment */
};

/* --- one decision --------------------------------------------------------------------- */

/* A clean error is no failure; a plan that the core has to refuse is one. */
static bool judge(struct trial *trial, int err, const struct kvmod_plan *plan)
{
	if (err) {
		selftest_clean_error(trial->t, "compress()", err);
		return false;
	}
	for (uint32_t i = 0; i < plan->n_keeps; i++) {
		int status = kvmod_keep_at(plan, i)->status;

		if (status == KVMOD_EPLAN)
			selftest_fail(trial->t, "%s", trial->t->logged);
		else if (status > 0 || status < KVMOD_ECRASH)
			selftest_fail(trial->t, "the status of layer %u is %d, which is not a "
				      "KVMOD_E... code", i, status);
		if (status)
			return false;
	}
	trial->n_decided++;
	return true;
}

static bool same_plan(const struct kvmod_request *request, const struct kvmod_plan *a,
		      const struct kvmod_plan *b, uint32_t i, uint32_t g)
{
	uint32_t n = kvmod_head_at(kvmod_segment_at(request, i), g)->n;
	uint32_t *in_a = malloc(2 * n * sizeof(*in_a)), *in_b = in_a + n, n_a, n_b;
	bool same;

	if (!in_a)
		return false;
	n_a = vectors_kept(request, a, i, g, in_a);
	n_b = vectors_kept(request, b, i, g, in_b);
	same = n_a == n_b && !memcmp(in_a, in_b, n_a * sizeof(*in_a));
	free(in_a);
	return same;
}

static bool same_store(const struct kvmod_keep *a, const struct kvmod_keep *b)
{
	return a->k_store == b->k_store && a->v_store == b->v_store;
}

static void compare(struct trial *trial, const struct kvmod_request *request,
		    const struct kvmod_plan *a, const struct kvmod_plan *b)
{
	for (uint32_t i = 0; i < a->n_keeps; i++) {
		if (!same_store(kvmod_keep_at(a, i), kvmod_keep_at(b, i)))
			selftest_fail(trial->t, "asked twice, it stores rows as another type: layer %u", i);
		for (uint32_t g = 0; g < kvmod_segment_at(request, i)->n_kv_heads; g++)
			if (!same_plan(request, a, b, i, g))
				selftest_fail(trial->t, "two equal requests got different plans: "
					      "layer %u, KV head %u", i, g);
	}
}

/* A new sequence for each decision, so that a state from an earlier one plays no part. */
static int decide(struct trial *trial, struct kvmod_request *request, struct kvmod_plan *plan)
{
	int err = kvmod_policy_begin(trial->policy, SEQUENCE, &request->state);

	if (err)
		return err;
	err = kvmod_decide(trial->policy, request, plan);
	kvmod_policy_end(trial->policy, SEQUENCE, request->state);
	request->state = NULL;
	return err;
}

/* Makes a list invalid that the policy counts but does not write. */
static void spoil_indices(const struct kvmod_request *request, struct kvmod_plan *plan)
{
	for (uint32_t i = 0; i < plan->n_keeps; i++) {
		struct kvmod_keep *keep = kvmod_keep_at(plan, i);

		memset(keep->indices, 0xff, kvmod_segment_at(request, i)->n_kv_heads *
		       keep->index_stride * sizeof(*keep->indices));
	}
}

/* A policy that is asked while decoding may cut only then. */
static void ask_while_decoding(const struct trial *trial, struct madeup *m)
{
	if (trial->needs->decode_every)
		m->d.request.phase = KVMOD_DECODE;
}

/* Decides twice and checks both plans; returns the first, to be freed, or NULL. */
static struct kvmod_plan *try_cache(struct trial *trial, struct madeup *m)
{
	struct kvmod_plan *first = NULL, *second = NULL;
	unsigned char *before = malloc(m->n_bytes);
	int err, again;

	if (!before || kvmod_plan_new(&m->d.request, &first) ||
	    kvmod_plan_new(&m->d.request, &second)) {
		selftest_fail(trial->t, "out of memory");
		goto out;
	}
	memcpy(before, m->bytes, m->n_bytes);
	spoil_indices(&m->d.request, first);
	spoil_indices(&m->d.request, second);
	err = decide(trial, &m->d.request, first);
	if (judge(trial, err, first)) {
		again = decide(trial, &m->d.request, second);
		if (again)
			selftest_fail(trial->t, "the second of two equal requests failed: %s",
				      kvmod_error());
		else
			compare(trial, &m->d.request, first, second);
	}
	if (memcmp(before, m->bytes, m->n_bytes))
		selftest_fail(trial->t, "the policy wrote to the cache");
out:
	free(before);
	kvmod_plan_free(second);
	return first;
}

static bool made(struct trial *trial, int err)
{
	if (err)
		selftest_fail(trial->t, "out of memory");
	return !err;
}

static void try_prompt(struct trial *trial, uint32_t n, uint32_t rows)
{
	struct madeup m;

	if (!made(trial, madeup_first(&m, &trial->shape, n, rows, trial->needs->what)))
		return;
	ask_while_decoding(trial, &m);
	kvmod_plan_free(try_cache(trial, &m));
	madeup_free(&m);
}

/* --- second turns and decoding ----------------------------------------------------------- */

/* A cut that no policy would make: another one in each head, with the newest kept. */
static void cut_ragged(const struct madeup *m, struct kvmod_plan *plan)
{
	for (uint32_t i = 0; i < plan->n_keeps; i++) {
		struct kvmod_keep *keep = kvmod_keep_at(plan, i);

		keep->kind = KVMOD_KEEP_HEADS;
		for (uint32_t g = 0; g < m->shape.n_kv_heads; g++) {
			uint32_t n = kvmod_head_at(&m->d.segments[i], g)->n;

			for (uint32_t k = (n - 1) % (g + 2); k < n; k += g + 2)
				keep->indices[g * keep->index_stride + keep->counts[g]++] = k;
		}
	}
}

static void cut_even(struct kvmod_plan *plan, uint32_t n)
{
	for (uint32_t i = 0; i < plan->n_keeps; i++) {
		struct kvmod_keep *keep = kvmod_keep_at(plan, i);

		keep->kind = KVMOD_KEEP_SPANS;
		keep->n_spans = 2;
		keep->spans[0] = (struct kvmod_span){ .begin = 0, .end = 7 };
		keep->spans[1] = (struct kvmod_span){ .begin = n / 2, .end = n };
	}
}

static void try_second_turn(struct trial *trial, bool ragged, uint32_t n_new)
{
	struct madeup first, second;
	struct kvmod_plan *plan;
	uint32_t n = 200;

	if (!made(trial, madeup_first(&first, &trial->shape, n, 0, trial->needs->what)))
		return;
	if (made(trial, kvmod_plan_new(&first.d.request, &plan))) {
		if (ragged)
			cut_ragged(&first, plan);
		else
			cut_even(plan, n);
		if (made(trial, madeup_next(&second, &first, plan, n_new,
					    kvmod_needs_rows(trial->needs, n_new), trial->needs->what))) {
			ask_while_decoding(trial, &second);
			kvmod_plan_free(try_cache(trial, &second));
			madeup_free(&second);
		}
		kvmod_plan_free(plan);
	}
	madeup_free(&first);
}

/* A prompt, then decoded tokens, on the cache that the policy's own plans leave. */
static void try_decoding(struct trial *trial)
{
	uint32_t every = trial->needs->decode_every < 200 ? trial->needs->decode_every : 200;
	struct kvmod_plan *plan;
	struct madeup m, grown;

	if (!made(trial, madeup_first(&m, &trial->shape, 300, kvmod_needs_rows(trial->needs, 300),
				      trial->needs->what)))
		return;
	for (int step = 0; step < 6; step++) {
		plan = try_cache(trial, &m);
		if (!plan || !made(trial, madeup_next(&grown, &m, plan, every,
						      kvmod_needs_rows(trial->needs, every),
						      trial->needs->what))) {
			kvmod_plan_free(plan);
			break;
		}
		kvmod_plan_free(plan);
		madeup_free(&m);
		m = grown;
		m.d.request.phase = KVMOD_DECODE;
	}
	madeup_free(&m);
}

/* --- numbers that are not finite ------------------------------------------------------------ */

static void try_keys(struct trial *trial, float bad, bool all)
{
	float row[HEAD_DIM];
	struct madeup m;
	const struct kvmod_view *k;

	if (!made(trial, madeup_first(&m, &trial->shape, 100, kvmod_needs_rows(trial->needs, 100),
				      trial->needs->what)))
		return;
	ask_while_decoding(trial, &m);
	for (int d = 0; d < HEAD_DIM; d++)
		row[d] = bad;
	k = &m.d.heads[0].k;
	for (uint32_t i = 0; i < m.d.heads[0].n; i++)
		if (all || i == 50)
			kv_encode(k->type, row, HEAD_DIM,
				  m.bytes + ((const unsigned char *)k->data - m.bytes) +
				  i * k->stride);
	kvmod_plan_free(try_cache(trial, &m));
	madeup_free(&m);
}

/* --- all of them ------------------------------------------------------------------------------ */

static bool takes(const struct trial *trial, uint32_t type)
{
	return !trial->needs->types || trial->needs->types & KVMOD_TYPE_BIT(type);
}

static void set_heads(struct trial *trial, size_t which, uint32_t n_segments)
{
	trial->shape.n_q_heads = heads[which].n_q_heads;
	trial->shape.n_kv_heads = heads[which].n_kv_heads;
	trial->shape.n_segments = n_segments;
}

/* Short and odd lengths, with every arrangement of heads, for one layer and all layers. */
static void all_lengths(struct trial *trial, const char *name)
{
	static const uint32_t lengths[] = { 1, 2, 3, 4, 5, 31, 32, 33, 257, 1000 };

	for (size_t h = 0; h < CLI_COUNT(heads); h++) {
		for (size_t i = 0; i < CLI_COUNT(lengths); i++) {
			if (!selftest_begin(trial->t, "%s: %u positions, %s", name, lengths[i],
					    heads[h].name))
				continue;
			set_heads(trial, h, 1);
			try_prompt(trial, lengths[i], kvmod_needs_rows(trial->needs, lengths[i]));
			set_heads(trial, h, trial->shape.n_layers);
			try_prompt(trial, lengths[i], kvmod_needs_rows(trial->needs, lengths[i]));
			selftest_end(trial->t);
		}
	}
}

static void all_types(struct trial *trial, const char *name)
{
	uint32_t usual = trial->shape.type;

	for (uint32_t type = KVMOD_F32; type <= KVMOD_Q4_0; type++) {
		if (!takes(trial, type))
			continue;
		if (!selftest_begin(trial->t, "%s: a cache of %s", name, kv_type_name(type)))
			continue;
		trial->shape.type = type;
		try_prompt(trial, 33, kvmod_needs_rows(trial->needs, 33));
		try_prompt(trial, 257, kvmod_needs_rows(trial->needs, 257));
		selftest_end(trial->t);
	}
	trial->shape.type = usual;
}

static void all_turns(struct trial *trial, const char *name)
{
	if (selftest_begin(trial->t, "%s: fewer rows of Q than asked for", name)) {
		try_prompt(trial, 300, kvmod_needs_rows(trial->needs, 300) ? 1 : 0);
		selftest_end(trial->t);
	}
	if (selftest_begin(trial->t, "%s: a second turn", name)) {
		try_second_turn(trial, false, 3);
		try_second_turn(trial, false, 100);
		selftest_end(trial->t);
	}
	if (selftest_begin(trial->t, "%s: a second turn, KV heads of different length", name)) {
		try_second_turn(trial, true, 3);
		try_second_turn(trial, true, 100);
		selftest_end(trial->t);
	}
	if (trial->needs->decode_every && selftest_begin(trial->t, "%s: while decoding", name)) {
		try_decoding(trial);
		selftest_end(trial->t);
	}
}

static void all_bad_numbers(struct trial *trial, const char *name)
{
	static const struct {
		const char *name;
		float value;
		bool all;
	} cases[] = {
		{ "NaN in a key", NAN, false }, { "NaN in all keys", NAN, true },
		{ "infinity in a key", INFINITY, false }, { "minus infinity in all keys", -INFINITY, true },
		{ "keys too large to multiply", 3e38f, true }, { "keys of zero", 0, true },
	};

	for (size_t i = 0; i < CLI_COUNT(cases); i++) {
		if (!selftest_begin(trial->t, "%s: %s", name, cases[i].name))
			continue;
		try_keys(trial, cases[i].value, cases[i].all);
		selftest_end(trial->t);
	}
}

static void run_all(struct trial *trial, const char *name)
{
	all_lengths(trial, name);
	set_heads(trial, 2, trial->shape.n_layers);
	all_types(trial, name);
	all_turns(trial, name);
	all_bad_numbers(trial, name);
	if (selftest_begin(trial->t, "%s: decides on an ordinary cache", name)) {
		trial->n_decided = 0;
		try_prompt(trial, 257, kvmod_needs_rows(trial->needs, 257));
		if (!trial->n_decided)
			selftest_fail(trial->t, "no decision on an ordinary cache: %s",
				      kvmod_error());
		selftest_end(trial->t);
	}
}

void selftest_plans(struct selftest *t, const char *name)
{
	struct trial trial = {
		.t = t,
		.shape = { .n_layers = 4, .head_dim = HEAD_DIM, .type = KVMOD_F32 },
	};
	struct kvmod_model model;

	set_heads(&trial, 2, trial.shape.n_layers);
	model = madeup_model(&trial.shape);
	if (kvmod_policy_open(t->ctx, name, t->device, &model, &trial.policy))
		return;			/* selftest_policy() has reported it */
	trial.needs = kvmod_policy_needs(trial.policy);
	while (!takes(&trial, trial.shape.type) && trial.shape.type < KVMOD_Q4_0)
		trial.shape.type++;
	run_all(&trial, name);
	kvmod_policy_close(trial.policy);
}
