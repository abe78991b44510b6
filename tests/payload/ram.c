/* SPDX-License-Identifier: MIT */
/*
 * mem=MIB: the map says so much, all of it is RAM at both ends of every range, and beyond it is
 * nothing.
 */
#include "tests/payload/payload.h"

static bool touch(uint64_t at)
{
	uint64_t old = read64(at);
	bool good;

	write64(at, at ^ 0x5555aaaa5555aaaaull);
	good = read64(at) == (at ^ 0x5555aaaa5555aaaaull);
	write64(at, old);
	return good;
}

void payload_main(void)
{
	uint64_t size = arg_number("mem", 0) * MIB, sum = 0, end = 0;
	unsigned int bad = 0;

	for (unsigned int i = 0; i < boot.nr_ranges; i++) {
		const struct boot_range *r = &boot.range[i];

		say("map: 0x%lx to 0x%lx, type %u\n", r->base, r->base + r->size - 1, r->type);
		if (r->type != 1)
			continue;
		check(r->base >= end, "in order, no overlap");
		end = r->base + r->size;
		sum += r->size;
		/* All that lies in the first page is this test's to disturb, if it puts it back. */
		if (!touch(r->base) || !touch(end - 8)) {
			say("not RAM\n");
			bad++;
		}
	}
	check_eq(bad, 0, "every range is RAM at its first and last page");
	check_eq(sum, size - machine_ram_lost(), "size in the map");
	check_eq(end, machine_map_end(size), "end in the map");
	write64(machine_ram_end(size), 0x1234);
	check_eq(read64(machine_ram_end(size)), ~0ull, "beyond the end is nothing");
	check_eq(read64(machine_hole()), ~0ull, "in the hole is nothing");
	check(!touch(machine_hole()), "in the hole nothing stays");
	if (size >= 64 * MIB) {
		/* One word in each of many pages, each its own. */
		for (uint64_t at = 16 * MIB; at < 64 * MIB; at += 256 * 1024)
			write64(machine_ram(at), at * 3);
		for (uint64_t at = 16 * MIB; at < 64 * MIB; at += 256 * 1024)
			bad += read64(machine_ram(at)) != at * 3;
		check_eq(bad, 0, "pages keep what is written");
	}
	done();
}
