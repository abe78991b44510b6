/* SPDX-License-Identifier: MIT */
#include "vm/event.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "vm/log.h"

#define EVENT_BATCH 16

static void wake_drain(struct event *ev, uint32_t events)
{
	uint64_t count;

	if (read(ev->fd, &count, sizeof(count)) < 0) {
		/* EAGAIN: somebody else's stop was drained with an earlier one */
	}
}

int event_loop_init(struct event_loop *loop)
{
	int ret;

	memset(loop, 0, sizeof(*loop));
	loop->wake_fd = -1;
	loop->epfd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epfd < 0) {
		ret = -errno;
		log_err("epoll_create1: %s: check ulimit -n", errno_name(ret));
		return ret;
	}
	loop->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (loop->wake_fd < 0) {
		ret = -errno;
		log_err("eventfd: %s: check ulimit -n", errno_name(ret));
		goto err;
	}
	loop->wake = (struct event){ .fd = loop->wake_fd, .fn = wake_drain };
	ret = event_add(loop, &loop->wake, EPOLLIN);
	if (ret) {
		log_err("epoll_ctl: %s", errno_name(ret));
		goto err;
	}
	return 0;

err:
	event_loop_fini(loop);
	return ret;
}

void event_loop_fini(struct event_loop *loop)
{
	if (loop->wake_fd >= 0)
		close(loop->wake_fd);
	if (loop->epfd >= 0)
		close(loop->epfd);
	loop->wake_fd = -1;
	loop->epfd = -1;
}

static int control(struct event_loop *loop, int op, struct event *ev, uint32_t events)
{
	struct epoll_event arg = { .events = events, .data.ptr = ev };

	return epoll_ctl(loop->epfd, op, ev->fd, &arg) < 0 ? -errno : 0;
}

int event_add(struct event_loop *loop, struct event *ev, uint32_t events)
{
	int ret;

	atomic_store(&ev->armed, true);
	ret = control(loop, EPOLL_CTL_ADD, ev, events);
	if (ret)
		atomic_store(&ev->armed, false);
	return ret;
}

int event_mod(struct event_loop *loop, struct event *ev, uint32_t events)
{
	return control(loop, EPOLL_CTL_MOD, ev, events);
}

void event_del(struct event_loop *loop, struct event *ev)
{
	if (!atomic_exchange(&ev->armed, false))
		return;
	control(loop, EPOLL_CTL_DEL, ev, 0);
}

int event_loop_run(struct event_loop *loop)
{
	struct epoll_event batch[EVENT_BATCH];
	bool last;

	do {
		/*
		 * One look at least, if it was stopped before it ran: a guest that resets itself
		 * faster than its threads are started must not keep a signal from being seen.
		 */
		last = atomic_load(&loop->stop);
		int n = epoll_wait(loop->epfd, batch, EVENT_BATCH, last ? 0 : -1);

		if (n < 0) {
			if (errno == EINTR)
				continue;
			n = -errno;
			log_err("epoll_wait: %s", errno_name(n));
			return n;
		}
		for (int i = 0; i < n; i++) {
			struct event *ev = batch[i].data.ptr;

			/* An earlier callback of this batch may have taken it out. */
			if (atomic_load(&ev->armed))
				ev->fn(ev, batch[i].events);
		}
	} while (!last && !atomic_load(&loop->stop));
	atomic_store(&loop->stop, false);
	return 0;
}

void event_loop_stop(struct event_loop *loop)
{
	uint64_t one = 1;
	int saved = errno;

	atomic_store(&loop->stop, true);
	if (write(loop->wake_fd, &one, sizeof(one)) < 0) {
		/* EAGAIN: it is awake */
	}
	errno = saved;
}
