/* SPDX-License-Identifier: MIT */
/* The registers' words and Status, for the files that make the transport: mmio*.c. */
#ifndef VIRTIO_MMIO_REGS_H
#define VIRTIO_MMIO_REGS_H

#include <endian.h>
#include <stdbool.h>
#include <stdint.h>
#include <linux/virtio_config.h>
#include "virtio/mmio.h"

#define S_ACK	      VIRTIO_CONFIG_S_ACKNOWLEDGE
#define S_DRIVER      VIRTIO_CONFIG_S_DRIVER
#define S_DRIVER_OK   VIRTIO_CONFIG_S_DRIVER_OK
#define S_FEATURES_OK VIRTIO_CONFIG_S_FEATURES_OK
#define S_NEEDS_RESET VIRTIO_CONFIG_S_NEEDS_RESET
#define S_FAILED      VIRTIO_CONFIG_S_FAILED
#define S_BY_DRIVER   (S_ACK | S_DRIVER | S_DRIVER_OK | S_FEATURES_OK | S_FAILED)

static inline uint32_t *reg_word(struct virtio_mmio *mmio, unsigned int offset)
{
	return &mmio->reg[offset / 4];
}

/* After a change of the word. */
static inline void reg_clean(const struct virtio_mmio *mmio, unsigned int offset)
{
	if (mmio->clean)
		mmio->clean(&mmio->reg[offset / 4]);
}

static inline uint32_t reg_get(struct virtio_mmio *mmio, unsigned int offset)
{
	return le32toh(__atomic_load_n(reg_word(mmio, offset), __ATOMIC_ACQUIRE));
}

static inline void reg_set(struct virtio_mmio *mmio, unsigned int offset, uint32_t v)
{
	__atomic_store_n(reg_word(mmio, offset), htole32(v), __ATOMIC_RELEASE);
	reg_clean(mmio, offset);
}

/*
 * Lets the guest read the page, or makes its reads trap. 0 or -errno; logs. Any thread with
 * dev->lock, or while nobody else has the device.
 */
int virtio_mmio_show_page(struct virtio_mmio *mmio, bool there);

#endif
