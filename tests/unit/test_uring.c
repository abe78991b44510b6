/* SPDX-License-Identifier: MIT */
/* The ring alone, over real files and the real kernel; skipped where there is none. */
#include "vm/uring.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>
#include "tests/unit/test.h"
#include "vm/log.h"

#define ENTRIES 8

static void put(struct uring *r, uint8_t opcode, int fd, struct iovec *iov, uint64_t pos, uint64_t user_data)
{
	struct io_uring_sqe *sqe = uring_sqe(r);

	/* what the last user left there is gone */
	CHECK_EQ(sqe->flags | sqe->rw_flags | sqe->len | sqe->buf_index, 0);
	sqe->opcode = opcode;
	sqe->fd = fd < 0 ? 0 : fd;
	sqe->flags = fd < 0 ? IOSQE_FIXED_FILE : 0;
	sqe->addr = (uintptr_t)iov;
	sqe->len = iov ? 1 : 0;
	sqe->off = pos;
	sqe->user_data = user_data;
}

/* Takes one, by sleeping in poll() as its users do. */
static int take(struct uring *r, uint64_t *user_data)
{
	struct pollfd pfd = { .fd = r->fd, .events = POLLIN };
	int32_t res = -ETIME;

	for (int i = 0; i < 5 && !uring_take(r, user_data, &res); i++)
		poll(&pfd, 1, 1000);
	return res;
}

static int new_file(void)
{
	char name[] = "/tmp/test_uring.XXXXXX";
	int fd = mkostemp(name, O_CLOEXEC);

	unlink(name);
	return fd;
}

static void test_read_write(void)
{
	char out[4096], in[4096] = "";
	struct iovec from = { out, sizeof(out) }, to = { in, sizeof(in) };
	int fd = new_file();
	struct uring r;
	uint64_t who;

	memset(out, 0x5a, sizeof(out));
	CHECK_EQ(uring_init(&r, ENTRIES), 0);
	CHECK_EQ(uring_file(&r, fd), 0);
	CHECK(!uring_filled(&r));
	CHECK(!uring_take_back(&r, &who));
	/* more often than the ring is long, both ways to name the file */
	for (unsigned int i = 0; i < 5 * ENTRIES; i++) {
		memset(out, (int)i, sizeof(out));
		put(&r, IORING_OP_WRITEV, i % 2 ? -1 : fd, &from, i * 4096, i);
		CHECK(uring_filled(&r));
		CHECK_EQ(uring_submit(&r), 0);
		CHECK(!uring_filled(&r));
		CHECK_EQ(take(&r, &who), 4096);
		CHECK_EQ(who, i);
		put(&r, IORING_OP_READV, i % 2 ? fd : -1, &to, i * 4096, 1000 + i);
		CHECK_EQ(uring_submit(&r), 0);
		CHECK_EQ(take(&r, &who), 4096);
		CHECK_EQ(who, 1000 + i);
		CHECK(!memcmp(in, out, sizeof(in)));
	}
	put(&r, IORING_OP_READV, fd, &to, 1 << 30, 7);
	CHECK_EQ(uring_submit(&r), 0);
	CHECK_EQ(take(&r, &who), 0);
	uring_fini(&r);
	CHECK_EQ(r.fd, -1);
	uring_fini(&r);
	close(fd);
}

/* A whole ring in one call, one of them refused; each comes back once. */
static void test_batch(void)
{
	char buf[ENTRIES][512];
	struct iovec iov[ENTRIES];
	unsigned int seen = 0;
	int fd = new_file();
	struct uring r;
	uint64_t who;

	CHECK_EQ(uring_init(&r, ENTRIES), 0);
	CHECK_EQ(ftruncate(fd, 512 * ENTRIES), 0);
	for (unsigned int round = 0; round < 3; round++, seen = 0) {
		for (unsigned int i = 0; i < ENTRIES; i++) {
			iov[i] = (struct iovec){ buf[i], 512 };
			put(&r, i == 2 ? 250 : IORING_OP_READV, fd, &iov[i], i * 512, i);
		}
		CHECK_EQ(uring_submit(&r), 0);
		for (unsigned int i = 0; i < ENTRIES; i++) {
			int res = take(&r, &who);

			CHECK(who < ENTRIES && !(seen >> who & 1));
			CHECK_EQ(res, who == 2 ? -EINVAL : 512);
			seen |= 1u << who;
		}
		CHECK_EQ(seen, (1u << ENTRIES) - 1);
	}
	uring_fini(&r);
	close(fd);
}

/* What the kernel would not take is given back, the newest first, and the ring goes on. */
static void test_take_back(void)
{
	struct uring r;
	uint64_t who;
	int fd;

	CHECK_EQ(uring_init(&r, ENTRIES), 0);
	fd = r.fd;
	for (unsigned int i = 0; i < 3; i++)
		put(&r, IORING_OP_NOP, 0, NULL, 0, i);
	r.fd = -1;
	CHECK_EQ(uring_submit(&r), -EBADF);
	r.fd = fd;
	CHECK(uring_take_back(&r, &who) && who == 2);
	CHECK(uring_take_back(&r, &who) && who == 1);
	put(&r, IORING_OP_NOP, 0, NULL, 0, 9);
	CHECK_EQ(uring_submit(&r), 0);
	CHECK_EQ(take(&r, &who), 0);
	CHECK_EQ(who, 0);
	CHECK_EQ(take(&r, &who), 0);
	CHECK_EQ(who, 9);
	uring_fini(&r);
}

static int lock(int fd)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	return fcntl(fd, F_OFD_SETLK, &lock) ? -errno : 0;
}

/* The lock of a file goes with its last descriptor. */
static bool free_soon(int fd)
{
	for (int i = 0; i < 2000 && lock(fd); i++)
		usleep(1000);
	return !lock(fd);
}

/* When it is told to, and at its end, the ring lets go of the file. */
static void test_lets_go(void)
{
	char name[] = "/tmp/test_uring.XXXXXX";
	int fd = mkostemp(name, O_CLOEXEC), other, second = new_file();
	struct uring r;

	for (unsigned int i = 0; i < 20; i++) {
		CHECK_EQ(uring_init(&r, ENTRIES), 0);
		CHECK_EQ(uring_file(&r, fd), 0);
		CHECK_EQ(lock(fd), 0);
		close(fd);
		other = open(name, O_RDWR | O_CLOEXEC);
		CHECK_EQ(lock(other), -EAGAIN);
		if (i % 2)
			CHECK_EQ(uring_file(&r, second), 0);
		else
			uring_fini(&r);
		CHECK(free_soon(other));
		if (i % 2)
			uring_fini(&r);
		close(other);
		fd = open(name, O_RDWR | O_CLOEXEC);
	}
	CHECK_EQ(uring_init(&r, ENTRIES), 0);
	CHECK_EQ(uring_file(&r, 9999), -EBADF);
	uring_fini(&r);
	close(fd);
	close(second);
	unlink(name);
}

int main(void)
{
	struct uring r;
	int ret = uring_init(&r, ENTRIES);

	if (ret) {
		printf("skip io_uring: this host has none (%s)\n", errno_name(ret));
		return 0;
	}
	uring_fini(&r);
	RUN(test_read_write);
	RUN(test_batch);
	RUN(test_take_back);
	RUN(test_lets_go);
	return TEST_RESULT();
}
