/* SPDX-License-Identifier: MIT */
/*
 * ACPI tables and the map they tell of. With a directory as its argument, the tables are written
 * there as well, one file each, named CPUS-DEVICES-SIGNATURE.dat, for tests/unit/acpi.sh to give to
 * iasl.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>

#include "arch/arch.h"
#include "arch/x86_64/acpi.h"
#include "arch/x86_64/aml.h"
#include "arch/x86_64/layout.h"
#include "tests/unit/test.h"
#include "vm/kvm.h"
#include "vm/log.h"
#include "vm/memory.h"

static const char *out_dir;

/* No KVM behind the memory: nothing calls it. */
int kvm_ioctl_named(int fd, unsigned long request, const char *name, void *arg)
{
	(void)fd, (void)request, (void)name, (void)arg;
	return -ENOSYS;
}

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t get32(const uint8_t *p)
{
	return get16(p) | (uint32_t)get16(p + 2) << 16;
}

static uint64_t get64(const uint8_t *p)
{
	return get32(p) | (uint64_t)get32(p + 4) << 32;
}

static uint8_t sum(const uint8_t *p, size_t len)
{
	uint8_t total = 0;

	while (len--)
		total = (uint8_t)(total + *p++);
	return total;
}

/* ---- The byte code, read back by rules of its own. ---- */

#define MAX_DEVICES 400

struct device {
	char seg[5];
	char hid[9];
	uint64_t uid, cca, sta;
	bool has_uid, has_crs;
	unsigned int nr_irq, nr_mem, nr_io;
	uint32_t gsi;
	uint8_t irq_flags;
	uint32_t mem_base, mem_size;
	uint16_t port, port_len;
	char cid[16], ddn[16];
	uint64_t addr[2];
	unsigned int nr_addr;
};

struct dsdt {
	unsigned int nr;
	struct device device[MAX_DEVICES];
	uint64_t s5[4];
	unsigned int nr_s5;
	uint8_t evt[64];
	size_t evt_len;
	uint64_t region_space, region_base, region_len;
	bool bad;
};

struct value {
	enum { NUMBER, STRING, BUFFER, PACKAGE } type;
	uint64_t number;
	const uint8_t *bytes;
	size_t len;
};

/* Returns the bytes of the package, and where it ends; NULL if that is behind @end. */
static const uint8_t *pkg(const uint8_t *p, const uint8_t *end, const uint8_t **pkg_end)
{
	unsigned int more;
	size_t len;

	if (p == end)
		return NULL;
	more = p[0] >> 6;
	if ((size_t)(end - p) < more + 1)
		return NULL;
	len = more ? p[0] & 0xf : p[0] & 0x3f;
	for (unsigned int i = 0; i < more; i++)
		len |= (size_t)p[1 + i] << (4 + 8 * i);
	if (more && (p[0] & 0x30))
		return NULL;
	if (len < more + 1 || len > (size_t)(end - p))
		return NULL;
	*pkg_end = p + len;
	return p + 1 + more;
}

static const uint8_t *value(const uint8_t *p, const uint8_t *end, struct value *v)
{
	unsigned int len = 0;
	const uint8_t *stop;

	if (p >= end)
		return NULL;
	memset(v, 0, sizeof(*v));
	switch (*p++) {
	case 0x00:
		return p;
	case 0x01:
		v->number = 1;
		return p;
	case 0xff:
		v->number = UINT64_MAX;
		return p;
	case 0x0a:
		len = 1;
		break;
	case 0x0b:
		len = 2;
		break;
	case 0x0c:
		len = 4;
		break;
	case 0x0e:
		len = 8;
		break;
	case 0x0d:
		v->type = STRING;
		v->bytes = p;
		v->len = strnlen((const char *)p, (size_t)(end - p));
		return p + v->len < end ? p + v->len + 1 : NULL;
	case 0x11: {
		struct value size;

		p = pkg(p, end, &stop);
		if (!p || !(p = value(p, stop, &size)) || size.number != (size_t)(stop - p))
			return NULL;
		v->type = BUFFER;
		v->bytes = p;
		v->len = (size_t)(stop - p);
		return stop;
	}
	case 0x12:
		p = pkg(p, end, &stop);
		if (!p || p == stop)
			return NULL;
		v->type = PACKAGE;
		v->bytes = p;
		v->len = (size_t)(stop - p);
		return stop;
	default:
		return NULL;
	}
	if ((size_t)(end - p) < len)
		return NULL;
	for (unsigned int i = 0; i < len; i++)
		v->number |= (uint64_t)p[i] << (8 * i);
	return p + len;
}

static bool resources(const uint8_t *p, size_t len, struct device *d)
{
	const uint8_t *end = p + len;

	d->has_crs = true;
	while (p < end) {
		size_t left = (size_t)(end - p);

		if (*p == 0x79)
			return left == 2 && p[1] == 0;
		if (*p == 0x47 && left >= 8) {
			d->nr_io++;
			d->port = get16(p + 2);
			if (p[1] != 1 || get16(p + 4) != d->port)
				return false;
			d->port_len = p[7];
			p += 8;
		} else if (*p == 0x86 && left >= 12 && get16(p + 1) == 9) {
			d->nr_mem++;
			if (p[3] != 1)
				return false;
			d->mem_base = get32(p + 4);
			d->mem_size = get32(p + 8);
			p += 12;
		} else if (*p == 0x89 && left >= 9 && get16(p + 1) == 6) {
			d->nr_irq++;
			d->irq_flags = p[3];
			if (p[4] != 1)
				return false;
			d->gsi = get32(p + 5);
			p += 9;
		} else {
			return false;
		}
	}
	return false; /* no end tag */
}

static void eisa(uint32_t number, char hid[9])
{
	uint32_t v = __builtin_bswap32(number);

	snprintf(hid, 9, "%c%c%c%04X", (char)('@' + (v >> 26 & 31)), (char)('@' + (v >> 21 & 31)),
		 (char)('@' + (v >> 16 & 31)), v & 0xffff);
}

/* A package of numbers, of which the first @max are kept. */
static bool numbers(const struct value *v, uint64_t *number, unsigned int *nr, unsigned int max)
{
	const uint8_t *p = v->bytes;

	if (v->type != PACKAGE)
		return false;
	*nr = *p++;
	for (unsigned int i = 0; i < *nr && i < max; i++) {
		struct value e;

		p = value(p, v->bytes + v->len, &e);
		if (!p)
			return false;
		number[i] = e.number;
	}
	return p == v->bytes + v->len;
}

static bool name(struct dsdt *t, struct device *d, const uint8_t *seg, const struct value *v)
{
	if (!d)
		return !memcmp(seg, "_S5_", 4) && numbers(v, t->s5, &t->nr_s5, 4);
	if (!memcmp(seg, "_HID", 4)) {
		if (v->type == STRING)
			snprintf(d->hid, sizeof(d->hid), "%.*s", (int)v->len,
				 (const char *)v->bytes);
		else
			eisa((uint32_t)v->number, d->hid);
	} else if (!memcmp(seg, "_UID", 4)) {
		d->has_uid = true;
		d->uid = v->number;
	} else if (!memcmp(seg, "_CCA", 4)) {
		d->cca = v->number;
	} else if (!memcmp(seg, "_STA", 4)) {
		d->sta = v->number;
	} else if (!memcmp(seg, "_CID", 4) && v->type == STRING) {
		snprintf(d->cid, sizeof(d->cid), "%.*s", (int)v->len, (const char *)v->bytes);
	} else if (!memcmp(seg, "_DDN", 4) && v->type == STRING) {
		snprintf(d->ddn, sizeof(d->ddn), "%.*s", (int)v->len, (const char *)v->bytes);
	} else if (!memcmp(seg, "ADDR", 4)) {
		return numbers(v, d->addr, &d->nr_addr, 2);
	} else if (!memcmp(seg, "_CRS", 4)) {
		return v->type == BUFFER && resources(v->bytes, v->len, d);
	} else {
		return false;
	}
	return true;
}

static bool terms(struct dsdt *t, struct device *d, const uint8_t *p, const uint8_t *end)
{
	while (p < end) {
		const uint8_t *stop, *seg;
		struct value v;
		uint8_t op = *p++;

		if (op == 0x5b) {
			if (p == end)
				return false;
			op = *p++;
			if (op == 0x80) { /* OperationRegion */
				if (!d || end - p < 5)
					return false;
				t->region_space = p[4];
				if (!(p = value(p + 5, end, &v)))
					return false;
				t->region_base = v.number;
				if (!(p = value(p, end, &v)))
					return false;
				t->region_len = v.number;
				continue;
			}
			if (op != 0x81 && op != 0x82)
				return false;
			seg = pkg(p, end, &stop);
			if (!seg || stop - seg < 4)
				return false;
			p = stop;
			if (op == 0x81) {
				if (stop - seg != 10 || memcmp(seg,
							       "EVTR\x03"
							       "EVTS\x20",
							       10))
					return false;
				continue;
			}
			if (d || t->nr == MAX_DEVICES)
				return false;
			memcpy(t->device[t->nr].seg, seg, 4);
			if (!terms(t, &t->device[t->nr], seg + 4, stop))
				return false;
			t->nr++;
		} else if (op == 0x08) {
			if (end - p < 5)
				return false;
			seg = p;
			p = value(p + 4, end, &v);
			if (!p || !name(t, d, seg, &v))
				return false;
		} else if (op == 0x10) {
			seg = pkg(p, end, &stop);
			if (!seg || stop - seg < 4 || memcmp(seg, "_SB_", 4) || d)
				return false;
			if (!terms(t, NULL, seg + 4, stop))
				return false;
			p = stop;
		} else if (op == 0x14) {
			seg = pkg(p, end, &stop);
			if (!seg || stop - seg > (int)sizeof(t->evt))
				return false;
			t->evt_len = (size_t)(stop - seg);
			memcpy(t->evt, seg, t->evt_len);
			p = stop;
		} else {
			return false;
		}
	}
	return p == end;
}

static const struct device *find(const struct dsdt *t, const char *hid)
{
	for (unsigned int i = 0; i < t->nr; i++)
		if (!strcmp(t->device[i].hid, hid))
			return &t->device[i];
	return NULL;
}

static void check_dsdt(const uint8_t *table, size_t len, unsigned int nr_vcpus,
		       unsigned int nr_virtio)
{
	/*
	 * _EVT (Arg0), serialized: Store (EVTS, Local0); If (And (Local0, 1)) { Notify (PWRB, 0x80) }
	 * If (And (Local0, 2)) { Notify (VGEN, 0x80) }
	 */
	static const uint8_t evt[] = {'_',  'E',  'V',	'T',  0x09, 0x70, 'E',	'V',
				      'T',  'S',  0x60, 0xa0, 0x0c, 0x7b, 0x60, 0x01,
				      0x00, 0x86, 'P',	'W',  'R',  'B',  0x0a, 0x80,
				      0xa0, 0x0d, 0x7b, 0x60, 0x0a, 0x02, 0x00, 0x86,
				      'V',  'G',  'E',	'N',  0x0a, 0x80};
	struct dsdt *t = calloc(1, sizeof(*t));
	unsigned int cpus = 0, virtio = 0;
	const struct device *d;

	if (!t)
		abort();
	CHECK(terms(t, NULL, table + 36, table + len));
	CHECK_EQ(t->nr_s5, 4);
	CHECK_EQ(t->s5[0], LAYOUT_SLEEP_TYPE);
	CHECK_EQ(t->nr, nr_vcpus + nr_virtio + 6);
	for (unsigned int i = 0; i < t->nr; i++) {
		d = &t->device[i];
		for (unsigned int j = 0; j < i; j++)
			CHECK(strcmp(d->seg, t->device[j].seg));
		if (!strcmp(d->hid, "ACPI0007")) {
			CHECK_EQ(d->uid, cpus);
			cpus++;
		} else if (!strcmp(d->hid, "LNRO0005")) {
			struct arch_slot slot;

			arch_virtio_slot(virtio, &slot);
			CHECK_EQ(d->uid, virtio);
			CHECK_EQ(d->cca, 1);
			CHECK_EQ(d->nr_mem, 1);
			CHECK_EQ(d->mem_base, slot.base);
			CHECK_EQ(d->mem_size, slot.size);
			CHECK_EQ(d->nr_irq, 1);
			CHECK_EQ(d->gsi, slot.gsi);
			CHECK_EQ(d->irq_flags, 0x0b); /* consumer, edge, active high, shared */
			CHECK_EQ(d->nr_io, 0);
			virtio++;
		}
	}
	CHECK_EQ(cpus, nr_vcpus);
	CHECK_EQ(virtio, nr_virtio);

	d = find(t, "PNP0501");
	CHECK(d && d->port == 0x3f8 && d->port_len == 8 && d->nr_irq == 1 && d->gsi == 4 &&
	      d->irq_flags == 0x03);
	d = find(t, "PNP0B00");
	CHECK(d && d->port == 0x70 && d->port_len == 2 && d->nr_irq == 0);
	d = find(t, "QEMU0001");
	CHECK(d && d->port == LAYOUT_PVPANIC && d->port_len == 1 && d->sta == 0xf);
	d = find(t, "PNP0C0C");
	CHECK(d && !strcmp(d->seg, "PWRB") && !d->has_crs);
	d = find(t, "VINT0001");
	CHECK(d && !strcmp(d->seg, "VGEN") && !d->has_crs && !strcmp(d->cid, "VM_Gen_Counter") &&
	      !strcmp(d->ddn, "VM_Gen_Counter"));
	CHECK(d && d->nr_addr == 2 && d->addr[0] == LAYOUT_VMGENID && d->addr[1] == 0);
	/* No table and no entry code lies there. */
	CHECK(LAYOUT_VMGENID % 8 == 0 && LAYOUT_VMGENID >= LAYOUT_ACPI_END &&
	      LAYOUT_VMGENID + LAYOUT_VMGENID_SIZE <= LAYOUT_BIOS_ENTRY);
	d = find(t, "ACPI0013");
	CHECK(d && d->has_uid && d->nr_irq == 1 && d->gsi == 9 && d->irq_flags == 0x03);
	CHECK_EQ(t->region_space, 1);
	CHECK_EQ(t->region_base, LAYOUT_GED);
	CHECK_EQ(t->region_len, 4);
	CHECK_EQ(t->evt_len, sizeof(evt));
	CHECK(!memcmp(t->evt, evt, sizeof(evt)));
	free(t);
}

static void check_io_gas(const uint8_t *gas, uint16_t port)
{
	CHECK_EQ(gas[0], 1); /* SystemIO */
	CHECK_EQ(gas[1], 8);
	CHECK_EQ(gas[2], 0);
	CHECK_EQ(gas[3], 1);
	CHECK_EQ(get64(gas + 4), port);
}

static void check_fadt(const uint8_t *t, size_t len)
{
	CHECK_EQ(len, 276);
	CHECK_EQ(t[8], 6);
	CHECK_EQ(t[108], 0x32);
	/* Neither 8042 (1), nor MSI refused (3), nor CMOS clock missing (5); no VGA (2). */
	CHECK_EQ(get16(t + 109), 0x04);
	CHECK_EQ(get32(t + 112), 1u << 20 | 1u << 10 | 1u << 6 | 1u << 5 | 1u << 4 | 1u << 2 | 1);
	check_io_gas(t + 116, LAYOUT_RESET);
	CHECK_EQ(t[128], LAYOUT_RESET_VALUE);
	CHECK_EQ(t[131], 4);
	check_io_gas(t + 244, LAYOUT_SLEEP_CTL);
	check_io_gas(t + 256, LAYOUT_SLEEP_STS);
	/* Fixed hardware that isn't there: all registers between X_DSDT and SLEEP_CONTROL. */
	for (size_t i = 148; i < 244; i++)
		CHECK_EQ(t[i], 0);
	for (size_t i = 36; i < 108; i++)
		CHECK_EQ(t[i], 0);
}

static void check_madt(const uint8_t *t, size_t len, unsigned int nr_vcpus)
{
	unsigned int cpus = 0, ioapics = 0, nmis = 0;
	size_t pos = 44;

	CHECK_EQ(get32(t + 36), LAYOUT_LAPIC);
	CHECK_EQ(get32(t + 40), 0);
	while (pos + 2 <= len) {
		const uint8_t *e = t + pos;

		CHECK(e[1] >= 2 && pos + e[1] <= len);
		if (e[1] < 2 || pos + e[1] > len)
			return;
		switch (e[0]) {
		case 0:
			CHECK_EQ(e[1], 8);
			CHECK_EQ(e[2], cpus);
			CHECK_EQ(e[3], cpus);
			CHECK_EQ(get32(e + 4), 1);
			cpus++;
			break;
		case 1:
			CHECK_EQ(e[1], 12);
			CHECK_EQ(e[2], 0);
			CHECK_EQ(get32(e + 4), LAYOUT_IOAPIC);
			CHECK_EQ(get32(e + 8), 0);
			ioapics++;
			break;
		case 4:
			CHECK_EQ(e[1], 6);
			CHECK_EQ(e[2], 0xff);
			CHECK_EQ(get16(e + 3), 0);
			CHECK_EQ(e[5], 1);
			nmis++;
			break;
		default: /* an override (2) would be one */
			CHECK(!"known entry");
		}
		pos += e[1];
	}
	CHECK_EQ(pos, len);
	CHECK_EQ(cpus, nr_vcpus);
	CHECK_EQ(ioapics, 1);
	CHECK_EQ(nmis, 1);
}

static void save(unsigned int nr_vcpus, unsigned int nr_virtio, const char *sig,
		 const uint8_t *bytes, size_t len)
{
	char path[512];
	FILE *f;

	if (!out_dir)
		return;
	snprintf(path, sizeof(path), "%s/%u-%u-%.4s.dat", out_dir, nr_vcpus, nr_virtio, sig);
	f = fopen(path, "wb");
	CHECK(f && fwrite(bytes, 1, len, f) == len);
	if (f)
		CHECK(!fclose(f));
}

/* Where each table is, so that none overlaps another. */
struct extent {
	uint64_t start, end;
};

static void add_extent(struct extent *list, unsigned int *nr, uint64_t start, uint64_t len)
{
	struct extent new = {start, start + len};

	CHECK(start >= LAYOUT_RSDP && new.end <= LAYOUT_ACPI_END);
	for (unsigned int i = 0; i < *nr; i++)
		CHECK(new.end <= list[i].start || list[i].end <= new.start);
	list[(*nr)++] = new;
}

static const uint8_t *table(struct memory *mem, uint64_t gpa, const char *sig,
			    struct extent *extents, unsigned int *nr, size_t *len)
{
	const uint8_t *p = memory_ptr(mem, gpa, 36);

	CHECK_EQ(gpa % 16, 0);
	CHECK(p);
	if (!p)
		return NULL;
	CHECK(!memcmp(p, sig, 4));
	*len = get32(p + 4);
	p = memory_ptr(mem, gpa, *len);
	CHECK(p && *len >= 36);
	if (!p || *len < 36)
		return NULL;
	CHECK_EQ(sum(p, *len), 0);
	CHECK(!memcmp(p + 10, "VINIT ", 6));
	add_extent(extents, nr, gpa, *len);
	return p;
}

static void check_tables(unsigned int nr_vcpus, unsigned int nr_virtio)
{
	struct extent extents[8];
	unsigned int nr = 0;
	struct memory mem;
	uint64_t rsdp = 0, touched = 0;
	const uint8_t *p, *xsdt, *all;
	size_t len, len2;

	memory_init(&mem, -1);
	CHECK_EQ(memory_add_ram(&mem, 0, LAYOUT_MIN_RAM, MEMORY_ANON), 0);
	CHECK_EQ(acpi_build(&mem, nr_vcpus, nr_virtio, &rsdp), 0);
	CHECK_EQ(rsdp, LAYOUT_RSDP);
	CHECK_EQ(rsdp % 16, 0);
	p = memory_ptr(&mem, rsdp, 36);
	CHECK(p);
	if (!p)
		goto out;
	CHECK(!memcmp(p, "RSD PTR ", 8));
	CHECK_EQ(sum(p, 20), 0);
	CHECK_EQ(sum(p, 36), 0);
	CHECK_EQ(p[15], 2);
	CHECK_EQ(get32(p + 16), 0);
	CHECK_EQ(get32(p + 20), 36);
	add_extent(extents, &nr, rsdp, 36);
	save(nr_vcpus, nr_virtio, "RSDP", p, 36);

	xsdt = table(&mem, get64(p + 24), "XSDT", extents, &nr, &len);
	if (!xsdt)
		goto out;
	save(nr_vcpus, nr_virtio, "XSDT", xsdt, len);
	CHECK_EQ(len, 36 + 2 * 8);
	p = table(&mem, get64(xsdt + 36), "FACP", extents, &nr, &len);
	if (p) {
		save(nr_vcpus, nr_virtio, "FACP", p, len);
		check_fadt(p, len);
		p = table(&mem, get64(p + 140), "DSDT", extents, &nr, &len2);
		if (p) {
			save(nr_vcpus, nr_virtio, "DSDT", p, len2);
			CHECK_EQ(p[8], 2);
			check_dsdt(p, len2, nr_vcpus, nr_virtio);
		}
	}
	p = table(&mem, get64(xsdt + 44), "APIC", extents, &nr, &len);
	if (p) {
		save(nr_vcpus, nr_virtio, "APIC", p, len);
		check_madt(p, len, nr_vcpus);
	}

	/* Nothing but the tables, neither between them nor around them. */
	all = memory_ptr(&mem, 0, LAYOUT_MIN_RAM);
	for (uint64_t gpa = LAYOUT_RSDP - 65536; gpa < LAYOUT_ACPI_END + 65536; gpa++) {
		unsigned int i;

		for (i = 0; i < nr && !(gpa >= extents[i].start && gpa < extents[i].end); i++)
			;
		touched += i == nr && all[gpa];
	}
	CHECK_EQ(touched, 0);
out:
	memory_fini(&mem);
}

static void tables(void)
{
	static const unsigned int vcpus[] = {1, 2, 64, 254}, virtio[] = {0, 1, 13, 32};

	for (unsigned int i = 0; i < 4; i++)
		for (unsigned int j = 0; j < 4; j++)
			check_tables(vcpus[i], virtio[j]);
}

static void tables_refused(void)
{
	struct memory mem;
	uint64_t rsdp = 42;

	memory_init(&mem, -1);
	CHECK_EQ(acpi_build(&mem, 1, 0, &rsdp), -EFAULT);
	CHECK_EQ(memory_add_ram(&mem, 0, LAYOUT_ACPI_END - 4096, MEMORY_ANON), 0);
	CHECK_EQ(acpi_build(&mem, 1, 0, &rsdp), -EFAULT);
	memory_fini(&mem);
	memory_init(&mem, -1);
	CHECK_EQ(memory_add_ram(&mem, 0, LAYOUT_MIN_RAM, MEMORY_ANON), 0);
	CHECK_EQ(acpi_build(&mem, 0, 1, &rsdp), -EINVAL);
	CHECK_EQ(acpi_build(&mem, LAYOUT_MAX_VCPUS + 1, 1, &rsdp), -EINVAL);
	CHECK_EQ(acpi_build(&mem, 1, ARCH_MAX_VIRTIO + 1, &rsdp), -EINVAL);
	CHECK_EQ(rsdp, 42);
	memory_fini(&mem);
}

/* ---- The writer alone. ---- */

static void pkg_length(void)
{
	static const struct {
		size_t content; /* bytes of the package without its length */
		uint8_t bytes[4];
		unsigned int len;
	} cases[] = {
		{0, {0x01}, 1},
		{62, {0x3f}, 1},	       /* 63 in all: the most for one byte */
		{63, {0x41, 0x04}, 2},	       /* 65 */
		{4093, {0x4f, 0xff}, 2},       /* 4095 */
		{4094, {0x81, 0x00, 0x01}, 3}, /* 4097 */
		{0xfffff - 3, {0x8f, 0xff, 0xff}, 3},
		{0xfffff - 2, {0xc1, 0x00, 0x00, 0x01}, 4}, /* 0x100001 */
	};
	static uint8_t buf[0x100000 + 64], fill[0x100000];

	memset(fill, 0xa5, sizeof(fill));
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		size_t content = cases[i].content, mark;
		const uint8_t *start, *stop = NULL;
		struct aml a;

		aml_init(&a, buf, sizeof(buf));
		mark = aml_if(&a);
		aml_bytes(&a, fill, content);
		aml_end(&a, mark);
		CHECK(!a.bad);
		CHECK_EQ(a.len, 1 + cases[i].len + content);
		CHECK_EQ(buf[0], 0xa0);
		CHECK(!memcmp(buf + 1, cases[i].bytes, cases[i].len));
		CHECK(!memcmp(buf + 1 + cases[i].len, fill, content));
		/* And as a reader counts it. */
		start = pkg(buf + 1, buf + a.len, &stop);
		CHECK(start == buf + 1 + cases[i].len && stop == buf + a.len);
	}
}

/* The package whose own length bytes make it longer than the next form: 63 and 64, 4095 and 4096.
 */
static void pkg_length_edges(void)
{
	static uint8_t buf[5000], fill[5000];
	static const size_t around[] = {63, 64, 4095, 4096};

	for (unsigned int i = 0; i < 4; i++) {
		for (size_t content = around[i] - 6; content < around[i] + 6; content++) {
			const uint8_t *start, *stop = NULL;
			size_t mark, shortest;
			struct aml a;

			aml_init(&a, buf, sizeof(buf));
			mark = aml_if(&a);
			aml_bytes(&a, fill, content);
			aml_end(&a, mark);
			start = pkg(buf + 1, buf + a.len, &stop);
			shortest = content + 1 <= 63 ? 1 : content + 2 <= 4095 ? 2 : 3;
			CHECK(!a.bad && start && stop == buf + a.len);
			CHECK_EQ(a.len, 1 + shortest + content);
		}
	}
}

static void integers(void)
{
	static const struct {
		uint64_t value;
		uint8_t bytes[9];
		unsigned int len;
	} cases[] = {
		{0, {0x00}, 1},
		{1, {0x01}, 1},
		{2, {0x0a, 2}, 2},
		{0xff, {0x0a, 0xff}, 2},
		{0x100, {0x0b, 0x00, 0x01}, 3},
		{0xffff, {0x0b, 0xff, 0xff}, 3},
		{0x10000, {0x0c, 0, 0, 1, 0}, 5},
		{0xffffffff, {0x0c, 0xff, 0xff, 0xff, 0xff}, 5},
		{0x100000000, {0x0e, 0, 0, 0, 0, 1, 0, 0, 0}, 9},
		{0x8877665544332211, {0x0e, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88}, 9},
		{UINT64_MAX, {0xff}, 1},
	};

	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint8_t buf[16];
		struct aml a;

		aml_init(&a, buf, sizeof(buf));
		aml_integer(&a, cases[i].value);
		CHECK_EQ(a.len, cases[i].len);
		CHECK(!memcmp(buf, cases[i].bytes, cases[i].len));
	}
}

static void names(void)
{
	static const char *const bad_ids[] = {"",	 "PNP050",  "PNP05011", "pNP0501",
					      "PN10501", "PNP050g", "PNP0c0c"};
	static const uint8_t button[] = {0x0c, 0x41, 0xd0, 0x0c, 0x0c};
	uint8_t buf[32];
	struct aml a;

	aml_init(&a, buf, sizeof(buf));
	aml_eisaid(&a, "PNP0C0C");
	CHECK(!a.bad && a.len == sizeof(button) && !memcmp(buf, button, sizeof(button)));
	for (unsigned int i = 0; i < sizeof(bad_ids) / sizeof(bad_ids[0]); i++) {
		aml_init(&a, buf, sizeof(buf));
		aml_eisaid(&a, bad_ids[i]);
		CHECK(a.bad);
	}
	aml_init(&a, buf, sizeof(buf));
	aml_seg(&a, "_SB");
	CHECK(a.bad);
	aml_init(&a, buf, sizeof(buf));
	aml_res_memory(&a, 0x100000000, 0x1000);
	CHECK(a.bad);
	aml_init(&a, buf, sizeof(buf));
	aml_method(&a, "_EVT", 8);
	CHECK(a.bad);
}

static void some_device(struct aml *a)
{
	size_t scope = aml_scope(a, "_SB_"), device = aml_device(a, "DEV0"), crs;

	aml_name_string(a, "_HID", "LNRO0005");
	crs = aml_crs(a);
	aml_res_io(a, 0x3f8, 8);
	aml_res_edge(a, 4, true);
	aml_crs_end(a, crs);
	aml_end(a, device);
	aml_align(a, 16);
	aml_end(a, scope);
}

/* Every size that is too small is told, and nothing is written behind it. */
static void overflow(void)
{
	uint8_t whole[256], buf[256];
	struct aml a;
	size_t need;

	aml_init(&a, whole, sizeof(whole));
	some_device(&a);
	CHECK(!a.bad);
	need = a.len;
	for (size_t size = 0; size <= need; size++) {
		memset(buf, 0xee, sizeof(buf));
		aml_init(&a, buf, size);
		some_device(&a);
		CHECK_EQ(a.bad, size < need);
		CHECK(a.len <= size);
		for (size_t i = size; i < sizeof(buf); i++)
			CHECK_EQ(buf[i], 0xee);
	}
	CHECK(!memcmp(buf, whole, need));
}

/* ---- The map. ---- */

static void ram_layout(void)
{
	const uint64_t gib = 1ull << 30;
	static const struct {
		uint64_t size;
		unsigned int nr;
	} cases[] = {
		{0, 0},
		{LAYOUT_MIN_RAM - 4096, 0},
		{LAYOUT_MIN_RAM, 1},
		{LAYOUT_MIN_RAM + 1, 0},
		{LAYOUT_MIN_RAM + 4096, 1},
		{LAYOUT_HOLE_BASE - 4096, 1},
		{LAYOUT_HOLE_BASE, 1},
		{LAYOUT_HOLE_BASE + 4096, 2},
		{5ull << 30, 2},
		{LAYOUT_MAX_RAM, 2},
		{LAYOUT_MAX_RAM + 4096, 0},
		{UINT64_MAX - 4095, 0},
	};

	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct arch_ram ram[ARCH_MAX_RAM];
		uint64_t total = 0;

		CHECK_EQ(arch_ram_layout(cases[i].size, ram), cases[i].nr);
		for (unsigned int j = 0; j < cases[i].nr; j++) {
			total += ram[j].size;
			CHECK(ram[j].size);
			CHECK(ram[j].gpa + ram[j].size <= LAYOUT_HOLE_BASE ||
			      ram[j].gpa >= LAYOUT_HOLE_END);
			CHECK_EQ(ram[j].gpa % gib, 0);
		}
		if (cases[i].nr)
			CHECK_EQ(total, cases[i].size);
	}
}

static void virtio_slots(void)
{
	static const uint32_t first[] = {5, 6, 7, 10, 11, 16, 17, 18, 19, 20, 21, 22, 23};
	struct arch_slot slot;

	for (unsigned int i = 0; i < ARCH_MAX_VIRTIO; i++) {
		arch_virtio_slot(i, &slot);
		CHECK_EQ(slot.base, 0xd0000000 + i * 0x1000ull);
		CHECK_EQ(slot.size, 0x1000);
		CHECK_EQ(slot.gsi, first[i % 13]);
		CHECK(slot.base >= LAYOUT_HOLE_BASE && slot.base + slot.size <= LAYOUT_IOAPIC);
		CHECK_EQ(arch_irq_number(slot.gsi), slot.gsi);
	}
	CHECK_EQ(arch_max_vcpus(NULL), 254);
	CHECK_STR(arch_name, "x86_64");
}

int main(int argc, char **argv)
{
	if (argc > 1)
		out_dir = argv[1];
	log_set_level(LOG_ERROR);
	RUN(pkg_length);
	RUN(pkg_length_edges);
	RUN(integers);
	RUN(names);
	RUN(overflow);
	RUN(ram_layout);
	RUN(virtio_slots);
	RUN(tables);
	RUN(tables_refused);
	return TEST_RESULT();
}
