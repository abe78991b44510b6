/* SPDX-License-Identifier: MIT */
/* Threads of the VMM: the one place that makes them. */
#ifndef VM_THREAD_H
#define VM_THREAD_H

#include <pthread.h>

/*
 * Bytes of a thread's stack, a guard page below it. What a guest asks for calls no deeper than a
 * device's registers or requests; the most that is used is measured (tests/nested/host/features.sh).
 */
#define THREAD_STACK (64 * 1024)

/*
 * Runs @fn(@opaque) in a thread called @name, of which Linux shows 15 characters. All signals are
 * the event loop's, but for those that a fault brings: the terminal is put right then. 0 or -errno;
 * logs nothing.
 */
int thread_start(pthread_t *thread, const char *name, void *(*fn)(void *opaque), void *opaque);

#endif
