/* SPDX-License-Identifier: Apache-2.0 */
#include "engine_host.h"

#include <check.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static char message[512];
static int32_t code;

static void host_log(void *ctx, uint32_t level, const char *format, ...)
{
	(void)ctx, (void)level, (void)format;
}

static int32_t host_fail(void *ctx, int32_t why, const char *format, ...)
{
	va_list args;

	(void)ctx;
	va_start(args, format);
	vsnprintf(message, sizeof(message), format, args);
	va_end(args);
	return code = why;
}

static uint32_t host_n_threads(void *ctx)
{
	(void)ctx;
	return 2;
}

static const struct kvmod_host host = {
	.size = sizeof(host), .log = host_log, .fail = host_fail, .n_threads = host_n_threads,
};

struct gg_engine *test_engine_open(const struct test_engine_params *params)
{
	struct gg_engine *engine = calloc(1, gg_engine_ops.instance_size);

	ck_assert_ptr_nonnull(engine);
	engine->base.host = &host;
	engine->base.ops = &gg_engine_ops;
	engine->model = params->model;
	engine->context = params->context;
	engine->context_override = params->context_override;
	engine->batch = params->batch ? params->batch : 512;
	engine->gpu_layers = params->gpu_layers;
	engine->cache_type = params->type == GGML_TYPE_F32 ? 0 : params->type == GGML_TYPE_F16 ? 1 : 2;
	message[0] = '\0';
	if (!gg_engine_ops.open(engine))
		return engine;
	free(engine);
	return NULL;
}

struct gg_engine *test_engine(const char *model, enum ggml_type type)
{
	struct gg_engine *engine = test_engine_open(&(struct test_engine_params){ .model = model, .type = type });

	ck_assert_msg(engine, "%s", message);
	return engine;
}

void test_engine_close(struct gg_engine *engine)
{
	gg_engine_ops.close(engine);
	free(engine);
}

const char *test_engine_error(void)
{
	return message;
}

int32_t test_engine_code(void)
{
	return code;
}

struct kvmod_seq *test_seq(struct gg_engine *engine)
{
	struct kvmod_seq *seq;

	ck_assert_msg(!gg_seq_open(engine, &seq), "%s", message);
	return seq;
}

void test_run(struct kvmod_seq *seq, const int32_t *tokens, uint32_t n, float *logits, uint32_t n_logits)
{
	ck_assert_msg(!gg_run_tokens(seq->engine, seq, tokens, n, logits, n_logits), "%s", message);
}

struct kvmod_seq *test_fork(struct kvmod_seq *seq)
{
	struct kvmod_seq *copy;

	ck_assert_msg(!gg_seq_fork(seq->engine, seq, &copy), "%s", message);
	return copy;
}
