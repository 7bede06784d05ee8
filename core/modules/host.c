/* SPDX-License-Identifier: Apache-2.0 */
/* The host table. Each module has its own, so that its log lines carry its name. */
#include "core/modules/device.h"
#include "core/toolkit/toolkit.h"

static void host_log(void *ctx, uint32_t level, const char *format, ...)
	KV_PRINTF(3, 4);
static int32_t host_fail(void *ctx, int32_t code, const char *format, ...)
	KV_PRINTF(3, 4);

static void host_log(void *ctx, uint32_t level, const char *format, ...)
{
	const struct kv_module *module = ctx;
	char line[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	kv_log(module->ctx, level, "%s: %s", module->desc.name, line);
}

/*
 * A code that means success becomes an error. The message is the module's alone; the
 * caller puts the module's name before it.
 */
static int32_t host_fail(void *ctx, int32_t code, const char *format, ...)
{
	char line[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	(void)ctx;
	return kv_fail(code < 0 ? code : KVMOD_EINVAL, "%s", line);
}

static int32_t host_register(struct kv_module *module, enum kv_kind kind, const void *ops)
{
	if (!module->in_init)
		return kv_fail(KVMOD_EINVAL, "%s registers a table outside init()",
			       module->desc.name);
	return kv_register(module->ctx, module, kind, ops);
}

static int32_t host_register_policy(void *ctx, const struct kvmod_policy_ops *ops)
{
	return host_register(ctx, KV_POLICY, ops);
}

static int32_t host_register_engine(void *ctx, const struct kvmod_engine_ops *ops)
{
	return host_register(ctx, KV_ENGINE, ops);
}

static int32_t host_register_device(void *ctx, const struct kvmod_device_ops *ops)
{
	return host_register(ctx, KV_DEVICE, ops);
}

static void host_parallel(void *ctx, uint32_t n, void (*fn)(void *arg, uint32_t i), void *arg)
{
	const struct kv_module *module = ctx;

	kv_parallel(module->ctx, n, fn, arg);
}

static uint32_t host_n_threads(void *ctx)
{
	const struct kv_module *module = ctx;

	return kv_n_threads(module->ctx);
}

static const void *host_get_extension(void *ctx, const char *name)
{
	(void)ctx;
	return kv_extension(name);
}

static int32_t host_device(void *ctx, const char *name, const struct kvmod_device_ops **ops,
			   void **self)
{
	struct kv_module *module = ctx;
	struct kvmod_device *device;
	int err;

	pthread_mutex_lock(&module->ctx->lock);
	if (module->in_init || module->in_exit)
		err = kv_fail(KVMOD_EINVAL, "%s asks for a device inside %s()", module->desc.name,
			      module->in_init ? "init" : "exit");
	else
		err = kv_module_device(module, name, &device);
	pthread_mutex_unlock(&module->ctx->lock);
	if (err)
		return err;
	*ops = kvmod_device_ops(device);
	*self = kvmod_device_instance(device);
	return KVMOD_OK;
}

void kv_host_fill(struct kv_module *module)
{
	module->host = (struct kvmod_host){
		.size = sizeof(module->host),
		.abi_minor = KVMOD_ABI_MINOR,
		.ctx = module,
		.log = host_log,
		.fail = host_fail,
		.register_policy = host_register_policy,
		.register_engine = host_register_engine,
		.register_device = host_register_device,
		.parallel = host_parallel,
		.n_threads = host_n_threads,
		.get_extension = host_get_extension,
		.device = host_device,
	};
}
