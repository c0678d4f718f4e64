/* life.h - inside sched/: when buffers are alive, in moments of the common timeline of all lists; both ends included. */
#pragma once
#include "sched/sched.h"
struct life { /* first -1: never */
    int first, last;
};
struct loop { /* moments of its head and its end; 0: none */
    int begin, end;
};
void life_touch(struct life *l, int at);
/* Calls f for every buffer that an instruction names, with the first and the last moment at which it may run; returns the
 * number of moments. */
typedef void life_touched(void *context, int buffer, int at);
int life_each(struct arena *a, const struct program *p, life_touched *f, void *context);
/* By moment: the loop over rounds that it is in. */
struct loop *life_loops(struct arena *a, const struct program *p);
/* What lives in a loop, and outside of it too, must survive all rounds. Loops stand behind each other: only those in which
 * a life begins or ends matter. */
struct life life_widened(struct life l, const struct loop *loop, int n_moments);
