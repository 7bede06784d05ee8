/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Expected Attention (arXiv 2510.00636): queries to come are taken to be normally
 * distributed, with the mean mu and the covariance S of those seen, before RoPE. The
 * attention that a key k can expect of them then goes by exp(k.mu + k'Sk/2), with mu and S
 * turned as RoPE turns the coming positions on average.
 */
#include <float.h>
#include <math.h>

#include <kvmod/scorer.h>

struct expected {
	struct kvmod_scorer scorer;
	int64_t future;
	double epsilon;
	const struct kvmod_model *model;
};

#define PARAMS(P, owner) \
	KVMOD_P_BUDGET(P, owner, "0.25") \
	KVMOD_P_SINKS(P, owner, "4") \
	P(owner, struct expected, future, INT, "512", "1..1000000", \
	  "coming positions whose queries are expected") \
	P(owner, struct expected, epsilon, REAL, "0", "0..", \
	  "attention that each position has in any case, before its value counts")

static int32_t take_model(void *self_, const struct kvmod_model *model)
{
	struct expected *self = self_;
	const struct kvmod_host *host = self->scorer.instance.host;

	self->model = model;
	if (model->rope_freqs || model->rope_base > 0)
		return KVMOD_OK;
	return host->fail(host->ctx, KVMOD_ENOTSUP, "the model's RoPE is not known: rope_base is %g, "
			  "expected more than 0", (double)model->rope_base);
}

static int32_t needs_of(const void *self, struct kvmod_needs *needs)
{
	needs->q_stats_skip = (uint32_t)((const struct expected *)self)->scorer.sinks;
	return KVMOD_OK;
}

/* Pair d of dimensions is d * step and `apart` further on, and becomes re + i im times as much. */
struct turn {
	uint32_t n_pairs, step, apart;
	float *re, *im;
};

/*
 * The mean of n turns in equal steps x is the one in the middle, sin(nx/2) / sin(x/2) / n
 * long. Keys carry their phases: those that a closed gap turned need nothing more.
 */
static void average(const struct expected *self, const struct kvmod_segment *segment,
		    const struct turn *turn)
{
	const struct kvmod_model *model = self->model;
	double n = (double)self->future, middle = (n - 1) / 2 +
		(double)kvmod_tokens_seen(segment) - (double)segment->phase_base;

	for (uint32_t d = 0; d < turn->n_pairs; d++) {
		double x = model->rope_freqs ? (double)model->rope_freqs[d] :
			   pow((double)model->rope_base, -(double)d / turn->n_pairs);
		double length = sin(x / 2) == 0 ? 1 : sin(n * x / 2) / sin(x / 2) / n;

		if (model->rope_magnitude > 0)
			length *= (double)model->rope_magnitude;
		turn->re[d] = (float)(length * cos(middle * x));
		turn->im[d] = (float)(length * sin(middle * x));
	}
}

/* A vector whose elements are `stride` apart. */
static void apply(const struct turn *turn, float *x, size_t stride)
{
	for (uint32_t d = 0; d < turn->n_pairs; d++) {
		float *a = x + d * turn->step * stride, *b = a + turn->apart * stride, was = *a;

		*a = turn->re[d] * was - turn->im[d] * *b;
		*b = turn->im[d] * was + turn->re[d] * *b;
	}
}

/* The logits that query head h of the group is expected to give all keys. */
static void expect(const struct kvmod_task *head, uint32_t h, const struct turn *turn, float *mu,
		   float *s, float *out)
{
	const struct kvmod_segment *segment = head->segment;
	struct kvmod_view mean = segment->q_mean, cov = segment->q_cov;
	uint32_t dim = segment->head_dim;

	mean.data = (const char *)mean.data + (head->g * head->group + h) * mean.head_stride;
	cov.data = (const char *)cov.data + (head->g * head->group + h) * cov.head_stride;
	head->kit->rows(&mean, dim, 0, 1, mu, dim);
	head->kit->rows(&cov, dim, 0, dim, s, dim);
	apply(turn, mu, 1);
	for (size_t d = 0; d < dim; d++)
		apply(turn, s + d * dim, 1);
	for (size_t d = 0; d < dim; d++)
		apply(turn, s + d, dim);
	for (size_t d = 0; d < dim; d++)
		mu[d] *= segment->scale;
	for (size_t i = 0; i < (size_t)dim * dim; i++)
		s[i] *= segment->scale * segment->scale / 2;
	head->kit->quadratic(&head->head->k, dim, 0, head->n, s, mu, out);
}

/* The logarithms of a softmax: so what is worth little keeps its order, however little that is. */
static void log_softmax(float *x, uint32_t n)
{
	double most = -INFINITY, sum = 0;

	for (uint32_t i = 0; i < n; i++)
		most = (double)x[i] > most ? (double)x[i] : most;
	for (uint32_t i = 0; i < n; i++)
		sum += exp((double)x[i] - most);
	for (uint32_t i = 0; i < n; i++)
		x[i] = (float)((double)x[i] - most - log(sum));
}

/* log(exp(more) + the sum of exp(x[h * stride])) */
static double log_sum(const float *x, uint32_t n, size_t stride, double more)
{
	double most = more, sum;

	for (uint32_t h = 0; h < n; h++)
		most = (double)x[h * stride] > most ? (double)x[h * stride] : most;
	sum = exp(more - most);
	for (uint32_t h = 0; h < n; h++)
		sum += exp((double)x[h * stride] - most);
	return most + log(sum);
}

static size_t floats(const void *self, const struct kvmod_request *request)
{
	struct kvmod_extent e = kvmod_extent_of(request);

	(void)self;
	return (size_t)e.n * (e.group + 1) + (size_t)e.head_dim * (e.head_dim + 3);
}

static int32_t score(const void *self_, const struct kvmod_task *head, float *out)
{
	const struct expected *self = self_;
	const struct kvmod_model *model = self->model;
	uint32_t dim = head->segment->head_dim, n = head->n, sinks = (uint32_t)self->scorer.sinks;
	float *lengths = head->scratch, *logits = lengths + n, *mu = logits + head->group * n;
	struct turn turn = {
		.n_pairs = model->rope_freqs ? model->n_rope_freqs : dim / 2,
		.step = model->rope_interleaved ? 2 : 1, .re = mu + dim, .im = mu + 2 * dim,
	};
	/* Of the mean over the group the sum will do: epsilon is as many times as large. */
	double more = log(self->epsilon * head->group);

	if (head->segment->n_q_stat == 0 || 2 * turn.n_pairs > dim)
		return head->kit->fail(head, KVMOD_ENOTSUP, "its statistics are of %llu queries, and %u of "
				       "its %u dimensions turn", (unsigned long long)head->segment->n_q_stat,
				       2 * turn.n_pairs, dim);
	turn.apart = model->rope_interleaved ? 1 : turn.n_pairs;
	average(self, head->segment, &turn);
	for (uint32_t h = 0; h < head->group; h++) {
		expect(head, h, &turn, mu, mu + 3 * dim, logits + h * n);
		log_softmax(logits + h * n + sinks, n - sinks);
	}
	head->kit->norms(&head->head->v, dim, 0, n, lengths);
	for (uint32_t i = 0; i < head->m; i++)
		out[i] = i < sinks ? 0 : (float)(log_sum(logits + i, head->group, n, more) +
						 (lengths[i] == 0 ? -FLT_MAX : log((double)lengths[i])));
	return KVMOD_OK;
}

KVMOD_SCORER(expected, struct expected, PARAMS, "0.2.0", "Apache-2.0", "The kvmod authors",
	     "what queries to come are expected to attend to (2510.00636)",
	     .score = score, .what = KVMOD_NEED_K | KVMOD_NEED_V | KVMOD_NEED_Q_STATS,
	     .floats = floats, .open = take_model, .needs = needs_of);
