/* SPDX-License-Identifier: MIT */
/* The transport's place in a machine: KVM's shortcuts, the bus, the regions of RAM. */
#include "virtio/mmio.h"

#include <errno.h>
#include <linux/virtio_mmio.h>
#include "arch/arch.h"
#include "vm/irq.h"
#include "vm/kvm.h"
#include "vm/log.h"
#include "vm/vm.h"

/* KVM takes the driver's write of @q to QueueNotify as a kick, without an exit. */
static int ioeventfd(struct virtio_mmio *mmio, unsigned int q, uint32_t flags)
{
	struct kvm_ioeventfd arg = {
		.datamatch = q,
		.addr = mmio->base + VIRTIO_MMIO_QUEUE_NOTIFY,
		.len = 4,
		.fd = mmio->kick_fd[q],
		.flags = KVM_IOEVENTFD_FLAG_DATAMATCH | flags,
	};
	int ret;

	if (mmio->vm_fd < 0)
		return 0;
	ret = kvm_ioctl_quiet(mmio->vm_fd, KVM_IOEVENTFD, &arg);
	if (ret < 0)
		log_err("%s: queue %u: KVM_IOEVENTFD at %#llx: %s", mmio->dev->ops->name, q,
			(unsigned long long)arg.addr, errno_name(ret));
	return ret;
}

static void ioeventfds_undo(struct virtio_mmio *mmio)
{
	for (unsigned int i = 0; i < mmio->dev->nr_queues; i++) {
		if (mmio->ioeventfd[i])
			ioeventfd(mmio, i, KVM_IOEVENTFD_FLAG_DEASSIGN);
		mmio->ioeventfd[i] = false;
	}
}

/*
 * The machine is still, so that a request's buffers may go: a request that is in hand is given back
 * by a pause. Rings stay where they are for as long as their queue is active.
 */
static int regions_changed(void *opaque, const struct memory *mem)
{
	const struct virtio_mmio *mmio = opaque;
	const struct virtio_dev *dev = mmio->dev;

	for (unsigned int i = 0; i < dev->nr_queues; i++) {
		if (dev->vq[i].active && !queue_in_place(&dev->vq[i]))
			return -EBUSY;
	}
	return 0;
}

int virtio_mmio_attach(struct virtio_mmio *mmio, struct virtio_dev *dev, struct vm *vm,
		       unsigned int i)
{
	struct arch_slot slot;
	struct irq_line *irq;
	unsigned int q;
	int ret;

	if (i >= ARCH_MAX_VIRTIO) {
		log_err("%s: at most %d virtio devices", dev->ops->name, ARCH_MAX_VIRTIO);
		return -ENOSPC;
	}
	arch_virtio_slot(i, &slot);
	ret = irq_line_get(&vm->irqs, slot.gsi, &irq);
	if (ret)
		return ret;
	ret = virtio_mmio_init(mmio, dev, &vm->mem, vm->loop, irq);
	if (ret)
		return ret;
	mmio->base = slot.base;
	mmio->vm_fd = vm->fd;
	for (q = 0; q < dev->nr_queues; q++) {
		ret = ioeventfd(mmio, q, 0);
		if (ret < 0)
			goto err;
		mmio->ioeventfd[q] = mmio->vm_fd >= 0;
	}
	mmio->watch = (struct memory_watch){ .changed = regions_changed, .opaque = mmio,
					     .vhost = dev->vhost };
	ret = region_watch(&vm->mem, &mmio->watch);
	if (ret)
		goto err;
	/* Last, since a range can't be taken off a bus again. */
	ret = bus_add(&vm->mmio, slot.base, slot.size, virtio_mmio_access, mmio, dev->ops->name);
	if (ret)
		goto err_watch;
	return 0;

err_watch:
	region_unwatch(&vm->mem, &mmio->watch);
err:
	ioeventfds_undo(mmio);
	virtio_mmio_fini(mmio);
	return ret;
}

void virtio_mmio_detach(struct virtio_mmio *mmio)
{
	region_unwatch(mmio->dev->mem, &mmio->watch);
	ioeventfds_undo(mmio);
	virtio_mmio_fini(mmio);
}
