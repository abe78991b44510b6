/* SPDX-License-Identifier: MIT */
#include "vm/bootfile.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "vm/log.h"
#include "vm/memory.h"

int bootfile_open(struct bootfile *file, const char *what, const char *path)
{
	struct stat st;
	int err, fd;

	/* A FIFO or device must neither block here nor be read from. */
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0) {
		err = -errno;
		log_err("%s %s: open: %s: check the path and its permissions", what, path,
			errno_name(err));
		return err;
	}
	if (fstat(fd, &st) < 0) {
		err = -errno;
		log_err("%s %s: fstat: %s", what, path, errno_name(err));
		goto close_fd;
	}
	if (!S_ISREG(st.st_mode)) {
		err = S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;
		log_err("%s %s: %s: it is not a regular file", what, path, errno_name(err));
		goto close_fd;
	}
	if (st.st_size <= 0) {
		err = -ENODATA;
		log_err("%s %s: %s: the file is empty", what, path, errno_name(err));
		goto close_fd;
	}
	file->what = what;
	file->path = path;
	file->fd = fd;
	file->size = st.st_size;
	return 0;

close_fd:
	close(fd);
	return err;
}

void bootfile_close(struct bootfile *file)
{
	if (file->fd >= 0)
		close(file->fd);
	file->fd = -1;
}

int bootfile_read(const struct bootfile *file, uint64_t offset, void *buf, uint64_t len)
{
	uint8_t *p = buf;
	ssize_t n;
	int err;

	while (len) {
		/* One pread() moves less than 2 GiB. */
		n = pread(file->fd, p, len < (1u << 30) ? len : (1u << 30), offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			err = -errno;
			log_err("%s %s: pread at %#" PRIx64 ": %s", file->what, file->path, offset,
				errno_name(err));
			return err;
		}
		if (!n) {
			log_err("%s %s: EIO: the file ended at %#" PRIx64 ", it had %#" PRIx64
				" bytes when it was opened: is it still being written?",
				file->what, file->path, offset, file->size);
			return -EIO;
		}
		p += n;
		offset += n;
		len -= n;
	}
	return 0;
}

int bootfile_load(const struct bootfile *file, struct memory *mem, uint64_t offset, uint64_t gpa,
		  uint64_t len)
{
	void *p;

	if (!len)
		return 0;
	p = memory_ptr(mem, gpa, len);
	if (!p)
		return -EFAULT;
	return bootfile_read(file, offset, p, len);
}

int bootfile_bad(const struct bootfile *file, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	log_err("%s %s: ENOEXEC: %s", file->what, file->path, text);
	return -ENOEXEC;
}

/* What has a magic further in comes first: an EFI stub makes all of them start with MZ. */
#define PACKED " data: unpack it first"
#define KINDS(X)										   \
	X(0x38, "ARM\x64", "a kernel Image for arm64")						   \
	X(0x38, "RSC\x05", "a kernel Image for RISC-V")						   \
	X(0x202, "HdrS", "the setup header of a kernel for x86 (bzImage)")			   \
	X(4, "zimg", "an EFI zboot image, which unpacks itself with the help of a firmware: "	   \
		     "take the Image or Image.gz of the same build")				   \
	X(0, "\177ELF", "an ELF file: if it is a vmlinux, take the Image that was made of it")	   \
	X(0, "\x1f\x8b", "gzip" PACKED)								   \
	X(0, "\xfd\x37zXZ", "xz" PACKED)							   \
	X(0, "\x28\xb5\x2f\xfd", "zstd" PACKED)							   \
	X(0, "\x02\x21\x4c\x18", "lz4" PACKED)							   \
	X(0, "\x04\x22\x4d\x18", "lz4" PACKED)							   \
	X(0, "BZh", "bzip2" PACKED)								   \
	X(0, "\x27\x05\x19\x56", "a U-Boot image: take the kernel out of it")			   \
	X(0, "\xd0\x0d\xfe\xed", "a device tree or FIT image")					   \
	X(0, "070701", "a cpio archive: is this the initrd?")					   \
	X(0, "!<arch", "an archive: a Debian package?")						   \
	X(0, "MZ", "an EFI program: if it is a unified kernel image, take its .linux section "	   \
		   "out (objcopy)")
#define MAGIC(offset, magic, text) { offset, sizeof(magic) - 1, magic },
#define TEXT(offset, magic, text)  text "\0"

const char *bootfile_kind(const void *head, size_t len)
{
	static const struct {
		uint16_t offset;
		uint8_t len;
		char magic[7];
	} kinds[] = { KINDS(MAGIC) };
	const char *p = head, *text = KINDS(TEXT);

	for (unsigned int i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (len >= kinds[i].offset + kinds[i].len &&
		    !memcmp(p + kinds[i].offset, kinds[i].magic, kinds[i].len))
			return text;
		text += strlen(text) + 1;
	}
	return NULL;
}
