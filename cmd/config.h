/* SPDX-License-Identifier: MIT */
/* What a guest is made of, from options and configuration files. */
#ifndef CMD_CONFIG_H
#define CMD_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include "arch/arch.h"
#include "vm/log.h"

/* The id of the n-th disk that was given none. */
#define DISK_DEFAULT_ID "vinit-disk%u"

struct disk_config {
	char *path;
	char *id;
	bool readonly;
	bool direct;
	bool discard;
};

struct guest_config {
	char *name;
	char *kernel;
	char *initrd;
	char *cmdline;
	bool cmdline_only;
	unsigned int cpus; /* 0: not said */
	uint64_t memory;   /* bytes; 0: not said */
	bool hugepages;
	unsigned int gic; /* version, 0: the host's best */
	char *console;
	char *vconsole; /* NULL: no virtio console */
	bool rng;
	bool on_reset_exit;
	bool supervised; /* process 1 says how the guest ended */
	unsigned int stop_timeout; /* seconds */
	char *log_level;
	char *log_file;
	char *api_sock; /* NULL: no API */
	/*
	 * A snapshot's directory, or NULL. What is a machine's shape is then the snapshot's and can't
	 * be given; disks (as many as there were, in their order), the vsock's CID and consoles can:
	 * else they are as they were.
	 */
	char *restore;
	bool track_dirty; /* the dirty log is on from the start: diffs can be taken */
	bool vsock;
	uint64_t vsock_cid;
	unsigned int nr_disks;
	struct disk_config disk[ARCH_MAX_VIRTIO]; /* no machine has room for more */
};

/* The defaults. */
void config_init(struct guest_config *config);
void config_free(struct guest_config *config);

/*
 * Reads a file's [guest], [disk] and [vsock] sections; [supervise] is PID 1's. All but [disk] may
 * be there once. 0 or -errno; logs with file and line.
 */
int config_file(struct guest_config *config, const char *file);

/*
 * Takes the words of `vinit run`, in order, --config among them: later ones win. 0, or -EINVAL
 * after saying what is wrong.
 */
int config_args(struct guest_config *config, int argc, char **argv);

/*
 * Sets one key of a section, as a line of a file does; @key NULL opens the section: a new disk, on
 * which the [disk] keys after it are. 0, or -EINVAL with the reason in @why; logs nothing.
 */
int config_set(struct guest_config *config, const char *section, const char *key, const char *value,
	       char why[LOG_SENTENCE]);

/* What nobody said, before a machine is built. */
void config_defaults(struct guest_config *config);

/* What must be there, and what excludes what. 0 or -EINVAL; logs. */
int config_check(const struct guest_config *config);

#endif
