/* SPDX-License-Identifier: MIT */
/*
 * Entropy device in slot 0: the kick goes in by ioeventfd, the interrupt comes by irqfd, on the pin
 * that the slot has, once each.
 */
#include "tests/payload/payload.h"
#include "tests/payload/virtio.h"

#define REQUESTS 50
#define BYTES	 64

static struct ring ring;
static uint8_t buf[BYTES], first[BYTES];

/*
 * Kicks of an idle queue, with a stop before and after them so that somebody can count the VMM's
 * exits.
 */
static void kicks(struct vdev *dev, uint64_t n)
{
	say("before\n");
	machine_getc(20);
	while (n--)
		vdev_kick(dev, 0);
	say("after\n");
	machine_getc(20);
	done();
}

void payload_main(void)
{
	struct vdev dev = { 0 };
	uint32_t good = 0, early = 0, before;
	bool varied = false, differ = false;

	if (!vdev_start(&dev, 0, &ring, 0))
		die("entropy device does not start");
	check_eq(read32(dev.base + R_DEVICE_ID), ID_RNG, "DeviceID");
	if (arg_number("kicks", 0))
		kicks(&dev, arg_number("kicks", 0));
	irq_on(dev.gsi);
	settle();
	before = irq_count[dev.gsi];
	check_eq(before, 0, "no interrupt before a request");
	for (uint32_t i = 0; i < REQUESTS; i++) {
		memset(buf, 0, sizeof(buf));
		if (rng_do(&dev, buf, sizeof(buf)) == sizeof(buf))
			good++;
		/* The next request only after this one's interrupt: two of them may come as one. */
		if (!wait_count(&irq_count[dev.gsi], i + 1))
			break;
		early += irq_count[dev.gsi] != i + 1;
		write32(dev.base + R_INTERRUPT_ACK, read32(dev.base + R_INTERRUPT_STATUS));
		for (unsigned int k = 1; k < BYTES; k++)
			varied |= buf[k] != buf[0];
		if (i)
			differ |= memcmp(buf, first, BYTES) != 0;
		else
			memcpy(first, buf, BYTES);
	}
	settle();
	check_eq(good, REQUESTS, "requests filled whole");
	check_eq(irq_count[dev.gsi], REQUESTS, "one interrupt a request, on the slot's own pin");
	check_eq(early, 0, "never one too many");
	check(varied && differ, "bytes vary");

	/* VRING_AVAIL_F_NO_INTERRUPT */
	ring.avail.flags = 1;
	check_eq((uint64_t)rng_do(&dev, buf, sizeof(buf)), sizeof(buf), "request without interrupt");
	settle();
	check_eq(irq_count[dev.gsi], REQUESTS, "and none came");
	ring.avail.flags = 0;

	check(vdev_reset(&dev), "reset");
	check(vdev_start(&dev, 0, &ring, 0) && rng_do(&dev, buf, 8) == 8, "works again after a reset");
	done();
}
