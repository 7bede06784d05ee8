/* SPDX-License-Identifier: Apache-2.0 */
/* The heaviest of many scores, without sorting, and the plans made of them. */
#include "policies/common.h"

#include <float.h>
#include <math.h>

/*
 * A radix descent over the keys, 11 bits at a time: weigh the buckets, go down
 * from the heaviest keys to the bucket in which *left is used up, and look at
 * that one alone. Three passes, whatever the scores are. Returns the key at which
 * the selection ends; *left is what those equal to it have to add.
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

struct kv_cut kv_heaviest(const float *scores, size_t n, size_t count)
{
	double left = (double)count;
	uint32_t key = descend(scores, n, &left, false);

	return (struct kv_cut){ .key = key, .ties = (uint32_t)left };
}

struct kv_cut kv_heaviest_mass(const float *scores, size_t n, double mass)
{
	double left = mass > 0 ? mass : DBL_MIN, ties;
	uint32_t key = descend(scores, n, &left, true), bits = key & 0x7fffffff;
	float value;

	/* All scores together fall short of the mass: every one is in. */
	if (key <= kv_order(0.0f))
		return (struct kv_cut){ .key = kv_order(0.0f) - 1 };
	memcpy(&value, &bits, sizeof(value));
	ties = ceil(left / value);
	return (struct kv_cut){ .key = key, .ties = ties < UINT32_MAX ? (uint32_t)ties : UINT32_MAX };
}

void kv_keep_whole(const struct kv_task *t)
{
	kv_keep_heaviest(t, NULL, 0, 0);
}

void kv_keep_heaviest(const struct kv_task *t, const float *scores, uint32_t m, uint32_t count)
{
	struct kv_cut cut = kv_heaviest(scores, m, count);
	uint32_t *kept = t->keep->indices + t->g * t->keep->index_stride, n = 0;

	for (uint32_t i = 0; i < m; i++)
		if (kv_cut_takes(&cut, scores[i]))
			kept[n++] = i;
	for (uint32_t i = m; i < t->n; i++)
		kept[n++] = i;
	t->keep->counts[t->g] = n;
}
