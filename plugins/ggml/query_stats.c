/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mean and covariance of queries before RoPE, summed in the graph while prompts run. Each
 * pass centers its queries on their own mean, and merges mean and covariance into those of
 * the passes before by the formula of Chan, Golub and LeVeque: biases can make the mean
 * much larger than the deviation, and E[qq'] - mm' would then lose all digits.
 */
#include "graph.h"

#include <math.h>
#include <string.h>

/* What two parts of n_a and n_b queries weigh in n = n_a + n_b; a row of the input each. */
enum {
	OF_OLD,				/* n_a / n */
	OF_NEW,				/* n_b / n */
	OF_QUERY,			/* 1 / n */
	OF_BOTH,			/* sqrt(n_a n_b) / n */
	N_WEIGHTS
};

/* --- the sequence's side --------------------------------------------------------------- */

/* Of one layer: the means of all heads, then their covariances. */
static size_t layer_bytes(const struct gg_engine *engine)
{
	const struct gg_model *net = &engine->net;

	return (size_t)net->n_q_heads * net->head_dim * (net->head_dim + 1) * sizeof(float);
}

static size_t row_bytes(const struct gg_engine *engine)
{
	return engine->net.head_dim * sizeof(float);
}

static float *mean_at(const struct kvmod_seq *seq, uint32_t layer)
{
	const struct gg_engine *engine = seq->engine;
	enum gg_side side = gg_side_of(engine, layer);
	size_t index = side == GG_GPU ? layer + engine->gpu.n_layers - engine->net.n_layers : layer;

	return (float *)((char *)seq->stats.memory[side].address + index * layer_bytes(engine));
}

static float *covariance_at(const struct kvmod_seq *seq, uint32_t layer)
{
	return mean_at(seq, layer) + seq->engine->net.dims[GG_Q_ROWS];
}

void gg_stats_free(struct gg_query_stats *stats)
{
	for (int side = 0; side < GG_N_SIDES; side++)
		gg_memory_free(&stats->memory[side]);
	memset(stats, 0, sizeof(*stats));
}

static bool take_memory(struct gg_engine *engine, struct gg_query_stats *stats)
{
	uint32_t n_layers[GG_N_SIDES] = {
		[GG_HOST] = engine->net.n_layers - engine->gpu.n_layers,
		[GG_GPU] = engine->gpu.n_layers,
	};

	for (int side = 0; side < GG_N_SIDES; side++) {
		if (n_layers[side] && !gg_memory_new(engine, &stats->memory[side], side,
						     n_layers[side] * layer_bytes(engine)))
			return false;
	}
	return true;
}

/* Statistics without queries; lost, if queries that belong to them have been run already. */
static void start(struct kvmod_seq *seq, uint32_t skip)
{
	struct gg_query_stats *stats = &seq->stats;

	gg_stats_free(stats);
	stats->state = GG_STATS_LOST;
	if (seq->logical > skip)
		return;
	if (take_memory(seq->engine, stats)) {
		stats->state = GG_STATS_KEPT;
		stats->skip = skip;
		return;
	}
	gg_log(seq->engine, KVMOD_WARN, "no memory for the statistics of queries, which the policy needs");
	gg_stats_free(stats);
	stats->state = GG_STATS_LOST;
}

void gg_stats_begin(struct kvmod_seq *seq, uint64_t n_tokens, const struct kvmod_needs *needs)
{
	struct gg_query_stats *stats = &seq->stats;
	uint32_t skip = 0;

	if (!needs || !(needs->what & KVMOD_NEED_Q_STATS)) {
		gg_stats_free(stats);
		return;
	}
	if (KVMOD_HAS(needs, q_stats_skip))
		skip = needs->q_stats_skip;
	if (stats->state != GG_STATS_KEPT || stats->skip != skip || seq->logical <= skip)
		start(seq, skip);
	stats->until = needs->decode_every ? UINT64_MAX : seq->logical + n_tokens;
}

uint32_t gg_stats_due(const struct kvmod_seq *seq, uint32_t n, uint32_t *first)
{
	const struct gg_query_stats *stats = &seq->stats;
	uint64_t begin = seq->logical, end = begin + n;

	*first = 0;
	if (begin < stats->skip)
		begin = stats->skip;
	if (end > stats->until)
		end = stats->until;
	if (stats->state != GG_STATS_KEPT || begin >= end)
		return 0;
	*first = (uint32_t)(begin - seq->logical);
	return (uint32_t)(end - begin);
}

void gg_stats_push(struct kvmod_seq *seq, uint32_t first, uint32_t n)
{
	seq->stats.n += n;
	seq->stats.end = seq->logical + first + n;
}

void gg_stats_lose(struct gg_query_stats *stats)
{
	if (stats->state == GG_STATS_KEPT)
		stats->state = GG_STATS_LOST;
}

void gg_stats_forget(struct gg_query_stats *stats, uint64_t logical)
{
	if (logical < stats->end)
		gg_stats_lose(stats);
}

int32_t gg_stats_copy(struct kvmod_seq *to, const struct kvmod_seq *from)
{
	int32_t code = KVMOD_OK;

	to->stats = from->stats;
	memset(to->stats.memory, 0, sizeof(to->stats.memory));
	if (from->stats.state != GG_STATS_KEPT)
		return KVMOD_OK;
	if (!take_memory(to->engine, &to->stats))
		code = gg_fail(to->engine, KVMOD_ENOMEM, "no memory for a copy of the statistics of queries");
	for (int side = 0; !code && side < GG_N_SIDES; side++)
		code = gg_memory_copy(to->engine, side, &to->stats.memory[side],
				      &from->stats.memory[side], row_bytes(to->engine));
	if (code)
		gg_stats_free(&to->stats);
	return code;
}

void gg_stats_describe(const struct kvmod_seq *seq, struct kvmod_segment *segment)
{
	const struct gg_model *net = &seq->engine->net;
	int64_t row = (int64_t)row_bytes(seq->engine);

	if (seq->stats.state != GG_STATS_KEPT)
		return;
	segment->q_mean = (struct kvmod_view){
		.type = KVMOD_F32, .data = mean_at(seq, segment->layer),
		.stride = row, .head_stride = row,
	};
	segment->q_cov = (struct kvmod_view){
		.type = KVMOD_F32, .data = covariance_at(seq, segment->layer),
		.stride = row, .head_stride = row * net->head_dim,
	};
	segment->n_q_stat = seq->stats.n;
}

/* --- the graph's side --------------------------------------------------------------------- */

void gg_stats_declare(const struct gg_engine *engine, int64_t ne[2])
{
	ne[0] = engine->net.head_dim;
	ne[1] = N_WEIGHTS;
}

/* Each weight fills a row, because ggml multiplies by rows faster than by a single number. */
void gg_stats_fill(const struct gg_slot *slot, float *rows)
{
	double a = (double)slot->seq->stats.n, b = slot->n_stats, n = a + b;
	const float weights[N_WEIGHTS] = {
		[OF_OLD] = (float)(a / n), [OF_NEW] = (float)(b / n),
		[OF_QUERY] = (float)(1 / n), [OF_BOTH] = (float)(sqrt(a * b) / n),
	};

	for (int w = 0; w < N_WEIGHTS; w++) {
		for (uint32_t d = 0; d < slot->seq->engine->net.head_dim; d++)
			*rows++ = weights[w];
	}
}

struct merge {
	struct ggml_context *context;
	struct ggml_tensor *weights;
	enum gg_side side;
};

static struct ggml_tensor *weigh(const struct merge *m, struct ggml_tensor *x, int weight, bool in_place)
{
	struct ggml_tensor *row = ggml_view_1d(m->context, m->weights, m->weights->ne[0],
					       (size_t)weight * m->weights->nb[1]);

	return in_place ? ggml_mul_inplace(m->context, x, row) : ggml_mul(m->context, x, row);
}

/* A tensor over numbers that are kept between passes. */
static struct ggml_tensor *kept(const struct merge *m, const struct kvmod_seq *seq, float *at, int64_t ne0,
				int64_t ne1, int64_t ne2)
{
	struct ggml_tensor *tensor = ggml_new_tensor_3d(m->context, GGML_TYPE_F32, ne0, ne1, ne2);

	ggml_backend_tensor_alloc(seq->stats.memory[m->side].buffer, tensor, at);
	return tensor;
}

/*
 * The mean of x's rows. The CPU adds them up as they lie; one of CUDA's threads would add
 * up a whole column, so there each column becomes a row first.
 */
static struct ggml_tensor *mean_row(const struct merge *m, struct ggml_tensor *x, struct ggml_tensor *like)
{
	struct ggml_context *context = m->context;

	if (m->side == GG_GPU) {
		x = ggml_mean(context, ggml_cont(context, ggml_transpose(context, x)));
		return ggml_reshape_1d(context, x, ggml_nelements(x));
	}
	return ggml_scale(context, ggml_repeat_back(context, x, like), 1.0f / (float)x->ne[1]);
}

/* Of each head the sum over x's rows of row times row: [head_dim][head_dim][n_heads]. */
static struct ggml_tensor *squares(const struct merge *m, struct ggml_tensor *x, int64_t head_dim)
{
	struct ggml_tensor *heads = ggml_view_3d(m->context, x, head_dim, x->ne[1], x->ne[0] / head_dim,
						 x->nb[1], (size_t)head_dim * x->nb[0], 0);

	return ggml_out_prod(m->context, heads, heads);
}

void gg_stats_nodes(struct gg_graph *graph, const struct gg_slot *slot, const struct gg_input *weights,
		    uint32_t layer, struct ggml_tensor *q)
{
	const struct kvmod_seq *seq = slot->seq;
	const struct gg_model *net = &seq->engine->net;
	enum gg_side side = gg_side_of(seq->engine, layer);
	const struct merge m = { .context = graph->context, .weights = weights->on[side], .side = side };
	int64_t dim = net->head_dim, n_heads = net->n_q_heads;
	struct ggml_tensor *mean = kept(&m, seq, mean_at(seq, layer), dim * n_heads, 1, 1);
	struct ggml_tensor *covariance = kept(&m, seq, covariance_at(seq, layer), dim, dim, n_heads);
	struct ggml_tensor *own = slot->n_stats > 1 ? mean_row(&m, q, mean) : q;
	struct ggml_tensor *apart = ggml_sub(m.context, ggml_reshape_2d(m.context, own, dim, n_heads),
					     ggml_reshape_2d(m.context, mean, dim, n_heads));
	struct ggml_tensor *between = weigh(&m, apart, OF_BOTH, false), *sum;

	sum = weigh(&m, covariance, OF_OLD, true);
	sum = ggml_add_inplace(m.context, sum,
			       squares(&m, ggml_reshape_2d(m.context, between, dim * n_heads, 1), dim));
	if (slot->n_stats > 1) {
		struct ggml_tensor *within = squares(&m, ggml_sub(m.context, q, own), dim);

		sum = ggml_add_inplace(m.context, sum, weigh(&m, within, OF_QUERY, false));
	}
	ggml_build_forward_expand(graph->nodes, sum);
	ggml_build_forward_expand(graph->nodes,
				  ggml_add_inplace(m.context, ggml_reshape_2d(m.context, mean, dim, n_heads),
						   weigh(&m, apart, OF_NEW, false)));
}
