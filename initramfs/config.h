/* SPDX-License-Identifier: MIT */
/*
 * The appliance's own settings: /etc/vinit/vinit.conf, and "vinit.KEY=VALUE" words of the kernel's
 * command line over it. What is wrong in them is logged and left out; PID 1 goes on with what is
 * right.
 */
#ifndef INITRAMFS_CONFIG_H
#define INITRAMFS_CONFIG_H

#include <stdbool.h>
#include "initramfs/policy.h"

enum rescue { RESCUE_NO, RESCUE_YES, RESCUE_NOW };

struct init_config {
	char exec[4096];	     /* "": none */
	enum action exec_end;	     /* continue, poweroff, reboot, halt */
	enum rescue rescue;	     /* now: before anything else is started */
	bool autostart;		     /* of the guests */
	char modules[256];	     /* the list's path */
	bool log_kmsg;		     /* the log goes to /dev/kmsg, not to the console */
	int log_level;		     /* enum log_level */
	unsigned int stop_timeout_s; /* what a guest is given to power off */
	enum action on_all_stopped;  /* none, poweroff, reboot, halt */
};

#define INIT_CONFIG_FILE "/etc/vinit/vinit.conf"

void init_config_defaults(struct init_config *config);

/* Takes what is in INIT_CONFIG_FILE (which may be missing) and in /proc/cmdline. */
void init_config_load(struct init_config *config);

/*
 * Takes the "vinit." words of @cmdline, which is cut up on the way. Double quotes protect blanks as
 * they do for the kernel's own parameters; "-" and "_" are the same in a key; what follows "--" is
 * not looked at.
 */
void init_config_cmdline(struct init_config *config, char *cmdline);

/* A conf_fn whose @opaque is the struct init_config. Always 0. */
struct conf_line;
int init_config_line(void *opaque, const struct conf_line *line);

#endif
