/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls in random order: prompts, some of them cancelled, plans whose gaps close, truncation,
 * forks, replays and batches, on a model of one layer. In one layer a cached row depends only
 * on its token and its place, so each answer must equal that of a new sequence of the cached
 * tokens. A query before RoPE depends on its token alone. Where column sums are collected, they
 * must equal those of tests/column_sums.h.
 */
#include "tests/column_sums.h"
#include "tests/norm_reference.h"
#include "tests/query_reference.h"
#include "tests/tiny_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONTEXT		64	/* so that keys are turned back often */
#define LONGEST		4000	/* tokens that a walk runs at most */
#define STEPS		200
#define PROMPT		30
#define WALKERS		3
#define SKIP		3
#define NEAR		1e-4

/* A sequence, and the tokens that are left of it, with their positions. */
struct walker {
	struct kvmod_seq *seq;
	int32_t tokens[LONGEST], positions[LONGEST];
	uint32_t n;
	uint64_t logical;
	bool summed;			/* column sums are those of `sums` */
	struct column_sums sums;
	/* Queries in the statistics, [n_stats], and the position after them. */
	int32_t asked[LONGEST];
	uint32_t n_stats;
	uint64_t stats_end;
	bool lost;
};

static struct gg_engine *engine;
static struct walker walkers[WALKERS];
static unsigned n_walkers;
static uint64_t state;
static float logits[PROMPT * TINY_VOCAB], expected[PROMPT * TINY_VOCAB];
static double *queries;		/* of all tokens of the vocabulary */

static uint32_t draw(uint32_t below)
{
	state = state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(state >> 33) % below;
}

static void note(struct walker *w, const int32_t *tokens, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		w->tokens[w->n] = tokens[i];
		w->positions[w->n++] = (int32_t)w->logical++;
	}
}

static void as_new(const struct walker *w, const float *got, uint32_t n)
{
	struct kvmod_seq *seq = test_seq(engine);

	test_run(seq, w->tokens, w->n, expected, n);
	test_near(got, expected, (size_t)n * TINY_VOCAB, NEAR);
	gg_seq_close(engine, seq);
}

static void as_noted(const struct walker *w)
{
	ck_assert_uint_eq(w->seq->logical, w->logical);
	ck_assert_uint_eq(w->seq->caches[0].n[0], w->n);
	ck_assert_uint_eq(gg_seq_extent(w->seq), w->n);
	ck_assert_int_eq(sums_shown(w->seq), w->summed);
}

/* New tokens have been run, if any. */
static void look(struct walker *w)
{
	if (!w->summed)
		return;
	sums_look(&w->sums, w->seq);
	sums_check(&w->sums, w->seq);
}

/*
 * A policy that collects column sums, or one that does not. Lost statistics stay lost, unless
 * the sequence is as good as empty.
 */
static void begin(struct walker *w, uint32_t n)
{
	bool collects = draw(8) != 0;
	struct kvmod_needs needs = {
		.size = sizeof(needs), .q_stats_skip = SKIP,
		.what = KVMOD_NEED_Q_STATS | KVMOD_NEED_WO_NORM,
	};

	if (collects) {
		needs.what |= sums_needs.what;
		needs.rows = sums_needs.rows;
	}
	ck_assert_int_eq(gg_prompt_begin(engine, w->seq, n, &needs), 0);
	if (collects && !w->logical)
		w->sums.seen = 0;
	w->summed = collects && (w->summed || !w->logical);
	if (w->logical > SKIP)
		return;
	w->n_stats = 0;
	w->stats_end = 0;
	w->lost = false;
}

static void note_stats(struct walker *w, const int32_t *tokens, uint32_t n)
{
	for (uint32_t i = 0; i < n && !w->lost; i++) {
		if (w->logical + i < SKIP)
			continue;
		w->asked[w->n_stats++] = tokens[i];
		w->stats_end = w->logical + i + 1;
	}
}

static void check_extras(const struct walker *w)
{
	size_t row = (size_t)engine->net.dims[GG_Q_ROWS];
	struct kvmod_request request = { .size = sizeof(request) };
	double *q = calloc(w->n_stats + 1, row * sizeof(*q));

	ck_assert_ptr_nonnull(q);
	ck_assert(!gg_request(engine, w->seq, &request));
	ck_assert_int_eq(!kvmod_segment_at(&request, 0)->q_mean.data, w->lost);
	for (uint32_t i = 0; i < w->n_stats; i++)
		memcpy(q + i * row, queries + (size_t)w->asked[i] * row, row * sizeof(*q));
	if (!w->lost)
		query_reference_check(kvmod_segment_at(&request, 0),
				      &(struct query_set){ .q = q, .n = w->n_stats }, NEAR);
	free(q);
	if (w->seq->norms.wanted && draw(4) == 0)
		norm_reference_check(kvmod_segment_at(&request, 0),
				     engine->net.layers[0].w[GG_ATTN_OUT]->data,
				     engine->net.dims[GG_WIDTH]);
}

static void cancel(void *arg, uint64_t done)
{
	(void)done;
	if (arg)
		gg_engine_ops.cancel(engine);
}

/* What is cancelled has never been. */
static void prompt(struct walker *w)
{
	uint32_t room = (uint32_t)gg_seq_room(engine, w->seq), n = 1 + draw(PROMPT);
	int32_t tokens[PROMPT];
	struct kvmod_batch_item item = {
		.size = sizeof(item), .seq = w->seq, .tokens = tokens, .logits = logits,
	};
	struct kvmod_batch batch = {
		.size = sizeof(batch), .n_items = 1, .item_stride = sizeof(item), .items = &item,
		.progress = cancel,
	};
	int32_t code;

	n = n < room ? n : room;
	if (!n)
		return;
	for (uint32_t i = 0; i < n; i++)
		tokens[i] = (int32_t)draw(TINY_VOCAB);
	item.n_tokens = item.n_logits = n;
	/* After its first pass of eight: something is left to be cancelled. */
	batch.progress_arg = n > 8 && draw(4) == 0 ? w : NULL;
	begin(w, n);
	code = gg_step(engine, &batch);
	ck_assert_int_eq(code, batch.progress_arg ? KVMOD_ECANCELED : KVMOD_OK);
	w->lost = w->lost || code;
	if (code)
		return;
	note_stats(w, tokens, n);
	note(w, tokens, n);
	as_new(w, logits, n);
	look(w);
	check_extras(w);
}

static void cut(struct walker *w)
{
	uint32_t sinks = draw(8), newest = 1 + draw(20);

	struct kvmod_plan *plan = test_plan_ends(w->seq, sinks, newest);

	sums_cut(&w->sums, w->seq, plan);
	test_apply(w->seq, plan);
	look(w);
	if (w->n <= sinks + newest)
		return;
	memmove(w->tokens + sinks, w->tokens + w->n - newest, newest * sizeof(*w->tokens));
	memmove(w->positions + sinks, w->positions + w->n - newest, newest * sizeof(*w->positions));
	w->n = sinks + newest;
}

static void forget(struct walker *w)
{
	uint32_t most = draw(5) && w->logical > 20 ? 20 : (uint32_t)w->logical;
	uint64_t left = most && draw(2) ? w->logical - draw(most) : 0;

	ck_assert_int_eq(gg_seq_truncate(engine, w->seq, left), KVMOD_OK);
	w->summed = w->summed && left == w->logical;
	while (w->n && (uint64_t)w->positions[w->n - 1] >= left)
		w->n--;
	w->logical = left;
	w->lost = w->lost || left < w->stats_end;
}

static void come_or_go(const struct walker *from)
{
	struct walker *w;

	if (n_walkers == WALKERS) {
		gg_seq_close(engine, walkers[--n_walkers].seq);
		return;
	}
	w = &walkers[n_walkers++];
	*w = *from;
	w->seq = test_fork(from->seq);
	check_extras(w);
}

/* A figure, or no room for it; the sequence is the same after it. */
static void replay(struct walker *w)
{
	uint32_t sinks = 1 + draw(5), newest = 2 + draw(5);
	struct kvmod_request request = { .size = sizeof(request) };
	struct kvmod_plan *plan;
	double loss = NAN;
	int32_t code;

	if (w->n <= sinks + newest)
		return;
	plan = test_plan_ends(w->seq, sinks, newest);
	ck_assert(!gg_request(engine, w->seq, &request));
	code = request.replay(&request, plan, 1 + draw(w->n - 1), &loss);
	ck_assert_msg(code == KVMOD_OK || code == KVMOD_ERANGE, "%s", test_engine_error());
	ck_assert(code || (isfinite(loss) && loss >= -1e-6));
	kvmod_plan_free(plan);
}

/* What a few tokens pay, or no room for them; the sequence is the same after it. */
static void reread(struct walker *w)
{
	uint64_t begin = w->logical ? draw((uint32_t)w->logical) : 0;
	struct kvmod_reread what = { .size = sizeof(what), .sinks = 3, .begin = begin, .end = w->logical };
	struct kvmod_request request = { .size = sizeof(request) };
	static float most[SUMS_HEADS * LONGEST];
	int32_t tokens[10], code;
	uint32_t n = 1 + draw(10);

	if (!w->n)
		return;
	for (uint32_t i = 0; i < n; i++)
		tokens[i] = (int32_t)draw(TINY_VOCAB);
	ck_assert(!gg_request(engine, w->seq, &request));
	code = gg_reread_run(&request, &what, tokens, n, most);
	ck_assert_msg(code == (n <= gg_seq_room(engine, w->seq) ? KVMOD_OK : KVMOD_ERANGE), "%s",
		      test_engine_error());
	for (size_t i = 0; !code && i < (w->logical - begin) * engine->net.n_kv_heads; i++)
		ck_assert(most[i] >= 0 && most[i] <= 1.0001f);
	look(w);
}

/* One token of each, if all have room; else of none. */
static void all_at_once(void)
{
	struct kvmod_batch_item items[WALKERS];
	struct kvmod_batch batch = {
		.size = sizeof(batch), .n_items = n_walkers, .item_stride = sizeof(*items), .items = items,
	};
	int32_t tokens[WALKERS], code = KVMOD_OK;

	for (unsigned i = 0; i < n_walkers; i++) {
		tokens[i] = (int32_t)draw(TINY_VOCAB);
		items[i] = (struct kvmod_batch_item){
			.size = sizeof(*items), .seq = walkers[i].seq, .n_tokens = 1, .tokens = &tokens[i],
			.logits = logits + (size_t)i * TINY_VOCAB, .n_logits = 1,
		};
		if (!gg_seq_room(engine, walkers[i].seq))
			code = KVMOD_ERANGE;
	}
	ck_assert_int_eq(gg_step(engine, &batch), code);
	for (unsigned i = 0; i < n_walkers && !code; i++) {
		note(&walkers[i], &tokens[i], 1);
		as_new(&walkers[i], logits + (size_t)i * TINY_VOCAB, 1);
		look(&walkers[i]);
	}
}

static void step(void)
{
	struct walker *w = &walkers[draw(n_walkers)];

	switch (draw(13)) {
	case 0:
	case 1:
		cut(w);
		break;
	case 2:
		forget(w);
		break;
	case 3:
		come_or_go(w);
		break;
	case 4:
		replay(w);
		break;
	case 5:
		all_at_once();
		break;
	case 6:
		reread(w);
		break;
	default:
		prompt(w);
	}
}

START_TEST(walk)
{
	struct tiny_model spec = tiny_models[(unsigned)_i % n_tiny_models];
	int32_t vocabulary[TINY_VOCAB];
	char *model;

	spec.n_layers = 1;
	model = tiny_model_write(&spec, TINY_GOOD);
	engine = test_engine_open(&(struct test_engine_params){
		.model = model, .type = GGML_TYPE_F32, .context = CONTEXT, .batch = 8 });
	ck_assert_msg(engine, "%s", test_engine_error());
	for (int32_t i = 0; i < TINY_VOCAB; i++)
		vocabulary[i] = i;
	queries = calloc(TINY_VOCAB, (size_t)engine->net.dims[GG_Q_ROWS] * sizeof(*queries));
	ck_assert_ptr_nonnull(queries);
	query_reference_first(engine, vocabulary, TINY_VOCAB, queries);
	state = (uint64_t)_i * 7919 + 13;
	memset(walkers, 0, sizeof(walkers));
	walkers[0].seq = test_seq(engine);
	walkers[0].lost = true;
	n_walkers = 1;
	for (int i = 0; i < STEPS; i++) {
		step();
		for (unsigned k = 0; k < n_walkers; k++)
			as_noted(&walkers[k]);
	}
	while (n_walkers)
		gg_seq_close(engine, walkers[--n_walkers].seq);
	test_engine_close(engine);
	unlink(model);
	free(queries);
	free(model);
}
END_TEST

static void add_tests(TCase *tc)
{
	tcase_add_loop_test(tc, walk, 0, (int)(2 * n_tiny_models));
}

int main(void)
{
	return test_main("engine, random calls", add_tests);
}
