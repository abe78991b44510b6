/* SPDX-License-Identifier: MIT */
#include "arch/x86_64/vcpu.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "arch/arch.h"
#include "arch/x86_64/boot.h"
#include "arch/x86_64/layout.h"
#include "vm/log.h"
#include "vm/vcpu.h"
#include "vm/vm.h"

/*
 * Source of the numbers: Intel SDM volumes 2A (CPUID), 3A (control registers) and 4 (MSRs), AMD APM
 * volume 3.
 */
#define CPUID_ENTRIES 256

#define CR0_PE (1u << 0)
#define CR0_ET (1u << 4)
#define CR0_PG (1u << 31)
#define CR4_PAE (1u << 5)
#define EFER_LME (1u << 8)
#define EFER_LMA (1u << 10)

#define MSR_IA32_MISC_ENABLE	 0x1a0
#define MISC_ENABLE_FAST_STRING	 1
#define MSR_IA32_MTRR_DEF_TYPE	 0x2ff
#define MTRR_ENABLE_WRITE_BACK	 (1 << 11 | 6)

#define LAPIC_LVT_LINT0 0x350
#define LAPIC_LVT_LINT1 0x360
#define LVT_MODE_MASK	0x700
#define LVT_NMI		0x400
#define LVT_EXTINT	0x700

#define CPUID_KVM_BASE	0x40000000
#define CPUID_KVM_TIMING 0x40000010
#define APIC_BUS_KHZ	1000000 /* KVM's LAPIC timer counts nanoseconds */

static unsigned int bits_for(unsigned int n)
{
	return n > 1 ? 32 - (unsigned int)__builtin_clz(n - 1) : 0;
}

/* One package, nr cores, one thread a core; APIC id = vCPU index. */
static void set_topology(struct kvm_cpuid_entry2 *e, unsigned int id, unsigned int nr)
{
	unsigned int shift = bits_for(nr);

	switch (e->function) {
	case 0x1:
		e->ebx = (e->ebx & 0x0000ffff) | id << 24 | nr << 16;
		if (nr > 1)
			e->edx |= 1u << 28; /* HTT: the count in ebx is valid */
		else
			e->edx &= ~(1u << 28);
		break;
	case 0x4:
		if (!(e->eax & 0x1f))
			break;
		/*
		 * cores in the package; a cache of level 3 is shared by all, the others by one
		 * thread
		 */
		e->eax &= 0x00003fff;
		e->eax |= ((1u << shift) - 1) << 26;
		if ((e->eax >> 5 & 7) >= 3)
			e->eax |= ((1u << shift) - 1) << 14;
		break;
	case 0xb:
	case 0x1f:
		e->edx = id;
		e->ecx = e->index & 0xff;
		if (e->index == 0) { /* threads of a core */
			e->eax = 0;
			e->ebx = 1;
			e->ecx |= 1 << 8;
		} else if (e->index == 1) { /* cores of the package */
			e->eax = shift;
			e->ebx = nr;
			e->ecx |= 2 << 8;
		} else {
			e->eax = 0;
			e->ebx = 0;
		}
		break;
	case 0x80000001:
		if (nr > 1)
			e->ecx |= 1u << 1; /* AMD CmpLegacy: the package's threads are cores */
		else
			e->ecx &= ~(1u << 1);
		break;
	case 0x80000008:
		e->ecx = shift << 12 | (nr - 1);
		break;
	case 0x8000001d:
		if (!(e->eax & 0x1f))
			break;
		e->eax &= ~(0xfffu << 14);
		if ((e->eax >> 5 & 7) >= 3)
			e->eax |= (nr - 1) << 14;
		break;
	case 0x8000001e:
		e->eax = id;
		e->ebx = id & 0xff; /* core id; one thread a core */
		e->ecx = 0;	    /* node 0, one node */
		break;
	}
}

static struct kvm_cpuid_entry2 *find(struct kvm_cpuid2 *cpuid, uint32_t function)
{
	for (unsigned int i = 0; i < cpuid->nent; i++) {
		if (cpuid->entries[i].function == function)
			return &cpuid->entries[i];
	}
	return NULL;
}

/*
 * A leaf with subleaves that KVM left out or cut short is completed, so that the guest sees it end.
 */
static void add_subleaves(struct kvm_cpuid2 *cpuid, uint32_t function, unsigned int nr)
{
	bool have[4] = { false };

	if (!find(cpuid, function))
		return;
	for (unsigned int i = 0; i < cpuid->nent; i++) {
		if (cpuid->entries[i].function == function && cpuid->entries[i].index < 4)
			have[cpuid->entries[i].index] = true;
	}
	for (unsigned int i = 0; i < nr; i++) {
		if (have[i] || cpuid->nent == CPUID_ENTRIES)
			continue;
		cpuid->entries[cpuid->nent++] = (struct kvm_cpuid_entry2){
			.function = function, .index = i, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX
		};
	}
}

static int set_cpuid(struct vcpu *vcpu)
{
	struct kvm *kvm = vcpu->vm->kvm;
	struct kvm_cpuid_entry2 *e;
	struct kvm_cpuid2 *cpuid;
	int khz, ret;

	cpuid = calloc(1, sizeof(*cpuid) + CPUID_ENTRIES * sizeof(*cpuid->entries));
	if (!cpuid) {
		log_err("vCPU %u: CPUID: ENOMEM", vcpu->id);
		return -ENOMEM;
	}
	/* Room for what is added below. */
	cpuid->nent = CPUID_ENTRIES - 8;
	ret = kvm_ioctl(kvm->fd, KVM_GET_SUPPORTED_CPUID, cpuid);
	if (ret < 0)
		goto out;

	add_subleaves(cpuid, 0xb, 3);
	add_subleaves(cpuid, 0x1f, 3);
	khz = kvm_ioctl_raw(vcpu->fd, KVM_GET_TSC_KHZ, NULL);
	e = find(cpuid, CPUID_KVM_BASE);
	if (khz > 0 && e && !find(cpuid, CPUID_KVM_TIMING)) {
		if (e->eax < CPUID_KVM_TIMING)
			e->eax = CPUID_KVM_TIMING;
		cpuid->entries[cpuid->nent++] = (struct kvm_cpuid_entry2){
			.function = CPUID_KVM_TIMING, .eax = (uint32_t)khz, .ebx = APIC_BUS_KHZ
		};
	}
	for (unsigned int i = 0; i < cpuid->nent; i++) {
		e = &cpuid->entries[i];
		if (e->function == 0x1) {
			e->ecx |= 1u << 31; /* a hypervisor is there */
			/* KVM_GET_SUPPORTED_CPUID leaves TSC_DEADLINE out, its capability tells. */
			if (kvm_has(kvm->fd, KVM_CAP_TSC_DEADLINE_TIMER))
				e->ecx |= 1u << 24;
		}
		/*
		 * VMX and SVM are offered where the host lets guests nest. A guest of an appliance
		 * has no use for them, and the host's kernel behind them is a large surface.
		 */
		if (e->function == 0x1)
			e->ecx &= ~(1u << 5);
		if (e->function == 0x80000001)
			e->ecx &= ~(1u << 2);
		if (e->function == 0x8000000a)
			e->eax = e->ebx = e->ecx = e->edx = 0;
		/* There is no virtual PMU that anybody has asked for: fewer MSRs, fewer exits. */
		if (e->function == 0xa)
			e->eax = e->ebx = e->ecx = e->edx = 0;
		set_topology(e, vcpu->id, vcpu->vm->nr_vcpus);
	}
	ret = kvm_ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid);
out:
	free(cpuid);
	return ret < 0 ? ret : 0;
}

static int set_msrs(struct vcpu *vcpu)
{
	static const struct kvm_msr_entry entries[] = {
		{ .index = MSR_IA32_MISC_ENABLE, .data = MISC_ENABLE_FAST_STRING },
		/* Without it Linux takes all memory for uncached, and says so. */
		{ .index = MSR_IA32_MTRR_DEF_TYPE, .data = MTRR_ENABLE_WRITE_BACK },
	};
	unsigned int nr = sizeof(entries) / sizeof(*entries);
	struct kvm_msrs *msrs = calloc(1, sizeof(*msrs) + sizeof(entries));
	int ret;

	if (!msrs) {
		log_err("vCPU %u: MSRs: ENOMEM", vcpu->id);
		return -ENOMEM;
	}
	msrs->nmsrs = nr;
	memcpy(msrs->entries, entries, sizeof(entries));
	ret = kvm_ioctl(vcpu->fd, KVM_SET_MSRS, msrs);
	free(msrs);
	if (ret < 0)
		return ret;
	if (ret != (int)nr) {
		log_err("vCPU %u: KVM_SET_MSRS: MSR %#x was refused", vcpu->id, entries[ret].index);
		return -EINVAL;
	}
	return 0;
}

static void lapic_lvt(struct kvm_lapic_state *lapic, unsigned int reg, uint32_t mode)
{
	uint32_t value;

	memcpy(&value, lapic->regs + reg, sizeof(value));
	value = (value & ~LVT_MODE_MASK) | mode;
	memcpy(lapic->regs + reg, &value, sizeof(value));
}

static int set_lapic(struct vcpu *vcpu)
{
	struct kvm_lapic_state lapic;
	int ret = kvm_ioctl(vcpu->fd, KVM_GET_LAPIC, &lapic);

	if (ret < 0)
		return ret;
	/* The lines as firmware leaves them: the boot CPU's LINT0 takes the PIC, LINT1 the NMI. */
	if (!vcpu->id)
		lapic_lvt(&lapic, LAPIC_LVT_LINT0, LVT_EXTINT);
	lapic_lvt(&lapic, LAPIC_LVT_LINT1, LVT_NMI);
	ret = kvm_ioctl(vcpu->fd, KVM_SET_LAPIC, &lapic);
	return ret < 0 ? ret : 0;
}

int arch_vcpu_init(struct vcpu *vcpu)
{
	struct kvm_fpu fpu = { .fcw = 0x37f, .mxcsr = 0x1f80 };
	int ret;

	/* CPUID first: KVM refuses long mode and MSRs that the vCPU's CPUID does not know. */
	ret = set_cpuid(vcpu);
	if (ret)
		return ret;
	ret = set_msrs(vcpu);
	if (ret)
		return ret;
	ret = kvm_ioctl(vcpu->fd, KVM_SET_FPU, &fpu);
	if (ret < 0)
		return ret;
	return set_lapic(vcpu);
}

static struct kvm_segment flat_segment(uint16_t selector, uint8_t type, bool long_mode)
{
	return (struct kvm_segment){
		.selector = selector,
		.limit = 0xffffffff,
		.type = type,
		.present = 1,
		.s = 1,
		.l = long_mode,
		.db = !long_mode,
		.g = 1,
	};
}

#define SEGMENT_CODE 0xb /* execute, read, accessed */
#define SEGMENT_DATA 0x3 /* read, write, accessed */
#define SEGMENT_TSS  0xb /* 32- or 64-bit TSS, busy */

int vcpu_set_entry(struct vcpu *vcpu, const struct boot_entry *entry)
{
	bool long_mode = entry->mode == BOOT_LONG;
	struct kvm_regs regs = { .rflags = 2, .rip = entry->rip, .rsp = LAYOUT_BOOT_STACK };
	struct kvm_sregs sregs = { 0 };
	struct kvm_segment data;
	int ret;

	ret = kvm_ioctl(vcpu->fd, KVM_GET_SREGS, &sregs);
	if (ret < 0)
		return ret;
	sregs.cs = flat_segment(long_mode ? BOOT_SEL_CODE64 : BOOT_SEL_CODE32, SEGMENT_CODE, long_mode);
	data = flat_segment(BOOT_SEL_DATA, SEGMENT_DATA, false);
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.tr = (struct kvm_segment){ .limit = 0x67, .type = SEGMENT_TSS, .present = 1 };
	sregs.gdt.base = LAYOUT_GDT;
	sregs.gdt.limit = BOOT_GDT_LIMIT;
	sregs.idt.base = LAYOUT_IDT;
	sregs.idt.limit = 0;
	sregs.cr0 = CR0_PE | CR0_ET;
	sregs.cr4 = 0;
	if (long_mode) {
		sregs.cr0 |= CR0_PG;
		sregs.cr3 = LAYOUT_PML4;
		sregs.cr4 |= CR4_PAE;
		sregs.efer |= EFER_LME | EFER_LMA;
		regs.rsi = entry->info;
	} else {
		regs.rbx = entry->info;
		regs.rsp = 0;
	}
	ret = kvm_ioctl(vcpu->fd, KVM_SET_SREGS, &sregs);
	if (ret < 0)
		return ret;
	ret = kvm_ioctl(vcpu->fd, KVM_SET_REGS, &regs);
	return ret < 0 ? ret : 0;
}

/* A string instruction arrives as one exit of count elements. */
static void handle_io(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	unsigned int size = run->io.size;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	bool write = run->io.direction == KVM_EXIT_IO_OUT;

	for (uint32_t i = 0; i < run->io.count; i++, data += size) {
		if (!write)
			memset(data, 0, size);
		if (bus_access(&vcpu->vm->pio, run->io.port, data, size, write))
			continue;
		if (!write)
			memset(data, 0xff, size);
	}
}

static int triple_fault(struct vcpu *vcpu)
{
	/* On AMD KVM has reset the vCPU by now; on Intel this tells where it was. */
	log_err("vCPU %u: triple fault", vcpu->id);
	arch_vcpu_dump(vcpu);
	vm_end(vcpu->vm, VM_END_CRASH, "triple fault");
	return -ECANCELED;
}

int arch_vcpu_exit(struct vcpu *vcpu)
{
	switch (vcpu->run->exit_reason) {
	case KVM_EXIT_IO:
		handle_io(vcpu);
		return 1;
	case KVM_EXIT_SHUTDOWN:
		return triple_fault(vcpu);
	default:
		return 0;
	}
}

void arch_vcpu_dump(struct vcpu *vcpu)
{
	struct kvm_regs regs = { 0 };
	struct kvm_sregs sregs = { 0 };

	if (kvm_ioctl(vcpu->fd, KVM_GET_REGS, &regs) < 0 ||
	    kvm_ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) < 0)
		return;
	log_err("vCPU %u: rip %#llx rsp %#llx rflags %#llx cr0 %#llx cr3 %#llx cr4 %#llx efer %#llx "
		"cs %#x", vcpu->id, regs.rip, regs.rsp, regs.rflags, sregs.cr0, sregs.cr3, sregs.cr4,
		sregs.efer, sregs.cs.selector);
}

const char *arch_kvm_explain(int err)
{
	switch (err) {
	case ENOENT:
		return "load the kvm module and the CPU's own (kvm_intel, kvm_amd), or build the kernel "
		       "with CONFIG_KVM";
	case ENODEV:
	case ENXIO:
		return "the CPU offers no virtualization: check the firmware's set-up (VT-x, SVM), or "
		       "nested virtualization of the machine around this one";
	default:
		return NULL;
	}
}

int arch_check(const struct kvm *kvm)
{
	int khz = kvm_has(kvm->fd, KVM_CAP_GET_TSC_KHZ);
	unsigned int max = arch_max_vcpus(kvm);

	printf("ok       x86_64: up to %u vCPUs%s\n", max < kvm->max_vcpus ? max : kvm->max_vcpus,
	       khz ? "" : "; KVM does not tell the TSC's frequency");
	return 0;
}
