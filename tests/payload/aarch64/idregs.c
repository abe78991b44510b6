/* SPDX-License-Identifier: MIT */
/*
 * What the CPU says of its optional parts, for the script to hold against the host's, and whether
 * they work.
 */
#include "tests/payload/aarch64/machine.h"
#include "tests/payload/payload.h"

#define FIELD(reg, shift) ((unsigned int)(sysreg_read(reg) >> (shift) & 0xf))

static bool on_undefined(struct frame *f)
{
	f->elr += 4;
	f->x[0] = 0;
	return true;
}

void payload_main(void)
{
	unsigned int sve = FIELD("id_aa64pfr0_el1", 32);
	unsigned int address = FIELD("id_aa64isar1_el1", 4) | FIELD("id_aa64isar1_el1", 8) |
			       FIELD("s3_0_c0_c6_2", 12);
	unsigned int generic = FIELD("id_aa64isar1_el1", 24) | FIELD("id_aa64isar1_el1", 28) |
			       FIELD("s3_0_c0_c6_2", 8);
	register uint64_t vl __asm__("x0") = 0;

	say("sve: %u\npaca: %u\npacg: %u\n", !!sve, !!address, !!generic);
	exception_hook = on_undefined;
	if (sve) {
		sysreg_write("cpacr_el1", sysreg_read("cpacr_el1") | 3 << 16); /* ZEN */
		__asm__ volatile(".arch_extension sve\n\trdvl x0, #1" : "=r"(vl) : : "memory");
		check(vl >= 16 && vl <= 256, "SVE: a vector's length");
	}
	if (address) {
		uint64_t signed_ptr;

		sysreg_write("s3_0_c2_c1_0", 0x0123456789abcdefull); /* APIAKeyLo_EL1 */
		sysreg_write("s3_0_c2_c1_1", 0xfedcba9876543210ull);
		sysreg_write("sctlr_el1", sysreg_read("sctlr_el1") | 1ull << 31); /* EnIA */
		__asm__ volatile("mov x17, %1; mov x16, #0; hint #8; mov %0, x17"
				 : "=r"(signed_ptr)
				 : "r"((uint64_t)(uintptr_t)payload_main)
				 : "x16", "x17");
		check(signed_ptr != (uintptr_t)payload_main, "pointer authentication: signs");
		__asm__ volatile("mov x17, %1; mov x16, #0; hint #12; mov %0, x17"
				 : "=r"(signed_ptr)
				 : "r"(signed_ptr)
				 : "x16", "x17");
		check_eq(signed_ptr, (uintptr_t)payload_main, "pointer authentication: and takes it off again");
		sysreg_write("sctlr_el1", sysreg_read("sctlr_el1") & ~(1ull << 31));
	}
	done();
}
