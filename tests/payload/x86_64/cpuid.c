/* SPDX-License-Identifier: MIT */
/* What the CPU says about the machine that it is in. */
#include "tests/payload/payload.h"
#include "tests/payload/x86_64/machine.h"

void payload_main(void)
{
	struct cpuid leaf = cpuid(0x40000000, 0);
	uint32_t n = (uint32_t)arg_number("cpus", 1), khz;

	check(cpuid(1, 0).ecx >> 31, "hypervisor bit");
	check(leaf.ebx == 0x4b4d564b && leaf.ecx == 0x564b4d56 && leaf.edx == 0x4d, "KVM's signature");
	check(leaf.eax >= 0x40000001, "KVM's features");
	if (leaf.eax >= 0x40000010) {
		khz = cpuid(0x40000010, 0).eax;
		say("TSC %u kHz, bus %u kHz\n", khz, cpuid(0x40000010, 0).ebx);
		check(khz > 100000 && khz < 10000000, "TSC frequency");
		check_eq(cpuid(0x40000010, 0).ebx, 1000000, "APIC bus frequency");
	}
	check(cpuid(1, 0).ecx >> 24 & 1, "TSC deadline timer");
	check(!(cpuid(1, 0).ecx >> 5 & 1) && !(cpuid(0x80000001, 0).ecx >> 2 & 1), "no VMX, no SVM");
	check_eq(cpuid(1, 0).ebx >> 16 & 0xff, n, "leaf 1: CPUs");
	/*
	 * With one CPU some hosts set it whatever the VMM says; it means no more than that the
	 * count is valid.
	 */
	check(n == 1 || cpuid(1, 0).edx >> 28 & 1, "leaf 1: HTT with more than one CPU");
	if (cpuid(0, 0).eax >= 0xb) {
		check_eq(cpuid(0xb, 0).ecx >> 8, 1, "leaf 0xb: threads first");
		check_eq(cpuid(0xb, 0).ebx, 1, "leaf 0xb: one thread a core");
		check_eq(cpuid(0xb, 1).ecx >> 8, 2, "leaf 0xb: then cores");
		check_eq(cpuid(0xb, 1).ebx, n, "leaf 0xb: cores");
		check_eq(cpuid(0xb, 2).ecx >> 8, 0, "leaf 0xb: then nothing");
	}
	done();
}
