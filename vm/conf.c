/* SPDX-License-Identifier: MIT */
#include "vm/conf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "vm/log.h"

#define CONF_MAX_LINE 4095

/* The carriage return is white space, so that a file written on Windows reads the same. */
static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f';
}

/* Cuts blanks off both ends of [@s, @end), where *end may be written. */
static char *trim(char *s, char *end)
{
	while (s < end && is_blank(*s))
		s++;
	while (end > s && is_blank(end[-1]))
		end--;
	*end = '\0';
	return s;
}

static int parse_section(struct conf_line *at, char *text, char *section, conf_fn *fn, void *opaque)
{
	size_t len = strlen(text);
	char *name;

	if (text[len - 1] != ']') {
		log_err("%s:%u: \"%s\": a section line ends with \"]\"", at->file, at->line, text);
		return -EINVAL;
	}
	name = trim(text + 1, text + len - 1);
	if (!*name || strpbrk(name, "[]")) {
		log_err("%s:%u: a section's name is missing or has a bracket in it", at->file,
			at->line);
		return -EINVAL;
	}
	memcpy(section, name, strlen(name) + 1);
	at->section_nr++;
	at->key = NULL;
	at->value = NULL;
	return fn(opaque, at);
}

static int parse_key(struct conf_line *at, char *text, conf_fn *fn, void *opaque)
{
	char *end = text + strlen(text);
	char *eq = strchr(text, '=');

	if (!eq) {
		log_err("%s:%u: \"%s\": neither \"key = value\" nor \"[section]\" nor \"# comment\"",
			at->file, at->line, text);
		return -EINVAL;
	}
	at->value = trim(eq + 1, end);
	at->key = trim(text, eq);
	if (!*at->key) {
		log_err("%s:%u: there is no key before \"=\"", at->file, at->line);
		return -EINVAL;
	}
	return fn(opaque, at);
}

int conf_parse(const char *file, const char *buf, size_t len, conf_fn *fn, void *opaque)
{
	char text[CONF_MAX_LINE + 1], section[CONF_MAX_LINE + 1] = "";
	struct conf_line at = { .file = file, .section = section };
	const char *end = buf + len, *next;
	int err = 0;

	for (; buf < end && !err; buf = next) {
		const char *nl = memchr(buf, '\n', end - buf);
		size_t n = (nl ? nl : end) - buf;
		char *s;

		next = nl ? nl + 1 : end;
		at.line++;
		if (n > CONF_MAX_LINE) {
			log_err("%s:%u: the line has %zu bytes, %d are the limit", file, at.line, n,
				CONF_MAX_LINE);
			return -EINVAL;
		}
		if (memchr(buf, '\0', n)) {
			log_err("%s:%u: a NUL byte: is this a text file?", file, at.line);
			return -EINVAL;
		}
		memcpy(text, buf, n);
		s = trim(text, text + n);
		if (!*s || *s == '#')
			continue;
		if (*s == '[')
			err = parse_section(&at, s, section, fn, opaque);
		else
			err = parse_key(&at, s, fn, opaque);
	}
	return err;
}

/* Fills @buf up to @size or the file's end. The bytes read, or -errno. */
static ssize_t read_all(int fd, char *buf, size_t size)
{
	size_t len = 0;

	while (len < size) {
		ssize_t n = read(fd, buf + len, size - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n)
			break;
		len += n;
	}
	return len;
}

int conf_read(const char *file, conf_fn *fn, void *opaque)
{
	struct stat st;
	char *buf = NULL;
	ssize_t len;
	int fd, err;

	/* PID 1 reads through here: a FIFO in the file's place must not make it wait. */
	fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0) {
		err = -errno;
		log_err("%s: cannot open it: %s", file, errno_name(err));
		return err;
	}
	err = -EINVAL;
	if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
		log_err("%s: not a regular file", file);
		goto out;
	}
	/* One byte more than allowed, to see that there is more. */
	buf = malloc(CONF_MAX_SIZE + 1);
	if (!buf) {
		err = -ENOMEM;
		log_err("%s: no memory to read it: %s", file, errno_name(err));
		goto out;
	}
	len = read_all(fd, buf, CONF_MAX_SIZE + 1);
	if (len < 0) {
		err = len;
		log_err("%s: cannot read it: %s", file, errno_name(err));
	} else if (len > CONF_MAX_SIZE) {
		err = -EFBIG;
		log_err("%s: over %d bytes, the limit of a configuration file", file,
			CONF_MAX_SIZE);
	} else {
		err = conf_parse(file, buf, len, fn, opaque);
	}
out:
	free(buf);
	close(fd);
	return err;
}

int conf_bool(const char *value, bool *out)
{
	static const char words[][2][6] = {
		{ "no", "yes" }, { "off", "on" }, { "false", "true" }, { "0", "1" }
	};

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		for (int b = 0; b < 2; b++) {
			if (!strcmp(value, words[i][b])) {
				*out = b;
				return 0;
			}
		}
	}
	return -EINVAL;
}

int conf_name(const char *value)
{
	static const char chars[] = "abcdefghijklmnopqrstuvwxyz"
				    "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
				    "0123456789-_.";
	size_t len = strspn(value, chars);

	if (!len || value[len] || len >= CONF_NAME_SIZE || *value == '.' || *value == '-')
		return -EINVAL;
	return 0;
}

int conf_number(const char *value, unsigned long min, unsigned long max, unsigned long *out)
{
	unsigned long n = 0;

	/* Not strtoul(): it takes signs and blanks, and the locale's word for it. */
	if (!*value)
		return -EINVAL;
	for (; *value; value++) {
		if (*value < '0' || *value > '9' || __builtin_mul_overflow(n, 10UL, &n) ||
		    __builtin_add_overflow(n, (unsigned long)(*value - '0'), &n))
			return -EINVAL;
	}
	if (n < min || n > max)
		return -EINVAL;
	*out = n;
	return 0;
}
