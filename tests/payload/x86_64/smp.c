/* SPDX-License-Identifier: MIT */
/*
 * cpus=N: all come up, each with the APIC id that it should have, and all hear an interrupt from
 * another.
 */
#include "tests/payload/payload.h"
#include "tests/payload/x86_64/machine.h"

static struct {
	uint32_t leaf1, leafb, lapic, count1;
} cpu[MAX_CPUS];
static volatile uint32_t looked;
static volatile uint32_t add, added;

static void look(unsigned int i)
{
	struct cpuid leaf = cpuid(1, 0);

	cpu[i].leaf1 = leaf.ebx >> 24;
	cpu[i].count1 = leaf.ebx >> 16 & 0xff;
	cpu[i].leafb = cpuid(0, 0).eax >= 0xb ? cpuid(0xb, 0).edx : cpu[i].leaf1;
	cpu[i].lapic = lapic_read(LAPIC_ID) >> 24;
}

static void on_cpu(uint32_t ticket)
{
	look(ticket + 1);
	__atomic_fetch_add(&looked, 1, __ATOMIC_SEQ_CST);
	/* A counter that all add to: lost updates would show. */
	for (unsigned int i = 0; i < 1000; i++)
		__atomic_fetch_add(&add, 1, __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&added, 1, __ATOMIC_SEQ_CST);
	for (;;)
		machine_sleep();
}

void payload_main(void)
{
	uint32_t n = (uint32_t)arg_number("cpus", 1), bad = 0;
	static bool seen[MAX_CPUS];

	look(0);
	say("%u CPUs expected\n", n);
	if (!start_cpus(n - 1, on_cpu))
		die("not all CPUs came up");
	check(wait_count(&looked, n - 1), "all CPUs came up");
	for (unsigned int i = 0; i < n; i++) {
		uint32_t id = cpu[i].leaf1;

		if (id >= n || seen[id] || cpu[i].leafb != id || cpu[i].lapic != id ||
		    cpu[i].count1 != n) {
			say("CPU: leaf 1 %u, leaf 0xb %u, LAPIC %u, count %u\n", id, cpu[i].leafb,
			    cpu[i].lapic, cpu[i].count1);
			bad++;
		}
		seen[id & (MAX_CPUS - 1)] = true;
	}
	check_eq(bad, 0, "APIC ids 0 to N - 1, each once, the same everywhere");
	check_eq(cpu[0].leaf1, 0, "boot CPU has id 0");
	check(wait_count(&added, n - 1), "all CPUs ran");
	check_eq(add, 1000 * (n - 1), "atomic adds of all CPUs");
	if (n > 1) {
		lapic_write(LAPIC_ICR_LOW, 0xc4000 | VECTOR_IPI); /* to all but this one */
		wait_count(&vector_count[VECTOR_IPI], n - 1);
		settle();
		check_eq(vector_count[VECTOR_IPI], n - 1, "one interrupt to each of the others");
	}
	done();
}
