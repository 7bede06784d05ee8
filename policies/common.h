/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the policies share: budgets, the work shared out by KV head, the attention
 * of the newest queries, pooling, and the heaviest of many scores.
 */
#ifndef KV_POLICIES_COMMON_H
#define KV_POLICIES_COMMON_H

#include <stdbool.h>
#include <string.h>

#include <kvmod/policy.h>

/* "pooling", in the order of KV_POOLINGS. */
#define KV_POOLINGS	"average|max"
enum { KV_POOL_AVERAGE, KV_POOL_MAX };

/* Is the layer in a list parameter, where a plain number means that many from the front? */
bool kv_layer_listed(const struct kvmod_list *list, uint32_t layer);

/* Do its KV heads hold equally many positions? A set for the whole layer needs that. */
bool kv_same_lengths(const struct kvmod_segment *segment);

/* --- budgets ------------------------------------------------------------------ */

/*
 * C: what kvmod_budget_of() says, but never below `least` (the sinks and the window).
 * A head with n <= C is kept whole.
 */
uint64_t kv_budget(const struct kvmod_request *request, const struct kvmod_segment *segment,
		   const struct kvmod_amount *budget, uint32_t least);
/* Says once for an instance that a budget was raised to `least`. */
void kv_budget_say(const struct kvmod_instance *self, const struct kvmod_request *request,
		   const struct kvmod_segment *segment, const struct kvmod_amount *budget,
		   uint32_t least, bool *said);

/*
 * Gives each segment in which some head is above its budget a set per KV head
 * to fill in, and says once that a budget was raised.
 */
void kv_mark_over_budget(const struct kvmod_instance *self,
			 const struct kvmod_request *request, struct kvmod_plan *plan,
			 const struct kvmod_amount *budget, uint32_t least, bool *said);

/* --- work, shared out ------------------------------------------------------------ */

/* The largest of each in a request. */
struct kv_extent {
	uint32_t n, n_kv_heads, head_dim;
	uint32_t group;			/* query heads that share a KV head */
};
struct kv_extent kv_extent(const struct kvmod_request *request);

/* One KV head of a segment that is to be cut. */
struct kv_task {
	const struct kvmod_request *request;
	const struct kvmod_segment *segment;
	const struct kvmod_head *head;
	struct kvmod_keep *keep;
	uint32_t i, g;			/* which segment and which KV head */
	uint32_t n, group;
	float *scratch;			/* the worker's own */
};
typedef int32_t kv_task_fn(const void *arg, const struct kv_task *task);

/* Bytes of scratch that kv_each_head() needs for `floats` a worker. */
size_t kv_scratch_bytes(const struct kvmod_instance *self, const struct kvmod_request *request,
			size_t floats);
/*
 * Runs fn(arg) for each KV head of each segment whose kind is KVMOD_KEEP_HEADS and
 * status 0, on the host's threads: as many as find room from `scratch` to the end of
 * the request's scratch, where kv_scratch_bytes() are. What fn returns other than 0 becomes the segment's status; the first is said in words.
 */
void kv_each_head(const struct kvmod_instance *self, const struct kvmod_request *request,
		  const struct kvmod_plan *plan, void *scratch, size_t floats,
		  kv_task_fn *fn, const void *arg);

/* --- attention ------------------------------------------------------------------- */

/* Scratch, in floats, that the functions below find in the task, and answer in. */
size_t kv_attention_floats(const struct kv_extent *extent);

/*
 * What the newest row pays to the head's n positions, for each query head of the
 * group: [group][n].
 */
int32_t kv_last_attention(const struct kv_task *task, float **attention);
/*
 * The mean over the group and the newest n_rows rows (fewer where fewer are
 * given) of what they pay to the first m positions. Attention is over all that
 * a row sees, whatever m is.
 */
int32_t kv_mean_attention(const struct kv_task *task, uint32_t n_rows, uint32_t m, float *out);

/* KVMOD_EINVAL, in words, if a pooling width is even. */
int32_t kv_check_pool(const struct kvmod_instance *self, int64_t pool);
/*
 * out[i] = average or maximum of in[i - width/2 .. i + width/2], width odd: the
 * average divides by width at the ends too, the maximum looks only inside.
 */
void kv_pool(const float *in, uint32_t n, uint32_t width, int32_t pooling, float *out);
/*
 * SnapKV's score of the first m = n - window positions: what the last `window`
 * rows and the group pay them in the mean, pooled.
 */
int32_t kv_window_scores(const struct kv_task *task, uint32_t window, uint32_t pool,
			 int32_t pooling, const float **scores);

/* --- the heaviest ------------------------------------------------------------------ */

/*
 * Where a selection ends: every score above the key is in it, and the oldest
 * `ties` of those equal to it. Scores are finite.
 */
struct kv_cut {
	uint32_t key;
	uint32_t ties;
};

/* A number that orders as the float does. */
static inline uint32_t kv_order(float x)
{
	uint32_t bits;

	x += 0.0f;	/* -0 is 0 */
	memcpy(&bits, &x, sizeof(bits));
	return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* Is the next score, from the oldest on, in the selection? */
static inline bool kv_cut_takes(struct kv_cut *cut, float score)
{
	uint32_t key = kv_order(score);

	if (key == cut->key && cut->ties) {
		cut->ties--;
		return true;
	}
	return key > cut->key;
}

/* The `count` largest scores; ties go to the older. */
struct kv_cut kv_heaviest(const float *scores, size_t n, size_t count);
/* The fewest of the largest scores, none negative, whose sum is at least `mass`. */
struct kv_cut kv_heaviest_mass(const float *scores, size_t n, double mass);

/* --- plans --------------------------------------------------------------------------- */

/* The head keeps all its positions. */
void kv_keep_whole(const struct kv_task *task);
/* The head keeps the `count` heaviest of its first m positions, and all after them. */
void kv_keep_heaviest(const struct kv_task *task, const float *scores, uint32_t m, uint32_t count);

#endif
