/* SPDX-License-Identifier: MIT */
/*
 * The control socket: an HTTP server on a Unix stream socket, on the event loop's thread.
 *
 * One handler turns a request into a reply, at once or later. Every client has its own buffers,
 * made by server_open(), and its own deadlines, so that one who is slow, silent or malicious takes
 * its own place and nothing else. Who answers whom: one request at a time a client, in order.
 */
#ifndef API_SERVER_H
#define API_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include "api/http.h"
#include "api/json.h"

struct event_loop;
struct server;

#define SERVER_CLIENTS	   8
#define SERVER_CLIENTS_MAX 64
#define SERVER_REPLY_MAX   131072 /* bytes of a reply's body; what is longer comes in pages */
#define SERVER_REQUEST_MS  5000
#define SERVER_IDLE_MS	   30000
#define SERVER_REPLY_MS	   10000
#define SERVER_GRACE_MS	   1000

/* Zeros are the defaults above. */
struct server_config {
	const char *path;
	unsigned int clients;	 /* at the same time */
	unsigned int request_ms; /* from a connection, or a request's first byte, to its last */
	unsigned int idle_ms;	 /* between two requests of a connection */
	unsigned int reply_ms;	 /* for the client to take a whole reply */
	/*
	 * With all places taken, a newcomer gets the place of who is idle between two requests, or
	 * else of who has been sending or taking for this long.
	 */
	unsigned int grace_ms;
};

/*
 * One request and its reply. The handler sets @status, puts a body into @body or leaves it empty,
 * or calls server_fail().
 */
struct server_call {
	const struct http_request *request;
	struct json_writer body; /* of SERVER_REPLY_MAX bytes */
	int status;		 /* 0: 200 with a body, 204 without */
	const char *allow;	 /* with 405, a constant: "GET, PUT" */
	bool close;		 /* end the connection after the reply */
	void *opaque;		 /* the handler's own; NULL at first */
};

enum server_answer {
	SERVER_DONE,
	SERVER_PENDING /* server_complete() comes later; until then the call is the handler's */
};

/* Event-loop thread. Must not block. */
typedef enum server_answer server_fn(void *opaque, struct server_call *call);

/*
 * Makes the socket, mode 0600 whatever the umask. A socket file that a dead process left is
 * replaced; one where somebody listens, and any other file, is not: -EADDRINUSE. 0 or -errno; logs.
 * Before the loop runs, or on its thread.
 */
int server_open(struct server **server, const struct server_config *config, struct event_loop *loop,
		server_fn *fn, void *opaque);

/*
 * Gives clients up to @drain_ms to take what was answered, then ends all connections and removes
 * the socket. Calls that are still pending are gone: complete them before, or never. While the loop
 * does not run: it may hold events of clients in its hands. NULL is fine.
 */
void server_close(struct server *server, unsigned int drain_ms);

/*
 * Sends the reply of a call that was pending. Event-loop thread, exactly once; the handler itself
 * may do it before it returns SERVER_PENDING. The client may be gone: then nothing happens.
 */
void server_complete(struct server_call *call);

/* Drops what was put into the body for {"fault_message": "..."} with @status, 400 or above. */
void server_fail(struct server_call *call, int status, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#endif
