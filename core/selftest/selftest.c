/* SPDX-License-Identifier: Apache-2.0 */
/* kvmod selftest: runs the conformance suite in child processes and reports the results. */
#include "core/selftest/selftest.h"
#include "core/base/child.h"
#include "core/cli/text.h"
#include "core/base/names.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_LIMIT	60.0
#define MAX_CHILDREN	32		/* crashes after which the test gives up */
#define LONGEST		1024		/* bytes of a line about a check */
#define VECTOR		"vector "	/* names of checks that are golden vectors */

struct job {
	struct cli_common common;
	struct cli_strings vectors;
	const char *device;		/* to run its policies on */
	char *overrides[2];		/* of the configuration; to be freed */
	double limit;			/* of one check, in seconds */
	bool verbose;
	char *path;			/* of the module */

	unsigned n, n_passed;
	unsigned n_vectors, n_vectors_passed;
	unsigned n_begun;		/* checks that a new child passes over */
	char name[LONGEST], failure[LONGEST];	/* of the check in progress; "": none */
	json_t *failures;
	bool done;			/* a child has run the last check */
};

/* --- in the child: reports to the parent --------------------------------------------- */

/* Reports one line, always UTF-8 without control characters. */
static void tell(struct selftest *t, char mark, const char *format, va_list args)
{
	char text[LONGEST], line[LONGEST];

	vsnprintf(text, sizeof(text), format, args);
	kv_show(text, line, sizeof(line));
	fprintf(t->report, "%c%s\n", mark, line);
	fflush(t->report);
}

bool selftest_begin(struct selftest *t, const char *format, ...)
{
	va_list args;

	if (t->next++ < t->skip)
		return false;
	t->failed = false;
	t->logged[0] = '\0';
	va_start(args, format);
	tell(t, '>', format, args);
	va_end(args);
	return true;
}

void selftest_fail(struct selftest *t, const char *format, ...)
{
	va_list args;

	if (t->failed)
		return;
	t->failed = true;
	va_start(args, format);
	tell(t, '!', format, args);
	va_end(args);
}

void selftest_end(struct selftest *t)
{
	fprintf(t->report, "=\n");
	fflush(t->report);
}

int selftest_configure(struct selftest *t, const char *override)
{
	struct cli_strings all = t->common->overrides;

	if (override && all.n < CLI_MAX_STRINGS)
		all.item[all.n++] = override;
	return kvmod_configure(t->ctx, t->common->config, all.item, all.n);
}

/* Did the call leave a message? Without one, kvmod_error() ends with the code's name. */
static bool said_why(int err)
{
	const char *words = kvmod_error(), *name = kvmod_strerror(err);
	size_t n = strlen(words), n_name = strlen(name);

	return n > 0 && (n < n_name || strcmp(words + n - n_name, name) != 0);
}

void selftest_clean_error(struct selftest *t, const char *what, int err)
{
	/* The core turns a code that nobody knows into one, and says so. */
	if (strstr(kvmod_error(), "expected 0 or a KVMOD_E code"))
		selftest_fail(t, "%s", kvmod_error());
	else if (!said_why(err))
		selftest_fail(t, "%s returned %s without a message", what, kvmod_strerror(err));
}

static void listen(void *arg, uint32_t level, const char *line)
{
	struct selftest *t = arg;

	if (level <= KVMOD_WARN)
		snprintf(t->logged, sizeof(t->logged), "%s", line);
}

static void run_checks(struct selftest *t, const struct job *job)
{
	const char *name;

	if (!selftest_module(t))
		return;
	for (unsigned i = 0; (name = kvmod_modinfo_get(t->info, "policy", i)); i++) {
		if (!cli_runs_there(t->info, name, t->device))
			continue;	/* the parent has printed a note */
		selftest_policy(t, name);
		selftest_plans(t, name);
	}
	for (size_t i = 0; i < job->vectors.n; i++)
		selftest_vectors(t, job->vectors.item[i]);
}

/* Returns what the child exits with. */
static int be_child(const struct job *job, unsigned skip, int fd)
{
	struct selftest t = {
		.common = &job->common, .device = job->device, .skip = skip,
	};
	struct kvmod_modinfo *info;

	kv_child_begin();
	/* Keep what a module prints apart from the results. */
	dup2(STDERR_FILENO, STDOUT_FILENO);
	t.report = fdopen(fd, "w");
	t.ctx = t.report ? cli_context(&job->common) : NULL;
	if (!t.ctx)
		return CLI_FAILED;
	if (kvmod_modinfo_read(t.ctx, job->path, &info))
		return cli_error_kvmod();
	t.info = info;
	kvmod_set_log(t.ctx, listen, &t);
	run_checks(&t, job);
	kvmod_unref(t.ctx);
	kvmod_modinfo_free(info);
	fprintf(t.report, ".\n");
	return fclose(t.report) ? CLI_FAILED : CLI_OK;
}

/* --- in the parent: results from the child ---------------------------------------------- */

static bool is_vector(const struct job *job)
{
	return !strncmp(job->name, VECTOR, strlen(VECTOR));
}

/* Counts and prints the check in progress; failure NULL: it passed. */
static void conclude(struct job *job, const char *failure)
{
	job->n++;
	job->n_vectors += is_vector(job);
	if (failure) {
		json_array_append_new(job->failures, json_pack("{s:o, s:o}", "check",
							       cli_json_text(job->name), "reason",
							       cli_json_text(failure)));
		if (!job->common.json)
			printf("%snot ok%s %u - %s: %s\n", cli_style(stdout, CLI_RED),
			       cli_style(stdout, CLI_PLAIN), job->n, job->name, failure);
	} else {
		job->n_passed++;
		job->n_vectors_passed += is_vector(job);
		if (job->verbose && !job->common.json)
			printf("ok %u - %s\n", job->n, job->name);
	}
	fflush(stdout);
	job->name[0] = job->failure[0] = '\0';
}

static void hear(struct job *job, const char *line)
{
	if (*line == '>') {
		job->n_begun++;
		snprintf(job->name, sizeof(job->name), "%s", line + 1);
	} else if (*line == '!') {
		snprintf(job->failure, sizeof(job->failure), "%s", line + 1);
	} else if (*line == '=' && *job->name) {
		conclude(job, *job->failure ? job->failure : NULL);
	} else if (*line == '.') {
		job->done = true;
	}
}

/*
 * Reads the child's reports until the child ends. False: it was silent for too long. A
 * process that the module left behind may hold the pipe open, so this does not wait
 * for the end of the pipe.
 */
static bool listen_to(struct job *job, pid_t child, int fd)
{
	char text[2 * LONGEST];
	size_t have = 0;
	double quiet = 0;

	for (;;) {
		struct pollfd ready = { .fd = fd, .events = POLLIN };
		char *begin = text, *newline;
		bool ended = kv_child_has_ended(child);
		ssize_t got;

		if (ended)		/* and what it left behind could go on writing */
			kv_child_kill(child);
		if (poll(&ready, 1, ended ? 0 : KV_CHILD_LOOK_MS) == 0) {
			quiet += KV_CHILD_LOOK_MS / 1e3;
			if (ended || quiet > job->limit)
				return ended;
			continue;
		}
		quiet = 0;
		got = read(fd, text + have, sizeof(text) - have);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return true;
		have += (size_t)got;
		for (; (newline = memchr(begin, '\n', have)); begin = newline + 1) {
			*newline = '\0';
			have -= (size_t)(newline + 1 - begin);
			hear(job, begin);
		}
		memmove(text, begin, have);
	}
}

/* Writes why a child ended before its last check. */
static void describe_end(const struct job *job, bool hung, int status, char *text, size_t room)
{
	if (hung)
		snprintf(text, room, "still running after %g seconds", job->limit);
	else if (WIFSIGNALED(status))
		snprintf(text, room, "crashed: signal %d (%s)", WTERMSIG(status),
			 strsignal(WTERMSIG(status)));
	else
		snprintf(text, room, "the process exited with code %d", WEXITSTATUS(status));
}

/* Starts a child that runs the remaining checks; *fd is the pipe with its reports. */
static pid_t start_child(const struct job *job, int *fd)
{
	int fds[2];
	pid_t child;

	if (pipe2(fds, O_CLOEXEC)) {
		cli_error("pipe: %s", strerror(errno));
		return -1;
	}
	fflush(NULL);
	child = fork();
	if (child > 0)
		kv_child_started(child);
	if (child == 0) {
		close(fds[0]);
		_exit(be_child(job, job->n_begun, fds[1]));
	}
	if (child < 0) {
		cli_error("fork: %s", strerror(errno));
		close(fds[0]);
	}
	close(fds[1]);
	*fd = fds[0];
	return child;
}

/* The pipe is closed: waits for the child to end. False: it hangs. */
static bool ends_in_time(const struct job *job, pid_t child)
{
	const struct timespec pause = { .tv_nsec = 2000000 };

	for (double waited = 0; waited < job->limit; waited += 2e-3) {
		if (kv_child_has_ended(child))
			return true;
		nanosleep(&pause, NULL);
	}
	return false;
}

/* Runs a child until it ends, crashes or hangs. False: its set-up failed. */
static bool run_child(struct job *job)
{
	char failure[128];
	int fd, status = 0;
	pid_t child = start_child(job, &fd);
	bool hung;

	if (child < 0)
		return false;
	hung = !listen_to(job, child, fd) || !ends_in_time(job, child);
	kv_child_kill(child);
	close(fd);
	waitpid(child, &status, 0);
	if (job->done)
		return true;
	if (!*job->name && WIFEXITED(status) && WEXITSTATUS(status) == CLI_FAILED)
		return false;		/* the child has printed why */
	if (!*job->name) {
		/* No check was in progress, so a new child could pass over none. */
		job->done = true;
		strcpy(job->name, "between two checks, or at the end");
	}
	describe_end(job, hung, status, failure, sizeof(failure));
	conclude(job, failure);
	return true;
}

/* --- the command ------------------------------------------------------------------------ */

static int report(struct job *job)
{
	bool passed = job->n > 0 && job->n_passed == job->n;
	int err;

	if (job->common.json) {
		err = cli_print_json(json_pack(
			"{s:o, s:i, s:i, s:i, s:i, s:O}", "file", cli_json_text(job->path),
			"checks", (int)job->n, "passed", (int)job->n_passed,
			"vectors", (int)job->n_vectors, "vectors_passed", (int)job->n_vectors_passed,
			"failures", job->failures));
		return passed ? err : CLI_FAILED;
	}
	if (job->vectors.n)
		printf("golden vectors: %u of %u\n", job->n_vectors_passed, job->n_vectors);
	printf("%u of %u\n", job->n_passed, job->n);
	return passed ? CLI_OK : CLI_FAILED;
}

static int run_job(struct job *job)
{
	int n_children = 0;

	job->failures = json_array();
	while (!job->done) {
		if (++n_children > MAX_CHILDREN)
			return cli_error("giving up after %d crashes", MAX_CHILDREN);
		if (!run_child(job))
			return CLI_FAILED;
	}
	return report(job);
}

/* The override that adds the folder of FILE to module_path, or NULL. */
static char *beside(const char *file)
{
	char *path = realpath(file, NULL), *text = NULL;

	if (path && asprintf(&text, "kvmod.module_path=%s:", dirname(path)) < 0)
		text = NULL;
	free(path);
	return text;
}

/* The context finds out whether that device is installed. */
static char *chosen(const char *device)
{
	char *text;

	if (strcmp(device, CLI_BUILT_IN_DEVICE) == 0 || asprintf(&text, "kvmod.device=%s", device) < 0)
		return NULL;
	return text;
}

static void override(struct cli_common *common, char *text)
{
	struct cli_strings *given = &common->overrides;

	if (!text || given->n == CLI_MAX_STRINGS)
		return;
	memmove(given->item + 1, given->item, given->n++ * sizeof(*given->item));
	given->item[0] = text;
}

/* Parameters that some user set have no part in a test. */
static struct kvmod_ctx *isolated(struct job *job, const char *operand)
{
	if (!job->common.config)
		job->common.config = "/dev/null";
	job->overrides[0] = strpbrk(operand, "/.") ? beside(operand) : NULL;
	job->overrides[1] = chosen(job->device);
	for (size_t i = 0; i < CLI_COUNT(job->overrides); i++)
		override(&job->common, job->overrides[i]);
	return cli_context(&job->common);
}

/* Prints a note for each policy that does not run on the device. */
static int look_at_policies(const struct job *job, struct kvmod_ctx *ctx)
{
	struct kvmod_modinfo *info;
	const char *name;

	if (kvmod_modinfo_read(ctx, job->path, &info))
		return cli_error_kvmod();
	for (unsigned i = 0; (name = kvmod_modinfo_get(info, "policy", i)); i++)
		if (!cli_runs_there(info, name, job->device))
			fprintf(stderr, "kvmod: note: policy %s runs on %s and is not tested on %s "
				"(see --device)\n", name, cli_runs_on(info, name), job->device);
	kvmod_modinfo_free(info);
	return CLI_OK;
}

/* Finds the module: of several versions of a policy, the one for the device. */
static int find(struct job *job, struct kvmod_ctx *ctx, const char *operand)
{
	int err = cli_find_module(ctx, operand, job->device, &job->path);

	return err ? err : look_at_policies(job, ctx);
}

static int run(const struct cli_command *self, int argc, char **argv)
{
	struct job job = { .limit = DEFAULT_LIMIT, .device = "cpu" };
	const struct cli_option options[] = {
		{ "vectors", 0, CLI_STRINGS, &job.vectors, "FILE",
		  "compare its policies with golden vectors; may be repeated" },
		{ "device", 0, CLI_STRING, &job.device, "NAME",
		  "the device to run its policies on [cpu]" },
		{ "limit", 0, CLI_REAL, &job.limit, "SECONDS", "the time that a check may take [60]" },
		{ "verbose", 'v', CLI_FLAG, &job.verbose, NULL, "show the checks that pass, too" },
		{ 0 },
	};
	int first = cli_parse(self, &job.common, options, argc, argv), err;
	struct kvmod_ctx *ctx;

	if (argc - first != 1)
		cli_usage_error(self, "expected one MODULE or FILE");
	if (job.limit < 0.001 || job.limit > 3600)
		cli_usage_error(self, "--limit=%g: expected 0.001 to 3600 seconds", job.limit);
	if (!kv_name_valid(job.device))
		cli_usage_error(self, "--device=%s: expected the name of a device", job.device);
	ctx = isolated(&job, argv[first]);
	err = ctx ? find(&job, ctx, argv[first]) : CLI_FAILED;
	kvmod_unref(ctx);
	if (!err)
		err = run_job(&job);
	json_decref(job.failures);
	free(job.path);
	for (size_t i = 0; i < CLI_COUNT(job.overrides); i++)
		free(job.overrides[i]);
	return err;
}

const struct cli_command cli_selftest = {
	.name = "selftest",
	.run = run,
	.summary = "test a module against the rules for kvmod modules",
	.operands = "MODULE|FILE",
	.details =
"A child process checks the file's metadata, loads the module, and tries the parameters\n"
"and decisions of its policies on made-up caches. Golden vectors are inputs with the\n"
"decision that is expected for them; kvmod-module(7) describes the format. The only\n"
"configuration is that of -c and -o. The last line says how many checks passed.\n",
	.takes = CLI_TAKES_CONFIG | CLI_TAKES_JSON,
};
