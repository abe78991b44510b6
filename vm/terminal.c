/* SPDX-License-Identifier: MIT */
#include "vm/terminal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <termios.h>
#include <unistd.h>
#include "vm/log.h"

/*
 * A process has one terminal, and signal handlers have no argument: hence a global. @active is what
 * a handler may look at; the rest is written before it is set.
 */
static struct {
	atomic_bool claimed;
	atomic_bool active;
	atomic_bool raw;
	atomic_int wake_fd;
	atomic_uint signals;
	int fd;
	struct termios saved;
	struct termios rawmode;
} terminal = { .wake_fd = -1 };

/*
 * In the background the terminal's mode is somebody else's. No controlling terminal, no
 * background.
 */
bool terminal_is_ours(void)
{
	pid_t front = tcgetpgrp(terminal.fd);

	return front < 0 || front == getpgrp();
}

void terminal_restore(void)
{
	int saved = errno;

	if (atomic_load(&terminal.active) && atomic_exchange(&terminal.raw, false) &&
	    terminal_is_ours())
		tcsetattr(terminal.fd, TCSANOW, &terminal.saved);
	errno = saved;
}

/* At exit(). Not atexit(): the C library's list of such calls takes its whole malloc() along. */
__attribute__((destructor)) static void restore_at_exit(void)
{
	terminal_restore();
}

bool terminal_set_raw(void)
{
	if (!atomic_load(&terminal.active))
		return true;
	if (!terminal_is_ours())
		return false;
	/* Set before the change, so that a signal in between still undoes it. */
	atomic_store(&terminal.raw, true);
	tcsetattr(terminal.fd, TCSANOW, &terminal.rawmode);
	if (isatty(STDERR_FILENO))
		log_set_crlf(true);
	return true;
}

unsigned int terminal_signals(void)
{
	return atomic_exchange(&terminal.signals, 0);
}

static void on_wake_signal(int sig)
{
	int fd = atomic_load(&terminal.wake_fd);
	uint64_t one = 1;
	int saved = errno;

	atomic_fetch_or(&terminal.signals, sig == SIGCONT ? TERMINAL_CONT : TERMINAL_SIZE);
	if (fd >= 0 && write(fd, &one, sizeof(one)) < 0) {
		/* EAGAIN: it is full of wake-ups */
	}
	errno = saved;
}

static void on_fatal_signal(int sig, siginfo_t *info, void *context)
{
	terminal_restore();
	/*
	 * SA_RESETHAND put the default back. A fault comes again when this returns, and then dies
	 * where it happened; what somebody sent has to be sent again.
	 */
	if (info->si_code <= 0 || (sig != SIGSEGV && sig != SIGILL && sig != SIGFPE))
		pthread_kill(pthread_self(), sig);
}

static const int fatal_signals[] = {
	SIGSEGV, SIGABRT, SIGBUS, SIGILL, SIGFPE, SIGSYS, SIGQUIT, SIGHUP, SIGINT, SIGTERM,
};

#define NR_FATAL (sizeof(fatal_signals) / sizeof(fatal_signals[0]))

/*
 * Only where the default stands: whoever set a handler of his own calls terminal_restore()
 * himself.
 */
static void signals_hook(void)
{
	struct sigaction old, fatal = { .sa_flags = SA_SIGINFO | SA_RESETHAND | SA_NODEFER };
	struct sigaction notice = { .sa_handler = on_wake_signal, .sa_flags = SA_RESTART };

	fatal.sa_sigaction = on_fatal_signal;
	for (unsigned int i = 0; i < NR_FATAL; i++) {
		if (!sigaction(fatal_signals[i], NULL, &old) && !(old.sa_flags & SA_SIGINFO) &&
		    old.sa_handler == SIG_DFL)
			sigaction(fatal_signals[i], &fatal, NULL);
	}
	sigaction(SIGWINCH, &notice, NULL);
	sigaction(SIGCONT, &notice, NULL);
}

static void signals_unhook(void)
{
	struct sigaction old, dfl = { .sa_handler = SIG_DFL };

	for (unsigned int i = 0; i < NR_FATAL; i++) {
		if (!sigaction(fatal_signals[i], NULL, &old) && (old.sa_flags & SA_SIGINFO) &&
		    old.sa_sigaction == on_fatal_signal)
			sigaction(fatal_signals[i], &dfl, NULL);
	}
	sigaction(SIGWINCH, &dfl, NULL);
	sigaction(SIGCONT, &dfl, NULL);
}

bool terminal_claim(void)
{
	return !atomic_exchange(&terminal.claimed, true);
}

bool terminal_open(int fd, int wake_fd)
{
	terminal.fd = fd;
	if (tcgetattr(fd, &terminal.saved))
		return true; /* no mode to change */
	terminal.rawmode = terminal.saved;
	cfmakeraw(&terminal.rawmode);
	terminal.rawmode.c_cc[VMIN] = 1;
	terminal.rawmode.c_cc[VTIME] = 0;
	atomic_store(&terminal.signals, 0);
	atomic_store(&terminal.wake_fd, wake_fd);
	atomic_store(&terminal.active, true);
	signals_hook();
	return terminal_set_raw();
}

void terminal_close(void)
{
	if (atomic_load(&terminal.active)) {
		terminal_restore();
		log_set_crlf(false);
		signals_unhook();
		atomic_store(&terminal.active, false);
		atomic_store(&terminal.wake_fd, -1);
	}
	atomic_store(&terminal.claimed, false);
}

/*
 * A read of the terminal from the background stops the process, guest and all. The check leaves a
 * moment between; with the signals blocked a read in that moment fails instead (EIO).
 */
ssize_t terminal_read(void *buf, size_t len)
{
	sigset_t block, old;
	ssize_t n;

	if (!terminal_is_ours())
		return -EIO;
	sigemptyset(&block);
	sigaddset(&block, SIGTTIN);
	sigaddset(&block, SIGTTOU);
	pthread_sigmask(SIG_BLOCK, &block, &old);
	n = read(terminal.fd, buf, len);
	if (n < 0)
		n = -errno;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return n;
}
