/* SPDX-License-Identifier: MIT */
/* The generic timer's two interrupts. */
#include "tests/payload/aarch64/machine.h"
#include "tests/payload/payload.h"
#include "tests/payload/serial.h"

#define TICKS 10

static volatile uint32_t ticks;

static void on_virtual(void)
{
	ticks++;
	sysreg_write("cntv_tval_el0", sysreg_read("cntfrq_el0") / 100);
}

static void on_physical(void)
{
	ticks++;
	sysreg_write("cntp_tval_el0", sysreg_read("cntfrq_el0") / 100);
}

static void sleep_ticks(void)
{
	while (ticks < TICKS) {
		machine_interrupts(false);
		if (ticks < TICKS)
			machine_sleep();
	}
	machine_interrupts(true);
}

/* 10 ms each; @index: where the tree has it: secure, physical, virtual, hypervisor's. */
static void timer(unsigned int index, void (*hook)(void), const char *what)
{
	const uint8_t *node = tree_node(NULL, "arm,armv8-timer", 0);
	unsigned int intid = LAYOUT_PPI_BASE + (node ? tree_cell(node, "interrupts", 3 * index + 1) : 0);
	uint64_t start = machine_usec(), spent;

	say("%s: INTID %u\n", what, intid);
	if (!check(intid > LAYOUT_PPI_BASE && intid < 32, "tree: the timer's PPI"))
		return;
	ticks = 0;
	intid_hook[intid] = hook;
	intid_on(intid);
	hook();
	ticks = 0;
	if (hook == on_virtual)
		sysreg_write("cntv_ctl_el0", 1);
	else
		sysreg_write("cntp_ctl_el0", 1);
	sleep_ticks();
	if (hook == on_virtual)
		sysreg_write("cntv_ctl_el0", 0);
	else
		sysreg_write("cntp_ctl_el0", 0);
	intid_off(intid);
	spent = machine_usec() - start;
	say("10 ticks of 10 ms, waited for by WFI: %lu us\n", spent);
	check(spent > 80000 && spent < 3000000, "timer wakes WFI");
}

void serial_machine(void)
{
	timer(2, on_virtual, "virtual timer");
	timer(1, on_physical, "physical timer");
}
