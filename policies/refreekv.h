/* SPDX-License-Identifier: Apache-2.0 */
/* ReFreeKV on the CPU: one layer that is to be cut, and its two rankings. */
#ifndef KV_POLICIES_REFREEKV_H
#define KV_POLICIES_REFREEKV_H

#include "kernels/cpu/rows.h"
#include "policies/refreekv_params.h"

struct cut {
	const struct refreekv *self;
	struct kvmod_keep *keep;
	uint32_t n_heads;		/* query heads */
	uint32_t n_rows;		/* that make the norm: k of Eq. 2 */
	uint32_t n_window;		/* rows that make the ranking by attention */
	uint32_t tail;			/* newest positions, always kept */
	int32_t status;
	struct kv_rows rows;		/* split after the sinks */
	double *norm;			/* [n_heads]: of all that is ranked */

	/* rank = position */
	double *squares;		/* [n_heads][n_tiles + 1]: a^2 of each tile, summed */
	double *inside;			/* [n_heads][KV_TILE]: the same inside of one tile */
	float *a;			/* [n_heads][KV_TILE]; several rows: for each chunk */

	/* rank = attention; m positions have a rank */
	uint32_t m;
	float *attention;		/* [n_heads][n] */
	float *score;			/* [n_kv_heads][n] */
	uint64_t *order, *spare;	/* [n_kv_heads][m], [m] */
	double *dropped;		/* [n_heads] */
};

/*
 * Each ranking's part: what it computes for a chunk and KV head when the rows'
 * totals are known, and the decision when that is done for all of them.
 */
void refreekv_position_chunk(const struct cut *cut, uint32_t chunk, uint32_t g);
void refreekv_position_decide(const struct cut *cut);
void refreekv_attention_chunk(const struct cut *cut, uint32_t chunk, uint32_t g);
void refreekv_attention_decide(const struct cut *cut);

/* Is the norm of all that is ranked above zero and finite? */
bool refreekv_norm_usable(const struct cut *cut);
/* loss_i: norm[h] is a head's whole norm, dropped[h * stride] the squares that it lacks. */
double refreekv_loss(const double *norm, const double *dropped, size_t stride, uint32_t n_heads);

#endif
