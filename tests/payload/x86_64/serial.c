/* SPDX-License-Identifier: MIT */
/* COM1's interrupt by PIC, and the LAPIC's timer. */
#include "tests/payload/payload.h"
#include "tests/payload/serial.h"
#include "tests/payload/x86_64/machine.h"

static volatile uint32_t pic_count;

static void on_pic(void)
{
	pic_count++;
	on_transmit();
	outb(0x20, 0x20); /* EOI */
}

/* 8259A: ICW1 to ICW4, then all lines masked but COM1's. */
static void by_pic(void)
{
	irq_off(LAYOUT_COM1_GSI);
	outb(0x20, 0x11);
	outb(0x21, VECTOR_PIC);
	outb(0x21, 4);
	outb(0x21, 1);
	lapic_write(LAPIC_LVT_LINT0, 0x700); /* ExtINT */
	vector_hook[VECTOR_PIC + 4] = on_pic;
	outb(0x21, (uint8_t)~(1u << 4));
	transmit(&pic_count, "PIC");
	outb(0x21, 0xff);
	lapic_write(LAPIC_LVT_LINT0, 0x10000);
}

static void timer(void)
{
	uint64_t start = machine_usec(), spent;

	vector_count[VECTOR_TIMER] = 0;
	lapic_write(LAPIC_TIMER_DIV, 0xb); /* by 1 */
	lapic_write(LAPIC_LVT_TIMER, 0x20000 | VECTOR_TIMER);
	lapic_write(LAPIC_TIMER_INIT, 10000000); /* 10 ms of a 1 GHz bus */
	while (vector_count[VECTOR_TIMER] < 10) {
		machine_interrupts(false);
		if (vector_count[VECTOR_TIMER] < 10)
			machine_sleep();
	}
	lapic_write(LAPIC_LVT_TIMER, 0x10000);
	spent = machine_usec() - start;
	say("10 ticks of 10 ms, waited for by HLT: %lu us\n", spent);
	check(spent > 80000 && spent < 3000000, "LAPIC timer wakes HLT");
}

void serial_machine(void)
{
	by_pic();
	timer();
}
