/* SPDX-License-Identifier: MIT */
#include <sys/eventfd.h>
#include <unistd.h>
#include "tests/unit/test.h"
#include "vm/event.h"

static struct event_loop loop;
static unsigned int calls;

static void count(struct event *ev, uint32_t events)
{
	uint64_t n;

	CHECK(events & EPOLLIN);
	CHECK_EQ(read(ev->fd, &n, sizeof(n)), sizeof(n));
	calls++;
}

static void count_and_stop(struct event *ev, uint32_t events)
{
	count(ev, events);
	event_loop_stop(&loop);
}

static void open_event(struct event *ev, event_fn *fn)
{
	*ev = (struct event){ .fd = eventfd(0, EFD_NONBLOCK), .fn = fn };
	calls = 0;
	CHECK_EQ(event_loop_init(&loop), 0);
	CHECK_EQ(event_add(&loop, ev, EPOLLIN), 0);
}

static void close_event(struct event *ev)
{
	event_del(&loop, ev);
	close(ev->fd);
	event_loop_fini(&loop);
}

static void test_stop(void)
{
	struct event ev;

	open_event(&ev, count_and_stop);
	for (unsigned int i = 1; i < 4; i++) {
		eventfd_write(ev.fd, 1);
		CHECK_EQ(event_loop_run(&loop), 0);
		CHECK_EQ(calls, i);
	}
	close_event(&ev);
}

/*
 * A guest that is always faster than the loop must not keep it from its other work, SIGTERM's say.
 */
static void test_stop_before_run(void)
{
	struct event ev;

	open_event(&ev, count);
	event_loop_stop(&loop);
	CHECK_EQ(event_loop_run(&loop), 0); /* and does not wait */
	CHECK_EQ(calls, 0);
	eventfd_write(ev.fd, 1);
	event_loop_stop(&loop);
	CHECK_EQ(event_loop_run(&loop), 0);
	CHECK_EQ(calls, 1);
	close_event(&ev);
}

/* Taken out by an earlier callback of the same turn. */
static struct event pair[2];

static void del_other(struct event *ev, uint32_t events)
{
	count(ev, events);
	event_del(&loop, &pair[ev == &pair[0]]);
	event_loop_stop(&loop);
}

static void test_del_in_turn(void)
{
	open_event(&pair[0], del_other);
	pair[1] = (struct event){ .fd = eventfd(1, EFD_NONBLOCK), .fn = del_other };
	CHECK_EQ(event_add(&loop, &pair[1], EPOLLIN), 0);
	eventfd_write(pair[0].fd, 1);
	CHECK_EQ(event_loop_run(&loop), 0);
	CHECK_EQ(calls, 1);
	event_del(&loop, &pair[1]);
	close(pair[1].fd);
	close_event(&pair[0]);
}

int main(void)
{
	RUN(test_stop);
	RUN(test_stop_before_run);
	RUN(test_del_in_turn);
	return TEST_RESULT();
}
