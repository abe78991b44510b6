/* SPDX-License-Identifier: MIT */
/*
 * How fast a guest may reset itself in place. Each reset costs the host a machine built anew, and
 * the supervisor does not see it: its limit of restarts is about processes.
 *
 * A burst is free, as a test or an update may need it. After that, whatever a guest does, there
 * are fewer than two resets a second, and one that does nothing else gets one each PACE_MAX_MS.
 */
#ifndef CMD_PACE_H
#define CMD_PACE_H

#include <stdbool.h>
#include <stdint.h>

#define PACE_FREE     128  /* resets */
#define PACE_EACH_MS  1000 /* a life of this length pays for its own reset; a longer one for others */
#define PACE_FIRST_MS 250  /* the first pause; doubles */
#define PACE_MAX_MS   8000

/* Zeroed at the start. */
struct pace {
	uint32_t debt_ms;
	uint32_t pause_ms; /* the last one, halved by each life that was long enough */
	bool told;	   /* the caller's: it has said that there are pauses; falls when all is well */
};

/* Counts a reset after a life of @lived_ms. The time in ms to wait before the next life. */
unsigned int pace_reset(struct pace *pace, uint64_t lived_ms);

#endif
