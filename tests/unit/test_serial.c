/* SPDX-License-Identifier: MIT */
/* The UART's registers against a console made here, whose room and whose input the test decides. */
#include "vm/serial.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/serial_reg.h>
#include <stdlib.h>
#include <unistd.h>
#include "tests/unit/allocs.h"
#include "tests/unit/snapshot.h"
#include "tests/unit/test.h"
#include "vm/console.h"
#include "vm/log.h"

/* --- the console ---------------------------------------------------------------------------- */

struct console {
	const struct console_sink *sink;
	size_t room;
	size_t lost;
	unsigned int resumed;
	size_t nr_out;
	uint8_t out[1 << 16];
	bool asked_room; /* a room callback is owed */
};

static struct console con;

size_t console_write(struct console *c, const void *buf, size_t len)
{
	size_t n = len < c->room ? len : c->room;

	if (n > sizeof(c->out) - c->nr_out)
		n = sizeof(c->out) - c->nr_out;
	memcpy(c->out + c->nr_out, buf, n);
	c->nr_out += n;
	c->room -= n;
	if (n < len)
		c->asked_room = true;
	return n;
}

size_t console_room(struct console *c)
{
	if (c->room < CONSOLE_RESERVE)
		c->asked_room = true;
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
	if (c->sink == sink)
		c->sink = NULL;
}

void console_resume_input(struct console *c)
{
	c->resumed++;
}

/* --- the guest ------------------------------------------------------------------------------ */

static struct serial *s;
static bool line;
static unsigned int edges;
static bool loading; /* the level is set whatever it was */

static void set_irq(void *opaque, bool level)
{
	CHECK(opaque == &line);
	CHECK(loading || level != line); /* changes only */
	edges += level;
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

static size_t type(const char *text)
{
	return con.sink->input(con.sink->opaque, (const uint8_t *)text, strlen(text));
}

static void start(void)
{
	memset(&con, 0, sizeof(con));
	con.room = CONSOLE_RING;
	line = false;
	edges = 0;
	CHECK_EQ(serial_create(&s, &con, set_irq, &line), 0);
	allocs_begin(allocs_always);
}

static void end(void)
{
	allocs_end();
	serial_destroy(s);
	CHECK(!con.sink);
}

/* As Linux leaves it when a tty is open: FIFO with trigger 8, RTS, DTR and OUT2, two interrupts. */
static void start_linux(void)
{
	start();
	wr(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_R_TRIG_10);
	wr(UART_MCR, UART_MCR_DTR | UART_MCR_RTS | UART_MCR_OUT2);
	rd(UART_MSR);
	wr(UART_IER, UART_IER_RLSI | UART_IER_RDI);
	CHECK(!line);
}

/* --- tests ---------------------------------------------------------------------------------- */

static void registers_after_reset(void)
{
	static const uint8_t expect[SERIAL_REGS] = {
		[UART_IIR] = UART_IIR_NO_INT,
		[UART_LCR] = UART_LCR_WLEN8,
		[UART_LSR] = UART_LSR_THRE | UART_LSR_TEMT,
		[UART_MSR] = UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS,
	};

	start();
	for (unsigned int i = 0; i < SERIAL_REGS; i++)
		CHECK_EQ(rd(i), expect[i]);
	CHECK(!edges);
	end();
}

static void register_bits(void)
{
	/* What reads back of each value written: the bits that exist. */
	static const struct {
		uint8_t lcr;
		uint8_t reg;
		uint8_t mask;
	} t[] = {
		{0, UART_IER, 0x0f},
		{0, UART_LCR, 0xff},
		{0, UART_MCR, 0x1f},
		{0, UART_SCR, 0xff},
		{UART_LCR_DLAB, UART_DLL, 0xff},
		{UART_LCR_DLAB, UART_DLM, 0xff},
		{UART_LCR_DLAB, UART_SCR, 0xff},
	};

	start();
	for (unsigned int i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		for (unsigned int v = 0; v < 256; v++) {
			wr(UART_LCR, t[i].lcr);
			wr(t[i].reg, (uint8_t)v);
			CHECK_EQ(rd(t[i].reg), v & t[i].mask);
		}
		wr(t[i].reg, 0);
		wr(UART_LCR, 0);
		wr(UART_IER, 0);
	}
	CHECK_EQ(con.nr_out, 0); /* the divisor is no output */
	end();
}

static void divisor_hides_data(void)
{
	start();
	wr(UART_IER, UART_IER_MSI);
	wr(UART_LCR, UART_LCR_DLAB | UART_LCR_WLEN8);
	CHECK_EQ(rd(UART_DLL), 1);
	wr(UART_DLL, 0x34);
	wr(UART_DLM, 0x12);
	wr(UART_LCR, UART_LCR_WLEN8);
	CHECK_EQ(rd(UART_IER), UART_IER_MSI);
	wr(UART_TX, 'a');
	CHECK_EQ(con.nr_out, 1);
	wr(UART_LCR, UART_LCR_DLAB);
	CHECK_EQ(rd(UART_DLL), 0x34);
	CHECK_EQ(rd(UART_DLM), 0x12);
	end();
}

/*
 * Linux 6.12, drivers/tty/serial/8250/8250_port.c, autoconfig(): what it does to find out what
 * this is.
 */
static void linux_probe(void)
{
	start();
	wr(UART_IER, 0);
	CHECK_EQ(rd(UART_IER) & 0x0f, 0);
	wr(UART_IER, 0x0f);
	CHECK_EQ(rd(UART_IER) & 0x0f, 0x0f);
	wr(UART_IER, 0);
	wr(UART_MCR, UART_MCR_LOOP | 0x0a);
	CHECK_EQ(rd(UART_MSR) & 0xf0, UART_MSR_DCD | UART_MSR_CTS);
	wr(UART_MCR, 0);
	wr(UART_LCR, UART_LCR_CONF_MODE_B);
	wr(UART_EFR, 0);
	wr(UART_LCR, 0);
	wr(UART_FCR, UART_FCR_ENABLE_FIFO);
	CHECK_EQ(rd(UART_IIR) & 0xc0, 0xc0);
	/* autoconfig_16550a(): no EFR, no 64-byte FIFO, no UUE bit */
	wr(UART_LCR, UART_LCR_CONF_MODE_A);
	CHECK(rd(UART_EFR) != 0);
	wr(UART_LCR, UART_LCR_CONF_MODE_B);
	CHECK(rd(UART_EFR) != 0);
	wr(UART_LCR, 0);
	wr(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR7_64BYTE);
	CHECK_EQ(rd(UART_IIR) & 0x20, 0);
	wr(UART_LCR, UART_LCR_CONF_MODE_A);
	wr(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR7_64BYTE);
	CHECK_EQ(rd(UART_IIR) & 0x20, 0);
	wr(UART_LCR, 0);
	wr(UART_IER, UART_IER_UUE);
	CHECK_EQ(rd(UART_IER), 0);
	/* a 16450 without its FIFO */
	wr(UART_FCR, 0);
	CHECK_EQ(rd(UART_IIR) & 0xc0, 0);
	/* other bits without the first one do nothing */
	wr(UART_FCR, UART_FCR_R_TRIG_11);
	CHECK_EQ(rd(UART_IIR) & 0xc0, 0);
	end();
}

/*
 * serial8250_do_startup(): the two tests that decide whether the transmit interrupt can be
 * trusted.
 */
static void linux_startup_tests(void)
{
	for (int full = 0; full < 2; full++) {
		uint8_t iir1, iir, lsr;

		start();
		if (full)
			con.room = 0;
		wr(UART_FCR, UART_FCR_ENABLE_FIFO);
		wr(UART_IER, UART_IER_THRI);
		iir1 = rd(UART_IIR);
		wr(UART_IER, 0);
		wr(UART_IER, UART_IER_THRI);
		iir = rd(UART_IIR);
		wr(UART_IER, 0);
		if (!full)
			CHECK_EQ(iir1 & 0x0f, UART_IIR_THRI);
		/* else UART_BUG_THRE: a timer polls */
		CHECK(!(!(iir1 & UART_IIR_NO_INT) && (iir & UART_IIR_NO_INT)));
		wr(UART_IER, UART_IER_THRI);
		lsr = rd(UART_LSR);
		iir = rd(UART_IIR);
		wr(UART_IER, 0);
		/* else UART_BUG_TXEN: it sends without waiting, and loses bytes in a full ring */
		CHECK(!((lsr & UART_LSR_TEMT) && (iir & UART_IIR_NO_INT)));
		CHECK(!line);
		end();
	}
}

static void transmit_interrupt(void)
{
	start_linux();
	wr(UART_IER, UART_IER_RLSI | UART_IER_RDI | UART_IER_THRI);
	CHECK(line);
	CHECK_EQ(edges, 1);
	CHECK_EQ(rd(UART_IIR), 0xc0 | UART_IIR_THRI);
	CHECK(!line); /* reading IIR was the answer */
	CHECK_EQ(rd(UART_IIR), 0xc0 | UART_IIR_NO_INT);
	for (unsigned int i = 0; i < 16; i++)
		wr(UART_TX, (uint8_t)('a' + i));
	CHECK(line);
	CHECK_EQ(edges, 2); /* an edge-triggered line needs the new edge, once */
	CHECK_EQ(rd(UART_IIR), 0xc0 | UART_IIR_THRI);
	wr(UART_IER, UART_IER_RLSI | UART_IER_RDI);
	CHECK(!line);
	/* the bit stays 1: no new interrupt */
	wr(UART_IER, UART_IER_THRI);
	CHECK(line);
	rd(UART_IIR);
	wr(UART_IER, UART_IER_THRI);
	CHECK(!line);
	CHECK_EQ(con.nr_out, 16);
	CHECK(!memcmp(con.out, "abcdefghijklmnop", 16));
	end();
}

/*
 * A driver that sends from the interrupt, against a reader that stops and starts: every byte, in
 * order.
 */
static void interrupt_driven_loses_nothing(void)
{
	unsigned int sent = 0, idle = 0;

	start_linux();
	con.room = CONSOLE_RESERVE + 100;
	wr(UART_IER, UART_IER_RDI | UART_IER_THRI);
	for (unsigned int turn = 0; turn < 10000 && sent < 20000; turn++) {
		if (!line) {
			/* held back: only with little room, and the callback was asked for */
			CHECK(con.room < CONSOLE_RESERVE);
			CHECK(con.asked_room);
			CHECK_EQ(rd(UART_LSR) & (UART_LSR_THRE | UART_LSR_TEMT), 0);
			con.asked_room = false;
			con.room = CONSOLE_RESERVE + 500;
			con.sink->room(con.sink->opaque);
			CHECK(line);
			idle++;
			continue;
		}
		CHECK_EQ(rd(UART_IIR) & 0x0f, UART_IIR_THRI);
		/* sends one FIFO, as the interrupt allows, and asks LSR no more */
		for (unsigned int i = 0; i < 16; i++)
			wr(UART_TX, (uint8_t)(sent++ % 251));
	}
	CHECK(sent >= 20000);
	CHECK(idle > 10);
	CHECK_EQ(con.lost, 0);
	CHECK_EQ(con.nr_out, sent);
	for (unsigned int i = 0; i < con.nr_out; i++) {
		if (con.out[i] != i % 251) {
			CHECK_EQ(con.out[i], i % 251);
			break;
		}
	}
	/* a room callback that nobody waited for raises nothing */
	con.room = CONSOLE_RING;
	rd(UART_IIR);
	CHECK(!line);
	con.sink->room(con.sink->opaque);
	CHECK(!line);
	end();
}

/*
 * printk turns the interrupts off, polls LSR and writes: never waits, and what doesn't fit is
 * counted.
 */
static void polling_writer_is_counted(void)
{
	start_linux();
	con.room = 1000;
	wr(UART_IER, 0);
	for (unsigned int i = 0; i < 1500; i++) {
		CHECK_EQ(rd(UART_LSR) & (UART_LSR_THRE | UART_LSR_TEMT),
			 UART_LSR_THRE | UART_LSR_TEMT);
		wr(UART_TX, 'k');
	}
	CHECK_EQ(con.nr_out, 1000);
	CHECK_EQ(con.lost, 500);
	/* the tty driver's bit again: held, then freed */
	wr(UART_IER, UART_IER_THRI);
	CHECK(!line);
	con.room = CONSOLE_RING;
	con.sink->room(con.sink->opaque);
	CHECK(line);
	end();
}

static void receive(void)
{
	start_linux();
	CHECK_EQ(type("x"), 1);
	CHECK(line);
	CHECK_EQ(rd(UART_IIR), 0xc0 | UART_IIR_RX_TIMEOUT);
	CHECK(line); /* reading IIR does not answer this one */
	CHECK_EQ(rd(UART_LSR), UART_LSR_DR | UART_LSR_THRE | UART_LSR_TEMT);
	CHECK_EQ(rd(UART_RX), 'x');
	CHECK(!line);
	CHECK_EQ(rd(UART_LSR), UART_LSR_THRE | UART_LSR_TEMT);
	CHECK_EQ(con.resumed, 0); /* nothing had been refused */

	/* a FIFO full and no more; the rest is asked for when it is empty */
	CHECK_EQ(type("0123456789abcdefXYZ"), 16);
	CHECK_EQ(rd(UART_IIR), 0xc0 | UART_IIR_RDI);
	CHECK_EQ(type("X"), 0);
	CHECK_EQ(rd(UART_LSR) & UART_LSR_OE, 0);
	for (unsigned int i = 0; i < 16; i++) {
		CHECK_EQ(con.resumed, 0);
		CHECK_EQ(rd(UART_IIR) & 0x0f, i <= 8 ? UART_IIR_RDI : UART_IIR_RX_TIMEOUT);
		CHECK_EQ(rd(UART_RX), "0123456789abcdef"[i]);
	}
	CHECK_EQ(con.resumed, 1);
	CHECK_EQ(rd(UART_IIR) & 0x0f, UART_IIR_NO_INT);
	end();
}

static void trigger_levels(void)
{
	static const unsigned int level[] = {1, 4, 8, 14};

	start_linux();
	for (unsigned int t = 0; t < 4; t++) {
		wr(UART_FCR, (uint8_t)(UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR | t << 6));
		for (unsigned int n = 1; n <= 16; n++) {
			CHECK_EQ(type("k"), 1);
			CHECK_EQ(rd(UART_IIR) & 0x0f,
				 n >= level[t] ? UART_IIR_RDI : UART_IIR_RX_TIMEOUT);
		}
	}
	end();
}

static void fifo_clear_and_modes(void)
{
	start_linux();
	CHECK_EQ(type("0123456789abcdefg"), 16);
	wr(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR);
	CHECK_EQ(rd(UART_LSR) & UART_LSR_DR, 0);
	CHECK(!line);
	CHECK_EQ(con.resumed, 1);
	/* clearing the transmitter's FIFO or changing the trigger leaves input alone */
	CHECK_EQ(type("ab"), 2);
	wr(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_XMIT | UART_FCR_R_TRIG_11);
	CHECK_EQ(rd(UART_RX), 'a');
	wr(UART_FCR, 0); /* off: gone */
	CHECK_EQ(rd(UART_LSR) & UART_LSR_DR, 0);
	/* one byte now */
	CHECK_EQ(type("cd"), 1);
	CHECK_EQ(rd(UART_IIR), UART_IIR_RDI);
	/* and it survives the FIFO's start */
	wr(UART_FCR, UART_FCR_ENABLE_FIFO);
	CHECK_EQ(rd(UART_RX), 'c');
	end();
}

/*
 * Input that comes before the driver listens stays with the host instead of dying in a FIFO clear.
 */
static void input_waits_for_driver(void)
{
	start();
	CHECK_EQ(type("early"), 0);
	wr(UART_IER, 0x0f); /* the probe */
	CHECK_EQ(type("early"), 0);
	CHECK_EQ(con.resumed, 0);
	wr(UART_IER, 0);
	wr(UART_MCR, UART_MCR_LOOP | 0x0a);
	CHECK_EQ(type("early"), 0);
	wr(UART_MCR, UART_MCR_OUT2);
	rd(UART_LSR);
	rd(UART_RX);
	CHECK_EQ(type("early"), 0);
	wr(UART_FCR, UART_FCR_ENABLE_FIFO);
	CHECK_EQ(con.resumed, 0);
	wr(UART_MCR, UART_MCR_OUT2 | UART_MCR_DTR | UART_MCR_RTS);
	CHECK_EQ(con.resumed, 1);
	CHECK_EQ(type("early"), 5);
	end();

	/* a driver that sets no RTS */
	start();
	wr(UART_MCR, 0);
	CHECK_EQ(type("k"), 0);
	wr(UART_IER, UART_IER_RDI);
	CHECK_EQ(con.resumed, 1);
	CHECK_EQ(type("k"), 1);
	end();

	/* a payload that only polls */
	start();
	CHECK_EQ(type("k"), 0);
	CHECK_EQ(rd(UART_LSR) & UART_LSR_DR, 0);
	CHECK_EQ(con.resumed, 1);
	CHECK_EQ(type("k"), 1);
	CHECK_EQ(rd(UART_LSR) & UART_LSR_DR, UART_LSR_DR);
	CHECK_EQ(rd(UART_RX), 'k');
	end();
}

static void loopback(void)
{
	static const struct {
		uint8_t mcr;
		uint8_t msr;
	} t[] = {
		{0, 0},
		{UART_MCR_RTS, UART_MSR_CTS},
		{UART_MCR_DTR, UART_MSR_DSR},
		{UART_MCR_OUT1, UART_MSR_RI},
		{UART_MCR_OUT2, UART_MSR_DCD},
		{0x0f, 0xf0},
	};

	start_linux();
	for (unsigned int i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		wr(UART_MCR, UART_MCR_LOOP | t[i].mcr);
		rd(UART_MSR);
		CHECK_EQ(rd(UART_MSR), t[i].msr);
	}
	for (unsigned int i = 0; i < 16; i++)
		wr(UART_TX, (uint8_t)i);
	CHECK_EQ(con.nr_out, 0); /* nothing leaves */
	CHECK_EQ(type("k"), 0);	 /* nothing comes */
	CHECK_EQ(rd(UART_LSR), UART_LSR_DR | UART_LSR_THRE | UART_LSR_TEMT);
	/* the 17th is lost, and said to be */
	wr(UART_TX, 99);
	CHECK(line);
	CHECK_EQ(rd(UART_IIR), 0xc0 | UART_IIR_RLSI);
	CHECK_EQ(rd(UART_LSR) & UART_LSR_OE, UART_LSR_OE);
	CHECK_EQ(rd(UART_LSR) & UART_LSR_OE, 0);
	for (unsigned int i = 0; i < 16; i++)
		CHECK_EQ(rd(UART_RX), i);
	CHECK_EQ(rd(UART_LSR) & UART_LSR_DR, 0);
	CHECK_EQ(con.resumed, 0);
	wr(UART_MCR, UART_MCR_RTS);
	CHECK_EQ(con.resumed, 1); /* for the 'k' */
	end();
}

static void modem_status(void)
{
	start_linux();
	wr(UART_IER, UART_IER_MSI);
	CHECK(!line);
	wr(UART_MCR, UART_MCR_LOOP | UART_MCR_RTS | UART_MCR_OUT1);
	/* from DCD DSR CTS to CTS RI: two deltas; RI counts when it ends */
	CHECK(line);
	CHECK_EQ(rd(UART_IIR), 0xc0 | UART_IIR_MSI);
	CHECK_EQ(rd(UART_MSR), UART_MSR_CTS | UART_MSR_RI | UART_MSR_DDCD | UART_MSR_DDSR);
	CHECK(!line);
	CHECK_EQ(rd(UART_MSR), UART_MSR_CTS | UART_MSR_RI);
	wr(UART_MCR, UART_MCR_LOOP | UART_MCR_RTS);
	CHECK_EQ(rd(UART_MSR), UART_MSR_CTS | UART_MSR_TERI);
	wr(UART_MCR, UART_MCR_RTS);
	CHECK_EQ(rd(UART_MSR),
		 UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS | UART_MSR_DDCD | UART_MSR_DDSR);
	end();
}

static void priorities(void)
{
	start_linux();
	wr(UART_MCR, UART_MCR_LOOP); /* deltas */
	for (unsigned int i = 0; i < 17; i++)
		wr(UART_TX, (uint8_t)i);
	wr(UART_IER, 0x0f);
	CHECK_EQ(rd(UART_IIR) & 0x0f, UART_IIR_RLSI);
	rd(UART_LSR);
	CHECK_EQ(rd(UART_IIR) & 0x0f, UART_IIR_RDI);
	for (unsigned int i = 0; i < 16; i++)
		rd(UART_RX);
	/* the transmitter's was not ended by the reads that showed other causes */
	CHECK_EQ(rd(UART_IIR) & 0x0f, UART_IIR_THRI);
	CHECK_EQ(rd(UART_IIR) & 0x0f, UART_IIR_MSI);
	rd(UART_MSR);
	CHECK_EQ(rd(UART_IIR) & 0x0f, UART_IIR_NO_INT);
	CHECK(!line);
	CHECK_EQ(edges, 1);
	end();
}

static void wide_and_outside(void)
{
	uint8_t buf[8] = {0};

	start();
	wr(UART_LCR, UART_LCR_DLAB);
	memcpy(buf, "\x0c\x01", 2);
	serial_access(s, UART_DLL, buf, 2, true);
	CHECK_EQ(rd(UART_DLL), 0x0c);
	CHECK_EQ(rd(UART_DLM), 0x01);
	wr(UART_LCR, 0);
	memset(buf, 0, sizeof(buf));
	serial_access(s, 0, buf, 8, false);
	CHECK_EQ(buf[UART_LSR], UART_LSR_THRE | UART_LSR_TEMT);
	/* over the end, past it, and where the sum would wrap */
	memset(buf, 0, sizeof(buf));
	wr(UART_SCR, 0x5a);
	serial_access(s, 7, buf, 8, false);
	CHECK_EQ(buf[0], 0x5a);
	CHECK_EQ(buf[1], 0);
	serial_access(s, 8, buf, 8, true);
	serial_access(s, UINT64_MAX, buf, 8, true);
	serial_access(s, UINT64_MAX, buf, 8, false);
	CHECK_EQ(con.nr_out, 0);
	end();
}

static void without_console(void)
{
	start();
	serial_destroy(s);
	CHECK_EQ(serial_create(&s, NULL, set_irq, &line), 0);
	wr(UART_TX, 'x');
	wr(UART_IER, UART_IER_THRI);
	CHECK(line);
	CHECK_EQ(rd(UART_IIR), UART_IIR_THRI);
	wr(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR);
	serial_destroy(s);
	serial_destroy(NULL);
}

/* --- pauses and snapshots ------------------------------------------------------------------- */

static void pause_keeps_input(void)
{
	start_linux();
	CHECK_EQ(type("ab"), 2);
	serial_pause(s);
	serial_pause(s);
	CHECK_EQ(type("cd"), 0);
	CHECK_EQ(edges, 1);
	CHECK_EQ(con.resumed, 0);
	serial_resume(s);
	CHECK_EQ(con.resumed, 0); /* once the guest has read what it has */
	CHECK_EQ(rd(UART_RX), 'a');
	CHECK_EQ(rd(UART_RX), 'b');
	CHECK_EQ(con.resumed, 1);
	CHECK_EQ(type("cd"), 2);
	CHECK_EQ(rd(UART_RX), 'c');
	CHECK_EQ(rd(UART_RX), 'd');
	serial_pause(s);
	CHECK_EQ(type("e"), 0);
	serial_resume(s);
	CHECK_EQ(con.resumed, 2);
	serial_resume(s);
	CHECK_EQ(con.resumed, 2);
	CHECK_EQ(type("e"), 1);
	end();
}

/* A transmitter that waits for room hears of it after the pause, not during it. */
static void pause_holds_the_transmitter(void)
{
	start_linux();
	con.room = 10;
	wr(UART_IER, UART_IER_THRI);
	wr(UART_TX, 'x');
	CHECK(!line);
	serial_pause(s);
	con.room = CONSOLE_RING;
	con.sink->room(con.sink->opaque);
	CHECK(!line);
	serial_resume(s);
	CHECK(line);
	end();
}

static void save(struct snapshot *snap)
{
	struct state_writer w;

	allocs_end(); /* a snapshot's own */
	state_writer_init(&w, "test");
	serial_pause(s);
	serial_save(s, &w);
	snapshot_take(snap, &w);
	allocs_begin(allocs_always);
	CHECK_EQ(snap->err, 0);
}

static int load(const struct snapshot *snap)
{
	struct state_reader r;
	int ret;

	allocs_end();
	ret = snapshot_open(&r, snap, SERIAL_STATE, 0, SERIAL_STATE_VERSION);
	allocs_begin(allocs_always);
	if (ret)
		return ret;
	loading = true;
	ret = serial_load(s, &r);
	loading = false;
	if (!ret)
		ret = state_reader_end(&r);
	state_reader_close(&r);
	return ret;
}

/* The UART as a guest may have left it, in many ways. */
static void bring_to(unsigned int seed)
{
	start_linux();
	srand(seed);
	for (unsigned int i = 0; i < 60; i++) {
		con.room = rand() % 2 ? 10 : CONSOLE_RING;
		switch (rand() % 4) {
		case 0:
			rd(rand() % SERIAL_REGS);
			break;
		case 1:
			type("0123456789");
			break;
		default:
			wr(rand() % SERIAL_REGS, rand());
		}
	}
}

static void state_comes_back(void)
{
	struct snapshot snap, again;
	uint8_t seen[2][40];

	for (unsigned int i = 0; i < 300; i++) {
		bool level;

		bring_to(i);
		level = line;
		save(&snap);
		CHECK_EQ(snap.len, 32);
		for (unsigned int n = 0; n < 40; n++)
			seen[0][n] = rd(n % 8);
		end();
		start();
		line = !level; /* it has to be set, not left */
		CHECK_EQ(load(&snap), 0);
		CHECK_EQ(line, level);
		CHECK_EQ(type("x"), 0); /* paused */
		save(&again);
		CHECK(!memcmp(snap.p, again.p, 32));
		for (unsigned int n = 0; n < 40; n++)
			seen[1][n] = rd(n % 8);
		CHECK(!memcmp(seen[0], seen[1], 40));
		serial_resume(s);
		end();
	}
}

/* The bytes of docs/snapshot.md. */
static void state_layout(void)
{
	static const uint8_t expect[32] = {
		UART_IER_RLSI | UART_IER_RDI, 0x81, 0, 0x0b, 0, 0xb0, 0x5a, 1, 0,
		'a', 'b', [25] = 0, 2, 0, 0, 1, 0, 1,
	};
	struct snapshot snap;

	start_linux();
	wr(UART_LCR, 0);
	wr(UART_SCR, 0x5a);
	type("ab");
	save(&snap);
	CHECK_EQ(snap.len, 32);
	for (unsigned int i = 0; i < 32; i++)
		CHECK_EQ(snap.p[i], expect[i]);
	end();
}

static void damaged_state(void)
{
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	struct snapshot snap, bent;
	unsigned int taken = 0;

	log_set_fd(null, false);
	for (unsigned int i = 0; i < 8; i++) {
		bring_to(i);
		save(&snap);
		end();
		for (unsigned int bit = 0; bit < 32 * 8 + 33; bit++) {
			int ret;

			bent = snap;
			if (bit < 32 * 8)
				bent.p[bit / 8] ^= 1 << bit % 8;
			else
				bent.len = bit - 32 * 8;
			start();
			ret = load(&bent);
			CHECK(!ret || ret == -EBADMSG);
			CHECK(bit < 32 * 8 || !!ret == (bent.len != 32));
			taken += !ret;
			/* Harmless either way. */
			serial_resume(s);
			for (unsigned int n = 0; n < 40; n++)
				rd(n % 8);
			type("0123456789012345678901234567890");
			for (unsigned int n = 0; n < 40; n++)
				rd(0);
			wr(UART_IER, 0x0f);
			end();
		}
	}
	CHECK(taken > 100);
	log_set_fd(2, false);
	close(null);
}

int main(void)
{
	RUN(registers_after_reset);
	RUN(register_bits);
	RUN(divisor_hides_data);
	RUN(linux_probe);
	RUN(linux_startup_tests);
	RUN(transmit_interrupt);
	RUN(interrupt_driven_loses_nothing);
	RUN(polling_writer_is_counted);
	RUN(receive);
	RUN(trigger_levels);
	RUN(fifo_clear_and_modes);
	RUN(input_waits_for_driver);
	RUN(loopback);
	RUN(modem_status);
	RUN(priorities);
	RUN(wide_and_outside);
	RUN(without_console);
	RUN(pause_keeps_input);
	RUN(pause_holds_the_transmitter);
	RUN(state_comes_back);
	RUN(state_layout);
	RUN(damaged_state);
	return TEST_RESULT();
}
