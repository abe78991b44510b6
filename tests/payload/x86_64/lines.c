/* SPDX-License-Identifier: MIT */
#include "tests/payload/lines.h"
#include "tests/payload/payload.h"
#include "tests/payload/x86_64/machine.h"

#define LEVEL  (1u << 15)
#define MASKED (1u << 16)

const unsigned int lines_nr = LAYOUT_NR_GSIS;

void lines_edge(unsigned int gsi)
{
	irq_on(gsi);
}

/*
 * The vector stays while it is masked: by it the IOAPIC knows whose end comes. The entry's other
 * half is as lines_edge() left it: a write there while the line is up is one more interrupt.
 */
void lines_level(unsigned int gsi, bool on)
{
	ioapic_write(0x10 + 2 * gsi, (VECTOR_GSI + gsi) | LEVEL | (on ? 0 : MASKED));
}
