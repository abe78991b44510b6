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
#include <stdint.h>
#include "vm/state_file.h"

struct state_reader;
struct state_writer;

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

/* Its section, instance 0, whatever its version; docs/snapshot.md draws it. */
#define GIC_STATE	  STATE_TAG('G', 'I', 'C', 'S')
#define GIC_STATE_VERSION 1

/* A GIC that gic_create() has made. */
struct gic {
	int fd;
	unsigned int version;
	unsigned int nr_cpus;
	const uint64_t *mpidr; /* of each vCPU, its affinity */
};

/* No vCPU runs. Errors are logged and stick in @w. */
void gic_save(const struct gic *gic, struct state_writer *w);

/*
 * Into a new GIC, before any vCPU has run (a timer's interrupt is tied to the host's then) and
 * before anybody sets a line. gic_check() looks whether all of it can be read and is of such a GIC,
 * and changes nothing. 0; -EOPNOTSUPP: another version, other interrupts or vCPUs; what
 * state_reader_section_end() returns; -errno of KVM's. Logs.
 */
int gic_check(const struct gic *gic, const struct state_reader *r);
int gic_restore(const struct gic *gic, const struct state_reader *r);

#endif
