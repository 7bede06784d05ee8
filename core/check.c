/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Trying a configuration: each thing that it names is loaded and used once in a
 * child process, which tells over a pipe what it is about to do and how that
 * went. A module that crashes or hangs takes the child with it, nothing else.
 */
#include "core/parts.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <search.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_LIMIT_MS 10000
#define MAX_LIMIT_MS	(24 * 3600 * 1000)
#define LOOK_MS		50		/* how often to look whether the child has ended */

/* What the child writes; short enough for the pipe to take it whole. */
enum message_kind { STEP, LOG, DONE };
struct message {
	uint32_t kind;
	int32_t code;			/* of DONE; the level of LOG */
	pid_t pid;			/* whose word it is: a module may fork */
	char text[1024];
};

struct trial {
	struct kvmod_ctx *ctx;
	struct kv_config *config;
	uint32_t limit_ms;
	kvmod_finding_fn *fn;
	void *arg;
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

/* A crash is to be a crash, whatever handlers the program or its tools have put in. */
static void plain_signals(void)
{
	static const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTERM, SIGINT };
	const struct rlimit none = { 0 };

	for (size_t i = 0; i < sizeof(signals) / sizeof(*signals); i++)
		signal(signals[i], SIG_DFL);
	signal(SIGPIPE, SIG_IGN);
	setrlimit(RLIMIT_CORE, &none);
	/* In a group of its own it does not hear of Ctrl-C. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static int load_and_fill(struct kvmod_ctx *ctx, enum kv_kind kind, const char *name)
{
	struct kv_provider *provider;
	void *instance;
	int err = kv_provider_get(ctx, kind, name, 0, &provider);

	if (err)
		return err;
	err = kv_instance_new(ctx, provider, &instance);
	if (err == KVMOD_OK)
		kv_instance_free(instance);
	kv_provider_put(ctx, provider);
	return err;
}

static int find_version(struct kvmod_ctx *ctx, const char *name, uint32_t on)
{
	struct kv_provider *provider;
	int err = kv_provider_get(ctx, KV_POLICY, name, on, &provider);

	if (err == KVMOD_OK)
		kv_provider_put(ctx, provider);
	return err;
}

static bool has_version(struct kvmod_ctx *ctx, const char *name, uint32_t on)
{
	return find_version(ctx, name, on) == KVMOD_OK;
}

static int open_and_close(struct kvmod_ctx *ctx, const char *name)
{
	struct kvmod_device *device;
	int err = kvmod_device_open(ctx, name, &device);

	if (err == KVMOD_OK)
		kvmod_device_close(device);
	return err;
}

/* The device that [kvmod] names; 0: `auto`, or none. */
static uint32_t device_chosen(const struct kv_config *config)
{
	const struct kv_entry *e = kv_config_find(config, "kvmod", "", "device");

	return e ? kv_device_bit(e->value) : 0;
}

static bool is_in_use(const struct trial *t, const char *policy)
{
	return kv_name_eq(policy, kv_config_alias(t->config, t->config->settings.policy));
}

/*
 * What is not needed here may be there for another machine: a section of a device
 * that is not asked for, or of a policy that is not in use. Then it is no mistake
 * that there is no GPU.
 */
static int excuse(struct kvmod_ctx *ctx, int err, const char *what, const char *name)
{
	if (err == KVMOD_ENOMEM)
		return err;
	if (err)
		kv_log(ctx, KVMOD_NOTE, "%s %s is not tried: %s", what, name, kvmod_error());
	return KVMOD_OK;
}

static int try_device(struct trial *t, const char *name)
{
	int err = open_and_close(t->ctx, name);

	if (kv_device_bit(name) & device_chosen(t->config))
		return err;
	return excuse(t->ctx, err, "device", name);
}

static int probe(struct trial *t, const char *name, const char *device, int *fd)
{
	return kv_probe_policy(t->ctx, name, device, tell_step, fd);
}

/* In use it must run as configured; else where it can, if that is here. */
static int try_policy(struct trial *t, const char *name, int *fd)
{
	int err = KVMOD_OK;

	if (is_in_use(t, name))
		return probe(t, name, NULL, fd);
	if (!has_version(t->ctx, name, KVMOD_ON_CPU))
		err = open_and_close(t->ctx, kv_device_name(KVMOD_ON_CUDA));
	return err ? excuse(t->ctx, err, "policy", name) : probe(t, name, "auto", fd);
}

/* Of one that would run on a device that cannot be used here. */
static int try_policy_without(struct trial *t, const char *name, int *fd)
{
	int err = is_in_use(t, name) ? find_version(t->ctx, name, device_chosen(t->config)) : KVMOD_OK;

	if (err || !has_version(t->ctx, name, KVMOD_ON_CPU))
		return err;
	return probe(t, name, "cpu", fd);
}

/*
 * The driver of an accelerator that the parent uses does not work in its child.
 * Then only what can do without is tried; that the device works is known.
 */
static int try_further(struct trial *t, enum kv_kind kind, const char *name, int *fd)
{
	bool busy = kv_accelerator_is_open(t->ctx);

	if (kind == KV_DEVICE && !busy)
		return try_device(t, name);
	if (kind == KV_POLICY)
		return busy ? try_policy_without(t, name, fd) : try_policy(t, name, fd);
	return KVMOD_OK;
}

/* The context is a copy of the parent's, and only this thread is left to use it. */
static void child(struct trial *t, enum kv_kind kind, const char *name, int fd)
{
	struct kvmod_ctx *ctx = t->ctx;
	int err;

	plain_signals();
	err = kv_context_after_fork(ctx);
	kvmod_set_log(ctx, tell_log, &fd);
	if (err == KVMOD_OK) {
		kv_config_install(ctx, t->config);
		tell(fd, STEP, 0, "loading it");
		err = load_and_fill(ctx, kind, name);
	}
	if (err == KVMOD_OK)
		err = try_further(t, kind, name, &fd);
	tell(fd, DONE, err, err ? kvmod_error() : "");
}

/* --- in the parent ----------------------------------------------------------------------- */

struct watch {
	char step[64];
	int code;
	char message[1024];
	bool done;
};

static void hear(struct trial *t, struct watch *w, const struct message *m)
{
	switch (m->kind) {
	case STEP:
		snprintf(w->step, sizeof(w->step), "%.63s", m->text);
		break;
	case LOG:
		kv_log(t->ctx, (uint32_t)m->code, "%s", m->text);
		break;
	case DONE:
		w->done = true;
		w->code = m->code;
		snprintf(w->message, sizeof(w->message), "%s", m->text);
		break;
	}
}

static bool has_ended(pid_t pid)
{
	siginfo_t info = { .si_pid = 0 };

	return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
	       info.si_pid == pid;
}

/*
 * False: nothing more will come, or the time is up. A process that the module has
 * left behind may hold the pipe open, so its end is not waited for: what the child
 * wrote before it ended is in the pipe by then.
 */
static bool hear_next(struct trial *t, struct watch *w, pid_t pid, int fd, double deadline)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	bool ended = has_ended(pid);
	double left = deadline - now();
	int wait_ms = ended || left <= 0 ? 0 : left < LOOK_MS / 1e3 ? (int)(left * 1e3) + 1 : LOOK_MS;
	int ready = poll(&p, 1, wait_ms);
	struct message m;
	ssize_t n;

	if (ready < 0 && errno != EINTR)
		return false;
	if (ready <= 0 && !ended && left <= 0)
		w->code = KVMOD_ETIMEOUT;
	if (ready <= 0)
		return !ended && left > 0;
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

/* The pipe is closed; a child that closed it and goes on is none that has ended. */
static void await_end(struct watch *w, pid_t pid, double deadline)
{
	const struct timespec pause = { .tv_nsec = 2000000 };

	while (!has_ended(pid)) {
		if (now() >= deadline) {
			if (!w->done)
				w->code = KVMOD_ETIMEOUT;
			kill(pid, SIGKILL);
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
	kill(-pid, SIGKILL);		/* what it has left behind */
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

/* The finding says whose it is; the message need not begin with it again. */
static const char *without_name(const char *message, enum kv_kind kind, const char *name)
{
	char prefix[128];
	size_t n = (size_t)snprintf(prefix, sizeof(prefix), "%s %s: ", kv_kind_name(kind), name);

	return strncmp(message, prefix, n) == 0 ? message + n : message;
}

static void report_watch(struct trial *t, enum kv_kind kind, const char *name,
			 const struct watch *w, double seconds)
{
	struct kv_pile pile = { 0 };
	const char *module;

	pthread_mutex_lock(&t->ctx->lock);
	module = kv_provider_file(t->ctx, t->config, &pile, kind, name);
	pthread_mutex_unlock(&t->ctx->lock);
	report(t, &(struct kvmod_finding){
		.size = sizeof(struct kvmod_finding), .code = w->code, .kind = kv_kind_name(kind),
		.name = name, .message = without_name(w->message, kind, name),
		.module = module ? module : "", .seconds = seconds,
	});
	kv_pile_free(&pile);
}

/*
 * No other thread is amid a change while the child is made. It leads a process
 * group, so that whatever it starts can be ended with it.
 */
static pid_t start_child(struct trial *t, enum kv_kind kind, const char *name, const int ends[2])
{
	pid_t pid;

	pthread_mutex_lock(&t->ctx->lock);
	pid = fork();
	if (pid > 0)
		setpgid(pid, pid);	/* whichever of the two is first */
	if (pid == 0) {
		setpgid(0, 0);
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
		snprintf(w.message, sizeof(w.message), "no child process: %s", strerror(errno));
	}
	report_watch(t, kind, name, &w, now() - begin);
}

/* --- what is to be tried -------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
	return kv_name_cmp(a, b);
}

static void keep_it(void *name)
{
	(void)name;			/* the configuration's */
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

/* The one of [kvmod], if it is said there. */
static const char *chosen(const struct kv_config *config, const char *key, const char *value)
{
	return kv_config_find(config, "kvmod", "", key) ? kv_config_alias(config, value) : NULL;
}

int kv_check_config(struct kvmod_ctx *ctx, struct kv_config *config, uint32_t limit_ms,
		    kvmod_finding_fn *fn, void *arg)
{
	struct trial t = {
		.ctx = ctx, .config = config, .fn = fn, .arg = arg,
		.limit_ms = limit_ms == 0 ? DEFAULT_LIMIT_MS :
			    limit_ms < MAX_LIMIT_MS ? limit_ms : MAX_LIMIT_MS,
	};
	int err;

	report_config(&t, config->path, KVMOD_OK, "");
	err = try_named(&t, KV_POLICY, kv_config_alias(config, config->settings.policy));
	if (err == KVMOD_OK)
		err = try_named(&t, KV_ENGINE, chosen(config, "engine", config->settings.engine));
	/* The host's own is always there. */
	if (err == KVMOD_OK)
		err = try_named(&t, KV_DEVICE, kv_device_name(device_chosen(config) & ~KVMOD_ON_CPU));
	if (err)
		return err;
	return t.first_code ? kv_fail(t.first_code, "%s", t.first) : KVMOD_OK;
}

static int read_config(struct kvmod_ctx *ctx, const char *path, const char *const *overrides,
		       size_t n_overrides, struct kv_config **config)
{
	int err;

	pthread_mutex_lock(&ctx->lock);
	err = kv_config_read(ctx, path, overrides, n_overrides, config);
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
