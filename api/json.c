/* SPDX-License-Identifier: MIT */
#include "api/json.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define SHOWN_MAX   32	/* of somebody else's words in a sentence */
#define FORMAT_SIZE 512 /* json_put_format() */

struct reader {
	const char *start;
	const char *at;
	const char *end;
	char *error;
	size_t size;
};

/* --- sentences ------------------------------------------------------------------------------ */

/* The first error stands: it is the one nearest to its cause. Always -EINVAL. */
static int __attribute__((format(printf, 2, 3))) fail(struct reader *r, const char *fmt, ...)
{
	va_list args;

	if (r->size && !*r->error) {
		va_start(args, fmt);
		vsnprintf(r->error, r->size, fmt, args);
		va_end(args);
	}
	return -EINVAL;
}

/* What stands at the reader's place, for "found ...". Never a byte that a log could choke on. */
static const char *found(const struct reader *r, char *buf, size_t size)
{
	if (r->at == r->end)
		return "the end";
	if (*r->at > 0x20 && *r->at < 0x7f)
		snprintf(buf, size, "'%c'", *r->at);
	else
		snprintf(buf, size, "byte 0x%02x", (unsigned char)*r->at);
	return buf;
}

static int fail_here(struct reader *r, const char *expected)
{
	char buf[16];

	return fail(r, "byte %zu: expected %s, found %s", (size_t)(r->at - r->start), expected,
		    found(r, buf, sizeof(buf)));
}

/* Somebody's words, made harmless and short. */
static const char *shown(char *buf, const char *text, size_t len)
{
	size_t n = len < SHOWN_MAX ? len : SHOWN_MAX;

	for (size_t i = 0; i < n; i++)
		buf[i] = text[i] >= 0x20 && text[i] < 0x7f ? text[i] : '?';
	strcpy(buf + n, n < len ? "..." : "");
	return buf;
}

#define SHOWN_SIZE (SHOWN_MAX + 4)

/* --- the grammar ---------------------------------------------------------------------------- */

static void skip_blanks(struct reader *r)
{
	while (r->at < r->end &&
	       (*r->at == ' ' || *r->at == '\t' || *r->at == '\n' || *r->at == '\r'))
		r->at++;
}

static bool next_is(const struct reader *r, char c)
{
	return r->at < r->end && *r->at == c;
}

/*
 * The length of the UTF-8 sequence at @s (RFC 3629, section 4: no overlong form, no surrogate,
 * nothing above U+10FFFF), or 0.
 */
static size_t utf8_length(const char *text, size_t len)
{
	const unsigned char *s = (const unsigned char *)text;
	unsigned char low = 0x80, high = 0xbf;
	size_t n;

	if (!len)
		return 0;
	if (s[0] < 0x80)
		return 1;
	if (s[0] < 0xc2 || s[0] > 0xf4)
		return 0;
	n = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
	if (s[0] == 0xe0)
		low = 0xa0;
	else if (s[0] == 0xed)
		high = 0x9f;
	else if (s[0] == 0xf0)
		low = 0x90;
	else if (s[0] == 0xf4)
		high = 0x8f;
	if (n > len || s[1] < low || s[1] > high)
		return 0;
	for (size_t i = 2; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	}
	return n;
}

static size_t utf8_put(char *to, uint32_t code)
{
	if (code < 0x80) {
		to[0] = (char)code;
		return 1;
	}
	if (code < 0x800) {
		to[0] = (char)(0xc0 | code >> 6);
		to[1] = (char)(0x80 | (code & 0x3f));
		return 2;
	}
	if (code < 0x10000) {
		to[0] = (char)(0xe0 | code >> 12);
		to[1] = (char)(0x80 | (code >> 6 & 0x3f));
		to[2] = (char)(0x80 | (code & 0x3f));
		return 3;
	}
	to[0] = (char)(0xf0 | code >> 18);
	to[1] = (char)(0x80 | (code >> 12 & 0x3f));
	to[2] = (char)(0x80 | (code >> 6 & 0x3f));
	to[3] = (char)(0x80 | (code & 0x3f));
	return 4;
}

/* The four digits of \uXXXX. */
static int read_hex(struct reader *r, uint32_t *code)
{
	*code = 0;
	for (int i = 0; i < 4; i++, r->at++) {
		char c = r->at < r->end ? *r->at : 0;

		if (c >= '0' && c <= '9')
			*code = *code << 4 | (uint32_t)(c - '0');
		else if (c >= 'a' && c <= 'f')
			*code = *code << 4 | (uint32_t)(c - 'a' + 10);
		else if (c >= 'A' && c <= 'F')
			*code = *code << 4 | (uint32_t)(c - 'A' + 10);
		else
			return fail_here(r, "four hexadecimal digits after \\u");
	}
	return 0;
}

/* \uXXXX, its u read already; a pair of surrogates is one character (RFC 8259, section 7). */
static int read_unicode(struct reader *r, uint32_t *code)
{
	uint32_t low;

	if (read_hex(r, code))
		return -EINVAL;
	if (*code < 0xd800 || *code > 0xdfff)
		return 0;
	if (*code > 0xdbff)
		return fail(r, "byte %zu: the second half of a surrogate pair without the first",
			    (size_t)(r->at - r->start));
	if (r->end - r->at < 2 || r->at[0] != '\\' || r->at[1] != 'u')
		return fail_here(r, "the second half of a surrogate pair");
	r->at += 2;
	if (read_hex(r, &low))
		return -EINVAL;
	if (low < 0xdc00 || low > 0xdfff)
		return fail(r, "byte %zu: not the second half of a surrogate pair",
			    (size_t)(r->at - r->start));
	*code = 0x10000 + ((*code & 0x3ff) << 10 | (low & 0x3ff));
	return 0;
}

static int read_escape(struct reader *r, uint32_t *code)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	const char *which = r->at < r->end && *r->at ? strchr(from, *r->at) : NULL;

	if (next_is(r, 'u')) {
		r->at++;
		return read_unicode(r, code);
	}
	if (!which)
		return fail_here(r, "one of \" \\ / b f n r t u after \\");
	r->at++;
	*code = (uint32_t)to[which - from];
	return 0;
}

/*
 * The string at the reader's place, decoded into @to, which may be NULL; @len is how long it is
 * even if @size bytes did not hold it. Not terminated.
 */
static int read_string(struct reader *r, char *to, size_t size, size_t *len)
{
	*len = 0;
	if (!next_is(r, '"'))
		return fail_here(r, "a string");
	for (r->at++; !next_is(r, '"');) {
		char out[4];
		const char *from = r->at;
		uint32_t code;
		size_t n;

		if (r->at == r->end || (unsigned char)*r->at < 0x20)
			return fail_here(r, "a character or the end of the string");
		if (*r->at == '\\') {
			r->at++;
			if (read_escape(r, &code))
				return -EINVAL;
			n = utf8_put(out, code);
			from = out;
		} else {
			n = utf8_length(r->at, (size_t)(r->end - r->at));
			if (!n)
				return fail_here(r, "UTF-8");
			r->at += n;
		}
		if (to && *len + n <= size)
			memcpy(to + *len, from, n);
		*len += n;
	}
	r->at++;
	return 0;
}

static int skip_digits(struct reader *r)
{
	const char *from = r->at;

	while (r->at < r->end && *r->at >= '0' && *r->at <= '9')
		r->at++;
	return r->at > from ? 0 : fail_here(r, "a digit");
}

static int skip_number(struct reader *r)
{
	if (next_is(r, '-'))
		r->at++;
	if (next_is(r, '0'))
		r->at++; /* and no digit after it: what follows is not a value's end */
	else if (skip_digits(r))
		return -EINVAL;
	if (next_is(r, '.')) {
		r->at++;
		if (skip_digits(r))
			return -EINVAL;
	}
	if (next_is(r, 'e') || next_is(r, 'E')) {
		r->at++;
		if (next_is(r, '+') || next_is(r, '-'))
			r->at++;
		return skip_digits(r);
	}
	return 0;
}

static int skip_word(struct reader *r, const char *word)
{
	size_t len = strlen(word);

	if ((size_t)(r->end - r->at) < len || memcmp(r->at, word, len))
		return fail_here(r, "a value");
	r->at += len;
	return 0;
}

static int skip_value(struct reader *r, unsigned int depth);

/* The blanks, name and colon before a member's value. */
static int read_name(struct reader *r, char *name, size_t *len)
{
	if (!next_is(r, '"'))
		return fail_here(r, "a member's name");
	if (read_string(r, name, JSON_NAME_MAX, len))
		return -EINVAL;
	skip_blanks(r);
	if (!next_is(r, ':'))
		return fail_here(r, "':' after a member's name");
	r->at++;
	skip_blanks(r);
	return 0;
}

/* After an element: 1 when another one comes, 0 after the @close, which is skipped. */
static int after_element(struct reader *r, char close)
{
	skip_blanks(r);
	if (next_is(r, close)) {
		r->at++;
		return 0;
	}
	if (!next_is(r, ','))
		return fail_here(r, close == '}' ? "',' or '}'" : "',' or ']'");
	r->at++;
	skip_blanks(r);
	return 1;
}

/* At the bracket. True when there is an element, else the closing one is skipped. */
static bool first_element(struct reader *r, char close)
{
	r->at++;
	skip_blanks(r);
	if (!next_is(r, close))
		return true;
	r->at++;
	return false;
}

static int skip_elements(struct reader *r, char close, unsigned int depth)
{
	size_t len;
	int more;

	if (depth == JSON_DEPTH_MAX)
		return fail(r, "byte %zu: more than %d levels of objects and arrays",
			    (size_t)(r->at - r->start), JSON_DEPTH_MAX);
	if (!first_element(r, close))
		return 0;
	do {
		if (close == '}' && read_name(r, NULL, &len))
			return -EINVAL;
		if (skip_value(r, depth + 1))
			return -EINVAL;
		more = after_element(r, close);
	} while (more > 0);
	return more;
}

/* @depth bounds the recursion. */
static int skip_value(struct reader *r, unsigned int depth)
{
	size_t len;

	if (r->at == r->end)
		return fail_here(r, "a value");
	switch (*r->at) {
	case '{':
		return skip_elements(r, '}', depth);
	case '[':
		return skip_elements(r, ']', depth);
	case '"':
		return read_string(r, NULL, 0, &len);
	case 't':
		return skip_word(r, "true");
	case 'f':
		return skip_word(r, "false");
	case 'n':
		return skip_word(r, "null");
	case '-':
	case '0' ... '9':
		return skip_number(r);
	}
	return fail_here(r, "a value");
}

/* --- values --------------------------------------------------------------------------------- */

static const char *kind(char c)
{
	switch (c) {
	case '{':
		return "an object";
	case '[':
		return "an array";
	case '"':
		return "a string";
	case 't':
		return "true";
	case 'f':
		return "false";
	case 'n':
		return "null";
	}
	return "a number";
}

/* From here on @r covers exactly one value, which follows the grammar. */
static int fail_value(struct reader *r, const struct json_member *m, const char *expected)
{
	char buf[SHOWN_SIZE], word[SHOWN_MAX + 4]; /* a character that is cut in two is not there */
	size_t len;

	if (*r->start == '"') {
		r->at = r->start;
		read_string(r, word, sizeof(word), &len);
		return fail(r, "\"%s\": expected %s, found \"%s\"", m->name, expected,
			    shown(buf, word, len));
	}
	if (*r->start == '-' || (*r->start >= '0' && *r->start <= '9'))
		return fail(r, "\"%s\": expected %s, found %s", m->name, expected,
			    shown(buf, r->start, (size_t)(r->end - r->start)));
	return fail(r, "\"%s\": expected %s, found %s", m->name, expected, kind(*r->start));
}

/* A whole number without fraction or exponent. False for all else, and beyond 64 bits. */
static bool read_magnitude(const char *at, const char *end, uint64_t *value)
{
	*value = 0;
	for (; at < end; at++) {
		if (*at < '0' || *at > '9' || __builtin_mul_overflow(*value, 10, value) ||
		    __builtin_add_overflow(*value, (uint64_t)(*at - '0'), value))
			return false;
	}
	return true;
}

static int value_unsigned(struct reader *r, const struct json_member *m)
{
	uint64_t max = m->max ? m->max : UINT64_MAX, value;
	bool minus = *r->start == '-';
	char expected[80];

	/* -0 is a spelling of 0. */
	if (!read_magnitude(r->start + minus, r->end, &value) || (minus && value) ||
	    value < m->min || value > max) {
		snprintf(expected, sizeof(expected), "a whole number from %" PRIu64 " to %" PRIu64,
			 m->min, max);
		return fail_value(r, m, expected);
	}
	*(uint64_t *)m->to = value;
	return 0;
}

static int value_signed(struct reader *r, const struct json_member *m)
{
	bool all = !m->min && !m->max, minus = *r->start == '-';
	int64_t min = all ? INT64_MIN : (int64_t)m->min;
	int64_t max = all ? INT64_MAX : (int64_t)m->max;
	uint64_t magnitude;
	char expected[80];
	int64_t value;

	if (!read_magnitude(r->start + minus, r->end, &magnitude) ||
	    magnitude > (uint64_t)INT64_MAX + minus)
		goto bad;
	value = (int64_t)(minus ? 0 - magnitude : magnitude);
	if (value < min || value > max)
		goto bad;
	*(int64_t *)m->to = value;
	return 0;

bad:
	snprintf(expected, sizeof(expected), "a whole number from %" PRId64 " to %" PRId64, min,
		 max);
	return fail_value(r, m, expected);
}

static int value_string(struct reader *r, const struct json_member *m)
{
	char *to = m->to;
	size_t len;

	if (*r->start != '"')
		return fail_value(r, m, "a string");
	read_string(r, to, m->size, &len);
	if (len >= m->size)
		return fail(r, "\"%s\": expected a string of at most %zu bytes, found %zu", m->name,
			    m->size - 1, len);
	if (memchr(to, '\0', len))
		return fail(r, "\"%s\": expected a string without U+0000", m->name);
	to[len] = '\0';
	return 0;
}

static int value_word(struct reader *r, const struct json_member *m)
{
	char word[JSON_NAME_MAX], expected[JSON_ERROR_SIZE / 2] = "one of";
	size_t len = 0, used = strlen(expected);
	bool is_string = *r->start == '"';
	unsigned int i = 0;

	if (is_string)
		read_string(r, word, sizeof(word), &len);
	for (const char *w = m->words; *w; w += strlen(w) + 1, i++) {
		if (is_string && len <= sizeof(word) && strlen(w) == len && !memcmp(word, w, len)) {
			*(unsigned int *)m->to = i;
			return 0;
		}
		if (used < sizeof(expected))
			used += (size_t)snprintf(expected + used, sizeof(expected) - used,
						 "%s \"%s\"", i ? "," : "", w);
	}
	return fail_value(r, m, expected);
}

static int read_members(struct reader *r, struct json_member *members, size_t nr);

static int value_object(struct reader *r, const struct json_member *m)
{
	const struct json_table *table = m->to;
	char inner[JSON_ERROR_SIZE];
	struct reader sub = { r->start, r->start, r->end, inner, sizeof(inner) };

	if (*r->start != '{')
		return fail_value(r, m, "an object");
	*inner = '\0';
	if (read_members(&sub, table->members, table->nr))
		return fail(r, "\"%s\": %s", m->name, inner);
	return 0;
}

static int read_typed(struct reader *r, struct json_member *m)
{
	struct json_text *text = m->to;

	switch (m->type) {
	case JSON_BOOL:
		if (*r->start != 't' && *r->start != 'f')
			return fail_value(r, m, "true or false");
		*(bool *)m->to = *r->start == 't';
		return 0;
	case JSON_UNSIGNED:
		return value_unsigned(r, m);
	case JSON_SIGNED:
		return value_signed(r, m);
	case JSON_STRING:
		return value_string(r, m);
	case JSON_WORD:
		return value_word(r, m);
	case JSON_OBJECT:
		return value_object(r, m);
	case JSON_ARRAY:
		if (*r->start != '[')
			return fail_value(r, m, "an array");
		/* fall through */
	case JSON_ANY:
		*text = (struct json_text){ r->start, (size_t)(r->end - r->start) };
		return 0;
	}
	return -EINVAL;
}

static int read_value(struct reader *r, struct json_member *m)
{
	if (*r->start == 'n' && m->null_is_none && !m->required)
		return 0;
	if (read_typed(r, m))
		return -EINVAL;
	m->given = true;
	return 0;
}

/* --- tables --------------------------------------------------------------------------------- */

static int fail_unknown(struct reader *r, const char *name, size_t len,
			const struct json_member *members, size_t nr)
{
	char list[JSON_ERROR_SIZE / 2] = "no member", buf[SHOWN_SIZE];
	size_t used = 0;

	for (size_t i = 0; i < nr && used < sizeof(list); i++)
		used += (size_t)snprintf(list + used, sizeof(list) - used, "%s\"%s\"",
					 i ? ", " : "", members[i].name);
	return fail(r, "\"%s\": no such member: expected %s", shown(buf, name, len), list);
}

static int read_member(struct reader *r, struct json_member *members, size_t nr, uint64_t *seen)
{
	char name[JSON_NAME_MAX], buf[SHOWN_SIZE];
	struct reader sub = *r;
	size_t len, i;

	if (read_name(r, name, &len))
		return -EINVAL;
	for (i = 0; i < nr; i++) {
		if (strlen(members[i].name) == len && len <= sizeof(name) &&
		    !memcmp(members[i].name, name, len))
			break;
	}
	if (i == nr)
		return fail_unknown(r, name, len, members, nr);
	if (*seen & 1ull << i)
		return fail(r, "\"%s\": the member comes twice", shown(buf, name, len));
	*seen |= 1ull << i;
	sub.start = r->at;
	if (skip_value(r, 0))
		return -EINVAL;
	sub.at = sub.start;
	sub.end = r->at;
	return read_value(&sub, &members[i]);
}

/* At the opening brace of an object that follows the grammar. */
static int read_members(struct reader *r, struct json_member *members, size_t nr)
{
	uint64_t seen = 0;
	int more;

	if (nr > 64)
		return fail(r, "a table has more than 64 members");
	for (size_t i = 0; i < nr; i++)
		members[i].given = false;
	more = first_element(r, '}');
	while (more > 0) {
		if (read_member(r, members, nr, &seen))
			return -EINVAL;
		more = after_element(r, '}');
	}
	if (more < 0)
		return more;
	for (size_t i = 0; i < nr; i++) {
		if (members[i].required && !members[i].given)
			return fail(r, "\"%s\": the member is missing", members[i].name);
	}
	return 0;
}

int json_read(const char *text, size_t len, struct json_member *members, size_t nr, char *error,
	      size_t size)
{
	struct reader r = { text, text, text + len, error, size };

	if (size)
		*error = '\0';
	skip_blanks(&r);
	if (!next_is(&r, '{'))
		return fail_here(&r, "an object");
	if (skip_value(&r, 0))
		return -EINVAL;
	skip_blanks(&r);
	if (r.at != r.end)
		return fail_here(&r, "nothing after the object");
	r.at = text;
	skip_blanks(&r);
	return read_members(&r, members, nr);
}

int json_next(struct json_text *array, struct json_text *element)
{
	struct reader r = { array->at, array->at, array->at + array->len, NULL, 0 };

	/* The '[' of a fresh one, the ',' of one that was cut. */
	if (r.at == r.end || !first_element(&r, ']'))
		return 0;
	element->at = r.at;
	if (skip_value(&r, 0))
		return 0;
	element->len = (size_t)(r.at - element->at);
	skip_blanks(&r);
	if (next_is(&r, ']'))
		r.at = r.end;
	array->at = r.at;
	array->len = (size_t)(r.end - r.at);
	return 1;
}

int json_read_value(struct json_text text, struct json_member *member, char *error, size_t size)
{
	struct reader r = { text.at, text.at, text.at + text.len, error, size };

	if (size)
		*error = '\0';
	member->given = false;
	return read_value(&r, member);
}

/* --- writing -------------------------------------------------------------------------------- */

void json_put_start(struct json_writer *w, char *buf, size_t size)
{
	memset(w, 0, sizeof(*w));
	w->buf = buf;
	w->size = size;
}

static void put(struct json_writer *w, const char *text, size_t len)
{
	if (w->overflow || len > w->size - w->len) {
		w->overflow = true;
		return;
	}
	memcpy(w->buf + w->len, text, len);
	w->len += len;
}

static void put_quoted(struct json_writer *w, const char *text)
{
	size_t left = strlen(text), n;

	put(w, "\"", 1);
	for (; left && !w->overflow; text += n, left -= n) {
		char escape[8];

		n = utf8_length(text, left);
		if (!n) {
			n = 1;
			put(w, "\\ufffd", 6);
		} else if (*text == '"' || *text == '\\') {
			put(w, "\\", 1);
			put(w, text, 1);
		} else if (n == 1 && (*text < 0x20 || *text == 0x7f)) {
			snprintf(escape, sizeof(escape), "\\u%04x", (unsigned int)*text);
			put(w, escape, 6);
		} else {
			put(w, text, n);
		}
	}
	put(w, "\"", 1);
}

/* What comes before every value. */
static void put_name(struct json_writer *w, const char *name)
{
	bool in_object = w->depth && w->objects >> (w->depth - 1) & 1;

	if (in_object != !!name || (!w->depth && w->len))
		w->misused = true;
	if (w->comma)
		put(w, ",", 1);
	w->comma = true;
	if (name) {
		put_quoted(w, name);
		put(w, ":", 1);
	}
}

static void put_begin(struct json_writer *w, const char *name, bool object)
{
	put_name(w, name);
	put(w, object ? "{" : "[", 1);
	w->comma = false;
	if (w->depth == 32) {
		w->misused = true;
		return;
	}
	w->objects &= ~(1u << w->depth);
	w->objects |= (uint32_t)object << w->depth;
	w->depth++;
}

void json_put_object(struct json_writer *w, const char *name)
{
	put_begin(w, name, true);
}

void json_put_array(struct json_writer *w, const char *name)
{
	put_begin(w, name, false);
}

void json_put_end(struct json_writer *w)
{
	if (!w->depth) {
		w->misused = true;
		return;
	}
	w->depth--;
	put(w, w->objects >> w->depth & 1 ? "}" : "]", 1);
	w->comma = true;
}

static void put_plain(struct json_writer *w, const char *name, const char *text)
{
	put_name(w, name);
	put(w, text, strlen(text));
}

void json_put_string(struct json_writer *w, const char *name, const char *value)
{
	if (!value) {
		json_put_null(w, name);
		return;
	}
	put_name(w, name);
	put_quoted(w, value);
}

void json_put_unsigned(struct json_writer *w, const char *name, uint64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRIu64, value);
	put_plain(w, name, text);
}

void json_put_signed(struct json_writer *w, const char *name, int64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRId64, value);
	put_plain(w, name, text);
}

void json_put_bool(struct json_writer *w, const char *name, bool value)
{
	put_plain(w, name, value ? "true" : "false");
}

void json_put_null(struct json_writer *w, const char *name)
{
	put_plain(w, name, "null");
}

void json_put_format(struct json_writer *w, const char *name, const char *fmt, ...)
{
	char text[FORMAT_SIZE];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	json_put_string(w, name, text);
}

int json_put_check(const struct json_writer *w)
{
	if (w->misused || w->depth)
		return -EINVAL;
	return w->overflow ? -ENOSPC : 0;
}
