/* SPDX-License-Identifier: MIT */
/*
 * The process's own terminal: raw while a console has it, put back on every way out of the process,
 * and left alone while the process is in the background. There is one, for whoever claims it first.
 */
#ifndef VM_TERMINAL_H
#define VM_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Bits of terminal_signals(). */
#define TERMINAL_SIZE 1u /* it has another size */
#define TERMINAL_CONT 2u /* the process was stopped and goes on: terminal_set_raw() */

/* False when it is taken. terminal_close() gives it back, opened or not. */
bool terminal_claim(void);

/*
 * Makes @fd, a terminal, raw, and hooks the signals that end the process (where the default stands:
 * whoever has a handler of his own calls terminal_restore()), SIGWINCH and SIGCONT. @wake_fd, an
 * eventfd, is written after those two. Both descriptors stay the caller's until terminal_close().
 * False: as terminal_set_raw().
 */
bool terminal_open(int fd, int wake_fd);
void terminal_close(void);

/* False: in the background; to be tried again when terminal_is_ours(). */
bool terminal_set_raw(void);

/* False while another process group has the terminal: its mode is theirs then. Any thread. */
bool terminal_is_ours(void);

/* read() that never stops the process: -EIO in the background. Bytes or -errno. */
ssize_t terminal_read(void *buf, size_t len);

/* What came since the last call. */
unsigned int terminal_signals(void);

/* Puts the mode back. Any context, async-signal-safe: for fatal paths. */
void terminal_restore(void);

#endif
