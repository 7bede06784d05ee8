/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvmod bench gather: times the compaction of K and V of all layers in one call against
 * a copy of the kept bytes on the same device.
 */
#include "core/bench/device.h"
#include "core/bench/options.h"

#include <stdlib.h>
#include <string.h>

#include "core/testkit/random.h"

#define SINKS 4

/* The two ways to name the kept positions. */
enum { BY_SPANS, BY_LISTS, WAYS };
static const char *const way_names[WAYS] = { "spans", "lists" };

struct gather_bench {
	struct cli_common common;
	struct bench_options options;
	struct bench_shape shape;
	double keep;

	struct kvmod_ctx *ctx;
	struct bench_device device;
	double *ms;			/* [WAYS + 1][rounds]; the last row is the copy's */
	json_t *rows;
};

/* What is gathered at one length. */
struct compaction {
	struct bench_place place;	/* the caches to gather from */
	void *to;
	uint32_t n, kept;
	uint64_t kept_bytes;		/* of K and V, of all segments */
	struct kvmod_span spans[2];	/* sinks and newest */
	uint32_t *lists;		/* [segment][KV head][kept] */
	struct kvmod_gather *gathers;	/* [segment][KV head][K, V] */
	uint32_t n_gathers;
};

/* --- what to gather -------------------------------------------------------------------- */

static const struct kvmod_needs k_and_v = {
	.size = sizeof(k_and_v), .what = KVMOD_NEED_K | KVMOD_NEED_V,
};

static void compaction_free(struct gather_bench *b, struct compaction *c)
{
	bench_place_free(&c->place);
	if (c->to)
		b->device.ops->free(b->device.self, c->to);
	free(c->lists);
	free(c->gathers);
}

/* Draws one position from each of `kept` equal stretches. */
static void draw(struct kv_random *r, uint32_t n, uint32_t kept, uint32_t *list)
{
	for (uint64_t i = 0; i < kept; i++) {
		uint32_t begin = (uint32_t)(i * n / kept), end = (uint32_t)((i + 1) * n / kept);

		list[i] = kv_random_range(r, begin, end - 1);
	}
}

static int plan(struct gather_bench *b, struct compaction *c)
{
	const struct bench_shape *s = &b->shape;
	size_t n_heads = (size_t)bench_segments(s) * s->n_kv_heads;
	uint32_t sinks = c->kept < SINKS ? c->kept : SINKS;
	struct kv_random r = { c->n };

	c->n_gathers = (uint32_t)(2 * n_heads);
	c->gathers = calloc(c->n_gathers, sizeof(*c->gathers));
	c->lists = malloc(n_heads * c->kept * sizeof(*c->lists));
	if (!c->gathers || !c->lists)
		return cli_error("out of memory");
	c->spans[0] = (struct kvmod_span){ .end = sinks };
	c->spans[1] = (struct kvmod_span){ .begin = c->n - (c->kept - sinks), .end = c->n };
	for (size_t i = 0; i < n_heads; i++)
		draw(&r, c->n, c->kept, c->lists + i * c->kept);
	return CLI_OK;
}

/* Points the gathers at the next copy of the cache. */
static void aim(struct gather_bench *b, struct compaction *c, int way)
{
	const struct bench_cache *cache = bench_place_next(&c->place);
	size_t row = kvmod_row_bytes(b->shape.type, b->shape.head_dim);

	for (uint32_t i = 0; i < c->n_gathers; i++) {
		const struct kvmod_head *head = &cache->d.heads[i / 2];

		c->gathers[i] = (struct kvmod_gather){
			.size = sizeof(c->gathers[i]), .row_bytes = row,
			.src = i % 2 ? head->v.data : head->k.data,
			.dst = (char *)c->to + i * c->kept * row,
			.src_stride = (int64_t)row, .dst_stride = (int64_t)row, .n_rows = c->n,
		};
		if (way == BY_SPANS) {
			c->gathers[i].spans = c->spans;
			c->gathers[i].n_spans = CLI_COUNT(c->spans);
		} else {
			c->gathers[i].indices = c->lists + (size_t)(i / 2) * c->kept;
			c->gathers[i].n_indices = c->kept;
		}
	}
}

/* --- rounds -------------------------------------------------------------------------------- */

static int time_gather(struct gather_bench *b, struct compaction *c, int way, double *ms)
{
	struct bench_device *d = &b->device;

	aim(b, c, way);
	if (bench_device_begin(d, 2) ||
	    BENCH_CALL(d, ops, gather, NULL, c->gathers, c->n_gathers, sizeof(*c->gathers)))
		return CLI_FAILED;
	return bench_device_end(d, ms);
}

/* Copies half of the kept bytes from K, half from V. */
static int time_copy(struct gather_bench *b, struct compaction *c, double *ms)
{
	const struct bench_cache *cache = bench_place_next(&c->place);
	uint64_t half = c->kept_bytes / 2;

	if (bench_device_begin(&b->device, 2) ||
	    bench_device_copy(&b->device, c->to, cache->k, half) ||
	    bench_device_copy(&b->device, (char *)c->to + half, cache->v, half))
		return CLI_FAILED;
	return bench_device_end(&b->device, ms);
}

/* The first round is warm-up and not timed. */
static int run_rounds(struct gather_bench *b, struct compaction *c)
{
	size_t rounds = b->options.rounds;
	struct cli_progress progress;
	int err = CLI_OK;

	cli_progress_begin(&progress, "rounds", rounds + 1);
	for (size_t i = 0; i <= rounds && !err; i++) {
		double *ms = b->ms + (i ? i - 1 : 0);

		for (int way = 0; way < WAYS && !err; way++)
			err = time_gather(b, c, way, ms + (size_t)way * rounds);
		if (!err)
			err = time_copy(b, c, ms + WAYS * rounds);
		cli_progress_to(&progress, i + 1);
	}
	cli_progress_end(&progress);
	return err;
}

/* --- the report ------------------------------------------------------------------------------- */

static void print_header(const struct gather_bench *b)
{
	const struct bench_shape *s = &b->shape;

	printf("gather on %s, K and V of %u layers", b->device.ops->name, s->n_layers);
	if (s->n_sequences > 1)
		printf(" of %u sequences", s->n_sequences);
	printf(", %u KV heads of %u, %s, %llu rounds\n", s->n_kv_heads, s->head_dim,
	       b->options.dtype, (unsigned long long)b->options.rounds);
	printf("%-10s %-10s %-10s %-6s %-28s %-28s %9s %9s\n", "POSITIONS", "KEPT", "BYTES", "BY",
	       "GATHER, ms", "COPY, ms", "GB/s", "OF A COPY");
}

static void print_stats(const struct cli_stats *s)
{
	char text[64];

	snprintf(text, sizeof(text), "%.4f (%.4f to %.4f)", s->median, s->low, s->high);
	printf(" %-28s", text);
}

/* gbs counts bytes read and bytes written. */
static int report_way(struct gather_bench *b, const struct compaction *c, int way,
		      const struct cli_stats *gather, const struct cli_stats *copy)
{
	double gbs = 2e-6 * (double)c->kept_bytes / gather->median;
	double share = copy->median / gather->median;
	char bytes[CLI_BYTES_ROOM];

	if (b->common.json)
		return json_array_append_new(b->rows,
			json_pack("{s:i, s:i, s:I, s:s, s:o, s:o, s:f, s:f}",
				  "length", (int)c->n, "kept", (int)c->kept,
				  "kept_bytes", (json_int_t)c->kept_bytes, "by", way_names[way],
				  "gather_ms", cli_stats_json(gather),
				  "copy_ms", cli_stats_json(copy),
				  "gb_per_s", gbs, "of_copy", share)) ?
			cli_error("out of memory") : CLI_OK;
	printf("%-10u %-10u %-10s %-6s", c->n, c->kept, cli_bytes(c->kept_bytes, bytes),
	       way_names[way]);
	print_stats(gather);
	print_stats(copy);
	printf(" %9.1f %8.1f%%\n", gbs, 100 * share);
	return cli_flush();
}

static int report(struct gather_bench *b, const struct compaction *c)
{
	size_t rounds = b->options.rounds;
	struct cli_stats copy = cli_stats(b->ms + WAYS * rounds, rounds);
	int err = CLI_OK;

	for (int way = 0; way < WAYS && !err; way++) {
		struct cli_stats gather = cli_stats(b->ms + (size_t)way * rounds, rounds);

		err = report_way(b, c, way, &gather, &copy);
	}
	return err;
}

/* --- one length ---------------------------------------------------------------------------------- */

static int fits(uint32_t n, uint64_t bytes, uint64_t available, const char *whose)
{
	char needed[CLI_BYTES_ROOM], there[CLI_BYTES_ROOM];

	if (bytes <= available)
		return CLI_OK;
	return cli_error("a cache of %u positions and what is kept take %s, but %s of %smemory are "
			 "available: give shorter --lengths or fewer --layers", n,
			 cli_bytes(bytes, needed), cli_bytes(available, there), whose);
}

/* The cache is built on the host first, whatever the device. */
static int check_memory(const struct gather_bench *b, const struct compaction *c)
{
	uint64_t host, bytes;

	bytes = bench_place_bytes(&b->shape, c->n, &k_and_v, &host) + c->kept_bytes;
	if (strcmp(b->device.ops->name, CLI_BUILT_IN_DEVICE) == 0)
		return fits(c->n, host + bytes, bench_host_free_bytes(), "");
	if (fits(c->n, host, bench_host_free_bytes(), ""))
		return CLI_FAILED;
	return fits(c->n, bytes, bench_device_free_bytes(&b->device), "the device's ");
}

static int prepare(struct gather_bench *b, struct compaction *c, uint32_t n)
{
	size_t row = kvmod_row_bytes(b->shape.type, b->shape.head_dim);

	c->n = n;
	c->kept = (uint32_t)(b->keep * n);
	c->kept = c->kept ? c->kept : 1;
	c->kept_bytes = 2 * row * c->kept * b->shape.n_kv_heads * bench_segments(&b->shape);
	if (check_memory(b, c) || plan(b, c) ||
	    bench_place_make(&c->place, &b->device, &b->shape, n, &k_and_v,
			     c->kept_bytes + ((uint64_t)256 << 20)))
		return CLI_FAILED;
	return bench_device_alloc(&b->device, c->kept_bytes, &c->to);
}

static int run_length(struct gather_bench *b, uint32_t n)
{
	struct compaction c = { .place = { .device = &b->device } };
	int err = prepare(b, &c, n);

	if (!err)
		err = run_rounds(b, &c);
	if (!err)
		err = report(b, &c);
	compaction_free(b, &c);
	return err;
}

static int run_all(struct gather_bench *b)
{
	const struct cli_numbers *lengths = &b->options.lengths;
	int err = bench_device_open(&b->device, b->ctx, b->options.device);

	if (!err && !b->common.json)
		print_header(b);
	for (size_t i = 0; i < lengths->n && !err; i++)
		err = run_length(b, (uint32_t)lengths->item[i]);
	if (!err && b->common.json)
		err = cli_print_json(json_pack("{s:s, s:s, s:i, s:i, s:i, s:i, s:f, s:I, s:O}",
			"device", b->options.device, "dtype", b->options.dtype,
			"layers", (int)b->shape.n_layers, "kv_heads", (int)b->shape.n_kv_heads,
			"head_dim", (int)b->shape.head_dim, "batch", (int)b->shape.n_sequences,
			"keep", b->keep, "rounds", (json_int_t)b->options.rounds,
			"comparisons", b->rows));
	bench_device_close(&b->device);
	return err;
}

static int run(const struct cli_command *self, int argc, char **argv)
{
	struct gather_bench b = { .options = { BENCH_DEFAULTS }, .keep = 0.5 };
	const struct cli_option options[] = {
		BENCH_OPTIONS(&b.options),
		{ "keep", 0, CLI_REAL, &b.keep, "SHARE", "the share of positions to keep [0.5]" },
		{ 0 },
	};
	int err = CLI_FAILED, first = cli_parse(self, &b.common, options, argc, argv);

	if (first < argc)
		cli_usage_error(self, "unexpected operand `%s`", argv[first]);
	if (b.keep <= 0 || b.keep > 1)
		cli_usage_error(self, "--keep=%g: expected a number above 0 and at most 1", b.keep);
	b.options.q_heads = bench_in_range(self, "--kv-heads", b.options.kv_heads, 1, 1024);
	b.shape = bench_shape(self, &b.options);
	b.ctx = cli_context(&b.common);
	b.ms = calloc((WAYS + 1) * b.options.rounds, sizeof(*b.ms));
	b.rows = json_array();
	if (b.ctx && (!b.ms || !b.rows))
		cli_error("out of memory");
	else if (b.ctx)
		err = run_all(&b);
	if (b.ctx)
		kvmod_unref(b.ctx);
	json_decref(b.rows);
	free(b.ms);
	return err;
}

const struct cli_command cli_bench_gather = {
	.name = "bench gather",
	.run = run,
	.summary = "time the compaction of K and V of all layers against a copy",
	.operands = "",
	.details =
"The kept positions are given as two spans, the oldest and the newest, and as a list for\n"
"each KV head; either way one call compacts all layers. The rival is a copy of as many\n"
"adjacent bytes. GB/s counts bytes read and bytes written.\n",
	.takes = CLI_TAKES_CONFIG | CLI_TAKES_JSON,
};
