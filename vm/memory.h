/* SPDX-License-Identifier: MIT */
/*
 * Guest-physical memory: the regions, their KVM slots, and the one door to guest RAM.
 *
 * Everything that touches guest RAM asks memory_ptr() with a length. A pointer that it returns
 * stays good until memory_fini(). What lies behind it is shared with a running guest: read each
 * field once into a local, check the local.
 */
#ifndef VM_MEMORY_H
#define VM_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MEMORY_MAX_REGIONS 64 /* vhost takes no more: E2BIG */

struct memory_region {
	uint64_t gpa;
	uint64_t size; /* bytes, a multiple of the host's page size */
	uint8_t *hva;
	uint32_t slot;
};

struct memory {
	int vm_fd; /* -1: no KVM behind it (unit tests) */
	unsigned int nr;
	struct memory_region region[MEMORY_MAX_REGIONS]; /* by gpa, none overlaps */
	uint64_t ram_size;
};

enum memory_backing { MEMORY_ANON, MEMORY_HUGETLB };

void memory_init(struct memory *mem, int vm_fd);

/*
 * Maps @size bytes of RAM (private anonymous or hugetlb, not reserved, not touched, left out of
 * core dumps, transparent huge pages asked for) and gives them to KVM at @gpa. Returns 0 or -errno:
 * -EINVAL for bad alignment or wrap, -EEXIST for an overlap, -ENOSPC when regions run out. Logs.
 */
int memory_add_ram(struct memory *mem, uint64_t gpa, uint64_t size, enum memory_backing backing);

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
