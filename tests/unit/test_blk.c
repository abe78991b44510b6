/* SPDX-License-Identifier: MIT */
/*
 * virtio-blk as its driver sees it, through the real transport and ring, over real files. The
 * device's source is read in with some of the host's calls replaced, so that they can fail, be
 * slow, or be counted.
 *
 * Links with what driver.h names.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <linux/falloc.h>
#include <linux/io_uring.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include "tests/unit/test.h"
#include "virtio/queue.h"
#include "vm/uring.h"

/* --- the host's calls, bent ------------------------------------------------------------------- */

static struct {
	atomic_int syncs, vectors, iovcnt, writes;
	int sync_errno;
	atomic_bool hold_sync;	 /* an fdatasync does not end while it is so */
	int delay_ms;		 /* of a pwritev */
	atomic_int in_pwritev;
	size_t short_max;	 /* the most that one call moves, 0: as it likes */
	int interrupts;		 /* calls that fail with EINTR first */
	int rw_errno;
	size_t align;		 /* as direct I/O: memory, length and offset must be multiples */
	int fallocate_errno;
	int lock_errno;
	int no_o_direct;	 /* open() without it: the file system may not have it */
	int in_memory;		 /* the image is on a tmpfs */
	int ring_errno;		 /* of io_uring_setup() */
	int submit_errno;	 /* of io_uring_enter() */
	unsigned int gather;	 /* so many completions come at once, the newest first */
	atomic_int submits, submitted;
} host;

static int host_fdatasync(int fd)
{
	host.syncs++;
	while (host.hold_sync)
		sched_yield();
	if (host.sync_errno) {
		errno = host.sync_errno;
		return -1;
	}
	return fdatasync(fd);
}

/* Shortens the vectors to @max bytes. */
static int cut(struct iovec *to, const struct iovec *from, int nr, size_t max)
{
	int i;

	for (i = 0; i < nr && max; i++) {
		to[i] = from[i];
		if (to[i].iov_len > max)
			to[i].iov_len = max;
		max -= to[i].iov_len;
	}
	return i;
}

static int refuse(const struct iovec *iov, int nr, off_t pos)
{
	int err = host.rw_errno;

	if (host.interrupts) {
		host.interrupts--;
		err = EINTR;
	}
	for (int i = 0; i < nr && host.align; i++)
		if (((uintptr_t)iov[i].iov_base | iov[i].iov_len | (size_t)pos) & (host.align - 1))
			err = EINVAL;
	errno = err;
	return err;
}

static ssize_t host_preadv(int fd, const struct iovec *iov, int nr, off_t pos)
{
	struct iovec some[QUEUE_MAX_SIZE];

	host.vectors++;
	host.iovcnt = nr;
	if (refuse(iov, nr, pos))
		return -1;
	return preadv(fd, some, cut(some, iov, nr, host.short_max ? host.short_max : SSIZE_MAX),
			     pos);
}

static ssize_t host_pwritev(int fd, const struct iovec *iov, int nr, off_t pos)
{
	struct iovec some[QUEUE_MAX_SIZE];
	ssize_t ret;

	host.vectors++;
	host.iovcnt = nr;
	if (refuse(iov, nr, pos))
		return -1;
	host.in_pwritev = 1;
	nanosleep(&(struct timespec){ .tv_nsec = host.delay_ms * 1000000l }, NULL);
	ret = pwritev(fd, some, cut(some, iov, nr, host.short_max ? host.short_max : SSIZE_MAX),
			     pos);
	host.in_pwritev = 0;
	return ret;
}

static ssize_t host_pread(int fd, void *buf, size_t len, off_t pos)
{
	struct iovec iov = { buf, len };

	if (host.align && refuse(&iov, 1, pos))
		return -1;
	return pread(fd, buf, len, pos);
}

static ssize_t host_pwrite(int fd, const void *buf, size_t len, off_t pos)
{
	struct iovec iov = { (void *)buf, len };

	host.writes++;
	if (host.align && refuse(&iov, 1, pos))
		return -1;
	return pwrite(fd, buf, len, pos);
}

static int host_fstatfs(int fd, struct statfs *fs)
{
	fs->f_type = host.in_memory ? TMPFS_MAGIC : EXT4_SUPER_MAGIC;
	return 0;
}

static int host_fallocate(int fd, int mode, off_t pos, off_t len)
{
	if (host.fallocate_errno) {
		errno = host.fallocate_errno;
		return -1;
	}
	return fallocate(fd, mode, pos, len);
}

static int host_open(const char *path, int flags, ...)
{
	return open(path, host.no_o_direct ? flags & ~O_DIRECT : flags, 0600);
}

static int host_fcntl(int fd, int cmd, ...)
{
	va_list ap;
	void *arg;

	va_start(ap, cmd);
	arg = va_arg(ap, void *);
	va_end(ap);
	if (cmd == F_OFD_SETLK && host.lock_errno) {
		errno = host.lock_errno;
		return -1;
	}
	if (cmd == F_SETFL && host.no_o_direct)
		arg = (void *)((uintptr_t)arg & ~(uintptr_t)O_DIRECT);
	return fcntl(fd, cmd, arg);
}

/* --- the ring, bent in the same way ----------------------------------------------------------- */

#define RING 64

static struct {
	bool bent[RING];
	int res[RING];
	struct iovec some[RING][QUEUE_MAX_SIZE];
	struct timespec due;	/* of writes that are slow */
	uint64_t user_data[RING * 2];
	int32_t got[RING * 2];	/* completions that are held back, the newest goes first */
	unsigned int nr;
	bool open;
} ring;

/* What the calls above would have said of it. */
static int ring_refuses(const struct io_uring_sqe *sqe)
{
	switch (sqe->opcode) {
	case IORING_OP_READV:
	case IORING_OP_WRITEV:
		host.vectors++;
		host.iovcnt = (int)sqe->len;
		return refuse((const struct iovec *)(uintptr_t)sqe->addr, (int)sqe->len, (off_t)sqe->off);
	case IORING_OP_FSYNC:
		CHECK_EQ(sqe->fsync_flags, IORING_FSYNC_DATASYNC);
		CHECK_EQ(sqe->off | sqe->len, 0);
		host.syncs++;
		return host.sync_errno;
	case IORING_OP_FALLOCATE:
		CHECK(sqe->len & FALLOC_FL_KEEP_SIZE);
		return host.fallocate_errno;
	}
	return 0;
}

static void ring_bend(struct io_uring_sqe *sqe)
{
	uint64_t i = sqe->user_data;
	int err = ring_refuses(sqe);

	if (i >= RING)
		return;
	ring.bent[i] = err;
	ring.res[i] = -err;
	if (err) {
		memset(sqe, 0, sizeof(*sqe));
		sqe->opcode = IORING_OP_NOP;
		sqe->user_data = i;
	} else if (sqe->opcode == IORING_OP_READV || sqe->opcode == IORING_OP_WRITEV) {
		sqe->len = (uint32_t)cut(ring.some[i], (const struct iovec *)(uintptr_t)sqe->addr,
					 (int)sqe->len, host.short_max ? host.short_max : SSIZE_MAX);
		sqe->addr = (uintptr_t)ring.some[i];
	}
	if (sqe->opcode == IORING_OP_WRITEV && host.delay_ms) {
		clock_gettime(CLOCK_MONOTONIC, &ring.due);
		ring.due.tv_nsec += host.delay_ms * 1000000l;
		ring.due.tv_sec += ring.due.tv_nsec / 1000000000;
		ring.due.tv_nsec %= 1000000000;
		host.in_pwritev = 1;
	}
}

static int host_uring_submit(struct uring *r)
{
	host.submits++;
	if (host.submit_errno)
		return -host.submit_errno;
	for (uint32_t i = *r->sq_head; i != r->tail; i++) {
		ring_bend(&r->sqes[i & r->sq_mask]);
		host.submitted++;
	}
	return uring_submit(r);
}

/* Takes all the kernel has, and gives it out in the opposite order once there are host.gather. */
static bool host_uring_take(struct uring *r, uint64_t *user_data, int32_t *res)
{
	struct timespec now;

	if (host.in_pwritev) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (now.tv_sec < ring.due.tv_sec ||
		    (now.tv_sec == ring.due.tv_sec && now.tv_nsec < ring.due.tv_nsec))
			return false; /* the thread asks again and again */
		host.in_pwritev = 0;
	}
	if (host.hold_sync && host.syncs)
		return false;
	while (ring.nr < RING * 2 && uring_take(r, &ring.user_data[ring.nr], &ring.got[ring.nr]))
		ring.nr++;
	ring.open = ring.open || ring.nr >= host.gather;
	if (!ring.nr)
		ring.open = !host.gather;
	if (!ring.nr || !ring.open)
		return false;
	*user_data = ring.user_data[--ring.nr];
	*res = ring.got[ring.nr];
	if (*user_data < RING && ring.bent[*user_data])
		*res = ring.res[*user_data];
	return true;
}

static int host_uring_init(struct uring *r, unsigned int entries)
{
	CHECK_EQ(entries, RING);
	ring.nr = 0;
	ring.open = !host.gather;
	return host.ring_errno ? -host.ring_errno : uring_init(r, entries);
}

#define uring_init host_uring_init
#define uring_submit host_uring_submit
#define uring_take host_uring_take
#define fstatfs host_fstatfs
#define fdatasync host_fdatasync
#define preadv host_preadv
#define pwritev host_pwritev
#define pread host_pread
#define pwrite host_pwrite
#define fallocate host_fallocate
#define open host_open
#define fcntl host_fcntl
#include "virtio/blk.c"
#undef uring_init
#undef uring_submit
#undef uring_take
#undef fstatfs
#undef fdatasync
#undef preadv
#undef pwritev
#undef pread
#undef pwrite
#undef fallocate
#undef open
#undef fcntl

#include "tests/unit/allocs.h"
#include "tests/unit/driver.h"
#include "tests/unit/snapshot.h"

#define SIZE	(8u << 20)
#define SECTORS (SIZE / 512)

#define F(bit)	    (1ull << (bit))
#define F_WRITE	    (F(VIRTIO_BLK_F_FLUSH) | F(VIRTIO_BLK_F_SEG_MAX) | F(VIRTIO_BLK_F_BLK_SIZE))
#define F_DISCARD   (F_WRITE | F(VIRTIO_BLK_F_DISCARD) | F(VIRTIO_BLK_F_WRITE_ZEROES))

/* Places in guest memory: header, status, discard ranges, data. */
#define HDR    DRIVER_DATA
#define STATUS (DRIVER_DATA + 0x100)
#define RANGES (DRIVER_DATA + 0x1000)
#define DATA   (DRIVER_DATA + 0x10000)

/* --- helpers ---------------------------------------------------------------------------------- */

static char dir[] = "/tmp/test_blk.XXXXXX";
static char path[PATH_MAX];
static int image = -1; /* the test's own descriptor of the file */
static int log_fd;
static enum blk_engine engine;
static unsigned int queues = 1;

static uint8_t pattern(size_t i)
{
	return (uint8_t)(i * 7 + i / 512 + i / 65536 * 13);
}

static void make_image(uint64_t size)
{
	static uint8_t buf[65536];

	memset(&host, 0, sizeof(host));
	log_text(log_fd);
	if (image >= 0)
		close(image);
	unlink(path);
	image = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	for (uint64_t at = 0; at < size; at += sizeof(buf)) {
		size_t n = size - at < sizeof(buf) ? size - at : sizeof(buf);

		for (size_t i = 0; i < n; i++)
			buf[i] = pattern(at + i);
		CHECK_EQ(pwrite(image, buf, n, (off_t)at), n);
	}
}

static bool file_is(uint64_t pos, const void *want, size_t len)
{
	uint8_t *buf = test_malloc(len);
	bool same = pread(image, buf, len, (off_t)pos) == (ssize_t)len &&
		    !memcmp(buf, want, len);

	free(buf);
	return same;
}

/* The bytes that make_image() wrote. */
static bool untouched(uint64_t pos, size_t len)
{
	uint8_t *want = test_malloc(len);
	bool same;

	for (size_t i = 0; i < len; i++)
		want[i] = pattern(pos + i);
	same = file_is(pos, want, len);
	free(want);
	return same;
}

static bool zeros(uint64_t pos, size_t len)
{
	uint8_t *want = test_calloc(1, len);
	bool same = file_is(pos, want, len);

	free(want);
	return same;
}

static int open_disk(struct virtio_dev **dev, bool readonly, bool direct, bool discard)
{
	struct blk_config config = { path, "disk-7", readonly, direct, discard, engine, queues };

	return blk_create(dev, &config);
}

static bool start(struct driver *d, bool readonly, bool direct, bool discard, uint64_t features)
{
	struct virtio_dev *dev = NULL;

	if (open_disk(&dev, readonly, direct, discard) || driver_init(d, dev))
		return false;
	return driver_start(d, features, 256);
}

static void stop(struct driver *d)
{
	struct virtio_dev *dev = d->dev;

	driver_fini(d);
	dev->ops->destroy(dev);
}

static void set_header(struct driver *d, uint32_t type, uint64_t sector)
{
	struct virtio_blk_outhdr hdr = { htole32(type), 0, htole64(sector) };

	memcpy(driver_ptr(d, HDR), &hdr, sizeof(hdr));
	*driver_ptr(d, STATUS) = 0xee;
}

/* Sends the chain and waits. The status, or -1 when none came. */
static int submit(struct driver *d, const struct driver_buf *buf, unsigned int nr, uint32_t *len)
{
	uint32_t head, used_head;

	head = driver_add(d, 0, buf, nr);
	driver_kick(d, 0);
	if (!driver_used(d, 0, 2000, &used_head, len))
		return -1;
	CHECK_EQ(used_head, head);
	return *driver_ptr(d, buf[nr - 1].gpa + buf[nr - 1].len - 1);
}

/* Header, one data buffer (none when @len is 0), status. */
static int request(struct driver *d, uint32_t type, uint64_t sector, uint64_t gpa, uint32_t len,
		   bool in, uint32_t *used)
{
	struct driver_buf buf[3] = { OUT(HDR, 16), { gpa, len, in }, IN(STATUS, 1) };

	set_header(d, type, sector);
	if (!len)
		buf[1] = buf[2];
	return submit(d, buf, len ? 3 : 2, used);
}

static void fill(struct driver *d, uint64_t gpa, size_t len, unsigned int seed)
{
	for (size_t i = 0; i < len; i++)
		driver_ptr(d, gpa)[i] = (uint8_t)(i * 11 + seed + i / 512);
}

static bool is_pattern(struct driver *d, uint64_t gpa, uint64_t pos, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (driver_ptr(d, gpa)[i] != pattern(pos + i))
			return false;
	return true;
}

static DIR *open_dir(const char *name)
{
	void *at_work = allocs_hold();
	DIR *dp = opendir(name);

	allocs_go(at_work);
	return dp;
}

static unsigned int count_dir(const char *name)
{
	DIR *dp = open_dir(name);
	unsigned int n = 0;

	while (readdir(dp))
		n++;
	closedir(dp);
	return n;
}

/* Without the kernel's workers of a ring, which come and go. */
static unsigned int count_threads(void)
{
	DIR *dp = open_dir("/proc/self/task");
	struct dirent *e;
	unsigned int n = 0;

	while ((e = readdir(dp))) {
		char name[300], comm[32] = "";
		int fd;

		snprintf(name, sizeof(name), "/proc/self/task/%s/comm", e->d_name);
		fd = open(name, O_RDONLY | O_CLOEXEC);
		if (fd >= 0 && read(fd, comm, sizeof(comm) - 1) < 0)
			comm[0] = '\0';
		if (fd >= 0)
			close(fd);
		n += comm[0] && strncmp(comm, "iou-", 4);
	}
	closedir(dp);
	return n;
}

/* --- opening ---------------------------------------------------------------------------------- */

static void refused(const char *file, const char *word, int err)
{
	struct blk_config config = { .path = file, .id = "x", .engine = engine };
	struct virtio_dev *dev = NULL;
	const char *text;

	CHECK_EQ(blk_create(&dev, &config), err);
	CHECK(!dev);
	text = log_text(log_fd);
	CHECK(strstr(text, file));
	if (!strstr(text, word)) {
		printf("  the log says: %s", text);
		CHECK(!"the expected word");
	}
}

static void test_refused_images(void)
{
	struct blk_config long_id = { .path = path, .id = "123456789012345678901", .engine = engine };
	unsigned int fds = count_dir("/proc/self/fd"), tasks = count_threads();
	struct virtio_dev *dev;
	char fifo[PATH_MAX];

	make_image(SIZE + 1);
	refused(path, "8388609 bytes", -EINVAL);
	make_image(511);
	refused(path, "511 bytes", -EINVAL);
	make_image(0);
	refused(path, "not 0", -EINVAL);
	refused(dir, "directory", -EISDIR);
	refused("/dev/null", "character device", -EINVAL);
	refused("/nonexistent/disk", "ENOENT", -ENOENT);
	snprintf(fifo, sizeof(fifo), "%s/fifo", dir);
	CHECK_EQ(mkfifo(fifo, 0600), 0);
	refused(fifo, "FIFO", -EINVAL);
	unlink(fifo);
	make_image(512);
	CHECK_EQ(blk_create(&dev, &long_id), -EINVAL);
	CHECK(strstr(log_text(log_fd), "20 bytes"));
	CHECK_EQ(count_dir("/proc/self/fd"), fds + 1); /* image, opened since */
	CHECK_EQ(count_threads(), tasks);
}

static void test_lock(void)
{
	struct virtio_dev *a = NULL, *b = NULL, *c = NULL;

	make_image(SIZE);
	CHECK_EQ(open_disk(&a, false, false, false), 0);
	CHECK_EQ(open_disk(&b, false, false, false), -EBUSY);
	CHECK(strstr(log_text(log_fd), "in use by another process"));
	CHECK_EQ(open_disk(&b, true, false, false), -EBUSY);
	/* Another descriptor of the file, opened and closed, would take a POSIX lock away. */
	close(open(path, O_RDONLY));
	CHECK_EQ(open_disk(&b, false, false, false), -EBUSY);
	a->ops->destroy(a);
	CHECK_EQ(open_disk(&a, true, false, false), 0);
	CHECK_EQ(open_disk(&b, true, false, false), 0);
	CHECK_EQ(open_disk(&c, false, false, false), -EBUSY);
	a->ops->destroy(a);
	b->ops->destroy(b);
	host.lock_errno = ENOLCK;
	CHECK_EQ(open_disk(&a, false, false, false), -ENOLCK);
	CHECK_EQ(open_disk(&a, true, false, false), 0);
	a->ops->destroy(a);
	host.lock_errno = 0;
	CHECK_EQ(open_disk(&a, false, false, false), 0);
	a->ops->destroy(a);
}

static void test_config(void)
{
	struct virtio_blk_config config;
	struct virtio_dev *dev;
	struct driver d;
	struct stat st;

	make_image(SIZE);
	fstat(image, &st);
	CHECK_EQ(open_disk(&dev, false, false, true), 0);
	CHECK_EQ(driver_init(&d, dev), 0);
	CHECK_EQ(driver_read(&d, VIRTIO_MMIO_DEVICE_ID), VIRTIO_ID_BLOCK);
	memset(&config, 0, sizeof(config));
	for (unsigned int i = 0; i < 60; i += 4)
		virtio_mmio_access(&d.mmio, VIRTIO_MMIO_CONFIG + i, (uint8_t *)&config + i, 4, false);
	CHECK_EQ(le64toh(config.capacity), SECTORS);
	CHECK_EQ(le32toh(config.seg_max), QUEUE_MAX_SIZE - 2);
	CHECK_EQ(le32toh(config.blk_size), 512);
	CHECK_EQ(512u << config.physical_block_exp, st.st_blksize);
	CHECK_EQ(le16toh(config.min_io_size), st.st_blksize / 512);
	CHECK(le32toh(config.max_discard_sectors) > 0);
	CHECK(le32toh(config.max_discard_seg) > 0);
	CHECK_EQ(le32toh(config.discard_sector_alignment), st.st_blksize / 512);
	CHECK(le32toh(config.max_write_zeroes_sectors) > 0);
	CHECK_EQ(le32toh(config.max_write_zeroes_seg), 1);
	CHECK_EQ(config.write_zeroes_may_unmap, 1);
	CHECK_EQ(driver_offered(&d) & F_DISCARD, F_DISCARD);
	CHECK(!(driver_offered(&d) & F(VIRTIO_BLK_F_RO)));
	CHECK(!(driver_offered(&d) & F(VIRTIO_BLK_F_CONFIG_WCE)));
	stop(&d);

	CHECK_EQ(open_disk(&dev, true, false, true), 0);
	CHECK_EQ(driver_init(&d, dev), 0);
	CHECK(driver_offered(&d) & F(VIRTIO_BLK_F_RO));
	CHECK(!(driver_offered(&d) & (F(VIRTIO_BLK_F_DISCARD) | F(VIRTIO_BLK_F_WRITE_ZEROES))));
	stop(&d);
}

/* --- data ------------------------------------------------------------------------------------- */

static void test_read_write(void)
{
	struct driver d;
	uint32_t used;

	make_image(SIZE);
	CHECK(start(&d, false, false, false, F_WRITE));
	CHECK_EQ(request(&d, VIRTIO_BLK_T_IN, 3, DATA, 4096, true, &used), VIRTIO_BLK_S_OK);
	CHECK_EQ(used, 4097);
	CHECK(is_pattern(&d, DATA, 3 * 512, 4096));
	CHECK_EQ(driver_ptr(&d, DATA)[4096], 0);
	CHECK(driver_irqs(&d, 1000) >= 1);

	fill(&d, DATA, 4096, 5);
	CHECK_EQ(request(&d, VIRTIO_BLK_T_OUT, 100, DATA, 4096, false, &used), VIRTIO_BLK_S_OK);
	CHECK_EQ(used, 1);
	CHECK(file_is(100 * 512, driver_ptr(&d, DATA), 4096));
	CHECK(untouched(0, 100 * 512));
	CHECK(untouched(108 * 512, SIZE - 108 * 512));

	/* the last sector, and nothing at all */
	CHECK_EQ(request(&d, VIRTIO_BLK_T_IN, SECTORS - 1, DATA, 512, true, &used), VIRTIO_BLK_S_OK);
	CHECK(is_pattern(&d, DATA, SIZE - 512, 512));
	CHECK_EQ(request(&d, VIRTIO_BLK_T_IN, 0, 0, 0, true, &used), VIRTIO_BLK_S_OK);
	CHECK_EQ(used, 1);
	CHECK(!driver_needs_reset(&d));
	stop(&d);
}

/* No assumption on framing (VIRTIO 1.2, 2.7.4): cut the chain anywhere. */
static void test_framing(void)
{
	struct driver_buf buf[64];
	struct driver d;
	uint32_t used;
	unsigned int n;

	make_image(SIZE);
	CHECK(start(&d, false, false, false, F_WRITE));

	/* header in sixteen pieces and data in odd ones, the status in the last data buffer */
	set_header(&d, VIRTIO_BLK_T_IN, 9);
	for (n = 0; n < 16; n++)
		buf[n] = (struct driver_buf)OUT(HDR + n, 1);
	buf[n++] = (struct driver_buf)IN(DATA, 100);
	buf[n++] = (struct driver_buf)IN(DATA + 100, 1);
	buf[n++] = (struct driver_buf)IN(DATA + 101, 1024 - 101 + 1);
	driver_ptr(&d, DATA)[1024] = 0xee;
	CHECK_EQ(submit(&d, buf, n, &used), VIRTIO_BLK_S_OK);
	CHECK_EQ(used, 1025);
	CHECK(is_pattern(&d, DATA, 9 * 512, 1024));

	/* header and data in one buffer, then data cut in the middle of a sector */
	set_header(&d, VIRTIO_BLK_T_OUT, 20);
	fill(&d, HDR + 16, 200, 1);
	fill(&d, DATA, 312, 2);
	buf[0] = (struct driver_buf)OUT(HDR, 16 + 200);
	buf[1] = (struct driver_buf)OUT(DATA, 312);
	buf[2] = (struct driver_buf)IN(RANGES, 1);
	CHECK_EQ(submit(&d, buf, 3, &used), VIRTIO_BLK_S_OK);
	CHECK_EQ(used, 1);
	CHECK(file_is(20 * 512, driver_ptr(&d, HDR + 16), 200));
	CHECK(file_is(20 * 512 + 200, driver_ptr(&d, DATA), 312));
	CHECK(untouched(21 * 512, 4096));

	/* header split across the data's buffer */
	set_header(&d, VIRTIO_BLK_T_OUT, 30);
	memcpy(driver_ptr(&d, DATA + 0x2000), driver_ptr(&d, HDR + 10), 6);
	fill(&d, DATA + 0x2006, 512, 9);
	buf[0] = (struct driver_buf)OUT(HDR, 10);
	buf[1] = (struct driver_buf)OUT(DATA + 0x2000, 6 + 512);
	buf[2] = (struct driver_buf)IN(STATUS, 1);
	CHECK_EQ(submit(&d, buf, 3, &used), VIRTIO_BLK_S_OK);
	CHECK(file_is(30 * 512, driver_ptr(&d, DATA + 0x2006), 512));
	CHECK(!driver_needs_reset(&d));
	stop(&d);
}

/*
 * As many segments as are advertised, moved by one call; and a host that moves less each time than
 * asked.
 */
static void test_vectors(void)
{
	struct driver_buf buf[QUEUE_MAX_SIZE];
	unsigned int n = QUEUE_MAX_SIZE - 2;
	struct driver d;
	uint32_t used;

	make_image(SIZE);
	CHECK(start(&d, false, false, false, F_WRITE));
	set_header(&d, VIRTIO_BLK_T_IN, 16);
	buf[0] = (struct driver_buf)OUT(HDR, 16);
	for (unsigned int i = 0; i < n; i++)
		buf[i + 1] = (struct driver_buf)IN(DATA + i * 8192, 4096);
	buf[n + 1] = (struct driver_buf)IN(STATUS, 1);
	CHECK_EQ(submit(&d, buf, n + 2, &used), VIRTIO_BLK_S_OK);
	CHECK_EQ(used, n * 4096 + 1);
	CHECK_EQ(host.vectors, 1);
	CHECK_EQ(host.iovcnt, n); /* the status is none of them */
	for (unsigned int i = 0; i < n; i++)
		CHECK(is_pattern(&d, DATA + i * 8192, 16 * 512 + i * 4096, 4096));

	host.short_max = 1000;
	host.interrupts = 3;
	memset(driver_ptr(&d, DATA), 0, 64 * 8192);
	set_header(&d, VIRTIO_BLK_T_IN, 16);
	buf[65] = buf[n + 1];
	CHECK_EQ(submit(&d, buf, 66, &used), VIRTIO_BLK_S_OK);
	CHECK_EQ(used, 64 * 4096 + 1);
	for (unsigned int i = 0; i < 64; i++)
		CHECK(is_pattern(&d, DATA + i * 8192, 16 * 512 + i * 4096, 4096));

	host.interrupts = 2;
	set_header(&d, VIRTIO_BLK_T_OUT, 1000);
	for (unsigned int i = 0; i < 64; i++) {
		fill(&d, DATA + i * 8192, 4096, i);
		buf[i + 1].in = false;
	}
	CHECK_EQ(submit(&d, buf, 66, &used), VIRTIO_BLK_S_OK);
	for (unsigned int i = 0; i < 64; i++)
		CHECK(file_is(1000 * 512 + i * 4096, driver_ptr(&d, DATA + i * 8192), 4096));
	CHECK(untouched(1000 * 512 + 64 * 4096, 4096));

	/* for ever interrupted: an answer all the same */
	host.interrupts = 1 << 30;
	CHECK_EQ(request(&d, VIRTIO_BLK_T_IN, 0, DATA, 512, true, &used), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(used, 1);
	host.interrupts = 0;
	stop(&d);
}

static void test_bounds(void)
{
	static const struct {
		uint64_t sector;
		uint32_t len;
	} bad[] = {
		{ SECTORS, 512 },
		{ SECTORS - 1, 1024 },
		{ SECTORS + 1, 0 },
		{ UINT64_MAX, 512 },
		{ UINT64_MAX / 512, 1024 },
		{ UINT64_MAX / 512 + 1, 512 }, /* times 512 wraps to 0 */
		{ 1ull << 63, 512 },
		{ 0, 1 },
		{ 0, 511 },
		{ 0, 513 },
		{ SECTORS - 1, 513 },
	};
	struct driver d;
	uint32_t used;

	make_image(SIZE);
	CHECK(start(&d, false, false, false, F_WRITE));
	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		memset(driver_ptr(&d, DATA), 0x55, 1024);
		CHECK_EQ(request(&d, VIRTIO_BLK_T_OUT, bad[i].sector, DATA, bad[i].len, false, &used),
			 VIRTIO_BLK_S_IOERR);
		CHECK_EQ(used, 1);
		CHECK_EQ(request(&d, VIRTIO_BLK_T_IN, bad[i].sector, DATA, bad[i].len, true, &used),
			 VIRTIO_BLK_S_IOERR);
		CHECK_EQ(used, 1);
		CHECK_EQ(driver_ptr(&d, DATA)[0], 0x55);
	}
	CHECK_EQ(host.vectors, 0);
	CHECK(untouched(0, SIZE));
	CHECK_EQ(lseek(image, 0, SEEK_END), SIZE);

	/* somebody cuts the image short */
	CHECK_EQ(ftruncate(image, SIZE / 2 + 512), 0);
	CHECK_EQ(request(&d, VIRTIO_BLK_T_IN, SECTORS / 2, DATA, 1024, true, &used),
		 VIRTIO_BLK_S_IOERR);
	CHECK_EQ(used, 513);
	host.rw_errno = ENOSPC;
	CHECK_EQ(request(&d, VIRTIO_BLK_T_OUT, 0, DATA, 512, false, &used), VIRTIO_BLK_S_IOERR);
	CHECK(strstr(log_text(log_fd), "ENOSPC"));
	CHECK(!driver_needs_reset(&d));
	stop(&d);
}

static void test_readonly(void)
{
	struct virtio_blk_discard_write_zeroes range = { 0, htole32(8), 0 };
	struct driver d;
	uint32_t used;

	make_image(SIZE);
	CHECK(start(&d, true, false, true, F_WRITE | F(VIRTIO_BLK_F_RO)));
	CHECK_EQ(request(&d, VIRTIO_BLK_T_IN, 1, DATA, 512, true, &used), VIRTIO_BLK_S_OK);
	CHECK(is_pattern(&d, DATA, 512, 512));
	CHECK_EQ(request(&d, VIRTIO_BLK_T_OUT, 1, DATA + 512, 512, false, &used),
		 VIRTIO_BLK_S_IOERR);
	memcpy(driver_ptr(&d, RANGES), &range, sizeof(range));
	CHECK_EQ(request(&d, VIRTIO_BLK_T_DISCARD, 0, RANGES, 16, false, &used), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(request(&d, VIRTIO_BLK_T_WRITE_ZEROES, 0, RANGES, 16, false, &used),
		 VIRTIO_BLK_S_IOERR);
	CHECK_EQ(request(&d, VIRTIO_BLK_T_FLUSH, 0, 0, 0, false, &used), VIRTIO_BLK_S_OK);
	CHECK(untouched(0, SIZE));
	stop(&d);
	/* a driver that leaves the feature out changes nothing either */
	CHECK(start(&d, true, false, false, 0));
	CHECK_EQ(request(&d, VIRTIO_BLK_T_OUT, 1, DATA + 512, 512, false, &used),
		 VIRTIO_BLK_S_IOERR);
	CHECK(untouched(0, SIZE));
	stop(&d);
}

static void test_flush(void)
{
	struct driver d;
	uint32_t used;

	make_image(SIZE);
	CHECK(start(&d, false, false, false, F_WRITE));
	CHECK_EQ(request(&d, VIRTIO_BLK_T_OUT, 1, DATA, 512, false, &used), VIRTIO_BLK_S_OK);
	CHECK_EQ(host.syncs, 0);
	CHECK_EQ(request(&d, VIRTIO_BLK_T_FLUSH, 0, 0, 0, false, &used), VIRTIO_BLK_S_OK);
	CHECK_EQ(used, 1);
	CHECK_EQ(host.syncs, 1);
	host.sync_errno = EIO;
	CHECK_EQ(request(&d, VIRTIO_BLK_T_FLUSH, 0, 0, 0, false, &used), VIRTIO_BLK_S_IOERR);
	CHECK(strstr(log_text(log_fd), "EIO"));
	host.sync_errno = 0;
	CHECK_EQ(request(&d, VIRTIO_BLK_T_FLUSH, 0, 0, 0, false, &used), VIRTIO_BLK_S_OK);

	/* without the feature a completed write is on the disk */
	CHECK(driver_start(&d, 0, 256));
	host.syncs = 0;
	CHECK_EQ(request(&d, VIRTIO_BLK_T_OUT, 1, DATA, 512, false, &used), VIRTIO_BLK_S_OK);
	CHECK_EQ(host.syncs, 1);
	host.sync_errno = EIO;
	CHECK_EQ(request(&d, VIRTIO_BLK_T_OUT, 1, DATA, 512, false, &used), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(request(&d, VIRTIO_BLK_T_IN, 1, DATA, 512, true, &used), VIRTIO_BLK_S_OK);
	CHECK_EQ(host.syncs, 2);
	stop(&d);
}

/* Puts a request without data there. */
static void add_bare(struct driver *d, uint32_t type)
{
	set_header(d, type, 0);
	driver_add(d, 0, (struct driver_buf[]){ OUT(HDR, 16), IN(STATUS, 1) }, 2);
	driver_kick(d, 0);
}

static void wait_syncs(int nr)
{
	for (int i = 0; i < 2000 && host.syncs < nr; i++)
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	CHECK_EQ(host.syncs, nr);
}

/* A flush, and without the feature a write, is not over before the host's fdatasync is. */
static void test_flush_waits(void)
{
	uint32_t head, used;
	struct driver d;

	make_image(SIZE);
	CHECK(start(&d, false, false, false, F_WRITE));
	for (unsigned int i = 0; i < 2; i++) {
		host.syncs = 0;
		host.hold_sync = true;
		host.sync_errno = i ? EIO : 0;
		add_bare(&d, VIRTIO_BLK_T_FLUSH);
		wait_syncs(1);
		CHECK(!driver_used(&d, 0, 20, &head, &used));
		CHECK_EQ(*driver_ptr(&d, STATUS), 0xee);
		host.hold_sync = false;
		CHECK(driver_used(&d, 0, 5000, &head, &used));
		CHECK_EQ(*driver_ptr(&d, STATUS), i ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK);
	}
	host.sync_errno = 0;
	CHECK(driver_start(&d, 0, 256));
	host.syncs = 0;
	host.hold_sync = true;
	fill(&d, DATA, 512, 5);
	set_header(&d, VIRTIO_BLK_T_OUT, 9);
	driver_add(&d, 0, (struct driver_buf[]){ OUT(HDR, 16), OUT(DATA, 512), IN(STATUS, 1) }, 3);
	driver_kick(&d, 0);
	wait_syncs(1);
	CHECK(file_is(9 * 512, driver_ptr(&d, DATA), 512)); /* the write came first */
	CHECK(!driver_used(&d, 0, 20, &head, &used));
	CHECK_EQ(*driver_ptr(&d, STATUS), 0xee);
	host.hold_sync = false;
	CHECK(driver_used(&d, 0, 5000, &head, &used));
	CHECK_EQ(*driver_ptr(&d, STATUS), VIRTIO_BLK_S_OK);
	stop(&d);
}

static void test_get_id(void)
{
	struct blk_config config = { .path = path, .id = "12345678901234567890", .engine = engine };
	struct virtio_dev *dev;
	struct driver d;
	uint32_t used;

	make_image(SIZE);
	CHECK(start(&d, false, false, false, F_WRITE));
	memset(driver_ptr(&d, DATA), 0xaa, 64);
	CHECK_EQ(request(&d, VIRTIO_BLK_T_GET_ID, 0, DATA, 20, true, &used), VIRTIO_BLK_S_OK);
	CHECK_EQ(used, 21);
	CHECK(!memcmp(driver_ptr(&d, DATA), "disk-7\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xaa", 21));
	memset(driver_ptr(&d, DATA), 0xaa, 64);
	CHECK_EQ(request(&d, VIRTIO_BLK_T_GET_ID, 0, DATA, 4, true, &used), VIRTIO_BLK_S_OK);
	CHECK_EQ(used, 5);
	CHECK(!memcmp(driver_ptr(&d, DATA), "disk\xaa", 5));
	CHECK_EQ(request(&d, VIRTIO_BLK_T_GET_ID, 0, DATA, 32, true, &used), VIRTIO_BLK_S_OK);
	CHECK_EQ(used, 21);
	CHECK_EQ(driver_ptr(&d, DATA)[20], 0xaa);
	stop(&d);

	CHECK_EQ(blk_create(&dev, &config), 0);
	CHECK_EQ(driver_init(&d, dev), 0);
	CHECK(driver_start(&d, F_WRITE, 256));
	CHECK_EQ(request(&d, VIRTIO_BLK_T_GET_ID, 0, DATA, 20, true, &used), VIRTIO_BLK_S_OK);
	CHECK(!memcmp(driver_ptr(&d, DATA), "12345678901234567890", 20));
	stop(&d);
}

static void test_unsupported(void)
{
	static const uint32_t types[] = { VIRTIO_BLK_T_SCSI_CMD, 3, 5, 9, 14, 15, 0x80000000, UINT32_MAX };
	struct driver d;
	uint32_t used;

	make_image(SIZE);
	CHECK(start(&d, false, false, true, F_WRITE)); /* offers discard, the driver leaves it */
	for (unsigned int i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		CHECK_EQ(request(&d, types[i], 0, DATA, 512, false, &used), VIRTIO_BLK_S_UNSUPP);
		CHECK_EQ(request(&d, types[i], 0, DATA, 512, true, &used), VIRTIO_BLK_S_UNSUPP);
		CHECK_EQ(used, 1);
	}
	CHECK_EQ(request(&d, VIRTIO_BLK_T_DISCARD, 0, RANGES, 16, false, &used), VIRTIO_BLK_S_UNSUPP);
	CHECK_EQ(request(&d, VIRTIO_BLK_T_WRITE_ZEROES, 0, RANGES, 16, false, &used),
		 VIRTIO_BLK_S_UNSUPP);
	CHECK(untouched(0, SIZE));
	stop(&d);
}

/* --- discard and zeroes ----------------------------------------------------------------------- */

static int ranges(struct driver *d, uint32_t type, const struct virtio_blk_discard_write_zeroes *r,
		  unsigned int nr)
{
	uint32_t used;
	int status;

	memcpy(driver_ptr(d, RANGES), r, nr * sizeof(*r));
	status = request(d, type, 0, RANGES, nr * sizeof(*r), false, &used);
	CHECK_EQ(used, 1);
	return status;
}

#define RANGE(s, n, f) { htole64(s), htole32(n), htole32(f) }
typedef struct virtio_blk_discard_write_zeroes range_t;

static blkcnt_t blocks(void)
{
	struct stat st;

	fstat(image, &st);
	return st.st_blocks;
}

static void test_discard(void)
{
	const range_t two[] = { RANGE(128, 128, 0), RANGE(1024, 256, 0) };
	const range_t unmap = RANGE(0, 8, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
	const range_t reserved = RANGE(0, 8, 2), beyond = RANGE(SECTORS - 1, 2, 0);
	const range_t wraps = RANGE(UINT64_MAX, 2, 0), many = RANGE(0, UINT32_MAX, 0);
	const range_t second_bad[] = { RANGE(0, 8, 0), RANGE(SECTORS, 1, 0) };
	range_t too_many[17];
	blkcnt_t before;
	struct driver d;
	uint32_t used;

	make_image(SIZE);
	CHECK(start(&d, false, false, true, F_DISCARD));
	memset(too_many, 0, sizeof(too_many));

	CHECK_EQ(ranges(&d, VIRTIO_BLK_T_DISCARD, &unmap, 1), VIRTIO_BLK_S_UNSUPP);
	CHECK_EQ(ranges(&d, VIRTIO_BLK_T_DISCARD, &reserved, 1), VIRTIO_BLK_S_UNSUPP);
	CHECK_EQ(ranges(&d, VIRTIO_BLK_T_DISCARD, &beyond, 1), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(ranges(&d, VIRTIO_BLK_T_DISCARD, &wraps, 1), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(ranges(&d, VIRTIO_BLK_T_DISCARD, &many, 1), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(ranges(&d, VIRTIO_BLK_T_DISCARD, second_bad, 2), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(ranges(&d, VIRTIO_BLK_T_DISCARD, too_many, 17), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(ranges(&d, VIRTIO_BLK_T_DISCARD, too_many, 16), VIRTIO_BLK_S_OK); /* of nothing */
	CHECK_EQ(request(&d, VIRTIO_BLK_T_DISCARD, 0, RANGES, 15, false, &used), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(request(&d, VIRTIO_BLK_T_DISCARD, 0, 0, 0, false, &used), VIRTIO_BLK_S_IOERR);
	CHECK(untouched(0, SIZE));

	CHECK_EQ(fdatasync(image), 0);
	before = blocks();
	CHECK_EQ(ranges(&d, VIRTIO_BLK_T_DISCARD, two, 2), VIRTIO_BLK_S_OK);
	CHECK(zeros(128 * 512, 128 * 512));
	CHECK(zeros(1024 * 512, 256 * 512));
	CHECK(untouched(0, 128 * 512));
	CHECK(untouched(256 * 512, 768 * 512));
	CHECK(untouched(1280 * 512, SIZE - 1280 * 512));
	CHECK_EQ(lseek(image, 0, SEEK_HOLE), 128 * 512);
	CHECK_EQ(lseek(image, 128 * 512, SEEK_DATA), 256 * 512);
	CHECK(blocks() < before);
	CHECK_EQ(lseek(image, 0, SEEK_END), SIZE);

	host.fallocate_errno = EOPNOTSUPP;
	CHECK_EQ(ranges(&d, VIRTIO_BLK_T_DISCARD, &second_bad[0], 1), VIRTIO_BLK_S_UNSUPP);
	host.fallocate_errno = EIO;
	CHECK_EQ(ranges(&d, VIRTIO_BLK_T_DISCARD, &second_bad[0], 1), VIRTIO_BLK_S_IOERR);
	CHECK(untouched(0, 128 * 512));
	stop(&d);
}

static void test_write_zeroes(void)
{
	const range_t keep = RANGE(128, 128, 0), odd = RANGE(1001, 3, 0);
	const range_t unmap = RANGE(512, 128, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
	const range_t by_hand = RANGE(2048, 300, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
	const range_t reserved = RANGE(0, 8, 4), two[2] = { RANGE(0, 8, 0), RANGE(8, 8, 0) };
	const range_t many = RANGE(0, SECTORS + 1, 0);
	struct driver d;
	blkcnt_t before;

	make_image(SIZE);
	CHECK(start(&d, false, false, true, F_DISCARD));
	CHECK_EQ(ranges(&d, VIRTIO_BLK_T_WRITE_ZEROES, &reserved, 1), VIRTIO_BLK_S_UNSUPP);
	CHECK_EQ(ranges(&d, VIRTIO_BLK_T_WRITE_ZEROES, two, 2), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(ranges(&d, VIRTIO_BLK_T_WRITE_ZEROES, &many, 1), VIRTIO_BLK_S_IOERR);
	CHECK(untouched(0, SIZE));

	CHECK_EQ(fdatasync(image), 0);
	before = blocks();
	CHECK_EQ(ranges(&d, VIRTIO_BLK_T_WRITE_ZEROES, &keep, 1), VIRTIO_BLK_S_OK);
	CHECK(zeros(128 * 512, 128 * 512));
	CHECK(blocks() >= before); /* without UNMAP the space stays the guest's */
	CHECK_EQ(ranges(&d, VIRTIO_BLK_T_WRITE_ZEROES, &unmap, 1), VIRTIO_BLK_S_OK);
	CHECK(zeros(512 * 512, 128 * 512));
	CHECK(blocks() < before);
	CHECK_EQ(ranges(&d, VIRTIO_BLK_T_WRITE_ZEROES, &odd, 1), VIRTIO_BLK_S_OK);
	CHECK(zeros(1001 * 512, 3 * 512));
	CHECK(untouched(1004 * 512, 4096));
	CHECK(untouched(640 * 512, (1001 - 640) * 512));

	/* a host without the calls gets zeros written */
	host.fallocate_errno = EOPNOTSUPP;
	host.writes = 0;
	CHECK_EQ(ranges(&d, VIRTIO_BLK_T_WRITE_ZEROES, &by_hand, 1), VIRTIO_BLK_S_OK);
	CHECK_EQ(host.writes, 3); /* 300 sectors are 150 KiB */
	CHECK(zeros(2048 * 512, 300 * 512));
	CHECK(untouched(2348 * 512, SIZE - 2348 * 512));
	CHECK(untouched(1004 * 512, (2048 - 1004) * 512));
	host.fallocate_errno = ENOSPC;
	CHECK_EQ(ranges(&d, VIRTIO_BLK_T_WRITE_ZEROES, &odd, 1), VIRTIO_BLK_S_IOERR);
	stop(&d);
}

/* Ranges that end with the disk, that are empty, that begin where it ends. */
static void test_range_edges(void)
{
	static const uint32_t types[] = { VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES };
	const range_t last = RANGE(SECTORS - 1, 1, 0), past = RANGE(SECTORS - 1, 2, 0);
	const range_t empty[] = { RANGE(5, 0, 0), RANGE(SECTORS, 0, 0), RANGE(SECTORS + 1, 0, 0) };
	const range_t beyond = RANGE(SECTORS, 1, 0), wraps = RANGE(UINT64_MAX - 7, 8, 0);
	const range_t overflows = RANGE(1ull << 55, 8, 0);
	const range_t unmap = RANGE(SECTORS - 1, 1, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
	const range_t both = RANGE(0, 8, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP | 2);
	struct driver d;

	for (unsigned int i = 0; i < 2; i++) {
		make_image(SIZE);
		CHECK(start(&d, false, false, true, F_DISCARD));
		CHECK_EQ(ranges(&d, types[i], &empty[0], 1), VIRTIO_BLK_S_OK);
		CHECK_EQ(ranges(&d, types[i], &empty[1], 1), VIRTIO_BLK_S_OK);
		CHECK_EQ(ranges(&d, types[i], &empty[2], 1), VIRTIO_BLK_S_IOERR);
		CHECK_EQ(ranges(&d, types[i], &past, 1), VIRTIO_BLK_S_IOERR);
		CHECK_EQ(ranges(&d, types[i], &beyond, 1), VIRTIO_BLK_S_IOERR);
		CHECK_EQ(ranges(&d, types[i], &wraps, 1), VIRTIO_BLK_S_IOERR);
		CHECK_EQ(ranges(&d, types[i], &overflows, 1), VIRTIO_BLK_S_IOERR);
		CHECK_EQ(ranges(&d, types[i], &both, 1), VIRTIO_BLK_S_UNSUPP);
		CHECK(untouched(0, SIZE));
		CHECK_EQ(ranges(&d, types[i], &last, 1), VIRTIO_BLK_S_OK);
		CHECK(zeros(SIZE - 512, 512));
		CHECK(untouched(0, SIZE - 512));
		CHECK_EQ(lseek(image, 0, SEEK_END), SIZE);
		stop(&d);
	}
	make_image(SIZE);
	CHECK(start(&d, false, false, true, F_DISCARD));
	CHECK_EQ(ranges(&d, VIRTIO_BLK_T_WRITE_ZEROES, &unmap, 1), VIRTIO_BLK_S_OK);
	CHECK(zeros(SIZE - 512, 512));
	CHECK(untouched(0, SIZE - 512));
	stop(&d);
}

/* What one request may ask for: as much as the config space says, no more. */
static void test_range_limits(void)
{
	const range_t discard[] = { RANGE(1, 1u << 21, 0), RANGE(1, (1u << 21) + 1, 0) };
	const range_t zero[] = { RANGE(1, 1u << 17, 0), RANGE(1, (1u << 17) + 1, 0) };
	struct driver d;

	make_image(4096);
	CHECK_EQ(ftruncate(image, 3ll << 30), 0);
	CHECK(start(&d, false, false, true, F_DISCARD));
	CHECK_EQ(driver_read(&d, VIRTIO_MMIO_CONFIG +
					 offsetof(struct virtio_blk_config, max_discard_sectors)),
		 1u << 21);
	CHECK_EQ(driver_read(&d, VIRTIO_MMIO_CONFIG + offsetof(struct virtio_blk_config,
							       max_write_zeroes_sectors)),
		 1u << 17);
	CHECK_EQ(ranges(&d, VIRTIO_BLK_T_DISCARD, &discard[1], 1), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(ranges(&d, VIRTIO_BLK_T_WRITE_ZEROES, &zero[1], 1), VIRTIO_BLK_S_IOERR);
	CHECK(untouched(0, 4096));
	CHECK_EQ(ranges(&d, VIRTIO_BLK_T_DISCARD, &discard[0], 1), VIRTIO_BLK_S_OK);
	CHECK(zeros(512, 4096 - 512));
	CHECK_EQ(ranges(&d, VIRTIO_BLK_T_WRITE_ZEROES, &zero[0], 1), VIRTIO_BLK_S_OK);
	CHECK(untouched(0, 512));
	stop(&d);
}

/* --- direct I/O ------------------------------------------------------------------------------- */

/*
 * Calls refuse what direct I/O refuses; the file itself is an ordinary one, since /tmp may be a
 * tmpfs.
 */
static void test_direct(void)
{
	struct driver_buf buf[4];
	struct virtio_dev *dev;
	struct driver d;
	uint32_t used;

	make_image(SIZE);
	host.no_o_direct = 1;
	host.align = 512;
	CHECK(start(&d, false, true, false, F_WRITE));
	CHECK_EQ(request(&d, VIRTIO_BLK_T_IN, 3, DATA, 4096, true, &used), VIRTIO_BLK_S_OK);
	CHECK(is_pattern(&d, DATA, 3 * 512, 4096));
	/* memory that is not aligned, framing that is odd, more than the bounce buffer holds */
	CHECK_EQ(request(&d, VIRTIO_BLK_T_IN, 5, DATA + 7, 200 * 512, true, &used), VIRTIO_BLK_S_OK);
	CHECK_EQ(used, 200 * 512 + 1);
	CHECK(is_pattern(&d, DATA + 7, 5 * 512, 200 * 512));
	fill(&d, DATA + 3, 300 * 512, 77);
	set_header(&d, VIRTIO_BLK_T_OUT, 2000);
	buf[0] = (struct driver_buf)OUT(HDR, 16);
	buf[1] = (struct driver_buf)OUT(DATA + 3, 99);
	buf[2] = (struct driver_buf)OUT(DATA + 3 + 99, 300 * 512 - 99);
	buf[3] = (struct driver_buf)IN(STATUS, 1);
	CHECK_EQ(submit(&d, buf, 4, &used), VIRTIO_BLK_S_OK);
	CHECK(file_is(2000 * 512, driver_ptr(&d, DATA + 3), 300 * 512));
	CHECK(untouched(0, 2000 * 512));
	CHECK(untouched(2300 * 512, SIZE - 2300 * 512));
	stop(&d);

	/* blocks of 4096: told to the guest, and asked of it */
	host.align = 4096;
	CHECK(start(&d, false, true, false, F_WRITE));
	CHECK_EQ(driver_read(&d, VIRTIO_MMIO_CONFIG + offsetof(struct virtio_blk_config, blk_size)),
		 4096);
	CHECK_EQ(request(&d, VIRTIO_BLK_T_IN, 8, DATA + 512, 4096, true, &used), VIRTIO_BLK_S_OK);
	CHECK(is_pattern(&d, DATA + 512, 4096, 4096));
	CHECK_EQ(request(&d, VIRTIO_BLK_T_IN, 1, DATA, 4096, true, &used), VIRTIO_BLK_S_IOERR);
	CHECK_EQ(request(&d, VIRTIO_BLK_T_OUT, 8, DATA, 512, false, &used), VIRTIO_BLK_S_IOERR);
	CHECK(untouched(0, 2000 * 512));
	stop(&d);
	CHECK_EQ(ftruncate(image, SIZE - 512), 0);
	CHECK_EQ(open_disk(&dev, false, true, false), -EINVAL);
	CHECK(strstr(log_text(log_fd), "4096"));
	host.align = 65536;
	CHECK_EQ(open_disk(&dev, false, true, false), -EINVAL);
	CHECK(strstr(log_text(log_fd), "leave out `direct`"));
}

/* --- life cycle ------------------------------------------------------------------------------- */

static void test_malformed(void)
{
	const struct driver_buf no_status[] = { OUT(HDR, 16), OUT(DATA, 512) };
	const struct driver_buf no_header[] = { IN(DATA, 512), IN(STATUS, 1) };
	const struct driver_buf short_header[] = { OUT(HDR, 15), IN(STATUS, 1) };
	const struct driver_buf outside[] = { OUT(HDR, 16), IN(DRIVER_RAM_GPA + DRIVER_RAM_SIZE - 256, 512),
					      IN(STATUS, 1) };
	const struct {
		const struct driver_buf *buf;
		unsigned int nr;
	} bad[] = { { no_status, 2 }, { no_header, 2 }, { short_header, 2 }, { outside, 3 } };
	uint32_t used, head;
	struct driver d;

	make_image(SIZE);
	CHECK(start(&d, false, false, false, F_WRITE));
	for (unsigned int i = 0; i < 4; i++) {
		int wait;

		set_header(&d, VIRTIO_BLK_T_OUT, 0);
		driver_irqs(&d, 0);
		driver_add(&d, 0, bad[i].buf, bad[i].nr);
		driver_kick(&d, 0);
		for (wait = 0; !driver_needs_reset(&d) && wait < 2000; wait++)
			nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
		CHECK(driver_needs_reset(&d));
		CHECK(driver_irqs(&d, 1000) >= 1);
		CHECK(driver_read(&d, VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG);
		/* dead until the reset */
		set_header(&d, VIRTIO_BLK_T_OUT, 0);
		driver_add(&d, 0, (struct driver_buf[]){ OUT(HDR, 16), OUT(DATA, 512), IN(STATUS, 1) }, 3);
		driver_kick(&d, 0);
		CHECK(!driver_used(&d, 0, 20, &head, &used));
		CHECK(driver_start(&d, F_WRITE, 256));
		CHECK_EQ(request(&d, VIRTIO_BLK_T_IN, 1, DATA, 512, true, &used), VIRTIO_BLK_S_OK);
	}
	CHECK(untouched(0, SIZE));
	stop(&d);
}

static void wait_in_pwritev(void)
{
	for (int i = 0; i < 2000 && !host.in_pwritev; i++)
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	CHECK(host.in_pwritev);
}

/*
 * A reset finds a write in the host's hands and others behind it: that one ends where it was to
 * go, the others never start, or do in the ring.
 */
static void test_reset_in_flight(void)
{
	struct driver d;
	uint8_t *ram, *expect;
	uint32_t used;
	int vectors;

	make_image(SIZE);
	CHECK(start(&d, false, false, false, F_WRITE));
	fill(&d, DATA, 8192, 3);
	expect = test_malloc(8192);
	memcpy(expect, driver_ptr(&d, DATA), 8192);
	host.delay_ms = 200;
	set_header(&d, VIRTIO_BLK_T_OUT, 500);
	driver_add(&d, 0, (struct driver_buf[]){ OUT(HDR, 16), OUT(DATA, 8192), IN(STATUS, 1) }, 3);
	for (unsigned int i = 0; i < 4; i++) {
		struct virtio_blk_outhdr hdr = { htole32(VIRTIO_BLK_T_OUT), 0, htole64(i) };

		memcpy(driver_ptr(&d, RANGES + i * 16), &hdr, 16);
		driver_add(&d, 0,
			   (struct driver_buf[]){ OUT(RANGES + i * 16, 16), OUT(DATA, 512),
						  IN(STATUS + 1 + i, 1) },
			   3);
	}
	driver_kick(&d, 0);
	wait_in_pwritev();
	driver_reset(&d);
	CHECK_EQ(host.in_pwritev, 0);
	vectors = host.vectors;
	CHECK_EQ(vectors, engine == BLK_SYNC ? 1 : 5);
	if (engine == BLK_SYNC) {
		CHECK(file_is(500 * 512, expect, 8192));
		CHECK(untouched(0, 500 * 512));
	} else { /* begun or given up */
		CHECK(file_is(500 * 512, expect, 8192) || untouched(500 * 512, 8192));
	}

	/* guest RAM is the driver's again, whatever it does with it */
	ram = test_malloc(DRIVER_RAM_SIZE);
	memcpy(ram, d.ram, DRIVER_RAM_SIZE);
	nanosleep(&(struct timespec){ .tv_nsec = 50000000 }, NULL);
	CHECK(!memcmp(ram, d.ram, DRIVER_RAM_SIZE));
	CHECK_EQ(host.vectors, vectors);
	free(ram);
	free(expect);

	host.delay_ms = 0;
	CHECK(driver_start(&d, F_WRITE, 256));
	CHECK_EQ(request(&d, VIRTIO_BLK_T_OUT, 500, DATA, 8192, false, &used), VIRTIO_BLK_S_OK);
	CHECK_EQ(request(&d, VIRTIO_BLK_T_IN, 500, DATA + 16384, 8192, true, &used), VIRTIO_BLK_S_OK);
	CHECK(!memcmp(driver_ptr(&d, DATA), driver_ptr(&d, DATA + 16384), 8192));
	/* and the end of the machine with a write under way */
	host.delay_ms = 100;
	set_header(&d, VIRTIO_BLK_T_OUT, 700);
	driver_add(&d, 0, (struct driver_buf[]){ OUT(HDR, 16), OUT(DATA, 512), IN(STATUS, 1) }, 3);
	driver_kick(&d, 0);
	wait_in_pwritev();
	stop(&d);
	CHECK_EQ(host.in_pwritev, 0);
}

/* A guest that resets in a loop makes no threads and no descriptors. */
static void test_reset_loop(void)
{
	unsigned int fds, tasks;
	struct driver d;
	uint32_t used;

	make_image(SIZE);
	tasks = count_threads() + 1;
	CHECK(start(&d, false, false, false, F_WRITE));
	fds = count_dir("/proc/self/fd");
	CHECK_EQ(count_threads(), tasks);
	for (int i = 0; i < 300; i++) {
		CHECK(driver_start(&d, F_WRITE, i % 2 ? 256 : 4));
		if (i % 3)
			CHECK_EQ(request(&d, VIRTIO_BLK_T_IN, i, DATA, 512, true, &used),
				 VIRTIO_BLK_S_OK);
		else if (i % 2) /* leave one behind */
			driver_kick(&d, 0);
		driver_reset(&d);
	}
	CHECK_EQ(count_dir("/proc/self/fd"), fds);
	CHECK_EQ(count_threads(), tasks);
	/* DRIVER_OK without a queue */
	driver_write(&d, VIRTIO_MMIO_STATUS, driver_features(&d, F_WRITE) | VIRTIO_CONFIG_S_DRIVER_OK);
	CHECK(!driver_needs_reset(&d));
	driver_reset(&d);
	stop(&d);
}

/* The machine is built anew around the same disk. */
static void test_reattach(void)
{
	struct virtio_dev *dev, *other;
	struct driver d;
	uint32_t used;

	make_image(SIZE);
	CHECK_EQ(open_disk(&dev, false, false, false), 0);
	for (int i = 0; i < 3; i++) {
		CHECK_EQ(driver_init(&d, dev), 0);
		CHECK(driver_start(&d, F_WRITE, 64));
		CHECK_EQ(request(&d, VIRTIO_BLK_T_IN, 2, DATA, 512, true, &used), VIRTIO_BLK_S_OK);
		CHECK(is_pattern(&d, DATA, 1024, 512));
		driver_fini(&d);
		CHECK_EQ(open_disk(&other, false, false, false), -EBUSY);
	}
	dev->ops->destroy(dev);
}

/*
 * Many at once, through a ring that goes round: every one answered once, every interrupt seen in
 * time.
 */
static void test_many(void)
{
	struct driver d;
	uint32_t len, head;
	unsigned int done = 0, sent = 0, oldest, number[256];
	bool busy[64] = { false };

	make_image(SIZE);
	for (int event_idx = 0; event_idx < 2; event_idx++) {
		CHECK(start(&d, false, false, false,
			    F_WRITE | (event_idx ? F(VIRTIO_RING_F_EVENT_IDX) : 0)));
		d.q[0].avail->ring[256] = 0; /* used_event: at the next one */
		for (done = sent = oldest = 0; done < 2000;) {
			/* the oldest that is not back bounds what is sent: its place is not taken again */
			while (oldest < sent && !busy[oldest % 64])
				oldest++;
			while (sent < 2000 && sent - oldest < 64) {
				unsigned int slot = sent % 64;
				struct virtio_blk_outhdr hdr = { htole32(VIRTIO_BLK_T_IN), 0,
								 htole64(sent * 5 % SECTORS) };

				memcpy(driver_ptr(&d, RANGES + slot * 16), &hdr, 16);
				*driver_ptr(&d, STATUS + slot) = 0xee;
				head = driver_add(&d, 0,
						  (struct driver_buf[]){ OUT(RANGES + slot * 16, 16),
									 IN(DATA + slot * 512, 512),
									 IN(STATUS + slot, 1) },
						  3);
				number[head] = sent;
				busy[slot] = true;
				sent++;
			}
			driver_kick(&d, 0);
			/* sleep as a driver does, on the interrupt alone */
			if (!driver_irqs(&d, 3000)) {
				CHECK(!"an interrupt");
				break;
			}
			do {
				while (driver_used(&d, 0, 0, &head, &len)) {
					unsigned int nr = number[head % 256], slot = nr % 64;

					CHECK(busy[slot]);
					busy[slot] = false;
					CHECK_EQ(len, 513);
					CHECK_EQ(*driver_ptr(&d, STATUS + slot), 0);
					CHECK(is_pattern(&d, DATA + slot * 512,
							 nr * 5 % SECTORS * 512, 512));
					done++;
				}
				__atomic_store_n(&d.q[0].avail->ring[256], htole16(d.q[0].used_idx),
						 __ATOMIC_SEQ_CST);
				__atomic_thread_fence(__ATOMIC_SEQ_CST);
			} while (le16toh(__atomic_load_n(&d.q[0].used->idx, __ATOMIC_ACQUIRE)) !=
				 d.q[0].used_idx);
		}
		CHECK_EQ(done, 2000);
		stop(&d);
	}
}

/* --- pauses and snapshots ---------------------------------------------------------------------- */

#define LONG (20u << 20) /* more than one call takes, of buffers that are the same memory */

/* Makes a request of LONG bytes available; the pattern of its 1 MiB is written 20 times. */
static void add_long(struct driver *d, uint32_t type)
{
	struct driver_buf buf[22] = { OUT(HDR, 16) };

	for (unsigned int i = 0; i < 20; i++)
		buf[1 + i] = (struct driver_buf)OUT(DATA, 1u << 20);
	buf[21] = (struct driver_buf)IN(STATUS, 1);
	set_header(d, type, 0);
	driver_add(d, 0, buf, 22);
}

/* A pause in the middle of a long request: nobody sees an error, and it is done once. */
static void test_pause_in_long_request(void)
{
	struct driver d;
	uint32_t head, used;

	make_image(LONG);
	CHECK(start(&d, false, false, false, F_WRITE));
	fill(&d, DATA, 1u << 20, 9);
	host.delay_ms = 100;
	host.short_max = 8u << 20;
	add_long(&d, VIRTIO_BLK_T_OUT);
	driver_kick(&d, 0);
	wait_in_pwritev();
	virtio_mmio_pause(&d.mmio);
	CHECK_EQ(host.in_pwritev, 0);
	CHECK_EQ(host.vectors, 2); /* 16 MiB, then it was given back */
	CHECK_EQ(d.dev->vq[0].in_flight, 0);
	CHECK_EQ(d.dev->vq[0].last_avail, 0);
	CHECK(!driver_used(&d, 0, 0, &head, &used));
	CHECK(!driver_needs_reset(&d));
	nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	CHECK_EQ(host.vectors, 2);
	host.delay_ms = 0;
	virtio_mmio_resume(&d.mmio);
	CHECK(driver_used(&d, 0, 5000, &head, &used));
	CHECK_EQ(*driver_ptr(&d, STATUS), VIRTIO_BLK_S_OK);
	CHECK(!driver_used(&d, 0, 20, &head, &used));
	for (unsigned int i = 0; i < 20; i++)
		CHECK(file_is((uint64_t)i << 20, driver_ptr(&d, DATA), 1u << 20));
	/* One that is shorter is finished, however slow. */
	host.delay_ms = 100;
	set_header(&d, VIRTIO_BLK_T_OUT, 8);
	driver_add(&d, 0, (struct driver_buf[]){ OUT(HDR, 16), OUT(DATA, 512), IN(STATUS, 1) }, 3);
	driver_kick(&d, 0);
	wait_in_pwritev();
	virtio_mmio_pause(&d.mmio);
	CHECK(driver_used(&d, 0, 0, &head, &used));
	CHECK(driver_irqs(&d, 0) > 0);
	virtio_mmio_resume(&d.mmio);
	stop(&d);
}

/* Zeros that have to be written one by one. */
static void test_pause_in_zeroes(void)
{
	struct virtio_blk_discard_write_zeroes range = { 0, htole32(LONG / 512), 0 };
	unsigned int given_back = 0;
	bool early;
	uint32_t head, used;
	struct driver d;

	make_image(LONG);
	CHECK(start(&d, false, false, true, F_DISCARD));
	memcpy(driver_ptr(&d, RANGES), &range, sizeof(range));
	for (unsigned int i = 0; i < 20; i++) {
		host.fallocate_errno = EOPNOTSUPP;
		set_header(&d, VIRTIO_BLK_T_WRITE_ZEROES, 0);
		driver_add(&d, 0, (struct driver_buf[]){ OUT(HDR, 16), OUT(RANGES, sizeof(range)),
							 IN(STATUS, 1) }, 3);
		host.writes = 0;
		driver_kick(&d, 0);
		while (!host.writes)
			sched_yield();
		virtio_mmio_pause(&d.mmio);
		CHECK_EQ(d.dev->vq[0].in_flight, 0);
		early = driver_used(&d, 0, 0, &head, &used);
		virtio_mmio_resume(&d.mmio);
		if (early)
			continue; /* it was faster than the pause */
		given_back++;
		CHECK(driver_used(&d, 0, 5000, &head, &used));
		CHECK(host.writes > (int)(LONG / BUF_SIZE)); /* begun anew */
		CHECK_EQ(*driver_ptr(&d, STATUS), VIRTIO_BLK_S_OK);
	}
	CHECK(given_back > 0);
	CHECK(zeros(0, LONG));
	stop(&d);
}

/* Takes what is used, and waits for none. */
static unsigned int take_all(struct driver *d)
{
	uint32_t head, used;
	unsigned int nr = 0;

	while (driver_used(d, 0, 0, &head, &used))
		nr++;
	return nr;
}

/* A pause finishes the one that is in hand, or not even that, however many wait behind it. */
static void test_pause_before_many(void)
{
	struct virtio_blk_discard_write_zeroes range = { 0, htole32(LONG / 512), 0 };
	struct driver_buf buf[10] = { OUT(HDR, 16) };
	uint32_t head, used;
	struct driver d;

	make_image(LONG);
	CHECK(start(&d, false, false, true, F_DISCARD));
	for (unsigned int i = 1; i < 9; i++)
		buf[i] = (struct driver_buf)OUT(DATA, 1u << 20);
	buf[9] = (struct driver_buf)IN(STATUS, 1);
	set_header(&d, VIRTIO_BLK_T_OUT, 0);
	for (unsigned int i = 0; i < 4; i++)
		driver_add(&d, 0, buf, 10);
	host.delay_ms = 100;
	driver_kick(&d, 0);
	wait_in_pwritev();
	virtio_mmio_pause(&d.mmio);
	CHECK_EQ(take_all(&d), 1);
	host.delay_ms = 0;
	virtio_mmio_resume(&d.mmio);
	for (unsigned int i = 0; i < 3; i++)
		CHECK(driver_used(&d, 0, 5000, &head, &used));

	/* A discard, which this host has, says nothing of write zeroes, which it has not. */
	CHECK_EQ(ranges(&d, VIRTIO_BLK_T_DISCARD, &(range_t)RANGE(0, 8, 0), 1), VIRTIO_BLK_S_OK);
	host.fallocate_errno = EOPNOTSUPP;
	memcpy(driver_ptr(&d, RANGES), &range, sizeof(range));
	set_header(&d, VIRTIO_BLK_T_WRITE_ZEROES, 0);
	for (unsigned int i = 0; i < 4; i++)
		driver_add(&d, 0, (struct driver_buf[]){ OUT(HDR, 16), OUT(RANGES, sizeof(range)),
							 IN(STATUS, 1) }, 3);
	host.writes = 0;
	driver_kick(&d, 0);
	while (!host.writes)
		sched_yield();
	virtio_mmio_pause(&d.mmio);
	CHECK_EQ(d.dev->vq[0].in_flight, 0);
	CHECK(host.writes < (int)(4 * LONG / BUF_SIZE));
	virtio_mmio_resume(&d.mmio);
	while (host.writes < (int)(4 * LONG / BUF_SIZE))
		sched_yield();
	driver_reset(&d);
	CHECK(zeros(0, LONG));
	stop(&d);
}

/* Puts @nr reads of one sector each there, from @first on. */
static void add_reads_from(struct driver *d, unsigned int i, unsigned int nr, unsigned int first)
{
	for (; i < nr; i++) {
		struct virtio_blk_outhdr hdr = { htole32(VIRTIO_BLK_T_IN), 0,
						 htole64((first + i) % SECTORS) };

		memcpy(driver_ptr(d, RANGES + i * 16), &hdr, 16);
		memset(driver_ptr(d, DATA + i * 512), 0, 512);
		*driver_ptr(d, STATUS + i) = 0xee;
		driver_add(d, 0, (struct driver_buf[]){ OUT(RANGES + i * 16, 16),
							IN(DATA + i * 512, 512), IN(STATUS + i, 1) }, 3);
	}
}

static void add_reads(struct driver *d, unsigned int nr, unsigned int first)
{
	add_reads_from(d, 0, nr, first);
}

/* Each of them comes once, with the right data. */
static void take_reads(struct driver *d, unsigned int nr, unsigned int first)
{
	uint32_t head, used;

	for (unsigned int i = 0; i < nr; i++) {
		CHECK(driver_used(d, 0, 5000, &head, &used));
		CHECK_EQ(used, 513);
	}
	CHECK(!driver_used(d, 0, 0, &head, &used));
	for (unsigned int i = 0; i < nr; i++) {
		CHECK_EQ(*driver_ptr(d, STATUS + i), VIRTIO_BLK_S_OK);
		CHECK(is_pattern(d, DATA + i * 512, (uint64_t)(first + i) % SECTORS * 512, 512));
	}
}

static void test_pause_under_load(void)
{
	uint64_t features[] = { F_WRITE, F_WRITE | F(VIRTIO_RING_F_EVENT_IDX) };
	struct driver d;

	for (unsigned int e = 0; e < 2; e++) {
		make_image(SIZE);
		CHECK(start(&d, false, false, false, features[e]));
		for (unsigned int i = 0; i < 500; i++) {
			add_reads(&d, 24, i * 24);
			driver_kick(&d, 0);
			for (unsigned int n = 0; n <= i % 3; n++) {
				virtio_mmio_pause(&d.mmio);
				CHECK_EQ(d.dev->vq[0].in_flight, 0);
				virtio_mmio_resume(&d.mmio);
			}
			take_reads(&d, 24, i * 24);
		}
		stop(&d);
	}
}

/* Ends @d's device and machine, but for the RAM, which snapshot_move() takes. */
static void end_device(struct driver *d)
{
	struct virtio_dev *dev = d->dev;

	driver_counts(NULL);
	virtio_mmio_fini(&d->mmio);
	dev->ops->destroy(dev);
	close(d->irq.fd);
}

/* From one machine to the next and back, with requests half done each time. */
static void test_snapshot_under_load(void)
{
	struct snapshot snap;
	struct driver m[2];
	struct virtio_dev *dev;

	make_image(SIZE);
	CHECK(start(&m[0], false, false, false, F_WRITE | F(VIRTIO_RING_F_EVENT_IDX)));
	for (unsigned int i = 0; i < 50; i++) {
		struct driver *old = &m[i % 2], *new = &m[(i + 1) % 2];

		add_reads(old, 32, i * 32);
		driver_kick(old, 0);
		if (i % 4 > 1)
			nanosleep(&(struct timespec){ .tv_nsec = i * 2000 }, NULL);
		virtio_mmio_pause(&old->mmio);
		snapshot_save(&snap, &old->mmio);
		CHECK_EQ(snap.err, 0);
		end_device(old);
		CHECK_EQ(open_disk(&dev, false, false, false), 0);
		CHECK_EQ(snapshot_move(new, dev, old, &snap), 0);
		free(old->ram);
		virtio_mmio_resume(&new->mmio);
		CHECK_EQ(driver_irqs(new, 0) > 0, 1);
		take_reads(new, 32, i * 32);
	}
	stop(&m[0]);
}

static void test_snapshot_of_another_disk(void)
{
	struct snapshot snap, bent;
	struct virtio_dev *dev;
	struct driver d, e;

	make_image(SIZE);
	CHECK(start(&d, false, false, false, F_WRITE));
	virtio_mmio_pause(&d.mmio);
	snapshot_save(&snap, &d.mmio);
	end_device(&d);
	make_image(SIZE + 4096);
	CHECK_EQ(open_disk(&dev, false, false, false), 0);
	CHECK_EQ(snapshot_move(&e, dev, &d, &snap), -EBADMSG);
	CHECK(strstr(log_text(log_fd), "it has 16392 sectors, blocks of 512 bytes; the guest knows 16384"));
	stop(&e);
	make_image(SIZE);
	CHECK_EQ(open_disk(&dev, true, false, false), 0);
	CHECK_EQ(snapshot_move(&e, dev, &d, &snap), -EBADMSG);
	CHECK(strstr(log_text(log_fd), "readonly"));
	stop(&e);

	/* What the file says last is the disk's: every byte of it, and every end. */
	for (size_t at = snap.len - 50; at < snap.len; at++) {
		for (unsigned int cut = 0; cut < 2; cut++) {
			bent = snap;
			bent.p[at] ^= 0x5a;
			if (cut)
				bent.len = at;
			CHECK_EQ(open_disk(&dev, false, false, false), 0);
			if (!snapshot_move(&e, dev, &d, &bent)) {
				CHECK(!cut && at < snap.len - 13);
				virtio_mmio_resume(&e.mmio);
			}
			stop(&e);
		}
	}
	free(d.ram);
}

static void test_replace(void)
{
	char why[LOG_SENTENCE], other[PATH_MAX + 8];
	struct virtio_dev *dev;
	struct driver d;
	uint32_t used;
	int fd;

	snprintf(other, sizeof(other), "%s.2", path);
	make_image(SIZE);
	fd = open(other, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	CHECK_EQ(ftruncate(fd, SIZE), 0);
	CHECK(start(&d, false, false, false, F_WRITE));
	CHECK_STR(blk_id(d.dev), "disk-7");
	CHECK_STR(blk_path(d.dev), path);
	CHECK_EQ(blk_replace(d.dev, other, why), -EBUSY);
	CHECK(strstr(why, "must be paused"));
	virtio_mmio_pause(&d.mmio);
	CHECK_EQ(blk_replace(d.dev, "/nowhere/at/all", why), -ENOENT);
	CHECK(strstr(why, "/nowhere/at/all") && strstr(why, "ENOENT"));
	CHECK_EQ(blk_replace(d.dev, dir, why), -EISDIR);
	CHECK_EQ(blk_replace(d.dev, path, why), 0); /* it has it already */
	CHECK_EQ(ftruncate(fd, SIZE - 4096), 0);
	CHECK_EQ(blk_replace(d.dev, other, why), -EINVAL);
	CHECK(strstr(why, "16376 sectors") && strstr(why, "16384"));
	CHECK_STR(blk_path(d.dev), path);
	CHECK_EQ(ftruncate(fd, SIZE), 0);
	virtio_mmio_resume(&d.mmio);
	CHECK_EQ(request(&d, VIRTIO_BLK_T_IN, 5, DATA, 512, true, &used), VIRTIO_BLK_S_OK);
	CHECK(is_pattern(&d, DATA, 5 * 512, 512));
	virtio_mmio_pause(&d.mmio);
	CHECK_EQ(blk_replace(d.dev, other, why), 0);
	CHECK_STR(blk_path(d.dev), other);
	CHECK_EQ(open_disk(&dev, false, false, false), 0); /* the old one is free */
	dev->ops->destroy(dev);
	virtio_mmio_resume(&d.mmio);
	memset(driver_ptr(&d, DATA), 0xff, 512);
	CHECK_EQ(request(&d, VIRTIO_BLK_T_IN, 5, DATA, 512, true, &used), VIRTIO_BLK_S_OK);
	CHECK_EQ(*driver_ptr(&d, DATA), 0);
	CHECK_EQ(request(&d, VIRTIO_BLK_T_OUT, 6, DATA + 512, 512, false, &used), VIRTIO_BLK_S_OK);
	CHECK(untouched(0, SIZE));
	stop(&d);
	close(fd);
	unlink(other);
}

/* --- many at once ------------------------------------------------------------------------------ */

/* All of the first @nr reads go to the kernel in one call, and come back in one interrupt. */
static void test_depth(void)
{
	uint32_t head = 0, used, last;
	struct driver d;

	make_image(SIZE);
	host.gather = 32;
	CHECK(start(&d, false, false, false, F_WRITE));
	virtio_mmio_pause(&d.mmio); /* so that it finds all of them */
	add_reads(&d, 32, 100);
	driver_irqs(&d, 0);
	virtio_mmio_resume(&d.mmio);
	CHECK(driver_used(&d, 0, 5000, &last, &used));
	nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	CHECK_EQ(driver_irqs(&d, 0), 2); /* one is the resume's */
	CHECK_EQ(host.submits, 1);
	CHECK_EQ(host.submitted, 32);
	for (unsigned int i = 0; i < 32; i++) {
		if (i)
			CHECK(driver_used(&d, 0, 0, &head, &used));
		else
			head = last;
		CHECK_EQ(used, 513);
		CHECK(head < last || !i); /* the newest first */
		last = head;
		CHECK_EQ(*driver_ptr(&d, STATUS + i), VIRTIO_BLK_S_OK);
		CHECK(is_pattern(&d, DATA + i * 512, (100 + i) * 512, 512));
	}
	stop(&d);
}

/*
 * The driver's word on interrupts, with 32 requests to answer: none, or one, at the last of them
 * (VIRTIO 1.2, 2.7.7).
 */
static void test_interrupts(void)
{
	for (unsigned int event_idx = 0; event_idx < 2; event_idx++) {
		struct driver d;

		make_image(SIZE);
		CHECK(start(&d, false, false, false, F_WRITE | (event_idx ? F(VIRTIO_RING_F_EVENT_IDX) : 0)));
		for (unsigned int round = 0; round < 4; round++) {
			bool wanted = round % 2;
			uint16_t last = (uint16_t)(d.q[0].used_idx + 31);

			/* The first time of all says nothing of the last, so there is an interrupt. */
			__atomic_store_n(&d.q[0].avail->ring[256], htole16(wanted ? last : last + 1),
					 __ATOMIC_SEQ_CST);
			__atomic_store_n(&d.q[0].avail->flags, htole16(!wanted), __ATOMIC_SEQ_CST);
			add_reads(&d, 32, round * 32);
			driver_kick(&d, 0);
			take_reads(&d, 32, round * 32);
			nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
			if (event_idx)
				CHECK_EQ(driver_irqs(&d, 0), wanted || !round);
			else
				CHECK_EQ(driver_irqs(&d, 0) > 0, wanted);
		}
		stop(&d);
	}
}

/* Puts @nr writes of a page there, at sectors from @first on. */
static void add_writes(struct driver *d, unsigned int nr, unsigned int first)
{
	for (unsigned int i = 0; i < nr; i++) {
		struct virtio_blk_outhdr hdr = { htole32(VIRTIO_BLK_T_OUT), 0, htole64(first + i * 8) };

		memcpy(driver_ptr(d, RANGES + i * 16), &hdr, 16);
		fill(d, DATA + i * 4096, 4096, i);
		*driver_ptr(d, STATUS + i) = 0xee;
		driver_add(d, 0, (struct driver_buf[]){ OUT(RANGES + i * 16, 16), OUT(DATA + i * 4096, 4096),
							IN(STATUS + i, 1) }, 3);
	}
}

static void test_depth_writes_and_flush(void)
{
	uint32_t head, used;
	struct driver d;

	make_image(SIZE);
	host.gather = 16;
	CHECK(start(&d, false, false, false, F_WRITE));
	add_writes(&d, 16, 0);
	driver_kick(&d, 0);
	for (unsigned int i = 0; i < 16; i++) {
		CHECK(driver_used(&d, 0, 5000, &head, &used));
		CHECK_EQ(used, 1);
	}
	for (unsigned int i = 0; i < 16; i++) {
		CHECK_EQ(*driver_ptr(&d, STATUS + i), VIRTIO_BLK_S_OK);
		CHECK(file_is(i * 4096, driver_ptr(&d, DATA + i * 4096), 4096));
	}
	host.gather = 0;
	CHECK_EQ(host.syncs, 0);
	CHECK_EQ(request(&d, VIRTIO_BLK_T_FLUSH, 0, 0, 0, false, &used), VIRTIO_BLK_S_OK);
	CHECK_EQ(host.syncs, 1);
	stop(&d);
}

/* Long requests on four queues: more than there are long lists, then more than there are slots. */
static void test_queues(void)
{
	struct driver_buf buf[22];
	uint32_t head, used;
	struct driver d;

	make_image(SIZE);
	queues = 4;
	CHECK(start(&d, false, false, false, F_WRITE | F(VIRTIO_BLK_F_MQ)));
	queues = 1;
	CHECK(driver_offered(&d) & F(VIRTIO_BLK_F_MQ));
	CHECK_EQ(driver_read(&d, VIRTIO_MMIO_CONFIG +
				 (offsetof(struct virtio_blk_config, num_queues) & ~3u)) >>
			 8 * (offsetof(struct virtio_blk_config, num_queues) & 3) & 0xffff, 4);
	driver_irqs(&d, 0);
	for (unsigned int round = 0; round < 2; round++) {
		unsigned int segs = round ? 1 : 20, per = round ? 80 : 11;

		memset(driver_ptr(&d, DATA), 0, 4 * per * segs * 512);
		for (unsigned int n = 0; n < 4 * per; n++) {
			unsigned int i = n % 4;
			struct virtio_blk_outhdr hdr = { 0, 0, htole64(n * segs) };

			memcpy(driver_ptr(&d, RANGES + n * 16), &hdr, 16);
			buf[0] = (struct driver_buf)OUT(RANGES + n * 16, 16);
			for (unsigned int k = 0; k < segs; k++)
				buf[1 + k] = (struct driver_buf)IN(DATA + (n * segs + k) * 512, 512);
			buf[1 + segs] = (struct driver_buf)IN(DATA - 512 + n, 1);
			*driver_ptr(&d, DATA - 512 + n) = 0xee;
			driver_add(&d, i, buf, segs + 2);
		}
		for (unsigned int i = 0; i < 4; i++)
			driver_kick(&d, i);
		for (unsigned int n = 0; n < 4 * per; n++) {
			CHECK(driver_used(&d, n % 4, 5000, &head, &used));
			CHECK_EQ(used, segs * 512 + 1);
		}
		for (unsigned int n = 0; n < 4 * per; n++)
			CHECK_EQ(*driver_ptr(&d, DATA - 512 + n), VIRTIO_BLK_S_OK);
		CHECK(is_pattern(&d, DATA, 0, 4 * per * segs * 512));
		for (unsigned int i = 0; i < 4; i++)
			CHECK(!driver_used(&d, i, 0, &head, &used));
	}
	CHECK(driver_irqs(&d, 0) > 0);
	/* A driver that sets up one of them alone. */
	driver_features(&d, F_WRITE);
	driver_set_queue(&d, 0, 64);
	driver_write(&d, VIRTIO_MMIO_STATUS, driver_read(&d, VIRTIO_MMIO_STATUS) | VIRTIO_CONFIG_S_DRIVER_OK);
	driver_force_kick(&d, 3);
	CHECK_EQ(request(&d, VIRTIO_BLK_T_IN, 7, DATA, 512, true, &used), VIRTIO_BLK_S_OK);
	CHECK(is_pattern(&d, DATA, 7 * 512, 512));
	stop(&d);
}

static void wait_submitted(int nr)
{
	for (int i = 0; i < 2000 && host.submitted < nr; i++)
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	CHECK_EQ(host.submitted, nr);
}

/* No kick is asked for while eight are under way, and a request without one is found; with less there is one, at once. */
static void test_no_kicks_at_depth(void)
{
	const struct timespec soon = { .tv_nsec = 20000000 }; /* the thread sleeps by then */
	struct driver d;

	make_image(SIZE);
	host.gather = 9;
	CHECK(start(&d, false, false, false, F_WRITE));
	add_reads(&d, 7, 100);
	driver_kick(&d, 0);
	wait_submitted(7);
	nanosleep(&soon, NULL);
	CHECK(driver_kicks_wanted(&d, 0));
	add_reads_from(&d, 7, 8, 100);
	driver_kick(&d, 0);
	wait_submitted(8);
	nanosleep(&soon, NULL);
	CHECK(!driver_kicks_wanted(&d, 0));
	add_reads_from(&d, 8, 9, 100); /* the last that is waited for: all are answered */
	take_reads(&d, 9, 100);
	nanosleep(&soon, NULL);
	CHECK(driver_kicks_wanted(&d, 0));
	stop(&d);
}

/* A pause, then a reset, with 32 writes in the host's hands. */
static void test_stops_at_depth(void)
{
	uint8_t *ram = test_malloc(DRIVER_RAM_SIZE);
	uint32_t head, used;
	struct driver d;

	make_image(SIZE);
	CHECK(start(&d, false, false, false, F_WRITE));
	host.delay_ms = 100;
	add_writes(&d, 32, 0);
	driver_kick(&d, 0);
	wait_submitted(32);
	CHECK(!driver_used(&d, 0, 0, &head, &used));
	virtio_mmio_pause(&d.mmio);
	CHECK_EQ(d.dev->vq[0].in_flight, 0);
	for (unsigned int i = 0; i < 32; i++) {
		CHECK(driver_used(&d, 0, 0, &head, &used));
		CHECK_EQ(*driver_ptr(&d, STATUS + i), VIRTIO_BLK_S_OK);
		CHECK(file_is(i * 4096, driver_ptr(&d, DATA + i * 4096), 4096));
	}
	CHECK(driver_irqs(&d, 0) > 0);
	host.submits = 0;
	add_writes(&d, 4, 1000);
	driver_force_kick(&d, 0);
	nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	CHECK_EQ(host.submits, 0);
	virtio_mmio_resume(&d.mmio);
	for (unsigned int i = 0; i < 4; i++)
		CHECK(driver_used(&d, 0, 5000, &head, &used));

	host.submitted = 0;
	add_writes(&d, 32, 2000);
	driver_kick(&d, 0);
	wait_submitted(32);
	driver_reset(&d);
	memcpy(ram, d.ram, DRIVER_RAM_SIZE);
	nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	CHECK(!memcmp(ram, d.ram, DRIVER_RAM_SIZE));
	host.delay_ms = 0;
	CHECK(driver_start(&d, F_WRITE, 256));
	CHECK_EQ(request(&d, VIRTIO_BLK_T_IN, 0, DATA, 512, true, &used), VIRTIO_BLK_S_OK);
	free(ram);
	stop(&d);
}

/* The host's own errors, at depth: those that are hit say so, the others are done. */
static void test_host_errors(void)
{
	struct rlimit old, half = { SIZE / 2, RLIM_INFINITY };
	uint32_t head, used;
	struct driver d;

	make_image(SIZE);
	CHECK(start(&d, false, false, false, F_WRITE));
	CHECK_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
	half.rlim_max = old.rlim_max;
	CHECK_EQ(setrlimit(RLIMIT_FSIZE, &half), 0);
	add_writes(&d, 32, SECTORS / 2 - 16 * 8); /* 16 on either side */
	driver_kick(&d, 0);
	for (unsigned int i = 0; i < 32; i++)
		CHECK(driver_used(&d, 0, 5000, &head, &used));
	CHECK_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
	for (unsigned int i = 0; i < 32; i++)
		CHECK_EQ(*driver_ptr(&d, STATUS + i), i < 16 ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR);
	CHECK(untouched(SIZE / 2, SIZE / 2));

	/* the rest of the image is gone */
	CHECK_EQ(ftruncate(image, SIZE / 2), 0);
	add_reads(&d, 32, SECTORS / 2 - 16);
	driver_kick(&d, 0);
	for (unsigned int i = 0; i < 32; i++)
		CHECK(driver_used(&d, 0, 5000, &head, &used));
	for (unsigned int i = 0; i < 32; i++)
		CHECK_EQ(*driver_ptr(&d, STATUS + i), i < 16 ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR);
	CHECK(!driver_needs_reset(&d));
	CHECK(strstr(log_text(log_fd), "EFBIG"));
	CHECK_EQ(request(&d, VIRTIO_BLK_T_IN, SECTORS - 1, DATA, 512, true, &used), VIRTIO_BLK_S_IOERR);
	CHECK_STR(log_text(log_fd), ""); /* enough was said */
	stop(&d);
	/* of that disk; another is heard */
	make_image(SIZE);
	CHECK(start(&d, false, false, false, F_WRITE));
	host.sync_errno = EIO;
	CHECK_EQ(request(&d, VIRTIO_BLK_T_FLUSH, 0, 0, 0, false, &used), VIRTIO_BLK_S_IOERR);
	CHECK(strstr(log_text(log_fd), "fdatasync at sector 0: EIO: check the disk behind it"));
	stop(&d);
}

/* A host without, or that has no memory for another request. */
static void test_no_ring(void)
{
	struct virtio_dev *dev;
	struct driver d;

	make_image(SIZE);
	host.ring_errno = EPERM;
	CHECK_EQ(open_disk(&dev, false, false, false), -EPERM);
	CHECK(strstr(log_text(log_fd), "kernel.io_uring_disabled"));
	engine = BLK_AUTO;
	CHECK(start(&d, false, false, false, F_WRITE));
	CHECK(strstr(log_text(log_fd), "one request at a time: io_uring: EPERM"));
	add_reads(&d, 32, 9);
	driver_kick(&d, 0);
	take_reads(&d, 32, 9);
	stop(&d);
	CHECK_EQ(host.submits, 0);
	host.ring_errno = 0;
	host.in_memory = 1;
	CHECK(start(&d, false, false, false, F_WRITE));
	add_reads(&d, 2, 9);
	driver_kick(&d, 0);
	take_reads(&d, 2, 9);
	stop(&d);
	CHECK_EQ(host.submits, 0);
	host.in_memory = 0;
	CHECK(start(&d, false, false, false, F_WRITE));
	engine = BLK_URING;
	add_reads(&d, 32, 9);
	driver_kick(&d, 0);
	take_reads(&d, 32, 9);
	CHECK(host.submits > 0);

	host.submit_errno = EAGAIN;
	host.vectors = 0;
	add_reads(&d, 32, 77);
	driver_kick(&d, 0);
	take_reads(&d, 32, 77);
	CHECK_EQ(host.vectors, 32);
	stop(&d);
	CHECK(start(&d, false, false, false, 0));
	add_writes(&d, 8, 0);
	driver_kick(&d, 0);
	for (unsigned int i = 0; i < 8; i++) {
		uint32_t head, used;

		CHECK(driver_used(&d, 0, 5000, &head, &used));
	}
	for (unsigned int i = 0; i < 8; i++)
		CHECK_EQ(*driver_ptr(&d, STATUS + i), VIRTIO_BLK_S_OK);
	CHECK_EQ(host.syncs, 8);
	host.submit_errno = 0;
	stop(&d);
}

static unsigned int resident(uint8_t *p, size_t len)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	unsigned char *vec = test_malloc(len / page);
	unsigned int n = 0;

	CHECK_EQ(mincore(p, len, vec), 0);
	for (size_t i = 0; i < len / page; i++)
		n += vec[i] & 1;
	free(vec);
	return n;
}

/*
 * Guest RAM is not registered, pinned or touched but where requests say so: of much of it that
 * nobody has used, nothing is there after a disk has worked.
 */
static void test_memory(void)
{
	size_t size = 64u << 20, page = (size_t)sysconf(_SC_PAGESIZE);
	unsigned int before, used_pages;
	struct driver d;
	uint8_t *own;

	make_image(SIZE);
	CHECK(start(&d, false, false, false, F_WRITE));
	driver_reset(&d);
	own = d.ram;
	d.ram = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK_EQ(madvise(d.ram, size, MADV_NOHUGEPAGE), 0);
	d.mem.region[0].hva = d.ram;
	d.mem.region[0].size = size;
	CHECK(driver_start(&d, F_WRITE, 256));
	before = resident(d.ram, size);
	CHECK(before > 0 && before <= 32);
	for (unsigned int i = 0; i < 20; i++) {
		add_reads(&d, 32, i * 32);
		driver_kick(&d, 0);
		take_reads(&d, 32, i * 32);
	}
	/* headers, statuses and 32 sectors */
	used_pages = (unsigned int)(32 * 512 / page + 4);
	CHECK(resident(d.ram, size) > before);
	CHECK(resident(d.ram, size) <= before + used_pages);
	driver_reset(&d);
	munmap(d.ram, size);
	d.ram = own;
	d.mem.region[0].hva = own;
	d.mem.region[0].size = DRIVER_RAM_SIZE;
	stop(&d);
}

static void run_all(void)
{
	RUN(test_refused_images);
	RUN(test_lock);
	RUN(test_config);
	RUN(test_read_write);
	RUN(test_framing);
	RUN(test_vectors);
	RUN(test_bounds);
	RUN(test_readonly);
	RUN(test_flush);
	RUN(test_flush_waits);
	RUN(test_get_id);
	RUN(test_unsupported);
	RUN(test_discard);
	RUN(test_write_zeroes);
	RUN(test_range_edges);
	RUN(test_range_limits);
	RUN(test_direct);
	RUN(test_malformed);
	RUN(test_reset_in_flight);
	RUN(test_reset_loop);
	RUN(test_reattach);
	RUN(test_many);
	RUN(test_pause_in_long_request);
	RUN(test_pause_in_zeroes);
	RUN(test_pause_before_many);
	RUN(test_pause_under_load);
	RUN(test_snapshot_under_load);
	RUN(test_snapshot_of_another_disk);
	RUN(test_replace);
	RUN(test_interrupts);
	RUN(test_queues);
	RUN(test_memory);
	if (engine == BLK_URING) {
		RUN(test_depth);
		RUN(test_no_kicks_at_depth);
		RUN(test_depth_writes_and_flush);
		RUN(test_stops_at_depth);
		RUN(test_no_ring);
	}
	RUN(test_host_errors);
	close(image);
}

/* In a process of its own, whose log has said nothing yet. */
static int run_engine(enum blk_engine with, const char *name)
{
	int status = 1;
	pid_t pid;

	printf("-- %s\n", name);
	fflush(stdout);
	engine = with;
	pid = fork();
	if (!pid) {
		run_all();
		exit(TEST_RESULT());
	}
	return waitpid(pid, &status, 0) == pid && !status ? 0 : 1;
}

int main(void)
{
	struct uring probe;
	int ret, failed;

	if (!mkdtemp(dir))
		return 1;
	snprintf(path, sizeof(path), "%s/image", dir);
	log_fd = log_capture();

	failed = run_engine(BLK_SYNC, "plain calls");
	ret = uring_init(&probe, 8);
	if (ret) {
		printf("skip io_uring: this host has none (%s)\n", errno_name(ret));
	} else {
		uring_fini(&probe);
		failed |= run_engine(BLK_URING, "io_uring");
	}
	unlink(path);
	rmdir(dir);
	return failed;
}
