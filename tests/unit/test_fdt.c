/* SPDX-License-Identifier: MIT */
/*
 * The writer of device trees, and the machine's tree, read back by rules of its own. With a
 * directory as its argument, trees are written there as well, named GIC-CPUS-DEVICES.dtb, for
 * tests/unit/dtb.sh to give to dtc.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "arch/aarch64/dtb.h"
#include "arch/aarch64/fdt.h"
#include "arch/aarch64/layout.h"
#include "arch/aarch64/platform.h"
#include "arch/arch.h"
#include "tests/unit/test.h"
#include "vm/log.h"

static const char *out_dir;

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static uint64_t get64(const uint8_t *p)
{
	return (uint64_t)get32(p) << 32 | get32(p + 4);
}

/* ---- A reader: every property with the path of its node. ---- */

#define MAX_PROPS 2000

struct prop {
	char path[96]; /* "/cpus/cpu@0:reg" */
	const uint8_t *value;
	uint32_t len;
};

struct tree {
	bool bad;
	const uint8_t *blob;
	uint32_t total;
	unsigned int nr, nodes, depth_max;
	struct prop prop[MAX_PROPS];
};

static struct tree tree;

static void read_tree(const uint8_t *blob, size_t len)
{
	uint32_t structure, strings, strings_len, structure_len, pos, end;
	size_t at[8] = {0};
	unsigned int depth = 0;
	char path[80] = "";
	bool done = false;

	memset(&tree, 0, sizeof(tree));
	tree.blob = blob;
	tree.bad = true;
	if (len < 56 || get32(blob) != 0xd00dfeed || get32(blob + 4) != len)
		return;
	structure = get32(blob + 8);
	strings = get32(blob + 12);
	strings_len = get32(blob + 32);
	structure_len = get32(blob + 36);
	if (get32(blob + 20) != 17 || get32(blob + 24) != 16 || get32(blob + 16) != 40 ||
	    get64(blob + 40) || get64(blob + 48) || structure != 56 || structure % 4 ||
	    structure_len > len - structure || strings < structure + structure_len ||
	    strings_len > len - strings)
		return;
	tree.total = (uint32_t)len;
	pos = structure;
	end = structure + structure_len;
	while (!done && end - pos >= 4) {
		uint32_t token = get32(blob + pos), size, name;
		struct prop *p = &tree.prop[tree.nr];
		const char *node;

		pos += 4;
		switch (token) {
		case 1:
			node = (const char *)blob + pos;
			size = (uint32_t)strnlen(node, end - pos) + 1;
			if (depth == 8 || size > end - pos ||
			    strlen(path) + size + 1 > sizeof(path))
				return;
			at[depth++] = strlen(path);
			if (depth > 1) {
				strcat(path, "/");
				strcat(path, node);
			}
			for (; size % 4; size++) {
				if (node[size])
					return;
			}
			pos += size;
			tree.nodes++;
			if (depth > tree.depth_max)
				tree.depth_max = depth;
			break;
		case 2:
			if (!depth)
				return;
			path[at[--depth]] = 0;
			break;
		case 3:
			if (end - pos < 8 || !depth || tree.nr == MAX_PROPS)
				return;
			size = get32(blob + pos);
			name = get32(blob + pos + 4);
			pos += 8;
			if (size > end - pos || name >= strings_len ||
			    strnlen((const char *)blob + strings + name, strings_len - name) ==
				    strings_len - name)
				return;
			snprintf(p->path, sizeof(p->path), "%s:%s", path,
				 (const char *)blob + strings + name);
			p->value = blob + pos;
			p->len = size;
			tree.nr++;
			for (; size % 4; size++) {
				if (blob[pos + size])
					return;
			}
			pos += size;
			break;
		case 9:
			if (depth)
				return;
			done = true;
			break;
		default:
			return;
		}
	}
	/* A property twice is no tree either. */
	for (unsigned int i = 0; i < tree.nr; i++) {
		for (unsigned int j = tree.nr < 200 ? 0 : i; j < i; j++) {
			if (!strcmp(tree.prop[i].path, tree.prop[j].path))
				return;
		}
	}
	tree.bad = !done || pos != end;
}

static const struct prop *find(const char *path)
{
	for (unsigned int i = 0; i < tree.nr; i++) {
		if (!strcmp(tree.prop[i].path, path))
			return &tree.prop[i];
	}
	return NULL;
}

static bool is_bytes(const char *path, const void *value, size_t len)
{
	const struct prop *p = find(path);

	return p && p->len == len && (!len || !memcmp(p->value, value, len));
}

/* Strings with the NULs between them: "a\0b" as a literal, its last NUL counted in. */
#define IS_STRING(path, literal) CHECK(is_bytes(path, literal, sizeof(literal)))
#define IS_EMPTY(path)		 CHECK(is_bytes(path, "", 0))
#define ABSENT(path)		 CHECK(!find(path))

static bool is_cells(const char *path, const uint32_t *cells, unsigned int nr)
{
	const struct prop *p = find(path);

	if (!p || p->len != nr * 4)
		return false;
	for (unsigned int i = 0; i < nr; i++) {
		if (get32(p->value + i * 4) != cells[i])
			return false;
	}
	return true;
}

#define IS_CELLS(path, ...)                                                                        \
	CHECK(is_cells(path, (const uint32_t[]){__VA_ARGS__},                                      \
		       sizeof((const uint32_t[]){__VA_ARGS__}) / 4))

/* ---- The writer. ---- */

static void writer(void)
{
	static const char *const list[] = {"one", "", "three"};
	uint8_t buf[512];
	struct fdt f;
	size_t len = 0;

	memset(buf, 0xaa, sizeof(buf));
	fdt_init(&f, buf, sizeof(buf));
	fdt_begin_node(&f, "");
	fdt_prop_empty(&f, "empty");
	fdt_prop_u32(&f, "word", 0x12345678);
	fdt_prop_u64(&f, "long", 0x123456789abcdef0);
	fdt_prop_string(&f, "string", "abc");
	fdt_prop_strings(&f, "list", list, 3);
	fdt_prop(&f, "bytes", "\1\2\3\4\5", 5);
	fdt_prop_cells(&f, "cells", (const uint32_t[]){1, 0xffffffff}, 2);
	fdt_prop_u64s(&f, "longs", (const uint64_t[]){1, 2}, 2);
	fdt_prop_cells(&f, "none", NULL, 0);
	fdt_begin_node(&f, "child");
	fdt_prop_u32(&f, "word", 1);
	fdt_begin_node_at(&f, "grand", 0x1f00000000);
	fdt_end_node(&f);
	fdt_end_node(&f);
	fdt_begin_node(&f, "other");
	fdt_prop_u32(&f, "word", 2);
	fdt_end_node(&f);
	fdt_end_node(&f);
	CHECK_EQ(fdt_finish(&f, 0x103, &len), 0);
	read_tree(buf, len);
	CHECK(!tree.bad);
	CHECK_EQ(tree.nodes, 4);
	CHECK_EQ(tree.nr, 11);
	CHECK_EQ(get32(buf + 28), 0x103);
	IS_EMPTY(":empty");
	IS_EMPTY(":none");
	IS_CELLS(":word", 0x12345678);
	CHECK(is_bytes(":word", "\x12\x34\x56\x78", 4));
	CHECK(is_bytes(":long", "\x12\x34\x56\x78\x9a\xbc\xde\xf0", 8));
	IS_STRING(":string", "abc");
	IS_STRING(":list", "one\0\0three");
	CHECK(is_bytes(":bytes", "\1\2\3\4\5", 5));
	IS_CELLS(":cells", 1, 0xffffffff);
	IS_CELLS(":longs", 0, 1, 0, 2);
	IS_CELLS("/child:word", 1);
	IS_CELLS("/other:word", 2);
	/* "word" is one string, whoever has it. */
	CHECK_EQ(get32(buf + 32), strlen("empty word long string list bytes cells longs none") + 1);
	/* Nothing was written behind the end. */
	for (size_t i = len; i < sizeof(buf); i++)
		CHECK_EQ(buf[i], 0xaa);
}

/* What a wrong use leaves. */
static void misuse(void)
{
	char long_name[64];
	uint8_t buf[4096];
	struct fdt f;
	size_t len;

	memset(long_name, 'x', sizeof(long_name));
	long_name[FDT_NAME_MAX + 1] = 0;
	for (unsigned int i = 0;; i++) {
		fdt_init(&f, buf, sizeof(buf));
		if (i != 0)
			fdt_begin_node(&f, i == 1 ? "root" : "");
		switch (i) {
		case 0: /* no root */
		case 1: /* a root with a name */
			break;
		case 2: /* a root not closed */
			break;
		case 3: /* closed twice */
			fdt_end_node(&f);
			fdt_end_node(&f);
			break;
		case 4: /* two roots */
			fdt_end_node(&f);
			fdt_begin_node(&f, "");
			fdt_end_node(&f);
			break;
		case 5: /* a property behind a child */
			fdt_begin_node(&f, "child");
			fdt_end_node(&f);
			fdt_prop_u32(&f, "late", 1);
			fdt_end_node(&f);
			break;
		case 6: /* a property behind the root */
			fdt_end_node(&f);
			fdt_prop_u32(&f, "late", 1);
			break;
		case 7: /* names */
			fdt_prop_u32(&f, "", 1);
			fdt_end_node(&f);
			break;
		case 8:
			fdt_prop_u32(&f, "a b", 1);
			fdt_end_node(&f);
			break;
		case 9:
			fdt_begin_node(&f, "a/b");
			fdt_end_node(&f);
			fdt_end_node(&f);
			break;
		case 10:
			fdt_begin_node(&f, "");
			fdt_end_node(&f);
			fdt_end_node(&f);
			break;
		case 11:
			fdt_prop_u32(&f, long_name, 1);
			fdt_end_node(&f);
			break;
		case 12:
			fdt_begin_node_at(&f, "just-long-enough-a-name", 0xffffffffffffffff);
			fdt_end_node(&f);
			fdt_end_node(&f);
			break;
		default:
			/* The longest name, and an error that stays through what is right. */
			long_name[FDT_NAME_MAX] = 0;
			fdt_prop_u32(&f, long_name, 1);
			fdt_end_node(&f);
			CHECK_EQ(fdt_finish(&f, 0, &len), 0);
			fdt_init(&f, buf, sizeof(buf));
			fdt_begin_node(&f, "");
			fdt_prop(&f, "huge", buf, SIZE_MAX - 2);
			fdt_prop(&f, "large", buf, sizeof(buf));
			fdt_prop(&f, "bad name", buf, 1);
			fdt_end_node(&f);
			CHECK_EQ(fdt_finish(&f, 0, &len), -ENOSPC);
			return;
		}
		if (fdt_finish(&f, 0, &len) != -EINVAL) {
			printf("  misuse %u was not refused\n", i);
			CHECK(!"refused");
		}
	}
}

static void strings_full(void)
{
	static uint8_t buf[65536];
	struct fdt f;
	size_t len;

	fdt_init(&f, buf, sizeof(buf));
	fdt_begin_node(&f, "");
	for (unsigned int i = 0; i < 200; i++) {
		char name[16];

		snprintf(name, sizeof(name), "name-%u", i);
		fdt_prop_empty(&f, name);
	}
	fdt_end_node(&f);
	CHECK_EQ(fdt_finish(&f, 0, &len), -ENOSPC);
}

/* ---- The machine's tree. ---- */

static uint64_t mpidr[256];
static const uint8_t seed[DTB_SEED_MAX] = {1, 2, 3};

static struct dtb_config machine(unsigned int gic, unsigned int cpus, unsigned int virtio)
{
	/* KVM's affinities: 16 to a cluster. Bit 31 is set in every MPIDR and is no affinity. */
	for (unsigned int i = 0; i < 256; i++)
		mpidr[i] = 0x80000000 | (i & 15) | (uint64_t)(i >> 4) << 8;
	return (struct dtb_config){
		.gic = gic,
		.nr_cpus = cpus,
		.mpidr = mpidr,
		.ram_base = LAYOUT_RAM_BASE,
		.ram_size = 512ull << 20,
		.nr_virtio = virtio,
		.bootargs = "console=ttyS0 panic=1",
		.initrd = 0x48000000,
		.initrd_size = 0x123456,
		.rng_seed = seed,
		.rng_seed_len = sizeof(seed),
		.kaslr_seed = 0xfedcba9876543210,
	};
}

static uint8_t blob[DTB_MAX];

static void build(const struct dtb_config *c)
{
	size_t len = 0;

	memset(blob, 0x55, sizeof(blob));
	CHECK_EQ(dtb_build(blob, sizeof(blob), c, &len), 0);
	read_tree(blob, len);
	CHECK(!tree.bad);
}

static void machine_v3(void)
{
	struct dtb_config c = machine(3, 18, 2);

	mpidr[17] = 0x80000000 | 0x0500000101;
	c.ram_size = 6ull << 30;
	build(&c);
	IS_STRING(":compatible", "linux,dummy-virt");
	IS_CELLS(":#address-cells", 2);
	IS_CELLS(":#size-cells", 2);
	IS_CELLS(":interrupt-parent", 1);

	IS_STRING("/chosen:bootargs", "console=ttyS0 panic=1");
	IS_STRING("/chosen:stdout-path", "/serial@9000000:115200n8");
	IS_CELLS("/chosen:linux,initrd-start", 0, 0x48000000);
	IS_CELLS("/chosen:linux,initrd-end", 0, 0x48123456);
	CHECK(is_bytes("/chosen:rng-seed", seed, sizeof(seed)));
	IS_CELLS("/chosen:kaslr-seed", 0xfedcba98, 0x76543210);
	IS_STRING("/aliases:serial0", "/serial@9000000");

	IS_STRING("/memory@40000000:device_type", "memory");
	IS_CELLS("/memory@40000000:reg", 0, 0x40000000, 1, 0x7fff0000);
	/* The generation ID: RAM's last 64 KiB are not told as memory, and begin with it. */
	IS_STRING("/rng@1bfff0000:compatible", "microsoft,vmgenid");
	IS_CELLS("/rng@1bfff0000:reg", 1, 0xbfff0000, 0, 16);
	IS_CELLS("/rng@1bfff0000:interrupts", 0, 4, 1);

	IS_CELLS("/cpus:#address-cells", 2);
	IS_CELLS("/cpus:#size-cells", 0);
	IS_CELLS("/cpus/cpu@0:reg", 0, 0);
	IS_CELLS("/cpus/cpu@f:reg", 0, 0xf);
	IS_CELLS("/cpus/cpu@100:reg", 0, 0x100);
	IS_CELLS("/cpus/cpu@500000101:reg", 5, 0x101);
	IS_STRING("/cpus/cpu@100:enable-method", "psci");
	IS_STRING("/cpus/cpu@100:device_type", "cpu");
	IS_STRING("/cpus/cpu@100:compatible", "arm,armv8");
	IS_STRING("/psci:compatible", "arm,psci-1.0\0arm,psci-0.2");
	IS_STRING("/psci:method", "hvc");

	IS_STRING("/interrupt-controller@8000000:compatible", "arm,gic-v3");
	IS_CELLS("/interrupt-controller@8000000:reg", 0, 0x08000000, 0, 0x10000, 0, 0x080a0000, 0,
		 18 * 0x20000);
	IS_EMPTY("/interrupt-controller@8000000:interrupt-controller");
	IS_CELLS("/interrupt-controller@8000000:#interrupt-cells", 3);
	IS_CELLS("/interrupt-controller@8000000:phandle", 1);

	IS_STRING("/timer:compatible", "arm,armv8-timer");
	IS_CELLS("/timer:interrupts", 1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4);
	IS_EMPTY("/timer:always-on");

	IS_STRING("/serial@9000000:compatible", "ns16550a");
	IS_CELLS("/serial@9000000:reg", 0, 0x09000000, 0, 0x1000);
	IS_CELLS("/serial@9000000:interrupts", 0, LAYOUT_UART_SPI, 4);
	IS_CELLS("/serial@9000000:clock-frequency", 1843200);
	IS_CELLS("/serial@9000000:reg-shift", 0);
	IS_CELLS("/serial@9000000:reg-io-width", 1);
	IS_CELLS("/serial@9000000:fifo-size", 64);

	IS_STRING("/clock-apb:compatible", "fixed-clock");
	IS_CELLS("/clock-apb:#clock-cells", 0);
	IS_CELLS("/clock-apb:phandle", 2);
	IS_STRING("/rtc@9010000:compatible", "arm,pl031\0arm,primecell");
	IS_CELLS("/rtc@9010000:reg", 0, 0x09010000, 0, 0x1000);
	IS_CELLS("/rtc@9010000:interrupts", 0, LAYOUT_RTC_SPI, 4);
	IS_CELLS("/rtc@9010000:arm,primecell-periphid", 0x00041031);
	IS_CELLS("/rtc@9010000:clocks", 2);
	IS_STRING("/rtc@9010000:clock-names", "apb_pclk");
	IS_STRING("/gpio@9030000:compatible", "arm,pl061\0arm,primecell");
	IS_CELLS("/gpio@9030000:reg", 0, 0x09030000, 0, 0x1000);
	IS_CELLS("/gpio@9030000:interrupts", 0, LAYOUT_GPIO_SPI, 4);
	IS_CELLS("/gpio@9030000:arm,primecell-periphid", 0x00041061);
	IS_CELLS("/gpio@9030000:#gpio-cells", 2);
	IS_CELLS("/gpio@9030000:gpio-reserved-ranges", 0, 3, 4, 4);
	IS_EMPTY("/gpio@9030000:gpio-controller");
	IS_CELLS("/gpio@9030000:phandle", 3);
	IS_STRING("/gpio-keys:compatible", "gpio-keys");
	IS_CELLS("/gpio-keys/power-button:linux,code", 116);
	IS_CELLS("/gpio-keys/power-button:gpios", 3, PLATFORM_BUTTON_LINE, 0);
	IS_STRING("/pvpanic@9040000:compatible", "qemu,pvpanic-mmio");
	IS_CELLS("/pvpanic@9040000:reg", 0, 0x09040000, 0, 2);

	IS_STRING("/virtio@a000000:compatible", "virtio,mmio");
	IS_CELLS("/virtio@a000000:reg", 0, 0x0a000000, 0, 0x1000);
	IS_CELLS("/virtio@a000000:interrupts", 0, 16, 1);
	IS_EMPTY("/virtio@a000000:dma-coherent");
	IS_CELLS("/virtio@a010000:interrupts", 0, 17, 1);
	ABSENT("/virtio@a020000:reg");
}

static void machine_v2(void)
{
	struct dtb_config c = machine(2, 3, 0);

	c.initrd_size = 0;
	c.rng_seed_len = 0;
	c.kaslr_seed = 0;
	c.bootargs = "";
	mpidr[0] = 0x80000005;
	build(&c);
	CHECK_EQ(get32(blob + 28), 5); /* the boot CPU */
	IS_STRING("/interrupt-controller@8000000:compatible", "arm,cortex-a15-gic");
	IS_CELLS("/interrupt-controller@8000000:reg", 0, 0x08000000, 0, 0x10000, 0, 0x08010000, 0,
		 0x2000);
	/* Which CPUs have the PPI: three of them. */
	IS_CELLS("/timer:interrupts", 1, 13, 0x704, 1, 14, 0x704, 1, 11, 0x704, 1, 10, 0x704);
	IS_STRING("/chosen:bootargs", "");
	ABSENT("/chosen:linux,initrd-start");
	ABSENT("/chosen:linux,initrd-end");
	ABSENT("/chosen:rng-seed");
	ABSENT("/chosen:kaslr-seed");
	ABSENT("/virtio@a000000:reg");
	c = machine(2, 8, 0);
	build(&c);
	IS_CELLS("/timer:interrupts", 1, 13, 0xff04, 1, 14, 0xff04, 1, 11, 0xff04, 1, 10, 0xff04);
}

/* Line, irqfd and tree agree: what a node says is the GSI, and KVM_IRQ_LINE's INTID is 32 more. */
static void interrupts_agree(void)
{
	struct dtb_config c = machine(3, 1, ARCH_MAX_VIRTIO);
	bool used[LAYOUT_NR_INTIDS] = {false};
	unsigned int nr = 0;

	build(&c);
	for (unsigned int i = 0; i < tree.nr; i++) {
		const struct prop *p = &tree.prop[i];
		uint32_t spi;

		if (!strstr(p->path, ":interrupts") || get32(p->value) != 0)
			continue;
		CHECK_EQ(p->len, 12);
		spi = get32(p->value + 4);
		CHECK(spi + LAYOUT_SPI_BASE < LAYOUT_NR_INTIDS);
		if (spi + LAYOUT_SPI_BASE >= LAYOUT_NR_INTIDS)
			continue;
		CHECK(!used[spi]); /* nobody shares */
		used[spi] = true;
		CHECK_EQ(arch_irq_number(spi), 1u << 24 | (spi + 32));
		nr++;
	}
	CHECK_EQ(nr, 4 + ARCH_MAX_VIRTIO);
	for (unsigned int i = 0; i < ARCH_MAX_VIRTIO; i++) {
		struct arch_slot slot;
		char path[64];

		arch_virtio_slot(i, &slot);
		snprintf(path, sizeof(path), "/virtio@%llx:interrupts", (unsigned long long)slot.base);
		IS_CELLS(path, 0, slot.gsi, 1);
		snprintf(path, sizeof(path), "/virtio@%llx:reg", (unsigned long long)slot.base);
		IS_CELLS(path, 0, (uint32_t)slot.base, 0, (uint32_t)slot.size);
	}
}

/* No two regions overlap, and none is RAM. */
static void regions_apart(void)
{
	static struct {
		uint64_t base, size;
	} region[64];
	struct dtb_config c = machine(3, LAYOUT_MAX_VCPUS_V3, ARCH_MAX_VIRTIO);
	unsigned int nr = 0;

	build(&c);
	for (unsigned int i = 0; i < tree.nr; i++) {
		const struct prop *p = &tree.prop[i];

		if (!strstr(p->path, ":reg") || strstr(p->path, ":reg-") || strstr(p->path, "/cpus"))
			continue;
		CHECK_EQ(p->len % 16, 0);
		for (uint32_t at = 0; at < p->len && nr < 64; at += 16) {
			region[nr].base = get64(p->value + at);
			region[nr].size = get64(p->value + at + 8);
			CHECK(region[nr].size);
			nr++;
		}
	}
	/* RAM, generation ID, two of the GIC, UART, clock, GPIO, pvpanic. */
	CHECK_EQ(nr, 2 + 2 + 4 + ARCH_MAX_VIRTIO);
	for (unsigned int i = 0; i < nr; i++) {
		for (unsigned int j = 0; j < i; j++)
			CHECK(region[i].base + region[i].size <= region[j].base ||
			      region[j].base + region[j].size <= region[i].base);
	}
}

static void save(unsigned int gic, unsigned int cpus, unsigned int virtio)
{
	char path[512];
	FILE *file;

	if (!out_dir)
		return;
	snprintf(path, sizeof(path), "%s/gicv%u-%u-%u.dtb", out_dir, gic, cpus, virtio);
	file = fopen(path, "wb");
	CHECK(file && fwrite(blob, 1, tree.total, file) == tree.total);
	if (file)
		fclose(file);
}

static void every_machine(void)
{
	for (unsigned int gic = 2; gic <= 3; gic++) {
		unsigned int max = gic == 2 ? LAYOUT_MAX_VCPUS_V2 : LAYOUT_MAX_VCPUS_V3;

		for (unsigned int cpus = 1; cpus <= max; cpus++) {
			for (unsigned int virtio = 0; virtio <= ARCH_MAX_VIRTIO; virtio++) {
				struct dtb_config c = machine(gic, cpus, virtio);

				/* Every count of both; all pairs are too many for dtc. */
				if (cpus > 1 && virtio != cpus % (ARCH_MAX_VIRTIO + 1) &&
				    !(cpus == max && virtio == ARCH_MAX_VIRTIO))
					continue;
				c.initrd_size = virtio % 2 ? 0 : 0x1000;
				build(&c);
				/* Root, 15 fixed ones, a CPU each, a device each. */
				CHECK_EQ(tree.nodes, 16 + cpus + virtio);
				save(gic, cpus, virtio);
			}
		}
	}
}

static void largest_fits(void)
{
	struct dtb_config c = machine(3, LAYOUT_MAX_VCPUS_V3, ARCH_MAX_VIRTIO);
	char words[DTB_BOOTARGS_MAX + 2];
	uint8_t *small;
	size_t full, len;

	memset(words, 'x', sizeof(words));
	words[DTB_BOOTARGS_MAX] = 0;
	c.bootargs = words;
	/* The longest names of CPUs that there can be. */
	for (unsigned int i = 0; i < c.nr_cpus; i++)
		mpidr[i] = 0xff80ffff00 + i;
	build(&c);
	CHECK(is_bytes("/chosen:bootargs", words, sizeof(words) - 1));
	full = tree.total;
	CHECK(full <= DTB_MAX);
	/* In any smaller buffer: told, and not a byte behind its end (which ASan would find). */
	for (size_t size = 0; size < full; size += size < 200 ? 1 : 61) {
		small = malloc(size ? size : 1);
		if (!small)
			abort();
		CHECK_EQ(dtb_build(small, size, &c, &len), -ENOSPC);
		free(small);
	}
	small = malloc(full);
	if (!small)
		abort();
	CHECK_EQ(dtb_build(small, full, &c, &len), 0);
	CHECK_EQ(len, full);
	free(small);
}

static void refused(void)
{
	struct dtb_config good = machine(3, 1, 0), c;
	char words[DTB_BOOTARGS_MAX + 2];
	size_t len = 0;

#define REFUSED(err, field, value)                                                                 \
	do {                                                                                       \
		c = good;                                                                          \
		c.field = value;                                                                   \
		CHECK_EQ(dtb_build(blob, sizeof(blob), &c, &len), err);                            \
	} while (0)
	REFUSED(-EINVAL, gic, 0);
	REFUSED(-EINVAL, gic, 1);
	REFUSED(-EINVAL, gic, 4);
	REFUSED(-EINVAL, nr_cpus, 0);
	REFUSED(-EINVAL, nr_cpus, 124);
	REFUSED(-EINVAL, nr_virtio, ARCH_MAX_VIRTIO + 1);
	REFUSED(-EINVAL, rng_seed_len, DTB_SEED_MAX + 1);
	good.gic = 2;
	REFUSED(-EINVAL, nr_cpus, 9);
	REFUSED(0, nr_cpus, 8);
	memset(words, 'x', sizeof(words));
	words[DTB_BOOTARGS_MAX + 1] = 0;
	REFUSED(-E2BIG, bootargs, words);
}

int main(int argc, char **argv)
{
	if (argc > 1)
		out_dir = argv[1];
	/* Refusals log; what they say is not looked at. */
	log_set_fd(open("/dev/null", O_WRONLY | O_CLOEXEC), false);
	RUN(writer);
	RUN(misuse);
	RUN(strings_full);
	RUN(machine_v3);
	RUN(machine_v2);
	RUN(interrupts_agree);
	RUN(regions_apart);
	RUN(every_machine);
	RUN(largest_fits);
	RUN(refused);
	return TEST_RESULT();
}
