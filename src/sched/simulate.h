/* simulate.h - the null device: runs the instruction lists of all ranks on a clock instead of a machine. A rank works
 * through its lists as exec does, micro-batch by micro-batch (in a pipeline: sections in the order of pipeline.h; sums of
 * shards where one ends), then the update. An instruction of its own takes its predicted
 * time; one of a group (sched.h) begins when the last member has come to it and ends for all at once. A message is
 * there when it was sent; who waits for it pays for the way. Ranks or messages that never come are a deadlock. Loops over rounds run once: routing is taken to be even. */
#pragma once
#include "sched/predict.h"
struct sim_event {
    int rank;
    enum list_kind list;
    int64_t micro; /* of LIST_MICRO */
    int index;     /* of the instruction in its list */
    double begin_us, end_us;
    bool waiting; /* for the others of its group; what is beside (lanes.h) may wait while compute goes on */
};
typedef void sim_observe(void *context, const struct sim_event *e);
struct sim_rank {
    double class_us[COST_CLASSES],
        wait_us;    /* all of it is the step: of communication beside, what compute waits */
    double side_us; /* what communication beside takes in all */
    double end_us;
};
struct simulation {
    const struct program *const *program; /* by rank of the plan; ranks may share one */
    const struct cluster *cluster;
    sim_observe *observe; /* NULL = nobody looks; events of a lane of a rank come in the order of time */
    void *context;
    double step_us; /* result: of the last rank */
    struct sim_rank *rank;
};
/* false: the ranks cannot end a step; err names ranks and instructions. */
bool sched_simulate(struct arena *a, struct simulation *s, struct err *e);
/* Bytes alive at each moment of the lists: [i] = at instruction i, counted through all lists in their order. Buffers
 * that live throughout count always; what the slab has beside them are gaps. */
int64_t *sched_live_bytes(struct arena *a, const struct program *p);
