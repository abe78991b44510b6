/* SPDX-License-Identifier: MIT */
#include "arch/x86_64/aml.h"

#include <string.h>

/* Opcodes and prefixes: section 20.2 and table 20.1. */
enum {
	ZERO_OP = 0x00,
	ONE_OP = 0x01,
	NAME_OP = 0x08,
	BYTE_PREFIX = 0x0a,
	WORD_PREFIX = 0x0b,
	DWORD_PREFIX = 0x0c,
	STRING_PREFIX = 0x0d,
	QWORD_PREFIX = 0x0e,
	SCOPE_OP = 0x10,
	BUFFER_OP = 0x11,
	PACKAGE_OP = 0x12,
	METHOD_OP = 0x14,
	EXT_PREFIX = 0x5b,
	LOCAL0_OP = 0x60,
	STORE_OP = 0x70,
	AND_OP = 0x7b,
	NOTIFY_OP = 0x86,
	IF_OP = 0xa0,
	ONES_OP = 0xff,
};

enum { EXT_REGION_OP = 0x80, EXT_FIELD_OP = 0x81, EXT_DEVICE_OP = 0x82 };

#define METHOD_SERIALIZED 0x08
#define REGION_SYSTEM_IO  0x01
#define FIELD_DWORD	  0x03 /* NoLock, Preserve: zeroes */

/* Resource descriptors: section 6.4. */
#define RES_IO		  0x47
#define RES_IO_DECODE16	  0x01
#define RES_MEMORY32FIXED 0x86
#define RES_MEMORY_RW	  0x01
#define RES_INTERRUPT	  0x89
#define RES_INT_CONSUMER  0x01
#define RES_INT_EDGE	  0x02 /* active high: bit 2 clear */
#define RES_INT_SHARED	  0x08
#define RES_END		  0x79

void aml_init(struct aml *a, void *buf, size_t size)
{
	*a = (struct aml){.buf = buf, .size = size};
}

void aml_bytes(struct aml *a, const void *bytes, size_t len)
{
	if (len > a->size - a->len) {
		a->bad = true;
		return;
	}
	memcpy(a->buf + a->len, bytes, len);
	a->len += len;
}

void aml_byte(struct aml *a, uint8_t byte)
{
	aml_bytes(a, &byte, 1);
}

/* The low @len bytes of @value. */
static void number(struct aml *a, uint64_t value, unsigned int len)
{
	while (len--) {
		aml_byte(a, (uint8_t)value);
		value >>= 8;
	}
}

void aml_u16(struct aml *a, uint16_t value)
{
	number(a, value, 2);
}

void aml_u32(struct aml *a, uint32_t value)
{
	number(a, value, 4);
}

void aml_align(struct aml *a, size_t align)
{
	while (a->len % align && !a->bad)
		aml_byte(a, 0);
}

/* Makes room for @len bytes at @pos, which move what was written behind it. */
static void insert(struct aml *a, size_t pos, const void *bytes, size_t len)
{
	/* After an overflow a mark may mean nothing any more. */
	if (a->bad || pos > a->len || len > a->size - a->len) {
		a->bad = true;
		return;
	}
	memmove(a->buf + pos + len, a->buf + pos, a->len - pos);
	memcpy(a->buf + pos, bytes, len);
	a->len += len;
}

void aml_seg(struct aml *a, const char *seg)
{
	if (strlen(seg) != 4)
		a->bad = true;
	else
		aml_bytes(a, seg, 4);
}

void aml_integer(struct aml *a, uint64_t value)
{
	if (value <= 1) {
		aml_byte(a, value ? ONE_OP : ZERO_OP);
	} else if (value == UINT64_MAX) {
		aml_byte(a, ONES_OP); /* integers are 64 bits wide in a DSDT of revision 2 */
	} else if (value <= UINT8_MAX) {
		aml_byte(a, BYTE_PREFIX);
		number(a, value, 1);
	} else if (value <= UINT16_MAX) {
		aml_byte(a, WORD_PREFIX);
		number(a, value, 2);
	} else if (value <= UINT32_MAX) {
		aml_byte(a, DWORD_PREFIX);
		number(a, value, 4);
	} else {
		aml_byte(a, QWORD_PREFIX);
		number(a, value, 8);
	}
}

void aml_string(struct aml *a, const char *string)
{
	aml_byte(a, STRING_PREFIX);
	aml_bytes(a, string, strlen(string) + 1);
}

/* Section 19.3.4: five bits a letter, four a digit, most significant byte first. */
void aml_eisaid(struct aml *a, const char *id)
{
	static const char digits[] = "0123456789ABCDEF";
	uint32_t value = 0;

	if (strlen(id) != 7) {
		a->bad = true;
		return;
	}
	for (unsigned int i = 0; i < 3; i++) {
		if (id[i] < 'A' || id[i] > 'Z')
			a->bad = true;
		value = value << 5 | ((uint32_t)(id[i] - '@') & 0x1f);
	}
	for (unsigned int i = 3; i < 7; i++) {
		const char *digit = strchr(digits, id[i]);

		if (!digit)
			a->bad = true;
		else
			value = value << 4 | (uint32_t)(digit - digits);
	}
	aml_byte(a, DWORD_PREFIX);
	number(a, __builtin_bswap32(value), 4);
}

void aml_name(struct aml *a, const char *seg)
{
	aml_byte(a, NAME_OP);
	aml_seg(a, seg);
}

void aml_name_integer(struct aml *a, const char *seg, uint64_t value)
{
	aml_name(a, seg);
	aml_integer(a, value);
}

void aml_name_string(struct aml *a, const char *seg, const char *string)
{
	aml_name(a, seg);
	aml_string(a, string);
}

void aml_name_eisaid(struct aml *a, const char *seg, const char *id)
{
	aml_name(a, seg);
	aml_eisaid(a, id);
}

size_t aml_scope(struct aml *a, const char *seg)
{
	size_t mark;

	aml_byte(a, SCOPE_OP);
	mark = a->len;
	aml_seg(a, seg);
	return mark;
}

size_t aml_device(struct aml *a, const char *seg)
{
	size_t mark;

	aml_byte(a, EXT_PREFIX);
	aml_byte(a, EXT_DEVICE_OP);
	mark = a->len;
	aml_seg(a, seg);
	return mark;
}

size_t aml_method(struct aml *a, const char *seg, unsigned int args)
{
	size_t mark;

	aml_byte(a, METHOD_OP);
	mark = a->len;
	aml_seg(a, seg);
	if (args > 7)
		a->bad = true;
	aml_byte(a, (uint8_t)(args | METHOD_SERIALIZED));
	return mark;
}

size_t aml_package(struct aml *a, uint8_t elements)
{
	size_t mark;

	aml_byte(a, PACKAGE_OP);
	mark = a->len;
	aml_byte(a, elements);
	return mark;
}

size_t aml_if(struct aml *a)
{
	aml_byte(a, IF_OP);
	return a->len;
}

/*
 * PkgLength, section 20.2.4: it counts itself. One byte holds 6 bits; with more, the first holds
 * their count in its bits 7 and 6 and the length's low 4 bits, the others 8 bits each.
 */
void aml_end(struct aml *a, size_t mark)
{
	size_t total = a->len - mark;
	unsigned int len;
	uint8_t pkg[4];

	if (a->bad || mark > a->len) {
		a->bad = true;
		return;
	}
	if (total + 1 <= 0x3f)
		len = 1;
	else if (total + 2 <= 0xfff)
		len = 2;
	else if (total + 3 <= 0xfffff)
		len = 3;
	else
		len = 4;
	total += len;
	if (total > AML_PKG_MAX) {
		a->bad = true;
		return;
	}
	if (len == 1) {
		pkg[0] = (uint8_t)total;
	} else {
		pkg[0] = (uint8_t)((len - 1) << 6 | (total & 0xf));
		for (unsigned int i = 1; i < len; i++)
			pkg[i] = (uint8_t)(total >> (8 * i - 4));
	}
	insert(a, mark, pkg, len);
}

size_t aml_crs(struct aml *a)
{
	aml_name(a, "_CRS");
	aml_byte(a, BUFFER_OP);
	return a->len;
}

void aml_crs_end(struct aml *a, size_t mark)
{
	uint8_t bytes[9];
	struct aml size;

	aml_byte(a, RES_END);
	aml_byte(a, 0); /* "treat the checksum as right", section 6.4.2.9 */
	if (a->bad)
		return;
	/* BufferSize comes before the bytes that it counts. */
	aml_init(&size, bytes, sizeof(bytes));
	aml_integer(&size, a->len - mark);
	insert(a, mark, bytes, size.len);
	aml_end(a, mark);
}

void aml_res_io(struct aml *a, uint16_t port, uint8_t len)
{
	aml_byte(a, RES_IO);
	aml_byte(a, RES_IO_DECODE16);
	aml_u16(a, port); /* lowest base */
	aml_u16(a, port); /* highest base */
	aml_byte(a, 1);	  /* alignment */
	aml_byte(a, len);
}

void aml_res_memory(struct aml *a, uint64_t base, uint64_t size)
{
	if (base > UINT32_MAX || size > UINT32_MAX)
		a->bad = true;
	aml_byte(a, RES_MEMORY32FIXED);
	aml_u16(a, 9); /* bytes that follow */
	aml_byte(a, RES_MEMORY_RW);
	aml_u32(a, (uint32_t)base);
	aml_u32(a, (uint32_t)size);
}

void aml_res_edge(struct aml *a, uint32_t gsi, bool shared)
{
	aml_byte(a, RES_INTERRUPT);
	aml_u16(a, 6); /* bytes that follow */
	aml_byte(a, RES_INT_CONSUMER | RES_INT_EDGE | (shared ? RES_INT_SHARED : 0));
	aml_byte(a, 1); /* interrupts */
	aml_u32(a, gsi);
}

void aml_io_region(struct aml *a, const char *seg, uint16_t port, uint8_t len)
{
	aml_byte(a, EXT_PREFIX);
	aml_byte(a, EXT_REGION_OP);
	aml_seg(a, seg);
	aml_byte(a, REGION_SYSTEM_IO);
	aml_integer(a, port);
	aml_integer(a, len);
}

void aml_dword_field(struct aml *a, const char *region, const char *seg)
{
	size_t mark;

	aml_byte(a, EXT_PREFIX);
	aml_byte(a, EXT_FIELD_OP);
	mark = a->len;
	aml_seg(a, region);
	aml_byte(a, FIELD_DWORD);
	aml_seg(a, seg);
	aml_byte(a, 32); /* bits, as a PkgLength of one byte */
	aml_end(a, mark);
}

void aml_store_local0(struct aml *a, const char *seg)
{
	aml_byte(a, STORE_OP);
	aml_seg(a, seg);
	aml_byte(a, LOCAL0_OP);
}

void aml_and_local0(struct aml *a, uint64_t mask)
{
	aml_byte(a, AND_OP);
	aml_byte(a, LOCAL0_OP);
	aml_integer(a, mask);
	aml_byte(a, ZERO_OP); /* no target */
}

void aml_notify(struct aml *a, const char *seg, uint8_t value)
{
	aml_byte(a, NOTIFY_OP);
	aml_seg(a, seg);
	aml_integer(a, value);
}
