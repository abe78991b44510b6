/* SPDX-License-Identifier: MIT */
/* What vm.c needs of vcpu.c beyond arch/arch.h. */
#ifndef ARCH_X86_64_VCPU_H
#define ARCH_X86_64_VCPU_H

struct boot_entry;
struct vcpu;

/* Registers of the boot vCPU, as the kernel's entry wants them. 0 or -errno; logs. */
int vcpu_set_entry(struct vcpu *vcpu, const struct boot_entry *entry);

#endif
