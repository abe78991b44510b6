/* SPDX-License-Identifier: MIT */
/*
 * COM1's interrupt, by IOAPIC and by PIC: an edge for each time the transmitter is empty; and for
 * input.
 */
#include "tests/payload/payload.h"
#include "tests/payload/x86_64/machine.h"

#define SEND 200

static volatile uint32_t sent, thre, other;

static void on_transmit(void)
{
	if ((inb(UART_IIR) & 0xf) != 2) {
		other++;
		return;
	}
	thre++;
	if (sent < SEND) {
		sent++;
		outb(UART_DATA, sent % 50 ? '.' : '\n');
	}
}

static void transmit(volatile uint32_t *count, const char *how)
{
	sent = thre = other = 0;
	*count = 0;
	outb(UART_IER, 2);
	wait_count(&thre, SEND + 1);
	settle();
	outb(UART_IER, 0);
	/* One for being switched on, one for each byte. */
	say("%s: %u bytes, %u interrupts\n", how, sent, *count);
	check_eq(*count, SEND + 1, "transmit interrupts, exactly");
	check_eq(thre, SEND + 1, "each says that the transmitter is empty");
	check_eq(other, 0, "no other cause");
}

static char line[64];
static volatile uint32_t got;

static void on_receive(void)
{
	unsigned int cause = inb(UART_IIR) & 0xf;

	/*
	 * No cause: its bytes came, with an edge of their own, while the last interrupt's were
	 * read.
	 */
	other += cause != 4 && cause != 0xc && cause != 1;
	while (inb(UART_LSR) & 1) {
		char c = (char)inb(UART_DATA);

		if (got < sizeof(line) - 1)
			line[got] = c;
		got++;
	}
}

/* What the script sends. */
static void receive(void)
{
	static const char want[] = "The Quick Brown Fox, 0123456789, ends here.\n";

	irq_hook[LAYOUT_COM1_GSI] = on_receive;
	irq_count[LAYOUT_COM1_GSI] = other = 0;
	outb(UART_IIR, 0x07); /* FIFO on and empty */
	outb(UART_MCR, 0x0b);
	outb(UART_IER, 1);
	wait_count(&got, sizeof(want) - 1);
	settle();
	outb(UART_IER, 0);
	check_eq(got, sizeof(want) - 1, "input: all of it");
	check(!memcmp(line, want, sizeof(want) - 1), "input: as sent");
	check(irq_count[LAYOUT_COM1_GSI] > 0, "input: by interrupt");
	check_eq(other, 0, "input: no other cause");
}

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
		interrupts(false);
		if (vector_count[VECTOR_TIMER] < 10)
			wait_for_interrupt();
	}
	lapic_write(LAPIC_LVT_TIMER, 0x10000);
	spent = machine_usec() - start;
	say("10 ticks of 10 ms, waited for by HLT: %lu us\n", spent);
	check(spent > 80000 && spent < 3000000, "LAPIC timer wakes HLT");
}

void payload_main(void)
{
	if (!strcmp(arg("test", ""), "rx")) {
		irq_on(LAYOUT_COM1_GSI);
		receive();
		done();
	}
	irq_hook[LAYOUT_COM1_GSI] = on_transmit;
	irq_on(LAYOUT_COM1_GSI);
	transmit(&irq_count[LAYOUT_COM1_GSI], "IOAPIC");
	by_pic();
	timer();
	done();
}
