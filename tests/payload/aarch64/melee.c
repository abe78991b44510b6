/* SPDX-License-Identifier: MIT */
/*
 * n=N lives, counted on the disk in slot 0; slot 1 is an entropy device. Four CPUs write whatever
 * they like to every device at once, one of them runs where nothing is, and then all ask for the
 * machine's end in the same moment. Each life must find the machine as new: the other CPUs off, no
 * interrupt on, pending or active, no timer, no register of the small devices set.
 */
#include "tests/payload/aarch64/machine.h"
#include "tests/payload/payload.h"
#include "tests/payload/virtio.h"

#define SECTOR 512

static struct ring ring;
static struct vdev disk;
static uint32_t sector[SECTOR / 4];
static volatile uint32_t ready, at_end, dice;
static volatile bool go;

static bool skip_abort(struct frame *f)
{
	f->elr += 4;
	return ESR_EC(f->esr) == EC_DATA_ABORT;
}

static void must(bool good, const char *what)
{
	if (good)
		return;
	say("in life %u: ", sector[0]);
	die(what);
}

static void must_be(uint64_t got, uint64_t want, const char *what)
{
	if (got != want)
		say("%s: 0x%lx, expected 0x%lx\n", what, got, want);
	must(got == want, what);
}

/*
 * --- as new -------------------------------------------------------------------------------------
 */

static void clean_gic(void)
{
	/* ISENABLER, ISPENDR, ISACTIVER; virtio's level is low, as are the others'. */
	for (uint64_t reg = 0x100; reg <= 0x300; reg += 0x100)
		for (unsigned int i = 1; i < LAYOUT_NR_INTIDS / 32; i++)
			must_be(read32(gic.dist + reg + 4 * i), 0, "GIC: shared interrupts");
	if (gic.version == 2)
		must_be(read32(gic.dist + 0x200), 0, "GIC: own interrupts pending");
	/* All redistributors; KVM has SGIs enabled from the start. */
	for (unsigned int i = 0; gic.version == 3 && i < nr_cpus; i++) {
		uint64_t at = gic.redist + i * LAYOUT_GICR_STRIDE + 0x10000;

		must_be(read32(at + 0x100) & ~0xffffu, 0, "GIC: own interrupts on");
		must_be(read32(at + 0x200), 0, "GIC: own interrupts pending");
		must_be(read32(at + 0x300), 0, "GIC: own interrupts active");
	}
}

static void clean(void)
{
	static const uint32_t rtc[] = { 0x04, 0x08, 0x10, 0x14, 0x18 };

	for (unsigned int i = 1; i < nr_cpus; i++)
		must_be((uint64_t)psci(PSCI_AFFINITY_INFO, cpu_mpidr[i], 0, 0), AFFINITY_OFF,
			"other CPUs are off");
	clean_gic();
	for (unsigned int i = 0; i < ARRAY_SIZE(rtc); i++)
		must_be(read32(LAYOUT_RTC_BASE + rtc[i]), 0, "clock's registers");
	must_be(read32(LAYOUT_GPIO_BASE + 0x3fc), 0, "GPIO's lines");
	for (uint32_t reg = 0x400; reg <= 0x420; reg += 4)
		must_be(read32(LAYOUT_GPIO_BASE + reg), 0, "GPIO's registers");
	must_be(uart_in(UART_IER), 0, "serial port: IER");
	must_be(uart_in(UART_IIR), 1, "serial port: IIR");
	must_be(uart_in(UART_SCR), 0, "serial port: SCR");
	must(!(entry.cntv_ctl & 1), "virtual timer");
	must_be(entry.current_el, 1 << 2, "exception level");
	must_be(entry.daif, 0xf << 6, "interrupts masked");
}

/*
 * --- PSCI, askew --------------------------------------------------------------------------------
 */

static void odd_calls(void)
{
	static const uint64_t nobody[] = {
		0x80000001, 0x100, 0x10000, 1ull << 32, ~0ull, 0xff00ffffff, 1ull << 63,
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(nobody); i++) {
		/* Reserved bits may be ignored; a CPU that is none must not start. */
		if ((nobody[i] & MPIDR_AFFINITY) < nr_cpus)
			continue;
		must_be((uint64_t)psci(PSCI_CPU_ON, nobody[i], 0, 0), (uint64_t)PSCI_INVALID,
			"CPU_ON of nobody");
	}
	for (uint64_t level = 0; level < 5; level++)
		psci(PSCI_AFFINITY_INFO, cpu_mpidr[1], level, 0);
	psci(PSCI_AFFINITY_INFO, 0, ~0ull, 0);
	psci(PSCI_SYSTEM_RESET2, 1, 0, 0); /* an architectural type that is none */
	for (uint32_t f = 0; f < 0x40; f++) {
		/* Not what ends this CPU, or the machine. */
		if (f != 1 && f != 2 && f != 8 && f != 9 && f != 0xe && f != 0x12 && f != 0x15) {
			psci(0x84000000 + f, ~0ull, ~0ull, ~0ull);
			psci(0xc4000000 + f, ~0ull, ~0ull, ~0ull);
		}
		psci(0x80000000 + f, ~0ull, ~0ull, ~0ull);
		psci(0x86000000 + f, ~0ull, ~0ull, ~0ull);
	}
}

/*
 * --- everybody at once --------------------------------------------------------------------------
 */

static uint32_t roll(uint32_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 17;
	*seed ^= *seed << 5;
	return *seed;
}

static void one_access(uint32_t *seed)
{
	static const struct {
		uint64_t base;
		uint32_t first, size;
	} window[] = {
		{ LAYOUT_UART_BASE, 1, 0x20 },	     { LAYOUT_RTC_BASE, 0, 0x20 },
		{ LAYOUT_RTC_BASE, 0xfd0, 0x60 },    { LAYOUT_GPIO_BASE, 0, 0x430 },
		{ LAYOUT_GPIO_BASE, 0x400, 0x30 },   { LAYOUT_PVPANIC_BASE, 1, 8 },
		{ LAYOUT_VIRTIO_BASE + LAYOUT_VIRTIO_STRIDE, 0, 0x120 },
		{ LAYOUT_VIRTIO_BASE + LAYOUT_VIRTIO_STRIDE, 0xff0, 0x20 },
		{ LAYOUT_VIRTIO_BASE + 2 * LAYOUT_VIRTIO_STRIDE, 0, 0x20 },
	};
	uint32_t r = roll(seed), v = roll(seed);
	unsigned int w = r % ARRAY_SIZE(window);
	uint64_t at = window[w].base + window[w].first + (r >> 8) % window[w].size;

	if (r >> 31)
		at &= ~3ull;
	/* One byte at pvpanic's first would be the end, and at the serial port's an output. */
	if (at == LAYOUT_PVPANIC_BASE || at == LAYOUT_UART_BASE)
		at += 4;
	if (v & 0x100)
		v &= 0xff;
	switch (r >> 24 & 0xf) {
	case 0:
		read8(at);
		break;
	case 1:
		read16(at);
		break;
	case 2:
		read64(at);
		break;
	case 3:
		write8(at, (uint8_t)v);
		break;
	case 4:
		write16(at, (uint16_t)v);
		break;
	case 5:
		write64(at, (uint64_t)v << 32 | v);
		break;
	case 6:
		__asm__ volatile("stp %0, %0, [%1]" : : "r"((uint64_t)v), "r"(at) : "memory");
		break;
	case 7:
		read32(at);
		break;
	default:
		write32(at, v);
		break;
	}
}

static _Noreturn void the_end(unsigned int i)
{
	/* What is drawn decides who comes first, and how. */
	for (uint32_t n = dice >> (i & 3) * 4 & 0xf; n; n--)
		machine_relax();
	if (i && (dice >> i & 1))
		psci(PSCI_CPU_OFF, 0, 0, 0);
	machine_reset(dice >> i);
}

static void fight(unsigned int i)
{
	uint32_t seed = (sector[0] + 1) * 2654435761u ^ (i + 1) * 40503u;

	__atomic_fetch_add(&ready, 1, __ATOMIC_SEQ_CST);
	while (!go)
		machine_relax();
	for (unsigned int k = 0; k < 150; k++)
		one_access(&seed);
	__atomic_fetch_add(&at_end, 1, __ATOMIC_SEQ_CST);
	while (at_end < nr_cpus - 1)
		machine_relax();
	the_end(i);
}

void payload_main(void)
{
	uint32_t n = (uint32_t)arg_number("n", 8), life;
	int64_t ret;

	if (nr_cpus != 4)
		die("this takes four CPUs");
	clean();
	must(vdev_start(&disk, 0, &ring, 0), "disk does not start");
	must(blk_do(&disk, BLK_READ, 0, sector, SECTOR) == 0, "disk can't be read");
	life = sector[0];
	odd_calls();
	if (life == n) {
		say("ok %u lives\n", n);
		done();
	}
	sector[0]++;
	must(blk_do(&disk, BLK_WRITE, 0, sector, SECTOR) == 0, "disk can't be written");
	sector[0]--;
	must(vdev_reset(&disk), "disk does not reset");

	machine_interrupts(false);
	exception_hook = skip_abort;
	dice = (life + 1) * 0x9e3779b1u;
	for (unsigned int i = 1; i < 3; i++)
		must(!cpu_on(i, fight), "CPU_ON");
	/* The last one has its first instruction where nothing is, and its vectors, too. */
	ret = psci(PSCI_CPU_ON, cpu_mpidr[3], life & 1 ? machine_hole() : ~3ull, 0);
	must(ret == 0 || ret == -9 /* INVALID_ADDRESS */, "CPU_ON into a hole");
	must(wait_count(&ready, 2), "CPUs don't start");
	for (unsigned int gsi = 0; gsi < LAYOUT_NR_INTIDS - LAYOUT_SPI_BASE; gsi++)
		irq_on(gsi);
	sysreg_write("cntv_cval_el0", 0);
	sysreg_write("cntv_ctl_el0", 1);
	intid_on(LAYOUT_PPI_BASE + LAYOUT_TIMER_VIRTUAL_PPI);
	sgi_send_others(5);
	go = true;
	fight(0);
}
