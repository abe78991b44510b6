/* SPDX-License-Identifier: MIT */
/*
 * PSCI, with two CPUs: on, off, on again, and what is asked wrongly. The system's ends are the
 * payload end's. Source: Arm DEN0022.
 */
#include "tests/payload/aarch64/machine.h"
#include "tests/payload/payload.h"

static volatile uint32_t turns;
static volatile uint64_t el, daif;
static volatile bool leave;

static void second(unsigned int i)
{
	el = sysreg_read("CurrentEL");
	daif = sysreg_read("daif");
	__atomic_fetch_add(&turns, 1, __ATOMIC_SEQ_CST);
	while (!leave)
		machine_relax();
	psci(PSCI_CPU_OFF, 0, 0, 0);
	say("FAIL CPU_OFF came back\n");
}

static bool wait_affinity(uint64_t who, int64_t want)
{
	uint64_t end = machine_usec() + 5000000;

	while (psci(PSCI_AFFINITY_INFO, who, 0, 0) != want) {
		if (machine_usec() > end)
			return false;
	}
	return true;
}

void payload_main(void)
{
	int64_t version = psci(PSCI_VERSION, 0, 0, 0);
	uint64_t other = cpu_mpidr[1], nobody = 0xffff0000;

	say("PSCI %u.%u\n", (unsigned int)version >> 16, (unsigned int)version & 0xffff);
	check(version >= 2 && version < 0x20000, "version 0.2 to 1.x");
	if (!check_eq(nr_cpus, 2, "CPUs in the tree"))
		die("this takes two CPUs");
	check_eq((uint64_t)psci(PSCI_MIGRATE_INFO_TYPE, 0, 0, 0), 2, "no trusted OS to migrate");
	if (version >= 0x10000) {
		check_eq((uint64_t)psci(PSCI_FEATURES, PSCI_CPU_ON, 0, 0), 0, "features: CPU_ON");
		check_eq((uint64_t)psci(PSCI_FEATURES, PSCI_SYSTEM_RESET, 0, 0), 0, "features: SYSTEM_RESET");
		check_eq((uint64_t)psci(PSCI_FEATURES, 0x84001234, 0, 0), (uint64_t)PSCI_NOT_SUPPORTED,
			 "features: not of what is none");
	}
	check_eq((uint64_t)psci(0x8400001f, 0, 0, 0), (uint64_t)PSCI_NOT_SUPPORTED, "unknown function");

	check_eq((uint64_t)psci(PSCI_AFFINITY_INFO, mpidr(), 0, 0), AFFINITY_ON, "this CPU is on");
	check_eq((uint64_t)psci(PSCI_AFFINITY_INFO, other, 0, 0), AFFINITY_OFF, "the other one is off");
	check_eq((uint64_t)psci(PSCI_AFFINITY_INFO, nobody, 0, 0), (uint64_t)PSCI_INVALID, "nobody is neither");
	check_eq((uint64_t)psci(PSCI_CPU_ON, nobody, 0, 0), (uint64_t)PSCI_INVALID, "CPU_ON of nobody");
	check_eq((uint64_t)psci(PSCI_CPU_ON, mpidr(), 0, 0), (uint64_t)PSCI_ALREADY_ON, "CPU_ON of this CPU");

	for (uint32_t turn = 1; turn <= 3; turn++) {
		leave = false;
		check_eq((uint64_t)cpu_on(1, second), 0, "CPU_ON");
		check(wait_count(&turns, turn), "it runs");
		check_eq(el, 1 << 2, "at EL1");
		check_eq(daif, 0xf << 6, "interrupts masked");
		check_eq((uint64_t)psci(PSCI_AFFINITY_INFO, other, 0, 0), AFFINITY_ON, "it is on");
		check_eq((uint64_t)cpu_on(1, second), (uint64_t)PSCI_ALREADY_ON, "CPU_ON again");
		leave = true;
		check(wait_affinity(other, AFFINITY_OFF), "it is off after CPU_OFF");
	}
	settle();
	check_eq(turns, 3, "it ran as often as it was told");
	done();
}
