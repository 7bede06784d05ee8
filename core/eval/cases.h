/* SPDX-License-Identifier: Apache-2.0 */
/* The policies, parameters and stores that `kvmod eval` compares. */
#ifndef KV_CORE_EVAL_CASES_H
#define KV_CORE_EVAL_CASES_H

#include "core/cli/cli.h"

struct eval_case {
	char *name;			/* "snapkv:budget=20%": what tables and results call it */
	char *policy;			/* "snapkv" */
	struct cli_strings overrides;	/* "policy snapkv.budget=20%" */
	struct kvmod_policy *handle;
	struct kvmod_session *session;
};

struct eval_cases {
	struct eval_case *item;
	size_t n;
};

/*
 * Adds what an operand stands for: POLICY[:KEY=VALUE[,KEY=VALUE]...]. A value of several
 * separated by | makes a case of each, and several such values one of each combination. A KEY
 * with a dot is that of another section: kvmod.store. A comma that no KEY= follows belongs to
 * the value. CLI_FAILED after the reason was printed.
 */
int eval_cases_add(struct eval_cases *cases, const char *operand);
/* Opens policy and session of each case; the context gets its configuration back. */
int eval_cases_open(struct eval_cases *cases, struct kvmod_ctx *ctx, struct kvmod_engine *engine,
		    const struct cli_common *common);
void eval_cases_free(struct eval_cases *cases);

#endif
