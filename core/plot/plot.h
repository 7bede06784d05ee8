/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kinds of `kvmod plot` share. Each reads kvmod's own output, checks it, and makes a
 * script for gnuplot (the kind `text`: the picture itself), which plot_draw() turns into a file.
 */
#ifndef KV_CORE_PLOT_PLOT_H
#define KV_CORE_PLOT_PLOT_H

#include "core/cli/cli.h"
#include "core/cli/text.h"

#include <wchar.h>

/* --- the options of all kinds (plot.c) ------------------------------------------------- */

struct plot_options {
	const char *output;		/* NULL: standard output */
	const char *title;		/* NULL: the kind's own; "": none */
	uint64_t width, height;		/* pixels; 0: the kind's own */
};

#define PLOT_OUTPUT(o) \
	{ "output", 'o', CLI_STRING, &(o)->output, "FILE", "write the picture to FILE [standard output]" }, \
	{ "title", 0, CLI_STRING, &(o)->title, "TEXT", "the title of the picture; '' is none" }
#define PLOT_LINE(line) \
	{ "line", 0, CLI_NUMBER, line, "N", "draw the object on line N of several" }
#define PLOT_WIDTH(o) \
	{ "width", 0, CLI_NUMBER, &(o)->width, "N", "pixels of the picture's width [860]" }
#define PLOT_HEIGHT(o, usual) \
	{ "height", 0, CLI_NUMBER, &(o)->height, "N", "pixels of the picture's height [" usual "]" }

/* A mistake ends the program. */
void plot_check_options(const struct cli_command *self, const struct plot_options *o);
/* The only operand. */
const char *plot_operand(const struct cli_command *self, int argc, char **argv, int first);

/* --- text (escape.c, width.c) --------------------------------------------------------------- */

/* Adds formatted text, that of our own only. Without memory the program ends. */
void plot_add(struct cli_text *text, const char *format, ...) CLI_PRINTF(2, 3);
void plot_add_bytes(struct cli_text *text, const char *bytes, size_t n);
/* Makes room for one more element in an array of n. */
void *plot_grow(void *array, size_t n, size_t size);

/* 1, 2, 5, 10, 20, ...: how far apart tics are if at most `most` steps lead to n. */
size_t plot_step(size_t n, size_t most);

/* Text from outside as a string of gnuplot: one line, in quotes, which it cannot leave. */
void plot_add_quoted(struct cli_text *script, const char *text);
/* The same for a name, of which all but `most` columns are left out. Returns its columns. */
size_t plot_add_name(struct cli_text *script, const char *name, size_t most);
/* n bytes of text from outside as the text of an XML element or attribute. */
void plot_add_xml(struct cli_text *svg, const char *text, size_t n);

/* The code of the UTF-8 character of this length at s, and what wcwidth() says of a code in UTF-8. */
wchar_t plot_code(const char *s, int length);
int plot_code_width(wchar_t code);
/* The columns that text takes, at most `most`, and its bytes up to there. */
size_t plot_columns(const char *text, size_t most, size_t *bytes);

/* --- reading (read.c) --------------------------------------------------------------------- */

/* A file of JSON values, such as one a line. */
struct plot_file {
	const char *name;
	struct cli_text text;
	size_t at, line_at;		/* up to where it was read; where `line` was counted */
	unsigned line;			/* of the newest value, from 1 */
	bool one_a_line;		/* a value does not reach into the next line */
};

/* "-" is standard input. CLI_FAILED after a message; close it in any case. */
int plot_open(struct plot_file *f, const char *name);
void plot_close(struct plot_file *f);
/* The next value, or NULL at the end. CLI_FAILED after a message, which says what was expected. */
int plot_next(struct plot_file *f, const char *expected, json_t **value);
/* The object that is on line `line` (0: the only one). */
int plot_only(struct plot_file *f, uint64_t line, const char *expected, json_t **object);
/* "FILE:LINE: ..."; returns CLI_FAILED. */
int plot_error(const struct plot_file *f, const char *format, ...) CLI_PRINTF(2, 3);

/* More than anything measured; a double's own limits are too much for an axis. */
#define PLOT_MOST 1e18
/*
 * A member that is a number from low to high, or a text. what: "a number above 0". A message
 * and CLI_FAILED for any other value.
 */
int plot_real(const struct plot_file *f, const json_t *object, const char *member, double low,
	      double high, const char *what, double *value);
int plot_text(const struct plot_file *f, const json_t *object, const char *member,
	      const char *expected, const char **value);
/* How a value is shown in messages. */
#define PLOT_SHOWN_ROOM 64
const char *plot_shown(const json_t *value, char *text);

/* --- charts (chart.c) ----------------------------------------------------------------------- */

struct plot_point {
	double x, y, low, high;		/* low and high: where the bar of y begins and ends */
};

/* The points of one name, joined by lines; its style is that of its number. */
struct plot_series {
	char *name;
	struct plot_point *points;
	size_t n;
	unsigned style;
	bool rival;			/* dashed, with hollow points */
};

struct plot_chart {
	const struct plot_options *options;
	const char *title, *x_label, *y_label;
	struct plot_series *series;
	size_t n;
	bool rivals;			/* a style is that of a pair: ours and the rival's */
	bool bars;
};

/* A series of this name, made if need be. */
struct plot_series *plot_series_named(struct plot_chart *chart, const char *name);
void plot_add_point(struct plot_series *series, struct plot_point point);
void plot_chart_free(struct plot_chart *chart);
#define PLOT_WIDTH_USUAL	860
#define PLOT_HEIGHT_USUAL	480
double plot_width(const struct plot_options *o);
/* The terminal, title and labels. */
void plot_begin(struct cli_text *script, const struct plot_options *o, uint64_t height,
		const char *title);
/*
 * A logarithmic axis for values from low to high, which are above 0. With `zero` there is one
 * more tic below, where zeros are drawn: returned, else 0.
 */
double plot_log_axis(struct cli_text *script, char axis, double low, double high, bool zero);
/* The series, and a legend at their right. */
void plot_add_series(struct cli_text *script, const struct plot_chart *chart);
/* The pixels that are left for the chart itself. */
double plot_chart_width(const struct plot_chart *chart);
/* plot_begin() for a chart, which is at least as high as its legend. */
void plot_begin_chart(struct cli_text *script, const struct plot_chart *chart);

/* --- pictures (gnuplot.c, output.c) --------------------------------------------------------- */

/* Runs gnuplot on the script, and writes what it drew. */
int plot_draw(const struct plot_options *o, const struct cli_text *script);
/* The file appears whole or not at all. */
int plot_write(const struct plot_options *o, const struct cli_text *svg);

#endif
