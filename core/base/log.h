/* SPDX-License-Identifier: Apache-2.0 */
/* Why the last call of this thread failed, and log lines. */
#ifndef KVMOD_BASE_LOG_H
#define KVMOD_BASE_LOG_H

#include <config.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

#include <kvmod/kvmod.h>

#define KV_PRINTF(text, first) __attribute__((format(printf, text, first)))

/* Sets this thread's message and returns code. */
int kv_fail(int code, const char *format, ...) KV_PRINTF(2, 3);
int kv_vfail(int code, const char *format, va_list args);
/* Puts "format: " before the message that is there; returns code. */
int kv_fail_in(int code, const char *format, ...) KV_PRINTF(2, 3);
/*
 * A module may fail without a word; then the name of the code has to do. "what
 * name: " goes before either; returns code.
 */
int kv_failed(int code, const char *what, const char *name);

void kv_log(struct kvmod_ctx *ctx, uint32_t level, const char *format, ...) KV_PRINTF(3, 4);
void kv_vlog(struct kvmod_ctx *ctx, uint32_t level, const char *prefix,
	     const char *format, va_list args);

#endif
