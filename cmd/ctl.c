/* SPDX-License-Identifier: MIT */
/* `vinit ctl`: words to requests of the control API, and its replies to lines for people. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include "api/server.h"
#include "cmd/cmd.h"
#include "vm/conf.h"
#include "vm/log.h"
#include "vm/memory.h"
#include "vm/terminal.h"

#define RUN_DIR	   "/run/vinit"
#define REQUEST	   65536
#define REPLY	   (HTTP_REPLY_MAX + SERVER_REPLY_MAX)
#define TIMEOUT_MS 600000 /* a snapshot of much RAM takes its time */
#define ESCAPE	   1	  /* Ctrl-A */

struct ctl {
	char sock[sizeof(((struct sockaddr_un *)0)->sun_path)];
	bool json;
	int timeout_ms; /* -1: none */
	enum http_method method;
	char path[128];
	struct json_writer body;
	char *request; /* the body's bytes, then the reply's */
	char *reply;
	char *reply_body; /* in it, behind more than 5 bytes */
	int status;
};

/* --- arguments ------------------------------------------------------------------------------ */

static int usage_error(const char *what, const char *word)
{
	log_err("%s: %s; `vinit ctl help` lists the verbs", word, what);
	return EXIT_USAGE;
}

/* Addresses and sizes: 4096, 0x1000, 512M. */
static int number(const char *word, uint64_t *value)
{
	char *end;

	if (!memory_parse_size(word, value))
		return 0;
	errno = 0;
	*value = strtoull(word, &end, 0);
	if (errno || end == word || *end || !isdigit((unsigned char)*word))
		return usage_error("a number is expected", word);
	return 0;
}

/* The VMM's folder is another one. */
static void put_path(struct ctl *ctl, const char *name, const char *path)
{
	char *cwd = *path == '/' || !*path ? NULL : getcwd(NULL, 0);

	if (cwd)
		json_put_format(&ctl->body, name, "%s/%s", cwd, path);
	else
		json_put_string(&ctl->body, name, path);
	free(cwd);
}

static int build_raw(struct ctl *ctl, int argc, char **argv)
{
	if (snprintf(ctl->path, sizeof(ctl->path), "%s", argv[1]) >= (int)sizeof(ctl->path) ||
	    *argv[1] != '/' || strpbrk(argv[1], " \r\n"))
		return usage_error("a path of the API is expected", argv[1]);
	if (argc > 2) {
		size_t len = strlen(argv[2]);

		if (len > REQUEST)
			return usage_error("the body is too long", argv[0]);
		memcpy(ctl->request, argv[2], len);
		ctl->body.len = len;
	}
	return 0;
}

static int build_snapshot(struct ctl *ctl, int argc, char **argv)
{
	bool diff = !strcmp(argv[1], "--diff");

	if (argc != 2 + diff)
		return usage_error("[--diff] DIR is expected", argv[0]);
	json_put_object(&ctl->body, NULL);
	json_put_string(&ctl->body, "snapshot_type", diff ? "Diff" : "Full");
	put_path(ctl, "snapshot_path", argv[1 + diff]);
	json_put_end(&ctl->body);
	return 0;
}

static int put_drive(struct ctl *ctl, const char *id, size_t len, const char *path)
{
	char name[64];

	if (snprintf(name, sizeof(name), "%.*s", (int)len, id) >= (int)sizeof(name))
		return usage_error("the disk's id is too long", id);
	json_put_object(&ctl->body, NULL);
	json_put_string(&ctl->body, "drive_id", name);
	put_path(ctl, "path_on_host", path);
	json_put_end(&ctl->body);
	return 0;
}

static int build_load(struct ctl *ctl, int argc, char **argv)
{
	struct json_writer *w = &ctl->body;
	const char *dir = NULL, *cid = NULL;
	bool resume = false, track = false;
	uint64_t n = 0;
	int disks = 0;

	json_put_object(w, NULL);
	for (int i = 1; i < argc; i++) {
		const char *word = argv[i];
		bool more = i + 1 < argc;

		if (!strcmp(word, "--resume"))
			resume = true;
		else if (!strcmp(word, "--track-dirty-pages"))
			track = true;
		else if (!strcmp(word, "--cid") && more)
			cid = argv[++i];
		else if (!strcmp(word, "--disk") && more && strchr(argv[i + 1], '=')) {
			const char *is = strchr(argv[++i], '=');

			if (!disks++)
				json_put_array(w, "drives");
			if (put_drive(ctl, argv[i], (size_t)(is - argv[i]), is + 1))
				return EXIT_USAGE;
		} else if (*word != '-' && !dir)
			dir = word;
		else
			return usage_error("not expected here, or incomplete", word);
	}
	if (disks)
		json_put_end(w);
	if (!dir)
		return usage_error("a snapshot's folder is missing", argv[0]);
	put_path(ctl, "snapshot_path", dir);
	json_put_bool(w, "resume_vm", resume);
	if (track)
		json_put_bool(w, "track_dirty_pages", true);
	if (cid && number(cid, &n))
		return EXIT_USAGE;
	if (cid)
		json_put_unsigned(w, "guest_cid", n);
	json_put_end(w);
	return 0;
}

static int build_disk(struct ctl *ctl, int argc, char **argv)
{
	snprintf(ctl->path, sizeof(ctl->path), "/drives/%.64s", argv[1]);
	return put_drive(ctl, argv[1], strlen(argv[1]), argv[2]);
}

static int build_memory_add(struct ctl *ctl, int argc, char **argv)
{
	struct json_writer *w = &ctl->body;
	uint64_t gpa, size, offset;

	if (argc < 4)
		return usage_error("an address and a size are expected", argv[1]);
	if (number(argv[2], &gpa) || number(argv[3], &size))
		return EXIT_USAGE;
	json_put_object(w, NULL);
	json_put_unsigned(w, "guest_address", gpa);
	json_put_unsigned(w, "size", size);
	for (int i = 4; i < argc; i++) {
		bool more = i + 1 < argc;

		if (!strcmp(argv[i], "--read-only"))
			json_put_bool(w, "read_only", true);
		else if (!strcmp(argv[i], "--shared"))
			json_put_bool(w, "shared", true);
		else if (!strcmp(argv[i], "--file") && more)
			put_path(ctl, "path_on_host", argv[++i]);
		else if (!strcmp(argv[i], "--offset") && more) {
			if (number(argv[++i], &offset))
				return EXIT_USAGE;
			json_put_unsigned(w, "offset", offset);
		} else
			return usage_error("not expected here, or incomplete", argv[i]);
	}
	json_put_end(w);
	ctl->method = HTTP_PUT;
	return 0;
}

static int build_memory(struct ctl *ctl, int argc, char **argv)
{
	uint64_t slot;

	if (!strcmp(argv[1], "list") && argc == 2)
		return 0;
	if (!strcmp(argv[1], "add"))
		return build_memory_add(ctl, argc, argv);
	if (strcmp(argv[1], "remove") || argc != 3)
		return usage_error("list, add or remove SLOT is expected", argv[1]);
	if (number(argv[2], &slot))
		return EXIT_USAGE;
	ctl->method = HTTP_DELETE;
	snprintf(ctl->path, sizeof(ctl->path), "/memory-regions/%" PRIu64, slot);
	return 0;
}

static int build_irq(struct ctl *ctl, int argc, char **argv)
{
	bool up = !strcmp(argv[2], "up"), pulse = !strcmp(argv[2], "pulse");
	uint64_t gsi;

	if (!up && !pulse && strcmp(argv[2], "down"))
		return usage_error("up, down or pulse is expected", argv[2]);
	if (number(argv[1], &gsi))
		return EXIT_USAGE;
	snprintf(ctl->path, sizeof(ctl->path), "/interrupts/%" PRIu64, gsi);
	json_put_object(&ctl->body, NULL);
	json_put_bool(&ctl->body, pulse ? "pulse" : "level", up || pulse);
	json_put_end(&ctl->body);
	return 0;
}

static int build_dirty(struct ctl *ctl, int argc, char **argv)
{
	bool on = !strcmp(argv[1], "on");

	if (!strcmp(argv[1], "status"))
		return 0;
	if (!strcmp(argv[1], "read")) {
		ctl->method = HTTP_POST;
		strcpy(ctl->path + strlen(ctl->path), "/read");
		return 0;
	}
	if (!on && strcmp(argv[1], "off"))
		return usage_error("on, off, status or read is expected", argv[1]);
	ctl->method = HTTP_PUT;
	json_put_object(&ctl->body, NULL);
	json_put_bool(&ctl->body, "enabled", on);
	json_put_end(&ctl->body);
	return 0;
}

static int build_log(struct ctl *ctl, int argc, char **argv)
{
	json_put_object(&ctl->body, NULL);
	json_put_string(&ctl->body, "level", argv[1]);
	json_put_end(&ctl->body);
	return 0;
}

static const char help[] =
	"usage: vinit ctl [--sock PATH] [--json] [--timeout SECONDS] VERB [WORD...]\n"
	"\n"
	"Asks the VMM that listens on PATH (vinit run --api-sock PATH); by default on $VINIT_SOCK, else on\n"
	"the only socket in " RUN_DIR ".\n"
	"\n"
	"  info | config | version | stats   what there is to know\n"
	"  start                    boot what was configured\n"
	"  pause | resume           hold the guest, let it go on\n"
	"  power-button             ask it to power off\n"
	"  stop                     ask it, and end it after --stop-timeout\n"
	"  end | reset              end it, boot it again, at once\n"
	"  wait                     until it has ended; says how\n"
	"  snapshot [--diff] DIR    of a paused guest\n"
	"  load [--resume] [--track-dirty-pages] [--cid N] [--disk ID=PATH]... DIR\n"
	"                           take a guest from a snapshot\n"
	"  disk ID PATH             another image behind a disk\n"
	"  memory list | remove SLOT\n"
	"  memory add ADDRESS SIZE [--read-only] [--file PATH [--offset N] [--shared]]\n"
	"  irq GSI up|down|pulse    an interrupt line\n"
	"  dirty on|off|status|read   the log of written pages\n"
	"  log error|warn|info|debug\n"
	"  console [serial|virtio]  connect the terminal to it; Ctrl-A d leaves\n"
	"  get|delete PATH, put|patch|post PATH [JSON]   a request as it is\n"
	"\n"
	"Exit status: 0 done, 1 refused or no answer, 2 usage.\n";

/* Arrays and no pointers: without relocations the table is half as large. */
static const struct verb {
	char name[13];
	uint8_t method : 4, min : 4;
	uint8_t max; /* words after it, as @min */
	char path[17];
	char body[14];	/* an action, or a state */
	char said[10];	/* when the reply is empty */
	int (*build)(struct ctl *ctl, int argc, char **argv); /* 0 or EXIT_USAGE */
} verbs[] = {
	{ "info", HTTP_GET, 0, 0, "/", "", "", NULL },
	{ "version", HTTP_GET, 0, 0, "/version", "", "", NULL },
	{ "config", HTTP_GET, 0, 0, "/vm/config", "", "", NULL },
	{ "stats", HTTP_GET, 0, 0, "/statistics", "", "", NULL },
	{ "start", HTTP_PUT, 0, 0, "/actions", "InstanceStart", "started", NULL },
	{ "pause", HTTP_PATCH, 0, 0, "/vm", "Paused", "paused", NULL },
	{ "resume", HTTP_PATCH, 0, 0, "/vm", "Resumed", "resumed", NULL },
	{ "power-button", HTTP_PUT, 0, 0, "/actions", "PowerButton", "pressed", NULL },
	{ "stop", HTTP_PUT, 0, 0, "/actions", "Stop", "stopping", NULL },
	{ "end", HTTP_PUT, 0, 0, "/actions", "End", "ending", NULL },
	{ "reset", HTTP_PUT, 0, 0, "/actions", "Reset", "resetting", NULL },
	{ "wait", HTTP_GET, 0, 0, "/wait", "", "", NULL },
	{ "snapshot", HTTP_PUT, 1, 2, "/snapshot/create", "", "written", build_snapshot },
	{ "load", HTTP_PUT, 1, 99, "/snapshot/load", "", "loaded", build_load },
	{ "disk", HTTP_PATCH, 2, 2, "", "", "changed", build_disk },
	{ "memory", HTTP_GET, 1, 99, "/memory-regions", "", "removed", build_memory },
	{ "irq", HTTP_PUT, 2, 2, "", "", "set", build_irq },
	{ "dirty", HTTP_GET, 1, 1, "/dirty-log", "", "set", build_dirty },
	{ "log", HTTP_PUT, 1, 1, "/logger", "", "set", build_log },
	{ "console", HTTP_GET, 0, 1, "/console", "", "", NULL },
	{ "get", HTTP_GET, 1, 1, "", "", "", build_raw },
	{ "put", HTTP_PUT, 1, 2, "", "", "done", build_raw },
	{ "patch", HTTP_PATCH, 1, 2, "", "", "done", build_raw },
	{ "post", HTTP_POST, 1, 2, "", "", "done", build_raw },
	{ "delete", HTTP_DELETE, 1, 1, "", "", "done", build_raw },
};

/* --- the connection ------------------------------------------------------------------------- */

static int no_socket(const char *why)
{
	log_err(RUN_DIR ": %s: say --sock PATH, or set VINIT_SOCK, to what `vinit run --api-sock` "
		"was given", why);
	return -1;
}

/* The only *.sock of the run-time folder. */
static int find_socket(struct ctl *ctl)
{
	const char *given = getenv("VINIT_SOCK");
	DIR *dir;
	struct dirent *entry;
	char why[400] = "there is no socket";
	unsigned int nr = 0;

	if (given && *given)
		return snprintf(ctl->sock, sizeof(ctl->sock), "%s", given) < (int)sizeof(ctl->sock) ?
			       0 : no_socket("VINIT_SOCK is too long");
	dir = opendir(RUN_DIR);
	if (!dir)
		return no_socket(errno_name(errno));
	while (nr < 2 && (entry = readdir(dir))) {
		size_t len = strlen(entry->d_name);

		if (len <= 5 || strcmp(entry->d_name + len - 5, ".sock") ||
		    sizeof(RUN_DIR) + len >= sizeof(ctl->sock))
			continue;
		if (nr++)
			snprintf(why, sizeof(why), "there are %s and %s",
				 ctl->sock + sizeof(RUN_DIR), entry->d_name);
		snprintf(ctl->sock, sizeof(ctl->sock), RUN_DIR "/%.*s", (int)len, entry->d_name);
	}
	closedir(dir);
	return nr == 1 ? 0 : no_socket(why);
}

static int dial(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	if (fd >= 0 && !connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
		return fd;
	log_err("%s: %s: %s", path, errno_name(errno),
		errno == ENOENT ? "check the path, and that the guest runs with --api-sock" :
		errno == ECONNREFUSED ? "nobody listens any more: the guest has ended" :
		errno == EACCES ? "the socket is its owner's alone" : "check that it is a socket");
	if (fd >= 0)
		close(fd);
	return -1;
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Sends what there is and reads to the end. Its length, or -errno. */
static ssize_t talk(struct ctl *ctl, int fd, const char *head, size_t head_len)
{
	int64_t deadline = now_ms() + ctl->timeout_ms;
	size_t len = 0;

	/* Small, and a server that does not read it says why in its reply, or by its end. */
	if (send(fd, head, head_len, MSG_NOSIGNAL) < 0 ||
	    (ctl->body.len && send(fd, ctl->request, ctl->body.len, MSG_NOSIGNAL) < 0)) {
		if (errno != EPIPE)
			return -errno;
	}
	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		int64_t left = ctl->timeout_ms < 0 ? -1 : deadline - now_ms();
		int ret = left < -1 ? 0 : poll(&p, 1, (int)left);
		ssize_t n;

		if (!ret)
			return -ETIMEDOUT;
		n = ret < 0 ? ret : recv(fd, ctl->reply + len, REPLY - len, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n)
			return (ssize_t)len;
		len += (size_t)n;
		if (len == REPLY)
			return -EMSGSIZE;
	}
}

/* The reply's status and body. */
static int read_reply(struct ctl *ctl, size_t len)
{
	const char *field;
	char *end;

	ctl->reply[len] = '\0';
	end = strstr(ctl->reply, "\r\n\r\n");
	if (strncmp(ctl->reply, "HTTP/1.", 7) || !end || end - ctl->reply < 12)
		goto bad;
	*end = '\0';
	ctl->status = (int)strtoull(ctl->reply + 9, NULL, 10);
	ctl->reply_body = end + 4;
	len -= (size_t)(ctl->reply_body - ctl->reply);
	field = strstr(ctl->reply, "Content-Length: ");
	if (strlen(ctl->reply_body) == len && (field ? strtoull(field + 16, NULL, 10) : 0) == len)
		return 0;
bad:
	log_err("%s: EPROTO: the reply is not whole: check that it is a vinit that listens there",
		ctl->sock);
	return -1;
}

static int request(struct ctl *ctl)
{
	char head[256];
	size_t len = (size_t)snprintf(head, sizeof(head), "%s %s HTTP/1.0\r\nContent-Length: %zu\r\n\r\n",
				      http_method_name(ctl->method), ctl->path, ctl->body.len);
	ssize_t ret;
	int fd;

	if (json_put_check(&ctl->body)) {
		log_err("the request is too long");
		return -1;
	}
	if (!ctl->body.len && ctl->method == HTTP_GET)
		len = (size_t)snprintf(head, sizeof(head), "GET %s HTTP/1.0\r\n\r\n", ctl->path);
	fd = dial(ctl->sock);
	if (fd < 0)
		return -1;
	ret = talk(ctl, fd, head, len);
	close(fd);
	if (!ret)
		ret = -ECONNRESET;
	if (ret < 0) {
		log_err("%s: %s: %s", ctl->sock, errno_name((int)ret),
			ret == -ETIMEDOUT ? "no answer in time, see --timeout" :
			ret == -ECONNRESET ? "the VMM ended before it answered" :
			"check the guest's log");
		return -1;
	}
	return read_reply(ctl, (size_t)ret);
}

/* --- replies for people --------------------------------------------------------------------- */

/* What json_read() has found to be JSON is cut without asking again. Empty at the end. */
static struct json_text cut(const char **at, const char *end)
{
	struct json_text text;
	unsigned int depth = 0;
	const char *p = *at;
	bool string = false;

	while (p < end && strchr(" \t\r\n,:", *p))
		p++;
	text.at = p;
	for (; p < end; p++) {
		if (string) {
			if (*p == '\\')
				p++;
			else if (*p == '"')
				string = false;
		} else if (*p == '"') {
			string = true;
		} else if (*p == '{' || *p == '[') {
			depth++;
		} else if (*p == '}' || *p == ']') {
			if (!depth || !--depth) {
				/* Its own bracket is the value's, the one around it is not. */
				p += *text.at == '{' || *text.at == '[';
				break;
			}
		} else if (!depth && strchr(" \t\r\n,:", *p)) {
			break;
		}
	}
	*at = p;
	text.len = (size_t)(p - text.at);
	return text;
}

/* A word of somebody else's, harmless on a terminal. Its width. */
static int scalar(struct json_text text, bool hex)
{
	char word[4096], error[JSON_ERROR_SIZE];
	struct json_member m = { "", JSON_STRING, .to = word, .size = sizeof(word) };

	if (*text.at == '"' && !json_read_value(text, &m, error, sizeof(error))) {
		for (char *p = word; *p; p++)
			*p = (unsigned char)*p < ' ' || *p == 0x7f ? '?' : *p;
	} else if (hex && isdigit((unsigned char)*text.at)) {
		snprintf(word, sizeof(word), "%#llx", strtoull(text.at, NULL, 10));
	} else {
		snprintf(word, sizeof(word), "%.*s", (int)text.len, text.at);
	}
	printf("%s", word);
	return (int)strlen(word);
}

/* What follows a word of @len in a column. */
static void blank(int len, int column)
{
	printf("%*s", len < column ? column - len + 1 : 1, "");
}

static bool is_address(struct json_text name)
{
	return name.len > 9 && !memcmp(name.at + name.len - 8, "address\"", 8);
}

#define COLUMN 15

/* One line for a list's element: cells of an object, numbers of an array. */
static void row(struct json_text element, bool names)
{
	bool object = *element.at == '{';
	const char *p = element.at + 1, *end = element.at + element.len;
	struct json_text cell;
	int len = -1;

	if (!object && *element.at != '[') {
		scalar(element, false);
		putchar('\n');
		return;
	}
	while ((cell = cut(&p, end)).len) {
		struct json_text value = object ? cut(&p, end) : cell;

		if (len >= 0)
			blank(len, COLUMN);
		len = names ? scalar(cell, false) : scalar(value, !object || is_address(cell));
	}
	putchar('\n');
}

static void show_list(struct json_text list)
{
	const char *p = list.at + 1, *end = list.at + list.len;
	struct json_text element;
	bool first = true;

	while ((element = cut(&p, end)).len) {
		if (first && *element.at == '{')
			row(element, true);
		first = false;
		row(element, false);
	}
}

static void show(struct json_text text, int indent)
{
	const char *p = text.at + 1, *end = text.at + text.len;
	struct json_text name, value;

	if (*text.at != '{') {
		show_list(text);
		return;
	}
	while ((name = cut(&p, end)).len) {
		int len;

		value = cut(&p, end);
		printf("%*s", indent, "");
		len = scalar(name, false);
		if (*value.at == '{' || *value.at == '[') {
			putchar('\n');
			show(value, indent + 2);
		} else {
			blank(len, 20);
			scalar(value, is_address(name));
			putchar('\n');
		}
	}
}

/*
 * Prints a reply of which nothing is known but that it is JSON, if it is: what json_read() checks
 * whole is an object, so it becomes the member of one, in the room around it.
 */
static int show_reply(struct ctl *ctl)
{
	size_t len = strlen(ctl->reply_body);
	char *whole = ctl->reply_body - 5, error[JSON_ERROR_SIZE];
	struct json_text text;
	struct json_member any = { "r", JSON_ANY, .to = &text, .required = true };

	memcpy(whole, "{\"r\":", 5);
	whole[5 + len] = '}';
	if (json_read(whole, len + 6, &any, 1, error, sizeof(error))) {
		log_err("%s: the reply is no JSON: %s", ctl->path, error);
		return EXIT_FAILED;
	}
	if (*text.at == '{' || *text.at == '[')
		show(text, 0);
	else
		row(text, false);
	return 0;
}

static int answer(struct ctl *ctl, const struct verb *verb)
{
	const char *body = ctl->reply_body;
	char fault[512], error[JSON_ERROR_SIZE];
	struct json_member m = { "fault_message", JSON_STRING, .to = fault, .size = sizeof(fault),
				 .required = true };

	if (ctl->json && *body)
		puts(body);
	if (ctl->status >= 300) {
		if (json_read(body, strlen(body), &m, 1, error, sizeof(error)))
			log_err("%s: status %d", ctl->path, ctl->status);
		else
			log_err("%s", fault);
		return EXIT_FAILED;
	}
	if (ctl->json)
		return 0;
	if (*body)
		return show_reply(ctl);
	puts(verb->said);
	return 0;
}

/* --- the console ---------------------------------------------------------------------------- */

/*
 * What was typed goes to @fd, but for the escapes. False: Ctrl-A d, or the other end is gone.
 */
static bool type(int fd, const char *buf, size_t len, bool *escaped)
{
	char out[512];
	size_t n = 0;

	for (size_t i = 0; i < len; i++) {
		if (*escaped) {
			*escaped = false;
			if (buf[i] == 'd')
				return false;
			if (buf[i] == 'a')
				out[n++] = ESCAPE;
		} else if (buf[i] == ESCAPE) {
			*escaped = true;
		} else {
			out[n++] = buf[i];
		}
	}
	return !n || send(fd, out, n, MSG_NOSIGNAL) >= 0;
}

static void copy(int fd, int wake, bool tty)
{
	struct pollfd p[] = {
		{ .fd = STDIN_FILENO, .events = POLLIN },
		{ .fd = fd, .events = POLLIN },
		{ .fd = wake, .events = POLLIN },
	};
	bool escaped = false;
	char buf[512];

	for (;;) {
		int ret = poll(p, 3, -1);
		uint64_t count;
		ssize_t n;

		if (ret < 0 && errno == EINTR)
			continue;
		if (ret < 0)
			return;
		if (p[2].revents && read(wake, &count, sizeof(count)) > 0 &&
		    terminal_signals() & TERMINAL_CONT)
			terminal_set_raw();
		if (p[1].revents) {
			n = read(fd, buf, sizeof(buf));
			if (n <= 0 || write(STDOUT_FILENO, buf, (size_t)n) < 0)
				return;
		}
		if (!p[0].revents)
			continue;
		n = tty ? terminal_read(buf, sizeof(buf)) : read(STDIN_FILENO, buf, sizeof(buf));
		if (n > 0 && (tty ? type(fd, buf, (size_t)n, &escaped) :
				    send(fd, buf, (size_t)n, MSG_NOSIGNAL) == n))
			continue;
		if (n > 0 || tty)
			return;
		/* A file or pipe is at its end; what the guest says to it may still come. */
		p[0].fd = -1;
		shutdown(fd, SHUT_WR);
	}
}

static int attach(const char *path)
{
	int fd = dial(path), wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	bool tty = isatty(STDIN_FILENO);

	if (fd < 0 || wake < 0)
		return EXIT_FAILED;
	if (tty) {
		dprintf(STDERR_FILENO, "%s: Ctrl-A d leaves, Ctrl-A a sends a Ctrl-A\n", path);
		terminal_claim();
		terminal_open(STDIN_FILENO, wake);
	}
	copy(fd, wake, tty);
	if (tty)
		terminal_close();
	close(fd);
	close(wake);
	return 0;
}

/* The API says where it is; the bytes themselves go past it. */
static int console(struct ctl *ctl, int argc, char **argv)
{
	const char *which = argc > 1 ? argv[1] : "serial";
	char is[2][256] = { "", "" }, path[2][256] = { "", "" }, error[JSON_ERROR_SIZE];
	struct json_member serial[] = {
		{ "is", JSON_STRING, .to = is[0], .size = sizeof(is[0]) },
		{ "path", JSON_STRING, .to = path[0], .size = sizeof(path[0]) },
	};
	struct json_member virtio[] = {
		{ "is", JSON_STRING, .to = is[1], .size = sizeof(is[1]) },
		{ "path", JSON_STRING, .to = path[1], .size = sizeof(path[1]) },
	};
	struct json_table tables[] = { { serial, 2 }, { virtio, 2 } };
	struct json_member members[] = {
		{ "serial", JSON_OBJECT, .to = &tables[0] },
		{ "virtio", JSON_OBJECT, .to = &tables[1] },
	};
	int i = !strcmp(which, "virtio");

	if (!i && strcmp(which, "serial"))
		return usage_error("serial or virtio is expected", which);
	if (json_read(ctl->reply_body, strlen(ctl->reply_body), members, 2, error, sizeof(error))) {
		log_err("%s: %s", ctl->path, error);
		return EXIT_FAILED;
	}
	if (*path[i])
		return attach(path[i]);
	if (!*is[i])
		log_err("the guest has no %s console", which);
	else
		log_err("the %s console is \"%s\", where only its own end can be reached: run the guest "
			"with unix=PATH in its place", which, is[i]);
	return EXIT_FAILED;
}

/* --- the verb ------------------------------------------------------------------------------- */

/* Options before the verb. Returns how many words they are, or -1 after saying what is wrong. */
static int options(struct ctl *ctl, int argc, char **argv)
{
	unsigned long seconds;
	int i = 0;

	for (; i < argc && *argv[i] == '-'; i++) {
		const char *value = i + 1 < argc ? argv[i + 1] : "";
		bool sock = !strcmp(argv[i], "--sock");

		if (!strcmp(argv[i], "--json")) {
			ctl->json = true;
			continue;
		}
		if (sock && *value && strlen(value) < sizeof(ctl->sock))
			strcpy(ctl->sock, value);
		else if (!strcmp(argv[i], "--timeout") && !conf_number(value, 0, 86400, &seconds))
			ctl->timeout_ms = seconds ? (int)seconds * 1000 : -1;
		else {
			if (!sock && strcmp(argv[i], "--timeout"))
				usage_error("there is no such option", argv[i]);
			else
				usage_error(*value ? "its value is wrong" : "its value is missing",
					    argv[i]);
			return -1;
		}
		i++;
	}
	return i;
}

static int run(struct ctl *ctl, const struct verb *verb, int argc, char **argv)
{
	int ret;

	ctl->method = verb->method;
	strcpy(ctl->path, verb->path);
	if (*verb->body) {
		json_put_object(&ctl->body, NULL);
		json_put_string(&ctl->body, verb->method == HTTP_PATCH ? "state" : "action_type",
				verb->body);
		json_put_end(&ctl->body);
	}
	ret = verb->build ? verb->build(ctl, argc, argv) : 0;
	if (ret)
		return ret;
	if (!*ctl->sock && find_socket(ctl))
		return EXIT_FAILED;
	if (request(ctl))
		return EXIT_FAILED;
	if (!strcmp(verb->name, "console") && ctl->status == 200 && !ctl->json)
		return console(ctl, argc, argv);
	return answer(ctl, verb);
}

int cmd_ctl(int argc, char **argv)
{
	struct ctl ctl = { .timeout_ms = 0 };
	const struct verb *verb = verbs, *end = verbs + sizeof(verbs) / sizeof(*verbs);
	bool asked = cmd_wants_help(argc, argv);
	int skip = asked ? 0 : options(&ctl, argc, argv), ret;

	if (skip < 0)
		return EXIT_USAGE;
	argc -= skip;
	argv += skip;
	asked |= argc && !strcmp(argv[0], "help");
	if (!argc || asked) {
		dprintf(asked ? STDOUT_FILENO : STDERR_FILENO, "%s", help);
		return asked ? 0 : EXIT_USAGE;
	}
	while (verb < end && strcmp(verb->name, argv[0]))
		verb++;
	if (verb == end)
		return usage_error("unknown verb", argv[0]);
	if (argc - 1 < verb->min || argc - 1 > verb->max)
		return usage_error("too few words behind it, or too many", argv[0]);
	/* To wait for the guest's end is to wait, unless somebody says how long. */
	if (!ctl.timeout_ms)
		ctl.timeout_ms = !strcmp(verb->name, "wait") ? -1 : TIMEOUT_MS;
	ctl.request = malloc(REQUEST);
	ctl.reply = malloc(REPLY + 1); /* what is read is less: room for a bracket */
	ret = EXIT_FAILED;
	if (!ctl.request || !ctl.reply) {
		log_err("out of memory");
	} else {
		json_put_start(&ctl.body, ctl.request, REQUEST);
		ret = run(&ctl, verb, argc, argv);
	}
	free(ctl.request);
	free(ctl.reply);
	return ret;
}
