/* SPDX-License-Identifier: MIT */
/* Starting processes from PID 1. */
#ifndef INITRAMFS_CHILD_H
#define INITRAMFS_CHILD_H

#include <stdbool.h>
#include <sys/types.h>

struct child {
	const char *const *argv; /* argv[0] is looked up in PATH unless exe_fd is given */
	int exe_fd;		 /* the program, or -1 */
	bool console;		 /* stdin is the console, as controlling terminal; else /dev/null */
};

/*
 * Starts a process of its own session, with default signals, no blocked ones, no files but stdio,
 * "/" as folder and PATH, HOME and TERM as all its environment. Its pid, or -errno after logging. A
 * failing exec is logged and ends it with 126 or 127.
 */
pid_t child_start(const struct child *child);

/*
 * Opens the console for reading and writing, not as controlling terminal. The fd (with O_CLOEXEC)
 * or -errno.
 */
int child_open_console(int flags);

#endif
