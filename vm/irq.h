/* SPDX-License-Identifier: MIT */
/*
 * Interrupt lines into KVM's interrupt controller. A "GSI" here is what KVM_IRQFD takes.
 *
 * One eventfd and one irqfd a GSI: devices that share a GSI share both, since two irqfds on one
 * edge-triggered line swallow each other's pulse.
 */
#ifndef VM_IRQ_H
#define VM_IRQ_H

#include <stdbool.h>
#include <stdint.h>

#define IRQ_MAX_LINES 64

struct irq_line {
	uint32_t gsi;
	int fd; /* eventfd: a write of 1 pulses the line, by anybody, vhost too */
};

struct irqs {
	int vm_fd; /* -1: eventfds only (unit tests) */
	unsigned int nr;
	struct irq_line line[IRQ_MAX_LINES];
};

void irq_init(struct irqs *irqs, int vm_fd);

/*
 * The line of @gsi, made and bound to KVM (KVM_IRQFD) at the first call. It belongs to @irqs.
 * 0 or -errno; logs.
 */
int irq_line_get(struct irqs *irqs, uint32_t gsi, struct irq_line **line);

/* Pulses an edge-triggered line. Any thread. */
void irq_line_pulse(const struct irq_line *line);

/* KVM_IRQ_LINE through the architecture's numbering: sets @gsi's level. Any thread. 0 or -errno. */
int irq_set_level(struct irqs *irqs, uint32_t gsi, bool level);

/* Unbinds every irqfd and closes the eventfds. */
void irq_fini(struct irqs *irqs);

#endif
