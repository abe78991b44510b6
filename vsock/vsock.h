/* SPDX-License-Identifier: MIT */
/*
 * virtio-vsock, whose data path is the kernel's vhost. Source: VIRTIO 1.2, section 5.10; Linux
 * include/uapi/linux/vhost.h.
 */
#ifndef VSOCK_VSOCK_H
#define VSOCK_VSOCK_H

#include <stdint.h>

struct virtio_dev;

/*
 * Opens /dev/vhost-vsock and claims @cid at once (a taken one is -EADDRINUSE, said by name); held
 * until destroy, across resets. CIDs below 3 and 0xffffffff are -EINVAL. 0 or -errno; logs.
 */
int vsock_create(struct virtio_dev **dev, uint64_t cid);

#endif
