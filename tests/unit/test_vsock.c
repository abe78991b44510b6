/* SPDX-License-Identifier: MIT */
/*
 * The vsock device against a model of /dev/vhost-vsock that keeps the kernel's rules, driven
 * through the transport's registers as a guest's driver would: which calls, in which order, with
 * which values, and what is left behind when any of them fails.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <linux/virtio_vsock.h>

#include "arch/arch.h"
#include "tests/unit/allocs.h"
#include "tests/unit/test.h"
#include "virtio/mmio.h"
#include "virtio/vhost.h"
#include "tests/unit/snapshot.h"
#include "vm/event.h"
#include "vm/irq.h"
#include "vm/kvm.h"
#include "vm/log.h"
#include "vm/memory.h"
#include "vsock/vsock.h"

#define BIT(n) (1ULL << (n))
#define V1     BIT(VIRTIO_F_VERSION_1)
#define RINGS  (BIT(VIRTIO_RING_F_INDIRECT_DESC) | BIT(VIRTIO_RING_F_EVENT_IDX))
#define SEQ    BIT(VIRTIO_VSOCK_F_SEQPACKET)

/* What a current kernel's VHOST_VSOCK_FEATURES holds, the dangerous bits included. */
#define KERNEL_FEATURES                                                                            \
	(V1 | RINGS | SEQ | BIT(VHOST_F_LOG_ALL) | BIT(VIRTIO_F_NOTIFY_ON_EMPTY) |                 \
	 BIT(VIRTIO_F_ANY_LAYOUT) | BIT(VIRTIO_F_ACCESS_PLATFORM))

/* --- the model ----------------------------------------------------------------------------- */

#define OPEN	 0xffffffffUL /* in the record of calls, where ioctls have their numbers */
#define MAX_CALLS 64

struct call {
	unsigned long request;
	unsigned int index; /* of requests that name a ring */
	uint64_t value;	    /* their other field; else the argument */
};

struct ring {
	unsigned int num, base;
	struct vhost_vring_addr addr;
	int kick, call, err;
};

static struct model {
	int fd;
	int open_flags, open_errno;
	uint64_t offered;
	uint64_t taken_cid;

	bool owned, running;
	uint64_t cid, features;
	struct ring ring[2];
	unsigned int nregions;
	struct vhost_memory_region region[MEMORY_VHOST_REGIONS];

	struct call call[MAX_CALLS];
	unsigned int nr_calls;
	unsigned int fail_at; /* this call, counted from 1, ... */
	int fail_errno;	      /* ... answers this; 0: none */
	bool bad_fd, broke_rule;
} model;

static void model_init(uint64_t offered)
{
	memset(&model, 0, sizeof(model));
	model.fd = -1;
	model.offered = offered;
	for (unsigned int i = 0; i < 2; i++)
		model.ring[i].kick = model.ring[i].call = model.ring[i].err = -1;
}

static void record(unsigned long request, unsigned int index, uint64_t value)
{
	if (model.nr_calls < MAX_CALLS)
		model.call[model.nr_calls] = (struct call){ request, index, value };
	model.nr_calls++;
}

static void forget_calls(void)
{
	model.nr_calls = 0;
	model.fail_at = 0;
}

static bool failing(void)
{
	return model.fail_at && model.nr_calls == model.fail_at;
}

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);

int __wrap_open(const char *path, int flags, ...)
{
	if (strcmp(path, "/dev/vhost-vsock"))
		return __real_open(path, flags, 0);
	record(OPEN, 0, (uint64_t)flags);
	if (model.open_errno) {
		errno = model.open_errno;
		return -1;
	}
	model.fd = __real_open("/dev/null", O_RDWR | O_CLOEXEC);
	return model.fd;
}

/* A rule that a caller must never run into: not an errno for it to handle, a mistake in it. */
static int mistake(int err)
{
	model.broke_rule = true;
	return -err;
}

static int model_ring_state(unsigned long request, struct vhost_vring_state *state)
{
	struct ring *ring = &model.ring[state->index & 1];

	record(request, state->index, state->num);
	if (failing())
		return -model.fail_errno;
	if (state->index > 1)
		return mistake(ENOBUFS);
	if (request == VHOST_GET_VRING_BASE) {
		state->num = ring->base;
		return 0;
	}
	if (model.running)
		return mistake(EBUSY);
	if (request == VHOST_SET_VRING_BASE)
		ring->base = state->num;
	else if (!state->num || state->num > 0xffff || state->num & (state->num - 1))
		return mistake(EINVAL);
	else
		ring->num = state->num;
	return 0;
}

static int model_ring_addr(const struct vhost_vring_addr *addr)
{
	record(VHOST_SET_VRING_ADDR, addr->index, addr->desc_user_addr);
	if (failing())
		return -model.fail_errno;
	if (addr->index > 1)
		return mistake(ENOBUFS);
	if (addr->flags)
		return mistake(EOPNOTSUPP);
	if (addr->avail_user_addr % 2 || addr->used_user_addr % 4 || addr->desc_user_addr % 16)
		return mistake(EINVAL);
	model.ring[addr->index].addr = *addr;
	return 0;
}

static int model_ring_file(unsigned long request, const struct vhost_vring_file *file)
{
	struct ring *ring = &model.ring[file->index & 1];

	record(request, file->index, (uint64_t)(int64_t)file->fd);
	if (failing())
		return -model.fail_errno;
	if (file->index > 1)
		return mistake(ENOBUFS);
	if (file->fd != -1 && fcntl(file->fd, F_GETFD) < 0)
		return mistake(EBADF);
	*(request == VHOST_SET_VRING_KICK ? &ring->kick :
	  request == VHOST_SET_VRING_CALL ? &ring->call :
					    &ring->err) = file->fd;
	return 0;
}

static int model_set_cid(uint64_t cid)
{
	record(VHOST_VSOCK_SET_GUEST_CID, 0, cid);
	if (failing())
		return -model.fail_errno;
	if (cid <= 2 || cid >= UINT32_MAX)
		return mistake(EINVAL);
	if (cid == model.taken_cid)
		return -EADDRINUSE;
	model.cid = cid;
	return 0;
}

static int model_set_features(uint64_t features)
{
	record(VHOST_SET_FEATURES, 0, features);
	if (failing())
		return -model.fail_errno;
	if (features & ~model.offered)
		return mistake(EOPNOTSUPP);
	model.features = features;
	return 0;
}

static int model_set_memory(const struct vhost_memory *table)
{
	record(VHOST_SET_MEM_TABLE, 0, table->nregions);
	if (failing())
		return -model.fail_errno;
	if (table->padding)
		return mistake(EOPNOTSUPP);
	if (table->nregions > MEMORY_VHOST_REGIONS)
		return mistake(E2BIG);
	model.nregions = table->nregions;
	memcpy(model.region, table->regions, table->nregions * sizeof(model.region[0]));
	return 0;
}

static int model_set_running(int on)
{
	record(VHOST_VSOCK_SET_RUNNING, 0, (uint64_t)on);
	if (failing())
		return -model.fail_errno;
	if (on && (!model.ring[0].num || !model.ring[1].num || !model.nregions))
		return mistake(EFAULT);
	model.running = on;
	return 0;
}

int kvm_ioctl_raw(int fd, unsigned long request, void *arg)
{
	if (fd < 0 || fd != model.fd || fcntl(fd, F_GETFD) < 0) {
		model.bad_fd = true;
		return -EBADF;
	}
	if (!model.owned && request != VHOST_SET_OWNER)
		return mistake(EPERM);
	switch (request) {
	case VHOST_SET_OWNER:
		record(request, 0, 0);
		if (failing())
			return -model.fail_errno;
		if (model.owned)
			return mistake(EBUSY);
		model.owned = true;
		return 0;
	case VHOST_GET_FEATURES:
		record(request, 0, 0);
		if (failing())
			return -model.fail_errno;
		memcpy((void *)arg, &model.offered, sizeof(model.offered));
		return 0;
	case VHOST_VSOCK_SET_GUEST_CID:
		return model_set_cid(*(const uint64_t *)arg);
	case VHOST_SET_FEATURES:
		return model_set_features(*(const uint64_t *)arg);
	case VHOST_SET_MEM_TABLE:
		return model_set_memory(arg);
	case VHOST_SET_VRING_NUM:
	case VHOST_SET_VRING_BASE:
	case VHOST_GET_VRING_BASE:
		return model_ring_state(request, (void *)arg);
	case VHOST_SET_VRING_ADDR:
		return model_ring_addr(arg);
	case VHOST_SET_VRING_KICK:
	case VHOST_SET_VRING_CALL:
	case VHOST_SET_VRING_ERR:
		return model_ring_file(request, arg);
	case VHOST_VSOCK_SET_RUNNING:
		return model_set_running(*(const int *)arg);
	default:
		return mistake(ENOTTY);
	}
}

int kvm_ioctl_named(int fd, unsigned long request, const char *name, void *arg)
{
	(void)name;
	return kvm_ioctl_raw(fd, request, arg);
}

/* Below the transport, and not reached without KVM. */
void arch_virtio_slot(unsigned int i, struct arch_slot *slot)
{
	(void)i;
	memset(slot, 0, sizeof(*slot));
}

uint32_t arch_irq_number(uint32_t gsi)
{
	return gsi;
}

/* --- what a test needs besides ------------------------------------------------------------- */

static char log_text[16384];
static int log_file = -1;

/* The log lines since the last call; a line of the same call site beyond LOG_BURST is not there. */
static const char *log_take(void)
{
	ssize_t n = pread(log_file, log_text, sizeof(log_text) - 1, 0);

	log_text[n > 0 ? n : 0] = '\0';
	if (ftruncate(log_file, 0) || lseek(log_file, 0, SEEK_SET))
		log_text[0] = '\0';
	return log_text;
}

static bool logged(const char *words)
{
	return strstr(log_text, words);
}

#define GPA0  0x0ULL
#define GPA1  0x100000000ULL
#define SIZE0 0x200000ULL
#define SIZE1 0x100000ULL

/* Where the driver puts queue @q: two in the low region, the event queue's in the high one. */
static uint64_t ring_gpa(unsigned int q)
{
	return q < 2 ? 0x10000 + 0x10000 * q : GPA1 + 0x4000;
}

struct machine {
	struct memory mem;
	struct event_loop loop;
	struct irq_line line;
	struct virtio_mmio mmio;
};

static struct virtio_dev *dev;
static struct machine m;

static bool at_work(void)
{
	return dev->active && !dev->paused;
}

static void machine_up(void)
{
	memset(&m, 0, sizeof(m));
	memory_init(&m.mem, -1);
	CHECK_EQ(memory_add_ram(&m.mem, GPA0, SIZE0, MEMORY_ANON), 0);
	CHECK_EQ(memory_add_ram(&m.mem, GPA1, SIZE1, MEMORY_ANON), 0);
	CHECK_EQ(event_loop_init(&m.loop), 0);
	m.line.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	CHECK_EQ(virtio_mmio_init(&m.mmio, dev, &m.mem, &m.loop, &m.line), 0);
	allocs_begin(at_work);
}

static void machine_down(void)
{
	allocs_end();
	virtio_mmio_fini(&m.mmio);
	event_loop_fini(&m.loop);
	close(m.line.fd);
	memory_fini(&m.mem);
}

static uint32_t reg_read(unsigned int offset)
{
	uint8_t b[4];

	virtio_mmio_access(&m.mmio, offset, b, 4, false);
	return b[0] | b[1] << 8 | b[2] << 16 | (uint32_t)b[3] << 24;
}

static void reg_write(unsigned int offset, uint32_t v)
{
	uint8_t b[4] = { (uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16), (uint8_t)(v >> 24) };

	virtio_mmio_access(&m.mmio, offset, b, 4, true);
}

#define ACK	     VIRTIO_CONFIG_S_ACKNOWLEDGE
#define DRIVER	     VIRTIO_CONFIG_S_DRIVER
#define FEATURES_OK  VIRTIO_CONFIG_S_FEATURES_OK
#define DRIVER_OK    VIRTIO_CONFIG_S_DRIVER_OK
#define NEEDS_RESET  VIRTIO_CONFIG_S_NEEDS_RESET
#define RUNS	     (ACK | DRIVER | FEATURES_OK | DRIVER_OK)

static void driver_queue(unsigned int q, unsigned int num)
{
	uint64_t gpa = ring_gpa(q);

	reg_write(VIRTIO_MMIO_QUEUE_SEL, q);
	reg_write(VIRTIO_MMIO_QUEUE_NUM, num);
	reg_write(VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)gpa);
	reg_write(VIRTIO_MMIO_QUEUE_DESC_HIGH, (uint32_t)(gpa >> 32));
	reg_write(VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)gpa + 0x2000);
	reg_write(VIRTIO_MMIO_QUEUE_AVAIL_HIGH, (uint32_t)(gpa >> 32));
	reg_write(VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)gpa + 0x3000);
	reg_write(VIRTIO_MMIO_QUEUE_USED_HIGH, (uint32_t)(gpa >> 32));
	reg_write(VIRTIO_MMIO_QUEUE_READY, 1);
}

/* From reset to DRIVER_OK with the queues in the mask; the status read back. */
static uint32_t driver_up(uint64_t features, unsigned int queues)
{
	reg_write(VIRTIO_MMIO_STATUS, ACK);
	reg_write(VIRTIO_MMIO_STATUS, ACK | DRIVER);
	reg_write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	reg_write(VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)features);
	reg_write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	reg_write(VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> 32));
	reg_write(VIRTIO_MMIO_STATUS, ACK | DRIVER | FEATURES_OK);
	for (unsigned int q = 0; q < 3; q++)
		if (queues >> q & 1)
			driver_queue(q, 16 << q);
	reg_write(VIRTIO_MMIO_STATUS, RUNS);
	return reg_read(VIRTIO_MMIO_STATUS);
}

static void driver_reset(void)
{
	reg_write(VIRTIO_MMIO_STATUS, 0);
}

/* A device with CID 42 over a kernel that offers @offered, on a machine, calls forgotten. */
static bool setup(uint64_t offered)
{
	model_init(offered);
	dev = NULL;
	CHECK_EQ(vsock_create(&dev, 42), 0);
	if (!dev)
		return false;
	machine_up();
	forget_calls();
	return true;
}

static void teardown(void)
{
	machine_down();
	dev->ops->destroy(dev);
	CHECK(!model.bad_fd);
	CHECK(!model.broke_rule);
	CHECK(fcntl(model.fd, F_GETFD) < 0);
	log_take();
}

static bool detached(void)
{
	bool none = !model.running;

	for (unsigned int i = 0; i < 2; i++)
		none = none && model.ring[i].kick == -1 && model.ring[i].call == -1 &&
		       model.ring[i].err == -1;
	return none;
}

static void check_calls(const struct call *want, unsigned int nr)
{
	CHECK_EQ(model.nr_calls, nr);
	for (unsigned int i = 0; i < nr && i < model.nr_calls; i++) {
		CHECK_EQ(model.call[i].request, want[i].request);
		CHECK_EQ(model.call[i].index, want[i].index);
		CHECK_EQ(model.call[i].value, want[i].value);
	}
}

/* --- creation ------------------------------------------------------------------------------ */

static void create_claims_the_cid(void)
{
	const struct call want[] = {
		{ OPEN, 0, O_RDWR | O_CLOEXEC | O_NONBLOCK },
		{ VHOST_SET_OWNER, 0, 0 },
		{ VHOST_GET_FEATURES, 0, 0 },
		{ VHOST_VSOCK_SET_GUEST_CID, 0, 0x87654321 },
	};
	const uint8_t config[8] = { 0x21, 0x43, 0x65, 0x87 };
	unsigned int fds = open_fds();

	model_init(KERNEL_FEATURES);
	dev = NULL;
	CHECK_EQ(vsock_create(&dev, 0x87654321), 0);
	if (!dev)
		return;
	check_calls(want, 4);
	CHECK_EQ(dev->id, VIRTIO_ID_VSOCK);
	CHECK_EQ(dev->nr_queues, 3);
	CHECK_EQ(dev->own_kicks, 3);
	CHECK(dev->no_ring_features);
	CHECK(dev->vhost); /* no more regions of RAM than its table holds */
	CHECK_EQ(dev->config_len, 8);
	CHECK(!memcmp(dev->config, config, 8));
	CHECK(!dev->ops->queue_reset);

	/* As the guest sees it, and past the end. */
	machine_up();
	CHECK_EQ(reg_read(VIRTIO_MMIO_DEVICE_ID), 19);
	CHECK_EQ(reg_read(VIRTIO_MMIO_CONFIG), 0x87654321);
	CHECK_EQ(reg_read(VIRTIO_MMIO_CONFIG + 4), 0);
	CHECK_EQ(reg_read(VIRTIO_MMIO_CONFIG + 8), 0);
	machine_down();

	/* Never activated: nothing to ask of the kernel but to let go. */
	CHECK_EQ(model.nr_calls, 4);
	dev->ops->destroy(dev);
	CHECK_EQ(open_fds(), fds);
}

static void reserved_cids_are_refused(void)
{
	const uint64_t bad[] = { 0, 1, 2, 0xffffffff, 0x100000003, UINT64_MAX };
	const uint64_t good[] = { 3, 0xfffffffe };

	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		model_init(KERNEL_FEATURES);
		CHECK_EQ(vsock_create(&dev, bad[i]), -EINVAL);
		CHECK_EQ(model.nr_calls, 0);
		log_take();
		CHECK(logged("EINVAL") && logged("from 3 to 4294967294"));
	}
	for (unsigned int i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		model_init(KERNEL_FEATURES);
		CHECK_EQ(vsock_create(&dev, good[i]), 0);
		CHECK_EQ(model.cid, good[i]);
		dev->ops->destroy(dev);
	}
}

static void create_says_what_to_do(void)
{
	const struct {
		int err;
		const char *name, *words;
	} opens[] = {
		{ ENOENT, "ENOENT", "load the vhost_vsock module or build the kernel with "
				    "CONFIG_VHOST_VSOCK" },
		{ ENODEV, "ENODEV", "CONFIG_VHOST_VSOCK" },
		{ EACCES, "EACCES", "run as root" },
		{ EMFILE, "EMFILE", "/dev/vhost-vsock" },
	};
	unsigned int fds = open_fds();

	for (unsigned int i = 0; i < sizeof(opens) / sizeof(opens[0]); i++) {
		model_init(KERNEL_FEATURES);
		model.open_errno = opens[i].err;
		CHECK_EQ(vsock_create(&dev, 42), -opens[i].err);
		log_take();
		CHECK(logged("/dev/vhost-vsock"));
		CHECK(logged(opens[i].name));
		CHECK(logged(opens[i].words));
	}

	model_init(KERNEL_FEATURES);
	model.taken_cid = 42;
	CHECK_EQ(vsock_create(&dev, 42), -EADDRINUSE);
	log_take();
	CHECK(logged("EADDRINUSE"));
	CHECK(logged("CID 42 is taken by another guest or is this host's own"));

	model_init(KERNEL_FEATURES & ~V1);
	CHECK_EQ(vsock_create(&dev, 42), -ENOTSUP);
	log_take();
	CHECK(logged("VERSION_1"));
	CHECK_EQ(open_fds(), fds);
}

static void create_undoes_itself(void)
{
	const char *const name[] = { "VHOST_SET_OWNER", "VHOST_GET_FEATURES",
				     "VHOST_VSOCK_SET_GUEST_CID" };
	unsigned int fds = open_fds();

	/* Call 1 is the open. */
	for (unsigned int at = 2; at <= 4; at++) {
		model_init(KERNEL_FEATURES);
		model.fail_at = at;
		model.fail_errno = ENOMEM;
		CHECK_EQ(vsock_create(&dev, 42), -ENOMEM);
		CHECK_EQ(model.nr_calls, at);
		CHECK(fcntl(model.fd, F_GETFD) < 0);
		log_take();
		CHECK(logged(name[at - 2]) && logged("ENOMEM"));
	}
	CHECK_EQ(open_fds(), fds);
	CHECK(!model.broke_rule);
}

/* --- features ------------------------------------------------------------------------------ */

static uint64_t offered_to_guest(void)
{
	uint64_t features;

	reg_write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
	features = reg_read(VIRTIO_MMIO_DEVICE_FEATURES);
	reg_write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
	return features | (uint64_t)reg_read(VIRTIO_MMIO_DEVICE_FEATURES) << 32;
}

static void features_are_masked(void)
{
	const struct {
		uint64_t kernel, guest;
	} rows[] = {
		{ KERNEL_FEATURES, V1 | RINGS | SEQ },
		{ UINT64_MAX, V1 | RINGS | SEQ },
		{ KERNEL_FEATURES & ~SEQ, V1 | RINGS },
		{ V1, V1 },
		{ V1 | SEQ, V1 | SEQ },
		{ V1 | BIT(VIRTIO_RING_F_EVENT_IDX), V1 | BIT(VIRTIO_RING_F_EVENT_IDX) },
		{ V1 | BIT(VIRTIO_RING_F_INDIRECT_DESC), V1 | BIT(VIRTIO_RING_F_INDIRECT_DESC) },
	};

	for (unsigned int i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		if (!setup(rows[i].kernel))
			return;
		CHECK_EQ(offered_to_guest(), rows[i].guest);
		teardown();
	}
}

static void features_reach_the_kernel_as_acked(void)
{
	const uint64_t acked[] = { V1, V1 | SEQ, V1 | RINGS, V1 | RINGS | SEQ };

	for (unsigned int i = 0; i < sizeof(acked) / sizeof(acked[0]); i++) {
		if (!setup(KERNEL_FEATURES))
			return;
		CHECK_EQ(driver_up(acked[i], 7), RUNS);
		CHECK_EQ(model.features, acked[i]);
		teardown();
	}

	/* What the kernel would take and the device did not offer never gets that far. */
	const unsigned int bad[] = { VHOST_F_LOG_ALL, VIRTIO_F_ACCESS_PLATFORM,
				     VIRTIO_F_NOTIFY_ON_EMPTY };

	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (!setup(KERNEL_FEATURES))
			return;
		CHECK(!(driver_up(V1 | BIT(bad[i]), 7) & (FEATURES_OK | DRIVER_OK)));
		CHECK_EQ(model.nr_calls, 0);
		/* Nor should the transport let it through one day. */
		dev->acked = V1 | SEQ | BIT(bad[i]);
		for (unsigned int q = 0; q < 2; q++) {
			struct queue *vq = &dev->vq[q];

			*vq = (struct queue){ .num = 8, .ready = true };
			vq->desc_gpa = ring_gpa(q);
			vq->avail_gpa = ring_gpa(q) + 0x2000;
			vq->used_gpa = ring_gpa(q) + 0x3000;
			CHECK_EQ(queue_activate(vq, &m.mem, V1), 0);
		}
		CHECK_EQ(dev->ops->activate(dev), 0);
		CHECK_EQ(model.features, V1 | SEQ);
		teardown();
	}
}

/* --- activation and reset ------------------------------------------------------------------ */

#define ACTIVATE_CALLS 15

static void activate_hands_all_over(void)
{
	uint64_t count = 0;
	unsigned int n = 0;

	if (!setup(KERNEL_FEATURES))
		return;
	CHECK_EQ(driver_up(V1 | SEQ, 7), RUNS);

	int err_fd = model.ring[0].err;
	struct call want[ACTIVATE_CALLS] = {
		{ VHOST_SET_FEATURES, 0, V1 | SEQ },
		{ VHOST_SET_MEM_TABLE, 0, 2 },
	};

	n = 2;
	for (unsigned int q = 0; q < 2; q++) {
		uint64_t desc = (uintptr_t)m.mem.region[0].hva + ring_gpa(q);

		want[n++] = (struct call){ VHOST_SET_VRING_NUM, q, 16 << q };
		want[n++] = (struct call){ VHOST_SET_VRING_BASE, q, 0 };
		want[n++] = (struct call){ VHOST_SET_VRING_ADDR, q, desc };
		want[n++] = (struct call){ VHOST_SET_VRING_KICK, q, m.mmio.kick_fd[q] };
		want[n++] = (struct call){ VHOST_SET_VRING_CALL, q, m.line.fd };
		want[n++] = (struct call){ VHOST_SET_VRING_ERR, q, err_fd };
	}
	want[n++] = (struct call){ VHOST_VSOCK_SET_RUNNING, 0, 1 };
	check_calls(want, n);
	CHECK_EQ(n, ACTIVATE_CALLS);

	for (unsigned int q = 0; q < 2; q++) {
		uint64_t base = (uintptr_t)m.mem.region[0].hva + ring_gpa(q);

		CHECK_EQ(model.ring[q].addr.desc_user_addr, base);
		CHECK_EQ(model.ring[q].addr.avail_user_addr, base + 0x2000);
		CHECK_EQ(model.ring[q].addr.used_user_addr, base + 0x3000);
		CHECK_EQ(model.ring[q].addr.log_guest_addr, 0);
		/* A kick for what the driver had put there earlier. */
		CHECK_EQ(read(m.mmio.kick_fd[q], &count, sizeof(count)), 8);
		CHECK(count > 0);
	}
	CHECK_EQ(model.region[0].guest_phys_addr, GPA0);
	CHECK_EQ(model.region[0].memory_size, SIZE0);
	CHECK_EQ(model.region[0].userspace_addr, (uintptr_t)m.mem.region[0].hva);
	CHECK_EQ(model.region[0].flags_padding, 0);
	CHECK_EQ(model.region[1].guest_phys_addr, GPA1);
	CHECK_EQ(model.region[1].memory_size, SIZE1);
	CHECK_EQ(model.region[1].userspace_addr, (uintptr_t)m.mem.region[1].hva);
	CHECK(err_fd >= 0 && err_fd != m.line.fd);
	teardown();
	CHECK(detached());
}

/* The most regions there can be: the table that is handed over has to hold them. */
static void activate_with_all_regions(void)
{
	if (!setup(KERNEL_FEATURES))
		return;
	for (unsigned int i = m.mem.nr; i < MEMORY_VHOST_REGIONS; i++)
		CHECK_EQ(memory_add_ram(&m.mem, GPA1 + i * 0x10000000ULL, 0x10000, MEMORY_ANON), 0);
	CHECK_EQ(driver_up(V1, 7), RUNS);
	CHECK_EQ(model.nregions, MEMORY_VHOST_REGIONS);
	for (unsigned int i = 0; i < MEMORY_VHOST_REGIONS; i++) {
		CHECK_EQ(model.region[i].guest_phys_addr, m.mem.region[i].gpa);
		CHECK_EQ(model.region[i].userspace_addr, (uintptr_t)m.mem.region[i].hva);
	}
	teardown();
}

static void activate_undoes_itself(void)
{
	for (unsigned int at = 1; at <= ACTIVATE_CALLS; at++) {
		if (!setup(KERNEL_FEATURES))
			return;
		model.fail_at = at;
		model.fail_errno = EFAULT;
		CHECK_EQ(driver_up(V1, 7), RUNS | NEEDS_RESET);
		CHECK(model.nr_calls > at); /* something was undone */
		CHECK(detached());

		/* Nothing of it stands in the way of the next driver. */
		forget_calls();
		driver_reset();
		CHECK_EQ(model.nr_calls, 0);
		CHECK_EQ(driver_up(V1, 7), RUNS);
		CHECK_EQ(model.nr_calls, ACTIVATE_CALLS);
		CHECK(model.running);
		teardown();
	}
}

static void activate_fails_without_the_event_loop(void)
{
	if (!setup(KERNEL_FEATURES))
		return;

	/* The loop's descriptor is taken away under it. */
	int saved = m.loop.epfd;

	m.loop.epfd = -1;
	CHECK_EQ(driver_up(V1, 7), RUNS | NEEDS_RESET);
	CHECK_EQ(model.nr_calls, 0);
	log_take();
	CHECK(logged("epoll_ctl: EBADF"));
	m.loop.epfd = saved;
	driver_reset();
	CHECK_EQ(driver_up(V1, 7), RUNS);
	teardown();
}

static void a_missing_queue_is_refused(void)
{
	const unsigned int queues[] = { 0, 1, 2, 4, 5, 6 };

	for (unsigned int i = 0; i < sizeof(queues) / sizeof(queues[0]); i++) {
		if (!setup(KERNEL_FEATURES))
			return;
		CHECK_EQ(driver_up(V1, queues[i]), RUNS | NEEDS_RESET);
		CHECK_EQ(model.nr_calls, 0);
		teardown();
	}

	/* The event queue is the VMM's: a driver that leaves it out runs. */
	if (!setup(KERNEL_FEATURES))
		return;
	CHECK_EQ(driver_up(V1, 3), RUNS);
	CHECK(model.running);
	teardown();
}

static void reset_lets_go_of_all(void)
{
	if (!setup(KERNEL_FEATURES))
		return;

	/* Before any DRIVER_OK: nothing to do. */
	driver_reset();
	driver_reset();
	CHECK_EQ(model.nr_calls, 0);

	for (unsigned int round = 0; round < 3; round++) {
		const uint64_t none = UINT64_MAX; /* -1 */
		const struct call want[] = {
			{ VHOST_VSOCK_SET_RUNNING, 0, 0 },
			{ VHOST_GET_VRING_BASE, 0, 0 },
			{ VHOST_SET_VRING_KICK, 0, none },
			{ VHOST_SET_VRING_CALL, 0, none },
			{ VHOST_SET_VRING_ERR, 0, none },
			{ VHOST_GET_VRING_BASE, 1, 0 },
			{ VHOST_SET_VRING_KICK, 1, none },
			{ VHOST_SET_VRING_CALL, 1, none },
			{ VHOST_SET_VRING_ERR, 1, none },
		};

		CHECK_EQ(driver_up(V1, 7), RUNS);
		forget_calls();
		driver_reset();
		check_calls(want, sizeof(want) / sizeof(want[0]));
		CHECK(detached());
		forget_calls();
		driver_reset();
		CHECK_EQ(model.nr_calls, 0);
	}
	CHECK_EQ(model.cid, 42);
	CHECK(fcntl(model.fd, F_GETFD) >= 0);
	teardown();
}

/* A guest's reset builds a new machine: the descriptor and its CID stay, RAM is elsewhere. */
static void a_new_machine_gets_its_own_ram(void)
{
	void *hole;
	uint8_t *old;
	int fd;

	if (!setup(KERNEL_FEATURES))
		return;
	CHECK_EQ(driver_up(V1 | RINGS, 7), RUNS);
	old = m.mem.region[0].hva;
	fd = model.fd;
	machine_down();
	CHECK(detached());

	/* Keep the old addresses from being handed out again. */
	hole = mmap(old, SIZE0, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
		    0);
	CHECK(hole == (void *)old);
	machine_up();
	CHECK(m.mem.region[0].hva != old);
	forget_calls();
	CHECK_EQ(driver_up(V1, 7), RUNS);
	CHECK_EQ(model.nr_calls, ACTIVATE_CALLS);
	CHECK_EQ(model.fd, fd);
	CHECK_EQ(model.features, V1);
	CHECK_EQ(model.region[0].userspace_addr, (uintptr_t)m.mem.region[0].hva);
	CHECK_EQ(model.ring[1].addr.used_user_addr,
		 (uintptr_t)m.mem.region[0].hva + ring_gpa(1) + 0x3000);
	CHECK_EQ(model.ring[0].kick, m.mmio.kick_fd[0]);
	CHECK_EQ(model.ring[0].call, m.line.fd);
	if (hole == (void *)old)
		munmap(hole, SIZE0);
	teardown();
}

/* Should the kernel not stop, guest memory matters more than the CID. */
static void a_kernel_that_does_not_stop(void)
{
	unsigned int fds = open_fds();

	if (!setup(KERNEL_FEATURES))
		return;
	CHECK_EQ(driver_up(V1, 7), RUNS);
	forget_calls();
	model.fail_at = 1;
	model.fail_errno = EIO;
	driver_reset();
	CHECK_EQ(model.nr_calls, 1);
	CHECK(fcntl(model.fd, F_GETFD) < 0);
	CHECK_EQ(driver_up(V1, 7), RUNS | NEEDS_RESET);
	CHECK_EQ(model.nr_calls, 1);
	driver_reset();
	teardown();
	CHECK_EQ(open_fds(), fds);
}

static void stop_and_close_when_closed(void)
{
	struct vhost vhost = { .fd = -1 };

	model_init(KERNEL_FEATURES);
	CHECK_EQ(vhost_stop(&vhost), -ENODEV);
	vhost_close(&vhost);
	vhost_close(&vhost);
	CHECK_EQ(model.nr_calls, 0);
	CHECK(!model.bad_fd && !model.broke_rule);
}

/* --- the kernel's complaints, the event queue ---------------------------------------------- */

static void *loop_thread(void *arg)
{
	event_loop_run(arg);
	return NULL;
}

/* Runs the loop until the device needs a reset, @ms at most; whether it does. */
static bool loop_until_broken(unsigned int ms)
{
	const struct timespec pause = { .tv_nsec = 1000000 };
	pthread_t thread;
	bool broken = false;

	if (test_thread(&thread, loop_thread, &m.loop))
		return false;
	while (ms-- && !broken) {
		broken = reg_read(VIRTIO_MMIO_STATUS) & NEEDS_RESET;
		nanosleep(&pause, NULL);
	}
	event_loop_stop(&m.loop);
	pthread_join(thread, NULL);
	return broken;
}

static void complain(int fd)
{
	const uint64_t one = 1;

	CHECK_EQ(write(fd, &one, sizeof(one)), 8);
}

static void a_ring_error_breaks_the_device(void)
{
	for (unsigned int q = 0; q < 2; q++) {
		if (!setup(KERNEL_FEATURES))
			return;
		CHECK_EQ(driver_up(V1, 7), RUNS);
		CHECK(!loop_until_broken(20));
		complain(model.ring[q].err);
		CHECK(loop_until_broken(5000));
		CHECK(reg_read(VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG);
		/* Stopped: a kick would only make the kernel complain again. */
		CHECK(detached());

		/* And it comes back with a reset, which has nothing left to stop. */
		forget_calls();
		driver_reset();
		CHECK_EQ(model.nr_calls, 0);
		CHECK_EQ(driver_up(V1, 7), RUNS);
		CHECK(!loop_until_broken(20));
		teardown();
	}
}

static void an_old_error_is_not_the_next_drivers(void)
{
	struct event *err;
	struct epoll_event ready;
	int err_fd;

	if (!setup(KERNEL_FEATURES))
		return;
	CHECK_EQ(driver_up(V1, 7), RUNS);
	err_fd = model.ring[0].err;

	/* The loop has chosen the callback, and a reset and a new driver get in before it runs. */
	complain(err_fd);
	CHECK_EQ(epoll_wait(m.loop.epfd, &ready, 1, 1000), 1);
	err = ready.data.ptr;
	if (err == &m.mmio.kick[2]) { /* the event queue's kick of the activation came first */
		err->fn(err, EPOLLIN);
		CHECK_EQ(epoll_wait(m.loop.epfd, &ready, 1, 1000), 1);
		err = ready.data.ptr;
	}
	CHECK_EQ(err->fd, err_fd);
	driver_reset();
	complain(err_fd);
	err->fn(err, EPOLLIN); /* late, not started */
	CHECK_EQ(reg_read(VIRTIO_MMIO_STATUS), 0);
	CHECK_EQ(driver_up(V1, 7), RUNS);
	err->fn(err, EPOLLIN); /* later still, started anew */
	CHECK_EQ(reg_read(VIRTIO_MMIO_STATUS), RUNS);
	CHECK(model.running);
	CHECK(!loop_until_broken(20));

	/* A complaint that arrives with nobody listening is gone with the next reset too. */
	complain(err_fd);
	driver_reset();
	CHECK_EQ(driver_up(V1, 7), RUNS);
	CHECK(!loop_until_broken(20));
	teardown();
}

static void the_event_queue_keeps_its_buffers(void)
{
	struct vring_desc *desc;
	uint16_t *avail, *used;

	if (!setup(KERNEL_FEATURES))
		return;
	CHECK_EQ(driver_up(V1, 7), RUNS);
	desc = memory_ptr(&m.mem, ring_gpa(2), sizeof(*desc));
	avail = memory_ptr(&m.mem, ring_gpa(2) + 0x2000, 8);
	used = memory_ptr(&m.mem, ring_gpa(2) + 0x3000, 8);
	desc->addr = htole64(0x1000);
	desc->len = htole32(4);
	desc->flags = htole16(VRING_DESC_F_WRITE);
	avail[1] = htole16(1);
	forget_calls();
	reg_write(VIRTIO_MMIO_QUEUE_NOTIFY, 2);
	CHECK(!loop_until_broken(20));
	CHECK_EQ(used[1], 0);
	CHECK_EQ(dev->vq[2].last_avail, 0);
	CHECK_EQ(model.nr_calls, 0);
	teardown();
}

/* --- pauses and snapshots ------------------------------------------------------------------ */

/* What the kernel was asked when it stops, and the places that it tells. */
static void pause_stops_and_resume_goes_on_there(void)
{
	uint64_t count = 0;

	if (!setup(KERNEL_FEATURES))
		return;
	CHECK_EQ(driver_up(V1 | RINGS, 7), RUNS);
	model.ring[0].base = 0x1234;
	model.ring[1].base = 0xffff;
	((uint16_t *)memory_ptr(&m.mem, ring_gpa(1) + 0x3000, 8))[1] = htole16(0xabcd);
	forget_calls();
	virtio_mmio_pause(&m.mmio);
	CHECK(detached());
	CHECK_EQ(model.call[0].request, VHOST_VSOCK_SET_RUNNING);
	CHECK_EQ(dev->vq[0].last_avail, 0x1234);
	CHECK_EQ(dev->vq[1].last_avail, 0xffff);
	CHECK_EQ(dev->vq[1].next_used, 0xabcd); /* as the kernel left it in the ring */
	model.ring[0].base = model.ring[1].base = 7;

	/* Memory that came meanwhile is in the table. */
	CHECK_EQ(memory_add_ram(&m.mem, 0x200000000ULL, 0x10000, MEMORY_ANON), 0);
	while (read(m.mmio.kick_fd[0], &count, sizeof(count)) > 0)
		;
	while (read(m.line.fd, &count, sizeof(count)) > 0)
		;
	forget_calls();
	virtio_mmio_resume(&m.mmio);
	CHECK_EQ(model.nr_calls, ACTIVATE_CALLS);
	CHECK_EQ(model.nregions, 3);
	CHECK(model.running);
	CHECK_EQ(model.ring[0].base, 0x1234);
	CHECK_EQ(model.ring[1].base, 0xffff);
	CHECK_EQ(read(m.mmio.kick_fd[0], &count, sizeof(count)), 8);
	CHECK_EQ(read(m.line.fd, &count, sizeof(count)), 8);
	CHECK(!loop_until_broken(20));

	/* A new driver begins at 0. */
	driver_reset();
	CHECK_EQ(driver_up(V1, 7), RUNS);
	CHECK_EQ(model.ring[0].base, 0);
	teardown();
}

static void pauses_that_fail(void)
{
	/* SET_RUNNING, then GET_VRING_BASE of both. */
	const unsigned int at[] = { 1, 2, 6 };

	for (unsigned int i = 0; i < 3; i++) {
		if (!setup(KERNEL_FEATURES))
			return;
		CHECK_EQ(driver_up(V1, 7), RUNS);
		forget_calls();
		model.fail_at = at[i];
		model.fail_errno = EIO;
		virtio_mmio_pause(&m.mmio);
		CHECK_EQ(reg_read(VIRTIO_MMIO_STATUS), RUNS | NEEDS_RESET);
		forget_calls();
		virtio_mmio_resume(&m.mmio);
		CHECK_EQ(model.nr_calls, 0);
		driver_reset();
		if (i) {
			CHECK_EQ(driver_up(V1, 7), RUNS);
			CHECK(model.running);
		}
		teardown();
	}
	for (unsigned int call = 1; call <= ACTIVATE_CALLS; call++) {
		if (!setup(KERNEL_FEATURES))
			return;
		CHECK_EQ(driver_up(V1, 7), RUNS);
		virtio_mmio_pause(&m.mmio);
		forget_calls();
		model.fail_at = call;
		model.fail_errno = EFAULT;
		virtio_mmio_resume(&m.mmio);
		CHECK_EQ(reg_read(VIRTIO_MMIO_STATUS), RUNS | NEEDS_RESET);
		CHECK(detached());
		teardown();
	}
	/* The kernel complained, and the pause came before the loop. */
	if (!setup(KERNEL_FEATURES))
		return;
	CHECK_EQ(driver_up(V1, 7), RUNS);
	complain(model.ring[1].err);
	virtio_mmio_pause(&m.mmio);
	CHECK(reg_read(VIRTIO_MMIO_STATUS) & NEEDS_RESET);
	virtio_mmio_resume(&m.mmio);
	CHECK(detached());
	teardown();
}

/* One buffer in the event queue of @len bytes. */
static void add_event_buffer(uint32_t len, uint16_t flags)
{
	struct vring_desc *desc = memory_ptr(&m.mem, ring_gpa(2), sizeof(*desc));
	uint16_t *avail = memory_ptr(&m.mem, ring_gpa(2) + 0x2000, 8);

	desc->addr = htole64(0x1000);
	desc->len = htole32(len);
	desc->flags = htole16(flags);
	avail[2] = 0;
	avail[1] = htole16(1);
}

/* Saves the guest that runs, and restores it in a new process: another fd, CID 77, other RAM. */
static int move(struct snapshot *snap, uint8_t *ram)
{
	virtio_mmio_pause(&m.mmio);
	if (!snap->len)
		snapshot_save(snap, &m.mmio);
	if (ram)
		memcpy(ram, m.mem.region[1].hva, SIZE1);
	machine_down();
	dev->ops->destroy(dev);
	model_init(KERNEL_FEATURES);
	CHECK_EQ(vsock_create(&dev, 77), 0);
	machine_up();
	if (ram)
		memcpy(m.mem.region[1].hva, ram, SIZE1);
	forget_calls();
	return snapshot_load(snap, &m.mmio);
}

/* @when: a buffer is there already (0), comes with a kick (1), is no good (2, 3). */
static void restored(unsigned int when)
{
	struct snapshot snap = { .len = 0 };
	uint8_t *ram = test_malloc(SIZE1);
	uint16_t *used;
	uint32_t *event;

	if (!setup(KERNEL_FEATURES) || !ram)
		return;
	CHECK_EQ(driver_up(V1, 7), RUNS);
	CHECK(!loop_until_broken(20));
	model.ring[0].base = 5;
	model.ring[1].base = 6;
	if (when != 1)
		add_event_buffer(when == 2 ? 3 : 8, when == 3 ? 0 : VRING_DESC_F_WRITE);
	CHECK_EQ(move(&snap, ram), 0);
	CHECK_EQ(model.nr_calls, 0);
	CHECK_EQ(reg_read(VIRTIO_MMIO_CONFIG), 77);
	event = memory_ptr(&m.mem, 0x1000, 4);
	used = memory_ptr(&m.mem, ring_gpa(2) + 0x3000, 8);
	*event = 0xffffffff;
	virtio_mmio_resume(&m.mmio);
	if (when > 1) {
		CHECK(reg_read(VIRTIO_MMIO_STATUS) & NEEDS_RESET);
		CHECK(detached());
	} else {
		CHECK_EQ(model.nr_calls, ACTIVATE_CALLS);
		CHECK_EQ(model.ring[0].base, 5);
		CHECK_EQ(model.ring[1].base, 6);
		CHECK_EQ(used[1], htole16(!when));
		if (when) {
			CHECK(!loop_until_broken(20)); /* the kick that follows the resume */
			CHECK_EQ(used[1], 0);
			add_event_buffer(8, VRING_DESC_F_WRITE);
			reg_write(VIRTIO_MMIO_QUEUE_NOTIFY, 2);
		}
		CHECK(!loop_until_broken(20));
		CHECK_EQ(used[1], htole16(1));
		CHECK_EQ(used[4], htole16(4)); /* its length */
		CHECK_EQ(*event, 0);
		/* Once. */
		virtio_mmio_pause(&m.mmio);
		virtio_mmio_resume(&m.mmio);
		CHECK_EQ(used[1], htole16(1));
	}
	teardown();
	free(ram);
}

static void a_restored_guest_is_told(void)
{
	for (unsigned int when = 0; when < 4; when++)
		restored(when);
}

static void damaged_state(void)
{
	struct snapshot snap = { .len = 0 }, bent;
	unsigned int taken = 0;

	if (!setup(KERNEL_FEATURES))
		return;
	CHECK_EQ(driver_up(V1, 7), RUNS);
	CHECK_EQ(move(&snap, NULL), 0);
	for (size_t at = 0; at < snap.len; at++) {
		for (unsigned int k = 0; k < 3; k++) {
			int ret;

			bent = snap;
			bent.p[at] ^= k ? 0x40 : 1;
			if (k == 2)
				bent.len = at ? at : 1;
			ret = move(&bent, NULL);
			CHECK(!ret || ret == -EBADMSG || ret == -EINVAL);
			CHECK(k < 2 || ret == -EBADMSG);
			taken += !ret;
			if (ret)
				continue;
			virtio_mmio_resume(&m.mmio);
			CHECK(!model.broke_rule && !model.bad_fd);
			reg_write(VIRTIO_MMIO_QUEUE_NOTIFY, 2);
		}
	}
	CHECK(taken > 50);
	virtio_mmio_pause(&m.mmio);
	CHECK_EQ(move(&snap, NULL), 0);
	virtio_mmio_resume(&m.mmio);
	CHECK(model.running);
	teardown();
}

int main(void)
{
	unsigned int fds;

	log_file = memfd_create("log", MFD_CLOEXEC);
	if (log_file < 0)
		return 1;
	log_set_fd(log_file, false);
	fds = open_fds();

	RUN(create_claims_the_cid);
	RUN(reserved_cids_are_refused);
	RUN(create_says_what_to_do);
	RUN(create_undoes_itself);
	RUN(features_are_masked);
	RUN(features_reach_the_kernel_as_acked);
	RUN(activate_hands_all_over);
	RUN(activate_with_all_regions);
	RUN(activate_undoes_itself);
	RUN(activate_fails_without_the_event_loop);
	RUN(a_missing_queue_is_refused);
	RUN(reset_lets_go_of_all);
	RUN(a_new_machine_gets_its_own_ram);
	RUN(a_kernel_that_does_not_stop);
	RUN(stop_and_close_when_closed);
	RUN(a_ring_error_breaks_the_device);
	RUN(an_old_error_is_not_the_next_drivers);
	RUN(the_event_queue_keeps_its_buffers);
	RUN(pause_stops_and_resume_goes_on_there);
	RUN(pauses_that_fail);
	RUN(a_restored_guest_is_told);
	RUN(damaged_state);

	test_failed_now = 0;
	CHECK_EQ(open_fds(), fds);
	test_failed += test_failed_now;
	return TEST_RESULT();
}
