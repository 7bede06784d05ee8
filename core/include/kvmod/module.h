/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvmod/module.h - what a module exports and what it gets from its host.
 *
 * A module is one shared object with one exported symbol, `kvmod_module`, that
 * KVMOD_MODULE() defines. It needs no symbol of libkvmod: everything that the
 * host offers comes through the table passed to init(). The same facts stand as
 * key=value strings in the ELF section ".kvmod.info", where `kvmod info` and the
 * loader read them without running the file.
 */
#ifndef KVMOD_MODULE_H
#define KVMOD_MODULE_H

#include <kvmod/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVMOD_MAGIC		0x646f6d76u	/* "vmod" */
#define KVMOD_INFO_SECTION	".kvmod.info"
#define KVMOD_EXPORT		__attribute__((visibility("default")))

/* Log levels, as syslog has them. */
#define KVMOD_ERROR	3u
#define KVMOD_WARN	4u
#define KVMOD_NOTE	5u
#define KVMOD_INFO	6u
#define KVMOD_DEBUG	7u

struct kvmod_policy_ops;
struct kvmod_engine_ops;
struct kvmod_device_ops;

/*
 * The host table. It lives until the module's exit() has returned. ctx is the
 * host's own and goes back to it as the first argument of every call.
 */
struct kvmod_host {
	uint32_t size;
	uint32_t abi_minor;		/* the host's */
	void *ctx;

	/* One line, no newline at its end. [any thread] */
	void (*log)(void *ctx, uint32_t level, const char *format, ...)
		__attribute__((format(printf, 3, 4)));
	/*
	 * Says in words why the call in progress fails; returns `code`, so that a
	 * module writes `return host->fail(host->ctx, KVMOD_EINVAL, "...")`.
	 * [the thread that runs the call]
	 */
	int32_t (*fail)(void *ctx, int32_t code, const char *format, ...)
		__attribute__((format(printf, 3, 4)));

	/* [within init() only] The ops must live until exit() has returned. */
	int32_t (*register_policy)(void *ctx, const struct kvmod_policy_ops *ops);
	int32_t (*register_engine)(void *ctx, const struct kvmod_engine_ops *ops);
	int32_t (*register_device)(void *ctx, const struct kvmod_device_ops *ops);

	/*
	 * Runs fn(arg, 0) ... fn(arg, n - 1) on the host's threads, the caller's
	 * among them, in any order, and returns when all are done. A module starts
	 * no threads of its own, so that it can be unmapped. Not to be nested.
	 * [the thread that runs the call]
	 */
	void (*parallel)(void *ctx, uint32_t n, void (*fn)(void *arg, uint32_t i), void *arg);
	uint32_t (*n_threads)(void *ctx);	/* that parallel() uses at most */

	/* What comes later: a table by name, "kvmod.x/1", or NULL. [any thread] */
	const void *(*get_extension)(void *ctx, const char *name);

	/*
	 * The device of that name, "cuda", opened with its section's parameters; its
	 * module is loaded first. Table and instance are the host's, and stay until the
	 * module goes: its exit() has them no more. Fails in words where the device cannot be had. [within the
	 * calls of an engine or policy, not in init() or exit(); may block]
	 */
	int32_t (*device)(void *ctx, const char *name,
			  const struct kvmod_device_ops **ops, void **self);
};

/* Parameter types and the field of the instance that each fills. */
#define KVMOD_PARAM_BOOL	1u	/* int32_t: 0, 1; yes/no, true/false, on/off, 1/0 */
#define KVMOD_PARAM_INT		2u	/* int64_t */
#define KVMOD_PARAM_REAL	3u	/* double */
#define KVMOD_PARAM_AMOUNT	4u	/* struct kvmod_amount: 0.25, 25%, 1024 */
#define KVMOD_PARAM_LIST	5u	/* struct kvmod_list: 2 or 0,1,5-8 */
#define KVMOD_PARAM_CHOICE	6u	/* int32_t: which of the choices, from 0 */
#define KVMOD_PARAM_STRING	7u	/* const char *, the core's; "" allowed */
#define KVMOD_PARAM_PATH	8u	/* const char *: ~ expanded, relative to the file that says it */

/*
 * Part of something that is not known yet: a number with a point or a percent
 * sign is a fraction, one without is a count.
 */
struct kvmod_amount {
	double value;			/* a fraction as 0.25, or a count */
	uint32_t is_count;
	uint32_t reserved;
};

/*
 * The amount of n, rounded down as its writer would: 29% of 100 is 29, although
 * no double is 0.29 and the nearest is below it. So a fraction counts as larger
 * by a part in 10^9.
 */
static inline uint64_t kvmod_amount_of(const struct kvmod_amount *a, uint64_t n)
{
	return (uint64_t)(a->is_count ? a->value : a->value * (1 + 1e-9) * (double)n);
}

/*
 * A plain number ("2": n_items = 1, plain = 1) or a list ("0,1,5-8", "3,": plain
 * = 0), ascending and unique. For layers a plain number means that many from
 * the front.
 */
struct kvmod_list {
	uint32_t n_items;
	uint32_t plain;
	const int64_t *items;
};

struct kvmod_param {
	const char *name;		/* [a-z0-9_]+; '-' and '_' are equal */
	uint32_t type;			/* KVMOD_PARAM_... */
	uint32_t offset;		/* of its field in the instance */
	const char *def;		/* as an INI file would say it */
	/*
	 * "LOW..HIGH", a bound may be left out; for a choice its words,
	 * "position|attention".
	 */
	const char *range;		/* "" where anything goes */
	const char *help;		/* one line, its unit and source named */
};

/*
 * What every instance (a policy, engine or device that was opened) starts with.
 * The core allocates it, zeroed, fills this and the parameters, then calls open.
 */
struct kvmod_instance {
	const struct kvmod_host *host;
	const void *ops;
};

/* Module flags. */
#define KVMOD_MODULE_RESIDENT	1u	/* never unmapped: it left CUDA code or threads behind */

struct kvmod_module {
	uint32_t size;
	uint32_t magic;			/* KVMOD_MAGIC */
	uint32_t abi_major;		/* KVMOD_ABI_MAJOR */
	uint32_t abi_minor;		/* the least that it needs of its host */
	uint32_t flags;
	uint32_t reserved;
	const char *name;
	const char *version;
	const char *license;		/* an SPDX expression */
	const char *author;
	const char *description;
	/*
	 * Registers what the module provides; no work that can wait for open. When
	 * it fails, what it registered is taken back. [one thread at a time]
	 */
	int32_t (*init)(const struct kvmod_host *host);
	void (*exit)(void);		/* after the last holder is gone; may be NULL */
};

/* GCC would write the strings in an order of its own. */
#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#define KVMOD_IN_ORDER __attribute__((no_reorder))
#else
#define KVMOD_IN_ORDER
#endif
/* One string of the section; `tag` makes its C name unique in the file. */
#define KVMOD_INFO_STRING(tag, text) \
	__attribute__((section(KVMOD_INFO_SECTION), used, aligned(1))) KVMOD_IN_ORDER \
	static const char kvmod_info_##tag[] = text

#define KVMOD_STR_(x)	#x
#define KVMOD_STR(x)	KVMOD_STR_(x)
#define KVMOD_ABI_TEXT	KVMOD_STR(KVMOD_ABI_MAJOR) "." KVMOD_STR(KVMOD_ABI_MINOR)

/*
 * The descriptor, the exported symbol and its strings, all from one place:
 *
 *	KVMOD_MODULE("mine", "1.0", "Apache-2.0", "Me <me@here>",
 *		     "keeps what I like", 0, mine_init, NULL);
 *
 * A program that links a module in statically defines KVMOD_MODULE_SYMBOL to a
 * name of its own before it includes this header, and gives that descriptor to
 * kvmod_add_builtin().
 */
#ifndef KVMOD_MODULE_SYMBOL
#define KVMOD_MODULE_SYMBOL kvmod_module
#endif
#define KVMOD_MODULE(name_, version_, license_, author_, description_, flags_, init_, exit_) \
	KVMOD_INFO_STRING(abi, "abi=" KVMOD_ABI_TEXT); \
	KVMOD_INFO_STRING(name, "name=" name_); \
	KVMOD_INFO_STRING(version, "version=" version_); \
	KVMOD_INFO_STRING(license, "license=" license_); \
	KVMOD_INFO_STRING(author, "author=" author_); \
	KVMOD_INFO_STRING(description, "description=" description_); \
	extern KVMOD_EXPORT const struct kvmod_module KVMOD_MODULE_SYMBOL; \
	const struct kvmod_module KVMOD_MODULE_SYMBOL = { \
		.size = sizeof(struct kvmod_module), \
		.magic = KVMOD_MAGIC, \
		.abi_major = KVMOD_ABI_MAJOR, \
		.abi_minor = KVMOD_ABI_MINOR, \
		.flags = (flags_), \
		.name = name_, \
		.version = version_, \
		.license = license_, \
		.author = author_, \
		.description = description_, \
		.init = (init_), \
		.exit = (exit_), \
	}

/*
 * Parameters, said once, for the table and for the section. The author lists
 * them in a macro of two arguments:
 *
 *	#define MINE_PARAMS(P, owner) \
 *		P(owner, struct mine, sinks, INT, "4", "0..1024", "oldest positions, always kept")
 *	KVMOD_PARAMS(policy, mine, MINE_PARAMS);
 *
 * which defines `mine_params[]`, and in the section "policy=mine" and a
 * "param=mine.sinks\tINT\t4\t0..1024\toldest positions, always kept" for each
 * (tabs between the parts; what: policy, engine or device).
 */
#define KVMOD_PARAM_ENTRY_(owner, type_, field, kind, def_, range_, help_) \
	{ #field, KVMOD_PARAM_##kind, (uint32_t)offsetof(type_, field), def_, range_, help_ },
#define KVMOD_PARAM_INFO_(owner, type_, field, kind, def_, range_, help_) \
	KVMOD_INFO_STRING(param_##owner##_##field, "param=" #owner "." #field "\t" \
			  #kind "\t" def_ "\t" range_ "\t" help_);
#define KVMOD_PARAMS(what, owner, LIST) \
	KVMOD_INFO_STRING(what##_##owner, #what "=" #owner); \
	LIST(KVMOD_PARAM_INFO_, owner) \
	static const struct kvmod_param owner##_params[] = { \
		LIST(KVMOD_PARAM_ENTRY_, owner) \
	}
/* For a policy, engine or device without parameters. */
#define KVMOD_NO_PARAMS(what, owner) KVMOD_INFO_STRING(what##_##owner, #what "=" #owner)

/*
 * Where a policy of this module runs, as its table says in `devices`:
 * KVMOD_RUNS_ON(mine, "cpu cuda"). Without this it is the CPU.
 */
#define KVMOD_RUNS_ON(owner, devices) \
	KVMOD_INFO_STRING(on_##owner, "on=" #owner "\t" devices)
/*
 * What a module was compiled for, in words that `kvmod info` shows:
 * KVMOD_BUILT_FOR(cuda, "CUDA 13.0: sm_80 sm_90 compute_90").
 */
#define KVMOD_BUILT_FOR(tag, text) KVMOD_INFO_STRING(built_for_##tag, "built_for=" text)

#ifdef __cplusplus
}
#endif
#endif
