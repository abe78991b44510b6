/* SPDX-License-Identifier: MIT */
/*
 * The machine, whole, over a KVM made of nothing: every step of its construction, its snapshot and
 * its restore fails in turn, and every call is made in every state.
 */
#include "tests/unit/test.h"

#include <elf.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/un.h>
#include "cmd/cmd.h"
#include "cmd/config.h"
#include "cmd/machine_priv.h"
#include "tests/unit/inject.h"
#include "virtio/blk.h"
#include "vm/event.h"
#include "vm/log.h"
#include "vm/snapshot_dir.h"
#include "vm/state_file.h"
#include "vm/state_reader.h"
#include "vm/state_writer.h"
#include "vm/vcpu.h"

#define MIB   (1ull << 20)
#define RAM   (32 * MIB) /* a multiple of 2 MiB that both architectures take */
#define NEW   (1ull << 40)
#define GSI   7 /* nobody's, on both */
#define DISK  "vinit-disk0"
#define LIMIT 5 /* seconds that anything here may take */

/*
 * --- files: a kernel, two disks, and where snapshots go ------------------------------------------
 */

static char dir[] = "/tmp/machine.XXXXXX";
static char path_kernel[64], path_net[64], path_disk[64], path_disk2[64], path_api[64], path_snapshot[64], path_new[64];
static int net_fd; /* what listens at path_net */
static char path_saved[64]; /* the snapshot that restores are of */

static char *in_dir(char path[64], const char *name)
{
	snprintf(path, 64, "%s/%s", dir, name);
	return path;
}

static void put_file(const char *path, const void *data, size_t len, off_t size)
{
	int fd = __real_open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	CHECK(fd >= 0 && write(fd, data, len) == (ssize_t)len && !__real_ftruncate(fd, size));
	close(fd);
}

/* An ELF file of one segment, or an Image: no instruction of either ever runs. */
static void put_kernel(void)
{
	uint8_t elf[0x1000] = { 0 };
	Elf64_Ehdr *ehdr = (Elf64_Ehdr *)elf;
	uint64_t image[512] = {
		[2] = 2 * MIB,	      /* image_size */
		[3] = 0xa,	      /* flags: 4 KiB pages, anywhere */
		[7] = 0x644d5241,     /* magic */
	};

	*ehdr = (Elf64_Ehdr){
		.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
		.e_type = ET_EXEC, .e_machine = EM_X86_64, .e_version = EV_CURRENT,
		.e_entry = 2 * MIB, .e_phoff = sizeof(*ehdr), .e_ehsize = sizeof(*ehdr),
		.e_phentsize = sizeof(Elf64_Phdr), .e_phnum = 1,
	};
	*(Elf64_Phdr *)(ehdr + 1) = (Elf64_Phdr){
		.p_type = PT_LOAD, .p_offset = 0x800, .p_vaddr = 2 * MIB, .p_paddr = 2 * MIB,
		.p_filesz = 0x800, .p_memsz = 0x1000, .p_align = 0x1000,
	};
	if (!strcmp(arch_name, "x86_64"))
		put_file(in_dir(path_kernel, "kernel"), elf, sizeof(elf), sizeof(elf));
	else
		put_file(in_dir(path_kernel, "kernel"), image, sizeof(image), sizeof(image));
}

/* In passt's place; says nothing to who connects. */
static void put_net(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	strcpy(addr.sun_path, in_dir(path_net, "net"));
	net_fd = __real_socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	CHECK(!__real_bind(net_fd, (struct sockaddr *)&addr, sizeof(addr)));
	CHECK(!__real_listen(net_fd, 64));
}

/* The connections of machines that were: the next ones need their places. */
static void forget_connections(void)
{
	int fd;

	while ((fd = __real_accept4(net_fd, NULL, NULL, 0)) >= 0)
		close(fd);
}

static void put_files(void)
{
	CHECK(mkdtemp(dir) != NULL);
	put_kernel();
	put_file(in_dir(path_disk, "disk"), "", 0, MIB);
	put_file(in_dir(path_disk2, "disk2"), "", 0, MIB);
	put_net();
	in_dir(path_api, "api");
	in_dir(path_snapshot, "snapshot");
	in_dir(path_new, "new");
	in_dir(path_saved, "saved");
}

static void remove_snapshot(const char *path)
{
	static const char *const name[] = { SNAPSHOT_STATE, SNAPSHOT_MEMORY, SNAPSHOT_DIFF };
	char file[128];

	for (unsigned int i = 0; i < sizeof(name) / sizeof(*name); i++) {
		snprintf(file, sizeof(file), "%s/%s", path, name[i]);
		unlink(file);
	}
	rmdir(path);
}

/* What a machine has made. */
static void remove_snapshots(void)
{
	remove_snapshot(path_snapshot);
	remove_snapshot(path_new);
}

static bool is_there(const char *path, const char *name)
{
	char file[128];

	snprintf(file, sizeof(file), "%s/%s", path, name);
	return !access(file, F_OK);
}

static void remove_files(void)
{
	unlink(path_kernel);
	unlink(path_disk);
	unlink(path_disk2);
	unlink(path_net);
	close(net_fd);
	remove_snapshot(path_saved);
	/* A file that was left behind is a failure, told by its name. */
	CHECK(!rmdir(dir));
}

static char *words(const char *s)
{
	return __real_strdup(s);
}

enum {
	WITH_KERNEL = 1,
	WITH_API = 2,
	WITH_RESTORE = 4,
	WITH_TRACK = 8,
};

static void make_config(struct guest_config *c, unsigned int with)
{
	forget_connections();
	config_init(c);
	c->console = words("null");
	c->stop_timeout = 30;
	if (with & WITH_KERNEL)
		c->kernel = words(path_kernel);
	if (with & WITH_API)
		c->api_sock = words(path_api);
	c->track_dirty = with & WITH_TRACK;
	if (with & WITH_RESTORE) {
		c->restore = words(path_saved);
		return;
	}
	c->cmdline = words("quiet");
	c->vconsole = words("null");
	c->cpus = 2;
	c->memory = RAM;
	c->rng = true;
	c->vsock = true;
	c->vsock_cid = 42;
	c->nr_disks = 1;
	c->disk[0].path = words(path_disk);
	c->nr_nics = 1;
	c->nic[0] = (struct nic_config){ .kind = NET_PASST, .peer = words(path_net), .mtu = 9000 };
}

/*
 * --- a machine in a thread of its own, and calls on its loop's -----------------------------------
 */

static struct machine *machine; /* NULL while its loop has not run yet */
static struct guest_config config;
static pthread_t machine_thread;
static int status; /* of machine_run() */
static struct taken before;
static int log_fd;
static struct event hook = { .fd = -1 };
static void (*hook_fn)(void);
static sem_t hook_done, machine_up;

static char why[LOG_SENTENCE];
static int ret;

static void on_hook(struct event *ev, uint32_t events)
{
	uint64_t count;

	CHECK(read(ev->fd, &count, sizeof(count)) == sizeof(count));
	hook_fn();
	sem_post(&hook_done);
}

/* Each line counts here, however often. */
bool __wrap_log_allow(struct log_limit *limit);
bool __wrap_log_allow(struct log_limit *limit)
{
	return true;
}

int __real_event_loop_run(struct event_loop *loop);
int __wrap_event_loop_run(struct event_loop *loop);
int __wrap_event_loop_run(struct event_loop *loop)
{
	if (!machine) {
		struct epoll_event arg = { .events = EPOLLIN, .data.ptr = &hook };

		machine = (struct machine *)((char *)loop - offsetof(struct machine, loop));
		hook.armed = true;
		CHECK(!__real_epoll_ctl(loop->epfd, EPOLL_CTL_ADD, hook.fd, &arg));
		sem_post(&machine_up);
	}
	return __real_event_loop_run(loop);
}

/* Nothing here can go on. */
static void hangs(const char *what)
{
	printf("  hangs: %s\nFAIL hang\n", what);
	fflush(stdout);
	_exit(1);
}

static void wait_for(sem_t *sem, const char *what)
{
	struct timespec end;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += LIMIT;
	while (sem_timedwait(sem, &end)) {
		if (errno != EINTR)
			hangs(what);
	}
}

static atomic_bool ended; /* machine_run() has returned */

/* False when the machine has ended, and with it its loop. */
static bool try_on_loop(void (*fn)(void))
{
	struct timespec moment = { .tv_nsec = 100000 };
	uint64_t one = 1;

	hook_fn = fn;
	CHECK(write(hook.fd, &one, sizeof(one)) == sizeof(one));
	for (int tries = 0; tries < LIMIT * 10000; tries++) {
		if (!sem_trywait(&hook_done))
			return true;
		if (ended && sem_trywait(&hook_done)) {
			/* Nobody has taken it. */
			CHECK(read(hook.fd, &one, sizeof(one)) == sizeof(one));
			return false;
		}
		nanosleep(&moment, NULL);
	}
	hangs("a call on the loop's thread");
	return false;
}

static void on_loop(void (*fn)(void))
{
	CHECK(try_on_loop(fn));
}

static void *run_machine(void *opaque)
{
	status = machine_run(&config);
	ended = true;
	/* For one that ended before its loop ran. */
	sem_post(&machine_up);
	return NULL;
}

static void clear_log(void)
{
	CHECK(!__real_ftruncate(log_fd, 0) && !lseek(log_fd, 0, SEEK_SET));
}

static size_t log_size(void)
{
	struct stat st = { 0 };

	__real_fstat(log_fd, &st);
	return (size_t)st.st_size;
}

static void show_log(void)
{
	char text[1024];
	ssize_t n = __real_pread(log_fd, text, sizeof(text) - 1, 0);

	text[n > 0 ? n : 0] = '\0';
	printf("%s", text);
}

/* Returns when its loop runs, or it has ended. */
static void up_as_configured(void)
{
	clear_log();
	machine = NULL;
	status = -1;
	ended = false;
	before = taken_now();
	CHECK(!__real_pthread_create(&machine_thread, NULL, run_machine, NULL));
	wait_for(&machine_up, "machine_run()");
}

static void up(unsigned int with)
{
	make_config(&config, with);
	up_as_configured();
}

/* A thread that was joined is in /proc for another moment. */
static bool books_agree(void)
{
	struct timespec moment = { .tv_nsec = 1000000 };
	struct taken now = taken_now();

	for (int i = 0; i < 1000 && now.threads > before.threads; i++) {
		nanosleep(&moment, NULL);
		now = taken_now();
	}
	if (now.fds == before.fds && now.threads == before.threads && now.blocks == before.blocks &&
	    now.mapped == before.mapped)
		return true;
	printf("  left: %d descriptors, %d threads, %d blocks, %lld bytes mapped\n", (int)(now.fds - before.fds),
	       (int)(now.threads - before.threads), (int)(now.blocks - before.blocks),
	       now.mapped - before.mapped);
	return false;
}

/* When machine_run() has returned or is about to. */
static void down(void)
{
	pthread_join(machine_thread, NULL);
	while (!sem_trywait(&machine_up))
		;
	config_free(&config);
	fake_reset();
	CHECK(books_agree());
	CHECK(access(path_api, F_OK) < 0);
}

static void kill_now(void)
{
	machine->config->stop_timeout = 0;
	machine_begin_stop(machine, "test");
}

/* Ends the machine whatever it does. */
static void finish(void)
{
	on_loop(kill_now);
	down();
}

/*
 * --- every failure, one by one -------------------------------------------------------------------
 */

static unsigned int failures;

static void say_failure(const char *what, unsigned int n)
{
	printf("  %s: call %u, %s", what, n, inject_what ? inject_what : "none");
	if (inject_what && !strcmp(inject_what, "ioctl"))
		printf(" %#lx", inject_request);
	printf(": status %d, ret %d, why \"%s\"\n", status, ret, why);
	show_log();
}

/*
 * A machine whose guest powers off at once: construction, the run and the end, with @n failing.
 * True when there was no such call.
 */
static bool life(const char *name, unsigned int with, unsigned int n)
{
	bool failed, good;

	clear_log();
	make_config(&config, with);
	machine = NULL;
	fake_guest = GUEST_POWEROFF;
	before = taken_now();
	inject_arm(n);
	status = machine_run(&config);
	failed = inject_disarm();
	while (!sem_trywait(&machine_up))
		;
	config_free(&config);
	fake_reset();
	/* What is given up for good is told; what goes on without it may be silent. */
	good = status == EXIT_POWEROFF || (failed && status == EXIT_FAILED && log_size());
	good &= books_agree();
	good &= access(path_api, F_OK) < 0;
	if (!good) {
		say_failure(name, n);
		CHECK(good);
	}
	failures += failed && status == EXIT_FAILED;
	return !failed;
}

static void lives(const char *name, unsigned int with, unsigned int at_least)
{
	unsigned int n = 1;

	failures = 0;
	while (!life(name, with, n) && n < 5000)
		n++;
	printf("  %s: %u calls, of which %u are needed\n", name, n - 1, failures);
	CHECK(failures >= at_least && n < 5000);
}

static void construction_unwinds(void)
{
	/* The first takes what the C library keeps for good. */
	log_set_level(LOG_ERROR);
	life("warm", WITH_KERNEL | WITH_API, 1u << 30);
	lives("start", WITH_KERNEL, 80);
	lives("start with API", WITH_KERNEL | WITH_API, 80);
	lives("start with dirty log", WITH_KERNEL | WITH_TRACK, 80);
	log_set_level(LOG_INFO);
}

/*
 * --- calls ---------------------------------------------------------------------------------------
 */

static sem_t done_called;
static int done_ret;
static char done_why[LOG_SENTENCE];
static unsigned int nr_done;

static void on_done(void *opaque, int result, const char *text)
{
	done_ret = result;
	snprintf(done_why, sizeof(done_why), "%s", text ? text : "");
	nr_done++;
	sem_post(&done_called);
}

static uint32_t slot;

static int call_start(void)
{
	return machine_start(machine, on_done, NULL, why);
}

static int call_pause(void)
{
	return machine_pause(machine, why);
}

static int call_resume(void)
{
	return machine_resume(machine, why);
}

static int call_button(void)
{
	return machine_power_button(machine, why);
}

static int call_stop(void)
{
	return machine_stop(machine, why);
}

static int call_end(void)
{
	return machine_end(machine, why);
}

static int call_reset(void)
{
	return machine_reset(machine, why);
}

static int call_snapshot(void)
{
	return machine_snapshot(machine, path_snapshot, false, on_done, NULL, why);
}

/* bring() has taken one that it follows. */
static int call_diff(void)
{
	return machine_snapshot(machine, path_snapshot, true, on_done, NULL, why);
}

static int call_restore(void)
{
	return machine_restore(machine, false, on_done, NULL, why);
}

static int call_disk(void)
{
	return machine_disk(machine, DISK, path_disk2, why);
}

static int call_memory_add(void)
{
	struct region_spec spec = { .gpa = NEW + 16 * MIB, .size = MIB };
	uint32_t new;

	return machine_memory_add(machine, &spec, &new, why);
}

/* The region that bring() has added. */
static int call_memory_remove(void)
{
	return machine_memory_remove(machine, slot, why);
}

static int call_dirty_log(void)
{
	return machine_dirty_log(machine, false, why);
}

static int on_dirty(void *opaque, uint64_t gpa, uint64_t size, const uint8_t *hva)
{
	return 0;
}

static int call_dirty_get(void)
{
	return machine_dirty_get(machine, on_dirty, NULL, why);
}

static int call_irq_level(void)
{
	return machine_irq_level(machine, GSI, true, why);
}

static int call_irq_pulse(void)
{
	return machine_irq_pulse(machine, GSI, why);
}

/*
 * --- situations: what a machine can be found in --------------------------------------------------
 */

enum situation {
	CREATED,
	STARTING, /* asked to, and not begun */
	RUNNING,
	PAUSED,
	SAVING,	   /* a snapshot under way */
	STOPPING,  /* on the ladder */
	RESETTING, /* a reset that waits, before the next life */
	STOPPED,
	FAILED, /* after a reset that failed */
	SITUATIONS,
};

static const struct {
	const char *name;
	enum state_id state;
} situations[SITUATIONS] = {
	[CREATED] = { "created", STATE_CREATED },     [STARTING] = { "starting", STATE_STARTING },
	[RUNNING] = { "running", STATE_RUNNING },     [PAUSED] = { "paused", STATE_PAUSED },
	[SAVING] = { "saving", STATE_PAUSED },	      [STOPPING] = { "stopping", STATE_STOPPING },
	[RESETTING] = { "resetting", STATE_STARTING }, [STOPPED] = { "stopped", STATE_STOPPED },
	[FAILED] = { "failed", STATE_ERROR },
};

/* Where the machine is when the call, and what it began, are through. */
enum after { STAYS, RUNS, PAUSES, STOPS, ENDS };

#define IN(s) (1u << (s))

static const struct {
	enum state_call call;
	int (*fn)(void);
	unsigned int legal, busy; /* in all other situations: -EINVAL */
	enum after after;
	bool done; /* calls on_done() */
} calls[] = {
	{ CALL_START, call_start, IN(CREATED), 0, RUNS, true },
	{ CALL_RESTORE, call_restore, IN(CREATED), 0, PAUSES, true },
	{ CALL_PAUSE, call_pause, IN(RUNNING), 0, PAUSES, false },
	{ CALL_RESUME, call_resume, IN(PAUSED), IN(SAVING), RUNS, false },
	{ CALL_POWER_BUTTON, call_button, IN(RUNNING), 0, STAYS, false },
	{ CALL_STOP, call_stop, IN(RUNNING) | IN(PAUSED), IN(SAVING), STOPS, false },
	{ CALL_END, call_end,
	  IN(CREATED) | IN(STARTING) | IN(RUNNING) | IN(PAUSED) | IN(SAVING) | IN(STOPPING) | IN(RESETTING) |
		  IN(FAILED), 0,
	  ENDS, false },
	{ CALL_RESET, call_reset, IN(RUNNING) | IN(PAUSED), IN(SAVING), RUNS, false },
	{ CALL_SNAPSHOT, call_snapshot, IN(PAUSED), IN(SAVING), STAYS, true },
	{ CALL_SNAPSHOT, call_diff, IN(PAUSED), IN(SAVING), STAYS, true },
	{ CALL_DISK, call_disk, IN(RUNNING) | IN(PAUSED), IN(SAVING), STAYS, false },
	{ CALL_MEMORY, call_memory_add, IN(RUNNING) | IN(PAUSED), IN(SAVING), STAYS, false },
	{ CALL_MEMORY, call_memory_remove, IN(RUNNING) | IN(PAUSED), IN(SAVING), STAYS, false },
	{ CALL_DIRTY_LOG, call_dirty_log, IN(RUNNING) | IN(PAUSED), IN(SAVING), STAYS, false },
	{ CALL_DIRTY_LOG, call_dirty_get, IN(RUNNING) | IN(PAUSED), IN(SAVING), STAYS, false },
	{ CALL_INTERRUPT, call_irq_level, IN(RUNNING) | IN(PAUSED), IN(SAVING), STAYS, false },
	{ CALL_INTERRUPT, call_irq_pulse, IN(RUNNING) | IN(PAUSED), IN(SAVING), STAYS, false },
};

#define NR_CALLS (sizeof(calls) / sizeof(*calls))

static enum situation now;
static unsigned int the_call; /* what is to be made in it */

/* A snapshot that is under way stays so until it is let go. */
static sem_t sync_held, sync_go;
static atomic_bool hold_sync;

static void hold_here(void)
{
	if (!atomic_exchange(&hold_sync, false))
		return;
	sem_post(&sync_held);
	sem_wait(&sync_go);
}

static void do_stuff(void)
{
	struct region_spec spec = { .gpa = NEW, .size = MIB };

	ret = machine_memory_add(machine, &spec, &slot, why);
}

static void do_start(void)
{
	ret = call_start();
}

static void do_pause(void)
{
	ret = call_pause();
}

static void do_snapshot(void)
{
	ret = call_snapshot();
}

static void do_full(void)
{
	ret = machine_snapshot(machine, path_new, false, on_done, NULL, why);
}

static void do_stop(void)
{
	ret = call_stop();
}

/* The guest has reset itself too often. */
static void do_pace(void)
{
	machine->pace.debt_ms = PACE_FREE * PACE_EACH_MS;
	machine->pace.pause_ms = PACE_MAX_MS;
	ret = call_reset();
}

static enum state_id state_seen;
static bool pausing_seen;

static void look(void)
{
	state_seen = machine_state(machine);
	pausing_seen = machine->pausing;
}

static void wait_state(enum state_id wanted)
{
	struct timespec moment = { .tv_nsec = 1000000 };
	int tries = 0;

	do {
		nanosleep(&moment, NULL);
		on_loop(look);
	} while (state_seen != wanted && tries++ < LIMIT * 1000);
	CHECK_EQ(state_seen, wanted);
}

static void step(void (*fn)(void))
{
	ret = -1;
	on_loop(fn);
	CHECK_EQ(ret, 0);
}

/* A new machine in a situation that its loop runs in. */
static void bring(enum situation s)
{
	now = s;
	nr_done = 0;
	if (s == CREATED || s == STARTING) {
		up(WITH_API);
		return;
	}
	up(WITH_KERNEL | WITH_API | WITH_TRACK);
	step(do_stuff);
	if (s == PAUSED || s == SAVING)
		step(do_pause);
	if (s == PAUSED && calls[the_call].fn == call_diff) {
		step(do_full);
		wait_for(&done_called, "the full snapshot");
		CHECK_EQ(done_ret, 0);
		nr_done = 0;
	}
	if (s == SAVING) {
		hold_sync = true;
		step(do_snapshot);
		wait_for(&sync_held, "a snapshot to come to its sync");
	}
	if (s == STOPPING)
		step(do_stop);
	if (s == RESETTING) {
		step(do_pace);
		do
			on_loop(look);
		while (!pausing_seen);
	}
}

static void leave(void)
{
	if (now == SAVING)
		sem_post(&sync_go);
	finish();
	while (!sem_trywait(&done_called))
		;
	remove_snapshots();
}

/*
 * --- every call in every situation ---------------------------------------------------------------
 */

static int wanted(unsigned int i)
{
	return calls[i].legal & IN(now) ? 0 : calls[i].busy & IN(now) ? -EBUSY : -EINVAL;
}

static void refused_well(unsigned int i)
{
	static struct machine old;
	unsigned int kvm_calls = fake_calls, dones = nr_done;
	char sentence[STATE_SENTENCE];
	const char *state = situations[now].name;
	int got;

	memset(&old, 0, sizeof(old));
	old = *machine;
	strcpy(why, "old");
	got = calls[i].fn();
	if (wanted(i) == -EBUSY)
		snprintf(sentence, sizeof(sentence), "%s: another call is under way: ",
			 state_call_name(calls[i].call));
	else
		snprintf(sentence, sizeof(sentence), "%s: the machine is %s%s; expected ",
			 state_call_name(calls[i].call), now == FAILED ? "in " : "",
			 state_name(situations[now].state));
	if (got != wanted(i) || strncmp(why, sentence, strlen(sentence)) || !why[strlen(sentence)] ||
	    memcmp(&old, machine, sizeof(old)) || fake_calls != kvm_calls || nr_done != dones) {
		printf("  %s, %s (row %u): %d, \"%s\"%s%s\n", state, state_call_name(calls[i].call), i, got, why,
		       memcmp(&old, machine, sizeof(old)) ? ", the machine has changed" : "",
		       fake_calls != kvm_calls ? ", KVM was called" : "");
		CHECK(!"refused as it should be");
	}
}

static void all_refused(void)
{
	CHECK_EQ(machine_state(machine), situations[now].state);
	for (unsigned int i = 0; i < NR_CALLS; i++) {
		if (wanted(i))
			refused_well(i);
	}
	CHECK_EQ(machine_state(machine), situations[now].state);
}

static void do_call(void)
{
	strcpy(why, "");
	ret = calls[the_call].fn();
}

static void prepare(void)
{
	struct guest_config *c = machine_config(machine);

	if (calls[the_call].call == CALL_START && !c->kernel)
		c->kernel = words(path_kernel);
	if (calls[the_call].call == CALL_RESTORE && !c->restore)
		c->restore = words(path_saved);
}

static void check_after(void)
{
	switch (calls[the_call].after) {
	case STAYS:
		wait_state(situations[now].state);
		break;
	case RUNS:
		wait_state(STATE_RUNNING);
		break;
	case PAUSES:
		wait_state(STATE_PAUSED);
		break;
	case STOPS:
		wait_state(STATE_STOPPING);
		break;
	case ENDS:
		break;
	}
}

static void start_and_call(void)
{
	do_start();
	CHECK_EQ(machine_state(machine), STATE_STARTING);
	do_call();
}

/* One that is legal where it is made: it succeeds, and leads where it should. */
static void legal_call(unsigned int i)
{
	the_call = now == STARTING ? 0 : i;
	on_loop(prepare);
	the_call = i;
	step(now == STARTING ? start_and_call : do_call);
	if (now == SAVING)
		sem_post(&sync_go);
	/* The start or the snapshot that it put an end to has an end of its own. */
	if (calls[i].done || now == STARTING || now == SAVING) {
		wait_for(&done_called, "the end of a call that takes its time");
		CHECK_EQ(nr_done, 1);
	}
	if (calls[i].done) {
		CHECK_EQ(done_ret, 0);
		CHECK_STR(done_why, "");
	}
	check_after();
	if (calls[i].after == ENDS)
		down();
	else
		finish();
	CHECK_EQ(status, EXIT_STOPPED);
	CHECK_EQ(nr_done, calls[i].done || now == STARTING || now == SAVING);
	remove_snapshots();
}

static void start_and_all_refused(void)
{
	do_start();
	all_refused();
}

static void calls_in(enum situation s)
{
	int failed_before;

	bring(s);
	if (s == STARTING) {
		/* Before the loop's next turn. */
		the_call = 0;
		on_loop(prepare);
		step(start_and_all_refused);
		wait_for(&done_called, "the start");
	} else {
		on_loop(all_refused);
	}
	leave();
	for (unsigned int i = 0; i < NR_CALLS; i++) {
		now = s;
		if (wanted(i))
			continue;
		failed_before = test_failed_now;
		test_failed_now = 0;
		the_call = i;
		bring(s);
		legal_call(i);
		if (test_failed_now) {
			printf("  that was %s (row %u) in %s: \"%s\" \"%s\"\n", state_call_name(calls[i].call), i,
			       situations[s].name, why, done_why);
			show_log();
		}
		test_failed_now |= failed_before;
	}
}

static void created(void)
{
	calls_in(CREATED);
}

static void starting(void)
{
	calls_in(STARTING);
}

static void running(void)
{
	calls_in(RUNNING);
}

static void paused(void)
{
	calls_in(PAUSED);
}

static void saving(void)
{
	calls_in(SAVING);
}

static void stopping(void)
{
	calls_in(STOPPING);
}

static void resetting(void)
{
	calls_in(RESETTING);
}

/* There is no loop any more: who waits for the end is told of it, and may call. */
static void on_end(void *opaque, int result, const char *text)
{
	CHECK_EQ(result, 0);
	CHECK(text && *text);
	all_refused();
	for (unsigned int i = 0; i < NR_CALLS; i++) {
		if (!wanted(i))
			CHECK_EQ(calls[i].fn(), 0);
	}
	nr_done++;
}

static void do_wait(void)
{
	machine_wait(machine, on_end, NULL);
}

static void stopped(void)
{
	bring(RUNNING);
	on_loop(do_wait);
	now = STOPPED;
	finish();
	CHECK_EQ(nr_done, 1);
	CHECK_EQ(status, EXIT_STOPPED);
}

static void do_reset(void)
{
	ret = call_reset();
}

static void failed(void)
{
	bring(RUNNING);
	on_loop(do_wait);
	now = FAILED;
	fake_fail_request = (uint32_t)KVM_CREATE_VM;
	step(do_reset);
	down();
	CHECK_EQ(nr_done, 1);
	CHECK_EQ(status, EXIT_FAILED);
}

/* As many as there is room for are told; one more is told at once that there is none. */
static void do_many_waits(void)
{
	for (unsigned int i = 0; i < MACHINE_WAITERS; i++)
		machine_wait(machine, on_done, NULL);
	CHECK_EQ(nr_done, 0);
	machine_wait(machine, on_done, NULL);
	CHECK_EQ(nr_done, 1);
	CHECK_EQ(done_ret, -EBUSY);
	CHECK(*done_why);
}

static void waiting(void)
{
	static const enum situation in[] = { CREATED, RUNNING, PAUSED, SAVING, STOPPING, RESETTING };

	for (unsigned int i = 0; i < sizeof(in) / sizeof(*in); i++) {
		bring(in[i]);
		on_loop(do_many_waits);
		if (now == SAVING)
			sem_post(&sync_go);
		finish();
		CHECK_EQ(nr_done, 1 + MACHINE_WAITERS + (now == SAVING));
		CHECK_EQ(done_ret, 0);
		remove_snapshots();
		while (!sem_trywait(&done_called))
			;
	}
}

/*
 * --- every failure in every call -----------------------------------------------------------------
 */

static unsigned int fail_at;
static bool end_seen;

/* Until the call returns, or for those that take their time until they have ended. */
static void do_failing_call(void)
{
	strcpy(why, "");
	inject_arm(fail_at);
	ret = calls[the_call].fn();
	if (!ret && calls[the_call].done)
		return;
	if (calls[the_call].call != CALL_RESET)
		inject_disarm();
}

static void look_end(void)
{
	look();
	end_seen = atomic_load(&machine->vm.end) != VM_END_NONE;
}

/* What must be so after a call that has failed, and can be made again. */
static void failed_well(enum situation s)
{
	CHECK(*why);
	CHECK_EQ(state_seen, situations[s].state);
	/* The state is what makes it one; a new memory beside the old state is refused. */
	CHECK(!is_there(path_snapshot, SNAPSHOT_STATE SNAPSHOT_NEW));
	CHECK(!is_there(path_snapshot, SNAPSHOT_MEMORY SNAPSHOT_NEW));
	CHECK(!is_there(path_snapshot, SNAPSHOT_DIFF SNAPSHOT_NEW));
	if (s == CREATED) {
		CHECK(!config.vconsole == (calls[the_call].call == CALL_RESTORE));
		CHECK_EQ(config.nr_disks, calls[the_call].call != CALL_RESTORE);
	}
}

/* For a start or a restore: the rest of the machine is the snapshot's. */
static void bring_to_fail(enum situation s)
{
	if (s == CREATED && calls[the_call].call == CALL_RESTORE) {
		now = s;
		nr_done = 0;
		make_config(&config, WITH_API | WITH_RESTORE);
		free(config.restore);
		config.restore = NULL;
		up_as_configured();
	} else {
		bring(s);
	}
	on_loop(prepare);
}

/* True when there was no such call. */
static bool failing_call(enum situation s, unsigned int i, unsigned int n)
{
	bool injected, gone;

	the_call = i;
	fail_at = n;
	bring_to_fail(s);
	clear_log();
	on_loop(do_failing_call);
	if (!ret && calls[i].done) {
		wait_for(&done_called, "the end of a call that takes its time");
		ret = done_ret;
		memcpy(why, done_why, sizeof(why));
	}
	injected = inject_what != NULL;
	/* The guest may not have survived it. */
	gone = !try_on_loop(look_end) || end_seen;
	inject_disarm();
	if (gone) {
		down();
		CHECK_EQ(status, EXIT_FAILED);
		CHECK(injected && log_size());
		return false;
	}
	if (ret) {
		CHECK(injected);
		failures++;
		failed_well(s);
		nr_done = 0;
		step(do_call);
		if (calls[i].done) {
			wait_for(&done_called, "the second try");
			CHECK_EQ(done_ret, 0);
		}
	}
	check_after();
	leave();
	return !injected;
}

/* All in @i's row, in @s. At least @at_least must have been refused. */
static void failing_calls(enum situation s, int (*fn)(void), unsigned int at_least)
{
	unsigned int i = 0, n = 1;
	bool none = false;

	while (calls[i].fn != fn)
		i++;
	failures = 0;
	for (; !none && n < 5000; n++) {
		int failed_before = test_failed_now;

		test_failed_now = 0;
		none = failing_call(s, i, n);
		if (test_failed_now)
			say_failure(state_call_name(calls[i].call), n);
		test_failed_now |= failed_before;
	}
	printf("  %s, row %u in %s: %u calls, of which %u are needed\n", state_call_name(calls[i].call), i,
	       situations[s].name, n - 2, failures);
	CHECK(failures >= at_least && n < 5000);
}

static void calls_fail(void)
{
	failing_calls(RUNNING, call_disk, 4);
	failing_calls(PAUSED, call_disk, 4);
	failing_calls(RUNNING, call_memory_add, 2);
	failing_calls(PAUSED, call_memory_remove, 1);
	failing_calls(RUNNING, call_dirty_log, 1);
	failing_calls(RUNNING, call_dirty_get, 1);
	failing_calls(RUNNING, call_irq_level, 1);
	failing_calls(PAUSED, call_irq_pulse, 2);
	failing_calls(RUNNING, call_pause, 0);
	failing_calls(PAUSED, call_resume, 0);
}

static void start_fails(void)
{
	failing_calls(CREATED, call_start, 80);
}

static void snapshot_fails(void)
{
	failing_calls(PAUSED, call_snapshot, 20);
	failing_calls(PAUSED, call_diff, 20);
}

static void restore_fails(void)
{
	failing_calls(CREATED, call_restore, 80);
	log_set_level(LOG_ERROR);
	lives("restore", WITH_RESTORE, 80);
	lives("restore with dirty log", WITH_RESTORE | WITH_TRACK, 80);
	log_set_level(LOG_INFO);
}

/* The guest has gone when a reset fails: the machine ends. */
static bool failing_reset(unsigned int n)
{
	bool injected, gone;

	fail_at = n;
	bring(RUNNING);
	clear_log();
	on_loop(do_failing_call);
	do
		gone = !try_on_loop(look_end);
	while (!gone && (end_seen || state_seen != STATE_RUNNING));
	injected = inject_disarm();
	if (gone) {
		down();
		CHECK(injected && log_size());
		CHECK_EQ(status, EXIT_FAILED);
		failures++;
	} else {
		leave();
		CHECK_EQ(status, EXIT_STOPPED);
	}
	return !injected;
}

static void reset_fails(void)
{
	unsigned int n = 1;
	bool none = false;

	the_call = 0;
	while (calls[the_call].fn != call_reset)
		the_call++;
	failures = 0;
	for (; !none && n < 5000; n++) {
		int failed_before = test_failed_now;

		test_failed_now = 0;
		none = failing_reset(n);
		if (test_failed_now)
			say_failure("reset", n);
		test_failed_now |= failed_before;
	}
	printf("  reset: %u calls, of which %u are needed\n", n - 2, failures);
	CHECK(failures >= 60 && n < 5000);
}

/* The one that all restores here are of. */
static void do_save(void)
{
	ret = machine_snapshot(machine, path_saved, false, on_done, NULL, why);
}

static void save(void)
{
	bring(PAUSED);
	step(do_save);
	wait_for(&done_called, "the snapshot");
	CHECK_EQ(done_ret, 0);
	CHECK_STR(done_why, "");
	CHECK(is_there(path_saved, SNAPSHOT_STATE) && is_there(path_saved, SNAPSHOT_MEMORY));
	leave();
}

/*
 * --- a whole machine's state, damaged ------------------------------------------------------------
 */

/* The state of path_new, of @len bytes, is refused with a sentence, and the configuration is what it was. */
static bool refused(const uint8_t *state, size_t len)
{
	char file[128];
	struct guest_config c, was;
	struct machine m = { .config = &c };
	int err;

	snprintf(file, sizeof(file), "%s/" SNAPSHOT_STATE, path_new);
	put_file(file, state, len, (off_t)len);
	config_init(&c);
	c.restore = words(path_new);
	was = c;
	CHECK(!__real_ftruncate(log_fd, 0) && !lseek(log_fd, 0, SEEK_SET));
	err = machine_restore_open(&m);
	if (!err)
		machine_restore_close(&m, true);
	CHECK(!m.restore && !memcmp(&c, &was, sizeof(c)));
	config_free(&c);
	return (err == -EBADMSG || err == -EOPNOTSUPP) && lseek(log_fd, 0, SEEK_CUR) > 20;
}

static ssize_t read_state(const char *path, uint8_t *state, size_t room)
{
	char file[128];
	ssize_t len;
	int fd;

	snprintf(file, sizeof(file), "%s/" SNAPSHOT_STATE, path);
	fd = __real_open(file, O_RDONLY | O_CLOEXEC, 0);
	len = read(fd, state, room);
	close(fd);
	CHECK(len > 1000 && len < (ssize_t)room);
	return len;
}

/* Of path_saved, to @state; path_new is made, and has the memory alone. */
static ssize_t copy_saved(uint8_t *state, size_t room)
{
	char from[128], to[128];

	CHECK(!mkdir(path_new, 0700));
	snprintf(from, sizeof(from), "%s/" SNAPSHOT_MEMORY, path_saved);
	snprintf(to, sizeof(to), "%s/" SNAPSHOT_MEMORY, path_new);
	CHECK(!link(from, to));
	return read_state(path_saved, state, room);
}

/* Every byte, every length, every version of the file. */
static void damaged(void)
{
	static uint8_t state[STATE_FILE_MAX / 64];
	ssize_t len = copy_saved(state, sizeof(state));
	int wrong = 0;

	CHECK(!refused(state, (size_t)len)); /* undamaged */
	for (ssize_t i = 0; i < len && wrong < 10; i++) {
		uint8_t was = state[i];

		state[i] ^= (uint8_t)(1 << i % 8);
		wrong += !refused(state, (size_t)len);
		state[i] = (uint8_t)~was;
		wrong += !refused(state, (size_t)len);
		state[i] = was;
	}
	for (ssize_t i = 0; i < len && wrong < 10; i++)
		wrong += !refused(state, (size_t)i);
	for (unsigned int version = 0; version < 256 && wrong < 10; version++) {
		state_file_store(state + STATE_FILE_AT_VERSION, version, 4);
		wrong += version != STATE_FILE_VERSION && !refused(state, (size_t)len);
	}
	CHECK_EQ(wrong, 0);
	remove_snapshot(path_new);
}

/*
 * --- other versions ------------------------------------------------------------------------------
 */

#define MACH STATE_TAG('M', 'A', 'C', 'H')

/* What version 1 had behind its first three numbers, for the machine of version_1(). */
static void put_version_1(struct state_writer *w)
{
	state_writer_string(w, path_kernel);
	state_writer_string(w, "");
	state_writer_string(w, "quiet");
	state_writer_bool(w, false);
	state_writer_string(w, "null");
	state_writer_string(w, "null");
	state_writer_bool(w, true); /* rng */
	state_writer_bool(w, true);
	state_writer_u64(w, 42);
	state_writer_u32(w, 1);
	state_writer_string(w, path_disk);
	state_writer_string(w, "");
	for (unsigned int i = 0; i < 3; i++)
		state_writer_bool(w, false);
	state_writer_u32(w, 0); /* regions */
}

/* The state in @path, its section MACH of another version; with 1, what that version had in it. */
static void change_version(const char *path, uint32_t version)
{
	struct snapshot_dir files;
	struct state_section s;
	struct state_reader r;
	struct state_writer w;

	CHECK(!snapshot_dir_open(&files, path, false));
	CHECK(!state_reader_open(&r, &files, arch_name));
	state_writer_init(&w, arch_name);
	for (uint32_t i = 0; state_reader_at(&r, &s, i); i++) {
		bool changes = s.tag == MACH;

		state_writer_begin(&w, s.tag, s.instance, changes ? version : s.version);
		state_writer_bytes(&w, s.payload, changes && version == 1 ? 16 : s.len);
		if (changes && version == 1)
			put_version_1(&w);
		state_writer_end(&w);
	}
	CHECK(!state_writer_save(&w, &files));
	CHECK(!renameat(files.fd, SNAPSHOT_STATE ".new", files.fd, SNAPSHOT_STATE));
	state_writer_fini(&w);
	state_reader_close(&r);
	snapshot_dir_close(&files);
}

static void look_restored(void)
{
	const struct guest_config *c = machine->config;

	CHECK_EQ(c->cpus, 2);
	CHECK_EQ(c->memory, RAM);
	CHECK(c->rng && c->vsock && c->vsock_cid == 42);
	CHECK_EQ(c->nr_nics, 0);
	CHECK_EQ(c->nr_disks, 1);
	CHECK_STR(c->disk[0].path, path_disk);
	CHECK_EQ(c->disk[0].engine, BLK_AUTO);
	CHECK_EQ(c->disk[0].queues, 1);
}

/* A machine that version 1 knew goes on from a snapshot that says so, and runs. */
static void version_1(void)
{
	now = PAUSED;
	nr_done = 0;
	make_config(&config, WITH_KERNEL | WITH_API);
	free(config.nic[0].peer);
	config.nr_nics = 0;
	config.disk[0].queues = 1;
	up_as_configured();
	step(do_pause);
	step(do_full);
	wait_for(&done_called, "the snapshot");
	CHECK_EQ(done_ret, 0);
	finish();
	change_version(path_new, 1);
	make_config(&config, WITH_RESTORE | WITH_API);
	free(config.restore);
	config.restore = words(path_new);
	up_as_configured();
	wait_state(STATE_RUNNING);
	on_loop(look_restored);
	leave();
}

static void look_given(void)
{
	const struct guest_config *c = machine->config;

	CHECK_STR(c->disk[0].path, path_disk2);
	CHECK_EQ(c->disk[0].engine, BLK_SYNC);
	CHECK_EQ(c->disk[0].queues, 2); /* the guest knows them: as they were, with two vCPUs */
	CHECK(c->nic[0].kind == NET_PASST && c->nic[0].vhost == NET_VHOST_NO && c->nic[0].mtu == 9000);
	CHECK(c->trap_registers && c->boot_timer);
}

/* What is the host's is as it is given, not as the snapshot has it. */
static void given(void)
{
	now = PAUSED;
	nr_done = 0;
	make_config(&config, WITH_RESTORE | WITH_API);
	config.nr_disks = config.nr_nics = 1;
	config.disk[0] = (struct disk_config){ .path = words(path_disk2), .engine = BLK_SYNC };
	config.nic[0] = (struct nic_config){ .kind = NET_PASST, .peer = words(path_net), .vhost = NET_VHOST_NO };
	config.trap_registers = config.boot_timer = true;
	up_as_configured();
	wait_state(STATE_RUNNING);
	on_loop(look_given);
	leave();
}

/* A section MACH that is whole, but of a version that there is none of yet, or never was. */
static void later_version(void)
{
	static const uint32_t versions[] = { 0, 3, UINT32_MAX };
	static uint8_t state[STATE_FILE_MAX / 64];
	char text[1024];
	ssize_t len, show;

	for (unsigned int i = 0; i < sizeof(versions) / sizeof(*versions); i++) {
		len = copy_saved(state, sizeof(state));
		CHECK(!refused(state, (size_t)len)); /* puts it there */
		change_version(path_new, versions[i]);
		len = read_state(path_new, state, sizeof(state));
		CHECK(refused(state, (size_t)len));
		show = __real_pread(log_fd, text, sizeof(text) - 1, 0);
		text[show > 0 ? show : 0] = '\0';
		CHECK(strstr(text, "version"));
		remove_snapshot(path_new);
	}
}

/* All, or the one that is named. */
#define RUN_ONE(fn)                                                                                \
	do {                                                                                       \
		if (argc < 2 || !strcmp(argv[1], #fn))                                             \
			RUN(fn);                                                                   \
	} while (0)

int main(int argc, char **argv)
{
	sigset_t set;

	if (!(CONFIG_VIRTIO_BLK && CONFIG_VIRTIO_CONSOLE && CONFIG_VIRTIO_NET && CONFIG_VIRTIO_RNG &&
	      CONFIG_VSOCK)) {
		puts("skip machine: its machines have devices that this configuration leaves out");
		return 0;
	}
	/* As machine_run() does for its own thread: signals are its signalfd's. */
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(500);
	sem_init(&hook_done, 0, 0);
	sem_init(&machine_up, 0, 0);
	sem_init(&done_called, 0, 0);
	sem_init(&sync_held, 0, 0);
	sem_init(&sync_go, 0, 0);
	hook = (struct event){ .fd = __real_eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), .fn = on_hook };
	log_fd = memfd_create("log", MFD_CLOEXEC);
	log_set_fd(log_fd, false);
	inject_on_sync = hold_here;
	put_files();
	RUN_ONE(construction_unwinds);
	RUN(save);
	RUN_ONE(created);
	RUN_ONE(starting);
	RUN_ONE(running);
	RUN_ONE(paused);
	RUN_ONE(saving);
	RUN_ONE(stopping);
	RUN_ONE(resetting);
	RUN_ONE(stopped);
	RUN_ONE(failed);
	RUN_ONE(waiting);
	RUN_ONE(calls_fail);
	RUN_ONE(start_fails);
	RUN_ONE(reset_fails);
	RUN_ONE(snapshot_fails);
	RUN_ONE(restore_fails);
	RUN_ONE(damaged);
	RUN_ONE(version_1);
	RUN_ONE(given);
	RUN_ONE(later_version);
	RUN(remove_files);
	return TEST_RESULT();
}
