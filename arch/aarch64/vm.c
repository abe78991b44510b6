/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>
#include "arch/aarch64/boot.h"
#include "arch/aarch64/dtb.h"
#include "arch/aarch64/gic.h"
#include "arch/aarch64/layout.h"
#include "arch/aarch64/platform.h"
#include "arch/aarch64/vcpu.h"
#include "arch/aarch64/vm.h"
#include "arch/aarch64/vmgenid.h"
#include "arch/arch.h"
#include "vm/boot_timer.h"
#include "vm/log.h"
#include "vm/serial.h"
#include "vm/vcpu.h"
#include "vm/vm.h"

static const struct kvm_cap caps[] = {
	KVM_CAP_ROW(IRQCHIP, true, "the guest's GIC: the host's device tree must give its own GIC's "
				   "virtualization registers and maintenance interrupt"),
	KVM_CAP_ROW(DEVICE_CTRL, true, "the guest's GIC"),
	KVM_CAP_ROW(ONE_REG, true, "the vCPUs' registers"),
	KVM_CAP_ROW(ARM_PSCI_0_2, true, "power-off, reset and secondary CPUs"),
	KVM_CAP_ROW(ARM_VM_IPA_SIZE, false, "guests with more RAM than 40 bits of address reach"),
	KVM_CAP_ROW(ARM_NISV_TO_USER, false, "an external abort for a wild store, not the guest's end"),
	KVM_CAP_ROW(ARM_INJECT_EXT_DABT, false, "an external abort for a wild store, not the guest's end"),
	KVM_CAP_ROW(ARM_SVE, false, "SVE in guests"),
	KVM_CAP_ROW(ARM_PTRAUTH_ADDRESS, false, "pointer authentication in guests"),
	KVM_CAP_ROW(ARM_PTRAUTH_GENERIC, false, "pointer authentication in guests"),
	{ 0 },
};

const struct kvm_cap *const arch_kvm_caps = caps;

/*
 * The serial port is the console, there is one of it, its transmitter's interrupt works, and a
 * panic restarts.
 */
const char arch_cmdline[] = "console=ttyS0 8250.nr_uarts=1 8250.skip_txen_test=1 panic=1";

#define IPA_BITS_DEFAULT 40 /* type 0, and all that a KVM without the capability has */
#define IPA_BITS_MIN	 32

int arch_vm_type(const struct kvm *kvm, uint64_t ram_size, unsigned long *type)
{
	int limit = kvm_has(kvm->fd, KVM_CAP_ARM_VM_IPA_SIZE);
	int bits = IPA_BITS_MIN;

	if (!limit)
		limit = IPA_BITS_DEFAULT;
	if (ram_size > LAYOUT_MAX_RAM)
		ram_size = LAYOUT_MAX_RAM; /* too much in any case: told where RAM is added */
	while ((LAYOUT_RAM_BASE + ram_size - 1) >> bits)
		bits++;
	if (bits > limit) {
		log_err("memory: %" PRIu64 " MiB; this host's guests have addresses of %d bits, and RAM "
			"begins at 1 GiB: at most %llu MiB", ram_size >> 20, limit,
			((1ull << limit) - LAYOUT_RAM_BASE) >> 20);
		return -EINVAL;
	}
	/* 40 bits as ever, more where RAM needs it, less where the host has less. */
	if (bits < IPA_BITS_DEFAULT)
		bits = limit < IPA_BITS_DEFAULT ? limit : IPA_BITS_DEFAULT;
	*type = bits == IPA_BITS_DEFAULT ? 0 : KVM_VM_TYPE_ARM_IPA_SIZE((unsigned long)bits);
	return 0;
}

/*
 * A load or store without a syndrome to where no memory is: told to user space, which answers with
 * an external abort (vcpu.c). A KVM that can't do both fails KVM_RUN with ENOSYS.
 */
static int enable_nisv(struct vm *vm)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_ARM_NISV_TO_USER };
	int ret;

	if (!kvm_has(vm->fd, KVM_CAP_ARM_NISV_TO_USER) || !kvm_has(vm->fd, KVM_CAP_ARM_INJECT_EXT_DABT))
		return 0;
	ret = kvm_ioctl(vm->fd, KVM_ENABLE_CAP, &cap);
	return ret < 0 ? ret : 0;
}

int arch_vm_init(struct vm *vm)
{
	int ret;

	vm->arch = calloc(1, sizeof(*vm->arch));
	if (!vm->arch) {
		log_err("machine: ENOMEM");
		return -ENOMEM;
	}
	vm->arch->gic_fd = -1;
	ret = enable_nisv(vm);
	if (ret)
		return ret;
	/* Chosen before there are vCPUs, whose number it bounds; made after them. */
	ret = gic_choose(vm->fd, vm->config.gic, vm->config.nr_vcpus);
	if (ret < 0)
		return ret;
	vm->arch->gic = (unsigned int)ret;
	vm->config.gic = vm->arch->gic; /* a snapshot tells it */
	return 0;
}

int arch_vm_finish(struct vm *vm)
{
	int ret = 0;

	for (unsigned int i = 0; i < vm->nr_vcpus && !ret; i++)
		ret = vcpu_mpidr(&vm->vcpus[i], &vm->arch->mpidr[i]);
	if (ret)
		return ret;
	ret = gic_create(vm->fd, vm->arch->gic);
	if (ret < 0)
		return ret;
	vm->arch->gic_fd = ret;
	return 0;
}

void arch_vm_fini(struct vm *vm)
{
	if (!vm->arch)
		return;
	platform_destroy(vm->arch->platform);
	serial_destroy(vm->arch->serial);
	if (vm->arch->gic_fd >= 0)
		close(vm->arch->gic_fd);
	free(vm->arch);
	vm->arch = NULL;
}

static void serial_irq(void *opaque, bool level)
{
	struct vm *vm = opaque;

	irq_set_level(&vm->irqs, LAYOUT_UART_SPI, level);
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
	coalesced_add(vm, false, LAYOUT_UART_BASE + SERIAL_QUIET, SERIAL_NR_QUIET);
	return bus_add(&vm->mmio, LAYOUT_UART_BASE, SERIAL_REGS, serial_access, vm->arch->serial, "UART");
}

/*
 * The guest's virtual counter is the host's less an offset that all vCPUs share; writing the
 * counter of one moves the offset (api.rst, 4.68; KVM_REG_ARM_TIMER_CNT). So time stood still, and
 * what the guest's timers wait for is as far away as it was. The physical counter goes on, unless
 * KVM_ARM_SET_COUNTER_OFFSET were used: but then KVM takes no write of the counter any more, a
 * restored one's neither, and a guest's physical counter would jump back at the first use.
 */
int arch_vm_pause(struct vm *vm)
{
	int ret = vcpu_get_counter(&vm->vcpus[0], &vm->arch->counter);

	if (ret)
		return ret;
	platform_pause(vm->arch->platform);
	serial_pause(vm->arch->serial);
	return 0;
}

int arch_vm_resume(struct vm *vm)
{
	int ret = vcpu_set_counter(&vm->vcpus[0], vm->arch->counter);

	if (ret)
		return ret;
	platform_resume(vm->arch->platform);
	serial_resume(vm->arch->serial);
	return 0;
}

void arch_power_button(struct vm *vm)
{
	platform_power_button(vm->arch->platform);
}

/* A guest without these starts with less entropy; that is no reason not to start it. */
static void seed(struct dtb_config *config, uint8_t *buf, size_t len)
{
	if (getrandom(buf, len, GRND_NONBLOCK) == (ssize_t)len) {
		config->rng_seed = buf;
		config->rng_seed_len = len;
	}
	if (getrandom(&config->kaslr_seed, sizeof(config->kaslr_seed), GRND_NONBLOCK) !=
	    sizeof(config->kaslr_seed))
		config->kaslr_seed = 0;
}

/* The device tree, straight into the guest's RAM at @gpa. */
static int put_fdt(struct vm *vm, const struct arch_boot *boot, const struct boot_placement *place)
{
	uint8_t rng_seed[DTB_SEED_MAX];
	struct dtb_config config = {
		.gic = vm->arch->gic,
		.nr_cpus = vm->nr_vcpus,
		.mpidr = vm->arch->mpidr,
		.ram_base = vm->mem.region[0].gpa,
		.ram_size = vm->mem.region[0].size,
		.nr_virtio = boot->nr_virtio,
		.bootargs = boot->cmdline,
		.initrd = place->initrd,
		.initrd_size = place->initrd_size,
	};
	uint8_t *buf = memory_ptr(&vm->mem, place->fdt, DTB_MAX);
	size_t len;

	if (!buf) {
		log_err("device tree: EFAULT");
		return -EFAULT;
	}
	seed(&config, rng_seed, sizeof(rng_seed));
	return dtb_build(buf, DTB_MAX, &config, &len);
}

int arch_boot(struct vm *vm, const struct arch_boot *boot)
{
	struct boot_files files = {
		.kernel = boot->kernel,
		.initrd = boot->initrd,
		.reserved = LAYOUT_VMGENID_ROOM,
	};
	struct boot_placement place;
	int ret;

	ret = boot_load(&vm->mem, &files, DTB_MAX, &place);
	if (!ret)
		ret = put_fdt(vm, boot, &place);
	if (!ret)
		ret = vmgenid_renew(vm);
	if (ret)
		return ret;
	return vcpu_set_entry(&vm->vcpus[0], place.pc, place.fdt);
}
