/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of `kvmod bench decision` share. */
#ifndef KV_CORE_BENCH_DECISION_H
#define KV_CORE_BENCH_DECISION_H

#include "core/bench/device.h"
#include "core/bench/options.h"

struct decision_bench {
	struct cli_common common;
	struct bench_options options;
	struct bench_shape shape;
	uint64_t threads;
	bool sweep;

	struct kvmod_ctx *ctx;
	struct bench_device device;	/* not open: the rounds are the host's own */
	struct kvmod_policy *policy;
	/*
	 * On the host; a device has a read of its own. A policy of more than FEW_ROWS
	 * rows of queries cannot do with less than their product with K.
	 */
	struct kvmod_policy *rival;
	struct kvmod_policy *peak;	/* NULL: the rival is a pass over K */
	uint32_t n_rows;		/* that the policy asks for, of the longest cache */
	struct kvmod_plan *plan;	/* of the last decision, as a session keeps it */
	double *ours, *wall, *theirs;	/* [rounds], milliseconds */
	json_t *rows, *growth;		/* with --json */
};

#define FEW_ROWS 4

/* What one size gave, in milliseconds. */
struct decision_row {
	uint32_t n_layers, n_sequences, n;
	size_t k_bytes;
	double budget;
	uint32_t n_whole;		/* segments that were kept whole */
	double macs;			/* of the queries' product with K */
	double peak;			/* multiply-adds a millisecond; 0: not measured */
	/* wall: the caller's time, on a device */
	struct cli_stats ours, wall, theirs;
};

/* Calls return CLI_OK, or CLI_FAILED after the reason was printed. */

/* --- measuring (decision_run.c) -------------------------------------------------- */

int decision_open(struct decision_bench *b);
void decision_close(struct decision_bench *b);
/* Is there memory for the cache? If not, `why` says how much it takes and how much there is. */
#define DECISION_WHY_ROOM 128
bool decision_fits(const struct decision_bench *b, const struct bench_shape *s, uint32_t n,
		   char *why);
int decision_measure(struct decision_bench *b, const struct bench_shape *s, uint32_t n,
		     struct decision_row *row);

/* --- reporting (decision_report.c) ------------------------------------------------ */

void decision_header(const struct decision_bench *b);
int decision_report(struct decision_bench *b, const struct decision_row *row);
/* Prints the object of --json after the last row. */
int decision_print_json(const struct decision_bench *b);

/* --- growth (sweep.c) --------------------------------------------------------------- */

/*
 * Measures lengths, layers and sequences in powers of two, each while the others keep
 * their values from the options, and reports how the time grows.
 */
int decision_sweep(struct decision_bench *b);

#endif
