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

#define SERIAL_REGS 8

struct serial;
struct console;

typedef void serial_irq_fn(void *opaque, bool level);

/*
 * The UART on @console's end (may be NULL: nothing attached). @set_irq is called, with the UART's
 * lock held, at each change of its interrupt output. 0 or -ENOMEM.
 */
int serial_create(struct serial **serial, struct console *console, serial_irq_fn *set_irq, void *opaque);
void serial_destroy(struct serial *serial);

/*
 * A bus_fn; @opaque is the struct serial. Registers are one byte apart; wider accesses split into
 * bytes.
 */
void serial_access(void *opaque, uint64_t offset, uint8_t *data, unsigned int len, bool write);

#endif
