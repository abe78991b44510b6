/* SPDX-License-Identifier: MIT */
#include "vm/state.h"

#include <errno.h>
#include <stdio.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#define CREATED	 (1u << STATE_CREATED)
#define STARTING (1u << STATE_STARTING)
#define RUNNING	 (1u << STATE_RUNNING)
#define PAUSED	 (1u << STATE_PAUSED)
#define STOPPING (1u << STATE_STOPPING)
#define STOPPED	 (1u << STATE_STOPPED)
#define ERROR	 (1u << STATE_ERROR)
#define ALWAYS	 ((1u << STATE_NR) - 1)

/* In the columns of states: the one that the call found. */
#define SAME STATE_NR

/*
 * All that is legal. A start or a restore that fails undoes itself, so there is a way back; a reset
 * or a stop that fails has destroyed the machine that was there.
 */
static const struct move {
	char name[14];
	uint8_t from;
	uint8_t during, ok, failed; /* enum state_id */
} moves[CALL_NR] = {
	[CALL_CONFIGURE]    = { "configure", CREATED, SAME, SAME, SAME },
	[CALL_START]	    = { "start", CREATED, STATE_STARTING, STATE_RUNNING, SAME },
	[CALL_PAUSE]	    = { "pause", RUNNING, SAME, STATE_PAUSED, SAME },
	[CALL_RESUME]	    = { "resume", PAUSED, SAME, STATE_RUNNING, SAME },
	[CALL_POWER_BUTTON] = { "power button", RUNNING, SAME, SAME, SAME },
	[CALL_STOP]	    = { "stop", RUNNING | PAUSED, STATE_STOPPING, STATE_STOPPED, STATE_ERROR },
	[CALL_END]	    = { "end", CREATED | STARTING | RUNNING | PAUSED | STOPPING | ERROR, STATE_STOPPING,
				STATE_STOPPED, STATE_ERROR },
	[CALL_RESET]	    = { "reset", RUNNING | PAUSED, STATE_STARTING, STATE_RUNNING, STATE_ERROR },
	[CALL_WAIT]	    = { "wait", ALWAYS, SAME, SAME, SAME },
	[CALL_SNAPSHOT]	    = { "snapshot", PAUSED, SAME, SAME, SAME },
	[CALL_RESTORE]	    = { "restore", CREATED, STATE_STARTING, STATE_PAUSED, SAME },
	[CALL_DISK]	    = { "disk", RUNNING | PAUSED, SAME, SAME, SAME },
	[CALL_MEMORY]	    = { "memory", RUNNING | PAUSED, SAME, SAME, SAME },
	[CALL_DIRTY_LOG]    = { "dirty log", RUNNING | PAUSED, SAME, SAME, SAME },
	[CALL_INTERRUPT]    = { "interrupt", RUNNING | PAUSED, SAME, SAME, SAME },
};

static const char names[STATE_NR][9] = {
	[STATE_CREATED] = "created",   [STATE_STARTING] = "starting", [STATE_RUNNING] = "running",
	[STATE_PAUSED] = "paused",     [STATE_STOPPING] = "stopping", [STATE_STOPPED] = "stopped",
	[STATE_ERROR] = "error",
};

const char *state_name(enum state_id id)
{
	return names[id];
}

const char *state_call_name(enum state_call call)
{
	return moves[call].name;
}

void state_init(struct state *state)
{
	pthread_condattr_t attr;

	memset(state, 0, sizeof(*state));
	pthread_mutex_init(&state->lock, NULL);
	/* A step of the wall clock is no time that passed. */
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&state->changed, &attr);
	pthread_condattr_destroy(&attr);
	state->now = STATE_CREATED;
	state->call = CALL_NR;
}

void state_fini(struct state *state)
{
	pthread_cond_destroy(&state->changed);
	pthread_mutex_destroy(&state->lock);
}

enum state_id state_now(struct state *state)
{
	enum state_id now;

	pthread_mutex_lock(&state->lock);
	now = state->now;
	pthread_mutex_unlock(&state->lock);
	return now;
}

/* "expected running", "expected created or stopped", "expected starting, running or paused" */
static void say_expected(char why[STATE_SENTENCE], enum state_call call, enum state_id now)
{
	unsigned int left = moves[call].from;
	bool first = true;
	size_t len;

	len = (size_t)snprintf(why, STATE_SENTENCE, "%s: the machine is %s%s; expected ", moves[call].name,
			       now == STATE_ERROR ? "in " : "", names[now]);
	for (unsigned int i = 0; i < STATE_NR && len < STATE_SENTENCE; i++) {
		if (!(left >> i & 1))
			continue;
		left &= ~(1u << i);
		len += (size_t)snprintf(why + len, STATE_SENTENCE - len, "%s%s",
					first ? "" : left ? ", " : " or ", names[i]);
		first = false;
	}
}

/* state->lock held. */
static int check(const struct state *state, enum state_call call, char why[STATE_SENTENCE])
{
	why[0] = '\0';
	if (!(moves[call].from >> state->now & 1)) {
		say_expected(why, call, state->now);
		return -EINVAL;
	}
	if (state->call != CALL_NR && call != CALL_END && call != CALL_WAIT) {
		snprintf(why, STATE_SENTENCE, "%s: another call is under way: %s", moves[call].name,
			 moves[state->call].name);
		return -EBUSY;
	}
	return 0;
}

int state_check(struct state *state, enum state_call call, char why[STATE_SENTENCE])
{
	int ret;

	pthread_mutex_lock(&state->lock);
	ret = check(state, call, why);
	pthread_mutex_unlock(&state->lock);
	return ret;
}

int state_move(struct state *state, enum state_call call, char why[STATE_SENTENCE])
{
	int ret;

	pthread_mutex_lock(&state->lock);
	ret = check(state, call, why);
	if (!ret && call != CALL_WAIT) {
		state->call = call;
		state->before = state->now;
		if (moves[call].during != SAME)
			state->now = moves[call].during;
		pthread_cond_broadcast(&state->changed);
	}
	pthread_mutex_unlock(&state->lock);
	return ret;
}

void state_settle(struct state *state, enum state_call call, bool ok)
{
	enum state_id to = ok ? moves[call].ok : moves[call].failed;

	pthread_mutex_lock(&state->lock);
	if (state->call == call) {
		state->now = to == SAME ? state->before : to;
		state->call = CALL_NR;
		pthread_cond_broadcast(&state->changed);
	}
	pthread_mutex_unlock(&state->lock);
}

int state_wait(struct state *state, int timeout_ms)
{
	struct timespec end;
	int ret = 0;

	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += timeout_ms / 1000;
	end.tv_nsec += timeout_ms % 1000 * 1000000L;
	if (end.tv_nsec >= 1000000000L) {
		end.tv_nsec -= 1000000000L;
		end.tv_sec++;
	}
	pthread_mutex_lock(&state->lock);
	while (state->now != STATE_STOPPED && state->now != STATE_ERROR && !ret)
		ret = timeout_ms < 0 ? pthread_cond_wait(&state->changed, &state->lock) :
				       pthread_cond_timedwait(&state->changed, &state->lock, &end);
	/* At the last moment is still in time. */
	if (state->now == STATE_STOPPED || state->now == STATE_ERROR)
		ret = 0;
	pthread_mutex_unlock(&state->lock);
	return -ret;
}
