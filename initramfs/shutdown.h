/* SPDX-License-Identifier: MIT */
/*
 * Taking the machine down: guests asked, waited for, ended; then all other processes; file systems;
 * reboot(2). Every wait has a bound, so a hung guest or disk delays the end and never prevents it.
 */
#ifndef INITRAMFS_SHUTDOWN_H
#define INITRAMFS_SHUTDOWN_H

#include <stdbool.h>
#include <stdint.h>
#include "initramfs/policy.h"

struct guests;

enum shutdown_stage { SHUTDOWN_NONE, SHUTDOWN_ASKED, SHUTDOWN_KILLED };

struct shutdown {
	enum shutdown_stage stage;
	enum action how; /* poweroff, reboot, halt */
	unsigned int timeout_s;
	uint64_t deadline_ms;
};

/*
 * Asks every guest to power off, and waits 5 s longer than the longest of their stop-timeouts. @why
 * is for the log. A second call changes nothing: what was asked first is done.
 */
void shutdown_begin(struct shutdown *down, struct guests *guests, enum action how, const char *why,
		    uint64_t now);

/*
 * To be called whenever a child has ended or the time that it returned (ms) is over. Does not
 * return once all guests have ended.
 */
int shutdown_step(struct shutdown *down, struct guests *guests, uint64_t now);

/* The end without any order: no guest is asked, nothing is written back. */
_Noreturn void shutdown_now(enum action how);

/*
 * Ctrl-Alt-Del more than SHUTDOWN_CAD times within SHUTDOWN_CAD_MS means that the user has given up
 * on order.
 */
#define SHUTDOWN_CAD	7
#define SHUTDOWN_CAD_MS 2000

struct shutdown_cad {
	uint64_t at_ms[SHUTDOWN_CAD]; /* a ring of the last ones */
	unsigned int nr;
};

/* Counts one; true if it was one too many. */
bool shutdown_cad(struct shutdown_cad *cad, uint64_t now);

#endif
