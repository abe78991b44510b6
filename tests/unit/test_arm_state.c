/* SPDX-License-Identifier: MIT */
/*
 * An aarch64 machine's state, saved and restored against a KVM that is tables: vCPUs with registers
 * in KVM's order, and GICs of both versions whose registers set, clear and keep as KVM's do. What
 * KVM does not say but loses (an interrupt made deliverable before its distributor is on) fails
 * here. Then: each section cut at each length, a CPU that differs.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include "arch/aarch64/gic.h"
#include "arch/aarch64/layout.h"
#include "arch/aarch64/platform.h"
#include "arch/aarch64/vm.h"
#include "arch/arch.h"
#include "tests/unit/test.h"
#include "vm/crc32.h"
#include "vm/event.h"
#include "vm/log.h"
#include "vm/serial.h"
#include "vm/state_reader.h"
#include "vm/state_writer.h"
#include "vm/vcpu.h"
#include "vm/vm.h"

#define NR_CPUS	 2
#define VM_FD	 1000
#define GIC_FD	 1001
#define VCPU_FD	 2000 /* and up */
#define RAM_SIZE (16ull << 20)

/* ---- what was logged ---- */

static int log_fd;

static bool said(const char *part)
{
	static char text[8192];
	ssize_t n = pread(log_fd, text, sizeof(text) - 1, 0);
	bool ok;

	text[n > 0 ? n : 0] = '\0';
	ok = strstr(text, part);
	if (!ok)
		printf("  expected \"%s\" in: %s\n", part, text);
	CHECK(!ftruncate(log_fd, 0));
	lseek(log_fd, 0, SEEK_SET);
	return ok;
}

/* ---- vCPUs ---- */

#define SYS(...)  ARM64_SYS_REG(__VA_ARGS__)
#define X0	  (KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | 0)
#define ZREG	  KVM_REG_ARM64_SVE_ZREG(3, 0)
#define CCSIDR	  (KVM_REG_ARM64 | KVM_REG_SIZE_U32 | KVM_REG_ARM_DEMUX | 1)
#define ID_MMFR0  SYS(3, 0, 0, 7, 0)
#define MPIDR	  SYS(3, 0, 0, 0, 5)
#define SCTLR	  SYS(3, 0, 1, 0, 0)
#define NR_REGS	  15

/* In the order of KVM_GET_REG_LIST. */
static const uint64_t ids[NR_REGS] = {
	X0, KVM_REG_ARM64_SVE_VLS, ZREG, KVM_REG_ARM_PSCI_VERSION, KVM_REG_ARM_STD_BMAP,
	KVM_REG_ARM_TIMER_CTL, KVM_REG_ARM_TIMER_CNT, KVM_REG_ARM_TIMER_CVAL, MPIDR, SCTLR, ID_MMFR0,
	KVM_REG_ARM_PTIMER_CTL, KVM_REG_ARM_PTIMER_CVAL, KVM_REG_ARM_PTIMER_CNT, CCSIDR,
};

struct cpu {
	uint8_t value[NR_REGS][256];
	unsigned int set[NR_REGS]; /* when: a count of all writes */
	uint32_t mp_state;
	struct kvm_vcpu_events events;
	unsigned int events_set, mp_set;
};

static struct cpu cpu[NR_CPUS];
static unsigned int writes; /* of all kinds, so far */
static unsigned int fail_get; /* of a register: EINVAL when it gets to 0 */

static unsigned int reg_at(uint64_t id)
{
	for (unsigned int i = 0; i < NR_REGS; i++) {
		if (ids[i] == id)
			return i;
	}
	return NR_REGS;
}

static int set_reg(struct cpu *c, unsigned int i, const void *value)
{
	size_t size = KVM_REG_SIZE(ids[i]);

	/* Fixed since KVM_ARM_VCPU_FINALIZE. */
	if (ids[i] == KVM_REG_ARM64_SVE_VLS)
		return -EPERM;
	if ((ids[i] == ID_MMFR0 || ids[i] == CCSIDR) && memcmp(c->value[i], value, size))
		return -EINVAL;
	memcpy(c->value[i], value, size);
	if (!c->set[i] || ids[i] != KVM_REG_ARM_TIMER_CNT)
		c->set[i] = ++writes;
	return 0;
}

static int vcpu_ioctl(struct cpu *c, unsigned long request, void *arg)
{
	struct kvm_reg_list *list = arg;
	struct kvm_one_reg *reg = arg;
	unsigned int i;

	switch (request) {
	case KVM_GET_REG_LIST:
		if (list->n < NR_REGS) {
			list->n = NR_REGS;
			return -E2BIG;
		}
		memcpy(list->reg, ids, sizeof(ids));
		return 0;
	case KVM_GET_ONE_REG:
	case KVM_SET_ONE_REG:
		i = reg_at(reg->id);
		if (i == NR_REGS)
			return -ENOENT;
		if (request == KVM_SET_ONE_REG)
			return set_reg(c, i, (void *)(uintptr_t)reg->addr);
		if (fail_get && !--fail_get)
			return -EINVAL;
		memcpy((void *)(uintptr_t)reg->addr, c->value[i], KVM_REG_SIZE(ids[i]));
		return 0;
	case KVM_GET_MP_STATE:
		*(uint32_t *)arg = c->mp_state;
		return 0;
	case KVM_SET_MP_STATE:
		c->mp_state = *(uint32_t *)arg;
		c->mp_set = ++writes;
		return 0;
	case KVM_GET_VCPU_EVENTS:
		*(struct kvm_vcpu_events *)arg = c->events;
		return 0;
	case KVM_SET_VCPU_EVENTS:
		c->events = *(struct kvm_vcpu_events *)arg;
		c->events_set = ++writes;
		return 0;
	}
	return -ENOTTY;
}

/* ---- the GIC: a value for each (group, attribute) that was ever asked for ---- */

struct cell {
	uint32_t group;
	uint64_t attr;
	uint64_t value;
};

static struct gic_model {
	unsigned int version;
	unsigned int nr;
	struct cell cell[2048];
	bool iidr, ctlr, kinds, enabled;
} kvm_gic;
static bool gic_refuses_iidr;

static struct cell *cell(uint32_t group, uint64_t attr)
{
	struct gic_model *g = &kvm_gic;

	for (unsigned int i = 0; i < g->nr; i++) {
		if (g->cell[i].group == group && g->cell[i].attr == attr)
			return &g->cell[i];
	}
	if (g->nr == sizeof(g->cell) / sizeof(g->cell[0]))
		abort();
	g->cell[g->nr] = (struct cell){ .group = group, .attr = attr };
	return &g->cell[g->nr++];
}

/* The enable, pending and active bits: where they are set, from where they are cleared; or 0. */
static uint32_t cleared_by(uint32_t group, uint32_t offset)
{
	uint32_t base = group == KVM_DEV_ARM_VGIC_GRP_REDIST_REGS ? 0x10000 : 0, low = offset - base;

	if (group != KVM_DEV_ARM_VGIC_GRP_REDIST_REGS && group != KVM_DEV_ARM_VGIC_GRP_DIST_REGS)
		return 0;
	if ((low & ~0x7fu) == 0x180 || (low & ~0x7fu) == 0x280 || (low & ~0x7fu) == 0x380)
		return offset - 0x80;
	if (kvm_gic.version == 2 && (low & ~0xfu) == 0xf10)
		return offset + 0x10;
	return 0;
}

static bool only_sets(uint32_t group, uint32_t offset)
{
	uint32_t low = group == KVM_DEV_ARM_VGIC_GRP_REDIST_REGS ? offset - 0x10000 : offset;

	if (group != KVM_DEV_ARM_VGIC_GRP_REDIST_REGS && group != KVM_DEV_ARM_VGIC_GRP_DIST_REGS)
		return false;
	if ((low & ~0x7fu) == 0x200)
		return kvm_gic.version == 2;
	return (low & ~0x7fu) == 0x100 || (low & ~0x7fu) == 0x300 ||
	       (kvm_gic.version == 2 && (low & ~0xfu) == 0xf20);
}

/* What KVM wants to have been told before; see the order in arch/aarch64/gic.c. */
static void gic_order(uint32_t group, uint32_t offset)
{
	struct gic_model *g = &kvm_gic;
	uint32_t low = group == KVM_DEV_ARM_VGIC_GRP_REDIST_REGS ? offset - 0x10000 : offset;
	bool mmio = group == KVM_DEV_ARM_VGIC_GRP_REDIST_REGS || group == KVM_DEV_ARM_VGIC_GRP_DIST_REGS;

	if (group == KVM_DEV_ARM_VGIC_GRP_DIST_REGS && offset == 8)
		g->iidr = true;
	CHECK(g->iidr);
	if (group == KVM_DEV_ARM_VGIC_GRP_DIST_REGS && !offset)
		g->ctlr = true;
	if (mmio && low >= 0xc00 && low < 0xd00)
		g->kinds = true;
	if (group == KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO || (mmio && low >= 0x100 && low < 0x400))
		CHECK(g->ctlr && g->kinds);
	/* Routes, targets and priorities of SPIs before those that are enabled. */
	if (group == KVM_DEV_ARM_VGIC_GRP_DIST_REGS && offset == 0x104)
		g->enabled = true;
	if (group == KVM_DEV_ARM_VGIC_GRP_DIST_REGS &&
	    ((offset >= 0x6100 && offset < 0x8000) || (offset >= 0x420 && offset < 0x860)))
		CHECK(!g->enabled);
}

static int gic_apr(uint64_t attr)
{
	uint32_t code = attr & 0xffff, n;
	uint64_t ctlr;
	unsigned int bits;

	/* ICC_AP0Rn_EL1 is S3_0_C12_C8_{4-7}, ICC_AP1Rn_EL1 S3_0_C12_C9_{0-3}. */
	if ((code & ~3u) != (3u << 14 | 12 << 7 | 8 << 3 | 4) && (code & ~3u) != (3u << 14 | 12 << 7 | 9 << 3))
		return 0;
	n = code & 3;
	ctlr = cell(KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, (attr & ~0xffffull) | (3u << 14 | 12 << 7 | 12 << 3 | 4))
		       ->value;
	bits = (ctlr >> 8 & 7) + 1;
	return n >= (bits == 7 ? 4u : bits == 6 ? 2u : 1u) ? -EINVAL : 0;
}

static int gic_ioctl(unsigned long request, struct kvm_device_attr *a)
{
	bool wide = a->group == KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS;
	void *p = (void *)(uintptr_t)a->addr;
	uint32_t word, target;
	struct cell *c;

	if (a->group == KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS && gic_apr(a->attr))
		return -EINVAL;
	c = cell(a->group, a->attr);
	if (request == KVM_GET_DEVICE_ATTR) {
		word = (uint32_t)c->value;
		memcpy(p, wide ? (void *)&c->value : &word, wide ? 8 : 4);
		return 0;
	}
	memcpy(&word, p, 4);
	writes++;
	gic_order(a->group, (uint32_t)a->attr);
	target = cleared_by(a->group, (uint32_t)a->attr);
	if (gic_refuses_iidr && a->group == KVM_DEV_ARM_VGIC_GRP_DIST_REGS && (uint32_t)a->attr == 8)
		return -EINVAL;
	if (target)
		cell(a->group, (a->attr & ~0xffffffffull) | target)->value &= ~word;
	else if (only_sets(a->group, (uint32_t)a->attr))
		c->value |= word;
	else if (wide)
		memcpy(&c->value, p, 8);
	else
		c->value = word;
	return 0;
}

/* ---- the kernel's door ---- */

static unsigned int pulses, lines;
static uint32_t pulsed;

int kvm_ioctl_raw(int fd, unsigned long request, void *arg)
{
	const struct kvm_irq_level *level = arg;

	if (fd >= VCPU_FD && fd < VCPU_FD + NR_CPUS)
		return vcpu_ioctl(&cpu[fd - VCPU_FD], request, arg);
	if (fd == GIC_FD && (request == KVM_GET_DEVICE_ATTR || request == KVM_SET_DEVICE_ATTR))
		return gic_ioctl(request, arg);
	if (fd == VM_FD && request == KVM_IRQ_LINE) {
		lines++;
		if (level->level && level->irq == arch_irq_number(LAYOUT_VMGENID_SPI)) {
			pulses++;
			pulsed = writes;
		}
		return 0;
	}
	printf("  unexpected ioctl %#lx on %d\n", request, fd);
	test_failed_now = 1;
	return -ENOTTY;
}

int kvm_ioctl_named(int fd, unsigned long request, const char *name, void *arg)
{
	(void)name;
	return kvm_ioctl_raw(fd, request, arg);
}

int kvm_has(int fd, int cap)
{
	(void)fd, (void)cap;
	return 0;
}

void vm_end(struct vm *vm, enum vm_end end, const char *why)
{
	(void)vm, (void)end, (void)why;
}

/* Its own test has the rest. */
static bool serial_paused;
static uint8_t serial_byte;

void serial_save(struct serial *serial, struct state_writer *w)
{
	(void)serial;
	state_writer_begin(w, SERIAL_STATE, 0, SERIAL_STATE_VERSION);
	state_writer_u8(w, serial_byte);
	state_writer_end(w);
}

int serial_load(struct serial *serial, const struct state_reader *r)
{
	struct state_section s;
	int err = state_reader_section(r, &s, SERIAL_STATE, 0);
	uint8_t byte;

	(void)serial;
	if (err)
		return err;
	byte = state_reader_u8(&s);
	err = state_reader_section_end(&s);
	if (!err) {
		serial_byte = byte;
		serial_paused = true;
	}
	return err;
}

void serial_pause(struct serial *serial)
{
	(void)serial;
	serial_paused = true;
}

void serial_resume(struct serial *serial)
{
	(void)serial;
	serial_paused = false;
}

int serial_create(struct serial **serial, struct console *console, serial_irq_fn *fn, void *opaque)
{
	(void)console, (void)fn, (void)opaque;
	*serial = NULL;
	return 0;
}

void serial_destroy(struct serial *serial)
{
	(void)serial;
}

void serial_access(void *opaque, uint64_t offset, uint8_t *data, unsigned int len, bool write)
{
	(void)opaque, (void)offset, (void)data, (void)len, (void)write;
}

static const void *cleaned;
static uint8_t clean_id[LAYOUT_VMGENID_SIZE];

void cache_clean(const void *p)
{
	cleaned = p;
	memcpy(clean_id, p, sizeof(clean_id));
}

/* ---- a machine ---- */

static struct vm *vm;
static struct event_loop loop;
static struct arch_vm arch_vm;
static struct vcpu vcpus[NR_CPUS];
static uint8_t *ram;

static void reset_counts(void)
{
	for (unsigned int i = 0; i < NR_CPUS; i++) {
		memset(cpu[i].set, 0, sizeof(cpu[i].set));
		cpu[i].events_set = cpu[i].mp_set = 0;
	}
	writes = pulses = lines = 0;
	cleaned = NULL;
	kvm_gic.iidr = kvm_gic.ctlr = kvm_gic.kinds = kvm_gic.enabled = false;
}

static void machine(unsigned int gic)
{
	vm = calloc(1, sizeof(*vm));
	ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!vm || ram == MAP_FAILED || event_loop_init(&loop))
		abort();
	arch_vm = (struct arch_vm){ .gic = gic, .gic_fd = GIC_FD };
	vm->config = (struct vm_config){ .nr_vcpus = NR_CPUS, .ram_size = RAM_SIZE, .gic = gic };
	vm->nr_vcpus = NR_CPUS;
	vm->vcpus = vcpus;
	vm->arch = &arch_vm;
	vm->loop = &loop;
	irq_init(&vm->irqs, VM_FD);
	vm->mem.vm_fd = -1;
	vm->mem.nr = 1;
	vm->mem.region[0] = (struct memory_region){ .gpa = LAYOUT_RAM_BASE, .size = RAM_SIZE, .hva = ram };
	memset(cpu, 0, sizeof(cpu));
	memset(&kvm_gic, 0, sizeof(kvm_gic));
	kvm_gic.version = gic;
	gic_refuses_iidr = false;
	fail_get = 0;
	serial_paused = false;
	for (unsigned int i = 0; i < NR_CPUS; i++) {
		uint64_t mpidr = 0x80000000 | i << 8;

		vcpus[i] = (struct vcpu){ .vm = vm, .id = i, .fd = VCPU_FD + (int)i };
		arch_vm.mpidr[i] = mpidr & 0xffffff;
		for (unsigned int k = 0; k < NR_REGS; k++) {
			/* What the host's CPU has is the same everywhere. */
			if (ids[k] == ID_MMFR0 || ids[k] == CCSIDR || ids[k] == KVM_REG_ARM64_SVE_VLS)
				cpu[i].value[k][0] = (uint8_t)(0x11 + k);
		}
		memcpy(cpu[i].value[reg_at(MPIDR)], &mpidr, 8);
	}
	CHECK_EQ(platform_create(&arch_vm.platform, vm), 0);
	reset_counts();
}

static void end_machine(void)
{
	platform_destroy(arch_vm.platform);
	event_loop_fini(&loop);
	irq_fini(&vm->irqs);
	munmap(ram, RAM_SIZE);
	free(vm);
}

/* A life behind it: every register has something in it. */
static void live(void)
{
	for (unsigned int i = 0; i < NR_CPUS; i++) {
		for (unsigned int k = 0; k < NR_REGS; k++) {
			if (ids[k] == MPIDR || ids[k] == ID_MMFR0 || ids[k] == CCSIDR ||
			    ids[k] == KVM_REG_ARM64_SVE_VLS)
				continue;
			for (unsigned int b = 0; b < KVM_REG_SIZE(ids[k]); b++)
				cpu[i].value[k][b] = (uint8_t)(i * 31 + k * 7 + b + 1);
		}
		cpu[i].mp_state = i ? KVM_MP_STATE_STOPPED : KVM_MP_STATE_RUNNABLE;
		cpu[i].events.exception.serror_pending = i;
		cpu[i].events.exception.serror_has_esr = i;
		cpu[i].events.exception.serror_esr = i * 0x12345;
	}
	serial_byte = 0x42;
}

/* ---- a snapshot ---- */

static uint8_t file[65536];
static size_t file_len;

/* The header and the end, as state_writer_save() would, of what @w has. */
static void finish(struct state_writer *w)
{
	CHECK_EQ(w->err, 0);
	file_len = w->len + STATE_FILE_END;
	if (file_len > sizeof(file))
		abort();
	memcpy(file, w->buf, w->len);
	state_file_store(file + STATE_FILE_AT_SECTIONS, w->nr, 4);
	state_file_store(file + STATE_FILE_AT_LENGTH, file_len, 8);
	state_file_store(file + w->len, STATE_TAG_END, 4);
	state_file_store(file + w->len + 4, crc32(0, file, w->len + 4), 4);
}

static void save(void)
{
	struct state_writer w;

	state_writer_init(&w, arch_name);
	arch_save(vm, &w);
	finish(&w);
	state_writer_fini(&w);
}

static int restore(const void *buf, size_t len)
{
	struct state_want want[ARCH_STATE_MAX];
	struct state_reader r;
	int err;

	if (state_reader_open_memory(&r, "test", buf, len, arch_name))
		abort();
	err = state_reader_expect(&r, want, arch_state_wants(&vm->config, want));
	if (!err)
		err = arch_restore(vm, &r);
	if (!err)
		err = state_reader_end(&r);
	state_reader_close(&r);
	return err;
}

static uint64_t value64(unsigned int i, uint64_t id)
{
	uint64_t value;

	memcpy(&value, cpu[i].value[reg_at(id)], 8);
	return value;
}

static unsigned int when(unsigned int i, uint64_t id)
{
	unsigned int at = cpu[i].set[reg_at(id)];

	CHECK(at);
	return at;
}

static void vcpus_order(void)
{
	for (unsigned int i = 0; i < NR_CPUS; i++) {
		unsigned int fw = when(i, KVM_REG_ARM_PSCI_VERSION), bmap = when(i, KVM_REG_ARM_STD_BMAP);
		unsigned int id = when(i, ID_MMFR0), x0 = when(i, X0);

		CHECK(fw < id && bmap < id && id < x0 && when(i, MPIDR) < x0);
		CHECK(when(i, ZREG) && when(i, SCTLR) && when(i, CCSIDR));
		CHECK(x0 < when(i, KVM_REG_ARM_TIMER_CNT));
		CHECK(when(i, KVM_REG_ARM_TIMER_CNT) < when(i, KVM_REG_ARM_TIMER_CVAL));
		CHECK(when(i, KVM_REG_ARM_TIMER_CVAL) < when(i, KVM_REG_ARM_TIMER_CTL));
		CHECK(when(i, KVM_REG_ARM_PTIMER_CNT) < when(i, KVM_REG_ARM_PTIMER_CVAL));
		CHECK(when(i, KVM_REG_ARM_PTIMER_CVAL) < when(i, KVM_REG_ARM_PTIMER_CTL));
		CHECK(cpu[i].events_set && cpu[i].mp_set);
	}
}

static void vcpus_round(void)
{
	static struct cpu before[NR_CPUS];
	uint8_t old_id[LAYOUT_VMGENID_SIZE];
	uint8_t *id;

	machine(3);
	live();
	id = ram + RAM_SIZE - LAYOUT_VMGENID_ROOM;
	memset(id, 0x77, LAYOUT_VMGENID_SIZE);
	CHECK_EQ(arch_vm_pause(vm), 0);
	CHECK(serial_paused);
	CHECK_EQ(arch_vm.counter, value64(0, KVM_REG_ARM_TIMER_CNT));
	/* The counters go on, each for itself; the pause's is the guest's. */
	cpu[0].value[reg_at(KVM_REG_ARM_TIMER_CNT)][0] += 5;
	cpu[1].value[reg_at(KVM_REG_ARM_TIMER_CNT)][0] += 9;
	save();
	memcpy(before, cpu, sizeof(cpu));
	for (unsigned int i = 0; i < NR_CPUS; i++)
		memcpy(before[i].value[reg_at(KVM_REG_ARM_TIMER_CNT)], &arch_vm.counter, 8);
	memcpy(old_id, id, sizeof(old_id));
	end_machine();

	machine(3);
	serial_byte = 0;
	memcpy(ram + RAM_SIZE - LAYOUT_VMGENID_ROOM, old_id, sizeof(old_id));
	CHECK_EQ(restore(file, file_len), 0);
	for (unsigned int i = 0; i < NR_CPUS; i++) {
		for (unsigned int k = 0; k < NR_REGS; k++) {
			if (memcmp(cpu[i].value[k], before[i].value[k], 256)) {
				printf("  vCPU %u, register %u\n", i, k);
				CHECK(!"restored");
			}
		}
		CHECK_EQ(cpu[i].mp_state, before[i].mp_state);
		CHECK(!memcmp(&cpu[i].events, &before[i].events, sizeof(cpu[i].events)));
	}
	vcpus_order();
	CHECK_EQ(serial_byte, 0x42);
	CHECK(serial_paused);
	/* Another ID, cleaned as it is now, and told after all the rest. */
	id = ram + RAM_SIZE - LAYOUT_VMGENID_ROOM;
	CHECK(memcmp(id, old_id, sizeof(old_id)));
	CHECK(cleaned == id && !memcmp(clean_id, id, sizeof(clean_id)));
	CHECK_EQ(pulses, 1);
	CHECK_EQ(pulsed, writes);
	CHECK_EQ(arch_vm_pause(vm), 0);
	CHECK_EQ(arch_vm_resume(vm), 0);
	CHECK(!serial_paused);
	CHECK_EQ(value64(0, KVM_REG_ARM_TIMER_CNT), value64(1, KVM_REG_ARM_TIMER_CNT));
	end_machine();
}

/* Fills each register that a save has asked for. */
static void gic_live(void)
{
	struct gic_model *g = &kvm_gic;

	for (unsigned int i = 0; i < g->nr; i++) {
		struct cell *c = &g->cell[i];

		c->value = (uint32_t)(0x9e3779b1u * (i + 1));
		/* SGIs of a GICv2 are pending elsewhere. */
		if (g->version == 2 && c->group == KVM_DEV_ARM_VGIC_GRP_DIST_REGS && (uint32_t)c->attr == 0x200)
			c->value |= 0xffff;
		/* Seven bits of priority on the first vCPU, five on the second. */
		if (c->group == KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS &&
		    (c->attr & 0xffff) == (3u << 14 | 12 << 7 | 12 << 3 | 4))
			c->value = c->attr >> 32 ? 0x400 : 0x600;
	}
}

static void gic_round(unsigned int version)
{
	static struct gic_model before;
	unsigned int nr;

	machine(version);
	live();
	save(); /* learns what there is */
	nr = kvm_gic.nr;
	gic_live();
	save();
	CHECK_EQ(kvm_gic.nr, nr + (version == 3 ? 6 : 0)); /* more of ICC_APnRm_EL1 */
	gic_live();
	save();
	before = kvm_gic;
	end_machine();

	/* A new one is not all zero: SGIs are enabled, say. */
	machine(version);
	for (unsigned int i = 0; i < before.nr; i++)
		cell(before.cell[i].group, before.cell[i].attr)->value = 0xffffffff;
	CHECK_EQ(restore(file, file_len), 0);
	for (unsigned int i = 0; i < before.nr; i++) {
		const struct cell *c = &before.cell[i];
		uint64_t value = cell(c->group, c->attr)->value, want = c->value;

		if (version == 2 && c->group == KVM_DEV_ARM_VGIC_GRP_DIST_REGS && (uint32_t)c->attr == 0x200)
			want &= 0xffff0000;
		if (value != want) {
			printf("  group %u, attribute %#llx: %#llx, not %#llx\n", c->group,
			       (unsigned long long)c->attr, (unsigned long long)value,
			       (unsigned long long)want);
			CHECK(!"restored");
		}
	}
	vcpus_order();
	end_machine();
}

static void gic_v3(void)
{
	gic_round(3);
}

static void gic_v2(void)
{
	gic_round(2);
}

/* The file again, with section @which cut to @len bytes, or with one byte more. */
static void cut(const uint8_t *buf, size_t buf_len, unsigned int which, size_t len)
{
	struct state_reader r;
	struct state_section s;
	struct state_writer w;

	if (state_reader_open_memory(&r, "test", buf, buf_len, arch_name))
		abort();
	state_writer_init(&w, arch_name);
	for (unsigned int i = 0; state_reader_at(&r, &s, i); i++) {
		size_t n = i == which && len < s.len ? len : s.len;

		state_writer_begin(&w, s.tag, s.instance, s.version);
		state_writer_bytes(&w, s.payload, n);
		if (i == which && len > s.len)
			state_writer_u8(&w, 0);
		state_writer_end(&w);
	}
	finish(&w);
	state_writer_fini(&w);
	state_reader_close(&r);
}

static void truncated(unsigned int version)
{
	static uint8_t whole[sizeof(file)];
	size_t whole_len, len[16];
	unsigned int nr = 0, bad = 0;
	struct state_reader r;
	struct state_section s;

	machine(version);
	live();
	save();
	memcpy(whole, file, file_len);
	whole_len = file_len;
	CHECK(!state_reader_open_memory(&r, "test", whole, whole_len, arch_name));
	for (; nr < 16 && state_reader_at(&r, &s, nr); nr++)
		len[nr] = s.len;
	CHECK_EQ(nr, NR_CPUS + 3);
	state_reader_close(&r);
	for (unsigned int i = 0; i < nr; i++) {
		for (size_t n = 0; n <= len[i] + 1; n += n > 64 && n + 64 < len[i] ? 7 : 1) {
			if (n == len[i])
				continue;
			cut(whole, whole_len, i, n);
			reset_counts();
			bad += restore(file, file_len) != -EBADMSG;
			/* Of vCPUs and GIC, refused before anything was written. */
			bad += i <= NR_CPUS && writes;
			CHECK_EQ(pulses, 0);
		}
	}
	CHECK_EQ(bad, 0);
	reset_counts();
	CHECK_EQ(restore(whole, whole_len), 0);
	CHECK_EQ(ftruncate(log_fd, 0), 0);
	lseek(log_fd, 0, SEEK_SET);
	end_machine();
}

static void truncations(void)
{
	truncated(3);
	truncated(2);
}

/* What the other host has that this one hasn't. */
static void other_hosts(void)
{
	machine(3);
	live();
	save();
	end_machine();

	machine(3);
	cpu[1].value[reg_at(ID_MMFR0)][0] ^= 1;
	CHECK_EQ(restore(file, file_len), -EINVAL);
	CHECK(said("vCPU 1: register S3_0_C0_C7_0: KVM_SET_ONE_REG: EINVAL: 0x1b in the snapshot, 0x1a here"));
	CHECK(!pulses);
	end_machine();

	machine(3);
	cpu[0].value[reg_at(KVM_REG_ARM64_SVE_VLS)][8] ^= 1;
	CHECK_EQ(restore(file, file_len), -EPERM);
	CHECK(said("the SVE vector lengths"));
	end_machine();

	machine(3);
	cpu[0].value[reg_at(CCSIDR)][3] ^= 1;
	CHECK_EQ(restore(file, file_len), -EINVAL);
	CHECK(said("register 0x6020000000110001"));
	end_machine();

	machine(3);
	arch_vm.mpidr[1] = 1;
	CHECK_EQ(restore(file, file_len), -EBADMSG);
	CHECK(said("section VCPU 1: its MPIDR_EL1 isn't that of this machine's, 0x1"));
	CHECK_EQ(writes, 0);
	end_machine();

	machine(2);
	CHECK_EQ(restore(file, file_len), -EOPNOTSUPP);
	CHECK(said("the snapshot has a GICv3 with 96 interrupts for 2 vCPUs, this machine a GICv2"));
	CHECK_EQ(writes, 0);
	end_machine();

	machine(3);
	gic_refuses_iidr = true;
	CHECK_EQ(restore(file, file_len), -EINVAL);
	CHECK(said("register 0x8 of group 1: KVM_SET_DEVICE_ATTR: EINVAL"));
	CHECK(!pulses);
	end_machine();
}

static void save_fails(void)
{
	struct state_writer w;

	for (unsigned int n = 1; n <= NR_REGS * NR_CPUS; n++) {
		machine(2);
		fail_get = n;
		state_writer_init(&w, arch_name);
		arch_save(vm, &w);
		CHECK_EQ(w.err, -EINVAL);
		state_writer_fini(&w);
		end_machine();
	}
	CHECK(said("vCPU 1: register 0x6020000000110001: KVM_GET_ONE_REG: EINVAL"));
}

static void bad_values(void)
{
	struct state_section s;
	struct state_reader r;
	size_t at;

	machine(3);
	live();
	cpu[1].mp_state = 10; /* KVM_MP_STATE_SUSPENDED: nobody here has asked for it */
	save();
	CHECK_EQ(restore(file, file_len), -EBADMSG);
	CHECK(said("section VCPU 1: it is in state 10"));
	cpu[1].mp_state = 0;
	save();
	CHECK(!state_reader_open_memory(&r, "test", file, file_len, arch_name));
	CHECK(!state_reader_section(&r, &s, STATE_TAG('V', 'C', 'P', 'U'), 0));
	/* The first register's number: of x86, then of 512 bytes. */
	at = (size_t)(s.payload - r.buf) + 4 + 3 + 8 + 4;
	for (unsigned int i = 0; i < 2; i++) {
		memcpy(file, r.buf, r.len);
		state_file_store(file + at, i ? X0 | 9ull << 52 : X0 ^ 0x5000000000000000, 8);
		at = (size_t)(s.payload - r.buf);
		state_file_store(file + at - 4,
				 crc32(crc32(0, file + at - 24, 20), file + at, s.len), 4);
		state_file_store(file + r.len - 4, crc32(0, file, r.len - 4), 4);
		reset_counts();
		CHECK_EQ(restore(file, r.len), -EBADMSG);
		CHECK(said("is no register"));
		CHECK_EQ(writes, 0);
		at += 4 + 3 + 8 + 4;
	}
	state_reader_close(&r);
	end_machine();
}

int main(void)
{
	log_fd = memfd_create("log", 0);
	log_set_fd(log_fd, false);
	RUN(vcpus_round);
	RUN(gic_v3);
	RUN(gic_v2);
	RUN(truncations);
	RUN(other_hosts);
	RUN(save_fails);
	RUN(bad_values);
	return TEST_RESULT();
}
