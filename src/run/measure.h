/* measure.h - what this machine reaches: every distinct operator call of a model's training step, by itself, on all ranks at
 * once, so that what they share (cores, memory, power) is shared as in training. */
#pragma once
#include "run/step.h"
enum { MEASURE_MOST = 1024 }; /* distinct calls */
struct measured {             /* a distinct call */
    enum list_kind list;
    const struct instr *first;
    int64_t calls; /* of it in the lists */
    /* Of one: median and least of several batches; on the CPU both are the mean in the quicker half of several steps, on this rank. */
    double seconds, least_seconds;
    double flops, cost_bytes; /* of the record */
    double bytes;             /* least memory traffic */
};
struct dense_product { /* square */
    const struct device *device;
    struct call c;
    double seconds; /* of one, about; 0: not known */
};
struct measure {
    struct setup setup;
    struct plan plan; /* of one rank; then of a layout */
    struct engine engine;
    struct batches batches;
    struct stepper stepper;
    struct dense_product product;
    double flops_per_s, bytes_per_s; /* reached by a rank: the product, a copy (read and written bytes) */
    int slowest; /* the rank whose calls took longest, all computing at once: the others wait for it, so its times count */
    int n;
    struct measured call[MEASURE_MOST];
};
/* By all ranks together, each with a model of its own, of as few layers as have every kind or as many as config.layers. */
bool measure_calls(struct measure *m, struct arena *a, const struct config *c, struct err *e);
/* The call that is the same, a new one where there is none. */
struct measured *measure_find(struct measure *m, enum list_kind list, const struct instr *in);
/* Behind it, on the CPU: the calls of those layouts that split experts or tensors over some or all of the ranks, where their
 * sizes are others. Links inside a machine (links.h) get what a message waits for the other ranks besides, seen where tensors are
 * split over all of them: ranks that compute do not come to an exchange at once. */
void measure_layouts(struct measure *m, struct arena *a, const struct config *c, struct cluster *links);
