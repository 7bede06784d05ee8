/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the subcommands of kvmod share. Each subcommand is one file with one
 * `struct cli_command`, listed in main.c (those of `kvmod bench` in bench.c, of `kvmod
 * plot` in plot.c). A
 * subcommand reads its options with cli_parse(), gets a context from
 * cli_context(), writes its answer to stdout with stdio or cli_print_json(),
 * and returns CLI_OK or CLI_FAILED; main() reports errors of stdout.
 *
 * Names begin with cli_, because kv_ is libkvmod's own prefix: a program that
 * links the library statically contains both.
 */
#ifndef KV_CORE_CLI_CLI_H
#define KV_CORE_CLI_CLI_H

#include <config.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <jansson.h>
#include <kvmod/kvmod.h>

#include "core/base/names.h"

#define CLI_PRINTF(text, first) __attribute__((format(printf, text, first)))
#define CLI_COUNT(array) (sizeof(array) / sizeof(*(array)))

/* Exit codes. */
#define CLI_OK		0
#define CLI_FAILED	1
#define CLI_USAGE	2

/* --- subcommands ------------------------------------------------------------ */

/* The common options that a subcommand takes besides --help. */
#define CLI_TAKES_CONFIG	1u	/* -c FILE, -o SECTION.KEY=VALUE */
#define CLI_TAKES_MODEL		2u	/* -m FILE */
#define CLI_TAKES_POLICY	4u	/* --policy NAME */
#define CLI_TAKES_JSON		8u	/* --json */

struct cli_command {
	const char *name;		/* "run"; "bench engine" */
	int (*run)(const struct cli_command *self, int argc, char **argv);
	const char *summary;		/* one line, for the list of subcommands */
	const char *operands;		/* for the usage line: "MODULE|FILE"; "" */
	const char *details;		/* what --help adds below the options, or "" */
	unsigned takes;			/* CLI_TAKES_... */
};

extern const struct cli_command cli_list, cli_info, cli_check, cli_selftest, cli_run,
	cli_bench, cli_eval, cli_heads, cli_plot, cli_new;
extern const struct cli_command cli_bench_decision, cli_bench_engine, cli_bench_gather,
	cli_bench_load;
extern const struct cli_command cli_plot_curve, cli_plot_heads, cli_plot_latency, cli_plot_text;

/*
 * Runs the command of the table that argv[1] names; prefix is "", "bench " or "plot ".
 * An unknown name is a usage error that suggests the nearest command.
 */
int cli_dispatch(const struct cli_command *const *table, const char *prefix,
		 const char *about, int argc, char **argv);

/* --- options (options.c) ------------------------------------------------------ */

enum cli_option_type {
	CLI_FLAG,			/* bool */
	CLI_STRING,			/* const char * */
	CLI_STRINGS,			/* struct cli_strings: may be repeated */
	CLI_NUMBER,			/* uint64_t: 42; 4k is 4096 */
	CLI_NUMBERS,			/* struct cli_numbers: 512,2048 */
	CLI_REAL,			/* double, finite */
};

#define CLI_MAX_STRINGS	64
struct cli_strings {
	size_t n;
	const char *item[CLI_MAX_STRINGS];
};

#define CLI_MAX_NUMBERS	16
struct cli_numbers {
	size_t n;
	uint64_t item[CLI_MAX_NUMBERS];
};

/* A table of these ends with a NULL name; --help is made from it. */
struct cli_option {
	const char *name;		/* without the dashes */
	char letter;			/* 0: none */
	enum cli_option_type type;
	void *value;			/* holds the default on entry */
	const char *arg;		/* what --help calls the argument; NULL for a flag */
	const char *help;		/* one line, the default in it */
};

/* The common options, as given. */
struct cli_common {
	const char *config;		/* -c, or NULL */
	const char *model;		/* -m */
	const char *policy;		/* --policy */
	struct cli_strings overrides;	/* -o */
	bool json;
};

/*
 * Reads the options; returns the index in argv of the first operand (operands
 * come last, in their order). --help ends the program with CLI_OK, a mistake
 * with CLI_USAGE. own may be NULL.
 */
int cli_parse(const struct cli_command *self, struct cli_common *common,
	      const struct cli_option *own, int argc, char **argv);
/* One line about a wrong command line, then exit(CLI_USAGE). */
void cli_usage_error(const struct cli_command *self, const char *format, ...)
	CLI_PRINTF(2, 3) __attribute__((noreturn));

/* --- context (context.c) -------------------------------------------------------- */

/* What -o, --policy and -m set, in the order in which they count. */
struct cli_overrides {
	struct cli_strings all;		/* has room for one more */
	char *policy, *model;		/* those made for --policy and -m */
};
#define CLI_OWN_OVERRIDES 3
/*
 * Configures the context from the common options; -m and --policy stand for two
 * overrides. Returns CLI_OK; CLI_FAILED after printing the reason; or, without
 * printing it, the negative code of kvmod_configure(). quiet: no warnings.
 */
int cli_configure(struct kvmod_ctx *ctx, const struct cli_common *common, bool quiet,
		  struct cli_overrides *o);
void cli_overrides_free(struct cli_overrides *o);

/*
 * A new context, configured in the same way. NULL after the reason was printed.
 * Free it with kvmod_unref().
 */
struct kvmod_ctx *cli_context(const struct cli_common *common);
/*
 * The same for commands that only look at modules: if the usual configuration is
 * wrong, perhaps because a module is missing, they warn and use the defaults.
 */
struct kvmod_ctx *cli_context_to_look(const struct cli_common *common);
/* The engine that the configuration names. */
#define CLI_DEFAULT_ENGINE "ggml"
const char *cli_engine_name(struct kvmod_ctx *ctx);

/* What is built into the core. */
#define CLI_BUILT_IN_POLICY "fullkv"
#define CLI_BUILT_IN_DEVICE KV_CPU

#define CLI_MAX_FOUND 8
struct cli_found {
	size_t n;
	char *path[CLI_MAX_FOUND];
};
/*
 * The absolute paths of the modules that a name stands for. A name with a '/' or '.'
 * is a FILE. Any other name is that of a module in module_path, or of something that
 * modules there provide; a policy must run on `device`, unless device is NULL.
 * CLI_OK, or CLI_FAILED after the reason was printed.
 */
int cli_find_modules(struct kvmod_ctx *ctx, const char *name, const char *device,
		     struct cli_found *found);
void cli_found_free(struct cli_found *found);
/* The first of them, to be freed. */
int cli_find_module(struct kvmod_ctx *ctx, const char *name, const char *device, char **path);

/*
 * Is a name for a new module free? CLI_OK, or CLI_FAILED after printing what has the
 * name: a module, something that a module provides, the core, or an alias.
 */
int cli_check_name_free(struct kvmod_ctx *ctx, const char *name);

/* Why the configuration blacklists this module; NULL: it does not. */
const char *cli_blacklisted(struct kvmod_ctx *ctx, const struct kvmod_modinfo *info);
/* The devices that a policy runs on, by the module's metadata: "cpu", "cpu npu", KV_ANY_DEVICE. */
const char *cli_runs_on(const struct kvmod_modinfo *info, const char *policy);
bool cli_runs_there(const struct kvmod_modinfo *info, const char *policy, const char *device);

/* --- what the user sees (output.c) ------------------------------------------------ */

/* "kvmod: ..." on stderr, one line; returns CLI_FAILED. */
int cli_error(const char *format, ...) CLI_PRINTF(1, 2);
/* The same with the reason of the libkvmod call that just failed. */
int cli_error_kvmod(void);
/*
 * Memory for the answer. If there is none, prints that and ends the program with
 * CLI_FAILED. Free it with free().
 */
void *cli_alloc(size_t size) __attribute__((malloc));
char *cli_strdup(const char *text);
void cli_no_memory(void) __attribute__((noreturn));

/*
 * Text from outside (a path, a module's description), made safe for a terminal: see
 * kv_show(). The result lives until the eighth call after this one.
 */
const char *cli_show(const char *text);

/*
 * From here on only cli_print_json() writes to standard output: what a module prints
 * there goes to standard error. Returns CLI_OK, or CLI_FAILED after a message.
 */
int cli_json_alone(void);
/*
 * The text as it is if it is UTF-8, else as kv_show() writes it. For all text from
 * outside: json_string() and json_pack() return NULL for text that is not UTF-8.
 */
json_t *cli_json_text(const char *text);
/*
 * Prints the answer as one line of JSON on stdout, and drops the reference. NULL
 * (memory ran out while the value was built) is an error. Returns CLI_OK or CLI_FAILED.
 */
int cli_print_json(json_t *value);
/* Writes all n bytes; false, and errno, after an error. */
bool cli_write_all(int fd, const char *bytes, size_t n);
/* Flushes stdout. On an error prints the reason and returns CLI_FAILED. */
int cli_flush(void);
/* Did writing to stdout fail? Then long work can stop. */
bool cli_stdout_broken(void);

/* An escape sequence, or "" if f is not a terminal or NO_COLOR is set. */
enum cli_style { CLI_PLAIN, CLI_BOLD, CLI_DIM, CLI_RED, CLI_GREEN, CLI_YELLOW };
const char *cli_style(FILE *f, enum cli_style style);

/* 1234567 -> "1.18 MiB", in a buffer of at least 16 bytes, which it returns. */
const char *cli_bytes(uint64_t bytes, char *text);
#define CLI_BYTES_ROOM 16

/* Monotonic seconds. */
double cli_now(void);

/*
 * A progress bar on stderr for long work: only on a terminal, and erased at the end.
 */
struct cli_progress {
	const char *label;
	uint64_t total;
	double next;			/* when to draw it again */
	bool drawn;
};
void cli_progress_begin(struct cli_progress *p, const char *label, uint64_t total);
/* Fits the progress callbacks of libkvmod: arg is the struct cli_progress. */
void cli_progress_to(void *arg, uint64_t done);
void cli_progress_end(struct cli_progress *p);

/* --- statistics of a bench (stats.c) ------------------------------------------------ */

struct cli_stats {
	double median, low, high;	/* low and high: the quartiles */
	size_t n;
};
/* Sorts values in place. */
struct cli_stats cli_stats(double *values, size_t n);
/* {"median", "low", "high"}; NULL if memory ran out. */
json_t *cli_stats_json(const struct cli_stats *stats);

#endif
