/* SPDX-License-Identifier: MIT */
/*
 * Resets itself n=N times and works every time as at the first. The number is kept on the disk
 * (slot 0; slot 1 is an entropy device). At the numbers pause1= and pause2= it waits for a byte
 * from the console, so that somebody can look at the VMM meanwhile.
 */
#include "tests/payload/payload.h"
#include "tests/payload/virtio.h"

#define SECTOR	512
#define MARK_AT machine_ram(8 * MIB)
#define F_FLUSH (1ull << 9)

static struct ring disk_ring, rng_ring;
static struct vdev disk, rng;
static uint32_t sector[SECTOR / 4];
static uint8_t buf[64];

static void must(bool good, const char *what)
{
	if (good)
		return;
	say("at reset %u: ", sector[0]);
	say("\n");
	die(what);
}

void payload_main(void)
{
	uint32_t n = (uint32_t)arg_number("n", 100);

	must(vdev_start(&disk, 0, &disk_ring, F_FLUSH), "disk does not start");
	irq_on(disk.gsi);
	must(blk_do(&disk, BLK_READ, 0, sector, SECTOR) == 0, "disk can't be read");
	must(wait_count(&irq_count[disk.gsi], 1), "disk does not interrupt");
	must(read64(MARK_AT) == 0, "RAM is not clean");
	write64(MARK_AT, ~0ull);

	must(vdev_start(&rng, 1, &rng_ring, 0), "entropy device does not start");
	irq_on(rng.gsi);
	must(rng_do(&rng, buf, sizeof(buf)) == sizeof(buf), "no random bytes");
	must(wait_count(&irq_count[rng.gsi], 1), "entropy device does not interrupt");

	if (sector[0] == arg_number("pause1", ~0u) || sector[0] == arg_number("pause2", ~0u)) {
		say("at reset %u\n", sector[0]);
		must(machine_getc(20) == 'g', "no byte from the console");
	}
	if (sector[0] == n) {
		say("ok %u resets\n", n);
		done();
	}
	sector[0]++;
	must(blk_do(&disk, BLK_WRITE, 0, sector, SECTOR) == 0, "disk can't be written");
	must(blk_do(&disk, BLK_FLUSH, 0, NULL, 0) == 0, "disk can't be flushed");
	machine_reset(sector[0]);
}
