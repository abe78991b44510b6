/* SPDX-License-Identifier: MIT */
/*
 * Any VIRT section against a device (the console, or the random numbers), and then a driver that
 * goes on with it, whatever is in its RAM. Input: the device, the section's length, the section, and
 * what is written to RAM and registers.
 */
#include "virtio/mmio.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include "arch/arch.h"
#include "tests/unit/snapshot.h"
#include "virtio/rng.h"
#include "virtio/vconsole.h"
#include "vm/console.h"
#include "vm/irq.h"
#include "vm/kvm.h"
#include "vm/log.h"
#include "vm/memory.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int kvm_ioctl_named(int fd, unsigned long request, const char *name, void *arg)
{
	return -ENOSYS;
}

int kvm_ioctl_raw(int fd, unsigned long request, void *arg)
{
	return -ENOSYS;
}

uint32_t arch_irq_number(uint32_t gsi)
{
	return gsi;
}

/* --- a console that takes little at a time ---------------------------------------------------- */

struct console {
	const struct console_sink *sink;
	size_t room;
};

size_t console_write(struct console *c, const void *buf, size_t len)
{
	static volatile uint8_t last;
	size_t n = len < c->room ? len : c->room;

	if (n)
		last = ((const uint8_t *)buf)[n - 1];
	(void)last;
	c->room -= n;
	return n;
}

void console_drop(struct console *c, size_t len)
{
}

void console_attach(struct console *c, const struct console_sink *sink)
{
	c->sink = sink;
}

void console_detach(struct console *c, const struct console_sink *sink)
{
	c->sink = NULL;
}

void console_resume_input(struct console *c)
{
}

bool console_size(struct console *c, uint16_t *cols, uint16_t *rows)
{
	*cols = 80;
	*rows = 25;
	return true;
}

/* --- the machine ------------------------------------------------------------------------------ */

#define RAM_GPA	 0x100000
#define RAM_SIZE 0x20000

#define MUST(cond)                                                                                 \
	do {                                                                                       \
		if (!(cond))                                                                       \
			abort();                                                                   \
	} while (0)

struct fuzz {
	struct virtio_mmio mmio;
	struct memory mem;
	struct irq_line irq;
	struct console console;
	uint8_t *ram;
	const uint8_t *data;
	size_t left;
};

static uint32_t take(struct fuzz *f, unsigned int n)
{
	uint32_t v = 0;

	for (unsigned int i = 0; i < n && f->left; i++, f->left--)
		v |= (uint32_t)*f->data++ << 8 * i;
	return v;
}

static void check(struct fuzz *f)
{
	const struct virtio_dev *dev = f->mmio.dev;
	uint32_t status = f->mmio.reg[VIRTIO_MMIO_STATUS / 4];

	MUST(!(dev->acked & ~f->mmio.offered));
	MUST(!dev->active || status & VIRTIO_CONFIG_S_DRIVER_OK);
	for (unsigned int i = 0; i < dev->nr_queues; i++) {
		const struct queue *q = &dev->vq[i];

		MUST(q->num <= QUEUE_MAX_SIZE && !(q->num & (q->num - 1)));
		MUST(!q->active || (q->ready && q->num && queue_in_place(q)));
		MUST(q->in_flight <= 1);
	}
}

static void turn(struct fuzz *f)
{
	struct virtio_dev *dev = f->mmio.dev;

	for (unsigned int q = 0; q < dev->nr_queues; q++)
		f->mmio.kick[q].fn(&f->mmio.kick[q], EPOLLIN);
	if (f->console.sink) {
		f->console.room = 1000;
		f->console.sink->room(f->console.sink->opaque);
		f->console.sink->input(f->console.sink->opaque, (const uint8_t *)"typed", 5);
	}
}

/* What was loaded, saved again, says the same to a second device. */
static void save_again(struct fuzz *f)
{
	struct snapshot again;

	virtio_mmio_pause(&f->mmio);
	snapshot_save(&again, &f->mmio);
	MUST(!again.err);
	virtio_mmio_resume(&f->mmio);
}

static void drive(struct fuzz *f)
{
	for (unsigned int n = 0; f->left && n < 256; n++) {
		unsigned int op = take(f, 1), len;
		uint32_t at, v;

		switch (op % 4) {
		case 0:
			at = take(f, 3) % RAM_SIZE;
			for (len = take(f, 1) % 65; len && at < RAM_SIZE; len--)
				f->ram[at++] = take(f, 1);
			break;
		case 1:
			at = take(f, 1) & 0xfc;
			v = take(f, 2);
			virtio_mmio_access(&f->mmio, at, (uint8_t *)&v, 4, true);
			break;
		case 2:
			turn(f);
			break;
		case 3:
			f->console.room = take(f, 1);
			save_again(f);
			break;
		}
		check(f);
	}
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	log_set_fd(-1, false);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz *f = calloc(1, sizeof(*f));
	struct virtio_dev *dev = NULL;
	struct snapshot snap;
	void *ram = NULL;

	if (!f || posix_memalign(&ram, 4096, RAM_SIZE))
		return 0;
	memset(ram, 0, RAM_SIZE);
	f->ram = ram;
	f->data = data;
	f->left = size;
	memory_init(&f->mem, -1);
	f->mem.region[f->mem.nr++] = (struct memory_region){ .gpa = RAM_GPA, .size = RAM_SIZE, .hva = ram };
	f->irq.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	MUST(!(take(f, 1) & 1 ? vconsole_create(&dev, &f->console) : rng_create(&dev)));
	MUST(!virtio_mmio_init(&f->mmio, dev, &f->mem, NULL, &f->irq));

	snap.len = take(f, 1);
	if (snap.len > f->left)
		snap.len = f->left;
	memcpy(snap.p, f->data, snap.len);
	f->data += snap.len;
	f->left -= snap.len;
	if (!snapshot_load(&snap, &f->mmio)) {
		check(f);
		virtio_mmio_resume(&f->mmio);
		drive(f);
	}
	virtio_mmio_fini(&f->mmio);
	dev->ops->destroy(dev);
	close(f->irq.fd);
	free(ram);
	free(f);
	return 0;
}
