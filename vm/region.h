/* SPDX-License-Identifier: MIT */
/*
 * Memory that a machine gets and loses at run time: more RAM, read-only regions, from memory or a
 * file.
 *
 * All here is for one thread, while the machine is still: vCPUs paused, devices quiet (vm/memory.h
 * says why). The guest isn't told: it knows, or its user does, what is where.
 *
 * Order of adding: mapping, dirty log, KVM's slot, the table, the watches. Of removing: the table,
 * the watches (vhost), KVM's slot, the mapping. What fails half-way is undone.
 */
#ifndef VM_REGION_H
#define VM_REGION_H

#include <stdbool.h>
#include <stdint.h>
#include "vm/log.h"
#include "vm/memory.h"

/*
 * Somebody who keeps a copy of the table of RAM: vhost's owner. Told after each change; mem->region
 * is the new table.
 */
struct memory_watch {
	/*
	 * 0, or -errno to refuse the change (a queue's ring lies in what is gone): then it is
	 * undone, and the watches that were told are told again. That second time what it returns
	 * is not heard.
	 */
	int (*changed)(void *opaque, const struct memory *mem);
	void *opaque;
	bool vhost; /* there can be no more than MEMORY_VHOST_REGIONS while it is here */
	struct memory_watch *next;
};

/*
 * Puts the caller's @watch on the list, until region_unwatch() or the end of this VM: a reset makes
 * a new one. -E2BIG for a vhost when there are too many regions already; logs.
 */
int region_watch(struct memory *mem, struct memory_watch *watch);
void region_unwatch(struct memory *mem, struct memory_watch *watch);

/* What a new region is to be. */
struct region_spec {
	uint64_t gpa, size; /* multiples of the host's page size */
	bool readonly;	    /* for the guest and for devices */
	/*
	 * A regular file, which has at least offset + size bytes, or NULL for zeros. One that is
	 * cut short while it is mapped ends the VMM (SIGBUS).
	 */
	const char *path;
	uint64_t offset; /* into it, a multiple of the host's page size */
	bool shared;	 /* the guest's writes go to the file; else nobody else sees them */
};

/* log_refuse() of what is to be at @spec's place: "memory at 0x100000000, 0x200000 bytes: ...". */
int region_refuse(const struct region_spec *spec, char *why, int err, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/*
 * Adds a region, which gets the lowest free slot of KVM's. 0, and the slot in *@slot, which names
 * the region from now on; or -errno, and the reason as a sentence in @why (may be NULL), which is
 * logged too: -EINVAL (alignment, empty, beyond the address space), -EEXIST (overlap), -ENOSPC (no
 * slot, table full), -E2BIG (vhost's limit), or what the file, mmap, KVM or a watch said. Nothing
 * is touched before all that can be known is checked. Device windows are the caller's to check
 * (vm_memory_add()).
 *
 * While the dirty log is on all pages of new RAM count as written.
 */
int region_add(struct memory *mem, const struct region_spec *spec, uint32_t *slot,
	       char why[LOG_SENTENCE]);

/*
 * Removes what region_add() has added. -ENOENT, -EPERM (RAM that the machine was built with), or
 * what a watch or KVM said; then the region stays.
 */
int region_remove(struct memory *mem, uint32_t slot, char why[LOG_SENTENCE]);

/*
 * The @i-th region by address, RAM or not; NULL after the last. Good until the next change.
 */
const struct memory_region *region_list(const struct memory *mem, unsigned int i);

#endif
