/* SPDX-License-Identifier: Apache-2.0 */
/* Creates a context and registers the built-in policy and device in it. */
#include "core/run/builtin.h"

#include "core/modules/registry.h"

int kvmod_new(struct kvmod_ctx **out)
{
	struct kvmod_ctx *ctx;
	int err = kv_context_new(&ctx);

	if (err)
		return err;
	err = kv_register(ctx, NULL, KV_POLICY, &kv_fullkv_ops);
	if (err == KVMOD_OK)
		err = kv_register(ctx, NULL, KV_DEVICE, &kv_cpu_device_ops);
	if (err)
		kvmod_unref(ctx);
	else
		*out = ctx;
	return err;
}
