/* SPDX-License-Identifier: MIT */
/*
 * The control API: paths of HTTP on the server's socket (api/server.h) to calls of the machine
 * (cmd/machine.h). docs/api.md has the paths, bodies and statuses.
 */
#ifndef CMD_CONTROL_H
#define CMD_CONTROL_H

struct control;
struct event_loop;
struct machine;

/*
 * Listens on @path. Before @loop runs, or on its thread. 0 or -errno; logs.
 */
int control_open(struct control **control, struct machine *machine, const char *path,
		 struct event_loop *loop);

/*
 * Answers what is still pending, gives clients a moment to take their replies, and removes the
 * socket. While the loop does not run, and when the machine has called every machine_done_fn that
 * it ever will. NULL is fine.
 */
void control_close(struct control *control);

#endif
