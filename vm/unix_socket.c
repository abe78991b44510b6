/* SPDX-License-Identifier: MIT */
#include "vm/unix_socket.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "vm/log.h"

_Static_assert(sizeof(((struct unix_socket *)0)->path) == sizeof(((struct sockaddr_un *)0)->sun_path),
	       "room for a socket's path");

static int open_socket(void)
{
	return socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

static bool same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* True when the socket at @addr's path was left behind by a dead process; then it is removed. */
static bool remove_stale(const struct sockaddr_un *addr)
{
	struct stat before, after;
	bool stale;
	int fd;

	if (lstat(addr->sun_path, &before) || !S_ISSOCK(before.st_mode))
		return false;
	fd = open_socket();
	if (fd < 0)
		return false;
	stale = connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) && errno == ECONNREFUSED;
	close(fd);
	/* Somebody else may have found it stale too, and put a live one there by now. */
	return stale && !lstat(addr->sun_path, &after) && same_file(&before, &after) &&
	       !unlink(addr->sun_path);
}

/* The call that failed with errno, NULL for none. */
static const char *make_file(struct unix_socket *u, int fd, const struct sockaddr_un *addr)
{
	const struct sockaddr *to = (const struct sockaddr *)addr;
	struct stat st;
	int err;

	/* bind() gives the file the socket's mode: at no moment may others connect. */
	fchmod(fd, 0600);
	err = bind(fd, to, sizeof(*addr)) ? errno : 0;
	if (err == EADDRINUSE && remove_stale(addr))
		err = bind(fd, to, sizeof(*addr)) ? errno : 0;
	if (err) {
		errno = err;
		return "bind";
	}
	if (lstat(u->path, &st))
		return "stat";
	u->dev = st.st_dev;
	u->ino = st.st_ino;
	/* A umask beyond 0177 took the owner's bits too. */
	if ((st.st_mode & 07777) != 0600 && S_ISSOCK(st.st_mode) && chmod(u->path, 0600))
		return "chmod";
	return NULL;
}

int unix_socket_listen(struct unix_socket *u, const char *what, const char *path, int backlog)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	const char *failed;
	int fd, ret;

	*u = (struct unix_socket){ 0 };
	if (!*path || strlen(path) >= sizeof(addr.sun_path)) {
		log_err("%s%s: ENAMETOOLONG: a socket's path has 1 to %zu bytes", what, path,
			sizeof(addr.sun_path) - 1);
		return -ENAMETOOLONG;
	}
	strcpy(addr.sun_path, path);
	strcpy(u->path, path);
	fd = open_socket();
	failed = fd < 0 ? "socket" : make_file(u, fd, &addr);
	if (!failed && listen(fd, backlog))
		failed = "listen";
	if (!failed)
		return fd;
	ret = -errno;
	log_err("%s%s: %s: %s%s", what, path, failed, errno_name(ret),
		fd < 0		 ? ": check CONFIG_UNIX of the host's kernel" :
		*failed == 'b' ? ": check that nobody listens there, that no other file is in the way, "
				 "and that its folder can be written to" :
				 "");
	unix_socket_remove(u);
	if (fd >= 0)
		close(fd);
	return ret;
}

void unix_socket_remove(struct unix_socket *u)
{
	const struct stat made = { .st_dev = u->dev, .st_ino = u->ino };
	struct stat st;

	if (u->ino && !lstat(u->path, &st) && same_file(&st, &made))
		unlink(u->path);
	u->ino = 0;
}
