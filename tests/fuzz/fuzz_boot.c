/* SPDX-License-Identifier: MIT */
/*
 * The x86_64 loader on arbitrary kernel files. Byte 0 chooses RAM, initrd and command line, byte 1
 * the initrd's size, the rest is the kernel. A load that succeeds must have left everything where
 * it says it is, one thing not over another.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "arch/x86_64/boot.h"
#include "arch/x86_64/layout.h"
#include "vm/kvm.h"
#include "vm/log.h"
#include "vm/memory.h"

#define MIB (1ull << 20)

enum { WITH_INITRD = 1, SMALL_RAM = 2, HIGH_RAM = 4, LONG_CMDLINE = 8 };

/* vm/memory.o names it; no VM hangs behind the memory here. */
int kvm_ioctl_named(int fd, unsigned long request, const char *name, void *arg)
{
	(void)fd, (void)request, (void)name, (void)arg;
	return -ENOSYS;
}

static void must(bool cond)
{
	if (!cond)
		__builtin_trap();
}

static uint64_t le(const struct memory *mem, uint64_t gpa, unsigned int len)
{
	uint64_t value = 0;

	must(!memory_read(mem, gpa, &value, len));
	return value;
}

/* Writes @data into a file that is made once and then used again. */
static void file_set(int *fd, char path[32], const void *data, size_t len)
{
	if (*fd < 0) {
		*fd = memfd_create("fuzz", MFD_CLOEXEC);
		snprintf(path, 32, "/proc/self/fd/%d", *fd);
	}
	must(!ftruncate(*fd, 0) && pwrite(*fd, data, len, 0) == (ssize_t)len);
}

static void check_guest(const struct memory *mem, const struct boot_files *files,
			const struct boot_entry *entry, uint64_t initrd_size)
{
	uint64_t gpa, size, map, i, nr, stride, ram = 0;
	const uint8_t *p;

	must(memory_ptr(mem, entry->rip, 1));
	must(!strcmp(memory_ptr(mem, LAYOUT_CMDLINE, strlen(files->cmdline) + 1), files->cmdline));
	must(le(mem, LAYOUT_GDT + BOOT_SEL_CODE64, 8) == BOOT_DESC_CODE64);
	if (entry->mode == BOOT_PVH) {
		must(le(mem, entry->info, 4) == 0x336ec578);
		gpa = size = 0;
		if (le(mem, entry->info + 12, 4)) {
			gpa = le(mem, le(mem, entry->info + 16, 8), 8);
			size = le(mem, le(mem, entry->info + 16, 8) + 8, 8);
		}
		map = le(mem, entry->info + 40, 8);
		nr = le(mem, entry->info + 48, 4);
		stride = 24;
	} else {
		must(le(mem, entry->info + 0x1ef, 1) == 0 && le(mem, entry->info + 0x250, 8) == 0);
		must(le(mem, LAYOUT_PML4, 8) == (LAYOUT_PDPT | 3));
		gpa = le(mem, entry->info + 0x218, 4) | le(mem, entry->info + 0xc0, 4) << 32;
		size = le(mem, entry->info + 0x21c, 4) | le(mem, entry->info + 0xc4, 4) << 32;
		map = entry->info + 0x2d0;
		nr = le(mem, entry->info + 0x1e8, 1);
		stride = 20;
	}
	must(size == initrd_size);
	p = size ? memory_ptr(mem, gpa, size) : NULL;
	must(!size || (p && gpa % 4096 == 0 && gpa >= LAYOUT_HIGH_RAM));
	for (i = 0; i < size; i++)
		must(p[i] == 0xa5);
	/* The map tells of all RAM but the BIOS area. */
	for (i = 0; i < nr; i++)
		if (le(mem, map + i * stride + 16, 4) == 1)
			ram += le(mem, map + i * stride + 8, 8);
	must(ram == mem->ram_size - (LAYOUT_HIGH_RAM - LAYOUT_LOW_END));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int kernel_fd = -1, initrd_fd = -1;
	static char kernel[32], initrd[32], words[3000];
	static uint8_t filler[256 * 1024];
	static struct memory mem[4];
	struct boot_files files = { .kernel = kernel, .cmdline = "quiet", .rsdp = LAYOUT_RSDP };
	struct boot_entry entry;
	struct memory *m;
	uint64_t len = 0;

	if (size < 2)
		return 0;
	if (!mem[0].nr) {
		log_set_level(LOG_ERROR);
		log_set_fd(open("/dev/null", O_WRONLY | O_CLOEXEC), false);
		memset(filler, 0xa5, sizeof(filler));
		memset(words, 'w', sizeof(words) - 1);
		for (unsigned int i = 0; i < 4; i++) {
			memory_init(&mem[i], -1);
			must(!memory_add_ram(&mem[i], 0, i & 1 ? 16 * MIB : 64 * MIB, MEMORY_ANON));
			if (i & 2)
				must(!memory_add_ram(&mem[i], 1ull << 32, 16 * MIB, MEMORY_ANON));
		}
	}
	m = &mem[!!(data[0] & SMALL_RAM) + 2 * !!(data[0] & HIGH_RAM)];
	file_set(&kernel_fd, kernel, data + 2, size - 2);
	if (data[0] & WITH_INITRD) {
		len = data[1] * 1024 + 1;
		file_set(&initrd_fd, initrd, filler, len);
		files.initrd = initrd;
	}
	if (data[0] & LONG_CMDLINE)
		files.cmdline = words;

	if (!boot_load(m, &files, &entry))
		check_guest(m, &files, &entry, len);
	/* RAM is fresh for each load. */
	for (unsigned int i = 0; i < m->nr; i++)
		madvise(m->region[i].hva, m->region[i].size, MADV_DONTNEED);
	return 0;
}
