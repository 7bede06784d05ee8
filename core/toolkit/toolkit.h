/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared by the files of the host's extension for authors of policies, kvmod/toolkit.h.
 * Of the core this room uses only the installed headers: policies call it through its
 * table, and it calls the host's table.
 */
#ifndef KV_CORE_TOOLKIT_TOOLKIT_H
#define KV_CORE_TOOLKIT_TOOLKIT_H

#include <string.h>

#include <kvmod/scorer.h>

extern const struct kvmod_toolkit kv_toolkit;

/* The extension of that name, or NULL. */
const void *kv_extension(const char *name);
/* The names of all extensions, "kvmod.a/1, kvmod.b/1". */
const char *kv_extension_names(void);

/* --- work distributed over threads (heads.c) --------------------------------------- */

/* A thread's own data besides the author's scratch; floats for attention follow. */
struct kv_work {
	uint32_t task, failed;		/* failed: `task` did */
	int32_t code;
	char reason[244];
};

static inline float *kv_attention_work(const struct kvmod_task *task)
{
	return (float *)(void *)((struct kv_work *)task->work + 1);
}

/* Whole cache lines, so that threads never share one. */
static inline size_t kv_whole_lines(size_t floats)
{
	return (floats + 15) / 16 * 16;
}

size_t kv_scratch_bytes(const struct kvmod_instance *self, const struct kvmod_request *request,
			size_t floats);
void kv_each_head(const struct kvmod_instance *self, const struct kvmod_request *request,
		  const struct kvmod_plan *plan, void *scratch, size_t floats,
		  kvmod_task_fn *fn, const void *arg);
int32_t kv_task_fail(const struct kvmod_task *task, int32_t code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* --- attention (attention.c) --------------------------------------------------------- */

/* The floats after the thread's struct kv_work, for the calls below. */
size_t kv_attention_floats(const struct kvmod_extent *extent);

void kv_queries(const struct kvmod_task *task, uint32_t row, uint32_t n_rows, float *out);
void kv_logits(const struct kvmod_task *task, uint32_t row, uint32_t n_rows, float *out,
	       size_t stride);
int32_t kv_last_attention(const struct kvmod_task *task, float *out);
int32_t kv_mean_attention(const struct kvmod_task *task, uint32_t n_rows, uint32_t m, float *out);
int32_t kv_window_scores(const struct kvmod_task *task, uint32_t window, uint32_t pool,
			 int32_t pooling, float *out);
int32_t kv_max_attention(const struct kvmod_task *task, uint32_t n_rows, const float *weights,
			 uint32_t m, float *out);
void kv_pool(const float *in, uint32_t n, uint32_t width, int32_t pooling, float *out);
int32_t kv_each_row(const struct kvmod_task *task, uint32_t n_rows, kvmod_row_fn *fn, void *arg);

/* --- values (norms.c) ------------------------------------------------------------------ */

int32_t kv_mean_wo_norms(const struct kvmod_task *task, uint32_t g, float *out);

/* --- attention in parts (parts.c) ------------------------------------------------------ */

size_t kv_parts_bytes(const struct kvmod_segment *segment, uint32_t g, uint32_t n_rows,
		      uint32_t n_parts);
struct kvmod_attention *kv_parts_open(const struct kvmod_segment *segment, uint32_t g,
				      uint32_t n_rows, uint32_t n_parts, void *memory);
void kv_parts_scan(struct kvmod_attention *a, uint32_t part, uint32_t begin, uint32_t end);
int32_t kv_parts_total(struct kvmod_attention *a);
void kv_parts_shares(const struct kvmod_attention *a, uint32_t row, uint32_t h,
		     double *share, double *squares);
void kv_parts_add(const struct kvmod_attention *a, uint32_t n_rows, uint32_t begin, uint32_t end,
		  float weight, float *out, size_t head_stride);

/* --- selection and sets (heaviest.c) ------------------------------------------------- */

/*
 * Where a selection ends: every score above the key is in it, and the oldest
 * `ties` of those equal to it.
 */
struct kv_selection {
	uint32_t key;
	uint32_t ties;
};

/* An integer that orders as the float does. */
static inline uint32_t kv_order(float x)
{
	uint32_t bits;

	x += 0.0f;	/* -0 is 0 */
	memcpy(&bits, &x, sizeof(bits));
	return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* Is the next score, from the oldest on, in the selection? */
static inline bool kv_selection_takes(struct kv_selection *selection, float score)
{
	uint32_t key = kv_order(score);

	if (key == selection->key && selection->ties) {
		selection->ties--;
		return true;
	}
	return key > selection->key;
}

struct kv_selection kv_heaviest(const float *scores, size_t n, size_t count);
struct kv_selection kv_heaviest_mass(const float *scores, size_t n, double mass);
void kv_mark_heaviest(const float *scores, size_t n, size_t count, uint8_t *marks);
void kv_mark_mass(const float *scores, size_t n, double mass, uint8_t *marks);

void kv_keep_whole(const struct kvmod_task *task);
void kv_keep_heaviest(const struct kvmod_task *task, const float *scores, uint32_t m,
		      uint32_t count);
/*
 * The first `sinks` positions, the `count` heaviest of those up to m, and the rest;
 * scores begin with that of position `sinks`.
 */
void kv_keep_between(const struct kvmod_task *task, uint32_t sinks, const float *scores, uint32_t m,
		     uint32_t count);
void kv_keep_marked(const struct kvmod_task *task, const uint8_t *marks);
int32_t kv_keep_listed(const struct kvmod_task *task, const uint32_t *list, uint32_t n_listed);

/* --- scorers (scorer.c, share.c) -------------------------------------------------------- */

int32_t kv_scorer_open(void *self, const struct kvmod_scorer_ops *ops,
		       const struct kvmod_model *model);
int32_t kv_scorer_needs(void *self, const struct kvmod_scorer_ops *ops, struct kvmod_needs *needs);
int32_t kv_scorer_workspace(void *self, const struct kvmod_scorer_ops *ops,
			    const struct kvmod_request *request, struct kvmod_workspace *need);
int32_t kv_scorer_compress(void *self, const struct kvmod_scorer_ops *ops,
			   const struct kvmod_request *request, struct kvmod_plan *plan);

/* The newest tokens that are run again to measure a loss: at most half of those seen. */
static inline uint32_t kv_rows_to_replay(uint64_t seen, uint64_t wanted)
{
	return (uint32_t)(wanted < seen / 2 ? wanted : seen / 2);
}

#endif
