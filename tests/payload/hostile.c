/* SPDX-License-Identifier: MIT */
/*
 * All that a driver must not do, to the devices in n=N slots; in the storms, times=N as often.
 * Nothing of it may end the machine: at the end each device still works, or does so after a reset,
 * and the power goes off as always.
 */
#include "tests/payload/payload.h"
#include "tests/payload/virtio.h"

#define ALL_OK (S_ACK | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK)

static struct ring ring;
static uint8_t buf[4096];

static const uint32_t nasty[] = { 0, 1, 2, 0x7f, 0x80, 0xff, 0x8000, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xfffffffe,
				  0xffffffff };

static void every_register(struct vdev *dev)
{
	for (uint32_t reg = 0; reg < 0x200; reg += 4) {
		for (unsigned int i = 0; i < ARRAY_SIZE(nasty); i++) {
			write32(dev->base + reg, nasty[i]);
			(void)read32(dev->base + reg);
		}
	}
	for (uint32_t reg = 0; reg < 0x120; reg++) {
		write8(dev->base + reg, 0xff);
		write16(dev->base + reg, 0xffff);
		write32(dev->base + reg, 0xffffffff);
		write64(dev->base + reg, ~0ull);
		(void)read8(dev->base + reg);
		(void)read16(dev->base + reg);
		(void)read32(dev->base + reg);
		(void)read64(dev->base + reg);
	}
	check(vdev_reset(dev), "every register, every width");
}

static void random_registers(struct vdev *dev, unsigned int n)
{
	while (n--) {
		uint32_t r = random32(), reg = r % 66 * 4;
		uint32_t v = r >> 8 & 1 ? random32() : nasty[(r >> 9) % ARRAY_SIZE(nasty)];

		/*
		 * Half of the time a step of the way to a running device, or it never gets there.
		 */
		if (r >> 16 & 1) {
			vdev_negotiate(dev, F_VERSION_1);
			vdev_queue(dev, r >> 17 & 1, (uintptr_t)ring.desc + (r >> 20 & 0xf0),
				   (uintptr_t)&ring.avail, (uintptr_t)&ring.used, 1u << (r >> 28));
			write32(dev->base + R_STATUS, ALL_OK);
			vdev_kick(dev, dev->queue);
		}
		write32(dev->base + reg, v);
	}
	check(vdev_reset(dev), "random registers");
}

static void start_with(struct vdev *dev, uint64_t desc, uint64_t avail, uint64_t used, uint32_t num)
{
	vdev_reset(dev);
	memset(&ring, 0, sizeof(ring));
	if (!vdev_negotiate(dev, F_VERSION_1))
		say("FAIL features\n");
	vdev_queue(dev, dev->queue, desc, avail, used, num);
	write32(dev->base + R_STATUS, ALL_OK);
	vdev_kick(dev, dev->queue);
}

/* DEVICE_NEEDS_RESET comes at once, or from the device's own thread. */
static bool needs_reset(struct vdev *dev)
{
	uint64_t end = machine_usec() + 5000000;

	while (!(vdev_status(dev) & S_NEEDS_RESET)) {
		if (machine_usec() > end)
			return false;
	}
	return true;
}

static void bad_addresses(struct vdev *dev)
{
	uint64_t d = (uintptr_t)ring.desc, a = (uintptr_t)&ring.avail, u = (uintptr_t)&ring.used;
	const uint64_t bad[] = { 0xfffffffffffff000, 0x7ffffffffffff000, machine_hole(), 0x8000000000, 0xffffffffffffffc0,
				 machine_virtio_base(0), ~0ull };
	unsigned int good = 0;

	for (unsigned int i = 0; i < ARRAY_SIZE(bad); i++) {
		start_with(dev, bad[i], a, u, RING);
		good += needs_reset(dev);
		start_with(dev, d, bad[i], u, RING);
		good += needs_reset(dev);
		start_with(dev, d, a, bad[i], RING);
		good += needs_reset(dev);
	}
	check_eq(good, 3 * ARRAY_SIZE(bad), "rings outside RAM: DEVICE_NEEDS_RESET");
	good = 0;
	start_with(dev, d + 8, a, u, RING);
	good += needs_reset(dev);
	start_with(dev, d, a + 1, u, RING);
	good += needs_reset(dev);
	start_with(dev, d, a, u + 2, RING);
	good += needs_reset(dev);
	check_eq(good, 3, "rings askew: DEVICE_NEEDS_RESET");
}

static void no_queues(struct vdev *dev)
{
	vdev_reset(dev);
	vdev_negotiate(dev, F_VERSION_1);
	write32(dev->base + R_STATUS, ALL_OK);
	for (unsigned int i = 0; i < 100; i++)
		vdev_kick(dev, i % 4);
	settle();
	check(vdev_reset(dev), "DRIVER_OK without queues");
}

static void storm(struct vdev *dev, unsigned int n)
{
	start_with(dev, (uintptr_t)ring.desc, (uintptr_t)&ring.avail, (uintptr_t)&ring.used, RING);
	for (unsigned int i = 0; i < 10 * n; i++)
		vdev_kick(dev, i & 1);
	for (unsigned int i = 0; i < n / 2; i++)
		vdev_kick(dev, random32());
	for (unsigned int i = 0; i < n / 10; i++) {
		vdev_reset(dev);
		vdev_negotiate(dev, F_VERSION_1);
		vdev_queue(dev, dev->queue, (uintptr_t)ring.desc, (uintptr_t)&ring.avail, (uintptr_t)&ring.used, RING);
		write32(dev->base + R_STATUS, ALL_OK);
		vdev_kick(dev, dev->queue);
	}
	check(vdev_reset(dev), "kick and reset storms");
}

/*
 * One malformed ring; @fill writes it. The device may refuse it or take no notice, but not die of
 * it.
 */
static void bad_ring(struct vdev *dev, void (*fill)(void))
{
	vdev_reset(dev);
	memset(&ring, 0, sizeof(ring));
	vdev_negotiate(dev, F_VERSION_1);
	vdev_queue(dev, dev->queue, (uintptr_t)ring.desc, (uintptr_t)&ring.avail, (uintptr_t)&ring.used, RING);
	write32(dev->base + R_STATUS, ALL_OK);
	fill();
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	vdev_kick(dev, dev->queue);
	settle();
	if (!(vdev_status(dev) & S_NEEDS_RESET))
		vdev_kick(dev, dev->queue);
}

static void put_chain(uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	ring.desc[0] = (struct desc){ addr, len, flags, next };
	ring.desc[1] = (struct desc){ addr, len, flags, 0 };
	ring.avail.idx = 1;
}

static void ring_loop(void) { put_chain((uintptr_t)buf, 16, DESC_NEXT | DESC_WRITE, 1); }
static void ring_next(void) { put_chain((uintptr_t)buf, 16, DESC_NEXT, 0xffff); }
static void ring_head(void) { ring.avail.ring[0] = RING; ring.avail.idx = 1; }
static void ring_gap(void) { ring.avail.idx = RING + 1; }
static void ring_wrap(void) { ring.avail.idx = 0xffff; }
static void ring_outside(void) { put_chain(machine_hole(), 4096, DESC_WRITE, 0); }
static void ring_huge(void) { put_chain((uintptr_t)buf, 0xffffffff, DESC_WRITE, 0); }
static void ring_over(void) { put_chain(~0ull - 8, 4096, DESC_WRITE, 0); }
static void ring_device(void) { put_chain(machine_virtio_base(0), 4096, DESC_WRITE, 0); }
static void ring_zero(void) { put_chain((uintptr_t)buf, 0, DESC_WRITE, 0); }
static void ring_indirect(void) { put_chain((uintptr_t)buf, 16, DESC_INDIRECT, 0); }
static void ring_itself(void) { put_chain((uintptr_t)&ring, sizeof(ring), DESC_WRITE, 0); }

static void bad_rings(struct vdev *dev)
{
	static void (*const refused[])(void) = { ring_loop, ring_next, ring_head, ring_gap, ring_wrap, ring_outside,
						 ring_over, ring_device };
	static void (*const any[])(void) = { ring_huge, ring_zero, ring_indirect, ring_itself };
	unsigned int good = 0;

	for (unsigned int i = 0; i < ARRAY_SIZE(refused); i++) {
		bad_ring(dev, refused[i]);
		if (needs_reset(dev))
			good++;
		else
			say("malformed ring %u: status 0x%x\n", i, vdev_status(dev));
	}
	check_eq(good, ARRAY_SIZE(refused), "malformed rings: DEVICE_NEEDS_RESET");
	for (unsigned int i = 0; i < ARRAY_SIZE(any); i++)
		bad_ring(dev, any[i]);
	check(vdev_reset(dev), "odd buffers");
}

static void still_works(struct vdev *dev, unsigned int slot, uint32_t id)
{
	if (!vdev_start(dev, slot, &ring, 0))
		return;
	if (id == ID_RNG)
		check_eq((uint64_t)rng_do(dev, buf, 64), 64, "works all the same");
	else if (id == ID_BLK)
		check_eq((uint64_t)blk_do(dev, BLK_READ, 0, buf, 512), 0, "works all the same");
	else if (id == ID_CONSOLE)
		check(console_do(dev, "\nto the virtio console\n", 23), "works all the same");
}

void payload_main(void)
{
	unsigned int n = (unsigned int)arg_number("n", 1), times = (unsigned int)arg_number("times", 2000);
	struct vdev dev;

	for (unsigned int slot = 0; slot < n; slot++) {
		uint32_t id;

		dev = (struct vdev){ .base = machine_virtio_base(slot), .slot = slot, .ring = &ring };
		id = read32(dev.base + R_DEVICE_ID);
		/*
		 * The console's receive queue is looked at when there is input; the other one on
		 * every kick.
		 */
		dev.queue = id == ID_CONSOLE;
		say("slot %u, device %u:\n", slot, id);
		every_register(&dev);
		no_queues(&dev);
		bad_addresses(&dev);
		bad_rings(&dev);
		storm(&dev, times);
		random_registers(&dev, times);
		still_works(&dev, slot, id);
	}
	done();
}
