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

static int check_caps(int fd, const struct kvm_cap *cap)
{
	int missing = 0;

	for (; cap->name; cap++) {
		if (kvm_has(fd, cap->cap)) {
			printf("ok       %s\n", cap->name);
		} else {
			printf("%s  %s: %s\n", cap->required ? "MISSING" : "absent ", cap->name, cap->use);
			missing += cap->required;
		}
	}
	return missing;
}

static int check_node(const char *path, const char *need, const char *what)
{
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0) {
		printf("absent   %s: %s: %s; needed for %s\n", path, errno_name(errno), need, what);
		return 0;
	}
	close(fd);
	printf("ok       %s\n", path);
	return 0;
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
	check_node("/dev/vhost-vsock",
		   "load the vhost_vsock module or build the kernel with CONFIG_VHOST_VSOCK", "--vsock");
	printf("%s\n", problems ? "guests can't run here" : "guests can run here");
	return problems ? EXIT_FAILED : 0;
}
