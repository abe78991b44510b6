/* SPDX-License-Identifier: MIT */
/* What the tests of both kernel loaders share: files in memory, and the log of one load. */
#ifndef TESTS_UNIT_BOOTFILE_H
#define TESTS_UNIT_BOOTFILE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>
#include "tests/unit/test.h"
#include "vm/log.h"
#include "vm/memory.h"

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

/* A block of RAM that may come as one page. */
#define RAM_BLOCK (2ull << 20)

/*
 * Bytes of RAM that are there since somebody touched them, less all of the blocks that hold
 * anything but zeros: what was touched for nothing, below 0 where plain pages are used.
 */
static inline int64_t ram_in_vain(const struct memory *mem)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	int64_t sum = 0;

	for (unsigned int r = 0; r < mem->nr; r++) {
		const struct memory_region *region = &mem->region[r];
		unsigned char *vec = malloc(region->size / page);

		CHECK(vec && !mincore(region->hva, region->size, vec));
		for (uint64_t at = 0; at < region->size; at += RAM_BLOCK) {
			uint64_t end = at + RAM_BLOCK < region->size ? at + RAM_BLOCK : region->size;
			bool zero = true;

			for (uint64_t p = at; p < end; p += page) {
				if (!(vec[p / page] & 1))
					continue;
				sum += (int64_t)page;
				zero &= !region->hva[p] &&
					!memcmp(region->hva + p, region->hva + p + 1, page - 1);
			}
			if (!zero)
				sum -= (int64_t)RAM_BLOCK;
		}
		free(vec);
	}
	return sum;
}

#endif
