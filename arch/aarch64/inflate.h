/* SPDX-License-Identifier: MIT */
/*
 * One gzip member (RFC 1952), unpacked (RFC 1951) straight to where it belongs.
 *
 * The compressed bytes come in pieces through a callback, and what was unpacked already is the
 * window for what follows: nothing is allocated, some 23 KiB of stack are used.
 */
#ifndef ARCH_AARCH64_INFLATE_H
#define ARCH_AARCH64_INFLATE_H

#include <stddef.h>
#include <stdint.h>

struct inflate_source {
	uint64_t size; /* bytes in all */
	/* Reads all of [@offset, @offset + @len), which lies below size. 0 or -errno. */
	int (*read)(void *arg, uint64_t offset, void *buf, size_t len);
	void *arg;
};

struct inflate_result {
	uint64_t in;  /* bytes taken from the source, the end of the member after success */
	uint64_t out; /* bytes unpacked, all of them right as far as the stream tells */
	const char *why; /* what is wrong with the data; NULL: nothing, or read() failed */
};

/*
 * Unpacks the member at the start of @source into the @max bytes at @out, which nobody else may
 * write meanwhile, and checks its CRC-32 and ISIZE. What follows the member is not looked at.
 *
 * 0 or -errno: -EBADMSG: not gzip, or damaged; -ENODATA: it ends too early; -ENOBUFS: it unpacks to
 * more than @max bytes, of which all @max are there; else what @source->read returned. @result is
 * filled in always. Logs nothing.
 */
int inflate_gzip(const struct inflate_source *source, uint8_t *out, uint64_t max,
		 struct inflate_result *result);

#endif
