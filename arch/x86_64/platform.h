/* SPDX-License-Identifier: MIT */
/*
 * The machine's small devices on ports: power control and GED, CMOS clock, i8042 reset, POST and
 * debug ports.
 */
#ifndef ARCH_X86_64_PLATFORM_H
#define ARCH_X86_64_PLATFORM_H

struct platform;
struct vm;

/* Registers them all on vm->pio. 0 or -errno; logs. */
int platform_create(struct platform **platform, struct vm *vm);
/* When no vCPU runs any more. NULL is fine. */
void platform_destroy(struct platform *platform);

/* Sets the GED's power-button event and pulses its line. Any thread. */
void platform_power_button(struct platform *platform);

#endif
