/* SPDX-License-Identifier: Apache-2.0 */
/* The queries of the newest tokens, collected for a policy that asked for them. */
#include "engine.h"

#include <stdlib.h>
#include <string.h>

/* While tokens are decoded one by one, older rows move on every so many tokens. */
#define DECODE_SLACK 64u

void gg_rows_free(struct gg_rows *rows)
{
	free(rows->data);
	memset(rows, 0, sizeof(*rows));
}

static size_t row_floats(const struct kvmod_seq *seq)
{
	return (size_t)seq->engine->net.dims[GG_Q_ROWS];
}

static size_t rows_bytes(const struct kvmod_seq *seq)
{
	return seq->engine->net.n_layers * seq->rows.room * row_floats(seq) * sizeof(float);
}

/*
 * What is not collected is not in the request: the core says so, and the cache
 * stays whole. The prompt itself has to run.
 */
static void note_missing(struct gg_engine *engine, uint32_t what)
{
	const char *missing;

	if (what & KVMOD_NEED_COLSUM)
		missing = "column sums of attention";
	else if (what & KVMOD_NEED_Q_STATS)
		missing = "statistics of queries before RoPE";
	else if (what & KVMOD_NEED_WO_NORM)
		missing = "norms of Wo v";
	else
		return;
	gg_log(engine, KVMOD_WARN, "the policy needs %s: this engine does not collect them", missing);
}

static void rows_new(struct kvmod_seq *seq, uint64_t n_tokens, const struct kvmod_needs *needs)
{
	struct gg_rows *rows = &seq->rows;

	rows->wanted = kvmod_needs_rows(needs, n_tokens);
	rows->decode = rows->wanted && needs->decode_every;
	rows->room = rows->wanted + (rows->decode ? DECODE_SLACK : 0);
	rows->from = seq->logical + n_tokens - rows->wanted;
	if (!rows->wanted)
		return;
	rows->data = malloc(rows_bytes(seq));
	if (rows->data)
		return;
	gg_log(seq->engine, KVMOD_WARN, "no memory for the queries of %u tokens, which the policy needs",
	       rows->wanted);
	rows->wanted = 0;
}

int32_t gg_rows_copy(struct kvmod_seq *to, const struct kvmod_seq *from)
{
	to->rows = from->rows;
	if (!from->rows.data)
		return KVMOD_OK;
	to->rows.data = malloc(rows_bytes(from));
	if (!to->rows.data) {
		gg_rows_free(&to->rows);
		return gg_fail(from->engine, KVMOD_ENOMEM, "no memory for a copy of the queries");
	}
	memcpy(to->rows.data, from->rows.data, rows_bytes(from));
	return KVMOD_OK;
}

int32_t gg_prompt_begin(void *self, struct kvmod_seq *seq, uint64_t n_tokens,
			const struct kvmod_needs *needs)
{
	struct gg_engine *engine = self;

	if (!n_tokens)
		return gg_fail(engine, KVMOD_EINVAL, "the prompt is empty");
	if (seq->logical + n_tokens > engine->limit)
		return gg_fail(engine, KVMOD_ERANGE,
			       "a prompt of %llu tokens after %llu that are there: the context is %llu",
			       (unsigned long long)n_tokens, (unsigned long long)seq->logical,
			       (unsigned long long)engine->limit);
	gg_rows_free(&seq->rows);
	if (needs) {
		note_missing(engine, needs->what);
		rows_new(seq, n_tokens, needs);
	}
	return gg_seq_reserve(seq, n_tokens);
}

uint32_t gg_rows_due(const struct kvmod_seq *seq, uint32_t n)
{
	const struct gg_rows *rows = &seq->rows;
	uint64_t end = seq->logical + n, due;

	if (!rows->wanted || end <= rows->from)
		return 0;
	due = end - rows->from < n ? end - rows->from : n;
	/* The prompt is over: its rows are the newest no more. */
	if (!rows->decode && seq->logical >= rows->from + rows->wanted)
		return 0;
	return due < rows->wanted ? (uint32_t)due : rows->wanted;
}

float *gg_row_at(const struct kvmod_seq *seq, uint32_t layer, uint32_t i)
{
	return seq->rows.data + ((size_t)layer * seq->rows.room + i) * row_floats(seq);
}

void gg_rows_push(struct kvmod_seq *seq, uint32_t n)
{
	struct gg_rows *rows = &seq->rows;
	uint32_t keep = rows->wanted - n;

	if (keep > rows->n)
		keep = rows->n;
	if (rows->n + n > rows->room) {
		for (uint32_t i = 0; i < seq->engine->net.n_layers; i++)
			memmove(gg_row_at(seq, i, 0), gg_row_at(seq, i, rows->n - keep),
				keep * row_floats(seq) * sizeof(float));
		rows->n = keep;
	}
	rows->n += n;
	rows->end = seq->logical;
}

void gg_rows_forget(struct gg_rows *rows, uint64_t logical)
{
	uint64_t drop = rows->end > logical ? rows->end - logical : 0;

	rows->n -= drop < rows->n ? (uint32_t)drop : rows->n;
	rows->end -= drop;
}
