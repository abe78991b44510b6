/* SPDX-License-Identifier: MIT */
/* virtio-rng as its driver sees it. Linked with --wrap=getrandom. */
#include <linux/virtio_ids.h>
#include "tests/unit/allocs.h"
#include "tests/unit/driver.h"
#include "tests/unit/test.h"
#include "virtio/rng.h"

static struct {
	int interrupts;	  /* calls that fail with EINTR first */
	int fail_after;	  /* calls that work before ENOSYS; -1: all */
	int not_ready;	  /* EAGAIN to GRND_NONBLOCK */
	size_t short_max; /* the most one call gives, 0: all */
	size_t largest;	  /* call so far */
	size_t bytes;	  /* given so far */
} host;

ssize_t __wrap_getrandom(void *buf, size_t len, unsigned int flags)
{
	if (len > host.largest)
		host.largest = len;
	if (host.not_ready && flags) {
		errno = EAGAIN;
		return -1;
	}
	if (host.interrupts) {
		host.interrupts--;
		errno = EINTR;
		return -1;
	}
	if (!host.fail_after) {
		errno = ENOSYS;
		return -1;
	}
	if (host.fail_after > 0)
		host.fail_after--;
	if (host.short_max && len > host.short_max)
		len = host.short_max;
	/*
	 * never 0, so that a byte that was left out shows; a pattern, so that a repeated one does
	 */
	for (size_t i = 0; i < len; i++)
		((uint8_t *)buf)[i] = (uint8_t)(1 + (host.bytes + i) % 251);
	host.bytes += len;
	return (ssize_t)len;
}

static void setup(struct driver *d)
{
	struct virtio_dev *dev = NULL;

	memset(&host, 0, sizeof(host));
	host.fail_after = -1;
	CHECK_EQ(rng_create(&dev), 0);
	CHECK_EQ(driver_init(d, dev), 0);
	CHECK_EQ(driver_read(d, VIRTIO_MMIO_DEVICE_ID), VIRTIO_ID_RNG);
	CHECK(driver_start(d, 0, 256));
	while (driver_turn(d, 0))
		;
	host.bytes = host.largest = 0;
}

static void stop(struct driver *d)
{
	struct virtio_dev *dev = d->dev;

	driver_fini(d);
	dev->ops->destroy(dev);
}

/* The stream of the wrapper from byte @first on. */
static bool is_stream(struct driver *d, uint64_t gpa, size_t first, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (driver_ptr(d, gpa)[i] != 1 + (first + i) % 251)
			return false;
	return driver_ptr(d, gpa)[len] == 0;
}

static void test_fill(void)
{
	const struct driver_buf one = IN(DRIVER_DATA, 64), pieces[] = {
		IN(DRIVER_DATA + 0x1000, 1), IN(DRIVER_DATA + 0x2000, 300), IN(DRIVER_DATA + 0x3000, 7)
	};
	uint32_t head, len, want;
	struct driver d;

	setup(&d);
	want = driver_add(&d, 0, &one, 1);
	driver_kick(&d, 0);
	CHECK(driver_turn(&d, 0));
	CHECK(driver_used(&d, 0, 0, &head, &len));
	CHECK_EQ(head, want);
	CHECK_EQ(len, 64);
	CHECK(is_stream(&d, DRIVER_DATA, 0, 64));
	CHECK_EQ(driver_irqs(&d, 0), 1);
	CHECK(!driver_turn(&d, 0));

	/* interrupted and short calls change nothing but the time it takes */
	host.interrupts = 5;
	host.short_max = 100;
	driver_add(&d, 0, pieces, 3);
	driver_kick(&d, 0);
	CHECK(driver_turn(&d, 0));
	CHECK(driver_used(&d, 0, 0, &head, &len));
	CHECK_EQ(len, 308);
	CHECK(is_stream(&d, DRIVER_DATA + 0x1000, 64, 1));
	CHECK(is_stream(&d, DRIVER_DATA + 0x2000, 65, 300));
	CHECK(is_stream(&d, DRIVER_DATA + 0x3000, 365, 7));
	stop(&d);
}

/* A buffer of a megabyte gets 64 KiB and is told so. */
static void test_bounded(void)
{
	const struct driver_buf big = IN(DRIVER_DATA, 1 << 20);
	const struct driver_buf cut[] = { IN(DRIVER_DATA, 60000), IN(DRIVER_DATA + 0x20000, 60000) };
	uint32_t head, len;
	struct driver d;

	setup(&d);
	driver_add(&d, 0, &big, 1);
	driver_kick(&d, 0);
	driver_turn(&d, 0);
	CHECK(driver_used(&d, 0, 0, &head, &len));
	CHECK_EQ(len, 65536);
	CHECK(is_stream(&d, DRIVER_DATA, 0, 65536));
	CHECK(host.largest <= 65536);

	memset(driver_ptr(&d, DRIVER_DATA), 0, 0x40000);
	host.bytes = 0;
	driver_add(&d, 0, cut, 2);
	driver_kick(&d, 0);
	driver_turn(&d, 0);
	CHECK(driver_used(&d, 0, 0, &head, &len));
	CHECK_EQ(len, 65536);
	CHECK(is_stream(&d, DRIVER_DATA, 0, 60000));
	CHECK(is_stream(&d, DRIVER_DATA + 0x20000, 60000, 5536));
	stop(&d);
}

/*
 * A guest that has posted more than one turn's worth: the event loop gets its turn back, and
 * nothing is forgotten.
 */
static void test_turns(void)
{
	const struct driver_buf big = IN(DRIVER_DATA, 65536), tiny = IN(DRIVER_DATA, 1);
	unsigned int turns, used;
	uint32_t head, len;
	struct driver d;

	for (int small = 0; small < 2; small++) {
		setup(&d);
		for (unsigned int i = 0; i < 256; i++)
			driver_add(&d, 0, small ? &tiny : &big, 1);
		driver_kick(&d, 0);
		for (turns = used = 0; turns < 1000; turns++) {
			size_t before = host.bytes;
			unsigned int n = 0;

			if (!driver_turn(&d, 0))
				break;
			CHECK(host.bytes - before <= 512 * 1024);
			while (driver_used(&d, 0, 0, &head, &len)) {
				CHECK_EQ(len, small ? 1 : 65536);
				n++;
			}
			CHECK(n <= 64);
			used += n;
		}
		CHECK_EQ(used, 256);
		CHECK(turns >= 4 && turns < 256);
		stop(&d);
	}
}

/* Kicks are asked for again when the ring is empty. */
static void test_kicks(void)
{
	const struct driver_buf buf = IN(DRIVER_DATA, 8);
	uint32_t head, len;
	struct driver d;

	setup(&d);
	for (int i = 0; i < 3; i++) {
		CHECK(!(le16toh(d.q[0].used->flags) & VRING_USED_F_NO_NOTIFY));
		driver_add(&d, 0, &buf, 1);
		driver_kick(&d, 0);
		CHECK(driver_turn(&d, 0));
		CHECK(driver_used(&d, 0, 0, &head, &len));
	}
	/* a driver that wants no interrupt gets none */
	d.q[0].avail->flags = htole16(VRING_AVAIL_F_NO_INTERRUPT);
	driver_irqs(&d, 0);
	driver_add(&d, 0, &buf, 1);
	driver_kick(&d, 0);
	CHECK(driver_turn(&d, 0));
	CHECK(driver_used(&d, 0, 0, &head, &len));
	CHECK_EQ(driver_irqs(&d, 0), 0);
	stop(&d);
}

static void test_malformed(void)
{
	const struct driver_buf good = IN(DRIVER_DATA, 8), out = OUT(DRIVER_DATA, 8);
	const struct driver_buf mixed[] = { OUT(DRIVER_DATA, 8), IN(DRIVER_DATA, 8) };
	const struct driver_buf outside = IN(DRIVER_RAM_GPA + DRIVER_RAM_SIZE - 4, 8);
	const struct {
		const struct driver_buf *buf;
		unsigned int nr;
	} bad[] = { { &out, 1 }, { mixed, 2 }, { &outside, 1 } };
	uint32_t head, len;
	struct driver d;

	setup(&d);
	for (unsigned int i = 0; i < 3; i++) {
		driver_add(&d, 0, &good, 1);
		driver_add(&d, 0, bad[i].buf, bad[i].nr);
		driver_add(&d, 0, &good, 1);
		driver_kick(&d, 0);
		CHECK(driver_turn(&d, 0));
		CHECK(driver_needs_reset(&d));
		CHECK(driver_used(&d, 0, 0, &head, &len)); /* the one before it was served */
		CHECK(!driver_used(&d, 0, 0, &head, &len));
		driver_kick(&d, 0);
		driver_turn(&d, 0);
		CHECK(!driver_used(&d, 0, 0, &head, &len));
		CHECK(driver_start(&d, 0, 256));
		while (driver_turn(&d, 0))
			;
		driver_add(&d, 0, &good, 1);
		driver_kick(&d, 0);
		driver_turn(&d, 0);
		CHECK(driver_used(&d, 0, 0, &head, &len));
		CHECK_EQ(len, 8);
	}
	stop(&d);
}

/* The host fails: what was written is told, and never "0 bytes". */
static void test_host_fails(void)
{
	const struct driver_buf buf = IN(DRIVER_DATA, 100);
	struct virtio_dev *dev = NULL;
	uint32_t head, len;
	struct driver d;

	setup(&d);
	host.short_max = 40;
	host.fail_after = 1;
	driver_add(&d, 0, &buf, 1);
	driver_add(&d, 0, &buf, 1);
	driver_kick(&d, 0);
	driver_turn(&d, 0);
	CHECK(driver_used(&d, 0, 0, &head, &len));
	CHECK_EQ(len, 40);
	CHECK(!driver_used(&d, 0, 0, &head, &len));
	CHECK(driver_needs_reset(&d));
	stop(&d);

	host.fail_after = 0;
	CHECK_EQ(rng_create(&dev), -ENOSYS);
	CHECK(!dev);
	/* a host that has just booted */
	host.fail_after = -1;
	host.not_ready = 1;
	host.interrupts = 2;
	CHECK_EQ(rng_create(&dev), 0);
	dev->ops->destroy(dev);
}

int main(void)
{
	log_capture();
	RUN(test_fill);
	RUN(test_bounded);
	RUN(test_turns);
	RUN(test_kicks);
	RUN(test_malformed);
	RUN(test_host_fails);
	return TEST_RESULT();
}
