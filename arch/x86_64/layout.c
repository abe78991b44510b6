/* SPDX-License-Identifier: MIT */
/* The machine's map as functions. Links without KVM, so that tables and tests can ask it. */
#include "arch/x86_64/layout.h"
#include "arch/arch.h"

#define PAGE 4096u

const char arch_name[] = "x86_64";

/* Caches are coherent, whatever a guest says of its pages. */
void (*const arch_cache_clean)(const void *p);
const char arch_kernel_formats[] = "bzImage or ELF vmlinux";
const bool arch_has_gic = false;

const uint64_t arch_min_ram = LAYOUT_MIN_RAM;
const uint64_t arch_max_ram = LAYOUT_MAX_RAM;

unsigned int arch_ram_layout(uint64_t size, struct arch_ram ram[ARCH_MAX_RAM])
{
	if (size < LAYOUT_MIN_RAM || size > LAYOUT_MAX_RAM || size % PAGE)
		return 0;
	ram[0] = (struct arch_ram){.gpa = 0, .size = size};
	if (size <= LAYOUT_HOLE_BASE)
		return 1;
	/*
	 * Both ends of the hole are multiples of 1 GiB, so the second part starts on a huge page
	 * and is as long in huge pages as the whole is.
	 */
	ram[0].size = LAYOUT_HOLE_BASE;
	ram[1] = (struct arch_ram){.gpa = LAYOUT_HOLE_END, .size = size - LAYOUT_HOLE_BASE};
	return 2;
}

unsigned int arch_max_vcpus(const struct kvm *kvm)
{
	(void)kvm; /* the map's limit is the APIC id's width, whatever KVM could do */
	return LAYOUT_MAX_VCPUS;
}

void arch_virtio_slot(unsigned int i, struct arch_slot *slot)
{
	static const uint8_t gsis[] = LAYOUT_VIRTIO_GSIS;

	/* Fewer lines than slots: from the fourteenth device on they are shared, in turn. */
	slot->base = LAYOUT_VIRTIO_BASE + i * LAYOUT_VIRTIO_SIZE;
	slot->size = LAYOUT_VIRTIO_SIZE;
	slot->gsi = gsis[i % (sizeof(gsis) / sizeof(gsis[0]))];
}

const struct arch_window arch_windows[] = {
	{ LAYOUT_VIRTIO_BASE, ARCH_MAX_VIRTIO * LAYOUT_VIRTIO_SIZE, "the virtio devices'" },
	{ LAYOUT_BOOT_TIMER, PAGE, "the boot timer's" },
	{ LAYOUT_IOAPIC, PAGE, "the IOAPIC's" },
	{ LAYOUT_LAPIC, PAGE, "the LAPIC's" },
	{ LAYOUT_IDENTITY_MAP, PAGE, "KVM's identity map's" },
	{ LAYOUT_TSS, 3 * PAGE, "KVM's TSS's" },
	{ 0 },
};

uint32_t arch_irq_number(uint32_t gsi)
{
	/* KVM_IRQ_LINE and KVM_IRQFD both count IOAPIC pins. */
	return gsi < LAYOUT_NR_GSIS ? gsi : ARCH_NO_IRQ;
}
