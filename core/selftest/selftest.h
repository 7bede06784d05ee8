/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The conformance suite. It runs in a child process, which reports the beginning and
 * the end of each check. So the parent knows which check crashed or hung, and starts
 * another child that continues after it. Every child sets up again what its checks
 * need, and passes over the checks that are done.
 */
#ifndef KV_CORE_SELFTEST_SELFTEST_H
#define KV_CORE_SELFTEST_SELFTEST_H

#include "core/cli/cli.h"
#include "core/testkit/madeup.h"

struct selftest {
	struct kvmod_ctx *ctx;
	const struct kvmod_modinfo *info;
	const struct cli_common *common;	/* the configuration that every check starts from */
	const char *device;			/* to run its policies on */
	FILE *report;				/* to the parent */
	unsigned next, skip;			/* number of the next check; how many are done */
	bool failed;				/* the check in progress */
	char logged[512];			/* the last line that was logged */
};

/* Begins a check. False: an earlier child has done it, pass over it. */
bool selftest_begin(struct selftest *t, const char *format, ...) CLI_PRINTF(2, 3);
/* The check in progress fails; the first reason counts. */
void selftest_fail(struct selftest *t, const char *format, ...) CLI_PRINTF(2, 3);
void selftest_end(struct selftest *t);

/* Configures ctx anew, with one more override if it is not NULL. */
int selftest_configure(struct selftest *t, const char *override);
/* The check fails unless err is a known code and the failed call left a message. */
void selftest_clean_error(struct selftest *t, const char *what, int err);

/* The file and the loaded module (selftest_module.c). False: the suite cannot go on. */
bool selftest_module(struct selftest *t);
/* Parameters, opening, needs (selftest_policy.c). */
void selftest_policy(struct selftest *t, const char *name);
/* Decisions on made-up caches (selftest_plans.c). */
void selftest_plans(struct selftest *t, const char *name);
/* Golden vectors of any policy of the module (selftest_module.c). */
void selftest_vectors(struct selftest *t, const char *path);

#endif
