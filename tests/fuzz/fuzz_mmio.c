/* SPDX-License-Identifier: MIT */
/*
 * Any register accesses and any guest memory against the transport and a device that answers every
 * chain. Input: operations of one byte and its arguments.
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

void arch_virtio_slot(unsigned int i, struct arch_slot *slot)
{
	memset(slot, 0, sizeof(*slot));
}

#define NR_QUEUES  3
#define CONFIG_LEN 11
#define RAM_GPA	   0x1000
#define RAM_SIZE   0x3000

#define MUST(cond)                                                                                 \
	do {                                                                                       \
		if (!(cond))                                                                       \
			abort();                                                                   \
	} while (0)

struct fuzz {
	struct virtio_dev dev;
	struct virtio_mmio mmio;
	struct memory mem;
	struct irq_line irq;
	struct queue_chain chain;
	const uint8_t *data;
	size_t left;
	bool running; /* between activate and reset */
	bool refuse;  /* the next activation */
};

static uint64_t take(struct fuzz *f, unsigned int n)
{
	uint64_t v = 0;

	for (unsigned int i = 0; i < n && f->left; i++, f->left--)
		v |= (uint64_t)*f->data++ << 8 * i;
	return v;
}

static struct fuzz *fuzz_of(struct virtio_dev *dev)
{
	return (struct fuzz *)((char *)dev - offsetof(struct fuzz, dev));
}

static int fuzz_activate(struct virtio_dev *dev)
{
	struct fuzz *f = fuzz_of(dev);

	MUST(!f->running);
	MUST(dev->acked >> VIRTIO_F_VERSION_1 & 1);
	MUST(!(dev->acked & ~f->mmio.offered));
	for (unsigned int i = 0; i < NR_QUEUES; i++)
		MUST(dev->vq[i].active == dev->vq[i].ready);
	if (f->refuse)
		return -EIO;
	f->running = true;
	return 0;
}

static void fuzz_reset(struct virtio_dev *dev)
{
	fuzz_of(dev)->running = false;
}

static void fuzz_queue_reset(struct virtio_dev *dev, unsigned int q)
{
	MUST(fuzz_of(dev)->running && q < NR_QUEUES && dev->vq[q].ready);
}

static void fuzz_kick(struct virtio_dev *dev, unsigned int n)
{
	struct fuzz *f = fuzz_of(dev);
	struct queue *q = &dev->vq[n];
	uint8_t buf[256];
	int ret, i = 0;

	MUST(f->running && q->active && !(q->num & (q->num - 1)));
	queue_disable_kicks(q);
	/*
	 * A driver that offers as fast as the device answers (its buffer is the ring itself) has to
	 * wait for the next kick.
	 */
	while ((ret = queue_pop(q, &f->chain)) > 0 && i++ < 512) {
		uint64_t len = queue_chain_read(&f->chain, 0, buf, sizeof(buf));

		queue_push(q, f->chain.head, queue_chain_write(&f->chain, 0, buf, len));
	}
	if (ret < 0)
		virtio_broken(dev, "malformed ring");
	virtio_signal(dev, n);
	queue_enable_kicks(q);
}

static void fuzz_config_write(struct virtio_dev *dev, unsigned int offset, const uint8_t *data,
			      unsigned int len)
{
	MUST(len && offset < CONFIG_LEN && len <= CONFIG_LEN - offset);
	memcpy(dev->config + offset, data, len);
}

static const struct virtio_ops plain_ops = {
	.name = "fuzz",
	.activate = fuzz_activate,
	.reset = fuzz_reset,
	.kick = fuzz_kick,
};

static const struct virtio_ops full_ops = {
	.name = "fuzz",
	.activate = fuzz_activate,
	.reset = fuzz_reset,
	.kick = fuzz_kick,
	.config_write = fuzz_config_write,
	.queue_reset = fuzz_queue_reset,
};

static void wr(struct fuzz *f, uint64_t offset, uint32_t v)
{
	uint8_t data[4] = { v, v >> 8, v >> 16, v >> 24 };

	virtio_mmio_access(&f->mmio, offset, data, 4, true);
}

static void check(struct fuzz *f)
{
	static const uint8_t magic[4] = "virt";
	uint32_t status = f->mmio.reg[VIRTIO_MMIO_STATUS / 4];
	uint8_t page[VIRTIO_MAX_CONFIG];
	unsigned int bad = 0;

	MUST(!memcmp(f->mmio.reg, magic, 4));
	MUST(f->mmio.reg[VIRTIO_MMIO_INTERRUPT_STATUS / 4] & 1);
	MUST(!(f->mmio.reg[VIRTIO_MMIO_INTERRUPT_STATUS / 4] & ~3u));
	MUST(!(status & ~0xcfu));
	/* Each bit has those that come before it. */
	MUST(!(status & 2) || status & 1);
	MUST(!(status & 8) || status & 2);
	MUST(!(status & 4) || status & 8);
	MUST(f->dev.active == f->running);
	MUST(!f->running || status & 4);
	for (unsigned int i = 0; i < NR_QUEUES; i++) {
		MUST(!f->dev.vq[i].active || (f->running && f->dev.vq[i].ready));
		MUST(f->dev.vq[i].in_flight <= f->dev.vq[i].num);
	}
	memcpy(page, f->mmio.reg + VIRTIO_MMIO_CONFIG / 4, sizeof(page));
	MUST(!memcmp(page, f->dev.config, CONFIG_LEN));
	for (unsigned int i = CONFIG_LEN; i < sizeof(page); i++)
		bad += page[i];
	MUST(!bad);
}

static void access_any(struct fuzz *f)
{
	uint64_t offset = take(f, 2) & 0x1fff;
	unsigned int len = take(f, 1);
	uint8_t data[8];
	uint64_t v;

	if (offset & 0x1000)
		offset = (int64_t)(int16_t)(offset << 3) >> 3;
	v = take(f, 8);
	memcpy(data, &v, 8);
	virtio_mmio_access(&f->mmio, offset, data, len % 8 + 1, len & 0x80);
}

/* A queue the way a driver sets it up, with anything in its fields. */
static void set_queue(struct fuzz *f)
{
	wr(f, VIRTIO_MMIO_QUEUE_SEL, take(f, 1) % (NR_QUEUES + 1));
	wr(f, VIRTIO_MMIO_QUEUE_NUM, 1 << take(f, 1) % 10);
	wr(f, VIRTIO_MMIO_QUEUE_DESC_LOW, RAM_GPA + take(f, 2));
	wr(f, VIRTIO_MMIO_QUEUE_AVAIL_LOW, RAM_GPA + take(f, 2));
	wr(f, VIRTIO_MMIO_QUEUE_USED_LOW, RAM_GPA + take(f, 2));
	wr(f, VIRTIO_MMIO_QUEUE_READY, 1);
}

static void poke(struct fuzz *f)
{
	uint64_t at = take(f, 2) % RAM_SIZE, n = take(f, 1) % 65;

	for (uint64_t i = 0; i < n && at + i < RAM_SIZE; i++)
		f->mem.region[0].hva[at + i] = take(f, 1);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	log_set_level(LOG_ERROR);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz *f = calloc(1, sizeof(*f));
	void *ram = NULL;

	if (!f || posix_memalign(&ram, 4096, RAM_SIZE))
		return 0;
	memset(ram, 0, RAM_SIZE);
	f->data = data;
	f->left = size;
	memory_init(&f->mem, -1);
	f->mem.region[f->mem.nr++] = (struct memory_region){ .gpa = RAM_GPA, .size = RAM_SIZE, .hva = ram };
	f->irq.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	f->dev.config_len = CONFIG_LEN;
	f->dev.queue_max[1] = 16;
	f->dev.features = 0x5;
	virtio_dev_init(&f->dev, take(f, 1) & 1 ? &full_ops : &plain_ops, 4, NR_QUEUES);
	MUST(!virtio_mmio_init(&f->mmio, &f->dev, &f->mem, NULL, &f->irq));

	for (unsigned int n = 0; f->left && n < 1024; n++) {
		unsigned int op = take(f, 1), q;

		switch (op % 10) {
		case 0:
		case 1:
			access_any(f);
			break;
		case 2: /* a register, by its number, with a small value */
			wr(f, take(f, 1) & 0xfc, take(f, 2));
			break;
		case 3:
			poke(f);
			break;
		case 4:
			set_queue(f);
			break;
		case 5: /* the event loop's side of a kick */
			q = take(f, 1) % NR_QUEUES;
			f->mmio.kick[q].fn(&f->mmio.kick[q], EPOLLIN);
			break;
		case 6: /* up to FEATURES_OK, so that the rest is reached */
			wr(f, VIRTIO_MMIO_STATUS, 3);
			wr(f, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
			wr(f, VIRTIO_MMIO_DRIVER_FEATURES, take(f, 4) & f->mmio.offered);
			wr(f, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
			wr(f, VIRTIO_MMIO_DRIVER_FEATURES, 1 | (take(f, 2) & f->mmio.offered >> 32));
			wr(f, VIRTIO_MMIO_STATUS, 11);
			break;
		case 7:
			f->refuse = op & 0x80;
			wr(f, VIRTIO_MMIO_STATUS, 15);
			break;
		case 8:
			pthread_mutex_lock(&f->dev.lock);
			virtio_config_change(&f->dev, take(f, 1), f->mem.region[0].hva, take(f, 1));
			pthread_mutex_unlock(&f->dev.lock);
			break;
		case 9:
			if (op & 0x80)
				virtio_broken(&f->dev, "fuzz");
			else
				wr(f, VIRTIO_MMIO_STATUS, 0);
			break;
		}
		check(f);
	}
	virtio_mmio_fini(&f->mmio);
	virtio_dev_fini(&f->dev);
	close(f->irq.fd);
	free(ram);
	free(f);
	return 0;
}
