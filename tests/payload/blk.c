/* SPDX-License-Identifier: MIT */
/*
 * A disk over a reset of the machine. Sector 0 says which half of the test this is: what was
 * written and flushed before the reset is there after it, and nothing else of the machine remembers
 * anything.
 */
#include "tests/payload/payload.h"
#include "tests/payload/virtio.h"

#define SECTOR	 512
#define COUNT	 16 /* sectors of pattern */
#define FIRST	 8
#define F_FLUSH	 (1ull << 9)
#define MARK_AT	 machine_ram(8 * MIB)
#define MARK	 0x6d61726b6d61726bull

static struct ring ring;
static struct vdev dev;
static uint8_t sector[SECTOR], data[COUNT * SECTOR], back[COUNT * SECTOR];

static void pattern(void)
{
	for (unsigned int i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7 + i / 251);
}

static void before(void)
{
	uint64_t capacity = read64(dev.base + R_CONFIG);

	check_eq(capacity, arg_number("sectors", 0), "capacity");
	check_eq((uint64_t)blk_do(&dev, BLK_WRITE, FIRST, data, sizeof(data)), 0, "write");
	check_eq((uint64_t)blk_do(&dev, BLK_FLUSH, 0, NULL, 0), 0, "flush");
	check_eq((uint64_t)blk_do(&dev, BLK_READ, FIRST, back, sizeof(back)), 0, "read");
	check(!memcmp(data, back, sizeof(data)), "read back as written");
	check_eq((uint64_t)blk_do(&dev, BLK_READ, capacity - 1, back, SECTOR), 0, "read of the last sector");
	check_eq((uint64_t)blk_do(&dev, BLK_READ, capacity, back, SECTOR), 1, "read beyond the end fails");
	check_eq((uint64_t)blk_do(&dev, BLK_WRITE, capacity - 1, back, 2 * SECTOR), 1, "write across the end fails");
	check_eq((uint64_t)blk_do(&dev, BLK_READ, ~0ull, back, SECTOR), 1, "read of the last sector there could be fails");
	check_eq((uint64_t)blk_do(&dev, 77, 0, back, SECTOR), 2, "unknown request");

	sector[0] = 1;
	check_eq((uint64_t)blk_do(&dev, BLK_WRITE, 0, sector, SECTOR), 0, "write of sector 0");
	check_eq((uint64_t)blk_do(&dev, BLK_FLUSH, 0, NULL, 0), 0, "second flush");
	write64(MARK_AT, MARK);
	machine_soil();
	say("data: %u\n", checksum(data, sizeof(data)));
	machine_reset(0);
}

static void after(void)
{
	check_eq((uint64_t)blk_do(&dev, BLK_READ, FIRST, back, sizeof(back)), 0, "after the reset: read");
	check(!memcmp(data, back, sizeof(data)), "after the reset: data is there");
}

void payload_main(void)
{
	uint64_t mark = read64(MARK_AT), base = machine_virtio_base(0);
	uint32_t status = read32(base + R_STATUS), ready = read32(base + R_QUEUE_READY);
	uint32_t sel = read32(base + R_QUEUE_NUM_MAX);

	pattern();
	if (!vdev_start(&dev, 0, &ring, F_FLUSH))
		die("disk does not start");
	if (blk_do(&dev, BLK_READ, 0, sector, SECTOR) != 0)
		die("sector 0 can't be read");
	if (!sector[0]) {
		before();
		die("no reset");
	}
	check_eq(mark, 0, "after the reset: RAM is clean");
	check_eq(status, 0, "after the reset: Status");
	check_eq(ready, 0, "after the reset: QueueReady");
	check(sel > 0, "after the reset: QueueSel");
	machine_check_clean();
	after();
	done();
}
