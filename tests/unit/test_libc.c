/* SPDX-License-Identifier: MIT */
/* vm/libc.c beside the C library that this test is linked with: the same words, the same answer. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "tests/unit/test.h"

#define snprintf  own_snprintf
#define vsnprintf own_vsnprintf
#define dprintf	  own_dprintf
#define printf	  own_printf
#define puts	  own_puts
#define putchar	  own_putchar
#define strtoull  own_strtoull
#define strstr	  own_strstr
#define gmtime_r  own_gmtime_r
#define realpath  own_realpath
#define strcpy own_strcpy
#define getenv own_getenv
#define memchr own_memchr
#define strchrnul own_strchrnul
#define strchr own_strchr
#define strspn own_strspn
#define strcspn own_strcspn
#define strncasecmp own_strncasecmp
#define strcasecmp own_strcasecmp
#define pthread_mutex_init own_mutex_init
#define pthread_mutex_destroy own_mutex_destroy
#define pthread_mutex_lock own_mutex_lock
#define pthread_mutex_unlock own_mutex_unlock
#define pthread_cond_init own_cond_init
#define pthread_cond_destroy own_cond_destroy
#define pthread_cond_wait own_cond_wait
#define pthread_cond_timedwait own_cond_timedwait
#define pthread_cond_signal own_cond_signal
#define pthread_cond_broadcast own_cond_broadcast
#define dup3 own_dup3
#define socket own_socket
#define accept4 own_accept4
#define fexecve own_fexecve
#define fchmod own_fchmod
#define fcntl own_fcntl
#define fstatat own_fstatat
#define lstat own_lstat
#define fstat own_fstat
#define stat(path, st) own_stat(path, st)
#include "vm/libc.c"
#undef snprintf
#undef vsnprintf
#undef dprintf
#undef printf
#undef puts
#undef putchar
#undef strtoull
#undef strstr
#undef gmtime_r
#undef realpath
#undef dup3
#undef socket
#undef accept4
#undef fexecve
#undef fchmod
#undef fcntl
#undef fstatat
#undef lstat
#undef fstat
#undef stat
#undef strcpy
#undef getenv
#undef memchr
#undef strchrnul
#undef strchr
#undef strspn
#undef strcspn
#undef strncasecmp
#undef strcasecmp

/* The sizes are all that matter at an end: nothing, one, cut short, just cut, just enough, plenty. */
#define SAME(...)                                                                                  \
	do {                                                                                       \
		int want_ = snprintf(NULL, 0, __VA_ARGS__);                                        \
		size_t sizes_[] = { 0, 1, 2, 5, (size_t)want_, (size_t)want_ + 1, 300 };           \
		for (size_t i_ = 0; i_ < sizeof(sizes_) / sizeof(*sizes_); i_++) {                 \
			char their[310], ours[310];                                                     \
			memset(their, '~', sizeof(their));                                               \
			memset(ours, '~', sizeof(ours));                                               \
			snprintf(their, sizes_[i_], __VA_ARGS__);                                     \
			CHECK_EQ(own_snprintf(ours, sizes_[i_], __VA_ARGS__), want_);                \
			if (memcmp(their, ours, sizeof(their))) {                                          \
				printf("  %zu bytes: \"%.300s\", not \"%.300s\"\n", sizes_[i_],    \
				       ours, their);                                                    \
				CHECK(!"the same");                                                \
			}                                                                          \
		}                                                                                  \
	} while (0)

#pragma GCC diagnostic ignored "-Wformat-truncation"
#pragma GCC diagnostic ignored "-Wformat-zero-length"
#pragma GCC diagnostic ignored "-Wformat="

static void numbers(void)
{
	static const int64_t values[] = {
		0, 1, -1, 9, 10, 255, 4096, INT_MAX, INT_MIN, UINT_MAX, INT64_MAX, INT64_MIN, -4096,
	};

	for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++) {
		int64_t v = values[i];

		SAME("%d %i|%5d|%-5d|%05d|%ld %lld %zd %jd", (int)v, (int)v, (int)v, (int)v, (int)v,
		     (long)v, (long long)v, (ssize_t)v, (intmax_t)v);
		SAME("%u|%12u|%-12u|%012u|%lu %llu %zu", (unsigned int)v, (unsigned int)v,
		     (unsigned int)v, (unsigned int)v, (unsigned long)v, (unsigned long long)v,
		     (size_t)v);
		SAME("%x %X|%02x|%03X|%04x|%8x|%-8x|%016llx", (unsigned int)v, (unsigned int)v,
		     (unsigned int)v, (unsigned int)v, (unsigned int)v, (unsigned int)v,
		     (unsigned int)v, (unsigned long long)v);
		SAME("%#x|%#X|%#10x|%-#10x|%#010x|%#zx|%#llx", (unsigned int)v, (unsigned int)v,
		     (unsigned int)v, (unsigned int)v, (unsigned int)v, (size_t)v,
		     (unsigned long long)v);
		SAME("%" PRIu64 " %" PRId64 " %#" PRIx64 " %" PRIu32 " %#" PRIx32, (uint64_t)v, v,
		     (uint64_t)v, (uint32_t)v, (uint32_t)v);
		SAME("%*d|%*d|%-*u", 7, (int)v, -7, (int)v, 3, (unsigned int)v);
	}
}

static void words(void)
{
	char open_end[4] = { 'a', 'b', 'c', 'd' };

	SAME("");
	SAME("plain, 100%%");
	SAME("%s", "");
	SAME("%s%s%c", "a", "bc", 'd');
	SAME("|%5s|%-5s|%1s|%*s|%-*s|%*s|", "ab", "ab", "ab", 6, "ab", 6, "ab", -6, "ab");
	SAME("|%.2s|%.0s|%.9s|%.*s|%.*s|%6.2s|%-6.2s|", "abc", "abc", "abc", 1, "abc", -1, "abc", "abc",
	     "abc");
	SAME("|%3c|%-3c|%c|", 'x', 'x', 0);
	SAME("%.4s|%.*s", open_end, 3, open_end);
	SAME("%*s", 40, "");
	SAME("%p", (void *)0x1234);
}

static void unknown_is_seen(void)
{
	const char *volatile odd[] = { "a %q b", "a %", "%5", "%lf", "%.3", "a %hd %s" };
	char buf[64];

	for (size_t i = 0; i < sizeof(odd) / sizeof(*odd); i++) {
		CHECK_EQ(own_snprintf(buf, sizeof(buf), odd[i], 1), strlen(odd[i]));
		CHECK_STR(buf, odd[i]);
	}
	own_snprintf(buf, sizeof(buf), "%s", (const char *volatile){ NULL });
	CHECK_STR(buf, "(null)");
}

/* More than the buffer on the way, through a pipe that takes it in pieces. */
static void prints(void)
{
	char text[3000], got[8192];
	int pipes[2], saved = dup(1);
	ssize_t n, len = 0;

	memset(text, 't', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	CHECK(!pipe2(pipes, O_CLOEXEC));
	fflush(stdout);
	dup2(pipes[1], 1);
	CHECK_EQ(own_dprintf(pipes[1], "%s|%d", text, 7), 3001);
	CHECK_EQ(own_printf("%s%c", "out", '!'), 4);
	own_puts(text);
	own_putchar('.');
	dup2(saved, 1);
	close(saved);
	close(pipes[1]);
	while ((n = read(pipes[0], got + len, sizeof(got) - (size_t)len)) > 0)
		len += n;
	close(pipes[0]);
	CHECK_EQ(len, 2999 + 2 + 4 + 3000 + 1);
	CHECK(!memcmp(got, text, 2999));
	CHECK(!memcmp(got + 2999, "|7out!t", 7));
	CHECK(!memcmp(got + len - 3, "t\n.", 3));
}

static void numbers_read(void)
{
	static const char *const texts[] = {
		"0", "1", "12x", "x", "", "0x10", "0X1f", "0x", "0xg", "010", "08", "ff", "18446744073709551615",
		"18446744073709551616", "99999999999999999999999", "0xffffffffffffffff", "0x10000000000000000",
	};
	static const int bases[] = { 0, 10, 8 };

	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
		for (size_t b = 0; b < sizeof(bases) / sizeof(*bases); b++) {
			char *end, *own_end;
			unsigned long long n;
			int err;

			errno = 0;
			n = strtoull(texts[i], &end, bases[b]);
			err = errno;
			errno = 0;
			CHECK_EQ(own_strtoull(texts[i], &own_end, bases[b]), n);
			CHECK_EQ(errno, err);
			CHECK(own_end == end);
			CHECK_EQ(own_strtoull(texts[i], NULL, bases[b]), n);
		}
	}
}

static void words_found(void)
{
	static const char *const hay[] = { "", "a", "ab", "aab", "abab\r\n\r\nx", "\r\n\r", "aaaaab" };
	static const char *const words[] = { "", "a", "ab", "b", "\r\n\r\n", "aaab", "abc" };

	for (size_t i = 0; i < sizeof(hay) / sizeof(*hay); i++) {
		for (size_t j = 0; j < sizeof(words) / sizeof(*words); j++)
			CHECK(own_strstr(hay[i], words[j]) == strstr(hay[i], words[j]));
	}
}

static void dates(void)
{
	static const time_t first[] = { 0, 951696000 /* 2000-02-28 */, 4107456000 /* 2100-02-28 */ };
	struct tm ours, theirs;

	for (size_t i = 0; i < sizeof(first) / sizeof(*first); i++) {
		/* four years and some, an odd while at a time */
		for (time_t t = first[i]; t < first[i] + 1500 * 86400l; t += 9973) {
			own_gmtime_r(&t, &ours);
			gmtime_r(&t, &theirs);
			CHECK(ours.tm_sec == theirs.tm_sec && ours.tm_min == theirs.tm_min &&
			      ours.tm_hour == theirs.tm_hour && ours.tm_mday == theirs.tm_mday &&
			      ours.tm_mon == theirs.tm_mon && ours.tm_year == theirs.tm_year &&
			      ours.tm_wday == theirs.tm_wday && ours.tm_yday == theirs.tm_yday);
		}
	}
}

static bool same_stat(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_mode == b->st_mode &&
	       a->st_nlink == b->st_nlink && a->st_uid == b->st_uid && a->st_rdev == b->st_rdev &&
	       a->st_size == b->st_size && a->st_blksize == b->st_blksize &&
	       a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

static void files_asked(void)
{
	static const char *const paths[] = { "/", "/dev/null", "/proc/self/exe", "/etc/passwd" };
	struct stat ours, theirs;

	for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++) {
		int fd = open(paths[i], O_RDONLY | O_CLOEXEC), dir = open("/", O_PATH);

		CHECK(!own_stat(paths[i], &ours) && !stat(paths[i], &theirs));
		CHECK(same_stat(&ours, &theirs));
		CHECK(!own_lstat(paths[i], &ours) && !lstat(paths[i], &theirs));
		CHECK(same_stat(&ours, &theirs));
		CHECK(!own_fstat(fd, &ours) && !fstat(fd, &theirs));
		CHECK(same_stat(&ours, &theirs));
		CHECK(!own_fstatat(dir, paths[i], &ours, 0) && !fstatat(dir, paths[i], &theirs, 0));
		CHECK(same_stat(&ours, &theirs));
		close(fd);
		close(dir);
	}
	errno = 0;
	CHECK_EQ(own_stat("/none", &ours), -1);
	CHECK_EQ(errno, ENOENT);
	errno = 0;
	CHECK_EQ(own_fstat(-1, &ours), -1);
	CHECK_EQ(errno, EBADF);
}

static void descriptors(void)
{
	char name[] = "/tmp/vinit-libc-XXXXXX";
	int fd = mkstemp(name), copy, s;
	struct flock lock = { .l_type = F_WRLCK };
	struct stat st;

	CHECK(fd >= 0);
	unlink(name);
	CHECK_EQ(own_fchmod(fd, 0640), 0);
	CHECK(!fstat(fd, &st) && (st.st_mode & 07777) == 0640);
	copy = own_fcntl(fd, F_DUPFD_CLOEXEC, 100);
	CHECK(copy >= 100);
	CHECK_EQ(fcntl(copy, F_GETFD), FD_CLOEXEC);
	CHECK_EQ(own_dup3(fd, 90, O_CLOEXEC), 90);
	CHECK_EQ(fcntl(90, F_GETFD), FD_CLOEXEC);
	CHECK_EQ(own_fcntl(fd, F_SETFL, O_APPEND), 0);
	CHECK(fcntl(copy, F_GETFL) & O_APPEND);
	CHECK_EQ(own_fcntl(fd, F_OFD_SETLK, &lock), 0);
	close(copy);
	close(90);
	close(fd);
	s = own_socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(s >= 0 && fcntl(s, F_GETFD) == FD_CLOEXEC);
	errno = 0;
	CHECK_EQ(own_accept4(s, NULL, NULL, SOCK_CLOEXEC), -1);
	CHECK_EQ(errno, EINVAL); /* it does not listen */
	close(s);
}

static void runs_what_is_open(void)
{
	int fd = open("/bin/sh", O_PATH | O_CLOEXEC), status = 0;
	pid_t pid = fork();

	if (!pid) {
		own_fexecve(fd, (char *[]){ "sh", "-c", "exit $N", NULL }, (char *[]){ "N=7", NULL });
		_exit(errno == ENOSYS ? 8 : 1);
	}
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 8)
		printf("  no execveat() here (QEMU's user emulation)\n");
	else
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
	close(fd);
}

static int sign(int n)
{
	return (n > 0) - (n < 0);
}

static void words_compared(void)
{
	static const char *const words[] = {
		"", "a", "A", "b", "Z", "[", "`", "z", "{", "@", "ab", "aB", "Abc", "abcd", "a\xe4", "A\xc4", "Content-Length",
		"content-length:",
	};
	const char **sets = (const char *[]){ "", "a", "ab", "Ctn", "zb:-" };

	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++) {
		const char *a = words[i];
		size_t len = strlen(a) + 1;

		for (int c = 0; c < 256; c++) {
			CHECK(own_strchr(a, c) == strchr(a, c));
			CHECK(own_strchrnul(a, c) == strchrnul(a, c));
			CHECK(own_memchr(a, c, len) == memchr(a, c, len));
			CHECK(own_memchr(a, c, len / 2) == memchr(a, c, len / 2));
		}
		for (int n = 0; n < 5; n++) {
			CHECK_EQ(own_strspn(a, sets[n]), strspn(a, sets[n]));
			CHECK_EQ(own_strcspn(a, sets[n]), strcspn(a, sets[n]));
		}
		for (size_t j = 0; j < sizeof(words) / sizeof(*words); j++) {
			const char *b = words[j];

			CHECK_EQ(sign(own_strcasecmp(a, b)), sign(strcasecmp(a, b)));
			for (size_t n = 0; n < 5; n++)
				CHECK_EQ(sign(own_strncasecmp(a, b, n)), sign(strncasecmp(a, b, n)));
		}
	}
}

static void words_around(void)
{
	char to[8] = "1234567";

	CHECK(own_strcpy(to, "ab") == to);
	CHECK(!memcmp(to, "ab\0" "4567", 8));
	setenv("VINIT_TEST", "here", 1);
	CHECK_STR(own_getenv("VINIT_TEST"), "here");
	CHECK(!own_getenv("VINIT_TES"));
	CHECK(!own_getenv("VINIT_TEST="));
	setenv("VINIT_TEST", "", 1);
	CHECK_STR(own_getenv("VINIT_TEST"), "");
	unsetenv("VINIT_TEST");
	CHECK(!own_getenv("VINIT_TEST"));
}

static void whole_paths(void)
{
	static const char *const paths[] = { "/", ".", "/proc/self/../self", "/dev/null", "/usr/../tmp/.",
					     "/nowhere/at/all", "", "/dev/null/x" };
	char own[PATH_MAX], their[PATH_MAX];

	for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++) {
		char *a, *b = realpath(paths[i], their);
		int err = errno;

		errno = 0;
		a = own_realpath(paths[i], own);
		CHECK_EQ(!a, !b);
		if (a && b)
			CHECK_STR(own, their);
		else
			CHECK_EQ(errno, err);
		a = own_realpath(paths[i], NULL);
		CHECK_EQ(!a, !b);
		if (a && b)
			CHECK_STR(a, their);
		free(a);
	}
}

/* --- locks: several threads, one sum; then turns, which are lost for good if one wake-up is --- */

#define THREADS 4
#define ROUNDS	20000

static struct {
	pthread_mutex_t lock;
	pthread_cond_t turned;
	unsigned long sum;
	unsigned int turn;
	struct timespec end;
} shared = { .lock = PTHREAD_MUTEX_INITIALIZER };

static struct timespec in_ms(unsigned int ms)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	ts.tv_nsec += (long)(ms % 1000) * 1000000;
	ts.tv_sec += ms / 1000 + ts.tv_nsec / 1000000000;
	ts.tv_nsec %= 1000000000;
	return ts;
}

static void *adds(void *unused)
{
	for (int i = 0; i < ROUNDS; i++) {
		own_mutex_lock(&shared.lock);
		shared.sum++;
		own_mutex_unlock(&shared.lock);
	}
	return NULL;
}

static void *takes_turns(void *opaque)
{
	unsigned int me = (unsigned int)(uintptr_t)opaque;
	void *ret = NULL;

	own_mutex_lock(&shared.lock);
	for (int i = 0; i < ROUNDS / 20 && !ret; i++) {
		while (shared.turn % THREADS != me && !ret) {
			if (own_cond_timedwait(&shared.turned, &shared.lock, &shared.end) == ETIMEDOUT)
				ret = &shared;
		}
		shared.turn++;
		if (i % 2)
			own_cond_broadcast(&shared.turned);
		else
			own_cond_signal(&shared.turned);
	}
	own_mutex_unlock(&shared.lock);
	return ret;
}

static void run_threads(void *(*fn)(void *))
{
	pthread_t threads[THREADS];
	void *ret;

	for (uintptr_t i = 0; i < THREADS; i++)
		CHECK(!pthread_create(&threads[i], NULL, fn, (void *)i));
	for (int i = 0; i < THREADS; i++) {
		CHECK(!pthread_join(threads[i], &ret));
		CHECK(!ret);
	}
}

static void locks(void)
{
	own_mutex_init(&shared.lock, NULL);
	run_threads(adds);
	CHECK_EQ(shared.sum, THREADS * ROUNDS);
	own_mutex_lock(&shared.lock);
	own_mutex_unlock(&shared.lock);
	CHECK_EQ(*(int *)&shared.lock, LOCK_FREE);
	own_mutex_destroy(&shared.lock);
}

static void conditions(void)
{
	struct timespec end = in_ms(30), now;

	own_cond_init(&shared.turned, NULL);
	shared.end = in_ms(60000);
	run_threads(takes_turns);
	CHECK_EQ(shared.turn, THREADS * (ROUNDS / 20));
	errno = EXDEV;
	own_mutex_lock(&shared.lock);
	while (own_cond_timedwait(&shared.turned, &shared.lock, &end) != ETIMEDOUT)
		;
	clock_gettime(CLOCK_MONOTONIC, &now);
	CHECK(now.tv_sec > end.tv_sec || (now.tv_sec == end.tv_sec && now.tv_nsec >= end.tv_nsec));
	CHECK_EQ(*(int *)&shared.lock, LOCK_HELD);
	own_mutex_unlock(&shared.lock);
	CHECK_EQ(errno, EXDEV);
	own_cond_destroy(&shared.turned);
}

int main(void)
{
	RUN(numbers);
	RUN(words);
	RUN(unknown_is_seen);
	RUN(prints);
	RUN(numbers_read);
	RUN(words_found);
	RUN(words_compared);
	RUN(words_around);
	RUN(dates);
	RUN(files_asked);
	RUN(descriptors);
	RUN(runs_what_is_open);
	RUN(whole_paths);
	RUN(locks);
	RUN(conditions);
	return TEST_RESULT();
}
