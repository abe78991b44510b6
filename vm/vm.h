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

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "vm/bus.h"
#include "vm/coalesced.h"
#include "vm/irq.h"
#include "vm/kvm.h"
#include "vm/log.h"
#include "vm/memory.h"

struct event_loop;
struct vcpu;
struct arch_vm;
struct region_spec;

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
	bool trap_registers; /* virtio's registers are no memory slots: reads of them exit */
	uint64_t boot_since; /* the boot timer's start (vm/boot_timer.h); 0: there is none */
};

struct vm {
	struct kvm *kvm;
	struct vm_config config;
	int fd;
	struct memory mem;
	struct bus pio; /* empty where the architecture has no ports */
	struct bus mmio;
	struct coalesced coalesced;
	struct irqs irqs;
	struct event_loop *loop;
	unsigned int nr_vcpus;
	struct vcpu *vcpus; /* nr_vcpus of them */
	struct arch_vm *arch;
	atomic_int end;	 /* enum vm_end */
	const char *_Atomic end_why; /* from the first vm_end(), static text; may still be NULL */
	atomic_bool stop;	 /* vCPU threads leave at the next chance */
	atomic_bool pause;	 /* vCPU threads wait at the next chance */
	atomic_bool booted;	 /* the boot timer has been told */

	/* A leaf: nothing is called with it held. */
	pthread_mutex_t lock;
	pthread_cond_t changed;	/* of what is below, and of pause and stop */
	unsigned int nr_live;	/* vCPU threads that have not returned */
	unsigned int nr_paused; /* those that wait for the pause to end */
	bool paused;		/* from vm_pause()'s success to vm_resume()'s */
};

/*
 * Creates the VM, its interrupt controller, RAM and vCPUs, none running. @kvm and @loop stay the
 * caller's, @config is copied. 0 or -errno; logs; undoes itself.
 */
int vm_create(struct vm *vm, struct kvm *kvm, struct event_loop *loop,
	      const struct vm_config *config);

/* Starts one thread a vCPU. 0 or -errno; on failure those that started are stopped again. */
int vm_start(struct vm *vm);

/*
 * Kicks every vCPU out of the guest, also out of a pause, and joins its thread. For good: there is
 * no start after it.
 */
void vm_stop(struct vm *vm);

/*
 * Returns when every vCPU has left the guest, with nothing left to complete: their registers are
 * the guest's state, and whoever calls may use their ioctls. Time stands still as far as the
 * architecture can make it. Devices go on: they have a pause of their own, which comes after this
 * one. Before vm_start(): the vCPUs will start paused, and the registers are those that the guest
 * goes on with.
 *
 * 0; -EALREADY: paused, or being paused by another thread; -ESHUTDOWN: stopped, or the guest has
 * ended, and nothing is paused; else the architecture's, which logs, and the guest goes on.
 * Any thread but a vCPU's, with no lock that a device takes held. Not while vm_start() runs, and
 * before vm_destroy(); vm_stop() on another thread ends it.
 */
int vm_pause(struct vm *vm);

/*
 * Lets the vCPUs go on. 0; -EINVAL: not paused; -ESHUTDOWN: stopped; else the architecture's, and
 * the guest stays paused. Devices have been resumed before.
 */
int vm_resume(struct vm *vm);

/* True while no vCPU can be in the guest: not started yet, paused, or stopped. Any thread. */
bool vm_is_still(struct vm *vm);

/*
 * region_add(), region_remove(), dirty_enable(), dirty_disable() and dirty_collect() (vm/region.h,
 * vm/dirty.h). Of a machine whose vCPUs are in the guest they are refused (-EBUSY), and so is
 * memory where the map has something else (-EEXIST). That devices are quiet is the caller's to see
 * to. @why gets the reason as a sentence, and the log too.
 */
int vm_memory_add(struct vm *vm, const struct region_spec *spec, uint32_t *slot,
		  char why[LOG_SENTENCE]);
int vm_memory_remove(struct vm *vm, uint32_t slot, char why[LOG_SENTENCE]);
int vm_dirty_enable(struct vm *vm, char why[LOG_SENTENCE]);
int vm_dirty_disable(struct vm *vm, char why[LOG_SENTENCE]);
int vm_dirty_collect(struct vm *vm, char why[LOG_SENTENCE]);

/* vm_stop() if need be, then frees all. Devices must be detached before. */
void vm_destroy(struct vm *vm);

/*
 * The guest's life is over: notes the reason (first one wins) and stops the event loop, whose owner
 * tears down. Any thread, never blocks. @why: static text for the log.
 */
void vm_end(struct vm *vm, enum vm_end end, const char *why);

const char *vm_end_name(enum vm_end end);

#endif
