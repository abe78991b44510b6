/* SPDX-License-Identifier: MIT */
/*
 * Walks through the registers of a disk and an entropy device, and prints the words of their pages
 * whenever they change: two machines that print the same are the same to a driver, access by access.
 */
#include "tests/payload/payload.h"
#include "tests/payload/virtio.h"

#define PAGE  4096
#define WORDS (PAGE / 4)

static uint32_t last[WORDS];
static uint8_t bytes[PAGE];
static uint16_t halves[PAGE / 2];
static uint64_t longs[PAGE / 8];
static struct ring ring;
static uint8_t data[512];

/* What has changed since the last look, in the first @words. */
static void look(uint64_t base, unsigned int words)
{
	for (unsigned int i = 0; i < words; i++) {
		uint32_t v = read32(base + 4 * i);

		if (v != last[i])
			say("  0x%x: 0x%x\n", 4 * i, v);
		last[i] = v;
	}
}

/* In the whole page, by loads of every width. */
static void look_closely(uint64_t base)
{
	look(base, WORDS);
	for (unsigned int i = 0; i < PAGE; i++)
		bytes[i] = read8(base + i);
	for (unsigned int i = 0; i < PAGE / 2; i++)
		halves[i] = read16(base + 2 * i);
	for (unsigned int i = 0; i < PAGE / 8; i++)
		longs[i] = read64(base + 8 * i);
	if (memcmp(bytes, last, PAGE) || memcmp(halves, last, PAGE) || memcmp(longs, last, PAGE))
		say("FAIL widths differ\n");
}

static void step(uint64_t base, uint32_t offset, uint32_t value)
{
	say("0x%x = 0x%x\n", offset, value);
	write32(base + offset, value);
	look(base, 0x180 / 4);
}

/* A driver's way to DRIVER_OK, a request, and back. */
static void life(unsigned int slot)
{
	struct vdev dev = { 0 };

	if (!vdev_start(&dev, slot, &ring, 0)) {
		say("FAIL the device does not start\n");
		return;
	}
	look_closely(dev.base);
	if (slot == 1)
		check_eq((uint64_t)rng_do(&dev, data, sizeof(data)), sizeof(data), "random bytes");
	else
		check_eq((uint64_t)blk_do(&dev, BLK_READ, 0, data, sizeof(data)), 0, "a sector");
	settle();
	look_closely(dev.base);
	step(dev.base, R_INTERRUPT_ACK, 1);
	step(dev.base, R_STATUS, 0);
}

/* Steps that no driver takes, but for DRIVER_OK: what a device does then is a matter of time. */
static void wander(uint64_t base)
{
	for (unsigned int i = 0; i < 150; i++) {
		uint32_t offset = random32() % 0x140 & ~3u, value = random32();

		if (random32() % 4)
			value %= 16;
		if (offset == R_STATUS)
			value &= ~(uint32_t)S_DRIVER_OK;
		step(base, offset, value);
	}
	step(base, R_STATUS, 0);
}

void payload_main(void)
{
	for (unsigned int slot = 0; slot < 2; slot++) {
		static const uint32_t steps[][2] = {
			{ R_DEVICE_FEATURES_SEL, 1 }, { R_DEVICE_FEATURES_SEL, 2 }, { R_DEVICE_FEATURES_SEL, 0 },
			{ R_QUEUE_SEL, 1 }, { R_QUEUE_SEL, 77 }, { R_QUEUE_SEL, 0 },
			{ R_STATUS, S_ACK }, { R_STATUS, S_ACK | S_DRIVER },
			{ R_STATUS, S_ACK | S_DRIVER | S_FEATURES_OK }, /* without VERSION_1 */
			{ R_STATUS, S_FAILED }, { R_STATUS, 0 },
			{ R_CONFIG, 0xffffffff }, { R_CONFIG + 32, 1 }, { R_MAGIC, 0 }, { R_CONFIG_GENERATION, 5 },
			{ R_INTERRUPT_ACK, 3 }, { R_SHM_SEL, 1 }, { R_QUEUE_RESET, 1 },
		};
		uint64_t base = machine_virtio_base(slot);

		memset(last, 0, sizeof(last));
		say("slot %u\n", slot);
		look_closely(base);
		for (unsigned int i = 0; i < ARRAY_SIZE(steps); i++)
			step(base, steps[i][0], steps[i][1]);
		life(slot);
		wander(base);
		life(slot);
	}
	done();
}
