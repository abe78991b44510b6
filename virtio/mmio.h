/* SPDX-License-Identifier: MIT */
/*
 * The virtio-mmio transport, version 2. Source: VIRTIO 1.2, section 4.2.
 *
 * The registers are words of a page laid out as the guest sees it, always up to date. KVM has it as
 * a read-only memory slot: a read is a load, and no exit. Writes trap, but for those that KVM takes
 * as a signal to an eventfd: QueueNotify, and InterruptACK of "used buffer". So the VMM never knows
 * whether that interrupt is acknowledged, nor, with vhost, whether it was raised: InterruptStatus
 * bit 0 always reads 1, and a driver that finds it set looks at its rings.
 *
 * Where KVM has no read-only slots, reads trap and see the same words.
 */
#ifndef VIRTIO_MMIO_H
#define VIRTIO_MMIO_H

#include <stdbool.h>
#include <stdint.h>
#include "vm/event.h"
#include "vm/memory.h"
#include "vm/region.h"
#include "vm/state_file.h"
#include "virtio/virtio.h"

struct event_loop;
struct irq_line;
struct state_reader;
struct state_writer;
struct vm;

#define VIRTIO_MMIO_PAGE  4096
#define VIRTIO_MMIO_WORDS (VIRTIO_MMIO_PAGE / 4)

struct virtio_mmio {
	/*
	 * At the start of a page of the host's: VIRTIO_MMIO_WORDS little-endian words, read and
	 * written one by one, atomically.
	 */
	uint32_t *reg;
	void (*clean)(const void *word); /* arch_cache_clean() */
	struct memory_region page; /* reg for the guest, and its slot */
	bool page_there;	   /* the slot is */
	struct virtio_dev *dev;
	struct irq_line *irq;
	uint64_t base;
	int vm_fd; /* -1: no KVM behind it (unit tests) */
	uint64_t offered; /* the device's features and the transport's own */
	uint64_t driver_features;
	uint32_t queue_was_reset; /* bit q: QueueReset since DRIVER_OK, may be set up anew */
	uint32_t features_sel, driver_features_sel, queue_sel, shm_sel;
	int kick_fd[VIRTIO_MAX_QUEUES];
	struct event kick[VIRTIO_MAX_QUEUES];
	bool ioeventfd[VIRTIO_MAX_QUEUES];
	int ack_fd; /* InterruptACK of "used buffer", which nobody reads; -1: they trap */
	struct memory_watch watch; /* from attach to detach */
};

/*
 * Puts @dev at power-on state behind slot @i of @vm: register page and its range on the MMIO bus,
 * ioeventfds for the queues (datamatch = queue index) and InterruptACK, the line's irqfd. It watches
 * the regions of RAM: one that holds a ring can't be removed (-EBUSY), and for vhost there can be no
 * more than it takes. 0 or -errno; undoes itself.
 */
int virtio_mmio_attach(struct virtio_mmio *mmio, struct virtio_dev *dev, struct vm *vm,
		       unsigned int i);

/*
 * Resets the device and undoes attach, but for the bus and the interrupt line, which go with @vm.
 * vCPUs are stopped; on the loop's thread, or when the loop does not run.
 */
void virtio_mmio_detach(struct virtio_mmio *mmio);

/*
 * When it returns, the device touches no guest memory until virtio_mmio_resume(), and its state can
 * be saved. vCPUs are paused. Any thread but the device's own; not twice.
 */
void virtio_mmio_pause(struct virtio_mmio *mmio);

/*
 * Undoes that, and kicks every active queue: what came meanwhile is found. Also interrupts the
 * driver once, if it has set DRIVER_OK: one that was on its way when the guest was saved is not
 * lost. A device that NEEDS_RESET stays quiet until then.
 */
void virtio_mmio_resume(struct virtio_mmio *mmio);

/* The section of the device in slot @i; docs/snapshot.md draws it. */
#define VIRTIO_MMIO_STATE	  STATE_TAG('V', 'I', 'R', 'T')
#define VIRTIO_MMIO_STATE_VERSION 1

/* Of a paused device. Errors stick in @w. */
void virtio_mmio_save(struct virtio_mmio *mmio, struct state_writer *w, unsigned int i);

/*
 * Puts a device that was just attached into the saved state, paused: virtio_mmio_resume() makes it
 * run. RAM is as it was. 0, -EBADMSG: damaged, -EINVAL: the device behind the slot is not the same
 * (its kind, its features, its queues, the length of its config); logs. On failure the
 * caller detaches it.
 */
int virtio_mmio_load(struct virtio_mmio *mmio, const struct state_reader *r, unsigned int i);

/*
 * The register file alone, for attach and for tests: no KVM, no bus. @loop may be NULL in tests:
 * then nobody reads the kick eventfds, but mmio->kick[q].fn can be called. 0 or -errno; logs;
 * undoes itself.
 */
int virtio_mmio_init(struct virtio_mmio *mmio, struct virtio_dev *dev, struct memory *mem,
		     struct event_loop *loop, struct irq_line *irq);

/*
 * Resets the device and closes the kick eventfds. On the loop's thread, or when the loop does not
 * run.
 */
void virtio_mmio_fini(struct virtio_mmio *mmio);

/*
 * The register access of a vCPU; a bus_fn with the struct virtio_mmio as @opaque. Takes dev->lock.
 */
void virtio_mmio_access(void *opaque, uint64_t offset, uint8_t *data, unsigned int len, bool write);

/*
 * For virtio.c alone: DEVICE_NEEDS_RESET and its interrupt. False when it was set already. Any
 * thread.
 */
bool virtio_mmio_needs_reset(struct virtio_mmio *mmio);

/* For mmio_state.c alone: the words that show features, the selected queue and dev->config. */
void virtio_mmio_show(struct virtio_mmio *mmio);

/* For virtio.c alone: dev->config has changed. dev->lock held. */
void virtio_mmio_config_changed(struct virtio_mmio *mmio);

#endif
