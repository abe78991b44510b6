/* SPDX-License-Identifier: MIT */
/*
 * usage: dmtool NAME SECTORS TARGET [PARAMETER...]: makes all of the device mapper's device NAME the one target, for
 * requests from now on; a device that is not there is made. Prints its path. What dmsetup does, which is no static program.
 */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <linux/dm-ioctl.h>

struct call {
	struct dm_ioctl dm;
	struct dm_target_spec target;
	char parameters[256];
};

static int control = -1;

static int call(struct call *c, unsigned int request, const char *name)
{
	c->dm.version[0] = DM_VERSION_MAJOR;
	c->dm.data_size = sizeof(*c);
	c->dm.data_start = offsetof(struct call, target);
	snprintf(c->dm.name, sizeof(c->dm.name), "%s", name);
	return ioctl(control, (int)request, c);
}

int main(int argc, char **argv)
{
	struct call create = { 0 }, load = { .dm.target_count = 1 }, resume = { 0 };
	size_t at = 0;

	if (argc < 4)
		return 2;
	control = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
	if (control < 0) {
		perror("dmtool: /dev/mapper/control");
		return 1;
	}
	load.target.length = strtoull(argv[2], NULL, 0);
	snprintf(load.target.target_type, sizeof(load.target.target_type), "%s", argv[3]);
	for (int i = 4; i < argc && at < sizeof(load.parameters); i++)
		at += (size_t)snprintf(load.parameters + at, sizeof(load.parameters) - at, "%s ", argv[i]);
	/* EBUSY: it is there. Without the flag of a suspension the last call is what takes the new table. */
	call(&create, DM_DEV_CREATE, argv[1]);
	if (call(&load, DM_TABLE_LOAD, argv[1]) < 0 || call(&resume, DM_DEV_SUSPEND, argv[1]) < 0) {
		perror("dmtool");
		return 1;
	}
	printf("/dev/dm-%u\n", minor(resume.dm.dev));
	return 0;
}
