/* SPDX-License-Identifier: MIT */
/*
 * KVM's GIC, of version 2 or 3. Source: Linux Documentation/virt/kvm/devices/arm-vgic.rst and
 * arm-vgic-v3.rst.
 *
 * The order is KVM's: the vCPUs first (a redistributor each), then the device, its addresses, the
 * number of interrupts, initialisation, and only then irqfds (EAGAIN before).
 */
#ifndef ARCH_AARCH64_GIC_H
#define ARCH_AARCH64_GIC_H

#include <stdbool.h>

/* Whether KVM can make a GIC of @version for the VM behind @vm_fd; nothing is made. */
bool gic_possible(int vm_fd, unsigned int version);

/*
 * The version for a machine of @nr_vcpus: @wanted, or with 0 the best that the host has. 2 or 3, or
 * -errno when the host or the number of vCPUs does not allow it; logs.
 */
int gic_choose(int vm_fd, unsigned int wanted, unsigned int nr_vcpus);

/*
 * Makes the GIC of @version, when all vCPUs exist. Returns its descriptor, the caller's to close,
 * or -errno; logs.
 */
int gic_create(int vm_fd, unsigned int version);

#endif
