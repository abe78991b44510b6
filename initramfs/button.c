/* SPDX-License-Identifier: MIT */
#include "initramfs/button.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/genetlink.h>
#include <linux/input.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>
#include "vm/conf.h"
#include "vm/log.h"

#define ACPI_FAMILY "acpi_event"
#define ACPI_GROUP  "acpi_mc_group"

/* From the kernel's drivers/acpi/event.c, which no uapi header shows. */
#define ACPI_CMD_EVENT	  1
#define ACPI_ATTR_EVENT	  1
#define ACPI_BUTTON_PRESS 0x80
struct acpi_event {
	char device_class[20];
	char bus_id[15];
	uint32_t type;
	uint32_t data;
};

/*
 * What is read in one turn of the main loop at most: a flood must not keep PID 1 from its other
 * work.
 */
#define MAX_READS 64

/* One attribute; @next is what follows it. */
struct attr {
	unsigned int type;
	const uint8_t *data;
	size_t len;
};

/* Cuts the first attribute off [*@p, *@p + *@len). False at the end, and when it does not fit. */
static bool next_attr(const uint8_t **p, size_t *len, struct attr *attr)
{
	struct nlattr head;
	size_t step;

	if (*len < sizeof(head))
		return false;
	memcpy(&head, *p, sizeof(head));
	if (head.nla_len < NLA_HDRLEN || head.nla_len > *len)
		return false;
	attr->type = head.nla_type & NLA_TYPE_MASK;
	attr->data = *p + NLA_HDRLEN;
	attr->len = head.nla_len - NLA_HDRLEN;
	step = NLA_ALIGN(head.nla_len);
	if (step > *len)
		step = *len;
	*p += step;
	*len -= step;
	return true;
}

static bool attr_is(const struct attr *attr, const char *text)
{
	size_t n = strlen(text) + 1;

	return attr->len >= n && !memcmp(attr->data, text, n);
}

/*
 * Cuts the first message off [*@msg, *@msg + *@len) and gives the attributes of a generic netlink
 * message of type @type and command @cmd (else @attrs stays NULL). False at the end.
 */
static bool next_message(const uint8_t **msg, size_t *len, unsigned int type, unsigned int cmd,
			 const uint8_t **attrs, size_t *attrs_len)
{
	const size_t heads = NLMSG_HDRLEN + GENL_HDRLEN;
	struct genlmsghdr genl;
	struct nlmsghdr head;
	size_t step;

	*attrs = NULL;
	if (*len < sizeof(head))
		return false;
	memcpy(&head, *msg, sizeof(head));
	if (head.nlmsg_len < sizeof(head) || head.nlmsg_len > *len)
		return false;
	if (head.nlmsg_type == type && head.nlmsg_len >= heads) {
		memcpy(&genl, *msg + NLMSG_HDRLEN, sizeof(genl));
		if (genl.cmd == cmd) {
			*attrs = *msg + heads;
			*attrs_len = head.nlmsg_len - heads;
		}
	}
	step = NLMSG_ALIGN(head.nlmsg_len);
	if (step > *len)
		step = *len;
	*msg += step;
	*len -= step;
	return true;
}

static bool parse_group(const uint8_t *p, size_t len, uint32_t *group)
{
	bool named = false, numbered = false;
	struct attr attr;

	while (next_attr(&p, &len, &attr)) {
		if (attr.type == CTRL_ATTR_MCAST_GRP_NAME)
			named = attr_is(&attr, ACPI_GROUP);
		if (attr.type == CTRL_ATTR_MCAST_GRP_ID && attr.len >= sizeof(*group)) {
			memcpy(group, attr.data, sizeof(*group));
			numbered = true;
		}
	}
	return named && numbered;
}

static bool parse_family(const uint8_t *p, size_t len, uint16_t *family, uint32_t *group)
{
	bool got_family = false, got_group = false;
	struct attr attr, each;
	const uint8_t *list;
	size_t list_len;

	while (next_attr(&p, &len, &attr)) {
		if (attr.type == CTRL_ATTR_FAMILY_ID && attr.len >= sizeof(*family)) {
			memcpy(family, attr.data, sizeof(*family));
			got_family = true;
		}
		if (attr.type != CTRL_ATTR_MCAST_GROUPS)
			continue;
		list = attr.data;
		list_len = attr.len;
		while (!got_group && next_attr(&list, &list_len, &each))
			got_group = parse_group(each.data, each.len, group);
	}
	return got_family && got_group;
}

bool button_parse_family(const void *msg, size_t len, uint16_t *family, uint32_t *group)
{
	const uint8_t *at = msg, *attrs;
	size_t attrs_len;

	while (next_message(&at, &len, GENL_ID_CTRL, CTRL_CMD_NEWFAMILY, &attrs, &attrs_len)) {
		if (attrs && parse_family(attrs, attrs_len, family, group))
			return true;
	}
	return false;
}

bool button_parse_acpi(const void *msg, size_t len, uint16_t family)
{
	const uint8_t *at = msg, *attrs;
	struct acpi_event event;
	struct attr attr;
	size_t attrs_len;

	while (next_message(&at, &len, family, ACPI_CMD_EVENT, &attrs, &attrs_len)) {
		while (attrs && next_attr(&attrs, &attrs_len, &attr)) {
			if (attr.type != ACPI_ATTR_EVENT || attr.len < sizeof(event))
				continue;
			memcpy(&event, attr.data, sizeof(event));
			event.device_class[sizeof(event.device_class) - 1] = '\0';
			if (!strcmp(event.device_class, "button/power") &&
			    event.type == ACPI_BUTTON_PRESS)
				return true;
		}
	}
	return false;
}

bool button_parse_input(const void *events, size_t len)
{
	const uint8_t *p = events;
	struct input_event event;

	for (; len >= sizeof(event); p += sizeof(event), len -= sizeof(event)) {
		memcpy(&event, p, sizeof(event));
		/* 1 is the press; 0 the release, 2 a key held down. */
		if (event.type == EV_KEY && event.code == KEY_POWER && event.value == 1)
			return true;
	}
	return false;
}

/* "ACTION@PATH", then words of "NAME=VALUE", each ended by a NUL. */
bool button_parse_uevent(const char *msg, size_t len)
{
	bool add = false, input = false;
	const char *end = msg + len;

	while (msg < end) {
		size_t n = strnlen(msg, end - msg);

		add |= n == 10 && !memcmp(msg, "ACTION=add", 10);
		input |= n == 15 && !memcmp(msg, "SUBSYSTEM=input", 15);
		msg += n < (size_t)(end - msg) ? n + 1 : n;
	}
	return add && input;
}

/*
 * One datagram, from the kernel only. Its length, 0 when there is nothing (more) to read, or
 * -errno.
 */
static ssize_t receive(int fd, void *buf, size_t size, int flags)
{
	struct sockaddr_nl from = { 0 };
	socklen_t from_len = sizeof(from);
	ssize_t n = recvfrom(fd, buf, size, flags, (struct sockaddr *)&from, &from_len);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	/* Any process may send to a netlink socket. An empty message says "go on" to the caller. */
	if (from.nl_pid) {
		memset(buf, 0, size);
		return 1;
	}
	return n;
}

static int ask_family(int fd, uint16_t *family, uint32_t *group)
{
	struct {
		struct nlmsghdr head;
		struct genlmsghdr genl;
		struct nlattr attr;
		char name[(sizeof(ACPI_FAMILY) + 3) & ~3u];
	} request = {
		.head = {
			.nlmsg_len = sizeof(request),
			.nlmsg_type = GENL_ID_CTRL,
			.nlmsg_flags = NLM_F_REQUEST,
			.nlmsg_seq = 1,
		},
		.genl = { .cmd = CTRL_CMD_GETFAMILY, .version = 1 },
		.attr = { .nla_len = NLA_HDRLEN + sizeof(ACPI_FAMILY), .nla_type = CTRL_ATTR_FAMILY_NAME },
		.name = ACPI_FAMILY,
	};
	struct timeval second = { .tv_sec = 1 };
	uint8_t buf[4096];
	ssize_t n;

	/*
	 * The kernel answers before send() returns; the time-out is for the day when it does not.
	 */
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof(second));
	if (send(fd, &request, sizeof(request), 0) < 0)
		return -errno;
	n = receive(fd, buf, sizeof(buf), 0);
	if (n < 0)
		return n;
	return button_parse_family(buf, n, family, group) ? 0 : -ENOENT;
}

static int open_acpi(struct buttons *buttons)
{
	uint32_t group = 0;
	int fd, err;

	fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
	if (fd < 0)
		return -errno;
	err = ask_family(fd, &buttons->family, &group);
	if (!err && setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group)))
		err = -errno;
	if (err) {
		close(fd);
		return err;
	}
	buttons->acpi = fd;
	return 0;
}

static int open_uevent(struct buttons *buttons)
{
	struct sockaddr_nl group = { .nl_family = AF_NETLINK, .nl_groups = 1 };
	int fd, err;

	fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT);
	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&group, sizeof(group))) {
		err = -errno;
		close(fd);
		return err;
	}
	buttons->uevent = fd;
	return 0;
}

static bool has_power_key(int fd)
{
	unsigned long keys[KEY_CNT / (CHAR_BIT * sizeof(long)) + 1] = { 0 };
	const unsigned int bits = CHAR_BIT * sizeof(long);

	if (ioctl(fd, EVIOCGBIT(EV_KEY, sizeof(keys)), keys) < 0)
		return false;
	return keys[KEY_POWER / bits] >> (KEY_POWER % bits) & 1;
}

static void add_input(struct buttons *buttons, unsigned int event)
{
	char path[64];
	int fd;

	for (unsigned int i = 0; i < buttons->nr; i++) {
		if (buttons->input[i].event == event)
			return;
	}
	if (buttons->nr == BUTTON_MAX_INPUTS)
		return;
	snprintf(path, sizeof(path), "/dev/input/event%u", event);
	fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return;
	if (!has_power_key(fd)) {
		close(fd);
		return;
	}
	log_debug("%s: has a power button", path);
	buttons->input[buttons->nr].fd = fd;
	buttons->input[buttons->nr++].event = event;
}

static void scan_inputs(struct buttons *buttons)
{
	DIR *dir = opendir("/dev/input");
	struct dirent *entry;
	unsigned long event;

	if (!dir)
		return;
	while ((entry = readdir(dir))) {
		/* Not sscanf(): in a static binary it costs 12 KB, floating point and all. */
		if (!strncmp(entry->d_name, "event", 5) &&
		    !conf_number(entry->d_name + 5, 0, INT_MAX, &event))
			add_input(buttons, (unsigned int)event);
	}
	closedir(dir);
}

void buttons_open(struct buttons *buttons)
{
	int err;

	memset(buttons, 0, sizeof(*buttons));
	buttons->acpi = -1;
	buttons->uevent = -1;
	err = open_acpi(buttons);
	if (err)
		log_debug("no power button by ACPI events: %s", errno_name(err));
	/* Before the scan, so that no device falls between the two. */
	err = open_uevent(buttons);
	if (err)
		log_debug("later input devices will not be noticed: %s", errno_name(err));
	scan_inputs(buttons);
	if (buttons->acpi < 0 && !buttons->nr)
		log_info("this machine shows no power button (button, gpio_keys, evdev: loaded?)");
}

unsigned int buttons_poll(const struct buttons *buttons, struct pollfd *fds)
{
	unsigned int n = 0;

	/* poll() skips what is negative, so the places are fixed. */
	fds[n++] = (struct pollfd){ .fd = buttons->acpi, .events = POLLIN };
	fds[n++] = (struct pollfd){ .fd = buttons->uevent, .events = POLLIN };
	for (unsigned int i = 0; i < buttons->nr; i++)
		fds[n++] = (struct pollfd){ .fd = buttons->input[i].fd, .events = POLLIN };
	return n;
}

static bool read_acpi(struct buttons *buttons)
{
	uint8_t buf[4096];
	bool pressed = false;
	ssize_t n;

	for (int i = 0; i < MAX_READS; i++) {
		n = receive(buttons->acpi, buf, sizeof(buf), MSG_DONTWAIT);
		/* ENOBUFS: events were lost, more will come. Anything else will not get better. */
		if (n < 0 && n != -ENOBUFS) {
			log_warn("power button: reading ACPI events: %s", errno_name(n));
			close(buttons->acpi);
			buttons->acpi = -1;
		}
		if (n <= 0)
			break;
		pressed |= button_parse_acpi(buf, n, buttons->family);
	}
	return pressed;
}

static void read_uevents(struct buttons *buttons)
{
	char buf[8192];
	bool scan = false;
	ssize_t n;

	for (int i = 0; i < MAX_READS; i++) {
		n = receive(buttons->uevent, buf, sizeof(buf), MSG_DONTWAIT);
		scan |= n == -ENOBUFS;
		if (n < 0 && n != -ENOBUFS) {
			close(buttons->uevent);
			buttons->uevent = -1;
		}
		if (n <= 0)
			break;
		scan |= button_parse_uevent(buf, n);
	}
	if (scan)
		scan_inputs(buttons);
}

/* Marks a device that has gone; buttons_read() takes it out. */
static bool read_input(struct buttons *buttons, unsigned int i)
{
	struct input_event events[MAX_READS];
	ssize_t n = read(buttons->input[i].fd, events, sizeof(events));

	if (n > 0)
		return button_parse_input(events, n);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	close(buttons->input[i].fd);
	buttons->input[i].fd = -1;
	return false;
}

bool buttons_read(struct buttons *buttons, const struct pollfd *fds, unsigned int nr)
{
	bool pressed = false;
	unsigned int kept = 0;

	for (unsigned int i = 2; i < nr; i++) {
		if (fds[i].revents)
			pressed |= read_input(buttons, i - 2);
	}
	for (unsigned int i = 0; i < buttons->nr; i++) {
		if (buttons->input[i].fd >= 0)
			buttons->input[kept++] = buttons->input[i];
	}
	buttons->nr = kept;
	if (fds[0].revents)
		pressed |= read_acpi(buttons);
	if (fds[1].revents)
		read_uevents(buttons);
	return pressed;
}
