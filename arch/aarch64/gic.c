/* SPDX-License-Identifier: MIT */
#include "arch/aarch64/gic.h"

#include <errno.h>
#include <stdint.h>
#include <unistd.h>
#include <linux/kvm.h>
#include "arch/aarch64/layout.h"
#include "vm/kvm.h"
#include "vm/log.h"
#include "vm/state_reader.h"
#include "vm/state_writer.h"

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

/*
 * The state: registers by the names of Arm IHI 0048 (GICv2) and IHI 0069 (GICv3), in the order in
 * which they are saved, lie in the file and are restored. That order is the one which restoring
 * wants:
 *
 *   GICD_IIDR first: it says which KVM this is, and without it a GICv2's groups take no write;
 *   GICD_CTLR before what makes an interrupt deliverable: KVM looks then whether it is to be
 *	queued, and a distributor that is switched on later doesn't look again;
 *   groups, routes, kinds (edge or level) and priorities before enable, line, pending and active;
 *   ICC_CTLR_EL1 before ICC_APnRm_EL1, of which its PRIbits say how many there are.
 *
 * A register that sets bits has one beside it that clears them: written with ones before.
 */
struct gic_row {
	uint8_t group;
	uint8_t nr;
	uint8_t stride;
	uint32_t first; /* offset, or what names it in this group */
	uint32_t clear; /* 0: the value is written as it is */
	uint32_t mask;	/* of what is state; 0: all */
};

#define DIST	 KVM_DEV_ARM_VGIC_GRP_DIST_REGS
#define CPU	 KVM_DEV_ARM_VGIC_GRP_CPU_REGS
#define REDIST	 KVM_DEV_ARM_VGIC_GRP_REDIST_REGS
#define SYSREG	 KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS
#define LEVEL	 KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO
#define SGI_BASE 0x10000 /* the redistributor's second page */

#define SPIS (LAYOUT_NR_INTIDS - LAYOUT_SPI_BASE)

/* ICC_*_EL1, as S3_op1_C12_crm_op2 and such. */
#define ICC(op1, crn, crm, op2) (3u << 14 | (op1) << 11 | (crn) << 7 | (crm) << 3 | (op2))
#define ICC_CTLR		ICC(0, 12, 12, 4)
#define ICC_AP0R0		ICC(0, 12, 8, 4)
#define ICC_AP1R0		ICC(0, 12, 9, 0)

static const struct gic_row v3_once[] = {
	{ DIST, 1, 4, 0x008, 0, 0 },			 /* GICD_IIDR */
	{ DIST, 1, 4, 0x000, 0, 0 },			 /* GICD_CTLR */
	{ DIST, SPIS / 32, 4, 0x084, 0, 0 },		 /* GICD_IGROUPR */
	{ DIST, SPIS, 8, 0x6100, 0, 0 },		 /* GICD_IROUTER; KVM has no Aff3 above */
	{ DIST, SPIS / 16, 4, 0xc08, 0, 0 },		 /* GICD_ICFGR */
	{ DIST, SPIS / 4, 4, 0x420, 0, 0 },		 /* GICD_IPRIORITYR */
	{ DIST, SPIS / 32, 4, 0x104, 0x184, 0 },	 /* GICD_ISENABLER */
	{ LEVEL, SPIS / 32, 32, LAYOUT_SPI_BASE, 0, 0 }, /* lines of SPIs */
	{ DIST, SPIS / 32, 4, 0x204, 0, 0 },		 /* GICD_ISPENDR: KVM clears too */
	{ DIST, SPIS / 32, 4, 0x304, 0x384, 0 },	 /* GICD_ISACTIVER */
	{ 0 },
};

static const struct gic_row v3_cpu[] = {
	{ REDIST, 2, 4, 0x070, 0, 0 },			/* GICR_PROPBASER */
	{ REDIST, 2, 4, 0x078, 0, 0 },			/* GICR_PENDBASER */
	{ REDIST, 1, 4, 0x000, 0, 0 },			/* GICR_CTLR */
	{ REDIST, 1, 4, 0x014, 0, 0 },			/* GICR_WAKER */
	{ REDIST, 1, 4, SGI_BASE + 0x080, 0, 0 },	/* GICR_IGROUPR0 */
	{ REDIST, 2, 4, SGI_BASE + 0xc00, 0, 0 },	/* GICR_ICFGR0, 1 */
	{ REDIST, 8, 4, SGI_BASE + 0x400, 0, 0 },	/* GICR_IPRIORITYR */
	{ REDIST, 1, 4, SGI_BASE + 0x100, SGI_BASE + 0x180, 0 }, /* GICR_ISENABLER0 */
	{ LEVEL, 1, 32, 0, 0, 0 },			/* lines of PPIs */
	{ REDIST, 1, 4, SGI_BASE + 0x200, 0, 0 },	/* GICR_ISPENDR0: KVM clears too */
	{ REDIST, 1, 4, SGI_BASE + 0x300, SGI_BASE + 0x380, 0 }, /* GICR_ISACTIVER0 */
	{ SYSREG, 1, 1, ICC(0, 12, 12, 5), 0, 0 },	/* ICC_SRE_EL1 */
	{ SYSREG, 1, 1, ICC_CTLR, 0, 0 },
	{ SYSREG, 2, 1, ICC(0, 12, 12, 6), 0, 0 },	/* ICC_IGRPEN0_EL1, ICC_IGRPEN1_EL1 */
	{ SYSREG, 1, 1, ICC(0, 4, 6, 0), 0, 0 },	/* ICC_PMR_EL1 */
	{ SYSREG, 1, 1, ICC(0, 12, 8, 3), 0, 0 },	/* ICC_BPR0_EL1 */
	{ SYSREG, 1, 1, ICC(0, 12, 12, 3), 0, 0 },	/* ICC_BPR1_EL1 */
	{ SYSREG, 4, 1, ICC_AP0R0, 0, 0 },		/* ICC_AP0Rn_EL1 */
	{ SYSREG, 4, 1, ICC_AP1R0, 0, 0 },		/* ICC_AP1Rn_EL1 */
	{ 0 },
};

static const struct gic_row v2_once[] = {
	{ DIST, 1, 4, 0x008, 0, 0 },		 /* GICD_IIDR */
	{ DIST, 1, 4, 0x000, 0, 0 },		 /* GICD_CTLR */
	{ DIST, SPIS / 32, 4, 0x084, 0, 0 },	 /* GICD_IGROUPR */
	{ DIST, SPIS / 4, 4, 0x820, 0, 0 },	 /* GICD_ITARGETSR */
	{ DIST, SPIS / 16, 4, 0xc08, 0, 0 },	 /* GICD_ICFGR */
	{ DIST, SPIS / 4, 4, 0x420, 0, 0 },	 /* GICD_IPRIORITYR */
	{ DIST, SPIS / 32, 4, 0x104, 0x184, 0 }, /* GICD_ISENABLER */
	{ DIST, SPIS / 32, 4, 0x204, 0x284, 0 }, /* GICD_ISPENDR */
	{ DIST, SPIS / 32, 4, 0x304, 0x384, 0 }, /* GICD_ISACTIVER */
	{ 0 },
};

/*
 * A GICv2 tells of a line's level only as pending: restored as that, the interrupt comes once, even
 * if its device has let go of the line by then. Pending SGIs are in GICD_SPENDSGIR, with who sent
 * them; KVM would make up a sender for those in GICD_ISPENDR0.
 */
static const struct gic_row v2_cpu[] = {
	{ DIST, 1, 4, 0x080, 0, 0 },		     /* GICD_IGROUPR0 */
	{ DIST, 2, 4, 0xc00, 0, 0 },		     /* GICD_ICFGR0, 1 */
	{ DIST, 8, 4, 0x400, 0, 0 },		     /* GICD_IPRIORITYR */
	{ DIST, 1, 4, 0x100, 0x180, 0 },	     /* GICD_ISENABLER0 */
	{ DIST, 1, 4, 0x200, 0x280, 0xffff0000 },    /* GICD_ISPENDR0 */
	{ DIST, 4, 4, 0xf20, 0xf10, 0 },	     /* GICD_SPENDSGIR */
	{ DIST, 1, 4, 0x300, 0x380, 0 },	     /* GICD_ISACTIVER0 */
	{ CPU, 1, 4, 0x00, 0, 0 },		     /* GICC_CTLR */
	{ CPU, 1, 4, 0x04, 0, 0 },		     /* GICC_PMR, five bits, as KVM has it */
	{ CPU, 1, 4, 0x08, 0, 0 },		     /* GICC_BPR */
	{ CPU, 1, 4, 0x1c, 0, 0 },		     /* GICC_ABPR */
	{ CPU, 4, 4, 0xd0, 0, 0 },		     /* GICC_APRn */
	{ 0 },
};

/* One walk over all registers, for saving (@w), and for reading (@s) with and without writing. */
struct gic_walk {
	const struct gic *gic;
	struct state_writer *w;
	struct state_section *s;
	bool apply;
	unsigned int nr_apr; /* of ICC_APnRm_EL1, on this vCPU */
	int err;
};

/* Gets or sets one register: 64 bits for system registers, 32 for all else. */
static void access_one(struct gic_walk *walk, bool set, uint32_t group, uint64_t attr,
		       uint64_t *value)
{
	uint32_t word = (uint32_t)*value;
	bool wide = group == SYSREG;
	struct kvm_device_attr arg = {
		.group = group,
		.attr = attr,
		.addr = wide ? (uint64_t)(uintptr_t)value : (uint64_t)(uintptr_t)&word,
	};
	int ret;

	if (walk->err)
		return;
	if (set)
		ret = kvm_ioctl_quiet(walk->gic->fd, KVM_SET_DEVICE_ATTR, &arg);
	else
		ret = kvm_ioctl_quiet(walk->gic->fd, KVM_GET_DEVICE_ATTR, &arg);
	if (ret < 0) {
		log_err("gic: register %#llx of group %u: %s: %s%s", (unsigned long long)attr, group,
			set ? "KVM_SET_DEVICE_ATTR" : "KVM_GET_DEVICE_ATTR", errno_name(ret),
			set ? ": the snapshot is of a GIC that this host's KVM can't make" : "");
		walk->err = ret;
	}
	if (!set && !wide)
		*value = word;
}

/* IHI 0069, ICC_CTLR_EL1.PRIbits and ICC_AP0Rn_EL1: 32 levels a register. */
static unsigned int nr_apr(uint64_t ctlr)
{
	unsigned int bits = (ctlr >> 8 & 7) + 1;

	return bits >= 7 ? 4 : bits == 6 ? 2 : 1;
}

static void walk_one(struct gic_walk *walk, const struct gic_row *row, unsigned int i, uint64_t cpu)
{
	bool apr = row->group == SYSREG && (row->first == ICC_AP0R0 || row->first == ICC_AP1R0);
	bool there = !apr || i < walk->nr_apr;
	uint64_t attr = cpu << KVM_DEV_ARM_VGIC_V3_MPIDR_SHIFT | (row->first + i * row->stride);
	uint64_t clear = cpu << KVM_DEV_ARM_VGIC_V3_MPIDR_SHIFT | (row->clear + i * row->stride);
	uint64_t ones = UINT64_MAX, value = 0;

	if (walk->w) {
		if (there)
			access_one(walk, false, row->group, attr, &value);
		if (row->mask)
			value &= row->mask;
		if (row->group == SYSREG)
			state_writer_u64(walk->w, value);
		else
			state_writer_u32(walk->w, (uint32_t)value);
	} else {
		value = row->group == SYSREG ? state_reader_u64(walk->s) : state_reader_u32(walk->s);
		if (!there && value)
			state_reader_bad(walk->s, "active priorities %#llx in a register that isn't there",
					 (unsigned long long)value);
		if (row->mask && value & ~(uint64_t)row->mask)
			state_reader_bad(walk->s, "pending SGIs among the others");
		if (walk->apply && !walk->s->err && there) {
			if (row->clear)
				access_one(walk, true, row->group, clear, &ones);
			access_one(walk, true, row->group, attr, &value);
		}
	}
	if (row->group == SYSREG && row->first == ICC_CTLR)
		walk->nr_apr = nr_apr(value);
}

/* @cpu: how the attributes name one, 0 for what all have together. */
static void walk_rows(struct gic_walk *walk, const struct gic_row *row, uint64_t cpu)
{
	for (; row->nr; row++) {
		for (unsigned int i = 0; i < row->nr; i++)
			walk_one(walk, row, i, cpu);
	}
}

static void walk_all(struct gic_walk *walk)
{
	const struct gic *gic = walk->gic;
	bool v2 = gic->version == 2;

	walk_rows(walk, v2 ? v2_once : v3_once, 0);
	for (unsigned int i = 0; i < gic->nr_cpus; i++) {
		/* Aff3 comes down to the others: 32 bits. */
		uint64_t cpu = v2 ? i : (gic->mpidr[i] >> 32 << 24 | (gic->mpidr[i] & 0xffffff));

		walk_rows(walk, v2 ? v2_cpu : v3_cpu, cpu);
	}
}

void gic_save(const struct gic *gic, struct state_writer *w)
{
	struct gic_walk walk = { .gic = gic, .w = w };

	state_writer_begin(w, GIC_STATE, 0, GIC_STATE_VERSION);
	state_writer_u8(w, (uint8_t)gic->version);
	state_writer_u32(w, LAYOUT_NR_INTIDS);
	state_writer_u32(w, gic->nr_cpus);
	walk_all(&walk);
	state_writer_end(w);
	if (walk.err)
		state_writer_fail(w, walk.err);
}

static int read_all(const struct gic *gic, const struct state_reader *r, bool apply)
{
	struct state_section s;
	struct gic_walk walk = { .gic = gic, .s = &s, .apply = apply };
	uint32_t version, nr_intids, nr_cpus;
	int err;

	err = state_reader_section(r, &s, GIC_STATE, 0);
	if (err)
		return err;
	version = state_reader_u8(&s);
	nr_intids = state_reader_u32(&s);
	nr_cpus = state_reader_u32(&s);
	if (!s.err && (version != gic->version || nr_intids != LAYOUT_NR_INTIDS ||
		       nr_cpus != gic->nr_cpus)) {
		log_err("gic: the snapshot has a GICv%u with %u interrupts for %u vCPUs, this machine a "
			"GICv%u with %u for %u: give it the same --gic and --cpus, or a host that has it",
			version, nr_intids, nr_cpus, gic->version, LAYOUT_NR_INTIDS, gic->nr_cpus);
		return -EOPNOTSUPP;
	}
	walk_all(&walk);
	err = state_reader_section_end(&s);
	return err ? err : walk.err;
}

int gic_check(const struct gic *gic, const struct state_reader *r)
{
	return read_all(gic, r, false);
}

int gic_restore(const struct gic *gic, const struct state_reader *r)
{
	return read_all(gic, r, true);
}
