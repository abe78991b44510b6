/* SPDX-License-Identifier: MIT */
/*
 * The host's side of a network: a tap interface, opened, made, or made and put into a bridge.
 * Sources: Documentation/networking/tuntap.rst, linux/if_tun.h, rtnetlink(7).
 *
 * A frame on a descriptor has struct virtio_net_hdr_mrg_rxbuf (12 bytes, little-endian) before it,
 * both ways, as VIRTIO 1.2, section 5.1.6 has it. A read takes one frame, or says EAGAIN; it cuts a
 * frame that is longer than the buffers, and returns what it wrote. A write of a frame to an
 * interface that is down fails with EIO.
 *
 * Somebody may delete the interface under our feet (`ip link del`). Whoever waits for EPOLLIN is
 * woken with EPOLLERR, which stays: the descriptor has to leave the epoll set. Who waits for
 * EPOLLOUT alone, or for nothing, is not woken. Reads and writes fail with EBADFD from then on. It
 * is the same for all of its descriptors; there is no way back but tap_open().
 */
#ifndef VIRTIO_TAP_H
#define VIRTIO_TAP_H

#include <stdbool.h>

#define TAP_MAX_QUEUES 4
#define TAP_NAME_SIZE  16 /* IFNAMSIZ, the NUL included */

struct tap {
	char name[TAP_NAME_SIZE]; /* as the kernel has it */
	unsigned int nr;	  /* queue pairs; 0: closed */
	int fd[TAP_MAX_QUEUES];
	unsigned int mtu;     /* as the interface has it: bytes without the Ethernet header */
	unsigned int enabled; /* so many of them, from the first, are attached */
	bool made;	      /* by us: it goes with the last descriptor */
};

/*
 * Opens @nr_queues (1 to TAP_MAX_QUEUES) queue pairs, all enabled, non-blocking and close-on-exec.
 * One of the two names is NULL.
 *
 * @ifname: an interface that is there stays as it is, up or down, in a bridge or not; a missing one
 * is made and set up, which takes CAP_NET_ADMIN, and goes when it is closed. A tap with several
 * queues can be opened with one. Several processes can have queues of such a tap, and the kernel
 * deals the frames out to all of them, without an error: the administrator has to keep them apart.
 * @bridge: makes a tap named vinitN, sets it up, with the bridge's MTU, as a port of that bridge,
 * which must be there.
 *
 * 0 or -errno, and then nothing is left. Logs, with what to check: -ENOENT, -ENODEV: no
 * /dev/net/tun; -ENODEV: no such bridge; -EOPNOTSUPP: no bridge; -EPERM; -EBUSY: another process
 * has it; -EINVAL: it is no tap, or was made for one queue.
 */
int tap_open(struct tap *tap, const char *ifname, const char *bridge, unsigned int nr_queues);

/* The interface's MTU, bytes; takes CAP_NET_ADMIN. 0 or -errno; logs. */
int tap_set_mtu(struct tap *tap, unsigned int mtu);

/*
 * TUN_F_*: what the reader of the descriptors takes from the host unfinished (checksums, segments
 * to be). 0; -EINVAL: the kernel knows one of them not; -EBADFD: the interface is gone. Logs
 * nothing.
 */
int tap_set_offloads(struct tap *tap, unsigned int tun_f);

/*
 * Attaches the first @nr_pairs (1 to nr) queues and detaches the others, so that the host sends to
 * these alone. 0 or -errno, some done; logs nothing.
 */
int tap_enable(struct tap *tap, unsigned int nr_pairs);

/* Closes the descriptors; what tap_open() made is gone then. Again does nothing. */
void tap_close(struct tap *tap);

#endif
