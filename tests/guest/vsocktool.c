/* SPDX-License-Identifier: MIT */
/*
 * Both ends of the vsock tests, for a guest and for its host: one static program, one line of
 * result on standard output ("ok ...", "FAIL ..." or "skip ..."), exit status 0, 1 or 77 (skipped);
 * 2 is wrong usage. Every run is bounded by --timeout. Times are only for the reader.
 *
 * --unix DIR puts the socket of port P at DIR/P and ignores CIDs: the same code where there is no
 * vsock, for the tool's own test.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
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
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include <linux/vm_sockets.h>

#define SKIPPED	      77
#define CHUNK	      65536 /* bytes of a buffer; also the largest message of a round trip */
#define ECHO_MAX      256   /* connections that the echo server holds at once */
#define MANY_MAX      1024
#define STREAM_SEED   0x76736f636bULL
#define BURST	      4	   /* messages under way at once in the seqpacket test */
#define MESSAGE_MAX   4000 /* bytes of one of them */
#define HALFCLOSE_LEN 32768 /* less than CHUNK, so an echo can hold it until it is read */

struct tool {
	const char *unix_dir;
	bool retries; /* connects until it works */
	int type; /* SOCK_STREAM or SOCK_SEQPACKET */
	unsigned long count;
	uint64_t corrupt; /* spoil this byte of what is sent; UINT64_MAX: none */
	uint64_t start_ms, deadline_ms;
};

/* Read by the alarm's handler. */
static const char *volatile step = "start";
static const char *verb_name = "";

/* SIGTERM: round trips end after the one under way, and well. */
static volatile sig_atomic_t told_to_end;

static void on_term(int sig)
{
	(void)sig;
	told_to_end = 1;
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

static void on_alarm(int sig)
{
	/* Blocking calls end here, so only what is safe in a handler. */
	static const char head[] = "FAIL ", middle[] = ": out of time: ";
	const char *part[] = { head, verb_name, middle, step, "\n" };

	(void)sig;
	for (unsigned int i = 0; i < sizeof(part) / sizeof(part[0]); i++)
		if (write(STDOUT_FILENO, part[i], strlen(part[i])) < 0)
			break;
	_exit(1);
}

/* So that a test can show that it would have seen damage. @offset: of buf in what is sent. */
static void spoil(const struct tool *tool, uint64_t offset, uint8_t *buf, size_t len)
{
	if (tool->corrupt >= offset && tool->corrupt - offset < len)
		buf[tool->corrupt - offset] ^= 1;
}

/* --- a stream that both ends can make, and its checksum ------------------------------------ */

/* splitmix64: the word at a position needs nothing but the position. */
static uint64_t stream_word(uint64_t seed, uint64_t index)
{
	uint64_t z = seed + (index + 1) * 0x9e3779b97f4a7c15ULL;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
	return z ^ z >> 31;
}

static uint8_t stream_byte(uint64_t seed, uint64_t offset)
{
	return (uint8_t)(stream_word(seed, offset / 8) >> 8 * (offset % 8));
}

/* Little-endian on every machine: the two ends may differ. */
static uint64_t get_le64(const uint8_t *buf)
{
	uint64_t value;

	memcpy(&value, buf, sizeof(value));
	return le64toh(value);
}

static void put_le64(uint8_t *buf, uint64_t value)
{
	value = htole64(value);
	memcpy(buf, &value, sizeof(value));
}

static void stream_fill(uint64_t seed, uint64_t offset, uint8_t *buf, size_t len)
{
	size_t i = 0;

	while (i < len && (offset + i) % 8) {
		buf[i] = stream_byte(seed, offset + i);
		i++;
	}
	for (; i + 8 <= len; i += 8)
		put_le64(buf + i, stream_word(seed, (offset + i) / 8));
	for (; i < len; i++)
		buf[i] = stream_byte(seed, offset + i);
}

/*
 * A checksum of 64 bits over words, since a byte at a time is slow under emulation. It does not
 * depend on how the stream was cut into buffers.
 */
struct sum {
	uint64_t hash, word, len;
};

static void sum_word(struct sum *sum, uint64_t word)
{
	sum->hash = (sum->hash ^ word) * 0x9e3779b97f4a7c15ULL;
	sum->hash ^= sum->hash >> 32;
}

static void sum_byte(struct sum *sum, uint8_t byte)
{
	sum->word |= (uint64_t)byte << 8 * (sum->len % 8);
	if (++sum->len % 8)
		return;
	sum_word(sum, sum->word);
	sum->word = 0;
}

static void sum_add(struct sum *sum, const uint8_t *buf, size_t len)
{
	size_t i = 0;

	while (i < len && sum->len % 8)
		sum_byte(sum, buf[i++]);
	for (; i + 8 <= len; i += 8) {
		sum_word(sum, get_le64(buf + i));
		sum->len += 8;
	}
	while (i < len)
		sum_byte(sum, buf[i++]);
}

static uint64_t sum_value(const struct sum *sum)
{
	struct sum end = *sum;

	sum_word(&end, sum->word);
	sum_word(&end, sum->len);
	return end.hash;
}

/* Two buffers that are known to differ. */
static size_t first_difference(const uint8_t *a, const uint8_t *b)
{
	size_t i = 0;

	while (a[i] == b[i])
		i++;
	return i;
}

/* --- sockets ------------------------------------------------------------------------------- */

union address {
	struct sockaddr any;
	struct sockaddr_vm vm;
	struct sockaddr_un un;
};

static socklen_t tool_address(const struct tool *tool, unsigned int cid, unsigned int port,
			      union address *addr)
{
	memset(addr, 0, sizeof(*addr));
	if (tool->unix_dir) {
		addr->un.sun_family = AF_UNIX;
		snprintf(addr->un.sun_path, sizeof(addr->un.sun_path), "%s/%u", tool->unix_dir,
			 port);
		return sizeof(addr->un);
	}
	addr->vm.svm_family = AF_VSOCK;
	addr->vm.svm_cid = cid;
	addr->vm.svm_port = port;
	return sizeof(addr->vm);
}

static int tool_socket(const struct tool *tool)
{
	return socket(tool->unix_dir ? AF_UNIX : AF_VSOCK, tool->type | SOCK_CLOEXEC, 0);
}

/* The kernel's 2 s are little for a guest that has just booted beside others on a busy emulation. 0 or -1 with errno. */
static int be_patient(const struct tool *tool, int fd)
{
	const struct timeval patience = { .tv_sec = 60 };

	if (tool->unix_dir || tool->retries)
		return 0;
	return setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &patience, sizeof(patience));
}

/* A connected socket, blocking, or -1 with errno. */
static int tool_connect(const struct tool *tool, uint64_t cid, uint64_t port)
{
	union address addr;
	socklen_t len = tool_address(tool, (unsigned int)cid, (unsigned int)port, &addr);
	int fd = tool_socket(tool);

	if (fd < 0)
		return -1;
	step = "connect";
	if (be_patient(tool, fd) || connect(fd, &addr.any, len)) {
		int err = errno;

		close(fd);
		errno = err;
		return -1;
	}
	return fd;
}

static int tool_listen(const struct tool *tool, uint64_t port)
{
	union address addr;
	socklen_t len = tool_address(tool, VMADDR_CID_ANY, (unsigned int)port, &addr);
	int fd = tool_socket(tool);

	if (fd < 0)
		return -1;
	if (tool->unix_dir)
		unlink(addr.un.sun_path);
	if (bind(fd, &addr.any, len) || listen(fd, SOMAXCONN)) {
		int err = errno;

		close(fd);
		errno = err;
		return -1;
	}
	return fd;
}

static int set_nonblock(int fd)
{
	return fcntl(fd, F_SETFL, O_NONBLOCK);
}

static bool would_block(void)
{
	return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

static bool no_seqpacket(int err)
{
	return err == ESOCKTNOSUPPORT || err == EPROTONOSUPPORT || err == EPROTOTYPE;
}

static int poll_left(const struct tool *tool)
{
	uint64_t now = now_ms();

	if (now >= tool->deadline_ms)
		return 0;
	return (int)(tool->deadline_ms - now);
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

/* Blocking, until @len bytes or the end: how many came, or -1 with errno. */
static ssize_t recv_all(int fd, uint8_t *buf, size_t len)
{
	size_t got = 0;

	while (got < len) {
		ssize_t n = recv(fd, buf + got, len - got, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		if (!n)
			break;
		got += (size_t)n;
	}
	return (ssize_t)got;
}

/* --- listen PORT echo ---------------------------------------------------------------------- */

struct echo_conn {
	int fd;
	bool eof;
	uint64_t bytes;
	size_t start, len; /* what waits in buf */
	uint8_t *buf;
};

struct echo {
	struct tool *tool;
	struct echo_conn conn[ECHO_MAX];
	unsigned int nr, peak;
	unsigned long served, errors;
	uint64_t bytes;
};

static void echo_close(struct echo *echo, unsigned int i, int err)
{
	struct echo_conn *conn = &echo->conn[i];

	/* One that came and went without a byte is somebody's "wait", not a client. */
	if (conn->bytes) {
		echo->served++;
		echo->bytes += conn->bytes;
		if (err) {
			echo->errors++;
			fprintf(stderr, "vsocktool: echo: %s\n", strerror(err));
		}
	}
	close(conn->fd);
	free(conn->buf);
	*conn = echo->conn[--echo->nr];
}

/* A message is answered as one message: it goes out whole before the next is read. */
static bool echo_wants_input(const struct echo *echo, const struct echo_conn *conn)
{
	if (conn->eof)
		return false;
	if (echo->tool->type == SOCK_SEQPACKET)
		return !conn->len;
	return conn->start + conn->len < CHUNK;
}

/* 0, or an errno that ends the connection; -1: it is done. */
static int echo_move(struct echo *echo, struct echo_conn *conn)
{
	if (echo_wants_input(echo, conn)) {
		size_t at = conn->start + conn->len;
		ssize_t n = recv(conn->fd, conn->buf + at, CHUNK - at, 0);

		if (n < 0 && !would_block())
			return errno;
		if (!n)
			conn->eof = true;
		if (n > 0) {
			spoil(echo->tool, conn->bytes, conn->buf + at, (size_t)n);
			conn->len += (size_t)n;
			conn->bytes += (uint64_t)n;
		}
	}
	if (conn->len) {
		ssize_t n = send(conn->fd, conn->buf + conn->start, conn->len, MSG_NOSIGNAL);

		if (n < 0 && !would_block())
			return errno;
		if (n > 0) {
			conn->start += (size_t)n;
			conn->len -= (size_t)n;
		}
		if (!conn->len)
			conn->start = 0;
	}
	return conn->eof && !conn->len ? -1 : 0;
}

/* All that wait. */
static int echo_accept(struct echo *echo, int listener)
{
	while (echo->nr < ECHO_MAX) {
		struct echo_conn *conn = &echo->conn[echo->nr];
		int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0)
			return would_block() || errno == ECONNABORTED ? 0 : fail_errno("accept");
		*conn = (struct echo_conn){ .fd = fd, .buf = malloc(CHUNK) };
		if (!conn->buf) {
			close(fd);
			return fail("no memory for a connection");
		}
		if (++echo->nr > echo->peak)
			echo->peak = echo->nr;
	}
	return 0;
}

static bool echo_done(const struct echo *echo)
{
	return echo->tool->count && echo->served >= echo->tool->count;
}

static int echo_step(struct echo *echo, int listener, int timeout)
{
	struct pollfd fds[ECHO_MAX + 1];
	unsigned int nr = echo->nr;
	int r;

	for (unsigned int i = 0; i < nr; i++) {
		struct echo_conn *conn = &echo->conn[i];

		fds[i].fd = conn->fd;
		fds[i].events = (short)((echo_wants_input(echo, conn) ? POLLIN : 0) |
					(conn->len ? POLLOUT : 0));
	}
	fds[nr].fd = nr < ECHO_MAX ? listener : -1;
	fds[nr].events = POLLIN;
	fds[nr].revents = 0;
	r = poll(fds, nr + 1, timeout);
	if (r < 0)
		return errno == EINTR ? 0 : fail_errno("poll");
	if (!r)
		return 0;

	/*
	 * Before any byte moves: "many" opens all of its connections first, so that all of them are
	 * counted as held at once.
	 */
	if (fds[nr].revents && echo_accept(echo, listener))
		return 1;

	/* Downwards: closing one moves the last into its place: a new one, or one done already. */
	for (unsigned int i = nr; i-- > 0;) {
		if (!fds[i].revents)
			continue;
		r = echo_move(echo, &echo->conn[i]);
		/* Gone both ways, with output left for it: it would be polled for ever. */
		if (!r && fds[i].revents & (POLLERR | POLLHUP) && echo->conn[i].len)
			r = EPIPE;
		if (r)
			echo_close(echo, i, r < 0 ? 0 : r);
	}
	return 0;
}

static int do_listen(struct tool *tool, const uint64_t *arg)
{
	static struct echo echo;
	int listener = tool_listen(tool, arg[0]);
	int r = 0;

	echo.tool = tool;
	if (listener < 0 && tool->type == SOCK_SEQPACKET && no_seqpacket(errno)) {
		printf("skip listen: this kernel has no seqpacket here: %s\n", strerror(errno));
		return SKIPPED;
	}
	if (listener < 0)
		return fail_errno("listen");
	if (set_nonblock(listener))
		return fail_errno("fcntl");

	while (!r && !echo_done(&echo)) {
		int left = poll_left(tool);

		if (!left)
			break;
		r = echo_step(&echo, listener, left);
	}
	while (echo.nr)
		echo_close(&echo, echo.nr - 1, 0);
	close(listener);
	if (r)
		return r;
	if (tool->count && echo.served < tool->count)
		return fail("out of time: %lu of %lu connections served", echo.served, tool->count);
	if (echo.errors)
		return fail("%lu of %lu connections ended in an error", echo.errors, echo.served);
	printf("ok listen connections=%lu at_once=%u bytes=%llu\n", echo.served, echo.peak,
	       (unsigned long long)echo.bytes);
	return 0;
}

/* --- pingpong, many: round trips on one connection or on many ------------------------------ */

struct trip {
	int fd;
	uint64_t seed;
	unsigned long round;
	size_t sent, got;
	bool closed; /* our half, after the last round */
	bool done;
};

struct trips {
	struct trip *trip;
	struct pollfd *fds;
	unsigned int nr, left;
	unsigned long rounds;
	size_t size;
	uint8_t buf[CHUNK], want[CHUNK];
};

static uint64_t trip_seed(const struct trip *trip)
{
	return trip->seed + (uint64_t)trip->round * 0x100000000ULL;
}

static int trip_send(struct trips *trips, struct trip *trip)
{
	size_t len = trips->size - trip->sent;
	ssize_t n;

	stream_fill(trip_seed(trip), trip->sent, trips->buf, len);
	n = send(trip->fd, trips->buf, len, MSG_NOSIGNAL);
	if (n < 0)
		return would_block() ? 0 : fail_errno("send");
	trip->sent += (size_t)n;
	return 0;
}

static int trip_end(struct trips *trips, struct trip *trip, ssize_t n)
{
	if (!trip->closed)
		return fail("connection %u: the peer closed it in round %lu, byte %zu",
			    (unsigned int)(trip - trips->trip), trip->round, trip->got);
	if (n)
		return fail("connection %u: bytes after the last round",
			    (unsigned int)(trip - trips->trip));
	trip->done = true;
	trips->left--;
	return 0;
}

static int trip_recv(struct trips *trips, struct trip *trip)
{
	size_t len = trip->closed ? 1 : trips->size - trip->got;
	ssize_t n = recv(trip->fd, trips->buf, len, 0);

	if (n < 0)
		return would_block() ? 0 : fail_errno("recv");
	if (!n || trip->closed)
		return trip_end(trips, trip, n);

	stream_fill(trip_seed(trip), trip->got, trips->want, (size_t)n);
	if (memcmp(trips->buf, trips->want, (size_t)n))
		return fail("connection %u, round %lu: byte %zu is not what was sent",
			    (unsigned int)(trip - trips->trip), trip->round,
			    trip->got + first_difference(trips->buf, trips->want));
	trip->got += (size_t)n;
	if (trip->got > trip->sent)
		return fail("connection %u: more came back than was sent",
			    (unsigned int)(trip - trips->trip));
	if (trip->got < trips->size)
		return 0;

	trip->sent = trip->got = 0;
	if (++trip->round < trips->rounds && !told_to_end)
		return 0;
	trip->closed = true;
	if (shutdown(trip->fd, SHUT_WR))
		return fail_errno("shutdown");
	return 0;
}

static int trips_step(const struct tool *tool, struct trips *trips)
{
	int r = 0;

	for (unsigned int i = 0; i < trips->nr; i++) {
		struct trip *trip = &trips->trip[i];
		bool out = !trip->closed && trip->sent < trips->size;

		trips->fds[i].fd = trip->done ? -1 : trip->fd;
		trips->fds[i].events = (short)(POLLIN | (out ? POLLOUT : 0));
		trips->fds[i].revents = 0;
	}
	r = poll(trips->fds, trips->nr, poll_left(tool));
	if (r < 0)
		return errno == EINTR ? 0 : fail_errno("poll");
	if (!r)
		return fail("out of time: %u of %u connections not done", trips->left, trips->nr);

	r = 0;
	for (unsigned int i = 0; i < trips->nr && !r; i++) {
		struct trip *trip = &trips->trip[i];
		short revents = trips->fds[i].revents;

		if (revents & POLLOUT)
			r = trip_send(trips, trip);
		if (!r && revents & (POLLIN | POLLHUP | POLLERR))
			r = trip_recv(trips, trip);
	}
	return r;
}

static int trips_run(const struct tool *tool, struct trips *trips, uint64_t cid, uint64_t port)
{
	int r = 0;

	/* All are open before the first byte goes. */
	for (unsigned int i = 0; i < trips->nr; i++) {
		struct trip *trip = &trips->trip[i];

		trip->fd = tool_connect(tool, cid, port);
		if (trip->fd < 0)
			return fail("connection %u: connect: %s (errno %d)", i, strerror(errno),
				    errno);
		trip->seed = STREAM_SEED + i;
		if (set_nonblock(trip->fd))
			return fail_errno("fcntl");
	}
	step = "round trips";
	signal(SIGTERM, on_term);
	trips->left = trips->nr;
	while (!r && trips->left)
		r = trips_step(tool, trips);
	return r;
}

static int trips_main(struct tool *tool, const uint64_t *arg, uint64_t conns, uint64_t rounds,
		      uint64_t size)
{
	static struct trips trips;
	int r;

	if (!conns || conns > MANY_MAX || !rounds || !size || size > CHUNK)
		return fail("1 to %d connections, 1 or more rounds, 1 to %d bytes", MANY_MAX,
			    CHUNK);
	trips.nr = (unsigned int)conns;
	trips.rounds = rounds;
	trips.size = size;
	trips.trip = calloc(conns, sizeof(*trips.trip));
	trips.fds = calloc(conns, sizeof(*trips.fds));
	if (!trips.trip || !trips.fds)
		return fail("no memory");
	r = trips_run(tool, &trips, arg[0], arg[1]);
	if (!r)
		printf("ok %s connections=%u rounds=%lu size=%zu ms=%llu\n", verb_name, trips.nr,
		       trips.trip[0].round, trips.size,
		       (unsigned long long)(now_ms() - tool->start_ms));
	return r;
}

static int do_pingpong(struct tool *tool, const uint64_t *arg)
{
	return trips_main(tool, arg, 1, arg[2], arg[3]);
}

static int do_many(struct tool *tool, const uint64_t *arg)
{
	return trips_main(tool, arg, arg[2], arg[3], arg[4]);
}

/* --- send, recv: a long stream one way, its checksum back ---------------------------------- */

static int do_send(struct tool *tool, const uint64_t *arg)
{
	static uint8_t buf[CHUNK];
	uint64_t bytes = arg[2], ours, theirs;
	struct sum sum = { 0 };
	int fd = tool_connect(tool, arg[0], arg[1]);

	if (fd < 0)
		return fail_errno("connect");
	step = "sending";
	for (uint64_t at = 0; at < bytes;) {
		size_t len = bytes - at < CHUNK ? (size_t)(bytes - at) : CHUNK;

		stream_fill(STREAM_SEED, at, buf, len);
		sum_add(&sum, buf, len);
		spoil(tool, at, buf, len);
		if (send_all(fd, buf, len))
			return fail("send, by byte %llu: %s (errno %d)", (unsigned long long)at,
				    strerror(errno), errno);
		at += len;
	}
	if (shutdown(fd, SHUT_WR))
		return fail_errno("shutdown");
	step = "waiting for the receiver's checksum";

	ssize_t n = recv_all(fd, buf, 9);

	if (n < 0)
		return fail_errno("recv of the checksum");
	if (n != 8)
		return fail("%zd bytes of checksum, not 8", n);
	ours = sum_value(&sum);
	theirs = get_le64(buf);
	close(fd);
	if (theirs != ours)
		return fail("checksum here %016llx, there %016llx", (unsigned long long)ours,
			    (unsigned long long)theirs);
	printf("ok send bytes=%llu sum=%016llx ms=%llu\n", (unsigned long long)bytes,
	       (unsigned long long)ours, (unsigned long long)(now_ms() - tool->start_ms));
	return 0;
}

/* Takes the stream off @fd: 0, 1 after a FAIL line, or -1 when it ended before its first byte. */
static int recv_stream(int fd, uint64_t bytes, struct sum *sum)
{
	static uint8_t buf[CHUNK], want[CHUNK];
	uint64_t bad = UINT64_MAX;

	*sum = (struct sum){ 0 };
	for (;;) {
		ssize_t n = recv(fd, buf, CHUNK, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0 && !sum->len && bytes)
			return -1;
		if (n < 0)
			return fail("recv, after byte %llu: %s (errno %d)",
				    (unsigned long long)sum->len, strerror(errno), errno);
		if (!n)
			break;
		stream_fill(STREAM_SEED, sum->len, want, (size_t)n);
		if (bad == UINT64_MAX && memcmp(buf, want, (size_t)n))
			bad = sum->len + first_difference(buf, want);
		sum_add(sum, buf, (size_t)n);
	}
	if (bad != UINT64_MAX)
		return fail("byte %llu of %llu is not the stream's", (unsigned long long)bad,
			    (unsigned long long)sum->len);
	if (sum->len != bytes)
		return fail("%llu bytes came, not %llu", (unsigned long long)sum->len,
			    (unsigned long long)bytes);
	return 0;
}

static int do_recv(struct tool *tool, const uint64_t *arg)
{
	uint64_t bytes = arg[1];
	struct sum sum;
	uint8_t answer[8];
	int listener = tool_listen(tool, arg[0]);
	int r, fd;

	if (listener < 0)
		return fail_errno("listen");
	/* A connection without a byte is somebody's "wait": the next one may be the sender. */
	do {
		step = "waiting for a connection";
		fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			return fail_errno("accept");
		step = "receiving";
		r = recv_stream(fd, bytes, &sum);
		if (r < 0)
			close(fd);
	} while (r < 0);

	/* The sender hears what came here, right or wrong. */
	put_le64(answer, sum_value(&sum));
	if (send_all(fd, answer, sizeof(answer)) && !r)
		return fail_errno("send of the checksum");
	shutdown(fd, SHUT_WR);
	close(fd);
	close(listener);
	if (!r)
		printf("ok recv bytes=%llu sum=%016llx ms=%llu\n", (unsigned long long)bytes,
		       (unsigned long long)sum_value(&sum),
		       (unsigned long long)(now_ms() - tool->start_ms));
	return r;
}

/* --- the small ones ------------------------------------------------------------------------ */

/* All is sent, our half is closed, and only then is anything read: it must all still come. */
static int do_halfclose(struct tool *tool, const uint64_t *arg)
{
	static uint8_t out[HALFCLOSE_LEN], in[HALFCLOSE_LEN + 1];
	int fd = tool_connect(tool, arg[0], arg[1]);
	ssize_t n;

	if (fd < 0)
		return fail_errno("connect");
	step = "sending";
	stream_fill(STREAM_SEED, 0, out, sizeof(out));
	if (send_all(fd, out, sizeof(out)))
		return fail_errno("send");
	if (shutdown(fd, SHUT_WR))
		return fail_errno("shutdown");
	if (send(fd, out, 1, MSG_NOSIGNAL) >= 0 || errno != EPIPE)
		return fail("a send after shutdown(SHUT_WR) did not fail with EPIPE");
	step = "reading after the half-close";
	n = recv_all(fd, in, sizeof(in));
	if (n < 0)
		return fail_errno("recv");
	close(fd);
	if (n != HALFCLOSE_LEN || memcmp(in, out, HALFCLOSE_LEN))
		return fail("%zd bytes came back before the end, not %d, or not the same", n,
			    HALFCLOSE_LEN);
	printf("ok halfclose bytes=%d\n", HALFCLOSE_LEN);
	return 0;
}

static int do_refused(struct tool *tool, const uint64_t *arg)
{
	int fd = tool_connect(tool, arg[0], arg[1]);

	if (fd >= 0) {
		close(fd);
		return fail("somebody listens at CID %u port %u", (unsigned int)arg[0],
			    (unsigned int)arg[1]);
	}
	if (errno != ECONNRESET && errno != ECONNREFUSED)
		return fail_errno("connect, which should be refused or reset");
	printf("ok refused: %s ms=%llu\n", strerror(errno),
	       (unsigned long long)(now_ms() - tool->start_ms));
	return 0;
}

static int do_wait(struct tool *tool, const uint64_t *arg)
{
	const struct timespec pause = { .tv_nsec = 100 * 1000 * 1000 };

	tool->retries = true;
	for (;;) {
		int fd = tool_connect(tool, arg[0], arg[1]);
		int err = errno;

		if (fd >= 0) {
			close(fd);
			printf("ok wait ms=%llu\n",
			       (unsigned long long)(now_ms() - tool->start_ms));
			return 0;
		}
		if (!poll_left(tool))
			return fail("out of time: connect: %s (errno %d)", strerror(err), err);
		nanosleep(&pause, NULL);
	}
}

static size_t message_len(unsigned long i)
{
	return 1 + (size_t)(stream_word(STREAM_SEED, i) % MESSAGE_MAX);
}

/* A burst of messages goes out, then each must come back alone and whole. */
static int seqpacket_burst(int fd, unsigned long first, unsigned long nr)
{
	static uint8_t buf[CHUNK], want[MESSAGE_MAX];

	step = "sending messages";
	for (unsigned long i = first; i < first + nr; i++) {
		size_t len = message_len(i);

		stream_fill(STREAM_SEED + i, 0, want, len);
		if (send(fd, want, len, MSG_NOSIGNAL) != (ssize_t)len)
			return fail_errno("send of a message");
	}
	step = "reading messages";
	for (unsigned long i = first; i < first + nr; i++) {
		size_t len = message_len(i);
		ssize_t n = recv(fd, buf, sizeof(buf), MSG_TRUNC);

		if (n < 0)
			return fail_errno("recv of a message");
		if (n != (ssize_t)len)
			return fail("message %lu has %zd bytes, not %zu: boundaries are lost", i, n,
				    len);
		stream_fill(STREAM_SEED + i, 0, want, len);
		if (memcmp(buf, want, len))
			return fail("message %lu is not what was sent", i);
	}
	return 0;
}

static int do_seqpacket(struct tool *tool, const uint64_t *arg)
{
	unsigned long nr = arg[2];
	int r = 0;
	int fd;

	if (!nr)
		return fail("1 or more messages");

	tool->type = SOCK_SEQPACKET;
	fd = tool_connect(tool, arg[0], arg[1]);
	if (fd < 0 && no_seqpacket(errno)) {
		printf("skip seqpacket: this kernel or its peer has none: %s\n", strerror(errno));
		return SKIPPED;
	}
	if (fd < 0)
		return fail_errno("connect");
	for (unsigned long i = 0; i < nr && !r; i += BURST)
		r = seqpacket_burst(fd, i, nr - i < BURST ? nr - i : BURST);
	close(fd);
	if (!r)
		printf("ok seqpacket messages=%lu\n", nr);
	return r;
}

static int do_cid(struct tool *tool, const uint64_t *arg)
{
	unsigned int cid;
	int fd = open("/dev/vsock", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return fail_errno("/dev/vsock (is the vsock module loaded?)");
	if (ioctl(fd, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid) < 0)
		return fail_errno("IOCTL_VM_SOCKETS_GET_LOCAL_CID");
	close(fd);
	(void)tool;
	(void)arg;
	printf("%u\n", cid);
	return 0;
}

/* --- the command line ---------------------------------------------------------------------- */

static int usage(void)
{
	fputs("usage: vsocktool [--timeout SECONDS] VERB ...\n"
	      "  listen PORT echo [--count N] [--seqpacket]\n"
	      "      until N connections are served; without --count, until the timeout\n"
	      "  pingpong CID PORT N SIZE            N round trips with an echo; SIGTERM ends them\n"
	      "  many CID PORT CONNS ROUNDS SIZE     the same on many connections at once\n"
	      "  send CID PORT BYTES                 a stream to a recv, checksums compared\n"
	      "  recv PORT BYTES                     takes one such stream\n"
	      "  halfclose CID PORT                  with an echo: shutdown, then read it all\n"
	      "  refused CID PORT                    a connect there must be refused\n"
	      "  seqpacket CID PORT N                N messages with an echo --seqpacket\n"
	      "  wait CID PORT                       until somebody listens there\n"
	      "  cid                                 this machine's CID\n"
	      "--corrupt N spoils byte N of what listen or send sends; the other end must see it\n",
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
	int (*fn)(struct tool *tool, const uint64_t *arg);
	int addr, args; /* CID and port, or a port alone; then so many other numbers */
} verbs[] = {
	{ "listen", do_listen, 1, 0 },	    { "pingpong", do_pingpong, 2, 2 },
	{ "many", do_many, 2, 3 },	    { "send", do_send, 2, 1 },
	{ "recv", do_recv, 1, 1 },	    { "halfclose", do_halfclose, 2, 0 },
	{ "refused", do_refused, 2, 0 },    { "seqpacket", do_seqpacket, 2, 1 },
	{ "wait", do_wait, 2, 0 },	    { "cid", do_cid, 0, 0 },
};

static int run(struct tool *tool, int argc, char **argv)
{
	const struct verb *verb = NULL;
	uint64_t arg[5] = { 0 };

	for (unsigned int i = 0; argc && i < sizeof(verbs) / sizeof(verbs[0]); i++)
		if (!strcmp(argv[0], verbs[i].name))
			verb = &verbs[i];
	if (!verb)
		return usage();
	verb_name = verb->name;
	argc--;
	argv++;
	/* "echo" says what the listener does, should it ever do something else. */
	if (verb->fn == do_listen && argc && !strcmp(argv[argc - 1], "echo"))
		argc--;
	else if (verb->fn == do_listen)
		return usage();
	if (argc != verb->addr + verb->args)
		return usage();
	for (int i = 0; i < argc; i++)
		if (!parse_number(argv[i], i < verb->addr ? UINT32_MAX : INT64_MAX, &arg[i]))
			return usage();
	return verb->fn(tool, arg);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "timeout", required_argument, NULL, 't' },
		{ "count", required_argument, NULL, 'c' },
		{ "seqpacket", no_argument, NULL, 's' },
		{ "corrupt", required_argument, NULL, 'x' },
		{ "unix", required_argument, NULL, 'u' },
		{ NULL, 0, NULL, 0 },
	};
	struct tool tool = { .type = SOCK_STREAM, .corrupt = UINT64_MAX };
	uint64_t seconds = 60, count = 0;
	int c, r;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 't':
			if (!parse_number(optarg, 86400, &seconds) || !seconds)
				return usage();
			break;
		case 'c':
			if (!parse_number(optarg, UINT32_MAX, &count) || !count)
				return usage();
			break;
		case 's':
			tool.type = SOCK_SEQPACKET;
			break;
		case 'x':
			if (!parse_number(optarg, INT64_MAX, &tool.corrupt))
				return usage();
			break;
		case 'u':
			tool.unix_dir = optarg;
			break;
		default:
			return usage();
		}
	}
	tool.count = count;
	tool.start_ms = now_ms();
	tool.deadline_ms = tool.start_ms + seconds * 1000;

	/* What polls ends by itself at the deadline; the alarm, a little later, ends the rest. */
	signal(SIGALRM, on_alarm);
	alarm((unsigned int)seconds + 1);
	r = run(&tool, argc - optind, argv + optind);
	if (fflush(stdout))
		r = 1;
	return r;
}
