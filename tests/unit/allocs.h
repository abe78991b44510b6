/* SPDX-License-Identifier: MIT */
/*
 * Counts what is allocated while a device is at work, where nothing may be: a data path that
 * allocates can fail for lack of memory, and grows as the guest likes. The device's threads count
 * like the test's.
 *
 * Link with $(ALLOCS_WRAP) of tests/unit/Kbuild. A test's own memory comes from test_malloc().
 * With driver.h, which is to be included after it, a device is at work from DRIVER_OK to its reset
 * but for pauses, in which a snapshot is written; otherwise from allocs_begin() to allocs_end().
 */
#ifndef TESTS_UNIT_ALLOCS_H
#define TESTS_UNIT_ALLOCS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include "tests/unit/test.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
char *__real_strdup(const char *s);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
char *__wrap_strdup(const char *s);

static struct {
	bool (*at_work)(void); /* NULL: nobody is */
	atomic_uint nr;
	atomic_uint looks; /* calls at all, so that a counter that is not linked in shows */
} allocs;

static void allocs_count(void)
{
	bool (*at_work)(void) = allocs.at_work;

	allocs.looks++;
	if (at_work && at_work())
		allocs.nr++;
}

void *__wrap_malloc(size_t size)
{
	allocs_count();
	return __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
	allocs_count();
	return __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t size)
{
	allocs_count();
	return __real_realloc(p, size);
}

char *__wrap_strdup(const char *s)
{
	allocs_count();
	return __real_strdup(s);
}

#define test_malloc __real_malloc
#define test_calloc __real_calloc

static inline bool allocs_always(void)
{
	return true;
}

static inline void allocs_begin(bool (*at_work)(void))
{
	allocs.nr = 0;
	allocs.at_work = at_work;
}

static inline void allocs_end(void)
{
	allocs.at_work = NULL;
	CHECK(allocs.looks > 0);
	CHECK_EQ(allocs.nr, 0);
}

/*
 * For calls of the test's that need memory, till allocs_go() with what it returns: a C library that
 * is linked in takes it by the calls above.
 */
static inline void *allocs_hold(void)
{
	void *at_work = (void *)allocs.at_work;

	allocs.at_work = NULL;
	return at_work;
}

static inline void allocs_go(void *at_work)
{
	allocs.at_work = (bool (*)(void))at_work;
}

/* A thread of the test's. */
static inline int test_thread(pthread_t *thread, void *(*fn)(void *), void *opaque)
{
	void *at_work = allocs_hold();
	int ret = pthread_create(thread, NULL, fn, opaque);

	allocs_go(at_work);
	return ret;
}

#endif
