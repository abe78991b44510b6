/* SPDX-License-Identifier: MIT */
#include "vm/coalesced.h"

#include <linux/kvm.h>
#include <string.h>
#include <unistd.h>
#include "vm/bus.h"
#include "vm/kvm.h"
#include "vm/vcpu.h"
#include "vm/vm.h"

void coalesced_init(struct vm *vm)
{
	struct coalesced *c = &vm->coalesced;
	/* The answer is the ring's page, counted from kvm_run's. */
	size_t page = (size_t)getpagesize(), at = (size_t)kvm_has(vm->kvm->fd, KVM_CAP_COALESCED_MMIO) * page;

	if (!at || at + page > vm->vcpus[0].run_size)
		return;
	c->ring = (void *)((uint8_t *)vm->vcpus[0].run + at);
	c->size = (uint32_t)((page - sizeof(*c->ring)) / sizeof(c->ring->coalesced_mmio[0]));
}

void coalesced_add(struct vm *vm, bool pio, uint64_t addr, uint32_t size)
{
	struct kvm_coalesced_mmio_zone zone = { .addr = addr, .size = size, .pio = pio };

	if (!vm->coalesced.ring || (pio && !kvm_has(vm->kvm->fd, KVM_CAP_COALESCED_PIO)))
		return;
	/* It costs exits if it fails, and no more. */
	kvm_ioctl_quiet(vm->fd, KVM_REGISTER_COALESCED_MMIO, &zone);
}

void coalesced_drain(struct vm *vm)
{
	struct coalesced *c = &vm->coalesced;
	uint32_t first, last;

	/*
	 * Empty, nearly always. KVM moves last when an entry is whole, and here first moves when it has
	 * been carried out: who finds them equal finds all done that its own vCPU wrote.
	 */
	if (!c->ring || __atomic_load_n(&c->ring->first, __ATOMIC_ACQUIRE) ==
				__atomic_load_n(&c->ring->last, __ATOMIC_ACQUIRE))
		return;
	pthread_mutex_lock(&c->lock);
	first = c->ring->first;
	/* Once: a vCPU that goes on writing holds nobody up. */
	last = __atomic_load_n(&c->ring->last, __ATOMIC_ACQUIRE);
	while (first < c->size && last < c->size && first != last) {
		struct kvm_coalesced_mmio *entry = &c->ring->coalesced_mmio[first];
		uint8_t data[sizeof(entry->data)];

		memcpy(data, entry->data, sizeof(data));
		if (entry->len <= sizeof(data))
			bus_access(entry->pio ? &vm->pio : &vm->mmio, entry->phys_addr, data, entry->len, true);
		first = (first + 1) % c->size;
		__atomic_store_n(&c->ring->first, first, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&c->lock);
}
