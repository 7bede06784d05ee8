/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvmod bench decision: a policy's decision against the least that such a policy can
 * do, by turns: on the host with the same threads, on a device by its own clock.
 */
#include "core/bench/decision.h"

#include <stdlib.h>

#define NOT_SAID UINT64_MAX

static struct kvmod_ctx *make_context(const struct decision_bench *b)
{
	struct cli_common common = b->common;
	char threads[48];

	snprintf(threads, sizeof(threads), "kvmod.threads=%llu", (unsigned long long)b->threads);
	if (b->threads && common.overrides.n == CLI_MAX_STRINGS) {
		cli_error("-o: given more than %d times", CLI_MAX_STRINGS - 1);
		return NULL;
	}
	if (b->threads)
		common.overrides.item[common.overrides.n++] = threads;
	return cli_context(&common);
}

/* Checks that the longest cache fits, before any cache is filled. */
static int check_memory(const struct decision_bench *b)
{
	const struct cli_numbers *lengths = &b->options.lengths;
	char why[DECISION_WHY_ROOM];
	uint64_t longest = 0;

	for (size_t i = 0; i < lengths->n; i++)
		if (lengths->item[i] > longest)
			longest = lengths->item[i];
	if (decision_fits(b, &b->shape, (uint32_t)longest, why))
		return CLI_OK;
	return cli_error("a cache of %llu positions takes %s: give shorter --lengths or fewer --layers",
			 (unsigned long long)longest, why);
}

static int run_lengths(struct decision_bench *b)
{
	const struct cli_numbers *lengths = &b->options.lengths;
	int err = check_memory(b);

	if (!err && !b->common.json)
		decision_header(b);
	for (size_t i = 0; i < lengths->n && !err; i++) {
		struct decision_row row;

		err = decision_measure(b, &b->shape, (uint32_t)lengths->item[i], &row);
		if (!err)
			err = decision_report(b, &row);
	}
	return err;
}

static int run_all(struct decision_bench *b)
{
	int err = decision_open(b);

	if (!err)
		err = b->sweep ? decision_sweep(b) : run_lengths(b);
	if (!err && b->common.json)
		err = decision_print_json(b);
	decision_close(b);
	return err;
}

/* Fills in the options that were not given; a sweep has larger defaults. */
static void fill_in(struct bench_options *o, bool sweep)
{
	const struct cli_numbers far = { 2, { 32768, 1 << 20 } };
	const struct bench_options usual = { BENCH_DEFAULTS };

	if (o->lengths.n == 0)
		o->lengths = sweep ? far : usual.lengths;
	if (o->batch == NOT_SAID)
		o->batch = sweep ? 64 : usual.batch;
}

static int run(const struct cli_command *self, int argc, char **argv)
{
	struct decision_bench b = { .options = { BENCH_DEFAULTS }, .threads = 2 };
	const struct cli_option options[] = {
		BENCH_OPTIONS(&b.options),
		{ "q-heads", 0, CLI_NUMBER, &b.options.q_heads, "N", "query heads of a layer [32]" },
		{ "threads", 0, CLI_NUMBER, &b.threads, "N", "threads of both; 0: as configured [2]" },
		{ "sweep", 0, CLI_FLAG, &b.sweep, NULL, "measure how the time grows with the size" },
		{ 0 },
	};
	int err = CLI_FAILED, first;
	size_t rounds;

	b.options.lengths.n = 0;
	b.options.batch = NOT_SAID;
	first = cli_parse(self, &b.common, options, argc, argv);
	if (first < argc)
		cli_usage_error(self, "unexpected operand `%s`", argv[first]);
	fill_in(&b.options, b.sweep);
	b.shape = bench_shape(self, &b.options);
	bench_in_range(self, "--threads", b.threads, 0, 1024);
	rounds = b.options.rounds;
	b.ctx = make_context(&b);
	b.ours = calloc(3 * rounds, sizeof(*b.ours));
	b.wall = b.ours ? b.ours + rounds : NULL;
	b.theirs = b.ours ? b.wall + rounds : NULL;
	b.rows = json_array();
	b.growth = json_array();
	if (b.ctx && (!b.ours || !b.rows || !b.growth))
		cli_error("out of memory");
	else if (b.ctx)
		err = run_all(&b);
	if (b.ctx)
		kvmod_unref(b.ctx);
	json_decref(b.rows);
	json_decref(b.growth);
	free(b.ours);
	return err;
}

const struct cli_command cli_bench_decision = {
	.name = "bench decision",
	.run = run,
	.summary = "a policy's decision over all layers, against the least that it could take",
	.operands = "",
	.details =
"The rival is one plain pass over K. For a policy that asks for more than 4 rows of\n"
"queries the rival is the product of these queries with K, by kvmod's own kernels, and\n"
"GMAC/S compares the decision's multiply-adds with what the processor can do at most.\n"
"The defaults are the shape of Llama-3-8B. Rounds of both alternate; the median and the\n"
"quartiles are printed, and the ratio of the medians. On a device both are timed by its\n"
"own clock, on copies of the cache taken in turn, the rival is a read of as many bytes,\n"
"and WALL is what a caller waits.\n"
"With --sweep lengths go in powers of two up to the last of --lengths (1048576), layers\n"
"and sequences up to --layers and --batch (64) at the first of --lengths (32768).\n",
	.takes = CLI_TAKES_CONFIG | CLI_TAKES_POLICY | CLI_TAKES_JSON,
};
