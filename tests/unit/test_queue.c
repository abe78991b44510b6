/* SPDX-License-Identifier: MIT */
/*
 * The split virtqueue against rings of every malformed kind. Guest RAM is a set of heap blocks,
 * each exactly as long as what it holds, so that AddressSanitizer sees the first byte read or
 * written outside.
 */
#include "virtio/queue.h"

#include <endian.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include "tests/unit/test.h"
#include "vm/kvm.h"
#include "vm/log.h"
#include "vm/memory.h"

/* vm/memory.o refers to these; nothing here has a VM. */
int kvm_ioctl_named(int fd, unsigned long request, const char *name, void *arg)
{
	return -ENOSYS;
}

int kvm_ioctl_raw(int fd, unsigned long request, void *arg)
{
	return -ENOSYS;
}

#define INDIRECT (1ULL << VIRTIO_RING_F_INDIRECT_DESC)
#define EVENT	 (1ULL << VIRTIO_RING_F_EVENT_IDX)

#define F_NEXT	   VRING_DESC_F_NEXT
#define F_WRITE	   VRING_DESC_F_WRITE
#define F_INDIRECT VRING_DESC_F_INDIRECT

/* Where the blocks lie. BUF and BUF2 touch, and are two regions all the same. */
#define DESC_GPA  0x10000
#define AVAIL_GPA 0x20000
#define USED_GPA  0x30000
#define TABLE_GPA 0x40000
#define BUF_GPA	  0x50000
#define BUF_SIZE  0x1000
#define BUF2_GPA  (BUF_GPA + BUF_SIZE)
#define HOLE_GPA  0x60000
#define BIG_GPA	  0x200000 /* of tests that need it, BIG_SIZE each for up to three rings */
#define BIG_SIZE  0x100000
#define TABLE_LEN 48

struct guest {
	struct memory mem;
	struct queue q;
	struct queue_chain chain;
	uint16_t num;
	struct vring_desc *desc, *table;
	struct vring_avail *avail;
	struct vring_used *used;
	uint8_t *buf, *buf2;
};

static void *add_block(struct memory *mem, uint64_t gpa, uint64_t size)
{
	void *p = NULL;

	if (posix_memalign(&p, 16, size))
		exit(1);
	memset(p, 0, size);
	mem->region[mem->nr++] = (struct memory_region){ .gpa = gpa, .size = size, .hva = p };
	mem->ram_size += size;
	return p;
}

static struct guest *guest_new(uint16_t num, uint64_t features)
{
	struct guest *g = calloc(1, sizeof(*g));

	if (!g)
		exit(1);
	memory_init(&g->mem, -1);
	g->num = num;
	g->desc = add_block(&g->mem, DESC_GPA, 16 * num);
	g->avail = add_block(&g->mem, AVAIL_GPA, 6 + 2 * num);
	g->used = add_block(&g->mem, USED_GPA, 6 + 8 * num);
	g->table = add_block(&g->mem, TABLE_GPA, TABLE_LEN);
	g->buf = add_block(&g->mem, BUF_GPA, BUF_SIZE);
	g->buf2 = add_block(&g->mem, BUF2_GPA, BUF_SIZE);
	g->q.num = num;
	g->q.desc_gpa = DESC_GPA;
	g->q.avail_gpa = AVAIL_GPA;
	g->q.used_gpa = USED_GPA;
	CHECK_EQ(queue_activate(&g->q, &g->mem, features), 0);
	return g;
}

static void guest_free(struct guest *g)
{
	for (unsigned int i = 0; i < g->mem.nr; i++)
		free(g->mem.region[i].hva);
	free(g);
}

static struct vring_desc mkdesc(uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	return (struct vring_desc){ htole64(addr), htole32(len), htole16(flags), htole16(next) };
}

static void offer(struct guest *g, uint16_t head)
{
	uint16_t idx = le16toh(g->avail->idx);

	g->avail->ring[idx % g->num] = htole16(head);
	g->avail->idx = htole16(idx + 1);
}

static int pop(struct guest *g)
{
	return queue_pop(&g->q, &g->chain);
}

/*
 * Three good chains: a direct one at head 0, an indirect one at head 3, and one that starts direct
 * and ends indirect at head 4.
 */
static struct guest *guest_with_chains(uint64_t features)
{
	struct guest *g = guest_new(8, features);

	g->desc[0] = mkdesc(BUF_GPA, 16, F_NEXT, 1);
	g->desc[1] = mkdesc(BUF_GPA + 0x100, 512, F_NEXT | F_WRITE, 2);
	g->desc[2] = mkdesc(BUF_GPA + 0x400, 1, F_WRITE, 0);
	g->desc[3] = mkdesc(TABLE_GPA, TABLE_LEN, F_INDIRECT, 0);
	g->desc[4] = mkdesc(BUF_GPA + 0x800, 4, F_NEXT, 5);
	g->desc[5] = mkdesc(TABLE_GPA, TABLE_LEN, F_INDIRECT, 0);
	memcpy(g->table, g->desc, TABLE_LEN);
	return g;
}

static void good_chains(void)
{
	struct guest *g = guest_with_chains(INDIRECT);

	CHECK_EQ(pop(g), 0);
	offer(g, 0);
	offer(g, 3);
	offer(g, 4);
	CHECK_EQ(pop(g), 1);
	CHECK_EQ(g->chain.head, 0);
	CHECK_EQ(g->chain.nr_out, 1);
	CHECK_EQ(g->chain.nr_in, 2);
	CHECK_EQ(g->chain.out_len, 16);
	CHECK_EQ(g->chain.in_len, 513);
	CHECK(g->chain.iov[0].iov_base == g->buf);
	CHECK_EQ(g->chain.iov[0].iov_len, 16);
	CHECK(g->chain.iov[1].iov_base == g->buf + 0x100);
	CHECK_EQ(g->chain.iov[1].iov_len, 512);
	CHECK(g->chain.iov[2].iov_base == g->buf + 0x400);
	CHECK_EQ(g->chain.iov[2].iov_len, 1);
	CHECK_EQ(pop(g), 1);
	CHECK_EQ(g->chain.head, 3);
	CHECK_EQ(g->chain.nr_out, 1);
	CHECK_EQ(g->chain.nr_in, 2);
	CHECK(g->chain.iov[1].iov_base == g->buf + 0x100);
	CHECK_EQ(pop(g), 1);
	CHECK_EQ(g->chain.head, 4);
	CHECK_EQ(g->chain.nr_out, 2);
	CHECK_EQ(g->chain.nr_in, 2);
	CHECK_EQ(g->chain.out_len, 20);
	CHECK(g->chain.iov[0].iov_base == g->buf + 0x800);
	CHECK(g->chain.iov[1].iov_base == g->buf);
	CHECK_EQ(g->q.in_flight, 3);
	CHECK_EQ(pop(g), 0);
	guest_free(g);
}

/* One field of a good ring changed, and what queue_pop() says then. */
enum field { ADDR, LEN, FLAGS, NEXT, AVAIL_IDX, AVAIL_HEAD, FEATURES };

static const struct change {
	const char *name;
	uint16_t head;	/* the good chain that it starts from */
	bool in_table;	/* entry @i of the indirect table, not of the ring's */
	unsigned int i;
	enum field field;
	uint64_t value;
	int want;
} changes[] = {
	/* The walk. */
	{ "loop to itself", 0, false, 1, NEXT, 1, -EIO },
	{ "loop to the head", 0, false, 1, NEXT, 0, -EIO },
	{ "next is the size", 0, false, 0, NEXT, 8, -EIO },
	{ "next is 0xffff", 0, false, 0, NEXT, 0xffff, -EIO },
	{ "next is not looked at without its flag", 0, false, 2, NEXT, 0xffff, 1 },
	{ "flags nobody defined", 0, false, 2, FLAGS, 0xfff8 | F_WRITE, 1 },
	{ "readable after writable", 0, false, 2, FLAGS, 0, -EIO },
	/* The buffer. */
	{ "length 0", 0, false, 0, LEN, 0, -EIO },
	{ "length 0, writable, last", 0, false, 2, LEN, 0, -EIO },
	{ "address 0, which is no RAM", 0, false, 0, ADDR, 0, -EIO },
	{ "address in a hole", 0, false, 0, ADDR, HOLE_GPA, -EIO },
	{ "up to the last byte of a region", 0, false, 0, ADDR, BUF_GPA + BUF_SIZE - 16, 1 },
	{ "across two regions that touch", 0, false, 0, ADDR, BUF_GPA + BUF_SIZE - 15, -EIO },
	{ "up to the last byte of RAM", 0, false, 0, ADDR, BUF2_GPA + BUF_SIZE - 16, 1 },
	{ "one byte beyond RAM", 0, false, 0, ADDR, BUF2_GPA + BUF_SIZE - 15, -EIO },
	{ "one byte before a region", 0, false, 0, ADDR, BUF_GPA - 1, -EIO },
	{ "address + length wraps", 0, false, 0, ADDR, UINT64_MAX - 7, -EIO },
	{ "address + length wraps to 0", 0, false, 0, ADDR, UINT64_MAX - 15, -EIO },
	{ "address of all ones", 0, false, 0, ADDR, UINT64_MAX, -EIO },
	{ "length of all ones", 0, false, 0, LEN, UINT32_MAX, -EIO },
	{ "a region's length", 0, false, 0, LEN, BUF_SIZE, 1 },
	{ "a region's length and 1", 0, false, 0, LEN, BUF_SIZE + 1, -EIO },
	/* The available ring. */
	{ "as many available as the ring holds less the rest", 0, false, 0, AVAIL_IDX, 8, 1 },
	{ "one more available than the ring holds", 0, false, 0, AVAIL_IDX, 9, -EIO },
	{ "index moved back", 0, false, 0, AVAIL_IDX, 0xffff, -EIO },
	{ "half way round", 0, false, 0, AVAIL_IDX, 0x8000, -EIO },
	{ "head is the size", 0, false, 0, AVAIL_HEAD, 8, -EIO },
	{ "head is 0xffff", 0, false, 0, AVAIL_HEAD, 0xffff, -EIO },
	{ "head with the size's bit", 0, false, 0, AVAIL_HEAD, 0x100, -EIO },
	/* Indirect. */
	{ "indirect without the feature", 3, false, 0, FEATURES, 0, -EIO },
	{ "indirect without the feature, later", 4, false, 0, FEATURES, EVENT, -EIO },
	{ "indirect and next", 3, false, 3, FLAGS, F_INDIRECT | F_NEXT, -EIO },
	{ "indirect and write", 3, false, 3, FLAGS, F_INDIRECT | F_WRITE, 1 },
	{ "nested indirect", 3, true, 0, FLAGS, F_INDIRECT, -EIO },
	{ "nested indirect at the end", 3, true, 2, FLAGS, F_INDIRECT | F_WRITE, -EIO },
	{ "table of length 0", 3, false, 3, LEN, 0, -EIO },
	{ "table of length 15", 3, false, 3, LEN, 15, -EIO },
	{ "table of length 47", 3, false, 3, LEN, 47, -EIO },
	{ "table of length 32 for 3", 3, false, 3, LEN, 32, -EIO },
	{ "table longer than RAM", 3, false, 3, LEN, 64, -EIO },
	{ "table longer than a chain may be", 3, false, 3, LEN, 16 * 257, -EIO },
	{ "table of 4 GiB less 16", 3, false, 3, LEN, 0xfffffff0, -EIO },
	{ "table in a hole", 3, false, 3, ADDR, HOLE_GPA, -EIO },
	{ "table whose address wraps", 3, false, 3, ADDR, UINT64_MAX - 15, -EIO },
	{ "table that starts before RAM", 3, false, 3, ADDR, TABLE_GPA - 16, -EIO },
	{ "next beyond the table, within the ring", 3, true, 1, NEXT, 3, -EIO },
	{ "next beyond the table", 3, true, 1, NEXT, 0xffff, -EIO },
	{ "loop within the table", 3, true, 1, NEXT, 0, -EIO },
	{ "length 0 within the table", 3, true, 0, LEN, 0, -EIO },
	{ "hole within the table", 3, true, 1, ADDR, HOLE_GPA, -EIO },
	{ "readable after writable within the table", 3, true, 2, FLAGS, 0, -EIO },
	{ "readable in the table after writable outside", 4, false, 4, FLAGS, F_NEXT | F_WRITE, -EIO },
	{ "chain into another indirect head", 0, false, 0, NEXT, 3, 1 },
};

static void change_apply(struct guest *g, const struct change *c)
{
	struct vring_desc *d = c->in_table ? &g->table[c->i] : &g->desc[c->i];

	switch (c->field) {
	case ADDR:
		d->addr = htole64(c->value);
		break;
	case LEN:
		d->len = htole32(c->value);
		break;
	case FLAGS:
		d->flags = htole16(c->value);
		break;
	case NEXT:
		d->next = htole16(c->value);
		break;
	case AVAIL_IDX:
		g->avail->idx = htole16(c->value);
		break;
	case AVAIL_HEAD:
		g->avail->ring[0] = htole16(c->value);
		break;
	case FEATURES:
		break;
	}
}

static void malformed_rings(void)
{
	for (unsigned int i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
		const struct change *c = &changes[i];
		struct guest *g = guest_with_chains(c->field == FEATURES ? c->value : INDIRECT);
		int ret;

		offer(g, c->head);
		if (c->field != FEATURES) {
			/* Good before the change: so it is the change that is refused. */
			CHECK_EQ(pop(g), 1);
			queue_unpop(&g->q, c->head);
		}
		change_apply(g, c);
		ret = pop(g);
		if (ret != c->want) {
			printf("  %s: %d\n", c->name, ret);
			CHECK(ret == c->want);
		}
		if (ret == -EIO) {
			/*
			 * For good: the ring is right again, the queue stays broken and says
			 * nothing to the driver.
			 */
			CHECK(g->q.broken);
			CHECK_EQ(pop(g), -EIO);
			g->avail->idx = 0;
			CHECK_EQ(pop(g), -EIO);
			CHECK_EQ(g->q.in_flight, 0);
			queue_push(&g->q, c->head, 1);
			CHECK_EQ(g->used->idx, 0);
			CHECK(!queue_wants_interrupt(&g->q));
			CHECK(!queue_enable_kicks(&g->q));
		}
		guest_free(g);
	}
}

static void head_in_flight_twice(void)
{
	struct guest *g = guest_with_chains(INDIRECT);

	offer(g, 0);
	offer(g, 3);
	offer(g, 0);
	CHECK_EQ(pop(g), 1);
	CHECK_EQ(pop(g), 1);
	CHECK_EQ(pop(g), -EIO);
	guest_free(g);

	/* Returned in between, it is fine. */
	g = guest_with_chains(INDIRECT);
	for (int i = 0; i < 100; i++) {
		offer(g, 0);
		CHECK_EQ(pop(g), 1);
		queue_push(&g->q, 0, 0);
	}
	CHECK_EQ(pop(g), 0);
	CHECK_EQ(le16toh(g->used->idx), 100);
	guest_free(g);
}

/* The longest chains there may be, and one more. */
static void chain_length(void)
{
	struct guest *g = guest_new(QUEUE_MAX_SIZE, INDIRECT);
	struct vring_desc *table;
	unsigned int i;

	for (i = 0; i < QUEUE_MAX_SIZE; i++)
		g->desc[i] = mkdesc(BUF_GPA + i, 1, i < 255 ? F_NEXT : 0, i + 1);
	offer(g, 0);
	CHECK_EQ(pop(g), 1);
	CHECK_EQ(g->chain.nr_out, QUEUE_MAX_SIZE);
	CHECK_EQ(g->chain.out_len, QUEUE_MAX_SIZE);
	queue_push(&g->q, 0, 0);

	/*
	 * A table may be as long as the longest chain, even where the ring is shorter; with one
	 * before it is too much.
	 */
	table = add_block(&g->mem, 0x100000, 16 * QUEUE_MAX_SIZE);
	memcpy(table, g->desc, 16 * QUEUE_MAX_SIZE);
	g->desc[1] = mkdesc(0x100000, 16 * QUEUE_MAX_SIZE, F_INDIRECT, 0);
	offer(g, 1);
	CHECK_EQ(pop(g), 1);
	CHECK_EQ(g->chain.nr_out, QUEUE_MAX_SIZE);
	offer(g, 0);
	CHECK_EQ(pop(g), -EIO);
	guest_free(g);

	/* A table that is longer is refused for its length alone, however short the chain in it. */
	for (unsigned int n = QUEUE_MAX_SIZE; n <= QUEUE_MAX_SIZE + 1; n++) {
		g = guest_new(1, INDIRECT);
		table = add_block(&g->mem, 0x100000, 16 * n);
		table[0] = mkdesc(BUF_GPA, 1, 0, 0);
		g->desc[0] = mkdesc(0x100000, 16 * n, F_INDIRECT, 0);
		offer(g, 0);
		CHECK_EQ(pop(g), n <= QUEUE_MAX_SIZE ? 1 : -EIO);
		guest_free(g);
	}
}

/* A table's length is whole descriptors, even where the chain in it needs no more than it has. */
static void table_length(void)
{
	for (unsigned int len = 1; len <= TABLE_LEN; len++) {
		struct guest *g = guest_with_chains(INDIRECT);

		g->table[0].flags = 0;
		g->desc[3].len = htole32(len);
		offer(g, 3);
		CHECK_EQ(pop(g), len % 16 ? -EIO : 1);
		guest_free(g);
	}
}

/* An indirect table at an odd address (the specification asks for no alignment). */
static void unaligned_table(void)
{
	struct guest *g = guest_with_chains(INDIRECT);

	memcpy(g->buf + 0x801, g->desc, TABLE_LEN);
	g->desc[3] = mkdesc(BUF_GPA + 0x801, TABLE_LEN, F_INDIRECT, 0);
	offer(g, 3);
	CHECK_EQ(pop(g), 1);
	CHECK_EQ(g->chain.in_len, 513);
	guest_free(g);
}

/* Up to 4 GiB in one chain; used.len has 32 bits. */
static void huge_chain(void)
{
	uint64_t size = 3ULL << 30;
	void *p = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct guest *g = guest_new(4, 0);

	CHECK(p != MAP_FAILED);
	g->mem.region[g->mem.nr++] = (struct memory_region){ .gpa = 1ULL << 32, .size = size, .hva = p };
	g->desc[0] = mkdesc(1ULL << 32, 1U << 31, F_NEXT | F_WRITE, 1);
	g->desc[1] = mkdesc(1ULL << 32, 1U << 31, F_WRITE, 2);
	g->desc[2] = mkdesc(BUF_GPA, 1, F_WRITE, 0);
	offer(g, 0);
	CHECK_EQ(pop(g), 1);
	CHECK_EQ(g->chain.in_len, 1ULL << 32);
	queue_push(&g->q, 0, UINT32_MAX);
	CHECK_EQ(le32toh(g->used->ring[0].len), UINT32_MAX);
	g->desc[1].flags = htole16(F_NEXT | F_WRITE);
	offer(g, 0);
	CHECK_EQ(pop(g), -EIO);
	g->mem.nr--;
	munmap(p, size);
	guest_free(g);
}

static void push_rules(void)
{
	struct guest *g = guest_with_chains(INDIRECT);

	/* Nothing in flight: refused, and nothing is written. */
	queue_push(&g->q, 0, 1);
	queue_push(&g->q, 8, 1);
	queue_push(&g->q, 0xffff, 1);
	CHECK_EQ(g->used->idx, 0);
	CHECK_EQ(g->q.in_flight, 0);

	offer(g, 3);
	offer(g, 0);
	CHECK_EQ(pop(g), 1);
	CHECK_EQ(pop(g), 1);
	/* Out of order, and never more than there was room for. */
	queue_push(&g->q, 0, 514);
	queue_push(&g->q, 0, 7);
	queue_push(&g->q, 3, 513);
	CHECK_EQ(le16toh(g->used->idx), 2);
	CHECK_EQ(le32toh(g->used->ring[0].id), 0);
	CHECK_EQ(le32toh(g->used->ring[0].len), 513);
	CHECK_EQ(le32toh(g->used->ring[1].id), 3);
	CHECK_EQ(le32toh(g->used->ring[1].len), 513);
	CHECK_EQ(g->q.in_flight, 0);
	/* A head that the queue does not have in flight can't be unpopped. */
	queue_unpop(&g->q, 0);
	queue_unpop(&g->q, 0xffff);
	CHECK_EQ(g->q.last_avail, 2);

	/* What the driver changes in the descriptor meanwhile does not raise the bound. */
	offer(g, 2);
	CHECK_EQ(pop(g), 1);
	g->desc[2].len = htole32(4096);
	queue_push(&g->q, 2, 4096);
	CHECK_EQ(le32toh(g->used->ring[2].len), 1);
	/* A chain with nothing to write to. */
	g->desc[6] = mkdesc(BUF_GPA, 5, 0, 0);
	offer(g, 6);
	CHECK_EQ(pop(g), 1);
	queue_push(&g->q, 6, 5);
	CHECK_EQ(le32toh(g->used->ring[3].len), 0);
	guest_free(g);
}

/* Requests still out when the queue breaks or stops end without a trace. */
static void push_after_the_end(void)
{
	struct guest *g = guest_with_chains(INDIRECT);

	offer(g, 0);
	offer(g, 0);
	CHECK_EQ(pop(g), 1);
	CHECK_EQ(pop(g), -EIO);
	queue_push(&g->q, 0, 1);
	CHECK_EQ(g->used->idx, 0);
	CHECK_EQ(g->used->ring[0].len, 0);
	guest_free(g);

	g = guest_with_chains(INDIRECT);
	offer(g, 0);
	CHECK_EQ(pop(g), 1);
	g->q.active = false;
	queue_push(&g->q, 0, 1);
	CHECK_EQ(g->used->idx, 0);
	CHECK_EQ(g->used->ring[0].len, 0);
	/* Made active again, the queue knows of nothing in flight. */
	g->avail->idx = 0;
	CHECK_EQ(queue_activate(&g->q, &g->mem, INDIRECT), 0);
	queue_push(&g->q, 0, 1);
	CHECK_EQ(g->used->idx, 0);
	offer(g, 0);
	CHECK_EQ(pop(g), 1);
	guest_free(g);
}

/*
 * Chains that the driver must find together: the index stands still until all are in, and then says
 * all of them. What push refuses, fill does too.
 */
static void fill_then_publish(void)
{
	struct guest *g = guest_with_chains(INDIRECT);

	offer(g, 0);
	offer(g, 3);
	offer(g, 4);
	for (unsigned int i = 0; i < 3; i++)
		CHECK_EQ(pop(g), 1);
	queue_fill(&g->q, 4, 5);
	queue_fill(&g->q, 0, 514);
	queue_fill(&g->q, 0, 1); /* not in flight any more */
	queue_fill(&g->q, 1, 1); /* never was */
	CHECK_EQ(g->used->idx, 0);
	CHECK_EQ(g->q.in_flight, 1);
	CHECK_EQ(le32toh(g->used->ring[0].id), 4);
	CHECK_EQ(le32toh(g->used->ring[1].id), 0);
	CHECK_EQ(le32toh(g->used->ring[1].len), 513); /* cut to what can be written */
	queue_publish(&g->q);
	CHECK_EQ(le16toh(g->used->idx), 2);
	queue_publish(&g->q); /* nothing new */
	CHECK_EQ(le16toh(g->used->idx), 2);
	CHECK(queue_wants_interrupt(&g->q));
	CHECK(!queue_wants_interrupt(&g->q));
	queue_push(&g->q, 3, 0);
	CHECK_EQ(le16toh(g->used->idx), 3);
	guest_free(g);
}

/* A queue that broke between the two says nothing more to the driver; so does one that is reset. */
static void publish_after_the_end(void)
{
	struct guest *g = guest_with_chains(INDIRECT);

	offer(g, 0);
	offer(g, 3);
	offer(g, 8);
	CHECK_EQ(pop(g), 1);
	CHECK_EQ(pop(g), 1);
	queue_fill(&g->q, 0, 1);
	CHECK_EQ(pop(g), -EIO);
	queue_fill(&g->q, 3, 1);
	queue_publish(&g->q);
	CHECK_EQ(g->used->idx, 0);
	queue_reset(&g->q);
	queue_fill(&g->q, 3, 1);
	queue_publish(&g->q);
	CHECK_EQ(g->used->idx, 0);
	guest_free(g);
}

static void unpop(void)
{
	struct guest *g = guest_with_chains(INDIRECT);

	offer(g, 0);
	offer(g, 3);
	CHECK_EQ(pop(g), 1);
	CHECK_EQ(pop(g), 1);
	queue_unpop(&g->q, 3);
	queue_unpop(&g->q, 0);
	CHECK_EQ(g->q.in_flight, 0);
	CHECK_EQ(pop(g), 1);
	CHECK_EQ(g->chain.head, 0);
	CHECK_EQ(pop(g), 1);
	CHECK_EQ(g->chain.head, 3);
	guest_free(g);
}

static const struct {
	const char *name;
	uint32_t num;
	uint64_t desc, avail, used;
	int want;
} shapes[] = {
	{ "good", 8, DESC_GPA, AVAIL_GPA, USED_GPA, 0 },
	{ "size 1", 1, DESC_GPA, AVAIL_GPA, USED_GPA, 0 },
	{ "size 0", 0, DESC_GPA, AVAIL_GPA, USED_GPA, -EINVAL },
	{ "size 3", 3, DESC_GPA, AVAIL_GPA, USED_GPA, -EINVAL },
	{ "size 7", 7, DESC_GPA, AVAIL_GPA, USED_GPA, -EINVAL },
	{ "size 256", 256, BIG_GPA, BIG_GPA + BIG_SIZE, BIG_GPA + 2 * BIG_SIZE, 0 },
	{ "size 512", 512, BIG_GPA, BIG_GPA + BIG_SIZE, BIG_GPA + 2 * BIG_SIZE, -EINVAL },
	{ "size 32768", 32768, BIG_GPA, BIG_GPA + BIG_SIZE, BIG_GPA + 2 * BIG_SIZE, -EINVAL },
	{ "table beyond its region", 16, DESC_GPA, BUF_GPA, BUF2_GPA, -EINVAL },
	{ "available ring beyond its region", 16, BUF_GPA, AVAIL_GPA, BUF2_GPA, -EINVAL },
	{ "used ring beyond its region", 16, BUF_GPA, BUF2_GPA, USED_GPA, -EINVAL },
	{ "available ring's event word beyond", 8, DESC_GPA, AVAIL_GPA + 2, USED_GPA, -EINVAL },
	{ "used ring's event word within", 8, DESC_GPA, AVAIL_GPA, BUF_GPA + BUF_SIZE - 72, 0 },
	{ "used ring's event word beyond", 8, DESC_GPA, AVAIL_GPA, BUF_GPA + BUF_SIZE - 68, -EINVAL },
	{ "table unaligned", 8, BUF_GPA + 8, AVAIL_GPA, USED_GPA, -EINVAL },
	{ "available ring unaligned", 8, DESC_GPA, BUF_GPA + 1, USED_GPA, -EINVAL },
	{ "used ring unaligned", 8, DESC_GPA, AVAIL_GPA, BUF_GPA + 2, -EINVAL },
	{ "all unaligned enough", 8, BUF_GPA + 16, BUF2_GPA + 2, BUF2_GPA + 0x104, 0 },
	{ "table unset", 8, 0, AVAIL_GPA, USED_GPA, -EINVAL },
	{ "available ring unset", 8, DESC_GPA, 0, USED_GPA, -EINVAL },
	{ "used ring unset", 8, DESC_GPA, AVAIL_GPA, 0, -EINVAL },
	{ "table wraps", 8, UINT64_MAX - 127, AVAIL_GPA, USED_GPA, -EINVAL },
	{ "available ring wraps", 8, DESC_GPA, UINT64_MAX - 1, USED_GPA, -EINVAL },
	{ "used ring wraps", 8, DESC_GPA, AVAIL_GPA, UINT64_MAX - 3, -EINVAL },
	{ "across two regions", 8, BUF2_GPA - 16, AVAIL_GPA, USED_GPA, -EINVAL },
	{ "used ring in the table", 8, BUF_GPA, AVAIL_GPA, BUF_GPA + 124, -EINVAL },
	{ "used ring right behind the table", 8, BUF_GPA, AVAIL_GPA, BUF_GPA + 128, 0 },
	{ "available ring in the table", 8, BUF_GPA, BUF_GPA, USED_GPA, -EINVAL },
	{ "available and used ring the same", 8, DESC_GPA, BUF_GPA, BUF_GPA, -EINVAL },
};

static void activation(void)
{
	for (unsigned int i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		struct guest *g = guest_new(8, 0);
		int ret;

		add_block(&g->mem, BIG_GPA, 3 * BIG_SIZE);
		queue_reset(&g->q);
		CHECK_EQ(pop(g), 0);
		g->q.num = shapes[i].num;
		g->q.desc_gpa = shapes[i].desc;
		g->q.avail_gpa = shapes[i].avail;
		g->q.used_gpa = shapes[i].used;
		ret = queue_activate(&g->q, &g->mem, INDIRECT);
		if (ret != shapes[i].want) {
			printf("  %s: %d\n", shapes[i].name, ret);
			CHECK(ret == shapes[i].want);
		}
		CHECK_EQ(g->q.active, !ret);
		/* Whatever it said, it can be asked. */
		CHECK_EQ(pop(g), 0);
		queue_push(&g->q, 0, 0);
		queue_enable_kicks(&g->q);
		queue_disable_kicks(&g->q);
		CHECK(!queue_wants_interrupt(&g->q));
		guest_free(g);
	}
}

/* Address 0 may be RAM: rings that were never placed are refused there too. */
static void unset_rings_in_ram(void)
{
	struct memory mem;
	struct queue q;
	uint8_t *p;

	memory_init(&mem, -1);
	p = add_block(&mem, 0, 4096);
	queue_reset(&q);
	q.num = 8;
	CHECK_EQ(queue_activate(&q, &mem, 0), -EINVAL);
	free(p);
}

static void reset_forgets(void)
{
	struct guest *g = guest_with_chains(INDIRECT | EVENT);
	struct queue zero;

	offer(g, 0);
	CHECK_EQ(pop(g), 1);
	g->avail->idx = htole16(100);
	CHECK_EQ(pop(g), -EIO);
	queue_reset(&g->q);
	memset(&zero, 0, sizeof(zero));
	CHECK(!memcmp(&zero, &g->q, sizeof(zero)));
	/* A completion that comes too late reaches nobody. */
	queue_push(&g->q, 0, 1);
	CHECK_EQ(g->used->idx, 0);
	CHECK_EQ(pop(g), 0);

	/* And a second life is like the first. */
	memset(g->avail, 0, 6 + 2 * 8);
	g->q.num = 8;
	g->q.desc_gpa = DESC_GPA;
	g->q.avail_gpa = AVAIL_GPA;
	g->q.used_gpa = USED_GPA;
	CHECK_EQ(queue_activate(&g->q, &g->mem, INDIRECT), 0);
	offer(g, 0);
	CHECK_EQ(pop(g), 1);
	queue_push(&g->q, 0, 1);
	CHECK_EQ(le16toh(g->used->idx), 1);
	guest_free(g);
}

/* Indices go round at 65536, for every size. */
static void index_wrap(void)
{
	for (unsigned int num = 1; num <= QUEUE_MAX_SIZE; num *= 4) {
		struct guest *g = guest_new(num, 0);
		unsigned int bad = 0;

		for (unsigned int i = 0; i < num; i++)
			g->desc[i] = mkdesc(BUF_GPA + i, 1, F_WRITE, 0);
		for (unsigned int round = 0; round < 70000; round += num) {
			/* Full, empty, full. */
			for (unsigned int i = 0; i < num; i++)
				offer(g, (i + round / num) % num);
			for (unsigned int i = 0; i < num; i++) {
				bad += pop(g) != 1 || g->chain.head != (i + round / num) % num;
				queue_push(&g->q, g->chain.head, 1);
				bad += le32toh(g->used->ring[(round + i) % num].id) != g->chain.head;
			}
			bad += pop(g) != 0;
			bad += g->used->idx != g->avail->idx;
		}
		CHECK_EQ(bad, 0);
		CHECK_EQ(g->q.in_flight, 0);
		/* Too many is noticed on both sides of the wrap. */
		g->avail->idx = htole16(le16toh(g->avail->idx) + num + 1);
		CHECK_EQ(pop(g), -EIO);
		guest_free(g);
	}
}

static void interrupts_without_event_idx(void)
{
	struct guest *g = guest_with_chains(0);

	CHECK(!queue_wants_interrupt(&g->q));
	offer(g, 0);
	CHECK_EQ(pop(g), 1);
	CHECK(!queue_wants_interrupt(&g->q));
	queue_push(&g->q, 0, 0);
	CHECK(queue_wants_interrupt(&g->q));
	CHECK(!queue_wants_interrupt(&g->q)); /* said */
	g->avail->flags = htole16(VRING_AVAIL_F_NO_INTERRUPT);
	offer(g, 0);
	CHECK_EQ(pop(g), 1);
	queue_push(&g->q, 0, 0);
	CHECK(!queue_wants_interrupt(&g->q));
	guest_free(g);
}

/*
 * Every distance around the wrap against the plain meaning: was the entry used_event among those
 * just used?
 */
static void interrupts_with_event_idx(void)
{
	static const uint16_t starts[] = { 0, 1, 100, 0x7ffe, 0x8000, 0xfffd, 0xfffe, 0xffff };
	struct guest *g = guest_new(8, EVENT);
	unsigned int bad = 0;

	g->desc[0] = mkdesc(BUF_GPA, 1, F_WRITE, 0);
	for (unsigned int s = 0; s < sizeof(starts) / sizeof(starts[0]); s++) {
		for (int n = 1; n <= 8; n++) {
			for (int delta = -10; delta <= 18; delta++) {
				uint16_t event = starts[s] + delta;
				bool want = delta >= 0 && delta < n;

				g->q.next_used = g->q.signalled = starts[s];
				g->q.signalled_valid = true;
				for (int i = 0; i < n; i++) {
					offer(g, 0);
					bad += pop(g) != 1;
					queue_push(&g->q, 0, 0);
				}
				g->avail->ring[8] = htole16(event);
				bad += queue_wants_interrupt(&g->q) != want;
				bad += g->q.signalled != (uint16_t)(starts[s] + n);
				bad += queue_wants_interrupt(&g->q);
			}
		}
	}
	CHECK_EQ(bad, 0);
	guest_free(g);
}

/* The first decision has nothing to compare with, nor one after 65536 pushes: interrupt. */
static void interrupts_when_in_doubt(void)
{
	struct guest *g = guest_new(1, EVENT);
	int ret = 0;

	g->desc[0] = mkdesc(BUF_GPA, 1, F_WRITE, 0);
	g->avail->ring[1] = htole16(500);
	offer(g, 0);
	CHECK_EQ(pop(g), 1);
	queue_push(&g->q, 0, 0);
	CHECK(queue_wants_interrupt(&g->q));
	g->avail->ring[1] = htole16(0); /* passed long ago */
	for (int i = 0; i < 65536; i++) {
		offer(g, 0);
		ret |= pop(g) != 1;
		queue_push(&g->q, 0, 0);
	}
	CHECK_EQ(ret, 0);
	CHECK(queue_wants_interrupt(&g->q));
	guest_free(g);
}

static void kicks(void)
{
	struct guest *g = guest_with_chains(0);

	CHECK(!queue_enable_kicks(&g->q));
	queue_disable_kicks(&g->q);
	CHECK_EQ(le16toh(g->used->flags), VRING_USED_F_NO_NOTIFY);
	CHECK(!queue_enable_kicks(&g->q));
	CHECK_EQ(g->used->flags, 0);
	offer(g, 0);
	CHECK(queue_enable_kicks(&g->q));
	CHECK_EQ(pop(g), 1);
	CHECK(!queue_enable_kicks(&g->q));
	guest_free(g);

	/* With EVENT_IDX the word behind the used ring says it, and flags stay 0 (2.7.10). */
	g = guest_with_chains(EVENT);
	queue_disable_kicks(&g->q);
	CHECK_EQ(g->used->flags, 0);
	offer(g, 0);
	offer(g, 2);
	CHECK(queue_enable_kicks(&g->q));
	CHECK_EQ(pop(g), 1);
	CHECK(queue_enable_kicks(&g->q));
	CHECK_EQ(le16toh(*(uint16_t *)&g->used->ring[8]), 1);
	CHECK_EQ(pop(g), 1);
	CHECK(!queue_enable_kicks(&g->q));
	CHECK_EQ(le16toh(*(uint16_t *)&g->used->ring[8]), 2);
	guest_free(g);

	/* What an earlier life left in the used ring does not keep the driver from kicking. */
	g = guest_with_chains(EVENT);
	g->used->flags = htole16(VRING_USED_F_NO_NOTIFY);
	*(uint16_t *)&g->used->ring[8] = htole16(77);
	CHECK_EQ(queue_activate(&g->q, &g->mem, EVENT), 0);
	CHECK_EQ(g->used->flags, 0);
	CHECK_EQ(*(uint16_t *)&g->used->ring[8], 0);
	guest_free(g);
}

static void chain_copies(void)
{
	struct guest *g = guest_with_chains(INDIRECT);
	uint8_t buf[600], want[600];
	struct queue_chain *c = &g->chain;

	for (unsigned int i = 0; i < sizeof(want); i++)
		want[i] = i * 7 + 1;
	memcpy(g->buf + 0x800, want, 4);
	memcpy(g->buf, want + 4, 16);
	offer(g, 4); /* out: 4 + 16, in: 512 + 1 */
	CHECK_EQ(pop(g), 1);
	/* Every offset and length against one flat array. */
	for (unsigned int off = 0; off < 24; off++) {
		for (unsigned int len = 0; len < 24; len++) {
			unsigned int n = off >= 20 ? 0 : len < 20 - off ? len : 20 - off;

			memset(buf, 0xee, sizeof(buf));
			CHECK_EQ(queue_chain_read(c, off, buf, len), n);
			CHECK(!memcmp(buf, want + off, n));
			CHECK_EQ(buf[n], 0xee);
		}
	}
	CHECK_EQ(queue_chain_read(c, UINT64_MAX, buf, 1), 0);
	CHECK_EQ(queue_chain_read(c, 0, buf, UINT64_MAX), 20);
	CHECK_EQ(queue_chain_write(c, 0, want, 600), 513);
	CHECK(!memcmp(g->buf + 0x100, want, 512));
	CHECK_EQ(g->buf[0x400], want[512]);
	CHECK_EQ(g->buf[0x401], 0);
	CHECK_EQ(queue_chain_write(c, 511, "ab", 2), 2);
	CHECK_EQ(g->buf[0x2ff], 'a');
	CHECK_EQ(g->buf[0x400], 'b');
	CHECK_EQ(g->buf[0x300], 0);
	CHECK_EQ(queue_chain_write(c, 513, want, 1), 0);
	guest_free(g);
}

/*
 * What the specification says of a chain, told another way than queue.c does: a list of steps, each
 * looked up, at most as many as there are descriptors in their table. Fills in the buffers'
 * addresses; returns how many, or -1.
 */
static int oracle(const struct guest *g, unsigned int head, uint64_t *addrs)
{
	const struct vring_desc *table = g->desc;
	unsigned int size = g->num, at = head, steps = 0;
	bool inside = false, in_part = false;
	int n = 0;

	while (at < size && steps < size) {
		struct vring_desc d = table[at];
		bool next = d.flags & F_NEXT, in = d.flags & F_WRITE;

		steps++;
		if (d.flags & F_INDIRECT) {
			if (inside || next || d.addr != TABLE_GPA || d.len != 32)
				return -1;
			inside = true;
			table = g->table;
			size = 2;
			steps = at = 0;
			continue;
		}
		if (!d.len || !((d.addr >= BUF_GPA && d.addr + d.len <= BUF_GPA + BUF_SIZE) ||
				(d.addr >= TABLE_GPA && d.addr + d.len <= TABLE_GPA + TABLE_LEN)))
			return -1;
		if (in_part && !in)
			return -1;
		in_part = in;
		addrs[n++] = d.addr;
		if (!next)
			return n;
		at = d.next;
	}
	return -1;
}

/* Offers head @h of the rings as they are and holds queue_pop() against the oracle. */
static unsigned int differs(struct guest *g, unsigned int h)
{
	uint64_t addrs[16];
	int want = h < g->num ? oracle(g, h, addrs) : -1, ret;
	unsigned int bad = 0;

	g->q.broken = false;
	g->q.last_avail = 0;
	g->avail->idx = htole16(1);
	g->avail->ring[0] = htole16(h);
	ret = pop(g);
	if (want < 0)
		return ret != -EIO;
	if (ret != 1 || g->chain.nr_out + g->chain.nr_in != want)
		return 1;
	for (int i = 0; i < want; i++) {
		const struct iovec *iov = &g->chain.iov[i];

		bad += iov->iov_base != memory_ptr(&g->mem, addrs[i], iov->iov_len);
		/* Touched, for the sanitizer's sake. */
		bad += ((volatile uint8_t *)iov->iov_base)[iov->iov_len - 1] == 0xee;
	}
	queue_unpop(&g->q, h);
	return bad;
}

/* Every meaning that a descriptor can have in a ring of @n; returns how many. */
static unsigned int kinds(struct vring_desc *out, unsigned int n, bool all)
{
	static const struct {
		uint64_t addr;
		uint32_t len;
	} bufs[] = {
		{ BUF_GPA, 16 },
		{ TABLE_GPA, 32 },
		{ BUF_GPA + BUF_SIZE - 8, 16 }, /* across two regions */
		{ HOLE_GPA, 1 },
		{ BUF_GPA, 0 },
	};
	const uint16_t nexts[] = { 0, 1, 2, 3, n, 0xffff };
	unsigned int k = 0;

	for (unsigned int flags = 0; flags < 8; flags++) {
		for (unsigned int b = 0; b < (all ? 5 : 2); b++) {
			for (unsigned int i = 0; i < 6; i++) {
				if ((!all && i == 5) || (i < 4 && i >= n))
					continue;
				/*
				 * The fewer: a next that is not followed, a table that is none, and
				 * the other way round.
				 */
				if (!all && ((!(flags & F_NEXT) && i) || !(flags & F_INDIRECT) != !b ||
					     flags > (F_INDIRECT | F_NEXT)))
					continue;
				if (!all && flags == (F_INDIRECT | F_NEXT) && i)
					continue;
				out[k++] = mkdesc(bufs[b].addr, bufs[b].len, flags, nexts[i]);
			}
		}
	}
	return k;
}

/*
 * Rings of 1, 2 and 4 in every combination, each from every head, with one indirect table of 2 in
 * sight.
 */
static void small_rings_exhausted(void)
{
	struct vring_desc kind[256];
	unsigned int n, bad = 0;
	unsigned long count = 0, valid = 0;
	struct guest *g;

	log_set_level(LOG_ERROR);
	g = guest_new(1, INDIRECT);
	n = kinds(kind, 1, true);
	g->table[0] = mkdesc(BUF_GPA, 1, F_NEXT, 1);
	g->table[1] = mkdesc(BUF_GPA + 1, 1, F_WRITE, 0);
	for (unsigned int a = 0; a < n; a++) {
		g->desc[0] = kind[a];
		for (unsigned int h = 0; h <= 1; h++)
			bad += differs(g, h), count++;
	}
	/* The same one level down. */
	g->desc[0] = mkdesc(TABLE_GPA, 32, F_INDIRECT, 0);
	n = kinds(kind, 2, true);
	for (unsigned int a = 0; a < n; a++) {
		for (unsigned int b = 0; b < n; b++) {
			g->table[0] = kind[a];
			g->table[1] = kind[b];
			bad += differs(g, 0), count++;
		}
	}
	guest_free(g);
	CHECK_EQ(bad, 0);

	g = guest_new(2, INDIRECT);
	g->table[0] = mkdesc(BUF_GPA, 1, F_NEXT, 1);
	g->table[1] = mkdesc(BUF_GPA + 1, 1, F_WRITE, 0);
	for (unsigned int a = 0; a < n; a++) {
		for (unsigned int b = 0; b < n; b++) {
			g->desc[0] = kind[a];
			g->desc[1] = kind[b];
			for (unsigned int h = 0; h <= 2; h++)
				bad += differs(g, h), count++;
		}
	}
	guest_free(g);
	CHECK_EQ(bad, 0);

	g = guest_new(4, INDIRECT);
	g->table[0] = mkdesc(BUF_GPA, 1, F_NEXT, 1);
	g->table[1] = mkdesc(BUF_GPA + 1, 1, F_WRITE, 0);
	n = kinds(kind, 4, false);
	for (unsigned int i = 0; i < n * n * n * n; i++) {
		g->desc[0] = kind[i % n];
		g->desc[1] = kind[i / n % n];
		g->desc[2] = kind[i / n / n % n];
		g->desc[3] = kind[i / n / n / n];
		for (unsigned int h = 0; h < 4; h++) {
			bad += differs(g, h), count++;
			valid += !g->q.broken;
		}
	}
	guest_free(g);
	CHECK_EQ(bad, 0);
	/* Neither answer may be the only one. */
	CHECK(valid > 1000 && valid < count - 1000);
	log_set_level(LOG_INFO);
}

/*
 * A driver and a device on two threads. Each message is a number in a buffer that is used over and
 * over; the device answers with another. A notification that is lost is seen as a wait that ends by
 * its timeout.
 */
#define STRESS_NUM	256
#define STRESS_MESSAGES 500000u
#define STRESS_WAIT_MS	4000

struct stress {
	struct guest *g;
	int kick, call;
	bool event_idx;
	unsigned int device_waits, driver_waits;
	unsigned int bad;
	atomic_bool failed;
};

static bool eventfd_wait(struct stress *s, int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	uint64_t count;

	if (poll(&p, 1, STRESS_WAIT_MS) == 1 && read(fd, &count, sizeof(count)) == sizeof(count))
		return true;
	atomic_store(&s->failed, true);
	return false;
}

static void eventfd_raise(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) != sizeof(one))
		abort();
}

static void *stress_device(void *opaque)
{
	struct stress *s = opaque;
	struct queue *q = &s->g->q;
	unsigned int done = 0, batch = 0;
	uint64_t v;

	while (done < STRESS_MESSAGES && !atomic_load(&s->failed)) {
		int ret = queue_pop(q, &s->g->chain);

		if (ret < 0) {
			atomic_store(&s->failed, true);
			break;
		}
		if (ret) {
			const struct queue_chain *c = &s->g->chain;

			if (queue_chain_read(c, 0, &v, 8) != 8 || v != done)
				s->bad++;
			v = ~v;
			queue_chain_write(c, 0, &v, 8);
			queue_push(q, c->head, 8);
			done++;
			if (++batch % 16 == 0 && queue_wants_interrupt(q))
				eventfd_raise(s->call);
			continue;
		}
		if (queue_wants_interrupt(q))
			eventfd_raise(s->call);
		if (queue_enable_kicks(q)) {
			queue_disable_kicks(q);
			continue;
		}
		s->device_waits++;
		if (!eventfd_wait(s, s->kick))
			break;
		queue_disable_kicks(q);
	}
	if (queue_wants_interrupt(q))
		eventfd_raise(s->call);
	return NULL;
}

#define relaxed_load(p)	    le16toh(__atomic_load_n(p, __ATOMIC_RELAXED))
#define relaxed_store(p, v) __atomic_store_n(p, htole16(v), __ATOMIC_RELAXED)

static void stress_driver(struct stress *s)
{
	struct guest *g = s->g;
	uint64_t *out = (uint64_t *)g->buf, *in = (uint64_t *)g->buf2;
	uint16_t *used_event = &g->avail->ring[STRESS_NUM], last_used = 0, avail = 0;
	uint16_t *avail_event = (uint16_t *)&g->used->ring[STRESS_NUM];
	unsigned int slots = STRESS_NUM / 2, sent = 0, got = 0;

	for (unsigned int i = 0; i < slots; i++) {
		g->desc[2 * i] = mkdesc(BUF_GPA + 8 * i, 8, F_NEXT, 2 * i + 1);
		g->desc[2 * i + 1] = mkdesc(BUF2_GPA + 8 * i, 8, F_WRITE, 0);
	}
	while (got < STRESS_MESSAGES && !atomic_load(&s->failed)) {
		uint16_t old = avail, used;
		bool kick;

		while (sent < STRESS_MESSAGES && sent - got < slots) {
			out[sent % slots] = sent;
			in[sent % slots] = 0;
			relaxed_store(&g->avail->ring[avail % STRESS_NUM], sent % slots * 2);
			avail++;
			sent++;
		}
		if (avail != old) {
			__atomic_store_n(&g->avail->idx, htole16(avail), __ATOMIC_RELEASE);
			__atomic_thread_fence(__ATOMIC_SEQ_CST);
			if (s->event_idx)
				kick = vring_need_event(relaxed_load(avail_event), avail, old);
			else
				kick = !(relaxed_load(&g->used->flags) & VRING_USED_F_NO_NOTIFY);
			if (kick)
				eventfd_raise(s->kick);
		}
		used = le16toh(__atomic_load_n(&g->used->idx, __ATOMIC_ACQUIRE));
		if (used == last_used) {
			/* Interrupts on, look again, sleep. */
			if (s->event_idx)
				relaxed_store(used_event, last_used);
			else
				relaxed_store(&g->avail->flags, 0);
			__atomic_thread_fence(__ATOMIC_SEQ_CST);
			used = le16toh(__atomic_load_n(&g->used->idx, __ATOMIC_ACQUIRE));
			if (used == last_used) {
				s->driver_waits++;
				if (!eventfd_wait(s, s->call))
					break;
			}
			if (!s->event_idx)
				relaxed_store(&g->avail->flags, VRING_AVAIL_F_NO_INTERRUPT);
			continue;
		}
		for (; last_used != used; last_used++, got++) {
			struct vring_used_elem *e = &g->used->ring[last_used % STRESS_NUM];

			/* One thread answers in order, so the head is known. */
			if (__atomic_load_n(&e->id, __ATOMIC_RELAXED) != htole32(got % slots * 2) ||
			    __atomic_load_n(&e->len, __ATOMIC_RELAXED) != htole32(8) ||
			    in[got % slots] != ~(uint64_t)got)
				s->bad++;
		}
	}
	CHECK_EQ(got, STRESS_MESSAGES);
}

static void stress(bool event_idx)
{
	struct stress s = { .event_idx = event_idx };
	pthread_t thread;

	s.g = guest_new(STRESS_NUM, event_idx ? EVENT : 0);
	s.kick = eventfd(0, EFD_CLOEXEC);
	s.call = eventfd(0, EFD_CLOEXEC);
	CHECK(s.kick >= 0 && s.call >= 0);
	CHECK_EQ(pthread_create(&thread, NULL, stress_device, &s), 0);
	stress_driver(&s);
	pthread_join(thread, NULL);
	CHECK(!atomic_load(&s.failed));
	CHECK_EQ(s.bad, 0);
	CHECK_EQ(s.g->q.in_flight, 0);
	printf("  %u messages, the device slept %u times, the driver %u\n", STRESS_MESSAGES,
	       s.device_waits, s.driver_waits);
	close(s.kick);
	close(s.call);
	guest_free(s.g);
}

static void stress_with_flags(void)
{
	stress(false);
}

static void stress_with_event_idx(void)
{
	stress(true);
}

/*
 * One message at a time, and waits that spin: each side stops and starts asking for a notification
 * a few instructions away from the other's deciding whether to send one. Without queue.c's full
 * barriers a notification is lost sooner or later, on x86 too: this finds it often on two idle CPUs
 * and seldom on a busy machine, so a pass proves nothing by itself.
 */
#define HANDOFF_MESSAGES 1000000u
#define HANDOFF_MS	 1000 /* fewer messages where the two threads have to share a CPU */

struct handoff {
	struct guest *g;
	atomic_uint kick, call;
	atomic_bool failed, stop;
};

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000ull + t.tv_nsec / 1000000;
}

/* Waits for the doorbell to move on from *seen. */
static bool handoff_wait(struct handoff *h, atomic_uint *bell, unsigned int *seen)
{
	uint64_t start = now_ms();

	for (unsigned int spins = 1; atomic_load(bell) == *seen; spins++) {
		if (spins % 1024)
			continue;
		sched_yield();
		if (atomic_load(&h->stop))
			return false;
		/* A machine with much else to do may stop us for seconds. */
		if (now_ms() - start > 20000 || atomic_load(&h->failed)) {
			atomic_store(&h->failed, true);
			return false;
		}
	}
	*seen = atomic_load(bell);
	return true;
}

static void *handoff_device(void *opaque)
{
	struct handoff *h = opaque;
	struct queue *q = &h->g->q;
	unsigned int seen = 0;

	for (;;) {
		int ret = queue_pop(q, &h->g->chain);

		if (ret < 0) {
			atomic_store(&h->failed, true);
			break;
		}
		if (ret) {
			queue_push(q, h->g->chain.head, 8);
			if (queue_wants_interrupt(q))
				atomic_fetch_add(&h->call, 1);
		} else if (!queue_enable_kicks(q)) {
			if (!handoff_wait(h, &h->kick, &seen))
				break;
			queue_disable_kicks(q);
		}
	}
	return NULL;
}

static void handoff(bool event_idx)
{
	struct handoff h = { .g = guest_new(4, event_idx ? EVENT : 0) };
	struct guest *g = h.g;
	uint16_t *used_event = &g->avail->ring[4], *avail_event = (uint16_t *)&g->used->ring[4];
	unsigned int seen = 0, sent;
	uint64_t start = now_ms();
	pthread_t thread;

	g->desc[0] = mkdesc(BUF_GPA, 8, F_WRITE, 0);
	CHECK_EQ(pthread_create(&thread, NULL, handoff_device, &h), 0);
	for (sent = 0; sent < HANDOFF_MESSAGES && !atomic_load(&h.failed); sent++) {
		if (sent % 256 == 0 && sent > 256 && now_ms() - start > HANDOFF_MS)
			break;
		uint16_t idx = sent + 1;
		bool kick;

		__atomic_store_n(&g->avail->idx, htole16(idx), __ATOMIC_RELEASE);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (event_idx)
			kick = vring_need_event(relaxed_load(avail_event), idx, sent);
		else
			kick = !(relaxed_load(&g->used->flags) & VRING_USED_F_NO_NOTIFY);
		if (kick)
			atomic_fetch_add(&h.kick, 1);
		/*
		 * Interrupts are off; for a while of changing length, so that "on" meets the
		 * device's every step.
		 */
		for (volatile unsigned int i = 0; i < sent % 64; i++)
			;
		if (event_idx)
			relaxed_store(used_event, sent);
		else
			relaxed_store(&g->avail->flags, 0);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		while (le16toh(__atomic_load_n(&g->used->idx, __ATOMIC_ACQUIRE)) != idx) {
			if (!handoff_wait(&h, &h.call, &seen))
				break;
		}
		if (!event_idx)
			relaxed_store(&g->avail->flags, VRING_AVAIL_F_NO_INTERRUPT);
	}
	atomic_store(&h.stop, true);
	pthread_join(thread, NULL);
	printf("  %u messages\n", sent);
	CHECK_EQ(le16toh(g->used->idx), (uint16_t)sent);
	CHECK(sent > 256);
	CHECK(!atomic_load(&h.failed));
	guest_free(g);
}

static void handoff_with_flags(void)
{
	handoff(false);
}

static void handoff_with_event_idx(void)
{
	handoff(true);
}

int main(void)
{
	/* The warnings are the point of many cases; a line of each is enough. */
	log_set_level(LOG_WARN);
	RUN(good_chains);
	RUN(malformed_rings);
	RUN(head_in_flight_twice);
	RUN(chain_length);
	RUN(table_length);
	RUN(unaligned_table);
	RUN(huge_chain);
	RUN(push_rules);
	RUN(push_after_the_end);
	RUN(fill_then_publish);
	RUN(publish_after_the_end);
	RUN(unpop);
	RUN(activation);
	RUN(unset_rings_in_ram);
	RUN(reset_forgets);
	RUN(index_wrap);
	RUN(interrupts_without_event_idx);
	RUN(interrupts_with_event_idx);
	RUN(interrupts_when_in_doubt);
	RUN(kicks);
	RUN(chain_copies);
	RUN(small_rings_exhausted);
	RUN(stress_with_flags);
	RUN(stress_with_event_idx);
	RUN(handoff_with_flags);
	RUN(handoff_with_event_idx);
	return TEST_RESULT();
}
