/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the core share: a folder of their own, modules in it, a context. */
#ifndef KV_TESTS_FIXTURE_H
#define KV_TESTS_FIXTURE_H

#include <check.h>
#undef fail	/* host->fail() is meant */
#include <stdbool.h>

#include <kvmod/kvmod.h>

/* Before and after each test: a new folder, and no lines logged. */
void fixture_setup(void);
void fixture_teardown(void);
extern char fixture_dir[];
/* Everything that the context logged, a line each. */
extern char fixture_log[];

/* Paths in the folder, in buffers that live as long as the test. */
const char *fixture_path(const char *name);
const char *fixture_write(const char *name, const char *text);
const char *fixture_write_bytes(const char *name, const void *bytes, size_t n);
/* A module of tests/modules under another name, or its own. */
const char *fixture_module(const char *module, const char *name);
void *fixture_read(const char *path, size_t *n);
/* Replaces the first `old` of the file; both have the same length. */
void fixture_patch(const char *path, const void *old, const void *new, size_t n);

/* A context that logs into fixture_log and looks for modules in the folder. */
struct kvmod_ctx *fixture_context(void);
/* The same with an INI file of this text: kvmod_configure()'s result. */
int fixture_configure(struct kvmod_ctx *ctx, const char *text);
int fixture_open(struct kvmod_ctx *ctx, const char *policy, struct kvmod_policy **out);
/* The same of a built-in module and for any model, with parameters: "budget = 9\nsinks = 2". */
int fixture_open_with(struct kvmod_ctx *ctx, const struct kvmod_module *module, const char *policy,
		      const char *params, const struct kvmod_model *model,
		      struct kvmod_policy **out);
/* One decision of a policy that is opened for it, with this result; fixture_log is of both. */
struct kvmod_plan *fixture_decide(const struct kvmod_module *module, const char *policy,
				  const char *params, const struct kvmod_model *model,
				  const struct kvmod_request *request, int32_t code);

/* A first cut, after which heads differ: does this one still cache the position? */
bool fixture_still_caches(uint32_t head, uint32_t position);
/* Makes what it leaves of n positions of each head; positions[n_heads][n] is theirs from then on. */
void fixture_first_cut(struct kvmod_head *heads, uint32_t n_heads, uint32_t n, int32_t *positions);

/* The error's text, after "DIR/" was taken out of it. */
const char *fixture_error(void);
#define assert_fails(call, code, text) do { \
		ck_assert_int_eq(call, code); \
		ck_assert_str_eq(fixture_error(), text); \
	} while (0)
/* How "no device `cuda`" goes on where that module was built: a hint to the usual folder. */
const char *fixture_no_cuda(void);
/* The same behind "no device `cuda`" where the configuration chooses it. */
const char *fixture_no_device(void);
#define assert_ok(call) ck_assert_msg((call) == KVMOD_OK, "%s", kvmod_error())

/* Runs a suite with one case; the exit status of main. */
int fixture_run(const char *name, const TTest *const *tests, size_t n);
#define FIXTURE_MAIN(name, ...) \
	int main(void) \
	{ \
		const TTest *const all[] = { __VA_ARGS__ }; \
		return fixture_run(name, all, sizeof(all) / sizeof(*all)); \
	}

extern const struct kvmod_model fixture_model;

#endif
