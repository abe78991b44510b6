/* SPDX-License-Identifier: MIT */
/* Kept writes: a ring as KVM fills it, in memory of our own. */
#include <errno.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/unit/test.h"
#include "vm/bus.h"
#include "vm/coalesced.h"
#include "vm/kvm.h"
#include "vm/log.h"
#include "vm/vcpu.h"
#include "vm/vm.h"

static int cap_mmio, cap_pio;
static struct kvm_coalesced_mmio_zone zone;
static unsigned int zones;

int kvm_has(int fd, int cap)
{
	(void)fd;
	return cap == KVM_CAP_COALESCED_MMIO ? cap_mmio : cap == KVM_CAP_COALESCED_PIO ? cap_pio : 0;
}

int kvm_ioctl_raw(int fd, unsigned long request, void *arg)
{
	(void)fd;
	if (request != KVM_REGISTER_COALESCED_MMIO)
		return -ENOTTY;
	zone = *(struct kvm_coalesced_mmio_zone *)arg;
	zones++;
	return -ENOSPC; /* which is nobody's trouble */
}

void log_line(enum log_level level, const char *fmt, ...)
{
	(void)level, (void)fmt;
}

const char *errno_name(int err)
{
	(void)err;
	return "";
}

static struct kvm kvm;
static struct vm vm;
static struct vcpu vcpu;
static struct kvm_coalesced_mmio_ring *ring;
static uint32_t entries; /* as KVM has it: KVM_COALESCED_MMIO_MAX */

/* What the devices were told, in order. */
static struct {
	char bus;
	uint64_t offset, value;
	unsigned int len;
} told[1024];
static unsigned int nr_told;

static void note(char bus, uint64_t offset, const uint8_t *data, unsigned int len, bool write)
{
	CHECK(write);
	if (nr_told == sizeof(told) / sizeof(told[0]))
		return;
	told[nr_told].bus = bus;
	told[nr_told].offset = offset;
	told[nr_told].len = len;
	told[nr_told].value = 0;
	memcpy(&told[nr_told++].value, data, len);
}

static void port_access(void *opaque, uint64_t offset, uint8_t *data, unsigned int len, bool write)
{
	(void)opaque;
	note('p', offset, data, len, write);
}

static void mmio_access(void *opaque, uint64_t offset, uint8_t *data, unsigned int len, bool write)
{
	(void)opaque;
	note('m', offset, data, len, write);
}

static void setup(int mmio, int pio)
{
	size_t page = (size_t)getpagesize();

	cap_mmio = mmio;
	cap_pio = pio;
	zones = nr_told = 0;
	memset(&vm, 0, sizeof(vm));
	pthread_mutex_init(&vm.coalesced.lock, NULL);
	vm.kvm = &kvm;
	vm.vcpus = &vcpu;
	vm.nr_vcpus = 1;
	vcpu.run_size = 3 * page;
	vcpu.run = calloc(3, page);
	if (!vcpu.run)
		abort();
	ring = (void *)((uint8_t *)vcpu.run + 2 * page);
	entries = (uint32_t)((page - 8) / 24);
	CHECK_EQ(bus_add(&vm.pio, 0x3f8, 8, port_access, NULL, "ports"), 0);
	CHECK_EQ(bus_add(&vm.mmio, 0x9000000, 0x1000, mmio_access, NULL, "page"), 0);
	coalesced_init(&vm);
}

static void teardown(void)
{
	free(vcpu.run);
	pthread_mutex_destroy(&vm.coalesced.lock);
}

/* As KVM does it; false where it would exit instead. */
static bool keep(bool pio, uint64_t addr, uint64_t value, unsigned int len)
{
	struct kvm_coalesced_mmio *e = &ring->coalesced_mmio[ring->last];

	if ((ring->last + 1) % entries == ring->first)
		return false;
	e->phys_addr = addr;
	e->len = len;
	e->pio = pio;
	memcpy(e->data, &value, sizeof(e->data));
	ring->last = (ring->last + 1) % entries;
	return true;
}

static void absent(void)
{
	setup(0, 1);
	CHECK(!vm.coalesced.ring);
	coalesced_add(&vm, false, 0x9000000, 8);
	CHECK_EQ(zones, 0);
	coalesced_drain(&vm);
	teardown();
	/* A page that is not mapped. */
	setup(3, 1);
	CHECK(!vm.coalesced.ring);
	teardown();
}

static void zones_told(void)
{
	setup(2, 0);
	coalesced_add(&vm, false, 0x9000002, 2);
	CHECK_EQ(zones, 1);
	CHECK(zone.addr == 0x9000002 && zone.size == 2 && zone.pio == 0);
	coalesced_add(&vm, true, 0x3fa, 2);
	CHECK_EQ(zones, 1);
	cap_pio = 1;
	coalesced_add(&vm, true, 0x3fa, 2);
	CHECK_EQ(zones, 2);
	CHECK(zone.addr == 0x3fa && zone.size == 2 && zone.pio == 1);
	teardown();
}

static void in_order(void)
{
	setup(2, 1);
	coalesced_drain(&vm);
	CHECK_EQ(nr_told, 0);
	CHECK(keep(true, 0x3fb, 0x83, 1));
	CHECK(keep(false, 0x9000010, 0x1122334455667788, 8));
	CHECK(keep(true, 0x3fa, 0xc7, 1));
	CHECK(keep(true, 0x500, 1, 1)); /* nobody's */
	CHECK(keep(false, 0x9000004, 0xabcd, 2));
	coalesced_drain(&vm);
	CHECK_EQ(nr_told, 4);
	CHECK(told[0].bus == 'p' && told[0].offset == 3 && told[0].len == 1 && told[0].value == 0x83);
	CHECK(told[1].bus == 'm' && told[1].offset == 0x10 && told[1].len == 8 &&
	      told[1].value == 0x1122334455667788);
	CHECK(told[2].bus == 'p' && told[2].offset == 2 && told[2].value == 0xc7);
	CHECK(told[3].bus == 'm' && told[3].offset == 4 && told[3].len == 2 && told[3].value == 0xabcd);
	CHECK_EQ(ring->first, ring->last);
	coalesced_drain(&vm);
	CHECK_EQ(nr_told, 4);
	teardown();
}

/* The ring full, around its end, several times. */
static void wraps(void)
{
	unsigned int n = 0, got = 0;

	setup(2, 1);
	CHECK_EQ(vm.coalesced.size, entries);
	for (unsigned int round = 0; round < 5; round++) {
		nr_told = 0;
		while (keep(true, 0x3fa, n & 0xff, 1))
			n++;
		coalesced_drain(&vm);
		CHECK_EQ(nr_told, entries - 1);
		for (unsigned int i = 0; i < nr_told; i++)
			CHECK_EQ(told[i].value, got++ & 0xff);
	}
	CHECK_EQ(got, n);
	teardown();
}

/* The page is the kernel's word; numbers beyond it are no index all the same. */
static void bad_numbers(void)
{
	setup(2, 1);
	ring->first = entries;
	coalesced_drain(&vm);
	ring->first = 0;
	ring->last = entries;
	coalesced_drain(&vm);
	CHECK_EQ(nr_told, 0);
	ring->last = 0;
	CHECK(keep(true, 0x3fa, 1, 1));
	ring->coalesced_mmio[0].len = 9;
	coalesced_drain(&vm);
	CHECK_EQ(nr_told, 0);
	teardown();
}

int main(void)
{
	RUN(absent);
	RUN(zones_told);
	RUN(in_order);
	RUN(wraps);
	RUN(bad_numbers);
	return TEST_RESULT();
}
