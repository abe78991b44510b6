/* SPDX-License-Identifier: MIT */
/* The VM and its vCPU threads over a KVM made of this file: construction, pause and resume, the end. */
#include "tests/unit/test.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "arch/arch.h"
#include "vm/event.h"
#include "vm/kvm.h"
#include "vm/log.h"
#include "vm/region.h"
#include "vm/vcpu.h"
#include "vm/vm.h"

/*
 * --- KVM ---------------------------------------------------------------------------------------------
 */

#define MAX_VCPUS 4
#define MMIO_BASE 0x1000

static struct fake_vcpu {
	int fd;
	struct kvm_run *run;
	bool answer_due;	/* an exit was given, and its answer not taken */
	unsigned int pieces;	/* of the access at hand that are still to come */
	unsigned int seed;
	atomic_int inside;	/* in KVM_RUN */
	atomic_ulong ran;	/* guest instructions */
} cpu[MAX_VCPUS];

static unsigned int nr_cpus;
static unsigned int calls, fail_at; /* of ioctls; the how manieth fails, from 1; 0: none */
static atomic_int guest_ends;	    /* the next vCPU that gets there ends the guest */
static atomic_int errors;
static atomic_bool deaf; /* to immediate_exit, for a moment: a vCPU that is slow to leave */

static int any_fd(size_t size)
{
	int fd = memfd_create("fake", MFD_CLOEXEC);

	if (fd >= 0 && size && ftruncate(fd, (off_t)size))
		abort();
	return fd;
}

static void a_moment(void)
{
	struct timespec t = { .tv_nsec = 100000 };

	nanosleep(&t, NULL);
}

static int mmio_exit(struct fake_vcpu *v)
{
	v->run->exit_reason = KVM_EXIT_MMIO;
	v->run->mmio.phys_addr = MMIO_BASE;
	v->run->mmio.len = 4;
	v->run->mmio.is_write = 0;
	memset(v->run->mmio.data, 0xee, 8);
	v->answer_due = true;
	return 0;
}

/* As KVM: first the answer is taken, then immediate_exit is looked at, then the guest runs. */
static int run(struct fake_vcpu *v)
{
	if (v->answer_due) {
		if (v->run->mmio.data[0] != 0x5a)
			errors++;
		v->answer_due = false;
		if (v->pieces) {
			v->pieces--;
			return mmio_exit(v);
		}
	}
	for (;;) {
		if (__atomic_load_n(&v->run->immediate_exit, __ATOMIC_SEQ_CST) && !deaf)
			return -EINTR;
		v->ran++;
		if (guest_ends && atomic_exchange(&guest_ends, 0)) {
			v->run->exit_reason = KVM_EXIT_SHUTDOWN;
			return 0;
		}
		switch (rand_r(&v->seed) % 4) {
		case 0:
			v->pieces = rand_r(&v->seed) % 3;
			return mmio_exit(v);
		case 1:
			a_moment();
			if (!deaf)
				break;
		}
	}
}

/* The C library's part: memory, mappings, threads. */
static unsigned int libc_calls, libc_fail_at; /* 0: not counted */

static bool libc_fails(void)
{
	return libc_fail_at && ++libc_calls == libc_fail_at;
}

void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size)
{
	/* A static C library calls itself through here, too, and looks at errno. */
	if (libc_fails()) {
		errno = ENOMEM;
		return NULL;
	}
	return __real_calloc(n, size);
}

void *__real_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
	/* The fake's own has no size but a page, and is not under test. */
	if (libc_fails()) {
		errno = ENOMEM;
		return MAP_FAILED;
	}
	return __real_mmap(addr, len, prot, flags, fd, offset);
}

int __real_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	return libc_fails() ? EAGAIN : __real_pthread_create(t, attr, fn, arg);
}

static struct fake_vcpu *cpu_of(int fd)
{
	for (unsigned int i = 0; i < nr_cpus; i++) {
		if (cpu[i].fd == fd)
			return &cpu[i];
	}
	return NULL;
}

int kvm_ioctl_raw(int fd, unsigned long request, void *arg)
{
	struct fake_vcpu *v = cpu_of(fd);
	int ret;

	if (request == KVM_RUN && v) {
		/* kvm_run is mapped by now; the mapping is the file's. */
		v->inside = 1;
		ret = run(v);
		v->inside = 0;
		return ret;
	}
	if (++calls == fail_at)
		return -ENOMEM;
	switch (request) {
	case KVM_CREATE_VM:
		return any_fd(0);
	case KVM_CREATE_VCPU:
		v = &cpu[nr_cpus];
		memset(v, 0, sizeof(*v));
		v->fd = any_fd(4096);
		v->run = __real_mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
		v->seed = nr_cpus++;
		return v->fd;
	default:
		return 0;
	}
}

int kvm_ioctl_named(int fd, unsigned long request, const char *name, void *arg)
{
	return kvm_ioctl_raw(fd, request, arg);
}

int kvm_has(int fd, int cap)
{
	return cap == KVM_CAP_NR_MEMSLOTS ? 512 : 1;
}

/*
 * --- the architecture --------------------------------------------------------------------------------
 */

static unsigned int arch_calls, arch_fail_at, arch_inits;
static int pauses, resumes, pause_error, resume_error;

static int arch_step(void)
{
	return ++arch_calls == arch_fail_at ? -ENOMEM : 0;
}

int arch_vm_type(const struct kvm *kvm, uint64_t ram_size, unsigned long *type)
{
	*type = 0;
	return arch_step();
}

int arch_vm_init(struct vm *vm)
{
	arch_inits++;
	vm->arch = malloc(16); /* ASan tells when nobody frees it */
	return arch_step();
}

int arch_vcpu_init(struct vcpu *vcpu)
{
	return arch_step();
}

int arch_vm_finish(struct vm *vm)
{
	return arch_step();
}

void arch_vm_fini(struct vm *vm)
{
	free(vm->arch);
	vm->arch = NULL;
}

/* Here nobody is in the guest, and nothing is left to complete. */
static void all_still(void)
{
	for (unsigned int i = 0; i < nr_cpus; i++) {
		if (cpu[i].inside || cpu[i].answer_due || cpu[i].pieces)
			errors++;
	}
}

int arch_vm_pause(struct vm *vm)
{
	pauses++;
	all_still();
	return pause_error;
}

int arch_vm_resume(struct vm *vm)
{
	resumes++;
	all_still();
	return resume_error;
}

int arch_vcpu_exit(struct vcpu *vcpu)
{
	if (vcpu->run->exit_reason != KVM_EXIT_SHUTDOWN)
		return 0;
	vm_end(vcpu->vm, VM_END_POWEROFF, "test");
	return -ECANCELED;
}

void arch_vcpu_dump(struct vcpu *vcpu)
{
}

/*
 * --- the machine -------------------------------------------------------------------------------------
 */

static struct kvm host = { .fd = 1000, .vcpu_mmap_size = 4096, .max_vcpus = MAX_VCPUS };
static struct event_loop loop;
static struct vm vm;

static void device(void *opaque, uint64_t offset, uint8_t *data, unsigned int len, bool write)
{
	data[0] = 0x5a;
}

static int create(unsigned int cpus)
{
	struct vm_config config = { .nr_vcpus = cpus, .ram_size = arch_min_ram };

	nr_cpus = 0;
	calls = arch_calls = 0;
	return vm_create(&vm, &host, &loop, &config);
}

static void destroy(void)
{
	vm_destroy(&vm);
	for (unsigned int i = 0; i < nr_cpus; i++)
		munmap(cpu[i].run, 4096);
	nr_cpus = 0;
}

static void setup(unsigned int cpus)
{
	errors = 0;
	pauses = resumes = pause_error = resume_error = 0;
	CHECK_EQ(create(cpus), 0);
	CHECK_EQ(bus_add(&vm.mmio, MMIO_BASE, 8, device, NULL, "device"), 0);
}

static unsigned long ran(void)
{
	unsigned long sum = 0;

	for (unsigned int i = 0; i < nr_cpus; i++)
		sum += cpu[i].ran;
	return sum;
}

/* Every vCPU has run since. */
static bool all_run(void)
{
	unsigned long before[MAX_VCPUS];

	for (unsigned int i = 0; i < nr_cpus; i++)
		before[i] = cpu[i].ran;
	for (unsigned int i = 0; i < nr_cpus; i++) {
		for (int tries = 0; cpu[i].ran == before[i]; tries++) {
			if (tries == 50000)
				return false;
			a_moment();
		}
	}
	return true;
}

static bool none_runs(void)
{
	unsigned long before = ran();

	for (int i = 0; i < 20; i++)
		a_moment();
	return ran() == before;
}

/*
 * --- tests -------------------------------------------------------------------------------------------
 */

/* Each ioctl and each step of the architecture's fails in turn: nothing is left of what was made. */
static void construction_unwinds(void)
{
	int before = open_fds();
	unsigned int n;

	log_set_fd(open("/dev/null", O_WRONLY | O_CLOEXEC), false);
	before++;
	for (n = 1;; n++) {
		fail_at = n;
		if (!create(3))
			break;
		destroy();
		CHECK_EQ(open_fds(), before);
		CHECK(n < 100);
	}
	/* CREATE_VM, RAM, three vCPUs at the least */
	CHECK(n > 5);
	fail_at = 0;
	destroy();
	for (n = 1;; n++) {
		arch_fail_at = n;
		if (!create(3))
			break;
		destroy();
		CHECK_EQ(open_fds(), before);
		CHECK(n < 100);
	}
	CHECK_EQ(n, 1 + 1 + 3 + 1 + 1);
	arch_fail_at = 0;
	destroy();
	CHECK_EQ(open_fds(), before);
	/* The vCPUs' array, RAM, three mappings of kvm_run, three threads. */
	for (n = 1;; n++) {
		int ret;

		libc_calls = 0;
		libc_fail_at = n;
		ret = create(3);
		if (!ret)
			ret = vm_start(&vm);
		libc_fail_at = 0;
		CHECK_EQ(vm.nr_live, ret ? 0 : 3);
		destroy();
		CHECK_EQ(open_fds(), before);
		if (!ret)
			break;
		CHECK(n < 100);
	}
	/* A static C library's own calls come in between. */
	CHECK(n >= 1 + 1 + 3 + 3 + 1);
}

static void pause_and_resume(void)
{
	setup(4);
	CHECK(vm_is_still(&vm));
	CHECK_EQ(vm_start(&vm), 0);
	CHECK(!vm_is_still(&vm));
	CHECK_EQ(vm_resume(&vm), -EINVAL);
	for (int i = 0; i < 300; i++) {
		if (i % 30 == 0)
			CHECK(all_run());
		CHECK_EQ(vm_pause(&vm), 0);
		all_still();
		CHECK(vm_is_still(&vm));
		if (i % 30 == 0)
			CHECK(none_runs());
		CHECK_EQ(vm_pause(&vm), -EALREADY);
		CHECK_EQ(vm_resume(&vm), 0);
		CHECK_EQ(vm_resume(&vm), -EINVAL);
	}
	CHECK(all_run());
	CHECK_EQ(pauses, 300);
	CHECK_EQ(resumes, 300);
	CHECK_EQ(errors, 0);
	vm_stop(&vm);
	CHECK_EQ(vm_pause(&vm), -ESHUTDOWN);
	CHECK_EQ(vm_resume(&vm), -EINVAL);
	destroy();
}

/* The pause does not return before the last vCPU is out. */
static void *undeaf(void *opaque)
{
	for (int i = 0; i < 500; i++)
		a_moment();
	deaf = false;
	return NULL;
}

static void pause_waits(void)
{
	pthread_t thread;

	setup(2);
	CHECK_EQ(vm_start(&vm), 0);
	CHECK(all_run());
	deaf = true;
	pthread_create(&thread, NULL, undeaf, NULL);
	CHECK_EQ(vm_pause(&vm), 0);
	CHECK(!deaf);
	CHECK(none_runs());
	pthread_join(thread, NULL);
	CHECK_EQ(errors, 0);
	destroy();
}

static void hooks_fail(void)
{
	setup(2);
	CHECK_EQ(vm_start(&vm), 0);
	pause_error = -EIO;
	CHECK_EQ(vm_pause(&vm), -EIO);
	CHECK(!vm_is_still(&vm));
	CHECK(all_run());
	pause_error = 0;
	CHECK_EQ(vm_pause(&vm), 0);
	resume_error = -EIO;
	CHECK_EQ(vm_resume(&vm), -EIO);
	CHECK(vm_is_still(&vm));
	CHECK(none_runs());
	resume_error = 0;
	CHECK_EQ(vm_resume(&vm), 0);
	CHECK(all_run());
	CHECK_EQ(errors, 0);
	destroy();
}

/* As after a restore: no vCPU goes into the guest before the resume. */
static void start_paused(void)
{
	setup(3);
	CHECK_EQ(vm_pause(&vm), 0);
	CHECK_EQ(vm_start(&vm), 0);
	CHECK(none_runs());
	CHECK_EQ(ran(), 0);
	CHECK(vm_is_still(&vm));
	CHECK_EQ(vm_resume(&vm), 0);
	CHECK(all_run());
	CHECK_EQ(errors, 0);
	destroy();
}

static void stop_while_paused(void)
{
	for (int i = 0; i < 30; i++) {
		setup(3);
		CHECK_EQ(vm_start(&vm), 0);
		CHECK_EQ(vm_pause(&vm), 0);
		vm_stop(&vm);
		CHECK(vm_is_still(&vm));
		CHECK_EQ(vm_resume(&vm), -ESHUTDOWN);
		CHECK_EQ(errors, 0);
		destroy();
	}
}

static void *pauser(void *opaque)
{
	while (!atomic_load((atomic_bool *)opaque)) {
		if (!vm_pause(&vm))
			vm_resume(&vm);
	}
	return NULL;
}

/* Several threads pause and resume; meanwhile the guest ends, or is stopped. */
static void races(void)
{
	for (int i = 0; i < 60; i++) {
		atomic_bool enough = false;
		pthread_t thread[3];
		int waited = 0;

		setup(4);
		CHECK_EQ(vm_start(&vm), 0);
		for (unsigned int k = 0; k < 3; k++)
			pthread_create(&thread[k], NULL, pauser, &enough);
		for (int k = 0; k < i; k++)
			a_moment();
		if (i & 1) {
			guest_ends = 1;
			while (atomic_load(&vm.end) == VM_END_NONE && waited++ < 50000)
				a_moment();
			CHECK_EQ(atomic_load(&vm.end), VM_END_POWEROFF);
			CHECK_EQ(vm_pause(&vm), -ESHUTDOWN);
		}
		vm_stop(&vm);
		enough = true;
		for (unsigned int k = 0; k < 3; k++)
			pthread_join(thread[k], NULL);
		CHECK_EQ(vm.nr_live, 0);
		CHECK_EQ(vm.nr_paused, 0);
		CHECK_EQ(errors, 0);
		guest_ends = 0;
		destroy();
	}
}

/* --- memory of a machine that runs, and where its map has something else ------------------------------ */

static int add(uint64_t gpa, uint64_t size, char *why)
{
	struct region_spec spec = { .gpa = gpa, .size = size };
	uint32_t slot;

	return vm_memory_add(&vm, &spec, &slot, why);
}

static void windows(void)
{
	const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), far = 1ull << 40;
	char why[LOG_SENTENCE];
	unsigned int n = 0;

	setup(1);
	CHECK_EQ(bus_add(&vm.mmio, far + 0x100, 0x100, device, NULL, "gadget"), 0);
	for (const struct arch_window *w = arch_windows; *w->name; w++, n++) {
		uint64_t first = w->gpa & -page, last = (w->gpa + w->size - 1) & -page;

		CHECK_EQ(add(first, page, why), -EEXIST);
		CHECK(strstr(why, w->name));
		CHECK_EQ(add(last, page, why), -EEXIST);
		CHECK_EQ(add(first - page, last - first + 3 * page, why), -EEXIST);
	}
	CHECK(n >= 5);
	CHECK_EQ(add(far, page, why), -EEXIST);
	CHECK(strstr(why, "is gadget's"));
	CHECK_EQ(add(0, -page, why), -EEXIST);
	CHECK_EQ(vm.mem.nr, 1);
	CHECK_EQ(add(far + page, page, why), 0);
	CHECK(memory_ptr(&vm.mem, far + page, page));
	destroy();
	/* What was added goes with the machine. */
	setup(1);
	CHECK(!memory_ptr(&vm.mem, far + page, 1));
	CHECK_EQ(vm.mem.max_slots, 512);
	destroy();
}

static void only_while_still(void)
{
	const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), far = 1ull << 40;
	char why[LOG_SENTENCE];

	setup(2);
	CHECK_EQ(vm_start(&vm), 0);
	CHECK_EQ(add(far, page, why), -EBUSY);
	CHECK_STR(why, "memory: the guest runs: it must be paused");
	CHECK_EQ(vm_memory_remove(&vm, 1, why), -EBUSY);
	CHECK_EQ(vm_dirty_enable(&vm, why), -EBUSY);
	CHECK_EQ(vm_dirty_disable(&vm, why), -EBUSY);
	CHECK_EQ(vm_dirty_collect(&vm, why), -EBUSY);
	CHECK_STR(why, "dirty log: the guest runs: it must be paused");
	CHECK_EQ(vm_pause(&vm), 0);
	CHECK_EQ(add(far, page, why), 0);
	CHECK_EQ(vm_dirty_enable(&vm, why), 0);
	CHECK_EQ(vm_dirty_collect(&vm, why), 0);
	CHECK_EQ(vm_memory_remove(&vm, 1, why), 0);
	CHECK_EQ(vm_resume(&vm), 0);
	CHECK(all_run());
	vm_stop(&vm);
	CHECK_EQ(vm_dirty_disable(&vm, why), 0);
	CHECK_EQ(vm_pause(&vm), -ESHUTDOWN);
	destroy();
	setup(1);
	CHECK_EQ(vm_dirty_enable(&vm, why), 0);
	destroy(); /* with the log on */
}

int main(void)
{
	CHECK_EQ(event_loop_init(&loop), 0);
	CHECK_EQ(vcpu_init_signals(), 0);
	alarm(240); /* a pause that hangs is a failure */
	RUN(construction_unwinds);
	RUN(pause_and_resume);
	RUN(pause_waits);
	RUN(hooks_fail);
	RUN(start_paused);
	RUN(stop_while_paused);
	RUN(races);
	RUN(windows);
	RUN(only_while_still);
	event_loop_fini(&loop);
	return TEST_RESULT();
}
