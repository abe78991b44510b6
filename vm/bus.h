/* SPDX-License-Identifier: MIT */
/*
 * Who answers at which address: port I/O and MMIO, one struct bus each.
 *
 * Ranges are added while the machine is built and never change while vCPUs run, so a look-up takes
 * no lock.
 */
#ifndef VM_BUS_H
#define VM_BUS_H

#include <stdbool.h>
#include <stdint.h>

#define BUS_MAX_RANGES 64

/*
 * One access of @len bytes (1, 2, 4 or 8) at @offset into the range. @data holds the value in guest
 * byte order (little-endian); on a read it comes zeroed. Runs on a vCPU thread: takes the device's
 * lock, and waits for nothing else, but a device's reset for the request in hand.
 */
typedef void bus_fn(void *opaque, uint64_t offset, uint8_t *data, unsigned int len, bool write);

struct bus_range {
	uint64_t base;
	uint64_t size;
	bus_fn *fn;
	void *opaque;
	const char *name; /* not copied */
};

struct bus {
	unsigned int nr;
	struct bus_range range[BUS_MAX_RANGES]; /* by base, none overlaps */
};

/* 0, -EINVAL (empty or wrapping range), -EEXIST (overlap) or -ENOSPC. Logs failures by name. */
int bus_add(struct bus *bus, uint64_t base, uint64_t size, bus_fn *fn, void *opaque,
	    const char *name);

/*
 * Passes the access to the range that holds all of it. False when there is none (the caller answers
 * as a floating bus: all ones to a read, nothing to a write).
 */
bool bus_access(const struct bus *bus, uint64_t addr, uint8_t *data, unsigned int len, bool write);

#endif
