/* SPDX-License-Identifier: MIT */
/*
 * Kernel loading, in three steps: read the headers and make a plan of segments, place the initrd
 * around them, then carry the plan out. The files are taken for hostile until the plan stands;
 * headers are read once, into locals.
 */
#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <asm/bootparam.h>
#include "arch/x86_64/boot.h"
#include "arch/x86_64/layout.h"
#include "vm/bootfile.h"
#include "vm/log.h"
#include "vm/memory.h"

#define GUEST_PAGE 4096ull
#define FOUR_GIB   (1ull << 32)

/* The 64-bit entry of a bzImage, from the start of its protected-mode code. */
#define BZ_ENTRY_64 0x200

#define BZ_SECTOR	 512
#define BZ_MIN_VERSION	 0x020c /* xloadflags; everything older is 32-bit only to us */
#define BZ_RSDP_VERSION	 0x020e
#define BZ_HEADER_MAGIC	 0x53726448 /* "HdrS" */
#define BZ_LENGTH_OFFSET 0x201	    /* offset byte of the jump at 0x200 */
#define BZ_HEADER_MAX	 offsetof(struct boot_params, edd_mbr_sig_buffer)
#define BZ_HEADER_MIN	 (offsetof(struct boot_params, hdr.init_size) + 4)

#define LOADER_UNKNOWN 0xff

/* COMMAND_LINE_SIZE of Linux on x86 less the NUL: an ELF file doesn't tell its own. */
#define ELF_CMDLINE_MAX 2047
#define ELF_MAX_PHDRS	64
#define ELF_MAX_NOTES	256

#define XEN_ELFNOTE_PHYS32_ENTRY 18

#define E820_RAM      1
#define E820_RESERVED 2

#define PTE_PRESENT 0x01ull
#define PTE_WRITE   0x02ull
#define PTE_LARGE   0x80ull

/* hvm_start_info, version 1, and what it points to: Xen public/arch-x86/hvm/start_info.h. */
#define PVH_MAGIC 0x336ec578

struct pvh_info {
	uint32_t magic;
	uint32_t version;
	uint32_t flags;
	uint32_t nr_modules;
	uint64_t modlist_paddr;
	uint64_t cmdline_paddr;
	uint64_t rsdp_paddr;
	uint64_t memmap_paddr;
	uint32_t memmap_entries;
	uint32_t reserved;
};

struct pvh_module {
	uint64_t paddr;
	uint64_t size;
	uint64_t cmdline_paddr;
	uint64_t reserved;
};

struct pvh_memmap {
	uint64_t addr;
	uint64_t size;
	uint32_t type;
	uint32_t reserved;
};

_Static_assert(sizeof(struct pvh_info) == 56, "hvm_start_info is ABI");
_Static_assert(sizeof(struct pvh_module) == 32, "hvm_modlist_entry is ABI");
_Static_assert(sizeof(struct pvh_memmap) == 24, "hvm_memmap_table_entry is ABI");
_Static_assert(sizeof(struct boot_params) == GUEST_PAGE, "the zero page is a page");

/*
 * A RAM region becomes one entry, the one at 0 two with the reserved hole between. At boot there are
 * the map's own regions; those added later are not in the map.
 */
#define E820_MAX 66
_Static_assert(E820_MAX <= E820_MAX_ENTRIES_ZEROPAGE, "e820 fits the zero page");

/* All of PVH's data in its page. */
struct pvh_page {
	struct pvh_info info;
	struct pvh_module initrd;
	struct pvh_memmap map[E820_MAX];
};

_Static_assert(sizeof(struct pvh_page) <= GUEST_PAGE, "PVH's data fits its page");

/* [gpa, gpa + memsz) is the guest's, its first filesz bytes come from offset of the kernel file. */
struct segment {
	uint64_t gpa;
	uint64_t memsz;
	uint64_t offset;
	uint64_t filesz;
};

struct range {
	uint64_t start;
	uint64_t end;
	const char *name;
};

struct plan {
	struct memory *mem;
	const struct boot_files *files;
	struct bootfile kernel;
	struct bootfile initrd; /* fd is -1 when there is none */
	enum boot_mode mode;
	uint64_t entry;
	unsigned int nr_segments;
	struct segment segment[ELF_MAX_PHDRS];
	uint64_t cmdline_max; /* without the NUL */
	uint64_t initrd_end;  /* first address that the initrd may not take */
	bool initrd_high;     /* it may go anywhere if it doesn't fit below initrd_end */
	uint64_t initrd_gpa;
	struct boot_params zero_page; /* the header of the kernel file is in there */
};

/* What no segment may overlap. Pages between these are free for small kernels. */
static const struct range boot_data[] = {
	{ 0, GUEST_PAGE, "GDT and IDT" },
	{ LAYOUT_ZERO_PAGE, LAYOUT_PVH_INFO + GUEST_PAGE, "zero page and page tables" },
	{ LAYOUT_CMDLINE, LAYOUT_CMDLINE + LAYOUT_CMDLINE_MAX, "command line" },
	{ LAYOUT_LOW_END, LAYOUT_HIGH_RAM, "BIOS area with the ACPI tables" },
};

static uint64_t align_down(uint64_t value, uint64_t align)
{
	return value & ~(align - 1);
}

static uint64_t align_up(uint64_t value, uint64_t align)
{
	return align_down(value + align - 1, align);
}

/* "kernel PATH: ENOEXEC: ..." to the log. */
#define bad_kernel(plan, ...) bootfile_bad(&(plan)->kernel, __VA_ARGS__)

/* The end of the RAM that begins at 0. */
static uint64_t low_ram_end(const struct memory *mem)
{
	return mem->region[0].gpa + mem->region[0].size;
}

/*
 * Adds a segment whose file range is known to be good. @what names the fields that asked for it.
 * The identity map covers 4 GiB, and PVH's entry is 32-bit code, so nothing of a kernel may lie
 * above.
 */
static int plan_segment(struct plan *plan, const struct segment *seg, const char *what)
{
	const struct segment *s;
	uint64_t end;
	unsigned int i;

	if (seg->gpa >= FOUR_GIB || seg->memsz > FOUR_GIB - seg->gpa)
		return bad_kernel(plan,
				  "%s: %#" PRIx64 " bytes at %#" PRIx64 " are not below 4 GiB",
				  what, seg->memsz, seg->gpa);
	end = seg->gpa + seg->memsz;
	for (i = 0; i < sizeof(boot_data) / sizeof(boot_data[0]); i++) {
		if (seg->gpa >= boot_data[i].end || end <= boot_data[i].start)
			continue;
		return bad_kernel(plan,
				  "%s: %#" PRIx64 " bytes at %#" PRIx64
				  " overlap boot data (%s, %#" PRIx64 " to %#" PRIx64 ")",
				  what, seg->memsz, seg->gpa, boot_data[i].name, boot_data[i].start,
				  boot_data[i].end);
	}
	for (i = 0; i < plan->nr_segments; i++) {
		s = &plan->segment[i];
		if (seg->gpa >= s->gpa + s->memsz || end <= s->gpa)
			continue;
		return bad_kernel(plan,
				  "%s: %#" PRIx64 " bytes at %#" PRIx64
				  " overlap the segment of %#" PRIx64 " bytes at %#" PRIx64,
				  what, seg->memsz, seg->gpa, s->memsz, s->gpa);
	}
	if (!memory_ptr(plan->mem, seg->gpa, seg->memsz)) {
		log_err("kernel %s: ENOSPC: %s: needs RAM from %#" PRIx64 " to %#" PRIx64
			", low RAM ends at %#" PRIx64 ": give the guest more memory",
			plan->kernel.path, what, seg->gpa, end, low_ram_end(plan->mem));
		return -ENOSPC;
	}
	plan->segment[plan->nr_segments++] = *seg;
	return 0;
}

/*
 * boot.rst, "The Real-Mode Kernel Header" and init_size. @head: the first @head_len bytes of the
 * file, with "HdrS" in place.
 */
static int plan_bzimage(struct plan *plan, const uint8_t *head, size_t head_len)
{
	struct setup_header *hdr = &plan->zero_page.hdr;
	struct segment seg = { 0 };
	uint64_t align, code, header_end, setup;
	unsigned int sects;

	/*
	 * The header says itself how long it is; a newer one may be longer than ours, never longer
	 * than its place in the zero page. Nothing else of the file's first sectors may get there:
	 * the sentinel in them marks a careless loader.
	 */
	header_end = 0x202 + head[BZ_LENGTH_OFFSET];
	if (header_end < BZ_HEADER_MIN || head_len < BZ_HEADER_MIN)
		return bad_kernel(plan,
				  "setup header ends at %#" PRIx64
				  " of %#zx bytes, protocol 2.12 needs %#zx: too old or truncated",
				  header_end, head_len, BZ_HEADER_MIN);
	if (header_end > BZ_HEADER_MAX)
		header_end = BZ_HEADER_MAX;
	if (header_end > head_len)
		header_end = head_len;
	memcpy((uint8_t *)&plan->zero_page + offsetof(struct boot_params, hdr),
	       head + offsetof(struct boot_params, hdr),
	       header_end - offsetof(struct boot_params, hdr));

	if (hdr->version < BZ_MIN_VERSION)
		return bad_kernel(plan,
				  "boot protocol %u.%02u, 2.12 or newer is needed (Linux 3.8)",
				  hdr->version >> 8, hdr->version & 0xff);
	if (!(hdr->xloadflags & XLF_KERNEL_64))
		return bad_kernel(plan, "xloadflags %#x: no 64-bit entry: is it a 32-bit kernel?",
				  hdr->xloadflags);
	if (!(hdr->loadflags & LOADED_HIGH))
		return bad_kernel(plan, "loadflags %#x: a zImage, not a bzImage", hdr->loadflags);

	sects = hdr->setup_sects ? hdr->setup_sects : 4;
	setup = (sects + 1) * BZ_SECTOR;
	code = hdr->syssize * 16ull;
	if (code <= BZ_ENTRY_64)
		return bad_kernel(plan, "syssize %#x: no room for the 64-bit entry at %#x",
				  hdr->syssize, BZ_ENTRY_64);
	/* Longer is fine: a signature may follow. */
	if (plan->kernel.size < setup || plan->kernel.size - setup < code)
		return bad_kernel(plan,
				  "setup_sects %u and syssize %#x make %" PRIu64
				  " bytes, the file has %" PRIu64 ": truncated",
				  sects, hdr->syssize, setup + code, plan->kernel.size);

	/*
	 * Linux moves itself up to pref_address when it is loaded below it, relocatable or not, so
	 * a lower address saves no memory and would hide from us that the window isn't there.
	 */
	if (hdr->pref_address >= FOUR_GIB)
		return bad_kernel(plan, "pref_address %#" PRIx64 " is not below 4 GiB",
				  (uint64_t)hdr->pref_address);
	seg.gpa = hdr->pref_address;
	if (hdr->relocatable_kernel) {
		align = hdr->kernel_alignment;
		if (!align || (align & (align - 1)))
			return bad_kernel(
				plan, "kernel_alignment %#" PRIx64 " is not a power of two", align);
		if (seg.gpa < LAYOUT_HIGH_RAM)
			seg.gpa = LAYOUT_HIGH_RAM;
		seg.gpa = align_up(seg.gpa, align);
	}
	/*
	 * init_size is what the kernel needs before it reads its memory map; its own code is the
	 * least it can be.
	 */
	seg.memsz = hdr->init_size > code ? hdr->init_size : code;
	seg.offset = setup;
	seg.filesz = code;

	plan->mode = BOOT_LONG;
	plan->entry = seg.gpa + BZ_ENTRY_64;
	plan->cmdline_max = hdr->cmdline_size;
	plan->initrd_end = (uint64_t)hdr->initrd_addr_max + 1;
	plan->initrd_high = hdr->xloadflags & XLF_CAN_BE_LOADED_ABOVE_4G;

	/*
	 * What is ours to set; setup_data from a file would be a stray pointer. The heap is
	 * real-mode code's, which doesn't run.
	 */
	hdr->code32_start = seg.gpa;
	hdr->setup_data = 0;
	hdr->loadflags &= ~(CAN_USE_HEAP | KASLR_FLAG);
	return plan_segment(plan, &seg, "pref_address and init_size");
}

/* Looks for PVH's entry in one note segment. 1: found, 0: not there, or -errno. */
static int elf_pvh_note(const struct plan *plan, const Elf64_Phdr *phdr, unsigned int *budget,
			uint64_t *entry)
{
	uint64_t align = phdr->p_align == 8 ? 8 : 4;
	uint64_t pos = 0, left, desc, size;
	union {
		uint64_t value;
		uint8_t bytes[8];
	} u;
	Elf64_Nhdr note;
	char name[4];
	bool found;
	int err;

	while (phdr->p_filesz - pos >= sizeof(note)) {
		left = phdr->p_filesz - pos;
		if (!(*budget)--)
			return bad_kernel(plan, "more than %u ELF notes", ELF_MAX_NOTES);
		err = bootfile_read(&plan->kernel, phdr->p_offset + pos, &note, sizeof(note));
		if (err)
			return err;
		/* Sizes are 32 bits: no sum wraps. The last note may lack its padding. */
		desc = align_up(sizeof(note) + (uint64_t)note.n_namesz, align);
		size = desc + note.n_descsz;
		if (size > left)
			return bad_kernel(
				plan,
				"ELF note at %#" PRIx64
				": n_namesz %#x and n_descsz %#x go past the segment's %#" PRIx64
				" bytes that are left",
				(uint64_t)phdr->p_offset + pos, note.n_namesz, note.n_descsz, left);
		found = note.n_type == XEN_ELFNOTE_PHYS32_ENTRY && note.n_namesz == sizeof(name);
		if (found) {
			err = bootfile_read(&plan->kernel, phdr->p_offset + pos + sizeof(note),
					    name, sizeof(name));
			if (err)
				return err;
			found = !memcmp(name, "Xen", sizeof(name));
		}
		if (!found) {
			size = align_up(size, align);
			if (size >= left)
				break;
			pos += size;
			continue;
		}
		if (note.n_descsz != 4 && note.n_descsz != 8)
			return bad_kernel(plan, "PVH entry note: n_descsz %u is neither 4 nor 8",
					  note.n_descsz);
		u.value = 0;
		err = bootfile_read(&plan->kernel, phdr->p_offset + pos + desc, u.bytes,
				    note.n_descsz);
		if (err)
			return err;
		*entry = u.value;
		return 1;
	}
	return 0;
}

static int elf_check_header(const struct plan *plan, const Elf64_Ehdr *ehdr)
{
	if (ehdr->e_ident[EI_CLASS] != ELFCLASS64 || ehdr->e_ident[EI_DATA] != ELFDATA2LSB ||
	    ehdr->e_machine != EM_X86_64)
		return bad_kernel(plan,
				  "ELF class %u, data %u, machine %u: not for x86_64 (2, 1, 62)",
				  ehdr->e_ident[EI_CLASS], ehdr->e_ident[EI_DATA], ehdr->e_machine);
	if (ehdr->e_type != ET_EXEC)
		return bad_kernel(
			plan, "ELF e_type %u is not 2, a program at fixed addresses (a vmlinux)",
			ehdr->e_type);
	if (ehdr->e_phentsize != sizeof(Elf64_Phdr))
		return bad_kernel(plan, "ELF e_phentsize %u is not %zu", ehdr->e_phentsize,
				  sizeof(Elf64_Phdr));
	if (!ehdr->e_phnum || ehdr->e_phnum > ELF_MAX_PHDRS)
		return bad_kernel(plan, "ELF e_phnum %u is not 1 to %u", ehdr->e_phnum,
				  ELF_MAX_PHDRS);
	if (ehdr->e_phoff > plan->kernel.size ||
	    plan->kernel.size - ehdr->e_phoff < ehdr->e_phnum * sizeof(Elf64_Phdr))
		return bad_kernel(plan,
				  "ELF e_phoff %#" PRIx64
				  " and e_phnum %u go past the file's %" PRIu64 " bytes",
				  (uint64_t)ehdr->e_phoff, ehdr->e_phnum, plan->kernel.size);
	return 0;
}

/* System V ABI, chapter 5; the physical addresses count. */
static int plan_elf(struct plan *plan, const uint8_t *head, size_t head_len)
{
	unsigned int budget = ELF_MAX_NOTES, i;
	const char *entry_name = "e_entry";
	Elf64_Phdr phdrs[ELF_MAX_PHDRS];
	const Elf64_Phdr *ph;
	const struct segment *s;
	struct setup_header *hdr;
	struct segment seg;
	Elf64_Ehdr ehdr;
	char what[48];
	int err;

	if (head_len < sizeof(ehdr))
		return bad_kernel(plan, "%zu bytes are no ELF header: truncated", head_len);
	memcpy(&ehdr, head, sizeof(ehdr));
	err = elf_check_header(plan, &ehdr);
	if (err)
		return err;
	err = bootfile_read(&plan->kernel, ehdr.e_phoff, phdrs, ehdr.e_phnum * sizeof(phdrs[0]));
	if (err)
		return err;

	plan->mode = BOOT_LONG;
	plan->entry = ehdr.e_entry;
	for (i = 0; i < ehdr.e_phnum; i++) {
		ph = &phdrs[i];
		if (ph->p_type != PT_LOAD && ph->p_type != PT_NOTE)
			continue;
		if (ph->p_offset > plan->kernel.size ||
		    plan->kernel.size - ph->p_offset < ph->p_filesz)
			return bad_kernel(plan,
					  "program header %u: p_offset %#" PRIx64
					  " and p_filesz %#" PRIx64 " go past the file's %#" PRIx64
					  " bytes: truncated",
					  i, (uint64_t)ph->p_offset, (uint64_t)ph->p_filesz,
					  plan->kernel.size);
		if (ph->p_type == PT_NOTE) {
			if (plan->mode == BOOT_PVH)
				continue;
			err = elf_pvh_note(plan, ph, &budget, &plan->entry);
			if (err < 0)
				return err;
			if (err) {
				plan->mode = BOOT_PVH;
				entry_name = "PVH entry";
			}
			continue;
		}
		if (ph->p_filesz > ph->p_memsz)
			return bad_kernel(plan,
					  "program header %u: p_filesz %#" PRIx64
					  " is more than p_memsz %#" PRIx64,
					  i, (uint64_t)ph->p_filesz, (uint64_t)ph->p_memsz);
		if (!ph->p_memsz)
			continue;
		seg.gpa = ph->p_paddr;
		seg.memsz = ph->p_memsz;
		seg.offset = ph->p_offset;
		seg.filesz = ph->p_filesz;
		snprintf(what, sizeof(what), "p_paddr and p_memsz of program header %u", i);
		err = plan_segment(plan, &seg, what);
		if (err)
			return err;
	}

	/* Also refuses a file without segments. */
	for (i = 0; i < plan->nr_segments; i++) {
		s = &plan->segment[i];
		if (plan->entry >= s->gpa && plan->entry - s->gpa < s->filesz)
			break;
	}
	if (i == plan->nr_segments)
		return bad_kernel(plan,
				  "%s %#" PRIx64 " is in none of the file's %u loaded segments",
				  entry_name, plan->entry, plan->nr_segments);

	plan->cmdline_max = ELF_CMDLINE_MAX;
	plan->initrd_end = FOUR_GIB;
	/* Linux keeps 32 bits of a PVH module's address. */
	plan->initrd_high = plan->mode == BOOT_LONG;

	/*
	 * A vmlinux has no setup header; these are the fields it reads before anything else fills
	 * them.
	 */
	hdr = &plan->zero_page.hdr;
	hdr->boot_flag = 0xaa55;
	hdr->header = BZ_HEADER_MAGIC;
	hdr->version = BZ_RSDP_VERSION;
	hdr->loadflags = LOADED_HIGH;
	hdr->cmdline_size = ELF_CMDLINE_MAX;
	return 0;
}

static int plan_kernel(struct plan *plan)
{
	const struct setup_header *hdr;
	uint8_t head[1024];
	size_t len = plan->kernel.size < sizeof(head) ? plan->kernel.size : sizeof(head);
	const char *kind;
	int err;

	_Static_assert(sizeof(head) >= BZ_HEADER_MAX, "the whole setup header is read");
	err = bootfile_read(&plan->kernel, 0, head, len);
	if (err)
		return err;
	if (len >= SELFMAG && !memcmp(head, ELFMAG, SELFMAG))
		return plan_elf(plan, head, len);
	hdr = (const void *)(head + offsetof(struct boot_params, hdr));
	if (len >= offsetof(struct boot_params, hdr.version) && hdr->boot_flag == 0xaa55 &&
	    hdr->header == BZ_HEADER_MAGIC)
		return plan_bzimage(plan, head, len);
	kind = bootfile_kind(head, len);
	return bad_kernel(
		plan,
		"neither a bzImage (0xaa55 at 0x1fe, \"HdrS\" at 0x202) nor an ELF vmlinux: %s",
		kind ? kind : "unknown content");
}

static int plan_cmdline(struct plan *plan)
{
	uint64_t len = strlen(plan->files->cmdline), max = plan->cmdline_max;

	if (max > LAYOUT_CMDLINE_MAX - 1)
		max = LAYOUT_CMDLINE_MAX - 1;
	if (len <= max)
		return 0;
	log_err("command line: E2BIG: %" PRIu64 " bytes, kernel %s takes at most %" PRIu64, len,
		plan->kernel.path, max);
	return -E2BIG;
}

/*
 * The highest page-aligned place for @size bytes above 1 MiB and below @limit that no segment
 * touches. False when there is none, with the most that would have fitted in *@room.
 */
static bool plan_find_room(const struct plan *plan, uint64_t limit, uint64_t size, uint64_t *gpa,
			   uint64_t *room)
{
	const struct segment *s, *top;
	uint64_t start, end, low;
	unsigned int i, j;

	*room = 0;
	for (i = plan->mem->nr; i--;) {
		low = plan->mem->region[i].gpa;
		end = low + plan->mem->region[i].size;
		if (low < LAYOUT_HIGH_RAM)
			low = LAYOUT_HIGH_RAM;
		if (end > limit)
			end = limit;
		/* From gap to gap downwards; each turn leaves one more segment above. */
		while (end > low) {
			top = NULL;
			for (j = 0; j < plan->nr_segments; j++) {
				s = &plan->segment[j];
				if (s->gpa < end && (!top || s->gpa > top->gpa))
					top = s;
			}
			start = low;
			if (top && top->gpa + top->memsz > start)
				start = top->gpa + top->memsz;
			start = align_up(start, GUEST_PAGE);
			if (start < end && end - start > *room)
				*room = end - start;
			if (start < end && end - start >= size) {
				*gpa = align_down(end - size, GUEST_PAGE);
				return true;
			}
			if (!top)
				break;
			/* Linux frees the initrd's pages whole: it shares none with a segment. */
			end = align_down(top->gpa, GUEST_PAGE);
		}
	}
	return false;
}

static int plan_initrd(struct plan *plan)
{
	uint64_t size = plan->initrd.size, most = 0, room;
	/*
	 * First where every kernel finds it, then where this one says it would, too: Linux names
	 * 2 GiB out of habit.
	 */
	const uint64_t limits[] = { plan->initrd_end, FOUR_GIB, UINT64_MAX };
	unsigned int i;

	for (i = 0; i < (plan->initrd_high ? 3 : 1); i++) {
		if (plan_find_room(plan, limits[i], size, &plan->initrd_gpa, &room))
			return 0;
		most = room > most ? room : most;
	}
	log_err("initrd %s: ENOSPC: it has %" PRIu64 " bytes, the largest room for it%s is %" PRIu64
		" bytes (kernel's bound %#" PRIx64 ", low RAM ends at %#" PRIx64
		"): give the guest more memory",
		plan->initrd.path, size, plan->initrd_high ? " anywhere" : "", most,
		plan->initrd_end, low_ram_end(plan->mem));
	return -ENOSPC;
}

/*
 * The memory map: RAM alone and the BIOS area, which keeps Linux off the ACPI tables. What isn't
 * named is not RAM. Returns the number of entries, at most E820_MAX.
 */
static unsigned int fill_e820(const struct memory *mem, struct boot_e820_entry *map)
{
	uint64_t start, end;
	unsigned int i, nr = 0;

	map[nr++] = (struct boot_e820_entry){ 0, LAYOUT_LOW_END, E820_RAM };
	map[nr++] = (struct boot_e820_entry){ LAYOUT_LOW_END, LAYOUT_HIGH_RAM - LAYOUT_LOW_END,
					      E820_RESERVED };
	for (i = 0; i < mem->nr && nr < E820_MAX; i++) {
		start = mem->region[i].gpa;
		end = start + mem->region[i].size;
		if (start < LAYOUT_HIGH_RAM)
			start = LAYOUT_HIGH_RAM;
		if (start < end)
			map[nr++] = (struct boot_e820_entry){ start, end - start, E820_RAM };
	}
	return nr;
}

static int write_zero_page(struct plan *plan)
{
	struct boot_params *zp = &plan->zero_page;

	zp->hdr.type_of_loader = LOADER_UNKNOWN;
	zp->hdr.cmd_line_ptr = LAYOUT_CMDLINE;
	zp->ext_cmd_line_ptr = 0;
	zp->hdr.ramdisk_image = 0;
	zp->hdr.ramdisk_size = 0;
	if (plan->initrd.fd >= 0) {
		zp->hdr.ramdisk_image = (uint32_t)plan->initrd_gpa;
		zp->hdr.ramdisk_size = (uint32_t)plan->initrd.size;
		zp->ext_ramdisk_image = plan->initrd_gpa >> 32;
		zp->ext_ramdisk_size = plan->initrd.size >> 32;
	}
	/* Older kernels look for the RSDP in the BIOS area, where it is. */
	if (zp->hdr.version >= BZ_RSDP_VERSION)
		zp->acpi_rsdp_addr = plan->files->rsdp;
	zp->e820_entries = fill_e820(plan->mem, zp->e820_table);
	return memory_write(plan->mem, LAYOUT_ZERO_PAGE, zp, sizeof(*zp));
}

static int write_pvh_info(struct plan *plan)
{
	struct boot_e820_entry e820[E820_MAX];
	struct pvh_page page = { 0 };
	unsigned int i;

	page.info.magic = PVH_MAGIC;
	page.info.version = 1;
	page.info.cmdline_paddr = LAYOUT_CMDLINE;
	page.info.rsdp_paddr = plan->files->rsdp;
	page.info.memmap_paddr = LAYOUT_PVH_INFO + offsetof(struct pvh_page, map);
	page.info.memmap_entries = fill_e820(plan->mem, e820);
	for (i = 0; i < page.info.memmap_entries; i++) {
		page.map[i].addr = e820[i].addr;
		page.map[i].size = e820[i].size;
		page.map[i].type = e820[i].type;
	}
	if (plan->initrd.fd >= 0) {
		page.info.nr_modules = 1;
		page.info.modlist_paddr = LAYOUT_PVH_INFO + offsetof(struct pvh_page, initrd);
		page.initrd.paddr = plan->initrd_gpa;
		page.initrd.size = plan->initrd.size;
	}
	return memory_write(plan->mem, LAYOUT_PVH_INFO, &page, sizeof(page));
}

/*
 * Virtual is physical for the first 4 GiB, in 2 MiB pages. boot.rst asks for kernel, zero page and
 * command line.
 */
static int write_page_tables(struct memory *mem)
{
	uint64_t pml4 = LAYOUT_PDPT | PTE_PRESENT | PTE_WRITE;
	uint64_t entry[512];
	unsigned int i, pd;
	int err;

	err = memory_write(mem, LAYOUT_PML4, &pml4, sizeof(pml4));
	for (pd = 0; pd < 4 && !err; pd++) {
		entry[0] = (LAYOUT_PD + pd * GUEST_PAGE) | PTE_PRESENT | PTE_WRITE;
		err = memory_write(mem, LAYOUT_PDPT + pd * 8, entry, 8);
		if (err)
			break;
		for (i = 0; i < 512; i++)
			entry[i] = ((pd * 512ull + i) << 21) | PTE_PRESENT | PTE_WRITE | PTE_LARGE;
		err = memory_write(mem, LAYOUT_PD + pd * GUEST_PAGE, entry, sizeof(entry));
	}
	return err;
}

static int write_gdt(struct memory *mem)
{
	static const uint64_t gdt[BOOT_GDT_ENTRIES] = {
		[BOOT_SEL_CODE32 / 8] = BOOT_DESC_CODE32,
		[BOOT_SEL_CODE64 / 8] = BOOT_DESC_CODE64,
		[BOOT_SEL_DATA / 8] = BOOT_DESC_DATA,
	};

	_Static_assert(LAYOUT_GDT + sizeof(gdt) <= LAYOUT_IDT, "the GDT ends where the IDT begins");
	return memory_write(mem, LAYOUT_GDT, gdt, sizeof(gdt));
}

/*
 * Linux thinks that a hardware-reduced machine restarts by EFI. Without EFI it tries the BIOS next:
 * in real mode it jumps to F000:FFF0, and would run on through zeros. There is no BIOS, but there
 * is the reset register.
 */
static int write_bios_entry(struct memory *mem)
{
	static const uint8_t code[] = {
		0xba, LAYOUT_RESET & 0xff, LAYOUT_RESET >> 8, /* mov $LAYOUT_RESET, %dx */
		0xb0, LAYOUT_RESET_VALUE,		      /* mov $LAYOUT_RESET_VALUE, %al */
		0xee,					      /* out %al, (%dx) */
		0xf4,					      /* 1: hlt */
		0xeb, 0xfd,				      /* jmp 1b */
	};

	_Static_assert(LAYOUT_BIOS_ENTRY >= LAYOUT_ACPI_END, "no table lies there");
	_Static_assert(LAYOUT_BIOS_ENTRY + sizeof(code) <= LAYOUT_HIGH_RAM, "below 1 MiB");
	return memory_write(mem, LAYOUT_BIOS_ENTRY, code, sizeof(code));
}

static int plan_carry_out(struct plan *plan)
{
	const char *cmdline = plan->files->cmdline;
	struct memory *mem = plan->mem;
	const struct segment *s;
	unsigned int i;
	int err;

	for (i = 0; i < plan->nr_segments; i++) {
		s = &plan->segment[i];
		err = bootfile_load(&plan->kernel, mem, s->offset, s->gpa, s->filesz);
		if (err)
			return err;
	}
	if (plan->initrd.fd >= 0) {
		err = bootfile_load(&plan->initrd, mem, 0, plan->initrd_gpa, plan->initrd.size);
		if (err)
			return err;
	}
	err = memory_write(mem, LAYOUT_CMDLINE, cmdline, strlen(cmdline) + 1);
	if (!err)
		err = write_gdt(mem);
	if (!err)
		err = write_bios_entry(mem);
	if (err)
		return err;
	if (plan->mode == BOOT_PVH)
		return write_pvh_info(plan);
	err = write_page_tables(mem);
	if (!err)
		err = write_zero_page(plan);
	return err;
}

int boot_load(struct memory *mem, const struct boot_files *files, struct boot_entry *entry)
{
	struct boot_files f = *files;
	struct plan plan = { .mem = mem, .files = &f, .kernel.fd = -1, .initrd.fd = -1 };
	int err;

	if (!f.cmdline)
		f.cmdline = "";
	/* Boot data is written below 1 MiB whatever the files are. */
	if (!memory_ptr(mem, 0, LAYOUT_HIGH_RAM)) {
		log_err("kernel %s: ENOSPC: no RAM at 0 to %#x for the boot data", f.kernel,
			LAYOUT_HIGH_RAM);
		return -ENOSPC;
	}
	err = bootfile_open(&plan.kernel, "kernel", f.kernel);
	if (err)
		return err;
	err = plan_kernel(&plan);
	if (!err)
		err = plan_cmdline(&plan);
	if (!err && f.initrd) {
		err = bootfile_open(&plan.initrd, "initrd", f.initrd);
		if (!err)
			err = plan_initrd(&plan);
	}
	if (!err)
		err = plan_carry_out(&plan);
	if (!err) {
		entry->mode = plan.mode;
		entry->rip = plan.entry;
		entry->info = plan.mode == BOOT_PVH ? LAYOUT_PVH_INFO : LAYOUT_ZERO_PAGE;
	}
	bootfile_close(&plan.initrd);
	bootfile_close(&plan.kernel);
	return err;
}
