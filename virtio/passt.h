/* SPDX-License-Identifier: MIT */
/*
 * Frames over a Unix stream socket: 4 bytes of length, big-endian, then the Ethernet frame, no
 * virtio header. It is what passt speaks, and QEMU's "-netdev stream": a network without
 * privileges. Source: passt(1), QEMU's net/stream.c.
 *
 * Non-blocking, for an event loop that is level-triggered. One thread at a time, or a lock, for
 * each direction: receiving and sending share nothing but lost.
 */
#ifndef VIRTIO_PASST_H
#define VIRTIO_PASST_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct iovec;

#define PASST_FRAME_MAX (65535 + 14 + 4) /* the largest IP packet, Ethernet header, VLAN tag */
#define PASST_IN_SIZE	(96 << 10)
#define PASST_OUT_SIZE	(PASST_FRAME_MAX + 4)

/* Allocated by the device, once, and not to be cleared: the buffers are touched as they fill. */
struct passt {
	int fd;		  /* for epoll */
	atomic_bool lost; /* the stream is of no use any more; all calls return -EPIPE */
	unsigned int in_start, in_len;	 /* of in[]: received, not taken */
	unsigned int out_start, out_len; /* of out[]: taken, not sent */
	char path[108];	      /* the socket's, as in sockaddr_un */
	uint64_t dropped_in;  /* frames that were longer than the buffers */
	uint64_t dropped_out; /* frames that can't be sent: empty, or over PASST_FRAME_MAX */
	uint8_t in[PASST_IN_SIZE];
	uint8_t out[PASST_OUT_SIZE]; /* the rest of one frame */
};

/* Connects to the socket at @path. 0 or -errno; logs, with what to check. */
int passt_open(struct passt *p, const char *path);

/*
 * The next whole frame, copied to the iovecs; its length. A longer one than they have room for is
 * dropped. -EAGAIN: none yet; wait for EPOLLIN. -EPIPE: the peer has gone, or has sent a length
 * that can't be (0, over PASST_FRAME_MAX): the stream is lost, which is logged once. The descriptor
 * has to leave the epoll set then.
 *
 * Frames wait in here that epoll knows nothing of: who stops before -EAGAIN has to come back by
 * itself.
 */
ssize_t passt_receive(struct passt *p, const struct iovec *iov, unsigned int nr);

/*
 * Sends a frame. 0: taken, and what the socket has no room for is kept in here. -EAGAIN: not taken,
 * since there is no room, or something is kept: wait for EPOLLOUT, then passt_flush(), then again.
 * A frame that can't be is dropped, and taken. -EPIPE: as above.
 */
int passt_send(struct passt *p, const struct iovec *iov, unsigned int nr);

/* 0 when nothing is kept (any more), -EAGAIN, -EPIPE. */
int passt_flush(struct passt *p);

void passt_close(struct passt *p);

#endif
