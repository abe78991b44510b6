/* SPDX-License-Identifier: MIT */
/*
 * Holds a VM with a vCPU that never runs, until it is killed. The nested host's kernel patches its
 * own code when the first VM of all comes and the last one goes (preempt notifiers), and whenever
 * the number of vCPUs whose LAPIC is still disabled leaves or reaches zero. QEMU's emulation has
 * been seen to lose a CPU in such a patch: with this running there is nothing to patch.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <linux/kvm.h>

int main(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int vm = kvm < 0 ? -1 : ioctl(kvm, (int)KVM_CREATE_VM, 0);

	if (vm < 0) {
		perror("kvmhold: /dev/kvm");
		return 1;
	}
	/* Where the interrupt controller is made otherwise, this fails and the vCPU has none. */
	if (ioctl(vm, (int)KVM_CREATE_IRQCHIP, 0) < 0)
		perror("kvmhold: KVM_CREATE_IRQCHIP");
	if (ioctl(vm, (int)KVM_CREATE_VCPU, 0) < 0) {
		perror("kvmhold: KVM_CREATE_VCPU");
		return 1;
	}
	for (;;)
		pause();
}
