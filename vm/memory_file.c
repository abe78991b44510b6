/* SPDX-License-Identifier: MIT */
#include "vm/memory_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "vm/crc32.h"
#include "vm/log.h"
#include "vm/memory.h"
#include "vm/snapshot_ident.h"
#include "vm/state_reader.h"
#include "vm/state_writer.h"

#define NEW_MEMORY SNAPSHOT_MEMORY SNAPSHOT_NEW

/*
 * The trailer, which follows the regions: whose memory this is, and what is being merged into it,
 * zeros for nothing. Each part is written alone, so that of a write that was cut short the other
 * one is left to go on from.
 */
#define OWNER_MAGIC   "vinitMEM"
#define OWNER_VERSION 1
#define OWNER_LEN     64
#define AT_VERSION    8
#define AT_ID	      16
#define AT_DATA_SIZE  32
#define MERGE_MAGIC   "vinitMRG"
#define MERGE_LEN     64
#define AT_CRC	      60 /* of the 60 bytes before; in both */
#define TRAILER_LEN   (OWNER_LEN + MERGE_LEN)

/* Whatever guest there is can be saved. */
_Static_assert(MEMORY_MAX_REGIONS <= MEMORY_FILE_MAX_REGIONS, "regions of a guest in a snapshot");

/* Less than a file can be, and no sum of as many aligned sizes wraps. */
#define REGION_MAX (1ull << 52)

/* Bits of /proc/PID/pagemap: Linux Documentation/admin-guide/mm/pagemap.rst. */
#define PAGEMAP_PRESENT (1ull << 63)
#define PAGEMAP_SWAP	(1ull << 62)

static uint64_t host_page(void)
{
	return getpagesize();
}

void memory_file_layout_init(struct memory_file_layout *l)
{
	memset(l, 0, sizeof(*l));
	l->page_size = host_page();
}

/* Appends, or says why not. */
static const char *append(struct memory_file_layout *l, uint64_t gpa, uint64_t size, uint8_t *hva,
			  int backing_fd)
{
	const struct memory_file_region *last = l->nr ? &l->region[l->nr - 1] : NULL;

	if (l->nr == MEMORY_FILE_MAX_REGIONS)
		return "one region too many";
	if (!size || size > REGION_MAX || gpa + size < gpa)
		return "its size cannot be";
	if ((gpa | size) & (l->page_size - 1))
		return "not a multiple of the page size";
	if (last && gpa < last->gpa + last->size)
		return "not above the region before it";
	l->region[l->nr++] = (struct memory_file_region){
		.gpa = gpa, .size = size, .offset = l->data_size, .hva = hva,
		.backing_fd = backing_fd
	};
	l->data_size += (size + MEMORY_FILE_ALIGN - 1) & -MEMORY_FILE_ALIGN;
	return NULL;
}

int memory_file_layout_add(struct memory_file_layout *l, uint64_t gpa, uint64_t size, uint8_t *hva,
			   int backing_fd)
{
	const char *why = append(l, gpa, size, hva, backing_fd);

	if (!why)
		return 0;
	log_err("snapshot: EINVAL: RAM at %#" PRIx64 ", %#" PRIx64 " bytes: %s", gpa, size, why);
	return -EINVAL;
}

void memory_file_layout_put(const struct memory_file_layout *l, struct state_writer *w)
{
	state_writer_begin(w, STATE_TAG_MEMORY, 0, MEMORY_FILE_LAYOUT_VERSION);
	state_writer_u64(w, l->page_size);
	state_writer_u32(w, l->nr);
	for (unsigned int i = 0; i < l->nr; i++) {
		state_writer_u64(w, l->region[i].gpa);
		state_writer_u64(w, l->region[i].size);
	}
	state_writer_end(w);
}

int memory_file_layout_get(struct memory_file_layout *l, const struct state_reader *r)
{
	struct state_section s;
	uint64_t gpa, size;
	const char *why;
	uint32_t nr;
	int ret;

	memset(l, 0, sizeof(*l));
	ret = state_reader_section(r, &s, STATE_TAG_MEMORY, 0);
	if (ret)
		return ret;
	if (s.version != MEMORY_FILE_LAYOUT_VERSION)
		return state_reader_bad(&s, "it has version %" PRIu32 ", expected %d", s.version,
					MEMORY_FILE_LAYOUT_VERSION);
	l->page_size = state_reader_u64(&s);
	if (!s.err && (l->page_size < 512 || l->page_size > MEMORY_FILE_ALIGN ||
		       l->page_size & (l->page_size - 1)))
		state_reader_bad(&s, "pages of %" PRIu64 " bytes", l->page_size);
	nr = state_reader_number(&s, MEMORY_FILE_MAX_REGIONS, 16);
	for (uint32_t i = 0; i < nr && !s.err; i++) {
		gpa = state_reader_u64(&s);
		size = state_reader_u64(&s);
		why = s.err ? NULL : append(l, gpa, size, NULL, MEMORY_FILE_OTHER);
		if (why)
			state_reader_bad(&s, "RAM at %#" PRIx64 ", %#" PRIx64 " bytes: %s", gpa,
					 size, why);
	}
	if (!s.err && !nr)
		state_reader_bad(&s, "no RAM");
	return state_reader_section_end(&s);
}

bool memory_file_layout_same(const struct memory_file_layout *a,
			     const struct memory_file_layout *b)
{
	if (a->nr != b->nr)
		return false;
	for (unsigned int i = 0; i < a->nr; i++) {
		if (a->region[i].gpa != b->region[i].gpa || a->region[i].size != b->region[i].size)
			return false;
	}
	return true;
}

const struct memory_file_region *memory_file_layout_find(const struct memory_file_layout *l,
							 uint64_t gpa, uint64_t len)
{
	for (unsigned int i = 0; i < l->nr; i++) {
		const struct memory_file_region *region = &l->region[i];
		uint64_t offset = gpa - region->gpa;

		if (gpa >= region->gpa && offset < region->size)
			return len && len <= region->size - offset ? region : NULL;
	}
	return NULL;
}

bool memory_file_zero(const uint8_t *p, size_t len)
{
	const uint64_t *word = (const uint64_t *)p;
	uint64_t any;

	/* A cache line at a time; most pages that are not zero end it at the first. */
	for (; len; len -= 64, word += 8) {
		any = word[0] | word[1] | word[2] | word[3] | word[4] | word[5] | word[6] | word[7];
		if (any)
			return false;
	}
	return true;
}

/* --- what is in memory, without a look at it -------------------------------------------------- */

/* Where a file has data, asked upwards. */
struct extent {
	uint64_t from, to; /* the next data at or above what was asked last */
};

/* Is [@offset, ...) of the region's backing a hole? A file that cannot say has data everywhere. */
static bool backing_hole(struct extent *data, int fd, uint64_t offset)
{
	off_t at;

	if (offset >= data->to) {
		data->from = data->to = UINT64_MAX;
		at = lseek(fd, offset, SEEK_DATA);
		if (at < 0 && errno == ENXIO)
			return true;
		data->from = at < 0 ? offset : (uint64_t)at;
		at = at < 0 ? -1 : lseek(fd, at, SEEK_HOLE);
		if (at >= 0)
			data->to = at;
	}
	return offset < data->from;
}

#define SCAN_PAGES 512

struct scan {
	int pagemap; /* -1: every page has to be looked at */
	uint64_t page_size;
	struct extent data;
	unsigned int nr;
	uint64_t entry[SCAN_PAGES]; /* of the nr pages from the one asked for last */
};

/* Fetches what is known of up to SCAN_PAGES pages at @p. */
static void scan_fetch(struct scan *s, const uint8_t *p, uint64_t pages)
{
	off_t at = (uintptr_t)p / s->page_size * sizeof(s->entry[0]);
	size_t want;

	s->nr = pages < SCAN_PAGES ? pages : SCAN_PAGES;
	want = s->nr * sizeof(s->entry[0]);
	if (s->pagemap < 0 || pread(s->pagemap, s->entry, want, at) != (ssize_t)want)
		memset(s->entry, 0xff, want);
}

/*
 * Opens what the kernel knows of this process's pages. It has to know that the page which has just
 * been written is there: under an emulation the file may speak of other addresses than ours.
 */
static void scan_open(struct scan *s)
{
	const char *why;

	s->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	why = errno_name(errno);
	if (s->pagemap >= 0) {
		scan_fetch(s, (const uint8_t *)s, 1);
		if (s->entry[0] != UINT64_MAX && s->entry[0] & PAGEMAP_PRESENT)
			return;
		close(s->pagemap);
		s->pagemap = -1;
		why = "it speaks of other pages";
	}
	log_debug("/proc/self/pagemap: %s: every page of the guest is compared with zero", why);
}

/* Whether page @i of those is known to be zeros. */
static bool scan_absent(struct scan *s, unsigned int i, const struct memory_file_region *region,
			uint64_t offset)
{
	if (s->entry[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAP))
		return false;
	if (region->backing_fd < 0)
		return region->backing_fd == MEMORY_FILE_ANON;
	/* Holes have the granularity of the file's blocks: ask about both ends of the page. */
	offset += region->backing_offset;
	return backing_hole(&s->data, region->backing_fd, offset) &&
	       offset + s->page_size <= s->data.from;
}

/* --- writing ---------------------------------------------------------------------------------- */

/* So that one write can be interrupted, and a file system asked for room, now and then. */
#define WRITE_MAX (4ull << 20)

static int save_region(const struct snapshot_dir *dir, int fd, struct scan *s,
		       const struct memory_file_region *region)
{
	uint64_t page = s->page_size, at, start = 0, len = 0;
	unsigned int i = 0;
	bool zero;
	int ret;

	s->nr = 0;
	s->data = (struct extent){ 0, 0 };
	for (at = 0; at < region->size; at += page, i++) {
		if (i == s->nr) {
			if (snapshot_dir_canceled(dir))
				return -ECANCELED;
			scan_fetch(s, region->hva + at, (region->size - at) / page);
			i = 0;
		}
		zero = scan_absent(s, i, region, at) || memory_file_zero(region->hva + at, page);
		if (len && (zero || len >= WRITE_MAX)) {
			ret = snapshot_dir_write(dir, NEW_MEMORY, fd, region->hva + start, len,
						 region->offset + start);
			if (ret)
				return ret;
			len = 0;
		}
		if (!zero) {
			start = len ? start : at;
			len += page;
		}
	}
	if (!len)
		return 0;
	return snapshot_dir_write(dir, NEW_MEMORY, fd, region->hva + start, len,
				  region->offset + start);
}

static int write_owner(const struct snapshot_dir *dir, const char *name, int fd, uint64_t data_size,
		       const uint8_t *id)
{
	uint8_t t[OWNER_LEN] = { 0 };

	memcpy(t, OWNER_MAGIC, 8);
	state_file_store(t + AT_VERSION, OWNER_VERSION, 4);
	memcpy(t + AT_ID, id, SNAPSHOT_ID_LEN);
	state_file_store(t + AT_DATA_SIZE, data_size, 8);
	state_file_store(t + AT_CRC, crc32(0, t, AT_CRC), 4);
	return snapshot_dir_write(dir, name, fd, t, sizeof(t), data_size);
}

/* With no @next: nothing is being merged. */
static int write_merge(const struct snapshot_dir *dir, const char *name, int fd, uint64_t data_size,
		       const uint8_t *next)
{
	uint8_t t[MERGE_LEN] = { 0 };

	if (next) {
		memcpy(t, MERGE_MAGIC, 8);
		memcpy(t + AT_ID, next, SNAPSHOT_ID_LEN);
		state_file_store(t + AT_CRC, crc32(0, t, AT_CRC), 4);
	}
	return snapshot_dir_write(dir, name, fd, t, sizeof(t), data_size + OWNER_LEN);
}

/* Cut short beneath the guest, it would be saved as zeros: it is lost. */
static int check_backing(const struct snapshot_dir *dir, const struct memory_file_region *region)
{
	struct stat st;

	if (region->backing_fd < 0 || (!fstat(region->backing_fd, &st) && st.st_size >= 0 &&
	    (uint64_t)st.st_size >= region->backing_offset + region->size))
		return 0;
	log_err("snapshot %s: EIO: the memory file that the guest was restored from has been cut short",
		dir->path);
	return -EIO;
}

int memory_file_save(const struct snapshot_dir *dir, const struct memory_file_layout *l,
		     const uint8_t id[SNAPSHOT_ID_LEN])
{
	struct scan s = { .page_size = host_page() };
	int fd, ret;

	fd = snapshot_dir_new_file(dir, NEW_MEMORY);
	if (fd < 0)
		return fd;
	scan_open(&s);
	/* The end comes first: a file that cannot be so long is known at once. */
	ret = write_merge(dir, NEW_MEMORY, fd, l->data_size, NULL);
	if (!ret)
		ret = write_owner(dir, NEW_MEMORY, fd, l->data_size, id);
	for (unsigned int i = 0; i < l->nr && !ret; i++)
		ret = check_backing(dir, &l->region[i]);
	for (unsigned int i = 0; i < l->nr && !ret; i++)
		ret = save_region(dir, fd, &s, &l->region[i]);
	if (!ret)
		ret = snapshot_dir_sync(dir, NEW_MEMORY, fd);
	if (s.pagemap >= 0)
		close(s.pagemap);
	close(fd);
	if (ret)
		unlinkat(dir->fd, NEW_MEMORY, 0);
	return ret;
}

/* --- reading ---------------------------------------------------------------------------------- */

static int bad(const struct snapshot_dir *dir, int err, const char *what)
{
	log_err("snapshot %s/" SNAPSHOT_MEMORY ": %s: %s", dir->path, errno_name(err), what);
	return err;
}

static bool all_zero(const uint8_t *p, size_t len)
{
	while (len && !*p) {
		p++;
		len--;
	}
	return !len;
}

static int read_trailer(struct memory_file *f, const struct snapshot_dir *dir)
{
	uint8_t t[TRAILER_LEN], *merge = t + OWNER_LEN;
	uint64_t version;
	int ret;

	ret = snapshot_dir_read(dir, SNAPSHOT_MEMORY, f->fd, t, sizeof(t), f->data_size);
	if (ret)
		return ret;
	if (memcmp(t, OWNER_MAGIC, 8))
		return bad(dir, -EBADMSG, "it does not end with a trailer \"" OWNER_MAGIC "\"");
	version = state_file_load(t + AT_VERSION, 4);
	if (version != OWNER_VERSION) {
		log_err("snapshot %s/" SNAPSHOT_MEMORY ": EOPNOTSUPP: its trailer has version %" PRIu64
			", expected %d", dir->path, version, OWNER_VERSION);
		return -EOPNOTSUPP;
	}
	f->owned = crc32(0, t, AT_CRC) == state_file_load(t + AT_CRC, 4) &&
		   state_file_load(t + AT_DATA_SIZE, 8) == f->data_size;
	if (f->owned)
		memcpy(f->id, t + AT_ID, SNAPSHOT_ID_LEN);
	f->merging = !all_zero(merge, MERGE_LEN);
	f->known = f->merging && !memcmp(merge, MERGE_MAGIC, 8) &&
		   crc32(0, merge, AT_CRC) == state_file_load(merge + AT_CRC, 4);
	if (f->known)
		memcpy(f->next, merge + AT_ID, SNAPSHOT_ID_LEN);
	return 0;
}

static int open_locked(struct memory_file *f, const struct snapshot_dir *dir,
		       const struct memory_file_layout *l, int flags, int lock)
{
	uint64_t size;
	int ret;

	memset(f, 0, sizeof(*f));
	f->data_size = l->data_size;
	f->fd = snapshot_dir_open_file(dir, SNAPSHOT_MEMORY, flags, &size);
	if (f->fd < 0)
		return f->fd;
	if (size != l->data_size + TRAILER_LEN) {
		/* A page of it that is not in the file would be a SIGBUS, minutes later. */
		log_err("snapshot %s/" SNAPSHOT_MEMORY ": EBADMSG: it has %" PRIu64
			" bytes, expected %" PRIu64 ": has it been cut off?", dir->path, size,
			l->data_size + TRAILER_LEN);
		ret = -EBADMSG;
	} else if (flock(f->fd, lock | LOCK_NB) < 0) {
		ret = errno == EWOULDBLOCK ? -EBUSY : -errno;
		bad(dir, ret, lock == LOCK_SH ? "something is being merged into it" :
			      "a guest runs on it, or another merge: it cannot be changed now");
	} else {
		ret = read_trailer(f, dir);
	}
	if (ret)
		memory_file_close(f);
	return ret;
}

int memory_file_open(struct memory_file *f, const struct snapshot_dir *dir,
		     const struct memory_file_layout *l, const uint8_t id[SNAPSHOT_ID_LEN])
{
	int ret = open_locked(f, dir, l, O_RDONLY, LOCK_SH);

	if (ret)
		return ret;
	if (f->merging) {
		log_err("snapshot %s/" SNAPSHOT_MEMORY ": ESTALE: a merge of the diff %s into it did not "
			"end: run it again", dir->path,
			f->known ? snapshot_ident_text(f->next).s : "that was the next");
		ret = -ESTALE;
	} else if (!f->owned) {
		ret = bad(dir, -EBADMSG, "its trailer is damaged, or of a file of another size");
	} else if (memcmp(f->id, id, SNAPSHOT_ID_LEN)) {
		log_err("snapshot %s/" SNAPSHOT_MEMORY ": ESTALE: it belongs to the snapshot %s, state to %s",
			dir->path, snapshot_ident_text(f->id).s, snapshot_ident_text(id).s);
		ret = -ESTALE;
	}
	if (ret)
		memory_file_close(f);
	return ret;
}

int memory_file_open_merge(struct memory_file *f, const struct snapshot_dir *dir,
			   const struct memory_file_layout *l)
{
	return open_locked(f, dir, l, O_RDWR, LOCK_EX);
}

void memory_file_close(struct memory_file *f)
{
	if (f->fd >= 0)
		close(f->fd);
	f->fd = -1;
}

int memory_file_merge_begin(struct memory_file *f, const struct snapshot_dir *dir,
			    const uint8_t next[SNAPSHOT_ID_LEN])
{
	int ret = write_merge(dir, SNAPSHOT_MEMORY, f->fd, f->data_size, next);

	return ret ? ret : snapshot_dir_sync(dir, SNAPSHOT_MEMORY, f->fd);
}

int memory_file_merge_end(struct memory_file *f, const struct snapshot_dir *dir,
			  const uint8_t id[SNAPSHOT_ID_LEN])
{
	int ret = write_owner(dir, SNAPSHOT_MEMORY, f->fd, f->data_size, id);

	if (!ret)
		ret = snapshot_dir_sync(dir, SNAPSHOT_MEMORY, f->fd);
	if (!ret)
		ret = write_merge(dir, SNAPSHOT_MEMORY, f->fd, f->data_size, NULL);
	return ret ? ret : snapshot_dir_sync(dir, SNAPSHOT_MEMORY, f->fd);
}

int memory_file_map(const struct memory_file *f, const struct snapshot_dir *dir,
		    struct memory_file_layout *l)
{
	uint64_t page = host_page();
	unsigned int i;
	void *p;
	int ret;

	for (i = 0; i < l->nr; i++) {
		const struct memory_file_region *region = &l->region[i];

		if ((region->size | region->offset | (uintptr_t)region->hva) & (page - 1) ||
		    !region->hva || l->data_size != f->data_size) {
			log_err("snapshot %s/" SNAPSHOT_MEMORY ": EINVAL: RAM at %#" PRIx64 ", %#" PRIx64
				" bytes cannot be mapped here, with pages of %" PRIu64
				"; it was written with pages of %" PRIu64, dir->path, region->gpa,
				region->size, page, l->page_size);
			return -EINVAL;
		}
	}
	for (i = 0; i < l->nr; i++) {
		struct memory_file_region *region = &l->region[i];

		p = mmap(region->hva, region->size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED, f->fd, region->offset);
		if (p == MAP_FAILED) {
			ret = -errno;
			log_err("snapshot %s/" SNAPSHOT_MEMORY ": mmap: %s", dir->path, errno_name(ret));
			return ret;
		}
		region->backing_fd = f->fd;
		region->backing_offset = region->offset;
		/* Advice, as for all guest RAM. */
		madvise(p, region->size, MADV_DONTDUMP);
		madvise(p, region->size, MADV_DONTFORK);
	}
	return 0;
}
