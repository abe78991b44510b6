/* SPDX-License-Identifier: MIT */
/*
 * The whole contract between a machine and an architecture. Each arch/ARCH folder defines all of
 * it.
 */
#ifndef ARCH_ARCH_H
#define ARCH_ARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <linux/kvm.h>

struct console;
struct irqs;
struct kvm;
struct kvm_cap;
struct memory;
struct state_reader;
struct state_want;
struct state_writer;
struct vcpu;
struct vm;
struct vm_config;

/* Slots for virtio devices; every map has room for as many. */
#define ARCH_MAX_VIRTIO 32

/* "x86_64" */
extern const char arch_name[];

/* The kernel files that arch_boot() takes, for the help: "bzImage or ELF vmlinux". */
extern const char arch_kernel_formats[];

/* Whether the interrupt controller is a GIC, of which there are versions to choose from. */
extern const bool arch_has_gic;

/* Capabilities that this architecture needs or likes, ended by a NULL text. */
extern const struct kvm_cap *const arch_kvm_caps;

/*
 * What this machine's kernels are told before the user's words: "console=ttyS0 panic=1" and what
 * else it takes.
 */
extern const char arch_cmdline[];

/* A range of guest RAM. */
struct arch_ram {
	uint64_t gpa;
	uint64_t size; /* bytes */
};

#define ARCH_MAX_RAM 2

/* The least and the most RAM of a machine, in bytes. */
extern const uint64_t arch_min_ram, arch_max_ram;

/*
 * Splits @size bytes around the machine's holes, if it has any. Returns how many ranges, by
 * address; 0 when the size is out of the bounds above or not a multiple of the largest page that a
 * host may have.
 */
unsigned int arch_ram_layout(uint64_t size, struct arch_ram ram[ARCH_MAX_RAM]);

/*
 * Why /dev/kvm is not there, in a sentence that names what to check on such a host. @err: errno of
 * open(), positive. Static text; NULL for an errno that means the same everywhere (EACCES, say),
 * for which vm/kvm.c has the words.
 */
const char *arch_kvm_explain(int err);

/*
 * The type that KVM_CREATE_VM takes for a machine of @ram_size bytes (arm64: how wide its addresses
 * are). 0 or -errno; logs.
 */
int arch_vm_type(const struct kvm *kvm, uint64_t ram_size, unsigned long *type);

/* The most vCPUs this architecture's map allows, to be held against KVM's own, kvm->max_vcpus. */
unsigned int arch_max_vcpus(const struct kvm *kvm);

/*
 * Where virtio device @i (< ARCH_MAX_VIRTIO) lives and what it interrupts with, by an edge. Several
 * may share a line, none shares a page of any host.
 */
struct arch_slot {
	uint64_t base; /* guest address */
	uint64_t size; /* bytes */
	uint32_t gsi;  /* as KVM_IRQFD takes it */
};
void arch_virtio_slot(unsigned int i, struct arch_slot *slot);

/*
 * What else the map keeps of the guest's addresses, KVM's own devices (interrupt controller) and
 * VMM's: no memory is added there. Ended by an empty name.
 */
struct arch_window {
	uint64_t gpa;
	uint64_t size; /* bytes */
	char name[24];
};
extern const struct arch_window arch_windows[];

/*
 * Right after KVM_CREATE_VM, before RAM and vCPUs: what must come first (x86: TSS, identity map,
 * irqchip, PIT; arm64: the choice of a GIC, which bounds the vCPUs). vm->config says what is asked
 * for. 0 or -errno; logs. What it made by then is arch_vm_fini()'s to free, here and below.
 */
int arch_vm_init(struct vm *vm);

/*
 * Once a vCPU, when KVM_CREATE_VCPU has made all of them (x86: CPUID, MSRs, LAPIC; arm64: the
 * target and its features). 0 or -errno; logs.
 */
int arch_vcpu_init(struct vcpu *vcpu);

/* When all vCPUs are initialised, before any irqfd (arm64: the GIC). 0 or -errno; logs. */
int arch_vm_finish(struct vm *vm);

/* Frees what the architecture holds; good for a VM whose arch_vm_init() failed, too. */
void arch_vm_fini(struct vm *vm);

/*
 * The machine's platform devices (serial port on @console, clock, power control, panic device), on
 * the buses of @vm. They are freed by arch_vm_fini(). 0 or -errno; logs.
 */
int arch_devices(struct vm *vm, struct console *console);

/* What the boot loader puts into guest RAM. */
struct arch_boot {
	const char *kernel;  /* path */
	const char *initrd;  /* path or NULL */
	const char *cmdline; /* whole, maybe empty; copied into the guest */
	unsigned int nr_virtio; /* slots 0 to nr_virtio - 1 are in use */
};

/*
 * Loads the kernel, initrd, command line and the machine's description (ACPI or FDT), and sets the
 * boot vCPU's registers. 0 or -errno; an error names the file, the field and the bound.
 */
int arch_boot(struct vm *vm, const struct arch_boot *boot);

/*
 * Handles the exit that vcpu->run describes if it is the architecture's own; MMIO is everybody's
 * and doesn't come here. 1: handled, go on; 0: not mine; -errno: the vCPU can't go on, and the
 * guest has crashed unless vm_end() was told something else. On the vCPU's thread.
 */
int arch_vcpu_exit(struct vcpu *vcpu);

/* Logs what is known about a vCPU that died: instruction pointer and such. On its thread. */
void arch_vcpu_dump(struct vcpu *vcpu);

/*
 * Presses the guest's power button. A guest without a driver for it does nothing, and nobody is
 * told. Any thread.
 */
void arch_power_button(struct vm *vm);

/*
 * KVM_IRQ_LINE's number for a GSI as KVM_IRQFD takes it. ARCH_NO_IRQ: the interrupt controller has
 * no such line. (x86: KVM takes GSI 24 and up, and delivers nothing.)
 */
#define ARCH_NO_IRQ UINT32_MAX
uint32_t arch_irq_number(uint32_t gsi);

/*
 * When the last vCPU has left the guest, and before the first goes in again: the serial port and the
 * platform's devices pause and go on; time stands still for the guest where that can be had (arm64:
 * the virtual counter), else it is told that it was held up (x86: kvmclock). On one thread; the
 * vCPUs' ioctls are free. A resume comes after a pause, maybe a second time when the first has
 * failed. 0 or -errno; logs.
 */
int arch_vm_pause(struct vm *vm);
int arch_vm_resume(struct vm *vm);

/*
 * The sections of a snapshot that are the architecture's: vCPUs, interrupt controller, timers and
 * clock, serial port, platform devices. docs/snapshot.md draws them. Fills @want with what
 * arch_restore() takes of a machine of @config, and returns how many rows, ARCH_STATE_MAX at most.
 */
#define ARCH_STATE_MAX 8
unsigned int arch_state_wants(const struct vm_config *config, struct state_want *want);

/* Writes them. The VM is still, its devices are paused. Errors are logged and stick in @w. */
void arch_save(struct vm *vm, struct state_writer *w);

/*
 * In place of arch_boot(): RAM is the snapshot's already, devices are there (arch_devices()), no
 * vCPU has run. Puts all into the saved state, with these differences: the clock tells the present
 * (x86: kvmclock and TSC have gone on by what the host's wall clock has since; arm64: the counter
 * goes on where it stood, as over a pause, and the PL031 tells the host's time), and the guest has a new
 * generation ID and is told so (VMGenID). Serial port and platform devices are paused, until
 * arch_vm_resume(). 0 or -errno; logs.
 */
int arch_restore(struct vm *vm, const struct state_reader *r);

/*
 * Writes the cache line of @p back to where a guest sees it that reads past the cache: after each
 * change of a page that it has mapped as a device's. NULL where no guest can.
 */
extern void (*const arch_cache_clean)(const void *p);

/*
 * Prints to stdout what this host can do, for `vinit check`: "ok", "absent" or "MISSING" and a fact
 * a line. Returns how many of them keep guests from running.
 */
int arch_check(const struct kvm *kvm);

#endif
