/* SPDX-License-Identifier: MIT */
/* virtio-console, one port, with size. Source: VIRTIO 1.2, section 5.3. */
#ifndef VIRTIO_VCONSOLE_H
#define VIRTIO_VCONSOLE_H

struct console;
struct virtio_dev;

/* @console stays the caller's and outlives the device. */
int vconsole_create(struct virtio_dev **dev, struct console *console);

#endif
