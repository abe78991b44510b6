/* SPDX-License-Identifier: MIT */
/*
 * The `memory` file of a full snapshot: guest RAM, region after region, sparse. docs/snapshot.md
 * has the format. Which regions there are says the section MEMO of `state`; at the end of the file
 * a trailer names the snapshot that it belongs to.
 *
 * What a page contains has no checksum: a restore maps it and reads it when the guest does.
 */
#ifndef VM_MEMORY_FILE_H
#define VM_MEMORY_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "vm/snapshot_dir.h"

struct state_reader;
struct state_writer;

#define MEMORY_FILE_LAYOUT_VERSION 1
#define MEMORY_FILE_MAX_REGIONS	   256

/* Where regions begin in the file: every page size of a host, and most huge ones, divides it. */
#define MEMORY_FILE_ALIGN (2ull << 20)

#define MEMORY_FILE_ANON  (-1) /* zeros: anonymous memory, hugetlb */
#define MEMORY_FILE_OTHER (-2) /* who knows: every page is looked at */

struct memory_file_region {
	uint64_t gpa;
	uint64_t size;	 /* bytes */
	uint64_t offset; /* in the file */
	uint8_t *hva;	 /* NULL when it came from a file and has no place yet */
	/*
	 * What lies under pages that the process has no copy of: a file that is mapped privately,
	 * which memory_file_map() notes, or one of the two below.
	 */
	int backing_fd;
	uint64_t backing_offset;
};

struct memory_file_layout {
	uint64_t page_size; /* of the host that wrote it */
	uint64_t data_size; /* what the regions take of the file */
	unsigned int nr;
	struct memory_file_region region[MEMORY_FILE_MAX_REGIONS]; /* by gpa */
};

/* No regions, this host's page size. */
void memory_file_layout_init(struct memory_file_layout *l);

/*
 * Adds a region above all others, whose memory is at @hva. @backing_fd is MEMORY_FILE_ANON or
 * _OTHER; who knows the file sets it, and the offset, afterwards. 0, or -EINVAL, logged, when it is
 * not above, wraps, is not a multiple of the page size, or is one too many.
 */
int memory_file_layout_add(struct memory_file_layout *l, uint64_t gpa, uint64_t size,
			   uint8_t *hva, int backing_fd);

/* The section MEMO. The reader's returns 0 or what state_reader_section_end() does. */
void memory_file_layout_put(const struct memory_file_layout *l, struct state_writer *w);
int memory_file_layout_get(struct memory_file_layout *l, const struct state_reader *r);

/* Are the same addresses RAM? */
bool memory_file_layout_same(const struct memory_file_layout *a,
			     const struct memory_file_layout *b);

/* The region that has all of [@gpa, @gpa + @len), or NULL. */
const struct memory_file_region *memory_file_layout_find(const struct memory_file_layout *l,
							 uint64_t gpa, uint64_t len);

/* True when @len bytes, a multiple of 64, at @p, which is aligned, are zero. */
bool memory_file_zero(const uint8_t *p, size_t len);

/*
 * Writes all regions to memory.new of @dir and waits until it is on the disk. The guest is paused,
 * and so are all that write its memory. A page that nobody has touched is not looked at
 * (/proc/self/pagemap knows), one of zeros is left out: both are holes. Without pagemap every page
 * is compared with zero, which is as right, and slower. 0 or -errno, logged, and no memory.new.
 */
int memory_file_save(const struct snapshot_dir *dir, const struct memory_file_layout *l,
		     const uint8_t id[SNAPSHOT_ID_LEN]);

/* A `memory` that is open. */
struct memory_file {
	int fd; /* holds the lock */
	uint64_t data_size;
	bool owned;   /* by the snapshot @id; false: that part of the trailer is damaged */
	bool merging; /* a merge into it began and has not ended ... */
	bool known;   /* ... which was of the diff @next; false: that part is damaged */
	uint8_t id[SNAPSHOT_ID_LEN];
	uint8_t next[SNAPSHOT_ID_LEN];
};

/*
 * Opens @dir's memory to restore from and checks that it has the size of @l and belongs to the
 * snapshot @id; takes some hundred bytes of reading. While it is open nothing can be merged into
 * it. 0 or -errno: -EBUSY: somebody merges; -ESTALE: it belongs to another snapshot, or a merge did
 * not end; -EBADMSG: damaged. Logs.
 */
int memory_file_open(struct memory_file *f, const struct snapshot_dir *dir,
		     const struct memory_file_layout *l, const uint8_t id[SNAPSHOT_ID_LEN]);

/*
 * The same to be merged into, so for this process alone (-EBUSY: a guest runs on it), with no
 * question asked about ids.
 */
int memory_file_open_merge(struct memory_file *f, const struct snapshot_dir *dir,
			   const struct memory_file_layout *l);
void memory_file_close(struct memory_file *f);

/*
 * Notes that the diff @next is being merged, before the first page is changed: from then on the
 * file is refused to who restores. And at the end that the file belongs to @id, and that nothing is
 * being merged. Both wait until that and all before it is on the disk. 0 or -errno.
 */
int memory_file_merge_begin(struct memory_file *f, const struct snapshot_dir *dir,
			    const uint8_t next[SNAPSHOT_ID_LEN]);
int memory_file_merge_end(struct memory_file *f, const struct snapshot_dir *dir,
			  const uint8_t id[SNAPSHOT_ID_LEN]);

/*
 * Puts private mappings of @f in place of what is mapped at the hva of each of @l's regions, and
 * notes them as their backing. Nothing is read and nothing copied; what the guest writes never
 * reaches the file. @f stays open as long as the mappings are used: its lock is what keeps merges
 * away. 0 or -errno; -EINVAL: this host's pages are too large for it; all is checked before the
 * first mapping goes. Logs.
 */
int memory_file_map(const struct memory_file *f, const struct snapshot_dir *dir,
		    struct memory_file_layout *l);

#endif
