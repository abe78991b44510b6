/* SPDX-License-Identifier: MIT */
/* virtio-blk over a raw file or a block device. Source: VIRTIO 1.2, section 5.2. */
#ifndef VIRTIO_BLK_H
#define VIRTIO_BLK_H

#include <stdbool.h>
#include "vm/log.h"

struct virtio_dev;

struct blk_config {
	const char *path;
	const char *id; /* at most 20 bytes, NULL: "vinit-diskN" by the caller */
	bool readonly;
	bool direct;  /* O_DIRECT */
	bool discard; /* offer DISCARD and WRITE_ZEROES */
};

/*
 * Opens and locks the image (shared when read-only, exclusive otherwise; held until destroy, across
 * resets). 0 or -errno; an error names the file and the rule it breaks: size not a multiple of 512,
 * in use by another VM, a directory.
 */
int blk_create(struct virtio_dev **dev, const struct blk_config *config);

/*
 * Puts another image behind a disk that is paused, or that no driver uses: opened and locked as the
 * old one was, with as many sectors and the same logical block. The old one is closed. 0 or -errno,
 * with the reason as a sentence in @why; then nothing has changed.
 */
int blk_replace(struct virtio_dev *dev, const char *path, char why[LOG_SENTENCE]);

/* The disk's id, at most 20 bytes, and its image; good until it is destroyed, or replaced. */
const char *blk_id(const struct virtio_dev *dev);
const char *blk_path(const struct virtio_dev *dev);

#endif
