/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prompts from JSONL files: a JSON object in each line, in UTF-8. Its members:
 *
 *   prompt              the prompt; or
 *   context, question   the two parts of it. The prompt is the context, a blank line unless
 *                       the context ends in white space, and the question.
 *   question_at         with prompt: the character where the question begins. Characters are
 *                       code points, as Python counts them; 1 to the prompt's length - 1.
 *   answers, answer     a list of reference answers, or one. They need a metric.
 *   metric              how answers are scored: see core/eval/metric.h
 *   id                  unique over all files; FILE:LINE if it is not there, with FILE as the
 *                       caller gave it
 *   task                what the prompt belongs to; the file's name without folder and
 *                       suffix if it is not there
 *
 * All are strings, but for the list answers and the integer question_at. A member that is null
 * is not there. Other members are ignored, and so are blank lines and a byte order mark at the
 * beginning of a file; lines may end in CR LF.
 *
 * A broken line is reported, with what is wrong in it and what was expected, and left
 * out; the others count.
 */
#ifndef KV_CORE_EVAL_DATA_H
#define KV_CORE_EVAL_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "core/eval/metric.h"

struct eval_prompt {
	const char *id, *task;
	const char *file;		/* where it comes from, as the caller gave it */
	unsigned line;
	const char *text;
	size_t n;			/* bytes of the text */
	size_t question;		/* the byte where the question begins; 0: not known */
	size_t n_answers;		/* 0: the prompt has no score */
	const char **answers;
	enum eval_metric metric;	/* if there are answers */
	/*
	 * Of what is asked and expected, to notice other data under the same id: FNV-1a, 64
	 * bits, of the text, `question` in decimal digits, and, if there are answers, the
	 * metric's name and each answer in order, all of them with a NUL behind them. The id,
	 * the task and the place in the file are not part of it.
	 */
	uint64_t digest;
	json_t *memory;			/* of the texts */
};

struct eval_reading {
	/*
	 * How many prompts to take from each file, as evenly spaced as a whole step allows: every
	 * max(1, found / per_file)-th from the first on, as tests/compare.py does. 0: all.
	 */
	size_t per_file;
	/* Take only prompts whose question is known; the choice is among those. */
	bool with_question;
	/* Told of every broken line: "FILE:LINE: ...", with text from the file in it. */
	void (*broken)(void *arg, const char *message);
	void *arg;
};

struct eval_data {
	size_t n, room;
	struct eval_prompt *prompts;	/* in the order of files and lines */
	size_t n_broken;		/* lines */
	size_t n_without_question;	/* left out because of with_question */
	char error[1024];		/* "FILE: ...", after a call that failed */
};

/*
 * Reads all files; their names must live as long as the data. CLI_OK, also if lines are
 * broken or no prompt is left; or CLI_FAILED and data->error if a file cannot be read or has
 * no line but blank ones. Free the data in each case. Ends the program if memory runs out.
 */
int eval_data_read(struct eval_data *data, const char *const *files, size_t n_files,
		   const struct eval_reading *how);
void eval_data_free(struct eval_data *data);

#endif
