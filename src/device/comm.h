/* comm.h - ranks and collectives. Started by mpirun, srun or alone; alone, nothing of MPI is touched. Counts
 * are elements. All calls are collective over their group, block until their buffers may be reused, and
 * never return an error: MPI failures stop every rank. */
#pragma once
#include "base/arena.h"
#include <stdbool.h>
#include <stdint.h>
struct comm_group;     /* NULL stands for this rank alone */
void comm_start(void); /* once, before threads; installs the stop hook of err.h */
void comm_stop(void);
int comm_rank(void);
int comm_ranks(void);
int comm_local_ranks(void);     /* on this machine */
int comm_local_rank(void);      /* 0 .. comm_local_ranks() - 1 */
const char *comm_name(void);    /* of what connects the ranks of this run */
const char *comm_library(void); /* that this program is linked with */
/* Ranks with the same color, ordered by rank. NULL when it would hold this rank only. Exercised once. */
struct comm_group *comm_split(struct arena *a, int color);
void comm_barrier(void);
void comm_broadcast(void *data, size_t bytes); /* from rank 0 */
bool comm_agree(uint64_t hash);                /* the same on all ranks? */
/* Member m's part is bytes [m * bytes, (m + 1) * bytes) of `all`; afterwards every member has all parts. */
void comm_gather_in_place(const struct comm_group *g, void *all, size_t bytes);
/* Element-wise sum over all ranks; exact when at most one rank holds a non-zero value in each place. */
void comm_sum_doubles(double *x, int64_t n);
void comm_sum_integers(int64_t *x, int64_t n);
double comm_max(double x);
/* Rows of row_bytes: send_rows[m] rows from row send_at[m] to member m; likewise received. Host memory. */
struct comm_rows {
    int64_t *send_rows, *send_at, *recv_rows, *recv_at; /* by member */
};
void comm_exchange(const struct comm_group *g, const void *send, void *recv, const struct comm_rows *rows,
                   int64_t row_bytes);
/* From member `from` to all, in its group. */
void comm_send_to_all(const struct comm_group *g, int from, void *data, size_t bytes);
