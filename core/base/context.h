/* SPDX-License-Identifier: Apache-2.0 */
/* A context: everything that belongs to one user of the library. */
#ifndef KV_CORE_BASE_CONTEXT_H
#define KV_CORE_BASE_CONTEXT_H

#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/threads.h"

#include <pthread.h>
#include <stdatomic.h>

struct kv_config;
struct kv_module;
struct kv_provider;

struct kvmod_ctx {
	atomic_uint refs;
	pthread_mutex_t log_lock;	/* guards log and its arg; nothing is called with it held */
	kvmod_log_fn *log;
	void *log_arg;
	atomic_uint log_level;
	atomic_uint usual_level;	/* if the configuration sets no log_level */
	pthread_mutex_t lock;		/* guards all below */
	struct kv_config *config;	/* never changed in place: a reload replaces it */
	struct kv_module *modules;
	struct kv_provider *providers, **providers_end;
	void *provider_names;		/* a tree: the first of each kind and name */
	struct kvmod_device *devices;	/* open devices */
	struct kv_threads *threads;
};

#endif
