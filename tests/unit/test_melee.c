/* SPDX-License-Identifier: MIT */
/*
 * Several threads, as vCPUs are, against all devices at once, with the event loop and the disks'
 * own threads beside them: registers, rings, descriptors, kicks and resets at random, none waiting
 * for another; now and then all of them pause, and the devices are paused, saved and resumed. Nothing
 * may crash, hang, leave guest RAM or touch it after a reset or in a pause; at the end every device
 * works. Built with -fsanitize=thread it also shows what lacks a lock (guest RAM is declared
 * racy, which it is by nature).
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include "arch/arch.h"
#include "tests/unit/test.h"
#include "virtio/blk.h"
#include "virtio/mmio.h"
#include "virtio/rng.h"
#include "virtio/vconsole.h"
#include "vm/console.h"
#include "vm/event.h"
#include "vm/irq.h"
#include "vm/kvm.h"
#include "vm/log.h"
#include "vm/memory.h"
#include "vm/state_writer.h"

#define DEVS	 6
#define THREADS	 3
#define RAM_SIZE (16u << 20)
#define DATA	 (8u << 20) /* the second half is for buffers */
#define RING	 64
#define SECTORS	 64
#define ALL_OK	 (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK)

/* One a device and queue, in guest RAM. */
struct ring {
	struct vring_desc desc[RING], table[RING];
	struct {
		uint16_t flags, idx, ring[RING], used_event;
	} avail;
	struct {
		uint16_t flags, idx;
		struct vring_used_elem elem[RING];
		uint16_t avail_event;
	} used __attribute__((aligned(4)));
	struct virtio_blk_outhdr head[4];
	struct virtio_blk_discard_write_zeroes range[17];
} __attribute__((aligned(4096)));

/* The layers below, which have no part in this. */
uint32_t arch_irq_number(uint32_t gsi)
{
	return gsi;
}

void arch_virtio_slot(unsigned int i, struct arch_slot *slot)
{
	*slot = (struct arch_slot){ .base = 0xd0000000 + i * 0x1000, .size = 0x1000, .gsi = i };
}

int kvm_ioctl_raw(int fd, unsigned long request, void *arg)
{
	return -ENODEV;
}

int kvm_ioctl_named(int fd, unsigned long request, const char *name, void *arg)
{
	return -ENODEV;
}

static struct memory mem;
static struct event_loop loop;
static struct console *console;
static struct irq_line irq = { .fd = -1 };
static struct virtio_dev *dev[DEVS];
static struct virtio_mmio mmio[DEVS];
static atomic_bool stop;
static atomic_ulong rounds;
static pthread_rwlock_t vcpus = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP; /* who writes has paused them */
static char image[3][32];

#ifdef __SANITIZE_THREAD__
void AnnotateBenignRaceSized(const char *file, int line, const volatile void *p, size_t n, const char *what);
#define RACY(p, n) AnnotateBenignRaceSized(__FILE__, __LINE__, p, n, "guest RAM")
#else
#define RACY(p, n) ((void)(p))
#endif

static uint32_t rnd(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return (uint32_t)(*s >> 16);
}

#define PICK(s, ...) (((const uint64_t[]){ __VA_ARGS__ })[rnd(s) % (sizeof((const uint64_t[]){ __VA_ARGS__ }) / 8)])

static uint64_t ring_gpa(unsigned int d, unsigned int q)
{
	return (d * 2 + q % 2) * sizeof(struct ring);
}

static struct ring *ring_of(unsigned int d, unsigned int q)
{
	return memory_ptr(&mem, ring_gpa(d, q), sizeof(struct ring));
}

static void write32(unsigned int d, uint64_t reg, uint32_t v)
{
	virtio_mmio_access(&mmio[d], reg, (uint8_t *)&v, 4, true);
}

static uint32_t read32(unsigned int d, uint64_t reg)
{
	uint32_t v;

	virtio_mmio_access(&mmio[d], reg, (uint8_t *)&v, 4, false);
	return v;
}

static void put(struct ring *r, unsigned int i, uint64_t addr, uint64_t len, unsigned int flags, unsigned int next)
{
	r->desc[i % RING] = (struct vring_desc){ addr, (uint32_t)len, (uint16_t)flags, (uint16_t)next };
}

static void offer(struct ring *r, unsigned int head, unsigned int n)
{
	r->avail.ring[r->avail.idx % RING] = (uint16_t)head;
	__atomic_fetch_add(&r->avail.idx, (uint16_t)n, __ATOMIC_SEQ_CST);
}

static uint64_t random_addr(uint64_t *s, uint64_t ring)
{
	switch (rnd(s) % 16) {
	case 0:
		return PICK(s, RAM_SIZE, RAM_SIZE - 1, 0xd0000000, UINT64_MAX, UINT64_MAX - 511, 1ull << 52);
	case 1:
		return ring + rnd(s) % sizeof(struct ring);
	case 2:
		return DATA + rnd(s) % (DATA / 2);
	default:
		return DATA + (rnd(s) % (DATA / 2) & ~511u);
	}
}

static void random_chain(uint64_t *s, unsigned int d, unsigned int q)
{
	struct ring *r = ring_of(d, q);
	unsigned int i = rnd(s) % RING;
	uint64_t gpa = ring_gpa(d, q);

	put(r, i, random_addr(s, gpa), PICK(s, 0, 1, 16, 512, 513, 4096, 65536, 1 << 20, UINT32_MAX),
	    rnd(s) % 32 ? rnd(s) % 4 : rnd(s), rnd(s) % 64 ? rnd(s) % RING : rnd(s));
	r->table[rnd(s) % RING] = r->desc[rnd(s) % RING];
	if (!(rnd(s) % 4))
		put(r, i, gpa + offsetof(struct ring, table), 16 * (rnd(s) % (RING + 2)), VRING_DESC_F_INDIRECT, 0);
	r->avail.used_event = (uint16_t)rnd(s);
	r->avail.flags = rnd(s) & 1;
	offer(r, rnd(s) % 64 ? i : rnd(s), rnd(s) % 64 ? 1 : rnd(s) % 128);
}

/* As it should be, but for a random type, sector, length and place. */
static void random_request(uint64_t *s, unsigned int d)
{
	struct ring *r = ring_of(d, 0);
	uint64_t gpa = ring_gpa(d, 0);
	unsigned int i = rnd(s) % (RING / 4) * 4, h = rnd(s) % 4;
	uint32_t type = (uint32_t)PICK(s, 0, 1, 0, 1, 4, 8, 11, 13, 2, UINT32_MAX);

	r->head[h].type = type;
	r->head[h].sector = rnd(s) % 4 ? rnd(s) % SECTORS : PICK(s, SECTORS, UINT64_MAX, 1ull << 55, (1ull << 55) - 1, 1ull << 63);
	for (unsigned int k = 0; k < 17; k++) {
		r->range[k].sector = rnd(s) % 4 ? rnd(s) % SECTORS : UINT64_MAX - rnd(s) % 4;
		r->range[k].num_sectors = rnd(s) % 4 ? rnd(s) % 8 : rnd(s);
		r->range[k].flags = rnd(s) % 4 ? rnd(s) % 2 : rnd(s);
	}
	put(r, i, gpa + offsetof(struct ring, head) + h * sizeof(r->head[0]), 16, VRING_DESC_F_NEXT, i + 1);
	if (type == VIRTIO_BLK_T_DISCARD || type == VIRTIO_BLK_T_WRITE_ZEROES)
		put(r, i + 1, gpa + offsetof(struct ring, range), 16 * (1 + rnd(s) % 17), VRING_DESC_F_NEXT, i + 2);
	else
		put(r, i + 1, DATA + rnd(s) % (DATA / 2), 512 * (1 + rnd(s) % 32),
		    VRING_DESC_F_NEXT | (type == VIRTIO_BLK_T_OUT ? 0 : VRING_DESC_F_WRITE), i + 2);
	put(r, i + 2, random_addr(s, gpa), 1 + rnd(s) % 3, VRING_DESC_F_WRITE, 0);
	offer(r, i, 1);
}

/* What the entropy device and the console take. */
static void random_buffer(uint64_t *s, unsigned int d, unsigned int q)
{
	unsigned int i = rnd(s) % RING;

	put(ring_of(d, q), i, DATA + rnd(s) % (DATA / 2), 1 + rnd(s) % 9000, d && !q ? VRING_DESC_F_WRITE : 0, 0);
	offer(ring_of(d, q), i, 1);
}

static void negotiate(unsigned int d, uint64_t features)
{
	write32(d, VIRTIO_MMIO_STATUS, 1);
	write32(d, VIRTIO_MMIO_STATUS, 3);
	for (unsigned int i = 0; i < 2; i++) {
		write32(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, i);
		write32(d, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> 32 * i));
	}
	write32(d, VIRTIO_MMIO_STATUS, ALL_OK & ~VIRTIO_CONFIG_S_DRIVER_OK);
}

static void set_queue(unsigned int d, unsigned int q, uint32_t num)
{
	uint64_t gpa = ring_gpa(d, q);

	write32(d, VIRTIO_MMIO_QUEUE_SEL, q);
	write32(d, VIRTIO_MMIO_QUEUE_NUM, num);
	write32(d, VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)gpa);
	write32(d, VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)(gpa + offsetof(struct ring, avail)));
	write32(d, VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)(gpa + offsetof(struct ring, used)));
	write32(d, VIRTIO_MMIO_QUEUE_READY, 1);
}

static void start(uint64_t *s, unsigned int d)
{
	uint64_t features = mmio[d].offered;

	if (rnd(s) % 2)
		features &= rnd(s);
	negotiate(d, features | 1ull << VIRTIO_F_VERSION_1);
	for (unsigned int q = 0; q < 2; q++) {
		if (rnd(s) % 4)
			ring_of(d, q)->avail.idx = 0;
		set_queue(d, q, rnd(s) % 8 ? RING : 1u << rnd(s) % 7);
	}
	write32(d, VIRTIO_MMIO_STATUS, ALL_OK);
}

static void random_register(uint64_t *s, unsigned int d)
{
	uint64_t v = rnd(s) % 2 ? rnd(s) : PICK(s, 0, 1, 2, 3, 0x7f, 0x80, ALL_OK, UINT32_MAX);
	unsigned int len = rnd(s) % 4 ? 4 : rnd(s) % 9;
	uint64_t reg = rnd(s) % 8 ? rnd(s) % 68 * 4 : rnd(s) % (VIRTIO_MMIO_PAGE + 8);

	virtio_mmio_access(&mmio[d], reg, (uint8_t *)&v, len, rnd(s) % 4);
}

static void *vcpu(void *arg)
{
	uint64_t state = 0x9e3779b97f4a7c15ull * (1 + (uintptr_t)arg), *s = &state;

	while (!atomic_load(&stop)) {
		unsigned int d = rnd(s) % DEVS, q = rnd(s) % 4 ? 0 : 1;

		pthread_rwlock_rdlock(&vcpus);
		switch (rnd(s) % 64) {
		case 0:
			write32(d, VIRTIO_MMIO_STATUS, 0);
			break;
		case 1 ... 4:
			if (rnd(s) % 2)
				write32(d, VIRTIO_MMIO_STATUS, 0);
			start(s, d);
			break;
		case 5 ... 8:
			random_register(s, d);
			break;
		case 9:
			write32(d, VIRTIO_MMIO_QUEUE_SEL, q);
			write32(d, VIRTIO_MMIO_QUEUE_READY, 0);
			break;
		case 10:
			random_chain(s, d, q);
			break;
		default:
			if (d < 2)
				random_buffer(s, d, q ^ (d == 0));
			else
				random_request(s, d);
			write32(d, VIRTIO_MMIO_QUEUE_NOTIFY, rnd(s) % 64 ? q ^ (d == 0) : rnd(s));
			break;
		}
		pthread_rwlock_unlock(&vcpus);
		atomic_fetch_add(&rounds, 1);
	}
	return NULL;
}

/* With RAM as it was for as long as it takes to look, and nothing in any device's hands. */
static void pause_all(uint8_t *copy)
{
	const uint8_t *ram = mem.region[0].hva;
	struct state_writer w;

	pthread_rwlock_wrlock(&vcpus);
	for (unsigned int i = 0; i < DEVS; i++)
		virtio_mmio_pause(&mmio[i]);
	if (copy)
		memcpy(copy, ram, RAM_SIZE);
	state_writer_init(&w, "test");
	for (unsigned int i = 0; i < DEVS; i++)
		virtio_mmio_save(&mmio[i], &w, i);
	CHECK(!w.err);
	state_writer_fini(&w);
	if (copy)
		CHECK(!memcmp(copy, ram, RAM_SIZE));
	for (unsigned int i = 0; i < DEVS; i++)
		virtio_mmio_resume(&mmio[i]);
	pthread_rwlock_unlock(&vcpus);
}

/* For @seconds. How many pauses there were. */
static unsigned int pause_often(unsigned int seconds)
{
	uint8_t *copy = malloc(RAM_SIZE);
	time_t end = time(NULL) + seconds + 1;
	unsigned int n = 0;

	RACY(copy, RAM_SIZE);
	for (; time(NULL) < end; n++) {
		pause_all(n % 50 ? NULL : copy);
		usleep(n % 4 * 700);
	}
	free(copy);
	return n;
}

static void *run_loop(void *arg)
{
	CHECK(event_loop_run(&loop) == 0);
	return arg;
}

static bool wait_used(struct ring *r)
{
	for (unsigned int i = 0; i < 5000; i++) {
		if (__atomic_load_n(&r->used.idx, __ATOMIC_ACQUIRE))
			return true;
		usleep(1000);
	}
	return false;
}

static bool still_works(unsigned int d)
{
	unsigned int q = d == 0;
	struct ring *r = ring_of(d, q);

	write32(d, VIRTIO_MMIO_STATUS, 0);
	if (read32(d, VIRTIO_MMIO_STATUS))
		return false;
	memset(r, 0, sizeof(*r));
	negotiate(d, 1ull << VIRTIO_F_VERSION_1);
	set_queue(d, q, RING);
	write32(d, VIRTIO_MMIO_STATUS, ALL_OK);
	if (d < 2) {
		put(r, 0, DATA, 64, d ? VRING_DESC_F_WRITE : 0, 0);
	} else {
		put(r, 0, ring_gpa(d, q) + offsetof(struct ring, head), 16, VRING_DESC_F_NEXT, 1);
		put(r, 1, DATA, 512, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 2);
		put(r, 2, DATA + 4096, 1, VRING_DESC_F_WRITE, 0);
	}
	offer(r, 0, 1);
	write32(d, VIRTIO_MMIO_QUEUE_NOTIFY, q);
	return wait_used(r);
}

static bool make_devices(void)
{
	if (console_open(&console, "file=/dev/null", &loop) || vconsole_create(&dev[0], console) || rng_create(&dev[1]))
		return false;
	for (unsigned int i = 2; i < DEVS; i++) {
		struct blk_config config = { .path = image[i == 3 ? 1 : i == 4 ? 2 : 0], .readonly = i >= 4, .discard = i == 3 };

		/* 2 is alone with its image; 4 and 5 share one, which readers may. */
		if (i == 5)
			config.path = image[2];
		if (blk_create(&dev[i], &config))
			return false;
	}
	for (unsigned int i = 0; i < DEVS; i++) {
		if (virtio_mmio_init(&mmio[i], dev[i], &mem, &loop, &irq))
			return false;
	}
	return true;
}

static void test_melee(void)
{
	const char *seconds = getenv("MELEE_SECONDS");
	pthread_t thread[THREADS], event;
	unsigned int good = 0, pauses;

	for (unsigned int i = 0; i < 3; i++) {
		int fd;

		strcpy(image[i], "/tmp/melee-XXXXXX");
		fd = mkstemp(image[i]);
		CHECK(fd >= 0 && !ftruncate(fd, SECTORS * 512));
		close(fd);
	}
	memory_init(&mem, -1);
	CHECK(memory_add_ram(&mem, 0, RAM_SIZE, MEMORY_ANON) == 0);
	RACY(mem.region[0].hva, RAM_SIZE);
	irq.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	CHECK(event_loop_init(&loop) == 0);
	CHECK(make_devices());
	if (test_failed_now)
		return;
	pthread_create(&event, NULL, run_loop, NULL);
	for (uintptr_t i = 0; i < THREADS; i++)
		pthread_create(&thread[i], NULL, vcpu, (void *)i);
	pauses = pause_often(seconds ? (unsigned int)atoi(seconds) : 2);
	atomic_store(&stop, true);
	for (unsigned int i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	for (unsigned int i = 0; i < DEVS; i++)
		good += still_works(i);
	CHECK(good == DEVS);
	CHECK(atomic_load(&rounds) > 100);
	CHECK(pauses > 10);
	printf("%lu rounds, %u pauses, %u devices work\n", atomic_load(&rounds), pauses, good);
	event_loop_stop(&loop);
	pthread_join(event, NULL);
	for (unsigned int i = 0; i < DEVS; i++) {
		virtio_mmio_fini(&mmio[i]);
		dev[i]->ops->destroy(dev[i]);
	}
	console_close(console, 100);
	event_loop_fini(&loop);
	close(irq.fd);
	memory_fini(&mem);
	for (unsigned int i = 0; i < 3; i++)
		unlink(image[i]);
}

int main(void)
{
	log_set_level(LOG_ERROR);
	RUN(test_melee);
	return TEST_RESULT();
}
