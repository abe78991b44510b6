/* SPDX-License-Identifier: MIT */
/*
 * A driver for one virtio-mmio device with split queues. Source: VIRTIO 1.2, sections 2.7, 3.1 and
 * 4.2.
 */
#ifndef TESTS_PAYLOAD_VIRTIO_H
#define TESTS_PAYLOAD_VIRTIO_H

#include <stdbool.h>
#include <stdint.h>

enum {
	R_MAGIC = 0x00,
	R_VERSION = 0x04,
	R_DEVICE_ID = 0x08,
	R_VENDOR_ID = 0x0c,
	R_DEVICE_FEATURES = 0x10,
	R_DEVICE_FEATURES_SEL = 0x14,
	R_DRIVER_FEATURES = 0x20,
	R_DRIVER_FEATURES_SEL = 0x24,
	R_QUEUE_SEL = 0x30,
	R_QUEUE_NUM_MAX = 0x34,
	R_QUEUE_NUM = 0x38,
	R_QUEUE_READY = 0x44,
	R_QUEUE_NOTIFY = 0x50,
	R_INTERRUPT_STATUS = 0x60,
	R_INTERRUPT_ACK = 0x64,
	R_STATUS = 0x70,
	R_QUEUE_DESC = 0x80,
	R_QUEUE_AVAIL = 0x90,
	R_QUEUE_USED = 0xa0,
	R_SHM_SEL = 0xac,
	R_SHM_LEN = 0xb0,
	R_QUEUE_RESET = 0xc0,
	R_CONFIG_GENERATION = 0xfc,
	R_CONFIG = 0x100,
};

enum { S_ACK = 1, S_DRIVER = 2, S_DRIVER_OK = 4, S_FEATURES_OK = 8, S_NEEDS_RESET = 64, S_FAILED = 128 };
enum { ID_BLK = 2, ID_CONSOLE = 3, ID_RNG = 4 };
enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };

#define F_VERSION_1 (1ull << 32)

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next;
};

#define RING 8 /* entries of each queue: one request at a time, in most payloads */

struct ring {
	struct desc desc[RING];
	struct {
		uint16_t flags, idx, ring[RING], used_event;
	} avail;
	struct {
		uint16_t flags, idx;
		struct {
			uint32_t id, len;
		} elem[RING];
		uint16_t avail_event;
	} used __attribute__((aligned(4)));
} __attribute__((aligned(64)));

struct vdev {
	uint64_t base;
	unsigned int slot, gsi;
	unsigned int queue; /* the one that is driven: 0, if the payload says nothing else */
	struct ring *ring;
	uint16_t seen;	   /* used.idx up to which all is known */
};

/*
 * Takes the device in @slot, its queue on @ring (cleared), DRIVER_OK; with @features and VERSION_1.
 * False: says why.
 */
bool vdev_start(struct vdev *dev, unsigned int slot, struct ring *ring, uint64_t features);

/* The steps of that. False when FEATURES_OK does not stay. */
bool vdev_negotiate(struct vdev *dev, uint64_t features);
void vdev_queue(struct vdev *dev, unsigned int q, uint64_t desc, uint64_t avail, uint64_t used, uint32_t num);

/* Status 0, and the wait for it to be so. */
bool vdev_reset(struct vdev *dev);
uint32_t vdev_status(const struct vdev *dev);

/* The chain that starts at descriptor @head is made available, without a kick. */
void vdev_put(struct vdev *dev, uint16_t head);
void vdev_kick(const struct vdev *dev, unsigned int q);
/* Waits for the next used element. The length it says, -1 if none came. */
int64_t vdev_wait(struct vdev *dev);

/* One disk request, waited for. The status byte, or -1. */
enum { BLK_READ = 0, BLK_WRITE = 1, BLK_FLUSH = 4, BLK_GET_ID = 8 };
struct blk_request {
	struct {
		uint32_t type, reserved;
		uint64_t sector;
	} head;
	uint8_t status;
};
void blk_prepare(struct vdev *dev, struct blk_request *req, uint32_t type, uint64_t sector, void *data, uint32_t len);
int blk_do(struct vdev *dev, uint32_t type, uint64_t sector, void *data, uint32_t len);

/* One request for @len random bytes, waited for. How many came, or -1. */
int64_t rng_do(struct vdev *dev, void *data, uint32_t len);

/*
 * Sends @len bytes to a console; the device's transmit queue is the one that is driven. False: not
 * in the time.
 */
bool console_do(struct vdev *dev, const void *data, uint32_t len);

#endif
