/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include "arch/arch.h"
#include "arch/x86_64/acpi.h"
#include "arch/x86_64/boot.h"
#include "arch/x86_64/layout.h"
#include "arch/x86_64/platform.h"
#include "arch/x86_64/vcpu.h"
#include "arch/x86_64/vm.h"
#include "vm/boot_timer.h"
#include "vm/log.h"
#include "vm/serial.h"
#include "vm/vcpu.h"
#include "vm/vm.h"

static const struct kvm_cap caps[] = {
	KVM_CAP_ROW(IRQCHIP, true, "interrupt controllers in the kernel"),
	KVM_CAP_ROW(SET_TSS_ADDR, true, "the TSS pages that Intel's real-mode emulation needs"),
	KVM_CAP_ROW(SET_IDENTITY_MAP_ADDR, true, "the identity map page that Intel's real-mode emulation needs"),
	KVM_CAP_ROW(PIT2, true, "the timer that a kernel without ACPI falls back to"),
	KVM_CAP_ROW(EXT_CPUID, true, "CPUID"),
	KVM_CAP_ROW(TSC_DEADLINE_TIMER, false, "the TSC deadline timer, cheaper than the LAPIC's own"),
	KVM_CAP_ROW(GET_TSC_KHZ, false, "the TSC's frequency in CPUID"),
	{ 0 },
};

const struct kvm_cap *const arch_kvm_caps = caps;

/*
 * The serial port is the console, there is one of it, its transmitter's interrupt works, a panic
 * restarts, and there is PCI's mechanism with no device behind it: no look at it, early or late.
 */
const char arch_cmdline[] =
	"console=ttyS0 8250.nr_uarts=1 8250.skip_txen_test=1 panic=1 pci=conf1,noearly";

/*
 * KVM's interrupt controllers start with every line open. A hardware-reduced kernel never touches
 * them, so a device's pulse would reach it as vector 0 and up, an exception: mask all lines, as
 * firmware does.
 */
static int mask_pic(struct vm *vm)
{
	static const uint32_t chips[] = { KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE };

	for (unsigned int i = 0; i < 2; i++) {
		struct kvm_irqchip chip = { .chip_id = chips[i] };
		int ret = kvm_ioctl(vm->fd, KVM_GET_IRQCHIP, &chip);

		if (ret < 0)
			return ret;
		chip.chip.pic.imr = 0xff;
		ret = kvm_ioctl(vm->fd, KVM_SET_IRQCHIP, &chip);
		if (ret < 0)
			return ret;
	}
	return 0;
}

int arch_vm_type(const struct kvm *kvm, uint64_t ram_size, unsigned long *type)
{
	*type = 0;
	return 0;
}

int arch_vm_init(struct vm *vm)
{
	uint64_t identity = LAYOUT_IDENTITY_MAP;
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
	int ret;

	vm->arch = calloc(1, sizeof(*vm->arch));
	if (!vm->arch) {
		log_err("machine: ENOMEM");
		return -ENOMEM;
	}
	/* In this order, and before the first vCPU: KVM says EINVAL or EEXIST otherwise. */
	ret = kvm_ioctl_val(vm->fd, KVM_SET_TSS_ADDR, LAYOUT_TSS);
	if (ret < 0)
		return ret;
	ret = kvm_ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
	if (ret < 0)
		return ret;
	ret = kvm_ioctl_val(vm->fd, KVM_CREATE_IRQCHIP, 0);
	if (ret < 0)
		return ret;
	ret = mask_pic(vm);
	if (ret)
		return ret;
	ret = kvm_ioctl(vm->fd, KVM_CREATE_PIT2, &pit);
	return ret < 0 ? ret : 0;
}

int arch_vm_finish(struct vm *vm)
{
	return 0;
}

void arch_vm_fini(struct vm *vm)
{
	if (!vm->arch)
		return;
	platform_destroy(vm->arch->platform);
	serial_destroy(vm->arch->serial);
	free(vm->arch);
	vm->arch = NULL;
}

static void serial_irq(void *opaque, bool level)
{
	struct vm *vm = opaque;

	irq_set_level(&vm->irqs, LAYOUT_COM1_GSI, level);
}

int arch_devices(struct vm *vm, struct console *console)
{
	int ret;

	ret = platform_create(&vm->arch->platform, vm);
	if (!ret)
		ret = boot_timer_create(vm, LAYOUT_BOOT_TIMER);
	if (ret)
		return ret;
	ret = serial_create(&vm->arch->serial, console, serial_irq, vm);
	if (ret)
		return ret;
	coalesced_add(vm, true, LAYOUT_COM1 + SERIAL_QUIET, SERIAL_NR_QUIET);
	coalesced_add(vm, true, LAYOUT_CMOS, 1); /* the index, of the read that follows */
	return bus_add(&vm->pio, LAYOUT_COM1, SERIAL_REGS, serial_access, vm->arch->serial, "COM1");
}

int arch_vm_pause(struct vm *vm)
{
	if (vm->arch->serial)
		serial_pause(vm->arch->serial);
	return 0;
}

/*
 * The TSC has gone on, and a guest that sees its clock jump takes that for a CPU that hung. With
 * kvmclock it can be told better (api.rst, 4.70): its watchdogs then look away once. EINVAL: that
 * vCPU has no kvmclock (yet).
 */
int arch_vm_resume(struct vm *vm)
{
	bool told = kvm_has(vm->kvm->fd, KVM_CAP_KVMCLOCK_CTRL);

	for (unsigned int i = 0; told && i < vm->nr_vcpus; i++) {
		int ret = kvm_ioctl_raw(vm->vcpus[i].fd, KVM_KVMCLOCK_CTRL, NULL);

		if (ret < 0 && ret != -EINVAL) {
			log_err("vCPU %u: KVM_KVMCLOCK_CTRL: %s", i, errno_name(ret));
			return ret;
		}
	}
	if (vm->arch->serial)
		serial_resume(vm->arch->serial);
	return 0;
}

void arch_power_button(struct vm *vm)
{
	platform_power_button(vm->arch->platform);
}

int arch_boot(struct vm *vm, const struct arch_boot *boot)
{
	struct boot_files files = {
		.kernel = boot->kernel,
		.initrd = boot->initrd,
		.cmdline = boot->cmdline,
	};
	struct boot_entry entry;
	int ret;

	ret = acpi_build(&vm->mem, vm->nr_vcpus, boot->nr_virtio, &files.rsdp);
	if (ret)
		return ret;
	ret = platform_new_generation(vm->arch->platform);
	if (ret)
		return ret;
	ret = boot_load(&vm->mem, &files, &entry);
	if (ret)
		return ret;
	return vcpu_set_entry(&vm->vcpus[0], &entry);
}
