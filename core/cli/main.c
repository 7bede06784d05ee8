/* SPDX-License-Identifier: Apache-2.0 */
/* kvmod: the command. Its subcommands are a file each. */
#include "core/cli/cli.h"
#include "core/base/names.h"

#include <fcntl.h>
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct cli_command *const commands[] = {
	&cli_list, &cli_info, &cli_check, &cli_selftest, &cli_run, &cli_bench, &cli_new,
	NULL,
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
	printf("\n`kvmod %sCOMMAND --help` says more of each%s.\n", prefix,
	       *prefix ? "" : "; so do kvmod(1) and kvmod.conf(5)");
}

static void say_unknown(const struct cli_command *const *table, const char *prefix,
			const char *word)
{
	struct kv_nearest nearest;
	char hint[KV_HINT_ROOM];

	kv_nearest_start(&nearest, word);
	for (; *table; table++)
		kv_nearest_offer(&nearest, (*table)->name + strlen(prefix));
	cli_error("no command `%s%s`%s (see `kvmod %s--help`)", prefix, word,
		  kv_nearest_hint(&nearest, hint, sizeof(hint)), prefix);
}

int cli_dispatch(const struct cli_command *const *table, const char *prefix,
		 const char *text, int argc, char **argv)
{
	const char *word = argc > 1 ? argv[1] : "";

	for (size_t i = 0; table[i]; i++)
		if (!strcmp(word, table[i]->name + strlen(prefix)))
			return table[i]->run(table[i], argc - 1, argv + 1);
	if (!strcmp(word, "--help") || !strcmp(word, "-h")) {
		list_commands(table, prefix, text);
		return CLI_OK;
	}
	if (argc < 2)
		cli_error("which command? (see `kvmod %s--help`)", prefix);
	else
		say_unknown(table, prefix, word);
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

/*
 * GNU's OpenMP, which an engine may run on, lets threads that wait for one another spin
 * for up to 15 ms before they sleep. Where other programs want the processors, that
 * made a token take 50 times as long. A millisecond is enough where they do not. The
 * library reads this when it is loaded, with the engine; a user's own word counts.
 */
static void let_waiting_threads_sleep(void)
{
	if (!getenv("OMP_WAIT_POLICY") && !getenv("GOMP_SPINCOUNT"))
		setenv("GOMP_SPINCOUNT", "20000", 0);
}

int main(int argc, char **argv)
{
	int status, flushed;

	occupy_standard_streams();
	/* A JSON value that could not be had would be left out of the answer. */
	json_set_alloc_funcs(cli_alloc, free);
	let_waiting_threads_sleep();
	setlocale(LC_CTYPE, "");
	/* A reader that goes away is a write error like any other, and so is a limit on files. */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);

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
