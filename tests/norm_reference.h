/* SPDX-License-Identifier: Apache-2.0 */
/* Norms of Wo v in double precision, of the values that a segment shows. */
#ifndef KV_TESTS_NORM_REFERENCE_H
#define KV_TESTS_NORM_REFERENCE_H

#include "tests/engine_host.h"

/* Wo is rounded to F16 once, and some 64 outputs are added up. */
#define NORM_ROUNDED	2e-4

/* Number i of query head h. */
float *norm_reference_number(const struct kvmod_segment *segment, uint32_t h, uint32_t i);
/* Does a segment on the host have the norms of its values? wo: [width][n_q_heads * head_dim]. */
void norm_reference_check(const struct kvmod_segment *segment, const float *wo, int64_t width);

#endif
