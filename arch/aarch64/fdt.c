/* SPDX-License-Identifier: MIT */
#include "arch/aarch64/fdt.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* The header's ten words, section 5.2, and the one empty entry of the reservation block, 5.3. */
#define HEADER_SIZE	 40
#define RESERVATION_SIZE 16
#define MAGIC		 0xd00dfeed
#define VERSION		 17
#define LAST_COMPATIBLE	 16

/* Tokens of the structure block, section 5.4.1. */
#define BEGIN_NODE 1
#define END_NODE   2
#define PROP	   3
#define END	   9

static void fail(struct fdt *f, int err)
{
	if (!f->err)
		f->err = err;
}

/* Room for @len more bytes, padded to the next token with zeroes; NULL if there is none. */
static uint8_t *room(struct fdt *f, size_t len)
{
	size_t padded = len + (-len & 3);
	uint8_t *at;

	if (f->err)
		return NULL;
	if (padded < len || padded > f->size - f->len) {
		fail(f, -ENOSPC);
		return NULL;
	}
	at = f->buf + f->len;
	memset(at + len, 0, padded - len);
	f->len += padded;
	return at;
}

static void put32(uint8_t *at, uint32_t value)
{
	for (unsigned int i = 0; i < 4; i++)
		at[i] = (uint8_t)(value >> (24 - 8 * i));
}

static void put64(uint8_t *at, uint64_t value)
{
	put32(at, (uint32_t)(value >> 32));
	put32(at + 4, (uint32_t)value);
}

static void token(struct fdt *f, uint32_t value)
{
	uint8_t *at = room(f, 4);

	if (at)
		put32(at, value);
}

/* The characters of sections 2.2.1 and 2.2.4.1 together. */
static bool good_name(const char *name)
{
	size_t len = strlen(name);

	return len && len <= FDT_NAME_MAX &&
	       len == strspn(name, "0123456789abcdefghijklmnopqrstuvwxyz"
				   "ABCDEFGHIJKLMNOPQRSTUVWXYZ,._+-?#@");
}

void fdt_init(struct fdt *f, void *buf, size_t size)
{
	memset(f, 0, sizeof(*f));
	f->buf = buf;
	f->size = size;
	if (size < HEADER_SIZE + RESERVATION_SIZE) {
		fail(f, -ENOSPC);
		return;
	}
	/* What the memory node holds, the initrd included, is for the kernel to reserve. */
	memset(buf, 0, HEADER_SIZE + RESERVATION_SIZE);
	f->len = HEADER_SIZE + RESERVATION_SIZE;
}

void fdt_begin_node(struct fdt *f, const char *name)
{
	size_t size = strlen(name) + 1;
	uint8_t *at;

	if (f->depth ? !good_name(name) : *name || f->root_seen) {
		fail(f, -EINVAL);
		return;
	}
	token(f, BEGIN_NODE);
	at = room(f, size);
	if (!at)
		return;
	memcpy(at, name, size);
	f->root_seen = true;
	f->child_seen = false;
	f->depth++;
}

void fdt_begin_node_at(struct fdt *f, const char *name, uint64_t address)
{
	char whole[FDT_NAME_MAX + 1];
	int len = snprintf(whole, sizeof(whole), "%s@%llx", name, (unsigned long long)address);

	if (len < 0 || (size_t)len >= sizeof(whole))
		fail(f, -EINVAL);
	else
		fdt_begin_node(f, whole);
}

void fdt_end_node(struct fdt *f)
{
	if (f->err)
		return;
	if (!f->depth) {
		fail(f, -EINVAL);
		return;
	}
	token(f, END_NODE);
	f->depth--;
	f->child_seen = true;
}

/* Offset of @name in the strings block, where each name is once. */
static size_t string_offset(struct fdt *f, const char *name)
{
	size_t size = strlen(name) + 1, at = 0;

	while (at < f->strings_len) {
		if (!strcmp(f->strings + at, name))
			return at;
		at += strlen(f->strings + at) + 1;
	}
	if (size > sizeof(f->strings) - f->strings_len) {
		fail(f, -ENOSPC);
		return 0;
	}
	memcpy(f->strings + at, name, size);
	f->strings_len += size;
	return at;
}

/* The head of a property, and where its @len bytes go; NULL if there is no room. */
static uint8_t *property(struct fdt *f, const char *name, size_t len)
{
	size_t string;
	uint8_t *at;

	if (f->err)
		return NULL;
	if (!f->depth || f->child_seen || !good_name(name)) {
		fail(f, -EINVAL);
		return NULL;
	}
	/* Bounds the sum below, and the length's word. */
	if (len > f->size) {
		fail(f, -ENOSPC);
		return NULL;
	}
	string = string_offset(f, name);
	at = room(f, 12 + len);
	if (!at)
		return NULL;
	put32(at, PROP);
	put32(at + 4, (uint32_t)len);
	put32(at + 8, (uint32_t)string);
	return at + 12;
}

void fdt_prop(struct fdt *f, const char *name, const void *value, size_t len)
{
	uint8_t *at = property(f, name, len);

	if (at && len)
		memcpy(at, value, len);
}

void fdt_prop_empty(struct fdt *f, const char *name)
{
	fdt_prop(f, name, NULL, 0);
}

void fdt_prop_u32(struct fdt *f, const char *name, uint32_t value)
{
	fdt_prop_cells(f, name, &value, 1);
}

void fdt_prop_u64(struct fdt *f, const char *name, uint64_t value)
{
	fdt_prop_u64s(f, name, &value, 1);
}

void fdt_prop_cells(struct fdt *f, const char *name, const uint32_t *cells, unsigned int nr)
{
	uint8_t *at = property(f, name, (size_t)nr * 4);

	for (unsigned int i = 0; at && i < nr; i++)
		put32(at + i * 4, cells[i]);
}

void fdt_prop_u64s(struct fdt *f, const char *name, const uint64_t *values, unsigned int nr)
{
	uint8_t *at = property(f, name, (size_t)nr * 8);

	for (unsigned int i = 0; at && i < nr; i++)
		put64(at + i * 8, values[i]);
}

void fdt_prop_string(struct fdt *f, const char *name, const char *value)
{
	fdt_prop(f, name, value, strlen(value) + 1);
}

void fdt_prop_strings(struct fdt *f, const char *name, const char *const *values, unsigned int nr)
{
	size_t len = 0;
	uint8_t *at;

	for (unsigned int i = 0; i < nr; i++)
		len += strlen(values[i]) + 1;
	at = property(f, name, len);
	for (unsigned int i = 0; at && i < nr; i++) {
		size_t size = strlen(values[i]) + 1;

		memcpy(at, values[i], size);
		at += size;
	}
}

int fdt_finish(struct fdt *f, uint32_t boot_cpu, size_t *len)
{
	const size_t structure = HEADER_SIZE + RESERVATION_SIZE;
	size_t structure_len, strings;
	uint8_t *at;

	if (f->depth || !f->root_seen)
		fail(f, -EINVAL);
	token(f, END);
	structure_len = f->len - structure;
	strings = f->len;
	at = room(f, f->strings_len);
	/* A tree of 4 GiB is none: its words could not tell. */
	if (f->len > UINT32_MAX)
		fail(f, -ENOSPC);
	if (f->err)
		return f->err;
	if (f->strings_len)
		memcpy(at, f->strings, f->strings_len);
	put32(f->buf, MAGIC);
	put32(f->buf + 4, (uint32_t)f->len);
	put32(f->buf + 8, (uint32_t)structure);
	put32(f->buf + 12, (uint32_t)strings);
	put32(f->buf + 16, HEADER_SIZE); /* the reservation block, 8-byte aligned as it must be */
	put32(f->buf + 20, VERSION);
	put32(f->buf + 24, LAST_COMPATIBLE);
	put32(f->buf + 28, boot_cpu);
	put32(f->buf + 32, (uint32_t)f->strings_len);
	put32(f->buf + 36, (uint32_t)structure_len);
	*len = f->len;
	return 0;
}
