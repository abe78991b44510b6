/* SPDX-License-Identifier: MIT */
#include "vm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "arch/arch.h"
#include "vm/log.h"

#define KVM_API 12 /* stable since Linux 2.6.22, never to change (api.rst 4.1) */
#define EINTR_MAX 10

const struct kvm_cap kvm_caps[] = {
	KVM_CAP_ROW(USER_MEMORY, true, "guest RAM"),
	KVM_CAP_ROW(DESTROY_MEMORY_REGION_WORKS, true, "removing guest RAM"),
	KVM_CAP_ROW(IRQFD, true, "interrupts by eventfd"),
	KVM_CAP_ROW(IOEVENTFD, true, "queue notifications by eventfd"),
	KVM_CAP_ROW(IMMEDIATE_EXIT, true, "stopping a vCPU without losing a kick"),
	KVM_CAP_ROW(MP_STATE, true, "secondary CPUs"),
	KVM_CAP_ROW(READONLY_MEM, false, "read-only memory, and virtio's registers without exits"),
	KVM_CAP_ROW(IRQFD_RESAMPLE, false, "level-triggered interrupts by eventfd"),
	{ 0 },
};

int kvm_ioctl_raw(int fd, unsigned long request, void *arg)
{
	/* musl's ioctl() takes an int: the numbers with the top bit set need the cast. */
	int ret = ioctl(fd, (int)request, arg);

	return ret < 0 ? -errno : ret;
}

int kvm_ioctl_named(int fd, unsigned long request, const char *name, void *arg)
{
	int ret, tries = 0;

	/* KVM_CREATE_VM ends with EINTR at any signal (SIGWINCH, say), whatever SA_RESTART says. */
	do
		ret = kvm_ioctl_raw(fd, request, arg);
	while (ret == -EINTR && ++tries < EINTR_MAX);
	if (ret < 0)
		log_err("%s: %s", name, errno_name(ret));
	return ret;
}

int kvm_has(int fd, int cap)
{
	int ret = kvm_ioctl_raw(fd, KVM_CHECK_EXTENSION, (void *)(uintptr_t)cap);

	return ret < 0 ? 0 : ret;
}

const char *kvm_explain(int err)
{
	const char *why;

	err = err < 0 ? -err : err;
	why = arch_kvm_explain(err);
	if (why)
		return why;
	switch (err) {
	case EACCES:
	case EPERM:
		return "open it as root or as a member of the group that owns it (kvm)";
	case EBUSY:
		return "another hypervisor holds the CPU's virtualization";
	case EINVAL:
	case ENOTTY:
		return "it is no KVM with the API that is needed (version 12)";
	default:
		return "check that the host's KVM works";
	}
}

static int check_caps(int fd, const struct kvm_cap *cap)
{
	int missing = 0;

	for (; cap->text; cap++) {
		if (kvm_has(fd, cap->cap))
			continue;
		log_line(cap->required ? LOG_ERROR : LOG_DEBUG, "/dev/kvm: it lacks KVM_CAP_%s", cap->text);
		missing += cap->required;
	}
	return missing ? -EOPNOTSUPP : 0;
}

int kvm_open(struct kvm *kvm)
{
	int ret;

	memset(kvm, 0, sizeof(*kvm));
	kvm->fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm->fd < 0) {
		ret = -errno;
		log_err("/dev/kvm: %s: %s", errno_name(ret), kvm_explain(ret));
		return ret;
	}
	ret = kvm_ioctl_raw(kvm->fd, KVM_GET_API_VERSION, NULL);
	if (ret != KVM_API) {
		if (ret < 0)
			log_err("/dev/kvm: KVM_GET_API_VERSION: %s: %s", errno_name(ret), kvm_explain(ret));
		else
			log_err("/dev/kvm: API version %d, needed is %d", ret, KVM_API);
		ret = ret < 0 ? ret : -EOPNOTSUPP;
		goto err_close;
	}
	ret = kvm_ioctl_val(kvm->fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (ret < 0)
		goto err_close;
	kvm->vcpu_mmap_size = (size_t)ret;
	if (kvm->vcpu_mmap_size < sizeof(struct kvm_run)) {
		log_err("/dev/kvm: a vCPU's mapping has %zu bytes, struct kvm_run %zu",
			kvm->vcpu_mmap_size, sizeof(struct kvm_run));
		ret = -EOPNOTSUPP;
		goto err_close;
	}
	ret = check_caps(kvm->fd, kvm_caps);
	if (ret)
		goto err_close;
	ret = check_caps(kvm->fd, arch_kvm_caps);
	if (ret)
		goto err_close;
	ret = kvm_has(kvm->fd, KVM_CAP_MAX_VCPUS);
	if (!ret)
		ret = kvm_has(kvm->fd, KVM_CAP_NR_VCPUS);
	kvm->max_vcpus = ret ? (unsigned int)ret : 1;
	return 0;

err_close:
	close(kvm->fd);
	kvm->fd = -1;
	return ret;
}

void kvm_close(struct kvm *kvm)
{
	if (kvm->fd >= 0)
		close(kvm->fd);
	kvm->fd = -1;
}
