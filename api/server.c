/* SPDX-License-Identifier: MIT */
#include "api/server.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include "vm/event.h"
#include "vm/log.h"
#include "vm/unix_socket.h"

#define BACKLOG	     16
#define LINGER_MS    500     /* to take in and forget what a client sent for nothing */
#define LINGER_BYTES 1048576 /* ... and how much of it */
#define RETRY_MS     100     /* after accept4() failed for want of something */
#define NEVER	     UINT64_MAX

/*
 * FREE -> READING -> HANDLING -> WRITING -> READING or LINGERING -> FREE. A client is ended in any
 * state but HANDLING: there its buffers are the handler's.
 */
enum client_state {
	CLIENT_FREE,
	CLIENT_READING,
	CLIENT_HANDLING,
	CLIENT_WRITING,
	CLIENT_LINGERING /* answered for the last time; its last words are read, so that the answer
			    does not get lost in an ECONNRESET */
};

struct client {
	struct event event;
	struct server *server;
	enum client_state state;
	uint64_t since;	   /* ms; when it began what it does */
	uint64_t deadline; /* ms */
	bool served;	   /* has had an answer */
	bool last;	   /* the connection ends with this reply */
	bool interim;	   /* what is being written is 100 Continue */
	bool in_handler;
	bool completed;
	size_t lingered;
	struct http_parser parser;
	struct server_call call;
	size_t head_len;
	size_t body_len;
	size_t sent; /* of both */
	char head[HTTP_REPLY_MAX];
	char *request; /* HTTP_REQUEST_SIZE */
	char *body;    /* SERVER_REPLY_MAX */
};

struct server {
	struct event_loop *loop;
	struct event listen;
	struct event timer;
	struct server_config config;
	char *path;
	struct unix_socket file;
	server_fn *fn;
	void *opaque;
	bool full;	   /* the listener waits for a place */
	uint64_t retry_at; /* ... and not before */
	char *buffers;
	unsigned int nr;
	struct client clients[];
};

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* --- places and deadlines ------------------------------------------------------------------- */

static void client_enter(struct client *c, enum client_state state, uint64_t ms)
{
	c->state = state;
	c->since = now_ms();
	c->deadline = ms == NEVER ? NEVER : c->since + ms;
}

static void client_end(struct client *c)
{
	event_del(c->server->loop, &c->event);
	close(c->event.fd);
	c->event.fd = -1;
	c->state = CLIENT_FREE;
}

static bool client_idle(const struct client *c)
{
	return c->state == CLIENT_LINGERING ||
	       (c->state == CLIENT_READING && c->served && c->parser.state == HTTP_START);
}

/* When its place may be given away; 0 at any time. */
static uint64_t client_evictable(const struct client *c)
{
	if (c->state == CLIENT_HANDLING)
		return NEVER;
	if (c->state == CLIENT_FREE || client_idle(c))
		return 0;
	return c->since + c->server->config.grace_ms;
}

/* A place for one more: a free one, else who is idle, else the slowest. NULL: not yet. */
static struct client *find_place(struct server *s, uint64_t now)
{
	struct client *best = NULL;

	for (unsigned int i = 0; i < s->nr; i++) {
		struct client *c = &s->clients[i];

		if (c->state == CLIENT_FREE)
			return c;
		if (client_evictable(c) > now)
			continue;
		if (!best || client_idle(c) > client_idle(best) ||
		    (client_idle(c) == client_idle(best) && c->since < best->since))
			best = c;
	}
	return best;
}

/* After anything changed: the next deadline, and the listener if it waits for a place. */
static void update(struct server *s)
{
	struct itimerspec when = { 0 };
	uint64_t next = NEVER, now = now_ms();

	if (s->full && now >= s->retry_at && find_place(s, now)) {
		s->full = false;
		event_mod(s->loop, &s->listen, EPOLLIN | EPOLLONESHOT);
	}
	for (unsigned int i = 0; i < s->nr; i++) {
		struct client *c = &s->clients[i];
		uint64_t place = client_evictable(c);

		if (c->state != CLIENT_FREE && c->deadline < next)
			next = c->deadline;
		if (place < s->retry_at)
			place = s->retry_at;
		if (s->full && place < next)
			next = place;
	}
	if (next != NEVER) {
		/* A time in the past is fine, but all zeros would disarm it. */
		when.it_value.tv_sec = (time_t)(next / 1000);
		when.it_value.tv_nsec = (long)(next % 1000) * 1000000 + 1;
	}
	timerfd_settime(s->timer.fd, TFD_TIMER_ABSTIME, &when, NULL);
}

/* --- replies -------------------------------------------------------------------------------- */

static void set_fault(struct server_call *call, int status, const char *text)
{
	call->status = status;
	json_put_start(&call->body, call->body.buf, SERVER_REPLY_MAX);
	json_put_object(&call->body, NULL);
	json_put_string(&call->body, "fault_message", text);
	json_put_end(&call->body);
}

void server_fail(struct server_call *call, int status, const char *fmt, ...)
{
	char text[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	set_fault(call, status, text);
}

static void call_start(struct client *c)
{
	memset(&c->call, 0, sizeof(c->call));
	c->call.request = &c->parser.request;
	json_put_start(&c->call.body, c->body, SERVER_REPLY_MAX);
}

/* From what is in the call; the sending is client_write()'s. */
static void reply_start(struct client *c)
{
	struct server_call *call = &c->call;
	struct http_reply reply;
	int ret = json_put_check(&call->body);

	if (ret == -ENOSPC)
		server_fail(call, 500, "the answer is longer than %d bytes", SERVER_REPLY_MAX);
	else if (ret)
		server_fail(call, 500, "the answer is not whole: this is a mistake in vinit");
	if (!call->status)
		call->status = call->body.len ? 200 : 204;
	c->last |= call->close;
	c->body_len = call->status == 204 ? 0 : call->body.len;
	reply = (struct http_reply){ call->status, c->body_len, call->allow, c->last };
	c->head_len = http_reply_head(c->head, sizeof(c->head), &reply);
	if (!c->head_len) {
		/* An Allow beyond all measure: nothing to say but the end. */
		c->last = true;
		c->body_len = 0;
	}
	c->sent = 0;
	c->interim = false;
	client_enter(c, CLIENT_WRITING, c->server->config.reply_ms);
}

static void refuse(struct client *c, int status, const char *text)
{
	call_start(c);
	set_fault(&c->call, status, text);
	c->last = true;
	reply_start(c);
}

/* What stands ready goes out. 0, -EAGAIN or what ended it. */
static int send_more(struct client *c)
{
	while (c->sent < c->head_len + c->body_len) {
		size_t in_head = c->sent < c->head_len ? c->sent : c->head_len;
		size_t in_body = c->sent - in_head;
		struct iovec iov[2] = {
			{ c->head + in_head, c->head_len - in_head },
			{ c->body + in_body, c->body_len - in_body },
		};
		struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };
		ssize_t n = sendmsg(c->event.fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0)
			c->sent += (size_t)n;
	}
	return 0;
}

/* --- what a client does next ---------------------------------------------------------------- */

/*
 * Whether there is more to do now, or the next event has to come first: one event is one read and
 * one request at most, so that who sends fast takes no more turns than others.
 */
enum step { STEP_GO, STEP_WAIT };

static enum step client_request(struct client *c)
{
	struct server *s = c->server;
	enum server_answer answer;

	call_start(c);
	c->last = c->parser.request.close;
	c->completed = false;
	client_enter(c, CLIENT_HANDLING, NEVER);
	c->in_handler = true;
	answer = s->fn(s->opaque, &c->call);
	c->in_handler = false;
	if (answer == SERVER_PENDING && !c->completed)
		return STEP_WAIT;
	reply_start(c);
	return STEP_GO;
}

/* After bytes came, or a request was answered. */
static enum step client_parsed(struct client *c)
{
	switch (c->parser.state) {
	case HTTP_DONE:
		return client_request(c);
	case HTTP_BAD:
		refuse(c, c->parser.status, c->parser.error);
		return STEP_GO;
	default:
		break;
	}
	if (!http_continue(&c->parser))
		return STEP_WAIT;
	c->head_len = strlen(HTTP_CONTINUE);
	memcpy(c->head, HTTP_CONTINUE, c->head_len);
	c->body_len = 0;
	c->sent = 0;
	c->interim = true;
	c->state = CLIENT_WRITING; /* within the request's own time */
	return STEP_GO;
}

static enum step client_read(struct client *c)
{
	bool fresh = c->parser.state == HTTP_START;
	size_t room;
	char *to = http_space(&c->parser, &room);
	ssize_t n;

	do
		n = recv(c->event.fd, to, room, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return STEP_WAIT;
	if (n > 0) {
		http_more(&c->parser, (size_t)n);
		/* The time of the first one began with the connection. */
		if (fresh && c->served)
			client_enter(c, CLIENT_READING, c->server->config.request_ms);
		return client_parsed(c);
	}
	/* The end; a client that only half closed still hears why its request was none. */
	if (n < 0 || fresh) {
		client_end(c);
		return STEP_WAIT;
	}
	refuse(c, 400, "the connection ended in the middle of the request");
	return STEP_GO;
}

/* A whole request, or an error, that waits for its turn without any byte to come. */
static bool client_waits(const struct client *c)
{
	return c->state == CLIENT_READING &&
	       (c->parser.state == HTTP_DONE || c->parser.state == HTTP_BAD);
}

static enum step client_write(struct client *c)
{
	const struct server_config *config = &c->server->config;
	int ret = send_more(c);

	if (ret == -EAGAIN)
		return STEP_WAIT;
	if (ret) {
		client_end(c);
		return STEP_WAIT;
	}
	c->state = CLIENT_READING;
	if (c->interim)
		return STEP_WAIT;
	c->served = true;
	if (c->last) {
		shutdown(c->event.fd, SHUT_WR);
		client_enter(c, CLIENT_LINGERING, LINGER_MS);
		return STEP_WAIT;
	}
	http_next(&c->parser);
	client_enter(c, CLIENT_READING,
		     c->parser.state == HTTP_START ? config->idle_ms : config->request_ms);
	/* A next one that is here already comes after everybody else's: client_arm(). */
	return client_waits(c) ? STEP_WAIT : client_parsed(c);
}

static enum step client_linger(struct client *c)
{
	ssize_t n = recv(c->event.fd, c->request, HTTP_REQUEST_SIZE, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return STEP_WAIT;
	if (n > 0) {
		c->lingered += (size_t)n;
		if (c->lingered < LINGER_BYTES)
			return STEP_WAIT;
	}
	client_end(c);
	return STEP_WAIT;
}

static void client_run(struct client *c)
{
	enum step step;

	do {
		switch (c->state) {
		case CLIENT_READING:
			step = client_waits(c) ? client_parsed(c) : client_read(c);
			break;
		case CLIENT_WRITING:
			step = client_write(c);
			break;
		case CLIENT_LINGERING:
			step = client_linger(c);
			break;
		default:
			return;
		}
	} while (step == STEP_GO);
}

/* One event at a time: nothing can spin, whatever a hang-up would report for ever. */
static void client_arm(struct client *c)
{
	uint32_t events = EPOLLIN;

	/* A socket that takes no reply now has no request's turn either. */
	if (c->state == CLIENT_WRITING || client_waits(c))
		events = EPOLLOUT;
	if (c->state != CLIENT_FREE && c->state != CLIENT_HANDLING)
		event_mod(c->server->loop, &c->event, events | EPOLLONESHOT);
}

/* What was reported is not looked at: it may be about a client who had this place before. */
static void client_fn(struct event *ev, uint32_t events)
{
	struct client *c = ev->opaque;

	client_run(c);
	client_arm(c);
	update(c->server);
}

void server_complete(struct server_call *call)
{
	struct client *c = (struct client *)((char *)call - offsetof(struct client, call));

	if (c->state != CLIENT_HANDLING || c->completed)
		return;
	c->completed = true;
	if (c->in_handler)
		return;
	/* Sent, but nothing read: no handler runs inside whoever calls this. */
	reply_start(c);
	while (c->state == CLIENT_WRITING && client_write(c) == STEP_GO)
		;
	client_arm(c);
	update(c->server);
}

/* --- time ----------------------------------------------------------------------------------- */

static void client_expired(struct client *c)
{
	uint64_t deadline = c->deadline;

	/* The loop may have been late itself: what came in time counts. */
	client_run(c);
	if (c->state == CLIENT_FREE || c->deadline != deadline) {
		client_arm(c);
		return;
	}
	if (c->state == CLIENT_READING && c->parser.state != HTTP_START) {
		refuse(c, 408, "the request took too long to come");
		client_run(c);
		client_arm(c);
		return;
	}
	client_end(c);
}

static void timer_fn(struct event *ev, uint32_t events)
{
	struct server *s = ev->opaque;
	uint64_t count, now = now_ms();

	if (read(ev->fd, &count, sizeof(count)) < 0) {
		/* EAGAIN: set anew meanwhile */
	}
	for (unsigned int i = 0; i < s->nr; i++) {
		struct client *c = &s->clients[i];

		if (c->state != CLIENT_FREE && c->deadline <= now)
			client_expired(c);
	}
	update(s);
}

/* --- connections ---------------------------------------------------------------------------- */

static void client_begin(struct client *c, int fd)
{
	struct server *s = c->server;
	int ret;

	c->event = (struct event){ .fd = fd, .fn = client_fn, .opaque = c };
	c->served = false;
	c->last = false;
	c->interim = false;
	c->lingered = 0;
	http_start(&c->parser, c->request);
	client_enter(c, CLIENT_READING, s->config.request_ms);
	ret = event_add(s->loop, &c->event, EPOLLIN | EPOLLONESHOT);
	if (ret) {
		log_limited(LOG_ERROR, "api socket %s: epoll_ctl: %s", s->path, errno_name(ret));
		client_end(c);
		return;
	}
	/* The request is often here with the connection. */
	client_run(c);
	client_arm(c);
}

static void listen_fn(struct event *ev, uint32_t events)
{
	struct server *s = ev->opaque;
	struct client *c = find_place(s, now_ms());
	int fd;

	if (!c) {
		s->full = true;
		update(s);
		return;
	}
	fd = accept4(ev->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd >= 0) {
		if (c->state != CLIENT_FREE)
			client_end(c);
		client_begin(c, fd);
	} else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
		log_limited(LOG_ERROR, "api socket %s: accept4: %s: check ulimit -n", s->path,
			    errno_name(errno));
		s->full = true;
		s->retry_at = now_ms() + RETRY_MS;
	}
	if (!s->full)
		event_mod(s->loop, &s->listen, EPOLLIN | EPOLLONESHOT);
	update(s);
}

/* --- opening -------------------------------------------------------------------------------- */

static int open_socket(struct server *s)
{
	int ret = unix_socket_listen(&s->file, "api socket ", s->path, BACKLOG);

	if (ret < 0)
		return ret;
	s->listen.fd = ret;
	ret = event_add(s->loop, &s->listen, EPOLLIN | EPOLLONESHOT);
	if (ret)
		log_err("api socket %s: epoll_ctl: %s", s->path, errno_name(ret));
	return ret;
}

static int open_timer(struct server *s)
{
	int ret;

	s->timer.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	ret = s->timer.fd < 0 ? -errno : event_add(s->loop, &s->timer, EPOLLIN);
	if (ret)
		log_err("api socket %s: timerfd: %s: check ulimit -n", s->path, errno_name(ret));
	return ret;
}

static void set_config(struct server *s, const struct server_config *config)
{
	struct server_config *c = &s->config;

	*c = *config;
	if (!c->request_ms)
		c->request_ms = SERVER_REQUEST_MS;
	if (!c->idle_ms)
		c->idle_ms = SERVER_IDLE_MS;
	if (!c->reply_ms)
		c->reply_ms = SERVER_REPLY_MS;
	if (!c->grace_ms)
		c->grace_ms = SERVER_GRACE_MS;
}

int server_open(struct server **server, const struct server_config *config, struct event_loop *loop,
		server_fn *fn, void *opaque)
{
	unsigned int nr = config->clients ? config->clients : SERVER_CLIENTS;
	size_t each = HTTP_REQUEST_SIZE + SERVER_REPLY_MAX;
	struct server *s;
	int ret = -ENOMEM;

	if (nr > SERVER_CLIENTS_MAX) {
		log_err("api socket %s: EINVAL: at most %d clients", config->path,
			SERVER_CLIENTS_MAX);
		return -EINVAL;
	}
	s = calloc(1, sizeof(*s) + nr * sizeof(struct client));
	if (!s)
		goto no_memory;
	s->loop = loop;
	s->listen = (struct event){ .fd = -1, .fn = listen_fn, .opaque = s };
	s->timer = (struct event){ .fd = -1, .fn = timer_fn, .opaque = s };
	s->fn = fn;
	s->opaque = opaque;
	s->nr = nr;
	set_config(s, config);
	s->path = strdup(config->path);
	/* Zeroed pages of the kernel's: a place that was never used costs no memory. */
	s->buffers = calloc(nr, each);
	if (!s->path || !s->buffers)
		goto no_memory;
	s->config.path = s->path;
	for (unsigned int i = 0; i < nr; i++) {
		s->clients[i].server = s;
		s->clients[i].event.fd = -1;
		s->clients[i].request = s->buffers + i * each;
		s->clients[i].body = s->buffers + i * each + HTTP_REQUEST_SIZE;
	}
	ret = open_timer(s);
	if (!ret)
		ret = open_socket(s);
	if (ret)
		goto err;
	*server = s;
	return 0;

no_memory:
	log_err("api socket %s: ENOMEM", config->path);
err:
	if (s)
		server_close(s, 0);
	return ret;
}

/* --- closing -------------------------------------------------------------------------------- */

/* Whoever can take the rest of its reply by @end does. */
static void client_drain(struct client *c, uint64_t end)
{
	while (c->state == CLIENT_WRITING && send_more(c) == -EAGAIN) {
		struct pollfd wait = { .fd = c->event.fd, .events = POLLOUT };
		uint64_t now = now_ms();

		if (now >= end || poll(&wait, 1, (int)(end - now)) == 0)
			return;
	}
}

void server_close(struct server *s, unsigned int drain_ms)
{
	uint64_t end = now_ms() + drain_ms;

	if (!s)
		return;
	for (unsigned int i = 0; i < s->nr; i++) {
		struct client *c = &s->clients[i];

		client_drain(c, end);
		if (c->state != CLIENT_FREE)
			client_end(c);
	}
	event_del(s->loop, &s->listen);
	event_del(s->loop, &s->timer);
	unix_socket_remove(&s->file);
	if (s->listen.fd >= 0)
		close(s->listen.fd);
	if (s->timer.fd >= 0)
		close(s->timer.fd);
	free(s->buffers);
	free(s->path);
	free(s);
}
