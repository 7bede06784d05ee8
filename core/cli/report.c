/* SPDX-License-Identifier: Apache-2.0 */
/* The report of a run: a few lines for people, a JSON object for programs. */
#include "core/cli/run.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

uint64_t cli_resident(void)
{
	FILE *f = fopen("/proc/self/statm", "re");
	unsigned long long pages = 0;

	if (!f)
		return 0;
	if (fscanf(f, "%*u %llu", &pages) != 1)
		pages = 0;
	fclose(f);
	return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static double per_second(uint64_t n, double seconds)
{
	return seconds > 0 ? (double)n / seconds : 0;
}

static void title(const char *text)
{
	fprintf(stderr, "%s%-9s%s", cli_style(stderr, CLI_BOLD), text, cli_style(stderr, CLI_PLAIN));
}

/* --- for people ------------------------------------------------------------------- */

/* One count if all heads keep the same number, else the smallest and the largest; - for a window's layer. */
static void print_layer(const struct kvmod_sequence *sequence, uint32_t layer, uint32_t n_heads)
{
	uint64_t low = UINT64_MAX, high = 0, seen = 0;

	for (uint32_t g = 0; g < n_heads; g++) {
		uint64_t kept = kvmod_sequence_kept(sequence, layer, g, &seen);

		low = kept < low ? kept : low;
		high = kept > high ? kept : high;
	}
	if (seen == 0)
		fputs(" -", stderr);
	else if (low == high)
		fprintf(stderr, " %llu", (unsigned long long)low);
	else
		fprintf(stderr, " %llu-%llu", (unsigned long long)low, (unsigned long long)high);
}

#define LAYERS_A_LINE 10

static void print_kept(const struct cli_model *m, const struct kvmod_sequence *sequence)
{
	for (uint32_t l = 0; l < m->about->n_layers; l++) {
		if (l % LAYERS_A_LINE == 0) {
			title(l ? "" : "kept");
			fprintf(stderr, "layers %2u..:", l);
		}
		print_layer(sequence, l, m->about->n_kv_heads);
		if (l % LAYERS_A_LINE == LAYERS_A_LINE - 1 || l + 1 == m->about->n_layers)
			fputc('\n', stderr);
	}
}

static void print_cache(const struct cli_turn *turn)
{
	char full[CLI_BYTES_ROOM], now[CLI_BYTES_ROOM], before[CLI_BYTES_ROOM], after[CLI_BYTES_ROOM];

	title("cache");
	fprintf(stderr, "%s before, %s after the cut; resident memory %s before, %s after\n",
		cli_bytes(turn->prompted.before.used, full), cli_bytes(turn->prompted.after.used, now),
		cli_bytes(turn->resident_before, before), cli_bytes(turn->resident_after, after));
}

static void print_prefill(const char *what, const struct cli_turn *turn)
{
	const struct kvmod_prompted *p = &turn->prompted;

	title(what);
	fprintf(stderr, "%llu tokens, %.1f tok/s; decision %.2f ms",
		(unsigned long long)turn->prompt_tokens,
		per_second(turn->prompt_tokens, p->prefill_seconds), 1e3 * p->decision_seconds);
	if (!isnan(p->replay_loss))
		fprintf(stderr, "; replayed loss %.4f nats a token", p->replay_loss);
	fputc('\n', stderr);
}

/* A question is not cut: what it adds to the context is all there. */
static void print_question(const struct cli_turn *turn)
{
	const struct kvmod_prompted *p = &turn->prompted;
	char used[CLI_BYTES_ROOM], full[CLI_BYTES_ROOM];

	title("question");
	fprintf(stderr, "%llu tokens, %.1f tok/s; cache %s of %s\n",
		(unsigned long long)turn->prompt_tokens,
		per_second(turn->prompt_tokens, p->prefill_seconds), cli_bytes(p->after.used, used),
		cli_bytes(p->after.full, full));
}

static void print_decode(const struct cli_turn *turn, const struct kvmod_left *left)
{
	char used[CLI_BYTES_ROOM], full[CLI_BYTES_ROOM];

	title("decode");
	fprintf(stderr, "%llu tokens, %.1f tok/s", (unsigned long long)turn->answer.n_tokens,
		per_second(turn->answer.n_decoded, turn->answer.seconds));
	if (left->decode_cuts)
		fprintf(stderr, "; %u cuts, the last left %s of %s", left->decode_cuts,
			cli_bytes(left->bytes.used, used), cli_bytes(left->bytes.full, full));
	fputc('\n', stderr);
}

static bool is_same_text(const struct cli_text *a, const struct cli_text *b)
{
	return a->n == b->n && (a->n == 0 || memcmp(a->bytes, b->bytes, a->n) == 0);
}

static void print_comparison(const struct cli_turn *turn)
{
	const struct cli_comparison *c = &turn->comparison;
	char full[CLI_BYTES_ROOM], cut[CLI_BYTES_ROOM];

	title("full");
	fprintf(stderr, "cache %s, cut %s; prefill %.1f tok/s; decode %.1f tok/s, cut %.1f tok/s\n",
		cli_bytes(c->full_bytes, full), cli_bytes(turn->prompted.after.used, cut),
		per_second(turn->prompt_tokens, c->full_prefill_seconds),
		per_second(c->n, c->full_seconds),
		per_second(turn->answer.n_decoded, turn->answer.seconds));
	title("compare");
	fprintf(stderr, "KL divergence mean %.5f, max %.5f nats; same likeliest token in %.1f%% of %llu\n",
		c->kl_mean, c->kl_max, 100 * c->agree, (unsigned long long)c->n);
	title("answer");
	if (is_same_text(&c->text, &turn->answer.text))
		fputs("the same with the full cache\n", stderr);
	else
		fprintf(stderr, "with the full cache: %s\n", c->text.n ? c->text.bytes : "");
}

/* What a cut left: after a prompt or a context, or after the last cut while decoding. */
static void print_cut(const struct cli_model *m, const struct kvmod_sequence *sequence,
		      const struct cli_turn *turn, const struct kvmod_left *left)
{
	const char *policy = kvmod_policy_ops(m->policy)->name;

	title("policy");
	fprintf(stderr, "%s on %s: budget %.4f", policy, kvmod_policy_device(m->policy),
		left->budget);
	if (turn->prompted.left_whole && left->budget == 1 && strcmp(policy, "fullkv") != 0)
		fprintf(stderr, "; so short a sequence stays whole ([kvmod] leave_below)");
	if (turn->prompted.status)
		fprintf(stderr, " (failed with %s; what was to be cut is whole)",
			kvmod_strerror(turn->prompted.status));
	fputc('\n', stderr);
	print_kept(m, sequence);
	print_cache(turn);
}

void cli_report(const struct cli_model *m, const struct kvmod_sequence *sequence,
		const struct cli_turn *turn, const struct cli_context_first *context)
{
	struct kvmod_left left = { .size = sizeof(left) };

	kvmod_sequence_left(sequence, &left);
	if (context) {
		print_question(turn);
	} else {
		print_cut(m, sequence, turn, &left);
		print_prefill("prefill", turn);
	}
	print_decode(turn, &left);
	if (turn->compared)
		print_comparison(turn);
}

void cli_report_context(const struct cli_model *m, const struct cli_context_first *context)
{
	struct kvmod_left left = { .size = sizeof(left) };

	kvmod_sequence_left(context->sequence, &left);
	print_cut(m, context->sequence, &context->turn, &left);
	print_prefill("context", &context->turn);
}

/* --- for programs ---------------------------------------------------------------------- */

/* JSON has no numbers that are not finite. */
static json_t *number(double value)
{
	return isfinite(value) ? json_real(value) : json_null();
}

static json_t *kept_json(const struct cli_model *m, const struct kvmod_sequence *sequence)
{
	json_t *layers = json_array();

	for (uint32_t l = 0; l < m->about->n_layers; l++) {
		json_t *heads = json_array();

		for (uint32_t g = 0; g < m->about->n_kv_heads; g++) {
			uint64_t seen = 0, kept = kvmod_sequence_kept(sequence, l, g, &seen);

			json_array_append_new(heads, seen ? json_integer((json_int_t)kept) : json_null());
		}
		json_array_append_new(layers, heads);
	}
	return layers;
}

static int add_comparison(json_t *object, const struct cli_comparison *c)
{
	json_t *more = json_pack("{s:o, s:o, s:f, s:f, s:s%}",
				 "kl_mean", number(c->kl_mean),
				 "kl_max", number(c->kl_max),
				 "agree", c->agree,
				 "full_decode_tok_s", per_second(c->n, c->full_seconds),
				 "full_text", c->text.n ? c->text.bytes : "", c->text.n);
	int err = json_object_update(object, more);

	json_decref(more);
	return err;
}

/* The context's cut: members named like those of a prompt's. */
static json_t *context_json(const struct cli_model *m, const struct cli_context_first *context)
{
	const struct cli_turn *turn = &context->turn;
	struct kvmod_left left = { .size = sizeof(left) };

	kvmod_sequence_left(context->sequence, &left);
	return json_pack("{s:I, s:o, s:f, s:I, s:I, s:f, s:f}",
			 "tokens", (json_int_t)turn->prompt_tokens,
			 "kept", kept_json(m, context->sequence),
			 "budget", left.budget,
			 "cache_bytes_full", (json_int_t)left.bytes.full,
			 "cache_bytes", (json_int_t)left.bytes.used,
			 "prefill_tok_s", per_second(turn->prompt_tokens, turn->prompted.prefill_seconds),
			 "decision_ms", 1e3 * turn->prompted.decision_seconds);
}

static int add_question(json_t *object, const struct cli_model *m,
			const struct cli_context_first *context, const struct cli_text *question)
{
	json_t *more = json_pack("{s:s%, s:o}", "question", question->bytes, question->n,
				 "context", context_json(m, context));
	int err = json_object_update(object, more);

	json_decref(more);
	return err;
}

int cli_report_json(const struct cli_model *m, const struct kvmod_sequence *sequence,
		    const struct cli_turn *turn, const struct cli_context_first *context,
		    const struct cli_text *question)
{
	const struct kvmod_prompted *p = &turn->prompted;
	const struct cli_answer *a = &turn->answer;
	struct kvmod_left left = { .size = sizeof(left) };
	json_t *object;

	kvmod_sequence_left(sequence, &left);
	object = json_pack(
		"{s:s, s:s, s:s, s:I, s:I, s:s%, s:o, s:I, s:f, s:I, s:I, s:I, s:f, s:f, s:f}",
		"model", m->about->name,
		"policy", kvmod_policy_ops(m->policy)->name,
		"device", kvmod_policy_device(m->policy),
		"prompt_tokens", (json_int_t)turn->prompt_tokens,
		"generated_tokens", (json_int_t)a->n_tokens,
		"text", a->text.n ? a->text.bytes : "", a->text.n,
		"kept", kept_json(m, sequence),
		"seen", (json_int_t)left.seen,
		"budget", left.budget,
		"cache_bytes_full", (json_int_t)left.bytes.full,
		"cache_bytes", (json_int_t)left.bytes.used,
		"decode_cuts", (json_int_t)left.decode_cuts,
		"prefill_tok_s", per_second(turn->prompt_tokens, p->prefill_seconds),
		"decision_ms", 1e3 * p->decision_seconds,
		"decode_tok_s", per_second(a->n_decoded, a->seconds));

	if (object && ((context && add_question(object, m, context, question)) ||
		       (turn->compared && add_comparison(object, &turn->comparison)) ||
		       (turn->shares && cli_add_positions(object, m, turn)))) {
		json_decref(object);
		object = NULL;
	}
	return cli_print_json(object);
}
