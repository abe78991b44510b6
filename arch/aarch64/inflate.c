/* SPDX-License-Identifier: MIT */
/*
 * The compressed data is hostile: each count and distance is checked before it is used, and every
 * loop is bounded by the source's size or the output's. Section numbers are RFC 1951's unless said.
 */
#include "arch/aarch64/inflate.h"

#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#define INPUT_SIZE 16384

#define MAX_BITS   15 /* the longest code, 3.2.7 */
#define FAST_BITS  10 /* codes up to this length are found by one look */
#define MAX_LITLEN 288
#define MAX_DIST   32
#define NR_CLEN	   19

#define END_OF_BLOCK 256

/* RFC 1952, 2.3.1 */
#define GZIP_HCRC     0x02
#define GZIP_EXTRA    0x04
#define GZIP_NAME     0x08
#define GZIP_COMMENT  0x10
#define GZIP_RESERVED 0xe0

/*
 * A set of codes, 3.2.2. Codes of one length are consecutive numbers, and longer ones come after
 * shorter ones once all are written left-aligned in MAX_BITS bits: so the first limit above what
 * the input shows gives the length.
 */
struct code {
	uint32_t limit[MAX_BITS + 1];  /* left-aligned, of codes up to this length */
	uint16_t first[MAX_BITS + 1];  /* left-aligned */
	uint16_t index[MAX_BITS + 1];  /* of the first one in symbol[] */
	uint16_t symbol[MAX_LITLEN];   /* by code */
	uint16_t fast[1 << FAST_BITS]; /* by the next bits: symbol << 4 | length, 0: longer */
};

struct inflate {
	const struct inflate_source *source;
	uint64_t next; /* offset of the first byte that isn't in input[] yet */
	uint64_t hold; /* the next bits, lowest first, zeros above them */
	unsigned int held;
	size_t pos, len; /* of input[] */
	uint8_t *out;
	uint64_t done, max; /* of out[] */
	const char *why;
	struct code litlen, dist;
	uint32_t crc_table[256];
	uint8_t input[INPUT_SIZE];
};

static int bad(struct inflate *z, const char *why)
{
	z->why = why;
	return -EBADMSG;
}

static int truncated(struct inflate *z)
{
	z->why = "truncated";
	return -ENODATA;
}

static int full(struct inflate *z)
{
	z->why = "it unpacks to more than there is room for";
	return -ENOBUFS;
}

/* Reads the next piece when all of the last one is used up. 0 with an empty one at the end. */
static int input_more(struct inflate *z)
{
	uint64_t left = z->source->size - z->next;
	size_t len = left < INPUT_SIZE ? left : INPUT_SIZE;
	int err;

	if (z->pos < z->len || !len)
		return 0;
	err = z->source->read(z->source->arg, z->next, z->input, len);
	if (err)
		return err;
	z->next += len;
	z->pos = 0;
	z->len = len;
	return 0;
}

/* Holds 48 bits at least, or all that there are. */
static int fill(struct inflate *z)
{
	unsigned int bytes;
	uint64_t word;
	int err;

	while (z->held < 48) {
		if (z->len - z->pos >= sizeof(word)) {
			bytes = (63 - z->held) / 8; /* 2 to 7 */
			memcpy(&word, z->input + z->pos, sizeof(word));
			word = le64toh(word) & ((1ull << bytes * 8) - 1);
			z->hold |= word << z->held;
			z->held += bytes * 8;
			z->pos += bytes;
			return 0;
		}
		err = input_more(z);
		if (err)
			return err;
		if (z->pos == z->len)
			return 0;
		z->hold |= (uint64_t)z->input[z->pos++] << z->held;
		z->held += 8;
	}
	return 0;
}

static void drop(struct inflate *z, unsigned int nr)
{
	z->hold >>= nr;
	z->held -= nr;
}

/* The next @nr (up to 32) bits as a number, 3.1.1. */
static int bits(struct inflate *z, unsigned int nr, uint32_t *value)
{
	int err;

	if (z->held < nr) {
		err = fill(z);
		if (err)
			return err;
		if (z->held < nr)
			return truncated(z);
	}
	*value = z->hold & ((1ull << nr) - 1);
	drop(z, nr);
	return 0;
}

/* The lowest @nr bits of @value, the other way round: codes come highest bit first, 3.1.1. */
static unsigned int reverse(unsigned int value, unsigned int nr)
{
	unsigned int r = 0;

	for (; nr; nr--, value >>= 1)
		r = r << 1 | (value & 1);
	return r;
}

/*
 * Makes the codes of @nr symbols from their lengths, 3.2.2; false unless they use up all of the
 * code space. @sparse lets one code of a single bit pass, and none at all: 3.2.7 has these for
 * distances, and zlib reads them for literals.
 */
static bool code_make(struct code *code, const uint8_t *lengths, unsigned int nr, bool sparse)
{
	unsigned int count[MAX_BITS + 1] = { 0 }, place[MAX_BITS + 1];
	unsigned int end = 0, index = 0, len, s, r, i;

	for (s = 0; s < nr; s++)
		count[lengths[s]]++;
	count[0] = 0;
	for (len = 1; len <= MAX_BITS; len++) {
		code->first[len] = end;
		code->index[len] = place[len] = index;
		end += count[len] << (MAX_BITS - len);
		if (end > 1u << MAX_BITS)
			return false;
		code->limit[len] = end;
		index += count[len];
	}
	if (end != 1u << MAX_BITS && !(sparse && index == count[1]))
		return false;

	memset(code->fast, 0, sizeof(code->fast));
	for (s = 0; s < nr; s++) {
		len = lengths[s];
		if (!len)
			continue;
		i = place[len]++;
		code->symbol[i] = s;
		if (len > FAST_BITS)
			continue;
		r = (code->first[len] >> (MAX_BITS - len)) + i - code->index[len];
		for (i = reverse(r, len); i < 1 << FAST_BITS; i += 1 << len)
			code->fast[i] = s << 4 | len;
	}
	return true;
}

/* Reads a symbol. */
static int decode(struct inflate *z, const struct code *code, unsigned int *symbol)
{
	unsigned int len, entry, bits;
	int err;

	if (z->held < MAX_BITS) {
		err = fill(z);
		if (err)
			return err;
	}
	entry = code->fast[z->hold & ((1 << FAST_BITS) - 1)];
	if (entry) {
		len = entry & 15;
		*symbol = entry >> 4;
	} else {
		bits = reverse(z->hold, MAX_BITS);
		for (len = 1; len <= MAX_BITS && bits >= code->limit[len]; len++)
			;
		if (len > MAX_BITS)
			return z->held < MAX_BITS ? truncated(z) : bad(z, "no such code");
		*symbol = code->symbol[code->index[len] +
				       ((bits - code->first[len]) >> (MAX_BITS - len))];
	}
	if (len > z->held)
		return truncated(z);
	drop(z, len);
	return 0;
}

/* 3.2.4; the rest of the byte is skipped. */
static int block_stored(struct inflate *z)
{
	uint32_t len, check, byte;
	size_t n;
	int err;

	drop(z, z->held % 8);
	err = bits(z, 16, &len);
	if (!err)
		err = bits(z, 16, &check);
	if (err)
		return err;
	if (len != (check ^ 0xffff))
		return bad(z, "stored block: LEN and NLEN differ");
	while (len) {
		if (z->done == z->max)
			return full(z);
		if (z->held) {
			err = bits(z, 8, &byte);
			if (err)
				return err;
			z->out[z->done++] = byte;
			len--;
			continue;
		}
		err = input_more(z);
		if (err)
			return err;
		n = z->len - z->pos;
		if (!n)
			return truncated(z);
		n = n < len ? n : len;
		n = n < z->max - z->done ? n : z->max - z->done;
		memcpy(z->out + z->done, z->input + z->pos, n);
		z->pos += n;
		z->done += n;
		len -= n;
	}
	return 0;
}

/* Copies @len bytes from @distance back, 3.2.3: what it writes may be what it copies next. */
static int copy(struct inflate *z, unsigned int distance, unsigned int len)
{
	uint8_t *to = z->out + z->done;
	const uint8_t *from;
	bool cut;

	if (distance > z->done)
		return bad(z, "a distance reaches back before the start");
	from = to - distance;
	cut = len > z->max - z->done;
	if (cut)
		len = z->max - z->done;
	z->done += len;
	if (distance >= len)
		memcpy(to, from, len);
	else
		while (len--)
			*to++ = *from++;
	return cut ? full(z) : 0;
}

/* What a symbol for a length or distance stands for, 3.2.5. */
struct span {
	uint16_t base;
	uint16_t extra; /* bits */
};

static int block_coded(struct inflate *z)
{
	static const struct span lengths[] = {
		{ 3, 0 },   { 4, 0 },	{ 5, 0 },   { 6, 0 },	{ 7, 0 },   { 8, 0 },
		{ 9, 0 },   { 10, 0 },	{ 11, 1 },  { 13, 1 },	{ 15, 1 },  { 17, 1 },
		{ 19, 2 },  { 23, 2 },	{ 27, 2 },  { 31, 2 },	{ 35, 3 },  { 43, 3 },
		{ 51, 3 },  { 59, 3 },	{ 67, 4 },  { 83, 4 },	{ 99, 4 },  { 115, 4 },
		{ 131, 5 }, { 163, 5 }, { 195, 5 }, { 227, 5 }, { 258, 0 },
	};
	static const struct span distances[] = {
		{ 1, 0 },     { 2, 0 },	    { 3, 0 },	   { 4, 0 },	  { 5, 1 },
		{ 7, 1 },     { 9, 2 },	    { 13, 2 },	   { 17, 3 },	  { 25, 3 },
		{ 33, 4 },    { 49, 4 },    { 65, 5 },	   { 97, 5 },	  { 129, 6 },
		{ 193, 6 },   { 257, 7 },   { 385, 7 },	   { 513, 8 },	  { 769, 8 },
		{ 1025, 9 },  { 1537, 9 },  { 2049, 10 },  { 3073, 10 },  { 4097, 11 },
		{ 6145, 11 }, { 8193, 12 }, { 12289, 12 }, { 16385, 13 }, { 24577, 13 },
	};
	unsigned int symbol;
	uint32_t extra, len;
	int err;

	for (;;) {
		err = decode(z, &z->litlen, &symbol);
		if (err)
			return err;
		if (symbol < END_OF_BLOCK) {
			if (z->done == z->max)
				return full(z);
			z->out[z->done++] = symbol;
			continue;
		}
		if (symbol == END_OF_BLOCK)
			return 0;
		symbol -= END_OF_BLOCK + 1;
		if (symbol >= sizeof(lengths) / sizeof(lengths[0]))
			return bad(z, "no such length");
		err = bits(z, lengths[symbol].extra, &extra);
		if (err)
			return err;
		len = lengths[symbol].base + extra;
		err = decode(z, &z->dist, &symbol);
		if (err)
			return err;
		if (symbol >= sizeof(distances) / sizeof(distances[0]))
			return bad(z, "no such distance");
		err = bits(z, distances[symbol].extra, &extra);
		if (!err)
			err = copy(z, distances[symbol].base + extra, len);
		if (err)
			return err;
	}
}

/* 3.2.6 */
static void codes_fixed(struct inflate *z)
{
	uint8_t lengths[MAX_LITLEN];

	memset(lengths, 8, 144);
	memset(lengths + 144, 9, 256 - 144);
	memset(lengths + 256, 7, 280 - 256);
	memset(lengths + 280, 8, MAX_LITLEN - 280);
	code_make(&z->litlen, lengths, MAX_LITLEN, false);
	memset(lengths, 5, MAX_DIST);
	code_make(&z->dist, lengths, MAX_DIST, false);
}

/* 3.2.7: the lengths of the codes are coded themselves. */
static int codes_dynamic(struct inflate *z)
{
	static const uint8_t order[NR_CLEN] = { 16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
						11, 4,	12, 3, 13, 2, 14, 1, 15 };
	uint8_t lengths[MAX_LITLEN + MAX_DIST] = { 0 };
	uint32_t hlit, hdist, hclen, value;
	unsigned int i, nr, symbol;
	uint8_t fill_with;
	int err;

	err = bits(z, 5, &hlit);
	if (!err)
		err = bits(z, 5, &hdist);
	if (!err)
		err = bits(z, 4, &hclen);
	for (i = 0; !err && i < hclen + 4; i++) {
		err = bits(z, 3, &value);
		if (!err)
			lengths[order[i]] = value;
	}
	if (err)
		return err;
	/* 5 bits could say 288 and 32, two more than there are. */
	hlit += 257;
	hdist += 1;
	if (hlit > 286 || hdist > 30)
		return bad(z, "too many codes");
	/* The distances' place is good for this one: it is read before they are made. */
	if (!code_make(&z->dist, lengths, NR_CLEN, false))
		return bad(z, "code lengths: their own codes make no whole");

	memset(lengths, 0, sizeof(lengths));
	for (i = 0; i < hlit + hdist; i += nr) {
		err = decode(z, &z->dist, &symbol);
		if (err)
			return err;
		fill_with = 0;
		nr = 1;
		value = 0;
		switch (symbol) {
		case 16:
			if (!i)
				return bad(z, "code lengths: nothing to repeat");
			fill_with = lengths[i - 1];
			nr = 3;
			err = bits(z, 2, &value);
			break;
		case 17:
			nr = 3;
			err = bits(z, 3, &value);
			break;
		case 18:
			nr = 11;
			err = bits(z, 7, &value);
			break;
		default:
			fill_with = symbol;
			break;
		}
		if (err)
			return err;
		nr += value;
		if (nr > hlit + hdist - i)
			return bad(z, "code lengths: more than were announced");
		memset(lengths + i, fill_with, nr);
	}
	if (!lengths[END_OF_BLOCK])
		return bad(z, "no code for the end of the block");
	if (!code_make(&z->litlen, lengths, hlit, true))
		return bad(z, "the codes of literals and lengths make no whole");
	if (!code_make(&z->dist, lengths + hlit, hdist, true))
		return bad(z, "the codes of distances make no whole");
	return 0;
}

static int blocks(struct inflate *z)
{
	uint32_t last, type;
	int err;

	do {
		err = bits(z, 1, &last);
		if (!err)
			err = bits(z, 2, &type);
		if (err)
			return err;
		switch (type) {
		case 0:
			err = block_stored(z);
			break;
		case 1:
			codes_fixed(z);
			err = block_coded(z);
			break;
		case 2:
			err = codes_dynamic(z);
			if (!err)
				err = block_coded(z);
			break;
		default:
			err = bad(z, "no such type of block");
			break;
		}
	} while (!err && !last);
	return err;
}

/* RFC 1952, section 8: the polynomial 0xedb88320, a byte at a time. */
static void crc_init(struct inflate *z)
{
	uint32_t crc;
	unsigned int i, bit;

	for (i = 0; i < 256; i++) {
		crc = i;
		for (bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
		z->crc_table[i] = crc;
	}
}

/* @crc: of what came before, 0 at first. */
static uint32_t crc_add(const struct inflate *z, uint32_t crc, const uint8_t *p, uint64_t len)
{
	crc = ~crc;
	while (len--)
		crc = z->crc_table[(crc ^ *p++) & 0xff] ^ crc >> 8;
	return ~crc;
}

/* A byte of the header, which has a checksum, too. */
static int header_byte(struct inflate *z, uint32_t *crc, uint32_t *value)
{
	int err = bits(z, 8, value);

	if (!err)
		*crc = crc_add(z, *crc, &(uint8_t){ *value }, 1);
	return err;
}

/* RFC 1952, 2.3 */
static int gzip_header(struct inflate *z)
{
	uint32_t head[10], crc = 0, value, low, n;
	unsigned int i, string;
	int err;

	for (i = 0; i < 10; i++) {
		err = header_byte(z, &crc, &head[i]);
		if (err)
			return err;
	}
	if (head[0] != 0x1f || head[1] != 0x8b)
		return bad(z, "not gzip");
	if (head[2] != 8)
		return bad(z, "gzip header: CM is not 8 (deflate)");
	if (head[3] & GZIP_RESERVED)
		return bad(z, "gzip header: reserved bits of FLG are set");
	if (head[3] & GZIP_EXTRA) {
		err = header_byte(z, &crc, &low);
		if (!err)
			err = header_byte(z, &crc, &n);
		for (n = err ? 0 : n << 8 | low; !err && n; n--)
			err = header_byte(z, &crc, &value);
		if (err)
			return err;
	}
	/* The name and the comment, up to their NULs. */
	for (string = GZIP_NAME; string <= GZIP_COMMENT; string <<= 1) {
		if (!(head[3] & string))
			continue;
		do {
			err = header_byte(z, &crc, &value);
			if (err)
				return err;
		} while (value);
	}
	if (head[3] & GZIP_HCRC) {
		err = bits(z, 16, &value);
		if (err)
			return err;
		if (value != (crc & 0xffff))
			return bad(z, "gzip header: CRC-16 differs");
	}
	return 0;
}

static int gzip_trailer(struct inflate *z)
{
	uint32_t crc, size;
	int err;

	drop(z, z->held % 8);
	err = bits(z, 32, &crc);
	if (!err)
		err = bits(z, 32, &size);
	if (err)
		return err;
	if (size != (uint32_t)z->done)
		return bad(z, "ISIZE differs from what was unpacked");
	if (crc != crc_add(z, 0, z->out, z->done))
		return bad(z, "CRC-32 differs from that of what was unpacked");
	return 0;
}

int inflate_gzip(const struct inflate_source *source, uint8_t *out, uint64_t max,
		 struct inflate_result *result)
{
	struct inflate z;
	int err;

	/* The tables and the input are written before they are read. */
	z.source = source;
	z.next = 0;
	z.hold = 0;
	z.held = 0;
	z.pos = z.len = 0;
	z.out = out;
	z.done = 0;
	z.max = max;
	z.why = NULL;
	crc_init(&z);
	err = gzip_header(&z);
	if (!err)
		err = blocks(&z);
	if (!err)
		err = gzip_trailer(&z);
	result->in = z.next - (z.len - z.pos) - z.held / 8;
	result->out = z.done;
	result->why = z.why;
	return err;
}
