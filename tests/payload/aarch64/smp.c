/* SPDX-License-Identifier: MIT */
/*
 * cpus=N: all come up by PSCI, each with the affinity that the tree says, and all hear an interrupt
 * from another, sent to all and sent to one.
 */
#include "tests/payload/aarch64/machine.h"
#include "tests/payload/payload.h"

#define SGI_ALL 3
#define SGI_ONE 4

static volatile uint64_t seen[MAX_CPUS];
static volatile uint32_t looked, add, added;

static void on_cpu(unsigned int i)
{
	seen[i] = mpidr();
	__atomic_fetch_add(&looked, 1, __ATOMIC_SEQ_CST);
	/* A counter that all add to: lost updates would show. */
	for (unsigned int k = 0; k < 1000; k++)
		__atomic_fetch_add(&add, 1, __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&added, 1, __ATOMIC_SEQ_CST);
	for (;;) {
		machine_interrupts(false);
		machine_sleep();
	}
}

/* KVM's: 16 CPUs in each Aff0 (what one SGI reaches on GICv3), so CPU 16 is 0x100. */
static uint64_t expected(unsigned int i)
{
	return (i >> 12 & 0xff) << 16 | (i >> 4 & 0xff) << 8 | (i & 0xf);
}

void payload_main(void)
{
	uint32_t n = (uint32_t)arg_number("cpus", 1), bad = 0;

	say("%u CPUs expected\n", n);
	if (!check_eq(nr_cpus, n, "CPUs in the tree"))
		die("a wrong tree");
	check_eq(mpidr(), cpu_mpidr[0], "boot CPU is the tree's first");
	for (unsigned int i = 1; i < n; i++) {
		int64_t ret = cpu_on(i, on_cpu);

		if (ret) {
			say("CPU %u: CPU_ON says 0x%lx\n", i, (uint64_t)ret);
			bad++;
		}
	}
	check_eq(bad, 0, "CPU_ON");
	check(wait_count(&looked, n - 1), "all CPUs came up");
	bad = 0;
	for (unsigned int i = 0; i < n; i++) {
		uint64_t is = i ? seen[i] : mpidr();

		if (is != cpu_mpidr[i] || is != expected(i)) {
			say("CPU %u: MPIDR 0x%lx, in the tree 0x%lx\n", i, is, cpu_mpidr[i]);
			bad++;
		}
	}
	check_eq(bad, 0, "affinities as in the tree");
	check(wait_count(&added, n - 1), "all CPUs ran");
	check_eq(add, 1000 * (n - 1), "atomic adds of all CPUs");
	if (n > 1) {
		sgi_send_others(SGI_ALL);
		wait_count(&intid_count[SGI_ALL], n - 1);
		settle();
		check_eq(intid_count[SGI_ALL], n - 1, "one interrupt to each of the others");
		for (unsigned int i = 0; i < n; i++) {
			sgi_send(SGI_ONE, cpu_mpidr[i]);
			if (!wait_count(&intid_count[SGI_ONE], i + 1)) {
				say("CPU %u does not hear its interrupt\n", i);
				break;
			}
		}
		settle();
		check_eq(intid_count[SGI_ONE], n, "one interrupt to each, by its affinity");
	}
	done();
}
