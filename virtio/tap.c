/* SPDX-License-Identifier: MIT */
#include "virtio/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <linux/virtio_net.h>

#include "vm/log.h"

#define TUN_PATH    "/dev/net/tun"
#define TAP_MTU_MAX (65535 - 14) /* the kernel's; a bridge may have more */

_Static_assert(TAP_NAME_SIZE == IFNAMSIZ, "names are the kernel's");

static int tap_ioctl(int fd, unsigned long request, void *arg)
{
	return ioctl(fd, (int)request, arg) < 0 ? -errno : 0;
}

/* --- the interface behind them ---------------------------------------------------------------- */

/*
 * SIOCGIFINDEX, SIOCGIFMTU: the number; SIOCSIFMTU: sets it to @value, which is returned. Or
 * -errno. ifr_ifindex and ifr_mtu are the same int.
 */
static int tap_ask(unsigned long request, const char *name, int value)
{
	int sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), r = -errno;
	struct ifreq ifr;

	if (sock < 0)
		return r;
	strcpy(ifr.ifr_name, name);
	ifr.ifr_mtu = value;
	r = tap_ioctl(sock, request, &ifr);
	close(sock);
	return r ? r : ifr.ifr_mtu;
}

/* Sets the interface up, to an MTU and, unless @master is 0, into that bridge: one message. */
static int tap_link(int index, int mtu, int master)
{
	struct {
		struct nlmsghdr head;
		struct ifinfomsg info;
		struct rtattr mtu_attr;
		int mtu;
		struct rtattr master_attr;
		int master;
	} ask = {
		.head = { .nlmsg_len = master ? sizeof(ask) :
				  offsetof(__typeof__(ask), master_attr),
			  .nlmsg_type = RTM_NEWLINK,
			  .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK },
		.info = { .ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP },
		.mtu_attr = { .rta_len = RTA_LENGTH(sizeof(int)), .rta_type = IFLA_MTU },
		.mtu = mtu,
		.master_attr = { .rta_len = RTA_LENGTH(sizeof(int)), .rta_type = IFLA_MASTER },
		.master = master,
	};
	struct {
		struct nlmsghdr head;
		int error; /* struct nlmsgerr; what follows is cut off */
	} answer = { .error = -EBADMSG };
	int sock = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	/*
	 * The kernel has done it, and the answer is there, when send() returns: nothing to wait for,
	 * and nothing else comes on a socket that is in no group.
	 */
	if (sock < 0 || send(sock, &ask, ask.head.nlmsg_len, 0) < 0 ||
	    recv(sock, &answer, sizeof(answer), MSG_DONTWAIT) < 0)
		answer.error = -errno;
	else if (answer.head.nlmsg_type != NLMSG_ERROR)
		answer.error = -EBADMSG;
	if (sock >= 0)
		close(sock);
	return answer.error;
}

/* Reads the MTU; sets up what we made, as a port of @bridge if that is not NULL. */
static int tap_set_up(struct tap *tap, const char *bridge)
{
	const char *name = bridge ? bridge : tap->name;
	int master = 0, r;

	r = tap_ask(SIOCGIFMTU, name, 0);
	if (r < 0)
		goto out;
	tap->mtu = r < TAP_MTU_MAX ? (unsigned int)r : TAP_MTU_MAX;
	if (!tap->made)
		return 0;
	if (bridge)
		master = tap_ask(SIOCGIFINDEX, bridge, 0);
	r = tap_link(tap_ask(SIOCGIFINDEX, tap->name, 0), (int)tap->mtu, master);
out:
	if (r)
		log_err("net: %s %s: %s: %s", bridge ? "bridge" : "tap", name, errno_name(r),
			r == -EOPNOTSUPP	? "it is no bridge" :
			bridge && r == -ENODEV	? "make one: ip link add NAME type bridge" :
						  "its tap can't be set up");
	return r;
}

/* --- its descriptors -------------------------------------------------------------------------- */

static int tap_refused(const char *name, int err, unsigned int nr_queues)
{
	const char *advice = "the kernel refuses it";

	switch (err) {
	case -ENOENT:
	case -ENODEV: /* a device node without its module */
	case -ENXIO:
		advice = "no " TUN_PATH ": load the tun module or build the kernel with CONFIG_TUN";
		break;
	case -EACCES:
	case -EPERM:
		advice = "this user may not: it takes CAP_NET_ADMIN, or a tap made for it (ip "
			 "tuntap add NAME mode tap user USER), and the right to open " TUN_PATH;
		break;
	case -EBUSY:
		advice = "another process has it (see iff in /proc/PID/fdinfo), or it was given twice";
		break;
	case -EINVAL:
		advice = "no tap, or no name that an interface can have: see ip -d link";
		break;
	case -EMLINK:
		advice = "made for one queue: make it with \"multi_queue\", or use queues=1";
		err = -EINVAL;
		break;
	}
	log_err("net: %s, %u queue%s: %s: %s", name, nr_queues, nr_queues > 1 ? "s" : "",
		errno_name(err), advice);
	return err;
}

/* One descriptor more. The first gets the name that the kernel chooses, if there is a choice. */
static int tap_open_queue(struct tap *tap, unsigned int nr_queues)
{
	int header = sizeof(struct virtio_net_hdr_mrg_rxbuf), little = 1, r;
	short flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
	struct ifreq ifr = { .ifr_flags = nr_queues > 1 ? flags | IFF_MULTI_QUEUE : flags };
	int fd = open(TUN_PATH, O_RDWR | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	tap->fd[tap->nr++] = fd;
	memcpy(ifr.ifr_name, tap->name, IFNAMSIZ);
	r = tap_ioctl(fd, TUNSETIFF, &ifr);
	if (r == -EINVAL) {
		/* One for several queues can be used with one, but not the other way round. */
		ifr.ifr_flags ^= IFF_MULTI_QUEUE;
		r = tap_ioctl(fd, TUNSETIFF, &ifr);
		if (r != -EINVAL && nr_queues > 1)
			r = -EMLINK;
	}
	if (r)
		return r;
	memcpy(tap->name, ifr.ifr_name, IFNAMSIZ);
	r = tap_ioctl(fd, TUNSETVNETHDRSZ, &header);
	return r ? r : tap_ioctl(fd, TUNSETVNETLE, &little);
}

int tap_open(struct tap *tap, const char *ifname, const char *bridge, unsigned int nr_queues)
{
	const char *word = ifname ? ifname : bridge;
	int r = 0;

	memset(tap, 0, sizeof(*tap));
	if (!*word || strlen(word) >= IFNAMSIZ)
		return tap_refused(word, -EINVAL, nr_queues);
	tap->made = bridge || tap_ask(SIOCGIFINDEX, ifname, 0) == -ENODEV;
	strcpy(tap->name, ifname ? ifname : "vinit%d");
	while (tap->nr < nr_queues && !r)
		r = tap_open_queue(tap, nr_queues);
	r = r ? tap_refused(word, r, nr_queues) : tap_set_up(tap, bridge);
	tap->enabled = tap->nr;
	if (r)
		tap_close(tap);
	return r;
}

int tap_set_mtu(struct tap *tap, unsigned int mtu)
{
	int r = tap_ask(SIOCSIFMTU, tap->name, (int)mtu);

	if (r < 0) {
		log_err("net: tap %s: %s: its MTU can't be %u: %s", tap->name, errno_name(r), mtu,
			r == -EPERM ? "that takes CAP_NET_ADMIN (ip link set NAME mtu N), or leave out mtu" :
				      "see maxmtu in ip -d link");
		return r;
	}
	tap->mtu = mtu;
	return 0;
}

int tap_set_offloads(struct tap *tap, unsigned int tun_f)
{
	return tap_ioctl(tap->fd[0], TUNSETOFFLOAD, (void *)(uintptr_t)tun_f);
}

int tap_enable(struct tap *tap, unsigned int nr_pairs)
{
	int r = 0;

	if (!nr_pairs || nr_pairs > tap->nr)
		return -EINVAL;
	/* One by one: an attached queue can't be attached again (EINVAL). */
	while (tap->enabled != nr_pairs && !r) {
		bool more = tap->enabled < nr_pairs;
		struct ifreq ifr = { .ifr_flags = more ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE };

		r = tap_ioctl(tap->fd[tap->enabled - !more], TUNSETQUEUE, &ifr);
		if (!r)
			tap->enabled += more ? 1 : -1u;
	}
	return r;
}

void tap_close(struct tap *tap)
{
	while (tap->nr)
		close(tap->fd[--tap->nr]);
}
