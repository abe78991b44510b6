/* SPDX-License-Identifier: MIT */
/* The pvpanic register, one byte, on ports or MMIO. Source: QEMU docs/specs/pvpanic.rst. */
#ifndef VM_PVPANIC_H
#define VM_PVPANIC_H

#include <stdbool.h>
#include <stdint.h>

/*
 * A bus_fn whose @opaque is the struct vm: reads the supported events, a write of one ends the
 * guest as crashed.
 */
void pvpanic_access(void *opaque, uint64_t offset, uint8_t *data, unsigned int len, bool write);

#endif
