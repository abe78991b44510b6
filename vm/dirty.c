/* SPDX-License-Identifier: MIT */
#include "vm/dirty.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/userfaultfd.h>
#include "vm/kvm.h"
#include "vm/log.h"

/* Newer than Linux 6.1's headers: userfaultfd.h, and fs.h of 6.7. */
#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

/*
 * struct page_region and struct pm_scan_arg of PAGEMAP_SCAN
 * (Documentation/admin-guide/mm/pagemap.rst).
 */
struct scan_range {
	uint64_t start, end; /* host addresses */
	uint64_t categories;
};

struct scan_arg {
	uint64_t size;
	uint64_t flags;
	uint64_t start, end;
	uint64_t walk_end; /* where it stopped: when vec is full, before the end */
	uint64_t vec, vec_len;
	uint64_t max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask;
	uint64_t return_mask;
};

#define SCAN		_IOWR('f', 16, struct scan_arg)
#define SCAN_WP		1 /* protects again what it reports, in the same step */
#define SCAN_CHECK_WP	2 /* EPERM where there is no asynchronous protection */
#define SCAN_WRITTEN	2
#define SCAN_RANGES	256

#define SOFT_DIRTY	(1ull << 55) /* in a word of /proc/self/pagemap */
#define SOFT_BATCH	1024	     /* words a read */
#define UFFD_TRIES	100	     /* EAGAIN: the address space is changing under it */

struct dirty {
	enum dirty_method method;
	int uffd;    /* -1, as both below, where the method has no use for it */
	int pagemap; /* /proc/self/pagemap */
	int clear;   /* /proc/self/clear_refs */
};

const char *dirty_method_name(enum dirty_method method)
{
	static const char name[DIRTY_METHODS][17] = {
		[DIRTY_WRITE_PROTECT] = "write protection",
		[DIRTY_SOFT] = "soft-dirty bits",
		[DIRTY_ALL] = "none",
	};

	return name[method];
}

bool dirty_on(const struct memory *mem)
{
	return mem->dirty;
}

enum dirty_method dirty_method(const struct memory *mem)
{
	return mem->dirty->method;
}

/*
 * --- the bitmap: what is kept, and as many words for KVM to write into -------------------------
 */

static uint64_t page_size(void)
{
	return (uint64_t)getpagesize();
}

static size_t nr_words(const struct memory_region *region)
{
	return (region->size / page_size() + 63) / 64;
}

static uint64_t *bitmap_new(const struct memory_region *region)
{
	return calloc(2 * nr_words(region), sizeof(uint64_t));
}

/* Pages @first to @first + @nr - 1, of which the region has some. */
static void set_pages(struct memory_region *region, uint64_t first, uint64_t nr)
{
	uint64_t total = region->size / page_size();

	if (first >= total)
		return;
	if (nr > total - first)
		nr = total - first;
	for (uint64_t i = first; i < first + nr; i++)
		region->dirty[i / 64] |= 1ull << i % 64;
}

static void set_all(struct memory_region *region)
{
	set_pages(region, 0, region->size / page_size());
}

const uint64_t *dirty_bitmap(const struct memory_region *region, size_t *words)
{
	*words = nr_words(region);
	return region->dirty;
}

/*
 * --- asynchronous write protection ---------------------------------------------------------------
 */

static int uffd_ioctl(const struct dirty *dirty, unsigned long request, void *arg)
{
	int ret, tries = 0;

	do
		ret = kvm_ioctl_raw(dirty->uffd, request, arg);
	while ((ret == -EAGAIN || ret == -EINTR) && ++tries < UFFD_TRIES);
	return ret < 0 ? ret : 0;
}

static int wp_open(struct dirty *dirty)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED,
	};

	/*
	 * USER_MODE_ONLY is what an unprivileged process gets. The kernel's own faults are missed
	 * by whoever wants to be told; this mode tells nobody, and catches them all the same.
	 */
	dirty->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	if (dirty->uffd < 0)
		return -errno;
	dirty->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (dirty->pagemap < 0)
		return -errno;
	return uffd_ioctl(dirty, UFFDIO_API, &api);
}

static int wp_begin(const struct dirty *dirty, const struct memory_region *region)
{
	struct uffdio_range range = { (uintptr_t)region->hva, region->size };
	struct uffdio_register reg = { .range = range, .mode = UFFDIO_REGISTER_MODE_WP };
	struct uffdio_writeprotect wp = { .range = range, .mode = UFFDIO_WRITEPROTECT_MODE_WP };
	int ret = uffd_ioctl(dirty, UFFDIO_REGISTER, &reg);

	return ret ? ret : uffd_ioctl(dirty, UFFDIO_WRITEPROTECT, &wp);
}

static void wp_end(const struct dirty *dirty, const struct memory_region *region)
{
	struct uffdio_range range = { (uintptr_t)region->hva, region->size };

	uffd_ioctl(dirty, UFFDIO_UNREGISTER, &range);
}

static int wp_collect(const struct dirty *dirty, struct memory_region *region)
{
	const uint64_t start = (uintptr_t)region->hva, page = page_size();
	struct scan_range range[SCAN_RANGES];
	struct scan_arg arg = {
		.size = sizeof(arg),
		.flags = SCAN_WP | SCAN_CHECK_WP,
		.start = start,
		.end = start + region->size,
		.vec = (uintptr_t)range,
		.vec_len = SCAN_RANGES,
		.category_mask = SCAN_WRITTEN,
		.return_mask = SCAN_WRITTEN,
	};

	while (arg.start < arg.end) {
		int nr = kvm_ioctl_raw(dirty->pagemap, SCAN, &arg);

		if (nr == -EINTR)
			continue;
		if (nr < 0 || nr > SCAN_RANGES)
			return nr < 0 ? nr : -EIO;
		for (int i = 0; i < nr; i++)
			set_pages(region, (range[i].start - start) / page,
				  (range[i].end - range[i].start) / page);
		/* It always gets on, but a loop without end would be worse than an error. */
		if (arg.walk_end <= arg.start)
			return -EIO;
		arg.start = arg.walk_end;
	}
	return 0;
}

/*
 * --- soft-dirty bits -----------------------------------------------------------------------------
 */

/* Of the whole process; nobody else in it uses them. */
static int soft_clear(const struct dirty *dirty)
{
	return pwrite(dirty->clear, "4", 1, 0) == 1 ? 0 : -errno;
}

static int soft_collect(const struct dirty *dirty, struct memory_region *region)
{
	const uint64_t first = (uintptr_t)region->hva / page_size(), nr = region->size / page_size();
	uint64_t word[SOFT_BATCH];

	for (uint64_t at = 0; at < nr;) {
		size_t want = nr - at < SOFT_BATCH ? nr - at : SOFT_BATCH;
		ssize_t got = pread(dirty->pagemap, word, want * 8, (off_t)((first + at) * 8));

		if (got < 8)
			return got < 0 ? -errno : -EIO;
		for (size_t i = 0; i < (size_t)got / 8; i++) {
			if (word[i] & SOFT_DIRTY)
				set_pages(region, at + i, 1);
		}
		at += (size_t)got / 8;
	}
	return 0;
}

/* A kernel without them takes all that is written to clear_refs too, and shows no bits. */
static int soft_try(struct dirty *dirty)
{
	uint64_t page = page_size(), bit[2] = { 0 };
	struct memory_region region = { .size = page, .dirty = bit };
	int ret;

	region.hva = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (region.hva == MAP_FAILED)
		return -errno;
	*(volatile uint8_t *)region.hva = 1;
	ret = soft_clear(dirty);
	if (!ret)
		ret = soft_collect(dirty, &region);
	if (!ret && bit[0])
		ret = -EOPNOTSUPP;
	*(volatile uint8_t *)region.hva = 2;
	if (!ret)
		ret = soft_collect(dirty, &region);
	if (!ret && !bit[0])
		ret = -EOPNOTSUPP;
	munmap(region.hva, page);
	return ret;
}

static int soft_open(struct dirty *dirty)
{
	dirty->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (dirty->pagemap < 0)
		return -errno;
	dirty->clear = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
	if (dirty->clear < 0)
		return -errno;
	return soft_try(dirty);
}

/*
 * --- whichever the host has ----------------------------------------------------------------------
 */

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Closing the userfaultfd takes all protection away. */
static void method_close(struct dirty *dirty)
{
	close_fd(&dirty->uffd);
	close_fd(&dirty->pagemap);
	close_fd(&dirty->clear);
}

static int method_open(struct dirty *dirty, const struct memory *mem)
{
	int ret = 0;

	switch (dirty->method) {
	case DIRTY_WRITE_PROTECT:
		ret = wp_open(dirty);
		for (unsigned int i = 0; i < mem->nr && !ret; i++)
			ret = wp_begin(dirty, &mem->region[i]);
		break;
	case DIRTY_SOFT:
		ret = soft_open(dirty);
		break;
	default:
		log_warn("dirty log: the host can't tell which pages devices write (Linux 6.7 and up can, "
			 "with /proc and userfaultfd): all of RAM counts as written");
	}
	if (ret) {
		log_debug("dirty log: no %s: %s", dirty_method_name(dirty->method), errno_name(ret));
		method_close(dirty);
	}
	return ret;
}

static int method_collect(const struct dirty *dirty, struct memory_region *region)
{
	switch (dirty->method) {
	case DIRTY_WRITE_PROTECT:
		return wp_collect(dirty, region);
	case DIRTY_SOFT:
		return soft_collect(dirty, region);
	default:
		set_all(region);
		return 0;
	}
}

/* KVM's log of the region is turned on or off, as its bitmap says. The first @nr regions. */
static int kvm_log(const struct memory *mem, unsigned int nr, bool on, unsigned int *done)
{
	for (*done = 0; *done < nr; (*done)++) {
		struct memory_region region = mem->region[*done];
		int ret;

		if (!on)
			region.dirty = NULL;
		ret = memory_set_slot(mem, &region, true);
		if (ret)
			return ret;
	}
	return 0;
}

static void free_bitmaps(struct memory *mem)
{
	for (unsigned int i = 0; i < mem->nr; i++) {
		free(mem->region[i].dirty);
		mem->region[i].dirty = NULL;
	}
}

void dirty_fini(struct memory *mem)
{
	free_bitmaps(mem);
	if (mem->dirty)
		method_close(mem->dirty);
	free(mem->dirty);
	mem->dirty = NULL;
}

int dirty_enable_from(struct memory *mem, enum dirty_method method, char why[LOG_SENTENCE])
{
	struct dirty *dirty = mem->dirty;
	unsigned int done;
	int ret;

	if (dirty)
		return 0;
	dirty = calloc(1, sizeof(*dirty));
	if (!dirty)
		return log_refuse(why, -ENOMEM, "dirty log: out of memory");
	*dirty = (struct dirty){ .method = method, .uffd = -1, .pagemap = -1, .clear = -1 };
	mem->dirty = dirty;
	for (unsigned int i = 0; i < mem->nr; i++) {
		mem->region[i].dirty = bitmap_new(&mem->region[i]);
		if (!mem->region[i].dirty) {
			ret = log_refuse(why, -ENOMEM, "dirty log: out of memory for its bitmaps");
			goto err;
		}
	}
	/* The last one needs nothing of the host's. */
	while (method_open(dirty, mem))
		dirty->method++;
	ret = kvm_log(mem, mem->nr, true, &done);
	if (ret) {
		log_refuse(why, ret, "dirty log: KVM does not log slot %u: %s", mem->region[done].slot,
			   errno_name(ret));
		kvm_log(mem, done, false, &done);
		goto err;
	}
	log_debug("dirty log: on, devices' writes by: %s", dirty_method_name(dirty->method));
	return 0;

err:
	dirty_fini(mem);
	return ret;
}

int dirty_enable(struct memory *mem, char why[LOG_SENTENCE])
{
	return dirty_enable_from(mem, DIRTY_WRITE_PROTECT, why);
}

int dirty_disable(struct memory *mem, char why[LOG_SENTENCE])
{
	unsigned int done, again;
	int ret;

	if (!mem->dirty)
		return 0;
	ret = kvm_log(mem, mem->nr, false, &done);
	if (ret) {
		log_refuse(why, ret, "dirty log: KVM goes on logging slot %u: %s",
			   mem->region[done].slot, errno_name(ret));
		/* KVM has thrown away what it knew of these. */
		for (unsigned int i = 0; i < done; i++)
			set_all(&mem->region[i]);
		kvm_log(mem, done, true, &again);
		return ret;
	}
	dirty_fini(mem);
	return 0;
}

/* One region's log of KVM's, which clears it. The words behind what is kept take it. */
static int kvm_collect(const struct memory *mem, struct memory_region *region)
{
	size_t words = nr_words(region);
	uint64_t *log = region->dirty + words;
	struct kvm_dirty_log arg = { .slot = region->slot, .dirty_bitmap = log };
	uint64_t pages = region->size / page_size();
	int ret;

	if (mem->vm_fd < 0)
		return 0;
	memset(log, 0, words * sizeof(*log));
	ret = kvm_ioctl(mem->vm_fd, KVM_GET_DIRTY_LOG, &arg);
	if (ret < 0)
		return ret;
	/* Bits beyond the end mean nothing. */
	if (pages % 64)
		log[words - 1] &= (1ull << pages % 64) - 1;
	for (size_t i = 0; i < words; i++)
		region->dirty[i] |= log[i];
	return 0;
}

int dirty_collect(struct memory *mem, char why[LOG_SENTENCE])
{
	int ret;

	if (!mem->dirty)
		return log_refuse(why, -EINVAL, "dirty log: it is off");
	for (unsigned int i = 0; i < mem->nr; i++) {
		struct memory_region *region = &mem->region[i];

		ret = kvm_collect(mem, region);
		if (ret)
			return log_refuse(why, ret, "dirty log: KVM_GET_DIRTY_LOG of slot %u: %s",
					  region->slot, errno_name(ret));
		ret = method_collect(mem->dirty, region);
		if (ret) {
			/* Whatever it has cleared by now is not known. */
			log_warn("dirty log: slot %u: %s: %s: all of it counts as written", region->slot,
				 dirty_method_name(mem->dirty->method), errno_name(ret));
			set_all(region);
		}
	}
	/* Nothing is written between the two: the machine is still. */
	ret = mem->dirty->method == DIRTY_SOFT ? soft_clear(mem->dirty) : 0;
	if (ret)
		return log_refuse(why, ret, "dirty log: /proc/self/clear_refs: %s", errno_name(ret));
	return 0;
}

/* The first page from @at on whose bit is @set, or @pages. */
static uint64_t next_page(const uint64_t *bits, uint64_t at, uint64_t pages, bool set)
{
	while (at < pages) {
		uint64_t word = (set ? bits[at / 64] : ~bits[at / 64]) >> at % 64;

		if (word) {
			at += (uint64_t)__builtin_ctzll(word);
			return at < pages ? at : pages;
		}
		at = (at / 64 + 1) * 64;
	}
	return pages;
}

int dirty_each(const struct memory *mem, dirty_fn *fn, void *opaque)
{
	const uint64_t page = page_size();

	for (unsigned int i = 0; i < mem->nr; i++) {
		const struct memory_region *region = &mem->region[i];
		uint64_t pages = region->dirty ? region->size / page : 0;
		uint64_t from = next_page(region->dirty, 0, pages, true);

		while (from < pages) {
			uint64_t to = next_page(region->dirty, from, pages, false);
			int ret = fn(opaque, region->gpa + from * page, (to - from) * page,
				     region->hva + from * page);

			if (ret)
				return ret;
			from = next_page(region->dirty, to, pages, true);
		}
	}
	return 0;
}

void dirty_clear(struct memory *mem)
{
	for (unsigned int i = 0; i < mem->nr; i++) {
		if (mem->region[i].dirty)
			memset(mem->region[i].dirty, 0, nr_words(&mem->region[i]) * sizeof(uint64_t));
	}
}

uint64_t dirty_count(const struct memory *mem)
{
	uint64_t count = 0;

	for (unsigned int i = 0; i < mem->nr; i++) {
		for (size_t w = 0; mem->region[i].dirty && w < nr_words(&mem->region[i]); w++)
			count += (uint64_t)__builtin_popcountll(mem->region[i].dirty[w]);
	}
	return count;
}

int dirty_region_add(struct memory *mem, struct memory_region *region)
{
	int ret;

	if (!mem->dirty || region->readonly)
		return 0;
	region->dirty = bitmap_new(region);
	if (!region->dirty)
		return -ENOMEM;
	if (mem->dirty->method == DIRTY_WRITE_PROTECT) {
		ret = wp_begin(mem->dirty, region);
		if (ret) {
			dirty_region_remove(mem, region);
			return ret;
		}
	}
	set_all(region);
	return 0;
}

void dirty_region_remove(struct memory *mem, struct memory_region *region)
{
	if (!region->dirty)
		return;
	if (mem->dirty->method == DIRTY_WRITE_PROTECT)
		wp_end(mem->dirty, region);
	free(region->dirty);
	region->dirty = NULL;
}
