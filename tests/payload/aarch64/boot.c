/* SPDX-License-Identifier: MIT */
/*
 * The state at the entry, and the tree against the map. Source: Linux's
 * Documentation/arch/arm64/booting.rst.
 */
#include "tests/payload/aarch64/machine.h"
#include "tests/payload/payload.h"

extern char image_start[], bss_end[];

static bool apart(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
	return a + a_size <= b || b + b_size <= a;
}

static void state(void)
{
	uint64_t image = (uintptr_t)image_start, image_size = (uint64_t)(bss_end - image_start);

	check_eq(entry.current_el, 1 << 2, "entered at EL1");
	check_eq(entry.sctlr & (SCTLR_M | SCTLR_C), 0, "MMU and data cache off");
	check_eq(entry.daif, 0xf << 6, "interrupts masked");
	check(!entry.x[1] && !entry.x[2] && !entry.x[3], "x1 to x3 are 0");
	say("image at 0x%lx, FDT at 0x%lx\n", image, entry.x[0]);
	check_eq(image % (2 * MIB), 0, "image at a multiple of 2 MiB");
	check(in_ram(image, image_size), "image lies in RAM");
	check_eq(entry.x[0] % 8, 0, "FDT at a multiple of 8");
	check(tree_size() <= 2 * MIB, "FDT is not too large");
	check(in_ram(entry.x[0], tree_size()), "FDT lies in RAM");
	check(apart(image, image_size, entry.x[0], tree_size()), "FDT apart from the image");
	if (boot.initrd_size) {
		check(apart(image, image_size, boot.initrd, boot.initrd_size), "initrd apart from the image");
		check(apart(entry.x[0], tree_size(), boot.initrd, boot.initrd_size), "initrd apart from the FDT");
	}
	check(sysreg_read("cntfrq_el0") > 1000000, "timer's frequency");
}

/* A node's first register range and its interrupt: kind 0 is an SPI. */
static void device(const char *compatible, uint64_t base, unsigned int spi)
{
	const uint8_t *node = tree_node(NULL, compatible, 0);

	if (!check(node != NULL, compatible))
		return;
	check_eq(tree_pair(node, "reg", 0), base, "tree: address as on the map");
	if (!spi)
		return;
	check_eq(tree_cell(node, "interrupts", 0), 0, "tree: interrupt is an SPI");
	check_eq(tree_cell(node, "interrupts", 1), spi, "tree: SPI as on the map");
}

static void virtio_nodes(void)
{
	const uint8_t *node;
	uint32_t found = 0, bad = 0;

	for (unsigned int n = 0; (node = tree_node(NULL, "virtio,mmio", n)); n++) {
		uint64_t slot = (tree_pair(node, "reg", 0) - LAYOUT_VIRTIO_BASE) / LAYOUT_VIRTIO_STRIDE;

		bad += slot >= 32 || found >> slot & 1;
		bad += tree_pair(node, "reg", 0) != machine_virtio_base((unsigned int)slot);
		bad += tree_cell(node, "interrupts", 0) != 0;
		bad += tree_cell(node, "interrupts", 1) != machine_virtio_gsi((unsigned int)slot);
		bad += tree_cell(node, "interrupts", 2) != 1; /* a rising edge */
		found |= 1u << (slot & 31);
	}
	check_eq(bad, 0, "tree: virtio slots as on the map, edge-triggered");
	check_eq(found, (1ull << arg_number("virtio", 0)) - 1, "tree: virtio slots in use, all and no more");
}

void boot_machine(void)
{
	const uint8_t *chosen = tree_node("chosen", NULL, 0);
	uint32_t len = 0;

	state();
	check(gic.dist == LAYOUT_GICD_BASE, "tree: distributor as on the map");
	if (gic.version == 3) {
		check_eq(gic.redist, LAYOUT_GICR_BASE, "tree: redistributors as on the map");
		check(gic.redist_size >= nr_cpus * LAYOUT_GICR_STRIDE, "tree: a redistributor for each CPU");
	} else {
		check_eq(gic.cpu, LAYOUT_GICC_BASE, "tree: CPU interface as on the map");
	}
	device("ns16550a", LAYOUT_UART_BASE, LAYOUT_UART_SPI);
	device("arm,pl031", LAYOUT_RTC_BASE, LAYOUT_RTC_SPI);
	device("arm,pl061", LAYOUT_GPIO_BASE, LAYOUT_GPIO_SPI);
	device("qemu,pvpanic-mmio", LAYOUT_PVPANIC_BASE, 0);
	virtio_nodes();
	check_eq(nr_cpus, arg_number("cpus", 1), "tree: CPUs");
	check_eq(cpu_mpidr[0], mpidr(), "tree: first CPU is this one");
	check(tree_node(NULL, "arm,psci-0.2", 0) != NULL, "tree: PSCI");
	check(chosen && tree_prop(chosen, "rng-seed", &len) && len >= 32, "tree: rng-seed");
	check(chosen && tree_prop(chosen, "kaslr-seed", &len) && len == 8, "tree: kaslr-seed");
	check(chosen && tree_pair(chosen, "kaslr-seed", 0) != 0, "tree: kaslr-seed is not 0");
	check(chosen && tree_prop(chosen, "stdout-path", &len) != NULL, "tree: stdout-path");
}
