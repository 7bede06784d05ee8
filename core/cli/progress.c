/* SPDX-License-Identifier: Apache-2.0 */
/* A progress bar on the terminal, erased when the work is done. */
#include "core/cli/cli.h"

#include <unistd.h>

#define BAR_WIDTH	24
/* Seconds until the first drawing (short work shows no bar), and between two. */
#define DRAW_AFTER	0.3
#define DRAW_EVERY	0.1

void cli_progress_begin(struct cli_progress *p, const char *label, uint64_t total)
{
	*p = (struct cli_progress){ .label = label, .total = total, .next = cli_now() + DRAW_AFTER };
}

void cli_progress_to(void *arg, uint64_t done)
{
	static const char full[] = "########################", none[] = "........................";
	struct cli_progress *p = arg;
	double now = cli_now();
	int n;

	if (now < p->next || !p->total || !isatty(STDERR_FILENO))
		return;
	if (done > p->total)
		done = p->total;
	n = (int)(done * BAR_WIDTH / p->total);
	p->next = now + DRAW_EVERY;
	p->drawn = true;
	fprintf(stderr, "\r%s [%.*s%.*s] %llu/%llu", p->label, n, full, BAR_WIDTH - n, none,
		(unsigned long long)done, (unsigned long long)p->total);
	fflush(stderr);
}

void cli_progress_end(struct cli_progress *p)
{
	if (p->drawn)
		fputs("\r\033[K", stderr);
	p->drawn = false;
}
