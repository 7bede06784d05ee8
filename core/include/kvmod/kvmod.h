/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvmod/kvmod.h - libkvmod: finds, checks and loads modules, reads the
 * configuration, opens policies and engines, asks for decisions, and joins policy
 * and engine in sessions.
 *
 * Every call that can fail returns 0 or a KVMOD_E... code; kvmod_error() then
 * returns the reason in words. Objects are opaque. Several threads may use a
 * context; a policy, engine or session may be used by one thread at a time.
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
struct kvmod_device;	/* an open device: a kind of memory */
struct kvmod_policy;	/* a policy, opened for one model */
struct kvmod_engine;	/* an open engine with a loaded model */
struct kvmod_session;	/* engine and policy together */
struct kvmod_sequence;	/* one conversation or document in a session */

/* --- context ---------------------------------------------------------------- */

/* A new context, with one reference and without a configuration. */
int kvmod_new(struct kvmod_ctx **ctx);
struct kvmod_ctx *kvmod_ref(struct kvmod_ctx *ctx);
/* Frees it with the last reference; an open policy, engine or device holds one too. */
void kvmod_unref(struct kvmod_ctx *ctx);

/*
 * Where log lines go (default: stderr), and the least important level to log. Any
 * thread may make both calls at any time. fn may be called from several threads at
 * once, and in the middle of a change to the context; of all calls that take the
 * context, fn may make only these two. A line that another thread is logging when fn
 * and arg are replaced may still go to the old pair: keep that pair until the calls
 * that were running in other threads have returned.
 */
typedef void kvmod_log_fn(void *arg, uint32_t level, const char *line);
void kvmod_set_log(struct kvmod_ctx *ctx, kvmod_log_fn *fn, void *arg);
void kvmod_set_log_level(struct kvmod_ctx *ctx, uint32_t level);

/* The reason of this thread's last failure; "" if no call has failed. Never NULL. */
const char *kvmod_error(void);
/*
 * Makes that "". A program does this before it makes a call of an ops table itself: a
 * module that then fails without a word does not get the reason of an earlier failure.
 */
void kvmod_error_forget(void);
/* "KVMOD_EPLAN" and the like; never NULL. */
const char *kvmod_strerror(int code);
/* "0.2.0" */
const char *kvmod_version(void);

/* --- configuration ----------------------------------------------------------- */

/*
 * Reads kvmod.conf, kvmod.conf.d/ beside it and the overrides
 * "SECTION.KEY=VALUE". If a key is set several times, only the last value counts and
 * is checked. Checks every section that the core or a module knows, and puts the
 * result into force in the context. path NULL: the first that exists of $KVMOD_CONF,
 * the user's file, the system's file, and the build tree's. After an error the context
 * keeps its old configuration.
 */
int kvmod_configure(struct kvmod_ctx *ctx, const char *path,
		    const char *const *overrides, size_t n_overrides);

/* The result of kvmod_check() for one thing that the configuration names. */
struct kvmod_finding {
	uint32_t size;
	int32_t code;			/* 0, or KVMOD_ECRASH, KVMOD_ETIMEOUT, ... */
	const char *kind;		/* "policy", "engine", "device"; "alias"; "configuration",
					   "drop-in" */
	const char *name;		/* its name; the file for the last two kinds, or "" */
	const char *message;		/* one line; "" if there is no error */
	const char *module;		/* the module's file, or "" */
	double seconds;			/* how long the check took */
};
typedef void kvmod_finding_fn(void *arg, const struct kvmod_finding *finding);

/*
 * Reads a configuration as kvmod_configure() does and tries it, but leaves the
 * context as it is. For each policy, engine and device that the configuration names, a
 * child process loads the module and fills in the parameters; a policy is also opened
 * for a tiny made-up model and decides one request. The engine that [kvmod] names
 * checks its model, without weights if it can, and the policy in use is opened for
 * that model. A module that crashes, or takes longer than limit_ms (0: 10 seconds),
 * takes down only its child. fn, which may be NULL, gets a finding for each policy,
 * engine and device tried, each file read, and each alias. Returns 0, or the code of
 * the first finding that is an error; kvmod_error() then returns its message. A child
 * is forked from the calling thread and runs no exit handlers.
 */
int kvmod_check(struct kvmod_ctx *ctx, const char *path,
		const char *const *overrides, size_t n_overrides, uint32_t limit_ms,
		kvmod_finding_fn *fn, void *arg);
/*
 * Reads the same files and overrides again, tries them as kvmod_check() does, and
 * puts them into force. After an error the context keeps the whole old configuration.
 * Open policies, engines and devices keep the parameters that they were opened with.
 */
int kvmod_reload(struct kvmod_ctx *ctx);
/* The file that was read, or NULL. */
const char *kvmod_config_path(struct kvmod_ctx *ctx);
/*
 * The raw value of a key, or NULL if the key is not set; sections are "kvmod", "policy
 * refreekv", ... Strings of a configuration live as long as the context.
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
	const char *value;		/* as a file would have it; paths are absolute */
	const char *file;		/* where the value is set, or NULL */
	uint32_t line;			/* in that file */
	uint32_t reserved;
};
typedef int kvmod_setting_fn(void *arg, const struct kvmod_setting *setting);

/*
 * Calls fn for each value in force, section by section: those of [kvmod]; the
 * parameters of the policy, engine and device in use, and of all others that have a
 * section; aliases; the blacklist. Strings live until fn returns. A value other than
 * 0 from fn ends the walk and is returned.
 */
int kvmod_settings_each(struct kvmod_ctx *ctx, kvmod_setting_fn *fn, void *arg);

/*
 * The absolute path of a data file ("template/policy.c"): in the build tree if the
 * program runs from one, else in the installed folder. Free it with free().
 */
int kvmod_data_path(struct kvmod_ctx *ctx, const char *name, char **path);

/* --- modules ------------------------------------------------------------------ */

/* The metadata of a module file. */
struct kvmod_modinfo;
/* Reads the metadata without running the file. Refuses a file that the loader would refuse. */
int kvmod_modinfo_read(struct kvmod_ctx *ctx, const char *path, struct kvmod_modinfo **info);
void kvmod_modinfo_free(struct kvmod_modinfo *info);
const char *kvmod_modinfo_path(const struct kvmod_modinfo *info);
/*
 * The value of the i-th string with that key, or NULL after the last one: "name",
 * "version", "license", "author", "description", "abi", "policy", "engine",
 * "device", "param" (see KVMOD_PARAMS), "on" (KVMOD_RUNS_ON), "uses" (KVMOD_USES),
 * "built_for".
 */
const char *kvmod_modinfo_get(const struct kvmod_modinfo *info, const char *key, unsigned i);

/*
 * Calls fn for each module file in module_path, in name order. If the loader would
 * refuse the file, error is the code (kvmod_error() has the reason) and info is NULL;
 * else error is 0. A value other than 0 from fn ends the walk and is returned.
 */
int kvmod_modules_each(struct kvmod_ctx *ctx,
		       int (*fn)(void *arg, const char *path, int error,
				 const struct kvmod_modinfo *info), void *arg);

/* Loads a module by name (in module_path) or absolute path, unless it is loaded. */
int kvmod_load(struct kvmod_ctx *ctx, const char *name_or_path);
/* Returns KVMOD_EBUSY while something that the module provides is open. */
int kvmod_unload(struct kvmod_ctx *ctx, const char *name);
/*
 * Adds a module that is linked into the program. Call this before kvmod_configure(),
 * so that the module's sections are checked.
 */
int kvmod_add_builtin(struct kvmod_ctx *ctx, const struct kvmod_module *module);

/* --- devices ----------------------------------------------------------------------- */

/*
 * Opens a device, such as "cpu" or "cuda", with the parameters of its section, after loading
 * the module that provides it. A context opens each device once and closes it with the
 * last holder.
 */
int kvmod_device_open(struct kvmod_ctx *ctx, const char *name, struct kvmod_device **device);
void kvmod_device_close(struct kvmod_device *device);
const struct kvmod_device_ops *kvmod_device_ops(const struct kvmod_device *device);
void *kvmod_device_instance(const struct kvmod_device *device);

/* --- policies -------------------------------------------------------------------- */

/*
 * Opens a policy for a model, with the parameters of its section in the configuration,
 * after loading the module that provides it. name NULL: the configured policy.
 *
 * device: the name of a device for the policy, or "auto"; NULL: as configured. "auto" is
 * the device with the model's cache (model->device), if the policy has a version for it,
 * else "cpu", else the first device that the policy names and that can be opened. The
 * core copies data from other devices to that device before it asks the policy, and logs
 * the copying once.
 */
int kvmod_policy_open(struct kvmod_ctx *ctx, const char *name, const char *device,
		      const struct kvmod_model *model, struct kvmod_policy **policy);
void kvmod_policy_close(struct kvmod_policy *policy);
const struct kvmod_policy_ops *kvmod_policy_ops(const struct kvmod_policy *policy);
/* The device that the policy runs on: "cpu", "cuda". */
const char *kvmod_policy_device(const struct kvmod_policy *policy);
const struct kvmod_needs *kvmod_policy_needs(const struct kvmod_policy *policy);
/* Creates and frees the policy's state for a sequence: before its first request, after its last. */
int kvmod_policy_begin(struct kvmod_policy *policy, uint64_t sequence, void **state);
void kvmod_policy_end(struct kvmod_policy *policy, uint64_t sequence, void *state);

/* Counters since the policy was opened. */
struct kvmod_counters {
	uint32_t size;
	uint32_t reserved;
	uint64_t requests;
	uint64_t segments;				/* decided, including those kept whole */
	/*
	 * Summed over segments and KV heads. positions_seen counts all tokens of the
	 * sequence, also those that earlier requests cut: kept / seen is the mean budget.
	 */
	uint64_t positions_seen, positions_kept;
	uint64_t bytes_freed;				/* of K and V, by valid plans */
	uint64_t failed_calls, failed_plans, failed_segments;
	uint64_t nanoseconds;				/* in compress() */
};
void kvmod_policy_counters(const struct kvmod_policy *policy, struct kvmod_counters *out);

/* --- deciding -------------------------------------------------------------------- */

/*
 * Makes a plan with room for any answer to this request: all lists of indices, and
 * max_spans spans. The new plan keeps every segment whole.
 */
int kvmod_plan_new(const struct kvmod_request *request, struct kvmod_plan **plan);
/*
 * The same, but reuses the memory of *plan (NULL, or made by these functions) if it is
 * large enough; else *plan is freed and replaced. For callers that decide often: making
 * a plan can take longer than the decision. After an error *plan is unchanged.
 */
int kvmod_plan_renew(const struct kvmod_request *request, struct kvmod_plan **plan);
void kvmod_plan_free(struct kvmod_plan *plan);
/* How many positions KV head `head` of segment `i` keeps. */
uint64_t kvmod_plan_count(const struct kvmod_request *request, const struct kvmod_plan *plan,
			  uint32_t i, uint32_t head);
/* Kept positions / tokens seen, over all segments and KV heads. */
double kvmod_plan_budget(const struct kvmod_request *request, const struct kvmod_plan *plan);
/*
 * Returns 0 if keep `i` is in range, sorted, unique and not empty, contains the newest
 * position (unless flags has KVMOD_POLICY_MAY_DROP_NEWEST), and stores rows as known types
 * whose blocks divide head_dim; else KVMOD_EPLAN.
 */
int kvmod_plan_check(const struct kvmod_request *request, const struct kvmod_plan *plan,
		     uint32_t i, uint32_t flags);

/*
 * Checks the request, asks the policy, and checks the plan. Returns 0, or the error of
 * the request or the policy; after an error *plan keeps everything. After 0, each
 * segment whose keep was not valid is kept whole, its status has the reason, and a
 * line is logged. No engine is needed: a host fills the request with views of its own
 * cache. An inconsistent request is refused with KVMOD_EINVAL before the policy
 * sees it: sizes, counts, strides, lengths, scales and the first and last of the positions
 * are checked; row data and addresses other than NULL are trusted. *plan must come from
 * kvmod_plan_new() or kvmod_plan_renew().
 */
int kvmod_decide(struct kvmod_policy *policy, const struct kvmod_request *request,
		 struct kvmod_plan *plan);
/* Compacts host memory; dst may be src. The arguments are not checked. */
void kvmod_gather_host(const struct kvmod_gather *g);

/* --- engines and sessions ----------------------------------------------------------- */

/* name NULL: the configured engine. */
int kvmod_engine_open(struct kvmod_ctx *ctx, const char *name, struct kvmod_engine **engine);
void kvmod_engine_close(struct kvmod_engine *engine);
const struct kvmod_engine_ops *kvmod_engine_ops(const struct kvmod_engine *engine);
void *kvmod_engine_instance(const struct kvmod_engine *engine);
const struct kvmod_model *kvmod_engine_model(const struct kvmod_engine *engine);
/*
 * The engine's tokenize(), detokenize() and chat(), with its answer checked: a failure has
 * words, and after 0 *n_tokens, or *length, is no more than the room that it was on entry.
 * KVMOD_ERANGE, with the count, if the room was too small.
 */
int kvmod_engine_tokenize(struct kvmod_engine *engine, const char *text, size_t length,
			  uint32_t flags, int32_t *tokens, size_t *n_tokens);
int kvmod_engine_detokenize(struct kvmod_engine *engine, int32_t token, char *text,
			    size_t *length);
int kvmod_engine_chat(struct kvmod_engine *engine, const struct kvmod_message *messages,
		      size_t n_messages, uint32_t first, int32_t *tokens, size_t *n_tokens);
/*
 * chat_part(), checked in the same way. KVMOD_ENOTSUP if the engine has no such call and
 * `part` is not KVMOD_CHAT_WHOLE; for that it gets chat(), and *n_opening is 0.
 */
int kvmod_engine_chat_part(struct kvmod_engine *engine, const struct kvmod_message *messages,
			   size_t n_messages, uint32_t first, uint32_t part, int32_t *tokens,
			   size_t *n_tokens, size_t *n_opening);

/*
 * policy NULL: nothing is ever cut. Both must outlive the session. KVMOD_ENOTSUP for a
 * policy other than fullkv if the engine cannot cut its cache (KVMOD_ENGINE_WHOLE).
 */
int kvmod_session_open(struct kvmod_engine *engine, struct kvmod_policy *policy,
		       struct kvmod_session **session);
void kvmod_session_close(struct kvmod_session *session);
/*
 * For comparing policies on prompts that are run once: while prompts of this session, which
 * has no policy, run, what this policy needs is collected, too. See kvmod_sequence_fork_to().
 * KVMOD_ENOTSUP if the engine cannot serve these needs, or cannot tell them apart from what
 * other policies need: statistics of queries that begin elsewhere take another session.
 */
int kvmod_session_collect(struct kvmod_session *session, const struct kvmod_policy *policy);

int kvmod_sequence_open(struct kvmod_session *session, struct kvmod_sequence **sequence);
void kvmod_sequence_close(struct kvmod_sequence *sequence);
/* Makes a second sequence with a copy of the cache and a new policy state. */
int kvmod_sequence_fork(struct kvmod_sequence *sequence, struct kvmod_sequence **copy);
/* Drops positions >= logical. */
int kvmod_sequence_truncate(struct kvmod_sequence *sequence, uint64_t logical);
uint64_t kvmod_sequence_length(struct kvmod_sequence *sequence);	/* logical */
/*
 * How many more tokens the sequence can take at present; 0: the context is full. Cuts
 * make room only if both the policy and the engine close gaps.
 */
uint64_t kvmod_sequence_room(struct kvmod_sequence *sequence);
/* The caller sets out->size. */
void kvmod_sequence_bytes(struct kvmod_sequence *sequence, struct kvmod_bytes *out);
struct kvmod_seq *kvmod_sequence_engine_seq(struct kvmod_sequence *sequence);

/*
 * kvmod_prompt.flags: the prompt is appended whole, without asking the policy. What
 * earlier cuts left stays as it is, too: a question after a context that was cut.
 */
#define KVMOD_PROMPT_KEEP	1u
/*
 * The prompt is a context, and what is asked about it comes later: policies see
 * kvmod_request.question_later.
 */
#define KVMOD_PROMPT_CONTEXT	2u

struct kvmod_prompt {
	uint32_t size;
	uint32_t replay_rows;		/* measure the plan's loss on this many tokens, at most
					   half of those seen; 0: do not measure it */
	const int32_t *tokens;
	uint64_t n_tokens;
	float *logits;			/* [n_vocab], of the last token; may be NULL */
	void (*progress)(void *arg, uint64_t done);	/* tokens run so far; may be NULL */
	void *progress_arg;
	/*
	 * How many of the first tokens are the chat template's, before what the user wrote:
	 * n_opening of kvmod_engine_chat_part(). Only the first prompt of a sequence counts.
	 */
	uint64_t n_opening;
	uint32_t flags;			/* KVMOD_PROMPT_... */
	uint32_t reserved;		/* 0 */
};

struct kvmod_prompted {
	uint32_t size;
	int32_t status;			/* 0, or the code with which the policy or the cut
					   failed; the cache is then not cut */
	double prefill_seconds, decision_seconds, apply_seconds;
	double budget;			/* kept positions / tokens seen */
	double replay_loss;		/* nats a token; NaN: not measured */
	struct kvmod_bytes before, after;
	/*
	 * 1: the policy was not asked, because the sequence has `[kvmod] leave_below` tokens
	 * or fewer, and the policy's parameter `budget`, if it has one, is not a count.
	 */
	uint32_t left_whole;
	uint32_t reserved;
};

/*
 * Appends a prompt to the sequence: runs it, asks the policy, and cuts the cache. After
 * an error nothing was appended. A failure of the policy or of the cut is not an error:
 * out->status has its code, a line is logged, and what could not be cut stays whole. The
 * caller sets out->size.
 */
int kvmod_sequence_prompt(struct kvmod_sequence *sequence, const struct kvmod_prompt *prompt,
			  struct kvmod_prompted *out);

/*
 * kvmod_sequence_fork() into another session of the same engine, right after a prompt of a
 * session without a policy. The other session's policy then decides about the copy, and sees
 * what it would see if the newest prompt had been run in its own session: this one has
 * collected what it needs. `out` is that of kvmod_sequence_prompt(), without prefill_seconds;
 * with replay_rows the loss is measured.
 */
int kvmod_sequence_fork_to(struct kvmod_sequence *sequence, struct kvmod_session *session,
			   uint32_t replay_rows, struct kvmod_sequence **copy,
			   struct kvmod_prompted *out);

/* A sequence as its last cut left it; the cut came after a prompt or while decoding. */
struct kvmod_left {
	uint32_t size;
	uint32_t decode_cuts;		/* cuts since the last prompt that freed something */
	uint64_t seen;			/* tokens */
	double budget;			/* kept positions / tokens seen */
	struct kvmod_bytes bytes;
};
/* The caller sets out->size. All zero before the first prompt. */
void kvmod_sequence_left(const struct kvmod_sequence *sequence, struct kvmod_left *out);
/*
 * Positions that KV head `head` of `layer` kept in that cut, of *seen tokens; seen may
 * be NULL. 0 of 0 in a layer that caches only a window: requests do not contain it, and
 * budgets do not count it.
 */
uint64_t kvmod_sequence_kept(const struct kvmod_sequence *sequence, uint32_t layer,
			     uint32_t head, uint64_t *seen);
/*
 * Which of the first n positions are cached at present: shares[i] becomes the share of KV
 * heads, over the layers that requests contain, which cache position i. 0 beyond the end of
 * the sequence. Asks the engine, so its code may fail.
 */
int kvmod_sequence_positions(struct kvmod_sequence *sequence, double *shares, uint64_t n);

/*
 * Runs one token for each of n sequences, in one batch; logits[i] gets [n_vocab] values.
 * Asks the policy when a cut is due, if the policy decides while decoding.
 */
int kvmod_session_decode(struct kvmod_session *session, struct kvmod_sequence *const *sequences,
			 const int32_t *tokens, float *const *logits, size_t n);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif
#endif
