/* SPDX-License-Identifier: MIT */
/* What vm.c needs of vcpu.c beyond arch/arch.h. */
#ifndef ARCH_AARCH64_VCPU_H
#define ARCH_AARCH64_VCPU_H

#include <stdint.h>

struct vcpu;

/* The affinity in MPIDR_EL1: Aff3, and Aff2 to Aff0. The rest says other things. */
#define VCPU_MPIDR_AFFINITY 0xff00ffffffull

/*
 * Registers of the boot vCPU, as the kernel's entry wants them: @pc, and in x0 @fdt, a guest
 * address. 0 or -errno; logs.
 */
int vcpu_set_entry(struct vcpu *vcpu, uint64_t pc, uint64_t fdt);

/*
 * The vCPU's affinity, as KVM made it and the FDT's reg and PSCI have it. 0 or -errno; logs.
 * Source: Arm ARM, MPIDR_EL1.
 */
int vcpu_mpidr(struct vcpu *vcpu, uint64_t *mpidr);

/* The virtual counter, the same one for all vCPUs; none is in the guest. 0 or -errno; logs. */
int vcpu_get_counter(struct vcpu *vcpu, uint64_t *counter);
int vcpu_set_counter(struct vcpu *vcpu, uint64_t counter);

#endif
