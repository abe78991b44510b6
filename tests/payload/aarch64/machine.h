/* SPDX-License-Identifier: MIT */
/* The aarch64 machine, as payloads of this architecture see it. */
#ifndef TESTS_PAYLOAD_AARCH64_MACHINE_H
#define TESTS_PAYLOAD_AARCH64_MACHINE_H

#define MAX_CPUS	128
#define CPU_STACK_SHIFT 12
#define FRAME_SIZE	288

/* 4 KiB granule, 39 bits, so that tables start at level 1; walks cached and shared; no TTBR1. */
#define TCR (25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23)

#define SCTLR_M (1 << 0)
#define SCTLR_A (1 << 1)
#define SCTLR_C (1 << 2)
#define SCTLR_I (1 << 12)

#define PAGE_BLOCK    (1 << 10 | 1) /* with the access flag */
#define PAGE_SHARED   (3 << 8)	    /* inner */
#define PAGE_DEVICE   (0 << 2)	    /* MAIR's three */
#define PAGE_NORMAL   (1 << 2)
#define PAGE_UNCACHED (2 << 2)
#define PAGE_NO_EXEC  (3 << 53)

#ifndef __ASSEMBLER__

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "arch/aarch64/layout.h"

#define sysreg_read(name)                                                \
	({                                                               \
		uint64_t sysreg_value;                                   \
		__asm__ volatile("mrs %0, " name : "=r"(sysreg_value) : : "memory"); \
		sysreg_value;                                            \
	})
#define sysreg_write(name, v) \
	__asm__ volatile("msr " name ", %0; isb" : : "r"((uint64_t)(v)) : "memory")

/* The registers as they were at the entry. */
struct entry {
	uint64_t x[4];
	uint64_t current_el, sctlr, daif, tpidr, cntv_ctl, cntv_cval, vbar, ttbr0;
};
extern struct entry entry;

struct frame {
	uint64_t x[31];
	uint64_t elr, spsr, esr, far;
};

/* Called with a synchronous exception, if set. False: not expected. */
extern bool (*volatile exception_hook)(struct frame *frame);

#define ESR_EC(esr)	 ((esr) >> 26 & 0x3f)
#define EC_INSTR_ABORT	 0x21
#define EC_DATA_ABORT	 0x25 /* both from this exception level */
#define ESR_FSC(esr)	 ((esr) & 0x3f)
#define FSC_SYNC_EXTERNAL 0x10

/*
 * --- gic.c ----------------------------------------------------------------------------------------
 */

#define MAX_INTID 128

/* 2 or 3, and where the tree says that it is. The last two are of version 3 and 2, or 0. */
struct gic {
	unsigned int version;
	uint64_t dist, redist, cpu;
	uint64_t redist_size;
};
extern struct gic gic;

/* Every interrupt that came, on all CPUs, by its own number. SPIs are in irq_count[] too. */
extern volatile uint32_t intid_count[MAX_INTID];
extern volatile uint32_t intid_other; /* ones beyond that */
/* Called by the interrupt before its end, if set. */
extern void (*volatile intid_hook[MAX_INTID])(void);

/* Reads the tree; once. */
void gic_init(void);
/* On each CPU. */
void gic_cpu_init(void);
/* SGIs and PPIs are the calling CPU's. */
void intid_on(unsigned int intid);
void intid_off(unsigned int intid);
bool intid_is_on(unsigned int intid);
/* What is not edge is level. All that are the tree's have what it says already. */
void intid_edge(unsigned int intid, bool edge);
/* An SGI to the CPU with this affinity (MPIDR); or to all others. */
void sgi_send(unsigned int sgi, uint64_t mpidr);
void sgi_send_others(unsigned int sgi);
void gic_interrupt(void);

/*
 * --- PSCI -----------------------------------------------------------------------------------------
 */

/* Arm DEN0022. */
enum {
	PSCI_VERSION = 0x84000000,
	PSCI_CPU_OFF = 0x84000002,
	PSCI_MIGRATE_INFO_TYPE = 0x84000006,
	PSCI_SYSTEM_OFF = 0x84000008,
	PSCI_SYSTEM_RESET = 0x84000009,
	PSCI_FEATURES = 0x8400000a,
	PSCI_CPU_ON = 0xc4000003,
	PSCI_AFFINITY_INFO = 0xc4000004,
	PSCI_SYSTEM_RESET2 = 0xc4000012,
};
enum {
	PSCI_NOT_SUPPORTED = -1,
	PSCI_INVALID = -2,
	PSCI_ALREADY_ON = -4,
};
enum { AFFINITY_ON, AFFINITY_OFF, AFFINITY_ON_PENDING };

int64_t psci(uint32_t function, uint64_t a1, uint64_t a2, uint64_t a3);

/*
 * --- CPUs -----------------------------------------------------------------------------------------
 */

#define MPIDR_AFFINITY 0xff00ffffffull
static inline uint64_t mpidr(void)
{
	return sysreg_read("mpidr_el1") & MPIDR_AFFINITY;
}

/* As the tree has them. */
extern unsigned int nr_cpus;
extern uint64_t cpu_mpidr[MAX_CPUS];

/* Starts CPU @i, which calls @fn(@i) with interrupts off. PSCI's answer. */
int64_t cpu_on(unsigned int i, void (*fn)(unsigned int i));

/*
 * --- tree.c: the FDT ------------------------------------------------------------------------------
 */

/* False if it is none, or is broken. Nothing else works before. */
bool tree_init(uint64_t fdt);
uint32_t tree_size(void);

/*
 * Nodes by name (without the "@unit") or by one of the strings of "compatible"; NULL leaves one of
 * both out. @nth: the first is 0. NULL: there is none.
 */
const uint8_t *tree_node(const char *name, const char *compatible, unsigned int nth);
/* NULL: it has none of that name. */
const uint8_t *tree_prop(const uint8_t *node, const char *name, uint32_t *len);
/* The property's cell @i, or pair of cells. 0 beyond its end. */
uint32_t tree_cell(const uint8_t *node, const char *name, unsigned int i);
uint64_t tree_pair(const uint8_t *node, const char *name, unsigned int i);

#endif
#endif
