/* SPDX-License-Identifier: MIT */
/*
 * The event loop: one thread that waits with epoll and calls back. Devices, consoles, signals and
 * the control socket live on it. Callbacks must not block.
 */
#ifndef VM_EVENT_H
#define VM_EVENT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

struct event;
typedef void event_fn(struct event *ev, uint32_t events);

/* Embedded in its owner; zero it, set fd, fn and opaque, then event_add(). */
struct event {
	int fd;
	event_fn *fn;
	void *opaque;
	atomic_bool armed;
};

struct event_loop {
	int epfd;
	int wake_fd;
	struct event wake;
	atomic_bool stop;
};

int event_loop_init(struct event_loop *loop);
void event_loop_fini(struct event_loop *loop);

/*
 * @events: EPOLLIN, EPOLLOUT, EPOLLET, ... 0 or -errno (-EPERM: the fd can't be polled, a regular
 * file). Any thread.
 */
int event_add(struct event_loop *loop, struct event *ev, uint32_t events);
int event_mod(struct event_loop *loop, struct event *ev, uint32_t events);

/*
 * After this returns no new call to ev->fn starts if it is called on the loop's thread; called from
 * another thread, a call that was already chosen may still come once, so the struct must outlive
 * the loop's run and the callback must check its device's state under the device's lock. Not added:
 * does nothing.
 */
void event_del(struct event_loop *loop, struct event *ev);

/*
 * Runs until event_loop_stop(); stopped before it ran, it still looks once, without waiting. 0 or
 * -errno. Can be run again after it returned.
 */
int event_loop_run(struct event_loop *loop);

/* Any thread, and signal handlers. */
void event_loop_stop(struct event_loop *loop);

#endif
