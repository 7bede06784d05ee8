/* SPDX-License-Identifier: Apache-2.0 */
/* Opens engine, policy and session as configured, and turns text into tokens. */
#include "core/cli/run.h"

#include <stdlib.h>
#include <string.h>

static int open_model(struct cli_model *m, struct kvmod_ctx *ctx, bool with_policy)
{
	*m = (struct cli_model){ .ctx = ctx };
	if (kvmod_engine_open(ctx, NULL, &m->engine))
		return cli_error_kvmod();
	m->ops = kvmod_engine_ops(m->engine);
	m->instance = kvmod_engine_instance(m->engine);
	m->about = kvmod_engine_model(m->engine);
	if ((with_policy && kvmod_policy_open(ctx, NULL, NULL, m->about, &m->policy)) ||
	    kvmod_session_open(m->engine, m->policy, &m->session)) {
		cli_error_kvmod();
		cli_model_close(m);
		return CLI_FAILED;
	}
	return CLI_OK;
}

int cli_model_open(struct cli_model *m, struct kvmod_ctx *ctx)
{
	return open_model(m, ctx, true);
}

int cli_model_open_whole(struct cli_model *m, struct kvmod_ctx *ctx)
{
	return open_model(m, ctx, false);
}

void cli_model_close(struct cli_model *m)
{
	if (m->session)
		kvmod_session_close(m->session);
	if (m->policy)
		kvmod_policy_close(m->policy);
	if (m->engine)
		kvmod_engine_close(m->engine);
	*m = (struct cli_model){ 0 };
}

static int grow(struct cli_tokens *tokens, size_t more)
{
	int32_t *ids = realloc(tokens->ids, (tokens->n + more + 1) * sizeof(*ids));

	if (!ids)
		return cli_error("out of memory for %zu tokens", tokens->n + more);
	tokens->ids = ids;
	return CLI_OK;
}

void cli_tokens_free(struct cli_tokens *tokens)
{
	free(tokens->ids);
	*tokens = (struct cli_tokens){ 0 };
}

int cli_add_raw(const struct cli_model *m, const struct cli_text *text, bool first,
		struct cli_tokens *tokens)
{
	uint32_t flags = KVMOD_TOKENIZE_SPECIAL | (first ? KVMOD_TOKENIZE_BOS : 0);
	size_t n = text->n / 2 + 16, room;
	int err;

	do {
		room = n;
		if (grow(tokens, room))
			return CLI_FAILED;
		err = kvmod_engine_tokenize(m->engine, text->bytes, text->n, flags,
					    tokens->ids + tokens->n, &n);
	} while (err == KVMOD_ERANGE && n > room);
	if (err)
		return cli_error_kvmod();
	tokens->n += n;
	return CLI_OK;
}

int cli_add_chat(const struct cli_model *m, const char *system, const char *user, bool first,
		 uint32_t part, struct cli_tokens *tokens)
{
	const struct kvmod_message messages[] = { { "system", system }, { "user", user } };
	size_t skip = system ? 0 : 1, n = strlen(user) / 2 + 64, room;
	int err;

	do {
		room = n;
		if (grow(tokens, room))
			return CLI_FAILED;
		err = kvmod_engine_chat_part(m->engine, messages + skip, CLI_COUNT(messages) - skip,
					     first, part, tokens->ids + tokens->n, &n,
					     &tokens->n_opening);
	} while (err == KVMOD_ERANGE && n > room);
	if (err)
		return cli_error_kvmod();
	tokens->n += n;
	return CLI_OK;
}
