/* SPDX-License-Identifier: Apache-2.0 */
/* Renders a conversation by a row of the table of templates. */
#include "engine.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

struct span {
	const char *text;
	size_t n;
	enum gg_from from;
};

struct render {
	struct gg_engine *engine;
	const struct gg_template *row;
	const struct gg_conversation *talk;
	struct gg_rendered *out;
	struct span system; /* for the next user's turn; text NULL: none */
	size_t last_question;
	size_t strip_from; /* where the GG_STRIP() began that is open; NOT_OPEN: none is */
};

#define NOT_OPEN SIZE_MAX

static struct span message(const char *text)
{
	return (struct span){ text, strlen(text), GG_FROM_MESSAGE };
}

/* --- blanks, as Python's str.strip() has them ---------------------------------------- */

/* Bytes of the blank at the front; 0: the text begins with another character. */
static size_t blank_at(const char *text, size_t n)
{
	static const char wide[][4] = {
		"\xc2\x85",	"\xc2\xa0",	"\xe1\x9a\x80", "\xe2\x80\x80", "\xe2\x80\x81",
		"\xe2\x80\x82", "\xe2\x80\x83", "\xe2\x80\x84", "\xe2\x80\x85", "\xe2\x80\x86",
		"\xe2\x80\x87", "\xe2\x80\x88", "\xe2\x80\x89", "\xe2\x80\x8a", "\xe2\x80\xa8",
		"\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80",
	};
	unsigned char c = n ? (unsigned char)*text : 0;

	if ((c >= '\t' && c <= '\r') || (c >= 0x1c && c <= ' '))
		return 1;
	for (size_t i = 0; i < sizeof(wide) / sizeof(wide[0]); i++) {
		size_t length = strlen(wide[i]);

		if (length <= n && !memcmp(text, wide[i], length))
			return length;
	}
	return 0;
}

static size_t blank_before(const char *text, size_t n)
{
	for (size_t length = 1; length <= 3 && length <= n; length++) {
		if (blank_at(text + n - length, length) == length)
			return length;
	}
	return 0;
}

/* Both remove blanks from an end of the text rendered since byte `begin`. */
static void strip_back(struct gg_rendered *out, size_t begin)
{
	size_t n;

	while ((n = blank_before(out->bytes + begin, out->n - begin)))
		out->n -= n;
	if (out->text > out->n)
		out->text = out->n;
}

static void strip_front(struct gg_rendered *out, size_t begin)
{
	size_t front = begin, n;

	while ((n = blank_at(out->bytes + front, out->n - front)))
		front += n;
	memmove(out->bytes + begin, out->bytes + front, out->n - front);
	memmove(out->from + begin, out->from + front, out->n - front);
	out->n -= front - begin;
}

static struct span without_newlines(struct span s)
{
	while (s.n && *s.text == '\n')
		s.text++, s.n--;
	return s;
}

/* --- the texts of a row -------------------------------------------------------------- */

/* Like strftime(), but always in English. */
static void put_date(struct gg_rendered *out, char what)
{
	static const char *const months[] = { "Jan", "Feb", "Mar", "Apr", "May", "Jun",
					      "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" };
	time_t now = time(NULL);
	char text[64] = "";
	struct tm tm;

	if (!localtime_r(&now, &tm))
		return;
	if (what == GG_MARK_TODAY)
		snprintf(text, sizeof(text), "%02d %s %d", tm.tm_mday, months[tm.tm_mon],
			 tm.tm_year + 1900);
	else
		snprintf(text, sizeof(text), "%d-%02d-%02d", tm.tm_year + 1900, tm.tm_mon + 1,
			 tm.tm_mday);
	gg_put(out, GG_FROM_TEMPLATE, text, strlen(text));
}

static void put_span(struct gg_rendered *out, struct span s)
{
	gg_put(out, s.from, s.text, s.n);
}

/* The end of a GG_STRIP(); where it began in an earlier part, its front is not here. */
static void close_strip(struct render *r)
{
	bool begins_here = r->strip_from != NOT_OPEN;

	if (!r->out->failed) {
		strip_back(r->out, begins_here ? r->strip_from : 0);
		if (begins_here)
			strip_front(r->out, r->strip_from);
	}
	r->strip_from = NOT_OPEN;
}

/* Renders a mark of a row's text. */
static void put_mark(struct render *r, char mark, struct span text)
{
	switch (mark) {
	case GG_MARK_BOS:
		gg_put(r->out, GG_FROM_BOS, GG_BOS, 1);
		break;
	case GG_MARK_EOS:
		gg_put(r->out, GG_FROM_EOS, GG_EOS, 1);
		break;
	case GG_MARK_TEXT:
		r->out->text = r->out->n;
		put_span(r->out, text);
		break;
	case GG_MARK_SYSTEM:
		put_span(r->out, r->system);
		break;
	case GG_MARK_TODAY:
	case GG_MARK_DATE:
		put_date(r->out, mark);
		break;
	case GG_MARK_STRIP:
		r->strip_from = r->out->n;
		break;
	default: /* GG_MARK_STRIPPED */
		close_strip(r);
	}
}

/* Renders a row's text up to `end`, which cuts through no run of plain bytes. */
static void put_to(struct render *r, const char *format, const char *end, struct span text)
{
	while (format < end) {
		size_t n = strcspn(format, GG_MARKS);

		gg_put(r->out, GG_FROM_TEMPLATE, format, n);
		format += n;
		if (format < end)
			put_mark(r, *format++, text);
	}
}

static void put(struct render *r, const char *format, struct span text)
{
	if (format)
		put_to(r, format, format + strlen(format), text);
}

/* Where the message's text stands in a row's text. */
static const char *slot_of(const char *format)
{
	return strchr(format, GG_MARK_TEXT);
}

/* What comes before a message's text, and the text. */
static void put_open(struct render *r, const char *format, struct span text)
{
	put_to(r, format, slot_of(format) + 1, text);
	if (r->strip_from != NOT_OPEN && !r->out->failed)
		strip_front(r->out, r->strip_from);
}

/* --- thoughts ------------------------------------------------------------------------ */

/* The first or the last `word` in s; NULL: none. */
static const char *find(struct span s, const char *word, bool last)
{
	size_t n = strlen(word);
	const char *found = NULL;

	for (size_t i = 0; i + n <= s.n && (last || !found); i++) {
		if (!memcmp(s.text + i, word, n))
			found = s.text + i;
	}
	return found;
}

static struct span after(struct span s, const char *at, const char *word)
{
	const char *begin = at + strlen(word);

	return (struct span){ begin, (size_t)(s.text + s.n - begin), s.from };
}

/* An answer without the thoughts before it. */
static struct span without_thoughts(struct span answer)
{
	const char *end = find(answer, "</think>", true);

	return end ? after(answer, end, "</think>") : answer;
}

static struct span thoughts_of(struct span answer)
{
	const char *end = find(answer, "</think>", false), *begin;

	if (!end)
		return (struct span){ answer.text, 0, answer.from };
	answer.n = (size_t)(end - answer.text);
	while (answer.n && answer.text[answer.n - 1] == '\n')
		answer.n--;
	begin = find(answer, "<think>", true);
	return without_newlines(begin ? after(answer, begin, "<think>") : answer);
}

/* Qwen3 keeps the thoughts that belong to the last question. */
static void put_qwen3_answer(struct render *r, size_t i, struct span answer)
{
	bool last = i + 1 == r->talk->n && (r->row->flags & GG_LAST_THINKS);
	struct span thoughts = thoughts_of(answer), rest = without_thoughts(answer);

	if (rest.text != answer.text)
		rest = without_newlines(rest);
	if (i > r->last_question && (last || thoughts.n)) {
		/* The row's text encloses thoughts and answer. */
		struct gg_rendered *out = r->out;
		const char *slot = slot_of(r->row->assistant);

		gg_put(out, GG_FROM_TEMPLATE, r->row->assistant,
		       (size_t)(slot - r->row->assistant));
		gg_put(out, GG_FROM_TEMPLATE, "<think>\n", 8);
		put_span(out, thoughts);
		gg_put(out, GG_FROM_TEMPLATE, "\n</think>\n\n", 11);
		put(r, slot, without_newlines(rest));
		return;
	}
	put(r, r->row->assistant, rest);
}

/* The result of a tool is not a question, though it is a user's message. */
static bool is_question(const struct kvmod_message *m)
{
	static const char opening[] = "<tool_response>", closing[] = "</tool_response>";
	size_t n = strlen(m->text), tail = sizeof(closing) - 1;

	if (strcmp(m->role, "user"))
		return false;
	return strncmp(m->text, opening, sizeof(opening) - 1) || n < tail ||
	       strcmp(m->text + n - tail, closing);
}

static size_t last_question(const struct gg_conversation *talk)
{
	for (size_t i = talk->n; i-- > 0;) {
		if (is_question(&talk->messages[i]))
			return i;
	}
	return talk->n - 1;
}

/* --- turns --------------------------------------------------------------------------- */

static void put_answer(struct render *r, size_t i)
{
	struct span answer = message(r->talk->messages[i].text);
	const char *format = r->row->assistant;
	bool last = i + 1 == r->talk->n;

	if (r->row->flags & GG_QWEN3_THOUGHTS) {
		put_qwen3_answer(r, i, answer);
		return;
	}
	if (r->row->flags & GG_DROP_THOUGHTS)
		answer = without_thoughts(answer);
	if ((r->row->flags & GG_QWQ_THOUGHTS) && !last)
		answer = without_newlines(without_thoughts(answer));
	if (last && r->row->last_assistant)
		format = r->row->last_assistant;
	put(r, format, answer);
}

static void put_question(struct render *r, size_t i)
{
	struct span question = message(r->talk->messages[i].text);
	bool last = i + 1 == r->talk->n, with_system;

	with_system = r->system.text && (last || !(r->row->flags & GG_SYSTEM_LAST));
	if (last && r->talk->part == KVMOD_CHAT_CONTEXT)
		put_open(r, with_system ? r->row->system_user : r->row->user, question);
	else
		put(r, with_system ? r->row->system_user : r->row->user, question);
	if (with_system)
		r->system.text = NULL;
}

static int32_t no_system(const struct render *r, const char *why)
{
	return gg_fail(r->engine, KVMOD_EINVAL, "the chat template %s of %s %s", r->row->name,
		       r->engine->model, why);
}

/* Renders what precedes the first turn; *i: the messages it has used. */
static int32_t put_begin(struct render *r, const char *given, size_t *i)
{
	const struct kvmod_message *m = r->talk->messages;
	bool there = !strcmp(m->role, "system");

	put(r, r->row->begin, message(""));
	*i = there;
	if (there && !*m->text && (r->row->flags & GG_SKIP_EMPTY_SYSTEM))
		return KVMOD_OK;
	if (there && r->row->system_user)
		r->system = message(m->text);
	else if (there && !r->row->system)
		return no_system(r, "has no place for a system message: put it into the prompt");
	else if (there)
		put(r, r->row->system, message(m->text));
	else if (given)
		put(r, r->row->system, (struct span){ given, strlen(given), GG_FROM_TEMPLATE });
	else
		put(r, r->row->no_system, message(""));
	return KVMOD_OK;
}

/* Renders the end of the last answer: the answer is in the cache, its end is not. */
static void put_answer_end(struct render *r)
{
	put(r, slot_of(r->row->assistant) + 1, message(""));
}

static int32_t put_turn(struct render *r, size_t i, bool *user_next)
{
	const struct kvmod_message *m = &r->talk->messages[i];
	bool user = !strcmp(m->role, "user");

	if (!strcmp(m->role, "system")) {
		if (!r->row->later_system)
			return no_system(r,
					 "takes a system message only at the beginning");
		put(r, r->row->later_system, message(m->text));
		return KVMOD_OK;
	}
	if ((r->row->flags & GG_TURNS) && user != *user_next)
		return gg_fail(
			r->engine, KVMOD_EINVAL,
			"message %zu is from \"%s\": in the chat template %s, user and assistant "
			"must alternate",
			i + 1, m->role, r->row->name);
	*user_next = !user;
	if (user)
		put_question(r, i);
	else
		put_answer(r, i);
	return KVMOD_OK;
}

static bool ends_with_answer(const struct gg_conversation *talk)
{
	return !strcmp(talk->messages[talk->n - 1].role, "assistant");
}

static int32_t put_turns(struct render *r, const char *system)
{
	int32_t code = KVMOD_OK;
	bool user_next = true;
	size_t i = 0;

	if (r->talk->first)
		code = put_begin(r, system, &i);
	else
		put_answer_end(r);
	for (; i < r->talk->n && !code; i++)
		code = put_turn(r, i, &user_next);
	return code;
}

/* Is the conversation left without a prompt for an answer? */
static bool stays_open(const struct render *r)
{
	return r->talk->part == KVMOD_CHAT_CONTEXT ||
	       ((r->row->flags & GG_NO_PROMPT) && ends_with_answer(r->talk));
}

int32_t gg_render_known(struct gg_engine *engine, const struct gg_template *row, const char *system,
			const struct gg_conversation *talk, struct gg_rendered *out)
{
	struct render r = {
		.engine = engine, .row = row, .talk = talk, .out = out, .strip_from = NOT_OPEN,
	};
	int32_t code = KVMOD_OK;

	r.last_question = last_question(talk);
	/* What follows a question is the same with a system message and without. */
	if (talk->part == KVMOD_CHAT_QUESTION)
		put(&r, slot_of(row->user), message(talk->messages[0].text));
	else
		code = put_turns(&r, system);
	if (!code && !stays_open(&r))
		put(&r, row->generation, message(""));
	return code;
}
