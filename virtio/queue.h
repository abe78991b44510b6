/* SPDX-License-Identifier: MIT */
/*
 * The device's side of a split virtqueue. Source: Virtual I/O Device (VIRTIO) 1.2, section 2.7.
 *
 * Rings are validated once, when the driver sets DRIVER_OK (queue_activate), and every index after
 * that. What the driver wrote is read once, into a local, and the local is checked. A malformed
 * ring makes the queue broken: queue_pop() answers -EIO from then on and the device sets
 * DEVICE_NEEDS_RESET.
 *
 * A queue has one user at a time (the event loop, or the device's own thread): no lock in here.
 */
#ifndef VIRTIO_QUEUE_H
#define VIRTIO_QUEUE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct memory;

#define QUEUE_MAX_SIZE 256 /* QueueNumMax; also the longest chain */

struct queue {
	/* What the driver set through the transport, frozen while ready. */
	uint16_t num;
	bool ready;
	uint64_t desc_gpa, avail_gpa, used_gpa;

	/* From queue_activate(). */
	struct memory *mem;
	void *desc, *avail, *used; /* host addresses of the rings */
	bool active;
	bool broken;
	bool event_idx;
	bool indirect;
	uint16_t last_avail; /* next entry of the available ring to take */
	uint16_t next_used;  /* next entry of the used ring to fill */
	uint16_t signalled;  /* used index at the last interrupt decision */
	bool signalled_valid;
	bool pushed;				 /* since the last interrupt decision */
	uint16_t in_flight;			 /* heads popped and not pushed */
	uint8_t taken[QUEUE_MAX_SIZE / 8];	 /* a bit for each head in flight */
	uint32_t in_len[QUEUE_MAX_SIZE];	 /* of each head in flight: the most that used.len may say */
};

/* A chain of buffers: first nr_out that the device reads, then nr_in that it writes. */
struct queue_chain {
	uint16_t head;
	uint16_t nr_out, nr_in;
	uint64_t out_len, in_len; /* bytes, sums of the iovecs */
	struct iovec iov[QUEUE_MAX_SIZE];
};

/* Back to the state after power-on; what the driver set is forgotten too. */
void queue_reset(struct queue *q);

/*
 * Checks size (power of two, 1 to QUEUE_MAX_SIZE), alignment (16, 2, 4), that each ring lies wholly
 * in RAM and that none overlaps another, and makes the queue usable. @features: what the driver
 * acknowledged. 0, or -EINVAL with a rate-limited line.
 */
int queue_activate(struct queue *q, struct memory *mem, uint64_t features);

/*
 * The same for a queue that was active when it was saved: what the driver set and the indices (all
 * of them values that need no trust) are there and stay, and nothing is written to the rings. No
 * chain is in flight.
 */
int queue_restore(struct queue *q, struct memory *mem, uint64_t features);

/* Are an active queue's rings still where they were found, now that regions of RAM have changed? */
bool queue_in_place(const struct queue *q);

/*
 * Takes the next available chain. 1: @chain is filled, with at least one buffer and none of length
 * 0, each wholly in RAM; 0: none, or the queue is not active; -EIO: the ring is malformed and the
 * queue broken (said once, rate-limited).
 */
int queue_pop(struct queue *q, struct queue_chain *chain);

/*
 * Gives the last popped chain back unprocessed (it will be popped again). Only the newest, in
 * order.
 */
void queue_unpop(struct queue *q, uint16_t head);

/*
 * Returns a chain with @len bytes written to its in part; @len is cut to that part's length. A head
 * that is not in flight is refused, and nothing is written to a queue that is broken or not active.
 */
void queue_push(struct queue *q, uint16_t head, uint32_t len);

/*
 * The same in two steps, for chains that the driver must find together (VIRTIO 1.2, 5.1.6.4): it
 * sees all that were filled at once, with queue_publish().
 */
void queue_fill(struct queue *q, uint16_t head, uint32_t len);
void queue_publish(struct queue *q);

/*
 * After a batch of pushes (false without one): must the driver be interrupted? Honours EVENT_IDX
 * and NO_INTERRUPT.
 */
bool queue_wants_interrupt(struct queue *q);

/*
 * Asks for a kick at the next available chain. Returns true when one has come meanwhile: pop again.
 */
bool queue_enable_kicks(struct queue *q);
void queue_disable_kicks(struct queue *q);

/*
 * Bytes from / to a chain's out / in part at an offset; returns how many were copied (bounded by
 * the chain).
 */
uint64_t queue_chain_read(const struct queue_chain *chain, uint64_t offset, void *buf, uint64_t len);
uint64_t queue_chain_write(const struct queue_chain *chain, uint64_t offset, const void *buf, uint64_t len);

#endif
