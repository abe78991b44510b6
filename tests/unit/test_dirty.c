/* SPDX-License-Identifier: MIT */
/*
 * The dirty log: KVM's part is a model's, this process's and the kernel's writes are real, as seen by
 * what the kernel under this test offers.
 */
#include "tests/unit/test.h"

#include <fcntl.h>
#include <sys/mman.h>
#include "tests/unit/fake_slots.h"
#include "vm/dirty.h"
#include "vm/log.h"
#include "vm/memory.h"
#include "vm/region.h"

#define PAGES	200 /* no multiple of 64 */
#define GPA1	0x100000000ull
#define ROM_GPA 0x200000000ull
#define NEW_GPA 0x300000000ull

static uint64_t page;
static struct memory mem;
static char why[LOG_SENTENCE];

static void setup(void)
{
	struct region_spec rom = { .gpa = ROM_GPA, .size = 4 * page, .readonly = true };
	uint32_t slot;

	fake_reset();
	memory_init(&mem, FAKE_FD);
	CHECK_EQ(memory_add_ram(&mem, 0, PAGES * page, MEMORY_ANON), 0);
	CHECK_EQ(memory_add_ram(&mem, GPA1, PAGES * page, MEMORY_ANON), 0);
	CHECK_EQ(region_add(&mem, &rom, &slot, why), 0);
}

static void teardown(void)
{
	CHECK_EQ(fake_mistakes, 0);
	dirty_fini(&mem);
	memory_fini(&mem);
	fake_reset();
}

/*
 * --- soft-dirty bits as a kernel that has them shows them, for one that doesn't: by the pages' contents -
 */

static bool fake_soft;
static int fake_pagemap = -1, fake_clear = -1;
static bool clear_fails;
static struct {
	uint64_t vpn, sum;
} known[8192];
static unsigned int nr_known;

static uint64_t sum_of(uint64_t vpn)
{
	const uint8_t *p = (const uint8_t *)(uintptr_t)(vpn * page);
	uint64_t sum = 0;

	for (uint64_t i = 0; i < page; i++)
		sum = sum * 31 + p[i];
	return sum;
}

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
	if (!fake_soft || strncmp(path, "/proc/self/", 11))
		return __real_open(path, flags);
	if (strstr(path, "pagemap"))
		return fake_pagemap = __real_open("/dev/null", flags);
	nr_known = 0;
	return fake_clear = __real_open("/dev/null", flags);
}

ssize_t __real_pread(int fd, void *buf, size_t len, off_t offset);
ssize_t __wrap_pread(int fd, void *buf, size_t len, off_t offset)
{
	uint64_t *word = buf;

	if (!fake_soft || fd != fake_pagemap)
		return __real_pread(fd, buf, len, offset);
	/* As the kernel may: less than was asked for. */
	if (len > 100 * 8)
		len = 100 * 8;
	for (size_t i = 0; i < len / 8; i++) {
		uint64_t vpn = (uint64_t)offset / 8 + i, sum = sum_of(vpn);
		unsigned int k = 0;

		while (k < nr_known && known[k].vpn != vpn)
			k++;
		word[i] = 1ull << 63 | 0x123; /* present, a page frame's number */
		if (k == nr_known && nr_known < 8192) {
			known[k].vpn = vpn;
			known[k].sum = sum;
			nr_known++;
		} else if (known[k].sum != sum) {
			word[i] |= 1ull << 55;
		}
	}
	return (ssize_t)len;
}

ssize_t __real_pwrite(int fd, const void *buf, size_t len, off_t offset);
ssize_t __wrap_pwrite(int fd, const void *buf, size_t len, off_t offset)
{
	unsigned char vec;

	if (!fake_soft || fd != fake_clear)
		return __real_pwrite(fd, buf, len, offset);
	if (clear_fails || len != 1 || *(const char *)buf != '4') {
		errno = EPERM;
		return -1;
	}
	for (unsigned int k = 0; k < nr_known; k++) {
		if (!mincore((void *)(uintptr_t)(known[k].vpn * page), page, &vec))
			known[k].sum = sum_of(known[k].vpn);
		else
			known[k].vpn = 0;
	}
	return 1;
}

/* What dirty_each() says: "0+1 5+3 ..." in pages, those of the region at GPA1 after a "|". */
static char runs[4096];
static int stop_after;

static int note(void *opaque, uint64_t gpa, uint64_t size, const uint8_t *hva)
{
	char word[64];

	if (hva != memory_ptr(&mem, gpa, size))
		strcat(runs, "?");
	snprintf(word, sizeof(word), "%s%s%llu+%llu", runs[0] ? " " : "", gpa >= NEW_GPA ? "!" : gpa >= GPA1 ? "|" : "",
		 (unsigned long long)((gpa & (GPA1 - 1)) / page), (unsigned long long)(size / page));
	if (strlen(runs) < sizeof(runs) - 100)
		strcat(runs, word);
	return stop_after && !--stop_after ? -ECANCELED : 0;
}

static const char *kept(void)
{
	runs[0] = '\0';
	CHECK_EQ(dirty_each(&mem, note, NULL), 0);
	return runs;
}

static const char *take(void)
{
	CHECK_EQ(dirty_collect(&mem, why), 0);
	kept();
	dirty_clear(&mem);
	return runs;
}

static uint8_t *at(uint64_t gpa)
{
	return memory_ptr(&mem, gpa, 1);
}

static void flags_are(uint32_t ram)
{
	CHECK_EQ(fake[0].arg.flags, ram);
	CHECK_EQ(fake[1].arg.flags, ram);
	CHECK_EQ(fake[2].arg.flags, KVM_MEM_READONLY);
}

/* KVM's log alone: a method that sees nothing would be right, so the best one there is runs, idle. */
static void on_and_off(void)
{
	setup();
	CHECK(!dirty_on(&mem));
	CHECK_EQ(dirty_collect(&mem, why), -EINVAL);
	CHECK_STR(why, "dirty log: it is off");
	CHECK_EQ(dirty_disable(&mem, why), 0);
	flags_are(0);
	CHECK_EQ(dirty_enable(&mem, why), 0);
	CHECK(dirty_on(&mem));
	flags_are(KVM_MEM_LOG_DIRTY_PAGES);
	fake_guest_writes(0, 7);
	fake_calls = 0;
	CHECK_EQ(dirty_enable(&mem, why), 0); /* again: nothing is lost, nothing is done */
	CHECK_EQ(fake_calls, 0);
	if (dirty_method(&mem) != DIRTY_ALL)
		CHECK_STR(take(), "7+1");
	CHECK_EQ(dirty_disable(&mem, why), 0);
	flags_are(0);
	CHECK(!fake[0].log && !fake[1].log);
	fake_calls = 0;
	CHECK_EQ(dirty_disable(&mem, why), 0);
	CHECK_EQ(fake_calls, 0);
	CHECK(!dirty_on(&mem));
	CHECK_EQ(dirty_collect(&mem, why), -EINVAL);
	teardown();
}

static void kvm_runs(void)
{
	size_t words;

	setup();
	CHECK_EQ(dirty_enable(&mem, why), 0);
	if (dirty_method(&mem) == DIRTY_ALL) {
		printf("  skipped: this kernel tells nothing of writes\n");
		teardown();
		return;
	}
	CHECK_STR(take(), "");
	fake_guest_writes(0, 0);
	fake_guest_writes(0, 63);
	fake_guest_writes(0, 64);
	fake_guest_writes(0, 127);
	fake_guest_writes(0, PAGES - 1);
	fake_guest_writes(0, PAGES);	  /* KVM's bits beyond the end */
	fake_guest_writes(0, PAGES + 55);
	fake_guest_writes(1, 0);
	CHECK_EQ(dirty_collect(&mem, why), 0);
	CHECK_STR(kept(), "0+1 63+2 127+1 199+1 |0+1");
	CHECK_EQ(dirty_count(&mem), 6);
	CHECK_EQ(dirty_bitmap(&mem.region[0], &words)[3], 1ull << (PAGES - 1) % 64);
	CHECK_EQ(words, 4);
	/* Kept until the answer has arrived, and more comes to it. */
	fake_guest_writes(0, 1);
	CHECK_STR(kept(), "0+1 63+2 127+1 199+1 |0+1");
	stop_after = 2;
	runs[0] = '\0';
	CHECK_EQ(dirty_each(&mem, note, NULL), -ECANCELED);
	CHECK_STR(runs, "0+1 63+2");
	CHECK_STR(take(), "0+2 63+2 127+1 199+1 |0+1");
	CHECK_STR(take(), "");
	for (int i = 0; i < PAGES; i++)
		fake_guest_writes(1, (uint64_t)i);
	CHECK_STR(take(), "|0+200");
	CHECK_EQ(dirty_count(&mem), 0);
	teardown();
}

/* Every call to KVM fails once. */
static void failures(void)
{
	for (unsigned int n = 1; n <= 2; n++) {
		setup();
		fake_calls = 0;
		fake_fail_at = n;
		CHECK_EQ(dirty_enable(&mem, why), -ENOMEM);
		fake_fail_at = 0;
		CHECK(strstr(why, n == 1 ? "slot 0: ENOMEM" : "slot 1: ENOMEM"));
		CHECK(!dirty_on(&mem));
		flags_are(0);
		CHECK_EQ(dirty_enable(&mem, why), 0);

		/* Off fails: on again, and what KVM forgot counts as written. */
		fake_guest_writes(0, 3);
		fake_guest_writes(1, 4);
		fake_calls = 0;
		fake_fail_at = n;
		CHECK_EQ(dirty_disable(&mem, why), -ENOMEM);
		fake_fail_at = 0;
		CHECK(dirty_on(&mem));
		flags_are(KVM_MEM_LOG_DIRTY_PAGES);
		if (dirty_method(&mem) != DIRTY_ALL)
			CHECK_STR(take(), n == 1 ? "3+1 |4+1" : "0+200 |4+1");

		/* The second region's log can't be had: the first one's is not lost. */
		fake_guest_writes(0, 5);
		fake_guest_writes(1, 6);
		fake_calls = 0;
		fake_fail_at = n;
		CHECK_EQ(dirty_collect(&mem, why), -ENOMEM);
		fake_fail_at = 0;
		if (dirty_method(&mem) != DIRTY_ALL)
			CHECK_STR(take(), "5+1 |6+1");
		teardown();
	}
}

static void regions_come_and_go(void)
{
	struct region_spec spec = { .gpa = NEW_GPA, .size = 3 * page };
	struct region_spec rom = { .gpa = 2 * NEW_GPA, .size = page, .readonly = true };
	uint32_t slot, rom_slot;

	setup();
	CHECK_EQ(dirty_enable(&mem, why), 0);
	fake_guest_writes(0, 9);
	CHECK_EQ(region_add(&mem, &spec, &slot, why), 0);
	CHECK_EQ(region_add(&mem, &rom, &rom_slot, why), 0);
	CHECK_EQ(fake[slot].arg.flags, KVM_MEM_LOG_DIRTY_PAGES);
	CHECK_EQ(fake[rom_slot].arg.flags, KVM_MEM_READONLY);
	if (dirty_method(&mem) != DIRTY_ALL) {
		CHECK_STR(take(), "9+1 !0+3"); /* what is new was not in the base */
		at(NEW_GPA)[page] = 1;
		fake_guest_writes(slot, 2);
		CHECK_STR(take(), "!1+2");
		fake_guest_writes(1, 2);
	}
	CHECK_EQ(region_remove(&mem, slot, why), 0);
	if (dirty_method(&mem) != DIRTY_ALL)
		CHECK_STR(take(), "|2+1");
	/* One that fails at KVM leaves the log as it was. */
	fake_calls = 0;
	fake_fail_at = 1;
	CHECK_EQ(region_add(&mem, &spec, &slot, why), -ENOMEM);
	fake_fail_at = 0;
	CHECK_EQ(dirty_disable(&mem, why), 0);
	flags_are(0);
	CHECK_EQ(fake[rom_slot].arg.flags, KVM_MEM_READONLY);
	CHECK_EQ(region_add(&mem, &spec, &slot, why), 0);
	CHECK_EQ(fake[slot].arg.flags, 0);
	teardown();
}

/* What this process and the kernel write, by @method; false when the kernel doesn't have it. */
static bool own_writes(enum dirty_method method)
{
	int random = open("/dev/urandom", O_RDONLY);
	volatile uint8_t *p;
	uint8_t seen;
	char wanted[4096] = "";

	setup();
	/* Some are there before, some are not; and some are only ever read. */
	for (int i = 0; i < 50; i++)
		at(0)[(uint64_t)i * page] = 1;
	CHECK_EQ(dirty_enable_from(&mem, method, why), 0);
	if (dirty_method(&mem) != method) {
		teardown();
		close(random);
		return false;
	}
	CHECK_STR(take(), "");
	p = at(0);
	p[3 * page + 17] = 1;
	p[100 * page] = 1;
	seen = p[10 * page];
	CHECK_EQ(seen, 1);
	CHECK_EQ(read(random, at(0) + 49 * page, 2 * page), (ssize_t)(2 * page)); /* the kernel */
	at(GPA1)[(PAGES - 1) * page] = 1;
	fake_guest_writes(0, 4);
	CHECK_STR(take(), "3+2 49+2 100+1 |199+1");
	CHECK_STR(take(), "");
	p[3 * page] = 2;
	CHECK_STR(take(), "3+1");
	/* More runs than one call of the kernel's returns. */
	for (int i = 0; i < PAGES; i += 2) {
		p[(uint64_t)i * page] = 3;
		snprintf(wanted + strlen(wanted), sizeof(wanted) - strlen(wanted), "%s%d+1", i ? " " : "", i);
	}
	CHECK_STR(take(), wanted);
	/* Off, and the pages are as they were; on again, and it begins anew. */
	CHECK_EQ(dirty_disable(&mem, why), 0);
	p[0] = 4;
	CHECK_EQ(dirty_enable_from(&mem, method, why), 0);
	CHECK_STR(take(), "");
	p[0] = 5;
	CHECK_STR(take(), "0+1");
	CHECK_EQ(p[3 * page], 2);
	teardown();
	close(random);
	return true;
}

static void write_protection(void)
{
	if (!own_writes(DIRTY_WRITE_PROTECT))
		printf("  skipped: this kernel has no asynchronous write protection\n");
}

static void soft_dirty(void)
{
	if (!own_writes(DIRTY_SOFT))
		printf("  skipped: this kernel has no soft-dirty bits\n");
}

static void soft_dirty_model(void)
{
	fake_soft = true;
	CHECK(own_writes(DIRTY_SOFT));
	/* A clear that fails loses nothing. */
	setup();
	CHECK_EQ(dirty_enable_from(&mem, DIRTY_SOFT, why), 0);
	CHECK_STR(take(), "");
	at(0)[5 * page] = 9;
	clear_fails = true;
	CHECK_EQ(dirty_collect(&mem, why), -EPERM);
	CHECK(strstr(why, "clear_refs: EPERM"));
	clear_fails = false;
	CHECK_STR(take(), "5+1");
	CHECK_STR(take(), "");
	teardown();
	/* Nor is a kernel taken for one that has the bits because it takes the clear. */
	clear_fails = true;
	setup();
	CHECK_EQ(dirty_enable_from(&mem, DIRTY_SOFT, why), 0);
	CHECK_EQ(dirty_method(&mem), DIRTY_ALL);
	teardown();
	clear_fails = fake_soft = false;
}

/* A large region, so that a scan comes back in pieces. */
static void many_runs(void)
{
	struct region_spec spec = { .gpa = NEW_GPA, .size = 4096 * page };
	uint32_t slot;

	setup();
	CHECK_EQ(dirty_enable(&mem, why), 0);
	CHECK_EQ(region_add(&mem, &spec, &slot, why), 0);
	CHECK_EQ(dirty_collect(&mem, why), 0);
	dirty_clear(&mem);
	for (uint64_t i = 0; i < 4096; i += 2)
		at(NEW_GPA)[i * page] = 1;
	CHECK_EQ(dirty_collect(&mem, why), 0);
	CHECK_EQ(dirty_count(&mem), dirty_method(&mem) == DIRTY_ALL ? 4096 + 2 * PAGES : 2048);
	teardown();
}

static void nothing_to_tell_by(void)
{
	setup();
	CHECK_EQ(dirty_enable_from(&mem, DIRTY_ALL, why), 0);
	CHECK_STR(take(), "0+200 |0+200");
	CHECK_STR(take(), "0+200 |0+200");
	CHECK_EQ(dirty_disable(&mem, why), 0);
	teardown();
}

int main(void)
{
	page = (uint64_t)sysconf(_SC_PAGESIZE);
	log_set_fd(open("/dev/null", O_WRONLY), false);
	RUN(on_and_off);
	RUN(kvm_runs);
	RUN(failures);
	RUN(regions_come_and_go);
	RUN(write_protection);
	RUN(soft_dirty);
	RUN(soft_dirty_model);
	RUN(many_runs);
	RUN(nothing_to_tell_by);
	return TEST_RESULT();
}
