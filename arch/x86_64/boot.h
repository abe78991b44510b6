/* SPDX-License-Identifier: MIT */
/*
 * Kernel loading on x86_64: bzImage by the 64-bit boot protocol (Linux
 * Documentation/arch/x86/boot.rst), ELF vmlinux by PVH (Documentation of the Xen x86/HVM direct
 * boot ABI, include/xen/interface/hvm/start_info.h) or else by its 64-bit entry.
 */
#ifndef ARCH_X86_64_BOOT_H
#define ARCH_X86_64_BOOT_H

#include <stdbool.h>
#include <stdint.h>

struct memory;

/*
 * The GDT at LAYOUT_GDT: selectors and descriptors, for whoever sets the segment registers to
 * match. 0x10 and 0x18 are what the 64-bit boot protocol asks for. The data segment serves both
 * modes.
 */
#define BOOT_SEL_CODE32	 0x08
#define BOOT_SEL_CODE64	 0x10
#define BOOT_SEL_DATA	 0x18
#define BOOT_GDT_ENTRIES 4
#define BOOT_GDT_LIMIT	 (BOOT_GDT_ENTRIES * 8 - 1)

#define BOOT_DESC_CODE32 0x00cf9b000000ffffull
#define BOOT_DESC_CODE64 0x00af9b000000ffffull
#define BOOT_DESC_DATA	 0x00cf93000000ffffull

/*
 * The task register: a busy TSS at 0 with limit 0x67, as PVH wants it (and long mode takes it). It
 * has no place in the GDT: only the hidden part is looked at, the kernel loads its own before it
 * switches anything.
 */
#define BOOT_SEL_TSS  0
#define BOOT_DESC_TSS 0x00008b0000000067ull

enum boot_mode {
	BOOT_LONG, /* 64-bit mode, paging on: rsi = zero page */
	BOOT_PVH,  /* 32-bit protected mode, paging off: ebx = hvm_start_info */
};

struct boot_entry {
	enum boot_mode mode;
	uint64_t rip;
	uint64_t info; /* guest address for rsi or ebx */
};

struct boot_files {
	const char *kernel;
	const char *initrd;  /* NULL: none */
	const char *cmdline; /* whole; NULL: empty */
	uint64_t rsdp;	     /* guest address of the RSDP, 0: none */
};

/*
 * Puts kernel, initrd, command line, zero page or start info, e820, page tables and GDT into guest
 * RAM and says where to enter. Every length, offset and overlap in the files is checked: an error
 * names the file, the field and the bound. 0 or -errno; nothing outside guest RAM is touched, no
 * memory of the kernel's size is allocated (files are read or mapped straight into the guest).
 *
 * RAM must be fresh (zero): what the kernel file asks to be zero is not written. All is checked
 * before the first byte is loaded, so only -EIO and errors of pread() leave RAM changed.
 *
 * -ENOEXEC: not a kernel that can be booted, or one that lies. -ENOSPC: it or the initrd does not
 * fit into RAM. -E2BIG: the command line is too long. -EISDIR, -EINVAL: not a regular file.
 * -ENODATA: an empty file. -EIO: a file shrank while it was read.
 */
int boot_load(struct memory *mem, const struct boot_files *files, struct boot_entry *entry);

#endif
