/* SPDX-License-Identifier: MIT */
/*
 * The driver's side of virtio-mmio and of split rings, as small as a test of a device needs it:
 * guest RAM is an array, registers are written through virtio_mmio_access(), nobody runs beside
 * the test but the device's own threads.
 *
 * Links with virtio/mmio.o virtio/virtio.o virtio/queue.o vm/memory.o vm/bus.o vm/event.o vm/irq.o
 * vm/log.o.
 */
#ifndef TESTS_UNIT_DRIVER_H
#define TESTS_UNIT_DRIVER_H

#include <endian.h>
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "arch/arch.h"
#include "tests/unit/logged.h"
#include "virtio/mmio.h"
#include "virtio/virtio.h"
#include "vm/irq.h"
#include "vm/memory.h"

/* What stands below the transport, and is never reached without KVM. */
int kvm_ioctl_raw(int fd, unsigned long request, void *arg)
{
	return -ENOTTY;
}

int kvm_ioctl_named(int fd, unsigned long request, const char *name, void *arg)
{
	return -ENOTTY;
}

void arch_virtio_slot(unsigned int i, struct arch_slot *slot)
{
	memset(slot, 0, sizeof(*slot));
}

uint32_t arch_irq_number(uint32_t gsi)
{
	return gsi;
}

#define DRIVER_RAM_GPA	0x100000ull
#define DRIVER_RAM_SIZE (4u << 20)
#define DRIVER_QUEUE	0x4000u /* bytes for the rings of one queue */
#define DRIVER_DATA	(DRIVER_RAM_GPA + VIRTIO_MAX_QUEUES * DRIVER_QUEUE)

struct driver_queue {
	unsigned int num;
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	uint16_t next_desc, avail_idx, used_idx, kicked_idx;
};

struct driver {
	struct memory mem;
	uint8_t *ram;
	struct irq_line irq;
	struct virtio_mmio mmio;
	struct virtio_dev *dev;
	uint64_t features;
	struct driver_queue q[VIRTIO_MAX_QUEUES];
};

/* A buffer of a chain. */
struct driver_buf {
	uint64_t gpa;
	uint32_t len;
	bool in; /* the device writes it */
};

#define OUT(g, l) { .gpa = (g), .len = (l), .in = false }
#define IN(g, l)  { .gpa = (g), .len = (l), .in = true }

static inline uint32_t driver_read(struct driver *d, unsigned int offset)
{
	uint32_t v;

	virtio_mmio_access(&d->mmio, offset, (uint8_t *)&v, 4, false);
	return le32toh(v);
}

static inline void driver_write(struct driver *d, unsigned int offset, uint32_t v)
{
	v = htole32(v);
	virtio_mmio_access(&d->mmio, offset, (uint8_t *)&v, 4, true);
}

/*
 * The host's address of guest memory; the array is on the heap, so that ASan sees an access beyond
 * it.
 */
static inline uint8_t *driver_ptr(struct driver *d, uint64_t gpa)
{
	return d->ram + (gpa - DRIVER_RAM_GPA);
}

#ifdef TESTS_UNIT_ALLOCS_H
static struct driver *driver_counted; /* the last that was made */

static bool driver_at_work(void)
{
	const struct virtio_dev *dev = driver_counted ? driver_counted->dev : NULL;

	return dev && dev->active && !dev->paused;
}
#endif

static inline void driver_counts(struct driver *d)
{
#ifdef TESTS_UNIT_ALLOCS_H
	if (!d)
		allocs_end();
	driver_counted = d;
	if (d)
		allocs_begin(driver_at_work);
#endif
}

static inline int driver_init(struct driver *d, struct virtio_dev *dev)
{
	memset(d, 0, sizeof(*d));
	d->dev = dev;
	d->ram = aligned_alloc(4096, DRIVER_RAM_SIZE);
	memset(d->ram, 0, DRIVER_RAM_SIZE);
	memory_init(&d->mem, -1);
	d->mem.region[0] = (struct memory_region){
		.gpa = DRIVER_RAM_GPA, .size = DRIVER_RAM_SIZE, .hva = d->ram
	};
	d->mem.nr = 1;
	d->irq.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	driver_counts(d);
	return virtio_mmio_init(&d->mmio, dev, &d->mem, NULL, &d->irq);
}

static inline void driver_fini(struct driver *d)
{
	driver_counts(NULL);
	virtio_mmio_fini(&d->mmio);
	close(d->irq.fd);
	free(d->ram);
}

static inline uint64_t driver_offered(struct driver *d)
{
	uint64_t features;

	driver_write(d, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
	features = (uint64_t)driver_read(d, VIRTIO_MMIO_DEVICE_FEATURES) << 32;
	driver_write(d, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
	return features | driver_read(d, VIRTIO_MMIO_DEVICE_FEATURES);
}

static inline void driver_set_queue(struct driver *d, unsigned int i, unsigned int num)
{
	struct driver_queue *q = &d->q[i];
	uint64_t gpa = DRIVER_RAM_GPA + (uint64_t)i * DRIVER_QUEUE;
	uint64_t avail = gpa + num * sizeof(struct vring_desc);
	uint64_t used = gpa + DRIVER_QUEUE / 2;

	memset(driver_ptr(d, gpa), 0, DRIVER_QUEUE);
	memset(q, 0, sizeof(*q));
	q->num = num;
	q->desc = (void *)driver_ptr(d, gpa);
	q->avail = (void *)driver_ptr(d, avail);
	q->used = (void *)driver_ptr(d, used);
	driver_write(d, VIRTIO_MMIO_QUEUE_SEL, i);
	driver_write(d, VIRTIO_MMIO_QUEUE_NUM, num);
	driver_write(d, VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)gpa);
	driver_write(d, VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)avail);
	driver_write(d, VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)used);
	driver_write(d, VIRTIO_MMIO_QUEUE_READY, 1);
}

/* Up to FEATURES_OK. Returns the status read back. */
static inline uint32_t driver_features(struct driver *d, uint64_t features)
{
	features |= 1ull << VIRTIO_F_VERSION_1;
	d->features = features;
	driver_write(d, VIRTIO_MMIO_STATUS, 0);
	driver_write(d, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	driver_write(d, VIRTIO_MMIO_STATUS,
		     VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	driver_write(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	driver_write(d, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)features);
	driver_write(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	driver_write(d, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> 32));
	driver_write(d, VIRTIO_MMIO_STATUS,
		     VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
			     VIRTIO_CONFIG_S_FEATURES_OK);
	return driver_read(d, VIRTIO_MMIO_STATUS);
}

/* The whole way to DRIVER_OK, all queues of @num. True: the device runs. */
static inline bool driver_start(struct driver *d, uint64_t features, unsigned int num)
{
	uint32_t status = driver_features(d, features);

	for (unsigned int i = 0; i < d->dev->nr_queues; i++)
		driver_set_queue(d, i, num);
	driver_write(d, VIRTIO_MMIO_STATUS, status | VIRTIO_CONFIG_S_DRIVER_OK);
	status = driver_read(d, VIRTIO_MMIO_STATUS);
	return status & VIRTIO_CONFIG_S_DRIVER_OK && !(status & VIRTIO_CONFIG_S_NEEDS_RESET);
}

static inline void driver_reset(struct driver *d)
{
	driver_write(d, VIRTIO_MMIO_STATUS, 0);
}

static inline bool driver_needs_reset(struct driver *d)
{
	return driver_read(d, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

/*
 * Makes a chain available, without a kick. Descriptors are taken round the table. Returns the
 * head.
 */
static inline uint16_t driver_add(struct driver *d, unsigned int i, const struct driver_buf *buf,
				  unsigned int nr)
{
	struct driver_queue *q = &d->q[i];
	uint16_t head = q->next_desc % q->num;

	for (unsigned int k = 0; k < nr; k++) {
		struct vring_desc *desc = &q->desc[q->next_desc++ % q->num];

		desc->addr = htole64(buf[k].gpa);
		desc->len = htole32(buf[k].len);
		desc->flags = htole16((k + 1 < nr ? VRING_DESC_F_NEXT : 0) |
				      (buf[k].in ? VRING_DESC_F_WRITE : 0));
		desc->next = htole16(q->next_desc % q->num);
	}
	q->avail->ring[q->avail_idx % q->num] = htole16(head);
	__atomic_store_n(&q->avail->idx, htole16(++q->avail_idx), __ATOMIC_RELEASE);
	return head;
}

/* A kick that the device may have asked to be spared. */
static inline void driver_force_kick(struct driver *d, unsigned int i)
{
	driver_write(d, VIRTIO_MMIO_QUEUE_NOTIFY, i);
}

/* Whether the device asks for kicks, without EVENT_IDX. */
static inline bool driver_kicks_wanted(const struct driver *d, unsigned int i)
{
	return !(le16toh(__atomic_load_n(&d->q[i].used->flags, __ATOMIC_RELAXED)) & VRING_USED_F_NO_NOTIFY);
}

/* A kick if the device wants one (VIRTIO 1.2, 2.7.10). */
static inline void driver_kick(struct driver *d, unsigned int i)
{
	struct driver_queue *q = &d->q[i];
	uint16_t old = q->kicked_idx;
	bool wanted;

	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	q->kicked_idx = q->avail_idx;
	if (d->features >> VIRTIO_RING_F_EVENT_IDX & 1)
		wanted = vring_need_event(
			le16toh(__atomic_load_n((uint16_t *)&q->used->ring[q->num], __ATOMIC_RELAXED)),
			q->avail_idx, old);
	else
		wanted = driver_kicks_wanted(d, i);
	if (wanted)
		driver_force_kick(d, i);
}

/* One turn of the event loop for queue @i: false when there was no kick. */
static inline bool driver_turn(struct driver *d, unsigned int i)
{
	struct pollfd pfd = { .fd = d->mmio.kick_fd[i], .events = POLLIN };

	if (poll(&pfd, 1, 0) != 1)
		return false;
	d->mmio.kick[i].fn(&d->mmio.kick[i], POLLIN);
	return true;
}

/* Takes a used element, waiting up to @ms for it. */
static inline bool driver_used(struct driver *d, unsigned int i, unsigned int ms, uint32_t *head,
			       uint32_t *len)
{
	struct driver_queue *q = &d->q[i];
	struct vring_used_elem *elem;

	while (le16toh(__atomic_load_n(&q->used->idx, __ATOMIC_ACQUIRE)) == q->used_idx) {
		if (!ms--)
			return false;
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	}
	elem = &q->used->ring[q->used_idx++ % q->num];
	*head = le32toh(elem->id);
	*len = le32toh(elem->len);
	return true;
}

/* How many interrupts came since the last look, waiting up to @ms for the first. */
static inline uint64_t driver_irqs(struct driver *d, int ms)
{
	struct pollfd pfd = { .fd = d->irq.fd, .events = POLLIN };
	uint64_t count = 0;

	if (poll(&pfd, 1, ms) == 1 && read(d->irq.fd, &count, sizeof(count)) < 0)
		return 0;
	return count;
}

#endif
