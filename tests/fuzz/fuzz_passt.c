/* SPDX-License-Identifier: MIT */
/*
 * passt_receive() on a stream of frames and of what is none. Three bytes make a piece of the
 * stream: a frame, a head alone, or bytes that are in nobody's order; the first two say in which
 * portions it comes, and what room there is for a frame. What comes out is what a plain look at
 * the whole stream finds, whatever the portions, and at the end the stream is lost.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>
#include "virtio/passt.h"
#include "vm/log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(cond)                                                                                 \
	do {                                                                                       \
		if (!(cond))                                                                       \
			abort();                                                                   \
	} while (0)

#define STREAM_MAX (256u << 10)

static uint8_t stream[STREAM_MAX + PASST_OUT_SIZE];
static uint8_t room[PASST_FRAME_MAX];
static struct passt *p;

static size_t make_stream(const uint8_t *data, size_t size)
{
	size_t end = 0;

	for (; size >= 3 && end < STREAM_MAX; data += 3, size -= 3) {
		uint32_t value = data[1] | (uint32_t)data[2] << 8, head;

		switch (data[0] & 3) {
		case 0: /* a short frame */
			value &= 0x7ff;
			/* fall through */
		case 1: /* one of any length, 0 included */
			head = htonl(value);
			memcpy(stream + end, &head, 4);
			memset(stream + end + 4, (int)end, value);
			end += 4 + value;
			break;
		case 2: /* a head that may be anything's, one about the limit included */
			head = htonl(data[0] & 4 ? value << 16 : PASST_FRAME_MAX - 8 + (value & 15));
			memcpy(stream + end, &head, 4);
			end += 4;
			break;
		case 3:
			memset(stream + end, data[2], data[1]);
			end += data[1];
			break;
		}
	}
	return end;
}

/* The next frame that fits into @len bytes, of the first @end bytes: as passt_receive() has it. */
static ssize_t look(size_t *at, size_t end, size_t len)
{
	uint32_t n;

	while (*at + 4 <= end) {
		memcpy(&n, stream + *at, 4);
		n = ntohl(n);
		if (!n || n > PASST_FRAME_MAX)
			return -EPIPE;
		if (*at + 4 + n > end)
			break;
		*at += 4 + n;
		if (n <= len)
			return (ssize_t)n;
	}
	return -EAGAIN;
}

/* Takes frames until there is none. False: the stream is lost. */
static bool take(size_t *at, size_t end, const struct iovec iov[2])
{
	/* A call that drops much may end before its time, never for good. */
	for (unsigned int idle = 0; idle < 32;) {
		size_t before = *at;
		ssize_t want = look(at, end, iov[0].iov_len + iov[1].iov_len);
		ssize_t got = passt_receive(p, iov, 2);

		while (got == -EAGAIN && want != -EAGAIN && idle++ < 32)
			got = passt_receive(p, iov, 2);
		MUST(got == want);
		if (got == -EPIPE)
			return false;
		if (got == -EAGAIN && *at == before)
			return true;
		if (got > 0)
			MUST(!memcmp(room, stream + *at - got, (size_t)got));
	}
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t end, sent = 0, at = 0, portion, len;
	bool good = true;
	int sv[2], space = 2 << 20;

	if (!p) {
		p = malloc(sizeof(*p));
		log_set_level(LOG_ERROR - 1);
	}
	if (size < 2)
		return 0;
	portion = 1 + ((size_t)data[0] << (data[0] & 7));
	len = data[1] & 1 ? sizeof(room) : 1 + data[1] * 8u;
	const struct iovec iov[2] = { { room, len / 3 }, { room + len / 3, len - len / 3 } };

	end = make_stream(data + 2, size - 2);
	portion += end / 256; /* so many system calls are enough */
	MUST(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sv));
	setsockopt(sv[1], SOL_SOCKET, SO_SNDBUF, &space, sizeof(space));
	memset(p, 0, offsetof(struct passt, in));
	p->fd = sv[0];
	while (good && sent < end) {
		ssize_t n = send(sv[1], stream + sent, portion < end - sent ? portion : end - sent,
				 MSG_NOSIGNAL);

		MUST(n > 0 || errno == EAGAIN);
		sent += n > 0 ? (size_t)n : 0;
		good = take(&at, sent, iov);
		MUST(p->in_start + p->in_len <= PASST_IN_SIZE);
	}
	close(sv[1]);
	for (int i = 0; i < 32 && passt_receive(p, iov, 2) == -EAGAIN; i++)
		;
	MUST(p->lost && passt_receive(p, iov, 2) == -EPIPE);
	MUST(passt_flush(p) == -EPIPE);
	passt_close(p);
	return 0;
}
