/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the child process does to try a policy, an engine or a device. The context
 * holds the configuration under trial.
 */
#include "core/check/check.h"
#include "core/modules/catalog.h"
#include "core/modules/device.h"

#include <string.h>

/* --- trying --------------------------------------------------------------------------- */

static int load_and_fill(struct kvmod_ctx *ctx, enum kv_kind kind, const char *name)
{
	struct kv_provider *provider;
	void *instance;
	int err = kv_provider_get(ctx, kind, name, NULL, &provider);

	if (err)
		return err;
	err = kv_instance_new(ctx, provider, &instance);
	if (err == KVMOD_OK)
		kv_instance_free(instance);
	kv_provider_put(ctx, provider);
	return err;
}

static int find_version(struct kvmod_ctx *ctx, const char *name, const char *device)
{
	struct kv_provider *provider;
	int err = kv_provider_get(ctx, KV_POLICY, name, device, &provider);

	if (err == KVMOD_OK)
		kv_provider_put(ctx, provider);
	return err;
}

static bool runs_on_host(struct kvmod_ctx *ctx, const char *name)
{
	return find_version(ctx, name, KV_CPU) == KVMOD_OK;
}

static int open_and_close(struct kvmod_ctx *ctx, const char *name)
{
	struct kvmod_device *device;
	int err = kvmod_device_open(ctx, name, &device);

	if (err == KVMOD_OK)
		kvmod_device_close(device);
	return err;
}

/* Opens and closes the first device that works of those that a policy names. */
static int open_any(struct kvmod_ctx *ctx, const char *policy)
{
	struct kv_strings devices = { 0 };
	struct kv_arena arena = { 0 };
	int err = kv_policy_devices(ctx, policy, &arena, &devices);

	for (size_t i = 0; i < devices.n && (i == 0 || (err && err != KVMOD_ENOMEM)); i++)
		err = open_and_close(ctx, devices.item[i]);
	kv_arena_free(&arena);
	return err;
}

/*
 * A configuration may serve several machines. The section of a device or policy that is
 * not in use may be meant for another machine, so a missing GPU is not an error.
 */
static int excuse(struct kvmod_ctx *ctx, int err, const char *what, const char *name)
{
	if (err == KVMOD_ENOMEM)
		return err;
	if (err)
		kv_log(ctx, KVMOD_NOTE, "%s %s is not tried: %s", what, name, kvmod_error());
	return KVMOD_OK;
}

static int try_device(struct kvmod_ctx *ctx, const char *name)
{
	int err = open_and_close(ctx, name);

	return kv_is_in_use(ctx->config, KV_DEVICE, name) ? err : excuse(ctx, err, "device", name);
}

/* The policy in use must run as configured, any other policy on some device of this machine. */
static int try_policy(struct kvmod_ctx *ctx, const char *name, kv_step_fn *step, void *arg)
{
	int err = KVMOD_OK;

	if (kv_is_in_use(ctx->config, KV_POLICY, name))
		return kv_probe_policy(ctx, name, NULL, step, arg);
	if (!runs_on_host(ctx, name))
		err = open_any(ctx, name);
	return err ? excuse(ctx, err, "policy", name) : kv_probe_policy(ctx, name, "auto", step, arg);
}

/* Tries a policy only on the CPU, because the child cannot use an accelerator. */
static int try_policy_without(struct kvmod_ctx *ctx, const char *name, kv_step_fn *step, void *arg)
{
	int err = KVMOD_OK;

	if (kv_is_in_use(ctx->config, KV_POLICY, name))
		err = find_version(ctx, name, kv_in_use(ctx->config, KV_DEVICE));
	if (err || !runs_on_host(ctx, name))
		return err;
	return kv_probe_policy(ctx, name, KV_CPU, step, arg);
}

/* A policy that failed was reported already, and is not tried again. */
static int try_engine(struct kvmod_ctx *ctx, const char *name, bool policy_failed,
		      kv_step_fn *step, void *arg)
{
	const struct kv_provider *provider = kv_provider_find(ctx, KV_ENGINE, name, NULL);

	/* Threads of the parent may hold locks of the engine, never released in the child. */
	if (!kv_is_in_use(ctx->config, KV_ENGINE, name) || provider->refs > 0)
		return KVMOD_OK;
	return kv_probe_engine(ctx, name, policy_failed ? NULL : kv_in_use(ctx->config, KV_POLICY),
			       step, arg);
}

/*
 * A driver that the parent uses does not work in its child. In that case the child tries
 * only what needs no accelerator; the device itself already works in the parent.
 */
int kv_try(struct kvmod_ctx *ctx, enum kv_kind kind, const char *name, bool policy_failed,
	   kv_step_fn *step, void *arg)
{
	bool busy = kv_accelerator_is_open(ctx);
	int err;

	step(arg, "loading it");
	err = load_and_fill(ctx, kind, name);
	if (err)
		return err;
	if (kind == KV_POLICY)
		return busy ? try_policy_without(ctx, name, step, arg) :
			      try_policy(ctx, name, step, arg);
	if (busy)
		return KVMOD_OK;
	return kind == KV_DEVICE ? try_device(ctx, name) :
				   try_engine(ctx, name, policy_failed, step, arg);
}
