/* SPDX-License-Identifier: MIT */
#include "vm/region.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "vm/dirty.h"
#include "vm/log.h"

static bool has_vhost(const struct memory *mem)
{
	for (const struct memory_watch *watch = mem->watches; watch; watch = watch->next) {
		if (watch->vhost)
			return true;
	}
	return false;
}

int region_watch(struct memory *mem, struct memory_watch *watch)
{
	if (watch->vhost && mem->nr > MEMORY_VHOST_REGIONS) {
		log_err("memory: E2BIG: %u regions of RAM, vhost takes %d", mem->nr, MEMORY_VHOST_REGIONS);
		return -E2BIG;
	}
	watch->next = mem->watches;
	mem->watches = watch;
	return 0;
}

void region_unwatch(struct memory *mem, struct memory_watch *watch)
{
	for (struct memory_watch **at = &mem->watches; *at; at = &(*at)->next) {
		if (*at == watch) {
			*at = watch->next;
			return;
		}
	}
}

/* Every watch, or those before the one that refuses. 0 or its -errno. */
static int tell_watches(const struct memory *mem, struct memory_watch **refused)
{
	for (struct memory_watch *watch = mem->watches; watch; watch = watch->next) {
		int ret = watch->changed(watch->opaque, mem);

		if (ret) {
			*refused = watch;
			return ret;
		}
	}
	*refused = NULL;
	return 0;
}

/*
 * The table is the old one again: those that took the new one are told, and the one that refused
 * too, since nobody knows how far it came.
 */
static void tell_undone(const struct memory *mem, const struct memory_watch *refused)
{
	for (struct memory_watch *watch = mem->watches; watch; watch = watch->next) {
		watch->changed(watch->opaque, mem);
		if (watch == refused)
			return;
	}
}

int region_refuse(const struct region_spec *spec, char *why, int err, const char *fmt, ...)
{
	char text[LOG_SENTENCE];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return log_refuse(why, err, "memory at %#" PRIx64 ", %#" PRIx64 " bytes: %s", spec->gpa, spec->size,
			  text);
}

/* All that is wrong without a look at the file or KVM. */
static int check_place(const struct memory *mem, const struct region_spec *spec, char *why)
{
	uint64_t page = (uint64_t)getpagesize();
	const struct memory_region *other;

	if (!spec->size)
		return region_refuse(spec, why, -EINVAL, "it is empty");
	if ((spec->gpa | spec->size | spec->offset) & (page - 1))
		return region_refuse(spec, why, -EINVAL,
				     "address, size and offset must be multiples of this host's "
				     "page, %" PRIu64 " bytes",
				     page);
	if (spec->gpa + (spec->size - 1) < spec->gpa)
		return region_refuse(spec, why, -EINVAL, "it goes beyond the last address");
	if (spec->shared && (!spec->path || spec->readonly))
		return region_refuse(spec, why, -EINVAL, "only RAM from a file can be shared");
	other = memory_overlap(mem, spec->gpa, spec->size);
	if (other)
		return region_refuse(spec, why, -EEXIST,
				     "it overlaps %s at %#" PRIx64 ", %#" PRIx64 " bytes",
				     other->added ? "the region" : "the machine's main RAM", other->gpa,
				     other->size);
	return 0;
}

static int check_room(const struct memory *mem, const struct region_spec *spec, char *why)
{
	unsigned int nr = mem->nr;

	if (!spec->readonly && nr >= MEMORY_VHOST_REGIONS && has_vhost(mem))
		return region_refuse(spec, why, -E2BIG,
				     "there are %u regions of RAM, and vhost takes no more than %d",
				     nr, MEMORY_VHOST_REGIONS);
	/* Of both kinds: a snapshot has no room for more. */
	if (mem->nr + mem->nr_rom >= MEMORY_MAX_REGIONS)
		return region_refuse(spec, why, -ENOSPC,
				     "there are %u regions, the most that there can be",
				     mem->nr + mem->nr_rom);
	if (mem->max_slots && memory_free_slot(mem) >= mem->max_slots)
		return region_refuse(spec, why, -ENOSPC,
				     "this host's KVM has %u memory slots, and all are taken",
				     mem->max_slots);
	return 0;
}

/* @fd is spec->path's. */
static int map_fd(const struct region_spec *spec, int fd, uint8_t **hva, char *why)
{
	int prot = PROT_READ | (spec->readonly ? 0 : PROT_WRITE);
	struct stat st;
	int ret;

	if (fstat(fd, &st) < 0) {
		ret = -errno;
		return region_refuse(spec, why, ret, "%s: fstat: %s", spec->path, errno_name(ret));
	}
	if (!S_ISREG(st.st_mode))
		return region_refuse(spec, why, -EINVAL,
				     "%s: EINVAL: not a regular file", spec->path);
	/* A page that the file does not have is a SIGBUS when it is touched. */
	if (spec->offset > (uint64_t)st.st_size || spec->size > (uint64_t)st.st_size - spec->offset)
		return region_refuse(spec, why, -EINVAL,
				     "%s has %lld bytes, too few for that from %#" PRIx64,
				     spec->path, (long long)st.st_size, spec->offset);
	*hva = mmap(NULL, spec->size, prot, spec->shared ? MAP_SHARED : MAP_PRIVATE | MAP_NORESERVE, fd,
		    (off_t)spec->offset);
	if (*hva == MAP_FAILED) {
		ret = -errno;
		return region_refuse(spec, why, ret, "%s: mmap: %s", spec->path, errno_name(ret));
	}
	return 0;
}

static int map_file(const struct region_spec *spec, uint8_t **hva, char *why)
{
	/* NONBLOCK: a FIFO is refused, not waited for. */
	int fd = open(spec->path, (spec->shared ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK);
	int ret;

	if (fd < 0) {
		ret = -errno;
		return region_refuse(spec, why, ret, "%s: %s", spec->path, errno_name(ret));
	}
	ret = map_fd(spec, fd, hva, why);
	close(fd);
	return ret;
}

static int map_region(const struct region_spec *spec, uint8_t **hva, char *why)
{
	int ret;

	if (spec->path)
		return map_file(spec, hva, why);
	*hva = memory_map_anon(spec->size);
	if (!*hva) {
		ret = -errno;
		return region_refuse(spec, why, ret,
				     "mmap: %s: check ulimit -v and vm.overcommit_memory",
				     errno_name(ret));
	}
	if (spec->readonly)
		mprotect(*hva, spec->size, PROT_READ);
	return 0;
}

int region_add(struct memory *mem, const struct region_spec *spec, uint32_t *slot,
	       char why[LOG_SENTENCE])
{
	struct memory_region region = {
		.gpa = spec->gpa,
		.size = spec->size,
		.readonly = spec->readonly,
		.added = true,
		.file = spec->path,
	};
	struct memory_watch *refused;
	int ret;

	ret = check_place(mem, spec, why);
	if (!ret)
		ret = check_room(mem, spec, why);
	if (!ret)
		ret = map_region(spec, &region.hva, why);
	if (ret)
		return ret;
	memory_advise(region.hva, region.size);
	region.slot = memory_free_slot(mem);
	ret = dirty_region_add(mem, &region);
	if (ret) {
		region_refuse(spec, why, ret, "dirty log: %s", errno_name(ret));
		goto err_unmap;
	}
	ret = memory_set_slot(mem, &region, true);
	if (ret) {
		region_refuse(spec, why, ret, "KVM refuses it: %s", errno_name(ret));
		goto err_dirty;
	}
	memory_insert(mem, &region);
	/* Read-only regions are nobody's but the guest's. */
	ret = spec->readonly ? 0 : tell_watches(mem, &refused);
	if (ret) {
		region_refuse(spec, why, ret, "a device refuses it: %s", errno_name(ret));
		goto err_slot;
	}
	*slot = region.slot;
	return 0;

err_slot:
	memory_take_out(mem, region.slot);
	tell_undone(mem, refused);
	memory_set_slot(mem, &region, false);
err_dirty:
	dirty_region_remove(mem, &region);
err_unmap:
	munmap(region.hva, region.size);
	return ret;
}

static const struct memory_region *find(const struct memory *mem, uint32_t slot)
{
	for (unsigned int i = 0; i < mem->nr; i++) {
		if (mem->region[i].slot == slot)
			return &mem->region[i];
	}
	for (unsigned int i = 0; i < mem->nr_rom; i++) {
		if (mem->rom[i].slot == slot)
			return &mem->rom[i];
	}
	return NULL;
}

int region_remove(struct memory *mem, uint32_t slot, char why[LOG_SENTENCE])
{
	const struct memory_region *found = find(mem, slot);
	struct memory_watch *refused = NULL;
	struct memory_region region;
	struct region_spec at;
	int ret;

	if (!found)
		return log_refuse(why, -ENOENT, "memory: there is no region in slot %u", slot);
	if (!found->added)
		return log_refuse(why, -EPERM, "memory: slot %u is the machine's main RAM, which stays",
				  slot);
	region = *found;
	at = (struct region_spec){ .gpa = region.gpa, .size = region.size };
	memory_take_out(mem, slot);
	ret = region.readonly ? 0 : tell_watches(mem, &refused);
	if (ret) {
		region_refuse(&at, why, ret, "a device still needs it: %s", errno_name(ret));
		memory_insert(mem, &region);
		tell_undone(mem, refused);
		return ret;
	}
	ret = memory_set_slot(mem, &region, false);
	if (ret) {
		region_refuse(&at, why, ret, "KVM does not let it go: %s", errno_name(ret));
		memory_insert(mem, &region);
		if (!region.readonly)
			tell_undone(mem, NULL);
		return ret;
	}
	dirty_region_remove(mem, &region);
	munmap(region.hva, region.size);
	return 0;
}

const struct memory_region *region_list(const struct memory *mem, unsigned int i)
{
	unsigned int ram = 0, rom = 0;

	/* Two sorted tables, merged up to the one that is asked for. */
	for (;; i--) {
		const struct memory_region *next;

		if (ram == mem->nr && rom == mem->nr_rom)
			return NULL;
		if (rom == mem->nr_rom || (ram < mem->nr && mem->region[ram].gpa < mem->rom[rom].gpa))
			next = &mem->region[ram++];
		else
			next = &mem->rom[rom++];
		if (!i)
			return next;
	}
}
