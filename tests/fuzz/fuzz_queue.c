/* SPDX-License-Identifier: MIT */
/*
 * A driver that writes anything into its rings, at any moment, against a device that takes and
 * returns chains. The rings lie in blocks of exactly their size, so that the sanitizer sees what is
 * read or written outside.
 *
 * Input: a byte for the size, a byte of features, then operations of one byte and its arguments.
 */
#include "virtio/queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
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

#define BLOCKS	 5
#define BUF_SIZE 1024

struct fuzz {
	const uint8_t *data;
	size_t left;
	struct memory mem;
	struct queue q;
	struct queue_chain chain;
	uint64_t features;
	uint16_t num;
	uint16_t pushed; /* what used->idx has to be */
};

#define MUST(cond)                                                                                 \
	do {                                                                                       \
		if (!(cond))                                                                       \
			abort();                                                                   \
	} while (0)

/* The next @n bytes of input, little-endian; zeros behind its end. */
static uint64_t take(struct fuzz *f, unsigned int n)
{
	uint64_t v = 0;

	for (unsigned int i = 0; i < n && f->left; i++, f->left--)
		v |= (uint64_t)*f->data++ << 8 * i;
	return v;
}

static void *block(struct fuzz *f, unsigned int i)
{
	return f->mem.region[i].hva;
}

static void activate(struct fuzz *f)
{
	struct vring_used *used = block(f, 2);

	queue_reset(&f->q);
	f->q.num = f->num;
	f->q.desc_gpa = f->mem.region[0].gpa;
	f->q.avail_gpa = f->mem.region[1].gpa;
	f->q.used_gpa = f->mem.region[2].gpa;
	used->idx = 0;
	f->pushed = 0;
	MUST(!queue_activate(&f->q, &f->mem, f->features));
}

static void pop(struct fuzz *f)
{
	struct queue_chain *c = &f->chain;
	uint16_t before = f->q.last_avail, flying = f->q.in_flight;
	uint64_t sum[2] = { 0, 0 };
	int ret = queue_pop(&f->q, c);

	MUST(ret == 0 || ret == 1 || ret == -EIO);
	if (ret != 1) {
		MUST(f->q.last_avail == before && f->q.in_flight == flying);
		MUST(f->q.broken == (ret == -EIO));
		return;
	}
	MUST(c->head < f->num && f->q.in_flight == flying + 1 && f->q.in_flight <= f->num);
	MUST(c->nr_out + c->nr_in > 0 && c->nr_out + c->nr_in <= QUEUE_MAX_SIZE);
	for (unsigned int i = 0; i < c->nr_out + c->nr_in; i++) {
		volatile uint8_t *p = c->iov[i].iov_base;
		size_t len = c->iov[i].iov_len;
		bool inside = false;

		MUST(len);
		for (unsigned int b = 0; b < BLOCKS; b++) {
			uint8_t *hva = f->mem.region[b].hva;

			inside |= p >= hva && len <= f->mem.region[b].size &&
				  p <= hva + f->mem.region[b].size - len;
		}
		MUST(inside);
		(void)p[0];
		(void)p[len - 1];
		sum[i >= c->nr_out] += len;
	}
	MUST(sum[0] == c->out_len && sum[1] == c->in_len);
}

static void push(struct fuzz *f)
{
	uint16_t head = take(f, 1) % (f->num + 1), flying = f->q.in_flight;
	uint32_t len = take(f, 2) << 8;
	bool was = head < f->num && f->q.taken[head / 8] >> head % 8 & 1;
	uint32_t bound = was ? f->q.in_len[head] : 0;
	struct vring_used *used = block(f, 2);

	queue_push(&f->q, head, len);
	if (!was || f->q.broken) {
		MUST(f->q.in_flight == flying);
		return;
	}
	MUST(f->q.in_flight == flying - 1);
	MUST(used->ring[f->pushed % f->num].id == head);
	MUST(used->ring[f->pushed % f->num].len == (len < bound ? len : bound));
	f->pushed++;
	MUST(used->idx == f->pushed);
}

static void copy(struct fuzz *f)
{
	uint64_t offset = take(f, 2), len = take(f, 2) % 2048, n;
	uint8_t buf[2048];

	/*
	 * Only of a chain that is out: what f->chain says of another one is stale, but its memory
	 * is still there.
	 */
	n = queue_chain_read(&f->chain, offset, buf, len);
	MUST(n <= len && n <= f->chain.out_len);
	memset(buf, 0x11, sizeof(buf));
	n = queue_chain_write(&f->chain, offset, buf, len);
	MUST(n <= len && n <= f->chain.in_len);
	/* The used ring may have been a buffer: what it says is the driver's doing then. */
	((struct vring_used *)block(f, 2))->idx = f->pushed;
}

/* A descriptor of the ring's table or of a table in the buffer, likely a good one. */
static void set_desc(struct fuzz *f)
{
	unsigned int where = take(f, 1), b = 3 + (where >> 7), i = where & 0x7f;
	struct vring_desc *table = where & 0x40 ? block(f, 4) : block(f, 0);
	unsigned int n = where & 0x40 ? BUF_SIZE / 16 : f->num;
	struct vring_desc d = {
		.addr = f->mem.region[b].gpa + take(f, 2) % (BUF_SIZE + 16),
		.len = take(f, 1) * 8,
		.flags = take(f, 1) & 7,
		.next = take(f, 1) % (f->num + 2),
	};

	if (d.flags & VRING_DESC_F_INDIRECT)
		d.addr = f->mem.region[4].gpa + d.addr % 4 * 16;
	memcpy(&table[i % n], &d, sizeof(d));
}

static void poke(struct fuzz *f)
{
	unsigned int b = take(f, 1) % BLOCKS;
	uint64_t at = take(f, 2) % f->mem.region[b].size;
	uint64_t n = take(f, 1) % 17;

	for (uint64_t i = 0; i < n && at + i < f->mem.region[b].size; i++)
		((uint8_t *)block(f, b))[at + i] = take(f, 1);
	((struct vring_used *)block(f, 2))->idx = f->pushed;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	log_set_level(LOG_ERROR);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz *f = calloc(1, sizeof(*f));
	uint64_t sizes[BLOCKS];

	if (!f)
		return 0;
	f->data = data;
	f->left = size;
	f->num = 1 << take(f, 1) % 9;
	f->features = (take(f, 1) & 3) << VIRTIO_RING_F_INDIRECT_DESC;
	sizes[0] = 16 * f->num;
	sizes[1] = 6 + 2 * f->num;
	sizes[2] = 6 + 8 * f->num;
	sizes[3] = sizes[4] = BUF_SIZE;
	memory_init(&f->mem, -1);
	for (unsigned int i = 0; i < BLOCKS; i++) {
		void *p = NULL;

		MUST(!posix_memalign(&p, 16, sizes[i]));
		memset(p, 0, sizes[i]);
		f->mem.region[f->mem.nr++] = (struct memory_region){
			.gpa = 0x10000 + 0x10000 * i, .size = sizes[i], .hva = p
		};
	}
	activate(f);
	for (unsigned int n = 0; f->left && n < 4096; n++) {
		struct vring_avail *avail = block(f, 1);

		switch (take(f, 1) % 12) {
		case 0:
		case 1:
			pop(f);
			break;
		case 2:
			push(f);
			break;
		case 3:
			set_desc(f);
			break;
		case 4: /* a chain is offered as it should be */
			avail->ring[avail->idx % f->num] = take(f, 1) % (f->num + 1);
			avail->idx++;
			break;
		case 5:
			avail->idx += (int8_t)take(f, 1);
			break;
		case 6:
			poke(f);
			break;
		case 7:
			queue_unpop(&f->q, take(f, 1));
			break;
		case 8:
			queue_wants_interrupt(&f->q);
			break;
		case 9:
			queue_enable_kicks(&f->q);
			queue_disable_kicks(&f->q);
			break;
		case 10:
			copy(f);
			break;
		case 11:
			activate(f);
			break;
		}
	}
	for (unsigned int i = 0; i < BLOCKS; i++)
		free(f->mem.region[i].hva);
	free(f);
	return 0;
}
