/* SPDX-License-Identifier: MIT */
/* Accesses at addresses that are no multiple of their width, and the interrupt controller's pages. */
#include "tests/payload/aarch64/machine.h"
#include "tests/payload/payload.h"
#include "tests/payload/virtio.h"

/* Loads and stores that have a syndrome. Not here: the sign of a byte, which emulated hosts lose. */
static void forms(uint64_t base)
{
	uint64_t v;

	__asm__ volatile("ldrsw %0, [%1]" : "=r"(v) : "r"(base + R_MAGIC) : "memory");
	check_eq(v, 0x74726976, "sign-extended word");
	__asm__ volatile("ldar %w0, [%1]" : "=r"(v) : "r"(base + R_MAGIC) : "memory");
	check_eq(v, 0x74726976, "load-acquire");
	write32(base + R_STATUS, S_ACK);
	check_eq(read32(base + R_STATUS), S_ACK, "Status written");
	__asm__ volatile("str wzr, [%0]" : : "r"(base + R_STATUS) : "memory");
	check_eq(read32(base + R_STATUS), 0, "Status written by the zero register");
	__asm__ volatile("ldr wzr, [%0]" : : "r"(base + R_STATUS) : "memory");
	__asm__ volatile("stlr %w0, [%1]" : : "r"(S_ACK), "r"(base + R_STATUS) : "memory");
	check_eq(read32(base + R_STATUS), S_ACK, "store-release");
	__asm__ volatile("str wzr, [%0]" : : "r"(base + R_STATUS) : "memory");
	__asm__ volatile("ldr %w0, [%1, #4]" : "=r"(v) : "r"(base) : "memory");
	check_eq(v, 2, "offset in the instruction");
	__asm__ volatile("ldr %w0, [%1, %2]" : "=r"(v) : "r"(base), "r"(4ull) : "memory");
	check_eq(v, 2, "offset in a register");
}

void mmio_machine(void)
{
	uint64_t base = machine_virtio_base(0);

	/* A device has 64 KiB of addresses, and registers in the first few of them. */
	check_eq(read32(base + LAYOUT_VIRTIO_SIZE), 0xffffffff, "behind the register page is nothing");
	check_eq(read32(base + LAYOUT_VIRTIO_STRIDE - 4), 0xffffffff, "nor before the next one");
	check_eq(read32(machine_virtio_base(31) + LAYOUT_VIRTIO_STRIDE), 0xffffffff, "nor behind the last");
	check_eq(read16(base + R_CONFIG + 1), arg_number("sectors", 0) >> 8 & 0xffff, "config: halfword askew");
	check_eq(read32(base + 1), 0x02747269, "register askew by one");
	forms(base);
	/* KVM's GICv2 has no identification. */
	if (gic.version == 3)
		check_eq(read32(gic.dist + 0xffe8) >> 4 & 0xf, 3, "distributor: version");
}
