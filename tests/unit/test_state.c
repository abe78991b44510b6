/* SPDX-License-Identifier: MIT */
#include "tests/unit/test.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>
#include "vm/state.h"

#define X STATE_NR /* refused */

/*
 * What design says, written a second time: for each call and each state where the call passes
 * through, where it ends well, and where badly.
 */
static const struct {
	const char *name;
	struct {
		enum state_id during, ok, failed;
	} in[STATE_NR];
} wanted[CALL_NR] = {
#define NO   { X, X, X }
#define STAY(s) { s, s, s }
#define CR STATE_CREATED
#define ST STATE_STARTING
#define RU STATE_RUNNING
#define PA STATE_PAUSED
#define SG STATE_STOPPING
#define SD STATE_STOPPED
#define ER STATE_ERROR
	/*			created		starting     running	     paused	  stopping     stopped	    error */
	[CALL_CONFIGURE] = { "configure", { STAY(CR), NO, NO, NO, NO, NO, NO } },
	[CALL_START] = { "start", { { ST, RU, CR }, NO, NO, NO, NO, NO, NO } },
	[CALL_PAUSE] = { "pause", { NO, NO, { RU, PA, RU }, NO, NO, NO, NO } },
	[CALL_RESUME] = { "resume", { NO, NO, NO, { PA, RU, PA }, NO, NO, NO } },
	[CALL_POWER_BUTTON] = { "power button", { NO, NO, STAY(RU), NO, NO, NO, NO } },
	[CALL_STOP] = { "stop", { NO, NO, { SG, SD, ER }, { SG, SD, ER }, NO, NO, NO } },
	[CALL_END] = { "end", { { SG, SD, ER }, { SG, SD, ER }, { SG, SD, ER }, { SG, SD, ER }, { SG, SD, ER }, NO, { SG, SD, ER } } },
	[CALL_RESET] = { "reset", { NO, NO, { ST, RU, ER }, { ST, RU, ER }, NO, NO, NO } },
	[CALL_WAIT] = { "wait", { STAY(CR), STAY(ST), STAY(RU), STAY(PA), STAY(SG), STAY(SD), STAY(ER) } },
	[CALL_SNAPSHOT] = { "snapshot", { NO, NO, NO, STAY(PA), NO, NO, NO } },
	[CALL_RESTORE] = { "restore", { { ST, PA, CR }, NO, NO, NO, NO, NO, NO } },
	[CALL_DISK] = { "disk", { NO, NO, STAY(RU), STAY(PA), NO, NO, NO } },
	[CALL_MEMORY] = { "memory", { NO, NO, STAY(RU), STAY(PA), NO, NO, NO } },
	[CALL_DIRTY_LOG] = { "dirty log", { NO, NO, STAY(RU), STAY(PA), NO, NO, NO } },
	[CALL_INTERRUPT] = { "interrupt", { NO, NO, STAY(RU), STAY(PA), NO, NO, NO } },
};

static char why[STATE_SENTENCE];

/* A machine that stands in @id with nothing under way. */
static void put(struct state *s, enum state_id id)
{
	state_init(s);
	s->now = id;
}

static void every_call_in_every_state(void)
{
	for (unsigned int c = 0; c < CALL_NR; c++) {
		for (unsigned int i = 0; i < STATE_NR; i++) {
			bool legal = wanted[c].in[i].during != X;

			for (int ok = 0; ok < 2; ok++) {
				struct state s;

				put(&s, i);
				strcpy(why, "old");
				CHECK_EQ(state_check(&s, c, why), legal ? 0 : -EINVAL);
				CHECK_EQ(!why[0], legal);
				CHECK_EQ(state_now(&s), i);
				CHECK_EQ(state_move(&s, c, why), legal ? 0 : -EINVAL);
				CHECK_EQ(state_now(&s), legal ? wanted[c].in[i].during : i);
				if (legal) {
					state_settle(&s, c, ok);
					CHECK_EQ(state_now(&s), ok ? wanted[c].in[i].ok : wanted[c].in[i].failed);
				} else {
					char begin[64];

					snprintf(begin, sizeof(begin), "%s: the machine is %s%s; expected ",
						 wanted[c].name, i == STATE_ERROR ? "in " : "", state_name(i));
					CHECK(!strncmp(why, begin, strlen(begin)));
					CHECK(strlen(why) > strlen(begin));
				}
				CHECK_EQ(s.call, CALL_NR);
				state_fini(&s);
			}
		}
	}
}

static void sentences(void)
{
	struct state s;

	put(&s, STATE_STOPPED);
	CHECK_EQ(state_check(&s, CALL_PAUSE, why), -EINVAL);
	CHECK_STR(why, "pause: the machine is stopped; expected running");
	CHECK_EQ(state_check(&s, CALL_STOP, why), -EINVAL);
	CHECK_STR(why, "stop: the machine is stopped; expected running or paused");
	CHECK_EQ(state_check(&s, CALL_END, why), -EINVAL);
	CHECK_STR(why, "end: the machine is stopped; expected created, starting, running, paused, stopping or error");
	put(&s, STATE_ERROR);
	CHECK_EQ(state_check(&s, CALL_START, why), -EINVAL);
	CHECK_STR(why, "start: the machine is in error; expected created");
	CHECK_STR(state_call_name(CALL_POWER_BUTTON), "power button");
	state_fini(&s);
}

/* While one call is under way no other begins, but an end, which takes its place. */
static void one_at_a_time(void)
{
	for (unsigned int first = 0; first < CALL_NR; first++) {
		for (unsigned int second = 0; second < CALL_NR; second++) {
			struct state s;
			enum state_id i = 0;
			int ret;

			if (first == CALL_WAIT)
				continue;
			while (wanted[first].in[i].during == X)
				i++;
			put(&s, i);
			CHECK_EQ(state_move(&s, first, why), 0);
			i = state_now(&s);
			ret = state_move(&s, second, why);
			if (wanted[second].in[i].during == X) {
				CHECK_EQ(ret, -EINVAL);
			} else if (second == CALL_END) {
				CHECK_EQ(ret, 0);
				CHECK_EQ(state_now(&s), STATE_STOPPING);
				/* What it took the place of comes to its own end: not heard. */
				if (first != CALL_END) {
					state_settle(&s, first, true);
					CHECK_EQ(state_now(&s), STATE_STOPPING);
				}
				state_settle(&s, CALL_END, true);
				CHECK_EQ(state_now(&s), STATE_STOPPED);
			} else {
				CHECK_EQ(ret, second == CALL_WAIT ? 0 : -EBUSY);
				CHECK_EQ(state_now(&s), i);
				CHECK(second == CALL_WAIT || strstr(why, "under way"));
			}
			state_fini(&s);
		}
	}
}

static void *waiter(void *opaque)
{
	return (void *)(intptr_t)state_wait(opaque, 20000);
}

static void waiting(void)
{
	struct state s;
	pthread_t thread[3];
	void *ret;

	put(&s, STATE_RUNNING);
	CHECK_EQ(state_wait(&s, 20), -ETIMEDOUT);
	for (unsigned int i = 0; i < 3; i++)
		pthread_create(&thread[i], NULL, waiter, &s);
	CHECK_EQ(state_move(&s, CALL_STOP, why), 0);
	CHECK_EQ(state_wait(&s, 1), -ETIMEDOUT);
	state_settle(&s, CALL_STOP, true);
	for (unsigned int i = 0; i < 3; i++) {
		pthread_join(thread[i], &ret);
		CHECK_EQ((intptr_t)ret, 0);
	}
	CHECK_EQ(state_wait(&s, -1), 0);
	state_fini(&s);
}

static struct state shared;
static atomic_int inside, collisions, done;

static void *hammer(void *opaque)
{
	char words[STATE_SENTENCE];

	for (int i = 0; i < 20000; i++) {
		enum state_call call = i & 1 ? CALL_PAUSE : CALL_RESUME;

		if (state_move(&shared, call, words))
			continue;
		if (atomic_fetch_add(&inside, 1))
			collisions++;
		atomic_fetch_sub(&inside, 1);
		state_settle(&shared, call, i % 7);
		done++;
	}
	return NULL;
}

static void many_threads(void)
{
	pthread_t thread[4];

	put(&shared, STATE_RUNNING);
	for (unsigned int i = 0; i < 4; i++)
		pthread_create(&thread[i], NULL, hammer, NULL);
	for (unsigned int i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	CHECK_EQ(collisions, 0);
	CHECK(done > 0);
	CHECK(state_now(&shared) == STATE_RUNNING || state_now(&shared) == STATE_PAUSED);
	CHECK_EQ(shared.call, CALL_NR);
	state_fini(&shared);
}

int main(void)
{
	RUN(every_call_in_every_state);
	RUN(sentences);
	RUN(one_at_a_time);
	RUN(waiting);
	RUN(many_threads);
	return TEST_RESULT();
}
