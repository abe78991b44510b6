/* SPDX-License-Identifier: MIT */
#include "vm/snapshot_merge.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "vm/log.h"
#include "vm/memory_diff.h"
#include "vm/memory_file.h"
#include "vm/snapshot_dir.h"
#include "vm/snapshot_ident.h"
#include "vm/state_reader.h"
#include "vm/state_writer.h"

/* One of the two. */
struct part {
	struct snapshot_dir dir;
	struct state_reader state;
	struct snapshot_ident ident;
	struct memory_file_layout layout;
};

struct merge {
	struct part base, diff;
	struct memory_file memory; /* the base's */
	struct memory_diff pages;  /* the diff's */
};

static bool same(const uint8_t *a, const uint8_t *b)
{
	return !memcmp(a, b, SNAPSHOT_ID_LEN);
}

/* Undone by part_close(), good after a failure too. */
static int part_open(struct part *p, const char *path)
{
	int ret = snapshot_dir_open(&p->dir, path, false);

	/* Of any architecture: it is bytes that are moved here, no machine is made of them. */
	if (!ret)
		ret = state_reader_open(&p->state, &p->dir, NULL);
	if (!ret)
		ret = snapshot_ident_get(&p->ident, &p->state);
	if (!ret)
		ret = memory_file_layout_get(&p->layout, &p->state);
	return ret;
}

static void part_close(struct part *p)
{
	state_reader_close(&p->state);
	snapshot_dir_close(&p->dir);
}

static int check_kinds(const struct merge *m)
{
	const struct part *base = &m->base, *diff = &m->diff;

	if (base->ident.diff) {
		log_err("snapshot %s: EINVAL: it is a diff: merge into the full snapshot it follows",
			base->dir.path);
		return -EINVAL;
	}
	if (!diff->ident.diff) {
		log_err("snapshot %s: EINVAL: it is a full snapshot, expected a diff", diff->dir.path);
		return -EINVAL;
	}
	if (strcmp(base->state.arch, diff->state.arch)) {
		log_err("snapshot %s: EINVAL: it is of a guest of %s, %s of one of %s", diff->dir.path,
			diff->state.arch, base->dir.path, base->state.arch);
		return -EINVAL;
	}
	if (!memory_file_layout_same(&base->layout, &diff->layout)) {
		log_err("snapshot %s: EINVAL: its guest has RAM elsewhere than that of %s: a full "
			"snapshot is due after memory regions have come or gone", diff->dir.path,
			base->dir.path);
		return -EINVAL;
	}
	return 0;
}

/* Why the diff does not fit, in a sentence that tells what to do. */
static int misfit(const struct merge *m)
{
	const struct snapshot_ident *base = &m->base.ident, *diff = &m->diff.ident;
	const char *what = "it follows another snapshot of that generation";

	if (!same(base->root, diff->root))
		what = "they come from different full snapshots";
	else if (diff->generation <= base->generation)
		what = "an older diff, or one already merged";
	else if (diff->generation > base->generation + 1)
		what = "the diffs between them come first";
	log_err("snapshot %s: ESTALE: diff %" PRIu32 " follows the snapshot %s; %s is %s, number %" PRIu32
		": %s", m->diff.dir.path, diff->generation, snapshot_ident_text(diff->parent).s,
		m->base.dir.path, snapshot_ident_text(base->id).s, base->generation, what);
	return -ESTALE;
}

/*
 * The base's memory says how far a merge has come. 1: everything is to be done, 2: only the end of
 * it, 0: nothing. -ESTALE: it is not of this base, or another merge must end first.
 *
 * A note of a merge that is damaged was being written: either before the first page was changed, or
 * after the last, when its owner had been noted. So it says no more than none, where the owner is
 * right; and where the owner is not, the note is whole.
 */
static int progress(const struct merge *m)
{
	const struct snapshot_ident *base = &m->base.ident, *diff = &m->diff.ident;
	const struct memory_file *mem = &m->memory;
	bool committed = same(base->id, diff->id);
	bool ours = mem->known && same(mem->next, diff->id);

	if (!committed && !same(base->id, diff->parent))
		return misfit(m);
	if (mem->known && !ours) {
		log_err("snapshot %s: ESTALE: a merge of the diff %s into it did not end: run that one "
			"again first", m->base.dir.path, snapshot_ident_text(mem->next).s);
		return -ESTALE;
	}
	if (committed && ours)
		return 2;
	if (!mem->owned || !same(mem->id, base->id)) {
		log_err("snapshot %s/" SNAPSHOT_MEMORY ": ESTALE: it belongs to %s, state to the "
			"snapshot %s", m->base.dir.path,
			mem->owned ? snapshot_ident_text(mem->id).s : "none, its trailer is damaged",
			snapshot_ident_text(base->id).s);
		return -ESTALE;
	}
	if (!committed)
		return 1;
	return mem->merging ? 2 : 0;
}

/* The diff's state as that of a full snapshot: every section as it is, but who it is. */
static int write_state(const struct merge *m)
{
	struct snapshot_ident ident = snapshot_ident_merged(&m->diff.ident);
	struct state_section s;
	struct state_writer w;
	int ret;

	state_writer_init(&w, m->diff.state.arch);
	for (uint32_t i = 0; state_reader_at(&m->diff.state, &s, i); i++) {
		if (s.tag == STATE_TAG_SNAPSHOT) {
			snapshot_ident_put(&ident, &w);
			continue;
		}
		state_writer_begin(&w, s.tag, s.instance, s.version);
		state_writer_bytes(&w, s.payload, s.len);
		state_writer_end(&w);
	}
	ret = state_writer_save(&w, &m->base.dir);
	state_writer_fini(&w);
	if (!ret)
		ret = snapshot_dir_replace(&m->base.dir, SNAPSHOT_STATE);
	if (!ret)
		ret = snapshot_dir_sync(&m->base.dir, NULL, m->base.dir.fd);
	return ret;
}

/*
 * Each step is on the disk before the next begins. From the first note on the base can only be
 * merged into, by this diff; from the state on it is the diff's.
 */
static int run(struct merge *m)
{
	const uint8_t *id = m->diff.ident.id;
	int ret;

	ret = progress(m);
	if (ret < 0)
		return ret;
	if (!ret) {
		log_info("snapshot %s: %s has been merged into it before", m->base.dir.path,
			 m->diff.dir.path);
		return 0;
	}
	if (ret == 1) {
		ret = memory_file_merge_begin(&m->memory, &m->base.dir, id);
		if (!ret)
			ret = memory_diff_apply(&m->pages, &m->base.dir, &m->memory);
		if (!ret)
			ret = snapshot_dir_sync(&m->base.dir, SNAPSHOT_MEMORY, m->memory.fd);
		if (!ret)
			ret = write_state(m);
		if (ret) {
			log_err("snapshot %s: %s: the merge of %s did not end: run it again when the "
				"cause is gone", m->base.dir.path, errno_name(ret), m->diff.dir.path);
			return ret;
		}
	}
	return memory_file_merge_end(&m->memory, &m->base.dir, id);
}

int snapshot_merge(const char *base, const char *diff)
{
	struct merge m = {
		.base.dir.fd = -1, .diff.dir.fd = -1, .memory.fd = -1, .pages.fd = -1
	};
	int ret;

	ret = part_open(&m.base, base);
	if (!ret)
		ret = part_open(&m.diff, diff);
	if (!ret)
		ret = check_kinds(&m);
	if (!ret)
		ret = memory_diff_open(&m.pages, &m.diff.dir, &m.diff.layout, m.diff.ident.id);
	if (!ret)
		ret = memory_file_open_merge(&m.memory, &m.base.dir, &m.base.layout);
	if (!ret)
		ret = run(&m);
	memory_file_close(&m.memory);
	memory_diff_close(&m.pages);
	part_close(&m.diff);
	part_close(&m.base);
	return ret;
}
