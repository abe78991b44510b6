/* SPDX-License-Identifier: MIT */
/* struct machine, for the files that make it: machine.c, machine_calls.c, machine_snapshot.c. */
#ifndef CMD_MACHINE_PRIV_H
#define CMD_MACHINE_PRIV_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "arch/arch.h"
#include "cmd/machine.h"
#include "cmd/pace.h"
#include "vm/event.h"
#include "vm/kvm.h"
#include "vm/state.h"
#include "vm/vm.h"

struct console;
struct control;
struct machine_restore;
struct machine_save;
struct virtio_dev;
struct virtio_mmio;

#define MACHINE_WAITERS 64

struct machine_waiter {
	machine_done_fn *done;
	void *opaque;
};

struct machine {
	struct guest_config *config;
	struct kvm kvm;
	struct event_loop loop;
	struct state state;
	struct control *control; /* NULL: no API */

	/* CALL_START or CALL_RESTORE, which is under way and not yet begun; CALL_NR: none. */
	enum state_call begin;
	bool begin_resume; /* of a restore: the guest runs at once */
	struct machine_waiter begin_done;

	/* The host's side, which outlives resets. */
	char *cmdline;		  /* the kernel's, whole */
	struct console *console;  /* the serial port's end */
	struct console *vconsole; /* the virtio console's; may be the same */
	unsigned int nr_devs;
	struct virtio_dev *dev[ARCH_MAX_VIRTIO];

	/* The guest's side, from one reset to the next. */
	bool built;
	struct vm vm;
	struct virtio_mmio *mmio[ARCH_MAX_VIRTIO];

	struct event signals;
	struct event stop_timer;
	bool stopping;
	const char *stop_now; /* who ended the guest for good; NULL: nobody */
	const char *stop_later; /* who wants it stopped when the snapshot is written */
	unsigned int stop_seconds; /* since the stop began */

	struct pace pace; /* of resets in place */
	struct event pause_timer;
	bool pausing; /* the guest has reset, and waits for pause_timer to start again */

	struct machine_restore *restore; /* the snapshot that this life came from */
	struct machine_save *save;	 /* the last snapshot, and one that is being written */

	unsigned int nr_waiters;
	struct machine_waiter waiter[MACHINE_WAITERS];
	struct machine_stats stats;
	uint64_t started_ms, paused_ms; /* when; 0: it wasn't, it isn't */
	uint64_t boot_since; /* the next life's boot timer counts from here; 0: from its building */
};

/* --- machine.c ------------------------------------------------------------------------------------ */

/* What disk @i has, or will have. */
unsigned int machine_disk_queues(const struct guest_config *c, unsigned int i);

/* Asks the guest to power off, and ends it when it does not; a second time ends it at once. */
void machine_begin_stop(struct machine *m, const char *who);

/* --- machine_calls.c ------------------------------------------------------------------------------ */

/*
 * vCPUs and devices leave the guest's memory alone between the two, whatever the state says. 0 or
 * -errno with @why.
 */
int machine_hold(struct machine *m, char why[LOG_SENTENCE]);
int machine_release(struct machine *m, char why[LOG_SENTENCE]);

/* A pause is over: adds it to the others. */
void machine_count_pause(struct machine *m);

/* --- machine_snapshot.c --------------------------------------------------------------------------- */

/*
 * Reads what config->restore says and checks it from end to end, as far as that goes without a
 * machine; the configuration becomes the one that the snapshot and its user want. close forgets the
 * snapshot, and with @undo puts the configuration back. 0 or -errno; logs.
 */
int machine_restore_open(struct machine *m);
void machine_restore_close(struct machine *m, bool undo);

/* Are the devices that were made those of the snapshot? 0 or -EINVAL; logs. */
int machine_restore_check(struct machine *m);

/* In place of arch_boot(), with all devices attached: memory, vCPUs, devices. 0 or -errno; logs. */
int machine_restore_load(struct machine *m);

/* Is a snapshot being written? */
bool machine_saving(const struct machine *m);

/* Waits for a snapshot that is being written, and tells who waits for it. */
void machine_save_finish(struct machine *m);

/* It need not be: the guest is ended. An fsync(2) under way is still waited for. */
void machine_save_cancel(struct machine *m);

/* A diff that follows the last snapshot can't be told any more. */
void machine_save_forget(struct machine *m);

/* Frees @m->save; nothing is being written. */
void machine_save_free(struct machine *m);

#endif
