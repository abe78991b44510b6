/* SPDX-License-Identifier: MIT */
/*
 * Requests to the control API, in front of a fake machine: the state's digit and the method's
 * letter, the path to the end of the line, and the body. Whatever comes, there is one whole reply,
 * and a refusal has a sentence and has changed nothing of the configuration.
 */
#include <fcntl.h>
#include <stdint.h>
#include "api/server.h"
#include "cmd/control.h"
#include "tests/unit/fake_machine.h"
#include "vm/log.h"

/* --- a server of one client ----------------------------------------------------------------- */

struct server {
	char unused;
};

static struct server server;
static server_fn *handler;
static void *handler_opaque;
static bool completed;

int server_open(struct server **s, const struct server_config *config, struct event_loop *loop,
		server_fn *fn, void *opaque)
{
	*s = &server;
	handler = fn;
	handler_opaque = opaque;
	return 0;
}

void server_close(struct server *s, unsigned int drain_ms)
{
}

void server_complete(struct server_call *call)
{
	if (completed)
		abort();
	completed = true;
}

void server_fail(struct server_call *call, int status, const char *fmt, ...)
{
	char text[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (!*text || status < 400)
		abort();
	call->status = status;
	json_put_start(&call->body, call->body.buf, SERVER_REPLY_MAX);
	json_put_string(&call->body, NULL, text);
}

/* No file of this machine becomes a log. */
int __wrap_open(const char *path, int flags, ...);

int __wrap_open(const char *path, int flags, ...)
{
	errno = ENOENT;
	return -1;
}

/* --- one request ---------------------------------------------------------------------------- */

/* The methods' letters: GET, PUT, PATCH (A), POST (O), DELETE. */
static const char letters[] = "GPAOD";

static void finish(struct server_call *call, enum server_answer answer, uint8_t how)
{
	if (answer == SERVER_PENDING && !completed) {
		if (fake.ended)
			fake.ended(fake.ended_opaque, 0, "powered off");
		else
			fake.done(fake.done_opaque, how & 1 ? -EIO : 0, how & 1 ? "it failed" : NULL);
	}
	if (completed != (answer == SERVER_PENDING))
		abort();
	if (json_put_check(&call->body))
		abort();
	if (call->status >= 400 ? !call->body.len : call->status != 0)
		abort();
}

static void request(char *text, size_t size)
{
	static char reply[SERVER_REPLY_MAX];
	char *end = memchr(text, '\n', size);
	const char *method = size > 2 ? strchr(letters, text[1]) : NULL;
	struct http_request request = { .query = "" };
	struct server_call call = { .request = &request };
	struct guest_config was;
	enum server_answer answer;

	if (!end || end < text + 3 || text[2] != '/' || !method || !*method || text[0] < '0')
		return;
	*end++ = '\0';
	if (strlen(text) != (size_t)(end - 1 - text))
		return;
	fake.state = (enum state_id)((text[0] - '0') % STATE_NR);
	fake.later = text[0] & 8;
	fake.refuse = text[0] & 16 ? -EBUSY : 0;
	fake.nr_runs = 5000;
	fake.ended = NULL;
	request.method = (enum http_method)(method - letters);
	request.path = text + 2;
	request.body = end;
	request.body_len = size - (size_t)(end - text);
	json_put_start(&call.body, reply, sizeof(reply));
	completed = false;
	was = fake.config;
	answer = handler(handler_opaque, &call);
	finish(&call, answer, (uint8_t)text[0] >> 6);
	if (call.status >= 400 && memcmp(&was, &fake.config, sizeof(was)))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct control *control;

	log_set_fd(-1, false);
	fake_init();
	if (control_open(&control, &fake, "unused", NULL))
		abort();
	/* Several, between zeros: what one has set, the next one meets. */
	for (size_t at = 0; at < size;) {
		const uint8_t *zero = memchr(data + at, 0, size - at);
		size_t len = zero ? (size_t)(zero - data) - at : size - at;
		char *one = malloc(len + 1); /* of its own, so that reading on is noticed */

		if (!one)
			abort();
		memcpy(one, data + at, len);
		request(one, len);
		free(one);
		at += len + 1;
	}
	control_close(control);
	config_free(&fake.config);
	return 0;
}
