/* SPDX-License-Identifier: Apache-2.0 */
/* A progress bar that leaves no trace. */
#include "core/cli/cli.h"

#include <unistd.h>

#define BAR_WIDTH	24
#define DRAW_EVERY	0.1	/* seconds */

void cli_progress_begin(struct cli_progress *p, const char *label, uint64_t total)
{
	*p = (struct cli_progress){ .label = label, .total = total };
}

void cli_progress_to(void *arg, uint64_t done)
{
	static const char full[] = "########################", none[] = "........................";
	struct cli_progress *p = arg;
	double now = cli_now();
	int n;

	if (!isatty(STDERR_FILENO) || !p->total || now - p->shown_at < DRAW_EVERY)
		return;
	if (done > p->total)
		done = p->total;
	n = (int)(done * BAR_WIDTH / p->total);
	p->shown_at = now;
	fprintf(stderr, "\r%s [%.*s%.*s] %llu/%llu", p->label, n, full, BAR_WIDTH - n, none,
		(unsigned long long)done, (unsigned long long)p->total);
	fflush(stderr);
}

void cli_progress_end(struct cli_progress *p)
{
	if (p->shown_at > 0)
		fputs("\r\033[K", stderr);
	p->shown_at = 0;
}
