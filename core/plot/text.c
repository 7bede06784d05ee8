/* SPDX-License-Identifier: Apache-2.0 */
/* kvmod plot text: the prompt, with a shade behind each token that says how many heads keep it. */
#include "core/plot/page.h"

#include <stdlib.h>

#define EXPECTED "the output of kvmod run --json --positions"
#define SHOWN		600		/* tokens, by default */

struct picture {
	const struct cli_command *self;
	struct plot_options options;
	uint64_t line, from, to;	/* to UINT64_MAX: not given */
	const char *policy;
	double budget;
	struct page_token *tokens;
	size_t n;
};

/* --- reading ------------------------------------------------------------------------------ */

static int read_token(struct picture *p, const struct plot_file *f, const json_t *text,
		      const json_t *share)
{
	char shown[PLOT_SHOWN_ROOM];
	double value = json_number_value(share);

	if (!json_is_string(text))
		return plot_error(f, "token %zu is %s: expected its text", p->n, plot_shown(text, shown));
	if (!json_is_number(share) || value < 0 || value > 1)
		return plot_error(f, "the share of position %zu is %s: expected a number from 0 to 1", p->n,
				  plot_shown(share, shown));
	p->tokens[p->n++] = (struct page_token){
		.text = json_string_value(text),
		.n = json_string_length(text),
		.share = value,
	};
	return CLI_OK;
}

static int read_run(struct picture *p, const struct plot_file *f, const json_t *object)
{
	const json_t *tokens = json_object_get(object, "tokens");
	const json_t *shares = json_object_get(object, "position_shares"), *text;
	size_t n = json_array_size(tokens), i;

	if (!json_is_array(tokens) || !json_is_array(shares))
		return plot_error(f, "no `tokens` with `position_shares`: expected " EXPECTED);
	if (n == 0 || n != json_array_size(shares))
		return plot_error(f, "%zu tokens and %zu shares of positions: expected one for each token", n,
				  json_array_size(shares));
	if (plot_text(f, object, "policy", EXPECTED, &p->policy) ||
	    plot_real(f, object, "budget", 0, 1, "a number from 0 to 1, in " EXPECTED, &p->budget))
		return CLI_FAILED;
	p->tokens = cli_alloc(n * sizeof(*p->tokens));
	json_array_foreach(tokens, i, text)
		if (read_token(p, f, text, json_array_get(shares, i)))
			return CLI_FAILED;
	return CLI_OK;
}

/* --- drawing -------------------------------------------------------------------------------- */

static int check_range(struct picture *p)
{
	if (p->from >= p->n)
		return cli_error("--from=%llu: the prompt has %zu tokens", (unsigned long long)p->from, p->n);
	if (p->to == UINT64_MAX)
		p->to = p->from + SHOWN;
	if (p->to > p->n)
		p->to = p->n;
	return CLI_OK;
}

/* Shares of all tokens: after decoding the run's budget may be another. */
static double mean_share(const struct picture *p)
{
	double sum = 0;

	for (size_t i = 0; i < p->n; i++)
		sum += p->tokens[i].share;
	return sum / (double)p->n;
}

static int draw(struct picture *p)
{
	struct cli_text title = { 0 }, svg = { 0 };
	struct page page;
	int err = check_range(p);

	if (err)
		return err;
	plot_add(&title, "%s keeps %.3g%% of %zu tokens", cli_show(p->policy), 100 * mean_share(p), p->n);
	page_begin(&page, (unsigned)plot_width(&p->options),
		   p->options.title ? cli_show(p->options.title) : title.bytes);
	page_add_legend(&page, "The share of KV heads, over all layers, that keep a token");
	if (p->to - p->from < p->n)
		page_add_strip(&page, p->tokens, p->n, p->from, p->to);
	page_add_text(&page, p->tokens, p->from, p->to);
	page_end(&page, &svg);
	err = plot_write(&p->options, &svg);
	cli_text_free(&title);
	cli_text_free(&svg);
	return err;
}

static int run(const struct cli_command *self, int argc, char **argv)
{
	struct cli_common common = { 0 };
	struct picture p = { .self = self, .to = UINT64_MAX };
	const struct cli_option options[] = {
		PLOT_OUTPUT(&p.options),
		{ "from", 0, CLI_NUMBER, &p.from, "N", "the first token whose text is shown [0]" },
		{ "to", 0, CLI_NUMBER, &p.to, "N", "the token after the last one [600 after the first]" },
		PLOT_LINE(&p.line),
		PLOT_WIDTH(&p.options),
		{ 0 }
	};
	int first = cli_parse(self, &common, options, argc, argv), err;
	struct plot_file f;
	json_t *object = NULL;

	plot_check_options(self, &p.options);
	if (p.to <= p.from)
		cli_usage_error(self, "--to=%llu: expected more than --from, %llu",
				(unsigned long long)p.to, (unsigned long long)p.from);
	err = plot_open(&f, plot_operand(self, argc, argv, first));
	if (!err)
		err = plot_only(&f, p.line, EXPECTED, &object);
	if (!err)
		err = read_run(&p, &f, object);
	if (!err)
		err = draw(&p);
	free(p.tokens);
	json_decref(object);
	plot_close(&f);
	return err;
}

const struct cli_command cli_plot_text = {
	.name = "plot text",
	.run = run,
	.summary = "draw which tokens of a prompt are kept, as its text over shades",
	.operands = "FILE",
	.details =
"The file is the output of `kvmod run --json --positions`. If not all tokens are shown as\n"
"text, a strip of all of them comes first, in which these are marked.\n",
};
