/* SPDX-License-Identifier: Apache-2.0 */
/* From the times of `kvmod bench engine` to what is said of them. */
#include "core/bench/engine.h"

/* --- comparisons ----------------------------------------------------------------------- */

static struct bench_comparison compare(double *ours, double *rival, size_t n)
{
	struct bench_comparison c = { .ours = cli_stats(ours, n), .rival = cli_stats(rival, n) };

	c.ratio = c.ours.median / c.rival.median;
	return c;
}

/* Nothing where one of the two numbers is not known. */
static struct bench_floor floor_of(const struct bench *b, const struct bench_runner *r,
				   double seconds)
{
	struct bench_floor f = { 0 };

	if (!b->weights || b->read_rate <= 0)
		return f;
	f.bytes = b->weights + r->used;
	f.seconds = (double)f.bytes / b->read_rate;
	f.ratio = seconds / f.seconds;
	return f;
}

struct bench_result bench_evaluate(struct bench *b, uint64_t length)
{
	struct bench_runner *full = &b->runners[BENCH_FULL], *cut = &b->runners[BENCH_CUT];
	struct bench_runner *rival = &b->runners[BENCH_RIVAL];
	struct bench_result r = {
		.length = length,
		.prefill = compare(full->prompt, rival->prompt, b->prompts),
		.first_token = compare(cut->prompt, rival->prompt, b->prompts),
		.decode = compare(full->decode, rival->decode, b->rounds),
		.decode_cut = compare(cut->decode, rival->decode, b->rounds),
		.decode_short = cli_stats(b->runners[BENCH_SMALL].decode, b->rounds),
		.budget = cut->budget,
		.on_device = b->device.ops,
		.free_before = cut->free_before,
		.free_after = cut->free_after,
	};
	double t0 = r.decode_short.median;

	r.model = t0 + r.budget * (r.decode.ours.median - t0);
	r.model_ratio = r.decode_cut.ours.median / r.model;
	r.floor = floor_of(b, full, r.decode.ours.median);
	r.floor_cut = floor_of(b, cut, r.decode_cut.ours.median);
	return r;
}

/* --- reporting ------------------------------------------------------------------------------ */

static void print_line(const char *what, const struct bench_comparison *c, double scale, const char *unit)
{
	printf("  %-24s %9.2f %s (%.2f to %.2f)  rival %9.2f (%.2f to %.2f)  ratio %.3f\n", what,
	       scale * c->ours.median, unit, scale * c->ours.low, scale * c->ours.high,
	       scale * c->rival.median, scale * c->rival.low, scale * c->rival.high, c->ratio);
}

static void print_floor(const char *what, const struct bench_floor *f, double seconds)
{
	char bytes[CLI_BYTES_ROOM];

	printf("  %-24s %9.2f ms for %s of weights and cache: %.0f GB/s, within %.3f of the %.2f ms of one read\n",
	       what, 1e3 * seconds, cli_bytes(f->bytes, bytes), 1e-9 * (double)f->bytes / seconds,
	       f->ratio, 1e3 * f->seconds);
}

static void print_device(const struct bench_result *r)
{
	char before[CLI_BYTES_ROOM], after[CLI_BYTES_ROOM];

	if (r->floor.bytes) {
		print_floor("bytes, full cache", &r->floor, r->decode.ours.median);
		print_floor("bytes, cut cache", &r->floor_cut, r->decode_cut.ours.median);
	} else {
		printf("  how fast weights and cache can be read is not known: no room to measure it, or no model file\n");
	}
	printf("  free on the device: %s before the decision and the cut, %s after\n",
	       cli_bytes(r->free_before, before), cli_bytes(r->free_after, after));
}

void bench_print_result(const struct bench_result *r)
{
	double n = (double)r->length;

	printf("%llu tokens: prefill %.1f tok/s, rival %.1f; decode %.1f tok/s, cut %.1f, rival %.1f\n",
	       (unsigned long long)r->length, n / r->prefill.ours.median, n / r->prefill.rival.median,
	       1 / r->decode.ours.median, 1 / r->decode_cut.ours.median, 1 / r->decode.rival.median);
	print_line("prefill", &r->prefill, 1e3, "ms");
	print_line("first token, decided", &r->first_token, 1e3, "ms");
	print_line("decode, full cache", &r->decode, 1e3, "ms");
	print_line("decode, cut cache", &r->decode_cut, 1e3, "ms");
	printf("  budget %.4f; %.2f ms a token at %d positions; by these %.2f ms on the cut cache: ratio %.3f\n",
	       r->budget, 1e3 * r->decode_short.median, BENCH_SHORT, 1e3 * r->model, r->model_ratio);
	if (r->on_device)
		print_device(r);
}

static json_t *comparison_json(const struct bench_comparison *c)
{
	return json_pack("{s:o, s:o, s:f}", "ours_s", cli_stats_json(&c->ours),
			 "rival_s", cli_stats_json(&c->rival), "ratio", c->ratio);
}

static json_t *floor_json(const struct bench_floor *f)
{
	if (!f->bytes)
		return json_null();
	return json_pack("{s:I, s:f, s:f}", "bytes", (json_int_t)f->bytes, "read_s", f->seconds,
			 "ratio", f->ratio);
}

static json_t *device_json(const struct bench_result *r)
{
	if (!r->on_device)
		return json_null();
	return json_pack("{s:I, s:I, s:o, s:o}", "free_before", (json_int_t)r->free_before,
			 "free_after", (json_int_t)r->free_after, "full", floor_json(&r->floor),
			 "cut", floor_json(&r->floor_cut));
}

json_t *bench_result_json(const struct bench_result *r)
{
	return json_pack("{s:I, s:o, s:o, s:o, s:o, s:f, s:{s:o, s:f, s:f}, s:o}",
			 "tokens", (json_int_t)r->length,
			 "prefill", comparison_json(&r->prefill),
			 "first_token", comparison_json(&r->first_token),
			 "decode_full", comparison_json(&r->decode),
			 "decode_cut", comparison_json(&r->decode_cut),
			 "budget", r->budget,
			 "decode_cut_model", "short_s", cli_stats_json(&r->decode_short),
			 "expected_s", r->model, "ratio", r->model_ratio,
			 "device", device_json(r));
}
