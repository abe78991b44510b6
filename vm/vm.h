/* SPDX-License-Identifier: MIT */
/*
 * The virtual machine: one VM file descriptor and what hangs on it.
 *
 * A struct vm lives from one reset of the guest to the next: reset destroys it and builds a new one
 * by the same function (cmd/machine.c). What belongs to the host (consoles, disks, the vhost fd)
 * outlives it.
 */
#ifndef VM_VM_H
#define VM_VM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "vm/bus.h"
#include "vm/irq.h"
#include "vm/kvm.h"
#include "vm/memory.h"

struct event_loop;
struct vcpu;
struct arch_vm;

/* How a guest's life ended. The first reason given wins. */
enum vm_end {
	VM_END_NONE = 0,
	VM_END_POWEROFF, /* the guest powered itself off */
	VM_END_RESET,	 /* the guest asked for a reset */
	VM_END_CRASH,	 /* panic told by pvpanic, KVM internal error; x86_64: triple fault */
	VM_END_STOP,	 /* ended from outside: Ctrl-A x, the stop ladder's last step */
	VM_END_FAILED,	 /* vinit itself failed */
};

/* What a machine is to be like. */
struct vm_config {
	unsigned int nr_vcpus;
	uint64_t ram_size; /* bytes, laid around the architecture's holes */
	enum memory_backing backing;
	unsigned int gic; /* version of the interrupt controller; 0: the host's best */
};

struct vm {
	struct kvm *kvm;
	struct vm_config config;
	int fd;
	struct memory mem;
	struct bus pio; /* empty where the architecture has no ports */
	struct bus mmio;
	struct irqs irqs;
	struct event_loop *loop;
	unsigned int nr_vcpus;
	struct vcpu *vcpus; /* nr_vcpus of them */
	struct arch_vm *arch;
	atomic_int end;	 /* enum vm_end */
	const char *_Atomic end_why; /* from the first vm_end(), static text; may still be NULL */
	atomic_bool stop;	 /* vCPU threads leave at the next chance */
};

/*
 * Creates the VM, its interrupt controller, RAM and vCPUs, none running. @kvm and @loop stay the
 * caller's, @config is copied. 0 or -errno; logs; undoes itself.
 */
int vm_create(struct vm *vm, struct kvm *kvm, struct event_loop *loop,
	      const struct vm_config *config);

/* Starts one thread a vCPU. 0 or -errno; on failure those that started are stopped again. */
int vm_start(struct vm *vm);

/* Kicks every vCPU out of the guest and joins its thread. For good: there is no start after it. */
void vm_stop(struct vm *vm);

/* vm_stop() if need be, then frees all. Devices must be detached before. */
void vm_destroy(struct vm *vm);

/*
 * The guest's life is over: notes the reason (first one wins) and stops the event loop, whose owner
 * tears down. Any thread, never blocks. @why: static text for the log.
 */
void vm_end(struct vm *vm, enum vm_end end, const char *why);

const char *vm_end_name(enum vm_end end);

#endif
