/* SPDX-License-Identifier: MIT */
/* The peer is the test itself, at a Unix socket's other end; in one case it is the real passt. */
#include "virtio/passt.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <net/route.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/if_tun.h>

#include "tests/unit/logged.h"
#include "tests/unit/test.h"

#define BIG (4 + PASST_FRAME_MAX)

static struct passt *p;
static char dir[] = "/tmp/test_passt.XXXXXX", path[64];
static int listener, peer;
static int logged_fd;
static uint8_t buf[BIG + 64]; /* what was received */
static struct iovec whole = { .iov_base = buf, .iov_len = sizeof(buf) };

static bool says(const char *words)
{
	return log_says(logged_fd, words);
}

static struct sockaddr_un address(const char *name)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	strcpy(addr.sun_path, name);
	return addr;
}

/* A socket at path that listens, of another type where that is what matters. */
static int listen_at(const char *name, int type)
{
	struct sockaddr_un addr = address(name);
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

	unlink(name);
	CHECK(!bind(fd, (struct sockaddr *)&addr, sizeof(addr)));
	CHECK(type == SOCK_DGRAM || !listen(fd, 0));
	return fd;
}

static void meet(void)
{
	CHECK_EQ(passt_open(p, path), 0);
	peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	CHECK(peer >= 0);
}

static void part(void)
{
	passt_close(p);
	if (peer >= 0)
		close(peer);
	peer = -1;
}

/* A frame with its head, of bytes that depend on @seed; the length of all. */
static size_t frame(uint8_t *to, uint32_t len, unsigned int seed)
{
	uint32_t head = htonl(len);

	memcpy(to, &head, 4);
	for (uint32_t i = 0; i < len; i++)
		to[4 + i] = (uint8_t)(seed + i + (i >> 8));
	return len + 4;
}

static bool is_frame(const uint8_t *data, uint32_t len, unsigned int seed)
{
	static uint8_t want[BIG];

	frame(want, len, seed);
	return !memcmp(data, want + 4, len);
}

static void put(const void *data, size_t len)
{
	CHECK_EQ(send(peer, data, len, MSG_NOSIGNAL), len);
}

static void put_head(uint32_t len)
{
	len = htonl(len);
	put(&len, 4);
}

/* --- connecting ------------------------------------------------------------------------------- */

static void test_open(void)
{
	meet();
	CHECK(fcntl(p->fd, F_GETFD) & FD_CLOEXEC);
	CHECK(fcntl(p->fd, F_GETFL) & O_NONBLOCK);
	CHECK_EQ(passt_receive(p, &whole, 1), -EAGAIN);
	CHECK_EQ(passt_flush(p), 0);
	part();
	CHECK_EQ(p->fd, -1);
	passt_close(p);
	CHECK_EQ(passt_flush(p), -EPIPE);
	CHECK_STR(log_text(logged_fd), "");
}

static void test_open_refused(void)
{
	char name[128], too_long[200];
	int fds[8], fd;

	snprintf(name, sizeof(name), "%s/none", dir);
	CHECK_EQ(passt_open(p, name), -ENOENT);
	CHECK(says("/none: ENOENT: nobody listens there: start passt"));
	CHECK_EQ(p->fd, -1);
	CHECK_EQ(passt_open(p, dir), -ECONNREFUSED);
	CHECK(says("ECONNREFUSED: nobody listens there"));
	fd = listen_at(name, SOCK_DGRAM);
	CHECK_EQ(passt_open(p, name), -EPROTOTYPE);
	CHECK(says("EPROTOTYPE: it is no stream socket"));
	close(fd);
	fd = listen_at(name, SOCK_STREAM);
	/* A queue of connections that nobody takes is full one day: no waiting for it. */
	for (unsigned int i = 0; i < 8; i++) {
		int r = passt_open(p, name);

		fds[i] = p->fd;
		CHECK_EQ(r, i ? -EAGAIN : 0);
	}
	CHECK(says("EAGAIN: it takes no more connections"));
	close(fds[0]);
	close(fd);
	unlink(name);
	memset(too_long, 'x', sizeof(too_long) - 1);
	too_long[sizeof(too_long) - 1] = '\0';
	CHECK_EQ(passt_open(p, too_long), -ENAMETOOLONG);
	CHECK(says("ENAMETOOLONG: a socket's path has 107 bytes at most"));
}

/* --- receiving -------------------------------------------------------------------------------- */

static void test_receive(void)
{
	static uint8_t out[BIG];
	static const uint32_t lens[] = { 1, 14, 60, 1514, 9014, 65535 + 14, PASST_FRAME_MAX };

	meet();
	for (unsigned int i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		put(out, frame(out, lens[i], i));
		CHECK_EQ(passt_receive(p, &whole, 1), lens[i]);
		CHECK(is_frame(buf, lens[i], i));
		CHECK_EQ(passt_receive(p, &whole, 1), -EAGAIN);
	}
	part();
}

static void test_receive_split(void)
{
	static uint8_t out[2 * 1518];
	size_t len = frame(out, 1514, 1);

	len += frame(out + len, 60, 2);
	meet();
	/* Cut in two at every byte: the first, if it is whole, is not kept back. */
	for (size_t cut = 1; cut < len; cut++) {
		put(out, cut);
		if (cut < 1518)
			CHECK_EQ(passt_receive(p, &whole, 1), -EAGAIN);
		else
			CHECK_EQ(passt_receive(p, &whole, 1), 1514);
		put(out + cut, len - cut);
		if (cut < 1518)
			CHECK_EQ(passt_receive(p, &whole, 1), 1514);
		CHECK(is_frame(buf, 1514, 1));
		CHECK_EQ(passt_receive(p, &whole, 1), 60);
		CHECK(is_frame(buf, 60, 2));
		CHECK_EQ(passt_receive(p, &whole, 1), -EAGAIN);
		if (test_failed_now)
			break;
	}
	/* And byte for byte. */
	for (size_t i = 0; i < len; i++) {
		put(out + i, 1);
		CHECK_EQ(passt_receive(p, &whole, 1),
			 i == 1517 ? 1514 : i == len - 1 ? 60 : -EAGAIN);
	}
	part();
}

/* A stream of frames of all sizes, in writes that know nothing of them, against what comes out. */
static void test_receive_stream(void)
{
	enum { FRAMES = 600 };
	static uint8_t stream[FRAMES * 4000];
	size_t end = 0, sent = 0;
	unsigned int got = 0;
	uint32_t lens[FRAMES];

	for (unsigned int i = 0; i < FRAMES; i++) {
		lens[i] = i % 50 == 49 ? PASST_FRAME_MAX : 1 + (i * 7919) % 1999;
		end += frame(stream + end, lens[i], i);
	}
	meet();
	for (unsigned int turn = 0; got < FRAMES && turn < 100000; turn++) {
		size_t n = 1 + (turn * 104729) % 70000;
		ssize_t r;

		r = send(peer, stream + sent, n < end - sent ? n : end - sent, MSG_NOSIGNAL);
		sent += r > 0 ? (size_t)r : 0;
		while ((r = passt_receive(p, &whole, 1)) != -EAGAIN) {
			CHECK_EQ(r, lens[got]);
			CHECK(is_frame(buf, lens[got], got));
			if (test_failed_now)
				return;
			got++;
		}
	}
	CHECK_EQ(got, FRAMES);
	part();
}

static void test_receive_scattered(void)
{
	static uint8_t out[1518], a[12], b[100], c[2000];
	struct iovec iov[] = { { a, sizeof(a) }, { b, 0 }, { b, sizeof(b) }, { c, sizeof(c) } };

	meet();
	put(out, frame(out, 1514, 5));
	CHECK_EQ(passt_receive(p, iov, 4), 1514);
	CHECK(!memcmp(a, out + 4, 12) && !memcmp(b, out + 16, 100) && !memcmp(c, out + 116, 1402));
	CHECK(!c[1402]);
	/* One that ends in the first buffer leaves the others alone. */
	memset(b, 0xee, sizeof(b));
	put(out, frame(out, 10, 6));
	CHECK_EQ(passt_receive(p, iov, 4), 10);
	CHECK(!memcmp(a, out + 4, 10) && b[0] == 0xee);
	part();
}

static void test_receive_too_long(void)
{
	static uint8_t out[BIG];
	struct iovec small = { .iov_base = buf, .iov_len = 1514 };

	meet();
	put(out, frame(out, 1515, 1));
	put(out, frame(out, 1514, 2));
	memset(buf, 0, sizeof(buf));
	CHECK_EQ(passt_receive(p, &small, 1), 1514);
	CHECK(is_frame(buf, 1514, 2));
	CHECK_EQ(p->dropped_in, 1);
	put(out, frame(out, PASST_FRAME_MAX, 3));
	CHECK_EQ(passt_receive(p, &small, 1), -EAGAIN);
	CHECK_EQ(p->dropped_in, 2);
	/* No room at all. */
	put(out, frame(out, 60, 4));
	CHECK_EQ(passt_receive(p, &small, 0), -EAGAIN);
	CHECK_EQ(p->dropped_in, 3);
	CHECK(!buf[1514]);
	part();
	CHECK_STR(log_text(logged_fd), "");
}

/*
 * A peer that only sends what is dropped must not keep the caller: while it refills its socket, a
 * call ends, with all whole frames gone and the rest left to epoll.
 */
static void test_receive_bounded(void)
{
	static uint8_t out[60000];
	struct iovec small = { .iov_base = buf, .iov_len = 100 };
	struct pollfd ready = { .events = POLLIN };
	int space = 4 << 20;
	size_t len = 0;

	meet();
	setsockopt(peer, SOL_SOCKET, SO_SNDBUFFORCE, &space, sizeof(space));
	while (len + 1004 <= sizeof(out))
		len += frame(out + len, 1000, (unsigned int)len);
	for (int i = 0; i < 1000 && send(peer, out, len, MSG_NOSIGNAL) == (ssize_t)len; i++)
		;
	CHECK_EQ(passt_receive(p, &small, 1), -EAGAIN);
	ready.fd = p->fd;
	CHECK_EQ(poll(&ready, 1, 0), 1);
	CHECK(p->dropped_in > 100 && p->in_len < 1004);
	part();
}

static void test_receive_impossible(void)
{
	static const uint32_t lens[] = { 0, PASST_FRAME_MAX + 1, 0x10000000, UINT32_MAX };
	static uint8_t out[64];
	char want[200];

	for (unsigned int i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		meet();
		/* What came before it is good. */
		put(out, frame(out, 60, i));
		put_head(lens[i]);
		CHECK_EQ(passt_receive(p, &whole, 1), 60);
		CHECK_EQ(passt_receive(p, &whole, 1), -EPIPE);
		snprintf(want, sizeof(want), "net: passt %s: EPIPE: it sent a length that no frame has", path);
		CHECK(says(want));
		put(out, frame(out, 60, i));
		CHECK_EQ(passt_receive(p, &whole, 1), -EPIPE);
		CHECK_EQ(passt_send(p, &whole, 1), -EPIPE);
		CHECK_EQ(passt_flush(p), -EPIPE);
		CHECK_STR(log_text(logged_fd), "");
		part();
	}
}

static void test_peer_gone(void)
{
	static uint8_t out[64];

	meet();
	put(out, frame(out, 60, 1));
	put(out, 30);
	close(peer);
	CHECK_EQ(passt_receive(p, &whole, 1), 60);
	CHECK_EQ(passt_receive(p, &whole, 1), -EPIPE);
	CHECK(says("EPIPE: it ended the connection"));
	CHECK_EQ(passt_receive(p, &whole, 1), -EPIPE);
	peer = -1;
	part();

	/* Who sends sees it too, without a signal. */
	meet();
	close(peer);
	CHECK_EQ(passt_send(p, &(struct iovec){ out, 60 }, 1), -EPIPE);
	CHECK(says(": EPIPE: it ended the connection"));
	CHECK_EQ(passt_receive(p, &whole, 1), -EPIPE);
	CHECK_STR(log_text(logged_fd), "");
	peer = -1;
	part();
}

/* --- sending ---------------------------------------------------------------------------------- */

/* What has come at the peer must be this frame, whole. */
static void expect(uint32_t len, unsigned int seed)
{
	static uint8_t in[BIG], want[BIG];
	size_t all = frame(want, len, seed);
	ssize_t n = recv(peer, in, all, 0);

	CHECK_EQ(n, all);
	CHECK(n != (ssize_t)all || !memcmp(in, want, all));
}

static void test_send(void)
{
	static uint8_t out[BIG];
	static const uint32_t lens[] = { 1, 14, 60, 1514, 9014, PASST_FRAME_MAX };

	meet();
	for (unsigned int i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		frame(out, lens[i], i);
		CHECK_EQ(passt_send(p, &(struct iovec){ out + 4, lens[i] }, 1), 0);
		CHECK_EQ(p->out_len, 0);
		expect(lens[i], i);
	}
	/* No frames. */
	CHECK_EQ(passt_send(p, &(struct iovec){ out, 0 }, 1), 0);
	CHECK_EQ(passt_send(p, NULL, 0), 0);
	CHECK_EQ(passt_send(p, &(struct iovec){ out, PASST_FRAME_MAX + 1 }, 1), 0);
	CHECK_EQ(passt_send(p, &(struct iovec){ out, (size_t)1 << 32 | 60 }, 1), 0);
	CHECK_EQ(p->dropped_out, 4);
	CHECK(recv(peer, buf, 1, 0) < 0 && errno == EAGAIN);
	part();
	CHECK_STR(log_text(logged_fd), "");
}

/* Pieces of any number: those that sendmsg() takes at once, and more. */
static void test_send_pieces(void)
{
	static uint8_t out[2000];
	struct iovec iov[256];

	meet();
	for (unsigned int nr = 1; nr <= 256; nr += nr < 30 ? 1 : 113) {
		size_t at = 4, all = frame(out, 3 * nr + nr % 2, nr);

		for (unsigned int i = 0; i < nr; i++) {
			iov[i] = (struct iovec){ out + at, i == nr - 1 ? all - at : i % 5 };
			at += iov[i].iov_len;
		}
		CHECK_EQ(passt_send(p, iov, nr), 0);
		expect(3 * nr + nr % 2, nr);
	}
	part();
}

/*
 * A peer that does not read: frames are refused, or taken and kept in part; what comes out in the
 * end is all that was taken, in order. @pieces: of a frame.
 */
static void back_pressure(uint32_t len, unsigned int pieces)
{
	static uint8_t out[BIG], in[BIG];
	unsigned int taken = 0, got = 0, kept = 0, refused = 0, seed = 0;
	struct iovec iov[64];
	size_t have = 0;
	int space = 4096;

	meet();
	setsockopt(p->fd, SOL_SOCKET, SO_SNDBUF, &space, sizeof(space));
	for (unsigned int turn = 0; got < 40 && turn < 100000; turn++) {
		size_t at = 4, all = frame(out, len, seed), want;
		ssize_t n;
		int r;

		for (unsigned int i = 0; i < pieces; i++) {
			iov[i] = (struct iovec){ out + at, i == pieces - 1 ? all - at : 3 };
			at += 3;
		}
		r = taken < 40 ? passt_send(p, iov, pieces) : passt_flush(p);
		CHECK(r == 0 || r == -EAGAIN);
		if (taken < 40) {
			taken += !r;
			seed += !r;
			refused += !!r;
			kept += !r && p->out_len;
		}
		if (!r && taken < 40)
			continue; /* until it is refused */
		/* The peer reads a little. */
		want = 1 + turn % 4000;
		n = recv(peer, in + have, want < all - have ? want : all - have, 0);
		have += n > 0 ? (size_t)n : 0;
		if (have == all) {
			frame(out, len, got);
			CHECK(!memcmp(in, out, all));
			have = 0;
			got++;
		}
		if (test_failed_now)
			break;
	}
	CHECK_EQ(got, 40);
	CHECK_EQ(p->out_len, 0);
	CHECK(refused);
	/* Frames that the socket can't hold are taken in part. */
	CHECK(kept || len < 2000);
	CHECK(recv(peer, in, 1, 0) < 0 && errno == EAGAIN);
	part();
}

static void test_back_pressure(void)
{
	back_pressure(60, 1);
	back_pressure(1514, 3);
	back_pressure(9014, 3);
	back_pressure(PASST_FRAME_MAX, 2);
	back_pressure(PASST_FRAME_MAX, 64);
	back_pressure(2001, 64);
	CHECK_STR(log_text(logged_fd), "");
}

static void test_gone_with_a_rest(void)
{
	static uint8_t out[BIG];
	int space = 4096;

	meet();
	setsockopt(p->fd, SOL_SOCKET, SO_SNDBUF, &space, sizeof(space));
	CHECK_EQ(passt_send(p, &(struct iovec){ out, PASST_FRAME_MAX }, 1), 0);
	CHECK(p->out_len);
	CHECK_EQ(passt_flush(p), -EAGAIN);
	CHECK_EQ(passt_send(p, &(struct iovec){ out, 60 }, 1), -EAGAIN);
	close(peer);
	CHECK_EQ(passt_flush(p), -EPIPE);
	CHECK(says("EPIPE"));
	CHECK_EQ(passt_send(p, &(struct iovec){ out, 60 }, 1), -EPIPE);
	peer = -1;
	part();
	/* A new connection begins with nothing. */
	meet();
	CHECK_EQ(passt_flush(p), 0);
	frame(out, 60, 9);
	CHECK_EQ(passt_send(p, &(struct iovec){ out + 4, 60 }, 1), 0);
	expect(60, 9);
	part();
}

/* The buffers cost memory when they are used, and not before. */
static void test_untouched(void)
{
	unsigned char in_core[64];
	static uint8_t out[60];
	size_t page = (size_t)sysconf(_SC_PAGESIZE), nr = 0;

	munmap(p, sizeof(*p));
	p = mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	meet();
	for (unsigned int i = 0; i < 1000; i++) {
		put(out, frame(out, 56, i));
		CHECK_EQ(passt_receive(p, &whole, 1), 56);
		CHECK_EQ(passt_send(p, &(struct iovec){ buf, 56 }, 1), 0);
		expect(56, i);
	}
	CHECK(!mincore(p, sizeof(*p), in_core));
	for (size_t i = 0; i < (sizeof(*p) + page - 1) / page; i++)
		nr += in_core[i] & 1;
	CHECK(nr <= 2);
	part();
}

/* --- the real one ----------------------------------------------------------------------------- */

#define GUEST	"192.0.2.1" /* the host's address, which passt gives its guest */
#define GATEWAY "192.0.2.254" /* what goes there comes to the host's loopback */
#define PORT	7000

static void set_address(int sock, struct ifreq *ifr, unsigned long request, const char *address)
{
	struct sockaddr_in *in = (struct sockaddr_in *)&ifr->ifr_addr;

	*in = (struct sockaddr_in){ .sin_family = AF_INET };
	in->sin_addr.s_addr = inet_addr(address);
	CHECK(!ioctl(sock, request, ifr));
}

static void set_up(int sock, const char *name)
{
	struct ifreq ifr = { 0 };

	strcpy(ifr.ifr_name, name);
	CHECK(!ioctl(sock, SIOCGIFFLAGS, &ifr));
	ifr.ifr_flags |= IFF_UP;
	CHECK(!ioctl(sock, SIOCSIFFLAGS, &ifr));
}

/*
 * A network namespace with an interface that looks as if it led out, which is all that passt wants:
 * a tap, at whose other end (the descriptor) nobody reads. -1: why is told.
 */
static int make_network(void)
{
	struct rtentry route = { .rt_flags = RTF_UP | RTF_GATEWAY };
	struct sockaddr_in *gateway = (struct sockaddr_in *)&route.rt_gateway;
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI };
	int fd = -1, sock;

	if (unshare(CLONE_NEWNET) || (fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC)) < 0 ||
	    ioctl(fd, TUNSETIFF, &ifr)) {
		printf("skip test_real_passt: a network namespace and a tap of its own: %s\n",
		       strerror(errno));
		if (fd >= 0)
			close(fd);
		return -1;
	}
	sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	set_up(sock, "lo");
	set_address(sock, &ifr, SIOCSIFADDR, GUEST);
	set_address(sock, &ifr, SIOCSIFNETMASK, "255.255.255.0");
	set_up(sock, ifr.ifr_name);
	route.rt_dst.sa_family = route.rt_genmask.sa_family = AF_INET;
	gateway->sin_family = AF_INET;
	gateway->sin_addr.s_addr = inet_addr(GATEWAY);
	CHECK(!ioctl(sock, SIOCADDRT, &route));
	close(sock);
	return fd;
}

/* passt as nobody, serving at @name; its pid, once it listens. */
static pid_t start_passt(const char *program, const char *name)
{
	pid_t pid;

	CHECK(!chmod(dir, 0777));
	pid = fork();
	if (!pid) {
		/* It talks of the log that it has not got. */
		dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
		if (setgroups(0, NULL) || setgid(65534) || setuid(65534))
			_exit(126);
		execl(program, program, "-f", "-q", "-4", "-s", name, (char *)NULL);
		_exit(127);
	}
	for (int i = 0; i < 500 && access(name, F_OK); i++)
		usleep(20000);
	/* bind() comes before listen(). */
	usleep(200000);
	return pid;
}

/* The next frame of this kind, or 0 after some seconds. */
static ssize_t await(uint16_t type, uint8_t protocol)
{
	struct pollfd ready = { .fd = p->fd, .events = POLLIN };

	for (int i = 0; i < 100; i++) {
		ssize_t n = passt_receive(p, &whole, 1);

		if (n == -EAGAIN && poll(&ready, 1, 5000) != 1)
			return 0;
		if (n < 0 && n != -EAGAIN)
			return n;
		if (n >= 42 && (buf[12] << 8 | buf[13]) == type &&
		    (!protocol || buf[23] == protocol))
			return n;
	}
	return 0;
}

static void put_be16(uint8_t *to, size_t value)
{
	to[0] = (uint8_t)(value >> 8);
	to[1] = (uint8_t)value;
}

/* A datagram of @len bytes from the guest to the gateway, in @out; the frame's length. */
static size_t datagram(uint8_t *out, const uint8_t to[6], size_t len)
{
	uint32_t sum = 0, address;

	memset(out, 0, 42);
	memcpy(out, to, 6);
	memcpy(out + 6, "\x02vinit", 6);
	put_be16(out + 12, 0x0800);
	out[14] = 0x45;
	put_be16(out + 16, 20 + 8 + len);
	out[22] = 64;
	out[23] = IPPROTO_UDP;
	address = inet_addr(GUEST);
	memcpy(out + 26, &address, 4);
	address = inet_addr(GATEWAY);
	memcpy(out + 30, &address, 4);
	for (int i = 14; i < 34; i += 2)
		sum += (uint32_t)(out[i] << 8 | out[i + 1]);
	sum = (sum & 0xffff) + (sum >> 16);
	put_be16(out + 24, ~(sum + (sum >> 16)));
	put_be16(out + 34, PORT + 1);
	put_be16(out + 36, PORT);
	put_be16(out + 38, 8 + len); /* no checksum: 0 */
	for (size_t i = 0; i < len; i++)
		out[42 + i] = (uint8_t)(i + len);
	return 42 + len;
}

/* There and back through a socket of the host's. */
static void exchange(int sock, const uint8_t mac[6], size_t len)
{
	static uint8_t out[42 + 9000], in[9000];
	struct sockaddr_in from;
	socklen_t from_len = sizeof(from);
	struct pollfd ready = { .fd = sock, .events = POLLIN };

	CHECK_EQ(passt_send(p, &(struct iovec){ out, datagram(out, mac, len) }, 1), 0);
	if (poll(&ready, 1, 5000) != 1) {
		CHECK(!"the datagram came");
		return;
	}
	CHECK_EQ(recvfrom(sock, in, sizeof(in), 0, (struct sockaddr *)&from, &from_len), len);
	CHECK(!memcmp(in, out + 42, len));
	in[0] ^= 0xff;
	CHECK_EQ(sendto(sock, in, len, 0, (struct sockaddr *)&from, from_len), len);
	CHECK_EQ(await(0x0800, IPPROTO_UDP), 42 + len);
	CHECK(!memcmp(buf + 42, in, len));
}

static void test_real_passt(void)
{
	static const uint8_t arp[] = { 0, 1, 8, 0, 6, 4, 0, 1 };
	struct sockaddr_in here = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	uint8_t ask[42] = { 0 }, mac[6];
	uint32_t address;
	char name[64];
	pid_t pid;
	int sock;

	snprintf(name, sizeof(name), "%s/real", dir);
	pid = start_passt("/usr/bin/passt", name);
	CHECK_EQ(passt_open(p, name), 0);

	memset(ask, 0xff, 6);
	memcpy(ask + 6, "\x02vinit\x08\x06", 8);
	memcpy(ask + 14, arp, sizeof(arp));
	memcpy(ask + 22, "\x02vinit", 6);
	address = inet_addr(GUEST);
	memcpy(ask + 28, &address, 4);
	address = inet_addr(GATEWAY);
	memcpy(ask + 38, &address, 4);
	CHECK_EQ(passt_send(p, &(struct iovec){ ask, sizeof(ask) }, 1), 0);
	CHECK(await(0x0806, 0) >= 42);
	CHECK(buf[21] == 2 && !memcmp(buf + 28, &address, 4));
	memcpy(mac, buf + 22, 6);

	sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	CHECK(!bind(sock, (struct sockaddr *)&here, sizeof(here)));
	for (size_t len = 1; len <= 9000; len += len < 1000 ? 333 : 2000)
		exchange(sock, mac, len);
	close(sock);

	CHECK_STR(log_text(logged_fd), "");
	kill(pid, SIGKILL);
	CHECK_EQ(waitpid(pid, NULL, 0), pid);
	CHECK(await(0, 0) == -EPIPE);
	CHECK(says(": EPIPE: it ended the connection"));
	passt_close(p);
	unlink(name);
}

int main(void)
{
	int tap;

	p = mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	logged_fd = log_capture();
	if (p == MAP_FAILED || !mkdtemp(dir)) {
		printf("FAIL all: %s\n", strerror(errno));
		return 1;
	}
	snprintf(path, sizeof(path), "%s/socket", dir);
	listener = listen_at(path, SOCK_STREAM);
	RUN(test_open);
	RUN(test_open_refused);
	RUN(test_receive);
	RUN(test_receive_split);
	RUN(test_receive_stream);
	RUN(test_receive_scattered);
	RUN(test_receive_too_long);
	RUN(test_receive_bounded);
	RUN(test_receive_impossible);
	RUN(test_peer_gone);
	RUN(test_send);
	RUN(test_send_pieces);
	RUN(test_back_pressure);
	RUN(test_gone_with_a_rest);
	RUN(test_untouched);
	if (access("/usr/bin/passt", X_OK))
		printf("skip test_real_passt: there is no /usr/bin/passt: scripts/setup test\n");
	else if (geteuid())
		printf("skip test_real_passt: a network namespace takes root\n");
	else if ((tap = make_network()) >= 0) {
		RUN(test_real_passt);
		close(tap);
	}
	unlink(path);
	rmdir(dir);
	return TEST_RESULT();
}
