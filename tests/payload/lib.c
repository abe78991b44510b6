/* SPDX-License-Identifier: MIT */
#include "tests/payload/payload.h"

struct boot boot;
volatile uint32_t irq_count[MAX_GSI];
void (*volatile irq_hook[MAX_GSI])(void);

/* volatile keeps the compiler from turning these loops into calls of themselves */
void *memset(void *to, int c, size_t n)
{
	volatile uint8_t *p = to;

	while (n--)
		*p++ = (uint8_t)c;
	return to;
}

void *memcpy(void *to, const void *from, size_t n)
{
	volatile uint8_t *p = to;
	const uint8_t *q = from;

	while (n--)
		*p++ = *q++;
	return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const volatile uint8_t *p = a;
	const uint8_t *q = b;

	for (; n; n--, p++, q++) {
		if (*p != *q)
			return *p < *q ? -1 : 1;
	}
	return 0;
}

size_t strlen(const char *s)
{
	const volatile char *p = s;

	while (*p)
		p++;
	return (size_t)(p - s);
}

int strcmp(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return (uint8_t)*a - (uint8_t)*b;
}

static void put_number(uint64_t v, unsigned int base)
{
	char digit[20];
	unsigned int n = 0;

	do
		digit[n++] = "0123456789abcdef"[v % base];
	while (v /= base);
	while (n)
		machine_putc(digit[--n]);
}

void say(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	for (; *fmt; fmt++) {
		bool wide = false;
		const char *s;

		if (*fmt != '%') {
			machine_putc(*fmt);
			continue;
		}
		fmt++;
		if (*fmt == 'l') {
			wide = true;
			fmt++;
		}
		switch (*fmt) {
		case 's':
			for (s = va_arg(ap, const char *); *s; s++)
				machine_putc(*s);
			break;
		case 'c':
			machine_putc((char)va_arg(ap, int));
			break;
		case 'u':
		case 'x':
			put_number(wide ? va_arg(ap, uint64_t) : va_arg(ap, unsigned int),
				   *fmt == 'u' ? 10 : 16);
			break;
		}
	}
	va_end(ap);
}

bool check(bool good, const char *what)
{
	say("%s %s\n", good ? "ok" : "FAIL", what);
	return good;
}

bool check_eq(uint64_t got, uint64_t want, const char *what)
{
	if (got == want)
		return check(true, what);
	say("FAIL %s: 0x%lx, expected 0x%lx\n", what, got, want);
	return false;
}

bool in_ram(uint64_t at, uint64_t len)
{
	for (unsigned int i = 0; i < boot.nr_ranges; i++) {
		const struct boot_range *r = &boot.range[i];

		if (r->type == 1 && at >= r->base && len <= r->size && at - r->base <= r->size - len)
			return true;
	}
	return false;
}

_Noreturn void done(void)
{
	say("done\n");
	machine_off();
}

_Noreturn void die(const char *why)
{
	say("FAIL %s\n", why);
	machine_panic();
}

const char *arg(const char *name, const char *fallback)
{
	static char value[4][64];
	static unsigned int turn;
	size_t len = strlen(name);
	const char *found = NULL;

	/* The last one wins, as on Linux. */
	for (const char *p = boot.cmdline; *p; p++) {
		if ((p == boot.cmdline || p[-1] == ' ') && !memcmp(p, name, len) && p[len] == '=')
			found = p + len + 1;
	}
	if (!found)
		return fallback;
	turn = (turn + 1) % ARRAY_SIZE(value);
	for (len = 0; len < sizeof(value[0]) - 1 && found[len] && found[len] != ' '; len++)
		value[turn][len] = found[len];
	value[turn][len] = 0;
	return value[turn];
}

uint64_t arg_number(const char *name, uint64_t fallback)
{
	const char *s = arg(name, NULL);
	uint64_t v = 0;

	if (!s)
		return fallback;
	while (*s >= '0' && *s <= '9')
		v = v * 10 + (uint64_t)(*s++ - '0');
	return v;
}

#define WAIT_USEC   10000000
#define SETTLE_USEC 20000

bool wait_count(volatile const uint32_t *counter, uint32_t want)
{
	uint64_t end = machine_usec() + WAIT_USEC;

	while (*counter < want) {
		if (machine_usec() > end)
			return false;
		machine_relax();
	}
	return true;
}

void settle(void)
{
	uint64_t end = machine_usec() + SETTLE_USEC;

	while (machine_usec() < end)
		machine_relax();
}

uint32_t random32(void)
{
	static uint32_t x = 2463534242u;

	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	return x;
}

uint32_t checksum(const uint8_t *p, uint64_t n)
{
	uint32_t sum = 0;

	while (n--)
		sum = (sum * 31 + *p++) % 16777213;
	return sum;
}
