/* SPDX-License-Identifier: MIT */
/*
 * Any sequence of register accesses, input and console room. Two bytes a step: what, and a value.
 * What must hold: the interrupt line changes when it says so; every byte sent is written or counted
 * as lost; input is never more than the FIFO; and when all is done, neither direction is stuck.
 */
#include "vm/serial.h"

#include <linux/serial_reg.h>
#include <stdlib.h>
#include <string.h>
#include "vm/console.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(cond)                                                                                 \
	do {                                                                                       \
		if (!(cond))                                                                       \
			abort();                                                                   \
	} while (0)

struct console {
	const struct console_sink *sink;
	size_t room;
	size_t written;
	size_t lost;
	bool refused; /* input, and no resume since */
};

static struct serial *s;
static struct console con;
static bool line;

size_t console_write(struct console *c, const void *buf, size_t len)
{
	size_t n = len < c->room ? len : c->room;

	c->room -= n;
	c->written += n;
	return n;
}

size_t console_room(struct console *c)
{
	return c->room;
}

void console_drop(struct console *c, size_t len)
{
	c->lost += len;
}

void console_attach(struct console *c, const struct console_sink *sink)
{
	c->sink = sink;
}

void console_detach(struct console *c, const struct console_sink *sink)
{
	c->sink = NULL;
}

void console_resume_input(struct console *c)
{
	c->refused = false;
}

static void set_irq(void *opaque, bool level)
{
	MUST(level != line);
	line = level;
}

static uint8_t rd(unsigned int reg)
{
	uint8_t v = 0;

	serial_access(s, reg, &v, 1, false);
	return v;
}

static void wr(unsigned int reg, uint8_t v)
{
	serial_access(s, reg, &v, 1, true);
}

static void input(uint8_t len)
{
	static const uint8_t text[256];
	size_t n = con.sink->input(con.sink->opaque, text, len);

	MUST(n <= len && n <= 16);
	con.refused = n < len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t lcr = 0, mcr = 0, wide[8];
	size_t sent = 0;

	memset(&con, 0, sizeof(con));
	con.room = CONSOLE_RING;
	line = false;
	MUST(!serial_create(&s, &con, set_irq, NULL));
	for (size_t i = 0; i + 1 < size; i += 2) {
		uint8_t value = data[i + 1];
		unsigned int reg = data[i] & 7;

		switch (data[i] >> 3 & 7) {
		case 0:
		case 1:
			rd(reg);
			break;
		case 2:
		case 3:
		case 4:
			if (reg == UART_TX && !(lcr & UART_LCR_DLAB) && !(mcr & UART_MCR_LOOP))
				sent++;
			if (reg == UART_LCR)
				lcr = value;
			if (reg == UART_MCR)
				mcr = value;
			wr(reg, value);
			break;
		case 5:
			input(value);
			break;
		case 6:
			con.room = (size_t)value << (reg + 1);
			con.sink->room(con.sink->opaque);
			break;
		case 7: /* any width and place; reads only, to keep the count of what was sent */
			memset(wide, 0, sizeof(wide));
			serial_access(s, value, wide, 1u << (reg & 3), false);
			break;
		}
	}
	MUST(con.written + con.lost == sent);

	/* A driver that starts now gets both directions going, whatever went before. */
	con.room = CONSOLE_RING;
	con.sink->room(con.sink->opaque);
	wr(UART_LCR, 0);
	wr(UART_IER, 0);
	wr(UART_MCR, UART_MCR_RTS);
	MUST(!line);
	wr(UART_IER, UART_IER_THRI);
	MUST(line && (rd(UART_IIR) & 0x0f) == UART_IIR_THRI && !line);
	wr(UART_IER, UART_IER_RDI);
	for (unsigned int i = 0; rd(UART_LSR) & UART_LSR_DR; i++) {
		MUST(line && i < 16);
		rd(UART_RX);
	}
	MUST(!line && !con.refused);
	input(1);
	MUST(line && !con.refused);
	serial_destroy(s);
	MUST(!con.sink);
	return 0;
}
