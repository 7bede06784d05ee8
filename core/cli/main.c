/* SPDX-License-Identifier: Apache-2.0 */
/* kvmod: the command. Its subcommands are a file each. */
#include "core/cli/cli.h"

#include <fcntl.h>
#include <locale.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

static const struct cli_command *const commands[] = {
	&cli_bench, NULL,
};

static const char about[] =
	"Runs models whose KV cache is compressed by policies, which are modules.";

static void list_commands(const struct cli_command *const *table, const char *prefix,
			  const char *text)
{
	size_t skip = strlen(prefix);

	printf("Usage: kvmod %sCOMMAND [OPTION]... [OPERAND]...\n%s\n\nCommands:\n", prefix, text);
	for (; *table; table++)
		printf("  %-10s %s\n", (*table)->name + skip, (*table)->summary);
	printf("\n'kvmod %sCOMMAND --help' says more of each%s.\n", prefix,
	       *prefix ? "" : "; so do kvmod(1) and kvmod.conf(5)");
}

static const char *nearest_command(const struct cli_command *const *table, size_t skip,
				   const char *word)
{
	const char *names[16];
	size_t n = 0;

	for (; *table && n < CLI_COUNT(names) - 1; table++)
		names[n++] = (*table)->name + skip;
	names[n] = NULL;
	return cli_nearest(word, names);
}

int cli_dispatch(const struct cli_command *const *table, const char *prefix,
		 const char *text, int argc, char **argv)
{
	const char *word = argc > 1 ? argv[1] : "", *near;
	size_t skip = strlen(prefix);

	for (size_t i = 0; table[i]; i++)
		if (!strcmp(word, table[i]->name + skip))
			return table[i]->run(table[i], argc - 1, argv + 1);
	if (!strcmp(word, "--help") || !strcmp(word, "-h")) {
		list_commands(table, prefix, text);
		return CLI_OK;
	}
	near = nearest_command(table, skip, word);
	if (argc < 2)
		cli_error("which command? See 'kvmod %s--help'", prefix);
	else if (near)
		cli_error("no command '%s%s'; did you mean '%s%s'?", prefix, word, prefix, near);
	else
		cli_error("no command '%s%s'; see 'kvmod %s--help'", prefix, word, prefix);
	return CLI_USAGE;
}

/*
 * Where a standard stream is closed, the next file opened would take its place
 * and get what was meant for it. A descriptor that fails every write (or read)
 * keeps the place.
 */
static void occupy_standard_streams(void)
{
	for (int fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) < 0 &&
		    open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) != fd)
			_exit(CLI_FAILED);
}

int main(int argc, char **argv)
{
	int status, flushed;

	occupy_standard_streams();
	setlocale(LC_CTYPE, "");
	/* A reader that goes away is a write error like any other. */
	signal(SIGPIPE, SIG_IGN);

	if (argc > 1 && (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V"))) {
		printf("kvmod %s (module ABI %d.%d)\n", kvmod_version(),
		       KVMOD_ABI_MAJOR, KVMOD_ABI_MINOR);
		status = CLI_OK;
	} else {
		status = cli_dispatch(commands, "", about, argc, argv);
	}
	flushed = cli_flush();
	return status ? status : flushed;
}
