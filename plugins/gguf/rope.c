/* SPDX-License-Identifier: Apache-2.0 */
/* The model's RoPE as frequencies, which policies are told: what ggml_rope_ext() turns by. */
#include "engine.h"

#include <math.h>
#include <stdlib.h>

/* YaRN leaves what turns fast as it is, and stretches what turns slowly: 1 to 0 in between. */
static float unstretched(const struct gg_rope *rope, int pair)
{
	float ends[2], y;

	ggml_rope_yarn_corr_dims(rope->n_dims, rope->n_context, rope->base, rope->beta_fast,
				 rope->beta_slow, ends);
	y = ((float)pair - ends[0]) / fmaxf(0.001f, ends[1] - ends[0]);
	return 1 - fminf(1, fmaxf(0, y));
}

static float frequency(const struct gg_rope *rope, int pair, float divisor)
{
	double own = pow(rope->base, -2.0 * pair / rope->n_dims) / divisor, stretched = own * rope->scale;
	double share = rope->ext_factor * unstretched(rope, pair);

	return (float)(stretched * (1 - share) + own * share);
}

float gg_rope_magnitude(const struct gg_rope *rope)
{
	return rope->ext_factor != 0 ? 1 + 0.1f * logf(1 / rope->scale) : 1;
}

int32_t gg_rope_read(struct gg_engine *engine)
{
	struct gg_model *model = &engine->net;
	const struct ggml_tensor *factors = model->rope_factors[GG_HOST];
	size_t n = (size_t)model->rope.n_dims / 2;

	model->rope_freqs = malloc(n * sizeof(*model->rope_freqs));
	if (!model->rope_freqs)
		return gg_fail(engine, KVMOD_ENOMEM, "no memory for the model");
	for (size_t i = 0; i < n; i++)
		model->rope_freqs[i] = 1;
	if (factors)
		ggml_backend_tensor_get(factors, model->rope_freqs, 0, n * sizeof(*model->rope_freqs));
	for (size_t i = 0; i < n; i++)
		model->rope_freqs[i] = frequency(&model->rope, (int)i, model->rope_freqs[i]);
	return KVMOD_OK;
}
