/* SPDX-License-Identifier: MIT */
/* The paths of the control API that are about the configuration. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "cmd/config.h"
#include "cmd/control_route.h"
#include "virtio/blk.h"

/* What the API sets goes through the keys of configuration files: the same rules, the same words. */
static int set_number(struct guest_config *config, const char *section, const char *key,
		      uint64_t value, const char *unit, char why[LOG_SENTENCE])
{
	char text[32];

	snprintf(text, sizeof(text), "%" PRIu64 "%s", value, unit);
	return config_set(config, section, key, text, why);
}

/* False after a refusal. */
static bool may_configure(struct control *c, struct server_call *call)
{
	enum state_id now = machine_state(c->machine);

	if (now == STATE_CREATED)
		return true;
	server_fail(call, 400, "configure: the machine is %s%s; expected %s",
		    now == STATE_ERROR ? "in " : "", state_name(now), state_name(STATE_CREATED));
	return false;
}

/* --- the machine ---------------------------------------------------------------------------- */

static void put_machine(struct json_writer *w, const char *name, const struct guest_config *config)
{
	struct guest_config shown = *config;

	config_defaults(&shown);
	json_put_object(w, name);
	json_put_unsigned(w, "vcpu_count", shown.cpus);
	json_put_unsigned(w, "mem_size_mib", shown.memory >> 20);
	json_put_bool(w, "track_dirty_pages", shown.track_dirty);
	json_put_string(w, "huge_pages", shown.hugepages ? "2M" : "None");
	json_put_end(w);
}

enum server_answer control_get_machine(struct control *c, struct server_call *call)
{
	put_machine(&call->body, NULL, machine_config(c->machine));
	return SERVER_DONE;
}

/* PATCH as well: what is left out stays. PUT: it goes back to what it is by itself. */
enum server_answer control_put_machine(struct control *c, struct server_call *call)
{
	const struct control_body *b = &c->body;
	struct guest_config *config = machine_config(c->machine);
	/* Numbers alone are changed in it, so that its strings stay whose they are. */
	struct guest_config next = *config;
	bool patch = call->request->method == HTTP_PATCH;
	bool huge = b->given & B(HUGE) ? b->huge == HUGE_2M : patch && config->hugepages;
	char why[LOG_SENTENCE];
	int ret = 0;

	if (!may_configure(c, call))
		return SERVER_DONE;
	if (b->given & B(VCPUS))
		ret = set_number(&next, "guest", "cpus", b->vcpus, "", why);
	if (!ret && b->given & B(MEMORY))
		ret = set_number(&next, "guest", "memory", b->memory, "M", why);
	if (ret)
		return control_refuse(call, ret, why);
	next.hugepages = huge;
	if (b->given & B(TRACK) || !patch)
		next.track_dirty = b->track;
	*config = next;
	return SERVER_DONE;
}

static void swap_strings(char **a, char **b)
{
	char *was = *a;

	*a = *b;
	*b = was;
}

enum server_answer control_put_boot(struct control *c, struct server_call *call)
{
	const struct control_body *b = &c->body;
	struct guest_config *config = machine_config(c->machine), next;
	char why[LOG_SENTENCE];
	int ret;

	if (!may_configure(c, call))
		return SERVER_DONE;
	config_init(&next);
	ret = config_set(&next, "guest", "kernel", b->path, why);
	if (!ret && b->given & B(INITRD))
		ret = config_set(&next, "guest", "initrd", b->initrd, why);
	if (!ret && b->given & B(ARGS))
		ret = config_set(&next, "guest", "cmdline", b->args, why);
	if (!ret) {
		swap_strings(&config->kernel, &next.kernel);
		swap_strings(&config->initrd, &next.initrd);
		swap_strings(&config->cmdline, &next.cmdline);
	}
	config_free(&next);
	return control_result(call, ret, why);
}

/* --- disks ---------------------------------------------------------------------------------- */

static bool has_id(const struct guest_config *config, unsigned int i, const char *id)
{
	char own[24];

	snprintf(own, sizeof(own), DISK_DEFAULT_ID, i);
	return !strcmp(config->disk[i].id ? config->disk[i].id : own, id);
}

/* The id in the path, that no second spelling may name; the body has the same. */
static int check_id(struct control *c, char why[LOG_SENTENCE])
{
	for (const char *p = c->id; *p; p++) {
		if (!isalnum((unsigned char)*p) && !strchr("-_.", *p)) {
			snprintf(why, LOG_SENTENCE,
				 "an id has letters, digits, '-', '_' and '.'");
			return -EINVAL;
		}
	}
	if (!strcmp(c->id, c->body.drive_id))
		return 0;
	snprintf(why, LOG_SENTENCE, "\"%s\": expected what the path says, \"%.24s\"",
		 c->body.given & B(DRIVE_ID) ? "drive_id" : "iface_id", c->id);
	return -EINVAL;
}

static int add_disk(struct guest_config *config, const char *id, const char *path,
		    char why[LOG_SENTENCE])
{
	int ret = config_set(config, "disk", NULL, NULL, why);

	if (!ret)
		ret = config_set(config, "disk", "id", id, why);
	if (!ret)
		ret = config_set(config, "disk", "path", path, why);
	return ret;
}

enum server_answer control_put_drive(struct control *c, struct server_call *call)
{
	const struct control_body *b = &c->body;
	struct guest_config *config = machine_config(c->machine), next;
	struct disk_config was;
	char why[LOG_SENTENCE];
	unsigned int i = 0;
	int ret;

	if (!may_configure(c, call))
		return SERVER_DONE;
	if (b->root) {
		server_fail(call, 400, "\"is_root_device\": nothing is put on the command line by "
			    "it: say root=/dev/vda in boot_args, and false here");
		return SERVER_DONE;
	}
	config_init(&next);
	ret = check_id(c, why);
	if (!ret)
		ret = add_disk(&next, b->drive_id, b->path, why);
	while (i < config->nr_disks && !has_id(config, i, b->drive_id))
		i++;
	if (!ret && i == config->nr_disks)
		ret = config_set(config, "disk", NULL, NULL, why);
	if (!ret) {
		next.disk[0].readonly = b->drive_readonly;
		next.disk[0].direct = b->direct;
		next.disk[0].discard = b->discard;
		next.disk[0].engine = b->engine;
		was = config->disk[i];
		config->disk[i] = next.disk[0];
		next.disk[0] = was;
	}
	config_free(&next);
	return control_result(call, ret, why);
}

enum server_answer control_patch_drive(struct control *c, struct server_call *call)
{
	char why[LOG_SENTENCE];
	int ret = check_id(c, why);

	if (!ret)
		ret = machine_disk(c->machine, c->body.drive_id, c->body.path, why);
	return control_result(call, ret, why);
}

/* --- networks ------------------------------------------------------------------------------- */

static int add_nic(struct guest_config *next, const struct control_body *b, char why[LOG_SENTENCE])
{
	int ret = config_set(next, "net", NULL, NULL, why);

	if (!ret)
		ret = config_set(next, "net", "id", b->drive_id, why);
	/* One buffer has them all: more than one is the last one twice, which is refused. */
	if (!ret && b->given & B(TAP))
		ret = config_set(next, "net", "tap", b->path, why);
	if (!ret && b->given & B(BRIDGE))
		ret = config_set(next, "net", "bridge", b->path, why);
	if (!ret && b->given & B(PASST))
		ret = config_set(next, "net", "passt", b->path, why);
	if (!ret && b->given & B(MAC))
		ret = config_set(next, "net", "mac", b->mac, why);
	if (!ret && b->given & B(QUEUES))
		ret = set_number(next, "net", "queues", b->queues, "", why);
	if (!ret && b->given & B(MTU))
		ret = set_number(next, "net", "mtu", b->mtu, "", why);
	if (!ret && b->given & B(VHOST))
		ret = config_set(next, "net", "vhost", b->vhost ? "yes" : "no", why);
	if (!ret && !next->nic[0].peer) {
		snprintf(why, LOG_SENTENCE, "\"host_dev_name\", \"bridge\" or \"passt\": one of them is "
			 "expected");
		ret = -EINVAL;
	}
	return ret;
}

static bool has_nic_id(const struct guest_config *config, unsigned int i, const char *id)
{
	char own[24];

	snprintf(own, sizeof(own), NIC_DEFAULT_ID, i);
	return !strcmp(config->nic[i].id ? config->nic[i].id : own, id);
}

enum server_answer control_put_net(struct control *c, struct server_call *call)
{
	struct guest_config *config = machine_config(c->machine), next;
	struct nic_config was;
	char why[LOG_SENTENCE];
	unsigned int i = 0;
	int ret;

	if (!may_configure(c, call))
		return SERVER_DONE;
	config_init(&next);
	ret = check_id(c, why);
	if (!ret)
		ret = add_nic(&next, &c->body, why);
	while (i < config->nr_nics && !has_nic_id(config, i, c->body.drive_id))
		i++;
	if (!ret && i == config->nr_nics)
		ret = config_set(config, "net", NULL, NULL, why);
	if (!ret) {
		was = config->nic[i];
		config->nic[i] = next.nic[0];
		next.nic[0] = was;
	}
	config_free(&next);
	return control_result(call, ret, why);
}

/* --- the other devices, and the log --------------------------------------------------------- */

enum server_answer control_put_vsock(struct control *c, struct server_call *call)
{
	struct guest_config *config = machine_config(c->machine);
	struct guest_config next = *config;
	char why[LOG_SENTENCE];
	int ret;

	if (!may_configure(c, call))
		return SERVER_DONE;
	ret = config_set(&next, "vsock", NULL, NULL, why);
	if (!ret)
		ret = set_number(&next, "vsock", "cid", c->body.cid, "", why);
	if (!ret)
		*config = next;
	return control_result(call, ret, why);
}

enum server_answer control_put_entropy(struct control *c, struct server_call *call)
{
	if (may_configure(c, call))
		machine_config(c->machine)->rng = true;
	return SERVER_DONE;
}

/*
 * A later file takes the former one's descriptor, at once: another thread may be writing a line.
 */
static int open_log(struct control *c, const char *path, char why[LOG_SENTENCE])
{
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0600);

	if (fd < 0)
		return log_refuse(why, -errno, "log file %.80s: %s: check that its folder exists and "
				  "can be written to", path, errno_name(errno));
	if (c->log_fd < 0) {
		c->log_fd = fd;
		log_set_fd(fd, false);
		return 0;
	}
	dup3(fd, c->log_fd, O_CLOEXEC);
	close(fd);
	return 0;
}

/* Levels in any case, and Firecracker's word for "warn". */
enum server_answer control_put_logger(struct control *c, struct server_call *call)
{
	struct control_body *b = &c->body;
	struct guest_config *config = machine_config(c->machine);
	char why[LOG_SENTENCE];
	int ret = 0;

	for (char *p = b->level; *p; p++)
		*p = (char)tolower((unsigned char)*p);
	if (!strcmp(b->level, "warning"))
		b->level[4] = '\0';
	if (b->given & B(LEVEL) && log_parse_level(b->level) < 0) {
		server_fail(call, 400, "\"level\": expected Error, Warning, Info or Debug");
		return SERVER_DONE;
	}
	if (b->given & B(LOG_PATH))
		ret = open_log(c, b->path, why);
	if (!ret && b->given & B(LOG_PATH))
		ret = config_set(config, "guest", "log-file", b->path, why);
	if (!ret && b->given & B(LEVEL)) {
		ret = config_set(config, "guest", "log-level", b->level, why);
		log_set_level((enum log_level)log_parse_level(b->level));
	}
	return control_result(call, ret, why);
}

/* --- all of it ------------------------------------------------------------------------------ */

static void put_drives(struct json_writer *w, const struct guest_config *config)
{
	json_put_array(w, "drives");
	for (unsigned int i = 0; i < config->nr_disks; i++) {
		const struct disk_config *disk = &config->disk[i];

		json_put_object(w, NULL);
		if (disk->id)
			json_put_string(w, "drive_id", disk->id);
		else
			json_put_format(w, "drive_id", DISK_DEFAULT_ID, i);
		json_put_string(w, "path_on_host", disk->path);
		json_put_bool(w, "is_root_device", false);
		json_put_bool(w, "is_read_only", disk->readonly);
		json_put_bool(w, "direct", disk->direct);
		json_put_bool(w, "discard", disk->discard);
		json_put_string(w, "io_engine", disk->engine == BLK_AUTO ? "Auto" :
						disk->engine == BLK_SYNC ? "Sync" : "Async");
		json_put_end(w);
	}
	json_put_end(w);
}

static void put_nics(struct json_writer *w, const struct guest_config *config)
{
	static const char *const peers[] = {
		[NET_TAP] = "host_dev_name", [NET_BRIDGE] = "bridge", [NET_PASST] = "passt",
	};

	json_put_array(w, "network-interfaces");
	for (unsigned int i = 0; i < config->nr_nics; i++) {
		const struct nic_config *nic = &config->nic[i];
		const uint8_t *mac = nic->mac;

		json_put_object(w, NULL);
		if (nic->id)
			json_put_string(w, "iface_id", nic->id);
		else
			json_put_format(w, "iface_id", NIC_DEFAULT_ID, i);
		json_put_string(w, peers[nic->kind], nic->peer);
		if (nic->has_mac)
			json_put_format(w, "guest_mac", "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1],
					mac[2], mac[3], mac[4], mac[5]);
		json_put_unsigned(w, "queues", nic->queues ? nic->queues : 1);
		if (nic->mtu)
			json_put_unsigned(w, "mtu", nic->mtu);
		if (nic->vhost != NET_VHOST_AUTO)
			json_put_bool(w, "vhost", nic->vhost == NET_VHOST_YES);
		json_put_end(w);
	}
	json_put_end(w);
}

static void put_if(struct json_writer *w, const char *name, const char *value)
{
	if (value)
		json_put_string(w, name, value);
}

enum server_answer control_get_config(struct control *c, struct server_call *call)
{
	const struct guest_config *config = machine_config(c->machine);
	struct json_writer *w = &call->body;

	json_put_object(w, NULL);
	json_put_object(w, "boot-source");
	put_if(w, "kernel_image_path", config->kernel);
	put_if(w, "initrd_path", config->initrd);
	put_if(w, "boot_args", config->cmdline);
	json_put_end(w);
	put_drives(w, config);
	put_nics(w, config);
	put_machine(w, "machine-config", config);
	if (config->vsock) {
		json_put_object(w, "vsock");
		json_put_unsigned(w, "guest_cid", config->vsock_cid);
		json_put_end(w);
	}
	if (config->rng) {
		json_put_object(w, "entropy");
		json_put_end(w);
	}
	json_put_object(w, "logger");
	json_put_string(w, "level", config->log_level ? config->log_level : "info");
	put_if(w, "log_path", config->log_file);
	json_put_end(w);
	put_if(w, "console", config->console);
	put_if(w, "virtio-console", config->vconsole);
	put_if(w, "restore", config->restore);
	json_put_string(w, "on-reset", config->on_reset_exit ? "exit" : "restart");
	json_put_unsigned(w, "stop-timeout", config->stop_timeout);
	json_put_end(w);
	return SERVER_DONE;
}

/* --- what a load changes -------------------------------------------------------------------- */

struct config_undo {
	struct guest_config former; /* those members alone that the load has changed */
	bool disks, vsock;
};

static int read_drives(struct guest_config *config, struct json_text drives, char why[LOG_SENTENCE])
{
	char id[DRIVE_ID_SIZE], path[PATH_MAX], error[JSON_ERROR_SIZE];
	struct json_text element;
	int ret = 0;

	while (!ret && json_next(&drives, &element)) {
		struct json_member members[] = {
			{ "drive_id", JSON_STRING, .to = id, .size = sizeof(id), .required = true },
			{ "path_on_host", JSON_STRING, .to = path, .size = sizeof(path),
			  .required = true },
		};

		ret = json_read(element.at, element.len, members, 2, error, sizeof(error));
		if (ret)
			snprintf(why, LOG_SENTENCE, "\"drives\": %.170s", error);
		else
			ret = add_disk(config, id, path, why);
	}
	return ret;
}

/* Twice is not at all. */
static void swap_load(struct guest_config *config, struct config_undo *undo)
{
	struct guest_config *other = &undo->former;
	struct guest_config was = *config;

	swap_strings(&config->restore, &other->restore);
	config->track_dirty = other->track_dirty;
	other->track_dirty = was.track_dirty;
	if (undo->vsock) {
		config->vsock = other->vsock;
		config->vsock_cid = other->vsock_cid;
		other->vsock = was.vsock;
		other->vsock_cid = was.vsock_cid;
	}
	if (undo->disks) {
		config->nr_disks = other->nr_disks;
		memcpy(config->disk, other->disk, sizeof(config->disk));
		other->nr_disks = was.nr_disks;
		memcpy(other->disk, was.disk, sizeof(was.disk));
	}
}

int control_load_config(struct control *c, struct config_undo **undo, char why[LOG_SENTENCE])
{
	const struct control_body *b = &c->body;
	struct guest_config *config = machine_config(c->machine);
	struct config_undo *u = calloc(1, sizeof(*u));
	int ret;

	if (!u) {
		snprintf(why, LOG_SENTENCE, "out of memory");
		return -ENOMEM;
	}
	config_init(&u->former);
	u->disks = b->given & B(DRIVES);
	u->vsock = b->given & B(CID);
	u->former.track_dirty = config->track_dirty;
	if (b->given & (B(TRACK) | B(DIFFS)))
		u->former.track_dirty = b->track || b->diffs;
	ret = config_set(&u->former, "guest", "restore", b->path, why);
	if (!ret && u->disks)
		ret = read_drives(&u->former, b->drives, why);
	if (!ret && u->vsock)
		ret = config_set(&u->former, "vsock", NULL, NULL, why);
	if (!ret && u->vsock)
		ret = set_number(&u->former, "vsock", "cid", b->cid, "", why);
	if (ret) {
		config_free(&u->former);
		free(u);
		return ret;
	}
	swap_load(config, u);
	*undo = u;
	log_forget_error();
	ret = config_check(config);
	if (ret) {
		log_first_error(why);
		control_load_done(c, u, false);
	}
	return ret;
}

void control_load_done(struct control *c, struct config_undo *undo, bool ok)
{
	if (!ok)
		swap_load(machine_config(c->machine), undo);
	config_free(&undo->former);
	free(undo);
}
