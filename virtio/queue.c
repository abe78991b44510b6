/* SPDX-License-Identifier: MIT */
/*
 * The device's side of a split virtqueue. Source: VIRTIO 1.2, section 2.7 (split
 * virtqueues), 2.7.5.3 (indirect descriptors), 2.7.7 and 2.7.10 (notification suppression).
 *
 * Everything behind q->desc, q->avail and q->used may change under our hands at any time. Each
 * field is loaded exactly once, by the helpers below, and only the local copy is checked and used.
 *
 * The guest's CPUs are other threads as far as memory goes, in one inner shareable domain with
 * ours, and may be weakly ordered. Four pairs of barriers keep the rings right (the driver's side
 * by Linux's names, drivers/virtio/virtio_ring.c); each is commented where it stands:
 *
 *	ours					the driver's
 *	acquire load of avail->idx		virtio_wmb() before its store (virtqueue_add)
 *	release store of used->idx		virtio_rmb() after its load (virtqueue_get_buf)
 *	fence: used->idx, then used_event	virtio_mb() or virtio_store_mb(): used_event, then
 *						used->idx (virtqueue_enable_cb, get_buf)
 *	fence: avail_event, then avail->idx	virtio_mb(): avail->idx, then avail_event
 *						(virtqueue_kick_prepare)
 *
 * A kick and an interrupt are no barriers by themselves and need be none: whoever gets one reads
 * the index again with an acquire load, and the kernel's way from an eventfd to a vCPU and back
 * orders what was stored before it.
 */
#include "virtio/queue.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include "vm/log.h"
#include "vm/memory.h"

#define DESC_SIZE sizeof(struct vring_desc)

/* A descriptor in host byte order, ours alone. */
struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next;
};

static uint16_t load16(const void *p)
{
	return le16toh(__atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED));
}

/*
 * Nothing that is read later is read before this: pairs with the driver's virtio_wmb() before its
 * index store.
 */
static uint16_t load16_acquire(const void *p)
{
	return le16toh(__atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE));
}

static void store16(void *p, uint16_t v)
{
	__atomic_store_n((uint16_t *)p, htole16(v), __ATOMIC_RELAXED);
}

/*
 * All that was written before is seen before this: pairs with the driver's virtio_rmb() after its
 * index load.
 */
static void store16_release(void *p, uint16_t v)
{
	__atomic_store_n((uint16_t *)p, htole16(v), __ATOMIC_RELEASE);
}

static void store32(void *p, uint32_t v)
{
	__atomic_store_n((uint32_t *)p, htole32(v), __ATOMIC_RELAXED);
}

/*
 * An indirect table need not be aligned, so this copies bytes. The empty asm keeps the compiler
 * from going back to guest memory for a field that was checked in the copy.
 */
static void desc_load(struct desc *d, const uint8_t *table, unsigned int i)
{
	struct vring_desc raw;

	memcpy(&raw, table + i * DESC_SIZE, sizeof(raw));
	__asm__ volatile("" : "+m"(raw) : : "memory");
	d->addr = le64toh(raw.addr);
	d->len = le32toh(raw.len);
	d->flags = le16toh(raw.flags);
	d->next = le16toh(raw.next);
}

/* The driver's word on when to interrupt; it lies behind the available ring (2.7.6). */
static uint16_t load_used_event(const struct queue *q)
{
	const struct vring_avail *avail = q->avail;

	return load16(&avail->ring[q->num]);
}

/* Our word on when to kick; it lies behind the used ring (2.7.8). */
static void store_avail_event(struct queue *q, uint16_t v)
{
	struct vring_used *used = q->used;

	store16(&used->ring[q->num], v);
}

static void store_used_flags(struct queue *q, uint16_t v)
{
	struct vring_used *used = q->used;

	store16(&used->flags, v);
}

static bool head_taken(const struct queue *q, uint16_t head)
{
	return q->taken[head / 8] >> head % 8 & 1;
}

static int queue_malformed(struct queue *q, const char *why)
{
	q->broken = true;
	log_limited(LOG_WARN, "virtqueue: malformed ring: %s", why);
	return -EIO;
}

void queue_reset(struct queue *q)
{
	memset(q, 0, sizeof(*q));
}

static bool overlap(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
	return a < b + b_len && b < a + a_len;
}

static const char *rings_check(struct queue *q, struct memory *mem)
{
	uint64_t num = q->num;
	uint64_t desc_len = num * DESC_SIZE;
	/* The event words are part of the rings whether EVENT_IDX is on or not (2.7). */
	uint64_t avail_len = 6 + 2 * num;
	uint64_t used_len = 6 + 8 * num;

	if (!num || num > QUEUE_MAX_SIZE || (num & (num - 1)))
		return "size is not a power of two within bounds";
	if (q->desc_gpa % 16 || q->avail_gpa % 2 || q->used_gpa % 4)
		return "ring is not aligned";
	q->desc = memory_ptr(mem, q->desc_gpa, desc_len);
	q->avail = memory_ptr(mem, q->avail_gpa, avail_len);
	q->used = memory_ptr(mem, q->used_gpa, used_len);
	if (!q->desc || !q->avail || !q->used)
		return "ring is not wholly in RAM";
	/*
	 * None wraps, now that all lie in RAM. Addresses that were never set show as an overlap at
	 * 0.
	 */
	if (overlap(q->desc_gpa, desc_len, q->avail_gpa, avail_len) ||
	    overlap(q->desc_gpa, desc_len, q->used_gpa, used_len) ||
	    overlap(q->avail_gpa, avail_len, q->used_gpa, used_len))
		return "rings overlap";
	return NULL;
}

int queue_restore(struct queue *q, struct memory *mem, uint64_t features)
{
	const char *why = rings_check(q, mem);

	q->active = false;
	if (why) {
		log_limited(LOG_WARN,
			    "virtqueue: can't be used: %s (size %u, at %#llx, %#llx, %#llx)", why,
			    q->num, (unsigned long long)q->desc_gpa,
			    (unsigned long long)q->avail_gpa, (unsigned long long)q->used_gpa);
		return -EINVAL;
	}
	q->mem = mem;
	q->event_idx = features >> VIRTIO_RING_F_EVENT_IDX & 1;
	q->indirect = features >> VIRTIO_RING_F_INDIRECT_DESC & 1;
	q->in_flight = 0;
	memset(q->taken, 0, sizeof(q->taken));
	q->active = true;
	return 0;
}

int queue_activate(struct queue *q, struct memory *mem, uint64_t features)
{
	int ret = queue_restore(q, mem, features);

	if (ret)
		return ret;
	q->broken = false;
	q->last_avail = 0;
	q->next_used = 0;
	q->signalled = 0;
	q->signalled_valid = false;
	q->pushed = false;
	/* What an earlier life of these pages left there must not keep the driver from kicking. */
	store_used_flags(q, 0);
	if (q->event_idx)
		store_avail_event(q, 0);
	return 0;
}

bool queue_in_place(const struct queue *q)
{
	struct queue at = { .num = q->num, .desc_gpa = q->desc_gpa, .avail_gpa = q->avail_gpa,
			    .used_gpa = q->used_gpa };

	return !rings_check(&at, q->mem) && at.desc == q->desc && at.avail == q->avail &&
	       at.used == q->used;
}

/* Appends one buffer. NULL, or what is wrong with it. */
static const char *chain_add(struct queue *q, struct queue_chain *chain, const struct desc *d)
{
	unsigned int n = chain->nr_out + chain->nr_in;
	void *p;

	if (n >= QUEUE_MAX_SIZE)
		return "chain has too many buffers";
	/*
	 * The specification has no word on length 0. No driver sends it and QEMU refuses it too;
	 * refused here, devices need not think of it.
	 */
	if (!d->len)
		return "buffer of length 0";
	p = memory_ptr(q->mem, d->addr, d->len);
	if (!p)
		return "buffer is not wholly in RAM";
	if (d->flags & VRING_DESC_F_WRITE) {
		chain->nr_in++;
		chain->in_len += d->len;
	} else {
		if (chain->nr_in) /* 2.7.4.2 */
			return "readable buffer after a writable one";
		chain->nr_out++;
		chain->out_len += d->len;
	}
	/* 2.7.5.2. 256 times 4 GiB can't wrap the sums. */
	if (chain->out_len + chain->in_len > 1ULL << 32)
		return "chain is longer than 4 GiB";
	chain->iov[n].iov_base = p;
	chain->iov[n].iov_len = d->len;
	return NULL;
}

/* Follows the chain of @head. Ends after at most q->num + QUEUE_MAX_SIZE descriptors. */
static const char *chain_walk(struct queue *q, struct queue_chain *chain, uint16_t head)
{
	const uint8_t *table = q->desc;
	unsigned int n = q->num, i = head, hops = 0;
	bool indirect = false;
	const char *why;
	struct desc d;

	for (;;) {
		if (i >= n)
			return "descriptor index beyond its table";
		if (hops++ >= n)
			return "chain loops";
		desc_load(&d, table, i);
		if (d.flags & VRING_DESC_F_INDIRECT) {
			/*
			 * 2.7.5.3.1. It may follow direct ones, but ends the chain; its WRITE flag
			 * means nothing.
			 */
			if (!q->indirect)
				return "indirect descriptor without the feature";
			if (indirect)
				return "nested indirect descriptor";
			if (d.flags & VRING_DESC_F_NEXT)
				return "indirect descriptor with a next one";
			if (!d.len || d.len % DESC_SIZE || d.len / DESC_SIZE > QUEUE_MAX_SIZE)
				return "length of an indirect table";
			table = memory_ptr(q->mem, d.addr, d.len);
			if (!table)
				return "indirect table is not wholly in RAM";
			indirect = true;
			n = d.len / DESC_SIZE;
			i = 0;
			hops = 0;
			continue;
		}
		why = chain_add(q, chain, &d);
		if (why)
			return why;
		if (!(d.flags & VRING_DESC_F_NEXT))
			return NULL;
		i = d.next;
	}
}

int queue_pop(struct queue *q, struct queue_chain *chain)
{
	const struct vring_avail *avail = q->avail;
	uint16_t gap, head;
	const char *why;

	if (q->broken)
		return -EIO;
	if (!q->active)
		return 0;

	/*
	 * Acquire: the ring entry and the descriptors are as the driver left them before it moved
	 * idx (2.7.13.3).
	 */
	gap = load16_acquire(&avail->idx) - q->last_avail;
	if (!gap)
		return 0;
	if (gap > q->num)
		return queue_malformed(q, "more chains available than the ring holds");
	head = load16(&avail->ring[q->last_avail & (q->num - 1)]);
	if (head >= q->num)
		return queue_malformed(q, "head beyond the descriptor table");
	if (head_taken(q, head))
		return queue_malformed(q, "head is already in flight");

	chain->head = head;
	chain->nr_out = chain->nr_in = 0;
	chain->out_len = chain->in_len = 0;
	why = chain_walk(q, chain, head);
	if (why)
		return queue_malformed(q, why);

	q->taken[head / 8] |= 1 << head % 8;
	q->in_len[head] = chain->in_len > UINT32_MAX ? UINT32_MAX : chain->in_len;
	q->in_flight++;
	q->last_avail++;
	return 1;
}

void queue_unpop(struct queue *q, uint16_t head)
{
	if (!q->active || head >= q->num || !head_taken(q, head))
		return;
	q->taken[head / 8] &= ~(1 << head % 8);
	q->in_flight--;
	q->last_avail--;
}

void queue_fill(struct queue *q, uint16_t head, uint32_t len)
{
	struct vring_used *used = q->used;
	struct vring_used_elem *elem;

	if (!q->active || q->broken)
		return;
	if (head >= q->num || !head_taken(q, head)) {
		log_limited(LOG_ERROR, "virtqueue: head %u returned but not in flight", head);
		return;
	}
	q->taken[head / 8] &= ~(1 << head % 8);
	q->in_flight--;

	elem = &used->ring[q->next_used & (q->num - 1)];
	store32(&elem->id, head);
	/*
	 * A driver copies this many bytes out of its buffer (trust in len has leaked memory on both
	 * sides).
	 */
	store32(&elem->len, len < q->in_len[head] ? len : q->in_len[head]);
	q->next_used++;
	q->pushed = true;
	/* All the way round without a decision: "signalled" says nothing any more. */
	if (q->next_used == q->signalled)
		q->signalled_valid = false;
}

void queue_publish(struct queue *q)
{
	struct vring_used *used = q->used;

	/*
	 * Release: the buffers and the element before the index (2.7.14); pairs with the read
	 * barrier in the driver's get_buf.
	 */
	if (q->active && !q->broken)
		store16_release(&used->idx, q->next_used);
}

void queue_push(struct queue *q, uint16_t head, uint32_t len)
{
	queue_fill(q, head, len);
	queue_publish(q);
}

bool queue_wants_interrupt(struct queue *q)
{
	const struct vring_avail *avail = q->avail;
	uint16_t old = q->signalled;
	bool valid = q->signalled_valid;

	if (!q->active || q->broken || !q->pushed)
		return false;
	q->pushed = false;
	/*
	 * used->idx before used_event or flags are read. Pairs with the full barrier in the
	 * driver's "enable callbacks, then look again": one of the two sees the other's store.
	 */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!q->event_idx)
		return !(load16(&avail->flags) & VRING_AVAIL_F_NO_INTERRUPT);
	q->signalled = q->next_used;
	q->signalled_valid = true;
	return !valid || vring_need_event(load_used_event(q), q->next_used, old);
}

bool queue_enable_kicks(struct queue *q)
{
	const struct vring_avail *avail = q->avail;

	if (!q->active || q->broken)
		return false;
	if (q->event_idx)
		store_avail_event(q, q->last_avail);
	else
		store_used_flags(q, 0);
	/*
	 * avail_event or flags before avail->idx is read again. Pairs with the full barrier in the
	 * driver's kick_prepare, between its store to avail->idx and its load of ours.
	 */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return load16(&avail->idx) != q->last_avail;
}

void queue_disable_kicks(struct queue *q)
{
	/*
	 * With EVENT_IDX nothing is to do: the avail_event that stays behind lets no kick through
	 * for 65535 chains.
	 */
	if (q->active && !q->broken && !q->event_idx)
		store_used_flags(q, VRING_USED_F_NO_NOTIFY);
}

/* Copies between @buf and the iovecs, from @offset of their bytes. */
static uint64_t iov_copy(const struct iovec *iov, unsigned int nr, uint64_t offset, uint8_t *buf,
			 uint64_t len, bool to_guest)
{
	uint64_t done = 0;
	unsigned int i;

	for (i = 0; i < nr && done < len; i++) {
		uint8_t *p = iov[i].iov_base;
		uint64_t n = iov[i].iov_len;

		if (offset >= n) {
			offset -= n;
			continue;
		}
		p += offset;
		n -= offset;
		offset = 0;
		if (n > len - done)
			n = len - done;
		if (to_guest)
			memcpy(p, buf + done, n);
		else
			memcpy(buf + done, p, n);
		done += n;
	}
	return done;
}

uint64_t queue_chain_read(const struct queue_chain *chain, uint64_t offset, void *buf, uint64_t len)
{
	return iov_copy(chain->iov, chain->nr_out, offset, buf, len, false);
}

uint64_t queue_chain_write(const struct queue_chain *chain, uint64_t offset, const void *buf,
			   uint64_t len)
{
	return iov_copy(chain->iov + chain->nr_out, chain->nr_in, offset, (uint8_t *)buf, len,
			true);
}
