/* SPDX-License-Identifier: MIT */
/* What hangs on a machine of this architecture. vm.c makes and frees it. */
#ifndef ARCH_X86_64_VM_H
#define ARCH_X86_64_VM_H

struct platform;
struct serial;

struct arch_vm {
	struct platform *platform;
	struct serial *serial;
};

#endif
