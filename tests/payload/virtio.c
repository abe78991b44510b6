/* SPDX-License-Identifier: MIT */
#include "tests/payload/virtio.h"
#include "tests/payload/payload.h"

#define STEP_USEC 10000000

uint32_t vdev_status(const struct vdev *dev)
{
	return read32(dev->base + R_STATUS);
}

bool vdev_reset(struct vdev *dev)
{
	uint64_t end = machine_usec() + STEP_USEC;

	write32(dev->base + R_STATUS, 0);
	while (vdev_status(dev)) {
		if (machine_usec() > end)
			return false;
	}
	dev->seen = 0;
	return true;
}

bool vdev_negotiate(struct vdev *dev, uint64_t features)
{
	write32(dev->base + R_STATUS, S_ACK);
	write32(dev->base + R_STATUS, S_ACK | S_DRIVER);
	for (unsigned int i = 0; i < 2; i++) {
		write32(dev->base + R_DRIVER_FEATURES_SEL, i);
		write32(dev->base + R_DRIVER_FEATURES, (uint32_t)(features >> 32 * i));
	}
	write32(dev->base + R_STATUS, S_ACK | S_DRIVER | S_FEATURES_OK);
	return vdev_status(dev) == (S_ACK | S_DRIVER | S_FEATURES_OK);
}

static void write_pair(uint64_t addr, uint64_t value)
{
	write32(addr, (uint32_t)value);
	write32(addr + 4, (uint32_t)(value >> 32));
}

void vdev_queue(struct vdev *dev, unsigned int q, uint64_t desc, uint64_t avail, uint64_t used, uint32_t num)
{
	write32(dev->base + R_QUEUE_SEL, q);
	write32(dev->base + R_QUEUE_NUM, num);
	write_pair(dev->base + R_QUEUE_DESC, desc);
	write_pair(dev->base + R_QUEUE_AVAIL, avail);
	write_pair(dev->base + R_QUEUE_USED, used);
	write32(dev->base + R_QUEUE_READY, 1);
}

bool vdev_start(struct vdev *dev, unsigned int slot, struct ring *ring, uint64_t features)
{
	dev->slot = slot;
	dev->base = machine_virtio_base(slot);
	dev->gsi = machine_virtio_gsi(slot);
	dev->ring = ring;
	if (read32(dev->base + R_MAGIC) != 0x74726976 || read32(dev->base + R_VERSION) != 2) {
		say("FAIL slot %u: no virtio device: magic 0x%x\n", slot, read32(dev->base + R_MAGIC));
		return false;
	}
	memset(ring, 0, sizeof(*ring));
	if (!vdev_reset(dev)) {
		say("FAIL slot %u: reset: status 0x%x\n", slot, vdev_status(dev));
		return false;
	}
	if (!vdev_negotiate(dev, features | F_VERSION_1)) {
		say("FAIL slot %u: features: status 0x%x\n", slot, vdev_status(dev));
		return false;
	}
	vdev_queue(dev, dev->queue, (uintptr_t)ring->desc, (uintptr_t)&ring->avail, (uintptr_t)&ring->used, RING);
	write32(dev->base + R_STATUS, S_ACK | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK);
	if (vdev_status(dev) != (S_ACK | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK)) {
		say("FAIL slot %u: DRIVER_OK: status 0x%x\n", slot, vdev_status(dev));
		return false;
	}
	return true;
}

void vdev_put(struct vdev *dev, uint16_t head)
{
	struct ring *ring = dev->ring;

	ring->avail.ring[ring->avail.idx % RING] = head;
	__atomic_store_n(&ring->avail.idx, (uint16_t)(ring->avail.idx + 1), __ATOMIC_SEQ_CST);
}

void vdev_kick(const struct vdev *dev, unsigned int q)
{
	/* What the ring says comes before the kick, on a CPU that may turn stores around too. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	write32(dev->base + R_QUEUE_NOTIFY, q);
}

int64_t vdev_wait(struct vdev *dev)
{
	uint64_t end = machine_usec() + STEP_USEC;
	struct ring *ring = dev->ring;

	while (__atomic_load_n(&ring->used.idx, __ATOMIC_ACQUIRE) == dev->seen) {
		if (machine_usec() > end)
			return -1;
		machine_relax();
	}
	return ring->used.elem[dev->seen++ % RING].len;
}

void blk_prepare(struct vdev *dev, struct blk_request *req, uint32_t type, uint64_t sector, void *data, uint32_t len)
{
	struct desc *d = dev->ring->desc;
	unsigned int last = len ? 2 : 1;

	req->head.type = type;
	req->head.reserved = 0;
	req->head.sector = sector;
	req->status = 0xff;
	d[0] = (struct desc){ (uintptr_t)&req->head, sizeof(req->head), DESC_NEXT, 1 };
	if (len)
		d[1] = (struct desc){ (uintptr_t)data, len,
				      DESC_NEXT | (type == BLK_WRITE ? 0 : DESC_WRITE), 2 };
	d[last] = (struct desc){ (uintptr_t)&req->status, 1, DESC_WRITE, 0 };
}

int blk_do(struct vdev *dev, uint32_t type, uint64_t sector, void *data, uint32_t len)
{
	static struct blk_request req;

	blk_prepare(dev, &req, type, sector, data, len);
	vdev_put(dev, 0);
	vdev_kick(dev, 0);
	if (vdev_wait(dev) < 0)
		return -1;
	return *(volatile uint8_t *)&req.status;
}

int64_t rng_do(struct vdev *dev, void *data, uint32_t len)
{
	dev->ring->desc[0] = (struct desc){ (uintptr_t)data, len, DESC_WRITE, 0 };
	vdev_put(dev, 0);
	vdev_kick(dev, 0);
	return vdev_wait(dev);
}

bool console_do(struct vdev *dev, const void *data, uint32_t len)
{
	dev->ring->desc[0] = (struct desc){ (uintptr_t)data, len, 0, 0 };
	vdev_put(dev, 0);
	vdev_kick(dev, dev->queue);
	return vdev_wait(dev) >= 0;
}
