/* SPDX-License-Identifier: MIT */
/*
 * Both ends of the network tests, for a guest and for its host: one static program, one line of
 * result on standard output ("ok ..." or "FAIL ..."), exit status 0 or 1; 2 is wrong usage. Every
 * run is bounded by --timeout. Times are only for the reader. IPv4 alone.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <getopt.h>
#include <linux/ethtool.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/crc32.h"

#define CHUNK	     65536
#define ECHO_MAX     64 /* connections that the echo server holds at once */
#define DATAGRAM_MAX 65507
#define RETRY_MS     1000 /* a datagram that is not answered by then is lost, and sent again */

struct tool {
	bool udp;
	unsigned long count;
	uint64_t corrupt; /* spoil this byte of what is sent; UINT64_MAX: none */
	uint64_t start_ms, deadline_ms;
};

/* Read by the handlers. */
static const char *volatile step = "start";
static const char *verb_name = "";
static volatile sig_atomic_t told_to_end;

static uint32_t crc_table[256];

static void on_term(int sig)
{
	(void)sig;
	told_to_end = 1;
}

static void on_alarm(int sig)
{
	/* Blocking calls end here, so only what is safe in a handler. */
	const char *part[] = { "FAIL ", verb_name, ": out of time: ", step, "\n" };

	(void)sig;
	for (unsigned int i = 0; i < sizeof(part) / sizeof(part[0]); i++)
		if (write(STDOUT_FILENO, part[i], strlen(part[i])) < 0)
			break;
	_exit(1);
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static int __attribute__((format(printf, 1, 2))) fail(const char *fmt, ...)
{
	va_list ap;

	printf("FAIL %s: ", verb_name);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	return 1;
}

static int fail_errno(const char *what)
{
	return fail("%s: %s (errno %d)", what, strerror(errno), errno);
}

/* --- bytes, and their checksum ---------------------------------------------------------------- */

/* What crc32_of() does for a byte, once for each: instructions are emulated, so they count. */
static void crc_prepare(void)
{
	for (unsigned int i = 0; i < 256; i++) {
		uint8_t byte = (uint8_t)(i ^ 0xff);

		crc_table[i] = ~crc32_of(&byte, 1) ^ 0x00ffffff;
	}
}

/* Of a stream in pieces; 0 begins. */
static uint32_t crc_add(uint32_t crc, const uint8_t *p, size_t len)
{
	crc = ~crc;
	while (len--)
		crc = crc_table[(crc ^ *p++) & 0xff] ^ crc >> 8;
	return ~crc;
}

/* Bytes that depend on their place; @at and @len are multiples of 8, but for the last piece. */
static void fill(uint64_t seed, uint64_t at, uint8_t *buf, size_t len)
{
	for (size_t i = 0; i < len; i += 8) {
		uint64_t z = (seed << 56) + at + i;

		z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
		z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
		z = htole64(z ^ z >> 31);
		memcpy(buf + i, &z, len - i < 8 ? len - i : 8);
	}
}

/* --- sockets ---------------------------------------------------------------------------------- */

static int make_socket(bool udp)
{
	int fd = socket(AF_INET, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0), yes = 1;

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (!udp)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	return fd;
}

static int tool_connect(const struct tool *tool, const struct sockaddr_in *to)
{
	int fd = make_socket(tool->udp);

	step = "connecting";
	if (fd >= 0 && connect(fd, (const struct sockaddr *)to, sizeof(*to))) {
		int err = errno;

		close(fd);
		errno = err;
		return -1;
	}
	return fd;
}

static int tool_listen(const struct sockaddr_in *at, bool udp)
{
	int fd = make_socket(udp);

	if (fd >= 0 && (bind(fd, (const struct sockaddr *)at, sizeof(*at)) ||
			(!udp && listen(fd, SOMAXCONN)))) {
		int err = errno;

		close(fd);
		errno = err;
		return -1;
	}
	return fd;
}

/* Blocking; 0 or -1 with errno. */
static int send_all(int fd, const uint8_t *buf, size_t len)
{
	while (len) {
		ssize_t n = send(fd, buf, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		buf += n;
		len -= (size_t)n;
	}
	return 0;
}

/* Blocking; 0, or -1 with errno, which is 0 when the peer ended before. */
static int recv_all(int fd, uint8_t *buf, size_t len)
{
	while (len) {
		ssize_t n = recv(fd, buf, len, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			errno = n ? errno : 0;
			return -1;
		}
		buf += n;
		len -= (size_t)n;
	}
	return 0;
}

/* --- echo PORT -------------------------------------------------------------------------------- */

/* Answers whatever comes on the datagram socket. */
static unsigned long echo_datagrams(const struct tool *tool, int fd, uint8_t *buf)
{
	struct sockaddr_in from;
	socklen_t len = sizeof(from);
	ssize_t n = recvfrom(fd, buf, CHUNK, MSG_DONTWAIT, (struct sockaddr *)&from, &len);

	if (n < 0)
		return 0;
	if (tool->corrupt < (uint64_t)n)
		buf[tool->corrupt] ^= 1;
	sendto(fd, buf, (size_t)n, 0, (struct sockaddr *)&from, len);
	return 1;
}

/* Until SIGTERM, the timeout, or the end of --count connections. TCP and UDP at the same port. */
static int do_echo(struct tool *tool, const struct sockaddr_in *at, const uint64_t *arg)
{
	static uint8_t buf[CHUNK];
	struct pollfd p[2 + ECHO_MAX];
	unsigned long ended = 0, datagrams = 0;
	unsigned int nr = 2;

	(void)arg;
	p[0] = (struct pollfd){ .fd = tool_listen(at, false), .events = POLLIN };
	p[1] = (struct pollfd){ .fd = tool_listen(at, true), .events = POLLIN };
	if (p[0].fd < 0 || p[1].fd < 0)
		return fail_errno("listen");
	while (!told_to_end && now_ms() < tool->deadline_ms &&
	       (!tool->count || ended < tool->count)) {
		if (poll(p, nr, 100) <= 0)
			continue;
		if (p[1].revents)
			datagrams += echo_datagrams(tool, p[1].fd, buf);
		for (unsigned int i = 2; i < nr; i++) {
			ssize_t n = p[i].revents ? recv(p[i].fd, buf, sizeof(buf), 0) : 1;

			if (!p[i].revents)
				continue;
			if (n > 0 && tool->corrupt < (uint64_t)n)
				buf[tool->corrupt] ^= 1;
			if (n > 0 && !send_all(p[i].fd, buf, (size_t)n))
				continue;
			close(p[i].fd);
			p[i--] = p[--nr];
			ended++;
		}
		if (p[0].revents && nr < 2 + ECHO_MAX) {
			p[nr] = (struct pollfd){ .fd = accept4(p[0].fd, NULL, NULL, SOCK_CLOEXEC),
						 .events = POLLIN };
			nr += p[nr].fd >= 0;
		}
	}
	printf("ok echo connections=%lu datagrams=%lu\n", ended, datagrams);
	return 0;
}

/* --- pingpong HOST PORT N [SIZE] -------------------------------------------------------------- */

/* One round trip of a datagram; sent again as often as it takes. How often it was lost, or -1. */
static long trip_udp(const struct tool *tool, int fd, const uint8_t *out, uint8_t *in, size_t size)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	long lost = 0;

	for (; now_ms() < tool->deadline_ms; lost++) {
		/* A host whose echo is not up yet answers ECONNREFUSED, at the next call. */
		if (send(fd, out, size, 0) < 0 && errno != ECONNREFUSED)
			return fail_errno("send") * -1L;
		while (poll(&p, 1, RETRY_MS) == 1) {
			ssize_t n = recv(fd, in, CHUNK, MSG_DONTWAIT);

			if (n < 0 && errno == ECONNREFUSED) {
				usleep(RETRY_MS * 100);
				break;
			}
			if (n == (ssize_t)size && !memcmp(in, out, size))
				return lost;
			/* The last round's datagram was late, not lost: it is answered twice. */
			if (n != (ssize_t)size || (uint8_t)(in[0] + 1) != out[0] ||
			    memcmp(in + 1, out + 1, size - 1))
				return fail("an answer that is not what was sent, %zd bytes", n) *
				       -1L;
		}
	}
	return fail("no answer, after %ld tries", lost) * -1L;
}

static long trip_tcp(int fd, const uint8_t *out, uint8_t *in, size_t size)
{
	if (send_all(fd, out, size))
		return fail_errno("send") * -1L;
	if (recv_all(fd, in, size))
		return fail_errno("recv") * -1L;
	return memcmp(in, out, size) ? fail("an answer that is not what was sent") * -1L : 0;
}

static int do_pingpong(struct tool *tool, const struct sockaddr_in *to, const uint64_t *arg)
{
	static uint8_t out[CHUNK], in[CHUNK];
	size_t size = arg[1] ? (size_t)arg[1] : 1;
	socklen_t napi_len = sizeof(unsigned int);
	unsigned int napi = 0;
	long lost = 0, r;
	uint64_t begin;
	int fd;

	if (!arg[0] || size > (tool->udp ? DATAGRAM_MAX : CHUNK))
		return fail("1 or more round trips, of at most %d bytes",
			    tool->udp ? DATAGRAM_MAX : CHUNK);
	fd = tool_connect(tool, to);
	if (fd < 0)
		return fail_errno("connect");
	begin = now_ms();
	step = "a round trip";
	for (uint64_t i = 0; i < arg[0]; i++) {
		fill(3, 0, out, size);
		out[0] = (uint8_t)i;
		r = tool->udp ? trip_udp(tool, fd, out, in, size) : trip_tcp(fd, out, in, size);
		if (r < 0)
			return 1;
		lost += r;
	}
	/* Of the last answer: each receive queue has an id. */
	if (getsockopt(fd, SOL_SOCKET, SO_INCOMING_NAPI_ID, &napi, &napi_len))
		napi = 0;
	close(fd);
	printf("ok pingpong %s rounds=%llu size=%zu lost=%ld ms=%llu napi=%u\n",
	       tool->udp ? "udp" : "tcp", (unsigned long long)arg[0], size, lost,
	       (unsigned long long)(now_ms() - begin), napi);
	return 0;
}

/* --- send HOST PORT BYTES, sink PORT ---------------------------------------------------------- */

/* @bytes of a stream and its checksum: 0, or a failure that is told. */
static int put_stream(const struct tool *tool, int fd, uint64_t seed, uint64_t bytes, uint32_t *sum)
{
	static uint8_t buf[CHUNK];
	uint32_t crc = 0, le;

	step = "sending";
	for (uint64_t at = 0; at < bytes; at += CHUNK) {
		size_t len = bytes - at < CHUNK ? (size_t)(bytes - at) : CHUNK;

		fill(seed, at, buf, len);
		crc = crc_add(crc, buf, len);
		if (tool->corrupt >= at && tool->corrupt - at < len)
			buf[tool->corrupt - at] ^= 1;
		if (send_all(fd, buf, len))
			return fail_errno("send");
	}
	le = htole32(crc);
	*sum = crc;
	return send_all(fd, (uint8_t *)&le, sizeof(le)) ? fail_errno("send of the checksum") : 0;
}

static int take_stream(int fd, uint64_t bytes, uint32_t *sum)
{
	static uint8_t buf[CHUNK];
	uint32_t crc = 0, le;

	step = "receiving";
	for (uint64_t at = 0; at < bytes; at += CHUNK) {
		size_t len = bytes - at < CHUNK ? (size_t)(bytes - at) : CHUNK;

		if (recv_all(fd, buf, len))
			return fail("recv, after byte %llu: %s", (unsigned long long)at,
				    errno ? strerror(errno) : "the end");
		crc = crc_add(crc, buf, len);
	}
	if (recv_all(fd, (uint8_t *)&le, sizeof(le)))
		return fail("recv of the checksum: %s", errno ? strerror(errno) : "the end");
	*sum = crc;
	if (crc != le32toh(le))
		return fail("checksum of %llu bytes is %08x, the sender's %08x",
			    (unsigned long long)bytes, crc, le32toh(le));
	return 0;
}

/* There, and as much back. */
static int do_send(struct tool *tool, const struct sockaddr_in *to, const uint64_t *arg)
{
	uint64_t bytes = arg[0], le = htole64(bytes), begin, middle;
	uint32_t out, back;
	int fd = tool_connect(tool, to);

	if (fd < 0)
		return fail_errno("connect");
	begin = now_ms();
	if (send_all(fd, (uint8_t *)&le, sizeof(le)))
		return fail_errno("send");
	if (put_stream(tool, fd, 1, bytes, &out))
		return 1;
	/* The first byte back says that all of it has arrived. */
	step = "waiting for the other end";
	if (recv_all(fd, (uint8_t *)&le, 1))
		return fail("the other end did not get it right");
	middle = now_ms();
	if (take_stream(fd, bytes, &back))
		return 1;
	close(fd);
	printf("ok send bytes=%llu crc=%08x back=%08x ms=%llu ms_back=%llu\n",
	       (unsigned long long)bytes, out, back, (unsigned long long)(middle - begin),
	       (unsigned long long)(now_ms() - middle));
	return 0;
}

static int sink_one(const struct tool *tool, int fd)
{
	uint64_t bytes;
	uint32_t in, back;

	if (recv_all(fd, (uint8_t *)&bytes, sizeof(bytes)))
		return fail("recv of the length: %s", errno ? strerror(errno) : "the end");
	bytes = le64toh(bytes);
	if (take_stream(fd, bytes, &in))
		return 1;
	if (send_all(fd, (const uint8_t *)"+", 1))
		return fail_errno("send");
	if (put_stream(tool, fd, 2, bytes, &back))
		return 1;
	printf("ok sink bytes=%llu crc=%08x back=%08x\n", (unsigned long long)bytes, in, back);
	return 0;
}

static int do_sink(struct tool *tool, const struct sockaddr_in *at, const uint64_t *arg)
{
	int listener = tool_listen(at, false), r = 0;

	(void)arg;
	if (listener < 0)
		return fail_errno("listen");
	for (unsigned long i = 0; i < (tool->count ? tool->count : 1) && !r; i++) {
		int fd;

		step = "waiting for a connection";
		fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			return fail_errno("accept");
		r = sink_one(tool, fd);
		fflush(stdout);
		close(fd);
	}
	return r;
}

/* --- wait HOST PORT --------------------------------------------------------------------------- */

/* Until somebody listens there; an echo counts it as a connection. */
static int do_wait(struct tool *tool, const struct sockaddr_in *to, const uint64_t *arg)
{
	int fd = -1;

	(void)arg;
	while (now_ms() < tool->deadline_ms) {
		fd = tool_connect(tool, to);
		if (fd >= 0)
			break;
		usleep(50000);
	}
	if (fd < 0)
		return fail_errno("connect");
	close(fd);
	printf("ok wait ms=%llu\n", (unsigned long long)(now_ms() - tool->start_ms));
	return 0;
}

/* --- offload INTERFACE on|off ----------------------------------------------------------------- */

/* Whether checksums and segments are left to what the interface sends to, as "ethtool -K tx tso". */
static int do_offload(const char *name, bool on)
{
	/* In this order: there are no segments without checksums. */
	const uint32_t set[] = { ETHTOOL_STXCSUM, ETHTOOL_SSG, ETHTOOL_STSO };
	struct ethtool_value value = { .data = on };
	struct ifreq ifr = { .ifr_data = (void *)&value };
	int fd = make_socket(true);

	verb_name = "offload";
	if (strlen(name) >= sizeof(ifr.ifr_name))
		return fail("no name of an interface");
	strcpy(ifr.ifr_name, name);
	for (unsigned int i = 0; i < sizeof(set) / sizeof(set[0]); i++) {
		value.cmd = set[i];
		if (ioctl(fd, (int)SIOCETHTOOL, &ifr))
			return fail_errno("SIOCETHTOOL");
	}
	close(fd);
	printf("ok offload\n");
	return 0;
}

/* --- largest INTERFACE ------------------------------------------------------------------------ */

/* The longest frames that pass an interface until SIGTERM, as they are before anybody cuts them. */
static int do_largest(const char *name, unsigned long seconds)
{
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL));
	struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL),
				  .sll_ifindex = (int)if_nametoindex(name) };
	struct pollfd p = { .fd = fd, .events = POLLIN };
	ssize_t from = 0, to = 0;
	uint64_t deadline = now_ms() + seconds * 1000;

	verb_name = "largest";
	if (fd < 0 || !at.sll_ifindex || bind(fd, (struct sockaddr *)&at, sizeof(at)))
		return fail_errno("a packet socket");
	while (!told_to_end && now_ms() < deadline) {
		socklen_t len = sizeof(at);
		uint8_t byte;
		ssize_t n;

		if (poll(&p, 1, 100) <= 0)
			continue;
		n = recvfrom(fd, &byte, 1, MSG_TRUNC | MSG_DONTWAIT, (struct sockaddr *)&at, &len);
		if (at.sll_pkttype == PACKET_OUTGOING)
			to = n > to ? n : to;
		else
			from = n > from ? n : from;
	}
	printf("ok largest from=%zd to=%zd\n", from, to);
	return 0;
}

/* --- the command line ------------------------------------------------------------------------- */

static int usage(void)
{
	fputs("usage: nettool [--timeout SECONDS] [--udp] VERB ...\n"
	      "  echo PORT [--count N]            TCP and UDP, until SIGTERM, the timeout, or N connections\n"
	      "  pingpong HOST PORT N [SIZE]      N round trips of SIZE bytes (1) with an echo\n"
	      "  send HOST PORT BYTES             a stream to a sink, and one back, CRC-32 of both compared\n"
	      "  sink PORT [--count N]            takes N such streams (1)\n"
	      "  wait HOST PORT                   until somebody listens there\n"
	      "  largest INTERFACE                the longest frames from it and to it, until SIGTERM\n"
	      "  offload INTERFACE on|off         checksums and segments are left to it\n"
	      "HOST is an IPv4 address. --udp is for pingpong: what is lost is sent again, and counted.\n"
	      "--corrupt N spoils byte N of what echo, send or sink sends; the other end must see it\n",
	      stderr);
	return 2;
}

static bool parse_number(const char *word, uint64_t max, uint64_t *value)
{
	char *end;

	errno = 0;
	*value = strtoull(word, &end, 10);
	return *word >= '0' && *word <= '9' && !*end && !errno && *value <= max;
}

static const struct verb {
	const char *name;
	int (*fn)(struct tool *tool, const struct sockaddr_in *addr, const uint64_t *arg);
	bool host;
	int args, more; /* so many numbers behind the port, and so many more that may be */
} verbs[] = {
	{ "echo", do_echo, false, 0, 0 },     { "pingpong", do_pingpong, true, 1, 1 },
	{ "send", do_send, true, 1, 0 },      { "sink", do_sink, false, 0, 0 },
	{ "wait", do_wait, true, 0, 0 },
};

static int run(struct tool *tool, int argc, char **argv)
{
	struct sockaddr_in addr = { .sin_family = AF_INET };
	const struct verb *verb = NULL;
	uint64_t arg[3] = { 0 };

	if (argc == 3 && !strcmp(argv[0], "offload") &&
	    (!strcmp(argv[2], "on") || !strcmp(argv[2], "off")))
		return do_offload(argv[1], !strcmp(argv[2], "on"));
	if (argc == 2 && !strcmp(argv[0], "largest"))
		return do_largest(argv[1], (tool->deadline_ms - tool->start_ms) / 1000);
	for (unsigned int i = 0; argc && i < sizeof(verbs) / sizeof(verbs[0]); i++)
		if (!strcmp(argv[0], verbs[i].name))
			verb = &verbs[i];
	if (!verb)
		return usage();
	verb_name = verb->name;
	argc--;
	argv++;
	if (verb->host && argc) {
		if (inet_pton(AF_INET, argv[0], &addr.sin_addr) != 1)
			return usage();
		argc--;
		argv++;
	}
	if (argc < 1 + verb->args || argc > 1 + verb->args + verb->more)
		return usage();
	for (int i = 0; i < argc; i++)
		if (!parse_number(argv[i], i ? INT64_MAX : 65535, &arg[i]))
			return usage();
	addr.sin_port = htons((uint16_t)arg[0]);
	return verb->fn(tool, &addr, arg + 1);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "timeout", required_argument, NULL, 't' },
		{ "count", required_argument, NULL, 'c' },
		{ "corrupt", required_argument, NULL, 'x' },
		{ "udp", no_argument, NULL, 'u' },
		{ NULL, 0, NULL, 0 },
	};
	struct tool tool = { .corrupt = UINT64_MAX };
	uint64_t seconds = 60, count = 0;
	int c, r;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		bool good = true;

		if (c == 't')
			good = parse_number(optarg, 86400, &seconds) && seconds;
		else if (c == 'c')
			good = parse_number(optarg, UINT32_MAX, &count) && count;
		else if (c == 'x')
			good = parse_number(optarg, INT64_MAX, &tool.corrupt);
		else if (c == 'u')
			tool.udp = true;
		else
			good = false;
		if (!good)
			return usage();
	}
	tool.count = count;
	tool.start_ms = now_ms();
	tool.deadline_ms = tool.start_ms + seconds * 1000;
	crc_prepare();

	/* What looks at the clock ends at the deadline; the alarm, a little later, ends the rest. */
	signal(SIGALRM, on_alarm);
	signal(SIGTERM, on_term);
	alarm((unsigned int)seconds + 1);
	r = run(&tool, argc - optind, argv + optind);
	if (fflush(stdout))
		r = 1;
	return r;
}
