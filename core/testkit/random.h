/* SPDX-License-Identifier: Apache-2.0 */
/* Reproducible random numbers and caches for tests. */
#ifndef KV_CORE_TESTKIT_RANDOM_H
#define KV_CORE_TESTKIT_RANDOM_H

#include <stdint.h>

#include <kvmod/types.h>

struct kv_random {
	uint64_t state;
};

uint32_t kv_random_u32(struct kv_random *r);
/* low .. high, both included */
uint32_t kv_random_range(struct kv_random *r, uint32_t low, uint32_t high);
/* About normal: mean 0, deviation 1. */
float kv_random_normal(struct kv_random *r);

/* n floats as elements of a type; n is a multiple of 32 for Q8_0 and Q4_0. */
void kv_encode(uint32_t type, const float *src, size_t n, void *dst);
/* "f16" */
const char *kv_type_name(uint32_t type);

#endif
