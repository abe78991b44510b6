/* SPDX-License-Identifier: MIT */
/*
 * A vCPU and its thread.
 *
 * A kick is a signal plus immediate_exit: the flag catches the moment before KVM_RUN, the signal a
 * vCPU inside it. EINTR from KVM_RUN is an outcome of its own: the exit_reason is then the last
 * one's and is not looked at.
 *
 * A paused vCPU waits in its thread, outside KVM_RUN, with nothing left to complete: what it was
 * told of its last exit (the value of a read, say) is in its registers, which can be saved.
 */
#ifndef VM_VCPU_H
#define VM_VCPU_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <linux/kvm.h>

struct vm;

struct vcpu {
	struct vm *vm;
	unsigned int id;
	int fd;
	struct kvm_run *run;
	size_t run_size;
	pthread_t thread;
	atomic_ulong exits; /* to user space, kicks too; only its thread counts */
	bool started; /* and not joined; under vm->lock */
};

/* KVM_CREATE_VCPU and the kvm_run mapping. 0 or -errno; logs. */
int vcpu_create(struct vcpu *vcpu, struct vm *vm, unsigned int id);
/* Undoes that. Its thread, if there was one, has been joined. */
void vcpu_destroy(struct vcpu *vcpu);

/*
 * Starts its thread, which runs the guest until vm->stop or its end, and waits while vm->pause.
 * 0 or -errno; logs.
 */
int vcpu_start(struct vcpu *vcpu);

/*
 * Makes the vCPU leave KVM_RUN, or not enter it. Any thread, never lost: vm->stop or vm->pause is
 * set before.
 */
void vcpu_kick(struct vcpu *vcpu);

/* Installs the handler of the kick signal; once a process. 0 or -errno; doesn't log. */
int vcpu_init_signals(void);

#endif
