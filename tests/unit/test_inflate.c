/* SPDX-License-Identifier: MIT */
/* The gzip inflater against streams written bit by bit here, gzip(1)'s own, and damaged ones. */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>
#include "arch/aarch64/inflate.h"
#include "tests/crc32.h"
#include "tests/unit/test.h"

/* A stream that is being written. */
static struct {
	uint8_t data[1 << 18];
	size_t len;
	uint64_t hold;
	unsigned int held;
} w;

static void put(uint32_t value, unsigned int bits)
{
	w.hold |= (uint64_t)value << w.held;
	for (w.held += bits; w.held >= 8; w.held -= 8, w.hold >>= 8)
		w.data[w.len++] = w.hold;
}

static void put_align(void)
{
	if (w.held)
		put(0, 8 - w.held);
}

/* A Huffman code goes highest bit first. */
static void put_code(uint32_t code, unsigned int bits)
{
	while (bits--)
		put(code >> bits & 1, 1);
}

static void begin(uint8_t flags)
{
	const uint8_t head[] = { 0x1f, 0x8b, 8, flags, 1, 2, 3, 4, 0, 3 };

	memset(&w, 0, sizeof(w));
	for (unsigned int i = 0; i < sizeof(head); i++)
		put(head[i], 8);
}

static void end(const void *expect, size_t len)
{
	put_align();
	put(crc32_of(expect, len), 32);
	put(len, 32);
}

/* Reads in pieces, checks what the inflater asks for. */
static struct {
	const uint8_t *data;
	uint64_t size;
	uint64_t fail_at; /* -EIO from there on */
	uint64_t next;
} in;

static int read_in(void *arg, uint64_t offset, void *buf, size_t len)
{
	CHECK(arg == &in);
	CHECK(len && offset <= in.size && len <= in.size - offset);
	CHECK_EQ(offset, in.next); /* each byte once, in order */
	if (offset + len > in.fail_at)
		return -EIO;
	memcpy(buf, in.data + offset, len);
	in.next = offset + len;
	return 0;
}

static struct inflate_result res;
static uint8_t *out; /* exactly as long as max, so that ASan sees one byte too many */

static int inflate(const void *data, size_t size, size_t max)
{
	struct inflate_source source = { .size = size, .read = read_in, .arg = &in };
	int err;

	in.data = data;
	in.size = size;
	in.next = 0;
	in.fail_at = UINT64_MAX;
	free(out);
	out = malloc(max);
	memset(&res, 0xee, sizeof(res));
	err = inflate_gzip(&source, out, max, &res);
	CHECK(res.out <= max && res.in <= size);
	CHECK(!err || (res.why != NULL) == (err == -EBADMSG || err == -ENODATA || err == -ENOBUFS));
	return err;
}

/* All of w, into room for @max. */
static int unpack(size_t max)
{
	return inflate(w.data, w.len, max);
}

static void check_good(const void *expect, size_t len)
{
	CHECK_EQ(unpack(len), 0);
	CHECK_EQ(res.out, len);
	CHECK_EQ(res.in, w.len);
	CHECK(!len || !memcmp(out, expect, len));
}

static void check_bad(size_t max, const char *why)
{
	CHECK_EQ(unpack(max), -EBADMSG);
	CHECK(res.why && strstr(res.why, why));
	if (res.why && !strstr(res.why, why))
		printf("  \"%s\" is not about \"%s\"\n", res.why, why);
}

static void put_stored(const void *data, uint16_t len, bool last)
{
	const uint8_t *p = data;

	put(last, 1);
	put(0, 2);
	put_align();
	put(len, 16);
	put((uint16_t)~len, 16);
	for (unsigned int i = 0; i < len; i++)
		put(p[i], 8);
}

/* RFC 1951, 3.2.6 */
static void put_fixed(unsigned int symbol)
{
	if (symbol < 144)
		put_code(0x30 + symbol, 8);
	else if (symbol < 256)
		put_code(0x190 + symbol - 144, 9);
	else if (symbol < 280)
		put_code(symbol - 256, 7);
	else
		put_code(0xc0 + symbol - 280, 8);
}

/* Codes by their lengths, RFC 1951, 3.2.2. */
struct codes {
	uint8_t len[288];
	uint16_t code[288];
};

static void codes_make(struct codes *c)
{
	unsigned int code = 0;

	for (unsigned int len = 1; len <= 15; len++, code <<= 1)
		for (unsigned int s = 0; s < 288; s++)
			if (c->len[s] == len)
				c->code[s] = code++;
}

static void put_symbol(const struct codes *c, unsigned int symbol)
{
	put_code(c->code[symbol], c->len[symbol]);
}

/* The head of a dynamic block, with 4 bits for each code length and none for repetitions. */
static void put_dynamic(const struct codes *lit, unsigned int nr_lit, const struct codes *dist,
			unsigned int nr_dist)
{
	put(1, 1);
	put(2, 2);
	put(nr_lit - 257, 5);
	put(nr_dist - 1, 5);
	put(19 - 4, 4);
	for (unsigned int i = 0; i < 19; i++)
		put(i < 3 ? 0 : 4, 3); /* 16, 17, 18 come first */
	for (unsigned int i = 0; i < nr_lit; i++)
		put_code(lit->len[i], 4);
	for (unsigned int i = 0; i < nr_dist; i++)
		put_code(dist->len[i], 4);
}

static uint8_t noise(uint64_t i)
{
	i = (i + 1) * 0x9e3779b97f4a7c15ull;
	return i >> 56 ^ i >> 24;
}

static void stored(void)
{
	static uint8_t data[65535];

	for (unsigned int i = 0; i < sizeof(data); i++)
		data[i] = noise(i);
	begin(0);
	put_stored("", 0, true);
	end("", 0);
	check_good("", 0);
	begin(0);
	put_stored("hello ", 6, false);
	put_stored("", 0, false);
	put_stored("world", 5, true);
	end("hello world", 11);
	check_good("hello world", 11);
	CHECK_EQ(unpack(10), -ENOBUFS);
	CHECK_EQ(res.out, 10);
	CHECK(!memcmp(out, "hello worl", 10));
	/* Longer than the input's pieces. */
	begin(0);
	put_stored(data, sizeof(data), false);
	put_stored(data, sizeof(data), true);
	{
		uint8_t *both = malloc(2 * sizeof(data));

		memcpy(both, data, sizeof(data));
		memcpy(both + sizeof(data), data, sizeof(data));
		end(both, 2 * sizeof(data));
		check_good(both, 2 * sizeof(data));
		for (size_t max = 0; max < 2 * sizeof(data); max += 7919) {
			CHECK_EQ(unpack(max), -ENOBUFS);
			CHECK_EQ(res.out, max);
			CHECK(!max || !memcmp(out, both, max));
		}
		free(both);
	}
}

static void fixed(void)
{
	uint8_t expect[300];

	/* All literals, then 20 bytes from 256 back: length symbol 269 (19 to 22), distance 15. */
	begin(0);
	put(1, 1);
	put(1, 2);
	for (unsigned int i = 0; i < 256; i++) {
		put_fixed(i);
		expect[i] = i;
	}
	put_fixed(269);
	put(1, 2);
	put_code(15, 5);
	put(63, 6);
	memcpy(expect + 256, expect, 20);
	put_fixed(256);
	end(expect, 276);
	check_good(expect, 276);
	/* A length that doesn't fit is cut, not lost. */
	CHECK_EQ(unpack(260), -ENOBUFS);
	CHECK_EQ(res.out, 260);
	CHECK(!memcmp(out, expect, 260));
}

/* Every length and distance symbol with its least and its most extra bits. */
static void spans(void)
{
	static uint8_t expect[1 << 17];
	/* RFC 1951, 3.2.5, told another way. */
	unsigned int symbol, extra, len, d, i;
	size_t n = 0;

	for (unsigned int turn = 0; turn < 2; turn++) {
		begin(0);
		n = 0;
		for (i = 0; i < 32768; i++)
			expect[n++] = noise(i);
		put_stored(expect, 32768, false);
		put(1, 1);
		put(1, 2);
		len = 3;
		d = 1;
		for (symbol = 257; symbol < 286; symbol++) {
			unsigned int dist = symbol - 256; /* 1 to 29 */
			unsigned int dist_extra = dist < 4 ? 0 : dist / 2 - 1;
			unsigned int base = 1, more, length;

			extra = symbol < 265 || symbol == 285 ? 0 : (symbol - 261) / 4;
			length = symbol == 285 ? 258 : len;
			more = turn ? (1u << extra) - 1 : 0;
			put_fixed(symbol);
			put(more, extra);
			for (i = 0; i < dist; i++)
				base += 1u << (i < 4 ? 0 : i / 2 - 1);
			put_code(dist, 5);
			d = base + (turn ? (1u << dist_extra) - 1 : 0);
			put(d - base, dist_extra);
			for (i = 0; i < length + more; i++, n++)
				expect[n] = expect[n - d];
			len += 1u << extra;
		}
		CHECK_EQ(d, turn ? 32768 : 24577);
		/* And the shortest distance, which is none of the above. */
		put_fixed(285);
		put_code(0, 5);
		for (i = 0; i < 258; i++, n++)
			expect[n] = expect[n - 1];
		put_fixed(256);
		end(expect, n);
		check_good(expect, n);
	}
}

/* Codes of 1 to 15 bits: the short ones are looked up, the long ones searched. */
static void dynamic(void)
{
	struct codes lit = { 0 }, dist = { 0 };
	uint8_t expect[1000];
	size_t n = 0;

	for (unsigned int i = 0; i < 14; i++)
		lit.len[i * 17] = i + 1;
	lit.len[250] = 15;
	lit.len[256] = 15;
	codes_make(&lit);
	begin(0);
	put_dynamic(&lit, 257, &dist, 1);
	for (unsigned int i = 0; i < 300; i++) {
		unsigned int s = i % 15 < 14 ? i % 15 * 17 : 250;

		put_symbol(&lit, s);
		expect[n++] = s;
	}
	put_symbol(&lit, 256);
	end(expect, n);
	check_good(expect, n);

	/* One distance of one bit is no whole set of codes, and good all the same. */
	memset(&lit, 0, sizeof(lit));
	lit.len['x'] = 2;
	lit.len[256] = 2;
	lit.len[257] = 1;
	dist.len[2] = 1;
	codes_make(&lit);
	codes_make(&dist);
	begin(0);
	put_dynamic(&lit, 258, &dist, 3);
	for (unsigned int i = 0; i < 3; i++)
		put_symbol(&lit, 'x');
	put_symbol(&lit, 257);
	put_symbol(&dist, 2);
	put_symbol(&lit, 256);
	end("xxxxxx", 6);
	check_good("xxxxxx", 6);
	/* The other half of its space stands for nothing. */
	begin(0);
	put_dynamic(&lit, 258, &dist, 3);
	for (unsigned int i = 0; i < 3; i++)
		put_symbol(&lit, 'x');
	put_symbol(&lit, 257);
	put(1, 1);
	put(0, 32);
	check_bad(6, "no such code");
	/* No distance at all, and one used. */
	memset(&dist, 0, sizeof(dist));
	begin(0);
	put_dynamic(&lit, 258, &dist, 1);
	for (unsigned int i = 0; i < 3; i++)
		put_symbol(&lit, 'x');
	put_symbol(&lit, 257);
	put(0, 32);
	check_bad(6, "no such code");
	/* Nothing but the end. */
	memset(&lit, 0, sizeof(lit));
	lit.len[256] = 1;
	codes_make(&lit);
	begin(0);
	put_dynamic(&lit, 257, &dist, 1);
	put_symbol(&lit, 256);
	end("", 0);
	check_good("", 0);
}

/* One stream a lie. */
static void lies(void)
{
	struct codes lit = { 0 }, dist = { 0 };
	unsigned int i;

	begin(0);
	put(1, 1);
	put(3, 2);
	put(0, 32);
	check_bad(10, "type of block");
	begin(0);
	put_stored("hello", 5, true);
	w.data[13] ^= 1;
	check_bad(10, "NLEN");

	/* Fixed codes that stand for nothing, and distances that reach too far. */
	for (i = 286; i < 288; i++) {
		begin(0);
		put(3, 3);
		put_fixed('a');
		put_fixed(i);
		put(0, 32);
		check_bad(10, "no such length");
	}
	for (i = 30; i < 32; i++) {
		begin(0);
		put(3, 3);
		put_fixed('a');
		put_fixed(257);
		put_code(i, 5);
		put(0, 32);
		check_bad(10, "no such distance");
	}
	for (i = 0; i < 30; i++) {
		begin(0);
		put(3, 3);
		if (i) /* symbol 0 is distance 1: too far at the start only */
			put_fixed('a');
		put_fixed(257);
		put_code(i, 5);
		put(0, 32);
		check_bad(10, "before the start");
	}

	for (i = 0; i < 4; i++) {
		begin(0);
		put(5, 3);
		put(i & 1 ? 31 : 30, 5); /* 288, 287 */
		put(i & 2 ? 31 : 0, 5);
		put(0, 32);
		check_bad(10, "too many codes");
	}
	begin(0);
	put(5, 3);
	put(0, 5);
	put(31, 5); /* 32 */
	for (i = 0; i < 10; i++)
		put(0, 8);
	check_bad(10, "too many codes");

	/* Codes of code lengths: none, two of three bits, and three of one bit. */
	for (i = 0; i < 3; i++) {
		begin(0);
		put(5, 3);
		put(0, 10);
		put(0, 4);
		for (unsigned int n = 0; n < 4; n++)
			put(i == 0 ? 0 : i == 1 ? (n < 2) * 3 : n < 3, 3);
		put(0, 32);
		check_bad(10, "their own codes");
	}
	/* 16 with nothing before it; 18s over the end. Order: 16, 17, 18, 0. */
	for (i = 0; i < 2; i++) {
		begin(0);
		put(5, 3);
		put(0, 10);
		put(0, 4);
		put(1, 3);
		put(0, 3);
		put(1, 3);
		put(0, 3);
		if (i)
			put(0xff, 8), put(0xff, 8), put(0xff, 8); /* 18, 138 each */
		put(0, 32);
		check_bad(10, i ? "more than were announced" : "nothing to repeat");
	}

	begin(0);
	lit.len['a'] = lit.len['b'] = 1;
	put_dynamic(&lit, 257, &dist, 1);
	put(0, 32);
	check_bad(10, "end of the block");
	lit.len[256] = 1; /* three of one bit */
	begin(0);
	put_dynamic(&lit, 257, &dist, 1);
	put(0, 32);
	check_bad(10, "literals and lengths make no whole");
	lit.len['b'] = 0;
	lit.len[256] = 2; /* a quarter is left */
	begin(0);
	put_dynamic(&lit, 257, &dist, 1);
	put(0, 32);
	check_bad(10, "literals and lengths make no whole");
	lit.len[256] = 1;
	dist.len[0] = 2; /* one, of two bits */
	begin(0);
	put_dynamic(&lit, 257, &dist, 1);
	put(0, 32);
	check_bad(10, "distances make no whole");
	dist.len[0] = dist.len[1] = dist.len[2] = 1;
	begin(0);
	put_dynamic(&lit, 257, &dist, 3);
	put(0, 32);
	check_bad(10, "distances make no whole");
}

static void headers(void)
{
	static const struct {
		unsigned int at;
		uint8_t value;
		const char *why;
	} cases[] = {
		{ 0, 0x1e, "not gzip" }, { 1, 0x8c, "not gzip" }, { 1, 0x9d, "not gzip" },
		{ 2, 7, "CM" },		 { 2, 0, "CM" },	  { 3, 0x20, "FLG" },
		{ 3, 0x40, "FLG" },	 { 3, 0x80, "FLG" },	  { 3, 0xff, "FLG" },
	};
	uint32_t crc;

	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		begin(0);
		put_stored("hello", 5, true);
		end("hello", 5);
		w.data[cases[i].at] = cases[i].value;
		check_bad(5, cases[i].why);
	}
	/* Every optional field, in every combination. */
	for (unsigned int flags = 0; flags < 32; flags++) {
		begin(flags);
		if (flags & 4) {
			put(300, 16);
			for (unsigned int i = 0; i < 300; i++)
				put(noise(i), 8);
		}
		if (flags & 8)
			for (unsigned int i = 0; i < 6; i++)
				put("Image"[i], 8);
		if (flags & 16)
			put(0, 8); /* an empty comment */
		crc = crc32_of(w.data, w.len);
		if (flags & 2)
			put(crc & 0xffff, 16);
		put_stored("hello", 5, true);
		end("hello", 5);
		check_good("hello", 5);
		if (!(flags & 2))
			continue;
		w.data[4] ^= 1; /* MTIME: nothing else looks at it */
		check_bad(5, "CRC-16");
	}
	/* The trailer. */
	for (unsigned int i = 1; i <= 8; i++) {
		begin(0);
		put_stored("hello", 5, true);
		end("hello", 5);
		w.data[w.len - i] ^= 0x10;
		check_bad(5, i <= 4 ? "ISIZE" : "CRC-32");
	}
	begin(0);
	put_stored("hello", 5, true);
	end("hellp", 5);
	check_bad(5, "CRC-32");
	/* What follows isn't looked at, but told. */
	begin(0);
	put_stored("hello", 5, true);
	end("hello", 5);
	{
		size_t len = w.len;

		put(0xabcdef, 24);
		CHECK_EQ(unpack(5), 0);
		CHECK_EQ(res.in, len);
	}
}

/* What gzip(1) makes of the @len bytes at @data, in w. */
static bool gzip(const char *options, const uint8_t *data, size_t len)
{
	char path[] = "/tmp/vinit-test-inflate-XXXXXX", command[128];
	int fd = mkstemp(path);
	FILE *pipe;

	CHECK(fd >= 0 && write(fd, data, len) == (ssize_t)len);
	snprintf(command, sizeof(command), "gzip -c %s <%s", options, path);
	pipe = popen(command, "r");
	memset(&w, 0, sizeof(w));
	if (pipe)
		w.len = fread(w.data, 1, sizeof(w.data), pipe);
	CHECK(pipe && pclose(pipe) == 0);
	unlink(path);
	close(fd);
	return w.len > 0 && w.len < sizeof(w.data);
}

/* Data of several kinds, at every level. */
static void fill_kind(unsigned int kind, uint8_t *data, size_t len)
{
	for (size_t i = 0; i < len; i++)
		switch (kind) {
		case 0: /* nothing */
			data[i] = 0;
			break;
		case 1: /* noise: stored blocks */
			data[i] = noise(i);
			break;
		case 2: /* something like text */
			data[i] = "etaoin shrdlu\n.,"[noise(i) * noise(i / 7) >> 12];
			break;
		case 3: /* rare bytes get long codes */
			data[i] = __builtin_ctz(noise(i) << 8 | noise(i + len) | 1u << 20) * 7;
			break;
		default: /* all of it by turns, with far repetitions */
			if (i >= 32768 && i / 1024 % 2)
				data[i] = data[i - 32768];
			else
				data[i] = i / 4096 % 2 ? noise(i) : i % 255 % 37;
			break;
		}
}

static void gzip_program(void)
{
	static const char *const levels[] = { "-1", "-6", "-9", "-n -9" };
	static const size_t sizes[] = { 0, 1, 300, 65536, 200000 };
	static uint8_t data[200000];

	for (unsigned int kind = 0; kind < 5; kind++)
		for (unsigned int l = 0; l < 4; l++)
			for (unsigned int s = 0; s < 5; s++) {
				fill_kind(kind, data, sizes[s]);
				if (!gzip(levels[l], data, sizes[s])) {
					CHECK(!"gzip works");
					return;
				}
				check_good(data, sizes[s]);
				for (size_t max = sizes[s]; max; max = max * 3 / 7) {
					CHECK_EQ(unpack(max - 1), -ENOBUFS);
					CHECK_EQ(res.out, max - 1);
					CHECK(max == 1 || !memcmp(out, data, max - 1));
				}
			}
}

/* Whatever is cut off or changed, it is seen, and no byte too many is read or written. */
static void damage(void)
{
	static uint8_t data[3000], good[4000];
	static const uint8_t masks[] = { 0x01, 0x80, 0xff, 0x5a };
	unsigned int good_ends = 0;
	size_t len;

	for (unsigned int kind = 0; kind < 5; kind++) {
		fill_kind(kind, data, sizeof(data));
		CHECK(gzip("-6", data, sizeof(data)) && w.len < sizeof(good));
		len = w.len;
		memcpy(good, w.data, len);
		for (size_t cut = 0; cut < len; cut++) {
			/* Exactly so long, so that ASan sees a read behind it. */
			uint8_t *part = malloc(cut);

			memcpy(part, good, cut);
			CHECK_EQ(inflate(part, cut, sizeof(data)), -ENODATA);
			CHECK_STR(res.why, "truncated");
			CHECK(!memcmp(out, data, res.out));
			free(part);
		}
		for (size_t at = 0; at < len; at++)
			for (unsigned int m = 0; m < sizeof(masks); m++) {
				int err;

				memcpy(w.data, good, len);
				w.data[at] ^= masks[m];
				err = unpack(sizeof(data));
				/*
				 * MTIME, XFL and OS mean nothing to anybody. Some other changes are
				 * as good, other distances in a run of one byte say: what passes
				 * has all the right bytes.
				 */
				if (at >= 4 && at < 10)
					CHECK_EQ(err, 0);
				CHECK(!err || err == -EBADMSG || err == -ENODATA ||
				      err == -ENOBUFS);
				CHECK(err || (res.out == sizeof(data) &&
					      !memcmp(out, data, sizeof(data))));
				good_ends += !err;
			}
	}
	CHECK(good_ends >= 5 * (6 * 4 + 1));
}

/* Errors of the reader come through as they are, wherever they strike. */
static void read_errors(void)
{
	struct inflate_source source = { .read = read_in, .arg = &in };
	static uint8_t data[60000];

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = noise(i);
	begin(0);
	put_stored(data, sizeof(data), true);
	end(data, sizeof(data));
	check_good(data, sizeof(data));
	for (in.fail_at = 0; in.fail_at < w.len; in.fail_at += 5000) {
		in.next = 0;
		source.size = w.len;
		CHECK_EQ(inflate_gzip(&source, out, sizeof(data), &res), -EIO);
		CHECK(res.why == NULL && !memcmp(out, data, res.out));
	}
}

int main(void)
{
	RUN(stored);
	RUN(fixed);
	RUN(spans);
	RUN(dynamic);
	RUN(lies);
	RUN(headers);
	RUN(gzip_program);
	RUN(damage);
	RUN(read_errors);
	free(out);
	return TEST_RESULT();
}
