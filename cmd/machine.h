/* SPDX-License-Identifier: MIT */
/*
 * One guest from its configuration to its end: the machine as its user sees it, across resets.
 *
 * All here is for the event loop's thread, which is the main one, and which machine_run() is on.
 * Who asks for something that the machine's state doesn't allow gets -EINVAL (the state is another)
 * or -EBUSY (another call is under way), and a sentence in @why that names the states expected and
 * found. So does who asks for what can't be: @why has the reason, without a full stop.
 */
#ifndef CMD_MACHINE_H
#define CMD_MACHINE_H

#include <stdbool.h>
#include <stdint.h>
#include "vm/dirty.h"
#include "vm/log.h"
#include "vm/region.h"
#include "vm/state.h"
#include "vm/vm.h"

struct guest_config;
struct machine;

/*
 * Builds the machine, or with --restore takes it from a snapshot, runs it, builds it anew at each
 * reset, and returns the exit status of `vinit run`. With --api-sock and neither kernel nor
 * snapshot it waits until the API has given it one. @config is changed by the API, and stays the
 * caller's.
 */
int machine_run(struct guest_config *config);

/* The state, and the configuration, which may be changed while that is STATE_CREATED. */
enum state_id machine_state(struct machine *m);
struct guest_config *machine_config(struct machine *m);

/* The VM, for what can be asked of it. NULL while none is built. */
struct vm *machine_vm(struct machine *m);

/*
 * How a call that takes its time ends: @ret 0 or -errno with the reason in @why. On the loop's thread, once.
 */
typedef void machine_done_fn(void *opaque, int ret, const char *why);

/* Builds and starts it. The configuration must be complete (config_check()). */
int machine_start(struct machine *m, machine_done_fn *done, void *opaque, char why[LOG_SENTENCE]);

/*
 * pause returns when every vCPU has left the guest and every device is quiet; resume undoes it.
 */
int machine_pause(struct machine *m, char why[LOG_SENTENCE]);
int machine_resume(struct machine *m, char why[LOG_SENTENCE]);

int machine_power_button(struct machine *m, char why[LOG_SENTENCE]);

/*
 * The ladder: the power button, --stop-timeout seconds, then the end; a paused guest is resumed
 * first. machine_end() is its last step, at once. Both return before the guest has ended.
 */
int machine_stop(struct machine *m, char why[LOG_SENTENCE]);
int machine_end(struct machine *m, char why[LOG_SENTENCE]);

/* Destroys the VM and builds it again, in the running state. Returns before it has. */
int machine_reset(struct machine *m, char why[LOG_SENTENCE]);

/* Calls @done when the guest has ended for good, before machine_run() returns; @why says how. */
void machine_wait(struct machine *m, machine_done_fn *done, void *opaque);

/*
 * Writes a snapshot of the paused guest into @dir (made unless it is there), full, or with @diff
 * the pages written since the snapshot that was taken or restored last: for that the dirty log must
 * have been on ever since (--track-dirty-pages), and not have been read by others. Goes on in a
 * thread of its own; until @done nothing but machine_end() is taken. 0: @done will be called.
 */
int machine_snapshot(struct machine *m, const char *dir, bool diff, machine_done_fn *done, void *opaque,
		     char why[LOG_SENTENCE]);

/*
 * Takes the machine, which has not been built, from the snapshot in config->restore; the machine is
 * then paused, or running with @resume. What the configuration names of disks, vsock and consoles
 * replaces what the snapshot says (config.h).
 */
int machine_restore(struct machine *m, bool resume, machine_done_fn *done, void *opaque,
		    char why[LOG_SENTENCE]);

/*
 * Another image behind the disk @id (its `id`, "vinit-disk0" by default), of the same size and
 * as writable. A running guest is held up for the moment it takes, here and in all that follow.
 */
int machine_disk(struct machine *m, const char *id, const char *path, char why[LOG_SENTENCE]);

/* vm/region.h; machine_vm(m)->mem has the table. */
int machine_memory_add(struct machine *m, const struct region_spec *spec, uint32_t *slot,
		       char why[LOG_SENTENCE]);
int machine_memory_remove(struct machine *m, uint32_t slot, char why[LOG_SENTENCE]);

/* vm/dirty.h: turns the log on or off; again: does nothing. */
int machine_dirty_log(struct machine *m, bool on, char why[LOG_SENTENCE]);

/* Is it on? Refused while a snapshot is written. */
int machine_dirty_look(struct machine *m, bool *on, char why[LOG_SENTENCE]);

/*
 * Gets the log and clears it: calls @fn for each run of pages (bytes, upwards) between collecting and
 * clearing. When @fn returns something else than 0, that is returned and nothing is cleared. The
 * next snapshot must be a full one.
 */
int machine_dirty_get(struct machine *m, dirty_fn *fn, void *opaque, char why[LOG_SENTENCE]);

/* vm/irq.h: -EINVAL for a GSI that the interrupt controller doesn't have. */
int machine_irq_level(struct machine *m, uint32_t gsi, bool level, char why[LOG_SENTENCE]);
int machine_irq_pulse(struct machine *m, uint32_t gsi, char why[LOG_SENTENCE]);

/* Counts of this process's life, for the API. */
struct machine_stats {
	uint64_t uptime_ms; /* since the VM was first started */
	uint64_t resets;
	uint64_t pauses;
	uint64_t snapshots;
	uint64_t paused_ms; /* all pauses together */
};
void machine_stats(struct machine *m, struct machine_stats *stats);

#endif
