/* SPDX-License-Identifier: MIT */
/*
 * The life cycle of a machine: its states, the calls on it, and one table that says which call is
 * legal in which state and where it leads.
 *
 *	created -> starting -> running <-> paused -> stopping -> stopped, and error
 *
 * This is the machine as its user sees it: it outlives a reset, which destroys the struct vm. It
 * moves nothing itself. Who carries a call out asks first (state_move()), which also keeps every
 * other call out, does the work, and says how it went (state_settle()).
 */
#ifndef VM_STATE_H
#define VM_STATE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

enum state_id {
	STATE_CREATED,	/* nothing but its configuration */
	STATE_STARTING, /* being built, at the start, at a reset or from a snapshot */
	STATE_RUNNING,
	STATE_PAUSED,	/* no vCPU is in the guest, no device touches its memory */
	STATE_STOPPING, /* on the ladder, or being taken down */
	STATE_STOPPED,
	STATE_ERROR,	/* a call failed half-way: there is nothing left to go on with */
	STATE_NR,
};

enum state_call {
	CALL_CONFIGURE, /* what can't change once the machine is built */
	CALL_START,
	CALL_PAUSE,
	CALL_RESUME,
	CALL_POWER_BUTTON,
	CALL_STOP,	/* the ladder */
	CALL_END,	/* at once, or because the guest has ended itself */
	CALL_RESET,
	CALL_WAIT,	/* for stopped or error */
	CALL_SNAPSHOT,
	CALL_RESTORE,	/* a snapshot into a machine that has not been built */
	CALL_DISK,	/* another image behind a disk that is there */
	CALL_MEMORY,	/* regions added and removed */
	CALL_DIRTY_LOG,
	CALL_INTERRUPT,
	CALL_NR,
};

/* Room for each of state_check()'s sentences. */
#define STATE_SENTENCE 160

struct state {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	enum state_id now;
	enum state_id before; /* the state that the call under way came from */
	enum state_call call; /* under way; CALL_NR: none */
};

void state_init(struct state *state);
void state_fini(struct state *state);

enum state_id state_now(struct state *state);

/*
 * Whether @call may be made now, without making it. 0; -EINVAL: not in this state; -EBUSY: another
 * call is under way. Then @why has a sentence without a full stop: "pause: the machine is stopped;
 * expected running". Logs nothing. Any thread, as all here.
 */
int state_check(struct state *state, enum state_call call, char why[STATE_SENTENCE]);

/*
 * Begins @call: as state_check(), and the state goes to the one that the call passes through. From
 * here to state_settle() all other calls are refused but CALL_END, which takes the place of what is
 * under way, and CALL_WAIT, which does not begin anything.
 */
int state_move(struct state *state, enum state_call call, char why[STATE_SENTENCE]);

/*
 * Ends @call, which state_move() let through: the state goes to the call's success or, with @ok
 * false, to where its failure leads. Does nothing if CALL_END has taken its place.
 */
void state_settle(struct state *state, enum state_call call, bool ok);

/*
 * Waits until the machine is stopped or in error, @timeout_ms at most (negative: for ever). 0 or
 * -ETIMEDOUT. Not on the thread that moves the machine there.
 */
int state_wait(struct state *state, int timeout_ms);

/* "paused" */
const char *state_name(enum state_id id);
/* "power button" */
const char *state_call_name(enum state_call call);

#endif
