/* SPDX-License-Identifier: MIT */
/*
 * virtio-net. Source: VIRTIO 1.2, section 5.1.
 *
 * Frames move on the event loop, straight between guest memory and a tap; or in the kernel, by
 * vhost-net, which then reads the kicks of all data queues itself. The header before a frame is the
 * tap's own (5.1.6), so offloads are between guest and kernel: nothing of it is looked at here.
 *
 * A receive queue's buffers are popped ahead, as many as the longest frame fills ("held"), since
 * nobody knows a frame's length before it is read. A pause gives them back.
 *
 * Nothing is filtered: the tap hands over all that its bridge sends it. The commands that set
 * filters say what the driver need not get, and are answered.
 */
#include "virtio/net.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include "virtio/passt.h"
#include "virtio/vhost.h"
#include "virtio/virtio.h"
#include "vm/event.h"
#include "vm/kvm.h"
#include "vm/log.h"
#include "vm/state_reader.h"
#include "vm/state_writer.h"

#define HDR   sizeof(struct virtio_net_hdr_mrg_rxbuf)
#define F(f)  (1ull << VIRTIO_NET_F_##f)
#define FRAME (HDR + PASST_FRAME_MAX) /* the longest there is */

/* What one turn of the event loop does for a queue at most; then others have theirs. */
#define TURN_FRAMES   64
#define TURN_COMMANDS 16

/* Of held buffers; a chain that is popped has room for the longest there can be. */
#define HELD_IOV (2 * QUEUE_MAX_SIZE)

/* Taken from what a tap and vhost offer; a guest that has the last ones can do without. */
#define GUEST_OFFLOADS (F(GUEST_CSUM) | F(GUEST_TSO4) | F(GUEST_TSO6) | F(GUEST_ECN) | F(GUEST_UFO))
#define HOST_OFFLOADS  (F(CSUM) | F(HOST_TSO4) | F(HOST_TSO6) | F(HOST_ECN))
#define VHOST_FEATURES                                                                             \
	(F(MRG_RXBUF) | 1ull << VIRTIO_RING_F_INDIRECT_DESC | 1ull << VIRTIO_RING_F_EVENT_IDX)

/* A chain of a receive queue in hand. */
struct net_held {
	uint16_t head, nr_iov;
	uint32_t len;
};

struct net_pair {
	struct net *net;
	struct event ev; /* the tap's queue, or the stream */
	uint32_t events; /* those it is in the loop for; 0: it isn't */
	struct vhost vhost;
	bool kernel;  /* vhost has the queues */
	bool starved; /* no buffers: nothing is read until the driver kicks */
	bool blocked; /* the peer takes no more: nothing is sent until it does */
	/* Both arrays from their _at on; room: bytes. */
	unsigned int held_at, nr_held, iov_at, nr_iov;
	uint64_t room;
	struct net_held held[HELD_IOV];
	struct iovec iov[HELD_IOV + 1];
};

struct net {
	struct virtio_dev dev; /* first: ops cast */
	struct tap tap;	       /* nr is 0 with passt */
	struct passt *passt;
	unsigned int nr_pairs, pairs; /* there are, the driver uses */
	uint8_t mac[NET_MAC_SIZE];    /* before the driver sets another */
	bool vhost;
	bool up;       /* from activate or resume to reset or pause, and the driver kept to the rules */
	bool lost;     /* the peer is gone */
	bool restored; /* the network must be told where the guest is now */
	bool announce; /* the driver is asked to */
	struct event err;  /* vhost writes to it when it finds a ring malformed */
	struct event link; /* rtnetlink says that some interface has changed */
	struct event kick[VIRTIO_MAX_QUEUES]; /* of queues that vhost does not serve */
	struct net_pair pair[NET_MAX_PAIRS];
	struct queue_chain chain;
	uint8_t sink;
};

static struct net *to_net(struct virtio_dev *dev)
{
	return (struct net *)dev;
}

static void net_stop(struct net *net);

/* The driver broke the rules. */
static void net_fail(struct net *net, const char *why)
{
	net_stop(net);
	virtio_broken(&net->dev, why);
}

static uint16_t link_status(const struct net *net)
{
	return htole16((net->lost ? 0 : VIRTIO_NET_S_LINK_UP) |
		       (net->announce ? VIRTIO_NET_S_ANNOUNCE : 0));
}

static void tell_status(struct net *net)
{
	uint16_t status = link_status(net);

	virtio_config_change(&net->dev, offsetof(struct virtio_net_config, status), &status,
			     sizeof(status));
}

/* --- the peer --------------------------------------------------------------------------------- */

static void pair_stop(struct net_pair *pair);
static int serve(struct net *net, unsigned int q);

/* Said once. What the guest sends from now on is dropped. */
static void net_lost(struct net *net)
{
	if (net->lost)
		return;
	net->lost = true;
	if (!net->passt) /* which has said it */
		log_warn("net: tap %s: the interface is gone: the guest's link is down", net->tap.name);
	for (unsigned int i = 0; i < net->pairs; i++) {
		pair_stop(&net->pair[i]);
		/* The driver may wait for what the peer did not take, and not kick again. */
		if (net->up && (!net->vhost || !serve(net, 2 * i + 1)))
			virtio_kick(&net->dev, 2 * i + 1);
	}
	tell_status(net);
}

/* In the loop for what the pair waits for, and for nothing else: an error of the peer's stays. */
static void pair_listen(struct net_pair *pair)
{
	struct event_loop *loop = pair->net->dev.loop;
	const struct passt *passt = pair->net->passt;
	bool out = pair->blocked || (passt && passt->out_len); /* which keeps the rest of a frame */
	uint32_t events = (pair->starved ? 0 : EPOLLIN) | (out ? EPOLLOUT : 0);
	int ret = 0;

	if (pair->net->lost || !pair->net->up)
		events = 0;
	if (events == pair->events)
		return;
	if (!events)
		event_del(loop, &pair->ev);
	else
		ret = pair->events ? event_mod(loop, &pair->ev, events) :
				     event_add(loop, &pair->ev, events);
	if (ret)
		log_limited(LOG_ERROR, "net: epoll_ctl: %s: check fs.epoll.max_user_watches",
			    errno_name(ret));
	pair->events = ret ? 0 : events;
}

/* Skips the header, which passt's frames don't have. What it returns was changed to @was. */
static struct iovec *skip_header(struct iovec *iov, unsigned int *nr, struct iovec *was)
{
	size_t skip = HDR;

	while (*nr && skip >= iov->iov_len) {
		skip -= iov->iov_len;
		iov++;
		--*nr;
	}
	*was = *iov;
	if (*nr) {
		iov->iov_base = (uint8_t *)iov->iov_base + skip;
		iov->iov_len -= skip;
	}
	return iov;
}

/* Sends the chain in hand. 0: the driver can have it back; -EAGAIN: later. */
static int net_send(struct net *net, struct net_pair *pair)
{
	struct queue_chain *c = &net->chain;
	unsigned int nr = c->nr_out;
	struct iovec *iov, was;
	int ret;

	if (net->lost || !pair->net->up || pair >= net->pair + net->pairs || c->out_len > FRAME)
		return 0;
	if (!net->passt) {
		/* What is wrong with a frame or its header, the kernel finds, and it is dropped. */
		ret = writev(pair->ev.fd, c->iov, (int)nr) < 0 ? -errno : 0;
		if (ret == -EBADFD)
			net_lost(net);
		return ret == -EAGAIN || ret == -EINTR ? -EAGAIN : 0;
	}
	iov = skip_header(c->iov, &nr, &was);
	ret = passt_send(net->passt, iov, nr);
	if (ret == -EPIPE)
		net_lost(net);
	return ret == -EAGAIN ? ret : 0;
}

static uint8_t *iov_byte(const struct iovec *iov, size_t at)
{
	while (at >= iov->iov_len)
		at -= iov++->iov_len;
	return (uint8_t *)iov->iov_base + at;
}

/*
 * A frame with its header into the held buffers; its length, more than there is room for when it was
 * cut, or -errno.
 */
static ssize_t net_receive(struct net *net, struct net_pair *pair)
{
	struct iovec *iov = pair->iov + pair->iov_at, *data, was;
	unsigned int nr = pair->nr_iov;
	ssize_t n;

	if (!net->passt) {
		was = iov[nr];
		iov[nr] = (struct iovec){ &net->sink, 1 };
		n = readv(pair->ev.fd, iov, (int)nr + 1);
		iov[nr] = was;
		return n < 0 ? -errno : n ? n : -EBADFD;
	}
	data = skip_header(iov, &nr, &was);
	n = passt_receive(net->passt, data, nr);
	*data = was;
	for (size_t i = 0; n > 0 && i < HDR; i++)
		*iov_byte(iov, i) = 0;
	return n > 0 ? n + (ssize_t)HDR : n;
}

/* --- receiving -------------------------------------------------------------------------------- */

/* Gives the held chains back, the newest first. */
static void rx_give_back(struct net_pair *pair)
{
	struct queue *q = &pair->net->dev.vq[2 * (pair - pair->net->pair)];

	while (pair->nr_held)
		queue_unpop(q, pair->held[pair->held_at + --pair->nr_held].head);
	pair->held_at = pair->iov_at = pair->nr_iov = 0;
	pair->room = 0;
}

/* Pops what the longest frame needs, or one chain where a frame has but one. 0 or -EIO. */
static int rx_hold(struct net *net, struct net_pair *pair, struct queue *q)
{
	bool merge = virtio_acked(&net->dev, VIRTIO_NET_F_MRG_RXBUF);
	const struct queue_chain *c = &net->chain;
	int ret;

	if (pair->iov_at + pair->nr_iov > HELD_IOV - QUEUE_MAX_SIZE) {
		memmove(pair->held, pair->held + pair->held_at, pair->nr_held * sizeof(*pair->held));
		memmove(pair->iov, pair->iov + pair->iov_at, pair->nr_iov * sizeof(*pair->iov));
		pair->held_at = pair->iov_at = 0;
	}
	while (merge ? pair->room < FRAME : !pair->nr_held) {
		struct net_held *held = &pair->held[pair->held_at + pair->nr_held];

		if (pair->iov_at + pair->nr_iov > HELD_IOV - QUEUE_MAX_SIZE)
			break;
		ret = queue_pop(q, &net->chain);
		if (ret <= 0)
			return ret;
		/* 5.1.6.3.1: room for the header at least */
		if (c->nr_out || c->in_len < HDR)
			return -EIO;
		*held = (struct net_held){ c->head, c->nr_in,
					   c->in_len < UINT32_MAX ? (uint32_t)c->in_len : UINT32_MAX };
		memcpy(pair->iov + pair->iov_at + pair->nr_iov, c->iov, c->nr_in * sizeof(*c->iov));
		pair->nr_held++;
		pair->nr_iov += c->nr_in;
		pair->room += held->len;
	}
	return 0;
}

/*
 * Has the driver to post more before the next frame is taken? Where the ring holds several of the
 * longest, a driver that was outrun will; with less, a frame that does not fit is dropped, since it
 * may wait for frames before it posts anything.
 */
static bool rx_short(const struct net *net, const struct net_pair *pair, const struct queue *q)
{
	return !pair->nr_held ||
	       (pair->room < FRAME && pair->nr_iov <= HELD_IOV - QUEUE_MAX_SIZE &&
		virtio_acked(&net->dev, VIRTIO_NET_F_MRG_RXBUF) &&
		pair->room / pair->nr_held * q->num >= 4 * FRAME);
}

/* The first @len bytes of what is held are a frame: the driver gets its chains all at once. */
static void rx_deliver(struct net_pair *pair, struct queue *q, uint64_t len)
{
	const struct iovec *iov = pair->iov + pair->iov_at;
	unsigned int nr = 0;
	uint64_t left;

	for (left = len; left; nr++)
		left -= left < pair->held[pair->held_at + nr].len ?
				left : pair->held[pair->held_at + nr].len;
	/* 5.1.6.4: 1 where a frame has but one */
	*iov_byte(iov, HDR - 2) = (uint8_t)nr;
	*iov_byte(iov, HDR - 1) = (uint8_t)(nr >> 8);
	for (; nr; nr--) {
		const struct net_held *held = &pair->held[pair->held_at++];
		uint32_t n = len < held->len ? (uint32_t)len : held->len;

		queue_fill(q, held->head, n);
		len -= n;
		pair->nr_held--;
		pair->iov_at += held->nr_iov;
		pair->nr_iov -= held->nr_iov;
		pair->room -= held->len;
	}
	queue_publish(q);
}

/* Event-loop thread, dev->lock held. */
static void rx_run(struct net_pair *pair)
{
	struct net *net = pair->net;
	unsigned int i = 2 * (unsigned int)(pair - net->pair), frames;
	struct queue *q = &net->dev.vq[i];
	ssize_t n = 0;
	int ret = 0;

	queue_disable_kicks(q);
	for (frames = 0; frames < TURN_FRAMES; frames++) {
		ret = rx_hold(net, pair, q);
		if (ret < 0)
			break;
		if (rx_short(net, pair, q)) {
			if (queue_enable_kicks(q))
				continue;
			pair->starved = true;
			break;
		}
		n = net_receive(net, pair);
		if (n == -EAGAIN || n == -EBADFD || n == -EPIPE)
			break;
		/* Of others' making, or EINTR: the kernel has dropped that frame, and has more. */
		if (n < 0)
			continue;
		/* A frame that the driver has no room for is dropped, as on a wire. */
		if ((uint64_t)n <= pair->room)
			rx_deliver(pair, q, (uint64_t)n);
	}
	virtio_signal(&net->dev, i);
	if (ret < 0)
		net_fail(net, "malformed receive queue");
	else if (n == -EBADFD || n == -EPIPE)
		net_lost(net);
	else if (frames == TURN_FRAMES)
		virtio_kick(&net->dev, i); /* passt holds frames that epoll knows nothing of */
	pair_listen(pair);
}

/* The driver posted buffers. */
static void rx_kick(struct net_pair *pair)
{
	if (pair->net->lost || pair->kernel || pair >= pair->net->pair + pair->net->pairs)
		return;
	pair->starved = false;
	rx_run(pair);
}

/* --- sending ---------------------------------------------------------------------------------- */

/* Event-loop thread, dev->lock held. */
static void tx_run(struct net_pair *pair)
{
	struct net *net = pair->net;
	unsigned int i = 2 * (unsigned int)(pair - net->pair) + 1, frames;
	struct queue *q = &net->dev.vq[i];
	int ret = 0;

	if (pair->blocked || pair->kernel)
		return;
	queue_disable_kicks(q);
	for (frames = 0; frames < TURN_FRAMES; frames++) {
		ret = queue_pop(q, &net->chain);
		if (!ret && queue_enable_kicks(q))
			continue;
		if (ret > 0 && (net->chain.nr_in || net->chain.out_len < HDR)) /* 5.1.6.2 */
			ret = -EIO;
		if (ret <= 0)
			break;
		if (net_send(net, pair)) {
			queue_unpop(q, net->chain.head);
			pair->blocked = true;
			break;
		}
		queue_push(q, net->chain.head, 0);
	}
	virtio_signal(&net->dev, i);
	if (ret < 0)
		net_fail(net, "malformed transmit queue");
	else if (frames == TURN_FRAMES)
		virtio_kick(&net->dev, i);
	pair_listen(pair);
}

/* The peer has something, or takes something again. */
static void pair_event(struct event *ev, uint32_t events)
{
	struct net_pair *pair = ev->opaque;
	struct net *net = pair->net;
	int ret;

	pthread_mutex_lock(&net->dev.lock);
	/* It may have been chosen before it left the loop. */
	events &= pair->events | EPOLLERR | EPOLLHUP;
	if (!pair->events || !net->up)
		events = 0;
	if (events & EPOLLERR && !net->passt) {
		net_lost(net);
		events = 0;
	}
	/* A stream that was shut down while it was full may never be writable again. */
	if (events & (EPOLLOUT | EPOLLHUP) && pair->events & EPOLLOUT) {
		ret = net->passt ? passt_flush(net->passt) : 0;
		pair->blocked = ret == -EAGAIN;
		if (ret == -EPIPE)
			net_lost(net);
		tx_run(pair);
	}
	if (events & ~EPOLLOUT && net->up && !net->lost && !pair->starved)
		rx_run(pair);
	pthread_mutex_unlock(&net->dev.lock);
}

/* --- the control queue ------------------------------------------------------------------------ */

static int set_pairs(struct net *net, unsigned int n);

/* 5.1.6.5.2: two tables, each of a number and as many addresses. */
static bool mac_tables_fit(const struct queue_chain *c)
{
	uint64_t at = sizeof(struct virtio_net_ctrl_hdr);
	uint32_t nr;

	for (unsigned int i = 0; i < 2; i++) {
		if (queue_chain_read(c, at, &nr, sizeof(nr)) != sizeof(nr))
			return false;
		at += sizeof(nr) + (uint64_t)le32toh(nr) * NET_MAC_SIZE;
		if (at > c->out_len)
			return false;
	}
	return true;
}

static bool set_mac(struct net *net)
{
	uint8_t mac[NET_MAC_SIZE];

	if (queue_chain_read(&net->chain, sizeof(struct virtio_net_ctrl_hdr), mac, sizeof(mac)) !=
	    sizeof(mac))
		return false;
	virtio_config_change(&net->dev, offsetof(struct virtio_net_config, mac), mac, sizeof(mac));
	return true;
}

static bool pairs_set(struct net *net)
{
	uint16_t nr;

	if (queue_chain_read(&net->chain, sizeof(struct virtio_net_ctrl_hdr), &nr, sizeof(nr)) !=
	    sizeof(nr))
		return false;
	nr = le16toh(nr);
	return nr && nr <= net->nr_pairs && !set_pairs(net, nr);
}

/* Carries out the command in hand: was it one, and could it be? */
static bool ctrl_command(struct net *net)
{
	const struct queue_chain *c = &net->chain;
	struct virtio_dev *dev = &net->dev;
	struct virtio_net_ctrl_hdr hdr;

	if (queue_chain_read(c, 0, &hdr, sizeof(hdr)) != sizeof(hdr))
		return false;
	switch (hdr.class << 8 | hdr.cmd) {
	case VIRTIO_NET_CTRL_RX << 8 | VIRTIO_NET_CTRL_RX_PROMISC:
	case VIRTIO_NET_CTRL_RX << 8 | VIRTIO_NET_CTRL_RX_ALLMULTI:
		return virtio_acked(dev, VIRTIO_NET_F_CTRL_RX) && c->out_len > sizeof(hdr);
	case VIRTIO_NET_CTRL_MAC << 8 | VIRTIO_NET_CTRL_MAC_TABLE_SET:
		return virtio_acked(dev, VIRTIO_NET_F_CTRL_RX) && mac_tables_fit(c);
	case VIRTIO_NET_CTRL_MAC << 8 | VIRTIO_NET_CTRL_MAC_ADDR_SET:
		return virtio_acked(dev, VIRTIO_NET_F_CTRL_MAC_ADDR) && set_mac(net);
	case VIRTIO_NET_CTRL_ANNOUNCE << 8 | VIRTIO_NET_CTRL_ANNOUNCE_ACK:
		if (!virtio_acked(dev, VIRTIO_NET_F_GUEST_ANNOUNCE))
			return false;
		net->announce = false;
		tell_status(net);
		return true;
	case VIRTIO_NET_CTRL_MQ << 8 | VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET:
		return virtio_acked(dev, VIRTIO_NET_F_MQ) && pairs_set(net);
	default:
		return false;
	}
}

/* 5.1.2: the last of the queues that the driver knows of. */
static unsigned int ctrl_queue(const struct net *net)
{
	return virtio_acked(&net->dev, VIRTIO_NET_F_MQ) ? 2 * net->nr_pairs : 2;
}

static void ctrl_run(struct net *net)
{
	unsigned int i = ctrl_queue(net), commands;
	struct queue *q = &net->dev.vq[i];
	struct queue_chain *c = &net->chain;
	uint8_t answer;
	int ret = 0;

	for (commands = 0; commands < TURN_COMMANDS && net->up; commands++) {
		ret = queue_pop(q, c);
		if (!ret && queue_enable_kicks(q))
			continue;
		if (ret > 0 && !c->in_len)
			ret = -EIO; /* nobody to answer */
		if (ret <= 0)
			break;
		answer = ctrl_command(net) ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
		queue_push(q, c->head, (uint32_t)queue_chain_write(c, 0, &answer, 1));
	}
	virtio_signal(&net->dev, i);
	if (ret < 0)
		net_fail(net, "malformed control queue");
	else if (commands == TURN_COMMANDS)
		virtio_kick(&net->dev, i);
}

static void net_kick(struct virtio_dev *dev, unsigned int q)
{
	struct net *net = to_net(dev);

	if (!net->up)
		return;
	if (q == ctrl_queue(net))
		ctrl_run(net);
	else if (q >= 2 * net->nr_pairs)
		return;
	else if (q & 1)
		tx_run(&net->pair[q / 2]);
	else
		rx_kick(&net->pair[q / 2]);
}

/* --- vhost ------------------------------------------------------------------------------------ */

static int net_vhost_run(struct vhost *vhost, bool on)
{
	struct net_pair *pair =
		(struct net_pair *)((char *)vhost - offsetof(struct net_pair, vhost));
	int ret = 0;

	for (unsigned int i = 0; i < VHOST_NR_RINGS && (!on || !ret); i++) {
		struct vhost_vring_file file = { .index = i, .fd = on ? pair->ev.fd : VHOST_FILE_UNBIND };
		int r = vhost_ioctl(vhost, VHOST_NET_SET_BACKEND, &file);

		ret = r ? r : ret;
	}
	return ret;
}

static const struct vhost_kind net_vhost_kind = {
	.path = "/dev/vhost-net",
	.missing = ": load the vhost_net module or build the kernel with CONFIG_VHOST_NET, or say vhost=no",
	.run = net_vhost_run,
};

static bool err_drain(struct net *net)
{
	uint64_t count;

	return read(net->err.fd, &count, sizeof(count)) == sizeof(count);
}

/* As in vsock: may be called once more when it has left the loop. */
static void err_event(struct event *ev, uint32_t events)
{
	struct net *net = ev->opaque;

	pthread_mutex_lock(&net->dev.lock);
	if (net->up && err_drain(net))
		net_fail(net, "vhost found a ring malformed");
	pthread_mutex_unlock(&net->dev.lock);
}

/* The kick of a queue that vhost leaves to us. */
static void kick_event(struct event *ev, uint32_t events)
{
	struct net *net = ev->opaque;
	unsigned int q = (unsigned int)(ev - net->kick);
	uint64_t count;

	pthread_mutex_lock(&net->dev.lock);
	/* Called once more when it has left the loop, it would take a kick that is vhost's by now. */
	if (ev->armed && net->dev.vq[q].active && read(ev->fd, &count, sizeof(count)) > 0)
		net_kick(&net->dev, q);
	pthread_mutex_unlock(&net->dev.lock);
}

static int serve(struct net *net, unsigned int q)
{
	struct event *ev = &net->kick[q];

	if (ev->armed)
		return 0;
	ev->fd = virtio_kick_fd(&net->dev, q);
	ev->fn = kick_event;
	ev->opaque = net;
	return event_add(net->dev.loop, ev, EPOLLIN);
}

/* --- start and stop --------------------------------------------------------------------------- */

static bool tap_gone(const struct net *net)
{
	struct ifreq ifr;

	return !net->passt && ioctl(net->tap.fd[0], (int)TUNGETIFF, &ifr) < 0 && errno == EBADFD;
}

/* Some interface has changed; vhost does not say when its own is gone, nor does a tap nobody reads. */
static void link_event(struct event *ev, uint32_t events)
{
	struct net *net = ev->opaque;
	char skip[64];

	for (unsigned int i = 0; i < TURN_FRAMES; i++) {
		if (recv(ev->fd, skip, sizeof(skip), MSG_DONTWAIT) < 0 && errno == EAGAIN)
			break;
	}
	pthread_mutex_lock(&net->dev.lock);
	if (net->up && tap_gone(net))
		net_lost(net);
	pthread_mutex_unlock(&net->dev.lock);
}

static int pair_start(struct net_pair *pair)
{
	struct net *net = pair->net;
	struct virtio_dev *dev = &net->dev;
	unsigned int q = 2 * (unsigned int)(pair - net->pair);
	struct vhost_ring ring[VHOST_NR_RINGS];
	int ret;

	pair->starved = true;
	pair->blocked = false;
	if (net->lost && net->vhost)
		return serve(net, q + 1);
	if (net->vhost) {
		for (unsigned int i = 0; i < VHOST_NR_RINGS; i++)
			ring[i] = (struct vhost_ring){ &dev->vq[q + i], virtio_kick_fd(dev, q + i) };
		if (!dev->vq[q].active || !dev->vq[q + 1].active)
			return 0; /* an odd driver, and an idle pair */
		ret = vhost_start(&pair->vhost,
				  dev->acked & pair->vhost.features &
					  (VHOST_FEATURES | 1ull << VIRTIO_F_VERSION_1),
				  dev->mem, ring, virtio_call_fd(dev), net->err.fd);
		pair->kernel = !ret;
		return ret;
	}
	/* What the driver did before is looked at now. */
	virtio_kick(dev, q);
	virtio_kick(dev, q + 1);
	return 0;
}

static void pair_stop(struct net_pair *pair)
{
	struct net *net = pair->net;

	if (pair->kernel && vhost_stop(&pair->vhost))
		virtio_broken(&net->dev, "vhost does not say where it stopped");
	pair->kernel = false;
	pair->starved = true;
	pair->blocked = false;
	rx_give_back(pair);
	if (pair->events)
		event_del(net->dev.loop, &pair->ev);
	pair->events = 0;
}

static int tap_pairs(struct net *net, unsigned int n)
{
	net->pairs = n;
	return net->nr_pairs > 1 && n && !net->lost ? tap_enable(&net->tap, n) : 0;
}

/* The driver uses @n pairs from now on; the host sends to these alone. 0 or -errno. */
static int set_pairs(struct net *net, unsigned int n)
{
	unsigned int was = net->pairs, i;
	int ret;

	for (i = n; i < was; i++)
		pair_stop(&net->pair[i]);
	ret = tap_pairs(net, n);
	for (i = was; i < n && !ret; i++)
		ret = pair_start(&net->pair[i]);
	if (ret && n > was) {
		while (i-- > was)
			pair_stop(&net->pair[i]);
		tap_pairs(net, was);
	}
	return ret;
}

static unsigned int tun_offloads(uint64_t features)
{
	return (features & F(GUEST_CSUM) ? TUN_F_CSUM : 0) |
	       (features & F(GUEST_TSO4) ? TUN_F_TSO4 : 0) |
	       (features & F(GUEST_TSO6) ? TUN_F_TSO6 : 0) |
	       (features & F(GUEST_ECN) ? TUN_F_TSO_ECN : 0) |
	       (features & F(GUEST_UFO) ? TUN_F_UFO : 0);
}

static void net_stop(struct net *net)
{
	struct event_loop *loop = net->dev.loop;

	net->up = false;
	for (unsigned int i = 0; i < net->nr_pairs; i++)
		pair_stop(&net->pair[i]);
	for (unsigned int i = 0; i < net->dev.nr_queues; i++)
		event_del(loop, &net->kick[i]);
	event_del(loop, &net->err);
	event_del(loop, &net->link);
}

/* With net->pairs pairs, from where the queues are. */
static int net_start(struct net *net)
{
	struct event_loop *loop = net->dev.loop;
	unsigned int pairs = net->pairs;
	int ret = 0;

	net->up = true;
	net->pairs = 0;
	if (tap_gone(net))
		net_lost(net);
	if (!net->passt && !net->lost)
		ret = tap_set_offloads(&net->tap, tun_offloads(net->dev.acked & net->dev.features));
	if (!ret && !net->passt)
		ret = event_add(loop, &net->link, EPOLLIN);
	if (!ret && net->vhost) {
		err_drain(net); /* what is left of the last driver's */
		ret = event_add(loop, &net->err, EPOLLIN);
		if (!ret && net->dev.vq[ctrl_queue(net)].active)
			ret = serve(net, ctrl_queue(net));
	}
	if (!ret)
		ret = set_pairs(net, pairs);
	if (ret) {
		log_limited(LOG_ERROR, "net: can't start: %s", errno_name(ret));
		net_stop(net);
		net->pairs = pairs;
	}
	return ret;
}

static int net_activate(struct virtio_dev *dev)
{
	struct net *net = to_net(dev);

	net->pairs = 1; /* until the driver says more, 5.1.6.5.5 */
	return net_start(net);
}

static void net_reset(struct virtio_dev *dev)
{
	struct net *net = to_net(dev);
	struct virtio_net_config *config = (struct virtio_net_config *)dev->config;

	net_stop(net);
	net->pairs = 1;
	net->restored = net->announce = false;
	memcpy(config->mac, net->mac, sizeof(config->mac));
	config->status = link_status(net);
}

static void net_pause(struct virtio_dev *dev)
{
	struct net *net = to_net(dev);
	bool was = net->up;

	net_stop(net);
	if (was && net->vhost && err_drain(net)) /* the loop did not come to it */
		virtio_broken(dev, "vhost found a ring malformed");
}

static int net_resume(struct virtio_dev *dev)
{
	struct net *net = to_net(dev);

	if (net->restored && virtio_acked(dev, VIRTIO_NET_F_GUEST_ANNOUNCE)) {
		net->announce = true;
		tell_status(net);
	}
	net->restored = false;
	return net_start(net);
}

static void net_save(struct virtio_dev *dev, struct state_writer *w)
{
	struct net *net = to_net(dev);

	state_writer_u32(w, net->pairs);
	state_writer_bytes(w, dev->config, NET_MAC_SIZE);
}

static void net_load(struct virtio_dev *dev, struct state_section *s)
{
	struct net *net = to_net(dev);
	uint32_t pairs = state_reader_u32(s);
	uint8_t mac[NET_MAC_SIZE];

	state_reader_bytes(s, mac, sizeof(mac));
	if (s->err)
		return;
	if (!pairs || pairs > net->nr_pairs ||
	    (pairs > 1 && !virtio_acked(dev, VIRTIO_NET_F_MQ))) {
		state_reader_bad(s, "net: %u pairs of queues in use, of %u", pairs, net->nr_pairs);
		return;
	}
	net->pairs = pairs;
	memcpy(dev->config, mac, NET_MAC_SIZE);
	net->restored = dev->active;
}

static void net_destroy(struct virtio_dev *dev)
{
	struct net *net = to_net(dev);

	for (unsigned int i = 0; i < net->nr_pairs; i++)
		vhost_close(&net->pair[i].vhost);
	if (net->passt)
		passt_close(net->passt);
	tap_close(&net->tap);
	if (net->err.fd >= 0)
		close(net->err.fd);
	if (net->link.fd >= 0)
		close(net->link.fd);
	virtio_dev_fini(dev);
	free(net->passt);
	free(net);
}

static const struct virtio_ops net_ops = {
	.name = "virtio-net",
	.activate = net_activate,
	.reset = net_reset,
	.kick = net_kick,
	.pause = net_pause,
	.resume = net_resume,
	.save = net_save,
	.load = net_load,
	.destroy = net_destroy,
};

/* --- making one ------------------------------------------------------------------------------- */

/* What the kernel takes of the offloads; those it does not know are the later ones. */
static uint64_t tap_features(struct net *net)
{
	static const uint64_t tries[] = { GUEST_OFFLOADS, GUEST_OFFLOADS & ~F(GUEST_UFO), F(GUEST_CSUM) };
	uint64_t features = HOST_OFFLOADS;

	for (unsigned int i = 0; i < sizeof(tries) / sizeof(*tries); i++) {
		if (!tap_set_offloads(&net->tap, tun_offloads(tries[i]))) {
			features |= tries[i];
			break;
		}
	}
	tap_set_offloads(&net->tap, 0);
	return features;
}

static int open_link(struct net *net)
{
	struct sockaddr_nl addr = { .nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK };

	net->link.fn = link_event;
	net->link.opaque = net;
	net->link.fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
	if (net->link.fd < 0 || bind(net->link.fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		int ret = -errno;

		log_err("net: rtnetlink: %s", errno_name(ret));
		return ret;
	}
	return 0;
}

static int open_vhost(struct net *net, enum net_vhost want)
{
	int fd, ret = 0;

	if (want == NET_VHOST_NO)
		return 0;
	if (want == NET_VHOST_AUTO) {
		fd = open(net_vhost_kind.path, O_RDWR | O_CLOEXEC);
		if (fd < 0) {
			log_info("net: %s: %s: its frames take the way through this process", net_vhost_kind.path,
				 errno_name(errno));
			return 0;
		}
		close(fd);
	}
	net->err.fn = err_event;
	net->err.opaque = net;
	net->err.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (net->err.fd < 0) {
		ret = -errno;
		log_err("net: eventfd: %s: check the limit of open files", errno_name(ret));
	}
	for (unsigned int i = 0; i < net->nr_pairs && !ret; i++)
		ret = vhost_open(&net->pair[i].vhost, &net_vhost_kind);
	net->vhost = !ret;
	return ret;
}

static int open_tap(struct net *net, const struct net_config *config)
{
	bool bridge = config->kind == NET_BRIDGE;
	int ret = tap_open(&net->tap, bridge ? NULL : config->peer, bridge ? config->peer : NULL,
			   config->pairs);

	if (!ret && config->mtu && config->mtu != net->tap.mtu)
		ret = tap_set_mtu(&net->tap, config->mtu);
	if (!ret && config->pairs > 1)
		ret = tap_enable(&net->tap, 1);
	if (!ret)
		ret = open_link(net);
	if (!ret)
		ret = open_vhost(net, config->vhost);
	if (ret)
		return ret;
	net->dev.features |= tap_features(net);
	for (unsigned int i = 0; i < net->nr_pairs; i++)
		net->pair[i].ev.fd = net->tap.fd[i];
	if (!net->vhost)
		return 0;
	net->dev.vhost = net->dev.no_ring_features = true;
	net->dev.own_kicks = (1u << net->dev.nr_queues) - 1;
	net->dev.features |= VHOST_FEATURES;
	for (unsigned int i = 0; i < net->nr_pairs; i++)
		net->dev.features &= ~(VHOST_FEATURES & ~net->pair[i].vhost.features);
	return 0;
}

static int open_passt(struct net *net, const struct net_config *config)
{
	int ret;

	net->passt = malloc(sizeof(*net->passt));
	if (!net->passt) {
		log_err("net: ENOMEM: check the limit on memory");
		return -ENOMEM;
	}
	ret = passt_open(net->passt, config->peer);
	net->pair[0].ev.fd = net->passt->fd;
	return ret;
}

static void set_config(struct net *net, const struct net_config *config)
{
	unsigned int mtu = config->mtu ? config->mtu : net->tap.mtu;
	struct virtio_net_config c = {
		.status = link_status(net),
		.max_virtqueue_pairs = htole16((uint16_t)net->nr_pairs),
		.mtu = htole16((uint16_t)mtu),
	};

	memcpy(net->mac, config->mac, sizeof(net->mac));
	memcpy(c.mac, config->mac, sizeof(c.mac));
	net->dev.config_len = offsetof(struct virtio_net_config, mtu) + sizeof(c.mtu);
	memcpy(net->dev.config, &c, net->dev.config_len);
	if (mtu)
		net->dev.features |= F(MTU);
	if (net->nr_pairs > 1)
		net->dev.features |= F(MQ);
}

int net_create(struct virtio_dev **dev, const struct net_config *config)
{
	struct net *net = calloc(1, sizeof(*net));
	int ret = -EINVAL;

	if (!net) {
		log_err("net: ENOMEM: check the limit on memory");
		return -ENOMEM;
	}
	virtio_dev_init(&net->dev, &net_ops, VIRTIO_ID_NET, 2 * config->pairs + 1);
	net->dev.features = F(MAC) | F(STATUS) | F(MRG_RXBUF) | F(CTRL_VQ) | F(CTRL_RX) |
			    F(CTRL_MAC_ADDR) | F(GUEST_ANNOUNCE);
	/* What a driver that has them takes, but can do without. */
	net->dev.compatible = GUEST_OFFLOADS | F(MTU);
	net->nr_pairs = config->pairs;
	net->pairs = 1;
	net->err.fd = net->link.fd = -1;
	for (unsigned int i = 0; i < NET_MAX_PAIRS; i++) {
		net->pair[i].net = net;
		net->pair[i].vhost.fd = -1;
		net->pair[i].ev = (struct event){ .fd = -1, .fn = pair_event, .opaque = &net->pair[i] };
	}
	ret = config->kind == NET_PASST ? open_passt(net, config) : open_tap(net, config);
	if (ret) {
		net_destroy(&net->dev);
		return ret;
	}
	set_config(net, config);
	*dev = &net->dev;
	return 0;
}
