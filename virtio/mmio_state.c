/* SPDX-License-Identifier: MIT */
/*
 * The transport and its queues in a snapshot; docs/snapshot.md draws the section.
 *
 * A file may be made to hurt: what is taken from it is what a driver could have brought about by
 * itself, or it is refused. Each ring is looked for in RAM as at DRIVER_OK. The indices need no
 * check: they are used by their remainders, and a driver can make the ring say anything anyhow.
 */
#include "virtio/mmio_regs.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include "vm/log.h"
#include "vm/state_reader.h"
#include "vm/state_writer.h"

#define S_ALL (S_BY_DRIVER | S_NEEDS_RESET)

static void queue_save(const struct queue *q, struct state_writer *w)
{
	state_writer_u16(w, q->num);
	state_writer_bool(w, q->ready);
	state_writer_u64(w, q->desc_gpa);
	state_writer_u64(w, q->avail_gpa);
	state_writer_u64(w, q->used_gpa);
	state_writer_bool(w, q->active);
	state_writer_bool(w, q->broken);
	state_writer_u16(w, q->last_avail);
	state_writer_u16(w, q->next_used);
	state_writer_u16(w, q->signalled);
	state_writer_bool(w, q->signalled_valid);
	state_writer_bool(w, q->pushed);
}

void virtio_mmio_save(struct virtio_mmio *mmio, struct state_writer *w, unsigned int i)
{
	struct virtio_dev *dev = mmio->dev;
	uint32_t status;

	pthread_mutex_lock(&dev->lock);
	status = reg_get(mmio, VIRTIO_MMIO_STATUS);
	state_writer_begin(w, VIRTIO_MMIO_STATE, i, VIRTIO_MMIO_STATE_VERSION);
	state_writer_u32(w, dev->id);
	state_writer_u64(w, mmio->offered);
	state_writer_blob(w, dev->config, dev->config_len);
	state_writer_u32(w, dev->nr_queues);
	state_writer_u32(w, mmio->features_sel);
	state_writer_u32(w, mmio->driver_features_sel);
	state_writer_u32(w, mmio->queue_sel);
	state_writer_u32(w, mmio->shm_sel);
	state_writer_u64(w, mmio->driver_features);
	state_writer_u64(w, dev->acked);
	state_writer_u32(w, status);
	state_writer_u32(w, reg_get(mmio, VIRTIO_MMIO_INTERRUPT_STATUS));
	state_writer_u32(w, reg_get(mmio, VIRTIO_MMIO_CONFIG_GENERATION));
	state_writer_u32(w, mmio->queue_was_reset);
	state_writer_bool(w, dev->active);
	for (unsigned int q = 0; q < dev->nr_queues; q++) {
		queue_save(&dev->vq[q], w);
		/* What a broken device holds, it never gives back: its driver resets it. */
		if (dev->vq[q].in_flight && !(status & S_NEEDS_RESET)) {
			log_err("%s: EBUSY: queue %u has requests in hand though it is paused",
				dev->ops->name, q);
			state_writer_fail(w, -EBUSY);
		}
	}
	if (dev->ops->save)
		dev->ops->save(dev, w);
	state_writer_end(w);
	pthread_mutex_unlock(&dev->lock);
}

/* What the section says of the device that it was; 0 or -EINVAL, when this one is another. */
static int load_identity(struct virtio_mmio *mmio, struct state_section *s, bool *config_differs)
{
	struct virtio_dev *dev = mmio->dev;
	uint32_t id = state_reader_u32(s), nr;
	const uint8_t *config;
	size_t len;

	state_reader_u64(s); /* what was offered: what was taken of it counts */
	config = state_reader_blob(s, VIRTIO_MAX_CONFIG, &len);
	nr = state_reader_u32(s);
	if (s->err)
		return 0;
	if (id != dev->id || nr != dev->nr_queues || len != dev->config_len) {
		log_err("%s: EINVAL: the snapshot has a device of type %u with %u queues and %zu config "
			"bytes in slot %u, here it is one of type %u, %u, %u: give the devices of the "
			"guest that was saved, in its order", dev->ops->name, id, nr, len, s->instance,
			dev->id, dev->nr_queues, dev->config_len);
		return -EINVAL;
	}
	*config_differs = len && memcmp(config, dev->config, len);
	return 0;
}

/* Bits that the driver sets in their order (3.1.1), and what follows from each. */
static bool status_possible(uint32_t v, bool active, uint64_t acked, uint64_t driver_features)
{
	if (v & ~S_ALL || (v & S_DRIVER && !(v & S_ACK)) || (v & S_FEATURES_OK && !(v & S_DRIVER)) ||
	    (v & S_DRIVER_OK && !(v & S_FEATURES_OK)))
		return false;
	if (v & S_FEATURES_OK)
		return acked == driver_features && acked >> VIRTIO_F_VERSION_1 & 1 &&
		       (active ? v & S_DRIVER_OK : !(v & S_DRIVER_OK) || v & S_NEEDS_RESET);
	return !acked && !active;
}

static int load_registers(struct virtio_mmio *mmio, struct state_section *s)
{
	struct virtio_dev *dev = mmio->dev;
	uint32_t status, interrupt, generation;
	uint64_t missing;
	bool active;

	mmio->features_sel = state_reader_u32(s);
	mmio->driver_features_sel = state_reader_u32(s);
	mmio->queue_sel = state_reader_u32(s);
	mmio->shm_sel = state_reader_u32(s);
	mmio->driver_features = state_reader_u64(s);
	dev->acked = state_reader_u64(s);
	status = state_reader_u32(s);
	interrupt = state_reader_u32(s);
	generation = state_reader_u32(s);
	mmio->queue_was_reset = state_reader_u32(s);
	active = state_reader_bool(s);
	if (s->err)
		return 0;
	if (!status_possible(status, active, dev->acked, mmio->driver_features))
		state_reader_bad(s, "%s: Status %#x can't be with features %#llx", dev->ops->name, status,
				 (unsigned long long)dev->acked);
	else if (interrupt != VIRTIO_MMIO_INT_VRING &&
		 interrupt != (VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG))
		state_reader_bad(s, "%s: InterruptStatus %#x can't be", dev->ops->name, interrupt);
	else if (mmio->queue_was_reset >> dev->nr_queues ||
		 (mmio->queue_was_reset && !(dev->acked >> VIRTIO_F_RING_RESET & 1)))
		state_reader_bad(s, "%s: reset queues %#x can't be", dev->ops->name,
				 mmio->queue_was_reset);
	if (s->err)
		return 0;
	missing = dev->acked & ~(mmio->offered | dev->compatible);
	if (missing) {
		log_err("%s: EINVAL: the driver in slot %u of the snapshot uses features %#llx, which "
			"this device or host does not have: give it the options that it had",
			dev->ops->name, s->instance, (unsigned long long)missing);
		return -EINVAL;
	}
	mmio->offered |= dev->acked;
	dev->active = active;
	reg_set(mmio, VIRTIO_MMIO_STATUS, status);
	reg_set(mmio, VIRTIO_MMIO_INTERRUPT_STATUS, interrupt);
	reg_set(mmio, VIRTIO_MMIO_CONFIG_GENERATION, generation);
	return 0;
}

static void load_queue(struct virtio_dev *dev, struct state_section *s, unsigned int i,
		       uint32_t status)
{
	uint16_t max = dev->queue_max[i] ? dev->queue_max[i] : QUEUE_MAX_SIZE;
	struct queue *q = &dev->vq[i];
	bool active, possible;

	q->num = state_reader_u16(s);
	q->ready = state_reader_bool(s);
	q->desc_gpa = state_reader_u64(s);
	q->avail_gpa = state_reader_u64(s);
	q->used_gpa = state_reader_u64(s);
	active = state_reader_bool(s);
	q->broken = state_reader_bool(s);
	q->last_avail = state_reader_u16(s);
	q->next_used = state_reader_u16(s);
	q->signalled = state_reader_u16(s);
	q->signalled_valid = state_reader_bool(s);
	q->pushed = state_reader_bool(s);
	if (s->err)
		return;
	possible = q->num <= max && !(q->num & (q->num - 1));
	if (q->ready)
		possible = possible && q->num && status & S_FEATURES_OK;
	/* Ready and not active though the device is: one that could not be used. */
	if (active || (q->ready && dev->active && !(status & S_NEEDS_RESET)))
		possible = possible && active && q->ready && dev->active;
	if (!possible || (active && queue_restore(q, dev->mem, dev->acked)))
		state_reader_bad(s, "%s: queue %u can't be: %u entries at %#llx, %#llx, %#llx",
				 dev->ops->name, i, q->num, (unsigned long long)q->desc_gpa,
				 (unsigned long long)q->avail_gpa, (unsigned long long)q->used_gpa);
}

static int load(struct virtio_mmio *mmio, struct state_section *s)
{
	struct virtio_dev *dev = mmio->dev;
	bool config_differs = false;
	uint32_t status;
	int ret;

	ret = load_identity(mmio, s, &config_differs);
	if (!ret && !s->err)
		ret = load_registers(mmio, s);
	if (ret)
		return ret;
	status = reg_get(mmio, VIRTIO_MMIO_STATUS);
	for (unsigned int i = 0; i < dev->nr_queues && !s->err; i++)
		load_queue(dev, s, i, status);
	if (dev->ops->load && !s->err)
		dev->ops->load(dev, s);
	ret = state_reader_section_end(s);
	if (ret)
		return ret;
	/* CID, console size and the like are this host's. resume interrupts. */
	if (config_differs) {
		reg_set(mmio, VIRTIO_MMIO_CONFIG_GENERATION,
			reg_get(mmio, VIRTIO_MMIO_CONFIG_GENERATION) + 1);
		if (status & S_DRIVER_OK)
			reg_set(mmio, VIRTIO_MMIO_INTERRUPT_STATUS,
				VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG);
	}
	virtio_mmio_show(mmio);
	return 0;
}

int virtio_mmio_load(struct virtio_mmio *mmio, const struct state_reader *r, unsigned int i)
{
	struct virtio_dev *dev = mmio->dev;
	struct state_section s;
	int ret;

	ret = state_reader_section(r, &s, VIRTIO_MMIO_STATE, i);
	if (ret)
		return ret;
	pthread_mutex_lock(&dev->lock);
	dev->paused = true;
	ret = load(mmio, &s);
	pthread_mutex_unlock(&dev->lock);
	return ret;
}
