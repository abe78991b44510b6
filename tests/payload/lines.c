/* SPDX-License-Identifier: MIT */
/*
 * Counts what arrives on each interrupt line, for somebody who raises them from outside. Commands
 * from the console, a letter each:
 *
 *	c	"count LINE N" for each line that had interrupts; they are counted from 0 again
 *	l	line gsi=N is a level from now on, and is on. After BURST interrupts it is turned off
 *	o	it is turned on again
 *	q	the end
 *
 * All lines are on and edges at first. The answer ends with "did LETTER".
 */
#include "tests/payload/lines.h"
#include "tests/payload/payload.h"

#define BURST 20

static volatile uint32_t burst;
static unsigned int level_gsi;

/* As long as the line is up, the end of an interrupt is the start of the next. */
static void on_level(void)
{
	if (++burst == BURST)
		lines_level(level_gsi, false);
}

static void counts(void)
{
	settle();
	for (unsigned int i = 0; i < MAX_GSI; i++) {
		/* One that was on its way when its line was turned off still comes. */
		if (irq_count[i] == BURST + 1)
			irq_count[i]--;
		if (irq_count[i])
			say("count %u %u\n", i, irq_count[i]);
		irq_count[i] = 0;
	}
}

static void command(int c)
{
	switch (c) {
	case 'c':
		counts();
		break;
	case 'l':
		irq_hook[level_gsi] = on_level;
		/* fall through */
	case 'o':
		burst = 0;
		lines_level(level_gsi, true);
		break;
	case 'q':
		done();
	case -1:
		die("nobody says anything");
	default:
		return;
	}
	say("did %c\n", c);
}

void payload_main(void)
{
	level_gsi = (unsigned int)arg_number("gsi", 0) % MAX_GSI;
	for (unsigned int i = 0; i < lines_nr; i++)
		lines_edge(i);
	settle();
	for (unsigned int i = 0; i < MAX_GSI; i++)
		irq_count[i] = 0;
	say("ready\n");
	for (;;)
		command(machine_getc(100));
}
