/* comm.h - ranks and collectives. Started by mpirun, srun or alone; alone, nothing of MPI is touched. Counts
 * are elements. All calls are collective over their group and never return an error: a failure of MPI or NCCL, or a rank
 * that does not come (comm_timeout), stops every rank.
 *   small things of the host  comm_barrier ... comm_max: always MPI, over all ranks
 *   bulk                      comm_gather_in_place, comm_gather_ranges, comm_exchange: where comm_use() said that
 *                             buffers lie. On the host they block until buffers may be reused; on a device they are
 *                             ordered with the kernels of its stream: by NCCL, or by MPI with staging on the host.
 *                             Between ranks of one machine also by copies from each other's memory (comm_share)
 *   from one rank to another  comm_post, comm_fetch: by MPI, from and to where buffers lie
 *                             comm_send, comm_receive: on the device, by the same means as bulk */
#pragma once
#include "base/arena.h"
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>
struct device;
struct comm_group;                                           /* NULL stands for this rank alone */
enum comm_way { COMM_AUTO, COMM_PEER, COMM_NCCL, COMM_MPI }; /* the words of --comm */
enum { COMM_DEVICE_BYTES = 1 << 30 };                        /* kept free on a device for NCCL: an estimate */
enum {
    COMM_PAIR_BLOCKS = 4, /* multiprocessors that a message takes by NCCL, also while it waits */
    COMM_PAIR_DEVICE_BYTES =
        160 << 20 /* of a comm_pair() of NCCL, beside those: an estimate, 40 MB for each block */
};
/* Once, before threads; installs the stop hook of err.h, and watches from now on that no rank goes away. false, on every rank, where the launcher's variables contradict each other or MPI. */
bool comm_start(struct err *e);
void comm_stop(void);
/* From now on, a rank that waits longer for others, or for its device behind them, stops all ranks with one line: where it
 * is, and who of its machine has not come. 0 = for ever, as it is until this is called. A process of this machine that goes
 * away is told at once, always. */
void comm_timeout(double seconds);
int comm_rank(void);
int comm_ranks(void);
int comm_local_ranks(void);     /* on this machine */
int comm_local_rank(void);      /* 0 .. comm_local_ranks() - 1 */
const char *comm_name(void);    /* of what connects the ranks of this run */
const char *comm_library(void); /* that this program is linked with */
/* Bulk data lies on `d` from now on. Before comm_split(), by all ranks; all get the same answer. COMM_AUTO: where every
 * rank has a GPU of its own, copies from the memory of peers between ranks of one machine, and NCCL between machines, or
 * for all where peers cannot be reached; MPI where there is no library, or ranks share a GPU. COMM_PEER: the copies, or
 * an error, also on the CPU. */
bool comm_use(const struct device *d, enum comm_way way, struct err *e);
bool comm_on_device(void); /* NCCL moves bulk data */
bool comm_by_peers(void);  /* ranks of a machine fetch bulk data from each other's memory */
/* Where comm_by_peers(), bulk calls between ranks of a machine want memory that is shared: what the device's allocate gave,
 * by all ranks in the same order. Else nothing happens. */
void comm_share(void *memory, size_t bytes);
void comm_unshare(void *memory); /* before it is released */
int comm_sharers(void);          /* most ranks that share one GPU; 1 on the CPU */
/* Bulk calls take at most so many multiprocessors of a device; before the first comm_split(). 0 = as many as they like. */
void comm_limit(int multiprocessors);
/* Host memory for staging, twice: no call moves more bytes at once. Nothing is taken where none is needed. */
void comm_reserve(size_t bytes);
/* What messages about failures name, until the next call. Not copied. */
void comm_doing(const char *what);
void comm_doing_instruction(const char *what, const char *list,
                            int index); /* `index` of a list of instructions */
/* Ranks with the same color, ordered by rank. NULL when it would hold this rank only. Every kind of bulk call is made
 * once, so that all memory and connections are there. Groups of the same ranks share their communicator. */
struct comm_group *comm_split(struct arena *a, const char *name, int color);
void comm_barrier(void);
void comm_broadcast(int from, void *data, size_t bytes);
bool comm_agree(uint64_t hash); /* the same on all ranks? */
/* Element-wise sum over all ranks; exact when at most one rank holds a non-zero value in each place. */
void comm_sum_doubles(double *x, int64_t n);
void comm_sum_integers(int64_t *x, int64_t n);
double comm_max(double x);
/* Member m's part is bytes [m * bytes, (m + 1) * bytes) of `all`; afterwards every member has all parts. */
void comm_gather_in_place(const struct comm_group *g, void *all, size_t bytes);
/* The same with bytes [cut[m], cut[m + 1]). */
void comm_gather_ranges(const struct comm_group *g, void *all, const int64_t *cut);
/* Rows of row_bytes: send_rows[m] rows from row send_at[m] to member m; likewise received. The arrays are the host's;
 * `send` and `recv` do not overlap. */
struct comm_rows {
    int64_t *send_rows, *send_at, *recv_rows, *recv_at; /* by member */
};
void comm_exchange(const struct comm_group *g, const void *send, void *recv, const struct comm_rows *rows,
                   int64_t row_bytes);
/* Between ranks of one machine whose kernels can read each other's memory: comm_look tells the others where this rank's
 * part is, waits, in the order of the lane, until all parts are there, and says where they lie. Behind comm_looked nobody looks any more. */
bool comm_can_look(const struct comm_group *g);
void comm_look(const struct comm_group *g, const void *mine, const void **parts); /* [members] */
void comm_looked(const struct comm_group *g);
/* Messages of up to `bytes` of this rank: `n` of them may be under way before comm_post() waits for the oldest. Host
 * memory, taken here and given back there, where messages under way are waited for. */
struct comm_outbox;
struct comm_outbox *comm_outbox_new(struct arena *a, size_t bytes, int n);
void comm_outbox_free(struct comm_outbox *o);
void comm_outbox_wait(struct comm_outbox *o); /* until all messages under way have been taken */
/* Returns when `from` may be reused. Messages with the same tag between the same ranks arrive in their order. */
void comm_post(struct comm_outbox *o, int to, int tag, const void *from, size_t bytes);
/* Host memory for the largest message that comm_fetch() brings to a device. */
void comm_reserve_message(size_t bytes);
void comm_fetch(int from, int tag, void *to, size_t bytes); /* waits */
/* A way for messages on the device from rank `from` to rank `to`, apart from all other calls, which is used once here.
 * Both make it, and all ranks make theirs in one order. way: tells pairs of the same ranks apart. Where comm_has_pairs(). */
bool comm_has_pairs(void);
struct comm_group *comm_pair(struct arena *a, const char *name, int from, int to, int way);
/* In the lane in use, which waits for the other rank to call too; they arrive in their order. What is sent is shared memory where comm_by_peers(). */
void comm_send(const struct comm_group *pair, const void *from, size_t bytes);
void comm_receive(const struct comm_group *pair, void *to, size_t bytes);
