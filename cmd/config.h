/* SPDX-License-Identifier: MIT */
/* What a guest is made of, from options and configuration files. */
#ifndef CMD_CONFIG_H
#define CMD_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include "arch/arch.h"
#include "virtio/net.h"
#include "vm/log.h"

/* The id of the n-th disk that was given none. */
#define DISK_DEFAULT_ID "vinit-disk%u"

struct disk_config {
	char *path;
	char *id;
	bool readonly;
	bool direct;
	bool discard;
	unsigned int engine; /* enum blk_engine */
	unsigned int queues; /* 0: as many as there are vCPUs, up to a bound */
};

/* The id of the n-th network interface that was given none. */
#define NIC_DEFAULT_ID "vinit-net%u"

struct nic_config {
	char *id;
	char *peer; /* of the kind's: an interface, a bridge, a socket's path */
	uint8_t kind; /* enum net_peer */
	uint8_t vhost; /* enum net_vhost */
	bool has_mac; /* else it is made up when the machine is built, and is here from then on */
	uint8_t mac[NET_MAC_SIZE];
	unsigned int queues; /* pairs of them; 0: not said */
	unsigned int mtu;    /* 0: not said */
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
	 * be given; disks and what is behind network interfaces (as many as there were, in their
	 * order), the vsock's CID and consoles can: else they are as they were.
	 */
	char *restore;
	bool trap_registers; /* virtio's registers, see vm/vm.h */
	bool boot_timer; /* tells how long a boot takes (vm/boot_timer.h) */
	bool track_dirty; /* the dirty log is on from the start: diffs can be taken */
	bool vsock;
	uint64_t vsock_cid;
	unsigned int nr_disks;
	struct disk_config disk[ARCH_MAX_VIRTIO]; /* no machine has room for more */
	unsigned int nr_nics;
	struct nic_config nic[ARCH_MAX_VIRTIO];
};

/* The defaults. */
void config_init(struct guest_config *config);
void config_free(struct guest_config *config);

/*
 * Reads a file's [guest], [disk], [net] and [vsock] sections; [supervise] is PID 1's. All but
 * [disk] and [net] may be there once. 0 or -errno; logs with file and line.
 */
int config_file(struct guest_config *config, const char *file);

/*
 * Takes the words of `vinit run`, in order, --config among them: later ones win. 0, or -EINVAL
 * after saying what is wrong.
 */
int config_args(struct guest_config *config, int argc, char **argv);

/*
 * Sets one key of a section, as a line of a file does; @key NULL opens the section: a new disk, on
 * which the [disk] keys after it are, and so for [net]. 0, or -EINVAL with the reason in @why; logs
 * nothing.
 */
int config_set(struct guest_config *config, const char *section, const char *key, const char *value,
	       char why[LOG_SENTENCE]);

/* What nobody said, before a machine is built. */
void config_defaults(struct guest_config *config);

/* What must be there, and what excludes what. 0 or -EINVAL; logs. */
int config_check(const struct guest_config *config);

#endif
