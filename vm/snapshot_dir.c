/* SPDX-License-Identifier: MIT */
#include "vm/snapshot_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "vm/log.h"

/* The fact on the host to look at. */
static const char *advice(int err)
{
	switch (-err) {
	case ENOSPC:
	case EDQUOT:
		return ": is the file system full?";
	case EFBIG:
		return ": check ulimit -f and how large a file the file system takes";
	case EIO:
		return ": the disk fails, see the kernel's log";
	case EACCES:
	case EPERM:
	case EROFS:
		return ": check the permissions and how it is mounted";
	case ENOENT:
	case ENOTDIR:
		return ": check the path";
	case ELOOP:
		return ": a symbolic link is not followed here";
	}
	return "";
}

/* Logs and returns what went wrong with @name, or with the directory where there is none. */
static int failed(const struct snapshot_dir *dir, const char *name, const char *call, int err)
{
	log_err("snapshot %s%s%s: %s: %s%s", dir->path, name ? "/" : "", name ? name : "", call,
		errno_name(err), advice(err));
	return err;
}

int snapshot_dir_open(struct snapshot_dir *dir, const char *path, bool create)
{
	dir->fd = -1;
	dir->path = path;
	dir->cancel = NULL;
	if (create && mkdir(path, 0700) < 0 && errno != EEXIST)
		return failed(dir, NULL, "mkdir", -errno);
	dir->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir->fd < 0)
		return failed(dir, NULL, "open", -errno);
	return 0;
}

void snapshot_dir_close(struct snapshot_dir *dir)
{
	if (dir->fd >= 0)
		close(dir->fd);
	dir->fd = -1;
}

int snapshot_dir_open_file(const struct snapshot_dir *dir, const char *name, int flags,
			   uint64_t *size)
{
	struct stat st;
	int err, fd;

	/* A FIFO or device must neither block here nor be read from. */
	fd = openat(dir->fd, name, flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return failed(dir, name, "open", -errno);
	if (fstat(fd, &st) < 0) {
		err = failed(dir, name, "fstat", -errno);
		close(fd);
		return err;
	}
	if (!S_ISREG(st.st_mode)) {
		log_err("snapshot %s/%s: EINVAL: it is not a regular file", dir->path, name);
		close(fd);
		return -EINVAL;
	}
	*size = st.st_size;
	return fd;
}

int snapshot_dir_new_file(const struct snapshot_dir *dir, const char *name)
{
	int fd;

	if (unlinkat(dir->fd, name, 0) < 0 && errno != ENOENT)
		return failed(dir, name, "unlink", -errno);
	fd = openat(dir->fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	return fd < 0 ? failed(dir, name, "create", -errno) : fd;
}

int snapshot_dir_read(const struct snapshot_dir *dir, const char *name, int fd, void *buf,
		      size_t len, uint64_t offset)
{
	uint8_t *p = buf;
	ssize_t n;

	while (len) {
		n = pread(fd, p, len, offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return failed(dir, name, "pread", -errno);
		if (!n) {
			log_err("snapshot %s/%s: EIO: the file ended at %#" PRIx64
				": has it been cut off?", dir->path, name, offset);
			return -EIO;
		}
		p += n;
		offset += n;
		len -= n;
	}
	return 0;
}

bool snapshot_dir_canceled(const struct snapshot_dir *dir)
{
	return dir->cancel && atomic_load(dir->cancel);
}

int snapshot_dir_write(const struct snapshot_dir *dir, const char *name, int fd, const void *buf,
		       size_t len, uint64_t offset)
{
	const uint8_t *p = buf;
	ssize_t n;

	while (len) {
		if (snapshot_dir_canceled(dir))
			return failed(dir, name, "pwrite", -ECANCELED);
		n = pwrite(fd, p, len, offset);
		if (n < 0 && errno == EINTR)
			continue;
		/* Nothing written and no error is not to loop on. */
		if (n <= 0)
			return failed(dir, name, "pwrite", n ? -errno : -EIO);
		p += n;
		offset += n;
		len -= n;
	}
	return 0;
}

int snapshot_dir_sync(const struct snapshot_dir *dir, const char *name, int fd)
{
	if (fsync(fd) == 0)
		return 0;
	/* Some file systems have nothing to do for a directory, and say so. */
	if (!name && errno == EINVAL)
		return 0;
	return failed(dir, name, "fsync", -errno);
}

bool snapshot_dir_has(const struct snapshot_dir *dir, const char *name)
{
	struct stat st;

	return !fstatat(dir->fd, name, &st, AT_SYMLINK_NOFOLLOW);
}

int snapshot_dir_replace(const struct snapshot_dir *dir, const char *name)
{
	char from[32];

	snprintf(from, sizeof(from), "%s" SNAPSHOT_NEW, name);
	if (renameat(dir->fd, from, dir->fd, name) < 0)
		return failed(dir, from, "rename", -errno);
	return 0;
}

int snapshot_dir_commit(const struct snapshot_dir *dir, bool diff)
{
	int ret;

	/*
	 * The state comes last: it names the memory that belongs to it by its id, and a new memory
	 * beside an old state is refused. The same way round on the disk.
	 */
	ret = snapshot_dir_replace(dir, diff ? SNAPSHOT_DIFF : SNAPSHOT_MEMORY);
	if (!ret)
		ret = snapshot_dir_sync(dir, NULL, dir->fd);
	if (!ret)
		ret = snapshot_dir_replace(dir, SNAPSHOT_STATE);
	if (!ret)
		ret = snapshot_dir_sync(dir, NULL, dir->fd);
	return ret;
}

void snapshot_dir_discard(const struct snapshot_dir *dir)
{
	unlinkat(dir->fd, SNAPSHOT_STATE SNAPSHOT_NEW, 0);
	unlinkat(dir->fd, SNAPSHOT_MEMORY SNAPSHOT_NEW, 0);
	unlinkat(dir->fd, SNAPSHOT_DIFF SNAPSHOT_NEW, 0);
}
