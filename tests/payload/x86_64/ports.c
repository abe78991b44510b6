/* SPDX-License-Identifier: MIT */
/*
 * Port I/O of every width, plain and by string instructions, inside a device, between devices and
 * across a device's end.
 */
#include "tests/payload/payload.h"
#include "tests/payload/x86_64/machine.h"

#define NOWHERE 0x1230

/* COM1's registers. */
#define COM1(reg) (LAYOUT_COM1 + UART_##reg)

static void plain(void)
{
	outb(COM1(SCR), 0xa5);
	check_eq(inb(COM1(SCR)), 0xa5, "byte out and in");
	outw(COM1(MSR), 0x3c00); /* MSR takes nothing, SCR does */
	check_eq(inb(COM1(SCR)), 0x3c, "word out reaches both registers");
	check_eq(inw(COM1(MSR)) >> 8, 0x3c, "word in");
	outb(COM1(MCR), 0x08);
	outl(COM1(MCR), 0x69000003);
	check_eq(inl(COM1(MCR)) & 0xff0000ff, 0x69000003, "dword out and in");
	outb(COM1(MCR), 0x0b);
}

static void nowhere(void)
{
	check_eq(inb(NOWHERE), 0xff, "unclaimed byte");
	check_eq(inw(NOWHERE), 0xffff, "unclaimed word");
	check_eq(inl(NOWHERE), 0xffffffff, "unclaimed dword");
	outb(NOWHERE, 1);
	outw(NOWHERE, 1);
	outl(NOWHERE, 1);
	check_eq(inl(0xfffc), 0xffffffff, "last port");
}

/* What is not all a device's is nobody's. */
static void straddle(void)
{
	outb(COM1(SCR), 0x11);
	check_eq(inw(COM1(SCR)), 0xffff, "word across a range's end reads ones");
	check_eq(inl(COM1(LSR)), 0xffffffff, "dword across a range's end reads ones");
	outw(COM1(SCR), 0x2222);
	check_eq(inb(COM1(SCR)), 0x11, "word across a range's end writes nothing");
	check_eq(inw(COM1(DATA) - 1), 0xffff, "word across a range's start reads ones");
}

static void strings(void)
{
	static const char text[] = "string: the quick brown fox jumps over the lazy dog 0123456789\n";
	static const uint16_t words[] = { 0x1100, 0x2200, 0x3300, 0x7700 };
	static uint8_t buf[64];
	bool good = true;

	machine_write(text, sizeof(text) - 1);

	rep_outsw(COM1(MSR), words, ARRAY_SIZE(words));
	check_eq(inb(COM1(SCR)), 0x77, "rep outsw: all elements, in order");
	memset(buf, 0, sizeof(buf));
	rep_insb(COM1(SCR), buf, 33);
	for (unsigned int i = 0; i < 33; i++)
		good &= buf[i] == 0x77;
	check(good && !buf[33], "rep insb");
	rep_insw(COM1(MSR), buf, 8);
	good = true;
	for (unsigned int i = 1; i < 16; i += 2)
		good &= buf[i] == 0x77;
	check(good, "rep insw");
	memset(buf, 0, sizeof(buf));
	rep_insl(NOWHERE, buf, 5);
	good = true;
	for (unsigned int i = 0; i < 20; i++)
		good &= buf[i] == 0xff;
	check(good && !buf[20], "rep insl of an unclaimed port");
	rep_outsb(COM1(DATA), text, 0);
	rep_insb(COM1(SCR), buf, 0);
	check(buf[0] == 0xff, "rep of count 0");
}

static void backwards(void)
{
	static const char text[] = "\nsdrawkcab :gnirts";
	const char *last = text + sizeof(text) - 2;
	size_t n = sizeof(text) - 1;

	__asm__ volatile("std; rep outsb; cld" : "+S"(last), "+c"(n) : "d"((uint16_t)COM1(DATA)) : "memory");
	check_eq(n, 0, "rep outsb downwards");
}

static uint8_t cmos(uint8_t index)
{
	outb(LAYOUT_CMOS, index);
	return inb(LAYOUT_CMOS + 1);
}

static bool is_bcd(uint8_t v, uint8_t max)
{
	return (v & 0xf) <= 9 && v <= max;
}

static void platform(void)
{
	check_eq(cmos(0x0d), 0x80, "clock: valid");
	check(is_bcd(cmos(0), 0x59) && is_bcd(cmos(2), 0x59) && is_bcd(cmos(4), 0x23), "clock: time");
	check(cmos(7) && is_bcd(cmos(7), 0x31) && cmos(8) && is_bcd(cmos(8), 0x12), "clock: date");
	check_eq(cmos(0x32), 0x20, "clock: century");
	check_eq(inb(LAYOUT_I8042_CMD), 0, "i8042 status");
	check(inb(LAYOUT_PVPANIC) & 1, "pvpanic offers its event");
	check_eq(inl(LAYOUT_GED), 0, "no event waits");
	check_eq(inb(LAYOUT_SLEEP_CTL), 0, "sleep control reads 0");
	/* Values that mean nothing there: still running. */
	outb(LAYOUT_SLEEP_CTL, 0x14);
	outb(LAYOUT_SLEEP_CTL, 0x20);
	outw(LAYOUT_SLEEP_CTL, 0x3434);
	outb(LAYOUT_RESET, 0);
	outb(LAYOUT_RESET, 2);
	outl(LAYOUT_RESET, 1);
	outb(LAYOUT_I8042_CMD, 0xaa);
	outb(LAYOUT_PVPANIC, 0);
	check(true, "power control ignores what means nothing");
}

void payload_main(void)
{
	plain();
	nowhere();
	straddle();
	strings();
	backwards();
	platform();
	done();
}
