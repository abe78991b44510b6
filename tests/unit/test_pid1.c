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
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "initramfs/init.h"
#include "vm/conf.h"

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

	if (getpid() == 1)
		init_main(argc, argv);
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
