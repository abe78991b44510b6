/* SPDX-License-Identifier: MIT */
#include "arch/aarch64/dtb.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "arch/aarch64/fdt.h"
#include "arch/aarch64/layout.h"
#include "arch/aarch64/platform.h"
#include "arch/aarch64/vcpu.h"
#include "arch/arch.h"
#include "vm/log.h"

/* Nodes that others name. */
enum phandle { PHANDLE_GIC = 1, PHANDLE_CLOCK, PHANDLE_GPIO };

/* Cells of an interrupt, bindings/interrupt-controller/arm,gic-v3.yaml (GICv2 has them too). */
enum irq_kind { IRQ_SPI = 0, IRQ_PPI = 1 };
#define IRQ_EDGE_RISING 1
#define IRQ_LEVEL_HIGH	4
#define IRQ_CPUS_SHIFT	8 /* GICv2: which CPUs a PPI goes to */

/* What the UART's divisors count in; with it 115200 baud is divisor 1, as on every PC. */
#define UART_CLOCK 1843200
#define UART_NAME  "serial"
/*
 * How much may be sent before the status is asked for again: any number, since what it sends goes
 * at once; larger ones keep a driver in its interrupt.
 */
#define UART_FIFO 64
#define UART_SPEED "115200n8"

/* The frequency means nothing, but Arm's peripherals must have a clock to name. */
#define APB_CLOCK 24000000

#define KEY_POWER	 116 /* linux/input-event-codes.h */
#define GPIO_ACTIVE_HIGH 0

static void prop_reg(struct fdt *f, uint64_t base, uint64_t size)
{
	fdt_prop_u64s(f, "reg", (const uint64_t[]){base, size}, 2);
}

static void prop_spi(struct fdt *f, uint32_t spi, uint32_t flags)
{
	fdt_prop_cells(f, "interrupts", (const uint32_t[]){IRQ_SPI, spi, flags}, 3);
}

/* The path of the UART's node, with @tail behind it. */
static const char *uart_path(char *buf, size_t size, const char *tail)
{
	snprintf(buf, size, "/" UART_NAME "@%llx%s", (unsigned long long)LAYOUT_UART_BASE, tail);
	return buf;
}

static void chosen(struct fdt *f, const struct dtb_config *c)
{
	char path[FDT_NAME_MAX + 16];

	fdt_begin_node(f, "chosen");
	fdt_prop_string(f, "bootargs", c->bootargs);
	fdt_prop_string(f, "stdout-path", uart_path(path, sizeof(path), ":" UART_SPEED));
	if (c->initrd_size) {
		fdt_prop_u64(f, "linux,initrd-start", c->initrd);
		fdt_prop_u64(f, "linux,initrd-end", c->initrd + c->initrd_size);
	}
	/* The kernel wipes both seeds once it has read them. */
	if (c->rng_seed_len)
		fdt_prop(f, "rng-seed", c->rng_seed, c->rng_seed_len);
	if (c->kaslr_seed)
		fdt_prop_u64(f, "kaslr-seed", c->kaslr_seed);
	fdt_end_node(f);

	/* With it Linux calls this port ttyS0 whatever else it finds. */
	fdt_begin_node(f, "aliases");
	fdt_prop_string(f, "serial0", uart_path(path, sizeof(path), ""));
	fdt_end_node(f);
}

static void memory(struct fdt *f, const struct dtb_config *c)
{
	fdt_begin_node_at(f, "memory", c->ram_base);
	fdt_prop_string(f, "device_type", "memory");
	prop_reg(f, c->ram_base, c->ram_size - LAYOUT_VMGENID_ROOM);
	fdt_end_node(f);
}

/* Behind the memory, bindings/rng/microsoft,vmgenid.yaml. */
static void vmgenid(struct fdt *f, const struct dtb_config *c)
{
	uint64_t base = c->ram_base + c->ram_size - LAYOUT_VMGENID_ROOM;

	fdt_begin_node_at(f, "rng", base);
	fdt_prop_string(f, "compatible", "microsoft,vmgenid");
	prop_reg(f, base, LAYOUT_VMGENID_SIZE);
	prop_spi(f, LAYOUT_VMGENID_SPI, IRQ_EDGE_RISING);
	fdt_end_node(f);
}

static void cpus(struct fdt *f, const struct dtb_config *c)
{
	fdt_begin_node(f, "cpus");
	/* Two cells, so that Aff3 has a place whether or not a CPU has one. */
	fdt_prop_u32(f, "#address-cells", 2);
	fdt_prop_u32(f, "#size-cells", 0);
	for (unsigned int i = 0; i < c->nr_cpus; i++) {
		/* All that may be in reg, bindings/arm/cpus.yaml. */
		uint64_t affinity = c->mpidr[i] & VCPU_MPIDR_AFFINITY;

		fdt_begin_node_at(f, "cpu", affinity);
		fdt_prop_string(f, "device_type", "cpu");
		fdt_prop_string(f, "compatible", "arm,armv8");
		fdt_prop_u64(f, "reg", affinity);
		fdt_prop_string(f, "enable-method", "psci");
		fdt_end_node(f);
	}
	fdt_end_node(f);

	fdt_begin_node(f, "psci");
	fdt_prop_strings(f, "compatible", (const char *const[]){"arm,psci-1.0", "arm,psci-0.2"}, 2);
	fdt_prop_string(f, "method", "hvc");
	fdt_end_node(f);
}

static void gic(struct fdt *f, const struct dtb_config *c)
{
	const bool v3 = c->gic == 3;
	const uint64_t reg[] = {
		LAYOUT_GICD_BASE,
		LAYOUT_GICD_SIZE,
		v3 ? LAYOUT_GICR_BASE : LAYOUT_GICC_BASE,
		v3 ? c->nr_cpus * LAYOUT_GICR_STRIDE : LAYOUT_GICC_SIZE,
	};

	fdt_begin_node_at(f, "interrupt-controller", LAYOUT_GICD_BASE);
	fdt_prop_string(f, "compatible", v3 ? "arm,gic-v3" : "arm,cortex-a15-gic");
	fdt_prop_u64s(f, "reg", reg, 4);
	fdt_prop_empty(f, "interrupt-controller");
	fdt_prop_u32(f, "#interrupt-cells", 3);
	/* No ITS or MSI frame below it, so no addresses and no "ranges". */
	fdt_prop_u32(f, "#address-cells", 0);
	fdt_prop_u32(f, "phandle", PHANDLE_GIC);
	fdt_end_node(f);
}

static void timer(struct fdt *f, const struct dtb_config *c)
{
	static const uint8_t ppi[] = {
		LAYOUT_TIMER_SECURE_PPI,
		LAYOUT_TIMER_PHYSICAL_PPI,
		LAYOUT_TIMER_VIRTUAL_PPI,
		LAYOUT_TIMER_HYP_PPI,
	};
	uint32_t cells[sizeof(ppi) * 3], flags = IRQ_LEVEL_HIGH;

	/* For a GICv3 those bits must be zero. */
	if (c->gic == 2)
		flags |= ((1u << c->nr_cpus) - 1) << IRQ_CPUS_SHIFT;
	for (unsigned int i = 0; i < sizeof(ppi); i++) {
		cells[i * 3] = IRQ_PPI;
		cells[i * 3 + 1] = ppi[i];
		cells[i * 3 + 2] = flags;
	}
	fdt_begin_node(f, "timer");
	fdt_prop_string(f, "compatible", "arm,armv8-timer");
	fdt_prop_cells(f, "interrupts", cells, sizeof(ppi) * 3);
	/* KVM's timers wake a vCPU out of every idle state there is, WFI and PSCI's CPU_SUSPEND. */
	fdt_prop_empty(f, "always-on");
	fdt_end_node(f);
}

static void uart(struct fdt *f)
{
	fdt_begin_node_at(f, UART_NAME, LAYOUT_UART_BASE);
	fdt_prop_string(f, "compatible", "ns16550a");
	prop_reg(f, LAYOUT_UART_BASE, LAYOUT_UART_SIZE);
	prop_spi(f, LAYOUT_UART_SPI, IRQ_LEVEL_HIGH);
	fdt_prop_u32(f, "clock-frequency", UART_CLOCK);
	fdt_prop_u32(f, "reg-shift", 0);
	fdt_prop_u32(f, "reg-io-width", 1);
	fdt_prop_u32(f, "fifo-size", UART_FIFO);
	fdt_end_node(f);
}

/*
 * What every node of an Arm PrimeCell has; @name is its compatible as well. With @id, the one that
 * its registers tell, nobody reads eight of those for it.
 */
static void prop_primecell(struct fdt *f, const char *name, uint32_t id, uint64_t base,
			   uint64_t size, uint32_t spi)
{
	fdt_prop_strings(f, "compatible", (const char *const[]){name, "arm,primecell"}, 2);
	fdt_prop_u32(f, "arm,primecell-periphid", id);
	prop_reg(f, base, size);
	prop_spi(f, spi, IRQ_LEVEL_HIGH);
	fdt_prop_u32(f, "clocks", PHANDLE_CLOCK);
	fdt_prop_string(f, "clock-names", "apb_pclk");
}

static void platform_devices(struct fdt *f)
{
	fdt_begin_node(f, "clock-apb");
	fdt_prop_string(f, "compatible", "fixed-clock");
	fdt_prop_u32(f, "#clock-cells", 0);
	fdt_prop_u32(f, "clock-frequency", APB_CLOCK);
	fdt_prop_u32(f, "phandle", PHANDLE_CLOCK);
	fdt_end_node(f);

	fdt_begin_node_at(f, "rtc", LAYOUT_RTC_BASE);
	prop_primecell(f, "arm,pl031", PLATFORM_RTC_ID, LAYOUT_RTC_BASE, LAYOUT_RTC_SIZE,
		       LAYOUT_RTC_SPI);
	fdt_end_node(f);

	fdt_begin_node_at(f, "gpio", LAYOUT_GPIO_BASE);
	prop_primecell(f, "arm,pl061", PLATFORM_GPIO_ID, LAYOUT_GPIO_BASE, LAYOUT_GPIO_SIZE,
		       LAYOUT_GPIO_SPI);
	fdt_prop_empty(f, "gpio-controller");
	fdt_prop_u32(f, "#gpio-cells", 2);
	/* All lines but the button's, so that nobody asks for their directions. */
	fdt_prop_cells(f, "gpio-reserved-ranges",
		       (const uint32_t[]){0, PLATFORM_BUTTON_LINE, PLATFORM_BUTTON_LINE + 1,
					  7 - PLATFORM_BUTTON_LINE},
		       4);
	/*
	 * No "interrupt-controller": gpio-keys asks for the line, and no node for its interrupt.
	 * The binding would have it, but dtc then wants #address-cells, which the binding forbids.
	 */
	fdt_prop_u32(f, "phandle", PHANDLE_GPIO);
	fdt_end_node(f);

	fdt_begin_node(f, "gpio-keys");
	fdt_prop_string(f, "compatible", "gpio-keys");
	fdt_begin_node(f, "power-button");
	fdt_prop_string(f, "label", "Power Button");
	fdt_prop_u32(f, "linux,code", KEY_POWER);
	fdt_prop_cells(f, "gpios",
		       (const uint32_t[]){PHANDLE_GPIO, PLATFORM_BUTTON_LINE, GPIO_ACTIVE_HIGH}, 3);
	fdt_end_node(f);
	fdt_end_node(f);

	fdt_begin_node_at(f, "pvpanic", LAYOUT_PVPANIC_BASE);
	fdt_prop_string(f, "compatible", "qemu,pvpanic-mmio");
	prop_reg(f, LAYOUT_PVPANIC_BASE, LAYOUT_PVPANIC_SIZE);
	fdt_end_node(f);
}

static void virtio(struct fdt *f, unsigned int i)
{
	struct arch_slot slot;

	arch_virtio_slot(i, &slot);
	fdt_begin_node_at(f, "virtio", slot.base);
	fdt_prop_string(f, "compatible", "virtio,mmio");
	prop_reg(f, slot.base, slot.size);
	prop_spi(f, slot.gsi, IRQ_EDGE_RISING);
	/* DMA is the VMM's own loads and stores. */
	fdt_prop_empty(f, "dma-coherent");
	fdt_end_node(f);
}

static int check(const struct dtb_config *c)
{
	unsigned int max_cpus = c->gic == 2 ? LAYOUT_MAX_VCPUS_V2 : LAYOUT_MAX_VCPUS_V3;

	if ((c->gic != 2 && c->gic != 3) || !c->nr_cpus || c->nr_cpus > max_cpus ||
	    c->nr_virtio > ARCH_MAX_VIRTIO || c->rng_seed_len > DTB_SEED_MAX) {
		log_err("device tree: EINVAL: GICv%u, %u vCPUs (1 to %u), %u virtio devices (at "
			"most %u), a seed of %zu bytes (at most %u)",
			c->gic, c->nr_cpus, max_cpus, c->nr_virtio, ARCH_MAX_VIRTIO, c->rng_seed_len,
			DTB_SEED_MAX);
		return -EINVAL;
	}
	if (strlen(c->bootargs) > DTB_BOOTARGS_MAX) {
		log_err("command line: E2BIG: %zu bytes, an arm64 kernel takes at most %u: shorten "
			"--cmdline",
			strlen(c->bootargs), DTB_BOOTARGS_MAX);
		return -E2BIG;
	}
	return 0;
}

int dtb_build(void *buf, size_t size, const struct dtb_config *config, size_t *len)
{
	struct fdt f;
	int err;

	err = check(config);
	if (err)
		return err;
	fdt_init(&f, buf, size);
	fdt_begin_node(&f, "");
	/* The name of a virtual machine without a board's quirks; Linux looks for none in it. */
	fdt_prop_string(&f, "compatible", "linux,dummy-virt");
	fdt_prop_string(&f, "model", "vinit");
	fdt_prop_u32(&f, "#address-cells", 2);
	fdt_prop_u32(&f, "#size-cells", 2);
	fdt_prop_u32(&f, "interrupt-parent", PHANDLE_GIC);
	chosen(&f, config);
	memory(&f, config);
	vmgenid(&f, config);
	cpus(&f, config);
	gic(&f, config);
	timer(&f, config);
	uart(&f);
	platform_devices(&f);
	for (unsigned int i = 0; i < config->nr_virtio; i++)
		virtio(&f, i);
	fdt_end_node(&f);
	err = fdt_finish(&f, (uint32_t)(config->mpidr[0] & VCPU_MPIDR_AFFINITY), len);
	if (err)
		log_err("device tree: %s: %u vCPUs and %u virtio devices in %zu bytes",
			errno_name(err), config->nr_cpus, config->nr_virtio, size);
	return err;
}
