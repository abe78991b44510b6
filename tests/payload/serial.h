/* SPDX-License-Identifier: MIT */
/* What the payload "serial" shares with the architecture's part of it. */
#ifndef TESTS_PAYLOAD_SERIAL_H
#define TESTS_PAYLOAD_SERIAL_H

#include <stdint.h>

/* The handler: takes the cause, sends the next byte. */
void on_transmit(void);

/* Sends a text by interrupts, which the handler's caller counts in *@count, and checks them. */
void transmit(volatile uint32_t *count, const char *how);

#endif
