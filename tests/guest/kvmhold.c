/* SPDX-License-Identifier: MIT */
/*
 * usage: kvmhold: makes a VM with a vCPU that never runs, and returns when there is one; a process of its own holds it until
 * SIGTERM, with which PID 1 goes down.
 *
 * The nested host's kernel patches its own code when the first VM of all comes and the last one goes (the scheduler's call of
 * preempt notifiers), and on x86_64 whenever the number of vCPUs whose LAPIC is still disabled leaves or reaches zero. QEMU's
 * emulation with a thread a CPU (7.2) is not up to that: it reads what it translates without a lock, so that a CPU that has read
 * the old code may keep it although another has written the new one meanwhile. A kept breakpoint is an oops ("int3"), a kept jump
 * around the notifiers a vCPU's thread that goes on with the guest's registers. With this VM held there are two such moments, at its
 * start and its end, and the nested host has one CPU in both: first-vm sees to the first, this program to the second.
 */
#include <fcntl.h>
#include <glob.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <linux/kvm.h>

static int hold(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int vm = kvm < 0 ? -1 : ioctl(kvm, (int)KVM_CREATE_VM, 0);

	if (vm < 0) {
		perror("kvmhold: /dev/kvm");
		return -1;
	}
	/* Where the interrupt controller is made otherwise, this fails and the vCPU has none. */
	ioctl(vm, (int)KVM_CREATE_IRQCHIP, 0);
	if (ioctl(vm, (int)KVM_CREATE_VCPU, 0) < 0) {
		perror("kvmhold: KVM_CREATE_VCPU");
		return -1;
	}
	return 0;
}

static void cpus_off(void)
{
	glob_t cpus;

	if (glob("/sys/devices/system/cpu/cpu[1-9]*/online", 0, NULL, &cpus) != 0)
		return;
	for (size_t i = 0; i < cpus.gl_pathc; i++) {
		int fd = open(cpus.gl_pathv[i], O_WRONLY | O_CLOEXEC);

		/* One that stays on is what would have been without this. */
		if (fd < 0 || write(fd, "0", 1) != 1)
			perror(cpus.gl_pathv[i]);
	}
}

int main(void)
{
	sigset_t down;
	char held = 0;
	int ends[2], sig;
	pid_t pid;

	if (pipe(ends) < 0 || (pid = fork()) < 0) {
		perror("kvmhold");
		return 1;
	}
	if (pid > 0) {
		close(ends[1]);
		return read(ends[0], &held, 1) == 1 ? 0 : 1;
	}
	close(ends[0]);
	/* Blocked are also those that PID 1 sends behind it. */
	sigfillset(&down);
	sigprocmask(SIG_BLOCK, &down, NULL);
	sigemptyset(&down);
	sigaddset(&down, SIGTERM);
	if (setsid() < 0 || hold() < 0 || write(ends[1], &held, 1) != 1)
		return 1;
	close(ends[1]);
	while (sigwait(&down, &sig) != 0)
		;
	cpus_off();
	return 0;
}
