/* SPDX-License-Identifier: MIT */
/* XEN_ELFNOTE_PHYS32_ENTRY: whoever knows the note enters there, in 32-bit mode. Source: Xen's public/elfnote.h. */
	.section .note.Xen, "a", @note
	.balign	4
	.long	4, 4, 18
	.asciz	"Xen"
	.long	start_pvh
