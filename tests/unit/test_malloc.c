/* SPDX-License-Identifier: MIT */
/* vm/malloc.c: what is handed out is whole, apart from the rest, and comes back. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include "tests/unit/test.h"

static struct {
	void *p;
	size_t len;
	int advice;
} advised;

static int own_madvise(void *p, size_t len, int advice)
{
	advised.p = p;
	advised.len = len;
	advised.advice = advice;
	return madvise(p, len, advice);
}

#define madvise own_madvise
#define malloc	own_malloc
#define calloc	own_calloc
#define realloc own_realloc
#define free	own_free
#include "vm/malloc.c"
#undef madvise
#undef malloc
#undef calloc
#undef realloc
#undef free

static const size_t lens[] = { 0, 1, 15, 16, 17, 48, 49, 1000, 4096, 32751, 32752, 32753, 65536, 1 << 20 };
#define NR_LENS (sizeof(lens) / sizeof(*lens))

static bool all(const uint8_t *p, size_t len, uint8_t is)
{
	for (size_t i = 0; i < len; i++) {
		if (p[i] != is)
			return false;
	}
	return true;
}

static void lengths(void)
{
	for (int round = 0; round < 3; round++) {
		uint8_t *p[NR_LENS];

		for (size_t i = 0; i < NR_LENS; i++) {
			p[i] = round % 2 ? own_calloc(1, lens[i]) : own_malloc(lens[i]);
			CHECK(p[i]);
			CHECK_EQ((uintptr_t)p[i] % 16, 0);
			if (round % 2)
				CHECK(all(p[i], lens[i], 0));
			memset(p[i], 0x40 + (int)i, lens[i]);
		}
		for (size_t i = 0; i < NR_LENS; i++) {
			CHECK(all(p[i], lens[i], (uint8_t)(0x40 + i)));
			own_free(p[i]);
		}
	}
	own_free(NULL);
}

static void used_again(void)
{
	void *p = own_malloc(100), *q;

	own_free(p);
	q = own_malloc(90);
	CHECK(p == q);
	own_free(q);
}

static void grows_and_shrinks(void)
{
	uint8_t *p = NULL;

	for (size_t i = 0; i < 2 * NR_LENS; i++) {
		size_t len = lens[i < NR_LENS ? i : 2 * NR_LENS - 1 - i];
		size_t before = !i ? 0 : lens[i <= NR_LENS ? i - 1 : 2 * NR_LENS - i];

		p = own_realloc(p, len);
		CHECK(p);
		CHECK(all(p, before < len ? before : len, 0x77));
		memset(p, 0x77, len);
	}
	own_free(p);
}

static void refused(void)
{
	volatile size_t most = SIZE_MAX, half = SIZE_MAX / 2;
	uint8_t *p = own_malloc(10);

	errno = 0;
	CHECK(!own_malloc(most));
	CHECK_EQ(errno, ENOMEM);
	CHECK(!own_malloc(half));
	CHECK(!own_malloc(most - 15));
	errno = 0;
	CHECK(!own_calloc(half, 3));
	CHECK_EQ(errno, ENOMEM);
	memset(p, 1, 10);
	CHECK(!own_realloc(p, most));
	CHECK(all(p, 10, 1));
	own_free(p);
}

enum misuse {
	NONE,
	FREED_TWICE,
	HEAD_GONE,
	HEAD_LONGER,
	HEAD_COPIED,
	LONG_HEAD_LONGER,
	REALLOC_OF_FREED,
	LIST_ASTRAY,
};

static void misuse(enum misuse what)
{
	uint8_t *p = own_malloc(what == LONG_HEAD_LONGER ? 100000 : 100), *q = own_malloc(100);
	struct block *b = (struct block *)(p - HEAD);

	switch (what) {
	case NONE:
		break;
	case FREED_TWICE:
		own_free(p);
		break;
	case HEAD_GONE:
		memset(b, 0, HEAD);
		break;
	case HEAD_LONGER:
	case LONG_HEAD_LONGER:
		b->size *= 2;
		break;
	case HEAD_COPIED:
		memcpy(p + HEAD, b, HEAD);
		p += 2 * HEAD;
		break;
	case REALLOC_OF_FREED:
		own_free(p);
		p = own_realloc(p, 50);
		break;
	case LIST_ASTRAY:
		own_free(p);
		b->next = (struct block *)(q - HEAD); /* in use */
		p = own_malloc(100);
		q = own_malloc(100);
		break;
	}
	own_free(p);
	own_free(q);
}

static bool deadly(enum misuse what)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		prctl(PR_SET_DUMPABLE, 0); /* no core file */
		signal(SIGILL, SIG_DFL);
		signal(SIGTRAP, SIG_DFL);
		misuse(what);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	return WIFSIGNALED(status) && (WTERMSIG(status) == SIGILL || WTERMSIG(status) == SIGTRAP);
}

static void misuse_ends_it(void)
{
	CHECK(!deadly(NONE));
	for (int what = FREED_TWICE; what <= LIST_ASTRAY; what++)
		CHECK(deadly((enum misuse)what));
}

static bool mapped(const void *p)
{
	unsigned char in;

	return !mincore((void *)((uintptr_t)p & -(uintptr_t)getpagesize()), 1, &in);
}

static void long_ones_are_given_back(void)
{
	uint8_t *p = own_malloc(1 << 20), *end = p + (1 << 20) - 1, *q;

	CHECK(mapped(p));
	CHECK(mapped(end));
	*p = 7;
	q = own_realloc(p, 1000000);
	CHECK(q != p); /* shorter by pages */
	p = own_realloc(q, 999999);
	CHECK(p == q); /* by none */
	CHECK_EQ(*p, 7);
	end = p + 999999 - 1;
	own_free(p);
	CHECK(!mapped(p));
	CHECK(!mapped(end));
}

/* A byte of what is hardly used is to cost a page. */
static void no_huge_pages(void)
{
	uint8_t *p = own_malloc(4 << 20);

	CHECK((uint8_t *)advised.p <= p && (uint8_t *)advised.p + advised.len >= p + (4 << 20));
	CHECK_EQ(advised.advice, MADV_NOHUGEPAGE);
	own_free(p);
}

/* What was never handed out is zero: calloc() does not make its pages for the look of it. */
static void calloc_touches_nothing(void)
{
	unsigned int cold = 0;
	uint8_t *p[16];

	for (unsigned int i = 0; i < 16; i++) {
		unsigned char in = 1;

		p[i] = own_calloc(1, 32000);
		mincore((void *)((uintptr_t)(p[i] + 16000) & -(uintptr_t)getpagesize()), 1, &in);
		cold += !(in & 1);
		CHECK(all(p[i], 32000, 0));
	}
	CHECK(cold >= 8 || getpagesize() > 16384);
	for (unsigned int i = 0; i < 16; i++)
		own_free(p[i]);
}

static void errno_stays(void)
{
	void *p = own_malloc(100), *q = own_malloc(100000);

	errno = EXDEV;
	own_free(p);
	own_free(q);
	CHECK_EQ(errno, EXDEV);
}

static void *worker(void *opaque)
{
	unsigned int seed = (unsigned int)(uintptr_t)opaque;
	uint8_t *p[32] = { NULL }, tag[32];
	size_t len[32];
	void *bad = NULL;

	for (int i = 0; i < 20000; i++) {
		unsigned int n = (unsigned int)rand_r(&seed) % 32;

		if (p[n]) {
			if (!all(p[n], len[n], tag[n]))
				bad = p[n];
			own_free(p[n]);
			p[n] = NULL;
			continue;
		}
		len[n] = (size_t)rand_r(&seed) % (i % 50 ? 300 : 70000);
		tag[n] = (uint8_t)rand_r(&seed);
		p[n] = own_malloc(len[n]);
		memset(p[n], tag[n], len[n]);
	}
	for (int n = 0; n < 32; n++)
		own_free(p[n]);
	return bad;
}

static void threads(void)
{
	pthread_t thread[4];
	void *bad;

	for (uintptr_t i = 0; i < 4; i++)
		CHECK(!pthread_create(&thread[i], NULL, worker, (void *)(i + 1)));
	for (int i = 0; i < 4; i++) {
		CHECK(!pthread_join(thread[i], &bad));
		CHECK(!bad);
	}
}

int main(void)
{
	RUN(lengths);
	RUN(used_again);
	RUN(grows_and_shrinks);
	RUN(refused);
	RUN(misuse_ends_it);
	RUN(long_ones_are_given_back);
	RUN(no_huge_pages);
	RUN(calloc_touches_nothing);
	RUN(errno_stays);
	RUN(threads);
	return TEST_RESULT();
}
