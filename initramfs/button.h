/* SPDX-License-Identifier: MIT */
/*
 * The machine's own power button, heard in both ways that a kernel tells of it: ACPI events by
 * generic netlink, and input devices that have a power key. Either may be absent; a press that
 * comes by both is one request twice.
 */
#ifndef INITRAMFS_BUTTON_H
#define INITRAMFS_BUTTON_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BUTTON_MAX_INPUTS 16
#define BUTTON_MAX_FDS	  (BUTTON_MAX_INPUTS + 2)

struct buttons {
	int acpi;	 /* generic netlink, or -1 */
	uint16_t family; /* acpi_event's number */
	int uevent;	 /* tells of new input devices, or -1 */
	unsigned int nr;
	struct {
		int fd;
		unsigned int event; /* N of /dev/input/eventN */
	} input[BUTTON_MAX_INPUTS];
};

/* Finds what there is; what is absent is left out without fuss. */
void buttons_open(struct buttons *buttons);

/* Fills in what to wait for: at most BUTTON_MAX_FDS. How many. */
unsigned int buttons_poll(const struct buttons *buttons, struct pollfd *fds);

/* Takes what poll() found in @fds, as filled by buttons_poll(). True if the button was pressed. */
bool buttons_read(struct buttons *buttons, const struct pollfd *fds, unsigned int nr);

/*
 * The parsers of what the kernel sends, which trust no length. Source:
 * include/uapi/linux/netlink.h, genetlink.h.
 */
bool button_parse_family(const void *msg, size_t len, uint16_t *family, uint32_t *group);
bool button_parse_acpi(const void *msg, size_t len, uint16_t family);
bool button_parse_input(const void *events, size_t len);
bool button_parse_uevent(const char *msg, size_t len);

#endif
