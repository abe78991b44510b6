/* SPDX-License-Identifier: MIT */
/* The small devices on ports, through a bus as a vCPU reaches them. vm_end() only takes notes. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "arch/x86_64/layout.h"
#include "arch/x86_64/platform.h"
#include "tests/unit/test.h"
#include "vm/log.h"
#include "vm/pvpanic.h"
#include "vm/vm.h"

static unsigned int ends;
static enum vm_end last_end;
static const char *last_why;

void vm_end(struct vm *vm, enum vm_end end, const char *why)
{
	(void)vm;
	ends++;
	last_end = end;
	last_why = why;
}

/* No KVM behind the interrupt lines: nothing calls it. */
int kvm_ioctl_named(int fd, unsigned long request, const char *name, void *arg)
{
	(void)fd, (void)request, (void)name, (void)arg;
	return -ENOSYS;
}

static struct vm *vm;
static struct platform *platform;

static void setup(void)
{
	vm = calloc(1, sizeof(*vm));
	if (!vm)
		abort();
	irq_init(&vm->irqs, -1);
	ends = 0;
	last_end = VM_END_NONE;
	last_why = NULL;
	platform = NULL;
	CHECK_EQ(platform_create(&platform, vm), 0);
	if (!platform)
		exit(1);
}

static void teardown(void)
{
	platform_destroy(platform);
	irq_fini(&vm->irqs);
	free(vm);
}

/* As the exit handler does: a read comes zeroed; nobody there reads all ones. */
static uint32_t in(uint16_t port, unsigned int len)
{
	uint8_t data[4] = {0};

	if (!bus_access(&vm->pio, port, data, len, false))
		return UINT32_MAX >> (32 - 8 * len);
	return (uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 |
	       (uint32_t)data[3] << 24;
}

static bool out(uint16_t port, uint32_t value, unsigned int len)
{
	uint8_t data[4] = {(uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16),
			   (uint8_t)(value >> 24)};

	return bus_access(&vm->pio, port, data, len, true);
}

/* Pulses of the GED's line since the last call. */
static uint64_t ged_pulses(void)
{
	struct irq_line *line;
	uint64_t count;

	CHECK_EQ(irq_line_get(&vm->irqs, LAYOUT_GED_GSI, &line), 0);
	if (read(line->fd, &count, sizeof(count)) != sizeof(count))
		return 0;
	return count;
}

static void power_button(void)
{
	setup();
	CHECK_EQ(vm->irqs.nr, 1);
	CHECK_EQ(vm->irqs.line[0].gsi, 9);
	CHECK_EQ(in(LAYOUT_GED, 4), 0);
	platform_power_button(platform);
	CHECK_EQ(ged_pulses(), 1);
	CHECK_EQ(in(LAYOUT_GED, 4), LAYOUT_GED_POWER);
	CHECK_EQ(in(LAYOUT_GED, 4), 0);
	/* Pressed twice before the guest looks: two pulses, one event. */
	platform_power_button(platform);
	platform_power_button(platform);
	CHECK_EQ(ged_pulses(), 2);
	CHECK_EQ(in(LAYOUT_GED, 4), LAYOUT_GED_POWER);
	CHECK_EQ(in(LAYOUT_GED, 4), 0);
	CHECK_EQ(ends, 0);
	teardown();
}

/* Another ID each time, where the tables say; the event and its interrupt beside a button's. */
static void generation(void)
{
	static uint8_t ram[0x100000];
	static const uint8_t none[16];
	uint8_t first[16];
	const uint8_t *id = ram + LAYOUT_VMGENID;
	struct platform_state state;

	setup();
	CHECK_EQ(platform_new_generation(platform), -EFAULT); /* no RAM */
	memory_init(&vm->mem, -1);
	memory_insert(&vm->mem, &(struct memory_region){ .size = sizeof(ram), .hva = ram });
	CHECK_EQ(platform_new_generation(platform), 0);
	memcpy(first, id, sizeof(first));
	CHECK(memcmp(first, none, sizeof(none)));
	CHECK(!memcmp(id - 16, none, 16) && !memcmp(id + 16, none, 16));
	CHECK_EQ(ged_pulses(), 0);
	CHECK_EQ(platform_new_generation(platform), 0);
	CHECK(memcmp(first, id, sizeof(first)));
	platform_generation_event(platform);
	CHECK_EQ(ged_pulses(), 1);
	platform_power_button(platform);
	CHECK_EQ(in(LAYOUT_GED, 4), LAYOUT_GED_POWER | LAYOUT_GED_VMGENID);

	CHECK(out(LAYOUT_CMOS, 0x32, 1));
	platform_power_button(platform);
	ged_pulses();
	platform_get(platform, &state);
	CHECK(state.ged_events == LAYOUT_GED_POWER && state.cmos_index == 0x32);
	teardown();
	setup();
	platform_set(platform, &state);
	CHECK_EQ(ged_pulses(), 0);
	CHECK_EQ(in(LAYOUT_GED, 4), LAYOUT_GED_POWER);
	CHECK(in(LAYOUT_CMOS + 1, 1) >= 0x20); /* the century */
	teardown();
}

static void ged_widths(void)
{
	setup();
	platform_power_button(platform);
	for (uint16_t offset = 0; offset < 4; offset++) {
		CHECK_EQ(in(LAYOUT_GED + offset, 1), 0);
		if (offset < 3)
			CHECK_EQ(in(LAYOUT_GED + offset, 2), 0);
		if (offset)
			CHECK_EQ(in(LAYOUT_GED + offset, 4), UINT32_MAX); /* not wholly ours */
	}
	for (unsigned int len = 1; len <= 4; len *= 2)
		CHECK(out(LAYOUT_GED, 0xffffffff, len));
	CHECK_EQ(in(LAYOUT_GED, 4), LAYOUT_GED_POWER); /* still there, and only that */
	teardown();
}

#define PRESSES 20000

static void *press(void *arg)
{
	(void)arg;
	for (unsigned int i = 0; i < PRESSES; i++)
		platform_power_button(platform);
	return NULL;
}

/* No event is lost: after each pulse that was seen, a read finds it unless an earlier read took it.
 */
static void ged_race(void)
{
	uint64_t seen = 0, events = 0, pulses;
	struct irq_line *line;
	pthread_t thread;

	setup();
	CHECK_EQ(irq_line_get(&vm->irqs, LAYOUT_GED_GSI, &line), 0);
	if (pthread_create(&thread, NULL, press, NULL)) {
		CHECK(!"thread");
		teardown();
		return;
	}
	while (seen < PRESSES) {
		struct pollfd pfd = {.fd = line->fd, .events = POLLIN};
		uint32_t now;

		if (poll(&pfd, 1, 5000) != 1)
			break;
		pulses = ged_pulses();
		now = in(LAYOUT_GED, 4);
		CHECK(now == 0 || now == LAYOUT_GED_POWER);
		seen += pulses;
		events += now;
	}
	pthread_join(thread, NULL);
	CHECK_EQ(seen, PRESSES);
	CHECK(events >= 1 && events <= PRESSES);
	CHECK_EQ(in(LAYOUT_GED, 4), 0); /* the last pulse's event came before it, and was read */
	teardown();
}

static void sleep_control(void)
{
	setup();
	for (unsigned int value = 0; value < 256; value++) {
		bool off = (value & 0x20) && (value >> 2 & 7) == LAYOUT_SLEEP_TYPE;

		ends = 0;
		last_end = VM_END_NONE;
		CHECK(out(LAYOUT_SLEEP_CTL, value, 1));
		CHECK_EQ(ends, off);
		CHECK_EQ(last_end, off ? VM_END_POWEROFF : VM_END_NONE);
		CHECK_EQ(in(LAYOUT_SLEEP_CTL, 1), 0);
		CHECK_EQ(in(LAYOUT_SLEEP_STS, 1), 0);
	}
	/* What Linux does: clear WAK_STS, then SLP_TYP with SLP_EN. */
	ends = 0;
	CHECK(out(LAYOUT_SLEEP_STS, 0x80, 1));
	CHECK_EQ(ends, 0);
	CHECK(out(LAYOUT_SLEEP_CTL, LAYOUT_SLEEP_TYPE << 2 | 0x20, 1));
	CHECK_EQ(ends, 1);
	/* Byte registers: a wider access is nobody's. */
	ends = 0;
	CHECK(!out(LAYOUT_SLEEP_CTL, 0x3434, 2));
	CHECK(!out(LAYOUT_SLEEP_STS, 0x0180, 2));
	CHECK_EQ(ends, 0);
	teardown();
}

static void reset_register(void)
{
	setup();
	for (unsigned int value = 0; value < 256; value++) {
		ends = 0;
		CHECK(out(LAYOUT_RESET, value, 1));
		CHECK_EQ(ends, value == LAYOUT_RESET_VALUE);
	}
	CHECK_EQ(last_end, VM_END_RESET);
	ends = 0;
	CHECK_EQ(in(LAYOUT_RESET, 1), 0);
	CHECK(!out(LAYOUT_RESET, LAYOUT_RESET_VALUE, 2));
	CHECK_EQ(ends, 0);
	teardown();
}

static void i8042(void)
{
	setup();
	CHECK_EQ(in(LAYOUT_I8042_CMD, 1) & 0x03, 0); /* no input to read, room for a command */
	CHECK_EQ(in(LAYOUT_I8042_DATA, 1), 0);
	for (unsigned int value = 0; value < 256; value++) {
		ends = 0;
		CHECK(out(LAYOUT_I8042_CMD, value, 1));
		CHECK(out(LAYOUT_I8042_DATA, value, 1));
		CHECK_EQ(ends, value == 0xfe);
	}
	CHECK_EQ(last_end, VM_END_RESET);
	/* Port 0x61 between them is the kernel's. */
	CHECK(!out(LAYOUT_PORT_B, 1, 1));
	teardown();
}

static void pvpanic(void)
{
	setup();
	CHECK_EQ(in(LAYOUT_PVPANIC, 1), 3);
	CHECK(out(LAYOUT_PVPANIC, 0, 1));
	CHECK(out(LAYOUT_PVPANIC, 0xfc, 1)); /* events never offered */
	CHECK_EQ(ends, 0);
	CHECK(out(LAYOUT_PVPANIC, 2, 1)); /* crash kernel: the guest goes on */
	CHECK_EQ(ends, 0);
	CHECK(out(LAYOUT_PVPANIC, 1, 1));
	CHECK_EQ(ends, 1);
	CHECK_EQ(last_end, VM_END_CRASH);
	CHECK_STR(last_why, "guest panicked (pvpanic)");
	CHECK(out(LAYOUT_PVPANIC, 3, 1));
	CHECK_EQ(ends, 2);
	teardown();
}

/* The mechanism answers, and nothing is behind it. */
static void pci(void)
{
	setup();
	CHECK(out(LAYOUT_PCI_ADDRESS + 3, 1, 1));
	CHECK(out(LAYOUT_PCI_ADDRESS, 0x80000000, 4));
	CHECK_EQ(in(LAYOUT_PCI_ADDRESS, 4), 0x80000000);
	CHECK_EQ(in(LAYOUT_PCI_ADDRESS, 1), 0);
	CHECK_EQ(in(LAYOUT_PCI_ADDRESS + 2, 2), 0);
	CHECK_EQ(in(LAYOUT_PCI_ADDRESS + 4, 4), UINT32_MAX);
	CHECK(!out(LAYOUT_PCI_ADDRESS + 4, 0, 4));
	teardown();
}

/* The same register where wider accesses reach it. */
static void pvpanic_wide(void)
{
	uint8_t data[8] = {0};

	setup();
	pvpanic_access(vm, 0, data, 4, false);
	CHECK_EQ(data[0], 3);
	CHECK(!data[1] && !data[2] && !data[3]);
	data[0] = 0;
	pvpanic_access(vm, 1, data, 1, false);
	CHECK_EQ(data[0], 0);
	data[0] = 1;
	pvpanic_access(vm, 1, data, 1, true);
	CHECK_EQ(ends, 0);
	pvpanic_access(vm, 0, data, 8, true);
	CHECK_EQ(ends, 1);
	teardown();
}

static unsigned int cmos(unsigned int index)
{
	CHECK(out(LAYOUT_CMOS, index, 1));
	return in(LAYOUT_CMOS + 1, 1);
}

static int from_bcd(unsigned int value)
{
	CHECK((value & 0xf) <= 9 && value >> 4 <= 9);
	return (int)((value >> 4) * 10 + (value & 0xf));
}

/* Of the clock that the device reads: time() is some milliseconds behind it. */
static time_t seconds_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec;
}

static void cmos_clock(void)
{
	/* A local time zone far from UTC, which must not show. */
	setenv("TZ", "TST-13:45", 1);
	tzset();
	setup();
	for (unsigned int attempt = 0;; attempt++) {
		time_t before = seconds_now(), after, guest;
		unsigned int weekday;
		struct tm tm = {0};

		tm.tm_sec = from_bcd(cmos(0x00));
		tm.tm_min = from_bcd(cmos(0x02));
		tm.tm_hour = from_bcd(cmos(0x04));
		weekday = cmos(0x06);
		tm.tm_mday = from_bcd(cmos(0x07));
		tm.tm_mon = from_bcd(cmos(0x08)) - 1;
		tm.tm_year = from_bcd(cmos(0x09)) + 100 * from_bcd(cmos(0x32)) - 1900;
		guest = timegm(&tm);
		after = seconds_now();
		/* Two seconds may have been mixed, as for any reader: once more. */
		if (before != after && attempt < 5)
			continue;
		CHECK(guest >= before && guest <= after);
		CHECK_EQ(weekday, (unsigned int)tm.tm_wday + 1);
		break;
	}
	teardown();
}

static void cmos_registers(void)
{
	static const uint8_t clock[] = {0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, 0x32};

	setup();
	for (unsigned int i = 0; i < 1000; i++)
		CHECK_EQ(cmos(0x0a) & 0x80, 0); /* UIP never stuck */
	CHECK_EQ(cmos(0x0a), 0x26);
	CHECK_EQ(cmos(0x0b), 0x02); /* 24 hours, BCD, no interrupts */
	CHECK_EQ(cmos(0x0c), 0);
	CHECK_EQ(cmos(0x0d), 0x80);
	CHECK_EQ(cmos(0x8d), 0x80); /* the NMI bit is no part of the index */
	for (unsigned int index = 0; index < 128; index++) {
		if ((index >= 0x0a && index <= 0x0d) || memchr(clock, (int)index, sizeof(clock)))
			continue;
		CHECK_EQ(cmos(index), 0);
	}
	/* Writes to data change nothing, not even the control registers. */
	for (unsigned int index = 0; index < 128; index++) {
		CHECK(out(LAYOUT_CMOS, index, 1));
		CHECK(out(LAYOUT_CMOS + 1, 0xff, 1));
	}
	CHECK_EQ(cmos(0x0b), 0x02);
	CHECK_EQ(cmos(0x0d), 0x80);
	CHECK_EQ(cmos(0x40), 0);
	/* The index port reads as nothing; both at once are one of each, index first. */
	CHECK_EQ(in(LAYOUT_CMOS, 1), 0xff);
	CHECK(out(LAYOUT_CMOS, 0x550d, 2));
	CHECK_EQ(in(LAYOUT_CMOS + 1, 1), 0x80);
	CHECK_EQ(in(LAYOUT_CMOS, 2), 0x80ff);
	CHECK_EQ(in(LAYOUT_CMOS + 1, 2), 0xffff); /* the second byte is nobody's port */
	CHECK_EQ(ends, 0);
	teardown();
}

static void post_port(void)
{
	setup();
	CHECK(out(LAYOUT_POST, 0x42, 1));
	CHECK_EQ(in(LAYOUT_POST, 1), 0xff);
	CHECK_EQ(ends, 0);
	teardown();
}

/* Every port at every width: no value but the known ones ends the guest. */
static void all_ports(void)
{
	setup();
	for (unsigned int port = 0; port < 0x700; port++) {
		for (unsigned int len = 1; len <= 4; len *= 2) {
			in((uint16_t)port, len);
			out((uint16_t)port, 0, len);
			out((uint16_t)port, 0xf8f8f8f8, len);
		}
	}
	CHECK_EQ(ends, 0); /* 0xf8: SLP_EN with another type, no known command anywhere */
	teardown();
}

static void occupied(void)
{
	struct platform *p = NULL;

	vm = calloc(1, sizeof(*vm));
	if (!vm)
		abort();
	irq_init(&vm->irqs, -1);
	CHECK_EQ(bus_add(&vm->pio, LAYOUT_SLEEP_CTL, 1, pvpanic_access, vm, "squatter"), 0);
	CHECK_EQ(platform_create(&p, vm), -EEXIST);
	CHECK(!p);
	platform_destroy(NULL);
	irq_fini(&vm->irqs);
	free(vm);
}

int main(void)
{
	RUN(power_button);
	RUN(generation);
	RUN(ged_widths);
	RUN(ged_race);
	RUN(sleep_control);
	RUN(reset_register);
	RUN(i8042);
	RUN(pvpanic);
	RUN(pci);
	RUN(pvpanic_wide);
	RUN(cmos_clock);
	RUN(cmos_registers);
	RUN(post_port);
	RUN(all_ports);
	RUN(occupied);
	return TEST_RESULT();
}
