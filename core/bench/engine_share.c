/* SPDX-License-Identifier: Apache-2.0 */
/* Both engines of `kvmod bench engine` under the same settings. */
#include "core/bench/engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int add(struct bench_shared *out, const char *engine, const char *key, const char *value)
{
	if (asprintf(&out->item[out->n], "engine %s.%s=%s", engine, key, value) < 0)
		return cli_error("out of memory");
	out->n++;
	return CLI_OK;
}

static int add_number(struct bench_shared *out, const char *engine, const char *key, uint64_t n)
{
	char value[24];

	snprintf(value, sizeof(value), "%llu", (unsigned long long)n);
	return add(out, engine, key, value);
}

static const char *setting(struct kvmod_ctx *ctx, const char *engine, const char *key)
{
	char section[128];

	snprintf(section, sizeof(section), "engine %s", engine);
	return kvmod_config_get(ctx, section, key);
}

/* What only the rival has set would set them apart: what ours has by default is not known here. */
static int share(struct kvmod_ctx *ctx, const struct bench_alike *a, const char *key,
		 struct bench_shared *out)
{
	const char *ours = setting(ctx, a->engine, key);

	if (ours)
		return add(out, a->rival, key, ours);
	if (!setting(ctx, a->rival, key))
		return CLI_OK;
	return cli_error("engine %s: %s is set for it and not for %s: they would not be alike",
			 a->rival, key, a->engine);
}

/* A relative path in a file starts at that file's folder, as an override it would not. */
static int share_configured_model(struct kvmod_ctx *ctx, const struct bench_alike *a,
				  struct bench_shared *out)
{
	const char *value = setting(ctx, a->engine, "model"), *file = kvmod_config_path(ctx);
	const char *slash = file ? strrchr(file, '/') : NULL;
	char *path;
	int err;

	if (!value || *value == '/' || !slash)
		return share(ctx, a, "model", out);
	if (asprintf(&path, "%.*s/%s", (int)(slash - file), file, value) < 0)
		return cli_error("out of memory");
	err = add(out, a->rival, "model", access(path, R_OK) ? value : path);
	free(path);
	return err;
}

static int share_model(struct kvmod_ctx *ctx, const struct bench_alike *a,
		       struct bench_shared *out)
{
	char *path;
	int err;

	if (!a->model)
		return share_configured_model(ctx, a, out);
	path = realpath(a->model, NULL);
	if (!path)
		return cli_error("%s: %s", a->model, strerror(errno));
	err = add(out, a->rival, "model", path);
	free(path);
	return err;
}

int bench_share(struct kvmod_ctx *ctx, const struct bench_alike *a, struct bench_shared *out)
{
	if (share_model(ctx, a, out) || share(ctx, a, "batch", out) ||
	    share(ctx, a, "cache_type", out) || share(ctx, a, "gpu_layers", out) ||
	    add_number(out, a->engine, "threads", a->threads))
		return CLI_FAILED;
	if (!strcmp(a->engine, a->rival))
		return CLI_OK;
	/* A rival that allocates its cache beforehand has one that fits. */
	return add_number(out, a->rival, "threads", a->threads) ||
	       add_number(out, a->rival, "context", a->n_tokens) ? CLI_FAILED : CLI_OK;
}
