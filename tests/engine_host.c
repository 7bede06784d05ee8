/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the ggml engine without a core: the host table, and calls that must not fail. */
#include "tests/engine_host.h"

#include "plugins/llama/engine.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static char message[512], warning[512];
static unsigned n_warnings;
static int32_t code;

static void host_log(void *ctx, uint32_t level, const char *format, ...)
{
	va_list args;

	(void)ctx;
	if (level != KVMOD_WARN)
		return;
	n_warnings++;
	va_start(args, format);
	vsnprintf(warning, sizeof(warning), format, args);
	va_end(args);
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

/* One, because threads that wait for each other crawl where cores are busy. */
static uint32_t n_threads = 1;

static uint32_t host_n_threads(void *ctx)
{
	(void)ctx;
	return n_threads;
}

void test_host_threads(uint32_t n)
{
	n_threads = n;
}

/* In an order that nobody expects. */
static void host_parallel(void *ctx, uint32_t n, void (*fn)(void *arg, uint32_t i), void *arg)
{
	(void)ctx;
	while (n)
		fn(arg, --n);
}

static struct kvmod_host host = {
	.size = sizeof(host),
	.log = host_log,
	.fail = host_fail,
	.n_threads = host_n_threads,
	.parallel = host_parallel,
};

void test_host_device(int32_t (*device)(void *ctx, const char *name,
					const struct kvmod_device_ops **ops, void **self))
{
	host.device = device;
}

struct gg_engine *test_engine_open(const struct test_engine_params *params)
{
	const struct kvmod_engine_ops *ops = params->llama ? &ll_engine_ops : &gg_engine_ops;
	struct gg_engine *engine = calloc(1, ops->instance_size);

	ck_assert_ptr_nonnull(engine);
	engine->base.host = &host;
	engine->base.ops = ops;
	engine->model = params->model;
	engine->context = params->context;
	if (!params->llama)
		gg_runtime_of(engine)->context_override = params->context_override;
	engine->batch = params->batch ? params->batch : 512;
	engine->gpu_layers = params->gpu_layers;
	engine->chat_template = params->chat_template;
	engine->mmap = !params->no_mmap;
	if (params->gpu)
		engine->gpu = *params->gpu;
	engine->cache_type = params->type == GGML_TYPE_F32 ? 0 :
			     params->type == GGML_TYPE_F16 ? 1 :
							     2;
	message[0] = '\0';
	if (!(params->check ? ops->check : ops->open)(engine))
		return engine;
	free(engine);
	return NULL;
}

struct gg_engine *test_engine(const char *model, enum ggml_type type)
{
	struct gg_engine *engine = test_engine_open(
		&(struct test_engine_params){ .model = model, .type = type });

	ck_assert_msg(engine, "%s", message);
	return engine;
}

void test_engine_close(struct gg_engine *engine)
{
	((const struct kvmod_engine_ops *)engine->base.ops)->close(engine);
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

const char *test_engine_warning(unsigned *n)
{
	*n = n_warnings;
	return warning;
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

struct kvmod_plan *test_plan(struct kvmod_seq *seq, struct kvmod_request *request)
{
	struct kvmod_plan *plan;

	*request = (struct kvmod_request){ .size = sizeof(*request), .phase = KVMOD_PREFILL };
	ck_assert(!gg_request(seq->engine, seq, request));
	ck_assert_msg(!kvmod_plan_new(request, &plan), "%s", kvmod_error());
	return plan;
}

struct kvmod_plan *test_plan_ends(struct kvmod_seq *seq, uint32_t sinks, uint32_t newest)
{
	struct kvmod_request request;
	struct kvmod_plan *plan = test_plan(seq, &request);

	for (uint32_t i = 0; i < request.n_segments; i++) {
		struct kvmod_keep *keep = kvmod_keep_at(plan, i);
		uint32_t n = kvmod_head_at(kvmod_segment_at(&request, i), 0)->n;

		if (n <= sinks + newest)
			continue;
		keep->kind = KVMOD_KEEP_SPANS;
		keep->n_spans = sinks ? 2 : 1;
		keep->spans[0] = (struct kvmod_span){ .begin = 0, .end = sinks };
		keep->spans[keep->n_spans - 1] = (struct kvmod_span){ .begin = n - newest, .end = n };
	}
	plan->flags = KVMOD_PLAN_CLOSES_GAPS;
	return plan;
}

void test_apply(struct kvmod_seq *seq, struct kvmod_plan *plan)
{
	ck_assert_msg(!gg_apply(seq->engine, seq, plan), "%s", message);
	kvmod_plan_free(plan);
}

static uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		hash = (hash ^ ((const unsigned char *)bytes)[i]) * 1099511628211u;
	return hash;
}

static uint64_t hash_memory(uint64_t hash, const struct gg_memory *memory)
{
	return hash_bytes(hash, memory->address, memory->bytes);
}

uint64_t test_fingerprint(const struct kvmod_seq *seq)
{
	const struct gg_model *model = &seq->engine->net;
	uint64_t hash = hash_bytes(1469598103934665603u, &seq->logical, sizeof(seq->logical));

	hash = hash_bytes(hash, seq->tokens, seq->logical * sizeof(*seq->tokens));
	for (uint32_t i = 0; i < model->n_layers; i++) {
		const struct gg_cache *cache = &seq->caches[i];

		hash = hash_memory(hash, &cache->k.memory);
		hash = hash_memory(hash, &cache->v.memory);
		for (int extra = 0; extra < GG_N_EXTRAS; extra++)
			hash = hash_memory(hash, &cache->extras[extra]);
		hash = hash_bytes(hash, cache->n, model->n_kv_heads * sizeof(*cache->n));
	}
	for (int side = 0; side < GG_N_SIDES; side++)
		hash = hash_memory(hash, &seq->queries.memory[side]);
	return hash;
}

void test_near(const float *a, const float *b, size_t n, double relative)
{
	double largest = 0;

	for (size_t i = 0; i < n; i++)
		largest = fmax(largest, fabs((double)b[i]));
	for (size_t i = 0; i < n; i++)
		ck_assert_msg(fabs((double)a[i] - (double)b[i]) <= relative * largest,
			      "number %zu of %zu: %g, expected %g (largest %g)", i, n, (double)a[i],
			      (double)b[i], largest);
}

static double log_sum(const float *logits, size_t n)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += exp((double)logits[i]);
	return log(sum);
}

double test_divergence(const float *a, const float *b, size_t n)
{
	double a_sum = log_sum(a, n), b_sum = log_sum(b, n), total = 0;

	for (size_t i = 0; i < n; i++)
		total += exp((double)a[i] - a_sum) * ((double)a[i] - a_sum - (double)b[i] + b_sum);
	return total;
}

int test_main(const char *name, void (*add)(TCase *tc))
{
	Suite *suite = suite_create(name);
	TCase *tc = tcase_create(name);
	SRunner *runner;
	int failed;

	tcase_set_timeout(tc, 120);
	add(tc);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
