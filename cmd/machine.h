/* SPDX-License-Identifier: MIT */
/* One guest from its configuration to its end. machine.c holds the device table. */
#ifndef CMD_MACHINE_H
#define CMD_MACHINE_H

struct guest_config;

/*
 * Builds the machine, runs it, builds it anew at each reset, and returns the exit status of `vinit
 * run`.
 */
int machine_run(const struct guest_config *config);

#endif
