/* SPDX-License-Identifier: MIT */
/* The paths of the control API that are about the machine at work. */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "arch/arch.h"
#include "cmd/cmd.h"
#include "cmd/config.h"
#include "cmd/control_route.h"
#include "vm/dirty.h"

/* The first gap that is closed between dirty ranges: no host's page is smaller. */
#define GAP_MIN 4096

/* --- calls that take their time ------------------------------------------------------------- */

/* A client has one call at a time, so there is a place for each of them. */
static struct control_pending *pending_new(struct control *c, struct server_call *call)
{
	for (unsigned int i = 0; i < CONTROL_CLIENTS; i++) {
		struct control_pending *p = &c->pending[i];

		if (!p->call) {
			*p = (struct control_pending){ .control = c, .call = call, .nr = c->calls++ };
			return p;
		}
	}
	server_fail(call, 503, "too many calls are under way");
	return NULL;
}

static void pending_complete(struct control_pending *p)
{
	struct server_call *call = p->call;

	p->call = NULL;
	server_complete(call);
}

static void on_done(void *opaque, int ret, const char *why)
{
	struct control_pending *p = opaque;

	bool there = machine_state(p->control->machine) != STATE_CREATED;

	/* A restored machine that can't be resumed is there all the same. */
	if (p->undo)
		control_load_done(p->control, p->undo, !ret || there);
	control_result(p->call, ret, why);
	pending_complete(p);
}

/* The machine has taken the call, or refused it at once. */
static enum server_answer pending_result(struct control_pending *p, int ret, const char *why)
{
	if (!ret)
		return SERVER_PENDING;
	if (p->undo)
		control_load_done(p->control, p->undo, false);
	control_refuse(p->call, ret, why);
	p->call = NULL;
	return SERVER_DONE;
}

/* --- the life cycle ------------------------------------------------------------------------- */

static enum server_answer start(struct control *c, struct server_call *call)
{
	const struct guest_config *config = machine_config(c->machine);
	struct control_pending *p;
	char why[LOG_SENTENCE];

	if (machine_state(c->machine) == STATE_CREATED) {
		if (!config->kernel) {
			server_fail(call, 400, "start: there is no kernel: PUT /boot-source first");
			return SERVER_DONE;
		}
		log_forget_error();
		if (config_check(config)) {
			log_first_error(why);
			return control_refuse(call, -EINVAL, why);
		}
	}
	p = pending_new(c, call);
	if (!p)
		return SERVER_DONE;
	return pending_result(p, machine_start(c->machine, on_done, p, why), why);
}

enum server_answer control_put_action(struct control *c, struct server_call *call)
{
	static int (*const calls[])(struct machine *m, char why[LOG_SENTENCE]) = {
		[ACTION_CTRL_ALT_DEL] = machine_power_button,
		[ACTION_BUTTON] = machine_power_button,
		[ACTION_RESET] = machine_reset,
		[ACTION_STOP] = machine_stop,
		[ACTION_END] = machine_end,
	};
	char why[LOG_SENTENCE] = "";

	if (c->body.action == ACTION_START)
		return start(c, call);
	return control_result(call, calls[c->body.action](c->machine, why), why);
}

enum server_answer control_patch_vm(struct control *c, struct server_call *call)
{
	char why[LOG_SENTENCE] = "";
	int ret = c->body.state ? machine_resume(c->machine, why) : machine_pause(c->machine, why);

	return control_result(call, ret, why);
}

enum server_answer control_put_snapshot(struct control *c, struct server_call *call)
{
	struct control_pending *p = pending_new(c, call);
	char why[LOG_SENTENCE] = "";
	int ret;

	if (!p)
		return SERVER_DONE;
	ret = machine_snapshot(c->machine, c->body.path, c->body.type, on_done, p, why);
	return pending_result(p, ret, why);
}

enum server_answer control_put_load(struct control *c, struct server_call *call)
{
	struct control_pending *p;
	struct config_undo *undo;
	char why[LOG_SENTENCE] = "";
	enum state_id now = machine_state(c->machine);
	int ret;

	/* Before anything is changed. */
	if (now != STATE_CREATED) {
		server_fail(call, 400, "restore: the machine is %s%s; expected %s",
			    now == STATE_ERROR ? "in " : "", state_name(now),
			    state_name(STATE_CREATED));
		return SERVER_DONE;
	}
	p = pending_new(c, call);
	if (!p)
		return SERVER_DONE;
	ret = control_load_config(c, &undo, why);
	if (!ret) {
		p->undo = undo;
		ret = machine_restore(c->machine, c->body.resume, on_done, p, why);
	}
	return pending_result(p, ret, why);
}

static void put_state(struct control *c, struct json_writer *w)
{
	enum state_id now = machine_state(c->machine);

	if (now == STATE_CREATED)
		json_put_string(w, "state", "Not started");
	else
		json_put_format(w, "state", "%c%s", toupper(*state_name(now)), state_name(now) + 1);
}

/* The guest has ended: whoever waits hears it. */
static void on_end(void *opaque, int ret, const char *why)
{
	struct control *c = opaque;

	c->waiting = false;
	for (unsigned int i = 0; i < CONTROL_CLIENTS; i++) {
		struct control_pending *p = &c->pending[i];
		struct json_writer *w;

		if (!p->call || !p->wait)
			continue;
		w = &p->call->body;
		json_put_object(w, NULL);
		put_state(c, w);
		json_put_string(w, "reason", why);
		json_put_end(w);
		pending_complete(p);
	}
}

/*
 * A client that went away while it waited is not noticed, so that waits could pile up: the oldest
 * gives way.
 */
static void bound_waits(struct control *c)
{
	struct control_pending *oldest = NULL;
	unsigned int nr = 0;

	for (unsigned int i = 0; i < CONTROL_CLIENTS; i++) {
		struct control_pending *p = &c->pending[i];

		if (!p->call || !p->wait)
			continue;
		nr++;
		if (!oldest || p->nr < oldest->nr)
			oldest = p;
	}
	if (nr < CONTROL_WAITS)
		return;
	server_fail(oldest->call, 503, "%d others wait, and this was the first: ask again",
		    CONTROL_WAITS);
	pending_complete(oldest);
}

enum server_answer control_get_wait(struct control *c, struct server_call *call)
{
	struct control_pending *p;

	bound_waits(c);
	p = pending_new(c, call);
	if (!p)
		return SERVER_DONE;
	p->wait = true;
	if (!c->waiting) {
		c->waiting = true;
		machine_wait(c->machine, on_end, c);
	}
	return SERVER_PENDING;
}

/* --- what there is to know ------------------------------------------------------------------ */

enum server_answer control_get_info(struct control *c, struct server_call *call)
{
	const struct guest_config *config = machine_config(c->machine);
	struct json_writer *w = &call->body;

	json_put_object(w, NULL);
	json_put_string(w, "app_name", "vinit");
	json_put_string(w, "id", config->name ? config->name : "anonymous-instance");
	put_state(c, w);
	json_put_string(w, "vmm_version", VINIT_VERSION);
	json_put_end(w);
	return SERVER_DONE;
}

enum server_answer control_get_version(struct control *c, struct server_call *call)
{
	json_put_object(&call->body, NULL);
	json_put_string(&call->body, "vinit_version", VINIT_VERSION);
	json_put_string(&call->body, "architecture", arch_name);
	json_put_end(&call->body);
	return SERVER_DONE;
}

enum server_answer control_get_stats(struct control *c, struct server_call *call)
{
	struct json_writer *w = &call->body;
	struct machine_stats stats;

	machine_stats(c->machine, &stats);
	json_put_object(w, NULL);
	json_put_unsigned(w, "uptime_ms", stats.uptime_ms);
	json_put_unsigned(w, "resets", stats.resets);
	json_put_unsigned(w, "pauses", stats.pauses);
	json_put_unsigned(w, "paused_ms", stats.paused_ms);
	json_put_unsigned(w, "snapshots", stats.snapshots);
	json_put_end(w);
	return SERVER_DONE;
}

/* Where a console's other end is: its words, and a socket's path that is good in every folder. */
static void put_console(struct json_writer *w, const char *name, const char *spec)
{
	const char *path = strncmp(spec, "unix=", 5) ? NULL : spec + 5;
	char *cwd = path && *path != '/' ? getcwd(NULL, 0) : NULL;

	json_put_object(w, name);
	json_put_string(w, "is", spec);
	if (cwd)
		json_put_format(w, "path", "%s/%s", cwd, path);
	else if (path)
		json_put_string(w, "path", path);
	free(cwd);
	json_put_end(w);
}

enum server_answer control_get_console(struct control *c, struct server_call *call)
{
	const struct guest_config *config = machine_config(c->machine);

	json_put_object(&call->body, NULL);
	put_console(&call->body, "serial", config->console ? config->console : "stdio");
	if (config->vconsole)
		put_console(&call->body, "virtio", config->vconsole);
	json_put_end(&call->body);
	return SERVER_DONE;
}

/* --- memory --------------------------------------------------------------------------------- */

enum server_answer control_get_memory(struct control *c, struct server_call *call)
{
	struct vm *vm = machine_vm(c->machine);
	struct json_writer *w = &call->body;
	const struct memory_region *r;

	json_put_object(w, NULL);
	json_put_array(w, "regions");
	for (unsigned int i = 0; vm && (r = region_list(&vm->mem, i)); i++) {
		json_put_object(w, NULL);
		json_put_unsigned(w, "slot", r->slot);
		json_put_unsigned(w, "guest_address", r->gpa);
		json_put_unsigned(w, "size", r->size);
		json_put_bool(w, "read_only", r->readonly);
		json_put_bool(w, "file", r->file);
		json_put_bool(w, "added", r->added);
		json_put_end(w);
	}
	json_put_end(w);
	json_put_end(w);
	return SERVER_DONE;
}

enum server_answer control_put_memory(struct control *c, struct server_call *call)
{
	const struct control_body *b = &c->body;
	const struct region_spec spec = {
		.gpa = b->gpa,
		.size = b->size,
		.readonly = b->readonly,
		.path = b->given & B(PATH) ? b->path : NULL,
		.offset = b->offset,
		.shared = b->shared,
	};
	char why[LOG_SENTENCE] = "";
	uint32_t slot = 0;
	int ret;

	if (!spec.path && b->given & (B(OFFSET) | B(SHARED))) {
		server_fail(call, 400, "\"offset\" and \"shared\" are a file's: \"path_on_host\" is "
			    "missing");
		return SERVER_DONE;
	}
	ret = machine_memory_add(c->machine, &spec, &slot, why);
	if (ret)
		return control_refuse(call, ret, why);
	json_put_object(&call->body, NULL);
	json_put_unsigned(&call->body, "slot", slot);
	json_put_end(&call->body);
	return SERVER_DONE;
}

enum server_answer control_delete_memory(struct control *c, struct server_call *call)
{
	char why[LOG_SENTENCE] = "";
	uint32_t slot;

	if (control_number(c, call, UINT32_MAX, &slot))
		return SERVER_DONE;
	return control_result(call, machine_memory_remove(c->machine, slot, why), why);
}

/* --- interrupts ----------------------------------------------------------------------------- */

enum server_answer control_put_irq(struct control *c, struct server_call *call)
{
	const struct control_body *b = &c->body;
	char why[LOG_SENTENCE] = "";
	uint32_t gsi;
	int ret;

	if (control_number(c, call, UINT32_MAX, &gsi))
		return SERVER_DONE;
	if (b->given == B(LINE))
		ret = machine_irq_level(c->machine, gsi, b->line, why);
	else if (b->given == B(PULSE) && b->pulse)
		ret = machine_irq_pulse(c->machine, gsi, why);
	else {
		server_fail(call, 400, "expected {\"level\": true or false} or {\"pulse\": true}");
		return SERVER_DONE;
	}
	return control_result(call, ret, why);
}

/* --- the dirty log -------------------------------------------------------------------------- */

enum server_answer control_get_dirty(struct control *c, struct server_call *call)
{
	struct vm *vm = machine_vm(c->machine);
	struct json_writer *w = &call->body;
	char why[LOG_SENTENCE] = "";
	bool on;
	int ret;

	/* While a snapshot is written, its thread has the log. */
	ret = vm ? machine_dirty_look(c->machine, &on, why) : (on = false, 0);
	if (ret)
		return control_result(call, ret, why);
	json_put_object(w, NULL);
	json_put_bool(w, "enabled", on);
	if (on) {
		json_put_string(w, "method", dirty_method_name(dirty_method(&vm->mem)));
		json_put_unsigned(w, "pages", dirty_count(&vm->mem));
	}
	json_put_end(w);
	return SERVER_DONE;
}

enum server_answer control_put_dirty(struct control *c, struct server_call *call)
{
	char why[LOG_SENTENCE] = "";

	return control_result(call, machine_dirty_log(c->machine, c->body.enabled, why), why);
}

/* Where the region of RAM ends that @gpa is in: a range never covers what is no RAM. */
static uint64_t region_end(struct control *c, uint64_t gpa)
{
	const struct memory *mem = &machine_vm(c->machine)->mem;

	for (unsigned int i = 0; i < mem->nr; i++) {
		const struct memory_region *r = &mem->region[i];

		if (gpa >= r->gpa && gpa - r->gpa < r->size)
			return r->gpa + r->size;
	}
	return gpa;
}

/*
 * Makes room by closing gaps between ranges of one region, small ones first: a log may name a page
 * too many, never one too few. At last a region is one range, and they fit. Half of the places are
 * made free, so that this is not asked for at every range.
 */
static void merge_ranges(struct control *c)
{
	do {
		unsigned int n = 0;

		c->gap = c->gap ? c->gap * 2 : GAP_MIN;
		for (unsigned int i = 1; i < c->nr_ranges; i++) {
			struct control_range *last = &c->range[n], *next = &c->range[i];

			if (last->region_end == next->region_end && next->gpa - last->end <= c->gap)
				last->end = next->end;
			else
				c->range[++n] = *next;
		}
		c->nr_ranges = n + 1;
	} while (c->nr_ranges > CONTROL_RANGES / 2 && c->gap < UINT64_MAX / 2);
}

_Static_assert(CONTROL_RANGES / 2 > MEMORY_MAX_REGIONS, "one range a region must fit");
_Static_assert(CONTROL_RANGES * 44 + 64 < SERVER_REPLY_MAX, "a reply holds all ranges");

static int on_range(void *opaque, uint64_t gpa, uint64_t size, const uint8_t *hva)
{
	struct control *c = opaque;
	struct control_range *last = c->nr_ranges ? &c->range[c->nr_ranges - 1] : NULL;
	bool same = last && gpa >= last->end && gpa < last->region_end;

	if (same && gpa - last->end <= c->gap) {
		last->end = gpa + size;
		return 0;
	}
	if (c->nr_ranges == CONTROL_RANGES)
		merge_ranges(c);
	/* Only if what comes is not in order, or in no region. */
	if (c->nr_ranges == CONTROL_RANGES)
		return -ENOSPC;
	c->range[c->nr_ranges++] = (struct control_range){
		.gpa = gpa,
		.end = gpa + size,
		.region_end = same ? last->region_end : region_end(c, gpa),
	};
	return 0;
}

enum server_answer control_read_dirty(struct control *c, struct server_call *call)
{
	struct json_writer *w = &call->body;
	char why[LOG_SENTENCE] = "";
	int ret;

	c->nr_ranges = 0;
	c->gap = 0;
	ret = machine_dirty_get(c->machine, on_range, c, why);
	if (ret)
		return control_refuse(call, ret, why);
	json_put_object(w, NULL);
	json_put_bool(w, "exact", !c->gap);
	json_put_array(w, "ranges");
	for (unsigned int i = 0; i < c->nr_ranges; i++) {
		json_put_array(w, NULL);
		json_put_unsigned(w, NULL, c->range[i].gpa);
		json_put_unsigned(w, NULL, c->range[i].end - c->range[i].gpa);
		json_put_end(w);
	}
	json_put_end(w);
	json_put_end(w);
	return SERVER_DONE;
}
