/* SPDX-License-Identifier: MIT */
/* The ends that only this architecture has. */
#include "tests/payload/aarch64/machine.h"
#include "tests/payload/payload.h"

static void off(unsigned int i)
{
	machine_off();
}

static void reset(unsigned int i)
{
	machine_reset(0);
}

/* By another CPU, while this one spins. */
static _Noreturn void from_another(void (*fn)(unsigned int))
{
	if (nr_cpus < 2 || cpu_on(1, fn))
		die("second CPU does not start");
	for (;;)
		machine_relax();
}

void end_machine(const char *test)
{
	if (!strcmp(test, "cpu-off")) /* the last one: nothing runs any more, and nothing ends */
		psci(PSCI_CPU_OFF, 0, 0, 0);
	if (!strcmp(test, "off-by-2nd"))
		from_another(off);
	if (!strcmp(test, "reset-by-2nd"))
		from_another(reset);
}
