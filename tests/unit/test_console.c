/* SPDX-License-Identifier: MIT */
/*
 * Consoles of each kind, with the other end held here. The event loop is stepped by hand: pump()
 * runs its callbacks until something is so, for LIMIT_MS at most.
 */
#include "vm/console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include "tests/unit/allocs.h"
#include "tests/unit/test.h"
#include "vm/event.h"
#include "vm/log.h"
#include "vm/terminal.h"

/* Nothing is allocated by a console that is open. */
static int counted_open(struct console **c, const char *spec, struct event_loop *loop)
{
	bool another = allocs.at_work;
	int ret;

	if (another)
		allocs_end();
	ret = console_open(c, spec, loop);
	if (!ret || another)
		allocs_begin(allocs_always);
	return ret;
}

static void counted_close(struct console *c, unsigned int ms)
{
	if (allocs.at_work)
		allocs_end();
	console_close(c, ms);
}

#define console_open  counted_open
#define console_close counted_close

#define LIMIT_MS 5000

static struct event_loop loop;
static char dir[] = "/tmp/test_console.XXXXXX";
static int log_fd;

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* Returns how many callbacks ran. */
static unsigned int step(int ms)
{
	struct epoll_event batch[16];
	int n = epoll_wait(loop.epfd, batch, 16, ms);

	for (int i = 0; i < n; i++) {
		struct event *ev = batch[i].data.ptr;

		if (atomic_load(&ev->armed))
			ev->fn(ev, batch[i].events);
	}
	return n > 0 ? (unsigned int)n : 0;
}

#define pump(cond)                                                                                 \
	do {                                                                                       \
		uint64_t end_ = now_ms() + LIMIT_MS;                                               \
		while (!(cond) && now_ms() < end_)                                                 \
			step(10);                                                                  \
		CHECK(cond);                                                                       \
	} while (0)

/* Callbacks in the next 300 ms: a descriptor that is always ready would give thousands. */
static unsigned int callbacks(void)
{
	uint64_t end = now_ms() + 300;
	unsigned int n = 0;

	while (now_ms() < end && n < 10000)
		n += step(10);
	return n;
}

static const char *path_of(const char *name)
{
	static char buf[4][128];
	static unsigned int next;
	char *p = buf[next++ % 4];

	snprintf(p, sizeof(buf[0]), "%s/%s", dir, name);
	return p;
}

static const char *spec_of(const char *kind, const char *name)
{
	static char buf[160];

	snprintf(buf, sizeof(buf), "%s=%s", kind, path_of(name));
	return buf;
}

/* Everything logged since the last call. */
static const char *logged(void)
{
	static char buf[8192];
	ssize_t n = pread(log_fd, buf, sizeof(buf) - 1, 0);

	buf[n > 0 ? n : 0] = 0;
	if (ftruncate(log_fd, 0) || lseek(log_fd, 0, SEEK_SET))
		abort();
	return buf;
}

static unsigned int count_of(const char *text, const char *word)
{
	unsigned int n = 0;

	while ((text = strstr(text, word))) {
		n++;
		text++;
	}
	return n;
}

/* --- a device ------------------------------------------------------------------------------- */

struct guest {
	struct console_sink sink;
	size_t takes; /* bytes that it has room for */
	size_t nr;
	uint8_t got[1 << 18];
	unsigned int offered;
	unsigned int room_calls;
	unsigned int resizes;
	uint16_t cols, rows;
	char escape;
};

static size_t guest_input(void *opaque, const uint8_t *buf, size_t len)
{
	struct guest *g = opaque;
	size_t n = len < g->takes ? len : g->takes;

	g->offered++;
	if (n > sizeof(g->got) - g->nr)
		n = sizeof(g->got) - g->nr;
	memcpy(g->got + g->nr, buf, n);
	g->nr += n;
	g->takes -= n;
	return n;
}

static void guest_room(void *opaque)
{
	((struct guest *)opaque)->room_calls++;
}

static void guest_resize(void *opaque, uint16_t cols, uint16_t rows)
{
	struct guest *g = opaque;

	g->resizes++;
	g->cols = cols;
	g->rows = rows;
}

static void guest_escape(void *opaque, char key)
{
	((struct guest *)opaque)->escape = key;
}

static struct guest guest, guest2;

static void guest_init(struct guest *g, size_t takes)
{
	memset(g, 0, sizeof(*g));
	g->takes = takes;
	g->sink = (struct console_sink){
		.input = guest_input,
		.room = guest_room,
		.resize = guest_resize,
		.opaque = g,
	};
}

/* --- standard input and output -------------------------------------------------------------- */

static void use_stdio(int in, int out)
{
	if (in < 0)
		close(0);
	else if (dup2(in, 0) < 0)
		abort();
	if (out < 0)
		close(1);
	else if (dup2(out, 1) < 0)
		abort();
}

static void null_stdio(void)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC); /* may be 0 or 1 itself */
	int high = fcntl(fd, F_DUPFD_CLOEXEC, 3);

	use_stdio(high, high);
	close(high);
	if (fd > 1)
		close(fd);
}

static void make_pipe(int fd[2])
{
	if (pipe2(fd, O_CLOEXEC))
		abort();
}

/*
 * Reads till @want bytes came, or the other end closed, or nothing came for LIMIT_MS; the loop
 * runs meanwhile.
 */
static size_t read_all(int fd, char *buf, size_t want)
{
	uint64_t end = now_ms() + LIMIT_MS;
	size_t nr = 0;

	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	while (nr < want && now_ms() < end) {
		ssize_t n = read(fd, buf + nr, want - nr);

		if (n > 0) {
			nr += (size_t)n;
			end = now_ms() + LIMIT_MS;
		} else if (!n || (errno != EAGAIN && errno != EIO)) {
			break;
		} else {
			step(2);
		}
	}
	return nr;
}

static void send_text(int fd, const char *text)
{
	CHECK_EQ(write(fd, text, strlen(text)), strlen(text));
}

/* --- tests: kinds --------------------------------------------------------------------------- */

static void null_takes_all(void)
{
	struct console *c;
	uint16_t cols, rows;
	static char buf[1000];

	CHECK_EQ(console_open(&c, "null", &loop), 0);
	guest_init(&guest, 10);
	console_attach(c, &guest.sink);
	for (unsigned int i = 0; i < 200; i++)
		CHECK_EQ(console_write(c, buf, sizeof(buf)), sizeof(buf));
	CHECK_EQ(console_room(c), CONSOLE_RING);
	CHECK(!console_size(c, &cols, &rows));
	CHECK(callbacks() < 5);
	console_detach(c, &guest.sink);
	console_close(c, 100);
	console_close(NULL, 100);
}

static void bad_specs(void)
{
	static const struct {
		const char *spec;
		int ret;
		const char *says;
	} t[] = {
		{"", -EINVAL, "use stdio"},
		{"tty", -EINVAL, "use stdio"},
		{"stdio2", -EINVAL, "use stdio"},
		{"file", -EINVAL, "use stdio"},
		{"file=", -ENOENT, "ENOENT"},
		{"file=/nonexistent/x", -ENOENT, "ENOENT"},
		{"file=/tmp", -EISDIR, "EISDIR"},
		{"unix=", -ENAMETOOLONG, "107 bytes"},
		{"unix=/nonexistent/x", -ENOENT, "ENOENT"},
	};
	struct console *c;
	char name[200];

	logged();
	for (unsigned int i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		CHECK_EQ(console_open(&c, t[i].spec, &loop), t[i].ret);
		CHECK(strstr(logged(), t[i].says));
	}
	memset(name, 'x', sizeof(name));
	memcpy(name, "unix=", 5);
	name[sizeof(name) - 1] = 0;
	CHECK_EQ(console_open(&c, name, &loop), -ENAMETOOLONG);
	logged();
}

static void file_appends(void)
{
	struct console *c;
	struct stat st;
	char buf[64];
	int fd;

	umask(0);
	for (unsigned int i = 0; i < 2; i++) {
		CHECK_EQ(console_open(&c, spec_of("file", "out"), &loop), 0);
		CHECK_EQ(console_write(c, "hello\n", 6), 6);
		console_close(c, 1000);
	}
	CHECK_EQ(stat(path_of("out"), &st), 0);
	CHECK_EQ(st.st_mode & 07777, 0600);
	fd = open(path_of("out"), O_RDONLY);
	CHECK_EQ(read(fd, buf, sizeof(buf)), 12);
	CHECK(!memcmp(buf, "hello\nhello\n", 12));
	close(fd);
	/* a FIFO that nobody reads is an error at once */
	CHECK_EQ(mkfifo(path_of("fifo"), 0600), 0);
	CHECK_EQ(console_open(&c, spec_of("file", "fifo"), &loop), -ENXIO);
	logged();
}

static void full_disk_is_not_the_end(void)
{
	struct console *c;

	logged();
	CHECK_EQ(console_open(&c, "file=/dev/full", &loop), 0);
	for (unsigned int i = 0; i < 100; i++) {
		CHECK_EQ(console_write(c, "x", 1), 1);
		usleep(2000);
	}
	console_close(c, 1000);
	CHECK(strstr(logged(), "ENOSPC"));
}

/* --- tests: output -------------------------------------------------------------------------- */

static bool writable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLOUT };

	return poll(&p, 1, 0) > 0;
}

/*
 * What a slow reader finds later: the bytes taken, in order, and a note with the number that was
 * not.
 */
static void slow_reader_with(int pipe_flags)
{
	static char buf[1 << 20];
	size_t sent = 0, lost, nr, n, i;
	unsigned int calls;
	struct console *c;
	char note[128], byte;
	int fd[2];

	make_pipe(fd);
	fcntl(fd[1], F_SETFL, fcntl(fd[1], F_GETFL) | pipe_flags);
	null_stdio();
	use_stdio(0, fd[1]);
	CHECK_EQ(console_open(&c, "stdio", &loop), 0);
	guest_init(&guest, 0);
	console_attach(c, &guest.sink);
	/*
	 * Nobody reads. Every call comes back; what they take in all is the ring and the pipe and
	 * no more.
	 */
	for (i = 0; i < 100; i++) {
		do {
			byte = (char)('a' + sent % 26);
			n = console_write(c, &byte, 1);
			sent += n;
		} while (n && sent < sizeof(buf));
		if (!writable(fd[1]))
			break;
		usleep(20000); /* the writer has not filled the pipe yet */
	}
	for (n = 1; n && sent < sizeof(buf); sent += n) {
		byte = (char)('a' + sent % 26);
		n = console_write(c, &byte, 1);
	}
	CHECK(i < 100);
	CHECK(sent >= CONSOLE_RING);
	CHECK(sent <= CONSOLE_RING + 65536);
	CHECK(console_room(c) < CONSOLE_RESERVE);
	CHECK(callbacks() < 10);
	calls = guest.room_calls; /* the pipe's own room may have been worth one */
	CHECK(callbacks() == 0);
	lost = 12345;
	console_drop(c, 345);
	console_drop(c, 12000);

	nr = read_all(fd[0], buf, sent);
	CHECK_EQ(nr, sent);
	for (i = 0; i < nr && buf[i] == (char)('a' + i % 26); i++)
		;
	CHECK_EQ(i, nr);
	snprintf(note, sizeof(note),
		 "\r\n[%zu bytes of console output lost: its reader was too slow]\r\n", lost);
	memset(buf, 0, 200);
	nr = read_all(fd[0], buf, strlen(note));
	CHECK_STR(buf, note);
	pump(guest.room_calls > calls);
	CHECK_EQ(guest.room_calls, calls + 1);
	CHECK_EQ(console_room(c), CONSOLE_RING);
	/* and it goes on */
	CHECK_EQ(console_write(c, "again", 5), 5);
	memset(buf, 0, 200);
	read_all(fd[0], buf, 5);
	CHECK_STR(buf, "again");
	console_close(c, 1000);
	null_stdio();
	close(fd[0]);
	close(fd[1]);
}

static void slow_reader(void)
{
	slow_reader_with(0);
}

static void slow_reader_nonblocking_pipe(void)
{
	slow_reader_with(O_NONBLOCK);
}

/* console_room() with little room promises the callback, though nothing was refused. */
static void room_asked_is_room_told(void)
{
	static char buf[1 << 18];
	size_t sent = 0, n;
	struct console *c;
	int fd[2];

	make_pipe(fd);
	null_stdio();
	use_stdio(0, fd[1]);
	CHECK_EQ(console_open(&c, "stdio", &loop), 0);
	guest_init(&guest, 0);
	console_attach(c, &guest.sink);
	while (sent < sizeof(buf)) {
		bool full = !writable(fd[1]);

		n = console_room(c);
		if (n < CONSOLE_RESERVE && full)
			break;
		if (n < CONSOLE_RESERVE)
			usleep(1000); /* the writer's turn */
		n = n > 1000 ? 1000 : n > 100 ? 100 : 0;
		CHECK_EQ(console_write(c, buf, n), n);
		sent += n;
	}
	CHECK(sent < sizeof(buf));
	n = guest.room_calls;
	CHECK_EQ(read_all(fd[0], buf, sent), sent);
	pump(guest.room_calls > n);
	console_close(c, 1000);
	null_stdio();
	close(fd[0]);
	close(fd[1]);
}

static void reader_gone(void)
{
	struct console *c;
	static char buf[1000];
	int fd[2];

	make_pipe(fd);
	null_stdio();
	use_stdio(0, fd[1]);
	logged();
	CHECK_EQ(console_open(&c, "stdio", &loop), 0);
	guest_init(&guest, 0);
	console_attach(c, &guest.sink);
	close(fd[0]);
	for (unsigned int i = 0; i < 300; i++) {
		console_write(c, buf, sizeof(buf));
		usleep(100);
	}
	pump(console_room(c) == CONSOLE_RING);
	usleep(20000);
	CHECK_EQ(count_of(logged(), "EPIPE"), 1); /* said once, and no SIGPIPE */
	console_close(c, 1000);
	null_stdio();
	close(fd[1]);
}

static void close_drains(void)
{
	static char out[50000], in[50001];
	struct console *c;
	int fd[2];

	make_pipe(fd);
	null_stdio();
	use_stdio(0, fd[1]);
	for (size_t i = 0; i < sizeof(out); i++)
		out[i] = (char)(i % 253);
	CHECK_EQ(console_open(&c, "stdio", &loop), 0);
	CHECK_EQ(console_write(c, out, sizeof(out)), sizeof(out));
	console_close(c, 2000);
	null_stdio();
	close(fd[1]);
	CHECK_EQ(read_all(fd[0], in, sizeof(in)), sizeof(out));
	CHECK(!memcmp(in, out, sizeof(out)));
	close(fd[0]);
}

static void close_gives_up(void)
{
	static char buf[CONSOLE_RING];
	struct console *c;
	uint64_t start;
	int fd[2];

	make_pipe(fd);
	null_stdio();
	use_stdio(0, fd[1]);
	CHECK_EQ(console_open(&c, "stdio", &loop), 0);
	/* Full, and still full after the writer had its time. */
	for (unsigned int i = 0; i < 100; i++) {
		if (!console_write(c, buf, sizeof(buf)) && !writable(fd[1]))
			break;
		usleep(20000);
	}
	start = now_ms();
	console_close(c, 100);
	CHECK(now_ms() - start >= 100);
	CHECK(now_ms() - start < 3000);
	null_stdio();
	close(fd[0]);
	close(fd[1]);
}

#define WRITES 20000

static void *write_much(void *arg)
{
	static const char row[] = "0123456789abcdef";
	uint64_t end = now_ms() + LIMIT_MS;
	size_t sent = 0;

	while (sent < WRITES * 16 && now_ms() < end) {
		size_t n = console_write(arg, row + sent % 16, 16 - sent % 16);

		sent += n;
		if (!n)
			usleep(100);
	}
	return sent == WRITES * 16 ? arg : NULL;
}

static void many_writers(void)
{
	static char buf[3 * WRITES * 16];
	unsigned int count[256] = {0};
	pthread_t thread[3];
	struct console *c;
	int fd[2];

	make_pipe(fd);
	null_stdio();
	use_stdio(0, fd[1]);
	CHECK_EQ(console_open(&c, "stdio", &loop), 0);
	for (unsigned int i = 0; i < 3; i++)
		test_thread(&thread[i], write_much, c);
	CHECK_EQ(read_all(fd[0], buf, sizeof(buf)), sizeof(buf));
	for (unsigned int i = 0; i < 3; i++) {
		void *done;

		pthread_join(thread[i], &done);
		CHECK(done == c);
	}
	for (size_t i = 0; i < sizeof(buf); i++)
		count[(unsigned char)buf[i]]++;
	for (unsigned int i = 0; i < 16; i++)
		CHECK_EQ(count[(unsigned char)"0123456789abcdef"[i]], 3 * WRITES);
	console_close(c, 1000);
	null_stdio();
	close(fd[0]);
	close(fd[1]);
}

/* --- tests: input --------------------------------------------------------------------------- */

static void stdin_pipe_and_eof(void)
{
	struct console *c;
	int fd[2];

	make_pipe(fd);
	null_stdio();
	use_stdio(fd[0], 1);
	CHECK_EQ(console_open(&c, "stdio", &loop), 0);
	guest_init(&guest, 1000);
	console_attach(c, &guest.sink);
	send_text(fd[1],
		  "one\x01xtwo"); /* Ctrl-A is a byte like others when no terminal sends it */
	pump(guest.nr == 8);
	CHECK(!memcmp(guest.got, "one\x01xtwo", 8));
	CHECK(!guest.escape);

	/* nothing is read that the guest can't take, and nothing is lost when the writer leaves */
	guest.takes = 2;
	send_text(fd[1], "abcdef");
	pump(guest.nr == 10);
	send_text(fd[1], "ghi");
	use_stdio(-1, 1);
	close(fd[0]);
	close(fd[1]);
	CHECK(callbacks() < 5);
	CHECK_EQ(guest.nr, 10);
	guest.takes = 3;
	console_resume_input(c);
	pump(guest.nr == 13);
	guest.takes = 100;
	console_resume_input(c);
	pump(guest.nr == 17);
	CHECK(!memcmp(guest.got + 8, "abcdefghi", 9));
	/* the end: no error, no spinning, and asking again is harmless */
	CHECK(callbacks() < 5);
	console_resume_input(c);
	CHECK(callbacks() < 5);
	CHECK_EQ(guest.nr, 17);
	CHECK_EQ(count_of(logged(), "error"), 0);
	console_close(c, 100);
	null_stdio();
}

static void stdin_regular_file(void)
{
	static char text[100000];
	struct console *c;
	int fd = open(path_of("in"), O_RDWR | O_CREAT | O_TRUNC, 0600);

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (char)('0' + i % 71);
	CHECK_EQ(write(fd, text, sizeof(text)), sizeof(text));
	lseek(fd, 0, SEEK_SET);
	null_stdio();
	use_stdio(fd, 1);
	close(fd);
	CHECK_EQ(console_open(&c, "stdio", &loop), 0);
	CHECK(callbacks() < 5); /* nobody asks yet */
	guest_init(&guest, 0);
	console_attach(c, &guest.sink);
	/* sixteen bytes at a time, as a UART takes them */
	for (unsigned int i = 0; i < 7000 && guest.nr < sizeof(text); i++) {
		guest.takes = 16;
		console_resume_input(c);
		step(0);
		step(0);
	}
	CHECK_EQ(guest.nr, sizeof(text));
	CHECK(!memcmp(guest.got, text, sizeof(text)));
	CHECK(callbacks() < 5);
	console_close(c, 100);
	null_stdio();
}

static void stdin_other(void)
{
	struct console *c;

	/* /dev/null, and both closed */
	for (int closed = 0; closed < 2; closed++) {
		null_stdio();
		if (closed)
			use_stdio(-1, -1);
		CHECK_EQ(console_open(&c, "stdio", &loop), 0);
		guest_init(&guest, 100);
		console_attach(c, &guest.sink);
		CHECK(callbacks() < 10);
		CHECK_EQ(guest.nr, 0);
		CHECK_EQ(console_write(c, "x", 1), 1);
		console_close(c, 1000);
	}
	null_stdio();
}

static void sinks_stack(void)
{
	struct console *c;
	int fd[2];

	make_pipe(fd);
	null_stdio();
	use_stdio(fd[0], 1);
	CHECK_EQ(console_open(&c, "stdio", &loop), 0);
	guest_init(&guest, 1000);
	guest_init(&guest2, 1000);
	send_text(fd[1], "a"); /* before anybody listens: kept */
	CHECK(callbacks() < 5);
	console_attach(c, &guest.sink);
	pump(guest.nr == 1);
	console_attach(c, &guest2.sink);
	send_text(fd[1], "bc");
	pump(guest2.nr == 2);
	console_detach(c, &guest2.sink);
	send_text(fd[1], "d");
	pump(guest.nr == 2);
	/* attached again, the first is the last; twice is once */
	console_attach(c, &guest2.sink);
	console_attach(c, &guest.sink);
	console_attach(c, &guest.sink);
	send_text(fd[1], "e");
	pump(guest.nr == 3);
	console_detach(c, &guest.sink);
	console_detach(c, &guest.sink);
	send_text(fd[1], "f");
	pump(guest2.nr == 3);
	CHECK(!memcmp(guest.got, "ade", 3));
	CHECK(!memcmp(guest2.got, "bcf", 3));
	console_close(c, 100);
	null_stdio();
	close(fd[0]);
	close(fd[1]);
}

/* --- tests: a terminal ---------------------------------------------------------------------- */

static int term, term_slave;
static struct termios term_mode;

static void term_open(void)
{
	term = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (term < 0 || grantpt(term) || unlockpt(term))
		abort();
	term_slave = open(ptsname(term), O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (term_slave < 0 || tcgetattr(term_slave, &term_mode))
		abort();
	use_stdio(term_slave, term_slave);
}

static void term_close(void)
{
	null_stdio();
	close(term_slave);
	close(term);
}

static bool term_is_cooked(void)
{
	struct termios now;

	return !tcgetattr(term_slave, &now) && now.c_lflag == term_mode.c_lflag &&
	       now.c_iflag == term_mode.c_iflag && now.c_oflag == term_mode.c_oflag &&
	       now.c_cflag == term_mode.c_cflag &&
	       !memcmp(now.c_cc, term_mode.c_cc, sizeof(now.c_cc));
}

static bool term_is_raw(void)
{
	struct termios now;

	return !tcgetattr(term_slave, &now) && !(now.c_lflag & (ICANON | ECHO | ISIG)) &&
	       !(now.c_iflag & (ICRNL | IXON)) && !(now.c_oflag & OPOST);
}

static void terminal_raw_and_back(void)
{
	struct console *c, *second;
	char buf[64] = "";

	term_open();
	CHECK(term_is_cooked());
	CHECK_EQ(console_open(&c, "stdio", &loop), 0);
	CHECK(term_is_raw());
	logged();
	CHECK_EQ(console_open(&second, "stdio", &loop), -EBUSY);
	CHECK(strstr(logged(), "EBUSY"));
	CHECK(term_is_raw()); /* the failed one put nothing back */
	CHECK_EQ(console_write(c, "a\nb", 3), 3);
	read_all(term, buf, 3);
	CHECK_STR(buf, "a\nb");
	console_close(c, 1000);
	CHECK(term_is_cooked());
	/* and again, after a close */
	CHECK_EQ(console_open(&c, "stdio", &loop), 0);
	CHECK(term_is_raw());
	terminal_restore();
	CHECK(term_is_cooked());
	console_close(c, 1000);
	CHECK(term_is_cooked());
	term_close();
}

static void escapes(void)
{
	static const struct {
		const char *typed;
		const char *guest;
		char escape;
		const char *shown;
	} t[] = {
		{"abc", "abc", 0, ""},
		{"a\x01\x01"
		 "b",
		 "a\x01"
		 "b",
		 0, ""},
		{"\x01"
		 "a",
		 "\x01", 0, ""},
		{"q\x01x", "q", 'x', ""},
		{"\x01x\x01y", "", 'x', "\a"},
		{"\x01q", "", 0, "\a"},
		{"\x03\x1a\r", "\x03\x1a\r", 0, ""}, /* Ctrl-C is the guest's */
		{"\x01h", "", 0, "\r\nCtrl-A x"},
		{"\x01\x01x", "\x01x", 0, ""},
	};
	struct console *c;
	char buf[512];

	term_open();
	CHECK_EQ(console_open(&c, "stdio", &loop), 0);
	console_set_escape(c, guest_escape, &guest);
	guest_init(&guest, 0);
	console_attach(c, &guest.sink);
	/* whole, and a byte at a time */
	for (unsigned int i = 0; i < 2 * sizeof(t) / sizeof(t[0]); i++) {
		const char *typed = t[i / 2].typed;
		size_t chunk = i & 1 ? 1 : strlen(typed);

		console_detach(c, &guest.sink);
		guest_init(&guest, 1000);
		console_attach(c, &guest.sink);
		for (size_t at = 0; at < strlen(typed); at += chunk) {
			CHECK_EQ(write(term, typed + at, chunk), chunk);
			for (unsigned int turn = 0; chunk == 1 && turn < 3; turn++)
				step(3);
		}
		pump(guest.nr == strlen(t[i / 2].guest) && guest.escape == t[i / 2].escape);
		CHECK(!memcmp(guest.got, t[i / 2].guest, guest.nr));
		memset(buf, 0, sizeof(buf));
		read_all(term, buf, strlen(t[i / 2].shown));
		CHECK_STR(buf, t[i / 2].shown);
		if (t[i / 2].typed[1] == 'h') {
			usleep(20000);
			CHECK(read(term, buf, sizeof(buf)) > 50); /* the rest of the help */
		}
	}
	/* a guest that takes nothing does not take Ctrl-A x away */
	console_detach(c, &guest.sink);
	guest_init(&guest, 0);
	console_attach(c, &guest.sink);
	for (unsigned int i = 0; i < 20; i++) {
		send_text(term, "0123456789012345678901234567890123456789");
		step(1);
	}
	send_text(term, "\x01x");
	pump(guest.escape == 'x');
	guest.takes = 10000;
	console_resume_input(c);
	pump(guest.nr == 800);
	console_close(c, 1000);
	term_close();
}

static void terminal_size(void)
{
	struct winsize size = {.ws_col = 101, .ws_row = 37};
	struct console *c;
	uint16_t cols = 0, rows = 0;

	term_open();
	CHECK_EQ(console_open(&c, "stdio", &loop), 0);
	guest_init(&guest, 0);
	console_attach(c, &guest.sink);
	CHECK(!console_size(c, &cols, &rows)); /* 0 by 0 is none */
	ioctl(term, TIOCSWINSZ, &size);
	raise(SIGWINCH);
	pump(guest.resizes > 0);
	CHECK_EQ(guest.cols, 101);
	CHECK_EQ(guest.rows, 37);
	CHECK(console_size(c, &cols, &rows));
	CHECK_EQ(cols, 101);
	CHECK_EQ(rows, 37);
	console_close(c, 1000);
	raise(SIGWINCH); /* ignored again */
	term_close();
}

/* A child that opens the console and ends by a signal, or by exit() without closing it. */
static int child_ends(int sig)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		struct console *c;

		alarm(20);
		/* a loop of its own: the parent's is one open file with this one's */
		if (event_loop_init(&loop) || console_open(&c, "stdio", &loop) || !term_is_raw())
			_exit(99);
		if (sig)
			kill(getpid(), sig);
		exit(7);
	}
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	return status;
}

static void terminal_restored_on_death(void)
{
	static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGSYS};
	struct termios raw;
	int status;

	term_open();
	for (unsigned int i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		status = child_ends(signals[i]);
		CHECK(WIFSIGNALED(status));
		CHECK_EQ(WTERMSIG(status), signals[i]);
		CHECK(term_is_cooked());
	}
	status = child_ends(0);
	CHECK(WIFEXITED(status));
	CHECK_EQ(WEXITSTATUS(status), 7);
	CHECK(term_is_cooked());
	/* the test can fail: SIGKILL leaves it raw */
	status = child_ends(SIGKILL);
	CHECK(WIFSIGNALED(status));
	CHECK(term_is_raw());
	raw = term_mode;
	tcsetattr(term_slave, TCSANOW, &raw);
	term_close();
}

/*
 * A background job neither changes the terminal nor reads it (that would stop the whole process).
 */
static void background_job(void)
{
	pid_t pid, got;
	int status = 0, ask[2];

	term = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (term < 0 || grantpt(term) || unlockpt(term))
		abort();
	make_pipe(ask);
	pid = fork();
	if (!pid) {
		/* a session with this terminal, whose foreground is this process: the shell */
		struct console *c;
		pid_t job;
		char byte;

		alarm(20);
		setsid();
		term_slave = open(ptsname(term), O_RDWR);
		if (term_slave < 0 || ioctl(term_slave, TIOCSCTTY, 0) < 0 ||
		    tcgetattr(term_slave, &term_mode))
			_exit(1);
		signal(SIGTTOU, SIG_IGN);
		job = fork();
		if (!job) {
			alarm(20);
			signal(SIGTTOU, SIG_DFL);
			setpgid(0, 0);
			use_stdio(term_slave, term_slave);
			if (event_loop_init(&loop) || console_open(&c, "stdio", &loop) ||
			    !term_is_cooked())
				_exit(2);
			guest_init(&guest, 100);
			console_attach(c, &guest.sink);
			send_text(term, "for the shell\n");
			if (callbacks() > 20 || guest.nr)
				_exit(3);
			if (read_all(term, (char *)guest2.got, 15) != 15) /* echo */
				_exit(4);
			send_text(ask[1], "!"); /* to the shell: put me in front */
			pump(term_is_raw());
			if (!term_is_raw())
				_exit(5);
			send_text(term, "k");
			pump(guest.nr > 0);
			if (guest.nr < 1)
				_exit(6);
			console_close(c, 100);
			_exit(term_is_cooked() ? 0 : 7);
		}
		setpgid(job, job);
		close(ask[1]);
		/* as bash's fg: no SIGCONT to a job that never stopped */
		if (read(ask[0], &byte, 1) == 1)
			tcsetpgrp(term_slave, job);
		if (waitpid(job, &status, WUNTRACED) != job)
			_exit(91);
		if (WIFSTOPPED(status)) {
			kill(job, SIGKILL);
			_exit(92);
		}
		_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 93);
	}
	close(ask[0]);
	close(ask[1]);
	got = waitpid(pid, &status, 0);
	CHECK_EQ(got, pid);
	CHECK(WIFEXITED(status));
	CHECK_EQ(WEXITSTATUS(status), 0);
	close(term);
	null_stdio();
}

/* --- tests: pty ----------------------------------------------------------------------------- */

static int pty_slave(const char *text)
{
	const char *name = strstr(text, "/dev/pts/");
	char path[32];

	if (!name || sscanf(name, "%31s", path) != 1)
		return -1;
	return open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
}

static void pty_console(void)
{
	static char buf[CONSOLE_RING * 2];
	struct console *c;
	char name[256];
	int fd;

	logged();
	CHECK_EQ(console_open(&c, "pty", &loop), 0);
	snprintf(name, sizeof(name), "%s", logged());
	guest_init(&guest, 1000);
	console_attach(c, &guest.sink);
	/* Nobody is there: no spinning, no waiting, and the latest output is kept. */
	for (unsigned int i = 0; i < 3 * CONSOLE_RING / 16; i++)
		CHECK_EQ(console_write(c, "old old old old ", 16), 16);
	CHECK_EQ(console_room(c), CONSOLE_RING);
	CHECK_EQ(console_write(c, "boot\n", 5), 5);
	CHECK(callbacks() < 10);

	fd = pty_slave(name);
	CHECK(fd >= 0);
	CHECK_EQ(read_all(fd, buf, CONSOLE_RING), CONSOLE_RING);
	CHECK(!memcmp(buf + CONSOLE_RING - 5, "boot\n", 5));
	send_text(fd, "ls\r\x03");
	pump(guest.nr >= 4);
	CHECK_EQ(guest.nr, 4);
	CHECK(!memcmp(guest.got, "ls\r\x03", 4)); /* no echo of the output, no line mode */
	close(fd);
	CHECK(callbacks() < 10);

	CHECK_EQ(console_write(c, "later", 5), 5);
	fd = pty_slave(name);
	memset(buf, 0, 16);
	CHECK_EQ(read_all(fd, buf, 5), 5);
	CHECK_STR(buf, "later");
	send_text(fd, "x");
	pump(guest.nr == 5);
	close(fd);
	console_close(c, 100);
}

/* --- tests: a Unix socket ------------------------------------------------------------------- */

static int client(const char *name)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path_of(name));
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr))) {
		close(fd);
		return -1;
	}
	return fd;
}

static void unix_clients(void)
{
	static char buf[CONSOLE_RING + 1];
	struct console *c, *second;
	struct stat st;
	int a, b;

	umask(0);
	CHECK_EQ(console_open(&c, spec_of("unix", "sock"), &loop), 0);
	CHECK_EQ(stat(path_of("sock"), &st), 0);
	CHECK_EQ(st.st_mode & 07777, 0600);
	CHECK_EQ(console_open(&second, spec_of("unix", "sock"), &loop), -EADDRINUSE);
	CHECK_EQ(stat(path_of("sock"), &st), 0); /* the failed one removed nothing */
	guest_init(&guest, 1000);
	console_attach(c, &guest.sink);
	/* that failed one looked whether somebody listens: let that go by */
	CHECK(callbacks() < 20);

	for (unsigned int i = 0; i < 10000; i++)
		CHECK_EQ(console_write(c, "0123456789", 10), 10);
	CHECK_EQ(console_room(c), CONSOLE_RING);
	CHECK_EQ(console_write(c, "end of boot", 11), 11);
	a = client("sock");
	CHECK(a >= 0);
	CHECK_EQ(read_all(a, buf, CONSOLE_RING), CONSOLE_RING);
	CHECK(!memcmp(buf + CONSOLE_RING - 11, "end of boot", 11));
	send_text(a, "input");
	pump(guest.nr == 5);

	/* The second waits. */
	b = client("sock");
	CHECK(b >= 0);
	send_text(b, "later");
	CHECK(callbacks() < 5);
	CHECK_EQ(guest.nr, 5);
	CHECK_EQ(console_write(c, "first", 5), 5);
	memset(buf, 0, 32);
	CHECK_EQ(read_all(a, buf, 5), 5);
	CHECK_STR(buf, "first");
	close(a);
	pump(guest.nr == 10);
	CHECK(!memcmp(guest.got, "inputlater", 10));
	CHECK_EQ(console_write(c, "second", 6), 6);
	memset(buf, 0, 32);
	CHECK_EQ(read_all(b, buf, 6), 6);
	CHECK_STR(buf, "second");

	/* Said all that it has to say, and still listens. */
	shutdown(b, SHUT_WR);
	CHECK(callbacks() < 5);
	CHECK_EQ(console_write(c, "third", 5), 5);
	memset(buf, 0, 32);
	CHECK_EQ(read_all(b, buf, 5), 5);
	CHECK_STR(buf, "third");
	close(b);
	CHECK(callbacks() < 10);

	/* What nobody reads is the next one's. */
	CHECK_EQ(console_write(c, "between", 7), 7);
	a = client("sock");
	memset(buf, 0, 32);
	CHECK_EQ(read_all(a, buf, 7), 7);
	CHECK_STR(buf, "between");

	/* A client that leaves while the guest takes nothing makes place. */
	guest.takes = 0;
	send_text(a, "unheard");
	CHECK(callbacks() < 5);
	close(a);
	a = client("sock");
	CHECK_EQ(console_write(c, "fifth", 5), 5);
	memset(buf, 0, 32);
	CHECK_EQ(read_all(a, buf, 5), 5);
	CHECK_STR(buf, "fifth");
	guest.takes = 100;
	console_resume_input(c);
	pump(guest.nr == 17);
	CHECK(!memcmp(guest.got + 10, "unheard", 7));
	console_close(c, 100);
	close(a);
	CHECK(stat(path_of("sock"), &st) < 0); /* taken away */
}

static void unix_reconnects(void)
{
	struct console *c;
	char buf[32], text[32];

	CHECK_EQ(console_open(&c, spec_of("unix", "sock"), &loop), 0);
	guest_init(&guest, 100000);
	console_attach(c, &guest.sink);
	for (unsigned int i = 0; i < 200; i++) {
		int fd = client("sock");

		CHECK(fd >= 0);
		snprintf(text, sizeof(text), "out %04u", i);
		send_text(fd, "in");
		pump(guest.nr == 2 * (i + 1));
		CHECK_EQ(console_write(c, text, 8), 8);
		memset(buf, 0, sizeof(buf));
		CHECK_EQ(read_all(fd, buf, 8), 8);
		CHECK_STR(buf, text);
		close(fd);
	}
	console_close(c, 100);
}

static void unix_stale_file(void)
{
	struct console *c;
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	/* left by a dead process: replaced */
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path_of("stale"));
	CHECK_EQ(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd);
	CHECK_EQ(console_open(&c, spec_of("unix", "stale"), &loop), 0);
	console_close(c, 0);
	/* anything else there: kept */
	fd = open(path_of("plain"), O_RDWR | O_CREAT, 0600);
	close(fd);
	CHECK_EQ(console_open(&c, spec_of("unix", "plain"), &loop), -EADDRINUSE);
	CHECK_EQ(access(path_of("plain"), F_OK), 0);
	/* somebody put another file in our socket's place: not ours to remove */
	CHECK_EQ(console_open(&c, spec_of("unix", "moved"), &loop), 0);
	CHECK_EQ(rename(path_of("plain"), path_of("moved")), 0);
	console_close(c, 0);
	CHECK_EQ(access(path_of("moved"), F_OK), 0);
	logged();
}

static void no_descriptor_leaks(void)
{
	static const char *const kinds[] = {"stdio", "null", "pty",
					    "unix",  "file", "unix=/nonexistent/x"};
	unsigned int before;
	struct console *c;

	null_stdio();
	before = open_fds();
	for (unsigned int i = 0; i < 60; i++) {
		const char *kind = kinds[i % 6];
		bool named = !strcmp(kind, "unix") || !strcmp(kind, "file");
		int fd = -1, ret = console_open(&c, named ? spec_of(kind, "leak") : kind, &loop);

		if (ret)
			continue;
		if (!strcmp(kind, "unix")) {
			fd = client("leak");
			step(10);
		}
		console_write(c, "x", 1);
		console_close(c, 100);
		if (fd >= 0)
			close(fd);
		if (named)
			unlink(path_of("leak"));
	}
	CHECK_EQ(open_fds(), before);
	logged();
}

int main(void)
{
	char command[64];

	/* 0 and 1 are what is tested: the report goes elsewhere. */
	stdout = fdopen(fcntl(1, F_DUPFD_CLOEXEC, 3), "w");
	if (!stdout || !mkdtemp(dir) || event_loop_init(&loop))
		return 1;
	log_fd = memfd_create("log", MFD_CLOEXEC);
	log_set_fd(log_fd, false);
	alarm(120);

	RUN(null_takes_all);
	RUN(bad_specs);
	RUN(file_appends);
	RUN(full_disk_is_not_the_end);
	RUN(slow_reader);
	RUN(slow_reader_nonblocking_pipe);
	RUN(room_asked_is_room_told);
	RUN(reader_gone);
	RUN(close_drains);
	RUN(close_gives_up);
	RUN(many_writers);
	RUN(stdin_pipe_and_eof);
	RUN(stdin_regular_file);
	RUN(stdin_other);
	RUN(sinks_stack);
	RUN(terminal_raw_and_back);
	RUN(escapes);
	RUN(terminal_size);
	RUN(terminal_restored_on_death);
	RUN(background_job);
	RUN(pty_console);
	RUN(unix_clients);
	RUN(unix_reconnects);
	RUN(unix_stale_file);
	RUN(no_descriptor_leaks);

	event_loop_fini(&loop);
	snprintf(command, sizeof(command), "rm -r %s", dir);
	return system(command) || TEST_RESULT() ? 1 : 0;
}
