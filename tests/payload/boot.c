/* SPDX-License-Identifier: MIT */
/*
 * What the loader hands over, printed for the script to compare, and checked as far as it can be
 * from here.
 */
#include "tests/payload/payload.h"

void payload_main(void)
{
	say("entered: %s\n", boot.how);
	say("cmdline: %s\n", boot.cmdline);
	say("initrd: %lu %u\n", boot.initrd_size, checksum((const uint8_t *)boot.initrd, boot.initrd_size));
	if (boot.initrd_size)
		check(in_ram(boot.initrd, boot.initrd_size), "initrd lies in RAM");
	boot_machine();
	done();
}
