/* SPDX-License-Identifier: Apache-2.0 */
/* The reason of the last failure, per thread, and log lines. */
#include "core/base/context.h"
#include "core/base/names.h"

#include <stdio.h>
#include <string.h>

static _Thread_local char last_error[sizeof(struct kv_error)];

int kv_vfail(int code, const char *format, va_list args)
{
	char text[sizeof(last_error)];

	vsnprintf(text, sizeof(text), format, args);
	kv_show(text, last_error, sizeof(last_error));
	return code;
}

int kv_fail(int code, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	kv_vfail(code, format, args);
	va_end(args);
	return code;
}

int kv_fail_in(int code, const char *format, ...)
{
	char reason[sizeof(last_error)];
	va_list args;
	size_t n;

	memcpy(reason, last_error, sizeof(reason));
	va_start(args, format);
	kv_vfail(code, format, args);
	va_end(args);
	n = strlen(last_error);
	/* A message that is too long is truncated. */
	if (snprintf(last_error + n, sizeof(last_error) - n, ": %s", reason) < 0)
		last_error[n] = '\0';
	return code;
}

int kv_failed(int code, const char *what, const char *name)
{
	if (*last_error == '\0')
		kv_fail(code, "%s", kvmod_strerror(code));
	return kv_fail_in(code, "%s %s", what, name);
}

const char *kvmod_error(void)
{
	return last_error;
}

void kv_error_save(struct kv_error *error)
{
	memcpy(error->text, last_error, strlen(last_error) + 1);
}

void kv_error_restore(const struct kv_error *error)
{
	memcpy(last_error, error->text, strlen(error->text) + 1);
}

void kv_error_forget(void)
{
	*last_error = '\0';
}

void kvmod_error_forget(void)
{
	kv_error_forget();
}

static const char *const code_names[] = {
	"KVMOD_OK", "KVMOD_EINVAL", "KVMOD_ENOMEM", "KVMOD_ENOENT", "KVMOD_EEXIST",
	"KVMOD_EPERM", "KVMOD_EFORMAT", "KVMOD_EABI", "KVMOD_ENOTSUP", "KVMOD_EIO",
	"KVMOD_ERANGE", "KVMOD_ENUMERIC", "KVMOD_EPLAN", "KVMOD_EBUSY",
	"KVMOD_ECANCELED", "KVMOD_EDEVICE", "KVMOD_ETIMEOUT", "KVMOD_ECRASH",
};

bool kv_is_code(int code)
{
	return code <= 0 && code > -(int)(sizeof(code_names) / sizeof(*code_names));
}

const char *kvmod_strerror(int code)
{
	return kv_is_code(code) ? code_names[-code] : "unknown code";
}

const char *kvmod_version(void)
{
	return PACKAGE_VERSION;
}

static void log_to_stderr(uint32_t level, const char *line)
{
	static const char *const words[] = { "error", "warning", "note", "info", "debug" };

	if (level < KVMOD_ERROR)
		level = KVMOD_ERROR;
	else if (level > KVMOD_DEBUG)
		level = KVMOD_DEBUG;
	fprintf(stderr, "kvmod: %s: %s\n", words[level - KVMOD_ERROR], line);
}

void kv_vlog(struct kvmod_ctx *ctx, uint32_t level, const char *prefix,
	     const char *format, va_list args)
{
	char text[1024], line[sizeof(text)];
	kvmod_log_fn *log;
	void *log_arg;
	int n;

	if (level > ctx->log_level)
		return;
	n = snprintf(text, sizeof(text), "%s%s", prefix ? prefix : "", prefix ? ": " : "");
	if (n < 0 || (size_t)n >= sizeof(text))
		n = 0;
	vsnprintf(text + n, sizeof(text) - (size_t)n, format, args);
	kv_show(text, line, sizeof(line));
	pthread_mutex_lock(&ctx->log_lock);
	log = ctx->log;
	log_arg = ctx->log_arg;
	pthread_mutex_unlock(&ctx->log_lock);
	if (log)
		log(log_arg, level, line);
	else
		log_to_stderr(level, line);
}

void kv_log(struct kvmod_ctx *ctx, uint32_t level, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	kv_vlog(ctx, level, NULL, format, args);
	va_end(args);
}

void kvmod_set_log(struct kvmod_ctx *ctx, kvmod_log_fn *fn, void *arg)
{
	pthread_mutex_lock(&ctx->log_lock);
	ctx->log = fn;
	ctx->log_arg = arg;
	pthread_mutex_unlock(&ctx->log_lock);
}

void kvmod_set_log_level(struct kvmod_ctx *ctx, uint32_t level)
{
	ctx->log_level = level;
	ctx->usual_level = level;
}
