/* SPDX-License-Identifier: MIT */
#include "vm/serial.h"

#include <errno.h>
#include <linux/serial_reg.h>
#include <pthread.h>
#include <stdlib.h>
#include "vm/console.h"
#include "vm/log.h"
#include "vm/state_reader.h"
#include "vm/state_writer.h"

#define SERIAL_FIFO 16

/* The bits of each register that exist; the others read 0. */
#define IER_BITS (UART_IER_MSI | UART_IER_RLSI | UART_IER_THRI | UART_IER_RDI)
#define MCR_BITS (UART_MCR_LOOP | UART_MCR_OUT2 | UART_MCR_OUT1 | UART_MCR_RTS | UART_MCR_DTR)

/* IIR bits 7 and 6 while the FIFOs are on (PC16550D, 8.6). */
#define IIR_FIFO_ON 0xc0

/* What the other end of the cable says: always there, always ready. */
#define MSR_LINES (UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS)

/*
 * Lock order: this lock, then the console's own, which is a leaf: console_write(), console_room(),
 * console_drop() and console_resume_input() may be called with it held, and never call back.
 * console_attach() and console_detach() are called without it. The console calls the sink's
 * functions with no lock of its own held.
 */
struct serial {
	pthread_mutex_t lock;
	struct console *console;
	struct console_sink sink;
	serial_irq_fn *set_irq;
	void *opaque;

	uint8_t ier;
	uint8_t fcr;
	uint8_t lcr;
	uint8_t mcr;
	uint8_t lsr_errors; /* OE, kept until LSR is read */
	uint8_t msr;	    /* the deltas and the lines */
	uint8_t scr;
	uint8_t dll;
	uint8_t dlm;

	uint8_t rx[SERIAL_FIFO];
	unsigned int rx_head; /* the oldest byte */
	unsigned int rx_count;
	bool rx_refused; /* the console has input that found no room */

	bool thre_irq; /* the "transmitter empty" interrupt is due: reading it in IIR ends it */
	bool tx_held;  /* and it is not, until the console has room */

	bool mcr_written;
	bool polled;
	bool irq_level;
	bool paused; /* nothing changes but by a driver's access */
};

static bool fifo_on(const struct serial *s)
{
	return s->fcr & UART_FCR_ENABLE_FIFO;
}

static unsigned int rx_size(const struct serial *s)
{
	return fifo_on(s) ? SERIAL_FIFO : 1;
}

/* The cause with the highest priority, as IIR bits 3 to 0 (PC16550D, table 4). */
static uint8_t irq_cause(const struct serial *s)
{
	static const uint8_t trigger[] = {1, 4, 8, 14};

	if ((s->ier & UART_IER_RLSI) && s->lsr_errors)
		return UART_IIR_RLSI;
	if ((s->ier & UART_IER_RDI) && s->rx_count) {
		/*
		 * Below the trigger level the FIFO waits four character times and then says
		 * "time-out". No line has a speed here: it says so at once, so input never sticks.
		 */
		if (!fifo_on(s) || s->rx_count >= trigger[s->fcr >> 6])
			return UART_IIR_RDI;
		return UART_IIR_RX_TIMEOUT;
	}
	if ((s->ier & UART_IER_THRI) && s->thre_irq)
		return UART_IIR_THRI;
	if ((s->ier & UART_IER_MSI) && (s->msr & UART_MSR_ANY_DELTA))
		return UART_IIR_MSI;
	return UART_IIR_NO_INT;
}

/*
 * MCR's OUT2 does not gate the output: it does on a PC's card, by a buffer outside the chip, but
 * not on the boards that an arm64 driver knows. A driver that expects the gate sets OUT2.
 */
static void irq_update(struct serial *s)
{
	bool level = irq_cause(s) != UART_IIR_NO_INT;

	if (level == s->irq_level)
		return;
	s->irq_level = level;
	if (s->set_irq)
		s->set_irq(s->opaque, level);
}

/*
 * The transmitter is always empty; but whoever sends from its interrupt is told so only while the
 * console can take a FIFO of bytes with ease, else when the console calls serial_room().
 */
static void tx_ready(struct serial *s)
{
	s->tx_held = s->console && console_room(s->console) < CONSOLE_RESERVE;
	s->thre_irq = !s->tx_held;
}

static void tx_byte(struct serial *s, uint8_t byte)
{
	if (s->console && !console_write(s->console, &byte, 1))
		console_drop(s->console, 1);
}

/*
 * False, and an overrun, when there is no room: the newcomer is lost, as in the chip's shift
 * register.
 */
static bool rx_byte(struct serial *s, uint8_t byte)
{
	if (s->rx_count >= rx_size(s)) {
		s->lsr_errors |= UART_LSR_OE;
		return false;
	}
	s->rx[(s->rx_head + s->rx_count) % SERIAL_FIFO] = byte;
	s->rx_count++;
	return true;
}

/*
 * Does the guest want input? Before its driver listens, input would only be thrown away when that
 * driver starts up and clears the FIFO, so it stays with the host. RTS is the plain sign. Drivers
 * that don't set it enable the receive interrupt (all four interrupts at once is Linux's probe, not
 * a wish), or poll without touching MCR at all.
 */
static bool rx_wanted(const struct serial *s)
{
	if (s->mcr & UART_MCR_LOOP)
		return false;
	if (s->mcr & UART_MCR_RTS)
		return true;
	if ((s->ier & UART_IER_RDI) && s->ier != IER_BITS)
		return true;
	return !s->mcr_written && s->polled;
}

/* Asks the console for what it was refused, once there is room and a wish for it. */
static void rx_resume(struct serial *s)
{
	if (!s->rx_refused || s->rx_count || s->paused || !rx_wanted(s))
		return;
	s->rx_refused = false;
	console_resume_input(s->console);
}

static size_t serial_input(void *opaque, const uint8_t *buf, size_t len)
{
	struct serial *s = opaque;
	size_t n = 0;

	pthread_mutex_lock(&s->lock);
	if (!s->paused && rx_wanted(s)) {
		while (n < len && s->rx_count < rx_size(s))
			rx_byte(s, buf[n++]);
		irq_update(s);
	}
	s->rx_refused = n < len;
	pthread_mutex_unlock(&s->lock);
	return n;
}

static void serial_room(void *opaque)
{
	struct serial *s = opaque;

	pthread_mutex_lock(&s->lock);
	if (s->tx_held && !s->paused) {
		tx_ready(s);
		irq_update(s);
	}
	pthread_mutex_unlock(&s->lock);
}

static uint8_t lsr_value(const struct serial *s)
{
	uint8_t lsr = s->lsr_errors;

	/*
	 * A driver that polls has the interrupt off and never waits. One that has it on is told the
	 * truth while it is held back: some also look here on any interrupt, and would send into a
	 * full ring.
	 */
	if (!(s->tx_held && (s->ier & UART_IER_THRI)))
		lsr |= UART_LSR_THRE | UART_LSR_TEMT;
	if (s->rx_count)
		lsr |= UART_LSR_DR;
	return lsr;
}

/* In loopback the four outputs are wired to the four inputs (PC16550D, 8.7). */
static void msr_update(struct serial *s)
{
	uint8_t lines = MSR_LINES, old = s->msr;

	if (s->mcr & UART_MCR_LOOP) {
		lines = 0;
		if (s->mcr & UART_MCR_RTS)
			lines |= UART_MSR_CTS;
		if (s->mcr & UART_MCR_DTR)
			lines |= UART_MSR_DSR;
		if (s->mcr & UART_MCR_OUT1)
			lines |= UART_MSR_RI;
		if (s->mcr & UART_MCR_OUT2)
			lines |= UART_MSR_DCD;
	}
	s->msr = lines | (old & UART_MSR_ANY_DELTA);
	if ((old ^ lines) & UART_MSR_CTS)
		s->msr |= UART_MSR_DCTS;
	if ((old ^ lines) & UART_MSR_DSR)
		s->msr |= UART_MSR_DDSR;
	if ((old ^ lines) & UART_MSR_DCD)
		s->msr |= UART_MSR_DDCD;
	if (old & ~lines & UART_MSR_RI) /* its trailing edge alone */
		s->msr |= UART_MSR_TERI;
}

static void write_fcr(struct serial *s, uint8_t value)
{
	bool was_on = fifo_on(s);

	/*
	 * Bit 0 must be on for the others to be taken (PC16550D, 8.5). DMA mode has no pins here.
	 */
	s->fcr = value & UART_FCR_ENABLE_FIFO
			 ? value & (UART_FCR_TRIGGER_MASK | UART_FCR_ENABLE_FIFO)
			 : 0;
	/*
	 * The chip also loses a byte that waits while the FIFO is switched on; Linux does that
	 * after it enabled the receive interrupt, and a user's first key is worth more than this
	 * detail.
	 */
	if ((was_on && !fifo_on(s)) || (fifo_on(s) && (value & UART_FCR_CLEAR_RCVR)))
		s->rx_count = 0;
}

static void write_ier(struct serial *s, uint8_t value)
{
	uint8_t rising = value & ~s->ier;

	s->ier = value & IER_BITS;
	/* Linux takes a chip that does not do this for a broken one, and polls it with a timer. */
	if (rising & UART_IER_THRI)
		tx_ready(s);
}

static uint8_t read_reg(struct serial *s, unsigned int reg)
{
	uint8_t value = 0;

	switch (reg) {
	case UART_RX:
		if (s->lcr & UART_LCR_DLAB)
			return s->dll;
		s->polled = true;
		value = s->rx[s->rx_head];
		if (s->rx_count) {
			s->rx_head = (s->rx_head + 1) % SERIAL_FIFO;
			s->rx_count--;
		}
		break;
	case UART_IER:
		return s->lcr & UART_LCR_DLAB ? s->dlm : s->ier;
	case UART_IIR:
		value = irq_cause(s);
		if (value == UART_IIR_THRI)
			s->thre_irq = false;
		if (fifo_on(s))
			value |= IIR_FIFO_ON;
		break;
	case UART_LCR:
		return s->lcr;
	case UART_MCR:
		return s->mcr;
	case UART_LSR:
		s->polled = true;
		value = lsr_value(s);
		s->lsr_errors = 0;
		break;
	case UART_MSR:
		value = s->msr;
		s->msr &= ~UART_MSR_ANY_DELTA;
		break;
	case UART_SCR:
		return s->scr;
	}
	return value;
}

static void write_reg(struct serial *s, unsigned int reg, uint8_t value)
{
	switch (reg) {
	case UART_TX:
		if (s->lcr & UART_LCR_DLAB) {
			s->dll = value;
			return;
		}
		if (s->mcr & UART_MCR_LOOP)
			rx_byte(s, value);
		else
			tx_byte(s, value);
		tx_ready(s);
		break;
	case UART_IER:
		if (s->lcr & UART_LCR_DLAB) {
			s->dlm = value;
			return;
		}
		write_ier(s, value);
		break;
	case UART_FCR:
		write_fcr(s, value);
		break;
	case UART_LCR:
		s->lcr = value;
		break;
	case UART_MCR:
		s->mcr = value & MCR_BITS;
		s->mcr_written = true;
		msr_update(s);
		break;
	case UART_LSR: /* the factory's own; MSR the same */
	case UART_MSR:
		break;
	case UART_SCR:
		s->scr = value;
		break;
	}
}

void serial_access(void *opaque, uint64_t offset, uint8_t *data, unsigned int len, bool write)
{
	struct serial *s = opaque;

	pthread_mutex_lock(&s->lock);
	for (unsigned int i = 0; i < len && offset < SERIAL_REGS - i; i++) {
		unsigned int reg = (unsigned int)offset + i;

		if (write)
			write_reg(s, reg, data[i]);
		else
			data[i] = read_reg(s, reg);
	}
	irq_update(s);
	rx_resume(s);
	pthread_mutex_unlock(&s->lock);
}

int serial_create(struct serial **serial, struct console *console, serial_irq_fn *set_irq,
		  void *opaque)
{
	struct serial *s = calloc(1, sizeof(*s));

	if (!s) {
		log_err("serial port: ENOMEM");
		return -ENOMEM;
	}
	pthread_mutex_init(&s->lock, NULL);
	s->console = console;
	s->set_irq = set_irq;
	s->opaque = opaque;
	s->dll = 1; /* 115200 baud, for a driver that asks what the firmware left behind */
	s->lcr = UART_LCR_WLEN8;
	s->msr = MSR_LINES;
	s->sink = (struct console_sink){
		.input = serial_input,
		.room = serial_room,
		.opaque = s,
	};
	*serial = s;
	if (console)
		console_attach(console, &s->sink);
	return 0;
}

void serial_destroy(struct serial *s)
{
	if (!s)
		return;
	if (s->console)
		console_detach(s->console, &s->sink);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

void serial_pause(struct serial *s)
{
	pthread_mutex_lock(&s->lock);
	s->paused = true;
	pthread_mutex_unlock(&s->lock);
}

void serial_resume(struct serial *s)
{
	pthread_mutex_lock(&s->lock);
	if (s->paused) {
		s->paused = false;
		/* The console may have said meanwhile that it has room; or it is another one now. */
		if (s->tx_held)
			tx_ready(s);
		irq_update(s);
		rx_resume(s);
	}
	pthread_mutex_unlock(&s->lock);
}

void serial_save(struct serial *s, struct state_writer *w)
{
	const uint8_t *const reg[] = { &s->ier, &s->fcr, &s->lcr, &s->mcr, &s->lsr_errors,
				       &s->msr, &s->scr, &s->dll, &s->dlm };

	pthread_mutex_lock(&s->lock);
	state_writer_begin(w, SERIAL_STATE, 0, SERIAL_STATE_VERSION);
	for (unsigned int i = 0; i < sizeof(reg) / sizeof(reg[0]); i++)
		state_writer_u8(w, *reg[i]);
	state_writer_bytes(w, s->rx, SERIAL_FIFO);
	state_writer_u8(w, s->rx_head);
	state_writer_u8(w, s->rx_count);
	state_writer_bool(w, s->thre_irq);
	state_writer_bool(w, s->tx_held);
	state_writer_bool(w, s->mcr_written);
	state_writer_bool(w, s->polled);
	state_writer_bool(w, s->irq_level);
	state_writer_end(w);
	pthread_mutex_unlock(&s->lock);
}

/* Is it a state that register accesses lead to? */
static bool possible(const struct serial *s)
{
	uint8_t fcr = fifo_on(s) ? UART_FCR_TRIGGER_MASK | UART_FCR_ENABLE_FIFO : 0;

	return !(s->ier & ~IER_BITS) && !(s->fcr & ~fcr) && !(s->mcr & ~MCR_BITS) &&
	       !(s->lsr_errors & ~UART_LSR_OE) && s->rx_head < SERIAL_FIFO &&
	       s->rx_count <= rx_size(s) && s->irq_level == (irq_cause(s) != UART_IIR_NO_INT);
}

int serial_load(struct serial *s, const struct state_reader *r)
{
	uint8_t *const reg[] = { &s->ier, &s->fcr, &s->lcr, &s->mcr, &s->lsr_errors,
				 &s->msr, &s->scr, &s->dll, &s->dlm };
	struct state_section in;
	bool level;
	int ret;

	ret = state_reader_section(r, &in, SERIAL_STATE, 0);
	if (ret)
		return ret;
	pthread_mutex_lock(&s->lock);
	s->paused = true;
	level = s->irq_level;
	for (unsigned int i = 0; i < sizeof(reg) / sizeof(reg[0]); i++)
		*reg[i] = state_reader_u8(&in);
	state_reader_bytes(&in, s->rx, SERIAL_FIFO);
	s->rx_head = state_reader_u8(&in);
	s->rx_count = state_reader_u8(&in);
	s->thre_irq = state_reader_bool(&in);
	s->tx_held = state_reader_bool(&in);
	s->mcr_written = state_reader_bool(&in);
	s->polled = state_reader_bool(&in);
	s->irq_level = state_reader_bool(&in);
	if (!in.err && !possible(s))
		state_reader_bad(&in, "registers that can't be: IER %#x, FCR %#x, MCR %#x", s->ier, s->fcr,
				 s->mcr);
	ret = state_reader_section_end(&in);
	if (ret) {
		/* Whoever touches it before it is destroyed finds no index beyond the FIFO. */
		s->rx_head = s->rx_count = 0;
		s->irq_level = level;
	} else if (s->set_irq) {
		s->set_irq(s->opaque, s->irq_level);
	}
	pthread_mutex_unlock(&s->lock);
	return ret;
}
