/* SPDX-License-Identifier: MIT */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>
#include "arch/arch.h"
#include "cmd/cmd.h"
#include "initramfs/init.h"
#include "vm/log.h"

static const char help[] =
	"usage: vinit run [OPTION...]   boot one guest, in the foreground\n"
	"       vinit snapshot merge BASE DIFF   a diff into the snapshot that it follows\n"
	"       vinit ctl VERB          talk to a guest that runs with --api-sock\n"
	"       vinit check             what this host can do for guests\n"
	"       vinit version\n"
	"       vinit help [VERB]\n"
	"\n"
	"`vinit help run` lists the options. As PID 1 of an initramfs, vinit is the init of an appliance:\n"
	"it sets up the machine and runs the guests of /etc/vinit/guests.d.\n";

static int call(int argc, char **argv);

static int cmd_help(int argc, char **argv)
{
	if (argc && *argv[0] != '-')
		return call(2, (char *[]){ argv[0], "--help" });
	dprintf(STDOUT_FILENO, "%s", help); /* of printf() the compiler makes a copy of it */
	return 0;
}

static int cmd_version(int argc, char **argv)
{
	if (argc)
		return cmd_help(argc, argv);
	printf("vinit " VINIT_VERSION " (%s)\n", arch_name);
	return 0;
}

/* Reached only by a process that is not the first: main() has no words to read there. */
static int cmd_init(int argc, char **argv)
{
	log_err("init: vinit is the init of an appliance when it is process 1: put it into an initramfs as /init");
	return EXIT_USAGE;
}

static const struct verb {
	char name[10];
	int (*run)(int argc, char **argv);
} verbs[] = {
	{ "run", cmd_run },	      { "snapshot", cmd_snapshot },   { "init", cmd_init },
	{ "check", cmd_check },	      { "version", cmd_version },     { "--version", cmd_version },
	{ "help", cmd_help },	      { "--help", cmd_help },	      { "-h", cmd_help },
#if CONFIG_API
	{ "ctl", cmd_ctl },
#endif
};

static int call(int argc, char **argv)
{
	for (unsigned int i = 0; i < sizeof(verbs) / sizeof(*verbs); i++) {
		if (!strcmp(argv[0], verbs[i].name))
			return verbs[i].run(argc - 1, argv + 1);
	}
	log_err("unknown verb \"%s\"; `vinit help` lists them", argv[0]);
	return EXIT_USAGE;
}

/*
 * A caller may have closed 0, 1 or 2. Left so, the next file opened, a disk say, would be where
 * messages go.
 */
static void open_std_fds(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd > STDERR_FILENO)
		close(fd);
}

extern const Elf64_Dyn _DYNAMIC[] __attribute__((visibility("hidden")));

/*
 * Makes read-only what is constant after relocation (PT_GNU_RELRO). It is the dynamic loader's task,
 * and a static binary has none; musl's start code leaves it undone. Whole pages of it: where the
 * host's are larger than the linker's, the rest stays writable.
 */
static void protect_relro(void)
{
	const Elf64_Phdr *phdr = (const Elf64_Phdr *)getauxval(AT_PHDR);
	unsigned long nr = phdr ? getauxval(AT_PHNUM) : 0;
	uintptr_t page = getauxval(AT_PAGESZ), base = 0, start = 0, end = 0;

	for (unsigned long i = 0; i < nr; i++) {
		if (phdr[i].p_type == PT_DYNAMIC)
			base = (uintptr_t)_DYNAMIC - phdr[i].p_vaddr;
		if (phdr[i].p_type == PT_GNU_RELRO) {
			start = phdr[i].p_vaddr;
			end = start + phdr[i].p_memsz;
		}
	}
	start = (base + start) & -page;
	end = (base + end) & -page;
	if (start < end && mprotect((void *)start, end - start, PROT_READ) < 0)
		log_warn("relocated data stays writable: mprotect: %s", errno_name(errno));
}

int main(int argc, char **argv)
{
	protect_relro();
#if CONFIG_INIT
	if (getpid() == 1)
		init_main(argc, argv);
#endif
	open_std_fds();
	if (argc < 2) {
		dprintf(STDERR_FILENO, "%s", help);
		return EXIT_USAGE;
	}
	return call(argc - 1, argv + 1);
}
