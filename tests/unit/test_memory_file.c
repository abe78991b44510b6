/* SPDX-License-Identifier: MIT */
/*
 * Guest memory in files: full and diff snapshots of several regions, restored, cloned, merged; the
 * merge killed at every step and run again; every call of a save and a merge failing in its turn.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>
#include "tests/unit/test.h"
#include "vm/crc32.h"
#include "vm/log.h"
#include "vm/memory_diff.h"
#include "vm/memory_file.h"
#include "vm/snapshot_ident.h"
#include "vm/snapshot_merge.h"
#include "vm/state_reader.h"
#include "vm/state_writer.h"

/* --- the calls that change files, each a step ------------------------------------------------- */

enum how { NOTHING, DIE_BEFORE, DIE_WITHIN, DIE_AFTER, FAIL };

static struct {
	enum how how;
	int left;  /* steps until it happens */
	int steps; /* so far */
	bool no_pagemap, no_punch, no_holes;
	char order[64]; /* a letter a call, runs of writes as one */
} inject;

static void arm(enum how how, int left)
{
	inject.how = how;
	inject.left = left;
	inject.steps = 0;
	inject.order[0] = '\0';
}

static void note(char call)
{
	size_t len = strlen(inject.order);

	if (len + 1 < sizeof(inject.order) && (call != 'w' || !len || inject.order[len - 1] != 'w')) {
		inject.order[len] = call;
		inject.order[len + 1] = '\0';
	}
}

static void die(void)
{
	kill(getpid(), SIGKILL);
}

/* True when the call is to fail. */
static bool step(char call)
{
	note(call);
	inject.steps++;
	if (inject.how == NOTHING || --inject.left)
		return false;
	if (inject.how == DIE_BEFORE)
		die();
	return inject.how == FAIL;
}

static void after(void)
{
	if (inject.how == DIE_AFTER && !inject.left)
		die();
}

#define WRAP(letter, call, fail, name, params, args)                                                     \
	call __real_##name params;                                                                 \
	call __wrap_##name params;                                                                 \
	call __wrap_##name params                                                                  \
	{                                                                                          \
		call ret;                                                                          \
		if (step(letter)) {                                                                \
			errno = fail;                                                              \
			return -1;                                                                 \
		}                                                                                  \
		ret = __real_##name args;                                                          \
		after();                                                                           \
		return ret;                                                                        \
	}

/* Nothing here lives through a power cut, so nothing need be waited for. */
int __wrap_fsync(int fd);
int __wrap_fsync(int fd)
{
	if (step('s')) {
		errno = EIO;
		return -1;
	}
	after();
	return 0;
}

WRAP('r', int, EIO, renameat, (int a, const char *from, int b, const char *to), (a, from, b, to))
WRAP('w', int, EFBIG, ftruncate, (int fd, off_t len), (fd, len))

/* A failure to remove is not looked for, a death is. */
int __real_unlinkat(int fd, const char *name, int flags);
int __wrap_unlinkat(int fd, const char *name, int flags);
int __wrap_unlinkat(int fd, const char *name, int flags)
{
	int ret;

	if (inject.how == FAIL)
		return __real_unlinkat(fd, name, flags);
	step('u');
	ret = __real_unlinkat(fd, name, flags);
	after();
	return ret;
}

int __real_fallocate(int fd, int mode, off_t at, off_t len);
int __wrap_fallocate(int fd, int mode, off_t at, off_t len);
int __wrap_fallocate(int fd, int mode, off_t at, off_t len)
{
	int ret;

	if (step('w') || inject.no_punch) {
		errno = EOPNOTSUPP;
		return -1;
	}
	ret = __real_fallocate(fd, mode, at, len);
	after();
	return ret;
}

ssize_t __real_pwrite(int fd, const void *buf, size_t len, off_t at);
ssize_t __wrap_pwrite(int fd, const void *buf, size_t len, off_t at);
ssize_t __wrap_pwrite(int fd, const void *buf, size_t len, off_t at)
{
	ssize_t n;

	if (step('w')) {
		errno = ENOSPC;
		return -1;
	}
	if (inject.how == DIE_WITHIN && !inject.left) {
		__real_pwrite(fd, buf, len / 2, at);
		die();
	}
	/* Short writes are legal, and must not be seen. */
	if (len > 8192 && at % 3 == 0)
		len = len / 2 & ~511ull;
	n = __real_pwrite(fd, buf, len, at);
	after();
	return n;
}

int __real_openat(int dir, const char *path, int flags, ...);
int __wrap_openat(int dir, const char *path, int flags, ...);
int __wrap_openat(int dir, const char *path, int flags, ...)
{
	bool create = flags & O_CREAT;
	int mode = 0, fd;
	va_list ap;

	va_start(ap, flags);
	if (create)
		mode = va_arg(ap, int);
	va_end(ap);
	if (create && step('c')) {
		errno = ENOSPC;
		return -1;
	}
	fd = __real_openat(dir, path, flags, mode);
	if (create)
		after();
	return fd;
}

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
	if (inject.no_pagemap && strstr(path, "pagemap")) {
		errno = EACCES;
		return -1;
	}
	return __real_open(path, flags, 0600);
}

off_t __real_lseek(int fd, off_t at, int whence);
off_t __wrap_lseek(int fd, off_t at, int whence);
off_t __wrap_lseek(int fd, off_t at, int whence)
{
	if (inject.no_holes && (whence == SEEK_DATA || whence == SEEK_HOLE)) {
		errno = EINVAL;
		return -1;
	}
	return __real_lseek(fd, at, whence);
}

/* --- what was logged -------------------------------------------------------------------------- */

static int log_fd;

static bool said(const char *part)
{
	static char text[8192];
	ssize_t n = pread(log_fd, text, sizeof(text) - 1, 0);
	bool ok;

	text[n > 0 ? n : 0] = '\0';
	ok = strstr(text, part);
	if (!ok)
		printf("  expected \"%s\" in: %s\n", part, text);
	CHECK(!__real_ftruncate(log_fd, 0));
	__real_lseek(log_fd, 0, SEEK_SET);
	return ok;
}

/* --- a guest's memory ------------------------------------------------------------------------- */

#define REGIONS 3

static uint64_t page;
static char top[64]; /* the tests' own directory */

struct guest {
	uint8_t *ram[REGIONS];
	uint64_t *dirty[REGIONS];
	struct memory_file_layout layout;
};

/* By gpa; none is a multiple of the file's alignment. */
static const uint64_t gpas[REGIONS] = { 0, 0x4000000, 0x100000000 };

static uint64_t size_of(unsigned int i)
{
	return (const uint64_t[]){ 130, 1, 77 }[i] * page;
}

static void guest_init(struct guest *g)
{
	memory_file_layout_init(&g->layout);
	for (unsigned int i = 0; i < REGIONS; i++) {
		g->ram[i] = mmap(NULL, size_of(i), PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		g->dirty[i] = calloc(size_of(i) / page / 64 + 1, 8);
		CHECK_EQ(memory_file_layout_add(&g->layout, gpas[i], size_of(i), g->ram[i], MEMORY_FILE_ANON), 0);
	}
}

static void guest_fini(struct guest *g)
{
	for (unsigned int i = 0; i < REGIONS; i++) {
		munmap(g->ram[i], size_of(i));
		free(g->dirty[i]);
	}
}

static void clear_dirty(struct guest *g)
{
	for (unsigned int i = 0; i < REGIONS; i++)
		memset(g->dirty[i], 0, (size_of(i) / page / 64 + 1) * 8);
}

/* Writes @n random pages: most with noise, some with zeros, some with what they have. */
static void scribble(struct guest *g, unsigned int n)
{
	while (n--) {
		unsigned int i = rand() % REGIONS;
		uint64_t nr = rand() % (size_of(i) / page), run = rand() % 4 + 1;
		int kind = rand() % 5;

		for (; run && nr < size_of(i) / page; run--, nr++) {
			uint8_t *p = g->ram[i] + nr * page;

			if (kind == 0)
				memset(p, 0, page);
			else if (kind == 1)
				p[rand() % page] = rand();
			else
				for (uint64_t k = 0; kind > 1 && k < page; k += 7)
					p[k] = rand();
			g->dirty[i][nr / 64] |= 1ull << nr % 64;
		}
	}
}

static bool guest_same(const struct guest *g, uint8_t *const *ram)
{
	for (unsigned int i = 0; i < REGIONS; i++)
		if (memcmp(g->ram[i], ram[i], size_of(i)))
			return false;
	return true;
}

/* --- snapshots -------------------------------------------------------------------------------- */

#define TAG_CPU STATE_TAG('V', 'C', 'P', 'U')

static const char *path_of(const char *name)
{
	static char path[4][128];
	static unsigned int i;

	i = (i + 1) % 4;
	snprintf(path[i], sizeof(path[i]), "%s/%s", top, name);
	return path[i];
}

/* A snapshot with a state of its own kind; a diff has a parent. */
static int save(struct guest *g, const char *name, struct snapshot_ident *ident,
		const struct snapshot_ident *parent)
{
	struct memory_diff_bitmaps bitmaps;
	struct state_writer w;
	struct snapshot_dir dir;
	int ret;

	ret = snapshot_ident_new(ident, parent);
	if (!ret)
		ret = snapshot_dir_open(&dir, path_of(name), true);
	if (ret)
		return ret;
	memory_diff_bitmaps_init(&bitmaps, &g->layout, (const uint64_t *const *)g->dirty);
	ret = parent ? memory_diff_save(&dir, &g->layout, ident->id, &bitmaps.dirty) :
		       memory_file_save(&dir, &g->layout, ident->id);
	state_writer_init(&w, "x86_64");
	snapshot_ident_put(ident, &w);
	memory_file_layout_put(&g->layout, &w);
	state_writer_begin(&w, TAG_CPU, 0, 1);
	state_writer_u32(&w, crc32(0, g->ram[0], size_of(0)));
	state_writer_end(&w);
	if (!ret)
		ret = state_writer_save(&w, &dir);
	state_writer_fini(&w);
	if (!ret)
		ret = snapshot_dir_commit(&dir, parent != NULL);
	if (ret)
		snapshot_dir_discard(&dir);
	snapshot_dir_close(&dir);
	return ret;
}

struct restored {
	struct snapshot_dir dir;
	struct snapshot_ident ident;
	struct memory_file_layout layout;
	struct memory_file file;
	uint8_t *ram[REGIONS];
	uint32_t cpu;
};

static void unmap(struct restored *r)
{
	memory_file_close(&r->file);
	snapshot_dir_close(&r->dir);
	for (unsigned int i = 0; i < REGIONS; i++) {
		if (r->ram[i])
			munmap(r->ram[i], size_of(i));
	}
}

/* Restores as a machine does. 0: unmap() it later. */
static int restore(struct restored *r, const char *name)
{
	struct state_reader reader;
	struct state_section s;
	int ret;

	memset(r, 0, sizeof(*r));
	r->file.fd = -1;
	ret = snapshot_dir_open(&r->dir, path_of(name), false);
	if (ret)
		return ret;
	ret = state_reader_open(&reader, &r->dir, "x86_64");
	if (ret) {
		snapshot_dir_close(&r->dir);
		return ret;
	}
	ret = snapshot_ident_get(&r->ident, &reader);
	if (!ret && r->ident.diff)
		ret = -EINVAL;
	if (!ret)
		ret = memory_file_layout_get(&r->layout, &reader);
	if (!ret)
		ret = memory_file_open(&r->file, &r->dir, &r->layout, r->ident.id);
	if (!ret) {
		state_reader_section(&reader, &s, TAG_CPU, 0);
		r->cpu = state_reader_u32(&s);
		ret = state_reader_section_end(&s);
	}
	if (!ret)
		ret = state_reader_end(&reader);
	state_reader_close(&reader);
	for (unsigned int i = 0; !ret && i < r->layout.nr; i++) {
		r->ram[i] = mmap(NULL, size_of(i), PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		r->layout.region[i].hva = r->ram[i];
	}
	if (!ret)
		ret = memory_file_map(&r->file, &r->dir, &r->layout);
	if (ret)
		unmap(r);
	return ret;
}

/* A file's bytes; the caller's to free. */
static uint8_t *slurp(const char *name, size_t *len)
{
	int fd = __real_open(path_of(name), O_RDONLY);
	struct stat st;
	uint8_t *p;

	*len = 0;
	if (fd < 0 || fstat(fd, &st))
		return NULL;
	p = malloc(st.st_size + 1);
	*len = st.st_size;
	CHECK_EQ(pread(fd, p, st.st_size, 0), st.st_size);
	close(fd);
	return p;
}

static bool file_same(const char *a, const char *b, size_t but)
{
	size_t len_a, len_b;
	uint8_t *pa = slurp(a, &len_a), *pb = slurp(b, &len_b);
	bool same = pa && pb && len_a == len_b && !memcmp(pa, pb, len_a - but);

	free(pa);
	free(pb);
	return same;
}

/* Of a file that may have been mapped: what is read of a hole in a tmpfs takes room there. */
static uint64_t disk_use(const char *name)
{
	struct statfs fs;
	struct stat st;

	if (statfs(top, &fs) || fs.f_type == TMPFS_MAGIC)
		return 0;
	return stat(path_of(name), &st) ? 0 : (uint64_t)st.st_blocks * 512;
}

/* But for what a file system needs to note where it all is. */
static bool near(uint64_t a, uint64_t b)
{
	return a <= b + 16384 && b <= a + 16384;
}

static void drop(const char *name)
{
	static const char *const files[] = { "state", "memory", "memory.diff", "state.new",
					     "memory.new", "memory.diff.new" };
	char path[192];

	for (unsigned int i = 0; i < 6; i++) {
		snprintf(path, sizeof(path), "%s/%s", path_of(name), files[i]);
		unlink(path);
	}
	rmdir(path_of(name));
}

/* One file with its holes, if it is there. */
static void copy_file(const char *from, const char *to, const char *name)
{
	static uint8_t buf[1 << 16];
	off_t at = 0, end;
	struct stat st;
	char path[192];
	int in, out;
	ssize_t n;

	snprintf(path, sizeof(path), "%s/%s", path_of(from), name);
	in = __real_open(path, O_RDONLY);
	if (in < 0)
		return;
	snprintf(path, sizeof(path), "%s/%s", path_of(to), name);
	out = __real_open(path, O_RDWR | O_CREAT | O_TRUNC);
	CHECK(!fstat(in, &st) && !__real_ftruncate(out, st.st_size));
	while ((at = __real_lseek(in, at, SEEK_DATA)) >= 0) {
		for (end = __real_lseek(in, at, SEEK_HOLE); at < end; at += n) {
			n = pread(in, buf, end - at < (off_t)sizeof(buf) ? end - at : (off_t)sizeof(buf), at);
			if (n <= 0 || __real_pwrite(out, buf, n, at) != n) {
				CHECK(!"a copy");
				break;
			}
		}
	}
	close(in);
	close(out);
}

static void copy(const char *from, const char *to)
{
	drop(to);
	mkdir(path_of(to), 0700);
	copy_file(from, to, "state");
	copy_file(from, to, "memory");
	copy_file(from, to, "memory.diff");
}

/* Of a full one's memory, and of that the part that says which merge is under way. */
static const unsigned int trailer_len = 128, merge_len = 64;

/* --- the tests -------------------------------------------------------------------------------- */

static uint64_t present_pages(const uint8_t *p, uint64_t len)
{
	int fd = __real_open("/proc/self/pagemap", O_RDONLY);
	uint64_t entry, nr = 0;

	for (uint64_t at = 0; at < len; at += page)
		if (pread(fd, &entry, 8, ((uintptr_t)p + at) / page * 8) == 8)
			nr += entry >> 63;
	close(fd);
	return nr;
}

static bool pagemap_works(void)
{
	volatile uint8_t mine[1] = { 1 };

	return present_pages((const uint8_t *)((uintptr_t)mine & -page), page) == 1;
}

static void layouts(void)
{
	struct memory_file_layout l;
	uint8_t *hva = (uint8_t *)page;

	memory_file_layout_init(&l);
	CHECK_EQ(l.page_size, page);
	CHECK_EQ(memory_file_layout_add(&l, page, 3 * page, hva, MEMORY_FILE_ANON), 0);
	CHECK_EQ(memory_file_layout_add(&l, 3 * page, page, hva, MEMORY_FILE_ANON), -EINVAL);
	CHECK(said("not above the region before it"));
	CHECK_EQ(memory_file_layout_add(&l, 4 * page, 0, hva, MEMORY_FILE_ANON), -EINVAL);
	CHECK_EQ(memory_file_layout_add(&l, 4 * page, page + 1, hva, MEMORY_FILE_ANON), -EINVAL);
	CHECK_EQ(memory_file_layout_add(&l, 4 * page + 512, page, hva, MEMORY_FILE_ANON), -EINVAL);
	CHECK_EQ(memory_file_layout_add(&l, -page, 2 * page, hva, MEMORY_FILE_ANON), -EINVAL);
	CHECK_EQ(memory_file_layout_add(&l, 4 * page, 1ull << 60, hva, MEMORY_FILE_ANON), -EINVAL);
	said("");
	CHECK_EQ(memory_file_layout_add(&l, 4 * page, page, hva, MEMORY_FILE_ANON), 0);
	CHECK_EQ(l.region[1].offset, MEMORY_FILE_ALIGN);
	CHECK_EQ(l.data_size, 2 * MEMORY_FILE_ALIGN);
	/* Side by side is two regions all the same. */
	CHECK(!memory_file_layout_find(&l, 3 * page, 2 * page));
	CHECK(memory_file_layout_find(&l, 3 * page, page) == &l.region[0]);
	CHECK(!memory_file_layout_find(&l, 0, page));
	CHECK(!memory_file_layout_find(&l, 5 * page, 1));
	CHECK(!memory_file_layout_find(&l, page, 0));
	CHECK(!memory_file_layout_find(&l, 2 * page, UINT64_MAX));
	for (unsigned int i = 2; i < MEMORY_FILE_MAX_REGIONS; i++)
		CHECK(!memory_file_layout_add(&l, (10 + i) * page, page, hva, MEMORY_FILE_ANON));
	CHECK_EQ(memory_file_layout_add(&l, 1000 * page, page, hva, MEMORY_FILE_ANON), -EINVAL);
	CHECK(said("one region too many"));
}

/* Byte for byte as docs/snapshot.md has it. */
static void on_disk(void)
{
	struct snapshot_ident base, diff;
	struct state_reader r;
	struct state_section s;
	struct snapshot_dir dir;
	const uint64_t at[4] = { page, 128 * page, 129 * page, gpas[2] };
	uint64_t t = 3 * (2ull << 20), index;
	uint8_t *p, zeros[64] = { 0 };
	struct guest g;
	size_t len;

	guest_init(&g);
	for (unsigned int i = 0; i < REGIONS; i++)
		memset(g.ram[i] + (size_of(i) - page), 'a' + i, page);
	CHECK_EQ(save(&g, "base", &base, NULL), 0);
	g.dirty[0][0] = 2;
	g.dirty[0][2] = 3;
	g.dirty[2][0] = 1;
	CHECK_EQ(save(&g, "diff1", &diff, &base), 0);

	p = slurp("base/memory", &len);
	CHECK_EQ(len, t + 128);
	for (unsigned int i = 0; i < REGIONS; i++) {
		CHECK_EQ(p[i * (2ull << 20) + size_of(i) - 1], 'a' + i);
		CHECK_EQ(p[i * (2ull << 20) + size_of(i)], 0);
	}
	CHECK(!memcmp(p + t, "vinitMEM\1\0\0\0\0\0\0\0", 16) && !memcmp(p + t + 16, base.id, 16));
	CHECK_EQ(state_file_load(p + t + 32, 8), t);
	CHECK(!memcmp(p + t + 40, zeros, 20));
	CHECK_EQ(state_file_load(p + t + 60, 4), crc32(0, p + t, 60));
	CHECK(!memcmp(p + t + 64, zeros, 64));
	free(p);

	p = slurp("diff1/memory.diff", &len);
	index = 4096 + page;
	CHECK_EQ(len, index + 4 * 24);
	CHECK(!memcmp(p, "vinitDIF\1\0\0\0", 12) && state_file_load(p + 12, 4) == page);
	CHECK(!memcmp(p + 16, diff.id, 16));
	CHECK_EQ(state_file_load(p + 32, 8), index);
	CHECK_EQ(state_file_load(p + 40, 8), 4);
	CHECK_EQ(state_file_load(p + 48, 8), 0);
	CHECK_EQ(state_file_load(p + 56, 4), crc32(0, p + index, 4 * 24));
	CHECK_EQ(state_file_load(p + 60, 4), crc32(0, p, 60));
	/* Page 1, zero; 128, zero; 129, the last, not; and the first above, zero. */
	for (unsigned int i = 0; i < 4; i++) {
		CHECK_EQ(state_file_load(p + index + 24 * i, 8), at[i]);
		CHECK_EQ(state_file_load(p + index + 24 * i + 8, 8), page);
		CHECK_EQ(state_file_load(p + index + 24 * i + 16, 8), i == 2 ? 4096 : 0);
	}
	CHECK(p[4096] == 'a' && p[4096 + page - 1] == 'a');
	free(p);

	CHECK_EQ(snapshot_dir_open(&dir, path_of("diff1"), false), 0);
	CHECK_EQ(state_reader_open(&r, &dir, NULL), 0);
	CHECK_EQ(state_reader_section(&r, &s, STATE_TAG('S', 'N', 'A', 'P'), 0), 0);
	CHECK(s.len == 61 && s.version == 1 && s.payload[0] == 1 && s.payload[1] == 1);
	CHECK_EQ(state_file_load(s.payload + 5, 8), diff.created);
	CHECK(!memcmp(s.payload + 13, diff.id, 16) && !memcmp(s.payload + 29, base.id, 16) &&
	      !memcmp(s.payload + 45, base.id, 16));
	CHECK_EQ(state_reader_section(&r, &s, STATE_TAG('M', 'E', 'M', 'O'), 0), 0);
	CHECK(s.len == 12 + REGIONS * 16 && s.version == 1);
	CHECK_EQ(state_file_load(s.payload, 8), page);
	CHECK_EQ(state_file_load(s.payload + 8, 4), REGIONS);
	CHECK_EQ(state_file_load(s.payload + 12 + 32, 8), gpas[2]);
	CHECK_EQ(state_file_load(s.payload + 12 + 40, 8), size_of(2));
	state_reader_close(&r);
	snapshot_dir_close(&dir);
	guest_fini(&g);
}

/* The two sections with values that cannot be, in a state whose CRCs are right. */
static void sections(void)
{
	static const struct {
		uint32_t tag;
		unsigned int at, bytes;
		uint64_t value;
		const char *why;
	} bad[] = {
		{ STATE_TAG_SNAPSHOT, 0, 1, 2, "0 or 1 expected at byte 0, found 2" },
		{ STATE_TAG_SNAPSHOT, 0, 1, 1, "a diff of generation 0 with no parent" },
		{ STATE_TAG_SNAPSHOT, 29, 1, 9, "a full snapshot of generation 0 with a parent" },
		{ STATE_TAG_SNAPSHOT, 45, 8, 0, "a full snapshot of generation 0 with no parent" },
		{ STATE_TAG_MEMORY, 0, 8, 0, "pages of 0 bytes" },
		{ STATE_TAG_MEMORY, 0, 8, 4095, "pages of 4095 bytes" },
		{ STATE_TAG_MEMORY, 0, 8, 1ull << 40, "pages of 1099511627776 bytes" },
		{ STATE_TAG_MEMORY, 8, 4, 0, "no RAM" },
		{ STATE_TAG_MEMORY, 8, 4, 257, "257 entries at byte 8, at most 256 of 16 bytes" },
		{ STATE_TAG_MEMORY, 8, 4, 4, "4 entries at byte 8, at most 256 of 16 bytes" },
		{ STATE_TAG_MEMORY, 8, 4, 2, "60 bytes long, expected 44" },
		{ STATE_TAG_MEMORY, 12, 8, 1, "not a multiple of the page size" },
		{ STATE_TAG_MEMORY, 20, 8, 0, "its size cannot be" },
		{ STATE_TAG_MEMORY, 20, 8, 1ull << 63, "its size cannot be" },
		{ STATE_TAG_MEMORY, 28, 8, 0, "not above the region before it" },
		{ STATE_TAG_MEMORY, 44, 8, -65536ull, "its size cannot be" },
	};
	struct memory_file_layout l;
	struct snapshot_ident ident;
	struct state_section s;
	struct snapshot_dir dir;
	struct state_reader r;
	struct guest g;

	guest_init(&g);
	CHECK_EQ(save(&g, "base", &ident, NULL), 0);
	said("");
	CHECK_EQ(snapshot_dir_open(&dir, path_of("base"), false), 0);
	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		/* Past the CRCs: the reader's own copy is changed. */
		CHECK_EQ(state_reader_open(&r, &dir, NULL), 0);
		CHECK_EQ(state_reader_section(&r, &s, bad[i].tag, 0), 0);
		state_file_store((uint8_t *)s.payload + bad[i].at, bad[i].value, bad[i].bytes);
		CHECK_EQ(bad[i].tag == STATE_TAG_MEMORY ? memory_file_layout_get(&l, &r) :
							  snapshot_ident_get(&ident, &r), -EBADMSG);
		CHECK(said(bad[i].why));
		state_reader_close(&r);
	}
	CHECK_EQ(state_reader_open(&r, &dir, NULL), 0);
	CHECK(!memory_file_layout_get(&l, &r) && memory_file_layout_same(&l, &g.layout));
	CHECK(!snapshot_ident_get(&ident, &r));
	state_reader_close(&r);
	snapshot_dir_close(&dir);
	guest_fini(&g);
}

static void full(void)
{
	struct snapshot_ident ident;
	struct restored r;
	struct guest g;

	guest_init(&g);
	scribble(&g, 60);
	arm(NOTHING, 0);
	CHECK_EQ(save(&g, "full", &ident, NULL), 0);
	/* Both files before the first rename, memory's before that of state. */
	CHECK_STR(inject.order, "ucws" "ucws" "rs" "rs");
	CHECK_EQ(restore(&r, "full"), 0);
	CHECK(guest_same(&g, r.ram));
	CHECK(!memcmp(&r.ident, &ident, sizeof(ident)));
	CHECK_EQ(r.cpu, crc32(0, g.ram[0], size_of(0)));
	unmap(&r);
	/* The same without help from the kernel. */
	inject.no_pagemap = true;
	CHECK_EQ(save(&g, "full2", &ident, NULL), 0);
	inject.no_pagemap = false;
	CHECK(file_same("full/memory", "full2/memory", trailer_len));
	CHECK(near(disk_use("full/memory"), disk_use("full2/memory")));
	/* Over itself: the new one, and one file of each. */
	scribble(&g, 10);
	CHECK_EQ(save(&g, "full", &ident, NULL), 0);
	CHECK_EQ(restore(&r, "full"), 0);
	CHECK(guest_same(&g, r.ram));
	unmap(&r);
	guest_fini(&g);
}

static void holes(void)
{
	const uint64_t pages = 16384;
	struct memory_file_layout l;
	struct snapshot_dir dir;
	uint8_t id[SNAPSHOT_ID_LEN] = { 1 };
	uint64_t before;
	struct stat st;
	volatile uint8_t sink;
	uint8_t *ram = mmap(NULL, pages * page, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	madvise(ram, pages * page, MADV_NOHUGEPAGE);
	memory_file_layout_init(&l);
	CHECK_EQ(memory_file_layout_add(&l, 0, pages * page, ram, MEMORY_FILE_ANON), 0);
	for (unsigned int i = 0; i < 3; i++)
		ram[i * 4000 * page + 77] = 1;
	for (unsigned int i = 0; i < 5; i++)
		sink = ram[(i * 1000 + 500) * page];
	for (unsigned int i = 0; i < 4; i++)
		ram[(i * 1000 + 700) * page] = 0;
	(void)sink;
	before = present_pages(ram, pages * page);
	CHECK_EQ(snapshot_dir_open(&dir, path_of("holes"), true), 0);
	CHECK_EQ(memory_file_save(&dir, &l, id), 0);
	CHECK_EQ(fstatat(dir.fd, "memory.new", &st, 0), 0);
	CHECK_EQ(st.st_size, (off_t)(pages * page + trailer_len));
	/* Three pages and the trailer, in blocks of the file system. */
	CHECK(st.st_blocks * 512 <= (blkcnt_t)(4 * (page > 4096 ? page : 4096)) + 4096);
	if (pagemap_works()) {
		CHECK_EQ(before, 12);
		CHECK_EQ(present_pages(ram, pages * page), before);
	} else {
		printf("  no pagemap of this process here: untouched pages not counted\n");
	}
	snapshot_dir_discard(&dir);
	snapshot_dir_close(&dir);
	rmdir(path_of("holes"));
	munmap(ram, pages * page);
}

/* Many from one; nothing read for it, nothing written to it; and saved again from there. */
static void clones(void)
{
	struct snapshot_ident ident;
	struct restored r[10];
	struct guest g;

	guest_init(&g);
	scribble(&g, 40);
	CHECK_EQ(save(&g, "clones", &ident, NULL), 0);
	for (unsigned int i = 0; i < 10; i++)
		CHECK_EQ(restore(&r[i], "clones"), 0);
	if (pagemap_works())
		CHECK_EQ(present_pages(r[0].ram[0], size_of(0)), 0);
	for (unsigned int i = 0; i < 10; i++)
		memset(r[i].ram[0] + 5 * page, i + 1, 2 * page);
	for (unsigned int i = 0; i < 10; i++) {
		CHECK_EQ(r[i].ram[0][6 * page], i + 1);
		memcpy(r[i].ram[0] + 5 * page, g.ram[0] + 5 * page, 2 * page);
		CHECK(guest_same(&g, r[i].ram));
	}
	/* A full snapshot of a clone, which has most of its pages in the file alone. */
	for (int way = 0; way < 4; way++) {
		struct guest h = g;
		struct restored again;

		unmap(&r[0]);
		CHECK_EQ(restore(&r[0], "clones"), 0);
		h.layout = r[0].layout;
		/* Nor is it lost that there is a file when nobody says which. */
		for (unsigned int i = 0; way == 3 && i < REGIONS; i++)
			h.layout.region[i].backing_fd = MEMORY_FILE_OTHER;
		inject.no_holes = way == 1;
		inject.no_pagemap = way == 2;
		r[0].ram[2][0] = 42;
		CHECK_EQ(save(&h, "clone", &ident, NULL), 0);
		inject.no_holes = inject.no_pagemap = false;
		CHECK_EQ(restore(&again, "clone"), 0);
		CHECK(guest_same(&g, again.ram) == (g.ram[2][0] == 42));
		CHECK(!memcmp(again.ram[2], r[0].ram[2], size_of(2)));
		CHECK(!memcmp(again.ram[0], g.ram[0], size_of(0)));
		CHECK(disk_use("clone/memory") <= disk_use("clones/memory") + page + 16384);
		unmap(&again);
	}
	/* Over the files that it runs on. */
	g.ram[2][0] = 42;
	struct guest h = g;
	h.layout = r[0].layout;
	CHECK_EQ(save(&h, "clones", &ident, NULL), 0);
	CHECK(guest_same(&g, r[0].ram));
	for (unsigned int i = 0; i < 10; i++)
		unmap(&r[i]);
	guest_fini(&g);
}

/* Base and three diffs, merged, are the last full one byte for byte. */
static void chain(void)
{
	struct snapshot_ident ident[4], last;
	struct restored r;
	struct guest g;
	char name[16];

	for (unsigned int round = 0; round < 8; round++) {
		guest_init(&g);
		scribble(&g, 30);
		CHECK_EQ(save(&g, "base", &ident[0], NULL), 0);
		for (unsigned int i = 1; i < 4; i++) {
			clear_dirty(&g);
			/* Nothing dirty is a diff as well. */
			scribble(&g, round == 7 && i == 2 ? 0 : 25);
			snprintf(name, sizeof(name), "diff%u", i);
			CHECK_EQ(save(&g, name, &ident[i], &ident[i - 1]), 0);
			CHECK_EQ(ident[i].generation, i);
		}
		CHECK_EQ(save(&g, "last", &last, NULL), 0);
		inject.no_punch = round == 6;
		for (unsigned int i = 1; i < 4; i++) {
			snprintf(name, sizeof(name), "diff%u", i);
			CHECK_EQ(snapshot_merge(path_of("base"), path_of(name)), 0);
			/* Again changes nothing. */
			CHECK_EQ(snapshot_merge(path_of("base"), path_of(name)), 0);
		}
		CHECK(file_same("base/memory", "last/memory", trailer_len));
		if (!inject.no_punch)
			CHECK(near(disk_use("base/memory"), disk_use("last/memory")));
		inject.no_punch = false;
		CHECK_EQ(restore(&r, "base"), 0);
		CHECK(guest_same(&g, r.ram));
		CHECK_EQ(r.cpu, crc32(0, g.ram[0], size_of(0)));
		CHECK(!memcmp(r.ident.id, ident[3].id, SNAPSHOT_ID_LEN) && !r.ident.diff);
		/* The next one follows what was restored. */
		clear_dirty(&g);
		scribble(&g, 5);
		CHECK_EQ(save(&g, "diff4", &last, &r.ident), 0);
		unmap(&r);
		CHECK_EQ(snapshot_merge(path_of("base"), path_of("diff4")), 0);
		CHECK_EQ(restore(&r, "base"), 0);
		CHECK(guest_same(&g, r.ram));
		unmap(&r);
		guest_fini(&g);
	}
	said("");
}

/* Pages that have become zero are in a diff, pages that stayed zero are not, and both are right. */
static void zeroed_page(void)
{
	struct snapshot_ident base, diff;
	struct restored r;
	struct guest g;

	guest_init(&g);
	clear_dirty(&g);
	memset(g.ram[0], 1, 10 * page);
	CHECK_EQ(save(&g, "base", &base, NULL), 0);
	memset(g.ram[0] + 2 * page, 0, 3 * page);
	g.dirty[0][0] = 7 << 2;
	CHECK_EQ(save(&g, "diff1", &diff, &base), 0);
	CHECK(disk_use("diff1/memory.diff") < 8192 + 4096);
	CHECK_EQ(snapshot_merge(path_of("base"), path_of("diff1")), 0);
	CHECK_EQ(restore(&r, "base"), 0);
	CHECK(guest_same(&g, r.ram));
	unmap(&r);
	guest_fini(&g);
}

static int no_pages(struct memory_diff_dirty *dirty, uint64_t *gpa, uint64_t *len)
{
	const uint64_t *range = dirty->opaque;

	if (!range[1])
		return 0;
	*gpa = range[0];
	*len = range[1];
	dirty->opaque = (void *)(range + 2);
	return 1;
}

static void bad_ranges(void)
{
	const uint64_t p = page;
	const uint64_t bad[][5] = {
		{ 0x1000000, p, 0, 0, 0 },	   /* no RAM */
		{ 129 * p, 2 * p, 0, 0, 0 },	   /* beyond */
		{ p / 2, p, 0, 0, 0 },		   /* not a page */
		{ 0, p / 2, 0, 0, 0 },		   /* nor this */
		{ 2 * p, p, p, p, 0 },		   /* downwards */
		{ 0, UINT64_MAX & -p, 0, 0, 0 },
	};
	struct memory_diff_dirty dirty = { .next = no_pages };
	struct snapshot_dir dir;
	uint8_t id[SNAPSHOT_ID_LEN] = { 1 };
	struct guest g;

	guest_init(&g);
	CHECK_EQ(snapshot_dir_open(&dir, path_of("ranges"), true), 0);
	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		uint64_t copy_of[6] = { 0 };

		memcpy(copy_of, bad[i], sizeof(bad[i]));
		dirty.opaque = copy_of;
		CHECK_EQ(memory_diff_save(&dir, &g.layout, id, &dirty), -EINVAL);
		CHECK(said("are dirty, which are not pages"));
		CHECK(faccessat(dir.fd, "memory.diff.new", F_OK, 0) < 0);
	}
	snapshot_dir_close(&dir);
	rmdir(path_of("ranges"));
	guest_fini(&g);
}

/* Everything that must not be merged, with why; and nothing has changed. */
static void refusals(void)
{
	struct snapshot_ident base, other, d[4], sibling, other_diff;
	struct memory_file_layout less;
	struct restored r;
	struct guest g;

	guest_init(&g);
	scribble(&g, 20);
	CHECK_EQ(save(&g, "base", &base, NULL), 0);
	CHECK_EQ(save(&g, "other", &other, NULL), 0);
	clear_dirty(&g);
	scribble(&g, 5);
	CHECK_EQ(save(&g, "diff1", &d[1], &base), 0);
	CHECK_EQ(save(&g, "diff2", &d[2], &d[1]), 0);
	CHECK_EQ(save(&g, "diff3", &d[3], &d[2]), 0);
	CHECK_EQ(save(&g, "sibling", &sibling, &base), 0);
	CHECK_EQ(save(&g, "otherdiff", &other_diff, &other), 0);
	copy("base", "keep");
	said("");
	CHECK_EQ(snapshot_merge(path_of("base"), path_of("diff2")), -ESTALE);
	CHECK(said("the diffs between them come first"));
	CHECK_EQ(snapshot_merge(path_of("base"), path_of("diff3")), -ESTALE);
	CHECK_EQ(snapshot_merge(path_of("base"), path_of("otherdiff")), -ESTALE);
	CHECK(said("they come from different full snapshots"));
	CHECK_EQ(snapshot_merge(path_of("base"), path_of("other")), -EINVAL);
	CHECK(said("it is a full snapshot, expected a diff"));
	CHECK_EQ(snapshot_merge(path_of("diff1"), path_of("diff2")), -EINVAL);
	CHECK(said("it is a diff: merge into the full snapshot"));
	CHECK_EQ(snapshot_merge(path_of("base"), path_of("nowhere")), -ENOENT);
	CHECK_EQ(snapshot_merge(path_of("base"), path_of("base")), -EINVAL);
	/* A guest runs on it. */
	CHECK_EQ(restore(&r, "base"), 0);
	CHECK_EQ(snapshot_merge(path_of("base"), path_of("diff1")), -EBUSY);
	CHECK(said("a guest runs on it"));
	unmap(&r);
	/* RAM elsewhere. */
	less = g.layout;
	g.layout.nr--;
	CHECK_EQ(save(&g, "less", &sibling, &base), 0);
	g.layout = less;
	CHECK_EQ(snapshot_merge(path_of("base"), path_of("less")), -EINVAL);
	CHECK(said("has RAM elsewhere"));
	CHECK(file_same("base/memory", "keep/memory", 0) && file_same("base/state", "keep/state", 0));
	/* After the first, the sibling and the third. */
	CHECK_EQ(snapshot_merge(path_of("base"), path_of("diff1")), 0);
	CHECK_EQ(snapshot_merge(path_of("base"), path_of("sibling")), -ESTALE);
	CHECK(said("an older diff, or one already merged"));
	CHECK_EQ(snapshot_merge(path_of("base"), path_of("diff3")), -ESTALE);
	CHECK_EQ(snapshot_merge(path_of("base"), path_of("diff2")), 0);
	CHECK_EQ(snapshot_merge(path_of("base"), path_of("diff1")), -ESTALE);
	/* Files of two snapshots do not make one. */
	CHECK_EQ(rename(path_of("other/memory"), path_of("base/memory")), 0);
	CHECK_EQ(restore(&r, "base"), -ESTALE);
	CHECK(said("it belongs to the snapshot"));
	CHECK_EQ(snapshot_merge(path_of("base"), path_of("diff3")), -ESTALE);
	/* Nor does a diff restore. */
	CHECK_EQ(restore(&r, "diff3"), -EINVAL);
	said("");
	guest_fini(&g);
}

/* Each byte of the diff's header and index, the trailer, each length about a border. */
static void damaged(void)
{
	struct snapshot_ident base, diff;
	struct restored r;
	struct guest g;
	size_t len;
	uint8_t *p;
	int fd;

	guest_init(&g);
	scribble(&g, 20);
	CHECK_EQ(save(&g, "base", &base, NULL), 0);
	clear_dirty(&g);
	scribble(&g, 10);
	CHECK_EQ(save(&g, "diff1", &diff, &base), 0);
	copy("base", "keep");
	p = slurp("diff1/memory.diff", &len);
	fd = __real_open(path_of("diff1/memory.diff"), O_RDWR);
	log_set_fd(-1, false);
	for (size_t i = 0; i < len; i++) {
		uint64_t index = state_file_load(p + 32, 8);
		uint8_t other = ~p[i];

		if (i >= 64 && i < index)
			i = index;
		CHECK_EQ(__real_pwrite(fd, &other, 1, i), 1);
		CHECK(snapshot_merge(path_of("base"), path_of("diff1")) < 0);
		CHECK_EQ(__real_pwrite(fd, p + i, 1, i), 1);
	}
	for (size_t cut = 0; cut <= 300; cut++) {
		CHECK(!__real_ftruncate(fd, cut < 200 ? len - 1 - cut : cut - 200));
		CHECK(snapshot_merge(path_of("base"), path_of("diff1")) < 0);
	}
	CHECK_EQ(__real_pwrite(fd, p, len, 0), (ssize_t)len);
	CHECK(!__real_ftruncate(fd, len + 1));
	CHECK(snapshot_merge(path_of("base"), path_of("diff1")) < 0);
	CHECK(!__real_ftruncate(fd, len));
	close(fd);
	free(p);

	p = slurp("base/memory", &len);
	fd = __real_open(path_of("base/memory"), O_RDWR);
	for (size_t i = len - trailer_len; i < len; i++) {
		uint8_t other = ~p[i];

		CHECK_EQ(__real_pwrite(fd, &other, 1, i), 1);
		CHECK(restore(&r, "base") < 0);
		/* A note of a merge that was cut short is begun anew, see killed(). */
		if (i < len - merge_len)
			CHECK(snapshot_merge(path_of("base"), path_of("diff1")) < 0);
		CHECK_EQ(__real_pwrite(fd, p + i, 1, i), 1);
		CHECK(!__real_ftruncate(fd, i));
		CHECK(restore(&r, "base") < 0);
		CHECK_EQ(__real_pwrite(fd, p + i, len - i, i), (ssize_t)(len - i));
	}
	CHECK(!__real_ftruncate(fd, len + 1));
	CHECK_EQ(restore(&r, "base"), -EBADMSG);
	CHECK(!__real_ftruncate(fd, len));
	close(fd);
	free(p);
	log_set_fd(log_fd, false);
	CHECK(file_same("base/memory", "keep/memory", 0) && file_same("base/state", "keep/state", 0));
	CHECK_EQ(snapshot_merge(path_of("base"), path_of("diff1")), 0);
	said("");
	guest_fini(&g);
}

/* An index that lies, with its CRCs right: nothing of the base is touched. */
static void lying_index(void)
{
	const uint64_t end = size_of(0), huge = -page;
	const struct {
		unsigned int range, field;
		uint64_t value;
		const char *why;
	} bad[] = {
		{ 1, 0, page, "it begins at" },
		{ 1, 0, 0, "it begins at" },
		{ 0, 0, page / 2, "are not pages" },
		{ 0, 0, end, "are not pages" },
		{ 2, 1, page + 1, "are not pages" },
		{ 2, 1, 0, "are not pages" },
		{ 2, 1, end, "are not pages" },
		{ 2, 1, huge, "are not pages" },
		{ 2, 0, huge, "are not pages" },
		{ 0, 2, 64, "its data is at 0x40" },
		{ 2, 2, 4096, "its data is at 0x1000" },
		{ 2, 1, 2 * page, "and no more than to" },
		{ 0, 2, 0, "its data is at" },
		{ 2, 2, 0, "its data ends at" },
	};
	struct snapshot_ident base, diff;
	struct guest g;
	uint8_t *p, *entry;
	size_t len;
	int fd;

	guest_init(&g);
	CHECK_EQ(save(&g, "base", &base, NULL), 0);
	/* Pages 1, 3 and 5 of the first region, none of them zero. */
	memset(g.ram[0], 1, 6 * page);
	g.dirty[0][0] = 2 + 8 + 32;
	CHECK_EQ(save(&g, "diff1", &diff, &base), 0);
	copy("base", "keep");
	p = slurp("diff1/memory.diff", &len);
	fd = __real_open(path_of("diff1/memory.diff"), O_RDWR);
	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		uint8_t *lie = malloc(len);

		memcpy(lie, p, len);
		entry = lie + 4096 + 3 * page + bad[i].range * 24 + bad[i].field * 8;
		state_file_store(entry, bad[i].value, 8);
		state_file_store(lie + 56, crc32(0, lie + 4096 + 3 * page, 72), 4);
		state_file_store(lie + 60, crc32(0, lie, 60), 4);
		CHECK_EQ(__real_pwrite(fd, lie, len, 0), (ssize_t)len);
		CHECK_EQ(snapshot_merge(path_of("base"), path_of("diff1")), -EBADMSG);
		CHECK(said(bad[i].why));
		free(lie);
	}
	CHECK_EQ(__real_pwrite(fd, p, len, 0), (ssize_t)len);
	CHECK(file_same("base/memory", "keep/memory", 0) && file_same("base/state", "keep/state", 0));
	CHECK_EQ(snapshot_merge(path_of("base"), path_of("diff1")), 0);
	close(fd);
	free(p);
	guest_fini(&g);
}

/* Runs a merge in a process that is killed at its step @n. True: it got to the end before. */
static bool merge_killed(enum how how, int n)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		arm(how, n);
		_exit(snapshot_merge(path_of("work"), path_of("diff1")) != 0);
	}
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : !WEXITSTATUS(status));
	return WIFEXITED(status);
}

/*
 * What a kill left is the old snapshot, the new one, or refused; run again, the bytes are those of
 * a merge that was left alone. A second kill on the way there included.
 */
static void killed(void)
{
	unsigned int old = 0, new = 0, refused = 0, steps;
	struct snapshot_ident base, diff, sibling;
	struct guest g, before;
	struct restored r;

	guest_init(&g);
	guest_init(&before);
	scribble(&g, 20);
	for (unsigned int i = 0; i < REGIONS; i++)
		memcpy(before.ram[i], g.ram[i], size_of(i));
	CHECK_EQ(save(&g, "base", &base, NULL), 0);
	clear_dirty(&g);
	scribble(&g, 14);
	CHECK_EQ(save(&g, "diff1", &diff, &base), 0);
	CHECK_EQ(save(&g, "sibling", &sibling, &base), 0);
	copy("base", "whole");
	CHECK_EQ(snapshot_merge(path_of("whole"), path_of("diff1")), 0);
	/* How many steps a whole one has. */
	copy("base", "work");
	arm(NOTHING, 0);
	CHECK_EQ(snapshot_merge(path_of("work"), path_of("diff1")), 0);
	steps = inject.steps;
	/* Note, pages, state, owner, note: each is synced before the next, the rename too. */
	CHECK_STR(inject.order, "ws" "ws" "ucws" "rs" "ws" "ws");
	log_set_fd(-1, false);
	for (unsigned int i = 0; i < 3 * steps; i++) {
		enum how how = DIE_BEFORE + i / steps;
		int n = i % steps + 1;

		copy("base", "work");
		/* Only a write can be died in. */
		CHECK(!merge_killed(how, n) || how == DIE_WITHIN);
		switch (restore(&r, "work")) {
		case 0:
			old += guest_same(&before, r.ram);
			new += guest_same(&g, r.ram);
			CHECK(guest_same(memcmp(r.ident.id, diff.id, 16) ? &before : &g, r.ram));
			unmap(&r);
			break;
		case -ESTALE:
			refused++;
			break;
		default:
			CHECK(!"a restore that is refused for another reason");
		}
		if (n % 3 == 0)
			merge_killed(DIE_BEFORE + n % 2, n / 3);
		CHECK_EQ(snapshot_merge(path_of("work"), path_of("diff1")), 0);
		CHECK(file_same("work/memory", "whole/memory", 0));
		CHECK(file_same("work/state", "whole/state", 0));
		CHECK(near(disk_use("work/memory"), disk_use("whole/memory")));
		CHECK(access(path_of("work/state.new"), F_OK) < 0);
	}
	/* Once it has begun, no other diff of the same base will do. */
	copy("base", "work");
	CHECK(!merge_killed(DIE_AFTER, 4));
	log_set_fd(log_fd, false);
	CHECK_EQ(snapshot_merge(path_of("work"), path_of("sibling")), -ESTALE);
	CHECK(said("did not end: run that one again first"));
	CHECK_EQ(snapshot_merge(path_of("work"), path_of("diff1")), 0);
	CHECK(file_same("work/memory", "whole/memory", 0));
	/* And where nobody kills it, it ends. */
	copy("base", "work");
	CHECK(merge_killed(DIE_BEFORE, steps + 1));
	log_set_fd(log_fd, false);
	printf("  %u steps: %u times the old one, %u the new one, %u refused\n", steps, old, new,
	       refused);
	CHECK(old && new && refused);
	guest_fini(&g);
	guest_fini(&before);
}

/* Each call of a merge fails in its turn: told, and it can be run again. */
static void merge_fails(void)
{
	struct snapshot_ident base, diff;
	struct guest g;
	int ret = -1;

	guest_init(&g);
	scribble(&g, 20);
	CHECK_EQ(save(&g, "base", &base, NULL), 0);
	clear_dirty(&g);
	scribble(&g, 8);
	CHECK_EQ(save(&g, "diff1", &diff, &base), 0);
	copy("base", "whole");
	CHECK_EQ(snapshot_merge(path_of("whole"), path_of("diff1")), 0);
	for (int n = 1; n < 1000; n++) {
		copy("base", "work");
		arm(FAIL, n);
		ret = snapshot_merge(path_of("work"), path_of("diff1"));
		if (inject.left > 0)
			break;
		arm(NOTHING, 0);
		/* A hole that cannot be made is zeros that are written. */
		CHECK(ret ? said("snapshot ") : true);
		CHECK_EQ(snapshot_merge(path_of("work"), path_of("diff1")), 0);
		CHECK(file_same("work/memory", "whole/memory", 0));
		CHECK(file_same("work/state", "whole/state", 0));
	}
	arm(NOTHING, 0);
	CHECK_EQ(ret, 0);
	said("");
	guest_fini(&g);
}

/*
 * Each call of a save over an older snapshot fails in its turn, or the process dies there: the old
 * one is whole, or the new one, or (dead between the two renames) it is refused.
 */
static void save_fails(void)
{
	struct snapshot_ident first, ident;
	unsigned int old, refused;
	struct guest g, before;
	struct restored r;
	bool ended;
	int ret;

	for (int way = 0; way < 3; way++) {
		bool diff = way == 1, dies = way == 2;

		guest_init(&g);
		guest_init(&before);
		scribble(&g, 20);
		for (unsigned int i = 0; i < REGIONS; i++)
			memcpy(before.ram[i], g.ram[i], size_of(i));
		clear_dirty(&g);
		CHECK_EQ(save(&g, "keep", &first, NULL), 0);
		scribble(&g, 8);
		old = refused = 0;
		ended = false;
		for (int n = 1; !ended && n < 1000; n++) {
			copy("keep", "work");
			fflush(stdout);
			if (dies && !fork()) {
				arm(DIE_BEFORE, n);
				_exit(save(&g, "work", &ident, NULL) ? 1 : 0);
			}
			if (dies) {
				CHECK(wait(&ret) > 0);
				ended = WIFEXITED(ret);
			} else {
				arm(FAIL, n);
				ret = save(&g, "work", &ident, diff ? &first : NULL);
				ended = inject.left > 0;
				arm(NOTHING, 0);
				CHECK(ended ? !ret : ret < 0 && said("snapshot "));
				CHECK(access(path_of("work/state.new"), F_OK) < 0);
				CHECK(access(path_of("work/memory.new"), F_OK) < 0);
				CHECK(access(path_of("work/memory.diff.new"), F_OK) < 0);
			}
			ret = restore(&r, "work");
			if (!ret) {
				bool is_old = !memcmp(r.ident.id, first.id, 16);

				old += is_old;
				CHECK(guest_same(is_old ? &before : &g, r.ram));
				unmap(&r);
			} else {
				/* A diff that is complete, or two files that do not fit. */
				refused += ret == -ESTALE;
				CHECK(ret == -ESTALE || (diff && ret == -EINVAL));
			}
		}
		/* One of the steps is that between the renames, and one the rename itself. */
		CHECK(old > 5 && refused <= 2);
		said("");
		guest_fini(&g);
		guest_fini(&before);
	}
}

/* Files that may not get longer, at every kind of length; a file system that is full. */
static void disk_full(void)
{
	struct snapshot_ident first, ident, base;
	struct rlimit rl, keep;
	struct restored r;
	struct guest g;
	size_t len;
	int ret;

	guest_init(&g);
	scribble(&g, 40);
	CHECK_EQ(save(&g, "keep", &first, NULL), 0);
	clear_dirty(&g);
	scribble(&g, 20);
	CHECK_EQ(save(&g, "diff1", &base, &first), 0);
	free(slurp("diff1/memory.diff", &len));
	CHECK(!getrlimit(RLIMIT_FSIZE, &keep));
	signal(SIGXFSZ, SIG_IGN);
	log_set_fd(-1, false);
	for (unsigned int i = 0; i < 40; i++) {
		bool diff = i & 1;

		rl = keep;
		rl.rlim_cur = diff ? i * len / 40 : i * g.layout.data_size / 40;
		copy("keep", "work");
		CHECK(!setrlimit(RLIMIT_FSIZE, &rl));
		ret = save(&g, "work", &ident, diff ? &first : NULL);
		CHECK(!setrlimit(RLIMIT_FSIZE, &keep));
		CHECK_EQ(ret, -EFBIG);
		CHECK(file_same("work/memory", "keep/memory", 0));
		CHECK(file_same("work/state", "keep/state", 0));
		CHECK(access(path_of("work/memory.new"), F_OK) < 0);
		CHECK(access(path_of("work/memory.diff.new"), F_OK) < 0);
		CHECK_EQ(restore(&r, "work"), 0);
		unmap(&r);
	}
	log_set_fd(log_fd, false);
	drop("work");

	mkdir(path_of("small"), 0700);
	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("tmpfs", path_of("small"), "tmpfs", 0, "size=600k")) {
		printf("  no tmpfs to be had (%s): a full file system not tried\n", errno_name(errno));
	} else {
		/* Two fit, for a few rounds of random pages, and then they do not. */
		struct guest h;

		guest_init(&h);
		h.ram[0][0] = 1;
		CHECK_EQ(save(&h, "small/one", &first, NULL), 0);
		for (unsigned int i = 0; i < REGIONS; i++)
			memset(h.ram[i], 7, size_of(i));
		CHECK_EQ(save(&h, "small/one", &ident, NULL), -ENOSPC);
		CHECK(said("ENOSPC: is the file system full?"));
		CHECK_EQ(restore(&r, "small/one"), 0);
		CHECK(!memcmp(r.ident.id, first.id, 16) && r.ram[0][0] == 1 && !r.ram[0][page]);
		unmap(&r);
		guest_fini(&h);
		umount(path_of("small"));
	}
	rmdir(path_of("small"));
	guest_fini(&g);
}

/* The guest is ended while it is saved; and its memory file was cut short while it ran. */
static void given_up(void)
{
	const atomic_bool cancel = true;
	struct snapshot_ident ident;
	struct snapshot_dir dir;
	struct restored r;
	struct guest g, h;

	guest_init(&g);
	scribble(&g, 20);
	CHECK_EQ(save(&g, "clones", &ident, NULL), 0);
	CHECK_EQ(snapshot_dir_open(&dir, path_of("clones"), false), 0);
	dir.cancel = &cancel;
	CHECK_EQ(memory_file_save(&dir, &g.layout, ident.id), -ECANCELED);
	CHECK(access(path_of("clones/memory.new"), F_OK) < 0);
	snapshot_dir_close(&dir);
	said("");
	CHECK_EQ(restore(&r, "clones"), 0);
	h = g;
	h.layout = r.layout;
	CHECK_EQ(truncate(path_of("clones/memory"), (off_t)page), 0);
	CHECK_EQ(save(&h, "clone", &ident, NULL), -EIO);
	CHECK(said("cut short"));
	unmap(&r);
	guest_fini(&g);
}

/* A host whose pages are larger than what the regions are multiples of. */
static void larger_pages(void)
{
	struct snapshot_dir dir = { .fd = -1, .path = "dir" };
	struct memory_file f = { .fd = -1 };
	struct memory_file_layout l;

	memory_file_layout_init(&l);
	l.page_size = 512;
	CHECK_EQ(memory_file_layout_add(&l, 0, page + 512, (uint8_t *)page, MEMORY_FILE_ANON), 0);
	f.data_size = l.data_size;
	CHECK_EQ(memory_file_map(&f, &dir, &l), -EINVAL);
	CHECK(said("cannot be mapped here, with pages of"));
}

int main(void)
{
	static const char *const names[] = { "full",  "full2", "clones", "clone",   "base",
					     "diff1", "diff2", "diff3",	 "diff4",   "last",
					     "other", "less",  "keep",	 "sibling", "otherdiff",
					     "work",  "whole", "holes",	 "ranges" };

	page = sysconf(_SC_PAGESIZE);
	snprintf(top, sizeof(top), "/tmp/vinit-memory-XXXXXX");
	log_fd = memfd_create("log", 0);
	if (!mkdtemp(top) || log_fd < 0)
		return 1;
	log_set_fd(log_fd, false);
	srand(1);
	RUN(layouts);
	RUN(on_disk);
	RUN(sections);
	RUN(full);
	RUN(holes);
	RUN(clones);
	RUN(chain);
	RUN(zeroed_page);
	RUN(bad_ranges);
	RUN(refusals);
	RUN(damaged);
	RUN(lying_index);
	RUN(killed);
	RUN(merge_fails);
	RUN(save_fails);
	RUN(disk_full);
	RUN(given_up);
	RUN(larger_pages);
	for (unsigned int i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		drop(names[i]);
	CHECK(!rmdir(top));
	return TEST_RESULT();
}
