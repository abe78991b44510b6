/* SPDX-License-Identifier: MIT */
/*
 * Kernel loading on aarch64: Image, as it is or in gzip, by Linux
 * Documentation/arch/arm64/booting.rst.
 */
#ifndef ARCH_AARCH64_BOOT_H
#define ARCH_AARCH64_BOOT_H

#include <stddef.h>
#include <stdint.h>

struct memory;

#define BOOT_FDT_MAX (2ull << 20) /* booting.rst, 2 */

struct boot_files {
	const char *kernel;
	const char *initrd; /* NULL: none */
	uint64_t reserved;  /* bytes at RAM's end that are kept free */
};

/* Guest addresses of what was loaded, and of the room for the device tree. */
struct boot_placement {
	uint64_t pc;  /* where to enter, the kernel's first byte */
	uint64_t fdt; /* goes into x0 */
	uint64_t initrd;
	uint64_t initrd_size; /* 0: none */
};

/*
 * Puts kernel and initrd into guest RAM and finds room there for a device tree of up to @fdt_max
 * bytes, which the caller builds and writes. What the files say is checked: an error names the
 * file, the field and the bound, and where RAM is too small, how much would do. 0 or -errno;
 * nothing outside guest RAM is touched, no memory of the kernel's size is allocated.
 *
 * RAM must be fresh (zero): what the kernel wants beyond its file is not written. All is checked
 * before the first byte is loaded, so only errors of pread() (-EIO and others) and damage inside
 * gzip data leave RAM changed.
 *
 * -ENOEXEC: not a kernel that can be booted, or one that lies. -ENOSPC: it, the initrd or the
 * device tree does not fit into RAM. -EISDIR, -EINVAL: not a regular file. -ENODATA: an empty file.
 * -EIO: a file shrank while it was read. -EINVAL: @fdt_max is 0 or over BOOT_FDT_MAX.
 */
int boot_load(struct memory *mem, const struct boot_files *files, size_t fdt_max,
	      struct boot_placement *placement);

#endif
