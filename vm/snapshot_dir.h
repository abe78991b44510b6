/* SPDX-License-Identifier: MIT */
/*
 * A snapshot's directory and the files in it: written beside the old ones first, made durable, and
 * put in their place at the end. docs/snapshot.md has the formats.
 *
 * Every failure is logged here, with the file's name and what to check.
 */
#ifndef VM_SNAPSHOT_DIR_H
#define VM_SNAPSHOT_DIR_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SNAPSHOT_STATE	"state"
#define SNAPSHOT_MEMORY "memory"      /* of a full snapshot */
#define SNAPSHOT_DIFF	"memory.diff" /* of a diff */
#define SNAPSHOT_NEW	".new"	      /* behind a name: being written, means nothing yet */

/* A snapshot's name to its own files and to the diffs that follow it: random, not all zero. */
#define SNAPSHOT_ID_LEN 16

struct snapshot_dir {
	int fd;
	const char *path; /* for messages; the caller's, not copied */
	/* NULL after opening, or what another thread sets so that writing gives up: -ECANCELED. */
	const atomic_bool *cancel;
};

/*
 * Opens a directory, with @create makes it first (mode 0700) unless it is there. 0 or -errno.
 */
int snapshot_dir_open(struct snapshot_dir *dir, const char *path, bool create);
void snapshot_dir_close(struct snapshot_dir *dir);

/*
 * A file of the snapshot's, which must be a regular one and no symbolic link. @flags: O_RDONLY or
 * O_RDWR. Its descriptor and @size in bytes, or -errno.
 */
int snapshot_dir_open_file(const struct snapshot_dir *dir, const char *name, int flags,
			   uint64_t *size);

/* Is there a file, or anything, of that name? */
bool snapshot_dir_has(const struct snapshot_dir *dir, const char *name);

/*
 * An empty file to write (mode 0600: what a guest remembers is nobody's business). One of that
 * name, which a killed process left, goes. A descriptor or -errno.
 */
int snapshot_dir_new_file(const struct snapshot_dir *dir, const char *name);

/* All of @len bytes, or -errno; -EIO: the file ended. */
int snapshot_dir_read(const struct snapshot_dir *dir, const char *name, int fd, void *buf,
		      size_t len, uint64_t offset);
int snapshot_dir_write(const struct snapshot_dir *dir, const char *name, int fd, const void *buf,
		       size_t len, uint64_t offset);

/* Has somebody set dir->cancel? For loops that write little. */
bool snapshot_dir_canceled(const struct snapshot_dir *dir);

/* Waits until the file, or with no @name the directory's entries, are on the disk. */
int snapshot_dir_sync(const struct snapshot_dir *dir, const char *name, int fd);

/* NAME.new becomes NAME, at once; durable only after snapshot_dir_sync(). */
int snapshot_dir_replace(const struct snapshot_dir *dir, const char *name);

/*
 * What was written by memory_file_save() or, with @diff, memory_diff_save(), and by
 * state_writer_save() becomes the directory's snapshot. When it fails or dies in between, the
 * directory holds the old snapshot, or one that is refused because its two files do not belong
 * together; never a mixture that restores. 0 or -errno.
 */
int snapshot_dir_commit(const struct snapshot_dir *dir, bool diff);

/* Removes what was written and not committed. */
void snapshot_dir_discard(const struct snapshot_dir *dir);

#endif
