/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include "api/json.h"
#include "tests/unit/test.h"

static char error[JSON_ERROR_SIZE];

/* On a copy of exactly @len bytes, so that one read too many is seen. */
static int read_bytes(const char *text, size_t len, struct json_member *members, size_t nr)
{
	char *copy = malloc(len + !len);
	int ret;

	memcpy(copy, text, len);
	ret = json_read(copy, len, members, nr, error, sizeof(error));
	free(copy);
	CHECK_EQ(!ret, !*error);
	for (const char *c = error; *c; c++)
		CHECK(*c >= 0x20 && *c < 0x7f);
	return ret;
}

/* --- the grammar: any value as the member "a" ----------------------------------------------- */

static int read_any(const char *value, size_t len)
{
	struct json_text any;
	struct json_member m = { "a", JSON_ANY, .to = &any };
	char text[512];
	size_t n = (size_t)sprintf(text, "{\"a\":");
	int ret;

	memcpy(text + n, value, len);
	text[n + len] = '}';
	ret = read_bytes(text, n + len + 1, &m, 1);
	if (ret)
		return ret;
	CHECK(m.given);
	for (size_t cut = 0; cut < n + len + 1; cut++)
		CHECK_EQ(read_bytes(text, cut, &m, 1), -EINVAL);
	return 0;
}

static const char *const good[] = {
	"0",
	"-0",
	"1",
	"-1",
	"10",
	"0.5",
	"-0.0",
	"1e5",
	"1E+5",
	"1.25e-10",
	"123456789012345678901",
	"true",
	"false",
	"null",
	"\"\"",
	"\"a\"",
	" 1",
	"1 ",
	"\t\r\n 1\t\r\n ",
	"[]",
	"[ ]",
	"{}",
	"{ }",
	"[1]",
	"[1,2]",
	"[ 1 , [ ] , { } ]",
	"{\"b\":1}",
	"{\"b\" : 1 , \"c\" : [null]}",
	"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
	"\"\\u0041\\u00e9\\u20AC\"",
	"\"\\uD83D\\ude00\"",
	"\"\\u0000\"",
	"\"\x7f\"",
	"\"\xc2\x80\"",
	"\"\xdf\xbf\"",
	"\"\xe0\xa0\x80\"",
	"\"\xed\x9f\xbf\"",
	"\"\xee\x80\x80\"",
	"\"\xef\xbf\xbf\"",
	"\"\xf0\x90\x80\x80\"",
	"\"\xf4\x8f\xbf\xbf\"",
	"\"/\"",
	"[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]",
};

static const char *const broken[] = {
	"",
	" ",
	"+1",
	"01",
	"-01",
	"00",
	"-",
	".5",
	"1.",
	"1.e5",
	"1e",
	"1e+",
	"0x10",
	"1_0",
	"Infinity",
	"NaN",
	"-Infinity",
	"True",
	"TRUE",
	"tru",
	"truex",
	"nul",
	"nulll",
	"'a'",
	"a",
	"\"",
	"\"a",
	"\"\\\"",
	"\"\\x41\"",
	"\"\\a\"",
	"\"\\u\"",
	"\"\\u12\"",
	"\"\\u12g4\"",
	"\"\\u 123\"",
	"\"\\u+123\"",
	"\"\\ud800\"",
	"\"\\ud800x\"",
	"\"\\ud800\\n\"",
	"\"\\ud800\\u0041\"",
	"\"\\ud800\\ud800\"",
	"\"\\udc00\"",
	"\"\\udc00\\ud800\"",
	"\"\\udc00\\udc00\"",
	"\"\\ud800\\ue000\"",
	"\"\n\"",
	"\"\t\"",
	"\"\x01\"",
	"\"\x1f\"",
	"[",
	"]",
	"[1",
	"[1,",
	"[1,]",
	"[,1]",
	"[1 2]",
	"[1,,2]",
	"[1}",
	"{",
	"{]",
	"{\"b\"}",
	"{\"b\":}",
	"{\"b\":1,}",
	"{,}",
	"{b:1}",
	"{1:1}",
	"{\"b\":1 \"c\":1}",
	"{\"b\":1,,\"c\":1}",
	"{\"b\"::1}",
	"{\"b\":1]",
	"1,",
	"1}",
	"1 1",
	"/* */ 1",
	"1 // x",
	"\v1",
	"\f1",
	"\xc2\xa0"
	"1",
	"\xef\xbb\xbf"
	"1",
	/* UTF-8 that is none */
	"\"\x80\"",
	"\"\xbf\"",
	"\"\xc0\x80\"",
	"\"\xc1\xbf\"",
	"\"\xc2\"",
	"\"\xc2\x20\"",
	"\"\xc2\xc2\"",
	"\"\xe0\x80\x80\"",
	"\"\xe0\x9f\xbf\"",
	"\"\xe2\x82\"",
	"\"\xe2\x82\x20\"",
	"\"\xed\xa0\x80\"",
	"\"\xed\xbf\xbf\"",
	"\"\xf0\x80\x80\x80\"",
	"\"\xf0\x8f\xbf\xbf\"",
	"\"\xf0\x9f\x98\"",
	"\"\xf4\x90\x80\x80\"",
	"\"\xf5\x80\x80\x80\"",
	"\"\xff\"",
	"\"\xfe\"",
	/* one level too many */
	"[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]",
};

static void test_grammar(void)
{
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		int ret = read_any(good[i], strlen(good[i]));

		if (ret)
			printf("  %s: %s\n", good[i], error);
		CHECK_EQ(ret, 0);
	}
	for (size_t i = 0; i < sizeof(broken) / sizeof(*broken); i++) {
		int ret = read_any(broken[i], strlen(broken[i]));

		if (!ret)
			printf("  taken: %s\n", broken[i]);
		CHECK_EQ(ret, -EINVAL);
	}
	CHECK_EQ(read_any("\"a\0b\"", 5), -EINVAL);
	CHECK_EQ(read_any("\0", 1), -EINVAL);
	CHECK_EQ(read_any("\"\\\0\"", 4), -EINVAL);
}

static void test_outermost(void)
{
	static const char *const bad[] = { "",	  " ",	   "[]",  "1",	 "null",	   "\"a\"",
					   "{}x", "{} {}", "{},", "{}]", "\xef\xbb\xbf{}", "{",
					   "}" };

	CHECK_EQ(read_bytes("{}", 2, NULL, 0), 0);
	CHECK_EQ(read_bytes(" \r\n\t{ } \n", 9, NULL, 0), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		CHECK_EQ(read_bytes(bad[i], strlen(bad[i]), NULL, 0), -EINVAL);
	CHECK_EQ(read_bytes("{}\0", 3, NULL, 0), -EINVAL);
}

/* --- tables --------------------------------------------------------------------------------- */

static const char words[] = "Paused\0Resumed\0";

struct target {
	bool b;
	uint64_t u;
	int64_t i;
	char s[8];
	unsigned int w;
	uint64_t inner;
	struct json_text array;
};

static struct target t;
static struct json_member inner[] = { { "x", JSON_UNSIGNED, .to = &t.inner, .required = true } };
static struct json_table table = { inner, 1 };
static struct json_member members[] = {
	{ "b", JSON_BOOL, .to = &t.b },
	{ "u", JSON_UNSIGNED, .to = &t.u, .min = 1, .max = 32 },
	{ "i", JSON_SIGNED, .to = &t.i, .min = (uint64_t)-5, .max = 5 },
	{ "s", JSON_STRING, .to = t.s, .size = sizeof(t.s), .null_is_none = true },
	{ "w", JSON_WORD, .to = &t.w, .words = words },
	{ "o", JSON_OBJECT, .to = &table },
	{ "l", JSON_ARRAY, .to = &t.array },
};

#define NR (sizeof(members) / sizeof(*members))

static int read_table(const char *text)
{
	memset(&t, 0x55, sizeof(t));
	return read_bytes(text, strlen(text), members, NR);
}

static void test_types(void)
{
	static const char text[] = "{\"b\":true,\"u\":32,\"i\":-5,\"s\":\"\\u00e9/\\n\",\"w\":"
				   "\"Resumed\",\"\\u006f\":{\"x\":7},\"l\":[1]}";

	CHECK_EQ(read_table(text), 0);
	CHECK(t.b);
	CHECK_EQ(t.u, 32);
	CHECK_EQ(t.i, -5);
	CHECK_STR(t.s, "\xc3\xa9/\n");
	CHECK_EQ(t.w, 1);
	CHECK_EQ(t.inner, 7);
	for (size_t i = 0; i < NR; i++)
		CHECK(members[i].given);
	CHECK_EQ(read_table("{\"b\":false,\"s\":null}"), 0);
	CHECK(!t.b && members[0].given);
	CHECK(!members[1].given && t.u == 0x5555555555555555);
	CHECK(!members[3].given && t.s[0] == 0x55);
	CHECK_EQ(read_table("{\"s\":\"1234567\",\"u\":1}"), 0);
	CHECK_STR(t.s, "1234567");
	CHECK_EQ(read_table("{\"s\":\"\"}"), 0);
	CHECK_STR(t.s, "");
}

struct sentence {
	const char *text;
	const char *says;
};

static const struct sentence sentences[] = {
	{ "{\"b\":1}", "\"b\": expected true or false, found 1" },
	{ "{\"b\":null}", "\"b\": expected true or false, found null" },
	{ "{\"b\":\"true\"}", "\"b\": expected true or false, found \"true\"" },
	{ "{\"u\":0}", "\"u\": expected a whole number from 1 to 32, found 0" },
	{ "{\"u\":33}", "\"u\": expected a whole number from 1 to 32, found 33" },
	{ "{\"u\":-1}", "\"u\": expected a whole number from 1 to 32, found -1" },
	{ "{\"u\":2.0}", "\"u\": expected a whole number from 1 to 32, found 2.0" },
	{ "{\"u\":1e1}", "\"u\": expected a whole number from 1 to 32, found 1e1" },
	{ "{\"u\":\"2\"}", "\"u\": expected a whole number from 1 to 32, found \"2\"" },
	{ "{\"u\":[]}", "\"u\": expected a whole number from 1 to 32, found an array" },
	/* 2^64 + 2: not 2 */
	{ "{\"u\":18446744073709551618}",
	  "\"u\": expected a whole number from 1 to 32, found 18446744073709551618" },
	{ "{\"i\":6}", "\"i\": expected a whole number from -5 to 5, found 6" },
	{ "{\"i\":-6}", "\"i\": expected a whole number from -5 to 5, found -6" },
	{ "{\"i\":-18446744073709551615}",
	  "\"i\": expected a whole number from -5 to 5, found -18446744073709551615" },
	{ "{\"s\":\"12345678\"}", "\"s\": expected a string of at most 7 bytes, found 8" },
	{ "{\"s\":\"a\\u0000b\"}", "\"s\": expected a string without U+0000" },
	{ "{\"s\":{}}", "\"s\": expected a string, found an object" },
	{ "{\"w\":\"paused\"}",
	  "\"w\": expected one of \"Paused\", \"Resumed\", found \"paused\"" },
	{ "{\"w\":\"Pause\"}", "\"w\": expected one of \"Paused\", \"Resumed\", found \"Pause\"" },
	{ "{\"w\":\"\xc3\xa9\\u001b[\"}",
	  "\"w\": expected one of \"Paused\", \"Resumed\", found \"???[\"" },
	{ "{\"w\":0}", "\"w\": expected one of \"Paused\", \"Resumed\", found 0" },
	{ "{\"o\":[]}", "\"o\": expected an object, found an array" },
	{ "{\"o\":{}}", "\"o\": \"x\": the member is missing" },
	{ "{\"o\":{\"x\":true}}",
	  "\"o\": \"x\": expected a whole number from 0 to 18446744073709551615, found true" },
	{ "{\"o\":{\"y\":1}}", "\"o\": \"y\": no such member: expected \"x\"" },
	{ "{\"l\":{}}", "\"l\": expected an array, found an object" },
	{ "{\"b\":true,\"b\":true}", "\"b\": the member comes twice" },
	{ "{\"b\":true,\"\\u0062\":true}", "\"b\": the member comes twice" },
	{ "{\"s\":null,\"s\":\"\"}", "\"s\": the member comes twice" },
	{ "{\"B\":true}",
	  "\"B\": no such member: expected \"b\", \"u\", \"i\", \"s\", \"w\", \"o\", \"l\"" },
	{ "{\"\":true}",
	  "\"\": no such member: expected \"b\", \"u\", \"i\", \"s\", \"w\", \"o\", \"l\"" },
	{ "{\"b\\u0000\":true}",
	  "\"b?\": no such member: expected \"b\", \"u\", \"i\", \"s\", \"w\", \"o\", \"l\"" },
	{ "{\"0123456789012345678901234567890123456789012345678901234567890123456789\":1}",
	  "\"01234567890123456789012345678901...\": no such member: expected \"b\", \"u\", \"i\", "
	  "\"s\", \"w\", \"o\", \"l\"" },
	{ "", "byte 0: expected an object, found the end" },
	{ "[]", "byte 0: expected an object, found '['" },
	{ "{\"b\" true}", "byte 5: expected ':' after a member's name, found 't'" },
	{ "{\"b\":true;}", "byte 9: expected ',' or '}', found ';'" },
	{ "{\"b\":true} x", "byte 11: expected nothing after the object, found 'x'" },
	{ "{\"b\":\x01}", "byte 5: expected a value, found byte 0x01" },
};

static void test_sentences(void)
{
	for (size_t i = 0; i < sizeof(sentences) / sizeof(*sentences); i++) {
		CHECK_EQ(read_table(sentences[i].text), -EINVAL);
		CHECK_STR(error, sentences[i].says);
	}
	/* A short buffer: a shorter sentence, and not a byte beyond. */
	for (size_t size = 0; size < 24; size++) {
		char *small = malloc(size + !size);

		CHECK_EQ(json_read("{\"b\":1}", 7, members, NR, small, size), -EINVAL);
		if (size)
			CHECK(strlen(small) < size);
		free(small);
	}
}

/* A mistake at the end of the text, and nothing before it has been touched. */
static void test_checked_first(void)
{
	CHECK_EQ(read_table("{\"b\":true,\"u\":5,\"i\":1"), -EINVAL);
	CHECK_EQ(t.u, 0x5555555555555555);
}

static void test_required(void)
{
	uint64_t a = 0, b = 0;
	struct json_member two[] = {
		{ "a", JSON_UNSIGNED, .to = &a, .required = true, .null_is_none = true },
		{ "b", JSON_UNSIGNED, .to = &b, .null_is_none = true },
	};

	CHECK_EQ(read_bytes("{\"a\":1}", 7, two, 2), 0);
	CHECK_EQ(read_bytes("{\"b\":1}", 7, two, 2), -EINVAL);
	CHECK_STR(error, "\"a\": the member is missing");
	CHECK_EQ(read_bytes("{\"a\":null}", 10, two, 2), -EINVAL);
	CHECK_EQ(read_bytes("{\"a\":1,\"b\":null}", 16, two, 2), 0);
}

static int read_unsigned(const char *text, uint64_t min, uint64_t max, uint64_t *value)
{
	struct json_member m = { "n", JSON_UNSIGNED, .to = value, .min = min, .max = max };

	return json_read_value((struct json_text){ text, strlen(text) }, &m, error, sizeof(error));
}

static int read_signed(const char *text, int64_t *value)
{
	struct json_member m = { "n", JSON_SIGNED, .to = value };

	return json_read_value((struct json_text){ text, strlen(text) }, &m, error, sizeof(error));
}

static void test_number_edges(void)
{
	uint64_t u;
	int64_t i;

	CHECK_EQ(read_unsigned("18446744073709551615", 0, 0, &u), 0);
	CHECK(u == UINT64_MAX);
	CHECK_EQ(read_unsigned("18446744073709551616", 0, 0, &u), -EINVAL);
	CHECK_EQ(read_unsigned("18446744073709551625", 0, 0, &u), -EINVAL);
	CHECK_EQ(read_unsigned("99999999999999999999", 0, 0, &u), -EINVAL);
	CHECK_EQ(read_unsigned("-0", 0, 0, &u), 0);
	CHECK_EQ(u, 0);
	CHECK_EQ(read_unsigned("-1", 0, 0, &u), -EINVAL);
	CHECK_EQ(read_unsigned("7", 8, 0, &u), -EINVAL); /* a min, no max */
	CHECK_EQ(read_unsigned("8", 8, 0, &u), 0);
	CHECK_EQ(read_signed("9223372036854775807", &i), 0);
	CHECK(i == INT64_MAX);
	CHECK_EQ(read_signed("9223372036854775808", &i), -EINVAL);
	CHECK_EQ(read_signed("-9223372036854775808", &i), 0);
	CHECK(i == INT64_MIN);
	CHECK_EQ(read_signed("-9223372036854775809", &i), -EINVAL);
	CHECK_EQ(read_signed("-18446744073709551616", &i), -EINVAL);
	CHECK_EQ(read_signed("1.0", &i), -EINVAL);
	CHECK_EQ(read_signed("1e0", &i), -EINVAL);
}

static void test_array(void)
{
	static const char text[] = "{\"l\" : [ 10 ,{\"x\":[1,2]},\t\"],\" , [] ]}";
	static const char *const want[] = { "10", "{\"x\":[1,2]}", "\"],\"", "[]" };
	struct json_member m = { "l", JSON_ARRAY, .to = &t.array };
	struct json_text element;
	unsigned int n = 0;

	CHECK_EQ(json_read(text, strlen(text), &m, 1, error, sizeof(error)), 0);
	while (n < 10 && json_next(&t.array, &element)) {
		CHECK_EQ(element.len, strlen(want[n]));
		CHECK(!memcmp(element.at, want[n], element.len));
		n++;
	}
	CHECK_EQ(n, 4);
	CHECK_EQ(json_next(&t.array, &element), 0);
	CHECK_EQ(json_read("{\"l\":[ ]}", 9, &m, 1, error, sizeof(error)), 0);
	CHECK_EQ(json_next(&t.array, &element), 0);
}

/* --- writing -------------------------------------------------------------------------------- */

static void put_all(struct json_writer *w)
{
	json_put_object(w, NULL);
	json_put_string(w, "s", "a\"\\/\n\x01\x7f\xc3\xa9\xff\xc3");
	json_put_unsigned(w, "u", UINT64_MAX);
	json_put_signed(w, "i", INT64_MIN);
	json_put_array(w, "l");
	json_put_bool(w, NULL, true);
	json_put_null(w, NULL);
	json_put_object(w, NULL);
	json_put_end(w);
	json_put_array(w, NULL);
	json_put_end(w);
	json_put_end(w);
	json_put_string(w, "n\n", NULL);
	json_put_format(w, "f", "%s %d", "x", 5);
	json_put_end(w);
}

static const char all[] = "{\"s\":\"a\\\"\\\\/\\u000a\\u0001\\u007f\xc3\xa9\\ufffd\\ufffd\","
			  "\"u\":18446744073709551615,\"i\":-9223372036854775808,"
			  "\"l\":[true,null,{},[]],\"n\\u000a\":null,\"f\":\"x 5\"}";

static void test_writer(void)
{
	size_t len = strlen(all);
	struct json_writer w;

	for (size_t size = 0; size < len + 8; size++) {
		char *out = malloc(size + !size);

		json_put_start(&w, out, size);
		put_all(&w);
		CHECK(w.len <= size);
		CHECK_EQ(json_put_check(&w), size < len ? -ENOSPC : 0);
		if (size >= len) {
			CHECK_EQ(w.len, len);
			CHECK(!memcmp(out, all, len));
		}
		free(out);
	}
}

/* What is written is read back as what it was. */
static void test_round_trip(void)
{
	char text[1024], back[128], value[128];
	struct json_member m = { "s", JSON_STRING, .to = back, .size = sizeof(back) };
	struct json_writer w;
	size_t n = 0;

	for (int c = 1; c < 0x80; c++)
		value[n++] = (char)c;
	value[n] = '\0';
	json_put_start(&w, text, sizeof(text));
	json_put_object(&w, NULL);
	json_put_string(&w, "s", value);
	json_put_end(&w);
	CHECK_EQ(json_put_check(&w), 0);
	CHECK_EQ(json_read(text, w.len, &m, 1, error, sizeof(error)), 0);
	CHECK_STR(back, value);
}

static void test_misuse(void)
{
	char out[256];
	struct json_writer w;

	json_put_start(&w, out, sizeof(out));
	CHECK_EQ(json_put_check(&w), 0);
	json_put_end(&w);
	CHECK_EQ(json_put_check(&w), -EINVAL);
	json_put_start(&w, out, sizeof(out));
	json_put_object(&w, NULL);
	CHECK_EQ(json_put_check(&w), -EINVAL);
	json_put_null(&w, NULL); /* in an object */
	json_put_end(&w);
	CHECK_EQ(json_put_check(&w), -EINVAL);
	json_put_start(&w, out, sizeof(out));
	json_put_array(&w, NULL);
	json_put_null(&w, "name"); /* in an array */
	json_put_end(&w);
	CHECK_EQ(json_put_check(&w), -EINVAL);
	json_put_start(&w, out, sizeof(out));
	json_put_null(&w, NULL);
	json_put_null(&w, NULL); /* a second outermost one */
	CHECK_EQ(json_put_check(&w), -EINVAL);
	json_put_start(&w, out, sizeof(out));
	for (int i = 0; i < 33; i++)
		json_put_array(&w, NULL);
	for (int i = 0; i < 33; i++)
		json_put_end(&w);
	CHECK_EQ(json_put_check(&w), -EINVAL);
}

int main(void)
{
	RUN(test_grammar);
	RUN(test_outermost);
	RUN(test_types);
	RUN(test_sentences);
	RUN(test_checked_first);
	RUN(test_required);
	RUN(test_number_edges);
	RUN(test_array);
	RUN(test_writer);
	RUN(test_round_trip);
	RUN(test_misuse);
	return TEST_RESULT();
}
