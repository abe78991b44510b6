/* SPDX-License-Identifier: MIT */
/*
 * The machine's small devices on MMIO: PL031 clock, PL061 GPIO controller with the power button,
 * pvpanic. Power-off and reset are PSCI's, which KVM answers.
 */
#ifndef ARCH_AARCH64_PLATFORM_H
#define ARCH_AARCH64_PLATFORM_H

#include "vm/state_file.h"

struct platform;
struct state_reader;
struct state_writer;
struct vm;

/* The GPIO line that the power button is on, high while it is pressed. */
#define PLATFORM_BUTTON_LINE 3

/* What their registers tell of them (PeriphID): the part, Arm's, revision 0, configuration 0. */
#define PLATFORM_GPIO_ID 0x00041061
#define PLATFORM_RTC_ID	 0x00041031

/* Registers them all on vm->mmio, and the clock's alarm on vm->loop. 0 or -errno; logs. */
int platform_create(struct platform **platform, struct vm *vm);
/* When no vCPU runs any more; on the event loop's thread, or when it doesn't run. NULL is fine. */
void platform_destroy(struct platform *platform);

/*
 * Presses the power button; it is released when the guest has seen it. Of a paused platform it is
 * pressed on resume. Any thread.
 */
void platform_power_button(struct platform *platform);

/*
 * While paused nothing changes, lines neither: the alarm and the button wait for the resume. A
 * second time either does nothing. vCPUs are paused.
 */
void platform_pause(struct platform *platform);
void platform_resume(struct platform *platform);

/* Its section, instance 0; docs/snapshot.md draws it. */
#define PLATFORM_STATE	       STATE_TAG('P', 'L', 'A', 'T')
#define PLATFORM_STATE_VERSION 1

/*
 * Saves a paused platform, and puts a new one into that state, paused, its lines set. load: 0 or
 * what state_reader_section_end() returns, with nothing changed.
 */
void platform_save(struct platform *platform, struct state_writer *w);
int platform_load(struct platform *platform, const struct state_reader *r);

#endif
