/* SPDX-License-Identifier: MIT */
/*
 * Taps of a real kernel, each test in a network namespace of its own: nothing of this machine's
 * networks is touched or seen.
 */
#include "virtio/tap.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/capability.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <linux/virtio_net.h>

#include "tests/unit/logged.h"
#include "tests/unit/test.h"

#define ETHERTYPE_TEST 0x88b5 /* for local experiments: IEEE 802 */
#define HDR	       12     /* bytes before a frame */

static struct tap tap, other;
static int sock = -1; /* for ioctls in the namespace */
static int logged_fd;
static char sys[] = "/tmp/test_tap.XXXXXX"; /* the namespace's /sys */
static int open_fails;			     /* errno for /dev/net/tun */

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);

int __wrap_open(const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
	va_end(ap);
	if (open_fails && !strcmp(path, "/dev/net/tun")) {
		errno = open_fails;
		return -1;
	}
	return __real_open(path, flags, mode);
}

/* --- the namespace ---------------------------------------------------------------------------- */

/* A namespace without anything. False with errno. */
static bool fresh(void)
{
	umount2(sys, MNT_DETACH);
	if (sock >= 0)
		close(sock);
	if (unshare(CLONE_NEWNET) || mount("sysfs", sys, "sysfs", 0, NULL))
		return false;
	sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	return sock >= 0;
}

static bool says(const char *words)
{
	return log_says(logged_fd, words);
}

static struct ifreq ask(const char *name, unsigned long request, int value)
{
	struct ifreq ifr = { 0 };

	strcpy(ifr.ifr_name, name);
	ifr.ifr_ifindex = value;
	if (ioctl(sock, request, &ifr))
		ifr.ifr_ifindex = -1;
	return ifr;
}

static bool exists(const char *name)
{
	return ask(name, SIOCGIFINDEX, 0).ifr_ifindex > 0;
}

static bool is_up(const char *name)
{
	return ask(name, SIOCGIFFLAGS, 0).ifr_flags & IFF_UP;
}

static void set_up(const char *name)
{
	struct ifreq ifr = { .ifr_flags = IFF_UP };

	strcpy(ifr.ifr_name, name);
	CHECK(!ioctl(sock, SIOCSIFFLAGS, &ifr));
}

/* ip link add NAME type bridge */
static bool add_bridge(const char *name)
{
	struct {
		struct nlmsghdr head;
		struct ifinfomsg info;
		struct rtattr name_attr;
		char name[IFNAMSIZ];
		struct rtattr link_attr;
		struct rtattr kind_attr;
		char kind[8];
	} msg = {
		.head = { .nlmsg_len = sizeof(msg),
			  .nlmsg_type = RTM_NEWLINK,
			  .nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL },
		.name_attr = { .rta_len = RTA_LENGTH(IFNAMSIZ), .rta_type = IFLA_IFNAME },
		.link_attr = { .rta_len = RTA_LENGTH(RTA_LENGTH(8)), .rta_type = IFLA_LINKINFO },
		.kind_attr = { .rta_len = RTA_LENGTH(7), .rta_type = IFLA_INFO_KIND },
		.kind = "bridge",
	};
	int nl = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	bool sent;

	strcpy(msg.name, name);
	sent = send(nl, &msg, sizeof(msg), 0) == sizeof(msg);
	close(nl);
	return sent && exists(name);
}

static void make_bridge(const char *name)
{
	CHECK(add_bridge(name));
	set_up(name);
}

/* A tap that stays, as an administrator makes it. */
static void make_tap(const char *name, short flags)
{
	struct ifreq ifr = { .ifr_flags = flags };
	int fd = __real_open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	strcpy(ifr.ifr_name, name);
	CHECK(fd >= 0 && !ioctl(fd, TUNSETIFF, &ifr) && !ioctl(fd, TUNSETPERSIST, 1));
	close(fd);
}

/* ip link del */
static void delete_link(const char *name)
{
	struct {
		struct nlmsghdr head;
		struct ifinfomsg info;
	} msg = {
		.head = { .nlmsg_len = sizeof(msg),
			  .nlmsg_type = RTM_DELLINK,
			  .nlmsg_flags = NLM_F_REQUEST },
		.info = { .ifi_index = ask(name, SIOCGIFINDEX, 0).ifr_ifindex },
	};
	int nl = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	CHECK(send(nl, &msg, sizeof(msg), 0) == sizeof(msg));
	close(nl);
	CHECK(!exists(name));
}

/* Entries of the namespace's /sys/class/net/NAME/FOLDER that begin with @start. */
static int count(const char *name, const char *folder, const char *start)
{
	char path[128];
	struct dirent *e;
	int nr = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "%s/class/net/%s/%s", sys, name, folder);
	dir = opendir(path);
	while (dir && (e = readdir(dir)))
		nr += e->d_name[0] != '.' && !strncmp(e->d_name, start, strlen(start));
	if (dir)
		closedir(dir);
	return nr;
}

static int open_files(void)
{
	int nr = 0;

	for (int fd = 0; fd < 256; fd++)
		nr += fcntl(fd, F_GETFD) >= 0;
	return nr;
}

/* CAP_NET_ADMIN, put aside and taken up again. */
static void may_administer(bool yes)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	CHECK(!syscall(SYS_capget, &head, data));
	data[0].effective &= ~(1u << CAP_NET_ADMIN);
	data[0].effective |= (uint32_t)yes << CAP_NET_ADMIN;
	CHECK(!syscall(SYS_capset, &head, data));
}

/* --- opening ---------------------------------------------------------------------------------- */

static void test_open_existing(void)
{
	CHECK(fresh());
	make_tap("there", IFF_TAP | IFF_NO_PI);
	ask("there", SIOCSIFMTU, 1400);
	CHECK_EQ(tap_open(&tap, "there", NULL, 1), 0);
	CHECK_STR(tap.name, "there");
	CHECK_EQ(tap.nr, 1);
	CHECK_EQ(tap.enabled, 1);
	CHECK_EQ(tap.mtu, 1400);
	CHECK(!tap.made);
	CHECK(fcntl(tap.fd[0], F_GETFD) & FD_CLOEXEC);
	CHECK(fcntl(tap.fd[0], F_GETFL) & O_NONBLOCK);
	CHECK(!is_up("there"));
	tap_close(&tap);
	CHECK(exists("there") && !is_up("there"));
	tap_close(&tap);

	/* One that is up stays up. */
	set_up("there");
	CHECK_EQ(tap_open(&tap, "there", NULL, 1), 0);
	tap_close(&tap);
	CHECK(is_up("there"));
	CHECK_STR(log_text(logged_fd), "");
}

static void test_open_header(void)
{
	struct ifreq ifr;
	int value;

	CHECK(fresh());
	make_tap("there", IFF_TAP);
	CHECK_EQ(tap_open(&tap, "there", NULL, 1), 0);
	CHECK(!ioctl(tap.fd[0], TUNGETVNETHDRSZ, &value) && value == HDR);
	CHECK(!ioctl(tap.fd[0], TUNGETVNETLE, &value) && value);
	CHECK(!ioctl(tap.fd[0], TUNGETIFF, &ifr));
	CHECK_EQ(ifr.ifr_flags & (IFF_TUN | IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE),
		 IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
	tap_close(&tap);
}

static void test_open_made(void)
{
	CHECK(fresh());
	CHECK_EQ(tap_open(&tap, "mine", NULL, 1), 0);
	CHECK(tap.made && is_up("mine"));
	CHECK_EQ(tap.mtu, 1500);
	tap_close(&tap);
	CHECK(!exists("mine"));

	/* The longest name. */
	CHECK_EQ(tap_open(&tap, "fifteen-letters", NULL, 1), 0);
	CHECK(exists("fifteen-letters"));
	tap_close(&tap);
	CHECK_STR(log_text(logged_fd), "");
}

static void test_open_queues(void)
{
	CHECK(fresh());
	for (unsigned int nr = 2; nr <= TAP_MAX_QUEUES; nr++) {
		CHECK_EQ(tap_open(&tap, "many", NULL, nr), 0);
		CHECK_EQ(tap.nr, nr);
		CHECK_EQ(count("many", "queues", "tx-"), nr);
		tap_close(&tap);
		CHECK(!exists("many"));
	}
	make_tap("there", IFF_TAP | IFF_MULTI_QUEUE);
	CHECK_EQ(tap_open(&tap, "there", NULL, 4), 0);
	CHECK_EQ(count("there", "queues", "tx-"), 4);
	tap_close(&tap);
	/* One for several does for one. */
	CHECK_EQ(tap_open(&tap, "there", NULL, 1), 0);
	CHECK_EQ(count("there", "queues", "tx-"), 1);
	tap_close(&tap);
	CHECK_STR(log_text(logged_fd), "");
}

static void test_open_refused(void)
{
	int files;

	CHECK(fresh());
	files = open_files();
	CHECK_EQ(tap_open(&tap, "lo", NULL, 1), -EINVAL);
	CHECK(says("net: lo, 1 queue: EINVAL: no tap"));
	make_tap("route", IFF_TUN);
	CHECK_EQ(tap_open(&tap, "route", NULL, 1), -EINVAL);
	CHECK(says("no tap"));
	CHECK_EQ(tap_open(&tap, "a/b", NULL, 2), -EINVAL);
	CHECK(says("no name that an interface can have"));
	CHECK_EQ(tap_open(&tap, "", NULL, 1), -EINVAL);
	CHECK(says("no name that an interface can have"));
	CHECK_EQ(tap_open(&tap, "sixteen--letters", NULL, 1), -EINVAL);
	CHECK(says("no name that an interface can have"));
	CHECK_EQ(tap_open(&tap, NULL, "sixteen--letters", 1), -EINVAL);
	CHECK(says("no name that an interface can have"));

	make_tap("single", IFF_TAP);
	CHECK_EQ(tap_open(&tap, "single", NULL, 2), -EINVAL);
	CHECK(says("net: single, 2 queues: EINVAL: made for one queue"));
	CHECK_EQ(tap_open(&tap, "single", NULL, 1), 0);
	CHECK_EQ(tap_open(&other, "single", NULL, 1), -EBUSY);
	CHECK(says("EBUSY: another process has it"));
	CHECK_EQ(other.nr, 0);
	CHECK_EQ(tap_open(&other, "single", NULL, 2), -EINVAL);
	CHECK(says("made for one queue"));
	tap_close(&tap);
	CHECK_EQ(open_files(), files);
}

static void test_open_forbidden(void)
{
	CHECK(fresh());
	make_bridge("br");
	make_tap("there", IFF_TAP);
	may_administer(false);
	CHECK_EQ(tap_open(&tap, "mine", NULL, 1), -EPERM);
	CHECK(says("EPERM: this user may not: it takes CAP_NET_ADMIN"));
	CHECK_EQ(tap_open(&tap, NULL, "br", 2), -EPERM);
	CHECK(says("net: br, 2 queues: EPERM"));
	/* Anybody may who can open the device, unless the tap has an owner. */
	CHECK_EQ(tap_open(&tap, "there", NULL, 1), 0);
	CHECK_EQ(tap_set_mtu(&tap, 1400), -EPERM);
	CHECK(says("net: tap there: EPERM: its MTU can't be 1400: that takes CAP_NET_ADMIN"));
	CHECK_EQ(tap.mtu, 1500);
	tap_close(&tap);
	may_administer(true);
}

static void test_open_no_driver(void)
{
	static const struct {
		int err;
		const char *words;
	} rows[] = {
		{ ENOENT, "ENOENT: no /dev/net/tun: load the tun module or build the kernel with "
			  "CONFIG_TUN" },
		{ ENODEV, "ENODEV: no /dev/net/tun" },
		{ EACCES, "EACCES: this user may not" },
		{ EMFILE, "EMFILE: the kernel refuses it" },
	};

	CHECK(fresh());
	for (unsigned int i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		open_fails = rows[i].err;
		CHECK_EQ(tap_open(&tap, "mine", NULL, 1), -rows[i].err);
		CHECK(says(rows[i].words));
		CHECK_EQ(tap.nr, 0);
	}
	open_fails = 0;
}

/* --- bridges ---------------------------------------------------------------------------------- */

static void test_bridge(void)
{
	CHECK(fresh());
	make_bridge("br");
	ask("br", SIOCSIFMTU, 1300);
	CHECK_EQ(tap_open(&tap, NULL, "br", 1), 0);
	CHECK_STR(tap.name, "vinit0");
	CHECK(tap.made && is_up("vinit0"));
	CHECK_EQ(tap.mtu, 1300);
	CHECK_EQ(ask("vinit0", SIOCGIFMTU, 0).ifr_mtu, 1300);
	CHECK_EQ(count("br", "brif", "vinit0"), 1);

	/* The next one gets the next name. */
	CHECK_EQ(tap_open(&other, NULL, "br", 4), 0);
	CHECK_STR(other.name, "vinit1");
	CHECK_EQ(count("vinit1", "queues", "tx-"), 4);
	CHECK_EQ(count("br", "brif", "vinit"), 2);

	tap_close(&tap);
	CHECK_EQ(count("br", "brif", "vinit"), 1);
	CHECK(!exists("vinit0") && exists("br"));
	tap_close(&other);
	CHECK_EQ(count("br", "brif", ""), 0);

	/* More than a tap can have. */
	ask("br", SIOCSIFMTU, 65535);
	CHECK_EQ(tap_open(&tap, NULL, "br", 1), 0);
	CHECK_EQ(tap.mtu, 65521);
	CHECK_EQ(ask(tap.name, SIOCGIFMTU, 0).ifr_mtu, 65521);
	tap_close(&tap);
	CHECK_STR(log_text(logged_fd), "");
}

static void test_bridge_refused(void)
{
	int files;

	CHECK(fresh());
	files = open_files();
	CHECK_EQ(tap_open(&tap, NULL, "br", 1), -ENODEV);
	CHECK(says("net: bridge br: ENODEV: make one: ip link add NAME type bridge"));
	CHECK_EQ(tap_open(&tap, NULL, "lo", 1), -EOPNOTSUPP);
	CHECK(says("net: bridge lo: EOPNOTSUPP: it is no bridge"));
	CHECK(!exists("vinit0") && !exists("br"));
	CHECK_EQ(open_files(), files);
}

/* --- frames ----------------------------------------------------------------------------------- */

/* A frame of @len bytes, its header included, to everybody. */
static size_t frame(uint8_t *buf, size_t len, uint8_t seed)
{
	memset(buf, 0, HDR);
	memset(buf + HDR, 0xff, 6);
	memcpy(buf + HDR + 6, "\x02vinit", 6);
	buf[HDR + 12] = ETHERTYPE_TEST >> 8;
	buf[HDR + 13] = ETHERTYPE_TEST & 0xff;
	for (size_t i = HDR + 14; i < len; i++)
		buf[i] = (uint8_t)(seed + i);
	return len;
}

/* The next frame of a protocol, past what the host's own stack says on a link; or -1. */
static ssize_t next_frame(int fd, uint8_t *buf, size_t len, uint16_t type)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	for (int i = 0; i < 100 && poll(&p, 1, 1000) == 1; i++) {
		ssize_t n = read(fd, buf, len);

		if (n >= HDR + 14 && (buf[HDR + 12] << 8 | buf[HDR + 13]) == type)
			return n;
	}
	return -1;
}

static void test_frames(void)
{
	static uint8_t out[HDR + 14 + 9000], in[sizeof(out) + 1];

	CHECK(fresh());
	make_bridge("br");
	CHECK_EQ(tap_open(&tap, NULL, "br", 1), 0);
	CHECK_EQ(tap_open(&other, NULL, "br", 1), 0);
	CHECK_EQ(tap_set_mtu(&tap, 9000), 0);
	CHECK_EQ(tap_set_mtu(&other, 9000), 0);
	CHECK_EQ(tap.mtu, 9000);
	CHECK_EQ(ask(tap.name, SIOCGIFMTU, 0).ifr_mtu, 9000);
	for (size_t len = HDR + 14 + 46; len <= sizeof(out); len += len < 1600 ? 727 : 2011) {
		frame(out, len, (uint8_t)len);
		CHECK_EQ(write(tap.fd[0], out, len), len);
		CHECK_EQ(next_frame(other.fd[0], in, sizeof(in), ETHERTYPE_TEST), len);
		CHECK(!memcmp(out + HDR, in + HDR, len - HDR));
	}
	/* The largest, and the other way. */
	CHECK_EQ(write(other.fd[0], out, frame(out, sizeof(out), 3)), sizeof(out));
	CHECK_EQ(next_frame(tap.fd[0], in, sizeof(in), ETHERTYPE_TEST), sizeof(out));
	CHECK(!memcmp(out + HDR, in + HDR, sizeof(out) - HDR));

	CHECK_EQ(tap_set_mtu(&tap, 70000), -EINVAL);
	CHECK(says("EINVAL: its MTU can't be 70000: see maxmtu"));
	CHECK_EQ(tap.mtu, 9000);
	tap_close(&tap);
	tap_close(&other);
}

/* A datagram to everybody behind the tap, from a port of its own. */
static void send_datagram(const char *name, uint16_t port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(9) };
	struct sockaddr_in from = { .sin_family = AF_INET, .sin_port = htons(port) };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), yes = 1;

	to.sin_addr.s_addr = inet_addr("192.0.2.255");
	CHECK(!setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &yes, sizeof(yes)));
	CHECK(!bind(fd, (struct sockaddr *)&from, sizeof(from)));
	CHECK_EQ(sendto(fd, "hello", 5, 0, (struct sockaddr *)&to, sizeof(to)), 5);
	close(fd);
}

static void give_address(const char *name)
{
	struct ifreq ifr = { 0 };
	struct sockaddr_in *addr = (struct sockaddr_in *)&ifr.ifr_addr;

	strcpy(ifr.ifr_name, name);
	addr->sin_family = AF_INET;
	addr->sin_addr.s_addr = inet_addr("192.0.2.1");
	CHECK(!ioctl(sock, SIOCSIFADDR, &ifr));
	addr->sin_addr.s_addr = inet_addr("255.255.255.0");
	CHECK(!ioctl(sock, SIOCSIFNETMASK, &ifr));
	addr->sin_addr.s_addr = inet_addr("192.0.2.255");
	CHECK(!ioctl(sock, SIOCSIFBRDADDR, &ifr));
}

static void test_offloads(void)
{
	struct virtio_net_hdr_v1 *hdr;
	uint8_t in[2048];

	hdr = (struct virtio_net_hdr_v1 *)in;
	CHECK(fresh());
	CHECK_EQ(tap_open(&tap, "mine", NULL, 1), 0);
	give_address("mine");
	CHECK_EQ(tap_set_offloads(&tap, 0), 0);
	send_datagram("mine", 1000);
	CHECK_EQ(next_frame(tap.fd[0], in, sizeof(in), 0x0800), HDR + 14 + 20 + 8 + 5);
	CHECK_EQ(hdr->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM, 0);

	/* Now the checksum is left to the reader: at a place that is told, little-endian. */
	CHECK_EQ(tap_set_offloads(&tap, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN), 0);
	send_datagram("mine", 1001);
	CHECK_EQ(next_frame(tap.fd[0], in, sizeof(in), 0x0800), HDR + 14 + 20 + 8 + 5);
	CHECK_EQ(hdr->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_F_NEEDS_CSUM);
	CHECK_EQ(in[6] | in[7] << 8, 14 + 20);
	CHECK_EQ(in[8] | in[9] << 8, 6);

	/* None that the kernel can't know. */
	CHECK_EQ(tap_set_offloads(&tap, TUN_F_CSUM | 1u << 31), -EINVAL);
	CHECK_STR(log_text(logged_fd), "");
	tap_close(&tap);
}

/* Sends @nr datagrams of different flows; how many came on queue @q of them. */
static int flows(int nr, unsigned int q)
{
	uint8_t in[2048];
	int got = 0;

	for (int i = 0; i < nr; i++)
		send_datagram(tap.name, (uint16_t)(2000 + i));
	for (int i = 0; i < 1000; i++) {
		ssize_t n = read(tap.fd[q], in, sizeof(in));

		if (n < 0)
			break;
		/* UDP's destination port, past the headers, is discard's. */
		got += n > HDR + 38 && in[HDR + 12] == 8 && in[HDR + 37] == 9;
	}
	return got;
}

static void test_enable(void)
{
	int files;

	CHECK(fresh());
	CHECK_EQ(tap_open(&tap, "mine", NULL, 4), 0);
	files = open_files();
	give_address("mine");
	CHECK_EQ(tap.enabled, 4);
	CHECK_EQ(tap_enable(&tap, 1), 0);
	CHECK_EQ(tap.enabled, 1);
	CHECK_EQ(count("mine", "queues", "tx-"), 1);
	CHECK_EQ(flows(40, 0), 40);
	for (unsigned int q = 1; q < 4; q++)
		CHECK_EQ(flows(0, q), 0);
	CHECK_EQ(tap_enable(&tap, 3), 0);
	CHECK_EQ(count("mine", "queues", "tx-"), 3);
	CHECK_EQ(flows(40, 0) + flows(0, 1) + flows(0, 2), 40);
	CHECK_EQ(flows(0, 3), 0);
	CHECK_EQ(tap_enable(&tap, 2), 0);
	CHECK_EQ(tap_enable(&tap, 4), 0);
	CHECK_EQ(tap_enable(&tap, 4), 0);
	CHECK_EQ(count("mine", "queues", "tx-"), 4);
	CHECK_EQ(tap_enable(&tap, 0), -EINVAL);
	CHECK_EQ(tap_enable(&tap, 5), -EINVAL);
	CHECK_EQ(tap.enabled, 4);
	CHECK_EQ(open_files(), files);

	/* Detached ones are closed with the others. */
	CHECK_EQ(tap_enable(&tap, 1), 0);
	tap_close(&tap);
	CHECK(!exists("mine"));

	CHECK_EQ(tap_open(&tap, "mine", NULL, 1), 0);
	CHECK_EQ(tap_enable(&tap, 1), 0);
	CHECK_EQ(tap_enable(&tap, 2), -EINVAL);
	tap_close(&tap);
	CHECK_STR(log_text(logged_fd), "");
}

/* --- what others do to it --------------------------------------------------------------------- */

static void test_deleted(void)
{
	struct epoll_event ev = { .events = EPOLLIN };
	int ep = epoll_create1(EPOLL_CLOEXEC);
	uint8_t buf[HDR + 60];

	CHECK(fresh());
	make_bridge("br");
	CHECK_EQ(tap_open(&tap, NULL, "br", 2), 0);
	for (int q = 0; q < 2; q++)
		CHECK(!epoll_ctl(ep, EPOLL_CTL_ADD, tap.fd[q], &ev));
	while (read(tap.fd[0], buf, sizeof(buf)) > 0 || read(tap.fd[1], buf, sizeof(buf)) > 0)
		;
	CHECK_EQ(errno, EAGAIN);
	delete_link(tap.name);
	CHECK_EQ(epoll_wait(ep, &ev, 1, 1000), 1);
	CHECK(ev.events & EPOLLERR);
	for (int q = 0; q < 2; q++) {
		CHECK(read(tap.fd[q], buf, sizeof(buf)) < 0 && errno == EBADFD);
		CHECK(write(tap.fd[q], buf, frame(buf, sizeof(buf), 1)) < 0 && errno == EBADFD);
	}
	CHECK_EQ(tap_set_offloads(&tap, 0), -EBADFD);
	CHECK(tap_enable(&tap, 1) < 0);
	CHECK_STR(log_text(logged_fd), "");
	CHECK_EQ(tap.enabled, 2);
	CHECK_EQ(tap_set_mtu(&tap, 1400), -ENODEV);
	CHECK(says("ENODEV"));
	tap_close(&tap);
	close(ep);
	CHECK(exists("br"));
}

static void test_down(void)
{
	uint8_t buf[HDR + 60];

	CHECK(fresh());
	make_tap("there", IFF_TAP);
	CHECK_EQ(tap_open(&tap, "there", NULL, 1), 0);
	CHECK(write(tap.fd[0], buf, frame(buf, sizeof(buf), 1)) < 0 && errno == EIO);
	CHECK(read(tap.fd[0], buf, sizeof(buf)) < 0 && errno == EAGAIN);
	set_up("there");
	CHECK_EQ(write(tap.fd[0], buf, sizeof(buf)), sizeof(buf));
	tap_close(&tap);
}

/* Why this machine can't, or NULL. */
static const char *cannot(void)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int fd;

	if (!mkdtemp(sys) || unshare(CLONE_NEWNS) ||
	    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) || !fresh())
		return "a network namespace of its own takes root";
	/* Only now: a descriptor makes its interface in the namespace that it was opened in. */
	fd = __real_open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return "/dev/net/tun can't be opened";
	if (ioctl(fd, TUNSETIFF, &ifr))
		return "no tap can be made here (or the emulation lacks TUNSETIFF)";
	close(fd);
	return add_bridge("br") ? NULL : "no bridge can be made here (load the bridge module)";
}

int main(void)
{
	const char *why = cannot();

	if (why) {
		printf("skip all: %s: %s\n", why, strerror(errno));
		umount2(sys, MNT_DETACH);
		rmdir(sys);
		return 0;
	}
	logged_fd = log_capture();
	RUN(test_open_existing);
	RUN(test_open_header);
	RUN(test_open_made);
	RUN(test_open_queues);
	RUN(test_open_refused);
	RUN(test_open_forbidden);
	RUN(test_open_no_driver);
	RUN(test_bridge);
	RUN(test_bridge_refused);
	RUN(test_frames);
	RUN(test_offloads);
	RUN(test_enable);
	RUN(test_deleted);
	RUN(test_down);
	umount2(sys, MNT_DETACH);
	rmdir(sys);
	return TEST_RESULT();
}
