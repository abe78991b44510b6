/* SPDX-License-Identifier: MIT */
/* gzip's CRC-32 (RFC 1952, section 8), bit by bit, for tests that write such data. */
#ifndef TESTS_CRC32_H
#define TESTS_CRC32_H

#include <stddef.h>
#include <stdint.h>

static inline uint32_t crc32_of(const uint8_t *p, size_t len)
{
	uint32_t crc = ~0u;

	while (len--) {
		crc ^= *p++;
		for (unsigned int i = 0; i < 8; i++)
			crc = crc & 1 ? crc >> 1 ^ 0xedb88320 : crc >> 1;
	}
	return ~crc;
}

#endif
