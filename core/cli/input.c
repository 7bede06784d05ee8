/* SPDX-License-Identifier: Apache-2.0 */
/* Where prompts come from. */
#include "core/cli/run.h"
#include "core/base/regular.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>


static int check_utf8(const struct cli_text *text, const char *what)
{
	size_t bad = text->n ? cli_utf8_bad(text->bytes, text->n) : 0;

	if (bad == text->n)
		return CLI_OK;
	return cli_error("%s: not text: byte 0x%02x at offset %zu, UTF-8 was expected",
			 what, (unsigned char)text->bytes[bad], bad);
}

int cli_check_prompt(const struct cli_text *text, const char *what)
{
	if (check_utf8(text, what))
		return CLI_FAILED;
	if (!text->n || strspn(text->bytes, " \t\r\n") == text->n)
		return cli_error("the prompt is empty");
	return CLI_OK;
}

static int read_all(struct cli_text *text, FILE *f, const char *name)
{
	char chunk[65536];
	size_t n;

	while ((n = fread(chunk, 1, sizeof(chunk), f)) > 0)
		if (cli_text_add(text, chunk, n))
			return cli_error("%s: out of memory", name);
	if (ferror(f))
		return cli_error("%s: %s", name, strerror(errno));
	return CLI_OK;
}

/*
 * A prompt may come through a pipe as well (`-f <(...)`, /dev/stdin), and be typed;
 * a FIFO into which nobody writes is empty, instead of waited for.
 */
static int open_prompt(const char *file, FILE **f, bool *is_pipe)
{
	int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;

	if (fd < 0)
		return cli_error("%s: %s", file, strerror(errno));
	if (fstat(fd, &st) || !(kv_is_regular(&st) || S_ISFIFO(st.st_mode) || isatty(fd))) {
		close(fd);
		return cli_error("%s: %s, expected a regular file, a pipe or a terminal", file,
				 S_ISDIR(st.st_mode) ? "a directory" : "a device");
	}
	*is_pipe = S_ISFIFO(st.st_mode);
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	*f = fdopen(fd, "r");
	if (*f)
		return CLI_OK;
	close(fd);
	return cli_error("%s: %s", file, strerror(errno));
}

static int read_file(struct cli_text *text, const char *file)
{
	size_t before = text->n;
	bool is_pipe = false;
	FILE *f = NULL;
	int err = open_prompt(file, &f, &is_pipe);

	if (err)
		return err;
	err = read_all(text, f, file);
	fclose(f);
	if (!err && is_pipe && text->n == before)
		return cli_error("%s: nothing came through the pipe", file);
	return err;
}

/* What comes from outside has a BOM and CR LF wherever its file had them: "$(cat FILE)" too. */
static void clean(struct cli_text *text, size_t from, bool raw)
{
	if (!text->n)
		return;
	if (raw)
		cli_text_drop_bom(text, from);
	else
		cli_text_tidy(text, from);
}

static int add_words(struct cli_text *text, bool raw, int argc, char **argv)
{
	for (int i = 0; i < argc; i++) {
		size_t from = text->n + (i > 0);

		if ((i && cli_text_add(text, " ", 1)) ||
		    cli_text_add(text, argv[i], strlen(argv[i])))
			return cli_error("out of memory");
		clean(text, from, raw);
	}
	return CLI_OK;
}

static void drop_last_newline(struct cli_text *text)
{
	if (text->n && text->bytes[text->n - 1] == '\n')
		text->bytes[--text->n] = '\0';
}

void cli_clean_line(struct cli_text *line, bool raw)
{
	clean(line, 0, raw);
	if (!raw)
		drop_last_newline(line);
}

int cli_read_system(struct cli_text *text, const char *system)
{
	if (cli_text_add(text, system, strlen(system)))
		return cli_error("out of memory");
	cli_text_tidy(text, 0);
	return check_utf8(text, "--system");
}

int cli_read_prompt(struct cli_text *text, const char *file, bool raw, int argc, char **argv)
{
	bool from_stdin = file ? !strcmp(file, "-") : !argc;
	const char *what = from_stdin ? "stdin" : file ? file : "the prompt";
	int err = CLI_OK;

	if (from_stdin && isatty(STDIN_FILENO))
		fputs("The prompt, then Ctrl-D:\n", stderr);
	if (from_stdin)
		err = read_all(text, stdin, what);
	else if (file)
		err = read_file(text, file);
	if (err)
		return err;
	cli_clean_line(text, raw);
	if (check_utf8(text, what))
		return CLI_FAILED;
	if (text->n && argc && !raw && cli_text_add(text, "\n\n", 2))
		return cli_error("out of memory");
	if (add_words(text, raw, argc, argv))
		return CLI_FAILED;
	return cli_check_prompt(text, "the prompt");
}
