/* SPDX-License-Identifier: MIT */
#ifndef INITRAMFS_MODULES_H
#define INITRAMFS_MODULES_H

/*
 * Loads what @list names: on each line an absolute path and, after a blank, the module's
 * parameters. "#" starts a comment line. Logs what fails and goes on; a missing list is no error
 * (all may be built in).
 */
void modules_load(const char *list);

#endif
