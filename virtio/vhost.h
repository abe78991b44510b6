/* SPDX-License-Identifier: MIT */
/*
 * The kernel's half of a virtio device: /dev/vhost-vsock, /dev/vhost-net. It serves a receive and a
 * transmit queue by itself, reading kicks from an eventfd and writing interrupts to another. Source:
 * Linux include/uapi/linux/vhost.h, drivers/vhost/vhost.c.
 *
 * From vhost_open() to vhost_close() it is started and stopped as often as the guest's driver
 * likes. No locks: the caller's device lock orders the calls.
 */
#ifndef VIRTIO_VHOST_H
#define VIRTIO_VHOST_H

#include <stdbool.h>
#include <stdint.h>
#include "vm/kvm.h" /* for vhost_ioctl() */

struct memory;
struct queue;
struct vhost;

#define VHOST_NR_RINGS 2 /* receive and transmit: other queues are the VMM's */

struct vhost_kind {
	const char *path;    /* of the device's node */
	const char *missing; /* what makes it be there, in words */
	/* Begins or ends the work on rings that the kernel knows. 0 or -errno; logs. */
	int (*run)(struct vhost *vhost, bool on);
};

struct vhost {
	const struct vhost_kind *kind;
	int fd;		   /* -1: closed */
	uint64_t features; /* what the kernel offers, all of it */
	struct queue *queue[VHOST_NR_RINGS]; /* of vhost_start() */
};

struct vhost_ring {
	struct queue *queue; /* active: its host addresses are good; begins at last_avail */
	int kick_fd;	     /* the driver's kicks; stays the caller's */
};

/*
 * Opens the device and makes this process its owner. Guest memory is reached through this process's
 * address space: no fork afterwards. 0 or -errno, with nothing left open: -ENOTSUP for a kernel
 * without VERSION_1, or open()'s. Logs what to do about it.
 */
int vhost_open(struct vhost *vhost, const struct vhost_kind *kind);

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
 * hand; the queues' indices are where it was, for who goes on with them. Should the kernel refuse
 * to stop, the descriptor is closed, which stops it too, at the price of what went with it.
 * Harmless when not started or closed. 0, or -errno when the place is not known: a driver's reset
 * doesn't need it.
 */
int vhost_stop(struct vhost *vhost);

void vhost_close(struct vhost *vhost);

/* An ioctl of this device's: 0 or -errno; logs, rate-limited, with what to check. */
int vhost_ioctl_named(struct vhost *vhost, unsigned long request, const char *name, void *arg);

#define vhost_ioctl(vhost, request, arg)                                                           \
	__extension__({                                                                            \
		KVM_CHECK_SIZE(request, arg);                                                      \
		vhost_ioctl_named(vhost, request, #request, arg);                                  \
	})

#endif
