/* SPDX-License-Identifier: MIT */
/* vinit as PID 1 of an appliance. */
#ifndef INITRAMFS_INIT_H
#define INITRAMFS_INIT_H

/* Never returns. @argv is the kernel's. */
_Noreturn void init_main(int argc, char **argv);

#endif
