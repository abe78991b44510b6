/* SPDX-License-Identifier: MIT */
/*
 * The machine's device tree, made from arch/aarch64/layout.h and a few facts. Needs neither KVM nor
 * guest RAM. Source: Devicetree Specification 0.4; Linux Documentation/devicetree/bindings.
 */
#ifndef ARCH_AARCH64_DTB_H
#define ARCH_AARCH64_DTB_H

#include <stddef.h>
#include <stdint.h>

/* Room for the largest tree: all CPUs, all devices, the longest command line. Bytes. */
#define DTB_MAX 0x8000

/* Linux keeps 2048 bytes of "bootargs", the NUL included, and drops the rest without a word. */
#define DTB_BOOTARGS_MAX 2047

#define DTB_SEED_MAX 64 /* bytes */

/* What the map doesn't say. Strings and arrays stay the caller's and are not kept. */
struct dtb_config {
	unsigned int gic; /* version, 2 or 3 */
	unsigned int nr_cpus;
	const uint64_t *mpidr; /* of each CPU, MPIDR_EL1 as KVM has it; CPU 0 boots */
	uint64_t ram_base, ram_size; /* bytes, LAYOUT_VMGENID_ROOM included */
	unsigned int nr_virtio; /* slots 0 to nr_virtio - 1 are in use */
	const char *bootargs; /* the command line, not NULL */
	uint64_t initrd, initrd_size; /* size 0: none */
	const void *rng_seed;
	size_t rng_seed_len; /* 0: none */
	uint64_t kaslr_seed; /* 0: none */
};

/*
 * Writes the tree into @buf of @size bytes, at most DTB_MAX of them, and stores how many in @len.
 * 0, -EINVAL (a count out of bounds), -E2BIG (the command line) or -ENOSPC; logs.
 */
int dtb_build(void *buf, size_t size, const struct dtb_config *config, size_t *len);

#endif
