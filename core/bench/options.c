/* SPDX-License-Identifier: Apache-2.0 */
#include "core/bench/options.h"

#include <string.h>

static uint32_t read_type(const struct cli_command *self, const char *name)
{
	static const char *const names[] = { "f32", "f16", "bf16", "q8_0" };

	for (uint32_t i = 0; i < CLI_COUNT(names); i++)
		if (strcmp(name, names[i]) == 0)
			return KVMOD_F32 + i;
	cli_usage_error(self, "--dtype %s: expected f32, f16, bf16 or q8_0", name);
}

uint32_t bench_in_range(const struct cli_command *self, const char *what, uint64_t value,
			uint64_t low, uint64_t high)
{
	if (value < low || value > high)
		cli_usage_error(self, "%s %llu: expected %llu to %llu", what,
				(unsigned long long)value, (unsigned long long)low,
				(unsigned long long)high);
	return (uint32_t)value;
}

struct bench_shape bench_shape(const struct cli_command *self, const struct bench_options *o)
{
	struct bench_shape s = {
		.type = read_type(self, o->dtype),
		.n_layers = bench_in_range(self, "--layers", o->layers, 1, 1024),
		.n_q_heads = bench_in_range(self, "--q-heads", o->q_heads, 1, 1024),
		.head_dim = bench_in_range(self, "--head-dim", o->head_dim, 1, 1024),
		.n_sequences = bench_in_range(self, "--batch", o->batch, 1, 1024),
	};

	s.n_kv_heads = bench_in_range(self, "--kv-heads", o->kv_heads, 1, s.n_q_heads);
	bench_in_range(self, "--rounds", o->rounds, 9, BENCH_MAX_ROUNDS);
	for (size_t i = 0; i < o->lengths.n; i++)
		bench_in_range(self, "--lengths", o->lengths.item[i], 1, BENCH_MAX_LENGTH);
	if (s.n_q_heads % s.n_kv_heads)
		cli_usage_error(self, "%u query heads cannot share %u KV heads evenly",
				s.n_q_heads, s.n_kv_heads);
	if (s.type == KVMOD_Q8_0 && s.head_dim % 32)
		cli_usage_error(self, "--dtype q8_0 has blocks of 32: --head-dim %u is no multiple",
				s.head_dim);
	return s;
}
