/* SPDX-License-Identifier: MIT */
/*
 * The x86_64 machine's map: every guest address, port and interrupt is named here and nowhere else.
 *
 *	0x0000_0000  +---------------------------+
 *	             | boot data below 640 KiB   |  see "Boot data" below
 *	0x0009_fc00  | (reserved: EBDA, BIOS)    |  RSDP in 0xe0000, ACPI tables and ID behind
 *	0x0010_0000  | RAM: kernel, initrd       |
 *	min(size,3G) +---------------------------+
 *	0xd000_0000  | virtio-mmio, 32 x 4 KiB   |
 *	0xd010_0000  | boot timer                |
 *	0xfec0_0000  | IOAPIC                    |
 *	0xfee0_0000  | LAPIC                     |
 *	0xfffb_c000  | identity map page         |
 *	0xfffb_d000  | TSS, 3 pages              |
 *	0x1_0000_0000+---------------------------+
 *	             | the rest of RAM           |
 *	             +---------------------------+
 */
#ifndef ARCH_X86_64_LAYOUT_H
#define ARCH_X86_64_LAYOUT_H

#define LAYOUT_HOLE_BASE    0xc0000000ull
#define LAYOUT_HOLE_END	    0x100000000ull
#define LAYOUT_MIN_RAM	    (16ull << 20)
#define LAYOUT_MAX_RAM	    (512ull << 30)
#define LAYOUT_MAX_VCPUS    254 /* 8-bit APIC ids; 255 is broadcast */

#define LAYOUT_VIRTIO_BASE  0xd0000000ull
#define LAYOUT_VIRTIO_SIZE  0x1000ull
#define LAYOUT_BOOT_TIMER   0xd0100000ull
#define LAYOUT_IOAPIC	    0xfec00000ull
#define LAYOUT_LAPIC	    0xfee00000ull
#define LAYOUT_IDENTITY_MAP 0xfffbc000ull
#define LAYOUT_TSS	    0xfffbd000ull

/* Boot data, all below 640 KiB or in the BIOS area. */
#define LAYOUT_GDT	    0x500
#define LAYOUT_IDT	    0x520
#define LAYOUT_ZERO_PAGE    0x7000
#define LAYOUT_BOOT_STACK   0x8ff0
#define LAYOUT_PML4	    0x9000 /* one page */
#define LAYOUT_PDPT	    0xa000 /* one page */
#define LAYOUT_PD	    0xb000 /* four pages: 4 GiB in 2 MiB steps */
#define LAYOUT_PVH_INFO	    0xf000 /* hvm_start_info, module list, memory map */
#define LAYOUT_CMDLINE	    0x20000
#define LAYOUT_CMDLINE_MAX  0x10000
#define LAYOUT_LOW_END	    0x9fc00
#define LAYOUT_RSDP	    0xe0000
#define LAYOUT_ACPI	    0xe0040 /* tables, up to LAYOUT_ACPI_END */
#define LAYOUT_ACPI_END	    0xff000
#define LAYOUT_VMGENID	    0xff000 /* generation ID, the VMM's to write: no RAM for the guest */
#define LAYOUT_VMGENID_SIZE 16
#define LAYOUT_BIOS_ENTRY   0xffff0 /* where a jump to the BIOS goes */
#define LAYOUT_HIGH_RAM	    0x100000

/* Ports. */
#define LAYOUT_COM1	    0x3f8
#define LAYOUT_CMOS	    0x70 /* 2 ports */
#define LAYOUT_I8042_DATA   0x60
#define LAYOUT_PORT_B	    0x61 /* speaker gate, KVM's PIT answers it */
#define LAYOUT_I8042_CMD    0x64
#define LAYOUT_POST	    0x80
#define LAYOUT_PVPANIC	    0x505
#define LAYOUT_GED	    0x600 /* 4 bytes: pending events, read and clear */
#define LAYOUT_SLEEP_CTL    0x604
#define LAYOUT_SLEEP_STS    0x605
#define LAYOUT_RESET	    0x606
#define LAYOUT_RESET_VALUE  1
#define LAYOUT_PCI_ADDRESS  0xcf8 /* 4 bytes; the data at 0xcfc is nobody's */
#define LAYOUT_SLEEP_TYPE   5 /* SLP_TYP of S5 */

#define LAYOUT_GED_POWER    1 /* bit: power button */
#define LAYOUT_GED_VMGENID  2 /* bit: generation changed */

/* Interrupts (GSIs): 0 to 4, 8 and 12 to 15 are the legacy devices', 9 is the GED's. */
#define LAYOUT_NR_GSIS	    24 /* pins of KVM's IOAPIC */
#define LAYOUT_COM1_GSI	    4
#define LAYOUT_GED_GSI	    9
#define LAYOUT_VIRTIO_GSIS  { 5, 6, 7, 10, 11, 16, 17, 18, 19, 20, 21, 22, 23 }

#endif
