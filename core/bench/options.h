/* SPDX-License-Identifier: Apache-2.0 */
/* The options that describe a made-up cache. */
#ifndef KV_CORE_BENCH_OPTIONS_H
#define KV_CORE_BENCH_OPTIONS_H

#include "core/bench/cache.h"
#include "core/cli/cli.h"

#define BENCH_MAX_ROUNDS 1000
#define BENCH_MAX_LENGTH (1 << 24)

struct bench_options {
	const char *dtype, *device;
	uint64_t layers, q_heads, kv_heads, head_dim, batch, rounds;
	struct cli_numbers lengths;
};

/* The shape of Llama-3-8B. */
#define BENCH_DEFAULTS \
	.dtype = "f16", .device = "cpu", .layers = 32, .q_heads = 32, .kv_heads = 8, \
	.head_dim = 128, .batch = 1, .rounds = 9, .lengths = { 2, { 8192, 32768 } }

/* Entries for a table of options, for all of these but q_heads, which not every bench has. */
#define BENCH_OPTIONS(o) \
	{ "device", 0, CLI_STRING, &(o)->device, "NAME", "the device that holds the cache [cpu]" }, \
	{ "layers", 0, CLI_NUMBER, &(o)->layers, "N", "layers [32]" }, \
	{ "kv-heads", 0, CLI_NUMBER, &(o)->kv_heads, "N", "KV heads of a layer [8]" }, \
	{ "head-dim", 0, CLI_NUMBER, &(o)->head_dim, "N", "dimensions of a head [128]" }, \
	{ "batch", 0, CLI_NUMBER, &(o)->batch, "N", "sequences of a request [1]" }, \
	{ "lengths", 0, CLI_NUMBERS, &(o)->lengths, "N,N...", "cached positions [8192,32768]" }, \
	{ "dtype", 0, CLI_STRING, &(o)->dtype, "TYPE", "f32, f16, bf16, q8_0 or q4_0 [f16]" }, \
	{ "rounds", 0, CLI_NUMBER, &(o)->rounds, "N", "timed rounds, at least 9 [9]" }

/* The shape that the options describe; a usage error ends the program. */
struct bench_shape bench_shape(const struct cli_command *self, const struct bench_options *o);
/* A usage error unless low <= value <= high. what: the option, such as "--rounds". */
uint32_t bench_in_range(const struct cli_command *self, const char *what, uint64_t value,
			uint64_t low, uint64_t high);

#endif
