/* SPDX-License-Identifier: MIT */
/*
 * Guest-physical memory: the regions, their KVM slots, and the one door to guest RAM.
 *
 * Everything that touches guest RAM asks memory_ptr() with a length. A pointer that it returns
 * stays good until memory_fini(), or until its region is removed (vm/region.h). What lies behind it
 * is shared with a running guest: read each field once into a local, check the local.
 *
 * Look-ups take no lock and come from any thread: the tables change only while nobody looks, that
 * is while the machine is built and while it is still (vCPUs paused, devices quiet). A table that
 * changes under its readers would not help: what a device holds is the pointers it was given, for
 * as long as a request or a queue lives, so that a region can't go before the devices are quiet
 * anyhow, and the pause is milliseconds.
 */
#ifndef VM_MEMORY_H
#define VM_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MEMORY_MAX_REGIONS   256 /* of RAM and read-only ones together */
#define MEMORY_VHOST_REGIONS 64	 /* vhost takes no more: E2BIG */

/* KVM's slots from here on are no regions: devices' register pages (virtio/mmio_attach.c). */
#define MEMORY_DEVICE_SLOTS MEMORY_MAX_REGIONS

struct memory_region {
	uint64_t gpa;
	uint64_t size; /* bytes, a multiple of the host's page size */
	uint8_t *hva;
	uint32_t slot;	 /* KVM's, and the region's name */
	bool readonly;	 /* in rom[] */
	bool added;	 /* at run time: it can be removed */
	bool file;
	uint64_t *dirty; /* vm/dirty.c's, a bit a page of the host; NULL while the log is off */
};

struct memory_watch;

struct memory {
	int vm_fd; /* -1: no KVM behind it (unit tests) */
	unsigned int nr;
	struct memory_region region[MEMORY_MAX_REGIONS]; /* RAM, by gpa, none overlaps */
	uint64_t ram_size;
	/*
	 * What the guest can't write, by gpa: no device's either, so memory_ptr() and vhost don't
	 * know it. The pages are mapped read-only.
	 */
	unsigned int nr_rom;
	struct memory_region rom[MEMORY_MAX_REGIONS];
	unsigned int max_slots;	      /* KVM_CAP_NR_MEMSLOTS; 0: not asked */
	struct memory_watch *watches; /* vm/region.h */
	struct dirty *dirty;	      /* vm/dirty.h; NULL: the log is off */
};

struct dirty;

enum memory_backing { MEMORY_ANON, MEMORY_HUGETLB };

void memory_init(struct memory *mem, int vm_fd);

/*
 * Maps @size bytes of RAM (private anonymous or hugetlb, not reserved, not touched, left out of
 * core dumps, transparent huge pages asked for) and gives them to KVM at @gpa. Returns 0 or -errno:
 * -EINVAL for bad alignment or wrap, -EEXIST for an overlap, -ENOSPC when regions run out. Logs.
 */
int memory_add_ram(struct memory *mem, uint64_t gpa, uint64_t size, enum memory_backing backing);

/*
 * --- for vm/region.c and vm/dirty.c ---------------------------------------------------------------
 */

/* The region, RAM or not, that shares a byte with [@gpa, @gpa + @size), which does not wrap. */
const struct memory_region *memory_overlap(const struct memory *mem, uint64_t gpa, uint64_t size);

/* The lowest slot that no region has. */
uint32_t memory_free_slot(const struct memory *mem);

/*
 * KVM_SET_USER_MEMORY_REGION with all the flags that the region is to have: each call gives them
 * anew. The log is on for a region that has a bitmap. @present false: deletes it. 0 or -errno;
 * logs.
 */
int memory_set_slot(const struct memory *mem, const struct memory_region *region, bool present);

/* Into its table and out of it; there is room. */
void memory_insert(struct memory *mem, const struct memory_region *region);
void memory_take_out(struct memory *mem, uint32_t slot);

/* Anonymous memory, as memory_add_ram() has it; NULL with errno. */
uint8_t *memory_map_anon(uint64_t size);
/* Advice to the kernel that holds for whatever is a guest's. */
void memory_advise(uint8_t *hva, uint64_t size);

/* Unmaps everything. The VM must be gone or not running. */
void memory_fini(struct memory *mem);

/*
 * The host address of [@gpa, @gpa + @len), or NULL unless all of it lies in one RAM region. Safe
 * against wrap. A length of 0 gives NULL.
 */
void *memory_ptr(const struct memory *mem, uint64_t gpa, uint64_t len);

/* Copies; -EFAULT when the range is not wholly RAM. */
int memory_read(const struct memory *mem, uint64_t gpa, void *buf, uint64_t len);
int memory_write(const struct memory *mem, uint64_t gpa, const void *buf, uint64_t len);

/* "512M", "4G", "1048576K", plain bytes. 0 or -EINVAL (also on overflow); logs nothing. */
int memory_parse_size(const char *word, uint64_t *bytes);

#endif
