/* SPDX-License-Identifier: MIT */
/*
 * A unit test is a program: test functions made of CHECKs, run by RUN from main, which ends with
 * TEST_RESULT(). One line a test: "ok NAME" or "FAIL NAME".
 */
#ifndef TESTS_UNIT_TEST_H
#define TESTS_UNIT_TEST_H

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

static int test_failed_now, test_failed, test_passed;

#define CHECK(cond)                                                                                \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			printf("  %s:%d: not so: %s\n", __FILE__, __LINE__, #cond);                \
			test_failed_now = 1;                                                       \
		}                                                                                  \
	} while (0)

#define CHECK_EQ(a, b)                                                                             \
	do {                                                                                       \
		long long a_ = (long long)(a), b_ = (long long)(b);                                \
		if (a_ != b_) {                                                                    \
			printf("  %s:%d: %s is %#llx, %s is %#llx\n", __FILE__, __LINE__, #a, a_,  \
			       #b, b_);                                                            \
			test_failed_now = 1;                                                       \
		}                                                                                  \
	} while (0)

#define CHECK_STR(a, b)                                                                            \
	do {                                                                                       \
		const char *a_ = (a), *b_ = (b);                                                   \
		if (strcmp(a_, b_)) {                                                              \
			printf("  %s:%d: \"%s\" is not \"%s\"\n", __FILE__, __LINE__, a_, b_);     \
			test_failed_now = 1;                                                       \
		}                                                                                  \
	} while (0)

#define RUN(fn)                                                                                    \
	do {                                                                                       \
		test_failed_now = 0;                                                               \
		fn();                                                                              \
		printf("%s %s\n", test_failed_now ? "FAIL" : "ok", #fn);                           \
		fflush(stdout);                                                                    \
		test_failed += test_failed_now;                                                    \
		test_passed += !test_failed_now;                                                   \
	} while (0)

#define TEST_RESULT() (test_failed || !test_passed ? 1 : 0)

/* How many descriptors are open, to see that none is left so. */
static inline unsigned int open_fds(void)
{
	unsigned int nr = 0;

	for (int fd = 0; fd < 256; fd++)
		nr += fcntl(fd, F_GETFD) >= 0;
	return nr;
}

#endif
