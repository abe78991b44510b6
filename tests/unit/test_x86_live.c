/* SPDX-License-Identifier: MIT */
/*
 * A snapshot's x86_64 sections on the real /dev/kvm: what is saved of one machine is what another has
 * after the restore, and its guest goes on where it was.
 */
#include "tests/unit/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include "arch/arch.h"
#include "arch/x86_64/layout.h"
#include "arch/x86_64/vcpu_state.h"
#include "vm/crc32.h"
#include "vm/event.h"
#include "vm/kvm.h"
#include "vm/log.h"
#include "vm/state_reader.h"
#include "vm/state_writer.h"
#include "vm/vcpu.h"
#include "vm/vm.h"

#define NR_VCPUS 2
#define ENTRY	 0x1000
#define COUNTER	 0x2000
#define MSR_STAR 0xc0000081
#define MSR_TSC	 0x10

/* 1: inc dword [COUNTER]; inc eax; jmp 1b, in real mode */
static const uint8_t code[] = { 0x66, 0xff, 0x06, 0x00, 0x20, 0x66, 0x40, 0xeb, 0xf7 };

static struct kvm host;
static struct event_loop loop;
static struct vm vm;

static void build(void)
{
	const struct vm_config config = { .nr_vcpus = NR_VCPUS, .ram_size = arch_min_ram };

	memset(&vm, 0, sizeof(vm));
	CHECK_EQ(vm_create(&vm, &host, &loop, &config), 0);
	CHECK_EQ(arch_devices(&vm, NULL), 0);
}

static void set_msr(unsigned int i, uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m = { .head.nmsrs = 1, .entry = { .index = index, .data = value } };

	CHECK_EQ(kvm_ioctl_named(vm.vcpus[i].fd, KVM_SET_MSRS, "KVM_SET_MSRS", &m), 1);
}

/* Registers of each kind that no fresh vCPU has. vCPU 1 waits for its INIT. */
static void boot(void)
{
	struct kvm_debugregs debug = { 0 };
	struct kvm_regs regs = { .rip = ENTRY, .rflags = 2, .rsp = 0x8000, .r15 = 0x1515 };
	struct kvm_xsave xsave;
	struct kvm_xcrs xcrs;
	struct kvm_sregs sregs;
	int fd = vm.vcpus[0].fd;

	memory_write(&vm.mem, ENTRY, code, sizeof(code));
	CHECK_EQ(kvm_ioctl(fd, KVM_GET_SREGS, &sregs), 0);
	sregs.cs.base = sregs.ds.base = 0;
	sregs.cs.selector = sregs.ds.selector = 0;
	sregs.cr2 = 0x2222;
	CHECK_EQ(kvm_ioctl(fd, KVM_SET_SREGS, &sregs), 0);
	CHECK_EQ(kvm_ioctl(fd, KVM_SET_REGS, &regs), 0);
	if (kvm_ioctl_quiet(fd, KVM_GET_XCRS, &xcrs) == 0 && xcrs.nr_xcrs) {
		xcrs.xcrs[0].value |= 2; /* SSE */
		CHECK_EQ(kvm_ioctl(fd, KVM_SET_XCRS, &xcrs), 0);
	}
	CHECK_EQ(kvm_ioctl(fd, KVM_GET_XSAVE, &xsave), 0);
	memset((uint8_t *)xsave.region + 160, 0x5a, 256); /* XMM0 to 15 */
	xsave.region[512 / 4] |= 3;			  /* XSTATE_BV */
	CHECK_EQ(kvm_ioctl(fd, KVM_SET_XSAVE, &xsave), 0);
	debug.db[1] = 0xd1d1;
	debug.dr6 = 0xffff0ff0;
	debug.dr7 = 0x400;
	CHECK_EQ(kvm_ioctl(fd, KVM_SET_DEBUGREGS, &debug), 0);
	set_msr(0, MSR_STAR, 0x0023001000000000);
	set_msr(1, MSR_STAR, 0x0023001000000001);
	set_msr(0, MSR_TSC, 1ull << 40);
	set_msr(1, MSR_TSC, 1ull << 40);
}

static uint32_t word(uint64_t gpa)
{
	uint32_t value = 0;

	CHECK_EQ(memory_read(&vm.mem, gpa, &value, sizeof(value)), 0);
	return value;
}

static bool grows(void)
{
	uint32_t before = word(COUNTER);

	for (int i = 0; i < 10000 && word(COUNTER) == before; i++)
		usleep(1000);
	return word(COUNTER) != before;
}

static struct state_reader save(void)
{
	struct state_writer w;
	struct state_reader r;

	state_writer_init(&w, arch_name);
	arch_save(&vm, &w);
	CHECK_EQ(w.err, 0);
	/* As state_writer_save() ends it. */
	uint8_t *buf = malloc(w.len + 8);

	if (!buf)
		exit(1);
	memcpy(buf, w.buf, w.len);
	state_file_store(buf + STATE_FILE_AT_SECTIONS, w.nr, 4);
	state_file_store(buf + STATE_FILE_AT_LENGTH, w.len + 8, 8);
	state_file_store(buf + w.len, STATE_TAG_END, 4);
	state_file_store(buf + w.len + 4, crc32(0, buf, w.len + 4), 4);
	if (state_reader_open_memory(&r, "snap", buf, w.len + 8, arch_name))
		exit(1);
	free(buf);
	state_writer_fini(&w);
	return r;
}

static void same(unsigned int i, const struct vcpu_state *a, const struct vcpu_state *b)
{
	CHECK(!memcmp(&a->mp_state, &b->mp_state, sizeof(a->mp_state)));
	CHECK(!memcmp(&a->regs, &b->regs, sizeof(a->regs)));
	CHECK(!memcmp(&a->sregs, &b->sregs, sizeof(a->sregs)));
	CHECK(!memcmp(&a->xcrs, &b->xcrs, sizeof(a->xcrs)));
	CHECK(!memcmp(&a->debugregs, &b->debugregs, sizeof(a->debugregs)));
	CHECK(!memcmp(&a->lapic, &b->lapic, sizeof(a->lapic)));
	CHECK(!memcmp(&a->events, &b->events, sizeof(a->events)));
	CHECK(!memcmp(&a->cpuid, &b->cpuid, sizeof(a->cpuid)));
	CHECK_EQ(a->xsave_len, b->xsave_len);
	CHECK(!memcmp(a->xsave, b->xsave, a->xsave_len));
	CHECK_EQ(a->nr_msrs, b->nr_msrs);
	for (unsigned int j = 0; j < a->nr_msrs && j < b->nr_msrs; j++) {
		if (a->msr[j].index != b->msr[j].index || a->msr[j].data != b->msr[j].data)
			printf("  vCPU %u: MSR %#x: %#llx, restored %#llx\n", i, a->msr[j].index, a->msr[j].data,
			       b->msr[j].data);
		CHECK(a->msr[j].index == b->msr[j].index && a->msr[j].data == b->msr[j].data);
	}
}

static void goes_on(void)
{
	static uint8_t ram[0x100000];
	static struct vcpu_state before[NR_VCPUS], after;
	struct state_reader r;
	uint64_t tsc[2];
	uint32_t count;

	build();
	boot();
	CHECK_EQ(vm_start(&vm), 0);
	CHECK(grows());
	CHECK_EQ(vm_pause(&vm), 0);
	r = save();
	count = word(COUNTER);
	for (unsigned int i = 0; i < NR_VCPUS; i++) {
		CHECK_EQ(vcpu_state_get(&vm.vcpus[i], &before[i]), 0);
		before[i].tsc = 0;
		CHECK_EQ(vcpu_state_get_tsc(&vm.vcpus[i], &before[i].tsc), 0);
	}
	CHECK_EQ(before[0].regs.r15, 0x1515);
	CHECK_EQ(before[0].xsave[160], 0x5a);
	memory_read(&vm.mem, 0, ram, sizeof(ram));
	vm_destroy(&vm);

	sleep(1);
	for (unsigned int round = 0; round < 2; round++) { /* as often as one likes */
		build();
		memory_write(&vm.mem, 0, ram, sizeof(ram));
		CHECK_EQ(arch_restore(&vm, &r), 0);
		CHECK_EQ(state_reader_end(&r), 0);
		for (unsigned int i = 0; i < NR_VCPUS; i++) {
			CHECK_EQ(vcpu_state_get(&vm.vcpus[i], &after), 0);
			same(i, &before[i], &after);
			CHECK_EQ(vcpu_state_get_tsc(&vm.vcpus[i], &tsc[i]), 0);
			/* A second at least, and not a minute. */
			CHECK(tsc[i] - before[i].tsc >= before[i].tsc_khz * 1000ull);
			CHECK(tsc[i] - before[i].tsc < before[i].tsc_khz * 60000ull);
		}
		CHECK(tsc[1] - tsc[0] < before[0].tsc_khz * 100ull);
		CHECK(memcmp(memory_ptr(&vm.mem, LAYOUT_VMGENID, 16), ram + LAYOUT_VMGENID, 16));
		CHECK_EQ(word(COUNTER), count);
		/* As a machine is that was restored: paused. */
		CHECK_EQ(vm_pause(&vm), 0);
		CHECK_EQ(vm_start(&vm), 0);
		CHECK_EQ(word(COUNTER), count);
		CHECK_EQ(vm_resume(&vm), 0);
		CHECK(grows());
		CHECK_EQ(vm_pause(&vm), 0);
		CHECK_EQ(kvm_ioctl(vm.vcpus[0].fd, KVM_GET_REGS, &after.regs), 0);
		/* Both count the same rounds, but for one that is half done. */
		CHECK((uint32_t)(word(COUNTER) - after.regs.rax) <= 1);
		CHECK_EQ(after.regs.r15, 0x1515);
		vm_destroy(&vm);
	}
	state_reader_close(&r);
}

int main(void)
{
	if (access("/dev/kvm", R_OK | W_OK)) {
		printf("skip all: there is no /dev/kvm here\n");
		return 0;
	}
	alarm(100);
	log_set_fd(open("/dev/null", O_WRONLY | O_CLOEXEC), false);
	if (kvm_open(&host) || event_loop_init(&loop) || vcpu_init_signals()) {
		printf("FAIL open\n");
		return 1;
	}
	RUN(goes_on);
	event_loop_fini(&loop);
	kvm_close(&host);
	return TEST_RESULT();
}
