/* SPDX-License-Identifier: MIT */
/* What the log says, for the tests. */
#ifndef TESTS_UNIT_LOGGED_H
#define TESTS_UNIT_LOGGED_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vm/log.h"

/* Log lines go to the file that it returns; log_text() gives what is there, and starts anew. */
static inline int log_capture(void)
{
	int fd = memfd_create("log", MFD_CLOEXEC);

	log_set_fd(fd, false);
	return fd;
}

static inline const char *log_text(int fd)
{
	static char text[8192];
	ssize_t n;

	if (lseek(fd, 0, SEEK_SET) < 0)
		abort();
	n = read(fd, text, sizeof(text) - 1);
	text[n > 0 ? n : 0] = '\0';
	if (ftruncate(fd, 0) < 0 || lseek(fd, 0, SEEK_SET) < 0)
		abort();
	return text;
}

/* Whether it has the words; if not, what it has is shown. */
static inline bool log_says(int fd, const char *words)
{
	const char *text = log_text(fd);

	if (strstr(text, words))
		return true;
	printf("  logged: %s", *text ? text : "nothing\n");
	return false;
}

#endif
