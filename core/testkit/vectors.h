/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Golden vectors: inputs, and what a policy must decide on them. Reads files such as
 * tests/golden/policies.txt and refreekv.txt, turns their cases into requests, and
 * compares plans with the expected decisions.
 */
#ifndef KV_CORE_TESTKIT_VECTORS_H
#define KV_CORE_TESTKIT_VECTORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <kvmod/kvmod.h>

#include "core/run/describe.h"

#define VECTORS_MAX_PARAMS	24

/* Inputs, each given for all layers or for none. */
enum vectors_input {
	VECTORS_Q,			/* [row][q_head][dim]: the newest rows, oldest first */
	VECTORS_K,			/* [position][kv_head][dim] */
	VECTORS_V,			/* the same */
	VECTORS_WO,			/* [q_head][dim][width] */
	VECTORS_COLSUM,			/* [q_head][position] */
	VECTORS_MU,			/* [q_head][dim] */
	VECTORS_SIGMA,			/* [q_head][dim][dim] */
	VECTORS_INPUTS
};

struct vectors_param {
	char *key, *value;
};

struct vectors_case {
	unsigned line;			/* where it begins */
	char *name, *policy;
	uint32_t n_layers, n, n_q_heads, n_kv_heads, head_dim, rows, width;
	uint32_t logical;		/* tokens seen: n, unless the case says otherwise */
	uint32_t n_cached;		/* (layer, KV head) pairs read so far; 0: not given */
	uint32_t *cached;		/* [layer][kv_head]: how many of n it caches */
	int32_t *positions;		/* [layer][kv_head][n], ascending */
	uint32_t n_params;
	struct vectors_param params[VECTORS_MAX_PARAMS];
	float *input[VECTORS_INPUTS];	/* [layer][...]; NULL: not given */
	uint32_t given[VECTORS_INPUTS];	/* layers read so far */

	uint32_t n_expected;		/* (layer, KV head) pairs read so far */
	uint32_t *counts;		/* [layer][kv_head] */
	uint32_t *kept;			/* [layer][kv_head][n], ascending indices of cached positions */
	double loss;			/* NaN: nothing is expected of it */
};

/* An open file. */
struct vectors {
	const char *path;
	FILE *file;
	char *text;			/* the current line, in memory of `room` bytes */
	size_t room;
	unsigned line;
	char error[512];		/* "FILE:12: ..." after a call that failed */
};

/* 0, or a KVMOD_E... code and v->error; path must live as long as v. */
int vectors_open(struct vectors *v, const char *path);
void vectors_close(struct vectors *v);
/* 1 and the next case, 0 at the end, or a negative code. */
int vectors_next(struct vectors *v, struct vectors_case **c);
void vectors_case_free(struct vectors_case *c);

/*
 * How many positions a KV head caches, and the i-th of them; heads are counted over all
 * layers. A case without lines of `cached` has 0 ... n-1.
 */
uint32_t vectors_n(const struct vectors_case *c, size_t head);
uint32_t vectors_position(const struct vectors_case *c, size_t head, uint32_t i);

/* The value of a parameter, or NULL. */
const char *vectors_param(const struct vectors_case *c, const char *key);

/* --- a case as a request (vectors_request.c) ---------------------------------------- */

/* The model of a case. */
struct kvmod_model vectors_model(const struct vectors_case *c);

/*
 * The case's parameters as overrides for kvmod_configure(), "policy NAME.key=value",
 * without those of the model (rope, rope_base). Returns how many there are; free the
 * texts. 0: none, or out of memory.
 */
size_t vectors_overrides(const struct vectors_case *c, char *overrides[VECTORS_MAX_PARAMS]);

/* A request, and the memory that it points to. */
struct vectors_request {
	struct kv_described d;
	unsigned char *k, *v;		/* encoded */
	float *wo_norm;
};
/*
 * K and V become elements of `type`, which may be Q8_0 only if head_dim is a
 * multiple of 32. Needs c to live on. 0 or KVMOD_ENOMEM.
 */
int vectors_request(const struct vectors_case *c, uint32_t type, struct vectors_request *r);
void vectors_request_free(struct vectors_request *r);

/*
 * What KV head g of segment i keeps, as cached indices; kept has room for its n.
 * The plan must have passed the core's checks.
 */
uint32_t vectors_kept(const struct kvmod_request *request, const struct kvmod_plan *plan,
		      uint32_t i, uint32_t g, uint32_t *kept);
/* Is the plan the one that the case expects? If not, `why` says where they differ. */
bool vectors_match(const struct vectors_case *c, const struct kvmod_request *request,
		   const struct kvmod_plan *plan, char *why, size_t room);

/* --- a case, from end to end (vectors_run.c) ---------------------------------------- */

/*
 * Configures ctx from `config`, `overrides` and the case's parameters, opens the case's
 * policy, decides on `device`, and compares. Returns 0, 1 if the plan is not the
 * expected one, or an error code; `why` has the reason.
 */
int vectors_run(struct kvmod_ctx *ctx, const char *config, const char *const *overrides,
		size_t n_overrides, const struct vectors_case *c, uint32_t type,
		const char *device, char *why, size_t room);

#endif
