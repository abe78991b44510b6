/* SPDX-License-Identifier: MIT */
#include "vsock/vhost.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/socket.h> /* for vm_sockets.h, which needs it in older headers */
#include <unistd.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/vm_sockets.h>

#include "virtio/queue.h"
#include "vm/kvm.h"
#include "vm/log.h"
#include "vm/memory.h"

#define VHOST_PATH "/dev/vhost-vsock"

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
		return ": this is not the kernel's vhost-vsock device";
	case EPERM:
		return ": it belongs to another process (was the VMM forked?)";
	case ENOMEM:
		return ": the host is out of memory";
	default:
		return "";
	}
}

/* A guest can make the driver's start fail as often as it likes, hence the limit. */
static int vhost_ioctl_named(struct vhost *vhost, unsigned long request, const char *name,
			     void *arg)
{
	int r = kvm_ioctl_raw(vhost->fd, request, arg);

	if (r < 0)
		log_limited(LOG_ERROR, VHOST_PATH ": %s: %s%s", name, errno_name(r),
			    vhost_advice(-r));
	return r < 0 ? r : 0;
}

#define vhost_ioctl(vhost, request, arg)                                                           \
	__extension__({                                                                            \
		KVM_CHECK_SIZE(request, arg);                                                      \
		vhost_ioctl_named(vhost, request, #request, arg);                                  \
	})

static int vhost_open_fd(void)
{
	int fd = open(VHOST_PATH, O_RDWR | O_CLOEXEC | O_NONBLOCK);

	if (fd >= 0)
		return fd;

	int err = errno;

	switch (err) {
	case ENOENT:
	case ENODEV: /* a static device node without its module */
	case ENXIO:
		log_err(VHOST_PATH ": %s: load the vhost_vsock module or build the kernel with "
				   "CONFIG_VHOST_VSOCK",
			errno_name(err));
		break;
	case EACCES:
	case EPERM:
		log_err(VHOST_PATH ": %s: this user may not read and write it: run as root, or as "
				   "a member of the group that owns it",
			errno_name(err));
		break;
	default:
		log_err(VHOST_PATH ": %s%s", errno_name(err), vhost_advice(err));
	}
	return -err;
}

static int vhost_claim(struct vhost *vhost, uint64_t cid)
{
	int r = kvm_ioctl_quiet(vhost->fd, VHOST_VSOCK_SET_GUEST_CID, &cid);

	if (r >= 0)
		return 0;
	if (r == -EADDRINUSE)
		log_err("vsock: %s: CID %llu is taken by another guest or is this host's own: "
			"choose another",
			errno_name(r), (unsigned long long)cid);
	else
		log_err(VHOST_PATH ": VHOST_VSOCK_SET_GUEST_CID: %s: CID %llu%s", errno_name(r),
			(unsigned long long)cid,
			r == -EINVAL ? " is one that the kernel keeps for itself: choose another" :
				       vhost_advice(-r));
	return r;
}

int vhost_open(struct vhost *vhost, uint64_t cid)
{
	int r;

	vhost->fd = -1;
	vhost->features = 0;

	/* The kernel's own rule, said before it is asked so that the words can name the range. */
	if (cid <= VMADDR_CID_HOST || cid >= VMADDR_CID_ANY) {
		log_err("vsock: EINVAL: CID %llu: a guest's is from 3 to 4294967294",
			(unsigned long long)cid);
		return -EINVAL;
	}

	r = vhost_open_fd();
	if (r < 0)
		return r;
	vhost->fd = r;

	r = vhost_ioctl_named(vhost, VHOST_SET_OWNER, "VHOST_SET_OWNER", NULL);
	if (!r)
		r = vhost_claim(vhost, cid);
	if (!r)
		r = vhost_ioctl(vhost, VHOST_GET_FEATURES, &vhost->features);
	if (!r && !(vhost->features >> VIRTIO_F_VERSION_1 & 1)) {
		log_err(VHOST_PATH ": ENOTSUP: the kernel does not offer VIRTIO_F_VERSION_1 "
				   "(features %#llx): a newer one is needed",
			(unsigned long long)vhost->features);
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
		log_limited(LOG_ERROR, VHOST_PATH ": E2BIG: %u regions of RAM, vhost takes %d", mem->nr,
			    MEMORY_VHOST_REGIONS);
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

/* The kernel writes used->idx itself, and reads it from there when it starts again. */
static int vhost_forget_ring(struct vhost *vhost, unsigned int index, uint16_t *next)
{
	struct vhost_vring_state base = { .index = index };
	struct vhost_vring_file none = { .index = index, .fd = VHOST_FILE_UNBIND };
	int r = vhost_ioctl(vhost, VHOST_GET_VRING_BASE, &base);

	vhost_ioctl(vhost, VHOST_SET_VRING_KICK, &none);
	vhost_ioctl(vhost, VHOST_SET_VRING_CALL, &none);
	vhost_ioctl(vhost, VHOST_SET_VRING_ERR, &none);
	*next = base.num;
	return r;
}

int vhost_start(struct vhost *vhost, uint64_t features, const struct memory *mem,
		const struct vhost_ring ring[VHOST_NR_RINGS], int call_fd, int err_fd)
{
	uint16_t base[VHOST_NR_RINGS];
	int on = 1;
	int r;

	if (vhost->fd < 0) {
		log_limited(LOG_ERROR, VHOST_PATH ": ENODEV: closed, since the kernel did not stop "
						  "it; only a new VMM gets the CID back");
		return -ENODEV;
	}

	r = vhost_ioctl(vhost, VHOST_SET_FEATURES, &features);
	if (!r)
		r = vhost_set_memory(vhost, mem);
	for (unsigned int i = 0; i < VHOST_NR_RINGS && !r; i++)
		r = vhost_set_ring(vhost, i, &ring[i], call_fd, err_fd);
	if (!r)
		r = vhost_ioctl(vhost, VHOST_VSOCK_SET_RUNNING, &on);
	if (r)
		vhost_stop(vhost, base);
	return r;
}

int vhost_stop(struct vhost *vhost, uint16_t base[VHOST_NR_RINGS])
{
	int off = 0, ret = 0;

	if (vhost->fd < 0)
		return -ENODEV;

	/* First: the kernel takes each ring's mutex, so no worker is in a ring afterwards. */
	if (vhost_ioctl(vhost, VHOST_VSOCK_SET_RUNNING, &off)) {
		vhost_close(vhost);
		return -ENODEV;
	}
	for (unsigned int i = 0; i < VHOST_NR_RINGS; i++) {
		int r = vhost_forget_ring(vhost, i, &base[i]);

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
