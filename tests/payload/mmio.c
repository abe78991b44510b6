/* SPDX-License-Identifier: MIT */
/*
 * Device memory of every width. Slot 0 is a disk of "sectors" sectors, slot 1 an entropy device,
 * there is no third.
 */
#include "tests/payload/payload.h"
#include "tests/payload/virtio.h"

static void nowhere(uint64_t at, const char *where)
{
	say("%s 0x%lx:\n", where, at);
	check_eq(read8(at), 0xff, "unclaimed byte");
	check_eq(read16(at), 0xffff, "unclaimed word");
	check_eq(read32(at), 0xffffffff, "unclaimed dword");
	check_eq(read64(at), ~0ull, "unclaimed quadword");
	write8(at, 1);
	write64(at, 1);
	check_eq(read64(at), ~0ull, "unclaimed takes no write");
}

static void registers(uint64_t base, uint32_t id)
{
	check_eq(read32(base + R_MAGIC), 0x74726976, "MagicValue");
	check_eq(read32(base + R_VERSION), 2, "Version");
	check_eq(read32(base + R_DEVICE_ID), id, "DeviceID");
	check(read32(base + R_VENDOR_ID) != 0, "VendorID");
	check_eq(read32(base + R_STATUS), 0, "Status at power-on");
	check_eq(read32(base + R_INTERRUPT_STATUS) & ~1u, 0, "InterruptStatus: no configuration change");
	check(read32(base + R_QUEUE_NUM_MAX) > 0, "QueueNumMax");
	check_eq(read32(base + R_QUEUE_READY), 0, "QueueReady at power-on");
	write32(base + R_QUEUE_SEL, 77);
	check_eq(read32(base + R_QUEUE_NUM_MAX), 0, "QueueNumMax of no queue");
	write32(base + R_QUEUE_SEL, 0);
	write32(base + R_DEVICE_FEATURES_SEL, 1);
	check(read32(base + R_DEVICE_FEATURES) & 1, "VERSION_1 is offered");
	check_eq(read32(base + R_SHM_LEN), 0xffffffff, "no shared memory");
	/*
	 * 4.2.2.2: drivers use aligned 32-bit accesses. Others write nothing, and read what is there, as
	 * they do where the page is memory.
	 */
	check_eq(read8(base + R_MAGIC), 0x76, "register by byte");
	check_eq(read16(base + R_MAGIC), 0x6976, "register by word");
	check_eq(read64(base + R_MAGIC), 0x274726976, "register by quadword");
	check_eq(read32(base + R_MAGIC + 2), 0x00027472, "register askew");
	write8(base + R_STATUS, S_ACK);
	write64(base + R_STATUS, S_ACK);
	check_eq(read32(base + R_STATUS), 0, "register written by another width");
	check_eq(read32(base + 0x3fc), 0, "page's empty part");
}

static void config(uint64_t base, uint64_t sectors)
{
	uint64_t at = base + R_CONFIG, v = 0;

	check_eq(read64(at), sectors, "config: quadword");
	check_eq(read32(at), (uint32_t)sectors, "config: dword");
	check_eq(read32(at + 4), sectors >> 32, "config: upper dword");
	check_eq(read16(at), (uint16_t)sectors, "config: word");
	for (unsigned int i = 0; i < 8; i++)
		v |= (uint64_t)read8(at + i) << 8 * i;
	check_eq(v, sectors, "config: bytes");
	write32(at, 1);
	check_eq(read64(at), sectors, "config: capacity is not the driver's to write");
}

void payload_main(void)
{
	nowhere(machine_hole(), "hole");
	nowhere(machine_virtio_base(2), "empty slot");
	registers(machine_virtio_base(0), ID_BLK);
	registers(machine_virtio_base(1), ID_RNG);
	config(machine_virtio_base(0), arg_number("sectors", 0));
	mmio_machine();
	done();
}
