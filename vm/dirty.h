/* SPDX-License-Identifier: MIT */
/*
 * Which pages of guest RAM were written, by whomever: the guest, the VMM's own threads, vhost. The
 * log may name a page too many, never one too few.
 *
 * KVM logs what the guest writes. For the others there is, by what the host has:
 *
 *   write protection (Linux 6.7 and up): userfaultfd's asynchronous mode and PAGEMAP_SCAN see every
 *	writer through this process's page tables, vhost too, page by page. It costs page tables for
 *	all of RAM, 8 bytes a page, from enable to disable;
 *   soft-dirty bits (x86_64, CONFIG_MEM_SOFT_DIRTY): the same, read and cleared in two steps;
 *   nothing: then all of RAM counts as written each time. A diff is as large as a full snapshot,
 *	and right.
 *
 * A page is the host's. All here is for one thread while the machine is still: vCPUs paused,
 * devices quiet, so that no request is half-way between its page's first touch and its last byte
 * (what a disk writes by DMA into a page that was pinned earlier, nobody sees).
 */
#ifndef VM_DIRTY_H
#define VM_DIRTY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "vm/log.h"
#include "vm/memory.h"

enum dirty_method {
	DIRTY_WRITE_PROTECT,
	DIRTY_SOFT,
	DIRTY_ALL,
	DIRTY_METHODS,
};

/*
 * Turns the log on, empty; on already: does nothing. 0 or -errno; then nothing has changed. The
 * reason goes to @why as a sentence (may be NULL), and to the log, as everywhere here.
 */
int dirty_enable(struct memory *mem, char why[LOG_SENTENCE]);

/* As dirty_enable(), from @method down to DIRTY_ALL: for tests. */
int dirty_enable_from(struct memory *mem, enum dirty_method method, char why[LOG_SENTENCE]);

/*
 * Turns it off; off already: does nothing. 0 or -errno; then it is still on, with more pages in it
 * than before.
 */
int dirty_disable(struct memory *mem, char why[LOG_SENTENCE]);

bool dirty_on(const struct memory *mem);
/* What dirty_enable() found. The log is on. */
enum dirty_method dirty_method(const struct memory *mem);
/* "write protection" */
const char *dirty_method_name(enum dirty_method method);

/*
 * Gets the kernel's logs and clears them; what they say is kept, with what was kept before, until
 * dirty_clear(). So an answer that gets lost half-way (a disk that is full) is asked for again.
 * 0; -EINVAL: the log is off; -errno: nothing is lost, and it can be tried again.
 */
int dirty_collect(struct memory *mem, char why[LOG_SENTENCE]);

/*
 * Calls @fn for each run of written pages that dirty_collect() has kept, by address. Ends when @fn
 * returns something else than 0, and returns that. @gpa and @size in bytes; @hva is where it is.
 */
typedef int dirty_fn(void *opaque, uint64_t gpa, uint64_t size, const uint8_t *hva);
int dirty_each(const struct memory *mem, dirty_fn *fn, void *opaque);

/* The answer has arrived: forgets what was kept. */
void dirty_clear(struct memory *mem);

/*
 * The same as bits, for an answer that is dense: bit b of word w is page w * 64 + b of @region, and
 * bits beyond its end are 0. @words: how many. NULL: the log is off, or the region read-only.
 */
const uint64_t *dirty_bitmap(const struct memory_region *region, size_t *words);

/* How many pages are kept. */
uint64_t dirty_count(const struct memory *mem);

/*
 * For vm/region.c: before the region gets its slot, and after it has lost it. What is new counts as
 * written. 0 or -errno; doesn't log.
 */
int dirty_region_add(struct memory *mem, struct memory_region *region);
void dirty_region_remove(struct memory *mem, struct memory_region *region);

/* When the VM is gone: frees all, asks nobody. */
void dirty_fini(struct memory *mem);

#endif
