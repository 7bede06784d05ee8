/* SPDX-License-Identifier: Apache-2.0 */
/* Prints what `kvmod heads` has measured: a head table for the policy duo, or JSON. */
#include "core/cli/heads.h"

#include <math.h>

static const char *architecture(const struct kvmod_model *model)
{
	return model->architecture ? model->architecture : "";
}

static void print_head(const struct cli_heads_measured *m)
{
	printf("kvmod-heads 1\n"
	       "# The head table of a model, for the policy duo: see kvmod-policies(7).\n"
	       "# Measured by kvmod %s on %llu text%s, %llu tokens in all, of which %llu are compared.\n",
	       kvmod_version(), (unsigned long long)m->n_texts, m->n_texts == 1 ? "" : "s",
	       (unsigned long long)m->n_tokens, (unsigned long long)m->n_rows);
	for (int i = 0; i < CLI_HEADS_LOSSES; i++)
		printf("# With retrieval = %.2f a prediction loses %.4f nats.\n",
		       m->losses[i].retrieval, m->losses[i].nats);
	printf("model = %s\narchitecture = %s\nlayers = %u\nkv_heads = %u\n\n"
	       "# The loss in nats if this KV head alone keeps only %llu sinks and %llu recent positions\n",
	       cli_show(m->model->name), cli_show(architecture(m->model)), m->model->n_layers,
	       m->model->n_kv_heads, (unsigned long long)m->sinks, (unsigned long long)m->recent);
}

void cli_heads_print(const struct cli_heads_measured *m)
{
	const double *score = m->scores;

	print_head(m);
	for (uint32_t layer = 0; layer < m->model->n_layers; layer++) {
		printf("%u:", layer);
		for (uint32_t g = 0; g < m->model->n_kv_heads; g++, score++)
			if (isnan(*score))
				printf(" -");
			else
				printf(" %.4g", *score);
		printf("\n");
	}
}

/* --- for programs ------------------------------------------------------------------------ */

static json_t *scores_json(const struct cli_heads_measured *m)
{
	json_t *layers = json_array();

	for (uint32_t l = 0; l < m->model->n_layers; l++) {
		json_t *heads = json_array();

		for (uint32_t g = 0; g < m->model->n_kv_heads; g++) {
			double score = m->scores[(size_t)l * m->model->n_kv_heads + g];

			json_array_append_new(heads, isnan(score) ? json_null() : json_real(score));
		}
		json_array_append_new(layers, heads);
	}
	return layers;
}

static json_t *losses_json(const struct cli_heads_measured *m)
{
	json_t *losses = json_array();

	for (int i = 0; i < CLI_HEADS_LOSSES; i++)
		json_array_append_new(losses, json_pack("{s:f, s:f}",
							"retrieval", m->losses[i].retrieval,
							"loss", m->losses[i].nats));
	return losses;
}

int cli_heads_print_json(const struct cli_heads_measured *m)
{
	return cli_print_json(json_pack(
		"{s:o, s:o, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:f, s:o, s:o}",
		"model", cli_json_text(m->model->name),
		"architecture", cli_json_text(architecture(m->model)),
		"layers", (int)m->model->n_layers, "kv_heads", (int)m->model->n_kv_heads,
		"texts", (json_int_t)m->n_texts, "tokens", (json_int_t)m->n_tokens,
		"rows", (json_int_t)m->n_rows, "sinks", (json_int_t)m->sinks,
		"recent", (json_int_t)m->recent, "seconds", m->seconds,
		"losses", losses_json(m), "scores", scores_json(m)));
}
