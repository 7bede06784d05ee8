/* SPDX-License-Identifier: Apache-2.0 */
/* Generates an answer token by token, and shows characters as soon as they are whole. */
#include "core/cli/run.h"

#include <stdlib.h>

bool cli_is_end(const struct kvmod_model *model, int32_t token)
{
	for (uint32_t i = 0; i < model->n_end_tokens; i++)
		if (model->end_tokens[i] == token)
			return true;
	return false;
}

static void show(const struct cli_generate *g, const struct cli_text *text, size_t from)
{
	if (!g->show || text->n == from)
		return;
	fwrite(text->bytes + from, 1, text->n - from, stdout);
	fflush(stdout);
}

int cli_say(const struct cli_generate *g, struct cli_utf8_stream *stream, int32_t token,
	    struct cli_text *text)
{
	const struct cli_model *m = g->model;
	char usual[1024], *bytes = usual, *longer = NULL;
	size_t n = sizeof(usual), shown = text->n;
	int err = kvmod_engine_detokenize(m->engine, token, bytes, &n);

	if (err == KVMOD_ERANGE && n > sizeof(usual)) {
		bytes = longer = malloc(n);
		if (!longer)
			return cli_error("out of memory for a token of %zu bytes", n);
		err = kvmod_engine_detokenize(m->engine, token, bytes, &n);
	}
	if (err)
		err = cli_error_kvmod();
	else if (cli_utf8_add(stream, bytes, n, text))
		err = cli_error("out of memory");
	else
		show(g, text, shown);
	free(longer);
	return err;
}

static int finish(const struct cli_generate *g, struct cli_utf8_stream *stream,
		  struct cli_text *text)
{
	size_t shown = text->n;

	if (cli_utf8_end(stream, text))
		return cli_error("out of memory");
	show(g, text, shown);
	if (g->show && (!text->n || text->bytes[text->n - 1] != '\n'))
		putchar('\n');
	return cli_flush();
}

/* KVMOD_ECANCELED, without a message, after Ctrl-C. */
static int decode(const struct cli_generate *g, int32_t token, float *logits,
		  struct cli_answer *answer)
{
	double begin = cli_now();
	int err = kvmod_session_decode(g->model->session, &g->sequence, &token, &logits, 1);

	if (err == KVMOD_ECANCELED)
		return err;
	if (err)
		return cli_error_kvmod();
	answer->seconds += cli_now() - begin;
	answer->n_decoded++;
	answer->pending = -1;
	return CLI_OK;
}

int cli_generate(const struct cli_generate *g, float *logits, struct cli_answer *answer)
{
	struct cli_utf8_stream stream = { .n_held = 0 };
	int err = CLI_OK, finished;

	answer->pending = -1;
	while (!err && answer->n_tokens < g->limit && !cli_interrupted() && !cli_stdout_broken()) {
		int32_t token = cli_sample(g->sampler, logits);

		if (token < 0) {
			err = cli_error("the engine's logits are not finite numbers");
			break;
		}
		if (cli_is_end(g->model->about, token))
			break;
		answer->n_tokens++;
		answer->pending = token;
		err = cli_say(g, &stream, token, &answer->text);
		if (g->may_end && !kvmod_sequence_room(g->sequence))
			break;
		if (!err && answer->n_tokens < g->limit)
			err = decode(g, token, logits, answer);
	}
	finished = finish(g, &stream, &answer->text);
	return err && err != KVMOD_ECANCELED ? err : finished;
}
