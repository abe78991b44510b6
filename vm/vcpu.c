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
#include "vm/log.h"
#include "vm/vm.h"

/* A vCPU thread calls no deeper than a device's register switch. */
#define VCPU_STACK (64 * 1024)

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

static void *vcpu_thread(void *opaque)
{
	struct vcpu *vcpu = opaque;
	struct vm *vm = vcpu->vm;
	bool go_on = true;

	while (go_on && !atomic_load(&vm->stop)) {
		int ret = kvm_ioctl_raw(vcpu->fd, KVM_RUN, NULL);

		if (ret >= 0) {
			go_on = handle_exit(vcpu);
		} else if (ret == -EINTR || ret == -EAGAIN) {
			/*
			 * Kicked. exit_reason is the last exit's and must not be looked at. The
			 * flag goes down before vm->stop is read again; the kicker sets them in the
			 * other order, so a kick that comes now is seen here or by the next
			 * KVM_RUN.
			 */
			__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
		} else {
			/* ENOSYS: on Arm, and only where KVM can't tell us to answer it. */
			log_err("vCPU %u: KVM_RUN: %s%s", vcpu->id, errno_name(ret),
				ret == -ENOSYS ? ": an access to where no memory is, by an instruction that "
						 "KVM can't describe" : "");
			arch_vcpu_dump(vcpu);
			vm_end(vm, VM_END_CRASH, "KVM_RUN failed");
			go_on = false;
		}
	}
	return NULL;
}

int vcpu_start(struct vcpu *vcpu)
{
	sigset_t all, old;
	pthread_attr_t attr;
	char name[16];
	int ret;

	/*
	 * The thread inherits the mask: all signals are the event loop's but the kick and the
	 * faults.
	 */
	sigfillset(&all);
	sigdelset(&all, KICK_SIGNAL);
	sigdelset(&all, SIGSEGV);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGILL);
	sigdelset(&all, SIGFPE);
	sigdelset(&all, SIGABRT);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, VCPU_STACK);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&vcpu->thread, &attr, vcpu_thread, vcpu);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (ret) {
		log_err("vCPU %u: pthread_create: %s", vcpu->id, errno_name(ret));
		return -ret;
	}
	vcpu->started = true;
	snprintf(name, sizeof(name), "vcpu-%u", vcpu->id);
	pthread_setname_np(vcpu->thread, name);
	return 0;
}

void vcpu_kick(struct vcpu *vcpu)
{
	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	pthread_kill(vcpu->thread, KICK_SIGNAL);
}
