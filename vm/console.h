/* SPDX-License-Identifier: MIT */
/*
 * The host's end of a guest's console: the terminal, a file, a pty, a Unix socket, or nothing.
 *
 * Output goes into a ring of CONSOLE_RING bytes and from there to the host by a thread of its own,
 * so that neither a vCPU nor the event loop ever waits for a slow reader. Input comes from the
 * event loop and goes to one sink, which takes what it can.
 */
#ifndef VM_CONSOLE_H
#define VM_CONSOLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct console;
struct event_loop;

#define CONSOLE_RING 65536

/* What a sender that can wait leaves to one that can't. */
#define CONSOLE_RESERVE 4096

/*
 * Takes up to @len bytes of input, returns how many it took; the rest is offered again after
 * console_resume_input().
 */
typedef size_t console_input_fn(void *opaque, const uint8_t *buf, size_t len);

/*
 * There is room in the ring again, after a console_write() that took less than it was given.
 * Event-loop thread.
 */
typedef void console_room_fn(void *opaque);

/* The user typed Ctrl-A and then @key ('x': end the guest). Event-loop thread. */
typedef void console_escape_fn(void *opaque, char key);

/* The terminal's size changed. Event-loop thread. */
typedef void console_resize_fn(void *opaque, uint16_t cols, uint16_t rows);

struct console_sink {
	console_input_fn *input;
	console_room_fn *room;	   /* may be NULL */
	console_resize_fn *resize; /* may be NULL */
	void *opaque;
};

/*
 * @spec: "stdio", "null", "file=PATH" (appended, O_APPEND), "pty" (its name is logged), "unix=PATH"
 * (a listener; one client at a time). stdio makes a terminal raw until console_close(), every exit
 * path and fatal signals included. 0 or -errno; logs. -EINVAL for an unknown spec.
 */
int console_open(struct console **console, const char *spec, struct event_loop *loop);

/*
 * Puts the terminal back, gives the output ring up to @drain_ms to empty, ends the thread. NULL is
 * fine.
 */
void console_close(struct console *console, unsigned int drain_ms);

/*
 * Queues output; never blocks. Returns how many bytes fit; the caller keeps the rest (and is told
 * by its sink's room callback) or drops them with console_drop(). Any thread.
 */
size_t console_write(struct console *console, const void *buf, size_t len);

/*
 * How much console_write() would take now; less than CONSOLE_RESERVE also asks for the room
 * callback, which comes when half of the ring is free.
 */
size_t console_room(struct console *console);

/* Counts @len bytes of output as lost; a line says so when there is room again. */
void console_drop(struct console *console, size_t len);

/*
 * Input goes to the sink attached last that is active. Serial ports attach at build time; a virtio
 * console raises its own when its driver is ready and lowers it at reset. Sinks outlive the console
 * or are detached; as with event_del(), a call that was already chosen may still come once after a
 * detach from another thread than the loop's.
 *
 * Sinks are called with no lock held. These three, console_write(), console_room() and
 * console_drop() take a lock that is a leaf: they may be called with a device's lock held.
 * console_resume_input() only wakes the loop.
 */
void console_attach(struct console *console, const struct console_sink *sink);
void console_detach(struct console *console, const struct console_sink *sink);
void console_resume_input(struct console *console);

void console_set_escape(struct console *console, console_escape_fn *fn, void *opaque);

/* False when the host's end has no size. */
bool console_size(struct console *console, uint16_t *cols, uint16_t *rows);

#endif
