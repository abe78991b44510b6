/* SPDX-License-Identifier: MIT */
/* Prints kib=N KiB, whether somebody reads them or not, then ends. */
#include "tests/payload/payload.h"

void payload_main(void)
{
	uint64_t lines = arg_number("kib", 1024) * 16;
	static char line[64];

	for (unsigned int i = 0; i < sizeof(line); i++)
		line[i] = (char)('0' + i);
	line[sizeof(line) - 1] = '\n';
	for (uint64_t i = 0; i < lines; i++)
		machine_write(line, sizeof(line));
	machine_off();
}
