/* SPDX-License-Identifier: MIT */
/*
 * Writes pages when the console says so, so that somebody can compare them with a dirty log, or look
 * for them in a snapshot. A command is a letter:
 *
 *	w	writes here and there in RAM
 *	x	writes in the region at at=ADDRESS size=BYTES, too
 *	r	reads all that, and checks that it is what was written
 *	q	the end
 *
 * The answer is a line "wrote ADDRESS BYTES" for each range, and "did LETTER". The payload's own
 * pages, of which it writes some all the time, are in the first OWN bytes of RAM.
 */
#include "tests/payload/payload.h"

#define OWN   (uint64_t)(16 * MIB)
#define BLOCK 65536ull /* no host's page is larger */

static uint64_t at, size, round;
static bool own, added;
static unsigned int bad;

static void put(uint64_t addr, uint64_t len)
{
	for (uint64_t i = 0; i < len; i += 512)
		write64(addr + i, addr + i + round);
	say("wrote %lu %lu\n", addr, len);
}

static void look(uint64_t addr, uint64_t len)
{
	for (uint64_t i = 0; i < len; i += 512)
		bad += read64(addr + i) != addr + i + round;
}

/* A word, words at the end of a page and the start of another, a run, and the last page. */
static void each(void (*fn)(uint64_t addr, uint64_t len))
{
	if (own) {
		fn(machine_ram(20 * MIB), 8);
		fn(machine_ram(24 * MIB) - 8, 8);
		fn(machine_ram(24 * MIB) + BLOCK, 8);
		fn(machine_ram(36 * MIB), 7 * BLOCK);
		fn(machine_ram(64 * MIB) - 8, 8);
	}
	if (added && size) {
		fn(at, 8);
		fn(at + 3 * BLOCK, BLOCK);
		fn(at + size - 8, 8);
	}
}

static void command(int c)
{
	switch (c) {
	case 'w':
	case 'x':
		round++;
		own = true;
		added |= c == 'x';
		each(put);
		break;
	case 'r':
		bad = 0;
		each(look);
		check_eq(bad, 0, "what was written is there");
		break;
	case 'q':
		done();
	case -1:
		die("nobody says anything");
	default:
		return;
	}
	say("did %c %lu\n", c, round);
}

void payload_main(void)
{
	at = arg_number("at", 0);
	size = arg_number("size", 0);
	say("own %lu %lu\n", machine_ram(0), OWN);
	say("ready\n");
	for (;;)
		command(machine_getc(100));
}
