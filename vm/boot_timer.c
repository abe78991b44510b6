/* SPDX-License-Identifier: MIT */
#include "vm/boot_timer.h"

#include <inttypes.h>
#include <time.h>
#include "vm/bus.h"
#include "vm/log.h"
#include "vm/vcpu.h"
#include "vm/vm.h"

uint64_t boot_timer_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000 + 1;
}

static void tell(const struct vm *vm, const char *what)
{
	uint64_t us = boot_timer_now() - vm->config.boot_since, exits = 0;

	for (unsigned int i = 0; i < vm->nr_vcpus; i++)
		exits += atomic_load_explicit(&vm->vcpus[i].exits, memory_order_relaxed);
	log_info("boot timer: %" PRIu64 ".%03u ms and %" PRIu64 " exits to the guest's %s", us / 1000,
		 (unsigned int)(us % 1000), exits, what);
}

void boot_timer_entered(const struct vm *vm)
{
	if (vm->config.boot_since)
		tell(vm, "first instruction");
}

/* Once a boot: who writes again, on whatever vCPU, is told nothing. */
static void boot_timer_access(void *opaque, uint64_t offset, uint8_t *data, unsigned int len, bool write)
{
	struct vm *vm = opaque;

	if (write && !offset && data[0] == BOOT_TIMER_READY && !atomic_exchange(&vm->booted, true))
		tell(vm, "init");
}

int boot_timer_create(struct vm *vm, uint64_t gpa)
{
	if (!vm->config.boot_since)
		return 0;
	return bus_add(&vm->mmio, gpa, BOOT_TIMER_SIZE, boot_timer_access, vm, "boot timer");
}
