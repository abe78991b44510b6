/* SPDX-License-Identifier: MIT */
#include "vm/thread.h"

#include <signal.h>
#include <stdint.h>
#include <string.h>

int thread_start(pthread_t *thread, const char *name, void *(*fn)(void *opaque), void *opaque)
{
	static const uint8_t faults[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT };
	pthread_attr_t attr;
	sigset_t mask, old;
	char cut[16] = "";
	int ret;

	/* It inherits the mask. */
	sigfillset(&mask);
	for (unsigned int i = 0; i < sizeof(faults); i++)
		sigdelset(&mask, faults[i]);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, THREAD_STACK);
	pthread_sigmask(SIG_SETMASK, &mask, &old);
	ret = -pthread_create(thread, &attr, fn, opaque);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (!ret)
		pthread_setname_np(*thread, strncpy(cut, name, sizeof(cut) - 1));
	return ret;
}
