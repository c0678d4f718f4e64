/* trace.h - a simulated step as a file of trace events (JSON), as Perfetto and Chrome's about:tracing open it: a process per
 * rank, in it a row each of computing, exchanging and waiting, and the memory alive as a counter. Of a long step the
 * first micro-batches and the last one are shown, between them one bar. */
#pragma once
#include "sched/simulate.h"
struct trace;
/* n_ranks: the first ones, that are written. NULL on error. */
struct trace *trace_open(struct arena *a, const char *path, const struct program *const *program, int n_ranks,
                         struct err *e);
void trace_event(void *context, const struct sim_event *e); /* a sim_observe */
bool trace_publish(struct trace *t, struct err *e);         /* the file is there, or was never */
