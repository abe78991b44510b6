/* SPDX-License-Identifier: MIT */
/*
 * One line of log a call, on standard error, a file or the kernel's ring buffer.
 *
 * Callers add no newline. A line that a guest can provoke goes through log_limited(), which lets a
 * burst through and then counts what it held back, a call site at a time. A line that a pipe or
 * terminal does not take in a moment is lost. Not for signal handlers.
 */
#ifndef VM_LOG_H
#define VM_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/*
 * A call site's budget: LOG_BURST lines in an interval, the rest counted. The interval doubles
 * while lines are held back, up to LOG_INTERVAL_MAX_MS, so that a guest which provokes them for
 * days fills no disk.
 */
#define LOG_BURST	    5
#define LOG_INTERVAL_MS	    5000
#define LOG_INTERVAL_MAX_MS 600000

struct log_limit {
	uint64_t window_ms; /* when the interval began */
	uint32_t interval_ms;
	uint32_t printed;
	uint32_t held;
	int lock;
};

/*
 * Everything below @level is dropped from now on. The default is LOG_INFO.
 */
void log_set_level(enum log_level level);

/* "error", "warn", "info" or "debug" to a level; -EINVAL for other words. */
int log_parse_level(const char *word);

/*
 * Sends the log to @fd (2 until the first call). @kmsg: fd is /dev/kmsg, so each line carries the
 * kernel's <priority>. The descriptor stays the caller's.
 */
void log_set_fd(int fd, bool kmsg);

/* A word put before each line, "guest0: " say; not copied, NULL for none. */
void log_set_prefix(const char *prefix);

/* Lines end in CR LF while the terminal that they go to is raw. */
void log_set_crlf(bool on);

void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* True if this call site may print now; if lines were held back, says how many first. */
bool log_allow(struct log_limit *limit);

#define log_err(...)   log_line(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)

#define log_limited(level, ...)                                                                    \
	do {                                                                                       \
		static struct log_limit limit_;                                                    \
		if (log_allow(&limit_))                                                            \
			log_line(level, __VA_ARGS__);                                              \
	} while (0)

/* Room for the sentence in which a call says why it was refused. */
#define LOG_SENTENCE 192

/* Logs the sentence as an error, copies it to @why unless that is NULL, and returns @err. */
int log_refuse(char why[LOG_SENTENCE], int err, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * For who must answer somebody with the reason of a failure that is told in the log: forgets, and
 * copies the first error that was logged since, by any thread; "" for none.
 */
void log_forget_error(void);
void log_first_error(char why[LOG_SENTENCE]);

/* "ENOENT" for ENOENT or -ENOENT; never NULL, never allocated. */
const char *errno_name(int err);

#endif
