/* SPDX-License-Identifier: MIT */
/*
 * PID 1 with make-believe VMMs, for pid1.sh: as process 1 it is the real thing, as "run" a process
 * that does what the cmdline of the guest's file says, and else it runs pid1.sh on itself.
 *
 *   sleep=MS exit=N     ends after that time
 *   segv                by a signal
 *   stubborn            ignores SIGTERM (else it ends with 0 on it)
 *   hung                stops itself
 *   count=FILE          adds a byte to FILE at its start
 *
 * A file /t/fault makes process 1 go wrong at Ctrl-Alt-Del, or its child that unmounts ("child");
 * with a file /t/fast its clock runs FAST times as fast. "hang DIR" makes a file system that hangs.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "initramfs/file.h"
#include "initramfs/init.h"
#include "initramfs/shutdown.h"
#include "vm/conf.h"
#include "vm/log.h"

#define FAST 30

/* --- process 1, with what can go wrong in it --------------------------------------------------- */

static bool fast, write_faults;

int __real_clock_gettime(clockid_t id, struct timespec *ts);
int __wrap_clock_gettime(clockid_t id, struct timespec *ts)
{
	int ret = __real_clock_gettime(id, ts);

	if (!ret && fast && id == CLOCK_MONOTONIC) {
		ts->tv_nsec *= FAST;
		ts->tv_sec = ts->tv_sec * FAST + ts->tv_nsec / 1000000000;
		ts->tv_nsec %= 1000000000;
	}
	return ret;
}

__attribute__((no_sanitize("address", "undefined"))) static void fault(void)
{
	*(volatile int *)64 = 0;
}

__attribute__((noinline)) static int overflow(volatile unsigned int *depth)
{
	volatile char frame[4096];

	frame[0] = (char)++*depth;
	return *depth ? frame[0] + overflow(depth) : 0;
}

/* The log's, which holds its lock then. */
ssize_t __real_write(int fd, const void *buf, size_t len);
ssize_t __wrap_write(int fd, const void *buf, size_t len)
{
	if (write_faults)
		fault();
	return __real_write(fd, buf, len);
}

static bool faulty(const char *where)
{
	char how[16] = "";

	return file_read("/t/fault", how, sizeof(how)) > 0 && !strcmp(how, where);
}

bool __real_shutdown_cad(struct shutdown_cad *cad, uint64_t now);
bool __wrap_shutdown_cad(struct shutdown_cad *cad, uint64_t now)
{
	volatile unsigned int depth = 0;

	if (faulty("segv"))
		fault();
	if (faulty("stack"))
		overflow(&depth);
	write_faults = faulty("log");
	if (write_faults)
		log_info("not to be seen");
	return __real_shutdown_cad(cad, now);
}

void __real_mounts_teardown(void);
void __wrap_mounts_teardown(void)
{
	if (faulty("child"))
		fault();
	__real_mounts_teardown();
}

/* --- a disk that hangs: a FUSE file system that nobody serves any more ------------------------- */

static void fuse_reply(int fd, uint64_t unique, int err, const void *data, size_t len)
{
	char buf[256];
	struct fuse_out_header head = { .len = sizeof(head) + len, .error = err, .unique = unique };

	memcpy(buf, &head, sizeof(head));
	if (len)
		memcpy(buf + sizeof(head), data, len);
	if (__real_write(fd, buf, head.len) < 0)
		perror("hang: /dev/fuse");
}

/* Folders in folders, whatever their names: all that a mount needs. */
static void fuse_answer(int fd, const struct fuse_in_header *in)
{
	struct fuse_attr attr = { .ino = 2, .mode = S_IFDIR | 0755, .nlink = 2 };
	struct fuse_init_out init = { .major = FUSE_KERNEL_VERSION,
				      .minor = FUSE_KERNEL_MINOR_VERSION,
				      .max_write = 4096 };
	/* Valid for no time: each look at it is a request. */
	struct fuse_entry_out entry = { .nodeid = 2, .attr = attr };
	struct fuse_attr_out attr_out = { .attr = attr };

	switch (in->opcode) {
	case FUSE_INIT:
		fuse_reply(fd, in->unique, 0, &init, sizeof(init));
		break;
	case FUSE_LOOKUP:
		fuse_reply(fd, in->unique, 0, &entry, sizeof(entry));
		break;
	case FUSE_GETATTR:
		attr_out.attr.ino = in->nodeid;
		fuse_reply(fd, in->unique, 0, &attr_out, sizeof(attr_out));
		break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		break;
	default:
		fuse_reply(fd, in->unique, -ENOSYS, NULL, 0);
	}
}

/* Mounts on @dir a file system with a mount in it, then takes requests and answers none. */
static int hang(const char *dir)
{
	static char buf[65536] __attribute__((aligned(8)));
	char options[64], sub[64];
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	mkdir(dir, 0755);
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0", fd);
	if (fd < 0 || mount("hang", dir, "fuse", MS_NOSUID | MS_NODEV, options)) {
		printf("no FUSE: %s\n", strerror(errno));
		return 77;
	}
	if (fork() == 0) {
		snprintf(sub, sizeof(sub), "%s/sub", dir);
		if (mount(dir, sub, NULL, MS_BIND, NULL))
			printf("%s: %s\n", sub, strerror(errno));
		else if (!mkdir("/t/hang", 0755))
			printf("hung\n");
		fflush(stdout);
		_exit(0);
	}
	for (;;) {
		if (read(fd, buf, sizeof(buf)) < 0 && errno != EINTR)
			return 1;
		if (access("/t/hang", F_OK))
			fuse_answer(fd, (const struct fuse_in_header *)buf);
	}
}

/* --- make-believe VMMs ------------------------------------------------------------------------- */

static void on_term(int sig)
{
	(void)sig;
	_exit(0);
}

static int line(void *opaque, const struct conf_line *at)
{
	char *words = opaque;

	if (at->key && !strcmp(at->key, "cmdline"))
		snprintf(words, 256, "%s", at->value);
	return 0;
}

static int fake_run(int argc, char **argv)
{
	char words[256] = "", *rest = words, *word;
	unsigned int ms = 600000, status = 0;
	int segv = 0, hung = 0;
	struct timespec left;

	for (int i = 2; i + 1 < argc; i++) {
		if (!strcmp(argv[i], "--config") && conf_read(argv[i + 1], line, words))
			return 2;
	}
	signal(SIGTERM, on_term);
	while ((word = strsep(&rest, " "))) {
		if (sscanf(word, "sleep=%u", &ms) == 1 || sscanf(word, "exit=%u", &status) == 1)
			continue;
		if (!strncmp(word, "count=", 6)) {
			int fd = open(word + 6, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);

			if (fd < 0 || write(fd, "x", 1) != 1)
				return 1;
			close(fd);
		}
		segv |= !strcmp(word, "segv");
		if (!strcmp(word, "stubborn"))
			signal(SIGTERM, SIG_IGN);
		hung |= !strcmp(word, "hung");
	}
	/* Only now: who reads this may send signals. */
	for (int i = 2; i < argc; i++)
		printf("%s ", argv[i]);
	printf("(fake run)\n");
	fflush(stdout);
	if (hung)
		raise(SIGSTOP);
	left = (struct timespec){ ms / 1000, ms % 1000 * 1000000L };
	while (nanosleep(&left, &left) && errno == EINTR)
		;
	if (segv) {
		signal(SIGSEGV, SIG_DFL);
		raise(SIGSEGV);
	}
	return status;
}

int main(int argc, char **argv)
{
	char self[4096];
	ssize_t n;

	if (getpid() == 1) {
		fast = !access("/t/fast", F_OK);
		init_main(argc, argv);
	}
	if (argc > 2 && !strcmp(argv[1], "hang"))
		return hang(argv[2]);
	if (argc > 1 && !strcmp(argv[1], "run"))
		return fake_run(argc, argv);
	n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n < 0)
		return 1;
	self[n] = '\0';
	execl("tests/unit/pid1.sh", "pid1.sh", self, (char *)NULL);
	printf("FAIL pid1.sh: %s (run it from the tree's root)\n", strerror(errno));
	return 1;
}
