/* SPDX-License-Identifier: MIT */
/* What a snapshot keeps of an x86_64 machine, over a KVM made of this file. */
#include "tests/unit/test.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "arch/arch.h"
#include "arch/x86_64/layout.h"
#include "arch/x86_64/platform.h"
#include "arch/x86_64/vcpu_state.h"
#include "arch/x86_64/vm.h"
#include "vm/crc32.h"
#include "vm/kvm.h"
#include "vm/log.h"
#include "vm/serial.h"
#include "vm/state_reader.h"
#include "vm/state_writer.h"
#include "vm/vcpu.h"
#include "vm/vm.h"

/*
 * --- KVM ---------------------------------------------------------------------------------------------
 */

#define NR_VCPUS 2
#define KVM_FD	 50
#define VM_FD	 100
#define VCPU_FD	 200
#define KHZ	 2000000u
#define NR_MSRS	 220
#define XSAVE	 5000 /* more than 4096: KVM_GET_XSAVE2 */

enum { TSC = 0x10, MISC = 0x1a0, DEADLINE = 0x6e0, STAR = 0xc0000081, SYSTEM_TIME = 0x4b564d01, HYPERV = 0x40000021 };

struct msr {
	uint32_t index;
	uint64_t value;
	bool unreadable, unwritable;
};

struct fake_vcpu {
	struct kvm_mp_state mp_state;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_xcrs xcrs;
	struct kvm_debugregs debugregs;
	struct kvm_lapic_state lapic;
	struct kvm_vcpu_events events;
	struct vcpu_state_cpuid cpuid;
	uint8_t xsave[XSAVE];
	struct msr msr[NR_MSRS];
	unsigned int nr_msrs;
	uint32_t khz;
	uint64_t offset; /* of the TSC */
};

static struct fake {
	struct fake_vcpu vcpu[NR_VCPUS];
	struct kvm_irqchip chip[3];
	struct kvm_pit_state2 pit;
	struct kvm_clock_data clock;
	struct platform_state platform;
	unsigned int generations, events, loads;
	int adjust_clock;     /* KVM_CAP_ADJUST_CLOCK */
	bool no_offsets;      /* before Linux 5.16 */
	unsigned int xsave_size;
	uint32_t list[NR_MSRS]; /* KVM_GET_MSR_INDEX_LIST */
	unsigned int nr_list;
	unsigned long fail;   /* the request that fails with ENOTTY */
	unsigned int sets;
	uint64_t host_tsc, realtime; /* ns */
	uint64_t step;	      /* ns that go by with each look at a clock */
	char calls[16384];
} f;

int __wrap_clock_gettime(clockid_t id, struct timespec *t)
{
	(void)id;
	f.realtime += f.step;
	f.host_tsc += f.step * KHZ / 1000000;
	t->tv_sec = (time_t)(f.realtime / 1000000000);
	t->tv_nsec = (long)(f.realtime % 1000000000);
	return 0;
}

static void note(const char *name, unsigned int vcpu)
{
	size_t len = strlen(f.calls);

	snprintf(f.calls + len, sizeof(f.calls) - len, "%s.%u ", name, vcpu);
}

/* Where in the order a call comes; 0: it doesn't. */
static size_t when(const char *name)
{
	const char *at = strstr(f.calls, name);

	return at ? (size_t)(at - f.calls) + 1 : 0;
}

static struct msr *msr_of(struct fake_vcpu *c, uint32_t index)
{
	for (unsigned int i = 0; i < c->nr_msrs; i++) {
		if (c->msr[i].index == index)
			return &c->msr[i];
	}
	return NULL;
}

struct fake_msrs {
	uint32_t nr, padding;
	struct kvm_msr_entry entry[];
};

static int msrs(unsigned int id, struct fake_msrs *m, bool set)
{
	struct fake_vcpu *c = &f.vcpu[id];

	CHECK(m->nr && m->nr < 256);
	for (uint32_t i = 0; i < m->nr; i++) {
		struct msr *msr = msr_of(c, m->entry[i].index);

		if (m->entry[i].index == TSC) {
			if (set) {
				note("TSC", id);
				c->offset = m->entry[i].data - f.host_tsc;
			}
			f.host_tsc += 1000;
			m->entry[i].data = c->offset + f.host_tsc;
			continue;
		}
		if (!msr || (set ? msr->unwritable : msr->unreadable))
			return (int)i;
		if (set) {
			char name[16];

			snprintf(name, sizeof(name), "MSR%x", msr->index);
			note(name, id);
			msr->value = m->entry[i].data;
		}
		m->entry[i].data = msr->value;
	}
	return (int)m->nr;
}

static int offset(unsigned int id, const struct kvm_device_attr *attr, bool set)
{
	uint64_t *value = (uint64_t *)(uintptr_t)attr->addr;

	if (f.no_offsets)
		return -ENXIO;
	CHECK(attr->group == KVM_VCPU_TSC_CTRL && attr->attr == KVM_VCPU_TSC_OFFSET);
	if (set) {
		note("OFFSET", id);
		f.vcpu[id].offset = *value;
	} else {
		*value = f.vcpu[id].offset;
	}
	return 0;
}

#define GET_SET(what, field)                                                                                           \
	case KVM_GET_##what:                                                                                           \
		memcpy(arg, &c->field, sizeof(c->field));                                                              \
		return 0;                                                                                              \
	case KVM_SET_##what:                                                                                           \
		note(#what, id);                                                                                       \
		memcpy(&c->field, arg, sizeof(c->field));                                                              \
		return 0

static int vcpu_ioctl(unsigned int id, unsigned long request, void *arg)
{
	struct fake_vcpu *c = &f.vcpu[id];
	struct vcpu_state_cpuid *cpuid = arg;

	switch (request) {
	GET_SET(MP_STATE, mp_state);
	GET_SET(REGS, regs);
	GET_SET(SREGS, sregs);
	GET_SET(XCRS, xcrs);
	GET_SET(DEBUGREGS, debugregs);
	GET_SET(LAPIC, lapic);
	GET_SET(VCPU_EVENTS, events);
	case KVM_GET_XSAVE:
		CHECK(f.xsave_size <= 4096);
		memcpy(arg, c->xsave, 4096);
		return 0;
	case KVM_GET_XSAVE2:
		memcpy(arg, c->xsave, f.xsave_size);
		return 0;
	case KVM_SET_XSAVE:
		note("XSAVE", id);
		memcpy(c->xsave, arg, f.xsave_size);
		return 0;
	case KVM_GET_CPUID2:
		CHECK(cpuid->nr >= c->cpuid.nr);
		memcpy(cpuid, &c->cpuid, 8 + c->cpuid.nr * sizeof(*cpuid->entry));
		return 0;
	case KVM_SET_CPUID2:
		note("CPUID2", id);
		memcpy(&c->cpuid, cpuid, 8 + cpuid->nr * sizeof(*cpuid->entry));
		return 0;
	case KVM_GET_MSRS:
		return msrs(id, arg, false);
	case KVM_SET_MSRS:
		return msrs(id, arg, true);
	case KVM_GET_TSC_KHZ:
		return (int)c->khz;
	case KVM_SET_TSC_KHZ:
		note("KHZ", id);
		c->khz = (uint32_t)(uintptr_t)arg;
		return 0;
	case KVM_GET_DEVICE_ATTR:
		return offset(id, arg, false);
	case KVM_SET_DEVICE_ATTR:
		return offset(id, arg, true);
	}
	CHECK(!"a known request");
	return -ENOTTY;
}

static int vm_ioctl(unsigned long request, void *arg)
{
	struct kvm_irqchip *chip = arg;
	struct kvm_clock_data *clock = arg;

	switch (request) {
	case KVM_GET_IRQCHIP:
		CHECK(chip->chip_id < 3);
		*chip = f.chip[chip->chip_id];
		return 0;
	case KVM_SET_IRQCHIP:
		CHECK(chip->chip_id < 3);
		note("IRQCHIP", chip->chip_id);
		f.chip[chip->chip_id] = *chip;
		return 0;
	case KVM_GET_PIT2:
		memcpy(arg, &f.pit, sizeof(f.pit));
		return 0;
	case KVM_SET_PIT2:
		note("PIT2", 0);
		memcpy(&f.pit, arg, sizeof(f.pit));
		return 0;
	case KVM_GET_CLOCK:
		*clock = f.clock;
		return 0;
	case KVM_SET_CLOCK:
		note("CLOCK", 0);
		f.clock = *clock;
		return 0;
	}
	CHECK(!"a known request");
	return -ENOTTY;
}

int kvm_ioctl_raw(int fd, unsigned long request, void *arg)
{
	if (request == f.fail)
		return -ENOTTY;
	if (_IOC_DIR(request) == _IOC_WRITE && request != KVM_GET_MSR_INDEX_LIST && request != KVM_GET_DEVICE_ATTR)
		f.sets++;
	if (fd == VM_FD)
		return vm_ioctl(request, arg);
	if (fd >= VCPU_FD && fd < VCPU_FD + NR_VCPUS)
		return vcpu_ioctl((unsigned int)(fd - VCPU_FD), request, arg);
	CHECK_EQ(fd, KVM_FD);
	CHECK_EQ(request, KVM_GET_MSR_INDEX_LIST);
	struct kvm_msr_list *list = arg;

	CHECK(list->nmsrs >= f.nr_list);
	list->nmsrs = f.nr_list;
	memcpy(list->indices, f.list, f.nr_list * sizeof(*f.list));
	return 0;
}

int kvm_ioctl_named(int fd, unsigned long request, const char *name, void *arg)
{
	int ret = kvm_ioctl_raw(fd, request, arg);

	if (ret < 0)
		log_err("%s: %s", name, errno_name(ret));
	return ret;
}

int kvm_has(int fd, int cap)
{
	if (cap == KVM_CAP_ADJUST_CLOCK)
		return f.adjust_clock;
	CHECK_EQ(cap, KVM_CAP_XSAVE2);
	CHECK_EQ(fd, VM_FD); /* of the VM it tells how much */
	return f.xsave_size > 4096 ? (int)f.xsave_size : 0;
}

/*
 * --- the other devices ----------------------------------------------------------------------------------
 */

void platform_get(struct platform *platform, struct platform_state *state)
{
	(void)platform;
	*state = f.platform;
}

void platform_set(struct platform *platform, const struct platform_state *state)
{
	(void)platform;
	note("PLATFORM", 0);
	f.platform = *state;
}

int platform_new_generation(struct platform *platform)
{
	(void)platform;
	CHECK_EQ(f.events, f.generations);
	f.generations++;
	return 0;
}

void platform_generation_event(struct platform *platform)
{
	(void)platform;
	note("EVENT", 0);
	f.events++;
}

void serial_save(struct serial *serial, struct state_writer *w)
{
	(void)serial;
	state_writer_begin(w, SERIAL_STATE, 0, SERIAL_STATE_VERSION);
	state_writer_u8(w, 1);
	state_writer_end(w);
}

int serial_load(struct serial *serial, const struct state_reader *r)
{
	struct state_section s;
	int ret = state_reader_section(r, &s, SERIAL_STATE, 0);

	(void)serial;
	note("SERIAL", 0);
	f.loads++;
	if (ret)
		return ret;
	state_reader_u8(&s);
	return state_reader_section_end(&s);
}

/*
 * --- the machine ------------------------------------------------------------------------------------------
 */

static struct kvm kvm = { .fd = KVM_FD };
static struct vcpu vcpus[NR_VCPUS];
static struct arch_vm arch;
static struct vm vm;
static int log_fd;

static const char *logged(void)
{
	static char text[4096];
	ssize_t n = pread(log_fd, text, sizeof(text) - 1, 0);

	text[n > 0 ? n : 0] = '\0';
	if (ftruncate(log_fd, 0))
		abort();
	lseek(log_fd, 0, SEEK_SET);
	return text;
}

static void add_cpuid(struct fake_vcpu *c, uint32_t function, uint32_t index, uint32_t eax, uint32_t ebx, uint32_t ecx,
		      uint32_t edx)
{
	c->cpuid.entry[c->cpuid.nr++] = (struct kvm_cpuid_entry2){
		.function = function, .index = index, .eax = eax, .ebx = ebx, .ecx = ecx, .edx = edx
	};
}

static void add_msr(struct fake_vcpu *c, uint32_t index, uint64_t value)
{
	c->msr[c->nr_msrs++] = (struct msr){ .index = index, .value = value };
}

/* A host, with vCPUs as arch_vcpu_init() leaves them. */
static void fresh(void)
{
	static const uint32_t list[] = { TSC, STAR, DEADLINE, HYPERV, 0x777, MISC, SYSTEM_TIME };

	memset(&f, 0, sizeof(f));
	f.adjust_clock = KVM_CLOCK_REALTIME | KVM_CLOCK_TSC_STABLE;
	f.xsave_size = XSAVE;
	f.host_tsc = 123456789;
	f.realtime = 1700000000000000000ull;
	memcpy(f.list, list, sizeof(list));
	f.nr_list = sizeof(list) / sizeof(*list);
	for (unsigned int i = 0; i < 3; i++)
		f.chip[i].chip_id = i;
	for (unsigned int i = 0; i < NR_VCPUS; i++) {
		struct fake_vcpu *c = &f.vcpu[i];

		c->khz = KHZ;
		add_cpuid(c, 0, 0, 0xd, 0x756e6547, 0x6c65746e, 0x49656e69);
		add_cpuid(c, 1, 0, 0x600, i << 24, 0x80000007, 0x00000201);
		add_cpuid(c, 7, 0, 0, 0x21, 0, 0);
		add_msr(c, STAR, 0);
		add_msr(c, DEADLINE, 0);
		add_msr(c, MISC, 1);
		add_msr(c, SYSTEM_TIME, 0);
		add_msr(c, 0x2ff, 0xc06);
		add_msr(c, 0x401, 0);
		add_msr(c, HYPERV, 7);
		msr_of(c, HYPERV)->unwritable = true;
		vcpus[i] = (struct vcpu){ .vm = &vm, .id = i, .fd = VCPU_FD + (int)i };
	}
	vm.kvm = &kvm;
	vm.fd = VM_FD;
	vm.vcpus = vcpus;
	vm.nr_vcpus = vm.config.nr_vcpus = NR_VCPUS;
	vm.arch = &arch;
	logged();
}

static void scribble(void *p, size_t len, uint8_t seed)
{
	for (size_t i = 0; i < len; i++)
		((uint8_t *)p)[i] = (uint8_t)(seed + i * 7);
}

/* One whose guest has run. */
static void used(void)
{
	fresh();
	for (unsigned int i = 0; i < 3; i++)
		scribble(&f.chip[i].chip, sizeof(f.chip[i].chip), (uint8_t)(100 + i));
	scribble(&f.pit, sizeof(f.pit), 90);
	f.clock = (struct kvm_clock_data){ .clock = 5000000000, .flags = KVM_CLOCK_REALTIME, .realtime = f.realtime };
	f.platform = (struct platform_state){ .ged_events = LAYOUT_GED_POWER, .cmos_index = 0x32 };
	for (unsigned int i = 0; i < NR_VCPUS; i++) {
		struct fake_vcpu *c = &f.vcpu[i];

		scribble(&c->mp_state, sizeof(c->mp_state), (uint8_t)(i + 1));
		scribble(&c->regs, sizeof(c->regs), (uint8_t)(i + 2));
		scribble(&c->sregs, sizeof(c->sregs), (uint8_t)(i + 3));
		scribble(&c->xcrs, sizeof(c->xcrs), (uint8_t)(i + 4));
		scribble(&c->debugregs, sizeof(c->debugregs), (uint8_t)(i + 5));
		scribble(&c->lapic, sizeof(c->lapic), (uint8_t)(i + 6));
		scribble(&c->events, sizeof(c->events), (uint8_t)(i + 7));
		scribble(c->xsave, sizeof(c->xsave), (uint8_t)(i + 8));
		c->cpuid.entry[1].ecx |= 1u << 27; /* OSXSAVE, by CR4 */
		msr_of(c, STAR)->value = 0x23001000000000 + i;
		msr_of(c, DEADLINE)->value = 777777 + i;
		msr_of(c, SYSTEM_TIME)->value = 0x1000001 + i;
		msr_of(c, 0x2ff)->value = 0xc00;
		msr_of(c, 0x401)->value = 0x1234;
		c->offset = 999;
	}
}

struct file {
	uint8_t *buf;
	size_t len;
};

/* As state_writer_save() ends it. */
static struct file seal(struct state_writer *w)
{
	struct file file = { malloc(w->len + 8), w->len + 8 };

	if (!file.buf)
		abort();
	memcpy(file.buf, w->buf, w->len);
	state_file_store(file.buf + w->len, STATE_TAG_END, 4);
	state_file_store(file.buf + STATE_FILE_AT_SECTIONS, w->nr, 4);
	state_file_store(file.buf + STATE_FILE_AT_LENGTH, file.len, 8);
	state_file_store(file.buf + w->len + 4, crc32(0, file.buf, w->len + 4), 4);
	return file;
}

static struct file save(void)
{
	struct state_writer w;
	struct file file;

	state_writer_init(&w, arch_name);
	arch_save(&vm, &w);
	CHECK_EQ(w.err, 0);
	CHECK_STR(logged(), "");
	file = seal(&w);
	state_writer_fini(&w);
	return file;
}

static int load(const struct file *file)
{
	struct state_want want[ARCH_STATE_MAX];
	struct state_reader r;
	int ret;

	ret = state_reader_open_memory(&r, "snap", file->buf, file->len, arch_name);
	CHECK_EQ(ret, 0);
	if (ret)
		return ret;
	ret = state_reader_expect(&r, want, arch_state_wants(&vm.config, want));
	CHECK_EQ(ret, 0);
	f.sets = 0;
	f.calls[0] = '\0';
	ret = arch_restore(&vm, &r);
	if (!ret)
		CHECK_EQ(state_reader_end(&r), 0);
	state_reader_close(&r);
	return ret;
}

/* Saves @f as it is, and restores into another host. */
static struct fake saved;

static int move(void)
{
	struct file file = save();
	int ret;

	saved = f;
	fresh();
	f.realtime = saved.realtime;
	ret = load(&file);
	free(file.buf);
	return ret;
}

/*
 * --- cases ------------------------------------------------------------------------------------------------
 */

static void round_trip(void)
{
	used();
	CHECK_EQ(move(), 0);
	CHECK_STR(logged(), "");
	CHECK(!memcmp(f.chip, saved.chip, sizeof(f.chip)));
	CHECK(!memcmp(&f.pit, &saved.pit, sizeof(f.pit)));
	CHECK(f.platform.ged_events == LAYOUT_GED_POWER && f.platform.cmos_index == 0x32);
	CHECK(f.generations == 1 && f.events == 1 && f.loads == 1);
	for (unsigned int i = 0; i < NR_VCPUS; i++) {
		const struct fake_vcpu *a = &f.vcpu[i], *b = &saved.vcpu[i];

		CHECK(!memcmp(&a->mp_state, &b->mp_state, sizeof(a->mp_state)));
		CHECK(!memcmp(&a->regs, &b->regs, sizeof(a->regs)));
		CHECK(!memcmp(&a->sregs, &b->sregs, sizeof(a->sregs)));
		CHECK(!memcmp(&a->xcrs, &b->xcrs, sizeof(a->xcrs)));
		CHECK(!memcmp(&a->debugregs, &b->debugregs, sizeof(a->debugregs)));
		CHECK(!memcmp(&a->lapic, &b->lapic, sizeof(a->lapic)));
		CHECK(!memcmp(&a->events, &b->events, sizeof(a->events)));
		CHECK(!memcmp(a->xsave, b->xsave, XSAVE));
		CHECK(!memcmp(&a->cpuid, &b->cpuid, sizeof(a->cpuid)));
		for (unsigned int j = 0; j < a->nr_msrs; j++)
			CHECK_EQ(a->msr[j].value, b->msr[j].value);
	}
	/* Only what differs is written, and nothing of Hyper-V's. */
	CHECK(when("MSRc0000081.1") && when("MSR2ff.1") && when("MSR401.1") && when("MSR4b564d01.1"));
	CHECK(!when("MSR1a0") && !when("MSR40000021"));
}

static void order(void)
{
	used();
	CHECK_EQ(move(), 0);
	CHECK(when("IRQCHIP.2") < when("LAPIC.0"));
	CHECK(when("CLOCK.0") < when("MSR4b564d01.0"));
	CHECK(when("CPUID2.1") < when("SREGS.1"));
	CHECK(when("SREGS.1") < when("XCRS.1"));
	CHECK(when("XCRS.1") < when("XSAVE.1"));
	CHECK(when("SREGS.1") < when("LAPIC.1"));
	CHECK(when(" REGS.1") < when("VCPU_EVENTS.1"));
	CHECK(when("MP_STATE.1") < when("VCPU_EVENTS.1"));
	CHECK(when("LAPIC.1") < when("MSR6e0.1"));
	CHECK(when("TSC.1") < when("MSR6e0.0"));
	CHECK(when("OFFSET.1") < when("MSR6e0.0"));
	CHECK(when("LAPIC.1") < when("SERIAL.0"));
	CHECK(when("PLATFORM.0") < when("EVENT.0"));
	CHECK(when("EVENT.0") && when("MSR6e0.0") && when("TSC.1") && when("XSAVE.1"));
}

static uint64_t tsc(const struct fake *host, unsigned int i)
{
	return host->vcpu[i].offset + host->host_tsc;
}

/* 100 seconds go by between the two. KVM adds them by itself, or has to be helped. */
static void clocks(bool kvm_adds, bool offsets, int seconds)
{
	uint64_t gone = seconds > 0 ? (uint64_t)seconds : 0;
	struct file file;

	used();
	f.no_offsets = !offsets;
	if (!kvm_adds)
		f.clock.flags = 0;
	f.vcpu[1].offset += offsets ? 55 : 0; /* the guest's own doing */
	file = save();
	saved = f;
	fresh();
	f.no_offsets = !offsets;
	if (!kvm_adds)
		f.adjust_clock = 0;
	f.realtime = saved.realtime + (uint64_t)(seconds * 1000000000ll);
	f.step = 1000;
	CHECK_EQ(load(&file), 0);
	if (kvm_adds) {
		CHECK_EQ(f.clock.clock, 5000000000);
		CHECK_EQ(f.clock.flags, KVM_CLOCK_REALTIME);
		CHECK_EQ(f.clock.realtime, saved.clock.realtime);
	} else {
		CHECK_EQ(f.clock.flags, 0);
		CHECK((f.clock.clock - (5000000000 + gone * 1000000000)) < 1000000);
	}
	/* Some reads and writes later: a moment more, but not less. */
	CHECK(tsc(&f, 0) - (tsc(&saved, 0) + gone * KHZ * 1000) < KHZ);
	if (offsets)
		CHECK_EQ(f.vcpu[1].offset - f.vcpu[0].offset, 55);
	else /* KVM makes them the same */
		CHECK(f.vcpu[1].offset - f.vcpu[0].offset + KHZ < 2 * KHZ);
	free(file.buf);
}

static void clocks_go_on(void)
{
	for (unsigned int i = 0; i < 4; i++) {
		clocks(i & 1, i & 2, 100);
		clocks(i & 1, i & 2, -100); /* the host's clock was set back */
	}
}

/* Without offsets: readings of one TSC, or a guest that keeps its TSCs minutes apart. */
static void tscs_apart(void)
{
	used();
	f.no_offsets = true;
	f.vcpu[1].offset += 60ull * KHZ * 1000;
	CHECK_EQ(move(), 0);
	CHECK(f.vcpu[1].offset - f.vcpu[0].offset - 60ull * KHZ * 1000 + KHZ < 2 * KHZ);
	used();
	f.no_offsets = true;
	f.vcpu[1].offset -= 60ull * KHZ * 1000;
	CHECK_EQ(move(), 0);
	CHECK(f.vcpu[0].offset - f.vcpu[1].offset - 60ull * KHZ * 1000 + KHZ < 2 * KHZ);
}

static void frequency(void)
{
	struct file file;

	used();
	file = save();
	fresh();
	f.vcpu[0].khz = f.vcpu[1].khz = KHZ + 5;
	CHECK_EQ(load(&file), 0);
	CHECK(f.vcpu[1].khz == KHZ && when("KHZ.1") < when("TSC.1"));
	fresh();
	f.vcpu[0].khz = KHZ * 2;
	f.fail = KVM_SET_TSC_KHZ;
	CHECK_EQ(load(&file), -ENOTTY);
	CHECK(strstr(logged(), "the snapshot's TSC runs at 2000000 kHz, this host's at 4000000"));
	free(file.buf);
}

static void refused_msrs(void)
{
	struct file file;

	used();
	msr_of(&f.vcpu[0], STAR)->unreadable = true; /* and what follows it is read all the same */
	file = save();
	fresh();
	CHECK_EQ(load(&file), 0);
	CHECK(!when("MSRc0000081.0") && when("MSRc0000081.1") && when("MSR4b564d01.0"));
	free(file.buf);

	used();
	file = save();
	fresh();
	msr_of(&f.vcpu[1], STAR)->unwritable = true;
	CHECK_EQ(load(&file), -EOPNOTSUPP);
	CHECK(strstr(logged(), "vCPU 1: MSR 0xc0000081: this host's KVM refuses the snapshot's value 0x23001000000001"));
	/* One that has the value anyhow need not be written. */
	fresh();
	msr_of(&f.vcpu[1], STAR)->unwritable = true;
	msr_of(&f.vcpu[1], STAR)->value = 0x23001000000001;
	CHECK_EQ(load(&file), 0);
	/* One that this KVM doesn't know must be 0. */
	fresh();
	msr_of(&f.vcpu[0], 0x2ff)->index = 0x999;
	CHECK_EQ(load(&file), -EOPNOTSUPP);
	CHECK(strstr(logged(), "vCPU 0: MSR 0x2ff:"));
	free(file.buf);
	used();
	msr_of(&f.vcpu[0], 0x2ff)->value = 0;
	file = save();
	fresh();
	msr_of(&f.vcpu[0], 0x2ff)->index = 0x999;
	CHECK_EQ(load(&file), 0);
	free(file.buf);
}

/* More than go into a call. */
static void many_msrs(void)
{
	used();
	for (unsigned int n = 0; n < 200; n++) {
		f.list[f.nr_list++] = 0x1000 + n;
		for (unsigned int i = 0; i < NR_VCPUS; i++)
			add_msr(&f.vcpu[i], 0x1000 + n, n + 1);
	}
	struct file file = save();

	fresh();
	for (unsigned int n = 0; n < 200; n++)
		add_msr(&f.vcpu[0], 0x1000 + n, 0);
	/* vCPU 1 has them already, and they can't be written. */
	for (unsigned int n = 0; n < 200; n++) {
		add_msr(&f.vcpu[1], 0x1000 + n, n + 1);
		msr_of(&f.vcpu[1], 0x1000 + n)->unwritable = true;
	}
	CHECK_EQ(load(&file), 0);
	for (unsigned int n = 0; n < 200; n++)
		CHECK_EQ(msr_of(&f.vcpu[0], 0x1000 + n)->value, n + 1);
	free(file.buf);
	/* Nor does one in between that this KVM lacks make the others look different. */
	used();
	msr_of(&f.vcpu[0], STAR)->value = 0;
	msr_of(&f.vcpu[0], MISC)->value = 1;
	file = save();
	fresh();
	msr_of(&f.vcpu[0], STAR)->index = 0x999;
	msr_of(&f.vcpu[0], MISC)->unwritable = true;
	CHECK_EQ(load(&file), 0);
	free(file.buf);
}

static void cpuid(void)
{
	struct file file;

	used();
	file = save();
	fresh();
	f.vcpu[1].cpuid.entry[2].ebx |= 0x100; /* a host that can do more */
	CHECK_EQ(load(&file), 0);
	CHECK_EQ(f.vcpu[1].cpuid.entry[2].ebx, 0x21);
	fresh();
	f.vcpu[1].cpuid.entry[2].ebx = 1;
	CHECK_EQ(load(&file), -EOPNOTSUPP);
	CHECK(strstr(logged(), "CPUID leaf 0x7, subleaf 0, ebx: the snapshot's guest has the features 0x20,"));
	CHECK(!when("SREGS.1"));
	fresh();
	f.vcpu[0].cpuid.nr = 2; /* no leaf 7 */
	CHECK_EQ(load(&file), -EOPNOTSUPP);
	fresh();
	f.vcpu[0].cpuid.entry[0].ecx ^= 1;
	CHECK_EQ(load(&file), -EOPNOTSUPP);
	CHECK(strstr(logged(), "another vendor's CPU"));
	CHECK(!when("CPUID2.0"));
	free(file.buf);
}

static void xsave(void)
{
	struct file file;

	used();
	file = save();
	fresh();
	f.xsave_size = 4096;
	CHECK_EQ(load(&file), -EOPNOTSUPP);
	CHECK(strstr(logged(), "XSAVE area has 5000 bytes, this host's 4096"));
	free(file.buf);
	used();
	f.xsave_size = 4096;
	file = save();
	fresh();
	memset(f.vcpu[0].xsave, 1, XSAVE);
	CHECK_EQ(load(&file), 0);
	CHECK(f.vcpu[0].xsave[1] == 15 && f.vcpu[0].xsave[4095] == (uint8_t)(8 + 4095 * 7) && !f.vcpu[0].xsave[4096]);
	free(file.buf);
}

/* Before XSAVE: KVM_GET_XCRS gives none, KVM_SET_XCRS refuses to set none. */
static void no_xcrs(void)
{
	used();
	for (unsigned int i = 0; i < NR_VCPUS; i++)
		memset(&f.vcpu[i].xcrs, 0, sizeof(f.vcpu[i].xcrs));
	CHECK_EQ(move(), 0);
	CHECK(!when("XCRS.0") && when("XSAVE.0"));
}

static uint32_t lapic(uint32_t lvt, uint32_t initial, uint32_t now)
{
	uint32_t value;

	used();
	memcpy(f.vcpu[0].lapic.regs + 0x320, &lvt, 4);
	memcpy(f.vcpu[0].lapic.regs + 0x380, &initial, 4);
	memcpy(f.vcpu[0].lapic.regs + 0x390, &now, 4);
	CHECK_EQ(move(), 0);
	memcpy(&value, f.vcpu[0].lapic.regs + 0x390, 4);
	return value;
}

static void one_shot_timer(void)
{
	CHECK_EQ(lapic(0x000ef, 1000, 0), 1);
	CHECK_EQ(lapic(0x000ef, 1000, 400), 400);
	CHECK_EQ(lapic(0x000ef, 0, 0), 0);
	CHECK_EQ(lapic(0x100ef, 1000, 0), 0); /* masked */
	CHECK_EQ(lapic(0x200ef, 1000, 0), 0); /* periodic */
	CHECK_EQ(lapic(0x400ef, 1000, 0), 0); /* deadline */
}

/* A KVM that lacks one of them: no half snapshot, and no half machine that is called whole. */
static void missing_ioctls(void)
{
	static const unsigned long get[] = {
		KVM_GET_IRQCHIP, KVM_GET_PIT2, KVM_GET_CLOCK, KVM_GET_MP_STATE, KVM_GET_REGS, KVM_GET_SREGS,
		KVM_GET_XSAVE2, KVM_GET_XCRS, KVM_GET_DEBUGREGS, KVM_GET_LAPIC, KVM_GET_VCPU_EVENTS, KVM_GET_MSRS,
		KVM_GET_MSR_INDEX_LIST, KVM_GET_CPUID2, KVM_GET_TSC_KHZ,
	};
	static const unsigned long set[] = {
		KVM_SET_IRQCHIP, KVM_SET_PIT2, KVM_SET_CLOCK, KVM_SET_MP_STATE, KVM_SET_REGS, KVM_SET_SREGS,
		KVM_SET_XSAVE, KVM_SET_XCRS, KVM_SET_DEBUGREGS, KVM_SET_LAPIC, KVM_SET_VCPU_EVENTS, KVM_SET_MSRS,
		KVM_SET_CPUID2, KVM_SET_DEVICE_ATTR, KVM_GET_MSRS, KVM_GET_CPUID2,
	};
	struct state_writer w;
	struct file file;

	for (unsigned int i = 0; i < sizeof(get) / sizeof(*get); i++) {
		used();
		f.fail = get[i];
		state_writer_init(&w, arch_name);
		arch_save(&vm, &w);
		CHECK_EQ(w.err, -ENOTTY);
		CHECK(strstr(logged(), "the machine's state can't be had whole from this host's KVM: ENOTTY"));
		state_writer_fini(&w);
	}
	used();
	file = save();
	for (unsigned int i = 0; i < sizeof(set) / sizeof(*set); i++) {
		fresh();
		f.fail = set[i];
		CHECK_EQ(load(&file), -ENOTTY);
		CHECK(strstr(logged(), "this host's KVM does not take the machine's state"));
		CHECK(!f.events && !f.loads);
	}
	free(file.buf);
}

/* @file with another payload in one of its sections. */
static struct file with(const struct file *file, uint32_t tag, uint32_t instance, const uint8_t *payload, size_t len)
{
	struct state_section s;
	struct state_writer w;
	struct state_reader r;
	struct file other;

	if (state_reader_open_memory(&r, "snap", file->buf, file->len, arch_name))
		abort();
	state_writer_init(&w, arch_name);
	for (uint32_t i = 0; state_reader_at(&r, &s, i); i++) {
		bool this = s.tag == tag && s.instance == instance;

		state_writer_begin(&w, s.tag, s.instance, s.version);
		state_writer_bytes(&w, this ? payload : s.payload, this ? len : s.len);
		state_writer_end(&w);
	}
	state_reader_close(&r);
	other = seal(&w);
	state_writer_fini(&w);
	return other;
}

static size_t payload_of(const struct file *file, uint32_t tag, uint8_t *payload)
{
	struct state_section s;
	struct state_reader r;

	if (state_reader_open_memory(&r, "snap", file->buf, file->len, arch_name) ||
	    state_reader_section(&r, &s, tag, 0))
		abort();
	memcpy(payload, s.payload, s.len);
	state_reader_close(&r);
	return s.len;
}

static int load_with(const struct file *file, uint32_t tag, const uint8_t *payload, size_t len)
{
	struct file other = with(file, tag, 0, payload, len);
	int ret = load(&other);

	free(other.buf);
	return ret;
}

#define CHIP STATE_TAG('C', 'H', 'I', 'P')
#define PLAT STATE_TAG('P', 'L', 'A', 'T')

/* Cut off anywhere, or a byte too long: refused, before anything is touched. */
static void truncated(void)
{
	static const uint32_t tags[] = { PLAT, CHIP, VCPU_STATE };
	static uint8_t payload[65536];
	struct file file;

	used();
	file = save();
	for (unsigned int i = 0; i < 3; i++) {
		size_t len = payload_of(&file, tags[i], payload);

		fresh();
		for (size_t cut = 0; cut <= len + 1; cut++) {
			if (cut == len)
				continue;
			CHECK_EQ(load_with(&file, tags[i], payload, cut), -EBADMSG);
			CHECK_EQ(f.sets, 0);
			if (cut % 64 == 0)
				CHECK(strstr(logged(), "section "));
		}
		CHECK(f.generations == 0 && f.loads == 0);
		CHECK_EQ(load_with(&file, tags[i], payload, len), 0);
	}
	free(file.buf);
}

static void bad_values(void)
{
	static uint8_t payload[65536];
	struct file file;
	size_t len;

	used();
	file = save();
	fresh();
	len = payload_of(&file, PLAT, payload);
	CHECK_EQ(len, 5);
	payload[0] = 4; /* an event that there isn't */
	CHECK_EQ(load_with(&file, PLAT, payload, len), -EBADMSG);
	CHECK(strstr(logged(), "events 0x4"));
	payload[0] = 3;
	payload[4] = 0x80;
	CHECK_EQ(load_with(&file, PLAT, payload, len), -EBADMSG);
	CHECK(strstr(logged(), "index 0x80"));
	payload[4] = 0x7f;
	CHECK_EQ(load_with(&file, PLAT, payload, len), 0);
	CHECK_EQ(f.platform.ged_events, 3);

	fresh();
	len = payload_of(&file, CHIP, payload);
	payload[0]--; /* a PIC of another size */
	CHECK_EQ(load_with(&file, CHIP, payload, len), -EBADMSG);
	len = payload_of(&file, VCPU_STATE, payload);
	memset(payload, 0, 4); /* a TSC that stands still */
	CHECK_EQ(load_with(&file, VCPU_STATE, payload, len), -EBADMSG);
	payload_of(&file, VCPU_STATE, payload);
	payload[22] = 0xff; /* CPUID without end */
	CHECK_EQ(load_with(&file, VCPU_STATE, payload, len), -EBADMSG);
	payload_of(&file, VCPU_STATE, payload);
	payload[24 + 3 * 28]--; /* the first struct */
	CHECK_EQ(load_with(&file, VCPU_STATE, payload, len), -EBADMSG);
	CHECK(strstr(logged(), "part 0 has 3 bytes, expected 4"));
	CHECK_EQ(f.sets, 0);
	free(file.buf);
}

/* The sections' bytes, so that a change that wasn't meant fails: docs/snapshot.md. */
static void format(void)
{
	static uint8_t payload[65536];
	struct file file;
	size_t len, at;

	used();
	f.vcpu[0].offset = 1000;
	file = save();
	len = payload_of(&file, PLAT, payload);
	CHECK(len == 5 && !memcmp(payload, "\x01\0\0\0\x32", 5));
	len = payload_of(&file, CHIP, payload);
	CHECK_EQ(len, 3 * (4 + 512) + 4 + 112 + 8 + 8);
	CHECK_EQ(state_file_load(payload, 4), 512);
	CHECK(!memcmp(payload + 2 * 516 + 4, &f.chip[2].chip, 512));
	CHECK_EQ(state_file_load(payload + 3 * 516, 4), 112);
	CHECK_EQ(state_file_load(payload + len - 16, 8), 5000000000);
	CHECK_EQ(state_file_load(payload + len - 8, 8), 1700000000000000000);
	len = payload_of(&file, VCPU_STATE, payload);
	CHECK_EQ(state_file_load(payload, 4), KHZ);
	CHECK(state_file_load(payload + 4, 8) - (123456789 + 1000) <= 1000);
	CHECK_EQ(state_file_load(payload + 12, 8), 777777);
	CHECK_EQ(state_file_load(payload + 20, 4), 3);
	CHECK_EQ(state_file_load(payload + 24 + 28 * 2, 4), 7);
	CHECK_EQ(state_file_load(payload + 24 + 28 * 2 + 16, 4), 0x21);
	at = 24 + 28 * 3;
	static const uint32_t sizes[] = { 4, 144, 312, 392, 128, 1024, 64, XSAVE };

	for (unsigned int i = 0; i < 8; i++) {
		CHECK_EQ(state_file_load(payload + at, 4), sizes[i]);
		at += 4 + sizes[i];
	}
	CHECK(!memcmp(payload + 24 + 28 * 3 + 12, &f.vcpu[0].regs, 144));
	CHECK_EQ(state_file_load(payload + at, 4), 5);
	CHECK_EQ(state_file_load(payload + at + 4, 4), STAR);
	CHECK_EQ(state_file_load(payload + at + 8, 8), 0x23001000000000);
	CHECK_EQ(len, at + 4 + 5 * 12);
	free(file.buf);
}

/* Readings of one TSC, one after the other, are one number. */
static void one_tsc(void)
{
	struct state_section s;
	struct state_reader r;
	uint64_t value[NR_VCPUS];
	struct file file;

	used();
	f.no_offsets = true;
	file = save();
	if (state_reader_open_memory(&r, "snap", file.buf, file.len, arch_name))
		abort();
	for (uint32_t i = 0; i < NR_VCPUS; i++) {
		CHECK_EQ(state_reader_section(&r, &s, VCPU_STATE, i), 0);
		state_reader_u32(&s);
		value[i] = state_reader_u64(&s);
	}
	CHECK_EQ(value[1], value[0]);
	state_reader_close(&r);
	free(file.buf);
}

static void wants(void)
{
	const struct vm_config config = { .nr_vcpus = 7 };
	struct state_want want[ARCH_STATE_MAX];
	unsigned int nr = arch_state_wants(&config, want);

	CHECK_EQ(nr, 4);
	for (unsigned int i = 0; i < nr; i++) {
		CHECK_EQ(want[i].count, want[i].tag == VCPU_STATE ? 7 : 1);
		CHECK(want[i].oldest == 1 && want[i].newest == 1);
	}
}

int main(void)
{
	log_fd = memfd_create("log", MFD_CLOEXEC);
	log_set_fd(log_fd, false);
	RUN(round_trip);
	RUN(order);
	RUN(clocks_go_on);
	RUN(tscs_apart);
	RUN(frequency);
	RUN(refused_msrs);
	RUN(many_msrs);
	RUN(cpuid);
	RUN(xsave);
	RUN(no_xcrs);
	RUN(one_shot_timer);
	RUN(missing_ioctls);
	RUN(truncated);
	RUN(bad_values);
	RUN(format);
	RUN(one_tsc);
	RUN(wants);
	return TEST_RESULT();
}
