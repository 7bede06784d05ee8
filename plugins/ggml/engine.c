/* SPDX-License-Identifier: Apache-2.0 */
/* The engine "ggml": its parameters, opening and closing, and the table of its calls. */
#include "runtime.h"

#include <stdlib.h>
#include <string.h>

#define ENGINE_PARAMS(P, owner) \
	GG_PARAM_MODEL(P, owner) \
	GG_PARAM_CONTEXT(P, owner) \
	P(owner, struct gg_runtime, context_override, BOOL, "no", "", \
	  "let sequences exceed the context, for policies that bound the cache") \
	P(owner, struct gg_engine, threads, INT, "0", "0..512", \
	  "threads of ggml; 0: as many as the host has, or fewer while other programs run") \
	GG_PARAM_BATCH(P, owner) \
	GG_PARAM_GPU_LAYERS(P, owner) \
	P(owner, struct gg_engine, mmap, BOOL, "yes", "", \
	  "use weights in the mapped file; no: read them, so that the file may change") \
	GG_PARAM_CACHE_TYPE(P, owner) \
	GG_PARAM_CHAT_TEMPLATE(P, owner)
KVMOD_PARAMS(engine, ggml, ENGINE_PARAMS);

static int32_t set_limits(struct gg_engine *engine)
{
	uint64_t most = engine->net.context, wanted = (uint64_t)engine->context;

	if (engine->net.head_dim % (uint32_t)ggml_blck_size(engine->type))
		return gg_fail(engine, KVMOD_ENOTSUP, "cache_type = %s needs a head dimension that is a multiple of %lld; this model's is %u",
			       ggml_type_name(engine->type), (long long)ggml_blck_size(engine->type),
			       engine->net.head_dim);
	if (wanted > most && !gg_runtime_of(engine)->context_override)
		return gg_fail(engine, KVMOD_ERANGE, "context = %llu exceeds %s of %llu tokens: set context_override = yes to allow this",
			       (unsigned long long)wanted, engine->net.context_is,
			       (unsigned long long)most);
	engine->limit = wanted ? wanted : most;
	if (gg_runtime_of(engine)->context_override)
		engine->limit = INT32_MAX;
	return KVMOD_OK;
}

static void describe(struct gg_engine *engine)
{
	const struct gg_model *net = &engine->net;

	engine->public_model = (struct kvmod_model){
		.size = sizeof(struct kvmod_model),
		.n_layers = net->n_layers, .n_q_heads = net->n_q_heads,
		.n_kv_heads = net->n_kv_heads, .head_dim = net->head_dim,
		.n_vocab = (uint32_t)net->dims[GG_VOCAB],
		.context = engine->context ? (uint64_t)engine->context : net->context,
		.name = net->name, .architecture = net->family->architecture,
		.scale = net->scale, .rope_base = net->rope.base,
		.rope_interleaved = net->rope.type == GGML_ROPE_TYPE_NORMAL,
		.rope_freqs = net->rope_freqs,
		.n_rope_freqs = net->rope_freqs ? (uint32_t)net->rope.n_dims / 2 : 0,
		.rope_magnitude = net->rope.attn_factor * gg_rope_magnitude(&net->rope),
		.end_tokens = engine->text.end_tokens, .n_end_tokens = engine->text.n_end_tokens,
		.device = engine->gpu.n_layers ? engine->gpu.ops->name : NULL,
		.n_device_layers = engine->gpu.n_layers,
	};
}

static void gg_close(void *self)
{
	struct gg_engine *engine = self;

	gg_gpu_wait(engine);
	gg_graph_free(&gg_runtime_of(engine)->graph);
	for (int side = 0; side < GG_N_SIDES; side++) {
		gg_memory_free(&gg_runtime_of(engine)->scratch[side]);
		gg_memory_free(&gg_runtime_of(engine)->hadamard[side]);
	}
	gg_text_close(engine);
	gg_model_close(engine);
	gg_gpu_close(engine);
	gg_backend_close(engine);
}

static int32_t gg_open(void *self)
{
	struct gg_engine *engine = self;
	int32_t code;

	engine->type = gg_cache_type(engine);
	if ((code = gg_backend_open(engine)) || (code = gg_gpu_find(engine)) ||
	    (code = gg_model_read(engine)) || (code = set_limits(engine)) ||
	    (code = gg_gpu_open(engine)) || (code = gg_model_load(engine)) || (code = gg_text_open(engine))) {
		gg_close(engine);
		return code;
	}
	gg_file_forget(&engine->net.file);
	/* A number that the user chose stays. */
	gg_tuning_start(&gg_runtime_of(engine)->tuning, engine->threads ? 0 : engine->backend.n_threads);
	describe(engine);
	return KVMOD_OK;
}

/* What open() does, without what takes long: copies no weights, starts no threads. */
static int32_t gg_check(void *self)
{
	((struct gg_engine *)self)->check_only = true;
	return gg_open(self);
}

static const struct kvmod_model *gg_describe(void *self)
{
	return &((struct gg_engine *)self)->public_model;
}

/* Signal handlers may call this: one store. */
static void gg_cancel(void *self)
{
	atomic_store(&((struct gg_engine *)self)->backend.cancelled, true);
}

const struct kvmod_engine_ops gg_engine_ops = {
	.size = sizeof(struct kvmod_engine_ops),
	.flags = KVMOD_ENGINE_CLOSES_GAPS | KVMOD_ENGINE_STORES,
	.name = "ggml",
	.description = "GGUF models through ggml, on the CPU and on CUDA GPUs",
	.instance_size = sizeof(struct gg_runtime),
	.n_params = sizeof(ggml_params) / sizeof(ggml_params[0]),
	.params = ggml_params,
	.open = gg_open,
	.close = gg_close,
	.model = gg_describe,
	.tokenize = gg_tokenize,
	.detokenize = gg_detokenize,
	.chat = gg_chat,
	.seq_open = gg_seq_open,
	.seq_close = gg_seq_close,
	.seq_fork = gg_seq_fork,
	.seq_truncate = gg_seq_truncate,
	.seq_length = gg_seq_length,
	.prompt_begin = gg_prompt_begin,
	.step = gg_step,
	.cancel = gg_cancel,
	.request = gg_request,
	.apply = gg_apply,
	.bytes = gg_seq_bytes,
	.seq_room = gg_seq_room,
	.check = gg_check,
	.serves = gg_serves,
	.chat_part = gg_chat_part,
	.seq_narrow = gg_seq_narrow,
};
