/* SPDX-License-Identifier: Apache-2.0 */
/* The message of this thread's last failure, and log lines. */
#ifndef KV_CORE_BASE_LOG_H
#define KV_CORE_BASE_LOG_H

#include <config.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

#include <kvmod/kvmod.h>

#define KV_PRINTF(text, first) __attribute__((format(printf, text, first)))

/* Sets this thread's message and returns code. */
int kv_fail(int code, const char *format, ...) KV_PRINTF(2, 3);
int kv_vfail(int code, const char *format, va_list args);
/* Prefixes the current message with "format: "; returns code. */
int kv_fail_in(int code, const char *format, ...) KV_PRINTF(2, 3);
/* Prefixes the message, or the code's name if no message is set, with "what name: ". */
int kv_failed(int code, const char *what, const char *name);

/* A copy of the message, kept while something else may fail. */
struct kv_error {
	char text[1024];
};
void kv_error_save(struct kv_error *error);
void kv_error_restore(const struct kv_error *error);
void kv_error_forget(void);
/* Is it KVMOD_OK or one of the KVMOD_E codes? */
bool kv_is_code(int code);

void kv_log(struct kvmod_ctx *ctx, uint32_t level, const char *format, ...) KV_PRINTF(3, 4);
void kv_vlog(struct kvmod_ctx *ctx, uint32_t level, const char *prefix,
	     const char *format, va_list args);

#endif
