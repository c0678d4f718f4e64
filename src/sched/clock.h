/* clock.h - the two lanes of a rank (lanes.h) in time: when an instruction can begin, and what compute waits for. Times are
 * microseconds; arrays are by instruction of the list that is being run. */
#pragma once
#include "sched/sched.h"
struct clock {
    bool one_lane; /* of the device: what is beside takes its turn */
    const struct instr *item;
    double compute_us, side_us;          /* how far the lanes are */
    double *come_us, *begin_us, *end_us; /* of what is beside: ready; all of its group there; over */
    int shown;                           /* what is beside below this index has been waited for */
    /* Compute waited for instruction `index` beside: for its group to come, or for it to end. */
    void (*waited)(void *context, int index, bool for_group, double us);
    void *context;
};
/* Of a program; room for its lists. */
void clock_new(struct arena *a, const struct program *p, struct clock *c);
bool clock_beside(const struct clock *c, int i); /* does instruction i run beside compute? */
/* A section of `list` begins with instruction `from`; both lanes are together. */
void clock_section(struct clock *c, const struct list *list, int from);
/* When instruction i can begin, as far as this rank is concerned; compute waits for what it needs. */
double clock_come(struct clock *c, int i);
void clock_run(struct clock *c, int i, double begin_us, double us); /* it does, for so long */
void clock_join(struct clock *c, int to);                           /* the section ends in front of `to` */
