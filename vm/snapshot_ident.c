/* SPDX-License-Identifier: MIT */
#include "vm/snapshot_ident.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include "vm/log.h"
#include "vm/state_reader.h"
#include "vm/state_writer.h"

static const uint8_t none[SNAPSHOT_ID_LEN];

static bool same(const uint8_t *a, const uint8_t *b)
{
	return !memcmp(a, b, SNAPSHOT_ID_LEN);
}

int snapshot_ident_new(struct snapshot_ident *ident, const struct snapshot_ident *parent)
{
	ssize_t n;
	int err;

	memset(ident, 0, sizeof(*ident));
	do {
		n = getrandom(ident->id, sizeof(ident->id), 0);
	} while (n < 0 && errno == EINTR);
	if (n != sizeof(ident->id)) {
		err = n < 0 ? -errno : -EIO;
		log_err("snapshot: getrandom: %s", errno_name(err));
		return err;
	}
	ident->created = time(NULL);
	memcpy(ident->root, parent ? parent->root : ident->id, sizeof(ident->root));
	if (parent) {
		ident->diff = true;
		ident->generation = parent->generation + 1;
		memcpy(ident->parent, parent->id, sizeof(ident->parent));
	}
	return 0;
}

struct snapshot_ident snapshot_ident_merged(const struct snapshot_ident *diff)
{
	struct snapshot_ident merged = *diff;

	merged.diff = false;
	memset(merged.parent, 0, sizeof(merged.parent));
	return merged;
}

void snapshot_ident_put(const struct snapshot_ident *ident, struct state_writer *w)
{
	state_writer_begin(w, STATE_TAG_SNAPSHOT, 0, SNAPSHOT_IDENT_VERSION);
	state_writer_bool(w, ident->diff);
	state_writer_u32(w, ident->generation);
	state_writer_u64(w, ident->created);
	state_writer_bytes(w, ident->id, sizeof(ident->id));
	state_writer_bytes(w, ident->parent, sizeof(ident->parent));
	state_writer_bytes(w, ident->root, sizeof(ident->root));
	state_writer_end(w);
}

int snapshot_ident_get(struct snapshot_ident *ident, const struct state_reader *r)
{
	struct state_section s;
	int ret;

	memset(ident, 0, sizeof(*ident));
	ret = state_reader_section(r, &s, STATE_TAG_SNAPSHOT, 0);
	if (ret)
		return ret;
	/* Also for who reads a state of which it takes this section alone. */
	if (s.version != SNAPSHOT_IDENT_VERSION)
		return state_reader_bad(&s, "it has version %" PRIu32 ", expected %d", s.version,
					SNAPSHOT_IDENT_VERSION);
	ident->diff = state_reader_bool(&s);
	ident->generation = state_reader_u32(&s);
	ident->created = state_reader_u64(&s);
	state_reader_bytes(&s, ident->id, sizeof(ident->id));
	state_reader_bytes(&s, ident->parent, sizeof(ident->parent));
	state_reader_bytes(&s, ident->root, sizeof(ident->root));
	ret = state_reader_section_end(&s);
	if (ret)
		return ret;
	if (same(ident->id, none) || same(ident->root, none))
		return state_reader_bad(&s, "an id of zeros");
	if (ident->diff == same(ident->parent, none) || (ident->diff && !ident->generation) ||
	    (!ident->generation && !same(ident->root, ident->id)))
		return state_reader_bad(&s, "a %s of generation %" PRIu32 " with %s parent, which cannot be",
					ident->diff ? "diff" : "full snapshot", ident->generation,
					same(ident->parent, none) ? "no" : "a");
	return 0;
}

struct snapshot_ident_text snapshot_ident_text(const uint8_t id[SNAPSHOT_ID_LEN])
{
	struct snapshot_ident_text text;

	for (unsigned int i = 0; i < SNAPSHOT_ID_LEN; i++)
		snprintf(text.s + 2 * i, 3, "%02x", id[i]);
	return text;
}
