/* comm_mpi.c - comm.h on MPI; the only file that includes mpi.h. */
#include "base/err.h"
#include "base/hash.h"
#include "device/comm_impl.h"
#include "device/launch.h"
#include "device/watch.h"
#include <limits.h>
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TYPES = 64 };
static struct { /* of comm_group.mpi */
    MPI_Comm comm;
    uint64_t ranks; /* hash of the members */
} groups[MAX_GROUPS];
static int n_groups;
static bool active;
static _Thread_local bool calls_mpi; /* the thread that began */
static int64_t n_sent;               /* messages that nobody has waited for */
static MPI_Comm node;                /* ranks of this machine */
static MPI_Win window = MPI_WIN_NULL;
static int rank, n_ranks = 1, n_local = 1, local_rank;
static struct {
    int64_t bytes;
    MPI_Datatype type;
} types[MAX_TYPES];
static int n_types, counts[4][MAX_RANKS];

static void check(int result, const char *call)
{
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    if (result == MPI_SUCCESS)
        return;
    MPI_Error_string(result, text, &length);
    die("%s: %s: %.*s", comm_what(), call, length, text);
}
#define OK(call) check((call), #call)
/* The same where a rank may wait for others: `members` and `name` are those of the group. */
#define OK_OF(name, members, call)                                                                           \
    do {                                                                                                     \
        watch_enter(#call, name, members);                                                                   \
        const int result_ = (call);                                                                          \
        watch_leave();                                                                                       \
        check(result_, #call);                                                                               \
    } while (0)
#define OK_ALL(call)      OK_OF("all ranks", WATCH_EVERYBODY, call)
#define OK_GROUP(g, call) OK_OF((g)->name, (g)->ranks, call)
#define OK_STAGES(call)   OK_OF("the stages beside this one", 0, call)

static void stop_all(int code)
{
    watch_leaving();
    if (active)
        MPI_Abort(MPI_COMM_WORLD, code);
}

/* Seats of the ranks of this machine in memory that they share. */
static void start_watch(void)
{
    void *base = NULL;
    MPI_Aint bytes;
    int unit;
    if (MPI_Win_allocate_shared((MPI_Aint)watch_bytes(), 1, MPI_INFO_NULL, node, &base, &window) !=
        MPI_SUCCESS)
        die("MPI_Win_allocate_shared: no memory that the ranks of this machine share (is /dev/shm or /tmp "
            "full?)");
    memset(base, 0, watch_bytes());
    OK(MPI_Barrier(node));
    OK(MPI_Win_shared_query(window, 0, &bytes, &unit, &base));
    watch_start(base, n_local, local_rank, rank);
}

/* All ranks end with what the first of them has to say. */
static bool all_agree(struct err *e)
{
    bool ok = launch_agrees(rank, n_ranks, comm_library(), e);
    int first = ok ? n_ranks : rank;
    OK(MPI_Allreduce(MPI_IN_PLACE, &first, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD));
    if (first < n_ranks)
        OK(MPI_Bcast(e, (int)sizeof *e, MPI_BYTE, first, MPI_COMM_WORLD));
    return first == n_ranks;
}

bool comm_start(struct err *e)
{
    if (!launch_by_mpi()) {
        const bool ok = launch_alone(e);
        rank = ok ? 0 : launch_voice();
        return ok;
    }
    int provided;
    OK(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided));
    active = calls_mpi = true;
    OK(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
    OK(MPI_Comm_rank(MPI_COMM_WORLD, &rank));
    OK(MPI_Comm_size(MPI_COMM_WORLD, &n_ranks));
    err_on_rank(rank, n_ranks, stop_all);
    if (!all_agree(e)) {
        rank = n_ranks > 1 ? rank : launch_voice();
        return false;
    }
    if (n_ranks > MAX_RANKS)
        die("%d ranks; at most %d are supported", n_ranks, MAX_RANKS);
    OK(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &node));
    OK(MPI_Comm_set_errhandler(node, MPI_ERRORS_RETURN));
    OK(MPI_Comm_size(node, &n_local));
    OK(MPI_Comm_rank(node, &local_rank));
    if (n_ranks > 1)
        start_watch();
    return true;
}

static void leave_watch(void)
{
    if (window == MPI_WIN_NULL)
        return;
    comm_doing("the end");
    OK_ALL(MPI_Barrier(MPI_COMM_WORLD));
    watch_leaving();
    watch_stop();
    MPI_Win_free(&window);
}

void comm_stop(void)
{
    if (!active)
        return;
    comm_leave_groups();
    leave_watch();
    for (int i = 0; i < n_types; i++)
        MPI_Type_free(&types[i].type);
    MPI_Finalize();
    active = false;
}

int comm_rank(void)
{
    return rank;
}

int comm_ranks(void)
{
    return n_ranks;
}

int comm_local_ranks(void)
{
    return n_local;
}

int comm_local_rank(void)
{
    return local_rank;
}

const char *comm_library(void)
{
    static char text[MPI_MAX_LIBRARY_VERSION_STRING];
    int length = 0;
    MPI_Get_library_version(text, &length); /* allowed before MPI_Init */
    text[strcspn(text, ",\n")] = 0;
    return text;
}

bool mpi_active(void)
{
    return active;
}

int mpi_split(int color, int *n, int *index, uint64_t *ranks)
{
    static int members[MAX_RANKS];
    MPI_Comm comm;
    OK_ALL(MPI_Comm_split(MPI_COMM_WORLD, color, rank, &comm));
    OK(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN));
    OK(MPI_Comm_size(comm, n));
    OK(MPI_Comm_rank(comm, index));
    OK_ALL(MPI_Allgather(&rank, 1, MPI_INT, members, 1, MPI_INT, comm));
    *ranks = hash_bytes(members, (size_t)*n * sizeof *members);
    int found = *n > 1 ? 0 : -1;
    while (found >= 0 && found < n_groups && groups[found].ranks != *ranks)
        found++;
    if (found < 0 || found < n_groups) {
        OK(MPI_Comm_free(&comm));
        return found;
    }
    CHECK(n_groups < MAX_GROUPS, "more than %d groups of ranks", MAX_GROUPS);
    groups[n_groups].comm = comm;
    groups[n_groups].ranks = *ranks;
    return n_groups++;
}

void comm_barrier(void)
{
    if (active)
        OK_ALL(MPI_Barrier(MPI_COMM_WORLD));
}

void comm_broadcast(int from, void *data, size_t bytes)
{
    for (size_t at = 0; active && at < bytes; at += 1u << 30) {
        const size_t left = bytes - at;
        OK_ALL(MPI_Bcast((char *)data + at, (int)(left < 1u << 30 ? left : 1u << 30), MPI_BYTE, from,
                         MPI_COMM_WORLD));
    }
}

bool comm_agree(uint64_t hash)
{
    uint64_t low = hash, high = hash;
    if (active) {
        OK_ALL(MPI_Allreduce(MPI_IN_PLACE, &low, 1, MPI_UINT64_T, MPI_MIN, MPI_COMM_WORLD));
        OK_ALL(MPI_Allreduce(MPI_IN_PLACE, &high, 1, MPI_UINT64_T, MPI_MAX, MPI_COMM_WORLD));
    }
    return low == high;
}

void mpi_gather_all(void *all, size_t bytes)
{
    if (active)
        OK_ALL(MPI_Allgather(MPI_IN_PLACE, 0, MPI_BYTE, all, (int)bytes, MPI_BYTE, MPI_COMM_WORLD));
}

void mpi_node_gather(void *all, size_t bytes)
{
    if (active)
        OK_OF("the ranks of this machine", 0,
              MPI_Allgather(MPI_IN_PLACE, 0, MPI_BYTE, all, (int)bytes, MPI_BYTE, node));
}

void mpi_gather(const struct comm_group *g, void *all, size_t bytes)
{
    CHECK(bytes <= INT_MAX, "%zu bytes from each member", bytes);
    OK_GROUP(g, MPI_Allgather(MPI_IN_PLACE, 0, MPI_BYTE, all, (int)bytes, MPI_BYTE, groups[g->mpi].comm));
}

void comm_sum_doubles(double *x, int64_t n)
{
    CHECK(n <= INT_MAX, "%lld doubles", (long long)n);
    if (active)
        OK_ALL(MPI_Allreduce(MPI_IN_PLACE, x, (int)n, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD));
}

void comm_sum_integers(int64_t *x, int64_t n)
{
    CHECK(n <= INT_MAX, "%lld integers", (long long)n);
    if (active)
        OK_ALL(MPI_Allreduce(MPI_IN_PLACE, x, (int)n, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD));
}

double comm_max(double x)
{
    if (active)
        OK_ALL(MPI_Allreduce(MPI_IN_PLACE, &x, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD));
    return x;
}

/* One datatype per row width, kept: rows are counted in int, bytes may be more than 2^31. */
static MPI_Datatype row_type(int64_t bytes)
{
    for (int i = 0; i < n_types; i++)
        if (types[i].bytes == bytes)
            return types[i].type;
    CHECK(n_types < MAX_TYPES && bytes <= INT_MAX, "row of %lld bytes", (long long)bytes);
    types[n_types].bytes = bytes;
    OK(MPI_Type_contiguous((int)bytes, MPI_BYTE, &types[n_types].type));
    OK(MPI_Type_commit(&types[n_types].type));
    return types[n_types++].type;
}

static int to_int(int64_t x)
{
    CHECK(x >= 0 && x <= INT_MAX, "%lld rows in one exchange", (long long)x);
    return (int)x;
}

void mpi_exchange(const struct comm_group *g, const void *send, void *recv, const struct comm_rows *r,
                  int64_t row_bytes)
{
    for (int i = 0; i < g->n; i++) {
        counts[0][i] = to_int(r->send_rows[i]);
        counts[1][i] = to_int(r->send_at[i]);
        counts[2][i] = to_int(r->recv_rows[i]);
        counts[3][i] = to_int(r->recv_at[i]);
    }
    const MPI_Datatype t = row_type(row_bytes);
    OK_GROUP(
        g, MPI_Alltoallv(send, counts[0], counts[1], t, recv, counts[2], counts[3], t, groups[g->mpi].comm));
}

void mpi_broadcast(const struct comm_group *g, int from, void *data, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += 1u << 30) {
        const size_t left = bytes - at;
        OK_GROUP(g, MPI_Bcast((char *)data + at, (int)(left < 1u << 30 ? left : 1u << 30), MPI_BYTE, from,
                              groups[g->mpi].comm));
    }
}

/* The largest power of two, up to 1 MiB, that divides all of them. */
static int64_t unit_of(const int64_t *cut, int n)
{
    int64_t unit = 1 << 20;
    for (int m = 0; m <= n; m++)
        while (cut[m] % unit)
            unit /= 2;
    return unit;
}

void mpi_gather_ranges(const struct comm_group *g, void *all, const int64_t *cut)
{
    const int64_t unit = unit_of(cut, g->n);
    const MPI_Datatype t = row_type(unit);
    if (cut[g->n] / unit > INT_MAX) { /* more than MPI counts: boundaries at odd places of many GB */
        for (int m = 0; m < g->n; m++)
            mpi_broadcast(g, m, (char *)all + cut[m], (size_t)(cut[m + 1] - cut[m]));
        return;
    }
    for (int m = 0; m < g->n; m++) {
        counts[0][m] = to_int((cut[m + 1] - cut[m]) / unit);
        counts[1][m] = to_int(cut[m] / unit);
    }
    OK_GROUP(g, MPI_Allgatherv(MPI_IN_PLACE, 0, t, all, counts[0], counts[1], t, groups[g->mpi].comm));
}

void *mpi_requests(struct arena *a, int n)
{
    MPI_Request *r = ARENA_NEW(a, MPI_Request, n);
    for (int i = 0; i < n; i++)
        r[i] = MPI_REQUEST_NULL;
    return r;
}

bool mpi_moves(void)
{
    int arrived;
    if (n_sent == 0 || !calls_mpi)
        return false;
    OK(MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &arrived, MPI_STATUS_IGNORE));
    return true;
}

void mpi_wait(void *requests, int which)
{
    n_sent -= ((MPI_Request *)requests)[which] != MPI_REQUEST_NULL;
    OK_STAGES(MPI_Wait((MPI_Request *)requests + which, MPI_STATUS_IGNORE));
}

void mpi_send(void *requests, int which, int to, int tag, const void *from, size_t bytes)
{
    CHECK(bytes <= INT_MAX, "a message of %zu bytes", bytes);
    OK(MPI_Isend(from, (int)bytes, MPI_BYTE, to, tag, MPI_COMM_WORLD, (MPI_Request *)requests + which));
    n_sent++;
}

void mpi_receive(int from, int tag, void *to, size_t bytes)
{
    CHECK(bytes <= INT_MAX, "a message of %zu bytes", bytes);
    OK_STAGES(MPI_Recv(to, (int)bytes, MPI_BYTE, from, tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE));
}
