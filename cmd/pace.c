/* SPDX-License-Identifier: MIT */
#include "cmd/pace.h"

unsigned int pace_reset(struct pace *pace, uint64_t lived_ms)
{
	const uint32_t limit = PACE_FREE * PACE_EACH_MS;

	pace->debt_ms = lived_ms < pace->debt_ms ? pace->debt_ms - (uint32_t)lived_ms : 0;
	pace->debt_ms += PACE_EACH_MS;
	if (pace->debt_ms <= limit) {
		/* On a busy host one life of many takes its time: that is no change for the better. */
		pace->pause_ms /= 2;
		if (pace->debt_ms < limit / 2) {
			pace->pause_ms = 0;
			pace->told = false;
		}
		return 0;
	}
	/* No more than this: a guest that has mended is soon free again. */
	pace->debt_ms = limit;
	pace->pause_ms *= 2;
	if (pace->pause_ms < PACE_FIRST_MS)
		pace->pause_ms = PACE_FIRST_MS;
	if (pace->pause_ms > PACE_MAX_MS)
		pace->pause_ms = PACE_MAX_MS;
	return pace->pause_ms;
}
