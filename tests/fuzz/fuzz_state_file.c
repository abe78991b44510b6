/* SPDX-License-Identifier: MIT */
/*
 * The reader of a snapshot's `state`, and of its sections SNAP and MEMO. A first byte that is odd
 * has the CRCs and the file's length made right, so that what lies behind them is reached.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "vm/crc32.h"
#include "vm/log.h"
#include "vm/memory_file.h"
#include "vm/snapshot_ident.h"
#include "vm/state_reader.h"

static void seal(uint8_t *buf, size_t len)
{
	size_t at = STATE_FILE_HEADER, end = len - STATE_FILE_END;
	uint64_t payload;
	uint32_t crc;

	state_file_store(buf + STATE_FILE_AT_LENGTH, len, 8);
	while (end - at >= STATE_FILE_SECTION) {
		payload = state_file_load(buf + at + STATE_FILE_AT_SECLEN, 8);
		if (payload > end - at - STATE_FILE_SECTION)
			break;
		crc = crc32(0, buf + at, STATE_FILE_AT_SECCRC);
		crc = crc32(crc, buf + at + STATE_FILE_SECTION, payload);
		state_file_store(buf + at + STATE_FILE_AT_SECCRC, crc, 4);
		at += STATE_FILE_SECTION + payload;
	}
	state_file_store(buf + end, STATE_TAG_END, 4);
	state_file_store(buf + len - 4, crc32(0, buf, len - 4), 4);
}

/* What the headers promise of the values that get through. */
static void check_layout(const struct memory_file_layout *l)
{
	uint64_t gpa = 0, offset = 0;

	if (!l->nr || l->nr > MEMORY_FILE_MAX_REGIONS || l->data_size > INT64_MAX)
		abort();
	for (unsigned int i = 0; i < l->nr; i++) {
		const struct memory_file_region *r = &l->region[i];

		if (!r->size || r->gpa < gpa || r->gpa + r->size < r->gpa || r->offset < offset ||
		    r->offset + r->size > l->data_size || r->offset % MEMORY_FILE_ALIGN || r->hva)
			abort();
		gpa = r->gpa + r->size;
		offset = r->offset + r->size;
	}
}

/* Any getters, by the input's own bytes: nothing of it reads beyond the section. */
static void read_section(struct state_section *s, const uint8_t *how, size_t nr)
{
	char text[32];
	const uint8_t *p;
	size_t len;
	uint8_t sum = 0;

	for (size_t i = 0; i < nr && i < 64; i++) {
		switch (how[i] % 9) {
		case 0:
			sum += state_reader_bool(s);
			break;
		case 1:
			sum += state_reader_u8(s);
			break;
		case 2:
			sum += state_reader_u16(s);
			break;
		case 3:
			sum += state_reader_u32(s);
			break;
		case 4:
			sum += state_reader_u64(s);
			break;
		case 5:
			state_reader_string(s, text, how[i] % sizeof(text) + 1);
			if (s->err && *text)
				abort();
			break;
		case 6:
			p = state_reader_blob(s, how[i] & 16 ? SIZE_MAX : 100, &len);
			for (size_t k = 0; k < len; k++)
				sum += p[k];
			break;
		case 7:
			len = state_reader_number(s, 1000, 3);
			if (len > 1000 || len * 3 > s->len - s->at)
				abort();
			break;
		case 8:
			state_reader_bytes(s, text, how[i] % sizeof(text));
			break;
		}
		if (s->at > s->len)
			abort();
	}
	state_reader_section_end(s);
	(void)*(volatile uint8_t *)&sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct state_want want[] = {
		{ STATE_TAG_SNAPSHOT, 1, 1, 1 },
		{ STATE_TAG_MEMORY, 1, 1, 1 },
		{ STATE_TAG('V', 'C', 'P', 'U'), 2, 1, 3 },
	};
	struct memory_file_layout layout;
	struct snapshot_ident ident;
	struct state_section s;
	struct state_reader r;
	uint8_t *copy;

	log_set_fd(-1, false);
	if (!size || !(copy = malloc(size)))
		return 0;
	memcpy(copy, data + 1, --size);
	if (data[0] & 1 && size >= STATE_FILE_HEADER + STATE_FILE_END)
		seal(copy, size);
	if (!state_reader_open_memory(&r, "fuzz", copy, size, data[0] & 2 ? "x86_64" : NULL)) {
		state_reader_expect(&r, want, 3);
		if (!snapshot_ident_get(&ident, &r) && ident.diff && !ident.generation)
			abort();
		if (!memory_file_layout_get(&layout, &r))
			check_layout(&layout);
		for (uint32_t i = 0; state_reader_at(&r, &s, i); i++)
			read_section(&s, copy, size);
		state_reader_end(&r);
		state_reader_close(&r);
	} else if (r.buf || r.entry) {
		abort();
	}
	free(copy);
	return 0;
}
