/* launch.h - inside device/: what the environment says about the ranks of this run, and whether it can be true. Launchers
 * of MPI are known by their variables; those of torchrun start processes that MPI cannot join (doc/adr/0008). Errors are
 * one line with EXIT_USAGE. */
#pragma once
#include "base/err.h"
/* An MPI launcher started this process. Without one MPI is not started: a single rank needs none. */
bool launch_by_mpi(void);
/* Without MPI: true where this process is the only rank that anybody started. */
bool launch_alone(struct err *e);
/* With MPI, `library`, that says "rank of n_ranks". */
bool launch_agrees(int rank, int n_ranks, const char *library, struct err *e);
/* Of the processes on this machine, the one that speaks where MPI does not know the others; 0 = this one. */
int launch_voice(void);
