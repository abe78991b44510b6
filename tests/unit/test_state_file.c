/* SPDX-License-Identifier: MIT */
/*
 * The `state` file of a snapshot: written, read, and then damaged in every way: each bit flipped,
 * each truncation, and, with all CRCs made right again, lies about versions, lengths and sections.
 * Whatever is refused has given nothing away.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include "tests/unit/test.h"
#include "vm/crc32.h"
#include "vm/log.h"
#include "vm/snapshot_dir.h"
#include "vm/state_reader.h"
#include "vm/state_writer.h"

#define TAG_A STATE_TAG('A', 'A', 'A', 'A')
#define TAG_V STATE_TAG('V', 'C', 'P', 'U')
#define TAG_X STATE_TAG('X', 'X', 'X', 'X')

static char dir_path[64];
static struct snapshot_dir dir;
static int log_fd;

/* --- what was logged ------------------------------------------------------------------------- */

static const char *log_text(void)
{
	static char text[4096];
	ssize_t n = pread(log_fd, text, sizeof(text) - 1, 0);

	text[n > 0 ? n : 0] = '\0';
	return text;
}

static void log_clear(void)
{
	CHECK(!ftruncate(log_fd, 0));
	lseek(log_fd, 0, SEEK_SET);
}

/* True if exactly one line was logged, with this in it. */
static bool said(const char *part)
{
	const char *text = log_text(), *end = strchr(text, '\n');
	bool ok = strstr(text, part) && end && !end[1];

	if (!ok)
		printf("  expected \"%s\" in: %s\n", part, text);
	log_clear();
	return ok;
}

/* --- a file to damage ------------------------------------------------------------------------ */

static uint8_t file[8192];
static size_t file_len;
static size_t head_at[8]; /* where the sections begin */
static unsigned int heads;

static void fill(struct state_writer *w)
{
	state_writer_begin(w, TAG_A, 0, 3);
	state_writer_bool(w, true);
	state_writer_u8(w, 0x12);
	state_writer_u16(w, 0x3456);
	state_writer_u32(w, 0x789abcde);
	state_writer_u64(w, 0x0123456789abcdef);
	state_writer_bytes(w, "bytes", 5);
	state_writer_blob(w, "a blob", 6);
	state_writer_string(w, "a string");
	state_writer_u32(w, 3);
	for (unsigned int i = 0; i < 3; i++)
		state_writer_u16(w, 100 + i);
	state_writer_end(w);
	for (uint32_t i = 0; i < 2; i++) {
		state_writer_begin(w, TAG_V, i, 1);
		state_writer_u64(w, 1000 + i);
		state_writer_end(w);
	}
	/* An empty one. */
	state_writer_begin(w, TAG_X, 0, 1);
	state_writer_end(w);
}

static const struct state_want wants[] = {
	{ TAG_A, 1, 2, 3 },
	{ TAG_V, 2, 1, 1 },
	{ TAG_X, 1, 1, 1 },
};

static void find_heads(void)
{
	size_t at = STATE_FILE_HEADER;

	for (heads = 0; at < file_len - STATE_FILE_END; heads++) {
		head_at[heads] = at;
		at += STATE_FILE_SECTION + state_file_load(file + at + STATE_FILE_AT_SECLEN, 8);
	}
}

static void read_file(void)
{
	int fd = openat(dir.fd, "state", O_RDONLY);
	ssize_t n = read(fd, file, sizeof(file));

	file_len = n > 0 ? n : 0;
	close(fd);
	find_heads();
}

static void make_file(void)
{
	struct state_writer w;

	state_writer_init(&w, "x86_64");
	fill(&w);
	CHECK_EQ(state_writer_save(&w, &dir), 0);
	CHECK_EQ(snapshot_dir_replace(&dir, "state"), 0);
	state_writer_fini(&w);
	read_file();
}

/* Makes the CRCs right where sections have the lengths that their heads say. */
static void seal(uint8_t *buf, size_t len)
{
	uint32_t nr = state_file_load(buf + STATE_FILE_AT_SECTIONS, 4), crc;
	size_t at = STATE_FILE_HEADER, end = len - STATE_FILE_END;
	uint64_t payload;

	for (; nr && end - at >= STATE_FILE_SECTION; nr--) {
		payload = state_file_load(buf + at + STATE_FILE_AT_SECLEN, 8);
		if (payload > end - at - STATE_FILE_SECTION)
			break;
		crc = crc32(0, buf + at, STATE_FILE_AT_SECCRC);
		crc = crc32(crc, buf + at + STATE_FILE_SECTION, payload);
		state_file_store(buf + at + STATE_FILE_AT_SECCRC, crc, 4);
		at += STATE_FILE_SECTION + payload;
	}
	state_file_store(buf + len - 4, crc32(0, buf, len - 4), 4);
}

/* Takes everything as the writer's counterpart would. */
static int take_all(struct state_reader *r, uint64_t *sum)
{
	struct state_section s;
	char bytes[5], text[16];
	size_t len;
	uint32_t nr;
	int ret;

	*sum = 0;
	ret = state_reader_expect(r, wants, 3);
	if (ret)
		return ret;
	state_reader_section(r, &s, TAG_A, 0);
	*sum += state_reader_bool(&s) + state_reader_u8(&s) + state_reader_u16(&s);
	*sum += state_reader_u32(&s) + state_reader_u64(&s);
	state_reader_bytes(&s, bytes, sizeof(bytes));
	state_reader_blob(&s, 100, &len);
	state_reader_string(&s, text, sizeof(text));
	nr = state_reader_number(&s, 10, 2);
	for (uint32_t i = 0; i < nr; i++)
		*sum += state_reader_u16(&s);
	ret = state_reader_section_end(&s);
	if (ret)
		return ret;
	for (uint32_t i = 0; i < 2; i++) {
		state_reader_section(r, &s, TAG_V, i);
		*sum += state_reader_u64(&s);
		ret = state_reader_section_end(&s);
		if (ret)
			return ret;
	}
	state_reader_section(r, &s, TAG_X, 0);
	ret = state_reader_section_end(&s);
	return ret ? ret : state_reader_end(r);
}

/* Opens @len bytes of @buf and takes all; what was refused left nothing. */
static int try(const uint8_t *buf, size_t len)
{
	struct state_reader r;
	uint64_t sum;
	int ret = state_reader_open_memory(&r, "mem", buf, len, "x86_64");

	if (ret) {
		CHECK(!r.buf && !r.entry && !r.nr);
		return ret;
	}
	ret = take_all(&r, &sum);
	state_reader_close(&r);
	return ret;
}

/* --- the tests ------------------------------------------------------------------------------- */

static uint32_t crc_by_bit(const uint8_t *p, size_t len)
{
	uint32_t crc = ~0u;

	while (len--) {
		crc ^= *p++;
		for (unsigned int i = 0; i < 8; i++)
			crc = crc & 1 ? crc >> 1 ^ 0xedb88320 : crc >> 1;
	}
	return ~crc;
}

static void crc(void)
{
	uint8_t byte;

	CHECK_EQ(crc32(0, "123456789", 9), 0xcbf43926);
	CHECK_EQ(crc32(crc32(0, "1234", 4), "56789", 5), 0xcbf43926);
	CHECK_EQ(crc32(0, NULL, 0), 0);
	/* Every row of the table. */
	for (unsigned int i = 0; i < 256; i++) {
		byte = i;
		CHECK_EQ(crc32(0, &byte, 1), crc_by_bit(&byte, 1));
	}
}

static void round_trip(void)
{
	struct state_reader r;
	struct state_section s;
	char bytes[5], text[9];
	const uint8_t *blob;
	struct stat st;
	size_t len;

	CHECK_EQ(state_reader_open(&r, &dir, "x86_64"), 0);
	CHECK_EQ(r.nr, 4);
	CHECK_EQ(state_reader_count(&r, TAG_V), 2);
	CHECK_EQ(state_reader_expect(&r, wants, 3), 0);
	CHECK_EQ(state_reader_section(&r, &s, TAG_A, 0), 0);
	CHECK_EQ(s.version, 3);
	CHECK(state_reader_bool(&s));
	CHECK_EQ(state_reader_u8(&s), 0x12);
	CHECK_EQ(state_reader_u16(&s), 0x3456);
	CHECK_EQ(state_reader_u32(&s), 0x789abcde);
	CHECK_EQ(state_reader_u64(&s), 0x0123456789abcdef);
	state_reader_bytes(&s, bytes, 5);
	CHECK(!memcmp(bytes, "bytes", 5));
	blob = state_reader_blob(&s, 6, &len);
	CHECK(len == 6 && !memcmp(blob, "a blob", 6));
	state_reader_string(&s, text, sizeof(text));
	CHECK_STR(text, "a string");
	CHECK_EQ(state_reader_number(&s, 3, 2), 3);
	for (unsigned int i = 0; i < 3; i++)
		CHECK_EQ(state_reader_u16(&s), 100 + i);
	CHECK_EQ(state_reader_section_end(&s), 0);
	/* Two sections and one of nothing are left. */
	CHECK_EQ(state_reader_end(&r), -EOPNOTSUPP);
	CHECK(said("dir/state: EOPNOTSUPP: section VCPU 0 was not expected here"));
	state_reader_close(&r);
	CHECK_EQ(try(file, file_len), 0);
	CHECK(!fstatat(dir.fd, "state", &st, 0) && (st.st_mode & 07777) == 0600);
	CHECK(faccessat(dir.fd, "state.new", F_OK, 0) < 0);
}

/* Byte for byte as docs/snapshot.md has it, on a big-endian host too. */
static void on_disk(void)
{
	static const uint8_t head[] = {
		'v', 'i', 'n', 'i', 't', 'S', 'N', 'P', 1, 0, 0, 0, 4, 0, 0, 0,
		'x', '8', '6', '_', '6', '4', 0,   0,	0, 0, 0, 0, 0, 0, 0, 0,
	};
	static const uint8_t section[] = { 'A', 'A', 'A', 'A', 0, 0, 0, 0, 53, 0,
					   0,	0,   0,	  0,   0, 0, 3, 0, 0,  0 };
	static const uint8_t payload[] = { 1, 0x12, 0x56, 0x34, 0xde, 0xbc, 0x9a, 0x78, 0xef, 0xcd, 0xab,
					   0x89, 0x67, 0x45, 0x23, 0x01, 'b', 'y', 't', 'e', 's', 6, 0,
					   0, 0, 'a', ' ' };
	uint8_t summed[73];

	CHECK(!memcmp(file, head, sizeof(head)));
	CHECK_EQ(state_file_load(file + 32, 8), file_len);
	CHECK(!memcmp(file + 40, section, sizeof(section)));
	CHECK(!memcmp(file + 64, payload, sizeof(payload)));
	memcpy(summed, file + 40, 20);
	memcpy(summed + 20, file + 64, 53);
	CHECK_EQ(state_file_load(file + 60, 4), crc_by_bit(summed, 73));
	CHECK(!memcmp(file + file_len - 8, "END\n", 4));
	CHECK_EQ(state_file_load(file + file_len - 4, 4), crc_by_bit(file, file_len - 4));
	CHECK_EQ(file_len, 40 + (24 + 53) + 2 * (24 + 8) + 24 + 8);
}

static void every_bit(void)
{
	struct state_reader r;
	int fd;

	for (size_t i = 0; i < file_len; i++) {
		for (unsigned int bit = 0; bit < 8; bit++) {
			file[i] ^= 1u << bit;
			CHECK(try(file, file_len) < 0);
			CHECK(said("snapshot mem/state: E"));
			file[i] ^= 1u << bit;
		}
	}
	CHECK_EQ(try(file, file_len), 0);
	/* And as a file, a byte at a time. */
	fd = openat(dir.fd, "state", O_RDWR);
	for (size_t i = 0; i < file_len; i++) {
		uint8_t other = ~file[i];

		CHECK_EQ(pwrite(fd, &other, 1, i), 1);
		CHECK(state_reader_open(&r, &dir, "x86_64") < 0);
		CHECK_EQ(pwrite(fd, file + i, 1, i), 1);
	}
	log_clear();
	close(fd);
	CHECK_EQ(state_reader_open(&r, &dir, "x86_64"), 0);
	state_reader_close(&r);
}

static void every_length(void)
{
	struct state_reader r;
	int fd = openat(dir.fd, "state", O_RDWR);

	for (size_t len = 0; len < file_len; len++) {
		CHECK_EQ(try(file, len), -EBADMSG);
		CHECK(said("snapshot mem/state: EBADMSG: "));
	}
	for (size_t more = 1; more < 100; more++)
		CHECK_EQ(try(file, file_len + more), -EBADMSG);
	for (size_t len = file_len; len--;) {
		CHECK(!ftruncate(fd, len));
		CHECK_EQ(state_reader_open(&r, &dir, "x86_64"), -EBADMSG);
	}
	log_clear();
	CHECK_EQ(pwrite(fd, file, file_len, 0), (ssize_t)file_len);
	close(fd);
	CHECK_EQ(state_reader_open(&r, &dir, "x86_64"), 0);
	state_reader_close(&r);
}

/* A copy with a number changed and all CRCs right. */
static int try_with(size_t at, uint64_t value, unsigned int bytes)
{
	static uint8_t copy[sizeof(file)];

	memcpy(copy, file, file_len);
	state_file_store(copy + at, value, bytes);
	seal(copy, file_len);
	return try(copy, file_len);
}

static void versions(void)
{
	static const uint32_t versions[] = { 0, 2, 3, 255, 256, 1u << 24, UINT32_MAX };
	char text[64];

	for (unsigned int i = 0; i < 7; i++) {
		CHECK_EQ(try_with(STATE_FILE_AT_VERSION, versions[i], 4), -EOPNOTSUPP);
		snprintf(text, sizeof(text), "version %" PRIu32 ", expected 1: it takes", versions[i]);
		CHECK(said(text));
	}
	/* The sections' own. */
	CHECK_EQ(try_with(head_at[0] + STATE_FILE_AT_SECVER, 2, 4), 0);
	for (unsigned int i = 0; i < 7; i++) {
		if (versions[i] == 2 || versions[i] == 3)
			continue;
		CHECK_EQ(try_with(head_at[0] + STATE_FILE_AT_SECVER, versions[i], 4), -EOPNOTSUPP);
		snprintf(text, sizeof(text), "section AAAA 0: it has version %" PRIu32 ", expected 2 to 3",
			 versions[i]);
		CHECK(said(text));
		CHECK_EQ(try_with(head_at[2] + STATE_FILE_AT_SECVER, versions[i], 4), -EOPNOTSUPP);
		CHECK(said("section VCPU 1: it has version"));
	}
}

static void architectures(void)
{
	static const char *const bad[] = { "", " ", "a b", "\x80", "x86_64\0x", "0123456789abcdef" };
	static const size_t bad_len[] = { 0, 1, 3, 1, 8, 16 };
	uint8_t copy[sizeof(file)];
	struct state_reader r;

	CHECK_EQ(state_reader_open_memory(&r, "mem", file, file_len, "aarch64"), -EOPNOTSUPP);
	CHECK(said("of a guest of x86_64, this machine is aarch64"));
	CHECK_EQ(state_reader_open_memory(&r, "mem", file, file_len, NULL), 0);
	CHECK_STR(r.arch, "x86_64");
	state_reader_close(&r);
	for (unsigned int i = 0; i < 6; i++) {
		memcpy(copy, file, file_len);
		memset(copy + STATE_FILE_AT_ARCH, 0, STATE_FILE_ARCH_LEN);
		memcpy(copy + STATE_FILE_AT_ARCH, bad[i], bad_len[i]);
		seal(copy, file_len);
		CHECK_EQ(state_reader_open_memory(&r, "mem", copy, file_len, NULL), -EBADMSG);
		CHECK(said("no architecture's name is at byte 16"));
	}
}

static void lying_lengths(void)
{
	uint64_t len;

	for (unsigned int i = 0; i < heads; i++) {
		const uint64_t lies[] = { 0,	     1,		    file_len,	   1u << 31,
					  1ull << 32, 1ull << 63, UINT64_MAX, UINT64_MAX - 23,
					  -(uint64_t)head_at[i] - 24 };
		size_t at = head_at[i] + STATE_FILE_AT_SECLEN;

		len = state_file_load(file + at, 8);
		for (unsigned int k = 0; k < sizeof(lies) / sizeof(lies[0]); k++)
			CHECK(lies[k] == len || try_with(at, lies[k], 8) < 0);
		for (int64_t k = -100; k <= 100; k++)
			CHECK(!k || try_with(at, len + k, 8) < 0);
	}
	for (uint64_t n = 0; n < 100; n++) {
		CHECK(n == 4 || try_with(STATE_FILE_AT_SECTIONS, n, 4) < 0);
		CHECK(n == file_len || try_with(STATE_FILE_AT_LENGTH, n, 8) < 0);
	}
	log_clear();
	CHECK_EQ(try_with(STATE_FILE_AT_SECTIONS, UINT32_MAX, 4), -EBADMSG);
	CHECK(said("4294967295 sections, no file has more than 2048"));
	CHECK_EQ(try_with(head_at[1] + STATE_FILE_AT_SECLEN, 1ull << 40, 8), -EBADMSG);
	CHECK(said("section VCPU 0: 1099511627776 bytes long, of which the file has 64"));
	/* A gap before the end. */
	CHECK_EQ(try_with(STATE_FILE_AT_SECTIONS, 3, 4), -EBADMSG);
	CHECK(said("24 bytes between the last of its 3 sections and its end"));
}

static void which_sections(void)
{
	static const struct state_want more[] = {
		{ TAG_A, 1, 1, 9 }, { TAG_V, 3, 1, 1 }, { TAG_X, 1, 1, 1 },
	};
	struct state_reader r;
	struct state_section s;

	/* Twice, unknown, too many, missing. */
	CHECK_EQ(try_with(head_at[2] + STATE_FILE_AT_INSTANCE, 0, 4), -EBADMSG);
	CHECK(said("section VCPU 0 is there twice"));
	CHECK_EQ(try_with(head_at[3], STATE_TAG('N', 'E', 'W', '\n'), 4), -EOPNOTSUPP);
	CHECK(said("section NEW? 0 is unknown"));
	CHECK_EQ(try_with(head_at[2] + STATE_FILE_AT_INSTANCE, 2, 4), -EOPNOTSUPP);
	CHECK(said("section VCPU 2 is too many: 2 of that tag expected, found 2"));
	CHECK_EQ(try_with(head_at[2] + STATE_FILE_AT_INSTANCE, UINT32_MAX, 4), -EOPNOTSUPP);
	CHECK(said("section VCPU 4294967295 is too many"));
	CHECK_EQ(state_reader_open_memory(&r, "mem", file, file_len, "x86_64"), 0);
	CHECK_EQ(state_reader_expect(&r, more, 3), -EBADMSG);
	CHECK(said("section VCPU 2 is missing: 3 of that tag expected, found 2"));
	CHECK_EQ(state_reader_expect(&r, wants, 2), -EOPNOTSUPP);
	CHECK(said("section XXXX 0 is unknown"));
	CHECK_EQ(state_reader_section(&r, &s, TAG_V, 7), -EBADMSG);
	CHECK(said("section VCPU 7 is missing"));
	/* What is got from one that is not there is nothing, and one line is enough. */
	CHECK_EQ(state_reader_u64(&s), 0);
	CHECK_EQ(state_reader_section_end(&s), -EBADMSG);
	CHECK_STR(log_text(), "");
	state_reader_close(&r);
}

/* The getters against a payload of the caller's. */
static struct state_reader payload_reader;

static struct state_section payload(const void *buf, size_t len)
{
	struct state_section s;
	struct state_writer w;
	struct snapshot_dir d;

	state_reader_close(&payload_reader);
	CHECK_EQ(snapshot_dir_open(&d, dir_path, false), 0);
	d.path = "dir";
	state_writer_init(&w, "any");
	state_writer_begin(&w, TAG_A, 0, 1);
	state_writer_bytes(&w, buf, len);
	state_writer_end(&w);
	CHECK_EQ(state_writer_save(&w, &d), 0);
	state_writer_fini(&w);
	CHECK_EQ(renameat(d.fd, "state.new", d.fd, "state"), 0);
	CHECK_EQ(state_reader_open(&payload_reader, &d, "any"), 0);
	state_reader_section(&payload_reader, &s, TAG_A, 0);
	snapshot_dir_close(&d);
	return s;
}

static void getters(void)
{
	struct state_section s = payload("\x01\x02\x03", 3);
	char text[4];
	uint8_t bytes[8];
	size_t len;

	CHECK_EQ(state_reader_u16(&s), 0x201);
	CHECK_EQ(state_reader_u32(&s), 0);
	CHECK(said("section AAAA 0: 4 bytes expected at byte 2, found 1"));
	/* It sticks: what would fit gives nothing any more, and says nothing. */
	CHECK_EQ(state_reader_u8(&s), 0);
	memset(bytes, 1, sizeof(bytes));
	state_reader_bytes(&s, bytes, 8);
	CHECK(!memcmp(bytes, "\0\0\0\0\0\0\0\0", 8));
	CHECK(!state_reader_blob(&s, 8, &len) && !len);
	state_reader_string(&s, text, sizeof(text));
	CHECK_STR(text, "");
	CHECK_EQ(state_reader_section_end(&s), -EBADMSG);
	CHECK_STR(log_text(), "");

	s = payload("\x01\x02\x03", 3);
	state_reader_u8(&s);
	CHECK_EQ(state_reader_section_end(&s), -EBADMSG);
	CHECK(said("section AAAA 0: 3 bytes long, expected 1"));
	s = payload("\x02", 1);
	CHECK(!state_reader_bool(&s));
	CHECK(said("0 or 1 expected at byte 0, found 2"));
	s = payload("\x04\0\0\0abcd", 8);
	state_reader_string(&s, text, sizeof(text));
	CHECK(said("4 entries at byte 0, at most 3 of 1 bytes expected"));
	s = payload("\x03\0\0\0a\0c", 7);
	state_reader_string(&s, text, sizeof(text));
	CHECK(said("a NUL in the string"));
	CHECK_STR(text, "");
	s = payload("\xff\xff\xff\xff" "abcd", 8);
	CHECK(!state_reader_blob(&s, SIZE_MAX, &len) && !len);
	CHECK(said("4294967295 entries at byte 0"));
	s = payload("\x02\0\0\0abcd", 8);
	CHECK_EQ(state_reader_number(&s, 9, 3), 0);
	CHECK(said("2 entries at byte 0, at most 9 of 3 bytes expected, in the 4 that follow"));
	s = payload("\x02\0\0\0abcd", 8);
	CHECK_EQ(state_reader_number(&s, 2, 2), 2);
	CHECK_EQ(state_reader_bad(&s, "a wrong %s", "thing"), -EBADMSG);
	CHECK(said("snapshot dir/state: EBADMSG: section AAAA 0: a wrong thing"));
	CHECK_EQ(state_reader_section_end(&s), -EBADMSG);
	s = payload("", 0);
	CHECK_EQ(state_reader_section_end(&s), 0);
	state_reader_close(&payload_reader);
	make_file();
}

/* Bytes changed at random with the CRCs right: what an attacker sends. */
static void hostile(void)
{
	uint8_t copy[sizeof(file)];
	unsigned int taken = 0;

	srand(1);
	log_set_fd(-1, false);
	for (unsigned int i = 0; i < 50000; i++) {
		memcpy(copy, file, file_len);
		for (int n = rand() % 4 + 1; n; n--) {
			size_t at = rand() % 4 ? (size_t)rand() % file_len :
						 head_at[rand() % heads] + rand() % 24;

			copy[at] = rand() % 3 ? rand() : (int[]){ 0, 0xff, 0x80 }[rand() % 3];
		}
		seal(copy, file_len);
		taken += !try(copy, file_len);
	}
	log_set_fd(log_fd, false);
	/* Values of plain numbers may be any: not all of it is refused, or the CRCs are wrong. */
	CHECK(taken > 1000 && taken < 45000);
}

static void other_files(void)
{
	struct state_reader r;

	CHECK(!unlinkat(dir.fd, "state", 0));
	CHECK_EQ(state_reader_open(&r, &dir, "x86_64"), -ENOENT);
	CHECK(said("dir/state: open: ENOENT: check the path"));
	CHECK(!symlinkat("state.old", dir.fd, "state"));
	CHECK_EQ(state_reader_open(&r, &dir, "x86_64"), -ELOOP);
	CHECK(said("a symbolic link is not followed"));
	CHECK(!unlinkat(dir.fd, "state", 0) && !mkfifoat(dir.fd, "state", 0600));
	CHECK_EQ(state_reader_open(&r, &dir, "x86_64"), -EINVAL);
	CHECK(said("not a regular file"));
	CHECK(!unlinkat(dir.fd, "state", 0));
	close(openat(dir.fd, "state", O_CREAT | O_WRONLY, 0600));
	CHECK_EQ(state_reader_open(&r, &dir, "x86_64"), -EBADMSG);
	CHECK(said("0 bytes are too few"));
	/* Larger than memory is to be had for it. */
	int fd = openat(dir.fd, "state", O_WRONLY);
	CHECK(!ftruncate(fd, 1ll << 40));
	close(fd);
	CHECK_EQ(state_reader_open(&r, &dir, "x86_64"), -EBADMSG);
	CHECK(said("1099511627776 bytes, no file has more than 16777216"));
	make_file();
}

static void writer_errors(void)
{
	static uint8_t big[1 << 20];
	struct state_writer w;

	state_writer_init(&w, "x86_64");
	state_writer_begin(&w, TAG_A, 0, 1);
	for (unsigned int i = 0; i < 17; i++)
		state_writer_bytes(&w, big, sizeof(big));
	state_writer_end(&w);
	CHECK(said("EFBIG: its state is more than 16 MiB"));
	CHECK_EQ(state_writer_save(&w, &dir), -EFBIG);
	CHECK(said("EFBIG: it could not be put together"));
	state_writer_fini(&w);

	/* In the wrong order, too many, no name. */
	state_writer_init(&w, "x86_64");
	state_writer_begin(&w, TAG_A, 0, 1);
	state_writer_begin(&w, TAG_A, 1, 1);
	CHECK_EQ(state_writer_save(&w, &dir), -EINVAL);
	state_writer_fini(&w);
	state_writer_init(&w, "x86_64");
	state_writer_begin(&w, TAG_A, 0, 1);
	CHECK_EQ(state_writer_save(&w, &dir), -EINVAL);
	state_writer_fini(&w);
	state_writer_init(&w, "x86_64");
	state_writer_end(&w);
	CHECK_EQ(state_writer_save(&w, &dir), -EINVAL);
	state_writer_fini(&w);
	state_writer_init(&w, "a_name_too_long_x");
	CHECK_EQ(state_writer_save(&w, &dir), -EINVAL);
	state_writer_fini(&w);
	state_writer_init(&w, "x86_64");
	for (uint32_t i = 0; i <= STATE_FILE_MAX_SECTIONS; i++) {
		state_writer_begin(&w, TAG_A, i, 1);
		state_writer_end(&w);
	}
	CHECK_EQ(state_writer_save(&w, &dir), -E2BIG);
	state_writer_fini(&w);
	state_writer_init(&w, "x86_64");
	state_writer_fail(&w, -ENXIO);
	fill(&w);
	CHECK_EQ(state_writer_save(&w, &dir), -ENXIO);
	state_writer_fini(&w);
	log_clear();
	CHECK(faccessat(dir.fd, "state.new", F_OK, 0) < 0);
	CHECK_EQ(try(file, file_len), 0);
}

/* As many sections as there may be, which is also how long the search for double ones takes. */
static void most_sections(void)
{
	struct state_reader r;
	struct state_writer w;

	state_writer_init(&w, "x86_64");
	for (uint32_t i = 0; i < STATE_FILE_MAX_SECTIONS; i++) {
		state_writer_begin(&w, TAG_A, i, 1);
		state_writer_u32(&w, i);
		state_writer_end(&w);
	}
	CHECK_EQ(state_writer_save(&w, &dir), 0);
	CHECK_EQ(snapshot_dir_replace(&dir, "state"), 0);
	state_writer_fini(&w);
	CHECK_EQ(state_reader_open(&r, &dir, "x86_64"), 0);
	CHECK_EQ(state_reader_count(&r, TAG_A), STATE_FILE_MAX_SECTIONS);
	state_reader_close(&r);
	make_file();
}

/* Every place at which the file system may be full: the old state stays. */
static void disk_full(void)
{
	struct rlimit old, limit;
	struct state_reader r;
	struct state_writer w;
	uint64_t sum;

	signal(SIGXFSZ, SIG_IGN);
	CHECK(!getrlimit(RLIMIT_FSIZE, &old));
	for (size_t room = 0; room < file_len; room++) {
		state_writer_init(&w, "x86_64");
		fill(&w);
		limit = old;
		limit.rlim_cur = room;
		/* The log's own file is shorter than any of these, or not written. */
		log_set_fd(-1, false);
		CHECK(!setrlimit(RLIMIT_FSIZE, &limit));
		int ret = state_writer_save(&w, &dir);
		CHECK(!setrlimit(RLIMIT_FSIZE, &old));
		log_set_fd(log_fd, false);
		CHECK_EQ(ret, -EFBIG);
		state_writer_fini(&w);
		CHECK(faccessat(dir.fd, "state.new", F_OK, 0) < 0);
		CHECK_EQ(state_reader_open(&r, &dir, "x86_64"), 0);
		CHECK_EQ(take_all(&r, &sum), 0);
		state_reader_close(&r);
	}
}

int main(void)
{
	snprintf(dir_path, sizeof(dir_path), "/tmp/vinit-state-XXXXXX");
	log_fd = memfd_create("log", 0);
	if (!mkdtemp(dir_path) || log_fd < 0)
		return 1;
	log_set_fd(log_fd, false);
	if (snapshot_dir_open(&dir, dir_path, true))
		return 1;
	dir.path = "dir";
	make_file();
	RUN(crc);
	RUN(round_trip);
	RUN(on_disk);
	RUN(every_bit);
	RUN(every_length);
	RUN(versions);
	RUN(architectures);
	RUN(lying_lengths);
	RUN(which_sections);
	RUN(getters);
	RUN(hostile);
	RUN(other_files);
	RUN(writer_errors);
	RUN(most_sections);
	RUN(disk_full);
	unlinkat(dir.fd, "state", 0);
	snapshot_dir_close(&dir);
	rmdir(dir_path);
	return TEST_RESULT();
}
