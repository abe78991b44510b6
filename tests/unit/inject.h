/* SPDX-License-Identifier: MIT */
/*
 * Failures on demand: of all calls of the C library that give something or write it, the how
 * manieth fails. And the books: what was taken and not given back.
 *
 * For a program linked with -Wl,--wrap= for each of the functions below, and with
 * tests/unit/inject_end.o as the last object. fake_kvm.h comes with it.
 */
#ifndef TESTS_UNIT_INJECT_H
#define TESTS_UNIT_INJECT_H

#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include "tests/unit/fake_kvm.h"
#include "tests/unit/inject_end.h"

/* --- the how manieth -------------------------------------------------------------------------- */

static atomic_uint inject_calls, inject_at; /* from 1; 0: none fails, and nothing is counted */
static const char *_Atomic inject_what;	    /* the function that failed */
static unsigned long inject_request;	    /* if that was ioctl() */

static void inject_arm(unsigned int at)
{
	inject_what = NULL;
	inject_calls = 0;
	inject_at = at;
}

/* Whether there was one to fail. */
static bool inject_disarm(void)
{
	inject_at = 0;
	return inject_what != NULL;
}

void *__wrap_malloc(size_t size);

/*
 * A static C library calls itself through the wrappers, too, and keeps what it gets. The objects
 * under test lie between the test's own and tests/unit/inject_end.o.
 */
static bool inject_is_ours(void *caller)
{
	return (uintptr_t)caller > (uintptr_t)__wrap_malloc && (uintptr_t)caller < (uintptr_t)inject_end;
}

static bool inject_call(bool ours, const char *what, int err)
{
	if (!ours || !inject_at || atomic_fetch_add(&inject_calls, 1) + 1 != inject_at)
		return false;
	inject_what = what;
	errno = err;
	return true;
}

/* These are for the wrappers themselves, whose caller they look at. */
#define ours()		  inject_is_ours(__builtin_return_address(0))
#define inject(what, err) inject_call(ours(), what, err)

/* --- memory and mappings ---------------------------------------------------------------------- */

#define BOOK 16384

static struct {
	pthread_mutex_t lock;
	void *block[BOOK];
	unsigned int nr;
	long long mapped;
} book = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void *book_in(bool mine, void *p)
{
	size_t i = ((uintptr_t)p >> 4) % BOOK;

	if (!p || !mine)
		return p;
	pthread_mutex_lock(&book.lock);
	if (book.nr++ == BOOK - 1)
		abort();
	while (book.block[i])
		i = (i + 1) % BOOK;
	book.block[i] = p;
	pthread_mutex_unlock(&book.lock);
	return p;
}

/* What was not taken through us (the C library's own) isn't there. */
static void book_out(void *p)
{
	size_t i = ((uintptr_t)p >> 4) % BOOK, hole;

	if (!p)
		return;
	pthread_mutex_lock(&book.lock);
	while (book.block[i] && book.block[i] != p)
		i = (i + 1) % BOOK;
	if (book.block[i]) {
		book.nr--;
		book.block[i] = NULL;
		/* Those behind it that it has kept from their own place. */
		for (hole = i, i = (i + 1) % BOOK; book.block[i]; i = (i + 1) % BOOK) {
			size_t home = ((uintptr_t)book.block[i] >> 4) % BOOK;

			if ((i - home + BOOK) % BOOK < (i - hole + BOOK) % BOOK)
				continue;
			book.block[hole] = book.block[i];
			book.block[i] = NULL;
			hole = i;
		}
	}
	pthread_mutex_unlock(&book.lock);
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void __real_free(void *p);
char *__real_strdup(const char *s);

void *__wrap_malloc(size_t size)
{
	return inject("malloc", ENOMEM) ? NULL : book_in(ours(), __real_malloc(size));
}

void *__wrap_calloc(size_t n, size_t size)
{
	return inject("calloc", ENOMEM) ? NULL : book_in(ours(), __real_calloc(n, size));
}

void *__wrap_realloc(void *p, size_t size)
{
	void *q;

	if (inject("realloc", ENOMEM))
		return NULL;
	book_out(p);
	q = __real_realloc(p, size);
	return book_in(ours(), q ? q : p);
}

void __wrap_free(void *p)
{
	book_out(p);
	__real_free(p);
}

char *__wrap_strdup(const char *s)
{
	return inject("strdup", ENOMEM) ? NULL : book_in(ours(), __real_strdup(s));
}

int __wrap_asprintf(char **s, const char *fmt, ...);
int __wrap_asprintf(char **s, const char *fmt, ...)
{
	va_list args;
	int ret;

	if (inject("asprintf", ENOMEM))
		return -1;
	va_start(args, fmt);
	ret = vasprintf(s, fmt, args);
	va_end(args);
	if (ret >= 0)
		book_in(ours(), *s);
	return ret;
}

static void book_map(long long bytes)
{
	pthread_mutex_lock(&book.lock);
	book.mapped += bytes;
	pthread_mutex_unlock(&book.lock);
}

void *__wrap_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
	void *p;

	if (inject("mmap", ENOMEM))
		return MAP_FAILED;
	p = __real_mmap(addr, len, prot, flags, fd, offset);
	/* Over what is mapped already. */
	if (p != MAP_FAILED && !(flags & MAP_FIXED) && ours())
		book_map((long long)len);
	return p;
}

int __wrap_munmap(void *addr, size_t len);
int __wrap_munmap(void *addr, size_t len)
{
	if (ours())
		book_map(-(long long)len);
	return __real_munmap(addr, len);
}

/* --- the others ------------------------------------------------------------------------------- */

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
	va_list args;
	mode_t mode;
	int fd;

	va_start(args, flags);
	mode = va_arg(args, mode_t);
	va_end(args);
	if (inject("open", EMFILE))
		return -1;
	fd = fake_open(path);
	return fd >= 0 ? fd : __real_open(path, flags, mode);
}

int __real_openat(int dir, const char *path, int flags, ...);
int __wrap_openat(int dir, const char *path, int flags, ...);
int __wrap_openat(int dir, const char *path, int flags, ...)
{
	va_list args;
	mode_t mode;

	va_start(args, flags);
	mode = va_arg(args, mode_t);
	va_end(args);
	return inject("openat", EMFILE) ? -1 : __real_openat(dir, path, flags, mode);
}

int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...)
{
	va_list args;
	void *arg;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
	request = (uint32_t)request;
	if (request != KVM_RUN && inject("ioctl", ENOMEM)) {
		inject_request = request;
		return -1;
	}
	return fake_takes(request) ? fake_ioctl(fd, request, arg) : __real_ioctl(fd, request, arg);
}

long __real_syscall(long nr, ...);
long __wrap_syscall(long nr, ...);
long __wrap_syscall(long nr, ...)
{
	va_list args;
	long a[6];

	va_start(args, nr);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(args, long);
	va_end(args);
	return inject("syscall", EMFILE) ? -1 : __real_syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}

int __real_epoll_ctl(int epfd, int op, int fd, struct epoll_event *event);
int __wrap_epoll_ctl(int epfd, int op, int fd, struct epoll_event *event);
int __wrap_epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
	/* Taking out needs nothing. */
	if (op != EPOLL_CTL_DEL && inject("epoll_ctl", ENOSPC))
		return -1;
	return __real_epoll_ctl(epfd, op, fd, event);
}

int __real_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	return inject("pthread_create", EAGAIN) ? EAGAIN : __real_pthread_create(t, attr, fn, arg);
}

/* Called before each fsync(). */
static void (*inject_on_sync)(void);

int __real_fsync(int fd);
int __wrap_fsync(int fd);
int __wrap_fsync(int fd)
{
	if (inject_on_sync)
		inject_on_sync();
	return inject("fsync", EIO) ? -1 : __real_fsync(fd);
}

/* One whose failure is -1 and an errno. */
#define INJECT(type, name, err, params, args)                                                      \
	type __real_##name params;                                                                 \
	type __wrap_##name params;                                                                 \
	type __wrap_##name params                                                                  \
	{                                                                                          \
		return inject(#name, err) ? -1 : __real_##name args;                               \
	}

INJECT(int, accept4, EMFILE, (int fd, struct sockaddr *a, socklen_t *len, int flags), (fd, a, len, flags))
INJECT(int, bind, EADDRINUSE, (int fd, const struct sockaddr *a, socklen_t len), (fd, a, len))
INJECT(int, chmod, EPERM, (const char *path, mode_t mode), (path, mode))
INJECT(int, dup3, EMFILE, (int old, int new, int flags), (old, new, flags))
INJECT(int, epoll_create1, EMFILE, (int flags), (flags))
INJECT(int, eventfd, EMFILE, (unsigned int value, int flags), (value, flags))
INJECT(int, fchmod, EPERM, (int fd, mode_t mode), (fd, mode))
INJECT(int, fstat, EIO, (int fd, struct stat *st), (fd, st))
INJECT(int, ftruncate, ENOSPC, (int fd, off_t len), (fd, len))
INJECT(ssize_t, getrandom, ENOSYS, (void *buf, size_t len, unsigned int flags), (buf, len, flags))
INJECT(int, listen, EADDRINUSE, (int fd, int n), (fd, n))
INJECT(int, mkdir, EACCES, (const char *path, mode_t mode), (path, mode))
INJECT(int, mprotect, ENOMEM, (void *addr, size_t len, int prot), (addr, len, prot))
INJECT(ssize_t, pread, EIO, (int fd, void *buf, size_t len, off_t at), (fd, buf, len, at))
INJECT(ssize_t, preadv, EIO, (int fd, const struct iovec *v, int n, off_t at), (fd, v, n, at))
INJECT(ssize_t, pwrite, ENOSPC, (int fd, const void *buf, size_t len, off_t at), (fd, buf, len, at))
INJECT(int, renameat, ENOSPC, (int d, const char *a, int e, const char *b), (d, a, e, b))
INJECT(int, signalfd, EMFILE, (int fd, const sigset_t *set, int flags), (fd, set, flags))
INJECT(int, socket, EMFILE, (int domain, int type, int protocol), (domain, type, protocol))
INJECT(int, timerfd_create, EMFILE, (int clock, int flags), (clock, flags))

/* --- the books -------------------------------------------------------------------------------- */

struct taken {
	unsigned int fds, threads, blocks;
	long long mapped;
};

static unsigned int entries(const char *path)
{
	DIR *dir = opendir(path);
	unsigned int n = 0;

	while (dir && readdir(dir))
		n++;
	if (dir)
		closedir(dir);
	return n;
}

static struct taken taken_now(void)
{
	return (struct taken){
		.fds = entries("/proc/self/fd"),
		.threads = entries("/proc/self/task"),
		.blocks = book.nr,
		.mapped = book.mapped,
	};
}

#endif
