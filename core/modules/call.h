/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one way into a module. Before a call the reason of an earlier failure is
 * forgotten, so that a module that fails in silence cannot be blamed for it; after
 * the call its code is checked, and every failure has words.
 */
#ifndef KV_CORE_MODULES_CALL_H
#define KV_CORE_MODULES_CALL_H

#include "core/base/log.h"

/*
 * Calls ops->call(...). KVMOD_OK, or a KVMOD_E code and why in kvmod_error(): the
 * module's own words, or the names of call and code where the module gave none. The
 * caller puts the module's name before them.
 */
#define KV_CALL(ops, call, ...) KV_CALL_OF(NULL, ops, call, __VA_ARGS__)

/*
 * The same for engines: users know their words without a prefix, so "engine NAME: "
 * goes before words of the core alone.
 */
#define KV_CALL_ENGINE(ops, call, ...) KV_CALL_OF((ops)->name, ops, call, __VA_ARGS__)

/* The same for a call in another table than the engine's own. engine: as of kv_called(). */
#define KV_CALL_OF(engine, ops, call, ...) \
	(kv_error_forget(), kv_called((ops)->call(__VA_ARGS__), #call, engine))

/* Calls that cannot fail: what they say does not replace the reason of a failure. */
#define KV_CALL_VOID(statement) do { \
		struct kv_error kv_before; \
		kv_error_save(&kv_before); \
		statement; \
		kv_error_restore(&kv_before); \
	} while (0)

/*
 * Judges what a call returned. A code that is not 0 or one of KVMOD_E... is a failure
 * too, KVMOD_EINVAL. engine: NULL, or the name to put before words of the core.
 */
int kv_called(int32_t code, const char *call, const char *engine);

#endif
