/* SPDX-License-Identifier: MIT */
/*
 * Locks: dev->lock, then the console's own, which console_*() take and drop inside. The console
 * calls its sink's callbacks without its lock, so they may take dev->lock; one that was under way
 * when reset detached the sink finds `up` false and does nothing.
 */
#include "virtio/vconsole.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_console.h>
#include <stdlib.h>
#include <string.h>
#include "virtio/virtio.h"
#include "vm/console.h"
#include "vm/log.h"
#include "vm/state_reader.h"
#include "vm/state_writer.h"

#define RX 0 /* receiveq: the guest's input */
#define TX 1 /* transmitq: the guest's output */

/* What one turn of the event loop does for this guest at most; then others have theirs. */
#define TURN_BYTES  CONSOLE_RING
#define TURN_CHAINS 64

struct vconsole {
	struct virtio_dev dev; /* first: ops cast */
	struct console *console;
	struct console_sink sink;
	bool attached;	/* between activate and reset; dev->lock guards this and the rest */
	bool up;	/* the same, and the driver kept to the rules */
	bool rx_wanted; /* input is held back for want of buffers */
	bool tx_held;	/* tx is popped and not pushed */
	uint64_t tx_done; /* bytes of tx, or of the next chain to be popped, that are written */
	struct queue_chain tx, rx;
};

static void fail(struct vconsole *vc, const char *why)
{
	vc->up = false; /* the sink stays attached until the reset, and takes nothing */
	virtio_broken(&vc->dev, why);
}

/* Writes on from tx_done. True when all of the chain is out. */
static bool tx_write(struct vconsole *vc, uint64_t *budget)
{
	const struct iovec *iov = vc->tx.iov;
	uint64_t skip = vc->tx_done;
	unsigned int i;

	for (i = 0; i < vc->tx.nr_out; i++, iov++) {
		uint64_t len;
		size_t wrote;

		if (skip >= iov->iov_len) {
			skip -= iov->iov_len;
			continue;
		}
		len = iov->iov_len - skip;
		if (len > *budget)
			len = *budget;
		wrote = len ? console_write(vc->console, (uint8_t *)iov->iov_base + skip,
					    (size_t)len) :
			      0;
		vc->tx_done += wrote;
		*budget -= wrote;
		if (wrote < iov->iov_len - skip)
			return false;
		skip = 0;
	}
	return true;
}

/* Event-loop thread, dev->lock held. */
static void tx_run(struct vconsole *vc)
{
	struct queue *q = &vc->dev.vq[TX];
	uint64_t budget = TURN_BYTES;
	unsigned int chains;
	bool pushed = false;
	int ret = 1;

	if (!vc->up || vc->dev.paused || !q->active)
		return;
	queue_disable_kicks(q);
	for (chains = 0; chains < TURN_CHAINS && budget; chains++) {
		if (!vc->tx_held) {
			ret = queue_pop(q, &vc->tx);
			if (!ret && queue_enable_kicks(q))
				continue;
			if (ret > 0 && vc->tx.nr_in) /* VIRTIO 1.2, 5.3.6.1 */
				ret = -EIO;
			if (ret <= 0)
				break;
			vc->tx_held = true;
		}
		if (!tx_write(vc, &budget)) {
			if (budget)
				break; /* the console's ring is full: tx_room() goes on */
			continue;
		}
		vc->tx_held = false;
		vc->tx_done = 0;
		queue_push(q, vc->tx.head, 0);
		pushed = true;
	}
	if (pushed)
		virtio_signal(&vc->dev, TX);
	if (ret < 0)
		fail(vc, "malformed transmit queue");
	else if (chains == TURN_CHAINS || !budget)
		virtio_kick(&vc->dev, TX);
}

static void tx_room(void *opaque)
{
	struct vconsole *vc = opaque;

	pthread_mutex_lock(&vc->dev.lock);
	if (vc->tx_held)
		tx_run(vc);
	pthread_mutex_unlock(&vc->dev.lock);
}

/* Takes what the driver's buffers hold; the rest is held back by the console until rx_kick(). */
static size_t rx_input(void *opaque, const uint8_t *buf, size_t len)
{
	struct vconsole *vc = opaque;
	struct queue *q = &vc->dev.vq[RX];
	unsigned int chains;
	size_t done = 0;
	int ret = 1;

	pthread_mutex_lock(&vc->dev.lock);
	if (vc->dev.paused)
		vc->rx_wanted = true; /* the kick that follows a resume asks for it */
	if (!vc->up || vc->dev.paused || !q->active)
		goto out;
	for (chains = 0; chains < TURN_CHAINS && done < len; chains++) {
		uint64_t n;

		ret = queue_pop(q, &vc->rx);
		if (!ret && queue_enable_kicks(q))
			continue;
		if (ret > 0 && (vc->rx.nr_out || !vc->rx.in_len))
			ret = -EIO;
		if (ret <= 0)
			break;
		n = queue_chain_write(&vc->rx, 0, buf + done, len - done);
		done += (size_t)n;
		queue_push(q, vc->rx.head, (uint32_t)n);
	}
	if (done)
		virtio_signal(&vc->dev, RX);
	if (ret < 0) {
		fail(vc, "malformed receive queue");
	} else if (done < len) {
		vc->rx_wanted = true;
		if (ret > 0 || chains == TURN_CHAINS)
			virtio_kick(&vc->dev, RX);
	}
out:
	pthread_mutex_unlock(&vc->dev.lock);
	return done;
}

/* The driver posted buffers. */
static void rx_kick(struct vconsole *vc)
{
	if (!vc->up)
		return;
	queue_disable_kicks(&vc->dev.vq[RX]); /* asked for again when input finds no buffer */
	if (vc->rx_wanted) {
		vc->rx_wanted = false;
		console_resume_input(vc->console);
	}
}

static void vconsole_kick(struct virtio_dev *dev, unsigned int q)
{
	struct vconsole *vc = (struct vconsole *)dev;

	if (q == TX)
		tx_run(vc);
	else if (q == RX)
		rx_kick(vc);
}

/* dev->lock held. */
static void set_size(struct vconsole *vc, uint16_t cols, uint16_t rows)
{
	uint16_t size[2] = { htole16(cols), htole16(rows) };

	if (!(vc->dev.features >> VIRTIO_CONSOLE_F_SIZE & 1))
		return; /* the console had no size when the device was made */
	if (memcmp(vc->dev.config, size, sizeof(size)))
		virtio_config_change(&vc->dev, offsetof(struct virtio_console_config, cols), size,
				     sizeof(size));
}

static void resize(void *opaque, uint16_t cols, uint16_t rows)
{
	struct vconsole *vc = opaque;

	pthread_mutex_lock(&vc->dev.lock);
	if (vc->up && !vc->dev.paused)
		set_size(vc, cols, rows);
	pthread_mutex_unlock(&vc->dev.lock);
}

/* emerg_wr works before DRIVER_OK too: one character, no queue (VIRTIO 1.2, 5.3.4). */
static void vconsole_config_write(struct virtio_dev *dev, unsigned int offset, const uint8_t *data,
				  unsigned int len)
{
	struct vconsole *vc = (struct vconsole *)dev;

	if (offset != offsetof(struct virtio_console_config, emerg_wr) || !len)
		return;
	if (!console_write(vc->console, data, 1))
		console_drop(vc->console, 1);
}

/*
 * Takes up work where tx_done says: at DRIVER_OK, and after a pause, which may have been in another
 * process.
 */
static int vconsole_resume(struct virtio_dev *dev)
{
	struct vconsole *vc = (struct vconsole *)dev;
	uint16_t cols, rows;

	vc->up = true;
	if (!vc->attached)
		console_attach(vc->console, &vc->sink);
	vc->attached = true;
	/* nobody listened to resizes until now; the driver reads the size after DRIVER_OK */
	if (console_size(vc->console, &cols, &rows))
		set_size(vc, cols, rows);
	return 0;
}

static int vconsole_activate(struct virtio_dev *dev)
{
	struct vconsole *vc = (struct vconsole *)dev;

	vc->rx_wanted = false;
	vc->tx_held = false;
	vc->tx_done = 0;
	return vconsole_resume(dev);
}

/* A chain that waits for room goes back to the ring; tx_done says where to go on in it. */
static void vconsole_pause(struct virtio_dev *dev)
{
	struct vconsole *vc = (struct vconsole *)dev;

	if (vc->tx_held)
		queue_unpop(&dev->vq[TX], vc->tx.head);
	vc->tx_held = false;
}

static void vconsole_save(struct virtio_dev *dev, struct state_writer *w)
{
	state_writer_u64(w, ((struct vconsole *)dev)->tx_done);
}

static void vconsole_load(struct virtio_dev *dev, struct state_section *s)
{
	/* More than the chain has means that all of it is out: nothing to check. */
	((struct vconsole *)dev)->tx_done = state_reader_u64(s);
}

static void vconsole_reset(struct virtio_dev *dev)
{
	struct vconsole *vc = (struct vconsole *)dev;

	vc->up = false;
	vc->tx_held = false;
	vc->tx_done = 0;
	vc->rx_wanted = false;
	if (vc->attached)
		console_detach(vc->console, &vc->sink);
	vc->attached = false;
}

static void vconsole_destroy(struct virtio_dev *dev)
{
	vconsole_reset(dev);
	virtio_dev_fini(dev);
	free(dev);
}

static const struct virtio_ops vconsole_ops = {
	.name = "virtio-console",
	.activate = vconsole_activate,
	.reset = vconsole_reset,
	.kick = vconsole_kick,
	.config_write = vconsole_config_write,
	.pause = vconsole_pause,
	.resume = vconsole_resume,
	.save = vconsole_save,
	.load = vconsole_load,
	.destroy = vconsole_destroy,
};

int vconsole_create(struct virtio_dev **dev, struct console *console)
{
	struct virtio_console_config config = { 0 };
	struct vconsole *vc = calloc(1, sizeof(*vc));
	uint16_t cols, rows;

	if (!vc) {
		log_err("virtio-console: ENOMEM: check the limit on memory");
		return -ENOMEM;
	}
	virtio_dev_init(&vc->dev, &vconsole_ops, VIRTIO_ID_CONSOLE, 2);
	vc->console = console;
	vc->sink = (struct console_sink){ rx_input, tx_room, resize, vc };
	vc->dev.features = 1ull << VIRTIO_CONSOLE_F_EMERG_WRITE;
	/* A guest saved on a terminal can go on without one: its size is 0 by 0, which is unknown. */
	vc->dev.compatible = 1ull << VIRTIO_CONSOLE_F_SIZE;
	if (console_size(console, &cols, &rows)) {
		vc->dev.features |= 1ull << VIRTIO_CONSOLE_F_SIZE;
		config.cols = htole16(cols);
		config.rows = htole16(rows);
	}
	config.max_nr_ports = htole32(1);
	vc->dev.config_len = sizeof(config);
	memcpy(vc->dev.config, &config, sizeof(config));
	*dev = &vc->dev;
	return 0;
}
