/* SPDX-License-Identifier: MIT */
/*
 * HTTP/1.1 for a server of small requests (RFC 9110, RFC 9112): a request parser over one buffer,
 * and the head of a response.
 *
 * The parser is stricter than it has to be wherever two readers could disagree about where a
 * request ends (RFC 9112, section 11.2): bare LF, folded lines, blanks before a colon, two
 * Content-Lengths or an odd one are all refused. What it says depends on the bytes alone, never on
 * the pieces they come in. After an error the connection is over: nobody knows where the next
 * request would begin.
 */
#ifndef API_HTTP_H
#define API_HTTP_H

#include <stdbool.h>
#include <stddef.h>

#define HTTP_LINE_MAX	  2048	/* the request line, without its CR LF; beyond: 414 */
#define HTTP_HEAD_MAX	  8192	/* everything before the body; beyond: 431 */
#define HTTP_FIELDS_MAX	  64	/* beyond: 431 */
#define HTTP_BODY_MAX	  65536 /* beyond: 413 */
#define HTTP_REQUEST_SIZE (HTTP_HEAD_MAX + HTTP_BODY_MAX)
#define HTTP_REPLY_MAX	  512 /* the head of a response, with its NUL */

enum http_method { HTTP_GET, HTTP_PUT, HTTP_PATCH, HTTP_POST, HTTP_DELETE };

/* Points into the parser's buffer: good until http_next(). */
struct http_request {
	enum http_method method;
	const char *path;  /* begins with "/"; as sent: nothing of it is decoded */
	const char *query; /* what came after "?", "" for nothing */
	const char *body;  /* not terminated */
	size_t body_len;
	bool close; /* the client wants, or its version means, that the connection ends */
};

enum http_state {
	HTTP_START, /* between two requests: nothing came yet */
	HTTP_HEAD,
	HTTP_BODY,
	HTTP_DONE,
	HTTP_BAD
};

struct http_parser {
	struct http_request request;
	enum http_state state;
	int status;	   /* HTTP_BAD: what to answer, 400 to 505 */
	const char *error; /* HTTP_BAD: a sentence, a constant */

	/* The rest is the parser's own. */
	char *buf; /* HTTP_REQUEST_SIZE bytes */
	size_t len;
	size_t at;   /* looked at up to here */
	size_t line; /* where the current line begins */
	size_t body_at;
	size_t body_len;
	unsigned int fields;
	unsigned int minor; /* HTTP/1.minor */
	unsigned int blank; /* empty lines before the request line */
	bool cr;
	bool request_line;
	bool host;
	bool length;
	bool coding;
	bool chunked;
	bool expect;
};

/* @buf: HTTP_REQUEST_SIZE bytes, the caller's, for as long as the parser lives. */
void http_start(struct http_parser *p, char *buf);

/* Where the next bytes go, and how many fit: never 0 while the state is START, HEAD or BODY. */
char *http_space(struct http_parser *p, size_t *room);

/* @n bytes were put there. Only in START, HEAD and BODY. */
enum http_state http_more(struct http_parser *p, size_t n);

/*
 * HTTP_DONE only: forgets the request and looks at what came after it (pipelining), which may be
 * a whole request again.
 */
enum http_state http_next(struct http_parser *p);

/* True once, when the client waits for "100 Continue" before it sends its body. */
bool http_continue(struct http_parser *p);
#define HTTP_CONTINUE "HTTP/1.1 100 Continue\r\n\r\n"

struct http_reply {
	int status;
	size_t body_len;   /* of JSON; must be 0 with a status of 204 */
	const char *allow; /* for 405: the methods, "GET, PUT"; else NULL */
	bool close;
};

/*
 * Writes the head of a response. Returns its length, at most HTTP_REPLY_MAX - 1, or 0 if @size
 * bytes are too few.
 */
size_t http_reply_head(char *buf, size_t size, const struct http_reply *reply);

/* "GET" and so on. */
const char *http_method_name(enum http_method method);

#endif
