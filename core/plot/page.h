/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The picture of `kvmod plot text`: a page of text whose background shows how many KV heads
 * keep each token. kvmod writes this SVG itself: gnuplot places labels at coordinates, but knows
 * neither lines of text nor how wide a character is, so all the layout would be ours anyway,
 * and its rectangles and labels would be several times as many bytes.
 */
#ifndef KV_CORE_PLOT_PAGE_H
#define KV_CORE_PLOT_PAGE_H

#include "core/plot/plot.h"

/* A page that grows downward. */
struct page {
	struct cli_text back, front;	/* rectangles, and text above them */
	unsigned width;			/* pixels */
	unsigned columns;		/* of a line of text */
	double y;			/* the top of what comes next */
	unsigned column;		/* in the line in progress */
	bool begun;			/* a line is in progress, if an empty one */
	bool after_blank;		/* a word may begin */
};

/* What a token is on the page. */
struct page_token {
	const char *text;
	size_t n;
	double share;			/* 0 to 1 */
};

void page_begin(struct page *page, unsigned width, const char *title);
/* The legend of shades, and what they mean. */
void page_add_legend(struct page *page, const char *what);
/* All n tokens as a strip; from .. to-1 of them are marked, as the text that follows. */
void page_add_strip(struct page *page, const struct page_token *tokens, size_t n, size_t from,
		    size_t to);
/* Tokens first .. end-1 as text. */
void page_add_text(struct page *page, const struct page_token *tokens, size_t first, size_t end);
/* The whole picture; frees the page. */
void page_end(struct page *page, struct cli_text *svg);

#endif
