/* SPDX-License-Identifier: MIT */
/*
 * What the loader hands over, printed for the script to compare, and checked as far as it can be
 * from here.
 */
#include "tests/payload/payload.h"

static bool sums_to_zero(uint64_t at, uint32_t len)
{
	uint8_t sum = 0;

	while (len--)
		sum = (uint8_t)(sum + read8(at++));
	return !sum;
}

static bool in_ram(uint64_t at, uint64_t len)
{
	for (unsigned int i = 0; i < boot.nr_ranges; i++) {
		const struct boot_range *r = &boot.range[i];

		if (r->type == 1 && at >= r->base && len <= r->size && at - r->base <= r->size - len)
			return true;
	}
	return false;
}

/* Every table is whole and lies where the map does not say RAM. */
static void acpi(void)
{
	uint64_t xsdt = read64(boot.rsdp + 24);
	uint32_t len = read32(xsdt + 4), bad = 0;

	check(!memcmp((void *)boot.rsdp, "RSD PTR ", 8) && sums_to_zero(boot.rsdp, 20) && sums_to_zero(boot.rsdp, 36),
	      "RSDP");
	check(!memcmp((void *)xsdt, "XSDT", 4) && sums_to_zero(xsdt, len), "XSDT");
	for (uint32_t at = 36; at + 8 <= len; at += 8) {
		uint64_t table = read64(xsdt + at);

		say("ACPI table %c%c%c%c\n", read8(table), read8(table + 1), read8(table + 2), read8(table + 3));
		bad += !sums_to_zero(table, read32(table + 4)) || in_ram(table, read32(table + 4));
	}
	check_eq(bad, 0, "ACPI tables: sums, and not in RAM that is free for use");
}

void payload_main(void)
{
	say("entered: %s\n", boot.how);
	say("cmdline: %s\n", boot.cmdline);
	say("initrd: %lu %u\n", boot.initrd_size, checksum((const uint8_t *)boot.initrd, boot.initrd_size));
	if (boot.initrd_size)
		check(in_ram(boot.initrd, boot.initrd_size), "initrd lies in RAM");
	if (boot.rsdp)
		acpi();
	done();
}
