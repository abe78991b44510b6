/* SPDX-License-Identifier: MIT */
/*
 * A machine's state into a snapshot and back. docs/snapshot.md has the sections; the GIC's and the
 * devices' are written where they live.
 *
 * Registers are those that KVM lists, whatever they are, each with its size in its number. Source:
 * Linux Documentation/virt/kvm/api.rst, 4.68 and 4.84.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "arch/aarch64/gic.h"
#include "arch/aarch64/layout.h"
#include "arch/aarch64/platform.h"
#include "arch/aarch64/vcpu.h"
#include "arch/aarch64/vm.h"
#include "arch/aarch64/vmgenid.h"
#include "arch/arch.h"
#include "vm/log.h"
#include "vm/serial.h"
#include "vm/state_reader.h"
#include "vm/state_writer.h"
#include "vm/vcpu.h"
#include "vm/vm.h"

#define VCPU_STATE	   STATE_TAG('V', 'C', 'P', 'U')
#define VCPU_STATE_VERSION 1

#define REG_BYTES 256  /* of the longest, an SVE vector of 2048 bits */
#define REGS_MAX  4096 /* many times what any KVM lists */
#define MPIDR_EL1 ARM64_SYS_REG(3, 0, 0, 0, 5)

unsigned int arch_state_wants(const struct vm_config *config, struct state_want *want)
{
	want[0] = (struct state_want){ VCPU_STATE, config->nr_vcpus, 1, VCPU_STATE_VERSION };
	want[1] = (struct state_want){ GIC_STATE, 1, 1, GIC_STATE_VERSION };
	want[2] = (struct state_want){ PLATFORM_STATE, 1, 1, PLATFORM_STATE_VERSION };
	want[3] = (struct state_want){ SERIAL_STATE, 1, 1, SERIAL_STATE_VERSION };
	return 4;
}

static struct gic gic_of(struct vm *vm)
{
	return (struct gic){
		.fd = vm->arch->gic_fd,
		.version = vm->arch->gic,
		.nr_cpus = vm->nr_vcpus,
		.mpidr = vm->arch->mpidr,
	};
}

/* "S3_0_C0_C4_0", as the assembler has it, or what the register's kind is. */
static const char *reg_name(uint64_t id, char *buf, size_t size)
{
	unsigned int code = id & 0xffff;

	if (id == KVM_REG_ARM64_SVE_VLS)
		return "KVM_REG_ARM64_SVE_VLS (the SVE vector lengths)";
	if ((id & KVM_REG_ARM_COPROC_MASK) == KVM_REG_ARM64_SYSREG)
		snprintf(buf, size, "S%u_%u_C%u_C%u_%u", code >> 14, code >> 11 & 7, code >> 7 & 15,
			 code >> 3 & 15, code & 7);
	else
		snprintf(buf, size, "%#" PRIx64, id);
	return buf;
}
#define REG_NAME 24

/* The list is the caller's to free. 0 or -errno; logs. */
static int reg_list(struct vcpu *vcpu, struct kvm_reg_list **list)
{
	struct kvm_reg_list count = { 0 };
	int ret = kvm_ioctl_quiet(vcpu->fd, KVM_GET_REG_LIST, &count);

	/* With no room for any it tells how many there are. */
	if (ret != -E2BIG || !count.n || count.n > REGS_MAX) {
		ret = ret >= 0 || ret == -E2BIG ? -EPROTO : ret;
		log_err("vCPU %u: KVM_GET_REG_LIST: %s, %llu registers", vcpu->id, errno_name(ret),
			(unsigned long long)count.n);
		return ret;
	}
	*list = malloc(sizeof(**list) + count.n * sizeof((*list)->reg[0]));
	if (!*list) {
		log_err("vCPU %u: registers: ENOMEM", vcpu->id);
		return -ENOMEM;
	}
	(*list)->n = count.n;
	ret = kvm_ioctl(vcpu->fd, KVM_GET_REG_LIST, *list);
	if (ret < 0)
		free(*list);
	return ret < 0 ? ret : 0;
}

static int save_regs(struct vcpu *vcpu, const struct kvm_reg_list *list, struct state_writer *w)
{
	uint8_t value[REG_BYTES];
	char name[REG_NAME];

	state_writer_u32(w, (uint32_t)list->n);
	for (uint64_t i = 0; i < list->n; i++) {
		struct kvm_one_reg reg = { .id = list->reg[i], .addr = (uint64_t)(uintptr_t)value };
		int ret = KVM_REG_SIZE(reg.id) > sizeof(value) ? -E2BIG : 0;

		if (!ret)
			ret = kvm_ioctl_quiet(vcpu->fd, KVM_GET_ONE_REG, &reg);
		if (ret < 0) {
			log_err("vCPU %u: register %s: KVM_GET_ONE_REG: %s", vcpu->id,
				reg_name(reg.id, name, sizeof(name)), errno_name(ret));
			return ret;
		}
		/* It has gone on since the pause, and is the same for all. */
		if (reg.id == KVM_REG_ARM_TIMER_CNT)
			memcpy(value, &vcpu->vm->arch->counter, sizeof(uint64_t));
		state_writer_u64(w, reg.id);
		state_writer_bytes(w, value, KVM_REG_SIZE(reg.id));
	}
	return 0;
}

static int save_vcpu(struct vcpu *vcpu, struct state_writer *w)
{
	struct kvm_vcpu_events events = { 0 };
	struct kvm_mp_state mp = { 0 };
	struct kvm_reg_list *list;
	int ret;

	/* First: a reset that PSCI has asked for is carried out then, before anything is read. */
	ret = reg_list(vcpu, &list);
	if (ret)
		return ret;
	state_writer_begin(w, VCPU_STATE, vcpu->id, VCPU_STATE_VERSION);
	ret = kvm_ioctl(vcpu->fd, KVM_GET_MP_STATE, &mp);
	if (ret >= 0)
		ret = kvm_ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, &events);
	state_writer_u32(w, mp.mp_state);
	state_writer_bool(w, events.exception.serror_pending);
	state_writer_bool(w, events.exception.serror_has_esr);
	state_writer_bool(w, events.exception.ext_dabt_pending);
	state_writer_u64(w, events.exception.serror_esr);
	if (ret >= 0)
		ret = save_regs(vcpu, list, w);
	state_writer_end(w);
	free(list);
	return ret < 0 ? ret : 0;
}

void arch_save(struct vm *vm, struct state_writer *w)
{
	struct gic gic = gic_of(vm);
	int ret = 0;

	for (unsigned int i = 0; i < vm->nr_vcpus && !ret; i++)
		ret = save_vcpu(&vm->vcpus[i], w);
	if (ret) {
		state_writer_fail(w, ret);
		return;
	}
	gic_save(&gic, w);
	platform_save(vm->arch->platform, w);
	serial_save(vm->arch->serial, w);
}

/* What stands before a vCPU's registers. */
struct vcpu_head {
	struct kvm_mp_state mp;
	struct kvm_vcpu_events events;
	uint32_t nr_regs;
};

static int read_head(const struct state_reader *r, struct state_section *s, unsigned int id,
		     struct vcpu_head *head)
{
	int err = state_reader_section(r, s, VCPU_STATE, id);

	if (err)
		return err;
	*head = (struct vcpu_head){ .mp.mp_state = state_reader_u32(s) };
	head->events.exception.serror_pending = state_reader_bool(s);
	head->events.exception.serror_has_esr = state_reader_bool(s);
	head->events.exception.ext_dabt_pending = state_reader_bool(s);
	head->events.exception.serror_esr = state_reader_u64(s);
	/* A number and a byte, the least. */
	head->nr_regs = state_reader_number(s, REGS_MAX, sizeof(uint64_t) + 1);
	if (!s->err && head->mp.mp_state != KVM_MP_STATE_RUNNABLE &&
	    head->mp.mp_state != KVM_MP_STATE_STOPPED)
		state_reader_bad(s, "it is in state %u, neither runnable nor stopped", head->mp.mp_state);
	return 0;
}

/* The next register; false: an error sticks in @s. */
static bool read_reg(struct state_section *s, uint64_t *id, uint8_t value[REG_BYTES])
{
	*id = state_reader_u64(s);
	if (s->err)
		return false;
	if ((*id & KVM_REG_ARCH_MASK) != KVM_REG_ARM64 || KVM_REG_SIZE(*id) > REG_BYTES) {
		state_reader_bad(s, "%#" PRIx64 " is no register", *id);
		return false;
	}
	state_reader_bytes(s, value, KVM_REG_SIZE(*id));
	return !s->err;
}

/*
 * All of it can be read, and is of a vCPU that has this one's place among the others: the GIC and
 * the device tree know it by its affinity.
 */
static int check_vcpu(const struct vcpu *vcpu, const struct state_reader *r)
{
	uint64_t affinity = vcpu->vm->arch->mpidr[vcpu->id], id, mpidr;
	uint8_t value[REG_BYTES];
	struct state_section s;
	struct vcpu_head head;
	bool same = false, counter = false;
	int err;

	err = read_head(r, &s, vcpu->id, &head);
	if (err)
		return err;
	for (uint32_t i = 0; i < head.nr_regs && read_reg(&s, &id, value); i++) {
		counter |= id == KVM_REG_ARM_TIMER_CNT;
		if (id != MPIDR_EL1)
			continue;
		memcpy(&mpidr, value, sizeof(mpidr));
		same = (mpidr & VCPU_MPIDR_AFFINITY) == affinity;
	}
	if (!s.err && !same)
		state_reader_bad(&s, "its MPIDR_EL1 isn't that of this machine's, %#" PRIx64, affinity);
	if (!s.err && !counter)
		state_reader_bad(&s, "it has no virtual counter");
	return state_reader_section_end(&s);
}

/*
 * The order of registers, by class: what firmware tells before all else; what the CPU is, which
 * bounds the rest; the rest; a counter (KVM makes its offset of it) before the compare value and
 * that before the control, so that no timer is armed by halves.
 */
#define NR_CLASSES 6

static unsigned int reg_class(uint64_t id)
{
	switch (id) {
	case KVM_REG_ARM_TIMER_CNT:
	case KVM_REG_ARM_PTIMER_CNT:
		return 3;
	case KVM_REG_ARM_TIMER_CVAL:
	case KVM_REG_ARM_PTIMER_CVAL:
		return 4;
	case KVM_REG_ARM_TIMER_CTL:
	case KVM_REG_ARM_PTIMER_CTL:
		return 5;
	}
	switch (id & KVM_REG_ARM_COPROC_MASK) {
	case KVM_REG_ARM_FW:
	case KVM_REG_ARM_FW_FEAT_BMAP:
		return 0;
	case KVM_REG_ARM64_SYSREG:
		/* S3_*_C0_*_*: identification. */
		return (id & (KVM_REG_ARM64_SYSREG_OP0_MASK | KVM_REG_ARM64_SYSREG_CRN_MASK)) ==
				       3u << KVM_REG_ARM64_SYSREG_OP0_SHIFT ? 1 : 2;
	default:
		return 2;
	}
}

/*
 * A register that can't be written is right when it has the value: so are the SVE vector lengths,
 * which are fixed by now, and much of what identifies a CPU.
 */
static int restore_reg(struct vcpu *vcpu, uint64_t id, uint8_t value[REG_BYTES])
{
	struct kvm_one_reg reg = { .id = id, .addr = (uint64_t)(uintptr_t)value };
	int ret = kvm_ioctl_quiet(vcpu->fd, KVM_SET_ONE_REG, &reg);
	uint8_t now[REG_BYTES] = { 0 };
	uint64_t here, there;
	char name[REG_NAME];

	if (ret >= 0)
		return 0;
	reg.addr = (uint64_t)(uintptr_t)now;
	if (kvm_ioctl_quiet(vcpu->fd, KVM_GET_ONE_REG, &reg) >= 0 &&
	    !memcmp(now, value, KVM_REG_SIZE(id)))
		return 0;
	memcpy(&here, now, sizeof(here));
	memcpy(&there, value, sizeof(there));
	log_err("vCPU %u: register %s: KVM_SET_ONE_REG: %s: %#" PRIx64 " in the snapshot, %#" PRIx64
		" here: it is of another CPU model, or of another kernel's KVM", vcpu->id,
		reg_name(id, name, sizeof(name)), errno_name(ret), there, here);
	return ret;
}

static int restore_vcpu(struct vcpu *vcpu, const struct state_reader *r)
{
	uint8_t value[REG_BYTES] = { 0 };
	struct state_section s;
	struct vcpu_head head;
	uint64_t id;
	int ret;

	for (unsigned int class = 0; class < NR_CLASSES; class++) {
		ret = read_head(r, &s, vcpu->id, &head);
		for (uint32_t i = 0; !ret && i < head.nr_regs && read_reg(&s, &id, value); i++) {
			if (reg_class(id) != class)
				continue;
			ret = restore_reg(vcpu, id, value);
			if (id == KVM_REG_ARM_TIMER_CNT)
				memcpy(&vcpu->vm->arch->counter, value, sizeof(uint64_t));
		}
		if (!ret)
			ret = state_reader_section_end(&s);
		if (ret)
			return ret;
	}
	ret = kvm_ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &head.events);
	if (ret >= 0)
		ret = kvm_ioctl(vcpu->fd, KVM_SET_MP_STATE, &head.mp);
	return ret < 0 ? ret : 0;
}

int arch_restore(struct vm *vm, const struct state_reader *r)
{
	struct gic gic = gic_of(vm);
	int ret = gic_check(&gic, r);

	/* KVM is touched when all of this can be read. */
	for (unsigned int i = 0; i < vm->nr_vcpus && !ret; i++)
		ret = check_vcpu(&vm->vcpus[i], r);
	for (unsigned int i = 0; i < vm->nr_vcpus && !ret; i++)
		ret = restore_vcpu(&vm->vcpus[i], r);
	/* Before the devices, which set their lines. */
	if (!ret)
		ret = gic_restore(&gic, r);
	if (!ret)
		ret = platform_load(vm->arch->platform, r);
	if (!ret)
		ret = serial_load(vm->arch->serial, r);
	/* A guest that doesn't know the edge has not configured it: nothing is pending then. */
	if (!ret)
		ret = vmgenid_renew(vm);
	if (!ret)
		ret = irq_pulse(&vm->irqs, LAYOUT_VMGENID_SPI);
	/* Again, so that the time all this took is none for the guest. */
	return ret ? ret : vcpu_set_counter(&vm->vcpus[0], vm->arch->counter);
}
