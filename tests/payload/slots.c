/* SPDX-License-Identifier: MIT */
/*
 * n=N disks: each slot's device is the right one and interrupts on its slot's pin, alone and all at
 * once.
 */
#include "tests/payload/payload.h"
#include "tests/payload/virtio.h"

#define MAX_SLOTS 32

static struct ring ring[MAX_SLOTS];
static struct vdev dev[MAX_SLOTS];
static struct blk_request req[MAX_SLOTS];
static char id[MAX_SLOTS][21];

static bool id_right(unsigned int slot)
{
	char want[20] = "vinit-disk";
	unsigned int at = 10;

	if (slot > 9)
		want[at++] = (char)('0' + slot / 10);
	want[at++] = (char)('0' + slot % 10);
	return !strcmp(id[slot], want);
}

static uint32_t all_interrupts(void)
{
	uint32_t sum = 0;

	for (unsigned int i = 0; i < MAX_GSI; i++)
		sum += irq_count[i];
	return sum;
}

static bool one(unsigned int i)
{
	uint32_t own = irq_count[dev[i].gsi], all = all_interrupts();

	memset(id[i], 0, sizeof(id[i]));
	if (blk_do(&dev[i], BLK_GET_ID, 0, id[i], 20) != 0) {
		say("FAIL slot %u: no answer\n", i);
		return false;
	}
	if (!wait_count(&irq_count[dev[i].gsi], own + 1)) {
		say("FAIL slot %u: no interrupt on pin %u\n", i, dev[i].gsi);
		return false;
	}
	if (all_interrupts() != all + 1) {
		say("FAIL slot %u: %u interrupts for one request\n", i, all_interrupts() - all);
		return false;
	}
	if (!id_right(i)) {
		say("FAIL slot %u: it says that it is \"%s\"\n", i, id[i]);
		return false;
	}
	return true;
}

void payload_main(void)
{
	unsigned int n = (unsigned int)arg_number("n", 1), good = 0;
	uint32_t before[MAX_GSI];

	for (unsigned int i = 0; i < n; i++) {
		if (!vdev_start(&dev[i], i, &ring[i], 0))
			die("disk does not start");
		irq_on(dev[i].gsi);
	}
	check_eq(read32(machine_virtio_base(n - 1) + R_DEVICE_ID), ID_BLK, "last slot is a disk");
	if (n < MAX_SLOTS)
		check_eq(read32(machine_virtio_base(n)), 0xffffffff, "next slot is empty");
	for (unsigned int i = 0; i < n; i++)
		good += one(i);
	check_eq(good, n, "each disk answers with its id and interrupts once, on its own pin");

	memcpy(before, (void *)irq_count, sizeof(before));
	for (unsigned int i = 0; i < n; i++) {
		memset(id[i], 0, sizeof(id[i]));
		blk_prepare(&dev[i], &req[i], BLK_GET_ID, 0, id[i], 20);
		vdev_put(&dev[i], 0);
	}
	for (unsigned int i = 0; i < n; i++)
		vdev_kick(&dev[i], 0);
	good = 0;
	for (unsigned int i = 0; i < n; i++) {
		if (vdev_wait(&dev[i]) >= 0 && id_right(i))
			good++;
	}
	settle();
	check_eq(good, n, "all at once");
	good = 0;
	for (unsigned int i = 0; i < n; i++)
		good += irq_count[dev[i].gsi] > before[dev[i].gsi];
	check_eq(good, n, "all at once: each pin interrupted");
	done();
}
