/* SPDX-License-Identifier: MIT */
/*
 * virtio-net against a driver that writes anything anywhere. The input is a byte of options, a byte
 * of what the host sends, and then guest memory from its start: for each queue 0x800 bytes of
 * descriptors, available ring and used ring; the rest is data.
 *
 * The device's inside is what is called here, so its source is read in; the tap is a pair of
 * sockets, and there is a device with a stream in its place. Links with what driver.h names.
 */
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include "virtio/net.c"

#include "tests/unit/driver.h"

#define RAM_SIZE (64u << 10)
#define NUM	 32

static int peer[2][NET_MAX_PAIRS]; /* of a device with one pair, and of one with four */

int tap_open(struct tap *tap, const char *ifname, const char *bridge, unsigned int nr)
{
	memset(tap, 0, sizeof(*tap));
	for (unsigned int i = 0; i < nr; i++) {
		int pair[2];

		if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair))
			abort();
		tap->fd[i] = pair[0];
		peer[nr > 1][i] = pair[1];
	}
	tap->nr = tap->enabled = nr;
	tap->mtu = 1500;
	return 0;
}

int tap_set_mtu(struct tap *tap, unsigned int mtu)
{
	return 0;
}

int tap_set_offloads(struct tap *tap, unsigned int tun_f)
{
	return 0;
}

int tap_enable(struct tap *tap, unsigned int nr)
{
	tap->enabled = nr;
	return 0;
}

void tap_close(struct tap *tap)
{
}

static struct driver d;
static int stream; /* the other end of the device's that has one */

static struct net *create_passt(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct net_config config = { .kind = NET_PASST, .peer = addr.sun_path, .pairs = 1 };
	int listener = socket(AF_UNIX, SOCK_STREAM, 0);
	struct virtio_dev *dev;

	snprintf(addr.sun_path, sizeof(addr.sun_path), "/tmp/fuzz_net.%d", (int)getpid());
	unlink(addr.sun_path);
	if (bind(listener, (struct sockaddr *)&addr, sizeof(addr)) || listen(listener, 1) ||
	    net_create(&dev, &config))
		abort();
	stream = accept(listener, NULL, NULL);
	unlink(addr.sun_path);
	close(listener);
	return to_net(dev);
}

/* Features, queues, DRIVER_OK. */
static void bring_up(uint64_t features)
{
	uint32_t status = driver_features(&d, features);

	for (unsigned int i = 0; i < d.dev->nr_queues; i++) {
		uint64_t gpa = DRIVER_RAM_GPA + i * 0x800;

		driver_write(&d, VIRTIO_MMIO_QUEUE_SEL, i);
		driver_write(&d, VIRTIO_MMIO_QUEUE_NUM, NUM);
		driver_write(&d, VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)gpa);
		driver_write(&d, VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)gpa + 0x200);
		driver_write(&d, VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)gpa + 0x300);
		driver_write(&d, VIRTIO_MMIO_QUEUE_READY, 1);
	}
	driver_write(&d, VIRTIO_MMIO_STATUS, status | VIRTIO_CONFIG_S_DRIVER_OK);
}

/* Whole frames only: a stream that is lost is lost for all inputs that follow. */
static void host_sends(int fd, size_t len)
{
	static uint8_t frame[FRAME];

	frame[2] = frame[3] = 0;
	if (fd == stream) {
		frame[2] = (uint8_t)((len - 4) >> 8);
		frame[3] = (uint8_t)(len - 4);
	}
	if (send(fd, frame, len, MSG_DONTWAIT) < 0) {
		/* full: there is enough in it */
	}
	while (recv(fd, frame, sizeof(frame), MSG_DONTWAIT) >= 0)
		;
}

static void turn(struct net *net)
{
	for (unsigned int i = 0; i < d.dev->nr_queues; i++)
		driver_turn(&d, i);
	for (unsigned int i = 0; i < net->nr_pairs; i++) {
		struct net_pair *pair = &net->pair[i];

		if (pair->events)
			pair->ev.fn(&pair->ev, pair->events);
	}
}

/*
 * What the device says of itself must add up, whatever the driver did. (One that needs a reset keeps
 * what was wrong.)
 */
static void check(const struct net *net)
{
	if (driver_needs_reset(&d))
		return;
	for (unsigned int i = 0; i < net->nr_pairs; i++) {
		const struct net_pair *pair = &net->pair[i];
		uint64_t room = 0;
		unsigned int iov = 0;

		for (unsigned int k = 0; k < pair->nr_held; k++) {
			room += pair->held[pair->held_at + k].len;
			iov += pair->held[pair->held_at + k].nr_iov;
		}
		if (room != pair->room || iov != pair->nr_iov || pair->iov_at + iov > HELD_IOV ||
		    net->dev.vq[2 * i].in_flight != pair->nr_held || net->dev.vq[2 * i + 1].in_flight)
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct net *nets[3];
	static struct net_config config = { .kind = NET_TAP, .peer = "tap0", .vhost = NET_VHOST_NO };
	static struct event_loop loop;
	static const uint64_t basic = F(CTRL_VQ) | F(CTRL_RX) | F(CTRL_MAC_ADDR) | F(STATUS) |
				      F(GUEST_ANNOUNCE);
	struct virtio_dev *dev;
	struct net *net;
	uint8_t options, host;
	unsigned int which;

	if (size < 2)
		return 0;
	options = data[0];
	host = data[1];
	data += 2;
	size -= 2;
	if (!nets[0]) {
		log_set_level(LOG_ERROR);
		if (event_loop_init(&loop))
			abort();
		for (unsigned int i = 0; i < 2; i++) {
			config.pairs = i ? 4 : 1;
			if (net_create(&dev, &config))
				abort();
			nets[i] = to_net(dev);
		}
		nets[2] = create_passt();
	}
	which = options & 64 ? 2 : options & 1;
	net = nets[which];
	if (which == 2) { /* what the input before has left */
		static uint8_t rest[FRAME];

		while (recv(net->passt->fd, rest, sizeof(rest), MSG_DONTWAIT) > 0)
			;
		net->passt->in_len = net->passt->out_len = 0;
	}
	if (driver_init(&d, &net->dev))
		abort();
	net->dev.loop = &loop; /* which does not run: turn() does what it would */
	memcpy(d.ram, data, size < RAM_SIZE ? size : RAM_SIZE);
	bring_up(basic | (which == 1 && !(options & 2) ? F(MQ) : 0) | (options & 4 ? F(MRG_RXBUF) : 0) |
		 (options & 8 ? 1ull << VIRTIO_RING_F_EVENT_IDX : 0) |
		 (options & 16 ? 0 : 1ull << VIRTIO_RING_F_INDIRECT_DESC));
	for (unsigned int i = 0; i < 4; i++) {
		host_sends(which == 2 ? stream : peer[which][which ? i : 0], HDR + 14 + host * 8u);
		turn(net);
		check(net);
		if (net->lost)
			abort();
		if (i == 1 && options & 32) {
			virtio_mmio_pause(&d.mmio);
			for (unsigned int q = 0; q < d.dev->nr_queues; q++)
				if (net->dev.vq[q].in_flight && !driver_needs_reset(&d))
					abort();
			virtio_mmio_resume(&d.mmio);
		}
	}
	driver_fini(&d);
	return 0;
}
