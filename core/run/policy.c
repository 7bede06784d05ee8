/* SPDX-License-Identifier: Apache-2.0 */
/* Policies: where one is to run, and opening it there. */
#include "core/run/policy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/simd.h"

/* --- opening it on a device ------------------------------------------------------- */

static int start(struct kvmod_policy *p, const struct kvmod_model *model)
{
	int err = KVMOD_OK;

	kv_fail(KVMOD_OK, "%s", "");
	if (p->ops->open)
		err = p->ops->open(p->instance, model);
	if (err != KVMOD_OK)
		return kv_failed(err, "policy", p->ops->name);
	p->needs = (struct kvmod_needs){ .size = sizeof(p->needs) };
	if (p->ops->needs)
		err = p->ops->needs(p->instance, &p->needs);
	if (err != KVMOD_OK) {
		kv_failed(err, "policy", p->ops->name);
		if (p->ops->close)
			p->ops->close(p->instance);
	}
	return err;
}

/* What keeps a policy from running on one device, but perhaps not on another. */
enum lack { NOTHING, A_VERSION, THE_DEVICE, ABILITY };

/* Opens its version for that device, or leaves nothing. */
static int open_on(struct kvmod_policy *p, const char *name, uint32_t on,
		   const struct kvmod_model *model, enum lack *lack)
{
	int err = kv_provider_get(p->ctx, KV_POLICY, name, on, &p->provider);

	*lack = err == KVMOD_ENOTSUP ? A_VERSION : NOTHING;
	if (err)
		return err;
	p->ops = p->provider->ops;
	err = kvmod_device_open(p->ctx, kv_device_name(on), &p->device);
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

/* --- where it is to run -------------------------------------------------------------- */

/* Where most layers of the model have their cache. */
static uint32_t home_of(const struct kvmod_model *model)
{
	uint32_t on = KVMOD_ON_CPU;

	if (KVMOD_HAS(model, device) && model->device && model->n_device_layers > 0 &&
	    model->n_device_layers >= model->n_layers - model->n_device_layers)
		on = kv_device_bit(model->device);
	return on ? on : KVMOD_ON_CPU;
}

/* At home, else where it can; that this is elsewhere is said, and why. */
static int open_somewhere(struct kvmod_policy *p, const char *name,
			  const struct kvmod_model *model)
{
	uint32_t home = home_of(model);
	uint32_t other = home == KVMOD_ON_CPU ? KVMOD_ON_CUDA : KVMOD_ON_CPU;
	enum lack lack, other_lack;
	int err, other_err;
	char why[512];

	err = open_on(p, name, home, model, &lack);
	if (lack == NOTHING || (home == KVMOD_ON_CPU && lack != A_VERSION))
		return err;
	snprintf(why, sizeof(why), "%s", kvmod_error());
	other_err = open_on(p, name, other, model, &other_lack);
	if (other_err == KVMOD_OK)
		kv_log(p->ctx, KVMOD_NOTE, "%s; policy %s runs on %s", why, p->ops->name,
		       kv_device_name(other));
	/* Of two reasons, the one that keeps a version that there is from running. */
	if (lack == A_VERSION || other_lack != A_VERSION)
		return other_err;
	return kv_fail(err, "%s", why);
}

static int open_at(struct kvmod_policy *p, const char *name, const char *device,
		   const struct kvmod_model *model)
{
	enum lack lack;

	if (!device)
		device = kvmod_config_get(p->ctx, "kvmod", "device");
	if (!device || strcmp(device, "auto") == 0)
		return open_somewhere(p, name, model);
	if (kv_device_bit(device) == 0)
		return kv_fail(KVMOD_EINVAL, "device `%s`: expected auto, cpu or cuda", device);
	return open_on(p, name, kv_device_bit(device), model, &lack);
}

/* What the kernels go by. Once: the environment stays as it is. */
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
	p->scratch.on_host = true;
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
	if (p->ops->close)
		p->ops->close(p->instance);
	kv_staging_free(p);
	kv_buffer_free(p->device, &p->scratch);
	kv_buffer_free(p->device, &p->device_scratch);
	kv_instance_free(p->instance);
	kvmod_device_close(p->device);
	kv_provider_put(p->ctx, p->provider);
	free(p);
}

/* --- what is open ------------------------------------------------------------------------ */

bool kv_policy_counts_budget(const struct kvmod_policy *p)
{
	for (uint32_t i = 0; i < p->ops->n_params; i++) {
		const struct kvmod_param *param = KVMOD_AT(const struct kvmod_param, p->ops->params,
							   p->ops->param_stride, i);

		if (param->type == KVMOD_PARAM_AMOUNT && kv_name_eq(param->name, "budget"))
			return ((const struct kvmod_amount *)
				((const char *)p->instance + param->offset))->is_count;
	}
	return false;
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
	int err;

	*state = NULL;
	if (!p->ops->begin)
		return KVMOD_OK;
	kv_fail(KVMOD_OK, "%s", "");
	err = p->ops->begin(p->instance, sequence, state);
	return err == KVMOD_OK ? err : kv_failed(err, "policy", p->ops->name);
}

void kvmod_policy_end(struct kvmod_policy *p, uint64_t sequence, void *state)
{
	if (p->ops->end)
		p->ops->end(p->instance, sequence, state);
}

