/* SPDX-License-Identifier: MIT */
/*
 * What the guest's driver sees of virtio-vsock. Source: VIRTIO 1.2, section 5.10.
 *
 * Queues 0 (rx) and 1 (tx) are the kernel's from DRIVER_OK to reset, but for pauses; this process
 * never looks into them. Queue 2 (events) is ours: its buffers wait for the one event there is,
 * which a guest gets when it goes on in another process (5.10.6.7).
 */
#include "vsock/vsock.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h> /* for vm_sockets.h, which needs it in older headers */
#include <unistd.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>
#include <linux/virtio_vsock.h>
#include <linux/vm_sockets.h>

#include "virtio/virtio.h"
#include "virtio/vhost.h"
#include "vm/event.h"
#include "vm/kvm.h"
#include "vm/log.h"

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
	bool started;	  /* under dev.lock, as what follows */
	bool tell_reset;  /* TRANSPORT_RESET is due: the driver's connections are gone */
	struct queue_chain chain;
};

static struct vsock *vsock_of(struct virtio_dev *dev)
{
	return (struct vsock *)((char *)dev - offsetof(struct vsock, dev));
}

static int vsock_run(struct vhost *vhost, bool on)
{
	int running = on;

	return vhost_ioctl(vhost, VHOST_VSOCK_SET_RUNNING, &running);
}

static const struct vhost_kind vsock_kind = {
	.path = "/dev/vhost-vsock",
	.missing = ": load the vhost_vsock module or build the kernel with CONFIG_VHOST_VSOCK",
	.run = vsock_run,
};

/* One descriptor is one CID: a taken one fails now and not when the guest's driver loads. */
static int vsock_open(struct vsock *vsock, uint64_t cid)
{
	int r;

	/* The kernel's own rule, said before it is asked so that the words can name the range. */
	if (cid <= VMADDR_CID_HOST || cid >= VMADDR_CID_ANY) {
		log_err("vsock: EINVAL: CID %llu: a guest's is from 3 to 4294967294",
			(unsigned long long)cid);
		return -EINVAL;
	}
	r = vhost_open(&vsock->vhost, &vsock_kind);
	if (r)
		return r;
	r = kvm_ioctl_quiet(vsock->vhost.fd, VHOST_VSOCK_SET_GUEST_CID, &cid);
	if (r >= 0)
		return 0;
	if (r == -EADDRINUSE)
		log_err("vsock: %s: CID %llu is taken by another guest or is this host's own: "
			"choose another", errno_name(r), (unsigned long long)cid);
	else
		log_err("%s: VHOST_VSOCK_SET_GUEST_CID: %s: CID %llu%s", vsock_kind.path, errno_name(r),
			(unsigned long long)cid,
			r == -EINVAL ? " is one that the kernel keeps for itself: choose another" : "");
	vhost_close(&vsock->vhost);
	return r;
}

static bool vsock_drain_err(struct vsock *vsock)
{
	uint64_t count;

	return read(vsock->err.fd, &count, sizeof(count)) == sizeof(count);
}

/* Where the kernel was in the rings stays there, for a start that goes on. */
static int vsock_stop(struct vsock *vsock)
{
	int r;

	if (!vsock->started)
		return 0;
	r = vhost_stop(&vsock->vhost);
	event_del(vsock->dev.loop, &vsock->err);
	vsock->started = false;
	return r;
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

/* From last_avail of each ring on, which is 0 at DRIVER_OK. */
static int vsock_start(struct vsock *vsock)
{
	struct virtio_dev *dev = &vsock->dev;
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

static int vsock_activate(struct virtio_dev *dev)
{
	return vsock_start(vsock_of(dev));
}

/*
 * The CID and the descriptor stay. So do, on the host's side, connections to the guest that
 * was: the kernel has no request that ends them, and the next guest's driver answers their
 * packets with RST.
 */
static void vsock_reset(struct virtio_dev *dev)
{
	struct vsock *vsock = vsock_of(dev);

	vsock_stop(vsock);
	vsock->tell_reset = false;
}

/* The event that is due, if there is a buffer for it; else a kick comes when there is. */
static int vsock_tell_reset(struct vsock *vsock)
{
	const struct virtio_vsock_event event = { .id = htole32(VIRTIO_VSOCK_EVENT_TRANSPORT_RESET) };
	struct queue *q = &vsock->dev.vq[VSOCK_EVENT];
	int ret;

	if (!vsock->tell_reset)
		return 0;
	ret = queue_pop(q, &vsock->chain);
	if (!ret) {
		if (queue_enable_kicks(q))
			virtio_kick(&vsock->dev, VSOCK_EVENT);
		return 0;
	}
	vsock->tell_reset = false;
	if (ret < 0 || queue_chain_write(&vsock->chain, 0, &event, sizeof(event)) != sizeof(event))
		return -EIO;
	queue_push(q, vsock->chain.head, sizeof(event));
	virtio_signal(&vsock->dev, VSOCK_EVENT);
	return 0;
}

/* Only the event queue's kicks come here. Its buffers stay where they are, but for one event. */
static void vsock_kick(struct virtio_dev *dev, unsigned int q)
{
	struct vsock *vsock = vsock_of(dev);

	(void)q;
	if (vsock_tell_reset(vsock)) {
		vsock_stop(vsock);
		virtio_broken(dev, "malformed event queue");
	}
}

static void vsock_pause(struct virtio_dev *dev)
{
	struct vsock *vsock = vsock_of(dev);
	bool was = vsock->started;

	if (vsock_stop(vsock))
		virtio_broken(dev, "vhost does not say where it stopped");
	else if (was && vsock_drain_err(vsock)) /* the loop did not come to it */
		virtio_broken(dev, "vhost found the rx or tx ring malformed");
}

/* Connections that the host no longer has end before the kernel serves new ones. */
static int vsock_resume(struct virtio_dev *dev)
{
	struct vsock *vsock = vsock_of(dev);
	int ret = vsock_tell_reset(vsock);

	return ret ? ret : vsock_start(vsock);
}

static void vsock_save(struct virtio_dev *dev, struct state_writer *w)
{
	/* The host's end of a connection can't be saved, and the rest is in the rings. */
}

/* dev->config has this device's CID, not that of the guest that was saved. */
static void vsock_load(struct virtio_dev *dev, struct state_section *s)
{
	vsock_of(dev)->tell_reset = dev->active;
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
	.pause = vsock_pause,
	.resume = vsock_resume,
	.save = vsock_save,
	.load = vsock_load,
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

	r = vsock_open(vsock, cid);
	if (r)
		goto close_err;

	virtio_dev_init(&vsock->dev, &vsock_ops, VIRTIO_ID_VSOCK, VSOCK_NR_QUEUES);
	vsock->dev.features = vsock->vhost.features & VSOCK_FEATURES;
	vsock->dev.vhost = true;
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
