/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvmod bench decision: a policy's decision against one plain pass over the same
 * keys, by turns, on the same threads.
 */
#include "core/cli/cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/cli/bench_cache.h"

#define MAX_ROUNDS 1000

struct bench {
	struct cli_common common;
	struct bench_shape shape;
	const char *dtype;
	uint64_t layers, q_heads, kv_heads, head_dim, threads, rounds;
	struct cli_numbers lengths;

	struct kvmod_ctx *ctx;
	struct kvmod_policy *policy, *rival;
	double *ours, *theirs;		/* [rounds], milliseconds */
	json_t *comparisons;
};

/* What one length gave. */
struct result {
	uint32_t n;
	size_t k_bytes;
	double budget;
	struct cli_stats ours, theirs;
};

/* --- options ------------------------------------------------------------------------ */

static uint32_t read_type(const struct cli_command *self, const char *name)
{
	static const char *const names[] = { "f32", "f16", "bf16", "q8_0" };

	for (uint32_t i = 0; i < CLI_COUNT(names); i++)
		if (strcmp(name, names[i]) == 0)
			return KVMOD_F32 + i;
	cli_usage_error(self, "--dtype %s: expected f32, f16, bf16 or q8_0", name);
}

static uint32_t in_range(const struct cli_command *self, const char *what, uint64_t value,
			 uint64_t low, uint64_t high)
{
	if (value < low || value > high)
		cli_usage_error(self, "%s %llu: expected %llu to %llu", what,
				(unsigned long long)value, (unsigned long long)low,
				(unsigned long long)high);
	return (uint32_t)value;
}

static void check_options(const struct cli_command *self, struct bench *b)
{
	struct bench_shape *s = &b->shape;

	s->type = read_type(self, b->dtype);
	s->n_layers = in_range(self, "--layers", b->layers, 1, 1024);
	s->n_q_heads = in_range(self, "--q-heads", b->q_heads, 1, 1024);
	s->n_kv_heads = in_range(self, "--kv-heads", b->kv_heads, 1, s->n_q_heads);
	s->head_dim = in_range(self, "--head-dim", b->head_dim, 1, 1024);
	in_range(self, "--threads", b->threads, 0, 1024);
	in_range(self, "--rounds", b->rounds, 9, MAX_ROUNDS);
	for (size_t i = 0; i < b->lengths.n; i++)
		in_range(self, "--lengths", b->lengths.item[i], 1, 1 << 24);
	if (s->n_q_heads % s->n_kv_heads)
		cli_usage_error(self, "%u query heads cannot share %u KV heads evenly",
				s->n_q_heads, s->n_kv_heads);
	if (s->type == KVMOD_Q8_0 && s->head_dim % 32)
		cli_usage_error(self, "--dtype q8_0 has blocks of 32: --head-dim %u is no multiple",
				s->head_dim);
}

/* --- before it starts ----------------------------------------------------------------- */

/* What the system can still give; UINT64_MAX where it does not say. */
static uint64_t available_memory(void)
{
	FILE *f = fopen("/proc/meminfo", "re");
	unsigned long long kib = UINT64_MAX >> 10;
	char line[128];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return (uint64_t)kib << 10;
}

/* The longest cache must fit before any is filled. */
static int check_memory(const struct bench *b)
{
	char needed[CLI_BYTES_ROOM], there[CLI_BYTES_ROOM];
	uint64_t available = available_memory(), most = 0, longest = 0;

	for (size_t i = 0; i < b->lengths.n; i++)
		if (b->lengths.item[i] > longest)
			longest = b->lengths.item[i];
	most = bench_cache_bytes(&b->shape, (uint32_t)longest, kvmod_policy_needs(b->policy));
	if (most <= available)
		return CLI_OK;
	return cli_error("a cache of %llu positions takes %s, and %s of memory are available: "
			 "give shorter --lengths or fewer --layers", (unsigned long long)longest,
			 cli_bytes(most, needed), cli_bytes(available, there));
}

static int open_policies(struct bench *b)
{
	struct kvmod_model model = bench_model(&b->shape, 1 << 24);

	if (kvmod_add_builtin(b->ctx, &bench_read_module) ||
	    kvmod_policy_open(b->ctx, NULL, "cpu", &model, &b->policy) ||
	    kvmod_policy_open(b->ctx, "plain-read", "cpu", &model, &b->rival))
		return cli_error_kvmod();
	return CLI_OK;
}

static struct kvmod_ctx *make_context(const struct bench *b)
{
	struct cli_common common = b->common;
	struct kvmod_ctx *ctx;
	char threads[48];

	snprintf(threads, sizeof(threads), "kvmod.threads=%llu", (unsigned long long)b->threads);
	if (b->threads && common.overrides.n == CLI_MAX_STRINGS) {
		cli_error("more than %d of -o", CLI_MAX_STRINGS - 1);
		return NULL;
	}
	if (b->threads)
		common.overrides.item[common.overrides.n++] = threads;
	ctx = cli_context(&common);
	return ctx;
}

/* --- rounds ------------------------------------------------------------------------------ */

static int failed_segment(const struct kvmod_request *request, const struct kvmod_plan *plan)
{
	for (uint32_t i = 0; i < plan->n_keeps; i++) {
		const struct kvmod_keep *keep = kvmod_keep_at(plan, i);

		if (keep->status)
			return cli_error("layer %u was not decided (%s)",
					 kvmod_segment_at(request, i)->layer,
					 kvmod_strerror(keep->status));
	}
	return CLI_OK;
}

/* Milliseconds of one decision. */
static int time_once(struct kvmod_policy *policy, const struct kvmod_request *request,
		     double *ms, double *budget)
{
	struct kvmod_plan *plan;
	double begin;
	int err;

	if (kvmod_plan_new(request, &plan))
		return cli_error_kvmod();
	begin = cli_now();
	err = kvmod_decide(policy, request, plan) ? cli_error_kvmod() : CLI_OK;
	*ms = 1e3 * (cli_now() - begin);
	if (!err)
		err = failed_segment(request, plan);
	*budget = kvmod_plan_budget(request, plan);
	kvmod_plan_free(plan);
	return err;
}

/* The first round warms up and does not count. */
static int run_rounds(struct bench *b, const struct kvmod_request *request, struct result *result)
{
	struct cli_progress progress;
	double ours, theirs, all;
	int err = CLI_OK;

	cli_progress_begin(&progress, "rounds", b->rounds + 1);
	for (uint64_t i = 0; i <= b->rounds && !err; i++) {
		err = time_once(b->policy, request, &ours, &result->budget);
		if (!err)
			err = time_once(b->rival, request, &theirs, &all);
		if (i > 0) {
			b->ours[i - 1] = ours;
			b->theirs[i - 1] = theirs;
		}
		cli_progress_to(&progress, i + 1);
	}
	cli_progress_end(&progress);
	if (err)
		return err;
	result->ours = cli_stats(b->ours, b->rounds);
	result->theirs = cli_stats(b->theirs, b->rounds);
	return CLI_OK;
}

/* --- the report ------------------------------------------------------------------------- */

static void print_header(const struct bench *b)
{
	const struct bench_shape *s = &b->shape;
	const char *threads = kvmod_config_get(b->ctx, "kvmod", "threads");

	printf("policy %s, %u layers, %u query heads on %u KV heads of %u, %s, %s threads, %llu rounds\n",
	       kvmod_policy_ops(b->policy)->name, s->n_layers, s->n_q_heads, s->n_kv_heads,
	       s->head_dim, b->dtype, threads ? threads : "all",
	       (unsigned long long)b->rounds);
	printf("%-10s %-10s %-26s %-26s %6s %7s\n", "POSITIONS", "K", "DECISION, ms", "PLAIN PASS, ms",
	       "RATIO", "KEPT");
}

static void print_stats(const struct cli_stats *s)
{
	char text[64];

	snprintf(text, sizeof(text), "%.2f (%.2f to %.2f)", s->median, s->low, s->high);
	printf(" %-26s", text);
}

static int report(struct bench *b, const struct result *r)
{
	double ratio = r->ours.median / r->theirs.median;
	char bytes[CLI_BYTES_ROOM];

	if (b->common.json)
		return json_array_append_new(b->comparisons,
			json_pack("{s:i, s:I, s:o, s:o, s:f, s:f}", "length", (int)r->n,
				  "k_bytes", (json_int_t)r->k_bytes,
				  "decision_ms", cli_stats_json(&r->ours),
				  "read_ms", cli_stats_json(&r->theirs),
				  "ratio", ratio, "budget", r->budget)) ?
			cli_error("out of memory") : CLI_OK;
	printf("%-10u %-10s", r->n, cli_bytes(r->k_bytes, bytes));
	print_stats(&r->ours);
	print_stats(&r->theirs);
	printf(" %6.2f %6.1f%%\n", ratio, 100 * r->budget);
	return cli_flush();
}

static int run_length(struct bench *b, uint32_t n)
{
	struct result result = { .n = n };
	struct bench_cache cache;
	int err;

	if (!bench_cache_make(&cache, &b->shape, n, kvmod_policy_needs(b->policy)))
		return cli_error("out of memory");
	result.k_bytes = cache.k_bytes;
	err = run_rounds(b, &cache.request, &result);
	if (!err)
		err = report(b, &result);
	bench_cache_free(&cache);
	return err;
}

static int run_all(struct bench *b)
{
	int err = open_policies(b);

	if (!err)
		err = check_memory(b);
	if (!err && !b->common.json)
		print_header(b);
	for (size_t i = 0; i < b->lengths.n && !err; i++)
		err = run_length(b, (uint32_t)b->lengths.item[i]);
	if (err || !b->common.json)
		return err;
	return cli_print_json(json_pack("{s:s, s:s, s:i, s:i, s:i, s:i, s:I, s:I, s:O}",
		"policy", kvmod_policy_ops(b->policy)->name, "dtype", b->dtype,
		"layers", (int)b->shape.n_layers, "q_heads", (int)b->shape.n_q_heads,
		"kv_heads", (int)b->shape.n_kv_heads, "head_dim", (int)b->shape.head_dim,
		"threads", (json_int_t)b->threads, "rounds", (json_int_t)b->rounds,
		"comparisons", b->comparisons));
}

static int run(const struct cli_command *self, int argc, char **argv)
{
	struct bench b = {
		.dtype = "f16", .layers = 32, .q_heads = 32, .kv_heads = 8, .head_dim = 128,
		.threads = 2, .rounds = 9, .lengths = { 2, { 8192, 32768 } },
	};
	const struct cli_option options[] = {
		{ "layers", 0, CLI_NUMBER, &b.layers, "N", "layers (32)" },
		{ "q-heads", 0, CLI_NUMBER, &b.q_heads, "N", "query heads of a layer (32)" },
		{ "kv-heads", 0, CLI_NUMBER, &b.kv_heads, "N", "KV heads of a layer (8)" },
		{ "head-dim", 0, CLI_NUMBER, &b.head_dim, "N", "dimensions of a head (128)" },
		{ "lengths", 0, CLI_NUMBERS, &b.lengths, "N,N", "cached positions (8192,32768)" },
		{ "dtype", 0, CLI_STRING, &b.dtype, "TYPE", "f32, f16, bf16 or q8_0 (f16)" },
		{ "threads", 0, CLI_NUMBER, &b.threads, "N", "threads; 0: as configured (2)" },
		{ "rounds", 0, CLI_NUMBER, &b.rounds, "N", "rounds that count, at least 9 (9)" },
		{ 0 },
	};
	int err = CLI_FAILED, first = cli_parse(self, &b.common, options, argc, argv);

	if (first < argc)
		cli_usage_error(self, "`%s`: no operand was expected", argv[first]);
	check_options(self, &b);
	b.ctx = make_context(&b);
	b.ours = calloc(b.rounds, sizeof(*b.ours));
	b.theirs = calloc(b.rounds, sizeof(*b.theirs));
	b.comparisons = json_array();
	if (b.ctx && (!b.ours || !b.theirs || !b.comparisons))
		cli_error("out of memory");
	else if (b.ctx)
		err = run_all(&b);
	kvmod_policy_close(b.policy);
	kvmod_policy_close(b.rival);
	if (b.ctx)
		kvmod_unref(b.ctx);
	json_decref(b.comparisons);
	free(b.ours);
	free(b.theirs);
	return err;
}

const struct cli_command cli_bench_decision = {
	.name = "bench decision",
	.run = run,
	.summary = "a policy's decision over all layers, against one plain pass over the same keys",
	.operands = "",
	.details = "The defaults are the shape of Llama-3-8B. Rounds of both alternate; the median and the\n"
		   "quartiles are printed, and the ratio of the medians.\n",
	.takes = CLI_TAKES_CONFIG | CLI_TAKES_POLICY | CLI_TAKES_JSON,
};
