/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvmod/kvmod.h - libkvmod: find, check and load modules, read the
 * configuration, open policies and engines, decide, and string both together.
 *
 * Every call that can fail returns 0 or a KVMOD_E... code; kvmod_error() then
 * has the reason in words. Objects are opaque. A context may be used by several
 * threads; one policy, engine or session by one thread at a time.
 */
#ifndef KVMOD_KVMOD_H
#define KVMOD_KVMOD_H

#include <kvmod/device.h>
#include <kvmod/engine.h>
#include <kvmod/module.h>
#include <kvmod/policy.h>
#include <kvmod/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

struct kvmod_ctx;	/* modules, registry, configuration, threads */
struct kvmod_device;	/* memory other than the host's, opened */
struct kvmod_policy;	/* a policy, opened for one model */
struct kvmod_engine;	/* an engine, opened: a model that is loaded */
struct kvmod_session;	/* engine and policy together */
struct kvmod_sequence;	/* one conversation or document in a session */

/* --- context ---------------------------------------------------------------- */

/* A context with no configuration yet; threads: 0 means one per processor. */
int kvmod_new(struct kvmod_ctx **ctx);
struct kvmod_ctx *kvmod_ref(struct kvmod_ctx *ctx);
/* Frees it with the last reference; a policy or engine that is open holds one too. */
void kvmod_unref(struct kvmod_ctx *ctx);

/*
 * Where log lines go (default: stderr) and the least important level wanted. Both
 * may be set at any time, by any thread. fn is called by whichever thread has
 * something to say, by several at once, and perhaps while that thread changes the
 * context: it must not use the context but for these two. fn and arg belong
 * together. A line that was under way when they were replaced may still come to
 * the old pair, so keep that until the calls that other threads were in have
 * returned.
 */
typedef void kvmod_log_fn(void *arg, uint32_t level, const char *line);
void kvmod_set_log(struct kvmod_ctx *ctx, kvmod_log_fn *fn, void *arg);
void kvmod_set_log_level(struct kvmod_ctx *ctx, uint32_t level);

/* Why the last call of this thread failed; "" if none did. Never NULL. */
const char *kvmod_error(void);
/* "KVMOD_EPLAN" and the like; never NULL. */
const char *kvmod_strerror(int code);
/* "0.1.0" */
const char *kvmod_version(void);

/* --- configuration ----------------------------------------------------------- */

/*
 * Reads kvmod.conf, kvmod.conf.d/ beside it and the overrides
 * "SECTION.KEY=VALUE"; of a key that is set several times the last value counts
 * and is the only one that is checked. Checks every section that the core or a
 * module knows, and makes it the context's. path NULL: $KVMOD_CONF, the user's, the system's,
 * or the build tree's, whichever is there first. On an error the configuration
 * that was there stays.
 */
int kvmod_configure(struct kvmod_ctx *ctx, const char *path,
		    const char *const *overrides, size_t n_overrides);

/* What kvmod_check() found out about one thing that the configuration names. */
struct kvmod_finding {
	uint32_t size;
	int32_t code;			/* 0: fine; KVMOD_ECRASH, KVMOD_ETIMEOUT, ... */
	const char *kind;		/* "policy", "engine", "device"; "alias"; "configuration",
					   "drop-in" */
	const char *name;		/* its name; of the last two: the file, or "" */
	const char *message;		/* one line, "" where it is fine */
	const char *module;		/* the module's file; "" if it is none or not known */
	double seconds;
};
typedef void kvmod_finding_fn(void *arg, const struct kvmod_finding *finding);

/*
 * Tries a configuration, which the context does not take over. Reads it as
 * kvmod_configure() does; then, for each policy, engine and device that it names,
 * a child process loads the module, fills in the parameters, and for a policy
 * opens it on a tiny made-up model and runs one request. The engine that [kvmod]
 * names looks at its model, without weights if it can, and the policy in use is
 * opened for that. A module that crashes or does not come back within limit_ms
 * (0: 10 seconds) does so there. fn, which may be NULL, gets a finding for each,
 * and for each file that was read and each alias. Returns 0, or the code of the first
 * finding that is not fine, and kvmod_error() has its message. The child is
 * forked from the calling thread and runs no exit handlers.
 */
int kvmod_check(struct kvmod_ctx *ctx, const char *path,
		const char *const *overrides, size_t n_overrides, uint32_t limit_ms,
		kvmod_finding_fn *fn, void *arg);
/*
 * Reads the same files and overrides again, tries them as kvmod_check() does,
 * and makes them the context's. On an error the configuration that was there
 * stays, whole. What is open keeps the parameters that it was opened with.
 */
int kvmod_reload(struct kvmod_ctx *ctx);
/* The file that was read; NULL if there is none. */
const char *kvmod_config_path(struct kvmod_ctx *ctx);
/*
 * The raw value, NULL if it is not set; section "kvmod", "policy refreekv", ...
 * Strings of a configuration live as long as the context.
 */
const char *kvmod_config_get(struct kvmod_ctx *ctx, const char *section, const char *key);

/* Where a value comes from. */
#define KVMOD_FROM_DEFAULT	0u
#define KVMOD_FROM_FILE		1u	/* kvmod_config_path() */
#define KVMOD_FROM_DROP_IN	2u
#define KVMOD_FROM_OVERRIDE	3u

/* A value of the configuration in force. */
struct kvmod_setting {
	uint32_t size;
	uint32_t from;			/* KVMOD_FROM_... */
	const char *section;		/* "kvmod", "policy refreekv" */
	const char *key;
	const char *value;		/* as a file would say it; paths are absolute */
	const char *file;		/* that says it; NULL: none does */
	uint32_t line;			/* there */
	uint32_t reserved;
};
typedef int kvmod_setting_fn(void *arg, const struct kvmod_setting *setting);

/*
 * Calls fn for each value in force, section by section: those of [kvmod]; the
 * parameters of the policy, engine and device in use, and of all that have a
 * section; aliases; the blacklist. Strings live until fn returns. Stops when fn
 * returns something other than 0, and returns that.
 */
int kvmod_settings_each(struct kvmod_ctx *ctx, kvmod_setting_fn *fn, void *arg);

/*
 * The absolute path of a data file ("template/policy.c"): in the build tree
 * where this runs from one, else in the installed folder. Free it with free().
 */
int kvmod_data_path(struct kvmod_ctx *ctx, const char *name, char **path);

/* --- modules ------------------------------------------------------------------ */

/* What a module file says of itself, read without running it. */
struct kvmod_modinfo;
/* Never runs the file. Refuses what the loader would refuse, with the reason. */
int kvmod_modinfo_read(struct kvmod_ctx *ctx, const char *path, struct kvmod_modinfo **info);
void kvmod_modinfo_free(struct kvmod_modinfo *info);
const char *kvmod_modinfo_path(const struct kvmod_modinfo *info);
/*
 * The value of the i-th string with that key, NULL past the last: "name",
 * "version", "license", "author", "description", "abi", "policy", "engine",
 * "device", "param" (see KVMOD_PARAMS), "on" (KVMOD_RUNS_ON), "built_for".
 */
const char *kvmod_modinfo_get(const struct kvmod_modinfo *info, const char *key, unsigned i);

/*
 * Calls fn for each module file in module_path, in name order; error is 0 or
 * why the loader would refuse it (in words: kvmod_error()), and info then NULL.
 * Stops when fn returns something other than 0, and returns that.
 */
int kvmod_modules_each(struct kvmod_ctx *ctx,
		       int (*fn)(void *arg, const char *path, int error,
				 const struct kvmod_modinfo *info), void *arg);

/* Loads a module by name (in module_path) or absolute path. Again: no effect. */
int kvmod_load(struct kvmod_ctx *ctx, const char *name_or_path);
/* KVMOD_EBUSY while something that it provides is open. */
int kvmod_unload(struct kvmod_ctx *ctx, const char *name);
/*
 * A module that is linked into the program. To have its section checked, add it
 * before kvmod_configure().
 */
int kvmod_add_builtin(struct kvmod_ctx *ctx, const struct kvmod_module *module);

/* --- devices ----------------------------------------------------------------------- */

/*
 * Opens a device, "cpu" or "cuda", with the parameters of its section; the
 * module that provides it is loaded first. A context opens each device once, and
 * closes it with the last holder.
 */
int kvmod_device_open(struct kvmod_ctx *ctx, const char *name, struct kvmod_device **device);
void kvmod_device_close(struct kvmod_device *device);
const struct kvmod_device_ops *kvmod_device_ops(const struct kvmod_device *device);
void *kvmod_device_instance(const struct kvmod_device *device);

/* --- policies -------------------------------------------------------------------- */

/*
 * Opens a policy for a model, with the parameters of its section in the
 * configuration; the module that provides it is loaded first. name NULL: the
 * configured one.
 *
 * device: where it is to run, "cpu", "cuda", or "auto"; NULL: as the
 * configuration says. "auto" is where the model's cache is (model->device), if
 * there is such a version of the policy, else where there is one. What lies
 * elsewhere the core copies there before it asks, and says so once.
 */
int kvmod_policy_open(struct kvmod_ctx *ctx, const char *name, const char *device,
		      const struct kvmod_model *model, struct kvmod_policy **policy);
void kvmod_policy_close(struct kvmod_policy *policy);
const struct kvmod_policy_ops *kvmod_policy_ops(const struct kvmod_policy *policy);
/* Where it runs: "cpu", "cuda". */
const char *kvmod_policy_device(const struct kvmod_policy *policy);
const struct kvmod_needs *kvmod_policy_needs(const struct kvmod_policy *policy);
/* Per-sequence state, around the requests of a sequence. */
int kvmod_policy_begin(struct kvmod_policy *policy, uint64_t sequence, void **state);
void kvmod_policy_end(struct kvmod_policy *policy, uint64_t sequence, void *state);

/* What a policy did since it was opened. */
struct kvmod_counters {
	uint32_t size;
	uint32_t reserved;
	uint64_t requests;
	uint64_t segments;				/* that a call decided; whole ones too */
	/*
	 * Summed over segments and KV heads. Seen are all tokens of the sequence, those
	 * that earlier requests cut among them: kept / seen is the mean budget.
	 */
	uint64_t positions_seen, positions_kept;
	uint64_t bytes_freed;				/* of K and V, by plans that passed */
	uint64_t failed_calls, failed_plans, failed_segments;
	uint64_t nanoseconds;				/* in compress() */
};
void kvmod_policy_counters(const struct kvmod_policy *policy, struct kvmod_counters *out);

/* --- deciding -------------------------------------------------------------------- */

/*
 * A plan with room for any lists of indices, and for max_spans spans, in answer to
 * this request; every segment is kept whole.
 */
int kvmod_plan_new(const struct kvmod_request *request, struct kvmod_plan **plan);
/*
 * The same in the memory of *plan, NULL or one that these functions made, if that
 * has room, else in new memory, and *plan is freed. For who decides again and again:
 * making a plan can take longer than the decision. On an error *plan is as it was.
 */
int kvmod_plan_renew(const struct kvmod_request *request, struct kvmod_plan **plan);
void kvmod_plan_free(struct kvmod_plan *plan);
/* How many positions KV head `head` of segment `i` keeps. */
uint64_t kvmod_plan_count(const struct kvmod_request *request, const struct kvmod_plan *plan,
			  uint32_t i, uint32_t head);
/* Kept positions / tokens seen, over all segments and KV heads. */
double kvmod_plan_budget(const struct kvmod_request *request, const struct kvmod_plan *plan);
/*
 * Is keep `i` in range, sorted, unique and not empty, and is the newest position
 * in it (unless flags has KVMOD_POLICY_MAY_DROP_NEWEST)? Else KVMOD_EPLAN.
 */
int kvmod_plan_check(const struct kvmod_request *request, const struct kvmod_plan *plan,
		     uint32_t i, uint32_t flags);

/*
 * Asks the policy, checks the plan. A segment whose keep is not valid is whole
 * in *plan afterwards, its status says why, and a line is logged. Returns what
 * the policy returned (then all of *plan is whole), or 0. Needs no engine of
 * ours: a foreign host fills the request with views of its own cache. A request that
 * makes no sense is refused with KVMOD_EINVAL before the policy sees it: sizes, counts,
 * strides, lengths, scales and the first and last of positions are checked; row data
 * and addresses other than NULL are the host's word. *plan is one of kvmod_plan_new().
 */
int kvmod_decide(struct kvmod_policy *policy, const struct kvmod_request *request,
		 struct kvmod_plan *plan);
/* Compacts host memory as *g says; checks nothing. dst may be src. */
void kvmod_gather_host(const struct kvmod_gather *g);

/* --- engines and sessions ----------------------------------------------------------- */

/* name NULL: the configured one. */
int kvmod_engine_open(struct kvmod_ctx *ctx, const char *name, struct kvmod_engine **engine);
void kvmod_engine_close(struct kvmod_engine *engine);
const struct kvmod_engine_ops *kvmod_engine_ops(const struct kvmod_engine *engine);
void *kvmod_engine_instance(const struct kvmod_engine *engine);
const struct kvmod_model *kvmod_engine_model(const struct kvmod_engine *engine);

/*
 * policy NULL: nothing is ever cut. Both must outlive the session. KVMOD_ENOTSUP for a
 * policy other than fullkv if the engine cuts nothing (KVMOD_ENGINE_WHOLE).
 */
int kvmod_session_open(struct kvmod_engine *engine, struct kvmod_policy *policy,
		       struct kvmod_session **session);
void kvmod_session_close(struct kvmod_session *session);

int kvmod_sequence_open(struct kvmod_session *session, struct kvmod_sequence **sequence);
void kvmod_sequence_close(struct kvmod_sequence *sequence);
/* A second sequence with the same cache; the policy's own state begins anew. */
int kvmod_sequence_fork(struct kvmod_sequence *sequence, struct kvmod_sequence **copy);
/* Forgets positions >= logical. */
int kvmod_sequence_truncate(struct kvmod_sequence *sequence, uint64_t logical);
uint64_t kvmod_sequence_length(struct kvmod_sequence *sequence);	/* logical */
/*
 * How many more tokens it can take as it is now; 0: the context is full. A policy that
 * closes the gaps it cuts makes room again, if the engine closes them too.
 */
uint64_t kvmod_sequence_room(struct kvmod_sequence *sequence);
/* The caller sets out->size. */
void kvmod_sequence_bytes(struct kvmod_sequence *sequence, struct kvmod_bytes *out);
struct kvmod_seq *kvmod_sequence_engine_seq(struct kvmod_sequence *sequence);

struct kvmod_prompt {
	uint32_t size;
	uint32_t replay_rows;		/* measure the plan's loss over so many rows, at most
					   half of the tokens seen; 0: don't */
	const int32_t *tokens;
	uint64_t n_tokens;
	float *logits;			/* [n_vocab], of the last token; may be NULL */
	void (*progress)(void *arg, uint64_t done);	/* tokens run so far; may be NULL */
	void *progress_arg;
};

struct kvmod_prompted {
	uint32_t size;
	int32_t status;			/* 0, or why the policy, or the cut, failed: what it
					   was to cut is whole then */
	double prefill_seconds, decision_seconds, apply_seconds;
	double budget;			/* kept positions / tokens seen */
	double replay_loss;		/* nats a token; NaN: not measured, or it could not be */
	struct kvmod_bytes before, after;
	/*
	 * 1: the policy was not asked, for the sequence has `[kvmod] leave_below` tokens
	 * or fewer and the policy's parameter `budget`, if it has one, is no count.
	 */
	uint32_t left_whole;
	uint32_t reserved;
};

/*
 * Appends a prompt to the sequence: runs it, asks the policy, cuts the cache.
 * On an error nothing was appended. A policy that fails, or a cut, is no error:
 * out->status says so, a line is logged, and what was to be cut is whole. The
 * caller sets out->size.
 */
int kvmod_sequence_prompt(struct kvmod_sequence *sequence, const struct kvmod_prompt *prompt,
			  struct kvmod_prompted *out);

/* A sequence as it was left: after its last prompt, or a cut while decoding since. */
struct kvmod_left {
	uint32_t size;
	uint32_t decode_cuts;		/* that freed something, since the last prompt */
	uint64_t seen;			/* tokens */
	double budget;			/* kept positions / tokens seen */
	struct kvmod_bytes bytes;
};
/* The caller sets out->size. All zero before the first prompt. */
void kvmod_sequence_left(const struct kvmod_sequence *sequence, struct kvmod_left *out);
/*
 * Positions that KV head `head` of `layer` kept then, of `*seen` tokens; seen may be
 * NULL. 0 of 0 in a layer that the engine's requests do not name, because it caches a
 * window alone; budgets are of the other layers.
 */
uint64_t kvmod_sequence_kept(const struct kvmod_sequence *sequence, uint32_t layer,
			     uint32_t head, uint64_t *seen);

/*
 * One token for each of n sequences, in one batch; logits[i] gets [n_vocab].
 * Policies that want decode calls get them here.
 */
int kvmod_session_decode(struct kvmod_session *session, struct kvmod_sequence *const *sequences,
			 const int32_t *tokens, float *const *logits, size_t n);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif
#endif
