/* SPDX-License-Identifier: MIT */
/*
 * usage: load DISK PORT [MIB]
 *
 * Work for a guest that is paused, saved and restored meanwhile: a disk that is written and read
 * back, memory that is counted up page by page (MIB, 8 by default), a timer, and an echo on vsock
 * ports PORT (stream) and PORT + 1, which accepts and reads nothing. All that it keeps is checked
 * whenever it is used again. A line each 200 ms says how often each has come round:
 *
 *	status N disk N mem N ticks N echo N gap MS back N fail N .
 *
 * ticks: of the timer, every 10 ms, on each CPU in turn; gap: the longest time between two, by
 * CLOCK_MONOTONIC; back: how often that clock went backwards; fail: what was not as it should be,
 * each said in a line "FAIL ...". A vsock connection that is reset is none: a restore does that.
 *
 * SIGUSR1: from now on all is done far more slowly, so that many guests fit on a slow host.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <linux/vm_sockets.h>

#define BLOCK	    4096 /* bytes; a disk's unit of work, and memory's */
#define DISK_BLOCKS 512
#define BATCH	    8	 /* blocks of one write */
#define CONNS	    32
#define TICK_NS	    10000000
#define STATUS_NS   200000000
#define REST_NS	    2000000 /* after a round of disk or memory: other tests run beside this one */

static struct {
	uint64_t disk, mem, ticks, echo, gap_ns, back, fail;
} count;

static volatile sig_atomic_t slower = 1; /* times */

static void on_usr1(int sig)
{
	(void)sig;
	slower = 100;
}

static uint64_t add(uint64_t *counter, uint64_t n)
{
	return __atomic_add_fetch(counter, n, __ATOMIC_RELAXED);
}

static uint64_t get(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

/* One write a line, so that lines of several threads stay whole. */
static void __attribute__((format(printf, 1, 2))) line(const char *fmt, ...)
{
	char buf[256];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(buf, sizeof(buf), fmt, ap);
	va_end(ap);
	if (n > 0 && write(STDOUT_FILENO, buf, (size_t)n) < 0)
		return;
}

#define fail(fmt, ...)                                                   \
	do {                                                             \
		if (add(&count.fail, 1) < 10)                            \
			line("FAIL " fmt "\n" __VA_OPT__(, ) __VA_ARGS__); \
	} while (0)

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* 0 or an errno. SIGUSR1 cuts nothing short: it restarts. */
static int rest(uint64_t ns)
{
	struct timespec ts = { .tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000) };
	int r;

	do
		r = clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, &ts);
	while (r == EINTR);
	return r;
}

/* splitmix64: what stands at a place in a round needs nothing but the two. */
static uint64_t word_of(uint64_t place, uint64_t round)
{
	uint64_t z = place * 0x9e3779b97f4a7c15ULL + round * 0xd1b54a32d192ed03ULL;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
	return z ^ z >> 31;
}

static void fill(uint64_t *p, uint64_t place, uint64_t round)
{
	uint64_t word = word_of(place, round);

	for (unsigned int i = 0; i < BLOCK / 8; i++)
		p[i] = word + i * (round | 1);
}

static int right(const uint64_t *p, uint64_t place, uint64_t round)
{
	uint64_t word = word_of(place, round);

	for (unsigned int i = 0; i < BLOCK / 8; i++)
		if (p[i] != word + i * (round | 1))
			return 0;
	return 1;
}

/* --- disk ---------------------------------------------------------------------------------- */

static uint64_t disk_round[DISK_BLOCKS];

static void disk_check(int fd, uint8_t *buf, unsigned int at, const char *when)
{
	ssize_t n = pread(fd, buf, BATCH * BLOCK, (off_t)at * BLOCK);

	if (n != BATCH * BLOCK) {
		fail("disk: read of block %u, %s: %zd: %s", at, when, n, strerror(errno));
		return;
	}
	for (unsigned int i = 0; i < BATCH; i++)
		if (!right((uint64_t *)(buf + i * BLOCK), at + i, disk_round[at + i]))
			fail("disk: block %u, %s, is not what was written in round %llu", at + i,
			     when, (unsigned long long)disk_round[at + i]);
}

/* Past the page cache: what is read has been at the device. */
static void *disk_main(void *arg)
{
	int fd = open(arg, O_RDWR | O_DIRECT | O_CLOEXEC);
	uint8_t *buf = aligned_alloc(BLOCK, BATCH * BLOCK);

	if (fd < 0 || !buf) {
		fail("disk: %s: %s", (char *)arg, strerror(errno));
		return NULL;
	}
	for (;;) {
		/* An odd stride: neighbours in time are none in place. */
		unsigned int at = (unsigned int)(get(&count.disk) * 13 % (DISK_BLOCKS / BATCH)) * BATCH;
		ssize_t n;

		if (disk_round[at])
			disk_check(fd, buf, at, "written long ago");
		for (unsigned int i = 0; i < BATCH; i++)
			fill((uint64_t *)(buf + i * BLOCK), at + i, ++disk_round[at + i]);
		n = pwrite(fd, buf, BATCH * BLOCK, (off_t)at * BLOCK);
		if (n != BATCH * BLOCK)
			fail("disk: write of block %u: %zd: %s", at, n, strerror(errno));
		memset(buf, 0xee, BATCH * BLOCK);
		disk_check(fd, buf, at, "just written");
		if (get(&count.disk) % 16 == 0 && fdatasync(fd))
			fail("disk: fdatasync: %s", strerror(errno));
		add(&count.disk, 1);
		rest(REST_NS * (uint64_t)slower);
	}
}

/* --- memory -------------------------------------------------------------------------------- */

static uint64_t memory_pages;

/* Each page has its number and round in it; a page of an older time, or another's, is seen. */
static void *memory_main(void *arg)
{
	uint8_t *base = mmap(NULL, memory_pages * BLOCK, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)arg;
	if (base == MAP_FAILED) {
		fail("memory: %s", strerror(errno));
		return NULL;
	}
	for (uint64_t n = 0;; n++) {
		uint64_t page = n % memory_pages, round = n / memory_pages;
		uint64_t *p = (uint64_t *)(base + page * BLOCK);

		if (round && !right(p, page, round))
			fail("memory: page %llu is not of round %llu", (unsigned long long)page,
			     (unsigned long long)round);
		fill(p, page, round + 1);
		add(&count.mem, 1);
		if (n % 16 == 15)
			rest(REST_NS * (uint64_t)slower);
	}
}

/* --- timer --------------------------------------------------------------------------------- */

/* On each CPU in turn, since the clocks of two could differ. */
static void *timer_main(void *arg)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	uint64_t last = now_ns();

	(void)arg;
	for (uint64_t n = 0;; n++) {
		cpu_set_t set;
		uint64_t now;
		int r;

		CPU_ZERO(&set);
		CPU_SET((int)(n % (uint64_t)cpus), &set);
		if (sched_setaffinity(0, sizeof(set), &set))
			fail("timer: sched_setaffinity: %s", strerror(errno));
		r = rest(slower > 1 ? 10 * TICK_NS : TICK_NS);
		if (r)
			fail("timer: clock_nanosleep: %s", strerror(r));
		now = now_ns();
		if (now < last)
			add(&count.back, 1);
		else if (now - last < TICK_NS)
			fail("timer: a tick of %llu ns", (unsigned long long)(now - last));
		else if (now - last > get(&count.gap_ns))
			__atomic_store_n(&count.gap_ns, now - last, __ATOMIC_RELAXED);
		last = now;
		add(&count.ticks, 1);
	}
	return NULL;
}

/* --- vsock --------------------------------------------------------------------------------- */

static int listen_on(unsigned int port)
{
	struct sockaddr_vm addr = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port };
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd >= 0 && !bind(fd, (struct sockaddr *)&addr, sizeof(addr)) && !listen(fd, 16))
		return fd;
	fail("vsock: port %u: %s", port, strerror(errno));
	return -1;
}

/* Whatever comes goes back, in order; the other end knows what it has to be. */
static void echo_once(int *fd)
{
	static uint8_t buf[16384];
	ssize_t n = recv(*fd, buf, sizeof(buf), MSG_DONTWAIT), sent = 0;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	while (n > 0 && sent < n) {
		struct pollfd room = { .fd = *fd, .events = POLLOUT };
		ssize_t r = send(*fd, buf + sent, (size_t)(n - sent), MSG_NOSIGNAL | MSG_DONTWAIT);

		if (r < 0 && errno == EAGAIN && poll(&room, 1, -1) > 0)
			continue;
		if (r < 0)
			break;
		sent += r;
	}
	if (n > 0 && sent == n) {
		add(&count.echo, 1);
		return;
	}
	close(*fd);
	*fd = -1;
}

/* fds[0] is the echo's listener, fds[1] that of who is never read; behind them the echo's clients. */
static void *vsock_main(void *arg)
{
	struct pollfd fds[2 + CONNS];
	unsigned int port = *(unsigned int *)arg;

	for (unsigned int i = 0; i < 2 + CONNS; i++)
		fds[i] = (struct pollfd){ .fd = i < 2 ? listen_on(port + i) : -1, .events = POLLIN };
	for (;;) {
		if (poll(fds, 2 + CONNS, -1) < 0 && errno != EINTR)
			fail("vsock: poll: %s", strerror(errno));
		for (unsigned int i = 0; i < 2; i++) {
			int fd = fds[i].revents ? accept4(fds[i].fd, NULL, NULL, SOCK_CLOEXEC) : -1;
			unsigned int to = 2;

			while (fd >= 0 && i == 0 && to < 2 + CONNS && fds[to].fd >= 0)
				to++;
			if (fd >= 0 && i == 0 && to < 2 + CONNS)
				fds[to].fd = fd;
			else if (fd >= 0 && i == 0)
				close(fd);
		}
		for (unsigned int i = 2; i < 2 + CONNS; i++)
			if (fds[i].fd >= 0 && fds[i].revents)
				echo_once(&fds[i].fd);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	static unsigned int port;
	pthread_t thread;
	uint64_t n = 0;

	if (argc < 3) {
		fputs("usage: load DISK PORT [MIB]\n", stderr);
		return 2;
	}
	port = (unsigned int)atoi(argv[2]);
	memory_pages = (argc > 3 ? strtoull(argv[3], NULL, 10) : 8) * (1024 * 1024 / BLOCK);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGUSR1, on_usr1);
	if (pthread_create(&thread, NULL, disk_main, argv[1]) ||
	    pthread_create(&thread, NULL, memory_main, NULL) ||
	    pthread_create(&thread, NULL, timer_main, NULL) ||
	    pthread_create(&thread, NULL, vsock_main, &port)) {
		line("FAIL no threads\n");
		return 1;
	}
	for (;;) {
		line("status %llu disk %llu mem %llu ticks %llu echo %llu gap %llu back %llu fail %llu .\n",
		     (unsigned long long)n++, (unsigned long long)get(&count.disk),
		     (unsigned long long)get(&count.mem), (unsigned long long)get(&count.ticks),
		     (unsigned long long)get(&count.echo), (unsigned long long)get(&count.gap_ns) / 1000000,
		     (unsigned long long)get(&count.back), (unsigned long long)get(&count.fail));
		rest(slower > 1 ? 4 * STATUS_NS : STATUS_NS);
	}
}
