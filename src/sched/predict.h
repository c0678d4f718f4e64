/* predict.h - time of a step from the instruction lists and the rates of a cluster: operators by their cost
 * (a table of operators, else the slower of FLOPs and bytes, plus one call), transfers by bytes and messages. */
#pragma once
#include "plan/cluster.h"
#include "sched/sched.h"
void sched_predict(const struct program *p, const struct cluster *c, struct plan_cost *out);
struct stage_times {
    struct plan_cost cost; /* as if all stages were equal */
    double forward_us[PLAN_CHUNKS],
        backward_us[PLAN_CHUNKS]; /* of its parts, for a micro-batch; without a pipeline forward has all */
    int lodgers_hidden; /* so many values may lodge (offload.h) without that anybody waits for copies */
};
void sched_predict_stage(const struct program *p, const struct cluster *c, struct stage_times *t);
/* Of the stage whose step is the longest, with what it waits by the schedule of all; [stages]. */
void sched_predict_pipeline(const struct plan *p, const struct stage_times *stage, const struct cluster *c,
                            struct plan_cost *out);
/* Without the bubble, which depends on all stages. */
double sched_works_us(const struct plan_cost *cost);
/* What one call of an operator costs (op.h: cost); both: forward and backward. A kernel `again` passes over the outputs alone. */
void sched_cost(const struct graph *g, const struct instr *in, double *flops, double *bytes);
/* Of the rows that a call has room for, those that it has when routing is even; may be more than 1, in several rounds. */
double sched_rows_part(const struct program *p, const struct instr *in);
/* The call of an operator as tables of rates know it (plan/rates.h). */
void sched_call(const struct instr *in, struct rates_call *out);
/* Microseconds of an instruction, on this rank. */
double sched_instr_us(const struct program *p, const struct instr *in, const struct cluster *c);
/* Is it not run with plan.keep_rows, as one turn of the loop over rounds is enough? */
bool sched_may_be_left(const struct program *p, const struct instr *in, const struct cluster *c);
enum cost_class sched_cost_class(const struct instr *in, enum list_kind which);
