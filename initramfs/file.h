/* SPDX-License-Identifier: MIT */
/* Small files, whole. */
#ifndef INITRAMFS_FILE_H
#define INITRAMFS_FILE_H

#include <stddef.h>
#include <sys/types.h>

/*
 * Reads @path into @buf and ends it with a NUL. The length, or -errno; -EFBIG when the file has
 * @size bytes or more. Logs nothing.
 */
ssize_t file_read(const char *path, char *buf, size_t size);

/* Writes @text to an existing file by one write(2). 0 or -errno; logs nothing. */
int file_write(const char *path, const char *text);

#endif
