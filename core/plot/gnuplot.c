/* SPDX-License-Identifier: Apache-2.0 */
/* Runs gnuplot, which draws the charts: a script goes in, a picture comes out. */
#include "core/plot/plot.h"

#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* In memory, so that neither of the two programs waits for the other to read. */
struct streams {
	int script, picture, words;
};

static int failed(const char *what)
{
	return cli_error("%s: %s", what, strerror(errno));
}

static void close_streams(struct streams *s)
{
	if (s->script >= 0)
		close(s->script);
	if (s->picture >= 0)
		close(s->picture);
	if (s->words >= 0)
		close(s->words);
}

static int open_streams(struct streams *s, const struct cli_text *script)
{
	s->script = memfd_create("script", MFD_CLOEXEC);
	s->picture = memfd_create("picture", MFD_CLOEXEC);
	s->words = memfd_create("words", MFD_CLOEXEC);
	if (s->script < 0 || s->picture < 0 || s->words < 0)
		return failed("a file in memory");
	if (!cli_write_all(s->script, script->bytes, script->n) || lseek(s->script, 0, SEEK_SET))
		return failed("gnuplot's script");
	return CLI_OK;
}

static int read_back(int fd, struct cli_text *text)
{
	char chunk[65536];
	ssize_t n;

	if (lseek(fd, 0, SEEK_SET))
		return failed("gnuplot's output");
	while ((n = read(fd, chunk, sizeof(chunk))) > 0)
		plot_add_bytes(text, chunk, (size_t)n);
	return n < 0 ? failed("gnuplot's output") : CLI_OK;
}

/* --default-settings: neither the user's nor the system's own. */
static int start(const struct streams *s, pid_t *pid)
{
	static char name[] = "gnuplot", option[] = "--default-settings", input[] = "-";
	char *const argv[] = { name, option, input, NULL };
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t usual;
	int err;

	sigemptyset(&usual);
	sigaddset(&usual, SIGPIPE);
	if (posix_spawn_file_actions_init(&actions) || posix_spawnattr_init(&attributes))
		cli_no_memory();
	posix_spawnattr_setsigdefault(&attributes, &usual);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
	if (posix_spawn_file_actions_adddup2(&actions, s->script, STDIN_FILENO) ||
	    posix_spawn_file_actions_adddup2(&actions, s->picture, STDOUT_FILENO) ||
	    posix_spawn_file_actions_adddup2(&actions, s->words, STDERR_FILENO))
		cli_no_memory();
	err = posix_spawnp(pid, name, &actions, &attributes, argv, environ);
	posix_spawnattr_destroy(&attributes);
	posix_spawn_file_actions_destroy(&actions);
	if (err == ENOENT)
		return cli_error("gnuplot draws this picture, and was not found: install the package "
				 "gnuplot-nox");
	return err ? cli_error("gnuplot: %s", strerror(err)) : CLI_OK;
}

/* The first line with a letter in it: others repeat the script's text and point into it. */
static int complain(const struct cli_text *words, int status)
{
	const char *line = words->n ? words->bytes : "";
	const char *why = strstr(line, "line ");
	int n;

	why = why ? why : line + strspn(line, " \t\n");
	n = (int)strcspn(why, "\n");
	if (n)
		return cli_error("gnuplot failed: %.*s", n, why);
	if (WIFSIGNALED(status))
		return cli_error("gnuplot failed: %s", strsignal(WTERMSIG(status)));
	return cli_error("gnuplot failed: exit status %d, and no whole picture", WEXITSTATUS(status));
}

static bool is_whole(const struct cli_text *svg)
{
	static const char end[] = "</svg>";
	size_t n = svg->n;

	while (n && strchr(" \n", svg->bytes[n - 1]))
		n--;
	return n >= strlen(end) && !memcmp(svg->bytes + n - strlen(end), end, strlen(end));
}

static int run(const struct streams *s, struct cli_text *svg)
{
	struct cli_text words = { 0 };
	int status = 0, err;
	pid_t pid;

	err = start(s, &pid);
	if (err)
		return err;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return failed("gnuplot");
	err = read_back(s->picture, svg);
	if (!err)
		err = read_back(s->words, &words);
	if (!err && (status || !is_whole(svg)))
		err = complain(&words, status);
	cli_text_free(&words);
	return err;
}

int plot_draw(const struct plot_options *o, const struct cli_text *script)
{
	struct streams s = { -1, -1, -1 };
	struct cli_text svg = { 0 };
	int err = open_streams(&s, script);

	if (!err)
		err = run(&s, &svg);
	close_streams(&s);
	if (!err)
		err = plot_write(o, &svg);
	cli_text_free(&svg);
	return err;
}
