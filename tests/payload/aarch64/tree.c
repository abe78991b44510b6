/* SPDX-License-Identifier: MIT */
/* A reader of flattened device trees. Source: Devicetree Specification 0.4, chapter 5. */
#include "tests/payload/aarch64/machine.h"
#include "tests/payload/payload.h"

#define MAGIC 0xd00dfeed

enum { BEGIN_NODE = 1, END_NODE, PROP, NOP, END = 9 };

static const uint8_t *tree, *structs, *structs_end, *strings;

static uint32_t be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

bool tree_init(uint64_t fdt)
{
	tree = (const uint8_t *)fdt;
	if (!fdt || fdt & 7 || be32(tree) != MAGIC || be32(tree + 24) > 17)
		return false;
	structs = tree + be32(tree + 8);
	structs_end = structs + be32(tree + 36);
	strings = tree + be32(tree + 12);
	return structs_end <= tree + tree_size() && be32(structs) == BEGIN_NODE && be32(structs_end - 4) == END;
}

uint32_t tree_size(void)
{
	return be32(tree + 4);
}

/* The token behind the one at @p; a broken tree ends there. */
static const uint8_t *next(const uint8_t *p)
{
	uint32_t token = be32(p);

	p += 4;
	if (token == BEGIN_NODE)
		p += (strlen((const char *)p) + 4) & ~3ull;
	else if (token == PROP)
		p += (8 + be32(p) + 3ull) & ~3ull;
	else if (token != END_NODE && token != NOP)
		p = structs_end;
	return p < structs_end ? p : structs_end;
}

const uint8_t *tree_prop(const uint8_t *node, const char *name, uint32_t *len)
{
	/* A node's properties come before its children. */
	for (const uint8_t *p = next(node); p < structs_end; p = next(p)) {
		if (be32(p) == NOP)
			continue;
		if (be32(p) != PROP)
			break;
		if (!strcmp((const char *)strings + be32(p + 8), name)) {
			*len = be32(p + 4);
			return p + 12;
		}
	}
	return NULL;
}

static bool named(const uint8_t *node, const char *name)
{
	const char *s = (const char *)node + 4;
	size_t len = strlen(name);

	return !memcmp(s, name, len) && (!s[len] || s[len] == '@');
}

static bool compatible_with(const uint8_t *node, const char *what)
{
	uint32_t len = 0;
	const uint8_t *list = tree_prop(node, "compatible", &len);

	for (uint32_t at = 0; list && at < len; at += (uint32_t)strlen((const char *)list + at) + 1) {
		if (!strcmp((const char *)list + at, what))
			return true;
	}
	return false;
}

const uint8_t *tree_node(const char *name, const char *compatible, unsigned int nth)
{
	for (const uint8_t *p = structs; p < structs_end; p = next(p)) {
		if (be32(p) != BEGIN_NODE || (name && !named(p, name)) ||
		    (compatible && !compatible_with(p, compatible)))
			continue;
		if (!nth--)
			return p;
	}
	return NULL;
}

uint32_t tree_cell(const uint8_t *node, const char *name, unsigned int i)
{
	uint32_t len = 0;
	const uint8_t *p = tree_prop(node, name, &len);

	return p && 4 * i + 4 <= len ? be32(p + 4 * i) : 0;
}

uint64_t tree_pair(const uint8_t *node, const char *name, unsigned int i)
{
	return (uint64_t)tree_cell(node, name, 2 * i) << 32 | tree_cell(node, name, 2 * i + 1);
}
