/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tries a configuration: a child process loads each thing that it names and uses it
 * once. The child reports each step and its result over a pipe. A module that crashes
 * or hangs takes down only the child.
 */
#include "core/base/child.h"
#include "core/check/check.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <search.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_LIMIT_MS 10000
#define MAX_LIMIT_MS	(24 * 3600 * 1000)
#define MAX_LINES	256		/* log lines that are kept for comparison */

/* What the child writes; short enough to be written to the pipe atomically. */
enum message_kind { STEP, LOG, DONE };
struct message {
	uint32_t kind;
	int32_t code;			/* of DONE; for LOG the level */
	pid_t pid;			/* the writer: a module may fork */
	char text[1024];
};

struct trial {
	struct kvmod_ctx *ctx;
	struct kv_config *config;
	uint32_t limit_ms;
	kvmod_finding_fn *fn;
	void *arg;
	struct kv_catalog catalog;
	struct kv_strings lines;	/* logged by children */
	bool policy_failed;		/* the policy in use failed */
	int first_code;
	char first[1024];
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* --- in the child -------------------------------------------------------------------- */

static void tell(int fd, enum message_kind kind, int code, const char *text)
{
	struct message m = { .kind = kind, .code = code, .pid = getpid() };
	ssize_t n;

	snprintf(m.text, sizeof(m.text), "%s", text);
	do
		n = write(fd, &m, sizeof(m));
	while (n < 0 && errno == EINTR);
}

static void tell_step(void *arg, const char *what)
{
	tell(*(int *)arg, STEP, 0, what);
}

static void tell_log(void *arg, uint32_t level, const char *line)
{
	tell(*(int *)arg, LOG, (int)level, line);
}

/* Removes the signal handlers of the program or its tools, so that a crash ends the child. */
static void plain_signals(void)
{
	static const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTERM, SIGINT };

	for (size_t i = 0; i < sizeof(signals) / sizeof(*signals); i++)
		signal(signals[i], SIG_DFL);
	signal(SIGPIPE, SIG_IGN);
}

/* The context is a copy of the parent's, and only this thread is left to use it. */
static void child(struct trial *t, enum kv_kind kind, const char *name, int fd)
{
	struct kvmod_ctx *ctx = t->ctx;
	int err;

	kv_child_begin();
	plain_signals();
	err = kv_context_after_fork(ctx);
	kvmod_set_log(ctx, tell_log, &fd);
	if (err == KVMOD_OK) {
		kv_config_install(ctx, t->config);
		err = kv_try(ctx, kind, name, t->policy_failed, tell_step, &fd);
	}
	tell(fd, DONE, err, err ? kvmod_error() : "");
}

/* --- in the parent ----------------------------------------------------------------------- */

struct watch {
	char step[64];
	int code;
	char message[1024];
	bool done;
};

/* Several children may log the same line about one policy. */
static bool is_new(struct trial *t, const char *line)
{
	const char *copy;

	for (size_t i = 0; i < t->lines.n; i++)
		if (strcmp(t->lines.item[i], line) == 0)
			return false;
	copy = t->lines.n < MAX_LINES ? kv_arena_strdup(&t->catalog.arena, line) : NULL;
	if (copy)
		kv_strings_add(&t->catalog.arena, &t->lines, copy);
	return true;
}

static void hear(struct trial *t, struct watch *w, const struct message *m)
{
	switch (m->kind) {
	case STEP:
		snprintf(w->step, sizeof(w->step), "%.63s", m->text);
		break;
	case LOG:
		if (is_new(t, m->text))
			kv_log(t->ctx, (uint32_t)m->code, "%s", m->text);
		break;
	case DONE:
		w->done = true;
		w->code = m->code;
		snprintf(w->message, sizeof(w->message), "%s", m->text);
		break;
	}
}

/*
 * False: nothing more will come, or the time is up. A process that the module started
 * may hold the pipe open, so the end of the pipe is not awaited: all that the child
 * wrote is in the pipe once the child has ended.
 */
static bool hear_next(struct trial *t, struct watch *w, pid_t pid, int fd, double deadline)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	bool ended = kv_child_has_ended(pid);
	double left = deadline - now();
	int wait_ms = ended || left <= 0 ? 0 :
		      left < KV_CHILD_LOOK_MS / 1e3 ? (int)(left * 1e3) + 1 : KV_CHILD_LOOK_MS;
	int ready;
	struct message m;
	ssize_t n;

	if (ended)			/* so that no other process fills the pipe meanwhile */
		kv_child_kill(pid);
	ready = poll(&p, 1, wait_ms);
	if (ready < 0 && errno != EINTR)
		return false;
	/* Also if messages keep coming. */
	if (!ended && left <= 0) {
		w->code = KVMOD_ETIMEOUT;
		return false;
	}
	if (ready <= 0)
		return !ended;
	n = read(fd, &m, sizeof(m));
	if (n < 0 && errno == EINTR)
		return true;
	if (n != sizeof(m))
		return false;
	m.text[sizeof(m.text) - 1] = '\0';
	if (m.pid == pid)
		hear(t, w, &m);
	return !w->done;
}

static void judge(struct trial *t, struct watch *w, int status)
{
	if (w->done)
		return;
	if (w->code == KVMOD_ETIMEOUT) {
		snprintf(w->message, sizeof(w->message), "%s did not end within %g s", w->step,
			 t->limit_ms / 1e3);
	} else if (WIFSIGNALED(status)) {
		w->code = KVMOD_ECRASH;
		snprintf(w->message, sizeof(w->message), "died of SIG%s (%s) while %s",
			 sigabbrev_np(WTERMSIG(status)), strsignal(WTERMSIG(status)), w->step);
	} else {
		w->code = KVMOD_ECRASH;
		snprintf(w->message, sizeof(w->message), "ended the process with status %d while %s",
			 WEXITSTATUS(status), w->step);
	}
}

/* The pipe is closed, but the child may have closed it and still be running. */
static void await_end(struct watch *w, pid_t pid, double deadline)
{
	const struct timespec pause = { .tv_nsec = 2000000 };

	while (!kv_child_has_ended(pid)) {
		if (now() >= deadline) {
			if (!w->done)
				w->code = KVMOD_ETIMEOUT;
			return;
		}
		nanosleep(&pause, NULL);
	}
}

static void watch_child(struct trial *t, struct watch *w, pid_t pid, int fd)
{
	double deadline = now() + t->limit_ms / 1e3;
	int status = 0;

	while (hear_next(t, w, pid, fd, deadline))
		;
	await_end(w, pid, deadline);
	kv_child_kill(pid);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	judge(t, w, status);
}

static void report(struct trial *t, const struct kvmod_finding *finding)
{
	if (finding->code && t->first_code == KVMOD_OK) {
		t->first_code = finding->code;
		snprintf(t->first, sizeof(t->first), "%s %s: %s", finding->kind, finding->name,
			 finding->message);
	}
	if (t->fn)
		t->fn(t->arg, finding);
}

static void report_config(struct trial *t, const char *path, int code, const char *message)
{
	const struct kvmod_finding finding = {
		.size = sizeof(finding), .code = code, .kind = "configuration",
		.name = path ? path : "", .message = message, .module = "",
	};

	report(t, &finding);
}

/* The finding names its subject, so the message need not begin with it too. */
static const char *without_name(const char *message, enum kv_kind kind, const char *name)
{
	char prefix[128];
	size_t n = (size_t)snprintf(prefix, sizeof(prefix), "%s %s: ", kv_kind_name(kind), name);

	return strncmp(message, prefix, n) == 0 ? message + n : message;
}

static void report_watch(struct trial *t, enum kv_kind kind, const char *name,
			 const struct watch *w, double seconds)
{
	const char *module;

	t->policy_failed |= w->code && kind == KV_POLICY &&
			    kv_is_in_use(t->config, kind, name);
	pthread_mutex_lock(&t->ctx->lock);
	module = kv_catalog_file(&t->catalog, kind, name);
	pthread_mutex_unlock(&t->ctx->lock);
	report(t, &(struct kvmod_finding){
		.size = sizeof(struct kvmod_finding), .code = w->code, .kind = kv_kind_name(kind),
		.name = name, .message = without_name(w->message, kind, name),
		.module = module ? module : "", .seconds = seconds,
	});
}

/*
 * The lock makes sure that no other thread is in the middle of a change at the fork. The
 * child leads a process group, so that every process it starts can be killed with it.
 */
static pid_t start_child(struct trial *t, enum kv_kind kind, const char *name, const int ends[2])
{
	pid_t pid;

	pthread_mutex_lock(&t->ctx->lock);
	pid = fork();
	if (pid > 0)
		kv_child_started(pid);
	if (pid == 0) {
		close(ends[0]);
		child(t, kind, name, ends[1]);
		_exit(0);
	}
	pthread_mutex_unlock(&t->ctx->lock);
	return pid;
}

static void try_one(struct trial *t, enum kv_kind kind, const char *name)
{
	struct watch w = { .step = "starting" };
	double begin = now();
	int ends[2];
	pid_t pid = -1;

	if (pipe2(ends, O_CLOEXEC) == 0) {
		pid = start_child(t, kind, name, ends);
		close(ends[1]);
		if (pid > 0)
			watch_child(t, &w, pid, ends[0]);
		close(ends[0]);
	}
	if (pid < 0) {
		w.code = KVMOD_EIO;
		snprintf(w.message, sizeof(w.message), "cannot start a child process: %s",
			 strerror(errno));
	}
	report_watch(t, kind, name, &w, now() - begin);
}

/* --- trying each thing that is named ------------------------------------------------------ */

static int by_name(const void *a, const void *b)
{
	return kv_name_cmp(a, b);
}

static void keep_it(void *name)
{
	(void)name;			/* the configuration's */
}

/* Skips what is neither in use nor installed; sections.c has logged the latter. */
static bool is_passed_over(struct trial *t, enum kv_kind kind, const char *name)
{
	const struct kv_entry *blacklisted;
	bool there;

	pthread_mutex_lock(&t->ctx->lock);
	there = kv_catalog_has(&t->catalog, kind, name);
	blacklisted = kv_catalog_blacklisted(&t->catalog, kind, name);
	pthread_mutex_unlock(&t->ctx->lock);
	if (blacklisted)
		kv_log(t->ctx, KVMOD_NOTE, "%s %s is not tried: module `%s` is blacklisted: %s",
		       kv_kind_name(kind), name, blacklisted->key, blacklisted->value);
	return !there || blacklisted;
}

/* Each name once, in the order of the file. */
static int try_each(struct trial *t, enum kv_kind kind, const char *chosen, void **tried)
{
	const struct kv_config *config = t->config;
	bool met = !chosen;

	for (size_t i = 0; i < config->n_entries; i++) {
		const struct kv_entry *e = &config->entries[i];

		if (strcmp(e->kind, kv_kind_name(kind)) != 0 || tfind(e->name, tried, by_name))
			continue;
		if (!tsearch(e->name, tried, by_name))
			return kv_no_memory();
		met = met || kv_name_eq(e->name, chosen);
		if (kv_is_in_use(config, kind, e->name) || !is_passed_over(t, kind, e->name))
			try_one(t, kind, e->name);
	}
	if (!met)
		try_one(t, kind, chosen);
	return KVMOD_OK;
}

static int try_named(struct trial *t, enum kv_kind kind, const char *chosen)
{
	void *tried = NULL;
	int err = try_each(t, kind, chosen, &tried);

	tdestroy(tried, keep_it);
	return err;
}

/* --- files and aliases ------------------------------------------------------------------------ */

static void report_alias(struct trial *t, const struct kv_entry *e)
{
	const char *module;
	int err;

	pthread_mutex_lock(&t->ctx->lock);
	err = kv_alias_check(&t->catalog, e, &module);
	pthread_mutex_unlock(&t->ctx->lock);
	report(t, &(struct kvmod_finding){
		.size = sizeof(struct kvmod_finding), .code = err, .kind = "alias", .name = e->key,
		.message = err ? kvmod_error() : "", .module = module ? module : "",
	});
}

static void report_aliases(struct trial *t)
{
	for (size_t i = 0; i < t->config->n_entries; i++) {
		const struct kv_entry *e = &t->config->entries[i];

		if (strcmp(e->kind, "alias") == 0 && e->key && kv_entry_counts(t->config, e))
			report_alias(t, e);
	}
}

static void report_drop_ins(struct trial *t)
{
	for (size_t i = 0; i < t->config->drop_ins.n; i++)
		report(t, &(struct kvmod_finding){
			.size = sizeof(struct kvmod_finding), .kind = "drop-in",
			.name = t->config->drop_ins.item[i], .message = "", .module = "",
		});
}

int kv_check_config(struct kvmod_ctx *ctx, struct kv_config *config, uint32_t limit_ms,
		    kvmod_finding_fn *fn, void *arg)
{
	struct trial t = {
		.ctx = ctx, .config = config, .fn = fn, .arg = arg,
		.limit_ms = limit_ms == 0 ? DEFAULT_LIMIT_MS :
			    limit_ms < MAX_LIMIT_MS ? limit_ms : MAX_LIMIT_MS,
	};
	const struct kv_entry *engine;
	int err;

	pthread_mutex_lock(&ctx->lock);
	err = kv_catalog_open(&t.catalog, ctx, config);
	pthread_mutex_unlock(&ctx->lock);
	if (err)
		return err;
	report_config(&t, config->path, KVMOD_OK, "");
	report_drop_ins(&t);
	report_aliases(&t);
	err = try_named(&t, KV_POLICY, kv_in_use(config, KV_POLICY));
	/* Not every program runs an engine, so the default engine is not tried. */
	engine = kv_config_find(config, "kvmod", "", "engine");
	if (err == KVMOD_OK)
		err = try_named(&t, KV_ENGINE, engine ? kv_in_use(config, KV_ENGINE) : NULL);
	if (err == KVMOD_OK)
		err = try_named(&t, KV_DEVICE, kv_in_use(config, KV_DEVICE));
	kv_catalog_close(&t.catalog);
	if (err)
		return err;
	return t.first_code ? kv_fail(t.first_code, "%s", t.first) : KVMOD_OK;
}

static int read_config(struct kvmod_ctx *ctx, const char *path, const char *const *overrides,
		       size_t n_overrides, struct kv_config **config)
{
	int err;

	pthread_mutex_lock(&ctx->lock);
	err = kv_config_load(ctx, path, overrides, n_overrides, config);
	pthread_mutex_unlock(&ctx->lock);
	return err;
}

int kvmod_check(struct kvmod_ctx *ctx, const char *path,
		const char *const *overrides, size_t n_overrides, uint32_t limit_ms,
		kvmod_finding_fn *fn, void *arg)
{
	struct trial t = { .ctx = ctx, .fn = fn, .arg = arg };
	struct kv_config *config;
	int err = read_config(ctx, path, overrides, n_overrides, &config);

	if (err) {
		report_config(&t, path, err, kvmod_error());
		return err;
	}
	err = kv_check_config(ctx, config, limit_ms, fn, arg);
	kv_config_free(config);
	return err;
}

static int reload(struct kvmod_ctx *ctx, const struct kv_config *old)
{
	struct kv_config *config;
	int err = read_config(ctx, old ? old->asked_path : NULL, old ? old->overrides : NULL,
			      old ? old->n_overrides : 0, &config);

	if (err)
		return err;
	err = kv_check_config(ctx, config, 0, NULL, NULL);
	if (err) {
		kv_config_free(config);
		return err;
	}
	pthread_mutex_lock(&ctx->lock);
	kv_config_install(ctx, config);
	pthread_mutex_unlock(&ctx->lock);
	return KVMOD_OK;
}

int kvmod_reload(struct kvmod_ctx *ctx)
{
	const struct kv_config *old;
	int err;

	pthread_mutex_lock(&ctx->lock);
	old = ctx->config;	/* lives as long as the context */
	pthread_mutex_unlock(&ctx->lock);
	err = reload(ctx, old);
	return err ? kv_fail_in(err, "the configuration stays as it was") : err;
}
