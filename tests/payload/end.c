/* SPDX-License-Identifier: MIT */
/* The ways to end: test=NAME. */
#include "tests/payload/payload.h"

static _Noreturn void sleep_forever(void)
{
	for (;;) {
		machine_interrupts(false);
		machine_sleep();
	}
}

static void power_button(void)
{
	unsigned int gsi = machine_button();

	irq_on(gsi);
	say("ready\n");
	machine_interrupts(false);
	while (!irq_count[gsi]) {
		machine_sleep();
		machine_interrupts(false);
	}
	machine_interrupts(true);
	machine_button_check();
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
		machine_exception();
	}
	if (!strcmp(test, "button"))
		power_button();
	say("ready\n");
	if (!strcmp(test, "reset"))
		machine_reset(0);
	if (!strcmp(test, "other-reset"))
		machine_reset(1);
	if (!strcmp(test, "panic"))
		machine_panic();
	if (!strcmp(test, "sleep"))
		sleep_forever();
	if (!strcmp(test, "spin")) {
		machine_interrupts(false);
		while (spin)
			;
	}
	end_machine(test);
	die("end: no such test");
}
