/* SPDX-License-Identifier: MIT */
/*
 * A 16550A UART: registers, FIFOs and interrupts. Source: National Semiconductor PC16550D data
 * sheet.
 *
 * Output never makes a vCPU wait. When the console's ring is full, a driver that sends from the
 * "transmitter empty" interrupt is held back (no interrupt until there is room), and what a polling
 * driver writes is dropped and counted.
 */
#ifndef VM_SERIAL_H
#define VM_SERIAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "vm/state_file.h"

#define SERIAL_REGS 8

/*
 * FCR and LCR: what is written there shows in nothing but later accesses, so that it may come late
 * (vm/coalesced.h). Input that comes meanwhile is as good as input before: a driver that clears the
 * FIFO takes none yet.
 */
#define SERIAL_QUIET	2
#define SERIAL_NR_QUIET 2

struct serial;
struct console;
struct state_reader;
struct state_writer;

typedef void serial_irq_fn(void *opaque, bool level);

/*
 * The UART on @console's end (may be NULL: nothing attached). @set_irq is called, with the UART's
 * lock held, at each change of its interrupt output. 0 or -ENOMEM; logs.
 */
int serial_create(struct serial **serial, struct console *console, serial_irq_fn *set_irq, void *opaque);
void serial_destroy(struct serial *serial);

/*
 * While paused it takes no input, so that its state and its interrupt line stand still. vCPUs are
 * paused. On resume it asks for the input that came meanwhile. A second time either does nothing.
 */
void serial_pause(struct serial *serial);
void serial_resume(struct serial *serial);

/* Its section, instance 0; docs/snapshot.md draws it. */
#define SERIAL_STATE	     STATE_TAG('U', 'A', 'R', 'T')
#define SERIAL_STATE_VERSION 1

/*
 * Saves a paused UART, and puts a new one into that state, paused, its interrupt line included
 * (set_irq is called with the level, high or low). load: 0 or what state_reader_section_end()
 * returns.
 */
void serial_save(struct serial *serial, struct state_writer *w);
int serial_load(struct serial *serial, const struct state_reader *r);

/*
 * A bus_fn; @opaque is the struct serial. Registers are one byte apart; wider accesses split into
 * bytes.
 */
void serial_access(void *opaque, uint64_t offset, uint8_t *data, unsigned int len, bool write);

#endif
