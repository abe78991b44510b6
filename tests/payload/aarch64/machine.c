/* SPDX-License-Identifier: MIT */
#include "tests/payload/aarch64/machine.h"
#include "tests/payload/payload.h"

/* start.S's */
extern char image_start[], bss_end[], cpu_start[];

void machine_start(void);
void machine_cpu_start(unsigned int i);
void machine_vector(unsigned int kind, struct frame *frame);

char cpu_stacks[MAX_CPUS << CPU_STACK_SHIFT] __attribute__((aligned(16)));
static void (*volatile cpu_fn[MAX_CPUS])(unsigned int i);

unsigned int nr_cpus;
uint64_t cpu_mpidr[MAX_CPUS];

bool (*volatile exception_hook)(struct frame *frame);

/*
 * --- device access ----------------------------------------------------------------------------------
 */

/* Plain loads and stores, base register only: others exit without a syndrome. */
#define DEFINE_ACCESS(name, type, suffix, w)                                                 \
	type read##name(uint64_t addr)                                                       \
	{                                                                                    \
		type v;                                                                      \
		__asm__ volatile("ldr" suffix " %" w "0, [%1]" : "=r"(v) : "r"(addr) : "memory"); \
		return v;                                                                    \
	}                                                                                    \
	void write##name(uint64_t addr, type v)                                              \
	{                                                                                    \
		__asm__ volatile("str" suffix " %" w "0, [%1]" : : "r"(v), "r"(addr) : "memory"); \
	}
DEFINE_ACCESS(8, uint8_t, "b", "w")
DEFINE_ACCESS(16, uint16_t, "h", "w")
DEFINE_ACCESS(32, uint32_t, "", "w")
DEFINE_ACCESS(64, uint64_t, "", "x")

/*
 * --- console, time, ends ----------------------------------------------------------------------------
 */

const unsigned int uart_gsi = LAYOUT_UART_SPI;

uint8_t uart_in(unsigned int reg)
{
	return read8(LAYOUT_UART_BASE + reg);
}

void uart_out(unsigned int reg, uint8_t v)
{
	write8(LAYOUT_UART_BASE + reg, v);
}

void machine_putc(char c)
{
	uart_out(UART_DATA, (uint8_t)c);
}

void machine_write(const char *s, size_t n)
{
	while (n--)
		machine_putc(*s++);
}

/* Each look is an exit, and somebody may be counting them meanwhile. */
#define LOOK_USEC 20000

int machine_getc(unsigned int seconds)
{
	uint64_t end = machine_usec() + seconds * 1000000ull, next;

	uart_out(UART_MCR, 0x0b); /* DTR, RTS, OUT2: input is wanted */
	while (!(uart_in(UART_LSR) & 1)) {
		next = machine_usec() + LOOK_USEC;
		if (next > end)
			return -1;
		while (machine_usec() < next)
			machine_relax();
	}
	return uart_in(UART_DATA);
}

uint64_t machine_usec(void)
{
	uint64_t now, hz = sysreg_read("cntfrq_el0");

	__asm__ volatile("isb" ::: "memory");
	now = sysreg_read("cntvct_el0");
	return now / hz * 1000000 + now % hz * 1000000 / hz;
}

void machine_relax(void)
{
	__asm__ volatile("yield" ::: "memory");
}

void machine_interrupts(bool on)
{
	if (on)
		__asm__ volatile("msr daifclr, #2; isb" ::: "memory");
	else
		__asm__ volatile("msr daifset, #2" ::: "memory");
}

/* What is pending ends WFI, masked or not. */
void machine_sleep(void)
{
	__asm__ volatile("dsb sy; wfi; msr daifclr, #2; isb" ::: "memory");
}

static _Noreturn void stop_here(void)
{
	for (;;)
		__asm__ volatile("msr daifset, #0xf; wfi");
}

int64_t psci(uint32_t function, uint64_t a1, uint64_t a2, uint64_t a3)
{
	register uint64_t x0 __asm__("x0") = function;
	register uint64_t x1 __asm__("x1") = a1;
	register uint64_t x2 __asm__("x2") = a2;
	register uint64_t x3 __asm__("x3") = a3;

	/* DEN0028: x4 to x17 need not survive a call of the first version. */
	__asm__ volatile("hvc #0"
			 : "+r"(x0), "+r"(x1), "+r"(x2), "+r"(x3)
			 :
			 : "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16",
			   "x17", "memory");
	/* The result of a 32-bit function is a 32-bit one. */
	return function >> 30 & 1 ? (int64_t)x0 : (int32_t)x0;
}

_Noreturn void machine_off(void)
{
	psci(PSCI_SYSTEM_OFF, 0, 0, 0);
	stop_here();
}

_Noreturn void machine_reset(unsigned int way)
{
	if (way % 2 && psci(PSCI_FEATURES, PSCI_SYSTEM_RESET2, 0, 0) >= 0)
		psci(PSCI_SYSTEM_RESET2, 0, 0, 0);
	psci(PSCI_SYSTEM_RESET, 0, 0, 0);
	stop_here();
}

_Noreturn void machine_panic(void)
{
	write8(LAYOUT_PVPANIC_BASE, 1);
	stop_here();
}

void machine_exception(void)
{
	__asm__ volatile("udf #0");
}

/*
 * --- exceptions -------------------------------------------------------------------------------------
 */

void machine_vector(unsigned int kind, struct frame *f)
{
	/* 4 and up: from this exception level with its own stack; synchronous, IRQ, FIQ, SError. */
	if (kind == 5) {
		gic_interrupt();
		return;
	}
	if (kind == 4 && exception_hook && exception_hook(f))
		return;
	say("FAIL exception %u: ESR 0x%lx ELR 0x%lx FAR 0x%lx, image at 0x%lx\n", kind, f->esr, f->elr, f->far,
	    (uint64_t)image_start);
	machine_panic();
}

/*
 * --- other CPUs -------------------------------------------------------------------------------------
 */

void machine_cpu_start(unsigned int i)
{
	gic_cpu_init();
	cpu_fn[i](i);
}

int64_t cpu_on(unsigned int i, void (*fn)(unsigned int i))
{
	cpu_fn[i] = fn;
	/* The other one's caches are off when it starts, but it turns them on before it looks. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return psci(PSCI_CPU_ON, cpu_mpidr[i], (uintptr_t)cpu_start, i);
}

/*
 * --- what is where ----------------------------------------------------------------------------------
 */

uint64_t machine_ram(uint64_t offset)
{
	return LAYOUT_RAM_BASE + offset;
}

uint64_t machine_hole(void)
{
	return 0x0b000000;
}

uint64_t machine_ram_end(uint64_t size)
{
	return LAYOUT_RAM_BASE + size;
}

uint64_t machine_map_end(uint64_t size)
{
	return machine_ram_end(size) - LAYOUT_VMGENID_ROOM;
}

uint64_t machine_ram_lost(void)
{
	return LAYOUT_VMGENID_ROOM;
}

uint64_t machine_virtio_base(unsigned int slot)
{
	return LAYOUT_VIRTIO_BASE + slot * LAYOUT_VIRTIO_STRIDE;
}

unsigned int machine_virtio_gsi(unsigned int slot)
{
	return LAYOUT_VIRTIO_SPI + slot;
}

/*
 * PL061: the button is an input that the tree names; its rise interrupts. Source: Arm DDI 0190.
 */
#define GPIO_DIR 0x400
#define GPIO_IS	 0x404
#define GPIO_IBE 0x408
#define GPIO_IEV 0x40c
#define GPIO_IE	 0x410
#define GPIO_RIS 0x414
#define GPIO_MIS 0x418
#define GPIO_IC	 0x41c

static uint32_t button_bit;
static volatile uint32_t button_mis, button_mis_after;

static void on_button(void)
{
	button_mis = read32(LAYOUT_GPIO_BASE + GPIO_MIS);
	write32(LAYOUT_GPIO_BASE + GPIO_IC, button_mis);
	button_mis_after = read32(LAYOUT_GPIO_BASE + GPIO_MIS);
}

unsigned int machine_button(void)
{
	const uint8_t *keys = tree_node(NULL, "gpio-keys", 0);
	const uint8_t *key = keys ? tree_node("power-button", NULL, 0) : NULL;

	if (!key)
		die("no power button in the tree");
	check_eq(tree_cell(key, "linux,code", 0), 116, "the tree's key is KEY_POWER");
	button_bit = 1u << tree_cell(key, "gpios", 1); /* controller, pin, flags */
	irq_hook[LAYOUT_GPIO_SPI] = on_button;
	write32(LAYOUT_GPIO_BASE + GPIO_IEV, 0xff);
	write32(LAYOUT_GPIO_BASE + GPIO_IE, 0xff);
	return LAYOUT_GPIO_SPI;
}

/* The press lasts until somebody has seen it. */
void machine_button_check(void)
{
	check_eq(button_mis, button_bit, "the button's pin, and no other, interrupted");
	check_eq(button_mis_after, 0, "and does no more when told so");
	check_eq(read32(LAYOUT_GPIO_BASE + 0x3fc), button_bit, "the button is pressed");
	check_eq(read32(LAYOUT_GPIO_BASE + 0x3fc), 0, "and released after that");
	settle();
	check_eq(irq_count[LAYOUT_GPIO_SPI], 1, "one interrupt");
}

/*
 * --- a clean machine --------------------------------------------------------------------------------
 */

#define SOIL	  0x5a
#define SOIL_GSI  60
#define SOIL_WORD 0x123456789abcdefull

void machine_soil(void)
{
	uart_out(UART_SCR, SOIL);
	uart_out(UART_LCR, 0x83);
	uart_out(UART_DATA, 7); /* the divisor's low byte */
	uart_out(UART_LCR, 0x03);
	irq_on(SOIL_GSI);
	write32(LAYOUT_GPIO_BASE + GPIO_IBE, SOIL);
	sysreg_write("tpidr_el1", SOIL_WORD);
	sysreg_write("cntv_cval_el0", SOIL_WORD);
	sysreg_write("cntv_ctl_el0", 3); /* on, its interrupt masked */
}

/* What start.S found; what has no value by the architecture must not be the one of before. */
void machine_check_clean(void)
{
	uint8_t divisor;

	/* Nothing is printed while the divisor's registers hide the data's. */
	uart_out(UART_LCR, 0x83);
	divisor = uart_in(UART_DATA);
	uart_out(UART_LCR, 0x03);
	check_eq(divisor, 1, "clean: serial divisor");
	check_eq(uart_in(UART_SCR), 0, "clean: serial scratch register");
	check(!intid_is_on(LAYOUT_SPI_BASE + SOIL_GSI), "clean: interrupt off");
	check_eq(read32(LAYOUT_GPIO_BASE + GPIO_IBE), 0, "clean: GPIO");
	check(entry.tpidr != SOIL_WORD, "clean: TPIDR_EL1");
	check(entry.cntv_cval != SOIL_WORD && !(entry.cntv_ctl & 1), "clean: virtual timer");
	check(!(entry.sctlr & (SCTLR_M | SCTLR_C)), "clean: MMU and caches off at entry");
}

/*
 * --- the start --------------------------------------------------------------------------------------
 */

/* Numbers in /chosen have one cell or two. */
static uint64_t chosen_number(const uint8_t *chosen, const char *name)
{
	uint32_t len = 0;

	if (!tree_prop(chosen, name, &len))
		return 0;
	return len == 8 ? tree_pair(chosen, name, 0) : tree_cell(chosen, name, 0);
}

static void read_tree(void)
{
	const uint8_t *node;
	uint32_t len = 0;

	if (!tree_init(entry.x[0]))
		die("x0 is no FDT");
	node = tree_node("", NULL, 0);
	if (!node || tree_cell(node, "#address-cells", 0) != 2 || tree_cell(node, "#size-cells", 0) != 2)
		die("the tree's numbers are not pairs of cells");
	boot.how = "Image";
	boot.cmdline = "";
	node = tree_node("chosen", NULL, 0);
	if (node) {
		const char *args = (const char *)tree_prop(node, "bootargs", &len);

		if (args)
			boot.cmdline = args;
		boot.initrd = chosen_number(node, "linux,initrd-start");
		boot.initrd_size = chosen_number(node, "linux,initrd-end") - boot.initrd;
	}
	for (unsigned int n = 0; (node = tree_node("memory", NULL, n)); n++) {
		if (!tree_prop(node, "reg", &len))
			continue;
		for (unsigned int i = 0; i < len / 16 && boot.nr_ranges < ARRAY_SIZE(boot.range); i++)
			boot.range[boot.nr_ranges++] = (struct boot_range){
				tree_pair(node, "reg", 2 * i), tree_pair(node, "reg", 2 * i + 1), 1
			};
	}
	for (unsigned int n = 0; (node = tree_node("cpu", NULL, n)) && nr_cpus < MAX_CPUS; n++)
		cpu_mpidr[nr_cpus++] = tree_prop(node, "reg", &len) && len == 8 ? tree_pair(node, "reg", 0) :
										  tree_cell(node, "reg", 0);
}

void machine_start(void)
{
	read_tree();
	gic_init();
	__asm__ volatile("msr daifclr, #6" ::: "memory"); /* IRQ, and SErrors: there should be none */
	payload_main();
	done();
}
