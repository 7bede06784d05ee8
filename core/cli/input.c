/* SPDX-License-Identifier: Apache-2.0 */
/* Reads prompts: from operands, files, pipes and standard input. */
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
	return cli_error("%s: byte 0x%02x at offset %zu: expected UTF-8 text",
			 what, (unsigned char)text->bytes[bad], bad);
}

bool cli_is_blank(const struct cli_text *text)
{
	return !text->n || strspn(text->bytes, " \t\r\n") == text->n;
}

int cli_check_prompt(const struct cli_text *text, const char *what)
{
	if (check_utf8(text, what))
		return CLI_FAILED;
	return cli_is_blank(text) ? cli_error("%s is empty", what) : CLI_OK;
}

bool cli_is_stdin(const char *file)
{
	return !strcmp(file, "-");
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
 * A prompt may also come through a pipe (`-f <(...)`, /dev/stdin) or a terminal. A FIFO
 * without a writer counts as empty; waiting for one could take for ever.
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

int cli_read_file(struct cli_text *text, const char *file)
{
	size_t before = text->n;
	bool is_pipe = false;
	FILE *f = NULL;
	int err;

	if (cli_is_stdin(file))
		return read_all(text, stdin, "stdin");
	err = open_prompt(file, &f, &is_pipe);
	if (err)
		return err;
	err = read_all(text, f, file);
	fclose(f);
	if (!err && is_pipe && text->n == before)
		return cli_error("%s: no data came through the pipe", file);
	return err;
}

/* Operands are cleaned too: "$(cat FILE)" has a BOM and CR LF if the file has them. */
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

/* The file, or stdin, cleaned; what: "prompt", "context". */
static int read_text(struct cli_text *text, const char *file, bool raw, const char *what)
{
	bool from_stdin = cli_is_stdin(file);
	const char *name = from_stdin ? "stdin" : file;
	int err;

	if (from_stdin && isatty(STDIN_FILENO))
		fprintf(stderr, "Type the %s, then Ctrl-D:\n", what);
	err = cli_read_file(text, file);
	if (err)
		return err;
	cli_clean_line(text, raw);
	return check_utf8(text, name);
}

int cli_read_prompt(struct cli_text *text, const char *file, bool raw, int argc, char **argv)
{
	if (!file && !argc)
		file = "-";
	if (file && read_text(text, file, raw, "prompt"))
		return CLI_FAILED;
	if (text->n && argc && !raw && cli_text_add(text, "\n\n", 2))
		return cli_error("out of memory");
	if (add_words(text, raw, argc, argv))
		return CLI_FAILED;
	return cli_check_prompt(text, "the prompt");
}

int cli_read_context(struct cli_text *text, const char *file, bool raw)
{
	if (read_text(text, file, raw, "context"))
		return CLI_FAILED;
	if (cli_is_blank(text))
		return cli_error("%s: the context is empty", cli_is_stdin(file) ? "stdin" : file);
	if (!raw && cli_text_add(text, "\n\n", 2))
		return cli_error("out of memory");
	return CLI_OK;
}

int cli_read_question(struct cli_text *text, const char *operand, bool raw, int number)
{
	char what[32];

	snprintf(what, sizeof(what), "question %d", number);
	if (cli_text_add(text, operand, strlen(operand)))
		return cli_error("out of memory");
	clean(text, 0, raw);
	return cli_check_prompt(text, what);
}
