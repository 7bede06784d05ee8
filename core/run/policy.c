/* SPDX-License-Identifier: Apache-2.0 */
/* Opens policies: chooses the device, loads the policy's version for it, and closes it. */
#include "core/modules/call.h"
#include "core/run/policy.h"
#include "core/modules/catalog.h"
#include "core/run/request.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/simd.h"

/* --- opening it on a device ------------------------------------------------------- */

/* The policy writes to a temporary struct, so it cannot change its needs after the check. */
static int ask_needs(struct kvmod_policy *p)
{
	struct kvmod_needs needs = { .size = sizeof(needs) };
	int err = p->ops->needs ? KV_CALL(p->ops, needs, p->instance, &needs) : KVMOD_OK;

	if (err == KVMOD_OK)
		err = kv_needs_check(&needs);
	p->needs = needs;
	p->needs.size = sizeof(needs);
	return err;
}

/* A policy may keep a pointer to its model, so each policy gets its own copy. */
static void copy_model(struct kvmod_policy *p, const struct kvmod_model *model)
{
	size_t size = model->size < sizeof(p->model) ? model->size : sizeof(p->model);

	p->model = (struct kvmod_model){ 0 };
	memcpy(&p->model, model, size);
	p->model.size = (uint32_t)size;
}

static void stop(struct kvmod_policy *p)
{
	if (p->ops->close)
		KV_CALL_VOID(p->ops->close(p->instance));
}

static int start(struct kvmod_policy *p, const struct kvmod_model *model)
{
	int err = KVMOD_OK;

	copy_model(p, model);
	if (p->ops->open)
		err = KV_CALL(p->ops, open, p->instance, &p->model);
	if (err != KVMOD_OK)
		return kv_failed(err, "policy", p->ops->name);
	err = ask_needs(p);
	if (err != KVMOD_OK) {
		kv_failed(err, "policy", p->ops->name);
		stop(p);
	}
	return err;
}

/* What a policy lacks on one device, but perhaps not on another. */
enum lack { NOTHING, A_VERSION, THE_DEVICE, ABILITY };

/* Opens the policy's version for that device; after an error nothing is left open. */
static int open_on(struct kvmod_policy *p, const char *name, const char *device,
		   const struct kvmod_model *model, enum lack *lack)
{
	int err = kv_provider_get(p->ctx, KV_POLICY, name, device, &p->provider);

	*lack = err == KVMOD_ENOTSUP ? A_VERSION : NOTHING;
	if (err)
		return err;
	p->ops = p->provider->ops;
	err = kvmod_device_open(p->ctx, device, &p->device);
	*lack = err ? THE_DEVICE : NOTHING;
	if (err)
		goto no_device;
	err = kv_instance_new(p->ctx, p->provider, &p->instance);
	if (err)
		goto no_instance;
	err = start(p, model);
	*lack = err == KVMOD_ENOTSUP ? ABILITY : NOTHING;
	if (err == KVMOD_OK)
		return err;
	kv_instance_free(p->instance);
no_instance:
	kvmod_device_close(p->device);
no_device:
	kv_provider_put(p->ctx, p->provider);
	return err;
}

/* --- the choice of the device --------------------------------------------------------- */

/* The device with the cache of most layers. */
static const char *home_of(const struct kvmod_model *model)
{
	if (KVMOD_HAS(model, device) && model->device && model->n_device_layers > 0 &&
	    model->n_device_layers >= model->n_layers - model->n_device_layers)
		return model->device;
	return KV_CPU;
}

/* Devices are tried in turn, until the policy is open on one. */
struct attempts {
	struct kvmod_policy *p;
	const char *name;
	const struct kvmod_model *model;
	const char *home;
	int err;			/* the code of the reason to report */
	enum lack lack;
	char why[512];			/* that reason */
	char at_home[512];		/* the reason at home; "": home was not tried yet */
};

/* Of several reasons, keeps the last one that stops an existing version from running. */
static void keep_reason(struct attempts *a, int err, enum lack lack)
{
	if (!a->at_home[0])
		snprintf(a->at_home, sizeof(a->at_home), "%s", kvmod_error());
	if (lack == A_VERSION && a->err != KVMOD_OK && a->lack != A_VERSION)
		return;
	a->err = err;
	a->lack = lack;
	snprintf(a->why, sizeof(a->why), "%s", kvmod_error());
}

/*
 * Tries one device. Returns true if no other device need be tried: the policy is open,
 * or the failure has nothing to do with the device. A version that fails on the CPU
 * would fail elsewhere too.
 */
static bool try_on(struct attempts *a, const char *device)
{
	enum lack lack;
	int err = open_on(a->p, a->name, device, a->model, &lack);

	if (err == KVMOD_OK) {
		a->err = err;
		if (!kv_name_eq(device, a->home))
			kv_log(a->p->ctx, KVMOD_NOTE, "%s; policy %s runs on %s", a->at_home,
			       a->p->ops->name, kvmod_policy_device(a->p));
		return true;
	}
	keep_reason(a, err, lack);
	return lack == NOTHING || (kv_name_eq(device, KV_CPU) && lack != A_VERSION);
}

/* Tries the other devices that the policy names, in the order of its list. */
static int open_elsewhere(struct attempts *a)
{
	struct kv_strings devices = { 0 };
	struct kv_arena arena = { 0 };
	int err = kv_policy_devices(a->p->ctx, a->name, &arena, &devices);
	bool done = false;

	for (size_t i = 0; i < devices.n && !err && !done; i++)
		done = !kv_name_eq(devices.item[i], a->home) &&
		       !kv_name_eq(devices.item[i], KV_CPU) && try_on(a, devices.item[i]);
	kv_arena_free(&arena);
	return err;
}

/* At home, else on the CPU, else on another device; a log line then says where, and why. */
static int open_somewhere(struct kvmod_policy *p, const char *name,
			  const struct kvmod_model *model)
{
	struct attempts a = { .p = p, .name = name, .model = model, .home = home_of(model) };
	int err = KVMOD_OK;

	if (try_on(&a, a.home) || (!kv_name_eq(a.home, KV_CPU) && try_on(&a, KV_CPU)))
		return a.err ? kv_fail(a.err, "%s", a.why) : KVMOD_OK;
	err = open_elsewhere(&a);
	if (err == KVMOD_OK && a.err)
		err = kv_fail(a.err, "%s", a.why);
	return err;
}

/* Looks up the device first, so that an unknown device gets its own message. */
static int open_where_told(struct kvmod_policy *p, const char *name, const char *device,
			   const struct kvmod_model *model)
{
	struct kv_provider *provider;
	enum lack lack;
	int err = kv_provider_get(p->ctx, KV_DEVICE, device, NULL, &provider);

	if (err)
		return err;
	err = open_on(p, name, provider->name, model, &lack);
	kv_provider_put(p->ctx, provider);
	return err;
}

static int open_at(struct kvmod_policy *p, const char *name, const char *device,
		   const struct kvmod_model *model)
{
	if (!device)
		device = kvmod_config_get(p->ctx, "kvmod", "device");
	if (!device || strcmp(device, "auto") == 0)
		return open_somewhere(p, name, model);
	return open_where_told(p, name, device, model);
}

/* Warns of a bad KVMOD_SIMD, once: the kernels read the environment once. */
static void note_environment(struct kvmod_ctx *ctx)
{
	static atomic_flag done = ATOMIC_FLAG_INIT;
	const char *unknown = kv_simd_unknown();

	if (unknown && !atomic_flag_test_and_set(&done))
		kv_log(ctx, KVMOD_WARN, "KVMOD_SIMD=%s has no effect: expected scalar, avx2 or avx512",
		       unknown);
}

int kvmod_policy_open(struct kvmod_ctx *ctx, const char *name, const char *device,
		      const struct kvmod_model *model, struct kvmod_policy **out)
{
	struct kvmod_policy *p;
	int err;

	if (!name)
		name = kvmod_config_get(ctx, "kvmod", "policy");
	if (!name)
		name = "fullkv";
	p = calloc(1, sizeof(*p));
	if (!p)
		return kv_fail(KVMOD_ENOMEM, "no memory for a policy");
	p->ctx = ctx;
	p->counters.size = sizeof(p->counters);
	p->scratch.on_host = p->staging.on_the_way.on_host = true;
	note_environment(ctx);
	err = open_at(p, name, device, model);
	if (err)
		free(p);
	else
		*out = p;
	return err;
}

void kvmod_policy_close(struct kvmod_policy *p)
{
	if (!p)
		return;
	stop(p);
	kv_staging_free(p);
	kv_handed_free(&p->handed);
	kv_buffer_free(p->device, &p->scratch);
	kv_buffer_free(p->device, &p->device_scratch);
	kv_instance_free(p->instance);
	kvmod_device_close(p->device);
	kv_provider_put(p->ctx, p->provider);
	free(p);
}

/* --- what is open ------------------------------------------------------------------------ */

static bool is_budget(const struct kvmod_param *param)
{
	return param->type == KVMOD_PARAM_AMOUNT &&
	       (kv_name_eq(param->name, "budget") || kv_name_eq(param->name, "heavy") ||
		kv_name_eq(param->name, "recent"));
}

bool kv_policy_counts_budget(const struct kvmod_policy *p)
{
	bool counts = false;

	for (uint32_t i = 0; i < p->ops->n_params; i++) {
		const struct kvmod_param *param = &p->ops->params[i];
		const struct kvmod_amount *amount = (const void *)((const char *)p->instance + param->offset);

		if (!is_budget(param))
			continue;
		if (!amount->is_count)
			return false;
		counts = true;
	}
	return counts;
}

const struct kvmod_policy_ops *kvmod_policy_ops(const struct kvmod_policy *p)
{
	return p->ops;
}

const char *kvmod_policy_device(const struct kvmod_policy *p)
{
	return kvmod_device_ops(p->device)->name;
}

const struct kvmod_needs *kvmod_policy_needs(const struct kvmod_policy *p)
{
	return &p->needs;
}

void kvmod_policy_counters(const struct kvmod_policy *p, struct kvmod_counters *out)
{
	uint32_t size = out->size < sizeof(*out) ? out->size : (uint32_t)sizeof(*out);

	memcpy(out, &p->counters, size);
	out->size = size;
}

int kvmod_policy_begin(struct kvmod_policy *p, uint64_t sequence, void **state)
{
	void *begun = NULL;	/* the policy must not be able to change *state later */
	int err = p->ops->begin ? KV_CALL(p->ops, begin, p->instance, sequence, &begun) : KVMOD_OK;

	*state = err == KVMOD_OK ? begun : NULL;
	return err == KVMOD_OK ? err : kv_failed(err, "policy", p->ops->name);
}

void kvmod_policy_end(struct kvmod_policy *p, uint64_t sequence, void *state)
{
	if (p->ops->end)
		KV_CALL_VOID(p->ops->end(p->instance, sequence, state));
}

