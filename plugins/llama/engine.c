/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine "llama": libllama itself, with its own cache, which cannot be compressed.
 * `kvmod bench engine` compares the engine "ggml" with it.
 */
#include "engine.h"

#include <stdlib.h>
#include <string.h>

#define LLAMA_PARAMS(P, owner) \
	GG_PARAM_MODEL(P, owner) \
	GG_PARAM_CONTEXT(P, owner) \
	P(owner, struct gg_engine, threads, INT, "0", "0..512", \
	  "threads of ggml; 0: as many as the host has") \
	GG_PARAM_BATCH(P, owner) \
	GG_PARAM_GPU_LAYERS(P, owner) \
	GG_PARAM_CACHE_TYPE(P, owner) \
	GG_PARAM_CHAT_TEMPLATE(P, owner)
KVMOD_PARAMS(engine, llama, LLAMA_PARAMS);

/* Each sequence has a context, and therefore a cache, of its own. */
struct ll_seq {
	struct llama_context *context;
	uint64_t logical;
	struct kvmod_head *heads;	/* [n_kv_heads], the same in each layer */
	struct kvmod_segment *segments;	/* [n_layers] */
	const struct kvmod_head **head_list;	/* of these */
	const struct kvmod_segment **segment_list;
};

static struct ll_seq *seq_of(struct kvmod_seq *seq)
{
	return (struct ll_seq *)seq;
}

/* --- the model -------------------------------------------------------------------- */

/* The head dimension that the file states, or the model's width divided by its heads. */
static uint32_t head_dim(const struct llama_model *model, const char *architecture)
{
	char key[128], value[32];

	snprintf(key, sizeof(key), "%s.attention.key_length", architecture);
	if (llama_model_meta_val_str(model, key, value, sizeof(value)) > 0)
		return (uint32_t)strtoul(value, NULL, 10);
	return (uint32_t)(llama_model_n_embd(model) / llama_model_n_head(model));
}

static void describe(struct ll_engine *e)
{
	struct kvmod_model *m = &e->gg.public_model;

	if (llama_model_meta_val_str(e->model, "general.architecture", e->architecture,
				     sizeof(e->architecture)) < 0)
		strcpy(e->architecture, "unknown");
	if (llama_model_meta_val_str(e->model, "general.name", e->name, sizeof(e->name)) < 0)
		strcpy(e->name, e->architecture);
	*m = (struct kvmod_model){
		.size = sizeof(*m),
		.n_layers = (uint32_t)llama_model_n_layer(e->model),
		.n_q_heads = (uint32_t)llama_model_n_head(e->model),
		.n_kv_heads = (uint32_t)llama_model_n_head_kv(e->model),
		.head_dim = head_dim(e->model, e->architecture),
		.n_vocab = (uint32_t)llama_vocab_n_tokens(e->gg.text.vocab),
		.context = (uint64_t)llama_model_n_ctx_train(e->model),
		.name = e->name,
		.architecture = e->architecture,
		.end_tokens = e->gg.text.end_tokens,
		.n_end_tokens = e->gg.text.n_end_tokens,
	};
	if (e->gg.gpu.device) {
		m->device = e->gg.gpu.ops->name;
		m->n_device_layers = m->n_layers;
		if (e->gg.gpu_layers > 0 && e->gg.gpu_layers < m->n_layers)
			m->n_device_layers = (uint32_t)e->gg.gpu_layers;
	}
	if (e->gg.context && (uint64_t)e->gg.context < m->context)
		m->context = (uint64_t)e->gg.context;
}

static void ll_close(void *self)
{
	struct ll_engine *e = self;

	gg_text_close(&e->gg);
	if (e->model)
		llama_model_free(e->model);
	gg_model_close(&e->gg);
	gg_gpu_close(&e->gg);
	gg_backend_close(&e->gg);
}

static int32_t open_model(struct ll_engine *e)
{
	struct llama_model_params params = llama_model_default_params();
	ggml_backend_dev_t devices[] = { e->gg.gpu.device, NULL };
	const char *why;
	char path[32];

	/* The file that was checked, even if its name is another file's by now. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", e->gg.net.file.fd);
	params.devices = devices;
	params.n_gpu_layers = !e->gg.gpu.device ? 0 : -1;
	/* libllama counts the output matrix as a layer, and moves it to the GPU first. */
	if (e->gg.gpu.device && e->gg.gpu_layers > 0 && e->gg.gpu_layers < INT32_MAX)
		params.n_gpu_layers = (int32_t)e->gg.gpu_layers + 1;
	gg_log_begin(&e->gg);
	e->model = llama_model_load_from_file(path, params);
	why = gg_log_end();
	if (!e->model)
		return gg_fail(&e->gg, KVMOD_EFORMAT, "%s: libllama cannot load the model (%s)", e->gg.model,
			       *why ? why : "libllama gives no reason");
	return KVMOD_OK;
}

/* Also refuses a model that the engine ggml runs, but that ends the process in libllama. */
static int32_t check_model(struct ll_engine *e)
{
	const struct gg_model *net = &e->gg.net;
	int32_t code = gg_model_check(&e->gg);

	if (!code && net->rope.n_dims != (int)net->head_dim)
		return gg_fail(&e->gg, KVMOD_ENOTSUP,
			       "%s: RoPE over %d of %u dimensions: libllama rotates all dimensions in this family",
			       e->gg.model, net->rope.n_dims, net->head_dim);
	return code;
}

static int32_t ll_open(void *self)
{
	struct ll_engine *e = self;
	int32_t code;

	e->gg.type = gg_cache_type(&e->gg);
	code = gg_backend_open(&e->gg);
	if (!code)
		code = gg_gpu_find(&e->gg);
	if (!code)
		code = gg_model_read(&e->gg);
	if (!code)
		code = check_model(e);
	if (!code)
		code = open_model(e);
	if (!code)
		code = gg_text_open(&e->gg);
	if (code) {
		ll_close(e);
		return code;
	}
	gg_file_forget(&e->gg.net.file);
	describe(e);
	e->gg.limit = e->gg.public_model.context;
	return KVMOD_OK;
}

static const struct kvmod_model *ll_model(void *self)
{
	return &((struct ll_engine *)self)->gg.public_model;
}

/* --- sequences ----------------------------------------------------------------------- */

static void ll_seq_close(void *self, struct kvmod_seq *seq)
{
	struct ll_seq *s = seq_of(seq);

	(void)self;
	if (!s)
		return;
	if (s->context)
		llama_free(s->context);
	free(s->heads);
	free(s->segments);
	free(s->head_list);
	free(s->segment_list);
	free(s);
}

static bool was_cancelled(void *arg)
{
	return atomic_load_explicit(&((struct gg_backend *)arg)->cancelled, memory_order_relaxed);
}

static struct llama_context *new_context(struct ll_engine *e, const char **why)
{
	struct llama_context_params params = llama_context_default_params();
	struct llama_context *context;

	params.n_ctx = (uint32_t)e->gg.public_model.context;
	params.n_batch = params.n_ubatch = (uint32_t)e->gg.batch;
	params.n_threads = params.n_threads_batch = e->gg.backend.n_threads;
	params.type_k = params.type_v = e->gg.type;
	params.abort_callback = was_cancelled;
	params.abort_callback_data = &e->gg.backend;
	gg_log_begin(&e->gg);
	context = llama_init_from_model(e->model, params);
	*why = gg_log_end();
	if (context && e->gg.backend.threads)
		llama_attach_threadpool(context, e->gg.backend.threads, NULL);
	return context;
}

static int32_t ll_seq_open(void *self, struct kvmod_seq **out)
{
	struct ll_engine *e = self;
	const struct kvmod_model *m = &e->gg.public_model;
	struct ll_seq *s = calloc(1, sizeof(*s));
	const char *why = "";

	if (s) {
		s->heads = calloc(m->n_kv_heads, sizeof(*s->heads));
		s->segments = calloc(m->n_layers, sizeof(*s->segments));
		s->head_list = calloc(m->n_kv_heads, sizeof(*s->head_list));
		s->segment_list = calloc(m->n_layers, sizeof(*s->segment_list));
		s->context = new_context(e, &why);
	}
	if (!s || !s->heads || !s->segments || !s->head_list || !s->segment_list || !s->context) {
		ll_seq_close(e, (struct kvmod_seq *)s);
		return gg_fail(&e->gg, KVMOD_ENOMEM, "no memory for a context of %llu tokens%s%s%s",
			       (unsigned long long)m->context, *why ? " (" : "", why, *why ? ")" : "");
	}
	kvmod_list_heads(s->head_list, s->heads, m->n_kv_heads);
	kvmod_list_segments(s->segment_list, s->segments, m->n_layers);
	*out = (struct kvmod_seq *)s;
	return KVMOD_OK;
}

static int32_t ll_seq_fork(void *self, struct kvmod_seq *seq, struct kvmod_seq **copy)
{
	struct ll_engine *e = self;
	struct ll_seq *from = seq_of(seq);
	size_t size = llama_state_seq_get_size(from->context, 0);
	uint8_t *state = malloc(size);
	int32_t code = ll_seq_open(self, copy);

	if (!code && (!state || !llama_state_seq_get_data(from->context, state, size, 0) ||
		      !llama_state_seq_set_data(seq_of(*copy)->context, state, size, 0))) {
		ll_seq_close(self, *copy);
		code = gg_fail(&e->gg, KVMOD_ENOMEM, "no memory to copy %zu bytes of cache", size);
	}
	free(state);
	if (!code)
		seq_of(*copy)->logical = from->logical;
	return code;
}

static void forget(struct ll_seq *s, uint64_t logical)
{
	llama_memory_seq_rm(llama_get_memory(s->context), 0, (llama_pos)logical, -1);
	s->logical = logical;
}

static int32_t ll_seq_truncate(void *self, struct kvmod_seq *seq, uint64_t logical)
{
	if (logical > seq_of(seq)->logical)
		return gg_fail((struct gg_engine *)self, KVMOD_ERANGE,
			       "cannot truncate to %llu tokens: the sequence has %llu",
			       (unsigned long long)logical, (unsigned long long)seq_of(seq)->logical);
	forget(seq_of(seq), logical);
	return KVMOD_OK;
}

static uint64_t ll_seq_length(void *self, struct kvmod_seq *seq)
{
	(void)self;
	return seq_of(seq)->logical;
}

/* --- steps ------------------------------------------------------------------------------ */

static int32_t check_room(struct ll_engine *e, const struct ll_seq *s, uint64_t n)
{
	uint64_t context = e->gg.public_model.context;

	if (s->logical + n <= context)
		return KVMOD_OK;
	return gg_fail(&e->gg, KVMOD_ERANGE, "%llu new and %llu cached tokens exceed the context of %llu",
		       (unsigned long long)n, (unsigned long long)s->logical,
		       (unsigned long long)context);
}

static int32_t ll_serves(void *self, const struct kvmod_needs *needs)
{
	struct ll_engine *e = self;

	if (needs->what || needs->rows.value > 0)
		return gg_fail(&e->gg, KVMOD_ENOTSUP,
			       "libllama does not show its cache: use the policy fullkv with this engine");
	return KVMOD_OK;
}

static int32_t ll_prompt_begin(void *self, struct kvmod_seq *seq, uint64_t n_tokens,
			       const struct kvmod_needs *needs)
{
	int32_t code = needs ? ll_serves(self, needs) : KVMOD_OK;

	return code ? code : check_room(self, seq_of(seq), n_tokens);
}

/* One pass: n tokens, at most a batch; logits of the last n_logits of them. */
static int32_t run_pass(struct ll_engine *e, struct ll_seq *s, const int32_t *tokens,
			uint32_t n, float *logits, uint32_t n_logits)
{
	size_t width = e->gg.public_model.n_vocab;
	int8_t *wanted = calloc(n, 1);
	struct llama_batch batch = {
		.n_tokens = (int32_t)n,
		.token = (llama_token *)(uintptr_t)tokens,
		.logits = wanted,
	};
	int32_t code;

	if (!wanted)
		return gg_fail(&e->gg, KVMOD_ENOMEM, "no memory for a batch");
	/* libllama checks for cancellation only while it runs on the CPU. */
	if (was_cancelled(&e->gg.backend)) {
		free(wanted);
		return gg_fail(&e->gg, KVMOD_ECANCELED, "cancelled");
	}
	for (uint32_t i = n - n_logits; i < n; i++)
		wanted[i] = 1;
	code = llama_decode(s->context, batch);
	for (uint32_t i = 0; i < n_logits && !code; i++)
		memcpy(logits + i * width, llama_get_logits_ith(s->context, (int32_t)(n - n_logits + i)),
		       width * sizeof(*logits));
	free(wanted);
	if (code == 2)
		return gg_fail(&e->gg, KVMOD_ECANCELED, "cancelled");
	if (code)
		return gg_fail(&e->gg, KVMOD_EDEVICE, "libllama failed to run the model (error %d)", code);
	s->logical += n;
	return KVMOD_OK;
}

static int32_t run_item(struct ll_engine *e, const struct kvmod_batch_item *item,
			const struct kvmod_batch *batch, uint64_t *done)
{
	struct ll_seq *s = seq_of(item->seq);
	size_t width = e->gg.public_model.n_vocab;
	int32_t code = check_room(e, s, item->n_tokens);

	for (uint32_t at = 0, n; at < item->n_tokens && !code; at += n) {
		uint32_t left, first = item->n_tokens - item->n_logits, skip;

		n = item->n_tokens - at < e->gg.batch ? item->n_tokens - at : (uint32_t)e->gg.batch;
		skip = first > at ? first - at : 0;
		left = skip < n ? n - skip : 0;
		code = gg_file_check(&e->gg);
		if (code)
			break;
		code = run_pass(e, s, item->tokens + at, n,
				left ? item->logits + (at + skip - first) * width : NULL, left);
		*done += code ? 0 : n;
		if (!code && batch->progress)
			batch->progress(batch->progress_arg, *done);
	}
	return code;
}

static const struct kvmod_batch_item *item_at(const struct kvmod_batch *batch, uint32_t i)
{
	return KVMOD_AT(const struct kvmod_batch_item, batch->items, batch->item_stride, i);
}

static int32_t ll_step(void *self, const struct kvmod_batch *batch)
{
	struct ll_engine *e = self;
	uint64_t *before = calloc(batch->n_items + 1, sizeof(*before)), done = 0;
	int32_t code = KVMOD_OK;
	uint32_t n = 0;

	if (!before)
		return gg_fail(&e->gg, KVMOD_ENOMEM, "no memory for a batch");
	atomic_store(&e->gg.backend.cancelled, false);
	for (; n < batch->n_items && !code; n++) {
		before[n] = seq_of(item_at(batch, n)->seq)->logical;
		code = run_item(e, item_at(batch, n), batch, &done);
	}
	for (uint32_t i = 0; i < n && code; i++)
		forget(seq_of(item_at(batch, i)->seq), before[i]);
	free(before);
	return code;
}

static void ll_cancel(void *self)
{
	atomic_store(&((struct ll_engine *)self)->gg.backend.cancelled, true);
}

/* --- what a policy sees -------------------------------------------------------------------- */

/* Gives lengths only: enough for a policy that needs nothing else and keeps everything. */
static int32_t ll_request(void *self, struct kvmod_seq *seq, struct kvmod_request *out)
{
	const struct kvmod_model *m = ll_model(self);
	struct ll_seq *s = seq_of(seq);

	for (uint32_t g = 0; g < m->n_kv_heads; g++)
		s->heads[g] = (struct kvmod_head){ .size = sizeof(*s->heads), .n = (uint32_t)s->logical };
	for (uint32_t l = 0; l < m->n_layers; l++)
		s->segments[l] = (struct kvmod_segment){
			.size = sizeof(*s->segments), .layer = l, .logical = s->logical,
			.n_q_heads = m->n_q_heads, .n_kv_heads = m->n_kv_heads,
			.head_dim = m->head_dim, .total_heads = m->n_kv_heads,
			.heads = s->head_list,
		};
	*out = (struct kvmod_request){
		.size = sizeof(*out), .n_layers = m->n_layers, .n_segments = m->n_layers,
		.segments = s->segment_list, .device = "cpu",
	};
	return KVMOD_OK;
}

static int32_t ll_apply(void *self, struct kvmod_seq *seq, const struct kvmod_plan *plan)
{
	(void)seq;
	for (uint32_t i = 0; i < plan->n_keeps; i++) {
		const struct kvmod_keep *keep = kvmod_keep_at(plan, i);

		if (keep->status == KVMOD_OK && keep->kind != KVMOD_KEEP_ALL)
			return gg_fail((struct gg_engine *)self, KVMOD_ENOTSUP,
				       "libllama cannot cut its cache: use the policy fullkv with this engine");
	}
	return KVMOD_OK;
}

static void ll_bytes(void *self, struct kvmod_seq *seq, struct kvmod_bytes *out)
{
	const struct ll_engine *e = self;
	const struct kvmod_model *m = &e->gg.public_model;
	uint64_t row = 2 * (uint64_t)m->n_layers *
		       ggml_row_size(e->gg.type, m->n_kv_heads * (int64_t)m->head_dim);

	out->used = out->full = seq_of(seq)->logical * row;
	out->held = m->context * row;
}

const struct kvmod_engine_ops ll_engine_ops = {
	.size = sizeof(struct kvmod_engine_ops),
	.flags = KVMOD_ENGINE_WHOLE,
	.name = "llama",
	.description = "GGUF models through libllama; its cache is always whole",
	.instance_size = sizeof(struct ll_engine),
	.n_params = sizeof(llama_params) / sizeof(llama_params[0]),
	.params = llama_params,
	.open = ll_open,
	.close = ll_close,
	.model = ll_model,
	.tokenize = gg_tokenize,
	.detokenize = gg_detokenize,
	.chat = gg_chat,
	.seq_open = ll_seq_open,
	.seq_close = ll_seq_close,
	.seq_fork = ll_seq_fork,
	.seq_truncate = ll_seq_truncate,
	.seq_length = ll_seq_length,
	.prompt_begin = ll_prompt_begin,
	.step = ll_step,
	.cancel = ll_cancel,
	.request = ll_request,
	.apply = ll_apply,
	.bytes = ll_bytes,
	.serves = ll_serves,
	.chat_part = gg_chat_part,
};
