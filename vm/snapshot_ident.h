/* SPDX-License-Identifier: MIT */
/*
 * Which snapshot this is and which one it follows: the section SNAP of a `state` file.
 *
 * A full snapshot begins a chain; a diff follows the snapshot that was taken, or restored, before
 * it. A diff that is merged into what it follows turns that into a full snapshot with the diff's
 * id, so that the next one fits.
 */
#ifndef VM_SNAPSHOT_IDENT_H
#define VM_SNAPSHOT_IDENT_H

#include <stdbool.h>
#include <stdint.h>
#include "vm/snapshot_dir.h"

struct state_reader;
struct state_writer;

#define SNAPSHOT_IDENT_VERSION 1

struct snapshot_ident {
	bool diff;
	uint32_t generation; /* how many diffs since the full snapshot that the chain began with */
	uint64_t created;    /* seconds since 1970, by the host's clock; for people */
	uint8_t id[SNAPSHOT_ID_LEN];
	uint8_t parent[SNAPSHOT_ID_LEN]; /* of a diff; else zeros */
	uint8_t root[SNAPSHOT_ID_LEN];	 /* the chain's first */
};

/* A new one: full, or with @parent a diff that follows it. 0 or -errno; logs. */
int snapshot_ident_new(struct snapshot_ident *ident, const struct snapshot_ident *parent);

/* What @diff becomes once it is merged into the snapshot that it follows. */
struct snapshot_ident snapshot_ident_merged(const struct snapshot_ident *diff);

/* Its section. The reader's returns 0 or what state_reader_section_end() does. */
void snapshot_ident_put(const struct snapshot_ident *ident, struct state_writer *w);
int snapshot_ident_get(struct snapshot_ident *ident, const struct state_reader *r);

/* An id as 32 hexadecimal digits, for messages. */
struct snapshot_ident_text {
	char s[2 * SNAPSHOT_ID_LEN + 1];
};

struct snapshot_ident_text snapshot_ident_text(const uint8_t id[SNAPSHOT_ID_LEN]);

#endif
