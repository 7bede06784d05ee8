/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KL(whole || cut) where the logits are: a few numbers for each row go to the host.
 *
 * With w and c for the logits of the two runs, p for the whole's probabilities and Z for a sum
 * of exponentials, KL is the sum of p (w - c), plus log Z(c) - log Z(w). Equal logits cancel one
 * by one, and keep small losses exact; a difference of cross entropies would lose these in what
 * both round, and ggml's node for them adds a vocabulary up in 32 floats on CUDA.
 *
 * Any token tells log Z, as its logit less the logarithm of its probability. The host takes the
 * most probable one, whose probability cannot underflow, and the logarithm in double.
 */
#include "divergence.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Logits that the nodes take at a time, so that many rows need little memory beside their own. */
#define BLOCK_BYTES		(32u << 20)
#define TENSORS_PER_BLOCK	24u

static uint32_t count_blocks(const struct gg_divergence *d)
{
	return (d->n_rows + d->block - 1) / d->block;
}

static uint32_t rows_of_block(const struct gg_divergence *d, uint32_t i)
{
	uint32_t left = d->n_rows - i * d->block;

	return left < d->block ? left : d->block;
}

/* --- nodes --------------------------------------------------------------------------------- */

static void output(struct gg_divergence *d, struct ggml_tensor **out, struct ggml_tensor *x)
{
	ggml_set_output(x);
	ggml_build_forward_expand(d->graph.nodes, x);
	*out = x;
}

/* One number of each row: of the column that `columns` names. */
static struct ggml_tensor *pick(struct ggml_context *context, struct ggml_tensor *rows,
				struct ggml_tensor *columns)
{
	return ggml_get_rows(context, ggml_reshape_3d(context, rows, 1, rows->ne[0], rows->ne[1]),
			     ggml_reshape_2d(context, columns, 1, rows->ne[1]));
}

/*
 * The probabilities, and two outputs for the most probable token of each row. Clamping makes
 * numbers of what is none: a row without a largest number has no index.
 */
static struct ggml_tensor *probabilities(struct gg_divergence *d, struct ggml_tensor *logits,
					 struct ggml_tensor *out[2])
{
	struct ggml_context *context = d->graph.context;
	struct ggml_tensor *p = ggml_clamp(context, ggml_soft_max(context, logits), 0, 1);
	struct ggml_tensor *top = ggml_argmax(context, p);

	output(d, &out[0], pick(context, logits, top));
	output(d, &out[1], pick(context, p, top));
	return p;
}

static void add_block(struct gg_divergence *d, struct ggml_tensor *whole, struct ggml_tensor *cut,
		      uint32_t i)
{
	struct ggml_context *context = d->graph.context;
	size_t begin = (size_t)i * d->block * whole->nb[1];
	uint32_t n = rows_of_block(d, i);
	struct ggml_tensor *p;

	whole = ggml_view_2d(context, whole, whole->ne[0], n, whole->nb[1], begin);
	cut = ggml_view_2d(context, cut, cut->ne[0], n, cut->nb[1], begin);
	probabilities(d, cut, &d->outputs[i][GG_CUT_LOGIT]);
	p = probabilities(d, whole, &d->outputs[i][GG_WHOLE_LOGIT]);
	p = ggml_mul(context, ggml_sub(context, whole, cut), p);
	output(d, &d->outputs[i][GG_MOVED], ggml_sum_rows(context, p));
}

static bool build(struct gg_divergence *d, struct gg_engine *engine)
{
	int64_t n_vocab = engine->net.dims[GG_VOCAB];
	uint32_t n_blocks = count_blocks(d);
	struct ggml_tensor *whole, *cut;

	if (!gg_small_graph_new(&d->graph, engine, gg_output_side(engine),
				2 + (size_t)n_blocks * TENSORS_PER_BLOCK))
		return false;
	whole = gg_memory_rows(d->graph.context, &d->whole, GGML_TYPE_F32, n_vocab, d->n_rows);
	cut = gg_memory_rows(d->graph.context, &d->cut, GGML_TYPE_F32, n_vocab, d->n_rows);
	for (uint32_t i = 0; i < n_blocks; i++)
		add_block(d, whole, cut, i);
	return gg_small_graph_plan(&d->graph);
}

/* --- running them -------------------------------------------------------------------------- */

bool gg_divergence_new(struct gg_divergence *d, struct gg_engine *engine, uint32_t n_rows)
{
	size_t row = (size_t)engine->net.dims[GG_VOCAB] * sizeof(float);
	enum gg_side side = gg_output_side(engine);

	memset(d, 0, sizeof(*d));
	d->n_rows = n_rows;
	d->block = row < BLOCK_BYTES ? (uint32_t)(BLOCK_BYTES / row) : 1;
	d->block = d->block < n_rows ? d->block : n_rows;
	d->outputs = calloc(count_blocks(d), sizeof(*d->outputs));
	d->fetched = calloc(d->block, GG_N_DIVERGENCE_OUTPUTS * sizeof(*d->fetched));
	if (d->outputs && d->fetched && gg_memory_new(engine, &d->whole, side, n_rows * row) &&
	    gg_memory_new(engine, &d->cut, side, n_rows * row) && build(d, engine))
		return true;
	gg_divergence_free(d);
	return false;
}

static double of_row(const struct gg_divergence *d, uint32_t row)
{
	double x[GG_N_DIVERGENCE_OUTPUTS];

	for (uint32_t i = 0; i < GG_N_DIVERGENCE_OUTPUTS; i++)
		x[i] = (double)d->fetched[(size_t)i * d->block + row];
	return x[GG_MOVED] + x[GG_CUT_LOGIT] - x[GG_WHOLE_LOGIT] -
	       log(x[GG_CUT_PROB] / x[GG_WHOLE_PROB]);
}

static double sum_of_block(const struct gg_divergence *d, uint32_t block)
{
	uint32_t n = rows_of_block(d, block);
	double sum = 0;

	for (uint32_t i = 0; i < GG_N_DIVERGENCE_OUTPUTS; i++)
		ggml_backend_tensor_get(d->outputs[block][i], d->fetched + (size_t)i * d->block, 0,
					n * sizeof(*d->fetched));
	for (uint32_t row = 0; row < n; row++)
		sum += of_row(d, row);
	return sum;
}

int32_t gg_divergence_run(struct gg_divergence *d, double *mean)
{
	int32_t code = gg_small_graph_run(&d->graph);
	double sum = 0;

	if (code)
		return code;
	for (uint32_t i = 0; i < count_blocks(d); i++)
		sum += sum_of_block(d, i);
	if (!isfinite(sum))
		return gg_fail(d->graph.engine, KVMOD_ENUMERIC,
			       "the replayed distributions are not finite");
	/* What is below 0 is rounding. */
	*mean = sum > 0 ? sum / d->n_rows : 0;
	return KVMOD_OK;
}

void gg_divergence_free(struct gg_divergence *d)
{
	gg_small_graph_free(&d->graph);
	gg_memory_free(&d->whole);
	gg_memory_free(&d->cut);
	free(d->outputs);
	free(d->fetched);
	memset(d, 0, sizeof(*d));
}
