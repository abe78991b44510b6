/* SPDX-License-Identifier: MIT */
/* The file systems that every appliance has, and taking down all of them at the end. */
#ifndef INITRAMFS_MOUNTS_H
#define INITRAMFS_MOUNTS_H

#include <stddef.h>

/*
 * /dev alone: what is needed to say anything. 0 or -errno; logs nothing, since nobody could read
 * it.
 */
int mounts_dev(void);

/*
 * /proc, /sys, /run, /tmp and the rest. What is mounted already is left alone. Logs failures and
 * goes on.
 */
void mounts_all(void);

/*
 * Writes back and unmounts whatever is not the kernel's own, last mounted first; what is busy
 * becomes read-only. Takes as long as the disks take, so the caller bounds it. Logs.
 */
void mounts_teardown(void);

/* Undoes the "\040" that /proc/mounts writes for blanks, in place. */
void mounts_unescape(char *path);

#endif
