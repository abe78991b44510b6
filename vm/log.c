/* SPDX-License-Identifier: MIT */
#include "vm/log.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LOG_LINE    1024
#define LOG_WAIT_MS 100

static struct {
	atomic_int level;
	atomic_int fd;
	atomic_bool kmsg;
	atomic_bool crlf;
	const char *_Atomic prefix;
	pthread_mutex_t lock; /* for one line: what poll() promised is for one thread */
	char first_error[LOG_SENTENCE]; /* under the lock */
} logger = { .level = LOG_INFO, .fd = STDERR_FILENO, .lock = PTHREAD_MUTEX_INITIALIZER };

static const char level_name[][6] = { "error", "warn", "info", "debug" };

void log_set_level(enum log_level level)
{
	atomic_store(&logger.level, (int)level);
}

int log_parse_level(const char *word)
{
	for (int i = 0; i <= LOG_DEBUG; i++) {
		if (!strcmp(word, level_name[i]))
			return i;
	}
	return -EINVAL;
}

void log_set_fd(int fd, bool kmsg)
{
	atomic_store(&logger.kmsg, kmsg);
	atomic_store(&logger.fd, fd);
}

void log_set_prefix(const char *prefix)
{
	atomic_store(&logger.prefix, prefix);
}

void log_set_crlf(bool on)
{
	atomic_store(&logger.crlf, on);
}

/*
 * Has the reader of a pipe or terminal stopped? Then the line is lost: a guest can provoke lines,
 * and no thread may hang on them. Other files don't wait, and some can't be asked (/dev/kmsg).
 */
static bool log_stuck(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLOUT };
	struct stat st;

	if (fstat(fd, &st) || !(S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode) || isatty(fd)))
		return false;
	return poll(&p, 1, LOG_WAIT_MS) == 0;
}

static void keep_error(const char *text)
{
	pthread_mutex_lock(&logger.lock);
	if (!*logger.first_error)
		snprintf(logger.first_error, LOG_SENTENCE, "%.*s", LOG_SENTENCE - 1, text);
	pthread_mutex_unlock(&logger.lock);
}

void log_forget_error(void)
{
	pthread_mutex_lock(&logger.lock);
	*logger.first_error = '\0';
	pthread_mutex_unlock(&logger.lock);
}

void log_first_error(char why[LOG_SENTENCE])
{
	pthread_mutex_lock(&logger.lock);
	memcpy(why, logger.first_error, LOG_SENTENCE);
	pthread_mutex_unlock(&logger.lock);
}

void log_line(enum log_level level, const char *fmt, ...)
{
	/* kernel priorities: err, warning, info, debug, in the "user" facility's place left at 0 */
	static const char kmsg_level[][4] = { "<3>", "<4>", "<6>", "<7>" };
	char buf[LOG_LINE];
	int saved = errno;
	int len, n, text;
	va_list ap;

	if ((int)level > atomic_load(&logger.level))
		return;
	const char *prefix = atomic_load(&logger.prefix);

	len = snprintf(buf, sizeof(buf) - 2, "%svinit: %s%s",
		       atomic_load(&logger.kmsg) ? kmsg_level[level] : "", prefix ? prefix : "",
		       level == LOG_ERROR  ? "error: "
		       : level == LOG_WARN ? "warning: "
					   : "");
	if (len < 0 || (size_t)len >= sizeof(buf) - 2)
		len = 0;
	text = len;
	va_start(ap, fmt);
	n = vsnprintf(buf + len, sizeof(buf) - 2 - (size_t)len, fmt, ap);
	va_end(ap);
	if (n > 0)
		len += n;
	if ((size_t)len > sizeof(buf) - 3)
		len = sizeof(buf) - 3;
	/* What a guest or a file had a hand in must not move the user's cursor. */
	for (int i = 0; i < len; i++) {
		unsigned char c = (unsigned char)buf[i];

		if (c < ' ' || c == 0x7f)
			buf[i] = '?';
	}
	buf[len] = '\0';
	if (level == LOG_ERROR)
		keep_error(buf + text);
	/* A file wants none, whatever the terminal is set to. */
	if (atomic_load(&logger.crlf) && atomic_load(&logger.fd) == STDERR_FILENO)
		buf[len++] = '\r';
	buf[len++] = '\n';
	/* One write a line, so that lines of several threads and processes don't mix. */
	pthread_mutex_lock(&logger.lock);
	int fd = atomic_load(&logger.fd);

	if (!log_stuck(fd) && write(fd, buf, (size_t)len) < 0) {
		/* there is nowhere to say so */
	}
	pthread_mutex_unlock(&logger.lock);
	errno = saved;
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

bool log_allow(struct log_limit *limit)
{
	uint32_t held = 0;
	bool allow = true;
	uint64_t now = now_ms();

	/* Never wait here: a guest decides how often it is called, and from how many vCPUs. */
	if (__atomic_exchange_n(&limit->lock, 1, __ATOMIC_ACQUIRE))
		return false;
	if (!limit->window_ms || now - limit->window_ms >= limit->interval_ms) {
		if (!limit->held)
			limit->interval_ms = LOG_INTERVAL_MS;
		else if (limit->interval_ms < LOG_INTERVAL_MAX_MS)
			limit->interval_ms *= 2;
		limit->window_ms = now;
		limit->printed = 0;
		held = limit->held;
		limit->held = 0;
	}
	if (limit->printed < LOG_BURST) {
		limit->printed++;
	} else {
		limit->held++;
		allow = false;
	}
	__atomic_store_n(&limit->lock, 0, __ATOMIC_RELEASE);
	if (held)
		log_line(LOG_INFO, "(%u lines like the next one held back)", held);
	return allow;
}

int log_refuse(char why[LOG_SENTENCE], int err, const char *fmt, ...)
{
	char text[LOG_SENTENCE];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	log_err("%s", text);
	if (why)
		memcpy(why, text, sizeof(text));
	return err;
}

/* By number and by name, in one order. */
#define ERRNOS(X)										   \
	X(EPERM) X(ENOENT) X(ESRCH) X(EINTR) X(EIO) X(ENXIO) X(E2BIG) X(ENOEXEC) X(EBADF)	   \
	X(ECHILD) X(EAGAIN) X(ENOMEM) X(EACCES) X(EFAULT) X(ENOTBLK) X(EBUSY) X(EEXIST)		   \
	X(EXDEV) X(ENODEV) X(ENOTDIR) X(EISDIR) X(EINVAL) X(ENFILE) X(EMFILE) X(ENOTTY)		   \
	X(ETXTBSY) X(EFBIG) X(ENOSPC) X(ESPIPE) X(EROFS) X(EMLINK) X(EPIPE) X(EDOM)		   \
	X(ERANGE) X(EDEADLK) X(ENAMETOOLONG) X(ENOSYS) X(ENOTEMPTY) X(ELOOP) X(EPROTO)		   \
	X(EBADMSG) X(ENODATA) X(ETIME) X(ENOTUNIQ) X(EUSERS) X(ENOLCK) X(EOVERFLOW)		   \
	X(EILSEQ) X(ENOTSOCK) X(EMSGSIZE) X(EPROTONOSUPPORT) X(EOPNOTSUPP)			   \
	X(EAFNOSUPPORT) X(EADDRINUSE) X(EADDRNOTAVAIL) X(ENETDOWN) X(ENETUNREACH)		   \
	X(ECONNABORTED) X(ECONNRESET) X(ENOBUFS) X(EISCONN) X(ENOTCONN) X(ETIMEDOUT)		   \
	X(ECONNREFUSED) X(EHOSTUNREACH) X(EALREADY) X(EINPROGRESS) X(ESTALE) X(EDQUOT)		   \
	X(ENOMEDIUM) X(ECANCELED) X(EKEYREJECTED) X(EBADFD) X(EPROTOTYPE)
#define NUMBER(name) name,
#define NAME(name)   #name "\0"

const char *errno_name(int err)
{
	static const uint8_t numbers[] = { ERRNOS(NUMBER) };
	const char *name = "no error\0" ERRNOS(NAME) "an errno without a name here";

	if (err < 0)
		err = -err;
	if (!err)
		return name;
	name += strlen(name) + 1;
	for (unsigned int i = 0; i < sizeof(numbers) && numbers[i] != err; i++)
		name += strlen(name) + 1;
	return name;
}
