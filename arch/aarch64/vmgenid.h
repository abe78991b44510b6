/* SPDX-License-Identifier: MIT */
/*
 * The generation ID: 16 random bytes at the end of RAM, others in each clone of a guest. A kernel
 * that sees them change seeds its random numbers anew (Linux 6.10 and up). Source: Virtual Machine
 * Generation ID (Microsoft); Linux bindings/rng/microsoft,vmgenid.yaml.
 */
#ifndef ARCH_AARCH64_VMGENID_H
#define ARCH_AARCH64_VMGENID_H

struct vm;

/* Writes a new one, and tells nobody. No vCPU runs. 0 or -errno; logs. */
int vmgenid_renew(struct vm *vm);

#endif
