/* SPDX-License-Identifier: MIT */
#include "vm/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "vm/kvm.h"
#include "vm/log.h"

/* Where the host does not say how large its huge pages are. */
#define HUGE_DEFAULT (2ull << 20)
#define HUGE_MAX     (1ull << 30)

void memory_init(struct memory *mem, int vm_fd)
{
	memset(mem, 0, sizeof(*mem));
	mem->vm_fd = vm_fd;
}

/*
 * The number behind @word, or at the start, of a file of the kernel's, in @unit bytes: the size of
 * the huge pages. It depends on that of the plain ones: 2 MiB with 4 KiB, 32 MiB with 16 KiB, 512
 * MiB with 64 KiB.
 */
static uint64_t huge_size(const char *path, const char *word, uint64_t unit)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	const char *at = NULL;
	char buf[4096];
	uint64_t size;
	ssize_t n = 0;

	if (fd >= 0) {
		n = read(fd, buf, sizeof(buf) - 1);
		close(fd);
	}
	if (n > 0) {
		buf[n] = '\0';
		at = strstr(buf, word);
	}
	if (!at)
		return HUGE_DEFAULT;
	size = strtoull(at + strlen(word), NULL, 10) * unit;
	return size >= (uint64_t)getpagesize() && size <= HUGE_MAX && !(size & (size - 1)) ?
		       size :
		       HUGE_DEFAULT;
}

/*
 * Guest RAM that is aligned as the guest sees it, so that one huge page of the host is one of the
 * guest. The space to find the alignment in is given back.
 */
uint8_t *memory_map_anon(uint64_t size)
{
	uint64_t align = huge_size("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", "", 1);
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	uint8_t *start, *p;
	uint64_t head;

	start = mmap(NULL, size + align, PROT_READ | PROT_WRITE, flags, -1, 0);
	if (start == MAP_FAILED)
		return NULL;
	head = -(uint64_t)(uintptr_t)start & (align - 1);
	p = start + head;
	if (head)
		munmap(start, head);
	if (head != align)
		munmap(p + size, align - head);
	/* Advice only: a kernel without transparent huge pages says EINVAL. */
	madvise(p, size, MADV_HUGEPAGE);
	return p;
}

void memory_advise(uint8_t *hva, uint64_t size)
{
	/* A kernel with core dumps off says EINVAL. */
	madvise(hva, size, MADV_DONTDUMP);
	madvise(hva, size, MADV_DONTFORK);
}

/* These are reserved, though not touched: without that, a pool that runs out is a SIGBUS later. */
static uint8_t *map_hugetlb(uint64_t size)
{
	uint8_t *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static const struct memory_region *overlap_in(const struct memory_region *region, unsigned int nr,
					      uint64_t gpa, uint64_t size)
{
	for (unsigned int i = 0; i < nr; i++) {
		/* By their last bytes, since a region may end where addresses do. */
		if (gpa <= region[i].gpa + (region[i].size - 1) && region[i].gpa <= gpa + (size - 1))
			return &region[i];
	}
	return NULL;
}

const struct memory_region *memory_overlap(const struct memory *mem, uint64_t gpa, uint64_t size)
{
	const struct memory_region *region = overlap_in(mem->region, mem->nr, gpa, size);

	return region ? region : overlap_in(mem->rom, mem->nr_rom, gpa, size);
}

static bool slot_taken(const struct memory *mem, uint32_t slot)
{
	for (unsigned int i = 0; i < mem->nr; i++) {
		if (mem->region[i].slot == slot)
			return true;
	}
	for (unsigned int i = 0; i < mem->nr_rom; i++) {
		if (mem->rom[i].slot == slot)
			return true;
	}
	return false;
}

uint32_t memory_free_slot(const struct memory *mem)
{
	uint32_t slot = 0;

	while (slot_taken(mem, slot))
		slot++;
	return slot;
}

int memory_set_slot(const struct memory *mem, const struct memory_region *region, bool present)
{
	struct kvm_userspace_memory_region arg = {
		.slot = region->slot,
		.flags = (region->readonly ? KVM_MEM_READONLY : 0) |
			 (region->dirty ? KVM_MEM_LOG_DIRTY_PAGES : 0),
		.guest_phys_addr = region->gpa,
		.memory_size = present ? region->size : 0,
		.userspace_addr = (uint64_t)(uintptr_t)region->hva,
	};
	int ret;

	if (mem->vm_fd < 0)
		return 0;
	ret = kvm_ioctl(mem->vm_fd, KVM_SET_USER_MEMORY_REGION, &arg);
	return ret < 0 ? ret : 0;
}

void memory_insert(struct memory *mem, const struct memory_region *region)
{
	struct memory_region *table = region->readonly ? mem->rom : mem->region;
	unsigned int *nr = region->readonly ? &mem->nr_rom : &mem->nr;
	unsigned int i;

	for (i = *nr; i > 0 && table[i - 1].gpa > region->gpa; i--)
		table[i] = table[i - 1];
	table[i] = *region;
	(*nr)++;
	if (!region->readonly)
		mem->ram_size += region->size;
}

static void take_out(struct memory *mem, struct memory_region *table, unsigned int *nr, uint32_t slot)
{
	for (unsigned int i = 0; i < *nr; i++) {
		if (table[i].slot != slot)
			continue;
		if (!table[i].readonly)
			mem->ram_size -= table[i].size;
		(*nr)--;
		memmove(&table[i], &table[i + 1], (*nr - i) * sizeof(*table));
		return;
	}
}

void memory_take_out(struct memory *mem, uint32_t slot)
{
	take_out(mem, mem->region, &mem->nr, slot);
	take_out(mem, mem->rom, &mem->nr_rom, slot);
}

int memory_add_ram(struct memory *mem, uint64_t gpa, uint64_t size, enum memory_backing backing)
{
	uint64_t align = backing == MEMORY_HUGETLB ? huge_size("/proc/meminfo", "Hugepagesize:", 1024) :
						     (uint64_t)getpagesize();
	struct memory_region region = { .gpa = gpa, .size = size };
	const struct memory_region *other;
	int ret;

	if (!size || (gpa | size) & (align - 1) || gpa + size < gpa) {
		log_err("guest RAM at %#" PRIx64 ", %#" PRIx64 " bytes: not a multiple of %#" PRIx64
			" or beyond the address space", gpa, size, align);
		return -EINVAL;
	}
	other = memory_overlap(mem, gpa, size);
	if (other) {
		log_err("guest RAM at %#" PRIx64 ", %#" PRIx64 " bytes overlaps the region at %#" PRIx64,
			gpa, size, other->gpa);
		return -EEXIST;
	}
	if (mem->nr == MEMORY_MAX_REGIONS) {
		log_err("guest RAM: no more than %d regions", MEMORY_MAX_REGIONS);
		return -ENOSPC;
	}
	region.hva = backing == MEMORY_HUGETLB ? map_hugetlb(size) : memory_map_anon(size);
	if (!region.hva) {
		ret = -errno;
		log_err("guest RAM, %" PRIu64 " MiB: mmap: %s: %s", size >> 20, errno_name(ret),
			backing == MEMORY_HUGETLB ? "check /proc/sys/vm/nr_hugepages"
						  : "check ulimit -v and vm.overcommit_memory");
		return ret;
	}
	memory_advise(region.hva, size);
	region.slot = memory_free_slot(mem);
	ret = memory_set_slot(mem, &region, true);
	if (ret) {
		munmap(region.hva, size);
		return ret;
	}
	memory_insert(mem, &region);
	return 0;
}

void memory_fini(struct memory *mem)
{
	for (unsigned int i = 0; i < mem->nr; i++)
		munmap(mem->region[i].hva, mem->region[i].size);
	for (unsigned int i = 0; i < mem->nr_rom; i++)
		munmap(mem->rom[i].hva, mem->rom[i].size);
	mem->nr = 0;
	mem->nr_rom = 0;
	mem->ram_size = 0;
}

void *memory_ptr(const struct memory *mem, uint64_t gpa, uint64_t len)
{
	if (!len)
		return NULL;
	for (unsigned int i = 0; i < mem->nr; i++) {
		const struct memory_region *region = &mem->region[i];
		uint64_t offset = gpa - region->gpa;

		/* offset and len are compared apart, so nothing can wrap. */
		if (gpa >= region->gpa && offset < region->size)
			return len <= region->size - offset ? region->hva + offset : NULL;
	}
	return NULL;
}

int memory_read(const struct memory *mem, uint64_t gpa, void *buf, uint64_t len)
{
	const void *p = memory_ptr(mem, gpa, len);

	if (!p)
		return -EFAULT;
	memcpy(buf, p, len);
	return 0;
}

int memory_write(const struct memory *mem, uint64_t gpa, const void *buf, uint64_t len)
{
	void *p = memory_ptr(mem, gpa, len);

	if (!p)
		return -EFAULT;
	memcpy(p, buf, len);
	return 0;
}

int memory_parse_size(const char *word, uint64_t *bytes)
{
	uint64_t value = 0;
	unsigned int shift = 0;

	if (*word < '0' || *word > '9')
		return -EINVAL;
	for (; *word >= '0' && *word <= '9'; word++) {
		if (__builtin_mul_overflow(value, 10, &value) ||
		    __builtin_add_overflow(value, (uint64_t)(*word - '0'), &value))
			return -EINVAL;
	}
	switch (*word) {
	case 'K':
	case 'k':
		shift = 10;
		break;
	case 'M':
	case 'm':
		shift = 20;
		break;
	case 'G':
	case 'g':
		shift = 30;
		break;
	case '\0':
		break;
	default:
		return -EINVAL;
	}
	if (shift && *++word)
		return -EINVAL;
	if (value > UINT64_MAX >> shift)
		return -EINVAL;
	*bytes = value << shift;
	return 0;
}
