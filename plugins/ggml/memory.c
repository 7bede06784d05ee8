/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that returns to the system when it is freed: a mapping on the host, an
 * allocation of its own on the GPU.
 */
#include "memory.h"

#include <string.h>
#include <sys/mman.h>

static bool take_buffer(struct gg_memory *memory, ggml_backend_buffer_type_t type, size_t bytes)
{
	memory->buffer = ggml_backend_buft_alloc_buffer(type, bytes);
	if (!memory->buffer)
		return false;
	memory->address = ggml_backend_buffer_get_base(memory->buffer);
	memory->bytes = bytes;
	return true;
}

static bool map(struct gg_memory *memory, size_t bytes)
{
	void *address = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (address == MAP_FAILED)
		return false;
	memory->address = address;
	memory->bytes = bytes;
	memory->mapped = true;
	memory->buffer = ggml_backend_cpu_buffer_from_ptr(address, bytes);
	return memory->buffer;
}

bool gg_memory_new(struct gg_engine *engine, struct gg_memory *memory, enum gg_side side, size_t bytes)
{
	memset(memory, 0, sizeof(*memory));
	if (side == GG_HOST)
		return map(memory, bytes);
	if (!take_buffer(memory, ggml_backend_dev_buffer_type(engine->gpu.device), bytes))
		return false;
	/* Rows past the end are masked: 0 times their values must be 0, so none may be NaN. */
	ggml_backend_buffer_clear(memory->buffer, 0);
	return true;
}

bool gg_memory_new_shared(struct gg_engine *engine, struct gg_memory *memory, size_t bytes)
{
	ggml_backend_buffer_type_t type = NULL;

	memset(memory, 0, sizeof(*memory));
	if (engine->gpu.handle)
		type = ggml_backend_dev_host_buffer_type(engine->gpu.device);
	return type ? take_buffer(memory, type, bytes) : map(memory, bytes);
}

struct ggml_tensor *gg_memory_rows(struct ggml_context *context, const struct gg_memory *memory,
				   enum ggml_type type, int64_t width, int64_t n_rows)
{
	struct ggml_tensor *tensor = ggml_new_tensor_2d(context, type, width, n_rows);

	ggml_backend_tensor_alloc(memory->buffer, tensor, memory->address);
	return tensor;
}

int32_t gg_memory_copy(struct gg_engine *engine, enum gg_side side, const struct gg_memory *to,
		       const struct gg_memory *from, size_t row)
{
	struct kvmod_span all = { .end = (uint32_t)(from->bytes / row) };
	struct kvmod_gather gather = {
		.size = sizeof(gather), .n_spans = 1, .spans = &all, .row_bytes = row,
		.src = from->address, .dst = to->address,
		.src_stride = (int64_t)row, .dst_stride = (int64_t)row,
	};

	if (side == GG_GPU)
		return gg_gpu_gather(engine, &gather, from->bytes ? 1 : 0);
	if (from->bytes)
		memcpy(to->address, from->address, from->bytes);
	return KVMOD_OK;
}

void gg_memory_free(struct gg_memory *memory)
{
	if (memory->buffer)
		ggml_backend_buffer_free(memory->buffer);
	if (memory->mapped)
		munmap(memory->address, memory->bytes);
	memset(memory, 0, sizeof(*memory));
}
