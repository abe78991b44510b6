/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "arch/arch.h"
#include "cmd/cmd.h"
#include "vm/kvm.h"
#include "vm/log.h"
#include "vm/uring.h"

static int check_caps(int fd, const struct kvm_cap *cap)
{
	int missing = 0;

	for (; cap->text; cap++) {
		bool has = kvm_has(fd, cap->cap);

		printf("%s  KVM_CAP_%s\n", has ? "ok     " : cap->required ? "MISSING" : "absent ", cap->text);
		missing += !has && cap->required;
	}
	return missing;
}

/* Device nodes that guests can do without. */
static void check_nodes(void)
{
	static const struct {
		/* Arrays: a pointer costs a relocation, too. */
		char path[18], module[12], config[12], what[46];
	} nodes[] = {
		{ "/dev/vhost-vsock", "vhost_vsock", "VHOST_VSOCK", "--vsock" },
		{ "/dev/net/tun", "tun", "TUN", "--net tap= and bridge= (passt= does without)" },
		{ "/dev/vhost-net", "vhost_net", "VHOST_NET", "--net's vhost=yes" },
	};

	for (unsigned int i = 0; i < sizeof(nodes) / sizeof(*nodes); i++) {
		int fd = open(nodes[i].path, O_RDWR | O_CLOEXEC | O_NONBLOCK), err = errno;

		if (fd >= 0) {
			close(fd);
			printf("ok       %s\n", nodes[i].path);
			continue;
		}
		printf("absent   %s: %s: ", nodes[i].path, errno_name(err));
		if (err == EACCES || err == EPERM)
			printf("this user may not open it: see its mode");
		else
			printf("load the %s module or build the kernel with CONFIG_%s", nodes[i].module,
			       nodes[i].config);
		printf("; needed for %s\n", nodes[i].what);
	}
}

static void check_io_uring(void)
{
	struct uring ring;
	int ret = uring_init(&ring, 1);

	if (!ret) {
		uring_fini(&ring);
		puts("ok       io_uring");
		return;
	}
	printf("absent   io_uring: %s: check Linux (5.12 or later) and kernel.io_uring_disabled; without it "
	       "disks carry out one request at a time\n", errno_name(ret));
}

int cmd_check(int argc, char **argv)
{
	struct kvm kvm = { .max_vcpus = 1 };
	int problems = 0;
	int ret;

	if (argc) {
		if (!strcmp(argv[0], "--help") || !strcmp(argv[0], "-h")) {
			puts("usage: vinit check\n\nPrints what this host can do for guests, and what to do about "
			     "the rest.\nExit status: 0 guests can run, 1 they can't.");
			return 0;
		}
		log_err("check takes no words");
		return EXIT_USAGE;
	}
	kvm.fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm.fd < 0) {
		printf("MISSING  /dev/kvm: %s: %s\n", errno_name(errno), kvm_explain(errno));
		problems++;
	} else {
		ret = kvm_ioctl_raw(kvm.fd, KVM_GET_API_VERSION, NULL);
		printf("%s /dev/kvm: API version %d\n", ret == 12 ? "ok      " : "MISSING ", ret);
		if (ret != 12) {
			printf("         %s\nguests can't run here\n", kvm_explain(EINVAL));
			close(kvm.fd);
			return EXIT_FAILED;
		}
		ret = kvm_has(kvm.fd, KVM_CAP_MAX_VCPUS);
		kvm.max_vcpus = ret > 0 ? (unsigned int)ret : 1;
		problems += check_caps(kvm.fd, kvm_caps);
		problems += check_caps(kvm.fd, arch_kvm_caps);
		problems += arch_check(&kvm);
		close(kvm.fd);
	}
	check_nodes();
	if (CONFIG_VIRTIO_BLK)
		check_io_uring();
	printf("%s\n", problems ? "guests can't run here" : "guests can run here");
	return problems ? EXIT_FAILED : 0;
}
