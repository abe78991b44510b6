/* SPDX-License-Identifier: MIT */
/*
 * The architecture's sections of a snapshot: order, interrupt controllers, platform devices, and
 * the clocks, which go on by what the host's wall clock has. docs/snapshot.md draws the sections.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "arch/arch.h"
#include "arch/x86_64/layout.h"
#include "arch/x86_64/platform.h"
#include "arch/x86_64/vcpu_state.h"
#include "arch/x86_64/vm.h"
#include "vm/kvm.h"
#include "vm/log.h"
#include "vm/serial.h"
#include "vm/state_reader.h"
#include "vm/state_writer.h"
#include "vm/vcpu.h"
#include "vm/vm.h"

#define CHIPS_STATE	   STATE_TAG('C', 'H', 'I', 'P')
#define CHIPS_VERSION	   1
#define PLATFORM_STATE	   STATE_TAG('P', 'L', 'A', 'T')
#define PLATFORM_VERSION   1

#define NS_PER_S  1000000000ull
#define NS_PER_MS 1000000ull

static const uint32_t chip_ids[] = {
	KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC,
};
#define NR_CHIPS (sizeof(chip_ids) / sizeof(*chip_ids))

/* What KVM has once a VM. */
struct chips {
	struct kvm_irqchip chip[NR_CHIPS];
	struct kvm_pit_state2 pit;
	uint64_t kvmclock; /* ns */
	uint64_t realtime; /* the host's CLOCK_REALTIME then, ns */
};

unsigned int arch_state_wants(const struct vm_config *config, struct state_want *want)
{
	const struct state_want wants[] = {
		{ PLATFORM_STATE, 1, PLATFORM_VERSION, PLATFORM_VERSION },
		{ CHIPS_STATE, 1, CHIPS_VERSION, CHIPS_VERSION },
		{ VCPU_STATE, config->nr_vcpus, VCPU_STATE_VERSION, VCPU_STATE_VERSION },
		{ SERIAL_STATE, 1, SERIAL_STATE_VERSION, SERIAL_STATE_VERSION },
	};

	_Static_assert(sizeof(wants) / sizeof(*wants) <= ARCH_STATE_MAX, "room for the rows");
	memcpy(want, wants, sizeof(wants));
	return sizeof(wants) / sizeof(*wants);
}

/*
 * --- clocks --------------------------------------------------------------------------------------
 */

static uint64_t realtime_now(void)
{
	struct timespec now = { 0 };

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/* A host whose clock is behind the snapshot's: as if no time had gone by. */
static uint64_t elapsed_ns(const struct chips *c)
{
	uint64_t now = realtime_now();

	return now > c->realtime ? now - c->realtime : 0;
}

static uint64_t ticks(uint64_t ns, uint32_t khz)
{
	return ns / NS_PER_MS * khz + ns % NS_PER_MS * khz / NS_PER_MS;
}

static int get_clock(struct vm *vm, struct chips *c)
{
	struct kvm_clock_data data = { 0 };
	int ret = kvm_ioctl(vm->fd, KVM_GET_CLOCK, &data);

	if (ret < 0)
		return ret;
	c->kvmclock = data.clock;
	/* Linux 5.16 and up, with a stable TSC: both at one moment. */
	c->realtime = data.flags & KVM_CLOCK_REALTIME ? data.realtime : realtime_now();
	return 0;
}

static int set_clock(struct vm *vm, const struct chips *c)
{
	struct kvm_clock_data data = { .clock = c->kvmclock };
	int ret;

	if (kvm_has(vm->kvm->fd, KVM_CAP_ADJUST_CLOCK) & KVM_CLOCK_REALTIME) {
		data.flags = KVM_CLOCK_REALTIME;
		data.realtime = c->realtime;
	} else {
		data.clock += elapsed_ns(c);
	}
	ret = kvm_ioctl(vm->fd, KVM_SET_CLOCK, &data);
	return ret < 0 ? ret : 0;
}

/*
 * What KVM adds to the host's TSC. Linux 5.16 and up (virt/kvm/devices/vcpu.rst, 4.1); before, the
 * TSC is to be had by its MSR alone. -errno, and nothing is logged.
 */
static int tsc_offset(const struct vcpu *vcpu, unsigned long request, uint64_t *offset)
{
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (uintptr_t)offset,
	};
	int ret = kvm_ioctl_raw(vcpu->fd, request, &attr);

	return ret < 0 ? ret : 0;
}

/* The TSC of vCPU 0 and what tells those of the others. */
struct tsc {
	uint64_t value;
	uint64_t offset;
	bool exact; /* by offsets */
};

/*
 * TSCs are read one after the other, while they go on. So without offsets two that are less than a
 * second apart are taken for the same, as KVM does when they are written.
 */
static int get_tsc(const struct vcpu *vcpu, const struct tsc *first, struct vcpu_state *s)
{
	uint64_t offset, second = s->tsc_khz * 1000ull;
	int ret;

	s->tsc = first->value;
	if (first->exact) {
		ret = tsc_offset(vcpu, KVM_GET_DEVICE_ATTR, &offset);
		if (ret)
			log_err("vCPU %u: offset of the TSC: %s", vcpu->id, errno_name(ret));
		else
			s->tsc += offset - first->offset;
		return ret;
	}
	ret = vcpu_state_get_tsc(vcpu, &offset);
	if (!ret && offset - first->value + second > 2 * second)
		s->tsc = offset;
	return ret;
}

/*
 * All go on by as much, so that they stay as far apart as they were, which is not at all unless the
 * guest has seen to it. KVM takes a TSC that is written for "the same" when it is near enough, and
 * may keep what it had: where there are offsets they are put right afterwards.
 */
static int set_tscs(struct vm *vm, const struct vcpu_state *s, const struct chips *c)
{
	uint64_t offset, now;
	int ret = 0;

	for (unsigned int i = 0; i < vm->nr_vcpus && !ret; i++)
		ret = vcpu_state_set_tsc(&vm->vcpus[i],
					 s[i].tsc + ticks(elapsed_ns(c), s[i].tsc_khz));
	if (ret)
		return ret;
	if (!tsc_offset(&vm->vcpus[0], KVM_GET_DEVICE_ATTR, &offset)) {
		ret = vcpu_state_get_tsc(&vm->vcpus[0], &now);
		offset += s[0].tsc + ticks(elapsed_ns(c), s[0].tsc_khz) - now;
		for (unsigned int i = 0; i < vm->nr_vcpus && !ret; i++) {
			uint64_t own = offset + s[i].tsc - s[0].tsc;

			ret = tsc_offset(&vm->vcpus[i], KVM_SET_DEVICE_ATTR, &own);
			if (ret)
				log_err("vCPU %u: offset of the TSC: %s", i, errno_name(ret));
		}
	}
	for (unsigned int i = 0; i < vm->nr_vcpus && !ret; i++)
		ret = vcpu_state_set_deadline(&vm->vcpus[i], &s[i]);
	return ret;
}

/*
 * --- interrupt controllers, timer and clock: CHIP ------------------------------------------------
 */

static int get_chips(struct vm *vm, struct chips *c)
{
	int ret = 0;

	for (unsigned int i = 0; i < NR_CHIPS && ret >= 0; i++) {
		c->chip[i].chip_id = chip_ids[i];
		ret = kvm_ioctl(vm->fd, KVM_GET_IRQCHIP, &c->chip[i]);
	}
	if (ret >= 0)
		ret = kvm_ioctl(vm->fd, KVM_GET_PIT2, &c->pit);
	return ret < 0 ? ret : get_clock(vm, c);
}

static void write_chips(const struct chips *c, struct state_writer *w)
{
	state_writer_begin(w, CHIPS_STATE, 0, CHIPS_VERSION);
	for (unsigned int i = 0; i < NR_CHIPS; i++)
		state_writer_blob(w, &c->chip[i].chip, sizeof(c->chip[i].chip));
	state_writer_blob(w, &c->pit, sizeof(c->pit));
	state_writer_u64(w, c->kvmclock);
	state_writer_u64(w, c->realtime);
	state_writer_end(w);
}

static void read_part(struct state_section *s, void *part, size_t size)
{
	size_t len;
	const uint8_t *blob = state_reader_blob(s, size, &len);

	if (blob && len == size)
		memcpy(part, blob, size);
	else if (blob)
		state_reader_bad(s, "a part has %zu bytes, expected %zu", len, size);
}

static int read_chips(struct chips *c, const struct state_reader *r)
{
	struct state_section s;
	int ret = state_reader_section(r, &s, CHIPS_STATE, 0);

	if (ret)
		return ret;
	for (unsigned int i = 0; i < NR_CHIPS; i++) {
		c->chip[i].chip_id = chip_ids[i];
		read_part(&s, &c->chip[i].chip, sizeof(c->chip[i].chip));
	}
	read_part(&s, &c->pit, sizeof(c->pit));
	c->kvmclock = state_reader_u64(&s);
	c->realtime = state_reader_u64(&s);
	return state_reader_section_end(&s);
}

static int set_chips(struct vm *vm, struct chips *c)
{
	int ret = 0;

	for (unsigned int i = 0; i < NR_CHIPS && ret >= 0; i++)
		ret = kvm_ioctl(vm->fd, KVM_SET_IRQCHIP, &c->chip[i]);
	if (ret >= 0)
		ret = kvm_ioctl(vm->fd, KVM_SET_PIT2, &c->pit);
	return ret < 0 ? ret : set_clock(vm, c);
}

/*
 * --- platform devices: PLAT ----------------------------------------------------------------------
 */

static void write_platform(struct platform *platform, struct state_writer *w)
{
	struct platform_state p;

	platform_get(platform, &p);
	state_writer_begin(w, PLATFORM_STATE, 0, PLATFORM_VERSION);
	state_writer_u32(w, p.ged_events);
	state_writer_u8(w, p.cmos_index);
	state_writer_end(w);
}

static int read_platform(struct platform_state *p, const struct state_reader *r)
{
	struct state_section s;
	int ret = state_reader_section(r, &s, PLATFORM_STATE, 0);

	if (ret)
		return ret;
	p->ged_events = state_reader_u32(&s);
	p->cmos_index = state_reader_u8(&s);
	if (!s.err && (p->ged_events & ~(LAYOUT_GED_POWER | LAYOUT_GED_VMGENID)))
		return state_reader_bad(&s, "events %#" PRIx32 ", of which %#x are known",
					p->ged_events, LAYOUT_GED_POWER | LAYOUT_GED_VMGENID);
	if (!s.err && p->cmos_index > 0x7f)
		return state_reader_bad(&s, "index %#x into a CMOS of 0x80 bytes", p->cmos_index);
	return state_reader_section_end(&s);
}

/*
 * --- all of it -----------------------------------------------------------------------------------
 */

static int save_vcpus(struct vm *vm, struct vcpu_state *s, const struct tsc *tsc,
		      struct state_writer *w)
{
	for (unsigned int i = 0; i < vm->nr_vcpus; i++) {
		int ret = vcpu_state_get(&vm->vcpus[i], s);

		if (!ret)
			ret = get_tsc(&vm->vcpus[i], tsc, s);
		if (ret)
			return ret;
		state_writer_begin(w, VCPU_STATE, i, VCPU_STATE_VERSION);
		vcpu_state_write(s, w);
		state_writer_end(w);
	}
	return 0;
}

/*
 * An interrupt on its way goes from device to controller to vCPU: saved in this order it may be
 * seen twice, which is a spurious one, but not missed.
 */
void arch_save(struct vm *vm, struct state_writer *w)
{
	struct vcpu_state *s = malloc(sizeof(*s));
	struct chips *c = calloc(1, sizeof(*c));
	struct tsc tsc = { 0 };
	int ret = -ENOMEM;

	if (!s || !c) {
		log_err("snapshot: vCPUs: ENOMEM");
		goto out;
	}
	serial_save(vm->arch->serial, w);
	write_platform(vm->arch->platform, w);
	ret = get_chips(vm, c);
	/* At once after kvmclock and the host's clock. */
	if (!ret)
		ret = vcpu_state_get_tsc(&vm->vcpus[0], &tsc.value);
	if (ret)
		goto out;
	tsc.exact = !tsc_offset(&vm->vcpus[0], KVM_GET_DEVICE_ATTR, &tsc.offset);
	write_chips(c, w);
	ret = save_vcpus(vm, s, &tsc, w);
out:
	if (ret) {
		log_err("snapshot: the machine's state can't be had whole from this host's KVM: %s",
			errno_name(ret));
		state_writer_fail(w, ret);
	}
	free(c);
	free(s);
}

static int set_all(struct vm *vm, struct chips *c, struct vcpu_state *s)
{
	int ret;

	/*
	 * The clock before the vCPUs: their MSRs make KVM write it into the guest. The controllers
	 * too: they deliver at once what is pending in them, into local APICs that are replaced
	 * then.
	 */
	ret = set_chips(vm, c);
	for (unsigned int i = 0; i < vm->nr_vcpus && !ret; i++)
		ret = vcpu_state_set(&vm->vcpus[i], &s[i]);
	if (!ret)
		ret = set_tscs(vm, s, c);
	if (ret)
		log_err("snapshot: this host's KVM does not take the machine's state: %s",
			errno_name(ret));
	return ret;
}

int arch_restore(struct vm *vm, const struct state_reader *r)
{
	struct vcpu_state *s = calloc(vm->nr_vcpus, sizeof(*s));
	struct chips *c = calloc(1, sizeof(*c));
	struct platform_state p = { 0 };
	struct state_section section;
	int ret = -ENOMEM;

	if (!s || !c) {
		log_err("snapshot: %u vCPUs: ENOMEM", vm->nr_vcpus);
		goto out;
	}
	ret = read_platform(&p, r);
	if (!ret)
		ret = read_chips(c, r);
	for (unsigned int i = 0; i < vm->nr_vcpus && !ret; i++) {
		ret = state_reader_section(r, &section, VCPU_STATE, i);
		if (!ret)
			ret = vcpu_state_read(&s[i], &section);
	}
	if (!ret)
		ret = set_all(vm, c, s);
	if (ret)
		goto out;
	platform_set(vm->arch->platform, &p);
	ret = serial_load(vm->arch->serial, r);
	if (!ret)
		ret = platform_new_generation(vm->arch->platform);
	/* The pulse is also for an event whose own was on its way when the snapshot was taken. */
	if (!ret)
		platform_generation_event(vm->arch->platform);
out:
	free(c);
	free(s);
	return ret;
}
