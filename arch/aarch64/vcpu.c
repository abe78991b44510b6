/* SPDX-License-Identifier: MIT */
#include "arch/aarch64/vcpu.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <unistd.h>
#include "arch/aarch64/gic.h"
#include "arch/aarch64/layout.h"
#include "arch/arch.h"
#include "vm/log.h"
#include "vm/vcpu.h"
#include "vm/vm.h"

/* Source of the numbers: Arm Architecture Reference Manual (DDI 0487), Linux api.rst 4.68. */
#define CORE_REG(field)                                                                            \
	(KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG(field))

#define MPIDR_EL1 ARM64_SYS_REG(3, 0, 0, 0, 5)
#define ESR_EL1	  ARM64_SYS_REG(3, 0, 5, 2, 0)
#define FAR_EL1	  ARM64_SYS_REG(3, 0, 6, 0, 0)

/* EL1 with its own stack pointer, debug exceptions, SError, IRQ and FIQ masked. */
#define PSTATE_ENTRY (PSR_D_BIT | PSR_A_BIT | PSR_I_BIT | PSR_F_BIT | PSR_MODE_EL1h)

static int get_reg(struct vcpu *vcpu, uint64_t id, uint64_t *value)
{
	struct kvm_one_reg reg = { .id = id, .addr = (uint64_t)(uintptr_t)value };

	return kvm_ioctl_quiet(vcpu->fd, KVM_GET_ONE_REG, &reg);
}

static int set_reg(struct vcpu *vcpu, uint64_t id, uint64_t value)
{
	struct kvm_one_reg reg = { .id = id, .addr = (uint64_t)(uintptr_t)&value };
	int ret = kvm_ioctl_quiet(vcpu->fd, KVM_SET_ONE_REG, &reg);

	if (ret < 0)
		log_err("vCPU %u: KVM_SET_ONE_REG %#" PRIx64 ": %s", vcpu->id, id, errno_name(ret));
	return ret < 0 ? ret : 0;
}

static bool has_pointer_auth(int fd)
{
	/* KVM gives both keys or none. */
	return kvm_has(fd, KVM_CAP_ARM_PTRAUTH_ADDRESS) && kvm_has(fd, KVM_CAP_ARM_PTRAUTH_GENERIC);
}

int arch_vcpu_init(struct vcpu *vcpu)
{
	int kvm_fd = vcpu->vm->kvm->fd;
	struct kvm_vcpu_init init = { 0 };
	int sve = KVM_ARM_VCPU_SVE;
	bool has_sve = kvm_has(kvm_fd, KVM_CAP_ARM_SVE);
	int ret;

	ret = kvm_ioctl(vcpu->vm->fd, KVM_ARM_PREFERRED_TARGET, &init);
	if (ret < 0)
		return ret;
	init.features[0] |= 1u << KVM_ARM_VCPU_PSCI_0_2;
	/* The boot vCPU starts the others by PSCI CPU_ON. */
	if (vcpu->id)
		init.features[0] |= 1u << KVM_ARM_VCPU_POWER_OFF;
	if (has_sve)
		init.features[0] |= 1u << KVM_ARM_VCPU_SVE;
	if (has_pointer_auth(kvm_fd))
		init.features[0] |= 1u << KVM_ARM_VCPU_PTRAUTH_ADDRESS |
				    1u << KVM_ARM_VCPU_PTRAUTH_GENERIC;
	ret = kvm_ioctl(vcpu->fd, KVM_ARM_VCPU_INIT, &init);
	if (ret < 0)
		return ret;
	/* With the vector lengths that KVM offers, all of them: they are fixed from here on. */
	if (has_sve)
		ret = kvm_ioctl(vcpu->fd, KVM_ARM_VCPU_FINALIZE, &sve);
	return ret < 0 ? ret : 0;
}

int vcpu_mpidr(struct vcpu *vcpu, uint64_t *mpidr)
{
	uint64_t value;
	int ret = get_reg(vcpu, MPIDR_EL1, &value);

	if (ret < 0) {
		log_err("vCPU %u: KVM_GET_ONE_REG of MPIDR_EL1: %s", vcpu->id, errno_name(ret));
		return ret;
	}
	*mpidr = value & VCPU_MPIDR_AFFINITY;
	return 0;
}

int vcpu_get_counter(struct vcpu *vcpu, uint64_t *counter)
{
	int ret = get_reg(vcpu, KVM_REG_ARM_TIMER_CNT, counter);

	if (ret < 0)
		log_err("vCPU %u: KVM_GET_ONE_REG of the virtual counter: %s", vcpu->id, errno_name(ret));
	return ret < 0 ? ret : 0;
}

int vcpu_set_counter(struct vcpu *vcpu, uint64_t counter)
{
	return set_reg(vcpu, KVM_REG_ARM_TIMER_CNT, counter);
}

int vcpu_set_entry(struct vcpu *vcpu, uint64_t pc, uint64_t fdt)
{
	/* Documentation/arch/arm64/booting.rst, "Call the kernel image". */
	const struct {
		uint64_t id, value;
	} regs[] = {
		{ CORE_REG(regs.regs[0]), fdt },
		{ CORE_REG(regs.regs[1]), 0 },
		{ CORE_REG(regs.regs[2]), 0 },
		{ CORE_REG(regs.regs[3]), 0 },
		{ CORE_REG(regs.pstate), PSTATE_ENTRY },
		{ CORE_REG(regs.pc), pc },
	};

	for (unsigned int i = 0; i < sizeof(regs) / sizeof(*regs); i++) {
		int ret = set_reg(vcpu, regs[i].id, regs[i].value);

		if (ret)
			return ret;
	}
	return 0;
}

/*
 * PSCI's SYSTEM_OFF and SYSTEM_RESET as KVM tells of them, and what else it may say. The thread
 * that comes here does not enter the guest again: PSCI has no way back from either call.
 */
static int system_event(struct vcpu *vcpu)
{
	const struct kvm_run *run = vcpu->run;
	uint32_t nr = run->system_event.ndata;

	switch (run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		vm_end(vcpu->vm, VM_END_POWEROFF, "guest powered off (PSCI)");
		return -ECANCELED;
	case KVM_SYSTEM_EVENT_RESET:
		vm_end(vcpu->vm, VM_END_RESET, "guest reset (PSCI)");
		return -ECANCELED;
	case KVM_SYSTEM_EVENT_CRASH:
		log_err("vCPU %u: KVM tells of a crash", vcpu->id);
		break;
	default:
		log_err("vCPU %u: KVM system event %u, which is not known here", vcpu->id,
			run->system_event.type);
		break;
	}
	/* What the words mean is the event's own business. There is room for 16. */
	for (uint32_t i = 0; i < nr && i < sizeof(run->system_event.data) / 8; i++)
		log_err("vCPU %u: word %u of the event: %#llx", vcpu->id, i,
			(unsigned long long)run->system_event.data[i]);
	arch_vcpu_dump(vcpu);
	vm_end(vcpu->vm, VM_END_CRASH, "KVM tells of a crash");
	return -ECANCELED;
}

/*
 * An access to where no memory is (a read-only page, for a store) by an instruction of which the
 * CPU tells no syndrome: a pair, a post-index, a vector. There is nothing to emulate it by;
 * hardware would answer with an external abort.
 */
static int no_syndrome(struct vcpu *vcpu)
{
	struct kvm_vcpu_events events = { .exception.ext_dabt_pending = 1 };
	const struct kvm_run *run = vcpu->run;
	int ret;

	log_limited(LOG_DEBUG, "vCPU %u: external abort at %#llx, ISS %#llx", vcpu->id,
		    (unsigned long long)run->arm_nisv.fault_ipa,
		    (unsigned long long)run->arm_nisv.esr_iss);
	/* What is 0 in there stays as it is. */
	ret = kvm_ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &events);
	if (ret < 0)
		arch_vcpu_dump(vcpu);
	return ret < 0 ? ret : 1;
}

int arch_vcpu_exit(struct vcpu *vcpu)
{
	switch (vcpu->run->exit_reason) {
	case KVM_EXIT_SYSTEM_EVENT:
		return system_event(vcpu);
	case KVM_EXIT_ARM_NISV:
		return no_syndrome(vcpu);
	default:
		return 0;
	}
}

void arch_vcpu_dump(struct vcpu *vcpu)
{
	uint64_t pc = 0, sp0 = 0, sp1 = 0, lr = 0, pstate = 0, elr = 0, esr = 0, far = 0;

	if (get_reg(vcpu, CORE_REG(regs.pc), &pc) < 0)
		return;
	get_reg(vcpu, CORE_REG(regs.regs[30]), &lr);
	get_reg(vcpu, CORE_REG(regs.sp), &sp0);
	get_reg(vcpu, CORE_REG(sp_el1), &sp1);
	get_reg(vcpu, CORE_REG(regs.pstate), &pstate);
	get_reg(vcpu, CORE_REG(elr_el1), &elr);
	get_reg(vcpu, ESR_EL1, &esr);
	get_reg(vcpu, FAR_EL1, &far);
	log_err("vCPU %u: pc %#" PRIx64 " lr %#" PRIx64 " sp %#" PRIx64 " sp_el0 %#" PRIx64
		" pstate %#" PRIx64 " elr %#" PRIx64 " esr %#" PRIx64 " far %#" PRIx64, vcpu->id, pc,
		lr, sp1, sp0, pstate, elr, esr, far);
}

/*
 * What a kernel says of its KVM as it boots (kvm/arm.c, arch_timer.c), and what it means, in turn.
 * Of the log's first line it is known that the log is all there, and KVM is not in it.
 */
#define NOT_AT_EL2                                                                                 \
	"the kernel was not started at EL2, the CPU's hypervisor level: the CPU has none, or the " \
	"firmware or boot loader left it before it started the kernel\0"
static const char kernel_words[] =
	"HYP mode not available\0" NOT_AT_EL2
	"CPU: All CPU(s) started at EL1\0" NOT_AT_EL2
	"CPU: CPUs started in inconsistent modes\0"
	"the firmware started some CPUs at EL2 and some at EL1: it must start all at EL2\0"
	"KVM disabled from command line\0"
	"the kernel's command line turns KVM off (kvm-arm.mode=none)\0"
	"kvm_arch_timer: invalid\0"
	"the host's device tree lacks interrupts of the generic timer: the node arm,armv8-timer "
	"needs all four\0"
	"mode initialized successfully\0"
	"the kernel has KVM, but there is no node for it: /dev must be a devtmpfs\0"
	"kvm [1]:\0"
	"KVM failed when the kernel booted: see its log, the lines with \"kvm [1]\"\0"
	"Booting Linux on physical CPU\0"
	"the kernel has no KVM: build it with CONFIG_KVM\0";

const char *arch_kvm_explain(int err)
{
	const char *why = "KVM is part of the kernel: build it with CONFIG_KVM, have it started at EL2, and "
			  "give it a device tree with the timer's four interrupts; the kernel's log (dmesg) "
			  "tells which, in lines with \"kvm [1]\"";
	const char *means;
	int size, len;
	char *log;

	if (err != ENOENT && err != ENODEV && err != ENXIO)
		return NULL;
	size = klogctl(10 /* SYSLOG_ACTION_SIZE_BUFFER */, NULL, 0);
	if (size <= 0)
		return why;
	log = malloc((size_t)size + 1);
	if (!log)
		return why;
	len = klogctl(3 /* SYSLOG_ACTION_READ_ALL */, log, size);
	if (len > 0) {
		log[len] = '\0';
		for (const char *said = kernel_words; *said; said = means + strlen(means) + 1) {
			means = said + strlen(said) + 1;
			if (strstr(log, said)) {
				why = means;
				break;
			}
		}
	}
	free(log);
	return why;
}

static unsigned int at_most(unsigned int n, unsigned int max)
{
	return n < max ? n : max;
}

int arch_check(const struct kvm *kvm)
{
	int bits = kvm_has(kvm->fd, KVM_CAP_ARM_VM_IPA_SIZE);
	bool v2, v3;
	unsigned long type;
	int fd;

	if (arch_vm_type(kvm, LAYOUT_MIN_RAM, &type))
		return 1;
	fd = kvm_ioctl_raw(kvm->fd, KVM_CREATE_VM, (void *)type);
	if (fd < 0) {
		printf("MISSING  KVM_CREATE_VM: %s: KVM is there but makes no guests\n", errno_name(fd));
		return 1;
	}
	v2 = gic_possible(fd, 2);
	v3 = gic_possible(fd, 3);
	close(fd);
	if (v3)
		printf("ok       GICv3, up to %u vCPUs\n", at_most(LAYOUT_MAX_VCPUS_V3, kvm->max_vcpus));
	if (v2)
		printf("ok       GICv2, up to %u vCPUs\n", at_most(LAYOUT_MAX_VCPUS_V2, kvm->max_vcpus));
	/* Said already where KVM_CAP_IRQCHIP is missing, which is the usual reason. */
	if (!v2 && !v3 && kvm_has(kvm->fd, KVM_CAP_IRQCHIP))
		printf("MISSING  GIC: KVM makes neither a GICv3 nor a GICv2\n");
	printf("ok       aarch64: addresses of %d bits, host pages of %d KiB, SVE %s, pointer "
	       "authentication %s\n", bits ? bits : 40, getpagesize() / 1024,
	       kvm_has(kvm->fd, KVM_CAP_ARM_SVE) ? "yes" : "no",
	       has_pointer_auth(kvm->fd) ? "yes" : "no");
	return !v2 && !v3;
}
