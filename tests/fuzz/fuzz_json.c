/* SPDX-License-Identifier: MIT */
/*
 * The JSON reader with a table of every type, and the writer: whatever it is given to write, the
 * reader takes it, and what was a string in the input comes back as the same string.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "api/json.h"

static void check_error(int ret, const char *error)
{
	if (!ret != !*error || strlen(error) >= JSON_ERROR_SIZE)
		abort();
	for (; *error; error++) {
		if (*error < 0x20 || *error > 0x7e)
			abort();
	}
}

/* Writes @text as a member and reads it back. */
static void round_trip(const char *text, bool same)
{
	static char out[65536], back[65536];
	struct json_member m = { "s", JSON_STRING, .to = back, .size = sizeof(back) };
	char error[JSON_ERROR_SIZE];
	struct json_writer w;

	json_put_start(&w, out, sizeof(out));
	json_put_object(&w, NULL);
	json_put_string(&w, "s", text);
	json_put_end(&w);
	if (json_put_check(&w))
		return; /* too long */
	if (json_read(out, w.len, &m, 1, error, sizeof(error)) || (same && strcmp(back, text)))
		abort();
}

static void read_elements(struct json_text array)
{
	char error[JSON_ERROR_SIZE];
	struct json_text element;

	while (json_next(&array, &element)) {
		uint64_t u;
		char s[16];
		struct json_member number = { "element", JSON_UNSIGNED, .to = &u };
		struct json_member string = { "element", JSON_STRING, .to = s, .size = sizeof(s) };

		if (!element.len)
			abort();
		check_error(json_read_value(element, &number, error, sizeof(error)), error);
		check_error(json_read_value(element, &string, error, sizeof(error)), error);
		if (string.given)
			round_trip(s, true);
	}
}

static void read_table(const char *text, size_t size)
{
	static const char words[] = "Paused\0Resumed\0";
	bool b;
	uint64_t u, x;
	int64_t i;
	char s[64], error[JSON_ERROR_SIZE];
	unsigned int w = 0;
	struct json_text l, a;
	struct json_member inner[] = {
		{ "x", JSON_UNSIGNED, .to = &x, .required = true },
		{ "l", JSON_ARRAY, .to = &l },
	};
	struct json_table table = { inner, 2 };
	struct json_member members[] = {
		{ "b", JSON_BOOL, .to = &b },
		{ "u", JSON_UNSIGNED, .to = &u, .min = 1, .max = 32 },
		{ "i", JSON_SIGNED, .to = &i, .min = (uint64_t)-5, .max = 5 },
		{ "s", JSON_STRING, .to = s, .size = sizeof(s), .null_is_none = true },
		{ "w", JSON_WORD, .to = &w, .words = words },
		{ "o", JSON_OBJECT, .to = &table },
		{ "l", JSON_ARRAY, .to = &l },
		{ "a", JSON_ANY, .to = &a },
	};
	int ret = json_read(text, size, members, 8, error, sizeof(error));

	check_error(ret, error);
	if (ret)
		return;
	if ((members[1].given && (u < 1 || u > 32)) || (members[2].given && (i < -5 || i > 5)) ||
	    w > 1)
		abort();
	if (members[3].given)
		round_trip(s, true);
	if (members[6].given)
		read_elements(l);
	if (members[7].given && (a.at < text || a.at + a.len > text + size || !a.len))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	round_trip(text, false);
	free(text);
	/* Without a byte behind it. */
	text = malloc(size + !size);
	if (!text)
		return 0;
	memcpy(text, data, size);
	read_table(text, size);
	free(text);
	return 0;
}
