/* SPDX-License-Identifier: MIT */
/* A Unix socket that listens at a path, for its owner alone (mode 0600). */
#ifndef VM_UNIX_SOCKET_H
#define VM_UNIX_SOCKET_H

#include <sys/types.h>

/* The file that was made; all zero for none. */
struct unix_socket {
	dev_t dev;
	ino_t ino;
	char path[108];
};

/*
 * Makes one at @path; what a dead process left there goes first. The descriptor (nonblocking,
 * close-on-exec) is the caller's. -errno after a message that begins with @what and @path
 * ("console unix=/run/a: bind: ..."), with nothing left behind.
 */
int unix_socket_listen(struct unix_socket *u, const char *what, const char *path, int backlog);

/* Removes the file, unless it is another one by now. */
void unix_socket_remove(struct unix_socket *u);

#endif
