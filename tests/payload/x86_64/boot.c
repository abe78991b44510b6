/* SPDX-License-Identifier: MIT */
/* The ACPI tables that the loader leaves. */
#include "tests/payload/payload.h"

static bool sums_to_zero(uint64_t at, uint32_t len)
{
	uint8_t sum = 0;

	while (len--)
		sum = (uint8_t)(sum + read8(at++));
	return !sum;
}

/* Every table is whole and lies where the map does not say RAM. */
void boot_machine(void)
{
	uint64_t xsdt;
	uint32_t len, bad = 0;

	if (!check(boot.rsdp, "there is an RSDP"))
		return;
	xsdt = read64(boot.rsdp + 24);
	len = read32(xsdt + 4);
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
