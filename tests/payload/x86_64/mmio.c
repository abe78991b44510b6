/* SPDX-License-Identifier: MIT */
/* Accesses that only this architecture has, and its interrupt controllers' pages. */
#include "tests/payload/payload.h"
#include "tests/payload/x86_64/machine.h"

/* An access over a page's end is two, each of its own page. */
static void across(void)
{
	uint64_t end = machine_virtio_base(2);

	check_eq(read64(end - 4), 0xffffffff00000000, "quadword across the last page's end");
	check_eq(read64(machine_virtio_base(1) - 4), 0x7472697600000000, "quadword across two pages");
}

void mmio_machine(void)
{
	across();
	check_eq(ioapic_read(1) >> 16 & 0xff, 23, "IOAPIC: 24 pins");
	check_eq(lapic_read(LAPIC_ID), 0, "LAPIC: id 0");
}
