/* SPDX-License-Identifier: MIT */
#include "initramfs/config.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>
#include "initramfs/file.h"
#include "vm/conf.h"
#include "vm/log.h"

void init_config_defaults(struct init_config *config)
{
	*config = (struct init_config){
		.exec_end = ACTION_CONTINUE,
		.rescue = RESCUE_NO,
		.autostart = true,
		.modules = "/etc/vinit/modules",
		.log_level = LOG_INFO,
		.stop_timeout_s = 30,
		.on_all_stopped = ACTION_NONE,
	};
}

static int set_text(char *to, size_t size, const char *value, struct policy_why *why)
{
	size_t len = strlen(value);

	if (len >= size)
		return policy_refuse(why, "a text of at most %zu bytes", size - 1);
	memcpy(to, value, len + 1);
	return 0;
}

static int set_rescue(struct init_config *config, const char *value, struct policy_why *why)
{
	bool yes;

	if (!strcmp(value, "now")) {
		config->rescue = RESCUE_NOW;
		return 0;
	}
	if (conf_bool(value, &yes))
		return policy_refuse(why, "no, yes or now");
	config->rescue = yes ? RESCUE_YES : RESCUE_NO;
	return 0;
}

static int set_log(struct init_config *config, const char *value, struct policy_why *why)
{
	if (strcmp(value, "console") && strcmp(value, "kmsg"))
		return policy_refuse(why, "console or kmsg");
	config->log_kmsg = !strcmp(value, "kmsg");
	return 0;
}

static int set_key(struct init_config *config, const char *key, const char *value,
		   struct policy_why *why)
{
	unsigned long n;
	int level;

	if (!strcmp(key, "exec"))
		return set_text(config->exec, sizeof(config->exec), value, why);
	if (!strcmp(key, "exec-end"))
		return action_parse(value, ACTIONS_MACHINE | ACTION_BIT(ACTION_CONTINUE),
				    &config->exec_end, why);
	if (!strcmp(key, "rescue"))
		return set_rescue(config, value, why);
	if (!strcmp(key, "autostart"))
		return conf_bool(value, &config->autostart) ? policy_refuse(why, "yes or no") : 0;
	if (!strcmp(key, "modules"))
		return set_text(config->modules, sizeof(config->modules), value, why);
	if (!strcmp(key, "log"))
		return set_log(config, value, why);
	if (!strcmp(key, "on-all-stopped"))
		return action_parse(value, ACTIONS_MACHINE | ACTION_BIT(ACTION_NONE),
				    &config->on_all_stopped, why);
	if (!strcmp(key, "log-level")) {
		level = log_parse_level(value);
		if (level < 0)
			return policy_refuse(why, "error, warn, info or debug");
		config->log_level = level;
	} else if (!strcmp(key, "stop-timeout")) {
		if (conf_number(value, 0, 86400, &n))
			return policy_refuse(why, "a number of seconds, 0 to 86400,");
		config->stop_timeout_s = n;
	} else {
		return -ENOENT;
	}
	return 0;
}

int init_config_line(void *opaque, const struct conf_line *line)
{
	struct policy_why why;
	int err;

	if (!line->key) {
		log_err("%s:%u: [%s]: there are no sections in this file", line->file, line->line,
			line->section);
		return 0;
	}
	if (*line->section)
		return 0; /* said once, at the section's line */
	err = set_key(opaque, line->key, line->value, &why);
	if (err == -ENOENT)
		log_err("%s:%u: \"%s\": no such key; the line is ignored", line->file, line->line,
			line->key);
	else if (err)
		log_err("%s:%u: %s = \"%.100s\": %s is expected; the line is ignored", line->file,
			line->line, line->key, line->value, why.text);
	return 0;
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\v' || c == '\f';
}

/*
 * Cuts the next word off *@rest and splits it at its first "=". Quotes are taken off where the
 * kernel takes them off (lib/cmdline.c, next_arg()): around the whole word, or around the value.
 */
static bool next_word(char **rest, char **key, char **value)
{
	bool quoted, in_quote = false;
	char *s = *rest, *eq = NULL, *word, *end;

	while (is_blank(*s))
		s++;
	if (!*s)
		return false;
	quoted = *s == '"';
	if (quoted) {
		s++;
		in_quote = true;
	}
	word = s;
	for (; *s && (in_quote || !is_blank(*s)); s++) {
		if (*s == '=' && !eq)
			eq = s;
		if (*s == '"')
			in_quote = !in_quote;
	}
	end = s;
	*rest = *s ? s + 1 : s;
	*end = '\0';
	if (quoted && end > word && end[-1] == '"')
		*--end = '\0';
	*key = word;
	*value = NULL;
	if (eq && eq < end) {
		*eq = '\0';
		*value = eq + 1;
		if (**value == '"') {
			++*value;
			if (end > *value && end[-1] == '"')
				end[-1] = '\0';
		}
	}
	return true;
}

void init_config_cmdline(struct init_config *config, char *cmdline)
{
	struct conf_line at = { .file = "/proc/cmdline", .line = 1, .section = "" };
	char *key, *value;

	while (next_word(&cmdline, &key, &value)) {
		if (!strcmp(key, "--") && !value)
			break;
		if (strncmp(key, "vinit.", 6))
			continue;
		key += 6;
		for (char *c = key; *c; c++) {
			if (*c == '_')
				*c = '-';
		}
		at.key = key;
		at.value = value ? value : "";
		init_config_line(config, &at);
	}
}

void init_config_load(struct init_config *config)
{
	static char cmdline[16384]; /* the kernels' limits are 2 to 4 KiB */
	ssize_t len;

	if (access(INIT_CONFIG_FILE, F_OK) == 0)
		conf_read(INIT_CONFIG_FILE, init_config_line, config);
	else
		log_debug("%s: %s: the defaults hold", INIT_CONFIG_FILE, errno_name(errno));
	len = file_read("/proc/cmdline", cmdline, sizeof(cmdline));
	if (len < 0)
		log_warn("/proc/cmdline: %s: no \"vinit.\" words are known", errno_name(len));
	else
		init_config_cmdline(config, cmdline);
}
