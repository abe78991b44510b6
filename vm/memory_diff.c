/* SPDX-License-Identifier: MIT */
#include "vm/memory_diff.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "vm/crc32.h"
#include "vm/log.h"
#include "vm/memory_file.h"
#include "vm/snapshot_ident.h"
#include "vm/state_file.h"

#define NEW_DIFF SNAPSHOT_DIFF SNAPSHOT_NEW

/* The header. Data begins at DATA_AT, the index is behind it and ends the file. */
#define DIFF_MAGIC   "vinitDIF"
#define DIFF_VERSION 1
#define HEADER_LEN   64
#define AT_VERSION   8
#define AT_PAGE_SIZE 12
#define AT_ID	     16
#define AT_INDEX     32
#define AT_NR	     40
#define AT_ZERO	     48
#define AT_INDEX_CRC 56
#define AT_CRC	     60
#define DATA_AT	     4096

/* A range in the index: u64 gpa, u64 length, u64 where its data is, 0 for zeros. */
#define ENTRY_LEN   24
#define INDEX_BATCH 1024

#define COPY_MAX (256u << 10)

struct range {
	uint64_t gpa, len, data;
};

/* --- ranges out of bitmaps -------------------------------------------------------------------- */

static bool dirty_page(const uint64_t *bitmap, uint64_t page)
{
	return bitmap[page / 64] >> page % 64 & 1;
}

static int bitmaps_next(struct memory_diff_dirty *dirty, uint64_t *gpa, uint64_t *len)
{
	struct memory_diff_bitmaps *b = (struct memory_diff_bitmaps *)dirty;
	uint64_t page_size = b->layout->page_size, start, pages;

	for (; b->region < b->layout->nr; b->region++, b->page = 0) {
		const struct memory_file_region *region = &b->layout->region[b->region];
		const uint64_t *bitmap = b->bitmap[b->region];

		if (!bitmap)
			continue;
		pages = region->size / page_size;
		while (b->page < pages && !dirty_page(bitmap, b->page))
			/* A word without a bit is the usual one. */
			b->page += b->page % 64 || bitmap[b->page / 64] ? 1 : 64;
		if (b->page >= pages)
			continue;
		start = b->page;
		while (b->page < pages && dirty_page(bitmap, b->page))
			b->page++;
		*gpa = region->gpa + start * page_size;
		*len = (b->page - start) * page_size;
		return 1;
	}
	return 0;
}

void memory_diff_bitmaps_init(struct memory_diff_bitmaps *b,
			      const struct memory_file_layout *layout,
			      const uint64_t *const *bitmap)
{
	*b = (struct memory_diff_bitmaps){
		.dirty.next = bitmaps_next, .layout = layout, .bitmap = bitmap
	};
}

/* --- writing ---------------------------------------------------------------------------------- */

struct save {
	const struct snapshot_dir *dir;
	const struct memory_file_layout *layout;
	int fd;
	uint64_t at; /* where the next data goes */
	uint64_t end; /* of what has come so far, as a gpa */
	uint8_t *index;
	uint64_t nr, room;
};

static int add_entry(struct save *s, uint64_t gpa, uint64_t len, uint64_t data)
{
	uint8_t *p;

	if (s->nr == s->room) {
		uint64_t room = s->room ? s->room * 2 : INDEX_BATCH;

		p = realloc(s->index, room * ENTRY_LEN);
		if (!p) {
			log_err("snapshot %s/" NEW_DIFF ": ENOMEM: an index of %" PRIu64 " ranges",
				s->dir->path, room);
			return -ENOMEM;
		}
		s->index = p;
		s->room = room;
	}
	p = s->index + s->nr++ * ENTRY_LEN;
	state_file_store(p, gpa, 8);
	state_file_store(p + 8, len, 8);
	state_file_store(p + 16, data, 8);
	return 0;
}

/* How much is looked at or written until it is asked whether to give up. */
#define LOOK_EVERY (4u << 20)

/* A run of pages at @hva that are all zero, or of which none is. */
static int save_run(struct save *s, uint64_t gpa, const uint8_t *hva, uint64_t len, bool zero)
{
	int ret = add_entry(s, gpa, len, zero ? 0 : s->at);

	if (ret || zero)
		return ret;
	ret = snapshot_dir_write(s->dir, NEW_DIFF, s->fd, hva, len, s->at);
	s->at += len;
	return ret;
}

static int save_range(struct save *s, uint64_t gpa, uint64_t len)
{
	const struct memory_file_region *region = memory_file_layout_find(s->layout, gpa, len);
	uint64_t page = s->layout->page_size, at, start = 0;
	bool zero, run_zero = false;
	const uint8_t *hva;
	int ret;

	if (!region || (gpa | len) & (page - 1) || gpa < s->end) {
		log_err("snapshot %s/" NEW_DIFF ": EINVAL: %#" PRIx64 " bytes at %#" PRIx64
			" are dirty, which are not pages of RAM above those before", s->dir->path,
			len, gpa);
		return -EINVAL;
	}
	s->end = gpa + len;
	hva = region->hva + (gpa - region->gpa);
	for (at = 0; at < len; at += page) {
		zero = memory_file_zero(hva + at, page);
		if (at % LOOK_EVERY == 0 && snapshot_dir_canceled(s->dir))
			return -ECANCELED;
		if (at > start && (zero != run_zero || (!zero && at - start >= LOOK_EVERY))) {
			ret = save_run(s, gpa + start, hva + start, at - start, run_zero);
			if (ret)
				return ret;
			start = at;
		}
		run_zero = zero;
	}
	return save_run(s, gpa + start, hva + start, len - start, run_zero);
}

/* The index, then the header that makes it one. */
static int save_index(struct save *s, const uint8_t *id)
{
	uint8_t h[HEADER_LEN] = { 0 };
	int ret;

	memcpy(h, DIFF_MAGIC, 8);
	state_file_store(h + AT_VERSION, DIFF_VERSION, 4);
	state_file_store(h + AT_PAGE_SIZE, s->layout->page_size, 4);
	memcpy(h + AT_ID, id, SNAPSHOT_ID_LEN);
	state_file_store(h + AT_INDEX, s->at, 8);
	state_file_store(h + AT_NR, s->nr, 8);
	state_file_store(h + AT_INDEX_CRC, crc32(0, s->index, s->nr * ENTRY_LEN), 4);
	state_file_store(h + AT_CRC, crc32(0, h, AT_CRC), 4);
	ret = snapshot_dir_write(s->dir, NEW_DIFF, s->fd, s->index, s->nr * ENTRY_LEN, s->at);
	if (!ret)
		ret = snapshot_dir_write(s->dir, NEW_DIFF, s->fd, h, sizeof(h), 0);
	return ret;
}

int memory_diff_save(const struct snapshot_dir *dir, const struct memory_file_layout *l,
		     const uint8_t id[SNAPSHOT_ID_LEN], struct memory_diff_dirty *dirty)
{
	struct save s = { .dir = dir, .layout = l, .at = DATA_AT };
	uint64_t gpa, len;
	int ret;

	s.fd = snapshot_dir_new_file(dir, NEW_DIFF);
	if (s.fd < 0)
		return s.fd;
	while ((ret = dirty->next(dirty, &gpa, &len)) > 0) {
		ret = save_range(&s, gpa, len);
		if (ret)
			break;
	}
	/* Without data the index is where the data would be: the file has no other form. */
	if (!ret)
		ret = save_index(&s, id);
	if (!ret && !s.nr && ftruncate(s.fd, DATA_AT) < 0) {
		ret = -errno;
		log_err("snapshot %s/" NEW_DIFF ": ftruncate: %s", dir->path, errno_name(ret));
	}
	if (!ret)
		ret = snapshot_dir_sync(dir, NEW_DIFF, s.fd);
	free(s.index);
	close(s.fd);
	if (ret)
		unlinkat(dir->fd, NEW_DIFF, 0);
	return ret;
}

/* --- reading ---------------------------------------------------------------------------------- */

__attribute__((format(printf, 3, 4))) static int refuse(const struct memory_diff *d, int err,
							 const char *fmt, ...)
{
	char text[192];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	log_err("snapshot %s/" SNAPSHOT_DIFF ": %s: %s", d->dir->path, errno_name(err), text);
	return err;
}

/* Walks the index from its start; what it gives is checked each time, since a file can change. */
struct walk {
	uint64_t i;
	uint64_t end;  /* of the range before, as a gpa */
	uint64_t data; /* where the next data must be */
	uint32_t crc;
	uint8_t batch[INDEX_BATCH * ENTRY_LEN];
};

static int check_range(const struct memory_diff *d, struct walk *w, const struct range *range)
{
	if (!memory_file_layout_find(d->layout, range->gpa, range->len) ||
	    (range->gpa | range->len) & (d->page_size - 1))
		return refuse(d, -EBADMSG, "range %" PRIu64 ": %#" PRIx64 " bytes at %#" PRIx64
			      " are not pages of the guest's RAM", w->i, range->len, range->gpa);
	if (w->i && range->gpa < w->end)
		return refuse(d, -EBADMSG, "range %" PRIu64 ": it begins at %#" PRIx64
			      ", the one before it ends at %#" PRIx64, w->i, range->gpa, w->end);
	if (range->data && (range->data != w->data || range->len > d->index - w->data))
		return refuse(d, -EBADMSG, "range %" PRIu64 ": its data is at %#" PRIx64 ", expected %#"
			      PRIx64 " and no more than to %#" PRIx64, w->i, range->data, w->data,
			      d->index);
	return 0;
}

/* 1 with a range, 0 at the end, -errno. */
static int walk_next(const struct memory_diff *d, struct walk *w, struct range *range)
{
	const uint8_t *p = w->batch + w->i % INDEX_BATCH * ENTRY_LEN;
	uint64_t nr;
	int ret;

	if (w->i == d->nr)
		return 0;
	if (w->i % INDEX_BATCH == 0) {
		nr = d->nr - w->i < INDEX_BATCH ? d->nr - w->i : INDEX_BATCH;
		ret = snapshot_dir_read(d->dir, SNAPSHOT_DIFF, d->fd, w->batch, nr * ENTRY_LEN,
					d->index + w->i * ENTRY_LEN);
		if (ret)
			return ret;
		w->crc = crc32(w->crc, w->batch, nr * ENTRY_LEN);
	}
	range->gpa = state_file_load(p, 8);
	range->len = state_file_load(p + 8, 8);
	range->data = state_file_load(p + 16, 8);
	ret = check_range(d, w, range);
	if (ret)
		return ret;
	w->i++;
	w->end = range->gpa + range->len;
	if (range->data)
		w->data += range->len;
	return 1;
}

static struct walk *walk_new(const struct memory_diff *d)
{
	struct walk *w = calloc(1, sizeof(*w));

	if (w)
		w->data = DATA_AT;
	else
		refuse(d, -ENOMEM, "room for a part of its index");
	return w;
}

static int check_index(const struct memory_diff *d, uint32_t crc)
{
	struct walk *w = walk_new(d);
	struct range range;
	int ret;

	if (!w)
		return -ENOMEM;
	do {
		ret = walk_next(d, w, &range);
	} while (ret > 0);
	if (!ret && w->crc != crc)
		ret = refuse(d, -EBADMSG, "the CRC-32 of its index is %#" PRIx32 ", expected %#" PRIx32
			     ": the file is damaged", w->crc, crc);
	if (!ret && w->data != d->index)
		ret = refuse(d, -EBADMSG, "its data ends at %#" PRIx64 ", its index begins at %#" PRIx64,
			     w->data, d->index);
	free(w);
	return ret;
}

static int check_header(struct memory_diff *d, uint64_t size, const uint8_t *id)
{
	uint8_t h[HEADER_LEN];
	uint64_t version;
	int ret;

	ret = snapshot_dir_read(d->dir, SNAPSHOT_DIFF, d->fd, h, sizeof(h), 0);
	if (ret)
		return ret;
	if (memcmp(h, DIFF_MAGIC, 8))
		return refuse(d, -EBADMSG, "it does not begin with \"" DIFF_MAGIC "\"");
	version = state_file_load(h + AT_VERSION, 4);
	if (version != DIFF_VERSION)
		return refuse(d, -EOPNOTSUPP, "it has version %" PRIu64 ", expected %d", version,
			      DIFF_VERSION);
	if (crc32(0, h, AT_CRC) != state_file_load(h + AT_CRC, 4))
		return refuse(d, -EBADMSG, "the CRC-32 of its header is wrong: the file is damaged");
	if (memcmp(h + AT_ID, id, SNAPSHOT_ID_LEN))
		return refuse(d, -ESTALE, "it belongs to the snapshot %s, state to %s",
			      snapshot_ident_text(h + AT_ID).s, snapshot_ident_text(id).s);
	if (state_file_load(h + AT_ZERO, 8))
		return refuse(d, -EBADMSG, "a part of its header that is to be zero is not");
	d->page_size = state_file_load(h + AT_PAGE_SIZE, 4);
	d->index = state_file_load(h + AT_INDEX, 8);
	d->nr = state_file_load(h + AT_NR, 8);
	if (d->page_size != d->layout->page_size)
		return refuse(d, -EBADMSG, "it has pages of %" PRIu64 " bytes, state of %" PRIu64,
			      d->page_size, d->layout->page_size);
	if (d->index < DATA_AT || d->index > size || d->nr > size / ENTRY_LEN ||
	    d->index + d->nr * ENTRY_LEN != size)
		return refuse(d, -EBADMSG, "it has %" PRIu64 " bytes, expected %" PRIu64 " ranges from %#"
			      PRIx64 " on and no more: has it been cut off?", size, d->nr, d->index);
	return check_index(d, state_file_load(h + AT_INDEX_CRC, 4));
}

int memory_diff_open(struct memory_diff *d, const struct snapshot_dir *dir,
		     const struct memory_file_layout *l, const uint8_t id[SNAPSHOT_ID_LEN])
{
	uint64_t size;
	int ret;

	*d = (struct memory_diff){ .dir = dir, .layout = l };
	d->fd = snapshot_dir_open_file(dir, SNAPSHOT_DIFF, O_RDONLY, &size);
	if (d->fd < 0)
		return d->fd;
	ret = check_header(d, size, id);
	if (ret)
		memory_diff_close(d);
	return ret;
}

void memory_diff_close(struct memory_diff *d)
{
	if (d->fd >= 0)
		close(d->fd);
	d->fd = -1;
}

/* --- merging ---------------------------------------------------------------------------------- */

/*
 * Zeros, as a hole where the file system makes one. Elsewhere they are written: @buf is COPY_MAX
 * bytes of room.
 */
static int apply_zeros(const struct snapshot_dir *base, int fd, uint8_t *buf, uint64_t offset,
		       uint64_t len)
{
	uint64_t step;
	int ret = 0;

	if (!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, len))
		return 0;
	memset(buf, 0, COPY_MAX);
	for (; len && !ret; offset += step, len -= step) {
		step = len < COPY_MAX ? len : COPY_MAX;
		ret = snapshot_dir_write(base, SNAPSHOT_MEMORY, fd, buf, step, offset);
	}
	return ret;
}

static int apply_data(const struct memory_diff *d, const struct snapshot_dir *base, int fd,
		      uint8_t *buf, uint64_t offset, const struct range *range)
{
	uint64_t at, step;
	int ret = 0;

	for (at = 0; at < range->len && !ret; at += step) {
		step = range->len - at < COPY_MAX ? range->len - at : COPY_MAX;
		ret = snapshot_dir_read(d->dir, SNAPSHOT_DIFF, d->fd, buf, step, range->data + at);
		if (!ret)
			ret = snapshot_dir_write(base, SNAPSHOT_MEMORY, fd, buf, step, offset + at);
	}
	return ret;
}

int memory_diff_apply(const struct memory_diff *d, const struct snapshot_dir *base,
		      const struct memory_file *f)
{
	const struct memory_file_region *region;
	uint8_t *buf = malloc(COPY_MAX);
	struct walk *w = walk_new(d);
	struct range range;
	uint64_t offset;
	int ret = -ENOMEM;

	while (buf && w) {
		ret = walk_next(d, w, &range);
		if (ret <= 0)
			break;
		region = memory_file_layout_find(d->layout, range.gpa, range.len);
		offset = region->offset + (range.gpa - region->gpa);
		ret = range.data ? apply_data(d, base, f->fd, buf, offset, &range) :
				   apply_zeros(base, f->fd, buf, offset, range.len);
		if (ret)
			break;
	}
	if (!buf)
		refuse(d, -ENOMEM, "%u bytes to copy through", COPY_MAX);
	free(w);
	free(buf);
	return ret;
}
