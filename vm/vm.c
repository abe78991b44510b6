/* SPDX-License-Identifier: MIT */
#include "vm/vm.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "arch/arch.h"
#include "vm/event.h"
#include "vm/log.h"
#include "vm/vcpu.h"

static int add_ram(struct vm *vm, uint64_t ram_size, enum memory_backing backing)
{
	struct arch_ram ram[ARCH_MAX_RAM];
	unsigned int nr = arch_ram_layout(ram_size, ram);

	if (!nr) {
		log_err("memory: %" PRIu64 " MiB; a machine here has %" PRIu64 " to %" PRIu64 " MiB",
			ram_size >> 20, arch_min_ram >> 20, arch_max_ram >> 20);
		return -EINVAL;
	}
	for (unsigned int i = 0; i < nr; i++) {
		int ret = memory_add_ram(&vm->mem, ram[i].gpa, ram[i].size, backing);

		if (ret)
			return ret;
	}
	return 0;
}

static int add_vcpus(struct vm *vm, unsigned int nr_vcpus)
{
	unsigned int max = arch_max_vcpus(vm->kvm);
	int ret;

	if (max > vm->kvm->max_vcpus)
		max = vm->kvm->max_vcpus;
	if (!nr_vcpus || nr_vcpus > max) {
		log_err("cpus: %u; this host can give 1 to %u", nr_vcpus, max);
		return -EINVAL;
	}
	vm->vcpus = calloc(nr_vcpus, sizeof(*vm->vcpus));
	if (!vm->vcpus) {
		log_err("%u vCPUs: out of memory", nr_vcpus);
		return -ENOMEM;
	}
	for (unsigned int i = 0; i < nr_vcpus; i++) {
		ret = vcpu_create(&vm->vcpus[i], vm, i);
		if (ret)
			return ret;
		vm->nr_vcpus = i + 1;
	}
	/* All of them must exist first: what one is told of the others (topology) counts them. */
	for (unsigned int i = 0; i < nr_vcpus; i++) {
		ret = arch_vcpu_init(&vm->vcpus[i]);
		if (ret)
			return ret;
	}
	return 0;
}

int vm_create(struct vm *vm, struct kvm *kvm, struct event_loop *loop,
	      const struct vm_config *config)
{
	unsigned long type;
	int ret;

	memset(vm, 0, sizeof(*vm));
	vm->fd = -1;
	vm->kvm = kvm;
	vm->config = *config;
	vm->loop = loop;
	ret = arch_vm_type(kvm, config->ram_size, &type);
	if (ret)
		return ret;
	vm->fd = kvm_ioctl_val(kvm->fd, KVM_CREATE_VM, type);
	memory_init(&vm->mem, vm->fd);
	irq_init(&vm->irqs, vm->fd);
	if (vm->fd < 0)
		return vm->fd;

	ret = arch_vm_init(vm);
	if (ret)
		goto err;
	ret = add_ram(vm, config->ram_size, config->backing);
	if (ret)
		goto err;
	ret = add_vcpus(vm, config->nr_vcpus);
	if (ret)
		goto err;
	ret = arch_vm_finish(vm);
	if (ret)
		goto err;
	return 0;

err:
	vm_destroy(vm);
	return ret;
}

int vm_start(struct vm *vm)
{
	for (unsigned int i = 0; i < vm->nr_vcpus; i++) {
		int ret = vcpu_start(&vm->vcpus[i]);

		if (ret) {
			vm_stop(vm);
			return ret;
		}
	}
	return 0;
}

void vm_stop(struct vm *vm)
{
	atomic_store(&vm->stop, true);
	/* All are kicked before the first is waited for: they stop side by side. */
	for (unsigned int i = 0; i < vm->nr_vcpus; i++) {
		if (vm->vcpus[i].started)
			vcpu_kick(&vm->vcpus[i]);
	}
	for (unsigned int i = 0; i < vm->nr_vcpus; i++) {
		if (vm->vcpus[i].started)
			pthread_join(vm->vcpus[i].thread, NULL);
		vm->vcpus[i].started = false;
	}
}

void vm_destroy(struct vm *vm)
{
	vm_stop(vm);
	irq_fini(&vm->irqs);
	arch_vm_fini(vm);
	for (unsigned int i = 0; i < vm->nr_vcpus; i++)
		vcpu_destroy(&vm->vcpus[i]);
	free(vm->vcpus);
	vm->vcpus = NULL;
	vm->nr_vcpus = 0;
	if (vm->fd >= 0)
		close(vm->fd);
	vm->fd = -1;
	memory_fini(&vm->mem);
}

void vm_end(struct vm *vm, enum vm_end end, const char *why)
{
	int none = VM_END_NONE;

	if (atomic_compare_exchange_strong(&vm->end, &none, end))
		atomic_store(&vm->end_why, why);
	event_loop_stop(vm->loop);
}

const char *vm_end_name(enum vm_end end)
{
	static const char *const name[] = {
		[VM_END_NONE] = "runs",	       [VM_END_POWEROFF] = "powered off",
		[VM_END_RESET] = "reset",      [VM_END_CRASH] = "crashed",
		[VM_END_STOP] = "was stopped", [VM_END_FAILED] = "failed",
	};

	return name[end];
}
