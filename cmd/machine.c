/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include "arch/arch.h"
#include "cmd/cmd.h"
#include "cmd/config.h"
#include "cmd/control.h"
#include "cmd/machine_priv.h"
#include "initramfs/clock.h"
#include "virtio/blk.h"
#include "virtio/mmio.h"
#include "virtio/net.h"
#include "virtio/rng.h"
#include "virtio/vconsole.h"
#include "virtio/virtio.h"
#include "vm/boot_timer.h"
#include "vm/console.h"
#include "vm/crc32.h"
#include "vm/log.h"
#include "vm/vcpu.h"
#include "vsock/vsock.h"

/* How long a slow reader may hold up the end for the last of the console's output. */
#define CONSOLE_DRAIN_MS 2000

/* A guest that is still booting misses a press of its power button: press again, in seconds. */
#define STOP_PRESS_EVERY 5

/*
 * --- the device table: what a row makes takes the next virtio slots, in this order ------------------
 *
 * A snapshot knows devices by their slots: a new row comes last. What else knows about devices:
 * guest_config (cmd/config.[ch]), section MACH (machine_snapshot.c, whose version then rises),
 * control.c and control_config.c, the help in run.c, the host's nodes in check.c, Kconfig, and the
 * pages in docs/.
 */

struct device_row {
	const char *name;
	/* Makes instance @i; called for 0, 1, ... until it returns 0 with no device in *@dev. */
	int (*create)(struct machine *m, unsigned int i, struct virtio_dev **dev);
};

/* A device that is asked for and was left out of the build is an error, never silence. */
static int left_out(const char *device, const char *config)
{
	log_err("%s: this vinit was built without it (%s)", device, config);
	return -EOPNOTSUPP;
}

static int create_vconsole(struct machine *m, unsigned int i, struct virtio_dev **dev)
{
	if (i || !m->vconsole)
		return 0;
	return CONFIG_VIRTIO_CONSOLE ? vconsole_create(dev, m->vconsole) :
				       left_out("virtio-console", "CONFIG_VIRTIO_CONSOLE");
}

unsigned int machine_disk_queues(const struct guest_config *c, unsigned int i)
{
	unsigned int nr = c->disk[i].queues ? c->disk[i].queues : c->cpus;

	return nr < BLK_MAX_QUEUES ? nr : BLK_MAX_QUEUES;
}

static int create_blk(struct machine *m, unsigned int i, struct virtio_dev **dev)
{
	const struct disk_config *disk = &m->config->disk[i];
	struct blk_config config;
	char id[24];

	if (i == m->config->nr_disks)
		return 0;
	snprintf(id, sizeof(id), DISK_DEFAULT_ID, i);
	config = (struct blk_config){
		.path = disk->path,
		.id = disk->id ? disk->id : id,
		.readonly = disk->readonly,
		.direct = disk->direct,
		.discard = disk->discard,
		.engine = disk->engine,
		.queues = machine_disk_queues(m->config, i),
	};
	return CONFIG_VIRTIO_BLK ? blk_create(dev, &config) : left_out("disk", "CONFIG_VIRTIO_BLK");
}

static int create_rng(struct machine *m, unsigned int i, struct virtio_dev **dev)
{
	if (i || !m->config->rng)
		return 0;
	return CONFIG_VIRTIO_RNG ? rng_create(dev) : left_out("rng", "CONFIG_VIRTIO_RNG");
}

static int create_vsock(struct machine *m, unsigned int i, struct virtio_dev **dev)
{
	if (i || !m->config->vsock)
		return 0;
	return CONFIG_VSOCK ? vsock_create(dev, m->config->vsock_cid) : left_out("vsock", "CONFIG_VSOCK");
}

/*
 * Locally administered, and the same each time for the guest's name and the interface's number. A
 * guest without a name goes by what is behind the interface, and by its process in a bridge, which
 * others share.
 */
static void make_up_mac(const struct guest_config *c, struct nic_config *nic, unsigned int i)
{
	const char *word = c->name ? c->name : nic->peer;
	uint32_t crc = crc32(0, word, strlen(word));
	pid_t pid = getpid();

	if (!c->name && nic->kind == NET_BRIDGE)
		crc = crc32(crc, &pid, sizeof(pid));
	nic->mac[0] = 0x02;
	nic->mac[1] = (uint8_t)i;
	memcpy(nic->mac + 2, &crc, sizeof(crc));
	nic->has_mac = true;
}

static int create_net(struct machine *m, unsigned int i, struct virtio_dev **dev)
{
	struct nic_config *nic = &m->config->nic[i];
	struct net_config config;

	if (i == m->config->nr_nics)
		return 0;
	if (!nic->has_mac)
		make_up_mac(m->config, nic, i);
	config = (struct net_config){
		.kind = nic->kind,
		.peer = nic->peer,
		.pairs = nic->queues ? nic->queues : 1,
		.mtu = nic->mtu,
		.vhost = nic->vhost,
	};
	memcpy(config.mac, nic->mac, sizeof(config.mac));
	return CONFIG_VIRTIO_NET ? net_create(dev, &config) : left_out("net", "CONFIG_VIRTIO_NET");
}

static const struct device_row device_table[] = {
	{ "virtio-console", create_vconsole },
	{ "disk", create_blk },
	{ "rng", create_rng },
	{ "vsock", create_vsock },
	{ "net", create_net },
	{ 0 },
};

static int create_devices(struct machine *m)
{
	for (const struct device_row *row = device_table; row->name; row++) {
		for (unsigned int i = 0;; i++) {
			struct virtio_dev *dev = NULL;
			int ret = row->create(m, i, &dev);

			if (ret)
				return ret;
			if (!dev)
				break;
			if (m->nr_devs == ARCH_MAX_VIRTIO) {
				log_err("%s %u: at most %d virtio devices fit into a machine",
					row->name, i, ARCH_MAX_VIRTIO);
				dev->ops->destroy(dev);
				return -ENOSPC;
			}
			m->dev[m->nr_devs++] = dev;
		}
	}
	return 0;
}

static void destroy_devices(struct machine *m)
{
	while (m->nr_devs) {
		struct virtio_dev *dev = m->dev[--m->nr_devs];

		dev->ops->destroy(dev);
	}
}

/*
 * --- stopping from outside: the ladder --------------------------------------------------------------
 */

/*
 * A guest that resets itself in the same moment may be first with vm_end(), and must not start
 * again.
 */
static void stop_now(struct machine *m, const char *who)
{
	m->stop_now = who;
	machine_save_cancel(m);
	if (m->built)
		vm_end(&m->vm, VM_END_STOP, who);
	else
		event_loop_stop(&m->loop);
}

/* One that is paused hears no button. False: it can't be resumed. */
static bool wake(struct machine *m)
{
	char why[LOG_SENTENCE];

	return state_now(&m->state) != STATE_PAUSED || !machine_resume(m, why);
}

void machine_begin_stop(struct machine *m, const char *who)
{
	struct itimerspec second = { .it_value.tv_sec = 1, .it_interval.tv_sec = 1 };
	char why[LOG_SENTENCE];

	if (m->stopping || m->stop_later || !m->config->stop_timeout || (!m->built && !m->pausing)) {
		stop_now(m, who);
		return;
	}
	if (machine_saving(m)) {
		log_info("%s: a snapshot is being written: the guest is stopped after it, once more ends it "
			 "at once", who);
		m->stop_later = who;
		return;
	}
	if (!wake(m)) {
		stop_now(m, who);
		return;
	}
	m->stopping = true;
	if (m->pausing) {
		/* Nobody is there to hear a button; run_guest() sees that there is no next life. */
		log_info("%s: the guest, waiting after a reset, does not start again", who);
		event_loop_stop(&m->loop);
		return;
	}
	state_move(&m->state, CALL_STOP, why);
	log_info("%s: pressing the guest's power button, %u s to power off; once more ends it at once", who,
		 m->config->stop_timeout);
	timerfd_settime(m->stop_timer.fd, 0, &second, NULL);
	arch_power_button(&m->vm);
}

static void on_signal(struct event *ev, uint32_t events)
{
	struct machine *m = ev->opaque;
	struct signalfd_siginfo info;

	if (read(ev->fd, &info, sizeof(info)) != sizeof(info))
		return;
	machine_begin_stop(m, info.ssi_signo == SIGINT ? "SIGINT" : info.ssi_signo == SIGHUP ? "SIGHUP" : "SIGTERM");
}

static void on_stop_timer(struct event *ev, uint32_t events)
{
	struct machine *m = ev->opaque;
	uint64_t seconds;

	if (read(ev->fd, &seconds, sizeof(seconds)) != sizeof(seconds))
		return;
	m->stop_seconds += (unsigned int)seconds;
	if (m->stop_seconds >= m->config->stop_timeout)
		stop_now(m, "the guest did not power off in time");
	else if (m->stop_seconds % STOP_PRESS_EVERY == 0)
		arch_power_button(&m->vm);
}

static void on_pause_timer(struct event *ev, uint32_t events)
{
	struct machine *m = ev->opaque;
	uint64_t times;

	if (read(ev->fd, &times, sizeof(times)) != sizeof(times))
		return;
	m->pausing = false;
	event_loop_stop(&m->loop);
}

static void on_escape(void *opaque, char key)
{
	struct machine *m = opaque;

	if (key == 'x')
		stop_now(m, "Ctrl-A x");
}

/*
 * --- the host's side --------------------------------------------------------------------------------
 */

/* The architecture's words first, so that the user's win. */
static int make_cmdline(struct machine *m)
{
	const struct guest_config *c = m->config;
	const char *own = c->cmdline_only ? "" : arch_cmdline;
	const char *user = c->cmdline ? c->cmdline : "";
	size_t size = strlen(own) + strlen(user) + 2;

	m->cmdline = malloc(size);
	if (!m->cmdline) {
		log_err("out of memory");
		return -ENOMEM;
	}
	snprintf(m->cmdline, size, "%s%s%s", own, *own && *user ? " " : "", user);
	return 0;
}

static int open_consoles(struct machine *m)
{
	const struct guest_config *c = m->config;
	/* With the terminal given to the virtio console and nothing said, both show on it. */
	const char *spec = c->console ? c->console : "stdio";
	int ret;

	ret = console_open(&m->console, spec, &m->loop);
	if (ret)
		return ret;
	console_set_escape(m->console, on_escape, m);
	if (!c->vconsole)
		return 0;
	if (!strcmp(c->vconsole, spec)) {
		m->vconsole = m->console;
		return 0;
	}
	ret = console_open(&m->vconsole, c->vconsole, &m->loop);
	if (ret)
		return ret;
	console_set_escape(m->vconsole, on_escape, m);
	return 0;
}

static void close_consoles(struct machine *m)
{
	if (m->vconsole != m->console)
		console_close(m->vconsole, CONSOLE_DRAIN_MS);
	console_close(m->console, CONSOLE_DRAIN_MS);
}

static int open_signals(struct machine *m)
{
	sigset_t set;
	int ret;

	m->signals.fd = -1;
	m->stop_timer.fd = -1;
	m->pause_timer.fd = -1;
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	m->signals = (struct event){ .fn = on_signal, .opaque = m };
	m->signals.fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	m->stop_timer = (struct event){ .fn = on_stop_timer, .opaque = m };
	m->stop_timer.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	m->pause_timer = (struct event){ .fn = on_pause_timer, .opaque = m };
	m->pause_timer.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (m->signals.fd < 0 || m->stop_timer.fd < 0 || m->pause_timer.fd < 0) {
		ret = -errno;
		log_err("signalfd or timerfd: %s", errno_name(ret));
		return ret;
	}
	ret = vcpu_init_signals();
	if (!ret)
		ret = event_add(&m->loop, &m->signals, EPOLLIN);
	if (!ret)
		ret = event_add(&m->loop, &m->stop_timer, EPOLLIN);
	if (!ret)
		ret = event_add(&m->loop, &m->pause_timer, EPOLLIN);
	if (ret)
		log_err("signals and timers: %s", errno_name(ret));
	return ret;
}

static void close_signals(struct machine *m)
{
	event_del(&m->loop, &m->signals);
	event_del(&m->loop, &m->stop_timer);
	event_del(&m->loop, &m->pause_timer);
	if (m->signals.fd >= 0)
		close(m->signals.fd);
	if (m->stop_timer.fd >= 0)
		close(m->stop_timer.fd);
	if (m->pause_timer.fd >= 0)
		close(m->pause_timer.fd);
}

/*
 * --- the guest's side -------------------------------------------------------------------------------
 */

static void take_down(struct machine *m)
{
	m->built = false;
	vm_stop(&m->vm);
	for (unsigned int i = ARCH_MAX_VIRTIO; i-- > 0;) {
		if (m->mmio[i])
			virtio_mmio_detach(m->mmio[i]);
		free(m->mmio[i]);
		m->mmio[i] = NULL;
	}
	vm_destroy(&m->vm);
	machine_save_forget(m);
}

/* What the guest finds in its memory and registers. */
static int fill(struct machine *m)
{
	const struct arch_boot boot = {
		.kernel = m->config->kernel,
		.initrd = m->config->initrd,
		.cmdline = m->cmdline,
		.nr_virtio = m->nr_devs,
	};
	int ret;

	if (m->restore) {
		ret = machine_restore_load(m);
		/* Its vCPUs start paused. */
		return ret ? ret : vm_pause(&m->vm);
	}
	ret = arch_boot(&m->vm, &boot);
	if (!ret && m->config->track_dirty)
		ret = vm_dirty_enable(&m->vm, NULL);
	return ret;
}

/* The one function that builds a machine: at the start, from a snapshot, and at every reset. */
static int build(struct machine *m)
{
	const struct guest_config *c = m->config;
	const struct vm_config config = {
		.nr_vcpus = c->cpus,
		.ram_size = c->memory,
		.backing = c->hugepages ? MEMORY_HUGETLB : MEMORY_ANON,
		.trap_registers = c->trap_registers,
		.gic = c->gic,
		.boot_since = !c->boot_timer ? 0 : m->boot_since ? m->boot_since : boot_timer_now(),
	};
	int ret;

	m->boot_since = 0;
	ret = vm_create(&m->vm, &m->kvm, &m->loop, &config);
	if (ret)
		return ret;
	ret = arch_devices(&m->vm, m->console);
	if (ret)
		goto err;
	for (unsigned int i = 0; i < m->nr_devs; i++) {
		struct virtio_mmio *mmio = calloc(1, sizeof(*mmio));

		if (!mmio) {
			log_err("out of memory");
			ret = -ENOMEM;
			goto err;
		}
		ret = virtio_mmio_attach(mmio, m->dev[i], &m->vm, i);
		if (ret) {
			free(mmio);
			goto err;
		}
		m->mmio[i] = mmio;
	}
	ret = fill(m);
	if (ret)
		goto err;
	ret = vm_start(&m->vm);
	if (ret)
		goto err;
	m->built = true;
	return 0;

err:
	take_down(m);
	return ret;
}

static int exit_status(enum vm_end end)
{
	switch (end) {
	case VM_END_POWEROFF:
		return EXIT_POWEROFF;
	case VM_END_RESET:
		return EXIT_RESET;
	case VM_END_CRASH:
		return EXIT_CRASH;
	case VM_END_STOP:
		return EXIT_STOPPED;
	default:
		return EXIT_FAILED;
	}
}

/*
 * The line about the guest's end. The supervisor has one of its own, made of the exit status: then
 * only what that leaves open is said here, unless this log is the guest's own file.
 */
static void say_end(const struct machine *m, enum vm_end end, const char *why)
{
	bool said = m->config->supervised && !m->config->log_file;

	log_line(said ? LOG_DEBUG : LOG_INFO, "the guest %s%s%s", vm_end_name(end), why ? ": " : "",
		 why ? why : "");
	if (said && why && (end == VM_END_STOP || end == VM_END_CRASH))
		log_info("%s", why);
}

/* Before a guest that resets itself in a loop starts again. The loop runs: it can be ended. */
static void pause_reset(struct machine *m, uint64_t lived_ms)
{
	unsigned int ms = pace_reset(&m->pace, lived_ms);
	struct itimerspec once = { .it_value = { ms / 1000, (long)(ms % 1000) * 1000000 } };

	if (!ms)
		return;
	if (!m->pace.told)
		log_limited(LOG_WARN, "the guest resets itself in a loop: from now on it waits before "
			    "it starts again, up to %d s", PACE_MAX_MS / 1000);
	m->pace.told = true;
	m->pausing = true;
	timerfd_settime(m->pause_timer.fd, 0, &once, NULL);
	/* A loop that fails is the next life's to tell. */
	while (m->pausing && !m->stopping && !m->stop_now && !event_loop_run(&m->loop))
		;
	m->pausing = false;
}

/*
 * --- lives ------------------------------------------------------------------------------------------
 */

/* Runs the machine that was built until it has ended. Returns how, and @why if that is known. */
static enum vm_end run_life(struct machine *m, const char **why)
{
	enum vm_end end;

	/*
	 * Also for a guest that has ended already: else one that only resets hides all
	 * signals.
	 */
	do {
		if (event_loop_run(&m->loop))
			vm_end(&m->vm, VM_END_FAILED, "the event loop failed");
	} while (atomic_load(&m->vm.end) == VM_END_NONE);
	vm_stop(&m->vm);
	/* It may want to stop a guest that has ended: there is no ladder any more. */
	m->stopping |= m->stop_later != NULL;
	m->stop_later = NULL;
	machine_save_finish(m);
	end = (enum vm_end)atomic_load(&m->vm.end);
	*why = atomic_load(&m->vm.end_why);
	if (end == VM_END_RESET && m->stop_now) {
		end = VM_END_STOP;
		*why = m->stop_now;
	}
	return end;
}

/* After a reset: waits if need be. False: there is no next life. */
static bool live_again(struct machine *m, uint64_t lived_ms, const char *why)
{
	char refused[LOG_SENTENCE];

	if (m->config->on_reset_exit || m->stopping || state_move(&m->state, CALL_RESET, refused))
		return false;
	/* Some guests do nothing but reset. */
	log_limited(LOG_INFO, "the guest %s%s%s", vm_end_name(VM_END_RESET), why ? ": " : "", why ? why : "");
	machine_count_pause(m);
	pause_reset(m, lived_ms);
	return true;
}

static void tell_waiters(struct machine *m, const char *why)
{
	for (unsigned int i = 0; i < m->nr_waiters; i++)
		m->waiter[i].done(m->waiter[i].opaque, 0, why);
	m->nr_waiters = 0;
}

/* The machine has been built. Lives until one is the last, and takes that down. */
static int run_guest(struct machine *m)
{
	char refused[LOG_SENTENCE];

	for (;;) {
		uint64_t started = clock_ms();
		const char *why;
		enum vm_end end = run_life(m, &why);
		bool again = end == VM_END_RESET && live_again(m, clock_ms() - started, why);

		if (again && (m->stopping || m->stop_now)) {
			again = false;
			if (m->stop_now) {
				end = VM_END_STOP;
				say_end(m, end, m->stop_now);
			}
		} else if (!again) {
			say_end(m, end, why);
		}
		if (!again)
			state_move(&m->state, CALL_END, refused);
		take_down(m);
		machine_restore_close(m, false);
		if (!again) {
			state_settle(&m->state, CALL_END, true);
			tell_waiters(m, vm_end_name(end));
			return exit_status(end);
		}
		m->stats.resets++;
		if (build(m)) {
			state_settle(&m->state, CALL_RESET, false);
			tell_waiters(m, "could not be built again");
			return EXIT_FAILED;
		}
		state_settle(&m->state, CALL_RESET, true);
	}
}

static int open_host(struct machine *m)
{
	int ret = 0;

	config_defaults(m->config);
	if (!m->restore && !m->config->kernel) {
		log_err("no kernel is given");
		return -EINVAL;
	}
	ret = make_cmdline(m);
	if (!ret)
		ret = open_consoles(m);
	if (!ret)
		ret = create_devices(m);
	if (!ret && m->restore)
		ret = machine_restore_check(m);
	return ret;
}

static void close_host(struct machine *m)
{
	destroy_devices(m);
	close_consoles(m);
	m->console = m->vconsole = NULL;
	free(m->cmdline);
	m->cmdline = NULL;
}

/* From the start or the restore that was asked for to the first life, or back to where it was. */
static int begin_machine(struct machine *m)
{
	bool restore = m->begin == CALL_RESTORE;
	struct machine_waiter done = m->begin_done;
	enum state_call call = m->begin;
	char why[LOG_SENTENCE] = "";
	int ret;

	log_forget_error();
	ret = restore ? machine_restore_open(m) : 0;
	if (!ret)
		ret = open_host(m);
	if (!ret)
		ret = build(m);
	if (ret) {
		log_first_error(why);
		machine_restore_close(m, true);
		close_host(m);
	} else {
		m->started_ms = clock_ms();
	}
	state_settle(&m->state, call, !ret);
	m->begin = CALL_NR;
	m->begin_done.done = NULL;
	if (!ret && restore) {
		m->paused_ms = m->started_ms;
		if (m->begin_resume)
			ret = machine_resume(m, why);
	}
	if (done.done)
		done.done(done.opaque, ret, why);
	return ret;
}

/* The API's: run_machine() goes on from the loop with it. */
static int ask_begin(struct machine *m, enum state_call call, machine_done_fn *done, void *opaque,
		     char why[LOG_SENTENCE])
{
	int ret = state_move(&m->state, call, why);

	if (ret)
		return ret;
	m->begin = call;
	m->begin_done = (struct machine_waiter){ done, opaque };
	event_loop_stop(&m->loop);
	return 0;
}

int machine_start(struct machine *m, machine_done_fn *done, void *opaque, char why[LOG_SENTENCE])
{
	return ask_begin(m, CALL_START, done, opaque, why);
}

int machine_restore(struct machine *m, bool resume, machine_done_fn *done, void *opaque,
		    char why[LOG_SENTENCE])
{
	int ret = ask_begin(m, CALL_RESTORE, done, opaque, why);

	if (!ret)
		m->begin_resume = resume;
	return ret;
}

static int run_machine(struct machine *m)
{
	const struct guest_config *c = m->config;
	char why[LOG_SENTENCE];

	if (c->kernel || c->restore) {
		m->begin = c->restore ? CALL_RESTORE : CALL_START;
		m->begin_resume = true;
		state_move(&m->state, m->begin, why);
		if (begin_machine(m)) {
			if (!m->built)
				return EXIT_FAILED;
			/* It is there, paused for good: run_guest() takes it down. */
			vm_end(&m->vm, VM_END_FAILED, "the guest can't be resumed");
		}
	}
	while (!m->built) {
		m->boot_since = 0;
		while (m->begin == CALL_NR && !m->stop_now) {
			if (event_loop_run(&m->loop))
				return EXIT_FAILED;
		}
		if (m->stop_now) {
			if (m->begin != CALL_NR) {
				state_settle(&m->state, m->begin, false);
				if (m->begin_done.done)
					m->begin_done.done(m->begin_done.opaque, -ECANCELED,
							   "ended before it was started");
			}
			log_info("%s: ended before it was started", m->stop_now);
			state_move(&m->state, CALL_END, why);
			state_settle(&m->state, CALL_END, true);
			tell_waiters(m, "was never started");
			return EXIT_STOPPED;
		}
		begin_machine(m);
	}
	return run_guest(m);
}

int machine_run(struct guest_config *config)
{
	struct machine *m;
	int status = EXIT_FAILED;

	m = calloc(1, sizeof(*m));
	if (!m) {
		log_err("out of memory");
		return EXIT_FAILED;
	}
	m->config = config;
	m->boot_since = boot_timer_now();
	m->begin = CALL_NR;
	state_init(&m->state);
	if (kvm_open(&m->kvm))
		goto out_free;
	if (event_loop_init(&m->loop))
		goto out_kvm;
	if (open_signals(m))
		goto out_signals;
	if (CONFIG_API && config->api_sock && control_open(&m->control, m, config->api_sock, &m->loop))
		goto out_signals;
	status = run_machine(m);
	if (CONFIG_API)
		control_close(m->control);
	close_host(m);
	machine_save_free(m);

out_signals:
	close_signals(m);
	event_loop_fini(&m->loop);
out_kvm:
	kvm_close(&m->kvm);
out_free:
	state_fini(&m->state);
	free(m);
	return status;
}
