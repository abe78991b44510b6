/* SPDX-License-Identifier: MIT */
#include "initramfs/mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>
#include "vm/log.h"

struct mount_entry {
	char dir[15];
	char parent[8];
	char type[9];
	char data[24];
	uint32_t flags;
	mode_t mode;
};

static const struct mount_entry dev_entry = {
	"/dev", "/", "devtmpfs", "mode=0755", MS_NOSUID, 0755
};

static const struct mount_entry entries[] = {
	{ "/proc", "/", "proc", "", MS_NOSUID | MS_NOEXEC | MS_NODEV, 0555 },
	{ "/sys", "/", "sysfs", "", MS_NOSUID | MS_NOEXEC | MS_NODEV, 0555 },
	{ "/dev/pts", "/dev", "devpts", "mode=0620,ptmxmode=0666", MS_NOSUID | MS_NOEXEC, 0755 },
	{ "/dev/shm", "/dev", "tmpfs", "mode=1777", MS_NOSUID | MS_NODEV, 01777 },
	{ "/run", "/", "tmpfs", "mode=0755", MS_NOSUID | MS_NODEV, 0755 },
	{ "/tmp", "/", "tmpfs", "mode=1777", MS_NOSUID | MS_NODEV, 01777 },
	{ "/sys/fs/cgroup", "/sys/fs", "cgroup2", "", MS_NOSUID | MS_NOEXEC | MS_NODEV, 0 },
};

/*
 * Not left to EBUSY: the kernel gives that only for the same file system again, and puts a second
 * tmpfs over a first one without a word, which would hide what an earlier stage left in /run.
 */
static bool mounted(const struct mount_entry *e)
{
	struct stat dir, parent;

	return !stat(e->dir, &dir) && !stat(e->parent, &parent) && dir.st_dev != parent.st_dev;
}

static int mount_one(const struct mount_entry *e)
{
	/*
	 * A folder that the image lacks is made; on a read-only root that fails, and mount(2)
	 * tells.
	 */
	if (e->mode)
		mkdir(e->dir, e->mode);
	if (mounted(e))
		return 0;
	if (mount(e->type, e->dir, e->type, e->flags, *e->data ? e->data : NULL) && errno != EBUSY)
		return -errno;
	return 0;
}

int mounts_dev(void)
{
	return mount_one(&dev_entry);
}

void mounts_all(void)
{
	for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++) {
		const struct mount_entry *e = &entries[i];
		int err = mount_one(e);

		/* Without control groups all still works. */
		if (err && !e->mode)
			log_info("%s: cannot mount %s: %s", e->dir, e->type, errno_name(err));
		else if (err)
			log_warn("%s: cannot mount %s: %s: check that the kernel has it (%s)",
				 e->dir, e->type, errno_name(err), "/proc/filesystems");
	}
}

void mounts_unescape(char *path)
{
	char *to = path;

	while (*path) {
		if (path[0] == '\\' && path[1] >= '0' && path[1] <= '3' && path[2] >= '0' &&
		    path[2] <= '7' && path[3] >= '0' && path[3] <= '7') {
			*to++ = (path[1] - '0') << 6 | (path[2] - '0') << 3 | (path[3] - '0');
			path += 4;
		} else {
			*to++ = *path++;
		}
	}
	*to = '\0';
}

/* Nothing in these outlives the machine; and PID 1 holds files open in some. */
static bool of_the_kernel(const char *type)
{
	static const char types[][12] = {
		"bpf",	   "cgroup",	"cgroup2",     "configfs", "debugfs",
		"devpts",  "devtmpfs",	"mqueue",      "proc",	   "pstore",
		"ramfs",   "rootfs",	"securityfs",  "sysfs",	   "tmpfs",
		"tracefs", "hugetlbfs", "binfmt_misc", "fusectl",  "efivarfs",
	};

	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		if (!strcmp(type, types[i]))
			return true;
	}
	return false;
}

#define MAX_MOUNTS 256

struct mount_list {
	unsigned int nr;
	char *dir[MAX_MOUNTS];
};

struct lines {
	int fd;
	size_t at, len; /* of what is in buf, the part that was not given out yet */
	char buf[8192];
};

/* The next line without its newline, NULL at the end. One that has no room comes in pieces. */
static char *next_line(struct lines *l)
{
	char *line, *end;
	ssize_t n;

	for (;;) {
		line = l->buf + l->at;
		end = memchr(line, '\n', l->len);
		if (end)
			break;
		memmove(l->buf, line, l->len);
		l->at = 0;
		n = read(l->fd, l->buf + l->len, sizeof(l->buf) - 1 - l->len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			if (!l->len)
				return NULL;
			l->buf[l->len] = '\0';
			l->len = 0;
			return l->buf;
		}
		l->len += (size_t)n;
	}
	*end++ = '\0';
	l->at += (size_t)(end - line);
	l->len -= (size_t)(end - line);
	return line;
}

static void list_mounts(struct mount_list *list)
{
	struct lines lines = { .fd = open("/proc/self/mounts", O_RDONLY | O_CLOEXEC) };
	char *line, *dir, *type;

	list->nr = 0;
	if (lines.fd < 0) {
		log_err("/proc/self/mounts: %s: file systems stay mounted", errno_name(errno));
		return;
	}
	while (list->nr < MAX_MOUNTS && (line = next_line(&lines))) {
		strsep(&line, " "); /* the device */
		dir = strsep(&line, " ");
		type = strsep(&line, " ");
		if (!dir || !type || of_the_kernel(type))
			continue;
		mounts_unescape(dir);
		dir = strdup(dir);
		if (dir)
			list->dir[list->nr++] = dir;
	}
	close(lines.fd);
}

void mounts_teardown(void)
{
	struct mount_list list;

	sync();
	/* A second round catches what was busy because of a mount that the first one took away. */
	for (int round = 0; round < 2; round++) {
		list_mounts(&list);
		while (list.nr) {
			char *dir = list.dir[--list.nr];
			int err = 0;

			if (!strcmp(dir, "/") || umount2(dir, UMOUNT_NOFOLLOW))
				err = errno;
			if (err && round) {
				err = mount(NULL, dir, NULL, MS_REMOUNT | MS_RDONLY, NULL) ? errno
											   : 0;
				if (err)
					log_warn("%s: neither unmounted nor made read-only: %s",
						 dir, errno_name(err));
				else
					log_info("%s: read-only", dir);
			} else if (!err) {
				log_info("%s: unmounted", dir);
			}
			free(dir);
		}
	}
	sync();
}
