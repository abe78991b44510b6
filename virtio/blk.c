/* SPDX-License-Identifier: MIT */
#include "virtio/blk.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/virtio_blk.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include "virtio/virtio.h"
#include "vm/log.h"
#include "vm/state_reader.h"
#include "vm/state_writer.h"

#define SECTOR 512u

/*
 * One request is one vectored call up to this; a larger one is taken in pieces, so that a reset or
 * a pause can come in between.
 */
#define CALL_MAX (16u << 20)

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
 * The driver hears of completed requests after this many, or when one took this long: the next may
 * as well.
 */
#define BATCH_MAX 8
#define BATCH_NS  50000

#define STACK_SIZE (64u << 10)

enum blk_want { WANT_IDLE, WANT_RUN, WANT_PAUSE, WANT_QUIT };

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
	int kick_fd;
	bool write_through;
	bool discard_acked, zeroes_acked;
	bool cut; /* a stop came in the middle of the request in hand */
	struct queue_chain chain;
};

static struct blk *to_blk(struct virtio_dev *dev)
{
	return (struct blk *)dev;
}

static bool must_stop(struct blk *blk)
{
	return atomic_load_explicit(&blk->want, memory_order_relaxed) != WANT_RUN;
}

/* The same in the middle of a request: it is left there. */
static bool must_cut(struct blk *blk)
{
	blk->cut = must_stop(blk);
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
		if (!unsupported(ret))
			return ret;
	}
	if (blk->block_device)
		ret = blk_ioctl(blk->fd, BLKZEROOUT, range);
	else
		ret = blk_fallocate(blk, FALLOC_FL_ZERO_RANGE, pos, len);
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
	if (ret != -ECANCELED)
		log_limited(LOG_WARN, "%s: %s at sector %" PRIu64 ": %s: check the disk behind it",
			    blk->path, what, sector, errno_name(ret));
	return VIRTIO_BLK_S_IOERR;
}

/*
 * What a driver without the FLUSH feature was told is on the disk must be there (VIRTIO 1.2,
 * 5.2.6.2).
 */
static uint8_t written(struct blk *blk, uint64_t sector)
{
	int ret = blk->write_through ? blk_sync(blk) : 0;

	return ret ? failed(blk, "fdatasync", sector, ret) : VIRTIO_BLK_S_OK;
}

static uint8_t request_rw(struct blk *blk, bool write, uint64_t sector, struct iovec *iov,
			  unsigned int nr, uint64_t len, uint64_t *done)
{
	int ret;

	*done = 0;
	if (len % SECTOR || !in_range(blk, sector, len / SECTOR) || (write && blk->readonly))
		return VIRTIO_BLK_S_IOERR;
	if (blk->direct && ((sector * SECTOR) | len) & (blk->block - 1))
		return VIRTIO_BLK_S_IOERR;
	ret = blk_rw(blk, write, iov, nr, sector * SECTOR, len, done);
	if (ret)
		return failed(blk, write ? "write" : "read", sector, ret);
	return write ? written(blk, sector) : VIRTIO_BLK_S_OK;
}

static uint8_t request_ranges(struct blk *blk, bool zero, uint64_t len)
{
	struct virtio_blk_discard_write_zeroes range[DISCARD_SEGS];
	uint32_t max_segs = zero ? WRITE_ZEROES_SEGS : DISCARD_SEGS;
	uint32_t max_sectors = zero ? WRITE_ZEROES_SECTORS : DISCARD_SECTORS;
	uint64_t first = 0;
	unsigned int i, nr;

	if (blk->readonly)
		return VIRTIO_BLK_S_IOERR;
	if (!(zero ? blk->zeroes_acked : blk->discard_acked))
		return VIRTIO_BLK_S_UNSUPP;
	if (!len || len % sizeof(range[0]) || len / sizeof(range[0]) > max_segs)
		return VIRTIO_BLK_S_IOERR;
	nr = (unsigned int)(len / sizeof(range[0]));
	if (queue_chain_read(&blk->chain, sizeof(struct virtio_blk_outhdr), range, len) != len)
		return VIRTIO_BLK_S_IOERR;

	/* All are looked at before the first one is carried out. */
	for (i = 0; i < nr; i++) {
		uint32_t flags = le32toh(range[i].flags);
		uint32_t count = le32toh(range[i].num_sectors);

		if (flags & ~(zero ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0u))
			return VIRTIO_BLK_S_UNSUPP;
		if (count > max_sectors || !in_range(blk, le64toh(range[i].sector), count))
			return VIRTIO_BLK_S_IOERR;
	}
	for (i = 0; i < nr; i++) {
		uint64_t sector = le64toh(range[i].sector);
		uint64_t count = le32toh(range[i].num_sectors);
		bool unmap = le32toh(range[i].flags) & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
		int ret;

		if (!count)
			continue;
		if (must_cut(blk))
			return VIRTIO_BLK_S_IOERR;
		if (!i)
			first = sector;
		ret = zero ? blk_zero(blk, sector * SECTOR, count * SECTOR, unmap) :
			     blk_discard(blk, sector * SECTOR, count * SECTOR);
		if (!zero && unsupported(ret))
			return VIRTIO_BLK_S_UNSUPP; /* a hint that the host can't use */
		if (ret)
			return failed(blk, zero ? "write zeroes" : "discard", sector, ret);
	}
	return written(blk, first);
}

/*
 * Carries out the request in blk->chain, whatever its framing (VIRTIO 1.2, 2.7.4). False: it has
 * no header or no place for a status, so there is nobody to answer. @used: bytes written to the in
 * part.
 */
static bool blk_request(struct blk *blk, uint32_t *used)
{
	struct queue_chain *c = &blk->chain;
	struct iovec *out = c->iov, *in = c->iov + c->nr_out;
	unsigned int nr_out = c->nr_out, nr_in = c->nr_in;
	struct virtio_blk_outhdr hdr;
	uint64_t sector, done = 0, data_in;
	uint8_t *status, answer;
	int ret;

	if (!c->in_len || queue_chain_read(c, 0, &hdr, sizeof(hdr)) != sizeof(hdr))
		return false;
	sector = le64toh(hdr.sector);

	/* The status is the very last byte; the vectors end before it from here on. */
	while (nr_in && !in[nr_in - 1].iov_len)
		nr_in--;
	if (!nr_in)
		return false;
	in[nr_in - 1].iov_len--;
	status = (uint8_t *)in[nr_in - 1].iov_base + in[nr_in - 1].iov_len;
	if (!in[nr_in - 1].iov_len)
		nr_in--;
	data_in = c->in_len - 1;

	switch (le32toh(hdr.type)) {
	case VIRTIO_BLK_T_IN:
		answer = request_rw(blk, false, sector, in, nr_in, data_in, &done);
		break;
	case VIRTIO_BLK_T_OUT: {
		uint64_t wrote;

		iov_advance(&out, &nr_out, sizeof(hdr));
		answer = request_rw(blk, true, sector, out, nr_out, c->out_len - sizeof(hdr),
				    &wrote);
		break;
	}
	case VIRTIO_BLK_T_FLUSH:
		ret = blk_sync(blk);
		answer = ret ? failed(blk, "fdatasync", 0, ret) : VIRTIO_BLK_S_OK;
		break;
	case VIRTIO_BLK_T_GET_ID:
		done = data_in < VIRTIO_BLK_ID_BYTES ? data_in : VIRTIO_BLK_ID_BYTES;
		iov_copy(in, nr_in, (uint8_t *)blk->id, (size_t)done, true);
		answer = VIRTIO_BLK_S_OK;
		break;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		answer = request_ranges(blk, le32toh(hdr.type) == VIRTIO_BLK_T_WRITE_ZEROES,
					c->out_len - sizeof(hdr));
		break;
	default:
		answer = VIRTIO_BLK_S_UNSUPP;
	}
	*status = answer;
	/* a hostile driver's buffers may overlap and repeat until this is more than 32 bits hold */
	*used = done < UINT32_MAX ? (uint32_t)done + 1 : UINT32_MAX;
	return true;
}

/* --- the thread ------------------------------------------------------------------------------- */

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Serves the ring until it is empty (0), malformed (-EIO), or a stop is asked for (-ECANCELED). */
static int blk_drain(struct blk *blk)
{
	struct queue *q = &blk->dev.vq[0];
	unsigned int batch = 0;
	uint64_t before, after;
	int ret;

	before = now_ns();
	for (;;) {
		uint32_t used = 0;

		if (must_stop(blk)) {
			ret = -ECANCELED;
			break;
		}
		ret = queue_pop(q, &blk->chain);
		if (ret <= 0)
			break;
		blk->cut = false;
		if (!blk_request(blk, &used)) {
			ret = -EIO;
			break;
		}
		/*
		 * A long request may be left half-way at a pause, and begins anew: its buffers are
		 * still the device's, and nobody was told that any of it is done.
		 */
		if (blk->cut && atomic_load(&blk->want) == WANT_PAUSE) {
			queue_unpop(q, blk->chain.head);
			ret = -ECANCELED;
			break;
		}
		queue_push(q, blk->chain.head, used);
		after = now_ns();
		if (++batch >= BATCH_MAX || after - before > BATCH_NS) {
			virtio_signal(&blk->dev, 0);
			batch = 0;
		}
		before = after;
	}
	if (batch)
		virtio_signal(&blk->dev, 0);
	return ret;
}

static void blk_serve(struct blk *blk)
{
	struct queue *q = &blk->dev.vq[0];
	struct pollfd pfd[2] = {
		{ .fd = blk->stop_fd, .events = POLLIN },
		{ .fd = blk->kick_fd, .events = POLLIN },
	};
	uint64_t count;

	while (!must_stop(blk)) {
		int ret;

		queue_disable_kicks(q);
		ret = blk_drain(blk);
		if (ret == -ECANCELED)
			break;
		if (ret < 0) {
			virtio_broken(&blk->dev, "virtio-blk: malformed ring or request");
			pfd[1].fd = -1; /* only a reset helps */
		} else if (queue_enable_kicks(q)) {
			continue;
		}
		do {
			pfd[0].revents = pfd[1].revents = 0;
			ret = poll(pfd, 2, -1);
			if (ret < 0 && errno != EINTR) {
				virtio_broken(&blk->dev, "virtio-blk: poll() failed");
				return;
			}
		} while (!must_stop(blk) && !(pfd[1].revents & POLLIN));
		if (pfd[1].revents & POLLIN && read(blk->kick_fd, &count, sizeof(count)) < 0) {
			/* EAGAIN: nothing is lost, the ring is looked at next */
		}
	}
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

static int thread_start(struct blk *blk)
{
	size_t stack = STACK_SIZE < PTHREAD_STACK_MIN ? PTHREAD_STACK_MIN : STACK_SIZE;
	char name[16];
	sigset_t all, old;
	pthread_attr_t attr;
	int ret;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, stack);
	/*
	 * Signals are the other threads' business, SIGXFSZ of a write too: that is an EFBIG then.
	 */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = -pthread_create(&blk->thread, &attr, blk_thread, blk);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (ret) {
		log_err("%s: thread of the disk: %s: check the limit on processes", blk->path,
			errno_name(ret));
		return ret;
	}
	snprintf(name, sizeof(name), "blk-%s",
		 blk->id + (strncmp(blk->id, "vinit-disk", 10) ? 0 : 10));
	pthread_setname_np(blk->thread, name);
	return 0;
}

/* --- the device ------------------------------------------------------------------------------- */

/* At DRIVER_OK, and again after a pause. */
static int blk_activate(struct virtio_dev *dev)
{
	struct blk *blk = to_blk(dev);

	if (!dev->vq[0].active)
		return 0; /* the driver left the queue out: an odd driver, and an idle disk */
	pthread_mutex_lock(&blk->lock);
	blk->kick_fd = virtio_kick_fd(dev, 0);
	blk->write_through = !virtio_acked(dev, VIRTIO_BLK_F_FLUSH);
	blk->discard_acked = virtio_acked(dev, VIRTIO_BLK_F_DISCARD);
	blk->zeroes_acked = virtio_acked(dev, VIRTIO_BLK_F_WRITE_ZEROES);
	blk->busy = true;
	blk_tell(blk, WANT_RUN);
	pthread_mutex_unlock(&blk->lock);
	return 0;
}

/*
 * A request in hand is finished first, or cut, with the buffers that it came with; the thread never
 * touches guest RAM after that.
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
		log_err("%s: %s: in use by another process, or given twice: only readers can share an "
			"image, all with `readonly`",
			blk->path, errno_name(ret));
		return -EBUSY;
	}
	if (blk->readonly) {
		log_warn("%s: lock: %s: goes on without, nothing keeps others from writing to it",
			 blk->path, errno_name(ret));
		return 0;
	}
	log_err("%s: lock: %s: its file system must know file locks: two VMs would spoil the image",
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
		log_err("%s: open: %s: %s", blk->path, errno_name(ret), hint);
		return ret;
	}
	if (fstat(blk->fd, &st) < 0) {
		ret = -errno;
		log_err("%s: fstat: %s", blk->path, errno_name(ret));
		return ret;
	}
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
		log_err("%s: %s: an image is a regular file or a block device", blk->path,
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

			log_err("%s: read: %s: check the disk behind it", blk->path,
				errno_name(ret));
			return ret;
		}
	}
	log_err("%s: direct I/O: EINVAL: its blocks are larger than %u bytes: leave out `direct`",
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
		log_err("%s: fstat: %s", blk->path, errno_name(ret));
		return ret;
	}
	if (blk->block_device) {
		ret = blk_ioctl(blk->fd, BLKGETSIZE64, &size);
		if (ret) {
			log_err("%s: BLKGETSIZE64: %s: size unknown", blk->path, errno_name(ret));
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
		log_err("%s: size is %" PRIu64 " bytes: must be a multiple of %u%s and not 0",
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

static void *map_buffer(int prot)
{
	void *p = mmap(NULL, BUF_SIZE, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

int blk_create(struct virtio_dev **dev, const struct blk_config *config)
{
	size_t id_len = config->id ? strlen(config->id) : 0;
	struct blk *blk;
	int ret;

	if (id_len > VIRTIO_BLK_ID_BYTES) {
		log_err("%s: id \"%s\" is longer than %d bytes", config->path, config->id,
			VIRTIO_BLK_ID_BYTES);
		return -EINVAL;
	}
	blk = calloc(1, sizeof(*blk));
	if (!blk) {
		log_err("%s: ENOMEM: check the limit on memory", config->path);
		return -ENOMEM;
	}
	virtio_dev_init(&blk->dev, &blk_ops, VIRTIO_ID_BLOCK, 1);
	pthread_mutex_init(&blk->lock, NULL);
	pthread_cond_init(&blk->cond, NULL);
	blk->dev.own_kicks = 1;
	blk->fd = -1;
	blk->readonly = config->readonly;
	blk->direct = config->direct;
	blk->discard = config->discard && !config->readonly;
	memcpy(blk->id, config->id ? config->id : "", id_len);
	blk->path = strdup(config->path);
	blk->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (blk->direct)
		blk->bounce = map_buffer(PROT_READ | PROT_WRITE);
	if (blk->discard)
		blk->zeros = map_buffer(PROT_READ);
	if (!blk->path || blk->stop_fd < 0 || (blk->direct && !blk->bounce) ||
	    (blk->discard && !blk->zeros)) {
		ret = -errno;
		log_err("%s: %s: check the limits on memory and open files", config->path,
			errno_name(ret));
		goto err;
	}
	ret = image_open(blk);
	if (ret)
		goto err;
	ret = image_measure(blk);
	if (ret)
		goto err;

	blk->dev.features = 1ull << VIRTIO_BLK_F_SEG_MAX | 1ull << VIRTIO_BLK_F_BLK_SIZE |
			    1ull << VIRTIO_BLK_F_FLUSH | 1ull << VIRTIO_BLK_F_TOPOLOGY;
	if (blk->readonly)
		blk->dev.features |= 1ull << VIRTIO_BLK_F_RO;
	if (blk->discard)
		blk->dev.features |= 1ull << VIRTIO_BLK_F_DISCARD |
				     1ull << VIRTIO_BLK_F_WRITE_ZEROES;
	ret = thread_start(blk);
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
	log_err("%s: EINVAL: it has %" PRIu64 " sectors, blocks of %u bytes; the guest knows %" PRIu64
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
		log_err("%s: ENOMEM: check the limit on memory", path);
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
