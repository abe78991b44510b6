/* SPDX-License-Identifier: MIT */
/*
 * The configuration parser, and what PID 1 makes of its lines; the same bytes as a kernel command
 * line.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "initramfs/config.h"
#include "initramfs/policy.h"
#include "vm/conf.h"
#include "vm/log.h"

struct seen {
	struct policy policy;
	struct init_config config;
	unsigned int section_nr;
	unsigned int line;
};

static int line(void *opaque, const struct conf_line *at)
{
	struct seen *seen = opaque;

	/* What the header promises. */
	if (at->line <= seen->line || at->section_nr < seen->section_nr ||
	    at->section_nr > seen->section_nr + 1 || !at->section != !at->file ||
	    (at->section_nr != 0) != (*at->section != '\0') ||
	    (at->key && (!*at->key || !at->value)) ||
	    (!at->key && at->section_nr != seen->section_nr + 1))
		abort();
	seen->line = at->line;
	seen->section_nr = at->section_nr;
	if (!policy_line(&seen->policy, at))
		init_config_line(&seen->config, at);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct seen seen;
	char *text = malloc(size + 1);

	if (!text)
		return 0;
	log_set_fd(-1, false);
	memset(&seen, 0, sizeof(seen));
	policy_defaults(&seen.policy);
	init_config_defaults(&seen.config);
	memcpy(text, data, size);
	conf_parse("fuzz", text, size, line, &seen);
	text[size] = '\0';
	init_config_cmdline(&seen.config, text);
	free(text);
	return 0;
}
