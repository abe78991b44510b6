/* SPDX-License-Identifier: MIT */
#include "arch/aarch64/vmgenid.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/random.h>
#include "arch/aarch64/cache.h"
#include "arch/aarch64/layout.h"
#include "vm/log.h"
#include "vm/vm.h"

int vmgenid_renew(struct vm *vm)
{
	uint64_t gpa = LAYOUT_RAM_BASE + vm->config.ram_size - LAYOUT_VMGENID_ROOM;
	uint8_t id[LAYOUT_VMGENID_SIZE];
	void *p = memory_ptr(&vm->mem, gpa, sizeof(id));
	ssize_t len;

	if (!p) {
		log_err("generation ID: EFAULT: no place at the end of RAM");
		return -EFAULT;
	}
	/* Waits for the kernel's first seed, so that no two are the same. */
	do
		len = getrandom(id, sizeof(id), 0);
	while (len < 0 && errno == EINTR);
	if (len != (ssize_t)sizeof(id)) {
		int err = len < 0 ? -errno : -EIO;

		log_err("generation ID: getrandom: %s", errno_name(err));
		return err;
	}
	memcpy(p, id, sizeof(id));
	/* The guest has mapped the page as a device's registers, past the cache. */
	cache_clean(p);
	return 0;
}
