/* SPDX-License-Identifier: Apache-2.0 */
/* A host that keeps the reason of the last failure, for tests that call operations directly. */
#ifndef KV_TESTS_CUDA_HOST_H
#define KV_TESTS_CUDA_HOST_H

#include <stdarg.h>
#include <stdio.h>

#include <kvmod/module.h>

static char reason[256];

static int32_t fail(void *ctx, int32_t code, const char *format, ...)
{
	va_list args;

	(void)ctx;
	va_start(args, format);
	vsnprintf(reason, sizeof(reason), format, args);
	va_end(args);
	return code;
}

static const struct kvmod_host host = { .size = sizeof(host), .fail = fail };

#endif
