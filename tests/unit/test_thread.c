/* SPDX-License-Identifier: MIT */
/* What each thread of the VMM is like. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/test.h"
#include "vm/thread.h"

static int refuse;

int __real_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	return refuse ? refuse : __real_pthread_create(t, attr, fn, arg);
}

struct seen {
	size_t stack, guard;
	sigset_t mask;
	char name[16];
};

static pthread_barrier_t named;

static void *look(void *opaque)
{
	struct seen *s = opaque;
	pthread_attr_t attr;
	void *low;

	if (pthread_getattr_np(pthread_self(), &attr))
		return NULL;
	pthread_attr_getstack(&attr, &low, &s->stack);
	pthread_attr_getguardsize(&attr, &s->guard);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, NULL, &s->mask);
	pthread_barrier_wait(&named);
	pthread_getname_np(pthread_self(), s->name, sizeof(s->name));
	return s;
}

static void alike(void)
{
	static const int open_[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT };
	struct seen s = { 0 };
	sigset_t before, after;
	pthread_t thread;
	void *ret;

	pthread_barrier_init(&named, NULL, 2);
	pthread_sigmask(SIG_SETMASK, NULL, &before);
	CHECK_EQ(thread_start(&thread, "a-name-that-is-too-long", look, &s), 0);
	pthread_barrier_wait(&named);
	pthread_join(thread, &ret);
	CHECK(ret == &s);
	CHECK_EQ(s.stack, THREAD_STACK < PTHREAD_STACK_MIN ? s.stack : THREAD_STACK);
	CHECK(s.guard >= (size_t)getpagesize());
	CHECK_STR(s.name, "a-name-that-is-");
	for (int sig = 1; sig < 32; sig++) {
		int want = sig != SIGKILL && sig != SIGSTOP;

		for (unsigned int i = 0; i < sizeof(open_) / sizeof(open_[0]); i++)
			want &= sig != open_[i];
		CHECK_EQ(sigismember(&s.mask, sig), want);
	}
	/* The caller's is as it was. */
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	for (int sig = 1; sig < 32; sig++)
		CHECK_EQ(sigismember(&after, sig), sigismember(&before, sig));
	pthread_barrier_destroy(&named);
}

static void none(void)
{
	pthread_t thread;
	sigset_t after;

	refuse = EAGAIN;
	CHECK_EQ(thread_start(&thread, "x", look, NULL), -EAGAIN);
	refuse = 0;
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	CHECK_EQ(sigismember(&after, SIGTERM), 0);
}

int main(void)
{
	RUN(alike);
	RUN(none);
	return TEST_RESULT();
}
