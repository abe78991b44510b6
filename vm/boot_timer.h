/* SPDX-License-Identifier: MIT */
/*
 * How long a guest takes to boot: a line of the log when its first vCPU is about to run its first
 * instruction, and one when its init writes BOOT_TIMER_READY to the first byte of a register page
 * (LAYOUT_BOOT_TIMER). That is Firecracker's boot timer; nothing describes the page to the guest.
 */
#ifndef VM_BOOT_TIMER_H
#define VM_BOOT_TIMER_H

#include <stdbool.h>
#include <stdint.h>

#define BOOT_TIMER_READY 123
#define BOOT_TIMER_SIZE	 0x1000 /* of the page; reads 0 */

struct vm;

/* The clock of vm_config.boot_since: microseconds that never jump. Not 0. */
uint64_t boot_timer_now(void);

/* The page's registers on vm->mmio, if the VM is to have them. 0 or -errno; logs. */
int boot_timer_create(struct vm *vm, uint64_t gpa);

/* Tells of the first instruction. On the boot vCPU's thread. */
void boot_timer_entered(const struct vm *vm);

#endif
