/* comm_impl.h - inside device/: what comm.c makes bulk calls of. */
#pragma once
#include "device/comm.h"
enum { MAX_RANKS = 4096, MAX_GROUPS = 16, MAX_PAIRS = 4 };
struct comm_group {
    const char *name;
    int n, index; /* members; which of them this rank is */
    int mpi;      /* number of its communicator, the same for groups of the same ranks; -1: a pair has none */
    uint64_t ranks;          /* hash of the members; of a pair: of its way too */
    void *nccl;              /* ncclComm_t; NULL: not used */
    struct peer_group *peer; /* comm_peer.c; NULL: not used */
};
const char *comm_what(void);  /* as comm_doing() said; never NULL */
void comm_leave_groups(void); /* before MPI is left */
void comm_leave_pairs(void);
const struct device *comm_device(void); /* where bulk data lies; NULL: memory of the host */

/* comm_mpi.c: host memory; g is not NULL. */
/* Number of the communicator, -1 for this rank alone. */
int mpi_split(int color, int *n, int *index, uint64_t *ranks);
bool mpi_active(void);
/* Room for n requests; one is under way or done. */
void *mpi_requests(struct arena *a, int n);
void mpi_wait(void *requests, int which);
/* Messages that were sent and not waited for may travel only while somebody calls MPI: to be called again and again where
 * this rank waits for others in another way. false: there are none, or this thread may not. */
bool mpi_moves(void);
void mpi_send(void *requests, int which, int to, int tag, const void *from, size_t bytes);
void mpi_receive(int from, int tag, void *to, size_t bytes);
void mpi_gather_all(void *all, size_t bytes);  /* as mpi_gather, over all ranks */
void mpi_node_gather(void *all, size_t bytes); /* over the ranks of this machine */
void mpi_gather(const struct comm_group *g, void *all, size_t bytes);
void mpi_gather_ranges(const struct comm_group *g, void *all, const int64_t *cut);
void mpi_exchange(const struct comm_group *g, const void *send, void *recv, const struct comm_rows *rows,
                  int64_t row_bytes);
void mpi_broadcast(const struct comm_group *g, int from, void *data, size_t bytes);

/* comm_staged.c: device memory, in the order of the lane in use; waits for its copies. Rows
 * that a member sends to itself are left alone: comm.c copies them. */
void staged_reserve(size_t bytes); /* at least; twice */
void staged_gather(const struct comm_group *g, void *all, const int64_t *cut);
void staged_exchange(const struct comm_group *g, const void *send, void *recv, const struct comm_rows *rows,
                     int64_t row_bytes);
/* Memory that the device copies from and to at its best, instead of `old` (NULL: none). */
char *comm_host_memory(char *old, size_t bytes);

/* comm_nccl.c: device memory, in the order of `stream`. Failures stop all ranks with what, group and call. */
enum { NCCL_ID_BYTES = 128 };
bool nccl_open(struct err *e);        /* finds the library */
const char *nccl_name(void);          /* "NCCL 2.27.3" */
void nccl_limit(int multiprocessors); /* comm_limit(); variables of NCCL win */
void nccl_id(char id[NCCL_ID_BYTES]);
/* blocks: multiprocessors that a call takes at most; 0: what nccl_limit() said. */
void nccl_join(struct comm_group *g, const char id[NCCL_ID_BYTES], int blocks);
void nccl_leave(void *comm);
void nccl_gather(const struct comm_group *g, void *all, size_t bytes, void *stream);
void nccl_gather_ranges(const struct comm_group *g, void *all, const int64_t *cut, void *stream);
void nccl_exchange(const struct comm_group *g, const void *send, void *recv, const struct comm_rows *rows,
                   int64_t row_bytes, void *stream);
/* From member 0 of a pair to member 1. */
void nccl_send(const struct comm_group *pair, const void *from, size_t bytes, void *stream);
void nccl_receive(const struct comm_group *pair, void *to, size_t bytes, void *stream);

/* comm_peer.c: memory that was shared, in the order of the lane in use. Calls that all ranks of the machine make: */
bool peer_open(const struct device *d); /* false: a rank of this machine cannot */
bool peer_share(void *memory, size_t bytes);
void peer_unshare(void *memory); /* waits for the others */
void peer_close(void);
void *peer_room(size_t bytes); /* shared memory for first calls */
/* NULL: not all members are on this machine. */
struct peer_group *peer_join(const struct comm_group *g);
/* Of pair `number` of this rank, whose member `index` it is; the other rank makes the call too. NULL: it is on another machine. */
struct peer_group *peer_join_pair(struct arena *a, int number, int index, int other);
/* From member 0 of a pair to member 1. */
void peer_send(const struct comm_group *pair, const void *from);
void peer_receive(const struct comm_group *pair, void *to, size_t bytes);
void peer_gather(const struct comm_group *g, void *all, size_t bytes);
void peer_gather_ranges(const struct comm_group *g, void *all, const int64_t *cut);
void peer_exchange(const struct comm_group *g, const void *send, void *recv, const struct comm_rows *rows,
                   int64_t row_bytes);
bool peer_can_look(void);
void peer_look(const struct comm_group *g, const void *mine, const void **parts);
void peer_looked(const struct comm_group *g);
