/* SPDX-License-Identifier: MIT */
/* The end that only this architecture has. */
#include "tests/payload/payload.h"

static void triple_fault(void)
{
	static const struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) nothing = { 0, 0 };

	__asm__ volatile("lidt %0; ud2" : : "m"(nothing));
}

void end_machine(const char *test)
{
	if (!strcmp(test, "triple"))
		triple_fault();
}
