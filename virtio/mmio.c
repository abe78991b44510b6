/* SPDX-License-Identifier: MIT */
/*
 * The virtio-mmio transport, version 2. Source: VIRTIO 1.2, section 4.2.2 (registers) and 2.1
 * (status).
 *
 * mmio->reg is the page as the guest reads it; write-only and absent registers read 0 there. Every
 * function that changes what a register shows stores the word at once. All of it happens under
 * dev->lock but for Status and InterruptStatus, to which virtio_broken() adds bits from any thread:
 * those two words change by atomic and, or and exchange only.
 *
 * The page is the guest's to read at any moment, without the lock. What a vCPU's write changes is
 * there before that vCPU goes on. A configuration that changes by itself in more than one word has
 * the page away meanwhile, see virtio_mmio_config_changed(): reads then trap and wait for the lock.
 *
 * A register access that traps is ordered by the trap; those the kernel takes (ioeventfd) tell
 * nothing but "look at the ring", which queue.c does with barriers of its own.
 */
#include "virtio/mmio_regs.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include "vm/irq.h"
#include "vm/log.h"

#ifndef VIRTIO_MMIO_QUEUE_RESET
#define VIRTIO_MMIO_QUEUE_RESET 0x0c0 /* VIRTIO 1.2; not in Linux 6.1's header */
#endif

#define MMIO_MAGIC   0x74726976 /* "virt" */
#define MMIO_VERSION 2
#define MMIO_VENDOR  0x74696e76 /* "vnit" */

/* Both return the word as it was. */
static uint32_t reg_or(struct virtio_mmio *mmio, unsigned int offset, uint32_t bits)
{
	uint32_t old = __atomic_fetch_or(reg_word(mmio, offset), htole32(bits), __ATOMIC_SEQ_CST);

	reg_clean(mmio, offset);
	return le32toh(old);
}

static uint32_t reg_and(struct virtio_mmio *mmio, unsigned int offset, uint32_t bits)
{
	uint32_t old = __atomic_fetch_and(reg_word(mmio, offset), htole32(bits), __ATOMIC_SEQ_CST);

	reg_clean(mmio, offset);
	return le32toh(old);
}

static uint32_t status(struct virtio_mmio *mmio)
{
	return reg_get(mmio, VIRTIO_MMIO_STATUS);
}

/* The half of a 64-bit word of features that a selector names; there are two. */
static uint32_t features_half(uint64_t features, uint32_t sel)
{
	return sel < 2 ? features >> 32 * sel : 0;
}

/* NULL for a selector of a queue that does not exist. */
static struct queue *selected_queue(struct virtio_mmio *mmio)
{
	return mmio->queue_sel < mmio->dev->nr_queues ? &mmio->dev->vq[mmio->queue_sel] : NULL;
}

static uint16_t queue_max(const struct virtio_dev *dev, unsigned int q)
{
	return dev->queue_max[q] ? dev->queue_max[q] : QUEUE_MAX_SIZE;
}

static void show_features(struct virtio_mmio *mmio)
{
	reg_set(mmio, VIRTIO_MMIO_DEVICE_FEATURES,
		features_half(mmio->offered, mmio->features_sel));
}

static void show_queue(struct virtio_mmio *mmio)
{
	struct queue *q = selected_queue(mmio);

	reg_set(mmio, VIRTIO_MMIO_QUEUE_NUM_MAX, q ? queue_max(mmio->dev, mmio->queue_sel) : 0);
	reg_set(mmio, VIRTIO_MMIO_QUEUE_READY, q && q->ready);
}

/* The word of dev->config at @offset; bytes beyond the config space's length are 0. */
static uint32_t config_word(const struct virtio_dev *dev, unsigned int offset)
{
	uint32_t v = 0;

	for (unsigned int i = 0; i < 4 && offset + i < dev->config_len; i++)
		v |= (uint32_t)dev->config[offset + i] << 8 * i;
	return v;
}

/*
 * How many words of the page say something else than dev->config; with @show, they no longer do.
 */
static unsigned int config_differs(struct virtio_mmio *mmio, bool show)
{
	unsigned int nr = 0;

	for (unsigned int i = 0; i < mmio->dev->config_len; i += 4) {
		uint32_t v = config_word(mmio->dev, i);

		if (reg_get(mmio, VIRTIO_MMIO_CONFIG + i) == v)
			continue;
		nr++;
		if (show)
			reg_set(mmio, VIRTIO_MMIO_CONFIG + i, v);
	}
	return nr;
}

/* Everything but Status, InterruptStatus and ConfigGeneration. */
void virtio_mmio_show(struct virtio_mmio *mmio)
{
	reg_set(mmio, VIRTIO_MMIO_MAGIC_VALUE, MMIO_MAGIC);
	reg_set(mmio, VIRTIO_MMIO_VERSION, MMIO_VERSION);
	reg_set(mmio, VIRTIO_MMIO_DEVICE_ID, mmio->dev->id);
	reg_set(mmio, VIRTIO_MMIO_VENDOR_ID, MMIO_VENDOR);
	/* No shared memory: length and base of an absent region are all ones, whatever SHMSel says.
	 */
	reg_set(mmio, VIRTIO_MMIO_SHM_LEN_LOW, UINT32_MAX);
	reg_set(mmio, VIRTIO_MMIO_SHM_LEN_HIGH, UINT32_MAX);
	reg_set(mmio, VIRTIO_MMIO_SHM_BASE_LOW, UINT32_MAX);
	reg_set(mmio, VIRTIO_MMIO_SHM_BASE_HIGH, UINT32_MAX);
	show_features(mmio);
	show_queue(mmio);
	config_differs(mmio, true);
}

static void kick_drain(struct virtio_mmio *mmio, unsigned int q)
{
	uint64_t count;

	if (read(mmio->kick_fd[q], &count, sizeof(count)) < 0) {
		/* EAGAIN: there was none */
	}
}

static void kick_event(struct event *ev, uint32_t events)
{
	struct virtio_mmio *mmio = ev->opaque;
	struct virtio_dev *dev = mmio->dev;
	unsigned int q = ev - mmio->kick;

	/*
	 * Before the look at the ring: a kick that comes later makes the eventfd readable again.
	 * What is drained while paused comes again at resume.
	 */
	kick_drain(mmio, q);
	pthread_mutex_lock(&dev->lock);
	if (dev->active && !dev->paused && dev->vq[q].active && !(status(mmio) & S_NEEDS_RESET))
		dev->ops->kick(dev, q);
	pthread_mutex_unlock(&dev->lock);
}

/* A configuration-change interrupt, once the driver runs (3.1.1: none before DRIVER_OK). */
static void config_interrupt(struct virtio_mmio *mmio)
{
	if (!(status(mmio) & S_DRIVER_OK))
		return;
	reg_or(mmio, VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_INT_CONFIG);
	irq_line_pulse(mmio->irq);
}

bool virtio_mmio_needs_reset(struct virtio_mmio *mmio)
{
	if (reg_or(mmio, VIRTIO_MMIO_STATUS, S_NEEDS_RESET) & S_NEEDS_RESET)
		return false;
	config_interrupt(mmio); /* 2.1.2 */
	return true;
}

int virtio_mmio_show_page(struct virtio_mmio *mmio, bool there)
{
	int ret;

	if (mmio->page_there == there)
		return 0;
	ret = memory_set_slot(mmio->dev->mem, &mmio->page, there);
	if (!ret)
		mmio->page_there = there;
	return ret;
}

void virtio_mmio_config_changed(struct virtio_mmio *mmio)
{
	/*
	 * Without the page accesses wait for the lock: the driver sees all of this or nothing, and
	 * one step of the generation tells it that two of its reads straddle the change. One word
	 * changes at once anyhow, and to take a slot away costs the guest its other pages' mappings.
	 */
	bool away = mmio->page_there && config_differs(mmio, false) > 1 &&
		    !virtio_mmio_show_page(mmio, false);

	config_differs(mmio, true);
	reg_set(mmio, VIRTIO_MMIO_CONFIG_GENERATION,
		reg_get(mmio, VIRTIO_MMIO_CONFIG_GENERATION) + 1);
	if (away)
		virtio_mmio_show_page(mmio, true);
	config_interrupt(mmio);
}

/* The device and what is behind it stop; the queues keep what the driver set. */
static void device_stop(struct virtio_mmio *mmio)
{
	struct virtio_dev *dev = mmio->dev;

	dev->ops->reset(dev);
	dev->active = false;
	for (unsigned int i = 0; i < dev->nr_queues; i++)
		dev->vq[i].active = false;
}

/*
 * Status was written 0: back to power-on (2.1.2, 4.2.2). If the device's reset puts config bytes
 * back, the driver that wrote 0 is the one that changed them: the generation stays.
 */
static void device_reset(struct virtio_mmio *mmio)
{
	struct virtio_dev *dev = mmio->dev;

	device_stop(mmio);
	dev->acked = 0;
	for (unsigned int i = 0; i < dev->nr_queues; i++) {
		queue_reset(&dev->vq[i]);
		kick_drain(mmio, i);
	}
	mmio->driver_features = 0;
	mmio->queue_was_reset = 0;
	mmio->features_sel = mmio->driver_features_sel = 0;
	mmio->queue_sel = mmio->shm_sel = 0;
	virtio_mmio_show(mmio);
	reg_set(mmio, VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_INT_VRING);
	reg_set(mmio, VIRTIO_MMIO_STATUS, 0);
}

/*
 * A look at the ring of each active queue: after DRIVER_OK, before which the driver may put buffers
 * there but must not kick (3.1.1), and after a pause.
 */
static void kick_all(struct virtio_dev *dev)
{
	for (unsigned int i = 0; i < dev->nr_queues; i++) {
		if (dev->vq[i].active)
			virtio_kick(dev, i);
	}
}

/* DRIVER_OK is set. */
static void device_activate(struct virtio_mmio *mmio)
{
	struct virtio_dev *dev = mmio->dev;
	unsigned int i;

	for (i = 0; i < dev->nr_queues; i++) {
		if (dev->vq[i].ready && queue_activate(&dev->vq[i], dev->mem, dev->acked)) {
			device_stop(mmio);
			virtio_broken(dev, "a queue can't be used");
			return;
		}
	}
	if (dev->ops->activate(dev)) {
		device_stop(mmio);
		virtio_broken(dev, "can't be activated");
		return;
	}
	dev->active = true;
	kick_all(dev);
}

static bool features_acceptable(struct virtio_mmio *mmio)
{
	uint64_t unknown = mmio->driver_features & ~mmio->offered;

	if (unknown) {
		log_limited(LOG_WARN, "%s: driver wants features never offered: %#llx",
			    mmio->dev->ops->name, (unsigned long long)unknown);
		return false;
	}
	if (!(mmio->driver_features >> VIRTIO_F_VERSION_1 & 1)) {
		log_limited(LOG_WARN, "%s: legacy driver: it must accept VERSION_1",
			    mmio->dev->ops->name);
		return false;
	}
	return true;
}

/*
 * Bits come in the order of 3.1.1 and go all at once, with 0. DEVICE_NEEDS_RESET is the device's:
 * what the driver says of it, having read it or not, means nothing.
 */
static void write_status(struct virtio_mmio *mmio, uint32_t v)
{
	uint32_t old = status(mmio), new;

	if (!v) {
		device_reset(mmio);
		return;
	}
	if (v & ~(S_BY_DRIVER | S_NEEDS_RESET))
		return;
	if (v & S_FAILED) {
		reg_or(mmio, VIRTIO_MMIO_STATUS, S_FAILED);
		return;
	}
	if (old & (S_FAILED | S_NEEDS_RESET) || old & ~v)
		return;

	new = v & S_BY_DRIVER & ~old;
	if (new & S_ACK) {
		reg_or(mmio, VIRTIO_MMIO_STATUS, S_ACK);
		old |= S_ACK;
	}
	if (new & S_DRIVER && old & S_ACK) {
		reg_or(mmio, VIRTIO_MMIO_STATUS, S_DRIVER);
		old |= S_DRIVER;
	}
	/*
	 * The driver has to read FEATURES_OK back before it goes on, so DRIVER_OK can't come along
	 * with it.
	 */
	if (new & S_DRIVER_OK && old & S_FEATURES_OK) {
		reg_or(mmio, VIRTIO_MMIO_STATUS, S_DRIVER_OK);
		device_activate(mmio);
	}
	if (new & S_FEATURES_OK && old & S_DRIVER && features_acceptable(mmio)) {
		mmio->dev->acked = mmio->driver_features;
		reg_or(mmio, VIRTIO_MMIO_STATUS, S_FEATURES_OK);
	}
}

static void write_driver_features(struct virtio_mmio *mmio, uint32_t v)
{
	unsigned int shift = 32 * mmio->driver_features_sel;

	if (mmio->driver_features_sel > 1 || status(mmio) & (S_FEATURES_OK | S_FAILED))
		return;
	mmio->driver_features &= ~((uint64_t)UINT32_MAX << shift);
	mmio->driver_features |= (uint64_t)v << shift;
}

/*
 * The selected queue if its registers may be written now: between FEATURES_OK and DRIVER_OK, or
 * after its QueueReset, and not while it is ready. NULL otherwise.
 */
static struct queue *writable_queue(struct virtio_mmio *mmio)
{
	struct queue *q = selected_queue(mmio);
	uint32_t s = status(mmio);

	if (!q || q->ready || !(s & S_FEATURES_OK) || s & (S_FAILED | S_NEEDS_RESET))
		return NULL;
	if (s & S_DRIVER_OK && !(mmio->queue_was_reset >> mmio->queue_sel & 1))
		return NULL;
	return q;
}

/* The queue stops and forgets all. The device can do that for one queue. */
static void stop_one_queue(struct virtio_mmio *mmio, struct queue *q)
{
	struct virtio_dev *dev = mmio->dev;

	if (dev->active)
		dev->ops->queue_reset(dev, mmio->queue_sel);
	queue_reset(q);
	kick_drain(mmio, mmio->queue_sel);
}

static void queue_off(struct virtio_mmio *mmio)
{
	struct queue *q = selected_queue(mmio);

	if (!q || !q->ready)
		return;
	if (!(status(mmio) & S_DRIVER_OK)) {
		q->ready = false;
	} else if (mmio->dev->ops->queue_reset) {
		stop_one_queue(mmio, q);
	} else {
		/*
		 * The driver is about to free the rings (4.2.2.2). The device can't let go of one
		 * queue: it lets go of all.
		 */
		device_stop(mmio);
		q->ready = false;
		virtio_broken(mmio->dev, "a queue was taken away");
	}
	show_queue(mmio);
}

static void queue_on(struct virtio_mmio *mmio)
{
	struct queue *q = writable_queue(mmio);
	struct virtio_dev *dev = mmio->dev;

	/* The rest is checked at activation. */
	if (!q || !q->num)
		return;
	q->ready = true;
	show_queue(mmio);
	if (!dev->active)
		return;
	/* Again, after QueueReset. */
	mmio->queue_was_reset &= ~(1u << mmio->queue_sel);
	if (queue_activate(q, dev->mem, dev->acked))
		virtio_broken(dev, "a queue can't be used");
	else
		virtio_kick(dev, mmio->queue_sel);
}

static void write_queue_ready(struct virtio_mmio *mmio, uint32_t v)
{
	if (v == 0)
		queue_off(mmio);
	else if (v == 1)
		queue_on(mmio);
}

/* QueueReset (2.6.1) is done when the write returns: it always reads 0. */
static void write_queue_reset(struct virtio_mmio *mmio, uint32_t v)
{
	struct queue *q = selected_queue(mmio);

	if (v != 1 || !q || !q->ready || !(mmio->dev->acked >> VIRTIO_F_RING_RESET & 1))
		return;
	stop_one_queue(mmio, q);
	if (status(mmio) & S_DRIVER_OK)
		mmio->queue_was_reset |= 1u << mmio->queue_sel;
	show_queue(mmio);
}

static void write_queue_num(struct virtio_mmio *mmio, uint32_t v)
{
	struct queue *q = writable_queue(mmio);

	/* A size that can't be makes it unset, so that QueueReady is refused. */
	if (q)
		q->num = v <= queue_max(mmio->dev, mmio->queue_sel) && !(v & (v - 1)) ? v : 0;
}

static void set_low(uint64_t *addr, uint32_t v)
{
	*addr = (*addr & ~(uint64_t)UINT32_MAX) | v;
}

static void set_high(uint64_t *addr, uint32_t v)
{
	*addr = (*addr & UINT32_MAX) | (uint64_t)v << 32;
}

static void write_queue_addr(struct virtio_mmio *mmio, unsigned int offset, uint32_t v)
{
	struct queue *q = writable_queue(mmio);

	if (!q)
		return;
	switch (offset) {
	case VIRTIO_MMIO_QUEUE_DESC_LOW:
		set_low(&q->desc_gpa, v);
		break;
	case VIRTIO_MMIO_QUEUE_DESC_HIGH:
		set_high(&q->desc_gpa, v);
		break;
	case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
		set_low(&q->avail_gpa, v);
		break;
	case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
		set_high(&q->avail_gpa, v);
		break;
	case VIRTIO_MMIO_QUEUE_USED_LOW:
		set_low(&q->used_gpa, v);
		break;
	case VIRTIO_MMIO_QUEUE_USED_HIGH:
		set_high(&q->used_gpa, v);
		break;
	}
}

static void write_register(struct virtio_mmio *mmio, unsigned int offset, uint32_t v)
{
	switch (offset) {
	case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
		mmio->features_sel = v;
		show_features(mmio);
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES:
		write_driver_features(mmio, v);
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
		mmio->driver_features_sel = v;
		break;
	case VIRTIO_MMIO_QUEUE_SEL:
		mmio->queue_sel = v;
		show_queue(mmio);
		break;
	case VIRTIO_MMIO_QUEUE_NUM:
		write_queue_num(mmio, v);
		break;
	case VIRTIO_MMIO_QUEUE_READY:
		write_queue_ready(mmio, v);
		break;
	case VIRTIO_MMIO_QUEUE_NOTIFY:
		/* Seldom: the ioeventfd takes it inside the kernel. */
		if (v < mmio->dev->nr_queues)
			virtio_kick(mmio->dev, v);
		break;
	case VIRTIO_MMIO_INTERRUPT_ACK:
		/* Bit 0 reads 1 always (mmio.h). */
		if (v & VIRTIO_MMIO_INT_CONFIG)
			reg_and(mmio, VIRTIO_MMIO_INTERRUPT_STATUS, ~VIRTIO_MMIO_INT_CONFIG);
		break;
	case VIRTIO_MMIO_STATUS:
		write_status(mmio, v);
		break;
	case VIRTIO_MMIO_QUEUE_DESC_LOW:
	case VIRTIO_MMIO_QUEUE_DESC_HIGH:
	case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
	case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
	case VIRTIO_MMIO_QUEUE_USED_LOW:
	case VIRTIO_MMIO_QUEUE_USED_HIGH:
		write_queue_addr(mmio, offset, v);
		break;
	case VIRTIO_MMIO_SHM_SEL:
		mmio->shm_sel = v;
		break;
	case VIRTIO_MMIO_QUEUE_RESET:
		write_queue_reset(mmio, v);
		break;
	}
}

static void write_config(struct virtio_mmio *mmio, uint64_t offset, const uint8_t *data,
			 unsigned int len)
{
	struct virtio_dev *dev = mmio->dev;

	if (offset >= dev->config_len || len > dev->config_len - offset || !dev->ops->config_write)
		return;
	dev->ops->config_write(dev, offset, data, len);
	config_differs(mmio, true);
}

void virtio_mmio_access(void *opaque, uint64_t offset, uint8_t *data, unsigned int len, bool write)
{
	struct virtio_mmio *mmio = opaque;
	struct virtio_dev *dev = mmio->dev;
	uint32_t v;

	if (!write)
		memset(data, 0, len);
	/* Where the slot is larger than the page, the rest of it is empty. */
	if (offset >= VIRTIO_MMIO_PAGE || len > VIRTIO_MMIO_PAGE - offset)
		return;
	if (len != 1 && len != 2 && len != 4 && len != 8)
		return;

	pthread_mutex_lock(&dev->lock);
	if (!write) {
		/* Of any width, as the page has it. */
		memcpy(data, (const uint8_t *)mmio->reg + offset, len);
	} else if (offset >= VIRTIO_MMIO_CONFIG) {
		write_config(mmio, offset - VIRTIO_MMIO_CONFIG, data, len);
	} else if (len == 4 && offset % 4 == 0) {
		memcpy(&v, data, 4);
		write_register(mmio, offset, le32toh(v));
	}
	pthread_mutex_unlock(&dev->lock);
}

/* What the transport adds to the device's own features. */
static uint64_t offered_features(const struct virtio_dev *dev)
{
	uint64_t features = dev->features | 1ULL << VIRTIO_F_VERSION_1;

	if (!dev->no_ring_features)
		features |= 1ULL << VIRTIO_RING_F_INDIRECT_DESC | 1ULL << VIRTIO_RING_F_EVENT_IDX;
	if (dev->ops->queue_reset)
		features |= 1ULL << VIRTIO_F_RING_RESET;
	else
		features &= ~(1ULL << VIRTIO_F_RING_RESET);
	return features;
}

static bool shape_ok(const struct virtio_dev *dev)
{
	if (dev->nr_queues > VIRTIO_MAX_QUEUES || dev->config_len > VIRTIO_MAX_CONFIG)
		return false;
	for (unsigned int i = 0; i < dev->nr_queues; i++) {
		unsigned int max = queue_max(dev, i);

		if (max > QUEUE_MAX_SIZE || max & (max - 1))
			return false;
	}
	return true;
}

/* Whole pages of this host, which are no larger than the slots of the machine's map. */
static int map_page(struct virtio_mmio *mmio)
{
	size_t host = (size_t)getpagesize();
	size_t size = host > VIRTIO_MMIO_PAGE ? host : VIRTIO_MMIO_PAGE;
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int ret;

	if (p == MAP_FAILED) {
		ret = -errno;
		log_err("%s: register page: mmap: %s", mmio->dev->ops->name, errno_name(ret));
		return ret;
	}
	mmio->reg = p;
	mmio->page = (struct memory_region){ .size = size, .hva = p, .readonly = true };
	return 0;
}

int virtio_mmio_init(struct virtio_mmio *mmio, struct virtio_dev *dev, struct memory *mem,
		     struct event_loop *loop, struct irq_line *irq)
{
	unsigned int i;
	int ret;

	if (!shape_ok(dev)) {
		log_err("%s: %u queues, %u config bytes: more than virtio-mmio carries",
			dev->ops->name, dev->nr_queues, dev->config_len);
		return -EINVAL;
	}
	memset(mmio, 0, sizeof(*mmio));
	mmio->dev = dev;
	mmio->irq = irq;
	mmio->vm_fd = -1;
	mmio->offered = offered_features(dev);
	mmio->ack_fd = -1;
	for (i = 0; i < VIRTIO_MAX_QUEUES; i++)
		mmio->kick_fd[i] = -1;
	ret = map_page(mmio);
	if (ret)
		return ret;
	dev->mmio = mmio;
	dev->mem = mem;
	dev->loop = loop;
	dev->acked = 0;
	dev->active = false;
	dev->paused = false;

	for (i = 0; i < dev->nr_queues; i++) {
		queue_reset(&dev->vq[i]);
		mmio->kick_fd[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		if (mmio->kick_fd[i] < 0) {
			ret = -errno;
			log_err("%s: eventfd: %s: check ulimit -n", dev->ops->name,
				errno_name(ret));
			goto err;
		}
		if (dev->own_kicks >> i & 1)
			continue;
		mmio->kick[i].fd = mmio->kick_fd[i];
		mmio->kick[i].fn = kick_event;
		mmio->kick[i].opaque = mmio;
		ret = loop ? event_add(loop, &mmio->kick[i], EPOLLIN) : 0;
		if (ret) {
			log_err("%s: queue %u: epoll: %s", dev->ops->name, i, errno_name(ret));
			goto err;
		}
	}
	virtio_mmio_show(mmio);
	reg_set(mmio, VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_INT_VRING);
	return 0;

err:
	virtio_mmio_fini(mmio);
	return ret;
}

void virtio_mmio_fini(struct virtio_mmio *mmio)
{
	struct virtio_dev *dev = mmio->dev;

	pthread_mutex_lock(&dev->lock);
	device_reset(mmio);
	pthread_mutex_unlock(&dev->lock);
	for (unsigned int i = 0; i < dev->nr_queues; i++) {
		if (dev->loop)
			event_del(dev->loop, &mmio->kick[i]);
		if (mmio->kick_fd[i] >= 0)
			close(mmio->kick_fd[i]);
		mmio->kick_fd[i] = -1;
	}
	munmap(mmio->reg, mmio->page.size);
	mmio->reg = NULL;
	dev->mmio = NULL;
	dev->mem = NULL;
	dev->loop = NULL;
	dev->paused = false;
}

void virtio_mmio_pause(struct virtio_mmio *mmio)
{
	struct virtio_dev *dev = mmio->dev;

	pthread_mutex_lock(&dev->lock);
	/* What the event loop does for a device, it does with the lock: nothing of it is half-way. */
	dev->paused = true;
	if (dev->active && dev->ops->pause)
		dev->ops->pause(dev);
	pthread_mutex_unlock(&dev->lock);
}

void virtio_mmio_resume(struct virtio_mmio *mmio)
{
	struct virtio_dev *dev = mmio->dev;

	pthread_mutex_lock(&dev->lock);
	dev->paused = false;
	if (dev->active && !(status(mmio) & S_NEEDS_RESET)) {
		if (dev->ops->resume && dev->ops->resume(dev)) {
			device_stop(mmio);
			virtio_broken(dev, "can't go on after the pause");
		} else {
			kick_all(dev);
		}
	}
	if (status(mmio) & S_DRIVER_OK)
		irq_line_pulse(mmio->irq);
	pthread_mutex_unlock(&dev->lock);
}
