/* SPDX-License-Identifier: MIT */
/*
 * Small devices on ports. No lock: what state there is fits in two atomic words. Ports that a
 * device has but that are not registered here (i8042 port 0x61, the PIT's speaker gate) are KVM's.
 */
#include "arch/x86_64/platform.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#include "arch/x86_64/layout.h"
#include "vm/bus.h"
#include "vm/irq.h"
#include "vm/log.h"
#include "vm/memory.h"
#include "vm/pvpanic.h"
#include "vm/vm.h"

struct platform {
	struct vm *vm;
	const struct irq_line *ged_line;
	atomic_uint ged_events;
	atomic_uint cmos_index;
};

/*
 * The GED's event register. Only the whole register counts: a part that cleared would lose the
 * events of the rest, and one that didn't would deliver its own twice. So anything narrower reads 0
 * and clears nothing, as do writes.
 */
static void ged_access(void *opaque, uint64_t offset, uint8_t *data, unsigned int len, bool write)
{
	struct platform *p = opaque;
	unsigned int events;

	if (write || offset || len != 4)
		return;
	events = atomic_exchange(&p->ged_events, 0);
	for (unsigned int i = 0; i < 4; i++)
		data[i] = (uint8_t)(events >> (8 * i));
}

/* SLEEP_CONTROL_REG, ACPI Specification 6.4, section 4.8.3.7. */
#define SLEEP_TYPE_MASK 0x1c
#define SLEEP_TYPE_S5	(LAYOUT_SLEEP_TYPE << 2)
#define SLEEP_ENABLE	0x20

static void sleep_ctl_access(void *opaque, uint64_t offset, uint8_t *data, unsigned int len,
			     bool write)
{
	struct platform *p = opaque;

	/* Reads 0: SLP_EN is write-only. A type that _S5_ doesn't name does nothing. */
	if (!write || offset || len != 1)
		return;
	if ((data[0] & (SLEEP_ENABLE | SLEEP_TYPE_MASK)) == (SLEEP_ENABLE | SLEEP_TYPE_S5))
		vm_end(p->vm, VM_END_POWEROFF, "guest powered off (ACPI S5)");
}

/* SLEEP_STATUS_REG: WAK_STS is clear, as the machine never wakes; writing 1 to clear it is fine. */
static void sleep_sts_access(void *opaque, uint64_t offset, uint8_t *data, unsigned int len,
			     bool write)
{
	(void)opaque, (void)offset, (void)data, (void)len, (void)write;
}

static void reset_access(void *opaque, uint64_t offset, uint8_t *data, unsigned int len, bool write)
{
	struct platform *p = opaque;

	if (write && !offset && len == 1 && data[0] == LAYOUT_RESET_VALUE)
		vm_end(p->vm, VM_END_RESET, "guest reset (ACPI reset register)");
}

/* The i8042's command and status port: no keyboard behind it, but the line that resets the CPU. */
#define I8042_PULSE_RESET 0xfe

static void i8042_cmd_access(void *opaque, uint64_t offset, uint8_t *data, unsigned int len,
			     bool write)
{
	struct platform *p = opaque;

	/* Status 0: nothing to read, room for a command, which is what Linux waits for first. */
	if (write && !offset && len == 1 && data[0] == I8042_PULSE_RESET)
		vm_end(p->vm, VM_END_RESET, "guest reset (i8042)");
}

static void i8042_data_access(void *opaque, uint64_t offset, uint8_t *data, unsigned int len,
			      bool write)
{
	(void)opaque, (void)offset, (void)data, (void)len, (void)write; /* reads 0 */
}

/*
 * The clock. Source: Motorola MC146818A data sheet. BCD, 24 hours, UTC, the host's CLOCK_REALTIME:
 * always running, so writes are dropped. Each read is of the present; a reader that wants all
 * fields of one second compares the seconds before and after, as Linux does.
 */
enum {
	CMOS_SECONDS = 0x00,
	CMOS_MINUTES = 0x02,
	CMOS_HOURS = 0x04,
	CMOS_WEEKDAY = 0x06, /* Sunday is 1 */
	CMOS_DAY = 0x07,
	CMOS_MONTH = 0x08,
	CMOS_YEAR = 0x09,
	CMOS_STATUS_A = 0x0a,
	CMOS_STATUS_B = 0x0b,
	CMOS_STATUS_D = 0x0d,
	CMOS_CENTURY = 0x32,
};

#define CMOS_INDEX_MASK 0x7f /* bit 7 masks NMIs, which is not the clock's business */
#define CMOS_A_DIVIDER	0x26 /* 32.768 kHz; UIP clear: no update is ever in progress */
#define CMOS_B_24H	0x02
#define CMOS_D_VALID	0x80 /* RAM and time */

static uint8_t bcd(int value)
{
	unsigned int v = (unsigned int)value % 100;

	return (uint8_t)(v / 10 << 4 | v % 10);
}

static uint8_t cmos_read(unsigned int index)
{
	struct timespec now;
	struct tm tm;

	switch (index) {
	case CMOS_STATUS_A:
		return CMOS_A_DIVIDER;
	case CMOS_STATUS_B:
		return CMOS_B_24H;
	case CMOS_STATUS_D:
		return CMOS_D_VALID;
	case CMOS_SECONDS:
	case CMOS_MINUTES:
	case CMOS_HOURS:
	case CMOS_WEEKDAY:
	case CMOS_DAY:
	case CMOS_MONTH:
	case CMOS_YEAR:
	case CMOS_CENTURY:
		break;
	default:
		return 0; /* alarms, status C (no interrupt ever), plain RAM */
	}
	if (clock_gettime(CLOCK_REALTIME, &now) || !gmtime_r(&now.tv_sec, &tm))
		return 0;
	switch (index) {
	case CMOS_SECONDS:
		return bcd(tm.tm_sec);
	case CMOS_MINUTES:
		return bcd(tm.tm_min);
	case CMOS_HOURS:
		return bcd(tm.tm_hour);
	case CMOS_WEEKDAY:
		return bcd(tm.tm_wday + 1);
	case CMOS_DAY:
		return bcd(tm.tm_mday);
	case CMOS_MONTH:
		return bcd(tm.tm_mon + 1);
	case CMOS_YEAR:
		return bcd(tm.tm_year); /* since 1900 */
	default:
		return bcd((tm.tm_year + 1900) / 100);
	}
}

static void cmos_access(void *opaque, uint64_t offset, uint8_t *data, unsigned int len, bool write)
{
	struct platform *p = opaque;

	/* Two byte-wide ports: a wider access is one of each, the index first. */
	for (unsigned int i = 0; i < len; i++) {
		bool index = offset + i == 0;

		if (write) {
			if (index)
				atomic_store(&p->cmos_index, data[i] & CMOS_INDEX_MASK);
		} else if (index) {
			data[i] = 0xff; /* write-only */
		} else if (offset + i == 1) {
			data[i] = cmos_read(atomic_load(&p->cmos_index));
		}
	}
}

/* Power-on self-test codes; Linux writes here to wait a microsecond. */
static void post_access(void *opaque, uint64_t offset, uint8_t *data, unsigned int len, bool write)
{
	(void)opaque, (void)offset;
	for (unsigned int i = 0; !write && i < len; i++)
		data[i] = 0xff;
}

/*
 * The address register of PCI's configuration mechanism 1 (PCI Local Bus 3.0, 3.2.2.3.2): enabled,
 * bus 0, device 0, which is what a driver writes to see whether there is one. The data behind it is
 * nobody's: all ones, no device. Linux takes the mechanism on trust (pci=conf1), and that is five
 * exits; where it finds none, it complains on the console, and that is twenty times as many.
 */
#define PCI_ADDRESS_ENABLE 0x80

static void pci_address_access(void *opaque, uint64_t offset, uint8_t *data, unsigned int len,
			       bool write)
{
	(void)opaque;
	if (!write && !offset && len == 4)
		data[3] = PCI_ADDRESS_ENABLE;
}

int platform_create(struct platform **platform, struct vm *vm)
{
	struct platform *p = calloc(1, sizeof(*p));
	const struct {
		uint64_t port, size;
		bus_fn *fn;
		void *opaque;
		const char *name;
	} ports[] = {
		{LAYOUT_I8042_DATA, 1, i8042_data_access, p, "i8042 data"},
		{LAYOUT_I8042_CMD, 1, i8042_cmd_access, p, "i8042 command"},
		{LAYOUT_CMOS, 2, cmos_access, p, "CMOS clock"},
		{LAYOUT_POST, 1, post_access, p, "POST"},
		{LAYOUT_PVPANIC, 1, pvpanic_access, vm, "pvpanic"},
		{LAYOUT_PCI_ADDRESS, 4, pci_address_access, p, "PCI address"},
		{LAYOUT_GED, 4, ged_access, p, "GED events"},
		{LAYOUT_SLEEP_CTL, 1, sleep_ctl_access, p, "sleep control"},
		{LAYOUT_SLEEP_STS, 1, sleep_sts_access, p, "sleep status"},
		{LAYOUT_RESET, 1, reset_access, p, "reset"},
	};
	struct irq_line *line;
	int err;

	if (!p) {
		log_err("platform devices: ENOMEM");
		return -ENOMEM;
	}
	p->vm = vm;
	err = irq_line_get(&vm->irqs, LAYOUT_GED_GSI, &line);
	if (err)
		goto free_platform;
	p->ged_line = line;
	for (unsigned int i = 0; i < sizeof(ports) / sizeof(ports[0]); i++) {
		err = bus_add(&vm->pio, ports[i].port, ports[i].size, ports[i].fn, ports[i].opaque,
			      ports[i].name);
		if (err)
			goto free_platform; /* a bus has no removal: the VM is not built, then */
	}
	*platform = p;
	return 0;

free_platform:
	free(p);
	return err;
}

void platform_destroy(struct platform *platform)
{
	free(platform);
}

/* The event before its interrupt, or the guest could find nothing. */
static void ged_event(struct platform *p, unsigned int event)
{
	atomic_fetch_or(&p->ged_events, event);
	irq_line_pulse(p->ged_line);
}

void platform_power_button(struct platform *platform)
{
	ged_event(platform, LAYOUT_GED_POWER);
}

void platform_generation_event(struct platform *platform)
{
	ged_event(platform, LAYOUT_GED_VMGENID);
}

int platform_new_generation(struct platform *platform)
{
	uint8_t id[LAYOUT_VMGENID_SIZE];
	ssize_t n;
	int err;

	do
		n = getrandom(id, sizeof(id), 0);
	while (n < 0 && errno == EINTR);
	if (n != sizeof(id)) {
		err = n < 0 ? -errno : -EIO;
		log_err("generation ID: getrandom: %s", errno_name(err));
		return err;
	}
	err = memory_write(&platform->vm->mem, LAYOUT_VMGENID, id, sizeof(id));
	if (err)
		log_err("generation ID: %s: no guest RAM at %#x", errno_name(err), LAYOUT_VMGENID);
	return err;
}

void platform_get(struct platform *platform, struct platform_state *state)
{
	state->ged_events = atomic_load(&platform->ged_events);
	state->cmos_index = (uint8_t)atomic_load(&platform->cmos_index);
}

void platform_set(struct platform *platform, const struct platform_state *state)
{
	atomic_store(&platform->ged_events, state->ged_events);
	atomic_store(&platform->cmos_index, state->cmos_index);
}
