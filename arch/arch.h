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
struct vcpu;
struct vm;

#define ARCH_MAX_VIRTIO 32

/* "x86_64" */
extern const char arch_name[];

/* Capabilities that this architecture needs or likes, ended by a NULL name. */
extern const struct kvm_cap *const arch_kvm_caps;

/* A range of guest RAM. */
struct arch_ram {
	uint64_t gpa;
	uint64_t size;
};

#define ARCH_MAX_RAM 2

/* The least and the most RAM of a machine, in bytes. */
extern const uint64_t arch_min_ram, arch_max_ram;

/*
 * Splits @size bytes around the machine's holes. Returns how many ranges, 0 when the size is out of
 * bounds (16 MiB and up).
 */
unsigned int arch_ram_layout(uint64_t size, struct arch_ram ram[ARCH_MAX_RAM]);

/* The most vCPUs this architecture's map allows, to be held against KVM's own limit. */
unsigned int arch_max_vcpus(const struct kvm *kvm);

/* Where virtio device @i (< ARCH_MAX_VIRTIO) lives and what it interrupts with. */
struct arch_slot {
	uint64_t base;
	uint64_t size;
	uint32_t gsi;
};
void arch_virtio_slot(unsigned int i, struct arch_slot *slot);

/*
 * Right after KVM_CREATE_VM, before RAM and vCPUs: what must come first (x86: TSS, identity map,
 * irqchip, PIT).
 */
int arch_vm_init(struct vm *vm);

/* After KVM_CREATE_VCPU of each vCPU: features, CPUID, MSRs. */
int arch_vcpu_init(struct vcpu *vcpu);

/* When all vCPUs exist, before any irqfd (arm64: the GIC). */
int arch_vm_finish(struct vm *vm);

/* Frees what the architecture holds. */
void arch_vm_fini(struct vm *vm);

/*
 * The machine's platform devices (serial port on @console, clock, power control, panic device), on
 * the buses of @vm. They are freed by arch_vm_fini().
 */
int arch_devices(struct vm *vm, struct console *console);

/* What the boot loader puts into guest RAM. */
struct arch_boot {
	const char *kernel;  /* path */
	const char *initrd;  /* path or NULL */
	const char *cmdline; /* the user's words */
	bool cmdline_only;   /* leave out vinit's own words, which come first otherwise */
	unsigned int nr_virtio; /* slots 0 to nr_virtio - 1 are in use */
};

/*
 * Loads the kernel, initrd, command line and the machine's description (ACPI or FDT), and sets the
 * boot vCPU's registers. 0 or -errno; an error names the file, the field and the bound.
 */
int arch_boot(struct vm *vm, const struct arch_boot *boot);

/*
 * Handles the exit that vcpu->run describes if it is the architecture's own. 1: handled, go on; 0:
 * not mine; -errno: the vCPU can't go on.
 */
int arch_vcpu_exit(struct vcpu *vcpu);

/* Prints what is known about a vCPU that died (instruction pointer and the like), for the log. */
void arch_vcpu_dump(struct vcpu *vcpu);

/* Presses the guest's power button. Any thread. */
void arch_power_button(struct vm *vm);

/* KVM_IRQ_LINE's number for a GSI as KVM_IRQFD takes it. */
uint32_t arch_irq_number(uint32_t gsi);

/* One line a fact for `vinit check`; returns how many problems it told of. */
int arch_check(const struct kvm *kvm);

#endif
