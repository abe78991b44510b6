/* SPDX-License-Identifier: MIT */
/*
 * Kernel loading, in three steps: read the header, place kernel, device tree and initrd, then load.
 * The files are taken for hostile until all is placed; the header is read once, into locals.
 * Section numbers are booting.rst's.
 *
 * A guest's reset comes here again: what is said of a kernel that can be booted is limited.
 *
 * No cache is cleaned here: the guest starts with its MMU off and sees past the caches, but KVM
 * cleans each page that it maps into a guest (or the CPU has FWB and need not).
 */
#include "arch/aarch64/boot.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include "arch/aarch64/inflate.h"
#include "vm/bootfile.h"
#include "vm/log.h"
#include "vm/memory.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)

/* The largest page that a kernel may have: what it maps and frees apart shares none. */
#define GUEST_PAGE 0x10000ull

#define KERNEL_ALIGN	(2 * MIB)    /* section 4, of the place that text_offset counts from */
#define FDT_BLOCK	(2 * MIB)    /* section 2, mapped whole; older kernels: not to be crossed */
#define FDT_REACH	(512 * MIB)  /* section 2, of kernels before 4.2 */
#define INITRD_WINDOW	(32 * GIB)   /* section 4, from a multiple of 1 GiB, with the kernel */
#define PHYS_MAX	(1ull << 48) /* section 4, flags bit 3 */
#define OLD_TEXT_OFFSET 0x80000ull   /* section 4, where image_size is 0 */

/* Linux's own bound: the code finds its data by adrp, so it can't be moved by less. */
#define TEXT_ALIGN 4096ull

/* Up to here is looked for what "enough RAM" would be, in the steps that --memory takes. */
#define RAM_SIZE_MAX (64 * GIB)
#define RAM_STEP_MIB 2

#define IMAGE_MAGIC	 0x644d5241 /* "ARM\x64" */
#define IMAGE_BIG_ENDIAN 0x1
#define IMAGE_PAGES(f)	 ((f) >> 1 & 3)

/* Section 4, all of it little-endian. */
struct image_header {
	uint32_t code0;
	uint32_t code1;
	uint64_t text_offset;
	uint64_t image_size;
	uint64_t flags;
	uint64_t res2;
	uint64_t res3;
	uint64_t res4;
	uint32_t magic;
	uint32_t pe_offset; /* res5; of the PE header where code0 starts with "MZ" */
};

_Static_assert(sizeof(struct image_header) == 64, "the Image header is ABI");

/* PE/COFF: the signature and file header, and a section's, as far as they are looked at. */
#define PE_HEADER	24
#define PE_NR_SECTIONS	6
#define PE_OPT_SIZE	20
#define PE_SECTION	40
#define PE_RAW_SIZE	16
#define PE_RAW_OFFSET	20
#define PE_MAX_SECTIONS 96

struct plan {
	struct memory *mem;
	struct bootfile kernel;
	struct bootfile initrd; /* fd is -1 and size 0 when there is none */
	bool gzip;
	uint64_t fdt_max;
	uint64_t reserved;
	uint64_t text_offset;
	uint64_t image_size; /* 0: a kernel that doesn't say */
};

/* Where things go. */
struct places {
	uint64_t kernel;
	uint64_t kernel_end; /* as far as is known */
	uint64_t fdt;
	uint64_t fdt_end;
	uint64_t initrd;
	uint64_t initrd_room; /* bytes, the most that there are in one piece */
};

enum misfit { FITS, NO_KERNEL, NO_INITRD };

/* "kernel PATH: ENOEXEC: ..." to the log. */
#define bad_kernel(plan, ...) bootfile_bad(&(plan)->kernel, __VA_ARGS__)

static uint64_t align_down(uint64_t value, uint64_t align)
{
	return value & ~(align - 1);
}

static uint64_t align_up(uint64_t value, uint64_t align)
{
	return align_down(value + align - 1, align);
}

/* The machine's RAM is one region. */
static uint64_t ram_start(const struct memory *mem)
{
	return mem->region[0].gpa;
}

static uint64_t ram_size(const struct memory *mem)
{
	return mem->region[0].size;
}

static int read_kernel(void *arg, uint64_t offset, void *buf, size_t len)
{
	return bootfile_read(arg, offset, buf, len);
}

static struct inflate_source gzip_source(struct plan *plan)
{
	return (struct inflate_source){ .size = plan->kernel.size,
					.read = read_kernel,
					.arg = &plan->kernel };
}

/* Says what is wrong with the gzip data; the errors of reading it have been told. */
static int bad_gzip(const struct plan *plan, int err, const struct inflate_result *result)
{
	if (!result->why)
		return err;
	return bad_kernel(plan, "gzip data, %#" PRIx64 " bytes into the file of %#" PRIx64 ": %s",
			  result->in, plan->kernel.size, result->why);
}

/*
 * An Image says nowhere how long its file is, but one with an EFI stub says so to EFI: without this
 * a truncated one would be entered, to die without a word.
 */
static int check_sections(const struct plan *plan, const struct image_header *header)
{
	const uint64_t size = plan->kernel.size;
	uint64_t at = le32toh(header->pe_offset);
	uint8_t pe[PE_HEADER], section[PE_SECTION];
	uint32_t raw_offset, raw_size;
	uint16_t nr, opt_size;
	unsigned int i;
	int err;

	if (memcmp(&header->code0, "MZ", 2))
		return 0;
	if (at > size - sizeof(pe))
		return bad_kernel(plan,
				  "the PE header at %#" PRIx64 " is past the file's %#" PRIx64
				  " bytes: truncated",
				  at, size);
	err = bootfile_read(&plan->kernel, at, pe, sizeof(pe));
	if (err)
		return err;
	if (memcmp(pe, "PE\0", 4))
		return bad_kernel(plan, "it starts with MZ, but has no PE header at %#" PRIx64, at);
	memcpy(&nr, pe + PE_NR_SECTIONS, sizeof(nr));
	memcpy(&opt_size, pe + PE_OPT_SIZE, sizeof(opt_size));
	nr = le16toh(nr);
	at += sizeof(pe) + le16toh(opt_size);
	if (nr > PE_MAX_SECTIONS)
		return bad_kernel(plan, "PE header: %u sections, at most %u are allowed", nr,
				  PE_MAX_SECTIONS);
	if (at > size || size - at < nr * PE_SECTION)
		return bad_kernel(plan,
				  "%u PE section headers at %#" PRIx64
				  " go past the file's %#" PRIx64 " bytes: truncated",
				  nr, at, size);
	for (i = 0; i < nr; i++, at += sizeof(section)) {
		err = bootfile_read(&plan->kernel, at, section, sizeof(section));
		if (err)
			return err;
		memcpy(&raw_size, section + PE_RAW_SIZE, sizeof(raw_size));
		memcpy(&raw_offset, section + PE_RAW_OFFSET, sizeof(raw_offset));
		raw_size = le32toh(raw_size);
		raw_offset = le32toh(raw_offset);
		if (raw_offset > size || size - raw_offset < raw_size)
			return bad_kernel(plan,
					  "PE section %u: %#x bytes at %#x go past the file's "
					  "%#" PRIx64 ": truncated",
					  i, raw_size, raw_offset, size);
	}
	return 0;
}

/* Section 4, "Call the kernel image". */
static int plan_image(struct plan *plan, const struct image_header *header)
{
	static const char *const pages[] = { NULL, NULL, "16 KiB", "64 KiB" };
	const uint64_t flags = le64toh(header->flags);
	const char *what = plan->gzip ? "in gzip, " : "";

	plan->text_offset = le64toh(header->text_offset);
	plan->image_size = le64toh(header->image_size);
	/* Kernels before 3.17 have the offset in their own byte order, and always the same one. */
	if ((flags & IMAGE_BIG_ENDIAN) ||
	    (!plan->image_size && plan->text_offset == htobe64(htole64(OLD_TEXT_OFFSET))))
		return bad_kernel(plan,
				  "%sflags %#" PRIx64 ", text_offset %#" PRIx64
				  ": a big-endian kernel, only little-endian ones can be run",
				  what, flags, plan->text_offset);
	if (!plan->image_size)
		plan->text_offset = OLD_TEXT_OFFSET;
	if (plan->text_offset >= PHYS_MAX || plan->text_offset % TEXT_ALIGN)
		return bad_kernel(
			plan, "%stext_offset %#" PRIx64 " is not a multiple of %#llx below %#llx",
			what, plan->text_offset, TEXT_ALIGN, PHYS_MAX);
	if (plan->image_size >= PHYS_MAX)
		return bad_kernel(plan, "%simage_size %#" PRIx64 " is not below %#llx", what,
				  plan->image_size, PHYS_MAX);
	/* What was unpacked is counted when it has been. */
	if (plan->image_size &&
	    plan->image_size < (plan->gzip ? sizeof(*header) : plan->kernel.size))
		return bad_kernel(plan,
				  "%simage_size %#" PRIx64 " is less than its %#" PRIx64
				  " bytes: is something appended?",
				  what, plan->image_size,
				  plan->gzip ? (uint64_t)sizeof(*header) : plan->kernel.size);
	/*
	 * Whether the CPU has such pages is between it and the kernel, which has no console yet
	 * when it finds out.
	 */
	if (pages[IMAGE_PAGES(flags)])
		log_limited(LOG_INFO,
			    "kernel %s: it needs a CPU with %s pages, and stops without a word "
			    "where there are none",
			    plan->kernel.path, pages[IMAGE_PAGES(flags)]);
	return plan->gzip ? 0 : check_sections(plan, header);
}

static int plan_kernel(struct plan *plan)
{
	struct image_header header;
	struct inflate_source source = gzip_source(plan);
	struct inflate_result unpacked;
	uint8_t head[1024];
	size_t len = plan->kernel.size < sizeof(head) ? plan->kernel.size : sizeof(head);
	const char *kind;
	int err;

	err = bootfile_read(&plan->kernel, 0, head, len);
	if (err)
		return err;
	plan->gzip = len >= 2 && !memcmp(head, "\x1f\x8b", 2);
	if (plan->gzip) {
		err = inflate_gzip(&source, head, sizeof(head), &unpacked);
		if (err && unpacked.out < sizeof(head))
			return bad_gzip(plan, err, &unpacked);
		len = unpacked.out;
	}
	if (len >= sizeof(header)) {
		memcpy(&header, head, sizeof(header));
		if (le32toh(header.magic) == IMAGE_MAGIC)
			return plan_image(plan, &header);
	}
	kind = bootfile_kind(head, len);
	if (len < sizeof(header))
		kind = "it is too short for one";
	return bad_kernel(plan, "%sno Image (\"ARM\\x64\" at 0x38 of its 64 bytes of header): %s",
			  plan->gzip ? "what was in gzip is " : "",
			  kind ? kind : "unknown content");
}

/* Where a device tree of @room bytes can start, at @gpa or above, but in one block. */
static uint64_t fdt_above(uint64_t gpa, uint64_t room)
{
	if (align_down(gpa, FDT_BLOCK) != align_down(gpa + room - 1, FDT_BLOCK))
		gpa = align_up(gpa, FDT_BLOCK);
	return gpa;
}

/* The same, to end at @end or below. */
static uint64_t fdt_below(uint64_t end, uint64_t room)
{
	uint64_t gpa = end - room;

	if (align_down(gpa, FDT_BLOCK) != align_down(end - 1, FDT_BLOCK))
		gpa = align_down(end - 1, FDT_BLOCK) - room;
	return gpa;
}

/*
 * Places all in RAM up to @ram_end: the kernel as low as it may (older ones can't use what lies
 * below them), the device tree behind it, the initrd as high as possible. A kernel that doesn't
 * tell how much it takes gets the device tree as high as it can read it, so that all between is
 * its own.
 */
static enum misfit place(const struct plan *plan, uint64_t ram_end, struct places *at)
{
	const uint64_t base = align_up(ram_start(plan->mem), KERNEL_ALIGN);
	const uint64_t fdt_room = align_up(plan->fdt_max, GUEST_PAGE);
	const uint64_t initrd_size = align_up(plan->initrd.size, GUEST_PAGE);
	uint64_t bytes = plan->image_size ? plan->image_size : plan->kernel.size;
	uint64_t start, end, gpa;
	unsigned int i;

	/* A kernel may leave out a page that is not wholly RAM. */
	ram_end = align_down(ram_end, GUEST_PAGE);
	at->kernel = base + plan->text_offset;
	at->kernel_end = at->kernel + bytes;
	at->fdt = fdt_above(align_up(at->kernel_end, GUEST_PAGE), fdt_room);
	at->fdt_end = at->fdt + fdt_room;
	if (at->fdt_end > ram_end)
		return NO_KERNEL;
	if (!plan->image_size) {
		end = base + FDT_REACH < ram_end ? base + FDT_REACH : ram_end;
		gpa = fdt_below(end, fdt_room);
		if (gpa > at->fdt)
			at->fdt = gpa;
		at->fdt_end = at->fdt + fdt_room;
	}

	/* Above the device tree or between it and the kernel. */
	at->initrd_room = 0;
	for (i = 0; i < 2; i++) {
		start = i ? align_up(at->kernel_end, GUEST_PAGE) : at->fdt_end;
		end = i ? at->fdt : ram_end;
		if (end > align_down(at->kernel, GIB) + INITRD_WINDOW)
			end = align_down(at->kernel, GIB) + INITRD_WINDOW;
		if (end <= start)
			continue;
		if (end - start > at->initrd_room)
			at->initrd_room = end - start;
		if (end - start >= initrd_size) {
			at->initrd = end - initrd_size;
			return FITS;
		}
	}
	return initrd_size ? NO_INITRD : FITS;
}

/* For the end of a message: how much RAM would do. */
static const char *missing(const struct plan *plan, char *text, size_t size)
{
	uint64_t now = ram_size(plan->mem) / MIB, mib;
	struct places at;

	for (mib = (now / RAM_STEP_MIB + 1) * RAM_STEP_MIB; mib <= RAM_SIZE_MAX / MIB;
	     mib += RAM_STEP_MIB)
		if (place(plan, ram_start(plan->mem) + mib * MIB - plan->reserved, &at) == FITS)
			break;
	if (mib <= RAM_SIZE_MAX / MIB)
		snprintf(text, size,
			 "%" PRIu64 " MiB are missing: give the guest %" PRIu64 " MiB or more",
			 mib - now, mib);
	else
		snprintf(text, size, "even %llu GiB of RAM would not do", RAM_SIZE_MAX / GIB);
	return text;
}

static int plan_places(const struct plan *plan, struct places *at)
{
	const uint64_t ram_end = ram_start(plan->mem) + ram_size(plan->mem) - plan->reserved;
	char text[80];

	switch (place(plan, ram_end, at)) {
	case NO_KERNEL:
		log_err("kernel %s: ENOSPC: with text_offset %#" PRIx64 ", image_size %#" PRIx64
			" and the device tree behind it it takes RAM from %#" PRIx64 " to %#" PRIx64
			", RAM ends at %#" PRIx64 ": %s",
			plan->kernel.path, plan->text_offset, plan->image_size, at->kernel,
			at->fdt_end, ram_end, missing(plan, text, sizeof(text)));
		return -ENOSPC;
	case NO_INITRD:
		log_err("initrd %s: ENOSPC: it has %" PRIu64 " bytes, the largest room for it is "
			"%" PRIu64 " bytes (kernel %#" PRIx64 " to %#" PRIx64
			", device tree %#" PRIx64 " to %#" PRIx64 ", RAM ends at %#" PRIx64
			", kernel and initrd within %llu GiB): %s",
			plan->initrd.path, plan->initrd.size, at->initrd_room, at->kernel,
			at->kernel_end, at->fdt, at->fdt_end, ram_end, INITRD_WINDOW / GIB,
			missing(plan, text, sizeof(text)));
		return -ENOSPC;
	case FITS:
		break;
	}
	return 0;
}

/* Only one member and nothing behind it: what else there is would be lost in silence. */
static int check_gzip_end(const struct plan *plan, uint64_t end)
{
	uint64_t left = plan->kernel.size - end;
	uint8_t head[64];
	size_t len = left < sizeof(head) ? left : sizeof(head);
	const char *kind = NULL;
	int err;

	if (!left)
		return 0;
	err = bootfile_read(&plan->kernel, end, head, len);
	if (err)
		return err;
	if (len >= 2 && !memcmp(head, "\x1f\x8b", 2))
		kind = "a second gzip member, only one is read: pack the Image as a whole";
	if (!kind)
		kind = bootfile_kind(head, len);
	return bad_kernel(plan, "%" PRIu64 " bytes follow the gzip data at %#" PRIx64 ": %s", left,
			  end, kind ? kind : "unknown content");
}

static int load_gzip(struct plan *plan, uint64_t gpa, uint64_t max)
{
	struct inflate_source source = gzip_source(plan);
	struct inflate_result result;
	void *p = memory_ptr(plan->mem, gpa, max);
	int err;

	if (!p)
		return -EFAULT;
	err = inflate_gzip(&source, p, max, &result);
	if (err == -ENOBUFS && result.why && plan->image_size)
		return bad_kernel(plan, "it unpacks to more than its image_size %#" PRIx64,
				  plan->image_size);
	if (err == -ENOBUFS && result.why) {
		log_err("kernel %s: ENOSPC: image_size 0: it unpacks to more than the %" PRIu64
			" bytes that are free for it: give the guest more memory",
			plan->kernel.path, max);
		return -ENOSPC;
	}
	if (err)
		return bad_gzip(plan, err, &result);
	return check_gzip_end(plan, result.in);
}

static int plan_carry_out(struct plan *plan, const struct places *at)
{
	uint64_t free_end = at->fdt;
	int err;

	if (plan->initrd.size && at->initrd < free_end)
		free_end = at->initrd;
	if (plan->gzip)
		err = load_gzip(plan, at->kernel,
				plan->image_size ? plan->image_size : free_end - at->kernel);
	else
		err = bootfile_load(&plan->kernel, plan->mem, 0, at->kernel, plan->kernel.size);
	if (err)
		return err;
	if (!plan->image_size)
		log_limited(LOG_INFO,
			    "kernel %s: image_size 0, it doesn't say how much memory it takes: "
			    "%" PRIu64 " KiB from its start are free for it",
			    plan->kernel.path, (free_end - at->kernel) / 1024);
	return bootfile_load(&plan->initrd, plan->mem, 0, at->initrd, plan->initrd.size);
}

int boot_load(struct memory *mem, const struct boot_files *files, size_t fdt_max,
	      struct boot_placement *placement)
{
	struct plan plan = {
		.mem = mem,
		.fdt_max = fdt_max,
		.reserved = files->reserved,
		.kernel.fd = -1,
		.initrd.fd = -1,
	};
	struct places at = { 0 };
	int err;

	if (!fdt_max || fdt_max > BOOT_FDT_MAX) {
		log_err("device tree: EINVAL: %zu bytes are not 1 to %llu", fdt_max, BOOT_FDT_MAX);
		return -EINVAL;
	}
	if (!mem->nr) {
		log_err("kernel %s: ENOSPC: there is no RAM", files->kernel);
		return -ENOSPC;
	}
	err = bootfile_open(&plan.kernel, "kernel", files->kernel);
	if (err)
		return err;
	err = plan_kernel(&plan);
	if (!err && files->initrd)
		err = bootfile_open(&plan.initrd, "initrd", files->initrd);
	if (!err)
		err = plan_places(&plan, &at);
	if (!err)
		err = plan_carry_out(&plan, &at);
	if (!err) {
		placement->pc = at.kernel;
		placement->fdt = at.fdt;
		placement->initrd = plan.initrd.size ? at.initrd : 0;
		placement->initrd_size = plan.initrd.size;
	}
	bootfile_close(&plan.initrd);
	bootfile_close(&plan.kernel);
	return err;
}
