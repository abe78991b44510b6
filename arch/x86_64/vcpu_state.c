/* SPDX-License-Identifier: MIT */
/*
 * Sources: Linux Documentation/virt/kvm/api.rst for the ioctls, Intel SDM volumes 3A (LAPIC) and 4
 * (MSRs), AMD APM volume 3 (CPUID).
 */
#include "arch/x86_64/vcpu_state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include "vm/kvm.h"
#include "vm/log.h"
#include "vm/state_reader.h"
#include "vm/state_writer.h"
#include "vm/vcpu.h"
#include "vm/vm.h"

#define MSR_TSC		 0x10
#define MSR_TSC_DEADLINE 0x6e0

/* Hyper-V's, which KVM lists whether or not the guest has that interface; ours never does. */
#define MSR_HYPERV	 0x40000000
#define MSR_HYPERV_END	 0x40000200

#define MSR_BATCH 128 /* KVM takes fewer than 256 a call */

/* As struct kvm_msrs, with its entries. */
struct msrs {
	uint32_t nr;
	uint32_t padding;
	struct kvm_msr_entry entry[MSR_BATCH];
};
_Static_assert(offsetof(struct msrs, entry) == sizeof(struct kvm_msrs), "layout of KVM_GET_MSRS");
_Static_assert(offsetof(struct vcpu_state_cpuid, entry) == sizeof(struct kvm_cpuid2),
	       "layout of KVM_GET_CPUID2");

/*
 * --- MSRs ----------------------------------------------------------------------------------------
 */

/*
 * Reads the @nr MSRs that @msr names. KVM stops at one that it refuses: that one is dropped, the
 * others keep their order. Returns how many are left, or -errno; logs.
 */
static int read_msrs(const struct vcpu *vcpu, struct kvm_msr_entry *msr, unsigned int nr)
{
	unsigned int at = 0, kept = 0;
	struct msrs batch = { 0 };
	int ret;

	while (at < nr) {
		batch.nr = nr - at < MSR_BATCH ? nr - at : MSR_BATCH;
		memcpy(batch.entry, msr + at, batch.nr * sizeof(*msr));
		ret = kvm_ioctl_named(vcpu->fd, KVM_GET_MSRS, "KVM_GET_MSRS", &batch);
		if (ret < 0)
			return ret;
		memcpy(msr + kept, batch.entry, (unsigned int)ret * sizeof(*msr));
		kept += (unsigned int)ret;
		at += (unsigned int)ret + ((unsigned int)ret < batch.nr);
	}
	return (int)kept;
}

/* Writes them all, or logs which one KVM refused and returns -EOPNOTSUPP. */
static int write_msrs(const struct vcpu *vcpu, const struct kvm_msr_entry *msr, unsigned int nr)
{
	struct msrs batch = { 0 };
	int ret;

	for (; nr; msr += batch.nr, nr -= batch.nr) {
		batch.nr = nr < MSR_BATCH ? nr : MSR_BATCH;
		memcpy(batch.entry, msr, batch.nr * sizeof(*msr));
		ret = kvm_ioctl_named(vcpu->fd, KVM_SET_MSRS, "KVM_SET_MSRS", &batch);
		if (ret < 0)
			return ret;
		if ((unsigned int)ret == batch.nr)
			continue;
		log_err("vCPU %u: MSR %#x: this host's KVM refuses the snapshot's value %#llx: restore "
			"on a host with the same CPU and a kernel that is no older", vcpu->id,
			msr[ret].index, msr[ret].data);
		return -EOPNOTSUPP;
	}
	return 0;
}

static void add_msr(struct vcpu_state *s, uint32_t index)
{
	if (index == MSR_TSC || index == MSR_TSC_DEADLINE ||
	    (index >= MSR_HYPERV && index < MSR_HYPERV_END))
		return;
	for (unsigned int i = 0; i < s->nr_msrs; i++) {
		if (s->msr[i].index == index)
			return;
	}
	if (s->nr_msrs < VCPU_STATE_MAX_MSRS)
		s->msr[s->nr_msrs++].index = index;
}

/* Those of KVM's list, and those that KVM has and keeps off it. */
static int list_msrs(const struct vcpu *vcpu, struct vcpu_state *s)
{
	static const struct {
		uint16_t first, nr;
	} unlisted[] = {
		{ 0x200, 16 },	/* MTRRs, variable: base and mask of 8 */
		{ 0x250, 1 },	/* MTRRs, fixed */
		{ 0x258, 2 },
		{ 0x268, 8 },
		{ 0x2ff, 1 },	/* MTRR default */
		{ 0x400, 128 }, /* machine-check banks: 4 each of 32 */
	};
	struct {
		uint32_t nr;
		uint32_t index[VCPU_STATE_MAX_MSRS];
	} list = { .nr = VCPU_STATE_MAX_MSRS };
	int ret;

	ret = kvm_ioctl_named(vcpu->vm->kvm->fd, KVM_GET_MSR_INDEX_LIST, "KVM_GET_MSR_INDEX_LIST",
			      &list);
	if (ret < 0)
		return ret;
	for (unsigned int i = 0; i < list.nr; i++)
		add_msr(s, list.index[i]);
	for (unsigned int i = 0; i < sizeof(unlisted) / sizeof(*unlisted); i++) {
		for (unsigned int j = 0; j < unlisted[i].nr; j++)
			add_msr(s, unlisted[i].first + j);
	}
	if (s->nr_msrs < VCPU_STATE_MAX_MSRS)
		return 0;
	log_err("vCPU %u: E2BIG: KVM has %u MSRs, a snapshot has room for fewer than %u", vcpu->id,
		list.nr, VCPU_STATE_MAX_MSRS);
	return -E2BIG;
}

static int get_msrs(const struct vcpu *vcpu, struct vcpu_state *s)
{
	struct kvm_msr_entry deadline = { .index = MSR_TSC_DEADLINE };
	int ret;

	ret = list_msrs(vcpu, s);
	if (ret < 0)
		return ret;
	ret = read_msrs(vcpu, s->msr, s->nr_msrs);
	if (ret < 0)
		return ret;
	s->nr_msrs = (unsigned int)ret;
	/* A vCPU that lacks it has no such timer, and 0 is one that isn't armed. */
	ret = read_msrs(vcpu, &deadline, 1);
	if (ret == 1)
		s->tsc_deadline = deadline.data;
	return ret < 0 ? ret : 0;
}

/*
 * Only what differs from a fresh vCPU is written: among the others are some that can't be. One that
 * this KVM doesn't know is as good as one of 0.
 */
static int put_msrs(const struct vcpu *vcpu, const struct vcpu_state *s)
{
	struct kvm_msr_entry *fresh = calloc(2 * VCPU_STATE_MAX_MSRS, sizeof(*fresh));
	struct kvm_msr_entry *differ = fresh + VCPU_STATE_MAX_MSRS;
	unsigned int nr = 0, at = 0;
	int ret;

	if (!fresh) {
		log_err("vCPU %u: MSRs: ENOMEM", vcpu->id);
		return -ENOMEM;
	}
	memcpy(fresh, s->msr, s->nr_msrs * sizeof(*fresh));
	ret = read_msrs(vcpu, fresh, s->nr_msrs);
	for (unsigned int i = 0; ret >= 0 && i < s->nr_msrs; i++) {
		bool known = at < (unsigned int)ret && fresh[at].index == s->msr[i].index;

		if (s->msr[i].data != (known ? fresh[at].data : 0))
			differ[nr++] = s->msr[i];
		at += known;
	}
	if (ret >= 0)
		ret = write_msrs(vcpu, differ, nr);
	free(fresh);
	return ret;
}

int vcpu_state_get_tsc(const struct vcpu *vcpu, uint64_t *tsc)
{
	struct kvm_msr_entry msr = { .index = MSR_TSC };
	int ret = read_msrs(vcpu, &msr, 1);

	if (ret == 0) {
		log_err("vCPU %u: KVM_GET_MSRS: the host's KVM does not tell the TSC", vcpu->id);
		ret = -EOPNOTSUPP;
	}
	*tsc = msr.data;
	return ret < 0 ? ret : 0;
}

int vcpu_state_set_tsc(const struct vcpu *vcpu, uint64_t tsc)
{
	return write_msrs(vcpu, &(struct kvm_msr_entry){ .index = MSR_TSC, .data = tsc }, 1);
}

int vcpu_state_set_deadline(const struct vcpu *vcpu, const struct vcpu_state *s)
{
	struct kvm_msr_entry msr = { .index = MSR_TSC_DEADLINE, .data = s->tsc_deadline };

	return msr.data ? write_msrs(vcpu, &msr, 1) : 0;
}

/*
 * --- CPUID ---------------------------------------------------------------------------------------
 */

static const struct kvm_cpuid_entry2 *leaf(const struct vcpu_state_cpuid *cpuid, uint32_t function,
					   uint32_t index)
{
	static const struct kvm_cpuid_entry2 none;

	for (uint32_t i = 0; i < cpuid->nr; i++) {
		if (cpuid->entry[i].function == function && cpuid->entry[i].index == index)
			return &cpuid->entry[i];
	}
	return &none;
}

enum { EAX, EBX, ECX, EDX };

static uint32_t reg_of(const struct kvm_cpuid_entry2 *e, unsigned int reg)
{
	const uint32_t regs[] = { e->eax, e->ebx, e->ecx, e->edx };

	return regs[reg];
}

/*
 * Registers of which each bit is a feature. @dynamic: bits that follow the guest's own doing, which
 * a fresh vCPU needn't have.
 */
static const struct {
	uint32_t function;
	uint8_t index;
	uint8_t reg;
	uint32_t dynamic;
} features[] = {
	{ 0x1, 0, ECX, 1u << 27 | 1u << 3 }, /* OSXSAVE, MONITOR */
	{ 0x1, 0, EDX, 1u << 9 },	     /* APIC */
	{ 0x7, 0, EBX, 0 },
	{ 0x7, 0, ECX, 1u << 4 }, /* OSPKE */
	{ 0x7, 0, EDX, 0 },
	{ 0x7, 1, EAX, 0 },
	{ 0x7, 1, EDX, 0 },
	{ 0x7, 2, EDX, 0 },
	{ 0xd, 0, EAX, 0 }, /* XCR0 */
	{ 0xd, 0, EDX, 0 },
	{ 0xd, 1, EAX, 0 },
	{ 0xd, 1, ECX, 0 },	   /* IA32_XSS */
	{ 0x40000001, 0, EAX, 0 }, /* KVM's own */
	{ 0x80000001, 0, ECX, 0 },
	{ 0x80000001, 0, EDX, 0 },
	{ 0x80000007, 0, EDX, 0 },
	{ 0x80000008, 0, EBX, 0 },
	{ 0x80000021, 0, EAX, 0 },
};

static int check_cpuid(const struct vcpu *vcpu, const struct vcpu_state *s,
		       const struct vcpu_state_cpuid *host)
{
	const struct kvm_cpuid_entry2 *a = leaf(&s->cpuid, 0, 0), *b = leaf(host, 0, 0);

	if (a->ebx != b->ebx || a->ecx != b->ecx || a->edx != b->edx) {
		log_err("vCPU %u: EOPNOTSUPP: CPUID leaf 0: the snapshot is of another vendor's CPU; "
			"restore it on a host with the same", vcpu->id);
		return -EOPNOTSUPP;
	}
	for (unsigned int i = 0; i < sizeof(features) / sizeof(*features); i++) {
		uint32_t function = features[i].function, index = features[i].index, lack;
		unsigned int reg = features[i].reg;

		lack = reg_of(leaf(&s->cpuid, function, index), reg) &
		       ~reg_of(leaf(host, function, index), reg) & ~features[i].dynamic;
		if (!lack)
			continue;
		log_err("vCPU %u: EOPNOTSUPP: CPUID leaf %#x, subleaf %u, e%cx: the snapshot's guest "
			"has the features %#x, which this host does not give; restore it on a host "
			"that does", vcpu->id, function, index, "abcd"[reg], lack);
		return -EOPNOTSUPP;
	}
	return 0;
}

static int get_cpuid(const struct vcpu *vcpu, struct vcpu_state_cpuid *cpuid)
{
	int ret;

	cpuid->nr = VCPU_STATE_MAX_CPUID;
	ret = kvm_ioctl_named(vcpu->fd, KVM_GET_CPUID2, "KVM_GET_CPUID2", cpuid);
	return ret < 0 ? ret : 0;
}

/* The guest keeps the CPUID that it has seen, in a host that can do as much and maybe more. */
static int put_cpuid(const struct vcpu *vcpu, const struct vcpu_state *s)
{
	struct vcpu_state_cpuid *cpuid = calloc(1, sizeof(*cpuid));
	int ret;

	if (!cpuid) {
		log_err("vCPU %u: CPUID: ENOMEM", vcpu->id);
		return -ENOMEM;
	}
	ret = get_cpuid(vcpu, cpuid);
	if (!ret)
		ret = check_cpuid(vcpu, s, cpuid);
	if (!ret) {
		*cpuid = s->cpuid;
		ret = kvm_ioctl_named(vcpu->fd, KVM_SET_CPUID2, "KVM_SET_CPUID2", cpuid);
	}
	free(cpuid);
	return ret < 0 ? ret : 0;
}

/*
 * --- all of a vCPU -------------------------------------------------------------------------------
 */

/* Bytes that KVM's XSAVE area has: those of struct kvm_xsave, and more where the CPU has AMX. */
static size_t xsave_size(const struct vcpu *vcpu)
{
	int size = kvm_has(vcpu->vm->fd, KVM_CAP_XSAVE2);

	return size > VCPU_STATE_MIN_XSAVE ? (size_t)size : VCPU_STATE_MIN_XSAVE;
}

static int get_xsave(const struct vcpu *vcpu, struct vcpu_state *s)
{
	_Static_assert(sizeof(struct kvm_xsave) == VCPU_STATE_MIN_XSAVE, "size of KVM_GET_XSAVE");

	s->xsave_len = xsave_size(vcpu);
	if (s->xsave_len > VCPU_STATE_MAX_XSAVE) {
		log_err("vCPU %u: E2BIG: XSAVE area of %zu bytes; a snapshot has room for %u",
			vcpu->id, s->xsave_len, VCPU_STATE_MAX_XSAVE);
		return -E2BIG;
	}
	if (s->xsave_len > VCPU_STATE_MIN_XSAVE)
		return kvm_ioctl_named(vcpu->fd, KVM_GET_XSAVE2, "KVM_GET_XSAVE2", s->xsave);
	return kvm_ioctl_named(vcpu->fd, KVM_GET_XSAVE, "KVM_GET_XSAVE", s->xsave);
}

int vcpu_state_get(const struct vcpu *vcpu, struct vcpu_state *s)
{
	int fd = vcpu->fd, ret;

	memset(s, 0, sizeof(*s));
	ret = kvm_ioctl_val(fd, KVM_GET_TSC_KHZ, 0);
	if (ret <= 0) {
		log_err("vCPU %u: a snapshot needs the frequency of its TSC: check that the host's KVM "
			"has KVM_CAP_GET_TSC_KHZ", vcpu->id);
		return ret < 0 ? ret : -EOPNOTSUPP;
	}
	s->tsc_khz = (uint32_t)ret;
	/* First: it takes a pending INIT or SIPI, which changes the rest. */
	ret = kvm_ioctl(fd, KVM_GET_MP_STATE, &s->mp_state);
	if (ret >= 0)
		ret = get_cpuid(vcpu, &s->cpuid);
	if (ret >= 0)
		ret = kvm_ioctl(fd, KVM_GET_REGS, &s->regs);
	if (ret >= 0)
		ret = kvm_ioctl(fd, KVM_GET_SREGS, &s->sregs);
	if (ret >= 0)
		ret = get_xsave(vcpu, s);
	if (ret >= 0)
		ret = kvm_ioctl(fd, KVM_GET_XCRS, &s->xcrs);
	if (ret >= 0)
		ret = kvm_ioctl(fd, KVM_GET_DEBUGREGS, &s->debugregs);
	if (ret >= 0)
		ret = get_msrs(vcpu, s);
	if (ret >= 0)
		ret = kvm_ioctl(fd, KVM_GET_LAPIC, &s->lapic);
	/* Last: the others may leave something pending. */
	if (ret >= 0)
		ret = kvm_ioctl(fd, KVM_GET_VCPU_EVENTS, &s->events);
	return ret < 0 ? ret : 0;
}

/*
 * The other frequency first: a TSC is set in its own ticks. Within 250 ppm KVM takes it on every
 * host; beyond, the CPU must be able to scale.
 */
static int put_khz(const struct vcpu *vcpu, uint32_t khz)
{
	int now = kvm_ioctl_val(vcpu->fd, KVM_GET_TSC_KHZ, 0), ret;

	if (now < 0 || (uint32_t)now == khz)
		return now < 0 ? now : 0;
	ret = kvm_ioctl_raw(vcpu->fd, KVM_SET_TSC_KHZ, (void *)(uintptr_t)khz);
	if (ret < 0)
		log_err("vCPU %u: KVM_SET_TSC_KHZ: %s: the snapshot's TSC runs at %" PRIu32 " kHz, this "
			"host's at %d, and it cannot scale", vcpu->id, errno_name(ret), khz, now);
	return ret < 0 ? ret : 0;
}

#define LAPIC_LVT_TIMER	  0x320
#define LAPIC_TMICT	  0x380
#define LAPIC_TMCCT	  0x390
#define LVT_TIMER_MODE	  (3u << 17) /* 0: one-shot */
#define LVT_MASKED	  (1u << 16)

static uint32_t lapic_reg(const struct kvm_lapic_state *lapic, unsigned int reg)
{
	uint32_t value;

	memcpy(&value, lapic->regs + reg, sizeof(value));
	return value;
}

/*
 * A one-shot timer that has expired while its vCPU stood still is pending in a place of KVM's that
 * no ioctl shows. In the registers it is one that is over: let it expire again. A tick too many is
 * nothing, one that is lost stops a CPU.
 */
static int put_lapic(const struct vcpu *vcpu, const struct vcpu_state *s)
{
	struct kvm_lapic_state lapic = s->lapic;
	uint32_t one = 1;
	int ret;

	if (!(lapic_reg(&lapic, LAPIC_LVT_TIMER) & (LVT_TIMER_MODE | LVT_MASKED)) &&
	    lapic_reg(&lapic, LAPIC_TMICT) && !lapic_reg(&lapic, LAPIC_TMCCT))
		memcpy(lapic.regs + LAPIC_TMCCT, &one, sizeof(one));
	ret = kvm_ioctl(vcpu->fd, KVM_SET_LAPIC, &lapic);
	return ret < 0 ? ret : 0;
}

/* KVM_SET_XSAVE reads as much as this host's area has: what the snapshot's lacks is zero. */
static int put_xsave(const struct vcpu *vcpu, struct vcpu_state *s)
{
	size_t size = xsave_size(vcpu);

	if (s->xsave_len > size || size > VCPU_STATE_MAX_XSAVE) {
		log_err("vCPU %u: EOPNOTSUPP: the snapshot's XSAVE area has %zu bytes, this host's %zu",
			vcpu->id, s->xsave_len, size);
		return -EOPNOTSUPP;
	}
	return kvm_ioctl_named(vcpu->fd, KVM_SET_XSAVE, "KVM_SET_XSAVE", s->xsave);
}

int vcpu_state_set(const struct vcpu *vcpu, struct vcpu_state *s)
{
	int fd = vcpu->fd, ret;

	ret = put_cpuid(vcpu, s);
	if (!ret)
		ret = put_khz(vcpu, s->tsc_khz);
	/* EFER and the APIC's base are in here. */
	if (!ret)
		ret = kvm_ioctl(fd, KVM_SET_SREGS, &s->sregs);
	/* A CPU without XSAVE has none, and setting none is an error. */
	if (ret >= 0 && s->xcrs.nr_xcrs)
		ret = kvm_ioctl(fd, KVM_SET_XCRS, &s->xcrs);
	if (ret >= 0)
		ret = put_xsave(vcpu, s);
	if (ret >= 0)
		ret = kvm_ioctl(fd, KVM_SET_DEBUGREGS, &s->debugregs);
	if (ret >= 0)
		ret = kvm_ioctl(fd, KVM_SET_REGS, &s->regs);
	if (ret >= 0)
		ret = put_lapic(vcpu, s);
	if (ret >= 0)
		ret = put_msrs(vcpu, s);
	if (ret >= 0)
		ret = kvm_ioctl(fd, KVM_SET_MP_STATE, &s->mp_state);
	/* KVM_SET_REGS has thrown away what was pending. */
	if (ret >= 0)
		ret = kvm_ioctl(fd, KVM_SET_VCPU_EVENTS, &s->events);
	return ret < 0 ? ret : 0;
}

/*
 * --- the section ---------------------------------------------------------------------------------
 */

#define PART(field) { offsetof(struct vcpu_state, field), sizeof(((struct vcpu_state *)0)->field) }

/* The kernel's structs, in the section's order. Their layout is the ABI, their size tells it. */
static const struct {
	uint32_t at, size;
} parts[] = {
	PART(mp_state), PART(regs), PART(sregs), PART(xcrs), PART(debugregs), PART(lapic), PART(events),
};

void vcpu_state_write(const struct vcpu_state *s, struct state_writer *w)
{
	state_writer_u32(w, s->tsc_khz);
	state_writer_u64(w, s->tsc);
	state_writer_u64(w, s->tsc_deadline);
	state_writer_u32(w, s->cpuid.nr);
	for (uint32_t i = 0; i < s->cpuid.nr; i++) {
		const struct kvm_cpuid_entry2 *e = &s->cpuid.entry[i];

		state_writer_u32(w, e->function);
		state_writer_u32(w, e->index);
		state_writer_u32(w, e->flags);
		for (unsigned int reg = EAX; reg <= EDX; reg++)
			state_writer_u32(w, reg_of(e, reg));
	}
	for (unsigned int i = 0; i < sizeof(parts) / sizeof(*parts); i++)
		state_writer_blob(w, (const uint8_t *)s + parts[i].at, parts[i].size);
	state_writer_blob(w, s->xsave, s->xsave_len);
	state_writer_u32(w, s->nr_msrs);
	for (unsigned int i = 0; i < s->nr_msrs; i++) {
		state_writer_u32(w, s->msr[i].index);
		state_writer_u64(w, s->msr[i].data);
	}
}

#define CPUID_BYTES 28 /* of an entry in the section */
#define MSR_BYTES   12

int vcpu_state_read(struct vcpu_state *s, struct state_section *section)
{
	const uint8_t *blob;
	size_t len;

	memset(s, 0, sizeof(*s));
	s->tsc_khz = state_reader_u32(section);
	s->tsc = state_reader_u64(section);
	s->tsc_deadline = state_reader_u64(section);
	s->cpuid.nr = state_reader_number(section, VCPU_STATE_MAX_CPUID, CPUID_BYTES);
	for (uint32_t i = 0; i < s->cpuid.nr; i++) {
		struct kvm_cpuid_entry2 *e = &s->cpuid.entry[i];

		e->function = state_reader_u32(section);
		e->index = state_reader_u32(section);
		e->flags = state_reader_u32(section);
		e->eax = state_reader_u32(section);
		e->ebx = state_reader_u32(section);
		e->ecx = state_reader_u32(section);
		e->edx = state_reader_u32(section);
	}
	for (unsigned int i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
		blob = state_reader_blob(section, parts[i].size, &len);
		if (section->err)
			return section->err;
		if (len != parts[i].size)
			return state_reader_bad(section, "part %u has %zu bytes, expected %" PRIu32, i,
						len, parts[i].size);
		memcpy((uint8_t *)s + parts[i].at, blob, len);
	}
	blob = state_reader_blob(section, VCPU_STATE_MAX_XSAVE, &s->xsave_len);
	if (blob)
		memcpy(s->xsave, blob, s->xsave_len);
	s->nr_msrs = state_reader_number(section, VCPU_STATE_MAX_MSRS, MSR_BYTES);
	for (unsigned int i = 0; i < s->nr_msrs; i++) {
		s->msr[i].index = state_reader_u32(section);
		s->msr[i].data = state_reader_u64(section);
	}
	if (!section->err && (s->xsave_len < VCPU_STATE_MIN_XSAVE || !s->tsc_khz))
		return state_reader_bad(section, "an XSAVE area of %zu bytes and a TSC of %" PRIu32
					" kHz, which cannot be", s->xsave_len, s->tsc_khz);
	return state_reader_section_end(section);
}
