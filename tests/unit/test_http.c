/* SPDX-License-Identifier: MIT */
#include <stdint.h>
#include <stdlib.h>
#include "api/http.h"
#include "tests/unit/test.h"

#define H "Host: x\r\n"

static char *buf; /* of exactly the size that the parser may use */
static struct http_parser parser;

static void feed(const char *text, size_t len, size_t piece)
{
	http_start(&parser, buf);
	while (len && parser.state < HTTP_DONE) {
		size_t room, n = len < piece ? len : piece;
		char *to = http_space(&parser, &room);

		CHECK(room);
		if (n > room)
			n = room;
		memcpy(to, text, n);
		http_more(&parser, n);
		text += n;
		len -= n;
	}
}

/* What a test looks at, copied out of the buffer. */
struct result {
	enum http_state state;
	int status;
	const char *error;
	enum http_method method;
	char path[HTTP_LINE_MAX + 1];
	char query[HTTP_LINE_MAX + 1];
	char body[256];
	size_t body_len;
	bool close;
};

static void take(struct result *r)
{
	const struct http_request *q = &parser.request;

	memset(r, 0, sizeof(*r));
	r->state = parser.state;
	r->status = parser.status;
	r->error = parser.error;
	if (parser.state != HTTP_DONE)
		return;
	r->method = q->method;
	strcpy(r->path, q->path);
	strcpy(r->query, q->query);
	r->body_len = q->body_len;
	memcpy(r->body, q->body, q->body_len < sizeof(r->body) ? q->body_len : sizeof(r->body));
	r->close = q->close;
}

/*
 * The same result byte by byte and in pieces of 2 to 7 bytes; and every truncation is either
 * unfinished or has that very result already.
 */
static void check_pieces(const char *text, size_t len)
{
	struct result whole, other;

	feed(text, len, len);
	take(&whole);
	for (size_t piece = 1; piece < 8; piece++) {
		feed(text, len, piece);
		take(&other);
		CHECK(!memcmp(&whole, &other, sizeof(whole)));
	}
	for (size_t cut = 0; cut < len; cut++) {
		feed(text, cut, cut + 1);
		take(&other);
		if (other.state < HTTP_DONE)
			CHECK_EQ(other.state == HTTP_START, cut == 0);
		else
			CHECK(!memcmp(&whole, &other, sizeof(whole)));
	}
}

struct accepted {
	const char *text;
	enum http_method method;
	const char *path;
	const char *query;
	const char *body;
	bool close;
};

static const struct accepted accepted[] = {
	{ "GET / HTTP/1.1\r\n" H "\r\n", HTTP_GET, "/", "", "", false },
	{ "GET / HTTP/1.1\r\nHost:\r\n\r\n", HTTP_GET, "/", "", "", false },
	{ "GET / HTTP/1.1\r\nhOST:\t [::1]:80 \t\r\n\r\n", HTTP_GET, "/", "", "", false },
	{ "\r\nGET / HTTP/1.1\r\n" H "\r\n", HTTP_GET, "/", "", "", false },
	{ "GET / HTTP/1.0\r\n\r\n", HTTP_GET, "/", "", "", true },
	{ "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", HTTP_GET, "/", "", "", true },
	{ "GET / HTTP/1.2\r\n" H "\r\n", HTTP_GET, "/", "", "", false },
	{ "GET /a/b-c_d.e~?x=1&y=%2F? HTTP/1.1\r\n" H "\r\n", HTTP_GET, "/a/b-c_d.e~", "x=1&y=%2F?",
	  "", false },
	{ "GET /a%2Fb HTTP/1.1\r\n" H "\r\n", HTTP_GET, "/a%2Fb", "", "", false },
	{ "GET http://localhost/vm HTTP/1.1\r\n" H "\r\n", HTTP_GET, "/vm", "", "", false },
	{ "GET HTTP://localhost?q HTTP/1.1\r\n" H "\r\n", HTTP_GET, "/", "q", "", false },
	{ "GET // HTTP/1.1\r\n" H "\r\n", HTTP_GET, "//", "", "", false },
	{ "PATCH /vm HTTP/1.1\r\n" H "Content-Length: 2\r\n\r\n{}", HTTP_PATCH, "/vm", "", "{}",
	  false },
	{ "PUT /a HTTP/1.1\r\n" H "content-length:3\r\n\r\na\nb", HTTP_PUT, "/a", "", "a\nb",
	  false },
	{ "POST /a HTTP/1.1\r\n" H "Content-Length: 0\r\n\r\n", HTTP_POST, "/a", "", "", false },
	{ "DELETE /a HTTP/1.1\r\n" H "\r\n", HTTP_DELETE, "/a", "", "", false },
	{ "PUT /a HTTP/1.1\r\n" H "Content-Length: 1\r\nExpect: 100-Continue\r\n\r\nx", HTTP_PUT,
	  "/a", "", "x", false },
	{ "GET / HTTP/1.1\r\n" H "Connection: close\r\n\r\n", HTTP_GET, "/", "", "", true },
	{ "GET / HTTP/1.1\r\n" H "Connection: Upgrade ,\tCLOSE\r\n\r\n", HTTP_GET, "/", "", "",
	  true },
	{ "GET / HTTP/1.1\r\n" H "Connection: closed, enclose\r\n\r\n", HTTP_GET, "/", "", "",
	  false },
	{ "GET / HTTP/1.1\r\n" H "X-Any: \"\xc3\xa9\" (ok): yes\r\nEmpty:\r\n\r\n", HTTP_GET, "/",
	  "", "", false },
	{ "GET / HTTP/1.1\r\n" H "Content-Length-X: nonsense\r\n\r\n", HTTP_GET, "/", "", "",
	  false },
};

static void test_accepted(void)
{
	for (size_t i = 0; i < sizeof(accepted) / sizeof(*accepted); i++) {
		const struct accepted *a = &accepted[i];
		struct result r;

		feed(a->text, strlen(a->text), strlen(a->text));
		take(&r);
		if (r.state != HTTP_DONE)
			printf("  %s: %s\n", a->text, r.error);
		CHECK_EQ(r.state, HTTP_DONE);
		CHECK_EQ(r.method, a->method);
		CHECK_STR(r.path, a->path);
		CHECK_STR(r.query, a->query);
		CHECK_STR(r.body, a->body);
		CHECK_EQ(r.body_len, strlen(a->body));
		CHECK_EQ(r.close, a->close);
		/* Not one byte earlier. */
		feed(a->text, strlen(a->text) - 1, strlen(a->text));
		CHECK(parser.state < HTTP_DONE);
		check_pieces(a->text, strlen(a->text));
	}
}

struct refused {
	const char *text;
	int status;
};

static const struct refused refused[] = {
	/* the request line */
	{ "\r\n\r\n", 400 },
	{ " GET / HTTP/1.1\r\n", 400 },
	{ "GET /\r\n", 400 },
	{ "GET\r\n", 400 },
	{ "GET  / HTTP/1.1\r\n", 400 },
	{ "GET /  HTTP/1.1\r\n", 400 },
	{ "GET / HTTP/1.1 \r\n", 400 },
	{ "GET\t/\tHTTP/1.1\r\n", 400 },
	{ "GET / http/1.1\r\n", 400 },
	{ "GET / HTTP/1\r\n", 400 },
	{ "GET / HTTP/1.\r\n", 400 },
	{ "GET / HTTP/11.1\r\n", 400 },
	{ "GET / HTTP/1.10\r\n", 400 },
	{ "GET / HTTP/x.y\r\n", 400 },
	{ "GET / HTTP/0.9\r\n", 505 },
	{ "GET / HTTP/2.0\r\n", 505 },
	{ "PRI * HTTP/2.0\r\n", 505 },
	{ "G@T / HTTP/1.1\r\n", 400 },
	{ "G\xc3\xa9T / HTTP/1.1\r\n", 400 },
	{ "get / HTTP/1.1\r\n", 501 },
	{ "HEAD / HTTP/1.1\r\n", 501 },
	{ "OPTIONS * HTTP/1.1\r\n", 501 },
	{ "CONNECT x:80 HTTP/1.1\r\n", 501 },
	{ "GETT / HTTP/1.1\r\n", 501 },
	{ "GET * HTTP/1.1\r\n", 400 },
	{ "GET vm HTTP/1.1\r\n", 400 },
	{ "GET x:80 HTTP/1.1\r\n", 400 },
	{ "GET https://x/ HTTP/1.1\r\n", 400 },
	{ "GET http:// HTTP/1.1\r\n", 400 },
	{ "GET http:///vm HTTP/1.1\r\n", 400 },
	{ "GET http://?q HTTP/1.1\r\n", 400 },
	{ "GET /a#b HTTP/1.1\r\n", 400 },
	{ "GET /a\"b HTTP/1.1\r\n", 400 },
	{ "GET /\xc3\xa9 HTTP/1.1\r\n", 400 },
	{ "GET /% HTTP/1.1\r\n", 400 },
	{ "GET /%a HTTP/1.1\r\n", 400 },
	{ "GET /%ag HTTP/1.1\r\n", 400 },
	/* lines */
	{ "GET / HTTP/1.1\n", 400 },
	{ "GET / HTTP/1.1\r\r\n", 400 },
	{ "GET /\r HTTP/1.1\r\n", 400 },
	{ "GET / HTTP/1.1\r\n" H "\n", 400 },
	{ "GET / HTTP/1.1\r\nHost: x\n\r\n", 400 },
	{ "GET / HTTP/1.1\r\nHost: x\rX: y\r\n\r\n", 400 },
	{ "GET / HTTP/1.1\r\n" H "X: a\rb\r\n\r\n", 400 },
	{ "GET / HTTP/1.1\r\n" H "X: a\r\r\n\r\n", 400 },
	{ "GET / HTTP/1.1\r\nHost: x\x01\r\n\r\n", 400 },
	{ "GET / HTTP/1.1\r\nHost: x\x7f\r\n\r\n", 400 },
	{ "\x16\x03\x01", 400 }, /* TLS */
	/* fields */
	{ "GET / HTTP/1.1\r\n" H "X\r\n\r\n", 400 },
	{ "GET / HTTP/1.1\r\n" H ": x\r\n\r\n", 400 },
	{ "GET / HTTP/1.1\r\n" H "X : y\r\n\r\n", 400 },
	{ "GET / HTTP/1.1\r\n" H "X Y: z\r\n\r\n", 400 },
	{ "GET / HTTP/1.1\r\n" H "X: y\r\n z\r\n\r\n", 400 },
	{ "GET / HTTP/1.1\r\n" H "X: y\r\n\tz: 1\r\n\r\n", 400 },
	{ "GET / HTTP/1.1\r\n Host: x\r\n\r\n", 400 },
	{ "GET / HTTP/1.1\r\n\r\n", 400 },
	{ "GET / HTTP/1.1\r\n" H H "\r\n", 400 },
	{ "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400 },
	{ "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400 },
	{ "GET / HTTP/1.1\r\n" H "Expect: 200-maybe\r\n\r\n", 417 },
	/* where does the body end? */
	{ "PUT / HTTP/1.1\r\n" H "Content-Length: \r\n\r\n", 400 },
	{ "PUT / HTTP/1.1\r\n" H "Content-Length: +1\r\n\r\n", 400 },
	{ "PUT / HTTP/1.1\r\n" H "Content-Length: -1\r\n\r\n", 400 },
	{ "PUT / HTTP/1.1\r\n" H "Content-Length: 1 1\r\n\r\n", 400 },
	{ "PUT / HTTP/1.1\r\n" H "Content-Length: 1,1\r\n\r\n", 400 },
	{ "PUT / HTTP/1.1\r\n" H "Content-Length: 0x1\r\n\r\n", 400 },
	{ "PUT / HTTP/1.1\r\n" H "Content-Length: 01\r\n\r\n", 400 },
	{ "PUT / HTTP/1.1\r\n" H "Content-Length: 00\r\n\r\n", 400 },
	{ "PUT / HTTP/1.1\r\n" H "Content-Length: 1.0\r\n\r\n", 400 },
	{ "PUT / HTTP/1.1\r\n" H "Content-Length: 1\r\nContent-Length: 1\r\n\r\n", 400 },
	{ "PUT / HTTP/1.1\r\n" H "Content-Length: 1\r\ncontent-length: 2\r\n\r\n", 400 },
	{ "PUT / HTTP/1.1\r\n" H "Content-Length : 1\r\n\r\n", 400 },
	{ "PUT / HTTP/1.1\r\n" H "Content-Length: 65537\r\n\r\n", 413 },
	{ "PUT / HTTP/1.1\r\n" H "Content-Length: 18446744073709551616\r\n\r\n", 413 },
	{ "PUT / HTTP/1.1\r\n" H "Content-Length: 99999999999999999999999\r\n\r\n", 413 },
	{ "PUT / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n", 411 },
	{ "PUT / HTTP/1.1\r\n" H "transfer-encoding:\tChunked\r\n\r\n", 411 },
	{ "PUT / HTTP/1.1\r\n" H "Transfer-Encoding: gzip, chunked\r\n\r\n", 501 },
	{ "PUT / HTTP/1.1\r\n" H "Transfer-Encoding: identity\r\n\r\n", 501 },
	{ "PUT / HTTP/1.1\r\n" H "Transfer-Encoding:\r\n\r\n", 501 },
	{ "PUT / HTTP/1.1\r\n" H "Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n",
	  501 },
	{ "PUT / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", 400 },
	{ "PUT / HTTP/1.1\r\n" H "Content-Length: 0\r\nTransfer-Encoding: x\r\n\r\n", 400 },
	{ "PUT / HTTP/1.0\r\n" H "Transfer-Encoding: chunked\r\n\r\n", 400 },
};

static void test_refused(void)
{
	for (size_t i = 0; i < sizeof(refused) / sizeof(*refused); i++) {
		const char *text = refused[i].text;

		feed(text, strlen(text), strlen(text));
		if (parser.state != HTTP_BAD || parser.status != refused[i].status)
			printf("  %s: state %d, status %d\n", text, parser.state, parser.status);
		CHECK_EQ(parser.state, HTTP_BAD);
		CHECK_EQ(parser.status, refused[i].status);
		CHECK(parser.error && strlen(parser.error) > 10);
		check_pieces(text, strlen(text));
	}
}

/* The sentence is about what is wrong, not about something that follows from it. */
static void test_sentences(void)
{
	static const char *const cases[][2] = {
		{ "GET / HTTP/1.1\r\n" H "X: y\r\n z\r\n\r\n", "folded" },
		{ "GET / HTTP/1.1\r\n" H "X : y\r\n\r\n", "blank" },
		{ "GET / HTTP/1.1\n", "LF alone" },
		{ "GET /\r\n", "target" },
		{ "GET / HTTP/1.1\r\n\r\n", "Host is missing" },
		{ "GET / HTTP/1.1\r\n" H "Content-Length: 1\r\nContent-Length: 1\r\n", "twice" },
		{ "GET / HTTP/1.1\r\n" H "Content-Length: 65537\r\n", "65536 bytes" },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		feed(cases[i][0], strlen(cases[i][0]), 1000);
		CHECK_EQ(parser.state, HTTP_BAD);
		CHECK(parser.error && strstr(parser.error, cases[i][1]));
	}
}

/* A NUL cannot stand in the tables. */
static void test_nul(void)
{
	static const char base[] = "GET /abc HTTP/1.1\r\nHost: x\r\nX-Y: z\r\n\r\n";
	char text[sizeof(base)];

	for (size_t i = 0; i < sizeof(base) - 1; i++) {
		memcpy(text, base, sizeof(base));
		text[i] = '\0';
		feed(text, sizeof(base) - 1, sizeof(base));
		CHECK_EQ(parser.state, HTTP_BAD);
		CHECK_EQ(parser.status, 400);
	}
}

/* Each limit: the last size that is taken, the first that is not. */
static size_t with_target(char *text, size_t line)
{
	size_t n = (size_t)sprintf(text, "GET /");

	memset(text + n, 'a', line - n - 9);
	return line - 9 + (size_t)sprintf(text + line - 9, " HTTP/1.1\r\n" H "\r\n");
}

static size_t with_head(char *text, size_t head)
{
	size_t n = (size_t)sprintf(text, "GET / HTTP/1.1\r\n" H "X: ");

	memset(text + n, 'a', head - n - 4);
	memcpy(text + head - 4, "\r\n\r\n", 4);
	return head;
}

static size_t with_fields(char *text, unsigned int nr)
{
	size_t n = (size_t)sprintf(text, "GET / HTTP/1.1\r\n" H);

	while (--nr)
		n += (size_t)sprintf(text + n, "X: y\r\n");
	return n + (size_t)sprintf(text + n, "\r\n");
}

static size_t with_body(char *text, size_t body)
{
	size_t n =
		(size_t)sprintf(text, "PUT / HTTP/1.1\r\n" H "Content-Length: %zu\r\n\r\n", body);

	memset(text + n, 'b', body);
	return n + body;
}

static void check_limit(const char *text, size_t len, int status)
{
	static const size_t pieces[] = { 1, 17, 100000 };

	for (size_t i = 0; i < 3; i++) {
		feed(text, len, pieces[i]);
		CHECK_EQ(parser.state, status ? HTTP_BAD : HTTP_DONE);
		CHECK_EQ(parser.status, status);
	}
}

static void test_limits(void)
{
	char *text = malloc(2 * HTTP_REQUEST_SIZE);

	check_limit(text, with_target(text, HTTP_LINE_MAX), 0);
	check_limit(text, with_target(text, HTTP_LINE_MAX + 1), 414);
	check_limit(text, with_head(text, HTTP_HEAD_MAX), 0);
	check_limit(text, with_head(text, HTTP_HEAD_MAX + 1), 431);
	check_limit(text, with_fields(text, HTTP_FIELDS_MAX), 0);
	check_limit(text, with_fields(text, HTTP_FIELDS_MAX + 1), 431);
	check_limit(text, with_body(text, HTTP_BODY_MAX), 0);
	CHECK_EQ(parser.request.body_len, HTTP_BODY_MAX);
	CHECK(parser.request.body[0] == 'b' && parser.request.body[HTTP_BODY_MAX - 1] == 'b');
	check_limit(text, with_body(text, HTTP_BODY_MAX + 1), 413);
	/* The largest head before the largest body. */
	with_head(text, HTTP_HEAD_MAX);
	memcpy(text + HTTP_HEAD_MAX - 27, "\r\nContent-Length: 65536\r\n\r\n", 27);
	memset(text + HTTP_HEAD_MAX, 'b', HTTP_BODY_MAX);
	check_limit(text, HTTP_REQUEST_SIZE, 0);
	/* A line without an end, a head without an end. */
	memset(text, 'A', 2 * HTTP_REQUEST_SIZE);
	check_limit(text, 2 * HTTP_REQUEST_SIZE, 414);
	memcpy(text, "GET / HTTP/1.1", 14);
	for (size_t n = 14; n < HTTP_REQUEST_SIZE; n += 1000)
		memcpy(text + n, "\r\nA:", 4);
	check_limit(text, HTTP_REQUEST_SIZE, 431);
	free(text);
}

static void test_pipelining(void)
{
	static const char text[] = "PUT /1 HTTP/1.1\r\n" H "Content-Length: 18\r\n\r\n"
				   "GET /x HTTP/1.1\r\n\r" /* a body, not a request */
				   "GET /2 HTTP/1.1\r\n" H "\r\n"
				   "PUT /3 HTTP/1.1\r\n" H "Content-Length: 1\r\n\r\nz"
				   "GET /4 HTTP/1.0\r\n\r\nGE";
	size_t room, len = sizeof(text) - 1;

	for (size_t first = 1; first <= len; first++) {
		unsigned int nr = 0;

		http_start(&parser, buf);
		memcpy(http_space(&parser, &room), text, first);
		http_more(&parser, first);
		for (int more = 0; more < 2; more++) {
			while (parser.state == HTTP_DONE) {
				CHECK_EQ(parser.request.path[1] - '0', ++nr);
				CHECK_EQ(parser.request.body_len, nr == 1 ? 18 : nr == 3);
				CHECK_EQ(parser.request.close, nr == 4);
				http_next(&parser);
			}
			CHECK(parser.state != HTTP_BAD);
			if (more)
				break;
			memcpy(http_space(&parser, &room), text + first, len - first);
			CHECK(room >= len - first);
			http_more(&parser, len - first);
		}
		CHECK_EQ(nr, 4);
		CHECK_EQ(parser.state, HTTP_HEAD);
		CHECK_EQ(parser.len, 2);
	}
	/* Exactly one request: what comes next has not begun. */
	feed(accepted[0].text, strlen(accepted[0].text), 100);
	CHECK_EQ(http_next(&parser), HTTP_START);
}

static void test_continue(void)
{
#define EXPECT "Expect: 100-continue\r\n"
	static const struct {
		const char *text;
		bool wanted;
	} cases[] = {
		{ "PUT / HTTP/1.1\r\n" H "Content-Length: 2\r\n" EXPECT "\r\n", true },
		{ "PUT / HTTP/1.1\r\n" H EXPECT "Content-Length: 2\r\n\r\n", true },
		{ "PUT / HTTP/1.1\r\n" H "Content-Length: 2\r\n" EXPECT "\r\nx", false },
		{ "PUT / HTTP/1.1\r\n" H "Content-Length: 2\r\n\r\n", false },
		{ "PUT / HTTP/1.1\r\n" H "Content-Length: 0\r\n" EXPECT "\r\n", false },
		{ "PUT / HTTP/1.0\r\n" H "Content-Length: 2\r\n" EXPECT "\r\n", false },
		{ "PUT / HTTP/1.1\r\n" H "Content-Length: 2\r\n" EXPECT, false },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		feed(cases[i].text, strlen(cases[i].text), 1000);
		CHECK_EQ(http_continue(&parser), cases[i].wanted);
		CHECK(!http_continue(&parser));
	}
	/* Asking too early does not lose it. */
	feed(cases[0].text, strlen(cases[0].text) - 2, 1000);
	CHECK(!http_continue(&parser));
	memcpy(buf + parser.len, "\r\n", 2);
	http_more(&parser, 2);
	CHECK(http_continue(&parser));
}

static void test_reply(void)
{
	char out[HTTP_REPLY_MAX];
	struct http_reply reply = { .status = 200, .body_len = 12 };
	size_t len = http_reply_head(out, sizeof(out), &reply);

	CHECK_STR(out, "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n"
		       "Content-Type: application/json\r\n\r\n");
	CHECK_EQ(len, strlen(out));
	CHECK_EQ(http_reply_head(out, len, &reply), 0);
	CHECK_EQ(http_reply_head(out, len + 1, &reply), len);
	reply = (struct http_reply){ .status = 204, .close = true };
	http_reply_head(out, sizeof(out), &reply);
	CHECK_STR(out, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
	reply = (struct http_reply){ .status = 405, .allow = "GET, PUT" };
	http_reply_head(out, sizeof(out), &reply);
	CHECK_STR(out, "HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n"
		       "Allow: GET, PUT\r\n\r\n");
	reply = (struct http_reply){ .status = 299 };
	http_reply_head(out, sizeof(out), &reply);
	CHECK_STR(out, "HTTP/1.1 299 \r\nContent-Length: 0\r\n\r\n");
}

int main(void)
{
	buf = malloc(HTTP_REQUEST_SIZE);
	RUN(test_accepted);
	RUN(test_refused);
	RUN(test_sentences);
	RUN(test_nul);
	RUN(test_limits);
	RUN(test_pipelining);
	RUN(test_continue);
	RUN(test_reply);
	free(buf);
	return TEST_RESULT();
}
