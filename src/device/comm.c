/* comm.c - bulk calls of comm.h: MPI for memory of the host, NCCL for that of a device, or MPI with staging; copies from the
 * memory of peers for either. */
#include "base/err.h"
#include "device/comm_impl.h"
#include "device/device.h"
#include "device/watch.h"
#include <stdio.h>
#include <string.h>

static const struct device *device; /* NULL: the host's memory is used as it is */
static bool by_nccl, by_peers;
static int sharers = 1;
static const char *doing = "start";
static void *nccl_comms[MAX_GROUPS]; /* by number of the MPI communicator */

const char *comm_what(void)
{
    return doing;
}

void comm_doing(const char *what)
{
    doing = what;
    watch_at(what, NULL, 0);
}

void comm_doing_instruction(const char *what, const char *list, int index)
{
    doing = what;
    watch_at(what, list, index);
}

void comm_timeout(double seconds)
{
    watch_limit(seconds);
}

bool comm_on_device(void)
{
    return by_nccl;
}

bool comm_by_peers(void)
{
    return by_peers;
}

void comm_share(void *memory, size_t bytes)
{
    if (by_peers && !peer_share(memory, bytes))
        die("%s: %zu bytes cannot be shared with the other ranks of this machine", doing, bytes);
}

void comm_unshare(void *memory)
{
    if (by_peers)
        peer_unshare(memory);
}

int comm_sharers(void)
{
    return sharers;
}

const char *comm_name(void)
{
    static char text[256];
    if (!mpi_active())
        return "none (one rank)";
    snprintf(text, sizeof text, "%s%s%s%.160s%s", by_peers ? "copies between peers, " : "",
             by_nccl ? nccl_name() : "", by_nccl ? ", " : "", comm_library(),
             device && !by_nccl && !by_peers ? ", staged on the host" : "");
    return text;
}

/* What a rank tells the others. */
struct answer {
    unsigned char gpu[16];
    int backend, has_library;
};

static int most_sharers(const struct answer *all, int n)
{
    int most = 1;
    for (int i = 0; i < n; i++) {
        int same = 0;
        for (int k = 0; k < n; k++)
            same += memcmp(all[i].gpu, all[k].gpu, sizeof all[i].gpu) == 0;
        most = same > most ? same : most;
    }
    return most;
}

static bool same_backend(const struct answer *all, int n, struct err *e)
{
    static const char *const names[BACKENDS] = { "the CPU", "a CUDA device" };
    for (int i = 1; i < n; i++)
        if (all[i].backend != all[0].backend)
            return err_code(e, EXIT_WORLD, "rank %d computes on %s, rank 0 on %s: --device chooses for all",
                            i, names[all[i].backend], names[all[0].backend]);
    return true;
}

/* Can every rank reach the memory of the others on its machine? */
static bool reach_peers(const struct device *d)
{
    static int able[MAX_RANKS];
    able[comm_rank()] = peer_open(d);
    mpi_gather_all(able, sizeof *able);
    for (int i = 0; i < comm_ranks(); i++)
        if (!able[i])
            return false;
    return true;
}

/* Where every rank has a GPU of its own, unless something else is asked for; on the CPU where it is. */
static bool use_peers(const struct device *d, enum comm_way way, struct err *e)
{
    const bool tries = way == COMM_PEER || (way == COMM_AUTO && d->backend == CUDA && sharers == 1);
    by_peers = tries && comm_ranks() > 1 && reach_peers(d);
    return by_peers || way != COMM_PEER || comm_ranks() == 1 ||
           err_code(
               e, EXIT_WORLD,
               "--comm peer: the ranks of a machine cannot read each other's memory; use another --comm");
}

const struct device *comm_device(void)
{
    return device;
}

/* Copies between peers serve all groups: nothing else is needed. */
static bool only_peers(void)
{
    return by_peers && comm_local_ranks() == comm_ranks();
}

bool comm_has_pairs(void)
{
    return by_nccl || (device && only_peers());
}

bool comm_use(const struct device *d, enum comm_way way, struct err *e)
{
    static struct answer all[MAX_RANKS];
    struct err why = { 0 };
    bool everywhere = true;
    struct answer *mine = &all[comm_rank()];
    by_peers = false;
    mine->backend = (int)d->backend;
    if (d->backend == CUDA) {
        d->identity(mine->gpu);
        mine->has_library = way != COMM_MPI && (way == COMM_NCCL || comm_ranks() > 1) && nccl_open(&why);
    }
    mpi_gather_all(all, sizeof *mine);
    if (!same_backend(all, comm_ranks(), e))
        return false;
    sharers = d->backend == CUDA ? most_sharers(all, comm_ranks()) : 1;
    if (!use_peers(d, way, e))
        return false;
    if (d->meanwhile)
        d->meanwhile(mpi_moves);
    if (d->backend == CPU)
        return way != COMM_NCCL ||
               err_code(e, EXIT_USAGE, "--comm nccl moves data between CUDA devices, this run is on the CPU");
    device = d;
    for (int i = 0; i < comm_ranks(); i++)
        everywhere = everywhere && all[i].has_library;
    if (way == COMM_NCCL && sharers > 1)
        return err_code(e, EXIT_USAGE,
                        "--comm nccl: %d ranks share one GPU, NCCL wants one for each; use --comm mpi or "
                        "fewer ranks",
                        sharers);
    if (way == COMM_NCCL && !everywhere)
        return err_code(e, EXIT_WORLD, "%s", why.code ? why.text : "another rank finds no libnccl.so.2");
    by_nccl = way != COMM_MPI && everywhere && sharers == 1 && comm_ranks() > 1 && !only_peers();
    return true;
}

void comm_limit(int multiprocessors)
{
    if (by_nccl)
        nccl_limit(multiprocessors);
}

void comm_reserve(size_t bytes)
{
    if (device && !by_nccl && !only_peers())
        staged_reserve(bytes);
}

/* Every kind of call once, on memory that is there for this alone. */
static void exercise(const struct comm_group *g)
{
    static int64_t ids[2 * MAX_RANKS], one[MAX_RANKS + 1], at[MAX_RANKS + 1], cut[MAX_RANKS + 1];
    const size_t bytes = sizeof *ids * (size_t)g->n;
    char *room = g->peer ? peer_room(2 * bytes) : device->allocate(2 * bytes);
    for (int m = 0; m <= g->n; m++) {
        at[m] = m;
        cut[m] = m * (int64_t)sizeof *ids;
        ids[m] = 0;
        one[m] = 1;
    }
    ids[g->index] = 1 + g->index;
    device->put(room, ids, bytes);
    comm_gather_in_place(g, room, sizeof *ids);
    comm_gather_ranges(g, room, cut);
    const struct comm_rows all_to_all = { one, at, one, at };
    comm_exchange(g, room, room + bytes, &all_to_all, sizeof *ids);
    device->get(ids, room, 2 * bytes);
    for (int m = 0; m < g->n; m++)
        CHECK(ids[m] == 1 + m && ids[g->n + m] == 1 + g->index,
              "group \"%s\": from member %d came %lld, %lld", g->name, m, (long long)ids[m],
              (long long)ids[g->n + m]);
    if (!g->peer)
        device->release(room);
}

struct comm_group *comm_split(struct arena *a, const char *name, int color)
{
    struct comm_group g = { .name = name };
    char id[NCCL_ID_BYTES] = { 0 };
    g.mpi = mpi_active() ? mpi_split(color, &g.n, &g.index, &g.ranks) : -1;
    if (g.mpi < 0)
        return NULL;
    comm_doing("start: the first use of a group");
    watch_group(g.ranks);
    struct comm_group *made = ARENA_NEW(a, struct comm_group, 1);
    g.peer = by_peers ? peer_join(&g) : NULL;
    if (by_nccl && !g.peer && !nccl_comms[g.mpi]) {
        if (g.index == 0)
            nccl_id(id);
        mpi_broadcast(&g, 0, id, sizeof id);
        nccl_join(&g, id, 0);
        nccl_comms[g.mpi] = g.nccl;
    }
    g.nccl = nccl_comms[g.mpi];
    *made = g;
    comm_reserve(2 * MAX_RANKS * sizeof(int64_t));
    if (device)
        exercise(made);
    return made;
}

/* Before MPI is left. */
void comm_leave_groups(void)
{
    for (int i = 0; i < MAX_GROUPS; i++)
        if (nccl_comms[i])
            nccl_leave(nccl_comms[i]);
    comm_leave_pairs();
    memset(nccl_comms, 0, sizeof nccl_comms);
    peer_close();
}

void comm_gather_in_place(const struct comm_group *g, void *all, size_t bytes)
{
    if (!g)
        return;
    if (g->peer) {
        peer_gather(g, all, bytes);
        return;
    }
    if (by_nccl) {
        nccl_gather(g, all, bytes, device->stream());
        return;
    }
    if (!device) {
        mpi_gather(g, all, bytes);
        return;
    }
    static int64_t cut[MAX_RANKS + 1];
    for (int m = 0; m < g->n; m++)
        cut[m + 1] = cut[m] + (int64_t)bytes;
    staged_gather(g, all, cut);
}

void comm_gather_ranges(const struct comm_group *g, void *all, const int64_t *cut)
{
    if (!g)
        return;
    if (g->peer) {
        peer_gather_ranges(g, all, cut);
        return;
    }
    if (by_nccl) {
        nccl_gather_ranges(g, all, cut, device->stream());
        return;
    }
    if (!device) {
        mpi_gather_ranges(g, all, cut);
        return;
    }
    staged_gather(g, all, cut);
}

/* A member's own rows, which are as many on both sides. */
static void copy_own(const char *send, char *recv, const struct comm_rows *r, int own, int64_t row_bytes)
{
    char *const to = recv + r->recv_at[own] * row_bytes;
    const char *const from = send + r->send_at[own] * row_bytes;
    const size_t bytes = (size_t)(r->send_rows[own] * row_bytes);
    if (device)
        device->copy(to, from, bytes);
    else
        memcpy(to, from, bytes);
}

void comm_exchange(const struct comm_group *g, const void *send, void *recv, const struct comm_rows *r,
                   int64_t row_bytes)
{
    if (g && g->peer) {
        peer_exchange(g, send, recv, r, row_bytes);
    } else if (g && by_nccl) {
        nccl_exchange(g, send, recv, r, row_bytes, device->stream());
    } else if (g && device) {
        copy_own(send, recv, r, g->index, row_bytes);
        staged_exchange(g, send, recv, r, row_bytes);
    } else if (g) {
        mpi_exchange(g, send, recv, r, row_bytes);
    } else {
        copy_own(send, recv, r, 0, row_bytes);
    }
}

bool comm_can_look(const struct comm_group *g)
{
    return g && g->peer && peer_can_look();
}

void comm_look(const struct comm_group *g, const void *mine, const void **parts)
{
    peer_look(g, mine, parts);
}

void comm_looked(const struct comm_group *g)
{
    peer_looked(g);
}

static char *incoming;
static size_t incoming_bytes;

void comm_reserve_message(size_t bytes)
{
    if (!device || bytes <= incoming_bytes)
        return;
    incoming = comm_host_memory(incoming, bytes);
    incoming_bytes = bytes;
}

struct comm_outbox {
    size_t bytes;
    int n, next; /* messages; where the next one stands, behind which lies the oldest */
    char *memory;
    void *requests;
};

struct comm_outbox *comm_outbox_new(struct arena *a, size_t bytes, int n)
{
    struct comm_outbox *o = ARENA_NEW(a, struct comm_outbox, 1);
    char *const memory =
        device ? comm_host_memory(NULL, bytes * (size_t)n) : ARENA_NEW(a, char, (int64_t)bytes *n);
    *o = (struct comm_outbox){ bytes, n, 0, memory, mpi_requests(a, n) };
    return o;
}

void comm_outbox_wait(struct comm_outbox *o)
{
    for (int i = 0; i < o->n && mpi_active(); i++)
        mpi_wait(o->requests, i);
}

void comm_outbox_free(struct comm_outbox *o)
{
    comm_outbox_wait(o);
    if (device)
        device->host_release(o->memory);
}

void comm_post(struct comm_outbox *o, int to, int tag, const void *from, size_t bytes)
{
    char *const here = o->memory + (size_t)o->next * o->bytes;
    CHECK(bytes <= o->bytes, "%s: a message of %zu bytes, room for %zu", doing, bytes, o->bytes);
    mpi_wait(o->requests, o->next);
    if (device)
        device->get(here, from, bytes);
    else
        memcpy(here, from, bytes);
    mpi_send(o->requests, o->next, to, tag, here, bytes);
    o->next = (o->next + 1) % o->n;
}

void comm_fetch(int from, int tag, void *to, size_t bytes)
{
    if (!device) {
        mpi_receive(from, tag, to, bytes);
        return;
    }
    CHECK(bytes <= incoming_bytes, "%s: a message of %zu bytes, room for %zu", doing, bytes, incoming_bytes);
    mpi_receive(from, tag, incoming, bytes);
    device->put(to, incoming, bytes);
}
