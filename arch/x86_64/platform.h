/* SPDX-License-Identifier: MIT */
/*
 * The machine's small devices on ports: power control and GED, CMOS clock, i8042 reset, POST and
 * debug ports.
 */
#ifndef ARCH_X86_64_PLATFORM_H
#define ARCH_X86_64_PLATFORM_H

#include <stdint.h>

struct platform;
struct vm;

/* Registers them all on vm->pio. 0 or -errno; logs. */
int platform_create(struct platform **platform, struct vm *vm);
/* When no vCPU runs any more. NULL is fine. */
void platform_destroy(struct platform *platform);

/* Sets the GED's power-button event and pulses its line. Any thread. */
void platform_power_button(struct platform *platform);

/*
 * The VM generation ID (Microsoft, "Virtual Machine Generation ID"): 16 random bytes in guest RAM
 * that the guest reads, new for each start and each restore. 0 or -errno; logs.
 */
int platform_new_generation(struct platform *platform);
/* Tells a guest that has seen another one, by the GED. */
void platform_generation_event(struct platform *platform);

/* What a snapshot keeps of the devices. */
struct platform_state {
	uint32_t ged_events; /* LAYOUT_GED_* */
	uint8_t cmos_index;
};
/* While no vCPU runs. Setting interrupts nobody. */
void platform_get(struct platform *platform, struct platform_state *state);
void platform_set(struct platform *platform, const struct platform_state *state);

#endif
