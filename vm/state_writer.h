/* SPDX-License-Identifier: MIT */
/*
 * Writes a snapshot's `state` file: sections of numbers, bytes and strings, collected in memory and
 * saved at the end. docs/snapshot.md has the format.
 *
 * Errors stick: the first one is kept, what follows does nothing, state_writer_save() returns it.
 * So nobody need look before. One thread.
 */
#ifndef VM_STATE_WRITER_H
#define VM_STATE_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "vm/state_file.h"

struct snapshot_dir;

struct state_writer {
	uint8_t *buf;
	size_t len;
	size_t room;
	size_t section; /* where the head of the open one is; 0: none is open */
	uint32_t nr;
	int err; /* the first, or 0 */
};

/* An empty file of @arch: arch_name, "x86_64" say. */
void state_writer_init(struct state_writer *w, const char *arch);
void state_writer_fini(struct state_writer *w);

/*
 * A section's payload is what is put between begin and end. @instance counts from 0 where there are
 * several of a tag: vCPUs, devices. @version is the section's own. -EINVAL sticks when two are open
 * at once.
 */
void state_writer_begin(struct state_writer *w, uint32_t tag, uint32_t instance, uint32_t version);
void state_writer_end(struct state_writer *w);

void state_writer_bool(struct state_writer *w, bool value);
void state_writer_u8(struct state_writer *w, uint8_t value);
void state_writer_u16(struct state_writer *w, uint16_t value);
void state_writer_u32(struct state_writer *w, uint32_t value);
void state_writer_u64(struct state_writer *w, uint64_t value);

/* As many as the reader knows to be there. */
void state_writer_bytes(struct state_writer *w, const void *buf, size_t len);
/* As many as the 32-bit number before them says. */
void state_writer_blob(struct state_writer *w, const void *buf, size_t len);
/* A blob; without the NUL. */
void state_writer_string(struct state_writer *w, const char *s);

/* Notes -errno of the caller's own, so that the file is not written. */
void state_writer_fail(struct state_writer *w, int err);

/*
 * Writes state.new into @dir and waits until it is on the disk; snapshot_dir_commit() puts it in
 * its place. 0 or -errno, the first that came up; logged; then there is no state.new.
 */
int state_writer_save(struct state_writer *w, const struct snapshot_dir *dir);

#endif
