/* SPDX-License-Identifier: Apache-2.0 */
/* Small graphs: no scheduler, no second side. */
#include "small_graph.h"

static ggml_backend_t backend_of(const struct gg_small_graph *graph)
{
	return graph->side == GG_GPU ? graph->engine->gpu.handle : graph->engine->backend.handle;
}

bool gg_small_graph_new(struct gg_small_graph *graph, struct gg_engine *engine, enum gg_side side, size_t n)
{
	struct ggml_init_params params = {
		.mem_size = n * ggml_tensor_overhead() + ggml_graph_overhead_custom(n, false),
		.no_alloc = true,
	};

	*graph = (struct gg_small_graph){ .engine = engine, .side = side };
	graph->context = ggml_init(params);
	graph->memory = ggml_gallocr_new(ggml_backend_get_default_buffer_type(backend_of(graph)));
	if (!graph->context || !graph->memory)
		return false;
	graph->nodes = ggml_new_graph_custom(graph->context, n, false);
	return true;
}

bool gg_small_graph_plan(struct gg_small_graph *graph)
{
	return ggml_gallocr_alloc_graph(graph->memory, graph->nodes);
}

int32_t gg_small_graph_run(struct gg_small_graph *graph)
{
	struct gg_engine *engine = graph->engine;
	int32_t code;

	gg_gpu_wait(engine);
	engine->backend.uninterruptible = true;
	code = gg_backend_status(engine, ggml_backend_graph_compute(backend_of(graph), graph->nodes));
	engine->backend.uninterruptible = false;
	return code;
}

void gg_small_graph_free(struct gg_small_graph *graph)
{
	if (graph->memory)
		ggml_gallocr_free(graph->memory);
	ggml_free(graph->context);
}
