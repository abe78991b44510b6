/* SPDX-License-Identifier: MIT */
/*
 * The tables of a hardware-reduced machine (section 4.1): no SCI, no PM timer, no FACS; events come
 * by a Generic Event Device. They are written straight into guest RAM, before any vCPU runs.
 */
#include "arch/x86_64/acpi.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "arch/arch.h"
#include "arch/x86_64/aml.h"
#include "arch/x86_64/layout.h"
#include "vm/log.h"
#include "vm/memory.h"

#define OEM_ID	     "VINIT "	/* 6 bytes */
#define OEM_TABLE_ID "VINITVM " /* 8 bytes */
#define CREATOR_ID   "VNIT"
#define TABLE_ALIGN  16

/* Section 5.2.5.3. */
struct rsdp {
	char signature[8];
	uint8_t checksum; /* of the first 20 bytes */
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt;
	uint32_t length;
	uint64_t xsdt;
	uint8_t ext_checksum; /* of all */
	uint8_t reserved[3];
} __attribute__((packed));
_Static_assert(sizeof(struct rsdp) == 36, "size of the RSDP");
#define RSDP_V1_LEN 20

/* Section 5.2.6. */
struct header {
	char signature[4];
	uint32_t length;
	uint8_t revision;
	uint8_t checksum;
	char oem_id[6];
	char oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[4];
	uint32_t creator_revision;
} __attribute__((packed));
_Static_assert(sizeof(struct header) == 36, "size of a table's header");

/* Generic Address Structure, section 5.2.3.2. */
struct gas {
	uint8_t space;
	uint8_t bit_width;
	uint8_t bit_offset;
	uint8_t access_size;
	uint64_t address;
} __attribute__((packed));
#define GAS_SYSTEM_IO 1
#define GAS_BYTE      1

/* Section 5.2.9, revision 6; what a hardware-reduced machine leaves zero is not named. */
struct fadt {
	uint32_t firmware_ctrl;
	uint32_t dsdt;
	uint8_t unused1[64];
	uint8_t century; /* CMOS index */
	uint16_t iapc_boot_arch;
	uint8_t reserved;
	uint32_t flags;
	struct gas reset_reg;
	uint8_t reset_value;
	uint16_t arm_boot_arch;
	uint8_t minor;
	uint64_t x_firmware_ctrl;
	uint64_t x_dsdt;
	uint8_t unused2[96];
	struct gas sleep_control;
	struct gas sleep_status;
	uint64_t hypervisor;
} __attribute__((packed));
_Static_assert(sizeof(struct header) + sizeof(struct fadt) == 276, "size of the FADT");
_Static_assert(sizeof(struct header) + offsetof(struct fadt, century) == 108, "FADT: CENTURY");
_Static_assert(sizeof(struct header) + offsetof(struct fadt, flags) == 112, "FADT: Flags");
_Static_assert(sizeof(struct header) + offsetof(struct fadt, x_dsdt) == 140, "FADT: X_DSDT");
_Static_assert(sizeof(struct header) + offsetof(struct fadt, sleep_control) == 244, "FADT: SLEEP");

#define FADT_REVISION 6
#define FADT_MINOR    4

/* FADT flags, table 5.10. */
#define FADT_WBINVD	(1u << 0)
#define FADT_PROC_C1	(1u << 2)
#define FADT_PWR_BUTTON (1u << 4) /* a control-method button, not a fixed one */
#define FADT_SLP_BUTTON (1u << 5) /* likewise: there is none */
#define FADT_FIX_RTC	(1u << 6) /* no RTC wake status in fixed registers */
#define FADT_RESET_REG	(1u << 10)
#define FADT_HW_REDUCED (1u << 20)

/*
 * IAPC_BOOT_ARCH, table 5.11. Bit 1 (8042) clear keeps Linux from probing a keyboard controller;
 * writing 0xfe to its port works all the same. Bit 5 clear: there is a CMOS clock.
 */
#define BOOT_NO_VGA (1u << 2)

#define CMOS_CENTURY 0x32

/* MADT, section 5.2.12. */
struct madt_lapic {
	uint8_t type, length;
	uint8_t uid, apic_id;
	uint32_t flags;
} __attribute__((packed));
#define MADT_LAPIC	   0
#define MADT_LAPIC_ENABLED 1

struct madt_ioapic {
	uint8_t type, length;
	uint8_t id, reserved;
	uint32_t address;
	uint32_t gsi_base;
} __attribute__((packed));
#define MADT_IOAPIC 1

struct madt_nmi {
	uint8_t type, length;
	uint8_t uid;	/* 0xff: all */
	uint16_t flags; /* 0: polarity and trigger as the bus has them */
	uint8_t lint;
} __attribute__((packed));
#define MADT_NMI 4

/* Guest address of what is at @pos in the builder: its buffer is guest RAM from LAYOUT_RSDP on. */
static uint64_t gpa_of(size_t pos)
{
	return LAYOUT_RSDP + pos;
}

static uint8_t checksum(const void *bytes, size_t len)
{
	const uint8_t *p = bytes;
	uint8_t sum = 0;

	while (len--)
		sum += *p++;
	return (uint8_t)-sum;
}

static size_t table_begin(struct aml *a, const char *signature, uint8_t revision)
{
	struct header header = {.revision = revision, .oem_revision = 1, .creator_revision = 1};
	size_t start;

	memcpy(header.signature, signature, sizeof(header.signature));
	memcpy(header.oem_id, OEM_ID, sizeof(header.oem_id));
	memcpy(header.oem_table_id, OEM_TABLE_ID, sizeof(header.oem_table_id));
	memcpy(header.creator_id, CREATOR_ID, sizeof(header.creator_id));
	aml_align(a, TABLE_ALIGN);
	start = a->len;
	aml_bytes(a, &header, sizeof(header));
	return start;
}

static void table_end(struct aml *a, size_t start)
{
	struct header header;

	if (a->bad)
		return;
	memcpy(&header, a->buf + start, sizeof(header));
	header.length = (uint32_t)(a->len - start);
	memcpy(a->buf + start, &header, sizeof(header));
	header.checksum = checksum(a->buf + start, a->len - start);
	memcpy(a->buf + start, &header, sizeof(header));
}

static void cpu_device(struct aml *a, unsigned int id)
{
	size_t device;
	char seg[8];

	snprintf(seg, sizeof(seg), "C%03X", id & 0xfff);
	device = aml_device(a, seg);
	aml_name_string(a, "_HID", "ACPI0007");
	aml_name_integer(a, "_UID", id); /* the MADT's processor UID */
	aml_end(a, device);
}

static void virtio_device(struct aml *a, unsigned int i)
{
	struct arch_slot slot;
	size_t device, crs;
	char seg[8];

	arch_virtio_slot(i, &slot);
	snprintf(seg, sizeof(seg), "V%03X", i & 0xfff);
	device = aml_device(a, seg);
	aml_name_string(a, "_HID", "LNRO0005");
	aml_name_integer(a, "_UID", i);
	aml_name_integer(a, "_CCA", 1); /* DMA is coherent: it is the VMM's own loads and stores */
	crs = aml_crs(a);
	aml_res_memory(a, slot.base, slot.size);
	aml_res_edge(a, slot.gsi, true);
	aml_crs_end(a, crs);
	aml_end(a, device);
}

static void com1_device(struct aml *a)
{
	size_t device = aml_device(a, "COM1"), crs;

	aml_name_eisaid(a, "_HID", "PNP0501");
	aml_name_integer(a, "_UID", 1);
	crs = aml_crs(a);
	aml_res_io(a, LAYOUT_COM1, 8);
	aml_res_edge(a, LAYOUT_COM1_GSI, false);
	aml_crs_end(a, crs);
	aml_end(a, device);
}

static void rtc_device(struct aml *a)
{
	size_t device = aml_device(a, "RTC0"), crs;

	/* No interrupt: there is no alarm behind it, and Linux then offers none. */
	aml_name_eisaid(a, "_HID", "PNP0B00");
	crs = aml_crs(a);
	aml_res_io(a, LAYOUT_CMOS, 2);
	aml_crs_end(a, crs);
	aml_end(a, device);
}

static void pvpanic_device(struct aml *a)
{
	size_t device = aml_device(a, "PEVT"), crs;

	aml_name_string(a, "_HID", "QEMU0001");
	aml_name_integer(a, "_STA", 0xf); /* present, enabled, shown, working */
	crs = aml_crs(a);
	aml_res_io(a, LAYOUT_PVPANIC, 1);
	aml_crs_end(a, crs);
	aml_end(a, device);
}

/*
 * VM generation ID, where it lies in memory. Source: Microsoft, "Virtual Machine Generation ID".
 * The long id is what guests look for, Linux in capitals, which is how ACPICA hands it out.
 */
static void vmgenid_device(struct aml *a)
{
	size_t device = aml_device(a, "VGEN"), package;

	aml_name_string(a, "_HID", "VINT0001");
	aml_name_string(a, "_CID", "VM_Gen_Counter");
	aml_name_string(a, "_DDN", "VM_Gen_Counter");
	aml_name(a, "ADDR");
	package = aml_package(a, 2);
	aml_integer(a, LAYOUT_VMGENID);
	aml_integer(a, 0); /* its upper half */
	aml_end(a, package);
	aml_end(a, device);
}

static void ged_notify(struct aml *a, unsigned int event, const char *device)
{
	size_t body = aml_if(a);

	aml_and_local0(a, event);
	/* Of a button: pressed while in S0 (section 4.8.3.1.1.2); of VGEN: it is another one. */
	aml_notify(a, device, 0x80);
	aml_end(a, body);
}

/*
 * Power button and Generic Event Device (section 5.6.9). The event register clears as it is read,
 * so an event that comes while _EVT runs is either seen by it or has its own interrupt.
 */
static void event_devices(struct aml *a)
{
	size_t device, crs, method;

	device = aml_device(a, "PWRB");
	aml_name_eisaid(a, "_HID", "PNP0C0C");
	aml_end(a, device);

	device = aml_device(a, "GED0");
	aml_name_string(a, "_HID", "ACPI0013");
	aml_name_integer(a, "_UID", 0);
	crs = aml_crs(a);
	aml_res_edge(a, LAYOUT_GED_GSI, false);
	aml_crs_end(a, crs);
	aml_io_region(a, "EVTR", LAYOUT_GED, 4);
	aml_dword_field(a, "EVTR", "EVTS");
	method = aml_method(a, "_EVT", 1);
	aml_store_local0(a, "EVTS");
	ged_notify(a, LAYOUT_GED_POWER, "PWRB");
	ged_notify(a, LAYOUT_GED_VMGENID, "VGEN");
	aml_end(a, method);
	aml_end(a, device);
}

static size_t build_dsdt(struct aml *a, unsigned int nr_vcpus, unsigned int nr_virtio)
{
	size_t start = table_begin(a, "DSDT", 2), package, scope;

	/* All four elements: some guests refuse a shorter _S5_. */
	aml_name(a, "_S5_");
	package = aml_package(a, 4);
	aml_integer(a, LAYOUT_SLEEP_TYPE);
	for (unsigned int i = 1; i < 4; i++)
		aml_integer(a, 0);
	aml_end(a, package);

	scope = aml_scope(a, "_SB_");
	for (unsigned int i = 0; i < nr_vcpus; i++)
		cpu_device(a, i);
	vmgenid_device(a);
	event_devices(a);
	com1_device(a);
	rtc_device(a);
	pvpanic_device(a);
	for (unsigned int i = 0; i < nr_virtio; i++)
		virtio_device(a, i);
	aml_end(a, scope);
	table_end(a, start);
	return start;
}

static struct gas byte_port(uint16_t port)
{
	return (struct gas){
		.space = GAS_SYSTEM_IO, .bit_width = 8, .access_size = GAS_BYTE, .address = port};
}

static size_t build_fadt(struct aml *a, uint64_t dsdt)
{
	struct fadt fadt = {
		.century = CMOS_CENTURY,
		.iapc_boot_arch = BOOT_NO_VGA,
		.flags = FADT_WBINVD | FADT_PROC_C1 | FADT_PWR_BUTTON | FADT_SLP_BUTTON |
			 FADT_FIX_RTC | FADT_RESET_REG | FADT_HW_REDUCED,
		.reset_reg = byte_port(LAYOUT_RESET),
		.reset_value = LAYOUT_RESET_VALUE,
		.minor = FADT_MINOR,
		.x_dsdt = dsdt,
		.sleep_control = byte_port(LAYOUT_SLEEP_CTL),
		.sleep_status = byte_port(LAYOUT_SLEEP_STS),
	};
	size_t start = table_begin(a, "FACP", FADT_REVISION);

	aml_bytes(a, &fadt, sizeof(fadt));
	table_end(a, start);
	return start;
}

static size_t build_madt(struct aml *a, unsigned int nr_vcpus)
{
	struct madt_ioapic ioapic = {
		.type = MADT_IOAPIC,
		.length = sizeof(ioapic),
		/*
		 * What the register of KVM's IOAPIC reads. Local APICs have their own space of ids
		 * since there is no APIC bus, so that vCPU 0 having it too means nothing.
		 */
		.id = 0,
		.address = LAYOUT_IOAPIC,
		.gsi_base = 0,
	};
	struct madt_nmi nmi = {.type = MADT_NMI, .length = sizeof(nmi), .uid = 0xff, .lint = 1};
	size_t start = table_begin(a, "APIC", 5);

	aml_u32(a, LAYOUT_LAPIC);
	/*
	 * PCAT_COMPAT clear: the guest finds nothing behind the PIC. No overrides follow: GSI n is
	 * pin n of the IOAPIC, 0 and 2 included, as in KVM's default routing.
	 */
	aml_u32(a, 0);
	for (unsigned int i = 0; i < nr_vcpus; i++) {
		struct madt_lapic lapic = {
			.type = MADT_LAPIC,
			.length = sizeof(lapic),
			.uid = (uint8_t)i,
			.apic_id = (uint8_t)i,
			.flags = MADT_LAPIC_ENABLED,
		};

		aml_bytes(a, &lapic, sizeof(lapic));
	}
	aml_bytes(a, &ioapic, sizeof(ioapic));
	aml_bytes(a, &nmi, sizeof(nmi));
	table_end(a, start);
	return start;
}

static size_t build_xsdt(struct aml *a, const uint64_t *tables, size_t nr)
{
	size_t start = table_begin(a, "XSDT", 1);

	aml_bytes(a, tables, nr * sizeof(*tables));
	table_end(a, start);
	return start;
}

static void write_rsdp(void *at, uint64_t xsdt)
{
	struct rsdp rsdp = {.revision = 2, .length = sizeof(rsdp), .xsdt = xsdt};

	memcpy(rsdp.signature, "RSD PTR ", sizeof(rsdp.signature));
	memcpy(rsdp.oem_id, OEM_ID, sizeof(rsdp.oem_id));
	rsdp.checksum = checksum(&rsdp, RSDP_V1_LEN);
	rsdp.ext_checksum = checksum(&rsdp, sizeof(rsdp));
	memcpy(at, &rsdp, sizeof(rsdp));
}

_Static_assert(LAYOUT_RSDP % 16 == 0 && LAYOUT_ACPI % TABLE_ALIGN == 0, "alignment of ACPI tables");
_Static_assert(LAYOUT_ACPI - LAYOUT_RSDP >= (int)sizeof(struct rsdp), "room for the RSDP");

int acpi_build(struct memory *mem, unsigned int nr_vcpus, unsigned int nr_virtio, uint64_t *rsdp)
{
	const size_t size = LAYOUT_ACPI_END - LAYOUT_RSDP;
	uint64_t tables[2];
	struct aml a;
	uint8_t *base;
	size_t xsdt;

	if (!nr_vcpus || nr_vcpus > LAYOUT_MAX_VCPUS || nr_virtio > ARCH_MAX_VIRTIO) {
		log_err("ACPI tables: EINVAL: %u vCPUs (1 to %u) and %u virtio devices (at most "
			"%u)",
			nr_vcpus, LAYOUT_MAX_VCPUS, nr_virtio, ARCH_MAX_VIRTIO);
		return -EINVAL;
	}
	base = memory_ptr(mem, LAYOUT_RSDP, size);
	if (!base) {
		log_err("ACPI tables: EFAULT: no guest RAM at %#x to %#x", LAYOUT_RSDP,
			LAYOUT_ACPI_END);
		return -EFAULT;
	}
	aml_init(&a, base, size);
	a.len = LAYOUT_ACPI - LAYOUT_RSDP; /* the RSDP is last: it names the others */
	tables[0] = gpa_of(build_fadt(&a, gpa_of(build_dsdt(&a, nr_vcpus, nr_virtio))));
	tables[1] = gpa_of(build_madt(&a, nr_vcpus));
	xsdt = build_xsdt(&a, tables, sizeof(tables) / sizeof(tables[0]));
	if (a.bad) {
		log_err("ACPI tables: ENOSPC: %u vCPUs and %u virtio devices need more than %zu "
			"bytes",
			nr_vcpus, nr_virtio, size);
		return -ENOSPC;
	}
	write_rsdp(base, gpa_of(xsdt));
	*rsdp = LAYOUT_RSDP;
	return 0;
}
