/* SPDX-License-Identifier: MIT */
/*
 * The small devices on MMIO, through a bus as a vCPU reaches them. KVM is a record of lines and
 * their levels, vm_end() only takes notes.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "arch/aarch64/layout.h"
#include "arch/aarch64/platform.h"
#include "arch/arch.h"
#include "tests/unit/snapshot.h"
#include "tests/unit/test.h"
#include "vm/event.h"
#include "vm/log.h"
#include "vm/vm.h"

#define NO_FD 1000000 /* any number that is no descriptor here */

static unsigned int ends;
static enum vm_end last_end;

void vm_end(struct vm *vm, enum vm_end end, const char *why)
{
	(void)vm, (void)why;
	ends++;
	last_end = end;
}

static atomic_int gpio_line, rtc_line, line_calls;

int kvm_ioctl_named(int fd, unsigned long request, const char *name, void *arg)
{
	const struct kvm_irq_level *level = arg;

	(void)name;
	if (fd != NO_FD || request != KVM_IRQ_LINE) {
		printf("  unexpected ioctl %s\n", name);
		test_failed_now = 1;
		return -ENOTTY;
	}
	line_calls++;
	if (level->irq == arch_irq_number(LAYOUT_GPIO_SPI))
		gpio_line = (int)level->level;
	else if (level->irq == arch_irq_number(LAYOUT_RTC_SPI))
		rtc_line = (int)level->level;
	else
		test_failed_now = 1;
	return 0;
}

static struct vm *vm;
static struct platform *platform;
static struct event_loop loop;

static void setup(void)
{
	vm = calloc(1, sizeof(*vm));
	if (!vm || event_loop_init(&loop))
		abort();
	irq_init(&vm->irqs, NO_FD);
	vm->loop = &loop;
	ends = 0;
	last_end = VM_END_NONE;
	gpio_line = rtc_line = line_calls = 0;
	platform = NULL;
	CHECK_EQ(platform_create(&platform, vm), 0);
	if (!platform)
		exit(1);
}

static void teardown(void)
{
	platform_destroy(platform);
	event_loop_fini(&loop);
	irq_fini(&vm->irqs);
	free(vm);
}

/* What no device answers reads all ones, as for a vCPU. */
static uint64_t load(uint64_t addr, unsigned int len)
{
	uint8_t data[8] = {0};
	uint64_t value = 0;

	if (!bus_access(&vm->mmio, addr, data, len, false))
		return UINT64_MAX >> (64 - 8 * len);
	for (unsigned int i = 0; i < len; i++)
		value |= (uint64_t)data[i] << (8 * i);
	return value;
}

static bool store(uint64_t addr, uint64_t value, unsigned int len)
{
	uint8_t data[8];

	for (unsigned int i = 0; i < 8; i++)
		data[i] = (uint8_t)(value >> (8 * i));
	return bus_access(&vm->mmio, addr, data, len, true);
}

/* ---- PL061 ---- */

enum {
	DIR = 0x400,
	IS = 0x404,
	IBE = 0x408,
	IEV = 0x40c,
	IE = 0x410,
	RIS = 0x414,
	MIS = 0x418,
	IC = 0x41c,
	AFSEL = 0x420,
};

#define BUTTON (1u << PLATFORM_BUTTON_LINE)

static uint8_t gpio(uint64_t offset)
{
	return (uint8_t)load(LAYOUT_GPIO_BASE + offset, 1);
}

static void set_gpio(uint64_t offset, uint8_t value)
{
	CHECK(store(LAYOUT_GPIO_BASE + offset, value, 1));
}

/* What gpio-keys does when it starts. */
static void driver_start(void)
{
	set_gpio(IE, 0);
	set_gpio(DIR, (uint8_t)(gpio(DIR) & ~BUTTON));
	set_gpio(IS, (uint8_t)(gpio(IS) & ~BUTTON));
	set_gpio(IBE, gpio(IBE) | BUTTON);
	set_gpio(IE, gpio(IE) | BUTTON);
}

/* Its interrupt: true if the button's. Debouncing starts then. */
static bool driver_irq(void)
{
	if (!gpio_line || !(gpio(MIS) & BUTTON))
		return false;
	set_gpio(IC, BUTTON);
	return true;
}

/* Debouncing is over: the key's state. */
static bool driver_read(void)
{
	return gpio(BUTTON << 2) != 0;
}

static void button(void)
{
	setup();
	driver_start();
	CHECK(!gpio_line);
	for (unsigned int i = 0; i < 3; i++) {
		platform_power_button(platform);
		CHECK_EQ(gpio_line, 1);
		CHECK_EQ(gpio(RIS), BUTTON);
		CHECK(driver_irq());
		CHECK_EQ(gpio_line, 0);
		/* However long the guest takes. */
		CHECK(!driver_irq());
		CHECK_EQ(gpio(RIS), 0);
		CHECK(driver_read()); /* pressed ... */
		CHECK_EQ(gpio_line, 1);
		CHECK(driver_irq());
		CHECK(!driver_read()); /* ... and released */
		CHECK_EQ(gpio_line, 0);
		CHECK(!driver_irq());
		CHECK(!driver_read());
	}
	CHECK_EQ(ends, 0);
	teardown();
}

/* Pressed again at each moment of a press: never lost, never stuck. */
static void button_again(void)
{
	setup();
	driver_start();
	/* Before the interrupt, and before the read: one press. */
	platform_power_button(platform);
	platform_power_button(platform);
	CHECK(driver_irq());
	platform_power_button(platform);
	CHECK(!driver_irq());
	CHECK(driver_read());
	CHECK(driver_irq());
	CHECK(!driver_read());
	CHECK(!driver_irq());
	/* While the release is debounced: still down for the driver, and then released. */
	platform_power_button(platform);
	CHECK(driver_irq());
	CHECK(driver_read());
	CHECK(driver_irq());
	platform_power_button(platform);
	CHECK(driver_irq());
	CHECK(driver_read());
	CHECK(driver_irq());
	CHECK(!driver_read());
	CHECK(!driver_irq());
	/* The read comes before the interrupt was taken: one interrupt for both edges. */
	platform_power_button(platform);
	CHECK(driver_read());
	CHECK(driver_irq());
	CHECK(!driver_irq());
	CHECK(!driver_read());
	teardown();
}

/* Before there is a driver: no interrupt, but the key is down when it looks. */
static void button_early(void)
{
	setup();
	platform_power_button(platform);
	CHECK_EQ(line_calls, 0);
	driver_start();
	CHECK_EQ(gpio(1 << 2), 0); /* other lines don't count as a look */
	CHECK_EQ(gpio(0), 0);
	CHECK(driver_read());
	CHECK(driver_irq());
	CHECK(!driver_read());
	CHECK(!driver_irq());
	/* A poller without interrupts. */
	set_gpio(IE, 0);
	platform_power_button(platform);
	CHECK_EQ(gpio(0xff << 2), BUTTON);
	CHECK_EQ(gpio(0xff << 2), 0);
	CHECK_EQ(gpio_line, 0);
	/* An output is not the button's, and looking at it is no look. */
	set_gpio(IC, 0xff);
	set_gpio(DIR, BUTTON);
	platform_power_button(platform);
	CHECK_EQ(gpio(0xff << 2), 0);
	CHECK_EQ(gpio(RIS), 0);
	set_gpio(DIR, 0);
	CHECK_EQ(gpio(0xff << 2), BUTTON);
	teardown();
}

static void edges_and_levels(void)
{
	setup();
	/* Rising only. */
	set_gpio(IEV, BUTTON);
	set_gpio(IE, 0xff);
	platform_power_button(platform);
	CHECK_EQ(gpio(RIS), BUTTON);
	set_gpio(IC, BUTTON);
	CHECK(driver_read());
	CHECK_EQ(gpio(RIS), 0);
	CHECK_EQ(gpio_line, 0);
	/* Falling only. */
	set_gpio(IEV, 0);
	platform_power_button(platform);
	CHECK_EQ(gpio(RIS), 0);
	CHECK(driver_read());
	CHECK_EQ(gpio(MIS), BUTTON);
	CHECK_EQ(gpio_line, 1);
	/* Masked, it waits. */
	set_gpio(IE, 0);
	CHECK_EQ(gpio_line, 0);
	CHECK_EQ(gpio(RIS), BUTTON);
	CHECK_EQ(gpio(MIS), 0);
	set_gpio(IE, BUTTON);
	CHECK_EQ(gpio_line, 1);
	set_gpio(IC, (uint8_t)~BUTTON); /* of other lines */
	CHECK_EQ(gpio_line, 1);
	set_gpio(IC, 0xff);
	CHECK_EQ(gpio_line, 0);
	/* High level: there as long as it is, whatever is cleared. */
	set_gpio(IS, BUTTON);
	set_gpio(IEV, BUTTON);
	CHECK_EQ(gpio_line, 0);
	platform_power_button(platform);
	CHECK_EQ(gpio_line, 1);
	set_gpio(IC, 0xff);
	CHECK_EQ(gpio_line, 1);
	CHECK(driver_read());
	CHECK_EQ(gpio_line, 0);
	/* Low level, of a line that nothing drives. */
	set_gpio(IE, 1);
	set_gpio(IS, 1);
	set_gpio(IEV, 0);
	CHECK_EQ(gpio(MIS), 1);
	CHECK_EQ(gpio_line, 1);
	set_gpio(DIR, 1);
	CHECK_EQ(gpio_line, 0);
	/* An edge that was seen is forgotten when the line is told to have levels. */
	set_gpio(DIR, 0);
	set_gpio(IS, 0);
	set_gpio(IE, BUTTON);
	set_gpio(IBE, BUTTON);
	platform_power_button(platform);
	CHECK_EQ(gpio_line, 1);
	set_gpio(IS, BUTTON);
	CHECK_EQ(gpio(RIS), 0); /* low level, and it is high */
	set_gpio(IS, 0);
	CHECK_EQ(gpio(RIS), 0);
	CHECK_EQ(gpio_line, 0);
	teardown();
}

static void gpio_data(void)
{
	setup();
	/* Inputs take no values. */
	set_gpio(0xff << 2, 0xff);
	CHECK_EQ(gpio(0xff << 2), 0);
	set_gpio(DIR, 0xf0);
	CHECK_EQ(gpio(0xff << 2), 0);
	/* Address bits 9 to 2 are the mask, of writes and of reads. */
	set_gpio(0xff << 2, 0xff);
	CHECK_EQ(gpio(0xff << 2), 0xf0);
	CHECK_EQ(gpio(0x30 << 2), 0x30);
	CHECK_EQ(gpio(0), 0);
	set_gpio(0x30 << 2, 0x10);
	CHECK_EQ(gpio(0xff << 2), 0xd0);
	set_gpio(0, 0);
	CHECK_EQ(gpio(0xff << 2), 0xd0);
	CHECK_EQ(line_calls, 0);
	teardown();
}

static void identification(void)
{
	static const uint8_t cell[] = {0x0d, 0xf0, 0x05, 0xb1};
	uint32_t periph[2] = {0};

	setup();
	for (unsigned int i = 0; i < 4; i++) {
		periph[0] |= (uint32_t)load(LAYOUT_GPIO_BASE + 0xfe0 + 4 * i, 4) << (8 * i);
		periph[1] |= (uint32_t)load(LAYOUT_RTC_BASE + 0xfe0 + 4 * i, 4) << (8 * i);
		CHECK_EQ(load(LAYOUT_GPIO_BASE + 0xff0 + 4 * i, 4), cell[i]);
		CHECK_EQ(load(LAYOUT_RTC_BASE + 0xff0 + 4 * i, 4), cell[i]);
	}
	/* What Linux looks for, under its mask. */
	CHECK_EQ(periph[0] & 0xfffff, 0x41061);
	CHECK_EQ(periph[1] & 0xfffff, 0x41031);
	teardown();
}

/* What is no whole register, and what is none. */
static void gpio_widths(void)
{
	uint64_t base = LAYOUT_GPIO_BASE;

	setup();
	CHECK(store(base + DIR, 0xffffff5a, 4));
	CHECK_EQ(load(base + DIR, 4), 0x5a);
	CHECK_EQ(load(base + DIR, 2), 0x5a);
	CHECK(store(base + AFSEL, 0x21, 2));
	CHECK_EQ(gpio(AFSEL), 0x21);
	for (unsigned int i = 1; i < 4; i++) {
		CHECK(store(base + DIR + i, 0xff, 1));
		CHECK_EQ(load(base + DIR + i, 1), 0);
	}
	CHECK(store(base + DIR, 0xff, 8));
	CHECK_EQ(load(base + DIR, 8), 0);
	CHECK_EQ(load(base + DIR, 1), 0x5a);
	/* The button is not seen by parts. */
	set_gpio(DIR, 0);
	platform_power_button(platform);
	CHECK_EQ(load(base + (BUTTON << 2), 8), 0);
	CHECK_EQ(load(base + (BUTTON << 2) + 1, 1), 0);
	CHECK_EQ(load(base + (BUTTON << 2), 4), BUTTON);
	for (uint64_t offset = 0x424; offset < 0xfe0; offset += 4) {
		CHECK(store(base + offset, 0xff, 4));
		CHECK_EQ(load(base + offset, 4), 0);
	}
	/* Read-only ones. */
	set_gpio(IC, 0xff);
	set_gpio(RIS, 0xff);
	set_gpio(MIS, 0xff);
	set_gpio(0xfe0, 0xff);
	CHECK_EQ(gpio(RIS), 0);
	CHECK_EQ(gpio(MIS), 0);
	CHECK_EQ(gpio(0xfe0), 0x61);
	teardown();
}

/* ---- PL031 ---- */

enum { DR = 0, MR = 4, LR = 8, CR = 0xc, IMSC = 0x10, R_RIS = 0x14, R_MIS = 0x18, ICR = 0x1c };

static uint32_t rtc(uint64_t offset)
{
	return (uint32_t)load(LAYOUT_RTC_BASE + offset, 4);
}

static void set_rtc(uint64_t offset, uint32_t value)
{
	CHECK(store(LAYOUT_RTC_BASE + offset, value, 4));
}

static void clock_runs(void)
{
	time_t before, after;
	uint32_t guest;

	setup();
	before = time(NULL);
	guest = rtc(DR);
	after = time(NULL);
	/* time() may lag behind clock_gettime() by a tick. */
	CHECK(guest >= (uint32_t)before && guest <= (uint32_t)after + 1);
	CHECK_EQ(rtc(CR), 1);
	/* Neither stopped nor set. */
	set_rtc(CR, 0);
	CHECK_EQ(rtc(CR), 1);
	set_rtc(LR, 12345);
	CHECK_EQ(rtc(LR), 12345);
	set_rtc(DR, 12345);
	CHECK(rtc(DR) >= guest && rtc(DR) <= guest + 60);
	CHECK_EQ(line_calls, 0);
	teardown();
}

/* One look at the event loop, without waiting. */
static void turn(void)
{
	event_loop_stop(&loop);
	CHECK_EQ(event_loop_run(&loop), 0);
}

/* Waits for the alarm, 5 s at most. */
static bool wait_alarm(void)
{
	for (unsigned int i = 0; i < 500 && !rtc(R_RIS); i++) {
		usleep(10000);
		turn();
	}
	return rtc(R_RIS);
}

static void alarm_rings(void)
{
	uint32_t now;

	setup();
	turn();
	CHECK_EQ(rtc(R_RIS), 0);
	/* As Linux sets one. */
	now = rtc(DR);
	set_rtc(MR, now + 1);
	CHECK_EQ(rtc(MR), now + 1);
	set_rtc(ICR, 1);
	set_rtc(IMSC, 1);
	CHECK_EQ(rtc(IMSC), 1);
	CHECK(wait_alarm());
	CHECK(rtc(DR) >= now + 1);
	CHECK_EQ(rtc(R_MIS), 1);
	CHECK_EQ(rtc_line, 1);
	CHECK_EQ(gpio_line, 0);
	set_rtc(ICR, 0); /* no bit, no effect */
	CHECK_EQ(rtc_line, 1);
	set_rtc(IMSC, 0);
	CHECK_EQ(rtc(R_MIS), 0);
	CHECK_EQ(rtc(R_RIS), 1);
	CHECK_EQ(rtc_line, 0);
	set_rtc(IMSC, 0xffffffff);
	CHECK_EQ(rtc(IMSC), 1);
	CHECK_EQ(rtc_line, 1);
	set_rtc(ICR, 1);
	CHECK_EQ(rtc(R_RIS), 0);
	CHECK_EQ(rtc_line, 0);
	/* Once: nothing comes again. */
	turn();
	CHECK_EQ(rtc(R_RIS), 0);
	/* The present second matches. */
	set_rtc(MR, rtc(DR));
	CHECK(wait_alarm());
	CHECK_EQ(rtc_line, 1);
	teardown();
}

/* An alarm that was moved does not ring, though it was due before the loop came to it. */
static void alarm_moved(void)
{
	uint32_t now;

	setup();
	set_rtc(IMSC, 1);
	now = rtc(DR);
	set_rtc(MR, now);
	usleep(1000);
	set_rtc(MR, now + 1000);
	turn();
	CHECK_EQ(rtc(R_RIS), 0);
	/* A second that has passed is one of the counter's next round. */
	set_rtc(MR, now - 1000);
	usleep(1000);
	turn();
	CHECK_EQ(rtc(R_RIS), 0);
	CHECK_EQ(line_calls, 0);
	/* All numbers are fine. */
	set_rtc(MR, 0);
	set_rtc(MR, 0xffffffff);
	set_rtc(MR, 0x80000000);
	turn();
	CHECK_EQ(rtc(R_RIS), 0);
	/* Torn down with an alarm that is due. */
	set_rtc(MR, rtc(DR));
	teardown();
}

static void rtc_widths(void)
{
	uint64_t base = LAYOUT_RTC_BASE;

	setup();
	set_rtc(LR, 0x11223344);
	for (unsigned int len = 1; len <= 8; len *= 2) {
		for (unsigned int i = 0; i < 4; i++) {
			if (len == 4 && !i)
				continue;
			CHECK(store(base + LR + i, UINT64_MAX, len));
			CHECK_EQ(load(base + LR + i, len), 0);
		}
	}
	CHECK_EQ(rtc(LR), 0x11223344);
	for (uint64_t offset = 0x20; offset < 0xfe0; offset += 4) {
		set_rtc(offset, 0xffffffff);
		CHECK_EQ(rtc(offset), 0);
	}
	set_rtc(R_RIS, 1);
	set_rtc(R_MIS, 1);
	CHECK_EQ(rtc(R_RIS), 0);
	teardown();
}

/* ---- The rest. ---- */

static void pvpanic(void)
{
	setup();
	CHECK_EQ(load(LAYOUT_PVPANIC_BASE, 1), 3);
	CHECK_EQ(load(LAYOUT_PVPANIC_BASE, 2), 3);
	CHECK_EQ(load(LAYOUT_PVPANIC_BASE, 4), UINT32_MAX); /* not wholly its own */
	CHECK(store(LAYOUT_PVPANIC_BASE + 1, 1, 1));
	CHECK(store(LAYOUT_PVPANIC_BASE, 2, 1));
	CHECK_EQ(ends, 0);
	CHECK(store(LAYOUT_PVPANIC_BASE, 1, 1));
	CHECK_EQ(ends, 1);
	CHECK_EQ(last_end, VM_END_CRASH);
	teardown();
}

/* Every offset, width and a few values: nothing ends the guest, nothing outlives a clean-up. */
static void all_registers(void)
{
	static const uint64_t bases[] = {LAYOUT_RTC_BASE, LAYOUT_GPIO_BASE};
	static const uint64_t values[] = {0, UINT64_MAX, 0x0102040810204080};

	setup();
	for (unsigned int b = 0; b < 2; b++) {
		for (uint64_t offset = 0; offset < 0x1008; offset++) {
			for (unsigned int len = 1; len <= 8; len *= 2) {
				for (unsigned int v = 0; v < 3; v++) {
					store(bases[b] + offset, values[v], len);
					load(bases[b] + offset, len);
				}
			}
			if (offset % 64 == 0) {
				platform_power_button(platform);
				turn();
			}
		}
	}
	CHECK_EQ(ends, 0);
	set_gpio(IE, 0);
	set_rtc(IMSC, 0);
	CHECK_EQ(gpio_line, 0);
	CHECK_EQ(rtc_line, 0);
	teardown();
}

#define PRESSES 300000

static atomic_bool pressed_all;

static void *press(void *arg)
{
	(void)arg;
	for (unsigned int i = 0; i < PRESSES; i++)
		platform_power_button(platform);
	atomic_store(&pressed_all, true);
	return NULL;
}

/* Presses from another thread while the driver works: it ends released, and what it saw pairs. */
static void button_race(void)
{
	unsigned int presses = 0, releases = 0;
	bool down = false, last;
	pthread_t thread;

	setup();
	driver_start();
	atomic_store(&pressed_all, false);
	if (pthread_create(&thread, NULL, press, NULL)) {
		CHECK(!"thread");
		teardown();
		return;
	}
	do {
		last = atomic_load(&pressed_all);
		while (driver_irq()) {
			bool now = driver_read();

			presses += now && !down;
			releases += !now && down;
			down = now;
		}
	} while (!last);
	pthread_join(thread, NULL);
	CHECK(presses >= 1 && presses <= PRESSES);
	CHECK_EQ(presses, releases);
	CHECK(!down);
	CHECK(!driver_read());
	CHECK_EQ(gpio_line, 0);
	teardown();
}

static void nothing(void *opaque, uint64_t offset, uint8_t *data, unsigned int len, bool write)
{
	(void)opaque, (void)offset, (void)data, (void)len, (void)write;
}

static void occupied(void)
{
	struct platform *p = NULL;

	vm = calloc(1, sizeof(*vm));
	if (!vm || event_loop_init(&loop))
		abort();
	irq_init(&vm->irqs, NO_FD);
	vm->loop = &loop;
	CHECK_EQ(bus_add(&vm->mmio, LAYOUT_PVPANIC_BASE, 1, nothing, vm, "squatter"), 0);
	CHECK_EQ(platform_create(&p, vm), -EEXIST);
	CHECK(!p);
	platform_destroy(NULL);
	event_loop_fini(&loop);
	irq_fini(&vm->irqs);
	free(vm);
}

/* ---- pause, save, load ---- */

static void paused(void)
{
	setup();
	driver_start();
	set_rtc(IMSC, 1);
	/* Due at once: it has expired when the pause comes, and nobody has looked. */
	set_rtc(MR, rtc(DR));
	usleep(1000);
	platform_pause(platform);
	platform_pause(platform);
	platform_power_button(platform);
	usleep(1000);
	turn();
	CHECK_EQ(line_calls, 0);
	platform_resume(platform);
	platform_resume(platform);
	CHECK_EQ(gpio_line, 1);
	CHECK(wait_alarm());
	CHECK_EQ(rtc_line, 1);
	CHECK_EQ(line_calls, 2);
	/* A button that was pressed in a pause is pressed once. */
	CHECK(driver_irq() && driver_read() && driver_irq() && !driver_read());
	platform_pause(platform);
	platform_resume(platform);
	turn();
	CHECK_EQ(gpio_line, 0);
	/* An alarm that has rung does not ring again. */
	set_rtc(ICR, 1);
	platform_pause(platform);
	platform_resume(platform);
	usleep(1000);
	turn();
	CHECK_EQ(rtc(R_RIS), 0);
	teardown();
}

static void take(struct snapshot *snap)
{
	struct state_writer w;

	state_writer_init(&w, "test");
	platform_save(platform, &w);
	snapshot_take(snap, &w);
}

static int give(const struct snapshot *snap)
{
	struct state_reader r;
	int err = snapshot_open(&r, snap, PLATFORM_STATE, 0, PLATFORM_STATE_VERSION);

	if (err)
		return err;
	err = platform_load(platform, &r);
	state_reader_close(&r);
	return err;
}

/* Section PLAT as docs/snapshot.md has it. */
static const uint8_t plat[] = {
	8,    0x40, 0x60, 1,	8, 0x81, 0x89, 0x80, 3,	   /* GPIO: pins to afsel */
	0x10, 0x32, 0x54, 0x76, 1, 2,	 3,    4,    1, 1, /* clock: match, load, enabled, raw */
	0,    0,    0,	  0,	2, 0,	 0,    0,	   /* the alarm, in 2242 */
};

static void saved(void)
{
	struct snapshot snap, again;
	uint8_t data;

	memset(&snap, 0, sizeof(snap));
	memcpy(snap.p, plat, sizeof(plat));
	snap.len = sizeof(plat);
	setup();
	CHECK_EQ(give(&snap), 0);
	CHECK_EQ(gpio(DIR), 0x60);
	CHECK_EQ(gpio(IS), 1);
	CHECK_EQ(gpio(IBE), 8);
	CHECK_EQ(gpio(IEV), 0x81);
	CHECK_EQ(gpio(IE), 0x89);
	CHECK_EQ(gpio(AFSEL), 3);
	CHECK_EQ(gpio(0xf7 << 2), 0x40);
	CHECK_EQ(gpio(RIS), 0x80);
	CHECK_EQ(rtc(MR), 0x76543210);
	CHECK_EQ(rtc(LR), 0x04030201);
	CHECK_EQ(rtc(IMSC), 1);
	CHECK_EQ(rtc(R_RIS), 1);
	/* Lines are the GIC's again, paused as it is. */
	CHECK_EQ(gpio_line, 1);
	CHECK_EQ(rtc_line, 1);
	take(&again);
	CHECK_EQ(again.len, sizeof(plat));
	CHECK(!memcmp(again.p, plat, sizeof(plat)));
	teardown();
	/* An alarm whose time came while it was saved rings on resume, not before. */
	memset(snap.p + 19, 0, 8);
	snap.p[19] = 1;
	snap.p[18] = 0; /* not raised yet */
	setup();
	CHECK_EQ(give(&snap), 0);
	usleep(1000);
	turn();
	CHECK_EQ(rtc(R_RIS), 0);
	platform_resume(platform);
	CHECK(wait_alarm());
	teardown();
	/* Cut, or wrong: nothing has changed. What is said of it is the reader's. */
	log_set_fd(open("/dev/null", O_WRONLY | O_CLOEXEC), false);
	setup();
	for (snap.len = 0; snap.len < sizeof(plat); snap.len++)
		CHECK_EQ(give(&snap), -EBADMSG);
	snap.len++;
	CHECK_EQ(give(&snap), -EBADMSG);
	snap.len = sizeof(plat);
	for (unsigned int i = 0; i < 4; i++) {
		static const uint8_t at[] = {0, 17, 18, 24};

		data = snap.p[at[i]];
		snap.p[at[i]] = i ? 2 : 9;
		CHECK_EQ(give(&snap), -EBADMSG);
		snap.p[at[i]] = data;
	}
	CHECK_EQ(gpio(DIR), 0);
	CHECK_EQ(line_calls, 0);
	CHECK_EQ(give(&snap), 0);
	teardown();
	log_set_fd(STDERR_FILENO, false);
}

int main(void)
{
	log_set_level(LOG_ERROR);
	RUN(button);
	RUN(button_again);
	RUN(button_early);
	RUN(button_race);
	RUN(edges_and_levels);
	RUN(gpio_data);
	RUN(gpio_widths);
	RUN(identification);
	RUN(clock_runs);
	RUN(alarm_rings);
	RUN(alarm_moved);
	RUN(rtc_widths);
	RUN(pvpanic);
	RUN(paused);
	RUN(saved);
	RUN(all_registers);
	RUN(occupied);
	return TEST_RESULT();
}
