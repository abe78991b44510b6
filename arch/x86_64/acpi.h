/* SPDX-License-Identifier: MIT */
/*
 * ACPI tables of the hardware-reduced machine. Source: ACPI Specification 6.4, chapters 5, 6 and
 * 20.
 */
#ifndef ARCH_X86_64_ACPI_H
#define ARCH_X86_64_ACPI_H

#include <stdint.h>

struct memory;

/*
 * Writes RSDP, XSDT, FADT, MADT and DSDT between LAYOUT_RSDP and LAYOUT_ACPI_END for @nr_vcpus CPUs
 * (APIC id = index) and virtio slots 0 to @nr_virtio - 1. Stores the RSDP's guest address. 0 or
 * -errno (-ENOSPC: they don't fit); logs.
 */
int acpi_build(struct memory *mem, unsigned int nr_vcpus, unsigned int nr_virtio, uint64_t *rsdp);

#endif
