/* SPDX-License-Identifier: MIT */
/*
 * Small devices on MMIO. Sources: Arm DDI 0190 (PL061), DDI 0224 (PL031). One lock for their few
 * registers, innermost but for the kernel's: vCPUs, the event loop (alarm) and whoever presses the
 * button take it.
 */
#include "arch/aarch64/platform.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "arch/aarch64/layout.h"
#include "vm/bus.h"
#include "vm/event.h"
#include "vm/irq.h"
#include "vm/log.h"
#include "vm/pvpanic.h"
#include "vm/state_reader.h"
#include "vm/state_writer.h"
#include "vm/vm.h"

struct gpio {
	uint8_t pins; /* levels from outside */
	uint8_t data; /* what outputs drive */
	uint8_t dir;  /* a bit set: output */
	uint8_t is;   /* level, not edge */
	uint8_t ibe;  /* both edges */
	uint8_t iev;  /* rising edge or high level */
	uint8_t ie;
	uint8_t edges; /* seen and not cleared */
	uint8_t afsel; /* kept for who reads it back: no line has another function */
	bool irq;
};

struct rtc {
	uint32_t match;
	uint32_t load; /* kept for who reads it back */
	bool enabled;  /* IMSC */
	bool raw;
	bool irq;
	int64_t alarm_at; /* when the match comes, seconds since 1970; 0: it isn't waited for */
	struct event alarm; /* a timerfd */
};

struct platform {
	struct vm *vm;
	pthread_mutex_t lock;
	bool paused;
	bool pressed; /* the button, while paused */
	struct gpio gpio;
	struct rtc rtc;
};

static uint32_t get_le(const uint8_t *data, unsigned int len)
{
	uint32_t value = 0;

	for (unsigned int i = 0; i < len; i++)
		value |= (uint32_t)data[i] << (8 * i);
	return value;
}

static void put_le(uint8_t *data, unsigned int len, uint32_t value)
{
	for (unsigned int i = 0; i < len; i++)
		data[i] = (uint8_t)(value >> (8 * i));
}

/* Sets a line's level where it differs from @now, what it was told last. Lock held. */
static void set_line(struct platform *p, uint32_t gsi, bool *now, bool level)
{
	if (*now == level)
		return;
	*now = level;
	/* Logs if it fails; there is nobody else to tell. */
	irq_set_level(&p->vm->irqs, gsi, level);
}

/* A PrimeCell's identification: PeriphID0 to 3 and PCellID0 to 3, a byte a word, up to the end. */
#define ID_BASE 0xfe0
#define ID_END	0x1000
_Static_assert(LAYOUT_GPIO_SIZE == ID_END && LAYOUT_RTC_SIZE == ID_END, "a PrimeCell's registers");

static uint8_t primecell_id(uint64_t offset, uint32_t id)
{
	uint64_t ids = UINT64_C(0xb105f00d) << 32 | id;

	return (uint8_t)(ids >> ((offset - ID_BASE) / 4 * 8));
}

/*
 * PL061: eight lines, of which only the power button's is connected.
 *
 * How long the button stays down: until the guest has read the line as high, and no timer decides.
 * gpio-keys starts its debouncing at the edge's interrupt and reads the line when that time is
 * over; what it reads then is the key's new state. Any time that is chosen here would be too short
 * for a guest that is slow just now, so that it reads the line when it is low again and reports
 * nothing. The read that sees the key down is what releases it; that is an edge again, which leads
 * to the read that reports the release. A guest that has no driver yet finds the key down when it
 * has one. Presses that no read came between are one.
 */
enum {
	GPIO_DATA_END = 0x400, /* address bits 9 to 2 are a mask of lines */
	GPIO_DIR = 0x400,
	GPIO_IS = 0x404,
	GPIO_IBE = 0x408,
	GPIO_IEV = 0x40c,
	GPIO_IE = 0x410,
	GPIO_RIS = 0x414,
	GPIO_MIS = 0x418,
	GPIO_IC = 0x41c,
	GPIO_AFSEL = 0x420,
};

#define BUTTON (1u << PLATFORM_BUTTON_LINE)

/* Inputs only: an output interrupts nobody. */
static uint8_t gpio_ris(const struct gpio *g)
{
	uint8_t levels = (uint8_t)(g->is & ~(g->pins ^ g->iev));

	return (uint8_t)((g->edges | levels) & ~g->dir);
}

static void gpio_update(struct platform *p)
{
	set_line(p, LAYOUT_GPIO_SPI, &p->gpio.irq, gpio_ris(&p->gpio) & p->gpio.ie);
}

/* New levels from outside. Lock held. */
static void gpio_set_pins(struct platform *p, uint8_t pins)
{
	struct gpio *g = &p->gpio;
	uint8_t changed = g->pins ^ pins;

	g->pins = pins;
	g->edges |= (uint8_t)(changed & ~g->is & ~g->dir & (g->ibe | ~(pins ^ g->iev)));
	gpio_update(p);
}

static uint8_t gpio_read(struct platform *p, uint64_t offset)
{
	struct gpio *g = &p->gpio;
	uint8_t value;

	if (offset < GPIO_DATA_END) {
		value = (uint8_t)((g->data & g->dir) | (g->pins & ~g->dir));
		value &= (uint8_t)(offset >> 2);
		if (value & BUTTON & g->pins & ~g->dir)
			gpio_set_pins(p, (uint8_t)(g->pins & ~BUTTON));
		return value;
	}
	switch (offset) {
	case GPIO_DIR:
		return g->dir;
	case GPIO_IS:
		return g->is;
	case GPIO_IBE:
		return g->ibe;
	case GPIO_IEV:
		return g->iev;
	case GPIO_IE:
		return g->ie;
	case GPIO_RIS:
		return gpio_ris(g);
	case GPIO_MIS:
		return gpio_ris(g) & g->ie;
	case GPIO_AFSEL:
		return g->afsel;
	default:
		return offset >= ID_BASE ? primecell_id(offset, PLATFORM_GPIO_ID) : 0;
	}
}

static void gpio_write(struct platform *p, uint64_t offset, uint8_t value)
{
	struct gpio *g = &p->gpio;

	if (offset < GPIO_DATA_END) {
		uint8_t mask = (uint8_t)(offset >> 2 & g->dir);

		g->data = (uint8_t)((g->data & ~mask) | (value & mask));
		return;
	}
	switch (offset) {
	case GPIO_DIR:
		g->dir = value;
		g->edges &= (uint8_t)~value;
		break;
	case GPIO_IS:
		g->is = value;
		g->edges &= (uint8_t)~value;
		break;
	case GPIO_IBE:
		g->ibe = value;
		break;
	case GPIO_IEV:
		g->iev = value;
		break;
	case GPIO_IE:
		g->ie = value;
		break;
	case GPIO_IC:
		g->edges &= (uint8_t)~value;
		break;
	case GPIO_AFSEL:
		g->afsel = value;
		break;
	default:
		return;
	}
	gpio_update(p);
}

/*
 * Registers are bytes in words, and drivers reach them by either (Linux: readb, but readl for the
 * identification). What is no whole register reads 0 and writes nothing, here and below: a part
 * that had its effect would have it twice.
 */
static void gpio_access(void *opaque, uint64_t offset, uint8_t *data, unsigned int len, bool write)
{
	struct platform *p = opaque;

	if (offset % 4 || len > 4)
		return;
	pthread_mutex_lock(&p->lock);
	if (write)
		gpio_write(p, offset, data[0]);
	else
		data[0] = gpio_read(p, offset);
	pthread_mutex_unlock(&p->lock);
}

/*
 * PL031: seconds since 1970, the host's CLOCK_REALTIME. Always running, so it can't be stopped or
 * set: what is loaded changes nothing, as on x86_64. The match register is an alarm at one second.
 */
enum {
	RTC_DR = 0x00,
	RTC_MR = 0x04,
	RTC_LR = 0x08,
	RTC_CR = 0x0c,
	RTC_IMSC = 0x10,
	RTC_RIS = 0x14,
	RTC_MIS = 0x18,
	RTC_ICR = 0x1c,
};

#define RTC_CR_START 1
#define RTC_INT	     1

static time_t rtc_seconds(void)
{
	struct timespec now;

	return clock_gettime(CLOCK_REALTIME, &now) ? 0 : now.tv_sec;
}

static void rtc_update(struct platform *p)
{
	set_line(p, LAYOUT_RTC_SPI, &p->rtc.irq, p->rtc.raw && p->rtc.enabled);
}

/* Absolute, so that the alarm follows a clock that is set. Forgets what has expired unread. */
static void rtc_set_timer(struct platform *p)
{
	struct itimerspec at = {.it_value.tv_sec = p->paused ? 0 : p->rtc.alarm_at};

	if (timerfd_settime(p->rtc.alarm.fd, TFD_TIMER_ABSTIME, &at, NULL))
		log_limited(LOG_ERROR, "clock: timerfd_settime: %s", errno_name(errno));
}

/*
 * The counter has 32 bits and matches when they are equal: a second that has passed is one of the
 * next round, in up to 136 years.
 */
static void rtc_arm(struct platform *p)
{
	time_t now = rtc_seconds();

	p->rtc.alarm_at = now + (uint32_t)(p->rtc.match - (uint32_t)now);
	/* Zero would disarm it; only 1970 has that second. */
	if (!p->rtc.alarm_at)
		p->rtc.alarm_at = 1;
	rtc_set_timer(p);
}

static void rtc_alarm(struct event *ev, uint32_t events)
{
	struct platform *p = ev->opaque;
	uint64_t count;

	(void)events;
	pthread_mutex_lock(&p->lock);
	/* Under the lock, so that an alarm which was moved meanwhile reads as EAGAIN. */
	if (read(ev->fd, &count, sizeof(count)) == sizeof(count)) {
		p->rtc.alarm_at = 0;
		p->rtc.raw = true;
		rtc_update(p);
	}
	pthread_mutex_unlock(&p->lock);
}

static uint32_t rtc_read(struct platform *p, uint64_t offset)
{
	const struct rtc *r = &p->rtc;

	switch (offset) {
	case RTC_DR:
		return (uint32_t)rtc_seconds();
	case RTC_MR:
		return r->match;
	case RTC_LR:
		return r->load;
	case RTC_CR:
		return RTC_CR_START;
	case RTC_IMSC:
		return r->enabled ? RTC_INT : 0;
	case RTC_RIS:
		return r->raw ? RTC_INT : 0;
	case RTC_MIS:
		return r->raw && r->enabled ? RTC_INT : 0;
	default:
		return offset >= ID_BASE ? primecell_id(offset, PLATFORM_RTC_ID) : 0;
	}
}

static void rtc_write(struct platform *p, uint64_t offset, uint32_t value)
{
	struct rtc *r = &p->rtc;

	switch (offset) {
	case RTC_MR:
		r->match = value;
		rtc_arm(p);
		return;
	case RTC_LR:
		r->load = value;
		return;
	case RTC_IMSC:
		r->enabled = value & RTC_INT;
		break;
	case RTC_ICR:
		if (value & RTC_INT)
			r->raw = false;
		break;
	default:
		return;
	}
	rtc_update(p);
}

static void rtc_access(void *opaque, uint64_t offset, uint8_t *data, unsigned int len, bool write)
{
	struct platform *p = opaque;

	if (offset % 4 || len != 4)
		return;
	pthread_mutex_lock(&p->lock);
	if (write)
		rtc_write(p, offset, get_le(data, len));
	else
		put_le(data, len, rtc_read(p, offset));
	pthread_mutex_unlock(&p->lock);
}

int platform_create(struct platform **platform, struct vm *vm)
{
	struct platform *p = calloc(1, sizeof(*p));
	const struct {
		uint64_t base, size;
		bus_fn *fn;
		void *opaque;
		const char *name;
	} regions[] = {
		{LAYOUT_RTC_BASE, LAYOUT_RTC_SIZE, rtc_access, p, "PL031 clock"},
		{LAYOUT_GPIO_BASE, LAYOUT_GPIO_SIZE, gpio_access, p, "PL061 GPIO"},
		{LAYOUT_PVPANIC_BASE, LAYOUT_PVPANIC_SIZE, pvpanic_access, vm, "pvpanic"},
	};
	int err;

	if (!p) {
		log_err("platform devices: ENOMEM");
		return -ENOMEM;
	}
	p->vm = vm;
	pthread_mutex_init(&p->lock, NULL);
	p->rtc.alarm = (struct event){.fn = rtc_alarm, .opaque = p};
	p->rtc.alarm.fd = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC);
	if (p->rtc.alarm.fd < 0) {
		err = -errno;
		log_err("clock: timerfd: %s: check ulimit -n", errno_name(err));
		goto free_platform;
	}
	err = event_add(vm->loop, &p->rtc.alarm, EPOLLIN);
	if (err) {
		log_err("clock: epoll: %s", errno_name(err));
		goto close_alarm;
	}
	for (unsigned int i = 0; i < sizeof(regions) / sizeof(regions[0]); i++) {
		err = bus_add(&vm->mmio, regions[i].base, regions[i].size, regions[i].fn,
			      regions[i].opaque, regions[i].name);
		if (err)
			goto del_alarm; /* a bus has no removal: the VM is not built, then */
	}
	*platform = p;
	return 0;

del_alarm:
	event_del(vm->loop, &p->rtc.alarm);
close_alarm:
	close(p->rtc.alarm.fd);
free_platform:
	pthread_mutex_destroy(&p->lock);
	free(p);
	return err;
}

void platform_destroy(struct platform *platform)
{
	if (!platform)
		return;
	event_del(platform->vm->loop, &platform->rtc.alarm);
	close(platform->rtc.alarm.fd);
	pthread_mutex_destroy(&platform->lock);
	free(platform);
}

void platform_power_button(struct platform *platform)
{
	pthread_mutex_lock(&platform->lock);
	if (platform->paused)
		platform->pressed = true;
	else
		gpio_set_pins(platform, platform->gpio.pins | BUTTON);
	pthread_mutex_unlock(&platform->lock);
}

void platform_pause(struct platform *platform)
{
	pthread_mutex_lock(&platform->lock);
	platform->paused = true;
	rtc_set_timer(platform);
	pthread_mutex_unlock(&platform->lock);
}

void platform_resume(struct platform *platform)
{
	pthread_mutex_lock(&platform->lock);
	if (platform->paused) {
		platform->paused = false;
		/* An alarm whose time has passed comes at once. */
		rtc_set_timer(platform);
		if (platform->pressed)
			gpio_set_pins(platform, platform->gpio.pins | BUTTON);
		platform->pressed = false;
	}
	pthread_mutex_unlock(&platform->lock);
}

void platform_save(struct platform *platform, struct state_writer *w)
{
	const struct gpio *g = &platform->gpio;
	const struct rtc *r = &platform->rtc;

	pthread_mutex_lock(&platform->lock);
	state_writer_begin(w, PLATFORM_STATE, 0, PLATFORM_STATE_VERSION);
	state_writer_u8(w, g->pins);
	state_writer_u8(w, g->data);
	state_writer_u8(w, g->dir);
	state_writer_u8(w, g->is);
	state_writer_u8(w, g->ibe);
	state_writer_u8(w, g->iev);
	state_writer_u8(w, g->ie);
	state_writer_u8(w, g->edges);
	state_writer_u8(w, g->afsel);
	state_writer_u32(w, r->match);
	state_writer_u32(w, r->load);
	state_writer_bool(w, r->enabled);
	state_writer_bool(w, r->raw);
	state_writer_u64(w, (uint64_t)r->alarm_at);
	state_writer_end(w);
	pthread_mutex_unlock(&platform->lock);
}

/* Far enough for any match, and no overflow in the kernel. */
#define ALARM_MAX (UINT64_C(1) << 40)

int platform_load(struct platform *platform, const struct state_reader *reader)
{
	struct state_section s;
	struct gpio g = {0};
	struct rtc *r = &platform->rtc, new = *r;
	uint64_t alarm_at;
	int err;

	err = state_reader_section(reader, &s, PLATFORM_STATE, 0);
	if (err)
		return err;
	g.pins = state_reader_u8(&s);
	g.data = state_reader_u8(&s);
	g.dir = state_reader_u8(&s);
	g.is = state_reader_u8(&s);
	g.ibe = state_reader_u8(&s);
	g.iev = state_reader_u8(&s);
	g.ie = state_reader_u8(&s);
	g.edges = state_reader_u8(&s);
	g.afsel = state_reader_u8(&s);
	new.match = state_reader_u32(&s);
	new.load = state_reader_u32(&s);
	new.enabled = state_reader_bool(&s);
	new.raw = state_reader_bool(&s);
	alarm_at = state_reader_u64(&s);
	if (!s.err && g.pins & ~BUTTON)
		state_reader_bad(&s, "GPIO pins %#x, there is nothing but the button, %#x", g.pins, BUTTON);
	if (!s.err && alarm_at > ALARM_MAX)
		state_reader_bad(&s, "an alarm at second %#llx", (unsigned long long)alarm_at);
	err = state_reader_section_end(&s);
	if (err)
		return err;
	pthread_mutex_lock(&platform->lock);
	platform->paused = true;
	g.irq = platform->gpio.irq;
	platform->gpio = g;
	*r = new;
	r->alarm_at = (int64_t)alarm_at;
	rtc_set_timer(platform);
	gpio_update(platform);
	rtc_update(platform);
	pthread_mutex_unlock(&platform->lock);
	return 0;
}
