/* SPDX-License-Identifier: MIT */
#include "initramfs/policy.h"

#include <errno.h>
#include <stdarg.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include "vm/conf.h"
#include "vm/log.h"

/* clang-format off */
static const char action_names[ACTION_NR][9] = {
	[ACTION_NONE] = "none",
	[ACTION_CONTINUE] = "continue",
	[ACTION_STOP] = "stop",
	[ACTION_RESTART] = "restart",
	[ACTION_POWEROFF] = "poweroff",
	[ACTION_REBOOT] = "reboot",
	[ACTION_HALT] = "halt",
	[ACTION_RESCUE] = "rescue",
};
/* clang-format on */

const char *action_name(enum action action)
{
	return (unsigned int)action < ACTION_NR ? action_names[action] : "?";
}

int policy_refuse(struct policy_why *why, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why->text, sizeof(why->text), fmt, ap);
	va_end(ap);
	return -EINVAL;
}

/* "a, b or c" */
static int refuse_action(struct policy_why *why, unsigned int allowed)
{
	size_t len = 0;

	for (unsigned int i = 0; i < ACTION_NR && len < sizeof(why->text); i++) {
		const char *link = !len ? "" : allowed >> i == 1 ? " or " : ", ";

		if (allowed & ACTION_BIT(i))
			len += snprintf(why->text + len, sizeof(why->text) - len, "%s%s", link,
					action_names[i]);
	}
	return -EINVAL;
}

int action_parse(const char *word, unsigned int allowed, enum action *action,
		 struct policy_why *why)
{
	for (unsigned int i = 0; i < ACTION_NR; i++) {
		if ((allowed & ACTION_BIT(i)) && !strcmp(word, action_names[i])) {
			*action = i;
			return 0;
		}
	}
	return refuse_action(why, allowed);
}

void policy_defaults(struct policy *policy)
{
	*policy = (struct policy){
		.autostart = true,
		.on = {
			[POLICY_POWEROFF] = ACTION_STOP,
			[POLICY_RESET] = ACTION_RESTART,
			[POLICY_CRASH] = ACTION_RESTART,
			[POLICY_STOP] = ACTION_STOP,
			[POLICY_USAGE] = ACTION_STOP,
			[POLICY_FAILURE] = ACTION_RESTART,
		},
		.on_limit = ACTION_STOP,
		.delay_s = 1,
		.limit = 10,
		.window_s = 60,
	};
}

#define END_ACTIONS                                                                                \
	(ACTIONS_MACHINE | ACTION_BIT(ACTION_RESTART) | ACTION_BIT(ACTION_STOP) |                  \
	 ACTION_BIT(ACTION_RESCUE))

static int set_number(unsigned int *field, const char *value, unsigned int min, unsigned int max,
		      struct policy_why *why)
{
	unsigned long n;

	if (conf_number(value, min, max, &n))
		return policy_refuse(why, "a number, %u to %u,", min, max);
	*field = n;
	return 0;
}

static int set_key(struct policy *policy, const char *key, const char *value,
		   struct policy_why *why)
{
	static const char on_keys[POLICY_NR][12] = {
		[POLICY_POWEROFF] = "on-poweroff", [POLICY_RESET] = "on-reset",
		[POLICY_CRASH] = "on-crash",	   [POLICY_STOP] = "on-stop",
		[POLICY_FAILURE] = "on-failure",
	};

	for (int i = 0; i < POLICY_NR; i++) {
		if (*on_keys[i] && !strcmp(key, on_keys[i]))
			return action_parse(value, END_ACTIONS, &policy->on[i], why);
	}
	if (!strcmp(key, "on-limit"))
		return action_parse(value, END_ACTIONS & ~ACTION_BIT(ACTION_RESTART),
				    &policy->on_limit, why);
	if (!strcmp(key, "autostart"))
		return conf_bool(value, &policy->autostart) ? policy_refuse(why, "yes or no") : 0;
	/* A delay of 0 would stay 0 however often it doubles: a busy loop. */
	if (!strcmp(key, "restart-delay"))
		return set_number(&policy->delay_s, value, 1, 3600, why);
	if (!strcmp(key, "restart-limit"))
		return set_number(&policy->limit, value, 0, 1000000, why);
	if (!strcmp(key, "restart-window"))
		return set_number(&policy->window_s, value, 1, 1000000, why);
	return -ENOENT;
}

bool policy_line(struct policy *policy, const struct conf_line *line)
{
	struct policy_why why;
	int err;

	if (strcmp(line->section, "supervise"))
		return false;
	if (!line->key)
		return true;
	err = set_key(policy, line->key, line->value, &why);
	if (err == -ENOENT)
		log_err("%s:%u: \"%s\": no such key in [supervise]; the line is ignored",
			line->file, line->line, line->key);
	else if (err)
		log_err("%s:%u: %s = \"%.100s\": %s is expected; the line is ignored", line->file,
			line->line, line->key, line->value, why.text);
	return true;
}

enum policy_end policy_end_of(int wstatus)
{
	if (!WIFEXITED(wstatus))
		return POLICY_FAILURE;
	switch (WEXITSTATUS(wstatus)) {
	case 0:
		return POLICY_POWEROFF;
	case 2:
		return POLICY_USAGE;
	case 3:
		return POLICY_RESET;
	case 4:
		return POLICY_CRASH;
	case 5:
		return POLICY_STOP;
	default:
		return POLICY_FAILURE;
	}
}

void policy_describe(int wstatus, char *buf, size_t size)
{
	static const char words[][27] = {
		"powered off", "failed",  "bad usage or configuration",
		"reset",       "crashed", "ended from outside",
	};
	/* Those that kill. */
	static const char signals[][7] = {
		[SIGHUP] = "HUP",	[SIGINT] = "INT",   [SIGQUIT] = "QUIT", [SIGILL] = "ILL",
		[SIGTRAP] = "TRAP",	[SIGABRT] = "ABRT", [SIGBUS] = "BUS",	[SIGFPE] = "FPE",
		[SIGKILL] = "KILL",	[SIGUSR1] = "USR1", [SIGSEGV] = "SEGV", [SIGUSR2] = "USR2",
		[SIGPIPE] = "PIPE",	[SIGALRM] = "ALRM", [SIGTERM] = "TERM", [SIGSTKFLT] = "STKFLT",
		[SIGXCPU] = "XCPU",	[SIGXFSZ] = "XFSZ", [SIGVTALRM] = "VTALRM",
		[SIGPROF] = "PROF",	[SIGIO] = "IO",	    [SIGPWR] = "PWR",	[SIGSYS] = "SYS",
	};
	unsigned int status;

	if (WIFSIGNALED(wstatus)) {
		status = (unsigned int)WTERMSIG(wstatus);
		snprintf(buf, size, "killed by signal %u (SIG%s)", status,
			 status < sizeof(signals) / sizeof(*signals) ? signals[status] : "RT");
		return;
	}
	status = WEXITSTATUS(wstatus);
	snprintf(buf, size, "%s (status %u)",
		 status < sizeof(words) / sizeof(words[0]) ? words[status] : "failed", status);
}

struct policy_verdict policy_decide(const struct policy *policy, struct policy_history *history,
				    enum policy_end end, uint64_t run_ms)
{
	struct policy_verdict verdict = { .action = policy->on[end] };
	uint64_t delay_s = policy->delay_s;

	/* A failure too, but one that no restart can mend. */
	if (end == POLICY_USAGE && policy->on[POLICY_FAILURE] != ACTION_RESTART)
		verdict.action = policy->on[POLICY_FAILURE];
	if (run_ms >= (uint64_t)policy->window_s * 1000)
		history->restarts = 0;
	if (verdict.action != ACTION_RESTART)
		return verdict;
	if (policy->limit && history->restarts >= policy->limit) {
		verdict.action = policy->on_limit;
		verdict.limit = true;
		return verdict;
	}
	/* Stops doubling at the bound, so that no count of restarts can overflow it. */
	for (unsigned int i = 0; i < history->restarts && delay_s < POLICY_MAX_DELAY_S; i++)
		delay_s *= 2;
	if (delay_s > POLICY_MAX_DELAY_S)
		delay_s =
			policy->delay_s > POLICY_MAX_DELAY_S ? policy->delay_s : POLICY_MAX_DELAY_S;
	history->restarts++;
	verdict.delay_ms = delay_s * 1000;
	return verdict;
}
