/* SPDX-License-Identifier: MIT */
/* The transport's place in a machine: KVM's shortcuts, the bus, the regions of RAM. */
#include "virtio/mmio.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <linux/virtio_mmio.h>
#include "arch/arch.h"
#include "virtio/mmio_regs.h"
#include "vm/coalesced.h"
#include "vm/irq.h"
#include "vm/kvm.h"
#include "vm/log.h"
#include "vm/vm.h"

/* KVM takes the driver's write of @value to a register as a signal to @fd, without an exit. */
static int ioeventfd(struct virtio_mmio *mmio, unsigned int offset, unsigned int value, int fd,
		     uint32_t flags)
{
	struct kvm_ioeventfd arg = {
		.datamatch = value,
		.addr = mmio->base + offset,
		.len = 4,
		.fd = fd,
		.flags = KVM_IOEVENTFD_FLAG_DATAMATCH | flags,
	};
	int ret;

	if (mmio->vm_fd < 0)
		return 0;
	ret = kvm_ioctl_quiet(mmio->vm_fd, KVM_IOEVENTFD, &arg);
	if (ret < 0)
		log_err("%s: KVM_IOEVENTFD at %#llx, value %u: %s", mmio->dev->ops->name,
			(unsigned long long)arg.addr, value, errno_name(ret));
	return ret;
}

/* A write of 1 to InterruptACK changes nothing (mmio.h), so nobody has to read the eventfd. */
static int take_ack(struct virtio_mmio *mmio)
{
	int ret;

	mmio->ack_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (mmio->ack_fd < 0) {
		ret = -errno;
		log_err("%s: eventfd: %s: check ulimit -n", mmio->dev->ops->name, errno_name(ret));
		return ret;
	}
	ret = ioeventfd(mmio, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING, mmio->ack_fd, 0);
	if (ret < 0) {
		close(mmio->ack_fd);
		mmio->ack_fd = -1;
	}
	return ret;
}

static int ioeventfds(struct virtio_mmio *mmio)
{
	int ret = take_ack(mmio);

	for (unsigned int q = 0; q < mmio->dev->nr_queues && ret >= 0; q++) {
		ret = ioeventfd(mmio, VIRTIO_MMIO_QUEUE_NOTIFY, q, mmio->kick_fd[q], 0);
		mmio->ioeventfd[q] = ret >= 0 && mmio->vm_fd >= 0;
	}
	return ret;
}

static void ioeventfds_undo(struct virtio_mmio *mmio)
{
	for (unsigned int q = 0; q < mmio->dev->nr_queues; q++) {
		if (mmio->ioeventfd[q])
			ioeventfd(mmio, VIRTIO_MMIO_QUEUE_NOTIFY, q, mmio->kick_fd[q],
				  KVM_IOEVENTFD_FLAG_DEASSIGN);
		mmio->ioeventfd[q] = false;
	}
	if (mmio->ack_fd < 0)
		return;
	ioeventfd(mmio, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING, mmio->ack_fd,
		  KVM_IOEVENTFD_FLAG_DEASSIGN);
	close(mmio->ack_fd);
	mmio->ack_fd = -1;
}

/* Slot @i's registers for the guest to read. What fails is said, and then reads trap. */
static void register_page(struct virtio_mmio *mmio, const struct vm *vm, unsigned int i)
{
	if (vm->config.trap_registers)
		return;
	if (!kvm_has(vm->fd, KVM_CAP_READONLY_MEM) ||
	    (vm->mem.max_slots && vm->mem.max_slots <= MEMORY_DEVICE_SLOTS + i)) {
		log_debug("%s: this KVM has no read-only slot for the registers: reads of them exit",
			  mmio->dev->ops->name);
		return;
	}
	mmio->clean = arch_cache_clean;
	mmio->page.gpa = mmio->base;
	mmio->page.slot = MEMORY_DEVICE_SLOTS + i;
	virtio_mmio_show_page(mmio, true);
}

/*
 * What a driver writes of the features it wants and of where its rings are: no register shows any of
 * it (4.2.2), and it means nothing before the write to Status or QueueReady that comes behind it,
 * and that traps. So it is no exit of its own. The selectors change what others show: they are.
 */
static void keep_writes(const struct virtio_mmio *mmio, struct vm *vm)
{
	coalesced_add(vm, false, mmio->base + VIRTIO_MMIO_DRIVER_FEATURES, 8); /* and its selector */
	coalesced_add(vm, false, mmio->base + VIRTIO_MMIO_QUEUE_NUM, 4);
	coalesced_add(vm, false, mmio->base + VIRTIO_MMIO_QUEUE_DESC_LOW,
		      VIRTIO_MMIO_QUEUE_USED_HIGH + 4 - VIRTIO_MMIO_QUEUE_DESC_LOW);
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
	ret = ioeventfds(mmio);
	if (ret < 0)
		goto err;
	mmio->watch = (struct memory_watch){ .changed = regions_changed, .opaque = mmio,
					     .vhost = dev->vhost };
	ret = region_watch(&vm->mem, &mmio->watch);
	if (ret)
		goto err;
	/* Last, since a range can't be taken off a bus again. */
	ret = bus_add(&vm->mmio, slot.base, slot.size, virtio_mmio_access, mmio, dev->ops->name);
	if (ret)
		goto err_watch;
	register_page(mmio, vm, i);
	keep_writes(mmio, vm);
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
	virtio_mmio_show_page(mmio, false);
	region_unwatch(mmio->dev->mem, &mmio->watch);
	ioeventfds_undo(mmio);
	virtio_mmio_fini(mmio);
}
