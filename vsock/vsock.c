/* SPDX-License-Identifier: MIT */
/*
 * What the guest's driver sees of virtio-vsock. Source: VIRTIO 1.2, section 5.10.
 *
 * Queues 0 (rx) and 1 (tx) are the kernel's from DRIVER_OK to reset; this process never looks
 * into them. Queue 2 (events) is ours: its buffers wait for an event, and there is nothing to
 * do when the driver adds one.
 */
#include "vsock/vsock.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>
#include <linux/virtio_vsock.h>

#include "virtio/virtio.h"
#include "vm/event.h"
#include "vm/log.h"
#include "vsock/vhost.h"

enum { VSOCK_RX, VSOCK_TX, VSOCK_EVENT, VSOCK_NR_QUEUES };

/*
 * All that is ever offered, if the kernel has it. A list of what is wanted, since vhost also
 * offers what must not reach a guest: LOG_ALL (needs a log that nobody gave), ACCESS_PLATFORM
 * (turns on an IOTLB that nobody fills), NOTIFY_ON_EMPTY (legacy), and whatever later kernels
 * add. The ring features hold for the event queue as well, and queue.c has both.
 */
#define VSOCK_FEATURES                                                                             \
	(1ULL << VIRTIO_VSOCK_F_SEQPACKET | 1ULL << VIRTIO_RING_F_INDIRECT_DESC |                  \
	 1ULL << VIRTIO_RING_F_EVENT_IDX)

struct vsock {
	struct virtio_dev dev;
	struct vhost vhost;
	struct event err; /* vhost writes to it when it finds a ring malformed */
	bool started;	  /* under dev.lock */
};

static struct vsock *vsock_of(struct virtio_dev *dev)
{
	return (struct vsock *)((char *)dev - offsetof(struct vsock, dev));
}

static bool vsock_drain_err(struct vsock *vsock)
{
	uint64_t count;

	return read(vsock->err.fd, &count, sizeof(count)) == sizeof(count);
}

static void vsock_stop(struct vsock *vsock)
{
	if (!vsock->started)
		return;
	vhost_stop(&vsock->vhost);
	event_del(vsock->dev.loop, &vsock->err);
	vsock->started = false;
}

/*
 * The kernel would try a malformed ring again at every kick, so the device is stopped here. May
 * run once more after event_del(), even after the next DRIVER_OK: only a count that is really
 * there, in a device that is started, is an error (vsock_activate() drains what came before).
 */
static void vsock_ring_error(struct event *ev, uint32_t events)
{
	struct vsock *vsock = ev->opaque;

	(void)events;
	pthread_mutex_lock(&vsock->dev.lock);
	if (vsock->started && vsock_drain_err(vsock)) {
		vsock_stop(vsock);
		virtio_broken(&vsock->dev, "vhost found the rx or tx ring malformed");
	}
	pthread_mutex_unlock(&vsock->dev.lock);
}

static int vsock_activate(struct virtio_dev *dev)
{
	struct vsock *vsock = vsock_of(dev);
	struct vhost_ring ring[VHOST_NR_RINGS];
	uint64_t features = dev->acked & vsock->vhost.features &
			    (VSOCK_FEATURES | 1ULL << VIRTIO_F_VERSION_1);
	int r;

	for (unsigned int i = 0; i < VHOST_NR_RINGS; i++) {
		if (!dev->vq[i].active) {
			log_limited(LOG_WARN, "vsock: the driver did not set up its %s queue",
				    i == VSOCK_RX ? "rx" : "tx");
			return -EINVAL;
		}
		ring[i].queue = &dev->vq[i];
		ring[i].kick_fd = virtio_kick_fd(dev, i);
	}

	vsock_drain_err(vsock); /* what is left of the last driver's */
	r = event_add(dev->loop, &vsock->err, EPOLLIN);
	if (r) {
		log_limited(LOG_ERROR, "vsock: epoll_ctl: %s: check fs.epoll.max_user_watches",
			    errno_name(r));
		return r;
	}
	r = vhost_start(&vsock->vhost, features, dev->mem, ring, virtio_call_fd(dev),
			vsock->err.fd);
	if (r) {
		event_del(dev->loop, &vsock->err);
		return r;
	}
	vsock->started = true;
	return 0;
}

/*
 * The CID and the descriptor stay. So do, on the host's side, connections to the guest that
 * was: the kernel has no request that ends them, and the next guest's driver answers their
 * packets with RST.
 */
static void vsock_reset(struct virtio_dev *dev)
{
	vsock_stop(vsock_of(dev));
}

/* Only the event queue's kicks come here, and its buffers are left where they are. */
static void vsock_kick(struct virtio_dev *dev, unsigned int q)
{
	(void)dev;
	(void)q;
}

static void vsock_destroy(struct virtio_dev *dev)
{
	struct vsock *vsock = vsock_of(dev);

	vhost_close(&vsock->vhost);
	close(vsock->err.fd);
	virtio_dev_fini(dev);
	free(vsock);
}

static const struct virtio_ops vsock_ops = {
	.name = "virtio-vsock",
	.activate = vsock_activate,
	.reset = vsock_reset,
	.kick = vsock_kick,
	.destroy = vsock_destroy,
};

int vsock_create(struct virtio_dev **dev, uint64_t cid)
{
	struct vsock *vsock = calloc(1, sizeof(*vsock));
	int r;

	if (!vsock) {
		log_err("vsock: ENOMEM: the host is out of memory");
		return -ENOMEM;
	}

	vsock->err.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (vsock->err.fd < 0) {
		r = -errno;
		log_err("vsock: eventfd: %s: check the limit of open files", errno_name(r));
		goto free_vsock;
	}
	vsock->err.fn = vsock_ring_error;
	vsock->err.opaque = vsock;

	r = vhost_open(&vsock->vhost, cid);
	if (r)
		goto close_err;

	virtio_dev_init(&vsock->dev, &vsock_ops, VIRTIO_ID_VSOCK, VSOCK_NR_QUEUES);
	vsock->dev.features = vsock->vhost.features & VSOCK_FEATURES;
	vsock->dev.no_ring_features = true;
	vsock->dev.own_kicks = 1U << VSOCK_RX | 1U << VSOCK_TX;
	vsock->dev.config_len = sizeof(struct virtio_vsock_config);
	for (unsigned int i = 0; i < sizeof(cid); i++)
		vsock->dev.config[i] = (uint8_t)(cid >> 8 * i); /* guest_cid is little-endian */

	*dev = &vsock->dev;
	return 0;

close_err:
	close(vsock->err.fd);
free_vsock:
	free(vsock);
	return r;
}
