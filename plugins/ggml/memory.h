/* SPDX-License-Identifier: Apache-2.0 */
/* Memory for caches, queries and graphs, on the host or on the GPU. */
#ifndef KV_PLUGINS_GGML_MEMORY_H
#define KV_PLUGINS_GGML_MEMORY_H

#include "plugins/gguf/engine.h"

/* An allocation of its own, so that freeing it returns it to the system. */
struct gg_memory {
	void *address;			/* on the side that it was made for */
	size_t bytes;
	ggml_backend_buffer_t buffer;
	bool mapped;
};

/* Overwrites *memory; all bytes are zero. False: there is not that much. */
bool gg_memory_new(struct gg_engine *engine, struct gg_memory *memory, enum gg_side side, size_t bytes);
/* On the host, where the GPU can fetch it by itself. */
bool gg_memory_new_shared(struct gg_engine *engine, struct gg_memory *memory, size_t bytes);
void gg_memory_free(struct gg_memory *memory);
/* Its first n_rows rows of `width` elements, as a tensor. */
struct ggml_tensor *gg_memory_rows(struct ggml_context *context, const struct gg_memory *memory,
				   enum ggml_type type, int64_t width, int64_t n_rows);
/* Copies memory of one side to other memory of that side, in rows of `row` bytes. */
int32_t gg_memory_copy(struct gg_engine *engine, enum gg_side side, const struct gg_memory *to,
		       const struct gg_memory *from, size_t row);

#endif
