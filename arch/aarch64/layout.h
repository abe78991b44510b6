/* SPDX-License-Identifier: MIT */
/*
 * The aarch64 machine's map: every guest address and interrupt is named here and nowhere else.
 *
 *	0x0800_0000  +---------------------------+
 *	             | GIC distributor, 64 KiB   |
 *	0x0801_0000  | GICv2 CPU interface       |  64 KiB kept for it
 *	0x080a_0000  | GICv3 redistributors      |  123 x 128 KiB
 *	0x0900_0000  +---------------------------+
 *	             | UART (16550)              |
 *	0x0901_0000  | clock (PL031)             |
 *	0x0903_0000  | GPIO (PL061): power button|
 *	0x0904_0000  | pvpanic                   |
 *	0x0905_0000  | boot timer                |
 *	0x0a00_0000  +---------------------------+
 *	             | virtio-mmio, 32 x 64 KiB  |
 *	0x0a20_0000  +---------------------------+
 *	0x4000_0000  | RAM: kernel, initrd, FDT  |
 *	end - 64 KiB |      generation ID        |
 *	end of RAM   +---------------------------+  1 GiB + size, at most 4 TiB of it
 *
 * Each device has 64 KiB to itself, as a host's pages may be that large.
 *
 * The generation ID (VMGenID) is 16 bytes at the start of RAM's last 64 KiB, of which the device
 * tree says that it is no memory: a kernel maps it as a device's registers, and reads them by loads
 * of 16 bytes, which only memory answers. It is RAM all the same, so it is in a snapshot and needs
 * no slot of KVM's.
 */
#ifndef ARCH_AARCH64_LAYOUT_H
#define ARCH_AARCH64_LAYOUT_H

#define LAYOUT_GICD_BASE    0x08000000ull
#define LAYOUT_GICD_SIZE    0x10000ull
#define LAYOUT_GICC_BASE    0x08010000ull /* GICv2 */
#define LAYOUT_GICC_SIZE    0x2000ull
#define LAYOUT_GICC_ROOM    0x10000ull /* kept for it */
#define LAYOUT_GICR_BASE    0x080a0000ull /* GICv3: 128 KiB a vCPU, up to the UART */
#define LAYOUT_GICR_STRIDE  0x20000ull

#define LAYOUT_MAX_VCPUS_V2 8 /* the distributor has a bit a CPU in one byte of target lists */
#define LAYOUT_MAX_VCPUS_V3 ((LAYOUT_UART_BASE - LAYOUT_GICR_BASE) / LAYOUT_GICR_STRIDE)

#define LAYOUT_UART_BASE    0x09000000ull
#define LAYOUT_UART_SIZE    0x1000ull
#define LAYOUT_RTC_BASE	    0x09010000ull
#define LAYOUT_RTC_SIZE	    0x1000ull
#define LAYOUT_GPIO_BASE    0x09030000ull
#define LAYOUT_GPIO_SIZE    0x1000ull
#define LAYOUT_PVPANIC_BASE 0x09040000ull
#define LAYOUT_PVPANIC_SIZE 0x2ull
#define LAYOUT_BOOT_TIMER   0x09050000ull

#define LAYOUT_VIRTIO_BASE  0x0a000000ull
#define LAYOUT_VIRTIO_STRIDE 0x10000ull
#define LAYOUT_VIRTIO_SIZE  0x1000ull

#define LAYOUT_RAM_BASE	    0x40000000ull
#define LAYOUT_MIN_RAM	    (16ull << 20)
#define LAYOUT_MAX_RAM	    (4ull << 40)

#define LAYOUT_VMGENID_ROOM 0x10000ull /* at RAM's end, not told as memory */
#define LAYOUT_VMGENID_SIZE 16

/*
 * Interrupts. A GSI is what KVM_IRQFD takes and what the FDT says: the number of an SPI. The GIC's
 * own number of it (INTID), which KVM_IRQ_LINE takes, is LAYOUT_SPI_BASE higher; a PPI's is
 * LAYOUT_PPI_BASE higher.
 */
#define LAYOUT_PPI_BASE	    16
#define LAYOUT_SPI_BASE	    32
#define LAYOUT_UART_SPI	    1
#define LAYOUT_RTC_SPI	    2
#define LAYOUT_GPIO_SPI	    3
#define LAYOUT_VMGENID_SPI  4 /* an edge */
#define LAYOUT_VIRTIO_SPI   16 /* and up, one a device */
#define LAYOUT_NR_INTIDS    96 /* of all kinds, a multiple of 32 (KVM_DEV_ARM_VGIC_GRP_NR_IRQS) */

/*
 * The generic timer's PPIs, KVM's own numbers. There is no secure world and no EL2 in a guest, but
 * the binding wants all four.
 */
#define LAYOUT_TIMER_SECURE_PPI	  13
#define LAYOUT_TIMER_PHYSICAL_PPI 14
#define LAYOUT_TIMER_VIRTUAL_PPI  11
#define LAYOUT_TIMER_HYP_PPI	  10

#endif
