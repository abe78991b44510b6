/* SPDX-License-Identifier: MIT */
/*
 * /dev/kvm and /dev/vhost-vsock made of nothing, for a whole machine of either architecture: all
 * that is set is taken, all that is asked for is zeros, and the guest does what the test says.
 *
 * Descriptors are real ones, so that those which stay open can be counted.
 */
#ifndef TESTS_UNIT_FAKE_KVM_H
#define TESTS_UNIT_FAKE_KVM_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <linux/kvm.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include "arch/arch.h"

#define FAKE_VCPUS 8

/* What the guest does next; its first vCPU, once. */
enum fake_guest {
	GUEST_NOTHING, /* runs, deaf to all */
	GUEST_POWEROFF,
	GUEST_RESET,
};

static atomic_int fake_guest;
static atomic_uint fake_calls;	      /* of KVM and vhost, but KVM_RUN */
static atomic_ulong fake_fail_request; /* the next of these fails with EIO */
static atomic_uint fake_inside;	      /* vCPUs in the guest */

static struct {
	int fd;
	struct kvm_run *run;
} fake_vcpu[FAKE_VCPUS];
static unsigned int fake_vcpus;
static pthread_mutex_t fake_lock = PTHREAD_MUTEX_INITIALIZER;

void *__real_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset);
int __real_munmap(void *addr, size_t len);
int __real_ftruncate(int fd, off_t len);

static size_t fake_run_size(void)
{
	return 3 * (size_t)sysconf(_SC_PAGESIZE); /* kvm_run, its port data, the ring of kept writes */
}

static int fake_fd(size_t size)
{
	int fd = memfd_create("fake", MFD_CLOEXEC);

	if (fd < 0 || (size && __real_ftruncate(fd, (off_t)size)))
		abort();
	return fd;
}

/* Between two machines. */
static void fake_reset(void)
{
	for (unsigned int i = 0; i < fake_vcpus; i++)
		__real_munmap(fake_vcpu[i].run, fake_run_size());
	fake_vcpus = 0;
	fake_guest = GUEST_NOTHING;
	fake_fail_request = 0;
}

/* A reset of the guest makes all vCPUs anew. */
static int fake_new_vcpu(void)
{
	unsigned int i;
	int fd = fake_fd(fake_run_size());

	pthread_mutex_lock(&fake_lock);
	for (i = 0; i < fake_vcpus && fake_vcpu[i].fd != fd; i++)
		;
	if (i == FAKE_VCPUS)
		abort();
	if (i < fake_vcpus)
		__real_munmap(fake_vcpu[i].run, fake_run_size());
	else
		fake_vcpus++;
	fake_vcpu[i].fd = fd;
	fake_vcpu[i].run = __real_mmap(NULL, fake_run_size(), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	pthread_mutex_unlock(&fake_lock);
	return fd;
}

static struct kvm_run *fake_run_of(int fd)
{
	struct kvm_run *run = NULL;

	pthread_mutex_lock(&fake_lock);
	for (unsigned int i = 0; i < fake_vcpus; i++) {
		if (fake_vcpu[i].fd == fd)
			run = fake_vcpu[i].run;
	}
	pthread_mutex_unlock(&fake_lock);
	return run;
}

/* x86_64: LAYOUT_SLEEP_CTL and LAYOUT_RESET of its layout.h; aarch64: PSCI, as KVM tells of it. */
static void fake_exit(struct kvm_run *run, int guest)
{
	bool off = guest == GUEST_POWEROFF;

	if (!strcmp(arch_name, "x86_64")) {
		run->exit_reason = KVM_EXIT_IO;
		run->io.direction = KVM_EXIT_IO_OUT;
		run->io.size = 1;
		run->io.count = 1;
		run->io.port = off ? 0x604 : 0x606;
		run->io.data_offset = fake_run_size() / 2;
		*((uint8_t *)run + run->io.data_offset) = off ? 0x34 : 1;
	} else {
		run->exit_reason = KVM_EXIT_SYSTEM_EVENT;
		run->system_event.type = off ? KVM_SYSTEM_EVENT_SHUTDOWN : KVM_SYSTEM_EVENT_RESET;
		run->system_event.ndata = 0;
	}
}

static int fake_kvm_run(int fd)
{
	struct timespec moment = { .tv_nsec = 100000 };
	struct kvm_run *run = fake_run_of(fd);
	int guest, ret = -1;

	fake_inside++;
	for (;;) {
		if (__atomic_load_n(&run->immediate_exit, __ATOMIC_SEQ_CST)) {
			errno = EINTR;
			break;
		}
		guest = fd == fake_vcpu[0].fd ? atomic_exchange(&fake_guest, GUEST_NOTHING) : GUEST_NOTHING;
		if (guest != GUEST_NOTHING) {
			fake_exit(run, guest);
			ret = 0;
			break;
		}
		nanosleep(&moment, NULL);
	}
	fake_inside--;
	return ret;
}

static int fake_has(unsigned long cap)
{
	switch (cap) {
	case KVM_CAP_NR_MEMSLOTS:
		return 512;
	case KVM_CAP_MAX_VCPUS:
	case KVM_CAP_NR_VCPUS:
		return FAKE_VCPUS;
	case KVM_CAP_ARM_VM_IPA_SIZE:
		return 44;
	case 208: /* KVM_CAP_XSAVE2 */
		return 4096;
	case KVM_CAP_ARM_SVE:
		return 0;
	case KVM_CAP_COALESCED_MMIO:
		return 2;
	default:
		return 1;
	}
}

/* struct kvm_cpuid2 of x86_64: nr, padding, then entries of 40 bytes that begin with the leaf. */
static int fake_cpuid(uint32_t *head)
{
	static const uint32_t leaf[] = { 0, 1, 7, 0xb, 0xd, 0x40000000, 0x80000001, 0x80000008 };
	const uint32_t nr = sizeof(leaf) / sizeof(*leaf);

	if (head[0] < nr) {
		errno = E2BIG;
		return -1;
	}
	head[0] = nr;
	memset(head + 2, 0, nr * 40);
	for (uint32_t i = 0; i < nr; i++)
		head[2 + i * 10] = leaf[i];
	return 0;
}

/* struct kvm_msrs: nr, padding, then entries of 16 bytes: index, reserved, data. */
static int fake_get_msrs(uint32_t *head)
{
	for (uint32_t i = 0; i < head[0]; i++)
		memset(head + 2 + i * 4 + 2, 0, 8);
	return (int)head[0];
}

static int fake_msr_list(uint32_t *head)
{
	static const uint32_t msr[] = { 0x10, 0x174, 0x175, 0x176, 0xc0000080 };
	const uint32_t nr = sizeof(msr) / sizeof(*msr);
	bool fits = head[0] >= nr;

	head[0] = nr;
	if (fits)
		memcpy(head + 1, msr, sizeof(msr));
	errno = E2BIG;
	return fits ? 0 : -1;
}

#define FAKE_MPIDR   0x603000000013c005ull
#define FAKE_COUNTER 0x603000000013df1aull /* KVM_REG_ARM_TIMER_CNT */

/* struct kvm_reg_list of arm64: nr, then numbers. A core register, MPIDR_EL1, the counter. */
static int fake_reg_list(uint64_t *list)
{
	static const uint64_t reg[] = { 0x6030000000100040ull, FAKE_MPIDR, FAKE_COUNTER };
	const uint64_t nr = sizeof(reg) / sizeof(*reg);
	bool fits = list[0] >= nr;

	list[0] = nr;
	if (fits)
		memcpy(list + 1, reg, sizeof(reg));
	errno = E2BIG;
	return fits ? 0 : -1;
}

static int fake_get_reg(int fd, const struct kvm_one_reg *reg)
{
	uint8_t value[256] = { 0 };

	for (unsigned int i = 0; i < fake_vcpus && reg->id == FAKE_MPIDR; i++) {
		if (fake_vcpu[i].fd == fd)
			value[0] = (uint8_t)i;
	}
	memcpy((void *)(uintptr_t)reg->addr, value, 1u << (reg->id >> 52 & 0xf));
	return 0;
}

static int fake_kvm(int fd, unsigned long request, void *arg)
{
	const struct kvm_device_attr *attr = arg;

	switch (_IOC_NR(request)) {
	case _IOC_NR(KVM_GET_API_VERSION):
		return 12;
	case _IOC_NR(KVM_CREATE_VM):
		return fake_fd(0);
	case 0x02: /* KVM_GET_MSR_INDEX_LIST */
		return fake_msr_list(arg);
	case _IOC_NR(KVM_CHECK_EXTENSION):
		return fake_has((uintptr_t)arg);
	case _IOC_NR(KVM_GET_VCPU_MMAP_SIZE):
		return (int)fake_run_size();
	case 0x05: /* KVM_GET_SUPPORTED_CPUID */
	case 0x91: /* KVM_GET_CPUID2 */
		return fake_cpuid(arg);
	case _IOC_NR(KVM_CREATE_VCPU):
		return fake_new_vcpu();
	case _IOC_NR(KVM_GET_DIRTY_LOG): /* clean; @arg stays as it is */
		return 0;
	case 0x88: /* KVM_GET_MSRS */
		return fake_get_msrs(arg);
	case 0x89: /* KVM_SET_MSRS */
		return *(int *)arg;
	case 0xa3: /* KVM_GET_TSC_KHZ */
		return 2000000;
	case _IOC_NR(KVM_GET_ONE_REG):
		return fake_get_reg(fd, arg);
	case 0xb0: /* KVM_GET_REG_LIST */
		return fake_reg_list(arg);
	case _IOC_NR(KVM_CREATE_DEVICE):
		if (!(((struct kvm_create_device *)arg)->flags & KVM_CREATE_DEVICE_TEST))
			((struct kvm_create_device *)arg)->fd = (uint32_t)fake_fd(0);
		return 0;
	case _IOC_NR(KVM_GET_DEVICE_ATTR):
		/* Of a GIC: 6 is KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, 64 bits, all else 32. */
		memset((void *)(uintptr_t)attr->addr, 0, attr->group == 6 ? 8 : 4);
		return 0;
	default:
		if (_IOC_DIR(request) == _IOC_READ)
			memset(arg, 0, _IOC_SIZE(request));
		return 0;
	}
}

static int fake_vhost(unsigned long request, void *arg)
{
	if (request == VHOST_GET_FEATURES)
		*(uint64_t *)arg = 1ull << VIRTIO_F_VERSION_1;
	return 0;
}

/* open() of the two nodes; -1 for all else. */
static int fake_open(const char *path)
{
	return !strcmp(path, "/dev/kvm") || !strcmp(path, "/dev/vhost-vsock") ? fake_fd(0) : -1;
}

static bool fake_takes(unsigned long request)
{
	return _IOC_TYPE(request) == KVMIO || _IOC_TYPE(request) == VHOST_VIRTIO;
}

static int fake_ioctl(int fd, unsigned long request, void *arg)
{
	request = (uint32_t)request;
	if (request == KVM_RUN)
		return fake_kvm_run(fd);
	fake_calls++;
	if (request == fake_fail_request) {
		fake_fail_request = 0;
		errno = EIO;
		return -1;
	}
	return _IOC_TYPE(request) == KVMIO ? fake_kvm(fd, request, arg) : fake_vhost(request, arg);
}

#endif
