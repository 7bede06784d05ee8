/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The conformance suite. It runs in a child process and tells its parent of each
 * check as it begins and ends, so the parent knows which one crashed or hung, and
 * starts another child that goes on after it. What a check needs is set up again
 * in every child; checks that were done are passed over.
 */
#ifndef KVMOD_CLI_SELFTEST_H
#define KVMOD_CLI_SELFTEST_H

#include "core/cli/cli.h"
#include "core/testkit/madeup.h"

struct selftest {
	struct kvmod_ctx *ctx;
	const struct kvmod_modinfo *info;
	const struct cli_common *common;	/* the configuration that all starts from */
	const char *device;			/* where its policies are to run */
	FILE *report;				/* to the parent */
	unsigned next, skip;			/* number of the next check; how many are done */
	bool failed;				/* the check in progress */
	char logged[512];			/* the last line that was logged */
};

/* False: it was done in an earlier child, pass it over. */
bool selftest_begin(struct selftest *t, const char *format, ...) CLI_PRINTF(2, 3);
/* The check in progress fails; the first reason counts. */
void selftest_fail(struct selftest *t, const char *format, ...) CLI_PRINTF(2, 3);
void selftest_end(struct selftest *t);

/* Configures ctx anew, with one more override if it is not NULL. */
int selftest_configure(struct selftest *t, const char *override);
/* Did a call fail as calls may: with a known code, in words? If not, the check fails. */
void selftest_clean_error(struct selftest *t, const char *what, int err);

/* The file and the loaded module (selftest_module.c). False: there is no going on. */
bool selftest_module(struct selftest *t);
/* Parameters, opening, needs (selftest_policy.c). */
void selftest_policy(struct selftest *t, const char *name);
/* What it decides on made-up caches (selftest_plans.c). */
void selftest_plans(struct selftest *t, const char *name);
/* Golden vectors of any policy of the module (selftest_module.c). */
void selftest_vectors(struct selftest *t, const char *path);

#endif
