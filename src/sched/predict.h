/* predict.h - time of a step from the instruction lists and the rates of a cluster: operators by their cost
 * (the slower of FLOPs and bytes, plus one call), transfers by bytes and messages. */
#pragma once
#include "plan/cluster.h"
#include "sched/sched.h"
void sched_predict(const struct program *p, const struct cluster *c, struct plan_cost *out);
/* What one call of an operator costs (op.h: cost); both: forward and backward. */
void sched_cost(const struct instr *in, double *flops, double *bytes);
