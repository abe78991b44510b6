/* SPDX-License-Identifier: MIT */
#include "virtio/blk.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/magic.h>
#include <linux/virtio_blk.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>
#include "virtio/virtio.h"
#include "vm/log.h"
#include "vm/state_reader.h"
#include "vm/state_writer.h"
#include "vm/thread.h"
#include "vm/uring.h"

#define SECTOR 512u

/*
 * One request is one vectored call up to this; a larger one is taken in pieces, so that a reset or
 * a pause can come in between.
 */
#define CALL_MAX (16u << 20)

/*
 * The longest that is handed to the ring. A pause waits for all that is there, 64 of these: an odd
 * driver's longer ones are taken one at a time, and can be given back.
 */
#define RING_MAX (2u << 20)

/*
 * The bounce buffer of direct I/O, and the zeros of WRITE_ZEROES where the host has no call for
 * it.
 */
#define BUF_SIZE (64u << 10)

#define BLOCK_MAX 4096u /* a guest with pages of 4096 bytes takes no larger logical block */

#define DISCARD_SEGS	     16u
#define DISCARD_SECTORS	     ((1u << 30) / SECTOR)
#define WRITE_ZEROES_SEGS    1u
#define WRITE_ZEROES_SECTORS ((64u << 20) / SECTOR) /* all of it may have to be written */

#define EINTR_MAX 16 /* the thread blocks all signals, yet a file system may say EINTR */

/*
 * The driver hears of requests that were carried out one by one after this many, or when one took
 * this long: the next may as well.
 */
#define BATCH_MAX 8
#define BATCH_NS  50000

/*
 * Requests under way in the ring at once, a bit of a u64 each; more stay in the virtqueue. Most have
 * few vectors and find room in their slot; those with more borrow one of a few long lists.
 */
#define SLOTS	   64u
#define SLOT_IOVS  16u
#define LONG_LISTS 16u

/*
 * With this many under way the next completion is near, and what is new may wait for it, unseen: for so
 * long at most.
 */
#define BUSY	 8
#define WATCH_MS 1

#define NOBODY UINT64_MAX /* user_data of a completion that no slot waits for */

enum blk_want { WANT_IDLE, WANT_RUN, WANT_PAUSE, WANT_QUIT };

/* What the host does for a request now. */
enum stage { STAGE_DATA, STAGE_RANGE, STAGE_SYNC };

/* A request as it was read, once, from guest memory. */
struct request {
	struct iovec *iov; /* data that is still to be moved */
	unsigned int nr;
	uint32_t type;
	uint64_t sector, len; /* of the data; of the range, for discard and write zeroes */
	uint64_t done;
	uint8_t *status; /* where the answer goes */
	uint16_t head;
	uint8_t queue;
	uint8_t stage; /* enum stage */
	bool unmap;
	bool long_list;
	unsigned int list; /* which one */
};

struct slot {
	struct request req;
	struct iovec iov[SLOT_IOVS];
};

/* Touched from its start on, as far as a guest goes. */
struct slots {
	struct slot slot[SLOTS];
	struct iovec list[LONG_LISTS][QUEUE_MAX_SIZE];
};

struct blk {
	struct virtio_dev dev; /* first: ops cast */
	char *path;
	char id[VIRTIO_BLK_ID_BYTES + 1];
	int fd;
	bool readonly;
	bool direct;
	bool discard;
	bool block_device;
	uint32_t block; /* logical block size, bytes */
	uint64_t sectors;
	uint8_t *bounce;      /* BUF_SIZE bytes, page-aligned; NULL unless direct */
	const uint8_t *zeros; /* BUF_SIZE bytes, page-aligned; NULL unless discard */

	/*
	 * The I/O thread lives as long as the device, so that a guest that resets in a loop makes
	 * no threads, and none is ever made by a vCPU's thread, whose system call filter and CPU
	 * affinity it would inherit. Lock order: dev->lock, then this one; the thread takes only
	 * this one.
	 */
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	atomic_int want; /* enum blk_want; written with the lock held, also read without */
	bool busy;	 /* the thread serves the queue, or will; under the lock */
	int stop_fd;	 /* wakes the thread out of poll() */

	/* Set by activate while the thread is idle, then the thread's. */
	uint32_t queues; /* those that are active, a bit each, as all that follows */
	int kick_fd[BLK_MAX_QUEUES];
	bool write_through;
	bool discard_acked, zeroes_acked;

	uint32_t pending; /* may have requests; no kick is waited for */
	uint32_t pushed;  /* since their driver was interrupted */
	unsigned int first; /* queue whose turn it is */
	bool watching;	    /* new requests are looked for in a while, without a kick */
	bool broken;	    /* by the driver: nothing more is taken */
	bool newest;	    /* the request in hand can be given back */
	bool cut;	    /* a stop came in the middle of it */
	struct queue_chain chain;
	struct virtio_blk_discard_write_zeroes range[DISCARD_SEGS];
	unsigned int nr_ranges;
	struct log_limit said; /* of errors: another disk's do not hold ours back */

	/* The ring; slots is NULL without. */
	struct uring ring;
	bool fixed; /* the image is the ring's file 0 */
	bool zeroes[2];	   /* the image has taken a FALLOCATE for them, without and with unmap */
	struct slots *slots;
	uint64_t free;	    /* slots */
	uint32_t free_lists;
	unsigned int under_way; /* completions that are due */
};

static struct blk *to_blk(struct virtio_dev *dev)
{
	return (struct blk *)dev;
}

static bool must_stop(struct blk *blk)
{
	return atomic_load_explicit(&blk->want, memory_order_relaxed) != WANT_RUN;
}

static bool must_pause(struct blk *blk)
{
	return atomic_load_explicit(&blk->want, memory_order_relaxed) == WANT_PAUSE;
}

/*
 * The same in the middle of a request: it is left there. At a pause only when it can be given back:
 * nobody may see an error.
 */
static bool must_cut(struct blk *blk)
{
	blk->cut = must_stop(blk) && (blk->newest || !must_pause(blk));
	return blk->cut;
}

/* glibc's ioctl() takes unsigned long, musl's int; the kernel looks at 32 bits. */
static int blk_ioctl(int fd, unsigned int request, void *arg)
{
	return ioctl(fd, (int)request, arg) < 0 ? -errno : 0;
}

/* --- data ------------------------------------------------------------------------------------- */

/* Copies between @buf and the front of @iov. */
static void iov_copy(const struct iovec *iov, unsigned int nr, uint8_t *buf, size_t len,
		     bool to_iov)
{
	for (; nr && len; iov++, nr--) {
		size_t n = iov->iov_len < len ? iov->iov_len : len;

		if (!n)
			continue;
		if (to_iov)
			memcpy(iov->iov_base, buf, n);
		else
			memcpy(buf, iov->iov_base, n);
		buf += n;
		len -= n;
	}
}

/* Drops the first @len bytes, and empty vectors after them. */
static void iov_advance(struct iovec **iov, unsigned int *nr, uint64_t len)
{
	while (*nr && len >= (*iov)->iov_len) {
		len -= (*iov)->iov_len;
		(*iov)++;
		(*nr)--;
	}
	if (*nr && len) {
		(*iov)->iov_base = (uint8_t *)(*iov)->iov_base + len;
		(*iov)->iov_len -= len;
	}
}

/* One call to the host: bytes transferred, or -errno. */
static ssize_t rw_vector(struct blk *blk, bool write, struct iovec *iov, unsigned int nr,
			 uint64_t pos)
{
	unsigned int n = 0;
	uint64_t sum = 0;
	size_t first = iov->iov_len;
	ssize_t ret;

	while (n < nr && sum + iov[n].iov_len <= CALL_MAX)
		sum += iov[n++].iov_len;
	if (!n) {
		iov->iov_len = CALL_MAX;
		n = 1;
	}
	ret = write ? pwritev(blk->fd, iov, (int)n, (off_t)pos) :
		      preadv(blk->fd, iov, (int)n, (off_t)pos);
	if (ret < 0)
		ret = -errno;
	iov->iov_len = first;
	return ret;
}

/* The same through the aligned buffer. */
static ssize_t rw_bounce(struct blk *blk, bool write, struct iovec *iov, unsigned int nr,
			 uint64_t pos, uint64_t len)
{
	size_t n = len < BUF_SIZE ? (size_t)len : BUF_SIZE;
	ssize_t ret;

	if (write)
		iov_copy(iov, nr, blk->bounce, n, false);
	ret = write ? pwrite(blk->fd, blk->bounce, n, (off_t)pos) :
		      pread(blk->fd, blk->bounce, n, (off_t)pos);
	if (ret < 0)
		return -errno;
	if (!write)
		iov_copy(iov, nr, blk->bounce, (size_t)ret, true);
	return ret;
}

/*
 * Moves all @len bytes between the vectors (which are used up) and the image. What the host did
 * not take at once is continued where it stopped. @done: bytes moved, also on failure. 0 or
 * -errno.
 */
static int blk_rw(struct blk *blk, bool write, struct iovec *iov, unsigned int nr, uint64_t pos,
		  uint64_t len, uint64_t *done)
{
	bool bounce = false;
	int interrupted = 0;

	*done = 0;
	iov_advance(&iov, &nr, 0);
	while (*done < len) {
		uint64_t at = pos + *done, left = len - *done;
		ssize_t ret;

		if (!nr)
			return -EIO;
		ret = bounce ? rw_bounce(blk, write, iov, nr, at, left) :
			       rw_vector(blk, write, iov, nr, at);
		if (ret == -EINTR && interrupted++ < EINTR_MAX)
			continue;
		/*
		 * A driver may place and cut its buffers as it likes (VIRTIO 1.2, 2.7.4); only the
		 * host's direct I/O asks for alignment in memory.
		 */
		if (ret == -EINVAL && blk->direct && !bounce) {
			bounce = true;
			continue;
		}
		if (ret < 0)
			return (int)ret;
		if (!ret)
			return -EIO; /* the image was cut short behind our back */
		*done += (uint64_t)ret;
		iov_advance(&iov, &nr, (uint64_t)ret);
		if (*done < len && *done >= CALL_MAX && must_cut(blk))
			return -ECANCELED;
	}
	return 0;
}

static int blk_sync(struct blk *blk)
{
	int i, ret;

	for (i = 0; i < EINTR_MAX; i++) {
		ret = fdatasync(blk->fd) < 0 ? -errno : 0;
		if (ret != -EINTR)
			break;
	}
	return ret;
}

static bool unsupported(int ret)
{
	return ret == -EOPNOTSUPP || ret == -ENOSYS || ret == -ENOTTY || ret == -EINVAL;
}

static int blk_fallocate(struct blk *blk, int mode, uint64_t pos, uint64_t len)
{
	int i, ret = 0;

	for (i = 0; i < EINTR_MAX; i++) {
		ret = fallocate(blk->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)pos, (off_t)len) < 0 ?
			      -errno :
			      0;
		if (ret != -EINTR)
			break;
	}
	return ret;
}

static int blk_discard(struct blk *blk, uint64_t pos, uint64_t len)
{
	uint64_t range[2] = { pos, len };

	if (blk->block_device)
		return blk_ioctl(blk->fd, BLKDISCARD, range);
	return blk_fallocate(blk, FALLOC_FL_PUNCH_HOLE, pos, len);
}

/* Only with @unmap may blocks be given back (VIRTIO 1.2, 5.2.6.2). */
static int blk_zero(struct blk *blk, uint64_t pos, uint64_t len, bool unmap)
{
	uint64_t range[2] = { pos, len }, done = 0;
	int interrupted = 0, ret;

	if (unmap) {
		/* on a block device too this leaves zeros or fails */
		ret = blk_fallocate(blk, FALLOC_FL_PUNCH_HOLE, pos, len);
		blk->zeroes[1] = !ret;
		if (!unsupported(ret))
			return ret;
	}
	if (blk->block_device)
		ret = blk_ioctl(blk->fd, BLKZEROOUT, range);
	else
		ret = blk_fallocate(blk, FALLOC_FL_ZERO_RANGE, pos, len);
	blk->zeroes[0] = !ret;
	if (!unsupported(ret))
		return ret;
	while (done < len) {
		size_t n = len - done < BUF_SIZE ? (size_t)(len - done) : BUF_SIZE;
		ssize_t wrote;

		/* A slow disk takes a while for it, and a reset or the guest's end waits. */
		if (must_cut(blk))
			return -ECANCELED;
		wrote = pwrite(blk->fd, blk->zeros, n, (off_t)(pos + done));
		if (wrote < 0 && errno == EINTR && interrupted++ < EINTR_MAX)
			continue;
		if (wrote <= 0)
			return wrote ? -errno : -EIO;
		done += (uint64_t)wrote;
	}
	return 0;
}

/* --- requests --------------------------------------------------------------------------------- */

static bool in_range(const struct blk *blk, uint64_t sector, uint64_t count)
{
	return sector <= blk->sectors && count <= blk->sectors - sector;
}

static uint8_t failed(struct blk *blk, const char *what, uint64_t sector, int ret)
{
	if (ret != -ECANCELED && log_allow(&blk->said))
		log_warn("disk %s: %s at sector %" PRIu64 ": %s: check the disk behind it",
			 blk->path, what, sector, errno_name(ret));
	return VIRTIO_BLK_S_IOERR;
}

/* An answer that never goes out: the request is good, and is still to be carried out. */
#define CARRY_OUT 0xff

static bool is_write(const struct request *r)
{
	return r->type == VIRTIO_BLK_T_OUT;
}

static bool is_zero(const struct request *r)
{
	return r->type == VIRTIO_BLK_T_WRITE_ZEROES;
}

static uint8_t check_rw(const struct blk *blk, const struct request *r)
{
	if (r->len % SECTOR || !in_range(blk, r->sector, r->len / SECTOR) ||
	    (is_write(r) && blk->readonly))
		return VIRTIO_BLK_S_IOERR;
	if (blk->direct && ((r->sector * SECTOR) | r->len) & (blk->block - 1))
		return VIRTIO_BLK_S_IOERR;
	return CARRY_OUT;
}

/* Takes the ranges over, in our byte order. All are looked at before the first is carried out. */
static uint8_t check_ranges(struct blk *blk, struct request *r)
{
	uint32_t max_segs = is_zero(r) ? WRITE_ZEROES_SEGS : DISCARD_SEGS;
	uint32_t max_sectors = is_zero(r) ? WRITE_ZEROES_SECTORS : DISCARD_SECTORS;
	struct virtio_blk_discard_write_zeroes *range = blk->range;

	if (blk->readonly)
		return VIRTIO_BLK_S_IOERR;
	if (!(is_zero(r) ? blk->zeroes_acked : blk->discard_acked))
		return VIRTIO_BLK_S_UNSUPP;
	if (!r->len || r->len % sizeof(*range) || r->len / sizeof(*range) > max_segs)
		return VIRTIO_BLK_S_IOERR;
	blk->nr_ranges = (unsigned int)(r->len / sizeof(*range));
	iov_copy(r->iov, r->nr, (uint8_t *)range, (size_t)r->len, false);
	for (unsigned int i = 0; i < blk->nr_ranges; i++, range++) {
		range->flags = le32toh(range->flags);
		range->num_sectors = le32toh(range->num_sectors);
		range->sector = le64toh(range->sector);
		if (range->flags & ~(is_zero(r) ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0u))
			return VIRTIO_BLK_S_UNSUPP;
		if (range->num_sectors > max_sectors ||
		    !in_range(blk, range->sector, range->num_sectors))
			return VIRTIO_BLK_S_IOERR;
	}
	r->sector = blk->range[0].sector;
	return CARRY_OUT;
}

/*
 * Reads the request in blk->chain, whatever its framing (VIRTIO 1.2, 2.7.4). False: it has no header
 * or no place for a status, so there is nobody to answer. @answer: CARRY_OUT, or what is wrong.
 */
static bool request_read(struct blk *blk, struct request *r, uint8_t *answer)
{
	struct queue_chain *c = &blk->chain;
	struct iovec *in = c->iov + c->nr_out;
	unsigned int nr_in = c->nr_in;
	struct virtio_blk_outhdr hdr;

	memset(r, 0, sizeof(*r));
	if (!c->in_len || queue_chain_read(c, 0, &hdr, sizeof(hdr)) != sizeof(hdr))
		return false;
	r->head = c->head;
	r->type = le32toh(hdr.type);
	r->sector = le64toh(hdr.sector);

	/* The status is the very last byte; the vectors end before it from here on. */
	while (nr_in && !in[nr_in - 1].iov_len)
		nr_in--;
	if (!nr_in)
		return false;
	in[nr_in - 1].iov_len--;
	r->status = (uint8_t *)in[nr_in - 1].iov_base + in[nr_in - 1].iov_len;
	if (!in[nr_in - 1].iov_len)
		nr_in--;
	if (r->type == VIRTIO_BLK_T_IN || r->type == VIRTIO_BLK_T_GET_ID) {
		r->iov = in;
		r->nr = nr_in;
		r->len = c->in_len - 1;
	} else {
		r->iov = c->iov;
		r->nr = c->nr_out;
		r->len = c->out_len - sizeof(hdr);
		iov_advance(&r->iov, &r->nr, sizeof(hdr));
	}

	*answer = VIRTIO_BLK_S_UNSUPP;
	switch (r->type) {
	case VIRTIO_BLK_T_IN:
	case VIRTIO_BLK_T_OUT:
		*answer = check_rw(blk, r);
		break;
	case VIRTIO_BLK_T_FLUSH:
		r->stage = STAGE_SYNC;
		r->sector = 0;
		*answer = CARRY_OUT;
		break;
	case VIRTIO_BLK_T_GET_ID:
		r->done = r->len < VIRTIO_BLK_ID_BYTES ? r->len : VIRTIO_BLK_ID_BYTES;
		iov_copy(r->iov, r->nr, (uint8_t *)blk->id, (size_t)r->done, true);
		*answer = VIRTIO_BLK_S_OK;
		break;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		r->stage = STAGE_RANGE;
		*answer = check_ranges(blk, r);
	}
	return true;
}

/* The answer to what the host said. */
static uint8_t request_answer(struct blk *blk, const struct request *r, int ret)
{
	static const char what[][13] = { "read", "write", "discard", "write zeroes", "fdatasync" };
	unsigned int i = r->stage == STAGE_DATA ? is_write(r) : r->stage == STAGE_SYNC ? 4 : 2 + is_zero(r);

	if (!ret)
		return VIRTIO_BLK_S_OK;
	if (i == 2 && unsupported(ret))
		return VIRTIO_BLK_S_UNSUPP; /* a hint that the host can't use */
	return failed(blk, what[i], r->sector, ret);
}

static int run_ranges(struct blk *blk, const struct request *r)
{
	for (unsigned int i = 0; i < blk->nr_ranges; i++) {
		uint64_t pos = blk->range[i].sector * SECTOR;
		uint64_t len = (uint64_t)blk->range[i].num_sectors * SECTOR;
		int ret;

		if (!len)
			continue;
		if (must_cut(blk))
			return -ECANCELED;
		ret = is_zero(r) ? blk_zero(blk, pos, len, blk->range[i].flags) :
				   blk_discard(blk, pos, len);
		if (ret)
			return ret;
	}
	return 0;
}

/*
 * What a driver without the FLUSH feature was told is on the disk must be there (VIRTIO 1.2,
 * 5.2.6.2).
 */
static bool wants_sync(const struct blk *blk, const struct request *r)
{
	return blk->write_through && r->stage != STAGE_SYNC && r->type != VIRTIO_BLK_T_IN;
}

/* Carries a request out by plain calls, from beginning to end. */
static uint8_t request_run(struct blk *blk, struct request *r)
{
	int ret = 0;

	if (r->stage == STAGE_DATA)
		ret = blk_rw(blk, is_write(r), r->iov, r->nr, r->sector * SECTOR, r->len, &r->done);
	else if (r->stage == STAGE_RANGE)
		ret = run_ranges(blk, r);
	if (!ret && wants_sync(blk, r))
		r->stage = STAGE_SYNC;
	if (!ret && r->stage == STAGE_SYNC)
		ret = blk_sync(blk);
	return request_answer(blk, r, ret);
}

static void request_end(struct blk *blk, const struct request *r, uint8_t answer)
{
	uint64_t in = r->type == VIRTIO_BLK_T_IN || r->type == VIRTIO_BLK_T_GET_ID ? r->done : 0;

	*r->status = answer;
	/* a hostile driver's buffers may overlap and repeat until this is more than 32 bits hold */
	queue_push(&blk->dev.vq[r->queue], r->head, in < UINT32_MAX ? (uint32_t)in + 1 : UINT32_MAX);
	blk->pushed |= 1u << r->queue;
}

/* --- the ring ---------------------------------------------------------------------------------- */

/*
 * The ring gets an open file description of its own, without the lock: when a process is killed, the
 * kernel ends its rings a while after it, and who starts the guest anew must find the image free.
 */
static void ring_file(struct blk *blk)
{
	int flags = O_CLOEXEC | (blk->readonly ? O_RDONLY : O_RDWR) | (blk->direct ? O_DIRECT : 0);
	char name[32];
	int fd;

	snprintf(name, sizeof(name), "/proc/self/fd/%d", blk->fd);
	fd = open(name, flags);
	blk->fixed = !uring_file(&blk->ring, fd) && fd >= 0;
	if (fd >= 0)
		close(fd);
}

/* An entry for what slot @i is to have done now. */
static void ring_put(struct blk *blk, unsigned int i)
{
	const struct request *r = &blk->slots->slot[i].req;
	struct io_uring_sqe *sqe = uring_sqe(&blk->ring);

	sqe->user_data = i;
	sqe->fd = blk->fixed ? 0 : blk->fd;
	sqe->flags = blk->fixed ? IOSQE_FIXED_FILE : 0;
	sqe->off = r->sector * SECTOR;
	switch (r->stage) {
	case STAGE_DATA:
		sqe->opcode = is_write(r) ? IORING_OP_WRITEV : IORING_OP_READV;
		sqe->addr = (uintptr_t)r->iov;
		sqe->len = r->nr;
		break;
	case STAGE_RANGE:
		sqe->opcode = IORING_OP_FALLOCATE;
		sqe->addr = r->len;
		sqe->len = FALLOC_FL_KEEP_SIZE |
			   (is_zero(r) && !r->unmap ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE);
		break;
	default:
		/*
		 * Of all the file. Only writes that were answered before the flush was sent must be
		 * on the disk after it (VIRTIO 1.2, 5.2.6.2), so it need not wait for others.
		 */
		sqe->opcode = IORING_OP_FSYNC;
		sqe->fsync_flags = IORING_FSYNC_DATASYNC;
		sqe->off = 0;
	}
}

/*
 * May the ring carry it out? Not what can't be given back at a pause once others are behind it (a
 * long one, zeros that may have to be written), and not what no operation of the ring does.
 */
static bool ring_takes(const struct blk *blk, struct request *r)
{
	if (!blk->slots)
		return false;
	switch (r->stage) {
	case STAGE_DATA:
		return r->len && r->len <= RING_MAX;
	case STAGE_RANGE:
		r->len = (uint64_t)blk->range[0].num_sectors * SECTOR;
		r->unmap = blk->range[0].flags;
		return blk->nr_ranges == 1 && r->len && !blk->block_device &&
		       (!is_zero(r) || blk->zeroes[r->unmap]);
	}
	return true;
}

/* False: all long lists are in use. There is a slot. */
static bool ring_start(struct blk *blk, const struct request *from)
{
	unsigned int i = (unsigned int)__builtin_ctzll(blk->free);
	struct slot *slot = &blk->slots->slot[i];
	struct request *r = &slot->req;

	*r = *from;
	if (r->stage == STAGE_DATA) {
		r->iov = slot->iov;
		r->long_list = r->nr > SLOT_IOVS;
		if (r->long_list) {
			if (!blk->free_lists)
				return false;
			r->list = (unsigned int)__builtin_ctz(blk->free_lists);
			r->iov = blk->slots->list[r->list];
			blk->free_lists &= ~(1u << r->list);
		}
		memcpy(r->iov, from->iov, r->nr * sizeof(*r->iov));
	}
	blk->free &= ~(1ull << i);
	blk->under_way++;
	ring_put(blk, i);
	return true;
}

/* What the ring left undone, or would not do, plain calls do. */
static int ring_finish_data(struct blk *blk, struct request *r, int res)
{
	uint64_t more;

	if (!res)
		return -EIO; /* the image was cut short behind our back */
	if (res > 0) {
		r->done = (uint64_t)res;
		if (r->done == r->len)
			return 0;
		iov_advance(&r->iov, &r->nr, r->done);
	} else if (res != -EINTR && res != -EAGAIN && !(res == -EINVAL && blk->direct)) {
		return res;
	}
	if (must_cut(blk))
		return -ECANCELED;
	res = blk_rw(blk, is_write(r), r->iov, r->nr, r->sector * SECTOR + r->done, r->len - r->done,
		     &more);
	r->done += more;
	return res;
}

/* Zeros that the image takes by a call no more are written, next time so that a pause can cut it. */
static int ring_finish_range(struct blk *blk, const struct request *r, int res)
{
	bool again = res == -EINTR || res == -EAGAIN;

	if (must_stop(blk) && !must_pause(blk))
		return res;
	if (is_zero(r) && (again || unsupported(res)))
		return blk_zero(blk, r->sector * SECTOR, r->len, r->unmap);
	return again ? blk_discard(blk, r->sector * SECTOR, r->len) : res;
}

/* A completion, or an entry that the kernel did not take (EAGAIN). */
static void ring_done(struct blk *blk, uint64_t i, int res)
{
	struct request *r;

	if (i < SLOTS) {
		r = &blk->slots->slot[i].req;
		blk->newest = false;
		if (r->stage == STAGE_DATA)
			res = ring_finish_data(blk, r, res);
		else if (r->stage == STAGE_RANGE)
			res = ring_finish_range(blk, r, res);
		else if (res == -EINTR || res == -EAGAIN)
			res = blk_sync(blk);
		if (!res && wants_sync(blk, r)) {
			r->stage = STAGE_SYNC;
			ring_put(blk, (unsigned int)i);
			return;
		}
		request_end(blk, r, request_answer(blk, r, res));
		if (r->long_list)
			blk->free_lists |= 1u << r->list;
		blk->free |= 1ull << i;
	}
	blk->under_way--;
}

/* All that is filled goes to the kernel in one call. What it won't take is carried out here. */
static void ring_submit(struct blk *blk)
{
	uint64_t i;

	while (uring_filled(&blk->ring) && uring_submit(&blk->ring)) {
		while (uring_take_back(&blk->ring, &i))
			ring_done(blk, i, -EAGAIN);
	}
}

/* Submits, and answers what is complete. True: something was. */
static bool ring_turn(struct blk *blk)
{
	bool any = false;
	uint64_t i;
	int32_t res;

	if (!blk->under_way)
		return false;
	ring_submit(blk);
	while (uring_take(&blk->ring, &i, &res)) {
		ring_done(blk, i, res);
		any = true;
	}
	ring_submit(blk); /* the second halves */
	return any;
}

/* --- the thread ------------------------------------------------------------------------------- */

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

enum { DRAIN_EMPTY, DRAIN_FULL, DRAIN_MORE };

static void blk_signal(struct blk *blk)
{
	if (blk->pushed)
		virtio_signal_queues(&blk->dev, blk->pushed);
	blk->pushed = 0;
}

/*
 * Serves a queue until it is empty, malformed (-EIO), a stop is asked for (-ECANCELED), there is no
 * slot for more, or it is another queue's turn.
 */
static int blk_drain(struct blk *blk, unsigned int i)
{
	struct queue *q = &blk->dev.vq[i];
	unsigned int batch = 0;
	uint64_t before = now_ns(), after;

	for (unsigned int n = 0; n < SLOTS; n++) {
		struct request r;
		uint8_t answer;
		int ret;

		if (must_stop(blk))
			return -ECANCELED;
		if (blk->slots && !blk->free)
			return DRAIN_FULL;
		ret = queue_pop(q, &blk->chain);
		if (ret <= 0)
			return ret;
		if (!request_read(blk, &r, &answer))
			return -EIO;
		r.queue = (uint8_t)i;
		if (answer == CARRY_OUT && ring_takes(blk, &r)) {
			if (ring_start(blk, &r))
				continue;
			queue_unpop(q, r.head);
			return DRAIN_FULL;
		}
		/* it may take its time: the others begin before it */
		if (blk->under_way)
			ring_submit(blk);
		blk->newest = true;
		blk->cut = false;
		if (answer == CARRY_OUT)
			answer = request_run(blk, &r);
		/*
		 * A long request may be left half-way at a pause, and begins anew: its buffers are
		 * still the device's, and nobody was told that any of it is done.
		 */
		if (blk->cut && must_pause(blk)) {
			queue_unpop(q, r.head);
			return -ECANCELED;
		}
		request_end(blk, &r, answer);
		after = now_ns();
		if (++batch >= BATCH_MAX || after - before > BATCH_NS) {
			blk_signal(blk);
			batch = 0;
		}
		before = after;
	}
	return DRAIN_MORE;
}

/*
 * One turn for each queue that may have requests. True: there is more to do at once. While many are
 * under way no kick is asked for, which takes a vCPU out of its guest: what is new is seen at the next
 * completion.
 */
static bool blk_turn(struct blk *blk)
{
	unsigned int nr = blk->dev.nr_queues;
	bool more = false;

	blk->watching = false;
	for (unsigned int n = 0; n < nr && !blk->broken; n++) {
		unsigned int i = (blk->first + n) % nr;
		struct queue *q = &blk->dev.vq[i];
		int ret;

		if (!(blk->pending >> i & 1))
			continue;
		queue_disable_kicks(q);
		ret = blk_drain(blk, i);
		if (ret == -ECANCELED)
			break;
		if (ret < 0) {
			virtio_broken(&blk->dev, "malformed ring or request");
			blk->broken = true; /* only a reset helps */
		} else if (ret == DRAIN_EMPTY && blk->under_way >= BUSY) {
			blk->watching = true;
		} else if (ret == DRAIN_MORE || (ret == DRAIN_EMPTY && queue_enable_kicks(q))) {
			more = true;
		} else if (ret == DRAIN_EMPTY) {
			blk->pending &= ~(1u << i);
		}
	}
	blk->first++;
	if (ring_turn(blk) && blk->pending)
		more = true;
	blk_signal(blk);
	return more && !blk->broken;
}

/* Sleeps until a stop, a kick, or completions. 0 or -errno. */
static int blk_sleep(struct blk *blk)
{
	struct pollfd pfd[2 + BLK_MAX_QUEUES] = {
		{ .fd = blk->stop_fd, .events = POLLIN },
		{ .fd = blk->ring.fd, .events = POLLIN },
	};
	unsigned int nr = blk->dev.nr_queues;
	uint64_t count;

	for (unsigned int i = 0; i < nr; i++) {
		pfd[2 + i].fd = !blk->broken && blk->queues >> i & 1 ? blk->kick_fd[i] : -1;
		pfd[2 + i].events = POLLIN;
	}
	if (poll(pfd, 2 + nr, blk->watching ? WATCH_MS : -1) < 0)
		return errno == EINTR ? 0 : -errno;
	for (unsigned int i = 0; i < nr; i++) {
		if (!(pfd[2 + i].revents & POLLIN))
			continue;
		if (read(blk->kick_fd[i], &count, sizeof(count)) < 0) {
			/* EAGAIN: nothing is lost, the ring is looked at next */
		}
		blk->pending |= 1u << i;
	}
	return 0;
}

/*
 * Waits for all that is under way. At a reset what the kernel has not begun is given up (Linux 5.19;
 * before, it is waited for): the driver does not look at it any more.
 */
static void blk_finish(struct blk *blk)
{
	struct pollfd pfd = { .fd = blk->ring.fd, .events = POLLIN };

	if (blk->under_way && must_stop(blk) && !must_pause(blk)) {
		struct io_uring_sqe *sqe;

		ring_submit(blk);
		sqe = uring_sqe(&blk->ring);
		sqe->opcode = IORING_OP_ASYNC_CANCEL;
		sqe->fd = -1;
		sqe->cancel_flags = IORING_ASYNC_CANCEL_ALL | IORING_ASYNC_CANCEL_ANY;
		sqe->user_data = NOBODY;
		blk->under_way++;
	}
	while (blk->under_way) {
		ring_turn(blk);
		if (blk->under_way && poll(&pfd, 1, -1) < 0) {
			/* EINTR: look again */
		}
	}
	blk_signal(blk);
}

static void blk_serve(struct blk *blk)
{
	blk->pending = blk->queues;
	blk->broken = false;
	while (!must_stop(blk)) {
		if (blk_turn(blk) || must_stop(blk))
			continue;
		if (blk_sleep(blk)) {
			virtio_broken(&blk->dev, "poll() failed");
			break;
		}
	}
	blk_finish(blk);
}

static void *blk_thread(void *arg)
{
	struct blk *blk = arg;
	uint64_t count;

	pthread_mutex_lock(&blk->lock);
	while (atomic_load(&blk->want) != WANT_QUIT) {
		if (atomic_load(&blk->want) == WANT_RUN) {
			pthread_mutex_unlock(&blk->lock);
			blk_serve(blk);
			pthread_mutex_lock(&blk->lock);
			/* poll() failed: wait for the reset that is due */
			while (atomic_load(&blk->want) == WANT_RUN)
				pthread_cond_wait(&blk->cond, &blk->lock);
			continue;
		}
		if (read(blk->stop_fd, &count, sizeof(count)) < 0) {
			/* EAGAIN: the stop came before the thread slept */
		}
		blk->busy = false;
		pthread_cond_broadcast(&blk->cond);
		pthread_cond_wait(&blk->cond, &blk->lock);
	}
	blk->busy = false;
	pthread_mutex_unlock(&blk->lock);
	return NULL;
}

/* blk->lock held. */
static void blk_tell(struct blk *blk, enum blk_want want)
{
	uint64_t one = 1;

	atomic_store(&blk->want, want);
	pthread_cond_broadcast(&blk->cond);
	if (want != WANT_RUN && write(blk->stop_fd, &one, sizeof(one)) < 0)
		log_err("virtio-blk: eventfd: %s", errno_name(errno));
}

static int start_thread(struct blk *blk)
{
	char name[32];
	int ret;

	snprintf(name, sizeof(name), "blk-%s",
		 blk->id + (strncmp(blk->id, "vinit-disk", 10) ? 0 : 10));
	/* A write's SIGXFSZ is blocked like other signals: that is an EFBIG then. */
	ret = thread_start(&blk->thread, name, blk_thread, blk);
	if (ret)
		log_err("disk %s: thread of the disk: %s: check the limit on processes", blk->path,
			errno_name(ret));
	return ret;
}

/* --- the device ------------------------------------------------------------------------------- */

/* At DRIVER_OK, and again after a pause. */
static int blk_activate(struct virtio_dev *dev)
{
	struct blk *blk = to_blk(dev);

	blk->queues = 0;
	for (unsigned int i = 0; i < dev->nr_queues; i++) {
		blk->kick_fd[i] = virtio_kick_fd(dev, i);
		if (dev->vq[i].active)
			blk->queues |= 1u << i;
	}
	if (!blk->queues)
		return 0; /* the driver left them out: an odd driver, and an idle disk */
	pthread_mutex_lock(&blk->lock);
	blk->write_through = !virtio_acked(dev, VIRTIO_BLK_F_FLUSH);
	blk->discard_acked = virtio_acked(dev, VIRTIO_BLK_F_DISCARD);
	blk->zeroes_acked = virtio_acked(dev, VIRTIO_BLK_F_WRITE_ZEROES);
	blk->busy = true;
	blk_tell(blk, WANT_RUN);
	pthread_mutex_unlock(&blk->lock);
	return 0;
}

/*
 * What is under way is finished first, or cut, with the buffers that it came with; neither the thread
 * nor the ring touches guest RAM after that. A host's disk that hangs holds this up as long.
 */
static void blk_quiet(struct blk *blk, enum blk_want want)
{
	pthread_mutex_lock(&blk->lock);
	if (blk->busy) {
		blk_tell(blk, want);
		while (blk->busy)
			pthread_cond_wait(&blk->cond, &blk->lock);
	}
	pthread_mutex_unlock(&blk->lock);
}

static void blk_reset(struct virtio_dev *dev)
{
	blk_quiet(to_blk(dev), WANT_IDLE);
}

static void blk_pause(struct virtio_dev *dev)
{
	blk_quiet(to_blk(dev), WANT_PAUSE);
}

static void blk_save(struct virtio_dev *dev, struct state_writer *w)
{
	struct blk *blk = to_blk(dev);

	state_writer_u64(w, blk->sectors);
	state_writer_u32(w, blk->block);
	state_writer_bool(w, blk->readonly);
}

static void blk_load(struct virtio_dev *dev, struct state_section *s)
{
	struct blk *blk = to_blk(dev);
	uint64_t sectors = state_reader_u64(s);
	uint32_t block = state_reader_u32(s);
	bool readonly = state_reader_bool(s);

	if (!s->err && (sectors != blk->sectors || block != blk->block || readonly != blk->readonly))
		state_reader_bad(s, "%s: it has %" PRIu64 " sectors, blocks of %u bytes%s; the guest knows "
				 "%" PRIu64 ", %u%s", blk->path, blk->sectors, blk->block,
				 blk->readonly ? ", readonly" : "", sectors, block,
				 readonly ? ", readonly" : "");
}

static void blk_kick(struct virtio_dev *dev, unsigned int q)
{
	/* own_kicks: the thread reads the eventfd */
}

static void blk_free(struct blk *blk)
{
	if (blk->bounce)
		munmap(blk->bounce, BUF_SIZE);
	if (blk->zeros)
		munmap((void *)blk->zeros, BUF_SIZE);
	if (blk->slots)
		munmap(blk->slots, sizeof(*blk->slots));
	uring_fini(&blk->ring);
	if (blk->stop_fd >= 0)
		close(blk->stop_fd);
	if (blk->fd >= 0)
		close(blk->fd); /* and with it goes the lock */
	pthread_cond_destroy(&blk->cond);
	pthread_mutex_destroy(&blk->lock);
	virtio_dev_fini(&blk->dev);
	free(blk->path);
	free(blk);
}

static void blk_destroy(struct virtio_dev *dev)
{
	struct blk *blk = to_blk(dev);

	pthread_mutex_lock(&blk->lock);
	blk_tell(blk, WANT_QUIT);
	pthread_mutex_unlock(&blk->lock);
	pthread_join(blk->thread, NULL);
	blk_free(blk);
}

static const struct virtio_ops blk_ops = {
	.name = "virtio-blk",
	.activate = blk_activate,
	.reset = blk_reset,
	.kick = blk_kick,
	.pause = blk_pause,
	.resume = blk_activate,
	.save = blk_save,
	.load = blk_load,
	.destroy = blk_destroy,
};

/* --- opening an image ------------------------------------------------------------------------- */

static int image_lock(const struct blk *blk)
{
	/*
	 * Of the open file description: it holds between two disks of one process too, and a close
	 * elsewhere can't lose it.
	 */
	struct flock lock = {
		.l_type = blk->readonly ? F_RDLCK : F_WRLCK,
		.l_whence = SEEK_SET,
	};
	int ret;

	if (!fcntl(blk->fd, F_OFD_SETLK, &lock))
		return 0;
	ret = -errno;
	if (ret == -EAGAIN || ret == -EACCES) {
		log_err("disk %s: %s: in use by another process, or given twice: only readers can share an "
			"image, all with `readonly`",
			blk->path, errno_name(ret));
		return -EBUSY;
	}
	if (blk->readonly) {
		log_warn("disk %s: lock: %s: goes on without, nothing keeps others from writing to it",
			 blk->path, errno_name(ret));
		return 0;
	}
	log_err("disk %s: lock: %s: its file system must know file locks: two VMs would spoil the image",
		blk->path, errno_name(ret));
	return ret;
}

static int image_open(struct blk *blk)
{
	int flags = O_CLOEXEC | O_NOCTTY | O_NONBLOCK; /* so that a FIFO by mistake can't wait */
	struct stat st;
	int ret;

	flags |= blk->readonly ? O_RDONLY : O_RDWR;
	if (blk->direct)
		flags |= O_DIRECT;
	/*
	 * On a block device O_EXCL keeps mounts, other file systems' claims and O_EXCL openers
	 * out.
	 */
	if (!blk->readonly && !stat(blk->path, &st) && S_ISBLK(st.st_mode))
		flags |= O_EXCL;
	blk->fd = open(blk->path, flags);
	if (blk->fd < 0) {
		const char *hint = "check the path and its permissions";

		ret = -errno;
		if (ret == -EBUSY)
			hint = "in use by another process, or mounted";
		else if (ret == -EISDIR)
			hint = "is a directory, not an image";
		else if (ret == -EROFS || ret == -ETXTBSY || (ret == -EACCES && !blk->readonly))
			hint = "not writable: check its permissions, or say `readonly`";
		else if (ret == -EINVAL && blk->direct)
			hint = "its file system has no direct I/O: leave out `direct`";
		else if (ret == -ENXIO)
			hint = "not a regular file or block device, or no medium in it";
		log_err("disk %s: open: %s: %s", blk->path, errno_name(ret), hint);
		return ret;
	}
	if (fstat(blk->fd, &st) < 0) {
		ret = -errno;
		log_err("disk %s: fstat: %s", blk->path, errno_name(ret));
		return ret;
	}
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
		log_err("disk %s: %s: an image is a regular file or a block device", blk->path,
			S_ISDIR(st.st_mode)    ? "is a directory" :
			S_ISCHR(st.st_mode)    ? "is a character device" :
			S_ISFIFO(st.st_mode) ? "is a FIFO" :
						 "is no file");
		return S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;
	}
	blk->block_device = S_ISBLK(st.st_mode);
	if (fcntl(blk->fd, F_SETFL, blk->direct ? O_DIRECT : 0) < 0)
		log_debug("%s: F_SETFL: %s", blk->path, errno_name(errno));
	return image_lock(blk);
}

/*
 * The least transfer that direct I/O takes. Asking the file by doing it works for every file
 * system and kernel.
 */
static int probe_direct(struct blk *blk)
{
	uint32_t size;

	for (size = SECTOR; size <= BLOCK_MAX; size *= 2) {
		if (pread(blk->fd, blk->bounce, size, 0) >= 0) {
			if (size > blk->block)
				blk->block = size;
			return 0;
		}
		if (errno != EINVAL) {
			int ret = -errno;

			log_err("disk %s: read: %s: check the disk behind it", blk->path,
				errno_name(ret));
			return ret;
		}
	}
	log_err("disk %s: direct I/O: EINVAL: its blocks are larger than %u bytes: leave out `direct`",
		blk->path, BLOCK_MAX);
	return -EINVAL;
}

/* Size and block sizes into blk and the config space. */
static int image_measure(struct blk *blk)
{
	struct virtio_blk_config config = { 0 };
	uint32_t physical = SECTOR;
	uint64_t size = 0;
	struct stat st;
	int value, ret;

	blk->block = SECTOR;
	if (fstat(blk->fd, &st) < 0) {
		ret = -errno;
		log_err("disk %s: fstat: %s", blk->path, errno_name(ret));
		return ret;
	}
	if (blk->block_device) {
		ret = blk_ioctl(blk->fd, BLKGETSIZE64, &size);
		if (ret) {
			log_err("disk %s: BLKGETSIZE64: %s: size unknown", blk->path, errno_name(ret));
			return ret;
		}
		if (!blk_ioctl(blk->fd, BLKSSZGET, &value) && value > (int)SECTOR &&
		    value <= (int)BLOCK_MAX && !(value & (value - 1)))
			blk->block = (uint32_t)value;
		if (!blk_ioctl(blk->fd, BLKPBSZGET, &value) && value > 0 && value <= (int)BUF_SIZE)
			physical = (uint32_t)value;
	} else {
		size = (uint64_t)st.st_size;
		if (st.st_blksize > 0 && st.st_blksize <= (long)BUF_SIZE)
			physical = (uint32_t)st.st_blksize;
	}
	if (blk->direct) {
		ret = probe_direct(blk);
		if (ret)
			return ret;
	}
	if (!size || size % blk->block) {
		log_err("disk %s: size is %" PRIu64 " bytes: must be a multiple of %u%s and not 0",
			blk->path, size, blk->block,
			blk->block > SECTOR ? " (the host's logical block)" : "");
		return -EINVAL;
	}
	if (physical < blk->block || physical & (physical - 1))
		physical = blk->block;
	blk->sectors = size / SECTOR;

	config.capacity = htole64(blk->sectors);
	config.seg_max = htole32(QUEUE_MAX_SIZE - 2);
	config.blk_size = htole32(blk->block);
	config.physical_block_exp = (uint8_t)(__builtin_ctz(physical) - __builtin_ctz(blk->block));
	config.min_io_size = htole16((uint16_t)(physical / blk->block));
	config.num_queues = htole16((uint16_t)blk->dev.nr_queues);
	if (blk->discard) {
		config.max_discard_sectors = htole32(DISCARD_SECTORS);
		config.max_discard_seg = htole32(DISCARD_SEGS);
		config.discard_sector_alignment = htole32(physical / SECTOR);
		config.max_write_zeroes_sectors = htole32(WRITE_ZEROES_SECTORS);
		config.max_write_zeroes_seg = htole32(WRITE_ZEROES_SEGS);
		config.write_zeroes_may_unmap = 1;
	}
	blk->dev.config_len = offsetof(struct virtio_blk_config, write_zeroes_may_unmap) + 4;
	memcpy(blk->dev.config, &config, blk->dev.config_len);
	return 0;
}

static void *map_buffer(size_t size, int prot)
{
	void *p = mmap(NULL, size, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

/*
 * There is nothing to wait for then: a plain call copies, where a ring would hand each request to a
 * worker, since a tmpfs does not say that it never blocks.
 */
static bool in_memory(const struct blk *blk)
{
	struct statfs fs;

	return !blk->block_device && !fstatfs(blk->fd, &fs) &&
	       (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
}

/* Without a ring the disk works too, one request at a time. */
static int ring_open(struct blk *blk, enum blk_engine engine)
{
	int ret;

	if (engine == BLK_SYNC || (engine == BLK_AUTO && in_memory(blk)))
		return 0;
	ret = uring_init(&blk->ring, SLOTS);
	if (!ret) {
		blk->slots = map_buffer(sizeof(*blk->slots), PROT_READ | PROT_WRITE);
		blk->free = UINT64_MAX;
		blk->free_lists = (1u << LONG_LISTS) - 1;
		ring_file(blk);
		ret = blk->slots ? 0 : -ENOMEM;
	}
	if (!ret)
		return 0;
	if (engine == BLK_URING) {
		log_err("disk %s: io_uring: %s: check Linux (5.12 or later) and kernel.io_uring_disabled, "
			"or leave out `engine`", blk->path, errno_name(ret));
		return ret;
	}
	log_info("disk %s: one request at a time: io_uring: %s", blk->path, errno_name(ret));
	return 0;
}

int blk_create(struct virtio_dev **dev, const struct blk_config *config)
{
	size_t id_len = config->id ? strlen(config->id) : 0;
	struct blk *blk;
	int ret;

	if (id_len > VIRTIO_BLK_ID_BYTES) {
		log_err("disk %s: id \"%s\" is longer than %d bytes", config->path, config->id,
			VIRTIO_BLK_ID_BYTES);
		return -EINVAL;
	}
	blk = calloc(1, sizeof(*blk));
	if (!blk) {
		log_err("disk %s: ENOMEM: check the limit on memory", config->path);
		return -ENOMEM;
	}
	virtio_dev_init(&blk->dev, &blk_ops, VIRTIO_ID_BLOCK, config->queues ? config->queues : 1);
	pthread_mutex_init(&blk->lock, NULL);
	pthread_cond_init(&blk->cond, NULL);
	blk->dev.own_kicks = (1u << blk->dev.nr_queues) - 1;
	blk->fd = -1;
	blk->ring.fd = -1;
	blk->readonly = config->readonly;
	blk->direct = config->direct;
	blk->discard = config->discard && !config->readonly;
	memcpy(blk->id, config->id ? config->id : "", id_len);
	blk->path = strdup(config->path);
	blk->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (blk->direct)
		blk->bounce = map_buffer(BUF_SIZE, PROT_READ | PROT_WRITE);
	if (blk->discard)
		blk->zeros = map_buffer(BUF_SIZE, PROT_READ);
	if (!blk->path || blk->stop_fd < 0 || (blk->direct && !blk->bounce) ||
	    (blk->discard && !blk->zeros)) {
		ret = -errno;
		log_err("disk %s: %s: check the limits on memory and open files", config->path,
			errno_name(ret));
		goto err;
	}
	ret = image_open(blk);
	if (ret)
		goto err;
	ret = image_measure(blk);
	if (!ret)
		ret = ring_open(blk, config->engine);
	if (ret)
		goto err;

	blk->dev.features = 1ull << VIRTIO_BLK_F_SEG_MAX | 1ull << VIRTIO_BLK_F_BLK_SIZE |
			    1ull << VIRTIO_BLK_F_FLUSH | 1ull << VIRTIO_BLK_F_TOPOLOGY;
	if (blk->dev.nr_queues > 1)
		blk->dev.features |= 1ull << VIRTIO_BLK_F_MQ;
	if (blk->readonly)
		blk->dev.features |= 1ull << VIRTIO_BLK_F_RO;
	if (blk->discard)
		blk->dev.features |= 1ull << VIRTIO_BLK_F_DISCARD |
				     1ull << VIRTIO_BLK_F_WRITE_ZEROES;
	ret = start_thread(blk);
	if (ret)
		goto err;
	*dev = &blk->dev;
	return 0;

err:
	blk_free(blk);
	return ret;
}

const char *blk_id(const struct virtio_dev *dev)
{
	return ((const struct blk *)dev)->id;
}

const char *blk_path(const struct virtio_dev *dev)
{
	return ((const struct blk *)dev)->path;
}

/* What image_open() and image_measure() need of @blk, for another file. */
static struct blk *image_like(const struct blk *blk, const char *path)
{
	struct blk *next = calloc(1, sizeof(*next));

	if (!next)
		return NULL;
	next->path = strdup(path);
	next->fd = -1;
	next->readonly = blk->readonly;
	next->direct = blk->direct;
	next->discard = blk->discard;
	next->bounce = blk->bounce; /* the thread is idle */
	return next;
}

static int image_fits(const struct blk *blk, const struct blk *next)
{
	if (next->sectors == blk->sectors && next->block == blk->block)
		return 0;
	log_err("disk %s: EINVAL: it has %" PRIu64 " sectors, blocks of %u bytes; the guest knows %" PRIu64
		", %u: a disk is replaced by one of the same size", next->path, next->sectors,
		next->block, blk->sectors, blk->block);
	return -EINVAL;
}

/* The locks go with the descriptors; @next is left with the old image. */
static void image_swap(struct blk *blk, struct blk *next)
{
	char *path = blk->path;
	int fd = blk->fd;

	blk->path = next->path;
	blk->fd = next->fd;
	blk->zeroes[0] = blk->zeroes[1] = false;
	if (blk->slots)
		ring_file(blk);
	blk->block_device = next->block_device;
	next->path = path;
	next->fd = fd;
}

/* Its own lock would keep it out. */
static bool same_file(const struct blk *blk, const char *path)
{
	struct stat now, next;

	return !fstat(blk->fd, &now) && !stat(path, &next) && now.st_dev == next.st_dev &&
	       now.st_ino == next.st_ino;
}

int blk_replace(struct virtio_dev *dev, const char *path, char why[LOG_SENTENCE])
{
	struct blk *blk = to_blk(dev), *next;
	int ret;

	pthread_mutex_lock(&dev->lock);
	if (dev->active && !dev->paused) {
		pthread_mutex_unlock(&dev->lock);
		return log_refuse(why, -EBUSY, "%s: EBUSY: the guest must be paused", blk->path);
	}
	if (same_file(blk, path)) {
		pthread_mutex_unlock(&dev->lock);
		return 0;
	}
	log_forget_error();
	next = image_like(blk, path);
	ret = next && next->path ? image_open(next) : -ENOMEM;
	if (!ret)
		ret = image_measure(next);
	if (!ret)
		ret = image_fits(blk, next);
	if (!ret)
		image_swap(blk, next);
	else if (ret == -ENOMEM)
		log_err("disk %s: ENOMEM: check the limit on memory", path);
	if (ret && why)
		log_first_error(why);
	if (next && next->fd >= 0)
		close(next->fd);
	if (next)
		free(next->path);
	free(next);
	pthread_mutex_unlock(&dev->lock);
	return ret;
}
