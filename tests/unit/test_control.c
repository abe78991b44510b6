/* SPDX-License-Identifier: MIT */
/*
 * The control API over a real socket with a fake machine behind it: every path, what is refused
 * and how, calls that take their time, and `vinit ctl` and curl as clients.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "api/server.h"
#include "cmd/cmd.h"
#include "cmd/control.h"
#include "cmd/control_route.h"
#include "tests/unit/fake_machine.h"
#include "tests/unit/test.h"
#include "vm/event.h"

#define PATIENCE 20 /* s */

static char dir[] = "/tmp/vinit-control-XXXXXX";
static char path[64];
static struct event_loop loop;
static struct control *control;
static pthread_t thread;
static struct event poke; /* runs @job on the loop's thread */
static void (*job)(void);
static int job_done;

static void *run(void *opaque)
{
	CHECK_EQ(event_loop_run(&loop), 0);
	return NULL;
}

static void on_poke(struct event *ev, uint32_t events)
{
	uint64_t count;

	if (read(ev->fd, &count, sizeof(count)) == sizeof(count)) {
		job();
		__atomic_store_n(&job_done, 1, __ATOMIC_SEQ_CST);
	}
}

static void on_loop(void (*fn)(void))
{
	uint64_t one = 1;

	job = fn;
	job_done = 0;
	CHECK_EQ(write(poke.fd, &one, sizeof(one)), sizeof(one));
	for (int i = 0; i < PATIENCE * 1000 && !__atomic_load_n(&job_done, __ATOMIC_SEQ_CST); i++)
		usleep(1000);
	CHECK(job_done);
}

static void start(void)
{
	fake_init();
	CHECK_EQ(event_loop_init(&loop), 0);
	CHECK_EQ(control_open(&control, &fake, path, &loop), 0);
	poke = (struct event){ .fd = eventfd(0, EFD_NONBLOCK), .fn = on_poke };
	CHECK_EQ(event_add(&loop, &poke, EPOLLIN), 0);
	pthread_create(&thread, NULL, run, NULL);
}

static void stop(void)
{
	event_loop_stop(&loop);
	pthread_join(thread, NULL);
	control_close(control);
	event_del(&loop, &poke);
	close(poke.fd);
	event_loop_fini(&loop);
	config_free(&fake.config);
	CHECK(access(path, F_OK) < 0);
}

/* --- a client that sends what it likes ------------------------------------------------------ */

static char heard[SERVER_REPLY_MAX + HTTP_REPLY_MAX + 1];

static int send_request(const char *method, const char *target, const char *body)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct timeval limit = { .tv_sec = PATIENCE };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	size_t size = strlen(body) + strlen(target) + 256;
	char *text = malloc(size);
	int len = snprintf(text, size, "%s %s HTTP/1.0\r\n", method, target);

	if (*body)
		len += snprintf(text + len, size - len, "Content-Length: %zu\r\n", strlen(body));
	len += snprintf(text + len, size - len, "\r\n%s", body);
	strcpy(addr.sun_path, path);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	CHECK_EQ(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	CHECK_EQ(send(fd, text, len, MSG_NOSIGNAL), len);
	free(text);
	return fd;
}

/* The status; the body is in @heard. */
static int hear(int fd)
{
	size_t len = 0;
	ssize_t n;
	int status;
	char *end;

	while ((n = recv(fd, heard + len, sizeof(heard) - 1 - len, 0)) > 0)
		len += (size_t)n;
	close(fd);
	heard[len] = '\0';
	end = strstr(heard, "\r\n\r\n");
	if (n < 0 || !end)
		return 0;
	status = atoi(heard + 9);
	memmove(heard, end + 4, strlen(end + 4) + 1);
	return status;
}

static int ask(const char *method, const char *target, const char *body)
{
	return hear(send_request(method, target, body));
}

#define GET(target)	    ask("GET", target, "")
#define PUT(target, body)   ask("PUT", target, body)
#define PATCH(target, body) ask("PATCH", target, body)

static bool hears(const char *part)
{
	if (strstr(heard, part))
		return true;
	printf("  \"%s\" is not in \"%s\"\n", part, heard);
	return false;
}

/* --- the configuration ---------------------------------------------------------------------- */

static void test_configure(void)
{
	struct guest_config *c = &fake.config;

	start();
	CHECK_EQ(GET("/machine-config"), 200);
	CHECK_STR(heard, "{\"vcpu_count\":1,\"mem_size_mib\":256,\"track_dirty_pages\":false,"
			 "\"huge_pages\":\"None\"}");
	CHECK_EQ(PUT("/machine-config",
		     "{\"vcpu_count\":4,\"mem_size_mib\":512,\"track_dirty_pages\":true,"
		     "\"huge_pages\":\"2M\"}"), 204);
	CHECK_STR(heard, "");
	CHECK(c->cpus == 4 && c->memory == 512 << 20 && c->track_dirty && c->hugepages);
	CHECK_EQ(PATCH("/machine-config", "{\"mem_size_mib\":64}"), 204);
	CHECK(c->cpus == 4 && c->memory == 64 << 20 && c->track_dirty && c->hugepages);
	CHECK_EQ(PUT("/machine-config", "{\"vcpu_count\":2,\"mem_size_mib\":128}"), 204);
	CHECK(c->cpus == 2 && c->memory == 128 << 20 && !c->track_dirty && !c->hugepages);
	/* Half of it is wrong: nothing is changed. */
	CHECK_EQ(PATCH("/machine-config", "{\"vcpu_count\":3,\"mem_size_mib\":65}"), 400);
	CHECK(hears("multiple of 2 MiB"));
	CHECK_EQ(c->cpus, 2);

	CHECK_EQ(PUT("/boot-source", "{\"kernel_image_path\":\"/k\",\"initrd_path\":\"/i\","
				     "\"boot_args\":\"quiet \\\"x\\\"\"}"), 204);
	CHECK_STR(c->kernel, "/k");
	CHECK_STR(c->initrd, "/i");
	CHECK_STR(c->cmdline, "quiet \"x\"");
	CHECK_EQ(PUT("/boot-source", "{\"kernel_image_path\":\"/k2\",\"boot_args\":\"\"}"), 204);
	CHECK(!strcmp(c->kernel, "/k2") && !c->initrd && !strcmp(c->cmdline, ""));

	CHECK_EQ(PUT("/drives/a", "{\"drive_id\":\"a\",\"path_on_host\":\"/a.img\","
				  "\"is_root_device\":false,\"is_read_only\":true}"), 204);
	CHECK_EQ(PUT("/drives/b-1", "{\"drive_id\":\"b-1\",\"path_on_host\":\"/b,c.img\","
				    "\"direct\":true,\"discard\":true,\"io_engine\":\"Sync\"}"), 204);
	CHECK_EQ(PUT("/drives/a", "{\"drive_id\":\"a\",\"path_on_host\":\"/a2.img\"}"), 204);
	CHECK_EQ(c->nr_disks, 2);
	CHECK(!strcmp(c->disk[0].path, "/a2.img") && !strcmp(c->disk[0].id, "a"));
	CHECK(!c->disk[0].readonly);
	CHECK(!strcmp(c->disk[1].path, "/b,c.img") && c->disk[1].direct && c->disk[1].discard);
	CHECK_EQ(PUT("/network-interfaces/eth0", "{\"iface_id\":\"eth0\",\"host_dev_name\":\"tap0\","
						"\"guest_mac\":\"06:00:AC:10:00:02\"}"), 204);
	CHECK_EQ(PUT("/network-interfaces/b", "{\"iface_id\":\"b\",\"bridge\":\"br0\",\"queues\":2,"
					     "\"mtu\":9000,\"vhost\":false}"), 204);
	CHECK_EQ(PUT("/network-interfaces/eth0", "{\"iface_id\":\"eth0\",\"passt\":\"/p.sock\"}"), 204);
	CHECK_EQ(PUT("/network-interfaces/eth0", "{\"iface_id\":\"eth0\",\"host_dev_name\":\"tap0\","
						"\"guest_mac\":\"06:00:AC:10:00:0f\"}"), 204);
	CHECK_EQ(c->nr_nics, 2);
	CHECK(c->nic[0].kind == NET_TAP && !strcmp(c->nic[0].peer, "tap0") && c->nic[0].has_mac);
	CHECK(!memcmp(c->nic[0].mac, "\6\0\xac\x10\0\xf", 6) && c->nic[0].vhost == NET_VHOST_AUTO);
	CHECK(c->nic[1].kind == NET_BRIDGE && c->nic[1].queues == 2 && c->nic[1].mtu == 9000);
	CHECK(!c->nic[1].has_mac && c->nic[1].vhost == NET_VHOST_NO);
	CHECK_EQ(PUT("/vsock", "{\"guest_cid\":5}"), 204);
	CHECK(c->vsock && c->vsock_cid == 5);
	CHECK_EQ(PUT("/vsock", "{\"guest_cid\":2}"), 400);
	CHECK_EQ(c->vsock_cid, 5);
	CHECK_EQ(PUT("/entropy", "{}"), 204);
	CHECK_EQ(PUT("/entropy", ""), 204);
	CHECK(c->rng);
	CHECK_EQ(GET("/vm/config"), 200);
	CHECK_STR(heard, "{\"boot-source\":{\"kernel_image_path\":\"/k2\",\"boot_args\":\"\"},"
		"\"drives\":[{\"drive_id\":\"a\",\"path_on_host\":\"/a2.img\",\"is_root_device\":false,"
		"\"is_read_only\":false,\"direct\":false,\"discard\":false,\"io_engine\":\"Auto\"},"
		"{\"drive_id\":\"b-1\",\"path_on_host\":\"/b,c.img\",\"is_root_device\":false,"
		"\"is_read_only\":false,\"direct\":true,\"discard\":true,\"io_engine\":\"Sync\"}],"
		"\"network-interfaces\":[{\"iface_id\":\"eth0\",\"host_dev_name\":\"tap0\","
		"\"guest_mac\":\"06:00:ac:10:00:0f\",\"queues\":1},"
		"{\"iface_id\":\"b\",\"bridge\":\"br0\",\"queues\":2,\"mtu\":9000,\"vhost\":false}],"
		"\"machine-config\":{\"vcpu_count\":2,\"mem_size_mib\":128,\"track_dirty_pages\":false,"
		"\"huge_pages\":\"None\"},\"vsock\":{\"guest_cid\":5},\"entropy\":{},"
		"\"logger\":{\"level\":\"info\"},\"on-reset\":\"restart\",\"stop-timeout\":30}");
	/* A disk that was configured without an id has one all the same, and more don't fit. */
	free(c->disk[1].id);
	c->disk[1].id = NULL;
	CHECK_EQ(PUT("/drives/vinit-disk1",
		     "{\"drive_id\":\"vinit-disk1\",\"path_on_host\":\"/x\"}"), 204);
	CHECK_EQ(c->nr_disks, 2);
	for (int i = 2; i < ARCH_MAX_VIRTIO + 1; i++) {
		char target[64], body[96];

		snprintf(target, sizeof(target), "/drives/d%d", i);
		snprintf(body, sizeof(body), "{\"drive_id\":\"d%d\",\"path_on_host\":\"/d\"}", i);
		CHECK_EQ(PUT(target, body), i < ARCH_MAX_VIRTIO ? 204 : 400);
	}
	CHECK_EQ(c->nr_disks, ARCH_MAX_VIRTIO);
	stop();
}

static void test_logger(void)
{
	char file[80], body[160], text[64] = "";
	int fd;

	start();
	CHECK_EQ(PUT("/logger", "{\"level\":\"Warning\"}"), 204);
	CHECK_STR(fake.config.log_level, "warn");
	CHECK_EQ(PATCH("/logger", "{\"level\":\"DEBUG\"}"), 204);
	CHECK_STR(fake.config.log_level, "debug");
	/* Two files, one after the other; the level holds at run time too. */
	fake.state = STATE_RUNNING;
	for (int i = 0; i < 2; i++) {
		snprintf(file, sizeof(file), "%s/log%d", dir, i);
		snprintf(body, sizeof(body), "{\"level\":\"Info\",\"log_path\":\"%s\"}", file);
		CHECK_EQ(PUT("/logger", body), 204);
		log_info("line %d", i);
		log_debug("not this");
		fd = open(file, O_RDONLY);
		memset(text, 0, sizeof(text));
		CHECK(read(fd, text, sizeof(text) - 1) > 0);
		CHECK_STR(strrchr(text, 'l'), i ? "line 1\n" : "line 0\n");
		close(fd);
		unlink(file);
	}
	CHECK_STR(fake.config.log_file, file);
	CHECK_EQ(PUT("/logger", "{\"log_path\":\"/nowhere/at/all\"}"), 400);
	CHECK(hears("ENOENT: check that its folder exists"));
	log_set_fd(-1, false);
	stop();
}

/* --- the machine at work -------------------------------------------------------------------- */

/* What reaches the machine, and what comes back. */
static void test_calls(void)
{
	static const struct {
		const char *method, *path, *body;
		int status;
		const char *said; /* by the fake machine */
		const char *heard;
	} cases[] = {
		{ "PUT", "/actions", "{\"action_type\":\"SendCtrlAltDel\"}", 204, "power button", "" },
		{ "PUT", "/actions", "{\"action_type\":\"PowerButton\"}", 204, "power button", "" },
		{ "PUT", "/actions", "{\"action_type\":\"Reset\"}", 204, "reset", "" },
		{ "PUT", "/actions", "{\"action_type\":\"Stop\"}", 204, "stop", "" },
		{ "PUT", "/actions", "{\"action_type\":\"End\"}", 204, "end", "" },
		{ "PUT", "/actions", " {\"action_type\" : \"InstanceStart\"}\n", 204, "start", "" },
		{ "PATCH", "/vm", "{\"state\":\"Paused\"}", 204, "pause", "" },
		{ "PATCH", "/vm", "{\"state\":\"Resumed\"}", 204, "resume", "" },
		{ "PUT", "/snapshot/create", "{\"snapshot_path\":\"/s\"}", 204, "snapshot /s 0", "" },
		{ "PUT", "/snapshot/create", "{\"snapshot_type\":\"Diff\",\"snapshot_path\":\"/s\"}", 204,
		  "snapshot /s 1", "" },
		{ "PATCH", "/drives/a", "{\"drive_id\":\"a\",\"path_on_host\":\"/n\"}", 204, "disk a /n",
		  "" },
		{ "PUT", "/memory-regions", "{\"guest_address\":4294967296,\"size\":4096}", 200,
		  "add 0x100000000 0x1000 ro 0 - 0 shared 0", "{\"slot\":7}" },
		{ "PUT", "/memory-regions", "{\"guest_address\":0,\"size\":65536,\"read_only\":true,"
		  "\"path_on_host\":\"/rom\",\"offset\":8192,\"shared\":true}", 200,
		  "add 0 0x10000 ro 1 /rom 8192 shared 1", "{\"slot\":7}" },
		{ "DELETE", "/memory-regions/7", "", 204, "remove 7", "" },
		{ "PUT", "/interrupts/5", "{\"level\":true}", 204, "irq 5 1", "" },
		{ "PUT", "/interrupts/5", "{\"level\":false}", 204, "irq 5 0", "" },
		{ "PUT", "/interrupts/4294967295", "{\"pulse\":true}", 204, "pulse 4294967295", "" },
		{ "PUT", "/dirty-log", "{\"enabled\":true}", 204, "dirty log 1", "" },
		{ "GET", "/dirty-log", "", 200, "",
		  "{\"enabled\":true,\"method\":\"nothing\",\"pages\":12}" },
		{ "POST", "/dirty-log/read", "", 200, "dirty get", "{\"exact\":true,\"ranges\":[]}" },
		{ "PUT", "/dirty-log", "{\"enabled\":false}", 204, "dirty log 0", "" },
		{ "GET", "/dirty-log", "", 200, "", "{\"enabled\":false}" },
		{ "GET", "/statistics", "", 200, "", "{\"uptime_ms\":1234,\"resets\":1,\"pauses\":2,"
		  "\"paused_ms\":56,\"snapshots\":3}" },
		{ "GET", "/memory-regions", "", 200, "",
		  "{\"regions\":[{\"slot\":0,\"guest_address\":1073741824,\"size\":1073741824,"
		  "\"read_only\":false,\"file\":false,\"added\":false},"
		  "{\"slot\":3,\"guest_address\":2147483648,\"size\":1073741824,"
		  "\"read_only\":false,\"file\":false,\"added\":true}]}" },
		{ "GET", "/console", "", 200, "", "{\"serial\":{\"is\":\"stdio\"}}" },
	};

	start();
	fake.state = STATE_RUNNING;
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		*fake.said = '\0';
		CHECK_EQ(ask(cases[i].method, cases[i].path, cases[i].body), cases[i].status);
		CHECK_STR(fake.said, cases[i].said);
		CHECK_STR(heard, cases[i].heard);
	}
	stop();
}

/* Every call that the machine refuses: with the state 400, under another call 409. */
static void test_refused(void)
{
	static const struct {
		const char *method, *path, *body;
	} cases[] = {
		{ "PUT", "/actions", "{\"action_type\":\"InstanceStart\"}" },
		{ "PUT", "/actions", "{\"action_type\":\"PowerButton\"}" },
		{ "PUT", "/actions", "{\"action_type\":\"Reset\"}" },
		{ "PUT", "/actions", "{\"action_type\":\"Stop\"}" },
		{ "PUT", "/actions", "{\"action_type\":\"End\"}" },
		{ "PATCH", "/vm", "{\"state\":\"Paused\"}" },
		{ "PATCH", "/vm", "{\"state\":\"Resumed\"}" },
		{ "PUT", "/snapshot/create", "{\"snapshot_path\":\"/s\"}" },
		{ "PATCH", "/drives/a", "{\"drive_id\":\"a\",\"path_on_host\":\"/n\"}" },
		{ "PUT", "/memory-regions", "{\"guest_address\":4096,\"size\":4096}" },
		{ "DELETE", "/memory-regions/7", "" },
		{ "PUT", "/interrupts/5", "{\"level\":true}" },
		{ "PUT", "/interrupts/5", "{\"pulse\":true}" },
		{ "PUT", "/dirty-log", "{\"enabled\":true}" },
		{ "POST", "/dirty-log/read", "" },
	};

	start();
	fake.state = STATE_RUNNING;
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		fake.refuse = -EBUSY;
		CHECK_EQ(ask(cases[i].method, cases[i].path, cases[i].body), 409);
		CHECK_STR(heard, "{\"fault_message\":\"the fake refuses\"}");
		fake.refuse = -EINVAL;
		CHECK_EQ(ask(cases[i].method, cases[i].path, cases[i].body), 400);
		CHECK_STR(heard, "{\"fault_message\":\"the fake refuses\"}");
	}
	stop();
}

static void test_states(void)
{
	static const char *const names[STATE_NR] = { "Not started", "Starting", "Running", "Paused",
						     "Stopping", "Stopped", "Error" };
	char want[160];

	start();
	for (int i = 0; i < STATE_NR; i++) {
		fake.state = (enum state_id)i;
		CHECK_EQ(GET("/"), 200);
		snprintf(want, sizeof(want), "{\"app_name\":\"vinit\",\"id\":\"anonymous-instance\","
			 "\"state\":\"%s\",\"vmm_version\":\"" VINIT_VERSION "\"}", names[i]);
		CHECK_STR(heard, want);
		/* What is configured is so before the start alone. */
		CHECK_EQ(PATCH("/machine-config", "{\"vcpu_count\":1}"), i ? 400 : 204);
		CHECK_EQ(PUT("/machine-config", "{\"vcpu_count\":1,\"mem_size_mib\":64}"), i ? 400 : 204);
		CHECK_EQ(PUT("/boot-source", "{\"kernel_image_path\":\"/k\"}"), i ? 400 : 204);
		CHECK_EQ(PUT("/drives/a", "{\"drive_id\":\"a\",\"path_on_host\":\"/n\"}"), i ? 400 : 204);
		CHECK_EQ(PUT("/entropy", "{}"), i ? 400 : 204);
		CHECK_EQ(PUT("/vsock", "{\"guest_cid\":3}"), i ? 400 : 204);
		if (i)
			CHECK(hears("configure: the machine is ") && hears("; expected created"));
		if (i) {
			CHECK_EQ(PUT("/snapshot/load", "{\"snapshot_path\":\"/s\"}"), 400);
			CHECK(hears("restore: the machine is ") && hears("; expected created"));
			CHECK(!fake.config.restore);
		}
	}
	CHECK_EQ(GET("/version"), 200);
	CHECK(hears("\"vinit_version\":\"" VINIT_VERSION "\",\"architecture\":"));
	stop();
}

static void test_start(void)
{
	start();
	CHECK_EQ(PUT("/actions", "{\"action_type\":\"InstanceStart\"}"), 400);
	CHECK(hears("there is no kernel: PUT /boot-source first"));
	CHECK_EQ(PUT("/boot-source", "{\"kernel_image_path\":\"/k\"}"), 204);
	/* What a file may leave open, and config_check() finds: its sentence comes back. */
	fake.config.vsock = true;
	CHECK_EQ(PUT("/actions", "{\"action_type\":\"InstanceStart\"}"), 400);
	CHECK(hears("vsock: a cid is missing"));
	CHECK_STR(fake.said, "");
	CHECK_EQ(PUT("/vsock", "{\"guest_cid\":3}"), 204);
	CHECK_EQ(PUT("/actions", "{\"action_type\":\"InstanceStart\"}"), 204);
	CHECK_EQ(fake.state, STATE_RUNNING);
	stop();
}

/* --- snapshots ------------------------------------------------------------------------------ */

static void finish_bad(void)
{
	fake.done(fake.done_opaque, -EIO, "the disk is full");
}

static void finish_half(void)
{
	fake.state = STATE_PAUSED;
	fake.done(fake.done_opaque, -EIO, "it can't be resumed");
}

static void finish_good(void)
{
	fake.done(fake.done_opaque, 0, NULL);
}

static void wait_for(const char *what)
{
	for (int i = 0; i < PATIENCE * 1000 && strcmp(*(char *volatile *)&(char *){ fake.said }, what); i++)
		usleep(1000);
	CHECK_STR(fake.said, what);
}

static void test_load(void)
{
	struct guest_config *c = &fake.config;
	int fd;

	start();
	/* The snapshot says what the machine is. */
	c->cpus = 2;
	CHECK_EQ(PUT("/snapshot/load", "{\"snapshot_path\":\"/s\"}"), 400);
	CHECK(hears("cpus: the snapshot that is restored says what the machine is"));
	CHECK(!c->restore);
	c->cpus = 0;
	/* Refused at once, then later: what was configured is there again. */
	CHECK_EQ(PUT("/drives/a", "{\"drive_id\":\"a\",\"path_on_host\":\"/a\"}"), 204);
	CHECK_EQ(PUT("/vsock", "{\"guest_cid\":3}"), 204);
	for (int i = 0; i < 2; i++) {
		fake.refuse = i ? 0 : -EINVAL;
		fake.later = true;
		*fake.said = '\0';
		fd = send_request("PUT", "/snapshot/load",
				  "{\"snapshot_path\":\"/s\",\"resume_vm\":true,\"guest_cid\":9,"
				  "\"enable_diff_snapshots\":true,\"drives\":["
				  "{\"drive_id\":\"x\",\"path_on_host\":\"/x\"},"
				  "{\"path_on_host\":\"/y\",\"drive_id\":\"y\"}]}");
		wait_for("restore /s 1 track 1 disks 2 x=/x cid 9");
		if (i)
			on_loop(finish_bad);
		CHECK_EQ(hear(fd), 400);
		CHECK(hears(i ? "the disk is full" : "the fake refuses"));
		CHECK(!c->restore && c->nr_disks == 1 && !strcmp(c->disk[0].path, "/a"));
		CHECK(c->vsock_cid == 3 && !c->track_dirty);
	}
	fake.later = false;
	CHECK_EQ(PUT("/snapshot/load", "{\"snapshot_path\":\"/s\",\"track_dirty_pages\":true}"), 204);
	CHECK_STR(fake.said, "restore /s 0 track 1 disks 1 a=/a cid 3");
	CHECK_EQ(fake.state, STATE_PAUSED);
	CHECK_STR(c->restore, "/s");
	/* Restored, and then not resumed: there it is, and so is its configuration. */
	fake.state = STATE_CREATED;
	fake.later = true;
	fd = send_request("PUT", "/snapshot/load", "{\"snapshot_path\":\"/t\",\"resume_vm\":true}");
	wait_for("restore /t 1 track 1 disks 1 a=/a cid 3");
	on_loop(finish_half);
	CHECK_EQ(hear(fd), 400);
	CHECK(hears("it can't be resumed"));
	CHECK_STR(c->restore, "/t");
	stop();
}

/* A call under way outlives its client, and the next ones are served meanwhile. */
static void test_pending(void)
{
	int fd, other;

	start();
	fake.state = STATE_PAUSED;
	fake.later = true;
	fd = send_request("PUT", "/snapshot/create", "{\"snapshot_path\":\"/one\"}");
	wait_for("snapshot /one 0");
	CHECK_EQ(GET("/"), 200);
	close(fd);
	on_loop(finish_good);
	fd = send_request("PUT", "/snapshot/create", "{\"snapshot_path\":\"/two\"}");
	wait_for("snapshot /two 0");
	on_loop(finish_good);
	CHECK_EQ(hear(fd), 204);
	fd = send_request("PUT", "/snapshot/create", "{\"snapshot_path\":\"/three\"}");
	wait_for("snapshot /three 0");
	on_loop(finish_bad);
	CHECK_EQ(hear(fd), 400);
	CHECK_STR(heard, "{\"fault_message\":\"the disk is full\"}");
	/* The end of the VMM: who is still waiting hears so, and a load is undone. */
	fake.state = STATE_CREATED;
	fd = send_request("PUT", "/snapshot/load", "{\"snapshot_path\":\"/four\"}");
	wait_for("restore /four 0 track 0 disks 0 = cid 0");
	other = send_request("GET", "/wait", "");
	for (int i = 0; i < PATIENCE * 1000 && !*(volatile unsigned int *)&fake.waits; i++)
		usleep(1000);
	stop();
	CHECK_EQ(hear(fd), 503);
	CHECK_STR(heard, "{\"fault_message\":\"vinit ends\"}");
	CHECK_EQ(hear(other), 503);
}

static void guest_ends(void)
{
	fake.state = STATE_STOPPED;
	fake.ended(fake.ended_opaque, 0, "powered off");
}

/* More waits than there may be: the oldest gives way, and the API stays open. */
static void test_wait(void)
{
	int fd[CONTROL_WAITS + 3];

	start();
	fake.state = STATE_RUNNING;
	for (int i = 0; i < CONTROL_WAITS + 3; i++) {
		fd[i] = send_request("GET", "/wait", "");
		CHECK_EQ(GET("/"), 200); /* it has been taken */
		/* Clients that are gone are among them. */
		if (i == 1)
			close(fd[i]);
	}
	CHECK_EQ(hear(fd[0]), 503);
	CHECK(hears("ask again"));
	CHECK_EQ(hear(fd[2]), 503);
	on_loop(guest_ends);
	for (int i = 3; i < CONTROL_WAITS + 3; i++) {
		CHECK_EQ(hear(fd[i]), 200);
		CHECK_STR(heard, "{\"state\":\"Stopped\",\"reason\":\"powered off\"}");
	}
	CHECK_EQ(fake.waits, 1);
	stop();
}

/* --- the dirty log -------------------------------------------------------------------------- */

/*
 * However many ranges there are, the reply holds every page, says whether there are others in it,
 * and no range leaves its region.
 */
static void test_dirty(void)
{
	static const unsigned int counts[] = { 1, 2, CONTROL_RANGES, CONTROL_RANGES + 1,
					       20000, 120000 };

	start();
	fake.state = STATE_RUNNING;
	for (unsigned int i = 0; i < sizeof(counts) / sizeof(*counts); i++) {
		unsigned long long at, size, covered = 0;
		unsigned int n = 0, ranges = 0;
		const char *p;

		fake.nr_runs = counts[i];
		CHECK_EQ(ask("POST", "/dirty-log/read", ""), 200);
		CHECK_EQ(strncmp(heard, counts[i] <= CONTROL_RANGES ? "{\"exact\":true,\"ranges\":[" :
				"{\"exact\":false,\"ranges\":[", 22), 0);
		p = strchr(heard, '[') + 1;
		while (*p == '[') {
			CHECK_EQ(sscanf(p, "[%llu,%llu]", &at, &size), 2);
			p = strchr(p, ']') + 1;
			p += *p == ',';
			ranges++;
			CHECK(at >= covered && (at + size <= FAKE_MIDDLE || at >= FAKE_MIDDLE));
			covered = at + size;
			while (n < counts[i] && fake_run(counts[i], n) < at + size) {
				CHECK(fake_run(counts[i], n) >= at);
				n++;
			}
		}
		CHECK_STR(p, "]}");
		CHECK_EQ(n, counts[i]);
		CHECK(ranges >= 1 + (counts[i] > 1) && ranges <= CONTROL_RANGES);
	}
	stop();
}

/* --- what is wrong -------------------------------------------------------------------------- */

#define LONG64 "0123456789012345678901234567890123456789012345678901234567890123"

static const struct bad {
	const char *method, *path, *body;
	int status;
	const char *why; /* a part of the sentence */
} bad[] = {
	/* paths */
	{ "GET", "/nothing", "", 404, "/nothing: there is no such path" },
	{ "GET", "//", "", 404, "no such path" },
	{ "PUT", "/actions/", "{}", 404, "no such path" },
	{ "PUT", "/drives", "{}", 404, "no such path" },
	{ "PUT", "/drives/", "{}", 404, "no such path" },
	{ "PUT", "/drives/a/b", "{}", 404, "no such path" },
	{ "DELETE", "/memory-regions/", "", 404, "no such path" },
	{ "DELETE", "/memory-regions/1/2", "", 404, "no such path" },
	{ "PUT", "/interrupts/", "{}", 404, "no such path" },
	{ "PUT", "/Actions", "{}", 404, "no such path" },
	{ "GET", "/machine-config?x=1", "", 400, "?x=1: there is nothing to ask for" },
	{ "GET", "/network-interfaces/eth0", "", 405, "expected PUT" },
	{ "PUT", "/network-interfaces", "{}", 404, "no such path" },
	{ "PUT", "/network-interfaces/a", "{\"iface_id\":\"b\",\"host_dev_name\":\"t\"}", 400,
	  "\\\"iface_id\\\": expected what the path says" },
	{ "PUT", "/network-interfaces/a", "{\"host_dev_name\":\"t\"}", 400, "iface_id" },
	{ "PUT", "/network-interfaces/a", "{\"iface_id\":\"a\"}", 400, "one of them is expected" },
	{ "PUT", "/network-interfaces/a",
	  "{\"iface_id\":\"a\",\"host_dev_name\":\"t\",\"bridge\":\"b\"}", 400, "one of tap, bridge" },
	{ "PUT", "/network-interfaces/a",
	  "{\"iface_id\":\"a\",\"host_dev_name\":\"t\",\"guest_mac\":\"01:00:00:00:00:00\"}", 400, "MAC" },
	{ "PUT", "/network-interfaces/a",
	  "{\"iface_id\":\"a\",\"host_dev_name\":\"t\",\"guest_mac\":\"02:00:00:00:00:00:00\"}", 400, "" },
	{ "PUT", "/network-interfaces/a",
	  "{\"iface_id\":\"a\",\"host_dev_name\":\"t\",\"queues\":5}", 400, "1 to 4" },
	{ "PUT", "/network-interfaces/a",
	  "{\"iface_id\":\"a\",\"host_dev_name\":\"t\",\"rx_rate_limiter\":{}}", 400, "rx_rate_limiter" },
	/* methods */
	{ "PUT", "/", "{}", 405, "PUT /: expected GET" },
	{ "DELETE", "/machine-config", "", 405, "expected GET, PUT, PATCH" },
	{ "GET", "/actions", "", 405, "expected PUT" },
	{ "POST", "/vm", "{}", 405, "expected PATCH" },
	{ "GET", "/drives/a", "", 405, "expected PUT, PATCH" },
	{ "POST", "/memory-regions", "{}", 405, "expected GET, PUT" },
	{ "GET", "/memory-regions/3", "", 405, "expected DELETE" },
	{ "GET", "/dirty-log/read", "", 405, "expected POST" },
	/* bodies where none belongs */
	{ "GET", "/", "{}", 400, "GET / has no body" },
	{ "GET", "/wait", "x", 400, "has no body" },
	{ "DELETE", "/memory-regions/3", "{}", 400, "has no body" },
	{ "POST", "/dirty-log/read", "{\"all\":true}", 400, "has no body" },
	/* JSON */
	{ "PUT", "/actions", "", 400, "expected" },
	{ "PUT", "/actions", "x", 400, "expected" },
	{ "PUT", "/actions", "[]", 400, "expected" },
	{ "PUT", "/actions", "\"InstanceStart\"", 400, "expected" },
	{ "PUT", "/actions", "{\"action_type\":\"End\"", 400, "expected" },
	{ "PUT", "/actions", "{\"action_type\":\"End\"}}", 400, "expected" },
	{ "PUT", "/actions", "{\"action_type\":\"End\",}", 400, "expected" },
	{ "PUT", "/actions", "{action_type:\"End\"}", 400, "expected" },
	{ "PUT", "/actions", "{\"action_type\":\"End\",\"action_type\":\"End\"}", 400, "twice" },
	{ "PUT", "/actions", "{\"action_type\":\"End\xff\"}", 400, "UTF-8" },
	{ "PUT", "/vm/config", "{}", 405, "expected GET" },
	{ "PATCH", "/vm", "[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]", 400, "" },
	/* members */
	{ "PUT", "/actions", "{}", 400, "action_type" },
	{ "PUT", "/actions", "{\"action_type\":\"Explode\"}", 400, "Explode" },
	{ "PUT", "/actions", "{\"action_type\":\"end\"}", 400, "InstanceStart" },
	{ "PUT", "/actions", "{\"action_type\":null}", 400, "found null" },
	{ "PUT", "/actions", "{\"action_type\":1}", 400, "found 1" },
	{ "PUT", "/actions", "{\"action_type\":\"End\",\"now\":true}", 400, "now" },
	{ "PATCH", "/vm", "{\"state\":\"Running\"}", 400, "Paused" },
	{ "PUT", "/machine-config", "{\"vcpu_count\":1}", 400, "mem_size_mib" },
	{ "PUT", "/machine-config", "{\"mem_size_mib\":64}", 400, "vcpu_count" },
	{ "PUT", "/machine-config", "{\"vcpu_count\":0,\"mem_size_mib\":64}", 400, "1 to 4096" },
	{ "PUT", "/machine-config", "{\"vcpu_count\":5000,\"mem_size_mib\":64}", 400, "1 to 4096" },
	{ "PUT", "/machine-config", "{\"vcpu_count\":-1,\"mem_size_mib\":64}", 400, "vcpu_count" },
	{ "PUT", "/machine-config", "{\"vcpu_count\":1.5,\"mem_size_mib\":64}", 400, "vcpu_count" },
	{ "PUT", "/machine-config", "{\"vcpu_count\":\"1\",\"mem_size_mib\":64}", 400, "vcpu_count" },
	{ "PUT", "/machine-config", "{\"vcpu_count\":1,\"mem_size_mib\":0}", 400, "multiple of 2" },
	{ "PUT", "/machine-config", "{\"vcpu_count\":1,\"mem_size_mib\":63}", 400, "multiple of 2" },
	{ "PUT", "/machine-config", "{\"vcpu_count\":1,\"mem_size_mib\":18446744073709551615}", 400,
	  "a size like" },
	{ "PUT", "/machine-config", "{\"vcpu_count\":1,\"mem_size_mib\":18446744073709551616}", 400,
	  "mem_size_mib" },
	{ "PATCH", "/machine-config", "{\"smt\":true}", 400, "smt" },
	{ "PATCH", "/machine-config", "{\"huge_pages\":\"1G\"}", 400, "None" },
	{ "PATCH", "/machine-config", "{\"track_dirty_pages\":1}", 400, "track_dirty_pages" },
	{ "PUT", "/boot-source", "{\"boot_args\":\"quiet\"}", 400, "kernel_image_path" },
	{ "PUT", "/boot-source", "{\"kernel_image_path\":\"\"}", 400, "there is nothing in it" },
	{ "PUT", "/boot-source", "{\"kernel_image_path\":\"/k\",\"initrd_path\":\"\"}", 400,
	  "\\\"initrd_path\\\": there is nothing in it" },
	{ "PUT", "/boot-source", "{\"kernel_image_path\":\"/a\\u0000b\"}", 400, "kernel_image_path" },
	{ "PUT", "/drives/a", "{\"drive_id\":\"b\",\"path_on_host\":\"/x\"}", 400, "what the path says" },
	{ "PUT", "/drives/a", "{\"drive_id\":\"a\"}", 400, "path_on_host" },
	{ "PUT", "/drives/a", "{\"path_on_host\":\"/x\"}", 400, "drive_id" },
	{ "PUT", "/drives/a", "{\"drive_id\":\"a\",\"path_on_host\":\"\"}", 400, "nothing in it" },
	{ "PUT", "/drives/a", "{\"drive_id\":\"a\",\"path_on_host\":\"/x\",\"is_root_device\":true}", 400,
	  "root=/dev/vda in boot_args" },
	{ "PUT", "/drives/a%20b", "{\"drive_id\":\"a b\",\"path_on_host\":\"/x\"}", 400,
	  "letters, digits" },
	{ "PUT", "/drives/" LONG64, "{\"drive_id\":\"" LONG64 "\",\"path_on_host\":\"/x\"}", 400,
	  "drive_id" },
	{ "PATCH", "/drives/a", "{\"drive_id\":\"a\",\"path_on_host\":\"/x\",\"direct\":true}", 400,
	  "direct" },
	{ "PATCH", "/drives/a", "{\"drive_id\":\"b\",\"path_on_host\":\"/x\"}", 400, "the path says" },
	{ "PUT", "/vsock", "{}", 400, "guest_cid" },
	{ "PUT", "/vsock", "{\"guest_cid\":0}", 400, "3 to 4294967294" },
	{ "PUT", "/vsock", "{\"guest_cid\":4294967295}", 400, "3 to 4294967294" },
	{ "PUT", "/vsock", "{\"guest_cid\":3,\"uds_path\":\"/v\"}", 400, "uds_path" },
	{ "PUT", "/entropy", "{\"rate_limiter\":{}}", 400, "rate_limiter" },
	{ "PUT", "/entropy", "[]", 400, "expected" },
	{ "PUT", "/logger", "{\"level\":\"Trace\"}", 400, "Error, Warning, Info or Debug" },
	{ "PUT", "/logger", "{\"level\":\"0123456789012345\"}", 400, "level" },
	{ "PUT", "/logger", "{\"log_path\":\"\"}", 400, "nothing in it" },
	{ "PUT", "/snapshot/create", "{}", 400, "snapshot_path" },
	{ "PUT", "/snapshot/create", "{\"snapshot_path\":\"\"}", 400, "nothing in it" },
	{ "PUT", "/snapshot/create", "{\"snapshot_path\":\"/s\",\"snapshot_type\":\"Half\"}", 400, "Full" },
	{ "PUT", "/snapshot/create", "{\"snapshot_path\":\"/s\",\"mem_file_path\":\"/m\"}", 400,
	  "mem_file_path" },
	{ "PUT", "/snapshot/load", "{\"resume_vm\":true}", 400, "snapshot_path" },
	{ "PUT", "/snapshot/load", "{\"snapshot_path\":\"/s\",\"resume_vm\":\"yes\"}", 400, "resume_vm" },
	{ "PUT", "/snapshot/load", "{\"snapshot_path\":\"/s\",\"guest_cid\":1}", 400, "3 to 4294967294" },
	{ "PUT", "/snapshot/load", "{\"snapshot_path\":\"/s\",\"drives\":{}}", 400, "drives" },
	{ "PUT", "/snapshot/load", "{\"snapshot_path\":\"/s\",\"drives\":[1]}", 400, "\\\"drives\\\": " },
	{ "PUT", "/snapshot/load", "{\"snapshot_path\":\"/s\",\"drives\":[{}]}", 400, "drive_id" },
	{ "PUT", "/snapshot/load",
	  "{\"snapshot_path\":\"/s\",\"drives\":[{\"drive_id\":\"a\",\"path_on_host\":\"\"}]}", 400,
	  "a path is missing" },
	{ "PUT", "/memory-regions", "{\"size\":4096}", 400, "guest_address" },
	{ "PUT", "/memory-regions", "{\"guest_address\":0}", 400, "size" },
	{ "PUT", "/memory-regions", "{\"guest_address\":\"0x1000\",\"size\":4096}", 400, "guest_address" },
	{ "PUT", "/memory-regions", "{\"guest_address\":0,\"size\":4096,\"offset\":0}", 400, "a file's" },
	{ "PUT", "/memory-regions", "{\"guest_address\":0,\"size\":4096,\"shared\":true}", 400, "a file's" },
	{ "DELETE", "/memory-regions/x", "", 400, "x: a number is expected" },
	{ "DELETE", "/memory-regions/-1", "", 400, "a number is expected" },
	{ "DELETE", "/memory-regions/4294967296", "", 400, "a number is expected" },
	{ "PUT", "/interrupts/0x5", "{\"level\":true}", 400, "a number is expected" },
	{ "PUT", "/interrupts/5", "{}", 400, "expected {\\\"level\\\"" },
	{ "PUT", "/interrupts/5", "", 400, "expected {\\\"level\\\"" },
	{ "PUT", "/interrupts/5", "{\"pulse\":false}", 400, "expected {\\\"level\\\"" },
	{ "PUT", "/interrupts/5", "{\"pulse\":true,\"level\":true}", 400, "expected {\\\"level\\\"" },
	{ "PUT", "/interrupts/5", "{\"level\":1}", 400, "level" },
	{ "PUT", "/dirty-log", "{}", 400, "enabled" },
	{ "PUT", "/dirty-log", "{\"enabled\":\"on\"}", 400, "enabled" },
};

/* Each is refused with a sentence, and neither the configuration nor the machine hears of it. */
static void test_bad(void)
{
	struct guest_config was;

	start();
	was = fake.config;
	for (unsigned int i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		int status = ask(bad[i].method, bad[i].path, bad[i].body);

		if (status != bad[i].status)
			printf("  %s %s %s\n", bad[i].method, bad[i].path, bad[i].body);
		CHECK_EQ(status, bad[i].status);
		CHECK_EQ(strncmp(heard, "{\"fault_message\":\"", 18), 0);
		CHECK(strlen(heard) > 30 && heard[strlen(heard) - 2] == '"');
		CHECK(hears(bad[i].why));
		CHECK_STR(fake.said, "");
		CHECK_EQ(memcmp(&was, &fake.config, sizeof(was)), 0);
	}
	printf("  %zu bad requests\n", sizeof(bad) / sizeof(*bad));
	CHECK(sizeof(bad) / sizeof(*bad) >= 60);
	stop();
}

static void test_allow(void)
{
	char text[512];
	int fd;
	ssize_t n;

	start();
	fd = send_request("DELETE", "/machine-config", "");
	n = recv(fd, text, sizeof(text) - 1, MSG_WAITALL);
	text[n > 0 ? n : 0] = '\0';
	CHECK(strstr(text, "HTTP/1.1 405 ") && strstr(text, "\r\nAllow: GET, PUT, PATCH\r\n"));
	close(fd);
	stop();
}

/* --- vinit ctl ------------------------------------------------------------------------------ */

static char out[SERVER_REPLY_MAX * 2], errors[4096];

static void slurp(const char *file, char *to, size_t size)
{
	int fd = open(file, O_RDONLY);
	ssize_t n = fd < 0 ? 0 : read(fd, to, size - 1);

	to[n > 0 ? n : 0] = '\0';
	close(fd);
}

/* Runs `vinit ctl` with the words in @words; what it printed is in @out and @errors. */
static int ctl(const char *words)
{
	char copy[1024], *argv[32], out_path[80], err_path[80];
	int argc = 0, saved, fd, err, status;

	snprintf(copy, sizeof(copy), "%s", words);
	for (char *p = strtok(copy, " "); p; p = strtok(NULL, " "))
		argv[argc++] = p;
	argv[argc] = NULL;
	snprintf(out_path, sizeof(out_path), "%s/out", dir);
	snprintf(err_path, sizeof(err_path), "%s/err", dir);
	fflush(stdout);
	saved = dup(STDOUT_FILENO);
	fd = open(out_path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	err = open(err_path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	dup2(fd, STDOUT_FILENO);
	log_set_fd(err, false);
	status = cmd_ctl(argc, argv);
	fflush(stdout);
	log_set_fd(-1, false);
	dup2(saved, STDOUT_FILENO);
	close(saved);
	close(fd);
	close(err);
	slurp(out_path, out, sizeof(out));
	slurp(err_path, errors, sizeof(errors));
	unlink(out_path);
	unlink(err_path);
	return status;
}

static bool has(const char *text, const char *part)
{
	if (strstr(text, part))
		return true;
	printf("  \"%s\" is not in \"%s\"\n", part, text);
	return false;
}

static void test_ctl(void)
{
	static const struct {
		const char *words;
		const char *said; /* by the machine; NULL: it is not asked */
		const char *out;
	} cases[] = {
		{ "info", NULL, "app_name             vinit\nid                   anonymous-instance\n"
		  "state                Running\nvmm_version          " VINIT_VERSION "\n" },
		{ "pause", "pause", "paused\n" },
		{ "resume", "resume", "resumed\n" },
		{ "power-button", "power button", "pressed\n" },
		{ "reset", "reset", "resetting\n" },
		{ "stop", "stop", "stopping\n" },
		{ "end", "end", "ending\n" },
		{ "snapshot /s", "snapshot /s 0", "written\n" },
		{ "snapshot --diff /s", "snapshot /s 1", "written\n" },
		{ "disk a /n", "disk a /n", "changed\n" },
		{ "memory add 4G 64K", "add 0x100000000 0x10000 ro 0 - 0 shared 0",
		  "slot                 7\n" },
		{ "memory add 0xf0000 65536 --read-only --file /rom --offset 0x2000 --shared",
		  "add 0xf0000 0x10000 ro 1 /rom 8192 shared 1", "slot                 7\n" },
		{ "memory remove 3", "remove 3", "removed\n" },
		{ "memory list", NULL,
		  "regions\n"
		  "slot            guest_address   size            read_only       file            added\n"
		  "0               0x40000000      1073741824      false           false           false\n"
		  "3               0x80000000      1073741824      false           false           true\n" },
		{ "irq 5 up", "irq 5 1", "set\n" },
		{ "irq 5 down", "irq 5 0", "set\n" },
		{ "irq 5 pulse", "pulse 5", "set\n" },
		{ "dirty on", "dirty log 1", "set\n" },
		{ "dirty status", NULL,
		  "enabled              true\nmethod               nothing\npages                12\n" },
		{ "dirty read", "dirty get",
		  "exact                true\nranges\n"
		  "0x7fffd000      0x1000\n0x80000000      0x1000\n" },
		{ "--json dirty read", "dirty get",
		  "{\"exact\":true,\"ranges\":[[2147471360,4096],[2147483648,4096]]}\n" },
		{ "dirty off", "dirty log 0", "set\n" },
		{ "log debug", NULL, "set\n" },
		{ "--json log info", NULL, "" },
		{ "get /version", NULL, NULL },
		{ "put /vm/config {}", NULL, NULL },
		{ "delete /memory-regions/9", "remove 9", "done\n" },
		{ "post /dirty-log/read", "dirty get", NULL },
		{ "patch /vm {\"state\":\"Paused\"}", "pause", "done\n" },
		{ "stats", NULL, NULL },
		{ "config", NULL, NULL },
		{ "version", NULL, NULL },
	};

	start();
	setenv("VINIT_SOCK", path, 1);
	fake.state = STATE_RUNNING;
	fake.nr_runs = 2;
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		*fake.said = '\0';
		CHECK_EQ(ctl(cases[i].words), strstr(cases[i].words, "/vm/config") ? 1 : 0);
		if (cases[i].out)
			CHECK_STR(out, cases[i].out);
		else
			CHECK(*out || *errors);
		CHECK_STR(fake.said, cases[i].said ? cases[i].said : "");
		CHECK(!strstr(out, " \n"));
	}
	/* What is wider than its column. */
	fake.config.nr_disks = 1;
	fake.config.disk[0].path = strdup("/a/path/that/is/long");
	CHECK_EQ(ctl("config"), 0);
	CHECK(has(out, "/a/path/that/is/long false           false"));
	CHECK(!strstr(out, " \n"));
	fake.refuse = -EBUSY;
	CHECK_EQ(ctl("start"), 1);
	CHECK(has(errors, "the fake refuses"));
	stop();
}

static void test_ctl_load(void)
{
	char words[512], want[512], cwd[256];
	const char *here = getcwd(cwd, sizeof(cwd));

	start();
	CHECK_EQ(ctl("load --resume --cid 7 --disk a=/x --disk b=rel/y snap"), 0);
	CHECK_STR(out, "loaded\n");
	snprintf(want, sizeof(want), "restore %s/snap 1 track 0 disks 2 a=/x cid 7", here);
	CHECK_STR(fake.said, want);
	snprintf(want, sizeof(want), "%s/rel/y", here);
	CHECK_STR(fake.config.disk[1].path, want);
	/* Refused: the sentence on standard error, the reply's body on request, status 1. */
	CHECK_EQ(ctl("load /again"), 1);
	CHECK(has(errors, "restore: the machine is running; expected created"));
	CHECK_STR(out, "");
	CHECK_EQ(ctl("--json load /again"), 1);
	CHECK(has(out, "{\"fault_message\":\"restore: the machine is running"));
	snprintf(words, sizeof(words), "--sock %s pause", path);
	unsetenv("VINIT_SOCK");
	CHECK_EQ(ctl(words), 0);
	setenv("VINIT_SOCK", path, 1);
	stop();
}

static void test_ctl_usage(void)
{
	static const char *const wrong[] = {
		"", "nonsense", "--sock", "--nonsense info", "--timeout x info", "info more", "pause now",
		"snapshot", "snapshot --diff", "snapshot a b", "load", "load --resume", "load a b",
		"load --disk x /s", "load --cid /s", "load --cid x /s", "disk a", "disk a b c", "memory",
		"memory eat", "memory list x", "memory add", "memory add 1", "memory add x 4096",
		"memory add 0 -1", "memory add 0 4096 --file", "memory add 0 4096 --what",
		"memory remove", "memory remove x", "irq 5", "irq 5 sideways", "irq x up", "-x info", "dirty", "dirty maybe", "log", "get",
		"get version", "put", "console x y", "wait x",
	};

	start();
	for (unsigned int i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		if (ctl(wrong[i]) != EXIT_USAGE) {
			printf("  ctl %s\n", wrong[i]);
			CHECK(!"a usage error");
		}
		/* No words at all: the help, which goes past the log. */
		CHECK(strlen(errors) > 10 || !*wrong[i]);
		CHECK_STR(fake.said, "");
	}
	CHECK_EQ(ctl("help"), 0);
	CHECK(has(out, "usage: vinit ctl") && has(out, "power-button"));
	CHECK_EQ(ctl("-h") | ctl("--help") | ctl("pause --help") | ctl("snapshot --diff -h"), 0);
	CHECK(has(out, "usage: vinit ctl"));
	CHECK_STR(fake.said, "");
	CHECK_EQ(ctl("irq x up"), EXIT_USAGE);
	CHECK(has(errors, "x: a number is expected"));
	CHECK_EQ(ctl("memory remove -1"), EXIT_USAGE);
	CHECK(has(errors, "-1: a number is expected"));
	CHECK_EQ(ctl("--sock"), EXIT_USAGE);
	CHECK(has(errors, "--sock: its value is missing"));
	CHECK_EQ(ctl("--timeout x info"), EXIT_USAGE);
	CHECK(has(errors, "--timeout: its value is wrong"));
	CHECK_EQ(ctl("--nonsense info"), EXIT_USAGE);
	CHECK(has(errors, "--nonsense: there is no such option"));
	CHECK_EQ(ctl("console x"), EXIT_USAGE);
	CHECK_EQ(ctl("console"), 1);
	CHECK(has(errors, "the serial console is \"stdio\""));
	CHECK_EQ(ctl("console virtio"), 1);
	CHECK(has(errors, "the guest has no virtio console"));
	stop();
	/* Nobody there. */
	CHECK_EQ(ctl("info"), 1);
	CHECK(has(errors, "ENOENT: check the path"));
	unsetenv("VINIT_SOCK");
	CHECK_EQ(ctl("info"), 1);
	CHECK(has(errors, "/run/vinit: "));
	setenv("VINIT_SOCK", path, 1);
}

static void *ends_soon(void *opaque)
{
	for (int i = 0; i < PATIENCE * 1000 && !*(volatile unsigned int *)&fake.waits; i++)
		usleep(1000);
	on_loop(guest_ends);
	return NULL;
}

static void test_ctl_wait(void)
{
	pthread_t other;

	start();
	fake.state = STATE_RUNNING;
	CHECK_EQ(ctl("--timeout 1 wait"), 1);
	CHECK(has(errors, "ETIMEDOUT: no answer in time"));
	fake.waits = 0;
	on_loop(guest_ends);
	fake.state = STATE_RUNNING;
	pthread_create(&other, NULL, ends_soon, NULL);
	CHECK_EQ(ctl("wait"), 0);
	CHECK_STR(out, "state                Stopped\nreason               powered off\n");
	pthread_join(other, NULL);
	stop();
}

/* A server that says anything: ctl ends, with a sentence and in its time. */
static const char *liar_says;

static void *liar(void *opaque)
{
	int listener = *(int *)opaque, fd = accept(listener, NULL, NULL);
	char buf[512];

	if (recv(fd, buf, sizeof(buf), 0) > 0 && *liar_says)
		send(fd, liar_says, strlen(liar_says), MSG_NOSIGNAL);
	shutdown(fd, SHUT_WR);
	while (recv(fd, buf, sizeof(buf), 0) > 0)
		;
	close(fd);
	return NULL;
}

static void test_ctl_liars(void)
{
	static const char *const lies[] = {
		"", "\r\n\r\n", "HTTP/1.1 200 OK\r\n", "HTTP/1.1\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{]",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n[",
		"HTTP/1.1 500 No\r\nContent-Length: 3\r\n\r\nbad",
		"HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{\"a\":\"\\u001b[2Jx\"}",
	};
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	strcpy(addr.sun_path, path);
	for (unsigned int i = 0; i < sizeof(lies) / sizeof(*lies); i++) {
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		pthread_t server;

		CHECK_EQ(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
		CHECK_EQ(listen(fd, 1), 0);
		liar_says = lies[i];
		pthread_create(&server, NULL, liar, &fd);
		ctl("--timeout 10 info");
		if (!*errors && !strstr(out, "?[2Jx"))
			printf("  %s\n", lies[i]);
		CHECK(*errors || has(out, "?[2Jx"));
		CHECK(*lies[i] || has(errors, "ECONNRESET: the VMM ended before it answered"));
		CHECK(!strchr(out, '\033'));
		pthread_join(server, NULL);
		close(fd);
		unlink(path);
	}
	CHECK(*out && !*errors); /* the last one was JSON */
}

/* The other end of a console: greets, and keeps what it is sent. */
static char typed[256];

static void *console_end(void *opaque)
{
	int fd = accept(*(int *)opaque, NULL, NULL);
	size_t len = 0;
	ssize_t n;

	memset(typed, 0, sizeof(typed));
	CHECK_EQ(send(fd, "hello\n", 6, 0), 6);
	while (len < sizeof(typed) - 1 && (n = recv(fd, typed + len, sizeof(typed) - 1 - len, 0)) > 0)
		len += (size_t)n;
	close(fd);
	return NULL;
}

/* Ctrl-A d leaves, once the greeting has been seen; Ctrl-A a is a Ctrl-A, others are nothing. */
static void *types(void *opaque)
{
	int fd = *(int *)opaque;

	usleep(300000);
	CHECK_EQ(write(fd, "ab\001ac\001z\001", 8), 8);
	usleep(100000);
	CHECK_EQ(write(fd, "d", 1), 1);
	return NULL;
}

/* Through a pipe, which ends, and on a terminal, which is left. */
static void test_ctl_console(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int saved = dup(STDIN_FILENO), pipes[2], pty = posix_openpt(O_RDWR | O_NOCTTY), slave;
	char spec[160], cwd[256], want[512];
	pthread_t end, typist;

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/con", dir);
	snprintf(spec, sizeof(spec), "unix=%s", addr.sun_path);
	CHECK_EQ(bind(listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
	CHECK_EQ(listen(listener, 1), 0);
	start();
	fake.config.console = strdup("stdio");
	fake.config.vconsole = strdup("unix=con");
	CHECK_EQ(GET("/console"), 200);
	snprintf(want, sizeof(want), "\"virtio\":{\"is\":\"unix=con\",\"path\":\"%s/con\"}", getcwd(cwd, 256));
	CHECK(hears(want));
	free(fake.config.vconsole);
	fake.config.vconsole = strdup(spec);
	CHECK_EQ(pipe(pipes), 0);
	CHECK_EQ(write(pipes[1], "ls\001d\n", 5), 5);
	close(pipes[1]);
	dup2(pipes[0], STDIN_FILENO);
	close(pipes[0]);
	pthread_create(&end, NULL, console_end, &listener);
	CHECK_EQ(ctl("console virtio"), 0);
	CHECK_STR(out, "hello\n");
	pthread_join(end, NULL);
	CHECK_STR(typed, "ls\001d\n");

	CHECK(pty >= 0 && !grantpt(pty) && !unlockpt(pty));
	slave = open(ptsname(pty), O_RDWR | O_NOCTTY);
	dup2(slave, STDIN_FILENO);
	pthread_create(&end, NULL, console_end, &listener);
	pthread_create(&typist, NULL, types, &pty);
	CHECK_EQ(ctl("console virtio"), 0);
	CHECK_STR(out, "hello\n");
	pthread_join(typist, NULL);
	pthread_join(end, NULL);
	CHECK_STR(typed, "ab\001c");
	dup2(saved, STDIN_FILENO);
	close(saved);
	close(slave);
	close(pty);
	close(listener);
	unlink(addr.sun_path);
	stop();
}

/* --- curl ----------------------------------------------------------------------------------- */

static int curl(const char *args, char *to, size_t size)
{
	char command[512];
	FILE *f;
	size_t n;

	snprintf(command, sizeof(command), "curl -s -m 20 --unix-socket %s -w '%%{http_code}' %s", path,
		 args);
	f = popen(command, "r");
	n = f ? fread(to, 1, size - 1, f) : 0;
	to[n] = '\0';
	return f && !pclose(f) && n >= 3 ? atoi(to + n - 3) : 0;
}

/* A life as a script would drive it. */
static void test_curl(void)
{
	static const struct {
		const char *args;
		int status;
	} life[] = {
		{ "-X PUT localhost/machine-config -d '{\"vcpu_count\":2,\"mem_size_mib\":64}'", 204 },
		{ "-X PUT localhost/boot-source -H 'Content-Type: application/json' "
		  "-d '{\"kernel_image_path\":\"/k\"}'", 204 },
		{ "-X PUT localhost/actions -d '{\"action_type\":\"InstanceStart\"}'", 204 },
		{ "localhost/", 200 },
		{ "-X PATCH localhost/vm -d '{\"state\":\"Paused\"}'", 204 },
		{ "-X PUT localhost/snapshot/create -d '{\"snapshot_path\":\"/s\"}'", 204 },
		{ "-X DELETE localhost/memory-regions/4", 204 },
		{ "-X POST localhost/dirty-log/read", 200 },
		{ "-X PUT localhost/actions -d '{\"action_type\":\"Stop\"}'", 204 },
		{ "localhost/nothing", 404 },
		{ "-X PUT localhost/vm -d '{}'", 405 },
		{ "-X PATCH localhost/vm -d '{'", 400 },
	};
	char text[1024];

	if (system("command -v curl >/dev/null")) {
		printf("  curl is not installed\n");
		return;
	}
	start();
	for (unsigned int i = 0; i < sizeof(life) / sizeof(*life); i++) {
		CHECK_EQ(curl(life[i].args, text, sizeof(text)), life[i].status);
		CHECK(life[i].status < 400 || has(text, "fault_message"));
	}
	stop();
}

int main(void)
{
	log_set_fd(-1, false);
	if (!mkdtemp(dir))
		return 1;
	snprintf(path, sizeof(path), "%s/s", dir);
	setenv("VINIT_SOCK", path, 1);
	RUN(test_configure);
	RUN(test_logger);
	RUN(test_calls);
	RUN(test_refused);
	RUN(test_states);
	RUN(test_start);
	RUN(test_load);
	RUN(test_pending);
	RUN(test_wait);
	RUN(test_dirty);
	RUN(test_bad);
	RUN(test_allow);
	RUN(test_ctl);
	RUN(test_ctl_load);
	RUN(test_ctl_usage);
	RUN(test_ctl_wait);
	RUN(test_ctl_liars);
	RUN(test_ctl_console);
	RUN(test_curl);
	rmdir(dir);
	return TEST_RESULT();
}
