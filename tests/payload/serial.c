/* SPDX-License-Identifier: MIT */
/*
 * The serial port's interrupt: one for each time the transmitter is empty; and for input.
 */
#include "tests/payload/serial.h"
#include "tests/payload/payload.h"

#define SEND 200

static volatile uint32_t sent, thre, other;

void on_transmit(void)
{
	if ((uart_in(UART_IIR) & 0xf) != 2) {
		other++;
		return;
	}
	thre++;
	if (sent < SEND) {
		sent++;
		uart_out(UART_DATA, sent % 50 ? '.' : '\n');
	}
}

void transmit(volatile uint32_t *count, const char *how)
{
	sent = thre = other = 0;
	*count = 0;
	uart_out(UART_IER, 2);
	wait_count(&thre, SEND + 1);
	settle();
	uart_out(UART_IER, 0);
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
	unsigned int cause = uart_in(UART_IIR) & 0xf;

	/*
	 * No cause: its bytes came, with an edge of their own, while the last interrupt's were
	 * read.
	 */
	other += cause != 4 && cause != 0xc && cause != 1;
	while (uart_in(UART_LSR) & 1) {
		char c = (char)uart_in(UART_DATA);

		if (got < sizeof(line) - 1)
			line[got] = c;
		got++;
	}
}

/* What the script sends. */
static void receive(void)
{
	static const char want[] = "The Quick Brown Fox, 0123456789, ends here.\n";

	irq_hook[uart_gsi] = on_receive;
	irq_count[uart_gsi] = other = 0;
	uart_out(UART_IIR, 0x07); /* FIFO on and empty */
	uart_out(UART_MCR, 0x0b);
	uart_out(UART_IER, 1);
	wait_count(&got, sizeof(want) - 1);
	settle();
	uart_out(UART_IER, 0);
	check_eq(got, sizeof(want) - 1, "input: all of it");
	check(!memcmp(line, want, sizeof(want) - 1), "input: as sent");
	check(irq_count[uart_gsi] > 0, "input: by interrupt");
	check_eq(other, 0, "input: no other cause");
}

void payload_main(void)
{
	if (!strcmp(arg("test", ""), "rx")) {
		irq_on(uart_gsi);
		receive();
		done();
	}
	irq_hook[uart_gsi] = on_transmit;
	irq_on(uart_gsi);
	transmit(&irq_count[uart_gsi], "serial port's line");
	serial_machine();
	done();
}
