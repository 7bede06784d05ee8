/* SPDX-License-Identifier: Apache-2.0 */
/* The command kvmod: dispatches to its subcommands, each in a file of its own. */
#include "core/cli/cli.h"
#include "core/base/names.h"

#include <fcntl.h>
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct cli_command *const commands[] = {
	&cli_list, &cli_info, &cli_check, &cli_selftest, &cli_run, &cli_bench, &cli_eval, &cli_heads,
	&cli_plot, &cli_new, NULL,
};

static const char about[] =
	"Runs language models with a KV cache that loadable policies compress.";

static void list_commands(const struct cli_command *const *table, const char *prefix,
			  const char *text)
{
	size_t skip = strlen(prefix);

	printf("Usage: kvmod %sCOMMAND [OPTION]... [OPERAND]...\n%s\n\nCommands:\n", prefix, text);
	for (; *table; table++)
		printf("  %-10s %s\n", (*table)->name + skip, (*table)->summary);
	printf("\n`kvmod %sCOMMAND --help` lists the options of a command%s.\n", prefix,
	       *prefix ? "" : "; see also kvmod(1) and kvmod.conf(5)");
}

static void say_unknown(const struct cli_command *const *table, const char *prefix,
			const char *word)
{
	struct kv_nearest nearest;
	char hint[KV_HINT_ROOM];

	kv_nearest_start(&nearest, word);
	for (; *table; table++)
		kv_nearest_offer(&nearest, (*table)->name + strlen(prefix));
	cli_error("unknown command `%s%s`%s (see `kvmod %s--help`)", prefix, word,
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
		cli_error("expected a command (see `kvmod %s--help`)", prefix);
	else
		say_unknown(table, prefix, word);
	return CLI_USAGE;
}

/*
 * If a standard stream is closed, the next file opened would get its descriptor and
 * the data meant for the stream. A descriptor on which every write (or read) fails
 * takes the place.
 */
static void occupy_standard_streams(void)
{
	for (int fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) < 0 &&
		    open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) != fd)
			_exit(CLI_FAILED);
}

/*
 * An engine may run on GNU's OpenMP, whose threads spin for up to 15 ms while they wait
 * for one another. On a busy machine that made a token take 50 times as long; on an
 * idle one a millisecond is enough. The library reads the variable when it is loaded,
 * with the engine. A value set by the user stays.
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
	/* Without this, jansson leaves a value that it cannot allocate out of the answer. */
	json_set_alloc_funcs(cli_alloc, free);
	let_waiting_threads_sleep();
	setlocale(LC_CTYPE, "");
	/* A reader that has gone and a limit on file sizes are write errors like any other. */
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
