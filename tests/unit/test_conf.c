/* SPDX-License-Identifier: MIT */
#include "tests/unit/test.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "cmd/config.h"
#include "vm/conf.h"
#include "vm/kvm.h"
#include "vm/log.h"

/* What vm/memory.o links to and this test never reaches. */
int kvm_ioctl_named(int fd, unsigned long request, const char *name, void *arg)
{
	(void)fd, (void)request, (void)name, (void)arg;
	return -ENOSYS;
}

/* What the callback saw, as one text; the log goes to a file that is read back. */
static char seen[8192];
static int fail_at_line;
static char log_text[8192];

static int note(void *opaque, const struct conf_line *at)
{
	size_t len = strlen(seen);

	CHECK(opaque == &seen);
	snprintf(seen + len, sizeof(seen) - len, at->key ? "%u:%s#%u:%s=%.40s;" : "%u:%s#%u;",
		 at->line, at->section, at->section_nr, at->key, at->value);
	return (int)at->line == fail_at_line ? -EBUSY : 0;
}

/* Parses a copy that ends where its memory ends, so that ASan sees a byte too far. */
static int parse(const char *text, size_t len)
{
	char path[] = "/tmp/test_conf.XXXXXX";
	int fd = mkstemp(path), err;
	char *copy = malloc(len ? len : 1);
	ssize_t n;

	unlink(path);
	memcpy(copy, text, len);
	*seen = '\0';
	log_set_fd(fd, false);
	err = conf_parse("f", copy, len, note, seen);
	log_set_fd(2, false);
	n = pread(fd, log_text, sizeof(log_text) - 1, 0);
	log_text[n > 0 ? n : 0] = '\0';
	close(fd);
	free(copy);
	return err;
}

static void good(void)
{
	static const struct {
		const char *text, *seen;
	} row[] = {
		{ "", "" },
		{ "\n\n", "" },
		{ "# only\n\t # comments = 1", "" },
		{ "a=1", "1:#0:a=1;" },
		{ "a = 1\n", "1:#0:a=1;" },
		{ " a\t=\tb c \r\n", "1:#0:a=b c;" },
		{ "a=\nb=", "1:#0:a=;2:#0:b=;" },
		{ "a=b=c", "1:#0:a=b=c;" },
		{ "a=x # no comment", "1:#0:a=x # no comment;" },
		{ "a=[x]", "1:#0:a=[x];" },
		{ "[disk]\npath=1\n[disk]\n[ net ]\nx=y",
		  "1:disk#1;2:disk#1:path=1;3:disk#2;4:net#3;5:net#3:x=y;" },
		{ "a b = c", "1:#0:a b=c;" },
		{ "\xff=\xfe", "1:#0:\xff=\xfe;" },
	};

	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		CHECK_EQ(parse(row[i].text, strlen(row[i].text)), 0);
		CHECK_STR(seen, row[i].seen);
		CHECK_STR(log_text, "");
	}
}

static void bad(void)
{
	static const struct {
		const char *text;
		size_t len;
		const char *seen, *log;
	} row[] = {
#define ROW(t, s, l) { t, sizeof(t) - 1, s, l }
		ROW("a=1\nword\nb=2", "1:#0:a=1;", "f:2: \"word\""),
		ROW("\n = 1", "", "f:2: there is no key"),
		ROW("=", "", "f:1: there is no key"),
		ROW("[", "", "f:1: "),
		ROW("[]", "", "f:1: a section's name"),
		ROW("[ ]", "", "f:1: a section's name"),
		ROW("[a", "", "f:1: "),
		ROW("[a]b", "", "f:1: "),
		ROW("[a]b]", "", "f:1: a section's name"),
		ROW("[[a]]", "", "f:1: a section's name"),
		ROW("a=1\nb=\0\n", "1:#0:a=1;", "f:2: a NUL"),
		ROW("#\0", "", "f:1: a NUL"),
#undef ROW
	};

	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		CHECK_EQ(parse(row[i].text, row[i].len), -EINVAL);
		CHECK_STR(seen, row[i].seen);
		CHECK(strstr(log_text, row[i].log));
	}
}

static void long_lines(void)
{
	static char text[3 * 4096];

	memset(text, 'x', sizeof(text));
	memcpy(text, "a=", 2);
	CHECK_EQ(parse(text, 4095), 0);
	CHECK_EQ(parse(text, 4096), -EINVAL);
	CHECK(strstr(log_text, "f:1: the line has 4096 bytes, 4095 are the limit"));
	text[4095] = '\n';
	CHECK_EQ(parse(text, 4096), 0);
	/* A section of that length fits, and a key after it. */
	memset(text, 'x', sizeof(text));
	text[0] = '[';
	text[4094] = ']';
	memcpy(text + 4095, "\nk=v", 4);
	CHECK_EQ(parse(text, 4099), 0);
	CHECK(strlen(seen) > 4095);
	/* As a comment it is too long, too: it may be a key with a "#" that went astray. */
	memset(text, '#', sizeof(text));
	CHECK_EQ(parse(text, sizeof(text)), -EINVAL);
}

static void stops_at_callback(void)
{
	fail_at_line = 2;
	CHECK_EQ(parse("a=1\nb=2\nc=3", 11), -EBUSY);
	CHECK_STR(seen, "1:#0:a=1;2:#0:b=2;");
	CHECK_EQ(parse("a=1\n[b]\nc=3", 11), -EBUSY);
	CHECK_STR(seen, "1:#0:a=1;2:b#1;");
	fail_at_line = 0;
}

static void files(void)
{
	char dir[] = "/tmp/test_conf.XXXXXX", path[64];
	static char big[CONF_MAX_SIZE + 1];
	int fd, null = open("/dev/null", O_WRONLY);

	CHECK(mkdtemp(dir));
	log_set_fd(null, false);
	CHECK_EQ(conf_read(dir, note, seen), -EINVAL);
	snprintf(path, sizeof(path), "%s/f", dir);
	CHECK_EQ(conf_read(path, note, seen), -ENOENT);
	/* A FIFO must not make the reader wait. */
	CHECK_EQ(mkfifo(path, 0600), 0);
	alarm(5);
	CHECK_EQ(conf_read(path, note, seen), -EINVAL);
	alarm(0);
	unlink(path);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	*seen = '\0';
	CHECK_EQ(conf_read(path, note, seen), 0);
	CHECK_EQ(write(fd, "[s]\na=b", 7), 7);
	CHECK_EQ(conf_read(path, note, seen), 0);
	CHECK_STR(seen, "1:s#1;2:s#1:a=b;");
	memset(big, '\n', sizeof(big));
	CHECK_EQ(pwrite(fd, big, CONF_MAX_SIZE, 0), CONF_MAX_SIZE);
	CHECK_EQ(conf_read(path, note, seen), 0);
	CHECK_EQ(pwrite(fd, big, CONF_MAX_SIZE + 1, 0), CONF_MAX_SIZE + 1);
	CHECK_EQ(conf_read(path, note, seen), -EFBIG);
	log_set_fd(2, false);
	close(fd);
	close(null);
	unlink(path);
	rmdir(dir);
}

static void values(void)
{
	static const char *const yes[] = { "yes", "on", "true", "1" };
	static const char *const no[] = { "no", "off", "false", "0" };
	static const char *const not_bool[] = { "", "y", "Yes", "yes ", "2", "00", "enabled" };
	static const char *const not_number[] = { "",
						  "-1",
						  "+1",
						  " 1",
						  "1 ",
						  "0x1",
						  "1k",
						  "1.0",
						  "18446744073709551616",
						  "99999999999999999999" };
	unsigned long n;
	bool b;

	for (int i = 0; i < 4; i++) {
		b = false;
		CHECK_EQ(conf_bool(yes[i], &b), 0);
		CHECK(b);
		CHECK_EQ(conf_bool(no[i], &b), 0);
		CHECK(!b);
	}
	for (size_t i = 0; i < sizeof(not_bool) / sizeof(not_bool[0]); i++)
		CHECK_EQ(conf_bool(not_bool[i], &b), -EINVAL);
	n = 77;
	for (size_t i = 0; i < sizeof(not_number) / sizeof(not_number[0]); i++)
		CHECK_EQ(conf_number(not_number[i], 0, ULONG_MAX, &n), -EINVAL);
	CHECK_EQ(n, 77);
	CHECK_EQ(conf_number("007", 0, 7, &n), 0);
	CHECK_EQ(n, 7);
	CHECK_EQ(conf_number("8", 0, 7, &n), -EINVAL);
	CHECK_EQ(conf_number("2", 3, 7, &n), -EINVAL);
	CHECK_EQ(conf_number("3", 3, 7, &n), 0);
	CHECK_EQ(conf_number("18446744073709551615", 0, ULONG_MAX, &n),
		 sizeof(long) == 8 ? 0 : -EINVAL);
}

static void names(void)
{
	static const char *const yes[] = { "a", "web-1", "Web_1.prod", "_", "0", "a.", "a-" };
	static const char *const no[] = { "",	 ".",	"-",	".a",	"-a",	"a b",	 "a/b",
					  "a+b", "a\n", "\xc3\xa4", "a\x7f", "a,b", "a=b", "a:b" };
	char text[80];

	for (size_t i = 0; i < sizeof(yes) / sizeof(yes[0]); i++)
		CHECK_EQ(conf_name(yes[i]), 0);
	for (size_t i = 0; i < sizeof(no) / sizeof(no[0]); i++)
		CHECK_EQ(conf_name(no[i]), -EINVAL);
	memset(text, 'x', sizeof(text));
	text[63] = '\0';
	CHECK_EQ(conf_name(text), 0);
	text[63] = 'x';
	text[64] = '\0';
	CHECK_EQ(conf_name(text), -EINVAL);
}

/*
 * --- what run makes of it ----------------------------------------------------------------------
 */

static struct guest_config guest;

/* Reads @text as a guest's file, or @argv where there is one. */
static int run_config(const char *text, int argc, char **argv)
{
	char path[] = "/tmp/test_conf.XXXXXX", log[] = "/tmp/test_conf.XXXXXX";
	int fd = mkstemp(path), log_fd = mkstemp(log), err;
	ssize_t n;

	unlink(log);
	CHECK_EQ(write(fd, text, strlen(text)), strlen(text));
	close(fd);
	config_free(&guest);
	config_init(&guest);
	log_set_fd(log_fd, false);
	err = argv ? config_args(&guest, argc, argv) : config_file(&guest, path);
	log_set_fd(2, false);
	n = pread(log_fd, log_text, sizeof(log_text) - 1, 0);
	log_text[n > 0 ? n : 0] = '\0';
	close(log_fd);
	unlink(path);
	return err;
}

/* Only disks are many: a second section of another kind would mix with the first. */
static void run_sections(void)
{
	static const struct {
		const char *text, *log;
	} row[] = {
		{ "[guest]\ncpus = 2\n[disk]\npath = a\n[disk]\npath = b\n[vsock]\ncid = 3\n", NULL },
		{ "[supervise]\n[guest]\n[supervise]\n", NULL },
		{ "[vsock]\ncid = 3\n\n[vsock]\ncid = 4\n", ":4: [vsock]: it is there already" },
		{ "[vsock]\n[vsock]\n", ":2: [vsock]: it is there already" },
		{ "[guest]\n[disk]\npath = a\n[guest]\ncpus = 2\n", ":4: [guest]: it is there already" },
		{ "[gast]\n", ":1: unknown section [gast]" },
	};

	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		CHECK_EQ(run_config(row[i].text, 0, NULL), row[i].log ? -EINVAL : 0);
		if (row[i].log)
			CHECK(strstr(log_text, row[i].log));
		else
			CHECK_STR(log_text, "");
	}
	CHECK_EQ(run_config(row[0].text, 0, NULL), 0);
	CHECK_EQ(guest.nr_disks, 2);
	CHECK_STR(guest.disk[1].path, "b");
	CHECK_EQ(guest.vsock_cid, 3);
	/* Options may repeat: the later one wins. */
	CHECK_EQ(run_config("", 4, (char *[]){ "--vsock", "cid=3", "--vsock", "cid=4" }), 0);
	CHECK_EQ(guest.vsock_cid, 4);
}

static void run_disks(void)
{
	char *argv[2 * (ARCH_MAX_VIRTIO + 1)];

	for (int i = 0; i < ARCH_MAX_VIRTIO + 1; i++) {
		argv[2 * i] = "--disk";
		argv[2 * i + 1] = "path=x";
	}
	CHECK_EQ(run_config("", 2 * ARCH_MAX_VIRTIO, argv), 0);
	CHECK_EQ(guest.nr_disks, ARCH_MAX_VIRTIO);
	CHECK_EQ(run_config("", 2 * (ARCH_MAX_VIRTIO + 1), argv), -EINVAL);
	CHECK(strstr(log_text, "32 virtio devices"));
}

static void run_nets(void)
{
	static const struct {
		char *value;
		const char *log;
	} bad[] = {
		{ "tap=a,bridge=b", "one of tap, bridge and passt" },
		{ "tap=a,passt=b", "one of tap, bridge and passt" },
		{ "tap=", "a path is missing" },
		{ "tap=a,mac=2:0:0:0:0:1", "a MAC address" },
		{ "tap=a,mac=02:00:00:00:00:0g", "a MAC address" },
		{ "tap=a,mac=02:00:00:00:00: 1", "a MAC address" },
		{ "tap=a,mac=02:00:00:00:00:+1", "a MAC address" },
		{ "tap=a,mac=02-00-00-00-00-01", "a MAC address" },
		{ "tap=a,mac=02:00:00:00:00:011", "a MAC address" },
		{ "tap=a,mac=00:00:00:00:00:00", "a MAC address" },
		{ "tap=a,mac=ff:ff:ff:ff:ff:ff", "a MAC address" },
		{ "tap=a,queues=0", "1 to 4" },
		{ "tap=a,queues=5", "1 to 4" },
		{ "tap=a,mtu=67", "68 to 65535" },
		{ "tap=a,mtu=65536", "68 to 65535" },
		{ "tap=a,vhost=x", "yes, no or auto" },
		{ "tap=a,id=123456789012345678901", "at most 20 bytes" },
		{ "tap=a,b", "\"b\": unknown word" },
		{ "vt0", "--net vt0: is it tap=vt0? `vinit run --help` lists the words" },
		{ "tap", "a value is missing" },
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		CHECK_EQ(run_config("", 2, (char *[]){ "--net", bad[i].value }), -EINVAL);
		CHECK(strstr(log_text, bad[i].log));
	}
	CHECK_EQ(run_config("[guest]\nkernel = k\n[net]\ntap = t\nmac = 02:00:5e:10:FF:0a\n[net]\n"
			    "bridge = br0\nqueues = 4\nmtu = 9000\nvhost = no\nid = lan\n", 0, NULL), 0);
	CHECK_EQ(guest.nr_nics, 2);
	CHECK(guest.nic[0].kind == NET_TAP && guest.nic[0].has_mac && !guest.nic[0].vhost);
	CHECK(!memcmp(guest.nic[0].mac, "\2\0\x5e\x10\xff\xa", 6));
	CHECK(guest.nic[1].kind == NET_BRIDGE && guest.nic[1].queues == 4 && guest.nic[1].mtu == 9000);
	CHECK(guest.nic[1].vhost == NET_VHOST_NO && !guest.nic[1].has_mac);
	CHECK_STR(guest.nic[1].id, "lan");
	CHECK_EQ(config_check(&guest), 0);
	CHECK_EQ(run_config("", 5, (char *[]){ "--kernel=k", "--net", "passt=/p,,q", "--net",
					       "tap=x,vhost" }), 0);
	CHECK_EQ(guest.nr_nics, 2);
	CHECK_EQ(guest.nic[0].kind, NET_PASST);
	CHECK_STR(guest.nic[0].peer, "/p,q");
	CHECK_EQ(guest.nic[1].vhost, NET_VHOST_YES);
	CHECK_EQ(config_check(&guest), 0);
	CHECK_EQ(run_config("", 3, (char *[]){ "--kernel=k", "--net", "passt=/p,queues=2" }), 0);
	CHECK_EQ(config_check(&guest), -EINVAL);
	CHECK_EQ(run_config("", 3, (char *[]){ "--kernel=k", "--net", "passt=/p,vhost=yes" }), 0);
	CHECK_EQ(config_check(&guest), -EINVAL);
	CHECK_EQ(run_config("", 3, (char *[]){ "--kernel=k", "--net", "passt=/p,vhost=no" }), 0);
	CHECK_EQ(config_check(&guest), 0);
	CHECK_EQ(run_config("[guest]\nkernel = k\n[net]\nmtu = 1500\n", 0, NULL), 0);
	CHECK_EQ(config_check(&guest), -EINVAL);
}

/* A key that takes fixed words names them all when it gets another. */
static void run_words(void)
{
	static const struct {
		char *option, *value;
		const char *words;
	} row[] = {
		{ "--console", "tty", "stdio, null, pty, file=PATH or unix=PATH is expected" },
		{ "--virtio-console", "", "stdio, null, pty, file=PATH or unix=PATH is expected" },
		{ "--on-reset", "stop", "restart or exit is expected" },
		{ "--log-level", "all", "error, warn, info or debug is expected" },
		{ "--rng=maybe", NULL, "yes or no is expected" },
		{ "--cmdline-only=2", NULL, "yes or no is expected" },
		{ "--supervised=x", NULL, "yes or no is expected" },
		{ "--disk", "path=a,readonly=x", "yes or no is expected" },
		{ "--vsock", "cid=3,backend=user", "vhost is the only back end" },
		{ "--memory", "16M,hugepage", "only \"hugepages\" may follow" },
		{ "--name", "a b", CONF_NAME_RULE },
		{ "--name", "-a", CONF_NAME_RULE },
		{ "--kernel", "--disk", "--kernel: a value is missing before --disk" },
		{ "--initrd", NULL, "--initrd: a value is missing" },
	};

	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		char *argv[] = { row[i].option, row[i].value };

		CHECK_EQ(run_config("", row[i].value ? 2 : 1, argv), -EINVAL);
		CHECK(strstr(log_text, row[i].words));
	}
	CHECK_EQ(run_config("", 3, (char *[]){ "--kernel=--k", "--cmdline", "-- single" }), 0);
	CHECK_STR(guest.kernel, "--k");
	CHECK_STR(guest.cmdline, "-- single");
	config_free(&guest);
}

/* Each by its own name, beside the C library's list; what has none is told from "no error". */
static void errno_names(void)
{
	int named = 0;

	for (int i = 1; i < 200; i++) {
		const char *name = errno_name(i), *theirs = strerrorname_np(i);

		CHECK_STR(errno_name(-i), name);
		if (*name != 'E') {
			CHECK_STR(name, "an errno without a name here");
			continue;
		}
		named++;
		CHECK_STR(name, theirs ? theirs : "nothing");
	}
	CHECK(named > 70);
	CHECK_STR(errno_name(ENOENT), "ENOENT");
	CHECK_STR(errno_name(EKEYREJECTED), "EKEYREJECTED");
	CHECK_STR(errno_name(0), "no error");
}

int main(void)
{
	RUN(good);
	RUN(bad);
	RUN(long_lines);
	RUN(stops_at_callback);
	RUN(files);
	RUN(errno_names);
	RUN(values);
	RUN(names);
	RUN(run_sections);
	RUN(run_disks);
	RUN(run_nets);
	RUN(run_words);
	return TEST_RESULT();
}
