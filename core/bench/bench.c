/* SPDX-License-Identifier: Apache-2.0 */
/* kvmod bench: what is measured, a file each. */
#include "core/cli/cli.h"

static const struct cli_command *const benches[] = {
	&cli_bench_decision, &cli_bench_engine, &cli_bench_gather, &cli_bench_load, NULL,
};

static int run(const struct cli_command *self, int argc, char **argv)
{
	(void)self;
	return cli_dispatch(benches, "bench ", "Measures against a rival, in one run.", argc, argv);
}

const struct cli_command cli_bench = {
	.name = "bench",
	.run = run,
	.summary = "measure decisions, engines, gathers and loading, each against a rival",
	.operands = "decision|engine|gather|load",
	.details = "",
};
