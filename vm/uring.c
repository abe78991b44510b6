/* SPDX-License-Identifier: MIT */
#include "vm/uring.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* One mapping; no completion is dropped; vectors may go after the call; workers are our threads. */
#define FEATURES                                                                                   \
	(IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE |                \
	 IORING_FEAT_NATIVE_WORKERS)

/*
 * A completion needs no interrupt of a running thread, who looks for them when it has the time
 * (Linux 5.19); one entry that is refused does not hold up those behind it (5.18).
 */
#define FLAGS (IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SUBMIT_ALL)

#define EINTR_MAX 16

static void *map(struct uring *r, size_t len, off_t at)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, at);

	return p == MAP_FAILED ? NULL : p;
}

static uint32_t *word(struct uring *r, uint32_t at)
{
	return (uint32_t *)(void *)(r->rings + at);
}

static int map_rings(struct uring *r, const struct io_uring_params *p)
{
	size_t sq_len = p->sq_off.array + p->sq_entries * sizeof(uint32_t);
	size_t cq_len = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);

	r->rings_len = sq_len > cq_len ? sq_len : cq_len;
	r->sqes_len = p->sq_entries * sizeof(*r->sqes);
	r->rings = map(r, r->rings_len, IORING_OFF_SQ_RING);
	r->sqes = map(r, r->sqes_len, IORING_OFF_SQES);
	if (!r->rings || !r->sqes)
		return -ENOMEM;
	r->sq_head = word(r, p->sq_off.head);
	r->sq_tail = word(r, p->sq_off.tail);
	r->cq_head = word(r, p->cq_off.head);
	r->cq_tail = word(r, p->cq_off.tail);
	r->cqes = (void *)(r->rings + p->cq_off.cqes);
	r->sq_mask = p->sq_entries - 1;
	r->cq_mask = p->cq_entries - 1;
	/* Entries go in their order: the indirection stays as it is now. */
	for (uint32_t i = 0; i < p->sq_entries; i++)
		word(r, p->sq_off.array)[i] = i;
	return 0;
}

int uring_init(struct uring *r, unsigned int entries)
{
	struct io_uring_params p = { .flags = FLAGS };
	int ret;

	memset(r, 0, sizeof(*r));
	r->fd = (int)syscall(SYS_io_uring_setup, entries, &p);
	if (r->fd < 0 && errno == EINVAL) {
		memset(&p, 0, sizeof(p));
		r->fd = (int)syscall(SYS_io_uring_setup, entries, &p);
	}
	if (r->fd < 0)
		return -errno;
	ret = ~p.features & FEATURES ? -EOPNOTSUPP : map_rings(r, &p);
	if (ret)
		uring_fini(r);
	return ret;
}

void uring_fini(struct uring *r)
{
	if (r->fd < 0)
		return;
	/* The ring itself ends some time after its last descriptor. */
	uring_file(r, -1);
	if (r->sqes)
		munmap(r->sqes, r->sqes_len);
	if (r->rings)
		munmap(r->rings, r->rings_len);
	close(r->fd);
	r->fd = -1;
}

int uring_file(struct uring *r, int fd)
{
	if (syscall(SYS_io_uring_register, r->fd, IORING_UNREGISTER_FILES, NULL, 0) < 0) {
		/* ENXIO: there was none */
	}
	if (fd < 0)
		return 0;
	return syscall(SYS_io_uring_register, r->fd, IORING_REGISTER_FILES, &fd, 1) < 0 ? -errno : 0;
}

struct io_uring_sqe *uring_sqe(struct uring *r)
{
	struct io_uring_sqe *sqe = &r->sqes[r->tail++ & r->sq_mask];

	memset(sqe, 0, sizeof(*sqe));
	return sqe;
}

int uring_submit(struct uring *r)
{
	unsigned int interrupted = 0;

	/* Release: the entries before the tail. The kernel has moved the head when a call returns. */
	__atomic_store_n(r->sq_tail, r->tail, __ATOMIC_RELEASE);
	while (uring_filled(r)) {
		long ret = syscall(SYS_io_uring_enter, r->fd, r->tail - *r->sq_head, 0, 0, NULL, 0);

		if (ret > 0 || (ret < 0 && errno == EINTR && interrupted++ < EINTR_MAX))
			continue;
		return ret < 0 ? -errno : -EIO;
	}
	return 0;
}

bool uring_take_back(struct uring *r, uint64_t *user_data)
{
	if (!uring_filled(r))
		return false;
	*user_data = r->sqes[--r->tail & r->sq_mask].user_data;
	__atomic_store_n(r->sq_tail, r->tail, __ATOMIC_RELEASE);
	return true;
}

bool uring_take(struct uring *r, uint64_t *user_data, int32_t *res)
{
	uint32_t head = *r->cq_head; /* ours alone */
	const struct io_uring_cqe *cqe = &r->cqes[head & r->cq_mask];

	/* Acquire: the entry after the tail. */
	if (head == __atomic_load_n(r->cq_tail, __ATOMIC_ACQUIRE))
		return false;
	*user_data = cqe->user_data;
	*res = cqe->res;
	/* Release: the kernel may write there again once this is seen. */
	__atomic_store_n(r->cq_head, head + 1, __ATOMIC_RELEASE);
	return true;
}
