/* SPDX-License-Identifier: Apache-2.0 */
/* Lays out text on a page, over shades, and writes it as SVG. */
#include "core/plot/page.h"

#include <math.h>
#include <string.h>
#include <wchar.h>

#define MARGIN		16
#define GUTTER		58		/* before a line: the number of its first token */
#define FONT_SIZE	13
#define COLUMN		7.8		/* 0.6 of the size, as in most monospace fonts */
#define LINE		19
#define TAB		4
#define STRIP		30

#define INK		"#111111"
#define PALE_INK	"#666666"
#define MARK_INK	"#8a8a8a"	/* signs for line ends and tabs */

/* --- shades ------------------------------------------------------------------------------- */

/* From white to a blue on which dark text is still easy to read, in print and in grey. */
static void add_shade(struct cli_text *to, double share)
{
	static const int light[3] = { 255, 255, 255 }, dark[3] = { 106, 174, 222 };
	int c[3];

	for (int i = 0; i < 3; i++)
		c[i] = (int)lround(light[i] + share * (dark[i] - light[i]));
	plot_add(to, "#%02x%02x%02x", c[0], c[1], c[2]);
}

static void add_rectangle(struct page *page, double x, double y, double width, double height,
			  double share)
{
	plot_add(&page->back, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"",
		 x, y, width, height);
	add_shade(&page->back, share);
	plot_add(&page->back, "\"/>\n");
}

enum anchor { START, MIDDLE, END };

/* Text of our own, or shown. */
static void add_label(struct page *page, double x, double y, enum anchor anchor, const char *style,
		      const char *text)
{
	static const char *const anchors[] = { "start", "middle", "end" };

	plot_add(&page->front, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" "
		 "font-family=\"sans-serif\" %s>", x, y, anchors[anchor], style);
	plot_add_xml(&page->front, text, strlen(text));
	plot_add(&page->front, "</text>\n");
}

#define SMALL "font-size=\"11\" fill=\"" PALE_INK "\""

void page_begin(struct page *page, unsigned width, const char *title)
{
	*page = (struct page){ .width = width, .y = MARGIN };
	page->columns = (unsigned)((width - 2 * MARGIN - GUTTER) / COLUMN) - 1;
	if (!*title)
		return;
	/* Only the user's own title may be too long; its end is cut off by the picture's edge. */
	add_label(page, MARGIN, page->y + 14, START, "font-size=\"15\" fill=\"" INK "\"", title);
	page->y += 28;
}

#define N_SHADES 6

void page_add_legend(struct page *page, const char *what)
{
	const double width = 36;
	double x = MARGIN;

	add_label(page, x, page->y + 11, START, SMALL, what);
	page->y += 18;
	for (int i = 0; i < N_SHADES; i++, x += width) {
		double share = (double)i / (N_SHADES - 1);
		char text[16];

		snprintf(text, sizeof(text), "%.0f%%", 100 * share);
		add_rectangle(page, x, page->y, width, 14, share);
		add_label(page, x + width / 2, page->y + 11, MIDDLE,
			  "font-size=\"11\" fill=\"" INK "\"", text);
	}
	plot_add(&page->front, "<rect x=\"%d\" y=\"%.1f\" width=\"%.1f\" height=\"14\" fill=\"none\" stroke=\""
		 MARK_INK "\" stroke-width=\"0.6\"/>\n", MARGIN, page->y, N_SHADES * width);
	page->y += 26;
}

/* --- the strip ----------------------------------------------------------------------------- */

/* The mean share of the tokens that a column of pixels stands for. */
static double mean_share(const struct page_token *tokens, size_t n, size_t columns, size_t at)
{
	size_t from = at * n / columns, to = (at + 1) * n / columns;
	double sum = 0;

	to = to > from ? to : from + 1;
	for (size_t i = from; i < to; i++)
		sum += tokens[i].share;
	return sum / (double)(to - from);
}

static void add_strip_label(struct page *page, double x, double y, enum anchor anchor, size_t n)
{
	char text[32];

	snprintf(text, sizeof(text), "%zu", n);
	add_label(page, x, y, anchor, SMALL, text);
}

/* The part that follows as text, as a bracket below the strip. */
static void add_bracket(struct page *page, double from, double to)
{
	double y = page->y + STRIP + 3;

	plot_add(&page->front, "<path d=\"M%.1f %.1fv4H%.1fv-4\" fill=\"none\" stroke=\"" INK "\"/>\n",
		 from, y, to);
}

void page_add_strip(struct page *page, const struct page_token *tokens, size_t n, size_t from,
		    size_t to)
{
	size_t columns = page->width - 2 * MARGIN, begun = 0;
	double x = MARGIN, wide = (double)columns, labels = page->y + STRIP + 20;

	for (size_t i = 1; i <= columns; i++) {
		double share = mean_share(tokens, n, columns, begun);

		/* One rectangle as long as nothing changes. */
		if (i < columns && fabs(mean_share(tokens, n, columns, i) - share) < 1e-9)
			continue;
		add_rectangle(page, x + (double)begun, page->y, (double)(i - begun), STRIP, share);
		begun = i;
	}
	plot_add(&page->front, "<rect x=\"%d\" y=\"%.1f\" width=\"%zu\" height=\"%d\" fill=\"none\" stroke=\""
		 MARK_INK "\" stroke-width=\"0.6\"/>\n", MARGIN, page->y, columns, STRIP);
	add_bracket(page, x + wide * (double)from / (double)n, x + wide * (double)to / (double)n);
	add_strip_label(page, x, labels, START, 0);
	/* None that would touch the last one. */
	for (size_t i = plot_step(n, 10); i < n - n / 16; i += plot_step(n, 10))
		add_strip_label(page, x + wide * (double)i / (double)n, labels, MIDDLE, i);
	add_strip_label(page, x + wide, labels, END, n);
	page->y += STRIP + 34;
}

/* --- characters ------------------------------------------------------------------------------ */

/* A character as it is drawn. */
struct glyph {
	const char *text;
	size_t n;			/* bytes of text */
	size_t step;			/* bytes that it stands for */
	unsigned columns;
	bool is_sign;			/* stands for a character that would not show */
	bool ends_line, is_blank;
};

/* Marks that would turn text around, and noncharacters, of which XML forbids some. */
static bool is_hidden(wchar_t c)
{
	return (c >= 0x200e && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e) ||
	       (c >= 0x2066 && c <= 0x2069) || c >= 0x110000 || (c & 0xfffe) == 0xfffe;
}

static struct glyph glyph_at(const char *s, size_t n, unsigned column)
{
	static char picture[4];		/* of a control character: U+2400 and on */
	int length = kv_utf8_length(s, n);
	struct glyph g = { .text = s, .n = 1, .step = 1, .columns = 1, .is_sign = true };
	wchar_t code;
	int width;

	if (length <= 0) {
		g.text = "\uFFFD";
		g.n = 3;
		return g;
	}
	code = plot_code(s, length);
	g.step = g.n = (size_t)length;
	g.ends_line = code == '\n';
	g.is_blank = code == ' ' || code == '\t' || code == '\n';
	if (code == '\n' || code == '\t') {
		g.text = code == '\n' ? "\u21B5" : "\u2192";
		g.n = 3;
		g.columns = code == '\n' ? 1 : TAB - column % TAB;
	} else if (code < 0x20 || code == 0x7f) {
		snprintf(picture, sizeof(picture), "\xe2\x90%c", code < 0x20 ? 0x80 + (int)code : 0xa1);
		g.text = picture;
		g.n = 3;
	} else {
		width = plot_code_width(code);
		g.is_sign = is_hidden(code) || (width < 0 && code < 0xa0);
		g.columns = width < 0 ? 1 : (unsigned)width;
		if (g.is_sign) {
			g.text = "\uFFFD";
			g.n = 3;
			g.columns = 1;
		}
	}
	return g;
}

/* --- lines of text --------------------------------------------------------------------------- */

static void break_line(struct page *page)
{
	page->y += LINE;
	page->column = 0;
	page->begun = false;
}

static double left_of(unsigned column)
{
	return MARGIN + GUTTER + COLUMN * column;
}

/* The number of its first token stands before a line. */
static void begin_line(struct page *page, size_t token)
{
	char text[32];

	if (page->begun)
		return;
	page->begun = true;
	snprintf(text, sizeof(text), "%zu", token);
	add_label(page, MARGIN + GUTTER - 10, page->y + 13, END,
		  "font-size=\"10\" fill=\"" MARK_INK "\"", text);
}

/* A run of characters of one token on one line, which are drawn alike. */
struct run {
	struct cli_text text;
	unsigned from;			/* column */
	bool is_sign;
};

static bool is_all_blank(const struct cli_text *text)
{
	return strspn(text->bytes, " ") == text->n;
}

/* textLength keeps fonts of another width in their columns. */
static void end_run(struct page *page, struct run *run, double share)
{
	double x = left_of(run->from), width = COLUMN * (page->column - run->from);

	if (!run->text.n)
		return;
	if (share > 0 && width > 0)
		add_rectangle(page, x, page->y, width, LINE - 2, share);
	if (!is_all_blank(&run->text)) {
		plot_add(&page->front, "<text x=\"%.1f\" y=\"%.1f\"", x, page->y + 13);
		if (run->is_sign)
			plot_add(&page->front, " fill=\"" MARK_INK "\">");
		else
			plot_add(&page->front, " textLength=\"%.1f\">", width);
		plot_add_xml(&page->front, run->text.bytes, run->text.n);
		plot_add(&page->front, "</text>\n");
	}
	cli_text_free(&run->text);
	run->text = (struct cli_text){ 0 };
}

/* Columns of the word that begins at byte `at` of a token, up to `most` and a few more. */
static unsigned word_columns(const struct page_token *tokens, size_t token, size_t end, size_t at,
			     unsigned most)
{
	unsigned columns = 0;

	for (; token < end && columns <= most; token++, at = 0) {
		while (at < tokens[token].n && columns <= most) {
			struct glyph g = glyph_at(tokens[token].text + at, tokens[token].n - at, 0);

			if (g.is_blank)
				return columns;
			columns += g.columns;
			at += g.step;
		}
	}
	return columns;
}

/* A word that does not fit the rest of the line, but fits one of its own, begins a new one. */
static bool must_break(const struct page *page, const struct glyph *g, unsigned word)
{
	if (page->column == 0 || g->is_blank)
		return false;
	if (page->after_blank && word <= page->columns && page->column + word > page->columns)
		return true;
	return page->column + g->columns > page->columns;
}

static void add_glyph(struct page *page, const struct glyph *g, struct run *run, double share)
{
	if (run->text.n && run->is_sign != g->is_sign)
		end_run(page, run, share);
	if (!run->text.n) {
		run->from = page->column;
		run->is_sign = g->is_sign;
	}
	plot_add_bytes(&run->text, g->text, g->n);
	page->column += g->columns;
	page->after_blank = g->is_blank;
	/* A tab is wider than its sign. */
	if (g->is_sign)
		end_run(page, run, share);
}

/* The part of a character, or a control token without text, has a column of its own. */
static const struct glyph nothing = { .text = "\u00B7", .n = 2, .columns = 1, .is_sign = true };

static void add_token(struct page *page, const struct page_token *tokens, size_t token, size_t end)
{
	const struct page_token *t = &tokens[token];
	struct run run = { .is_sign = false };

	for (size_t at = 0; at < t->n || t->n == 0;) {
		struct glyph g = t->n ? glyph_at(t->text + at, t->n - at, page->column) : nothing;

		/* Blanks stay behind the word before them, but not for ever. */
		if (must_break(page, &g, page->after_blank && !g.is_blank ?
			       word_columns(tokens, token, end, at, page->columns) : 0) ||
		    (g.is_blank && page->column > page->columns)) {
			end_run(page, &run, t->share);
			break_line(page);
		}
		begin_line(page, token);
		add_glyph(page, &g, &run, t->share);
		at += g.step;
		if (g.ends_line)
			break_line(page);
		if (t->n == 0)
			break;
	}
	end_run(page, &run, t->share);
}

void page_add_text(struct page *page, const struct page_token *tokens, size_t first, size_t end)
{
	page->after_blank = true;
	for (size_t i = first; i < end; i++)
		add_token(page, tokens, i, end);
	if (page->begun)
		break_line(page);
}

/* --- all of it ----------------------------------------------------------------------------- */

void page_end(struct page *page, struct cli_text *svg)
{
	unsigned height = (unsigned)page->y + MARGIN;

	plot_add(svg, "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n"
		 "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%u\" height=\"%u\" viewBox=\"0 0 %u %u\">\n"
		 "<rect width=\"%u\" height=\"%u\" fill=\"#ffffff\"/>\n", page->width, height, page->width,
		 height, page->width, height);
	plot_add_bytes(svg, page->back.bytes, page->back.n);
	plot_add(svg, "<g font-family=\"monospace\" font-size=\"%d\" fill=\"" INK
		 "\" style=\"white-space: pre\" xml:space=\"preserve\">\n", FONT_SIZE);
	plot_add_bytes(svg, page->front.bytes, page->front.n);
	plot_add(svg, "</g>\n</svg>\n");
	cli_text_free(&page->back);
	cli_text_free(&page->front);
}
