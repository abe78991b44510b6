/* SPDX-License-Identifier: MIT */
#include "vm/pvpanic.h"

#include "vm/log.h"
#include "vm/vm.h"

#define PVPANIC_PANICKED     0x01 /* the guest is dead */
#define PVPANIC_CRASH_LOADED 0x02 /* it panicked and now runs its crash kernel */
#define PVPANIC_EVENTS	     (PVPANIC_PANICKED | PVPANIC_CRASH_LOADED)

void pvpanic_access(void *opaque, uint64_t offset, uint8_t *data, unsigned int len, bool write)
{
	struct vm *vm = opaque;
	uint8_t events;

	/* One byte: of a wider access it is the lowest, the rest reads zero. */
	if (offset || !len)
		return;
	if (!write) {
		data[0] = PVPANIC_EVENTS;
		return;
	}
	events = data[0];
	if (events & PVPANIC_PANICKED) {
		vm_end(vm, VM_END_CRASH, "guest panicked (pvpanic)");
		return;
	}
	/* The crash kernel is left to do its work; the guest's end is what comes after it. */
	if (events & PVPANIC_CRASH_LOADED)
		log_limited(LOG_WARN, "guest panicked and runs its crash kernel (pvpanic)");
}
