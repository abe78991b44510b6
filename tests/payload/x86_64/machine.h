/* SPDX-License-Identifier: MIT */
/* The x86_64 machine, as payloads of this architecture see it. */
#ifndef TESTS_PAYLOAD_X86_64_MACHINE_H
#define TESTS_PAYLOAD_X86_64_MACHINE_H

#define SEL_CODE32 0x08
#define SEL_CODE64 0x10
#define SEL_DATA   0x18

#define MAPPED_GIB     8 /* what the page tables cover */
#define AP_START       0x10000
#define AP_STACK_SHIFT 12
#define MAX_CPUS       256

#ifndef __ASSEMBLER__

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "arch/x86_64/layout.h"

#define DEFINE_PORT(suffix, type)                                                          \
	static inline type in##suffix(uint16_t port)                                       \
	{                                                                                  \
		type v;                                                                    \
		__asm__ volatile("in" #suffix " %1, %0" : "=a"(v) : "d"(port) : "memory"); \
		return v;                                                                  \
	}                                                                                  \
	static inline void out##suffix(uint16_t port, type v)                              \
	{                                                                                  \
		__asm__ volatile("out" #suffix " %0, %1" : : "a"(v), "d"(port) : "memory"); \
	}                                                                                  \
	static inline void rep_ins##suffix(uint16_t port, void *to, size_t n)              \
	{                                                                                  \
		__asm__ volatile("rep ins" #suffix : "+D"(to), "+c"(n) : "d"(port) : "memory"); \
	}                                                                                  \
	static inline void rep_outs##suffix(uint16_t port, const void *from, size_t n)     \
	{                                                                                  \
		__asm__ volatile("rep outs" #suffix : "+S"(from), "+c"(n) : "d"(port) : "memory"); \
	}
DEFINE_PORT(b, uint8_t)
DEFINE_PORT(w, uint16_t)
DEFINE_PORT(l, uint32_t)

static inline uint64_t rdtsc(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

static inline uint64_t rdmsr(uint32_t msr)
{
	uint32_t low, high;

	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
	return (uint64_t)high << 32 | low;
}

static inline void wrmsr(uint32_t msr, uint64_t v)
{
	__asm__ volatile("wrmsr" : : "c"(msr), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)));
}

struct cpuid {
	uint32_t eax, ebx, ecx, edx;
};

static inline struct cpuid cpuid(uint32_t leaf, uint32_t subleaf)
{
	struct cpuid r;

	__asm__ volatile("cpuid"
			 : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
			 : "a"(leaf), "c"(subleaf));
	return r;
}

#define LAPIC_ID	0x20
#define LAPIC_EOI	0xb0
#define LAPIC_SVR	0xf0
#define LAPIC_ICR_LOW	0x300
#define LAPIC_ICR_HIGH	0x310
#define LAPIC_LVT_TIMER 0x320
#define LAPIC_LVT_LINT0 0x350
#define LAPIC_TIMER_INIT 0x380
#define LAPIC_TIMER_NOW 0x390
#define LAPIC_TIMER_DIV 0x3e0

uint32_t lapic_read(unsigned int reg);
void lapic_write(unsigned int reg, uint32_t v);
uint32_t ioapic_read(unsigned int reg);
void ioapic_write(unsigned int reg, uint32_t v);
void lapic_on(void);

/* Lines' interrupts are vectors VECTOR_GSI and up. Others are counted here. */
#define VECTOR_PIC   0x20 /* the PIC's 16 */
#define VECTOR_GSI   0x30
#define VECTOR_TIMER 0xe0
#define VECTOR_IPI   0xe1
extern volatile uint32_t vector_count[256];
/* Called with the vector, if set. */
extern void (*volatile vector_hook[256])(void);

/*
 * Starts the other CPUs, @n of them by APIC ids 1 to @n; each calls fn(ticket) with interrupts off,
 * tickets from 0 in the order of arrival. False when not all have arrived in the time.
 */
bool start_cpus(unsigned int n, void (*fn)(uint32_t ticket));

extern uint64_t entry_cr0, entry_cr4;

#endif
#endif
