/* SPDX-License-Identifier: Apache-2.0 */
/* Output: error messages, JSON, colours, and errors of standard output. */
#include "core/cli/cli.h"
#include "core/base/names.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int cli_error(const char *format, ...)
{
	char text[1200], line[2 * sizeof(text)];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	kv_show(text, line, sizeof(line));
	fflush(stdout);
	fprintf(stderr, "%skvmod:%s %s\n", cli_style(stderr, CLI_RED),
		cli_style(stderr, CLI_PLAIN), line);
	return CLI_FAILED;
}

int cli_error_kvmod(void)
{
	const char *why = kvmod_error();

	/* A module may have failed without a message. */
	return cli_error("%s", *why ? why : "the call failed and gave no reason");
}

void cli_no_memory(void)
{
	cli_error("out of memory");
	exit(CLI_FAILED);
}

void *cli_alloc(size_t size)
{
	void *memory = malloc(size ? size : 1);

	if (!memory)
		cli_no_memory();
	return memory;
}

char *cli_strdup(const char *text)
{
	size_t n = strlen(text) + 1;

	return memcpy(cli_alloc(n), text, n);
}

/* The stream for a JSON answer after cli_json_alone(), else NULL. */
static FILE *json_file;

static FILE *answer_file(void)
{
	return json_file ? json_file : stdout;
}

bool cli_write_all(int fd, const char *bytes, size_t n)
{
	while (n > 0) {
		ssize_t done = write(fd, bytes, n);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return false;
		bytes += done;
		n -= (size_t)done;
	}
	return true;
}

int cli_flush(void)
{
	static bool said;

	fflush(stdout);
	if (!fflush(answer_file()) && !ferror(answer_file()))
		return CLI_OK;
	if (!said)
		fprintf(stderr, "kvmod: standard output: %s\n", strerror(errno));
	said = true;
	return CLI_FAILED;
}

bool cli_stdout_broken(void)
{
	return ferror(answer_file());
}

/* --- text from outside ---------------------------------------------------------------- */

/* The text as kv_show() writes it, on the heap. */
static char *shown(const char *text)
{
	size_t room = kv_show(text, NULL, 0) + 1;
	char *copy = malloc(room);

	if (!copy)
		cli_no_memory();
	kv_show(text, copy, room);
	return copy;
}

const char *cli_show(const char *text)
{
	static char *last[8];
	static unsigned next;
	char **place = &last[next++ % CLI_COUNT(last)];

	free(*place);
	return *place = shown(text);
}

/* --- JSON ---------------------------------------------------------------------------- */

int cli_json_alone(void)
{
	int fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);

	json_file = fd < 0 ? NULL : fdopen(fd, "w");
	if (!json_file || dup2(STDERR_FILENO, STDOUT_FILENO) < 0)
		return cli_error("standard output: %s", strerror(errno));
	return CLI_OK;
}

json_t *cli_json_text(const char *text)
{
	json_t *string = json_string(text);
	char *copy;

	if (string)
		return string;
	copy = shown(text);
	string = json_string(copy);
	free(copy);
	return string;
}

int cli_print_json(json_t *value)
{
	FILE *f = answer_file();
	int failed = !value || json_dumpf(value, f, JSON_REAL_PRECISION(9));

	json_decref(value);
	if (failed && !ferror(f))
		return cli_error("out of memory");
	putc('\n', f);
	return cli_flush();
}

const char *cli_style(FILE *f, enum cli_style style)
{
	static const char *const codes[] = {
		"\033[0m", "\033[1m", "\033[2m", "\033[31m", "\033[32m", "\033[33m",
	};
	const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");

	if ((no_color && *no_color) || !isatty(fileno(f)) || (term && !strcmp(term, "dumb")))
		return "";
	return codes[style];
}

const char *cli_bytes(uint64_t bytes, char *text)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	double value = (double)bytes;
	size_t u = 0;

	while (value >= 1024 && u + 1 < CLI_COUNT(units)) {
		value /= 1024;
		u++;
	}
	snprintf(text, CLI_BYTES_ROOM, "%.*f %s", u == 0 ? 0 : value < 100 ? 2 : 1, value, units[u]);
	return text;
}

double cli_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
