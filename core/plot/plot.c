/* SPDX-License-Identifier: Apache-2.0 */
/* kvmod plot: dispatches to the kinds of pictures, each in a file of its own. */
#include "core/plot/plot.h"

#include <string.h>

#define LEAST_WIDTH	480
#define LEAST_HEIGHT	200
#define MOST_PIXELS	10000

static const struct cli_command *const kinds[] = {
	&cli_plot_curve, &cli_plot_heads, &cli_plot_latency, &cli_plot_text, NULL,
};

static void check_pixels(const struct cli_command *self, const char *option, uint64_t n, int least)
{
	if (n && (n < (uint64_t)least || n > MOST_PIXELS))
		cli_usage_error(self, "--%s=%llu: expected %d to %d", option, (unsigned long long)n,
				least, MOST_PIXELS);
}

void plot_check_options(const struct cli_command *self, const struct plot_options *o)
{
	check_pixels(self, "width", o->width, LEAST_WIDTH);
	check_pixels(self, "height", o->height, LEAST_HEIGHT);
	if (o->output && !*o->output)
		cli_usage_error(self, "--output=: expected the name of a file");
	if (o->title && cli_utf8_bad(o->title, strlen(o->title)) != strlen(o->title))
		cli_usage_error(self, "--title=%s: expected UTF-8 text", o->title);
}

const char *plot_operand(const struct cli_command *self, int argc, char **argv, int first)
{
	if (first + 1 != argc)
		cli_usage_error(self, "expected one %s, not %d", self->operands, argc - first);
	return argv[first];
}

static int run(const struct cli_command *self, int argc, char **argv)
{
	(void)self;
	return cli_dispatch(kinds, "plot ", "Draws what other commands have measured, as SVG.", argc, argv);
}

const struct cli_command cli_plot = {
	.name = "plot",
	.run = run,
	.summary = "draw what other commands have measured, as SVG",
	.operands = "curve|heads|latency|text",
	.details = "",
};
