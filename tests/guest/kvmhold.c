/* SPDX-License-Identifier: MIT */
/*
 * Holds an empty VM until it is killed. The nested host's kernel patches its own code when the
 * first VM of all comes and when the last one goes, and QEMU's emulation has been seen to lose a
 * CPU in that: with this running there is nothing to patch.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <linux/kvm.h>

int main(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (kvm < 0 || ioctl(kvm, (int)KVM_CREATE_VM, 0) < 0) {
		perror("kvmhold: /dev/kvm");
		return 1;
	}
	for (;;)
		pause();
}
