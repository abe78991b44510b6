/* SPDX-License-Identifier: MIT */
/* What the files of the control API share: a request's body, and the handlers of its paths. */
#ifndef CMD_CONTROL_ROUTE_H
#define CMD_CONTROL_ROUTE_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include "api/server.h"
#include "cmd/machine.h"

struct config_undo;

/* Every member that some body may have; the table in cmd/control.c has their names. */
enum control_field {
	F_ACTION, F_ARGS, F_BRIDGE, F_CID, F_DIFFS, F_DIRECT, F_DISCARD, F_DRIVES, F_DRIVE_ID,
	F_ENABLED, F_ENGINE, F_GPA, F_HUGE, F_IFACE_ID, F_INITRD, F_KERNEL, F_LEVEL, F_LINE,
	F_LOG_PATH, F_MAC, F_MEMORY, F_MTU, F_OFFSET, F_PASST, F_PATH, F_PULSE, F_QUEUES,
	F_READONLY, F_DRIVE_READONLY, F_RESUME, F_ROOT, F_SHARED, F_SIZE, F_SNAPSHOT,
	F_SNAPSHOT_TYPE, F_STATE, F_TAP, F_TRACK, F_VCPUS, F_VHOST, F_NR,
};

#define B(field) (1ull << F_##field)

/* What JSON_WORD gives. */
enum { ACTION_START, ACTION_CTRL_ALT_DEL, ACTION_BUTTON, ACTION_RESET, ACTION_STOP, ACTION_END };
enum { HUGE_NONE, HUGE_TRANSPARENT, HUGE_2M };

#define DRIVE_ID_SIZE 21 /* with the NUL */

struct control_body {
	uint64_t given; /* B() of each member */
	uint64_t vcpus, memory, cid, gpa, size, offset, queues, mtu;
	unsigned int action, huge, type, state, engine;
	bool track, diffs, root, drive_readonly, direct, discard, resume, readonly, shared, line,
		pulse, enabled, vhost;
	struct json_text drives;
	char level[16];
	char drive_id[DRIVE_ID_SIZE]; /* of an interface, too */
	char mac[18];
	char path[PATH_MAX]; /* a body has one, or a kernel and an initrd */
	char initrd[PATH_MAX];
	char args[4096];
};

/* A call whose reply comes later. */
struct control_pending {
	struct control *control;
	struct server_call *call; /* NULL: free */
	struct config_undo *undo; /* what a load has changed, until it is known to be good */
	bool wait;		  /* for the guest's end */
	uint64_t nr;		  /* which of them is older */
};

/* Waits may hold half of the places: there is always one for who wants to end the guest. */
#define CONTROL_CLIENTS 16
#define CONTROL_WAITS	8

/* Of what the guest has written, in one reply; a range of 64-bit numbers is 44 bytes there. */
#define CONTROL_RANGES 2900

struct control_range {
	uint64_t gpa, end, region_end;
};

struct control {
	struct machine *machine;
	struct server *server;
	struct control_pending pending[CONTROL_CLIENTS];
	uint64_t calls;
	bool waiting; /* the machine will tell of its end */
	int log_fd;   /* from PUT /logger, or -1 */
	const char *id; /* what follows the path's last "/", where it names a thing */
	struct control_body body; /* of the request in hand */
	char allow[32];
	unsigned int nr_ranges;
	uint64_t gap; /* ranges that are this near to each other are one */
	struct control_range range[CONTROL_RANGES];
};

/*
 * One path and method. The body has been read; most handlers answer at once.
 */
typedef enum server_answer control_fn(struct control *c, struct server_call *call);

/* 409 when another call is under way, else 400. */
enum server_answer control_refuse(struct server_call *call, int err, const char *why);
/* The same, or an empty reply when @ret is 0. */
enum server_answer control_result(struct server_call *call, int ret, const char *why);

/* True and a reply of 400, unless @text is a number up to @max. */
bool control_number(struct control *c, struct server_call *call, uint32_t max, uint32_t *value);

/* cmd/control_config.c */
control_fn control_get_machine, control_put_machine, control_put_boot, control_put_drive,
	control_put_net, control_put_vsock, control_put_entropy, control_put_logger, control_get_config;

/* Reads {"drive_id", "path_on_host"}, ... and the rest of a load's body into the configuration. */
int control_load_config(struct control *c, struct config_undo **undo, char why[LOG_SENTENCE]);
/* The load is over: throws the former configuration away, or puts it back. */
void control_load_done(struct control *c, struct config_undo *undo, bool ok);

/* cmd/control_machine.c */
control_fn control_get_info, control_get_version, control_put_action, control_patch_vm,
	control_put_snapshot, control_put_load, control_patch_drive, control_get_wait,
	control_get_stats, control_get_console, control_get_memory, control_put_memory,
	control_delete_memory, control_put_irq, control_get_dirty, control_put_dirty,
	control_read_dirty;

#endif
