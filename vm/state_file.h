/* SPDX-License-Identifier: MIT */
/*
 * The `state` file of a snapshot: what its writer and its reader agree on. docs/snapshot.md draws
 * it. All numbers are little-endian, whatever the host.
 *
 *	header	   magic, version, number of sections, architecture, length of the file
 *	sections   tag, instance, length, version, CRC-32 of all that and of the payload; payload
 *	end	   "END\n", CRC-32 of everything before it
 */
#ifndef VM_STATE_FILE_H
#define VM_STATE_FILE_H

#include <stdint.h>

#define STATE_FILE_MAGIC   "vinitSNP"
#define STATE_FILE_VERSION 1

/* No file is larger, on writing or on reading: it is held in memory whole. */
#define STATE_FILE_MAX		(16u << 20)
#define STATE_FILE_MAX_SECTIONS 2048

#define STATE_FILE_MAGIC_LEN 8
#define STATE_FILE_ARCH_LEN  16 /* the name, then zeros, one at least */
#define STATE_FILE_HEADER    40
#define STATE_FILE_SECTION   24 /* before each payload */
#define STATE_FILE_END	     8

/* Offsets in the header. */
#define STATE_FILE_AT_VERSION  8
#define STATE_FILE_AT_SECTIONS 12
#define STATE_FILE_AT_ARCH     16
#define STATE_FILE_AT_LENGTH   32

/* Offsets in the head of a section. Its CRC is over what stands before it, and the payload. */
#define STATE_FILE_AT_TAG	0
#define STATE_FILE_AT_INSTANCE	4
#define STATE_FILE_AT_SECLEN	8
#define STATE_FILE_AT_SECVER	16
#define STATE_FILE_AT_SECCRC	20

/* A section's name: four capital letters or digits. In the file the first letter comes first. */
#define STATE_TAG(a, b, c, d)                                                                      \
	((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)

#define STATE_TAG_END	   STATE_TAG('E', 'N', 'D', '\n')
#define STATE_TAG_SNAPSHOT STATE_TAG('S', 'N', 'A', 'P') /* vm/snapshot_ident.h */
#define STATE_TAG_MEMORY   STATE_TAG('M', 'E', 'M', 'O') /* vm/memory_file.h */

static inline void state_file_store(uint8_t *p, uint64_t value, unsigned int bytes)
{
	for (unsigned int i = 0; i < bytes; i++)
		p[i] = value >> 8 * i;
}

static inline uint64_t state_file_load(const uint8_t *p, unsigned int bytes)
{
	uint64_t value = 0;

	for (unsigned int i = 0; i < bytes; i++)
		value |= (uint64_t)p[i] << 8 * i;
	return value;
}

#endif
