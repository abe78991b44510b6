/* SPDX-License-Identifier: MIT */
/* virtio-net over a tap or passt's stream. Source: VIRTIO 1.2, section 5.1. */
#ifndef VIRTIO_NET_H
#define VIRTIO_NET_H

#include <stdint.h>
#include "virtio/tap.h"

struct virtio_dev;

#define NET_MAX_PAIRS TAP_MAX_QUEUES
#define NET_MAC_SIZE  6

/* What is at the other end of the cable: an interface, a new one in a bridge, a Unix socket. */
enum net_peer { NET_TAP, NET_BRIDGE, NET_PASST };

/* Whether the kernel moves the frames; AUTO: if there is a /dev/vhost-net that may be opened. */
enum net_vhost { NET_VHOST_AUTO, NET_VHOST_YES, NET_VHOST_NO };

struct net_config {
	enum net_peer kind;
	const char *peer; /* its name, or the socket's path */
	uint8_t mac[NET_MAC_SIZE];
	unsigned int pairs; /* of queues, 1 to NET_MAX_PAIRS; 1 for passt */
	unsigned int mtu;   /* bytes without the Ethernet header; 0: as the interface has it */
	enum net_vhost vhost;
};

/*
 * Opens the peer, which is held until destroy, across resets of the guest. When it goes away (the
 * tap is deleted, passt ends) the guest's link is down, and what the guest sends is dropped. 0 or
 * -errno; logs.
 */
int net_create(struct virtio_dev **dev, const struct net_config *config);

#endif
