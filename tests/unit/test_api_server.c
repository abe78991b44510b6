/* SPDX-License-Identifier: MIT */
/*
 * The server with its loop on a thread, and clients of all kinds against it. Time-outs are short,
 * and what is measured against them has room upwards: a busy machine is slow.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "api/server.h"
#include "tests/unit/test.h"
#include "vm/event.h"
#include "vm/log.h"

#define CLIENTS	 4
#define SHORT	 800   /* ms; of requests, idleness and replies, where their end is waited for */
#define LONG	 60000 /* ms; where it must not come, however busy the machine is */
#define GRACE	 100   /* ms */
#define PATIENCE 10000 /* ms; before a test gives up */

static char dir[64], path[100];
static struct event_loop loop;
static struct server *server;
static pthread_t thread;

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void sleep_ms(unsigned int ms)
{
	usleep(ms * 1000);
}

/* --- the handler: what a path asks for ------------------------------------------------------ */

static struct server_call *pending[CLIENTS];
static unsigned int nr_pending, nr_calls, nr_posted;
static struct event release; /* an eventfd: completes all that are pending */

static void complete_all(struct event *ev, uint32_t events)
{
	uint64_t count;

	if (read(ev->fd, &count, sizeof(count)) < 0)
		return;
	for (unsigned int i = 0; i < nr_pending; i++) {
		json_put_object(&pending[i]->body, NULL);
		json_put_bool(&pending[i]->body, "late", true);
		json_put_end(&pending[i]->body);
		server_complete(pending[i]);
	}
	__atomic_store_n(&nr_pending, 0, __ATOMIC_SEQ_CST);
}

static enum server_answer echo(struct server_call *call)
{
	const struct http_request *q = call->request;
	char body[256];

	snprintf(body, sizeof(body), "%.*s", (int)q->body_len, q->body);
	json_put_object(&call->body, NULL);
	json_put_string(&call->body, "method", http_method_name(q->method));
	json_put_string(&call->body, "path", q->path);
	json_put_string(&call->body, "query", q->query);
	json_put_string(&call->body, "body", body);
	json_put_end(&call->body);
	return SERVER_DONE;
}

static void put_long(struct server_call *call, unsigned int bytes)
{
	static char text[1001];

	memset(text, 'x', 1000);
	json_put_array(&call->body, NULL);
	for (unsigned int n = 0; n < bytes; n += 1003)
		json_put_string(&call->body, NULL, text);
	json_put_end(&call->body);
}

static enum server_answer handle(void *opaque, struct server_call *call)
{
	const char *p = call->request->path;

	CHECK_STR(opaque, "mine");
	CHECK(!call->opaque);
	nr_calls++;
	if (!strcmp(p, "/none"))
		return SERVER_DONE;
	if (!strcmp(p, "/last")) {
		call->close = true;
		return SERVER_DONE;
	}
	if (!strcmp(p, "/fail")) {
		json_put_object(&call->body, NULL); /* dropped */
		server_fail(call, 409, "expected \"%s\"", "paused");
	} else if (!strcmp(p, "/allow")) {
		server_fail(call, 405, "GET only");
		call->allow = "GET";
	} else if (!strcmp(p, "/long")) {
		put_long(call, SERVER_REPLY_MAX - 2000);
	} else if (!strcmp(p, "/longer")) {
		put_long(call, SERVER_REPLY_MAX + 2000);
	} else if (!strcmp(p, "/half")) {
		json_put_object(&call->body, NULL);
	} else if (!strcmp(p, "/later")) {
		pending[nr_pending] = call;
		__atomic_store_n(&nr_pending, nr_pending + 1, __ATOMIC_SEQ_CST);
		return SERVER_PENDING;
	} else if (!strcmp(p, "/at-once")) {
		json_put_null(&call->body, NULL);
		server_complete(call);
		return SERVER_PENDING;
	} else if (call->request->method == HTTP_POST) {
		__atomic_fetch_add(&nr_posted, call->request->body_len, __ATOMIC_SEQ_CST);
		call->status = 202;
	} else {
		return echo(call);
	}
	return SERVER_DONE;
}

/* --- the server's side ---------------------------------------------------------------------- */

static void *run(void *opaque)
{
	CHECK_EQ(event_loop_run(&loop), 0);
	return NULL;
}

/* The socket's own mode is what its file begins with, before any chmod(). */
int __real_bind(int fd, const struct sockaddr *addr, socklen_t len);
int __wrap_bind(int fd, const struct sockaddr *addr, socklen_t len);

int __wrap_bind(int fd, const struct sockaddr *addr, socklen_t len)
{
	struct stat st;

	CHECK_EQ(fstat(fd, &st), 0);
	CHECK_EQ(st.st_mode & 07777, 0600);
	return __real_bind(fd, addr, len);
}

/* With a small buffer in the kernel a reply is sent in many parts. */
static bool small_buffers;
int __real_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags);
int __wrap_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags);

int __wrap_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	int size = 4096;

	fd = __real_accept4(fd, addr, len, flags);
	if (fd >= 0 && small_buffers)
		CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
	return fd;
}

static void start_with(unsigned int time_out, unsigned int idle)
{
	struct server_config config = {
		.path = path,
		.clients = CLIENTS,
		.request_ms = time_out,
		.idle_ms = idle,
		.reply_ms = time_out,
		.grace_ms = GRACE,
	};

	nr_calls = nr_posted = nr_pending = 0;
	CHECK_EQ(event_loop_init(&loop), 0);
	CHECK_EQ(server_open(&server, &config, &loop, handle, "mine"), 0);
	release = (struct event){ .fd = eventfd(0, EFD_NONBLOCK), .fn = complete_all };
	CHECK_EQ(event_add(&loop, &release, EPOLLIN), 0);
	pthread_create(&thread, NULL, run, NULL);
}

static void start(unsigned int time_out)
{
	start_with(time_out, time_out);
}

static void stop(void)
{
	event_loop_stop(&loop);
	pthread_join(thread, NULL);
	server_close(server, 100);
	event_del(&loop, &release);
	close(release.fd);
	event_loop_fini(&loop);
	CHECK(access(path, F_OK) < 0 && errno == ENOENT);
}

/* --- the client's side ---------------------------------------------------------------------- */

static int dial(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct timeval limit = { .tv_sec = PATIENCE / 1000 };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(addr.sun_path, path);
	/* A test that would hang fails instead. */
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	CHECK_EQ(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

static bool say_bytes(int fd, const char *text, size_t len)
{
	while (len) {
		ssize_t n = send(fd, text, len, MSG_NOSIGNAL);

		if (n <= 0)
			return false;
		text += n;
		len -= (size_t)n;
	}
	return true;
}

static bool say(int fd, const char *text)
{
	return say_bytes(fd, text, strlen(text));
}

static char heard[SERVER_REPLY_MAX + HTTP_REPLY_MAX];

/* One response, whole, into @heard; its body's place, or NULL at the end of the connection. */
static const char *hear(int fd)
{
	size_t len = 0, want = 0;
	char *end = NULL, *field;

	while (!end || len < want) {
		/* Never into the next response. */
		ssize_t n = recv(fd, heard + len, end ? want - len : 1, 0);

		if (n < 0)
			printf("  recv: %s\n", errno_name(errno));
		if (n <= 0)
			return NULL;
		len += (size_t)n;
		heard[len] = '\0';
		if (end)
			continue;
		end = strstr(heard, "\r\n\r\n");
		if (end) {
			field = strstr(heard, "Content-Length: ");
			want = (size_t)(end + 4 - heard) +
			       (field ? strtoul(field + 16, NULL, 10) : 0);
		}
	}
	return end + 4;
}

static int status(void)
{
	return atoi(heard + strlen("HTTP/1.1 "));
}

/* The server ends the connection, having sent nothing more. */
static bool ended(int fd)
{
	char c;

	return recv(fd, &c, 1, 0) == 0;
}

#define H "Host: x\r\n"

static int ask(int fd, const char *target)
{
	char text[256];

	snprintf(text, sizeof(text), "GET %s HTTP/1.1\r\n" H "\r\n", target);
	if (!say(fd, text) || !hear(fd))
		return 0;
	return status();
}

/* A stranger gets its answer, now. */
static void check_served(void)
{
	int fd = dial();

	CHECK_EQ(ask(fd, "/"), 200);
	close(fd);
}

static int reply_body_is(int fd, const char *target, int want, const char *body)
{
	CHECK_EQ(ask(fd, target), want);
	CHECK_STR(strstr(heard, "\r\n\r\n") + 4, body);
	return fd;
}

/* --- replies -------------------------------------------------------------------------------- */

static void test_replies(void)
{
	int fd;

	start(LONG);
	fd = dial();
	reply_body_is(fd, "/a?b=c", 200,
		      "{\"method\":\"GET\",\"path\":\"/a\",\"query\":\"b=c\",\"body\":\"\"}");
	reply_body_is(fd, "/none", 204, "");
	CHECK(!strstr(heard, "Content-Length"));
	reply_body_is(fd, "/fail", 409, "{\"fault_message\":\"expected \\\"paused\\\"\"}");
	reply_body_is(fd, "/allow", 405, "{\"fault_message\":\"GET only\"}");
	CHECK(strstr(heard, "\r\nAllow: GET\r\n"));
	CHECK_EQ(ask(fd, "/long"), 200);
	CHECK(strlen(heard) > SERVER_REPLY_MAX - 2000);
	reply_body_is(fd, "/longer", 500,
		      "{\"fault_message\":\"the answer is longer than 131072 bytes\"}");
	CHECK_EQ(ask(fd, "/half"), 500);
	reply_body_is(fd, "/at-once", 200, "null");
	CHECK(say(fd, "PUT /b HTTP/1.1\r\n" H "Content-Length: 4\r\n\r\nab\r\n"));
	CHECK_STR(hear(fd), "{\"method\":\"PUT\",\"path\":\"/b\",\"query\":\"\",\"body\":"
			    "\"ab\\u000d\\u000a\"}");
	/* Keep-alive so far; now the ends that are asked for. */
	CHECK_EQ(ask(fd, "/last"), 204);
	CHECK(strstr(heard, "Connection: close"));
	CHECK(ended(fd));
	close(fd);
	fd = dial();
	CHECK(say(fd, "GET /none HTTP/1.0\r\n\r\n"));
	CHECK(hear(fd) && strstr(heard, "Connection: close"));
	CHECK(ended(fd));
	close(fd);
	CHECK_EQ(nr_calls, 11);
	stop();
}

/* Refused with a sentence that can be read, though more comes than was ever taken. */
static void test_refusals(void)
{
	static const struct {
		const char *text;
		int status;
	} cases[] = {
		{ "nonsense\r\n", 400 },
		{ "GET / HTTP/1.1\r\n\r\n", 400 },
		{ "BREW / HTTP/1.1\r\n" H "\r\n", 501 },
		{ "PUT / HTTP/1.1\r\n" H "Content-Length: 1000000\r\n\r\n", 413 },
		{ "PUT / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n", 411 },
		{ "GET / HTTP/3.0\r\n" H "\r\n", 505 },
	};
	char *more = calloc(1, 300000);
	unsigned int taken = 0;

	start(LONG);
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		int fd = dial();

		CHECK(say(fd, cases[i].text));
		/* Read and forgotten, if it comes in time. */
		taken += say_bytes(fd, more, 300000);
		CHECK(hear(fd) && strstr(heard, "{\"fault_message\":\""));
		CHECK_EQ(status(), cases[i].status);
		CHECK(strstr(heard, "Connection: close"));
		close(fd);
	}
	CHECK(taken > 0);
	CHECK_EQ(nr_calls, 0);
	check_served();
	stop();
	free(more);
}

static void test_byte_by_byte(void)
{
	static const char text[] = "PUT /x HTTP/1.1\r\n" H "Content-Length: 2\r\n\r\nab";
	int fd;

	start(LONG);
	fd = dial();
	for (size_t i = 0; i < sizeof(text) - 1; i++)
		CHECK(say_bytes(fd, text + i, 1));
	CHECK(hear(fd) && strstr(heard, "\"body\":\"ab\""));
	close(fd);
	stop();
}

/* Many at once, answered in order and one after the other. */
static void test_pipelining(void)
{
	enum { NR = 200 };
	char text[100], want[32];
	int fd;

	start(LONG);
	fd = dial();
	for (int i = 0; i < NR; i++) {
		snprintf(text, sizeof(text), "GET /%d HTTP/1.1\r\n" H "\r\n", i);
		CHECK(say(fd, text));
	}
	CHECK(say(fd, "x\r\n"));
	for (int i = 0; i < NR; i++) {
		snprintf(want, sizeof(want), "\"path\":\"/%d\"", i);
		CHECK(hear(fd) && strstr(heard, want));
	}
	CHECK(hear(fd));
	CHECK_EQ(status(), 400);
	CHECK(ended(fd));
	CHECK_EQ(nr_calls, NR);
	close(fd);
	stop();
}

static void test_continue(void)
{
	int fd;

	start(LONG);
	fd = dial();
	/* Behind a request that is answered first, which is the harder case. */
	for (int i = 0; i < 2; i++) {
		if (i)
			CHECK(say(fd, "GET /none HTTP/1.1\r\n" H "\r\nPUT / HTTP/1.1\r\n" H
				      "Content-Length: 2\r\nExpect: 100-continue\r\n\r\n"));
		else
			CHECK(say(fd, "PUT / HTTP/1.1\r\n" H
				      "Content-Length: 2\r\nExpect: 100-continue\r\n\r\n"));
		CHECK(!i || (hear(fd) && status() == 204));
		CHECK(hear(fd));
		CHECK_STR(heard, "HTTP/1.1 100 Continue\r\n\r\n");
		CHECK(say(fd, "ok"));
		CHECK(hear(fd) && strstr(heard, "\"body\":\"ok\""));
	}
	close(fd);
	stop();
}

/* --- later ---------------------------------------------------------------------------------- */

static void wait_pending(unsigned int nr)
{
	uint64_t end = now_ms() + PATIENCE;

	while (__atomic_load_n(&nr_pending, __ATOMIC_SEQ_CST) != nr && now_ms() < end)
		sleep_ms(1);
	CHECK_EQ(__atomic_load_n(&nr_pending, __ATOMIC_SEQ_CST), nr);
}

static void test_pending(void)
{
	int a, b, gone;

	start(SHORT);
	a = dial();
	b = dial();
	gone = dial();
	/* The second request waits for the first one's answer. */
	CHECK(say(a, "GET /later HTTP/1.1\r\n" H "\r\nGET /a HTTP/1.1\r\n" H "\r\n"));
	CHECK(say(b, "GET /later HTTP/1.1\r\n" H "Connection: close\r\n\r\n"));
	CHECK(say(gone, "GET /later HTTP/1.1\r\n" H "\r\n"));
	shutdown(b, SHUT_WR);
	wait_pending(3);
	close(gone);
	/* No time-out ends what the handler works on, and others are served meanwhile. */
	for (int i = 0; i < 4; i++) {
		sleep_ms(SHORT / 2);
		check_served();
	}
	CHECK_EQ(eventfd_write(release.fd, 1), 0);
	CHECK_STR(hear(a), "{\"late\":true}");
	CHECK(hear(a) && strstr(heard, "\"path\":\"/a\""));
	CHECK_STR(hear(b), "{\"late\":true}");
	CHECK(ended(b));
	close(a);
	close(b);
	wait_pending(0);
	check_served();
	stop();
}

/* All places are held by calls that take their time: a newcomer waits, and nobody is thrown out. */
static void test_pending_full(void)
{
	int fd[CLIENTS], extra;

	start(LONG);
	for (int i = 0; i < CLIENTS; i++) {
		fd[i] = dial();
		CHECK(say(fd[i], "GET /later HTTP/1.1\r\n" H "\r\n"));
	}
	wait_pending(CLIENTS);
	extra = dial();
	CHECK(say(extra, "GET /extra HTTP/1.1\r\n" H "\r\n"));
	sleep_ms(2 * GRACE);
	CHECK_EQ(nr_calls, CLIENTS);
	CHECK_EQ(eventfd_write(release.fd, 1), 0);
	CHECK(hear(extra) && status() == 200);
	for (int i = 0; i < CLIENTS; i++)
		close(fd[i]);
	close(extra);
	stop();
}

/* Calls that nobody completes any more end with the server, and answers that wait are sent. */
static void test_close_with_clients(void)
{
	int a, b;

	start(LONG);
	a = dial();
	b = dial();
	CHECK(say(a, "GET /later HTTP/1.1\r\n" H "\r\n"));
	wait_pending(1);
	CHECK_EQ(ask(b, "/"), 200);
	event_loop_stop(&loop);
	pthread_join(thread, NULL);
	json_put_null(&pending[0]->body, NULL);
	server_complete(pending[0]);
	server_close(server, 100);
	CHECK_STR(hear(a), "null");
	CHECK(ended(a));
	CHECK(ended(b));
	close(a);
	close(b);
	CHECK(access(path, F_OK) < 0);
	close(release.fd);
	event_loop_fini(&loop);
}

/* --- bad company ---------------------------------------------------------------------------- */

/* @ms passed at least since @since, and not for ever. */
static void check_took(uint64_t since, unsigned int ms)
{
	uint64_t took = now_ms() - since;

	CHECK(took + 2 >= ms);
	CHECK(took < PATIENCE);
}

static void test_silent(void)
{
	uint64_t since;
	int fd;

	start(SHORT);
	since = now_ms();
	fd = dial();
	CHECK(ended(fd));
	check_took(since, SHORT);
	close(fd);
	/* Idle after an answer. */
	fd = dial();
	since = now_ms();
	CHECK_EQ(ask(fd, "/"), 200);
	CHECK(ended(fd));
	check_took(since, SHORT);
	close(fd);
	stop();
}

/* A byte now and then does not put off the end: the time is the whole request's. */
static void test_dribble(void)
{
	static const char *const begin[] = {
		"",
		"GET / HTTP/1.1\r\n" H "X: ",
		"PUT / HTTP/1.1\r\n" H "Content-Length: 60000\r\n\r\n",
	};

	start_with(SHORT, LONG);
	for (int i = 0; i < 3; i++) {
		uint64_t since = now_ms();
		struct pollfd wait = { .fd = dial(), .events = POLLIN };

		CHECK(say(wait.fd, begin[i]));
		while (!poll(&wait, 1, SHORT / 10) && now_ms() - since < PATIENCE)
			say(wait.fd, "a");
		check_took(since, SHORT);
		CHECK(hear(wait.fd) && status() == 408);
		CHECK(strstr(heard, "fault_message"));
		CHECK(ended(wait.fd));
		close(wait.fd);
	}
	/* The same within a connection that had an answer. */
	struct pollfd wait = { .fd = dial(), .events = POLLIN };
	uint64_t since;

	CHECK_EQ(ask(wait.fd, "/"), 200);
	since = now_ms();
	while (!poll(&wait, 1, SHORT / 10) && now_ms() - since < PATIENCE)
		say(wait.fd, "G");
	check_took(since, SHORT);
	CHECK(hear(wait.fd) && status() == 408);
	close(wait.fd);
	CHECK_EQ(nr_calls, 1);
	stop();
}

/* Asks and asks, and never takes an answer: ended, and others are served all the time. */
static void test_no_reader(void)
{
	struct pollfd hup = { .events = 0 };
	size_t got = 0;
	uint64_t since;
	ssize_t n;

	start(SHORT);
	hup.fd = dial();
	since = now_ms();
	for (int i = 0; i < 10; i++)
		CHECK(say(hup.fd, "GET /long HTTP/1.1\r\n" H "\r\n"));
	while (!poll(&hup, 1, 5) && now_ms() - since < PATIENCE)
		check_served();
	CHECK(hup.revents & POLLHUP);
	check_took(since, SHORT);
	/* What fitted into the socket is there, and is not all. */
	while ((n = recv(hup.fd, heard, sizeof(heard), 0)) > 0)
		got += (size_t)n;
	CHECK(got > 0 && got < 10 * (SERVER_REPLY_MAX - 2000));
	close(hup.fd);
	stop();
}

/* A reader that is slow, but not too slow, gets all of it. */
static void test_slow_reader(void)
{
	size_t want = 0, got = 0;
	char c[40000];
	int fd;

	small_buffers = true;
	start(LONG);
	fd = dial();
	for (int i = 0; i < 3; i++) {
		CHECK(say(fd, "GET /long HTTP/1.1\r\n" H "\r\n"));
		sleep_ms(5);
	}
	for (int i = 0; i < 3; i++) {
		CHECK(hear(fd) && status() == 200);
		want = got ? want : strlen(heard);
		got += strlen(heard);
		sleep_ms(10);
	}
	CHECK_EQ(got, 3 * want);
	CHECK(say(fd, "GET /none HTTP/1.1\r\n" H "Connection: close\r\n\r\n"));
	CHECK(hear(fd) && status() == 204);
	CHECK(recv(fd, c, sizeof(c), 0) == 0);
	close(fd);
	stop();
	small_buffers = false;
}

static void *hear_late(void *opaque)
{
	sleep_ms(50);
	return hear(*(int *)opaque) ? heard : NULL;
}

/* What is on its way when the server is closed still arrives, if it is taken. */
static void test_drain(void)
{
	uint64_t end = now_ms() + PATIENCE;
	pthread_t reader;
	void *got;
	int fd;

	small_buffers = true;
	start(LONG);
	fd = dial();
	CHECK(say(fd, "GET /long HTTP/1.1\r\n" H "\r\n"));
	while (!__atomic_load_n(&nr_calls, __ATOMIC_SEQ_CST) && now_ms() < end)
		sleep_ms(1);
	event_loop_stop(&loop);
	pthread_join(thread, NULL);
	pthread_create(&reader, NULL, hear_late, &fd);
	server_close(server, PATIENCE);
	pthread_join(reader, &got);
	CHECK(got && status() == 200);
	CHECK(ended(fd));
	close(fd);
	close(release.fd);
	event_loop_fini(&loop);
	small_buffers = false;
}

static void test_half_closed(void)
{
	int fd;

	start(LONG);
	fd = dial();
	CHECK(say(fd, "GET /a HTTP/1.1\r\n" H "\r\nGET /long HTTP/1.1\r\n" H "\r\n"));
	shutdown(fd, SHUT_WR);
	CHECK(hear(fd) && status() == 200);
	CHECK(hear(fd) && status() == 200);
	CHECK(ended(fd));
	close(fd);
	/* In the middle of a request. */
	fd = dial();
	CHECK(say(fd, "GET /a HTTP/1.1\r\n"));
	shutdown(fd, SHUT_WR);
	CHECK(hear(fd) && status() == 400);
	CHECK(strstr(heard, "in the middle"));
	CHECK(ended(fd));
	close(fd);
	fd = dial();
	shutdown(fd, SHUT_WR);
	CHECK(ended(fd));
	close(fd);
	/* Gone at once, at every stage. SIGPIPE would end this program: it is not ignored here. */
	for (int i = 0; i < 20; i++) {
		close(dial());
		fd = dial();
		say(fd, "GET /long HTTP/1.1\r\n" H "\r\nGET /long HTTP/1.1\r\n" H "\r\nG");
		if (i & 1)
			shutdown(fd, SHUT_RD);
		close(fd);
	}
	check_served();
	stop();
}

/*
 * All places taken by clients that say nothing, or a little: the next one is served long before
 * their time is over.
 */
static void test_full(void)
{
	int fd[20 + CLIENTS], idle;

	start(LONG);
	/* More than there is place for, of three kinds. */
	for (int i = 0; i < 12; i++) {
		fd[i] = dial();
		if (i % 3 == 1)
			say(fd[i], "GET / HT");
		if (i % 3 == 2) {
			for (int n = 0; n < 4; n++)
				say(fd[i], "GET /long HTTP/1.1\r\n" H "\r\n");
		}
	}
	for (int i = 0; i < 3; i++)
		check_served();
	for (int i = 0; i < 12; i++)
		close(fd[i]);
	/* The idle one goes first and at once, not one that is at work. */
	idle = dial();
	CHECK_EQ(ask(idle, "/"), 200);
	for (int i = 0; i < CLIENTS - 1; i++) {
		fd[i] = dial();
		CHECK(say(fd[i], "GET /later HTTP/1.1\r\n" H "\r\n"));
	}
	wait_pending(CLIENTS - 1);
	check_served();
	CHECK(ended(idle));
	close(idle);
	CHECK_EQ(eventfd_write(release.fd, 1), 0);
	for (int i = 0; i < CLIENTS - 1; i++) {
		CHECK_STR(hear(fd[i]), "{\"late\":true}");
		close(fd[i]);
	}
	stop();
}

/* With everybody's grace over, who is idle goes before those who are at work for longer. */
static void test_idle_first(void)
{
	int fd[CLIENTS - 1], idle;

	start(LONG);
	for (int i = 0; i < CLIENTS - 1; i++) {
		fd[i] = dial();
		CHECK(say(fd[i], "GET /x HT"));
	}
	sleep_ms(2 * GRACE);
	idle = dial();
	CHECK_EQ(ask(idle, "/"), 200);
	check_served();
	CHECK(ended(idle));
	close(idle);
	for (int i = 0; i < CLIENTS - 1; i++) {
		CHECK(say(fd[i], "TP/1.1\r\n" H "\r\n"));
		CHECK(hear(fd[i]) && status() == 200);
		close(fd[i]);
	}
	stop();
}

/* One who sends without end takes turns with the others, and the loop sleeps when all is quiet. */
static void *flood(void *opaque)
{
	static const char text[] = "POST / HTTP/1.1\r\n" H "Content-Length: 1\r\n\r\nx";
	struct pollfd wait = { .fd = *(int *)opaque, .events = POLLIN | POLLOUT };
	size_t at = 0, len = sizeof(text) - 1;
	char c[4096];

	while (poll(&wait, 1, PATIENCE) > 0 && !(wait.revents & POLLHUP)) {
		ssize_t n = send(wait.fd, text + at, len - at, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n > 0)
			at = (at + (size_t)n) % len;
		/* What is never read would end it: test_no_reader(). */
		while (recv(wait.fd, c, sizeof(c), MSG_DONTWAIT) > 0)
			;
	}
	return NULL;
}

static unsigned int posted(void)
{
	return __atomic_load_n(&nr_posted, __ATOMIC_SEQ_CST);
}

/* Waits till the flood has got through once more. */
static void wait_posted(void)
{
	unsigned int before = posted();
	uint64_t end = now_ms() + PATIENCE;

	while (posted() == before && now_ms() < end)
		sleep_ms(1);
	CHECK(posted() != before);
}

static void test_flood(void)
{
	pthread_t flooder;
	int fd, other;

	start(LONG);
	other = dial();
	fd = dial();
	pthread_create(&flooder, NULL, flood, &fd);
	for (int i = 0; i < 20; i++) {
		wait_posted();
		for (int n = 0; n < 5; n++)
			CHECK_EQ(ask(other, "/"), 200);
	}
	shutdown(fd, SHUT_RDWR);
	pthread_join(flooder, NULL);
	close(fd);
	CHECK_EQ(ask(other, "/"), 200);
	close(other);
	stop();
}

static uint64_t cpu_ms(pthread_t of)
{
	struct timespec ts;
	clockid_t clock;

	pthread_getcpuclockid(of, &clock);
	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* A hang-up is reported for ever, a full listener too: neither must make the loop spin. */
static void test_no_spin(void)
{
	int fd[CLIENTS], extra;
	uint64_t before;

	start(LONG);
	for (int i = 0; i < CLIENTS; i++) {
		fd[i] = dial();
		CHECK_EQ(ask(fd[i], "/none"), 204);
		CHECK(say(fd[i], "GET /later HTTP/1.1\r\n" H "\r\nmore"));
	}
	wait_pending(CLIENTS);
	extra = dial();
	for (int i = 0; i < CLIENTS; i++)
		close(fd[i]);
	sleep_ms(20);
	before = cpu_ms(thread);
	sleep_ms(500);
	CHECK(cpu_ms(thread) - before < 100);
	CHECK_EQ(eventfd_write(release.fd, 1), 0);
	CHECK_EQ(ask(extra, "/"), 200);
	close(extra);
	stop();
}

/* --- the socket ----------------------------------------------------------------------------- */

static int open_on(const char *where, struct server **s)
{
	struct server_config config = { .path = where };

	return server_open(s, &config, &loop, handle, "mine");
}

static void test_mode(void)
{
	static const mode_t masks[] = { 0, 022, 077, 0177, 0377, 0777 };
	struct stat st;

	CHECK_EQ(event_loop_init(&loop), 0);
	for (size_t i = 0; i < sizeof(masks) / sizeof(*masks); i++) {
		mode_t old = umask(masks[i]);

		CHECK_EQ(open_on(path, &server), 0);
		umask(old);
		CHECK_EQ(stat(path, &st), 0);
		CHECK(S_ISSOCK(st.st_mode));
		CHECK_EQ(st.st_mode & 07777, 0600);
		server_close(server, 0);
	}
	event_loop_fini(&loop);
}

/* A process that made the socket and died. */
static void leave_stale(void)
{
	pid_t child = fork();
	int how;

	if (!child) {
		struct sockaddr_un addr = { .sun_family = AF_UNIX };
		int fd = socket(AF_UNIX, SOCK_STREAM, 0);

		strcpy(addr.sun_path, path);
		_exit(__real_bind(fd, (struct sockaddr *)&addr, sizeof(addr)) || listen(fd, 1));
	}
	CHECK_EQ(waitpid(child, &how, 0), child);
	CHECK_EQ(how, 0);
	CHECK_EQ(access(path, F_OK), 0);
}

static void test_stale(void)
{
	struct server *second = NULL;
	char other[120];
	struct stat st;
	int fd;

	log_set_level(LOG_ERROR - 1);
	CHECK_EQ(event_loop_init(&loop), 0);
	leave_stale();
	CHECK_EQ(open_on(path, &server), 0);
	/* It lives: nobody takes it away. */
	CHECK_EQ(open_on(path, &second), -EADDRINUSE);
	CHECK_EQ(access(path, F_OK), 0);
	/* Somebody put another file in its place: that one is not removed. */
	unlink(path);
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	server_close(server, 0);
	CHECK_EQ(stat(path, &st), 0);
	CHECK(S_ISREG(st.st_mode));
	/* Nor replaced. */
	CHECK_EQ(open_on(path, &server), -EADDRINUSE);
	CHECK_EQ(stat(path, &st), 0);
	CHECK(S_ISREG(st.st_mode));
	close(fd);
	unlink(path);
	/* A link to nothing is not followed. */
	CHECK_EQ(symlink("nowhere", path), 0);
	CHECK_EQ(open_on(path, &server), -EADDRINUSE);
	CHECK_EQ(lstat(path, &st), 0);
	unlink(path);
	snprintf(other, sizeof(other), "%s/no/such/folder", dir);
	CHECK_EQ(open_on(other, &server), -ENOENT);
	CHECK_EQ(open_on("", &server), -ENAMETOOLONG);
	memset(other, 'a', 108);
	other[108] = '\0';
	CHECK_EQ(open_on(other, &server), -ENAMETOOLONG);
	event_loop_fini(&loop);
	log_set_level(LOG_INFO);
}

static void test_too_many_clients(void)
{
	struct server_config config = { .path = path, .clients = SERVER_CLIENTS_MAX + 1 };

	log_set_level(LOG_ERROR - 1);
	CHECK_EQ(event_loop_init(&loop), 0);
	CHECK_EQ(server_open(&server, &config, &loop, handle, "mine"), -EINVAL);
	event_loop_fini(&loop);
	log_set_level(LOG_INFO);
	server_close(NULL, 0);
}

int main(void)
{
	unsigned int fds;

	/* As whoever started this may have left it, and as it must not matter. */
	signal(SIGPIPE, SIG_DFL);
	strcpy(dir, "/tmp/test_api_server.XXXXXX");
	if (!mkdtemp(dir))
		return 1;
	snprintf(path, sizeof(path), "%s/api.sock", dir);
	fds = open_fds();
	RUN(test_replies);
	RUN(test_refusals);
	RUN(test_byte_by_byte);
	RUN(test_pipelining);
	RUN(test_continue);
	RUN(test_pending);
	RUN(test_pending_full);
	RUN(test_close_with_clients);
	RUN(test_silent);
	RUN(test_dribble);
	RUN(test_no_reader);
	RUN(test_slow_reader);
	RUN(test_drain);
	RUN(test_half_closed);
	RUN(test_full);
	RUN(test_idle_first);
	RUN(test_flood);
	RUN(test_no_spin);
	RUN(test_mode);
	RUN(test_stale);
	RUN(test_too_many_clients);
	if (open_fds() != fds) {
		printf("FAIL descriptors left open\n");
		test_failed++;
	}
	rmdir(dir);
	return TEST_RESULT();
}
