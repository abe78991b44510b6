/* SPDX-License-Identifier: MIT */
/*
 * A bounded writer of bytes that knows ACPI's machine language. Source: ACPI Specification 6.4,
 * chapter 20 (AML) and section 6.4 (resource descriptors).
 *
 * What doesn't fit is not written and sets @bad, which stays set; so is what can't be encoded.
 * Whoever builds a table checks it once, at the end. Numbers are little-endian.
 */
#ifndef ARCH_X86_64_AML_H
#define ARCH_X86_64_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct aml {
	uint8_t *buf; /* the caller's */
	size_t size;
	size_t len;
	bool bad;
};

/* Longest package that PkgLength can tell, its own bytes included. */
#define AML_PKG_MAX 0xfffffffu

/* Begins at the start of @buf, of @size bytes and any alignment. */
void aml_init(struct aml *a, void *buf, size_t size);

void aml_byte(struct aml *a, uint8_t byte);
void aml_bytes(struct aml *a, const void *bytes, size_t len);
void aml_u16(struct aml *a, uint16_t value);
void aml_u32(struct aml *a, uint32_t value);

/* Zeroes up to the next multiple of @align. */
void aml_align(struct aml *a, size_t align);

/* NameSeg: exactly four characters. */
void aml_seg(struct aml *a, const char *seg);

/* The shortest encoding of @value as a ConstObj or an integer with its prefix. */
void aml_integer(struct aml *a, uint64_t value);

/* A string of ASCII characters, with its prefix. */
void aml_string(struct aml *a, const char *string);

/* EISAID("PNP0501"): three capitals and four hexadecimal digits. */
void aml_eisaid(struct aml *a, const char *id);

/* Name (@seg, ...): the object is what is written next. */
void aml_name(struct aml *a, const char *seg);
void aml_name_integer(struct aml *a, const char *seg, uint64_t value);
void aml_name_string(struct aml *a, const char *seg, const char *string);
void aml_name_eisaid(struct aml *a, const char *seg, const char *id);

/*
 * Everything that has a PkgLength is opened by a function that returns a mark and closed by
 * aml_end(mark), which puts the PkgLength in, as short as it can be. They nest; the innermost is
 * closed first.
 */
size_t aml_scope(struct aml *a, const char *seg);
size_t aml_device(struct aml *a, const char *seg);
/* @args: 0 to 7. Serialized, at sync level 0. */
size_t aml_method(struct aml *a, const char *seg, unsigned int args);
size_t aml_package(struct aml *a, uint8_t elements);
/* If (predicate): the predicate is what is written next. */
size_t aml_if(struct aml *a);
void aml_end(struct aml *a, size_t mark);

/* Name (_CRS, ResourceTemplate () { ... }), closed by aml_crs_end(). */
size_t aml_crs(struct aml *a);
void aml_crs_end(struct aml *a, size_t mark);

/* IO (Decode16, @port, @port, 1, @len) */
void aml_res_io(struct aml *a, uint16_t port, uint8_t len);
/* Memory32Fixed (ReadWrite, @base, @size); both must fit in 32 bits. */
void aml_res_memory(struct aml *a, uint64_t base, uint64_t size);
/* Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive or Shared) {@gsi} */
void aml_res_edge(struct aml *a, uint32_t gsi, bool shared);

/* OperationRegion (@seg, SystemIO, @port, @len) */
void aml_io_region(struct aml *a, const char *seg, uint16_t port, uint8_t len);
/* Field (@region, DWordAcc, NoLock, Preserve) { @seg, 32 } */
void aml_dword_field(struct aml *a, const char *region, const char *seg);

/* Store (@seg, Local0) */
void aml_store_local0(struct aml *a, const char *seg);
/* And (Local0, @mask) */
void aml_and_local0(struct aml *a, uint64_t mask);
/* Notify (@seg, @value) */
void aml_notify(struct aml *a, const char *seg, uint8_t value);

#endif
