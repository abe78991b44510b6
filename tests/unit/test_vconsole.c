/* SPDX-License-Identifier: MIT */
/*
 * virtio-console as its driver sees it, on a console of the test's own that takes what the test
 * lets it take.
 */
#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>
#include "tests/unit/allocs.h"
#include "tests/unit/driver.h"
#include "tests/unit/snapshot.h"
#include "tests/unit/test.h"
#include "virtio/vconsole.h"
#include "vm/console.h"

#define RX 0
#define TX 1

#define OUT_MAX (4u << 20)

struct console {
	uint8_t out[OUT_MAX];
	size_t out_len;
	size_t room; /* what console_write() still takes */
	size_t dropped;
	unsigned int writes, resumes, attaches, detaches;
	bool has_size;
	uint16_t cols, rows;
	const struct console_sink *sink;
};

static struct console con;

size_t console_write(struct console *c, const void *buf, size_t len)
{
	if (len > c->room)
		len = c->room;
	if (len > OUT_MAX - c->out_len)
		len = OUT_MAX - c->out_len;
	memcpy(c->out + c->out_len, buf, len);
	c->out_len += len;
	c->room -= len;
	c->writes++;
	return len;
}

void console_drop(struct console *c, size_t len)
{
	c->dropped += len;
}

void console_attach(struct console *c, const struct console_sink *sink)
{
	c->sink = sink;
	c->attaches++;
}

void console_detach(struct console *c, const struct console_sink *sink)
{
	CHECK(c->sink == sink);
	c->sink = NULL;
	c->detaches++;
}

void console_resume_input(struct console *c)
{
	c->resumes++;
}

bool console_size(struct console *c, uint16_t *cols, uint16_t *rows)
{
	*cols = c->cols;
	*rows = c->rows;
	return c->has_size;
}

static void turns(struct driver *d)
{
	for (int i = 0; i < 1000 && (driver_turn(d, RX) | driver_turn(d, TX)); i++)
		;
}

static void setup(struct driver *d, bool size)
{
	struct virtio_dev *dev = NULL;

	memset(&con, 0, sizeof(con));
	con.room = SIZE_MAX;
	con.has_size = size;
	con.cols = 80;
	con.rows = 25;
	CHECK_EQ(vconsole_create(&dev, &con), 0);
	CHECK_EQ(driver_init(d, dev), 0);
}

static void start(struct driver *d, bool size)
{
	setup(d, size);
	CHECK(driver_start(d, size ? 1ull << VIRTIO_CONSOLE_F_SIZE : 0, 64));
	turns(d);
	driver_irqs(d, 0);
}

static void stop(struct driver *d)
{
	struct virtio_dev *dev = d->dev;

	driver_fini(d);
	dev->ops->destroy(dev);
	CHECK(!con.sink);
}

static void fill(struct driver *d, uint64_t gpa, size_t len)
{
	for (size_t i = 0; i < len; i++)
		driver_ptr(d, gpa)[i] = (uint8_t)(i * 31 + i / 256);
}

static void test_identity(void)
{
	struct driver d;

	setup(&d, true);
	CHECK_EQ(driver_read(&d, VIRTIO_MMIO_DEVICE_ID), VIRTIO_ID_CONSOLE);
	CHECK(driver_offered(&d) >> VIRTIO_CONSOLE_F_SIZE & 1);
	CHECK(driver_offered(&d) >> VIRTIO_CONSOLE_F_EMERG_WRITE & 1);
	CHECK(!(driver_offered(&d) >> VIRTIO_CONSOLE_F_MULTIPORT & 1));
	CHECK_EQ(driver_read(&d, VIRTIO_MMIO_CONFIG), 25 << 16 | 80);
	CHECK_EQ(driver_read(&d, VIRTIO_MMIO_CONFIG + 4), 1);
	CHECK_EQ(con.attaches, 0); /* the input is still somebody else's */
	stop(&d);
	setup(&d, false);
	CHECK(!(driver_offered(&d) >> VIRTIO_CONSOLE_F_SIZE & 1));
	CHECK_EQ(driver_read(&d, VIRTIO_MMIO_CONFIG), 0);
	stop(&d);
}

static void test_output(void)
{
	const struct driver_buf one = OUT(DRIVER_DATA, 5);
	const struct driver_buf pieces[] = { OUT(DRIVER_DATA, 100), OUT(DRIVER_DATA + 100, 1),
					     OUT(DRIVER_DATA + 101, 899) };
	uint32_t head, len, want;
	struct driver d;

	start(&d, false);
	memcpy(driver_ptr(&d, DRIVER_DATA), "hello", 5);
	want = driver_add(&d, TX, &one, 1);
	driver_kick(&d, TX);
	CHECK(driver_turn(&d, TX));
	CHECK_EQ(con.out_len, 5);
	CHECK(!memcmp(con.out, "hello", 5));
	CHECK(driver_used(&d, TX, 0, &head, &len));
	CHECK_EQ(head, want);
	CHECK_EQ(len, 0); /* nothing was written to the guest's memory */
	CHECK_EQ(driver_irqs(&d, 0), 1);

	con.out_len = 0;
	fill(&d, DRIVER_DATA, 1000);
	driver_add(&d, TX, pieces, 3);
	driver_kick(&d, TX);
	CHECK(driver_turn(&d, TX));
	CHECK_EQ(con.out_len, 1000);
	CHECK(!memcmp(con.out, driver_ptr(&d, DRIVER_DATA), 1000));
	CHECK(!driver_turn(&d, TX));
	stop(&d);
}

/*
 * A reader that takes its time: the chain waits, in the middle of a buffer, and no byte is lost or
 * said twice.
 */
static void test_output_held(void)
{
	const struct driver_buf pieces[] = { OUT(DRIVER_DATA, 300), OUT(DRIVER_DATA + 300, 700) };
	const struct driver_buf more = OUT(DRIVER_DATA + 1000, 1000);
	uint32_t head, len;
	struct driver d;

	start(&d, false);
	fill(&d, DRIVER_DATA, 2000);
	con.room = 450;
	driver_add(&d, TX, pieces, 2);
	driver_add(&d, TX, &more, 1);
	driver_kick(&d, TX);
	CHECK(driver_turn(&d, TX));
	CHECK_EQ(con.out_len, 450);
	CHECK(!driver_used(&d, TX, 0, &head, &len));
	CHECK(!driver_turn(&d, TX)); /* it waits, it does not spin */
	/* kicks meanwhile change nothing */
	driver_force_kick(&d, TX);
	CHECK(driver_turn(&d, TX));
	CHECK_EQ(con.out_len, 450);
	CHECK_EQ(driver_irqs(&d, 0), 0);
	for (int i = 0; i < 1550 / 50; i++) {
		con.room = 50;
		con.sink->room(con.sink->opaque);
		CHECK_EQ(con.out_len, 450 + (i + 1) * 50);
	}
	CHECK(!memcmp(con.out, driver_ptr(&d, DRIVER_DATA), 2000));
	CHECK(driver_used(&d, TX, 0, &head, &len));
	CHECK(driver_used(&d, TX, 0, &head, &len));
	CHECK(driver_irqs(&d, 0) > 0);
	con.room = SIZE_MAX;
	con.sink->room(con.sink->opaque);
	CHECK_EQ(con.out_len, 2000);

	/* a reset with a chain held: forgotten, and the next life starts clean */
	con.room = 10;
	con.out_len = 0;
	driver_add(&d, TX, &more, 1);
	driver_kick(&d, TX);
	CHECK(driver_turn(&d, TX));
	CHECK_EQ(con.out_len, 10);
	driver_reset(&d);
	CHECK(!con.sink);
	con.room = SIZE_MAX;
	CHECK(driver_start(&d, 0, 64));
	turns(&d);
	CHECK_EQ(con.out_len, 10);
	driver_add(&d, TX, pieces, 2);
	driver_kick(&d, TX);
	turns(&d);
	CHECK_EQ(con.out_len, 1010);
	CHECK(!memcmp(con.out + 10, driver_ptr(&d, DRIVER_DATA), 1000));
	stop(&d);
}

/* More than one turn's worth: all of it comes, in several turns. */
static void test_output_turns(void)
{
	const struct driver_buf big = OUT(DRIVER_DATA, 300000), tiny = OUT(DRIVER_DATA, 1);
	uint32_t head, len;
	unsigned int n;
	struct driver d;

	start(&d, false);
	fill(&d, DRIVER_DATA, 300000);
	for (int i = 0; i < 3; i++)
		driver_add(&d, TX, &big, 1);
	driver_kick(&d, TX);
	for (n = 0; n < 100; n++) {
		size_t before = con.out_len;

		if (!driver_turn(&d, TX))
			break;
		CHECK(con.out_len - before <= CONSOLE_RING);
	}
	CHECK(n > 10 && n < 100);
	CHECK_EQ(con.out_len, 900000);
	for (int i = 0; i < 3; i++) {
		CHECK(!memcmp(con.out + i * 300000, driver_ptr(&d, DRIVER_DATA), 300000));
		CHECK(driver_used(&d, TX, 0, &head, &len));
	}
	stop(&d);

	setup(&d, false);
	CHECK(driver_start(&d, 0, 256));
	turns(&d);
	for (int i = 0; i < 256; i++)
		driver_add(&d, TX, &tiny, 1);
	driver_kick(&d, TX);
	for (n = 0; n < 100; n++) {
		size_t before = con.out_len;

		if (!driver_turn(&d, TX))
			break;
		CHECK(con.out_len - before <= 64);
	}
	CHECK_EQ(con.out_len, 256);
	CHECK(n >= 4 && n < 10);
	stop(&d);
}

static void test_input(void)
{
	const struct driver_buf small = IN(DRIVER_DATA, 4);
	const struct driver_buf two[] = { IN(DRIVER_DATA + 0x1000, 3), IN(DRIVER_DATA + 0x2000, 10) };
	const uint8_t *words = (const uint8_t *)"0123456789abcdef";
	uint32_t head, len;
	struct driver d;

	start(&d, false);
	CHECK_EQ(con.attaches, 1);
	/* no buffers: nothing is taken, and a kick asks for it again */
	CHECK_EQ(con.sink->input(con.sink->opaque, words, 16), 0);
	CHECK_EQ(con.resumes, 0);
	CHECK(!(le16toh(d.q[RX].used->flags) & VRING_USED_F_NO_NOTIFY));
	driver_add(&d, RX, &small, 1);
	driver_kick(&d, RX);
	CHECK(driver_turn(&d, RX));
	CHECK_EQ(con.resumes, 1);
	/* only what the buffers hold */
	CHECK_EQ(con.sink->input(con.sink->opaque, words, 16), 4);
	CHECK(driver_used(&d, RX, 0, &head, &len));
	CHECK_EQ(len, 4);
	CHECK(!memcmp(driver_ptr(&d, DRIVER_DATA), "0123\0", 5));
	CHECK_EQ(driver_irqs(&d, 0), 1);
	driver_add(&d, RX, two, 2);
	driver_add(&d, RX, &small, 1);
	driver_kick(&d, RX);
	CHECK(driver_turn(&d, RX));
	CHECK_EQ(con.resumes, 2);
	CHECK_EQ(con.sink->input(con.sink->opaque, words + 4, 12), 12);
	CHECK(driver_used(&d, RX, 0, &head, &len));
	CHECK_EQ(len, 12);
	CHECK(!memcmp(driver_ptr(&d, DRIVER_DATA + 0x1000), "456\0", 4));
	CHECK(!memcmp(driver_ptr(&d, DRIVER_DATA + 0x2000), "789abcdef\0", 10));
	CHECK(!driver_used(&d, RX, 0, &head, &len));
	/* the rest of a buffer is not kept for later: what was typed is there now */
	CHECK_EQ(con.sink->input(con.sink->opaque, words, 1), 1);
	CHECK(driver_used(&d, RX, 0, &head, &len));
	CHECK_EQ(len, 1);
	/* each buffer's length is its own */
	driver_add(&d, RX, &small, 1);
	driver_add(&d, RX, two, 2);
	CHECK_EQ(con.sink->input(con.sink->opaque, words, 6), 6);
	CHECK(driver_used(&d, RX, 0, &head, &len));
	CHECK_EQ(len, 4);
	CHECK(driver_used(&d, RX, 0, &head, &len));
	CHECK_EQ(len, 2);
	CHECK(!memcmp(driver_ptr(&d, DRIVER_DATA + 0x1000), "456", 3));
	/* nobody waits: a kick resumes nothing, and the next is spared */
	driver_add(&d, RX, &small, 1);
	driver_force_kick(&d, RX);
	driver_turn(&d, RX);
	CHECK_EQ(con.resumes, 2);
	CHECK(le16toh(d.q[RX].used->flags) & VRING_USED_F_NO_NOTIFY);
	CHECK(!driver_turn(&d, RX));
	stop(&d);
	CHECK_EQ(con.detaches, 1);
}

/* Input that meets more tiny buffers than one turn takes is asked for again. */
static void test_input_turns(void)
{
	static uint8_t words[300];
	const struct driver_buf tiny = IN(DRIVER_DATA, 1);
	size_t done = 0;
	struct driver d;

	setup(&d, false);
	CHECK(driver_start(&d, 0, 256));
	turns(&d);
	for (int i = 0; i < 256; i++)
		driver_add(&d, RX, &tiny, 1);
	driver_kick(&d, RX);
	turns(&d);
	for (int i = 0; i < 20; i++) {
		unsigned int resumes = con.resumes;
		size_t n = con.sink->input(con.sink->opaque, words, sizeof(words) - done);

		CHECK(n <= 64);
		done += n;
		turns(&d);
		if (con.resumes == resumes)
			break;
	}
	CHECK_EQ(done, 256);
	stop(&d);
}

/* A callback that was under way when the guest reset finds the device down. */
static void test_late_callbacks(void)
{
	const struct driver_buf buf = IN(DRIVER_DATA, 4);
	struct console_sink sink;
	struct driver d;

	start(&d, true);
	sink = *con.sink;
	driver_add(&d, RX, &buf, 1);
	driver_reset(&d);
	CHECK_EQ(con.detaches, 1);
	CHECK_EQ(sink.input(sink.opaque, (const uint8_t *)"x", 1), 0);
	sink.room(sink.opaque);
	sink.resize(sink.opaque, 1, 1);
	CHECK_EQ(*driver_ptr(&d, DRIVER_DATA), 0);
	CHECK_EQ(driver_read(&d, VIRTIO_MMIO_CONFIG), 25 << 16 | 80);
	stop(&d);
	CHECK_EQ(con.detaches, 1);
}

static void test_resize(void)
{
	uint32_t generation;
	struct driver d;

	start(&d, true);
	generation = driver_read(&d, VIRTIO_MMIO_CONFIG_GENERATION);
	con.sink->resize(con.sink->opaque, 132, 50);
	CHECK_EQ(driver_read(&d, VIRTIO_MMIO_CONFIG), 50 << 16 | 132);
	CHECK_EQ(driver_read(&d, VIRTIO_MMIO_CONFIG_GENERATION), generation + 1);
	CHECK(driver_read(&d, VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG);
	CHECK_EQ(driver_irqs(&d, 0), 1);
	con.sink->resize(con.sink->opaque, 132, 50);
	CHECK_EQ(driver_read(&d, VIRTIO_MMIO_CONFIG_GENERATION), generation + 1);
	/* resized while no driver was there */
	driver_reset(&d);
	con.cols = 100;
	con.rows = 40;
	CHECK(driver_start(&d, 1ull << VIRTIO_CONSOLE_F_SIZE, 64));
	CHECK_EQ(driver_read(&d, VIRTIO_MMIO_CONFIG), 40 << 16 | 100);
	stop(&d);
}

static void test_emergency_write(void)
{
	static const uint8_t word[4] = { 'A', 0, 0, 0 };
	uint8_t byte = 'B';
	struct driver d;

	setup(&d, false);
	virtio_mmio_access(&d.mmio, VIRTIO_MMIO_CONFIG + 8, (uint8_t *)word, 4, true);
	virtio_mmio_access(&d.mmio, VIRTIO_MMIO_CONFIG + 8, &byte, 1, true);
	CHECK_EQ(con.out_len, 2);
	CHECK(!memcmp(con.out, "AB", 2));
	/* the rest of the config space is not writable */
	virtio_mmio_access(&d.mmio, VIRTIO_MMIO_CONFIG, (uint8_t *)word, 4, true);
	virtio_mmio_access(&d.mmio, VIRTIO_MMIO_CONFIG + 4, (uint8_t *)word, 4, true);
	virtio_mmio_access(&d.mmio, VIRTIO_MMIO_CONFIG + 9, &byte, 1, true);
	CHECK_EQ(con.out_len, 2);
	CHECK_EQ(driver_read(&d, VIRTIO_MMIO_CONFIG + 8), 0);
	con.room = 0;
	virtio_mmio_access(&d.mmio, VIRTIO_MMIO_CONFIG + 8, &byte, 1, true);
	CHECK_EQ(con.dropped, 1);
	stop(&d);
}

static void test_malformed(void)
{
	const struct driver_buf in = IN(DRIVER_DATA, 8), out = OUT(DRIVER_DATA, 8);
	const struct driver_buf mixed[] = { OUT(DRIVER_DATA, 8), IN(DRIVER_DATA, 8) };
	const struct driver_buf outside = OUT(DRIVER_RAM_GPA + DRIVER_RAM_SIZE - 4, 8);
	const struct {
		unsigned int q;
		const struct driver_buf *buf;
		unsigned int nr;
	} bad[] = { { TX, &in, 1 }, { TX, mixed, 2 }, { TX, &outside, 1 }, { RX, &out, 1 }, { RX, mixed, 2 } };
	struct driver d;

	start(&d, false);
	for (unsigned int i = 0; i < 5; i++) {
		con.out_len = 0;
		driver_add(&d, bad[i].q, bad[i].buf, bad[i].nr);
		driver_kick(&d, bad[i].q);
		turns(&d);
		if (bad[i].q == RX)
			CHECK_EQ(con.sink->input(con.sink->opaque, (const uint8_t *)"x", 1), 0);
		CHECK(driver_needs_reset(&d));
		CHECK_EQ(con.out_len, 0);
		/* nothing moves any more, in either direction */
		driver_add(&d, RX, &in, 1);
		driver_add(&d, TX, &out, 1);
		driver_kick(&d, TX);
		turns(&d);
		con.sink->room(con.sink->opaque);
		CHECK_EQ(con.sink->input(con.sink->opaque, (const uint8_t *)"x", 1), 0);
		CHECK_EQ(con.out_len, 0);
		CHECK(driver_start(&d, 0, 64));
		turns(&d);
		driver_add(&d, TX, &out, 1);
		driver_kick(&d, TX);
		turns(&d);
		CHECK_EQ(con.out_len, 8);
	}
	stop(&d);
}

/* Output that waits in the middle of a chain goes on there, in this machine and in the next. */
static void test_pause_output(void)
{
	const struct driver_buf pieces[] = { OUT(DRIVER_DATA, 300), OUT(DRIVER_DATA + 300, 700) };
	const struct driver_buf more = OUT(DRIVER_DATA + 1000, 1000);
	const struct console_sink *old;
	uint32_t head, len;
	struct virtio_dev *dev;
	struct snapshot snap = { .len = 0 };
	struct driver d, e;

	start(&d, false);
	fill(&d, DRIVER_DATA, 2000);
	con.room = 450;
	driver_add(&d, TX, pieces, 2);
	driver_add(&d, TX, &more, 1);
	driver_kick(&d, TX);
	turns(&d);
	virtio_mmio_pause(&d.mmio);
	CHECK_EQ(d.dev->vq[TX].in_flight, 0);
	con.room = 100;
	con.sink->room(con.sink->opaque);
	driver_force_kick(&d, TX);
	turns(&d);
	CHECK_EQ(con.out_len, 450); /* still */
	virtio_mmio_resume(&d.mmio);
	turns(&d);
	CHECK_EQ(con.out_len, 550);
	CHECK(!driver_used(&d, TX, 0, &head, &len));

	virtio_mmio_pause(&d.mmio);
	old = con.sink;
	CHECK_EQ(vconsole_create(&dev, &con), 0);
	CHECK_EQ(snapshot_move(&e, dev, &d, &snap), 0);
	CHECK(con.sink == old); /* nothing before resume */
	con.room = 0;
	virtio_mmio_resume(&e.mmio);
	CHECK(con.sink && con.sink != old);
	turns(&e);
	CHECK_EQ(con.out_len, 550);
	con.room = SIZE_MAX;
	con.sink->room(con.sink->opaque);
	turns(&e);
	CHECK_EQ(con.out_len, 2000);
	CHECK(!memcmp(con.out, driver_ptr(&e, DRIVER_DATA), 2000));
	CHECK(driver_used(&e, TX, 0, &head, &len));
	CHECK(driver_used(&e, TX, 0, &head, &len));
	CHECK(!driver_used(&e, TX, 0, &head, &len));
	driver_fini(&e);
	dev->ops->destroy(dev);
	con.sink = old;
	stop(&d);
}

static void test_pause_input(void)
{
	const struct driver_buf buf = IN(DRIVER_DATA, 8);
	struct driver d;
	unsigned int resumes;

	start(&d, true);
	driver_add(&d, RX, &buf, 1);
	driver_kick(&d, RX);
	turns(&d);
	virtio_mmio_pause(&d.mmio);
	CHECK_EQ(con.sink->input(con.sink->opaque, (const uint8_t *)"abc", 3), 0);
	CHECK_EQ(*driver_ptr(&d, DRIVER_DATA), 0);
	driver_irqs(&d, 0);
	con.cols = 132;
	con.sink->resize(con.sink->opaque, 132, 25);
	CHECK_EQ(driver_read(&d, VIRTIO_MMIO_CONFIG), 25 << 16 | 80);
	CHECK_EQ(driver_irqs(&d, 0), 0);
	resumes = con.resumes;
	virtio_mmio_resume(&d.mmio);
	CHECK_EQ(driver_read(&d, VIRTIO_MMIO_CONFIG), 25 << 16 | 132);
	turns(&d);
	CHECK_EQ(con.resumes, resumes + 1);
	CHECK_EQ(con.sink->input(con.sink->opaque, (const uint8_t *)"abc", 3), 3);
	CHECK(!memcmp(driver_ptr(&d, DRIVER_DATA), "abc", 3));
	stop(&d);
}

/* Every byte said once, in order, whatever comes between. */
static void test_pause_often(void)
{
	const struct driver_buf buf = OUT(DRIVER_DATA, 900);
	size_t taken = 0;
	uint32_t head, len;
	struct driver d;
	bool same = true;

	start(&d, false);
	fill(&d, DRIVER_DATA, 900);
	for (unsigned int i = 0; i < 1000; i++) {
		if (i % 2 == 0) {
			driver_add(&d, TX, &buf, 1);
			driver_kick(&d, TX);
		}
		con.room = i % 5 ? 451 : 7;
		virtio_mmio_pause(&d.mmio);
		con.sink->room(con.sink->opaque);
		CHECK_EQ(d.dev->vq[TX].in_flight, 0);
		virtio_mmio_resume(&d.mmio);
		turns(&d);
		while (driver_used(&d, TX, 0, &head, &len))
			taken++;
		if (d.q[TX].avail_idx - (unsigned int)taken > 50) {
			con.room = SIZE_MAX;
			driver_force_kick(&d, TX);
			turns(&d);
		}
	}
	con.room = SIZE_MAX;
	driver_force_kick(&d, TX);
	turns(&d);
	while (driver_used(&d, TX, 0, &head, &len))
		taken++;
	CHECK_EQ(taken, 500);
	CHECK_EQ(con.out_len, 500 * 900);
	for (size_t i = 0; i < con.out_len; i++)
		same = same && con.out[i] == driver_ptr(&d, DRIVER_DATA)[i % 900];
	CHECK(same);
	stop(&d);
}

static void test_snapshot_damaged(void)
{
	const struct driver_buf out = OUT(DRIVER_DATA, 100);
	struct snapshot snap = { .len = 0 }, bent;
	struct virtio_dev *dev;
	struct driver d, e;
	const struct console_sink *old;

	start(&d, true);
	con.room = 40;
	driver_add(&d, TX, &out, 1);
	driver_kick(&d, TX);
	turns(&d);
	old = con.sink;
	virtio_mmio_pause(&d.mmio);
	snapshot_save(&snap, &d.mmio);
	con.room = SIZE_MAX;
	for (size_t at = 0; at < snap.len; at++) {
		for (unsigned int k = 0; k < 3; k++) {
			int ret;

			bent = snap;
			if (k == 2)
				bent.len = at ? at : 1;
			else
				bent.p[at] ^= k ? 0x81 : 1;
			CHECK_EQ(vconsole_create(&dev, &con), 0);
			ret = snapshot_move(&e, dev, &d, &bent);
			CHECK(k < 2 || ret == -EBADMSG);
			CHECK(!ret || ret == -EBADMSG || ret == -EINVAL);
			if (!ret) {
				virtio_mmio_resume(&e.mmio);
				turns(&e);
				if (con.sink && con.sink != old)
					con.sink->input(con.sink->opaque, (const uint8_t *)"x", 1);
			}
			driver_fini(&e);
			dev->ops->destroy(dev);
			con.sink = old;
			con.out_len = 0;
		}
	}
	stop(&d);
}

/* Saved on a terminal, restored without one: the size is unknown then. */
static void test_snapshot_without_terminal(void)
{
	struct snapshot snap = { .len = 0 };
	const struct console_sink *old;
	struct virtio_dev *dev;
	struct driver d, e;

	start(&d, true);
	virtio_mmio_pause(&d.mmio);
	con.has_size = false;
	CHECK_EQ(vconsole_create(&dev, &con), 0);
	old = con.sink;
	CHECK_EQ(snapshot_move(&e, dev, &d, &snap), 0);
	CHECK_EQ(driver_read(&e, VIRTIO_MMIO_CONFIG), 0);
	CHECK(driver_read(&e, VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG);
	virtio_mmio_resume(&e.mmio);
	CHECK_EQ(driver_irqs(&e, 0), 1);
	driver_fini(&e);
	dev->ops->destroy(dev);
	con.sink = old;
	stop(&d);
}

int main(void)
{
	log_capture();
	RUN(test_identity);
	RUN(test_output);
	RUN(test_output_held);
	RUN(test_output_turns);
	RUN(test_input);
	RUN(test_input_turns);
	RUN(test_late_callbacks);
	RUN(test_resize);
	RUN(test_emergency_write);
	RUN(test_malformed);
	RUN(test_pause_output);
	RUN(test_pause_input);
	RUN(test_pause_often);
	RUN(test_snapshot_damaged);
	RUN(test_snapshot_without_terminal);
	return TEST_RESULT();
}
