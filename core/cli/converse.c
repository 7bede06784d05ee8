/* SPDX-License-Identifier: Apache-2.0 */
/* A conversation: lines of standard input. */
#include "core/cli/run.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* Lines that begin with '/' are commands, not prompts. */
static bool is_command(const char *line, bool *quit)
{
	size_t n = strlen(line);

	if (*line != '/')
		return false;
	/* With --raw, and after CR LF, the line still has its end. */
	while (strchr(" \t\r\n", line[n - 1]))
		n--;
	*quit = n == 5 && !memcmp(line, "/quit", n);
	if (n == 5 && !memcmp(line, "/help", n))
		fputs("/quit or Ctrl-D ends the conversation; Ctrl-C ends an answer\n", stderr);
	else if (!*quit)
		cli_error("unknown command `%.*s`: expected /help or /quit", (int)n, line);
	return true;
}

bool cli_read_line(const struct cli_run *r, struct cli_text *line)
{
	ssize_t n;

	if (isatty(STDIN_FILENO) && isatty(STDERR_FILENO))
		fputs("> ", stderr);
	errno = 0;
	n = getline(&line->bytes, &line->room, stdin);
	if (n < 0 && errno == ENOMEM)
		cli_no_memory();
	if (n < 0)
		return false;
	line->n = (size_t)n;
	cli_clean_line(line, r->raw);
	return true;
}

int cli_converse(struct cli_run *r)
{
	struct cli_text line = { 0 };
	bool quit = false;
	int err = CLI_OK;

	while (!quit && cli_read_line(r, &line)) {
		if (cli_is_blank(&line) || is_command(line.bytes, &quit))
			continue;
		cli_catch_interrupt(&r->model);
		if (cli_check_prompt(&line, "stdin") || cli_take_turn(r, &line))
			err = CLI_FAILED;
		if (cli_stdout_broken())
			break;
	}
	cli_text_free(&line);
	return err;
}
