/* SPDX-License-Identifier: MIT */
#include "vm/state_reader.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "vm/crc32.h"
#include "vm/log.h"
#include "vm/snapshot_dir.h"

struct state_entry {
	uint32_t tag;
	uint32_t instance;
	uint32_t version;
	size_t payload; /* where in the file */
	size_t len;
	bool taken;
};

/* Logs "snapshot DIR/state: ERRNO: ..." and returns @err. */
__attribute__((format(printf, 3, 4))) static int refuse(const struct state_reader *r, int err,
							 const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	log_err("snapshot %s/" SNAPSHOT_STATE ": %s: %s", r->dir, errno_name(err), text);
	return err;
}

#define DAMAGED ": the file is damaged, take another copy"
#define ANOTHER ": it takes the vinit that wrote it, or a newer one"

/* "VCPU 3"; a damaged tag must not put control characters into a log. */
struct section_name {
	char s[24];
};

static struct section_name name_of(uint32_t tag, uint32_t instance)
{
	struct section_name name;
	char letters[5] = "";

	for (unsigned int i = 0; i < 4; i++) {
		char c = tag >> 8 * i & 0xff;

		letters[i] = c > ' ' && c < 0x7f ? c : '?';
	}
	snprintf(name.s, sizeof(name.s), "%s %" PRIu32, letters, instance);
	return name;
}

/* The header. What else it says is held against the file's real length first. */
static int check_header(struct state_reader *r, const char *arch)
{
	const char *have = (const char *)r->buf + STATE_FILE_AT_ARCH;
	uint64_t version, length;

	if (r->len < STATE_FILE_HEADER + STATE_FILE_END)
		return refuse(r, -EBADMSG, "%zu bytes are too few%s", r->len, DAMAGED);
	if (memcmp(r->buf, STATE_FILE_MAGIC, STATE_FILE_MAGIC_LEN))
		return refuse(r, -EBADMSG, "it does not begin with \"%s\": it is no state of vinit's, "
			      "or damaged", STATE_FILE_MAGIC);
	version = state_file_load(r->buf + STATE_FILE_AT_VERSION, 4);
	if (version != STATE_FILE_VERSION)
		return refuse(r, -EOPNOTSUPP, "it has version %" PRIu64 ", expected %u%s", version,
			      STATE_FILE_VERSION, ANOTHER);
	length = state_file_load(r->buf + STATE_FILE_AT_LENGTH, 8);
	if (length != r->len)
		return refuse(r, -EBADMSG, "it has %zu bytes, its header says %" PRIu64 "%s", r->len,
			      length, DAMAGED);
	/* Zeros to the end: a name has one form. */
	for (unsigned int i = 0, ended = 0; i < STATE_FILE_ARCH_LEN; i++) {
		ended |= !have[i];
		if ((ended && have[i]) || have[0] == '\0' || (!ended && i == STATE_FILE_ARCH_LEN - 1) ||
		    (!ended && (have[i] <= ' ' || have[i] >= 0x7f)))
			return refuse(r, -EBADMSG, "no architecture's name is at byte %u%s",
				      STATE_FILE_AT_ARCH, DAMAGED);
	}
	memcpy(r->arch, have, STATE_FILE_ARCH_LEN);
	if (arch && strcmp(r->arch, arch))
		return refuse(r, -EOPNOTSUPP, "it is of a guest of %s, this machine is %s", r->arch,
			      arch);
	r->nr = state_file_load(r->buf + STATE_FILE_AT_SECTIONS, 4);
	if (r->nr > STATE_FILE_MAX_SECTIONS)
		return refuse(r, -EBADMSG, "%" PRIu32 " sections, no file has more than %u%s", r->nr,
			      STATE_FILE_MAX_SECTIONS, DAMAGED);
	return 0;
}

/* The head at *@at and its payload, which are not to reach beyond @end. */
static int check_section(const struct state_reader *r, struct state_entry *e, size_t *at,
			 size_t end)
{
	const uint8_t *head = r->buf + *at;
	uint32_t crc, want;
	uint64_t len;

	if (end - *at < STATE_FILE_SECTION)
		return refuse(r, -EBADMSG, "it ends at byte %zu, where a section is to begin%s",
			      *at, DAMAGED);
	e->tag = state_file_load(head + STATE_FILE_AT_TAG, 4);
	e->instance = state_file_load(head + STATE_FILE_AT_INSTANCE, 4);
	e->version = state_file_load(head + STATE_FILE_AT_SECVER, 4);
	len = state_file_load(head + STATE_FILE_AT_SECLEN, 8);
	if (len > end - *at - STATE_FILE_SECTION)
		return refuse(r, -EBADMSG, "section %s: %" PRIu64 " bytes long, of which the file has %zu%s",
			      name_of(e->tag, e->instance).s, len, end - *at - STATE_FILE_SECTION,
			      DAMAGED);
	e->payload = *at + STATE_FILE_SECTION;
	e->len = len;
	want = state_file_load(head + STATE_FILE_AT_SECCRC, 4);
	crc = crc32(0, head, STATE_FILE_AT_SECCRC);
	crc = crc32(crc, r->buf + e->payload, e->len);
	if (crc != want)
		return refuse(r, -EBADMSG, "section %s: its CRC-32 is %#" PRIx32 ", expected %#" PRIx32 "%s",
			      name_of(e->tag, e->instance).s, crc, want, DAMAGED);
	for (const struct state_entry *old = r->entry; old < e; old++) {
		if (old->tag == e->tag && old->instance == e->instance)
			return refuse(r, -EBADMSG, "section %s is there twice",
				      name_of(e->tag, e->instance).s);
	}
	*at = e->payload + e->len;
	return 0;
}

static int check(struct state_reader *r, const char *arch)
{
	size_t at = STATE_FILE_HEADER, end;
	uint32_t crc, want;
	int ret;

	ret = check_header(r, arch);
	if (ret)
		return ret;
	r->entry = calloc(r->nr ? r->nr : 1, sizeof(*r->entry));
	if (!r->entry)
		return refuse(r, -ENOMEM, "%" PRIu32 " sections", r->nr);
	end = r->len - STATE_FILE_END;
	for (uint32_t i = 0; i < r->nr; i++) {
		ret = check_section(r, &r->entry[i], &at, end);
		if (ret)
			return ret;
	}
	if (at != end)
		return refuse(r, -EBADMSG, "%zu bytes between the last of its %" PRIu32 " sections and its end%s",
			      end - at, r->nr, DAMAGED);
	if (state_file_load(r->buf + end, 4) != STATE_TAG_END)
		return refuse(r, -EBADMSG, "no end mark at byte %zu%s", end, DAMAGED);
	want = state_file_load(r->buf + end + 4, 4);
	crc = crc32(0, r->buf, end + 4);
	if (crc != want)
		return refuse(r, -EBADMSG, "its CRC-32 is %#" PRIx32 ", expected %#" PRIx32 "%s", crc,
			      want, DAMAGED);
	return 0;
}

int state_reader_open_memory(struct state_reader *r, const char *dir, const void *buf, size_t len,
			     const char *arch)
{
	int ret;

	memset(r, 0, sizeof(*r));
	r->dir = dir;
	r->buf = malloc(len ? len : 1);
	if (!r->buf)
		return refuse(r, -ENOMEM, "%zu bytes", len);
	if (len)
		memcpy(r->buf, buf, len);
	r->len = len;
	ret = check(r, arch);
	if (ret)
		state_reader_close(r);
	return ret;
}

int state_reader_open(struct state_reader *r, const struct snapshot_dir *dir, const char *arch)
{
	uint64_t size;
	int fd, ret;

	memset(r, 0, sizeof(*r));
	r->dir = dir->path;
	fd = snapshot_dir_open_file(dir, SNAPSHOT_STATE, O_RDONLY, &size);
	if (fd < 0)
		return fd;
	if (size > STATE_FILE_MAX) {
		close(fd);
		return refuse(r, -EBADMSG, "%" PRIu64 " bytes, no file has more than %u", size,
			      STATE_FILE_MAX);
	}
	r->buf = malloc(size ? size : 1);
	if (!r->buf) {
		close(fd);
		return refuse(r, -ENOMEM, "%" PRIu64 " bytes", size);
	}
	r->len = size;
	/* Once: what is checked and what is used are the same bytes, whoever writes the file. */
	ret = snapshot_dir_read(dir, SNAPSHOT_STATE, fd, r->buf, size, 0);
	close(fd);
	if (!ret)
		ret = check(r, arch);
	if (ret)
		state_reader_close(r);
	return ret;
}

void state_reader_close(struct state_reader *r)
{
	free(r->entry);
	free(r->buf);
	memset(r, 0, sizeof(*r));
}

uint32_t state_reader_count(const struct state_reader *r, uint32_t tag)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < r->nr; i++)
		count += r->entry[i].tag == tag;
	return count;
}

static struct state_entry *find(const struct state_reader *r, uint32_t tag, uint32_t instance)
{
	for (uint32_t i = 0; i < r->nr; i++) {
		if (r->entry[i].tag == tag && r->entry[i].instance == instance)
			return &r->entry[i];
	}
	return NULL;
}

/* A section that is there: is it one of those that are wanted? */
static int check_wanted(const struct state_reader *r, const struct state_entry *e,
			const struct state_want *want, unsigned int nr)
{
	struct section_name name = name_of(e->tag, e->instance);

	while (nr && want->tag != e->tag) {
		want++;
		nr--;
	}
	if (!nr)
		return refuse(r, -EOPNOTSUPP, "section %s is unknown%s", name.s, ANOTHER);
	if (e->instance >= want->count)
		return refuse(r, -EOPNOTSUPP, "section %s is too many: %" PRIu32 " of that tag expected, found %"
			      PRIu32, name.s, want->count, state_reader_count(r, e->tag));
	if (e->version < want->oldest || e->version > want->newest)
		return refuse(r, -EOPNOTSUPP, "section %s: it has version %" PRIu32 ", expected %" PRIu32
			      " to %" PRIu32 "%s", name.s, e->version, want->oldest, want->newest,
			      ANOTHER);
	return 0;
}

int state_reader_expect(const struct state_reader *r, const struct state_want *want,
			unsigned int nr)
{
	int ret;

	for (uint32_t i = 0; i < r->nr; i++) {
		ret = check_wanted(r, &r->entry[i], want, nr);
		if (ret)
			return ret;
	}
	for (; nr; nr--, want++) {
		/* No instance is too large or twice: so a lack is one of number. */
		if (state_reader_count(r, want->tag) == want->count)
			continue;
		for (uint32_t i = 0; i < want->count; i++) {
			if (!find(r, want->tag, i))
				return refuse(r, -EBADMSG, "section %s is missing: %" PRIu32
					      " of that tag expected, found %" PRIu32,
					      name_of(want->tag, i).s, want->count,
					      state_reader_count(r, want->tag));
		}
	}
	return 0;
}

bool state_reader_at(const struct state_reader *r, struct state_section *s, uint32_t index)
{
	const struct state_entry *e;

	if (index >= r->nr)
		return false;
	e = &r->entry[index];
	*s = (struct state_section){
		.reader = r,
		.tag = e->tag,
		.instance = e->instance,
		.version = e->version,
		.payload = r->buf + e->payload,
		.len = e->len,
	};
	return true;
}

int state_reader_section(const struct state_reader *r, struct state_section *s, uint32_t tag,
			 uint32_t instance)
{
	const struct state_entry *e = find(r, tag, instance);

	if (!e) {
		*s = (struct state_section){ .reader = r, .tag = tag, .instance = instance };
		s->err = refuse(r, -EBADMSG, "section %s is missing", name_of(tag, instance).s);
		return s->err;
	}
	state_reader_at(r, s, e - r->entry);
	return 0;
}

int state_reader_bad(struct state_section *s, const char *fmt, ...)
{
	char text[192];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	s->err = refuse(s->reader, -EBADMSG, "section %s: %s", name_of(s->tag, s->instance).s, text);
	return s->err;
}

/* The next @len bytes, or NULL and an error that sticks. */
static const uint8_t *take(struct state_section *s, size_t len)
{
	const uint8_t *p;

	if (s->err)
		return NULL;
	if (len > s->len - s->at) {
		state_reader_bad(s, "%zu bytes expected at byte %zu, found %zu", len, s->at,
				 s->len - s->at);
		return NULL;
	}
	p = s->payload + s->at;
	s->at += len;
	return p;
}

static uint64_t number(struct state_section *s, unsigned int bytes)
{
	const uint8_t *p = take(s, bytes);

	return p ? state_file_load(p, bytes) : 0;
}

bool state_reader_bool(struct state_section *s)
{
	uint64_t value = number(s, 1);

	if (value > 1)
		state_reader_bad(s, "0 or 1 expected at byte %zu, found %" PRIu64, s->at - 1, value);
	return value == 1;
}

uint8_t state_reader_u8(struct state_section *s)
{
	return number(s, 1);
}

uint16_t state_reader_u16(struct state_section *s)
{
	return number(s, 2);
}

uint32_t state_reader_u32(struct state_section *s)
{
	return number(s, 4);
}

uint64_t state_reader_u64(struct state_section *s)
{
	return number(s, 8);
}

uint32_t state_reader_number(struct state_section *s, uint32_t max, size_t size)
{
	uint32_t nr = number(s, 4);

	if (s->err)
		return 0;
	if (nr > max || nr > (s->len - s->at) / (size ? size : 1)) {
		state_reader_bad(s, "%" PRIu32 " entries at byte %zu, at most %" PRIu32
				 " of %zu bytes expected, in the %zu that follow", nr, s->at - 4, max,
				 size, s->len - s->at);
		return 0;
	}
	return nr;
}

void state_reader_bytes(struct state_section *s, void *buf, size_t len)
{
	const uint8_t *p = take(s, len);

	if (!len)
		return;
	if (p)
		memcpy(buf, p, len);
	else
		memset(buf, 0, len);
}

const uint8_t *state_reader_blob(struct state_section *s, size_t max, size_t *len)
{
	uint32_t nr = state_reader_number(s, max < UINT32_MAX ? max : UINT32_MAX, 1);

	*len = 0;
	if (s->err)
		return NULL;
	*len = nr;
	return take(s, nr);
}

void state_reader_string(struct state_section *s, char *buf, size_t size)
{
	const uint8_t *p;
	size_t len;

	buf[0] = '\0';
	p = state_reader_blob(s, size - 1, &len);
	if (!p)
		return;
	if (memchr(p, 0, len)) {
		state_reader_bad(s, "a NUL in the string that ends at byte %zu", s->at);
		return;
	}
	memcpy(buf, p, len);
	buf[len] = '\0';
}

int state_reader_section_end(struct state_section *s)
{
	if (!s->err && s->at != s->len)
		state_reader_bad(s, "%zu bytes long, expected %zu", s->len, s->at);
	if (!s->err)
		find(s->reader, s->tag, s->instance)->taken = true;
	return s->err;
}

int state_reader_end(const struct state_reader *r)
{
	for (uint32_t i = 0; i < r->nr; i++) {
		if (!r->entry[i].taken)
			return refuse(r, -EOPNOTSUPP, "section %s was not expected here%s",
				      name_of(r->entry[i].tag, r->entry[i].instance).s, ANOTHER);
	}
	return 0;
}
