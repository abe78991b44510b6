/* SPDX-License-Identifier: MIT */
/*
 * The ways in: the Image's, another CPU's by PSCI, and the exceptions'. Source: Linux's
 * Documentation/arch/arm64/booting.rst; Arm ARM, D8 (translation) and D1 (exceptions).
 */
#include "tests/payload/aarch64/machine.h"

	.section .head, "ax"
	.globl	_start
_start:
	b	start
	.long	0
	.quad	0			/* text_offset */
	.quad	bss_end - _start	/* image_size */
	.quad	0xa			/* flags: little-endian, 4 KiB pages, anywhere in RAM */
	.quad	0, 0, 0
	.ascii	"ARM\x64"
	.long	0

	.text
start:	/* EL1, MMU and caches off, x0 = FDT */
	adrp	x9, entry
	add	x9, x9, :lo12:entry
	/*
	 * What is written before the caches are on goes past them: into the file's part of the
	 * image, whose lines nobody has in a cache but the loader, and they are thrown away below.
	 */
	stp	x0, x1, [x9]
	stp	x2, x3, [x9, #16]
	mrs	x10, CurrentEL
	mrs	x11, sctlr_el1
	stp	x10, x11, [x9, #32]
	mrs	x10, daif
	mrs	x11, tpidr_el1
	stp	x10, x11, [x9, #48]
	mrs	x10, cntv_ctl_el0
	mrs	x11, cntv_cval_el0
	stp	x10, x11, [x9, #64]
	mrs	x10, vbar_el1
	mrs	x11, ttbr0_el1
	stp	x10, x11, [x9, #80]
	/* The first GiB's table is the only thing in the tables that depends on where all this lies. */
	adrp	x10, page_l1
	adrp	x11, page_l2
	orr	x11, x11, #3
	str	x11, [x10]
	dmb	sy
	dc	ivac, x10
	dc	ivac, x9
	add	x9, x9, #64
	dc	ivac, x9
	dsb	sy
	bl	mmu_on

	/* R_AARCH64_RELATIVE: the image was linked at 0. There is no other kind. */
	adrp	x9, _start
	adrp	x10, rela_start
	add	x10, x10, :lo12:rela_start
	adrp	x11, rela_end
	add	x11, x11, :lo12:rela_end
1:	cmp	x10, x11
	b.hs	2f
	ldr	x12, [x10]
	ldr	x13, [x10, #16]
	add	x13, x13, x9
	str	x13, [x9, x12]
	add	x10, x10, #24
	b	1b
2:	adrp	x10, bss_start
	adrp	x11, bss_end
3:	cmp	x10, x11
	b.hs	4f
	stp	xzr, xzr, [x10], #16
	b	3b
4:	adrp	x9, stack_end
	mov	sp, x9
	adrp	x0, entry
	add	x0, x0, :lo12:entry
	mov	x29, #0
	bl	machine_start
5:	wfi
	b	5b

	/* Another CPU, x0 = its index. */
	.globl	cpu_start
cpu_start:
	mov	x19, x0
	bl	mmu_on
	adrp	x9, cpu_stacks
	add	x9, x9, :lo12:cpu_stacks
	add	x10, x19, #1
	lsl	x10, x10, #CPU_STACK_SHIFT
	add	x9, x9, x10
	mov	sp, x9
	mov	x0, x19
	mov	x29, #0
	bl	machine_cpu_start
1:	wfi
	b	1b

	/* MMU, caches and vectors; with what is mapped one to one, the next instruction is where it was. */
mmu_on:
	msr	spsel, #1
	ldr	x10, =0x000000000044ff04	/* MAIR: 0 device nGnRE, 1 write-back, 2 non-cacheable */
	msr	mair_el1, x10
	mrs	x11, id_aa64mmfr0_el1
	and	x11, x11, #0xf			/* PARange */
	cmp	x11, #5
	b.ls	1f
	mov	x11, #5
1:	ldr	x10, =TCR
	orr	x10, x10, x11, lsl #32		/* IPS */
	msr	tcr_el1, x10
	adrp	x10, page_l1
	msr	ttbr0_el1, x10
	mov	x10, #3 << 20			/* FPEN: SIMD for one payload, none for the compiler */
	msr	cpacr_el1, x10
	adrp	x10, vectors
	add	x10, x10, :lo12:vectors
	msr	vbar_el1, x10
	dsb	sy
	isb
	tlbi	vmalle1
	ic	iallu
	dsb	nsh
	isb
	mrs	x10, sctlr_el1
	ldr	x11, =SCTLR_M | SCTLR_C | SCTLR_I
	orr	x10, x10, x11
	bic	x10, x10, #SCTLR_A
	msr	sctlr_el1, x10
	isb
	ret
	.ltorg

	.macro	vector kind
	.balign	0x80
	sub	sp, sp, #FRAME_SIZE
	stp	x0, x1, [sp]
	mov	x0, #\kind
	b	exception
	.endm

	.balign	0x800
vectors:
	.irp	kind, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	vector	\kind
	.endr

exception:
	stp	x2, x3, [sp, #16]
	stp	x4, x5, [sp, #32]
	stp	x6, x7, [sp, #48]
	stp	x8, x9, [sp, #64]
	stp	x10, x11, [sp, #80]
	stp	x12, x13, [sp, #96]
	stp	x14, x15, [sp, #112]
	stp	x16, x17, [sp, #128]
	stp	x18, x19, [sp, #144]
	stp	x20, x21, [sp, #160]
	stp	x22, x23, [sp, #176]
	stp	x24, x25, [sp, #192]
	stp	x26, x27, [sp, #208]
	stp	x28, x29, [sp, #224]
	mrs	x1, elr_el1
	stp	x30, x1, [sp, #240]
	mrs	x1, spsr_el1
	mrs	x2, esr_el1
	stp	x1, x2, [sp, #256]
	mrs	x1, far_el1
	str	x1, [sp, #272]
	mov	x1, sp
	bl	machine_vector
	ldr	x1, [sp, #256]
	msr	spsr_el1, x1
	ldp	x30, x1, [sp, #240]
	msr	elr_el1, x1
	ldp	x28, x29, [sp, #224]
	ldp	x26, x27, [sp, #208]
	ldp	x24, x25, [sp, #192]
	ldp	x22, x23, [sp, #176]
	ldp	x20, x21, [sp, #160]
	ldp	x18, x19, [sp, #144]
	ldp	x16, x17, [sp, #128]
	ldp	x14, x15, [sp, #112]
	ldp	x12, x13, [sp, #96]
	ldp	x10, x11, [sp, #80]
	ldp	x8, x9, [sp, #64]
	ldp	x6, x7, [sp, #48]
	ldp	x4, x5, [sp, #32]
	ldp	x2, x3, [sp, #16]
	ldp	x0, x1, [sp]
	add	sp, sp, #FRAME_SIZE
	eret

	.data
	.balign	4096
	/* One to one: 1 GiB blocks, but the first GiB, where the devices are, in blocks of 2 MiB. */
page_l1:
	.quad	0
	.set	gib, 1
	.rept	511
	.quad	gib << 30 | PAGE_BLOCK | PAGE_SHARED | PAGE_NORMAL
	.set	gib, gib + 1
	.endr
	/*
	 * 0x0a00_0000 to 0x0c00_0000, virtio's window and a hole: normal memory that no cache may hold, so
	 * that an access at an odd address is the VMM's business.
	 */
page_l2:
	.set	mib2, 0
	.rept	512
	.if	mib2 >= 80 && mib2 < 96
	.quad	mib2 << 21 | PAGE_BLOCK | PAGE_NO_EXEC | PAGE_UNCACHED
	.else
	.quad	mib2 << 21 | PAGE_BLOCK | PAGE_NO_EXEC | PAGE_DEVICE
	.endif
	.set	mib2, mib2 + 1
	.endr

	.balign	128
	.globl	entry
entry:	.skip	128

	.bss
	.balign	4096
	.skip	16384
stack_end:
	.skip	4096
	.section .note.GNU-stack, "", @progbits
