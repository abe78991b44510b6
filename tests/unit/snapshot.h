/* SPDX-License-Identifier: MIT */
/*
 * One section of a snapshot for a test: its payload as it was saved, bent, cut, and loaded again in
 * a file whose checksums are right.
 *
 * Links with vm/crc32.o vm/snapshot_dir.o vm/state_reader.o vm/state_writer.o vm/log.o.
 */
#ifndef TESTS_UNIT_SNAPSHOT_H
#define TESTS_UNIT_SNAPSHOT_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "vm/crc32.h"
#include "vm/state_file.h"
#include "vm/state_reader.h"
#include "vm/state_writer.h"

struct snapshot {
	uint8_t p[8192];
	size_t len;
	int err; /* of the writer */
};

/* The payload of the only section that is in @w, which ends. */
static inline void snapshot_take(struct snapshot *snap, struct state_writer *w)
{
	const size_t at = STATE_FILE_HEADER + STATE_FILE_SECTION;

	snap->err = w->err;
	snap->len = w->err ? 0 : w->len - at;
	if (snap->len > sizeof(snap->p))
		abort();
	if (!w->err)
		memcpy(snap->p, w->buf + at, snap->len);
	state_writer_fini(w);
}

/* A file with nothing but that section, whole. 0 or what the reader says. */
static inline int snapshot_open(struct state_reader *r, const struct snapshot *snap, uint32_t tag,
				uint32_t instance, uint32_t version)
{
	uint8_t end[STATE_FILE_END] = "END\n";
	struct state_writer w;
	int ret;

	state_writer_init(&w, "test");
	state_writer_begin(&w, tag, instance, version);
	state_writer_bytes(&w, snap->p, snap->len);
	state_writer_end(&w);
	state_writer_bytes(&w, end, sizeof(end));
	if (w.err)
		abort();
	state_file_store(w.buf + STATE_FILE_AT_SECTIONS, 1, 4);
	state_file_store(w.buf + STATE_FILE_AT_LENGTH, w.len, 8);
	state_file_store(w.buf + w.len - 4, crc32(0, w.buf, w.len - 4), 4);
	ret = state_reader_open_memory(r, "test", w.buf, w.len, "test");
	state_writer_fini(&w);
	return ret;
}

#ifdef VIRTIO_MMIO_H

static inline void snapshot_save(struct snapshot *snap, struct virtio_mmio *mmio)
{
	struct state_writer w;

	state_writer_init(&w, "test");
	virtio_mmio_save(mmio, &w, 3);
	snapshot_take(snap, &w);
}

static inline int snapshot_load(const struct snapshot *snap, struct virtio_mmio *mmio)
{
	struct state_reader r;
	int ret = snapshot_open(&r, snap, VIRTIO_MMIO_STATE, 3, VIRTIO_MMIO_STATE_VERSION);

	if (ret)
		return ret;
	ret = virtio_mmio_load(mmio, &r, 3);
	if (!ret)
		ret = state_reader_end(&r);
	state_reader_close(&r);
	return ret;
}

#endif

#ifdef TESTS_UNIT_DRIVER_H

/*
 * A second machine with the RAM of @from and @dev, which gets the state of @from's device. @from is
 * paused and stays so. The driver goes on where it was, with virtio_mmio_resume(&to->mmio).
 */
static inline int snapshot_move(struct driver *to, struct virtio_dev *dev, struct driver *from,
				struct snapshot *snap)
{
	if (driver_init(to, dev))
		abort();
	memcpy(to->ram, from->ram, DRIVER_RAM_SIZE);
	to->features = from->features;
	for (unsigned int i = 0; i < VIRTIO_MAX_QUEUES; i++) {
		struct driver_queue *q = &to->q[i];

		*q = from->q[i];
		if (!q->num)
			continue;
		q->desc = (void *)(to->ram + ((uint8_t *)q->desc - from->ram));
		q->avail = (void *)(to->ram + ((uint8_t *)q->avail - from->ram));
		q->used = (void *)(to->ram + ((uint8_t *)q->used - from->ram));
	}
	if (snap->len == 0)
		snapshot_save(snap, &from->mmio);
	return snapshot_load(snap, &to->mmio);
}

#endif
#endif
