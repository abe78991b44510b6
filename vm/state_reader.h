/* SPDX-License-Identifier: MIT */
/*
 * Reads a snapshot's `state` file, which may be damaged, of another vinit, or made to hurt.
 *
 *	state_reader_open()	reads all of it once and checks it from end to end
 *	state_reader_expect()	are exactly the sections there that the caller will take?
 *	state_reader_section()	... the getters ... state_reader_section_end()
 *	state_reader_end()	has every section been taken?
 *
 * Until state_reader_expect() is over nothing has been handed out, so that a file which is refused
 * has changed nothing. Everything that is refused is logged once in a sentence that names file and
 * section, what was expected and what was found:
 *
 *	-EBADMSG	damaged: a CRC, a length, a value that cannot be
 *	-EOPNOTSUPP	of another version or architecture, or with sections that this vinit lacks
 *
 * docs/snapshot.md has the format. One thread.
 */
#ifndef VM_STATE_READER_H
#define VM_STATE_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "vm/state_file.h"

struct snapshot_dir;
struct state_entry;

struct state_reader {
	const char *dir; /* for messages, not copied */
	uint8_t *buf;
	size_t len;
	char arch[STATE_FILE_ARCH_LEN];
	uint32_t nr;
	struct state_entry *entry; /* nr of them, in the file's order */
};

/* A section that is being read. */
struct state_section {
	const struct state_reader *reader;
	uint32_t tag;
	uint32_t instance;
	uint32_t version;
	const uint8_t *payload;
	size_t len;
	size_t at;
	int err; /* sticks, see below */
};

/* What state_reader_expect() is to find of a tag: instances 0 to count - 1, no more and no less. */
struct state_want {
	uint32_t tag;
	uint32_t count;
	uint32_t oldest, newest; /* version of the section */
};

/*
 * Reads @dir's state, at most STATE_FILE_MAX bytes. @arch: arch_name, or NULL for any. 0 or -errno
 * with nothing to close.
 */
int state_reader_open(struct state_reader *r, const struct snapshot_dir *dir, const char *arch);

/* The same from @len bytes of memory, which are copied. @dir: what to call it in messages. */
int state_reader_open_memory(struct state_reader *r, const char *dir, const void *buf, size_t len,
			     const char *arch);
void state_reader_close(struct state_reader *r);

/* How many sections have this tag. */
uint32_t state_reader_count(const struct state_reader *r, uint32_t tag);

/*
 * Are the sections exactly those of the @nr rows of @want (one a tag)? Where a count depends on
 * another section, that one may be taken before. 0, -EBADMSG: one is missing; -EOPNOTSUPP: one too
 * many, of an unknown tag or version.
 */
int state_reader_expect(const struct state_reader *r, const struct state_want *want,
			unsigned int nr);

/* Begins a section, from its start each time. 0, or -EBADMSG: there is none. */
int state_reader_section(const struct state_reader *r, struct state_section *s, uint32_t tag,
			 uint32_t instance);

/* Begins the section at place @index of the file, for who copies all of them. False: no more. */
bool state_reader_at(const struct state_reader *r, struct state_section *s, uint32_t index);

/*
 * The getters. Beyond the section's end, and after any error, they give 0, and the error sticks
 * until state_reader_section_end() returns it: look at it before anything is done with the values.
 */
bool state_reader_bool(struct state_section *s); /* 0 or 1, else an error */
uint8_t state_reader_u8(struct state_section *s);
uint16_t state_reader_u16(struct state_section *s);
uint32_t state_reader_u32(struct state_section *s);
uint64_t state_reader_u64(struct state_section *s);

/* A u32 that says how many things of at least @size bytes follow; @max at most, and they fit. */
uint32_t state_reader_number(struct state_section *s, uint32_t max, size_t size);

/* @len bytes; zeros after an error. */
void state_reader_bytes(struct state_section *s, void *buf, size_t len);

/* A blob of up to @max bytes, which stays the reader's; NULL and 0 after an error. */
const uint8_t *state_reader_blob(struct state_section *s, size_t max, size_t *len);

/* A string with its NUL into @size bytes; too long, or with a NUL inside, is an error: "". */
void state_reader_string(struct state_section *s, char *buf, size_t size);

/*
 * A value in it cannot be: logs what the format says, after file and section. The error sticks.
 * Returns -EBADMSG.
 */
int state_reader_bad(struct state_section *s, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* The section's error, -EBADMSG when not all of it was read, or 0. */
int state_reader_section_end(struct state_section *s);

/* 0 when every section was read to its end, else -EOPNOTSUPP. */
int state_reader_end(const struct state_reader *r);

#endif
