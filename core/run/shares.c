/* SPDX-License-Identifier: Apache-2.0 */
/* Counts, for each position of a sequence, the KV heads that cache it. */
#include "core/run/shares.h"

static void count_head(const struct kvmod_head *head, double *counts, uint64_t n)
{
	for (uint32_t i = 0; i < head->n; i++) {
		uint64_t at = head->positions ? (uint64_t)head->positions[i] : i;

		if (at < n)
			counts[at]++;
	}
}

void kv_shares_cached(const struct kvmod_request *r, double *shares, uint64_t n)
{
	uint64_t n_heads = 0;

	kv_shares_whole(0, shares, n);
	for (uint32_t i = 0; i < r->n_segments; i++) {
		const struct kvmod_segment *s = kvmod_segment_at(r, i);

		for (uint32_t g = 0; g < s->n_kv_heads; g++)
			count_head(kvmod_head_at(s, g), shares, n);
		n_heads += s->n_kv_heads;
	}
	for (uint64_t i = 0; i < n && n_heads > 0; i++)
		shares[i] /= (double)n_heads;
}

void kv_shares_whole(uint64_t length, double *shares, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		shares[i] = i < length ? 1 : 0;
}
