/* SPDX-License-Identifier: MIT */
/*
 * The HTTP request parser: a stream of requests, in one piece and in others. What comes out must
 * not depend on the pieces, and lies within the buffer.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "api/http.h"

static char *buf;

static uint64_t mix(uint64_t sum, const void *bytes, size_t len)
{
	const unsigned char *p = bytes;

	while (len--)
		sum = (sum ^ *p++) * 0x100000001b3; /* FNV-1a */
	return sum;
}

static uint64_t mix_number(uint64_t sum, uint64_t number)
{
	return mix(sum, &number, sizeof(number));
}

static bool inside(const char *at, size_t len)
{
	return at >= buf && len <= HTTP_REQUEST_SIZE && at + len <= buf + HTTP_REQUEST_SIZE;
}

static uint64_t mix_request(uint64_t sum, const struct http_request *q)
{
	if (q->path[0] != '/' || !inside(q->body, q->body_len) || q->body_len > HTTP_BODY_MAX ||
	    strlen(q->path) > HTTP_LINE_MAX || strlen(q->query) > HTTP_LINE_MAX ||
	    !*http_method_name(q->method))
		abort();
	sum = mix_number(sum, q->method);
	sum = mix(sum, q->path, strlen(q->path) + 1);
	sum = mix(sum, q->query, strlen(q->query) + 1);
	sum = mix_number(sum, q->body_len);
	sum = mix(sum, q->body, q->body_len);
	return mix_number(sum, q->close);
}

static uint64_t parse(const uint8_t *data, size_t size, size_t piece)
{
	struct http_parser p;
	uint64_t sum = 0;

	http_start(&p, buf);
	while (size && p.state != HTTP_BAD) {
		size_t room, n = size < piece ? size : piece;
		char *to = http_space(&p, &room);

		if (!room || !inside(to, room))
			abort();
		if (n > room)
			n = room;
		memcpy(to, data, n);
		data += n;
		size -= n;
		http_more(&p, n);
		while (p.state == HTTP_DONE) {
			sum = mix_request(sum, &p.request);
			http_next(&p);
		}
	}
	sum = mix_number(sum, p.state);
	if (p.state == HTTP_BAD) {
		if (p.status < 400 || p.status > 599 || !p.error)
			abort();
		sum = mix_number(sum, (uint64_t)p.status);
		sum = mix(sum, p.error, strlen(p.error));
	}
	return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t whole;

	if (!buf)
		buf = malloc(HTTP_REQUEST_SIZE);
	if (!buf || !size)
		return 0;
	whole = parse(data, size, size);
	if (parse(data, size, 1) != whole || parse(data, size, 1 + data[0] % 64u) != whole)
		abort();
	return 0;
}
