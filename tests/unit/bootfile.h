/* SPDX-License-Identifier: MIT */
/* What the tests of both kernel loaders share: files in memory, and the log of one load. */
#ifndef TESTS_UNIT_BOOTFILE_H
#define TESTS_UNIT_BOOTFILE_H

#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>
#include "tests/unit/test.h"
#include "vm/log.h"

/* The log of one load, for tests of its words. */
static int log_fd = -1;
static char log_text[2048];

static inline void log_start(void)
{
	if (log_fd < 0)
		log_fd = memfd_create("log", MFD_CLOEXEC);
	CHECK(!ftruncate(log_fd, 0) && !lseek(log_fd, 0, SEEK_SET));
	log_set_fd(log_fd, false);
}

static inline const char *log_end(void)
{
	ssize_t n = syscall(SYS_pread64, log_fd, log_text, sizeof(log_text) - 1, 0);

	log_text[n > 0 ? n : 0] = 0;
	return log_text;
}

/* A file in memory and its name. */
struct tmpfile {
	int fd;
	char path[32];
};

static inline struct tmpfile file_make(const void *data, size_t len)
{
	struct tmpfile f;

	f.fd = memfd_create("image", MFD_CLOEXEC);
	snprintf(f.path, sizeof(f.path), "/proc/self/fd/%d", f.fd);
	CHECK(f.fd >= 0 && write(f.fd, data, len) == (ssize_t)len);
	return f;
}

static inline struct tmpfile file_sparse(uint64_t len)
{
	struct tmpfile f = file_make("", 0);

	CHECK(!ftruncate(f.fd, len));
	return f;
}

#endif
