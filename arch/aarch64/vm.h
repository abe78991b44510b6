/* SPDX-License-Identifier: MIT */
/* What hangs on a struct vm here. */
#ifndef ARCH_AARCH64_VM_H
#define ARCH_AARCH64_VM_H

#include <stdint.h>
#include "arch/aarch64/layout.h"

struct platform;
struct serial;

struct arch_vm {
	struct platform *platform;
	struct serial *serial;
	unsigned int gic; /* version, from arch_vm_init() on */
	int gic_fd;
	uint64_t counter; /* the virtual one, when the guest was paused */
	uint64_t mpidr[LAYOUT_MAX_VCPUS_V3]; /* of each vCPU, its affinity */
};

#endif
