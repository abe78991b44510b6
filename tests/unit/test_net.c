/* SPDX-License-Identifier: MIT */
/*
 * virtio-net as its driver sees it, on a tap that is a pair of sockets, on a model of /dev/vhost-net
 * that keeps the kernel's rules, and on passt's stream.
 *
 * The event loop does not run: net_turns() calls what it would call, and sees one that is busy with nothing.
 */
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

static ssize_t fake_readv(int fd, const struct iovec *iov, int nr);
static ssize_t fake_writev(int fd, const struct iovec *iov, int nr);
static int fake_ioctl(int fd, int request, void *arg);

#define readv	fake_readv
#define writev	fake_writev
#define ioctl	fake_ioctl
#include "virtio/net.c"
#undef readv
#undef writev
#undef ioctl

#include "tests/unit/allocs.h"
#define kvm_ioctl_raw driver_ioctl_raw
#include "tests/unit/driver.h"
#undef kvm_ioctl_raw
#include "tests/unit/snapshot.h"
#include "tests/unit/test.h"

#define V1	  (1ull << VIRTIO_F_VERSION_1)
#define EVENT_IDX (1ull << VIRTIO_RING_F_EVENT_IDX)
#define INDIRECT  (1ull << VIRTIO_RING_F_INDIRECT_DESC)

/* --- the tap ----------------------------------------------------------------------------------- */

static struct fake {
	int peer[NET_MAX_PAIRS]; /* the other ends */
	unsigned int opened, enabled, mtu, offloads, known_offloads;
	int read_errno, write_errno, enable_errno;
	unsigned int reads, writes, enables;
	unsigned int bad_frames; /* the next ones, which a read drops: a header can't say what they are */
	bool gone;
} fake;

int tap_open(struct tap *tap, const char *ifname, const char *bridge, unsigned int nr)
{
	memset(tap, 0, sizeof(*tap));
	strcpy(tap->name, ifname ? ifname : bridge);
	for (unsigned int i = 0; i < nr; i++) {
		int pair[2], size = 8192;

		if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair))
			return -errno;
		setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
		tap->fd[i] = pair[0];
		fake.peer[i] = pair[1];
	}
	tap->nr = tap->enabled = fake.enabled = fake.opened = nr;
	tap->mtu = fake.mtu;
	return 0;
}

int tap_set_mtu(struct tap *tap, unsigned int mtu)
{
	fake.mtu = tap->mtu = mtu;
	return 0;
}

int tap_set_offloads(struct tap *tap, unsigned int tun_f)
{
	if (tun_f & ~fake.known_offloads)
		return -EINVAL;
	fake.offloads = tun_f;
	return 0;
}

int tap_enable(struct tap *tap, unsigned int nr)
{
	fake.enables++;
	if (fake.enable_errno)
		return -fake.enable_errno;
	tap->enabled = fake.enabled = nr;
	return 0;
}

void tap_close(struct tap *tap)
{
	for (unsigned int i = 0; i < tap->nr; i++) {
		close(tap->fd[i]);
		close(fake.peer[i]);
	}
	tap->nr = 0;
}

static ssize_t fake_readv(int fd, const struct iovec *iov, int nr)
{
	fake.reads++;
	if (fake.read_errno) {
		errno = fake.read_errno;
		return -1;
	}
	if (fake.bad_frames && recv(fd, &(char){ 0 }, 1, 0) >= 0) {
		fake.bad_frames--;
		errno = EINVAL;
		return -1;
	}
	return readv(fd, iov, nr);
}

static ssize_t fake_writev(int fd, const struct iovec *iov, int nr)
{
	fake.writes++;
	if (fake.write_errno) {
		errno = fake.write_errno;
		return -1;
	}
	return writev(fd, iov, nr);
}

static int fake_ioctl(int fd, int request, void *arg)
{
	if (!fake.gone)
		return 0;
	errno = EBADFD;
	return -1;
}

/* --- vhost ------------------------------------------------------------------------------------- */

static struct model {
	bool there; /* the node */
	uint64_t offered;
	int fail_backend;
	unsigned int nr;
	bool broke_rule;
	struct {
		int fd;
		uint64_t features;
		unsigned int nregions;
		struct {
			unsigned int num, base;
			int kick, call, err, backend;
		} ring[2];
	} dev[NET_MAX_PAIRS];
} model;

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);

int __wrap_open(const char *path, int flags, ...)
{
	int fd;

	if (strcmp(path, "/dev/vhost-net"))
		return __real_open(path, flags, 0);
	if (!model.there) {
		errno = ENOENT;
		return -1;
	}
	fd = __real_open("/dev/null", O_RDWR | O_CLOEXEC);
	return fd;
}

static int mistake(int err)
{
	model.broke_rule = true;
	return -err;
}

static int model_ring(unsigned int d, unsigned long request, void *arg)
{
	unsigned int i = *(unsigned int *)arg;
	struct vhost_vring_state *state = arg;
	struct vhost_vring_file *file = arg;

	if (i > 1)
		return mistake(ENOBUFS);
	switch (request) {
	case VHOST_SET_VRING_NUM:
	case VHOST_SET_VRING_BASE:
		if (model.dev[d].ring[i].backend >= 0)
			return mistake(EBUSY);
		*(request == VHOST_SET_VRING_NUM ? &model.dev[d].ring[i].num :
						   &model.dev[d].ring[i].base) = state->num;
		return 0;
	case VHOST_GET_VRING_BASE:
		state->num = model.dev[d].ring[i].base;
		return 0;
	case VHOST_SET_VRING_ADDR:
		return 0;
	case VHOST_SET_VRING_KICK:
		model.dev[d].ring[i].kick = file->fd;
		return 0;
	case VHOST_SET_VRING_CALL:
		model.dev[d].ring[i].call = file->fd;
		return 0;
	case VHOST_SET_VRING_ERR:
		model.dev[d].ring[i].err = file->fd;
		return 0;
	case VHOST_NET_SET_BACKEND:
		if (file->fd >= 0 && model.fail_backend)
			return -model.fail_backend;
		if (file->fd >= 0 && (!model.dev[d].ring[i].num || !model.dev[d].nregions ||
				      model.dev[d].ring[i].kick < 0 || d >= fake.enabled))
			return mistake(EFAULT); /* a queue that is detached is refused, too */
		model.dev[d].ring[i].backend = file->fd;
		return 0;
	default:
		return mistake(ENOTTY);
	}
}

int kvm_ioctl_raw(int fd, unsigned long request, void *arg)
{
	unsigned int d;

	for (d = 0; d < model.nr && model.dev[d].fd != fd; d++)
		;
	switch (request) {
	case VHOST_SET_OWNER:
		if (d < model.nr || d == NET_MAX_PAIRS)
			return mistake(EBUSY);
		model.dev[model.nr].fd = fd;
		for (unsigned int i = 0; i < 2; i++)
			model.dev[d].ring[i].kick = model.dev[d].ring[i].backend = -1;
		model.nr++;
		return 0;
	case VHOST_GET_FEATURES:
		memcpy(arg, &model.offered, sizeof(model.offered));
		return 0;
	case VHOST_SET_FEATURES:
		memcpy(&model.dev[d].features, arg, sizeof(uint64_t));
		return model.dev[d].features & ~model.offered ? mistake(EOPNOTSUPP) : 0;
	case VHOST_SET_MEM_TABLE:
		model.dev[d].nregions = ((struct vhost_memory *)arg)->nregions;
		return 0;
	default:
		return d < model.nr ? model_ring(d, request, arg) : mistake(EBADF);
	}
}

/* --- what a test needs besides ----------------------------------------------------------------- */

static const struct net_config one = { .kind = NET_TAP, .peer = "tap0", .pairs = 1,
				       .mac = { 2, 0, 0, 0, 0, 1 } };

static void forget(void)
{
	memset(&fake, 0, sizeof(fake));
	memset(&model, 0, sizeof(model));
	fake.mtu = 1500;
	fake.known_offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
	model.offered = ~0ull;
}

/* What is in it is looked at by net_turns(). */
static struct event_loop loop;

static struct net *setup(struct driver *d, const struct net_config *config)
{
	struct virtio_dev *dev = NULL;

	CHECK_EQ(net_create(&dev, config), 0);
	CHECK_EQ(driver_init(d, dev), 0);
	dev->loop = &loop;
	return (struct net *)dev;
}

static void stop(struct driver *d)
{
	struct virtio_dev *dev = d->dev;

	driver_fini(d);
	dev->ops->destroy(dev);
	CHECK(!model.broke_rule);
}

/* One turn of the loop: how many callbacks it made. */
static unsigned int net_turn(struct driver *d)
{
	struct net *net = (struct net *)d->dev;
	unsigned int n = 0;

	for (unsigned int i = 0; i < d->dev->nr_queues; i++) {
		struct pollfd pfd = { .fd = net->kick[i].fd, .events = POLLIN };

		if (!(d->dev->own_kicks >> i & 1)) {
			n += driver_turn(d, i);
		} else if (net->kick[i].armed && poll(&pfd, 1, 0) == 1) {
			net->kick[i].fn(&net->kick[i], EPOLLIN);
			n++;
		}
	}
	for (unsigned int i = 0; i < net->nr_pairs; i++) {
		struct net_pair *pair = &net->pair[i];
		struct pollfd pfd = { .fd = pair->ev.fd, .events = (short)pair->events };

		if (!pair->events || poll(&pfd, 1, 0) != 1)
			continue;
		pair->ev.fn(&pair->ev, (uint32_t)pfd.revents);
		n++;
	}
	return n;
}

static void net_turns(struct driver *d)
{
	unsigned int i = 0;

	while (i < 2000 && net_turn(d))
		i++;
	CHECK(i < 2000); /* a loop that is busy with nothing */
}

static void fill(uint8_t *p, size_t len, unsigned int seed)
{
	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)(i * 31 + i / 256 + seed * 7);
}

/* A frame from the host, header and @len bytes. */
static void host_sends(unsigned int pair, size_t len, unsigned int seed)
{
	static uint8_t frame[70000];

	memset(frame, 0x55, HDR);
	fill(frame + HDR, len, seed);
	CHECK_EQ(send(fake.peer[pair], frame, HDR + len, 0), HDR + len);
}

/* The next frame that the host gets; its length with the header, -1: none. */
static ssize_t host_gets(unsigned int pair, uint8_t *buf, size_t size)
{
	return recv(fake.peer[pair], buf, size, MSG_DONTWAIT);
}

static bool is_frame(const uint8_t *p, size_t len, unsigned int seed)
{
	for (size_t i = 0; i < len; i++)
		if (p[i] != (uint8_t)(i * 31 + i / 256 + seed * 7))
			return false;
	return true;
}

static uint16_t status(struct driver *d)
{
	return (uint16_t)(driver_read(d, VIRTIO_MMIO_CONFIG + 4) >> 16);
}

static bool used(struct driver *d, unsigned int q, uint32_t *len)
{
	uint32_t head;

	return driver_used(d, q, 0, &head, len);
}

#define MERGE F(MRG_RXBUF)

static struct net *start(struct driver *d, const struct net_config *config, uint64_t features)
{
	struct net *net = setup(d, config);

	CHECK(driver_start(d, features, 64));
	net_turns(d);
	driver_irqs(d, 0);
	return net;
}

/* --- identity ----------------------------------------------------------------------------------- */

static void test_identity(void)
{
	struct net_config config = one;
	struct driver d;
	uint64_t offered;

	forget();
	setup(&d, &config);
	CHECK_EQ(driver_read(&d, VIRTIO_MMIO_DEVICE_ID), VIRTIO_ID_NET);
	CHECK_EQ(d.dev->nr_queues, 3);
	offered = driver_offered(&d);
	CHECK_EQ(offered, V1 | EVENT_IDX | INDIRECT | F(CSUM) | F(HOST_TSO4) | F(HOST_TSO6) |
		 F(HOST_ECN) | F(GUEST_CSUM) | F(GUEST_TSO4) | F(GUEST_TSO6) | F(GUEST_ECN) |
		 F(MRG_RXBUF) | F(MAC) | F(MTU) | F(STATUS) | F(CTRL_VQ) | F(CTRL_RX) |
		 F(CTRL_MAC_ADDR) | F(GUEST_ANNOUNCE));
	CHECK_EQ(driver_read(&d, VIRTIO_MMIO_CONFIG), 2);
	CHECK_EQ(driver_read(&d, VIRTIO_MMIO_CONFIG + 4), VIRTIO_NET_S_LINK_UP << 16 | 0x100);
	CHECK_EQ(driver_read(&d, VIRTIO_MMIO_CONFIG + 8), 1500 << 16 | 1);
	CHECK_EQ(fake.offloads, 0);
	stop(&d);

	/* What a tap knows besides, queues and an MTU that is asked for. */
	fake.known_offloads |= TUN_F_UFO;
	config.pairs = 4;
	config.mtu = 9000;
	setup(&d, &config);
	CHECK_EQ(d.dev->nr_queues, 9);
	CHECK(driver_offered(&d) & F(MQ) && driver_offered(&d) & F(GUEST_UFO));
	CHECK_EQ(driver_read(&d, VIRTIO_MMIO_CONFIG + 8), 9000 << 16 | 4);
	CHECK_EQ(fake.mtu, 9000);
	CHECK_EQ(fake.enabled, 1);
	stop(&d);

	/* A kernel that finishes everything itself. */
	fake.known_offloads = 0;
	setup(&d, &one);
	CHECK(!(driver_offered(&d) & GUEST_OFFLOADS));
	CHECK((driver_offered(&d) & HOST_OFFLOADS) == HOST_OFFLOADS);
	stop(&d);
}

static void test_offloads(void)
{
	struct driver d;

	forget();
	start(&d, &one, F(GUEST_CSUM) | F(GUEST_TSO6));
	CHECK_EQ(fake.offloads, TUN_F_CSUM | TUN_F_TSO6);
	driver_reset(&d);
	CHECK(driver_start(&d, 0, 8));
	CHECK_EQ(fake.offloads, 0);
	stop(&d);
}

/* --- receiving ----------------------------------------------------------------------------------- */

static void receive_one(uint64_t features)
{
	/* The header lies across three buffers, and num_buffers across two of them. */
	const struct driver_buf pieces[] = { IN(DRIVER_DATA, 5), IN(DRIVER_DATA + 0x100, 6),
					     IN(DRIVER_DATA + 0x200, 1), IN(DRIVER_DATA + 0x300, 2000) };
	uint32_t len = 0;
	struct driver d;

	forget();
	start(&d, &one, features);
	driver_add(&d, 0, pieces, 4);
	driver_kick(&d, 0);
	net_turns(&d);
	CHECK(!used(&d, 0, &len));
	CHECK_EQ(driver_irqs(&d, 0), 0);
	host_sends(0, 1000, 3);
	net_turns(&d);
	CHECK(used(&d, 0, &len));
	CHECK_EQ(len, HDR + 1000);
	CHECK(is_frame(driver_ptr(&d, DRIVER_DATA + 0x300), 1000, 3));
	CHECK_EQ(*driver_ptr(&d, DRIVER_DATA + 0x105), 1);
	CHECK_EQ(*driver_ptr(&d, DRIVER_DATA + 0x200), 0);
	CHECK_EQ(*driver_ptr(&d, DRIVER_DATA), 0x55);
	CHECK_EQ(driver_irqs(&d, 0), 1);
	stop(&d);
}

static void test_receive(void)
{
	receive_one(0);
	receive_one(MERGE | EVENT_IDX);
}

/* What a neighbour sends costs itself, and not the link. */
static void test_bad_frame_from_outside(void)
{
	const struct driver_buf in = IN(DRIVER_DATA, 2000);
	struct driver d;
	uint32_t len;

	forget();
	start(&d, &one, MERGE);
	driver_add(&d, 0, &in, 1);
	driver_kick(&d, 0);
	net_turns(&d);
	fake.bad_frames = 3;
	for (unsigned int i = 0; i < 4; i++)
		host_sends(0, 100 + i, i);
	net_turns(&d);
	CHECK(used(&d, 0, &len));
	CHECK_EQ(len, HDR + 103);
	CHECK_EQ(status(&d), VIRTIO_NET_S_LINK_UP);
	stop(&d);
}

/* A frame over several chains: as many as it needs, and the rest are the next frame's. */
static void test_merge(void)
{
	uint32_t len = 0;
	struct driver d;

	forget();
	start(&d, &one, MERGE);
	for (unsigned int i = 0; i < 10; i++) {
		const struct driver_buf buf = IN(DRIVER_DATA + i * 0x1000, 1000);

		driver_add(&d, 0, &buf, 1);
	}
	driver_kick(&d, 0);
	host_sends(0, 3500, 1);
	host_sends(0, 1000 - HDR, 2); /* fills one to the brim */
	host_sends(0, 1001 - HDR, 3);
	net_turns(&d);
	CHECK_EQ(driver_irqs(&d, 0), 1); /* all of them together */
	CHECK_EQ(*driver_ptr(&d, DRIVER_DATA + 10), 4);
	CHECK_EQ(*driver_ptr(&d, DRIVER_DATA + 0x4000 + 10), 1);
	CHECK_EQ(*driver_ptr(&d, DRIVER_DATA + 0x5000 + 10), 2);
	for (unsigned int i = 0; i < 7; i++) {
		static const uint32_t want[] = { 1000, 1000, 1000, 512, 1000, 1000, 1 };

		CHECK(used(&d, 0, &len));
		CHECK_EQ(len, want[i]);
	}
	CHECK(!used(&d, 0, &len));
	CHECK(is_frame(driver_ptr(&d, DRIVER_DATA + HDR), 1000 - HDR, 1));
	CHECK(is_frame(driver_ptr(&d, DRIVER_DATA + 0x4000 + HDR), 1000 - HDR, 2));

	/* 3 are left: one that needs 4 is dropped, the next is not, and nothing stands still. */
	host_sends(0, 3000, 4);
	host_sends(0, 100, 5);
	net_turns(&d);
	CHECK(used(&d, 0, &len));
	CHECK_EQ(len, 100 + HDR);
	CHECK(!used(&d, 0, &len));
	CHECK(is_frame(driver_ptr(&d, DRIVER_DATA + 0x7000 + HDR), 100, 5));
	stop(&d);
}

/* Without MRG_RXBUF a frame has one chain, however long it is. */
static void test_no_merge(void)
{
	const struct driver_buf small[] = { IN(DRIVER_DATA, HDR), IN(DRIVER_DATA + 0x1000, 60) };
	const struct driver_buf large = IN(DRIVER_DATA + 0x2000, 2000);
	uint32_t len = 0;
	struct driver d;

	forget();
	start(&d, &one, 0);
	driver_add(&d, 0, small, 2);
	driver_add(&d, 0, &large, 1);
	driver_kick(&d, 0);
	host_sends(0, 61, 1); /* too long for the first chain */
	host_sends(0, 60, 2);
	host_sends(0, 1000, 3);
	net_turns(&d);
	CHECK(used(&d, 0, &len));
	CHECK_EQ(len, HDR + 60);
	CHECK(is_frame(driver_ptr(&d, DRIVER_DATA + 0x1000), 60, 2));
	CHECK(used(&d, 0, &len));
	CHECK_EQ(len, HDR + 1000);
	CHECK(is_frame(driver_ptr(&d, DRIVER_DATA + 0x2000 + HDR), 1000, 3));
	stop(&d);
}

/* Without buffers the tap is left alone, until the driver kicks. */
static void starve(uint64_t features)
{
	const struct driver_buf buf = IN(DRIVER_DATA, 2000);
	struct driver d;
	struct net *net;
	uint32_t len = 0;

	forget();
	net = start(&d, &one, features);
	host_sends(0, 100, 1);
	CHECK_EQ(net_turn(&d), 0);
	CHECK_EQ(net->pair[0].events, 0);
	CHECK_EQ(fake.reads, 0);
	driver_add(&d, 0, &buf, 1);
	driver_kick(&d, 0);
	net_turns(&d);
	CHECK(used(&d, 0, &len));
	/* The last buffer went: asked for a kick again, which comes. */
	CHECK_EQ(net->pair[0].events, 0);
	driver_add(&d, 0, &buf, 1);
	driver_kick(&d, 0);
	net_turns(&d);
	CHECK_EQ(net->pair[0].events, EPOLLIN);
	/* While there are, it needs none. */
	driver_add(&d, 0, &buf, 1);
	driver_kick(&d, 0);
	CHECK_EQ(net_turn(&d), 0);
	host_sends(0, 100, 1);
	host_sends(0, 100, 1);
	host_sends(0, 100, 1);
	net_turns(&d);
	CHECK(used(&d, 0, &len));
	CHECK(used(&d, 0, &len));
	CHECK(!used(&d, 0, &len));
	CHECK_EQ(net->pair[0].events, 0);
	stop(&d);
}

static void test_starve(void)
{
	starve(0);
	starve(MERGE);
	starve(MERGE | EVENT_IDX);
}

/* Many more buffers and frames than are held at once, chains of several pieces. */
/* A driver with a large ring that was outrun gets the frame when it has posted more, all of it. */
static void test_outrun(void)
{
	struct driver d;
	struct net *net;
	uint32_t len = 0;

	forget();
	net = setup(&d, &one);
	CHECK(driver_start(&d, MERGE, 256));
	net_turns(&d);
	for (unsigned int i = 0; i < 40; i++) {
		const struct driver_buf in = IN(DRIVER_DATA + i * 2048, 2048);

		if (i == 4) {
			driver_kick(&d, 0);
			host_sends(0, 10000, 3);
			fake.reads = 0;
			net_turns(&d);
			CHECK(net->pair[0].starved && !fake.reads);
		}
		driver_add(&d, 0, &in, 1);
	}
	driver_kick(&d, 0);
	net_turns(&d);
	for (unsigned int i = 0; i < 5; i++)
		CHECK(used(&d, 0, &len) && len == (i < 4 ? 2048 : 10000 + HDR - 4 * 2048));
	CHECK(is_frame(driver_ptr(&d, DRIVER_DATA + HDR), 10000, 3));
	CHECK(!used(&d, 0, &len) && !driver_needs_reset(&d));
	stop(&d);
}

/* Nor does one whose chains are in more pieces than can be held make anybody wait, or spin. */
static void test_many_pieces(void)
{
	struct driver_buf in[200];
	struct driver_queue *q;
	struct driver d;
	uint32_t len = 0;

	forget();
	setup(&d, &one);
	CHECK(driver_start(&d, MERGE, 256));
	net_turns(&d);
	for (unsigned int i = 0; i < 200; i++)
		in[i] = (struct driver_buf)IN(DRIVER_DATA + i * 40, 40);
	driver_add(&d, 0, in, 200);
	/* These go on as the first does. */
	q = &d.q[0];
	for (unsigned int i = 200; i < 206; i++) {
		driver_add(&d, 0, in, 1);
		q->desc[i].flags |= htole16(VRING_DESC_F_NEXT);
		q->desc[i].next = htole16(1);
	}
	driver_kick(&d, 0);
	net_turns(&d);
	host_sends(0, 1000, 3);
	net_turns(&d);
	CHECK(used(&d, 0, &len) && len == 1000 + HDR);
	stop(&d);
}

static void test_receive_many(void)
{
	uint32_t len = 0;
	struct driver d;

	forget();
	start(&d, &one, MERGE);
	for (unsigned int round = 0; round < 100; round++) {
		unsigned int nr = 1 + round % 3;

		for (unsigned int i = 0; i < 16; i++) {
			struct driver_buf buf[3];

			for (unsigned int k = 0; k < nr; k++)
				buf[k] = (struct driver_buf)IN(DRIVER_DATA + i * 0x1000 + k * 0x400, 300);
			driver_add(&d, 0, buf, nr);
		}
		driver_kick(&d, 0);
		for (unsigned int i = 0; i < 4; i++)
			host_sends(0, 4 * 300 * nr - HDR, round);
		net_turns(&d);
		for (unsigned int i = 0; i < 16; i++) {
			CHECK(used(&d, 0, &len));
			CHECK_EQ(len, 300 * nr);
		}
		CHECK(!used(&d, 0, &len));
		CHECK_EQ(*driver_ptr(&d, DRIVER_DATA + 10), 4);
		CHECK(is_frame(driver_ptr(&d, DRIVER_DATA + HDR), 300 - HDR, round));
		CHECK_EQ(driver_irqs(&d, 0), 1);
	}
	stop(&d);
}

static void test_bad_receive_buffers(void)
{
	const struct driver_buf short_one = IN(DRIVER_DATA, HDR - 1);
	const struct driver_buf out[] = { OUT(DRIVER_DATA, 100), IN(DRIVER_DATA, 100) };

	for (unsigned int i = 0; i < 4; i++) {
		struct driver d;

		forget();
		start(&d, &one, i & 1 ? MERGE : 0);
		driver_add(&d, 0, i & 2 ? out : &short_one, i & 2 ? 2 : 1);
		driver_kick(&d, 0);
		host_sends(0, 60, 0);
		net_turns(&d);
		CHECK(driver_needs_reset(&d));
		driver_reset(&d);
		CHECK(driver_start(&d, 0, 8));
		stop(&d);
	}
}

/* --- sending ------------------------------------------------------------------------------------- */

static void test_send(void)
{
	const struct driver_buf whole = OUT(DRIVER_DATA, HDR + 500);
	const struct driver_buf pieces[] = { OUT(DRIVER_DATA, 7), OUT(DRIVER_DATA + 7, 5),
					     OUT(DRIVER_DATA + HDR, 1), OUT(DRIVER_DATA + HDR + 1, 499) };
	uint8_t buf[4096];
	uint32_t len = 0;
	struct driver d;

	forget();
	start(&d, &one, EVENT_IDX);
	memset(driver_ptr(&d, DRIVER_DATA), 0, HDR);
	fill(driver_ptr(&d, DRIVER_DATA + HDR), 500, 9);
	driver_add(&d, 1, &whole, 1);
	driver_add(&d, 1, pieces, 4);
	driver_kick(&d, 1);
	net_turns(&d);
	CHECK_EQ(driver_irqs(&d, 0), 1);
	for (unsigned int i = 0; i < 2; i++) {
		CHECK_EQ(host_gets(0, buf, sizeof(buf)), HDR + 500);
		CHECK(is_frame(buf + HDR, 500, 9));
		CHECK(used(&d, 1, &len));
		CHECK_EQ(len, 0);
	}
	CHECK_EQ(host_gets(0, buf, sizeof(buf)), -1);

	/* The kernel doesn't like it, the interface is down: dropped, and the driver gets it back. */
	fake.write_errno = EINVAL;
	driver_add(&d, 1, &whole, 1);
	driver_kick(&d, 1);
	net_turns(&d);
	CHECK(used(&d, 1, &len));
	fake.write_errno = EIO;
	driver_add(&d, 1, &whole, 1);
	driver_kick(&d, 1);
	net_turns(&d);
	CHECK(used(&d, 1, &len));
	CHECK_EQ(status(&d), VIRTIO_NET_S_LINK_UP);
	stop(&d);
}

static void test_bad_frames(void)
{
	const struct driver_buf none = OUT(DRIVER_DATA, HDR - 1);
	const struct driver_buf in[] = { OUT(DRIVER_DATA, 100), IN(DRIVER_DATA, 100) };
	const struct driver_buf huge[] = { OUT(DRIVER_DATA, 40000), OUT(DRIVER_DATA, 30000) };
	uint32_t len;
	struct driver d;

	for (unsigned int i = 0; i < 2; i++) {
		forget();
		start(&d, &one, 0);
		driver_add(&d, 1, i ? in : &none, i ? 2 : 1);
		driver_kick(&d, 1);
		net_turns(&d);
		CHECK(driver_needs_reset(&d));
		CHECK_EQ(fake.writes, 0);
		stop(&d);
	}
	forget();
	start(&d, &one, 0);
	driver_add(&d, 1, huge, 2);
	driver_kick(&d, 1);
	net_turns(&d);
	CHECK_EQ(fake.writes, 0);
	CHECK(used(&d, 1, &len));
	CHECK(!driver_needs_reset(&d));
	stop(&d);
}

/* The peer takes no more for a while: nothing is lost, in order, and nobody spins. */
static void test_blocked(void)
{
	uint8_t buf[4096];
	struct driver d;
	struct net *net;
	unsigned int next = 0;
	uint32_t len;

	forget();
	net = start(&d, &one, 0);
	for (unsigned int i = 0; i < 60; i++) {
		const struct driver_buf frame = OUT(DRIVER_DATA + i * 0x1000, HDR + 1000);

		fill(driver_ptr(&d, DRIVER_DATA + i * 0x1000 + HDR), 1000, i);
		driver_add(&d, 1, &frame, 1);
	}
	driver_kick(&d, 1);
	for (unsigned int round = 0; round < 100 && next < 60; round++) {
		net_turns(&d);
		if (!round) {
			CHECK(net->pair[0].blocked);
			CHECK(net->pair[0].events & EPOLLOUT);
		}
		while (host_gets(0, buf, sizeof(buf)) > 0)
			CHECK(is_frame(buf + HDR, 1000, next++));
	}
	CHECK_EQ(next, 60);
	net_turns(&d);
	CHECK(!net->pair[0].blocked && !net->pair[0].events);
	while (used(&d, 1, &len))
		next--;
	CHECK_EQ(next, 0);
	stop(&d);
}

/* A turn has an end, and what is left is done in the next. */
static void test_turns_are_bounded(void)
{
	const struct driver_buf in = IN(DRIVER_DATA, 100), out = OUT(DRIVER_DATA, HDR + 4);
	unsigned int sent = 0;
	struct driver d;
	uint32_t len;

	forget();
	setup(&d, &one);
	CHECK(driver_start(&d, 0, 256));
	net_turns(&d);
	fake.write_errno = EINVAL;
	for (unsigned int i = 0; i < 200; i++)
		driver_add(&d, 1, &out, 1);
	driver_kick(&d, 1);
	CHECK(driver_turn(&d, 1));
	while (used(&d, 1, &len))
		sent++;
	CHECK_EQ(sent, TURN_FRAMES);
	net_turns(&d);
	while (used(&d, 1, &len))
		sent++;
	CHECK_EQ(sent, 200);

	for (unsigned int i = 0; i < 200; i++)
		driver_add(&d, 0, &in, 1);
	driver_kick(&d, 0);
	net_turns(&d);
	for (unsigned int i = 0; i < 8; i++)
		host_sends(0, 60, 1);
	fake.reads = 0;
	net_turns(&d);
	CHECK(fake.reads < TURN_FRAMES);
	stop(&d);
}

/* --- the control queue ---------------------------------------------------------------------------- */

/* Sends a command in two pieces; its answer, or -1. */
static int command(struct driver *d, unsigned int q, uint8_t class, uint8_t cmd, const void *data,
		   uint32_t len)
{
	struct driver_buf buf[] = { OUT(DRIVER_DATA, 2), OUT(DRIVER_DATA + 2, len), IN(DRIVER_DATA + 0x8000, 1) };
	uint8_t *p = driver_ptr(d, DRIVER_DATA), *answer = driver_ptr(d, DRIVER_DATA + 0x8000);
	uint32_t used_len = 0;

	p[0] = class;
	p[1] = cmd;
	memcpy(p + 2, data, len);
	*answer = 0xee;
	if (!len)
		buf[1] = buf[2];
	driver_add(d, q, buf, len ? 3 : 2);
	driver_kick(d, q);
	net_turns(d);
	if (!used(d, q, &used_len))
		return -1;
	CHECK_EQ(used_len, 1);
	return *answer;
}

#define COMMANDS (F(CTRL_VQ) | F(CTRL_RX) | F(CTRL_MAC_ADDR) | F(GUEST_ANNOUNCE) | F(STATUS) | F(MAC))

static void test_commands(void)
{
	const uint8_t on = 1, mac[6] = { 2, 3, 4, 5, 6, 7 };
	uint8_t tables[4 + 12 + 4 + 6] = { 2 };
	struct driver d;

	tables[16] = 1;
	forget();
	start(&d, &one, COMMANDS | MERGE);
	CHECK_EQ(command(&d, 2, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &on, 1), VIRTIO_NET_OK);
	CHECK_EQ(command(&d, 2, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_ALLMULTI, &on, 1), VIRTIO_NET_OK);
	CHECK_EQ(command(&d, 2, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &on, 0), VIRTIO_NET_ERR);
	CHECK_EQ(command(&d, 2, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_ALLUNI, &on, 1), VIRTIO_NET_ERR);
	CHECK_EQ(command(&d, 2, VIRTIO_NET_CTRL_VLAN, 0, &on, 1), VIRTIO_NET_ERR);
	CHECK_EQ(command(&d, 2, 0xff, 0xff, &on, 1), VIRTIO_NET_ERR);
	CHECK_EQ(command(&d, 2, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, "\1\0", 2),
		 VIRTIO_NET_ERR);

	CHECK_EQ(command(&d, 2, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, tables, 26), VIRTIO_NET_OK);
	for (unsigned int cut = 0; cut < 26; cut++)
		CHECK_EQ(command(&d, 2, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, tables, cut),
			 VIRTIO_NET_ERR);
	memset(tables, 0xff, 4); /* 4294967295 addresses */
	CHECK_EQ(command(&d, 2, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, tables, 26), VIRTIO_NET_ERR);

	CHECK_EQ(command(&d, 2, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, mac, 5), VIRTIO_NET_ERR);
	CHECK_EQ(command(&d, 2, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, mac, 6), VIRTIO_NET_OK);
	CHECK_EQ(driver_read(&d, VIRTIO_MMIO_CONFIG), 0x05040302);
	CHECK_EQ(driver_read(&d, VIRTIO_MMIO_CONFIG + 4) & 0xffff, 0x0706);
	driver_reset(&d);
	CHECK_EQ(driver_read(&d, VIRTIO_MMIO_CONFIG), 2);
	CHECK_EQ(driver_read(&d, VIRTIO_MMIO_CONFIG + 4), VIRTIO_NET_S_LINK_UP << 16 | 0x100);

	/* What a driver did not take it can't use. */
	CHECK(driver_start(&d, F(CTRL_VQ), 64));
	net_turns(&d);
	CHECK_EQ(command(&d, 2, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &on, 1), VIRTIO_NET_ERR);
	CHECK_EQ(command(&d, 2, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, mac, 6), VIRTIO_NET_ERR);
	CHECK_EQ(command(&d, 2, VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, mac, 0), VIRTIO_NET_ERR);
	CHECK_EQ(driver_read(&d, VIRTIO_MMIO_CONFIG), 2);
	CHECK(!driver_needs_reset(&d));
	stop(&d);
}

static void test_bad_commands(void)
{
	const struct driver_buf none = OUT(DRIVER_DATA, 10), only = IN(DRIVER_DATA, 1);
	const struct driver_buf tiny[] = { OUT(DRIVER_DATA, 1), IN(DRIVER_DATA + 0x100, 1) };
	struct driver d;
	uint32_t len;

	forget();
	start(&d, &one, COMMANDS);
	driver_add(&d, 2, &only, 1);
	driver_add(&d, 2, tiny, 2);
	driver_kick(&d, 2);
	net_turns(&d);
	CHECK(used(&d, 2, &len) && used(&d, 2, &len));
	CHECK_EQ(*driver_ptr(&d, DRIVER_DATA + 0x100), VIRTIO_NET_ERR);
	CHECK(!driver_needs_reset(&d));
	driver_add(&d, 2, &none, 1);
	driver_kick(&d, 2);
	net_turns(&d);
	CHECK(driver_needs_reset(&d));
	stop(&d);
}

/* --- several queues ------------------------------------------------------------------------------- */

static int ask_pairs(struct driver *d, uint16_t n)
{
	uint8_t le[2] = { (uint8_t)n, (uint8_t)(n >> 8) };

	return command(d, 8, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, le, 2);
}

static void test_queues(void)
{
	const struct driver_buf out = OUT(DRIVER_DATA + 0x20000, HDR + 60);
	struct net_config config = one;
	uint8_t buf[4096], on = 1;
	struct driver d;
	uint32_t len;

	config.pairs = 4;
	forget();
	start(&d, &config, COMMANDS | F(MQ) | MERGE);
	CHECK_EQ(fake.enabled, 1);
	for (unsigned int i = 0; i < 4; i++) {
		const struct driver_buf in = IN(DRIVER_DATA + 0x10000 + i * 0x1000, 1000);

		driver_add(&d, 2 * i, &in, 1);
		driver_kick(&d, 2 * i);
	}
	net_turns(&d);
	/* Not in use yet: nothing is read, and what is sent is dropped. */
	host_sends(2, 100, 1);
	driver_add(&d, 5, &out, 1);
	driver_kick(&d, 5);
	net_turns(&d);
	CHECK(used(&d, 5, &len));
	CHECK_EQ(fake.writes, 0);
	CHECK(!used(&d, 4, &len));

	CHECK_EQ(ask_pairs(&d, 0), VIRTIO_NET_ERR);
	CHECK_EQ(ask_pairs(&d, 5), VIRTIO_NET_ERR);
	CHECK_EQ(ask_pairs(&d, 0x104), VIRTIO_NET_ERR);
	CHECK_EQ(command(&d, 8, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &on, 1), VIRTIO_NET_ERR);
	CHECK_EQ(fake.enabled, 1);
	fake.enable_errno = EINVAL;
	CHECK_EQ(ask_pairs(&d, 3), VIRTIO_NET_ERR);
	fake.enable_errno = 0;
	CHECK_EQ(ask_pairs(&d, 4), VIRTIO_NET_OK);
	CHECK_EQ(fake.enabled, 4);
	CHECK(used(&d, 4, &len)); /* the buffer was there, and the frame */
	CHECK_EQ(len, 100 + HDR);
	for (unsigned int i = 0; i < 4; i++) {
		driver_add(&d, 2 * i + 1, &out, 1);
		driver_kick(&d, 2 * i + 1);
		net_turns(&d);
		CHECK_EQ(host_gets(i, buf, sizeof(buf)), HDR + 60);
	}
	/* Fewer again: what was held of the others is nobody's. */
	CHECK_EQ(ask_pairs(&d, 2), VIRTIO_NET_OK);
	CHECK_EQ(fake.enabled, 2);
	host_sends(3, 100, 1);
	net_turns(&d);
	CHECK(!used(&d, 6, &len));
	CHECK_EQ(d.dev->vq[6].in_flight, 0);
	CHECK_EQ(ask_pairs(&d, 4), VIRTIO_NET_OK);
	CHECK(used(&d, 6, &len));
	driver_reset(&d);
	CHECK(driver_start(&d, COMMANDS | F(MQ), 8));
	CHECK_EQ(fake.enabled, 1);
	stop(&d);

	/* A driver that knows of one pair has its commands in queue 2 (5.1.2). */
	forget();
	start(&d, &config, COMMANDS);
	CHECK_EQ(command(&d, 2, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &on, 1), VIRTIO_NET_OK);
	stop(&d);
}

/* --- the peer goes away ---------------------------------------------------------------------------- */

/* @how: a read says it (0), a write (1), epoll (2), a word of rtnetlink's (3). */
static void lose(unsigned int how)
{
	const struct driver_buf in = IN(DRIVER_DATA, 1000), out = OUT(DRIVER_DATA + 0x1000, HDR + 60);
	int log = log_capture();
	struct driver d;
	struct net *net;
	uint32_t len;

	forget();
	net = start(&d, &one, COMMANDS | MERGE);
	driver_add(&d, 0, &in, 1);
	driver_kick(&d, 0);
	net_turns(&d);
	CHECK_EQ(net->pair[0].events, EPOLLIN);
	host_sends(0, 60, 1);
	log_text(log);
	if (how == 0)
		fake.read_errno = EBADFD;
	fake.write_errno = EBADFD;
	if (how == 1) {
		driver_add(&d, 1, &out, 1);
		driver_kick(&d, 1);
		driver_turn(&d, 1);
		CHECK(used(&d, 1, &len));
	} else if (how == 2) {
		net->pair[0].ev.fn(&net->pair[0].ev, EPOLLIN | EPOLLERR);
	} else if (how == 3) {
		net->link.fn(&net->link, EPOLLIN); /* it was another interface */
		CHECK_EQ(status(&d), VIRTIO_NET_S_LINK_UP);
		fake.gone = true;
		net->link.fn(&net->link, EPOLLIN);
	}
	net_turns(&d);
	CHECK_EQ(status(&d), 0);
	CHECK(driver_read(&d, VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG);
	CHECK_EQ(net->pair[0].events, 0);
	CHECK(strstr(log_text(log), "tap0: the interface is gone"));
	for (unsigned int i = 0; i < 100; i++) {
		driver_add(&d, 1, &out, 1);
		driver_kick(&d, 1);
		net_turns(&d);
		CHECK(used(&d, 1, &len));
	}
	driver_add(&d, 0, &in, 1);
	driver_force_kick(&d, 0);
	net_turns(&d);
	CHECK_EQ(net->pair[0].events, 0);
	CHECK(fake.writes <= 1);
	CHECK(!driver_needs_reset(&d));
	/* The next driver finds it so. */
	driver_reset(&d);
	CHECK_EQ(status(&d), 0);
	CHECK(driver_start(&d, COMMANDS, 8));
	net_turns(&d);
	driver_add(&d, 1, &out, 1);
	driver_kick(&d, 1);
	net_turns(&d);
	CHECK(used(&d, 1, &len));
	CHECK_STR(log_text(log), "");
	stop(&d);
	log_set_fd(2, false);
	close(log);
}

/* --- pauses and snapshots --------------------------------------------------------------------------- */

static void test_pause(void)
{
	const struct driver_buf in = IN(DRIVER_DATA, 1000), out = OUT(DRIVER_DATA + 0x1000, HDR + 60);
	uint8_t buf[4096];
	struct driver d;
	struct net *net;
	uint32_t len;

	forget();
	net = start(&d, &one, MERGE | EVENT_IDX);
	for (unsigned int i = 0; i < 3; i++)
		driver_add(&d, 0, &in, 1);
	driver_kick(&d, 0);
	net_turns(&d);
	CHECK_EQ(d.dev->vq[0].in_flight, 3);
	virtio_mmio_pause(&d.mmio);
	CHECK_EQ(d.dev->vq[0].in_flight, 0);
	CHECK_EQ(net->pair[0].events, 0);
	host_sends(0, 60, 1);
	driver_add(&d, 1, &out, 1);
	driver_force_kick(&d, 1);
	net_turns(&d);
	CHECK(!used(&d, 0, &len) && !used(&d, 1, &len));
	virtio_mmio_resume(&d.mmio);
	net_turns(&d);
	CHECK(used(&d, 0, &len) && used(&d, 1, &len));
	CHECK_EQ(host_gets(0, buf, sizeof(buf)), HDR + 60);
	CHECK_EQ(status(&d), VIRTIO_NET_S_LINK_UP); /* it is where it was: nothing to announce */
	stop(&d);
}

static struct virtio_dev *make(const struct net_config *config)
{
	struct virtio_dev *dev = NULL;

	CHECK_EQ(net_create(&dev, config), 0);
	return dev;
}

static int move(struct driver *to, const struct net_config *config, struct driver *from,
		struct snapshot *snap)
{
	int ret = snapshot_move(to, make(config), from, snap);

	to->dev->loop = &loop;
	return ret;
}

static void test_restore(void)
{
	const struct driver_buf in = IN(DRIVER_DATA + 0x10000, 1000);
	const uint8_t mac[6] = { 2, 3, 4, 5, 6, 7 };
	struct snapshot snap = { .len = 0 };
	struct net_config config = one;
	struct driver from, to;
	struct fake old;
	uint32_t len = 0;

	config.pairs = 4;
	forget();
	start(&from, &config, COMMANDS | F(MQ) | MERGE | F(GUEST_CSUM));
	CHECK_EQ(ask_pairs(&from, 3), VIRTIO_NET_OK);
	CHECK_EQ(command(&from, 8, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, mac, 6), VIRTIO_NET_OK);
	driver_add(&from, 4, &in, 1);
	driver_kick(&from, 4);
	net_turns(&from);
	virtio_mmio_pause(&from.mmio);
	old = fake;
	/* The new host's tap finishes its checksums: all the same to the guest. */
	fake.known_offloads = 0;
	CHECK_EQ(move(&to, &config, &from, &snap), 0);
	CHECK_EQ(driver_read(&to, VIRTIO_MMIO_CONFIG), 0x05040302);
	CHECK_EQ(fake.enabled, 1);
	virtio_mmio_resume(&to.mmio);
	CHECK_EQ(fake.enabled, 3);
	CHECK_EQ(status(&to), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
	CHECK(driver_read(&to, VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG);
	net_turns(&to);
	CHECK_EQ(command(&to, 8, VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, mac, 0), VIRTIO_NET_OK);
	CHECK_EQ(status(&to), VIRTIO_NET_S_LINK_UP);
	host_sends(2, 60, 1);
	net_turns(&to);
	CHECK(used(&to, 4, &len));
	CHECK_EQ(len, 60 + HDR);
	/* Once. */
	virtio_mmio_pause(&to.mmio);
	virtio_mmio_resume(&to.mmio);
	CHECK_EQ(status(&to), VIRTIO_NET_S_LINK_UP);
	stop(&to);

	/* Each byte bent: taken as something that can be, or refused; and then it runs. */
	for (size_t at = 0; at < snap.len; at++) {
		struct snapshot bent = snap;
		int ret;

		bent.p[at] ^= 1 + at % 255;
		ret = move(&to, &config, &from, &bent);
		CHECK(!ret || ret == -EBADMSG || ret == -EINVAL);
		if (!ret) {
			virtio_mmio_resume(&to.mmio);
			net_turns(&to);
		}
		stop(&to);
	}
	fake = old;
	stop(&from);
}

/* Nobody to tell, and other shapes than the saved one's. */
static void test_restore_otherwise(void)
{
	struct snapshot snap = { .len = 0 };
	struct net_config config = one;
	struct driver from, to;
	struct fake old;

	forget();
	start(&from, &one, F(STATUS) | F(CSUM));
	virtio_mmio_pause(&from.mmio);
	old = fake;
	CHECK_EQ(move(&to, &one, &from, &snap), 0);
	virtio_mmio_resume(&to.mmio);
	CHECK_EQ(status(&to), VIRTIO_NET_S_LINK_UP);
	stop(&to);
	config.pairs = 2;
	CHECK_EQ(move(&to, &config, &from, &snap), -EINVAL);
	stop(&to);
	fake = old;
	stop(&from);
}

/* --- vhost -------------------------------------------------------------------------------------------- */

static void test_vhost_features(void)
{
	const uint64_t all = MERGE | EVENT_IDX | INDIRECT;
	const struct { uint64_t kernel, guest; } rows[] = {
		{ ~0ull, all }, { V1, 0 }, { V1 | MERGE, MERGE }, { V1 | EVENT_IDX, EVENT_IDX },
	};
	struct net_config config = one;
	struct driver d;
	struct net *net;

	for (unsigned int i = 0; i < 4; i++) {
		forget();
		model.there = true;
		model.offered = rows[i].kernel;
		net = setup(&d, &one);
		CHECK(net->vhost && d.dev->vhost);
		CHECK_EQ(driver_offered(&d) & all, rows[i].guest);
		CHECK(driver_offered(&d) & F(CSUM) && driver_offered(&d) & F(CTRL_VQ));
		CHECK(driver_start(&d, driver_offered(&d), 8));
		CHECK_EQ(model.dev[0].features, rows[i].guest | V1);
		stop(&d);
	}
	forget();
	model.there = true;
	config.vhost = NET_VHOST_NO;
	net = setup(&d, &config);
	CHECK(!net->vhost && !model.nr);
	stop(&d);
	forget();
	config.vhost = NET_VHOST_YES;
	CHECK_EQ(net_create(&d.dev, &config), -ENOENT);
	forget();
	model.there = true;
	model.offered = ~V1;
	CHECK_EQ(net_create(&d.dev, &config), -ENOTSUP);
}

static void test_vhost(void)
{
	const uint8_t on = 1;
	struct net_config config = one;
	uint64_t count = 0;
	struct driver d;
	struct net *net;

	config.pairs = 4;
	forget();
	model.there = true;
	net = start(&d, &config, COMMANDS | F(MQ) | MERGE);
	CHECK_EQ(model.nr, 4);
	for (unsigned int i = 0; i < 2; i++) {
		CHECK_EQ(model.dev[0].ring[i].backend, net->tap.fd[0]);
		CHECK_EQ(model.dev[0].ring[i].kick, d.mmio.kick_fd[i]);
		CHECK_EQ(model.dev[0].ring[i].call, d.irq.fd);
		CHECK_EQ(model.dev[0].ring[i].num, 64);
		CHECK_EQ(model.dev[1].ring[i].backend, -1);
	}
	/* Frames are not ours, commands are. */
	host_sends(0, 60, 1);
	CHECK_EQ(net_turn(&d), 0);
	CHECK_EQ(ask_pairs(&d, 3), VIRTIO_NET_OK);
	CHECK_EQ(model.dev[2].ring[1].backend, net->tap.fd[2]);
	CHECK_EQ(model.dev[2].ring[1].kick, d.mmio.kick_fd[5]);
	CHECK_EQ(model.dev[3].ring[1].backend, -1);
	CHECK_EQ(fake.reads + fake.writes, 0);
	model.fail_backend = ENOMEM;
	CHECK_EQ(ask_pairs(&d, 4), VIRTIO_NET_ERR);
	CHECK_EQ(fake.enabled, 3);
	model.fail_backend = 0;
	CHECK_EQ(ask_pairs(&d, 1), VIRTIO_NET_OK);
	CHECK_EQ(model.dev[2].ring[1].backend, -1);
	CHECK_EQ(ask_pairs(&d, 4), VIRTIO_NET_OK);

	/* A pause keeps the places; the VMM could go on there. */
	model.dev[3].ring[0].base = 0x1234;
	d.q[6].used->idx = htole16(0x1230);
	virtio_mmio_pause(&d.mmio);
	CHECK_EQ(model.dev[0].ring[0].backend, -1);
	CHECK_EQ(d.dev->vq[6].last_avail, 0x1234);
	CHECK_EQ(d.dev->vq[6].next_used, 0x1230);
	model.dev[3].ring[0].base = 0;
	virtio_mmio_resume(&d.mmio);
	CHECK_EQ(model.dev[3].ring[0].base, 0x1234);
	CHECK_EQ(model.dev[3].ring[0].backend, net->tap.fd[3]);

	driver_reset(&d);
	for (unsigned int i = 0; i < 4; i++)
		CHECK_EQ(model.dev[i].ring[0].backend, -1);
	/* A kick that the loop had chosen is not taken from who has the queue now. */
	driver_force_kick(&d, 8);
	net->kick[8].fn(&net->kick[8], EPOLLIN);
	CHECK_EQ(read(d.mmio.kick_fd[8], &count, sizeof(count)), 8);
	/* One pair, commands in queue 2: no vhost for pair 1, of which that would be the receive queue. */
	CHECK(driver_start(&d, COMMANDS, 64));
	net_turns(&d);
	CHECK_EQ(model.dev[1].ring[0].backend, -1);
	CHECK_EQ(command(&d, 2, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &on, 1), VIRTIO_NET_OK);
	stop(&d);

	/* A start that fails. */
	forget();
	model.there = true;
	model.fail_backend = EINVAL;
	setup(&d, &one);
	CHECK(!driver_start(&d, 0, 8));
	CHECK(driver_needs_reset(&d));
	model.fail_backend = 0;
	driver_reset(&d);
	CHECK(driver_start(&d, 0, 8));
	stop(&d);
}

static void test_vhost_complains(void)
{
	const uint64_t count = 1;
	struct driver d;
	struct net *net;

	for (unsigned int i = 0; i < 2; i++) {
		forget();
		model.there = true;
		net = start(&d, &one, 0);
		CHECK_EQ(model.dev[0].ring[1].err, net->err.fd);
		net->err.fn(&net->err, EPOLLIN); /* an old one */
		CHECK(!driver_needs_reset(&d));
		CHECK_EQ(write(net->err.fd, &count, 8), 8);
		if (i)
			virtio_mmio_pause(&d.mmio);
		else
			net->err.fn(&net->err, EPOLLIN);
		CHECK(driver_needs_reset(&d));
		CHECK_EQ(model.dev[0].ring[0].backend, -1);
		if (i)
			virtio_mmio_resume(&d.mmio);
		driver_reset(&d);
		CHECK(driver_start(&d, 0, 8));
		CHECK_EQ(model.dev[0].ring[0].backend, net->tap.fd[0]);
		stop(&d);
	}
}

/* The kernel says nothing when the interface goes; rtnetlink does. */
static void test_vhost_loses(void)
{
	const struct driver_buf out = OUT(DRIVER_DATA + 0x1000, HDR + 60);
	struct driver d;
	struct net *net;
	uint32_t len;

	forget();
	model.there = true;
	net = start(&d, &one, COMMANDS);
	fake.gone = true;
	fake.write_errno = EBADFD;
	net->link.fn(&net->link, EPOLLIN);
	CHECK_EQ(status(&d), 0);
	CHECK_EQ(model.dev[0].ring[1].backend, -1);
	for (unsigned int life = 0; life < 2; life++) {
		for (unsigned int i = 0; i < 100; i++) {
			driver_add(&d, 1, &out, 1);
			driver_kick(&d, 1);
			net_turns(&d);
			CHECK(used(&d, 1, &len));
		}
		driver_reset(&d);
		CHECK(driver_start(&d, COMMANDS, 8));
		net_turns(&d);
		CHECK_EQ(status(&d), 0);
		CHECK_EQ(model.dev[0].ring[1].backend, -1);
	}
	CHECK_EQ(fake.writes, 0);
	stop(&d);
}

/* --- passt --------------------------------------------------------------------------------------------- */

static int listener, peer;
static char path[64];

static struct net *start_passt(struct driver *d, uint64_t features)
{
	struct net_config config = { .kind = NET_PASST, .peer = path, .pairs = 1, .mac = { 2 } };
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct net *net;

	forget();
	model.there = true;
	snprintf(path, sizeof(path), "/tmp/vinit-test-net.%d", (int)getpid());
	strcpy(addr.sun_path, path);
	unlink(path);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(!bind(listener, (struct sockaddr *)&addr, sizeof(addr)) && !listen(listener, 1));
	net = start(d, &config, features);
	peer = accept(listener, NULL, NULL);
	fcntl(peer, F_SETFL, O_NONBLOCK);
	return net;
}

static void stop_passt(struct driver *d)
{
	stop(d);
	if (peer >= 0)
		close(peer);
	close(listener);
	unlink(path);
}

static void peer_sends(uint32_t len, unsigned int seed)
{
	static uint8_t frame[70000];

	frame[0] = 0;
	frame[1] = (uint8_t)(len >> 16);
	frame[2] = (uint8_t)(len >> 8);
	frame[3] = (uint8_t)len;
	fill(frame + 4, len, seed);
	CHECK_EQ(send(peer, frame, 4 + len, 0), 4 + len);
}

static void test_passt(void)
{
	const struct driver_buf pieces[] = { IN(DRIVER_DATA, 7), IN(DRIVER_DATA + 7, 20), IN(DRIVER_DATA + 27, 1973) };
	const struct driver_buf out[] = { OUT(DRIVER_DATA + 0x1000, 5), OUT(DRIVER_DATA + 0x1005, HDR - 5 + 60) };
	uint8_t buf[4096];
	struct driver d;
	struct net *net;
	uint32_t len = 0;

	net = start_passt(&d, MERGE);
	CHECK(!net->vhost && !d.dev->own_kicks);
	CHECK(!(driver_offered(&d) & (GUEST_OFFLOADS | HOST_OFFLOADS | F(MQ) | F(MTU))));
	for (unsigned int i = 0; i < 3; i++)
		driver_add(&d, 0, pieces, 3);
	driver_kick(&d, 0);
	memset(driver_ptr(&d, DRIVER_DATA), 0xee, 2000);
	peer_sends(1000, 4);
	peer_sends(1000, 4);
	net_turns(&d);
	CHECK(used(&d, 0, &len) && len == 1000 + HDR);
	CHECK(used(&d, 0, &len) && len == 1000 + HDR);
	CHECK_EQ(driver_irqs(&d, 0), 1);
	CHECK(!memcmp(driver_ptr(&d, DRIVER_DATA), "\0\0\0\0\0\0\0\0\0\0\1\0", HDR));
	CHECK(is_frame(driver_ptr(&d, DRIVER_DATA + HDR), 1000, 4));
	/* One is left; the third frame waits in the stream's buffer for the next. */
	peer_sends(100, 5);
	peer_sends(100, 6);
	net_turns(&d);
	CHECK(used(&d, 0, &len) && !used(&d, 0, &len));
	driver_add(&d, 0, pieces, 3);
	driver_kick(&d, 0);
	net_turns(&d);
	CHECK(used(&d, 0, &len));
	CHECK(is_frame(driver_ptr(&d, DRIVER_DATA + HDR), 100, 6));

	fill(driver_ptr(&d, DRIVER_DATA + 0x1000 + HDR), 60, 8);
	driver_add(&d, 1, out, 2);
	driver_kick(&d, 1);
	net_turns(&d);
	CHECK(used(&d, 1, &len));
	CHECK_EQ(recv(peer, buf, sizeof(buf), 0), 64);
	CHECK(!memcmp(buf, "\0\0\0\x3c", 4) && is_frame(buf + 4, 60, 8));
	stop_passt(&d);
}

/* The socket is full: the rest of a frame goes out with no more to come. */
static void test_passt_blocked(void)
{
	static uint8_t got[4 << 20];
	const struct driver_buf out = OUT(DRIVER_DATA, HDR + 50000);
	unsigned int frames = 0;
	size_t len = 0;
	struct driver d;
	struct net *net;
	uint32_t used_len;

	net = start_passt(&d, 0);
	fill(driver_ptr(&d, DRIVER_DATA + HDR), 50000, 3);
	while (frames < 60 && !net->passt->out_len) {
		driver_add(&d, 1, &out, 1);
		driver_kick(&d, 1);
		net_turns(&d);
		frames += used(&d, 1, &used_len);
	}
	CHECK(net->passt->out_len);
	CHECK(net->pair[0].events & EPOLLOUT);
	for (unsigned int i = 0; i < 1000; i++) {
		ssize_t n = recv(peer, got + len, sizeof(got) - len, 0);

		len += n > 0 ? (size_t)n : 0;
		net_turns(&d);
	}
	CHECK_EQ(len, frames * 50004);
	CHECK(!net->passt->out_len && !net->pair[0].events);
	for (unsigned int i = 0; i < frames; i++)
		CHECK(is_frame(got + i * 50004 + 4, 50000, 3));
	stop_passt(&d);
}

static void test_passt_ends(void)
{
	const struct driver_buf in = IN(DRIVER_DATA, 1000), out = OUT(DRIVER_DATA, HDR + 60);
	struct driver d;
	struct net *net;
	uint32_t len;

	for (unsigned int i = 0; i < 2; i++) {
		net = start_passt(&d, F(STATUS));
		if (i) {
			driver_add(&d, 0, &in, 1);
			driver_kick(&d, 0);
			net_turns(&d);
		}
		close(peer);
		peer = -1;
		for (unsigned int k = 0; k < 3; k++) {
			driver_add(&d, 1, &out, 1);
			driver_kick(&d, 1);
			net_turns(&d);
			CHECK(used(&d, 1, &len));
		}
		CHECK_EQ(status(&d), 0);
		CHECK_EQ(net->pair[0].events, 0);
		CHECK(!driver_needs_reset(&d));
		stop_passt(&d);
	}
}

/* While the peer took no more: what the driver had sent comes back all the same, with no kick. */
static void lose_blocked(const struct net_config *config)
{
	const struct driver_buf out = OUT(DRIVER_DATA, HDR + 50000), small = OUT(DRIVER_DATA, HDR + 1000);
	bool passt = config->kind == NET_PASST;
	unsigned int sent = 0;
	struct driver d;
	struct net *net;
	uint32_t len;

	if (passt) {
		net = start_passt(&d, 0);
	} else {
		forget();
		net = start(&d, config, 0);
	}
	for (unsigned int i = 0; i < 60 && !net->pair[0].blocked; i++) {
		driver_add(&d, 1, passt ? &out : &small, 1);
		driver_kick(&d, 1);
		net_turns(&d);
		while (used(&d, 1, &len))
			;
		sent++;
	}
	CHECK(sent < 60);
	driver_add(&d, 1, &small, 1);
	if (passt) {
		/* It takes nothing any more, and does not read what it has been sent: no EPOLLOUT. */
		CHECK(!shutdown(peer, SHUT_RDWR));
	} else {
		fake.gone = true;
		net->link.fn(&net->link, EPOLLIN);
	}
	net_turns(&d);
	CHECK(net->lost && !net->pair[0].events);
	CHECK(used(&d, 1, &len) && used(&d, 1, &len) && !used(&d, 1, &len));
	if (passt)
		stop_passt(&d);
	else
		stop(&d);
}

static void test_lose(void)
{
	static const struct net_config passt = { .kind = NET_PASST };

	for (unsigned int how = 0; how < 4; how++)
		lose(how);
	lose_blocked(&one);
	lose_blocked(&passt);
}

int main(void)
{
	int log = __real_open("/dev/null", O_WRONLY | O_CLOEXEC);
	unsigned int fds;

	log_set_fd(log, false);
	CHECK_EQ(event_loop_init(&loop), 0);
	fds = open_fds();
	RUN(test_identity);
	RUN(test_offloads);
	RUN(test_receive);
	RUN(test_bad_frame_from_outside);
	RUN(test_merge);
	RUN(test_no_merge);
	RUN(test_starve);
	RUN(test_outrun);
	RUN(test_many_pieces);
	RUN(test_receive_many);
	RUN(test_bad_receive_buffers);
	RUN(test_send);
	RUN(test_bad_frames);
	RUN(test_blocked);
	RUN(test_turns_are_bounded);
	RUN(test_commands);
	RUN(test_bad_commands);
	RUN(test_queues);
	RUN(test_pause);
	RUN(test_restore);
	RUN(test_restore_otherwise);
	RUN(test_vhost_features);
	RUN(test_vhost);
	RUN(test_vhost_complains);
	RUN(test_vhost_loses);
	RUN(test_passt);
	RUN(test_passt_blocked);
	RUN(test_passt_ends);
	RUN(test_lose);
	test_failed_now = 0;
	CHECK_EQ(open_fds(), fds);
	test_failed += test_failed_now;
	return TEST_RESULT();
}
