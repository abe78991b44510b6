/* SPDX-License-Identifier: MIT */
#include "tests/payload/x86_64/machine.h"
#include "tests/payload/payload.h"

/* start.S's */
extern uint64_t page_pml4[512], page_pdpt[512], page_pd[MAPPED_GIB * 512];
extern char isr_stubs[], ap_start[], ap_start_end[];

void machine_start(unsigned int pvh, uint64_t info);
void machine_ap_start(uint32_t ticket);

uint32_t ap_ticket;
char ap_stacks[MAX_CPUS << AP_STACK_SHIFT] __attribute__((aligned(16)));
static void (*volatile ap_fn)(uint32_t);
static volatile uint32_t ap_arrived;

static uint64_t tsc_khz;

volatile uint32_t vector_count[256];
void (*volatile vector_hook[256])(void);

static struct {
	uint64_t low, high;
} idt[256] __attribute__((aligned(16)));

static struct {
	uint16_t limit;
	uint64_t base;
} __attribute__((packed)) idt_pointer = { sizeof(idt) - 1, 0 };

struct frame {
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	uint64_t vector, error, rip, cs, rflags, rsp, ss;
};

void machine_interrupt(struct frame *frame);

/*
 * --- device access ----------------------------------------------------------------------------------
 */

#define DEFINE_ACCESS(name, type)                \
	type read##name(uint64_t addr)               \
	{                                            \
		return *(volatile type *)addr;           \
	}                                            \
	void write##name(uint64_t addr, type value)  \
	{                                            \
		*(volatile type *)addr = value;          \
	}
DEFINE_ACCESS(8, uint8_t)
DEFINE_ACCESS(16, uint16_t)
DEFINE_ACCESS(32, uint32_t)
DEFINE_ACCESS(64, uint64_t)

/*
 * --- console, time, ends ----------------------------------------------------------------------------
 */

const unsigned int uart_gsi = LAYOUT_COM1_GSI;

uint8_t uart_in(unsigned int reg)
{
	return inb((uint16_t)(LAYOUT_COM1 + reg));
}

void uart_out(unsigned int reg, uint8_t v)
{
	outb((uint16_t)(LAYOUT_COM1 + reg), v);
}

void machine_putc(char c)
{
	uart_out(UART_DATA, (uint8_t)c);
}

void machine_write(const char *s, size_t n)
{
	rep_outsb(LAYOUT_COM1, s, n);
}

int machine_getc(unsigned int seconds)
{
	uint64_t end = machine_usec() + seconds * 1000000ull;

	uart_out(UART_MCR, 0x0b); /* DTR, RTS, OUT2: input is wanted */
	while (!(uart_in(UART_LSR) & 1)) {
		if (machine_usec() > end)
			return -1;
	}
	return uart_in(UART_DATA);
}

uint64_t machine_usec(void)
{
	return rdtsc() / (tsc_khz / 1000);
}

void machine_relax(void)
{
	__asm__ volatile("pause" ::: "memory");
}

static _Noreturn void stop_here(void)
{
	for (;;)
		__asm__ volatile("cli; hlt");
}

void machine_interrupts(bool on)
{
	if (on)
		__asm__ volatile("sti" ::: "memory");
	else
		__asm__ volatile("cli" ::: "memory");
}

/* sti takes effect after the next instruction: no interrupt slips in between. */
void machine_sleep(void)
{
	__asm__ volatile("sti; hlt" ::: "memory");
}

_Noreturn void machine_off(void)
{
	outb(LAYOUT_SLEEP_CTL, 0x20 | LAYOUT_SLEEP_TYPE << 2);
	stop_here();
}

_Noreturn void machine_reset(unsigned int way)
{
	if (way % 2)
		outb(LAYOUT_I8042_CMD, 0xfe);
	else
		outb(LAYOUT_RESET, LAYOUT_RESET_VALUE);
	stop_here();
}

_Noreturn void machine_panic(void)
{
	outb(LAYOUT_PVPANIC, 1);
	stop_here();
}

void machine_exception(void)
{
	__asm__ volatile("ud2");
}

/*
 * --- interrupts -------------------------------------------------------------------------------------
 */

uint32_t lapic_read(unsigned int reg)
{
	return read32(LAYOUT_LAPIC + reg);
}

void lapic_write(unsigned int reg, uint32_t v)
{
	write32(LAYOUT_LAPIC + reg, v);
}

uint32_t ioapic_read(unsigned int reg)
{
	write32(LAYOUT_IOAPIC, reg);
	return read32(LAYOUT_IOAPIC + 0x10);
}

void ioapic_write(unsigned int reg, uint32_t v)
{
	write32(LAYOUT_IOAPIC, reg);
	write32(LAYOUT_IOAPIC + 0x10, v);
}

void lapic_on(void)
{
	lapic_write(LAPIC_SVR, 0x1ff); /* enable, spurious vector 0xff */
}

#define REDIRECTION(gsi) (0x10 + 2 * (gsi))
#define IOAPIC_MASKED	 (1u << 16)

/* Edge, active high, fixed, to the boot CPU. */
void irq_on(unsigned int gsi)
{
	ioapic_write(REDIRECTION(gsi) + 1, 0);
	ioapic_write(REDIRECTION(gsi), VECTOR_GSI + gsi);
}

void irq_off(unsigned int gsi)
{
	ioapic_write(REDIRECTION(gsi), IOAPIC_MASKED);
}

void machine_interrupt(struct frame *f)
{
	unsigned int vector = f->vector & 0xff;
	uint64_t cr2;

	if (vector < 32 && !vector_hook[vector]) {
		__asm__ volatile("mov %%cr2, %0" : "=r"(cr2));
		say("FAIL exception %u: error 0x%lx rip 0x%lx rsp 0x%lx cr2 0x%lx\n", vector, f->error,
		    f->rip, f->rsp, cr2);
		machine_panic();
	}
	if (vector_hook[vector])
		vector_hook[vector]();
	if (vector >= VECTOR_GSI && vector < VECTOR_GSI + MAX_GSI) {
		unsigned int gsi = vector - VECTOR_GSI;

		if (irq_hook[gsi])
			irq_hook[gsi]();
		irq_count[gsi]++;
	}
	__atomic_fetch_add(&vector_count[vector], 1, __ATOMIC_SEQ_CST);
	if (vector >= VECTOR_GSI && vector != 0xff)
		lapic_write(LAPIC_EOI, 0);
}

static void idt_build(void)
{
	for (unsigned int i = 0; i < 256; i++) {
		uint64_t to = (uintptr_t)isr_stubs + 16 * i;

		idt[i].low = (to & 0xffff) | SEL_CODE64 << 16 | 0x8eull << 40 | (to >> 16 & 0xffff) << 48;
		idt[i].high = to >> 32;
	}
	idt_pointer.base = (uintptr_t)idt;
}

static void idt_load(void)
{
	__asm__ volatile("lidt %0" : : "m"(idt_pointer));
}

/*
 * --- other CPUs -------------------------------------------------------------------------------------
 */

void machine_ap_start(uint32_t ticket)
{
	idt_load();
	lapic_on();
	__atomic_fetch_add(&ap_arrived, 1, __ATOMIC_SEQ_CST);
	ap_fn(ticket);
}

static void send(uint32_t apic_id, uint32_t command)
{
	lapic_write(LAPIC_ICR_HIGH, apic_id << 24);
	lapic_write(LAPIC_ICR_LOW, command);
}

bool start_cpus(unsigned int n, void (*fn)(uint32_t))
{
	ap_fn = fn;
	memcpy((void *)AP_START, ap_start, (size_t)(ap_start_end - ap_start));
	for (unsigned int id = 1; id <= n; id++)
		send(id, 0x4500); /* INIT */
	settle();
	for (unsigned int id = 1; id <= n; id++)
		send(id, 0x4600 | AP_START >> 12); /* start-up */
	return wait_count(&ap_arrived, n);
}

/*
 * --- what is where ----------------------------------------------------------------------------------
 */

uint64_t machine_ram(uint64_t offset)
{
	return offset;
}

uint64_t machine_hole(void)
{
	return LAYOUT_HOLE_BASE;
}

uint64_t machine_ram_end(uint64_t size)
{
	return size <= LAYOUT_HOLE_BASE ? size : LAYOUT_HOLE_END + size - LAYOUT_HOLE_BASE;
}

uint64_t machine_map_end(uint64_t size)
{
	return machine_ram_end(size);
}

uint64_t machine_ram_lost(void)
{
	return LAYOUT_HIGH_RAM - LAYOUT_LOW_END;
}

uint64_t machine_virtio_base(unsigned int slot)
{
	return LAYOUT_VIRTIO_BASE + slot * LAYOUT_VIRTIO_SIZE;
}

unsigned int machine_virtio_gsi(unsigned int slot)
{
	static const uint8_t gsi[] = LAYOUT_VIRTIO_GSIS;

	return gsi[slot % ARRAY_SIZE(gsi)];
}

/* ACPI's generic event device: the interrupt says that there is an event, the register which. */
unsigned int machine_button(void)
{
	return LAYOUT_GED_GSI;
}

void machine_button_check(void)
{
	check_eq(inl(LAYOUT_GED), LAYOUT_GED_POWER, "power button event");
	check_eq(inl(LAYOUT_GED), 0, "read once");
	settle();
	check_eq(irq_count[LAYOUT_GED_GSI], 1, "one interrupt");
}

/*
 * --- a clean machine --------------------------------------------------------------------------------
 */

#define MSR_LSTAR	  0xc0000082
#define MSR_KERNEL_GS	  0xc0000102
#define SOIL		  0x5a
#define SOIL_GSI	  22
#define CR4_PAE		  0x20
#define CR4_DE		  0x08
#define CR0_WP		  0x10000
#define CR0_NE		  0x20

void machine_soil(void)
{
	uint64_t v;

	uart_out(UART_SCR, SOIL);
	uart_out(UART_LCR, 0x83);
	uart_out(UART_DATA, 7); /* the divisor's low byte */
	uart_out(UART_LCR, 0x03);
	irq_on(SOIL_GSI);
	wrmsr(MSR_LSTAR, 0x1234);
	wrmsr(MSR_KERNEL_GS, 0x5678);
	__asm__ volatile("mov %0, %%dr0" : : "r"(0x1234567ull));
	__asm__ volatile("mov %%cr4, %0; or %1, %0; mov %0, %%cr4" : "=&r"(v) : "i"(CR4_DE));
	__asm__ volatile("mov %%cr0, %0; or %1, %0; mov %0, %%cr0" : "=&r"(v) : "i"(CR0_WP));
	lapic_write(LAPIC_LVT_TIMER, 0x20000 | VECTOR_TIMER); /* periodic, and running */
	lapic_write(LAPIC_TIMER_DIV, 0xb);
	lapic_write(LAPIC_TIMER_INIT, 100000000);
}

void machine_check_clean(void)
{
	uint8_t divisor;
	uint64_t dr0;

	/* Nothing is printed while the divisor's registers hide the data's. */
	uart_out(UART_LCR, 0x83);
	divisor = uart_in(UART_DATA);
	uart_out(UART_LCR, 0x03);
	__asm__ volatile("mov %%dr0, %0" : "=r"(dr0));
	check_eq(divisor, 1, "clean: serial divisor");
	check_eq(uart_in(UART_SCR), 0, "clean: serial scratch register");
	check(ioapic_read(REDIRECTION(SOIL_GSI)) & IOAPIC_MASKED, "clean: IOAPIC entry masked");
	check_eq(rdmsr(MSR_LSTAR), 0, "clean: LSTAR");
	check_eq(rdmsr(MSR_KERNEL_GS), 0, "clean: KERNEL_GS_BASE");
	check_eq(dr0, 0, "clean: DR0");
	check_eq(entry_cr4, CR4_PAE, "clean: CR4 at entry");
	check_eq(entry_cr0 & ~CR0_NE, 0x80000011, "clean: CR0 at entry");
	check_eq(lapic_read(LAPIC_TIMER_NOW), 0, "clean: LAPIC timer");
}

/*
 * --- the start --------------------------------------------------------------------------------------
 */

static void add_range(uint64_t base, uint64_t size, uint32_t type)
{
	if (boot.nr_ranges < ARRAY_SIZE(boot.range))
		boot.range[boot.nr_ranges++] = (struct boot_range){ base, size, type };
}

/* Offsets: Linux's Documentation/arch/x86/zero-page.rst and boot.rst. */
static void read_zero_page(uint64_t zp)
{
	boot.how = "zero page";
	boot.cmdline = (const char *)(read32(zp + 0x228) | (uint64_t)read32(zp + 0xc8) << 32);
	boot.initrd = read32(zp + 0x218) | (uint64_t)read32(zp + 0xc0) << 32;
	boot.initrd_size = read32(zp + 0x21c) | (uint64_t)read32(zp + 0xc4) << 32;
	boot.rsdp = read64(zp + 0x70);
	for (unsigned int i = 0; i < read8(zp + 0x1e8); i++) {
		uint64_t e = zp + 0x2d0 + 20 * i;

		add_range(read64(e), read64(e + 8), read32(e + 16));
	}
}

/* Xen's public/arch-x86/hvm/start_info.h, version 1. */
static void read_start_info(uint64_t info)
{
	boot.how = "PVH";
	boot.cmdline = (const char *)read64(info + 24);
	boot.rsdp = read64(info + 32);
	if (read32(info + 12)) {
		uint64_t module = read64(info + 16);

		boot.initrd = read64(module);
		boot.initrd_size = read64(module + 8);
	}
	for (unsigned int i = 0; i < read32(info + 48); i++) {
		uint64_t e = read64(info + 40) + 24 * i;

		add_range(read64(e), read64(e + 8), read32(e + 16));
	}
	if (read32(info) != 0x336ec578)
		die("start info: bad magic");
}

void machine_start(unsigned int pvh, uint64_t info)
{
	struct cpuid leaf = cpuid(0x40000000, 0);

	page_pml4[0] = (uintptr_t)page_pdpt | 3;
	for (unsigned int i = 0; i < MAPPED_GIB; i++)
		page_pdpt[i] = (uintptr_t)&page_pd[512 * i] | 3;
	for (uint64_t i = 0; i < MAPPED_GIB * 512; i++)
		page_pd[i] = i << 21 | 0x83;
	__asm__ volatile("mov %0, %%cr3" : : "r"(page_pml4) : "memory");
	idt_build();
	idt_load();
	tsc_khz = leaf.eax >= 0x40000010 ? cpuid(0x40000010, 0).eax : 0;
	if (tsc_khz < 1000)
		tsc_khz = 2000000;
	if (pvh)
		read_start_info(info);
	else
		read_zero_page(info);
	if (!boot.cmdline)
		boot.cmdline = "";

	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	lapic_write(LAPIC_LVT_LINT0, 0x10000);
	lapic_on();
	machine_interrupts(true);
	payload_main();
	done();
}
