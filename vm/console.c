/* SPDX-License-Identifier: MIT */
#include "vm/console.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include "vm/event.h"
#include "vm/log.h"
#include "vm/terminal.h"
#include "vm/thread.h"
#include "vm/unix_socket.h"

#define MAX_SINKS  8
#define INPUT_BUF  4096
#define OUTPUT_BUF 4096
#define TTY_CHUNK  256 /* a terminal that says "writable" has room for as much as this */
#define LOST_NOTE  96
#define ESCAPE	   0x01 /* Ctrl-A */
#define BATCH_MS   1	/* a guest's byte waits this long for company */
#define LOOK_MS	   500	/* how often to look for what nothing tells: see out_take_over() */
#define CLOSE_MS   1000 /* for the thread to leave a write */
#define CLOSE_WAITS 20

/* What the loop's thread is asked to do; bits of struct console's todo. */
#define TODO_INPUT 1u /* offer input again, or look at it for the first time */
#define TODO_ROOM  2u
#define TODO_TERMINAL 4u /* it is ours again */

enum console_kind { CONSOLE_STDIO, CONSOLE_NULL, CONSOLE_FILE, CONSOLE_PTY, CONSOLE_UNIX };

/*
 * Two threads besides the callers of console_write(): the loop's, which owns all of input and the
 * listener, and the writer, which owns its descriptor of the output. @lock guards the ring, the
 * sinks and what those two tell each other; it is a leaf, held for a copy at most, and no callback
 * and no system call that may wait runs under it. (Writing to a non-blocking eventfd doesn't wait.)
 */
struct console {
	enum console_kind kind;
	struct event_loop *loop;
	char *spec;
	struct unix_socket file; /* to be removed */

	pthread_mutex_t lock;
	pthread_cond_t progress; /* the writer wrote, or left; CLOCK_MONOTONIC */
	const struct console_sink *sinks[MAX_SINKS];
	unsigned int nr_sinks;
	console_escape_fn *escape;
	void *escape_opaque;

	/* Output. Positions only grow; a position's place is its remainder by CONSOLE_RING. */
	uint8_t *ring; /* NULL: output goes nowhere */
	uint64_t head;
	uint64_t tail;
	uint64_t lost;
	bool connected;	  /* a reader is there; else the ring keeps the latest bytes */
	bool nowhere;	  /* output failed for good */
	bool room_wanted; /* a sink waits for half the ring */
	bool idle;	  /* the writer sleeps till it is kicked */
	bool stop;
	bool exited;
	bool out_gone; /* the client left: the writer closes out_fd */
	int out_next;  /* the client came: the writer's descriptor, its own from there on; -1 */
	int out_fd;    /* the writer's own */
	bool out_tty;
	bool out_socket;
	int kick_fd;
	bool started;
	pthread_t writer;

	/* Input: the loop's thread. */
	struct event in;
	struct event listen;
	struct event wake;
	atomic_uint todo;
	bool in_open;
	bool in_tty;
	bool in_plain;	      /* epoll can't watch it: a regular file, /dev/null */
	bool in_eof;	      /* a client that said all it has, and may still listen */
	bool in_escape;	      /* the last key was Ctrl-A */
	atomic_bool tty_away; /* we are in the background: the terminal is left alone */
	bool listen_retry;
	size_t in_off;
	size_t in_len;
	uint8_t in_buf[INPUT_BUF];
};

static const char help_text[] = "\r\n"
				"Ctrl-A x   end the guest\r\n"
				"Ctrl-A a   send Ctrl-A (Ctrl-A Ctrl-A too)\r\n"
				"Ctrl-A h   this text\r\n"
				"Any other key after Ctrl-A rings the bell and is not sent.\r\n";

static void poke(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) < 0) {
		/* EAGAIN: it is full of wake-ups */
	}
}

static void unpoke(int fd)
{
	uint64_t count;

	if (read(fd, &count, sizeof(count)) < 0) {
		/* EAGAIN: nobody did */
	}
}

static void todo(struct console *c, unsigned int what)
{
	atomic_fetch_or(&c->todo, what);
	poke(c->wake.fd);
}

/* A shell's "fg" sends no signal to a job that runs already: the writer looks from time to time. */
static void terminal_left(struct console *c)
{
	atomic_store(&c->tty_away, true);
	poke(c->kick_fd);
}

/* --- output: any thread --------------------------------------------------------------------- */

static size_t ring_used(const struct console *c)
{
	return (size_t)(c->head - c->tail);
}

static void ring_put(struct console *c, const uint8_t *buf, size_t len)
{
	size_t at = c->head % CONSOLE_RING;
	size_t first = len < CONSOLE_RING - at ? len : CONSOLE_RING - at;

	memcpy(c->ring + at, buf, first);
	memcpy(c->ring, buf + first, len - first);
	c->head += len;
}

/*
 * What can be taken now. While losses are untold, the note about them has the first call on the
 * room.
 */
static size_t ring_room(const struct console *c)
{
	size_t room = CONSOLE_RING - ring_used(c);

	if (!c->ring || c->nowhere || !c->connected)
		return CONSOLE_RING;
	if (c->lost)
		return room > LOST_NOTE ? room - LOST_NOTE : 0;
	return room;
}

/* The note goes exactly where bytes are missing: before anything that comes after them. */
static void ring_note_lost(struct console *c)
{
	char note[LOST_NOTE];
	int len;

	if (!c->lost || CONSOLE_RING - ring_used(c) < LOST_NOTE)
		return;
	len = snprintf(note, sizeof(note),
		       "\r\n[%llu bytes of console output lost: its reader was too slow]\r\n",
		       (unsigned long long)c->lost);
	ring_put(c, (uint8_t *)note, (size_t)len);
	c->lost = 0;
}

static void kick_writer(struct console *c)
{
	if (c->idle) {
		c->idle = false;
		poke(c->kick_fd);
	}
}

size_t console_write(struct console *c, const void *buf, size_t len)
{
	size_t n = len;

	pthread_mutex_lock(&c->lock);
	if (!c->ring || c->nowhere)
		goto out;
	if (c->connected) {
		size_t room = ring_room(c);

		if (n > room) {
			n = room;
			c->room_wanted = true;
		}
		if (n)
			ring_note_lost(c);
	} else {
		/* History: the oldest makes room. */
		if (n > CONSOLE_RING)
			n = CONSOLE_RING;
		if (n > CONSOLE_RING - ring_used(c))
			c->tail = c->head + n - CONSOLE_RING;
	}
	ring_put(c, buf, n);
	if (n && c->connected)
		kick_writer(c);
out:
	pthread_mutex_unlock(&c->lock);
	return n;
}

size_t console_room(struct console *c)
{
	size_t room;

	pthread_mutex_lock(&c->lock);
	room = ring_room(c);
	if (room < CONSOLE_RESERVE)
		c->room_wanted = true;
	pthread_mutex_unlock(&c->lock);
	return room;
}

void console_drop(struct console *c, size_t len)
{
	pthread_mutex_lock(&c->lock);
	if (c->ring && c->connected && !c->nowhere) {
		c->lost += len;
		kick_writer(c);
	}
	pthread_mutex_unlock(&c->lock);
}

/* --- output: the writer --------------------------------------------------------------------- */

/* With the lock. */
static void check_room(struct console *c)
{
	if (ring_room(c) >= CONSOLE_RING / 2) {
		ring_note_lost(c);
		if (c->room_wanted) {
			c->room_wanted = false;
			todo(c, TODO_ROOM);
		}
	}
}

static ssize_t out_write(struct console *c, const uint8_t *buf, size_t len)
{
	ssize_t n;

	if (c->out_socket)
		n = send(c->out_fd, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT);
	else
		n = write(c->out_fd, buf, len);
	return n < 0 ? -errno : n;
}

/* With the lock. What an output that doesn't take bytes any more means for each kind. */
static void out_failed(struct console *c)
{
	switch (c->kind) {
	case CONSOLE_PTY:
		c->connected = false;
		break;
	case CONSOLE_UNIX:
		/* The loop was faster, and the next client may be here already. */
		if (c->out_gone)
			break;
		c->connected = false;
		close(c->out_fd);
		c->out_fd = -1;
		/* The client may have said something before it left: the loop reads that first. */
		todo(c, TODO_INPUT);
		break;
	default:
		c->nowhere = true;
	}
	check_room(c);
}

/* With the lock: what the loop said about the client, and what nothing but looking can tell. */
static void out_take_over(struct console *c)
{
	if (c->out_gone) {
		if (c->out_fd >= 0)
			close(c->out_fd);
		c->out_fd = -1;
		c->out_gone = false;
	}
	if (c->out_next >= 0) {
		if (c->out_fd >= 0)
			close(c->out_fd);
		c->out_fd = c->out_next;
		c->out_next = -1;
	}
	if (atomic_load(&c->tty_away) && terminal_is_ours()) {
		atomic_store(&c->tty_away, false);
		todo(c, TODO_TERMINAL);
	}
	if (c->kind == CONSOLE_PTY && !c->connected) {
		struct pollfd p = { .fd = c->out_fd };

		if (poll(&p, 1, 0) >= 0 && !(p.revents & (POLLHUP | POLLERR))) {
			c->connected = true;
			todo(c, TODO_INPUT);
		}
	}
}

/* One piece of the ring. With the lock, which it lets go while it writes. */
static void write_some(struct console *c)
{
	uint8_t buf[OUTPUT_BUF];
	size_t len = ring_used(c), max = c->out_tty ? TTY_CHUNK : OUTPUT_BUF;
	uint64_t from = c->tail;
	struct pollfd p[2] = {
		{.fd = c->kick_fd, .events = POLLIN},
		{.fd = c->out_fd, .events = POLLOUT},
	};
	size_t at = from % CONSOLE_RING, first;
	ssize_t n = 0;

	if (len > max)
		len = max;
	first = len < CONSOLE_RING - at ? len : CONSOLE_RING - at;
	memcpy(buf, c->ring + at, first);
	memcpy(buf + first, c->ring, len - first);
	pthread_mutex_unlock(&c->lock);

	/*
	 * The descriptor's mode is shared with whoever gave it, so it may block or not. POLLOUT
	 * promises a little room, and little is what is written; so a write waits only if another
	 * process took that room.
	 */
	if (poll(p, 2, -1) > 0 && p[1].revents && !(p[0].revents & POLLIN))
		n = out_write(c, buf, len);
	if (p[0].revents & POLLIN)
		unpoke(c->kick_fd);
	if (n == -EAGAIN || n == -EINTR) {
		poll(p, 1, BATCH_MS); /* POLLOUT was wrong: not again at once */
		n = 0;
	}
	if (n == -ENOSPC) {
		/* The disk may have room again. No note in the ring: it would come back here. */
		log_limited(LOG_WARN, "console %s: write: ENOSPC: the disk is full, output is lost",
			    c->spec);
		n = (ssize_t)len;
	}
	if (n < 0 && c->kind != CONSOLE_PTY && c->kind != CONSOLE_UNIX)
		log_warn("console %s: write: %s: the guest's output goes nowhere from here on",
			 c->spec, errno_name((int)n));

	pthread_mutex_lock(&c->lock);
	/* History may have moved the tail meanwhile. */
	if (n > 0 && c->tail < from + (uint64_t)n)
		c->tail = from + (uint64_t)n;
	if (n < 0)
		out_failed(c);
	check_room(c);
	pthread_cond_broadcast(&c->progress);
}

static void *writer_thread(void *arg)
{
	struct console *c = arg;
	struct pollfd kick = { .fd = c->kick_fd, .events = POLLIN };
	bool look;

	pthread_mutex_lock(&c->lock);
	while (!c->stop) {
		out_take_over(c);
		look = atomic_load(&c->tty_away) || (c->kind == CONSOLE_PTY && !c->connected);
		if (c->connected && !c->nowhere && c->out_fd >= 0 && ring_used(c)) {
			write_some(c);
			continue;
		}
		check_room(c);
		if (ring_used(c) && c->connected && !c->nowhere && c->out_fd >= 0)
			continue; /* a note about losses */
		c->idle = true;
		pthread_mutex_unlock(&c->lock);
		poll(&kick, 1, look ? LOOK_MS : -1);
		unpoke(c->kick_fd);
		pthread_mutex_lock(&c->lock);
		c->idle = false;
		if (c->stop || !c->connected || ring_used(c) >= OUTPUT_BUF)
			continue;
		/* A guest prints byte by byte: a write each would cost more than the wait. */
		pthread_mutex_unlock(&c->lock);
		poll(&kick, 1, BATCH_MS);
		pthread_mutex_lock(&c->lock);
	}
	c->exited = true;
	pthread_cond_broadcast(&c->progress);
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

/* --- input: the loop's thread --------------------------------------------------------------- */

static bool top_sink(struct console *c, struct console_sink *sink)
{
	bool found;

	pthread_mutex_lock(&c->lock);
	found = c->nr_sinks > 0;
	if (found)
		*sink = *c->sinks[c->nr_sinks - 1];
	pthread_mutex_unlock(&c->lock);
	return found;
}

static void input_push(struct console *c)
{
	struct console_sink sink;
	size_t n;

	if (!c->in_len || !top_sink(c, &sink))
		return;
	n = sink.input(sink.opaque, c->in_buf + c->in_off, c->in_len);
	if (n > c->in_len)
		n = c->in_len;
	c->in_off += n;
	c->in_len -= n;
}

/*
 * A terminal is read ahead while the guest takes nothing, so that Ctrl-A x works when it hangs.
 * From anything else nothing is read that the guest has no room for: that is its writer's flow
 * control. (A paste of more than the buffer to a guest that hangs blocks Ctrl-A x too; the other
 * choice would lose pastes.)
 */
static bool input_wanted(const struct console *c)
{
	return c->in_tty ? c->in_len < INPUT_BUF : !c->in_len;
}

/* One shot each: a hang-up is always reported, and would come again and again. */
static void input_arm(struct console *c)
{
	if (!c->in_open)
		return;
	if (c->in_plain) {
		if (input_wanted(c))
			todo(c, TODO_INPUT);
	} else if (input_wanted(c) && !c->in_eof) {
		event_mod(c->loop, &c->in, EPOLLIN | EPOLLONESHOT);
	} else if (c->kind == CONSOLE_UNIX) {
		/* A client that leaves makes place for the next, whatever the guest does. */
		event_mod(c->loop, &c->in, EPOLLONESHOT);
	}
}

static void input_end(struct console *c)
{
	event_del(c->loop, &c->in);
	c->in_open = false;
}

static void client_gone(struct console *c)
{
	event_del(c->loop, &c->in);
	/* The writer has another descriptor of it: the client is to see the end now. */
	shutdown(c->in.fd, SHUT_RDWR);
	close(c->in.fd);
	c->in.fd = -1;
	c->in_open = false;
	pthread_mutex_lock(&c->lock);
	c->connected = false;
	if (c->out_next >= 0)
		close(c->out_next);
	c->out_next = -1;
	c->out_gone = true;
	c->idle = false;
	poke(c->kick_fd);
	check_room(c);
	pthread_mutex_unlock(&c->lock);
	event_mod(c->loop, &c->listen, EPOLLIN | EPOLLONESHOT);
}

static void terminal_say(struct console *c, const char *text, size_t len)
{
	if (c->out_tty)
		console_write(c, text, len);
}

static void show_help(struct console *c)
{
	if (c->out_tty)
		terminal_say(c, help_text, sizeof(help_text) - 1);
	else
		log_info("Ctrl-A x ends the guest, Ctrl-A a sends Ctrl-A, Ctrl-A h says this");
}

/*
 * Takes what follows a Ctrl-A out of the @len bytes at @buf; returns how many are left for the
 * guest.
 */
static size_t filter_escapes(struct console *c, uint8_t *buf, size_t len)
{
	size_t out = 0;

	for (size_t i = 0; i < len; i++) {
		uint8_t key = buf[i];

		if (!c->in_escape) {
			if (key == ESCAPE)
				c->in_escape = true;
			else
				buf[out++] = key;
			continue;
		}
		c->in_escape = false;
		if (key == ESCAPE || key == 'a') {
			buf[out++] = ESCAPE;
		} else if (key == 'h' || key == '?') {
			show_help(c);
		} else if (key == 'x') {
			console_escape_fn *fn;
			void *opaque;

			pthread_mutex_lock(&c->lock);
			fn = c->escape;
			opaque = c->escape_opaque;
			pthread_mutex_unlock(&c->lock);
			if (fn)
				fn(opaque, (char)key);
		} else {
			terminal_say(c, "\a", 1);
		}
	}
	return out;
}

/* Reads once. True: go on and arm again. */
static bool input_read(struct console *c)
{
	ssize_t n;
	size_t room;

	if (c->in_off) {
		memmove(c->in_buf, c->in_buf + c->in_off, c->in_len);
		c->in_off = 0;
	}
	room = INPUT_BUF - c->in_len;
	if (c->in_tty) {
		n = terminal_read(c->in_buf + c->in_len, room);
		if (n == -EIO && !terminal_is_ours()) {
			terminal_left(c); /* terminal_changed() arms again */
			return false;
		}
	} else {
		n = read(c->in.fd, c->in_buf + c->in_len, room);
		if (n < 0)
			n = -errno;
	}
	if (n > 0) {
		if (c->in_tty)
			n = (ssize_t)filter_escapes(c, c->in_buf + c->in_len, (size_t)n);
		c->in_len += (size_t)n;
		input_push(c);
		return true;
	}
	if (n == -EAGAIN || n == -EINTR)
		return true;
	switch (c->kind) {
	case CONSOLE_UNIX:
		if (!n) {
			c->in_eof = true; /* it may still read: only a hang-up is the end */
			return true;
		}
		client_gone(c);
		return false;
	case CONSOLE_PTY: /* EIO: the other end is closed; the writer sees it open again */
		pthread_mutex_lock(&c->lock);
		c->connected = false;
		c->idle = false;
		poke(c->kick_fd);
		check_room(c);
		pthread_mutex_unlock(&c->lock);
		return false;
	default:
		if (n < 0)
			log_warn("console %s: read: %s: the guest gets no more input", c->spec,
				 errno_name((int)n));
		input_end(c);
		return false;
	}
}

static void input_fn(struct event *ev, uint32_t events)
{
	struct console *c = ev->opaque;

	if (!c->in_open)
		return;
	if (c->kind == CONSOLE_UNIX && (events & (EPOLLHUP | EPOLLERR)) &&
	    (c->in_eof || c->in_len)) {
		client_gone(c);
		return;
	}
	if (!input_wanted(c) || input_read(c))
		input_arm(c);
}

static void listen_fn(struct event *ev, uint32_t events)
{
	struct console *c = ev->opaque;
	int fd, out, ret;

	if (c->in_open)
		return;
	fd = accept4(ev->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd < 0) {
		ret = -errno;
		if (ret == -EAGAIN || ret == -ECONNABORTED || ret == -EINTR) {
			event_mod(c->loop, ev, EPOLLIN | EPOLLONESHOT);
			return;
		}
		log_limited(LOG_WARN, "console %s: accept: %s: check the limit of open files",
			    c->spec, errno_name(ret));
		c->listen_retry = true;
		return;
	}
	c->in.fd = fd;
	out = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	ret = out < 0 ? -errno : event_add(c->loop, &c->in, EPOLLIN | EPOLLONESHOT);
	if (ret) {
		log_limited(LOG_WARN, "console %s: client refused: %s", c->spec, errno_name(ret));
		if (out >= 0)
			close(out);
		close(fd);
		c->in.fd = -1;
		c->listen_retry = true;
		return;
	}
	c->in_open = true;
	c->in_eof = false;
	pthread_mutex_lock(&c->lock);
	c->out_next = out;
	c->connected = true;
	c->idle = false;
	poke(c->kick_fd);
	pthread_mutex_unlock(&c->lock);
}

/* It has another size, or is ours again. */
static void terminal_changed(struct console *c, bool ours_again)
{
	struct console_sink sinks[MAX_SINKS];
	uint16_t cols, rows;
	unsigned int nr;

	if (ours_again) {
		if (!terminal_set_raw())
			terminal_left(c);
		input_arm(c);
	}
	if (!console_size(c, &cols, &rows))
		return;
	pthread_mutex_lock(&c->lock);
	nr = c->nr_sinks;
	for (unsigned int i = 0; i < nr; i++)
		sinks[i] = *c->sinks[i];
	pthread_mutex_unlock(&c->lock);
	for (unsigned int i = 0; i < nr; i++) {
		if (sinks[i].resize)
			sinks[i].resize(sinks[i].opaque, cols, rows);
	}
}

static void tell_room(struct console *c)
{
	struct console_sink sinks[MAX_SINKS];
	unsigned int nr;

	pthread_mutex_lock(&c->lock);
	nr = c->nr_sinks;
	for (unsigned int i = 0; i < nr; i++)
		sinks[i] = *c->sinks[i];
	pthread_mutex_unlock(&c->lock);
	for (unsigned int i = 0; i < nr; i++) {
		if (sinks[i].room)
			sinks[i].room(sinks[i].opaque);
	}
}

static void wake_fn(struct event *ev, uint32_t events)
{
	struct console *c = ev->opaque;
	unsigned int what, seen = 0;
	bool gone;

	unpoke(ev->fd);
	what = atomic_exchange(&c->todo, 0);
	if (c->kind == CONSOLE_STDIO && c->in_tty)
		seen = terminal_signals();
	if (what & TODO_TERMINAL || seen)
		terminal_changed(c, what & TODO_TERMINAL || seen & TERMINAL_CONT);
	if (what & TODO_ROOM)
		tell_room(c);
	if (what & TODO_INPUT) {
		input_push(c);
		pthread_mutex_lock(&c->lock);
		gone = c->kind == CONSOLE_UNIX && !c->connected;
		pthread_mutex_unlock(&c->lock);
		/* Dead, and its words wait for a guest that may never ask: place for the next. */
		if (c->in_open && gone && c->in_len)
			client_gone(c);
		else if (!c->in_plain || !c->in_open || !input_wanted(c) || input_read(c))
			input_arm(c);
	}
	if (c->listen_retry) {
		c->listen_retry = false;
		event_mod(c->loop, &c->listen, EPOLLIN | EPOLLONESHOT);
	}
}

void console_resume_input(struct console *c)
{
	todo(c, TODO_INPUT);
}

void console_attach(struct console *c, const struct console_sink *sink)
{
	bool full;

	console_detach(c, sink);
	pthread_mutex_lock(&c->lock);
	full = c->nr_sinks == MAX_SINKS;
	if (!full)
		c->sinks[c->nr_sinks++] = sink;
	pthread_mutex_unlock(&c->lock);
	if (full)
		log_err("console %s: more than %d devices on one console", c->spec, MAX_SINKS);
	todo(c, TODO_INPUT);
}

void console_detach(struct console *c, const struct console_sink *sink)
{
	bool found = false;

	pthread_mutex_lock(&c->lock);
	for (unsigned int i = 0; i < c->nr_sinks; i++) {
		if (c->sinks[i] == sink)
			found = true;
		if (found && i + 1 < c->nr_sinks)
			c->sinks[i] = c->sinks[i + 1];
	}
	if (found)
		c->nr_sinks--;
	pthread_mutex_unlock(&c->lock);
	if (found)
		todo(c, TODO_INPUT);
}

void console_set_escape(struct console *c, console_escape_fn *fn, void *opaque)
{
	pthread_mutex_lock(&c->lock);
	c->escape = fn;
	c->escape_opaque = opaque;
	pthread_mutex_unlock(&c->lock);
}

bool console_size(struct console *c, uint16_t *cols, uint16_t *rows)
{
	struct winsize size;

	if (!(c->kind == CONSOLE_STDIO && c->in_tty) && c->kind != CONSOLE_PTY)
		return false;
	if (c->in.fd < 0 || ioctl(c->in.fd, TIOCGWINSZ, &size) || !size.ws_col || !size.ws_row)
		return false;
	*cols = size.ws_col;
	*rows = size.ws_row;
	return true;
}

/* --- opening -------------------------------------------------------------------------------- */

/* Puts @fd under the loop's eyes, or notes that it can't be. */
static int input_start(struct console *c, int fd)
{
	int ret;

	c->in.fd = fd;
	c->in_open = true;
	ret = event_add(c->loop, &c->in, EPOLLIN | EPOLLONESHOT);
	if (ret == -EPERM) {
		/* A regular file or /dev/null: always readable. Read when the guest asks. */
		c->in_plain = true;
		todo(c, TODO_INPUT);
		return 0;
	}
	if (ret) {
		c->in_open = false;
		log_err("console %s: epoll_ctl: %s", c->spec, errno_name(ret));
	}
	return ret;
}

static void output_start(struct console *c, int fd)
{
	struct stat st;

	c->out_fd = fd;
	c->out_tty = isatty(fd);
	c->out_socket = !fstat(fd, &st) && S_ISSOCK(st.st_mode);
	c->connected = true;
}

static int open_stdio(struct console *c)
{
	int ret;

	if (!terminal_claim()) {
		log_err("console stdio: EBUSY: another console has it; give this one file=, pty or "
			"unix=");
		return -EBUSY; /* still of kind null: what is not ours is not put back */
	}
	c->kind = CONSOLE_STDIO;
	if (c->out_fd >= 0)
		output_start(c, c->out_fd);
	else
		c->nowhere = true;
	if (c->in.fd < 0)
		return 0;
	c->in_tty = isatty(c->in.fd);
	ret = input_start(c, c->in.fd);
	if (ret)
		return ret;
	if (!c->in_tty)
		return 0;
	if (!terminal_open(c->in.fd, c->wake.fd))
		terminal_left(c);
	log_info("Ctrl-A x ends the guest, Ctrl-A h helps");
	return 0;
}

static int open_file(struct console *c, const char *path)
{
	/* O_NONBLOCK: a FIFO that nobody reads is an error, not a wait. */
	int fd =
		open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0600);
	int ret = -errno;

	if (fd < 0) {
		log_err("console %s: open: %s: check that its folder exists and can be written to",
			c->spec, errno_name(ret));
		return ret;
	}
	output_start(c, fd);
	return 0;
}

static int open_pty(struct console *c)
{
	struct termios mode;
	unsigned int nr = 0;
	int fd, slave, ret, zero = 0;

	fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0) {
		ret = -errno;
		log_err("console pty: /dev/ptmx: %s: check that devpts is mounted on /dev/pts",
			errno_name(ret));
		return ret;
	}
	c->in.fd = fd;
	/* musl's grantpt does nothing, and devpts needs nothing; unlockpt is this ioctl. */
	if (ioctl(fd, TIOCSPTLCK, &zero) || ioctl(fd, TIOCGPTN, &nr) || tcgetattr(fd, &mode)) {
		ret = -errno;
		log_err("console pty: /dev/ptmx: %s: check that devpts is mounted on /dev/pts",
			errno_name(ret));
		return ret;
	}
	/* Through the master this is the slave's mode: else it would echo the output as input. */
	cfmakeraw(&mode);
	tcsetattr(fd, TCSANOW, &mode);
	/* Opened and closed once, the other end reads as closed; before, it reads as open. */
	slave = ioctl(fd, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (slave < 0) {
		char name[32];

		snprintf(name, sizeof(name), "/dev/pts/%u", nr);
		slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	}
	if (slave < 0) {
		ret = -errno;
		log_err("console pty: /dev/pts/%u: %s: check that devpts is mounted on /dev/pts",
			nr, errno_name(ret));
		return ret;
	}
	close(slave);
	output_start(c, fcntl(fd, F_DUPFD_CLOEXEC, 3));
	if (c->out_fd < 0) {
		ret = -errno;
		log_err("console pty: dup: %s", errno_name(ret));
		return ret;
	}
	c->connected = false;
	ret = input_start(c, fd);
	if (!ret)
		log_info("console: pty /dev/pts/%u", nr);
	return ret;
}

static int open_unix(struct console *c, const char *path)
{
	int ret = unix_socket_listen(&c->file, "console unix=", path, 4);

	if (ret < 0)
		return ret;
	c->listen.fd = ret;
	ret = event_add(c->loop, &c->listen, EPOLLIN | EPOLLONESHOT);
	if (ret)
		log_err("console %s: epoll_ctl: %s", c->spec, errno_name(ret));
	return ret;
}

static int start_writer(struct console *c)
{
	int ret = thread_start(&c->writer, "console", writer_thread, c);

	if (ret)
		log_err("console %s: thread: %s", c->spec, errno_name(ret));
	c->started = !ret;
	return ret;
}

int console_open(struct console **console, const char *spec, struct event_loop *loop)
{
	struct console *c = calloc(1, sizeof(*c));
	pthread_condattr_t condattr;
	int ret;

	if (!c) {
		log_err("console %s: ENOMEM", spec);
		return -ENOMEM;
	}
	pthread_mutex_init(&c->lock, NULL);
	pthread_condattr_init(&condattr);
	pthread_condattr_setclock(&condattr, CLOCK_MONOTONIC);
	pthread_cond_init(&c->progress, &condattr);
	pthread_condattr_destroy(&condattr);
	c->kind = CONSOLE_NULL;
	c->loop = loop;
	c->in = (struct event){.fd = -1, .fn = input_fn, .opaque = c};
	c->listen = (struct event){.fd = -1, .fn = listen_fn, .opaque = c};
	c->out_fd = -1;
	c->out_next = -1;
	if (!strcmp(spec, "stdio")) {
		/* Our own, for 0 and 1 may be replaced; first, for a closed one would be reused. */
		c->in.fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
		c->out_fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
	}
	c->kick_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	c->wake = (struct event){
		.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC),
		.fn = wake_fn,
		.opaque = c,
	};
	c->spec = strdup(spec);
	if (!c->spec) {
		log_err("console %s: ENOMEM", spec);
		ret = -ENOMEM;
		goto err;
	}
	if (c->kick_fd < 0 || c->wake.fd < 0) {
		ret = -errno;
		log_err("console %s: eventfd: %s", spec, errno_name(ret));
		goto err;
	}
	ret = event_add(loop, &c->wake, EPOLLIN);
	if (ret) {
		log_err("console %s: epoll_ctl: %s", spec, errno_name(ret));
		goto err;
	}

	if (!strcmp(spec, "null")) {
		*console = c;
		return 0;
	}
	c->ring = malloc(CONSOLE_RING);
	if (!c->ring) {
		ret = -ENOMEM;
		goto err;
	}
	if (!strcmp(spec, "stdio")) {
		ret = open_stdio(c);
	} else if (!strcmp(spec, "pty")) {
		c->kind = CONSOLE_PTY;
		ret = open_pty(c);
	} else if (!strncmp(spec, "file=", 5)) {
		c->kind = CONSOLE_FILE;
		ret = open_file(c, spec + 5);
	} else if (!strncmp(spec, "unix=", 5)) {
		c->kind = CONSOLE_UNIX;
		ret = open_unix(c, spec + 5);
	} else {
		ret = -EINVAL;
		log_err("console %s: EINVAL: use stdio, null, file=PATH, pty or unix=PATH", spec);
	}
	if (!ret)
		ret = start_writer(c);
	if (ret)
		goto err;
	*console = c;
	return 0;

err:
	console_close(c, 0);
	return ret;
}

/* --- closing -------------------------------------------------------------------------------- */

static void deadline_in(struct timespec *ts, unsigned int ms)
{
	clock_gettime(CLOCK_MONOTONIC, ts);
	ts->tv_sec += ms / 1000;
	ts->tv_nsec += (long)(ms % 1000) * 1000000;
	if (ts->tv_nsec >= 1000000000) {
		ts->tv_sec++;
		ts->tv_nsec -= 1000000000;
	}
}

/* False when the writer is stuck in a write: then it keeps the structure. */
static bool stop_writer(struct console *c, unsigned int drain_ms)
{
	struct timespec ts;
	bool exited;

	if (!c->started)
		return true;
	deadline_in(&ts, drain_ms);
	pthread_mutex_lock(&c->lock);
	while (c->connected && !c->nowhere && (ring_used(c) || c->lost)) {
		if (pthread_cond_timedwait(&c->progress, &c->lock, &ts) == ETIMEDOUT)
			break;
	}
	c->stop = true;
	poke(c->kick_fd);
	/*
	 * In short waits: one long one is over at once when the whole host stood still meanwhile.
	 */
	for (unsigned int i = 0; i < CLOSE_WAITS && !c->exited; i++) {
		deadline_in(&ts, CLOSE_MS / CLOSE_WAITS);
		pthread_cond_timedwait(&c->progress, &c->lock, &ts);
	}
	exited = c->exited;
	pthread_mutex_unlock(&c->lock);
	if (exited)
		pthread_join(c->writer, NULL);
	else
		pthread_detach(c->writer);
	return exited;
}

void console_close(struct console *c, unsigned int drain_ms)
{
	bool exited;

	if (!c)
		return;
	exited = stop_writer(c, drain_ms);
	if (c->kind == CONSOLE_STDIO) {
		terminal_close();
	}
	event_del(c->loop, &c->wake);
	event_del(c->loop, &c->in);
	event_del(c->loop, &c->listen);
	unix_socket_remove(&c->file);
	if (c->listen.fd >= 0)
		close(c->listen.fd);
	if (c->in.fd >= 0)
		close(c->in.fd);
	/*
	 * A writer that is stuck wakes one day, and must find all that it touches: this much is
	 * never freed.
	 */
	if (!exited)
		return;
	if (c->wake.fd >= 0)
		close(c->wake.fd);
	if (c->out_fd >= 0)
		close(c->out_fd);
	if (c->out_next >= 0)
		close(c->out_next);
	if (c->kick_fd >= 0)
		close(c->kick_fd);
	pthread_cond_destroy(&c->progress);
	pthread_mutex_destroy(&c->lock);
	free(c->ring);
	free(c->spec);
	free(c);
}
