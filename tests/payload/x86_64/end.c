/* SPDX-License-Identifier: MIT */
/* The ways to end: test=NAME. */
#include "tests/payload/payload.h"
#include "tests/payload/x86_64/machine.h"

static _Noreturn void sleep_forever(void)
{
	for (;;)
		wait_for_interrupt();
}

static void triple_fault(void)
{
	static const struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) nothing = { 0, 0 };

	__asm__ volatile("lidt %0; ud2" : : "m"(nothing));
}

/* ACPI's generic event device: the interrupt says that there is an event, the register which. */
static void power_button(void)
{
	uint32_t events;

	irq_on(LAYOUT_GED_GSI);
	say("ready\n");
	interrupts(false);
	while (!irq_count[LAYOUT_GED_GSI]) {
		wait_for_interrupt();
		interrupts(false);
	}
	interrupts(true);
	events = inl(LAYOUT_GED);
	check_eq(events, LAYOUT_GED_POWER, "power button event");
	check_eq(inl(LAYOUT_GED), 0, "read once");
	settle();
	check_eq(irq_count[LAYOUT_GED_GSI], 1, "one interrupt");
	done();
}

static volatile bool spin = true;

void payload_main(void)
{
	const char *test = arg("test", "off");

	if (!strcmp(test, "off"))
		done();
	if (!strcmp(test, "exception")) {
		say("an exception comes\n");
		__asm__ volatile("ud2");
	}
	if (!strcmp(test, "ged"))
		power_button();
	say("ready\n");
	if (!strcmp(test, "reset"))
		machine_reset(0);
	if (!strcmp(test, "i8042"))
		machine_reset(1);
	if (!strcmp(test, "panic"))
		machine_panic();
	if (!strcmp(test, "triple"))
		triple_fault();
	if (!strcmp(test, "hlt"))
		sleep_forever();
	if (!strcmp(test, "spin")) {
		interrupts(false);
		while (spin)
			;
	}
	die("end: no such test");
}
