/* SPDX-License-Identifier: MIT */
/* Ways in: the 64-bit entry, PVH's 32-bit one, another CPU's real-mode one; and the interrupts'. */
#include "tests/payload/x86_64/machine.h"

	.text
	.code64
	.globl	_start
_start:	/* 64-bit mode, rsi = zero page */
	cli
	cld
	mov	%cr0, %rax
	mov	%rax, entry_cr0(%rip)
	mov	%cr4, %rax
	mov	%rax, entry_cr4(%rip)
	mov	$stack_end, %esp
	xor	%edi, %edi
	jmp	enter64

	.code32
	.globl	start_pvh
start_pvh: /* 32-bit protected mode, no paging, ebx = hvm_start_info */
	cli
	cld
	mov	$stack_end, %esp
	mov	%cr0, %eax
	mov	%eax, entry_cr0
	mov	%cr4, %eax
	mov	%eax, entry_cr4
	/* The tables for the first 4 GiB; C makes the rest of them. */
	mov	$page_pml4, %eax
	movl	$page_pdpt + 3, (%eax)
	mov	$page_pdpt, %eax
	mov	$page_pd + 3, %edx
	mov	$4, %ecx
1:	mov	%edx, (%eax)
	add	$8, %eax
	add	$0x1000, %edx
	loop	1b
	mov	$page_pd, %eax
	mov	$0x83, %edx
	mov	$4 * 512, %ecx
1:	mov	%edx, (%eax)
	add	$8, %eax
	add	$0x200000, %edx
	loop	1b
	lgdt	gdt_pointer
	mov	%ebx, %esi
	mov	$long_mode_here, %ebp
	jmp	to_long_mode
long_mode_here:
	.code64
	mov	$1, %edi
	/* rdi = how, rsi = what the loader left */
enter64:
	lgdt	gdt_pointer
	mov	$SEL_DATA, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	xor	%eax, %eax
	mov	%eax, %fs
	mov	%eax, %gs
	push	$SEL_CODE64
	push	$1f
	lretq
1:	call	machine_start
2:	cli
	hlt
	jmp	2b

	/* From 32-bit mode with the GDT loaded, to 64-bit mode at ebp. */
	.code32
to_long_mode:
	mov	$SEL_DATA, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	%cr4, %eax
	or	$0x20, %eax		/* PAE */
	mov	%eax, %cr4
	mov	$page_pml4, %eax
	mov	%eax, %cr3
	mov	$0xc0000080, %ecx	/* EFER */
	rdmsr
	or	$0x100, %eax		/* LME */
	wrmsr
	mov	%cr0, %eax
	or	$0x80000001, %eax	/* PG, PE */
	mov	%eax, %cr0
	ljmp	$SEL_CODE64, $1f
	.code64
1:	mov	%ebp, %ebp
	jmp	*%rbp

	/* Another CPU: this much is copied to AP_START, below 1 MiB, where SIPI's vector points. */
	.code16
	.globl	ap_start, ap_start_end
ap_start:
	cli
	cld
	mov	%cs, %ax
	mov	%ax, %ds
	lgdtl	ap_gdt_pointer - ap_start
	mov	%cr0, %eax
	or	$1, %eax
	mov	%eax, %cr0
	ljmpl	$SEL_CODE32, $ap_start32
ap_gdt_pointer:
	.word	gdt_end - gdt - 1
	.long	gdt
ap_start_end:

	.code32
ap_start32:
	mov	$ap_start64, %ebp
	jmp	to_long_mode
	.code64
ap_start64:
	mov	$1, %eax
	lock xadd %eax, ap_ticket(%rip)
	mov	%eax, %edi
	inc	%eax
	shl	$AP_STACK_SHIFT, %eax
	lea	ap_stacks(%rip), %rsp
	add	%rax, %rsp
	call	machine_ap_start
1:	cli
	hlt
	jmp	1b

	/* Interrupts: 256 stubs of 16 bytes; the CPU has pushed an error code for some. */
	.balign	16
	.globl	isr_stubs
isr_stubs:
	vector = 0
	.rept	256
	.balign	16
	.if	vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30
	.else
	push	$0
	.endif
	push	$vector
	jmp	isr_common
	vector = vector + 1
	.endr

isr_common:
	push	%rax
	push	%rcx
	push	%rdx
	push	%rbx
	push	%rbp
	push	%rsi
	push	%rdi
	push	%r8
	push	%r9
	push	%r10
	push	%r11
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	cld
	mov	%rsp, %rdi
	call	machine_interrupt
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%r11
	pop	%r10
	pop	%r9
	pop	%r8
	pop	%rdi
	pop	%rsi
	pop	%rbp
	pop	%rbx
	pop	%rdx
	pop	%rcx
	pop	%rax
	add	$16, %rsp
	iretq

	.data
	.balign	16
gdt:	.quad	0
	.quad	0x00cf9b000000ffff	/* SEL_CODE32 */
	.quad	0x00af9b000000ffff	/* SEL_CODE64 */
	.quad	0x00cf93000000ffff	/* SEL_DATA */
gdt_end:
gdt_pointer:
	.word	gdt_end - gdt - 1
	.quad	gdt

	/* Registers as they were at the entry; written before the stack is trusted. */
	.balign	8
	.globl	entry_cr0, entry_cr4
entry_cr0: .quad 0
entry_cr4: .quad 0

	.bss
	.balign	4096
	.globl	page_pml4, page_pdpt, page_pd
page_pml4: .skip 4096
page_pdpt: .skip 4096
page_pd: .skip	4096 * MAPPED_GIB
	.skip	16384
stack_end:
	.section .note.GNU-stack, "", @progbits
