/* SPDX-License-Identifier: MIT */
#include "vm/state_writer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "vm/crc32.h"
#include "vm/log.h"
#include "vm/snapshot_dir.h"

#define NEW_STATE SNAPSHOT_STATE SNAPSHOT_NEW

void state_writer_fail(struct state_writer *w, int err)
{
	if (!w->err)
		w->err = err;
}

/* Room for @len more bytes, all zero; NULL after an error. */
static uint8_t *more(struct state_writer *w, size_t len)
{
	size_t room = w->room;
	uint8_t *p;

	if (w->err)
		return NULL;
	if (len > STATE_FILE_MAX - w->len) {
		log_err("snapshot: EFBIG: its state is more than %u MiB", STATE_FILE_MAX >> 20);
		state_writer_fail(w, -EFBIG);
		return NULL;
	}
	while (room < w->len + len)
		room = room ? room * 2 : 16384;
	if (room != w->room) {
		p = realloc(w->buf, room);
		if (!p) {
			log_err("snapshot: ENOMEM: %zu bytes for its state", room);
			state_writer_fail(w, -ENOMEM);
			return NULL;
		}
		w->buf = p;
		w->room = room;
	}
	p = w->buf + w->len;
	memset(p, 0, len);
	w->len += len;
	return p;
}

static void number(struct state_writer *w, uint64_t value, unsigned int bytes)
{
	uint8_t *p = more(w, bytes);

	if (p)
		state_file_store(p, value, bytes);
}

void state_writer_init(struct state_writer *w, const char *arch)
{
	uint8_t *p;

	memset(w, 0, sizeof(*w));
	p = more(w, STATE_FILE_HEADER);
	if (!p)
		return;
	memcpy(p, STATE_FILE_MAGIC, STATE_FILE_MAGIC_LEN);
	state_file_store(p + STATE_FILE_AT_VERSION, STATE_FILE_VERSION, 4);
	if (!*arch || strlen(arch) >= STATE_FILE_ARCH_LEN)
		state_writer_fail(w, -EINVAL);
	else
		memcpy(p + STATE_FILE_AT_ARCH, arch, strlen(arch));
}

void state_writer_fini(struct state_writer *w)
{
	free(w->buf);
	memset(w, 0, sizeof(*w));
}

void state_writer_begin(struct state_writer *w, uint32_t tag, uint32_t instance, uint32_t version)
{
	size_t at = w->len;
	uint8_t *p;

	if (w->section || w->nr == STATE_FILE_MAX_SECTIONS)
		state_writer_fail(w, w->section ? -EINVAL : -E2BIG);
	p = more(w, STATE_FILE_SECTION);
	if (!p)
		return;
	state_file_store(p + STATE_FILE_AT_TAG, tag, 4);
	state_file_store(p + STATE_FILE_AT_INSTANCE, instance, 4);
	state_file_store(p + STATE_FILE_AT_SECVER, version, 4);
	w->section = at;
	w->nr++;
}

void state_writer_end(struct state_writer *w)
{
	uint8_t *head = w->buf + w->section;
	uint32_t crc;
	size_t len;

	if (!w->section)
		state_writer_fail(w, -EINVAL);
	if (w->err)
		return;
	len = w->len - w->section - STATE_FILE_SECTION;
	state_file_store(head + STATE_FILE_AT_SECLEN, len, 8);
	crc = crc32(0, head, STATE_FILE_AT_SECCRC);
	crc = crc32(crc, head + STATE_FILE_SECTION, len);
	state_file_store(head + STATE_FILE_AT_SECCRC, crc, 4);
	w->section = 0;
}

void state_writer_bool(struct state_writer *w, bool value)
{
	number(w, value, 1);
}

void state_writer_u8(struct state_writer *w, uint8_t value)
{
	number(w, value, 1);
}

void state_writer_u16(struct state_writer *w, uint16_t value)
{
	number(w, value, 2);
}

void state_writer_u32(struct state_writer *w, uint32_t value)
{
	number(w, value, 4);
}

void state_writer_u64(struct state_writer *w, uint64_t value)
{
	number(w, value, 8);
}

void state_writer_bytes(struct state_writer *w, const void *buf, size_t len)
{
	uint8_t *p = len ? more(w, len) : NULL;

	if (p)
		memcpy(p, buf, len);
}

void state_writer_blob(struct state_writer *w, const void *buf, size_t len)
{
	/* More than 32 bits is more than a file holds, which state_writer_bytes() says. */
	number(w, len, 4);
	state_writer_bytes(w, buf, len);
}

void state_writer_string(struct state_writer *w, const char *s)
{
	state_writer_blob(w, s, strlen(s));
}

/* The header's numbers and the end. */
static void seal(struct state_writer *w)
{
	if (w->section)
		state_writer_fail(w, -EINVAL);
	number(w, STATE_TAG_END, 4);
	number(w, 0, 4);
	if (w->err)
		return;
	state_file_store(w->buf + STATE_FILE_AT_SECTIONS, w->nr, 4);
	state_file_store(w->buf + STATE_FILE_AT_LENGTH, w->len, 8);
	state_file_store(w->buf + w->len - 4, crc32(0, w->buf, w->len - 4), 4);
}

int state_writer_save(struct state_writer *w, const struct snapshot_dir *dir)
{
	int fd, ret;

	seal(w);
	if (w->err) {
		log_err("snapshot %s/" SNAPSHOT_STATE ": %s: it could not be put together",
			dir->path, errno_name(w->err));
		return w->err;
	}
	fd = snapshot_dir_new_file(dir, NEW_STATE);
	if (fd < 0)
		return fd;
	ret = snapshot_dir_write(dir, NEW_STATE, fd, w->buf, w->len, 0);
	if (!ret)
		ret = snapshot_dir_sync(dir, NEW_STATE, fd);
	close(fd);
	if (ret)
		unlinkat(dir->fd, NEW_STATE, 0);
	return ret;
}
