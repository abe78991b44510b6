/* SPDX-License-Identifier: MIT */
/* The machine's map as functions. Links without KVM, so that tables and tests can ask it. */
#include "arch/aarch64/layout.h"
#include "arch/arch.h"

#define PAGE_MAX 0x10000u /* the largest page a host has: RAM ends at one on every host */

const char arch_name[] = "aarch64";
const char arch_kernel_formats[] = "Image, plain or gzip";
const bool arch_has_gic = true;

const uint64_t arch_min_ram = LAYOUT_MIN_RAM;
const uint64_t arch_max_ram = LAYOUT_MAX_RAM;

unsigned int arch_ram_layout(uint64_t size, struct arch_ram ram[ARCH_MAX_RAM])
{
	if (size < LAYOUT_MIN_RAM || size > LAYOUT_MAX_RAM || size % PAGE_MAX)
		return 0;
	ram[0] = (struct arch_ram){.gpa = LAYOUT_RAM_BASE, .size = size};
	return 1;
}

unsigned int arch_max_vcpus(const struct kvm *kvm)
{
	(void)kvm; /* a GICv2 takes fewer: arch_vm_init() tells, which knows the GIC */
	return LAYOUT_MAX_VCPUS_V3;
}

_Static_assert(LAYOUT_SPI_BASE + LAYOUT_VIRTIO_SPI + ARCH_MAX_VIRTIO <= LAYOUT_NR_INTIDS,
	       "the GIC has a number for each virtio device");

void arch_virtio_slot(unsigned int i, struct arch_slot *slot)
{
	slot->base = LAYOUT_VIRTIO_BASE + i * LAYOUT_VIRTIO_STRIDE;
	slot->size = LAYOUT_VIRTIO_SIZE;
	slot->gsi = LAYOUT_VIRTIO_SPI + i;
}

const struct arch_window arch_windows[] = {
	{ LAYOUT_GICD_BASE, LAYOUT_GICD_SIZE, "the GIC distributor's" },
	{ LAYOUT_GICC_BASE, LAYOUT_GICC_ROOM, "the GIC CPU interface's" },
	{ LAYOUT_GICR_BASE, LAYOUT_UART_BASE - LAYOUT_GICR_BASE, "the GIC redistributors'" },
	{ LAYOUT_UART_BASE, LAYOUT_UART_SIZE, "the serial port's" },
	{ LAYOUT_RTC_BASE, LAYOUT_RTC_SIZE, "the clock's" },
	{ LAYOUT_GPIO_BASE, LAYOUT_GPIO_SIZE, "the GPIO's" },
	{ LAYOUT_PVPANIC_BASE, LAYOUT_PVPANIC_SIZE, "the panic device's" },
	{ LAYOUT_BOOT_TIMER, PAGE_MAX, "the boot timer's" },
	{ LAYOUT_VIRTIO_BASE, ARCH_MAX_VIRTIO * LAYOUT_VIRTIO_STRIDE, "the virtio devices'" },
	{ 0 },
};

/*
 * KVM_IRQ_LINE wants the kind of interrupt and its INTID where KVM_IRQFD wants the SPI's own number
 * (api.rst, 4.25). KVM_ARM_IRQ_TYPE_SPI and its shift are in Arm's asm/kvm.h only, which a test on
 * another machine lacks.
 */
#define IRQ_TYPE_SPI   1u
#define IRQ_TYPE_SHIFT 24

#ifdef KVM_ARM_IRQ_TYPE_SPI
_Static_assert(IRQ_TYPE_SPI == KVM_ARM_IRQ_TYPE_SPI && IRQ_TYPE_SHIFT == KVM_ARM_IRQ_TYPE_SHIFT,
	       "KVM's numbers");
#endif

uint32_t arch_irq_number(uint32_t gsi)
{
	if (gsi >= LAYOUT_NR_INTIDS - LAYOUT_SPI_BASE)
		return ARCH_NO_IRQ;
	return IRQ_TYPE_SPI << IRQ_TYPE_SHIFT | (gsi + LAYOUT_SPI_BASE);
}
