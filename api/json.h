/* SPDX-License-Identifier: MIT */
/*
 * JSON (RFC 8259) without allocation: a reader that fills a table of expected members, and a
 * writer into a buffer.
 *
 * The reader is strict: nothing beyond the grammar, UTF-8 and surrogate pairs checked, at most
 * JSON_DEPTH_MAX levels, no member twice, no member that the table does not name, and a number is
 * a whole one in its range. Every error is a sentence that names the member and what was expected.
 *
 *	struct json_member members[] = {
 *		{ "vcpu_count", JSON_UNSIGNED, .to = &cpus, .required = true, .min = 1, .max = 32 },
 *		{ "drive_id", JSON_STRING, .to = id, .size = sizeof(id) },
 *	};
 *
 *	ret = json_read(body, len, members, 2, error, sizeof(error));
 */
#ifndef API_JSON_H
#define API_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JSON_DEPTH_MAX	16
#define JSON_NAME_MAX	63  /* bytes of a member's name; a longer one is unknown to every table */
#define JSON_ERROR_SIZE 256 /* enough for every sentence; a smaller buffer gets a shorter one */

enum json_type {
	JSON_BOOL,     /* bool */
	JSON_UNSIGNED, /* uint64_t, min to max; a max of 0 is none */
	JSON_SIGNED,   /* int64_t, (int64_t)min to (int64_t)max; both 0 is every number */
	JSON_STRING,   /* char [size], terminated: a string with a NUL in it is refused */
	JSON_WORD,     /* unsigned int: the place in @words of the string */
	JSON_OBJECT,   /* struct json_table: read into that */
	JSON_ARRAY,    /* struct json_text: for json_next() */
	JSON_ANY       /* struct json_text: any value, for json_read() or json_read_value() */
};

/* A value as it stands in the text that was read, checked against the grammar. */
struct json_text {
	const char *at;
	size_t len;
};

struct json_member {
	const char *name;
	enum json_type type;
	void *to; /* untouched when the member is not there */
	size_t size;
	uint64_t min;
	uint64_t max;
	const char *words; /* each ends with a NUL, all with one more: "Paused\0Resumed\0" */
	bool required;
	bool null_is_none; /* null is as good as no member */
	bool given;	   /* out */
};

struct json_table {
	struct json_member *members;
	size_t nr;
};

/*
 * Reads the object @text, @len bytes, and nothing after it but blanks. 0, or -EINVAL with a
 * sentence of @size bytes at most in @error, of printable ASCII; then what the members hold and
 * say is nothing to go by. The whole text is checked before the first destination is written.
 */
int json_read(const char *text, size_t len, struct json_member *members, size_t nr, char *error,
	      size_t size);

/*
 * Cuts the next element off @array: 1 with it in @element, 0 when there is none left. Only for what
 * json_read() gave as JSON_ARRAY.
 */
int json_next(struct json_text *array, struct json_text *element);

/*
 * Reads one value, an array's element say, as @member says (its name is what the sentence calls
 * it). 0 or -EINVAL, as json_read().
 */
int json_read_value(struct json_text text, struct json_member *member, char *error, size_t size);

/* --- writing -------------------------------------------------------------------------------- */

/*
 * Writes into a buffer. What does not fit, or makes no sense (a member without a name, an end
 * without a begin), is sticky: json_put_check() tells, and the writer may be used carelessly
 * until then. @name: of the member in an object, NULL in an array and for the outermost value.
 */
struct json_writer {
	char *buf;
	size_t size;
	size_t len;
	bool overflow;
	bool misused;
	bool comma;
	unsigned int depth;
	uint32_t objects; /* bit n: level n is an object */
};

void json_put_start(struct json_writer *w, char *buf, size_t size);
void json_put_object(struct json_writer *w, const char *name);
void json_put_array(struct json_writer *w, const char *name);
void json_put_end(struct json_writer *w);

/* @value: UTF-8; a byte that is none becomes U+FFFD. NULL is written as null. */
void json_put_string(struct json_writer *w, const char *name, const char *value);
void json_put_unsigned(struct json_writer *w, const char *name, uint64_t value);
void json_put_signed(struct json_writer *w, const char *name, int64_t value);
void json_put_bool(struct json_writer *w, const char *name, bool value);
void json_put_null(struct json_writer *w, const char *name);

/* A sentence made with printf's format, cut at 511 bytes. */
void json_put_format(struct json_writer *w, const char *name, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * Is the text whole? 0, -ENOSPC: it did not fit, -EINVAL: a begin without an end or other misuse.
 * A writer that nothing was put into is whole.
 */
int json_put_check(const struct json_writer *w);

#endif
