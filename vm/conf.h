/* SPDX-License-Identifier: MIT */
/*
 * The text of a configuration file: "[section]" lines, "key = value" lines, "#" comments. What the
 * keys mean is the caller's business.
 */
#ifndef VM_CONF_H
#define VM_CONF_H

#include <stdbool.h>
#include <stddef.h>

struct conf_line {
	const char *file;
	unsigned int line;
	const char *section; /* "" before the first one; a section that is opened twice is two sections */
	unsigned int section_nr; /* counts section lines, so that two [disk]s are told apart */
	const char *key;     /* NULL: the section was just opened */
	const char *value;   /* trimmed, may be empty */
};

/* 0, or -errno after logging "FILE:LINE: ..." itself. */
typedef int conf_fn(void *opaque, const struct conf_line *line);

#define CONF_MAX_SIZE (256 * 1024)

/*
 * Reads @file and calls @fn for each section and key. Stops at the first error. 0 or -errno; logs
 * with file and line: no "=", an empty key, a NUL, a line over 4095 bytes, a file over
 * CONF_MAX_SIZE.
 */
int conf_read(const char *file, conf_fn *fn, void *opaque);

/* The same on a buffer; @file is the name in messages. */
int conf_parse(const char *file, const char *buf, size_t len, conf_fn *fn, void *opaque);

/* "yes", "no", "on", "off", "true", "false", "1", "0". 0 or -EINVAL; logs nothing. */
int conf_bool(const char *value, bool *out);

/*
 * Is it a guest's name? It shows up in logs, in arguments and in paths, whether an option or a
 * file's name gives it. 0 or -EINVAL; logs nothing: CONF_NAME_RULE says what is wrong.
 */
int conf_name(const char *value);

#define CONF_NAME_SIZE 64 /* with the NUL */
#define CONF_NAME_RULE                                                                             \
	"a guest's name has 1 to 63 letters, digits, '-', '_' and '.', neither '-' nor '.' in front"

/* A whole decimal number in [min, max]. 0 or -EINVAL; logs nothing. */
int conf_number(const char *value, unsigned long min, unsigned long max, unsigned long *out);

#endif
