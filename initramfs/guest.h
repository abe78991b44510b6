/* SPDX-License-Identifier: MIT */
/*
 * The guests of the appliance: one "vinit run" process each, started, counted and started again.
 * PID 1 looks at a guest's exit status and at nothing else of it.
 */
#ifndef INITRAMFS_GUEST_H
#define INITRAMFS_GUEST_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "initramfs/policy.h"
#include "vm/conf.h"

#define GUEST_DIR "/etc/vinit/guests.d"
#define GUEST_MAX 256

enum guest_state {
	GUEST_STOPPED,
	GUEST_WAITING, /* for due_ms, to be started again */
	GUEST_RUNNING,
};

struct guest {
	char name[CONF_NAME_SIZE]; /* the file's, without ".conf" */
	char *file;
	struct policy policy;
	struct policy_history history;
	bool own_api;	  /* its file says where the API's socket is */
	bool own_console; /* its file says where the console goes, and that is not stdio */
	int stop_s;	  /* what its file gives it to power off; -1: nothing, the machine's holds */
	enum guest_state state;
	pid_t pid;
	uint64_t started_ms;
	uint64_t due_ms;
};

struct guests {
	int exe_fd;	     /* this program */
	unsigned int stop_s; /* the machine's stop-timeout */
	unsigned int nr;
	struct guest *guest;   /* by name */
	struct guest *console; /* the one that gets the machine's console, or NULL */
	pid_t console_pid;     /* the process that has it now, guest or not; 0: nobody */
};

/* Reads the names and policies of @dir's "*.conf". Logs what is wrong and goes on with the rest. */
void guests_load(struct guests *guests, const char *dir);

/* Marks those with autostart as due at once. */
void guests_autostart(struct guests *guests, uint64_t now);

/*
 * Starts what is due. The time in ms until the next is, or -1. One that cannot be started counts as
 * failed; @action is then what its policy says (else left alone).
 */
int guests_start_due(struct guests *guests, uint64_t now, enum action *action);

/*
 * Takes the end of @pid: logs it, plans the restart, or gives in @action what the machine has to
 * do. False when @pid is no guest's. @restart: false while the machine goes down.
 */
bool guests_ended(struct guests *guests, pid_t pid, int wstatus, uint64_t now, bool restart,
		  enum action *action);

/* How many have a process, and how many have one or will. */
unsigned int guests_running(const struct guests *guests);
unsigned int guests_active(const struct guests *guests);

/* The longest time, in seconds, that one of those that run is given to power off. */
unsigned int guests_stop_timeout(const struct guests *guests);

/* No guest is started any more. */
void guests_cancel(struct guests *guests);

/* Sends @sig to every guest's process. */
void guests_signal(const struct guests *guests, int sig);

#endif
