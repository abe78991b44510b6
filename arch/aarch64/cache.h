/* SPDX-License-Identifier: MIT */
#ifndef ARCH_AARCH64_CACHE_H
#define ARCH_AARCH64_CACHE_H

/*
 * Writes the cache line of @p back to memory, where a guest sees it that reads past the cache (a
 * CPU without FEAT_S2FWB, a page that is mapped as a device's). No line is shorter than 16 bytes.
 * Source: Arm ARM, DC CVAC, which Linux lets user space use.
 */
void cache_clean(const void *p);

#endif
