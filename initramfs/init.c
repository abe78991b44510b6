/* SPDX-License-Identifier: MIT */
/*
 * PID 1. One thread that waits for signals, the power button and its own timers, and never blocks
 * on anything else. It never ends: that would be a kernel panic.
 */
#include "initramfs/init.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>
#include "initramfs/button.h"
#include "initramfs/child.h"
#include "initramfs/clock.h"
#include "initramfs/config.h"
#include "initramfs/file.h"
#include "initramfs/guest.h"
#include "initramfs/modules.h"
#include "initramfs/mounts.h"
#include "initramfs/shutdown.h"
#include "vm/log.h"

#define EXEC_MAX_WORDS 64

enum stage { STAGE_BOOT, STAGE_EXEC, STAGE_GUESTS };

struct init {
	struct init_config config;
	struct guests guests;
	struct buttons buttons;
	struct shutdown down;
	struct shutdown_cad cad;
	int signal_fd;
	enum stage stage;
	pid_t exec_pid;
	pid_t rescue_pid;
	bool rescue_wanted;
	uint64_t rescue_due_ms;
	bool idle;	/* nothing to do, and said so */
	bool guest_ran; /* at least once */
	bool console_is_tty;
	struct termios termios; /* the console's, as found */
};

/* --- the first steps, with nothing to rely on -------------------------------------------------- */

/* Opens a device of /dev, made first if the image has neither it nor a devtmpfs. */
static int open_node(const char *path, int flags, unsigned int major, unsigned int minor)
{
	int fd = open(path, flags | O_NOCTTY);

	if (fd < 0 && errno == ENOENT) {
		mkdir("/dev", 0755);
		mknod(path, S_IFCHR | 0600, makedev(major, minor));
		fd = open(path, flags | O_NOCTTY);
	}
	return fd < 0 ? -errno : fd;
}

/*
 * The log goes to 2. Of PID 1's own opening and non-blocking, so that a console that takes nothing
 * (flow control, a hung line) loses lines and never stops PID 1; and opened by its name, because
 * what is open as /dev/console survives the hang-up when a session on the terminal ends.
 */
static void open_stdio(void)
{
	int console, fd;
	bool kmsg;

	console = fd = open_node("/dev/console", O_RDWR | O_NONBLOCK, 5, 1);
	if (fd < 0)
		fd = open_node("/dev/kmsg", O_WRONLY | O_NONBLOCK, 1, 11);
	kmsg = console < 0 && fd >= 0;
	if (fd < 0)
		fd = open_node("/dev/null", O_RDWR, 1, 3);
	/* Whatever it is, 0 to 2 have to be taken, or a socket would become somebody's stdout. */
	if (fd < 0)
		fd = open("/", O_RDONLY);
	if (fd < 0)
		return;
	for (int i = 0; i < 3; i++) {
		if (fd != i)
			dup2(fd, i);
	}
	if (fd > 2)
		close(fd);
	log_set_fd(2, kmsg);
	if (kmsg)
		log_warn("/dev/console: %s: the log goes to /dev/kmsg", errno_name(console));
}

/*
 * A bug in PID 1. The kernel's answer would be a panic, which waits for a hand at the machine
 * unless panic= is set; this one starts it again. Sent by kill(1) the same signals do nothing.
 *
 * The log may be what the bug has broken, a lock held say, so a child that needs none of it is on
 * its way to the reboot before anything is said.
 */
static void on_fatal(int sig, siginfo_t *info, void *context)
{
	static volatile sig_atomic_t again;
	pid_t pid;

	(void)context;
	if (info->si_code <= 0)
		return;
	/* A child of PID 1 that has not become another program: its end is an end like others. */
	if (getpid() != 1) {
		signal(sig, SIG_DFL);
		return;
	}
	if (again++) {
		for (;;)
			pause();
	}
	pid = _Fork();
	if (pid <= 0) {
		if (pid < 0)
			log_err("PID 1: signal %d, a bug: reboot in 5 s", sig);
		clock_sleep_ms(5000);
		reboot(RB_AUTOBOOT);
		file_write("/proc/sysrq-trigger", "b");
		if (pid == 0)
			_exit(1);
	} else {
		log_err("PID 1: signal %d at %p, a bug: reboot in 5 s", sig, info->si_addr);
	}
	for (;;)
		pause();
}

static int set_up_signals(void)
{
	static const int fatal[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGABRT, SIGSYS };
	static char stack[32768];
	stack_t alt = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction act = {
		.sa_sigaction = on_fatal,
		.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER,
	};
	sigset_t set;
	int fd;

	sigaltstack(&alt, NULL);
	sigfillset(&set);
	for (size_t i = 0; i < sizeof(fatal) / sizeof(fatal[0]); i++)
		sigdelset(&set, fatal[i]);
	/* A fatal one that is blocked is the end at once, also inside the handler. */
	act.sa_mask = set;
	for (size_t i = 0; i < sizeof(fatal) / sizeof(fatal[0]); i++)
		sigaction(fatal[i], &act, NULL);
	/* SIGPIPE among them: a write to a closed pipe is an error code and nothing more. */
	sigprocmask(SIG_SETMASK, &set, NULL);
	fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	if (fd < 0)
		log_err("signalfd: %s: children are not noticed: build the kernel with CONFIG_SIGNALFD",
			errno_name(errno));
	return fd;
}

static void open_kmsg_log(void)
{
	int fd = open("/dev/kmsg", O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);

	if (fd < 0) {
		log_err("/dev/kmsg: %s: the log stays on the console", errno_name(errno));
		return;
	}
	/* By default the kernel drops lines of user space after ten in five seconds. */
	file_write("/proc/sys/kernel/printk_devkmsg", "on");
	log_set_fd(fd, true);
}

static void loopback_up(void)
{
	struct ifreq ifr = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	/* A kernel without networking is no error. */
	if (fd < 0)
		return;
	if (ioctl(fd, SIOCSIFFLAGS, &ifr))
		log_info("lo: cannot be set up: %s", errno_name(errno));
	close(fd);
}

static void set_up(struct init *init)
{
	struct utsname uts;
	int err;

	/*
	 * With files 0 to 2 missing, the kernel having found no console, nothing may be opened
	 * before this.
	 */
	err = mounts_dev();
	open_stdio();
	init->signal_fd = set_up_signals();
	if (err)
		log_warn("/dev: cannot mount devtmpfs: %s: check CONFIG_DEVTMPFS", errno_name(err));
	umask(022);
	if (chdir("/"))
		log_warn("/: %s", errno_name(errno));
	/* From now on Ctrl-Alt-Del is a SIGINT. */
	if (reboot(RB_DISABLE_CAD))
		log_debug("Ctrl-Alt-Del: cannot be taken over: %s", errno_name(errno));
	init->console_is_tty = !tcgetattr(2, &init->termios);
	mounts_all();
	err = file_write("/proc/self/oom_score_adj", "-1000");
	if (err)
		log_warn("oom_score_adj: %s: PID 1 may be killed when memory runs out",
			 errno_name(err));
	init_config_load(&init->config);
	log_set_level(init->config.log_level);
	if (init->config.log_kmsg)
		open_kmsg_log();
	if (!uname(&uts))
		log_info("PID 1 on Linux %s, %s", uts.release, uts.machine);
	if (mkdir("/run/vinit", 0755) && errno != EEXIST)
		log_warn("/run/vinit: %s", errno_name(errno));
	loopback_up();
	init->guests.exe_fd = open("/proc/self/exe", O_PATH | O_CLOEXEC);
	if (init->guests.exe_fd < 0)
		log_warn("/proc/self/exe: %s: guests are run by \"vinit\" of the PATH",
			 errno_name(errno));
	modules_load(init->config.modules);
	buttons_open(&init->buttons);
	init->guests.stop_s = init->config.stop_timeout_s;
	guests_load(&init->guests, GUEST_DIR);
}

/* --- what goes on the console besides guests --------------------------------------------------- */

/* The last owner may have died with the terminal raw, or stopped by Ctrl-S. */
static void console_free(struct init *init)
{
	init->guests.console_pid = 0;
	log_set_crlf(false);
	if (!init->console_is_tty)
		return;
	tcsetattr(2, TCSANOW, &init->termios);
	tcflow(2, TCOON);
}

static pid_t start_on_console(struct init *init, const char *const *argv)
{
	struct child child = { .argv = argv, .exe_fd = -1, .console = true };
	pid_t pid = child_start(&child);

	if (pid > 0)
		init->guests.console_pid = pid;
	return pid;
}

static void request(struct init *init, enum action how, const char *why)
{
	shutdown_begin(&init->down, &init->guests, how, why, clock_ms());
}

/* What a guest's end asks the machine for. */
static void apply(struct init *init, enum action action)
{
	if (action == ACTION_NONE)
		return;
	if (action != ACTION_RESCUE) {
		request(init, action, "guest's end");
	} else if (init->config.rescue == RESCUE_NO) {
		log_warn("rescue: no shell, since \"rescue = yes\" is not in %s", INIT_CONFIG_FILE);
	} else {
		init->rescue_wanted = true;
	}
}

static void exec_ended(struct init *init, int wstatus)
{
	enum action end = init->config.exec_end;

	init->exec_pid = 0;
	if (WIFSIGNALED(wstatus))
		log_info("exec: ended by signal %d; action: %s", WTERMSIG(wstatus),
			 action_name(end));
	else
		log_info("exec: ended with status %d; action: %s", WEXITSTATUS(wstatus),
			 action_name(end));
	if (end != ACTION_CONTINUE && init->down.stage == SHUTDOWN_NONE)
		request(init, end, "exec");
}

static void start_exec(struct init *init)
{
	static char words[sizeof(init->config.exec)];
	const char *argv[EXEC_MAX_WORDS + 1] = { "/bin/sh", "-c", init->config.exec, NULL };
	unsigned int n = 0;
	char *rest = words, *word;

	if (!*init->config.exec)
		return;
	/* Simple words need no shell, which an appliance may not have. */
	if (!strpbrk(init->config.exec, "\"'`$&|;<>()[]{}*?#~\\!=\n")) {
		memcpy(words, init->config.exec, sizeof(words));
		while ((word = strsep(&rest, " \t"))) {
			if (*word && n < EXEC_MAX_WORDS)
				argv[n++] = word;
		}
		argv[n] = NULL;
		if (!n)
			return;
	}
	log_info("exec: %s", init->config.exec);
	init->exec_pid = start_on_console(init, argv);
	if (init->exec_pid < 0)
		exec_ended(init, 126 << 8);
}

static void start_rescue(struct init *init, uint64_t now)
{
	static const char *const argv[] = { "/bin/sh", NULL };

	init->rescue_wanted = false;
	init->rescue_due_ms = now + 1000;
	log_info("rescue: a shell on the console; \"exit\" leaves it");
	init->rescue_pid = start_on_console(init, argv);
	if (init->rescue_pid < 0)
		init->rescue_pid = 0;
}

static void rescue_ended(struct init *init, int wstatus)
{
	init->rescue_pid = 0;
	init->rescue_due_ms = clock_ms() + 1000;
	if (!WIFEXITED(wstatus) || WEXITSTATUS(wstatus) < 126 || WEXITSTATUS(wstatus) > 127)
		return;
	log_err("rescue: there is no /bin/sh: no more rescue");
	init->config.rescue = RESCUE_NO;
}

/* --- events ------------------------------------------------------------------------------------ */

/* Every child there is, those of dead parents included: one SIGCHLD may stand for many. */
static void reap(struct init *init)
{
	enum action action = ACTION_NONE;
	int wstatus;
	pid_t pid;

	while ((pid = waitpid(-1, &wstatus, WNOHANG)) > 0) {
		if (pid == init->guests.console_pid)
			console_free(init);
		if (pid == init->exec_pid)
			exec_ended(init, wstatus);
		else if (pid == init->rescue_pid)
			rescue_ended(init, wstatus);
		else
			guests_ended(&init->guests, pid, wstatus, clock_ms(),
				     init->down.stage == SHUTDOWN_NONE, &action);
		if (init->down.stage == SHUTDOWN_NONE)
			apply(init, action);
		action = ACTION_NONE;
	}
}

static void on_signal(struct init *init, unsigned int sig)
{
	switch (sig) {
	case SIGCHLD:
		reap(init);
		break;
	case SIGINT:
		if (shutdown_cad(&init->cad, clock_ms())) {
			log_warn("Ctrl-Alt-Del %d times in %d s: reboot at once", SHUTDOWN_CAD + 1,
				 SHUTDOWN_CAD_MS / 1000);
			shutdown_now(ACTION_REBOOT);
		}
		request(init, ACTION_REBOOT, "Ctrl-Alt-Del");
		break;
	case SIGTERM:
		request(init, ACTION_REBOOT, "SIGTERM");
		break;
	case SIGUSR1:
		request(init, ACTION_HALT, "SIGUSR1");
		break;
	case SIGUSR2:
		request(init, ACTION_POWEROFF, "SIGUSR2");
		break;
	case SIGPWR:
		request(init, ACTION_POWEROFF, "SIGPWR");
		break;
	default:
		log_debug("signal %u: nothing to do", sig);
	}
}

static void read_signals(struct init *init)
{
	struct signalfd_siginfo info;

	/* As many as there are signals: whoever sends more of them has to wait for the next turn. */
	for (int i = 0; i < NSIG; i++) {
		if (read(init->signal_fd, &info, sizeof(info)) != sizeof(info))
			break;
		on_signal(init, info.ssi_signo);
	}
}

/* No guest runs or will. */
static void nothing_to_do(struct init *init)
{
	if (init->guest_ran && init->config.on_all_stopped != ACTION_NONE) {
		request(init, init->config.on_all_stopped, "all guests have stopped");
		return;
	}
	if (init->config.rescue != RESCUE_NO) {
		init->rescue_wanted = true;
	} else if (!init->idle) {
		log_info("nothing left to do; no shell, since \"rescue = yes\" is not in %s",
			 INIT_CONFIG_FILE);
		init->idle = true;
	}
}

static int shorter(int a, int b)
{
	return a < 0 || (b >= 0 && b < a) ? b : a;
}

/*
 * Starts what is to be started now. The time in ms after which it is to be called again, or -1:
 * after an event.
 */
static int step(struct init *init)
{
	enum action action = ACTION_NONE;
	uint64_t now = clock_ms();
	int wait = -1;

	if (init->down.stage != SHUTDOWN_NONE)
		return shutdown_step(&init->down, &init->guests, now);
	if (init->rescue_wanted && !init->rescue_pid && !init->guests.console_pid) {
		if (now < init->rescue_due_ms)
			wait = (int)(init->rescue_due_ms - now);
		else
			start_rescue(init, now);
	}
	if (init->stage == STAGE_BOOT && !init->rescue_pid) {
		init->stage = STAGE_EXEC;
		start_exec(init);
	}
	if (init->stage == STAGE_EXEC && !init->exec_pid) {
		init->stage = STAGE_GUESTS;
		if (init->config.autostart)
			guests_autostart(&init->guests, now);
	}
	if (init->stage != STAGE_GUESTS)
		return wait;
	wait = shorter(wait, guests_start_due(&init->guests, now, &action));
	apply(init, action);
	if (guests_active(&init->guests)) {
		init->guest_ran = true;
		init->idle = false;
	} else if (!init->rescue_pid && !init->rescue_wanted && init->down.stage == SHUTDOWN_NONE) {
		nothing_to_do(init);
		/* What it decided is done by the next step. */
		if (!init->idle)
			return 0;
	}
	return init->down.stage != SHUTDOWN_NONE ? 0 : wait;
}

_Noreturn void init_main(int argc, char **argv)
{
	static struct init init;
	struct pollfd fds[BUTTON_MAX_FDS + 1];
	unsigned int nr;
	int ready, wait;

	(void)argc;
	(void)argv;
	init_config_defaults(&init.config);
	set_up(&init);
	init.rescue_wanted = init.config.rescue == RESCUE_NOW;
	for (;;) {
		wait = step(&init);
		/* Without signals, children are looked for. */
		if (init.signal_fd < 0)
			wait = shorter(wait, 200);
		nr = buttons_poll(&init.buttons, fds);
		fds[nr] = (struct pollfd){ .fd = init.signal_fd, .events = POLLIN };
		ready = poll(fds, nr + 1, wait);
		if (ready < 0 && errno != EINTR) {
			log_limited(LOG_ERROR, "poll: %s", errno_name(errno));
			clock_sleep_ms(1000);
		}
		if (init.signal_fd < 0)
			reap(&init);
		if (ready <= 0)
			continue;
		if (buttons_read(&init.buttons, fds, nr))
			request(&init, ACTION_POWEROFF, "power button");
		if (fds[nr].revents)
			read_signals(&init);
	}
}
