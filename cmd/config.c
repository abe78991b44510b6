/* SPDX-License-Identifier: MIT */
#include "cmd/config.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "arch/arch.h"
#include "virtio/blk.h"
#include "vm/conf.h"
#include "vm/log.h"
#include "vm/memory.h"

#define DEFAULT_MEMORY	     (256ull << 20)
#define DEFAULT_STOP_TIMEOUT 30

/* A macro's number as text. */
#define WORD_(n) #n
#define WORD(n)	 WORD_(n)

/* What a setter answers: NULL, or why the value is refused. */
typedef const char *why_t;

static const char out_of_memory[] = "out of memory";

static why_t set_string(char **field, const char *value)
{
	char *copy = strdup(value);

	if (!copy)
		return out_of_memory;
	free(*field);
	*field = copy;
	return NULL;
}

static why_t set_path(char **field, const char *value)
{
	return *value ? set_string(field, value) : "a path is missing";
}

static why_t set_bool(bool *field, const char *value)
{
	return conf_bool(value, field) ? "yes or no is expected" : NULL;
}

static why_t set_name(struct guest_config *c, const char *value)
{
	return conf_name(value) ? CONF_NAME_RULE : set_string(&c->name, value);
}

static why_t set_kernel(struct guest_config *c, const char *value)
{
	return set_path(&c->kernel, value);
}

static why_t set_initrd(struct guest_config *c, const char *value)
{
	return set_path(&c->initrd, value);
}

static why_t set_cmdline(struct guest_config *c, const char *value)
{
	return set_string(&c->cmdline, value);
}

static why_t set_cmdline_only(struct guest_config *c, const char *value)
{
	return set_bool(&c->cmdline_only, value);
}

static why_t set_cpus(struct guest_config *c, const char *value)
{
	unsigned long n;

	if (conf_number(value, 1, 4096, &n))
		return "a number of CPUs, 1 to 4096, is expected";
	c->cpus = (unsigned int)n;
	return NULL;
}

static why_t set_memory(struct guest_config *c, const char *value)
{
	char size[32];
	const char *comma = strchr(value, ',');
	size_t len = comma ? (size_t)(comma - value) : strlen(value);
	uint64_t bytes;

	if (len >= sizeof(size))
		return "a size like 512M or 4G is expected (suffixes K, M, G)";
	memcpy(size, value, len);
	size[len] = '\0';
	if (memory_parse_size(size, &bytes))
		return "a size like 512M or 4G is expected (suffixes K, M, G)";
	/* Whole huge pages: a part of one helps nobody, and a page of any host divides it. */
	if (!bytes || bytes & ((2 << 20) - 1))
		return "a multiple of 2 MiB is expected (a bare number counts bytes: 512M, 4G)";
	c->hugepages = false;
	if (comma) {
		if (strcmp(comma + 1, "hugepages"))
			return "only \"hugepages\" may follow the size";
		c->hugepages = true;
	}
	c->memory = bytes;
	return NULL;
}

static why_t set_gic(struct guest_config *c, const char *value)
{
	if (!arch_has_gic)
		return "this machine has no GIC: the option is for aarch64 alone";
	if (!strcmp(value, "2"))
		c->gic = 2;
	else if (!strcmp(value, "3"))
		c->gic = 3;
	else
		return "a GIC's version, 2 or 3, is expected";
	return NULL;
}

static why_t console_spec(char **field, const char *value)
{
	static const char plain[][6] = { "stdio", "null", "pty" };

	for (unsigned int i = 0; i < sizeof(plain) / sizeof(*plain); i++) {
		if (!strcmp(value, plain[i]))
			return set_string(field, value);
	}
	if ((!strncmp(value, "file=", 5) || !strncmp(value, "unix=", 5)) && value[5])
		return set_string(field, value);
	return "stdio, null, pty, file=PATH or unix=PATH is expected";
}

static why_t set_console(struct guest_config *c, const char *value)
{
	return console_spec(&c->console, value);
}

static why_t set_vconsole(struct guest_config *c, const char *value)
{
	return console_spec(&c->vconsole, value);
}

static why_t set_rng(struct guest_config *c, const char *value)
{
	return set_bool(&c->rng, value);
}

static why_t set_on_reset(struct guest_config *c, const char *value)
{
	if (!strcmp(value, "restart"))
		c->on_reset_exit = false;
	else if (!strcmp(value, "exit"))
		c->on_reset_exit = true;
	else
		return "restart or exit is expected";
	return NULL;
}

static why_t set_supervised(struct guest_config *c, const char *value)
{
	return set_bool(&c->supervised, value);
}

static why_t set_stop_timeout(struct guest_config *c, const char *value)
{
	unsigned long n;

	if (conf_number(value, 0, 86400, &n))
		return "seconds, 0 to 86400, are expected";
	c->stop_timeout = (unsigned int)n;
	return NULL;
}

static why_t set_log_level(struct guest_config *c, const char *value)
{
	if (log_parse_level(value) < 0)
		return "error, warn, info or debug is expected";
	return set_string(&c->log_level, value);
}

static why_t set_log_file(struct guest_config *c, const char *value)
{
	return set_path(&c->log_file, value);
}

static why_t set_api_sock(struct guest_config *c, const char *value)
{
	if (!CONFIG_API)
		return "this vinit was built without the API (CONFIG_API)";
	return set_path(&c->api_sock, value);
}

static why_t set_restore(struct guest_config *c, const char *value)
{
	return set_path(&c->restore, value);
}

static why_t set_trap_registers(struct guest_config *c, const char *value)
{
	return set_bool(&c->trap_registers, value);
}

static why_t set_boot_timer(struct guest_config *c, const char *value)
{
	return set_bool(&c->boot_timer, value);
}

static why_t set_track_dirty(struct guest_config *c, const char *value)
{
	return set_bool(&c->track_dirty, value);
}

/* The disk opened last is the one that [disk] keys speak of. */
static struct disk_config *disk(struct guest_config *c)
{
	return &c->disk[c->nr_disks - 1];
}

static const char no_room[] = WORD(ARCH_MAX_VIRTIO) " virtio devices are all that a machine has room for";

static why_t new_disk(struct guest_config *c)
{
	if (c->nr_disks == ARCH_MAX_VIRTIO)
		return no_room;
	c->nr_disks++;
	return NULL;
}

static why_t disk_path(struct guest_config *c, const char *value)
{
	return set_path(&disk(c)->path, value);
}

static why_t set_id(char **field, const char *value)
{
	return strlen(value) > 20 ? "an id has at most 20 bytes" : set_string(field, value);
}

static why_t disk_id(struct guest_config *c, const char *value)
{
	return set_id(&disk(c)->id, value);
}

static why_t disk_readonly(struct guest_config *c, const char *value)
{
	return set_bool(&disk(c)->readonly, value);
}

static why_t disk_direct(struct guest_config *c, const char *value)
{
	return set_bool(&disk(c)->direct, value);
}

static why_t disk_discard(struct guest_config *c, const char *value)
{
	return set_bool(&disk(c)->discard, value);
}

static why_t disk_engine(struct guest_config *c, const char *value)
{
	static const char word[][9] = { [BLK_AUTO] = "auto", [BLK_SYNC] = "sync", [BLK_URING] = "io_uring" };

	for (unsigned int i = 0; i < sizeof(word) / sizeof(*word); i++) {
		if (!strcmp(value, word[i])) {
			disk(c)->engine = i;
			return NULL;
		}
	}
	return "auto, sync or io_uring is expected";
}

/* The same for [net]. */
static struct nic_config *nic(struct guest_config *c)
{
	return &c->nic[c->nr_nics - 1];
}

static why_t new_nic(struct guest_config *c)
{
	if (c->nr_nics == ARCH_MAX_VIRTIO)
		return no_room;
	c->nr_nics++;
	return NULL;
}

static why_t nic_peer(struct guest_config *c, enum net_peer kind, const char *value)
{
	if (nic(c)->peer)
		return "a network interface has one of tap, bridge and passt";
	nic(c)->kind = kind;
	return set_path(&nic(c)->peer, value);
}

static why_t nic_tap(struct guest_config *c, const char *value)
{
	return nic_peer(c, NET_TAP, value);
}

static why_t nic_bridge(struct guest_config *c, const char *value)
{
	return nic_peer(c, NET_BRIDGE, value);
}

static why_t nic_passt(struct guest_config *c, const char *value)
{
	return nic_peer(c, NET_PASST, value);
}

static why_t nic_id(struct guest_config *c, const char *value)
{
	return set_id(&nic(c)->id, value);
}

/* A byte in two digits, with a colon before it but for the first. */
static why_t nic_mac(struct guest_config *c, const char *value)
{
	uint8_t *mac = nic(c)->mac;
	unsigned int any = 0;

	nic(c)->has_mac = strlen(value) == 3 * NET_MAC_SIZE - 1;
	for (unsigned int i = 0; i < NET_MAC_SIZE && nic(c)->has_mac; i++, value += 3) {
		char byte[3] = { value[0], value[1] }, *end;

		mac[i] = (uint8_t)strtoull(byte, &end, 16);
		any |= mac[i];
		nic(c)->has_mac = isxdigit((unsigned char)*byte) && !*end &&
				  value[2] == (i + 1 < NET_MAC_SIZE ? ':' : '\0');
	}
	if (nic(c)->has_mac && any && !(mac[0] & 1))
		return NULL;
	nic(c)->has_mac = false;
	return "a MAC address like 02:00:00:00:00:01 is expected, one interface's alone";
}

static why_t nic_queues(struct guest_config *c, const char *value)
{
	unsigned long n;

	if (conf_number(value, 1, NET_MAX_PAIRS, &n))
		return "pairs of queues, 1 to " WORD(TAP_MAX_QUEUES) ", are expected";
	nic(c)->queues = (unsigned int)n;
	return NULL;
}

static why_t nic_mtu(struct guest_config *c, const char *value)
{
	unsigned long n;

	if (conf_number(value, 68, 65535, &n))
		return "bytes, 68 to 65535, are expected";
	nic(c)->mtu = (unsigned int)n;
	return NULL;
}

static why_t nic_vhost(struct guest_config *c, const char *value)
{
	bool on = false;

	if (!strcmp(value, "auto")) {
		nic(c)->vhost = NET_VHOST_AUTO;
		return NULL;
	}
	if (conf_bool(value, &on))
		return "yes, no or auto is expected";
	nic(c)->vhost = on ? NET_VHOST_YES : NET_VHOST_NO;
	return NULL;
}

static why_t new_vsock(struct guest_config *c)
{
	c->vsock = true;
	return NULL;
}

static why_t vsock_cid(struct guest_config *c, const char *value)
{
	unsigned long n;

	if (conf_number(value, 3, 0xfffffffe, &n))
		return "a CID is 3 to 4294967294 (0 to 2 are reserved)";
	c->vsock_cid = n;
	return NULL;
}

static why_t vsock_backend(struct guest_config *c, const char *value)
{
	return strcmp(value, "vhost") ? "vhost is the only back end" : NULL;
}

/* A name in place, here and in tables elsewhere: a pointer to it takes 32 bytes in the file. */
struct key {
	char name[18];
	bool flag; /* as an option it needs no value: "yes" */
	why_t (*set)(struct guest_config *c, const char *value);
};

static const struct key guest_keys[] = {
	{ "name", false, set_name },
	{ "kernel", false, set_kernel },
	{ "initrd", false, set_initrd },
	{ "cmdline", false, set_cmdline },
	{ "cmdline-only", true, set_cmdline_only },
	{ "cpus", false, set_cpus },
	{ "memory", false, set_memory },
	{ "gic", false, set_gic },
	{ "console", false, set_console },
	{ "virtio-console", false, set_vconsole },
	{ "rng", true, set_rng },
	{ "on-reset", false, set_on_reset },
	{ "supervised", true, set_supervised },
	{ "stop-timeout", false, set_stop_timeout },
	{ "log-level", false, set_log_level },
	{ "log-file", false, set_log_file },
	{ "api-sock", false, set_api_sock },
	{ "restore", false, set_restore },
	{ "track-dirty-pages", true, set_track_dirty },
	{ "trap-registers", true, set_trap_registers },
	{ "boot-timer", true, set_boot_timer },
	{ .name = "" },
};

static const struct key disk_keys[] = {
	{ "path", false, disk_path },	      { "id", false, disk_id },
	{ "readonly", true, disk_readonly },  { "direct", true, disk_direct },
	{ "discard", true, disk_discard },    { "engine", false, disk_engine },
	{ .name = "" },
};

static const struct key nic_keys[] = {
	{ "tap", false, nic_tap },	 { "bridge", false, nic_bridge },
	{ "passt", false, nic_passt },	 { "id", false, nic_id },
	{ "mac", false, nic_mac },	 { "queues", false, nic_queues },
	{ "mtu", false, nic_mtu },	 { "vhost", true, nic_vhost },
	{ .name = "" },
};

static const struct key vsock_keys[] = {
	{ "cid", false, vsock_cid },
	{ "backend", false, vsock_backend },
	{ .name = "" },
};

/* Sections other than [guest] are options too: --disk path=FILE,readonly */
struct section {
	const char *name;
	const struct key *keys;
	why_t (*open)(struct guest_config *c);
	bool repeats; /* a file may have more than one */
};

static const struct section sections[] = {
	{ "guest", guest_keys, NULL, false },
	{ "disk", disk_keys, new_disk, true },
	{ "net", nic_keys, new_nic, true },
	{ "vsock", vsock_keys, new_vsock, false },
	{ 0 },
};

/* PID 1's own section of the same file. */
static const char supervise_section[] = "supervise";

/* A file that is being read. */
struct reader {
	struct guest_config *config;
	unsigned int opened; /* a bit for each row of sections */
};

static const struct section *find_section(const char *name)
{
	for (const struct section *s = sections; s->name; s++) {
		if (!strcmp(s->name, name))
			return s;
	}
	return NULL;
}

static const struct key *find_key(const struct key *key, const char *name, size_t len)
{
	for (; *key->name; key++) {
		if (strlen(key->name) == len && !memcmp(key->name, name, len))
			return key;
	}
	return NULL;
}

void config_init(struct guest_config *c)
{
	memset(c, 0, sizeof(*c));
	c->stop_timeout = DEFAULT_STOP_TIMEOUT;
}

void config_defaults(struct guest_config *c)
{
	if (!c->cpus)
		c->cpus = 1;
	if (!c->memory)
		c->memory = DEFAULT_MEMORY;
}

void config_free(struct guest_config *c)
{
	for (unsigned int i = 0; i < c->nr_disks; i++) {
		free(c->disk[i].path);
		free(c->disk[i].id);
	}
	for (unsigned int i = 0; i < c->nr_nics; i++) {
		free(c->nic[i].peer);
		free(c->nic[i].id);
	}
	free(c->name);
	free(c->kernel);
	free(c->initrd);
	free(c->cmdline);
	free(c->console);
	free(c->vconsole);
	free(c->log_level);
	free(c->log_file);
	free(c->api_sock);
	free(c->restore);
	memset(c, 0, sizeof(*c));
}

static int config_line(void *opaque, const struct conf_line *line)
{
	struct reader *reader = opaque;
	struct guest_config *c = reader->config;
	const struct section *section;
	const struct key *key;
	why_t why = NULL;

	if (!strcmp(line->section, supervise_section))
		return 0;
	section = find_section(line->section);
	if (!section) {
		if (!*line->section)
			log_err("%s:%u: \"%s\" stands before the first [section]", line->file, line->line,
				line->key);
		else
			log_err("%s:%u: unknown section [%s]; known are [guest], [disk], [net], "
				"[vsock] and [supervise]", line->file, line->line, line->section);
		return -EINVAL;
	}
	if (!line->key) {
		unsigned int bit = 1u << (section - sections);

		/* A slip, which would mix two into one. */
		if (reader->opened & bit && !section->repeats)
			why = "it is there already; a file has one";
		else if (section->open)
			why = section->open(c);
		reader->opened |= bit;
		if (why)
			log_err("%s:%u: [%s]: %s", line->file, line->line, line->section, why);
		return why ? -EINVAL : 0;
	}
	key = find_key(section->keys, line->key, strlen(line->key));
	if (!key) {
		log_err("%s:%u: unknown key \"%s\" in [%s]", line->file, line->line, line->key,
			line->section);
		return -EINVAL;
	}
	why = key->set(c, line->value);
	if (why) {
		log_err("%s:%u: %s = %s: %s", line->file, line->line, line->key, line->value, why);
		return -EINVAL;
	}
	return 0;
}

int config_file(struct guest_config *c, const char *file)
{
	struct reader reader = { .config = c };

	return conf_read(file, config_line, &reader);
}

/*
 * One word of "path=FILE,readonly,id=S": ends at a comma, ",," stands for one. Returns what
 * follows, NULL at the end.
 */
static const char *next_word(const char *p, char *word, size_t size, why_t *why)
{
	size_t n = 0;

	while (*p) {
		if (*p == ',') {
			if (p[1] != ',')
				break;
			p++;
		}
		if (n + 1 >= size) {
			*why = "too long";
			return NULL;
		}
		word[n++] = *p++;
	}
	word[n] = '\0';
	return *p ? p + 1 : NULL;
}

static const char unknown_word[] = "unknown word; `vinit run --help` lists them";

static why_t set_words(struct guest_config *c, const struct section *section, const char *words,
		       char *word, size_t size)
{
	why_t why = section->open(c);

	while (!why && words) {
		char *value;
		const struct key *key;

		words = next_word(words, word, size, &why);
		if (why)
			break;
		value = strchr(word, '=');
		key = find_key(section->keys, word, value ? (size_t)(value - word) : strlen(word));
		if (!key)
			return *word ? unknown_word : "a word is missing; `vinit run --help` lists them";
		if (!value && !key->flag)
			return "a value is missing";
		why = key->set(c, value ? value + 1 : "yes");
	}
	return why;
}

int config_args(struct guest_config *c, int argc, char **argv)
{
	char word[4096];

	for (int i = 0; i < argc; i++) {
		const char *name = argv[i];
		const struct section *section;
		const struct key *key;
		char *value;
		size_t len;
		why_t why;

		if (strncmp(name, "--", 2) || !name[2]) {
			log_err("\"%s\" is not an option; `vinit run --help` lists them", name);
			return -EINVAL;
		}
		name += 2;
		value = strchr(name, '=');
		len = value ? (size_t)(value - name) : strlen(name);
		if (value)
			value++;
		key = find_key(guest_keys, name, len);
		section = NULL;
		for (const struct section *s = sections; s->name && !key; s++) {
			if (s->open && strlen(s->name) == len && !memcmp(s->name, name, len))
				section = s;
		}
		bool is_config = len == 6 && !memcmp(name, "config", 6);

		if (!key && !section && !is_config) {
			log_err("unknown option --%.*s; `vinit run --help` lists them", (int)len, name);
			return -EINVAL;
		}
		if (!value && !(key && key->flag)) {
			value = i + 1 < argc ? argv[++i] : NULL;
			if (!value || (!strncmp(value, "--", 2) && value[2] >= 'a')) {
				log_err("--%s: a value is missing%s%s", name, value ? " before " : "", value ? value : "");
				return -EINVAL;
			}
		}
		if (is_config) {
			if (config_file(c, value))
				return -EINVAL;
			continue;
		}
		if (key) {
			why = key->set(c, value ? value : "yes");
			if (why)
				log_err("--%s %s: %s", key->name, value ? value : "", why);
		} else {
			*word = '\0';
			why = set_words(c, section, value, word, sizeof(word));
			/* A file's name alone is what other programs take. */
			if (why == unknown_word && !strchr(value, '='))
				log_err("--%s %s: is it %s=%s? `vinit run --help` lists the words", section->name,
					value, section->keys->name, value);
			else if (why)
				log_err("--%s %s: \"%s\": %s", section->name, value, word, why);
		}
		if (why)
			return -EINVAL;
	}
	return 0;
}

int config_set(struct guest_config *c, const char *section, const char *key, const char *value,
	       char why[LOG_SENTENCE])
{
	const struct section *s = find_section(section);
	const struct key *k = s && key ? find_key(s->keys, key, strlen(key)) : NULL;
	why_t refused = NULL;

	if (!s || (key && !k))
		refused = "there is no such key";
	else if (k)
		refused = k->set(c, value);
	else if (s->open)
		refused = s->open(c);
	snprintf(why, LOG_SENTENCE, "%s", refused ? refused : "");
	return refused ? -EINVAL : 0;
}

/* What the snapshot says can't be said once more: it could only differ. */
static int check_restore(const struct guest_config *c)
{
	const char *key = c->kernel ? "kernel" : c->initrd ? "initrd" : c->cmdline ? "cmdline" :
			  c->cmdline_only ? "cmdline-only" : c->cpus ? "cpus" : c->memory ? "memory" :
			  c->gic ? "gic" : c->rng ? "rng" : c->hugepages ? "hugepages" : NULL;

	if (key) {
		log_err("%s: the snapshot that is restored says what the machine is: leave it out", key);
		return -EINVAL;
	}
	return 0;
}

static int check_nic(const struct nic_config *n, unsigned int i)
{
	if (!n->peer) {
		log_err("network interface %u has nothing behind it: --net tap=NAME, bridge=NAME or "
			"passt=SOCKET, or one of these under [net]", i);
		return -EINVAL;
	}
	if (n->kind == NET_PASST && (n->queues > 1 || n->vhost == NET_VHOST_YES)) {
		log_err("net: passt=%s: %s: only a tap has that", n->peer, n->queues > 1 ? "queues" : "vhost");
		return -EINVAL;
	}
	return 0;
}

int config_check(const struct guest_config *c)
{
	if (c->restore && check_restore(c))
		return -EINVAL;
	/* The API can give one; but a guest of PID 1's that nobody configured is a slip. */
	if (!c->kernel && !c->restore && (!c->api_sock || c->supervised)) {
		log_err("no kernel is given: --kernel FILE (kernel = FILE under [guest]), or "
			"--restore DIR or --api-sock PATH in its place");
		return -EINVAL;
	}
	for (unsigned int i = 0; i < c->nr_disks; i++) {
		if (!c->disk[i].path) {
			log_err("disk %u has no path: --disk path=FILE, or path = FILE under [disk]",
				i);
			return -EINVAL;
		}
	}
	for (unsigned int i = 0; i < c->nr_nics; i++) {
		if (check_nic(&c->nic[i], i))
			return -EINVAL;
	}
	if (c->vsock && !c->vsock_cid) {
		log_err("vsock: a cid is missing: --vsock cid=N, or cid = N under [vsock]");
		return -EINVAL;
	}
	return 0;
}
