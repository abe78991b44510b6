/* SPDX-License-Identifier: MIT */
#include "tests/payload/aarch64/machine.h"
#include "tests/payload/lines.h"
#include "tests/payload/payload.h"

const unsigned int lines_nr = LAYOUT_NR_INTIDS - LAYOUT_SPI_BASE;

/* How a line is triggered is for changing while it is off (Arm IHI 0069, GICD_ICFGR). */
void lines_edge(unsigned int gsi)
{
	irq_off(gsi);
	intid_edge(LAYOUT_SPI_BASE + gsi, true);
	irq_on(gsi);
}

void lines_level(unsigned int gsi, bool on)
{
	irq_off(gsi);
	intid_edge(LAYOUT_SPI_BASE + gsi, false);
	if (on)
		irq_on(gsi);
}
