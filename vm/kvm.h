/* SPDX-License-Identifier: MIT */
/*
 * Raw ioctls on /dev/kvm, a VM or a vCPU, and on vhost devices, through one checked function.
 * Source: Linux Documentation/virt/kvm/api.rst.
 */
#ifndef VM_KVM_H
#define VM_KVM_H

#include <stdbool.h>
#include <stddef.h>
#include <linux/kvm.h>

struct kvm {
	int fd;			/* /dev/kvm */
	size_t vcpu_mmap_size;	/* bytes of a vCPU's kvm_run mapping */
	unsigned int max_vcpus; /* KVM_CAP_MAX_VCPUS, at least 1 */
};

/* A row of the table of capabilities that vinit asks about. */
struct kvm_cap {
	const char *text; /* behind KVM_CAP_, and what is lost without it: "IRQFD: interrupts ..." */
	int cap;
	bool required;
};

#define KVM_CAP_ROW(c, req, use) { .text = #c ": " use, .cap = KVM_CAP_##c, .required = req }

/*
 * ioctl(@fd, @request, @arg), EINTR not retried. Returns what the kernel returned (>= 0) or -errno.
 * Nothing is logged: the caller knows what the failure means.
 */
int kvm_ioctl_raw(int fd, unsigned long request, void *arg);

/*
 * As kvm_ioctl_raw(), but goes on after EINTR (not for KVM_RUN, then), and logs "NAME: ERRNO" on
 * failure.
 */
int kvm_ioctl_named(int fd, unsigned long request, const char *name, void *arg);

/* The argument's size must be the request's, checked when this is compiled. */
#define KVM_CHECK_SIZE(request, arg)                                                               \
	_Static_assert(_IOC_SIZE(request) == sizeof(*(arg)), "size of the argument of " #request)

#define kvm_ioctl(fd, request, arg)                                                                \
	__extension__({                                                                            \
		KVM_CHECK_SIZE(request, arg);                                                      \
		kvm_ioctl_named(fd, request, #request, arg);                                       \
	})

/* The same without a log line, where failure is an answer. */
#define kvm_ioctl_quiet(fd, request, arg)                                                          \
	__extension__({                                                                            \
		KVM_CHECK_SIZE(request, arg);                                                      \
		kvm_ioctl_raw(fd, request, arg);                                                   \
	})

/* For requests whose argument is a number, or none (0). */
#define kvm_ioctl_val(fd, request, value)                                                          \
	kvm_ioctl_named(fd, request, #request, (void *)(uintptr_t)(value))

/*
 * Opens /dev/kvm, checks the API version and every required capability of vm/kvm.c's table and of
 * the architecture's. On failure says what to do about it, returns -errno and leaves nothing open.
 */
int kvm_open(struct kvm *kvm);
void kvm_close(struct kvm *kvm);

/* KVM_CHECK_EXTENSION: 0 when absent, else the capability's value. @fd: /dev/kvm or a VM. */
int kvm_has(int fd, int cap);

/* The table of generic capabilities, ended by a NULL text. */
extern const struct kvm_cap kvm_caps[];

/*
 * Why /dev/kvm can't be used, in a sentence that names the host's fact to check. @err: errno of
 * open() or of the first ioctl.
 */
const char *kvm_explain(int err);

#endif
