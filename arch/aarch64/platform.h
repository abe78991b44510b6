/* SPDX-License-Identifier: MIT */
/*
 * The machine's small devices on MMIO: PL031 clock, PL061 GPIO controller with the power button,
 * pvpanic. Power-off and reset are PSCI's, which KVM answers.
 */
#ifndef ARCH_AARCH64_PLATFORM_H
#define ARCH_AARCH64_PLATFORM_H

struct platform;
struct vm;

/* The GPIO line that the power button is on, high while it is pressed. */
#define PLATFORM_BUTTON_LINE 3

/* Registers them all on vm->mmio, and the clock's alarm on vm->loop. 0 or -errno; logs. */
int platform_create(struct platform **platform, struct vm *vm);
/* When no vCPU runs any more; on the event loop's thread, or when it doesn't run. NULL is fine. */
void platform_destroy(struct platform *platform);

/* Presses the power button; it is released when the guest has seen it. Any thread. */
void platform_power_button(struct platform *platform);

#endif
