/* stretch.h - runs of instructions that launch kernels and nothing else. On a device that can, each is recorded when it
 * runs for the second time (the first made plans, chose algorithms and loaded code) and replayed from then on: one
 * launch instead of hundreds, with the same kernels and so the same bits. */
#pragma once
#include "run/exec.h"
struct stretch { /* instructions [from, to) of a list, inside a section */
    int from, to;
    int64_t slot;    /* of what it works on */
    bool first;      /* as it runs where some of its sums begin (instr_add); another one is for the rest */
    bool ran, fails; /* fails: it cannot be recorded */
    void *record;    /* NULL: not yet */
};
/* Finds them; must: where recording one fails, the program ends (else it says so and launches that one's one by one). */
void stretch_new(struct arena *a, struct exec *x, bool must);
void stretch_free(struct exec *x);
/* Runs the stretch that begins at instruction `from` and returns its end; `from` where there is none. first: see instr_add. */
int stretch_run(struct exec *x, enum list_kind which, int from, bool first);
