/* SPDX-License-Identifier: MIT */
/*
 * Files that a kernel loader puts into guest RAM: opened once, read by pread() straight into place.
 * A file may be anything and may change while it is read; nothing here believes it.
 */
#ifndef VM_BOOTFILE_H
#define VM_BOOTFILE_H

#include <stddef.h>
#include <stdint.h>

struct memory;

struct bootfile {
	const char *what; /* "kernel", "initrd" */
	const char *path;
	int fd; /* -1: none */
	uint64_t size;
};

/*
 * Opens a regular file of at least one byte. @what and @path are kept, not copied. 0 or -errno
 * (-EISDIR, -EINVAL: not a regular file; -ENODATA: empty), logged, with nothing open.
 */
int bootfile_open(struct bootfile *file, const char *what, const char *path);

/* Closes it; good for one that isn't open, too. */
void bootfile_close(struct bootfile *file);

/*
 * Reads all of [@offset, @offset + @len), which was inside the file when it was opened. 0 or -errno
 * (-EIO: it has got shorter), logged.
 */
int bootfile_read(const struct bootfile *file, uint64_t offset, void *buf, uint64_t len);

/* The same into guest RAM at @gpa. A length of 0 is fine. -EFAULT: not wholly RAM, not logged. */
int bootfile_load(const struct bootfile *file, struct memory *mem, uint64_t offset, uint64_t gpa,
		  uint64_t len);

/* Logs "WHAT PATH: ENOEXEC: ..." and returns -ENOEXEC. */
int bootfile_bad(const struct bootfile *file, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/*
 * What a file most probably is that starts with the @len bytes at @head and is no kernel to the
 * caller, with what to do about it; NULL when it looks like nothing known.
 */
const char *bootfile_kind(const void *head, size_t len);

#endif
