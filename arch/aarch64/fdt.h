/* SPDX-License-Identifier: MIT */
/*
 * A bounded writer of flattened device trees. Source: Devicetree Specification 0.4, chapter 5.
 *
 * What doesn't fit is not written and sets @err to -ENOSPC; what is no tree (a property behind a
 * child, a node too many closed) or no name sets it to -EINVAL. The first error stays: whoever
 * builds a tree checks once, at fdt_finish(). Numbers go in as the CPU has them and lie in the tree
 * big-endian.
 */
#ifndef ARCH_AARCH64_FDT_H
#define ARCH_AARCH64_FDT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Names of properties: each once, so this is for a whole machine. */
#define FDT_STRINGS_MAX 1024

/* Characters of a node's name, its unit address included, and of a property's. */
#define FDT_NAME_MAX 31

struct fdt {
	uint8_t *buf; /* the caller's */
	size_t size;
	size_t len;
	unsigned int depth; /* open nodes */
	bool child_seen;    /* in the node that is open: no more properties */
	bool root_seen;
	int err;
	size_t strings_len;
	char strings[FDT_STRINGS_MAX];
};

/* Begins a tree in @buf, of @size bytes and any alignment. */
void fdt_init(struct fdt *f, void *buf, size_t size);

/* Opens a node; the root is "" and the first. Closed by fdt_end_node(), the innermost first. */
void fdt_begin_node(struct fdt *f, const char *name);
/* The same with a unit address: "name@address" in hexadecimal. */
void fdt_begin_node_at(struct fdt *f, const char *name, uint64_t address);
void fdt_end_node(struct fdt *f);

/* A property of the node that is open: any bytes (section 2.2.4). */
void fdt_prop(struct fdt *f, const char *name, const void *value, size_t len);
/* <empty>: true by being there. */
void fdt_prop_empty(struct fdt *f, const char *name);
/* <u32>, <u64> (two cells) */
void fdt_prop_u32(struct fdt *f, const char *name, uint32_t value);
void fdt_prop_u64(struct fdt *f, const char *name, uint64_t value);
/* <prop-encoded-array> of @nr cells, 32 bits each */
void fdt_prop_cells(struct fdt *f, const char *name, const uint32_t *cells, unsigned int nr);
/* <prop-encoded-array> of @nr numbers of two cells each: reg, where both kinds of cells are 2 */
void fdt_prop_u64s(struct fdt *f, const char *name, const uint64_t *values, unsigned int nr);
/* <string> */
void fdt_prop_string(struct fdt *f, const char *name, const char *value);
/* <stringlist> of @nr */
void fdt_prop_strings(struct fdt *f, const char *name, const char *const *values, unsigned int nr);

/*
 * Puts the strings and the header in. @boot_cpu: the boot CPU's "reg". Stores the tree's length in
 * @len. 0, -ENOSPC or -EINVAL (see above; a node still open, no root); doesn't log.
 */
int fdt_finish(struct fdt *f, uint32_t boot_cpu, size_t *len);

#endif
