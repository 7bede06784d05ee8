/* SPDX-License-Identifier: Apache-2.0 */
/* Messages, JSON, colours, and a standard output that may fail. */
#include "core/cli/cli.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int cli_error(const char *format, ...)
{
	char text[1200];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	fflush(stdout);
	fprintf(stderr, "%skvmod:%s %s\n", cli_style(stderr, CLI_RED),
		cli_style(stderr, CLI_PLAIN), text);
	return CLI_FAILED;
}

int cli_error_kvmod(void)
{
	const char *why = kvmod_error();

	/* A module need not have said it. */
	return cli_error("%s", *why ? why : "the call failed, and gave no reason");
}

int cli_flush(void)
{
	static bool said;

	if (!fflush(stdout) && !ferror(stdout))
		return CLI_OK;
	if (!said)
		fprintf(stderr, "kvmod: standard output: %s\n", strerror(errno));
	said = true;
	return CLI_FAILED;
}

bool cli_stdout_broken(void)
{
	return ferror(stdout);
}

int cli_print_json(json_t *value)
{
	int failed = !value || json_dumpf(value, stdout, JSON_REAL_PRECISION(9));

	json_decref(value);
	if (failed && !ferror(stdout))
		return cli_error("out of memory");
	putchar('\n');
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
