/* SPDX-License-Identifier: MIT */
/*
 * GICv2 and GICv3, as little as it takes. One security state, as KVM's have. Source: Arm IHI 0048
 * (version 2) and IHI 0069 (version 3).
 */
#include "tests/payload/aarch64/machine.h"
#include "tests/payload/payload.h"

#define GICD_CTLR	0x000
#define GICD_IGROUPR	0x080
#define GICD_ISENABLER	0x100
#define GICD_ICENABLER	0x180
#define GICD_IPRIORITYR 0x400
#define GICD_ITARGETSR	0x800
#define GICD_ICFGR	0xc00
#define GICD_SGIR	0xf00
#define GICD_IROUTER	0x6000
#define CTLR_GROUP0	1u
#define CTLR_GROUP1	2u
#define CTLR_ARE	0x10u

#define GICC_CTLR 0x00
#define GICC_PMR  0x04
#define GICC_IAR  0x0c
#define GICC_EOIR 0x10

#define GICR_TYPER	   0x08
#define GICR_WAKER	   0x14
#define GICR_SGI	   0x10000 /* the second frame: SGIs and PPIs */
#define TYPER_LAST	   0x10
#define WAKER_SLEEP	   2u
#define WAKER_CHILD_ASLEEP 4u

#define ICC_PMR	    "s3_0_c4_c6_0"
#define ICC_IAR1    "s3_0_c12_c12_0"
#define ICC_EOIR1   "s3_0_c12_c12_1"
#define ICC_SGI1R   "s3_0_c12_c11_5"
#define ICC_SRE	    "s3_0_c12_c12_5"
#define ICC_IGRPEN1 "s3_0_c12_c12_7"

#define SPURIOUS 1020 /* and up */
#define PRIORITY 0xa0a0a0a0

struct gic gic;
volatile uint32_t intid_count[MAX_INTID], intid_other;
void (*volatile intid_hook[MAX_INTID])(void);

static uint64_t own_redist(void)
{
	uint64_t want = mpidr(), at = gic.redist;

	/* TYPER's upper half is the affinity, without the hole that MPIDR has at Aff3. */
	want = (want >> 32 & 0xff) << 24 | (want & 0xffffff);
	for (; at + LAYOUT_GICR_STRIDE <= gic.redist + gic.redist_size; at += LAYOUT_GICR_STRIDE) {
		uint64_t typer = read64(at + GICR_TYPER);

		if (typer >> 32 == want)
			return at;
		if (typer & TYPER_LAST)
			break;
	}
	die("no redistributor for this CPU");
}

/* Where an interrupt's bits are: SGIs and PPIs of version 3 are in the redistributor. */
static uint64_t frame_of(unsigned int intid)
{
	return gic.version == 3 && intid < 32 ? own_redist() + GICR_SGI : gic.dist;
}

void intid_on(unsigned int intid)
{
	write32(frame_of(intid) + GICD_ISENABLER + intid / 32 * 4, 1u << intid % 32);
}

void intid_off(unsigned int intid)
{
	write32(frame_of(intid) + GICD_ICENABLER + intid / 32 * 4, 1u << intid % 32);
}

bool intid_is_on(unsigned int intid)
{
	return read32(frame_of(intid) + GICD_ISENABLER + intid / 32 * 4) >> intid % 32 & 1;
}

void intid_edge(unsigned int intid, bool edge)
{
	uint64_t at = frame_of(intid) + GICD_ICFGR + intid / 16 * 4;
	uint32_t bit = 2u << intid % 16 * 2;

	write32(at, edge ? read32(at) | bit : read32(at) & ~bit);
}

void irq_on(unsigned int gsi)
{
	intid_on(LAYOUT_SPI_BASE + gsi);
}

void irq_off(unsigned int gsi)
{
	intid_off(LAYOUT_SPI_BASE + gsi);
}

void sgi_send(unsigned int sgi, uint64_t to)
{
	if (gic.version == 2) {
		write32(gic.dist + GICD_SGIR, 1u << (16 + (to & 7)) | sgi);
		return;
	}
	__asm__ volatile("dsb ishst" ::: "memory");
	sysreg_write(ICC_SGI1R, (to >> 32 & 0xff) << 48 | (to >> 16 & 0xff) << 32 | (uint64_t)sgi << 24 |
					(to >> 8 & 0xff) << 16 | 1ull << (to & 0xf));
}

void sgi_send_others(unsigned int sgi)
{
	if (gic.version == 2) {
		write32(gic.dist + GICD_SGIR, 1u << 24 | sgi);
		return;
	}
	__asm__ volatile("dsb ishst" ::: "memory");
	sysreg_write(ICC_SGI1R, 1ull << 40 | (uint64_t)sgi << 24);
}

void gic_interrupt(void)
{
	uint32_t iar = gic.version == 3 ? (uint32_t)sysreg_read(ICC_IAR1) : read32(gic.cpu + GICC_IAR);
	/* Version 2 has an SGI's sender in the upper bits; the end wants it back. */
	unsigned int intid = gic.version == 3 ? iar : iar & 0x3ff;

	if (intid >= SPURIOUS)
		return;
	if (intid >= LAYOUT_SPI_BASE && intid < LAYOUT_SPI_BASE + MAX_GSI) {
		unsigned int gsi = intid - LAYOUT_SPI_BASE;

		if (irq_hook[gsi])
			irq_hook[gsi]();
		irq_count[gsi]++;
	}
	if (intid < MAX_INTID) {
		if (intid_hook[intid])
			intid_hook[intid]();
		__atomic_fetch_add(&intid_count[intid], 1, __ATOMIC_SEQ_CST);
	} else {
		intid_other++;
	}
	/* Whoever took the interrupt away from a device has done so before the end of it. */
	__asm__ volatile("dsb sy" ::: "memory");
	if (gic.version == 3)
		sysreg_write(ICC_EOIR1, iar);
	else
		write32(gic.cpu + GICC_EOIR, iar);
}

void gic_cpu_init(void)
{
	uint64_t local;

	if (gic.version == 2) {
		for (unsigned int i = 0; i < 32; i += 4)
			write32(gic.dist + GICD_IPRIORITYR + i, PRIORITY);
		write32(gic.dist + GICD_ISENABLER, 0xffff); /* SGIs */
		write32(gic.cpu + GICC_PMR, 0xff);
		write32(gic.cpu + GICC_CTLR, CTLR_GROUP0);
		return;
	}
	local = own_redist();
	write32(local + GICR_WAKER, read32(local + GICR_WAKER) & ~WAKER_SLEEP);
	while (read32(local + GICR_WAKER) & WAKER_CHILD_ASLEEP)
		machine_relax();
	local += GICR_SGI;
	write32(local + GICD_IGROUPR, ~0u);
	for (unsigned int i = 0; i < 32; i += 4)
		write32(local + GICD_IPRIORITYR + i, PRIORITY);
	write32(local + GICD_ISENABLER, 0xffff);
	sysreg_write(ICC_SRE, sysreg_read(ICC_SRE) | 1);
	sysreg_write(ICC_PMR, 0xff);
	sysreg_write(ICC_IGRPEN1, 1);
}

/* How each line is triggered: what the tree says, if it is an SPI. Cells: kind, number, flags. */
static void triggers(void)
{
	const uint8_t *node;

	for (unsigned int n = 0; (node = tree_node(NULL, NULL, n)); n++) {
		uint32_t len = 0;

		if (!tree_prop(node, "interrupts", &len))
			continue;
		for (unsigned int i = 0; i + 3 <= len / 4; i += 3) {
			if (tree_cell(node, "interrupts", i) == 0)
				intid_edge(LAYOUT_SPI_BASE + tree_cell(node, "interrupts", i + 1),
					   tree_cell(node, "interrupts", i + 2) & 3);
		}
	}
}

void gic_init(void)
{
	const uint8_t *node = tree_node(NULL, "arm,gic-v3", 0);

	if (node) {
		gic = (struct gic){ .version = 3, .redist = tree_pair(node, "reg", 2),
				    .redist_size = tree_pair(node, "reg", 3) };
	} else {
		node = tree_node(NULL, "arm,cortex-a15-gic", 0);
		if (!node)
			node = tree_node(NULL, "arm,gic-400", 0);
		if (!node)
			die("no interrupt controller in the tree");
		gic = (struct gic){ .version = 2, .cpu = tree_pair(node, "reg", 2) };
	}
	gic.dist = tree_pair(node, "reg", 0);
	write32(gic.dist + GICD_CTLR, gic.version == 3 ? CTLR_ARE | CTLR_GROUP0 | CTLR_GROUP1 : CTLR_GROUP0);
	for (unsigned int i = 32; i < LAYOUT_NR_INTIDS; i += 4) {
		write32(gic.dist + GICD_IPRIORITYR + i, PRIORITY);
		if (gic.version == 2)
			write32(gic.dist + GICD_ITARGETSR + i, 0x01010101);
	}
	for (unsigned int i = 32; gic.version == 3 && i < LAYOUT_NR_INTIDS; i++) {
		if (i % 32 == 0)
			write32(gic.dist + GICD_IGROUPR + i / 8, ~0u);
		write64(gic.dist + GICD_IROUTER + 8 * i, mpidr());
	}
	triggers();
	gic_cpu_init();
}
