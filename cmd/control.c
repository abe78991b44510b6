/* SPDX-License-Identifier: MIT */
#include "cmd/control.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "cmd/control_route.h"
#include "virtio/blk.h"
#include "vm/conf.h"

#define DRAIN_MS 1000

/* In the order of the enums in cmd/control_route.h, engines in that of virtio/blk.h. */
static const char actions[] = "InstanceStart\0SendCtrlAltDel\0PowerButton\0Reset\0Stop\0End\0";
static const char huge_pages[] = "None\0Transparent\0" "2M\0";
static const char engines[] = "Auto\0Sync\0Async\0";
static const char snapshot_types[] = "Full\0Diff\0";
static const char states[] = "Paused\0Resumed\0";

/* Names are arrays, so that the table needs no relocations. */
static const struct field {
	char name[22];
	uint8_t type; /* enum json_type */
	uint16_t offset, size;
	const char *words;
} fields[F_NR] = {
#define FIELD(name, type, to, ...)                                                                 \
	{ name, JSON_##type, offsetof(struct control_body, to),                                    \
	  sizeof(((struct control_body *)0)->to), __VA_ARGS__ }
	[F_ACTION] = FIELD("action_type", WORD, action, actions),
	[F_ARGS] = FIELD("boot_args", STRING, args, NULL),
	[F_BRIDGE] = FIELD("bridge", STRING, path, NULL),
	[F_CID] = FIELD("guest_cid", UNSIGNED, cid, NULL),
	[F_DIFFS] = FIELD("enable_diff_snapshots", BOOL, diffs, NULL),
	[F_DIRECT] = FIELD("direct", BOOL, direct, NULL),
	[F_DISCARD] = FIELD("discard", BOOL, discard, NULL),
	[F_DRIVES] = FIELD("drives", ARRAY, drives, NULL),
	[F_DRIVE_ID] = FIELD("drive_id", STRING, drive_id, NULL),
	[F_ENABLED] = FIELD("enabled", BOOL, enabled, NULL),
	[F_ENGINE] = FIELD("io_engine", WORD, engine, engines),
	[F_GPA] = FIELD("guest_address", UNSIGNED, gpa, NULL),
	[F_HUGE] = FIELD("huge_pages", WORD, huge, huge_pages),
	[F_IFACE_ID] = FIELD("iface_id", STRING, drive_id, NULL),
	[F_INITRD] = FIELD("initrd_path", STRING, initrd, NULL),
	[F_KERNEL] = FIELD("kernel_image_path", STRING, path, NULL),
	[F_LEVEL] = FIELD("level", STRING, level, NULL),
	[F_LINE] = FIELD("level", BOOL, line, NULL),
	[F_LOG_PATH] = FIELD("log_path", STRING, path, NULL),
	[F_MAC] = FIELD("guest_mac", STRING, mac, NULL),
	[F_MEMORY] = FIELD("mem_size_mib", UNSIGNED, memory, NULL),
	[F_MTU] = FIELD("mtu", UNSIGNED, mtu, NULL),
	[F_OFFSET] = FIELD("offset", UNSIGNED, offset, NULL),
	[F_PASST] = FIELD("passt", STRING, path, NULL),
	[F_PATH] = FIELD("path_on_host", STRING, path, NULL),
	[F_PULSE] = FIELD("pulse", BOOL, pulse, NULL),
	[F_QUEUES] = FIELD("queues", UNSIGNED, queues, NULL),
	[F_READONLY] = FIELD("read_only", BOOL, readonly, NULL),
	[F_DRIVE_READONLY] = FIELD("is_read_only", BOOL, drive_readonly, NULL),
	[F_RESUME] = FIELD("resume_vm", BOOL, resume, NULL),
	[F_ROOT] = FIELD("is_root_device", BOOL, root, NULL),
	[F_SHARED] = FIELD("shared", BOOL, shared, NULL),
	[F_SIZE] = FIELD("size", UNSIGNED, size, NULL),
	[F_SNAPSHOT] = FIELD("snapshot_path", STRING, path, NULL),
	[F_SNAPSHOT_TYPE] = FIELD("snapshot_type", WORD, type, snapshot_types),
	[F_STATE] = FIELD("state", WORD, state, states),
	[F_TAP] = FIELD("host_dev_name", STRING, path, NULL),
	[F_TRACK] = FIELD("track_dirty_pages", BOOL, track, NULL),
	[F_VCPUS] = FIELD("vcpu_count", UNSIGNED, vcpus, NULL),
	[F_VHOST] = FIELD("vhost", BOOL, vhost, NULL),
};

#define MACHINE_FIELDS (B(VCPUS) | B(MEMORY) | B(TRACK) | B(HUGE))
#define LOGGER_FIELDS  (B(LEVEL) | B(LOG_PATH))

/* A path that ends in "/" and is more than that takes one more part, the name of a thing. */
static const struct route {
	char path[21];
	uint8_t method;	    /* enum http_method */
	uint64_t required;  /* members of the body */
	uint64_t may;	    /* those that may be there besides; nothing at all: no body */
	control_fn *fn;
} routes[] = {
	{ "/", HTTP_GET, 0, 0, control_get_info },
	{ "/version", HTTP_GET, 0, 0, control_get_version },
	{ "/machine-config", HTTP_GET, 0, 0, control_get_machine },
	{ "/machine-config", HTTP_PUT, B(VCPUS) | B(MEMORY), MACHINE_FIELDS, control_put_machine },
	{ "/machine-config", HTTP_PATCH, 0, MACHINE_FIELDS, control_put_machine },
	{ "/vm/config", HTTP_GET, 0, 0, control_get_config },
	{ "/boot-source", HTTP_PUT, B(KERNEL), B(INITRD) | B(ARGS), control_put_boot },
	{ "/drives/", HTTP_PUT, B(DRIVE_ID) | B(PATH),
	  B(ROOT) | B(DRIVE_READONLY) | B(DIRECT) | B(DISCARD) | B(ENGINE), control_put_drive },
	{ "/drives/", HTTP_PATCH, B(DRIVE_ID) | B(PATH), 0, control_patch_drive },
	{ "/network-interfaces/", HTTP_PUT, B(IFACE_ID),
	  B(TAP) | B(BRIDGE) | B(PASST) | B(MAC) | B(QUEUES) | B(MTU) | B(VHOST), control_put_net },
	{ "/vsock", HTTP_PUT, B(CID), 0, control_put_vsock },
	{ "/entropy", HTTP_PUT, 0, 0, control_put_entropy },
	{ "/logger", HTTP_PUT, 0, LOGGER_FIELDS, control_put_logger },
	{ "/logger", HTTP_PATCH, 0, LOGGER_FIELDS, control_put_logger },
	{ "/actions", HTTP_PUT, B(ACTION), 0, control_put_action },
	{ "/vm", HTTP_PATCH, B(STATE), 0, control_patch_vm },
	{ "/snapshot/create", HTTP_PUT, B(SNAPSHOT), B(SNAPSHOT_TYPE), control_put_snapshot },
	{ "/snapshot/load", HTTP_PUT, B(SNAPSHOT),
	  B(RESUME) | B(TRACK) | B(DIFFS) | B(DRIVES) | B(CID), control_put_load },
	{ "/wait", HTTP_GET, 0, 0, control_get_wait },
	{ "/statistics", HTTP_GET, 0, 0, control_get_stats },
	{ "/console", HTTP_GET, 0, 0, control_get_console },
	{ "/memory-regions", HTTP_GET, 0, 0, control_get_memory },
	{ "/memory-regions", HTTP_PUT, B(GPA) | B(SIZE),
	  B(READONLY) | B(PATH) | B(OFFSET) | B(SHARED), control_put_memory },
	{ "/memory-regions/", HTTP_DELETE, 0, 0, control_delete_memory },
	{ "/interrupts/", HTTP_PUT, 0, B(LINE) | B(PULSE), control_put_irq },
	{ "/dirty-log", HTTP_GET, 0, 0, control_get_dirty },
	{ "/dirty-log", HTTP_PUT, B(ENABLED), 0, control_put_dirty },
	{ "/dirty-log/read", HTTP_POST, 0, 0, control_read_dirty },
};

enum server_answer control_refuse(struct server_call *call, int err, const char *why)
{
	server_fail(call, err == -EBUSY ? 409 : 400, "%s", why && *why ? why : errno_name(err));
	return SERVER_DONE;
}

enum server_answer control_result(struct server_call *call, int ret, const char *why)
{
	return ret ? control_refuse(call, ret, why) : SERVER_DONE;
}

bool control_number(struct control *c, struct server_call *call, uint32_t max, uint32_t *value)
{
	unsigned long n;

	if (conf_number(c->id, 0, max, &n)) {
		server_fail(call, 400, "%.40s: a number is expected at the path's end", c->id);
		return true;
	}
	*value = (uint32_t)n;
	return false;
}

/* False after a refusal. */
static bool read_body(struct control *c, struct server_call *call, const struct route *route)
{
	const struct http_request *request = call->request;
	uint64_t known = route->required | route->may;
	struct json_member members[F_NR];
	char error[JSON_ERROR_SIZE];
	size_t nr = 0;

	memset(&c->body, 0, sizeof(c->body));
	/* A PUT that says nothing may say so: {}. */
	if (!request->body_len && !route->required)
		return true;
	if (!known && route->method != HTTP_PUT) {
		server_fail(call, 400, "%s %s has no body", http_method_name(route->method),
			    route->path);
		return false;
	}
	for (unsigned int i = 0; i < F_NR; i++) {
		const struct field *f = &fields[i];

		if (known >> i & 1)
			members[nr++] = (struct json_member){
				.name = f->name,
				.type = f->type,
				.to = (char *)&c->body + f->offset,
				.size = f->size,
				.words = f->words,
				.required = route->required >> i & 1,
			};
	}
	if (json_read(request->body, request->body_len, members, nr, error, sizeof(error))) {
		server_fail(call, 400, "%s", error);
		return false;
	}
	nr = 0;
	for (unsigned int i = 0; i < F_NR; i++) {
		if (!(known >> i & 1) || !members[nr++].given)
			continue;
		c->body.given |= 1ull << i;
		/* All paths and names; a command line may be empty. */
		if (fields[i].type == JSON_STRING && i != F_ARGS &&
		    !*((char *)&c->body + fields[i].offset)) {
			server_fail(call, 400, "\"%s\": there is nothing in it", fields[i].name);
			return false;
		}
	}
	return true;
}

/* What names the thing, for a path that takes one; "" for the others; NULL: not this path. */
static const char *match(const struct route *route, const char *path)
{
	size_t len = strlen(route->path);

	if (!strcmp(route->path, path))
		return len > 1 && route->path[len - 1] == '/' ? NULL : "";
	if (len == 1 || route->path[len - 1] != '/' || strncmp(route->path, path, len) ||
	    strchr(path + len, '/'))
		return NULL;
	return path + len;
}

static enum server_answer dispatch(void *opaque, struct server_call *call)
{
	const struct http_request *request = call->request;
	struct control *c = opaque;

	*c->allow = '\0';
	for (const struct route *r = routes; r < routes + sizeof(routes) / sizeof(*routes); r++) {
		size_t len = strlen(c->allow);

		c->id = match(r, request->path);
		if (!c->id)
			continue;
		if (r->method != request->method) {
			snprintf(c->allow + len, sizeof(c->allow) - len, "%s%s", len ? ", " : "",
				 http_method_name(r->method));
			continue;
		}
		if (*request->query)
			server_fail(call, 400, "?%.40s: there is nothing to ask for here",
				    request->query);
		else if (read_body(c, call, r))
			return r->fn(c, call);
		return SERVER_DONE;
	}
	if (!*c->allow) {
		server_fail(call, 404, "%.80s: there is no such path", request->path);
		return SERVER_DONE;
	}
	server_fail(call, 405, "%s %.80s: expected %s", http_method_name(request->method),
		    request->path, c->allow);
	/* The reply's head is made before the next request comes here. */
	call->allow = c->allow;
	return SERVER_DONE;
}

int control_open(struct control **control, struct machine *machine, const char *path,
		 struct event_loop *loop)
{
	struct server_config config = { .path = path, .clients = CONTROL_CLIENTS };
	struct control *c = calloc(1, sizeof(*c));
	int ret;

	if (!c) {
		log_err("api socket: out of memory");
		return -ENOMEM;
	}
	c->machine = machine;
	c->log_fd = -1;
	ret = server_open(&c->server, &config, loop, dispatch, c);
	if (ret) {
		free(c);
		return ret;
	}
	*control = c;
	return 0;
}

void control_close(struct control *c)
{
	if (!c)
		return;
	for (unsigned int i = 0; i < CONTROL_CLIENTS; i++) {
		struct control_pending *p = &c->pending[i];

		if (!p->call)
			continue;
		if (p->undo)
			control_load_done(c, p->undo, false);
		server_fail(p->call, 503, "vinit ends");
		server_complete(p->call);
	}
	server_close(c->server, DRAIN_MS);
	free(c);
}
