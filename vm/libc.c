/* SPDX-License-Identifier: MIT */
/*
 * Functions of the C library, as much of them as is used here: its own are ten times the size, since
 * its printf() alone brings floating point, wide characters, error texts and buffered files along.
 * The names are the standard's, so that the compiler checks the calls.
 *
 * Of printf(): flags - # 0, a width and a string's precision as numbers or *, lengths l ll j t z,
 * conversions d i u x X p c s %. What is not among them is printed as it stands, from its % on.
 * What goes to a file goes there at once: nothing is left to flush.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Every length modifier but none is this long, which int64_t is, too. */
_Static_assert(sizeof(long) == 8 && sizeof(long long) == 8 && sizeof(size_t) == 8, "LP64");

/* The compiler makes calls of these by itself, of printf() say, when what is unused was dropped. */
#define KEPT __attribute__((used))

/* --- words ---------------------------------------------------------------------------------- */

/* A byte at a time: the C library's take words of 8, which nothing here is long enough for. */
KEPT void *memchr(const void *p, int c, size_t len)
{
	const unsigned char *s = p;

	for (; len && *s != (unsigned char)c; len--)
		s++;
	return len ? (void *)s : NULL;
}

KEPT char *strchrnul(const char *s, int c)
{
	while (*s && *s != (char)c)
		s++;
	return (char *)s;
}

KEPT char *strchr(const char *s, int c)
{
	char *at = strchrnul(s, c);

	return *at == (char)c ? at : NULL;
}

static size_t span(const char *s, const char *set, bool in)
{
	size_t n = 0;

	while (s[n] && !strchr(set, s[n]) != in)
		n++;
	return n;
}

KEPT size_t strspn(const char *s, const char *set)
{
	return span(s, set, true);
}

KEPT size_t strcspn(const char *s, const char *set)
{
	return span(s, set, false);
}

static int lower(char c)
{
	return c >= 'A' && c <= 'Z' ? c | 32 : (unsigned char)c;
}

KEPT int strncasecmp(const char *a, const char *b, size_t len)
{
	for (; len && *a && lower(*a) == lower(*b); len--) {
		a++;
		b++;
	}
	return len ? lower(*a) - lower(*b) : 0;
}

KEPT int strcasecmp(const char *a, const char *b)
{
	return strncasecmp(a, b, PTRDIFF_MAX);
}

KEPT char *strcpy(char *to, const char *from)
{
	return memcpy(to, from, strlen(from) + 1);
}

KEPT char *strstr(const char *s, const char *word)
{
	size_t len = strlen(word);

	while (strncmp(s, word, len)) {
		if (!*s++)
			return NULL;
	}
	return (char *)s;
}

char *getenv(const char *name)
{
	size_t len = strlen(name);

	for (char **e = environ; e && *e; e++) {
		if (!strncmp(*e, name, len) && (*e)[len] == '=')
			return *e + len + 1;
	}
	return NULL;
}

/* --- printf() and its kind ------------------------------------------------------------------ */

struct out {
	char *buf;
	size_t size;
	size_t len; /* of all that was put; what has no room is only counted */
	size_t gone; /* to fd */
	int fd;	    /* what fills @buf goes here; -1 for none */
};

static void flush(struct out *o)
{
	size_t done = 0;
	ssize_t n;

	while (done < o->len) {
		n = write(o->fd, o->buf + done, o->len - done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break; /* there is nowhere to say so */
		done += (size_t)n;
	}
	o->gone += o->len;
	o->len = 0;
}

static void put(struct out *o, const char *s, size_t len)
{
	for (; len; len--, s++) {
		if (o->fd >= 0 && o->len == o->size)
			flush(o);
		if (o->len < o->size)
			o->buf[o->len] = *s;
		o->len++;
	}
}

static void pad(struct out *o, char c, int n)
{
	for (; n > 0; n--)
		put(o, &c, 1);
}

struct spec {
	bool left, alt, zero, wide;
	int width, precision; /* -1: none */
};

/* Text of @len bytes behind its sign or 0x, in the width asked for. */
static void put_field(struct out *o, const struct spec *s, const char *prefix, const char *text,
		      size_t len)
{
	int blanks = s->width - (int)(strlen(prefix) + len);

	if (!s->left && !s->zero)
		pad(o, ' ', blanks);
	put(o, prefix, strlen(prefix));
	if (!s->left && s->zero)
		pad(o, '0', blanks);
	put(o, text, len);
	if (s->left)
		pad(o, ' ', blanks);
}

static void put_number(struct out *o, const struct spec *s, const char *prefix, unsigned long value,
		       unsigned int base, bool capital)
{
	char digits[24], *p = digits + sizeof(digits);

	do {
		*--p = (capital ? "0123456789ABCDEF" : "0123456789abcdef")[value % base];
		value /= base;
	} while (value);
	put_field(o, s, prefix, p, (size_t)(digits + sizeof(digits) - p));
}

/* A width or precision of digits, none being 0. */
static int number(const char **f)
{
	int n = 0;

	for (; **f >= '0' && **f <= '9' && n < 10000; (*f)++)
		n = n * 10 + **f - '0';
	return n;
}

static const char *flags(const char *f, struct spec *s)
{
	*s = (struct spec){ .precision = -1 };
	for (;; f++) {
		if (*f == '-')
			s->left = true;
		else if (*f == '#')
			s->alt = true;
		else if (*f == '0')
			s->zero = true;
		else
			return f;
	}
}

static void format(struct out *o, const char *f, va_list ap)
{
	const char *start, *text;
	struct spec s;
	unsigned long value;
	char c;

	for (; *f; f++) {
		start = f;
		if (*f != '%') {
			put(o, f, 1);
			continue;
		}
		f = flags(f + 1, &s);
		s.width = *f == '*' ? f++, va_arg(ap, int) : number(&f);
		if (s.width < 0) {
			s.left = true;
			s.width = -s.width;
		}
		if (*f == '.') {
			f++;
			s.precision = *f == '*' ? f++, va_arg(ap, int) : number(&f);
		}
		for (; *f && strchr("lzjt", *f); f++)
			s.wide = true;
		switch (*f) {
		case 'd':
		case 'i':
			value = (unsigned long)(s.wide ? va_arg(ap, long) : va_arg(ap, int));
			if ((long)value < 0)
				put_number(o, &s, "-", -value, 10, false);
			else
				put_number(o, &s, "", value, 10, false);
			break;
		case 'u':
		case 'x':
		case 'X':
			value = s.wide ? va_arg(ap, unsigned long) : va_arg(ap, unsigned int);
			put_number(o, &s, !s.alt || !value || *f == 'u' ? "" : *f == 'X' ? "0X" : "0x",
				   value, *f == 'u' ? 10 : 16, *f == 'X');
			break;
		case 'p':
			put_number(o, &s, "0x", (unsigned long)va_arg(ap, void *), 16, false);
			break;
		case 'c':
			c = (char)va_arg(ap, int);
			put_field(o, &s, "", &c, 1);
			break;
		case 's':
			text = va_arg(ap, const char *);
			if (!text)
				text = "(null)";
			put_field(o, &s, "", text,
				  s.precision < 0 ? strlen(text) : strnlen(text, (size_t)s.precision));
			break;
		case '%':
			put(o, f, 1);
			break;
		default:
			put(o, start, strlen(start));
			return;
		}
	}
}

KEPT int vsnprintf(char *buf, size_t size, const char *fmt, va_list ap)
{
	struct out o = { .buf = buf, .size = size, .fd = -1 };

	format(&o, fmt, ap);
	if (size)
		buf[o.len < size ? o.len : size - 1] = '\0';
	return (int)o.len;
}

KEPT int snprintf(char *buf, size_t size, const char *fmt, ...)
{
	va_list ap;
	int len;

	va_start(ap, fmt);
	len = vsnprintf(buf, size, fmt, ap);
	va_end(ap);
	return len;
}

static int print(int fd, const char *fmt, va_list ap)
{
	char buf[512];
	struct out o = { .buf = buf, .size = sizeof(buf), .fd = fd };

	format(&o, fmt, ap);
	flush(&o);
	return (int)o.gone;
}

KEPT int dprintf(int fd, const char *fmt, ...)
{
	va_list ap;
	int ret;

	va_start(ap, fmt);
	ret = print(fd, fmt, ap);
	va_end(ap);
	return ret;
}

KEPT int printf(const char *fmt, ...)
{
	va_list ap;
	int ret;

	va_start(ap, fmt);
	ret = print(STDOUT_FILENO, fmt, ap);
	va_end(ap);
	return ret;
}

/* What the compiler makes of printf() where it knows the format. */
KEPT int puts(const char *s)
{
	return dprintf(STDOUT_FILENO, "%s\n", s);
}

KEPT int putchar(int c)
{
	return dprintf(STDOUT_FILENO, "%c", c);
}

/* --- numbers -------------------------------------------------------------------------------- */

static unsigned int digit(char c)
{
	return c >= '0' && c <= '9' ? (unsigned int)(c - '0') :
	       (c | 32) >= 'a' && (c | 32) <= 'z' ? (unsigned int)((c | 32) - 'a') + 10 :
						    UINT_MAX;
}

/* Blanks and tabs may stand in front (/proc/meminfo has some), and no sign. */
KEPT unsigned long long strtoull(const char *s, char **end, int base)
{
	unsigned long long n = 0;
	bool over = false;

	while (*s == ' ' || *s == '\t')
		s++;
	if (!base) {
		base = *s == '0' ? 8 : 10;
		if (*s == '0' && (s[1] | 32) == 'x' && digit(s[2]) < 16) {
			base = 16;
			s += 2;
		}
	}
	for (; digit(*s) < (unsigned int)base; s++)
		over |= __builtin_mul_overflow(n, (unsigned int)base, &n) ||
			__builtin_add_overflow(n, digit(*s), &n);
	if (over) {
		errno = ERANGE;
		n = ULLONG_MAX;
	}
	if (end)
		*end = (char *)s;
	return n;
}

/* --- time ----------------------------------------------------------------------------------- */

static int year_days(int year)
{
	return year % 4 || (year % 100 == 0 && year % 400) ? 365 : 366;
}

static int month_days(int month, int year)
{
	return month == 1 ? year_days(year) - 337 : 30 + !(month % 7 % 2);
}

/* From 1970 on. */
struct tm *gmtime_r(const time_t *t, struct tm *tm)
{
	long days = *t / 86400, second = *t % 86400;

	*tm = (struct tm){ .tm_wday = (int)((days + 4) % 7), .tm_year = 70 };
	tm->tm_hour = (int)(second / 3600);
	tm->tm_min = (int)(second / 60 % 60);
	tm->tm_sec = (int)(second % 60);
	for (; days >= year_days(tm->tm_year + 1900); tm->tm_year++)
		days -= year_days(tm->tm_year + 1900);
	tm->tm_yday = (int)days;
	for (; days >= month_days(tm->tm_mon, tm->tm_year + 1900); tm->tm_mon++)
		days -= month_days(tm->tm_mon, tm->tm_year + 1900);
	tm->tm_mday = (int)days + 1;
	return tm;
}

/* --- files ---------------------------------------------------------------------------------- */

/* The kernel knows, and /proc tells. Without /proc there is no answer. */
KEPT char *realpath(const char *path, char *out)
{
	char link[32], whole[PATH_MAX];
	int fd = open(path, O_PATH | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return NULL;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, whole, sizeof(whole) - 1);
	close(fd);
	if (n < 0)
		return NULL;
	whole[n] = '\0';
	return out ? strcpy(out, whole) : strdup(whole);
}

/*
 * The kernel's calls and nothing else. The C library's know ways around kernels that lack them,
 * all older than any that runs a guest here, and structures that differ on machines of 32 bits.
 */
KEPT int fcntl(int fd, int cmd, ...)
{
	unsigned long arg;
	va_list ap;

	va_start(ap, cmd);
	arg = va_arg(ap, unsigned long);
	va_end(ap);
	return (int)syscall(SYS_fcntl, fd, cmd, arg);
}

KEPT int fstatat(int dir, const char *path, struct stat *st, int flags)
{
	return (int)syscall(SYS_newfstatat, dir, path, st, flags);
}

KEPT int stat(const char *path, struct stat *st)
{
	return fstatat(AT_FDCWD, path, st, 0);
}

KEPT int lstat(const char *path, struct stat *st)
{
	return fstatat(AT_FDCWD, path, st, AT_SYMLINK_NOFOLLOW);
}

KEPT int fstat(int fd, struct stat *st)
{
	return (int)syscall(SYS_fstat, fd, st);
}

KEPT int fchmod(int fd, mode_t mode)
{
	return (int)syscall(SYS_fchmod, fd, mode);
}

KEPT int dup3(int fd, int to, int flags)
{
	return (int)syscall(SYS_dup3, fd, to, flags);
}

KEPT int socket(int family, int type, int protocol)
{
	return (int)syscall(SYS_socket, family, type, protocol);
}

KEPT int accept4(int fd, struct sockaddr *from, socklen_t *len, int flags)
{
	return (int)syscall(SYS_accept4, fd, from, len, flags);
}

KEPT int fexecve(int fd, char *const argv[], char *const env[])
{
	return (int)syscall(SYS_execveat, fd, "", argv, env, AT_EMPTY_PATH);
}

/* --- locks ---------------------------------------------------------------------------------- */

/*
 * Plain locks and conditions, of one process and without kinds: U. Drepper, "Futexes are tricky",
 * mutex2, and a condition that is a count of what happened. What takes a mutex or a condition must
 * be among these here, since the C library's other functions know another inside: tests/unit/build.sh
 * sees that none of them is linked.
 */
enum { LOCK_FREE, LOCK_HELD, LOCK_WAITED_FOR };

/* Until @word is not @value any more, it is woken, or @end of the monotonic clock: ETIMEDOUT. */
static int futex_wait(int *word, int value, const struct timespec *end)
{
	if (syscall(SYS_futex, word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, value, end, NULL,
		    FUTEX_BITSET_MATCH_ANY) < 0 && errno == ETIMEDOUT)
		return ETIMEDOUT;
	return 0;
}

static void futex_wake(int *word, int nr)
{
	syscall(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, nr);
}

KEPT int pthread_mutex_init(pthread_mutex_t *m, const pthread_mutexattr_t *attr)
{
	*m = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
	return 0;
}

KEPT int pthread_mutex_destroy(pthread_mutex_t *m)
{
	return 0;
}

KEPT int pthread_mutex_lock(pthread_mutex_t *m)
{
	int *word = (int *)m, was = LOCK_FREE, saved = errno;

	if (__atomic_compare_exchange_n(word, &was, LOCK_HELD, false, __ATOMIC_ACQUIRE,
					__ATOMIC_RELAXED))
		return 0;
	/* From now on whoever lets go wakes one: too often at most. */
	while (__atomic_exchange_n(word, LOCK_WAITED_FOR, __ATOMIC_ACQUIRE) != LOCK_FREE)
		futex_wait(word, LOCK_WAITED_FOR, NULL);
	errno = saved;
	return 0;
}

KEPT int pthread_mutex_unlock(pthread_mutex_t *m)
{
	int *word = (int *)m, saved = errno;

	if (__atomic_exchange_n(word, LOCK_FREE, __ATOMIC_RELEASE) == LOCK_WAITED_FOR)
		futex_wake(word, 1);
	errno = saved;
	return 0;
}

/* Its time is that of the monotonic clock, whatever @attr says: no caller wants the other one. */
KEPT int pthread_cond_init(pthread_cond_t *c, const pthread_condattr_t *attr)
{
	*c = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
	return 0;
}

KEPT int pthread_cond_destroy(pthread_cond_t *c)
{
	return 0;
}

/* @end NULL: for ever. */
static int cond_wait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *end)
{
	int *count = (int *)c, saved = errno;
	/* Under the lock: who changes what is waited for does so under it, and counts afterwards. */
	int before = __atomic_load_n(count, __ATOMIC_RELAXED), ret;

	pthread_mutex_unlock(m);
	ret = futex_wait(count, before, end);
	pthread_mutex_lock(m);
	errno = saved;
	return ret;
}

KEPT int pthread_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *end)
{
	return cond_wait(c, m, end);
}

KEPT int pthread_cond_wait(pthread_cond_t *c, pthread_mutex_t *m)
{
	return cond_wait(c, m, NULL);
}

/* Wakes all, and those who need not have been look again. */
KEPT int pthread_cond_broadcast(pthread_cond_t *c)
{
	int saved = errno;

	__atomic_fetch_add((int *)c, 1, __ATOMIC_RELAXED);
	futex_wake((int *)c, INT_MAX);
	errno = saved;
	return 0;
}

KEPT int pthread_cond_signal(pthread_cond_t *c)
{
	return pthread_cond_broadcast(c);
}
