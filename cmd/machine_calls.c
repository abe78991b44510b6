/* SPDX-License-Identifier: MIT */
/*
 * The calls on a machine that is built: each asks the state's table first, does its work while
 * vCPUs and devices are held where it must, and says how it went.
 */
#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "cmd/config.h"
#include "cmd/machine_priv.h"
#include "initramfs/clock.h"
#include "virtio/blk.h"
#include "virtio/mmio.h"
#include "virtio/virtio.h"
#include "vm/dirty.h"
#include "vm/irq.h"

static int refuse(char *why, int err, const char *text)
{
	snprintf(why, LOG_SENTENCE, "%s", text);
	return err;
}

static int move(struct machine *m, enum state_call call, char why[LOG_SENTENCE])
{
	_Static_assert(STATE_SENTENCE <= LOG_SENTENCE, "the state's sentences fit");
	return state_move(&m->state, call, why);
}

enum state_id machine_state(struct machine *m)
{
	return state_now(&m->state);
}

struct guest_config *machine_config(struct machine *m)
{
	return m->config;
}

struct vm *machine_vm(struct machine *m)
{
	return m->built ? &m->vm : NULL;
}

void machine_stats(struct machine *m, struct machine_stats *stats)
{
	uint64_t now = clock_ms();

	*stats = m->stats;
	stats->uptime_ms = m->started_ms ? now - m->started_ms : 0;
	if (m->paused_ms)
		stats->paused_ms += now - m->paused_ms;
}

/*
 * --- vCPUs and devices out of the guest's memory, and back ------------------------------------------
 */

static void hold_devices(struct machine *m)
{
	for (unsigned int i = 0; i < m->nr_devs; i++)
		virtio_mmio_pause(m->mmio[i]);
}

int machine_hold(struct machine *m, char why[LOG_SENTENCE])
{
	int ret;

	log_forget_error();
	ret = vm_pause(&m->vm);
	if (ret == -ESHUTDOWN)
		return refuse(why, ret, "the guest has just ended");
	if (ret) {
		log_first_error(why);
		return ret;
	}
	hold_devices(m);
	return 0;
}

int machine_release(struct machine *m, char why[LOG_SENTENCE])
{
	int ret;

	log_forget_error();
	for (unsigned int i = 0; i < m->nr_devs; i++)
		virtio_mmio_resume(m->mmio[i]);
	ret = vm_resume(&m->vm);
	if (ret) {
		log_first_error(why);
		if (ret == -ESHUTDOWN)
			refuse(why, ret, "the guest has just ended");
		hold_devices(m);
	}
	return ret;
}

/* Holds what runs: a paused machine is held already. */
static int begin(struct machine *m, enum state_call call, bool *held, char why[LOG_SENTENCE])
{
	int ret = move(m, call, why);

	if (ret)
		return ret;
	*held = state_now(&m->state) == STATE_RUNNING;
	ret = *held ? machine_hold(m, why) : 0;
	if (ret)
		state_settle(&m->state, call, false);
	return ret;
}

/* @ret: how the call went. A guest that can't go on after it has failed. */
static int end(struct machine *m, enum state_call call, bool held, int ret)
{
	char why[LOG_SENTENCE];

	if (held && machine_release(m, why) && atomic_load(&m->vm.end) == VM_END_NONE)
		vm_end(&m->vm, VM_END_FAILED, "the guest can't be resumed");
	state_settle(&m->state, call, !ret);
	return ret;
}

int machine_pause(struct machine *m, char why[LOG_SENTENCE])
{
	int ret = move(m, CALL_PAUSE, why);

	if (ret)
		return ret;
	ret = machine_hold(m, why);
	if (!ret) {
		m->stats.pauses++;
		m->paused_ms = clock_ms();
	}
	state_settle(&m->state, CALL_PAUSE, !ret);
	return ret;
}

void machine_count_pause(struct machine *m)
{
	if (m->paused_ms)
		m->stats.paused_ms += clock_ms() - m->paused_ms;
	m->paused_ms = 0;
}

int machine_resume(struct machine *m, char why[LOG_SENTENCE])
{
	int ret = move(m, CALL_RESUME, why);

	if (ret)
		return ret;
	ret = machine_release(m, why);
	if (!ret)
		machine_count_pause(m);
	state_settle(&m->state, CALL_RESUME, !ret);
	return ret;
}

/*
 * --- ending -----------------------------------------------------------------------------------------
 */

int machine_power_button(struct machine *m, char why[LOG_SENTENCE])
{
	int ret = state_check(&m->state, CALL_POWER_BUTTON, why);

	if (!ret)
		arch_power_button(&m->vm);
	return ret;
}

int machine_stop(struct machine *m, char why[LOG_SENTENCE])
{
	int ret = state_check(&m->state, CALL_STOP, why);

	if (!ret)
		machine_begin_stop(m, "the API");
	return ret;
}

int machine_end(struct machine *m, char why[LOG_SENTENCE])
{
	int ret = state_check(&m->state, CALL_END, why);

	if (ret)
		return ret;
	m->stop_now = "the API";
	machine_save_cancel(m);
	if (m->built)
		vm_end(&m->vm, VM_END_STOP, "the API");
	event_loop_stop(&m->loop);
	return 0;
}

int machine_reset(struct machine *m, char why[LOG_SENTENCE])
{
	int ret = state_check(&m->state, CALL_RESET, why);

	if (!ret)
		vm_end(&m->vm, VM_END_RESET, "reset from outside");
	return ret;
}

void machine_wait(struct machine *m, machine_done_fn *done, void *opaque)
{
	if (m->nr_waiters == MACHINE_WAITERS)
		done(opaque, -EBUSY, "too many wait already");
	else
		m->waiter[m->nr_waiters++] = (struct machine_waiter){ done, opaque };
}

/*
 * --- what changes in a machine that is there --------------------------------------------------------
 */

/* And its place among the disks, which is its place in the configuration. */
static struct virtio_dev *find_disk(struct machine *m, const char *id, unsigned int *nr)
{
	*nr = 0;
	for (unsigned int i = 0; i < m->nr_devs; i++) {
		if (m->dev[i]->id != VIRTIO_ID_BLOCK)
			continue;
		if (!strcmp(blk_id(m->dev[i]), id))
			return m->dev[i];
		++*nr;
	}
	return NULL;
}

/* A snapshot names the image that is there now. */
static int replace_disk(struct machine *m, struct virtio_dev *dev, unsigned int nr, const char *path,
			char why[LOG_SENTENCE])
{
	char *copy = strdup(path);
	int ret = copy ? blk_replace(dev, path, why) : refuse(why, -ENOMEM, "out of memory");

	if (ret) {
		free(copy);
		return ret;
	}
	free(m->config->disk[nr].path);
	m->config->disk[nr].path = copy;
	return 0;
}

int machine_disk(struct machine *m, const char *id, const char *path, char why[LOG_SENTENCE])
{
	struct virtio_dev *dev;
	unsigned int nr;
	bool held;
	int ret = begin(m, CALL_DISK, &held, why);

	if (ret)
		return ret;
	dev = CONFIG_VIRTIO_BLK ? find_disk(m, id, &nr) : NULL;
	if (dev) {
		ret = replace_disk(m, dev, nr, path, why);
	} else {
		ret = -ENOENT;
		snprintf(why, LOG_SENTENCE, "there is no disk \"%.64s\"", id);
	}
	return end(m, CALL_DISK, held, ret);
}

int machine_memory_add(struct machine *m, const struct region_spec *spec, uint32_t *slot,
		       char why[LOG_SENTENCE])
{
	bool held;
	int ret = begin(m, CALL_MEMORY, &held, why);

	if (ret)
		return ret;
	ret = vm_memory_add(&m->vm, spec, slot, why);
	if (!ret)
		machine_save_forget(m);
	return end(m, CALL_MEMORY, held, ret);
}

int machine_memory_remove(struct machine *m, uint32_t slot, char why[LOG_SENTENCE])
{
	bool held;
	int ret = begin(m, CALL_MEMORY, &held, why);

	if (ret)
		return ret;
	ret = vm_memory_remove(&m->vm, slot, why);
	if (!ret)
		machine_save_forget(m);
	return end(m, CALL_MEMORY, held, ret);
}

int machine_dirty_log(struct machine *m, bool on, char why[LOG_SENTENCE])
{
	bool held;
	int ret = begin(m, CALL_DIRTY_LOG, &held, why);

	if (ret)
		return ret;
	if (on != dirty_on(&m->vm.mem))
		machine_save_forget(m);
	ret = on ? vm_dirty_enable(&m->vm, why) : vm_dirty_disable(&m->vm, why);
	return end(m, CALL_DIRTY_LOG, held, ret);
}

int machine_dirty_look(struct machine *m, bool *on, char why[LOG_SENTENCE])
{
	int ret = state_check(&m->state, CALL_DIRTY_LOG, why);

	*on = !ret && dirty_on(&m->vm.mem);
	return ret;
}

int machine_dirty_get(struct machine *m, dirty_fn *fn, void *opaque, char why[LOG_SENTENCE])
{
	bool held;
	int ret = begin(m, CALL_DIRTY_LOG, &held, why);

	if (ret)
		return ret;
	ret = vm_dirty_collect(&m->vm, why);
	if (!ret) {
		ret = dirty_each(&m->vm.mem, fn, opaque);
		if (!ret) {
			dirty_clear(&m->vm.mem);
			machine_save_forget(m);
		}
	}
	return end(m, CALL_DIRTY_LOG, held, ret);
}

static int set_irq(struct machine *m, uint32_t gsi, int (*set)(struct irqs *irqs, uint32_t gsi, bool level),
		   bool level, char why[LOG_SENTENCE])
{
	int ret = state_check(&m->state, CALL_INTERRUPT, why);

	if (ret)
		return ret;
	log_forget_error();
	ret = set(&m->vm.irqs, gsi, level);
	if (ret)
		log_first_error(why);
	return ret;
}

static int pulse(struct irqs *irqs, uint32_t gsi, bool level)
{
	return irq_pulse(irqs, gsi);
}

int machine_irq_level(struct machine *m, uint32_t gsi, bool level, char why[LOG_SENTENCE])
{
	return set_irq(m, gsi, irq_set_level, level, why);
}

int machine_irq_pulse(struct machine *m, uint32_t gsi, char why[LOG_SENTENCE])
{
	return set_irq(m, gsi, pulse, false, why);
}
