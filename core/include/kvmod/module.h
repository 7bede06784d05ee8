/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvmod/module.h - what a module exports and what it gets from its host.
 *
 * A module is one shared object with one exported symbol, `kvmod_module`, that
 * KVMOD_MODULE() defines. It needs no symbol of libkvmod: everything that the
 * host offers comes through the table passed to init(). KVMOD_MODULE() also writes the
 * module's metadata as key=value strings to the ELF section ".kvmod.info", where
 * `kvmod info` and the loader read them without running the file.
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
 * The host table. It is valid until the module's exit() has returned. ctx belongs to
 * the host; a module passes it as the first argument of every call.
 */
struct kvmod_host {
	uint32_t size;
	uint32_t abi_minor;		/* the host's */
	void *ctx;

	/* Logs one line, without a newline at its end. [any thread] */
	void (*log)(void *ctx, uint32_t level, const char *format, ...)
		__attribute__((format(printf, 3, 4)));
	/*
	 * Sets the message for the failure of the call in progress; returns `code`, so that
	 * a module can write `return host->fail(host->ctx, KVMOD_EINVAL, "...")`.
	 * [the thread that runs the call]
	 */
	int32_t (*fail)(void *ctx, int32_t code, const char *format, ...)
		__attribute__((format(printf, 3, 4)));

	/* [within init() only] The ops must live until exit() has returned. */
	int32_t (*register_policy)(void *ctx, const struct kvmod_policy_ops *ops);
	int32_t (*register_engine)(void *ctx, const struct kvmod_engine_ops *ops);
	int32_t (*register_device)(void *ctx, const struct kvmod_device_ops *ops);

	/*
	 * Runs fn(arg, 0) ... fn(arg, n - 1) on the host's threads, including the
	 * caller's, in any order, and returns when all are done. A module must not start
	 * threads itself, so that it can be unmapped. Calls must not be nested.
	 * [the thread that runs the call]
	 */
	void (*parallel)(void *ctx, uint32_t n, void (*fn)(void *arg, uint32_t i), void *arg);
	uint32_t (*n_threads)(void *ctx);	/* the most threads that parallel() uses */

	/*
	 * Returns an extension, a table of calls, by its name, such as "kvmod.toolkit/1" of
	 * kvmod/toolkit.h; NULL if the host does not offer it. [any thread]
	 */
	const void *(*get_extension)(void *ctx, const char *name);

	/*
	 * Opens the device of that name, "cuda", with its section's parameters, after
	 * loading its module. Table and instance belong to the host and are valid until
	 * the calling module is unloaded, but not in its exit(). Sets the message if the
	 * device cannot be opened. [within the calls of an engine or policy, not in init()
	 * or exit(); may block]
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
#define KVMOD_PARAM_PATH	8u	/* const char *: ~ expanded, relative to its file */

/*
 * A part of something whose size is not known yet: a number with a point or a percent
 * sign is a fraction, one without is a count.
 */
struct kvmod_amount {
	double value;			/* a fraction as 0.25, or a count */
	uint32_t is_count;
	uint32_t reserved;
};

/*
 * The amount of n, rounded down as a person would: 29% of 100 is 29, although the
 * double nearest to 0.29 is below it. To that end a fraction is increased by one part
 * in 10^9.
 */
static inline uint64_t kvmod_amount_of(const struct kvmod_amount *a, uint64_t n)
{
	return (uint64_t)(a->is_count ? a->value : a->value * (1 + 1e-9) * (double)n);
}

/*
 * A plain number ("2": n_items = 1, plain = 1) or a list ("0,1,5-8", "3,": plain
 * = 0), ascending and unique. In a list of layers a plain number N means the first
 * N layers.
 */
struct kvmod_list {
	uint32_t n_items;
	uint32_t plain;
	const int64_t *items;
};

/* Frozen, because parameters are elements of a plain array. */
struct kvmod_param {
	const char *name;		/* [a-z0-9_]+; '-' and '_' are equal */
	uint32_t type;			/* KVMOD_PARAM_... */
	uint32_t offset;		/* of its field in the instance */
	const char *def;		/* the default, written as in an INI file */
	/*
	 * "LOW..HIGH", where either bound may be left out; for a choice its words,
	 * "position|attention".
	 */
	const char *range;		/* "": no limits */
	const char *help;		/* one line, with unit and source */
};

/*
 * The first member of every instance (an open policy, engine or device). The core
 * allocates the instance, zeroed, fills in this struct and the parameters, then calls
 * open().
 */
struct kvmod_instance {
	const struct kvmod_host *host;
	const void *ops;
};

/* Module flags. */
#define KVMOD_MODULE_RESIDENT	1u	/* never unmapped, because CUDA code or threads remain */

struct kvmod_module {
	uint32_t size;
	uint32_t magic;			/* KVMOD_MAGIC */
	uint32_t abi_major;		/* KVMOD_ABI_MAJOR */
	uint32_t abi_minor;		/* the least that the host must offer */
	uint32_t flags;
	uint32_t reserved;
	const char *name;
	const char *version;
	const char *license;		/* an SPDX expression */
	const char *author;
	const char *description;
	/*
	 * Registers what the module provides; other work should wait for open(). If init()
	 * fails, the core undoes its registrations. [one thread at a time]
	 */
	int32_t (*init)(const struct kvmod_host *host);
	void (*exit)(void);		/* after everything is closed; may be NULL */
};

/* Keeps the strings in source order; GCC would reorder them. */
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
 * Defines the descriptor, the exported symbol and the metadata strings:
 *
 *	KVMOD_MODULE("mine", "1.0", "Apache-2.0", "Me <me@here>",
 *		     "keeps what I like", 0, mine_init, NULL);
 *
 * A program that links a module statically defines KVMOD_MODULE_SYMBOL as another
 * name before it includes this header, and passes that descriptor to
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
 * Parameters: one list for both the table and the ELF section. The author writes the
 * list as a macro of two arguments:
 *
 *	#define MINE_PARAMS(P, owner) \
 *		P(owner, struct mine, sinks, INT, "4", "0..1024", "oldest positions, always kept")
 *	KVMOD_PARAMS(policy, mine, MINE_PARAMS);
 *
 * This defines `mine_params[]`, and in the section the strings "policy=mine" and, for
 * each parameter, "param=mine.sinks\tINT\t4\t0..1024\toldest positions, always kept"
 * (parts separated by tabs). The first argument is policy, engine or device.
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
 * Where a policy of this module runs, exactly as in `devices` of its table:
 * KVMOD_RUNS_ON(mine, "cpu cuda"). A policy for the CPU alone needs neither.
 */
#define KVMOD_RUNS_ON(owner, devices) \
	KVMOD_INFO_STRING(on_##owner, "on=" #owner "\t" devices)
/*
 * An extension of the host that the module needs: KVMOD_USES(toolkit, "kvmod.toolkit/1").
 * A host without that extension refuses the module before any of its code runs. `tag`
 * makes the string's C name unique in the file.
 */
#define KVMOD_USES(tag, extension) KVMOD_INFO_STRING(uses_##tag, "uses=" extension)
/*
 * What a module was compiled for, in words that `kvmod info` shows:
 * KVMOD_BUILT_FOR(cuda, "CUDA 13.0: sm_80 sm_90 compute_90").
 */
#define KVMOD_BUILT_FOR(tag, text) KVMOD_INFO_STRING(built_for_##tag, "built_for=" text)

#ifdef __cplusplus
}
#endif
#endif
