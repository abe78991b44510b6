/* SPDX-License-Identifier: MIT */
/* The aarch64 loader against images made here: right ones, truncated ones, lying ones. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "arch/aarch64/boot.h"
#include "tests/crc32.h"
#include "tests/unit/bootfile.h"
#include "tests/unit/test.h"
#include "vm/kvm.h"
#include "vm/log.h"
#include "vm/memory.h"

#define KIB  (1ull << 10)
#define MIB  (1ull << 20)
#define GIB  (1ull << 30)
#define UNIT (64 * KIB) /* what is loaded apart shares none */
#define RAM  0x40000000ull
#define FDT  (64 * KIB)

/* vm/memory.o names it; no VM hangs behind the memory here. */
int kvm_ioctl_named(int fd, unsigned long request, const char *name, void *arg)
{
	(void)fd, (void)request, (void)name, (void)arg;
	return -ENOSYS;
}

/*
 * The loader's own pread(): whole by default, or in small pieces with EINTR between them, or from a
 * file that ends before its time.
 */
static struct {
	size_t piece; /* most bytes a call, 0: all */
	bool eintr;   /* every other call */
	uint64_t end; /* reads see no more than this, 0: all */
	int fail;     /* errno, from fail_at on */
	uint64_t fail_at;
	unsigned int calls;
} reads;

static ssize_t read_hook(int fd, void *buf, size_t len, off_t offset)
{
	if (reads.eintr && reads.calls++ % 2 == 0) {
		errno = EINTR;
		return -1;
	}
	if (reads.fail && (uint64_t)offset + len > reads.fail_at) {
		errno = reads.fail;
		return -1;
	}
	if (reads.piece && len > reads.piece)
		len = reads.piece;
	if (reads.end) {
		if ((uint64_t)offset >= reads.end)
			return 0;
		if (len > reads.end - offset)
			len = reads.end - offset;
	}
	return syscall(SYS_pread64, fd, buf, len, offset);
}

ssize_t pread(int fd, void *buf, size_t len, off_t offset)
{
	return read_hook(fd, buf, len, offset);
}

ssize_t pread64(int fd, void *buf, size_t len, off_t offset)
{
	return read_hook(fd, buf, len, offset);
}

/* What is said a few times only, would be said no more in the tests that load often. */
static bool limit_log;

bool __real_log_allow(struct log_limit *limit);
bool __wrap_log_allow(struct log_limit *limit)
{
	return !limit_log || __real_log_allow(limit);
}

static void ram_make(struct memory *mem, uint64_t size)
{
	memory_init(mem, -1);
	CHECK(!memory_add_ram(mem, RAM, size, MEMORY_ANON));
}

/* Fresh RAM again. */
static void ram_clear(struct memory *mem)
{
	madvise(mem->region[0].hva, mem->region[0].size, MADV_DONTNEED);
}

/* True if nothing was written to RAM but zeros outside [@gpa, @gpa + @len) of each span. */
struct span {
	uint64_t gpa;
	uint64_t len;
};

static bool ram_untouched_but(const struct memory *mem, const struct span *span, unsigned int nr)
{
	const struct memory_region *region = &mem->region[0];
	const uint64_t page = sysconf(_SC_PAGESIZE), pages = region->size / page;
	unsigned char *vec = malloc(pages);
	bool good = true;

	/* Pages that were never touched aren't made for the look. */
	CHECK(vec && !mincore(region->hva, region->size, vec));
	for (uint64_t i = 0; vec && good && i < pages * page; i++) {
		unsigned int s = 0;

		if (!(vec[i / page] & 1)) {
			i |= page - 1;
			continue;
		}
		if (!region->hva[i])
			continue;
		while (s < nr && RAM + i - span[s].gpa >= span[s].len)
			s++;
		good = s < nr;
	}
	free(vec);
	return good;
}

static bool ram_untouched(const struct memory *mem)
{
	return ram_untouched_but(mem, NULL, 0);
}

static uint8_t pattern(uint64_t i)
{
	return (i * 31 + (i >> 8)) | 1;
}

struct image {
	uint32_t code0;
	uint32_t code1;
	uint64_t text_offset;
	uint64_t image_size;
	uint64_t flags;
	uint64_t res[3];
	uint32_t magic;
	uint32_t pe_offset;
	uint8_t rest[4096 - 64];
};

#define IMAGE_FILE sizeof(struct image)
#define IMAGE_SIZE (3 * MIB)

/* A small Image without an EFI stub. */
static struct image *image_make(void)
{
	static struct image image;
	uint8_t *p = (uint8_t *)&image;

	for (unsigned int i = 0; i < sizeof(image); i++)
		p[i] = pattern(i);
	memset(p, 0, 64);
	image.code0 = 0xd503201f; /* nop */
	image.code1 = 0x14000010;
	image.image_size = IMAGE_SIZE;
	image.flags = 0xa; /* 4 KiB pages, anywhere */
	image.magic = 0x644d5241;
	return &image;
}

#define PE_AT	   64
#define PE_SECTION (PE_AT + 24 + 160) /* the first one's header */

/* The same with a stub: two sections, the second one ends the file. */
static struct image *pe_make(void)
{
	struct image *image = image_make();
	uint8_t *p = (uint8_t *)image;
	const uint32_t raw[2][2] = { { 1024, 1024 }, { 2048, 2048 } }; /* size, offset */

	memcpy(p, "MZ", 2);
	image->pe_offset = PE_AT;
	memset(p + PE_AT, 0, PE_SECTION + 80 - PE_AT);
	memcpy(p + PE_AT, "PE\0\0\x64\xaa\x02", 7);
	p[PE_AT + 20] = 160;
	memcpy(p + PE_SECTION + 16, raw[0], 8);
	memcpy(p + PE_SECTION + 40 + 16, raw[1], 8);
	return image;
}

static uint64_t keep; /* at RAM's end */

/* Loads @kernel with an initrd of @initrd bytes unless 0. */
static int load_full(struct memory *mem, const void *kernel, size_t size, uint64_t initrd,
		     size_t fdt_max, struct boot_placement *at)
{
	struct tmpfile k = file_make(kernel, size), i = { .fd = -1 };
	struct boot_files files = { .kernel = k.path, .reserved = keep };
	int err;

	if (initrd) {
		i = file_sparse(initrd);
		files.initrd = i.path;
	}
	memset(at, 0xee, sizeof(*at));
	log_start();
	err = boot_load(mem, &files, fdt_max, at);
	if (i.fd >= 0)
		close(i.fd);
	close(k.fd);
	return err;
}

static int load(struct memory *mem, const void *kernel, size_t size, struct boot_placement *at)
{
	return load_full(mem, kernel, size, 0, FDT, at);
}

/* In gzip: gzip(1)'s, or stored blocks when it must be quick. */
static uint8_t gz[2 * IMAGE_FILE];

static size_t gz_stored(const void *data, uint16_t len)
{
	const uint16_t sizes[2] = { len, ~len };
	const uint32_t trailer[2] = { crc32_of(data, len), len };

	memcpy(gz, "\x1f\x8b\x08\0\0\0\0\0\0\x03\x01", 11);
	memcpy(gz + 11, sizes, 4);
	memcpy(gz + 15, data, len);
	memcpy(gz + 15 + len, trailer, 8);
	return 15 + len + 8;
}

/* The @len bytes that begin with @image and go on with zeros, by gzip(1). */
static size_t gz_zeros(const struct image *image, size_t len)
{
	char path[] = "/tmp/vinit-test-boot-XXXXXX", command[64];
	int fd = mkstemp(path);
	size_t size = 0;
	FILE *pipe;

	CHECK(fd >= 0 && write(fd, image, sizeof(*image)) == sizeof(*image));
	CHECK(!ftruncate(fd, len));
	snprintf(command, sizeof(command), "gzip -c <%s", path);
	pipe = popen(command, "r");
	if (pipe)
		size = fread(gz, 1, sizeof(gz), pipe);
	CHECK(pipe && pclose(pipe) == 0 && size && size < sizeof(gz));
	unlink(path);
	close(fd);
	return size;
}

/* A guest that resets itself has its kernel loaded anew each time, and must not fill the log. */
static void reset_often(void)
{
	struct boot_placement at;
	struct memory mem;
	unsigned int lines = 0;

	limit_log = true;
	ram_make(&mem, 32 * MIB);
	for (unsigned int i = 0; i < 100; i++) {
		struct image *image = image_make();

		if (i % 2)
			image->image_size = 0;
		else
			image->flags = 4;
		CHECK_EQ(load(&mem, image, sizeof(*image), &at), 0);
		lines += *log_end() != 0;
		/* Each of the two is said at first. */
		CHECK(i > 1 || *log_text);
	}
	CHECK(lines <= 2 * LOG_BURST);
	memory_fini(&mem);
	limit_log = false;
}

static void image_plain(void)
{
	struct boot_placement at;
	struct memory mem;
	struct span span = { RAM, IMAGE_FILE };
	struct image *image = image_make();

	ram_make(&mem, 128 * MIB);
	CHECK_EQ(ram_in_vain(&mem), 0);
	CHECK_EQ(load(&mem, image, sizeof(*image), &at), 0);
	CHECK(ram_in_vain(&mem) <= 0);
	CHECK_EQ(at.pc, RAM);
	CHECK_EQ(at.fdt, RAM + IMAGE_SIZE);
	CHECK_EQ(at.initrd, 0);
	CHECK_EQ(at.initrd_size, 0);
	CHECK(!memcmp(memory_ptr(&mem, at.pc, IMAGE_FILE), image, IMAGE_FILE));
	CHECK(ram_untouched_but(&mem, &span, 1));
	span.len--; /* the check sees one byte */
	CHECK(!ram_untouched_but(&mem, &span, 1));
	CHECK_STR(log_end(), "");

	/* As little RAM as there may be. */
	memory_fini(&mem);
	ram_make(&mem, 16 * MIB);
	CHECK_EQ(load_full(&mem, image, sizeof(*image), 5000, FDT, &at), 0);
	CHECK_EQ(at.initrd, RAM + 16 * MIB - UNIT);
	CHECK_EQ(at.initrd_size, 5000);
	memory_fini(&mem);
}

/* Fields and what becomes of them; RAM has 32 MiB. */
static void image_fields(void)
{
	static const struct {
		unsigned int offset, len;
		uint64_t value;
		int err;
		const char *word;
	} cases[] = {
		{ 56, 4, 0, -ENOEXEC, "no Image" },
		{ 56, 4, 0x644d5240, -ENOEXEC, "no Image" },
		{ 56, 4, 0x41524d64, -ENOEXEC, "no Image" }, /* the other way round */
		{ 8, 8, 0x80000, 0, "" },
		{ 8, 8, 1, -ENOEXEC, "text_offset 0x1 " },
		{ 8, 8, 0x80800, -ENOEXEC, "text_offset 0x80800 " },
		{ 8, 8, 0x1ff000, 0, "" },
		{ 8, 8, 2 * MIB, 0, "" },
		{ 8, 8, 32 * MIB - IMAGE_SIZE - FDT, 0, "" },
		{ 8, 8, 32 * MIB - IMAGE_SIZE - FDT + 4096, -ENOSPC, "text_offset 0x1cf1000" },
		{ 8, 8, (1ull << 48) - 4096, -ENOSPC, "even 64 GiB of RAM would not do" },
		{ 8, 8, 1ull << 48, -ENOEXEC, "text_offset 0x1000000000000 " },
		{ 8, 8, UINT64_MAX, -ENOEXEC, "text_offset 0xffffffffffffffff " },
		{ 8, 8, -RAM, -ENOEXEC, "text_offset" }, /* wraps to 0 */
		{ 16, 8, 1, -ENOEXEC, "image_size 0x1 is less than its 0x1000 bytes" },
		{ 16, 8, IMAGE_FILE - 1, -ENOEXEC, "image_size 0xfff " },
		{ 16, 8, IMAGE_FILE, 0, "" },
		{ 16, 8, 32 * MIB - FDT, 0, "" },
		{ 16, 8, 32 * MIB - FDT + 1, -ENOSPC, "image_size 0x1ff0001 " },
		{ 16, 8, 1ull << 40, -ENOSPC, "even 64 GiB of RAM would not do" },
		{ 16, 8, (1ull << 48) - 1, -ENOSPC, "image_size 0xffffffffffff " },
		{ 16, 8, 1ull << 48, -ENOEXEC, "image_size 0x1000000000000 is not below" },
		{ 16, 8, UINT64_MAX, -ENOEXEC, "image_size" },
		{ 16, 8, -RAM, -ENOEXEC, "image_size" },
		{ 24, 8, 0, 0, "" },
		{ 24, 8, 1, -ENOEXEC, "big-endian" },
		{ 24, 8, 0xb, -ENOEXEC, "flags 0xb" },
		{ 24, 8, 2, 0, "" },
		{ 24, 8, 4, 0, "16 KiB pages" },
		{ 24, 8, 6, 0, "64 KiB pages" },
		{ 24, 8, 0xfffffffffffffff2, 0, "" }, /* bits for later */
		{ 0, 4, UINT32_MAX, 0, "" },
	};
	struct boot_placement at;
	struct memory mem;

	ram_make(&mem, 32 * MIB);
	for (unsigned int packed = 0; packed < 2; packed++)
		for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
			struct image *image = image_make();
			int err;

			memcpy((uint8_t *)image + cases[i].offset, &cases[i].value, cases[i].len);
			if (packed)
				err = load(&mem, gz, gz_stored(image, sizeof(*image)), &at);
			else
				err = load(&mem, image, sizeof(*image), &at);
			/* In gzip it shows only at the end that it is longer than it says. */
			if (packed && cases[i].offset == 16 && cases[i].value == IMAGE_FILE - 1) {
				CHECK_EQ(err, -ENOEXEC);
				CHECK(strstr(log_end(), "more than its image_size 0xfff"));
				ram_clear(&mem);
				continue;
			}
			if (err != cases[i].err)
				printf("  case %u, packed %u\n", i, packed);
			CHECK_EQ(err, cases[i].err);
			if (cases[i].value == 1 && cases[i].offset == 16 && packed)
				CHECK(strstr(log_end(), "image_size 0x1 is less than its 0x40"));
			else if (!strstr(log_end(), cases[i].word))
				printf("  case %u: \"%s\" not in %s", i, cases[i].word, log_text);
			if (*cases[i].word && !(packed && cases[i].value == 1))
				CHECK(strstr(log_text, cases[i].word));
			else if (!*cases[i].word)
				CHECK_STR(log_text, "");
			if (err) {
				CHECK(strstr(log_text, "kernel /proc/self/fd/"));
				CHECK(ram_untouched(&mem));
				continue;
			}
			CHECK_EQ(at.pc, RAM + image->text_offset);
			CHECK(at.fdt >= at.pc + image->image_size);
			CHECK(!memcmp(memory_ptr(&mem, at.pc, IMAGE_FILE), image, IMAGE_FILE));
			ram_clear(&mem);
		}
	memory_fini(&mem);
}

/* A file that ends anywhere inside leaves RAM as it was. */
static void image_truncated(void)
{
	struct boot_placement at;
	struct memory mem;

	ram_make(&mem, 32 * MIB);
	for (unsigned int len = 0; len < IMAGE_FILE; len++) {
		CHECK_EQ(load(&mem, pe_make(), len, &at), len ? -ENOEXEC : -ENODATA);
		if (len && len < 64)
			CHECK(strstr(log_end(), "too short"));
		if (len >= 64)
			CHECK(strstr(log_end(), "truncated"));
	}
	CHECK(ram_untouched(&mem));
	CHECK_EQ(load(&mem, pe_make(), IMAGE_FILE, &at), 0);
	/* Without a stub nothing but the header can be missed. */
	ram_clear(&mem);
	CHECK_EQ(load(&mem, image_make(), 63, &at), -ENOEXEC);
	CHECK_EQ(load(&mem, image_make(), 64, &at), 0);
	memory_fini(&mem);
}

static void pe_fields(void)
{
	static const struct {
		unsigned int offset, len;
		uint64_t value;
		int err;
	} cases[] = {
		{ 60, 4, 0, -ENOEXEC }, /* pe_offset */
		{ 60, 4, IMAGE_FILE - 24, -ENOEXEC },
		{ 60, 4, IMAGE_FILE - 23, -ENOEXEC },
		{ 60, 4, UINT32_MAX, -ENOEXEC },
		{ PE_AT, 4, 0x4551, -ENOEXEC },
		{ PE_AT + 6, 2, 0, 0 }, /* sections */
		{ PE_AT + 6, 2, 1, 0 },
		{ PE_AT + 6, 2, 97, -ENOEXEC },
		{ PE_AT + 6, 2, UINT16_MAX, -ENOEXEC },
		{ PE_AT + 20, 2, UINT16_MAX, -ENOEXEC }, /* optional header */
		{ PE_AT + 20, 2, IMAGE_FILE - PE_AT - 24, -ENOEXEC },
		{ PE_AT + 20, 2, IMAGE_FILE - PE_AT - 24 - 79, -ENOEXEC },
		{ PE_SECTION + 16, 4, 0, 0 },
		{ PE_SECTION + 16, 4, 3072, 0 },
		{ PE_SECTION + 16, 4, 3073, -ENOEXEC },
		{ PE_SECTION + 16, 4, UINT32_MAX, -ENOEXEC },
		{ PE_SECTION + 20, 4, IMAGE_FILE - 1024, 0 },
		{ PE_SECTION + 20, 4, IMAGE_FILE - 1023, -ENOEXEC },
		{ PE_SECTION + 20, 4, UINT32_MAX, -ENOEXEC },
		{ PE_SECTION + 20, 4, UINT32_MAX - 1023, -ENOEXEC }, /* wraps to 0 */
		{ PE_SECTION + 40 + 16, 4, 2049, -ENOEXEC },
	};
	struct boot_placement at;
	struct memory mem;

	ram_make(&mem, 32 * MIB);
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct image *image = pe_make();
		int err;

		memcpy((uint8_t *)image + cases[i].offset, &cases[i].value, cases[i].len);
		err = load(&mem, image, sizeof(*image), &at);
		if (err != cases[i].err)
			printf("  case %u\n", i);
		CHECK_EQ(err, cases[i].err);
		CHECK(!err || (ram_untouched(&mem) && strstr(log_end(), "PE ")));
		ram_clear(&mem);
	}
	memory_fini(&mem);
}

/* Each byte of the headers, changed: an error or a guest that is where it says. */
static void flipped_bytes(void)
{
	static const uint8_t values[] = { 0x00, 0x01, 0x7f, 0x80, 0xff };
	struct boot_placement at;
	struct memory mem;
	unsigned int good = 0;

	ram_make(&mem, 32 * MIB);
	for (unsigned int i = 0; i < PE_SECTION + 80; i++)
		for (unsigned int v = 0; v < sizeof(values); v++) {
			struct image *image = pe_make();
			int err;

			((uint8_t *)image)[i] = values[v];
			err = load_full(&mem, image, sizeof(*image), 100, FDT, &at);
			CHECK(!err || err == -ENOEXEC || err == -ENOSPC);
			if (!err)
				CHECK(memory_ptr(&mem, at.pc, IMAGE_FILE) &&
				      memory_ptr(&mem, at.fdt, FDT) &&
				      memory_ptr(&mem, at.initrd, 100));
			good += !err;
		}
	CHECK(good > 500);
	memory_fini(&mem);
}

/* Kernels before 3.17: no image_size, text_offset in their own byte order. */
static void old_kernels(void)
{
	struct boot_placement at;
	struct memory mem;
	struct image *image;
	unsigned int packed;

	for (packed = 0; packed < 2; packed++) {
		const uint64_t offsets[] = { 0x80000, 0, 0x12345678 };

		ram_make(&mem, 32 * MIB);
		for (unsigned int i = 0; i < 3; i++) {
			size_t size = IMAGE_FILE;

			image = image_make();
			image->image_size = 0;
			image->flags = 0;
			image->text_offset = offsets[i];
			if (packed)
				size = gz_stored(image, size);
			CHECK_EQ(load(&mem, packed ? (void *)gz : image, size, &at), 0);
			CHECK_EQ(at.pc, RAM + 0x80000);
			CHECK(!memcmp(memory_ptr(&mem, at.pc, IMAGE_FILE), image, IMAGE_FILE));
			/* All that there is is the kernel's. */
			CHECK_EQ(at.fdt, RAM + 32 * MIB - FDT);
			CHECK(strstr(log_end(), "image_size 0, it doesn't say"));
			CHECK(strstr(log_text, " 32192 KiB"));
			CHECK_EQ(load_full(&mem, packed ? (void *)gz : image, size, MIB, FDT, &at),
				 0);
			CHECK_EQ(at.fdt, RAM + 32 * MIB - FDT);
			CHECK_EQ(at.initrd, at.fdt - MIB);
		}
		image->text_offset = 0x0000080000000000; /* big-endian */
		gz_stored(image, IMAGE_FILE);
		CHECK_EQ(load(&mem, packed ? (void *)gz : image, IMAGE_FILE + 23 * packed, &at),
			 -ENOEXEC);
		CHECK(strstr(log_end(), "big-endian"));
		memory_fini(&mem);

		/* They find the device tree in their first 512 MiB only. */
		ram_make(&mem, GIB);
		image->text_offset = 0x80000;
		gz_stored(image, IMAGE_FILE);
		CHECK_EQ(load_full(&mem, packed ? (void *)gz : image, IMAGE_FILE + 23 * packed,
				   512 * MIB, FDT, &at),
			 0);
		CHECK_EQ(at.fdt, RAM + 512 * MIB - FDT);
		CHECK_EQ(at.initrd, RAM + 512 * MIB);
		CHECK_EQ(load_full(&mem, packed ? (void *)gz : image, IMAGE_FILE + 23 * packed,
				   512 * MIB + 1, FDT, &at),
			 -ENOSPC);
		CHECK(strstr(log_end(), "2 MiB are missing: give the guest 1026 MiB"));
		memory_fini(&mem);
	}
	/* Larger than what is free, in a file that doesn't show it. */
	ram_make(&mem, 16 * MIB);
	image = image_make();
	image->image_size = 0;
	CHECK_EQ(load_full(&mem, gz, gz_stored(image, IMAGE_FILE), 16 * MIB - 0x80000 - 2 * UNIT,
			   FDT, &at),
		 0);
	CHECK_EQ(load_full(&mem, gz, gz_stored(image, IMAGE_FILE),
			   16 * MIB - 0x80000 - 2 * UNIT + 1, FDT, &at),
		 -ENOSPC);
	for (unsigned int more = 0; more < 2; more++)
		CHECK_EQ(load_full(&mem, gz, gz_zeros(image, UNIT + more),
				   16 * MIB - 0x80000 - 2 * UNIT, FDT, &at),
			 more ? -ENOSPC : 0);
	CHECK(strstr(log_end(), "image_size 0: it unpacks to more than the 65536 bytes"));
	memory_fini(&mem);
	/* One that is longer than the reach of its device tree, which must not go into it. */
	{
		struct tmpfile k = file_make(image, IMAGE_FILE), i = file_sparse(GIB);
		struct boot_files files = { .kernel = k.path, .initrd = i.path };

		CHECK(!ftruncate(k.fd, 600 * MIB));
		ram_make(&mem, GIB);
		log_start();
		CHECK_EQ(boot_load(&mem, &files, FDT, &at), -ENOSPC);
		CHECK(strstr(log_end(),
			     "kernel 0x40080000 to 0x65880000, device tree 0x65880000 "));
		memory_fini(&mem);
		close(k.fd);
		close(i.fd);
	}
	/* Such a one of its own is as bad as it gets: the device tree must go somewhere. */
	memory_init(&mem, -1);
	CHECK(!memory_add_ram(&mem, RAM, 0x80000 + 2 * UNIT, MEMORY_ANON));
	CHECK_EQ(load_full(&mem, image, IMAGE_FILE, 0, UNIT, &at), 0);
	CHECK_EQ(at.fdt, RAM + 0x80000 + UNIT);
	memory_fini(&mem);
}

/* The device tree: 8-byte aligned, in one block of 2 MiB, behind the kernel. */
static void fdt_places(void)
{
	static const struct {
		uint64_t text_offset, image_size, fdt_max;
		uint64_t at; /* from RAM's start; 0: doesn't fit into 16 MiB */
	} cases[] = {
		{ 0, 3 * MIB, 1, 3 * MIB },
		{ 0, 3 * MIB, UNIT, 3 * MIB },
		{ 0, 3 * MIB + 1, UNIT, 3 * MIB + UNIT },
		{ 0, 3 * MIB, MIB, 3 * MIB },
		{ 0, 3 * MIB, MIB + 1, 4 * MIB },
		{ 0, 4 * MIB - UNIT, UNIT, 4 * MIB - UNIT },
		{ 0, 4 * MIB - UNIT, UNIT + 1, 4 * MIB },
		{ 0, 4 * MIB, 2 * MIB, 4 * MIB },
		{ 0, 4 * MIB + 1, 2 * MIB, 6 * MIB },
		{ 0x80000, 4 * MIB, 2 * MIB, 6 * MIB },
		{ 0, 14 * MIB, 2 * MIB, 14 * MIB },
		{ 0, 14 * MIB + 1, 2 * MIB, 0 },
		{ 0, 16 * MIB - UNIT, UNIT, 16 * MIB - UNIT },
		{ 0, 16 * MIB - UNIT, UNIT + 1, 0 },
		{ 0, 16 * MIB, 1, 0 },
	};
	struct boot_placement at;
	struct memory mem;
	struct image *image = image_make();

	ram_make(&mem, 16 * MIB);
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int err;

		image->text_offset = cases[i].text_offset;
		image->image_size = cases[i].image_size;
		err = load_full(&mem, image, IMAGE_FILE, 0, cases[i].fdt_max, &at);
		if (err != (cases[i].at ? 0 : -ENOSPC) || (!err && at.fdt != RAM + cases[i].at))
			printf("  case %u: %#llx\n", i, at.fdt - RAM);
		CHECK_EQ(err, cases[i].at ? 0 : -ENOSPC);
		if (!err) {
			CHECK_EQ(at.fdt, RAM + cases[i].at);
			CHECK_EQ(at.fdt / (2 * MIB), (at.fdt + cases[i].fdt_max - 1) / (2 * MIB));
		}
		ram_clear(&mem);
	}
	/* Below its bound as well. */
	image->text_offset = 0;
	image->image_size = 0;
	for (uint64_t max = 1; max <= 2 * MIB; max += UNIT / 2 - 1) {
		memory_fini(&mem);
		ram_make(&mem, 17 * MIB + 4096);
		CHECK_EQ(load_full(&mem, image, IMAGE_FILE, 0, max, &at), 0);
		CHECK_EQ(at.fdt % UNIT, 0);
		CHECK_EQ(at.fdt / (2 * MIB), (at.fdt + max - 1) / (2 * MIB));
		CHECK(at.fdt + max <= RAM + 17 * MIB && at.fdt >= RAM + 14 * MIB);
	}
	CHECK_EQ(load_full(&mem, image, IMAGE_FILE, 0, 0, &at), -EINVAL);
	CHECK_EQ(load_full(&mem, image, IMAGE_FILE, 0, 2 * MIB + 1, &at), -EINVAL);
	CHECK(strstr(log_end(), "2097153"));
	memory_fini(&mem);
}

/* Initrds of every size against small RAM: placed apart, or an error that knows how much would do.
 */
static void initrd_bounds(void)
{
	static const struct {
		uint64_t ram; /* MiB */
		uint64_t image_size;
		uint64_t size;
		uint64_t at; /* from RAM's start; 0: doesn't fit */
		const char *word;
	} cases[] = {
		{ 16, 3 * MIB, 1, 16 * MIB - UNIT, "" },
		{ 16, 3 * MIB, UNIT, 16 * MIB - UNIT, "" },
		{ 16, 3 * MIB, UNIT + 1, 16 * MIB - 2 * UNIT, "" },
		{ 16, 3 * MIB, 13 * MIB - FDT, 3 * MIB + FDT, "" },
		{ 16, 3 * MIB, 13 * MIB - FDT + 1, 0,
		  "has 13565953 bytes, the largest room for it is 13565952 bytes" },
		{ 16, 3 * MIB, 13 * MIB - FDT + 1, 0,
		  ": 2 MiB are missing: give the guest 18 MiB" },
		{ 16, 3 * MIB, 200 * MIB, 0, ": 188 MiB are missing: give the guest 204 MiB" },
		{ 204, 3 * MIB, 200 * MIB, 4 * MIB, "" },
		{ 203, 3 * MIB, 200 * MIB, 0, ": 1 MiB are missing: give the guest 204 MiB" },
		/* The kernel alone is too much: both are counted. */
		{ 16, 40 * MIB, 20 * MIB, 0, ": 46 MiB are missing: give the guest 62 MiB" },
		{ 61, 40 * MIB, 20 * MIB, 41 * MIB, "" },
		{ 60, 40 * MIB, 20 * MIB, 0, ": 2 MiB are missing: give the guest 62 MiB" },
		{ 16, 40 * MIB, 0, 0, ": 26 MiB are missing: give the guest 42 MiB" },
		{ 41, 40 * MIB, 0, RAM, "" }, /* RAM: none */
		/* Room below the device tree counts, too, where that had to move up. */
		{ 16, 2 * MIB + UNIT, UNIT, 16 * MIB - UNIT, "" },
		/* The kernel, the initrd and 32 GiB. */
		{ 40 * 1024, 3 * MIB, 5000, 32 * GIB - UNIT, "" },
		{ 40 * 1024, 3 * MIB, 32 * GIB, 0, "even 64 GiB of RAM would not do" },
		{ 40 * 1024, 3 * MIB, 1ull << 62, 0, "within 32 GiB" },
		{ 33 * 1024, 31 * GIB, GIB - FDT - UNIT + 1, 31 * GIB + FDT, "" },
		{ 33 * 1024, 31 * GIB, GIB - FDT + 1, 0, "even 64 GiB of RAM would not do" },
	};
	struct boot_placement at;
	struct memory mem;

	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct image *image = image_make();
		int err;

		ram_make(&mem, cases[i].ram * MIB);
		image->image_size = cases[i].image_size;
		err = load_full(&mem, image, IMAGE_FILE, cases[i].size, FDT, &at);
		if (err != (cases[i].at ? 0 : -ENOSPC))
			printf("  case %u: %s", i, log_end());
		CHECK_EQ(err, cases[i].at ? 0 : -ENOSPC);
		CHECK(strstr(log_end(), cases[i].word));
		if (!strstr(log_end(), cases[i].word))
			printf("  case %u: %s", i, log_text);
		if (!err) {
			CHECK_EQ(at.initrd, cases[i].at == RAM ? 0 : RAM + cases[i].at);
			CHECK_EQ(at.initrd_size, cases[i].size);
		} else {
			CHECK(ram_untouched(&mem) || cases[i].ram > 1024);
		}
		memory_fini(&mem);
	}

	/*
	 * What is said to be enough is, and is a size that a machine may have; the next smaller one
	 * isn't enough, whatever the sizes.
	 */
	for (uint64_t i = 1; i < 60; i++) {
		struct image *image = image_make();
		const char *word;
		unsigned int mib;

		image->image_size = i % 5 ? i * 1234567 : 0;
		ram_make(&mem, 16 * MIB);
		CHECK_EQ(load_full(&mem, image, IMAGE_FILE, i * 7654321 + 16 * MIB, i * 34567, &at),
			 -ENOSPC);
		memory_fini(&mem);
		word = strstr(log_end(), "give the guest ");
		CHECK(word && sscanf(word, "give the guest %u MiB", &mib) == 1);
		CHECK_EQ(mib % 2, 0);
		for (unsigned int less = 0; word && less < 4; less += 2) {
			ram_make(&mem, (mib - less) * MIB);
			CHECK_EQ(load_full(&mem, image, IMAGE_FILE, i * 7654321 + 16 * MIB,
					   i * 34567, &at),
				 less ? -ENOSPC : 0);
			memory_fini(&mem);
		}
	}
	/* RAM that ends inside the largest kind of page, whose kernels don't see the rest. */
	ram_make(&mem, 16 * MIB + 3 * 4096);
	CHECK_EQ(load_full(&mem, image_make(), IMAGE_FILE, 5000, FDT, &at), 0);
	CHECK_EQ(at.initrd, RAM + 16 * MIB - UNIT);
	memory_fini(&mem);
}

/* What is kept free at RAM's end: nothing is put there, and it counts in what is missing. */
static void reserved(void)
{
	struct boot_placement at;
	struct memory mem;

	keep = UNIT;
	ram_make(&mem, 16 * MIB);
	CHECK_EQ(load_full(&mem, image_make(), IMAGE_FILE, 5000, FDT, &at), 0);
	CHECK_EQ(at.initrd, RAM + 16 * MIB - 2 * UNIT);
	memory_fini(&mem);
	/* Kernel, device tree and initrd take all but one unit; then one more. */
	ram_make(&mem, 16 * MIB);
	CHECK_EQ(load_full(&mem, image_make(), IMAGE_FILE, 13 * MIB - 2 * UNIT, FDT, &at), 0);
	CHECK_EQ(at.initrd + at.initrd_size, RAM + 16 * MIB - UNIT);
	memory_fini(&mem);
	ram_make(&mem, 16 * MIB);
	CHECK_EQ(load_full(&mem, image_make(), IMAGE_FILE, 13 * MIB - UNIT, FDT, &at), -ENOSPC);
	CHECK(strstr(log_end(), "RAM ends at 0x40ff0000"));
	CHECK(strstr(log_end(), "give the guest 18 MiB or more"));
	memory_fini(&mem);
	keep = 0;
}

/* The bytes of kernel and initrd arrive, whatever pieces pread() gives them in. */
static void content(void)
{
	static uint8_t data[10000];
	struct image *image = image_make();
	struct boot_placement at;
	struct boot_files files;
	struct tmpfile k[2], i;
	struct memory mem;

	for (unsigned int n = 0; n < sizeof(data); n++)
		data[n] = pattern(n + 1);
	k[0] = file_make(image, sizeof(*image));
	k[1] = file_make(gz, gz_stored(image, IMAGE_FILE));
	i = file_make(data, sizeof(data));
	for (unsigned int n = 0; n < 6; n++) {
		const struct span spans[] = { { RAM, IMAGE_FILE },
					      { RAM + 32 * MIB - UNIT, sizeof(data) } };

		files = (struct boot_files){ .kernel = k[n & 1].path, .initrd = i.path };
		ram_make(&mem, 32 * MIB);
		reads.piece = n / 2 == 0 ? 0 : n / 2 == 1 ? 1 : 777;
		reads.eintr = n;
		CHECK_EQ(boot_load(&mem, &files, FDT, &at), 0);
		CHECK_EQ(at.initrd, RAM + 32 * MIB - UNIT);
		CHECK(!memcmp(memory_ptr(&mem, at.initrd, sizeof(data)), data, sizeof(data)));
		CHECK(!memcmp(memory_ptr(&mem, at.pc, IMAGE_FILE), image, IMAGE_FILE));
		CHECK(ram_untouched_but(&mem, spans, 2));
		memory_fini(&mem);
	}
	memset(&reads, 0, sizeof(reads));
	close(k[0].fd);
	close(k[1].fd);
	close(i.fd);
}

/* gzip that lies, ends early, or has something behind it. */
static void gzip_damage(void)
{
	struct image *image = image_make();
	struct boot_placement at;
	struct memory mem;
	size_t size;

	ram_make(&mem, 32 * MIB);
	size = gz_stored(image, IMAGE_FILE);
	CHECK_EQ(load(&mem, gz, size, &at), 0);
	for (size_t len = 1; len < size; len++) {
		CHECK_EQ(load(&mem, gz, len, &at), -ENOEXEC);
		if (len >= 10)
			CHECK(strstr(log_end(), "gzip data") && strstr(log_text, "truncated"));
	}
	gz[size - 1] ^= 1;
	CHECK_EQ(load(&mem, gz, size, &at), -ENOEXEC);
	CHECK(strstr(log_end(), "ISIZE"));
	gz[size - 1] ^= 1;
	gz[size - 5] ^= 1;
	CHECK_EQ(load(&mem, gz, size, &at), -ENOEXEC);
	CHECK(strstr(log_end(), "CRC-32"));
	gz[size - 5] ^= 1;
	gz[2] = 7;
	CHECK_EQ(load(&mem, gz, size, &at), -ENOEXEC);
	CHECK(strstr(log_end(), "deflate"));

	/* Behind it. */
	gz_stored(image, IMAGE_FILE);
	gz[size] = 0;
	CHECK_EQ(load(&mem, gz, size + 1, &at), -ENOEXEC);
	CHECK(strstr(log_end(), " 1 bytes follow the gzip data at 0x1017: unknown"));
	memcpy(gz + size, "\xd0\x0d\xfe\xed", 4);
	CHECK_EQ(load(&mem, gz, size + 4, &at), -ENOEXEC);
	CHECK(strstr(log_end(), " 4 bytes follow") && strstr(log_text, "device tree"));
	memcpy(gz + size, gz, 100);
	CHECK_EQ(load(&mem, gz, size + 100, &at), -ENOEXEC);
	CHECK(strstr(log_end(), "second gzip member"));

	/* More inside than the header in there says. */
	image->image_size = 3000;
	CHECK_EQ(load(&mem, gz, gz_stored(image, 3000), &at), 0);
	CHECK_EQ(load(&mem, gz, gz_stored(image, 3001), &at), -ENOEXEC);
	CHECK(strstr(log_end(), "unpacks to more than its image_size 0xbb8"));
	/* No Image inside. */
	ram_clear(&mem);
	memcpy(image, "070701", 6);
	image->magic = 0;
	CHECK_EQ(load(&mem, gz, gz_stored(image, 3000), &at), -ENOEXEC);
	CHECK(strstr(log_end(), "what was in gzip") && strstr(log_text, "cpio"));
	CHECK_EQ(load(&mem, gz, gz_stored(image, 63), &at), -ENOEXEC);
	CHECK_EQ(load(&mem, gz, gz_stored(image, 0), &at), -ENOEXEC);
	CHECK(strstr(log_end(), "too short"));
	CHECK(ram_untouched(&mem));
	memory_fini(&mem);
}

/* What is no regular file, or stops to be what it was. */
static void bad_files(void)
{
	char dir[] = "/tmp/vinit-test-boot-XXXXXX", fifo[64];
	struct boot_files files = { 0 };
	struct boot_placement at;
	struct tmpfile k[2], empty;
	struct memory mem;

	CHECK(mkdtemp(dir) != NULL);
	snprintf(fifo, sizeof(fifo), "%s/fifo", dir);
	CHECK(!mkfifo(fifo, 0600));
	ram_make(&mem, 32 * MIB);
	k[0] = file_make(pe_make(), IMAGE_FILE);
	k[1] = file_make(gz, gz_stored(pe_make(), IMAGE_FILE));
	empty = file_make("", 0);

	files.kernel = dir;
	log_start();
	CHECK_EQ(boot_load(&mem, &files, FDT, &at), -EISDIR);
	CHECK(strstr(log_end(), dir) && strstr(log_text, "EISDIR"));
	files.kernel = fifo; /* must not wait for a writer */
	CHECK_EQ(boot_load(&mem, &files, FDT, &at), -EINVAL);
	files.kernel = "/dev/null";
	CHECK_EQ(boot_load(&mem, &files, FDT, &at), -EINVAL);
	files.kernel = "/nonexistent/Image";
	CHECK_EQ(boot_load(&mem, &files, FDT, &at), -ENOENT);
	CHECK(strstr(log_end(), "kernel /nonexistent/Image: open: ENOENT"));
	files.kernel = empty.path;
	CHECK_EQ(boot_load(&mem, &files, FDT, &at), -ENODATA);

	files.kernel = k[0].path;
	files.initrd = dir;
	CHECK_EQ(boot_load(&mem, &files, FDT, &at), -EISDIR);
	files.initrd = fifo;
	CHECK_EQ(boot_load(&mem, &files, FDT, &at), -EINVAL);
	files.initrd = "/nonexistent/initrd";
	log_start();
	CHECK_EQ(boot_load(&mem, &files, FDT, &at), -ENOENT);
	CHECK(strstr(log_end(), "initrd /nonexistent/initrd: open: ENOENT"));
	files.initrd = empty.path;
	CHECK_EQ(boot_load(&mem, &files, FDT, &at), -ENODATA);
	files.initrd = NULL;
	CHECK(ram_untouched(&mem));

	/* A file that gets shorter after fstat(), at every kind of place. */
	for (unsigned int packed = 0; packed < 2; packed++) {
		files.kernel = k[packed].path;
		for (reads.end = 1; reads.end < IMAGE_FILE; reads.end += 97) {
			log_start();
			CHECK_EQ(boot_load(&mem, &files, FDT, &at), -EIO);
			CHECK(strstr(log_end(), "EIO"));
		}
		reads.end = 0;
		reads.fail = EBADMSG; /* which is what damaged gzip data is called inside */
		for (reads.fail_at = 0; reads.fail_at <= 4000; reads.fail_at += 2000) {
			log_start();
			CHECK_EQ(boot_load(&mem, &files, FDT, &at), -EBADMSG);
			CHECK(strstr(log_end(), "pread") && !strstr(log_text, "ENOEXEC"));
		}
		memset(&reads, 0, sizeof(reads));
		CHECK_EQ(boot_load(&mem, &files, FDT, &at), 0);
	}
	memory_fini(&mem);
	memory_init(&mem, -1);
	CHECK_EQ(boot_load(&mem, &files, FDT, &at), -ENOSPC); /* no RAM at all */
	close(k[0].fd);
	close(k[1].fd);
	close(empty.fd);
	unlink(fifo);
	rmdir(dir);
}

/* Files that are something else are told by name. */
static void other_kinds(void)
{
	static const struct {
		unsigned int offset;
		const char *magic;
		const char *word;
	} kinds[] = {
		{ 0, "\xfd\x37zXZ", "xz" },
		{ 0, "\x28\xb5\x2f\xfd", "zstd" },
		{ 0, "\x02\x21\x4c\x18", "lz4" },
		{ 4, "zimg", "an EFI zboot image" },
		{ 0x202, "HdrS", "kernel for x86 (bzImage)" },
		{ 0, "\177ELF", "an ELF file" },
		{ 0x38, "RSC\x05", "RISC-V" },
		{ 0, "MZ", "unified kernel image" },
		{ 0, "070701", "cpio" },
		{ 0, "\xd0\x0d\xfe\xed", "FIT" },
		{ 0, "hello", "unknown" },
	};
	uint8_t image[2048];
	struct boot_placement at;
	struct memory mem;

	ram_make(&mem, 32 * MIB);
	for (unsigned int i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		memset(image, 0x90, sizeof(image));
		if (kinds[i].offset)
			memcpy(image, "MZ", 2);
		memcpy(image + kinds[i].offset, kinds[i].magic, strlen(kinds[i].magic) + 1);
		CHECK_EQ(load(&mem, image, sizeof(image), &at), -ENOEXEC);
		CHECK(strstr(log_end(), kinds[i].word) && strstr(log_text, "no Image"));
		/* Whole, with its end of line. */
		CHECK(log_text[0] && log_text[strlen(log_text) - 1] == '\n');
	}
	CHECK(ram_untouched(&mem));
	memory_fini(&mem);
}

/* No load leaves a descriptor open, whatever its end. */
static void descriptors(void)
{
	struct image *image = image_make();
	struct boot_placement at;
	struct memory mem;
	int before;

	ram_make(&mem, 32 * MIB);
	log_start();
	before = open_fds();
	CHECK_EQ(load_full(&mem, image, IMAGE_FILE, 100, FDT, &at), 0);
	CHECK_EQ(load_full(&mem, image, IMAGE_FILE, GIB, FDT, &at), -ENOSPC);
	CHECK_EQ(load_full(&mem, image, 60, 100, FDT, &at), -ENOEXEC);
	CHECK_EQ(load_full(&mem, gz, gz_stored(image, 3000) - 1, 100, FDT, &at), -ENOEXEC);
	CHECK_EQ(open_fds(), before);
	memory_fini(&mem);
}

/* The whole of @path, mapped. */
static const void *map_file(const char *path, size_t *size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	void *p = MAP_FAILED;

	if (fd >= 0 && !fstat(fd, &st)) {
		*size = st.st_size;
		p = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, fd, 0);
	}
	close(fd);
	return p == MAP_FAILED ? NULL : p;
}

/* Debian's own, where they have been fetched, as they are, cut, and packed by gzip(1). */
static void real_kernels(void)
{
	static const char *const names[] = { "6.1", "6.12", "6.12-generic", "6.12-16k" };
	const char *dir = getenv("KERNELS");
	char path[4096], packed[] = "/tmp/vinit-test-boot-XXXXXX", command[4200];
	unsigned int found = 0;

	close(mkstemp(packed));
	for (unsigned int i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct boot_files files = { .kernel = path };
		struct boot_placement at;
		const void *image;
		struct memory mem;
		struct tmpfile cut;
		size_t size;

		snprintf(path, sizeof(path), "%s/%s/vmlinuz", dir ? dir : "build/kernels/aarch64",
			 names[i]);
		if (access(path, R_OK))
			continue;
		found++;
		image = map_file(path, &size);
		CHECK(image != NULL);
		if (!image)
			continue;
		ram_make(&mem, 128 * MIB);
		log_start();
		CHECK_EQ(boot_load(&mem, &files, FDT, &at), 0);
		CHECK_EQ(at.pc, RAM);
		CHECK(!memcmp(memory_ptr(&mem, at.pc, size), image, size));
		CHECK(at.fdt >= at.pc + size && memory_ptr(&mem, at.fdt, FDT));
		CHECK(!strstr(names[i], "16k") == !strstr(log_end(), "16 KiB pages"));
		memory_fini(&mem);
		/* It says what it needs where that isn't there. */
		ram_make(&mem, 16 * MIB);
		log_start();
		CHECK_EQ(boot_load(&mem, &files, FDT, &at), -ENOSPC);
		CHECK(strstr(log_end(), "MiB are missing"));
		memory_fini(&mem);
		/* Without its end; the last KiB or two are a signature. */
		ram_make(&mem, 128 * MIB);
		cut = file_make(image, size - 4096);
		files.kernel = cut.path;
		log_start();
		CHECK_EQ(boot_load(&mem, &files, FDT, &at), -ENOEXEC);
		CHECK(strstr(log_end(), "truncated"));
		close(cut.fd);

		snprintf(command, sizeof(command), "gzip -%c -c '%s' >%s", i ? '1' : '9', path,
			 packed);
		if (i < 2) {
			CHECK_EQ(system(command), 0);
			files.kernel = packed;
			log_start();
			CHECK_EQ(boot_load(&mem, &files, FDT, &at), 0);
			CHECK(!memcmp(memory_ptr(&mem, at.pc, size), image, size));
		}
		memory_fini(&mem);
		munmap((void *)image, size);
	}
	unlink(packed);
	if (!found)
		printf("  no kernels in %s: only made-up ones were loaded\n",
		       dir ? dir : "build/kernels/aarch64");
}

int main(void)
{
	/* First, while the low descriptors are still few. */
	RUN(descriptors);
	RUN(reset_often);
	RUN(image_plain);
	RUN(image_fields);
	RUN(image_truncated);
	RUN(pe_fields);
	RUN(flipped_bytes);
	RUN(old_kernels);
	RUN(fdt_places);
	RUN(initrd_bounds);
	RUN(reserved);
	RUN(content);
	RUN(gzip_damage);
	RUN(bad_files);
	RUN(other_kinds);
	RUN(real_kernels);
	return TEST_RESULT();
}
