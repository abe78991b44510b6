/* SPDX-License-Identifier: MIT */
/*
 * The kernel's half of virtio-vsock: /dev/vhost-vsock. It serves the receive and the transmit
 * queue by itself, reading kicks from an eventfd and writing interrupts to another. Source:
 * Linux include/uapi/linux/vhost.h, drivers/vhost/vsock.c.
 *
 * One file descriptor is one CID, from vhost_open() to vhost_close(); between the two it is
 * started and stopped as often as the guest's driver likes. No locks: the caller's device lock
 * orders the calls.
 */
#ifndef VSOCK_VHOST_H
#define VSOCK_VHOST_H

#include <stdint.h>

struct memory;
struct queue;

#define VHOST_NR_RINGS 2 /* the kernel serves rx and tx; the event queue is the VMM's */

struct vhost {
	int fd;		   /* -1: closed */
	uint64_t features; /* what the kernel offers, all of it */
};

struct vhost_ring {
	const struct queue *queue; /* active: its host addresses are good; begins at last_avail */
	int kick_fd;		   /* the driver's kicks; stays the caller's */
};

/*
 * Opens the device, makes this process its owner and claims @cid, so that a taken CID fails now
 * and not when the guest's driver loads. Guest memory is reached through this process's address
 * space: no fork afterwards. 0 or -errno, with nothing left open: -EINVAL for a reserved CID,
 * -EADDRINUSE for a taken one, -ENOTSUP for a kernel without VERSION_1, or open()'s. Logs what
 * to do about it.
 */
int vhost_open(struct vhost *vhost, uint64_t cid);

/*
 * Hands RAM and both rings to the kernel and starts it. @features: what the driver
 * acknowledged, no bit that the kernel didn't offer. @call_fd: written to interrupt the driver.
 * @err_fd: written when a ring turns out to be malformed; the kernel goes on trying at every kick.
 * 0 or -errno; undoes itself; logs, rate-limited.
 */
int vhost_start(struct vhost *vhost, uint64_t features, const struct memory *mem,
		const struct vhost_ring ring[VHOST_NR_RINGS], int call_fd, int err_fd);

/*
 * When it returns the kernel touches neither guest memory nor the eventfds, and has no chain in
 * hand; @base[] are the places in the available rings where it was. Should the kernel refuse to
 * stop, the descriptor is closed, which stops it too, at the price of the CID. Harmless when not
 * started or closed. 0, or -errno when @base is not known: a driver's reset doesn't need it.
 */
int vhost_stop(struct vhost *vhost, uint16_t base[VHOST_NR_RINGS]);

/* Gives the CID back. The kernel resets the host's connections to it. */
void vhost_close(struct vhost *vhost);

#endif
