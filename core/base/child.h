/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Child processes in which modules are tried. A child leads a process group, so that
 * whatever the module starts can be ended with it. Inline, because the library and the
 * command both have such children.
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

/* How often to look whether the child has ended. */
#define KV_CHILD_LOOK_MS 50

/* What the child does first. */
static inline void kv_child_begin(void)
{
	const struct rlimit no_core = { 0, 0 };

	setpgid(0, 0);
	/* In a group of its own it does not hear of Ctrl-C, and must not outlive its parent. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* Nor may it stop because it prints to the terminal, or reads from it. */
	signal(SIGTTOU, SIG_IGN);
	signal(SIGTTIN, SIG_IGN);
	setrlimit(RLIMIT_CORE, &no_core);
}

/* What the parent does after fork(): whichever of the two is first makes the group. */
static inline void kv_child_started(pid_t pid)
{
	setpgid(pid, pid);
}

/* It is not reaped yet, and its group is there. */
static inline bool kv_child_has_ended(pid_t pid)
{
	siginfo_t info = { .si_pid = 0 };

	return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
	       info.si_pid == pid;
}

/* Ends the child and what it has left behind; it is still to be reaped. */
static inline void kv_child_kill(pid_t pid)
{
	kill(-pid, SIGKILL);
	kill(pid, SIGKILL);		/* should it have left the group */
}

#endif
