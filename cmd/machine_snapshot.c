/* SPDX-License-Identifier: MIT */
/*
 * A machine into a snapshot's directory and out of it again. docs/snapshot.md has the format; here
 * is the section MACH, what the machine is made of, and the order in which all the others are taken.
 */
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>
#include "cmd/config.h"
#include "cmd/machine_priv.h"
#include "virtio/blk.h"
#include "virtio/mmio.h"
#include "virtio/virtio.h"
#include "vm/dirty.h"
#include "vm/memory_diff.h"
#include "vm/memory_file.h"
#include "vm/region.h"
#include "vm/snapshot_dir.h"
#include "vm/snapshot_ident.h"
#include "vm/state_reader.h"
#include "vm/state_writer.h"
#include "vm/thread.h"

#define MACH	     STATE_TAG('M', 'A', 'C', 'H')
#define MACH_VERSION 2

/* Longer than any of the strings in it. */
#define MACH_STRING 65536

/* A region that was added at run time, or that the guest can't write. */
struct added_region {
	uint64_t gpa, size;
	bool readonly;
};

struct machine_restore {
	struct snapshot_dir dir;
	struct state_reader reader;
	struct snapshot_ident ident;
	struct memory_file_layout layout;
	struct memory_file file;
	struct guest_config given; /* what the user asked for, until the restore has worked */
	unsigned int nr_added;
	struct added_region added[MEMORY_FILE_MAX_REGIONS];
};

struct machine_save {
	/* The one that is being written. */
	bool running;
	pthread_t thread;
	struct event done_event;
	char *dir;
	bool diff;
	atomic_bool cancel;
	int ret;
	char why[LOG_SENTENCE];
	struct machine_waiter done;
	struct machine *m;

	/* The one that was written or restored last, while a diff can follow it. */
	bool followed;
	struct snapshot_ident ident;
	struct snapshot_ident next; /* what becomes of it if the one being written succeeds */
};

/*
 * --- section MACH -----------------------------------------------------------------------------------
 */

/* As the restore will look for it, which may be started in another directory. */
static void put_path(struct state_writer *w, const char *path)
{
	char whole[PATH_MAX];

	state_writer_string(w, path && realpath(path, whole) ? whole : path ? path : "");
}

static void put_string(struct state_writer *w, const char *s)
{
	state_writer_string(w, s ? s : "");
}

static void put_nic(const struct nic_config *nic, struct state_writer *w)
{
	state_writer_u8(w, nic->kind);
	if (nic->kind == NET_PASST)
		put_path(w, nic->peer);
	else
		put_string(w, nic->peer);
	put_string(w, nic->id);
	state_writer_bytes(w, nic->mac, sizeof(nic->mac));
	state_writer_u32(w, nic->queues);
	state_writer_u32(w, nic->mtu);
	state_writer_u8(w, nic->vhost);
}

static void put_machine(const struct machine *m, struct state_writer *w)
{
	const struct guest_config *c = m->config;
	unsigned int nr = 0;

	state_writer_begin(w, MACH, 0, MACH_VERSION);
	state_writer_u32(w, c->cpus);
	state_writer_u64(w, c->memory);
	state_writer_u32(w, m->vm.config.gic);
	put_path(w, c->kernel);
	put_path(w, c->initrd);
	put_string(w, c->cmdline);
	state_writer_bool(w, c->cmdline_only);
	put_string(w, c->console);
	put_string(w, c->vconsole);
	state_writer_bool(w, c->rng);
	state_writer_bool(w, c->vsock);
	state_writer_u64(w, c->vsock_cid);
	state_writer_u32(w, c->nr_disks);
	for (unsigned int i = 0; i < c->nr_disks; i++) {
		put_path(w, c->disk[i].path);
		put_string(w, c->disk[i].id);
		state_writer_bool(w, c->disk[i].readonly);
		state_writer_bool(w, c->disk[i].direct);
		state_writer_bool(w, c->disk[i].discard);
		state_writer_u8(w, (uint8_t)c->disk[i].engine);
		state_writer_u8(w, (uint8_t)machine_disk_queues(c, i));
	}
	for (unsigned int i = 0; region_list(&m->vm.mem, i); i++)
		nr += region_list(&m->vm.mem, i)->added;
	state_writer_u32(w, nr);
	for (unsigned int i = 0; region_list(&m->vm.mem, i); i++) {
		const struct memory_region *region = region_list(&m->vm.mem, i);

		if (!region->added)
			continue;
		state_writer_u64(w, region->gpa);
		state_writer_u64(w, region->size);
		state_writer_bool(w, region->readonly);
	}
	state_writer_u32(w, c->nr_nics);
	for (unsigned int i = 0; i < c->nr_nics; i++)
		put_nic(&c->nic[i], w);
	state_writer_end(w);
}

static void get_string(struct state_section *s, char *scratch, char **field)
{
	state_reader_string(s, scratch, MACH_STRING);
	if (!*scratch || s->err)
		return;
	*field = strdup(scratch);
	if (!*field)
		s->err = -ENOMEM;
}

static void get_disk(struct state_section *s, char *scratch, struct disk_config *disk)
{
	get_string(s, scratch, &disk->path);
	get_string(s, scratch, &disk->id);
	disk->readonly = state_reader_bool(s);
	disk->direct = state_reader_bool(s);
	disk->discard = state_reader_bool(s);
	disk->queues = 1; /* version 1 had no more */
	if (s->version > 1) {
		disk->engine = state_reader_u8(s);
		disk->queues = state_reader_u8(s);
	}
	if (disk->engine > BLK_URING || !disk->queues || disk->queues > BLK_MAX_QUEUES)
		state_reader_bad(s, "a disk with engine %u and %u queues", disk->engine, disk->queues);
	if (!s->err && !disk->path)
		state_reader_bad(s, "a disk without a path");
	if (disk->id && strlen(disk->id) > 20)
		state_reader_bad(s, "a disk's id of %zu bytes", strlen(disk->id));
}

static void get_nic(struct state_section *s, char *scratch, struct nic_config *nic)
{
	nic->kind = state_reader_u8(s);
	get_string(s, scratch, &nic->peer);
	get_string(s, scratch, &nic->id);
	state_reader_bytes(s, nic->mac, sizeof(nic->mac));
	nic->has_mac = true;
	nic->queues = state_reader_u32(s);
	nic->mtu = state_reader_u32(s);
	nic->vhost = state_reader_u8(s);
	if (!s->err && (!nic->peer || nic->kind > NET_PASST || nic->queues > NET_MAX_PAIRS ||
			(nic->kind == NET_PASST && nic->queues > 1) || nic->mtu > UINT16_MAX ||
			nic->vhost > NET_VHOST_NO || (nic->id && strlen(nic->id) > 20)))
		state_reader_bad(s, "a network interface that can't be");
}

static int get_machine(struct machine_restore *r, struct guest_config *c)
{
	struct state_section s;
	char *scratch;
	int ret = state_reader_section(&r->reader, &s, MACH, 0);

	if (ret || s.version - 1 >= MACH_VERSION) /* which check_sections() refuses, and says */
		return ret;
	scratch = malloc(MACH_STRING);
	if (!scratch)
		return -ENOMEM;
	c->cpus = state_reader_u32(&s);
	c->memory = state_reader_u64(&s);
	c->gic = state_reader_u32(&s);
	get_string(&s, scratch, &c->kernel);
	get_string(&s, scratch, &c->initrd);
	get_string(&s, scratch, &c->cmdline);
	c->cmdline_only = state_reader_bool(&s);
	get_string(&s, scratch, &c->console);
	get_string(&s, scratch, &c->vconsole);
	c->rng = state_reader_bool(&s);
	c->vsock = state_reader_bool(&s);
	c->vsock_cid = state_reader_u64(&s);
	c->nr_disks = state_reader_number(&s, ARCH_MAX_VIRTIO, 11);
	for (unsigned int i = 0; i < c->nr_disks; i++)
		get_disk(&s, scratch, &c->disk[i]);
	r->nr_added = state_reader_number(&s, MEMORY_FILE_MAX_REGIONS, 17);
	for (unsigned int i = 0; i < r->nr_added; i++) {
		r->added[i].gpa = state_reader_u64(&s);
		r->added[i].size = state_reader_u64(&s);
		r->added[i].readonly = state_reader_bool(&s);
	}
	if (s.version >= 2)
		c->nr_nics = state_reader_number(&s, ARCH_MAX_VIRTIO, 24);
	for (unsigned int i = 0; i < c->nr_nics; i++)
		get_nic(&s, scratch, &c->nic[i]);
	free(scratch);
	return state_reader_section_end(&s);
}

/*
 * --- saving -----------------------------------------------------------------------------------------
 */

/* What lies under pages that nobody has touched. */
static void note_backing(const struct machine *m, const struct memory_region *region,
			 struct memory_file_region *to)
{
	if (region->file) {
		to->backing_fd = MEMORY_FILE_OTHER;
		return;
	}
	for (unsigned int i = 0; m->restore && i < m->restore->layout.nr; i++) {
		const struct memory_file_region *from = &m->restore->layout.region[i];

		if (from->gpa == region->gpa && from->hva == region->hva) {
			to->backing_fd = from->backing_fd;
			to->backing_offset = from->backing_offset;
		}
	}
}

static int make_layout(const struct machine *m, struct memory_file_layout *l,
		       const uint64_t *bitmap[MEMORY_FILE_MAX_REGIONS])
{
	const struct memory_region *region;
	size_t words;
	int ret;

	memory_file_layout_init(l);
	for (unsigned int i = 0; (region = region_list(&m->vm.mem, i)); i++) {
		ret = memory_file_layout_add(l, region->gpa, region->size, region->hva,
					     MEMORY_FILE_ANON);
		if (ret)
			return ret;
		note_backing(m, region, &l->region[i]);
		bitmap[i] = dirty_bitmap(region, &words);
	}
	return 0;
}

/* Everything that is not memory. */
static int put_state(struct machine *m, struct state_writer *w, const struct snapshot_ident *ident,
		     const struct memory_file_layout *layout)
{
	snapshot_ident_put(ident, w);
	memory_file_layout_put(layout, w);
	put_machine(m, w);
	arch_save(&m->vm, w);
	for (unsigned int i = 0; i < m->nr_devs; i++)
		virtio_mmio_save(m->mmio[i], w, i);
	return w->err;
}

static int write_files(struct machine *m, const struct snapshot_dir *dir, struct state_writer *w,
		       struct memory_file_layout *layout)
{
	const uint64_t *bitmap[MEMORY_FILE_MAX_REGIONS];
	const struct snapshot_ident *ident = &m->save->next;
	struct memory_diff_bitmaps dirty;
	int ret = make_layout(m, layout, bitmap);

	if (!ret)
		ret = put_state(m, w, ident, layout);
	if (ret)
		return ret;
	/* Looked for only now that the devices have had their say. */
	if (dirty_on(&m->vm.mem)) {
		ret = vm_dirty_collect(&m->vm, NULL);
		if (ret)
			return ret;
	}
	if (m->save->diff) {
		memory_diff_bitmaps_init(&dirty, layout, bitmap);
		ret = memory_diff_save(dir, layout, ident->id, &dirty.dirty);
	} else {
		ret = memory_file_save(dir, layout, ident->id);
	}
	if (!ret)
		ret = state_writer_save(w, dir);
	return ret ? ret : snapshot_dir_commit(dir, m->save->diff);
}

/* A full one may take the place of a full one; a diff and what it follows are both needed. */
static int check_place(const struct snapshot_dir *dir, bool diff)
{
	if (!snapshot_dir_has(dir, diff ? SNAPSHOT_MEMORY : SNAPSHOT_DIFF))
		return 0;
	log_err("%s: EEXIST: it holds a %s: give this %s a directory of its own", dir->path,
		diff ? "full snapshot" : "diff", diff ? "diff" : "full snapshot");
	return -EEXIST;
}

static int save(struct machine *m)
{
	struct memory_file_layout *layout = malloc(sizeof(*layout));
	struct snapshot_dir dir;
	struct state_writer w;
	int ret;

	if (!layout) {
		log_err("snapshot: out of memory");
		return -ENOMEM;
	}
	ret = snapshot_dir_open(&dir, m->save->dir, true);
	if (ret) {
		free(layout);
		return ret;
	}
	dir.cancel = &m->save->cancel;
	state_writer_init(&w, arch_name);
	ret = check_place(&dir, m->save->diff);
	if (!ret)
		ret = write_files(m, &dir, &w, layout);
	if (ret)
		snapshot_dir_discard(&dir);
	else if (dirty_on(&m->vm.mem))
		dirty_clear(&m->vm.mem);
	state_writer_fini(&w);
	snapshot_dir_close(&dir);
	free(layout);
	return ret;
}

static void *save_thread(void *arg)
{
	struct machine_save *s = arg;
	uint64_t one = 1;

	log_forget_error();
	s->ret = save(s->m);
	log_first_error(s->why);
	if (s->ret && !*s->why)
		snprintf(s->why, sizeof(s->why), "snapshot: %s", errno_name(s->ret));
	if (write(s->done_event.fd, &one, sizeof(one)) < 0)
		log_err("snapshot: eventfd: %s", errno_name(errno));
	return NULL;
}

bool machine_saving(const struct machine *m)
{
	return m->save && m->save->running;
}

void machine_save_cancel(struct machine *m)
{
	if (m->save)
		atomic_store(&m->save->cancel, true);
}

void machine_save_finish(struct machine *m)
{
	struct machine_save *s = m->save;
	struct machine_waiter done;
	const char *stop = m->stop_later;

	if (!s || !s->running)
		return;
	pthread_join(s->thread, NULL);
	s->running = false;
	if (!s->ret) {
		s->ident = s->next;
		s->followed = dirty_on(&m->vm.mem);
		m->stats.snapshots++;
	}
	log_line(s->ret ? LOG_WARN : LOG_INFO, "snapshot %s: %s", s->dir, s->ret ? "failed" :
		 s->diff ? "written, a diff" : "written");
	free(s->dir);
	s->dir = NULL;
	state_settle(&m->state, CALL_SNAPSHOT, !s->ret);
	done = s->done;
	if (done.done)
		done.done(done.opaque, s->ret, s->why);
	m->stop_later = NULL;
	if (stop)
		machine_begin_stop(m, stop);
}

static void on_saved(struct event *ev, uint32_t events)
{
	struct machine_save *s = ev->opaque;
	uint64_t count;

	if (read(ev->fd, &count, sizeof(count)) == sizeof(count))
		machine_save_finish(s->m);
}

static int make_save(struct machine *m)
{
	struct machine_save *s = calloc(1, sizeof(*s));
	int ret;

	if (!s) {
		log_err("snapshot: out of memory");
		return -ENOMEM;
	}
	s->m = m;
	s->done_event = (struct event){ .fn = on_saved, .opaque = s };
	s->done_event.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	ret = s->done_event.fd < 0 ? -errno : event_add(&m->loop, &s->done_event, EPOLLIN);
	if (ret) {
		log_err("snapshot: eventfd: %s: check ulimit -n", errno_name(ret));
		if (s->done_event.fd >= 0)
			close(s->done_event.fd);
		free(s);
		return ret;
	}
	m->save = s;
	return 0;
}

void machine_save_free(struct machine *m)
{
	if (!m->save)
		return;
	event_del(&m->loop, &m->save->done_event);
	close(m->save->done_event.fd);
	free(m->save);
	m->save = NULL;
}

void machine_save_forget(struct machine *m)
{
	if (m->save)
		m->save->followed = false;
}

static int prepare_save(struct machine *m, const char *dir, bool diff, char why[LOG_SENTENCE])
{
	struct machine_save *s;
	int ret = m->save ? 0 : make_save(m);

	if (ret) {
		snprintf(why, LOG_SENTENCE, "snapshot: %s", errno_name(ret));
		return ret;
	}
	s = m->save;
	if (diff && !s->followed) {
		snprintf(why, LOG_SENTENCE, "snapshot: a diff follows a snapshot that was taken or restored "
			 "with the dirty log on, and nothing has changed that log or the memory regions "
			 "since: take a full one");
		return -EINVAL;
	}
	atomic_store(&s->cancel, false);
	ret = snapshot_ident_new(&s->next, diff ? &s->ident : NULL);
	s->dir = ret ? NULL : strdup(dir);
	s->diff = diff;
	if (!ret && s->dir)
		ret = thread_start(&s->thread, "snapshot", save_thread, s);
	else if (!ret)
		ret = -ENOMEM;
	if (ret) {
		snprintf(why, LOG_SENTENCE, "snapshot: %s", errno_name(ret));
		free(s->dir);
		s->dir = NULL;
	}
	return ret;
}

int machine_snapshot(struct machine *m, const char *dir, bool diff, machine_done_fn *done, void *opaque,
		     char why[LOG_SENTENCE])
{
	int ret = state_move(&m->state, CALL_SNAPSHOT, why);

	if (ret)
		return ret;
	/* Its end is told to the state at the loop's next turn. */
	if (atomic_load(&m->vm.end) != VM_END_NONE) {
		state_settle(&m->state, CALL_SNAPSHOT, false);
		snprintf(why, LOG_SENTENCE, "the guest has just ended");
		return -ESHUTDOWN;
	}
	ret = prepare_save(m, dir, diff, why);
	if (ret) {
		state_settle(&m->state, CALL_SNAPSHOT, false);
		return ret;
	}
	m->save->done = (struct machine_waiter){ done, opaque };
	m->save->running = true;
	return 0;
}

/*
 * --- restoring --------------------------------------------------------------------------------------
 */

/* 0 or -ENOMEM. */
static int replace(char **field, const char *given)
{
	char *copy = given ? strdup(given) : NULL;

	if (given && !copy)
		return -ENOMEM;
	if (given) {
		free(*field);
		*field = copy;
	}
	return 0;
}

/* By its id where it has one, else by its place @i. NULL: there is none of that id. */
static struct disk_config *meant_disk(struct guest_config *c, const struct disk_config *disk,
				      unsigned int i)
{
	char id[24];

	if (!disk->id)
		return &c->disk[i];
	for (i = 0; i < c->nr_disks; i++) {
		snprintf(id, sizeof(id), DISK_DEFAULT_ID, i);
		if (!strcmp(disk->id, c->disk[i].id ? c->disk[i].id : id))
			return &c->disk[i];
	}
	return NULL;
}

static int replace_disks(struct guest_config *c, const struct guest_config *given)
{
	bool taken[ARCH_MAX_VIRTIO] = { false };
	int ret = 0;

	if (!given->nr_disks)
		return 0;
	if (given->nr_disks != c->nr_disks) {
		log_err("disk: the snapshot's machine has %u, %u are given: give as many, in their order, "
			"or none", c->nr_disks, given->nr_disks);
		return -EINVAL;
	}
	for (unsigned int i = 0; i < c->nr_disks && !ret; i++) {
		const struct disk_config *disk = &given->disk[i];
		struct disk_config *old = meant_disk(c, disk, i);

		if (!old || taken[old - c->disk]) {
			log_err("%s: the snapshot's machine has %s", disk->path, old ?
				"one such disk, two are given" : "no disk of that id");
			return -EINVAL;
		}
		taken[old - c->disk] = true;
		if (disk->readonly && !old->readonly) {
			log_err("%s: the snapshot's machine writes to this disk", disk->path);
			return -EINVAL;
		}
		ret = replace(&old->path, disk->path);
		old->direct |= disk->direct;
		old->engine = disk->engine;
	}
	return ret;
}

/*
 * Another peer: what the guest knows of its interface (MAC, queues, MTU) stays. By place, which an
 * id may confirm.
 */
static int replace_nics(struct guest_config *c, const struct guest_config *given)
{
	int ret = 0;

	if (given->nr_nics && given->nr_nics != c->nr_nics) {
		log_err("net: the snapshot's machine has %u, %u are given: give as many, in their order, "
			"or none", c->nr_nics, given->nr_nics);
		return -EINVAL;
	}
	for (unsigned int i = 0; i < given->nr_nics && !ret; i++) {
		const struct nic_config *nic = &given->nic[i];
		struct nic_config *old = &c->nic[i];
		char id[24];

		snprintf(id, sizeof(id), NIC_DEFAULT_ID, i);
		if ((nic->id && strcmp(nic->id, old->id ? old->id : id)) ||
		    (nic->queues && nic->queues != (old->queues ? old->queues : 1)) ||
		    (nic->mtu && nic->mtu != old->mtu) || (nic->has_mac && memcmp(nic->mac, old->mac, sizeof(nic->mac)))) {
			log_err("net %u: its id, MAC, queues and MTU are what the snapshot says: leave them out", i);
			return -EINVAL;
		}
		if (nic->kind == NET_PASST && old->queues > 1) {
			log_err("net %u: the snapshot's has %u queues: give it a tap", i, old->queues);
			return -EINVAL;
		}
		ret = replace(&old->peer, nic->peer);
		old->kind = nic->kind;
		old->vhost = nic->vhost;
	}
	return ret;
}

/* The snapshot's configuration @c, with what its user wants otherwise. */
static int merge(struct guest_config *c, const struct guest_config *given)
{
	int ret;

	if (given->vsock && !c->vsock) {
		log_err("vsock: the snapshot's machine has none");
		return -EINVAL;
	}
	if (given->vconsole && !c->vconsole) {
		log_err("virtio-console: the snapshot's machine has none");
		return -EINVAL;
	}
	if (given->vsock)
		c->vsock_cid = given->vsock_cid;
	c->on_reset_exit = given->on_reset_exit;
	c->supervised = given->supervised;
	c->stop_timeout = given->stop_timeout;
	c->track_dirty = given->track_dirty;
	c->trap_registers = given->trap_registers;
	c->boot_timer = given->boot_timer;
	ret = replace_disks(c, given);
	if (!ret)
		ret = replace_nics(c, given);
	if (!ret)
		ret = replace(&c->console, given->console);
	if (!ret)
		ret = replace(&c->vconsole, given->vconsole);
	if (!ret)
		ret = replace(&c->name, given->name);
	if (!ret)
		ret = replace(&c->log_level, given->log_level);
	if (!ret)
		ret = replace(&c->log_file, given->log_file);
	if (!ret)
		ret = replace(&c->api_sock, given->api_sock);
	if (!ret)
		ret = replace(&c->restore, given->restore);
	return ret;
}

/* Exactly what will be taken; how many devices there are says the file, and is checked later. */
static int check_sections(struct machine_restore *r, const struct guest_config *c)
{
	struct state_want want[4 + ARCH_STATE_MAX] = {
		{ STATE_TAG_SNAPSHOT, 1, 1, SNAPSHOT_IDENT_VERSION },
		{ STATE_TAG_MEMORY, 1, 1, MEMORY_FILE_LAYOUT_VERSION },
		{ MACH, 1, 1, MACH_VERSION },
		{ VIRTIO_MMIO_STATE, 0, 1, VIRTIO_MMIO_STATE_VERSION },
	};
	const struct vm_config config = { .nr_vcpus = c->cpus, .ram_size = c->memory, .gic = c->gic };
	unsigned int nr = 4;

	want[3].count = state_reader_count(&r->reader, VIRTIO_MMIO_STATE);
	if (want[3].count > ARCH_MAX_VIRTIO)
		want[3].count = ARCH_MAX_VIRTIO;
	nr += arch_state_wants(&config, want + nr);
	return state_reader_expect(&r->reader, want, nr);
}

static int read_snapshot(struct machine_restore *r, struct guest_config *c, const struct guest_config *given)
{
	int ret = state_reader_open(&r->reader, &r->dir, arch_name);

	if (!ret)
		ret = snapshot_ident_get(&r->ident, &r->reader);
	if (!ret && r->ident.diff) {
		log_err("%s: is a diff: merge it into the snapshot that it follows (vinit snapshot merge)",
			r->dir.path);
		ret = -EINVAL;
	}
	if (!ret)
		ret = get_machine(r, c);
	if (!ret)
		ret = check_sections(r, c);
	if (!ret)
		ret = memory_file_layout_get(&r->layout, &r->reader);
	if (!ret)
		ret = memory_file_open(&r->file, &r->dir, &r->layout, r->ident.id);
	return ret ? ret : merge(c, given);
}

int machine_restore_open(struct machine *m)
{
	struct machine_restore *r = calloc(1, sizeof(*r));
	int ret;

	if (!r) {
		log_err("restore: out of memory");
		return -ENOMEM;
	}
	r->dir.fd = r->file.fd = -1;
	ret = snapshot_dir_open(&r->dir, m->config->restore, false);
	if (ret) {
		free(r);
		return ret;
	}
	m->restore = r;
	r->given = *m->config;
	config_init(m->config);
	ret = read_snapshot(r, m->config, &r->given);
	if (ret == -ENOMEM)
		log_err("restore: out of memory");
	if (ret)
		machine_restore_close(m, true);
	return ret;
}

void machine_restore_close(struct machine *m, bool undo)
{
	struct machine_restore *r = m->restore;

	if (!r)
		return;
	m->restore = NULL;
	if (undo) {
		config_free(m->config);
		*m->config = r->given;
	} else {
		config_free(&r->given);
	}
	if (r->file.fd >= 0)
		memory_file_close(&r->file);
	state_reader_close(&r->reader);
	snapshot_dir_close(&r->dir);
	free(r);
}

int machine_restore_check(struct machine *m)
{
	unsigned int nr = state_reader_count(&m->restore->reader, VIRTIO_MMIO_STATE);

	if (nr == m->nr_devs)
		return 0;
	log_err("%s: %s: holds %u virtio devices, its configuration makes %u: damaged", m->restore->dir.path,
		SNAPSHOT_STATE, nr, m->nr_devs);
	return -EBADMSG;
}

static int bad_memory(const struct machine_restore *r)
{
	log_err("%s: %s: memory is not where a machine of this configuration has it", r->dir.path,
		SNAPSHOT_STATE);
	return -EBADMSG;
}

/* All of MEMO's regions must be what the configuration makes, and the other way round. */
static int place_regions(struct machine *m)
{
	struct machine_restore *r = m->restore;
	unsigned int nr = 0;

	for (unsigned int i = 0; i < r->nr_added; i++) {
		struct region_spec spec = {
			.gpa = r->added[i].gpa,
			.size = r->added[i].size,
			.readonly = r->added[i].readonly,
		};
		const struct memory_file_region *saved;
		uint32_t slot;
		int ret;

		/* Before it costs anything: has the snapshot such a region? */
		saved = memory_file_layout_find(&r->layout, spec.gpa, spec.size);
		if (!saved || saved->size != spec.size)
			return bad_memory(r);
		ret = vm_memory_add(&m->vm, &spec, &slot, NULL);

		if (ret)
			return ret;
	}
	for (; region_list(&m->vm.mem, nr); nr++) {
		const struct memory_region *region = region_list(&m->vm.mem, nr);
		struct memory_file_region *from = &r->layout.region[nr];

		if (nr >= r->layout.nr || from->gpa != region->gpa || from->size != region->size)
			break;
		from->hva = region->hva;
	}
	if (nr == r->layout.nr && !region_list(&m->vm.mem, nr))
		return 0;
	return bad_memory(r);
}

/* The file's pages are mapped so that they can be written. */
static int protect_regions(struct machine *m)
{
	for (unsigned int i = 0; i < m->vm.mem.nr_rom; i++) {
		const struct memory_region *region = &m->vm.mem.rom[i];

		if (mprotect(region->hva, region->size, PROT_READ) < 0) {
			log_err("memory: mprotect: %s", errno_name(errno));
			return -errno;
		}
	}
	return 0;
}

static int load_devices(struct machine *m)
{
	for (unsigned int i = 0; i < m->nr_devs; i++) {
		int ret = virtio_mmio_load(m->mmio[i], &m->restore->reader, i);

		if (ret)
			return ret;
	}
	return 0;
}

int machine_restore_load(struct machine *m)
{
	struct machine_restore *r = m->restore;
	int ret = place_regions(m);

	if (!ret)
		ret = memory_file_map(&r->file, &r->dir, &r->layout);
	if (!ret)
		ret = protect_regions(m);
	/* From here on memory is written to (a new generation ID), which the next diff must have. */
	if (!ret && m->config->track_dirty)
		ret = vm_dirty_enable(&m->vm, NULL);
	if (!ret)
		ret = arch_restore(&m->vm, &r->reader);
	if (!ret)
		ret = load_devices(m);
	if (!ret)
		ret = state_reader_end(&r->reader);
	if (!ret && !m->save)
		ret = make_save(m);
	if (!ret) {
		m->save->ident = r->ident;
		m->save->followed = m->config->track_dirty;
	}
	return ret;
}
