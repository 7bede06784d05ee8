/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Child processes in which modules are tried. A child leads a process group, so that
 * every process that the module starts can be killed with it. Inline, because the library
 * and the command both have such children.
 */
#ifndef KV_CORE_BASE_CHILD_H
#define KV_CORE_BASE_CHILD_H

#include <config.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* How often to check whether the child has ended. */
#define KV_CHILD_LOOK_MS 50

/* What the child does first. */
static inline void kv_child_begin(void)
{
	const struct rlimit no_core = { 0, 0 };

	setpgid(0, 0);
	/* Ctrl-C does not reach the new group, and the child must not outlive its parent. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* Nor may the child stop when it writes to the terminal or reads from it. */
	signal(SIGTTOU, SIG_IGN);
	signal(SIGTTIN, SIG_IGN);
	setrlimit(RLIMIT_CORE, &no_core);
}

/* What the parent does after fork(): parent or child, the first of the two makes the group. */
static inline void kv_child_started(pid_t pid)
{
	setpgid(pid, pid);
}

/* An ended child stays unreaped, so its process group still exists. */
static inline bool kv_child_has_ended(pid_t pid)
{
	siginfo_t info = { .si_pid = 0 };

	return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
	       info.si_pid == pid;
}

/* Kills the child and the processes that it started; the caller still has to reap it. */
static inline void kv_child_kill(pid_t pid)
{
	kill(-pid, SIGKILL);
	kill(pid, SIGKILL);		/* in case it has left the group */
}

#endif
