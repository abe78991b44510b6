/* SPDX-License-Identifier: MIT */
#include "virtio/rng.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <sys/random.h>
#include "virtio/virtio.h"
#include "vm/log.h"

/* Bounds on what a guest can make the event loop do at one turn: about a millisecond. */
#define REQUEST_MAX (64u << 10)
#define KICK_MAX    (256u << 10)
#define KICK_COST   4096u /* a request costs at least as much as this many bytes */

struct rng {
	struct virtio_dev dev; /* first: ops cast */
	struct queue_chain chain;
};

/*
 * Fills the chain's buffers up to REQUEST_MAX, in place. Returns the bytes written; short only if
 * the host fails.
 */
static uint32_t rng_fill(const struct queue_chain *c)
{
	uint32_t done = 0;
	unsigned int i;

	for (i = 0; i < c->nr_in && done < REQUEST_MAX; i++) {
		const struct iovec *iov = &c->iov[c->nr_out + i];
		size_t want = iov->iov_len, at = 0;
		int tries = 0;

		if (want > REQUEST_MAX - done)
			want = REQUEST_MAX - done;
		while (at < want) {
			ssize_t ret = getrandom((uint8_t *)iov->iov_base + at, want - at, 0);

			if (ret > 0) {
				at += (size_t)ret;
			} else if (ret == 0 || errno != EINTR || tries++ > 16) {
				log_limited(LOG_WARN, "virtio-rng: getrandom: %s",
					    errno_name(errno));
				return done + (uint32_t)at;
			}
		}
		done += (uint32_t)at;
	}
	return done;
}

static void rng_kick(struct virtio_dev *dev, unsigned int q)
{
	struct rng *rng = (struct rng *)dev;
	struct queue *vq = &dev->vq[0];
	uint32_t spent = 0;
	bool pushed = false;
	int ret = 0;

	queue_disable_kicks(vq);
	while (spent < KICK_MAX) {
		uint32_t len;

		ret = queue_pop(vq, &rng->chain);
		if (!ret) {
			if (!queue_enable_kicks(vq))
				break;
			spent += KICK_COST; /* an index that moves to and fro must not hold us */
			continue;
		}
		if (ret < 0)
			break;
		/* VIRTIO 1.2, 5.4.6.1: only device-writable buffers */
		len = rng->chain.nr_out || !rng->chain.in_len ? 0 : rng_fill(&rng->chain);
		if (!len) {
			/*
			 * the driver waits for one byte at least; a length of 0 is not ours to
			 * give (5.4.6.2)
			 */
			ret = -EIO;
			break;
		}
		queue_push(vq, rng->chain.head, len);
		pushed = true;
		spent += len > KICK_COST ? len : KICK_COST;
	}
	if (pushed)
		virtio_signal(dev, 0);
	if (ret < 0)
		virtio_broken(dev, "malformed ring or request");
	else if (spent >= KICK_MAX)
		virtio_kick(dev, 0);
}

static int rng_activate(struct virtio_dev *dev)
{
	return 0;
}

static void rng_reset(struct virtio_dev *dev)
{
	/* nothing outlives a kick */
}

static void rng_destroy(struct virtio_dev *dev)
{
	virtio_dev_fini(dev);
	free(dev);
}

static const struct virtio_ops rng_ops = {
	.name = "virtio-rng",
	.activate = rng_activate,
	.reset = rng_reset,
	.kick = rng_kick,
	.destroy = rng_destroy,
};

int rng_create(struct virtio_dev **dev)
{
	struct rng *rng;
	uint8_t byte;
	ssize_t n;
	int ret;

	/*
	 * The event loop must never wait for the host's pool: wait here, once, early in a host's
	 * boot.
	 */
	n = getrandom(&byte, 1, GRND_NONBLOCK);
	if (n < 0 && errno == EAGAIN) {
		log_info("virtio-rng: waits for the host's own entropy");
		do {
			n = getrandom(&byte, 1, 0);
		} while (n < 0 && errno == EINTR);
	}
	if (n != 1) {
		ret = n < 0 ? -errno : -EIO;
		log_err("virtio-rng: getrandom: %s: the host's kernel must have it",
			errno_name(ret));
		return ret;
	}
	rng = calloc(1, sizeof(*rng));
	if (!rng) {
		log_err("virtio-rng: ENOMEM: check the limit on memory");
		return -ENOMEM;
	}
	virtio_dev_init(&rng->dev, &rng_ops, VIRTIO_ID_RNG, 1);
	*dev = &rng->dev;
	return 0;
}
