/* SPDX-License-Identifier: MIT */
/*
 * What to do when a guest has ended: the [supervise] section of its file, and the restart counter.
 * Knows no process and no clock, so that it can be tested by itself.
 */
#ifndef INITRAMFS_POLICY_H
#define INITRAMFS_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct conf_line;

enum action {
	ACTION_NONE,
	ACTION_CONTINUE,
	ACTION_STOP,
	ACTION_RESTART,
	ACTION_POWEROFF,
	ACTION_REBOOT,
	ACTION_HALT,
	ACTION_RESCUE,
	ACTION_NR
};

#define ACTION_BIT(a) (1u << (a))
#define ACTIONS_MACHINE                                                                            \
	(ACTION_BIT(ACTION_POWEROFF) | ACTION_BIT(ACTION_REBOOT) | ACTION_BIT(ACTION_HALT))

/* "restart" for ACTION_RESTART; never NULL. */
const char *action_name(enum action action);

/* Why a key refuses a value: what goes before "is expected". */
struct policy_why {
	char text[96];
};

/* Writes it, and is -EINVAL. */
int policy_refuse(struct policy_why *why, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/*
 * A word to one of the actions whose ACTION_BIT is in @allowed. 0, or -EINVAL with these actions
 * in @why; logs nothing.
 */
int action_parse(const char *word, unsigned int allowed, enum action *action,
		 struct policy_why *why);

/* How a guest's process ended, as its exit status tells. */
enum policy_end {
	POLICY_POWEROFF, /* 0 */
	POLICY_RESET,	 /* 3 */
	POLICY_CRASH,	 /* 4 */
	POLICY_STOP,	 /* 5: from outside */
	POLICY_USAGE,	 /* 2: its configuration is wrong, and will be at the next try */
	POLICY_FAILURE,	 /* 1, anything else, and every signal */
	POLICY_NR
};

struct policy {
	bool autostart;
	enum action on[POLICY_NR];
	enum action on_limit;
	unsigned int delay_s;  /* before the first restart; doubles up to POLICY_MAX_DELAY_S */
	unsigned int limit;    /* restarts in a row; 0: no limit */
	unsigned int window_s; /* a run of this length is a good one: the counter starts again */
};

#define POLICY_MAX_DELAY_S 30

struct policy_history {
	unsigned int restarts; /* in a row */
};

struct policy_verdict {
	enum action action;
	uint64_t delay_ms; /* of ACTION_RESTART */
	bool limit;	   /* the action is on_limit's */
};

void policy_defaults(struct policy *policy);

/*
 * Takes a key of [supervise]; false when the line belongs to another section. An unknown key or a
 * bad value is logged with file and line and changes nothing: a typing error must not leave a guest
 * unsupervised.
 */
bool policy_line(struct policy *policy, const struct conf_line *line);

/* @wstatus: as waitpid() gives it. */
enum policy_end policy_end_of(int wstatus);

/* "powered off (status 0)", "killed by signal 9 (SIGKILL)". */
void policy_describe(int wstatus, char *buf, size_t size);

/* What follows on @end after a run of @run_ms; counts a restart in @history. */
struct policy_verdict policy_decide(const struct policy *policy, struct policy_history *history,
				    enum policy_end end, uint64_t run_ms);

#endif
