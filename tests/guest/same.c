/* SPDX-License-Identifier: MIT */
/*
 * usage: same BYTES FILE FILE
 *
 * Are the first BYTES of both files the same? As cmp -n; busybox's takes them one by one, which on
 * an emulated machine is minutes for a guest's memory. Exit status 0: the same, 1: not.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const uint8_t *map(const char *file, size_t len)
{
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	struct stat st;
	void *p;

	if (fd < 0 || fstat(fd, &st) < 0 || (size_t)st.st_size < len) {
		fprintf(stderr, "same: %s: it can't be opened, or is shorter\n", file);
		exit(2);
	}
	p = mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0);
	if (p == MAP_FAILED) {
		perror(file);
		exit(2);
	}
	return p;
}

int main(int argc, char **argv)
{
	const uint8_t *a, *b;
	size_t len;

	if (argc != 4)
		return 2;
	len = strtoull(argv[1], NULL, 10);
	if (!len)
		return 2;
	a = map(argv[2], len);
	b = map(argv[3], len);
	for (size_t at = 0; at < len; at += 4096) {
		size_t n = len - at < 4096 ? len - at : 4096;

		if (memcmp(a + at, b + at, n)) {
			printf("%s and %s differ in the 4096 bytes at %zu\n", argv[2], argv[3], at);
			return 1;
		}
	}
	return 0;
}
