/* SPDX-License-Identifier: MIT */
#include "arch/aarch64/cache.h"

#include "arch/arch.h"

void cache_clean(const void *p)
{
	/* Inner shareable: all CPUs. */
	__asm__ volatile("dc cvac, %0\n\tdsb ish" : : "r"(p) : "memory");
}

void (*const arch_cache_clean)(const void *p) = cache_clean;
