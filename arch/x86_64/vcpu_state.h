/* SPDX-License-Identifier: MIT */
/*
 * A vCPU's section of a snapshot. Source: Linux Documentation/virt/kvm/api.rst. docs/snapshot.md
 * draws it.
 *
 * It goes through a struct vcpu_state on its way, so that a snapshot has been read and checked
 * whole before the first vCPU is touched.
 */
#ifndef ARCH_X86_64_VCPU_STATE_H
#define ARCH_X86_64_VCPU_STATE_H

#include <stddef.h>
#include <stdint.h>
#include <linux/kvm.h>
#include "vm/state_file.h"

struct state_section;
struct state_writer;
struct vcpu;

#define VCPU_STATE	   STATE_TAG('V', 'C', 'P', 'U')
#define VCPU_STATE_VERSION 1

#define VCPU_STATE_MAX_CPUID 256 /* what KVM takes */
#define VCPU_STATE_MAX_MSRS  1024
#define VCPU_STATE_MIN_XSAVE 4096
#define VCPU_STATE_MAX_XSAVE 16384 /* AMX takes 11 KiB */

/* As struct kvm_cpuid2, with its entries. */
struct vcpu_state_cpuid {
	uint32_t nr;
	uint32_t padding;
	struct kvm_cpuid_entry2 entry[VCPU_STATE_MAX_CPUID];
};

struct vcpu_state {
	uint32_t tsc_khz;
	uint64_t tsc; /* when kvmclock was read; state.c's business, both ways */
	uint64_t tsc_deadline;
	struct vcpu_state_cpuid cpuid;
	struct kvm_mp_state mp_state;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_xcrs xcrs;
	struct kvm_debugregs debugregs;
	struct kvm_lapic_state lapic;
	struct kvm_vcpu_events events;
	size_t xsave_len;
	uint8_t xsave[VCPU_STATE_MAX_XSAVE];
	unsigned int nr_msrs;
	struct kvm_msr_entry msr[VCPU_STATE_MAX_MSRS];
};

/*
 * Everything but @tsc out of a vCPU that stands still. The VM's other vCPUs do too, and its
 * interrupt controllers have been read before: an interrupt that comes between the two is then seen
 * here. 0 or -errno; logs.
 */
int vcpu_state_get(const struct vcpu *vcpu, struct vcpu_state *s);

/* Payload of a section. */
void vcpu_state_write(const struct vcpu_state *s, struct state_writer *w);

/* The same back, to the section's end. 0 or -errno; logged. */
int vcpu_state_read(struct vcpu_state *s, struct state_section *section);

/*
 * Into a vCPU that arch_vcpu_init() has set up and that has not run; all but TSC and deadline.
 * -EOPNOTSUPP: this host's CPU or KVM lacks something that the guest has been given. 0 or -errno;
 * logs.
 */
int vcpu_state_set(const struct vcpu *vcpu, struct vcpu_state *s);

/* The TSC, by its MSR. 0 or -errno; logs. */
int vcpu_state_get_tsc(const struct vcpu *vcpu, uint64_t *tsc);
int vcpu_state_set_tsc(const struct vcpu *vcpu, uint64_t tsc);

/* The TSC deadline, once the TSC is right. One that is over fires at once. 0 or -errno; logs. */
int vcpu_state_set_deadline(const struct vcpu *vcpu, const struct vcpu_state *s);

#endif
