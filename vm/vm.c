/* SPDX-License-Identifier: MIT */
#include "vm/vm.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "arch/arch.h"
#include "vm/dirty.h"
#include "vm/event.h"
#include "vm/log.h"
#include "vm/region.h"
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
	coalesced_init(vm);
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
	pthread_mutex_init(&vm->lock, NULL);
	pthread_mutex_init(&vm->coalesced.lock, NULL);
	pthread_cond_init(&vm->changed, NULL);
	vm->fd = -1;
	vm->kvm = kvm;
	vm->config = *config;
	vm->loop = loop;
	ret = arch_vm_type(kvm, config->ram_size, &type);
	if (ret)
		return ret;
	vm->fd = kvm_ioctl_val(kvm->fd, KVM_CREATE_VM, type);
	memory_init(&vm->mem, vm->fd);
	vm->mem.max_slots = (unsigned int)kvm_has(kvm->fd, KVM_CAP_NR_MEMSLOTS);
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

/* Those in the guest leave it, those that wait look again at pause and stop. */
static void kick_all(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	pthread_cond_broadcast(&vm->changed);
	for (unsigned int i = 0; i < vm->nr_vcpus; i++) {
		if (vm->vcpus[i].started)
			vcpu_kick(&vm->vcpus[i]);
	}
	pthread_mutex_unlock(&vm->lock);
}

/* From here on nobody kicks it: a thread that was joined must not be sent a signal. */
static bool take_started(struct vm *vm, struct vcpu *vcpu)
{
	bool started;

	pthread_mutex_lock(&vm->lock);
	started = vcpu->started;
	vcpu->started = false;
	pthread_mutex_unlock(&vm->lock);
	return started;
}

void vm_stop(struct vm *vm)
{
	atomic_store(&vm->stop, true);
	/* All are told before the first is waited for: they stop side by side. */
	kick_all(vm);
	for (unsigned int i = 0; i < vm->nr_vcpus; i++) {
		if (take_started(vm, &vm->vcpus[i]))
			pthread_join(vm->vcpus[i].thread, NULL);
	}
}

/* 0 when all that live are out of the guest. */
static int wait_all_paused(struct vm *vm)
{
	bool stop;

	pthread_mutex_lock(&vm->lock);
	/* One that has come to its end is out for good: nr_live goes down. */
	while (vm->nr_paused < vm->nr_live && !atomic_load(&vm->stop))
		pthread_cond_wait(&vm->changed, &vm->lock);
	stop = atomic_load(&vm->stop);
	pthread_mutex_unlock(&vm->lock);
	return stop || atomic_load(&vm->end) != VM_END_NONE ? -ESHUTDOWN : 0;
}

int vm_pause(struct vm *vm)
{
	bool idle = false;
	int ret;

	if (atomic_load(&vm->stop) || atomic_load(&vm->end) != VM_END_NONE)
		return -ESHUTDOWN;
	if (!atomic_compare_exchange_strong(&vm->pause, &idle, true))
		return -EALREADY;
	kick_all(vm);
	ret = wait_all_paused(vm);
	if (!ret)
		ret = arch_vm_pause(vm);
	pthread_mutex_lock(&vm->lock);
	vm->paused = !ret;
	if (ret) {
		atomic_store(&vm->pause, false);
		pthread_cond_broadcast(&vm->changed);
	}
	pthread_mutex_unlock(&vm->lock);
	return ret;
}

int vm_resume(struct vm *vm)
{
	bool paused;
	int ret;

	/* Taken at once, so that of two threads one resumes. */
	pthread_mutex_lock(&vm->lock);
	paused = vm->paused;
	vm->paused = false;
	pthread_mutex_unlock(&vm->lock);
	if (!paused)
		return -EINVAL;
	ret = atomic_load(&vm->stop) ? -ESHUTDOWN : arch_vm_resume(vm);
	pthread_mutex_lock(&vm->lock);
	vm->paused = ret != 0;
	if (!ret) {
		atomic_store(&vm->pause, false);
		pthread_cond_broadcast(&vm->changed);
	}
	pthread_mutex_unlock(&vm->lock);
	return ret;
}

bool vm_is_still(struct vm *vm)
{
	bool still;

	pthread_mutex_lock(&vm->lock);
	still = vm->paused || !vm->nr_live;
	pthread_mutex_unlock(&vm->lock);
	return still;
}

static int check_still(struct vm *vm, const char *what, char *why)
{
	return vm_is_still(vm) ? 0 :
				 log_refuse(why, -EBUSY, "%s: the guest runs: it must be paused", what);
}

/* The map's windows, and what is on the bus: a device that has no window in the map, too. */
static int check_windows(const struct vm *vm, const struct region_spec *spec, char *why)
{
	const uint64_t last = spec->gpa + (spec->size - 1);

	if (!spec->size || last < spec->gpa)
		return 0; /* region_add() has the words */
	for (const struct arch_window *w = arch_windows; *w->name; w++) {
		if (spec->gpa <= w->gpa + (w->size - 1) && w->gpa <= last)
			return region_refuse(spec, why, -EEXIST,
					     "%#" PRIx64 ", %#" PRIx64 " bytes, is %s", w->gpa,
					     w->size, w->name);
	}
	for (unsigned int i = 0; i < vm->mmio.nr; i++) {
		const struct bus_range *r = &vm->mmio.range[i];

		if (spec->gpa <= r->base + (r->size - 1) && r->base <= last)
			return region_refuse(spec, why, -EEXIST,
					     "%#" PRIx64 ", %#" PRIx64 " bytes, is %s's", r->base,
					     r->size, r->name);
	}
	return 0;
}

/* The host spends memory and time on a region by its size. */
static int check_sum(const struct vm *vm, const struct region_spec *spec, char *why)
{
	const struct memory_region *region;
	uint64_t sum = 0;

	for (unsigned int i = 0; (region = region_list(&vm->mem, i)); i++)
		sum += region->size;
	if (spec->size <= arch_max_ram && sum <= arch_max_ram - spec->size)
		return 0;
	return region_refuse(spec, why, -EINVAL, "a machine has at most %" PRIu64 " MiB in all",
			     arch_max_ram >> 20);
}

int vm_memory_add(struct vm *vm, const struct region_spec *spec, uint32_t *slot,
		  char why[LOG_SENTENCE])
{
	int ret = check_still(vm, "memory", why);

	if (!ret)
		ret = check_windows(vm, spec, why);
	if (!ret)
		ret = check_sum(vm, spec, why);
	return ret ? ret : region_add(&vm->mem, spec, slot, why);
}

int vm_memory_remove(struct vm *vm, uint32_t slot, char why[LOG_SENTENCE])
{
	int ret = check_still(vm, "memory", why);

	return ret ? ret : region_remove(&vm->mem, slot, why);
}

int vm_dirty_enable(struct vm *vm, char why[LOG_SENTENCE])
{
	int ret = check_still(vm, "dirty log", why);

	return ret ? ret : dirty_enable(&vm->mem, why);
}

int vm_dirty_disable(struct vm *vm, char why[LOG_SENTENCE])
{
	int ret = check_still(vm, "dirty log", why);

	return ret ? ret : dirty_disable(&vm->mem, why);
}

int vm_dirty_collect(struct vm *vm, char why[LOG_SENTENCE])
{
	int ret = check_still(vm, "dirty log", why);

	return ret ? ret : dirty_collect(&vm->mem, why);
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
	dirty_fini(&vm->mem);
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
	static const char name[][12] = {
		[VM_END_NONE] = "runs",	       [VM_END_POWEROFF] = "powered off",
		[VM_END_RESET] = "reset",      [VM_END_CRASH] = "crashed",
		[VM_END_STOP] = "was stopped", [VM_END_FAILED] = "failed",
	};

	return name[end];
}
