/* SPDX-License-Identifier: MIT */
/*
 * The VM object on the real /dev/kvm, with a guest of a few instructions: pauses that lose and repeat
 * nothing, the dirty log, memory that comes and goes, interrupt lines.
 */
#include "tests/unit/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>
#include "arch/arch.h"
#include "vm/dirty.h"
#include "vm/event.h"
#include "vm/irq.h"
#include "vm/kvm.h"
#include "vm/log.h"
#include "vm/region.h"
#include "vm/vcpu.h"
#include "vm/vm.h"

#define PORT	 0x300 /* reads 0x5a */
#define PORT_BAD 0x301 /* written to when a read was wrong */
#define MMIO	 0xd0000000
#define ENTRY	 0x1000
#define COUNTER	 0x2000
#define ENTRY2	 0x1100
#define NEW	 0xc0103000 /* in the hole */

/*
 * Real mode with a data segment of 4 GiB. Reads the port and the device, checks both, counts:
 *	mov dx, PORT; 1: in al, dx; cmp al, 0x5a; jne 2f; mov eax, [MMIO]; cmp eax, 0x5a5a5a5a; jne 2f
 *	inc dword [COUNTER]; jmp 1b; 2: mov dx, PORT_BAD; out dx, al; hlt
 */
static const uint8_t code[] = {
	0xba, 0x00, 0x03, 0xec, 0x3c, 0x5a, 0x75, 0x16, 0x67, 0x66, 0xa1, 0x00, 0x00, 0x00, 0xd0, 0x66, 0x3d, 0x5a,
	0x5a, 0x5a, 0x5a, 0x75, 0x07, 0x66, 0xff, 0x06, 0x00, 0x20, 0xeb, 0xe5, 0xba, 0x01, 0x03, 0xee, 0xf4,
};
/* mov dx, PORT + 2; 1: inc dword [NEW]; out dx, al; jmp 1b */
static const uint8_t code2[] = { 0xba, 0x02, 0x03, 0x67, 0x66, 0xff, 0x05, 0x00, 0x30, 0x10, 0xc0, 0xee, 0xeb, 0xf5 };

static struct kvm host;
static struct event_loop loop;
static struct vm vm;
static atomic_ulong port_reads, mmio_reads, bad, outs;
static char why[LOG_SENTENCE];

static void port(void *opaque, uint64_t offset, uint8_t *data, unsigned int len, bool write)
{
	if (offset == 0 && !write) {
		data[0] = 0x5a;
		port_reads++;
	} else if (offset == PORT_BAD - PORT) {
		bad++;
	} else {
		outs++;
	}
}

static void mmio(void *opaque, uint64_t offset, uint8_t *data, unsigned int len, bool write)
{
	memset(data, 0x5a, len);
	mmio_reads++;
}

static void go_to(uint64_t rip)
{
	struct kvm_regs regs = { .rip = rip, .rflags = 2, .rsp = 0x8000 };

	CHECK_EQ(kvm_ioctl(vm.vcpus[0].fd, KVM_SET_REGS, &regs), 0);
}

static void setup(void)
{
	const struct vm_config config = { .nr_vcpus = 1, .ram_size = arch_min_ram };
	struct kvm_sregs sregs;

	port_reads = mmio_reads = bad = outs = 0;
	CHECK_EQ(vm_create(&vm, &host, &loop, &config), 0);
	CHECK_EQ(bus_add(&vm.pio, PORT, 4, port, NULL, "port"), 0);
	CHECK_EQ(bus_add(&vm.mmio, MMIO, 0x1000, mmio, NULL, "device"), 0);
	memory_write(&vm.mem, ENTRY, code, sizeof(code));
	memory_write(&vm.mem, ENTRY2, code2, sizeof(code2));
	CHECK_EQ(kvm_ioctl(vm.vcpus[0].fd, KVM_GET_SREGS, &sregs), 0);
	sregs.cs.base = sregs.ds.base = 0;
	sregs.cs.selector = sregs.ds.selector = 0;
	sregs.ds.limit = 0xffffffff;
	sregs.ds.g = 1;
	CHECK_EQ(kvm_ioctl(vm.vcpus[0].fd, KVM_SET_SREGS, &sregs), 0);
	go_to(ENTRY);
}

static uint32_t word(uint64_t gpa)
{
	uint32_t value = 0;

	CHECK_EQ(memory_read(&vm.mem, gpa, &value, sizeof(value)), 0);
	return value;
}

static void ms(unsigned int n)
{
	usleep(n * 1000);
}

/* Until the word grows; false after ten seconds. */
static bool grows(uint64_t gpa)
{
	uint32_t before = word(gpa);

	for (int i = 0; i < 10000 && word(gpa) == before; i++)
		ms(1);
	return word(gpa) != before;
}

/*
 * What the registers say and what the devices saw agree: the answer to the last exit has been taken.
 * Between the reads and the end of "inc" the round is one that the counter does not have yet.
 */
static void consistent(void)
{
	struct kvm_regs regs = { 0 };
	uint32_t count = word(COUNTER);

	CHECK_EQ(kvm_ioctl(vm.vcpus[0].fd, KVM_GET_REGS, &regs), 0);
	regs.rip -= ENTRY;
	CHECK_EQ(port_reads, count + (regs.rip > 3 && regs.rip < 28));
	CHECK_EQ(mmio_reads, count + (regs.rip > 8 && regs.rip < 28));
}

static void pauses(void)
{
	setup();
	CHECK_EQ(vm_start(&vm), 0);
	CHECK(grows(COUNTER));
	for (int i = 0; i < 200; i++) {
		unsigned long reads;
		uint32_t count;

		CHECK_EQ(vm_pause(&vm), 0);
		consistent();
		count = word(COUNTER);
		reads = port_reads + mmio_reads;
		if (i % 20 == 0)
			ms(2);
		CHECK_EQ(word(COUNTER), count);
		CHECK_EQ(port_reads + mmio_reads, reads);
		CHECK_EQ(vm_resume(&vm), 0);
		if (i % 20 == 0)
			CHECK(grows(COUNTER));
	}
	CHECK_EQ(vm_pause(&vm), 0);
	CHECK_EQ(bad, 0);
	vm_destroy(&vm);
}

static char runs[1024];

static int note(void *opaque, uint64_t gpa, uint64_t size, const uint8_t *hva)
{
	size_t len = strlen(runs);

	snprintf(runs + len, sizeof(runs) - len, "%#llx+%#llx ", (unsigned long long)gpa, (unsigned long long)size);
	return 0;
}

static const char *dirt(void)
{
	runs[0] = '\0';
	CHECK_EQ(vm_dirty_collect(&vm, why), 0);
	dirty_each(&vm.mem, note, NULL);
	dirty_clear(&vm.mem);
	return runs;
}

static void memory_and_dirt(void)
{
	struct region_spec spec = { .gpa = NEW & ~0xfffull, .size = 0x4000 };
	uint32_t slot;
	bool exact;

	setup();
	CHECK_EQ(vm_start(&vm), 0);
	CHECK(grows(COUNTER));
	CHECK_EQ(vm_pause(&vm), 0);
	CHECK_EQ(vm_dirty_enable(&vm, why), 0);
	exact = dirty_method(&vm.mem) != DIRTY_ALL;
	if (!exact)
		printf("  skipped in part: the host can't tell who writes\n");
	if (exact)
		CHECK_STR(dirt(), "");
	CHECK_EQ(vm_resume(&vm), 0);
	CHECK(grows(COUNTER));
	CHECK_EQ(vm_pause(&vm), 0);
	*(volatile uint8_t *)memory_ptr(&vm.mem, 0x500000, 1) = 1; /* as a device */
	if (exact)
		CHECK_STR(dirt(), "0x2000+0x1000 0x500000+0x1000 ");
	CHECK_EQ(vm_memory_add(&vm, &spec, &slot, why), 0);
	if (exact)
		CHECK_STR(dirt(), "0xc0103000+0x4000 ");
	go_to(ENTRY2);
	CHECK_EQ(vm_resume(&vm), 0);
	CHECK(grows(NEW));
	CHECK_EQ(vm_pause(&vm), 0);
	CHECK(outs - word(NEW) <= 1 || word(NEW) - outs <= 1);
	if (exact)
		CHECK_STR(dirt(), "0xc0103000+0x1000 ");
	CHECK_EQ(vm_dirty_disable(&vm, why), 0);
	go_to(ENTRY);
	CHECK_EQ(vm_memory_remove(&vm, slot, why), 0);
	CHECK_EQ(vm_resume(&vm), 0);
	CHECK(grows(COUNTER));
	CHECK_EQ(bad, 0);
	vm_destroy(&vm);
}

/* The IOAPIC's inputs, as KVM has them: a line that is up shows in IRR. */
static uint32_t lines_up(void)
{
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };

	CHECK_EQ(kvm_ioctl(vm.fd, KVM_GET_IRQCHIP, &chip), 0);
	return chip.chip.ioapic.irr;
}

static void lines(void)
{
	int edge = eventfd(0, EFD_CLOEXEC), level = eventfd(0, EFD_CLOEXEC), ack = eventfd(0, EFD_CLOEXEC);

	setup();
	for (uint32_t gsi = 0; gsi <= 64; gsi++) {
		int ret = irq_set_level(&vm.irqs, gsi, true);

		CHECK_EQ(ret, gsi < 24 ? 0 : -EINVAL);
		CHECK_EQ(lines_up(), gsi < 24 ? 1u << gsi : 0);
		if (!ret)
			CHECK_EQ(irq_set_level(&vm.irqs, gsi, false), 0);
		CHECK_EQ(lines_up(), 0);
	}
	CHECK_EQ(irq_pulse(&vm.irqs, 7), 0);
	CHECK_EQ(lines_up(), 0);
	CHECK_EQ(irq_fd_add(&vm.irqs, edge, 10, -1, why), 0);
	CHECK_EQ(irq_fd_add(&vm.irqs, level, 11, ack, why), 0);
	CHECK_EQ(irq_fd_remove(&vm.irqs, edge, 10, why), 0);
	CHECK_EQ(irq_fd_add(&vm.irqs, edge, 10, -1, why), 0);
	CHECK_EQ(eventfd_write(edge, 1), 0);
	CHECK_EQ(eventfd_write(level, 1), 0);
	for (int i = 0; i < 1000 && lines_up() != 1u << 11; i++)
		ms(1);
	/* The edge has gone, the level waits to be acknowledged. */
	CHECK_EQ(lines_up(), 1u << 11);
	vm_destroy(&vm);
	close(edge);
	close(level);
	close(ack);
}

int main(void)
{
	/* Where the machine has none, or one that the tests may not use, vm/ is tested by its fakes alone. */
	if (access("/dev/kvm", R_OK | W_OK)) {
		printf("skip all: there is no /dev/kvm here\n");
		return 0;
	}
	alarm(200);
	log_set_fd(open("/dev/null", O_WRONLY | O_CLOEXEC), false);
	if (kvm_open(&host) || event_loop_init(&loop) || vcpu_init_signals()) {
		printf("FAIL open\n");
		return 1;
	}
	RUN(pauses);
	RUN(memory_and_dirt);
	RUN(lines);
	event_loop_fini(&loop);
	kvm_close(&host);
	return TEST_RESULT();
}
