/* SPDX-License-Identifier: MIT */
/*
 * virtio-blk over a raw file or a block device. Source: VIRTIO 1.2, section 5.2.
 *
 * A disk has a thread, which serves all its queues, and a ring of io_uring. The event loop is not
 * what serves them: what the ring finds in the page cache is copied in the call that submits it (64
 * requests of a megabyte would hold all other devices up), and what no operation of the ring does
 * (discard on a block device, direct I/O with odd buffers) blocks.
 */
#ifndef VIRTIO_BLK_H
#define VIRTIO_BLK_H

#include <stdbool.h>
#include "vm/log.h"

struct virtio_dev;

/* One queue for each vCPU is enough, and no more than these. */
#define BLK_MAX_QUEUES 8

/* How the host carries requests out. */
enum blk_engine {
	BLK_AUTO,  /* by io_uring where the host has it and the image is in no tmpfs, else BLK_SYNC */
	BLK_SYNC,  /* one at a time, by preadv() and pwritev() */
	BLK_URING, /* by io_uring, or not at all: many at a time, completed as they end */
};

struct blk_config {
	const char *path;
	const char *id; /* at most 20 bytes, NULL: "vinit-diskN" by the caller */
	bool readonly;
	bool direct;  /* O_DIRECT */
	bool discard; /* offer DISCARD and WRITE_ZEROES */
	enum blk_engine engine;
	unsigned int queues; /* up to BLK_MAX_QUEUES; 0 is 1. A snapshot's guest knows them */
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
