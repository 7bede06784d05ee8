/* SPDX-License-Identifier: Apache-2.0 */
/* The policy "reader", the bytes that it expects, and the caches that have them. */
#include "tests/reader.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct reader reader;
struct kvmod_head heads[LAYERS][HEADS];
struct kvmod_segment segments[LAYERS];
const struct kvmod_segment *segment_list[LAYERS];
static const struct kvmod_head *head_list[LAYERS][HEADS];
struct kvmod_request request;
struct kvmod_plan *plan;

/* --- what it looks at ------------------------------------------------------------------- */

uint8_t reader_byte(enum of of, uint32_t layer, uint32_t head, uint32_t row, size_t byte)
{
	return (uint8_t)(of * 131 + layer * 57 + head * 29 + row * 13 + byte * 7 + 1);
}

static void note_what_is_there(const struct kvmod_segment *s)
{
	for (uint32_t g = 0; g < s->n_kv_heads; g++) {
		reader.there |= kvmod_head_at(s, g)->k.data ? KVMOD_NEED_K : 0;
		reader.there |= kvmod_head_at(s, g)->v.data ? KVMOD_NEED_V : 0;
	}
	reader.there |= s->colsum.data ? KVMOD_NEED_COLSUM : 0;
	reader.there |= s->wo_norm.data ? KVMOD_NEED_WO_NORM : 0;
	reader.there |= s->q_mean.data || s->q_cov.data ? KVMOD_NEED_Q_STATS : 0;
	ck_assert_int_eq(s->q.data != NULL, s->n_rows > 0);
	if (s->n_rows > reader.there_rows)
		reader.there_rows = s->n_rows;
}

static const uint8_t *reach(const void *memory)
{
	return strcmp(reader.device, "cpu") == 0 ? memory :
	       gpu_reach((const char *)memory - reader.beyond);
}

static void look(const struct kvmod_view *v, int64_t at, enum of of, uint32_t layer, uint32_t head,
		 uint32_t row, size_t bytes)
{
	const uint8_t *data = reach(v->data) + at;

	reader.n_views++;
	for (size_t i = 0; i < bytes; i++)
		reader.n_wrong += data[i] != reader_byte(of, layer, head, row, i);
}

static void look_at_heads(const struct kvmod_segment *s)
{
	for (uint32_t g = 0; g < s->n_kv_heads; g++) {
		const struct kvmod_head *head = kvmod_head_at(s, g);

		for (uint32_t i = 0; i < head->n; i++) {
			if (reader.what & KVMOD_NEED_K)
				look(&head->k, i * head->k.stride, OF_K, s->layer, g, i, 4 * DIM);
			if (reader.what & KVMOD_NEED_V)
				look(&head->v, i * head->v.stride, OF_V, s->layer, g, i, 2 * DIM);
		}
	}
}

static void look_at_queries(const struct kvmod_segment *s)
{
	for (uint32_t row = 0; row < s->n_rows; row++)
		for (uint32_t h = 0; h < Q_HEADS; h++)
			look(&s->q, row * s->q.stride + h * s->q.head_stride, OF_Q, s->layer, h, row,
			     4 * DIM);
}

static void look_at_extras(const struct kvmod_segment *s)
{
	for (uint32_t h = 0; h < Q_HEADS; h++) {
		uint32_t n = kvmod_head_at(s, h / (Q_HEADS / HEADS))->n;

		if (reader.what & KVMOD_NEED_COLSUM)
			look(&s->colsum, h * s->colsum.head_stride, OF_COLSUM, s->layer, h, 0, 4 * n);
		if (reader.what & KVMOD_NEED_WO_NORM)
			look(&s->wo_norm, h * s->wo_norm.head_stride, OF_NORM, s->layer, h, 0, 4 * n);
		if (!(reader.what & KVMOD_NEED_Q_STATS))
			continue;
		look(&s->q_mean, h * s->q_mean.head_stride, OF_MEAN, s->layer, h, 0, 4 * DIM);
		for (uint32_t d = 0; d < DIM; d++)
			look(&s->q_cov, h * s->q_cov.head_stride + d * s->q_cov.stride, OF_COV,
			     s->layer, h, d, 4 * DIM);
	}
}

unsigned reader_views(uint32_t what, uint32_t rows)
{
	unsigned n = 0;

	for (uint32_t l = 0; l < LAYERS; l++) {
		for (uint32_t g = 0; g < HEADS; g++)
			n += reader_length(l, g) * (!!(what & KVMOD_NEED_K) + !!(what & KVMOD_NEED_V));
		n += rows * Q_HEADS + Q_HEADS * (!!(what & KVMOD_NEED_COLSUM) +
						 !!(what & KVMOD_NEED_WO_NORM));
		n += what & KVMOD_NEED_Q_STATS ? Q_HEADS * (1 + DIM) : 0;
	}
	return n;
}

static struct question {
	const struct kvmod_request *request;
	struct kvmod_plan *plan;
} question;

/* Looks, then keeps the newest position of each head. */
static void answer(void *arg)
{
	const struct question *q = arg;

	for (uint32_t i = 0; i < q->request->n_segments; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(q->request, i);
		struct kvmod_keep *keep = kvmod_keep_at(q->plan, i);

		look_at_heads(s);
		look_at_queries(s);
		look_at_extras(s);
		keep->kind = KVMOD_KEEP_HEADS;
		for (uint32_t g = 0; g < s->n_kv_heads; g++) {
			keep->counts[g] = 1;
			keep->indices[g * keep->index_stride] = kvmod_head_at(s, g)->n - 1;
		}
	}
}

static int32_t reader_open(void *self, const struct kvmod_model *model)
{
	const struct kvmod_host *host = ((struct kvmod_instance *)self)->host;

	(void)model;
	if (reader.cannot_open)
		return host->fail(host->ctx, KVMOD_ENOTSUP, "not for this model");
	return reader.asks_for_device ? host->device(host->ctx, GPU, &reader.ops, &reader.self) :
					KVMOD_OK;
}

static int32_t reader_needs(void *self, struct kvmod_needs *needs)
{
	const struct kvmod_instance *instance = self;
	const struct kvmod_policy_ops *ops = instance->ops;

	if (reader.not_on && strcmp(ops->devices, reader.not_on) == 0) {
		needs->decode_every = 16;
		return instance->host->fail(instance->host->ctx, KVMOD_ENOTSUP, "not for this GPU");
	}
	needs->what = reader.what;
	needs->rows = (struct kvmod_amount){ .value = reader.rows, .is_count = 1 };
	return KVMOD_OK;
}

static int32_t reader_workspace(void *self, const struct kvmod_request *r,
				struct kvmod_workspace *need)
{
	const struct kvmod_host *host = ((struct kvmod_instance *)self)->host;

	(void)r;
	need->host = reader.host_scratch;
	need->device = reader.device_scratch;
	/* A message without a failure must not be shown as a reason. */
	host->fail(host->ctx, KVMOD_ENOMEM, "not so much");
	return reader.workspace_code;
}

static int32_t reader_compress(void *self, const struct kvmod_request *r, struct kvmod_plan *out)
{
	const struct kvmod_host *host = ((struct kvmod_instance *)self)->host;
	double loss;

	snprintf(reader.device, sizeof(reader.device), "%s", r->device);
	reader.stream = r->stream;
	reader.scratch = r->device_scratch;
	reader.given_host_scratch = r->scratch;
	if (reader.device_scratch) {
		ck_assert_uint_ge(r->device_scratch_size, reader.device_scratch);
		ck_assert_uint_eq((uintptr_t)r->device_scratch % 256, 0);
		memset((void *)(uintptr_t)reach(r->device_scratch), 0x5a, reader.device_scratch);
	}
	for (uint32_t i = 0; i < r->n_segments; i++)
		note_what_is_there(kvmod_segment_at(r, i));
	if (r->replay)
		reader.answer = r->replay(r, out, 1, &loss);
	question = (struct question){ r, out };
	if (strcmp(r->device, "cpu") == 0)
		answer(&question);
	else
		ck_assert_int_eq(gpu_launch(r->stream, answer, &question), 0);
	if (reader.code == 0 || reader.wordless)
		return reader.code;
	return host->fail(host->ctx, reader.code, "it does not please me");
}

static int32_t reader_init(const struct kvmod_host *host)
{
	struct kvmod_policy_ops ops = {
		.size = sizeof(ops), .name = "reader", .description = "looks at READER_ALL",
		.devices = reader.on, .instance_size = sizeof(struct kvmod_instance),
		.open = reader_open, .needs = reader_needs, .workspace = reader_workspace,
		.compress = reader_compress,
	};
	int32_t err = host->register_policy(host->ctx, &ops);

	ops.devices = reader.also_on;
	return err || !reader.also_on ? err : host->register_policy(host->ctx, &ops);
}

const struct kvmod_module reader_module = {
	.size = sizeof(reader_module), .magic = KVMOD_MAGIC, .abi_major = KVMOD_ABI_MAJOR,
	.name = "reader", .version = "1", .license = "Apache-2.0", .init = reader_init,
};

/* --- a cache in one memory or the other ---------------------------------------------------- */

static void *memories[256];
static bool is_of_gpu[256];
static unsigned n_memories;

uint32_t reader_length(uint32_t layer, uint32_t head)
{
	return 5 + 3 * layer + 2 * head;
}

static uint8_t *new_memory(bool on_gpu, size_t bytes, const void **seen)
{
	void *memory = on_gpu ? gpu_alloc(bytes) : malloc(bytes);
	uint8_t *host = on_gpu ? gpu_reach(memory) : memory;

	ck_assert_ptr_nonnull(memory);
	memset(host, 0x77, bytes);
	is_of_gpu[n_memories] = on_gpu;
	memories[n_memories++] = memory;
	*seen = memory;
	return host;
}

/* `n` rows for each of n_heads, the row_bytes of each known by reader_byte(). */
static struct kvmod_view new_view(bool on_gpu, enum of of, uint32_t layer, uint32_t type,
				  uint32_t first_head, uint32_t n_heads, uint32_t n,
				  size_t row_bytes, size_t stride, size_t head_stride)
{
	struct kvmod_view v = {
		.type = type, .stride = (int64_t)stride,
		.head_stride = (int64_t)head_stride,
	};
	size_t bytes = (n - 1) * stride + (n_heads - 1) * head_stride + row_bytes;
	uint8_t *data = new_memory(on_gpu, bytes, &v.data);

	for (uint32_t h = 0; h < n_heads; h++)
		for (uint32_t i = 0; i < n; i++)
			for (size_t b = 0; b < row_bytes; b++)
				data[h * head_stride + i * stride + b] =
					reader_byte(of, layer, first_head + h, i, b);
	return v;
}

static void new_heads(bool on_gpu, uint32_t layer, enum layout layout)
{
	uint32_t n = reader_length(layer, HEADS - 1);
	size_t k = 4 * DIM, v = 2 * DIM, gap = layout == GAPS ? 12 : 0;

	for (uint32_t g = 0; g < HEADS; g++)
		heads[layer][g] = (struct kvmod_head){ .size = sizeof(heads[0][0]), .n = reader_length(layer, g) };
	if (layout == INTERLEAVED) {
		struct kvmod_view all = new_view(on_gpu, OF_K, layer, KVMOD_F32, 0, HEADS, n, k,
						 HEADS * k, k);

		for (uint32_t g = 0; g < HEADS; g++) {
			heads[layer][g].k = all;
			heads[layer][g].k.data = (const char *)all.data + g * k;
		}
	}
	for (uint32_t g = 0; g < HEADS; g++) {
		struct kvmod_head *head = &heads[layer][g];

		if (layout != INTERLEAVED)
			head->k = new_view(on_gpu, OF_K, layer, KVMOD_F32, g, 1, head->n, k, k + gap, 0);
		head->v = new_view(on_gpu, OF_V, layer, KVMOD_F16, g, 1, head->n, v, v + gap, 0);
	}
}

static void new_segment(uint32_t layer, const char *device, enum layout layout)
{
	bool gpu_side = device && strcmp(device, GPU) == 0;
	struct kvmod_segment *s = &segments[layer];
	size_t gap = layout == GAPS ? 20 : 0, f = sizeof(float);
	uint32_t n = reader_length(layer, HEADS - 1);

	new_heads(gpu_side, layer, layout);
	*s = (struct kvmod_segment){
		.size = sizeof(*s), .layer = layer, .logical = 100, .n_q_heads = Q_HEADS,
		.n_kv_heads = HEADS, .head_dim = DIM, .total_heads = HEADS, .scale = 1,
		.heads = head_list[layer], .n_rows = ROWS, .device = device,
	};
	kvmod_list_heads(head_list[layer], heads[layer], HEADS);
	s->q = new_view(gpu_side, OF_Q, layer, KVMOD_F32, 0, Q_HEADS, ROWS, f * DIM,
			Q_HEADS * (f * DIM + gap), f * DIM + gap);
	s->colsum = new_view(gpu_side, OF_COLSUM, layer, KVMOD_F32, 0, Q_HEADS, 1, f * n, f, f * n + gap);
	s->wo_norm = new_view(gpu_side, OF_NORM, layer, KVMOD_F32, 0, Q_HEADS, 1, f * n, f, f * n + gap);
	s->q_mean = new_view(gpu_side, OF_MEAN, layer, KVMOD_F32, 0, Q_HEADS, 1, f * DIM, f, f * DIM + gap);
	s->q_cov = new_view(gpu_side, OF_COV, layer, KVMOD_F32, 0, Q_HEADS, DIM, f * DIM, f * DIM + gap,
			    DIM * (f * DIM + gap) + gap);
}

void make_request(const char *below, const char *above, uint32_t split, enum layout layout)
{
	for (uint32_t l = 0; l < LAYERS; l++)
		new_segment(l, l < split ? below : above, layout);
	request = (struct kvmod_request){
		.size = sizeof(request), .phase = KVMOD_PREFILL, .n_layers = LAYERS,
		.n_segments = LAYERS, .segments = segment_list,
	};
	kvmod_list_segments(segment_list, segments, LAYERS);
	ck_assert_int_eq(kvmod_plan_new(&request, &plan), 0);
}

static void free_cache(void)
{
	while (n_memories-- > 0) {
		if (is_of_gpu[n_memories])
			gpu_free(memories[n_memories]);
		else
			free(memories[n_memories]);
	}
	n_memories = 0;
	kvmod_plan_free(plan);
	plan = NULL;
}

/* ------------------------------------------------------------------------------------------- */

const struct kvmod_model reader_model = {
	.size = sizeof(reader_model), .n_layers = LAYERS, .n_q_heads = Q_HEADS, .n_kv_heads = HEADS,
	.head_dim = DIM, .context = 1024, .name = "made up",
};

struct kvmod_ctx *reader_context(const char *on, const char *also_on)
{
	struct kvmod_ctx *ctx = fixture_context();

	memset(&gpu, 0, sizeof(gpu));
	memset(&reader, 0, sizeof(reader));
	reader.on = on;
	reader.also_on = also_on;
	reader.what = READER_ALL;
	reader.rows = ROWS;
	assert_ok(kvmod_add_builtin(ctx, &gpu_module));
	assert_ok(kvmod_add_builtin(ctx, &reader_module));
	return ctx;
}

struct kvmod_policy *open_reader(struct kvmod_ctx *ctx, const char *device)
{
	struct kvmod_policy *policy;

	assert_ok(kvmod_policy_open(ctx, "reader", device, &reader_model, &policy));
	return policy;
}

void reader_end(struct kvmod_ctx *ctx, struct kvmod_policy *policy)
{
	kvmod_policy_close(policy);
	free_cache();
	kvmod_unref(ctx);
	ck_assert_uint_eq(gpu.n_live, 0);
	ck_assert_uint_eq(gpu.n_opened, gpu.n_closed);
}
