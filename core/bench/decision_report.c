/* SPDX-License-Identifier: Apache-2.0 */
/* Prints the results of `kvmod bench decision`. */
#include "core/bench/decision.h"

/* A device's clock is finer than a microsecond. */
static int stats_width(const struct decision_bench *b)
{
	return b->device.ops ? 30 : 26;
}

static void print_size_header(const struct decision_bench *b)
{
	if (b->sweep)
		printf("%-7s %-10s ", "LAYERS", "SEQUENCES");
	printf("%-10s %-10s ", "POSITIONS", "K");
}

void decision_header(const struct decision_bench *b)
{
	const struct bench_shape *s = &b->shape;
	const char *threads = kvmod_config_get(b->ctx, "kvmod", "threads");

	printf("policy %s", kvmod_policy_ops(b->policy)->name);
	if (b->device.ops)
		printf(" on %s", b->device.ops->name);
	if (!b->sweep)
		printf(", %u layers", s->n_layers);
	if (!b->sweep && s->n_sequences > 1)
		printf(" of %u sequences", s->n_sequences);
	printf(", %u query heads on %u KV heads of %u, %s", s->n_q_heads, s->n_kv_heads, s->head_dim,
	       b->options.dtype);
	if (!b->device.ops)
		printf(", %s threads", threads ? threads : "all");
	printf(", %llu rounds\n", (unsigned long long)b->options.rounds);
	if (b->peak)
		printf("against the product of %u rows of queries, %u heads each, with K, "
		       "by kvmod's own kernels\n", b->n_rows, s->n_q_heads);
	print_size_header(b);
	printf("%-*s %-*s %6s %7s %10s", stats_width(b), "DECISION, ms", stats_width(b),
	       b->device.ops ? "PLAIN READ, ms" : b->peak ? "PRODUCT, ms" : "PLAIN PASS, ms",
	       "RATIO", "KEPT", "WHOLE");
	printf("%s\n", b->device.ops ? "  WALL, ms" : b->peak ? "     GMAC/S     PEAK" : "");
}

static void print_stats(const struct decision_bench *b, const struct cli_stats *s)
{
	int places = b->device.ops ? 4 : 2;
	char text[64];

	snprintf(text, sizeof(text), "%.*f (%.*f to %.*f)", places, s->median, places, s->low,
		 places, s->high);
	printf(" %-*s", stats_width(b), text);
}

/* From a number a millisecond. */
static double giga_a_second(double x)
{
	return x / 1e6;
}

static void print_row(const struct decision_bench *b, const struct decision_row *r)
{
	char bytes[CLI_BYTES_ROOM], whole[32];

	if (b->sweep)
		printf("%-7u %-10u ", r->n_layers, r->n_sequences);
	printf("%-10u %-10s", r->n, cli_bytes(r->k_bytes, bytes));
	print_stats(b, &r->ours);
	print_stats(b, &r->theirs);
	snprintf(whole, sizeof(whole), "%u of %u", r->n_whole, r->n_layers * r->n_sequences);
	printf(" %6.2f %6.1f%% %10s", r->ours.median / r->theirs.median, 100 * r->budget, whole);
	if (b->device.ops)
		printf(" %9.4f", r->wall.median);
	else if (b->peak)
		printf(" %10.1f %8.1f", giga_a_second(r->macs / r->ours.median),
		       giga_a_second(r->peak));
	printf("\n");
}

int decision_report(struct decision_bench *b, const struct decision_row *r)
{
	json_t *o;
	int err = 0;

	if (!b->common.json) {
		print_row(b, r);
		return cli_flush();
	}
	o = json_pack("{s:i, s:i, s:i, s:I, s:o, s:o, s:o, s:f, s:f, s:i}",
		      "length", (int)r->n, "layers", (int)r->n_layers,
		      "sequences", (int)r->n_sequences, "k_bytes", (json_int_t)r->k_bytes,
		      "decision_ms", cli_stats_json(&r->ours),
		      "rival_ms", cli_stats_json(&r->theirs),
		      "wall_ms", cli_stats_json(&r->wall),
		      "ratio", r->ours.median / r->theirs.median, "budget", r->budget,
		      "whole_segments", (int)r->n_whole);
	if (o && b->peak)
		err = json_object_update_new(o, json_pack("{s:f, s:f}",
			"gmacs", giga_a_second(r->macs / r->ours.median),
			"peak_gmacs", giga_a_second(r->peak)));
	return json_array_append_new(b->rows, o) || err ? cli_error("out of memory") : CLI_OK;
}

int decision_print_json(const struct decision_bench *b)
{
	const struct bench_shape *s = &b->shape;
	json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:I, s:I, s:O}",
		"policy", kvmod_policy_ops(b->policy)->name, "device", b->options.device,
		"rival", b->peak ? "product" : "read",
		"dtype", b->options.dtype, "layers", (int)s->n_layers,
		"q_heads", (int)s->n_q_heads, "kv_heads", (int)s->n_kv_heads,
		"head_dim", (int)s->head_dim, "batch", (int)s->n_sequences,
		"threads", (json_int_t)b->threads, "rounds", (json_int_t)b->options.rounds,
		"comparisons", b->rows);

	if (o && b->sweep && json_object_set(o, "growth", b->growth)) {
		json_decref(o);
		o = NULL;
	}
	return cli_print_json(o);
}
