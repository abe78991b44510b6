/* SPDX-License-Identifier: MIT */
/*
 * An io_uring by raw system calls: many reads and writes under way, one call to start a batch of
 * them. Source: io_uring(7), io_uring_setup(2), io_uring_enter(2), and linux/io_uring.h.
 *
 * Guest RAM is never registered as buffers: the kernel would fault in and pin all of it. One file
 * may be, which spares a look-up for each request.
 *
 * The descriptor is readable in poll() and epoll while there are completions. No lock in here: one
 * thread at a time fills, submits and takes; uring_file() is called while nothing is under way.
 */
#ifndef VM_URING_H
#define VM_URING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct io_uring_cqe;
struct io_uring_sqe;

struct uring {
	int fd; /* -1: there is none */
	uint8_t *rings; /* shared with the kernel, as is what follows */
	size_t rings_len;
	struct io_uring_sqe *sqes;
	size_t sqes_len;
	uint32_t *sq_head, *sq_tail; /* the kernel moves the head, we the tail */
	uint32_t *cq_head, *cq_tail; /* and here the other way round */
	struct io_uring_cqe *cqes;
	uint32_t sq_mask, cq_mask;
	uint32_t tail; /* entries filled; those from *sq_tail on the kernel does not know */
};

/*
 * A ring of @entries, a power of two. 0 or -errno, nothing logged: ENOSYS, EPERM (a filter, or
 * kernel.io_uring_disabled) and ENOMEM are a host without; EOPNOTSUPP is a kernel before 5.12, whose
 * workers are no threads of this process and escape its limits.
 */
int uring_init(struct uring *r, unsigned int entries);

/* Nothing is under way. No ring: does nothing. */
void uring_fini(struct uring *r);

/*
 * Makes @fd file 0 of IOSQE_FIXED_FILE, in the place of the one before. -1: none. 0 or -errno: then
 * there is none. The kernel lets go of the former file when it likes, some milliseconds later, and
 * that is after the process's end when it was killed: an open file description with a lock that
 * others wait for is not for this.
 */
int uring_file(struct uring *r, int fd);

/*
 * The next entry, zeroed, to be filled by the caller. The caller has at most @entries filled and not
 * submitted.
 */
struct io_uring_sqe *uring_sqe(struct uring *r);

static inline bool uring_filled(const struct uring *r)
{
	return r->tail != *r->sq_head;
}

/*
 * Hands all that is filled to the kernel, which is done with the entries and what they point to
 * (vectors, not buffers) when this returns. 0, or -errno: some were not taken (EAGAIN: out of
 * memory); uring_take_back() gives them back.
 */
int uring_submit(struct uring *r);

/* Withdraws the newest entry that was not submitted: its user_data. False: there is none. */
bool uring_take_back(struct uring *r, uint64_t *user_data);

/* The next completion. False: none is there. */
bool uring_take(struct uring *r, uint64_t *user_data, int32_t *res);

#endif
