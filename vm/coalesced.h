/* SPDX-License-Identifier: MIT */
/*
 * Writes that KVM keeps in a ring until somebody asks (api.rst, 4.116, "coalesced MMIO"): for
 * registers whose writing shows in nothing but what later accesses to the same device do, so that
 * those writes are no exits to user space. All that returns from KVM_RUN carries out what is in the
 * ring before it does its own work, and so the accesses of a vCPU keep their order.
 *
 * Not for a register that makes the device do something (an interrupt, a byte sent), nor for one
 * whose value another thread than a vCPU's goes by.
 */
#ifndef VM_COALESCED_H
#define VM_COALESCED_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct kvm_coalesced_mmio_ring;
struct vm;

struct coalesced {
	pthread_mutex_t lock; /* of whoever takes out of the ring; a device's is taken inside */
	/* One a VM, in every vCPU's kvm_run; NULL: there is none. */
	struct kvm_coalesced_mmio_ring *ring;
	uint32_t size; /* entries */
};

/* Looks for the ring, once the first vCPU is there. */
void coalesced_init(struct vm *vm);

/*
 * Writes that lie in [@addr, @addr + @size) of vm->pio or vm->mmio are kept from now on. Where KVM
 * can't, they are exits as ever.
 */
void coalesced_add(struct vm *vm, bool pio, uint64_t addr, uint32_t size);

/* Carries out what was kept. Any thread that holds no device's lock. */
void coalesced_drain(struct vm *vm);

#endif
