/* SPDX-License-Identifier: MIT */
#include "api/http.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* A limit as the sentence about it says it. */
#define DIGITS_(n) #n
#define DIGITS(n)  DIGITS_(n)

/*
 * The class of every byte: the grammars of RFC 9110, section 5.6.2 (token) and RFC 3986, section 3
 * (path and query), without tables that have to be believed.
 */
static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_alnum(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_one_of(char c, const char *set)
{
	return c && strchr(set, c);
}

static bool is_token(char c)
{
	return is_alnum(c) || is_one_of(c, "!#$%&'*+-.^_`|~");
}

static bool is_target(char c)
{
	return is_alnum(c) || is_one_of(c, "-._~!$&'()*+,;=:@%/?");
}

static bool is_hex(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

/* Field values may hold anything but control characters (RFC 9110, section 5.5). */
static bool is_text(char c)
{
	return is_blank(c) || ((unsigned char)c > 0x20 && c != 0x7f);
}

static enum http_state bad(struct http_parser *p, int status, const char *error)
{
	p->status = status;
	p->error = error;
	return p->state = HTTP_BAD;
}

/* --- the request line ----------------------------------------------------------------------- */

static const char method_names[][7] = {
	[HTTP_GET] = "GET",   [HTTP_PUT] = "PUT",	[HTTP_PATCH] = "PATCH",
	[HTTP_POST] = "POST", [HTTP_DELETE] = "DELETE",
};

const char *http_method_name(enum http_method method)
{
	return method_names[method];
}

static enum http_state read_method(struct http_parser *p, const char *word)
{
	if (!*word)
		return bad(p, 400, "the request line begins with a blank: expected a method");
	for (const char *c = word; *c; c++) {
		if (!is_token(*c))
			return bad(p, 400, "the method has a character that no method has");
	}
	for (size_t i = 0; i < sizeof(method_names) / sizeof(*method_names); i++) {
		if (!strcmp(word, method_names[i])) {
			p->request.method = i;
			return p->state;
		}
	}
	return bad(p, 501, "the method is none of GET, PUT, PATCH, POST and DELETE");
}

/* Both forms that a server has to take (RFC 9112, section 3.2); of the second only the path. */
static enum http_state read_target(struct http_parser *p, char *word)
{
	char *query, *path = word;

	for (const char *c = word; *c; c++) {
		if (!is_target(*c))
			return bad(p, 400,
				   "the target has a character that must be written as %XX, or a "
				   "fragment");
		if (*c == '%' && !(is_hex(c[1]) && is_hex(c[2])))
			return bad(p, 400, "the target has a % without two hexadecimal digits");
	}
	query = strchr(word, '?');
	if (query)
		*query++ = '\0';
	if (!strncasecmp(word, "http://", 7)) {
		if (!word[7] || word[7] == '/')
			return bad(p, 400, "the target names no host after http://");
		path = strchr(word + 7, '/');
	} else if (*word != '/') {
		return bad(p, 400, "the target does not begin with \"/\" or \"http://\"");
	}
	p->request.path = path ? path : "/";
	p->request.query = query ? query : "";
	return p->state;
}

static enum http_state read_version(struct http_parser *p, const char *word)
{
	if (strncmp(word, "HTTP/", 5) || !is_digit(word[5]) || word[6] != '.' ||
	    !is_digit(word[7]) || word[8])
		return bad(p, 400,
			   "the request line does not end with a version: expected HTTP/1.1");
	/* A higher minor version is a client that can do more, and says it as HTTP/1.1 does. */
	if (word[5] != '1')
		return bad(p, 505, "the version is not HTTP/1.1 or HTTP/1.0");
	p->minor = (unsigned int)(word[7] - '0');
	p->request.close = !p->minor;
	return p->state;
}

static enum http_state read_request_line(struct http_parser *p, char *line)
{
	char *target = strchr(line, ' ');
	char *version = target ? strchr(target + 1, ' ') : NULL;

	if (!version)
		return bad(
			p, 400,
			"the request line is not a method, a target and a version with one blank "
			"between each");
	*target++ = '\0';
	*version++ = '\0';
	/* The version first: what an unknown one means by its method and target is unknown. */
	if (read_version(p, version) == HTTP_BAD || read_method(p, line) == HTTP_BAD)
		return p->state;
	return read_target(p, target);
}

/* --- header fields -------------------------------------------------------------------------- */

/* Is @word among the elements of a comma-separated list, whatever its case? */
static bool list_has(const char *list, const char *word)
{
	size_t len = strlen(word);

	while (*list) {
		const char *start = list + strspn(list, " \t,");
		size_t n = strcspn(start, " \t,");

		if (n == len && !strncasecmp(start, word, len))
			return true;
		list = start + n;
	}
	return false;
}

static enum http_state read_length(struct http_parser *p, const char *value)
{
	if (p->length)
		return bad(p, 400, "Content-Length comes twice");
	p->length = true;
	/* A sign, a list, a leading zero: forms that others may read in another way. */
	if (!*value || value[strspn(value, "0123456789")] || (*value == '0' && value[1]))
		return bad(p, 400, "Content-Length is not a plain decimal number");
	p->body_len = 0;
	for (; *value; value++) {
		p->body_len = p->body_len * 10 + (size_t)(*value - '0');
		if (p->body_len > HTTP_BODY_MAX)
			return bad(p, 413,
				   "the body is larger than " DIGITS(HTTP_BODY_MAX) " bytes");
	}
	return p->state;
}

static enum http_state read_host(struct http_parser *p, const char *value)
{
	if (p->host)
		return bad(p, 400, "Host comes twice");
	p->host = true;
	/* A name or address and a port, or nothing (RFC 9110, section 7.2). */
	for (; *value; value++) {
		if (!is_alnum(*value) && !is_one_of(*value, "-._~!$&'()*+;=:[]%"))
			return bad(p, 400, "Host is not a name");
	}
	return p->state;
}

static enum http_state read_field(struct http_parser *p, const char *name, const char *value)
{
	if (!strcasecmp(name, "Content-Length"))
		return read_length(p, value);
	if (!strcasecmp(name, "Host"))
		return read_host(p, value);
	if (!strcasecmp(name, "Transfer-Encoding")) {
		/* Whatever it is, it is refused when the whole head is known. */
		p->chunked = !p->coding && !strcasecmp(value, "chunked");
		p->coding = true;
	} else if (!strcasecmp(name, "Connection")) {
		if (list_has(value, "close"))
			p->request.close = true;
	} else if (!strcasecmp(name, "Expect")) {
		if (strcasecmp(value, "100-continue"))
			return bad(p, 417, "Expect is not 100-continue");
		p->expect = true;
	}
	return p->state;
}

static enum http_state read_field_line(struct http_parser *p, char *line, char *end)
{
	char *colon = strchr(line, ':'), *value;

	if (++p->fields > HTTP_FIELDS_MAX)
		return bad(p, 431, "there are more than " DIGITS(HTTP_FIELDS_MAX) " header fields");
	if (is_blank(*line))
		return bad(p, 400, "a header line begins with a blank: folded lines are refused");
	if (!colon || colon == line)
		return bad(p, 400, "a header line is not a name, a colon and a value");
	for (char *c = line; c < colon; c++) {
		if (!is_token(*c))
			return bad(p, 400,
				   "a header's name has a blank or a character that no name has");
	}
	for (value = colon + 1; is_blank(*value); value++)
		;
	while (end > value && is_blank(end[-1]))
		end--;
	*colon = '\0';
	*end = '\0';
	return read_field(p, line, value);
}

static enum http_state end_head(struct http_parser *p)
{
	/* The smuggler's pair, and the old version that knows no codings (RFC 9112, 6.1). */
	if (p->coding && (p->length || !p->minor))
		return bad(p, 400,
			   "Transfer-Encoding beside Content-Length, or in HTTP/1.0: where the "
			   "body ends is unclear");
	if (p->chunked)
		return bad(p, 411, "chunked bodies are not taken: send Content-Length");
	if (p->coding)
		return bad(p, 501, "Transfer-Encoding is not known here: send Content-Length");
	if (!p->host && p->minor)
		return bad(p, 400, "Host is missing");
	/* HTTP/1.0 knows no 100 (RFC 9110, section 10.1.1). */
	p->expect = p->expect && p->minor && p->body_len;
	p->body_at = p->at;
	return p->state = HTTP_BODY;
}

/* --- bytes ---------------------------------------------------------------------------------- */

static enum http_state end_line(struct http_parser *p)
{
	char *line = p->buf + p->line, *end = p->buf + p->at - 2;

	*end = '\0';
	p->line = p->at;
	p->cr = false;
	if (!p->request_line) {
		if (line == end) {
			/* One is a relic of old clients (RFC 9112, section 2.2), not a flood. */
			if (p->blank++)
				return bad(p, 400, "empty lines come before the request line");
			return p->state;
		}
		p->request_line = true;
		return read_request_line(p, line);
	}
	return line == end ? end_head(p) : read_field_line(p, line, end);
}

static enum http_state head_byte(struct http_parser *p)
{
	char c = p->buf[p->at++];

	if (p->cr && c != '\n')
		return bad(p, 400, "a CR is not followed by LF");
	if (c == '\n') {
		if (!p->cr)
			return bad(p, 400, "a line ends with LF alone: CR LF is wanted");
		return end_line(p);
	}
	if (p->at >= HTTP_HEAD_MAX)
		return bad(
			p, 431,
			"the head of the request is larger than " DIGITS(HTTP_HEAD_MAX) " bytes");
	if (c == '\r')
		p->cr = true;
	else if (!is_text(c))
		return bad(p, 400, "the head of the request has a control character");
	else if (!p->request_line && p->at - p->line > HTTP_LINE_MAX)
		return bad(p, 414,
			   "the request line is longer than " DIGITS(HTTP_LINE_MAX) " bytes");
	return p->state;
}

static enum http_state look(struct http_parser *p)
{
	while (p->state <= HTTP_HEAD && p->at < p->len) {
		p->state = HTTP_HEAD;
		head_byte(p);
	}
	if (p->state == HTTP_BODY && p->len - p->body_at >= p->body_len) {
		p->request.body = p->buf + p->body_at;
		p->request.body_len = p->body_len;
		p->state = HTTP_DONE;
	}
	return p->state;
}

void http_start(struct http_parser *p, char *buf)
{
	memset(p, 0, sizeof(*p));
	p->buf = buf;
}

char *http_space(struct http_parser *p, size_t *room)
{
	*room = HTTP_REQUEST_SIZE - p->len;
	return p->buf + p->len;
}

enum http_state http_more(struct http_parser *p, size_t n)
{
	p->len += n;
	return look(p);
}

enum http_state http_next(struct http_parser *p)
{
	size_t end = p->body_at + p->body_len, rest = p->len - end;
	char *buf = p->buf;

	memmove(buf, buf + end, rest);
	http_start(p, buf);
	p->len = rest;
	return look(p);
}

bool http_continue(struct http_parser *p)
{
	if (p->state != HTTP_BODY || !p->expect)
		return false;
	p->expect = false;
	/* Who began to send does not wait (RFC 9110, section 10.1.1). */
	return p->len == p->body_at;
}

/* --- responses ------------------------------------------------------------------------------ */

static const char *reason(int status)
{
	static const struct {
		uint16_t status;
		char text[32];
	} reasons[] = {
		{ 200, "OK" },
		{ 201, "Created" },
		{ 202, "Accepted" },
		{ 204, "No Content" },
		{ 400, "Bad Request" },
		{ 404, "Not Found" },
		{ 405, "Method Not Allowed" },
		{ 408, "Request Timeout" },
		{ 409, "Conflict" },
		{ 411, "Length Required" },
		{ 413, "Content Too Large" },
		{ 414, "URI Too Long" },
		{ 417, "Expectation Failed" },
		{ 431, "Request Header Fields Too Large" },
		{ 500, "Internal Server Error" },
		{ 501, "Not Implemented" },
		{ 503, "Service Unavailable" },
		{ 505, "HTTP Version Not Supported" },
	};

	for (size_t i = 0; i < sizeof(reasons) / sizeof(*reasons); i++) {
		if (reasons[i].status == status)
			return reasons[i].text;
	}
	return ""; /* the phrase may be empty (RFC 9112, section 4) */
}

size_t http_reply_head(char *buf, size_t size, const struct http_reply *reply)
{
	char length[64] = "";
	int n;

	/* A 204 must not have a length (RFC 9110, section 8.6). */
	if (reply->status != 204)
		snprintf(length, sizeof(length), "Content-Length: %zu\r\n", reply->body_len);
	n = snprintf(buf, size, "HTTP/1.1 %d %s\r\n%s%s%s%s%s%s\r\n", reply->status,
		     reason(reply->status), length,
		     reply->body_len ? "Content-Type: application/json\r\n" : "",
		     reply->allow ? "Allow: " : "", reply->allow ? reply->allow : "",
		     reply->allow ? "\r\n" : "", reply->close ? "Connection: close\r\n" : "");
	return n > 0 && (size_t)n < size ? (size_t)n : 0;
}
