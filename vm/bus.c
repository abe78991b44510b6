/* SPDX-License-Identifier: MIT */
#include "vm/bus.h"

#include <errno.h>
#include <inttypes.h>
#include "vm/log.h"

int bus_add(struct bus *bus, uint64_t base, uint64_t size, bus_fn *fn, void *opaque,
	    const char *name)
{
	unsigned int i;

	if (!size || base + size - 1 < base) {
		log_err("%s: bad address range %#" PRIx64 ", %#" PRIx64 " bytes", name, base, size);
		return -EINVAL;
	}
	for (i = 0; i < bus->nr; i++) {
		const struct bus_range *range = &bus->range[i];

		if (base <= range->base + (range->size - 1) && range->base <= base + (size - 1)) {
			log_err("%s: address %#" PRIx64 " is %s's", name, base, range->name);
			return -EEXIST;
		}
	}
	if (bus->nr == BUS_MAX_RANGES) {
		log_err("%s: no more than %d address ranges on a bus", name, BUS_MAX_RANGES);
		return -ENOSPC;
	}
	for (i = bus->nr; i > 0 && bus->range[i - 1].base > base; i--)
		bus->range[i] = bus->range[i - 1];
	bus->range[i] = (struct bus_range){ base, size, fn, opaque, name };
	bus->nr++;
	return 0;
}

bool bus_access(const struct bus *bus, uint64_t addr, uint8_t *data, unsigned int len, bool write)
{
	unsigned int low = 0, high = bus->nr;

	/* The last range that starts at or below addr. */
	while (low < high) {
		unsigned int mid = low + (high - low) / 2;

		if (bus->range[mid].base <= addr)
			low = mid + 1;
		else
			high = mid;
	}
	if (!low || !len)
		return false;

	const struct bus_range *range = &bus->range[low - 1];
	uint64_t offset = addr - range->base;

	if (offset >= range->size || len > range->size - offset)
		return false;
	range->fn(range->opaque, offset, data, len, write);
	return true;
}
