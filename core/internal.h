/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of libkvmod share. Names with kv_ are not exported. */
#ifndef KVMOD_INTERNAL_H
#define KVMOD_INTERNAL_H

#include <config.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>

#include <kvmod/kvmod.h>

#define KV_PRINTF(text, first) __attribute__((format(printf, text, first)))

struct kv_config;
struct kv_module;
struct kv_pool;

/* --- errors and log (log.c) ------------------------------------------------ */

/* Sets this thread's message and returns code. */
int kv_fail(int code, const char *format, ...) KV_PRINTF(2, 3);
int kv_vfail(int code, const char *format, va_list args);
/* Puts "format: " before the message that is there; returns code. */
int kv_fail_in(int code, const char *format, ...) KV_PRINTF(2, 3);
void kv_log(struct kvmod_ctx *ctx, uint32_t level, const char *format, ...) KV_PRINTF(3, 4);
/*
 * A module may fail without a word; then the name of the code has to do. "what
 * name: " goes before either; returns code.
 */
int kv_failed(int code, const char *what, const char *name);
void kv_vlog(struct kvmod_ctx *ctx, uint32_t level, const char *prefix,
	     const char *format, va_list args);

/* --- registry (registry.c) --------------------------------------------------- */

enum kv_kind { KV_POLICY, KV_ENGINE, KV_DEVICE, KV_COLLECTIVE };

/* One registered ops table. */
struct kv_provider {
	struct kv_provider *next;
	struct kv_provider *namesake;	/* the next one of the same kind and name */
	enum kv_kind kind;
	const char *name;
	const void *ops;		/* a full-size, zero-extended copy of the module's table */
	uint32_t on;			/* policies: KVMOD_ON_... */
	struct kv_module *module;	/* NULL: built into the core */
	unsigned refs;			/* open instances */
	void *table;			/* ops, and the parameters that it points to */
	struct kvmod_param *params;
};

/*
 * The provider of that name, its module loaded first if need be, with a
 * reference taken. on: a policy must run there (0: anywhere). An unknown name
 * is KVMOD_ENOENT and the message names the nearest known one.
 */
int kv_provider_get(struct kvmod_ctx *ctx, enum kv_kind kind, const char *name,
		    uint32_t on, struct kv_provider **out);
void kv_provider_put(struct kvmod_ctx *ctx, struct kv_provider *provider);

/* --- instances and parameters (params.c) ----------------------------------------- */

/*
 * Allocates an instance of `size` bytes, zeroed, and fills its kvmod_instance
 * and its parameters from the section "policy NAME" (or engine, device).
 */
int kv_instance_new(struct kvmod_ctx *ctx, struct kv_provider *provider, void **instance);
void kv_instance_free(void *instance);

/* --- configuration (config.c) ---------------------------------------------------- */

/* What [kvmod] leave_below says. */
uint64_t kv_leave_below(struct kvmod_ctx *ctx);

/* --- policies (policy.c) ----------------------------------------------------------- */

/* Has it a parameter `budget` that is a count now? */
bool kv_policy_counts_budget(const struct kvmod_policy *policy);

/* --- devices (device.c) -------------------------------------------------------- */

/* KVMOD_ON_... of a device's name; 0: unknown. */
uint32_t kv_device_bit(const char *name);
uint32_t kv_devices_known(void);		/* all of them */
const char *kv_device_name(uint32_t on);	/* of the lowest bit; NULL: none */

/* --- engines (engine.c) -------------------------------------------------------- */

struct kvmod_ctx *kv_engine_ctx(const struct kvmod_engine *engine);
/*
 * As kvmod_engine_open(), but weights need not be loaded: only its model, and what
 * it serves, may be asked for. Closed with kvmod_engine_close().
 */
int kv_engine_check(struct kvmod_ctx *ctx, const char *name, struct kvmod_engine **engine);
/* Refuses a policy that would cut, if the engine cuts nothing. policy may be NULL. */
int kv_engine_cuts(struct kvmod_engine *engine, struct kvmod_policy *policy);
/* Can it cut as a policy may ask, and show what it needs, as far as it can say? */
int kv_engine_serves(struct kvmod_engine *engine, struct kvmod_policy *policy);

/* --- threads (pool.c) ---------------------------------------------------------- */

void kv_parallel(struct kvmod_ctx *ctx, uint32_t n, void (*fn)(void *arg, uint32_t i), void *arg);
uint32_t kv_n_threads(struct kvmod_ctx *ctx);

struct kvmod_ctx {
	atomic_uint refs;
	pthread_mutex_t log_lock;	/* guards log and its arg; nothing is called with it held */
	kvmod_log_fn *log;
	void *log_arg;
	atomic_uint log_level;
	atomic_uint usual_level;	/* where the configuration says none */
	pthread_mutex_t lock;		/* guards all below */
	struct kv_config *config;	/* never changed in place: a reload puts another */
	struct kv_module *modules;
	struct kv_provider *providers, **providers_end;
	void *provider_names;		/* a tree: the first of each kind and name */
	struct kvmod_device *devices;	/* that are open */
	struct kv_pool *pool;
};

#endif
