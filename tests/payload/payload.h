/* SPDX-License-Identifier: MIT */
/*
 * The payloads' library: a guest without an operating system. Addresses are physical, memory is
 * mapped one to one. What a payload finds goes to the serial port, a line each: "ok WHAT", "FAIL
 * WHAT: details"; the last line of a payload that came to its end is "done".
 */
#ifndef TESTS_PAYLOAD_PAYLOAD_H
#define TESTS_PAYLOAD_PAYLOAD_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define MIB	      (1ull << 20)
#define GIB	      (1ull << 30)

/* Each payload's own. Interrupts are on; it ends by done() or in its own way. */
void payload_main(void);

/*
 * --- lib.c ----------------------------------------------------------------------------------------
 */

void *memset(void *to, int c, size_t n);
void *memcpy(void *to, const void *from, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);
int strcmp(const char *a, const char *b);

/* %s %c %u (unsigned), %lu (uint64_t), %x, %lx. Says nothing of what else a printf knows. */
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* "ok WHAT" or "FAIL WHAT"; returns @good. */
bool check(bool good, const char *what);
/* The same with the two values. */
bool check_eq(uint64_t got, uint64_t want, const char *what);

/* "done" and power off. */
_Noreturn void done(void);
/* "FAIL WHY" and the end as a crash: nothing after this is worth running. */
_Noreturn void die(const char *why);

/* The value of the word NAME=VALUE on the command line, copied; @fallback if there is none. */
const char *arg(const char *name, const char *fallback);
uint64_t arg_number(const char *name, uint64_t fallback);

/* Spins until *@counter is at least @want, or some seconds have gone: false then. */
bool wait_count(volatile const uint32_t *counter, uint32_t want);
/* Lets what must not happen have the time to happen. */
void settle(void);

/* Simple enough for a shell to have the same by od and awk. */
uint32_t checksum(const uint8_t *p, uint64_t n);

/* xorshift: the same numbers every run. */
uint32_t random32(void);

/*
 * --- the architecture's part ----------------------------------------------------------------------
 */

struct boot_range {
	uint64_t base, size;
	uint32_t type; /* 1: RAM */
};

struct boot {
	const char *how; /* "zero page", "PVH" */
	const char *cmdline;
	uint64_t initrd, initrd_size;
	uint64_t rsdp; /* 0 where there is no ACPI */
	unsigned int nr_ranges;
	struct boot_range range[32];
};

extern struct boot boot;

/* Do these bytes lie in one range of RAM? */
bool in_ram(uint64_t at, uint64_t len);

/* The address of RAM's byte @offset, counted from where RAM starts. */
uint64_t machine_ram(uint64_t offset);
/* A page-aligned address where nothing is, whatever RAM's size. */
uint64_t machine_hole(void);
/* Where RAM ends and nothing else begins, for RAM of @size bytes: accesses there find nothing. */
uint64_t machine_ram_end(uint64_t size);
/* Where the map ends: what is kept at RAM's end is not told. */
uint64_t machine_map_end(uint64_t size);
/* Bytes of RAM that the map does not call RAM (the BIOS area). */
uint64_t machine_ram_lost(void);

void machine_putc(char c);
/* As one string instruction, where the architecture has them. */
void machine_write(const char *s, size_t n);
/* Waits for a byte; -1 when none came in the time. */
int machine_getc(unsigned int seconds);
uint64_t machine_usec(void);
void machine_relax(void);
void machine_interrupts(bool on);
/* With interrupts off, so that none slips in before: sleeps until one comes, and has them on. */
void machine_sleep(void);

_Noreturn void machine_off(void);
/* There is more than one way: @way is taken modulo their number. */
_Noreturn void machine_reset(unsigned int way);
_Noreturn void machine_panic(void);
/* An exception that nobody handles. */
void machine_exception(void);

/* Interrupts: counted for each line (GSI). */
#define MAX_GSI 64
extern volatile uint32_t irq_count[MAX_GSI];
void irq_on(unsigned int gsi);
void irq_off(unsigned int gsi);
/* Called by the interrupt before its end, if set. */
extern void (*volatile irq_hook[MAX_GSI])(void);

/* The serial port, a 16550 everywhere, and its line. */
enum { UART_DATA, UART_IER, UART_IIR, UART_LCR, UART_MCR, UART_LSR, UART_MSR, UART_SCR };
uint8_t uart_in(unsigned int reg);
void uart_out(unsigned int reg, uint8_t v);
extern const unsigned int uart_gsi;

/* Has the power button interrupt; its line. */
unsigned int machine_button(void);
/* When it has: that it was one press. */
void machine_button_check(void);

uint64_t machine_virtio_base(unsigned int slot);
unsigned int machine_virtio_gsi(unsigned int slot);

/* Leaves a mark on all of the machine that a reset has to clean; and looks for it. */
void machine_soil(void);
void machine_check_clean(void);

/*
 * Device access of exactly this width, by an instruction that a VMM can decode: on some
 * architectures that is not for the compiler to choose.
 */
uint8_t read8(uint64_t addr);
uint16_t read16(uint64_t addr);
uint32_t read32(uint64_t addr);
uint64_t read64(uint64_t addr);
void write8(uint64_t addr, uint8_t value);
void write16(uint64_t addr, uint16_t value);
void write32(uint64_t addr, uint32_t value);
void write64(uint64_t addr, uint64_t value);

/*
 * What the architecture's own file of the same name (ARCH/NAME.c) adds to a payload: boot's look at
 * the machine's description, mmio's at its interrupt controllers, serial's at other ways and other
 * sources of interrupts, end's other ways to end.
 */
void boot_machine(void);
void mmio_machine(void);
void serial_machine(void);
void end_machine(const char *test);

#endif
