/* SPDX-License-Identifier: MIT */
/*
 * malloc() and its kind, in place of the C library's, which is 8 KiB. What is allocated here are
 * some hundred structures and names as a machine is built, and buffers now and then: nothing on the
 * guest's paths.
 *
 * A block is a power of 2 long, with a head of 16 bytes before what the caller gets; a freed one
 * waits in its size's list for the next call of that size. A long one is a mapping of its own, which
 * free() gives back.
 *
 * A head's mark hangs on the block's address, its length, whether it is free, and a number that is
 * drawn anew for each process. One that is not what it must be (freed twice, written over by the
 * block before it, a list that was led astray, never from here) ends the process at once, as it does
 * in the C library.
 */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

/* As they stand, since the compiler knows more of these names than it sees here. */
#define KEPT	 __attribute__((used, noinline))
#define HEAD	 16
#define SHORTEST 32
#define CLASSES	 11 /* up to 32 KiB */
#define LONGEST	 ((size_t)SHORTEST << (CLASSES - 1))
#define CHUNK	 (2 * LONGEST) /* what short blocks are cut from */

struct block {
	uint64_t size; /* with the head */
	uint64_t mark;
	struct block *next; /* while it is free */
};

static struct {
	pthread_mutex_t lock;
	struct block *free[CLASSES];
	uint8_t *chunk;
	size_t left; /* of the chunk, at its start */
} heap = { .lock = PTHREAD_MUTEX_INITIALIZER };

static uint64_t mark(const struct block *b, bool used)
{
	uint64_t number[2];

	/* 16 bytes from the kernel. The C library takes the first 8 for the stack protector. */
	memcpy(number, (const void *)getauxval(AT_RANDOM), sizeof(number));
	return (number[1] ^ (uintptr_t)b ^ b->size << 1) + used;
}

static void check(const struct block *b, bool used)
{
	if (b->mark != mark(b, used))
		__builtin_trap();
}

static void *map(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	/* Where huge pages come unasked, a touch would cost 2 MiB. It also keeps mappings apart. */
	madvise(p, size, MADV_NOHUGEPAGE);
	return p;
}

/* The heap's lock held. What is left of the last chunk is no more than one block's length: lost. */
static struct block *cut(size_t size)
{
	if (heap.left < size) {
		uint8_t *chunk = map(CHUNK);

		if (!chunk)
			return NULL;
		heap.chunk = chunk;
		heap.left = CHUNK;
	}
	heap.left -= size;
	return (struct block *)(heap.chunk + heap.left);
}

static struct block *take(size_t size, unsigned int class)
{
	struct block *b;

	pthread_mutex_lock(&heap.lock);
	b = heap.free[class];
	if (b) {
		check(b, false);
		heap.free[class] = b->next;
	} else {
		b = cut(size);
	}
	pthread_mutex_unlock(&heap.lock);
	return b;
}

/* The class of a block that has room for @size, head and all; its length in @size. CLASSES: none. */
static unsigned int class_of(size_t *size)
{
	size_t page = (size_t)getpagesize();
	unsigned int class = 0;

	while (class < CLASSES && (size_t)SHORTEST << class < *size)
		class++;
	*size = class < CLASSES ? (size_t)SHORTEST << class : (*size + page - 1) & -page;
	return class;
}

/*
 * malloc() and calloc(). What nobody had yet is zero, and a page that nobody touches takes no memory:
 * only what was freed before is cleared.
 */
static void *allocate(size_t len, bool zero)
{
	size_t size = len + HEAD;
	unsigned int class;
	struct block *b = NULL;

	if (len <= PTRDIFF_MAX / 2) {
		class = class_of(&size);
		b = class < CLASSES ? take(size, class) : map(size);
	}
	if (!b) {
		errno = ENOMEM;
		return NULL;
	}
	if (zero && b->size)
		memset((uint8_t *)b + HEAD, 0, len);
	b->size = size;
	b->mark = mark(b, true);
	return (uint8_t *)b + HEAD;
}

static struct block *block_of(void *p)
{
	struct block *b = (struct block *)((uint8_t *)p - HEAD);

	check(b, true);
	return b;
}

KEPT void *malloc(size_t len)
{
	return allocate(len, false);
}

KEPT void free(void *p)
{
	unsigned int class;
	struct block *b;
	int saved = errno;
	size_t size;

	if (!p)
		return;
	b = block_of(p);
	size = b->size;
	class = class_of(&size);
	if (class == CLASSES) {
		munmap(b, size);
		errno = saved;
		return;
	}
	b->mark = mark(b, false);
	pthread_mutex_lock(&heap.lock);
	b->next = heap.free[class];
	heap.free[class] = b;
	pthread_mutex_unlock(&heap.lock);
}

KEPT void *calloc(size_t nr, size_t each)
{
	size_t len;

	if (__builtin_mul_overflow(nr, each, &len)) {
		errno = ENOMEM;
		return NULL;
	}
	return allocate(len, true);
}

KEPT void *realloc(void *p, size_t len)
{
	size_t had, size = len + HEAD;
	void *fresh;

	if (!p)
		return allocate(len, false);
	had = block_of(p)->size;
	/* Stays where the length is the same one; a short block that shrinks is not worth a copy. */
	if (len <= had - HEAD && (had <= LONGEST || (class_of(&size), size == had)))
		return p;
	fresh = allocate(len, false);
	if (!fresh)
		return NULL;
	memcpy(fresh, p, (len < had - HEAD ? len : had - HEAD));
	free(p);
	return fresh;
}
