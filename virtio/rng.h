/* SPDX-License-Identifier: MIT */
/* virtio-rng out of getrandom(2). Source: VIRTIO 1.2, section 5.4. */
#ifndef VIRTIO_RNG_H
#define VIRTIO_RNG_H

struct virtio_dev;

int rng_create(struct virtio_dev **dev);

#endif
