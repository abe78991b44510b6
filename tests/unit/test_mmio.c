/* SPDX-License-Identifier: MIT */
/*
 * The virtio-mmio register file, register by register and state by state, on a device that notes
 * its calls.
 */
#include "virtio/mmio.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include "arch/arch.h"
#include "tests/unit/snapshot.h"
#include "tests/unit/test.h"
#include "vm/irq.h"
#include "vm/kvm.h"
#include "vm/log.h"
#include "vm/vm.h"

#define QUEUE_RESET 0x0c0 /* VIRTIO_MMIO_QUEUE_RESET of newer headers */

/*
 * --- KVM and the architecture, as far as the transport asks -----------------------------------------
 */

static struct {
	struct kvm_ioeventfd io[32];
	unsigned int nr_io;
	unsigned int fail_at; /* the how manieth KVM_IOEVENTFD assignment fails, from 1; 0: none */
	unsigned int nr_irqfd;
	bool readonly_mem; /* KVM_CAP_READONLY_MEM */
	struct {
		struct kvm_userspace_memory_region arg;
		uint32_t generation, config[4]; /* what the page said then */
	} slot[8];
	unsigned int nr_slot, slot_fail_at;
	uint32_t *cleaned; /* what a guest sees that reads past the cache */
	const uint32_t *page;
} kvm;

static int kvm_slot(const struct kvm_userspace_memory_region *arg)
{
	const uint32_t *reg = (const uint32_t *)(uintptr_t)arg->userspace_addr;

	if (kvm.nr_slot == 8)
		return -ENOSPC;
	kvm.slot[kvm.nr_slot].arg = *arg;
	kvm.slot[kvm.nr_slot].generation = reg[VIRTIO_MMIO_CONFIG_GENERATION / 4];
	memcpy(kvm.slot[kvm.nr_slot].config, reg + VIRTIO_MMIO_CONFIG / 4, 16);
	kvm.nr_slot++;
	return kvm.nr_slot == kvm.slot_fail_at ? -ENOMEM : 0;
}

int kvm_has(int fd, int cap)
{
	return cap == KVM_CAP_READONLY_MEM && kvm.readonly_mem;
}

static void cache_clean(const void *p)
{
	uintptr_t i = (uintptr_t)p - (uintptr_t)kvm.page;

	/* Of several, the one that was made last is watched. */
	if (i < VIRTIO_MMIO_PAGE)
		kvm.cleaned[i / 4] = kvm.page[i / 4];
}

void (*const arch_cache_clean)(const void *p) = cache_clean;

/* From now on each word of @reg that changes has to be cleaned. */
static void watch_page(struct virtio_mmio *mmio)
{
	static uint32_t cleaned[VIRTIO_MMIO_WORDS];

	memcpy(cleaned, mmio->reg, sizeof(cleaned));
	kvm.cleaned = cleaned;
	kvm.page = mmio->reg;
	mmio->clean = cache_clean;
}

int kvm_ioctl_raw(int fd, unsigned long request, void *arg)
{
	if (request == KVM_IOEVENTFD && kvm.nr_io < 32) {
		kvm.io[kvm.nr_io++] = *(const struct kvm_ioeventfd *)arg;
		return kvm.fail_at && kvm.nr_io == kvm.fail_at ? -ENOSPC : 0;
	}
	if (request == KVM_IRQFD) {
		kvm.nr_irqfd++;
		return 0;
	}
	if (request == KVM_SET_USER_MEMORY_REGION)
		return kvm_slot(arg);
	return -ENOTTY;
}

int kvm_ioctl_named(int fd, unsigned long request, const char *name, void *arg)
{
	return kvm_ioctl_raw(fd, request, arg);
}

uint32_t arch_irq_number(uint32_t gsi)
{
	return gsi;
}

void arch_virtio_slot(unsigned int i, struct arch_slot *slot)
{
	*slot = (struct arch_slot){ .base = 0xd0000000 + 0x1000 * i, .size = 0x1000, .gsi = 5 + i };
}

/*
 * --- a device ----------------------------------------------------------------------------------------
 */

#define NR_QUEUES 3
#define RAM_GPA	  0x10000
#define RAM_SIZE  0x10000

static struct {
	uint64_t addr;
	uint32_t size;
} kept[64];
static unsigned int nr_kept;

void coalesced_add(struct vm *vm, bool pio, uint64_t addr, uint32_t size)
{
	(void)vm;
	CHECK(!pio);
	kept[nr_kept % 64].addr = addr;
	kept[nr_kept++ % 64].size = size;
}

struct fake {
	struct virtio_dev dev;
	struct virtio_mmio mmio;
	struct memory mem;
	struct irq_line irq;
	uint8_t *ram;
	/* What was called, and what to answer. */
	unsigned int activated, reset, kicked[NR_QUEUES], queue_reset[NR_QUEUES], config_writes;
	int activate_ret;
	uint64_t acked_then;
	unsigned int write_offset, write_len;
	uint8_t write_data[8];
	bool break_on_kick;
	unsigned int paused, resumed, loaded;
	int resume_ret;
	uint32_t own; /* what only the device knows */
};

static struct fake *fake_of(struct virtio_dev *dev)
{
	return (struct fake *)((char *)dev - offsetof(struct fake, dev));
}

static int fake_activate(struct virtio_dev *dev)
{
	struct fake *f = fake_of(dev);

	f->activated++;
	f->acked_then = dev->acked;
	return f->activate_ret;
}

static void fake_reset(struct virtio_dev *dev)
{
	fake_of(dev)->reset++;
}

static void fake_kick(struct virtio_dev *dev, unsigned int q)
{
	struct fake *f = fake_of(dev);

	f->kicked[q]++;
	if (f->break_on_kick)
		virtio_broken(dev, "test");
}

static void fake_config_write(struct virtio_dev *dev, unsigned int offset, const uint8_t *data,
			      unsigned int len)
{
	struct fake *f = fake_of(dev);

	f->config_writes++;
	f->write_offset = offset;
	f->write_len = len;
	memcpy(f->write_data, data, len);
	/* Byte 1 is the only one that the driver may change. */
	if (offset <= 1 && 1 - offset < len)
		dev->config[1] = data[1 - offset];
}

static void fake_queue_reset(struct virtio_dev *dev, unsigned int q)
{
	fake_of(dev)->queue_reset[q]++;
}

static const struct virtio_ops fake_ops = {
	.name = "fake",
	.activate = fake_activate,
	.reset = fake_reset,
	.kick = fake_kick,
	.config_write = fake_config_write,
};

static const struct virtio_ops fake_ops_with_queue_reset = {
	.name = "fake",
	.activate = fake_activate,
	.reset = fake_reset,
	.kick = fake_kick,
	.config_write = fake_config_write,
	.queue_reset = fake_queue_reset,
};

static void fake_pause(struct virtio_dev *dev)
{
	CHECK(dev->paused && dev->active);
	fake_of(dev)->paused++;
}

static int fake_resume(struct virtio_dev *dev)
{
	CHECK(!dev->paused && dev->active);
	fake_of(dev)->resumed++;
	return fake_of(dev)->resume_ret;
}

static void fake_save(struct virtio_dev *dev, struct state_writer *w)
{
	state_writer_u32(w, fake_of(dev)->own);
}

static void fake_load(struct virtio_dev *dev, struct state_section *s)
{
	fake_of(dev)->own = state_reader_u32(s);
	fake_of(dev)->loaded++;
	if (!s->err && fake_of(dev)->own == 13)
		state_reader_bad(s, "13 can't be");
}

static const struct virtio_ops fake_ops_with_state = {
	.name = "fake",
	.activate = fake_activate,
	.reset = fake_reset,
	.kick = fake_kick,
	.config_write = fake_config_write,
	.queue_reset = fake_queue_reset,
	.pause = fake_pause,
	.resume = fake_resume,
	.save = fake_save,
	.load = fake_load,
};

#define FAKE_ID	      0x2a
#define FAKE_FEATURES (1ULL << 0 | 1ULL << 5 | 1ULL << 36)
#define RING_FEATURES (1ULL << VIRTIO_RING_F_INDIRECT_DESC | 1ULL << VIRTIO_RING_F_EVENT_IDX)
#define VERSION_1     (1ULL << VIRTIO_F_VERSION_1)
#define RING_RESET    (1ULL << VIRTIO_F_RING_RESET)
#define OFFERED	      (FAKE_FEATURES | RING_FEATURES | VERSION_1)
#define CONFIG_LEN    13

static void fake_init_dev(struct fake *f, const struct virtio_ops *ops)
{
	f->dev.features = FAKE_FEATURES;
	f->dev.queue_max[1] = 64;
	f->dev.config_len = CONFIG_LEN;
	for (unsigned int i = 0; i < CONFIG_LEN; i++)
		f->dev.config[i] = 0xc0 + i;
	/* Bytes beyond the length are the device's own and not the driver's. */
	for (unsigned int i = CONFIG_LEN; i < VIRTIO_MAX_CONFIG; i++)
		f->dev.config[i] = 0xee;
	virtio_dev_init(&f->dev, ops, FAKE_ID, NR_QUEUES);
}

static struct fake *fake_new_on(const struct virtio_ops *ops, struct event_loop *loop)
{
	struct fake *f = calloc(1, sizeof(*f));
	void *p = NULL;

	if (!f || posix_memalign(&p, 4096, RAM_SIZE))
		exit(1);
	memset(p, 0, RAM_SIZE);
	f->ram = p;
	memory_init(&f->mem, -1);
	f->mem.region[f->mem.nr++] = (struct memory_region){ .gpa = RAM_GPA, .size = RAM_SIZE, .hva = p };
	f->irq.gsi = 5;
	f->irq.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	fake_init_dev(f, ops);
	/* Whatever was in the struct before. */
	memset(&f->mmio, 0xa5, sizeof(f->mmio));
	CHECK_EQ(virtio_mmio_init(&f->mmio, &f->dev, &f->mem, loop, &f->irq), 0);
	watch_page(&f->mmio);
	return f;
}

static struct fake *fake_new(void)
{
	return fake_new_on(&fake_ops, NULL);
}

static void fake_free(struct fake *f)
{
	if (f->dev.mmio)
		virtio_mmio_fini(&f->mmio);
	virtio_dev_fini(&f->dev);
	close(f->irq.fd);
	free(f->ram);
	free(f);
}

/* How often the eventfd was written to since the last time. */
static uint64_t drained(int fd)
{
	uint64_t n = 0;

	return read(fd, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

static uint64_t interrupts(struct fake *f)
{
	return drained(f->irq.fd);
}

/*
 * --- a driver ----------------------------------------------------------------------------------------
 */

static uint64_t rd_len(struct fake *f, uint64_t offset, unsigned int len)
{
	uint8_t data[9];
	uint64_t v = 0;

	memset(data, 0x5a, sizeof(data));
	virtio_mmio_access(&f->mmio, offset, data, len, false);
	CHECK_EQ(data[len], 0x5a);
	/* A guest that has the page reads the same, and so does one that reads past the cache. */
	if (kvm.page == f->mmio.reg) {
		if (offset < VIRTIO_MMIO_PAGE && len <= VIRTIO_MMIO_PAGE - offset && (len & (len - 1)) == 0)
			CHECK(!memcmp(data, (uint8_t *)f->mmio.reg + offset, len));
		CHECK(!memcmp(kvm.cleaned, f->mmio.reg, VIRTIO_MMIO_PAGE));
	}
	memcpy(&v, data, len);
	return le64toh(v);
}

static void wr_len(struct fake *f, uint64_t offset, uint64_t v, unsigned int len)
{
	uint8_t data[8];

	v = htole64(v);
	memcpy(data, &v, 8);
	virtio_mmio_access(&f->mmio, offset, data, len, true);
}

static uint32_t rd(struct fake *f, uint64_t offset)
{
	return rd_len(f, offset, 4);
}

static void wr(struct fake *f, uint64_t offset, uint32_t v)
{
	wr_len(f, offset, v, 4);
}

static uint32_t status(struct fake *f)
{
	return rd(f, VIRTIO_MMIO_STATUS);
}

static uint32_t set_status(struct fake *f, uint32_t v)
{
	wr(f, VIRTIO_MMIO_STATUS, v);
	return status(f);
}

static void want_features(struct fake *f, uint64_t features)
{
	wr(f, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	wr(f, VIRTIO_MMIO_DRIVER_FEATURES, features);
	wr(f, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	wr(f, VIRTIO_MMIO_DRIVER_FEATURES, features >> 32);
}

#define ACK	    1
#define DRIVER	    2
#define DRIVER_OK   4
#define FEATURES_OK 8
#define NEEDS_RESET 0x40
#define FAILED	    0x80
#define NEGOTIATED  (ACK | DRIVER | FEATURES_OK)
#define RUNNING	    (NEGOTIATED | DRIVER_OK)

static void negotiate(struct fake *f, uint64_t features)
{
	CHECK_EQ(set_status(f, ACK), ACK);
	CHECK_EQ(set_status(f, ACK | DRIVER), ACK | DRIVER);
	want_features(f, features);
	CHECK_EQ(set_status(f, NEGOTIATED), NEGOTIATED);
}

/* Where queue @q of 8 has its rings. */
static uint64_t ring_gpa(unsigned int q)
{
	return RAM_GPA + 0x1000 * q;
}

static void write_addrs(struct fake *f, uint64_t desc, uint64_t avail, uint64_t used)
{
	wr(f, VIRTIO_MMIO_QUEUE_DESC_LOW, desc);
	wr(f, VIRTIO_MMIO_QUEUE_DESC_HIGH, desc >> 32);
	wr(f, VIRTIO_MMIO_QUEUE_AVAIL_LOW, avail);
	wr(f, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, avail >> 32);
	wr(f, VIRTIO_MMIO_QUEUE_USED_LOW, used);
	wr(f, VIRTIO_MMIO_QUEUE_USED_HIGH, used >> 32);
}

static void set_queue(struct fake *f, unsigned int q)
{
	wr(f, VIRTIO_MMIO_QUEUE_SEL, q);
	wr(f, VIRTIO_MMIO_QUEUE_NUM, 8);
	write_addrs(f, ring_gpa(q), ring_gpa(q) + 0x100, ring_gpa(q) + 0x200);
	wr(f, VIRTIO_MMIO_QUEUE_READY, 1);
}

static void start(struct fake *f, uint64_t features)
{
	negotiate(f, features);
	for (unsigned int q = 0; q < NR_QUEUES; q++)
		set_queue(f, q);
	CHECK_EQ(set_status(f, RUNNING), RUNNING);
}

/*
 * --- tests -------------------------------------------------------------------------------------------
 */

static void power_on_registers(void)
{
	static const struct {
		unsigned int offset;
		uint32_t value;
	} regs[] = {
		{ VIRTIO_MMIO_MAGIC_VALUE, 0x74726976 },
		{ VIRTIO_MMIO_VERSION, 2 },
		{ VIRTIO_MMIO_DEVICE_ID, FAKE_ID },
		{ VIRTIO_MMIO_VENDOR_ID, 0x74696e76 },
		{ VIRTIO_MMIO_DEVICE_FEATURES, (uint32_t)OFFERED },
		{ VIRTIO_MMIO_QUEUE_NUM_MAX, 256 },
		{ VIRTIO_MMIO_INTERRUPT_STATUS, 1 },
		{ VIRTIO_MMIO_SHM_LEN_LOW, UINT32_MAX },
		{ VIRTIO_MMIO_SHM_LEN_HIGH, UINT32_MAX },
		{ VIRTIO_MMIO_SHM_BASE_LOW, UINT32_MAX },
		{ VIRTIO_MMIO_SHM_BASE_HIGH, UINT32_MAX },
	};
	struct fake *f = fake_new();

	for (unsigned int offset = 0; offset < 0x100; offset += 4) {
		uint32_t want = 0;

		for (unsigned int i = 0; i < sizeof(regs) / sizeof(regs[0]); i++) {
			if (regs[i].offset == offset)
				want = regs[i].value;
		}
		if (rd(f, offset) != want)
			printf("  register %#x\n", offset);
		CHECK_EQ(rd(f, offset), want);
		/* The page says the same. */
		CHECK_EQ(le32toh(f->mmio.reg[offset / 4]), want);
	}
	fake_free(f);
}

/* Everything that a driver can change, in one piece. */
struct picture {
	struct virtio_mmio mmio;
	uint32_t reg[VIRTIO_MMIO_WORDS];
	struct queue vq[VIRTIO_MAX_QUEUES];
	uint8_t config[VIRTIO_MAX_CONFIG];
	uint64_t acked;
	unsigned int calls;
};

static struct picture *picture(struct fake *f)
{
	struct picture *p = calloc(1, sizeof(*p));

	if (!p)
		exit(1);
	memcpy(&p->mmio, &f->mmio, sizeof(p->mmio));
	memcpy(p->reg, f->mmio.reg, sizeof(p->reg));
	memcpy(p->vq, f->dev.vq, sizeof(p->vq));
	memcpy(p->config, f->dev.config, sizeof(p->config));
	p->acked = f->dev.acked;
	p->calls = f->activated + f->reset + f->config_writes;
	return p;
}

static bool unchanged(struct fake *f, struct picture *before)
{
	struct picture *now = picture(f);
	bool same = !memcmp(now, before, sizeof(*now));

	free(now);
	return same;
}

/*
 * In a state where every aligned write would do something, nothing else does. Reads are the page's,
 * but for those of a width that no load has.
 */
static void registers_take_4_bytes(void)
{
	static const uint64_t values[] = { 0, 1, 2, 0x80, UINT64_MAX };
	struct fake *f = fake_new();
	struct picture *before;
	unsigned int bad = 0;

	negotiate(f, OFFERED);
	set_queue(f, 0);
	wr(f, VIRTIO_MMIO_QUEUE_SEL, 1);
	before = picture(f);
	for (unsigned int offset = 0; offset < 0x100; offset++) {
		for (unsigned int len = 1; len <= 8; len++) {
			if (len == 4 && offset % 4 == 0)
				continue;
			bad += len & (len - 1) && rd_len(f, offset, len) != 0;
			rd_len(f, offset, len);
			for (unsigned int i = 0; i < 5; i++)
				wr_len(f, offset, values[i], len);
		}
	}
	CHECK_EQ(bad, 0);
	CHECK(unchanged(f, before));
	free(before);
	fake_free(f);
}

static void read_only_registers(void)
{
	static const unsigned int regs[] = { 0x00, 0x04, 0x08, 0x0c, 0x10, 0x34, 0x60, 0xb0, 0xb4, 0xb8, 0xbc,
					     0xfc,
					     /* of version 1, or of nobody */
					     0x18, 0x1c, 0x28, 0x2c, 0x3c, 0x40, 0x48, 0x4c, 0x54, 0x58, 0x5c,
					     0x68, 0x6c, 0x74, 0x78, 0x7c, 0x88, 0x8c, 0x98, 0x9c, 0xa8, 0xc4,
					     0xc8, 0xcc, 0xd0, 0xf0, 0xf8 };
	struct fake *f = fake_new();
	struct picture *before;

	negotiate(f, OFFERED);
	before = picture(f);
	for (unsigned int i = 0; i < sizeof(regs) / sizeof(regs[0]); i++) {
		wr(f, regs[i], 0);
		wr(f, regs[i], 1);
		wr(f, regs[i], UINT32_MAX);
		if (!unchanged(f, before))
			printf("  register %#x\n", regs[i]);
		CHECK(unchanged(f, before));
	}
	free(before);
	fake_free(f);
}

/*
 * Writes to Status after a reset, and what it reads after each; want_features() comes before the
 * first FEATURES_OK.
 */
static const struct {
	const char *name;
	uint32_t write[6], want[6];
} orders[] = {
	{ "Linux's order", { ACK, 3, 11, 15 }, { ACK, 3, 11, 15 } },
	{ "ACKNOWLEDGE and DRIVER at once", { 3, 11, 15 }, { 3, 11, 15 } },
	{ "all but the last at once", { 11, 15 }, { 11, 15 } },
	{ "DRIVER_OK with FEATURES_OK", { 3, 15, 15 }, { 3, 11, 15 } },
	{ "all at once", { 15, 15 }, { 11, 15 } },
	{ "DRIVER first", { DRIVER, ACK }, { 0, ACK } },
	{ "FEATURES_OK first", { FEATURES_OK }, { 0 } },
	{ "FEATURES_OK without DRIVER", { ACK, ACK | FEATURES_OK }, { ACK, ACK } },
	{ "DRIVER_OK first", { DRIVER_OK }, { 0 } },
	{ "DRIVER_OK without FEATURES_OK", { 3, 7 }, { 3, 3 } },
	{ "bits taken back", { 3, ACK, DRIVER, 11, 3, 9 }, { 3, 3, 3, 11, 11, 11 } },
	{ "bits taken back at the end", { 3, 11, 15, 11, 7, DRIVER_OK }, { 3, 11, 15, 15, 15, 15 } },
	{ "a bit swapped for another", { ACK, DRIVER }, { ACK, ACK } },
	{ "the same again", { ACK, ACK, 3, 3, 11, 11 }, { ACK, ACK, 3, 3, 11, 11 } },
	{ "FAILED at once", { FAILED }, { FAILED } },
	{ "FAILED keeps the rest", { 3, 3 | FAILED, 11 | FAILED }, { 3, 0x83, 0x83 } },
	{ "FAILED alone keeps the rest", { 3, FAILED }, { 3, 0x83 } },
	{ "nothing after FAILED", { 3, 0x83, 3, 11, 0x8f }, { 3, 0x83, 0x83, 0x83, 0x83 } },
	{ "nothing after FAILED but 0", { 3, 0x83, 0, 3, 11 }, { 3, 0x83, 0, 3, 3 } },
	{ "NEEDS_RESET is not the driver's", { 0x41, 0x40, 0x43 }, { ACK, ACK, 3 } },
	{ "bits that are none", { 0x11, 0x21, 0x101, 0x80000001, 1 }, { 0, 0, 0, 0, 1 } },
	{ "0 at any time", { 3, 11, 15, 0, 1 }, { 3, 11, 15, 0, 1 } },
};

static void status_order(void)
{
	for (unsigned int i = 0; i < sizeof(orders) / sizeof(orders[0]); i++) {
		struct fake *f = fake_new();
		bool was_running = false;

		want_features(f, VERSION_1);
		for (unsigned int k = 0; k < 6 && (k == 0 || orders[i].write[k] || orders[i].want[k - 1]); k++) {
			uint32_t got = set_status(f, orders[i].write[k]);

			if (got != orders[i].want[k])
				printf("  %s, write %u: %#x\n", orders[i].name, k, got);
			CHECK_EQ(got, orders[i].want[k]);
			was_running |= got & DRIVER_OK;
			if (!got && !orders[i].write[k])
				CHECK(!f->dev.active);
			else
				CHECK_EQ(f->dev.active, !!(got & DRIVER_OK));
		}
		/* Once, however often it was written. */
		CHECK_EQ(f->activated, was_running);
		CHECK_EQ(interrupts(f), 0);
		fake_free(f);
	}
}

static void feature_words(void)
{
	struct fake *f = fake_new();
	static const uint32_t sels[] = { 0, 1, 2, 3, 31, 32, 33, 0x80000000, 0x80000001, UINT32_MAX };

	for (unsigned int i = 0; i < sizeof(sels) / sizeof(sels[0]); i++) {
		wr(f, VIRTIO_MMIO_DEVICE_FEATURES_SEL, sels[i]);
		CHECK_EQ(rd(f, VIRTIO_MMIO_DEVICE_FEATURES),
			 sels[i] == 0 ? (uint32_t)OFFERED : sels[i] == 1 ? OFFERED >> 32 : 0);
	}
	/* A word that is none is not another. */
	want_features(f, VERSION_1 | 1);
	for (unsigned int i = 2; i < sizeof(sels) / sizeof(sels[0]); i++) {
		wr(f, VIRTIO_MMIO_DRIVER_FEATURES_SEL, sels[i]);
		wr(f, VIRTIO_MMIO_DRIVER_FEATURES, 0x55aa55aa);
	}
	CHECK_EQ(f->mmio.driver_features, VERSION_1 | 1);
	fake_free(f);
}

static void feature_negotiation(void)
{
	static const struct {
		const char *name;
		uint64_t features;
		bool ok;
	} cases[] = {
		{ "all that is offered", OFFERED, true },
		{ "VERSION_1 alone", VERSION_1, true },
		{ "nothing", 0, false },
		{ "all but VERSION_1", OFFERED & ~VERSION_1, false },
		{ "one never offered, low", VERSION_1 | 1 << 1, false },
		{ "LOG_ALL", VERSION_1 | 1 << 26, false },
		{ "ACCESS_PLATFORM", VERSION_1 | 1ULL << 33, false },
		{ "RING_RESET of a device without", VERSION_1 | RING_RESET, false },
		{ "bit 63", VERSION_1 | 1ULL << 63, false },
		{ "all ones", UINT64_MAX, false },
	};

	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct fake *f = fake_new();

		set_status(f, 3);
		want_features(f, cases[i].features);
		if ((set_status(f, NEGOTIATED) == NEGOTIATED) != cases[i].ok) {
			printf("  %s\n", cases[i].name);
			CHECK(0);
		}
		CHECK_EQ(f->dev.acked, cases[i].ok ? cases[i].features : 0);
		if (!cases[i].ok) {
			/* The driver may think again. */
			CHECK_EQ(status(f), 3);
			want_features(f, VERSION_1);
			CHECK_EQ(set_status(f, NEGOTIATED), NEGOTIATED);
			CHECK_EQ(f->dev.acked, VERSION_1);
		}
		/* And not any more now. */
		want_features(f, UINT64_MAX);
		CHECK(f->mmio.driver_features != UINT64_MAX);
		CHECK_EQ(set_status(f, RUNNING), RUNNING);
		CHECK_EQ(f->acked_then, cases[i].ok ? cases[i].features : VERSION_1);
		fake_free(f);
	}

	/*
	 * What a device that names its ring features itself, and one that can reset a queue, offer.
	 */
	struct fake *f = fake_new_on(&fake_ops_with_queue_reset, NULL);

	CHECK_EQ(f->mmio.offered, OFFERED | RING_RESET);
	virtio_mmio_fini(&f->mmio);
	f->dev.no_ring_features = true;
	CHECK_EQ(virtio_mmio_init(&f->mmio, &f->dev, &f->mem, NULL, &f->irq), 0);
	watch_page(&f->mmio);
	CHECK_EQ(f->mmio.offered, FAKE_FEATURES | VERSION_1 | RING_RESET);
	fake_free(f);
}

static void queue_selectors(void)
{
	static const struct {
		uint32_t sel, max;
	} cases[] = {
		{ 0, 256 }, { 1, 64 }, { 2, 256 }, { 3, 0 }, { 7, 0 }, { 8, 0 }, { 31, 0 }, { 32, 0 },
		{ 0x100, 0 }, { 0x10000, 0 }, { 0x80000000, 0 }, { UINT32_MAX, 0 },
	};
	struct fake *f = fake_new();

	negotiate(f, VERSION_1);
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct queue before[VIRTIO_MAX_QUEUES];

		wr(f, VIRTIO_MMIO_QUEUE_SEL, cases[i].sel);
		CHECK_EQ(rd(f, VIRTIO_MMIO_QUEUE_NUM_MAX), cases[i].max);
		CHECK_EQ(rd(f, VIRTIO_MMIO_QUEUE_READY), 0);
		if (cases[i].max)
			continue;
		memcpy(before, f->dev.vq, sizeof(before));
		wr(f, VIRTIO_MMIO_QUEUE_NUM, 8);
		write_addrs(f, RAM_GPA, RAM_GPA, RAM_GPA);
		wr(f, VIRTIO_MMIO_QUEUE_READY, 1);
		wr(f, VIRTIO_MMIO_QUEUE_READY, 0);
		wr(f, QUEUE_RESET, 1);
		CHECK_EQ(rd(f, VIRTIO_MMIO_QUEUE_READY), 0);
		CHECK(!memcmp(before, f->dev.vq, sizeof(before)));
	}
	/* QueueReady is the selected queue's. */
	set_queue(f, 1);
	CHECK_EQ(rd(f, VIRTIO_MMIO_QUEUE_READY), 1);
	wr(f, VIRTIO_MMIO_QUEUE_SEL, 0);
	CHECK_EQ(rd(f, VIRTIO_MMIO_QUEUE_READY), 0);
	wr(f, VIRTIO_MMIO_QUEUE_SEL, 1);
	CHECK_EQ(rd(f, VIRTIO_MMIO_QUEUE_READY), 1);
	wr(f, VIRTIO_MMIO_QUEUE_SEL, 3);
	CHECK_EQ(rd(f, VIRTIO_MMIO_QUEUE_READY), 0);
	fake_free(f);
}

static void queue_sizes(void)
{
	/* Queue 1 takes 64 at most. */
	static const struct {
		uint32_t num;
		bool ok;
	} cases[] = {
		{ 0, false }, { 1, true }, { 2, true }, { 3, false }, { 4, true }, { 63, false }, { 64, true },
		{ 65, false }, { 128, false }, { 256, false }, { 0x10000, false }, { 0x10008, false },
		{ 0x80000000, false }, { UINT32_MAX, false },
	};

	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct fake *f = fake_new();

		negotiate(f, VERSION_1);
		wr(f, VIRTIO_MMIO_QUEUE_SEL, 1);
		/* A good size before does not help a bad one. */
		wr(f, VIRTIO_MMIO_QUEUE_NUM, 4);
		wr(f, VIRTIO_MMIO_QUEUE_NUM, cases[i].num);
		write_addrs(f, ring_gpa(1), ring_gpa(1) + 0x400, ring_gpa(1) + 0x800);
		wr(f, VIRTIO_MMIO_QUEUE_READY, 1);
		CHECK_EQ(rd(f, VIRTIO_MMIO_QUEUE_READY), cases[i].ok);
		CHECK_EQ(set_status(f, RUNNING), RUNNING);
		CHECK_EQ(f->dev.vq[1].active, cases[i].ok);
		fake_free(f);
	}
}

/* QueueReady takes 0 and 1. READY before anything was set up is refused. */
static void queue_ready_values(void)
{
	struct fake *f = fake_new();

	negotiate(f, VERSION_1);
	wr(f, VIRTIO_MMIO_QUEUE_READY, 1);
	CHECK_EQ(rd(f, VIRTIO_MMIO_QUEUE_READY), 0);
	wr(f, VIRTIO_MMIO_QUEUE_NUM, 8);
	write_addrs(f, ring_gpa(0), ring_gpa(0) + 0x100, ring_gpa(0) + 0x200);
	wr(f, VIRTIO_MMIO_QUEUE_READY, 2);
	CHECK_EQ(rd(f, VIRTIO_MMIO_QUEUE_READY), 0);
	wr(f, VIRTIO_MMIO_QUEUE_READY, UINT32_MAX);
	CHECK_EQ(rd(f, VIRTIO_MMIO_QUEUE_READY), 0);
	wr(f, VIRTIO_MMIO_QUEUE_READY, 1);
	CHECK_EQ(rd(f, VIRTIO_MMIO_QUEUE_READY), 1);
	wr(f, VIRTIO_MMIO_QUEUE_READY, 2);
	CHECK_EQ(rd(f, VIRTIO_MMIO_QUEUE_READY), 1);
	/* Before DRIVER_OK 0 makes its registers writable again. */
	wr(f, VIRTIO_MMIO_QUEUE_READY, 0);
	CHECK_EQ(rd(f, VIRTIO_MMIO_QUEUE_READY), 0);
	wr(f, VIRTIO_MMIO_QUEUE_NUM, 16);
	CHECK_EQ(f->dev.vq[0].num, 16);
	fake_free(f);
}

static void addresses_join_halves(void)
{
	struct fake *f = fake_new();

	negotiate(f, VERSION_1);
	write_addrs(f, 0x1111111122222222, 0x3333333344444444, 0x5555555566666666);
	CHECK_EQ(f->dev.vq[0].desc_gpa, 0x1111111122222222);
	CHECK_EQ(f->dev.vq[0].avail_gpa, 0x3333333344444444);
	CHECK_EQ(f->dev.vq[0].used_gpa, 0x5555555566666666);
	wr(f, VIRTIO_MMIO_QUEUE_DESC_LOW, 7);
	wr(f, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, 8);
	wr(f, VIRTIO_MMIO_QUEUE_USED_HIGH, 0);
	CHECK_EQ(f->dev.vq[0].desc_gpa, 0x1111111100000007);
	CHECK_EQ(f->dev.vq[0].avail_gpa, 0x844444444);
	CHECK_EQ(f->dev.vq[0].used_gpa, 0x66666666);
	fake_free(f);
}

/* The states a device can be in, and in which of them the registers of queue 0 can be written. */
enum state {
	AT_RESET, AT_ACK, AT_DRIVER, AT_FEATURES_OK, AT_READY, AT_UNREADY, AT_DRIVER_OK, AT_DRIVER_OK_UNUSED,
	AT_QUEUE_RESET, AT_QUEUE_AGAIN, AT_FAILED, AT_FAILED_EARLY, AT_FAILED_LATER, AT_NEEDS_RESET, AT_RESET_AGAIN, NR_STATES
};

static const bool queue_is_writable[NR_STATES] = {
	[AT_FEATURES_OK] = true, [AT_UNREADY] = true, [AT_QUEUE_RESET] = true,
};

static const bool features_are_writable[NR_STATES] = {
	[AT_RESET] = true, [AT_ACK] = true, [AT_DRIVER] = true, [AT_RESET_AGAIN] = true,
};

static struct fake *fake_at(enum state state)
{
	struct fake *f = fake_new_on(&fake_ops_with_queue_reset, NULL);

	switch (state) {
	case AT_RESET:
		return f;
	case AT_ACK:
		set_status(f, ACK);
		return f;
	case AT_DRIVER:
		set_status(f, ACK | DRIVER);
		return f;
	case AT_FAILED_EARLY:
		set_status(f, ACK | DRIVER | FAILED);
		return f;
	default:
		break;
	}
	negotiate(f, VERSION_1 | RING_RESET);
	if (state == AT_FEATURES_OK)
		return f;
	if (state == AT_FAILED_LATER) {
		set_status(f, NEGOTIATED | FAILED);
		return f;
	}
	if (state == AT_DRIVER_OK_UNUSED) {
		set_status(f, RUNNING);
		return f;
	}
	set_queue(f, 0);
	switch (state) {
	case AT_READY:
		return f;
	case AT_UNREADY:
		wr(f, VIRTIO_MMIO_QUEUE_READY, 0);
		return f;
	default:
		break;
	}
	CHECK_EQ(set_status(f, RUNNING), RUNNING);
	switch (state) {
	case AT_QUEUE_RESET:
		wr(f, QUEUE_RESET, 1);
		break;
	case AT_QUEUE_AGAIN:
		wr(f, QUEUE_RESET, 1);
		set_queue(f, 0);
		CHECK(f->dev.vq[0].active);
		break;
	case AT_FAILED:
		set_status(f, RUNNING | FAILED);
		break;
	case AT_NEEDS_RESET:
		wr(f, QUEUE_RESET, 1);
		virtio_broken(&f->dev, "test");
		break;
	case AT_RESET_AGAIN:
		set_status(f, 0);
		break;
	default:
		break;
	}
	return f;
}

static void registers_by_state(void)
{
	static const unsigned int regs[] = {
		VIRTIO_MMIO_QUEUE_NUM,	      VIRTIO_MMIO_QUEUE_DESC_LOW,  VIRTIO_MMIO_QUEUE_DESC_HIGH,
		VIRTIO_MMIO_QUEUE_AVAIL_LOW,  VIRTIO_MMIO_QUEUE_AVAIL_HIGH, VIRTIO_MMIO_QUEUE_USED_LOW,
		VIRTIO_MMIO_QUEUE_USED_HIGH,
	};

	for (enum state s = 0; s < NR_STATES; s++) {
		struct fake *f = fake_at(s);
		uint64_t was = f->mmio.driver_features;

		for (unsigned int i = 0; i < sizeof(regs) / sizeof(regs[0]); i++) {
			struct queue before = f->dev.vq[0];

			wr(f, regs[i], 32);
			if (!memcmp(&before, &f->dev.vq[0], sizeof(before)) == queue_is_writable[s]) {
				printf("  state %d, register %#x\n", s, regs[i]);
				CHECK(0);
			}
		}
		wr(f, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
		wr(f, VIRTIO_MMIO_DRIVER_FEATURES, 0x123);
		if ((f->mmio.driver_features != was) != features_are_writable[s]) {
			printf("  state %d, features\n", s);
			CHECK(0);
		}
		fake_free(f);

		/* Ready goes up where the registers can be written. */
		f = fake_at(s);
		bool was_ready = rd(f, VIRTIO_MMIO_QUEUE_READY);

		set_queue(f, 0);
		if (rd(f, VIRTIO_MMIO_QUEUE_READY) != (was_ready || queue_is_writable[s])) {
			printf("  state %d, ready\n", s);
			CHECK(0);
		}
		fake_free(f);
	}
}

static void activation(void)
{
	struct fake *f = fake_new();

	negotiate(f, VERSION_1);
	set_queue(f, 0);
	set_queue(f, 2);
	CHECK_EQ(f->activated, 0);
	CHECK(!f->dev.vq[0].active);
	CHECK_EQ(set_status(f, RUNNING), RUNNING);
	CHECK_EQ(f->activated, 1);
	CHECK(f->dev.active && f->dev.vq[0].active && !f->dev.vq[1].active && f->dev.vq[2].active);
	/* A first kick for those that are used, no interrupt. */
	CHECK_EQ(drained(f->mmio.kick_fd[0]), 1);
	CHECK_EQ(drained(f->mmio.kick_fd[1]), 0);
	CHECK_EQ(drained(f->mmio.kick_fd[2]), 1);
	CHECK_EQ(interrupts(f), 0);
	CHECK_EQ(virtio_kick_fd(&f->dev, 2), f->mmio.kick_fd[2]);
	CHECK_EQ(virtio_call_fd(&f->dev), f->irq.fd);
	fake_free(f);
}

static void activation_fails(void)
{
	static const struct {
		uint64_t desc, avail, used;
	} bad[] = {
		{ 0, 0, 0 },
		{ RAM_GPA + 8, RAM_GPA + 0x100, RAM_GPA + 0x200 },
		{ RAM_GPA, RAM_GPA + 0x101, RAM_GPA + 0x200 },
		{ RAM_GPA, RAM_GPA + 0x100, RAM_GPA + 0x202 },
		{ RAM_GPA + RAM_SIZE - 112, RAM_GPA + 0x100, RAM_GPA + 0x200 },
		{ RAM_GPA, RAM_GPA + RAM_SIZE, RAM_GPA + 0x200 },
		{ RAM_GPA, RAM_GPA + 0x100, UINT64_MAX - 3 },
		/* A device's registers are not RAM. */
		{ 0xd0000000, RAM_GPA + 0x100, RAM_GPA + 0x200 },
	};

	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct fake *f = fake_new();

		negotiate(f, VERSION_1);
		set_queue(f, 1);
		wr(f, VIRTIO_MMIO_QUEUE_SEL, 2);
		wr(f, VIRTIO_MMIO_QUEUE_NUM, 8);
		write_addrs(f, bad[i].desc, bad[i].avail, bad[i].used);
		wr(f, VIRTIO_MMIO_QUEUE_READY, 1);
		CHECK_EQ(rd(f, VIRTIO_MMIO_QUEUE_READY), 1);
		CHECK_EQ(set_status(f, RUNNING), RUNNING | NEEDS_RESET);
		CHECK_EQ(f->activated, 0);
		CHECK(!f->dev.active && !f->dev.vq[1].active && !f->dev.vq[2].active);
		CHECK_EQ(interrupts(f), 1);
		CHECK_EQ(rd(f, VIRTIO_MMIO_INTERRUPT_STATUS), 3);
		CHECK_EQ(drained(f->mmio.kick_fd[1]), 0);
		fake_free(f);
	}
}

static void device_refuses(void)
{
	struct fake *f = fake_new();

	f->activate_ret = -EIO;
	negotiate(f, VERSION_1);
	set_queue(f, 0);
	CHECK_EQ(set_status(f, RUNNING), RUNNING | NEEDS_RESET);
	CHECK_EQ(f->activated, 1);
	CHECK_EQ(f->reset, 1);
	CHECK(!f->dev.active && !f->dev.vq[0].active);
	CHECK_EQ(interrupts(f), 1);
	/* The driver resets it and tries again. */
	f->activate_ret = 0;
	CHECK_EQ(set_status(f, 0), 0);
	CHECK_EQ(rd(f, VIRTIO_MMIO_INTERRUPT_STATUS), 1);
	start(f, VERSION_1);
	CHECK_EQ(f->activated, 2);
	CHECK(f->dev.active);
	fake_free(f);
}

static void reset_forgets(void)
{
	struct fake *f = fake_new();
	uint32_t page[VIRTIO_MMIO_WORDS];
	uint32_t generation;
	struct queue zero;

	memcpy(page, f->mmio.reg, sizeof(page));
	memset(&zero, 0, sizeof(zero));
	for (int round = 0; round < 3; round++) {
		start(f, OFFERED);
		wr(f, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
		wr(f, VIRTIO_MMIO_QUEUE_SEL, 7);
		wr(f, VIRTIO_MMIO_SHM_SEL, 4);
		wr(f, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
		pthread_mutex_lock(&f->dev.lock);
		virtio_config_change(&f->dev, 0, &f->dev.config, 1);
		pthread_mutex_unlock(&f->dev.lock);
		virtio_broken(&f->dev, "test");
		generation = rd(f, VIRTIO_MMIO_CONFIG_GENERATION);
		CHECK_EQ(generation, round + 1);
		CHECK_EQ(f->reset, round);
		CHECK_EQ(set_status(f, 0), 0);
		CHECK_EQ(f->reset, round + 1);
		CHECK_EQ(f->activated, round + 1);
		CHECK(!f->dev.active);
		CHECK_EQ(f->dev.acked, 0);
		CHECK_EQ(f->mmio.driver_features, 0);
		for (unsigned int q = 0; q < NR_QUEUES; q++) {
			CHECK(!memcmp(&f->dev.vq[q], &zero, sizeof(zero)));
			CHECK_EQ(drained(f->mmio.kick_fd[q]), 0);
		}
		/*
		 * Nothing about the configuration changed, so the generation stays (and is all that
		 * differs).
		 */
		CHECK_EQ(rd(f, VIRTIO_MMIO_CONFIG_GENERATION), generation);
		page[VIRTIO_MMIO_CONFIG_GENERATION / 4] = htole32(generation);
		CHECK(!memcmp(page, f->mmio.reg, sizeof(page)));
		/* What was acknowledged then does not count now. */
		set_status(f, 3);
		CHECK_EQ(set_status(f, NEGOTIATED), 3);
		set_status(f, 0);
		f->reset--;
		interrupts(f);
	}
	fake_free(f);
}

static void reset_of_an_idle_device(void)
{
	struct fake *f = fake_new();

	CHECK_EQ(set_status(f, 0), 0);
	CHECK_EQ(f->reset, 1);
	virtio_mmio_fini(&f->mmio);
	CHECK_EQ(f->reset, 2);
	CHECK(!f->dev.mmio);
	/* A device without a transport may still speak. */
	virtio_broken(&f->dev, "test");
	virtio_config_change(&f->dev, 0, "x", 1);
	CHECK_EQ(f->dev.config[0], 'x');
	virtio_signal(&f->dev, 0);
	fake_free(f);
}

static void notify(void)
{
	static const struct {
		uint32_t value;
		int queue; /* -1: nobody */
	} cases[] = {
		{ 0, 0 }, { 1, 1 }, { 2, 2 }, { 3, -1 }, { 7, -1 }, { 8, -1 }, { 32, -1 }, { 0x10000, -1 },
		{ 0x10001, -1 }, { 0x80000000, -1 }, { UINT32_MAX, -1 },
	};
	struct fake *f = fake_new();

	start(f, VERSION_1);
	for (int q = 0; q < NR_QUEUES; q++)
		drained(f->mmio.kick_fd[q]);
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		wr(f, VIRTIO_MMIO_QUEUE_NOTIFY, cases[i].value);
		for (int q = 0; q < NR_QUEUES; q++)
			CHECK_EQ(drained(f->mmio.kick_fd[q]), q == cases[i].queue);
	}
	virtio_mmio_fini(&f->mmio);
	/* The last of as many as there can be, and the one behind. */
	f->dev.nr_queues = VIRTIO_MAX_QUEUES;
	CHECK_EQ(virtio_mmio_init(&f->mmio, &f->dev, &f->mem, NULL, &f->irq), 0);
	watch_page(&f->mmio);
	wr(f, VIRTIO_MMIO_QUEUE_NOTIFY, VIRTIO_MAX_QUEUES - 1);
	wr(f, VIRTIO_MMIO_QUEUE_NOTIFY, VIRTIO_MAX_QUEUES);
	CHECK_EQ(drained(f->mmio.kick_fd[VIRTIO_MAX_QUEUES - 1]), 1);
	fake_free(f);
}

/* The event loop's side of a kick reaches the device while it runs, and only then. */
static void kick_events(void)
{
	struct fake *f = fake_new();
	struct event *ev = &f->mmio.kick[1];

	wr(f, VIRTIO_MMIO_QUEUE_NOTIFY, 1);
	ev->fn(ev, EPOLLIN);
	CHECK_EQ(f->kicked[1], 0);
	CHECK_EQ(drained(f->mmio.kick_fd[1]), 0);
	negotiate(f, VERSION_1);
	set_queue(f, 1);
	ev->fn(ev, EPOLLIN);
	CHECK_EQ(f->kicked[1], 0);
	set_status(f, RUNNING);
	ev->fn(ev, EPOLLIN);
	CHECK_EQ(f->kicked[1], 1);
	CHECK_EQ(drained(f->mmio.kick_fd[1]), 0);
	/* A queue that was not set up. */
	f->mmio.kick[0].fn(&f->mmio.kick[0], EPOLLIN);
	CHECK_EQ(f->kicked[0], 0);
	/* The device breaks in the middle of it, and is left alone from then on. */
	f->break_on_kick = true;
	ev->fn(ev, EPOLLIN);
	CHECK_EQ(f->kicked[1], 2);
	CHECK_EQ(status(f), RUNNING | NEEDS_RESET);
	ev->fn(ev, EPOLLIN);
	CHECK_EQ(f->kicked[1], 2);
	f->break_on_kick = false;
	set_status(f, 0);
	ev->fn(ev, EPOLLIN);
	CHECK_EQ(f->kicked[1], 2);
	fake_free(f);
}

static void broken(void)
{
	struct fake *f = fake_new();

	/* Before DRIVER_OK no interrupt may come. */
	set_status(f, ACK);
	virtio_broken(&f->dev, "test");
	CHECK_EQ(status(f), ACK | NEEDS_RESET);
	CHECK_EQ(interrupts(f), 0);
	CHECK_EQ(rd(f, VIRTIO_MMIO_INTERRUPT_STATUS), 1);
	CHECK_EQ(set_status(f, ACK | DRIVER), ACK | NEEDS_RESET);
	set_status(f, 0);

	start(f, VERSION_1);
	virtio_broken(&f->dev, "test");
	virtio_broken(&f->dev, "test");
	CHECK_EQ(status(f), RUNNING | NEEDS_RESET);
	CHECK_EQ(interrupts(f), 1);
	CHECK_EQ(rd(f, VIRTIO_MMIO_INTERRUPT_STATUS), 3);
	/* The driver can't wipe it away, but can give up. */
	CHECK_EQ(set_status(f, RUNNING), RUNNING | NEEDS_RESET);
	CHECK_EQ(set_status(f, RUNNING | NEEDS_RESET), RUNNING | NEEDS_RESET);
	CHECK_EQ(set_status(f, RUNNING | FAILED), RUNNING | NEEDS_RESET | FAILED);
	CHECK_EQ(set_status(f, 0), 0);
	/* And it can happen again. */
	start(f, VERSION_1);
	virtio_broken(&f->dev, "test");
	CHECK_EQ(interrupts(f), 1);
	fake_free(f);
}

static void interrupt_status(void)
{
	static const struct {
		uint32_t ack, left;
	} cases[] = {
		{ 0, 3 }, { 1, 3 }, { 2, 1 }, { 3, 1 }, { 4, 3 }, { 0xfffffffd, 3 }, { UINT32_MAX, 1 },
	};

	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct fake *f = fake_new();

		start(f, VERSION_1);
		CHECK_EQ(rd(f, VIRTIO_MMIO_INTERRUPT_STATUS), 1);
		pthread_mutex_lock(&f->dev.lock);
		virtio_config_change(&f->dev, 0, "a", 1);
		pthread_mutex_unlock(&f->dev.lock);
		CHECK_EQ(rd(f, VIRTIO_MMIO_INTERRUPT_STATUS), 3);
		wr(f, VIRTIO_MMIO_INTERRUPT_ACK, cases[i].ack);
		CHECK_EQ(rd(f, VIRTIO_MMIO_INTERRUPT_STATUS), cases[i].left);
		CHECK_EQ(rd(f, VIRTIO_MMIO_INTERRUPT_ACK), 0);
		fake_free(f);
	}
}

static void signals(void)
{
	struct fake *f = fake_new();
	struct queue *q = &f->dev.vq[1];
	struct queue_chain chain;
	struct vring_desc *desc = (struct vring_desc *)(f->ram + 0x1000);
	struct vring_avail *avail = (struct vring_avail *)(f->ram + 0x1100);

	start(f, VERSION_1);
	desc->addr = htole64(RAM_GPA + 0x8000);
	desc->len = htole32(4);
	desc->flags = htole16(VRING_DESC_F_WRITE);
	virtio_signal(&f->dev, 1);
	CHECK_EQ(interrupts(f), 0);
	avail->idx = htole16(1);
	CHECK_EQ(queue_pop(q, &chain), 1);
	queue_push(q, chain.head, 4);
	virtio_signal(&f->dev, 1);
	CHECK_EQ(interrupts(f), 1);
	avail->flags = htole16(VRING_AVAIL_F_NO_INTERRUPT);
	avail->idx = htole16(2);
	CHECK_EQ(queue_pop(q, &chain), 1);
	queue_push(q, chain.head, 4);
	virtio_signal(&f->dev, 1);
	CHECK_EQ(interrupts(f), 0);
	fake_free(f);
}

/* Every place and width against the bytes that are there; nothing beyond them shows. */
static void config_reads(void)
{
	static const unsigned int lens[] = { 0, 1, 2, 3, 4, 5, 8, CONFIG_LEN, 64, 255, 256 };
	static const unsigned int widths[] = { 1, 2, 4, 8 };

	for (unsigned int i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		struct fake *f = fake_new();
		unsigned int bad = 0;

		virtio_mmio_fini(&f->mmio);
		f->dev.config_len = lens[i];
		CHECK_EQ(virtio_mmio_init(&f->mmio, &f->dev, &f->mem, NULL, &f->irq), 0);
		watch_page(&f->mmio);
		for (unsigned int offset = 0; offset < 0x1010; offset++) {
			for (unsigned int w = 0; w < 4; w++) {
				uint64_t want = 0;

				for (unsigned int k = 0; k < widths[w]; k++) {
					if (offset + k < lens[i] && 0x100 + offset + widths[w] <= 0x1000)
						want |= (uint64_t)f->dev.config[offset + k] << 8 * k;
				}
				bad += rd_len(f, 0x100 + offset, widths[w]) != want;
			}
			/* Widths that no CPU has. */
			bad += rd_len(f, 0x100 + offset, 3) != 0;
			bad += rd_len(f, 0x100 + offset, 7) != 0;
		}
		CHECK_EQ(bad, 0);
		CHECK_EQ(rd_len(f, UINT64_MAX, 1), 0);
		CHECK_EQ(rd_len(f, UINT64_MAX - 3, 8), 0);
		CHECK_EQ(rd_len(f, 1ULL << 32, 4), 0);
		CHECK_EQ(rd_len(f, (1ULL << 32) + 0x100, 4), 0);
		fake_free(f);
	}
}

static void config_writes(void)
{
	static const struct {
		uint64_t offset;
		unsigned int len;
		bool ok;
	} cases[] = {
		{ 0x100, 1, true }, { 0x100, 2, true }, { 0x100, 4, true }, { 0x100, 8, true }, { 0x101, 2, true },
		{ 0x103, 8, true }, { 0x105, 8, true }, { 0x10c, 1, true },
		{ 0x106, 8, false }, { 0x10c, 2, false }, { 0x10a, 4, false }, { 0x10d, 1, false },
		{ 0x10e, 4, false }, { 0x200, 1, false }, { 0xfff, 1, false }, { 0xffc, 8, false },
		{ 0x1000, 4, false }, { 0x1100, 4, false }, { UINT64_MAX, 1, false }, { UINT64_MAX - 3, 8, false },
		{ (1ULL << 32) + 0x100, 4, false }, { 0x100, 3, false }, { 0x100, 5, false }, { 0xff, 2, false },
		{ 0xfc, 8, false },
	};
	const uint8_t bytes[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
	struct fake *f = fake_new();
	unsigned int calls = 0;

	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint8_t data[8];

		memcpy(data, bytes, 8);
		virtio_mmio_access(&f->mmio, cases[i].offset, data, cases[i].len, true);
		calls += cases[i].ok;
		if (f->config_writes != calls) {
			printf("  offset %#llx, length %u\n", (unsigned long long)cases[i].offset, cases[i].len);
			CHECK(0);
			calls = f->config_writes;
		}
		if (cases[i].ok) {
			CHECK_EQ(f->write_offset, cases[i].offset - 0x100);
			CHECK_EQ(f->write_len, cases[i].len);
			CHECK(!memcmp(f->write_data, bytes, cases[i].len));
		}
	}
	/* The driver sees what the device made of it, without a new generation. */
	CHECK_EQ(rd_len(f, 0x100, 4), 0xc3c201c0);
	CHECK_EQ(rd(f, VIRTIO_MMIO_CONFIG_GENERATION), 0);
	fake_free(f);

	/* A device without anything to write. */
	struct virtio_ops ops = fake_ops;

	ops.config_write = NULL;
	f = fake_new_on(&ops, NULL);
	wr(f, 0x100, 0);
	CHECK_EQ(rd(f, 0x100), 0xc3c2c1c0);
	virtio_mmio_fini(&f->mmio);
	f->dev.config_len = 0;
	CHECK_EQ(virtio_mmio_init(&f->mmio, &f->dev, &f->mem, NULL, &f->irq), 0);
	watch_page(&f->mmio);
	wr(f, 0x100, 0);
	CHECK_EQ(rd(f, 0x100), 0);
	fake_free(f);
}

static void config_changes(void)
{
	struct fake *f = fake_new();

	pthread_mutex_lock(&f->dev.lock);
	virtio_config_change(&f->dev, 2, "\x11\x22\x33\x44", 4);
	pthread_mutex_unlock(&f->dev.lock);
	CHECK_EQ(rd_len(f, 0x100, 8), 0xc7c644332211c1c0);
	CHECK_EQ(rd(f, VIRTIO_MMIO_CONFIG_GENERATION), 1);
	/* No driver, no interrupt. */
	CHECK_EQ(interrupts(f), 0);
	CHECK_EQ(rd(f, VIRTIO_MMIO_INTERRUPT_STATUS), 1);

	start(f, VERSION_1);
	pthread_mutex_lock(&f->dev.lock);
	virtio_config_change(&f->dev, CONFIG_LEN - 1, "\x55", 1);
	pthread_mutex_unlock(&f->dev.lock);
	CHECK_EQ(rd_len(f, 0x10c, 4), 0x55);
	CHECK_EQ(rd(f, VIRTIO_MMIO_CONFIG_GENERATION), 2);
	CHECK_EQ(interrupts(f), 1);
	CHECK_EQ(rd(f, VIRTIO_MMIO_INTERRUPT_STATUS), 3);
	/* Beyond the length: a mistake of the device, without consequence. */
	pthread_mutex_lock(&f->dev.lock);
	virtio_config_change(&f->dev, CONFIG_LEN, "x", 1);
	virtio_config_change(&f->dev, 1, "0123456789abcdef", CONFIG_LEN);
	virtio_config_change(&f->dev, UINT32_MAX, "0123456789abcdef", 2);
	pthread_mutex_unlock(&f->dev.lock);
	CHECK_EQ(rd(f, VIRTIO_MMIO_CONFIG_GENERATION), 2);
	CHECK_EQ(interrupts(f), 0);
	fake_free(f);
}

static void queue_reset_register(void)
{
	struct fake *f = fake_new_on(&fake_ops_with_queue_reset, NULL);

	start(f, VERSION_1 | RING_RESET);
	for (int q = 0; q < NR_QUEUES; q++)
		drained(f->mmio.kick_fd[q]);
	wr(f, VIRTIO_MMIO_QUEUE_SEL, 1);
	wr(f, QUEUE_RESET, 0);
	wr(f, QUEUE_RESET, 2);
	CHECK_EQ(f->queue_reset[1], 0);
	wr(f, VIRTIO_MMIO_QUEUE_NOTIFY, 1);
	wr(f, QUEUE_RESET, 1);
	CHECK_EQ(f->queue_reset[1], 1);
	CHECK_EQ(f->queue_reset[0], 0);
	CHECK_EQ(rd(f, QUEUE_RESET), 0);
	CHECK_EQ(rd(f, VIRTIO_MMIO_QUEUE_READY), 0);
	CHECK_EQ(drained(f->mmio.kick_fd[1]), 0);
	CHECK(!f->dev.vq[1].active && f->dev.vq[0].active && f->dev.active);
	CHECK_EQ(f->dev.vq[1].num, 0);
	/* Again: nothing is there to reset. */
	wr(f, QUEUE_RESET, 1);
	CHECK_EQ(f->queue_reset[1], 1);
	/*
	 * It comes back, elsewhere and smaller, with a kick; the device is not activated a second
	 * time.
	 */
	wr(f, VIRTIO_MMIO_QUEUE_NUM, 4);
	write_addrs(f, RAM_GPA + 0x8000, RAM_GPA + 0x8100, RAM_GPA + 0x8200);
	wr(f, VIRTIO_MMIO_QUEUE_READY, 1);
	CHECK(f->dev.vq[1].active);
	CHECK_EQ(f->dev.vq[1].num, 4);
	CHECK_EQ(drained(f->mmio.kick_fd[1]), 1);
	CHECK_EQ(f->activated, 1);
	CHECK_EQ(status(f), RUNNING);
	/* QueueReady 0 is no QueueReset, though one came before. */
	wr(f, VIRTIO_MMIO_QUEUE_READY, 0);
	CHECK_EQ(f->queue_reset[1], 2);
	set_queue(f, 1);
	CHECK_EQ(rd(f, VIRTIO_MMIO_QUEUE_READY), 0);
	/* Rings that can't be break the device there too. */
	wr(f, VIRTIO_MMIO_QUEUE_SEL, 2);
	wr(f, QUEUE_RESET, 1);
	wr(f, VIRTIO_MMIO_QUEUE_NUM, 4);
	write_addrs(f, 4, 4, 4);
	wr(f, VIRTIO_MMIO_QUEUE_READY, 1);
	CHECK_EQ(status(f), RUNNING | NEEDS_RESET);
	CHECK_EQ(drained(f->mmio.kick_fd[2]), 0);
	fake_free(f);

	/*
	 * The licence to set it up anew does not outlive a reset of the device, nor is there one
	 * before DRIVER_OK.
	 */
	f = fake_new_on(&fake_ops_with_queue_reset, NULL);
	start(f, VERSION_1 | RING_RESET);
	wr(f, QUEUE_RESET, 1);
	CHECK_EQ(f->queue_reset[2], 1);
	set_status(f, 0);
	negotiate(f, VERSION_1 | RING_RESET);
	set_queue(f, 1);
	wr(f, QUEUE_RESET, 1);
	CHECK_EQ(rd(f, VIRTIO_MMIO_QUEUE_READY), 0);
	CHECK_EQ(f->dev.vq[1].num, 0);
	CHECK_EQ(f->queue_reset[1], 0); /* the device does not know of it yet */
	set_status(f, RUNNING);
	set_queue(f, 1);
	CHECK_EQ(rd(f, VIRTIO_MMIO_QUEUE_READY), 0);
	set_queue(f, 2);
	CHECK_EQ(rd(f, VIRTIO_MMIO_QUEUE_READY), 0);
	fake_free(f);

	/* Not negotiated: not there. */
	f = fake_new_on(&fake_ops_with_queue_reset, NULL);
	start(f, VERSION_1);
	wr(f, QUEUE_RESET, 1);
	CHECK_EQ(f->queue_reset[2], 0);
	CHECK_EQ(rd(f, VIRTIO_MMIO_QUEUE_READY), 1);
	fake_free(f);
}

/* QueueReady 0 on a queue that is in use. */
static void queue_taken_away(void)
{
	struct fake *f = fake_new_on(&fake_ops_with_queue_reset, NULL);

	start(f, VERSION_1);
	wr(f, VIRTIO_MMIO_QUEUE_READY, 0);
	CHECK_EQ(f->queue_reset[2], 1);
	CHECK_EQ(rd(f, VIRTIO_MMIO_QUEUE_READY), 0);
	CHECK(!f->dev.vq[2].active && f->dev.active);
	CHECK_EQ(status(f), RUNNING);
	set_queue(f, 2);
	CHECK_EQ(rd(f, VIRTIO_MMIO_QUEUE_READY), 0);
	fake_free(f);

	/* A device that can't let go of one queue lets go of all. */
	f = fake_new();
	start(f, VERSION_1);
	wr(f, VIRTIO_MMIO_QUEUE_SEL, 2);
	f->dev.vq[2].ready = false; /* a queue that is not in use is nothing to let go of */
	wr(f, VIRTIO_MMIO_QUEUE_READY, 0);
	CHECK_EQ(f->reset, 0);
	CHECK_EQ(status(f), RUNNING);
	f->dev.vq[2].ready = true;
	wr(f, VIRTIO_MMIO_QUEUE_READY, 0);
	CHECK_EQ(f->reset, 1);
	CHECK_EQ(rd(f, VIRTIO_MMIO_QUEUE_READY), 0);
	CHECK(!f->dev.active && !f->dev.vq[0].active && !f->dev.vq[2].active);
	CHECK_EQ(status(f), RUNNING | NEEDS_RESET);
	CHECK_EQ(interrupts(f), 1);
	f->mmio.kick[0].fn(&f->mmio.kick[0], EPOLLIN);
	CHECK_EQ(f->kicked[0], 0);
	fake_free(f);
}

static void impossible_devices(void)
{
	struct fake *f = fake_new();

	virtio_mmio_fini(&f->mmio);
	f->dev.nr_queues = VIRTIO_MAX_QUEUES + 1;
	CHECK_EQ(virtio_mmio_init(&f->mmio, &f->dev, &f->mem, NULL, &f->irq), -EINVAL);
	f->dev.nr_queues = NR_QUEUES;
	f->dev.config_len = VIRTIO_MAX_CONFIG + 1;
	CHECK_EQ(virtio_mmio_init(&f->mmio, &f->dev, &f->mem, NULL, &f->irq), -EINVAL);
	f->dev.config_len = 0;
	f->dev.queue_max[0] = 512;
	CHECK_EQ(virtio_mmio_init(&f->mmio, &f->dev, &f->mem, NULL, &f->irq), -EINVAL);
	f->dev.queue_max[0] = 100;
	CHECK_EQ(virtio_mmio_init(&f->mmio, &f->dev, &f->mem, NULL, &f->irq), -EINVAL);
	fake_free(f);
}

/*
 * --- attach ------------------------------------------------------------------------------------------
 */

static void attach(void)
{
	struct fake *f = fake_new();
	struct event_loop loop;
	struct vm *vm = calloc(1, sizeof(*vm));
	uint8_t data[4];

	virtio_mmio_fini(&f->mmio);
	CHECK_EQ(event_loop_init(&loop), 0);
	vm->fd = 1000;
	vm->mem = f->mem;
	vm->loop = &loop;
	irq_init(&vm->irqs, 1000);
	memset(&kvm, 0, sizeof(kvm));
	f->dev.own_kicks = 1 << 1;

	CHECK_EQ(virtio_mmio_attach(&f->mmio, &f->dev, vm, ARCH_MAX_VIRTIO), -ENOSPC);
	CHECK_EQ(kvm.nr_io, 0);
	CHECK_EQ(vm->irqs.nr, 0);

	CHECK_EQ(virtio_mmio_attach(&f->mmio, &f->dev, vm, 3), 0);
	CHECK_EQ(kvm.nr_irqfd, 1);
	CHECK_EQ(f->mmio.irq->gsi, 8);
	CHECK_EQ(kvm.nr_io, 1 + NR_QUEUES);
	CHECK_EQ(kvm.io[0].addr, 0xd0003064);
	CHECK_EQ(kvm.io[0].len, 4);
	CHECK_EQ(kvm.io[0].datamatch, 1);
	CHECK_EQ(kvm.io[0].flags, KVM_IOEVENTFD_FLAG_DATAMATCH);
	CHECK_EQ(kvm.io[0].fd, f->mmio.ack_fd);
	for (unsigned int q = 0; q < NR_QUEUES; q++) {
		CHECK_EQ(kvm.io[1 + q].addr, 0xd0003050);
		CHECK_EQ(kvm.io[1 + q].len, 4);
		CHECK_EQ(kvm.io[1 + q].datamatch, q);
		CHECK_EQ(kvm.io[1 + q].flags, KVM_IOEVENTFD_FLAG_DATAMATCH);
		CHECK_EQ(kvm.io[1 + q].fd, f->mmio.kick_fd[q]);
		/* The loop reads the kicks of the queues that the device does not. */
		CHECK_EQ(atomic_load(&f->mmio.kick[q].armed), q != 1);
	}
	CHECK(bus_access(&vm->mmio, 0xd0003000, data, 4, false));
	CHECK(!memcmp(data, "virt", 4));
	CHECK(!bus_access(&vm->mmio, 0xd0004000, data, 4, false));

	start(f, VERSION_1);
	virtio_mmio_detach(&f->mmio);
	CHECK_EQ(f->reset, 2);
	CHECK_EQ(kvm.nr_io, 2 * (1 + NR_QUEUES));
	CHECK_EQ(f->mmio.ack_fd, -1);
	for (unsigned int i = 0; i <= NR_QUEUES; i++) {
		struct kvm_ioeventfd want = kvm.io[i];

		want.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
		/* The queues' first. */
		CHECK(!memcmp(&want, &kvm.io[i ? NR_QUEUES + i : 2 * NR_QUEUES + 1], sizeof(want)));
	}
	for (unsigned int q = 0; q < NR_QUEUES; q++) {
		CHECK_EQ(f->mmio.kick_fd[q], -1);
		CHECK(!atomic_load(&f->mmio.kick[q].armed));
	}

	/* Any of the ioeventfds fails, then the bus: all undone, only what was made. */
	for (unsigned int fail = 1; fail <= 1 + NR_QUEUES; fail++) {
		memset(&kvm, 0, sizeof(kvm));
		kvm.fail_at = fail;
		CHECK_EQ(virtio_mmio_attach(&f->mmio, &f->dev, vm, 4), -ENOSPC);
		CHECK_EQ(kvm.nr_io, fail + fail - 1);
		CHECK(!f->dev.mmio);
		CHECK(!bus_access(&vm->mmio, 0xd0004000, data, 4, false));
	}
	memset(&kvm, 0, sizeof(kvm));
	CHECK_EQ(virtio_mmio_attach(&f->mmio, &f->dev, vm, 3), -EEXIST);
	CHECK_EQ(kvm.nr_io, 2 * (1 + NR_QUEUES));
	CHECK(!f->dev.mmio);

	irq_fini(&vm->irqs);
	event_loop_fini(&loop);
	free(vm);
	fake_free(f);
}

/* A machine with a KVM to look at, and a device in its slot 3. */
static struct vm *vm_of(struct fake *f)
{
	struct vm *vm = calloc(1, sizeof(*vm));

	if (!vm)
		exit(1);
	virtio_mmio_fini(&f->mmio);
	vm->fd = 1000;
	vm->mem = f->mem;
	vm->mem.vm_fd = 1000;
	irq_init(&vm->irqs, 1000);
	memset(&kvm, 0, sizeof(kvm));
	kvm.readonly_mem = true;
	return vm;
}

static void vm_free(struct vm *vm)
{
	irq_fini(&vm->irqs);
	free(vm);
}

static void same_slot(unsigned int n, const struct virtio_mmio *mmio, bool there)
{
	CHECK_EQ(kvm.slot[n].arg.slot, MEMORY_DEVICE_SLOTS + 3);
	CHECK_EQ(kvm.slot[n].arg.flags, KVM_MEM_READONLY);
	CHECK_EQ(kvm.slot[n].arg.guest_phys_addr, 0xd0003000);
	CHECK_EQ(kvm.slot[n].arg.memory_size, there ? (uint64_t)getpagesize() : 0);
	CHECK_EQ(kvm.slot[n].arg.userspace_addr, (uintptr_t)mmio->reg);
}

/* The page is there from attach to detach, but for the moment in which more than a word changes. */
static void register_page(void)
{
	struct fake *f = fake_new();
	struct vm *vm = vm_of(f);
	uint32_t before[4];

	CHECK_EQ(virtio_mmio_attach(&f->mmio, &f->dev, vm, 3), 0);
	CHECK_EQ(kvm.nr_slot, 1);
	same_slot(0, &f->mmio, true);
	CHECK(f->mmio.clean == arch_cache_clean);
	watch_page(&f->mmio);
	start(f, VERSION_1);
	CHECK_EQ(kvm.nr_slot, 1);

	/* Four bytes of one word; no byte; and what is beyond a word's end but says the same. */
	virtio_config_change(&f->dev, 4, "\x11\x22\x33\x44", 4);
	virtio_config_change(&f->dev, 0, f->dev.config, CONFIG_LEN);
	virtio_config_change(&f->dev, 2, (uint8_t[]){ 0, 0, f->dev.config[4] }, 3);
	CHECK_EQ(kvm.nr_slot, 1);
	CHECK_EQ(rd(f, VIRTIO_MMIO_CONFIG_GENERATION), 3);

	memcpy(before, f->mmio.reg + VIRTIO_MMIO_CONFIG / 4, 16);
	virtio_config_change(&f->dev, 3, "\x99\x99", 2);
	CHECK_EQ(kvm.nr_slot, 3);
	same_slot(1, &f->mmio, false);
	CHECK_EQ(kvm.slot[1].generation, 3);
	CHECK(!memcmp(kvm.slot[1].config, before, 16));
	same_slot(2, &f->mmio, true);
	CHECK_EQ(kvm.slot[2].generation, 4);
	CHECK(!memcmp(kvm.slot[2].config, f->dev.config, CONFIG_LEN));

	/* The driver's own write and a reset wait for nobody. */
	wr_len(f, VIRTIO_MMIO_CONFIG, 0x1234, 2);
	set_status(f, 0);
	CHECK_EQ(kvm.nr_slot, 3);
	virtio_mmio_detach(&f->mmio);
	CHECK_EQ(kvm.nr_slot, 4);
	CHECK_EQ(kvm.slot[3].arg.memory_size, 0);
	vm_free(vm);
	fake_free(f);
}

/*
 * What KVM keeps until the next exit: whenever it is carried out, the page says the same and the
 * device is not called, by writes of every width and of any value.
 */
static void kept_writes(void)
{
	static const uint32_t stage[] = { 0, ACK, ACK | DRIVER, NEGOTIATED, RUNNING, RUNNING | FAILED };
	struct fake *f = fake_new();
	struct vm *vm = vm_of(f);
	static uint8_t before[4096];
	uint32_t random = 1;

	nr_kept = 0;
	CHECK_EQ(virtio_mmio_attach(&f->mmio, &f->dev, vm, 3), 0);
	watch_page(&f->mmio);
	CHECK_EQ(nr_kept, 3);
	for (uint64_t at = 0; at < 4096; at += 4) {
		bool in = false;

		for (unsigned int i = 0; i < nr_kept; i++)
			in |= at >= kept[i].addr - 0xd0003000 && at < kept[i].addr - 0xd0003000 + kept[i].size;
		CHECK_EQ(in, at == VIRTIO_MMIO_DRIVER_FEATURES || at == VIRTIO_MMIO_DRIVER_FEATURES_SEL ||
				     at == VIRTIO_MMIO_QUEUE_NUM ||
				     (at >= VIRTIO_MMIO_QUEUE_DESC_LOW && at < VIRTIO_MMIO_QUEUE_USED_HIGH + 4));
	}
	for (unsigned int s = 0; s < sizeof(stage) / sizeof(stage[0]); s++) {
		unsigned int reset, called;

		if (stage[s] == NEGOTIATED)
			want_features(f, VERSION_1);
		if (stage[s] == RUNNING)
			set_queue(f, 0);
		CHECK_EQ(set_status(f, stage[s]), stage[s]);
		memcpy(before, f->mmio.reg, sizeof(before));
		reset = f->reset;
		called = f->activated + f->kicked[0] + f->queue_reset[0] + f->config_writes;
		for (unsigned int n = 0; n < 1000; n++) {
			unsigned int i = n % nr_kept;
			uint64_t at = kept[i].addr - 0xd0003000;

			random = random * 1664525 + 1013904223;
			wr_len(f, at + (random >> 8) % kept[i].size, n % 3 ? random >> 24 & 3 : random,
			       1u << (random >> 28 & 3));
		}
		CHECK(!memcmp(before, f->mmio.reg, sizeof(before)));
		CHECK_EQ(f->reset, reset);
		CHECK_EQ(f->activated + f->kicked[0] + f->queue_reset[0] + f->config_writes, called);
	}
	virtio_mmio_detach(&f->mmio);
	vm_free(vm);
	fake_free(f);
}

/* Wherever the slot can't be had, the device works without it. */
static void no_register_page(void)
{
	enum { NO_CAP, TRAP, NO_SLOTS, FAILS, CASES };

	for (unsigned int i = 0; i < CASES; i++) {
		struct fake *f = fake_new();
		struct vm *vm = vm_of(f);

		kvm.readonly_mem = i != NO_CAP;
		vm->config.trap_registers = i == TRAP;
		vm->mem.max_slots = i == NO_SLOTS ? MEMORY_DEVICE_SLOTS + 3 : 0;
		kvm.slot_fail_at = i == FAILS;
		CHECK_EQ(virtio_mmio_attach(&f->mmio, &f->dev, vm, 3), 0);
		CHECK_EQ(kvm.nr_slot, i == FAILS);
		start(f, VERSION_1);
		virtio_config_change(&f->dev, 3, "\x99\x99", 2);
		CHECK_EQ(rd_len(f, VIRTIO_MMIO_CONFIG + 3, 2), 0x9999);
		CHECK_EQ(rd(f, VIRTIO_MMIO_CONFIG_GENERATION), 1);
		virtio_mmio_detach(&f->mmio);
		CHECK_EQ(kvm.nr_slot, i == FAILS);
		vm_free(vm);
		fake_free(f);
	}
}

/* The slot does not go, or does not come back: the configuration changes all the same. */
static void register_page_lost(void)
{
	for (unsigned int fail = 2; fail <= 3; fail++) {
		struct fake *f = fake_new();
		struct vm *vm = vm_of(f);

		kvm.slot_fail_at = fail;
		CHECK_EQ(virtio_mmio_attach(&f->mmio, &f->dev, vm, 3), 0);
		virtio_config_change(&f->dev, 3, "\x99\x99", 2);
		CHECK_EQ(kvm.nr_slot, fail);
		CHECK_EQ(rd_len(f, VIRTIO_MMIO_CONFIG + 3, 2), 0x9999);
		virtio_config_change(&f->dev, 3, "\x88\x88", 2);
		CHECK_EQ(rd_len(f, VIRTIO_MMIO_CONFIG + 3, 2), 0x8888);
		/* It was there still, or isn't any more. */
		CHECK_EQ(kvm.nr_slot, fail == 2 ? 4 : 3);
		virtio_mmio_detach(&f->mmio);
		CHECK_EQ(kvm.nr_slot, fail == 2 ? 5 : 3);
		vm_free(vm);
		fake_free(f);
	}
}

/*
 * --- a whole device on its loop, and a driver on another thread ----------------------------------------
 */

struct echo {
	struct fake *f;
	struct event_loop loop;
	int irq_fd;
};

/* Answers each chain with its own bytes, one added to each. */
static void echo_kick(struct virtio_dev *dev, unsigned int n)
{
	struct queue *q = &dev->vq[n];
	struct queue_chain chain;
	uint8_t buf[64];
	int ret;

	do {
		queue_disable_kicks(q);
		while ((ret = queue_pop(q, &chain)) > 0) {
			uint64_t len = queue_chain_read(&chain, 0, buf, sizeof(buf));

			for (unsigned int i = 0; i < len; i++)
				buf[i]++;
			queue_push(q, chain.head, queue_chain_write(&chain, 0, buf, len));
		}
		virtio_signal(dev, n);
		if (ret < 0) {
			virtio_broken(dev, "malformed ring");
			return;
		}
	} while (queue_enable_kicks(q));
}

static const struct virtio_ops echo_ops = {
	.name = "echo",
	.activate = fake_activate,
	.reset = fake_reset,
	.kick = echo_kick,
};

static void *echo_loop(void *opaque)
{
	struct echo *e = opaque;

	event_loop_run(&e->loop);
	return NULL;
}

static bool wait_interrupt(struct fake *f)
{
	struct epoll_event out, in = { .events = EPOLLIN };
	int ep = epoll_create1(EPOLL_CLOEXEC);
	bool ok;

	epoll_ctl(ep, EPOLL_CTL_ADD, f->irq.fd, &in);
	ok = epoll_wait(ep, &out, 1, 4000) == 1 && interrupts(f);
	close(ep);
	return ok;
}

static void echo_over_the_loop(void)
{
	struct echo e;
	struct fake *f;
	pthread_t thread;
	unsigned int bad = 0;

	CHECK_EQ(event_loop_init(&e.loop), 0);
	e.f = f = fake_new_on(&echo_ops, &e.loop);
	CHECK_EQ(pthread_create(&thread, NULL, echo_loop, &e), 0);
	for (int life = 0; life < 50; life++) {
		struct vring_desc *desc = (struct vring_desc *)(f->ram + 0x2000);
		struct vring_avail *avail = (struct vring_avail *)(f->ram + 0x2100);
		struct vring_used *used = (struct vring_used *)(f->ram + 0x2200);
		uint8_t *buf = f->ram + 0x8000;

		memset(f->ram, 0, RAM_SIZE);
		start(f, OFFERED);
		desc[0] = (struct vring_desc){ htole64(RAM_GPA + 0x8000), htole32(8), htole16(VRING_DESC_F_NEXT),
					       htole16(1) };
		desc[1] = (struct vring_desc){ htole64(RAM_GPA + 0x8010), htole32(8), htole16(VRING_DESC_F_WRITE),
					       0 };
		for (unsigned int i = 0; i < 20; i++) {
			memset(buf, i + life, 8);
			avail->ring[i % 8] = 0;
			avail->ring[8] = htole16(i); /* used_event */
			__atomic_store_n(&avail->idx, htole16(i + 1), __ATOMIC_RELEASE);
			wr(f, VIRTIO_MMIO_QUEUE_NOTIFY, 2);
			if (!wait_interrupt(f)) {
				bad++;
				break;
			}
			bad += le16toh(__atomic_load_n(&used->idx, __ATOMIC_ACQUIRE)) != i + 1;
			bad += buf[0x10] != (uint8_t)(i + life + 1) || buf[0x17] != buf[0x10];
			bad += le32toh(used->ring[i % 8].len) != 8;
		}
		if (bad)
			break;
		if (life % 2) {
			/*
			 * A ring gone wrong costs the device, until it is reset, and nothing else.
			 */
			__atomic_store_n(&avail->idx, htole16(1000), __ATOMIC_RELEASE);
			wr(f, VIRTIO_MMIO_QUEUE_NOTIFY, 2);
			bad += !wait_interrupt(f);
			bad += status(f) != (RUNNING | NEEDS_RESET);
			bad += rd(f, VIRTIO_MMIO_INTERRUPT_STATUS) != 3;
		}
		set_status(f, 0);
	}
	CHECK_EQ(bad, 0);
	event_loop_stop(&e.loop);
	pthread_join(thread, NULL);
	virtio_mmio_fini(&f->mmio);
	event_loop_fini(&e.loop);
	fake_free(f);
}

/* A driver that starts and resets without end, while the device breaks and changes under it. */
struct storm {
	struct fake *f;
	atomic_bool stop;
};

static void *storm_device(void *opaque)
{
	struct storm *s = opaque;
	struct virtio_dev *dev = &s->f->dev;
	uint8_t v = 0;

	while (!atomic_load(&s->stop)) {
		if (v++ % 16 == 0)
			virtio_broken(dev, "test");
		pthread_mutex_lock(&dev->lock);
		virtio_config_change(dev, 0, (uint8_t[]){ v, v, v, v, v, v, v, v }, 8);
		pthread_mutex_unlock(&dev->lock);
	}
	return NULL;
}

static void storm(void)
{
	struct storm s = { .f = fake_new() };
	struct fake *f = s.f;
	unsigned int bad = 0, broken_seen = 0, running_seen = 0;
	pthread_t thread;

	log_set_level(LOG_ERROR);
	kvm.page = NULL; /* what another thread changes meanwhile is not held against it */
	pthread_mutex_lock(&f->dev.lock);
	virtio_config_change(&f->dev, 0, (uint8_t[8]){ 0 }, 8);
	pthread_mutex_unlock(&f->dev.lock);
	CHECK_EQ(pthread_create(&thread, NULL, storm_device, &s), 0);
	for (int i = 0; i < 5000; i++) {
		uint64_t v;
		uint32_t st;

		set_status(f, ACK);
		set_status(f, ACK | DRIVER);
		want_features(f, VERSION_1);
		set_status(f, NEGOTIATED);
		set_queue(f, 0);
		st = set_status(f, RUNNING);
		/* Bits only come, whoever sets them; and none that nobody set. */
		bad += (st & ~(RUNNING | NEEDS_RESET)) != 0;
		bad += (status(f) & st) != st;
		broken_seen += !!(st & NEEDS_RESET);
		running_seen += st == RUNNING;
		v = rd_len(f, 0x100, 8);
		bad += v != (v & 0xff) * 0x0101010101010101; /* never half of a change */
		set_status(f, 0);
	}
	atomic_store(&s.stop, true);
	pthread_join(thread, NULL);
	log_set_level(LOG_WARN);
	CHECK_EQ(bad, 0);
	CHECK(running_seen + broken_seen > 0);
	CHECK_EQ(set_status(f, 0), 0);
	start(f, VERSION_1);
	fake_free(f);
}

/*
 * --- pauses and snapshots ----------------------------------------------------------------------------
 */

static void pause_and_resume(void)
{
	struct fake *f = fake_new_on(&fake_ops_with_state, NULL);

	/* Without a driver there is nothing to tell the device, and nobody to interrupt. */
	virtio_mmio_pause(&f->mmio);
	virtio_mmio_resume(&f->mmio);
	CHECK_EQ(f->paused + f->resumed, 0);
	CHECK_EQ(interrupts(f), 0);

	start(f, VERSION_1);
	for (unsigned int q = 0; q < NR_QUEUES; q++)
		drained(f->mmio.kick_fd[q]);
	virtio_mmio_pause(&f->mmio);
	CHECK_EQ(f->paused, 1);
	wr(f, VIRTIO_MMIO_QUEUE_NOTIFY, 1);
	f->mmio.kick[1].fn(&f->mmio.kick[1], EPOLLIN);
	CHECK_EQ(f->kicked[1], 0);
	CHECK_EQ(drained(f->mmio.kick_fd[1]), 0);
	interrupts(f);
	virtio_mmio_resume(&f->mmio);
	CHECK_EQ(f->resumed, 1);
	CHECK_EQ(interrupts(f), 1);
	for (unsigned int q = 0; q < NR_QUEUES; q++) {
		CHECK_EQ(drained(f->mmio.kick_fd[q]), 1);
		f->mmio.kick[q].fn(&f->mmio.kick[q], EPOLLIN);
		CHECK_EQ(f->kicked[q], 1);
	}

	/* A device that can't go on. */
	f->resume_ret = -EIO;
	virtio_mmio_pause(&f->mmio);
	virtio_mmio_resume(&f->mmio);
	CHECK_EQ(status(f), RUNNING | NEEDS_RESET);
	CHECK(!f->dev.active && !f->dev.vq[0].active);
	CHECK_EQ(f->reset, 1);
	/* And one that needs a reset already is left alone. */
	set_status(f, 0);
	f->resume_ret = 0;
	start(f, VERSION_1);
	virtio_broken(&f->dev, "test");
	virtio_mmio_pause(&f->mmio);
	virtio_mmio_resume(&f->mmio);
	CHECK_EQ(f->paused, 3);
	CHECK_EQ(f->resumed, 2);
	fake_free(f);
}

/* The same RAM in another machine. */
static struct fake *fake_clone(const struct fake *f, const struct virtio_ops *ops)
{
	struct fake *g = fake_new_on(ops, NULL);

	memcpy(g->ram, f->ram, RAM_SIZE);
	return g;
}

static void save_paused(struct fake *f, struct snapshot *snap)
{
	virtio_mmio_pause(&f->mmio);
	snapshot_save(snap, &f->mmio);
	CHECK_EQ(snap->err, 0);
	virtio_mmio_resume(&f->mmio);
}

/* A device of every state that its driver can bring it to; the words of its page come back. */
static void bring_to(struct fake *f, unsigned int state)
{
	switch (state) {
	case 0:
		return;
	case 1:
		set_status(f, ACK);
		wr(f, VIRTIO_MMIO_QUEUE_SEL, 77);
		want_features(f, ~0ULL);
		return;
	case 2:
		negotiate(f, VERSION_1);
		set_queue(f, 1);
		wr(f, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
		return;
	case 3:
		set_status(f, ACK | DRIVER);
		set_status(f, FAILED);
		return;
	case 4:
		virtio_broken(&f->dev, "test");
		return;
	case 8:
		f->activate_ret = -EIO;
		negotiate(f, VERSION_1);
		set_status(f, RUNNING);
		return;
	}
	start(f, VERSION_1 | RING_RESET | (state & 1 ? RING_FEATURES : 0));
	if (state == 6)
		virtio_broken(&f->dev, "test");
	if (state == 7) {
		wr(f, VIRTIO_MMIO_QUEUE_SEL, 2);
		wr(f, QUEUE_RESET, 1);
	}
	pthread_mutex_lock(&f->dev.lock);
	virtio_config_change(&f->dev, 3, "xyz", 3);
	pthread_mutex_unlock(&f->dev.lock);
	f->dev.vq[0].last_avail = 0xfffe;
	f->dev.vq[0].next_used = 0xfffd;
	f->dev.vq[0].signalled = 0x1234;
	f->dev.vq[0].signalled_valid = f->dev.vq[0].pushed = true;
}

#define NR_STATES 9

static void same_queue(const struct fake *f, const struct fake *g, unsigned int i)
{
	const struct queue *a = &f->dev.vq[i], *b = &g->dev.vq[i];

	CHECK_EQ(a->num, b->num);
	CHECK_EQ(a->ready, b->ready);
	CHECK_EQ(a->desc_gpa, b->desc_gpa);
	CHECK_EQ(a->avail_gpa, b->avail_gpa);
	CHECK_EQ(a->used_gpa, b->used_gpa);
	CHECK_EQ(a->active, b->active);
	CHECK_EQ(a->broken, b->broken);
	CHECK_EQ(a->event_idx, b->event_idx);
	CHECK_EQ(a->indirect, b->indirect);
	CHECK_EQ(a->last_avail, b->last_avail);
	CHECK_EQ(a->next_used, b->next_used);
	CHECK_EQ(a->signalled, b->signalled);
	CHECK_EQ(a->signalled_valid, b->signalled_valid);
	CHECK_EQ(a->pushed, b->pushed);
	if (a->active)
		CHECK_EQ((uint8_t *)a->used - f->ram, (uint8_t *)b->used - g->ram);
}

static void state_comes_back(void)
{
	struct snapshot snap, again;

	for (unsigned int i = 0; i < NR_STATES; i++) {
		struct fake *f = fake_new_on(&fake_ops_with_state, NULL), *g;

		f->own = 0xabcd0000 + i;
		bring_to(f, i);
		save_paused(f, &snap);
		memset(f->ram + 0x100, 0x77, 0x300); /* rings as they may be in the middle of work */
		g = fake_clone(f, &fake_ops_with_state);
		memcpy(g->dev.config, f->dev.config, CONFIG_LEN);
		CHECK_EQ(snapshot_load(&snap, &g->mmio), 0);
		CHECK(g->dev.paused);
		CHECK(!memcmp(f->mmio.reg, g->mmio.reg, VIRTIO_MMIO_PAGE));
		CHECK(!memcmp(f->ram, g->ram, RAM_SIZE));
		CHECK_EQ(f->dev.acked, g->dev.acked);
		CHECK_EQ(f->dev.active, g->dev.active);
		CHECK_EQ(f->own, g->own);
		for (unsigned int q = 0; q < NR_QUEUES; q++)
			same_queue(f, g, q);
		CHECK_EQ(g->activated + g->resumed + g->reset, 0);
		snapshot_save(&again, &g->mmio);
		CHECK_EQ(snap.len, again.len);
		CHECK(!memcmp(snap.p, again.p, snap.len));
		CHECK_EQ(interrupts(g), 0);
		virtio_mmio_resume(&g->mmio);
		CHECK_EQ(interrupts(g), status(f) & DRIVER_OK ? 1 : 0);
		CHECK_EQ(g->resumed, f->dev.active && !(status(f) & NEEDS_RESET));
		/* And all is forgotten at a reset, as ever. */
		set_status(g, 0);
		start(g, VERSION_1);
		fake_free(g);
		fake_free(f);
	}
}

/* The bytes of docs/snapshot.md. */
static void state_layout(void)
{
	struct fake *f = fake_new_on(&fake_ops_with_state, NULL);
	struct snapshot snap;
	const size_t queues = 4 + 8 + 4 + CONFIG_LEN + 4 + 4 * 4 + 8 + 8 + 4 * 4 + 1;

	f->own = 0x89abcdef;
	start(f, VERSION_1);
	f->dev.vq[2].last_avail = 0x1234;
	save_paused(f, &snap);
	CHECK_EQ(snap.len, queues + NR_QUEUES * 37 + 4);
	CHECK_EQ(state_file_load(snap.p, 4), FAKE_ID);
	CHECK_EQ(state_file_load(snap.p + 4, 8), OFFERED | RING_RESET);
	CHECK_EQ(state_file_load(snap.p + 12, 4), CONFIG_LEN);
	CHECK_EQ(snap.p[16], 0xc0);
	CHECK_EQ(state_file_load(snap.p + 16 + CONFIG_LEN, 4), NR_QUEUES);
	CHECK_EQ(state_file_load(snap.p + queues - 9 - 8, 4), RUNNING);
	CHECK_EQ(snap.p[queues - 1], 1);
	CHECK_EQ(state_file_load(snap.p + queues + 2 * 37, 2), 8);
	CHECK_EQ(state_file_load(snap.p + queues + 2 * 37 + 3, 8), ring_gpa(2));
	CHECK_EQ(state_file_load(snap.p + queues + 2 * 37 + 29, 2), 0x1234);
	CHECK_EQ(state_file_load(snap.p + queues + 3 * 37, 4), 0x89abcdef);
	fake_free(f);
}

static void requests_in_hand_are_not_saved(void)
{
	struct fake *f = fake_new_on(&fake_ops_with_state, NULL);
	struct snapshot snap;

	start(f, VERSION_1);
	virtio_mmio_pause(&f->mmio);
	f->dev.vq[1].in_flight = 1;
	snapshot_save(&snap, &f->mmio);
	CHECK_EQ(snap.err, -EBUSY);
	/* What a broken device never gives back is in nobody's way. */
	virtio_broken(&f->dev, "test");
	snapshot_save(&snap, &f->mmio);
	CHECK_EQ(snap.err, 0);
	fake_free(f);
}

/* What a device that was just loaded does under a driver that goes on. */
static void drive(struct fake *g)
{
	struct queue_chain chain;

	virtio_mmio_resume(&g->mmio);
	for (unsigned int q = 0; q < NR_QUEUES; q++) {
		g->mmio.kick[q].fn(&g->mmio.kick[q], EPOLLIN);
		for (unsigned int n = 0; n < 20 && queue_pop(&g->dev.vq[q], &chain) > 0; n++)
			queue_push(&g->dev.vq[q], chain.head, 1);
		virtio_signal(&g->dev, q);
		queue_enable_kicks(&g->dev.vq[q]);
		wr(g, VIRTIO_MMIO_QUEUE_SEL, q);
		rd(g, VIRTIO_MMIO_QUEUE_READY);
	}
	set_status(g, RUNNING);
	set_status(g, 0);
	start(g, VERSION_1);
}

static void damaged_state(void)
{
	static const uint8_t bits[] = { 0x01, 0x40, 0x80, 0xff };
	struct snapshot snap, bent;
	unsigned int taken = 0;
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	log_set_fd(null, false);
	for (unsigned int i = 5; i < 8; i++) {
		struct fake *f = fake_new_on(&fake_ops_with_state, NULL), *g;

		bring_to(f, i);
		save_paused(f, &snap);
		for (size_t at = 0; at < snap.len; at++) {
			for (unsigned int k = 0; k < sizeof(bits); k++) {
				int ret;

				bent = snap;
				bent.p[at] ^= bits[k];
				g = fake_clone(f, &fake_ops_with_state);
				ret = snapshot_load(&bent, &g->mmio);
				CHECK(!ret || ret == -EBADMSG || ret == -EINVAL);
				CHECK(!memcmp(f->ram, g->ram, RAM_SIZE));
				taken += !ret;
				if (!ret)
					drive(g);
				fake_free(g);
			}
			bent = snap;
			bent.len = at;
			g = fake_clone(f, &fake_ops_with_state);
			CHECK(snapshot_load(&bent, &g->mmio) < 0);
			fake_free(g);
		}
		bent = snap;
		bent.p[bent.len++] = 0;
		g = fake_clone(f, &fake_ops_with_state);
		CHECK_EQ(snapshot_load(&bent, &g->mmio), -EBADMSG);
		fake_free(g);
		fake_free(f);
	}
	CHECK(taken > 100); /* indices and config bytes: any will do */
	log_set_fd(2, false);
	close(null);
}

static void another_device_is_refused(void)
{
	struct fake *f = fake_new_on(&fake_ops_with_state, NULL), *g;
	struct snapshot snap;

	start(f, VERSION_1 | 1ULL << 5);
	save_paused(f, &snap);
	for (unsigned int i = 0; i < 6; i++) {
		int want = -EINVAL;

		g = fake_clone(f, &fake_ops_with_state);
		virtio_mmio_fini(&g->mmio);
		if (i == 0)
			g->dev.id++;
		if (i == 1)
			g->dev.nr_queues--;
		if (i == 2)
			g->dev.config_len++;
		if (i >= 3)
			g->dev.features &= ~(1ULL << 5);
		if (i == 4) { /* harmless to a driver that has it */
			g->dev.compatible = 1ULL << 5;
			want = 0;
		}
		if (i == 5) {
			g->dev.features |= 1ULL << 5;
			g->dev.queue_max[0] = 4; /* and the driver has 8 */
			want = -EBADMSG;
		}
		CHECK_EQ(virtio_mmio_init(&g->mmio, &g->dev, &g->mem, NULL, &g->irq), 0);
		CHECK_EQ(snapshot_load(&snap, &g->mmio), want);
		fake_free(g);
	}
	/* Rings where this machine has no RAM. */
	g = fake_clone(f, &fake_ops_with_state);
	g->mem.region[0].size = 0x2000;
	CHECK_EQ(snapshot_load(&snap, &g->mmio), -EBADMSG);
	fake_free(g);
	fake_free(f);
}

/* The config space is this host's; a driver that read another is told. */
static void another_config_is_told(void)
{
	struct fake *f = fake_new_on(&fake_ops_with_state, NULL), *g;
	struct snapshot snap;

	start(f, VERSION_1);
	save_paused(f, &snap);
	g = fake_clone(f, &fake_ops_with_state);
	g->dev.config[4] = 0x11;
	CHECK_EQ(snapshot_load(&snap, &g->mmio), 0);
	CHECK_EQ(rd_len(g, 0x104, 1), 0x11);
	CHECK_EQ(rd(g, VIRTIO_MMIO_CONFIG_GENERATION), 1);
	CHECK_EQ(rd(g, VIRTIO_MMIO_INTERRUPT_STATUS), 3);
	CHECK_EQ(interrupts(g), 0);
	virtio_mmio_resume(&g->mmio);
	CHECK_EQ(interrupts(g), 1);
	fake_free(g);
	fake_free(f);
}

/* A region that holds a ring stays; one that holds none goes. */
static void regions_with_rings_stay(void)
{
	struct region_spec spec = { .gpa = 0x10000000, .size = 0x10000 };
	struct fake *f = fake_new_on(&fake_ops_with_state, NULL);
	struct vm *vm = calloc(1, sizeof(*vm));
	uint32_t slot, other;

	virtio_mmio_fini(&f->mmio);
	vm->fd = -1;
	memory_init(&vm->mem, -1);
	irq_init(&vm->irqs, -1);
	CHECK_EQ(region_add(&vm->mem, &spec, &slot, NULL), 0);
	spec.gpa += spec.size;
	CHECK_EQ(region_add(&vm->mem, &spec, &other, NULL), 0);
	f->dev.vhost = true;
	CHECK_EQ(virtio_mmio_attach(&f->mmio, &f->dev, vm, 0), 0);
	watch_page(&f->mmio);
	negotiate(f, VERSION_1);
	wr(f, VIRTIO_MMIO_QUEUE_SEL, 1);
	wr(f, VIRTIO_MMIO_QUEUE_NUM, 8);
	write_addrs(f, 0x10000000, 0x10000100, 0x10000200);
	wr(f, VIRTIO_MMIO_QUEUE_READY, 1);
	CHECK_EQ(set_status(f, RUNNING), RUNNING);
	virtio_mmio_pause(&f->mmio);
	CHECK_EQ(region_remove(&vm->mem, slot, NULL), -EBUSY);
	CHECK_EQ(region_remove(&vm->mem, other, NULL), 0);
	CHECK(queue_in_place(&f->dev.vq[1]));
	/* It has a table in vhost: 64 regions, no more, and the refusal changes nothing. */
	for (spec.gpa = 0x20000000; vm->mem.nr < MEMORY_VHOST_REGIONS; spec.gpa += spec.size)
		CHECK_EQ(region_add(&vm->mem, &spec, &other, NULL), 0);
	CHECK_EQ(region_add(&vm->mem, &spec, &other, NULL), -E2BIG);
	virtio_mmio_resume(&f->mmio);
	set_status(f, 0);
	CHECK_EQ(region_remove(&vm->mem, slot, NULL), 0);
	virtio_mmio_detach(&f->mmio);
	CHECK(!vm->mem.watches);
	while (vm->mem.nr <= MEMORY_VHOST_REGIONS) {
		CHECK_EQ(region_add(&vm->mem, &spec, &other, NULL), 0);
		spec.gpa += spec.size;
	}
	CHECK_EQ(virtio_mmio_attach(&f->mmio, &f->dev, vm, 1), -E2BIG);
	CHECK(!vm->mem.watches && !f->dev.mmio);
	memory_fini(&vm->mem);
	irq_fini(&vm->irqs);
	free(vm);
	fake_free(f);
}

int main(void)
{
	log_set_level(LOG_WARN);
	RUN(pause_and_resume);
	RUN(state_comes_back);
	RUN(state_layout);
	RUN(requests_in_hand_are_not_saved);
	RUN(damaged_state);
	RUN(another_device_is_refused);
	RUN(another_config_is_told);
	RUN(regions_with_rings_stay);
	RUN(power_on_registers);
	RUN(registers_take_4_bytes);
	RUN(read_only_registers);
	RUN(status_order);
	RUN(feature_words);
	RUN(feature_negotiation);
	RUN(queue_selectors);
	RUN(queue_sizes);
	RUN(queue_ready_values);
	RUN(addresses_join_halves);
	RUN(registers_by_state);
	RUN(activation);
	RUN(activation_fails);
	RUN(device_refuses);
	RUN(reset_forgets);
	RUN(reset_of_an_idle_device);
	RUN(notify);
	RUN(kick_events);
	RUN(broken);
	RUN(interrupt_status);
	RUN(signals);
	RUN(config_reads);
	RUN(config_writes);
	RUN(config_changes);
	RUN(queue_reset_register);
	RUN(queue_taken_away);
	RUN(impossible_devices);
	RUN(attach);
	RUN(register_page);
	RUN(kept_writes);
	RUN(no_register_page);
	RUN(register_page_lost);
	RUN(echo_over_the_loop);
	RUN(storm);
	return TEST_RESULT();
}
