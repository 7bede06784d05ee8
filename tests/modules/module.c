/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The modules that the loader is tested with, good and bad: one source, built
 * with other macros for each (see local.mk).
 */
#ifdef TEST_MAGIC
#include <kvmod/module.h>
#undef KVMOD_MAGIC
#define KVMOD_MAGIC TEST_MAGIC
#endif
#include <kvmod/policy.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#ifdef TEST_ABI_MAJOR
#undef KVMOD_ABI_MAJOR
#define KVMOD_ABI_MAJOR TEST_ABI_MAJOR
#endif
#ifdef TEST_ABI_MINOR
#undef KVMOD_ABI_MINOR
#define KVMOD_ABI_MINOR TEST_ABI_MINOR
#endif
#ifndef TEST_NAME
#define TEST_NAME "good"
#endif
#ifndef TEST_LICENSE
#define TEST_LICENSE "Apache-2.0"
#endif
#ifndef TEST_POLICY
#define TEST_POLICY good
#endif
#ifndef TEST_DEVICES
#define TEST_DEVICES NULL
#endif
#ifndef TEST_FLAGS
#define TEST_FLAGS 0
#endif

struct self {
	struct kvmod_instance base;
	int64_t sinks;
	double threshold;
	const char *file;
};

#define PARAMS(P, owner) \
	P(owner, struct self, sinks, INT, "4", "0..1024", "oldest positions, always kept") \
	P(owner, struct self, threshold, REAL, "0.5", "0..1", "what may be lost") \
	P(owner, struct self, file, PATH, "", "", "where to look it up")

/* Expands its arguments before the other macro pastes them. */
#define DEFINE_PARAMS(what, owner) KVMOD_PARAMS(what, owner, PARAMS)
#define CAT_(a, b) a##b
#define CAT(a, b) CAT_(a, b)
#ifdef TEST_UNSAID
#define params_of_policy unsaid_params
DEFINE_PARAMS(policy, unsaid);
#else
#define params_of_policy CAT(TEST_POLICY, _params)
DEFINE_PARAMS(policy, TEST_POLICY);
#endif
#ifndef TEST_N_PARAMS
#define TEST_N_PARAMS (sizeof(params_of_policy) / sizeof(*params_of_policy))
#endif
#ifdef TEST_RUNS_ON
#define DEFINE_DEVICES(owner) KVMOD_RUNS_ON(owner, TEST_RUNS_ON)
DEFINE_DEVICES(TEST_POLICY);
#endif

#ifdef TEST_UNDEFINED
int32_t symbol_that_nobody_defines(void);
#endif

#ifdef TEST_LEAVES
/*
 * A child that holds all open files, and never ends by itself. Its process id goes to
 * the file; the parent crashes, or continues in the child (TEST_DAEMON).
 */
static void leave_a_child(const char *file)
{
	pid_t pid = fork();
	FILE *f = pid > 0 ? fopen(file, "w") : NULL;

	if (f) {
		fprintf(f, "%ld\n", (long)pid);
		fclose(f);
	}
#ifdef TEST_DAEMON
	if (pid > 0)
		_exit(0);
#else
	if (pid > 0)
		raise(SIGSEGV);
	for (;;)
		pause();
#endif
}
#endif

static int32_t open_it(void *instance, const struct kvmod_model *model)
{
	const struct self *self = instance;

	(void)model;
#ifdef TEST_LEAVES
	leave_a_child(self->file);
#endif
#ifdef TEST_MUTE
	for (int fd = 0; fd < 1024; fd++)
		close(fd);
#endif
#ifdef TEST_HANG
	for (;;)
		pause();
#endif
#ifdef TEST_CHATTER
	for (unsigned i = 0;; i++)
		self->base.host->log(self->base.host->ctx, KVMOD_NOTE, "still here %u", i);
#endif
#ifdef TEST_UNDEFINED
	return symbol_that_nobody_defines();
#endif
	self->base.host->log(self->base.host->ctx, KVMOD_INFO, "sinks %lld, threshold %g",
			     (long long)self->sinks, self->threshold);
	return KVMOD_OK;
}

static int32_t compress(void *instance, const struct kvmod_request *request,
			struct kvmod_plan *plan)
{
	const struct self *self = instance;

	(void)self;
	(void)request;
#ifdef TEST_CRASH
	raise(SIGSEGV);
#endif
#ifdef TEST_EXIT
	_exit(7);
#endif
#ifdef TEST_FAIL
	return self->base.host->fail(self->base.host->ctx, KVMOD_ENUMERIC, "row 3 is\nnot finite");
#endif
#ifdef TEST_BAD_PLAN
	for (uint32_t i = 0; i < plan->n_keeps; i++) {
		kvmod_keep_at(plan, i)->kind = KVMOD_KEEP_SPANS;
		kvmod_keep_at(plan, i)->n_spans = 0;
	}
#endif
	(void)plan;
	return KVMOD_OK;
}

static const struct kvmod_policy_ops ops = {
	.size = sizeof(ops),
	.name = KVMOD_STR(TEST_POLICY),
	.description = "keeps everything, for tests",
	.devices = TEST_DEVICES,
	.instance_size = sizeof(struct self),
	.params = params_of_policy,
	.n_params = TEST_N_PARAMS,
	.open = open_it,
	.compress = compress,
};

#ifdef TEST_CONSTRUCTOR
/* Runs as soon as the file is loaded, whatever is found out about it afterwards. */
__attribute__((constructor)) static void constructed(void)
{
	setenv("KVMOD_TEST_CONSTRUCTED", "yes", 1);
}
#endif

static int32_t init(const struct kvmod_host *host)
{
	int32_t err = host->register_policy(host->ctx, &ops);

#ifdef TEST_INIT_FAILS
	return host->fail(host->ctx, KVMOD_EDEVICE, "the moon is full");
#endif
#ifdef TEST_INIT_SILENT
	return KVMOD_EDEVICE;
#endif
#ifdef TEST_INIT_CRASH
	abort();
#endif
	return err;
}

/* What makes one of them depend on another. */
#ifdef TEST_ANCHOR
extern KVMOD_EXPORT const int anchor;
const int anchor = 1;
#endif
#ifdef TEST_SHADOW
extern const int anchor;
extern KVMOD_EXPORT const int *const anchored;
const int *const anchored = &anchor;
#endif

#ifdef TEST_USES
KVMOD_USES(test, TEST_USES);
#endif
#ifndef TEST_NO_MODULE
KVMOD_MODULE(TEST_NAME, "1.0", TEST_LICENSE, "The kvmod authors", "for tests", TEST_FLAGS,
	     init, NULL);
#elif defined(TEST_NO_SECTION)
extern KVMOD_EXPORT const struct kvmod_module kvmod_module;
const struct kvmod_module kvmod_module = {
	.size = sizeof(kvmod_module), .magic = KVMOD_MAGIC, .abi_major = KVMOD_ABI_MAJOR,
	.name = TEST_NAME, .version = "1.0", .license = TEST_LICENSE, .init = init,
};
#else
/* A section, but no descriptor of its own; perhaps it refers to somebody else's. */
KVMOD_INFO_STRING(abi, "abi=" KVMOD_ABI_TEXT);
KVMOD_INFO_STRING(name, "name=" TEST_NAME);
KVMOD_INFO_STRING(version, "version=1.0");
KVMOD_INFO_STRING(license, "license=" TEST_LICENSE);
extern KVMOD_EXPORT int32_t (*const keep_init)(const struct kvmod_host *host);
int32_t (*const keep_init)(const struct kvmod_host *host) = init;
#ifdef TEST_DEPENDS
extern const struct kvmod_module kvmod_module;
extern KVMOD_EXPORT const struct kvmod_module *const descriptor;
const struct kvmod_module *const descriptor = &kvmod_module;
#endif
#endif
