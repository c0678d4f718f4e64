/* offload.h - inside sched/: first moments of AdamW lie in host memory while micro-batches run, and the largest values that
 * backward needs lodge in their room. A step needs moments at its end alone.
 *   UPDATE           behind the update of each parameter its moments leave, beside what follows
 *   first forward    the node that writes a lodger waits until what lay there has left
 *   last backward    behind the step that reads a lodger for the last time, moments come back to its room
 *   UPDATE           waits until all are there
 * Between steps moments lie on the device as ever: who reads or writes them then knows nothing of this. */
#pragma once
#include "sched/lower.h"
/* Which values lodge: of the largest kind, those of the last plan.lodgers nodes. After lower_make_persistent(). */
void offload_choose(struct lower *l);
/* Before forward of a node is emitted, and behind its backward step. */
void offload_enter(struct lower *l, int node);
void offload_leave(struct lower *l, int node);
/* Before the update of the parameters of a flat space, and behind that of each of them. */
void offload_await(struct lower *l, int flat);
void offload_param(struct lower *l, int param);
