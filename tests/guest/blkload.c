/* SPDX-License-Identifier: MIT */
/*
 * A disk under load, in a guest: blkload fill FILE MIB makes an image whose every 8 bytes are their own
 * offset; blkload read DISK THREADS SECONDS reads blocks of it past the page cache, as many at a time
 * as there are threads, and checks them. Prints the number of reads; exits with 1 when one was wrong.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096

static atomic_ulong reads, wrong;
static atomic_bool stop;
static uint64_t blocks;
static int fd;

static void *reader(void *arg)
{
	uint64_t seed = (uintptr_t)arg * 0x9e3779b97f4a7c15ull + 1, *buf;

	if (posix_memalign((void **)&buf, BLOCK, BLOCK))
		return NULL;
	while (!stop) {
		uint64_t at;

		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		at = (seed >> 20) % blocks * BLOCK;
		if (pread(fd, buf, BLOCK, (off_t)at) != BLOCK)
			wrong++;
		for (unsigned int i = 0; i < BLOCK / 8; i += 64)
			wrong += buf[i] != at + i * 8;
		reads++;
	}
	return NULL;
}

static int fill(const char *path, uint64_t size)
{
	uint64_t buf[BLOCK / 8];
	FILE *f = fopen(path, "w");

	for (uint64_t at = 0; f && at < size; at += BLOCK) {
		for (unsigned int i = 0; i < BLOCK / 8; i++)
			buf[i] = at + i * 8;
		if (fwrite(buf, BLOCK, 1, f) != 1)
			return 1;
	}
	return !f || fclose(f);
}

int main(int argc, char **argv)
{
	pthread_t thread[64];
	unsigned int nr, i;

	if (argc != 4 && argc != 5)
		return 2;
	if (!strcmp(argv[1], "fill"))
		return fill(argv[2], strtoull(argv[3], NULL, 0) << 20);
	nr = (unsigned int)atoi(argv[3]);
	fd = open(argv[2], O_RDONLY | O_DIRECT);
	blocks = fd < 0 ? 0 : (uint64_t)lseek(fd, 0, SEEK_END) / BLOCK;
	if (!blocks || !nr || nr > 64)
		return 2;
	for (i = 0; i < nr; i++)
		if (pthread_create(&thread[i], NULL, reader, (void *)(uintptr_t)(i + 1)))
			return 2;
	sleep((unsigned int)atoi(argv[4]));
	stop = true;
	for (i = 0; i < nr; i++)
		pthread_join(thread[i], NULL);
	printf("%lu reads at depth %u, %lu wrong\n", (unsigned long)reads, nr, (unsigned long)wrong);
	return wrong != 0;
}
