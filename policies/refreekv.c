/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ReFreeKV (arXiv 2502.16886): no budget is given. Each layer keeps the shortest
 * prefix of a ranking whose attention has all but `threshold` of the whole norm.
 */
#include "policies/refreekv.h"

/* Segments are decided together while their scratch fits in so many bytes. */
#define BATCH_BYTES ((size_t)64 << 20)

KVMOD_PARAMS(policy, refreekv, REFREEKV_PARAMS);

/* --- what is to be cut ---------------------------------------------------------- */

/* Is there anything to decide? cut then has what follows from lengths and parameters. */
static bool cut_wanted(const struct refreekv *self, const struct kvmod_segment *s, struct cut *cut)
{
	uint32_t n = kvmod_head_at(s, 0)->n;

	memset(cut, 0, sizeof(*cut));
	cut->self = self;
	cut->rows.segment = s;
	if (refreekv_leaves(self, s))
		return false;
	if (!kv_same_lengths(s)) {
		cut->status = KVMOD_ENOTSUP;
		return true;
	}
	cut->m = refreekv_ranked(self, s);
	cut->n_heads = s->n_q_heads;
	cut->tail = refreekv_tail(self, n);
	cut->n_rows = refreekv_norm_rows(self, s);
	cut->n_window = refreekv_rank_rows(self, s);
	cut->rows.n = n;
	cut->rows.split = (uint32_t)(self->sinks < n ? self->sinks : n);
	return cut->m > 0;
}

/* Hands out whole cache lines; with base NULL it only counts. */
struct arena {
	char *base;
	size_t used;
};

static void *take(struct arena *arena, size_t n, size_t size)
{
	void *memory = arena->base ? arena->base + arena->used : NULL;

	arena->used += (n * size + 63) / 64 * 64;
	return memory;
}

/* Gives a cut its scratch; returns how much. memory NULL: only that. */
static size_t cut_lay_out(struct cut *cut, void *memory)
{
	const struct kvmod_segment *s = cut->rows.segment;
	struct arena arena = { memory, 0 };
	uint32_t n = cut->rows.n, split = cut->rows.split, n_heads = cut->n_heads;
	uint32_t n_rows = cut->n_window > cut->n_rows ? cut->n_window : cut->n_rows;
	void *rows;

	if (cut->status)
		return 0;
	rows = take(&arena, kv_rows_bytes(s, n, n_rows, split), 1);
	kv_rows_init(&cut->rows, s, n, n_rows, split, rows);
	cut->norm = take(&arena, n_heads, sizeof(double));
	if (cut->self->rank == RANK_POSITION) {
		size_t sets = n_rows > 1 ? cut->rows.n_chunks : 1;

		cut->squares = take(&arena, n_heads * (cut->rows.n_tiles + (size_t)1), sizeof(double));
		cut->inside = take(&arena, (size_t)n_heads * KV_TILE, sizeof(double));
		cut->a = take(&arena, sets * n_heads * KV_TILE, sizeof(float));
		return arena.used;
	}
	cut->attention = take(&arena, (size_t)n_heads * n, sizeof(float));
	cut->score = take(&arena, (size_t)s->n_kv_heads * n, sizeof(float));
	cut->order = take(&arena, (size_t)s->n_kv_heads * cut->m, sizeof(uint64_t));
	cut->spare = take(&arena, cut->m, sizeof(uint64_t));
	cut->dropped = take(&arena, n_heads, sizeof(double));
	return arena.used;
}

static size_t table_bytes(const struct kvmod_request *request)
{
	return (request->n_segments * sizeof(struct cut) + 63) / 64 * 64;
}

static int32_t refreekv_workspace(void *self, const struct kvmod_request *request,
				  struct kvmod_workspace *need)
{
	size_t all = 0, largest = 0;

	for (uint32_t i = 0; i < request->n_segments; i++) {
		struct cut cut;
		size_t bytes;

		if (!cut_wanted(self, kvmod_segment_at(request, i), &cut))
			continue;
		bytes = cut_lay_out(&cut, NULL);
		all += bytes;
		largest = bytes > largest ? bytes : largest;
	}
	if (all > BATCH_BYTES)
		all = largest > BATCH_BYTES ? largest : BATCH_BYTES;
	need->host = table_bytes(request) + all;
	return 0;
}

/* --- deciding a batch, on the host's threads ---------------------------------------- */

struct batch {
	struct cut *cuts;
	uint32_t n;
	uint32_t n_chunks, n_kv_heads;	/* the most that a cut has */
};

static void load(void *arg, uint32_t i)
{
	struct cut *cut = &((struct batch *)arg)->cuts[i];
	const struct kvmod_segment *s = cut->rows.segment;
	uint32_t n_rows = cut->rows.n_rows;

	if (cut->status)
		return;
	kv_rows_load(&cut->rows);
	for (uint32_t g = 0; g < s->n_kv_heads; g++)
		for (uint32_t row = 0; row < n_rows; row++)
			cut->rows.sees[g * n_rows + row] =
				kv_row_sees(s, kvmod_head_at(s, g), s->n_rows - n_rows + row);
}

/* The i-th piece of work: a chunk of one KV head. NULL: there is none. */
static struct cut *piece(const struct batch *batch, uint32_t i, uint32_t *chunk, uint32_t *g)
{
	struct cut *cut = &batch->cuts[i / batch->n_kv_heads / batch->n_chunks];

	*chunk = i / batch->n_kv_heads % batch->n_chunks;
	*g = i % batch->n_kv_heads;
	if (cut->status || *chunk >= cut->rows.n_chunks || *g >= cut->rows.segment->n_kv_heads)
		return NULL;
	return cut;
}

static void scan(void *arg, uint32_t i)
{
	uint32_t chunk, g;
	struct cut *cut = piece(arg, i, &chunk, &g);

	if (cut)
		kv_rows_scan(&cut->rows, chunk, g);
}

static void total(void *arg, uint32_t i)
{
	struct cut *cut = &((struct batch *)arg)->cuts[i];

	if (!cut->status)
		cut->status = kv_rows_total(&cut->rows);
}

/* One row ranked by position has all that it needs from the scan. */
static void attend(void *arg, uint32_t i)
{
	uint32_t chunk, g;
	struct cut *cut = piece(arg, i, &chunk, &g);

	if (cut && cut->self->rank == RANK_ATTENTION)
		refreekv_attention_chunk(cut, chunk, g);
	else if (cut && cut->rows.n_rows > 1)
		refreekv_position_chunk(cut, chunk, g);
}

static void decide(void *arg, uint32_t i)
{
	struct cut *cut = &((struct batch *)arg)->cuts[i];

	if (cut->status)
		return;
	if (cut->self->rank == RANK_ATTENTION)
		refreekv_attention_decide(cut);
	else
		refreekv_position_decide(cut);
}

/* Both at once, where nothing is to be done between. */
static void finish(void *arg, uint32_t i)
{
	total(arg, i);
	decide(arg, i);
}

static void run(const struct refreekv *self, struct batch *batch, bool *said)
{
	const struct kvmod_host *host = self->instance.host;
	bool second_pass = self->rank == RANK_ATTENTION;
	uint32_t pieces;

	batch->n_chunks = batch->n_kv_heads = 1;
	for (uint32_t i = 0; i < batch->n; i++) {
		const struct kv_rows *rows = &batch->cuts[i].rows;

		if (rows->n_chunks > batch->n_chunks)
			batch->n_chunks = rows->n_chunks;
		if (rows->segment->n_kv_heads > batch->n_kv_heads)
			batch->n_kv_heads = rows->segment->n_kv_heads;
		second_pass |= rows->n_rows > 1;
	}
	pieces = batch->n * batch->n_chunks * batch->n_kv_heads;
	host->parallel(host->ctx, batch->n, load, batch);
	host->parallel(host->ctx, pieces, scan, batch);
	if (second_pass) {
		host->parallel(host->ctx, batch->n, total, batch);
		host->parallel(host->ctx, pieces, attend, batch);
		host->parallel(host->ctx, batch->n, decide, batch);
	} else {
		host->parallel(host->ctx, batch->n, finish, batch);
	}
	for (uint32_t i = 0; i < batch->n; i++) {
		struct cut *cut = &batch->cuts[i];

		if (cut->status && !*said)
			refreekv_say(self, cut->status);
		*said |= cut->status != 0;
		cut->keep->status = cut->status;
	}
}

/* A segment that fails stays whole; the first one's reason is said. */
static int32_t refreekv_compress(void *self_, const struct kvmod_request *request,
				 struct kvmod_plan *plan)
{
	const struct refreekv *self = self_;
	char *memory = (char *)request->scratch + table_bytes(request);
	size_t room = request->scratch_size - table_bytes(request), used = 0;
	struct batch batch = { .cuts = request->scratch };
	bool said = false;

	for (uint32_t i = 0; i < request->n_segments; i++) {
		struct cut cut;
		size_t bytes;

		kvmod_keep_at(plan, i)->loss = 0;
		if (!cut_wanted(self, kvmod_segment_at(request, i), &cut))
			continue;
		bytes = cut_lay_out(&cut, NULL);
		if (used + bytes > room) {
			run(self, &batch, &said);
			batch.n = 0;
			used = 0;
		}
		cut_lay_out(&cut, memory + used);
		cut.keep = kvmod_keep_at(plan, i);
		batch.cuts[batch.n++] = cut;
		used += bytes;
	}
	if (batch.n)
		run(self, &batch, &said);
	return 0;
}

static const struct kvmod_policy_ops refreekv_ops = {
	.size = sizeof(refreekv_ops),
	.name = "refreekv",
	.description = "no budget: what keeps all but a share of the attention's norm (2502.16886)",
	.devices = KVMOD_ON_CPU,
	.instance_size = sizeof(struct refreekv),
	.params = refreekv_params,
	.n_params = sizeof(refreekv_params) / sizeof(*refreekv_params),
	.open = refreekv_open,
	.needs = refreekv_needs,
	.workspace = refreekv_workspace,
	.compress = refreekv_compress,
};

static int32_t refreekv_init(const struct kvmod_host *host)
{
	return host->register_policy(host->ctx, &refreekv_ops);
}

KVMOD_MODULE("refreekv", "0.1.0", "Apache-2.0", "The kvmod authors",
	     "ReFreeKV: threshold-free pruning, one length for each layer", 0,
	     refreekv_init, NULL);
