/* SPDX-License-Identifier: MIT */
#include "virtio/vhost.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <unistd.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include "virtio/queue.h"
#include "vm/kvm.h"
#include "vm/log.h"
#include "vm/memory.h"

/* struct vhost_memory ends in a flexible array; this is room for all regions that it takes. */
union vhost_table {
	struct vhost_memory head;
	uint8_t room[sizeof(struct vhost_memory) +
		     MEMORY_VHOST_REGIONS * sizeof(struct vhost_memory_region)];
};

/* What to check on the host, for the failures that a user can do something about. */
static const char *vhost_advice(int err)
{
	switch (err) {
	case E2BIG:
		return ": raise the vhost module's parameter max_mem_regions to 64";
	case ENOTTY:
		return ": this is not the kernel's vhost device of this name";
	case EPERM:
		return ": it belongs to another process (was the VMM forked?)";
	case ENOMEM:
		return ": the host is out of memory";
	default:
		return "";
	}
}

/* A guest can make the driver's start fail as often as it likes, hence the limit. */
int vhost_ioctl_named(struct vhost *vhost, unsigned long request, const char *name, void *arg)
{
	int r = kvm_ioctl_raw(vhost->fd, request, arg);

	if (r < 0)
		log_limited(LOG_ERROR, "%s: %s: %s%s", vhost->kind->path, name, errno_name(r),
			    vhost_advice(-r));
	return r < 0 ? r : 0;
}

static int vhost_open_fd(const struct vhost_kind *kind)
{
	int fd = open(kind->path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	const char *advice;

	if (fd >= 0)
		return fd;

	int err = errno;

	switch (err) {
	case ENOENT:
	case ENODEV: /* a static device node without its module */
	case ENXIO:
		advice = kind->missing;
		break;
	case EACCES:
	case EPERM:
		advice = ": this user may not read and write it: run as root, or as a member of the "
			 "group that owns it";
		break;
	default:
		advice = vhost_advice(err);
	}
	log_err("%s: %s%s", kind->path, errno_name(err), advice);
	return -err;
}

int vhost_open(struct vhost *vhost, const struct vhost_kind *kind)
{
	int r;

	vhost->kind = kind;
	vhost->features = 0;
	vhost->fd = r = vhost_open_fd(kind);
	if (r < 0)
		return r;
	r = vhost_ioctl_named(vhost, VHOST_SET_OWNER, "VHOST_SET_OWNER", NULL);
	if (!r)
		r = vhost_ioctl(vhost, VHOST_GET_FEATURES, &vhost->features);
	if (!r && !(vhost->features >> VIRTIO_F_VERSION_1 & 1)) {
		log_err("%s: ENOTSUP: the kernel does not offer VIRTIO_F_VERSION_1 (features %#llx): a "
			"newer one is needed", kind->path, (unsigned long long)vhost->features);
		r = -ENOTSUP;
	}
	if (r)
		vhost_close(vhost);
	return r;
}

static int vhost_set_memory(struct vhost *vhost, const struct memory *mem)
{
	union vhost_table table;

	/* Kept so by whoever adds regions while the device is there (vm/region.h). */
	if (mem->nr > MEMORY_VHOST_REGIONS) {
		log_limited(LOG_ERROR, "%s: E2BIG: %u regions of RAM, vhost takes %d", vhost->kind->path,
			    mem->nr, MEMORY_VHOST_REGIONS);
		return -E2BIG;
	}
	/* RAM alone: the table has no read-only flag. */
	table.head.nregions = mem->nr;
	table.head.padding = 0;
	for (unsigned int i = 0; i < mem->nr; i++) {
		const struct memory_region *region = &mem->region[i];

		table.head.regions[i] = (struct vhost_memory_region){
			.guest_phys_addr = region->gpa,
			.memory_size = region->size,
			.userspace_addr = (uintptr_t)region->hva,
		};
	}
	return vhost_ioctl(vhost, VHOST_SET_MEM_TABLE, &table.head);
}

static int vhost_set_ring(struct vhost *vhost, unsigned int index, const struct vhost_ring *ring,
			  int call_fd, int err_fd)
{
	const struct queue *q = ring->queue;
	struct vhost_vring_state num = { .index = index, .num = q->num };
	struct vhost_vring_state base = { .index = index, .num = q->last_avail };
	struct vhost_vring_addr addr = {
		.index = index,
		.desc_user_addr = (uintptr_t)q->desc,
		.avail_user_addr = (uintptr_t)q->avail,
		.used_user_addr = (uintptr_t)q->used,
	};
	struct vhost_vring_file kick = { .index = index, .fd = ring->kick_fd };
	struct vhost_vring_file call = { .index = index, .fd = call_fd };
	struct vhost_vring_file err = { .index = index, .fd = err_fd };
	int r;

	r = vhost_ioctl(vhost, VHOST_SET_VRING_NUM, &num);
	if (!r)
		r = vhost_ioctl(vhost, VHOST_SET_VRING_BASE, &base);
	if (!r)
		r = vhost_ioctl(vhost, VHOST_SET_VRING_ADDR, &addr);
	if (!r)
		r = vhost_ioctl(vhost, VHOST_SET_VRING_KICK, &kick);
	if (!r)
		r = vhost_ioctl(vhost, VHOST_SET_VRING_CALL, &call);
	if (!r)
		r = vhost_ioctl(vhost, VHOST_SET_VRING_ERR, &err);
	return r;
}

/*
 * The kernel writes used->idx itself, and reads it from there when it starts again: so does whoever
 * goes on in its place.
 */
static int vhost_forget_ring(struct vhost *vhost, unsigned int index)
{
	struct vhost_vring_state base = { .index = index };
	struct vhost_vring_file none = { .index = index, .fd = VHOST_FILE_UNBIND };
	int r = vhost_ioctl(vhost, VHOST_GET_VRING_BASE, &base);
	struct queue *q = vhost->queue[index];

	vhost_ioctl(vhost, VHOST_SET_VRING_KICK, &none);
	vhost_ioctl(vhost, VHOST_SET_VRING_CALL, &none);
	vhost_ioctl(vhost, VHOST_SET_VRING_ERR, &none);
	if (!r) {
		const struct vring_used *used = q->used;

		q->last_avail = (uint16_t)base.num;
		q->next_used = le16toh(__atomic_load_n(&used->idx, __ATOMIC_RELAXED));
		q->signalled_valid = false; /* the next decision can't go by it */
	}
	return r;
}

int vhost_start(struct vhost *vhost, uint64_t features, const struct memory *mem,
		const struct vhost_ring ring[VHOST_NR_RINGS], int call_fd, int err_fd)
{
	int r;

	if (vhost->fd < 0) {
		log_limited(LOG_ERROR, "%s: ENODEV: closed, since the kernel did not stop it; only a new "
				       "VMM gets it back", vhost->kind->path);
		return -ENODEV;
	}

	for (unsigned int i = 0; i < VHOST_NR_RINGS; i++)
		vhost->queue[i] = ring[i].queue;
	r = vhost_ioctl(vhost, VHOST_SET_FEATURES, &features);
	if (!r)
		r = vhost_set_memory(vhost, mem);
	for (unsigned int i = 0; i < VHOST_NR_RINGS && !r; i++)
		r = vhost_set_ring(vhost, i, &ring[i], call_fd, err_fd);
	if (!r)
		r = vhost->kind->run(vhost, true);
	if (r)
		vhost_stop(vhost);
	return r;
}

int vhost_stop(struct vhost *vhost)
{
	int ret = 0;

	if (vhost->fd < 0)
		return -ENODEV;

	/* First: the kernel takes each ring's mutex, so no worker is in a ring afterwards. */
	if (vhost->kind->run(vhost, false)) {
		vhost_close(vhost);
		return -ENODEV;
	}
	for (unsigned int i = 0; i < VHOST_NR_RINGS; i++) {
		int r = vhost_forget_ring(vhost, i);

		if (r)
			ret = r;
	}
	return ret;
}

void vhost_close(struct vhost *vhost)
{
	if (vhost->fd >= 0)
		close(vhost->fd);
	vhost->fd = -1;
}
