/* SPDX-License-Identifier: MIT */
/*
 * Interrupt lines into KVM's interrupt controller. A "GSI" here is what KVM_IRQFD takes.
 *
 * One eventfd and one irqfd a GSI: devices that share a GSI share both, since two irqfds on one
 * edge-triggered line swallow each other's pulse. Irqfds from outside (irq_fd_add()) keep to the
 * same rule; those with a resample fd, which hold a level until it is acknowledged, can share.
 *
 * A GSI that the interrupt controller doesn't have is refused everywhere: KVM would take it and
 * deliver nothing. Lines and irqfds are made and removed on one thread.
 */
#ifndef VM_IRQ_H
#define VM_IRQ_H

#include <stdbool.h>
#include <stdint.h>
#include "vm/log.h"

#define IRQ_MAX_LINES 64
#define IRQ_MAX_FDS   64 /* from outside */

struct irq_line {
	uint32_t gsi;
	int fd; /* eventfd: a write of 1 pulses the line, by anybody, vhost too */
};

/* An eventfd from outside, bound to a line. */
struct irq_fd {
	uint32_t gsi;
	int fd;
	int resample_fd; /* -1: an edge */
};

struct irqs {
	int vm_fd; /* -1: eventfds only (unit tests) */
	unsigned int nr;
	struct irq_line line[IRQ_MAX_LINES];
	unsigned int nr_fds;
	struct irq_fd fds[IRQ_MAX_FDS];
};

void irq_init(struct irqs *irqs, int vm_fd);

/*
 * The line of @gsi, made and bound to KVM (KVM_IRQFD) at the first call. It belongs to @irqs.
 * 0 or -errno: -EINVAL (no such line), -EBUSY (it has an irqfd from outside); logs.
 */
int irq_line_get(struct irqs *irqs, uint32_t gsi, struct irq_line **line);

/* Pulses an edge-triggered line. Any thread. */
void irq_line_pulse(const struct irq_line *line);

/*
 * KVM_IRQ_LINE through the architecture's numbering: sets @gsi's level, which stays until it is set
 * anew. Any thread. 0 or -errno: -EINVAL (no such line); logs.
 */
int irq_set_level(struct irqs *irqs, uint32_t gsi, bool level);

/* @gsi up and down again: one interrupt where the guest takes it as an edge. As irq_set_level(). */
int irq_pulse(struct irqs *irqs, uint32_t gsi);

/*
 * Binds the caller's eventfd @fd to @gsi until irq_fd_remove() or irq_fini(). It stays the caller's.
 * @resample_fd -1: a write to @fd is an edge. Else the write holds the line up until the guest
 * acknowledges the interrupt; then KVM takes it down and writes to @resample_fd (api.rst 4.75).
 * 0 or -errno, with the reason as a sentence in @why (may be NULL) and in the log: -EINVAL (no such
 * line), -EBUSY (the line or @fd is taken), -ENOSPC, or what KVM said.
 */
int irq_fd_add(struct irqs *irqs, int fd, uint32_t gsi, int resample_fd, char why[LOG_SENTENCE]);

/* Undoes that. -ENOENT: @fd is not bound to @gsi. */
int irq_fd_remove(struct irqs *irqs, int fd, uint32_t gsi, char why[LOG_SENTENCE]);

/* Unbinds every irqfd and closes the eventfds of lines. */
void irq_fini(struct irqs *irqs);

#endif
