/* SPDX-License-Identifier: MIT */
/*
 * KVM's memory slots and dirty logs as far as vm/region.c and vm/dirty.c ask, with KVM's own rules
 * (api.rst 4.35, 4.8). What is not KVM's goes to the kernel.
 */
#ifndef TESTS_UNIT_FAKE_SLOTS_H
#define TESTS_UNIT_FAKE_SLOTS_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <linux/kvm.h>

#define FAKE_FD	   1000000
#define FAKE_SLOTS 600

static struct fake_slot {
	struct kvm_userspace_memory_region arg; /* memory_size 0: free */
	uint64_t *log;				/* NULL: not logged */
} fake[FAKE_SLOTS];

static unsigned int fake_calls, fake_fail_at; /* the how manieth KVM call fails, from 1; 0: none */
static int fake_mistakes;
static void (*fake_hook)(const struct kvm_userspace_memory_region *arg);

static size_t fake_words(const struct fake_slot *s)
{
	return (s->arg.memory_size / (uint64_t)sysconf(_SC_PAGESIZE) + 63) / 64;
}

static int fake_mistake(int err)
{
	fake_mistakes++;
	return -err;
}

static int fake_set(const struct kvm_userspace_memory_region *arg)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	struct fake_slot *s = &fake[arg->slot];
	bool log = arg->flags & KVM_MEM_LOG_DIRTY_PAGES;

	if (arg->slot >= FAKE_SLOTS)
		return fake_mistake(EINVAL);
	if (!arg->memory_size) {
		if (!s->arg.memory_size)
			return fake_mistake(EINVAL);
		free(s->log);
		memset(s, 0, sizeof(*s));
		return 0;
	}
	if ((arg->memory_size | arg->guest_phys_addr | arg->userspace_addr) % page)
		return fake_mistake(EINVAL);
	if (s->arg.memory_size &&
	    (s->arg.memory_size != arg->memory_size || s->arg.userspace_addr != arg->userspace_addr ||
	     (s->arg.flags ^ arg->flags) & KVM_MEM_READONLY))
		return fake_mistake(EINVAL);
	for (unsigned int i = 0; i < FAKE_SLOTS; i++) {
		const struct kvm_userspace_memory_region *o = &fake[i].arg;

		if (i != arg->slot && o->memory_size &&
		    arg->guest_phys_addr <= o->guest_phys_addr + (o->memory_size - 1) &&
		    o->guest_phys_addr <= arg->guest_phys_addr + (arg->memory_size - 1))
			return fake_mistake(EEXIST);
	}
	s->arg = *arg;
	if (!log) {
		free(s->log);
		s->log = NULL;
	} else if (!s->log) {
		s->log = calloc(fake_words(s), 8);
	}
	return 0;
}

static int fake_get_log(const struct kvm_dirty_log *arg)
{
	struct fake_slot *s = &fake[arg->slot];

	if (arg->slot >= FAKE_SLOTS || !s->log)
		return fake_mistake(ENOENT);
	memcpy(arg->dirty_bitmap, s->log, fake_words(s) * 8);
	memset(s->log, 0, fake_words(s) * 8);
	return 0;
}

/* The guest writes page @page of @slot. */
static void fake_guest_writes(unsigned int slot, uint64_t page)
{
	if (fake[slot].log)
		fake[slot].log[page / 64] |= 1ull << page % 64;
}

static unsigned int fake_nr(void)
{
	unsigned int nr = 0;

	for (unsigned int i = 0; i < FAKE_SLOTS; i++)
		nr += fake[i].arg.memory_size != 0;
	return nr;
}

static void fake_reset(void)
{
	for (unsigned int i = 0; i < FAKE_SLOTS; i++)
		free(fake[i].log);
	memset(fake, 0, sizeof(fake));
	fake_calls = fake_fail_at = 0;
	fake_mistakes = 0;
	fake_hook = NULL;
}

int kvm_ioctl_raw(int fd, unsigned long request, void *arg)
{
	if (fd != FAKE_FD) {
		int ret = ioctl(fd, request, arg);

		return ret < 0 ? -errno : ret;
	}
	if (++fake_calls == fake_fail_at)
		return -ENOMEM;
	if (request == KVM_GET_DIRTY_LOG)
		return fake_get_log(arg);
	if (request != KVM_SET_USER_MEMORY_REGION)
		return fake_mistake(ENOTTY);
	if (fake_hook)
		fake_hook(arg);
	return fake_set(arg);
}

int kvm_ioctl_named(int fd, unsigned long request, const char *name, void *arg)
{
	return kvm_ioctl_raw(fd, request, arg);
}

#endif
