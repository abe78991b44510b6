/* SPDX-License-Identifier: MIT */
/*
 * A machine that does nothing but write down what it was asked for, for tests of the control API.
 * Its state moves as the real one's would, and it refuses what it is told to refuse.
 */
#ifndef TESTS_UNIT_FAKE_MACHINE_H
#define TESTS_UNIT_FAKE_MACHINE_H

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "cmd/config.h"
#include "cmd/machine.h"
#include "vm/dirty.h"
#include "vm/kvm.h"

struct machine {
	enum state_id state;
	struct guest_config config;
	struct vm vm;
	int refuse; /* what every call returns */
	bool later; /* calls that take their time are left to fake_done() */
	machine_done_fn *done, *ended;
	void *done_opaque, *ended_opaque;
	unsigned int waits;
	bool dirty;
	unsigned int nr_runs; /* of dirty pages: fake_run() */
	char said[8192];      /* the last call */
};

static struct machine fake;

static int said(char why[LOG_SENTENCE], const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(fake.said, sizeof(fake.said), fmt, args);
	va_end(args);
	if (fake.refuse)
		snprintf(why, LOG_SENTENCE, "the fake refuses");
	return fake.refuse;
}

enum state_id machine_state(struct machine *m)
{
	return m->state;
}

struct guest_config *machine_config(struct machine *m)
{
	return &m->config;
}

struct vm *machine_vm(struct machine *m)
{
	return m->state == STATE_RUNNING || m->state == STATE_PAUSED ? &m->vm : NULL;
}

static int begin(machine_done_fn *done, void *opaque, enum state_id then)
{
	if (fake.refuse)
		return fake.refuse;
	fake.done = done;
	fake.done_opaque = opaque;
	if (fake.later)
		return 0;
	fake.state = then;
	done(opaque, 0, NULL);
	return 0;
}

int machine_start(struct machine *m, machine_done_fn *done, void *opaque, char why[LOG_SENTENCE])
{
	said(why, "start");
	return begin(done, opaque, STATE_RUNNING);
}

int machine_pause(struct machine *m, char why[LOG_SENTENCE])
{
	return said(why, "pause");
}

int machine_resume(struct machine *m, char why[LOG_SENTENCE])
{
	return said(why, "resume");
}

int machine_power_button(struct machine *m, char why[LOG_SENTENCE])
{
	return said(why, "power button");
}

int machine_stop(struct machine *m, char why[LOG_SENTENCE])
{
	return said(why, "stop");
}

int machine_end(struct machine *m, char why[LOG_SENTENCE])
{
	return said(why, "end");
}

int machine_reset(struct machine *m, char why[LOG_SENTENCE])
{
	return said(why, "reset");
}

void machine_wait(struct machine *m, machine_done_fn *done, void *opaque)
{
	m->waits++;
	m->ended = done;
	m->ended_opaque = opaque;
}

int machine_snapshot(struct machine *m, const char *dir, bool diff, machine_done_fn *done,
		     void *opaque, char why[LOG_SENTENCE])
{
	said(why, "snapshot %s %d", dir, diff);
	return begin(done, opaque, m->state);
}

int machine_restore(struct machine *m, bool resume, machine_done_fn *done, void *opaque,
		    char why[LOG_SENTENCE])
{
	const struct guest_config *c = &m->config;

	said(why, "restore %s %d track %d disks %u %s=%s cid %" PRIu64, c->restore, resume,
	     c->track_dirty, c->nr_disks, c->nr_disks ? c->disk[0].id : "",
	     c->nr_disks ? c->disk[0].path : "", c->vsock_cid);
	return begin(done, opaque, resume ? STATE_RUNNING : STATE_PAUSED);
}

int machine_disk(struct machine *m, const char *id, const char *path, char why[LOG_SENTENCE])
{
	return said(why, "disk %s %s", id, path);
}

int machine_memory_add(struct machine *m, const struct region_spec *spec, uint32_t *slot,
		       char why[LOG_SENTENCE])
{
	*slot = 7;
	return said(why, "add %#" PRIx64 " %#" PRIx64 " ro %d %s %" PRIu64 " shared %d", spec->gpa,
		    spec->size, spec->readonly, spec->path ? spec->path : "-", spec->offset,
		    spec->shared);
}

int machine_memory_remove(struct machine *m, uint32_t slot, char why[LOG_SENTENCE])
{
	return said(why, "remove %u", slot);
}

int machine_dirty_log(struct machine *m, bool on, char why[LOG_SENTENCE])
{
	m->dirty = on;
	return said(why, "dirty log %d", on);
}

int machine_dirty_look(struct machine *m, bool *on, char why[LOG_SENTENCE])
{
	*on = m->dirty;
	return fake.refuse;
}

/* Two regions without a gap, 1 GiB each. */
#define FAKE_RAM 0x40000000ull
#define FAKE_MIDDLE 0x80000000ull

/*
 * Where the @i-th of @nr dirty pages is, two clean ones between each: the first half of them up to the
 * end of one region, the second from the next one's start.
 */
static uint64_t fake_run(unsigned int nr, unsigned int i)
{
	return FAKE_MIDDLE - nr / 2 * 3ull * 4096 + i * 3ull * 4096;
}

int machine_dirty_get(struct machine *m,
		      int (*fn)(void *opaque, uint64_t gpa, uint64_t size, const uint8_t *hva),
		      void *opaque, char why[LOG_SENTENCE])
{
	int ret = said(why, "dirty get");

	if (!machine_vm(m))
		return -EINVAL;
	for (unsigned int i = 0; !ret && i < m->nr_runs; i++)
		ret = fn(opaque, fake_run(m->nr_runs, i), 4096, NULL);
	return ret;
}

int machine_irq_level(struct machine *m, uint32_t gsi, bool level, char why[LOG_SENTENCE])
{
	return said(why, "irq %u %d", gsi, level);
}

int machine_irq_pulse(struct machine *m, uint32_t gsi, char why[LOG_SENTENCE])
{
	return said(why, "pulse %u", gsi);
}

void machine_stats(struct machine *m, struct machine_stats *stats)
{
	*stats = (struct machine_stats){ 1234, 1, 2, 3, 56 };
}

bool dirty_on(const struct memory *mem)
{
	return fake.dirty;
}

enum dirty_method dirty_method(const struct memory *mem)
{
	return DIRTY_ALL;
}

const char *dirty_method_name(enum dirty_method method)
{
	return "nothing";
}

uint64_t dirty_count(const struct memory *mem)
{
	return 12;
}

const struct memory_region *region_list(const struct memory *mem, unsigned int i)
{
	return i < mem->nr ? &mem->region[i] : NULL;
}

/* vm/memory.c, which reads sizes here, would reach for it. */
int kvm_ioctl_named(int fd, unsigned long request, const char *name, void *arg)
{
	return -ENOSYS;
}

static void fake_init(void)
{
	memset(&fake, 0, sizeof(fake));
	config_init(&fake.config);
	fake.vm.mem.nr = 2;
	fake.vm.mem.region[0] = (struct memory_region){ .gpa = FAKE_RAM, .size = 1ull << 30 };
	fake.vm.mem.region[1] = (struct memory_region){
		.gpa = FAKE_MIDDLE, .size = 1ull << 30, .slot = 3, .added = true };
}

#endif
