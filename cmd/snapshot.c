/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <string.h>
#include "cmd/cmd.h"
#include "vm/log.h"
#include "vm/snapshot_merge.h"

static const char help[] =
	"usage: vinit snapshot merge BASE DIFF\n"
	"\n"
	"Puts the diff in the directory DIFF into the full snapshot in BASE, which it follows, in place.\n"
	"It may be killed at any moment and run again. Diffs go in one by one, in the order they were\n"
	"taken; DIFF is only read, and of no more use afterwards. No guest may run on BASE meanwhile.\n"
	"\n"
	"`vinit ctl snapshot` takes snapshots, `vinit run --restore` goes on from one.\n";

int cmd_snapshot(int argc, char **argv)
{
	if (cmd_wants_help(argc, argv)) {
		printf("%s", help);
		return 0;
	}
	if (argc != 3 || strcmp(argv[0], "merge")) {
		log_err("%s: merge BASE DIFF is expected; see `vinit help snapshot`",
			argc ? argv[0] : "snapshot");
		return EXIT_USAGE;
	}
	return snapshot_merge(argv[1], argv[2]) ? EXIT_FAILED : 0;
}
