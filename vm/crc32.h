/* SPDX-License-Identifier: MIT */
/* CRC-32 as in gzip, zip and Ethernet (ISO 3309, reflected, inverted at both ends). */
#ifndef VM_CRC32_H
#define VM_CRC32_H

#include <stddef.h>
#include <stdint.h>

/* The CRC of what went before, 0 at first, and of @len more bytes. */
uint32_t crc32(uint32_t crc, const void *buf, size_t len);

#endif
