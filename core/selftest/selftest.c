/* SPDX-License-Identifier: Apache-2.0 */
/* kvmod selftest: the conformance suite, run in child processes. */
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
#define MAX_CHILDREN	32		/* then the module is beyond testing */
#define LONGEST		1024		/* line about a check */
#define VECTOR		"vector "	/* names of checks that are golden vectors */

struct job {
	struct cli_common common;
	struct cli_strings vectors;
	const char *device;		/* where its policies are to run */
	double limit;			/* of one check, in seconds */
	bool verbose;
	char *path;			/* of the module */

	unsigned n, n_passed;
	unsigned n_vectors, n_vectors_passed;
	unsigned n_begun;		/* what a new child passes over */
	char name[LONGEST], failure[LONGEST];	/* of the check in progress; "": none */
	json_t *failures;
	bool done;			/* a child got to its end */
};

/* --- in the child: telling ---------------------------------------------------------- */

/* One line of UTF-8, whatever is in it. */
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

/* Who says nothing is quoted with the name of the code alone. */
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
		selftest_fail(t, "%s returned %s and did not say why", what, kvmod_strerror(err));
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
			continue;	/* said by the parent */
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
	/* What a module prints is not among the results. */
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

/* --- in the parent: listening --------------------------------------------------------- */

static bool is_vector(const struct job *job)
{
	return !strncmp(job->name, VECTOR, strlen(VECTOR));
}

/* The check in progress is over; failure NULL: it passed. */
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
 * Hears the child out. False: it said nothing for too long. A process that the
 * module has left behind may hold the pipe open, so its end is not waited for.
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

		if (ended)		/* nor will others fill the pipe while it is read */
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

/* In words, why a child ended before its end. */
static void describe_end(const struct job *job, bool hung, int status, char *text, size_t room)
{
	if (hung)
		snprintf(text, room, "still at it after %g seconds", job->limit);
	else if (WIFSIGNALED(status))
		snprintf(text, room, "crashed: signal %d (%s)", WTERMSIG(status),
			 strsignal(WTERMSIG(status)));
	else
		snprintf(text, room, "ended the program, with exit code %d", WEXITSTATUS(status));
}

/* Starts a child that runs the checks not begun yet; *fd is where it tells of them. */
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

/* The pipe is closed; a child that closed it and goes on hangs. False: it does. */
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

/* Runs a child to its end, good or bad. False: it could not even set up. */
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
		return false;		/* it said why */
	if (!*job->name) {
		/* No check is to blame that a new child could pass over. */
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
			return cli_error("gave up after %d crashes", MAX_CHILDREN);
		if (!run_child(job))
			return CLI_FAILED;
	}
	return report(job);
}

/* What is beside a FILE can be configured, too. */
static char *beside(const char *file)
{
	char *path = realpath(file, NULL), *text = NULL;

	if (path && asprintf(&text, "kvmod.module_path=%s:", dirname(path)) < 0)
		text = NULL;
	free(path);
	return text;
}

/* Parameters that some user set have no part in a test. */
static struct kvmod_ctx *isolated(struct cli_common *common, const char *operand, char **folder)
{
	struct cli_strings *given = &common->overrides;

	if (!common->config)
		common->config = "/dev/null";
	*folder = strpbrk(operand, "/.") && given->n < CLI_MAX_STRINGS ? beside(operand) : NULL;
	if (*folder) {
		memmove(given->item + 1, given->item, given->n++ * sizeof(*given->item));
		given->item[0] = *folder;
	}
	return cli_context(common);
}

/* What is passed over is said. */
static int look_at_policies(const struct job *job, struct kvmod_ctx *ctx)
{
	struct kvmod_modinfo *info;
	const char *name;

	if (kvmod_modinfo_read(ctx, job->path, &info))
		return cli_error_kvmod();
	for (unsigned i = 0; (name = kvmod_modinfo_get(info, "policy", i)); i++)
		if (!cli_runs_there(info, name, job->device))
			fprintf(stderr, "kvmod: note: policy %s runs on %s: it is not tried on %s "
				"(see --device)\n", name, cli_runs_on(info, name), job->device);
	kvmod_modinfo_free(info);
	return CLI_OK;
}

/* Of several, that which the name or the device stands for best. */
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
		  "golden vectors to hold its policies against; may be repeated" },
		{ "device", 0, CLI_STRING, &job.device, "NAME",
		  "where its policies are to run: cpu or cuda [cpu]" },
		{ "limit", 0, CLI_REAL, &job.limit, "SECONDS", "a check that takes longer hangs [60]" },
		{ "verbose", 'v', CLI_FLAG, &job.verbose, NULL, "show the checks that pass, too" },
		{ 0 },
	};
	int first = cli_parse(self, &job.common, options, argc, argv), err;
	struct kvmod_ctx *ctx;
	char *folder;

	if (argc - first != 1)
		cli_usage_error(self, "one MODULE or FILE was expected");
	if (job.limit < 0.001 || job.limit > 3600)
		cli_usage_error(self, "--limit=%g: 0.001 to 3600 seconds was expected", job.limit);
	if (strcmp(job.device, "cpu") && strcmp(job.device, "cuda"))
		cli_usage_error(self, "--device=%s: cpu or cuda was expected", job.device);
	ctx = isolated(&job.common, argv[first], &folder);
	err = ctx ? find(&job, ctx, argv[first]) : CLI_FAILED;
	kvmod_unref(ctx);
	if (!err)
		err = run_job(&job);
	json_decref(job.failures);
	free(job.path);
	free(folder);
	return err;
}

const struct cli_command cli_selftest = {
	.name = "selftest",
	.run = run,
	.summary = "hold a module against what kvmod asks of modules",
	.operands = "MODULE|FILE",
	.details =
"Checks the file's metadata, loads it, and tries the parameters and the decisions\n"
"of its policies on made-up caches, in a child process. Golden vectors say what a\n"
"policy must decide; their format is that of kvmod's own, in tests/golden. Reads no\n"
"configuration but what -c and -o give. The last line is how many checks passed.\n",
	.takes = CLI_TAKES_CONFIG | CLI_TAKES_JSON,
};
