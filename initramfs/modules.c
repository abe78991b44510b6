/* SPDX-License-Identifier: MIT */
#include "initramfs/modules.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "initramfs/file.h"
#include "vm/log.h"

#define LIST_MAX 65536

static int load(const char *path, const char *params)
{
	int fd, err = 0;

	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	/* finit_module(2), which has no wrapper in musl. */
	if (syscall(SYS_finit_module, fd, params, 0))
		err = -errno;
	close(fd);
	return err;
}

static void load_line(const char *list, unsigned int line, char *text)
{
	char *params;
	int err;

	text += strspn(text, " \t\r");
	text[strcspn(text, "\r")] = '\0';
	if (!*text || *text == '#')
		return;
	if (*text != '/') {
		log_err("%s:%u: \"%s\": not an absolute path", list, line, text);
		return;
	}
	params = text + strcspn(text, " \t");
	if (*params)
		*params++ = '\0';
	params += strspn(params, " \t");
	err = load(text, params);
	switch (err) {
	case 0:
	case -EEXIST:
		log_debug("%s: loaded", text);
		break;
	case -ENODEV:
	case -EOPNOTSUPP:
		/* A list serves many machines: kvm_intel refuses an AMD processor like this. */
		log_debug("%s: not for this machine: %s", text, errno_name(err));
		break;
	case -ENOENT:
		log_warn("%s: not loaded: %s: no such file, or a symbol of a module that must come before it",
			 text, errno_name(err));
		break;
	case -ENOEXEC:
		log_warn("%s: not loaded: %s: check that it was built for this kernel and is not compressed",
			 text, errno_name(err));
		break;
	default:
		log_warn("%s: not loaded: %s", text, errno_name(err));
	}
}

void modules_load(const char *list)
{
	unsigned int line = 0;
	char *buf, *rest, *text;
	ssize_t len;

	buf = malloc(LIST_MAX);
	if (!buf) {
		log_err("%s: no memory to read it", list);
		return;
	}
	len = file_read(list, buf, LIST_MAX);
	if (len == -ENOENT)
		log_debug("%s: no list of modules", list);
	else if (len < 0)
		log_err("%s: cannot read it: %s", list, errno_name(len));
	rest = len > 0 ? buf : NULL;
	while ((text = strsep(&rest, "\n")))
		load_line(list, ++line, text);
	free(buf);
}
