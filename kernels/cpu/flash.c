/* SPDX-License-Identifier: Apache-2.0 */
/* Flash attention: strips of queries, blocks of strips, stretches of positions, threads. */
#include "kernels/cpu/flash.h"

#include <float.h>
#include <math.h>
#include <stdatomic.h>

#include "kernels/cpu/arena.h"
#include "kernels/cpu/arrays.h"
#include "kernels/cpu/ops.h"

#define TILE		64u	/* positions that are decoded at a time, for many queries */
#define FEW_TILE	KV_SUM	/* the same for few, which read them as they are */
#define FEW		8u	/* queries that leave lanes empty: they are multiplied one by one */
#define STRIP		48u	/* queries side by side, whose logits stay in the nearest cache */
#define STRIPS		4u	/* of a block, which share what is decoded */
#define SHORTEST	256u	/* stretch of positions */
/* Tasks of a pass, at least: enough for threads to share them evenly. */
#define TASKS		64u

/* --- shapes --------------------------------------------------------------------------- */

static uint32_t smaller(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

static uint32_t parts(uint64_t n, uint64_t part)
{
	return (uint32_t)((n + part - 1) / part);
}

/* Query `lane` of a KV head is row lane / group of query head lane % group of the group. */
static uint32_t n_lanes(const struct kv_flash *f)
{
	return f->n_rows * f->group;
}

static bool is_few(const struct kv_flash *f)
{
	return n_lanes(f) <= FEW;
}

static uint32_t n_blocks(const struct kv_flash *f)
{
	return parts(n_lanes(f), STRIP * STRIPS);
}

/* Dimensions as lane_values() takes them. */
static uint32_t padded_dim(const struct kv_flash *f)
{
	return parts(f->head_dim, 8) * 8;
}

static uint32_t sees(const struct kv_flash *f, uint32_t g, uint32_t lane)
{
	return f->n[g] + lane / f->group + 1;
}

/* Positions of a stretch: as few tasks as threads can share evenly. */
static uint32_t stretch(const struct kv_flash *f)
{
	uint64_t n = 0;
	uint32_t length;

	if (n_blocks(f) * f->n_heads >= TASKS)
		return UINT32_MAX;
	for (uint32_t g = 0; g < f->n_heads; g++)
		n += f->n[g] + f->n_rows;
	length = parts(parts(n * n_blocks(f), TASKS), TILE) * TILE;
	return length > SHORTEST ? length : SHORTEST;
}

/* --- memory --------------------------------------------------------------------------- */

/* Queries that are worked on together, and what they have got so far. */
struct strip {
	uint32_t first, n;	/* lanes of the KV head */
	uint32_t lanes;		/* n, or whole vectors of it */
	float *q;		/* few: [lanes][head_dim]; else [head_dim][lanes] */
	float *out;		/* the same; before it is divided by sum */
	float *max, *sum;	/* [lanes] */
};

/* A thread's own. */
struct work {
	float *q;		/* of the strips of a block */
	float *k, *v;		/* [TILE][head_dim], [TILE][padded_dim] */
	float *x;		/* logits: few: [lanes][FEW_TILE]; else [TILE][lanes] */
	float *piece;		/* output of a block that no other thread works on */
};

/* Floats of a strip's output, maxima and sums. */
static size_t strip_floats(const struct kv_flash *f)
{
	return (size_t)(is_few(f) ? FEW : STRIP) * (padded_dim(f) + 2);
}

static size_t piece_floats(const struct kv_flash *f)
{
	return strip_floats(f) * smaller(parts(n_lanes(f), STRIP), STRIPS);
}

/* What threads count together, at the begin of the scratch. */
struct counters {
	atomic_uint next;		/* task */
	atomic_uint gone;		/* threads that found no more */
	atomic_uint done[TASKS];	/* pieces of a block, where blocks are divided */
};
_Static_assert(sizeof(struct counters) <= KV_FLASH_COUNTERS, "KV_FLASH_COUNTERS is too small");

/* Points the arrays into memory; returns the bytes that they take. */
static size_t lay_out(const struct kv_flash *f, struct work *work, char *memory)
{
	struct kv_arena arena = { memory, 0 };

	work->q = kv_take(&arena, piece_floats(f), sizeof(float));
	work->k = kv_take(&arena, is_few(f) ? 0 : TILE * (size_t)f->head_dim, sizeof(float));
	work->v = kv_take(&arena, is_few(f) ? 0 : TILE * (size_t)padded_dim(f), sizeof(float));
	work->x = kv_take(&arena, is_few(f) ? FEW * FEW_TILE : TILE * STRIP, sizeof(float));
	work->piece = kv_take(&arena, piece_floats(f), sizeof(float));
	return arena.used;
}

/* Pieces of blocks that are divided: no more than the tasks that stretch() makes. */
static uint32_t most_pieces(const struct kv_flash *f)
{
	uint32_t n = n_blocks(f) * f->n_heads;

	return n < TASKS ? n + TASKS : 0;
}

size_t kv_flash_scratch(const struct kv_flash *f)
{
	struct work unused;

	return KV_FLASH_COUNTERS + most_pieces(f) * piece_floats(f) * sizeof(float) +
	       f->n_threads * lay_out(f, &unused, NULL);
}

static float *piece_at(const struct kv_flash *f, uint32_t task)
{
	return (float *)(void *)((char *)f->scratch + KV_FLASH_COUNTERS) + task * piece_floats(f);
}

/* --- a strip -------------------------------------------------------------------------- */

/* Strip s of a block whose output is in `piece`; returns how many queries it has. */
static uint32_t strip_at(const struct kv_flash *f, uint32_t block, uint32_t s, float *q, float *piece,
			 struct strip *strip)
{
	uint32_t first = (block * STRIPS + s) * STRIP;

	if (s == STRIPS || first >= n_lanes(f))
		return 0;
	strip->first = first;
	strip->n = smaller(n_lanes(f) - first, STRIP);
	strip->lanes = is_few(f) ? strip->n : parts(strip->n, KV_PAD) * KV_PAD;
	strip->q = q + s * strip_floats(f);
	strip->out = piece + s * strip_floats(f);
	strip->max = strip->out + (size_t)strip->lanes * padded_dim(f);
	strip->sum = strip->max + strip->lanes;
	return strip->n;
}

/* The place of element d of a lane in strip->q and strip->out. */
static size_t place(const struct kv_flash *f, const struct strip *strip, uint32_t lane, uint32_t d)
{
	return is_few(f) ? (size_t)lane * f->head_dim + d : (size_t)d * strip->lanes + lane;
}

/* Queries, scaled, and no output yet. Lanes without a query are 0. */
static void strip_begin(const struct kv_flash *f, uint32_t g, struct strip *strip)
{
	memset(strip->q, 0, strip_floats(f) * sizeof(float));
	memset(strip->out, 0, strip_floats(f) * sizeof(float));
	for (uint32_t lane = 0; lane < strip->lanes; lane++)
		strip->max[lane] = -FLT_MAX;
	for (uint32_t lane = 0; lane < strip->n; lane++) {
		uint32_t row = (strip->first + lane) / f->group, h = (strip->first + lane) % f->group;
		const float *q = f->q + row * f->q_row + (g * f->group + h) * f->q_head;

		for (uint32_t d = 0; d < f->head_dim; d++)
			strip->q[place(f, strip, lane, d)] = q[d] * f->scale;
	}
}

/* Adds what the same queries have got from other positions. */
static void strip_add(const struct kv_flash *f, struct strip *to, const struct strip *from)
{
	for (uint32_t lane = 0; lane < to->n; lane++) {
		float max = fmaxf(to->max[lane], from->max[lane]);
		float keep = expf(to->max[lane] - max), add = expf(from->max[lane] - max);

		to->max[lane] = max;
		to->sum[lane] = to->sum[lane] * keep + from->sum[lane] * add;
		for (uint32_t d = 0; d < f->head_dim; d++) {
			size_t i = place(f, to, lane, d);

			to->out[i] = to->out[i] * keep + from->out[i] * add;
		}
	}
}

static void strip_end(const struct kv_flash *f, uint32_t g, const struct strip *strip)
{
	for (uint32_t lane = 0; lane < strip->n; lane++) {
		uint32_t row = (strip->first + lane) / f->group, h = (strip->first + lane) % f->group;
		float *out = f->out + row * f->out_row + (g * f->group + h) * f->out_head;
		float share = 1 / strip->sum[lane];

		for (uint32_t d = 0; d < f->head_dim; d++)
			out[d] = strip->out[place(f, strip, lane, d)] * share;
	}
}

/* --- a task: a block of strips on a stretch of positions ---------------------------------- */

struct task {
	const struct kv_flash *flash;
	struct work work;
	uint32_t g, block, begin, end;
	struct kvmod_view k, v;		/* of the KV head */
	float *piece;
};

static uint32_t first_lane(uint32_t block)
{
	return block * STRIP * STRIPS;
}

/* Positions that the newest row of a block sees. */
static uint32_t block_sees(const struct kv_flash *f, uint32_t g, uint32_t block)
{
	return sees(f, g, smaller(first_lane(block + 1), n_lanes(f)) - 1);
}

/* Logits x[n] of positions from `begin` on become weights of those that the lane sees, and 0. */
static void weigh(const struct task *t, const struct strip *strip, uint32_t lane, uint32_t begin,
		  uint32_t n, float *x)
{
	const struct kv_cpu_ops *ops = kv_cpu_ops();
	const struct kv_flash *f = t->flash;
	uint32_t limit = sees(f, t->g, strip->first + lane);
	uint32_t seen = limit > begin ? smaller(limit - begin, n) : 0;
	float max = fmaxf(ops->max(x, seen), strip->max[lane]), keep = expf(strip->max[lane] - max);

	ops->exp_scale(x, seen, max, 1);
	memset(x + seen, 0, (n - seen) * sizeof(*x));
	strip->sum[lane] = strip->sum[lane] * keep + ops->total(x, seen);
	strip->max[lane] = max;
	for (uint32_t d = 0; d < f->head_dim; d++)
		strip->out[place(f, strip, lane, d)] *= keep;
}

static void run_few(const struct task *t)
{
	const struct kv_cpu_ops *ops = kv_cpu_ops();
	const struct kv_flash *f = t->flash;
	uint32_t n;
	struct strip strip;

	strip_at(f, t->block, 0, t->work.q, t->piece, &strip);
	strip_begin(f, t->g, &strip);
	for (uint32_t at = t->begin; at < t->end; at += n) {
		n = smaller(t->end - at, FEW_TILE);
		ops->dots(&t->k, f->head_dim, at, at + n, strip.q, strip.n, t->work.x, FEW_TILE);
		for (uint32_t lane = 0; lane < strip.n; lane++)
			weigh(t, &strip, lane, at, n, t->work.x + lane * FEW_TILE);
		ops->values(t->v.type, kv_row_at(&t->v, at), t->v.stride, f->head_dim, n, t->work.x,
			    FEW_TILE, strip.n, strip.out);
	}
}

/* Decodes positions begin .. begin + n - 1, and clears keys up to a whole step of them. */
static void load_tile(const struct task *t, uint32_t begin, uint32_t n)
{
	const struct kv_cpu_ops *ops = kv_cpu_ops();
	uint32_t dim = t->flash->head_dim;

	ops->rows(t->k.type, kv_row_at(&t->k, begin), t->k.stride, dim, n, t->work.k, dim);
	ops->rows(t->v.type, kv_row_at(&t->v, begin), t->v.stride, dim, n, t->work.v,
		  padded_dim(t->flash));
	memset(t->work.k + (size_t)n * dim, 0, (size_t)(TILE - n) * dim * sizeof(float));
}

/* Attention of a strip to the tile that is loaded. */
static void strip_tile(const struct task *t, const struct strip *strip, uint32_t begin, uint32_t n)
{
	float limits[STRIP], max[STRIP], sum[STRIP], keep[STRIP], add[STRIP];
	const struct kv_cpu_ops *ops = kv_cpu_ops();
	const struct kv_flash *f = t->flash;
	uint32_t lanes = strip->lanes;
	bool whole = sees(f, t->g, strip->first) >= begin + n;

	if (sees(f, t->g, strip->first + strip->n - 1) <= begin)
		return;
	for (uint32_t lane = 0; !whole && lane < lanes; lane++)
		limits[lane] = (float)sees(f, t->g, strip->first + lane) - (float)begin;
	ops->lane_logits(t->work.k, f->head_dim, n, strip->q, lanes, t->work.x);
	ops->lane_softmax(t->work.x, n, lanes, whole ? NULL : limits, max, sum);
	ops->lane_join(strip->max, strip->sum, max, sum, lanes, keep, add);
	ops->lane_values(t->work.v, padded_dim(f), n, t->work.x, lanes, keep, add, strip->out);
}

static void run_many(const struct task *t)
{
	const struct kv_flash *f = t->flash;
	struct strip strip;
	uint32_t n;

	memset(t->work.v, 0, TILE * (size_t)padded_dim(f) * sizeof(float));
	for (uint32_t s = 0; strip_at(f, t->block, s, t->work.q, t->piece, &strip); s++)
		strip_begin(f, t->g, &strip);
	for (uint32_t at = t->begin; at < t->end; at += n) {
		n = smaller(t->end - at, TILE);
		load_tile(t, at, n);
		for (uint32_t s = 0; strip_at(f, t->block, s, t->work.q, t->piece, &strip); s++)
			strip_tile(t, &strip, at, n);
	}
}

/* --- threads ------------------------------------------------------------------------------ */

/* The block is complete in n pieces: adds them up, always in the same order. */
static void finish(const struct task *t, uint32_t n)
{
	const struct kv_flash *f = t->flash;
	struct strip to, from;

	for (uint32_t s = 0; strip_at(f, t->block, s, t->work.q, t->piece, &to); s++) {
		for (uint32_t i = 1; i < n; i++) {
			strip_at(f, t->block, s, t->work.q, t->piece + i * piece_floats(f), &from);
			strip_add(f, &to, &from);
		}
		strip_end(f, t->g, &to);
	}
}

static struct kvmod_view from_row(const struct kvmod_view *view, uint32_t row)
{
	struct kvmod_view head = *view;

	head.data = kv_row_at(view, row);
	return head;
}

/* Stretch i of block b of KV head g, the block's first task being number `first`. */
static void run_task(const struct kv_flash *f, const struct work *work, uint32_t g, uint32_t b,
		     uint32_t i, uint32_t first)
{
	uint32_t length = stretch(f), n = block_sees(f, g, b), n_pieces = parts(n, length);
	struct counters *counters = f->scratch;
	struct task t = {
		.flash = f, .work = *work, .g = g, .block = b, .begin = i * length,
		.k = from_row(&f->k, f->first[g]), .v = from_row(&f->v, f->first[g]),
		.piece = n_pieces > 1 ? piece_at(f, first + i) : work->piece,
	};

	if (i >= n_pieces)	/* only newer rows see that far */
		return;
	t.end = i + 1 == n_pieces ? n : t.begin + length;
	if (is_few(f))
		run_few(&t);
	else
		run_many(&t);
	if (n_pieces > 1) {
		atomic_uint *done = &counters->done[g * n_blocks(f) + b];

		if (atomic_fetch_add(done, 1) + 1 < n_pieces)
			return;
		atomic_store(done, 0);
		t.piece = piece_at(f, first);
	}
	finish(&t, n_pieces);
}

void kv_flash_run(const struct kv_flash *f, uint32_t thread)
{
	uint32_t length = stretch(f), g = 0, first = 0, task, n, i;
	struct counters *counters = f->scratch;
	struct work work;

	lay_out(f, &work, (char *)piece_at(f, most_pieces(f)) + thread * lay_out(f, &work, NULL));
	while (g < f->n_heads) {
		task = atomic_fetch_add(&counters->next, 1);
		/* Tasks of a thread are in order: so are their heads. */
		for (; g < f->n_heads; first += n_blocks(f) * n, g++) {
			n = parts(f->n[g] + f->n_rows, length);
			i = (task - first) % n;
			if (task - first < n_blocks(f) * n) {
				run_task(f, &work, g, (task - first) / n, i, task - i);
				break;
			}
		}
	}
	if (atomic_fetch_add(&counters->gone, 1) + 1 == f->n_threads) {
		atomic_store(&counters->next, 0);
		atomic_store(&counters->gone, 0);
	}
}
