/* SPDX-License-Identifier: MIT */
/* The clock, the GPIO and pvpanic, and what means nothing to them. */
#include "tests/payload/aarch64/machine.h"
#include "tests/payload/payload.h"

#define PERIPH_ID 0xfe0

static uint32_t id(uint64_t base)
{
	uint32_t v = 0;

	for (unsigned int i = 0; i < 4; i++)
		v |= (read32(base + PERIPH_ID + 4 * i) & 0xff) << 8 * i;
	return v;
}

static uint32_t cell_id(uint64_t base)
{
	uint32_t v = 0;

	for (unsigned int i = 0; i < 4; i++)
		v |= (read32(base + 0xff0 + 4 * i) & 0xff) << 8 * i;
	return v;
}

static void clock(void)
{
	uint64_t end = machine_usec() + 1500000;
	uint32_t first = read32(LAYOUT_RTC_BASE), now;

	say("clock: %u\n", first);
	check_eq(id(LAYOUT_RTC_BASE) & 0xfffff, 0x41031, "clock: identification");
	check_eq(cell_id(LAYOUT_RTC_BASE), 0xb105f00d, "clock: PrimeCell");
	check_eq(read32(LAYOUT_RTC_BASE + 0x0c), 1, "clock: runs");
	write32(LAYOUT_RTC_BASE + 0x0c, 0);
	check_eq(read32(LAYOUT_RTC_BASE + 0x0c), 1, "clock: can't be stopped");
	while (machine_usec() < end)
		machine_relax();
	now = read32(LAYOUT_RTC_BASE);
	check(now > first && now - first < 60, "clock: goes on");
	write32(LAYOUT_RTC_BASE + 0x04, 0x12345678);
	check_eq(read32(LAYOUT_RTC_BASE + 0x04), 0x12345678, "clock: match register");
}

static void gpio(void)
{
	uint64_t base = LAYOUT_GPIO_BASE;

	check_eq(id(base) & 0xfffff, 0x41061, "GPIO: identification");
	check_eq(cell_id(base), 0xb105f00d, "GPIO: PrimeCell");
	check_eq(read32(base + 0x400), 0, "GPIO: all pins are inputs");
	check_eq(read32(base + 0x3fc), 0, "GPIO: the button is not pressed");
	write32(base + 0x410, 0xff);
	check_eq(read32(base + 0x410), 0xff, "GPIO: interrupt mask");
	check_eq(read32(base + 0x418), 0, "GPIO: none waits");
	write32(base + 0x400, 0xf0);
	write32(base + 0x3fc, 0xff);
	check_eq(read32(base + 0x3fc), 0xf0, "GPIO: outputs keep what is written, inputs don't");
	write32(base + (0x30 << 2), 0);
	check_eq(read32(base + 0x3fc), 0xc0, "GPIO: the address masks");
	write32(base + 0x400, 0);
	write32(base + 0x410, 0);
}

static void pvpanic(void)
{
	check(read8(LAYOUT_PVPANIC_BASE) & 1, "pvpanic offers its event");
	write8(LAYOUT_PVPANIC_BASE, 0);
	check_eq(read32(LAYOUT_PVPANIC_BASE + 0x100), 0xffffffff, "behind it is nothing");
}

/* Every register, every width: nothing of it may end the machine. */
static void all_widths(uint64_t base)
{
	for (uint64_t at = base; at < base + 0x1000; at += at < base + 0x20 || at >= base + 0x3f8 ? 4 : 64) {
		(void)read8(at);
		(void)read16(at);
		(void)read32(at);
		(void)read64(at);
		write8(at, 0xff);
		write16(at, 0xffff);
		write32(at, 0xffffffff);
		write64(at, ~0ull);
	}
}

void payload_main(void)
{
	clock();
	gpio();
	pvpanic();
	all_widths(LAYOUT_RTC_BASE);
	all_widths(LAYOUT_GPIO_BASE);
	check(true, "every register, every width");
	done();
}
