/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of `kvmod run` share. */
#ifndef KV_CORE_CLI_RUN_H
#define KV_CORE_CLI_RUN_H

#include "core/cli/cli.h"
#include "core/cli/sampler.h"
#include "core/cli/text.h"

/* --- a model that is open, with its policy (model.c) ---------------------------- */

struct cli_model {
	struct kvmod_ctx *ctx;
	struct kvmod_engine *engine;
	const struct kvmod_engine_ops *ops;
	void *instance;
	const struct kvmod_model *about;
	struct kvmod_policy *policy;
	struct kvmod_session *session;
};

/* With the configured engine and policy. CLI_FAILED after the reason was printed. */
int cli_model_open(struct cli_model *m, struct kvmod_ctx *ctx);
/* The same without a policy. */
int cli_model_open_whole(struct cli_model *m, struct kvmod_ctx *ctx);
void cli_model_close(struct cli_model *m);

struct cli_tokens {
	int32_t *ids;
	size_t n;
	size_t n_opening;		/* of the chat template, in a first prompt */
};

/* Both add to *tokens. first: the sequence is still empty; part: KVMOD_CHAT_... */
int cli_add_raw(const struct cli_model *m, const struct cli_text *text, bool first,
		struct cli_tokens *tokens);
int cli_add_chat(const struct cli_model *m, const char *system, const char *user, bool first,
		 uint32_t part, struct cli_tokens *tokens);
void cli_tokens_free(struct cli_tokens *tokens);

/* --- Ctrl-C (interrupt.c) ----------------------------------------------------------- */

/*
 * From here on the first Ctrl-C is noted and ends the engine's step in progress; the
 * second ends the program.
 */
void cli_catch_interrupt(const struct cli_model *m);
/* Before the engine goes. */
void cli_release_interrupt(void);
bool cli_interrupted(void);
/* After a libkvmod call failed: its reason, or after Ctrl-C, which the caller reports, nothing. */
int cli_error_unless_stopped(void);
/*
 * The progress callback of a prompt: cli_progress_to(), which also cancels again,
 * because a step forgets a Ctrl-C that came before it.
 */
void cli_progress_or_stop(void *progress, uint64_t done);

/* --- generating (generate.c) --------------------------------------------------------- */

struct cli_answer {
	struct cli_text text;		/* UTF-8 */
	uint64_t n_tokens;		/* without the end token */
	uint64_t n_decoded;		/* steps run, and their time */
	double seconds;
	int32_t pending;		/* the last token, if not cached yet; or -1 */
};

struct cli_generate {
	const struct cli_model *model;
	struct kvmod_sequence *sequence;
	struct cli_sampler *sampler;
	uint64_t limit;			/* tokens */
	bool may_end;			/* before the limit, at the end of the context */
	bool show;			/* on stdout, as it comes */
};

/*
 * Generates from the logits of the prompt's last token (which are overwritten) until
 * an end token, the limit, or Ctrl-C. After a failure *answer has the text so far.
 */
int cli_generate(const struct cli_generate *g, float *logits, struct cli_answer *answer);
bool cli_is_end(const struct kvmod_model *model, int32_t token);
/* Adds the characters that this token completes to text, and shows them if g says so. */
int cli_say(const struct cli_generate *g, struct cli_utf8_stream *stream, int32_t token,
	    struct cli_text *text);

/* --- comparing with the full cache (compare.c) ------------------------------------------ */

struct cli_comparison {
	uint64_t n;			/* tokens compared */
	double kl_mean, kl_max;		/* KL(full || cut) in nats */
	double agree;			/* share of tokens with the same likeliest next one */
	double full_prefill_seconds, full_seconds;
	uint64_t full_bytes;
	struct cli_text text;		/* the full cache's answer */
};

/* KL(p || q) in nats of the distributions of two rows of n logits. */
double cli_kl(const float *p, const float *q, uint32_t n);

/* The full cache: a session without a policy, and what all prompts to compare begin with. */
struct cli_rival {
	struct kvmod_session *session;
	struct kvmod_sequence *sequence;
};

int cli_rival_open(const struct cli_model *m, struct cli_rival *rival);
void cli_rival_close(struct cli_rival *rival);
/* Runs a context, which prompts then follow. After Ctrl-C it fails without a message. */
int cli_rival_context(struct cli_rival *rival, const struct cli_tokens *context);
/*
 * Runs the prompt on a fork of the full cache, feeds the full cache's greedy answer of up to
 * `limit` tokens to both caches, and compares the distributions after each token.
 * room: tokens that fit the context after the prompt; the answer may be one longer.
 */
int cli_compare(const struct cli_model *m, const struct cli_rival *rival,
		struct kvmod_sequence *cut, const struct cli_tokens *prompt, uint64_t limit,
		uint64_t room, struct cli_comparison *out);

/* --- the report of a run (report.c) -------------------------------------------------------- */

struct cli_turn {
	uint64_t prompt_tokens;
	struct kvmod_prompted prompted;
	struct cli_answer answer;
	struct cli_comparison comparison;
	bool compared;
	uint64_t resident_before, resident_after;	/* the process, around the cut */
	const struct cli_tokens *seen;	/* with --positions: of the sequence, up to the answer */
	double *shares;			/* of KV heads that cached each of them after the cut */
};

/* A context that was read before its questions, as the cut left it. */
struct cli_context_first {
	struct kvmod_sequence *sequence;
	struct cli_turn turn;		/* without an answer */
};

/* On stderr, for people. `context` NULL: the prompt came whole. */
void cli_report(const struct cli_model *m, const struct kvmod_sequence *sequence,
		const struct cli_turn *turn, const struct cli_context_first *context);
void cli_report_context(const struct cli_model *m, const struct cli_context_first *context);
/* On stdout, for programs; with a context, `question` is what was asked. */
int cli_report_json(const struct cli_model *m, const struct kvmod_sequence *sequence,
		    const struct cli_turn *turn, const struct cli_context_first *context,
		    const struct cli_text *question);
/* "tokens" and "position_shares" (positions.c); not 0: memory ran out, or a message came. */
int cli_add_positions(json_t *object, const struct cli_model *m, const struct cli_turn *turn);
/* Bytes of this process that are in memory now; 0 if unknown. */
uint64_t cli_resident(void);

/* --- where prompts come from (input.c) ------------------------------------------------------- */

/*
 * The text of the file ("-": stdin), then the words of argv joined with spaces. A blank
 * line separates the two, unless raw. Without file and argv: stdin. CLI_FAILED after
 * the reason was printed.
 */
int cli_read_prompt(struct cli_text *text, const char *file, bool raw, int argc, char **argv);
/*
 * Cleans a text that was read or typed: removes a BOM and, unless raw, turns CR LF into
 * LF and removes the last newline.
 */
void cli_clean_line(struct cli_text *line, bool raw);
/* --system's text, cleaned like a prompt's. CLI_FAILED after the reason was printed. */
int cli_read_system(struct cli_text *text, const char *system);
/* CLI_FAILED, after a message, unless the text is UTF-8 and not blank; what: "the prompt". */
int cli_check_prompt(const struct cli_text *text, const char *what);
bool cli_is_blank(const struct cli_text *text);
/* Does an option name standard input, "-"? */
bool cli_is_stdin(const char *file);
/* The text of the file and, unless raw, the blank line that separates it from a question. */
int cli_read_context(struct cli_text *text, const char *file, bool raw);
/* The operand, which is the question of that number. */
int cli_read_question(struct cli_text *text, const char *operand, bool raw, int number);

/* --- a run, and its turns (turn.c) ------------------------------------------------------------- */

struct cli_run {
	const struct cli_command *self;
	struct cli_common common;
	const char *file, *context_file, *system;
	struct cli_text system_text;	/* what `system` points to from then on */
	bool interactive, raw, compare, positions;
	bool said_full;			/* that the context is full, with advice */
	uint64_t limit;			/* -n; UINT64_MAX: not given */
	struct cli_sampling sampling;

	struct cli_model model;
	struct kvmod_sequence *sequence;
	struct cli_sampler *sampler;
	struct cli_rival rival;		/* with --compare */
	float *logits;
	int32_t pending;		/* last token of the answer, if not cached yet; or -1 */
	struct cli_tokens seen;		/* with --positions: what was run as prompts */

	const struct cli_context_first *context;	/* NULL: none comes first */
	bool is_open;			/* the context's message waits for its question */
	bool named;			/* a line before each answer names its question */
	uint64_t n_named;
};

/*
 * Runs tokens as a prompt, which is all that they are called in messages: what. KVMOD_PROMPT_...
 * flags. Fills in all of the turn but its answer.
 */
int cli_run_prompt(struct cli_run *r, const struct cli_tokens *tokens, const char *what,
		   uint32_t flags, struct cli_turn *turn);
/* Notes for the report which of the sequence's tokens, the last of them these, are cached. */
int cli_note_positions(struct cli_run *r, const struct cli_tokens *tokens, struct cli_turn *turn);
/* A prompt or a question, its answer, and the report. */
int cli_take_turn(struct cli_run *r, const struct cli_text *text);

/* --- lines of standard input (converse.c) ----------------------------------------------------------- */

/* A line, cleaned; false at the end of stdin. */
bool cli_read_line(const struct cli_run *r, struct cli_text *line);
/* Each line is the next prompt of the sequence. */
int cli_converse(struct cli_run *r);

/* --- --context (context_first.c) ---------------------------------------------------------------------- */

struct cli_about {
	struct cli_text context;
	struct cli_text *questions;	/* the operands */
	size_t n_questions;
};

/* Reads both, and refuses what is empty. To be freed after a failure too. */
int cli_read_about(const struct cli_run *r, int argc, char **argv, struct cli_about *about);
void cli_about_free(struct cli_about *about);
/* Runs and cuts the context, then asks the questions; without operands, the lines of stdin. */
int cli_ask_about(struct cli_run *r, const struct cli_about *about);

#endif
