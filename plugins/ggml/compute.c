/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a graph, in memory for its nodes. On the host ggml's allocator is enough; with a
 * GPU ggml's scheduler divides the graph and copies what one side hands to the other.
 */
#include "runtime.h"

#include <string.h>

static bool plan_on_host(struct gg_engine *engine, struct gg_graph *graph)
{
	if (!graph->memory)
		graph->memory = ggml_gallocr_new(
			ggml_backend_get_default_buffer_type(engine->backend.handle));
	/*
	 * Reserve anew: the allocator alone compares only counts and sizes, and mistakes
	 * another graph with as many nodes for the one that it has planned.
	 */
	return graph->memory && ggml_gallocr_reserve(graph->memory, graph->nodes) &&
	       ggml_gallocr_alloc_graph(graph->memory, graph->nodes);
}

static ggml_backend_sched_t new_sched(struct gg_engine *engine, const struct gg_graph *graph)
{
	ggml_backend_t backends[GG_N_SIDES] = { engine->gpu.handle, engine->backend.handle };
	ggml_backend_buffer_type_t types[GG_N_SIDES] = {
		ggml_backend_get_default_buffer_type(backends[0]),
		ggml_backend_dev_host_buffer_type(engine->gpu.device),
	};

	if (!types[1])
		types[1] = ggml_backend_get_default_buffer_type(backends[1]);
	return ggml_backend_sched_new(backends, types, GG_N_SIDES,
				      2 * (size_t)ggml_graph_size(graph->nodes), false, false);
}

/* Each topology gets a new scheduler, because a scheduler plans anew only when it is new. */
static bool plan_with_gpu(struct gg_engine *engine, struct gg_graph *graph)
{
	if (graph->sched && graph->planned != graph->topology) {
		gg_gpu_wait(engine); /* the last graph may still run in that memory */
		ggml_backend_sched_free(graph->sched);
		graph->sched = NULL;
	}
	if (graph->sched)
		ggml_backend_sched_reset(graph->sched);
	else
		graph->sched = new_sched(engine, graph);
	graph->planned = graph->topology;
	if (graph->sched && ggml_backend_sched_alloc_graph(graph->sched, graph->nodes))
		return true;
	ggml_backend_sched_free(graph->sched);
	graph->sched = NULL;
	return false;
}

bool gg_graph_plan(struct gg_engine *engine, struct gg_graph *graph)
{
	return engine->gpu.handle ? plan_with_gpu(engine, graph) : plan_on_host(engine, graph);
}

/*
 * A GPU cannot be stopped within a pass, so cancellation is checked before each. The next
 * pass is prepared while the GPU works.
 */
static enum ggml_status compute_with_gpu(struct gg_engine *engine, struct gg_graph *graph)
{
	if (atomic_load(&engine->backend.cancelled))
		return GGML_STATUS_ABORTED;
	return ggml_backend_sched_graph_compute_async(graph->sched, graph->nodes);
}

/* Does the graph run one token of each sequence? */
static bool decodes(const struct gg_graph *graph)
{
	for (uint32_t i = 0; i < graph->n_slots; i++)
		if (graph->shapes[i].n_tokens > 1)
			return false;
	return true;
}

static enum ggml_status compute_on_host(struct gg_engine *engine, struct gg_graph *graph)
{
	struct gg_backend *backend = &engine->backend;
	struct gg_tuning *tuning = &gg_runtime_of(engine)->tuning;
	bool decoded = decodes(graph), tuned = tuning->most > 1;
	struct gg_tuning_clock begun;
	enum ggml_status status;

	if (tuned && decoded)
		gg_tuning_batch(tuning, graph->n_slots);
	gg_backend_use_threads(backend, tuned && decoded ? tuning->now : backend->n_threads);
	if (tuned)
		gg_tuning_begin(&begun);
	status = ggml_backend_graph_compute(backend->handle, graph->nodes);
	if (tuned && status == GGML_STATUS_SUCCESS)	/* a cancelled pass is not a fast one */
		gg_tuning_end(tuning, &begun, decoded);
	return status;
}

int32_t gg_graph_compute(struct gg_engine *engine, struct gg_graph *graph)
{
	return gg_backend_status(engine, engine->gpu.handle ? compute_with_gpu(engine, graph) :
							      compute_on_host(engine, graph));
}

/* Brings the logits to memory that the host can read; NULL: there is not enough. */
static const char *fetch_logits(struct gg_engine *engine, struct gg_graph *graph)
{
	struct gg_memory *shared = &graph->shared_logits;
	size_t bytes = ggml_nbytes(graph->logits);

	if (ggml_backend_buffer_is_host(graph->logits->buffer)) {
		gg_gpu_wait(engine);
		return graph->logits->data;
	}
	if (shared->bytes < bytes) {
		gg_memory_free(shared);
		if (!gg_memory_new_shared(engine, shared, bytes))
			return NULL;
	}
	ggml_backend_tensor_get_async(engine->gpu.handle, graph->logits, shared->address, 0, bytes);
	gg_gpu_wait(engine);
	return shared->address;
}

/* Copies the logits of a slot, from row `first` of the graph's on, to memory beside them. */
static bool keep_logits(struct gg_engine *engine, const struct gg_slot *slot, uint32_t first)
{
	struct ggml_tensor *all = gg_runtime_of(engine)->graph.logits, *from, *to;
	struct ggml_context *context = gg_tensors_only(2);

	if (!context)
		return false;
	from = ggml_view_2d(context, all, all->ne[0], slot->n_logits, all->nb[1], first * all->nb[1]);
	to = ggml_new_tensor_2d(context, all->type, all->ne[0], slot->n_logits);
	ggml_backend_view_init(from);
	ggml_backend_tensor_alloc(slot->kept->buffer, to, slot->logits);
	gg_gpu_wait(engine);
	ggml_backend_tensor_copy(from, to);
	ggml_free(context);
	return true;
}

int32_t gg_graph_logits(struct gg_engine *engine, const struct gg_slot *slots, uint32_t n_slots)
{
	size_t row = (size_t)engine->net.dims[GG_VOCAB] * sizeof(float);
	const char *logits = NULL;
	bool enough = true;

	for (uint32_t i = 0, first = 0; enough && i < n_slots; first += slots[i++].n_logits) {
		if (!slots[i].n_logits)
			continue;
		if (slots[i].kept) {
			enough = keep_logits(engine, &slots[i], first);
			continue;
		}
		if (!logits)
			logits = fetch_logits(engine, &gg_runtime_of(engine)->graph);
		enough = logits;
		if (enough)
			memcpy(slots[i].logits, logits + first * row, slots[i].n_logits * row);
	}
	return enough ? KVMOD_OK : gg_fail(engine, KVMOD_ENOMEM, "no memory for the logits");
}
