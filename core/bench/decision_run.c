/* SPDX-License-Identifier: Apache-2.0 */
/* The rounds of `kvmod bench decision`, on the host and on a device. */
#include "core/bench/decision.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Memory left free beside the cache, for the policy's scratch. */
static uint64_t spare_bytes(const struct bench_shape *s, uint32_t n)
{
	return ((uint64_t)256 << 20) + bench_k_bytes(s, n) / 32;
}

static bool on_device(const struct decision_bench *b)
{
	return b->device.ops;
}

/* --- before it starts ------------------------------------------------------------------- */

static int open_device(struct decision_bench *b)
{
	const char *name = b->options.device;

	if (strcmp(name, "cpu") == 0)
		return CLI_OK;
	if (bench_device_open(&b->device, b->ctx, name))
		return CLI_FAILED;
	return bench_device_reads(&b->device) ? CLI_OK :
	       cli_error("the device %s has no plain read to measure against", name);
}

/* Few rows: a pass over K. */
static int open_rival(struct decision_bench *b, const struct kvmod_model *model)
{
	const struct cli_numbers *lengths = &b->options.lengths;
	const struct kvmod_needs *needs = kvmod_policy_needs(b->policy);

	for (size_t i = 0; i < lengths->n; i++) {
		uint32_t rows = kvmod_needs_rows(needs, lengths->item[i]);

		b->n_rows = rows > b->n_rows ? rows : b->n_rows;
	}
	if (b->n_rows <= FEW_ROWS)
		return kvmod_add_builtin(b->ctx, &bench_read_module) ||
		       kvmod_policy_open(b->ctx, "plain-read", "cpu", model, &b->rival) ?
		       cli_error_kvmod() : CLI_OK;
	return kvmod_add_builtin(b->ctx, &bench_product_module) ||
	       kvmod_policy_open(b->ctx, "plain-product", "cpu", model, &b->rival) ||
	       kvmod_policy_open(b->ctx, "plain-peak", "cpu", model, &b->peak) ?
	       cli_error_kvmod() : CLI_OK;
}

int decision_open(struct decision_bench *b)
{
	struct kvmod_model model = bench_model(&b->shape, BENCH_MAX_LENGTH);

	if (open_device(b))
		return CLI_FAILED;
	if (on_device(b)) {
		model.device = b->device.ops->name;
		model.n_device_layers = model.n_layers;
	}
	if (kvmod_policy_open(b->ctx, NULL, b->options.device, &model, &b->policy))
		return cli_error_kvmod();
	if (on_device(b))
		return CLI_OK;
	return open_rival(b, &model);
}

void decision_close(struct decision_bench *b)
{
	kvmod_policy_close(b->policy);
	kvmod_policy_close(b->rival);
	kvmod_policy_close(b->peak);
	kvmod_plan_free(b->plan);
	bench_device_close(&b->device);
}

static bool fits(uint64_t needed, uint64_t available, const char *what, char *why)
{
	char needs[CLI_BYTES_ROOM], there[CLI_BYTES_ROOM];

	if (needed <= available)
		return true;
	snprintf(why, DECISION_WHY_ROOM, "%s, but %s of %smemory are available",
		 cli_bytes(needed, needs), cli_bytes(available, there), what);
	return false;
}

bool decision_fits(const struct decision_bench *b, const struct bench_shape *s, uint32_t n,
		   char *why)
{
	const struct kvmod_needs *needs = kvmod_policy_needs(b->policy);
	uint64_t host = bench_cache_bytes(s, n, needs), there;

	if (!on_device(b))
		return fits(host, bench_host_free_bytes(), "", why);
	there = bench_place_bytes(s, n, needs, &host) + spare_bytes(s, n);
	return fits(host, bench_host_free_bytes(), "", why) &&
	       fits(there, bench_device_free_bytes(&b->device), "the device's ", why);
}

/* --- one decision -------------------------------------------------------------------------- */

/* Checks that every segment was decided, and reads the plan's budget. */
static int read_plan(const struct kvmod_request *request, const struct kvmod_plan *plan,
		     struct decision_row *row)
{
	row->n_whole = 0;
	for (uint32_t i = 0; i < plan->n_keeps; i++) {
		const struct kvmod_keep *keep = kvmod_keep_at(plan, i);

		if (keep->status)
			return cli_error("the policy did not decide layer %u (%s)",
					 kvmod_segment_at(request, i)->layer,
					 kvmod_strerror(keep->status));
		row->n_whole += keep->kind == KVMOD_KEEP_ALL;
	}
	row->budget = kvmod_plan_budget(request, plan);
	return CLI_OK;
}

/* Milliseconds that the caller waits. row NULL: the plan is not looked at. */
static int time_wall(struct decision_bench *b, struct kvmod_policy *policy,
		     const struct kvmod_request *request, double *ms, struct decision_row *row)
{
	double begin;

	if (kvmod_plan_renew(request, &b->plan))
		return cli_error_kvmod();
	begin = cli_now();
	if (kvmod_decide(policy, request, b->plan))
		return cli_error_kvmod();
	*ms = 1e3 * (cli_now() - begin);
	return row ? read_plan(request, b->plan, row) : CLI_OK;
}

/* Milliseconds on the device, which is kept busy while the host prepares. */
static int time_marks(struct decision_bench *b, const struct kvmod_request *request, double *ms)
{
	if (kvmod_plan_renew(request, &b->plan))
		return cli_error_kvmod();
	if (bench_device_begin(&b->device, 2 + request->n_segments / 32))
		return CLI_FAILED;
	if (kvmod_decide(b->policy, request, b->plan))
		return cli_error_kvmod();
	return bench_device_end(&b->device, ms);
}

/* --- rounds ---------------------------------------------------------------------------------- */

struct times {
	double ours, wall, theirs;
};

static int host_round(struct decision_bench *b, void *cache_, struct times *t,
		      struct decision_row *row)
{
	const struct bench_cache *cache = cache_;

	if (time_wall(b, b->policy, &cache->d.request, &t->ours, row) ||
	    time_wall(b, b->rival, &cache->d.request, &t->theirs, NULL))
		return CLI_FAILED;
	t->wall = t->ours;
	return CLI_OK;
}

static int device_round(struct decision_bench *b, void *place_, struct times *t,
			struct decision_row *row)
{
	struct bench_place *place = place_;
	struct bench_device *d = &b->device;
	const struct bench_cache *cache;

	if (time_marks(b, &bench_place_next(place)->d.request, &t->ours) ||
	    BENCH_CALL(d, ops, synchronize, NULL) ||
	    time_wall(b, b->policy, &bench_place_next(place)->d.request, &t->wall, row))
		return CLI_FAILED;
	cache = bench_place_next(place);
	return bench_device_time_read(d, cache->k, (cache->k_bytes + 15) / 16 * 16, &t->theirs);
}

typedef int round_fn(struct decision_bench *b, void *memory, struct times *t,
		     struct decision_row *row);

/* The first round is warm-up and not timed. */
static int run_rounds(struct decision_bench *b, round_fn *one, void *memory,
		      struct decision_row *row)
{
	size_t rounds = b->options.rounds;
	struct cli_progress progress;
	struct times t;
	int err = CLI_OK;

	cli_progress_begin(&progress, "rounds", rounds + 1);
	for (size_t i = 0; i <= rounds && !err; i++) {
		size_t at = i ? i - 1 : 0;

		err = one(b, memory, &t, row);
		b->ours[at] = t.ours;
		b->wall[at] = t.wall;
		b->theirs[at] = t.theirs;
		cli_progress_to(&progress, i + 1);
	}
	cli_progress_end(&progress);
	if (err)
		return err;
	row->ours = cli_stats(b->ours, rounds);
	row->wall = cli_stats(b->wall, rounds);
	row->theirs = cli_stats(b->theirs, rounds);
	return CLI_OK;
}

#define PEAK_ROUNDS 5

/* After the rounds, which so much arithmetic would slow down: some processors clock lower. */
static int measure_peak(struct decision_bench *b, const struct kvmod_request *request,
			struct decision_row *row)
{
	double ms, least = INFINITY;

	for (int i = 0; i < PEAK_ROUNDS; i++) {
		if (time_wall(b, b->peak, request, &ms, NULL))
			return CLI_FAILED;
		least = ms < least ? ms : least;
	}
	row->peak = (double)BENCH_PEAK_MACS / least;
	return CLI_OK;
}

static int measure_on_host(struct decision_bench *b, const struct bench_shape *s, uint32_t n,
			   struct decision_row *row)
{
	struct bench_cache cache;
	int err;

	if (!bench_cache_make(&cache, s, n, kvmod_policy_needs(b->policy)))
		return cli_error("out of memory");
	err = run_rounds(b, host_round, &cache, row);
	if (!err && b->peak)
		err = measure_peak(b, &cache.d.request, row);
	bench_cache_free(&cache);
	return err;
}

static int measure_on_device(struct decision_bench *b, const struct bench_shape *s, uint32_t n,
			     struct decision_row *row)
{
	struct bench_place place;
	int err = bench_place_make(&place, &b->device, s, n, kvmod_policy_needs(b->policy),
				   spare_bytes(s, n));

	if (!err)
		err = run_rounds(b, device_round, &place, row);
	bench_place_free(&place);
	return err;
}

int decision_measure(struct decision_bench *b, const struct bench_shape *s, uint32_t n,
		     struct decision_row *row)
{
	*row = (struct decision_row){
		.n_layers = s->n_layers, .n_sequences = s->n_sequences, .n = n,
		.k_bytes = bench_k_bytes(s, n),
		.macs = bench_macs(s, n, kvmod_needs_rows(kvmod_policy_needs(b->policy), n)),
	};
	return on_device(b) ? measure_on_device(b, s, n, row) : measure_on_host(b, s, n, row);
}
