/* SPDX-License-Identifier: MIT */
#include "virtio/passt.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "vm/log.h"

#define HEAD sizeof(uint32_t) /* the length before each frame */

/* A frame in more pieces than sendmsg() is given at once is put together first. */
#define PASST_PIECES 24

/* Reads of one call: frames that are all dropped must not hold the loop. */
#define PASST_READS 8

_Static_assert(PASST_OUT_SIZE == HEAD + PASST_FRAME_MAX, "room for a whole frame");
_Static_assert(PASST_IN_SIZE >= PASST_OUT_SIZE, "room for a whole frame");

static const char *passt_advice(int err)
{
	switch (err) {
	case ENOENT:
	case ECONNREFUSED:
		return ": nobody listens there: start passt (passt --socket PATH) before the guest";
	case EACCES:
	case EPERM:
		return ": this user may not connect to it: see its mode";
	case EAGAIN:
		return ": it takes no more connections";
	case ENAMETOOLONG:
		return ": a socket's path has 107 bytes at most";
	case EPROTOTYPE:
		return ": it is no stream socket";
	default:
		return "";
	}
}

int passt_open(struct passt *p, const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int err = ENAMETOOLONG;

	snprintf(p->path, sizeof(p->path), "%s", path);
	p->in_start = p->in_len = p->out_start = p->out_len = 0;
	p->dropped_in = p->dropped_out = 0;
	p->lost = false;
	p->fd = -1;
	if (strlen(path) < sizeof(addr.sun_path)) {
		strcpy(addr.sun_path, path);
		p->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		if (p->fd >= 0 && !connect(p->fd, (struct sockaddr *)&addr, sizeof(addr)))
			return 0;
		err = errno;
	}
	log_err("net: passt %s: %s%s", path, errno_name(err), passt_advice(err));
	passt_close(p);
	return -err;
}

void passt_close(struct passt *p)
{
	if (p->fd >= 0)
		close(p->fd);
	p->fd = -1;
	p->lost = true;
}

static int passt_lose(struct passt *p, const char *why)
{
	if (!atomic_exchange(&p->lost, true))
		log_err("net: passt %s: EPIPE: %s: no network until the guest is stopped and started",
			p->path, why);
	return -EPIPE;
}

/* What a failed call's errno means. Memory is short for a while only. */
static int passt_failed(struct passt *p)
{
	switch (errno) {
	case EAGAIN:
	case EINTR:
	case ENOBUFS:
	case ENOMEM:
		return -EAGAIN;
	default:
		return passt_lose(p, errno == EPIPE ? "it ended the connection" : errno_name(errno));
	}
}

static size_t iov_length(const struct iovec *iov, unsigned int nr)
{
	size_t len = 0;

	while (nr--)
		len += iov[nr].iov_len;
	return len;
}

/* --- receiving -------------------------------------------------------------------------------- */

/* The length of the frame at in_start when all of it is there; else 0, or -EPIPE. */
static ssize_t passt_whole(struct passt *p)
{
	uint32_t len;

	if (p->in_len < HEAD)
		return 0;
	memcpy(&len, p->in + p->in_start, HEAD);
	len = ntohl(len);
	if (!len || len > PASST_FRAME_MAX)
		return passt_lose(p, "it sent a length that no frame has");
	return p->in_len >= HEAD + len ? (ssize_t)len : 0;
}

/* As many bytes as there are, behind what is there, which is no whole frame. */
static int passt_read(struct passt *p)
{
	unsigned int end;
	ssize_t n;

	/* To the front again when nothing is there, so that few pages are ever touched. */
	if (!p->in_len || p->in_start > PASST_IN_SIZE - PASST_OUT_SIZE) {
		memmove(p->in, p->in + p->in_start, p->in_len);
		p->in_start = 0;
	}
	end = p->in_start + p->in_len;
	/* There is room: recv() into none would look like the end. */
	n = recv(p->fd, p->in + end, PASST_IN_SIZE - end, MSG_DONTWAIT);
	if (n < 0)
		return passt_failed(p);
	if (!n)
		return passt_lose(p, "it ended the connection");
	p->in_len += (unsigned int)n;
	return 0;
}

ssize_t passt_receive(struct passt *p, const struct iovec *iov, unsigned int nr)
{
	size_t room = iov_length(iov, nr), left;
	unsigned int reads = 0;
	const uint8_t *from;
	ssize_t len;
	int r;

	if (p->lost)
		return -EPIPE;
	do {
		while (!(len = passt_whole(p))) {
			r = reads++ < PASST_READS ? passt_read(p) : -EAGAIN;
			if (r)
				return r;
		}
		if (len < 0)
			return len;
		from = p->in + p->in_start + HEAD;
		left = (size_t)len;
		p->in_start += HEAD + (unsigned int)len;
		p->in_len -= HEAD + (unsigned int)len;
		p->dropped_in += left > room;
	} while (left > room);
	for (; left; iov++) {
		size_t n = iov->iov_len < left ? iov->iov_len : left;

		memcpy(iov->iov_base, from, n);
		from += n;
		left -= n;
	}
	return len;
}

/* --- sending ---------------------------------------------------------------------------------- */

int passt_flush(struct passt *p)
{
	ssize_t n;

	if (p->lost)
		return -EPIPE;
	if (!p->out_len)
		return 0;
	n = send(p->fd, p->out + p->out_start, p->out_len, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0)
		return passt_failed(p);
	p->out_start += (unsigned int)n;
	p->out_len -= (unsigned int)n;
	return p->out_len ? -EAGAIN : 0;
}

/* Keeps the frame, in one piece, but for the first @sent bytes of its head and itself. */
static void passt_keep(struct passt *p, uint32_t head, const struct iovec *iov, unsigned int nr,
		       unsigned int sent)
{
	uint8_t *to = p->out + HEAD;

	memcpy(p->out, &head, HEAD);
	for (; nr; nr--, iov++) {
		memcpy(to, iov->iov_base, iov->iov_len);
		to += iov->iov_len;
	}
	p->out_start = sent;
	p->out_len = (unsigned int)(to - p->out) - sent;
}

int passt_send(struct passt *p, const struct iovec *iov, unsigned int nr)
{
	size_t len = iov_length(iov, nr);
	uint32_t head = htonl((uint32_t)len);
	struct iovec piece[1 + PASST_PIECES]; /* of which only those that are used are set */
	struct msghdr msg = { .msg_iov = piece, .msg_iovlen = 1 + nr };
	ssize_t n = 0;
	int r = passt_flush(p);

	if (r)
		return r;
	if (!len || len > PASST_FRAME_MAX) {
		p->dropped_out++;
		return 0;
	}
	if (nr <= PASST_PIECES) {
		piece[0] = (struct iovec){ .iov_base = &head, .iov_len = HEAD };
		memcpy(piece + 1, iov, nr * sizeof(*iov));
		n = sendmsg(p->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0)
			return passt_failed(p);
	}
	/* What has begun has to be ended before anything else is sent: the stream has no marks. */
	if ((size_t)n < HEAD + len)
		passt_keep(p, head, iov, nr, (unsigned int)n);
	if (nr <= PASST_PIECES)
		return 0;
	r = passt_flush(p);
	return r == -EAGAIN ? 0 : r;
}
