/* SPDX-License-Identifier: MIT */
#include "arch/aarch64/gic.h"

#include <errno.h>
#include <stdint.h>
#include <unistd.h>
#include <linux/kvm.h>
#include "arch/aarch64/layout.h"
#include "vm/kvm.h"
#include "vm/log.h"

static uint32_t device_type(unsigned int version)
{
	return version == 2 ? KVM_DEV_TYPE_ARM_VGIC_V2 : KVM_DEV_TYPE_ARM_VGIC_V3;
}

bool gic_possible(int vm_fd, unsigned int version)
{
	struct kvm_create_device device = {
		.type = device_type(version),
		.flags = KVM_CREATE_DEVICE_TEST,
	};

	return kvm_ioctl_quiet(vm_fd, KVM_CREATE_DEVICE, &device) >= 0;
}

int gic_choose(int vm_fd, unsigned int wanted, unsigned int nr_vcpus)
{
	bool v2 = gic_possible(vm_fd, 2), v3 = gic_possible(vm_fd, 3);
	unsigned int version = wanted ? wanted : v3 ? 3 : 2;
	unsigned int max = version == 2 ? LAYOUT_MAX_VCPUS_V2 : LAYOUT_MAX_VCPUS_V3;

	if (!v2 && !v3) {
		log_err("gic: KVM here can make neither a GICv3 nor a GICv2: check that the host's device "
			"tree gives its GIC's virtualization registers and maintenance interrupt");
		return -EOPNOTSUPP;
	}
	if (version == 2 ? !v2 : !v3) {
		log_err("gic: KVM here can't make a GICv%u, the host's own GIC is of another version: "
			"use --gic %u, or leave it out", version, v3 ? 3 : 2);
		return -EOPNOTSUPP;
	}
	if (nr_vcpus > max) {
		log_err("cpus: %u; a GICv%u takes 1 to %u%s", nr_vcpus, version, max,
			version == 3 ? "" : v3 ? ": use --gic 3, or leave --gic out" :
						 ", and this host has no GICv3");
		return -EINVAL;
	}
	return (int)version;
}

static int set_attr(int fd, uint32_t group, uint64_t attr, void *value, const char *what)
{
	struct kvm_device_attr arg = {
		.group = group,
		.attr = attr,
		.addr = (uint64_t)(uintptr_t)value,
	};
	int ret = kvm_ioctl_quiet(fd, KVM_SET_DEVICE_ATTR, &arg);

	if (ret < 0)
		log_err("gic: %s: KVM_SET_DEVICE_ATTR: %s", what, errno_name(ret));
	return ret < 0 ? ret : 0;
}

int gic_create(int vm_fd, unsigned int version)
{
	struct kvm_create_device device = { .type = device_type(version) };
	uint64_t gicd = LAYOUT_GICD_BASE;
	uint64_t gicc = LAYOUT_GICC_BASE;
	uint64_t gicr = LAYOUT_GICR_BASE;
	uint32_t nr = LAYOUT_NR_INTIDS;
	int fd, ret;

	ret = kvm_ioctl(vm_fd, KVM_CREATE_DEVICE, &device);
	if (ret < 0)
		return ret;
	fd = (int)device.fd;
	if (version == 2) {
		ret = set_attr(fd, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V2_ADDR_TYPE_DIST, &gicd,
			       "distributor's address");
		if (!ret)
			ret = set_attr(fd, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V2_ADDR_TYPE_CPU, &gicc,
				       "CPU interface's address");
	} else {
		ret = set_attr(fd, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_DIST, &gicd,
			       "distributor's address");
		/* One region; KVM puts as many redistributors there as there are vCPUs. */
		if (!ret)
			ret = set_attr(fd, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_REDIST,
				       &gicr, "redistributors' address");
	}
	if (!ret)
		ret = set_attr(fd, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &nr, "number of interrupts");
	if (!ret)
		ret = set_attr(fd, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, NULL,
			       "initialisation");
	if (ret) {
		close(fd);
		return ret;
	}
	return fd;
}
