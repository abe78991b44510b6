/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "arch/arch.h"
#include "cmd/cmd.h"
#include "cmd/config.h"
#include "cmd/machine.h"
#include "vm/log.h"

/* An option's lines, if the build has it. */
#define IF_1(text)	   text
#define IF_0(text)
#define IF__(on, text)	   IF_##on(text)
#define IF_BUILT(on, text) IF__(on, text)

/* %s: what a kernel may be here, and vinit's own words for it. */
static const char help[] =
	"usage: vinit run [OPTION...]\n"
	"\n"
	"Boots one guest and stays in the foreground until it ends.\n"
	"\n"
	"  --config FILE            read options from FILE (key = value under [guest], [disk], [net], [vsock])\n"
	"  --name NAME              the guest's name in messages\n"
	"  --kernel FILE            kernel: %s\n"
	"  --initrd FILE            initial RAM disk\n"
	"  --cmdline STRING         kernel command line, behind vinit's own words:\n"
	"                           %s\n"
	"  --cmdline-only           leave vinit's own words out\n"
	"  --cpus N                 virtual CPUs (1)\n"
	"  --memory SIZE[,hugepages]  RAM: 512M, 4G (256M)\n"
	"  --gic 2|3                version of the interrupt controller (aarch64; the host's best)\n"
	IF_BUILT(CONFIG_VIRTIO_BLK,
	"  --disk path=FILE[,readonly][,direct][,discard][,engine=auto|sync|io_uring][,id=S]\n"
	"                           a disk, repeatable\n")
	IF_BUILT(CONFIG_VIRTIO_NET,
	"  --net tap=IF|bridge=BR|passt=SOCKET[,mac=M][,queues=N][,mtu=N][,vhost=yes|no|auto][,id=S]\n"
	"                           a network interface, repeatable\n")
	"  --restore DIR            go on from a snapshot, with other disks, nets, CID and consoles if given\n"
	"  --track-dirty-pages      keep the dirty log from the start, for diff snapshots\n"
	"  --trap-registers         reads of virtio registers exit, for comparison\n"
	"  --boot-timer             log time and exits to the first instruction, and to an init that tells\n"
	IF_BUILT(CONFIG_API,
	"  --api-sock PATH          the control API's socket; without a kernel, wait for it to give one\n")
	IF_BUILT(CONFIG_VSOCK,
	"  --vsock cid=N[,backend=vhost]   sockets between host and guest\n")
	IF_BUILT(CONFIG_VIRTIO_RNG,
	"  --rng                    entropy device\n")
	"  --console stdio|null|pty|file=PATH|unix=PATH   the serial port's other end (stdio)\n"
	IF_BUILT(CONFIG_VIRTIO_CONSOLE,
	"  --virtio-console ...     a virtio console (hvc0), same values\n")
	"  --on-reset restart|exit  what a guest's reset does (restart)\n"
	"  --supervised             the guest's end is told by the exit status alone\n"
	"  --stop-timeout SECONDS   on SIGTERM: how long the guest may take to power off (30)\n"
	"  --log-level error|warn|info|debug   (info)\n"
	"  --log-file FILE          log there, not to standard error\n"
	"\n"
	"On the console, Ctrl-A x ends the guest and Ctrl-A h helps.\n"
	"Exit status: 0 the guest powered off, 1 vinit failed, 2 usage, 3 the guest reset (--on-reset exit),\n"
	"4 it crashed, 5 it was ended from outside.\n";

static int open_log(const struct guest_config *config)
{
	if (config->log_level)
		log_set_level((enum log_level)log_parse_level(config->log_level));
	if (config->log_file) {
		int fd = open(config->log_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

		if (fd < 0) {
			log_err("log file %s: %s: check that its folder exists and can be written to",
				config->log_file, errno_name(errno));
			return -EINVAL;
		}
		log_set_fd(fd, false);
	}
	return 0;
}

int cmd_run(int argc, char **argv)
{
	struct guest_config config;
	int status = EXIT_USAGE;

	if (cmd_wants_help(argc, argv)) {
		printf(help, arch_kernel_formats, arch_cmdline);
		return 0;
	}
	config_init(&config);
	if (config_args(&config, argc, argv))
		goto out;
	if (config.name) {
		static char prefix[72];

		snprintf(prefix, sizeof(prefix), "%s: ", config.name);
		log_set_prefix(prefix);
	}
	if (config_check(&config))
		goto out;
	status = EXIT_FAILED;
	if (open_log(&config))
		goto out;
	status = machine_run(&config);
out:
	config_free(&config);
	return status;
}
