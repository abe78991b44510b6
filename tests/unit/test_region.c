/* SPDX-License-Identifier: MIT */
/* Memory regions at run time: what is refused, the order of the steps, and what a failed one leaves. */
#include "tests/unit/test.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include "tests/unit/fake_slots.h"
#include "vm/dirty.h"
#include "vm/log.h"
#include "vm/memory.h"
#include "vm/region.h"

#define RAM_SIZE (64 * page)
#define HIGH	 0x100000000ull

static uint64_t page;
static struct memory mem;
static char why[LOG_SENTENCE];
static uint32_t slot;
static char dir[] = "/tmp/region-XXXXXX", path[64];

static bool mmap_fails;

void *__real_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
	if (mmap_fails) {
		errno = ENOMEM;
		return MAP_FAILED;
	}
	return __real_mmap(addr, len, prot, flags, fd, offset);
}

static void setup(void)
{
	fake_reset();
	memory_init(&mem, FAKE_FD);
	mem.max_slots = 512;
	CHECK_EQ(memory_add_ram(&mem, 0, RAM_SIZE, MEMORY_ANON), 0);
	CHECK_EQ(memory_add_ram(&mem, HIGH, RAM_SIZE, MEMORY_ANON), 0);
}

static void teardown(void)
{
	CHECK_EQ(fake_mistakes, 0);
	dirty_fini(&mem);
	memory_fini(&mem);
	fake_reset();
}

/* Is it mapped, and can it be written? The kernel tells without a signal. */
static bool readable(const void *p)
{
	unsigned char vec;

	return !mincore((void *)((uintptr_t)p & -page), page, &vec);
}

static bool writable(void *p)
{
	int fd = open("/dev/zero", O_RDONLY);
	bool ok = read(fd, p, 1) == 1;

	close(fd);
	return ok;
}

static int add(uint64_t gpa, uint64_t size, bool readonly)
{
	struct region_spec spec = { .gpa = gpa, .size = size, .readonly = readonly };

	why[0] = '\0';
	return region_add(&mem, &spec, &slot, why);
}

static void add_list_remove(void)
{
	const uint64_t gpa = 2 * HIGH, rom_gpa = RAM_SIZE + page;
	uint8_t *p;

	setup();
	CHECK_EQ(add(gpa, 4 * page, false), 0);
	CHECK_EQ(slot, 2);
	CHECK_EQ(mem.ram_size, 2 * RAM_SIZE + 4 * page);
	p = memory_ptr(&mem, gpa, 4 * page);
	CHECK(p && writable(p) && writable(p + 4 * page - 1));
	CHECK(!memory_ptr(&mem, gpa, 4 * page + 1));
	CHECK_EQ(fake[2].arg.flags, 0);
	CHECK_EQ(fake[2].arg.userspace_addr, (uintptr_t)p);

	CHECK_EQ(add(rom_gpa, 2 * page, true), 0);
	CHECK_EQ(slot, 3);
	CHECK_EQ(fake[3].arg.flags, KVM_MEM_READONLY);
	CHECK(!memory_ptr(&mem, rom_gpa, 1)); /* no device is to write there */
	CHECK(!writable((void *)(uintptr_t)fake[3].arg.userspace_addr));
	CHECK_EQ(mem.nr, 3);
	CHECK_EQ(mem.nr_rom, 1);

	CHECK_EQ(region_list(&mem, 0)->gpa, 0);
	CHECK_EQ(region_list(&mem, 1)->gpa, rom_gpa);
	CHECK(region_list(&mem, 1)->readonly);
	CHECK_EQ(region_list(&mem, 2)->gpa, HIGH);
	CHECK_EQ(region_list(&mem, 3)->gpa, gpa);
	CHECK(!region_list(&mem, 4));

	CHECK_EQ(region_remove(&mem, 0, why), -EPERM);
	CHECK_STR(why, "memory: slot 0 is the machine's main RAM, which stays");
	CHECK_EQ(region_remove(&mem, 9, why), -ENOENT);
	CHECK_STR(why, "memory: there is no region in slot 9");
	CHECK_EQ(region_remove(&mem, 2, why), 0);
	CHECK(!memory_ptr(&mem, gpa, 1));
	CHECK(!readable(p));
	CHECK_EQ(mem.ram_size, 2 * RAM_SIZE);
	CHECK_EQ(region_remove(&mem, 2, why), -ENOENT);
	/* Slots are used again, the lowest first. */
	CHECK_EQ(add(gpa, page, true), 0);
	CHECK_EQ(slot, 2);
	CHECK_EQ(region_remove(&mem, 3, why), 0);
	CHECK_EQ(region_remove(&mem, 2, why), 0);
	CHECK_EQ(fake_nr(), 2);
	teardown();
}

static void refused(uint64_t gpa, uint64_t size, int err, const char *words)
{
	for (int readonly = 0; readonly < 2; readonly++) {
		unsigned int calls = fake_calls, nr = mem.nr, nr_rom = mem.nr_rom;

		CHECK_EQ(add(gpa, size, readonly), err);
		CHECK(strstr(why, words));
		if (!strstr(why, words))
			printf("  said: %s\n", why);
		CHECK_EQ(fake_calls, calls);
		CHECK_EQ(mem.nr, nr);
		CHECK_EQ(mem.nr_rom, nr_rom);
	}
}

static void places(void)
{
	setup();
	CHECK_EQ(add(2 * HIGH, 4 * page, false), 0);
	CHECK_EQ(add(3 * HIGH, 4 * page, true), 0);
	refused(4 * HIGH, 0, -EINVAL, "empty");
	refused(4 * HIGH + 1, page, -EINVAL, "multiples");
	refused(4 * HIGH, page + 512, -EINVAL, "multiples");
	refused(4 * HIGH, page / 2, -EINVAL, "multiples");
	refused(-page, 2 * page, -EINVAL, "last address");
	refused(2 * page, -page, -EINVAL, "last address");
	/* from below, inside, the same, around, from above */
	refused(HIGH - page, 2 * page, -EEXIST, "main RAM");
	refused(HIGH + page, page, -EEXIST, "main RAM");
	refused(HIGH, RAM_SIZE, -EEXIST, "main RAM");
	refused(HIGH - page, RAM_SIZE + 2 * page, -EEXIST, "main RAM");
	refused(RAM_SIZE - page, 2 * page, -EEXIST, "main RAM");
	refused(2 * HIGH - page, 2 * page, -EEXIST, "the region at 0x200000000");
	refused(3 * HIGH + 3 * page, 2 * page, -EEXIST, "the region at 0x300000000");
	refused(page, 10 * HIGH, -EEXIST, "main RAM");
	/* Side by side is right, also at the end of all addresses. */
	CHECK_EQ(add(RAM_SIZE, page, false), 0);
	CHECK_EQ(add(2 * HIGH - page, page, true), 0);
	CHECK_EQ(add(3 * HIGH + 4 * page, page, false), 0);
	CHECK_EQ(add(-page, page, false), 0);
	CHECK(memory_ptr(&mem, -page, page));
	CHECK(!memory_ptr(&mem, -page, page + 1));
	refused(-page, page, -EEXIST, "the region");
	teardown();
}

static void slots_run_out(void)
{
	setup();
	mem.max_slots = 5;
	for (int i = 0; i < 3; i++)
		CHECK_EQ(add((2 + i) * HIGH, page, i & 1), 0);
	refused(9 * HIGH, page, -ENOSPC, "KVM has 5 memory slots");
	CHECK_EQ(region_remove(&mem, 3, why), 0);
	CHECK_EQ(add(9 * HIGH, page, true), 0);
	CHECK_EQ(slot, 3);
	teardown();

	setup();
	for (int i = 2; i < MEMORY_MAX_REGIONS; i++)
		CHECK_EQ(add((2 + i) * HIGH, page, i % 2), 0);
	CHECK_EQ(add(1000 * HIGH, page, false), -ENOSPC);
	CHECK(strstr(why, "256 regions"));
	CHECK_EQ(add(1000 * HIGH, page, true), -ENOSPC);
	teardown();
}

/* --- a vhost that follows ---------------------------------------------------------------------------- */

static struct table {
	unsigned int nr, told;
	uint64_t gpa[MEMORY_MAX_REGIONS];
	int refuse; /* what the next call answers */
	bool slots_followed; /* KVM had the region when it came, or had it still */
} table[2];

static int follow(void *opaque, const struct memory *m)
{
	struct table *t = opaque;
	int ret = t->refuse;

	t->told++;
	t->refuse = 0;
	t->slots_followed = fake_nr() >= m->nr;
	t->nr = m->nr;
	for (unsigned int i = 0; i < m->nr; i++)
		t->gpa[i] = m->region[i].gpa;
	return ret;
}

static struct memory_watch watch[2] = {
	{ .changed = follow, .opaque = &table[0] },
	{ .changed = follow, .opaque = &table[1], .vhost = true },
};

static void check_tables(void)
{
	for (int k = 0; k < 2; k++) {
		CHECK_EQ(table[k].nr, mem.nr);
		for (unsigned int i = 0; i < mem.nr; i++)
			CHECK_EQ(table[k].gpa[i], mem.region[i].gpa);
		CHECK(table[k].slots_followed);
	}
}

static void vhost_follows(void)
{
	setup();
	memset(table, 0, sizeof(table));
	CHECK_EQ(region_watch(&mem, &watch[0]), 0);
	CHECK_EQ(region_watch(&mem, &watch[1]), 0);
	CHECK_EQ(add(2 * HIGH, page, false), 0);
	check_tables();
	CHECK_EQ(add(3 * HIGH, page, true), 0); /* not told */
	CHECK_EQ(table[0].told, 1);
	CHECK_EQ(region_remove(&mem, 3, why), 0);
	CHECK_EQ(table[1].told, 1);
	CHECK_EQ(region_remove(&mem, 2, why), 0);
	check_tables();
	CHECK_EQ(table[0].told, 2);

	/* 64 with vhost, the next refused before KVM hears of it; read-only ones don't count. */
	for (int i = 2; i < MEMORY_VHOST_REGIONS; i++)
		CHECK_EQ(add((2 + i) * HIGH, page, false), 0);
	check_tables();
	CHECK_EQ(fake_nr(), MEMORY_VHOST_REGIONS);
	fake_calls = 0;
	CHECK_EQ(add(900 * HIGH, page, false), -E2BIG);
	CHECK(strstr(why, "vhost takes no more than 64"));
	CHECK_EQ(fake_calls, 0);
	CHECK_EQ(add(900 * HIGH, page, true), 0);
	region_unwatch(&mem, &watch[1]);
	CHECK_EQ(add(901 * HIGH, page, false), 0);
	CHECK_EQ(region_watch(&mem, &watch[1]), -E2BIG);
	CHECK_EQ(mem.watches == &watch[0] && !watch[0].next, true);
	teardown();
}

/* --- every step fails once ----------------------------------------------------------------------------- */

static const uint8_t *gone;
static bool was_there;

/* KVM lets go of a region before it is unmapped. */
static void see_deletion(const struct kvm_userspace_memory_region *arg)
{
	if (!arg->memory_size)
		was_there = readable(gone);
}

static int mappings(void)
{
	FILE *f = fopen("/proc/self/maps", "r");
	char line[512];
	int n = 0;

	while (fgets(line, sizeof(line), f))
		n += !strstr(line, "heap") && !strstr(line, "stack");
	fclose(f);
	return n;
}

static bool same(const struct memory_region *a, const struct memory_region *b)
{
	return a->gpa == b->gpa && a->size == b->size && a->hva == b->hva && a->slot == b->slot &&
	       a->readonly == b->readonly && a->added == b->added && a->file == b->file && a->dirty == b->dirty;
}

static void unchanged(const struct memory *before, unsigned int slots)
{
	CHECK_EQ(mem.nr, before->nr);
	CHECK_EQ(mem.nr_rom, before->nr_rom);
	CHECK_EQ(mem.ram_size, before->ram_size);
	for (unsigned int i = 0; i < mem.nr; i++)
		CHECK(same(&mem.region[i], &before->region[i]));
	CHECK(mem.watches == before->watches);
	CHECK_EQ(fake_nr(), slots);
	for (unsigned int i = 0; i < mem.nr; i++)
		CHECK(readable(mem.region[i].hva));
}

static void steps_fail(void)
{
	static struct memory before;
	struct region_spec spec = { .gpa = 2 * HIGH, .size = 2 * page };
	int maps;

	setup();
	memset(table, 0, sizeof(table));
	CHECK_EQ(region_watch(&mem, &watch[0]), 0);
	CHECK_EQ(region_watch(&mem, &watch[1]), 0); /* is told first */
	CHECK_EQ(region_add(&mem, &spec, &slot, why), 0);
	CHECK_EQ(region_remove(&mem, slot, why), 0);
	before = mem;
	maps = mappings();

	mmap_fails = true;
	CHECK_EQ(region_add(&mem, &spec, &slot, why), -ENOMEM);
	mmap_fails = false;
	CHECK(strstr(why, "mmap: ENOMEM"));
	unchanged(&before, 2);
	fake_calls = 0;
	fake_fail_at = 1;
	CHECK_EQ(region_add(&mem, &spec, &slot, why), -ENOMEM);
	fake_fail_at = 0;
	CHECK(strstr(why, "KVM refuses it: ENOMEM"));
	unchanged(&before, 2);
	for (int k = 0; k < 2; k++) {
		table[k].refuse = -EBUSY;
		CHECK_EQ(region_add(&mem, &spec, &slot, why), -EBUSY);
		CHECK(strstr(why, "a device refuses it: EBUSY"));
		unchanged(&before, 2);
		check_tables();
	}
	CHECK_EQ(mappings(), maps);

	CHECK_EQ(region_add(&mem, &spec, &slot, why), 0);
	gone = memory_ptr(&mem, 2 * HIGH, 1);
	before = mem;
	for (int k = 0; k < 2; k++) {
		table[k].refuse = -EBUSY;
		CHECK_EQ(region_remove(&mem, slot, why), -EBUSY);
		CHECK(strstr(why, "a device still needs it: EBUSY"));
		unchanged(&before, 3);
		check_tables();
	}
	fake_calls = 0;
	fake_fail_at = 1;
	CHECK_EQ(region_remove(&mem, slot, why), -ENOMEM);
	fake_fail_at = 0;
	CHECK(strstr(why, "KVM does not let it go: ENOMEM"));
	unchanged(&before, 3);
	check_tables();
	was_there = false;
	fake_hook = see_deletion;
	CHECK_EQ(region_remove(&mem, slot, why), 0);
	CHECK(was_there);
	CHECK(!readable(gone));
	CHECK_EQ(mappings(), maps);
	teardown();
}

/* --- files ----------------------------------------------------------------------------------------------- */

static uint8_t byte_of_file(off_t at)
{
	int fd = open(path, O_RDONLY);
	uint8_t b = 0;

	CHECK_EQ(pread(fd, &b, 1, at), 1);
	close(fd);
	return b;
}

static int add_file(const char *name, uint64_t size, uint64_t offset, bool readonly, bool shared)
{
	struct region_spec spec = {
		.gpa = 2 * HIGH, .size = size, .path = name, .offset = offset, .readonly = readonly, .shared = shared,
	};

	return region_add(&mem, &spec, &slot, why);
}

static void files(void)
{
	char other[80];
	uint8_t *p;
	int fd;

	setup();
	snprintf(path, sizeof(path), "%s/file", dir);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	CHECK_EQ(ftruncate(fd, (off_t)(4 * page + 100)), 0);
	CHECK_EQ(pwrite(fd, "x", 1, (off_t)page), 1);
	close(fd);

	CHECK_EQ(add_file(path, 2 * page, page, false, false), 0);
	p = memory_ptr(&mem, 2 * HIGH, page);
	CHECK_EQ(p[0], 'x');
	p[0] = 'y';
	CHECK_EQ(byte_of_file((off_t)page), 'x');
	CHECK_EQ(region_remove(&mem, slot, why), 0);

	CHECK_EQ(add_file(path, 2 * page, page, false, true), 0);
	p = memory_ptr(&mem, 2 * HIGH, page);
	p[0] = 'z';
	CHECK_EQ(byte_of_file((off_t)page), 'z');
	CHECK_EQ(region_remove(&mem, slot, why), 0);

	CHECK_EQ(add_file(path, 4 * page, 0, true, false), 0);
	p = (uint8_t *)(uintptr_t)fake[slot].arg.userspace_addr;
	CHECK_EQ(p[page], 'z');
	CHECK(!writable(p));
	CHECK_EQ(region_remove(&mem, slot, why), 0);

	fake_calls = 0;
	CHECK_EQ(add_file(path, 5 * page, 0, false, false), -EINVAL);
	CHECK(strstr(why, "too few"));
	CHECK_EQ(add_file(path, page, 4 * page, true, false), -EINVAL);
	CHECK_EQ(add_file(path, page, -page, true, false), -EINVAL);
	CHECK_EQ(add_file(path, page, page / 2, true, false), -EINVAL);
	CHECK(strstr(why, "multiples"));
	CHECK_EQ(add_file(path, page, 0, true, true), -EINVAL);
	CHECK_EQ(add_file(NULL, page, 0, false, true), -EINVAL);
	CHECK(strstr(why, "shared"));
	CHECK_EQ(add_file("/dev/zero", page, 0, false, false), -EINVAL);
	CHECK(strstr(why, "not a regular file"));
	CHECK_EQ(add_file(dir, page, 0, true, false), -EINVAL);
	snprintf(other, sizeof(other), "%s/fifo", dir);
	CHECK_EQ(mkfifo(other, 0600), 0);
	CHECK_EQ(add_file(other, page, 0, true, false), -EINVAL);
	unlink(other);
	CHECK_EQ(add_file(other, page, 0, true, false), -ENOENT);
	CHECK(strstr(why, "fifo: ENOENT"));
	mmap_fails = true;
	CHECK_EQ(add_file(path, page, 0, true, false), -ENOMEM);
	mmap_fails = false;
	CHECK_EQ(fake_calls, 0);
	unlink(path);
	CHECK_EQ(mem.nr, 2);
	teardown();
}

int main(void)
{
	page = (uint64_t)sysconf(_SC_PAGESIZE);
	log_set_fd(open("/dev/null", O_WRONLY), false);
	if (!mkdtemp(dir))
		return 1;
	RUN(add_list_remove);
	RUN(places);
	RUN(slots_run_out);
	RUN(vhost_follows);
	RUN(steps_fail);
	RUN(files);
	rmdir(dir);
	return TEST_RESULT();
}
