/* SPDX-License-Identifier: MIT */
#include "initramfs/guest.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "initramfs/child.h"
#include "vm/conf.h"
#include "vm/log.h"

/* A guest's file that is being read. */
struct reader {
	struct guest *guest;
	unsigned int supervise; /* how many [supervise] */
};

/*
 * Of a guest's file, PID 1 wants [supervise], whether [guest] has a console, and how long stopping
 * may take; the rest is vinit run's.
 */
static int guest_line(void *opaque, const struct conf_line *line)
{
	struct reader *reader = opaque;
	struct guest *guest = reader->guest;
	unsigned long n;

	if (!line->key && !strcmp(line->section, "supervise") && reader->supervise++)
		log_err("%s:%u: [supervise]: it is there already; its lines count all the same",
			line->file, line->line);
	if (policy_line(&guest->policy, line) || !line->key)
		return 0;
	if (!strcmp(line->section, "guest") && !strcmp(line->key, "console"))
		guest->own_console = strcmp(line->value, "stdio") != 0;
	if (!strcmp(line->section, "guest") && !strcmp(line->key, "api-sock"))
		guest->own_api = true;
	/* A value that vinit run refuses is none of PID 1's business. */
	if (!strcmp(line->section, "guest") && !strcmp(line->key, "stop-timeout") &&
	    !conf_number(line->value, 0, 86400, &n))
		guest->stop_s = (int)n;
	return 0;
}

static int set_name(struct guest *guest, const char *file)
{
	size_t len = strlen(file) - strlen(".conf");

	if (len >= sizeof(guest->name))
		return -EINVAL;
	memcpy(guest->name, file, len);
	guest->name[len] = '\0';
	return conf_name(guest->name);
}

static int add_guest(struct guests *guests, const char *dir, const char *file)
{
	struct guest *guest = &guests->guest[guests->nr];
	struct reader reader = { .guest = guest };
	size_t size = strlen(dir) + strlen(file) + 2;

	memset(guest, 0, sizeof(*guest));
	guest->stop_s = -1;
	policy_defaults(&guest->policy);
	if (set_name(guest, file)) {
		log_err("%s/%s: left out: " CONF_NAME_RULE, dir, file);
		return -EINVAL;
	}
	guest->file = malloc(size);
	if (!guest->file) {
		log_err("%s/%s: no memory", dir, file);
		return -ENOMEM;
	}
	snprintf(guest->file, size, "%s/%s", dir, file);
	/*
	 * Started even if its file is bad: vinit run says what is wrong, and the policy (what was
	 * read of it) decides how often.
	 */
	conf_read(guest->file, guest_line, &reader);
	guests->nr++;
	return 0;
}

static bool is_conf(const char *name)
{
	size_t len = strlen(name);

	return len > 5 && *name != '.' && !strcmp(name + len - 5, ".conf");
}

/* The names of the folder's guests in order; their number or -errno. */
static int list_guests(const char *dir, char ***list)
{
	struct dirent *entry;
	DIR *d = opendir(dir);
	char **grown, *name;
	int nr = 0, i;

	if (!d)
		return -errno;
	while ((entry = readdir(d))) {
		if (!is_conf(entry->d_name))
			continue;
		name = strdup(entry->d_name);
		grown = realloc(*list, (size_t)(nr + 1) * sizeof(**list));
		if (grown)
			*list = grown;
		if (!grown || !name) {
			log_err("%s/%s: left out: no memory", dir, entry->d_name);
			free(name);
			continue;
		}
		for (i = nr++; i && strcmp(grown[i - 1], name) > 0; i--)
			grown[i] = grown[i - 1];
		grown[i] = name;
	}
	closedir(d);
	return nr;
}

void guests_load(struct guests *guests, const char *dir)
{
	char **list = NULL;
	int nr = list_guests(dir, &list);

	if (nr < 0) {
		if (nr == -ENOENT)
			log_debug("%s: no such folder: there are no guests", dir);
		else
			log_err("%s: %s: there are no guests", dir, errno_name(nr));
		return;
	}
	guests->guest = calloc(nr ? nr : 1, sizeof(*guests->guest));
	if (!guests->guest)
		log_err("%s: no memory for %d guests", dir, nr);
	for (int i = 0; i < nr; i++) {
		if (guests->guest && guests->nr < GUEST_MAX)
			add_guest(guests, dir, list[i]);
		else if (guests->nr == GUEST_MAX)
			log_err("%s/%s: more than %d guests: left out", dir, list[i],
				GUEST_MAX);
		free(list[i]);
	}
	free(list);
	for (unsigned int i = 0; i < guests->nr && !guests->console; i++) {
		if (!guests->guest[i].own_console && guests->guest[i].policy.autostart)
			guests->console = &guests->guest[i];
	}
}

void guests_autostart(struct guests *guests, uint64_t now)
{
	for (unsigned int i = 0; i < guests->nr; i++) {
		struct guest *guest = &guests->guest[i];

		if (!guest->policy.autostart || guest->state != GUEST_STOPPED)
			continue;
		guest->state = GUEST_WAITING;
		guest->due_ms = now;
	}
}

static int start(struct guests *guests, struct guest *guest, uint64_t now)
{
	char console[CONF_NAME_SIZE + 32], api[CONF_NAME_SIZE + 32], stop[16];
	const char *argv[14] = { "vinit",  "run",      "--config", guest->file,
				 "--name", guest->name, "--supervised" };
	struct child child = { .argv = argv, .exe_fd = guests->exe_fd };
	unsigned int n = 7;
	pid_t pid;

	if (guest->stop_s < 0) {
		snprintf(stop, sizeof(stop), "%u", guests->stop_s);
		argv[n++] = "--stop-timeout";
		argv[n++] = stop;
	}
	if (CONFIG_API && !guest->own_api) {
		snprintf(api, sizeof(api), "/run/vinit/%s.sock", guest->name);
		argv[n++] = "--api-sock";
		argv[n++] = api;
	}
	/*
	 * One process reads the console: a second guest, or one that comes while a shell has it,
	 * gets a file.
	 */
	if (!guest->own_console) {
		child.console = guest == guests->console && !guests->console_pid;
		snprintf(console, sizeof(console), "file=/run/vinit/%s.console", guest->name);
		argv[n++] = "--console";
		argv[n++] = child.console ? "stdio" : console;
	}
	guest->started_ms = now;
	pid = child_start(&child);
	if (pid < 0)
		return pid;
	guest->state = GUEST_RUNNING;
	guest->pid = pid;
	if (child.console) {
		guests->console_pid = pid;
		/* The VMM makes the terminal raw: from here on a line needs its carriage return. */
		log_set_crlf(true);
	}
	log_info("guest %s: started, pid %d%s%s", guest->name, (int)pid,
		 guest->own_console || child.console ? "" : ", console ",
		 guest->own_console || child.console ? "" : console);
	return 0;
}

/* Logs the end and does what the policy says about it. */
static void ended(struct guest *guest, int wstatus, uint64_t now, bool restart, enum action *action)
{
	uint64_t run_ms = now - guest->started_ms;
	unsigned int before = guest->history.restarts;
	struct policy_verdict verdict;
	char how[96], limit[48] = "";

	guest->state = GUEST_STOPPED;
	guest->pid = 0;
	policy_describe(wstatus, how, sizeof(how));
	if (!restart) {
		log_info("guest %s: %s after %u s", guest->name, how,
			 (unsigned int)(run_ms / 1000));
		return;
	}
	verdict = policy_decide(&guest->policy, &guest->history, policy_end_of(wstatus), run_ms);
	if (verdict.limit)
		snprintf(limit, sizeof(limit), "; %u restarts in a row", before);
	if (verdict.action == ACTION_RESTART) {
		log_info("guest %s: %s after %u s; action: restart in %u s", guest->name, how,
			 (unsigned int)(run_ms / 1000), (unsigned int)(verdict.delay_ms / 1000));
		guest->state = GUEST_WAITING;
		guest->due_ms = now + verdict.delay_ms;
		return;
	}
	log_line(verdict.limit ? LOG_WARN : LOG_INFO, "guest %s: %s after %u s%s; action: %s",
		 guest->name, how, (unsigned int)(run_ms / 1000), limit,
		 action_name(verdict.action));
	if (verdict.action != ACTION_STOP)
		*action = verdict.action;
}

int guests_start_due(struct guests *guests, uint64_t now, enum action *action)
{
	const int failed = 1 << 8; /* as waitpid() gives an exit status of 1 */
	uint64_t next = UINT64_MAX;

	for (unsigned int i = 0; i < guests->nr; i++) {
		struct guest *guest = &guests->guest[i];

		if (guest->state == GUEST_WAITING && guest->due_ms <= now &&
		    start(guests, guest, now))
			ended(guest, failed, now, true, action);
		if (guest->state == GUEST_WAITING && guest->due_ms < next)
			next = guest->due_ms;
	}
	if (next == UINT64_MAX)
		return -1;
	return next > now ? (int)(next - now) : 0;
}

bool guests_ended(struct guests *guests, pid_t pid, int wstatus, uint64_t now, bool restart,
		  enum action *action)
{
	for (unsigned int i = 0; i < guests->nr; i++) {
		if (guests->guest[i].state == GUEST_RUNNING && guests->guest[i].pid == pid) {
			ended(&guests->guest[i], wstatus, now, restart, action);
			return true;
		}
	}
	return false;
}

unsigned int guests_running(const struct guests *guests)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < guests->nr; i++)
		n += guests->guest[i].state == GUEST_RUNNING;
	return n;
}

unsigned int guests_active(const struct guests *guests)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < guests->nr; i++)
		n += guests->guest[i].state != GUEST_STOPPED;
	return n;
}

unsigned int guests_stop_timeout(const struct guests *guests)
{
	unsigned int longest = 0;

	for (unsigned int i = 0; i < guests->nr; i++) {
		const struct guest *guest = &guests->guest[i];
		unsigned int s = guest->stop_s < 0 ? guests->stop_s : (unsigned int)guest->stop_s;

		if (guest->state == GUEST_RUNNING && s > longest)
			longest = s;
	}
	return longest;
}

void guests_cancel(struct guests *guests)
{
	for (unsigned int i = 0; i < guests->nr; i++) {
		if (guests->guest[i].state == GUEST_WAITING)
			guests->guest[i].state = GUEST_STOPPED;
	}
}

void guests_signal(const struct guests *guests, int sig)
{
	for (unsigned int i = 0; i < guests->nr; i++) {
		const struct guest *guest = &guests->guest[i];

		if (guest->state == GUEST_RUNNING && kill(guest->pid, sig))
			log_warn("guest %s: cannot send it signal %d: %s", guest->name, sig,
				 errno_name(errno));
	}
}
