/* SPDX-License-Identifier: MIT */
/* What the payload lines asks of an architecture's interrupt controller. */
#ifndef TESTS_PAYLOAD_LINES_H
#define TESTS_PAYLOAD_LINES_H

#include <stdbool.h>

/* Lines 0 to lines_nr - 1 exist. */
extern const unsigned int lines_nr;

/* Turns a line on, as an edge. */
void lines_edge(unsigned int gsi);
/* Makes it a level, on or off. */
void lines_level(unsigned int gsi, bool on);

#endif
