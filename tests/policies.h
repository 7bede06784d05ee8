/* SPDX-License-Identifier: Apache-2.0 */
/* What tests of policies share: a list of all, contexts, plans, made-up caches. */
#ifndef KV_TESTS_POLICIES_H
#define KV_TESTS_POLICIES_H

#include <check.h>
#undef fail			/* host->fail() is meant */
#include <stdbool.h>

#include "core/testkit/madeup.h"
#include "core/testkit/random.h"
#include "core/testkit/vectors.h"

/* Every policy but fullkv, which is built in. */
extern const struct known_policy {
	const struct kvmod_module *module;
	unsigned n_cases;		/* in the golden vectors */
	const char *cuts;		/* parameters with which it cuts a hundred positions, */
	double most;			/* and what it then keeps of the bytes at most */
	const char *rising[4];		/* each keeps what the one before it does; the last all */
} policies[];
extern const int n_policies;

/* What a context has said: how many lines, and the last. */
extern unsigned policies_n_said;
extern char policies_said[512];
/* An override of contexts that open_policy() configures. */
extern const char *policies_threads;

/* Policies come linked in, or else from module files of the build tree. */
struct kvmod_ctx *policies_context(bool linked_in);
/* params: "key=value key=value" */
struct kvmod_policy *open_policy(struct kvmod_ctx *ctx, const char *name, const char *params,
				 const struct kv_shape *shape);
bool policy_has(const struct kvmod_policy *policy, const char *param);
struct kvmod_plan *decide(struct kvmod_policy *policy, const struct kvmod_request *request);
/* Opens, decides once, closes; every segment's plan has passed the core's checks. */
struct kvmod_plan *decide_once(struct kvmod_ctx *ctx, const char *name, const char *params,
			       const struct madeup *m);

#define MAX_N 600		/* positions of a made-up cache */
#define ROWS 32			/* of queries; a policy that asks for more makes do */
#define EXTRAS (KVMOD_NEED_COLSUM | KVMOD_NEED_Q_STATS | KVMOD_NEED_WO_NORM)
extern const struct kv_shape usual;
struct kv_shape draw_shape(struct kv_random *r, uint32_t type);
struct madeup make(const struct kv_shape *shape, uint32_t n);

/* Heads of all segments; what one of them keeps. */
uint32_t total_heads(const struct madeup *m);
uint32_t kept_of(const struct madeup *m, const struct kvmod_plan *plan, uint32_t head,
		 uint32_t *kept);
/* How many positions are kept in a and not in b. */
uint32_t only_in_a(const struct madeup *m, const struct kvmod_plan *a,
		   const struct kvmod_plan *b);
bool same_plan(const struct madeup *m, const struct kvmod_plan *a, const struct kvmod_plan *b);

/* Runs what add() adds; the exit status of main. */
int policies_run(const char *name, void (*add)(TCase *tcase));

#endif
