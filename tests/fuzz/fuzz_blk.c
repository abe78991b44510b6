/* SPDX-License-Identifier: MIT */
/*
 * virtio-blk against a driver that writes anything anywhere. The input is a byte of options and
 * then guest memory from its start: descriptors, available ring, used ring, headers, data. The
 * disk's thread is left out: its work is done here. By plain calls a run is the same every time; in
 * the ring what is complete first may differ.
 *
 * The device's inside is what is called here, so its source is read in. Links with what driver.h
 * names.
 */
#include "virtio/blk.c"

#include "tests/unit/driver.h"

#define RAM_SIZE   (64u << 10) /* descriptors at 0, available ring at 0x400, used ring at 0x800 */
#define NUM	   64
#define IMAGE_SIZE (256u << 10)

static uint8_t *ram;
static struct virtio_mmio mmio;
static uint32_t reg[VIRTIO_MMIO_WORDS];
static struct irq_line irq;

static struct blk *make_disk(bool readonly, bool direct, bool discard, enum blk_engine engine)
{
	struct blk *blk = calloc(1, sizeof(*blk));
	char path[64];
	int fd = memfd_create("image", MFD_CLOEXEC);

	if (!blk || ftruncate(fd, IMAGE_SIZE))
		abort();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	blk->dev.ops = &blk_ops;
	blk->dev.nr_queues = 1;
	blk->queues = 1;
	blk->ring.fd = -1;
	blk->dev.mmio = &mmio; /* interrupts go to an eventfd that nobody reads */
	blk->path = strdup(path);
	blk->readonly = readonly;
	blk->discard = discard;
	blk->bounce = map_buffer(BUF_SIZE, PROT_READ | PROT_WRITE);
	blk->zeros = map_buffer(BUF_SIZE, PROT_READ);
	if (image_open(blk) || image_measure(blk))
		abort();
	ring_open(blk, engine); /* without, it is another one by plain calls */
	blk->direct = direct; /* a memfd has none; what is asked for on top of it can be had */
	blk->block = direct ? 4096 : SECTOR;
	atomic_store(&blk->want, WANT_RUN);
	return blk;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct blk *disk[8];
	static struct memory mem;
	struct queue *q;
	struct blk *blk;
	struct stat st;
	uint8_t options;

	if (!ram) {
		log_set_level(LOG_ERROR);
		irq.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		mmio.irq = &irq;
		mmio.reg = reg;
		ram = aligned_alloc(4096, RAM_SIZE);
		memory_init(&mem, -1);
		mem.region[0] = (struct memory_region){ .gpa = DRIVER_RAM_GPA, .size = RAM_SIZE, .hva = ram };
		mem.nr = 1;
		for (unsigned int i = 0; i < 8; i++)
			disk[i] = make_disk(i % 4 == 1, i % 4 == 2, i % 2 == 0,
					    i < 4 ? BLK_SYNC : BLK_URING);
	}
	if (!size)
		return 0;
	options = *data++;
	size--;
	memset(ram, 0, RAM_SIZE);
	memcpy(ram, data, size < RAM_SIZE ? size : RAM_SIZE);

	blk = disk[(options & 3) | (options & 32 ? 4 : 0)];
	blk->write_through = options & 4;
	blk->discard_acked = blk->zeroes_acked = blk->discard;
	q = &blk->dev.vq[0];
	queue_reset(q);
	q->num = NUM;
	q->ready = true;
	q->desc_gpa = DRIVER_RAM_GPA;
	q->avail_gpa = DRIVER_RAM_GPA + 0x400;
	q->used_gpa = DRIVER_RAM_GPA + 0x800;
	if (queue_activate(q, &mem,
			   (options & 8 ? 1ull << VIRTIO_RING_F_EVENT_IDX : 0) |
				   (options & 16 ? 0 : 1ull << VIRTIO_RING_F_INDIRECT_DESC)))
		abort();
	/*
	 * Reads may land on the rings themselves, so the end is not where it was: bounded all the
	 * same.
	 */
	blk->broken = false;
	for (int i = 0; i < 4; i++) {
		blk->pending = 1;
		blk_turn(blk);
	}
	blk_finish(blk);
	if (blk->slots && (blk->free != UINT64_MAX || blk->free_lists != (1u << LONG_LISTS) - 1))
		abort(); /* each is given back */
	if (fstat(blk->fd, &st) || st.st_size != IMAGE_SIZE)
		abort(); /* no request changes the size */
	return 0;
}
