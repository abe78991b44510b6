/* SPDX-License-Identifier: MIT */
/*
 * The aarch64 loader on arbitrary kernel files. Byte 0 chooses RAM, device tree and initrd, byte 1
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
#include "arch/aarch64/boot.h"
#include "vm/kvm.h"
#include "vm/log.h"
#include "vm/memory.h"

#define KIB 1024ull
#define MIB (1ull << 20)
#define RAM 0x40000000ull

enum { WITH_INITRD = 1, RAM_SIZE = 6, BIG_FDT = 8 };

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

/* Writes @data into a file that is made once and then used again. */
static void file_set(int *fd, char path[32], const void *data, size_t len)
{
	if (*fd < 0) {
		*fd = memfd_create("fuzz", MFD_CLOEXEC);
		snprintf(path, 32, "/proc/self/fd/%d", *fd);
	}
	must(!ftruncate(*fd, 0) && pwrite(*fd, data, len, 0) == (ssize_t)len);
}

static uint64_t le64(const uint8_t *p)
{
	uint64_t value = 0;

	for (unsigned int i = 8; i--;)
		value = value << 8 | p[i];
	return value;
}

static bool apart(uint64_t a, uint64_t a_end, uint64_t b, uint64_t b_end)
{
	return a_end <= b || b_end <= a;
}

static void check_guest(const struct memory *mem, const struct boot_placement *at,
			const uint8_t *kernel, size_t size, size_t fdt_max, uint64_t initrd_size)
{
	const uint8_t *p = memory_ptr(mem, at->pc, 64);
	const uint64_t fdt_end = at->fdt + fdt_max;
	uint64_t image_size, end, i;

	must(p && !memcmp(p + 56, "ARM\x64", 4) && at->pc % 4096 == 0);
	if (kernel[0] != 0x1f || kernel[1] != 0x8b)
		must(!memcmp(memory_ptr(mem, at->pc, size), kernel, size));
	image_size = le64(p + 16);
	must(!(p[24] & 1));
	must(at->pc == RAM + (image_size ? le64(p + 8) : 0x80000));
	must(!image_size || memory_ptr(mem, at->pc, image_size));
	end = at->pc + (image_size ? image_size : 64);

	must(at->fdt % 8 == 0 && memory_ptr(mem, at->fdt, fdt_max));
	must(at->fdt / (2 * MIB) == (fdt_end - 1) / (2 * MIB));
	must(apart(at->pc, end, at->fdt, fdt_end));

	must(at->initrd_size == initrd_size);
	if (!initrd_size)
		return;
	p = memory_ptr(mem, at->initrd, initrd_size);
	must(p && at->initrd % (64 * KIB) == 0);
	must(apart(at->pc, end, at->initrd, at->initrd + initrd_size));
	must(apart(at->fdt, fdt_end, at->initrd, at->initrd + initrd_size));
	for (i = 0; i < initrd_size; i++)
		must(p[i] == 0xa5);
	/* Not even a page of the largest kind is shared. */
	end = at->initrd + initrd_size;
	must(at->fdt / (64 * KIB) > (end - 1) / (64 * KIB) ||
	     (fdt_end - 1) / (64 * KIB) < at->initrd / (64 * KIB));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint64_t ram[] = { 16 * MIB, 64 * MIB, 600 * MIB, 16 * MIB + 4 * KIB };
	static int kernel_fd = -1, initrd_fd = -1;
	static char kernel[32], initrd[32];
	static uint8_t filler[256 * KIB];
	static struct memory mem[4];
	struct boot_files files = { .kernel = kernel };
	struct boot_placement at;
	struct memory *m;
	size_t fdt_max;
	uint64_t len = 0;

	if (size < 2)
		return 0;
	if (!mem[0].nr) {
		log_set_level(LOG_ERROR);
		log_set_fd(open("/dev/null", O_WRONLY | O_CLOEXEC), false);
		memset(filler, 0xa5, sizeof(filler));
		for (unsigned int i = 0; i < 4; i++) {
			memory_init(&mem[i], -1);
			must(!memory_add_ram(&mem[i], RAM, ram[i], MEMORY_ANON));
		}
	}
	m = &mem[(data[0] & RAM_SIZE) >> 1];
	fdt_max = data[0] & BIG_FDT ? BOOT_FDT_MAX : 64 * KIB - data[0];
	file_set(&kernel_fd, kernel, data + 2, size - 2);
	if (data[0] & WITH_INITRD) {
		len = data[1] * KIB + 1;
		file_set(&initrd_fd, initrd, filler, len);
		files.initrd = initrd;
	}

	if (!boot_load(m, &files, fdt_max, &at))
		check_guest(m, &at, data + 2, size - 2, fdt_max, len);
	/* RAM is fresh for each load. */
	for (unsigned int i = 0; i < m->nr; i++)
		madvise(m->region[i].hva, m->region[i].size, MADV_DONTNEED);
	return 0;
}
