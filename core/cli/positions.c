/* SPDX-License-Identifier: Apache-2.0 */
/* run --positions: the tokens of the prompt, and how many KV heads still cache each. */
#include "core/cli/run.h"

#include <stdlib.h>
#include <string.h>

static int add_tokens(struct cli_tokens *seen, const struct cli_tokens *tokens)
{
	size_t n = seen->n + tokens->n;
	int32_t *ids = reallocarray(seen->ids, n, sizeof(*ids));

	if (!ids)
		return cli_error("out of memory");
	memcpy(ids + seen->n, tokens->ids, tokens->n * sizeof(*ids));
	seen->ids = ids;
	seen->n = n;
	return CLI_OK;
}

int cli_note_positions(struct cli_run *r, const struct cli_tokens *tokens, struct cli_turn *turn)
{
	if (add_tokens(&r->seen, tokens))
		return CLI_FAILED;
	free(turn->shares);
	turn->shares = calloc(r->seen.n, sizeof(*turn->shares));
	turn->seen = &r->seen;
	if (!turn->shares)
		return cli_error("out of memory");
	return kvmod_sequence_positions(r->sequence, turn->shares, r->seen.n) ? cli_error_kvmod() : CLI_OK;
}

/* --- for programs ------------------------------------------------------------------------ */

/* The text of all tokens, and where that of each ends; a character belongs to its last token. */
static int add_texts(const struct cli_model *m, const struct cli_tokens *tokens,
		     struct cli_text *text, size_t *ends)
{
	const struct cli_generate quiet = { .model = m };
	struct cli_utf8_stream stream = { .n_held = 0 };

	for (size_t i = 0; i < tokens->n; i++) {
		if (cli_say(&quiet, &stream, tokens->ids[i], text))
			return CLI_FAILED;
		ends[i] = text->n;
	}
	if (cli_utf8_end(&stream, text))
		return cli_error("out of memory");
	if (tokens->n)
		ends[tokens->n - 1] = text->n;
	return CLI_OK;
}

static json_t *texts_json(const struct cli_model *m, const struct cli_tokens *tokens)
{
	size_t *ends = calloc(tokens->n + 1, sizeof(*ends)), from = 0;
	struct cli_text text = { 0 };
	json_t *array = NULL;

	if (ends && !add_texts(m, tokens, &text, ends))
		array = json_array();
	for (size_t i = 0; array && i < tokens->n; i++) {
		json_array_append_new(array, json_stringn(text.n ? text.bytes + from : "", ends[i] - from));
		from = ends[i];
	}
	cli_text_free(&text);
	free(ends);
	return array;
}

static json_t *shares_json(const double *shares, size_t n)
{
	json_t *array = json_array();

	for (size_t i = 0; i < n; i++)
		json_array_append_new(array, json_real(shares[i]));
	return array;
}

int cli_add_positions(json_t *object, const struct cli_model *m, const struct cli_turn *turn)
{
	return json_object_set_new(object, "tokens", texts_json(m, turn->seen)) ||
	       json_object_set_new(object, "position_shares", shares_json(turn->shares, turn->seen->n));
}
