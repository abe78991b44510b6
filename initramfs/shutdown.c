/* SPDX-License-Identifier: MIT */
#include "initramfs/shutdown.h"

#include <errno.h>
#include <signal.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>
#include "initramfs/clock.h"
#include "initramfs/file.h"
#include "initramfs/guest.h"
#include "initramfs/mounts.h"
#include "vm/log.h"

#define MARGIN_S    5	  /* over the guests' own time, for their VMMs to end */
#define KILLED_MS   5000  /* for a killed VMM to be gone */
#define TERM_MS	    3000  /* for other processes to end by themselves */
#define KILL_MS	    2000  /* for killed ones to be gone */
#define TEARDOWN_MS 90000 /* for disks to take what is written back */
#define REBOOT_MS   60000 /* for the kernel's drivers to shut down */

void shutdown_begin(struct shutdown *down, struct guests *guests, enum action how, const char *why,
		    uint64_t now)
{
	unsigned int running = guests_running(guests);

	if (down->stage != SHUTDOWN_NONE) {
		/* One press of a power button may come by two ways. */
		log_line(how == down->how ? LOG_DEBUG : LOG_INFO,
			 "%s: already going down, action: %s", why, action_name(down->how));
		return;
	}
	down->stage = SHUTDOWN_ASKED;
	down->how = how;
	down->timeout_s = guests_stop_timeout(guests) + MARGIN_S;
	down->deadline_ms = now + (uint64_t)down->timeout_s * 1000;
	log_info("%s: going down, action: %s", why, action_name(how));
	guests_cancel(guests);
	if (!running)
		return;
	log_info("asking %u guest%s to power off, for up to %u s", running, running > 1 ? "s" : "",
		 down->timeout_s);
	guests_signal(guests, SIGTERM);
	/* One that is stopped could not hear it. */
	guests_signal(guests, SIGCONT);
}

/* Waits until no child is left. False when some are after @ms. */
static bool reap_all(unsigned int ms)
{
	uint64_t end = clock_ms() + ms;
	pid_t pid;

	for (;;) {
		while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
			;
		if (pid < 0 && errno == ECHILD)
			return true;
		if (clock_ms() >= end)
			return false;
		clock_sleep_ms(20);
	}
}

/*
 * Runs @fn in a process of its own, because a disk that hangs would hang PID 1. False when it took
 * longer than @ms.
 */
static bool run_bounded(void (*fn)(int), int arg, unsigned int ms, const char *what)
{
	uint64_t end = clock_ms() + ms, say = clock_ms() + 10000;
	pid_t pid = _Fork(), got;

	if (pid == 0) {
		fn(arg);
		_exit(0);
	}
	if (pid < 0) {
		log_warn("%s: no process for it: %s", what, errno_name(errno));
		fn(arg);
		return true;
	}
	for (;;) {
		got = waitpid(-1, NULL, WNOHANG);
		if (got == pid || (got < 0 && errno == ECHILD))
			return true;
		if (clock_ms() >= end) {
			log_err("%s: not done in %u s: going on without", what, ms / 1000);
			return false;
		}
		if (clock_ms() >= say) {
			log_info("%s: still at it", what);
			say += 10000;
		}
		if (got <= 0)
			clock_sleep_ms(10);
	}
}

static void teardown(int unused)
{
	(void)unused;
	mounts_teardown();
}

static void call_reboot(int how)
{
	static const int command[ACTION_NR] = {
		[ACTION_POWEROFF] = RB_POWER_OFF,
		[ACTION_REBOOT] = RB_AUTOBOOT,
		[ACTION_HALT] = RB_HALT_SYSTEM,
	};

	reboot(command[how]);
	log_err("reboot(2): %s: %s", errno_name(errno),
		errno == EPERM ? "PID 1 lacks CAP_SYS_BOOT" : "action not possible");
}

_Noreturn void shutdown_now(enum action how)
{
	int err;

	/*
	 * In a child: a kernel that can't do what it is asked for ends the caller, and if that is
	 * PID 1, panics.
	 */
	run_bounded(call_reboot, how, REBOOT_MS, action_name(how));
	if (how != ACTION_HALT) {
		log_err("%s: the kernel did not do it: trying the magic SysRq key",
			action_name(how));
		err = file_write("/proc/sysrq-trigger", how == ACTION_REBOOT ? "b" : "o");
		if (err)
			log_err("/proc/sysrq-trigger: %s", errno_name(err));
	}
	log_info("the machine stays as it is: switch it off");
	for (;;) {
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		clock_sleep_ms(1000);
	}
}

static _Noreturn void finish(enum action how)
{
	/* Everything but this process. Shells ignore SIGTERM, and what is stopped hears neither. */
	kill(-1, SIGTERM);
	kill(-1, SIGHUP);
	kill(-1, SIGCONT);
	if (!reap_all(TERM_MS)) {
		log_info("processes are left after %d s: killing them", TERM_MS / 1000);
		kill(-1, SIGKILL);
		if (!reap_all(KILL_MS))
			log_warn("some processes can't be killed (in a system call that hangs?)");
	}
	log_info("writing back and unmounting");
	run_bounded(teardown, 0, TEARDOWN_MS, "unmounting");
	log_info("%s", how == ACTION_POWEROFF ? "powering off"
		       : how == ACTION_REBOOT ? "rebooting"
					      : "halting");
	shutdown_now(how);
}

int shutdown_step(struct shutdown *down, struct guests *guests, uint64_t now)
{
	unsigned int running = guests_running(guests);

	if (!running)
		finish(down->how);
	if (now >= down->deadline_ms) {
		if (down->stage == SHUTDOWN_KILLED) {
			log_warn("%u killed guests are still there: going on without them",
				 running);
			finish(down->how);
		}
		log_warn("%u guest%s not ended in %u s: killed", running,
			 running > 1 ? "s have" : " has", down->timeout_s);
		down->stage = SHUTDOWN_KILLED;
		down->deadline_ms = now + KILLED_MS;
		guests_signal(guests, SIGKILL);
	}
	return (int)(down->deadline_ms - now);
}

bool shutdown_cad(struct shutdown_cad *cad, uint64_t now)
{
	unsigned int slot = cad->nr % SHUTDOWN_CAD;
	/* The slot holds the one SHUTDOWN_CAD presses ago. */
	bool forced = cad->nr >= SHUTDOWN_CAD && now - cad->at_ms[slot] < SHUTDOWN_CAD_MS;

	cad->at_ms[slot] = now;
	cad->nr++;
	if (cad->nr == 2 * SHUTDOWN_CAD)
		cad->nr = SHUTDOWN_CAD;
	return forced;
}
