/* SPDX-License-Identifier: MIT */
#include "initramfs/child.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "initramfs/file.h"
#include "vm/log.h"

int child_open_console(int flags)
{
	int fd = open("/dev/console", flags | O_NOCTTY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/*
 * Each process opens the console anew: PID 1's own description is non-blocking, and flags are
 * shared.
 */
static void child_stdio(bool console)
{
	int in = -1, out;

	out = child_open_console(O_RDWR);
	if (console)
		in = out;
	if (out < 0)
		out = open("/dev/kmsg", O_WRONLY | O_NOCTTY | O_CLOEXEC);
	if (in < 0)
		in = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (out < 0)
		out = in;
	if (console && isatty(in) && ioctl(in, TIOCSCTTY, 0))
		/*
		 * Another session has it, say of what the last owner left behind: taken away from
		 * it.
		 */
		ioctl(in, TIOCSCTTY, 1);
	dup2(in, 0);
	dup2(out, 1);
	dup2(out, 2);
}

static void child_signals(void)
{
	struct sigaction act = { .sa_handler = SIG_DFL };
	sigset_t none;

	for (int sig = 1; sig < NSIG; sig++)
		sigaction(sig, &act, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Closes what is above stdio at exec; all of it should be marked so already. */
static void child_files(void)
{
#ifdef SYS_close_range
	syscall(SYS_close_range, 3, UINT_MAX, 1u << 2 /* CLOSE_RANGE_CLOEXEC */);
#endif
}

#define PATH "/bin:/sbin:/usr/bin:/usr/sbin"

/* Tries the folders of PATH for a file without one. Returns what went wrong last, but for ENOENT. */
static int exec_in_path(char *const *argv, char *const *env)
{
	const char *dir = PATH, *end;
	char file[PATH_MAX];
	int err = ENOENT;

	if (strchr(argv[0], '/')) {
		execve(argv[0], argv, env);
		return errno;
	}
	for (; *dir; dir = end + !!*end) {
		end = strchrnul(dir, ':');
		snprintf(file, sizeof(file), "%.*s/%s", (int)(end - dir), dir, argv[0]);
		execve(file, argv, env);
		if (errno != ENOENT && errno != ENOTDIR)
			err = errno;
	}
	return err;
}

static _Noreturn void child_exec(const struct child *child)
{
	char *const *argv = (char *const *)child->argv;
	const char *term = getenv("TERM");
	char term_word[64];
	char *env[] = { "PATH=" PATH, "HOME=/root", term_word, NULL };
	int err;

	snprintf(term_word, sizeof(term_word), "TERM=%s", term && *term ? term : "linux");
	setsid();
	child_stdio(child->console);
	child_files();
	/* PID 1 is out of the kernel's reach when memory runs out, and that is inherited. */
	err = file_write("/proc/self/oom_score_adj", "0");
	if (err)
		log_debug("oom_score_adj: %s", errno_name(err));
	umask(022);
	if (chdir("/"))
		log_debug("/: %s", errno_name(errno));
	child_signals();
	if (child->exe_fd >= 0) {
		fexecve(child->exe_fd, argv, env);
		err = errno;
	} else {
		err = exec_in_path(argv, env);
	}
	log_err("%s: cannot run it: %s%s", argv[0], errno_name(err),
		err == ENOENT ? ": no such file, or its interpreter is missing" : "");
	_exit(err == ENOENT ? 127 : 126);
}

pid_t child_start(const struct child *child)
{
	pid_t pid = _Fork();

	if (pid == 0)
		child_exec(child);
	if (pid < 0) {
		pid = -errno;
		log_err("%s: cannot start a process: %s", child->argv[0], errno_name(pid));
	}
	return pid;
}
