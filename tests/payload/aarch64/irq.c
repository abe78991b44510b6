/* SPDX-License-Identifier: MIT */
/*
 * All shared interrupts are on; each source in turn interrupts, by the number that the map gives
 * it, and no other number comes. The serial port, the clock and the GPIO go in by KVM_IRQ_LINE,
 * virtio=N disks by irqfd, whose numbers differ by LAYOUT_SPI_BASE.
 */
#include "tests/payload/aarch64/machine.h"
#include "tests/payload/payload.h"
#include "tests/payload/virtio.h"

#define MAX_SLOTS 32
#define INTID(spi) (LAYOUT_SPI_BASE + (spi))

#define RTC_DR	 0x00
#define RTC_MR	 0x04
#define RTC_IMSC 0x10
#define RTC_ICR	 0x1c

#define GPIO_IS	 0x404
#define GPIO_IEV 0x40c
#define GPIO_IE	 0x410

static struct ring ring[MAX_SLOTS];
static struct vdev dev[MAX_SLOTS];
static char id[32];

static void forget(void)
{
	for (unsigned int i = 0; i < MAX_INTID; i++)
		intid_count[i] = 0;
}

/* This many came by @intid, and none by any other number. */
static bool only(unsigned int intid, uint32_t n)
{
	bool good = wait_count(&intid_count[intid], n);

	settle();
	for (unsigned int i = 0; i < MAX_INTID; i++) {
		uint32_t want = i == intid ? n : 0;

		if (intid_count[i] != want) {
			say("INTID %u: %u interrupts, expected %u\n", i, intid_count[i], want);
			good = false;
		}
	}
	return good && !intid_other;
}

static volatile uint32_t stay;

/* The cause stays as long as the test wants. */
static void on_uart(void)
{
	if (stay && --stay)
		return;
	uart_in(UART_IIR);
	uart_out(UART_IER, 0);
}

static void on_rtc(void)
{
	write32(LAYOUT_RTC_BASE + RTC_ICR, 1);
}

static void on_gpio(void)
{
	write32(LAYOUT_GPIO_BASE + GPIO_IE, 0);
}

static void lines(void)
{
	irq_hook[LAYOUT_UART_SPI] = on_uart;
	irq_hook[LAYOUT_RTC_SPI] = on_rtc;
	irq_hook[LAYOUT_GPIO_SPI] = on_gpio;

	forget();
	uart_out(UART_IER, 2); /* the transmitter is empty */
	check(only(INTID(LAYOUT_UART_SPI), 1), "serial port: its own number");

	forget();
	stay = 5;
	uart_out(UART_IER, 2);
	check(only(INTID(LAYOUT_UART_SPI), 5), "serial port: interrupts for as long as its line is high");

	forget();
	write32(LAYOUT_RTC_BASE + RTC_MR, read32(LAYOUT_RTC_BASE + RTC_DR) + 1);
	write32(LAYOUT_RTC_BASE + RTC_IMSC, 1);
	check(only(INTID(LAYOUT_RTC_SPI), 1), "clock's alarm: its own number");
	write32(LAYOUT_RTC_BASE + RTC_IMSC, 0);

	/* A pin that is low, and low is what interrupts. */
	forget();
	write32(LAYOUT_GPIO_BASE + GPIO_IEV, 0);
	write32(LAYOUT_GPIO_BASE + GPIO_IS, 1);
	write32(LAYOUT_GPIO_BASE + GPIO_IE, 1);
	check(only(INTID(LAYOUT_GPIO_SPI), 1), "GPIO: its own number");
}

static bool ask(unsigned int i)
{
	return blk_do(&dev[i], BLK_GET_ID, 0, id, 20) == 0;
}

static void virtio(unsigned int n)
{
	unsigned int good = 0;

	for (unsigned int i = 0; i < n; i++) {
		if (!vdev_start(&dev[i], i, &ring[i], 0))
			die("disk does not start");
		forget();
		if (ask(i) && only(INTID(LAYOUT_VIRTIO_SPI + i), 1))
			good++;
		else
			say("slot %u\n", i);
	}
	check_eq(good, n, "virtio slots: each its own number");
	if (!n)
		return;

	/* An edge is kept while its interrupt is off. */
	irq_off(dev[0].gsi);
	forget();
	check(ask(0), "request with the interrupt off");
	settle();
	check_eq(intid_count[INTID(dev[0].gsi)], 0, "none comes");
	irq_on(dev[0].gsi);
	check(only(INTID(dev[0].gsi), 1), "it comes, once, when switched on");
}

void payload_main(void)
{
	say("GICv%u\n", gic.version);
	for (unsigned int gsi = 0; gsi < LAYOUT_NR_INTIDS - LAYOUT_SPI_BASE; gsi++)
		irq_on(gsi);
	settle();
	check(only(INTID(LAYOUT_UART_SPI), 0), "all is quiet");
	lines();
	virtio((unsigned int)arg_number("virtio", 0));

	forget();
	sgi_send(7, mpidr());
	check(only(7, 1), "an interrupt to itself");
	done();
}
