/* SPDX-License-Identifier: MIT */
/* The boot timer's register as a vCPU reaches it, and the two lines that it logs. */
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>

#include "tests/unit/test.h"
#include "vm/boot_timer.h"
#include "vm/bus.h"
#include "vm/log.h"
#include "vm/vcpu.h"
#include "vm/vm.h"

#define GPA 0xd0100000

static char said[256];
static unsigned int lines;

void log_line(enum log_level level, const char *fmt, ...)
{
	va_list ap;

	(void)level;
	va_start(ap, fmt);
	vsnprintf(said, sizeof(said), fmt, ap);
	va_end(ap);
	lines++;
}

const char *errno_name(int err)
{
	(void)err;
	return "";
}

static struct vm vm;
static struct vcpu vcpus[2];

static void setup(uint64_t since)
{
	memset(&vm, 0, sizeof(vm));
	memset(vcpus, 0, sizeof(vcpus));
	vm.vcpus = vcpus;
	vm.nr_vcpus = 2;
	vm.config.boot_since = since;
	lines = 0;
	CHECK_EQ(boot_timer_create(&vm, GPA), 0);
}

static bool store(uint64_t offset, uint64_t value, unsigned int len)
{
	uint8_t data[8];

	memcpy(data, &value, sizeof(data));
	return bus_access(&vm.mmio, GPA + offset, data, len, true);
}

/* "boot timer: 2500.123 ms and 31 exits to the guest's init" */
static bool is(unsigned int ms, unsigned int exits, const char *what)
{
	unsigned int m, us, n;
	char to[64];

	return sscanf(said, "boot timer: %u.%3u ms and %u exits to the guest's %63[^\n]", &m, &us, &n, to) == 4 &&
	       m >= ms && m < ms + 1000 && n == exits && !strcmp(to, what);
}

static void off(void)
{
	setup(0);
	CHECK(!store(0, BOOT_TIMER_READY, 1));
	boot_timer_entered(&vm);
	CHECK_EQ(lines, 0);
}

static void told_once(void)
{
	setup(boot_timer_now() - 2500000);
	boot_timer_entered(&vm);
	CHECK_EQ(lines, 1);
	CHECK(is(2500, 0, "first instruction"));
	atomic_store(&vcpus[0].exits, 20);
	atomic_store(&vcpus[1].exits, 11);
	CHECK(store(0, BOOT_TIMER_READY, 1));
	CHECK_EQ(lines, 2);
	CHECK(is(2500, 31, "init"));
	CHECK(store(0, BOOT_TIMER_READY, 1));
	CHECK(store(0, BOOT_TIMER_READY, 4));
	CHECK_EQ(lines, 2);
}

/* Another byte, another place, a read: nothing, and the right write is still heard. */
static void other_accesses(void)
{
	uint8_t data[8] = {0};

	setup(boot_timer_now());
	for (unsigned int value = 0; value < 256; value++)
		CHECK(value == BOOT_TIMER_READY || store(0, value, 1));
	CHECK(store(1, BOOT_TIMER_READY, 1));
	CHECK(store(4, BOOT_TIMER_READY, 4));
	CHECK(store(BOOT_TIMER_SIZE - 8, BOOT_TIMER_READY, 8));
	CHECK(!store(BOOT_TIMER_SIZE, BOOT_TIMER_READY, 1));
	CHECK(bus_access(&vm.mmio, GPA, data, 8, false));
	CHECK(!data[0] && !data[7]);
	CHECK_EQ(lines, 0);
	CHECK(store(0, BOOT_TIMER_READY, 4));
	CHECK_EQ(lines, 1);
}

int main(void)
{
	RUN(off);
	RUN(told_once);
	RUN(other_accesses);
	return TEST_RESULT();
}
