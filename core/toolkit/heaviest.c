/* SPDX-License-Identifier: Apache-2.0 */
/* Selects the heaviest of many scores without sorting, and writes sets to plans. */
#include "core/toolkit/toolkit.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

/*
 * A radix descent over the keys, 11 bits at a time: weigh the buckets, go down
 * from the heaviest keys to the bucket in which *left is used up, and continue with
 * only that bucket. Three passes, whatever the scores are. Returns the key at which
 * the selection ends; *left is what the scores equal to it must contribute.
 */
static inline __attribute__((always_inline))
uint32_t descend(const float *scores, size_t n, double *left, bool by_mass)
{
	static const uint32_t shifts[] = { 21, 10, 0 };
	uint32_t prefix = 0, seen = 0;

	for (int level = 0; level < 3; level++) {
		double weights[2048] = { 0 };
		uint32_t shift = shifts[level], mask = ~seen >> shift, b = mask;

		for (size_t i = 0; i < n; i++) {
			uint32_t key = kv_order(scores[i]);

			if ((key & seen) == prefix)
				weights[key >> shift & mask] += by_mass ? (double)scores[i] : 1.0;
		}
		while (b > 0 && weights[b] < *left)
			*left -= weights[b--];
		prefix |= b << shift;
		seen |= mask << shift;
	}
	return prefix;
}

struct kv_selection kv_heaviest(const float *scores, size_t n, size_t count)
{
	double left = (double)count;
	uint32_t key = descend(scores, n, &left, false);

	return (struct kv_selection){ .key = key, .ties = (uint32_t)left };
}

struct kv_selection kv_heaviest_mass(const float *scores, size_t n, double mass)
{
	double left = mass > 0 ? mass : DBL_MIN, ties;
	uint32_t key = descend(scores, n, &left, true), bits = key & 0x7fffffff;
	float value;

	/* All scores together are less than the mass: select every one. */
	if (key <= kv_order(0.0f))
		return (struct kv_selection){ .key = kv_order(0.0f) - 1 };
	memcpy(&value, &bits, sizeof(value));
	ties = ceil(left / value);
	return (struct kv_selection){
		.key = key, .ties = ties < UINT32_MAX ? (uint32_t)ties : UINT32_MAX,
	};
}

static void mark(const float *scores, size_t n, struct kv_selection selection, uint8_t *marks)
{
	for (size_t i = 0; i < n; i++)
		marks[i] |= kv_selection_takes(&selection, scores[i]);
}

void kv_mark_heaviest(const float *scores, size_t n, size_t count, uint8_t *marks)
{
	mark(scores, n, kv_heaviest(scores, n, count), marks);
}

void kv_mark_mass(const float *scores, size_t n, double mass, uint8_t *marks)
{
	mark(scores, n, kv_heaviest_mass(scores, n, mass), marks);
}

/* --- sets ----------------------------------------------------------------------- */

static uint32_t *list_of(const struct kvmod_task *t)
{
	return t->keep->indices + t->g * t->keep->index_stride;
}

void kv_keep_whole(const struct kvmod_task *t)
{
	kv_keep_heaviest(t, NULL, 0, 0);
}

void kv_keep_heaviest(const struct kvmod_task *t, const float *scores, uint32_t m, uint32_t count)
{
	kv_keep_between(t, 0, scores, m, count);
}

void kv_keep_between(const struct kvmod_task *t, uint32_t sinks, const float *scores, uint32_t m,
		     uint32_t count)
{
	uint32_t *kept = list_of(t), n = 0, i = 0;
	struct kv_selection selection;

	for (; i < sinks && i < t->n; i++)
		kept[n++] = i;
	selection = kv_heaviest(scores, m > i ? m - i : 0, count);
	for (uint32_t first = i; i < m; i++)
		if (kv_selection_takes(&selection, scores[i - first]))
			kept[n++] = i;
	for (; i < t->n; i++)
		kept[n++] = i;
	t->keep->counts[t->g] = n;
}

void kv_keep_marked(const struct kvmod_task *t, const uint8_t *marks)
{
	uint32_t *kept = list_of(t), n = 0;

	for (uint32_t i = 0; i < t->n; i++)
		if (marks[i])
			kept[n++] = i;
	t->keep->counts[t->g] = n;
}

static int by_index(const void *a, const void *b)
{
	uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;

	return (i > j) - (i < j);
}

int32_t kv_keep_listed(const struct kvmod_task *t, const uint32_t *list, uint32_t n_listed)
{
	uint32_t *kept = list_of(t), n = 0;

	if (n_listed > t->n)
		return kv_task_fail(t, KVMOD_EINVAL, "%u positions listed of %u", n_listed, t->n);
	for (uint32_t i = 0; i < n_listed; i++) {
		if (list[i] >= t->n)
			return kv_task_fail(t, KVMOD_EINVAL, "position %u listed of %u", list[i], t->n);
		kept[i] = list[i];
	}
	qsort(kept, n_listed, sizeof(*kept), by_index);
	for (uint32_t i = 0; i < n_listed; i++)
		if (n == 0 || kept[i] != kept[n - 1])
			kept[n++] = kept[i];
	t->keep->counts[t->g] = n;
	return 0;
}
