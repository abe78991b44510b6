/* SPDX-License-Identifier: MIT */
/* The verbs: each takes the words behind its name and returns the process's exit status. */
#ifndef CMD_CMD_H
#define CMD_CMD_H

#include <stdbool.h>
#include <string.h>

#define VINIT_VERSION "0.1.0"

/* Exit statuses. */
enum {
	EXIT_POWEROFF = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,
	EXIT_RESET = 3,
	EXIT_CRASH = 4,
	EXIT_STOPPED = 5, /* ended from outside before it powered off */
};

/* Whether somebody asks for help among a verb's words. */
static inline bool cmd_wants_help(int argc, char **argv)
{
	for (int i = 0; i < argc; i++) {
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
			return true;
	}
	return false;
}

int cmd_run(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_ctl(int argc, char **argv); /* CONFIG_API */
int cmd_snapshot(int argc, char **argv);

#endif
