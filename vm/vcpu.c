/* SPDX-License-Identifier: MIT */
#include "vm/vcpu.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "arch/arch.h"
#include "vm/boot_timer.h"
#include "vm/log.h"
#include "vm/thread.h"
#include "vm/vm.h"

#define KICK_SIGNAL SIGRTMIN

static void on_kick(int sig)
{
	/* Being delivered is all: KVM_RUN returns EINTR. */
}

int vcpu_init_signals(void)
{
	struct sigaction sa = { .sa_handler = on_kick };

	sigemptyset(&sa.sa_mask);
	return sigaction(KICK_SIGNAL, &sa, NULL) < 0 ? -errno : 0;
}

int vcpu_create(struct vcpu *vcpu, struct vm *vm, unsigned int id)
{
	int ret;

	vcpu->vm = vm;
	vcpu->id = id;
	vcpu->run_size = vm->kvm->vcpu_mmap_size;
	vcpu->fd = kvm_ioctl_val(vm->fd, KVM_CREATE_VCPU, id);
	if (vcpu->fd < 0)
		return vcpu->fd;
	vcpu->run = mmap(NULL, vcpu->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED) {
		ret = -errno;
		log_err("vCPU %u: mmap of kvm_run: %s", id, errno_name(ret));
		close(vcpu->fd);
		return ret;
	}
	return 0;
}

void vcpu_destroy(struct vcpu *vcpu)
{
	munmap(vcpu->run, vcpu->run_size);
	close(vcpu->fd);
}

static void handle_mmio(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	uint64_t addr = run->mmio.phys_addr;
	unsigned int len = run->mmio.len;
	bool write = run->mmio.is_write;

	if (len > sizeof(run->mmio.data))
		len = sizeof(run->mmio.data);
	if (!write)
		memset(run->mmio.data, 0, sizeof(run->mmio.data));
	if (bus_access(&vcpu->vm->mmio, addr, run->mmio.data, len, write))
		return;
	if (!write)
		memset(run->mmio.data, 0xff, len);
	log_limited(LOG_DEBUG, "vCPU %u: %s of %u bytes at %#" PRIx64 ", where nothing is", vcpu->id,
		    write ? "write" : "read", len, addr);
}

/* True while the vCPU may go on. */
static bool handle_exit(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	struct vm *vm = vcpu->vm;
	int ret;

	if (run->exit_reason == KVM_EXIT_MMIO) {
		handle_mmio(vcpu);
		return true;
	}
	ret = arch_vcpu_exit(vcpu);
	if (ret > 0)
		return true;
	if (ret < 0) {
		vm_end(vm, VM_END_CRASH, "a vCPU could not go on");
		return false;
	}

	switch (run->exit_reason) {
	case KVM_EXIT_INTR:
		return true;
	case KVM_EXIT_FAIL_ENTRY:
		log_err("vCPU %u: the CPU refuses to enter the guest, hardware reason %#llx", vcpu->id,
			(unsigned long long)run->fail_entry.hardware_entry_failure_reason);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		log_err("vCPU %u: KVM internal error, suberror %u%s", vcpu->id, run->internal.suberror,
			run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION ?
				": an instruction that KVM can't emulate" : "");
		break;
	default:
		log_err("vCPU %u: KVM exit %u, which is not known here", vcpu->id, run->exit_reason);
		break;
	}
	arch_vcpu_dump(vcpu);
	vm_end(vm, VM_END_CRASH, "KVM internal error");
	return false;
}

static void set_immediate_exit(struct vcpu *vcpu, uint8_t on)
{
	__atomic_store_n(&vcpu->run->immediate_exit, on, __ATOMIC_SEQ_CST);
}

/* Once into the guest and back. 1: an exit was handled; 0: kicked; -1: not again. */
static int run_once(struct vcpu *vcpu)
{
	unsigned long exits = atomic_load_explicit(&vcpu->exits, memory_order_relaxed);
	int ret;

	if (!exits && !vcpu->id)
		boot_timer_entered(vcpu->vm);
	ret = kvm_ioctl_raw(vcpu->fd, KVM_RUN, NULL);
	/* One thread writes it, so this need not be an atomic addition. */
	atomic_store_explicit(&vcpu->exits, exits + 1, memory_order_relaxed);
	coalesced_drain(vcpu->vm);
	if (ret >= 0)
		return handle_exit(vcpu) ? 1 : -1;
	/* exit_reason is the last exit's and must not be looked at. */
	if (ret == -EINTR || ret == -EAGAIN)
		return 0;
	/* ENOSYS: on Arm, and only where KVM can't tell us to answer it. */
	log_err("vCPU %u: KVM_RUN: %s%s", vcpu->id, errno_name(ret),
		ret == -ENOSYS ? ": an access to where no memory is, by an instruction that "
				 "KVM can't describe" : "");
	arch_vcpu_dump(vcpu);
	vm_end(vcpu->vm, VM_END_CRASH, "KVM_RUN failed");
	return -1;
}

/*
 * KVM takes the answer to an exit when it is entered again (api.rst, 5: "the kvm_run structure",
 * KVM_EXIT_IO), before it looks at immediate_exit, after which the guest runs no further
 * instruction. A wide access comes in pieces, each an exit of its own, hence the loop; one
 * instruction has few of them. False when the vCPU is not to run again.
 */
static bool complete_exit(struct vcpu *vcpu)
{
	int ret;

	do {
		set_immediate_exit(vcpu, 1);
		ret = run_once(vcpu);
	} while (ret > 0 && !atomic_load(&vcpu->vm->stop));
	set_immediate_exit(vcpu, 0);
	return ret >= 0;
}

/* Until vm->pause is over, or vm->stop. */
static void wait_paused(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	vm->nr_paused++;
	pthread_cond_broadcast(&vm->changed);
	while (atomic_load(&vm->pause) && !atomic_load(&vm->stop))
		pthread_cond_wait(&vm->changed, &vm->lock);
	vm->nr_paused--;
	pthread_mutex_unlock(&vm->lock);
}

static void *vcpu_thread(void *opaque)
{
	struct vcpu *vcpu = opaque;
	struct vm *vm = vcpu->vm;
	bool answered = false; /* an exit whose answer KVM has not taken yet */
	bool go_on = true;
	sigset_t kick;

	/* A kick that came before waits until here. */
	sigemptyset(&kick);
	sigaddset(&kick, KICK_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
	while (go_on && !atomic_load(&vm->stop)) {
		if (atomic_load(&vm->pause)) {
			if (answered)
				go_on = complete_exit(vcpu);
			answered = false;
			if (go_on)
				wait_paused(vm);
			continue;
		}

		int ret = run_once(vcpu);

		answered = ret > 0;
		go_on = ret >= 0;
		/*
		 * Kicked. The flag goes down before vm->stop and vm->pause are read again; the
		 * kicker sets them in the other order, so a kick that comes now is seen here or by
		 * the next KVM_RUN.
		 */
		if (!ret)
			set_immediate_exit(vcpu, 0);
	}
	pthread_mutex_lock(&vm->lock);
	vm->nr_live--;
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
	return NULL;
}

int vcpu_start(struct vcpu *vcpu)
{
	char name[16];
	int ret;

	snprintf(name, sizeof(name), "vcpu-%u", vcpu->id);
	/* Counted before it runs: a pause waits for this one too. */
	pthread_mutex_lock(&vcpu->vm->lock);
	vcpu->vm->nr_live++;
	pthread_mutex_unlock(&vcpu->vm->lock);
	ret = thread_start(&vcpu->thread, name, vcpu_thread, vcpu);
	if (ret) {
		pthread_mutex_lock(&vcpu->vm->lock);
		vcpu->vm->nr_live--;
		pthread_mutex_unlock(&vcpu->vm->lock);
		log_err("vCPU %u: pthread_create: %s", vcpu->id, errno_name(ret));
		return ret;
	}
	pthread_mutex_lock(&vcpu->vm->lock);
	vcpu->started = true;
	pthread_mutex_unlock(&vcpu->vm->lock);
	return 0;
}

void vcpu_kick(struct vcpu *vcpu)
{
	set_immediate_exit(vcpu, 1);
	pthread_kill(vcpu->thread, KICK_SIGNAL);
}
