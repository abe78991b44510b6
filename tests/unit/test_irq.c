/* SPDX-License-Identifier: MIT */
/* Interrupt numbers, lines and eventfds from outside, over a KVM that keeps book. */
#include "tests/unit/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <unistd.h>
#include "arch/arch.h"
#include "vm/irq.h"
#include "vm/kvm.h"
#include "vm/log.h"

#define FD 1000000

static struct {
	unsigned int calls, fail_at; /* the how manieth fails, from 1; 0: none */
	struct kvm_irq_level level[4];
	unsigned int nr_levels;
	struct kvm_irqfd bound[200];
	unsigned int nr_bound;
	int mistakes;
} kvm;

static int irqfd(const struct kvm_irqfd *arg)
{
	for (unsigned int i = 0; i < kvm.nr_bound; i++) {
		if (kvm.bound[i].fd != arg->fd)
			continue;
		if (!(arg->flags & KVM_IRQFD_FLAG_DEASSIGN))
			return -EBUSY;
		if (kvm.bound[i].gsi != arg->gsi)
			kvm.mistakes++;
		kvm.bound[i] = kvm.bound[--kvm.nr_bound];
		return 0;
	}
	if (arg->flags & KVM_IRQFD_FLAG_DEASSIGN)
		kvm.mistakes++;
	else
		kvm.bound[kvm.nr_bound++] = *arg;
	return 0;
}

int kvm_ioctl_named(int fd, unsigned long request, const char *name, void *arg)
{
	if (fd != FD)
		kvm.mistakes++;
	if (++kvm.calls == kvm.fail_at)
		return -EINVAL;
	if (request == KVM_IRQFD)
		return irqfd(arg);
	if (request == KVM_IRQ_LINE)
		kvm.level[kvm.nr_levels++ % 4] = *(const struct kvm_irq_level *)arg;
	else
		kvm.mistakes++;
	return 0;
}

static struct irqs irqs;
static char why[LOG_SENTENCE];

static void setup(void)
{
	memset(&kvm, 0, sizeof(kvm));
	irq_init(&irqs, FD);
}

static void teardown(void)
{
	irq_fini(&irqs);
	CHECK_EQ(kvm.nr_bound, 0);
	CHECK_EQ(kvm.mistakes, 0);
}

/* What KVM_IRQ_LINE takes for @gsi, or ARCH_NO_IRQ: the architectures' tables, a second time. */
static uint32_t wanted(uint32_t gsi)
{
	if (!strcmp(arch_name, "x86_64"))
		return gsi <= 23 ? gsi : ARCH_NO_IRQ; /* the IOAPIC's pins */
	return gsi <= 63 ? 0x01000020 + gsi : ARCH_NO_IRQ; /* SPIs up to INTID 95 */
}

static void every_number(void)
{
	static const uint32_t far[] = { 65, 95, 96, 127, 992, 1019, 1024, 4095, 0xffffff, 0x1000000, 0x7fffffff,
					0xffffffdf, 0xffffffe0, 0xfffffffe, 0xffffffff };
	unsigned int good = 0;

	for (unsigned int i = 0; i < 65 + sizeof(far) / sizeof(*far); i++) {
		uint32_t gsi = i < 65 ? i : far[i - 65], number = wanted(gsi);
		struct irq_line *line;

		setup();
		CHECK_EQ(arch_irq_number(gsi), number);
		if (number == ARCH_NO_IRQ) {
			CHECK_EQ(irq_set_level(&irqs, gsi, true), -EINVAL);
			CHECK_EQ(irq_pulse(&irqs, gsi), -EINVAL);
			CHECK_EQ(irq_line_get(&irqs, gsi, &line), -EINVAL);
			CHECK_EQ(irq_fd_add(&irqs, 5, gsi, -1, why), -EINVAL);
			CHECK(strstr(why, "interrupt controller has 0 to "));
			CHECK_EQ(irq_fd_add(&irqs, 5, gsi, 6, why), -EINVAL);
			CHECK_EQ(kvm.calls, 0);
		} else {
			good++;
			CHECK_EQ(irq_set_level(&irqs, gsi, true), 0);
			CHECK_EQ(irq_pulse(&irqs, gsi), 0);
			CHECK_EQ(kvm.nr_levels, 3);
			for (unsigned int k = 0; k < 3; k++) {
				CHECK_EQ(kvm.level[k].irq, number);
				CHECK_EQ(kvm.level[k].level, k < 2);
			}
			CHECK_EQ(irq_fd_add(&irqs, 5, gsi, -1, why), 0);
			CHECK_EQ(kvm.bound[0].gsi, gsi);
			CHECK_EQ(irq_fd_remove(&irqs, 5, gsi, why), 0);
			CHECK_EQ(irq_line_get(&irqs, gsi, &line), 0);
			CHECK_EQ(kvm.bound[0].gsi, gsi);
			CHECK_EQ((int)kvm.bound[0].fd, line->fd);
		}
		teardown();
	}
	CHECK_EQ(good, strcmp(arch_name, "x86_64") ? 64 : 24);
}

static void fds_from_outside(void)
{
	struct irq_line *line;

	setup();
	CHECK_EQ(irq_line_get(&irqs, 5, &line), 0);
	CHECK_EQ(irq_fd_add(&irqs, 100, 5, -1, why), -EBUSY);
	CHECK_STR(why, "interrupt 5: it is a device's of this machine");
	CHECK_EQ(irq_fd_add(&irqs, 100, 5, 200, why), -EBUSY);

	CHECK_EQ(irq_fd_add(&irqs, 100, 6, -1, why), 0);
	CHECK_EQ(kvm.bound[1].flags, 0);
	CHECK_EQ(irq_line_get(&irqs, 6, &line), -EBUSY);
	CHECK_EQ(irq_fd_add(&irqs, 101, 6, -1, why), -EBUSY); /* would swallow a pulse */
	CHECK_EQ(irq_fd_add(&irqs, 101, 6, 200, why), -EBUSY);
	CHECK_EQ(irq_fd_add(&irqs, 100, 7, -1, why), -EBUSY);
	CHECK_STR(why, "interrupt 7: the eventfd is bound to interrupt 6");

	/* Levels may share a line. */
	CHECK_EQ(irq_fd_add(&irqs, 110, 7, 210, why), 0);
	CHECK_EQ(kvm.bound[2].flags, KVM_IRQFD_FLAG_RESAMPLE);
	CHECK_EQ(kvm.bound[2].resamplefd, 210);
	CHECK_EQ(irq_fd_add(&irqs, 111, 7, 211, why), 0);
	CHECK_EQ(irq_fd_add(&irqs, 112, 7, -1, why), -EBUSY);

	CHECK_EQ(irq_fd_remove(&irqs, 110, 6, why), -ENOENT);
	CHECK_STR(why, "interrupt 6: the eventfd is not bound to it");
	CHECK_EQ(irq_fd_remove(&irqs, 112, 7, why), -ENOENT);
	CHECK_EQ(irq_fd_remove(&irqs, 110, 7, why), 0);
	CHECK_EQ(irq_fd_remove(&irqs, 110, 7, why), -ENOENT);
	CHECK_EQ(irq_fd_remove(&irqs, 100, 6, why), 0);
	CHECK_EQ(irq_line_get(&irqs, 6, &line), 0);
	CHECK_EQ(kvm.nr_bound, 3);
	teardown(); /* unbinds what is left: 5, 6 and 7 */
}

static void failures(void)
{
	struct irq_line *line;

	setup();
	kvm.fail_at = 1;
	CHECK_EQ(irq_fd_add(&irqs, 100, 3, 200, why), -EINVAL);
	CHECK(strstr(why, "KVM_CAP_IRQFD_RESAMPLE"));
	CHECK_EQ(irqs.nr_fds, 0);
	kvm.fail_at = kvm.calls + 1;
	CHECK_EQ(irq_line_get(&irqs, 3, &line), -EINVAL);
	CHECK_EQ(irqs.nr, 0);
	CHECK_EQ(irq_fd_add(&irqs, 100, 3, 200, why), 0);
	kvm.fail_at = kvm.calls + 1;
	CHECK_EQ(irq_fd_remove(&irqs, 100, 3, why), -EINVAL);
	CHECK_EQ(irqs.nr_fds, 1);
	kvm.fail_at = kvm.calls + 1;
	CHECK_EQ(irq_pulse(&irqs, 3), -EINVAL);
	CHECK_EQ(kvm.nr_levels, 0);
	kvm.fail_at = 0;
	for (int i = 1; i < IRQ_MAX_FDS; i++)
		CHECK_EQ(irq_fd_add(&irqs, 1000 + i, 7, 2000 + i, why), 0);
	CHECK_EQ(irq_fd_add(&irqs, 100000, 7, 100001, why), -ENOSPC);
	teardown();
}

int main(void)
{
	log_set_fd(open("/dev/null", O_WRONLY), false);
	RUN(every_number);
	RUN(fds_from_outside);
	RUN(failures);
	return TEST_RESULT();
}
