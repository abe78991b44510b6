/* SPDX-License-Identifier: MIT */
#include "virtio/virtio.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>
#include "virtio/mmio.h"
#include "vm/irq.h"
#include "vm/log.h"

void virtio_dev_init(struct virtio_dev *dev, const struct virtio_ops *ops, uint32_t id,
		     unsigned int nr_queues)
{
	dev->ops = ops;
	dev->id = id;
	dev->nr_queues = nr_queues;
	dev->mmio = NULL;
	dev->mem = NULL;
	dev->loop = NULL;
	dev->acked = 0;
	dev->active = false;
	dev->paused = false;
	for (unsigned int i = 0; i < VIRTIO_MAX_QUEUES; i++)
		queue_reset(&dev->vq[i]);
	pthread_mutex_init(&dev->lock, NULL);
}

void virtio_dev_fini(struct virtio_dev *dev)
{
	pthread_mutex_destroy(&dev->lock);
}

void virtio_signal(struct virtio_dev *dev, unsigned int q)
{
	virtio_signal_queues(dev, 1u << q);
}

void virtio_signal_queues(struct virtio_dev *dev, uint32_t queues)
{
	bool wanted = false;

	for (unsigned int q = 0; q < dev->nr_queues; q++)
		wanted |= queues >> q & 1 && queue_wants_interrupt(&dev->vq[q]);
	/* InterruptStatus bit 0 always reads 1 (mmio.h), so the line is all there is to do. */
	if (wanted)
		irq_line_pulse(dev->mmio->irq);
}

void virtio_config_change(struct virtio_dev *dev, unsigned int offset, const void *data,
			  unsigned int len)
{
	if (offset > dev->config_len || len > dev->config_len - offset) {
		log_err("%s: change of %u config bytes at %u, of %u", dev->ops->name, len, offset,
			dev->config_len);
		return;
	}
	memcpy(dev->config + offset, data, len);
	if (dev->mmio)
		virtio_mmio_config_changed(dev->mmio);
}

void virtio_broken(struct virtio_dev *dev, const char *why)
{
	if (dev->mmio && virtio_mmio_needs_reset(dev->mmio))
		log_limited(LOG_WARN, "%s: %s: stopped until its driver resets it", dev->ops->name,
			    why);
}

void virtio_kick(struct virtio_dev *dev, unsigned int q)
{
	uint64_t one = 1;

	/* EAGAIN: 2^64 - 2 kicks wait to be read, one more says nothing new. */
	if (write(dev->mmio->kick_fd[q], &one, sizeof(one)) < 0 && errno != EAGAIN)
		log_limited(LOG_ERROR, "%s: queue %u: kick: %s", dev->ops->name, q, errno_name(errno));
}

int virtio_kick_fd(const struct virtio_dev *dev, unsigned int q)
{
	return dev->mmio->kick_fd[q];
}

int virtio_call_fd(const struct virtio_dev *dev)
{
	return dev->mmio->irq->fd;
}
