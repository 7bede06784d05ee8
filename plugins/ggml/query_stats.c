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
	gg_log(seq->engine, KVMOD_WARN,
	       "no memory for the statistics of queries, which the policy needs");
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
		code = gg_fail(to->engine, KVMOD_ENOMEM,
			       "no memory for a copy of the statistics of queries");
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

/* Merging one slot's queries into the statistics of one layer. */
struct merge {
	struct ggml_context *context;
	const struct kvmod_seq *seq;
	struct ggml_tensor *weights;
	enum gg_side side;
	int64_t dim, n_heads;
};

static struct ggml_tensor *weight(const struct merge *m, int which)
{
	return ggml_view_1d(m->context, m->weights, m->dim, (size_t)which * m->weights->nb[1]);
}

/* Numbers that are kept between passes: n times `rows` rows of a head's dimension. */
static struct ggml_tensor *kept(const struct merge *m, float *at, int64_t rows, int64_t n)
{
	struct ggml_tensor *tensor = ggml_new_tensor_3d(m->context, GGML_TYPE_F32, m->dim, rows, n);

	ggml_backend_tensor_alloc(m->seq->stats.memory[m->side].buffer, tensor, at);
	return tensor;
}

/*
 * The mean of the queries in x. The CPU adds them up as they lie; there one of CUDA's threads
 * would add up a whole column, so each column becomes a row first.
 */
static struct ggml_tensor *mean_of(const struct merge *m, struct ggml_tensor *x)
{
	struct ggml_context *c = m->context;
	int64_t width = m->dim * m->n_heads;

	if (m->side == GG_GPU)
		return ggml_reshape_1d(c, ggml_mean(c, ggml_cont(c, ggml_transpose(c, x))), width);
	x = ggml_repeat_back(c, x, ggml_new_tensor_1d(c, GGML_TYPE_F32, width));
	return ggml_scale(c, x, (float)(1 / (double)x->src[0]->ne[1]));
}

/* The sum over the queries in x of q q', for each head. */
static struct ggml_tensor *squares(const struct merge *m, struct ggml_tensor *x)
{
	size_t head = (size_t)m->dim * sizeof(float), query = (size_t)m->n_heads * head;

	x = ggml_view_3d(m->context, x, m->dim, (int64_t)(ggml_nbytes(x) / query), m->n_heads, query,
			 head, 0);
	return ggml_out_prod(m->context, x, x);
}

void gg_stats_nodes(struct gg_graph *graph, const struct gg_slot *slot,
		    const struct gg_input *weights, uint32_t layer, struct ggml_tensor *q)
{
	const struct gg_model *net = &slot->seq->engine->net;
	enum gg_side side = gg_side_of(slot->seq->engine, layer);
	struct ggml_context *c = graph->context;
	const struct merge m = {
		.context = c, .seq = slot->seq, .weights = weights->on[side], .side = side,
		.dim = net->head_dim, .n_heads = net->n_q_heads,
	};
	struct ggml_tensor *mean = kept(&m, mean_at(slot->seq, layer), m.n_heads, 1), *own, *apart;
	struct ggml_tensor *sum = kept(&m, covariance_at(slot->seq, layer), m.dim, m.n_heads);

	own = slot->n_stats > 1 ? mean_of(&m, q) : q;
	apart = ggml_sub(c, ggml_reshape_2d(c, own, m.dim, m.n_heads), mean);
	sum = ggml_mul_inplace(c, sum, weight(&m, OF_OLD));
	sum = ggml_add_inplace(c, sum, squares(&m, ggml_mul(c, apart, weight(&m, OF_BOTH))));
	if (slot->n_stats > 1) {
		struct ggml_tensor *within = squares(&m, ggml_sub(c, q, own));

		sum = ggml_add_inplace(c, sum, ggml_mul(c, within, weight(&m, OF_QUERY)));
	}
	ggml_build_forward_expand(graph->nodes, sum);
	mean = ggml_add_inplace(c, mean, ggml_mul(c, apart, weight(&m, OF_NEW)));
	ggml_build_forward_expand(graph->nodes, mean);
}
