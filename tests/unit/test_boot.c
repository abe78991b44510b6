/* SPDX-License-Identifier: MIT */
/* The x86_64 loader against images made here: right ones, truncated ones, lying ones. */
#include <elf.h>
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
#include <asm/bootparam.h>
#include "arch/x86_64/boot.h"
#include "arch/x86_64/layout.h"
#include "tests/unit/bootfile.h"
#include "tests/unit/test.h"
#include "vm/kvm.h"
#include "vm/log.h"
#include "vm/memory.h"

#define MIB  (1ull << 20)
#define GIB  (1ull << 30)
#define PAGE 4096ull
#define RSDP 0xe0000ull

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
	if (reads.fail && (uint64_t)offset >= reads.fail_at) {
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

/* RAM as the machine has it. */
static void ram_make(struct memory *mem, uint64_t size)
{
	uint64_t low = size < LAYOUT_HOLE_BASE ? size : LAYOUT_HOLE_BASE;

	memory_init(mem, -1);
	CHECK(!memory_add_ram(mem, 0, low, MEMORY_ANON));
	if (size > low)
		CHECK(!memory_add_ram(mem, LAYOUT_HOLE_END, size - low, MEMORY_ANON));
}

/* Fresh RAM again. */
static void ram_clear(struct memory *mem)
{
	for (unsigned int i = 0; i < mem->nr; i++)
		madvise(mem->region[i].hva, mem->region[i].size, MADV_DONTNEED);
}

struct span {
	uint64_t gpa;
	uint64_t len;
};

#define NOWHERE UINT64_MAX

/*
 * The first byte of RAM outside the @nr spans that differs from 0, or NOWHERE. Pages that were
 * never touched aren't made for the look.
 */
static uint64_t ram_changed(const struct memory *mem, const struct span *span, unsigned int nr)
{
	uint64_t found = NOWHERE;

	for (unsigned int r = 0; r < mem->nr && found == NOWHERE; r++) {
		const struct memory_region *region = &mem->region[r];
		uint64_t pages = region->size / PAGE;
		unsigned char *vec = malloc(pages);

		CHECK(vec && !mincore(region->hva, region->size, vec));
		for (uint64_t p = 0; vec && p < pages * PAGE && found == NOWHERE; p++) {
			uint64_t gpa = region->gpa + p;
			unsigned int s = 0;

			if (!(vec[p / PAGE] & 1)) {
				p |= PAGE - 1;
				continue;
			}
			if (!region->hva[p])
				continue;
			while (s < nr && (gpa < span[s].gpa || gpa - span[s].gpa >= span[s].len))
				s++;
			if (s == nr)
				found = gpa;
		}
		free(vec);
	}
	return found;
}

static uint8_t pattern(uint64_t i)
{
	return (i * 31 + (i >> 8)) | 1;
}

static bool is_pattern(const struct memory *mem, uint64_t gpa, uint64_t from, uint64_t len)
{
	const uint8_t *p = memory_ptr(mem, gpa, len);

	for (uint64_t i = 0; p && i < len; i++)
		if (p[i] != pattern(from + i))
			return false;
	return p;
}

static uint64_t le(const struct memory *mem, uint64_t gpa, unsigned int len)
{
	uint64_t value = 0;

	CHECK(!memory_read(mem, gpa, &value, len));
	return value;
}

/* A small bzImage: one setup sector after the boot sector, 4 KiB of code. */
#define BZ_SETUP 1024
#define BZ_CODE	 4096
#define BZ_SIZE	 (BZ_SETUP + BZ_CODE)
#define BZ_LOAD	 (16 * MIB)
#define BZ_INIT	 (4 * MIB)

static uint8_t bz[BZ_SIZE + 16];

static struct setup_header *bz_make(void)
{
	struct setup_header *hdr = (void *)(bz + 0x1f1);

	for (unsigned int i = 0; i < sizeof(bz); i++)
		bz[i] = pattern(i);
	bz[0] = 'M';
	bz[1] = 'Z';
	bz[0x1ef] = 0xff; /* the sentinel */
	memset(hdr, 0, sizeof(*hdr));
	hdr->setup_sects = BZ_SETUP / 512 - 1;
	hdr->root_flags = 1;
	hdr->syssize = BZ_CODE / 16;
	hdr->vid_mode = 0xffff;
	hdr->boot_flag = 0xaa55;
	hdr->jump = 0x6aeb; /* to 0x26c */
	hdr->header = 0x53726448;
	hdr->version = 0x020f;
	hdr->loadflags = LOADED_HIGH;
	hdr->code32_start = 0x100000;
	hdr->initrd_addr_max = 0x7fffffff;
	hdr->kernel_alignment = 2 * MIB;
	hdr->relocatable_kernel = 1;
	hdr->min_alignment = 21;
	hdr->xloadflags = XLF_KERNEL_64 | XLF_CAN_BE_LOADED_ABOVE_4G;
	hdr->cmdline_size = 2047;
	hdr->pref_address = BZ_LOAD;
	hdr->init_size = BZ_INIT;
	hdr->setup_data = 0x1234567812345678;
	hdr->ramdisk_image = 0x11111111;
	hdr->ramdisk_size = 0x22222222;
	hdr->cmd_line_ptr = 0x33333333;
	return hdr;
}

/* A small vmlinux: text, notes, and data with bss, which ends the file. */
#define ELF_TEXT_OFF  0x200
#define ELF_TEXT      0x400
#define ELF_NOTE_OFF  (ELF_TEXT_OFF + ELF_TEXT)
#define ELF_NOTE      0x60
#define ELF_DATA_OFF  (ELF_NOTE_OFF + ELF_NOTE)
#define ELF_DATA      0x80
#define ELF_SIZE      (ELF_DATA_OFF + ELF_DATA)
#define ELF_TEXT_GPA  (16 * MIB)
#define ELF_DATA_GPA  (18 * MIB + 0x123)
#define ELF_DATA_MEM  0x5000ull
#define ELF_ENTRY     (ELF_TEXT_GPA + 0x40)
#define ELF_PVH_ENTRY (ELF_TEXT_GPA + 0x80)

static uint8_t elf[ELF_SIZE + 64];
#define elf_ehdr ((Elf64_Ehdr *)elf)
#define elf_phdr ((Elf64_Phdr *)(elf + sizeof(Elf64_Ehdr)))

static size_t note_put(uint8_t *p, const char *name, uint32_t type, const void *desc, uint32_t size,
		       uint64_t align)
{
	uint32_t head[3] = { strlen(name) + 1, size, type };
	size_t at = sizeof(head);

	memcpy(p, head, sizeof(head));
	memcpy(p + at, name, head[0]);
	at = (at + head[0] + align - 1) & ~(align - 1);
	memcpy(p + at, desc, size);
	return (at + size + align - 1) & ~(align - 1);
}

/* @pvh: bytes of the entry note's descriptor, 0 for none. */
static void elf_make(unsigned int pvh)
{
	uint64_t entry = ELF_PVH_ENTRY | (pvh == 4 ? 0xdeadull << 32 : 0);
	size_t n;

	for (unsigned int i = 0; i < sizeof(elf); i++)
		elf[i] = pattern(i);
	memset(elf, 0, ELF_TEXT_OFF);
	memcpy(elf_ehdr->e_ident, ELFMAG, SELFMAG);
	elf_ehdr->e_ident[EI_CLASS] = ELFCLASS64;
	elf_ehdr->e_ident[EI_DATA] = ELFDATA2LSB;
	elf_ehdr->e_ident[EI_VERSION] = EV_CURRENT;
	elf_ehdr->e_type = ET_EXEC;
	elf_ehdr->e_machine = EM_X86_64;
	elf_ehdr->e_version = EV_CURRENT;
	elf_ehdr->e_entry = ELF_ENTRY;
	elf_ehdr->e_phoff = sizeof(Elf64_Ehdr);
	elf_ehdr->e_ehsize = sizeof(Elf64_Ehdr);
	elf_ehdr->e_phentsize = sizeof(Elf64_Phdr);
	elf_ehdr->e_phnum = 3;
	elf_phdr[0] = (Elf64_Phdr){ .p_type = PT_LOAD,
				    .p_offset = ELF_TEXT_OFF,
				    .p_vaddr = 0xffffffff81000000,
				    .p_paddr = ELF_TEXT_GPA,
				    .p_filesz = ELF_TEXT,
				    .p_memsz = ELF_TEXT,
				    .p_align = 0x200000 };
	elf_phdr[1] = (Elf64_Phdr){ .p_type = PT_LOAD,
				    .p_offset = ELF_DATA_OFF,
				    .p_vaddr = 0xffffffff81200123,
				    .p_paddr = ELF_DATA_GPA,
				    .p_filesz = ELF_DATA,
				    .p_memsz = ELF_DATA_MEM,
				    .p_align = 0x200000 };
	elf_phdr[2] = (Elf64_Phdr){ .p_type = PT_NOTE,
				    .p_offset = ELF_NOTE_OFF,
				    .p_filesz = ELF_NOTE,
				    .p_memsz = ELF_NOTE,
				    .p_align = 4 };
	memset(elf + ELF_NOTE_OFF, 0, ELF_NOTE);
	/* Neighbours that only look alike come first. */
	n = note_put(elf + ELF_NOTE_OFF, "Xen", 6, "linux", 6, 4);
	n += note_put(elf + ELF_NOTE_OFF + n, "GNU", 18, "12345678", 8, 4);
	if (pvh)
		n += note_put(elf + ELF_NOTE_OFF + n, "Xen", 18, &entry, pvh, 4);
	elf_phdr[2].p_filesz = n;
}

/* Loads the @size bytes at @image into @mem, with an initrd of @initrd zero bytes unless 0. */
static int load_full(struct memory *mem, const void *image, size_t size, uint64_t initrd,
		     const char *cmdline, struct boot_entry *entry)
{
	struct tmpfile k = file_make(image, size), i = { .fd = -1 };
	struct boot_files files = { .kernel = k.path, .cmdline = cmdline, .rsdp = RSDP };
	int err;

	if (initrd) {
		i = file_sparse(initrd);
		files.initrd = i.path;
	}
	memset(entry, 0xee, sizeof(*entry));
	log_start();
	err = boot_load(mem, &files, entry);
	if (i.fd >= 0)
		close(i.fd);
	close(k.fd);
	return err;
}

static int load(struct memory *mem, const void *image, size_t size, struct boot_entry *entry)
{
	return load_full(mem, image, size, 0, "console=ttyS0", entry);
}

static int load_bz(struct memory *mem, struct boot_entry *entry)
{
	return load(mem, bz, BZ_SIZE, entry);
}

static int load_elf(struct memory *mem, struct boot_entry *entry)
{
	return load(mem, elf, ELF_SIZE, entry);
}

static uint64_t initrd_gpa(const struct memory *mem)
{
	return le(mem, LAYOUT_ZERO_PAGE + 0x218, 4) | le(mem, LAYOUT_ZERO_PAGE + 0xc0, 4) << 32;
}

static uint64_t initrd_size(const struct memory *mem)
{
	return le(mem, LAYOUT_ZERO_PAGE + 0x21c, 4) | le(mem, LAYOUT_ZERO_PAGE + 0xc4, 4) << 32;
}

static void check_e820(const struct memory *mem, uint64_t at, unsigned int stride, unsigned int i,
		       uint64_t addr, uint64_t size, uint32_t type)
{
	CHECK_EQ(le(mem, at + i * stride, 8), addr);
	CHECK_EQ(le(mem, at + i * stride + 8, 8), size);
	CHECK_EQ(le(mem, at + i * stride + 16, 4), type);
}

/* Walks the page tables as a CPU would. */
static uint64_t translate(const struct memory *mem, uint64_t va)
{
	uint64_t e = le(mem, LAYOUT_PML4 + (va >> 39 & 511) * 8, 8);

	if ((e & 3) != 3)
		return ~0ull;
	e = le(mem, (e & ~0xfffull) + (va >> 30 & 511) * 8, 8);
	if ((e & 3) != 3)
		return ~0ull;
	e = le(mem, (e & ~0xfffull) + (va >> 21 & 511) * 8, 8);
	if ((e & 0x83) != 0x83)
		return ~0ull;
	return (e & ~0x1fffffull) | (va & 0x1fffff);
}

static const struct span low_spans[] = {
	{ LAYOUT_GDT, BOOT_GDT_ENTRIES * 8 },
	{ LAYOUT_ZERO_PAGE, PAGE },
	{ LAYOUT_PML4, 8 },
	{ LAYOUT_PDPT, 32 },
	{ LAYOUT_PD, 4 * PAGE },
	{ LAYOUT_BIOS_ENTRY, 9 },
};

static void bz_plain(void)
{
	struct span spans[] = { low_spans[0],	     low_spans[1], low_spans[2],
				low_spans[3],	     low_spans[4], low_spans[5], { LAYOUT_CMDLINE, 14 },
				{ BZ_LOAD, BZ_CODE } };
	const uint64_t zp = LAYOUT_ZERO_PAGE;
	struct boot_entry entry;
	struct memory mem;

	ram_make(&mem, 128 * MIB);
	CHECK_EQ(ram_in_vain(&mem), 0);
	bz_make();
	CHECK_EQ(load_bz(&mem, &entry), 0);
	CHECK(ram_in_vain(&mem) <= 0);
	CHECK_EQ(entry.mode, BOOT_LONG);
	CHECK_EQ(entry.rip, BZ_LOAD + 0x200);
	CHECK_EQ(entry.info, LAYOUT_ZERO_PAGE);
	CHECK(is_pattern(&mem, BZ_LOAD, BZ_SETUP, BZ_CODE));
	CHECK_EQ(ram_changed(&mem, spans, sizeof(spans) / sizeof(spans[0])), NOWHERE);

	CHECK_EQ(le(&mem, zp + 0x1ef, 1), 0); /* sentinel */
	CHECK_EQ(le(&mem, zp + 0x1f1, 1), 1); /* setup_sects, as proof of the copy */
	CHECK_EQ(le(&mem, zp + 0x1fe, 2), 0xaa55);
	CHECK_EQ(le(&mem, zp + 0x202, 4), 0x53726448);
	CHECK_EQ(le(&mem, zp + 0x206, 2), 0x020f);
	CHECK_EQ(le(&mem, zp + 0x210, 1), 0xff);	/* type_of_loader */
	CHECK_EQ(le(&mem, zp + 0x211, 1), LOADED_HIGH); /* loadflags */
	CHECK_EQ(le(&mem, zp + 0x214, 4), BZ_LOAD);	/* code32_start */
	CHECK_EQ(initrd_gpa(&mem), 0);
	CHECK_EQ(initrd_size(&mem), 0);
	CHECK_EQ(le(&mem, zp + 0x228, 4), LAYOUT_CMDLINE);
	CHECK_EQ(le(&mem, zp + 0x0c8, 4), 0); /* ext_cmd_line_ptr */
	CHECK_EQ(le(&mem, zp + 0x250, 8), 0); /* setup_data */
	CHECK_EQ(le(&mem, zp + 0x258, 8), BZ_LOAD);
	CHECK_EQ(le(&mem, zp + 0x260, 4), BZ_INIT);
	CHECK_EQ(le(&mem, zp + 0x070, 8), RSDP);
	/* Nothing of the file behind its header. */
	CHECK_EQ(le(&mem, zp + 0x26c, 8), 0);
	CHECK_STR(memory_ptr(&mem, LAYOUT_CMDLINE, 14), "console=ttyS0");

	CHECK_EQ(le(&mem, zp + 0x1e8, 1), 3);
	check_e820(&mem, zp + 0x2d0, 20, 0, 0, 0x9fc00, 1);
	check_e820(&mem, zp + 0x2d0, 20, 1, 0x9fc00, 0x60400, 2);
	check_e820(&mem, zp + 0x2d0, 20, 2, MIB, 127 * MIB, 1);
	CHECK_EQ(le(&mem, zp + 0x2d0 + 60, 8), 0);

	for (uint64_t va = 0; va < 4 * GIB; va += 2 * MIB)
		CHECK_EQ(translate(&mem, va + 0x1234), va + 0x1234);
	CHECK_EQ(translate(&mem, 4 * GIB), ~0ull);
	/* F000:FFF0: mov $LAYOUT_RESET, %dx; mov $1, %al; out %al, (%dx) */
	CHECK_EQ(le(&mem, LAYOUT_BIOS_ENTRY, 8), 0xebf4ee01b00606ba);
	CHECK_EQ(le(&mem, LAYOUT_GDT, 8), 0);
	CHECK_EQ(le(&mem, LAYOUT_GDT + 0x10, 8), 0x00af9b000000ffff);
	CHECK_EQ(le(&mem, LAYOUT_GDT + 0x18, 8), 0x00cf93000000ffff);
	memory_fini(&mem);
}

static void bz_big_ram(void)
{
	struct boot_entry entry;
	struct memory mem;

	ram_make(&mem, 5 * GIB);
	bz_make();
	CHECK_EQ(load_full(&mem, bz, BZ_SIZE, 5000, "", &entry), 0);
	CHECK_EQ(le(&mem, LAYOUT_ZERO_PAGE + 0x1e8, 1), 4);
	check_e820(&mem, LAYOUT_ZERO_PAGE + 0x2d0, 20, 0, 0, 0x9fc00, 1);
	check_e820(&mem, LAYOUT_ZERO_PAGE + 0x2d0, 20, 1, 0x9fc00, 0x60400, 2);
	check_e820(&mem, LAYOUT_ZERO_PAGE + 0x2d0, 20, 2, MIB, 3 * GIB - MIB, 1);
	check_e820(&mem, LAYOUT_ZERO_PAGE + 0x2d0, 20, 3, 4 * GIB, 2 * GIB, 1);
	/* As high as the kernel's bound lets it, two pages long. */
	CHECK_EQ(initrd_gpa(&mem), 2 * GIB - 2 * PAGE);
	CHECK_EQ(initrd_size(&mem), 5000);
	CHECK_EQ(le(&mem, LAYOUT_CMDLINE, 1), 0);
	/* Into the hole, and above. */
	ram_clear(&mem);
	bz_make()->pref_address = 3 * GIB - BZ_INIT + 2 * MIB;
	CHECK_EQ(load_bz(&mem, &entry), -ENOSPC);
	bz_make()->pref_address = 3 * GIB - BZ_INIT;
	CHECK_EQ(load_bz(&mem, &entry), 0);
	CHECK_EQ(entry.rip, 3 * GIB - BZ_INIT + 0x200);
	bz_make()->pref_address = 4 * GIB;
	CHECK_EQ(load_bz(&mem, &entry), -ENOEXEC);
	memory_fini(&mem);
}

static void bz_versions(void)
{
	struct boot_entry entry;
	struct memory mem;

	ram_make(&mem, 32 * MIB);
	bz_make()->version = 0x020b;
	CHECK_EQ(load_bz(&mem, &entry), -ENOEXEC);
	CHECK(strstr(log_end(), "2.11"));
	bz_make()->version = 0x020d;
	CHECK_EQ(load_bz(&mem, &entry), 0);
	CHECK_EQ(le(&mem, LAYOUT_ZERO_PAGE + 0x70, 8), 0);
	bz_make()->version = 0x020e;
	CHECK_EQ(load_bz(&mem, &entry), 0);
	CHECK_EQ(le(&mem, LAYOUT_ZERO_PAGE + 0x70, 8), RSDP);
	memory_fini(&mem);
}

/*
 * The setup header ends where it says: shorter is refused, longer never leaves its place in the
 * zero page.
 */
static void bz_header_length(void)
{
	struct boot_entry entry;
	struct memory mem;

	ram_make(&mem, 32 * MIB);
	for (unsigned int len = 0; len < 256; len++) {
		const unsigned int end = 0x202 + len, room = end < 0x290 ? end : 0x290;
		unsigned int i;

		bz_make();
		bz[0x201] = len;
		if (end < 0x264) {
			CHECK_EQ(load_bz(&mem, &entry), -ENOEXEC);
			continue;
		}
		CHECK_EQ(load_bz(&mem, &entry), 0);
		for (i = 0x26c; i < 0x2d0; i++)
			CHECK_EQ(le(&mem, LAYOUT_ZERO_PAGE + i, 1), i < room ? bz[i] : 0);
		CHECK_EQ(le(&mem, LAYOUT_ZERO_PAGE + 0x264, 4), 0);
	}
	memory_fini(&mem);
}

/* A file that ends anywhere inside leaves RAM as it was. */
static void bz_truncated(void)
{
	struct boot_entry entry;
	struct memory mem;

	ram_make(&mem, 32 * MIB);
	bz_make();
	for (unsigned int len = 0; len < BZ_SIZE; len++)
		CHECK_EQ(load(&mem, bz, len, &entry), len ? -ENOEXEC : -ENODATA);
	CHECK_EQ(ram_changed(&mem, NULL, 0), NOWHERE);
	CHECK_EQ(load(&mem, bz, BZ_SIZE, &entry), 0);
	/* A signature behind it is not loaded. */
	ram_clear(&mem);
	CHECK_EQ(load(&mem, bz, BZ_SIZE + 16, &entry), 0);
	CHECK_EQ(le(&mem, BZ_LOAD + BZ_CODE, 8), 0);
	memory_fini(&mem);
}

static void bz_fields(void)
{
	static const struct {
		unsigned int offset, len;
		uint64_t value;
		int err;
	} cases[] = {
		{ 0x1f1, 1, 0, -ENOEXEC }, /* setup_sects: 0 is 4, so the code is cut off */
		{ 0x1f1, 1, 2, -ENOEXEC },
		{ 0x1f1, 1, 255, -ENOEXEC },
		{ 0x1f4, 4, 0, -ENOEXEC }, /* syssize */
		{ 0x1f4, 4, 1, -ENOEXEC },
		{ 0x1f4, 4, 0x20, -ENOEXEC }, /* ends at the entry */
		{ 0x1f4, 4, 0x21, 0 },
		{ 0x1f4, 4, BZ_CODE / 16 + 1, -ENOEXEC },
		{ 0x1f4, 4, 0x10000000, -ENOEXEC }, /* 4 GiB: 0 in 32 bits */
		{ 0x1f4, 4, 0x10000021, -ENOEXEC },
		{ 0x1f4, 4, 0xffffffff, -ENOEXEC },
		{ 0x1fe, 2, 0, -ENOEXEC }, /* boot_flag */
		{ 0x1fe, 2, 0xaa54, -ENOEXEC },
		{ 0x202, 4, 0, -ENOEXEC }, /* header */
		{ 0x202, 4, 0x53726449, -ENOEXEC },
		{ 0x206, 2, 0, -ENOEXEC }, /* version */
		{ 0x206, 2, 0x020c, 0 },
		{ 0x206, 2, 0xffff, 0 },
		{ 0x211, 1, 0, -ENOEXEC }, /* loadflags */
		{ 0x211, 1, 0xff, 0 },
		{ 0x230, 4, 0, -ENOEXEC }, /* kernel_alignment */
		{ 0x230, 4, 1, 0 },
		{ 0x230, 4, 3, -ENOEXEC },
		{ 0x230, 4, 0x1fffff, -ENOEXEC },
		{ 0x230, 4, 0x80000000, -ENOSPC },
		{ 0x230, 4, 0xffffffff, -ENOEXEC },
		{ 0x236, 2, 0, -ENOEXEC }, /* xloadflags */
		{ 0x236, 2, 2, -ENOEXEC },
		{ 0x236, 2, 1, 0 },
		{ 0x258, 8, 0, 0 }, /* pref_address: no preference */
		{ 0x258, 8, 1, 0 },
		{ 0x258, 8, 0xffffffffffffffff, -ENOEXEC },
		{ 0x258, 8, 0xfffffffffffff000, -ENOEXEC },
		{ 0x258, 8, 0xffffffff, -ENOEXEC }, /* aligned up it is 4 GiB */
		{ 0x258, 8, 0xc0000000, -ENOSPC },
		{ 0x260, 4, 0, 0 }, /* init_size: the code at least */
		{ 0x260, 4, 1, 0 },
		{ 0x260, 4, 16 * MIB, 0 },
		{ 0x260, 4, 16 * MIB + 1, -ENOSPC },
		{ 0x260, 4, 0xfeffffff, -ENOSPC },
		{ 0x260, 4, 0xff000001, -ENOEXEC },
		{ 0x260, 4, 0xffffffff, -ENOEXEC },
	};
	struct boot_entry entry;
	struct memory mem;

	ram_make(&mem, 32 * MIB);
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int err;

		bz_make();
		memcpy(bz + cases[i].offset, &cases[i].value, cases[i].len);
		err = load_bz(&mem, &entry);
		if (err != cases[i].err)
			printf("  case %u: field %#x = %#" PRIx64 "\n", i, cases[i].offset,
			       cases[i].value);
		CHECK_EQ(err, cases[i].err);
		if (err) {
			CHECK_EQ(ram_changed(&mem, NULL, 0), NOWHERE);
			CHECK(strstr(log_end(), "kernel /proc/self/fd/"));
		}
		ram_clear(&mem);
	}
	memory_fini(&mem);
}

static void bz_setup_sects_zero(void)
{
	static uint8_t image[5 * 512 + BZ_CODE];
	struct boot_entry entry;
	struct memory mem;

	ram_make(&mem, 32 * MIB);
	bz_make()->setup_sects = 0;
	memcpy(image, bz, BZ_SETUP);
	memcpy(image + 5 * 512, bz + BZ_SETUP, BZ_CODE);
	CHECK_EQ(load(&mem, image, sizeof(image), &entry), 0);
	CHECK(is_pattern(&mem, BZ_LOAD, BZ_SETUP, BZ_CODE));
	CHECK_EQ(load(&mem, image, sizeof(image) - 1, &entry), -ENOEXEC);
	memory_fini(&mem);
}

/* Where the kernel goes: its wish rounded up as it would itself, its window wholly in RAM. */
static void bz_placement(void)
{
	static const struct {
		uint64_t ram, pref, align, init;
		bool relocatable;
		int err;
		uint64_t at;
	} cases[] = {
		{ 32, 16 * MIB, 2 * MIB, 16 * MIB, true, 0, 16 * MIB },
		{ 32, 16 * MIB, 2 * MIB, 16 * MIB + 1, true, -ENOSPC, 0 },
		{ 16, 16 * MIB, 2 * MIB, MIB, true, -ENOSPC, 0 },
		{ 16, MIB, MIB, 15 * MIB, true, 0, MIB },
		{ 16, MIB, MIB, 15 * MIB + 1, true, -ENOSPC, 0 },
		{ 16, 0, 2 * MIB, MIB, true, 0, 2 * MIB },
		{ 16, 0x1000, PAGE, MIB, true, 0, MIB },
		{ 16, 3 * MIB + 1, 2 * MIB, MIB, true, 0, 4 * MIB },
		{ 16, 14 * MIB + 1, 2 * MIB, MIB, true, -ENOSPC, 0 },
		{ 16, 3 * MIB, 2 * MIB, MIB, false, 0, 3 * MIB }, /* not for us to move */
		{ 16, 3 * MIB, 3, MIB, false, 0, 3 * MIB },
		{ 16, 15 * MIB, 3, MIB, false, 0, 15 * MIB },
		{ 16, 15 * MIB + 16, 3, MIB, false, -ENOSPC, 0 },
		{ 16, 0, 2 * MIB, MIB, false, -ENOEXEC, 0 }, /* boot data */
		{ 16, LAYOUT_CMDLINE, 2 * MIB, BZ_CODE, false, -ENOEXEC, 0 },
		{ 16, MIB - 1, 2 * MIB, MIB, false, -ENOEXEC, 0 },
	};
	struct boot_entry entry;
	struct memory mem;

	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct setup_header *hdr = bz_make();
		int err;

		ram_make(&mem, cases[i].ram * MIB);
		hdr->pref_address = cases[i].pref;
		hdr->kernel_alignment = cases[i].align;
		hdr->init_size = cases[i].init;
		hdr->relocatable_kernel = cases[i].relocatable;
		err = load_bz(&mem, &entry);
		if (err != cases[i].err)
			printf("  case %u\n", i);
		CHECK_EQ(err, cases[i].err);
		if (!err) {
			CHECK_EQ(entry.rip, cases[i].at + 0x200);
			CHECK(is_pattern(&mem, cases[i].at, BZ_SETUP, BZ_CODE));
		} else {
			CHECK_EQ(ram_changed(&mem, NULL, 0), NOWHERE);
		}
		memory_fini(&mem);
	}
}

/* Bounds of the initrd: kernel's window below, RAM's end or the kernel's limit above. */
static void initrd_bounds(void)
{
	static const struct {
		uint64_t ram;  /* low RAM, MiB */
		uint64_t high; /* RAM from 4 GiB up, MiB */
		uint32_t addr_max;
		uint64_t pref;
		uint32_t init;
		uint16_t xload;
		uint64_t size;
		uint64_t at; /* 0: does not fit */
	} cases[] = {
		/* Between window and RAM's end. */
		{ 16, 0, 0x7fffffff, MIB, MIB, 1, 14 * MIB, 2 * MIB },
		{ 16, 0, 0x7fffffff, MIB, MIB, 1, 14 * MIB + 1, 0 },
		{ 16, 0, 0x7fffffff, MIB, MIB, 3, 14 * MIB + 1, 0 },
		{ 16, 0, 0x7fffffff, MIB, MIB, 1, 1, 16 * MIB - PAGE },
		{ 16, 0, 0x7fffffff, MIB, MIB, 1, PAGE, 16 * MIB - PAGE },
		{ 16, 0, 0x7fffffff, MIB, MIB, 1, PAGE + 1, 16 * MIB - 2 * PAGE },
		/* A window that ends inside a page takes all of it. */
		{ 16, 0, 0x7fffffff, MIB, MIB + 1, 1, 14 * MIB - PAGE, 2 * MIB + PAGE },
		{ 16, 0, 0x7fffffff, MIB, MIB + 1, 1, 14 * MIB - PAGE + 1, 0 },
		/* Between 1 MiB and the kernel when there is no room above. */
		{ 16, 0, 0x7fffffff, 8 * MIB, 8 * MIB, 1, 7 * MIB, MIB },
		{ 16, 0, 0x7fffffff, 8 * MIB, 8 * MIB, 1, 7 * MIB + 1, 0 },
		{ 16, 0, 0x7fffffff, 8 * MIB, 7 * MIB, 1, MIB, 15 * MIB },
		{ 16, 0, 0x7fffffff, 8 * MIB, 7 * MIB, 1, MIB + 1, 7 * MIB - PAGE },
		/* initrd_addr_max is the last byte that may be taken. */
		{ 16, 0, 8 * MIB - 1, MIB, MIB, 1, 6 * MIB, 2 * MIB },
		{ 16, 0, 8 * MIB - 1, MIB, MIB, 1, 6 * MIB + 1, 0 },
		{ 16, 0, 8 * MIB - 2, MIB, MIB, 1, 6 * MIB, 0 },
		{ 16, 0, 8 * MIB - 2, MIB, MIB, 1, 6 * MIB - 1, 2 * MIB },
		{ 16, 0, 8 * MIB, MIB, MIB, 1, 6 * MIB + 1, 2 * MIB },
		{ 16, 0, 0, MIB, MIB, 1, 1, 0 },
		{ 16, 0, MIB - 1, MIB, MIB, 1, 1, 0 },
		{ 16, 0, 0xffffffff, MIB, MIB, 1, 14 * MIB, 2 * MIB },
		/* A kernel that can be above 4 GiB takes it anywhere, lowest bound first. */
		{ 16, 0, 8 * MIB - 1, MIB, MIB, 3, 6 * MIB + 1, 10 * MIB - PAGE },
		{ 16, 32, 8 * MIB - 1, MIB, MIB, 3, 6 * MIB, 2 * MIB },
		{ 16, 32, 8 * MIB - 1, MIB, MIB, 3, 14 * MIB, 2 * MIB },
		{ 16, 32, 8 * MIB - 1, MIB, MIB, 3, 14 * MIB + 1, 4 * GIB + 18 * MIB - PAGE },
		{ 16, 32, 8 * MIB - 1, MIB, MIB, 3, 32 * MIB, 4 * GIB },
		{ 16, 32, 8 * MIB - 1, MIB, MIB, 3, 32 * MIB + 1, 0 },
		{ 16, 32, 0xffffffff, MIB, MIB, 1, 14 * MIB + 1, 0 },
	};
	struct boot_entry entry;
	struct memory mem;

	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct setup_header *hdr = bz_make();
		int err;

		memory_init(&mem, -1);
		CHECK(!memory_add_ram(&mem, 0, cases[i].ram * MIB, MEMORY_ANON));
		if (cases[i].high)
			CHECK(!memory_add_ram(&mem, 4 * GIB, cases[i].high * MIB, MEMORY_ANON));
		hdr->initrd_addr_max = cases[i].addr_max;
		hdr->pref_address = cases[i].pref;
		hdr->kernel_alignment = PAGE;
		hdr->init_size = cases[i].init;
		hdr->xloadflags = cases[i].xload;
		err = load_full(&mem, bz, BZ_SIZE, cases[i].size, "", &entry);
		if (err != (cases[i].at ? 0 : -ENOSPC) || (!err && initrd_gpa(&mem) != cases[i].at))
			printf("  case %u\n", i);
		CHECK_EQ(err, cases[i].at ? 0 : -ENOSPC);
		if (!err) {
			CHECK_EQ(initrd_gpa(&mem), cases[i].at);
			CHECK_EQ(initrd_size(&mem), cases[i].size);
		} else {
			char size[32];

			CHECK_EQ(ram_changed(&mem, NULL, 0), NOWHERE);
			snprintf(size, sizeof(size), " %" PRIu64 " bytes", cases[i].size);
			CHECK(strstr(log_end(), "initrd /proc/self/fd/") && strstr(log_text, size));
		}
		memory_fini(&mem);
	}
	/* The room named is the most that fits. */
	ram_make(&mem, 16 * MIB);
	bz_make()->pref_address = 8 * MIB;
	CHECK_EQ(load_full(&mem, bz, BZ_SIZE, 8 * MIB, "", &entry), -ENOSPC);
	CHECK(strstr(log_end(), " 7340032 bytes"));
	memory_fini(&mem);
}

/* The bytes of an initrd arrive, whatever pieces pread() gives them in. */
static void initrd_content(void)
{
	static uint8_t data[10000];
	struct span spans[] = { low_spans[0],
				low_spans[1],
				low_spans[2],
				low_spans[3],
				low_spans[4],
				low_spans[5],
				{ BZ_LOAD, BZ_CODE },
				{ 32 * MIB - 3 * PAGE, sizeof(data) } };
	struct boot_entry entry;
	struct boot_files files;
	struct tmpfile k, i;
	struct memory mem;

	for (unsigned int n = 0; n < sizeof(data); n++)
		data[n] = pattern(n);
	bz_make();
	k = file_make(bz, BZ_SIZE);
	i = file_make(data, sizeof(data));
	files = (struct boot_files){ .kernel = k.path, .initrd = i.path, .rsdp = RSDP };
	for (unsigned int n = 0; n < 3; n++) {
		ram_make(&mem, 32 * MIB);
		memset(&reads, 0, sizeof(reads));
		reads.piece = n == 0 ? 0 : n == 1 ? 1 : 777;
		reads.eintr = n;
		CHECK_EQ(boot_load(&mem, &files, &entry), 0);
		CHECK_EQ(initrd_gpa(&mem), 32 * MIB - 3 * PAGE);
		CHECK(is_pattern(&mem, BZ_LOAD, BZ_SETUP, BZ_CODE));
		CHECK(is_pattern(&mem, initrd_gpa(&mem), 0, sizeof(data)));
		CHECK_EQ(ram_changed(&mem, spans, sizeof(spans) / sizeof(spans[0])), NOWHERE);
		memory_fini(&mem);
	}
	memset(&reads, 0, sizeof(reads));
	close(k.fd);
	close(i.fd);
}

/* What is no regular file, or stops to be what it was. */
static void bad_files(void)
{
	char dir[] = "/tmp/vinit-test-boot-XXXXXX", fifo[64];
	struct boot_files files = { 0 };
	struct boot_entry entry;
	struct tmpfile k, empty;
	struct memory mem;

	CHECK(mkdtemp(dir) != NULL);
	snprintf(fifo, sizeof(fifo), "%s/fifo", dir);
	CHECK(!mkfifo(fifo, 0600));
	ram_make(&mem, 32 * MIB);
	bz_make();
	k = file_make(bz, BZ_SIZE);
	empty = file_make("", 0);

	files.kernel = dir;
	log_start();
	CHECK_EQ(boot_load(&mem, &files, &entry), -EISDIR);
	CHECK(strstr(log_end(), dir) && strstr(log_text, "EISDIR"));
	files.kernel = fifo; /* must not wait for a writer */
	CHECK_EQ(boot_load(&mem, &files, &entry), -EINVAL);
	files.kernel = "/dev/null";
	CHECK_EQ(boot_load(&mem, &files, &entry), -EINVAL);
	files.kernel = "/nonexistent/vmlinuz";
	CHECK_EQ(boot_load(&mem, &files, &entry), -ENOENT);
	CHECK(strstr(log_end(), "kernel /nonexistent/vmlinuz: open: ENOENT"));
	files.kernel = empty.path;
	CHECK_EQ(boot_load(&mem, &files, &entry), -ENODATA);

	files.kernel = k.path;
	files.initrd = dir;
	CHECK_EQ(boot_load(&mem, &files, &entry), -EISDIR);
	files.initrd = fifo;
	CHECK_EQ(boot_load(&mem, &files, &entry), -EINVAL);
	files.initrd = "/nonexistent/initrd";
	log_start();
	CHECK_EQ(boot_load(&mem, &files, &entry), -ENOENT);
	CHECK(strstr(log_end(), "initrd /nonexistent/initrd: open: ENOENT"));
	files.initrd = empty.path;
	CHECK_EQ(boot_load(&mem, &files, &entry), -ENODATA);
	files.initrd = NULL;

	/* A file that gets shorter after fstat(), at every kind of place. */
	for (reads.end = 1; reads.end < BZ_SIZE; reads.end += 97) {
		log_start();
		CHECK_EQ(boot_load(&mem, &files, &entry), -EIO);
		CHECK(strstr(log_end(), "EIO"));
	}
	reads.end = 0;
	reads.fail = EBADMSG;
	for (reads.fail_at = 0; reads.fail_at <= BZ_SETUP; reads.fail_at += BZ_SETUP)
		CHECK_EQ(boot_load(&mem, &files, &entry), -EBADMSG);
	memset(&reads, 0, sizeof(reads));
	CHECK_EQ(boot_load(&mem, &files, &entry), 0);

	memory_fini(&mem);
	/* No RAM where boot data goes. */
	memory_init(&mem, -1);
	CHECK_EQ(boot_load(&mem, &files, &entry), -ENOSPC);
	CHECK(!memory_add_ram(&mem, MIB, 32 * MIB, MEMORY_ANON));
	CHECK_EQ(boot_load(&mem, &files, &entry), -ENOSPC);
	memory_fini(&mem);
	close(k.fd);
	close(empty.fd);
	unlink(fifo);
	rmdir(dir);
}

static void command_line(void)
{
	static const struct {
		uint32_t field;
		uint64_t max;
	} cases[] = {
		{ 2047, 2047 },
		{ 255, 255 },
		{ 1, 1 },
		{ 0, 0 },
		{ LAYOUT_CMDLINE_MAX - 2, LAYOUT_CMDLINE_MAX - 2 },
		{ LAYOUT_CMDLINE_MAX - 1, LAYOUT_CMDLINE_MAX - 1 },
		{ LAYOUT_CMDLINE_MAX, LAYOUT_CMDLINE_MAX - 1 },
		{ 0xffffffff, LAYOUT_CMDLINE_MAX - 1 },
	};
	static char text[LAYOUT_CMDLINE_MAX + 2];
	struct boot_entry entry;
	struct memory mem;
	char words[64];

	ram_make(&mem, 32 * MIB);
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		memset(text, 0, sizeof(text));
		memset(text, 'a', cases[i].max + 1);
		bz_make()->cmdline_size = cases[i].field;
		CHECK_EQ(load_full(&mem, bz, BZ_SIZE, 0, text, &entry), -E2BIG);
		CHECK_EQ(ram_changed(&mem, NULL, 0), NOWHERE);
		snprintf(words, sizeof(words), ": %" PRIu64 " bytes", cases[i].max + 1);
		CHECK(strstr(log_end(), words));
		snprintf(words, sizeof(words), "at most %" PRIu64, cases[i].max);
		CHECK(strstr(log_text, words));
		text[cases[i].max] = 0;
		CHECK_EQ(load_full(&mem, bz, BZ_SIZE, 0, text, &entry), 0);
		CHECK_STR(memory_ptr(&mem, LAYOUT_CMDLINE, LAYOUT_CMDLINE_MAX), text);
		ram_clear(&mem);
	}
	elf_make(8);
	memset(text, 'b', 2048);
	text[2048] = 0;
	CHECK_EQ(load_full(&mem, elf, ELF_SIZE, 0, text, &entry), -E2BIG);
	text[2047] = 0;
	CHECK_EQ(load_full(&mem, elf, ELF_SIZE, 0, text, &entry), 0);
	CHECK_STR(memory_ptr(&mem, LAYOUT_CMDLINE, LAYOUT_CMDLINE_MAX), text);
	memory_fini(&mem);
}

static void elf_long(void)
{
	struct span spans[] = { low_spans[0],
				low_spans[1],
				low_spans[2],
				low_spans[3],
				low_spans[4],
				low_spans[5],
				{ LAYOUT_CMDLINE, 14 },
				{ ELF_TEXT_GPA, ELF_TEXT },
				{ ELF_DATA_GPA, ELF_DATA } };
	const uint64_t zp = LAYOUT_ZERO_PAGE;
	struct boot_entry entry;
	struct memory mem;

	ram_make(&mem, 128 * MIB);
	elf_make(0);
	CHECK_EQ(load_elf(&mem, &entry), 0);
	CHECK_EQ(entry.mode, BOOT_LONG);
	CHECK_EQ(entry.rip, ELF_ENTRY);
	CHECK_EQ(entry.info, LAYOUT_ZERO_PAGE);
	CHECK(is_pattern(&mem, ELF_TEXT_GPA, ELF_TEXT_OFF, ELF_TEXT));
	CHECK(is_pattern(&mem, ELF_DATA_GPA, ELF_DATA_OFF, ELF_DATA));
	CHECK_EQ(ram_changed(&mem, spans, sizeof(spans) / sizeof(spans[0])), NOWHERE);
	CHECK_EQ(le(&mem, zp + 0x1fe, 2), 0xaa55);
	CHECK_EQ(le(&mem, zp + 0x202, 4), 0x53726448);
	CHECK_EQ(le(&mem, zp + 0x210, 1), 0xff);
	CHECK_EQ(le(&mem, zp + 0x228, 4), LAYOUT_CMDLINE);
	CHECK_EQ(le(&mem, zp + 0x070, 8), RSDP);
	CHECK_EQ(le(&mem, zp + 0x1e8, 1), 3);
	check_e820(&mem, zp + 0x2d0, 20, 2, MIB, 127 * MIB, 1);
	CHECK_EQ(translate(&mem, ELF_ENTRY), ELF_ENTRY);
	memory_fini(&mem);

	/* Its initrd: around the segments, above 4 GiB at last. */
	memory_init(&mem, -1);
	CHECK(!memory_add_ram(&mem, 0, 20 * MIB, MEMORY_ANON));
	CHECK(!memory_add_ram(&mem, 4 * GIB, 16 * MIB, MEMORY_ANON));
	CHECK_EQ(load_full(&mem, elf, ELF_SIZE, MIB, "", &entry), 0);
	CHECK_EQ(initrd_gpa(&mem), 19 * MIB);
	CHECK_EQ(load_full(&mem, elf, ELF_SIZE, 2 * MIB - PAGE, "", &entry), 0);
	CHECK_EQ(initrd_gpa(&mem), 16 * MIB + PAGE);
	CHECK_EQ(load_full(&mem, elf, ELF_SIZE, 2 * MIB - PAGE + 1, "", &entry), 0);
	CHECK_EQ(initrd_gpa(&mem), 14 * MIB);
	CHECK_EQ(load_full(&mem, elf, ELF_SIZE, 15 * MIB, "", &entry), 0);
	CHECK_EQ(initrd_gpa(&mem), MIB);
	CHECK_EQ(load_full(&mem, elf, ELF_SIZE, 15 * MIB + 1, "", &entry), 0);
	CHECK_EQ(initrd_gpa(&mem), 4 * GIB + MIB - PAGE);
	memory_fini(&mem);
}

static void elf_pvh(void)
{
	static const unsigned int desc[] = { 4, 8 };
	struct boot_entry entry;
	struct memory mem;

	for (unsigned int d = 0; d < 2; d++) {
		const uint64_t info = LAYOUT_PVH_INFO;
		struct span spans[] = { low_spans[0],
					low_spans[5],
					{ LAYOUT_PVH_INFO, PAGE },
					{ LAYOUT_CMDLINE, 14 },
					{ ELF_TEXT_GPA, ELF_TEXT },
					{ ELF_DATA_GPA, ELF_DATA } };
		uint64_t map, mod;

		ram_make(&mem, 5 * GIB);
		elf_make(desc[d]);
		CHECK_EQ(load_full(&mem, elf, ELF_SIZE, 5000, "console=ttyS0", &entry), 0);
		CHECK_EQ(entry.mode, BOOT_PVH);
		CHECK_EQ(entry.rip, ELF_PVH_ENTRY);
		CHECK_EQ(entry.info, info);
		CHECK(is_pattern(&mem, ELF_TEXT_GPA, ELF_TEXT_OFF, ELF_TEXT));
		CHECK(is_pattern(&mem, ELF_DATA_GPA, ELF_DATA_OFF, ELF_DATA));
		CHECK_EQ(ram_changed(&mem, spans, sizeof(spans) / sizeof(spans[0])), NOWHERE);
		CHECK_EQ(le(&mem, info, 4), 0x336ec578);
		CHECK_EQ(le(&mem, info + 4, 4), 1);
		CHECK_EQ(le(&mem, info + 8, 4), 0);
		CHECK_EQ(le(&mem, info + 12, 4), 1);
		CHECK_EQ(le(&mem, info + 24, 8), LAYOUT_CMDLINE);
		CHECK_EQ(le(&mem, info + 32, 8), RSDP);
		CHECK_EQ(le(&mem, info + 48, 4), 4);
		CHECK_EQ(le(&mem, info + 52, 4), 0);
		mod = le(&mem, info + 16, 8);
		CHECK_EQ(le(&mem, mod, 8), 3 * GIB - 2 * PAGE);
		CHECK_EQ(le(&mem, mod + 8, 8), 5000);
		CHECK_EQ(le(&mem, mod + 16, 8), 0);
		map = le(&mem, info + 40, 8);
		check_e820(&mem, map, 24, 0, 0, 0x9fc00, 1);
		check_e820(&mem, map, 24, 1, 0x9fc00, 0x60400, 2);
		check_e820(&mem, map, 24, 2, MIB, 3 * GIB - MIB, 1);
		check_e820(&mem, map, 24, 3, 4 * GIB, 2 * GIB, 1);
		ram_clear(&mem);
		CHECK_EQ(load_elf(&mem, &entry), 0);
		CHECK_EQ(le(&mem, info + 12, 4), 0);
		CHECK_EQ(le(&mem, info + 16, 8), 0);
		memory_fini(&mem);
	}

	/* Linux would read half of an address above 4 GiB. */
	memory_init(&mem, -1);
	CHECK(!memory_add_ram(&mem, 0, 20 * MIB, MEMORY_ANON));
	CHECK(!memory_add_ram(&mem, 4 * GIB, 64 * MIB, MEMORY_ANON));
	CHECK_EQ(load_full(&mem, elf, ELF_SIZE, 16 * MIB, "", &entry), -ENOSPC);

	/* Notes aligned to 8, the entry after one that makes a difference. */
	elf_make(0);
	{
		uint64_t pvh = ELF_PVH_ENTRY;
		size_t n = note_put(elf + ELF_NOTE_OFF, "GNU", 5, "123456789012", 12, 8);

		n += note_put(elf + ELF_NOTE_OFF + n, "Xen", 18, &pvh, 8, 8);
		elf_phdr[2].p_align = 8;
		elf_phdr[2].p_filesz = n;
	}
	CHECK_EQ(load_elf(&mem, &entry), 0);
	CHECK_EQ(entry.mode, BOOT_PVH);
	CHECK_EQ(entry.rip, ELF_PVH_ENTRY);
	memory_fini(&mem);
}

static void elf_truncated(void)
{
	struct boot_entry entry;
	struct memory mem;

	ram_make(&mem, 32 * MIB);
	elf_make(8);
	for (unsigned int len = 0; len < ELF_SIZE; len++)
		CHECK_EQ(load(&mem, elf, len, &entry), len ? -ENOEXEC : -ENODATA);
	CHECK_EQ(ram_changed(&mem, NULL, 0), NOWHERE);
	CHECK_EQ(load(&mem, elf, ELF_SIZE, &entry), 0);
	memory_fini(&mem);
}

#define EH(field) offsetof(Elf64_Ehdr, field), sizeof(((Elf64_Ehdr *)0)->field)
#define PH(i, field)                                                                               \
	sizeof(Elf64_Ehdr) + (i) * sizeof(Elf64_Phdr) + offsetof(Elf64_Phdr, field),               \
		sizeof(((Elf64_Phdr *)0)->field)

static void elf_fields(void)
{
	static const struct {
		size_t offset, len;
		uint64_t value;
		int err;
	} cases[] = {
		{ EI_CLASS, 1, 0, -ENOEXEC },
		{ EI_CLASS, 1, ELFCLASS32, -ENOEXEC },
		{ EI_DATA, 1, ELFDATA2MSB, -ENOEXEC },
		{ EH(e_machine), EM_AARCH64, -ENOEXEC },
		{ EH(e_machine), EM_386, -ENOEXEC },
		{ EH(e_type), ET_NONE, -ENOEXEC },
		{ EH(e_type), ET_REL, -ENOEXEC },
		{ EH(e_type), ET_DYN, -ENOEXEC },
		{ EH(e_phentsize), 0, -ENOEXEC },
		{ EH(e_phentsize), 55, -ENOEXEC },
		{ EH(e_phentsize), 57, -ENOEXEC },
		{ EH(e_phentsize), 0xffff, -ENOEXEC },
		{ EH(e_phnum), 0, -ENOEXEC },
		{ EH(e_phnum), 65, -ENOEXEC },
		{ EH(e_phnum), 0xffff, -ENOEXEC },
		{ EH(e_phoff), ELF_SIZE - 3 * 56 + 1, -ENOEXEC },
		{ EH(e_phoff), ELF_SIZE, -ENOEXEC },
		{ EH(e_phoff), ELF_SIZE + 1, -ENOEXEC },
		{ EH(e_phoff), UINT64_MAX, -ENOEXEC },
		{ EH(e_phoff), UINT64_MAX - 3 * 56 + 1, -ENOEXEC }, /* + size wraps to 0 */
		{ EH(e_phoff), UINT64_MAX - 55, -ENOEXEC },
		{ EH(e_phoff), INT64_MAX, -ENOEXEC },
		{ EH(e_entry), 0, -ENOEXEC },
		{ EH(e_entry), ELF_TEXT_GPA - 1, -ENOEXEC },
		{ EH(e_entry), ELF_TEXT_GPA, 0 },
		{ EH(e_entry), ELF_TEXT_GPA + ELF_TEXT - 1, 0 },
		{ EH(e_entry), ELF_TEXT_GPA + ELF_TEXT, -ENOEXEC },
		{ EH(e_entry), ELF_DATA_GPA + ELF_DATA, -ENOEXEC }, /* in the bss */
		{ EH(e_entry), UINT64_MAX, -ENOEXEC },
		{ EH(e_entry), 0xffffffff81000000, -ENOEXEC },
		{ PH(0, p_type), PT_NULL, -ENOEXEC }, /* no segment holds the entry */
		{ PH(2, p_type), PT_LOAD, -ENOEXEC }, /* at 0: boot data */
		{ PH(0, p_offset), ELF_SIZE, -ENOEXEC },
		{ PH(0, p_offset), ELF_SIZE - ELF_TEXT + 1, -ENOEXEC },
		{ PH(0, p_offset), ELF_SIZE - ELF_TEXT, 0 },
		{ PH(0, p_offset), UINT64_MAX, -ENOEXEC },
		{ PH(0, p_offset), UINT64_MAX - ELF_TEXT + 1, -ENOEXEC },
		{ PH(0, p_filesz), 0, -ENOEXEC }, /* entry has no code */
		{ PH(0, p_filesz), ELF_TEXT - 1, 0 },
		{ PH(0, p_filesz), ELF_TEXT + 1, -ENOEXEC },
		{ PH(0, p_filesz), UINT64_MAX, -ENOEXEC },
		{ PH(0, p_filesz), UINT64_MAX - ELF_TEXT_OFF + 1, -ENOEXEC },
		{ PH(0, p_memsz), 0, -ENOEXEC },
		{ PH(0, p_memsz), ELF_TEXT - 1, -ENOEXEC },
		{ PH(0, p_memsz), ELF_DATA_GPA - ELF_TEXT_GPA, 0 },
		{ PH(0, p_memsz), ELF_DATA_GPA - ELF_TEXT_GPA + 1, -ENOEXEC }, /* overlap */
		{ PH(0, p_memsz), UINT64_MAX, -ENOEXEC },
		{ PH(0, p_memsz), UINT64_MAX - ELF_TEXT_GPA + 1, -ENOEXEC }, /* wraps to 0 */
		{ PH(1, p_memsz), 32 * MIB - ELF_DATA_GPA, 0 },
		{ PH(1, p_memsz), 32 * MIB - ELF_DATA_GPA + 1, -ENOSPC },
		{ PH(1, p_memsz), 4 * GIB - ELF_DATA_GPA + 1, -ENOEXEC },
		{ PH(1, p_paddr), ELF_TEXT_GPA, -ENOEXEC },
		{ PH(1, p_paddr), ELF_TEXT_GPA + ELF_TEXT - 1, -ENOEXEC },
		{ PH(1, p_paddr), ELF_TEXT_GPA + ELF_TEXT, 0 },
		{ PH(1, p_paddr), ELF_TEXT_GPA - ELF_DATA_MEM, 0 },
		{ PH(1, p_paddr), ELF_TEXT_GPA - ELF_DATA_MEM + 1, -ENOEXEC },
		{ PH(1, p_paddr), 32 * MIB - ELF_DATA_MEM, 0 },
		{ PH(1, p_paddr), 32 * MIB - ELF_DATA_MEM + 1, -ENOSPC },
		{ PH(1, p_paddr), 32 * MIB, -ENOSPC },
		{ PH(1, p_paddr), LAYOUT_VIRTIO_BASE, -ENOSPC },
		{ PH(1, p_paddr), 4 * GIB - 1, -ENOEXEC },
		{ PH(1, p_paddr), 4 * GIB, -ENOEXEC },
		{ PH(1, p_paddr), UINT64_MAX, -ENOEXEC },
		{ PH(1, p_paddr), UINT64_MAX - ELF_DATA_MEM + 1, -ENOEXEC },
		{ PH(1, p_paddr), 0, -ENOEXEC }, /* boot data */
		{ PH(1, p_paddr), PAGE - 1, -ENOEXEC },
		{ PH(1, p_paddr), PAGE, 0 },
		{ PH(1, p_paddr), LAYOUT_ZERO_PAGE - ELF_DATA_MEM, 0 },
		{ PH(1, p_paddr), LAYOUT_ZERO_PAGE - ELF_DATA_MEM + 1, -ENOEXEC },
		{ PH(1, p_paddr), LAYOUT_PD, -ENOEXEC },
		{ PH(1, p_paddr), LAYOUT_PVH_INFO + PAGE - 1, -ENOEXEC },
		{ PH(1, p_paddr), LAYOUT_PVH_INFO + PAGE, 0 },
		{ PH(1, p_paddr), LAYOUT_CMDLINE - ELF_DATA_MEM + 1, -ENOEXEC },
		{ PH(1, p_paddr), LAYOUT_CMDLINE + LAYOUT_CMDLINE_MAX, 0 },
		{ PH(1, p_paddr), LAYOUT_LOW_END - ELF_DATA_MEM, 0 },
		{ PH(1, p_paddr), LAYOUT_LOW_END - ELF_DATA_MEM + 1, -ENOEXEC },
		{ PH(1, p_paddr), LAYOUT_HIGH_RAM - 1, -ENOEXEC },
		{ PH(1, p_paddr), LAYOUT_HIGH_RAM, 0 },
		{ PH(2, p_offset), ELF_SIZE, -ENOEXEC },
		{ PH(2, p_offset), UINT64_MAX, -ENOEXEC },
		{ PH(2, p_filesz), UINT64_MAX, -ENOEXEC },
		{ PH(2, p_filesz), 0, 0 },
		{ PH(2, p_filesz), 11, 0 },
	};
	struct boot_entry entry;
	struct memory mem;

	ram_make(&mem, 32 * MIB);
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int err;

		elf_make(0);
		memcpy(elf + cases[i].offset, &cases[i].value, cases[i].len);
		err = load_elf(&mem, &entry);
		if (err != cases[i].err)
			printf("  case %u: offset %#zx = %#" PRIx64 "\n", i, cases[i].offset,
			       cases[i].value);
		CHECK_EQ(err, cases[i].err);
		if (err) {
			CHECK_EQ(ram_changed(&mem, NULL, 0), NOWHERE);
			CHECK(strstr(log_end(), "kernel /proc/self/fd/"));
		} else {
			CHECK_EQ(entry.mode, BOOT_LONG);
			ram_clear(&mem);
		}
	}
	memory_fini(&mem);
}

/* Notes whose sizes lie; the first one starts the segment, so its header is at ELF_NOTE_OFF. */
static void elf_notes(void)
{
	static const uint32_t lies[] = {
		0x58, 0x100, 0x7fffffff, 0xfffffff0, 0xfffffffd, 0xffffffff
	};
	uint64_t entry_gpa = ELF_PVH_ENTRY;
	struct boot_entry entry;
	static uint8_t big[ELF_SIZE + 12 * 300];
	struct memory mem;
	unsigned int i;

	ram_make(&mem, 32 * MIB);
	for (i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		elf_make(8);
		memcpy(elf + ELF_NOTE_OFF, &lies[i], 4); /* n_namesz */
		CHECK_EQ(load_elf(&mem, &entry), -ENOEXEC);
		elf_make(8);
		memcpy(elf + ELF_NOTE_OFF + 4, &lies[i], 4); /* n_descsz */
		CHECK_EQ(load_elf(&mem, &entry), -ENOEXEC);
		CHECK(strstr(log_end(), "n_descsz"));
	}
	/* The entry's descriptor, of every size; none may be read past the segment. */
	for (uint32_t size = 0; size <= 9; size++) {
		elf_make(0);
		elf_phdr[2].p_filesz =
			note_put(elf + ELF_NOTE_OFF, "Xen", 18, "\0\0\0\1\0\0\0\0", 8, 4);
		memcpy(elf + ELF_NOTE_OFF + 16, &entry_gpa, 8);
		memcpy(elf + ELF_NOTE_OFF + 4, &size, 4);
		CHECK_EQ(load_elf(&mem, &entry), size == 4 || size == 8 ? 0 : -ENOEXEC);
	}
	for (uint64_t len = 0; len < 24; len++) {
		elf_make(0);
		note_put(elf + ELF_NOTE_OFF, "Xen", 18, &entry_gpa, 8, 4);
		elf_phdr[2].p_filesz = len;
		CHECK_EQ(load_elf(&mem, &entry), len < 12 ? 0 : -ENOEXEC);
	}
	/* Entries outside the loaded bytes. */
	for (i = 0; i < 5; i++) {
		const uint64_t out[] = { 0, ELF_TEXT_GPA - 1, ELF_TEXT_GPA + ELF_TEXT,
					 4 * GIB + ELF_PVH_ENTRY, UINT64_MAX };

		elf_make(0);
		elf_phdr[2].p_filesz = note_put(elf + ELF_NOTE_OFF, "Xen", 18, &out[i], 8, 4);
		CHECK_EQ(load_elf(&mem, &entry), -ENOEXEC);
		CHECK(strstr(log_end(), "PVH entry"));
	}
	/* Other names of four bytes, and a name without its NUL. */
	elf_make(0);
	elf_phdr[2].p_filesz = note_put(elf + ELF_NOTE_OFF, "Xem", 18, &entry_gpa, 8, 4);
	CHECK_EQ(load_elf(&mem, &entry), 0);
	CHECK_EQ(entry.mode, BOOT_LONG);
	elf_make(0);
	elf_phdr[2].p_filesz = note_put(elf + ELF_NOTE_OFF, "Xen", 18, &entry_gpa, 8, 4);
	elf[ELF_NOTE_OFF] = 3;
	CHECK_EQ(load_elf(&mem, &entry), 0);
	CHECK_EQ(entry.mode, BOOT_LONG);
	/* The checker itself sees changes. */
	CHECK_EQ(ram_changed(&mem, NULL, 0), LAYOUT_GDT + 8);
	ram_clear(&mem);

	/* A file of nothing but notes ends soon. */
	elf_make(0);
	memcpy(big, elf, ELF_SIZE);
	memset(big + ELF_SIZE, 0, sizeof(big) - ELF_SIZE);
	((Elf64_Phdr *)(big + 64))[2].p_offset = ELF_SIZE;
	((Elf64_Phdr *)(big + 64))[2].p_filesz = 12 * 256;
	CHECK_EQ(load(&mem, big, sizeof(big), &entry), 0);
	((Elf64_Phdr *)(big + 64))[2].p_filesz = 12 * 257;
	CHECK_EQ(load(&mem, big, sizeof(big), &entry), -ENOEXEC);
	memory_fini(&mem);
}

/*
 * Each byte of both headers, changed: an error or a guest whose entry is in RAM, never anything
 * else.
 */
static void flipped_bytes(void)
{
	static const uint8_t values[] = { 0x00, 0x01, 0x7f, 0x80, 0xff };
	struct boot_entry entry;
	struct memory mem;
	unsigned int good = 0;

	ram_make(&mem, 32 * MIB);
	for (unsigned int at = 0; at < 0x300; at++) {
		for (unsigned int v = 0; v < sizeof(values); v++) {
			int err;

			bz_make();
			bz[at] = values[v];
			err = load_full(&mem, bz, BZ_SIZE, 100, "", &entry);
			CHECK(!err || err == -ENOEXEC || err == -ENOSPC);
			if (!err)
				CHECK(memory_ptr(&mem, entry.rip, 1) &&
				      memory_ptr(&mem, initrd_gpa(&mem), 100));
			good += !err;
			elf_make(8);
			elf[at] = values[v];
			err = load_full(&mem, elf, ELF_SIZE, 100, "", &entry);
			CHECK(!err || err == -ENOEXEC || err == -ENOSPC);
			if (!err)
				CHECK(memory_ptr(&mem, entry.rip, 1) != NULL);
			good += !err;
		}
	}
	CHECK(good > 0);
	memory_fini(&mem);
}

/* Files that are something else are told by name. */
static void other_kinds(void)
{
	static const struct {
		unsigned int offset;
		const char *magic;
		const char *word;
	} kinds[] = {
		{ 0, "\x1f\x8b\x08", "gzip" },
		{ 0, "\xfd\x37zXZ", "xz" },
		{ 0, "\x28\xb5\x2f\xfd", "zstd" },
		{ 0, "\x02\x21\x4c\x18", "lz4" },
		{ 0x38, "ARM\x64", "arm64" },
		{ 0, "MZ", "unified kernel image" },
		{ 0, "070701", "cpio" },
		{ 0, "hello", "unknown" },
		{ 0x202, "HdrS", "0xaa55 at 0x1fe" },
	};
	uint8_t image[2048];
	struct boot_entry entry;
	struct memory mem;

	ram_make(&mem, 32 * MIB);
	for (unsigned int i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		memset(image, 0x90, sizeof(image));
		memcpy(image + kinds[i].offset, kinds[i].magic, strlen(kinds[i].magic) + 1);
		CHECK_EQ(load(&mem, image, sizeof(image), &entry), -ENOEXEC);
		CHECK(strstr(log_end(), kinds[i].word));
	}
	CHECK_EQ(ram_changed(&mem, NULL, 0), NOWHERE);
	memory_fini(&mem);
}

/* No load leaves a descriptor open, whatever its end. */
static void descriptors(void)
{
	struct boot_entry entry;
	struct memory mem;
	int before;

	ram_make(&mem, 32 * MIB);
	bz_make();
	log_start();
	before = open_fds();
	CHECK_EQ(load_full(&mem, bz, BZ_SIZE, 100, "", &entry), 0);
	CHECK_EQ(load_full(&mem, bz, BZ_SIZE, GIB, "", &entry), -ENOSPC);
	CHECK_EQ(load_full(&mem, bz, 100, 100, "", &entry), -ENOEXEC);
	CHECK_EQ(open_fds(), before);
	memory_fini(&mem);
}

/* Debian's own, where they have been fetched. */
static void real_kernels(void)
{
	static const char *const names[] = { "6.1/vmlinuz", "6.1/vmlinux", "6.12/vmlinuz",
					     "6.12/vmlinux" };
	const char *dir = getenv("KERNELS");
	unsigned int found = 0;

	for (unsigned int i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		char path[4096];
		struct boot_files files = { .kernel = path,
					    .cmdline = "console=ttyS0",
					    .rsdp = RSDP };
		struct boot_entry entry;
		struct memory mem;

		snprintf(path, sizeof(path), "%s/%s", dir ? dir : "build/kernels/x86_64", names[i]);
		if (access(path, R_OK))
			continue;
		found++;
		ram_make(&mem, 128 * MIB);
		log_start();
		CHECK_EQ(boot_load(&mem, &files, &entry), 0);
		CHECK_EQ(entry.mode, strstr(path, "vmlinux") ? BOOT_PVH : BOOT_LONG);
		CHECK(entry.rip >= 16 * MIB && memory_ptr(&mem, entry.rip, 16));
		CHECK(le(&mem, entry.rip, 8) != 0);
		memory_fini(&mem);
		/* It says what it needs where that isn't there. */
		ram_make(&mem, 16 * MIB);
		CHECK_EQ(boot_load(&mem, &files, &entry), -ENOSPC);
		CHECK(strstr(log_end(), "needs RAM"));
		memory_fini(&mem);
	}
	if (!found)
		printf("  no kernels in %s: only made-up ones were loaded\n",
		       dir ? dir : "build/kernels/x86_64");
}

int main(void)
{
	/* First, while the low descriptors are still few. */
	RUN(descriptors);
	RUN(bz_plain);
	RUN(bz_big_ram);
	RUN(bz_versions);
	RUN(bz_header_length);
	RUN(bz_truncated);
	RUN(bz_fields);
	RUN(bz_setup_sects_zero);
	RUN(bz_placement);
	RUN(initrd_bounds);
	RUN(initrd_content);
	RUN(bad_files);
	RUN(command_line);
	RUN(elf_long);
	RUN(elf_pvh);
	RUN(elf_truncated);
	RUN(elf_fields);
	RUN(elf_notes);
	RUN(flipped_bytes);
	RUN(other_kinds);
	RUN(real_kernels);
	return TEST_RESULT();
}
