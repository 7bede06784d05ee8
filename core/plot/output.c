/* SPDX-License-Identifier: Apache-2.0 */
/* Writes a picture: under another name beside its own first, so that no half file is left. */
#include "core/plot/plot.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int failed(const char *path)
{
	return cli_error("%s: %s", path, strerror(errno));
}

/* A device or a pipe has no other name to write to. */
static int write_in_place(const char *path, const struct cli_text *svg)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY), err = CLI_OK;

	if (fd < 0)
		return failed(path);
	if (!cli_write_all(fd, svg->bytes, svg->n))
		err = failed(path);
	if (close(fd) && !err)
		err = failed(path);
	return err;
}

static mode_t usual_mode(void)
{
	mode_t mask = umask(0);

	umask(mask);
	return 0666 & ~mask;
}

/* path: what the user calls it; to: the same without symbolic links. */
static int replace(const char *path, const char *to, mode_t mode, const struct cli_text *svg)
{
	char *name;
	int fd, err = CLI_OK;

	if (asprintf(&name, "%s.XXXXXX", to) < 0)
		cli_no_memory();
	fd = mkostemp(name, O_CLOEXEC);
	if (fd < 0) {
		err = failed(path);
		free(name);
		return err;
	}
	if (!cli_write_all(fd, svg->bytes, svg->n) || fchmod(fd, mode))
		err = failed(path);
	if (close(fd) && !err)
		err = failed(path);
	if (!err && rename(name, to))
		err = failed(path);
	if (err)
		unlink(name);
	free(name);
	return err;
}

static int write_file(const char *path, const struct cli_text *svg)
{
	struct stat st;
	bool exists = !stat(path, &st);
	char *to;
	int err;

	if (exists && S_ISDIR(st.st_mode)) {
		errno = EISDIR;
		return failed(path);
	}
	if (exists && !S_ISREG(st.st_mode))
		return write_in_place(path, svg);
	to = exists ? realpath(path, NULL) : strdup(path);
	if (!to)
		return failed(path);
	err = replace(path, to, exists ? st.st_mode & 07777 : usual_mode(), svg);
	free(to);
	return err;
}

int plot_write(const struct plot_options *o, const struct cli_text *svg)
{
	if (o->output)
		return write_file(o->output, svg);
	/* main() reports an error of standard output. */
	fwrite(svg->bytes, 1, svg->n, stdout);
	return CLI_OK;
}
