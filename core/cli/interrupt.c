/* SPDX-License-Identifier: Apache-2.0 */
/* Ctrl-C: the first ends the answer in progress, the second the program. */
#include "core/cli/run.h"

#include <signal.h>

static volatile sig_atomic_t interrupted;
static void (*volatile cancel)(void *instance);
static void *volatile cancel_arg;

static void note(int signal_number)
{
	(void)signal_number;
	interrupted = 1;
	cancel(cancel_arg);
}

void cli_catch_interrupt(const struct cli_model *m)
{
	struct sigaction action = { .sa_handler = note, .sa_flags = (int)SA_RESETHAND };

	interrupted = 0;
	cancel = m->ops->cancel;
	cancel_arg = m->instance;
	sigemptyset(&action.sa_mask);
	sigaction(SIGINT, &action, NULL);
}

void cli_release_interrupt(void)
{
	signal(SIGINT, SIG_DFL);
}

void cli_progress_or_stop(void *progress, uint64_t done)
{
	cli_progress_to(progress, done);
	if (interrupted)
		cancel(cancel_arg);
}

bool cli_interrupted(void)
{
	return interrupted;
}

int cli_error_unless_stopped(void)
{
	return interrupted ? CLI_FAILED : cli_error_kvmod();
}
