/* SPDX-License-Identifier: MIT */
#include "vm/irq.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "arch/arch.h"
#include "vm/kvm.h"
#include "vm/log.h"

void irq_init(struct irqs *irqs, int vm_fd)
{
	memset(irqs, 0, sizeof(*irqs));
	irqs->vm_fd = vm_fd;
}

int irq_line_get(struct irqs *irqs, uint32_t gsi, struct irq_line **line)
{
	struct irq_line *new;
	int ret;

	for (unsigned int i = 0; i < irqs->nr; i++) {
		if (irqs->line[i].gsi == gsi) {
			*line = &irqs->line[i];
			return 0;
		}
	}
	if (irqs->nr == IRQ_MAX_LINES) {
		log_err("GSI %u: no more than %d interrupt lines", gsi, IRQ_MAX_LINES);
		return -ENOSPC;
	}
	new = &irqs->line[irqs->nr];
	new->gsi = gsi;
	new->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (new->fd < 0) {
		ret = -errno;
		log_err("GSI %u: eventfd: %s: check ulimit -n", gsi, errno_name(ret));
		return ret;
	}
	if (irqs->vm_fd >= 0) {
		struct kvm_irqfd irqfd = { .fd = (uint32_t)new->fd, .gsi = gsi };

		ret = kvm_ioctl(irqs->vm_fd, KVM_IRQFD, &irqfd);
		if (ret < 0) {
			close(new->fd);
			return ret;
		}
	}
	irqs->nr++;
	*line = new;
	return 0;
}

void irq_line_pulse(const struct irq_line *line)
{
	uint64_t one = 1;

	/* EAGAIN means that 2^64 - 2 pulses wait: the line is pulsed anyway. */
	if (write(line->fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
		log_limited(LOG_ERROR, "GSI %u: eventfd: %s", line->gsi, errno_name(errno));
}

int irq_set_level(struct irqs *irqs, uint32_t gsi, bool level)
{
	struct kvm_irq_level arg = { .irq = arch_irq_number(gsi), .level = level };

	if (irqs->vm_fd < 0)
		return 0;
	return kvm_ioctl(irqs->vm_fd, KVM_IRQ_LINE, &arg);
}

void irq_fini(struct irqs *irqs)
{
	for (unsigned int i = 0; i < irqs->nr; i++) {
		struct kvm_irqfd irqfd = {
			.fd = (uint32_t)irqs->line[i].fd,
			.gsi = irqs->line[i].gsi,
			.flags = KVM_IRQFD_FLAG_DEASSIGN,
		};

		if (irqs->vm_fd >= 0)
			kvm_ioctl(irqs->vm_fd, KVM_IRQFD, &irqfd);
		close(irqs->line[i].fd);
	}
	irqs->nr = 0;
}
