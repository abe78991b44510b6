/* SPDX-License-Identifier: MIT */
/*
 * The gzip inflater on arbitrary data. Byte 0 chooses the room, and whether the rest is a whole
 * gzip file or a bare deflate stream that gets a header and its right trailer here, so that the
 * mutations needn't find a CRC. The same data with less room must give the same bytes.
 */
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "arch/aarch64/inflate.h"
#include "tests/crc32.h"

#define HEADER	10
#define TRAILER 8

enum { BARE = 0x80 };

struct input {
	const uint8_t *data;
	uint64_t size;
	uint64_t next;
};

static void must(bool cond)
{
	if (!cond)
		__builtin_trap();
}

static int read_in(void *arg, uint64_t offset, void *buf, size_t len)
{
	struct input *in = arg;

	must(len && offset == in->next && offset <= in->size && len <= in->size - offset);
	memcpy(buf, in->data + offset, len);
	in->next = offset + len;
	return 0;
}

static int run(const uint8_t *data, size_t size, uint8_t *out, size_t max,
	       struct inflate_result *result)
{
	struct input in = { .data = data, .size = size };
	struct inflate_source source = { .size = size, .read = read_in, .arg = &in };
	int err = inflate_gzip(&source, out, max, result);

	must(!err || err == -EBADMSG || err == -ENODATA || err == -ENOBUFS);
	must(result->in <= size && result->out <= max && !err == !result->why);
	must(err != -ENOBUFS || result->out == max);
	return err;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t header[HEADER] = { 0x1f, 0x8b, 8 };
	struct inflate_result result, less;
	uint8_t *file, *out, *part;
	size_t max, len;
	int err;

	if (!size)
		return 0;
	max = (size_t)64 << data[0] % 11;
	out = malloc(max);
	if (data[0] & BARE) {
		file = calloc(1, HEADER + size - 1 + TRAILER);
		memcpy(file, header, HEADER);
		memcpy(file + HEADER, data + 1, size - 1);
		len = HEADER + size - 1 + TRAILER;
		err = run(file, len, out, max, &result);
		/* It got as far as the trailer: now the right one. */
		if (err == -EBADMSG && result.in >= HEADER + TRAILER &&
		    (strstr(result.why, "ISIZE") || strstr(result.why, "CRC-32"))) {
			uint32_t trailer[2] = { crc32_of(out, result.out), result.out };

			memcpy(file + result.in - TRAILER, trailer, TRAILER);
			err = run(file, len, out, max, &less);
			must(!err && less.in == result.in && less.out == result.out);
		}
	} else {
		len = size - 1;
		file = malloc(len);
		memcpy(file, data + 1, len);
		err = run(file, len, out, max, &result);
	}
	if (!err)
		must(crc32_of(out, result.out) ==
		     (file[result.in - 8] | file[result.in - 7] << 8 | file[result.in - 6] << 16 |
		      (uint32_t)file[result.in - 5] << 24));
	if (result.out) {
		max = result.out - 1;
		part = malloc(max);
		must(run(file, len, part, max, &less) == -ENOBUFS);
		must(!max || !memcmp(part, out, max));
		free(part);
	}
	free(file);
	free(out);
	return 0;
}
