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

/* 0, or -EINVAL for a line that isn't there. */
static int check_gsi(uint32_t gsi, char *why)
{
	uint32_t end = 0;

	if (arch_irq_number(gsi) != ARCH_NO_IRQ)
		return 0;
	while (end < gsi && arch_irq_number(end) != ARCH_NO_IRQ)
		end++;
	return log_refuse(why, -EINVAL, "interrupt %u: the machine's interrupt controller has 0 to %u", gsi,
			  end - 1);
}

/* KVM_IRQFD; -1 for no resample fd. 0 or -errno; logs. */
static int set_irqfd(const struct irqs *irqs, int fd, uint32_t gsi, int resample_fd, bool on)
{
	struct kvm_irqfd irqfd = { .fd = (uint32_t)fd, .gsi = gsi };
	int ret;

	if (irqs->vm_fd < 0)
		return 0;
	if (resample_fd >= 0 && on) {
		irqfd.flags |= KVM_IRQFD_FLAG_RESAMPLE;
		irqfd.resamplefd = (uint32_t)resample_fd;
	}
	if (!on)
		irqfd.flags |= KVM_IRQFD_FLAG_DEASSIGN;
	ret = kvm_ioctl(irqs->vm_fd, KVM_IRQFD, &irqfd);
	return ret < 0 ? ret : 0;
}

static const struct irq_fd *fd_of_gsi(const struct irqs *irqs, uint32_t gsi)
{
	for (unsigned int i = 0; i < irqs->nr_fds; i++) {
		if (irqs->fds[i].gsi == gsi)
			return &irqs->fds[i];
	}
	return NULL;
}

int irq_line_get(struct irqs *irqs, uint32_t gsi, struct irq_line **line)
{
	struct irq_line *new;
	int ret;

	ret = check_gsi(gsi, NULL);
	if (ret)
		return ret;
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
	if (fd_of_gsi(irqs, gsi)) {
		log_err("GSI %u: EBUSY: an eventfd from outside is bound to it", gsi);
		return -EBUSY;
	}
	new = &irqs->line[irqs->nr];
	new->gsi = gsi;
	new->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (new->fd < 0) {
		ret = -errno;
		log_err("GSI %u: eventfd: %s: check ulimit -n", gsi, errno_name(ret));
		return ret;
	}
	ret = set_irqfd(irqs, new->fd, gsi, -1, true);
	if (ret) {
		close(new->fd);
		return ret;
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
	int ret = check_gsi(gsi, NULL);

	if (ret || irqs->vm_fd < 0)
		return ret;
	ret = kvm_ioctl(irqs->vm_fd, KVM_IRQ_LINE, &arg);
	return ret < 0 ? ret : 0;
}

int irq_pulse(struct irqs *irqs, uint32_t gsi)
{
	int ret = irq_set_level(irqs, gsi, true);

	return ret ? ret : irq_set_level(irqs, gsi, false);
}

static int check_fd(const struct irqs *irqs, int fd, uint32_t gsi, bool resample, char *why)
{
	const struct irq_fd *other = fd_of_gsi(irqs, gsi);

	for (unsigned int i = 0; i < irqs->nr; i++) {
		if (irqs->line[i].gsi == gsi)
			return log_refuse(why, -EBUSY, "interrupt %u: it is a device's of this machine", gsi);
	}
	if (other && (!resample || other->resample_fd < 0))
		return log_refuse(why, -EBUSY, "interrupt %u: an eventfd is bound to it, and only those with "
				  "a resample eventfd can share", gsi);
	for (unsigned int i = 0; i < irqs->nr_fds; i++) {
		if (irqs->fds[i].fd == fd)
			return log_refuse(why, -EBUSY, "interrupt %u: the eventfd is bound to interrupt %u",
					  gsi, irqs->fds[i].gsi);
	}
	if (irqs->nr_fds == IRQ_MAX_FDS)
		return log_refuse(why, -ENOSPC, "interrupt %u: no more than %d eventfds can be bound", gsi,
				  IRQ_MAX_FDS);
	return 0;
}

int irq_fd_add(struct irqs *irqs, int fd, uint32_t gsi, int resample_fd, char why[LOG_SENTENCE])
{
	int ret = check_gsi(gsi, why);

	if (!ret)
		ret = check_fd(irqs, fd, gsi, resample_fd >= 0, why);
	if (ret)
		return ret;
	ret = set_irqfd(irqs, fd, gsi, resample_fd, true);
	if (ret)
		return log_refuse(why, ret, "interrupt %u: KVM refuses the eventfd%s: %s", gsi,
				  resample_fd >= 0 ? " (with resampling: KVM_CAP_IRQFD_RESAMPLE)" : "",
				  errno_name(ret));
	irqs->fds[irqs->nr_fds++] = (struct irq_fd){ .gsi = gsi, .fd = fd, .resample_fd = resample_fd };
	return 0;
}

int irq_fd_remove(struct irqs *irqs, int fd, uint32_t gsi, char why[LOG_SENTENCE])
{
	for (unsigned int i = 0; i < irqs->nr_fds; i++) {
		int ret;

		if (irqs->fds[i].fd != fd || irqs->fds[i].gsi != gsi)
			continue;
		ret = set_irqfd(irqs, fd, gsi, irqs->fds[i].resample_fd, false);
		if (ret)
			return log_refuse(why, ret, "interrupt %u: KVM keeps the eventfd: %s", gsi,
					  errno_name(ret));
		irqs->fds[i] = irqs->fds[--irqs->nr_fds];
		return 0;
	}
	return log_refuse(why, -ENOENT, "interrupt %u: the eventfd is not bound to it", gsi);
}

void irq_fini(struct irqs *irqs)
{
	for (unsigned int i = 0; i < irqs->nr_fds; i++)
		set_irqfd(irqs, irqs->fds[i].fd, irqs->fds[i].gsi, irqs->fds[i].resample_fd, false);
	for (unsigned int i = 0; i < irqs->nr; i++) {
		set_irqfd(irqs, irqs->line[i].fd, irqs->line[i].gsi, -1, false);
		close(irqs->line[i].fd);
	}
	irqs->nr_fds = 0;
	irqs->nr = 0;
}
