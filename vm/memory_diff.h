/* SPDX-License-Identifier: MIT */
/*
 * The `memory.diff` file of a diff: the pages that were written since the snapshot before, and an
 * index of where they belong. docs/snapshot.md has the format.
 *
 * A range of the index has data, or is one of zeros and takes no room; what is in no range is as it
 * was. So a page that has become zero is not the same as one that has not changed.
 */
#ifndef VM_MEMORY_DIFF_H
#define VM_MEMORY_DIFF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "vm/snapshot_dir.h"

struct memory_file;
struct memory_file_layout;

/*
 * The ranges of guest RAM that were written, upwards, none overlapping: @next gives one at a time,
 * 1 with a range, 0 at the end, or -errno. In whole pages of the layout's, each in one region.
 */
struct memory_diff_dirty {
	int (*next)(struct memory_diff_dirty *dirty, uint64_t *gpa, uint64_t *len);
	void *opaque;
};

/*
 * The same from bitmaps as KVM_GET_DIRTY_LOG has them: bit b of word w is page w * 64 + b, of
 * layout->page_size bytes. Give &bitmaps.dirty to memory_diff_save().
 */
struct memory_diff_bitmaps {
	struct memory_diff_dirty dirty;
	const struct memory_file_layout *layout;
	const uint64_t *const *bitmap; /* one for each region; NULL: nothing of it */
	unsigned int region;
	uint64_t page;
};

void memory_diff_bitmaps_init(struct memory_diff_bitmaps *b,
			      const struct memory_file_layout *layout,
			      const uint64_t *const *bitmap);

/*
 * Writes what is @dirty to memory.diff.new of @dir and waits until it is on the disk. The guest is
 * paused, and so are all that write its memory. Needs memory for the index: 24 bytes for each run
 * of pages, at worst 0.6 % of what is dirty. 0 or -errno, logged, and no memory.diff.new.
 */
int memory_diff_save(const struct snapshot_dir *dir, const struct memory_file_layout *l,
		     const uint8_t id[SNAPSHOT_ID_LEN], struct memory_diff_dirty *dirty);

/* A `memory.diff` that is open. */
struct memory_diff {
	const struct snapshot_dir *dir;
	const struct memory_file_layout *layout;
	int fd;
	uint64_t page_size;
	uint64_t index; /* where in the file */
	uint64_t nr;	/* ranges */
};

/*
 * Opens @dir's and checks everything but the pages' contents: its size, that it belongs to the
 * snapshot @id, every range of its index against @l. @dir and @l are kept. 0 or -errno: -ESTALE: of
 * another snapshot; -EBADMSG: damaged; -EOPNOTSUPP: of another version. Logs.
 */
int memory_diff_open(struct memory_diff *d, const struct snapshot_dir *dir,
		     const struct memory_file_layout *l, const uint8_t id[SNAPSHOT_ID_LEN]);
void memory_diff_close(struct memory_diff *d);

/*
 * Puts all of its ranges into @f, the memory of @base, not waiting for the disk. Done again it
 * gives the same. 0 or -errno; logs.
 */
int memory_diff_apply(const struct memory_diff *d, const struct snapshot_dir *base,
		      const struct memory_file *f);

#endif
