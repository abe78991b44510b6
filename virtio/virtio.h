/* SPDX-License-Identifier: MIT */
/*
 * What a virtio device is to its transport, and the transport to a device.
 *
 * A device embeds struct virtio_dev and fills in ops, id, features, config and queue count; it
 * knows neither the transport nor the VM. It lives as long as the host's resources behind it
 * (across resets of the guest); a transport is attached to it each time a machine is built.
 *
 * Locks: dev->lock guards the register file's compound state, the device's state and the queues
 * that the event loop serves. It is taken by the transport on a vCPU thread and by the event loop
 * before ops are called, so every op runs with it held. A queue that a thread of the device or the
 * kernel serves (own_kicks) is that thread's alone from activate or resume to reset or pause; such
 * a thread must not take dev->lock, since both wait for it with the lock held. virtio_signal() and
 * virtio_broken() take no lock. A reset may follow a pause, and a resume a load without activate.
 */
#ifndef VIRTIO_VIRTIO_H
#define VIRTIO_VIRTIO_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "virtio/queue.h"

struct event_loop;
struct memory;
struct state_section;
struct state_writer;
struct virtio_dev;
struct virtio_mmio;

#define VIRTIO_MAX_QUEUES 9 /* four pairs of a network interface, and its control queue */
#define VIRTIO_MAX_CONFIG 256

/* All but config_write, queue_reset, pause, resume, save and load must be there. */
struct virtio_ops {
	const char *name; /* "virtio-blk" */

	/*
	 * DRIVER_OK: dev->acked is set, all ready queues are validated and active. 0 or -errno: the
	 * device then NEEDS_RESET, and reset is called at once. Each active queue gets a first kick
	 * afterwards, for what the driver put there before.
	 */
	int (*activate)(struct virtio_dev *dev);

	/*
	 * When it returns nothing of the device or behind it touches guest memory any more. Also
	 * called when never activated. What the driver changed in dev->config is put back here, by
	 * plain stores: the transport shows it afterwards, with no interrupt.
	 */
	void (*reset)(struct virtio_dev *dev);

	/*
	 * The driver kicked queue @q, which is active, of a device that is, and does not
	 * NEED_RESET. Event-loop thread, which all devices of the guest share: bounded work (about
	 * a millisecond), then virtio_kick() for the rest.
	 */
	void (*kick)(struct virtio_dev *dev, unsigned int q);

	/*
	 * The driver wrote to the config space, within its length; dev->config is not changed by
	 * the transport, which shows the driver what this leaves there. May be NULL.
	 */
	void (*config_write)(struct virtio_dev *dev, unsigned int offset, const uint8_t *data,
			     unsigned int len);

	/*
	 * QueueReset of one queue: as reset, for it alone. When the driver sets it up again, it is
	 * active and gets a kick, nothing else. NULL: RING_RESET is not offered.
	 */
	void (*queue_reset)(struct virtio_dev *dev, unsigned int q);

	/*
	 * Of an active device: when it returns nothing of the device or behind it touches guest
	 * memory, and no request is half-way: what was popped is pushed, or given back with
	 * queue_unpop(). dev->paused is set, and keeps kicks away; a device that takes other events
	 * (input) looks at it. NULL: there is nothing but kicks. vCPUs are paused.
	 */
	void (*pause)(struct virtio_dev *dev);

	/*
	 * Undoes pause, or takes up work after load; dev->paused is clear. Each active queue gets a
	 * kick afterwards. 0 or -errno: the device then NEEDS_RESET. NULL: nothing to do.
	 */
	int (*resume)(struct virtio_dev *dev);

	/*
	 * What only the device knows, behind what the transport saves (registers, config, queues);
	 * the device is paused, or not active. load gets the same back on a device of the same kind
	 * to which nothing has happened but that transport and queues have their state, active ones
	 * validated (vq[].active) and dev->active as it was. It starts nothing: resume does. A value that
	 * cannot be: state_reader_bad(). Both or none. dev->config is that of the new device; if its
	 * bytes are others than the saved ones, the driver is told at resume.
	 */
	void (*save)(struct virtio_dev *dev, struct state_writer *w);
	void (*load)(struct virtio_dev *dev, struct state_section *s);

	/* Frees the device and its host resources. No transport is attached any more. */
	void (*destroy)(struct virtio_dev *dev);
};

struct virtio_dev {
	const struct virtio_ops *ops;
	uint32_t id;	   /* VIRTIO_ID_* */
	/* Offered, without the transport's own, which it adds: VERSION_1, INDIRECT_DESC, EVENT_IDX. */
	uint64_t features;
	unsigned int nr_queues;
	uint16_t queue_max[VIRTIO_MAX_QUEUES]; /* QueueNumMax; 0 means QUEUE_MAX_SIZE */
	uint32_t own_kicks; /* bit q: the device itself (a thread, vhost) reads queue q's kick eventfd */
	/*
	 * Features that are not offered, since the host lacks what they need, but do no harm to a
	 * driver that acknowledged them elsewhere and comes in a snapshot.
	 */
	uint64_t compatible;
	bool vhost; /* the kernel keeps a table of RAM for it (vm/region.h: MEMORY_VHOST_REGIONS) */
	bool no_ring_features; /* INDIRECT_DESC and EVENT_IDX only as in features (vhost says what it can) */
	uint8_t config[VIRTIO_MAX_CONFIG];
	unsigned int config_len;

	/* The transport's side, valid while attached. */
	pthread_mutex_t lock;
	struct virtio_mmio *mmio;
	struct memory *mem;
	struct event_loop *loop;
	uint64_t acked;
	bool active;
	bool paused; /* from virtio_mmio_pause() to virtio_mmio_resume() */
	struct queue vq[VIRTIO_MAX_QUEUES];
};

/*
 * Sets what is given, the lock and the transport's side. @dev was zeroed, and the device sets the
 * rest (features, config, queue_max, own_kicks) before or after, but before a transport is
 * attached.
 */
void virtio_dev_init(struct virtio_dev *dev, const struct virtio_ops *ops, uint32_t id,
		     unsigned int nr_queues);
void virtio_dev_fini(struct virtio_dev *dev);

static inline bool virtio_acked(const struct virtio_dev *dev, unsigned int bit)
{
	return dev->acked >> bit & 1;
}

/* Used buffers are there: interrupts the driver if the queue wants it. By the queue's user. */
void virtio_signal(struct virtio_dev *dev, unsigned int q);

/* The same for a bit mask of queues: one interrupt for all of them, since they share the line. */
void virtio_signal_queues(struct virtio_dev *dev, uint32_t queues);

/*
 * Replaces config bytes as one change: ConfigGeneration moves once, the driver gets a
 * configuration-change interrupt when it runs. dev->lock held.
 */
void virtio_config_change(struct virtio_dev *dev, unsigned int offset, const void *data,
			  unsigned int len);

/*
 * The driver broke the rules: DEVICE_NEEDS_RESET, a configuration-change interrupt, once. @why is
 * logged behind the device's name, rate-limited. Any thread.
 */
void virtio_broken(struct virtio_dev *dev, const char *why);

/*
 * As if the driver had kicked queue @q: ops->kick runs at the loop's next turn. A device that has
 * done its share of one turn (see kick) ends it so. Any thread.
 */
void virtio_kick(struct virtio_dev *dev, unsigned int q);

/*
 * The eventfd that the driver's kicks of queue @q come on; the transport's. For those that read it
 * themselves (own_kicks).
 */
int virtio_kick_fd(const struct virtio_dev *dev, unsigned int q);

/*
 * The eventfd that interrupts the driver, shared with the devices of the same line; the
 * transport's.
 */
int virtio_call_fd(const struct virtio_dev *dev);

#endif
