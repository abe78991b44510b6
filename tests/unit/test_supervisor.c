/* SPDX-License-Identifier: MIT */
/* What PID 1 decides and what it reads, without a PID 1. */
#include "tests/unit/test.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/genetlink.h>
#include <linux/input.h>
#include <linux/netlink.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>
#include "cmd/pace.h"
#include "initramfs/button.h"
#include "initramfs/config.h"
#include "initramfs/guest.h"
#include "initramfs/mounts.h"
#include "initramfs/policy.h"
#include "initramfs/shutdown.h"
#include "vm/conf.h"
#include "vm/log.h"

#define EXIT(n) ((n) << 8)
#define SIG(n)	(n)
#define NR(a)	(sizeof(a) / sizeof((a)[0]))

/* Runs the statement with the log in log_text. */
static char log_text[4096];
static int log_fd;

static void log_begin(void)
{
	char path[] = "/tmp/test_supervisor.XXXXXX";

	log_fd = mkstemp(path);
	unlink(path);
	log_set_fd(log_fd, false);
}

static void log_end(void)
{
	ssize_t n = pread(log_fd, log_text, sizeof(log_text) - 1, 0);

	log_text[n > 0 ? n : 0] = '\0';
	log_set_fd(2, false);
	close(log_fd);
}

/*
 * --- policy ------------------------------------------------------------------------------------
 */

static void ends(void)
{
	static const struct {
		int wstatus;
		enum policy_end end;
		const char *words;
	} row[] = {
		{ EXIT(0), POLICY_POWEROFF, "powered off (status 0)" },
		{ EXIT(1), POLICY_FAILURE, "failed (status 1)" },
		{ EXIT(2), POLICY_USAGE, "bad usage or configuration (status 2)" },
		{ EXIT(3), POLICY_RESET, "reset (status 3)" },
		{ EXIT(4), POLICY_CRASH, "crashed (status 4)" },
		{ EXIT(5), POLICY_STOP, "ended from outside (status 5)" },
		{ EXIT(6), POLICY_FAILURE, "failed (status 6)" },
		{ EXIT(127), POLICY_FAILURE, "failed (status 127)" },
		{ EXIT(255), POLICY_FAILURE, "failed (status 255)" },
		{ SIG(9), POLICY_FAILURE, "killed by signal 9 (SIGKILL)" },
		{ SIG(11), POLICY_FAILURE, "killed by signal 11 (SIGSEGV)" },
		{ SIG(31) | 0x80, POLICY_FAILURE, "killed by signal 31 (SIGSYS)" },
		{ SIG(64), POLICY_FAILURE, "killed by signal 64 (SIGRT)" },
	};
	char buf[96];

	for (size_t i = 0; i < NR(row); i++) {
		CHECK_EQ(policy_end_of(row[i].wstatus), row[i].end);
		policy_describe(row[i].wstatus, buf, sizeof(buf));
		CHECK_STR(buf, row[i].words);
	}
}

static void defaults(void)
{
	struct policy_history history = { 0 };
	struct policy policy;

	policy_defaults(&policy);
	CHECK(policy.autostart);
	CHECK_EQ(policy_decide(&policy, &history, POLICY_POWEROFF, 0).action, ACTION_STOP);
	CHECK_EQ(policy_decide(&policy, &history, POLICY_STOP, 0).action, ACTION_STOP);
	CHECK_EQ(history.restarts, 0);
	CHECK_EQ(policy_decide(&policy, &history, POLICY_RESET, 0).action, ACTION_RESTART);
	CHECK_EQ(policy_decide(&policy, &history, POLICY_CRASH, 0).action, ACTION_RESTART);
	CHECK_EQ(policy_decide(&policy, &history, POLICY_FAILURE, 0).action, ACTION_RESTART);
	CHECK_EQ(history.restarts, 3);
}

static void schedule(void)
{
	static const unsigned int seconds[] = { 1, 2, 4, 8, 16, 30, 30, 30, 30, 30 };
	struct policy_history history = { 0 };
	struct policy_verdict verdict;
	struct policy policy;

	policy_defaults(&policy);
	for (size_t i = 0; i < NR(seconds); i++) {
		verdict = policy_decide(&policy, &history, POLICY_CRASH, 59999);
		CHECK_EQ(verdict.action, ACTION_RESTART);
		CHECK_EQ(verdict.delay_ms, seconds[i] * 1000);
		CHECK(!verdict.limit);
	}
	verdict = policy_decide(&policy, &history, POLICY_CRASH, 59999);
	CHECK_EQ(verdict.action, ACTION_STOP);
	CHECK(verdict.limit);
	/* A run as long as the window forgets all that. */
	verdict = policy_decide(&policy, &history, POLICY_CRASH, 60000);
	CHECK_EQ(verdict.action, ACTION_RESTART);
	CHECK_EQ(verdict.delay_ms, 1000);
	CHECK_EQ(history.restarts, 1);
	/* Without a limit it goes on at the longest delay, for ever. */
	policy.limit = 0;
	history.restarts = 0xfffffffe;
	verdict = policy_decide(&policy, &history, POLICY_CRASH, 0);
	CHECK_EQ(verdict.delay_ms, 30000);
	/* A first delay over the bound stays. */
	policy.delay_s = 100;
	for (int i = 0; i < 5; i++)
		CHECK_EQ(policy_decide(&policy, &history, POLICY_CRASH, 0).delay_ms, 100000);
	policy.delay_s = 7;
	history.restarts = 0;
	CHECK_EQ(policy_decide(&policy, &history, POLICY_CRASH, 0).delay_ms, 7000);
	CHECK_EQ(policy_decide(&policy, &history, POLICY_CRASH, 0).delay_ms, 14000);
	CHECK_EQ(policy_decide(&policy, &history, POLICY_CRASH, 0).delay_ms, 28000);
	CHECK_EQ(policy_decide(&policy, &history, POLICY_CRASH, 0).delay_ms, 30000);
}

static int policy_only(void *opaque, const struct conf_line *line)
{
	CHECK_EQ(policy_line(opaque, line), !strcmp(line->section, "supervise"));
	return 0;
}

static void supervise_section(void)
{
	static const char text[] =
		"[guest]\nautostart = no\n[supervise]\nautostart=off\non-poweroff=restart\n"
		"on-reset=poweroff\non-crash=reboot\non-failure=halt\non-stop=rescue\n"
		"on-limit=rescue\nrestart-delay=5\nrestart-limit=0\nrestart-window=3600\n";
	static const char bad[] =
		"[supervise]\nautostart=maybe\non-poweroff=none\non-crash=\nrestart-delay=0\n"
		"restart-limit=-1\nrestart-window=0\non-limit=restart\nnonsense=1\n"
		"on-reset=stop\n";
	struct policy policy, want;

	policy_defaults(&policy);
	CHECK_EQ(conf_parse("f", text, sizeof(text) - 1, policy_only, &policy), 0);
	CHECK(!policy.autostart);
	CHECK_EQ(policy.on[POLICY_POWEROFF], ACTION_RESTART);
	CHECK_EQ(policy.on[POLICY_RESET], ACTION_POWEROFF);
	CHECK_EQ(policy.on[POLICY_CRASH], ACTION_REBOOT);
	CHECK_EQ(policy.on[POLICY_FAILURE], ACTION_HALT);
	CHECK_EQ(policy.on[POLICY_STOP], ACTION_RESCUE);
	CHECK_EQ(policy.on_limit, ACTION_RESCUE);
	CHECK_EQ(policy.delay_s, 5);
	CHECK_EQ(policy.limit, 0);
	CHECK_EQ(policy.window_s, 3600);

	/* Each bad line is named and changes nothing; the good one after them counts. */
	policy_defaults(&policy);
	policy_defaults(&want);
	want.on[POLICY_RESET] = ACTION_STOP;
	log_begin();
	CHECK_EQ(conf_parse("f", bad, sizeof(bad) - 1, policy_only, &policy), 0);
	log_end();
	CHECK(!memcmp(policy.on, want.on, sizeof(want.on)) && policy.autostart == want.autostart &&
	      policy.on_limit == want.on_limit && policy.delay_s == want.delay_s &&
	      policy.limit == want.limit && policy.window_s == want.window_s);
	for (int line = 2; line <= 9; line++) {
		char where[16];

		snprintf(where, sizeof(where), "f:%d: ", line);
		CHECK(strstr(log_text, where));
	}
	CHECK(!strstr(log_text, "f:10: "));
}

/* Why each is refused: the words that it would have taken. */
static void supervise_words(void)
{
	static const char bad[] = "[supervise]\non-crash=explode\non-limit=restart\nautostart=x\n"
				  "restart-delay=0\nrestart-limit=x\nrestart-window=0\n";
	static const char *const want[] = {
		"f:2: on-crash = \"explode\": stop, restart, poweroff, reboot, halt or rescue is expected;",
		"f:3: on-limit = \"restart\": stop, poweroff, reboot, halt or rescue is expected;",
		"f:4: autostart = \"x\": yes or no is expected;",
		"f:5: restart-delay = \"0\": a number, 1 to 3600, is expected;",
		"f:6: restart-limit = \"x\": a number, 0 to 1000000, is expected;",
		"f:7: restart-window = \"0\": a number, 1 to 1000000, is expected;",
	};
	struct policy policy;

	policy_defaults(&policy);
	log_begin();
	CHECK_EQ(conf_parse("f", bad, sizeof(bad) - 1, policy_only, &policy), 0);
	log_end();
	for (size_t i = 0; i < NR(want); i++)
		CHECK(strstr(log_text, want[i]));
}

/*
 * --- the guests' files -------------------------------------------------------------------------
 */

static void guest_files(void)
{
	static const struct {
		const char *name, *text;
	} file[] = {
		{ "a.conf", "[supervise]\nrestart-limit=1\n[guest]\n[supervise]\nrestart-delay=2\n" },
		{ "a b.conf", "" },
		{ "b.conf.off", "" },
		{ "c+1.conf", "" },
		{ "-d.conf", "" },
		{ "e_1.x.conf", "" },
	};
	char dir[] = "/tmp/test_supervisor.XXXXXX", path[80];
	struct guests guests = { 0 };

	CHECK(mkdtemp(dir));
	for (size_t i = 0; i < NR(file); i++) {
		FILE *f;

		snprintf(path, sizeof(path), "%s/%s", dir, file[i].name);
		f = fopen(path, "w");
		CHECK(f && fputs(file[i].text, f) >= 0);
		fclose(f);
	}
	log_begin();
	guests_load(&guests, dir);
	log_end();
	CHECK_EQ(guests.nr, 2);
	CHECK_STR(guests.guest[0].name, "a");
	CHECK_STR(guests.guest[1].name, "e_1.x");
	CHECK_EQ(guests.guest[0].policy.limit, 1);
	CHECK_EQ(guests.guest[0].policy.delay_s, 2);
	CHECK(strstr(log_text, "a.conf:4: [supervise]: it is there already"));
	/* With the file's name, and with --name's own words. */
	CHECK(strstr(log_text, "/a b.conf: left out: " CONF_NAME_RULE));
	CHECK(strstr(log_text, "/c+1.conf: left out: " CONF_NAME_RULE));
	CHECK(strstr(log_text, "/-d.conf: left out: " CONF_NAME_RULE));
	for (unsigned int i = 0; i < guests.nr; i++)
		free(guests.guest[i].file);
	free(guests.guest);
	for (size_t i = 0; i < NR(file); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, file[i].name);
		unlink(path);
	}
	rmdir(dir);
}

/*
 * --- resets in place ---------------------------------------------------------------------------
 */

static void reset_pace(void)
{
	static const unsigned int pauses[] = { 250, 500, 1000, 2000, 4000, 8000, 8000, 8000 };
	struct pace pace = { 0 };
	uint64_t ms = 0;
	unsigned int n;

	/* A burst is free, then it gets slower and slower. */
	for (int i = 0; i < PACE_FREE; i++)
		CHECK_EQ(pace_reset(&pace, 0), 0);
	CHECK(PACE_FREE >= 120); /* what tests reset in a row */
	for (size_t i = 0; i < NR(pauses); i++)
		CHECK_EQ(pace_reset(&pace, i ? PACE_EACH_MS - 1 : 0), pauses[i]);
	/* One good life is one that costs nothing, and no more; a long one makes all good. */
	pace.told = true;
	CHECK_EQ(pace_reset(&pace, PACE_EACH_MS), 0);
	CHECK_EQ(pace_reset(&pace, 0), 8000);
	CHECK(pace.told);
	CHECK_EQ(pace_reset(&pace, 1ull << 40), 0);
	CHECK_EQ(pace.debt_ms, PACE_EACH_MS);
	CHECK_EQ(pace.pause_ms, 0);
	CHECK(!pace.told);
	/* A second each is no loop, however often. */
	for (int i = 0; i < 100000; i++)
		CHECK_EQ(pace_reset(&pace, PACE_EACH_MS), 0);
	/* No mix of lives gets two a second: here each as short as costs nothing. */
	for (n = 0; n < 10000; n++) {
		struct pace now = pace;
		unsigned int life = pace_reset(&now, 0) > PACE_EACH_MS ? PACE_EACH_MS : 0;

		ms += life + pace_reset(&pace, life);
	}
	CHECK(ms > (uint64_t)(n - PACE_FREE) * 500);
}

/*
 * --- the appliance's settings ------------------------------------------------------------------
 */

static struct init_config config;

static void cmdline(const char *text)
{
	size_t size = strlen(text) + 1;
	char *copy = malloc(size);

	memcpy(copy, text, size);
	init_config_defaults(&config);
	log_begin();
	init_config_cmdline(&config, copy);
	log_end();
	free(copy);
}

static void kernel_words(void)
{
	cmdline("");
	CHECK_STR(config.exec, "");
	CHECK_EQ(config.exec_end, ACTION_CONTINUE);
	CHECK_EQ(config.rescue, RESCUE_NO);
	CHECK(config.autostart);
	CHECK_STR(config.modules, "/etc/vinit/modules");
	CHECK_EQ(config.log_level, LOG_INFO);
	CHECK_EQ(config.stop_timeout_s, 30);
	CHECK_EQ(config.on_all_stopped, ACTION_NONE);

	cmdline("console=ttyS0 vinit.exec=/nested/run vinit.exec-end=poweroff "
		"vinit.autostart=no quiet\n");
	CHECK_STR(config.exec, "/nested/run");
	CHECK_EQ(config.exec_end, ACTION_POWEROFF);
	CHECK(!config.autostart);
	CHECK_STR(log_text, "");

	cmdline("vinit.exec=\"sh -c  x\" vinit.exec_end=halt vinit.rescue=now "
		"vinit.stop_timeout=5 vinit.log=kmsg");
	CHECK_STR(config.exec, "sh -c  x");
	CHECK_EQ(config.exec_end, ACTION_HALT);
	CHECK_EQ(config.rescue, RESCUE_NOW);
	CHECK_EQ(config.stop_timeout_s, 5);
	CHECK(config.log_kmsg);
	CHECK_STR(log_text, "");

	cmdline("\"vinit.exec=a b\" x=\"vinit.rescue=yes y\" vinit.on-all-stopped=reboot "
		"vinit.log-level=debug");
	CHECK_STR(config.exec, "a b");
	CHECK_EQ(config.rescue, RESCUE_NO);
	CHECK_EQ(config.on_all_stopped, ACTION_REBOOT);
	CHECK_EQ(config.log_level, LOG_DEBUG);

	/* The last one counts; a quote in the middle stays, as in the kernel; "--" ends it. */
	cmdline("vinit.exec=a vinit.exec=b\" \"c vinit.modules=/m -- vinit.exec=no vinit.rescue=yes");
	CHECK_STR(config.exec, "b\" \"c");
	CHECK_STR(config.modules, "/m");
	CHECK_EQ(config.rescue, RESCUE_NO);

	cmdline("vinit.exec=\"never closed vinit.rescue=yes");
	CHECK_STR(config.exec, "never closed vinit.rescue=yes");

	cmdline("vinit.nonsense=1 vinit.rescue=perhaps vinit.autostart vinit.=x vinit.stop-timeout=-1 "
		"vinit.exec-end=none "
		"vinit.on-all-stopped=restart vinit.log=tape vinit.log-level=loud vinit.exec-end=reboot");
	CHECK(strstr(log_text, "\"nonsense\": no such key"));
	CHECK(strstr(log_text, "rescue = \"perhaps\": no, yes or now is expected"));
	CHECK(strstr(log_text, "autostart = \"\": yes or no is expected"));
	CHECK(strstr(log_text, "\"\": no such key"));
	CHECK(strstr(log_text, "stop-timeout = \"-1\": a number of seconds, 0 to 86400, is expected"));
	CHECK(strstr(log_text, "exec-end = \"none\": continue, poweroff, reboot or halt is expected"));
	CHECK(strstr(log_text, "on-all-stopped = \"restart\": none, poweroff, reboot or halt is expected"));
	CHECK(strstr(log_text, "log = \"tape\": console or kmsg is expected"));
	CHECK(strstr(log_text, "log-level = \"loud\": error, warn, info or debug is expected"));
	CHECK(config.autostart);
	CHECK_EQ(config.exec_end, ACTION_REBOOT);

	cmdline("\"");
	cmdline("\"\"");
	cmdline("= == =\" vinit.=\"");
	cmdline(" \t\"vinit.exec");
	CHECK_STR(config.exec, "");
}

static void vinit_conf(void)
{
	static const char text[] = "rescue = yes\nexec = a \"b\" # c\n[guest]\nrescue = no\n";

	init_config_defaults(&config);
	log_begin();
	CHECK_EQ(conf_parse("f", text, sizeof(text) - 1, init_config_line, &config), 0);
	log_end();
	CHECK_EQ(config.rescue, RESCUE_YES);
	CHECK_STR(config.exec, "a \"b\" # c");
	CHECK(strstr(log_text, "f:3: [guest]: there are no sections"));
	CHECK(!strstr(log_text, "f:4: "));
}

static void too_long(void)
{
	static char text[5000] = "vinit.exec=";

	memset(text + 11, 'x', 4095);
	cmdline(text);
	CHECK_EQ(strlen(config.exec), 4095);
	text[11 + 4095] = 'x';
	cmdline(text);
	CHECK_EQ(strlen(config.exec), 0);
}

/*
 * --- the power button --------------------------------------------------------------------------
 */

static uint8_t msg[512];
static size_t msg_len;

static void put(const void *data, size_t len)
{
	memcpy(msg + msg_len, data, len);
	msg_len += len;
	while (msg_len % 4)
		msg[msg_len++] = 0;
}

static size_t put_attr(uint16_t type, const void *data, uint16_t len)
{
	struct nlattr attr = { .nla_len = NLA_HDRLEN + len, .nla_type = type };
	size_t at = msg_len;

	put(&attr, sizeof(attr));
	put(data, len);
	return at;
}

static void set_attr_len(size_t at)
{
	uint16_t len = msg_len - at;

	memcpy(msg + at, &len, sizeof(len));
}

static void start_message(uint16_t type, uint8_t cmd)
{
	struct nlmsghdr head = { .nlmsg_type = type };
	struct genlmsghdr genl = { .cmd = cmd, .version = 1 };

	memset(msg, 0, sizeof(msg));
	msg_len = 0;
	put(&head, sizeof(head));
	put(&genl, sizeof(genl));
}

static void end_message(void)
{
	uint32_t len = msg_len;

	memcpy(msg, &len, sizeof(len));
}

/* A copy at the end of its memory, cut to @len. */
static void *cut(size_t len)
{
	void *copy = malloc(len ? len : 1);

	memcpy(copy, msg, len);
	return copy;
}

static void make_family(void)
{
	uint16_t id = 0x1c;
	uint32_t group = 5, other = 4;
	size_t groups, one;

	start_message(GENL_ID_CTRL, CTRL_CMD_NEWFAMILY);
	put_attr(CTRL_ATTR_FAMILY_NAME, "acpi_event", 11);
	put_attr(CTRL_ATTR_FAMILY_ID, &id, 2);
	groups = put_attr(CTRL_ATTR_MCAST_GROUPS, "", 0);
	one = put_attr(1, "", 0);
	put_attr(CTRL_ATTR_MCAST_GRP_ID, &other, 4);
	put_attr(CTRL_ATTR_MCAST_GRP_NAME, "another", 8);
	set_attr_len(one);
	one = put_attr(2, "", 0);
	put_attr(CTRL_ATTR_MCAST_GRP_ID, &group, 4);
	put_attr(CTRL_ATTR_MCAST_GRP_NAME, "acpi_mc_group", 14);
	set_attr_len(one);
	set_attr_len(groups);
	end_message();
}

static void acpi_family(void)
{
	uint32_t group = 0;
	uint16_t id = 0;

	make_family();
	CHECK(button_parse_family(msg, msg_len, &id, &group));
	CHECK_EQ(id, 0x1c);
	CHECK_EQ(group, 5);
	for (size_t len = 0; len < msg_len; len++) {
		void *copy = cut(len);

		CHECK(!button_parse_family(copy, len, &id, &group));
		free(copy);
	}
	/* Whatever a byte says, reading stays inside. */
	for (size_t at = 0; at < msg_len; at++) {
		for (int v = 0; v < 256; v++) {
			void *copy = cut(msg_len);

			((uint8_t *)copy)[at] = v;
			button_parse_family(copy, msg_len, &id, &group);
			free(copy);
		}
	}
}

static void make_event(const char *class, uint32_t type)
{
	struct {
		char class[20];
		char bus[15];
		uint32_t type;
		uint32_t data;
	} event = { .type = type, .data = 1 };

	CHECK_EQ(sizeof(event), 44);
	snprintf(event.class, sizeof(event.class), "%s", class);
	start_message(0x1c, 1);
	put_attr(1, &event, sizeof(event));
	end_message();
}

static void acpi_event(void)
{
	make_event("button/lid", 0x80);
	CHECK(!button_parse_acpi(msg, msg_len, 0x1c));
	make_event("button/power", 2);
	CHECK(!button_parse_acpi(msg, msg_len, 0x1c));
	make_event("button/power", 0x80);
	CHECK(!button_parse_acpi(msg, msg_len, 0x1d));
	CHECK(button_parse_acpi(msg, msg_len, 0x1c));
	/* Behind another message. */
	memcpy(msg + msg_len, msg, msg_len);
	msg[4] = 0x1d;
	CHECK(button_parse_acpi(msg, 2 * msg_len, 0x1c));
	make_event("button/power", 0x80);
	for (size_t len = 0; len < msg_len; len++) {
		void *copy = cut(len);

		CHECK(!button_parse_acpi(copy, len, 0x1c));
		free(copy);
	}
	for (size_t at = 0; at < msg_len; at++) {
		for (int v = 0; v < 256; v++) {
			void *copy = cut(msg_len);

			((uint8_t *)copy)[at] = v;
			button_parse_acpi(copy, msg_len, 0x1c);
			free(copy);
		}
	}
}

static void input_event(void)
{
	struct input_event event[2] = { { .type = EV_KEY, .code = KEY_POWER, .value = 0 },
					{ .type = EV_KEY, .code = KEY_POWER, .value = 1 } };

	CHECK(button_parse_input(event, sizeof(event)));
	CHECK(!button_parse_input(event, sizeof(event) - 1));
	event[1].value = 2;
	CHECK(!button_parse_input(event, sizeof(event)));
	event[1].value = 1;
	event[1].code = KEY_SLEEP;
	CHECK(!button_parse_input(event, sizeof(event)));
	event[1].code = KEY_POWER;
	event[1].type = EV_SW;
	CHECK(!button_parse_input(event, sizeof(event)));
}

static void uevent(void)
{
	static const char add[] =
		"add@/devices/x\0ACTION=add\0DEVPATH=/devices/x\0SUBSYSTEM=input\0SEQNUM=9";
	static const char other[] = "add@/devices/x\0ACTION=add\0SUBSYSTEM=inputs\0";
	static const char gone[] = "remove@/devices/x\0ACTION=remove\0SUBSYSTEM=input\0";

	CHECK(button_parse_uevent(add, sizeof(add)));
	CHECK(button_parse_uevent(add, sizeof(add) - 1));
	CHECK(!button_parse_uevent(add, 40));
	CHECK(!button_parse_uevent(other, sizeof(other)));
	CHECK(!button_parse_uevent(gone, sizeof(gone)));
	CHECK(!button_parse_uevent("", 0));
}

/*
 * --- shutdown ----------------------------------------------------------------------------------
 */

static void ctrl_alt_del(void)
{
	struct shutdown_cad cad = { 0 };

	/* Seven are in order, the eighth within 2 s is not. */
	for (int i = 0; i < 7; i++)
		CHECK(!shutdown_cad(&cad, 1000 + i));
	CHECK(shutdown_cad(&cad, 2999));
	/* One every 300 ms: the eighth comes 2.1 s after the first, however long it goes on. */
	memset(&cad, 0, sizeof(cad));
	for (int i = 0; i < 100; i++)
		CHECK(!shutdown_cad(&cad, 1000 + i * 300));
	/* And then a burst. */
	for (int i = 0; i < 7; i++)
		shutdown_cad(&cad, 50000 + i);
	CHECK(shutdown_cad(&cad, 50010));
}

static void mount_names(void)
{
	static const struct {
		const char *in, *out;
	} row[] = {
		{ "/mnt", "/mnt" },	  { "/a\\040b", "/a b" }, { "\\011\\134", "\t\\" },
		{ "/a\\04", "/a\\04" },	  { "/a\\", "/a\\" },	  { "/a\\400", "/a\\400" },
		{ "/a\\048", "/a\\048" },
	};

	for (size_t i = 0; i < NR(row); i++) {
		char *copy = strdup(row[i].in);

		mounts_unescape(copy);
		CHECK_STR(copy, row[i].out);
		free(copy);
	}
}

int main(void)
{
	RUN(ends);
	RUN(defaults);
	RUN(schedule);
	RUN(supervise_section);
	RUN(supervise_words);
	RUN(guest_files);
	RUN(reset_pace);
	RUN(kernel_words);
	RUN(vinit_conf);
	RUN(too_long);
	RUN(acpi_family);
	RUN(acpi_event);
	RUN(input_event);
	RUN(uevent);
	RUN(ctrl_alt_del);
	RUN(mount_names);
	return TEST_RESULT();
}
