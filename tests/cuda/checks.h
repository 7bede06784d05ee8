/* SPDX-License-Identifier: Apache-2.0 */
/* Checks for tests without a framework: prints and counts each failure, and continues. */
#ifndef KV_TESTS_CUDA_CHECKS_H
#define KV_TESTS_CUDA_CHECKS_H

#include <stdio.h>

static unsigned checks, failures;

#define CHECK(ok, ...) do {			\
	checks++;				\
	if (!(ok)) {				\
		failures++;			\
		printf("FAIL %s: ", __func__);	\
		printf(__VA_ARGS__);		\
		printf("\n");			\
	}					\
} while (0)

#endif
